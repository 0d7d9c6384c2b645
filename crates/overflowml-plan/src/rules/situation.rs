//! What is asked about: a candidate plan, the machine, and what is known of installed packages.

use std::collections::{BTreeMap, BTreeSet};

use overflowml_types::{Gpu, Machine, Pool, Vendor};
use serde::{Deserialize, Serialize};

use super::version::Version;

/// What a candidate plan, a machine and a set of installed packages amount to.
///
/// What is absent is unknown (`os`, an architecture, a package's version) or not used (sets).
#[derive(Clone, Debug, Default)]
pub struct Situation {
    /// What would run the model.
    pub runtimes: BTreeSet<Runtime>,
    /// How weights would move.
    pub offload: BTreeSet<Offload>,
    /// How weights would be shrunk.
    pub quantizations: BTreeSet<Quantization>,
    /// What else would be used.
    pub features: BTreeSet<Feature>,
    /// Classes and families of the model's parts, in lower case: `fluxtransformer2dmodel`, `hidream`.
    pub components: BTreeSet<String>,
    /// The system; `None` if unknown.
    pub os: Option<Os>,
    /// The accelerator that would compute; `None` if it is the processor.
    pub device: Option<Device>,
    /// Installed Python packages.
    pub packages: Packages,
}

impl Situation {
    /// The machine's part of a situation, with `gpu` as the accelerator.
    pub fn on(machine: &Machine, gpu: Option<&Gpu>) -> Self {
        Self { os: Os::of(machine), device: gpu.map(Device::of), ..Self::default() }
    }
}

/// A program or library that runs models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Runtime {
    /// Our own engine, native or under torch: it moves plain bytes, not tensor objects.
    Overflowml,
    /// Plain PyTorch.
    Torch,
    /// Hugging Face diffusers with its own offloading.
    Diffusers,
    /// Hugging Face transformers.
    Transformers,
    /// Hugging Face accelerate's dispatching.
    Accelerate,
    /// ComfyUI.
    Comfyui,
    /// ComfyUI's MultiGPU nodes.
    Multigpu,
    /// stable-diffusion.cpp.
    StableDiffusionCpp,
    /// llama.cpp.
    LlamaCpp,
    /// vLLM.
    Vllm,
    /// vLLM-Omni.
    VllmOmni,
    /// SGLang's diffusion part.
    Sglang,
    /// LightX2V.
    Lightx2v,
    /// mmgp, used by Wan2GP.
    Mmgp,
    /// airllm.
    Airllm,
    /// musubi-tuner.
    Musubi,
}

/// A way of moving weights between tiers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Offload {
    /// Whole components take turns on the accelerator.
    ModelCpu,
    /// Module by module, or streamed layer by layer.
    SequentialCpu,
    /// Part of the layers stays, the rest streams.
    LayerHybrid,
    /// Routed experts stay in main memory.
    ExpertOffload,
    /// Weights come from disk.
    Disk,
    /// diffusers' group offloading: blocks or leaves, optionally on a stream of their own.
    Group,
    /// diffusers' ComponentsManager, which evicts components when memory is short.
    Auto,
}

/// A way of storing weights in fewer bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Quantization {
    /// The library or format that holds the weights.
    pub backend: Backend,
    /// What each number becomes.
    pub kind: Kind,
}

/// A library or format of quantised weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Backend {
    /// Plain tensors with scales beside them, as our engine and some runtimes hold them.
    Plain,
    /// bitsandbytes.
    Bitsandbytes,
    /// GGUF blocks.
    Gguf,
    /// torchao tensor subclasses.
    Torchao,
    /// optimum-quanto.
    Quanto,
    /// nunchaku.
    Nunchaku,
}

impl Backend {
    /// The Python package that provides it; `None` if it needs none.
    pub fn package(self) -> Option<&'static str> {
        Some(match self {
            Self::Plain => return None,
            Self::Bitsandbytes => "bitsandbytes",
            Self::Gguf => "gguf",
            Self::Torchao => "torchao",
            Self::Quanto => "optimum-quanto",
            Self::Nunchaku => "nunchaku",
        })
    }
}

/// What a number becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
#[allow(missing_docs)] // the usual names
pub enum Kind {
    Int8,
    /// torchao's older tensor class for 8-bit integers (configuration version 1).
    Int8V1,
    Int4,
    Nf4,
    Fp4,
    Fp8,
    Mx,
    Nvfp4,
    /// torchao's integers of any width.
    Intx,
    /// Chosen per layer by timing.
    Autoquant,
    /// GGUF's 6-bit blocks.
    Q6K,
    /// Any other.
    Other,
}

/// Something that a run uses beside offloading and quantisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Feature {
    /// Hooks of accelerate are installed on the model.
    AccelerateHooks,
    /// Attention computed in slices.
    AttentionSlicing,
    /// More than one input at a time.
    Batched,
    /// Group offloading by blocks.
    BlockLevel,
    /// `torch.compile`.
    Compile,
    /// `torch.compile(fullgraph=True)`.
    CompileFullgraph,
    /// Layers stored compressed on disk.
    Compression,
    /// Parameters kept in main memory by configuration.
    CpuParams,
    /// Guidance or flow shift other than the default.
    CustomGuidance,
    /// A device map that places parts of the model.
    DeviceMap,
    /// Group offloading to files.
    DiskGroups,
    /// ComfyUI's dynamic VRAM.
    DynamicVram,
    /// PyTorch's expandable segments.
    ExpandableSegments,
    /// The accelerator is attached by a cable: OCuLink, Thunderbolt.
    ExternalLink,
    /// Activations recomputed in training.
    GradientCheckpointing,
    /// A single component is larger than the accelerator's memory.
    LargestComponentExceedsDevice,
    /// Page-locked allocations above 2 GB each.
    LargePins,
    /// Weights stored in fp8 and cast layer by layer.
    LayerwiseCasting,
    /// A model divided by layers or rows over devices.
    LayerSplit,
    /// Group offloading by leaf modules.
    LeafLevel,
    /// LoRA adapters.
    Lora,
    /// LoRA adapters loaded after offloading was enabled.
    LoraAfterOffload,
    /// LoRA adapters deleted while offloading is enabled.
    LoraRemoval,
    /// Loading without a second copy in main memory.
    LowCpuMem,
    /// A memory-mapped file larger than main memory and page file together.
    MmapOverMemory,
    /// Another offloading mode was enabled before in this process.
    ModeSwitch,
    /// Page-locked main memory.
    PinnedMemory,
    /// Reading ahead of use.
    Prefetch,
    /// Modules run in another order than they are defined in.
    ReorderedExecution,
    /// Tensors marked as used by another stream.
    RecordStream,
    /// Results of earlier denoising steps reused.
    StepCache,
    /// Streaming layers to the device.
    StreamLayers,
    /// Copies on a stream of their own.
    Streams,
    /// Parameters exchanged by `swap_tensors` after compilation.
    SwapTensors,
    /// Matrices divided over devices.
    TensorParallel,
    /// Training.
    Training,
    /// The VAE works in tiles.
    VaeTiling,
    /// The VAE runs on the processor.
    VaeOnCpu,
    /// Video models with three-dimensional convolutions.
    Video,
    /// The whole pipeline is moved to the device.
    WholeMove,
    /// CUDA programs translated for AMD by ZLUDA.
    Zluda,
}

/// An operating system, as far as it changes what works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
#[allow(missing_docs)] // each variant is the system's own name
pub enum Os {
    Linux,
    /// Linux inside Windows.
    Wsl,
    Windows,
    Macos,
}

impl Os {
    /// The system of `machine`; `None` if it is another one.
    pub fn of(machine: &Machine) -> Option<Self> {
        match (machine.os.as_str(), machine.wsl) {
            ("linux", true) => Some(Self::Wsl),
            ("linux", false) => Some(Self::Linux),
            ("windows", _) => Some(Self::Windows),
            ("macos", _) => Some(Self::Macos),
            _ => None,
        }
    }
}

/// What rules ask of an accelerator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Who makes it.
    pub vendor: Vendor,
    /// `sm_90`, `gfx1030`; `None` if unknown.
    pub architecture: Option<String>,
    /// Whose memory it computes in.
    pub pool: Pool,
}

impl Device {
    /// The accelerator `gpu`.
    pub fn of(gpu: &Gpu) -> Self {
        let of_capability =
            || gpu.compute_capability.map(|(major, minor)| format!("sm_{major}{minor}"));
        Self {
            vendor: gpu.vendor,
            architecture: gpu.architecture.clone().or_else(of_capability),
            pool: gpu.pool,
        }
    }
}

/// Whether a package is installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PackageState {
    /// In this version.
    Installed(Version),
    /// It is not there.
    Absent,
}

/// What is known of installed Python packages; of packages not in it nothing is known.
#[derive(Clone, Debug, Default)]
pub struct Packages(BTreeMap<String, PackageState>);

impl Packages {
    /// Records what is known of `package`, whatever the spelling of its name.
    pub fn set(&mut self, package: &str, state: PackageState) {
        self.0.insert(package_name(package), state);
    }

    /// What is known of `package`; `None` for nothing.
    pub fn state(&self, package: &str) -> Option<&PackageState> {
        self.0.get(&package_name(package))
    }
}

/// A package's name as PEP 503 normalises it: lower case, and runs of `-`, `_` and `.` as one `-`.
pub fn package_name(name: &str) -> String {
    let parts = name.trim().split(['-', '_', '.']).filter(|part| !part.is_empty());
    parts.map(str::to_ascii_lowercase).collect::<Vec<_>>().join("-")
}
