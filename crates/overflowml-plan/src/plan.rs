use overflowml_types::{
    Bytes, BytesPerSecond, DType, FileSpan, Known, KvLayout, LogitsWanted, ScratchLayout, Seconds,
};
use serde::Serialize;

use crate::blocks::{runs, stored};
use crate::experts::ExpertCache;

/// What the user wants from a run on this host.
#[derive(Clone, Debug)]
pub struct Request {
    /// Bound on the memory of the whole process: weights, slots, KV cache, activations, code.
    pub budget: Bytes,
    /// Tokens that are fed before the first new one.
    pub prompt: usize,
    /// New tokens at most; `prompt + generate` positions must fit the KV cache.
    pub generate: usize,
    /// Sequences that advance together, at least one; each has a prompt and new tokens of its own.
    pub sequences: usize,
    /// Which logits are wanted.
    pub logits: LogitsWanted,
    /// Element type of the KV cache.
    pub kv_dtype: DType,
    /// Compute threads.
    pub threads: usize,
    /// Memory of the process beside what is planned here: code, stacks, tokenizer.
    pub overhead: Known<Bytes>,
    /// How fast this machine is.
    pub rates: Rates,
}

/// How fast a machine is, for the cost model.
#[derive(Clone, Debug, Serialize)]
pub struct Rates {
    /// Reading the model's own disk past the page cache.
    #[serde(rename = "disk_bytes_per_second")]
    pub disk: Known<BytesPerSecond>,
    /// Multiplying one token with weights in memory, in bytes of weights.
    #[serde(rename = "memory_bytes_per_second")]
    pub memory: Known<BytesPerSecond>,
    /// Multiplying many tokens with weights, in floating-point operations per second.
    #[serde(rename = "flops_per_second")]
    pub flops: Known<f64>,
}

/// Where every part lives, the schedule, and what it is predicted to cost.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// The short name of the plan's shape.
    pub strategy: Strategy,
    /// The bound it was made for.
    #[serde(rename = "budget_bytes")]
    pub budget: Bytes,
    /// Every block that a pass uses, in order of use; streamed ones are read in this order, pass
    /// after pass. Looked-up weights appear only if they are in memory.
    #[serde(skip)]
    pub blocks: Vec<Block>,
    /// The rotating slots; `None` if nothing streams.
    pub ring: Option<Ring>,
    /// Where experts are kept and read to; `None` if there are none, or all stay in memory.
    pub experts: Option<ExpertCache>,
    /// Sequences that advance together.
    pub sequences: usize,
    /// Positions that the KV cache holds for each of them.
    pub context: usize,
    /// Tokens per pass while the prompt is read.
    pub prefill_chunk: usize,
    /// The KV cache.
    #[serde(skip)]
    pub kv: KvLayout,
    /// The activation buffers.
    #[serde(skip)]
    pub scratch: ScratchLayout,
    /// What the predicted peak consists of.
    pub memory: MemoryTerms,
    /// The speeds that it was made with.
    pub rates: Rates,
    /// Predicted speed.
    pub prediction: Prediction,
}

impl Plan {
    /// What stays in memory, in the order in which it lies in the arena.
    pub fn runs(&self) -> Vec<Run> {
        runs(&self.blocks)
    }

    /// Whether passes read no matrix from disk.
    pub const fn streams_nothing(&self) -> bool {
        self.ring.is_none() && self.experts.is_none()
    }

    /// Bytes of weights that stay in memory, without alignment.
    pub fn resident_weights(&self) -> Bytes {
        let kept = self.blocks.iter().filter(|block| block.home == Home::Memory);
        kept.map(|block| block.span.len).sum()
    }
}

/// A run of whole rows of one matrix: the unit that is kept or streamed.
///
/// Matrix-vector products work on any run of rows, so nothing larger has to be in memory at once,
/// and a budget is used to within one block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Block {
    /// Index into the pass's weights.
    pub weight: usize,
    /// Its first row.
    pub first_row: u64,
    /// How many rows.
    pub rows: u64,
    /// Where they are.
    pub span: FileSpan,
    /// Where they live.
    pub home: Home,
}

/// Neighbouring blocks of one matrix that stay in memory, stored as one piece.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Run {
    /// Index into the pass's weights.
    pub weight: usize,
    /// Its first row.
    pub first_row: u64,
    /// How many rows.
    pub rows: u64,
    /// Where they are in the file.
    pub span: FileSpan,
    /// Where [`Run::stored`] starts in the arena, a multiple of [`ALIGNMENT`](crate::ALIGNMENT).
    pub at: Bytes,
}

impl Run {
    /// The aligned file span around the run that a direct read takes, and that is kept.
    pub fn stored(&self) -> FileSpan {
        stored(self.span)
    }

    pub(crate) fn is_followed_by(&self, block: &Block) -> bool {
        self.weight == block.weight
            && self.span.file == block.span.file
            && self.span.end() == block.span.offset
            && self.first_row + self.rows == block.first_row
    }
}

impl Block {
    /// The aligned file span around the block that a direct read takes.
    pub fn stored(&self) -> FileSpan {
        stored(self.span)
    }
}

/// Where a block lives between uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Home {
    /// In memory from the start to the end.
    Memory,
    /// On disk: read into a slot for every pass.
    Disk,
}

/// The slots through which streamed blocks rotate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Ring {
    /// How many.
    pub slots: usize,
    /// Size of each: the largest streamed block and the alignment of direct reads.
    #[serde(rename = "slot_bytes")]
    pub slot: Bytes,
}

/// The short name of a plan's shape, in the words users know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// Everything is in memory; nothing streams.
    None,
    /// A part streams from disk.
    Disk,
}

/// What a predicted peak consists of.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MemoryTerms {
    /// Blocks that stay in memory, with the alignment of direct reads.
    #[serde(rename = "resident_bytes")]
    pub resident: Bytes,
    /// Small weights that are always in memory (norms, biases), as `f32`.
    #[serde(rename = "kept_bytes")]
    pub kept: Bytes,
    /// The rotating slots.
    #[serde(rename = "slots_bytes")]
    pub slots: Bytes,
    /// The experts' cache.
    #[serde(rename = "experts_bytes")]
    pub experts: Bytes,
    /// Keys and values.
    #[serde(rename = "kv_bytes")]
    pub kv: Bytes,
    /// Activation buffers.
    #[serde(rename = "activations_bytes")]
    pub activations: Bytes,
    /// The process itself.
    #[serde(rename = "overhead_bytes")]
    pub overhead: Bytes,
    /// The sum.
    #[serde(rename = "peak_bytes")]
    pub peak: Bytes,
}

/// What a plan is predicted to reach.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Prediction {
    /// Bytes of weights that a pass multiplies with.
    #[serde(rename = "weights_per_pass_bytes")]
    pub weights_per_pass: Bytes,
    /// Bytes read from disk per pass.
    #[serde(rename = "streamed_per_pass_bytes")]
    pub streamed_per_pass: Bytes,
    /// Reading what stays in memory, before the first token.
    pub load_seconds: Seconds,
    /// From the prompt to the first new token; of all sequences.
    pub prefill_seconds: Seconds,
    /// Each further token; sequences that advance together share the time of a pass.
    pub seconds_per_token: Seconds,
    /// Its inverse.
    pub decode_tokens_per_second: f64,
    /// What limits it: `disk` or `memory`.
    pub limited_by: &'static str,
    /// What is expected of the experts' cache; `None` if there is none.
    pub experts: Option<ExpertPrediction>,
}

/// What a cache of experts is expected to do for one token. Which experts a text needs is not known before
/// it is read, so that this is a range.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ExpertPrediction {
    /// If experts are chosen evenly.
    pub low: ExpertRate,
    /// If some are chosen more often than others, as is usual.
    pub expected: ExpertRate,
    /// If few are chosen again and again.
    pub high: ExpertRate,
}

/// One point of an [`ExpertPrediction`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ExpertRate {
    /// The share of the chosen experts' bytes that is in memory, 0 to 1.
    pub hit_rate: f64,
    /// Bytes of experts read per token.
    #[serde(rename = "bytes_per_token")]
    pub per_token: Bytes,
    /// The speed that this gives.
    pub decode_tokens_per_second: f64,
}

impl Prediction {
    /// Prefill and all new tokens of all sequences.
    pub fn seconds_for(&self, request: &Request) -> Seconds {
        #[allow(clippy::cast_precision_loss)] // token counts are far below 2^52
        let tokens = request.generate.saturating_mul(request.sequences.max(1)) as f64;
        Seconds::new(self.prefill_seconds.get() + tokens * self.seconds_per_token.get())
    }
}
