//! What a pass costs. Every formula of the cost model is here.
//!
//! A pass over the model multiplies some tokens with every weight. Its time is
//! `max(compute, streamed / disk)`: reading runs ahead through the slots and around the end of the
//! pass, so the two overlap entirely.

use overflowml_types::{Access, Bytes, DecoderSpec, PassWeight, Seconds};

use crate::blocks::streamed_bytes;
use crate::plan::{Block, ExpertPrediction, ExpertRate, Plan, Prediction, Rates, Request};

/// What of the speed of matrix products attention reaches: its matrices are thin.
const ATTENTION_EFFICIENCY: f64 = 0.1;

/// The sizes that a pass's time depends on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Bytes of all matrices that every token uses.
    pub(crate) weights: Bytes,
    /// Their elements.
    pub(crate) elements: f64,
    /// Bytes of them read from disk.
    pub(crate) streamed: Bytes,
    /// The others.
    pub(crate) experts: ExpertLoad,
    /// Keys and values of one position, all layers.
    pub(crate) kv_per_token: Bytes,
    /// Floating-point operations of one token's attention to one position, all layers.
    pub(crate) attention_flops: f64,
}

/// What depends on the experts that tokens choose.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ExpertLoad {
    /// Bytes of all experts.
    pub(crate) weights: Bytes,
    /// Their elements.
    pub(crate) elements: f64,
    /// The share of them that one token uses.
    pub(crate) active: f64,
    /// The share of the used ones' bytes that is read from disk.
    pub(crate) missed: f64,
}

impl ExpertLoad {
    /// The share of the experts that is used by some of `tokens` tokens, chosen evenly.
    fn used(&self, tokens: f64) -> f64 {
        1.0 - (1.0 - self.active).powf(tokens)
    }

    fn read(&self, tokens: f64) -> Bytes {
        self.weights.share((self.used(tokens) * self.missed).clamp(0.0, 1.0))
    }
}

impl Load {
    pub(crate) fn new(spec: &DecoderSpec, weights: &[PassWeight], plan: &Plan) -> Self {
        let of = |access| weights.iter().filter(move |weight| weight.access == access);
        #[allow(clippy::cast_precision_loss)] // far below 2^52
        let elements =
            |access| of(access).map(|w| (w.rows() * w.cols()) as f64).fold(0.0, |a, b| a + b);
        #[allow(clippy::cast_precision_loss)]
        let attention_flops = (4 * spec.query_width() * spec.layers.len()) as f64;
        #[allow(clippy::cast_precision_loss)]
        let active = spec.experts.as_ref().map_or(0.0, |it| it.active as f64 / it.count as f64);
        let bytes = |access| of(access).map(|weight| weight.tensor.span.len).sum();
        let hit = plan.experts.as_ref().map_or(1.0, |cache| expected_hits(cache.share()));
        Self {
            weights: bytes(Access::Rows),
            elements: elements(Access::Rows),
            streamed: streamed_bytes(&plan.blocks),
            experts: ExpertLoad {
                weights: bytes(Access::Expert),
                elements: elements(Access::Expert),
                active,
                missed: 1.0 - hit,
            },
            kv_per_token: plan.kv.bytes_per_token(),
            attention_flops,
        }
    }

    /// The same with another share of hits.
    fn with_hits(self, hits: f64) -> Self {
        Self { experts: ExpertLoad { missed: 1.0 - hits, ..self.experts }, ..self }
    }

    /// Multiplying `tokens` tokens, after `past` others, with weights that are in memory.
    pub(crate) fn compute(&self, rates: &Rates, tokens: usize, past: usize) -> Seconds {
        Seconds::new(self.compute_dense(rates, tokens, past) + self.compute_experts(rates, tokens))
    }

    #[allow(clippy::cast_precision_loss)] // token counts are far below 2^52
    fn compute_dense(&self, rates: &Rates, tokens: usize, past: usize) -> f64 {
        let (tokens, seen) = (tokens as f64, past as f64 + tokens as f64 / 2.0);
        let flops = rates.flops.value.max(1.0);
        let weights = rates.memory.value.time_for(self.weights).get();
        let products = (2.0 * self.elements * tokens / flops).max(weights);
        let keys = rates.memory.value.time_for(self.kv_per_token).get() * seen;
        let attention = self.attention_flops * tokens * seen / (flops * ATTENTION_EFFICIENCY);
        products + keys.max(attention)
    }

    #[allow(clippy::cast_precision_loss)]
    fn compute_experts(&self, rates: &Rates, tokens: usize) -> f64 {
        let (experts, tokens) = (&self.experts, tokens as f64);
        let used = experts.weights.share(experts.used(tokens));
        let products = 2.0 * experts.elements * experts.active * tokens;
        let products = products / rates.flops.value.max(1.0);
        products.max(rates.memory.value.time_for(used).get())
    }

    /// Reading what streams and what is missed of experts, once.
    #[allow(clippy::cast_precision_loss)]
    pub(crate) fn read(&self, rates: &Rates, tokens: usize) -> Seconds {
        let missed = self.experts.read(tokens as f64);
        rates.disk.value.time_for(self.streamed.saturating_add(missed))
    }

    /// One pass. Experts are read only when the router has spoken, layer by layer: their reading overlaps
    /// with other experts' products, not with the rest.
    #[allow(clippy::cast_precision_loss)]
    pub(crate) fn pass(&self, rates: &Rates, tokens: usize, past: usize) -> Seconds {
        let missed = rates.disk.value.time_for(self.experts.read(tokens as f64)).get();
        let experts = self.compute_experts(rates, tokens).max(missed);
        let compute = self.compute_dense(rates, tokens, past) + experts;
        Seconds::new(compute.max(self.read(rates, tokens).get()))
    }

    /// All passes over the prompts of some sequences, one after the other, chunk by chunk.
    pub(crate) fn prefill(&self, rates: &Rates, request: &Request, chunk: usize) -> Seconds {
        let (prompt, chunk) = (request.prompt.max(1), chunk.max(1));
        let total = prompt.saturating_mul(request.sequences.max(1));
        let starts = (0..total).step_by(chunk);
        let times =
            starts.map(|start| self.pass(rates, chunk.min(total - start), start % prompt).get());
        Seconds::new(times.sum())
    }
}

/// The share of chosen experts' bytes that is found in memory where `share` of all is kept, if some experts
/// are chosen more often than others. A guess between even choice, where it is `share`, and published figures
/// of large models.
fn expected_hits(share: f64) -> f64 {
    share.powf(0.7)
}

/// The same if a text keeps choosing the same experts.
fn high_hits(share: f64) -> f64 {
    share.powf(0.4)
}

/// Predicts what running `plan` costs, with the request's rates.
pub fn predict(
    spec: &DecoderSpec,
    weights: &[PassWeight],
    plan: &Plan,
    request: &Request,
) -> Prediction {
    let load = Load::new(spec, weights, plan);
    let rates = &request.rates;
    let halfway = request.prompt + request.generate / 2;
    let together = request.sequences.max(1);
    let compute = load.compute(rates, together, halfway);
    let each = |load: &Load| {
        #[allow(clippy::cast_precision_loss)] // far below 2^52
        let tokens = together as f64;
        Seconds::new(load.pass(rates, together, halfway).get() / tokens)
    };
    let token = each(&load);
    let used = load.experts.weights.share(load.experts.active);
    let rate = |hit_rate: f64| {
        let load = load.with_hits(hit_rate);
        let per_token = load.experts.read(1.0);
        ExpertRate { hit_rate, per_token, decode_tokens_per_second: per_second(each(&load)) }
    };
    Prediction {
        weights_per_pass: load.weights.saturating_add(used),
        streamed_per_pass: load.streamed,
        load_seconds: rates.disk.value.time_for(plan.memory.resident),
        prefill_seconds: load.prefill(rates, request, plan.prefill_chunk),
        seconds_per_token: token,
        decode_tokens_per_second: per_second(token),
        limited_by: if compute < load.read(rates, together) { "disk" } else { "memory" },
        experts: plan.experts.as_ref().map(|cache| ExpertPrediction {
            low: rate(cache.share()),
            expected: rate(expected_hits(cache.share())),
            high: rate(high_hits(cache.share())),
        }),
    }
}

fn per_second(each: Seconds) -> f64 {
    1.0 / each.get().max(f64::MIN_POSITIVE)
}

/// Bytes of weights that are always in memory: as stored, and widened to `f32` for computing.
pub(crate) fn kept_bytes(weights: &[PassWeight]) -> Bytes {
    let kept = weights.iter().filter(|weight| weight.access == Access::Kept);
    kept.map(|weight| weight.tensor.span.len.saturating_add(Bytes::new(weight.cols() * 4))).sum()
}

/// Memory that the schedule itself takes.
pub(crate) fn schedule_bytes(blocks: &[Block]) -> Bytes {
    // The plan's list, the reader's list, and the runs.
    Bytes::of_len(blocks.len() * 3 * size_of::<Block>())
}
