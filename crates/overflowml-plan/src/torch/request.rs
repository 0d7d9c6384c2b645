use overflowml_types::{Bytes, BytesPerSecond};
use serde::Deserialize;

use crate::device::{Precision, Resources};

/// A torch object, and what may be used for it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlaceRequest {
    /// What computes.
    pub device: ComputeDevice,
    /// Bound on the device's memory; `None` is what is free, less a reserve.
    #[serde(default, rename = "vram_bytes")]
    pub vram: Option<Bytes>,
    /// Bound on main memory for weights, slots and (where the processor computes) activations; `None` is what is
    /// available, less a reserve.
    #[serde(default, rename = "ram_bytes")]
    pub ram: Option<Bytes>,
    /// What a run does.
    pub task: TorchTask,
    /// Denoising steps.
    #[serde(default = "one")]
    pub steps: u64,
    /// Precisions that weights may have: `exact`, `fp8`, `int8`, `int4`.
    #[serde(default)]
    pub allow: Vec<Allowed>,
    /// The models that run one after the other.
    pub components: Vec<Component>,
}

const fn one() -> u64 {
    1
}

/// What computes, as torch sees it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ComputeDevice {
    /// torch's name of its kind: `cpu`, `cuda`, `xpu`.
    pub kind: String,
    /// Its name.
    #[serde(default)]
    pub name: Option<String>,
    /// All of its memory.
    #[serde(default, rename = "total_bytes")]
    pub total: Option<Bytes>,
    /// What of it is free.
    #[serde(default, rename = "free_bytes")]
    pub free: Option<Bytes>,
    /// Its memory is main memory.
    #[serde(default)]
    pub unified: bool,
}

/// What a run does, which decides how often each component runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TorchTask {
    /// Encodes, denoises step by step, decodes.
    Diffusion,
    /// Generates token by token.
    Language,
    /// Runs once per input.
    Other,
}

/// A precision that may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // each variant is the precision's own name
pub enum Allowed {
    Exact,
    Fp8,
    Int8,
    Int4,
}

impl Allowed {
    pub(super) const fn precision(self) -> Precision {
        match self {
            Self::Exact => Precision::Exact,
            Self::Fp8 => Precision::Fp8,
            Self::Int8 => Precision::Int8,
            Self::Int4 => Precision::Int4,
        }
    }
}

/// One model.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Component {
    /// Its name in the pipeline; empty for a model alone.
    pub name: String,
    /// What it is.
    pub kind: ComponentKind,
    /// Where its weights are now.
    pub source: Source,
    /// Element type of most of its weights: `bf16`, `f32`.
    pub dtype: String,
    /// Parameters and buffers outside the stacks.
    #[serde(rename = "fixed_bytes")]
    pub fixed: Bytes,
    /// What a pass needs beside weights.
    #[serde(rename = "activation_bytes")]
    pub activations: Bytes,
    /// Its repeated blocks.
    #[serde(default)]
    pub stacks: Vec<Stack>,
}

/// What a component is in its pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // each variant is what it says
pub enum ComponentKind {
    Denoiser,
    TextEncoder,
    Vae,
    LanguageModel,
    Other,
}

/// Where weights are before they are placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// In main memory: they cannot be put back on disk.
    Host,
    /// In files.
    Disk,
}

/// Blocks that run one after the other.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stack {
    /// Its name in the component.
    pub name: String,
    /// Size of each, in order of use; as stored where they come from disk.
    #[serde(rename = "block_bytes")]
    pub blocks: Vec<Bytes>,
}

impl Component {
    pub(super) fn blocks(&self) -> Vec<Bytes> {
        self.stacks.iter().flat_map(|stack| stack.blocks.iter().copied()).collect()
    }

    pub(super) fn size(&self) -> Bytes {
        self.fixed.saturating_add(self.blocks().into_iter().sum())
    }
}

impl ComputeDevice {
    /// It computes in main memory.
    pub fn is_host(&self) -> bool {
        self.kind == "cpu"
    }
}

/// What may be filled, and how fast things move.
#[derive(Clone, Debug, PartialEq)]
pub struct Room {
    /// Of the memory that computes.
    pub fast: Bytes,
    /// Of main memory.
    pub host: Bytes,
    /// How fast.
    pub speeds: Speeds,
}

/// Bytes and operations per second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speeds {
    /// Reading the model's disk.
    pub disk: BytesPerSecond,
    /// Copying to the device.
    pub link: BytesPerSecond,
    /// Reading the memory that computes.
    pub memory: BytesPerSecond,
    /// Operations.
    pub flops: f64,
}

impl Room {
    /// What `request` may fill of a machine with `resources`, of whose main memory `available` is free and `total` is all.
    pub fn of(
        request: &PlaceRequest,
        resources: &Resources,
        available: Bytes,
        total: Bytes,
    ) -> Self {
        let host = match request.ram {
            Some(budget) => budget,
            None => available.left_after(Bytes::gib(1).min(total.share(0.05))),
        };
        let device = &request.device;
        let fast = if device.is_host() { host } else { device_room(device, request.vram) };
        let fast = if device.unified { fast.min(host) } else { fast };
        Self { fast, host, speeds: speeds(device, resources) }
    }
}

/// A budget, or what is free less `max(512 MiB, 4 %)`; of a small device no more than an eighth.
fn device_room(device: &ComputeDevice, budget: Option<Bytes>) -> Bytes {
    let total = device.total.or(device.free).unwrap_or_default();
    let free = device.free.unwrap_or(total);
    let reserve = Bytes::mib(512).max(total.share(0.04)).min(total.share(0.125));
    budget.map_or(free.left_after(reserve), |budget| budget.min(free))
}

/// Those of the accelerator of that name, else of the first; typical ones where the machine tells of none.
fn speeds(device: &ComputeDevice, resources: &Resources) -> Speeds {
    let host = &resources.host;
    if device.is_host() {
        let memory = host.memory.value;
        return Speeds { disk: host.disk.value, link: memory, memory, flops: host.flops.value };
    }
    let named = |name: &String| resources.accelerators.iter().find(|one| one.name == *name);
    let known = device.name.as_ref().and_then(named).or(resources.accelerators.first());
    let typical =
        |gigabytes: f64| BytesPerSecond::new(gigabytes * 1e9).unwrap_or(BytesPerSecond::ONE);
    known.map_or(
        Speeds { disk: host.disk.value, link: typical(12.0), memory: typical(300.0), flops: 5e12 },
        |card| Speeds {
            disk: host.disk.value,
            link: card.link.value,
            memory: card.memory.value,
            flops: card.flops.value,
        },
    )
}
