//! Which processes hold memory of AMD and Intel GPUs, from what Linux tells of their open files.
//!
//! `/proc/PID/fdinfo/FD` of a graphics device has lines such as `drm-resident-vram: 1024 KiB`. A process without
//! privileges sees its user's only.

use std::collections::BTreeMap;

use overflowml_types::{Bytes, Gpu, GpuProcess, Pool, Vendor};

use crate::pcie;
use crate::root::Root;

/// One client of one device. Several open files can be the same client.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Client {
    pci: String,
    id: u64,
    /// Resident bytes by region: `vram`, `vram0`, `local0`; `gtt`, `system`.
    regions: BTreeMap<String, Bytes>,
}

/// Fills in the processes of the GPUs whose drivers have no library that lists them.
pub(crate) fn list(root: &Root, gpus: &mut [Gpu]) {
    let concerned = |gpu: &Gpu| matches!(gpu.vendor, Vendor::Amd | Vendor::Intel);
    if !gpus.iter().any(concerned) {
        return;
    }
    let mut held = held(root);
    for gpu in gpus.iter_mut().filter(|gpu| concerned(gpu)) {
        let Some(clients) = gpu.pci.as_ref().and_then(|pci| held.remove(pci)) else { continue };
        let own = gpu.pool == Pool::Own;
        gpu.processes = clients
            .into_iter()
            .map(|(pid, regions)| GpuProcess {
                pid,
                name: name(root, pid),
                used: Some(used(&regions, own)),
            })
            .collect();
        gpu.processes.sort_by_key(|process| (std::cmp::Reverse(process.used), process.pid));
    }
}

/// Resident bytes by region.
type Regions = BTreeMap<String, Bytes>;

/// By device and process, each client counted once.
fn held(root: &Root) -> BTreeMap<String, BTreeMap<u32, Regions>> {
    let mut clients = BTreeMap::new();
    for (pid, folder) in root.numbered("/proc", "") {
        for (_, file) in root.numbered(format!("/proc/{folder}/fdinfo"), "") {
            let text = root.read(format!("/proc/{folder}/fdinfo/{file}"));
            if let Some(client) = text.and_then(|text| parse(&text)) {
                clients.insert((client.pci, pid, client.id), client.regions);
            }
        }
    }
    let mut held: BTreeMap<String, BTreeMap<u32, Regions>> = BTreeMap::new();
    for ((pci, pid, _), regions) in clients {
        let all = held.entry(pci).or_default().entry(pid).or_default();
        for (region, bytes) in regions {
            let sum = all.entry(region).or_default();
            *sum = sum.saturating_add(bytes);
        }
    }
    held
}

/// What of the device's memory: its own where it has some, else whatever it holds of main memory.
fn used(regions: &Regions, own: bool) -> Bytes {
    let on_card = |name: &str| name.starts_with("vram") || name.starts_with("local");
    regions.iter().filter(|(name, _)| !own || on_card(name)).map(|(_, bytes)| *bytes).sum()
}

fn name(root: &Root, pid: u32) -> Option<String> {
    let name = root.read(format!("/proc/{pid}/comm"))?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}

/// `None` for a file that is no graphics device.
fn parse(text: &str) -> Option<Client> {
    let mut found = BTreeMap::new();
    let (mut pci, mut id) = (None, None);
    for line in text.lines() {
        let Some((key, value)) = line.split_once(':') else { continue };
        let value = value.trim();
        match key {
            "drm-pdev" => pci = pcie::address(value),
            "drm-client-id" => id = value.parse().ok(),
            _ => {
                // The older name of what is resident; both can be there.
                let older = key.strip_prefix("drm-memory-");
                let newer = key.strip_prefix("drm-resident-");
                if let (Some(region), Some(bytes)) = (newer.or(older), size(value)) {
                    let entry = found.entry(region.to_owned()).or_insert(bytes);
                    if newer.is_some() {
                        *entry = bytes;
                    }
                }
            }
        }
    }
    Some(Client { pci: pci?, id: id?, regions: found })
}

/// `123 KiB`, `1 MiB`, or bytes without a unit.
fn size(text: &str) -> Option<Bytes> {
    let mut words = text.split_whitespace();
    let count: u64 = words.next()?.parse().ok()?;
    let unit = match words.next() {
        None => Bytes::new(1),
        Some("KiB") => Bytes::kib(1),
        Some("MiB") => Bytes::mib(1),
        Some("GiB") => Bytes::gib(1),
        Some(_) => return None,
    };
    Some(unit.saturating_mul(count))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::nvidia::empty;

    /// As Linux 6.8 prints it for a process that computes on an RX 7900 XTX.
    const AMD: &str = "pos:\t0\nflags:\t02100002\nmnt_id:\t26\nino:\t706\ndrm-driver:\tamdgpu\ndrm-client-id:\t37\n\
        drm-pdev:\t0000:03:00.0\npasid:\t32771\ndrm-memory-vram:\t8388608 KiB\ndrm-memory-gtt: \t14848 KiB\n\
        drm-memory-cpu: \t0 KiB\namd-memory-visible-vram:\t8192 KiB\ndrm-engine-compute:\t91873 ns\n";

    /// The same of Linux 6.12 for an Arc B580.
    const INTEL: &str = "pos:\t0\nflags:\t0100002\nmnt_id:\t26\nino:\t566\ndrm-driver:\txe\ndrm-client-id:\t9\n\
        drm-pdev:\t0000:0a:00.0\ndrm-total-system:\t0\ndrm-resident-system:\t512 KiB\ndrm-total-gtt:\t192 KiB\n\
        drm-resident-gtt:\t192 KiB\ndrm-total-vram0:\t3145728 KiB\ndrm-shared-vram0:\t16 MiB\n\
        drm-resident-vram0:\t2 GiB\ndrm-cycles-rcs:\t28257900\n";

    #[test]
    fn what_is_resident_counts_and_the_older_name_gives_way() {
        let client = parse(AMD).unwrap();
        assert_eq!((client.pci.as_str(), client.id), ("0000:03:00.0", 37));
        assert_eq!(used(&client.regions, true), Bytes::gib(8));
        let both = AMD.replace("pasid", "drm-resident-vram:\t4194304 KiB\npasid");
        assert_eq!(used(&parse(&both).unwrap().regions, true), Bytes::gib(4));
        assert_eq!(used(&parse(INTEL).unwrap().regions, true), Bytes::gib(2));
        let shared = used(&parse(INTEL).unwrap().regions, false);
        assert_eq!(shared, Bytes::gib(2).saturating_add(Bytes::kib(704)));
    }

    #[test]
    fn other_files_and_unknown_units_say_nothing() {
        assert_eq!(parse("pos:\t0\nflags:\t02\nmnt_id:\t13\n"), None);
        assert_eq!(size("5 parsecs"), None);
        assert_eq!(size("4096"), Some(Bytes::kib(4)));
    }

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn a_client_with_two_open_files_counts_once_and_the_largest_comes_first() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let small = AMD.replace("37", "40").replace("8388608", "1048576");
        for (path, text) in [
            ("proc/812/fdinfo/5", small.as_str()),
            ("proc/812/comm", "Xorg\n"),
            ("proc/4711/fdinfo/7", AMD),
            ("proc/4711/fdinfo/8", AMD),
            ("proc/4711/fdinfo/0", "pos:\t0\n"),
            ("proc/4711/comm", "python3\n"),
            ("proc/4712/fdinfo/7", INTEL),
            ("proc/self/fdinfo/7", AMD),
        ] {
            write(root, path, text);
        }
        let gpu = |vendor, pci: &str| Gpu { pci: Some(pci.to_owned()), ..empty(vendor) };
        let mut gpus = [gpu(Vendor::Amd, "0000:03:00.0"), gpu(Vendor::Nvidia, "0000:0a:00.0")];
        list(&Root::at(root), &mut gpus);
        let seen: Vec<_> = gpus[0]
            .processes
            .iter()
            .map(|one| (one.pid, one.name.as_deref().unwrap(), one.used.unwrap()))
            .collect();
        assert_eq!(seen, [(4711, "python3", Bytes::gib(8)), (812, "Xorg", Bytes::gib(1))]);
        assert!(gpus[1].processes.is_empty(), "its own library lists them");
    }
}
