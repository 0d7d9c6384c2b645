//! NVIDIA GPUs that compute in main memory: Jetson, GB10, N1X.
//!
//! Their drivers answer questions about GPU memory in three ways: not at all, with main memory's total, or with a small
//! number that is neither. None of them helps; what is available of main memory does.

use overflowml_types::{Bytes, Gpu, Known, Pool, Vendor};

use super::{HostMemory, NvmlDevice};
use crate::root::Root;

/// Compute capabilities that only integrated parts have.
const INTEGRATED: [(u32, u32); 7] = [(5, 3), (6, 2), (7, 2), (8, 7), (10, 1), (11, 0), (12, 1)];

/// Main memory in place of the card's own.
pub(super) struct Shared {
    total: Known<Bytes>,
    free: Known<Bytes>,
}

impl Shared {
    fn of(host: &HostMemory, why: &str) -> Self {
        let source = |known: &Known<Bytes>| format!("{}: {why}", known.source);
        Self {
            total: Known { source: source(&host.total), ..host.total.clone() },
            free: Known { source: source(&host.available), ..host.available.clone() },
        }
    }

    pub(super) fn into_gpu(self, gpu: Gpu) -> Gpu {
        Gpu { pool: Pool::Shared, total: Some(self.total), free: Some(self.free), ..gpu }
    }
}

/// Main memory, if that is what the device computes in; `None` for a card with its own.
pub(super) fn memory(
    device: &NvmlDevice,
    capability: Option<(u32, u32)>,
    host: &HostMemory,
) -> Option<Shared> {
    let reported = device.memory_v2.said().or(device.memory_v1.said());
    let silent = device.memory_v2.is_unsupported()
        && (device.memory_v1.is_unsupported() || device.memory_v1 == super::Answer::default());
    let by_capability = capability.is_some_and(|own| INTEGRATED.contains(&own));
    let by_name = device.name.said().is_some_and(|name| name.ends_with("(nvgpu)"));
    // A new part whose capability is not in the list: main memory's own total, and no bus.
    let mirrors = reported.is_some_and(|memory| near(memory.total, host.total.value))
        && device.max_link_generation.is_unsupported();
    if !(silent || by_capability || by_name || mirrors) {
        return None;
    }
    let why = match reported {
        None => "the driver reports no memory of the GPU's own",
        Some(memory) if near(memory.total, host.total.value) => "the GPU's memory is main memory",
        Some(_) => "the driver reports only a part of the memory that the GPU shares",
    };
    Some(Shared::of(host, why))
}

/// Within 3 %: drivers leave out what the kernel has reserved, or do not.
fn near(one: Bytes, other: Bytes) -> bool {
    (one.as_f64() - other.as_f64()).abs() <= 0.03 * other.as_f64()
}

/// A Jetson whose system has no NVML: its device tree names the chip.
pub(super) fn jetson(root: &Root, host: &HostMemory) -> Option<Gpu> {
    const CHIPS: [(&str, (u32, u32)); 5] = [
        ("nvidia,tegra264", (11, 0)),
        ("nvidia,tegra234", (8, 7)),
        ("nvidia,tegra194", (7, 2)),
        ("nvidia,tegra186", (6, 2)),
        ("nvidia,tegra210", (5, 3)),
    ];
    let compatible = root.read("/proc/device-tree/compatible")?;
    let chip = |name: &str| compatible.split('\0').any(|own| own == name);
    let (_, capability) = CHIPS.into_iter().find(|(name, _)| chip(name))?;
    let model = root.read("/proc/device-tree/model").unwrap_or_default();
    let model = model.trim_end_matches('\0').trim();
    let gpu = Gpu {
        name: if model.is_empty() { "NVIDIA Jetson".to_owned() } else { model.to_owned() },
        compute_capability: Some(capability),
        architecture: Some(format!("sm_{}{}", capability.0, capability.1)),
        driver: root.read("/etc/nv_tegra_release").as_deref().and_then(parse_release),
        ..super::empty(Vendor::Nvidia)
    };
    Some(Shared::of(host, "a Jetson's GPU shares it").into_gpu(gpu))
}

/// Reads `# R36 (release), REVISION: 4.3, GCID: …` as `L4T 36.4.3`.
fn parse_release(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("# R")?;
    let (major, rest) = rest.split_once(' ')?;
    let (_, rest) = rest.split_once("REVISION: ")?;
    let revision = rest.split(',').next()?.trim();
    Some(format!("L4T {major}.{revision}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jetson_s_release_is_read() {
        let text =
            "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n";
        assert_eq!(parse_release(text).as_deref(), Some("L4T 36.4.3"));
        assert_eq!(parse_release("# nothing"), None);
    }
}
