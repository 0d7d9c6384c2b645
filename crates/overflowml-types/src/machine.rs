use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{Bytes, BytesPerSecond};

/// What the hardware is, as far as it is known.
///
/// This is what `overflowml detect --json` prints and `--hardware FILE` reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// `linux`, `macos` or `windows`.
    pub os: String,
    /// Linux inside Windows, where the driver belongs to Windows and little memory can be pinned.
    #[serde(default)]
    pub wsl: bool,
    /// The processor.
    pub cpu: Cpu,
    /// Main memory.
    pub memory: Memory,
    /// The memory and processor limits of enclosing control groups.
    pub container: Container,
    /// The disk under the path that was asked about.
    pub disk: Option<Disk>,
    /// Accelerators that this process may use, in the order in which a program sees them.
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
    /// What can be page-locked for copies to an accelerator.
    #[serde(default, rename = "pinnable_bytes")]
    pub pinnable: Option<Known<Bytes>>,
    /// Reading it, all cores together.
    #[serde(default, rename = "bytes_per_second")]
    pub rate: Option<Known<BytesPerSecond>>,
    /// NUMA nodes with memory.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NumaNode>,
}

/// Memory and processors that are near each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NumaNode {
    /// The system's number for it.
    pub node: u32,
    /// Its memory.
    #[serde(rename = "total_bytes")]
    pub total: Bytes,
    /// Its processors, as the system writes lists: `0-7,16-23`.
    pub cpus: String,
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
    /// How it is attached; `None` where the system does not say.
    #[serde(default)]
    pub kind: Option<Known<DiskKind>>,
    /// What the kernel says; virtual disks often say it wrongly.
    pub rotational: Option<Known<bool>>,
    /// Free for an ordinary user.
    #[serde(rename = "free_bytes")]
    pub free: Option<Known<Bytes>>,
    /// Whether files on it can be read past the page cache.
    pub direct_io: Option<Known<bool>>,
    /// Reading large files in order, past the page cache.
    #[serde(default, rename = "bytes_per_second")]
    pub rate: Option<Known<BytesPerSecond>>,
}

/// How a disk is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DiskKind {
    /// NVM Express.
    Nvme,
    /// SATA, SAS or USB: what the kernel calls `sd`.
    Sata,
    /// SD cards and soldered flash.
    Flash,
    /// A virtual machine's disk: what is behind it is unknown.
    Virtual,
    /// A file system on another machine, or on the host of this virtual machine.
    Network,
    /// A file system in main memory.
    Memory,
    /// Layers of a container image; the disk below is unknown.
    Layered,
}

/// An accelerator: a card, a part of one (MIG), or a processor's own GPU.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gpu {
    /// Position in the order in which a program sees them.
    pub index: u32,
    /// Its marketing name.
    pub name: String,
    /// Who makes it.
    pub vendor: Vendor,
    /// The vendor's identifier.
    #[serde(default)]
    pub uuid: Option<String>,
    /// PCI address.
    #[serde(default)]
    pub pci: Option<String>,
    /// Memory of its own, or the host's.
    #[serde(default)]
    pub pool: Pool,
    /// Installed memory; for a shared pool the part of it that the GPU can reach.
    #[serde(default, rename = "total_bytes")]
    pub total: Option<Known<Bytes>>,
    /// Free now.
    #[serde(default, rename = "free_bytes")]
    pub free: Option<Known<Bytes>>,
    /// For a shared pool: the part of `free` that main memory does not count, because the firmware carved it out. The
    /// rest of `free` is the host's available memory, seen from the other side.
    #[serde(default, rename = "dedicated_bytes")]
    pub dedicated: Option<Known<Bytes>>,
    /// Kept back by the driver.
    #[serde(default, rename = "reserved_bytes")]
    pub reserved: Option<Known<Bytes>>,
    /// What one process may use at most: Metal's working-set limit, the budget of Windows.
    #[serde(default, rename = "limit_bytes")]
    pub limit: Option<Known<Bytes>>,
    /// Reading its memory.
    #[serde(default, rename = "bytes_per_second")]
    pub rate: Option<Known<BytesPerSecond>>,
    /// Dense matrix products in 16-bit floating point, in operations per second.
    #[serde(default, rename = "flops_per_second")]
    pub flops: Option<Known<f64>>,
    /// The way to main memory; `None` for a shared pool, or where nobody says.
    #[serde(default)]
    pub link: Option<Link>,
    /// What the vendor's compilers call it: `sm_89`, `gfx1100`, `xe2`, `apple-m4`.
    #[serde(default)]
    pub architecture: Option<String>,
    /// For example (8, 9); NVIDIA only.
    #[serde(default)]
    pub compute_capability: Option<(u32, u32)>,
    /// Driver version.
    #[serde(default)]
    pub driver: Option<String>,
    /// The newest CUDA, ROCm or Level Zero that the driver serves.
    #[serde(default)]
    pub runtime: Option<String>,
    /// Which part of a divided card this is, for example `1g.18gb`.
    #[serde(default)]
    pub partition: Option<String>,
    /// Processes that hold memory on it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub processes: Vec<GpuProcess>,
}

/// Who makes an accelerator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // each variant is the vendor's own name
#[non_exhaustive]
pub enum Vendor {
    Nvidia,
    Amd,
    Intel,
    Apple,
    Other,
}

/// Whose memory an accelerator computes in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pool {
    /// Its own, behind a link.
    #[default]
    Own,
    /// The host's main memory: moving weights between the two halves of one pool gains nothing.
    Shared,
}

/// The way between main memory and an accelerator.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Link {
    /// PCI Express generation: the most that every part of the path can do.
    pub generation: Option<u32>,
    /// Lanes: the most that every part of the path can do.
    pub width: Option<u32>,
    /// Generation now; an idle link slows down.
    #[serde(default)]
    pub current_generation: Option<u32>,
    /// Lanes now.
    #[serde(default)]
    pub current_width: Option<u32>,
    /// Copying from page-locked main memory.
    #[serde(default, rename = "bytes_per_second")]
    pub rate: Option<Known<BytesPerSecond>>,
}

/// A process that holds accelerator memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GpuProcess {
    /// Process id.
    pub pid: u32,
    /// The program's short name; `None` where the system does not say.
    #[serde(default)]
    pub name: Option<String>,
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
    /// A device that works, but that this process may not see.
    Hidden {
        /// The device.
        name: String,
        /// The setting that hides it, for example `CUDA_VISIBLE_DEVICES=1`.
        by: String,
    },
}
