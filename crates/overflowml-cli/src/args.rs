//! What can be typed: declarations and `--help` texts only. [`crate::settings`] resolves them.

mod plan;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use overflowml::Bytes;

pub use plan::{CanRunArgs, Kv, MostOffload, PlanArgs, SubjectArgs, Tool};

const EXAMPLES: &str = "\
Examples:
  overflowml demo                                    see it work on a model it makes itself
  overflowml run ./model --prompt \"Once upon a time\"
  overflowml run ./model --memory 4GiB --chat        stay below 4 GiB, whatever the model's size
  overflowml plan ./model --memory 4GiB              what would stay, what would stream, how fast
  overflowml plan 40 --gpu \"RTX 4090\" --ram 64GiB    a 40 GB image model on a machine you don't have
  overflowml inspect org/name --json

Exit codes: 0 done, 1 a valid \"no\" (does not fit, check failed), 2 could not answer (bad input, I/O).";

/// Run AI models larger than your memory.
///
/// OverflowML looks at the model and the machine, keeps in memory what fits, and streams the rest
/// from disk just in time: the same tokens as with unlimited memory, inside the memory you give.
#[derive(Debug, Parser)]
#[command(name = "overflowml", version, after_help = EXAMPLES, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    /// Say more on stderr (repeat for more).
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show what this machine has: CPU, memory and its limits, disk, GPUs.
    Detect(DetectArgs),
    /// Show what is in a model: architecture, sizes, groups, KV cache per token.
    Inspect(InspectArgs),
    /// Decide where every part of a model would live, and predict memory and speed.
    Plan(Box<PlanArgs>),
    /// Say whether a model can run, as an exit code: 0 yes, 1 no.
    #[command(name = "can-run")]
    CanRun(Box<CanRunArgs>),
    /// Generate text.
    Run(RunArgs),
    /// Compute the log-probability of every token of a text, and its perplexity.
    Score(ScoreArgs),
    /// Make a random-weight model in the usual layout, for tests and benchmarks.
    Synth(SynthArgs),
    /// The main job, on a model it makes itself: larger than its budget, same tokens.
    Demo(DemoArgs),
    /// Measure this machine's disk, memory and compute speed; predictions then use them.
    Bench(BenchArgs),
    /// Check this machine, its Python packages and a model; say what to fix.
    Doctor(DoctorArgs),
}

#[derive(Debug, Args)]
pub struct DetectArgs {
    /// Also list the processes that hold GPU memory.
    #[arg(long)]
    pub live: bool,
    /// Report the disk under this path.
    #[arg(long, value_name = "PATH", default_value = ".")]
    pub path: PathBuf,
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct InspectArgs {
    #[command(flatten)]
    pub model: ModelArg,
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
}

/// Which model.
#[derive(Debug, Args)]
pub struct ModelArg {
    /// A Hugging Face folder, a `.safetensors` file with its config.json beside it, or the name of a
    /// model on the Hugging Face hub, such as `org/name` or `org/name@revision`. To run, it is
    /// downloaded to the usual cache; to look and plan, only its headers are read. `HF_HOME`,
    /// `HF_HUB_CACHE`, `HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE` are obeyed.
    #[arg(value_name = "MODEL")]
    pub model: String,
}

/// What may be used.
#[derive(Debug, Args)]
pub struct HostArgs {
    /// Bound on the memory of the whole process, for example `4GiB` [default: what is free now].
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<Bytes>,
    /// Compute threads [default: usable cores].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Positions that the KV cache must hold [default: prompt and new tokens].
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    pub context: Option<u32>,
    /// Whether weights may be shrunk. `exact` forbids it; `auto` lets the plan decide. What runs here keeps the stored
    /// precision so far; only plans for other programs shrink.
    #[arg(long, value_enum, default_value_t = Precision::Auto)]
    pub precision: Precision,
    /// Read through the page cache even where the disk allows direct reads.
    #[arg(long)]
    pub no_direct_io: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Precision {
    Auto,
    Exact,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("input").required(true).args(["prompt", "prompt_file", "chat", "prompts"]))]
pub struct RunArgs {
    #[command(flatten)]
    pub model: ModelArg,
    /// Continue this text, as it is (no chat template).
    #[arg(long, value_name = "TEXT")]
    pub prompt: Option<String>,
    /// Continue the text in this file; `-` is stdin.
    #[arg(long, value_name = "FILE")]
    pub prompt_file: Option<PathBuf>,
    /// Talk: the model's chat template with history. `/exit` ends, Ctrl-C ends a reply.
    #[arg(long, conflicts_with = "json")]
    pub chat: bool,
    /// Continue every prompt in this JSON Lines file: `{"prompt": "..."}` per line, optionally with `id`,
    /// `max_new_tokens`, `temperature` and `seed`. They advance together, so that each byte that streams from
    /// disk serves all of them. A run that was stopped continues when it is started again.
    #[arg(long, value_name = "FILE", requires = "out")]
    pub prompts: Option<PathBuf>,
    /// Where the results of `--prompts` go: one JSON object per row, in the rows' order.
    #[arg(long, value_name = "FILE", requires = "prompts")]
    pub out: Option<PathBuf>,
    /// How many prompts advance together; `auto` is as many as make it fastest in the memory given.
    #[arg(long, value_name = "N", default_value = "auto", requires = "prompts")]
    pub batch: BatchSize,
    /// Begin anew where results, or an unfinished run's, are there already.
    #[arg(long, requires = "prompts")]
    pub overwrite: bool,
    /// Instructions at the start of a chat.
    #[arg(long, value_name = "TEXT", requires = "chat")]
    pub system: Option<String>,
    /// New tokens at most (per reply in a chat).
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_new_tokens: u32,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    #[command(flatten)]
    pub host: HostArgs,
    /// Print one JSON document instead of the text.
    #[arg(long)]
    pub json: bool,
}

/// How many prompts advance together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchSize {
    /// As many as make it fastest.
    Auto,
    /// So many.
    Rows(u16),
}

impl std::str::FromStr for BatchSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match (text, text.parse()) {
            ("auto", _) => Ok(Self::Auto),
            (_, Ok(rows @ 1..=1024)) => Ok(Self::Rows(rows)),
            _ => Err("a number from 1 to 1024 is needed, or `auto`".to_owned()),
        }
    }
}

/// How the next token is chosen; defaults come from the model's generation_config.json.
#[derive(Debug, Args)]
pub struct SamplingArgs {
    /// 0 always takes the likeliest token; higher is more varied.
    #[arg(long, value_name = "T")]
    pub temperature: Option<f32>,
    /// Only the K likeliest tokens (0: all).
    #[arg(long, value_name = "K")]
    pub top_k: Option<usize>,
    /// Only the likeliest tokens that together have probability P.
    #[arg(long, value_name = "P")]
    pub top_p: Option<f32>,
    /// Only tokens at least P times as likely as the likeliest.
    #[arg(long, value_name = "P")]
    pub min_p: Option<f32>,
    /// Above 1 makes tokens that have occurred less likely.
    #[arg(long, value_name = "R")]
    pub repetition_penalty: Option<f32>,
    /// The same seed gives the same text [default: 0].
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Go on after the model's end-of-text token.
    #[arg(long)]
    pub ignore_eos: bool,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("input").required(true).args(["text", "tokens"]))]
pub struct ScoreArgs {
    #[command(flatten)]
    pub model: ModelArg,
    /// Score the text in this file; `-` is stdin.
    #[arg(long, value_name = "FILE")]
    pub text: Option<PathBuf>,
    /// Score these token ids, for example `1,15043,3186`.
    #[arg(long, value_name = "LIST", value_delimiter = ',', num_args = 1..)]
    pub tokens: Option<Vec<u32>>,
    #[command(flatten)]
    pub host: HostArgs,
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct SynthArgs {
    /// The folder to make; it must not exist, be empty, or be an interrupted synth of the same
    /// request.
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// The architecture, for example `llama`, `qwen3` or `gemma2`.
    #[arg(long, value_name = "NAME", default_value = "llama")]
    pub arch: String,
    /// About how many parameters, for example `750M` or `3B`.
    #[arg(long, value_name = "N", value_parser = parse_count)]
    pub params: u64,
    /// Element type of the weights.
    #[arg(long, value_name = "D", default_value = "bf16")]
    pub dtype: String,
    /// The same seed gives the same bytes.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Memory that the model may use.
    #[arg(long, value_name = "SIZE", default_value = "512MiB")]
    pub memory: Bytes,
    /// Size of the model to make.
    #[arg(long, value_name = "SIZE", default_value = "1.5GB")]
    pub size: Bytes,
    /// Tokens to generate.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(2..))]
    pub tokens: u32,
    /// Delete the demo's models and stop.
    #[arg(long)]
    pub clean: bool,
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Measure and store this machine's speeds.
    #[arg(long, required = true)]
    pub calibrate: bool,
    /// Read this model's files to time its disk.
    #[arg(long, value_name = "MODEL")]
    pub model: Option<String>,
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Also check whether this model would run here.
    #[arg(long, value_name = "MODEL")]
    pub model: Option<String>,
    /// Also write what a bug report needs, without names and serials; a name that ends in `.txt`
    /// gives plain text.
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "overflowml-doctor.json")]
    pub bundle: Option<PathBuf>,
    /// Replace the bundle file if it exists.
    #[arg(long, requires = "bundle")]
    pub overwrite: bool,
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
}

/// Reads `750M`, `3B`, `1.1e9` and `5000000`.
fn parse_count(text: &str) -> Result<u64, String> {
    let (digits, scale) = match text.trim().to_ascii_uppercase() {
        t if t.ends_with('K') => (t[..t.len() - 1].to_owned(), 1e3),
        t if t.ends_with('M') => (t[..t.len() - 1].to_owned(), 1e6),
        t if t.ends_with('B') => (t[..t.len() - 1].to_owned(), 1e9),
        t => (t, 1.0),
    };
    match digits.parse::<f64>() {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // both are checked here
        Ok(n) if n > 0.0 && n * scale < 1e13 => Ok((n * scale) as u64),
        _ => Err(format!("`{text}` is not a number of parameters: try `750M` or `3B`")),
    }
}
