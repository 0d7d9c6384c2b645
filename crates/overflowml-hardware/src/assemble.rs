//! From what a machine said to what it is. Pure, but for reading the capture's files.

use overflowml_types::{
    Bytes, Container, Cpu, Disk, Gpu, Known, Library, Machine, Memory, Pool, Vendor,
};

use crate::capture::{Capture, HostFacts};
use crate::nvidia::HostMemory;
use crate::{amd, apple, catalogue, cgroup, cpu, intel, memory, numa, nvidia, pcie, windows};

/// What can be pinned on Linux in Windows, all processes together: measured by others at 0.75 to 1 GiB.
const PINNABLE_IN_WSL: Bytes = Bytes::mib(768);

/// The machine, with the disk that was asked about.
pub(crate) fn machine(capture: &Capture, disk: Option<Disk>) -> Machine {
    let container = cgroup::container(&capture.root);
    let wsl = is_wsl(capture);
    let memory = memory(capture, &container, wsl);
    let host = HostMemory { total: memory.total.clone(), available: memory.available.clone() };
    let (mut gpus, libraries) = gpus(capture, &host);
    for (index, gpu) in (0..).zip(&mut gpus) {
        gpu.index = index;
        catalogue::fill(gpu);
        if let Some(link) = &mut gpu.link {
            pcie::assume_rate(link);
        }
    }
    Machine {
        os: capture.system.os.clone(),
        wsl,
        cpu: cpu(capture, &container),
        memory,
        container,
        disk,
        gpus,
        libraries,
    }
}

/// What a new process could use, as [`machine`] says it.
pub(crate) fn available(capture: &Capture) -> Known<Bytes> {
    let container = cgroup::container(&capture.root);
    said(capture).1.unwrap_or_else(|| memory::available(&capture.root, &container))
}

/// The processor, as [`machine`] says it.
pub(crate) fn processor(capture: &Capture) -> Cpu {
    cpu(capture, &cgroup::container(&capture.root))
}

fn gpus(capture: &Capture, host: &HostMemory) -> (Vec<Gpu>, Vec<Library>) {
    if capture.is("macos") {
        return apple::gpus(capture, host);
    }
    let (mut gpus, mut libraries) = nvidia::gpus(capture, host);
    if capture.is("windows") {
        let (all, more) = windows::gpus(capture, gpus, host);
        libraries.extend(more);
        return (all, libraries);
    }
    for (found, more) in [amd::gpus(capture, host), intel::gpus(capture, host)] {
        gpus.extend(found);
        libraries.extend(more);
    }
    // A card on its own bus before a processor's graphics; within a kind, the order in which programs count.
    let is_aside = |gpu: &Gpu| gpu.vendor != Vendor::Nvidia && gpu.pool == Pool::Shared;
    gpus.sort_by_key(is_aside);
    (gpus, libraries)
}

/// The kernel that Microsoft builds says so in its name.
fn is_wsl(capture: &Capture) -> bool {
    let release = capture.root.read("/proc/sys/kernel/osrelease").unwrap_or_default();
    capture.is("linux") && release.to_ascii_lowercase().contains("microsoft")
}

fn cpu(capture: &Capture, container: &Container) -> Cpu {
    match (capture.system.os.as_str(), &capture.system.host) {
        ("macos", _) => apple::cpu(capture),
        (_, Some(facts)) => cpu_of_facts(capture, facts),
        _ => cpu::probe(capture, container),
    }
}

fn cpu_of_facts(capture: &Capture, facts: &HostFacts) -> Cpu {
    let count = |count: Option<usize>, what: &str| count.map(|count| Known::reported(count, what));
    let physical = count(facts.physical, "the system's processor list");
    let usable = match (facts.physical, facts.logical) {
        (Some(cores), Some(threads)) if threads < cores => {
            Known::reported(threads, "processor affinity")
        }
        (Some(cores), _) => Known::reported(cores, "physical cores"),
        (None, Some(threads)) => Known::reported(threads, "the standard library"),
        (None, None) => Known::assumed(1, "the system does not say"),
    };
    Cpu {
        model: facts.cpu.clone().map(|name| Known::reported(name, "registry ProcessorNameString")),
        architecture: capture.system.architecture.clone(),
        logical: count(facts.logical, "the standard library"),
        physical,
        usable,
        extensions: facts.extensions.clone(),
    }
}

fn memory(capture: &Capture, container: &Container, wsl: bool) -> Memory {
    let mut memory = memory::probe(&capture.root, container);
    let (total, available) = said(capture);
    if let Some(total) = total {
        memory.total = total;
    }
    if let Some(available) = available {
        memory.available = available;
    }
    memory.nodes = numa::nodes(&capture.root);
    let limits = container.memory_limits.iter().map(|limit| limit.limit);
    let most = limits.fold(memory.total.value, Bytes::min);
    memory.pinnable = pinnable(&capture.system.os, wsl, most);
    memory
}

/// What systems without `/proc/meminfo` say.
fn said(capture: &Capture) -> (Option<Known<Bytes>>, Option<Known<Bytes>>) {
    match (capture.system.os.as_str(), &capture.system.host) {
        ("macos", _) => apple::memory(capture),
        (_, Some(facts)) => (
            facts.total.map(|total| Known::reported(total, "GlobalMemoryStatusEx total")),
            facts.available.map(|free| Known::reported(free, "GlobalMemoryStatusEx available")),
        ),
        _ => (None, None),
    }
}

/// What can be page-locked for copies, until it is tried: a driver can be asked only by allocating.
pub(crate) fn pinnable(os: &str, wsl: bool, most: Bytes) -> Option<Known<Bytes>> {
    match (os, wsl) {
        (_, true) => Some(Known::assumed(
            PINNABLE_IN_WSL.min(most),
            "Linux in Windows stops at 0.75 to 1 GiB",
        )),
        ("linux", _) => Some(Known::assumed(
            most.share(0.9),
            "90 % of main memory: Linux sets no limit of its own",
        )),
        ("windows", _) => Some(Known::assumed(
            most.share(0.4),
            "40 % of main memory: Windows' pool is about half",
        )),
        // There is nothing to copy to.
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_pinned_depends_on_the_system() {
        let of = |os, wsl, gib| pinnable(os, wsl, Bytes::gib(gib)).map(|known| known.value);
        assert_eq!(of("linux", true, 64), Some(Bytes::mib(768)));
        assert_eq!(of("windows", false, 100), Some(Bytes::gib(40)));
        assert_eq!(of("linux", false, 100), Some(Bytes::gib(90)));
        assert_eq!(of("macos", false, 100), None);
    }
}
