//! Small random models of every kind that a [`DecoderSpec`] can describe.

#![allow(dead_code, clippy::unwrap_used)] // each test uses its own part; failures stop it

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use half::{bf16, f16};
use overflowml_exec::{Decoder, ExecError, Kernels, Layouts, MemoryWeight, MemoryWeights, Pool};
use overflowml_types::{
    Activation, Bytes, DType, DecoderSpec, ExpertGroups, ExpertNames, ExpertStorage, ExpertsSpec,
    FileId, FileSpan, KvLayout, LatentSpec, LayerSpec, LogitsWanted, Norms, PassWeight, QkNorm,
    RopeScaling, RopeSpec, RouterSpec, Scales, Scoring, ScratchLayout, SharedExpert, Tensor,
};
use proptest::prelude::*;

/// A model and its weights.
#[derive(Clone, Debug)]
pub struct Model {
    pub spec: DecoderSpec,
    pub dtype: DType,
    list: Vec<PassWeight>,
    bytes: HashMap<String, Arc<[u8]>>,
}

/// Numbers that look random, in -1..1.
pub fn noise(seed: u64) -> impl FnMut() -> f32 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

impl Model {
    pub fn new(spec: DecoderSpec, dtype: DType, seed: u64) -> Self {
        let (mut list, mut bytes) = (Vec::new(), HashMap::<String, Arc<[u8]>>::new());
        let mut next = noise(seed);
        for weight in spec.weights() {
            let elements: u64 = weight.shape.iter().product();
            let cols = weight.shape.last().copied().unwrap_or(1) as f32;
            let name_has_norm = weight.name.contains("norm");
            let (base, scale) = match weight.shape.len() {
                1 if name_has_norm => (1.0 - spec.norm_weight_offset, 0.2),
                1 => (0.0, 0.1),
                _ => (0.0, 1.7 / cols.sqrt()),
            };
            let values = (0..elements).map(|_| base + scale * next());
            let name = match &weight.slice {
                Some(slice) => format!("{} from {}", weight.name, slice.first),
                None => weight.name,
            };
            let data = bytes.entry(name.clone());
            let data: &mut Arc<[u8]> = data.or_insert_with(|| Arc::from(stored(dtype, values)));
            let span =
                FileSpan { file: FileId(0), offset: Bytes::ZERO, len: Bytes::of_len(data.len()) };
            let tensor = Tensor { name, dtype, shape: weight.shape, span };
            list.push(PassWeight { role: weight.role, access: weight.access, tensor });
        }
        Self { spec, dtype, list, bytes }
    }

    /// The weights in memory, each matrix cut into runs of `rows` rows.
    pub fn source(&self, rows: usize) -> MemoryWeights {
        let one = |weight: &PassWeight| MemoryWeight {
            bytes: Arc::clone(&self.bytes[&weight.tensor.name]),
            row_bytes: (weight.cols() * self.dtype.size().get()) as usize,
            cuts: (rows..weight.rows() as usize).step_by(rows).collect(),
        };
        MemoryWeights::new(self.list.iter().map(one).collect())
    }

    pub fn decoder(&self, source: &MemoryWeights, setup: Setup) -> Result<Decoder, ExecError> {
        let Setup { context, chunk, threads, wanted, kernels, sequences } = setup;
        let kv = KvLayout::new(&self.spec, self.dtype, context, chunk).for_sequences(sequences);
        let scratch = ScratchLayout::new(&self.spec, chunk, threads, wanted);
        let scratch = scratch.for_sequences(sequences, self.spec.vocab);
        let layouts = Layouts { context, kv: &kv, scratch: &scratch };
        Decoder::new(&self.spec, &self.list, source, &layouts, Pool::new(threads), kernels)
    }

    /// The logits after every chunk of `tokens`, as bits.
    pub fn logits(&self, tokens: &[u32], rows: usize, setup: Setup) -> Vec<Vec<u32>> {
        let mut source = self.source(rows);
        let mut decoder = self.decoder(&source, setup).unwrap();
        let fed = tokens.chunks(setup.chunk).map(|chunk| {
            decoder.feed(&mut source, chunk, &AtomicBool::new(false)).unwrap();
            decoder.last_logits().iter().map(|logit| logit.to_bits()).collect()
        });
        fed.collect()
    }

    /// The log-probabilities of all tokens after the first.
    pub fn score(&self, tokens: &[u32], rows: usize, setup: Setup) -> Vec<f32> {
        let mut source = self.source(rows);
        let mut decoder = self.decoder(&source, setup).unwrap();
        let mut scores = Vec::new();
        for start in (0..tokens.len() - 1).step_by(setup.chunk) {
            let part = &tokens[start..tokens.len().min(start + setup.chunk + 1)];
            decoder.score(&mut source, part, &AtomicBool::new(false), &mut scores).unwrap();
        }
        scores
    }
}

/// How a decoder is run.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub context: usize,
    pub chunk: usize,
    pub threads: usize,
    pub wanted: LogitsWanted,
    pub kernels: Kernels,
    pub sequences: usize,
}

impl Setup {
    pub fn new(context: usize, chunk: usize) -> Self {
        let (wanted, kernels) = (LogitsWanted::Last, Kernels::detect());
        Self { context, chunk, threads: 1, wanted, kernels, sequences: 1 }
    }
}

fn stored(dtype: DType, values: impl Iterator<Item = f32>) -> Vec<u8> {
    match dtype {
        DType::F32 => values.flat_map(f32::to_le_bytes).collect(),
        DType::F16 => values.flat_map(|value| f16::from_f32(value).to_le_bytes()).collect(),
        _ => values.flat_map(|value| bf16::from_f32(value).to_le_bytes()).collect(),
    }
}

prop_compose! {
    fn any_flags()(flags in any::<[bool; 8]>(), norms in 0..3, qk_norm in 0..3, activation in 0..3)
        -> ([bool; 8], Norms, QkNorm, Activation) {
        let norms = [Norms::Before, Norms::Around, Norms::After][norms as usize];
        let qk_norm = [QkNorm::None, QkNorm::PerHead, QkNorm::Whole][qk_norm as usize];
        let activation = [Activation::Silu, Activation::GeluTanh, Activation::Gelu][activation as usize];
        (flags, norms, qk_norm, activation)
    }
}

prop_compose! {
    /// Any way to route, with experts stored in any way that needs no blocks.
    fn any_mixture()(
        count in 1_usize..9,
        active in 1_usize..9,
        intermediate in 1_usize..30,
        storage in 0..3,
        scoring in 0..3,
        shared in prop::option::of((1_usize..40, any::<bool>())),
        flags in any::<[bool; 5]>(),
        grouped in prop::option::of(1_usize..3),
    ) -> ExpertsSpec {
        let count = if grouped.is_some() { 2 * count.max(2) } else { count };
        let groups = grouped.map(|chosen| ExpertGroups { count: 2, chosen, best: chosen });
        let candidates = if grouped == Some(1) { count / 2 } else { count };
        ExpertsSpec {
            count,
            active: active.min(candidates),
            intermediate,
            router: RouterSpec {
                scoring: [Scoring::Softmax, Scoring::SoftmaxOfChosen, Scoring::Sigmoid][scoring as usize],
                normalise: flags[0],
                scale: 1.3,
                groups,
                bias: flags[1],
                correction: flags[2],
            },
            shared: shared.map(|(intermediate, gated)| SharedExpert { intermediate, gated }),
            bias: flags[3],
            interleaved: flags[4] && storage > 0,
            storage: [ExpertStorage::Each, ExpertStorage::Stacked, ExpertStorage::Transposed][storage as usize],
            names: ExpertNames {
                part: "mlp",
                router: "gate",
                each: ["gate_proj", "up_proj", "down_proj"],
                shared: "shared_expert",
            },
        }
    }
}

prop_compose! {
    fn any_latent()(
        query_rank in prop::option::of(1_usize..30),
        rank in 1_usize..40,
        plain_dim in 1_usize..20,
        half_rope in 1_usize..10,
        value_dim in 1_usize..20,
        interleaved in any::<bool>(),
        bias in any::<bool>(),
    ) -> LatentSpec {
        let (rope_dim, norm_eps) = (2 * half_rope, 1e-6);
        LatentSpec { query_rank, rank, plain_dim, rope_dim, value_dim, interleaved, bias, norm_eps }
    }
}

prop_compose! {
    /// Any combination of what the families have.
    pub fn any_model()(
        layers in prop::collection::vec((prop::option::of(1_usize..30), 0_usize..3, any::<bool>()), 1..4),
        (experts, latent, sinks, clipped) in (
            prop::option::of(any_mixture()), prop::option::weighted(0.3, any_latent()), any::<bool>(), any::<bool>(),
        ),
        kv_heads in 1_usize..4,
        group in 1_usize..6,
        half_dim in 1_usize..20,
        hidden in 1_usize..70,
        intermediate in 1_usize..90,
        vocab in prop_oneof![2_usize..90, 1000_usize..1100],
        (flags, norms, qk_norm, activation) in any_flags(),
        dtype in prop_oneof![Just(DType::BF16), Just(DType::F16), Just(DType::F32)],
        seed in any::<u64>(),
    ) -> Model {
        let rotary_dim = latent.map_or(2 * half_dim, |latent| latent.rope_dim);
        let rope = |theta| RopeSpec { rotary_dim, theta, scaling: RopeScaling::None };
        let layer = |&(window, rope, mixed): &(Option<usize>, usize, bool)| LayerSpec {
            window: window.filter(|_| latent.is_none()),
            rope: (rope < 2).then_some(rope),
            experts: mixed && experts.is_some(),
        };
        let qk_norm = if latent.is_some() { QkNorm::None } else { qk_norm };
        // Mixtures and latent attention have only the usual norms.
        let norms = if experts.is_some() || latent.is_some() { Norms::Before } else { norms };
        let spec = DecoderSpec {
            architecture: "Any".to_owned(),
            vocab,
            hidden,
            intermediate,
            heads: kv_heads * group,
            kv_heads: if latent.is_some() { kv_heads * group } else { kv_heads },
            head_dim: latent.map_or(2 * half_dim, |latent| latent.query_dim()),
            layers: layers.iter().map(layer).collect(),
            ropes: vec![rope(1e4), rope(1e6)],
            norms,
            norm_eps: 1e-5,
            norm_weight_offset: if flags[0] { 1.0 } else { 0.0 },
            qk_norm,
            activation,
            qkv_bias: flags[1],
            out_bias: flags[2],
            mlp_bias: flags[3],
            fused_qkv: flags[4],
            fused_gate_up: flags[5],
            tied_embeddings: flags[6],
            scales: Scales {
                embedding: 2.0,
                residual: 0.7,
                attention: 1.0 / (2.0 * half_dim as f32).sqrt(),
                logits: 1.5,
            },
            attention_softcap: flags[7].then_some(5.0),
            logit_softcap: flags[7].then_some(3.0),
            qkv_clip: clipped.then_some(0.8),
            sinks: sinks && latent.is_none(),
            latent,
            experts,
            max_context: 1000,
        };
        Model::new(spec, dtype, seed)
    }
}

/// `count` tokens of a vocabulary.
pub fn tokens(count: usize, vocab: usize, seed: u64) -> Vec<u32> {
    let mut next = noise(seed);
    (0..count).map(|_| ((next() + 1.0) / 2.0 * vocab as f32) as u32 % vocab as u32).collect()
}
