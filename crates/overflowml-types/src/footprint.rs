//! How many bytes running a decoder takes beside its weights.
//!
//! The planner counts with these layouts and the executor allocates by them, so the two cannot
//! drift apart. Every buffer states its shape.

use serde::Serialize;

use crate::{Bytes, DType, DecoderSpec};

/// For which positions of a pass the vocabulary logits are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogitsWanted {
    /// Only the last one: generating text.
    Last,
    /// All of them: scoring text.
    All,
}

/// The key/value cache: how many positions each layer keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KvLayout {
    /// Element type of keys and values: the weights' own.
    pub dtype: DType,
    /// Positions kept per layer; a windowed layer needs only its window and the running chunk.
    pub cells: Vec<usize>,
    /// Elements of one position's keys (and as many again for its values).
    pub width: usize,
}

impl KvLayout {
    /// The cache for `context` positions fed in chunks of at most `chunk`.
    pub fn new(spec: &DecoderSpec, dtype: DType, context: usize, chunk: usize) -> Self {
        let cells = spec
            .layers
            .iter()
            .map(|layer| match layer.window {
                Some(window) => context.min(window.saturating_add(chunk)),
                None => context,
            })
            .collect();
        Self { dtype, cells, width: spec.kv_width() }
    }

    /// Bytes of all keys and values.
    pub fn size(&self) -> Bytes {
        let cells: u64 = self.cells.iter().map(|&cells| cells as u64).sum();
        self.dtype
            .size()
            .saturating_mul(2)
            .saturating_mul(self.width as u64)
            .saturating_mul(cells)
    }

    /// Bytes that one more token of context costs while no window is full.
    pub fn bytes_per_token(&self) -> Bytes {
        self.dtype.size().saturating_mul(2 * self.width as u64 * self.cells.len() as u64)
    }
}

/// The executor's activation buffers, in elements of `f32` unless said otherwise.
///
/// They are allocated once, for the largest chunk, and reused by every layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ScratchLayout {
    /// Tokens per pass at most.
    pub chunk: usize,
    /// `[chunk, hidden]`: the residual stream.
    pub residual: usize,
    /// `[chunk, hidden]`: what a part adds to it.
    pub delta: usize,
    /// `[chunk, query_width + 2 * kv_width]`.
    pub qkv: usize,
    /// `[chunk, query_width]`: attention's result.
    pub attended: usize,
    /// `[chunk, 2 * intermediate]`: gate and up.
    pub gate_up: usize,
    /// `[chunk, max(hidden, query_width, intermediate)]`: the input of a matrix product, as the
    /// kernels want it.
    pub input: usize,
    /// `[threads, context]`: attention scores of one head.
    pub scores: usize,
    /// `[1 or chunk, vocab]`.
    pub logits: usize,
}

impl ScratchLayout {
    /// Buffers for passes of `chunk` tokens over `context` positions on `threads` threads.
    pub fn new(
        spec: &DecoderSpec,
        chunk: usize,
        context: usize,
        threads: usize,
        wanted: LogitsWanted,
    ) -> Self {
        let widest = spec.hidden.max(spec.query_width()).max(spec.intermediate);
        let logit_rows = match wanted {
            LogitsWanted::Last => 1,
            LogitsWanted::All => chunk,
        };
        Self {
            chunk,
            residual: chunk * spec.hidden,
            delta: chunk * spec.hidden,
            qkv: chunk * (spec.query_width() + 2 * spec.kv_width()),
            attended: chunk * spec.query_width(),
            gate_up: chunk * 2 * spec.intermediate,
            input: chunk * widest,
            scores: threads * context,
            logits: logit_rows * spec.vocab,
        }
    }

    /// Bytes of all buffers.
    pub fn size(&self) -> Bytes {
        let elements = [
            self.residual,
            self.delta,
            self.qkv,
            self.attended,
            self.gate_up,
            self.input,
            self.scores,
            self.logits,
        ];
        Bytes::of_len(elements.iter().sum()).saturating_mul(4)
    }
}
