//! How many bytes running a decoder takes beside its weights.
//!
//! The planner counts with these layouts and the executor allocates by them, so the two cannot
//! drift apart. Every buffer states its shape.

use serde::Serialize;

use crate::{Bytes, DType, DecoderSpec};

/// What a run wants of the vocabulary logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogitsWanted {
    /// Those of the last position only: generating text.
    Last,
    /// The log-probability of every next token: scoring text. The vocabulary is then worked
    /// through in tiles of [`ScratchLayout::VOCAB_TILE`], so that no `[chunk, vocab]` buffer exists.
    All,
}

/// The key/value cache: how many positions each layer keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KvLayout {
    /// Element type of keys and values.
    pub dtype: DType,
    /// Positions kept per layer, a multiple of [`KvLayout::LANES`]; a windowed layer needs only its
    /// window and the running chunk.
    pub cells: Vec<usize>,
    /// Elements of one position's keys (and as many again for its values).
    pub width: usize,
    /// Sequences that advance together, each with cells of its own.
    pub sequences: usize,
}

impl KvLayout {
    /// Neighbouring positions whose keys are stored interleaved, so that one vector instruction
    /// works on all of them. Caches are rounded up to a multiple of it.
    pub const LANES: usize = 16;

    /// The cache of one sequence of `context` positions fed in chunks of at most `chunk`.
    pub fn new(spec: &DecoderSpec, dtype: DType, context: usize, chunk: usize) -> Self {
        let cells = spec
            .layers
            .iter()
            .map(|layer| {
                let needed = match layer.window {
                    Some(window) => context.min(window.saturating_add(chunk)),
                    None => context,
                };
                needed.next_multiple_of(Self::LANES)
            })
            .collect();
        Self { dtype, cells, width: spec.kv_width(), sequences: 1 }
    }

    /// The same for each of `sequences`.
    #[must_use]
    pub fn for_sequences(self, sequences: usize) -> Self {
        Self { sequences, ..self }
    }

    /// Bytes of all keys and values.
    pub fn size(&self) -> Bytes {
        let cells: u64 = self.cells.iter().map(|&cells| cells as u64).sum();
        let elements = (self.width as u64).saturating_mul(cells).saturating_mul(2);
        self.dtype.size().saturating_mul(elements).saturating_mul(self.sequences as u64)
    }

    /// Bytes that one more token of context costs one sequence while no window is full.
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
    /// `[chunk, hidden]`: a part's normalised input, later what it adds to the residual stream.
    pub delta: usize,
    /// `[chunk, query_width]`, `[chunk, kv_width]` and `[chunk, kv_width]`.
    pub qkv: usize,
    /// `[chunk, query_width]`: attention's result.
    pub attended: usize,
    /// `[2, chunk, intermediate]`: gate and up.
    pub gate_up: usize,
    /// `[chunk, max(hidden, query_width, intermediate)]`, rounded up to [`Self::COLUMN_STEP`]: the
    /// input of a matrix product, as the kernels want it.
    pub input: usize,
    /// `[ropes, chunk, rotary_dim]`: cosines and sines of the pass's positions.
    pub rotations: usize,
    /// `[threads, heads per key/value head, SCORE_TILE + 2]`: attention scores of one tile of
    /// positions, with the running maximum and sum.
    pub scores: usize,
    /// `[sequences, vocab]`, or `[chunk, VOCAB_TILE]` if that is more and every position is scored.
    pub logits: usize,
    /// `[chunk, 3]` of `f64`: running maximum, sum and the wanted logit of scored tokens.
    pub tallies: usize,
    /// `[sequences, vocab, 2]`: each sampler's candidates, logit and token.
    pub candidates: usize,
    /// `[hidden]`: one embedding row as stored.
    pub row: usize,
}

impl ScratchLayout {
    /// Positions that attention works on at a time.
    pub const SCORE_TILE: usize = 64;
    /// Inputs of matrix products are filled up to a multiple of this.
    pub const COLUMN_STEP: usize = 32;
    /// Vocabulary rows that scoring works on at a time.
    pub const VOCAB_TILE: usize = 1024;

    /// Buffers for passes of `chunk` tokens on `threads` threads. Attention works in tiles, so
    /// the context costs nothing here.
    pub fn new(spec: &DecoderSpec, chunk: usize, threads: usize, wanted: LogitsWanted) -> Self {
        let widest = spec.hidden.max(spec.query_width()).max(spec.intermediate);
        let (tile_rows, scored, sampled) = match wanted {
            LogitsWanted::Last => (0, 0, spec.vocab),
            LogitsWanted::All => (chunk, chunk, 0),
        };
        let rotary: usize = spec.ropes.iter().map(|rope| rope.rotary_dim).sum();
        let group = spec.heads / spec.kv_heads.max(1);
        Self {
            chunk,
            residual: chunk * spec.hidden,
            delta: chunk * spec.hidden,
            qkv: chunk * (spec.query_width() + 2 * spec.kv_width()),
            attended: chunk * spec.query_width(),
            gate_up: chunk * 2 * spec.intermediate,
            input: chunk * widest.next_multiple_of(Self::COLUMN_STEP),
            rotations: chunk * rotary,
            scores: threads * group * (Self::SCORE_TILE + 2),
            logits: spec.vocab.max(tile_rows * Self::VOCAB_TILE.min(spec.vocab)),
            tallies: scored * 6,
            candidates: sampled * 2,
            row: spec.hidden,
        }
    }

    /// The same for passes that give the logits of up to `sequences` sequences, each of `vocab` tokens.
    #[must_use]
    pub fn for_sequences(self, sequences: usize, vocab: usize) -> Self {
        let logits = self.logits.max(sequences * vocab);
        Self { logits, candidates: self.candidates * sequences, ..self }
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
            self.rotations,
            self.scores,
            self.logits,
            self.tallies,
            self.candidates,
            self.row,
        ];
        Bytes::of_len(elements.iter().sum()).saturating_mul(4)
    }
}
