//! Apple's computers: from what `sysctl`, `vm_stat`, `ioreg` and Metal say.

use overflowml_types::{Bytes, Cpu, Gpu, IsaExtension, Known, Library, Pool, Vendor};
use serde::{Deserialize, Serialize};

use crate::capture::Capture;
use crate::nvidia::{HostMemory, empty};

/// What Metal says of its device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MetalDevice {
    #[serde(rename = "recommended_max_working_set_bytes")]
    pub(crate) working_set: Bytes,
    pub(crate) unified_memory: bool,
}

/// Assumed where Metal does not answer: less than any machine's own share, which is 67 to 80 %.
const ASSUMED_SHARE: f64 = 0.65;

/// One value of `sysctl`, which prints `hw.memsize: 17179869184`.
fn value<'a>(sysctl: &'a str, name: &str) -> Option<&'a str> {
    let line = sysctl.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim())
}

fn number(sysctl: &str, name: &str) -> Option<u64> {
    value(sysctl, name)?.parse().ok()
}

/// The processor.
pub(crate) fn cpu(capture: &Capture) -> Cpu {
    let sysctl = capture.sysctl.as_deref().unwrap_or_default();
    let count = |name: &str| {
        let count = usize::try_from(number(sysctl, name)?).ok()?;
        Some(Known::reported(count, format!("sysctl {name}")))
    };
    let model = value(sysctl, "machdep.cpu.brand_string");
    let physical = count("hw.physicalcpu");
    // Efficiency cores slow the others down where all wait for the last.
    let usable = count("hw.perflevel0.physicalcpu")
        .or_else(|| physical.clone())
        .or_else(|| Some(Known::reported(capture.system.threads?, "the standard library")))
        .unwrap_or_else(|| Known::assumed(1, "the system does not say"));
    Cpu {
        model: model
            .map(|model| Known::reported(model.to_owned(), "sysctl machdep.cpu.brand_string")),
        architecture: capture.system.architecture.clone(),
        logical: count("hw.logicalcpu"),
        physical,
        usable,
        extensions: extensions(sysctl),
    }
}

fn extensions(sysctl: &str) -> Vec<IsaExtension> {
    use IsaExtension as E;
    let features = [
        ("hw.optional.AdvSIMD", E::Neon),
        ("hw.optional.arm.FEAT_DotProd", E::Dotprod),
        ("hw.optional.arm.FEAT_I8MM", E::I8mm),
        ("hw.optional.arm.FEAT_BF16", E::Bf16),
        ("hw.optional.avx2_0", E::Avx2),
        ("hw.optional.fma", E::Fma),
        ("hw.optional.f16c", E::F16c),
        ("hw.optional.avx512f", E::Avx512f),
    ];
    let has = |name: &str| number(sysctl, name) == Some(1);
    features.into_iter().filter(|(name, _)| has(name)).map(|(_, feature)| feature).collect()
}

/// Main memory: all, and what is free, inactive or read ahead.
pub(crate) fn memory(capture: &Capture) -> (Option<Known<Bytes>>, Option<Known<Bytes>>) {
    let sysctl = capture.sysctl.as_deref().unwrap_or_default();
    let total = number(sysctl, "hw.memsize")
        .map(|total| Known::reported(Bytes::new(total), "sysctl hw.memsize"));
    let available = capture.vm_stat.as_deref().and_then(parse_available).map(|available| {
        Known::reported(available, "vm_stat: free, speculative and inactive pages")
    });
    (total, available)
}

/// `vm_stat` prints `(page size of 16384 bytes)` and `Pages free:   12345.`
fn parse_available(text: &str) -> Option<Bytes> {
    let (_, rest) = text.split_once("page size of ")?;
    let page: u64 = rest.split(' ').next()?.parse().ok()?;
    let pages = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().trim_end_matches('.').parse::<u64>().ok()
    };
    let free = pages("Pages free")?;
    let more = ["Pages speculative", "Pages inactive"].map(|name| pages(name).unwrap_or(0));
    let all = more.iter().fold(free, |sum, pages| sum.saturating_add(*pages));
    Some(Bytes::new(page).saturating_mul(all))
}

/// The processor's own GPU; none on Intel's processors, whose GPUs no library of today serves.
pub(crate) fn gpus(capture: &Capture, host: &HostMemory) -> (Vec<Gpu>, Vec<Library>) {
    let sysctl = capture.sysctl.as_deref().unwrap_or_default();
    let library = match &capture.metal {
        Some(_) => Library::Present { name: "Metal".to_owned(), version: None },
        None => {
            Library::Failed { name: "Metal".to_owned(), error: "it named no device".to_owned() }
        }
    };
    let Some(chip) = value(sysctl, "machdep.cpu.brand_string")
        .filter(|_| capture.system.architecture == "aarch64")
    else {
        return (Vec::new(), vec![library]);
    };
    let limit = limit(capture.metal.as_ref(), sysctl, host);
    let free = host.available.value.min(limit.value);
    let cores = capture.ioreg.as_deref().and_then(parse_cores);
    let gpu = Gpu {
        name: cores.map_or(chip.to_owned(), |cores| format!("{chip} ({cores}-core GPU)")),
        pool: Pool::Shared,
        total: Some(host.total.clone()),
        free: Some(Known { value: free, ..host.available.clone() }),
        limit: Some(limit),
        architecture: architecture(chip),
        runtime: Some("Metal".to_owned()),
        driver: value(sysctl, "kern.osproductversion").map(|version| format!("macOS {version}")),
        ..empty(Vendor::Apple)
    };
    (vec![gpu], vec![library])
}

/// What may be wired: Metal's own number, which follows the user's setting both ways, and never more than there is.
fn limit(metal: Option<&MetalDevice>, sysctl: &str, host: &HostMemory) -> Known<Bytes> {
    let most = host.total.value;
    let wired = number(sysctl, "iogpu.wired_limit_mb").filter(|&limit| limit > 0);
    match (metal, wired) {
        (Some(metal), _) => {
            let source = "Metal recommendedMaxWorkingSetSize";
            Known::reported(metal.working_set.min(most), source)
        }
        (None, Some(limit)) => {
            Known::reported(Bytes::mib(limit).min(most), "sysctl iogpu.wired_limit_mb")
        }
        (None, None) => {
            Known::assumed(most.share(ASSUMED_SHARE), "65 % of main memory: Metal did not answer")
        }
    }
}

/// `Apple M4 Max` is `apple-m4`.
fn architecture(chip: &str) -> Option<String> {
    let generation = chip.strip_prefix("Apple ")?.split(' ').next()?;
    Some(format!("apple-{}", generation.to_lowercase()))
}

/// `ioreg` prints `"gpu-core-count" = 40`.
fn parse_cores(ioreg: &str) -> Option<u32> {
    let (_, rest) = ioreg.split_once("\"gpu-core-count\" = ")?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(total: Bytes) -> HostMemory {
        HostMemory {
            total: Known::reported(total, "hw.memsize"),
            available: Known::reported(total.share(0.5), "vm_stat"),
        }
    }

    #[test]
    fn the_working_set_is_metal_s_and_never_more_than_there_is() {
        let metal = |gib| MetalDevice { working_set: Bytes::gib(gib), unified_memory: true };
        let of = |metal: Option<MetalDevice>, sysctl: &str| {
            limit(metal.as_ref(), sysctl, &host(Bytes::gib(64)))
        };
        assert_eq!(of(Some(metal(48)), "").value, Bytes::gib(48));
        assert_eq!(of(Some(metal(80)), "").value, Bytes::gib(64), "a careless wired limit");
        let wired = "iogpu.wired_limit_mb: 57344";
        assert_eq!(of(None, wired).value, Bytes::gib(56));
        assert_eq!(of(None, "iogpu.wired_limit_mb: 0").basis, overflowml_types::Basis::Assumed);
    }

    #[test]
    fn pages_that_can_be_taken_are_counted_in_the_machine_s_page_size() {
        let text = "Mach Virtual Memory Statistics: (page size of 16384 bytes)\n\
                    Pages free:                               1024.\n\
                    Pages active:                           200000.\n\
                    Pages inactive:                           2048.\n\
                    Pages speculative:                        1024.\n";
        assert_eq!(parse_available(text), Some(Bytes::mib(64)));
        assert_eq!(parse_available("nonsense"), None);
    }

    #[test]
    fn chips_and_core_counts_are_read() {
        assert_eq!(architecture("Apple M4 Max").as_deref(), Some("apple-m4"));
        assert_eq!(architecture("Intel(R) Core(TM) i9"), None);
        assert_eq!(parse_cores("  |   \"gpu-core-count\" = 40\n"), Some(40));
    }
}
