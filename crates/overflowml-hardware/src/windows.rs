//! Windows: GPUs from the registry and DXGI, the processor and memory from its own calls.

use overflowml_types::{Bytes, Gpu, Known, Library, Pool, Vendor};
use serde::{Deserialize, Serialize};

use crate::capture::Capture;
use crate::intel;
use crate::nvidia::{HostMemory, empty};

/// What DXGI says of one adapter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DxgiAdapter {
    pub(crate) vendor_id: u32,
    pub(crate) device_id: u32,
    /// A renderer without a device.
    #[serde(default)]
    pub(crate) software: bool,
    #[serde(rename = "dedicated_video_memory_bytes")]
    pub(crate) dedicated: Bytes,
    /// What the system lets this process use now: not what is free.
    #[serde(default, rename = "local_budget_bytes")]
    pub(crate) budget: Option<Bytes>,
}

/// A display adapter in the registry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Adapter {
    name: String,
    driver: Option<String>,
    vendor: u32,
    device: u32,
    /// 64 bits. The older `MemorySize` and WMI's `AdapterRAM` have 32 and stop at 4 GiB: they are not read.
    memory: Option<Bytes>,
}

/// Fills the budget of `nvidia` GPUs, and adds what NVML does not know.
pub(crate) fn gpus(
    capture: &Capture,
    nvidia: Vec<Gpu>,
    host: &HostMemory,
) -> (Vec<Gpu>, Vec<Library>) {
    let adapters = parse_registry(capture.registry.as_deref().unwrap_or_default());
    let mut dxgi: Vec<DxgiAdapter> = capture.dxgi.clone().unwrap_or_default();
    dxgi.retain(|adapter| !adapter.software);
    let mut library = Vec::new();
    if capture.registry.is_none() {
        let error = "the class of display adapters could not be read".to_owned();
        library.push(Library::Failed { name: "registry".to_owned(), error });
    }
    let answered =
        !nvidia.is_empty() || matches!(capture.nvml, crate::nvidia::NvmlState::Present(_));
    let mut gpus = nvidia;
    // NVML counts along the bus and so does DXGI within one vendor, but for the adapter with the desktop: only a lone
    // card is certain.
    let mut cards = dxgi.iter().filter(|adapter| adapter.vendor_id == 0x10de);
    if let ([gpu], (Some(adapter), None)) = (gpus.as_mut_slice(), (cards.next(), cards.next())) {
        gpu.limit = budget(adapter);
    }
    for adapter in adapters {
        if adapter.vendor == 0x10de && answered {
            continue;
        }
        let same =
            |own: &DxgiAdapter| own.vendor_id == adapter.vendor && own.device_id == adapter.device;
        let found = dxgi.iter().position(same).map(|at| dxgi.remove(at));
        gpus.extend(gpu(adapter, found.as_ref(), host));
    }
    (gpus, library)
}

fn gpu(adapter: Adapter, dxgi: Option<&DxgiAdapter>, host: &HostMemory) -> Option<Gpu> {
    let vendor = match adapter.vendor {
        0x10de => Vendor::Nvidia,
        0x1002 => Vendor::Amd,
        0x8086 => Vendor::Intel,
        // The basic display driver, remote desktops and the like.
        _ => return None,
    };
    let shared = is_integrated(vendor, &adapter);
    let architecture = match vendor {
        Vendor::Intel => intel::architecture(adapter.device).map(str::to_owned),
        _ => None,
    };
    let own = adapter.memory.map(|memory| Known::reported(memory, "registry qwMemorySize"));
    let own = own.or_else(|| {
        let dedicated = dxgi.map(|dxgi| dxgi.dedicated).filter(|bytes| !bytes.is_zero())?;
        Some(Known::reported(dedicated, "DXGI DedicatedVideoMemory"))
    });
    let mut gpu = Gpu {
        name: adapter.name,
        driver: adapter.driver,
        architecture,
        limit: dxgi.and_then(budget),
        ..empty(vendor)
    };
    if shared {
        gpu.pool = Pool::Shared;
        let carved = own.as_ref().map_or(Bytes::ZERO, |own| own.value);
        gpu.total = Some(Known::reported(
            carved.saturating_add(host.total.value),
            "the carve-out and main memory",
        ));
        // Whether the carve-out is free nobody says: only main memory is counted.
        gpu.free = Some(host.available.clone());
    } else {
        gpu.total = own;
    }
    Some(gpu)
}

/// Intel's by the device; AMD's by the names that it gives only to processors' graphics.
fn is_integrated(vendor: Vendor, adapter: &Adapter) -> bool {
    match vendor {
        Vendor::Intel => {
            !matches!(intel::architecture(adapter.device), Some("xe-hpg" | "xe-hpc"))
                && adapter.device >> 8 != 0xe2
                && adapter.device >> 8 != 0x49
        }
        Vendor::Amd => {
            let name = adapter.name.replace("(TM)", "");
            let words: Vec<&str> = name.split_whitespace().collect();
            let discrete = ["RX", "PRO", "Pro", "VII", "Instinct", "AI"];
            let model = words.iter().any(|word| {
                let number = word.trim_end_matches(['M', 'S']);
                number.len() < word.len() && number.parse::<u32>().is_ok()
            });
            let generic = words == ["AMD", "Radeon", "Graphics"];
            generic || (model && !words.iter().any(|word| discrete.contains(word)))
        }
        _ => false,
    }
}

fn budget(adapter: &DxgiAdapter) -> Option<Known<Bytes>> {
    adapter.budget.map(|budget| Known::reported(budget, "DXGI budget of this process"))
}

/// Reads what `reg query …\{4d36e968-e325-11ce-bfc1-08002be10318} /s` prints: a line with the key, then lines of name,
/// type and value with four blanks between.
fn parse_registry(text: &str) -> Vec<Adapter> {
    let mut adapters = Vec::new();
    let mut current: Option<Adapter> = None;
    for line in text.lines() {
        if line.starts_with("HKEY_") {
            adapters.extend(current.take().filter(|adapter| adapter.vendor != 0));
            let key = line.trim().rsplit('\\').next().unwrap_or_default();
            // Devices are numbered; the other keys below are settings.
            let is_device = key.len() == 4 && key.bytes().all(|byte| byte.is_ascii_digit());
            current = is_device.then(Adapter::default);
        } else if let Some(adapter) = current.as_mut() {
            read_value(adapter, line);
        }
    }
    adapters.extend(current.filter(|adapter| adapter.vendor != 0));
    adapters
}

fn read_value(adapter: &mut Adapter, line: &str) {
    let mut fields = line.trim().splitn(3, "    ");
    let (Some(name), Some(kind), Some(value)) = (fields.next(), fields.next(), fields.next())
    else {
        return;
    };
    let value = value.trim();
    match (name, kind.trim()) {
        ("DriverDesc", "REG_SZ") => adapter.name = value.to_owned(),
        ("DriverVersion", "REG_SZ") => adapter.driver = Some(value.to_owned()),
        ("MatchingDeviceId", "REG_SZ") => {
            let id = value.to_lowercase();
            let part = |key: &str| {
                let (_, rest) = id.split_once(key)?;
                u32::from_str_radix(rest.get(..4)?, 16).ok()
            };
            adapter.vendor = part("ven_").unwrap_or(0);
            adapter.device = part("dev_").unwrap_or(0);
        }
        ("HardwareInformation.qwMemorySize", "REG_QWORD") => {
            let size = u64::from_str_radix(value.trim_start_matches("0x"), 16).ok();
            adapter.memory = size.filter(|&size| size > 0).map(Bytes::new);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLASS: &str = r"HKEY_LOCAL_MACHINE\SYSTEM\CurrentControlSet\Control\Class\{4d36e968-e325-11ce-bfc1-08002be10318}";

    #[test]
    fn sizes_above_four_gibibytes_are_read_from_the_long_value() {
        let text = format!(
            "\r\n{CLASS}\\0000\r\n    DriverDesc    REG_SZ    AMD Radeon AI PRO R9700\r\n    \
             MatchingDeviceId    REG_SZ    PCI\\VEN_1002&DEV_7551\r\n    \
             HardwareInformation.MemorySize    REG_BINARY    0000F0FF\r\n    \
             HardwareInformation.qwMemorySize    REG_QWORD    0x800000000\r\n\r\n\
             {CLASS}\\Properties\r\n    DriverDesc    REG_SZ    nothing\r\n"
        );
        let adapters = parse_registry(&text);
        assert_eq!(adapters.len(), 1);
        assert_eq!(adapters[0].memory, Some(Bytes::gib(32)));
        assert_eq!((adapters[0].vendor, adapters[0].device), (0x1002, 0x7551));
        assert!(!is_integrated(Vendor::Amd, &adapters[0]));
    }

    #[test]
    fn processors_graphics_are_told_from_cards() {
        let integrated = |vendor, name: &str, device| {
            is_integrated(vendor, &Adapter { name: name.to_owned(), device, ..Adapter::default() })
        };
        assert!(integrated(Vendor::Amd, "AMD Radeon(TM) Graphics", 0x164e));
        assert!(integrated(Vendor::Amd, "AMD Radeon(TM) 8060S Graphics", 0x1586));
        assert!(integrated(Vendor::Amd, "AMD Radeon 780M Graphics", 0x15bf));
        assert!(!integrated(Vendor::Amd, "AMD Radeon RX 7900 XTX", 0x744c));
        assert!(!integrated(Vendor::Amd, "AMD Radeon RX 7600M XT", 0x7480));
        assert!(integrated(Vendor::Intel, "Intel(R) UHD Graphics 770", 0x4680));
        assert!(integrated(Vendor::Intel, "Intel(R) Arc(TM) 140V GPU", 0x64a0));
        assert!(!integrated(Vendor::Intel, "Intel(R) Arc(TM) B580 Graphics", 0xe20b));
    }
}
