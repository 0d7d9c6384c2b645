use std::collections::HashMap;

use overflowml_types::{
    Access, Activation, Bytes, BytesPerSecond, DType, DecoderSpec, FileId, FileSpan, Known,
    LayerSpec, LogitsWanted, Norms, PassWeight, QkNorm, RopeScaling, RopeSpec, Scales, Tensor,
    WeightSpec,
};
use proptest::prelude::*;

use crate::blocks::runs;
use crate::{ALIGNMENT, Home, Infeasible, Plan, Rates, Request, Strategy, plan, simulate};

/// A Llama-like model: everything else follows from these.
#[derive(Clone, Debug)]
struct Shape {
    layers: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    intermediate: usize,
    vocab: usize,
    tied: bool,
    window: Option<usize>,
    dtype: DType,
    /// Where the first tensor starts: headers have any length.
    lead: u64,
}

impl Shape {
    /// About 3 billion parameters, as Llama 3.2 3B.
    const THREE_B: Self = Self {
        layers: 28,
        heads: 24,
        kv_heads: 8,
        head_dim: 128,
        intermediate: 8192,
        vocab: 128_256,
        tied: true,
        window: None,
        dtype: DType::BF16,
        lead: 29_416,
    };

    fn spec(&self) -> DecoderSpec {
        let hidden = self.heads * self.head_dim;
        DecoderSpec {
            architecture: "LlamaForCausalLM".to_owned(),
            vocab: self.vocab,
            hidden,
            intermediate: self.intermediate,
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            layers: vec![
                LayerSpec { window: self.window, rope: Some(0), experts: false };
                self.layers
            ],
            ropes: vec![RopeSpec {
                rotary_dim: self.head_dim,
                theta: 1e4,
                scaling: RopeScaling::None,
            }],
            norms: Norms::Before,
            norm_eps: 1e-5,
            norm_weight_offset: 0.0,
            qk_norm: QkNorm::None,
            activation: Activation::Silu,
            qkv_bias: false,
            out_bias: false,
            mlp_bias: false,
            fused_qkv: false,
            fused_gate_up: false,
            tied_embeddings: self.tied,
            scales: Scales { embedding: 1.0, residual: 1.0, attention: 0.1, logits: 1.0 },
            attention_softcap: None,
            logit_softcap: None,
            qkv_clip: None,
            sinks: false,
            latent: None,
            experts: None,
            max_context: 131_072,
        }
    }

    /// The pass's weights, one after the other in one file.
    fn weights(&self) -> Vec<PassWeight> {
        let mut end = self.lead;
        let mut placed: HashMap<String, Tensor> = HashMap::new();
        let mut bind = |weight: WeightSpec| {
            let tensor = placed.entry(weight.name.clone()).or_insert_with(|| {
                let elements: u64 = weight.shape.iter().product();
                let len = self.dtype.size().saturating_mul(elements);
                let span = FileSpan { file: FileId(0), offset: Bytes::new(end), len };
                end += len.get();
                Tensor { name: weight.name, dtype: self.dtype, shape: weight.shape, span }
            });
            PassWeight { role: weight.role, access: weight.access, tensor: tensor.clone() }
        };
        self.spec().weights().into_iter().map(&mut bind).collect()
    }
}

fn request(budget: Bytes) -> Request {
    let rate = |plain| BytesPerSecond::new(plain).unwrap();
    Request {
        budget,
        prompt: 16,
        sequences: 1,
        generate: 16,
        logits: LogitsWanted::Last,
        kv_dtype: DType::BF16,
        threads: 2,
        overhead: Known::assumed(Bytes::mib(20), "a test"),
        rates: Rates {
            disk: Known::assumed(rate(1e9), "a test"),
            memory: Known::assumed(rate(4e10), "a test"),
            flops: Known::assumed(5e11, "a test"),
        },
    }
}

fn planned(shape: &Shape, request: &Request) -> Result<Plan, Infeasible> {
    plan(&shape.spec(), &shape.weights(), request)
}

fn matrices(weights: &[PassWeight]) -> impl Iterator<Item = (usize, &PassWeight)> {
    weights.iter().enumerate().filter(|(_, weight)| weight.access == Access::Rows)
}

#[test]
fn a_model_that_fits_is_loaded_whole_and_nothing_streams() {
    let plan = planned(&Shape::THREE_B, &request(Bytes::gib(8))).unwrap();
    assert_eq!(plan.strategy, Strategy::None);
    assert_eq!(plan.ring, None);
    assert_eq!(plan.prediction.streamed_per_pass, Bytes::ZERO);
    assert_eq!(plan.prediction.limited_by, "memory");
    assert_eq!(plan.resident_weights(), plan.prediction.weights_per_pass);
}

#[test]
fn at_least_92_percent_of_the_budget_beyond_cache_and_slots_holds_weights() {
    for mib in [1024, 2048, 4096, 5632] {
        let plan = planned(&Shape::THREE_B, &request(Bytes::mib(mib))).unwrap();
        assert_eq!(plan.strategy, Strategy::Disk);
        let rest = plan.budget.left_after(plan.memory.kv).left_after(plan.memory.slots);
        let share = plan.resident_weights().as_f64() / rest.as_f64();
        assert!(share >= 0.92, "{share:.3} of {mib} MiB");
    }
}

#[test]
fn what_streams_is_spread_so_that_a_pass_takes_as_long_as_its_longer_half() {
    let rates = request(Bytes::ZERO).rates;
    for mib in [1024, 2048, 4096] {
        let plan = planned(&Shape::THREE_B, &request(Bytes::mib(mib))).unwrap();
        let simulated = simulate(&plan, &rates, 3);
        let best = plan.prediction.seconds_per_token.get();
        assert!(simulated.pass.get() < best * 1.03, "{} against {best}", simulated.pass);
    }
}

#[test]
fn the_embedding_of_a_model_that_nearly_fits_is_what_stays_on_disk() {
    let shape = Shape { tied: false, ..Shape::THREE_B };
    let weights = shape.weights();
    let embedding = weights[0].tensor.span.len;
    let whole = planned(&shape, &request(Bytes::gib(16))).unwrap();
    let tight = whole.memory.peak.left_after(embedding.share(0.5));
    let plan = planned(&shape, &request(tight)).unwrap();
    assert_eq!((plan.strategy, plan.ring), (Strategy::Disk, None));
    assert_eq!(plan.resident_weights(), plan.prediction.weights_per_pass);
}

#[test]
fn a_refusal_names_the_smallest_budget_that_works() {
    let refused = planned(&Shape::THREE_B, &request(Bytes::mib(20))).unwrap_err();
    let Infeasible::BudgetTooSmall { needed, .. } = refused else { panic!("{refused}") };
    assert!(planned(&Shape::THREE_B, &request(needed)).is_ok());
    assert!(planned(&Shape::THREE_B, &request(needed.left_after(Bytes::kib(64)))).is_err());
    assert!(refused.hint().unwrap().contains("--memory"));
}

#[test]
fn a_refusal_names_the_largest_context_that_fits() {
    let wish = |generate| Request { generate, ..request(Bytes::gib(1)) };
    let refused = planned(&Shape::THREE_B, &wish(100_000)).unwrap_err();
    let Infeasible::BudgetTooSmall { largest_context: Some(most), .. } = refused else {
        panic!("{refused}")
    };
    assert!(planned(&Shape::THREE_B, &wish(most - 16)).is_ok());
    assert!(planned(&Shape::THREE_B, &wish(most - 16 + 1)).is_err());
}

#[test]
fn more_tokens_than_the_model_was_made_for_are_refused() {
    let wish = Request { generate: 200_000, ..request(Bytes::gib(64)) };
    let refused = planned(&Shape::THREE_B, &wish).unwrap_err();
    assert_eq!(refused.code(), "plan.context-beyond-model");
}

#[test]
fn long_prompts_are_read_in_long_chunks_where_weights_stream() {
    let wish = Request { prompt: 4000, ..request(Bytes::gib(2)) };
    let plan = planned(&Shape::THREE_B, &wish).unwrap();
    assert!(plan.prefill_chunk >= 256, "{}", plan.prefill_chunk);
}

#[test]
fn plans_are_as_reviewed() {
    let mut reviewed = Vec::new();
    for (name, shape) in [
        ("3B tied", Shape::THREE_B),
        ("3B untied, sliding window", Shape { tied: false, window: Some(1024), ..Shape::THREE_B }),
        (
            "tiny f32",
            Shape {
                layers: 2,
                heads: 4,
                kv_heads: 2,
                head_dim: 16,
                intermediate: 128,
                vocab: 256,
                dtype: DType::F32,
                ..Shape::THREE_B
            },
        ),
    ] {
        for mib in [26, 64, 512, 2048, 4096, 16_384] {
            let wish = Request { prompt: 512, generate: 128, ..request(Bytes::mib(mib)) };
            let lines = match planned(&shape, &wish) {
                Ok(plan) => plan.reasons(),
                Err(refused) => vec![refused.to_string(), refused.hint().unwrap_or_default()],
            };
            reviewed.push(format!("{name} in {mib} MiB\n  {}", lines.join("\n  ")));
        }
    }
    insta::assert_snapshot!(reviewed.join("\n"));
}

prop_compose! {
    fn any_shape()(
        layers in 1_usize..6,
        kv_heads in 1_usize..4,
        group in 1_usize..4,
        half_dim in 1_usize..40,
        intermediate in 1_usize..700,
        vocab in 1_usize..3000,
        tied in any::<bool>(),
        window in proptest::option::of(1_usize..60),
        dtype in prop_oneof![Just(DType::BF16), Just(DType::F16), Just(DType::F32)],
        lead in 8_u64..9000,
    ) -> Shape {
        let (heads, head_dim) = (kv_heads * group, 2 * half_dim);
        Shape { layers, heads, kv_heads, head_dim, intermediate, vocab, tied, window, dtype, lead }
    }
}

prop_compose! {
    /// Budgets around what small models need: 20 MiB are the assumed overhead, 4 MiB the slack.
    fn any_request()(
        extra in 0_u64..40_000_000,
        prompt in 1_usize..300,
        generate in 0_usize..300,
        scores in any::<bool>(),
        threads in 1_usize..5,
        together in 1_usize..5,
    ) -> Request {
        let logits = if scores { LogitsWanted::All } else { LogitsWanted::Last };
        let budget = Bytes::mib(24).saturating_add(Bytes::new(extra));
        let sequences = if scores { 1 } else { together };
        Request { prompt, generate, logits, threads, sequences, ..request(budget) }
    }
}

proptest! {
    #[test]
    fn no_plan_exceeds_its_budget(shape in any_shape(), wish in any_request()) {
        match planned(&shape, &wish) {
            Ok(plan) => {
                prop_assert!(plan.memory.peak <= wish.budget);
                let simulated = simulate(&plan, &wish.rates, 2);
                let slots = plan.memory.resident.saturating_add(plan.memory.slots);
                prop_assert!(simulated.peak <= slots);
            }
            Err(Infeasible::BudgetTooSmall { needed, .. }) => {
                prop_assert!(needed > wish.budget);
                let larger = Request { budget: needed, ..wish };
                prop_assert!(planned(&shape, &larger).is_ok());
            }
            Err(other) => prop_assert!(false, "{other}"),
        }
    }

    #[test]
    fn every_block_is_loaded_before_it_is_computed_and_once_per_pass_if_streamed(
        shape in any_shape(),
        wish in any_request(),
    ) {
        let Ok(plan) = planned(&shape, &wish) else { return Ok(()) };
        let simulated = simulate(&plan, &wish.rates, 3);
        prop_assert_eq!(simulated.uses.len(), 3 * plan.blocks.len());
        for (position, used) in simulated.uses.iter().enumerate() {
            // In order, pass after pass: so each block exactly once per pass.
            prop_assert_eq!(used.block, position % plan.blocks.len());
            let streams = plan.blocks[used.block].home == Home::Disk;
            prop_assert_eq!(used.read.is_some(), streams);
            if let Some((_, end)) = used.read {
                prop_assert!(end <= used.computed.0);
            }
        }
    }

    #[test]
    fn blocks_cover_every_row_of_every_matrix_exactly_once(
        shape in any_shape(),
        wish in any_request(),
    ) {
        let Ok(plan) = planned(&shape, &wish) else { return Ok(()) };
        let weights = shape.weights();
        for (index, weight) in matrices(&weights) {
            let mut next_row = 0;
            let mut next_byte = weight.tensor.span.offset;
            for block in plan.blocks.iter().filter(|block| block.weight == index) {
                prop_assert_eq!(block.first_row, next_row);
                prop_assert_eq!(block.span.offset, next_byte);
                next_row += block.rows;
                next_byte = block.span.end();
                if let (Home::Disk, Some(ring)) = (block.home, plan.ring) {
                    prop_assert!(block.stored().len <= ring.slot);
                }
            }
            prop_assert_eq!(next_row, weight.rows());
            prop_assert_eq!(next_byte, weight.tensor.span.end());
        }
    }

    #[test]
    fn the_arena_is_what_was_counted_and_aligned(shape in any_shape(), wish in any_request()) {
        let Ok(plan) = planned(&shape, &wish) else { return Ok(()) };
        let mut end = Bytes::ZERO;
        for run in runs(&plan.blocks) {
            prop_assert_eq!(run.at, end);
            let stored = run.stored();
            prop_assert_eq!(stored.offset.get() % ALIGNMENT, 0);
            prop_assert_eq!(stored.len.get() % ALIGNMENT, 0);
            prop_assert!(stored.offset <= run.span.offset && run.span.end() <= stored.end());
            end = end.saturating_add(stored.len);
        }
        prop_assert_eq!(end, plan.memory.resident);
    }

    #[test]
    fn more_memory_never_streams_more(shape in any_shape(), wish in any_request(), more in 1_u64..20_000_000) {
        let Ok(small) = planned(&shape, &wish) else { return Ok(()) };
        let budget = wish.budget.saturating_add(Bytes::new(more));
        let large = planned(&shape, &Request { budget, ..wish }).unwrap();
        // Whole blocks of another size: one of them is the most that it can differ.
        let block = small.ring.map_or(Bytes::ZERO, |ring| ring.slot);
        let other = large.ring.map_or(Bytes::ZERO, |ring| ring.size());
        let allowed = small.prediction.streamed_per_pass.saturating_add(block).saturating_add(other);
        prop_assert!(large.prediction.streamed_per_pass <= allowed);
    }
}
