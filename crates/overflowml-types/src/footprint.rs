//! How many bytes running a decoder takes beside its weights.
//!
//! The planner counts with these layouts and the executor allocates by them, so the two cannot
//! drift apart. Every buffer states its shape.

use serde::Serialize;

use crate::{Bytes, DType, DecoderSpec, ExpertStorage};

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
    /// Elements of one position's keys; 0 where keys and values are made from one vector.
    pub width: usize,
    /// Elements of one position's values, or of the vector that both are made from.
    pub value_width: usize,
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
        let (width, value_width) = match &spec.latent {
            Some(latent) => (0, latent.width()),
            None => (spec.kv_width(), spec.kv_width()),
        };
        Self { dtype, cells, width, value_width, sequences: 1 }
    }

    /// The same for each of `sequences`.
    #[must_use]
    pub fn for_sequences(self, sequences: usize) -> Self {
        Self { sequences, ..self }
    }

    /// Bytes of all keys and values.
    pub fn size(&self) -> Bytes {
        let cells: u64 = self.cells.iter().map(|&cells| cells as u64).sum();
        self.bytes_per_cell().saturating_mul(cells).saturating_mul(self.sequences as u64)
    }

    /// Bytes that one more token of context costs one sequence while no window is full.
    pub fn bytes_per_token(&self) -> Bytes {
        self.bytes_per_cell().saturating_mul(self.cells.len() as u64)
    }

    /// Keys and values of one position in one layer.
    fn bytes_per_cell(&self) -> Bytes {
        self.dtype.size().saturating_mul((self.width + self.value_width) as u64)
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
    /// `[chunk, projected_width]`: queries, keys and values.
    pub qkv: usize,
    /// `[chunk, attended_width]`: attention's result.
    pub attended: usize,
    /// `[2, chunk, widest feed-forward part]`: gate and up.
    pub gate_up: usize,
    /// `[chunk, columns of the widest matrix]`, rounded up to [`Self::COLUMN_STEP`]: the input of a
    /// matrix product, as the kernels want it.
    pub input: usize,
    /// `[ropes, chunk, rotary_dim]`: cosines and sines of the pass's positions.
    pub rotations: usize,
    /// `[threads, heads per key/value head, SCORE_TILE + 2]`: attention scores of one tile of
    /// positions, with the running maximum and sum; of latent attention, one head's query as well.
    pub scores: usize,
    /// `[sequences, vocab]`, or `[chunk, VOCAB_TILE]` if that is more and every position is scored.
    pub logits: usize,
    /// `[chunk, 3]` of `f64`: running maximum, sum and the wanted logit of scored tokens.
    pub tallies: usize,
    /// `[sequences, vocab, 2]`: each sampler's candidates, logit and token.
    pub candidates: usize,
    /// `[hidden]`: one embedding row as stored.
    pub row: usize,
    /// What latent attention takes besides; nothing for other attention.
    pub latent: LatentScratch,
    /// What mixtures of experts take besides; nothing for others.
    pub experts: ExpertScratch,
}

/// Buffers of latent attention, in elements of `f32`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LatentScratch {
    /// `[chunk, query_rank]`: what queries are made from.
    pub queries_down: usize,
    /// `[chunk, heads, rank + rope_dim]`: queries as the cache wants them, later attention's result.
    pub queries: usize,
    /// `[chunk, max(plain_dim, rank)]`: one head's input of a product.
    pub head: usize,
}

/// Buffers of mixtures of experts, in elements of four bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ExpertScratch {
    /// `[chunk, experts]`: what the router says.
    pub scores: usize,
    /// `[chunk, active, 2]`: chosen experts and their weights.
    pub chosen: usize,
    /// `[chunk, active, 2]`, `[experts, 3]` and `[experts, 4]`: tokens in the order of their experts,
    /// what is used to sort them, and what is asked for.
    pub order: usize,
    /// `[max(chunk, active), hidden]`: one expert's tokens and results, or all experts' of one token.
    pub gathered: usize,
    /// `[chunk, hidden]`: the sum.
    pub mixed: usize,
    /// `[chunk, the wider of an expert and the shared part]`: the gated input of a down projection.
    pub gated: usize,
    /// Scales of one matrix, as bytes, and `[BLOCK_ROWS, columns]` of its rows, where matrices are
    /// stored in blocks.
    pub blocks: usize,
}

impl LatentScratch {
    fn new(spec: &DecoderSpec, chunk: usize) -> Self {
        let Some(latent) = &spec.latent else { return Self::default() };
        Self {
            queries_down: chunk * latent.query_rank.unwrap_or(0),
            queries: chunk * spec.heads * latent.width(),
            head: chunk * latent.plain_dim.max(latent.rank),
        }
    }

    const fn elements(&self) -> usize {
        self.queries_down + self.queries + self.head
    }
}

impl ExpertScratch {
    /// Rows of a matrix in blocks that are worked on at a time.
    pub const BLOCK_ROWS: usize = 128;

    fn new(spec: &DecoderSpec, chunk: usize) -> Self {
        let Some(experts) = &spec.experts else { return Self::default() };
        let (count, active) = (experts.count, experts.active);
        let shared = experts.shared.map_or(0, |shared| shared.intermediate);
        let blocks = match experts.storage {
            ExpertStorage::Mxfp4 => {
                let scales = 2 * experts.intermediate * spec.hidden.div_ceil(32);
                scales.max(spec.hidden * experts.intermediate.div_ceil(32)).div_ceil(4)
                    + Self::BLOCK_ROWS * spec.hidden.max(experts.intermediate).next_multiple_of(32)
            }
            _ => 0,
        };
        Self {
            scores: chunk * count,
            chosen: chunk * active * 2,
            order: chunk * active * 2 + count * 3 + 1 + count * 4,
            gathered: chunk.max(active) * spec.hidden,
            mixed: chunk * spec.hidden,
            gated: chunk * experts.intermediate.max(shared),
            blocks,
        }
    }

    const fn elements(&self) -> usize {
        let Self { scores, chosen, order, gathered, mixed, gated, blocks } = *self;
        scores + chosen + order + gathered + mixed + gated + blocks
    }
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
        let inner = spec.widest_feed_forward();
        let latent = spec.latent.as_ref();
        let ranks = latent.map_or(0, |latent| latent.rank.max(latent.query_rank.unwrap_or(0)));
        let widest = spec.hidden.max(spec.attended_width()).max(inner).max(ranks);
        let (tile_rows, scored, sampled) = match wanted {
            LogitsWanted::Last => (0, 0, spec.vocab),
            LogitsWanted::All => (chunk, chunk, 0),
        };
        let rotary: usize = spec.ropes.iter().map(|rope| rope.rotary_dim).sum();
        // Of latent attention, a thread works on one head, whose query it copies.
        let (group, query) = match latent {
            Some(latent) => (1, latent.width()),
            None => (spec.heads / spec.kv_heads.max(1), 0),
        };
        Self {
            chunk,
            residual: chunk * spec.hidden,
            delta: chunk * spec.hidden,
            qkv: chunk * spec.projected_width(),
            attended: chunk * spec.attended_width(),
            gate_up: chunk * 2 * inner,
            input: chunk * widest.next_multiple_of(Self::COLUMN_STEP),
            rotations: chunk * rotary,
            scores: threads * (group * (Self::SCORE_TILE + 2) + query),
            logits: spec.vocab.max(tile_rows * Self::VOCAB_TILE.min(spec.vocab)),
            tallies: scored * 6,
            candidates: sampled * 2,
            row: spec.hidden,
            latent: LatentScratch::new(spec, chunk),
            experts: ExpertScratch::new(spec, chunk),
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
            self.latent.elements(),
            self.experts.elements(),
        ];
        Bytes::of_len(elements.iter().sum()).saturating_mul(4)
    }
}
