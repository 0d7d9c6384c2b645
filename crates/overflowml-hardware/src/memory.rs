//! Main memory: what there is, what is free, what this process holds.

use overflowml_types::{Bytes, Container, Known, Memory};

use crate::root::Root;

const MEMINFO: &str = "/proc/meminfo";

/// Assumed where the system does not say: what the smallest machines in use have.
const ASSUMED: Bytes = Bytes::gib(4);

/// What a process holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessMemory {
    /// In memory now, with its shared pages.
    pub rss: Bytes,
    /// The most that it ever was.
    pub peak_rss: Option<Bytes>,
}

pub(crate) fn probe(root: &Root, container: &Container) -> Memory {
    let info = root.read(MEMINFO).unwrap_or_default();
    let total = match field(&info, "MemTotal") {
        Some(total) => Known::reported(total, format!("{MEMINFO} MemTotal")),
        None => Known::assumed(ASSUMED, "the system does not say"),
    };
    let limits = root.read("/proc/self/limits").unwrap_or_default();
    let lockable = parse_lockable(&limits)
        .map(|lockable| Known::reported(lockable, "/proc/self/limits Max locked memory"));
    Memory {
        total,
        available: available(root, container),
        lockable,
        pinnable: None,
        rate: None,
        nodes: Vec::new(),
    }
}

/// What the kernel calls available, within every control group.
pub(crate) fn available(root: &Root, container: &Container) -> Known<Bytes> {
    let info = root.read(MEMINFO).unwrap_or_default();
    // Kernels before 3.14 do not estimate; free memory and file cache are about the same.
    let older = || {
        let parts = ["MemFree", "Buffers", "Cached"].map(|name| field(&info, name));
        parts.into_iter().flatten().reduce(Bytes::saturating_add)
    };
    let of_system = match (field(&info, "MemAvailable"), older()) {
        (Some(available), _) => Known::reported(available, format!("{MEMINFO} MemAvailable")),
        (None, Some(free)) => Known::reported(free, format!("{MEMINFO} MemFree and file cache")),
        (None, None) => Known::assumed(ASSUMED, "the system does not say"),
    };
    let tightest = container.memory_limits.iter().min_by_key(|limit| limit.available());
    match tightest {
        Some(limit) if limit.available() < of_system.value => {
            Known::reported(limit.available(), format!("control group {}", limit.group))
        }
        _ => of_system,
    }
}

/// Linux only: what `/proc/self/status` says.
#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
pub(crate) fn of_process(root: &Root) -> Option<ProcessMemory> {
    let status = root.read("/proc/self/status")?;
    Some(ProcessMemory { rss: field(&status, "VmRSS")?, peak_rss: field(&status, "VmHWM") })
}

/// A line such as `MemTotal:       16384256 kB`.
fn field(text: &str, name: &str) -> Option<Bytes> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kib: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(Bytes::kib(1).saturating_mul(kib))
}

/// The soft limit on locked memory; `None` without a limit.
fn parse_lockable(limits: &str) -> Option<Bytes> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"))?;
    line.split_whitespace().next()?.parse().ok().map(Bytes::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_kibibytes_and_their_names_whole() {
        let text = "MemTotalX: 1 kB\nMemTotal:       2048 kB\nMemFree: 7\n";
        assert_eq!(field(text, "MemTotal"), Some(Bytes::mib(2)));
        assert_eq!(field(text, "MemFree"), None);
        assert_eq!(field("MemTotal: 99999999999999999999999 kB", "MemTotal"), None);
    }

    #[test]
    fn unlimited_locking_is_no_limit() {
        let line =
            |soft| format!("Max locked memory         {soft}              unlimited     bytes\n");
        assert_eq!(parse_lockable(&line("8388608")), Some(Bytes::mib(8)));
        assert_eq!(parse_lockable(&line("unlimited")), None);
    }

    #[test]
    fn this_process_holds_something() {
        let Some(memory) = crate::process_memory() else { return };
        assert!(memory.rss > Bytes::kib(100));
        assert!(memory.peak_rss.is_none_or(|peak| peak >= memory.rss));
    }
}
