//! The processor: its name, cores that are worth using, and instruction sets.

use std::collections::BTreeSet;

use overflowml_types::{Container, Cpu, IsaExtension, Known};

use crate::capture::Capture;
use crate::root::Root;

const CPUINFO: &str = "/proc/cpuinfo";

pub(crate) fn probe(capture: &Capture, container: &Container) -> Cpu {
    let root = &capture.root;
    let info = parse_cpuinfo(&root.read(CPUINFO).unwrap_or_default());
    let logical = (!info.cores.is_empty())
        .then(|| Known::reported(info.cores.len(), format!("{CPUINFO} processors")));
    let physical =
        info.physical(|_| true).map(|cores| Known::reported(cores, format!("{CPUINFO} core ids")));
    Cpu {
        model: name(root),
        architecture: capture.system.architecture.clone(),
        usable: usable(capture, container, &info),
        logical,
        physical,
        extensions: info.extensions,
    }
}

/// The processor's marketing name.
pub(crate) fn name(root: &Root) -> Option<Known<String>> {
    let info = parse_cpuinfo(&root.read(CPUINFO)?);
    if let Some(name) = info.name {
        return Some(Known::reported(name, format!("{CPUINFO} model name")));
    }
    // ARM boards name the board instead.
    let board = root.read("/proc/device-tree/model")?;
    let board = board.trim_end_matches('\0').trim().to_owned();
    (!board.is_empty()).then(|| Known::reported(board, "/proc/device-tree/model"))
}

/// The least of what affinity, physical cores and the control group's quota allow; at least one.
fn usable(capture: &Capture, container: &Container, info: &CpuInfo) -> Known<usize> {
    let status = capture.root.read("/proc/self/status").unwrap_or_default();
    let allowed = parse_allowed(&status);
    let is_allowed =
        |processor: usize| allowed.as_ref().is_none_or(|allowed| allowed.contains(&processor));
    let affinity = allowed.as_ref().map(BTreeSet::len);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // positive and small
    let quota = container.cpu_quota.as_ref().map(|quota| quota.value.floor() as usize);
    let bounds = [
        (info.physical(is_allowed), "physical cores"),
        (affinity, "processor affinity"),
        (quota, "control-group quota"),
    ];
    let known = bounds.into_iter().filter_map(|(count, what)| Some((count?.max(1), what)));
    match known.min_by_key(|&(count, _)| count) {
        Some((count, what)) => Known::reported(count, what),
        None => match capture.system.threads {
            Some(count) => Known::reported(count, "the standard library"),
            None => Known::assumed(1, "the system does not say"),
        },
    }
}

/// What `/proc/cpuinfo` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct CpuInfo {
    name: Option<String>,
    /// One entry per logical processor.
    cores: Vec<Core>,
    extensions: Vec<IsaExtension>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Core {
    processor: usize,
    /// Package and core within it; `None` on systems without simultaneous threads.
    place: Option<(u64, u64)>,
}

impl CpuInfo {
    /// Distinct cores among the processors that `counts`.
    fn physical(&self, counts: impl Fn(usize) -> bool) -> Option<usize> {
        let cores = self.cores.iter().filter(|core| counts(core.processor));
        let places: BTreeSet<_> = cores.map(|core| core.place.ok_or(core.processor)).collect();
        (!places.is_empty()).then_some(places.len())
    }
}

fn parse_cpuinfo(text: &str) -> CpuInfo {
    let mut info = CpuInfo::default();
    let (mut package, mut flags) = (None, None);
    for line in text.lines() {
        let Some((key, value)) = line.split_once(':') else { continue };
        let value = value.trim();
        let core = info.cores.last_mut();
        match (key.trim(), core) {
            ("processor", _) => {
                if let Ok(processor) = value.parse() {
                    info.cores.push(Core { processor, place: None });
                    package = None;
                }
            }
            ("model name", _) if info.name.is_none() => info.name = Some(value.to_owned()),
            ("physical id", _) => package = value.parse().ok(),
            ("core id", Some(core)) => core.place = package.zip(value.parse().ok()),
            ("flags" | "Features", _) if flags.is_none() => flags = Some(value),
            _ => {}
        }
    }
    info.extensions = extensions(flags.unwrap_or_default());
    info
}

/// The kernel lists only what it lets processes use.
fn extensions(flags: &str) -> Vec<IsaExtension> {
    use IsaExtension as E;
    const NAMES: [(&str, IsaExtension); 17] = [
        ("avx2", E::Avx2),
        ("fma", E::Fma),
        ("f16c", E::F16c),
        ("avx_vnni", E::AvxVnni),
        ("avx512f", E::Avx512f),
        ("avx512bw", E::Avx512bw),
        ("avx512vl", E::Avx512vl),
        ("avx512_vnni", E::Avx512vnni),
        ("avx512_bf16", E::Avx512bf16),
        ("avx512_fp16", E::Avx512fp16),
        ("amx_int8", E::AmxInt8),
        ("amx_bf16", E::AmxBf16),
        ("asimd", E::Neon),
        ("asimddp", E::Dotprod),
        ("i8mm", E::I8mm),
        ("bf16", E::Bf16),
        ("sve", E::Sve),
    ];
    let own: BTreeSet<&str> = flags.split_whitespace().collect();
    NAMES
        .into_iter()
        .filter(|(name, _)| own.contains(name))
        .map(|(_, extension)| extension)
        .collect()
}

/// The processors of `Cpus_allowed_list` in `/proc/self/status`.
fn parse_allowed(status: &str) -> Option<BTreeSet<usize>> {
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    parse_ranges(list.trim())
}

/// Reads `0-3,8,10-11`.
fn parse_ranges(list: &str) -> Option<BTreeSet<usize>> {
    /// More processors than any machine has: a damaged file must not make a huge set.
    const MOST: usize = 1 << 16;
    let mut all = BTreeSet::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if last >= MOST {
            return None;
        }
        all.extend(first..=last);
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors_are_read() {
        let read = |list| parse_ranges(list).map(|set| set.into_iter().collect::<Vec<_>>());
        assert_eq!(read("0-2,8,10-11"), Some(vec![0, 1, 2, 8, 10, 11]));
        assert_eq!(read("5"), Some(vec![5]));
        assert_eq!(read("0-99999999"), None);
        assert_eq!(read("x"), None);
    }

    #[test]
    fn threads_of_one_core_count_once() {
        let mut text = String::new();
        for processor in 0..8 {
            text += &format!(
                "processor\t: {processor}\nphysical id\t: {}\ncore id\t\t: {}\n\n",
                processor / 4,
                processor % 2
            );
        }
        let info = parse_cpuinfo(&text);
        assert_eq!(info.cores.len(), 8);
        assert_eq!(info.physical(|_| true), Some(4));
        assert_eq!(info.physical(|processor| processor == 0 || processor == 2), Some(1));
        assert_eq!(info.physical(|_| false), None);
    }
}
