use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::Bytes;

/// What the hardware is, as far as it is known.
///
/// This is what `overflowml detect --json` prints and `--hardware FILE` reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// `linux`, `macos` or `windows`.
    pub os: String,
    /// The processor.
    pub cpu: Cpu,
    /// Main memory.
    pub memory: Memory,
    /// The memory and processor limits of enclosing control groups.
    pub container: Container,
    /// The disk under the path that was asked about.
    pub disk: Option<Disk>,
    /// Accelerators, in the vendor library's order.
    pub gpus: Vec<Gpu>,
    /// Vendor libraries that were looked for.
    pub libraries: Vec<Library>,
}

/// Whether a number was read, timed or guessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// The system or a driver says so.
    Reported,
    /// We timed it.
    Measured,
    /// Nobody said; this is a documented default.
    Assumed,
}

/// A number with where it comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Known<T> {
    /// The number.
    pub value: T,
    /// Reported, measured or assumed.
    pub basis: Basis,
    /// For example `/proc/meminfo MemAvailable`.
    pub source: String,
}

impl<T> Known<T> {
    /// A number that the system reports.
    pub fn reported(value: T, source: impl Into<String>) -> Self {
        Self { value, basis: Basis::Reported, source: source.into() }
    }

    /// A number that was timed.
    pub fn measured(value: T, source: impl Into<String>) -> Self {
        Self { value, basis: Basis::Measured, source: source.into() }
    }

    /// A documented default.
    pub fn assumed(value: T, source: impl Into<String>) -> Self {
        Self { value, basis: Basis::Assumed, source: source.into() }
    }
}

/// The processor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cpu {
    /// Its marketing name.
    pub model: Option<Known<String>>,
    /// `x86_64` or `aarch64`.
    pub architecture: String,
    /// Logical processors of the machine.
    pub logical: Option<Known<usize>>,
    /// Physical cores of the machine.
    pub physical: Option<Known<usize>>,
    /// Threads worth starting: affinity, control-group quota rounded down, physical cores.
    pub usable: Known<usize>,
    /// Instruction sets that the kernels may use, usable by this process.
    pub extensions: Vec<IsaExtension>,
}

/// An instruction-set extension that kernels dispatch on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // each variant is the extension's own name
#[non_exhaustive]
pub enum IsaExtension {
    Avx2,
    Fma,
    F16c,
    AvxVnni,
    Avx512f,
    Avx512bw,
    Avx512vl,
    Avx512vnni,
    Avx512bf16,
    Avx512fp16,
    AmxInt8,
    AmxBf16,
    Neon,
    Dotprod,
    I8mm,
    Bf16,
    Sve,
}

/// Main memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// Installed and visible to the system.
    #[serde(rename = "total_bytes")]
    pub total: Known<Bytes>,
    /// What a new process could use without swapping, within every control group.
    #[serde(rename = "available_bytes")]
    pub available: Known<Bytes>,
    /// What a process may lock; `None` if there is no limit or it is unknown.
    #[serde(rename = "lockable_bytes")]
    pub lockable: Option<Known<Bytes>>,
}

/// Limits of the control groups that this process is in.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Container {
    /// Each ancestor with a memory limit, innermost first.
    pub memory_limits: Vec<CgroupLimit>,
    /// Processors that the tightest quota allows, for example 1.5.
    pub cpu_quota: Option<Known<f64>>,
}

/// One control group's memory limit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CgroupLimit {
    /// The group's path below the mount.
    pub group: String,
    /// The limit.
    #[serde(rename = "limit_bytes")]
    pub limit: Bytes,
    /// In use now.
    #[serde(rename = "used_bytes")]
    pub used: Bytes,
    /// The part of `used` that is file cache and is given back under pressure.
    #[serde(rename = "reclaimable_bytes")]
    pub reclaimable: Bytes,
}

impl CgroupLimit {
    /// What a process in the group can still take.
    pub fn available(&self) -> Bytes {
        self.limit.left_after(self.used.left_after(self.reclaimable))
    }
}

/// The disk under a path.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Disk {
    /// The path that was asked about.
    pub path: PathBuf,
    /// The block device, for example `vda`; `None` for tmpfs and network file systems.
    pub device: Option<String>,
    /// The file system, for example `ext4`.
    pub file_system: Option<String>,
    /// What the kernel says; virtual disks often say it wrongly.
    pub rotational: Option<Known<bool>>,
    /// Free for an ordinary user.
    #[serde(rename = "free_bytes")]
    pub free: Option<Known<Bytes>>,
    /// Whether files on it can be read past the page cache.
    pub direct_io: Option<Known<bool>>,
}

/// An accelerator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gpu {
    /// Position in the vendor library's order.
    pub index: u32,
    /// Its marketing name.
    pub name: String,
    /// `nvidia` so far.
    pub vendor: String,
    /// The vendor's identifier.
    pub uuid: Option<String>,
    /// PCI address.
    pub pci: Option<String>,
    /// Installed memory.
    #[serde(rename = "total_bytes")]
    pub total: Option<Known<Bytes>>,
    /// Free now.
    #[serde(rename = "free_bytes")]
    pub free: Option<Known<Bytes>>,
    /// For example (8, 9).
    pub compute_capability: Option<(u32, u32)>,
    /// Driver version.
    pub driver: Option<String>,
    /// Processes that hold memory on it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub processes: Vec<GpuProcess>,
}

/// A process that holds accelerator memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GpuProcess {
    /// Process id.
    pub pid: u32,
    /// Memory in use; `None` where the driver does not say.
    #[serde(rename = "used_bytes")]
    pub used: Option<Bytes>,
}

/// A vendor library that was looked for. Absence is a finding, not an error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum Library {
    /// Loaded and answering.
    Present {
        /// The name it was loaded by.
        name: String,
        /// Its version, if it says.
        version: Option<String>,
    },
    /// Not found.
    Absent {
        /// What was looked for.
        name: String,
        /// Where.
        looked_in: Vec<String>,
    },
    /// Found, but it does not answer.
    Failed {
        /// The name it was loaded by.
        name: String,
        /// In its own words.
        error: String,
    },
}
