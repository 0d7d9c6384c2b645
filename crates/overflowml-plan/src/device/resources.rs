//! What of a machine a plan may count on: free memory less reserves, and rates with their basis.

use overflowml_types::{
    Basis, Bytes, BytesPerSecond, DTypeSupport, DiskKind, Gpu, IsaExtension, Known, Machine, Pool,
};
use serde::Serialize;

use super::Wish;

/// What a plan may use.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Resources {
    /// Accelerators that can share one model, fastest first; others of the machine are left alone.
    pub accelerators: Vec<Accelerator>,
    /// Processor, main memory and disk.
    pub host: HostSide,
    /// The accelerator computes in main memory: nothing is gained by moving weights between the two.
    pub shared_pool: bool,
}

/// One accelerator, as a plan sees it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Accelerator {
    /// Its place in [`Machine::gpus`].
    pub index: usize,
    /// Its name.
    pub name: String,
    /// What can hold weights, caches and activations: free memory less reserve and the driver's own.
    #[serde(rename = "usable_bytes")]
    pub usable: Bytes,
    /// Kept free, and taken by the driver.
    #[serde(rename = "reserve_bytes")]
    pub reserve: Bytes,
    /// Reading its memory, as reached in practice.
    pub memory: Known<BytesPerSecond>,
    /// Products of 16-bit matrices, as reached in practice, in operations per second.
    pub flops: Known<f64>,
    /// Copying from main memory.
    pub link: Known<BytesPerSecond>,
    /// It multiplies 8-bit floating point by itself.
    pub fp8: bool,
}

/// Processor, main memory and disk.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HostSide {
    /// What the process may hold: available memory less what must stay free, or the budget.
    #[serde(rename = "free_bytes")]
    pub free: Bytes,
    /// What of it can hold weights when torch computes.
    #[serde(rename = "usable_bytes")]
    pub usable: Bytes,
    /// The process itself: interpreter, libraries.
    #[serde(rename = "overhead_bytes")]
    pub overhead: Bytes,
    /// Reading main memory.
    pub memory: Known<BytesPerSecond>,
    /// Products of matrices on the processor, in operations per second.
    pub flops: Known<f64>,
    /// Reading the model's disk.
    pub disk: Known<BytesPerSecond>,
}

/// What spec sheets promise is not what programs reach.
const OF_MEMORY: f64 = 0.75;
const OF_FLOPS: f64 = 0.5;
const OF_LINK: f64 = 0.8;

/// A runtime with torch and its libraries.
const PROCESS: Bytes = Bytes::mib(1536);

/// Our own decoder needs no Python.
const NATIVE: Bytes = Bytes::mib(128);

/// What a CUDA context takes with lazy loading (300 to 450 MiB in the field).
const CONTEXT: Bytes = Bytes::mib(448);

impl HostSide {
    /// What the process itself takes on the processor: our own decoder for language models, else torch.
    pub(crate) fn process(&self, language: bool) -> Bytes {
        if language { NATIVE } else { self.overhead }
    }
}

impl Resources {
    /// What `wish` may use of `machine`.
    pub fn of(machine: &Machine, wish: &Wish) -> Self {
        let mut accelerators: Vec<_> = machine
            .gpus
            .iter()
            .enumerate()
            .filter_map(|(index, gpu)| accelerator(index, gpu, machine, wish))
            .collect();
        accelerators.sort_by(|a, b| b.flops.value.total_cmp(&a.flops.value));
        if let Some(first) = accelerators.first().map(|best| machine.gpus[best.index].vendor) {
            accelerators.retain(|other| machine.gpus[other.index].vendor == first);
        }
        let shared_pool =
            accelerators.first().is_some_and(|best| machine.gpus[best.index].pool == Pool::Shared);
        if shared_pool {
            accelerators.truncate(1);
        } else {
            accelerators.retain(|other| machine.gpus[other.index].pool == Pool::Own);
        }
        Self { accelerators, host: host(machine, wish), shared_pool }
    }
}

fn accelerator(index: usize, gpu: &Gpu, machine: &Machine, wish: &Wish) -> Option<Accelerator> {
    let total = gpu.total.as_ref()?.value;
    let free = gpu.free.as_ref().map_or(total, |free| free.value);
    let shared = gpu.pool == Pool::Shared;
    let mut bound = gpu.limit.as_ref().map_or(free, |limit| limit.value.min(free));
    if shared {
        let host = machine.memory.available.value;
        let host = wish.memory.map_or(host, |memory| memory.min(host));
        // What the firmware carved out is the GPU's alone; main memory does not count it.
        let own = gpu.dedicated.as_ref().map_or(Bytes::ZERO, |own| own.value);
        bound = bound.min(host.saturating_add(own));
    }
    // A budget bounds everything, the driver's own memory included, and needs no reserve.
    let reserve = reserve(gpu, machine, total);
    let context = if shared { Bytes::ZERO } else { CONTEXT };
    let usable = match wish.vram {
        Some(vram) => vram.min(bound).left_after(context),
        None => bound.left_after(reserve).left_after(context),
    };
    let usable = if shared { usable.left_after(PROCESS) } else { usable };
    Some(Accelerator {
        index,
        name: gpu.name.clone(),
        usable,
        reserve: if wish.vram.is_some() { context } else { reserve.saturating_add(context) },
        memory: reached(gpu.rate.clone(), OF_MEMORY, default_memory(gpu)),
        flops: flops(gpu),
        link: link(gpu, machine),
        fp8: DTypeSupport::of(gpu).fp8.compute,
    })
}

/// What must stay free: `max(512 MiB, 4 %)`, and more where a display or another system shares the card.
fn reserve(gpu: &Gpu, machine: &Machine, total: Bytes) -> Bytes {
    let base = Bytes::mib(512).max(total.share(0.04));
    let windows = machine.os == "windows" || machine.wsl;
    match gpu.pool {
        // The rest of the system lives in the same memory; a Metal limit is already less than all.
        Pool::Shared if gpu.limit.is_some() => Bytes::ZERO,
        Pool::Own if windows => base.saturating_add(Bytes::mib(256)),
        _ => base,
    }
}

fn host(machine: &Machine, wish: &Wish) -> HostSide {
    let memory = &machine.memory;
    let reserve = Bytes::gib(1).min(memory.total.value.share(0.05));
    let free = match wish.memory {
        Some(budget) => budget.min(memory.available.value),
        None => memory.available.value.left_after(reserve),
    };
    HostSide {
        free,
        usable: free.left_after(PROCESS),
        overhead: PROCESS,
        memory: memory.rate.clone().unwrap_or_else(|| default_host_memory(machine)),
        flops: host_flops(machine),
        disk: machine
            .disk
            .as_ref()
            .and_then(|disk| disk.rate.clone())
            .unwrap_or_else(|| default_disk(machine)),
    }
}

/// A specification's figure is scaled to what programs reach; a measured one is taken as it is.
fn reached(
    rate: Option<Known<BytesPerSecond>>,
    share: f64,
    default: Known<BytesPerSecond>,
) -> Known<BytesPerSecond> {
    let rate = rate.unwrap_or(default);
    match rate.basis {
        Basis::Measured => rate,
        Basis::Reported | Basis::Assumed => {
            let value = BytesPerSecond::new(rate.value.get() * share).unwrap_or(rate.value);
            let source = format!("{:.0} % of {} ({})", share * 100.0, rate.value, rate.source);
            Known::assumed(value, source)
        }
    }
}

fn assumed(gigabytes: f64, source: &str) -> Known<BytesPerSecond> {
    Known::assumed(BytesPerSecond::new(gigabytes * 1e9).unwrap_or(BytesPerSecond::ONE), source)
}

fn default_memory(gpu: &Gpu) -> Known<BytesPerSecond> {
    match gpu.pool {
        Pool::Shared => assumed(100.0, "a typical shared memory"),
        Pool::Own => assumed(300.0, "a typical small card"),
    }
}

fn default_host_memory(machine: &Machine) -> Known<BytesPerSecond> {
    let shared = machine.gpus.iter().find(|gpu| gpu.pool == Pool::Shared);
    match shared.and_then(|gpu| gpu.rate.clone()) {
        Some(rate) => reached(Some(rate), 0.5, assumed(40.0, "")),
        None => assumed(40.0, "two channels of DDR5; `bench --calibrate` measures it"),
    }
}

/// Never a fast one without a reason.
fn default_disk(machine: &Machine) -> Known<BytesPerSecond> {
    let disk = machine.disk.as_ref();
    let kind = disk.and_then(|disk| disk.kind.as_ref()).map(|known| known.value);
    let rotational =
        disk.and_then(|disk| disk.rotational.as_ref()).is_some_and(|known| known.value);
    let (rate, what) = match kind {
        Some(DiskKind::Nvme) => (2.0, "an NVMe disk"),
        Some(DiskKind::Sata) if rotational => (0.12, "a rotating disk"),
        Some(DiskKind::Sata) => (0.5, "a SATA SSD"),
        Some(DiskKind::Flash) => (0.08, "an SD card"),
        Some(DiskKind::Network) => (0.1, "a network file system"),
        Some(DiskKind::Memory) => (5.0, "a file system in main memory"),
        _ => (0.5, "a disk of unknown kind"),
    };
    assumed(rate, &format!("{what}; `bench --calibrate` measures it"))
}

fn flops(gpu: &Gpu) -> Known<f64> {
    match &gpu.flops {
        Some(flops) if flops.basis == Basis::Measured => flops.clone(),
        Some(flops) => Known::assumed(
            flops.value * OF_FLOPS,
            format!(
                "{:.0} % of {:.0} TFLOP/s ({})",
                OF_FLOPS * 100.0,
                flops.value / 1e12,
                flops.source
            ),
        ),
        None => Known::assumed(10e12 * OF_FLOPS, "a typical small card"),
    }
}

/// What one lane of each generation carries after its own coding, in GB/s.
const LANE: [f64; 7] = [0.25, 0.25, 0.5, 0.985, 1.969, 3.938, 7.56];

fn link(gpu: &Gpu, machine: &Machine) -> Known<BytesPerSecond> {
    if gpu.pool == Pool::Shared {
        return default_host_memory(machine);
    }
    let Some(link) = &gpu.link else { return assumed(12.0, "PCIe 4.0 x8, if nobody says") };
    if let Some(rate) = &link.rate {
        return rate.clone();
    }
    let generation = link.generation.unwrap_or(4).min(6);
    let width = link.width.unwrap_or(8);
    let lane = LANE.get(generation as usize).copied().unwrap_or(0.25);
    let source = format!("{:.0} % of PCIe {generation}.0 x{width}", OF_LINK * 100.0);
    assumed(lane * f64::from(width) * OF_LINK, &source)
}

/// Operations per second of a core with the best instructions it has; half of what it could at best.
fn host_flops(machine: &Machine) -> Known<f64> {
    use IsaExtension as E;
    let has = |extension| machine.cpu.extensions.contains(&extension);
    let (per_core, what) = if has(E::AmxBf16) {
        (400e9, "AMX")
    } else if has(E::Avx512bf16) {
        (190e9, "AVX-512 BF16")
    } else if has(E::Avx512f) {
        (90e9, "AVX-512")
    } else if has(E::Avx2) {
        (60e9, "AVX2")
    } else if has(E::Neon) {
        (40e9, "NEON")
    } else if machine.cpu.extensions.is_empty() {
        (50e9, "vector instructions as is usual")
    } else {
        (15e9, "no vector instructions")
    };
    #[allow(clippy::cast_precision_loss)] // core counts
    let cores = machine.cpu.usable.value.max(1) as f64;
    Known::assumed(per_core * cores, format!("{cores} cores with {what}"))
}
