//! What a run tells about itself. Field names are a contract: `run --json` prints these.

use std::time::Duration;

use overflowml_plan::Plan;
use overflowml_types::{Bytes, Seconds};
use serde::{Deserialize, Serialize};

/// How long the parts of a run took.
#[derive(Clone, Debug, Serialize)]
pub struct Timings {
    /// From opening the files to the first pass.
    pub load_seconds: Seconds,
    /// From the prompt to the first new token.
    pub prefill_seconds: Seconds,
    /// All tokens after the first.
    pub decode_seconds: Seconds,
    /// Tokens after the first per second; `None` if there was only one.
    pub decode_tokens_per_second: Option<f64>,
    /// The same as predicted, after the load had measured the disk.
    pub predicted_tokens_per_second: f64,
}

/// Memory as promised, predicted and measured.
#[derive(Clone, Debug, Serialize)]
pub struct MemoryReport {
    /// The promise.
    #[serde(rename = "budget_bytes")]
    pub budget: Bytes,
    /// The plan's prediction.
    #[serde(rename = "predicted_peak_bytes")]
    pub predicted_peak: Bytes,
    /// The most that the process ever held; `None` where the system does not say.
    #[serde(rename = "peak_rss_bytes")]
    pub peak_rss: Option<Bytes>,
    /// Weights that stayed in memory.
    #[serde(rename = "resident_weights_bytes")]
    pub resident_weights: Bytes,
}

/// What was read from disk.
#[derive(Clone, Debug, Serialize)]
pub struct IoReport {
    /// Everything: loading, streaming, rows of the embedding.
    #[serde(rename = "bytes_read")]
    pub read: Bytes,
    /// While loading what stays in memory.
    #[serde(rename = "loaded_bytes")]
    pub loaded: Bytes,
    /// Through the rotating slots.
    #[serde(rename = "streamed_bytes")]
    pub streamed: Bytes,
    /// Single rows of the embedding.
    #[serde(rename = "looked_up_bytes")]
    pub looked_up: Bytes,
    /// Streamed bytes per pass over the model; every decoded token takes one pass.
    #[serde(rename = "streamed_per_pass_bytes")]
    pub streamed_per_pass: Bytes,
    /// While something was being read; `None` if nothing was.
    pub read_bytes_per_second: Option<f64>,
    /// Time that computing waited for reading.
    pub stall_seconds: Seconds,
    /// Passes over the model, where a part of it streams.
    pub passes: u64,
    /// What the experts' cache did; `None` if there is none.
    pub experts: Option<ExpertReport>,
    /// Whether the page cache was bypassed.
    pub direct: bool,
    /// Why not, if not.
    pub buffered_because: Option<String>,
}

/// What the cache of a mixture's experts did.
#[derive(Clone, Debug, Serialize)]
pub struct ExpertReport {
    /// Experts that were needed, each once per pass.
    #[serde(rename = "used_bytes")]
    pub used: Bytes,
    /// Of those, what was not in memory.
    #[serde(rename = "missed_bytes")]
    pub missed: Bytes,
    /// What was read for it: the same with the alignment of direct reads.
    #[serde(rename = "read_bytes")]
    pub read: Bytes,
    /// The share of the needed bytes that was in memory.
    pub hit_rate: Option<f64>,
    /// The same since the last prompt was read; `None` if nothing was needed since.
    pub decode_hit_rate: Option<f64>,
    /// What was read since then.
    #[serde(rename = "decode_read_bytes")]
    pub decode_read: Bytes,
    /// Time that computing waited for experts.
    pub stall_seconds: Seconds,
}

/// Everything that `run --json` prints.
#[derive(Clone, Debug, Serialize)]
pub struct RunReport {
    /// The new text.
    pub text: String,
    /// The new tokens.
    pub tokens: Vec<u32>,
    /// How many tokens the prompt had.
    pub prompt_tokens: usize,
    /// Why it ended.
    pub stopped_by: StoppedBy,
    /// Durations.
    pub timings: Timings,
    /// Memory.
    pub memory: MemoryReport,
    /// Disk.
    pub io: IoReport,
    /// The plan that was run.
    pub plan: Plan,
}

/// What a batch tells about itself: `run --prompts --json` prints these.
#[derive(Clone, Debug, Serialize)]
pub struct BatchReport {
    /// From opening the files to the first pass.
    pub load_seconds: Seconds,
    /// Everything after that.
    pub generate_seconds: Seconds,
    /// New tokens per second of it.
    pub tokens_per_second: f64,
    /// Memory.
    pub memory: MemoryReport,
    /// Disk.
    pub io: IoReport,
    /// The plan that was run.
    pub plan: Plan,
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoppedBy {
    /// The model ended its text.
    EndOfText,
    /// As many tokens as were asked for.
    Length,
    /// The user.
    Interrupt,
}

/// Everything that `score --json` prints.
#[derive(Clone, Debug, Serialize)]
pub struct ScoreReport {
    /// The tokens that were scored.
    pub tokens: Vec<u32>,
    /// Natural logarithm of the probability of each token after the first.
    pub logprobs: Vec<f32>,
    /// `exp(-mean(logprobs))`.
    pub perplexity: f64,
    /// Durations; nothing is decoded.
    pub score_seconds: Seconds,
    /// Memory.
    pub memory: MemoryReport,
    /// Disk.
    pub io: IoReport,
    /// The plan that was run.
    pub plan: Plan,
}

/// A measured duration, for a report.
pub(crate) fn seconds(duration: Duration) -> Seconds {
    Seconds::new(duration.as_secs_f64())
}
