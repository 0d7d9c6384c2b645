//! Models of which only a size is known.
//!
//! A size alone says neither what a model computes nor how it is cut. The stand-in is an image pipeline with the
//! proportions of FLUX.1-dev and Qwen-Image, whose files are about 70 % denoiser and 29 % text encoder; plans made
//! with it say so.

use std::collections::BTreeMap;

use overflowml_types::{
    Bytes, ComponentProfile, Experts, GroupKind, GroupProfile, LayerCache, ModelProfile,
    ProfileSource, Role, Shape, Task,
};

/// An image pipeline of `size` in 16-bit weights.
pub fn of_size(name: &str, size: Bytes) -> ModelProfile {
    let denoiser = size.share(0.705);
    let encoder = size.share(0.29);
    let vae = size.left_after(denoiser).left_after(encoder);
    let hidden = width(denoiser, 60, 12);
    let text = width(encoder, 24, 16);
    let components = vec![
        component(
            "text_encoder",
            Role::TextEncoder,
            layers(encoder, 24),
            Shape::Encoder {
                hidden: text,
                intermediate: text * 4,
                heads: text.div_ceil(64),
                tokens: 512,
            },
        ),
        component(
            "transformer",
            Role::Denoiser,
            layers(denoiser, 60),
            Shape::Denoiser {
                hidden,
                intermediate: hidden * 4,
                heads: hidden.div_ceil(128),
                patch: 2,
                channels: 16,
                text_tokens: 512,
            },
        ),
        component(
            "vae",
            Role::Vae,
            layers(vae, 1),
            Shape::Vae { scale: 8, temporal: 1, channels: 128 },
        ),
    ];
    ModelProfile {
        name: name.to_owned(),
        source: ProfileSource::Size,
        task: Task::Image,
        components,
        notes: vec![
            "only a size is known: planned as an image pipeline with the proportions of FLUX.1-dev and Qwen-Image \
             (70 % denoiser in 60 equal layers, 29 % text encoder, 16-bit weights)"
                .to_owned(),
        ],
    }
}

/// A mixture of experts as its makers describe it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MoeSize {
    /// Parameters.
    pub total: u64,
    /// Parameters that one token uses.
    pub active: u64,
    /// Experts per layer.
    pub experts: u64,
    /// Experts that one token uses.
    pub chosen: u64,
}

/// Layers of a stand-in for a language model.
const LAYERS: u64 = 48;

/// A mixture-of-experts language model of 16-bit weights.
///
/// `total = shared + experts` and `active = shared + experts × chosen / count` give both parts. `None` if the figures
/// contradict each other.
pub fn moe_of_size(name: &str, size: MoeSize) -> Option<ModelProfile> {
    let MoeSize { total, active, experts: count, chosen } = size;
    if count == 0 || chosen == 0 || chosen >= count || active == 0 || active >= total {
        return None;
    }
    let idle = u128::from(total - active) * u128::from(count);
    let experts = u64::try_from(idle / u128::from(count - chosen)).ok()?.min(total);
    let shared = total - experts;
    let hidden = width(Bytes::new(2 * shared.max(1)), LAYERS, 8);
    let groups = (0..LAYERS)
        .map(|layer| {
            let of = |whole: u64| whole * (layer + 1) / LAYERS - whole * layer / LAYERS;
            let (dense, routed) = (of(shared), of(experts));
            #[allow(clippy::cast_possible_truncation)] // 48
            GroupProfile {
                name: format!("layers.{layer}"),
                kind: GroupKind::Layer(layer as u32),
                parameters: dense + routed,
                size: Bytes::new(2 * (dense + routed)),
                experts: Some(Experts {
                    count,
                    active: chosen,
                    parameters: routed,
                    size: Bytes::new(2 * routed),
                }),
            }
        })
        .collect();
    let shape = Shape::Decoder {
        hidden,
        intermediate: hidden * 3,
        heads: hidden.div_ceil(128),
        vocab: 128_256,
    };
    let mut decoder = component("model", Role::Decoder, groups, shape);
    let cache = LayerCache::Full { heads: 8, key: 128, value: 128 };
    decoder.caches = vec![cache; LAYERS as usize];
    decoder.max_context = Some(131_072);
    Some(ModelProfile {
        name: name.to_owned(),
        source: ProfileSource::Size,
        task: Task::Text,
        components: vec![decoder],
        notes: vec![format!(
            "only sizes are known: planned as a language model of {LAYERS} layers with 8 key/value heads of 128 \
             and 16-bit weights"
        )],
    })
}

fn component(name: &str, role: Role, groups: Vec<GroupProfile>, shape: Shape) -> ComponentProfile {
    let size: Bytes = groups.iter().map(|group| group.size).sum();
    ComponentProfile {
        name: name.to_owned(),
        class: None,
        role,
        groups,
        dtypes: BTreeMap::from([("bf16".to_owned(), size)]),
        shape,
        caches: Vec::new(),
        max_context: None,
    }
}

/// Equal layers.
fn layers(size: Bytes, count: u64) -> Vec<GroupProfile> {
    (0..count)
        .map(|layer| {
            let parameters = size.get() / 2 / count;
            #[allow(clippy::cast_possible_truncation)] // a few dozen
            GroupProfile {
                name: format!("blocks.{layer}"),
                kind: GroupKind::Layer(layer as u32),
                parameters,
                size: Bytes::new(2 * parameters),
                experts: None,
            }
        })
        .collect()
}

/// The width of a transformer whose layers have `factor × width²` parameters.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn width(size: Bytes, layers: u64, factor: u64) -> u64 {
    let parameters = size.as_f64() / 2.0 / (layers * factor) as f64;
    (parameters.sqrt() as u64).next_multiple_of(64).max(64)
}
