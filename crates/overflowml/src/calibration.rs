//! How fast this machine is: measured once, stored, corrected by finished runs.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use overflowml_exec::{Kernels, Pool, measure};
use overflowml_formats::Model;
use overflowml_hardware as hardware;
use overflowml_hardware::{LinkSpeed, LinkState, ProbeOptions};
use overflowml_plan::Rates;
use overflowml_stream::measure_disk;
use overflowml_types::{Bytes, BytesPerSecond, Gpu, Known, Machine};
use serde::{Deserialize, Serialize};

use crate::cache_dir;
use crate::error::Error;

/// A new layout of the file, or kernels of another speed, make stored figures void.
const VERSION: u32 = 1;

/// Disk speed assumed before any file on a disk was read: a plain SATA SSD.
const ASSUMED_DISK: f64 = 5e8;

/// Memory and compute speeds assumed where measuring was not possible: a small desktop.
const ASSUMED_MEMORY: f64 = 2e10;
const ASSUMED_FLOPS: f64 = 5e10;

/// Measured speeds of one machine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Calibration {
    version: u32,
    /// Processor, threads and kernels: another value makes the stored figures void.
    pub machine: String,
    /// Multiplying one token with weights in memory.
    #[serde(rename = "memory_bytes_per_second")]
    pub memory: Option<BytesPerSecond>,
    /// Multiplying many tokens with weights.
    #[serde(rename = "flops_per_second")]
    pub flops: Option<f64>,
    /// Direct reads, per block device.
    pub disks: BTreeMap<String, DiskSpeed>,
    /// Copies to and from accelerators, per device: its identifier, driver and slot, any of which makes a stored figure
    /// void when it changes.
    #[serde(default)]
    pub links: BTreeMap<String, StoredLink>,
    /// Seconds since 1970.
    pub measured_at: u64,
}

/// The measured speed of the way to a device.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StoredLink {
    /// The device's name.
    pub name: String,
    /// Both ways.
    #[serde(flatten)]
    pub speed: LinkSpeed,
    /// Seconds since 1970.
    pub measured_at: u64,
}

/// What [`calibrate`] measured.
#[derive(Clone, Debug, Serialize)]
pub struct Calibrated {
    /// As it was stored.
    #[serde(flatten)]
    pub calibration: Calibration,
    /// How timing the way to GPUs went.
    pub link: LinkState,
}

/// A disk's measured speed.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct DiskSpeed {
    /// Direct reads in large pieces, several at once.
    #[serde(rename = "read_bytes_per_second")]
    pub read: BytesPerSecond,
    /// Seconds since 1970.
    pub measured_at: u64,
}

impl Calibration {
    /// The stored calibration of this machine with `threads`; measured in a moment and stored if
    /// there is none.
    pub fn current(threads: usize, spare: Bytes) -> Self {
        let machine = identity(threads);
        if let Some(stored) = Self::load(&machine) {
            return stored;
        }
        let measured = Self::measure_compute(machine, threads, spare);
        measured.store();
        measured
    }

    /// The stored calibration of this machine with `threads`; `None` if there is none. Nothing is measured.
    pub fn stored(threads: usize) -> Option<Self> {
        Self::load(&identity(threads))
    }

    /// No figure measured: the cost model then assumes documented defaults.
    pub(crate) fn unmeasured(threads: usize) -> Self {
        Self {
            version: VERSION,
            machine: identity(threads),
            memory: None,
            flops: None,
            disks: BTreeMap::new(),
            links: BTreeMap::new(),
            measured_at: now(),
        }
    }

    /// How long ago compute speed was measured.
    pub fn age(&self) -> Duration {
        Duration::from_secs(now().saturating_sub(self.measured_at))
    }

    /// The cost model's rates for reading `model` on this machine.
    pub fn rates_for(&self, model: &Model) -> Rates {
        let device = device_of(&model.root);
        let disk = match device.and_then(|device| self.disks.get(&device)) {
            Some(speed) => Known::measured(speed.read, "earlier reads of this disk"),
            None => Known::assumed(rate(ASSUMED_DISK), "a SATA SSD; `bench --calibrate` measures"),
        };
        let memory = match self.memory {
            Some(memory) => Known::measured(memory, "matrix-vector products on this machine"),
            None => Known::assumed(rate(ASSUMED_MEMORY), "a small desktop"),
        };
        let flops = match self.flops {
            Some(flops) => Known::measured(flops, "matrix products on this machine"),
            None => Known::assumed(ASSUMED_FLOPS, "a small desktop"),
        };
        Rates { disk, memory, flops }
    }

    /// Remembers how fast `path`'s disk was read in a finished run. Shared disks vary from run to run, so the newest
    /// speed counts for half.
    pub fn record_disk(&mut self, path: &Path, read: BytesPerSecond) {
        let Some(device) = device_of(path) else { return };
        let before = self.disks.get(&device).map_or(read, |known| known.read);
        let read = rate(f64::midpoint(before.get(), read.get()));
        self.disks.insert(device, DiskSpeed { read, measured_at: now() });
        self.store();
    }

    /// Remembers how fast a finished run multiplied with weights in memory.
    pub fn record_memory(&mut self, rate: BytesPerSecond) {
        self.memory = Some(rate);
        self.store();
    }

    fn measure_compute(machine: String, threads: usize, spare: Bytes) -> Self {
        let measured = measure::compute(&Kernels::detect(), &Pool::new(threads), spare);
        Self {
            version: VERSION,
            machine,
            memory: measured.map(|measured| measured.memory),
            flops: measured.map(|measured| measured.flops),
            disks: BTreeMap::new(),
            links: BTreeMap::new(),
            measured_at: now(),
        }
    }

    fn remember(&mut self, link: &LinkState) {
        let LinkState::Timed(devices) = link else { return };
        let gpus = hardware::probe(&ProbeOptions::default()).gpus;
        for device in devices.iter().filter(|device| device.speed != LinkSpeed::default()) {
            let gpu = gpus.iter().find(|gpu| is_same(gpu.uuid.as_deref(), device.uuid.as_deref()));
            let Some(key) = gpu.map(link_key).or_else(|| device.uuid.clone()) else { continue };
            let (name, speed) = (device.name.clone(), device.speed);
            self.links.insert(key, StoredLink { name, speed, measured_at: now() });
        }
    }

    fn load(machine: &str) -> Option<Self> {
        let text = std::fs::read(file()).ok()?;
        let stored: Self = serde_json::from_slice(&text).ok()?;
        (stored.version == VERSION && stored.machine == machine).then_some(stored)
    }

    /// Written whole or not at all. A machine where it cannot be written measures every time.
    fn store(&self) {
        let file = file();
        let Some(folder) = file.parent() else { return };
        let temporary = folder.join(format!("calibration.{}.tmp", std::process::id()));
        let written = std::fs::create_dir_all(folder)
            .and_then(|()| std::fs::write(&temporary, serde_json::to_vec_pretty(self)?))
            .and_then(|()| std::fs::rename(&temporary, &file));
        if written.is_err() {
            // Ignored: there may be nothing to remove.
            let _ = std::fs::remove_file(&temporary);
        }
    }
}

/// Measures compute speed and the way to NVIDIA GPUs anew, and the disk under `model` if one is given; stores the result.
///
/// # Errors
/// If the model's files cannot be read.
pub fn calibrate(model: Option<&Model>) -> Result<Calibrated, Error> {
    const MOST_READ: Bytes = Bytes::gib(2);
    const LONGEST: Duration = Duration::from_secs(3);
    let threads = hardware::usable_threads();
    let machine = identity(threads);
    let before = Calibration::load(&machine);
    let mut measured = Calibration::measure_compute(machine, threads, Bytes::mib(512));
    if let Some(before) = before {
        (measured.disks, measured.links) = (before.disks, before.links);
    }
    let link = hardware::time_links();
    measured.remember(&link);
    if let Some(model) = model {
        let largest = model.manifest.files.iter().max_by_key(|file| file.size);
        if let Some(file) = largest {
            let read = measure_disk(&file.path, MOST_READ, LONGEST)?.value;
            if let Some(device) = device_of(&file.path) {
                measured.disks.insert(device, DiskSpeed { read, measured_at: now() });
            }
        }
    }
    measured.store();
    Ok(Calibrated { calibration: measured, link })
}

/// The machine that this runs on, with what is stored of its speeds: how, and how long ago they were measured.
pub fn with_measured(mut machine: Machine) -> Machine {
    let Some(stored) = Calibration::stored(machine.cpu.usable.value) else { return machine };
    if let Some(memory) = stored.memory {
        let source = format!("matrix-vector products, {} ago", Ago(stored.age()));
        machine.memory.rate = Some(Known::measured(memory, source));
    }
    if let Some(disk) = &mut machine.disk
        && let Some(speed) = disk.device.as_ref().and_then(|device| stored.disks.get(device))
    {
        let age = Duration::from_secs(now().saturating_sub(speed.measured_at));
        disk.rate = Some(Known::measured(speed.read, format!("direct reads, {} ago", Ago(age))));
    }
    for gpu in &mut machine.gpus {
        if let Some(known) = stored.links.get(&link_key(gpu)).and_then(StoredLink::known) {
            gpu.link.get_or_insert_default().rate = Some(known);
        }
    }
    machine
}

impl StoredLink {
    /// What streams to the device uses: copies from memory that it reads by itself.
    fn known(&self) -> Option<Known<BytesPerSecond>> {
        let (rate, how) = match (self.speed.pinned_in, self.speed.pageable_in) {
            (Some(rate), _) => (rate, "pinned"),
            (None, rate) => (rate?, "pageable"),
        };
        let age = Duration::from_secs(now().saturating_sub(self.measured_at));
        let source = format!("copies from {how} memory, {} ago", Ago(age));
        Some(Known::measured(rate, source))
    }
}

/// Whether the management library and CUDA mean the same device; they write different prefixes.
fn is_same(managed: Option<&str>, cuda: Option<&str>) -> bool {
    let digits = |text: &str| text.split_once('-').map(|(_, digits)| digits.to_ascii_lowercase());
    managed.and_then(digits).is_some_and(|own| Some(own) == cuda.and_then(digits))
}

/// A device, its driver and its slot.
fn link_key(gpu: &Gpu) -> String {
    let place = || format!("{} at {}", gpu.name, gpu.pci.as_deref().unwrap_or("an unknown place"));
    let slot = gpu.link.as_ref().map_or((None, None), |link| (link.generation, link.width));
    let known =
        |number: Option<u32>| number.map_or_else(|| "?".to_owned(), |known| known.to_string());
    format!(
        "{}, driver {}, PCIe {} x{}",
        gpu.uuid.clone().unwrap_or_else(place),
        gpu.driver.as_deref().unwrap_or("unknown"),
        known(slot.0),
        known(slot.1)
    )
}

/// A duration in the largest unit that it has one of.
struct Ago(Duration);

impl fmt::Display for Ago {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let (count, unit) = match seconds {
            0..60 => (seconds, "second"),
            60..3600 => (seconds / 60, "minute"),
            3600..86_400 => (seconds / 3600, "hour"),
            _ => (seconds / 86_400, "day"),
        };
        write!(f, "{count} {unit}{}", if count == 1 { "" } else { "s" })
    }
}

impl fmt::Display for Calibration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "machine  {}", self.machine)?;
        if let Some(memory) = self.memory {
            writeln!(f, "memory   {memory} through matrix-vector products (measured)")?;
        }
        if let Some(flops) = self.flops {
            writeln!(f, "compute  {:.0} GFLOP/s in matrix products (measured)", flops / 1e9)?;
        }
        for (device, speed) in &self.disks {
            writeln!(f, "disk     {device}: {} in direct reads (measured)", speed.read)?;
        }
        for stored in self.links.values() {
            let LinkSpeed { pinned_in, pinned_out, pageable_in, pageable_out } = stored.speed;
            let both = |there: Option<BytesPerSecond>, back: Option<BytesPerSecond>| {
                let shown = |rate: Option<BytesPerSecond>| {
                    rate.map_or_else(|| "unknown".to_owned(), |rate| rate.to_string())
                };
                format!("{} there, {} back", shown(there), shown(back))
            };
            let (pinned, pageable) = (both(pinned_in, pinned_out), both(pageable_in, pageable_out));
            let name = &stored.name;
            writeln!(
                f,
                "link     {name}: {pinned} with pinned memory; {pageable} without (measured)"
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for Calibrated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.calibration.fmt(f)?;
        match &self.link {
            LinkState::Failed { library, error } => {
                writeln!(f, "link     not timed: {library}: {error}")
            }
            LinkState::Timed(devices) => {
                devices.iter().try_for_each(|device| match &device.error {
                    Some(error) => writeln!(f, "link     {}: not all timed: {error}", device.name),
                    None => Ok(()),
                })
            }
            // Most machines have no such GPU.
            _ => Ok(()),
        }
    }
}

fn file() -> PathBuf {
    cache_dir().join("calibration.json")
}

fn identity(threads: usize) -> String {
    let model = hardware::cpu_name().unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    format!("{model}, {threads} threads, {} kernels", Kernels::detect().name())
}

fn device_of(path: &Path) -> Option<String> {
    hardware::disk_under(path).and_then(|disk| disk.device)
}

fn rate(plain: f64) -> BytesPerSecond {
    BytesPerSecond::new(plain).unwrap_or(BytesPerSecond::ONE)
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
