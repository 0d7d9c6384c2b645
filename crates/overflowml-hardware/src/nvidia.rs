//! NVIDIA GPUs: from the answers of the driver's own library to accelerators.
//!
//! Nothing here asks; [`crate::nvml`] does.

mod answers;
mod integrated;

use overflowml_types::{
    Bytes, BytesPerSecond, Gpu, GpuProcess, Known, Library, Link, Pool, Vendor,
};

pub(crate) use self::answers::{
    Answer, Nvml, NvmlDevice, NvmlMemory, NvmlProcess, NvmlState, Slices,
};
use crate::capture::Capture;
use crate::pcie;
use crate::visible::{self, Names};

const VISIBLE: &str = "CUDA_VISIBLE_DEVICES";

/// GPUs in the order in which CUDA programs see them, and how the library answered.
///
/// `host` is the memory that a GPU without its own may use now.
pub(crate) fn gpus(capture: &Capture, host: &HostMemory) -> (Vec<Gpu>, Vec<Library>) {
    let name = if capture.is("windows") { "nvml.dll" } else { "libnvidia-ml.so.1" };
    match &capture.nvml {
        NvmlState::Absent { looked_in } => {
            let absent = Library::Absent { name: name.to_owned(), looked_in: looked_in.clone() };
            (unasked(capture, host), vec![absent])
        }
        NvmlState::Failed { library, error } => {
            let failed = Library::Failed { name: library.clone(), error: error.clone() };
            (unasked(capture, host), vec![failed])
        }
        NvmlState::Present(nvml) => answered(capture, nvml, host),
    }
}

/// Main memory, as a GPU that shares it sees it.
#[derive(Clone, Debug)]
pub(crate) struct HostMemory {
    pub(crate) total: Known<Bytes>,
    pub(crate) available: Known<Bytes>,
}

fn answered(capture: &Capture, nvml: &Nvml, host: &HostMemory) -> (Vec<Gpu>, Vec<Library>) {
    let version = nvml.version.said().cloned();
    let mut libraries = vec![Library::Present { name: nvml.library.clone(), version }];
    for device in &nvml.devices {
        if let Answer::Refused { error } = device {
            // A card that fell off the bus is there, and cannot be used.
            libraries.push(Library::Failed { name: nvml.library.clone(), error: error.clone() });
        }
    }
    let devices = in_cuda_order(capture, nvml);
    let names: Vec<Names> = devices.iter().map(|device| names(device)).collect();
    let mask = capture.variable(VISIBLE);
    let chosen = visible::select(mask, &names);
    let parts: Vec<(usize, Part<'_>)> =
        chosen.into_iter().flat_map(|at| parts_at(&devices, at, mask)).collect();
    let seen = one_part_at_most(&parts);
    for (at, device) in devices.iter().enumerate() {
        if !seen.iter().any(|(position, _)| *position == at) {
            libraries.push(hidden(device, mask));
        }
    }
    let gpus = seen.iter().map(|(_, part)| gpu(capture, nvml, part, host)).collect();
    (gpus, libraries)
}

fn hidden(device: &NvmlDevice, mask: Option<&str>) -> Library {
    let name = device.name.said().map_or("NVIDIA GPU", String::as_str);
    let place = device.pci.said().and_then(|pci| pcie::address(pci));
    let by = mask.map_or_else(
        || "a MIG instance: CUDA then shows one, and nothing else".to_owned(),
        |mask| format!("{VISIBLE}={mask}"),
    );
    Library::Hidden { name: place.map_or(name.to_owned(), |at| format!("{name} at {at}")), by }
}

/// A card, or a part of one.
#[derive(Clone, Copy, Debug)]
struct Part<'a> {
    card: &'a NvmlDevice,
    /// `None` for an undivided card.
    instance: Option<&'a NvmlDevice>,
}

/// The identifiers that a mask can use for a card or its parts.
fn names(device: &NvmlDevice) -> Names {
    let all = std::iter::once(device).chain(&device.mig);
    Names { ids: all.filter_map(|device| device.uuid.said().cloned()).collect() }
}

/// What the mask shows at `at`: the card, or the part whose identifier it names, or all parts.
fn parts_at<'a>(
    devices: &[&'a NvmlDevice],
    at: usize,
    mask: Option<&str>,
) -> Vec<(usize, Part<'a>)> {
    let Some(card) = devices.get(at).copied() else { return Vec::new() };
    if !card.mig_enabled.said().copied().unwrap_or(false) {
        return vec![(at, Part { card, instance: None })];
    }
    let named = |part: &&NvmlDevice| {
        let Some(id) = part.uuid.said().map(|id| id.to_ascii_lowercase()) else { return false };
        let mut entries = mask.unwrap_or_default().split(',');
        entries.any(|entry| entry.len() > 4 && id.starts_with(&entry.trim().to_ascii_lowercase()))
    };
    let part = |instance| (at, Part { card, instance: Some(instance) });
    match card.mig.iter().find(named) {
        Some(instance) => vec![part(instance)],
        None => card.mig.iter().map(part).collect(),
    }
}

/// CUDA shows a process one instance of a divided card, the first, and then no other device.
fn one_part_at_most<'a>(parts: &[(usize, Part<'a>)]) -> Vec<(usize, Part<'a>)> {
    match parts.iter().find(|(_, part)| part.instance.is_some()) {
        Some(first) => vec![*first],
        None => parts.to_vec(),
    }
}

/// NVML counts along the PCI bus; CUDA puts the fastest first unless told otherwise.
fn in_cuda_order<'a>(capture: &Capture, nvml: &'a Nvml) -> Vec<&'a NvmlDevice> {
    let mut devices: Vec<&NvmlDevice> = nvml.devices.iter().filter_map(Answer::said).collect();
    let by_bus = capture.variable("CUDA_DEVICE_ORDER") == Some("PCI_BUS_ID");
    let speeds: Option<Vec<u64>> = devices.iter().map(|device| speed(device)).collect();
    if !by_bus && speeds.is_some() {
        // Only the first is certain to move: the rest keep their order, as a stable sort by speed would for equals.
        let fastest = devices
            .iter()
            .enumerate()
            .max_by_key(|(at, device)| (speed(device), std::cmp::Reverse(*at)));
        if let Some((at, _)) = fastest {
            devices[..=at].rotate_right(1);
        }
    }
    devices
}

/// Cores and clock: what CUDA's own undocumented order follows in practice.
fn speed(device: &NvmlDevice) -> Option<u64> {
    let (cores, clock) = (device.cores.said()?, device.max_sm_clock_mhz.said()?);
    Some(u64::from(*cores) * u64::from(*clock))
}

fn gpu(capture: &Capture, nvml: &Nvml, part: &Part<'_>, host: &HostMemory) -> Gpu {
    let own = part.instance.unwrap_or(part.card);
    let said = |pick: fn(&NvmlDevice) -> &Answer<String>| {
        pick(own).said().or_else(|| pick(part.card).said()).cloned()
    };
    let capability = own.compute_capability.said().or(part.card.compute_capability.said()).copied();
    let pci = said(|device| &device.pci).and_then(|pci| pcie::address(&pci));
    let mut gpu = Gpu {
        name: card_name(part),
        uuid: said(|device| &device.uuid),
        compute_capability: capability,
        architecture: capability.map(|(major, minor)| format!("sm_{major}{minor}")),
        driver: nvml.driver.said().cloned(),
        runtime: nvml.cuda.said().map(|&version| cuda_version(version)),
        processes: own.processes.iter().map(|process| holder(capture, process)).collect(),
        ..empty(Vendor::Nvidia)
    };
    if let Some(shared) = integrated::memory(part.card, capability, host) {
        return Gpu { pci, ..shared.into_gpu(gpu) };
    }
    let link = pci.as_deref().and_then(|pci| pcie::link(&capture.root, &pcie::folder(pci)));
    gpu.link = self::link(part.card, link);
    gpu.pci = pci;
    fill_memory(&mut gpu, own);
    gpu.rate = rate(own).or_else(|| rate(part.card).and_then(|rate| scaled(part, rate)));
    gpu.partition = part.instance.and_then(profile);
    gpu
}

/// A GPU of which nothing is known.
pub(crate) fn empty(vendor: Vendor) -> Gpu {
    Gpu {
        index: 0,
        name: String::new(),
        vendor,
        uuid: None,
        pci: None,
        pool: Pool::Own,
        total: None,
        free: None,
        dedicated: None,
        reserved: None,
        limit: None,
        rate: None,
        flops: None,
        link: None,
        architecture: None,
        compute_capability: None,
        driver: None,
        runtime: None,
        partition: None,
        processes: Vec::new(),
    }
}

/// The second version says what the driver keeps; the first hides it in what is used.
fn fill_memory(gpu: &mut Gpu, device: &NvmlDevice) {
    let (memory, source) = match (device.memory_v2.said(), device.memory_v1.said()) {
        (Some(memory), _) => (memory, "NVML"),
        (None, Some(memory)) => (memory, "NVML, first version"),
        (None, None) => return,
    };
    let known = |bytes, what| Some(Known::reported(bytes, format!("{source}: {what} memory")));
    gpu.total = known(memory.total, "total");
    gpu.free = known(memory.free, "free");
    gpu.reserved = memory.reserved.and_then(|reserved| known(reserved, "reserved"));
}

/// The least of what the library and the way through the bus say.
fn link(card: &NvmlDevice, path: Option<Link>) -> Option<Link> {
    let mut link = path.unwrap_or_default();
    pcie::least(&mut link.generation, card.max_link_generation.said().copied());
    pcie::least(&mut link.width, card.max_link_width.said().copied());
    pcie::least(&mut link.current_generation, card.current_link_generation.said().copied());
    pcie::least(&mut link.current_width, card.current_link_width.said().copied());
    (link != Link::default()).then_some(link)
}

/// Memory moves twice per clock.
fn rate(device: &NvmlDevice) -> Option<Known<BytesPerSecond>> {
    let (clock, bits) = (device.max_memory_clock_mhz.said()?, device.memory_bus_bits.said()?);
    let rate = BytesPerSecond::new(f64::from(*clock) * 1e6 * 2.0 * f64::from(*bits) / 8.0)?;
    Some(Known::reported(rate, format!("NVML: 2 x {clock} MHz x {bits} bits")))
}

/// An instance has the share of the bandwidth that it has of the memory.
fn scaled(part: &Part<'_>, rate: Known<BytesPerSecond>) -> Option<Known<BytesPerSecond>> {
    if part.instance.is_none() {
        return Some(rate);
    }
    let memory = |device: &NvmlDevice| device.memory_v2.said().map(|memory| memory.total.as_f64());
    let share = memory(part.instance?)? / memory(part.card)?;
    let value = BytesPerSecond::new(rate.value.get() * share.min(1.0))?;
    Some(Known::assumed(value, format!("its share of the card's ({})", rate.source)))
}

/// An instance is called `NVIDIA H200 MIG 1g.18gb`; its card is the part before.
fn card_name(part: &Part<'_>) -> String {
    let of = |device: &NvmlDevice| {
        let name = device.name.said()?;
        Some(name.split_once(" MIG ").map_or(name.as_str(), |(card, _)| card).to_owned())
    };
    of(part.card).or_else(|| of(part.instance?)).unwrap_or_else(|| "NVIDIA GPU".to_owned())
}

/// For example `3g.20gb`, as the vendor names it.
fn profile(instance: &NvmlDevice) -> Option<String> {
    if let Some((_, profile)) = instance.name.said().and_then(|name| name.split_once(" MIG ")) {
        return Some(profile.to_owned());
    }
    let slices = instance.slices.said()?;
    // The name rounds up to whole gigabytes: 19968 MiB is `20gb`.
    let gigabytes = slices.memory.get().div_ceil(1 << 30);
    let compute =
        if slices.compute < slices.gpu { format!("{}c.", slices.compute) } else { String::new() };
    Some(format!("{compute}{}g.{gigabytes}gb", slices.gpu))
}

/// Reads 12080 as `CUDA 12.8`.
fn cuda_version(version: i32) -> String {
    format!("CUDA {}.{}", version / 1000, version % 1000 / 10)
}

fn holder(capture: &Capture, process: &NvmlProcess) -> GpuProcess {
    let name = capture.root.read(format!("/proc/{}/comm", process.pid));
    GpuProcess {
        pid: process.pid,
        name: name.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()),
        used: process.used,
    }
}

/// What is known of NVIDIA devices without the library: that they are there, and what a Jetson is.
fn unasked(capture: &Capture, host: &HostMemory) -> Vec<Gpu> {
    if let Some(jetson) = integrated::jetson(&capture.root, host) {
        return vec![jetson];
    }
    let addresses = crate::sysfs::display_devices(&capture.root);
    let own = addresses.into_iter().filter(|device| device.vendor == 0x10de);
    own.map(|device| Gpu {
        name: pcie::name(&capture.root, device.vendor, device.device)
            .map_or_else(|| "NVIDIA GPU".to_owned(), |name| format!("NVIDIA {name}")),
        link: pcie::link(&capture.root, &pcie::folder(&device.address)),
        pci: Some(device.address),
        ..empty(Vendor::Nvidia)
    })
    .collect()
}

#[cfg(test)]
mod tests;
