//! What a run does with each component: how often, with how many tokens, and what that takes.

use overflowml_types::{
    Bytes, ComponentProfile, GroupKind, GroupProfile, ModelProfile, Role, Shape, Task,
};

use super::cost::Part;
use super::estimate::{CHUNK, activations, denoiser_tokens};
use super::{Precision, Wish};

/// A component at a precision, and its part of a run.
#[derive(Clone, Debug)]
pub(crate) struct Stage {
    pub(crate) component: String,
    pub(crate) role: Role,
    /// What every pass uses.
    pub(crate) dense: Bytes,
    /// Routed experts.
    pub(crate) experts: Bytes,
    /// The most that must be in a slot at once.
    pub(crate) largest: Bytes,
    /// Its groups, in order of use, which stream one by one.
    pub(crate) pieces: Vec<Part>,
    /// KV cache, activations and adapters.
    pub(crate) working: Bytes,
    /// What a pass reads of the KV cache.
    pub(crate) cache: Bytes,
    pub(crate) uses: Vec<Use>,
}

/// Passes of one kind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Use {
    pub(crate) what: &'static str,
    pub(crate) passes: u64,
    /// Floating-point operations of one pass.
    pub(crate) flops: f64,
    /// The share of the experts' bytes that a pass uses, as expected if routing is even.
    pub(crate) experts: f64,
    /// Whether it reads the KV cache.
    pub(crate) cached: bool,
}

impl Stage {
    pub(crate) fn weights(&self) -> Bytes {
        self.dense.saturating_add(self.experts)
    }

    /// Two slots: one that is used, one that is filled.
    pub(crate) fn slots(&self) -> Bytes {
        self.largest.saturating_mul(2).min(self.weights())
    }

    /// The same where the processor computes: our own decoder streams blocks of some megabytes, others whole groups.
    pub(crate) fn slots_on_host(&self) -> Bytes {
        const RING: Bytes = Bytes::mib(64);
        if self.role == Role::Decoder { self.slots().min(RING) } else { self.slots() }
    }
}

/// The stages of a run, in order.
pub(crate) fn stages(
    model: &ModelProfile,
    wish: &Wish,
    precision: Precision,
    tiled: bool,
) -> Vec<Stage> {
    let parts = model.components.iter().filter(|part| !part.groups.is_empty());
    let mut stages: Vec<_> =
        parts.map(|part| stage(part, model.task, wish, precision, tiled)).collect();
    share_steps(&mut stages);
    for stage in &mut stages {
        if matches!(stage.role, Role::Denoiser | Role::Decoder) {
            stage.working = stage.working.saturating_add(wish.lora);
        }
    }
    stages
}

/// `transformer_2` takes over from `transformer` when half of the noise is gone: each has half of the steps.
fn share_steps(stages: &mut [Stage]) {
    let first = stages.iter().position(|stage| stage.component == "transformer");
    let second = stages.iter().position(|stage| stage.component == "transformer_2");
    let (Some(first), Some(second)) = (first, second) else { return };
    for (index, rounded_up) in [(first, 1), (second, 0)] {
        for pass in &mut stages[index].uses {
            pass.passes = ((pass.passes + rounded_up) / 2).max(1);
        }
    }
}

/// What guidance without a guidance input takes: the factor of what is computed at once, and of passes.
///
/// Flux has the input; pipelines with U-Nets and Stable Diffusion 3 compute with and without the prompt at once, the
/// others one after the other. Of a stand-in nothing is known.
fn guidance(part: &ComponentProfile) -> (u64, u64) {
    match part.class.as_deref() {
        None | Some("") => (1, 1),
        Some(class) if class.contains("Flux") => (1, 1),
        Some(class)
            if class.contains("UNet") || class.contains("SD3") || class.contains("ControlNet") =>
        {
            (2, 1)
        }
        Some(_) => (1, 2),
    }
}

fn stage(
    part: &ComponentProfile,
    task: Task,
    wish: &Wish,
    precision: Precision,
    tiled: bool,
) -> Stage {
    let video = task == Task::Video;
    let keeps = matches!(part.role, Role::Vae | Role::Adapter);
    let precision = if keeps { Precision::Exact } else { precision };
    let piece = |group| {
        let (dense, experts) = sizes(group, precision);
        Part { dense, experts }
    };
    let pieces: Vec<_> = part.groups.iter().map(piece).collect();
    // An expert moves alone; the rest of its layer is one piece.
    let largest = part.groups.iter().zip(&pieces).map(|(group, piece)| {
        let each = group.experts.map_or(0, |all| all.count).max(1);
        piece.dense.max(Bytes::new(piece.experts.get() / each))
    });
    let positions = wish.positions();
    let cache = part.cache(positions, wish.kv).saturating_mul(wish.batch.max(1));
    let at_once =
        if matches!(part.role, Role::Denoiser | Role::ControlNet) { guidance(part).0 } else { 1 };
    let working =
        activations(part, wish, video, tiled).saturating_mul(at_once).saturating_add(cache);
    Stage {
        component: part.name.clone(),
        role: part.role,
        dense: pieces.iter().map(|piece| piece.dense).sum(),
        experts: pieces.iter().map(|piece| piece.experts).sum(),
        largest: largest.max().unwrap_or_default(),
        pieces,
        working,
        cache,
        uses: uses(part, wish, video),
    }
}

/// Bytes of a group's dense part and of its experts.
fn sizes(group: &GroupProfile, precision: Precision) -> (Bytes, Bytes) {
    let experts = group.experts.unwrap_or(overflowml_types::Experts {
        count: 0,
        active: 0,
        parameters: 0,
        size: Bytes::ZERO,
    });
    let dense = group.parameters.saturating_sub(experts.parameters);
    // Embeddings and heads are sensitive: they keep 8 bits.
    let sensitive = matches!(group.kind, GroupKind::Embedding | GroupKind::Head);
    let bits = match precision {
        Precision::Int4 if sensitive => bits_of(Precision::Int8),
        other => bits_of(other),
    };
    (
        shrunk(group.dense_size(), dense, bits),
        shrunk(experts.size, experts.parameters, bits_of(precision)),
    )
}

/// Sixteenths of a bit per parameter, scales included; `None` keeps what is stored.
///
/// fp8: one 32-bit scale per row of some thousand; int8: Q8_0; int4: Q4_K and NF4.
const fn bits_of(precision: Precision) -> Option<u64> {
    match precision {
        Precision::Exact => None,
        Precision::Fp8 => Some(129),
        Precision::Int8 => Some(136),
        Precision::Int4 => Some(72),
    }
}

/// Never more than what is stored.
fn shrunk(stored: Bytes, parameters: u64, bits: Option<u64>) -> Bytes {
    match bits {
        None => stored,
        Some(bits) => {
            let bytes = (u128::from(parameters) * u128::from(bits)).div_ceil(128);
            Bytes::new(u64::try_from(bytes).unwrap_or(u64::MAX)).min(stored)
        }
    }
}

#[allow(clippy::cast_precision_loss)] // an estimate
fn uses(part: &ComponentProfile, wish: &Wish, video: bool) -> Vec<Use> {
    let batch = wish.batch.max(1);
    let active = part.active_parameters() as f64;
    let all = part.parameters() as f64;
    let once = |what, flops| Use { what, passes: 1, flops, experts: 1.0, cached: false };
    match (part.role, part.shape) {
        (Role::Decoder, _) => {
            let prompt = wish.prompt.max(1);
            let chunk = prompt.min(CHUNK);
            let fed = (chunk * batch) as f64;
            vec![
                Use {
                    what: "prompt",
                    passes: prompt.div_ceil(chunk),
                    flops: 2.0 * active * fed,
                    experts: used_experts(part, fed),
                    cached: false,
                },
                Use {
                    what: "token",
                    passes: wish.generate.max(1),
                    flops: 2.0 * active * batch as f64,
                    experts: used_experts(part, batch as f64),
                    cached: true,
                },
            ]
        }
        (Role::Denoiser | Role::ControlNet, shape) => {
            let (at_once, in_turn) = guidance(part);
            let tokens = denoiser_tokens(shape, wish, video) as f64;
            let each = 2.0 * all * tokens * downsampling(part) + attention(part, tokens);
            let flops = each * (batch * at_once) as f64;
            vec![Use {
                what: "step",
                passes: wish.steps.max(1).saturating_mul(in_turn),
                flops,
                experts: 1.0,
                cached: false,
            }]
        }
        (Role::Vae, _) => {
            // 2.5 TFLOP for half a megapixel by half (the usual decoder at 512 x 512).
            let frames = if video { wish.frames.max(1) } else { batch };
            vec![once("decode", 9.5e6 * (wish.width * wish.height) as f64 * frames as f64)]
        }
        (_, Shape::Encoder { tokens, .. }) => {
            vec![once("encode", 2.0 * all * (tokens * batch) as f64)]
        }
        _ => vec![once("pass", 2.0 * all * batch as f64)],
    }
}

/// A U-Net computes most of its layers at a quarter of the resolution along both sides.
fn downsampling(part: &ComponentProfile) -> f64 {
    let class = part.class.as_deref().unwrap_or_default();
    if class.contains("UNet") { 1.0 / 16.0 } else { 1.0 }
}

/// Every token with every other, in every layer.
#[allow(clippy::cast_precision_loss)] // an estimate
fn attention(part: &ComponentProfile, tokens: f64) -> f64 {
    let Shape::Denoiser { hidden, .. } = part.shape else { return 0.0 };
    let layers = part.groups.iter().filter(|group| matches!(group.kind, GroupKind::Layer(_)));
    let scale = downsampling(part);
    4.0 * (tokens * scale).powi(2) * hidden as f64 * layers.count() as f64
}

/// The share of experts that some of `tokens` tokens choose, if routing is even: `1 - (1 - k/E)^tokens`.
#[allow(clippy::cast_precision_loss)] // an estimate
fn used_experts(part: &ComponentProfile, tokens: f64) -> f64 {
    let experts = part.groups.iter().find_map(|group| group.experts);
    experts.map_or(1.0, |experts| {
        let chosen = experts.active as f64 / experts.count.max(1) as f64;
        1.0 - (1.0 - chosen.min(1.0)).powf(tokens)
    })
}
