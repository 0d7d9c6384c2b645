//! What can be typed about a model and a machine to plan for.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use overflowml::Bytes;

use super::HostArgs;

/// What is planned, and on which machine.
#[derive(Debug, Args)]
pub struct SubjectArgs {
    /// A size in GB as GPU makers count it (`40`, `1.5`, `40GB`), or a model: a Hugging Face or diffusers folder (a
    /// configuration alone will do), a `.safetensors` file, or a name on the hub such as `org/name`.
    #[arg(value_name = "SIZE_GB | MODEL")]
    pub subject: Option<String>,
    /// A mixture of experts of which only sizes are known: parameters and active parameters in billions, experts per
    /// layer, and experts per token.
    #[arg(long, num_args = 4, value_names = ["TOTAL_B", "ACTIVE_B", "EXPERTS", "ACTIVE"], conflicts_with = "subject")]
    pub moe: Option<Vec<f64>>,
    /// Plan for this machine instead: what `overflowml detect --json` prints on it.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["gpu", "ram", "os", "gpus"])]
    pub hardware: Option<PathBuf>,
    /// Plan for a machine with this GPU, for example `RTX 4090` or `M4 Max`; `none` for no GPU.
    #[arg(long, value_name = "NAME")]
    pub gpu: Option<String>,
    /// How many of them.
    #[arg(long, value_name = "N", requires = "gpu", value_parser = clap::value_parser!(u32).range(1..=16))]
    pub gpus: Option<u32>,
    /// Plan for a machine with this much main memory [default with --gpu: 32GiB, or the whole pool of a Mac].
    #[arg(long, value_name = "SIZE")]
    pub ram: Option<Bytes>,
    /// Plan for a machine with this system.
    #[arg(long, value_name = "NAME", value_parser = ["linux", "windows", "macos"])]
    pub os: Option<String>,
    /// Bound on the memory of each GPU [default: what is free].
    #[arg(long, value_name = "SIZE")]
    pub vram: Option<Bytes>,
    /// Tokens of the prompt to plan for.
    #[arg(long, value_name = "TOKENS", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    pub prompt_tokens: u32,
    /// New tokens to plan for.
    #[arg(long, value_name = "TOKENS", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_new_tokens: u32,
    /// Sequences or pictures at once.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub batch: u32,
    /// How keys and values are cached on a GPU.
    #[arg(long, value_enum, default_value_t = Kv::F16)]
    pub kv: Kv,
    /// Size of pictures (1024x1024 if not given) or video frames (832x480), in pixels.
    #[arg(long, value_name = "WxH", value_parser = parse_size)]
    pub size: Option<(u64, u64)>,
    /// Frames of a video.
    #[arg(long, value_name = "N", default_value_t = 81, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub frames: u32,
    /// Denoising steps.
    #[arg(long, value_name = "N", default_value_t = 28, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub steps: u32,
    /// Adapters that are loaded beside the model.
    #[arg(long, value_name = "SIZE")]
    pub lora_size: Option<Bytes>,
    /// Weights stay as they are stored.
    #[arg(long, conflicts_with = "fast")]
    pub no_quantize: bool,
    /// A lower precision is taken whenever it is faster, not only where the stored one does not fit.
    #[arg(long)]
    pub fast: bool,
}

/// How keys and values are cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kv {
    F32,
    F16,
    #[value(name = "q8_0")]
    Q8_0,
    F8,
    #[value(name = "q4_0")]
    Q4_0,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["subject", "moe", "popular"]))]
#[command(after_help = "\
Examples:
  overflowml plan ./model                                  on this machine
  overflowml plan 40                                       a 40 GB image model, of which only the size is known
  overflowml plan org/name --gpu \"RTX 4090\" --ram 64GiB    reads headers only
  overflowml plan 70 --gpu \"RTX 3090\" --gpus 2 --compare
  overflowml plan --moe 30 3 128 8 --gpu \"RTX 4070\"
  overflowml plan ./model --for llama.cpp                  the flags for those who run it elsewhere")]
pub struct PlanArgs {
    #[command(flatten)]
    pub what: SubjectArgs,
    #[command(flatten)]
    pub host: HostArgs,
    /// Show every way that was considered, and why others do not fit.
    #[arg(long)]
    pub compare: bool,
    /// What this machine could do with well-known models.
    #[arg(long, conflicts_with = "moe")]
    pub popular: bool,
    /// Print the flags or code that do the same in another program.
    #[arg(long = "for", value_name = "PROGRAM", value_enum, conflicts_with = "popular")]
    pub tool: Option<Tool>,
    /// Draw placement and timeline into this file.
    #[arg(long, value_name = "FILE", conflicts_with = "popular")]
    pub svg: Option<PathBuf>,
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
}

/// Programs that others use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Tool {
    #[value(name = "llama.cpp")]
    LlamaCpp,
    Vllm,
    Accelerate,
    Diffusers,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["subject", "moe"]))]
pub struct CanRunArgs {
    #[command(flatten)]
    pub what: SubjectArgs,
    #[command(flatten)]
    pub host: HostArgs,
    /// The most that may be moved while it runs.
    #[arg(long, value_enum, default_value_t = MostOffload::Disk)]
    pub max_offload: MostOffload,
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
}

/// Ways of moving weights, from the least to the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum MostOffload {
    None,
    ModelCpu,
    ExpertOffload,
    LayerHybrid,
    SequentialCpu,
    Disk,
}

/// Reads `1024x768`.
fn parse_size(text: &str) -> Result<(u64, u64), String> {
    let sides = text.split_once(['x', 'X', '×']);
    let side = |text: &str| text.trim().parse().ok().filter(|side| (16..=65_536).contains(side));
    sides
        .and_then(|(width, height)| Some((side(width)?, side(height)?)))
        .ok_or_else(|| format!("`{text}` is not a size of pictures: try `1024x1024`"))
}
