//! Intel GPUs on Linux, through the files of the `xe` and `i915` kernel drivers.

use overflowml_types::{Bytes, Gpu, Known, Library, Pool, Vendor};

use crate::capture::Capture;
use crate::nvidia::{HostMemory, empty};
use crate::pcie;
use crate::root::Root;
use crate::sysfs::{self, DrmCard};
use crate::visible::{self, Names};

/// GPUs that can compute, by card number: parts before generation 9 are left out.
pub(crate) fn gpus(capture: &Capture, host: &HostMemory) -> (Vec<Gpu>, Vec<Library>) {
    let root = &capture.root;
    let cards = sysfs::cards(root, &["xe", "i915"]);
    let cards: Vec<_> = cards.iter().filter(|card| !is_too_old(card.pci.device)).collect();
    let mask = visible::unless_empty(capture.variable("ZE_AFFINITY_MASK"));
    let nameless: Vec<Names> = cards.iter().map(|_| Names { ids: Vec::new() }).collect();
    // `0.1` is one tile of a device; the whole device is counted.
    let whole = mask.map(|mask| {
        let entries: Vec<&str> =
            mask.split(',').map(|entry| entry.split('.').next().unwrap_or(entry)).collect();
        entries.join(",")
    });
    let seen = visible::select(whole.as_deref(), &nameless);
    let mut hidden = Vec::new();
    for (at, card) in cards.iter().enumerate() {
        if !seen.contains(&at) {
            let name = format!("{} at {}", name(root, card), card.pci.address);
            let by = format!("ZE_AFFINITY_MASK={}", mask.unwrap_or_default());
            hidden.push(Library::Hidden { name, by });
        }
    }
    let seen = seen.into_iter().filter_map(|at| cards.get(at));
    (seen.map(|card| gpu(capture, card, host)).collect(), hidden)
}

fn gpu(capture: &Capture, card: &DrmCard, host: &HostMemory) -> Gpu {
    let root = &capture.root;
    let kernel = root.read("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut gpu = Gpu {
        name: name(root, card),
        pci: Some(card.pci.address.clone()),
        architecture: architecture(card.pci.device).map(str::to_owned),
        driver: Some(format!("{} of Linux {}", card.driver, kernel.trim())),
        ..empty(Vendor::Intel)
    };
    match local_memory(root, card) {
        Some(total) => {
            gpu.link = pcie::link(root, &pcie::folder(&card.pci.address));
            gpu.total = Some(total);
            let free = root.read_number(format!("{}/lmem_avail_bytes", card.folder));
            // What the other driver knows of free memory only root may read.
            gpu.free = free.map(|free| Known::reported(Bytes::new(free), "lmem_avail_bytes"));
        }
        None => {
            gpu.pool = Pool::Shared;
            gpu.total = Some(host.total.clone());
            gpu.free = Some(host.available.clone());
        }
    }
    gpu
}

/// The sum of a card's tiles; `None` for a processor's own GPU.
fn local_memory(root: &Root, card: &DrmCard) -> Option<Known<Bytes>> {
    let tiles = root.numbered(format!("{}/device", card.folder), "tile");
    let sizes = tiles.iter().filter_map(|(_, tile)| {
        let file = format!("{}/device/{tile}/physical_vram_size_bytes", card.folder);
        let text = root.read(file)?;
        parse_size(text.trim())
    });
    if let Some(total) = sizes.reduce(Bytes::saturating_add).filter(|total| !total.is_zero()) {
        return Some(Known::reported(total, "physical_vram_size_bytes of all tiles"));
    }
    let total = root.read_number(format!("{}/lmem_total_bytes", card.folder))?;
    Some(Known::reported(Bytes::new(total), "lmem_total_bytes"))
}

/// Decimal, or hexadecimal with `0x`.
fn parse_size(text: &str) -> Option<Bytes> {
    let size = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok()?,
        None => text.parse().ok()?,
    };
    Some(Bytes::new(size))
}

/// Graphics before generation 9, whose compute no library serves.
fn is_too_old(device: u32) -> bool {
    const OLD: [u32; 14] =
        [0x00, 0x01, 0x04, 0x0a, 0x0c, 0x0d, 0x0f, 0x16, 0x22, 0x25, 0x27, 0x29, 0x2a, 0x2e];
    OLD.contains(&(device >> 8))
}

/// By the high byte of the device id, as the kernel's own tables are ordered.
pub(crate) fn architecture(device: u32) -> Option<&'static str> {
    Some(match device >> 8 {
        0x19 | 0x59 | 0x5a | 0x31 | 0x3e | 0x87 | 0x9b => "gen9",
        0x8a | 0x4e => "gen11",
        0x9a | 0x4c | 0x46 | 0xa7 | 0x49 => "xe-lp",
        0x7d => "xe-lpg",
        0x56 => "xe-hpg",
        0x0b => "xe-hpc",
        0xe2 | 0x64 => "xe2",
        0xb0 | 0xfd => "xe3",
        _ => return None,
    })
}

fn name(root: &Root, card: &DrmCard) -> String {
    let listed = pcie::name(root, 0x8086, card.pci.device);
    listed.map_or_else(
        || format!("Intel GPU {:04x}", card.pci.device),
        |name| if name.starts_with("Intel") { name } else { format!("Intel {name}") },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_both_forms() {
        assert_eq!(parse_size("0x2fa800000"), Some(Bytes::new(0x2_fa80_0000)));
        assert_eq!(parse_size("12884901888"), Some(Bytes::gib(12)));
        assert_eq!(parse_size("many"), None);
    }

    #[test]
    fn old_graphics_are_left_out_and_new_ones_named() {
        assert!(is_too_old(0x0166), "HD 4000");
        assert!(is_too_old(0x1616), "HD 5500");
        assert!(!is_too_old(0x5916) && !is_too_old(0xe20b) && !is_too_old(0x0bd5));
        assert_eq!(architecture(0xe20b), Some("xe2"));
        assert_eq!(architecture(0x56a0), Some("xe-hpg"));
        assert_eq!(architecture(0x1234), None);
    }
}
