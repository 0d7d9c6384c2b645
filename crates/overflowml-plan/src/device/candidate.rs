use overflowml_types::{Bytes, Seconds};
use serde::{Deserialize, Serialize};

use super::simulate::{self, Span, Step};

/// Where the parts of a model live between uses, in the words users know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Offload {
    /// Everything stays in the memory that computes.
    None,
    /// Whole components take turns on the accelerator.
    ModelCpu,
    /// Some layers stay on the accelerator; the others stream to it, or are computed by the processor.
    LayerHybrid,
    /// Every layer streams to the accelerator.
    SequentialCpu,
    /// What every token uses stays on the accelerator, experts are in main memory.
    ExpertOffload,
    /// A part stays on disk and is read for every pass.
    Disk,
}

impl Offload {
    /// All, from the least to the most moving.
    pub const ALL: [Self; 6] = [
        Self::None,
        Self::ModelCpu,
        Self::ExpertOffload,
        Self::LayerHybrid,
        Self::SequentialCpu,
        Self::Disk,
    ];

    /// The name in JSON and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::ModelCpu => "model_cpu",
            Self::LayerHybrid => "layer_hybrid",
            Self::SequentialCpu => "sequential_cpu",
            Self::ExpertOffload => "expert_offload",
            Self::Disk => "disk",
        }
    }
}

/// How weights are stored while they are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// As the files have them.
    #[serde(rename = "none")]
    Exact,
    /// 8-bit floating point.
    Fp8,
    /// 8-bit integers with scales.
    Int8,
    /// 4-bit integers with scales.
    Int4,
}

impl Precision {
    /// All, best first.
    pub const ALL: [Self; 4] = [Self::Exact, Self::Fp8, Self::Int8, Self::Int4];

    /// The name in JSON and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Exact => "none",
            Self::Fp8 => "fp8",
            Self::Int8 => "int8",
            Self::Int4 => "int4",
        }
    }

    /// What it costs.
    pub const fn quality(self) -> Quality {
        match self {
            Self::Exact => Quality::None,
            Self::Fp8 => Quality::Minimal,
            Self::Int8 => Quality::Low,
            Self::Int4 => Quality::Medium,
        }
    }
}

/// The risk that results are worse than the stored weights give.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quality {
    /// The same bits.
    None,
    /// Rarely visible.
    Minimal,
    /// Visible in comparison.
    Low,
    /// Sometimes wrong where the original is right.
    Medium,
}

/// A number that is not known exactly.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate<T> {
    /// If all goes well.
    pub low: T,
    /// What to count on.
    pub expected: T,
    /// If it does not.
    pub high: T,
}

/// A way to run a model that fits.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Candidate {
    /// Where parts live.
    pub offload: Offload,
    /// How weights are stored.
    pub quantization: Precision,
    /// Whether the accelerator computes anything.
    pub on_device: bool,
    /// Accelerators that share the work.
    pub devices: usize,
    /// Memory by tier.
    pub memory: MemoryUse,
    /// What each component does.
    pub stages: Vec<StagePlan>,
    /// How fast.
    pub speed: Speed,
    /// What the precision costs.
    pub quality_risk: Quality,
    /// The decoded picture is put together from tiles.
    pub tiled_vae: bool,
}

/// The most that is in use in each tier at once.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct MemoryUse {
    /// On each accelerator: weights that stay, slots, KV cache, activations, the driver's own.
    #[serde(rename = "device_bytes")]
    pub device: Estimate<Bytes>,
    /// In main memory, the process itself included.
    #[serde(rename = "host_bytes")]
    pub host: Estimate<Bytes>,
    /// Weights that stay on disk.
    #[serde(rename = "disk_bytes")]
    pub disk: Bytes,
}

/// How one component is placed and what it costs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StagePlan {
    /// The component's name.
    pub component: String,
    /// Weights that stay on the accelerator while it runs.
    #[serde(rename = "device_bytes")]
    pub device: Bytes,
    /// Weights that stay in main memory.
    #[serde(rename = "host_bytes")]
    pub host: Bytes,
    /// Weights that are read from disk for every pass.
    #[serde(rename = "disk_bytes")]
    pub disk: Bytes,
    /// The slots that streamed weights rotate through.
    #[serde(rename = "slots_bytes")]
    pub slots: Bytes,
    /// KV cache, activations and adapters, where it computes.
    #[serde(rename = "working_bytes")]
    pub working: Bytes,
    /// Bringing its weights to where they stay, once per run of the stage.
    pub load_seconds: Seconds,
    /// Its passes.
    pub uses: Vec<StageUse>,
}

/// Passes of one kind over a component.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StageUse {
    /// `prompt`, `token`, `step`, `encode` or `decode`.
    pub what: &'static str,
    /// How many.
    pub passes: u64,
    /// Each.
    pub seconds: Seconds,
    /// `compute`, `memory`, `host memory`, `processor`, `link` or `disk`.
    pub limited_by: &'static str,
    /// What each group takes.
    #[serde(skip)]
    pub(crate) steps: Vec<Step>,
}

impl StageUse {
    /// When disk, link and processor or accelerator work on which group in the first `passes` passes, as simulated.
    pub fn timeline(&self, passes: u64) -> Vec<Span> {
        simulate::spans(&self.steps, passes)
    }
}

/// How fast a candidate is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Speed {
    /// What `seconds` is for.
    pub unit: Unit,
    /// For one of them.
    pub seconds: Estimate<Seconds>,
    /// From the start of the request to its end.
    pub total: Seconds,
    /// Before it: reading the model from disk once.
    pub load: Seconds,
    /// What limits it most of the time.
    pub limited_by: &'static str,
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// A new token.
    Token,
    /// A denoising step.
    Step,
    /// An input.
    Input,
}

impl Unit {
    /// In a sentence: `1.2 s per step`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Step => "step",
            Self::Input => "input",
        }
    }
}

/// A way to run a model that was considered and not offered.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rejected {
    /// Where parts would live.
    pub offload: Offload,
    /// How weights would be stored.
    pub quantization: Precision,
    /// Whether the accelerator would compute anything.
    pub on_device: bool,
    /// Accelerators that would share the work.
    pub devices: usize,
    /// Why not.
    #[serde(flatten)]
    pub why: WhyNot,
    /// In words.
    pub reason: String,
}

/// Why a candidate is not offered.
#[derive(Clone, Debug, PartialEq, Serialize, thiserror::Error)]
#[serde(rename_all = "snake_case", tag = "code")]
#[non_exhaustive]
pub enum WhyNot {
    /// An accelerator has too little memory.
    #[error("`{component}` needs {needed} of GPU memory, but {available} can be used")]
    DeviceMemory {
        /// What does not fit.
        component: String,
        /// What it takes.
        #[serde(rename = "needed_bytes")]
        needed: Bytes,
        /// What there is, less what must stay free.
        #[serde(rename = "available_bytes")]
        available: Bytes,
    },
    /// Main memory is too small.
    #[error("{needed} of main memory is needed, but {available} can be used")]
    HostMemory {
        /// What it takes.
        #[serde(rename = "needed_bytes")]
        needed: Bytes,
        /// What there is, less what must stay free.
        #[serde(rename = "available_bytes")]
        available: Bytes,
    },
    /// The processor or accelerator has no use for this precision.
    #[error("{what}")]
    Unsupported {
        /// What is missing.
        what: String,
    },
    /// Another candidate does the same with less.
    #[error("{what}")]
    Pointless {
        /// Why.
        what: String,
    },
    /// The user does not want it.
    #[error("{flag} forbids it")]
    NotWanted {
        /// What was typed.
        flag: &'static str,
    },
    /// A known incompatibility.
    #[error("{symptom} (rule `{rule}`); {remedy}")]
    Rule {
        /// The rule's name.
        rule: String,
        /// What would happen.
        symptom: String,
        /// What to do about it.
        remedy: String,
    },
}

impl Candidate {
    /// For tables and logs: `layer_hybrid + int8`.
    pub fn name(&self) -> String {
        name(self.offload, self.quantization, self.on_device, self.devices)
    }

    /// Everything stays where it is computed with.
    pub fn is_resident(&self) -> bool {
        self.offload == Offload::None
    }

    pub(crate) fn rejected(&self, why: WhyNot) -> Rejected {
        Rejected::new(self.offload, self.quantization, (self.on_device, self.devices), why)
    }
}

impl Rejected {
    pub(crate) fn new(
        offload: Offload,
        quantization: Precision,
        (on_device, devices): (bool, usize),
        why: WhyNot,
    ) -> Self {
        let reason = why.to_string();
        Self { offload, quantization, on_device, devices, why, reason }
    }

    /// For tables and logs, as [`Candidate::name`].
    pub fn name(&self) -> String {
        name(self.offload, self.quantization, self.on_device, self.devices)
    }
}

fn name(offload: Offload, precision: Precision, on_device: bool, devices: usize) -> String {
    let mut name = match (offload, on_device) {
        (Offload::None, true) => "direct".to_owned(),
        (Offload::None, false) => "cpu".to_owned(),
        (Offload::Disk, false) => "cpu, disk".to_owned(),
        (offload, _) => offload.name().to_owned(),
    };
    if devices > 1 {
        name.push_str(&format!(" on {devices} GPUs"));
    }
    if precision != Precision::Exact {
        name.push_str(" + ");
        name.push_str(precision.name());
    }
    name
}
