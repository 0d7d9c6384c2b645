//! What a pass costs. Every formula of the cost model is here.
//!
//! A pass over the model multiplies some tokens with every weight. Its time is
//! `max(compute, streamed / disk)`: reading runs ahead through the slots and around the end of the
//! pass, so the two overlap entirely.

use overflowml_types::{Access, Bytes, DecoderSpec, PassWeight, Seconds};

use crate::blocks::streamed_bytes;
use crate::plan::{Block, Plan, Prediction, Rates, Request};

/// What of the speed of matrix products attention reaches: its matrices are thin.
const ATTENTION_EFFICIENCY: f64 = 0.1;

/// The sizes that a pass's time depends on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Bytes of all matrices.
    pub(crate) weights: Bytes,
    /// Their elements.
    pub(crate) elements: f64,
    /// Bytes read from disk.
    pub(crate) streamed: Bytes,
    /// Keys and values of one position, all layers.
    pub(crate) kv_per_token: Bytes,
    /// Floating-point operations of one token's attention to one position, all layers.
    pub(crate) attention_flops: f64,
}

impl Load {
    pub(crate) fn new(spec: &DecoderSpec, weights: &[PassWeight], plan: &Plan) -> Self {
        let matrices = weights.iter().filter(|weight| weight.access == Access::Rows);
        #[allow(clippy::cast_precision_loss)] // far below 2^52
        let elements = matrices.clone().map(|w| (w.rows() * w.cols()) as f64).sum();
        #[allow(clippy::cast_precision_loss)]
        let attention_flops = (4 * spec.query_width() * spec.layers.len()) as f64;
        Self {
            weights: matrices.map(|weight| weight.tensor.span.len).sum(),
            elements,
            streamed: streamed_bytes(&plan.blocks),
            kv_per_token: plan.kv.bytes_per_token(),
            attention_flops,
        }
    }

    /// Multiplying `tokens` tokens, after `past` others, with weights that are in memory.
    #[allow(clippy::cast_precision_loss)] // token counts are far below 2^52
    pub(crate) fn compute(&self, rates: &Rates, tokens: usize, past: usize) -> Seconds {
        let (tokens, seen) = (tokens as f64, past as f64 + tokens as f64 / 2.0);
        let flops = rates.flops.value.max(1.0);
        let weights = rates.memory.value.time_for(self.weights).get();
        let products = (2.0 * self.elements * tokens / flops).max(weights);
        let keys = rates.memory.value.time_for(self.kv_per_token).get() * seen;
        let attention = self.attention_flops * tokens * seen / (flops * ATTENTION_EFFICIENCY);
        Seconds::new(products + keys.max(attention))
    }

    /// Reading what streams, once.
    pub(crate) fn read(&self, rates: &Rates) -> Seconds {
        rates.disk.value.time_for(self.streamed)
    }

    /// One pass.
    pub(crate) fn pass(&self, rates: &Rates, tokens: usize, past: usize) -> Seconds {
        let (compute, read) = (self.compute(rates, tokens, past), self.read(rates));
        if compute < read { read } else { compute }
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
    let (compute, read) = (load.compute(rates, together, halfway), load.read(rates));
    let pass = if compute < read { read } else { compute };
    #[allow(clippy::cast_precision_loss)] // far below 2^52
    let token = Seconds::new(pass.get() / together as f64);
    Prediction {
        weights_per_pass: load.weights,
        streamed_per_pass: load.streamed,
        load_seconds: rates.disk.value.time_for(plan.memory.resident),
        prefill_seconds: load.prefill(rates, request, plan.prefill_chunk),
        seconds_per_token: token,
        decode_tokens_per_second: 1.0 / token.get().max(f64::MIN_POSITIVE),
        limited_by: if compute < read { "disk" } else { "memory" },
    }
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
