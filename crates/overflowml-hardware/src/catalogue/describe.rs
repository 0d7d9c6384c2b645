//! Machines that one does not have, from what a user says of them.

use overflowml_types::{Bytes, Container, Cpu, Gpu, Known, Link, Machine, Memory, Pool, Vendor};

use super::{Entry, SOURCE};
use crate::nvidia::empty;
use crate::{assemble, pcie};

/// What a machine is wanted to have.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Its GPU; `None` with `vram` is a GPU of which only that is known, `None` without it is none.
    pub gpu: Option<&'a Entry>,
    /// How many of them; 0 means one.
    pub count: u32,
    /// Memory of the GPU instead of the published one. For a shared pool the share that the GPU may use.
    pub vram: Option<Bytes>,
    /// Main memory.
    pub ram: Bytes,
    /// `linux`, `macos` or `windows`.
    pub os: &'a str,
}

const ASKED: &str = "as described";

impl Wanted<'_> {
    /// The machine, with assumed figures where nothing is published.
    pub fn machine(&self) -> Machine {
        let total = Known::assumed(self.ram, ASKED);
        let system = system_share(self.os, self.ram);
        let available = Known::assumed(
            self.ram.left_after(system),
            format!("as described, less {system} for the system"),
        );
        // Apple's processors, and those that NVIDIA's integrated GPUs are part of.
        let arm = self.gpu.is_some_and(|entry| {
            let integrated = entry.pool == Pool::Shared && entry.vendor == Vendor::Nvidia;
            entry.vendor == Vendor::Apple || integrated
        });
        let gpus =
            (0..self.count.max(1)).filter_map(|index| Some(Gpu { index, ..self.gpu(&available)? }));
        Machine {
            os: self.os.to_owned(),
            wsl: false,
            cpu: Cpu {
                model: None,
                architecture: if arm { "aarch64" } else { "x86_64" }.to_owned(),
                logical: None,
                physical: None,
                usable: Known::assumed(8, "a machine that was only described"),
                extensions: Vec::new(),
            },
            gpus: gpus.collect(),
            memory: Memory {
                pinnable: assemble::pinnable(self.os, false, self.ram),
                total,
                available,
                lockable: None,
                rate: None,
                nodes: Vec::new(),
            },
            container: Container::default(),
            disk: None,
            libraries: Vec::new(),
        }
    }

    fn gpu(&self, available: &Known<Bytes>) -> Option<Gpu> {
        let Some(entry) = self.gpu else {
            let vram = self.vram?;
            return Some(Gpu {
                name: format!("a GPU with {vram}"),
                total: Some(Known::assumed(vram, ASKED)),
                free: Some(Known::assumed(vram.left_after(driver_share(self.os)), ASKED)),
                ..empty(Vendor::Other)
            });
        };
        let mut gpu = Gpu {
            name: entry.name.to_owned(),
            pool: entry.pool,
            rate: Some(Known::assumed(entry.rate(), SOURCE)),
            flops: Some(Known::assumed(entry.flops, SOURCE)),
            architecture: Some(entry.architecture.to_owned()),
            compute_capability: entry.compute_capability(),
            ..empty(entry.vendor)
        };
        if entry.pool == Pool::Shared {
            let limit = self.vram.or_else(|| working_set(entry.vendor, self.ram));
            gpu.total = Some(Known::assumed(self.ram, ASKED));
            gpu.limit =
                limit.map(|limit| Known::assumed(limit, "what such machines let a GPU use"));
            let most = limit.unwrap_or(self.ram);
            gpu.free = Some(Known { value: available.value.min(most), ..available.clone() });
            return Some(gpu);
        }
        let memory = self.vram.unwrap_or(entry.memory);
        gpu.total = Some(Known::assumed(memory, if self.vram.is_some() { ASKED } else { SOURCE }));
        let kept = driver_share(self.os);
        let source = format!("all but {kept} for driver and desktop");
        gpu.free = Some(Known::assumed(memory.left_after(kept), source));
        gpu.link = entry.link.map(|(generation, width)| {
            let (generation, width) = (Some(generation), Some(width));
            let mut link = Link { generation, width, ..Link::default() };
            pcie::assume_rate(&mut link);
            link
        });
        Some(gpu)
    }
}

impl Entry {
    /// A machine with one of these, `ram` of main memory and the system `os` (`linux`, `macos` or `windows`).
    pub fn machine(&self, ram: Bytes, os: &str) -> Machine {
        Wanted { gpu: Some(self), count: 1, vram: None, ram, os }.machine()
    }
}

/// What system and desktop hold: a twelfth, two to eight gibibytes.
fn system_share(os: &str, ram: Bytes) -> Bytes {
    let least = if os == "linux" { Bytes::gib(1) } else { Bytes::gib(3) };
    ram.share(1.0 / 12.0).max(least).min(Bytes::gib(8)).min(ram.share(0.5))
}

/// What the driver and a desktop hold of a card.
fn driver_share(os: &str) -> Bytes {
    if os == "windows" { Bytes::mib(1228) } else { Bytes::mib(512) }
}

/// Observed: 74 % on Macs of 16 and 24 GB, about 80 % on those of 64 GB.
fn working_set(vendor: Vendor, ram: Bytes) -> Option<Bytes> {
    let share = if ram < Bytes::gib(64) { 0.74 } else { 0.78 };
    (vendor == Vendor::Apple).then(|| ram.share(share))
}
