//! AMD GPUs on Linux, through the files of the kernel driver: works without ROCm.

use std::collections::BTreeMap;

use overflowml_types::{Bytes, Gpu, Known, Library, Pool, Vendor};

use crate::capture::Capture;
use crate::nvidia::{HostMemory, empty};
use crate::pcie;
use crate::root::Root;
use crate::sysfs::{self, DrmCard};
use crate::visible::{self, Names};

const TOPOLOGY: &str = "/sys/class/kfd/kfd/topology/nodes";

/// Targets of processors with graphics. MI300A has the same target as MI300X, and is known by its node instead.
const APU_TARGETS: [&str; 15] = [
    "gfx902", "gfx909", "gfx90c", "gfx1013", "gfx1033", "gfx1035", "gfx1036", "gfx1037", "gfx1103",
    "gfx1150", "gfx1151", "gfx1152", "gfx1153", "gfx1170", "gfx1171",
];

/// GPUs in the order in which HIP programs see them, and what was found hidden.
pub(crate) fn gpus(capture: &Capture, host: &HostMemory) -> (Vec<Gpu>, Vec<Library>) {
    let root = &capture.root;
    let nodes = compute_nodes(root);
    let mut cards = sysfs::cards(root, &["amdgpu"]);
    // ROCm counts along the compute nodes; cards without one come last, and no program computes on them.
    let order = |card: &DrmCard| {
        nodes.iter().position(|node| node.address.as_deref() == Some(&card.pci.address))
    };
    cards.sort_by_key(|card| order(card).unwrap_or(usize::MAX));
    let node_of = |card: &DrmCard| order(card).and_then(|at| nodes.get(at));
    let names: Vec<Names> = cards
        .iter()
        .map(|card| Names { ids: node_of(card).and_then(Node::uuid).into_iter().collect() })
        .collect();
    let (seen, mask) = masked(capture, &names);
    let mut gpus = Vec::new();
    let mut hidden = Vec::new();
    for (at, card) in cards.iter().enumerate() {
        if !seen.contains(&at) {
            let name = format!("{} at {}", name(root, card), card.pci.address);
            hidden.push(Library::Hidden { name, by: mask.clone() });
        }
    }
    for at in seen {
        if let Some(card) = cards.get(at) {
            gpus.push(gpu(capture, card, node_of(card), host));
        }
    }
    (gpus, hidden)
}

/// ROCR's mask comes first and numbers what is left anew; HIP's, or CUDA's in its place, then counts in those numbers.
fn masked(capture: &Capture, names: &[Names]) -> (Vec<usize>, String) {
    let rocr = capture.variable("ROCR_VISIBLE_DEVICES");
    let first = visible::select(rocr, names);
    let left: Vec<Names> = first.iter().filter_map(|&at| names.get(at).cloned()).collect();
    let hip = ["HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"];
    let hip = hip
        .into_iter()
        .find_map(|name| Some((name, visible::unless_empty(capture.variable(name))?)));
    let second = visible::select(hip.map(|(_, mask)| mask), &left);
    let seen = second.into_iter().filter_map(|at| first.get(at).copied()).collect();
    let masks = rocr.map(|mask| ("ROCR_VISIBLE_DEVICES", mask)).into_iter().chain(hip);
    let text: Vec<String> = masks.map(|(name, mask)| format!("{name}={mask}")).collect();
    (seen, text.join(", then "))
}

fn gpu(capture: &Capture, card: &DrmCard, node: Option<&Node>, host: &HostMemory) -> Gpu {
    let root = &capture.root;
    let target = node.map(Node::target);
    let forced = capture.variable("HSA_OVERRIDE_GFX_VERSION").and_then(parse_override);
    let mut gpu = Gpu {
        name: name(root, card),
        uuid: node.and_then(Node::uuid),
        pci: Some(card.pci.address.clone()),
        architecture: forced.or_else(|| target.clone()),
        driver: driver(root),
        runtime: root
            .read("/opt/rocm/.info/version")
            .map(|version| format!("ROCm {}", version.trim())),
        ..empty(Vendor::Amd)
    };
    let files = MemoryFiles::read(root, card);
    if is_apu(root, card, node, target.as_deref()) {
        fill_shared(&mut gpu, &files, host);
    } else {
        gpu.link = pcie::link(root, &pcie::folder(&card.pci.address));
        gpu.total = files.vram_total.map(|total| Known::reported(total, "mem_info_vram_total"));
        gpu.free = files
            .vram_free()
            .map(|free| Known::reported(free, "mem_info_vram_total less mem_info_vram_used"));
    }
    gpu
}

/// The carve-out is the GPU's alone; the rest of what it reaches is main memory that the host counts, too.
fn fill_shared(gpu: &mut Gpu, files: &MemoryFiles, host: &HostMemory) {
    gpu.pool = Pool::Shared;
    let carved_free = files.vram_free();
    gpu.dedicated = carved_free.map(|free| {
        Known::reported(free, "the carve-out: mem_info_vram_total less mem_info_vram_used")
    });
    let reach = files.gtt_total.unwrap_or(Bytes::ZERO).min(host.total.value);
    let total = files.vram_total.unwrap_or(Bytes::ZERO).saturating_add(reach);
    gpu.total = Some(Known::reported(total, "mem_info_vram_total and mem_info_gtt_total"));
    let gtt_left = files.gtt_free().unwrap_or(Bytes::ZERO);
    let shared = gtt_left.min(host.available.value);
    let limited_by =
        if shared < gtt_left { host.available.source.as_str() } else { "mem_info_gtt" };
    let free = carved_free.unwrap_or(Bytes::ZERO).saturating_add(shared);
    gpu.free = Some(Known::reported(free, format!("free carve-out, and shared by {limited_by}")));
}

/// Kernels say it in the format of the card's metrics (2 and 3 are processors'), older ones by the target.
fn is_apu(root: &Root, card: &DrmCard, node: Option<&Node>, target: Option<&str>) -> bool {
    let metrics = root.read_bytes(format!("{}/device/gpu_metrics", card.folder));
    if let Some(format) = metrics.as_deref().and_then(|bytes| bytes.get(2)) {
        return (2..=3).contains(format);
    }
    let both = node.is_some_and(|node| node.number("cpu_cores_count").unwrap_or(0) > 0);
    both || target.is_some_and(|target| APU_TARGETS.contains(&target))
}

#[derive(Clone, Copy, Debug, Default)]
struct MemoryFiles {
    vram_total: Option<Bytes>,
    vram_used: Option<Bytes>,
    gtt_total: Option<Bytes>,
    gtt_used: Option<Bytes>,
}

impl MemoryFiles {
    fn read(root: &Root, card: &DrmCard) -> Self {
        let bytes = |name: &str| {
            root.read_number(format!("{}/device/mem_info_{name}", card.folder)).map(Bytes::new)
        };
        Self {
            vram_total: bytes("vram_total"),
            vram_used: bytes("vram_used"),
            gtt_total: bytes("gtt_total"),
            gtt_used: bytes("gtt_used"),
        }
    }

    fn vram_free(&self) -> Option<Bytes> {
        Some(self.vram_total?.left_after(self.vram_used?))
    }

    fn gtt_free(&self) -> Option<Bytes> {
        Some(self.gtt_total?.left_after(self.gtt_used?))
    }
}

/// A node of the compute driver's topology.
#[derive(Clone, Debug)]
struct Node {
    properties: BTreeMap<String, u64>,
    address: Option<String>,
}

impl Node {
    fn number(&self, name: &str) -> Option<u64> {
        self.properties.get(name).copied()
    }

    /// For example `gfx1100`, from 110000.
    fn target(&self) -> String {
        target(self.number("gfx_target_version").unwrap_or(0))
    }

    /// As `rocminfo` writes it; integrated parts have none.
    fn uuid(&self) -> Option<String> {
        self.number("unique_id").filter(|&id| id != 0).map(|id| format!("GPU-{id:016x}"))
    }
}

fn target(version: u64) -> String {
    format!("gfx{}{:x}{:x}", version / 10_000, version / 100 % 100, version % 100)
}

/// Reads `11.0.0`, which programs are told instead of the truth.
fn parse_override(text: &str) -> Option<String> {
    let numbers: Vec<u64> = text.trim().split('.').map_while(|part| part.parse().ok()).collect();
    let [major, minor, step] = *numbers.as_slice() else { return None };
    Some(target(major * 10_000 + minor * 100 + step))
}

/// The nodes that compute on a GPU, in order.
fn compute_nodes(root: &Root) -> Vec<Node> {
    let numbered = root.numbered(TOPOLOGY, "");
    let nodes = numbered.into_iter().filter_map(|(_, name)| {
        let text = root.read(format!("{TOPOLOGY}/{name}/properties"))?;
        let properties = parse_properties(&text);
        (properties.get("simd_count").copied().unwrap_or(0) > 0).then_some(())?;
        let address = properties.get("location_id").map(|&location| {
            let domain = properties.get("domain").copied().unwrap_or(0);
            let (bus, device) = (location >> 8 & 0xff, location >> 3 & 0x1f);
            format!("{domain:04x}:{bus:02x}:{device:02x}.{:x}", location & 7)
        });
        Some(Node { properties, address })
    });
    nodes.collect()
}

/// Lines such as `simd_count 192`.
fn parse_properties(text: &str) -> BTreeMap<String, u64> {
    let line = |line: &str| {
        let (name, value) = line.split_once(' ')?;
        Some((name.to_owned(), value.trim().parse().ok()?))
    };
    text.lines().filter_map(line).collect()
}

/// The name in the driver's own list, else in the list of PCI devices; never one that only resembles it.
fn name(root: &Root, card: &DrmCard) -> String {
    let list = root.read("/usr/share/libdrm/amdgpu.ids").unwrap_or_default();
    let (device, revision) = (card.pci.device, card.pci.revision.unwrap_or(0));
    parse_id(&list, device, revision)
        .or_else(|| {
            let name = pcie::name(root, 0x1002, device)?;
            // The list names all cards of a chip; only a single name says something.
            let name = if name.contains(" / ") { return None } else { name };
            Some(if name.starts_with("AMD") { name } else { format!("AMD {name}") })
        })
        .unwrap_or_else(|| format!("AMD GPU {device:04x}"))
}

/// The list has `744C,⇥C8,⇥AMD Radeon RX 7900 XTX`.
fn parse_id(list: &str, device: u32, revision: u32) -> Option<String> {
    let hex = |text: &str| u32::from_str_radix(text.trim(), 16).ok();
    list.lines().find_map(|line| {
        let mut fields = line.splitn(3, ',');
        let (own, own_revision, name) = (fields.next()?, fields.next()?, fields.next()?);
        let same = hex(own)? == device && hex(own_revision)? == revision;
        same.then(|| name.trim().to_owned())
    })
}

/// Only the separately installed driver has a version; the kernel's own is as old as the kernel.
fn driver(root: &Root) -> Option<String> {
    if let Some(version) = root.read("/sys/module/amdgpu/version") {
        return Some(format!("amdgpu {}", version.trim()));
    }
    let kernel = root.read("/proc/sys/kernel/osrelease")?;
    Some(format!("amdgpu of Linux {}", kernel.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_written_as_compilers_write_them() {
        assert_eq!(target(110_000), "gfx1100");
        assert_eq!(target(90_402), "gfx942");
        assert_eq!(target(90_010), "gfx90a");
        assert_eq!(target(110_501), "gfx1151");
        assert_eq!(parse_override("11.0.0").as_deref(), Some("gfx1100"));
        assert_eq!(parse_override("11"), None);
    }

    #[test]
    fn names_need_the_device_and_its_revision() {
        let list = "1.0.0\n744C,\tC8,\tAMD Radeon RX 7900 XTX\n744C,\tCC,\tAMD Radeon RX 7900 XT\n";
        assert_eq!(parse_id(list, 0x744c, 0xcc).as_deref(), Some("AMD Radeon RX 7900 XT"));
        assert_eq!(parse_id(list, 0x744c, 0x01), None);
    }

    fn masks(env: &[(&str, &str)]) -> Vec<usize> {
        let folder = tempfile::tempdir().unwrap();
        let mut capture = Capture::read(folder.path());
        capture.env = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let ids = ["GPU-a0", "GPU-b1", "GPU-c2"];
        let names = ids.map(|id| Names { ids: vec![id.to_owned()] });
        masked(&capture, &names).0
    }

    #[test]
    fn masks_stack_and_the_second_counts_in_the_first_one_s_numbers() {
        assert_eq!(masks(&[]), [0, 1, 2]);
        assert_eq!(masks(&[("ROCR_VISIBLE_DEVICES", "1,2"), ("HIP_VISIBLE_DEVICES", "1")]), [2]);
        // Both set to 1: one device is left, and its number is 0.
        assert_eq!(
            masks(&[("ROCR_VISIBLE_DEVICES", "1"), ("HIP_VISIBLE_DEVICES", "1")]),
            [0usize; 0]
        );
        assert_eq!(masks(&[("ROCR_VISIBLE_DEVICES", "GPU-c2,GPU-a0")]), [2, 0]);
    }

    #[test]
    fn cuda_s_mask_serves_where_hip_s_is_not_set() {
        assert_eq!(masks(&[("CUDA_VISIBLE_DEVICES", "2")]), [2]);
        assert_eq!(masks(&[("CUDA_VISIBLE_DEVICES", "2"), ("HIP_VISIBLE_DEVICES", "0")]), [0]);
        assert_eq!(masks(&[("HIP_VISIBLE_DEVICES", "")]), [0, 1, 2], "HIP ignores an empty mask");
        assert_eq!(masks(&[("ROCR_VISIBLE_DEVICES", "")]), [0usize; 0], "ROCR does not");
    }
}
