//! Accelerators by published specification: to plan for a machine that one does not have, and to fill in what drivers
//! do not report. Nothing here identifies a device; a detected one is looked up by its full name and its memory.

mod describe;
mod table;

use overflowml_types::{Bytes, BytesPerSecond, Gpu, Known, Link, Pool, Vendor};

pub use self::describe::Wanted;
use self::table::ENTRIES;
use crate::pcie;

/// Where every figure comes from.
const SOURCE: &str = "published specification";

/// One accelerator, as its maker describes it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Entry {
    /// Its usual name.
    pub name: &'static str,
    /// Other names, those of drivers among them. Variants that differ in memory share some.
    pub aliases: &'static [&'static str],
    /// Who makes it.
    pub vendor: Vendor,
    /// Memory of its own, or the host's.
    pub pool: Pool,
    /// Installed memory; for a shared pool the most that is sold.
    pub memory: Bytes,
    /// Its memory's bandwidth, in bytes per second.
    rate: f64,
    /// PCI Express generation and lanes; `None` for a shared pool.
    pub link: Option<(u32, u32)>,
    /// What the vendor's compilers call it: `sm_89`, `gfx1100`.
    pub architecture: &'static str,
    /// Dense matrix products in 16-bit floating point, summed in 32 bits, in operations per second; in 32-bit where
    /// 16-bit is slower.
    pub flops: f64,
}

const fn card(
    vendor: Vendor,
    name: &'static str,
    aliases: &'static [&'static str],
    (gib, gigabytes): (u64, f64),
    link: (u32, u32),
    architecture: &'static str,
    teraflops: f64,
) -> Entry {
    Entry {
        name,
        aliases,
        vendor,
        pool: Pool::Own,
        memory: Bytes::gib(gib),
        rate: gigabytes * 1e9,
        link: Some(link),
        architecture,
        flops: teraflops * 1e12,
    }
}

const fn shared(
    vendor: Vendor,
    name: &'static str,
    aliases: &'static [&'static str],
    (gib, gigabytes): (u64, f64),
    architecture: &'static str,
    teraflops: f64,
) -> Entry {
    let card = card(vendor, name, aliases, (gib, gigabytes), (0, 0), architecture, teraflops);
    Entry { pool: Pool::Shared, link: None, ..card }
}

/// There is no such accelerator in the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotFound {
    /// What was asked for.
    pub name: String,
    /// The names that resemble it most, best first.
    pub closest: Vec<&'static str>,
}

impl std::fmt::Display for NotFound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "no GPU called `{}` is known; closest: {}", self.name, self.closest.join(", "))
    }
}

impl std::error::Error for NotFound {}

/// Every entry.
pub fn entries() -> &'static [Entry] {
    ENTRIES
}

/// The accelerator called `name`: case, blanks and makers' names do not matter, `4090` is enough.
///
/// A name that variants share means the one with the most memory.
///
/// # Errors
/// [`NotFound`] with the names that resemble it most.
pub fn find(name: &str) -> Result<&'static Entry, NotFound> {
    let wanted = key(name);
    let called = |entry: &&Entry| entry.keys().any(|own| own == wanted);
    let short = |entry: &&Entry| entry.keys().any(|own| without_series(&own) == wanted);
    let most = |fits: &dyn Fn(&&Entry) -> bool| {
        ENTRIES.iter().filter(|entry| fits(entry)).max_by_key(|entry| entry.memory)
    };
    if wanted.is_empty() {
        return Err(NotFound { name: name.to_owned(), closest: Vec::new() });
    }
    most(&called).or_else(|| most(&short)).ok_or_else(|| {
        let mut all: Vec<(usize, &'static str)> = ENTRIES
            .iter()
            .map(|entry| {
                let distance = entry.keys().map(|own| distance(&own, &wanted)).min();
                (distance.unwrap_or(usize::MAX), entry.name)
            })
            .collect();
        all.sort_by_key(|(distance, _)| *distance);
        let closest = all.into_iter().take(3).map(|(_, name)| name).collect();
        NotFound { name: name.to_owned(), closest }
    })
}

impl Entry {
    /// Its memory's bandwidth.
    pub fn rate(&self) -> BytesPerSecond {
        BytesPerSecond::new(self.rate).unwrap_or(BytesPerSecond::ONE)
    }

    /// For example (8, 9); NVIDIA only.
    pub fn compute_capability(&self) -> Option<(u32, u32)> {
        let digits = self.architecture.strip_prefix("sm_")?;
        let (major, minor) = digits.split_at(digits.len().checked_sub(1)?);
        Some((major.parse().ok()?, minor.parse().ok()?))
    }

    /// All its names, in the form that names are compared in.
    fn keys(&self) -> impl Iterator<Item = String> + '_ {
        std::iter::once(self.name).chain(self.aliases.iter().copied()).map(key)
    }
}

/// Fills in what is published and was not reported.
pub(crate) fn fill(gpu: &mut Gpu) {
    let Some(entry) = of_detected(gpu) else { return };
    let share = match (&gpu.partition, &gpu.total) {
        (Some(_), Some(total)) => (total.value.as_f64() / entry.memory.as_f64()).min(1.0),
        _ => 1.0,
    };
    if gpu.rate.is_none() {
        let rate = BytesPerSecond::new(entry.rate * share);
        gpu.rate = rate.map(|rate| Known::assumed(rate, SOURCE));
    }
    if gpu.flops.is_none() {
        gpu.flops = Some(Known::assumed(entry.flops * share, SOURCE));
    }
    if gpu.architecture.is_none() {
        gpu.architecture = Some(entry.architecture.to_owned());
        gpu.compute_capability = entry.compute_capability();
    }
    if let (None, Pool::Own, Some((generation, width))) = (&gpu.link, gpu.pool, entry.link) {
        // The slot may do less, so generation and width stay unknown.
        let mut link = Link { generation: Some(generation), width: Some(width), ..Link::default() };
        pcie::assume_rate(&mut link);
        gpu.link = Some(Link { generation: None, width: None, ..link });
    }
}

/// The entry with a detected device's name and memory; `None` in doubt.
fn of_detected(gpu: &Gpu) -> Option<&'static Entry> {
    let name = key(&gpu.name);
    let called = |entry: &&Entry| {
        entry.vendor == gpu.vendor && entry.pool == gpu.pool && entry.keys().any(|own| own == name)
    };
    let fitting: Vec<&Entry> = ENTRIES.iter().filter(called).collect();
    if let [entry] = fitting.as_slice() {
        return Some(entry);
    }
    let total = gpu.total.as_ref()?.value.as_f64();
    // Error correction and firmware take up to a tenth.
    let near = |entry: &&Entry| (0.88..=1.02).contains(&(total / entry.memory.as_f64()));
    let mut near = fitting.into_iter().filter(near);
    near.next().filter(|_| near.next().is_none())
}

/// Letters and digits of `name`, small, without makers' names and other words that say nothing.
fn key(name: &str) -> String {
    const NOTHING: [&str; 17] = [
        "nvidia",
        "geforce",
        "tesla",
        "amd",
        "radeon",
        "instinct",
        "intel",
        "arc",
        "apple",
        "gpu",
        "graphics",
        "generation",
        "tm",
        "r",
        "nvgpu",
        "core",
        "edition",
    ];
    let name = name.to_lowercase();
    let words = name.split(|c: char| !c.is_alphanumeric());
    words.filter(|word| !NOTHING.contains(word)).collect()
}

/// `rtx4090` without its series.
fn without_series(key: &str) -> &str {
    ["rtx", "gtx", "rx"].iter().find_map(|series| key.strip_prefix(series)).unwrap_or(key)
}

/// Letters to change, add or leave out between two names.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (at, letter) in one.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], at + 1);
        for (column, own) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(*own != letter);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests;
