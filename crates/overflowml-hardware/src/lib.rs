//! What this machine is: processor, memory within every control group, the disk under a path, accelerators.
//!
//! The system is asked through small text files and vendors' libraries; what they say is a capture, and what follows
//! from a capture is computed by pure functions that are tested on captured machines. What is absent is a value
//! ([`Library::Absent`](overflowml_types::Library), `None`), never an error, and every number says where it comes from.
//! No context is created on an accelerator, except to time the way to it ([`time_links`]).
#![deny(unsafe_code)]

mod amd;
mod apple;
mod ask;
mod assemble;
mod capture;
pub mod catalogue;
mod cgroup;
mod cpu;
// The calls of a C library.
#[allow(unsafe_code)]
mod cuda;
mod disk;
mod fdinfo;
mod intel;
mod link;
mod memory;
mod numa;
mod nvidia;
mod nvml;
mod os;
mod pcie;
mod root;
mod sysfs;
mod visible;
mod windows;

use std::path::{Path, PathBuf};
use std::time::Duration;

use overflowml_types::{Bytes, Disk, Known, Machine};

use crate::ask::{Question, ask};
pub use crate::ask::{restart, restarts_as, serve_probe};
use crate::capture::{Capture, System, VARIABLES};
pub use crate::link::{DeviceLink, LinkSpeed, LinkState};
pub use crate::memory::ProcessMemory;
use crate::nvidia::NvmlState;
use crate::root::Root;

/// How long a vendor's library may take: with the rest, two seconds in all.
const PATIENCE: Duration = Duration::from_millis(1500);

/// What to look at.
#[derive(Clone, Debug, Default)]
pub struct ProbeOptions {
    /// The path whose disk is reported.
    pub path: Option<PathBuf>,
    /// Also list the processes that hold accelerator memory.
    pub live: bool,
    /// NVIDIA's management library, instead of the system's; `$OVERFLOWML_NVML` does the same.
    pub nvml: Option<PathBuf>,
    /// How long a vendor's library may take; `$OVERFLOWML_PROBE_SECONDS` does the same. A server whose driver is not
    /// kept loaded can need many seconds.
    pub patience: Option<Duration>,
}

/// Looks at this machine.
///
/// Answers within two seconds, whatever drivers do, unless more patience is asked for.
pub fn probe(options: &ProbeOptions) -> Machine {
    let mut capture = of_system();
    let patience = options.patience.or_else(patience_of_user).unwrap_or(PATIENCE);
    os::look(&mut capture, patience);
    capture.nvml = ask_nvml(options, patience);
    let disk = options.path.as_deref().and_then(|path| disk::under(&capture.root, path));
    let mut machine = assemble::machine(&capture, disk);
    if options.live {
        fdinfo::list(&capture.root, &mut machine.gpus);
    }
    machine
}

/// What the system says without asking a vendor.
fn of_system() -> Capture {
    let value = |name: &str| std::env::var_os(name).map(|v| v.to_string_lossy().into_owned());
    let system = System {
        os: std::env::consts::OS.to_owned(),
        architecture: std::env::consts::ARCH.to_owned(),
        path: None,
        threads: std::thread::available_parallelism().ok().map(usize::from),
        host: os::host_facts(),
    };
    Capture {
        system,
        root: Root::system(),
        env: VARIABLES.iter().filter_map(|&name| Some((name.to_owned(), value(name)?))).collect(),
        nvml: NvmlState::Absent { looked_in: Vec::new() },
        sysctl: None,
        vm_stat: None,
        ioreg: None,
        metal: None,
        registry: None,
        dxgi: None,
    }
}

fn ask_nvml(options: &ProbeOptions, patience: Duration) -> NvmlState {
    let named = options.nvml.as_ref().map(|path| path.display().to_string());
    let named = named.or_else(|| set("OVERFLOWML_NVML"));
    let libraries = match named.map_or_else(os::nvml_libraries, |named| Ok(vec![named])) {
        Ok(libraries) => libraries,
        Err(looked_in) => return NvmlState::Absent { looked_in },
    };
    let library = libraries.first().cloned().unwrap_or_default();
    let question = Question::Nvml { libraries, live: options.live };
    ask(question, patience).unwrap_or_else(|error| NvmlState::Failed { library, error })
}

/// Times copies between main memory and the NVIDIA GPUs that this process may use, for up to ten seconds.
///
/// Blocks, and creates a context on each GPU for a moment, in a process of its own where there can be one.
/// `$OVERFLOWML_CUDA` names another driver library.
pub fn time_links() -> LinkState {
    const PATIENCE: Duration = Duration::from_secs(10);
    let named = set("OVERFLOWML_CUDA");
    let libraries = match named.map_or_else(os::cuda_libraries, |named| Ok(vec![named])) {
        Ok(libraries) => libraries,
        Err(looked_in) => return LinkState::Absent { looked_in },
    };
    let library = libraries.first().cloned().unwrap_or_default();
    let patience = patience_of_user().unwrap_or(PATIENCE);
    let answer = ask(Question::Links { libraries }, patience);
    answer.unwrap_or_else(|error| LinkState::Failed { library, error })
}

fn patience_of_user() -> Option<Duration> {
    let seconds: f64 = set("OVERFLOWML_PROBE_SECONDS")?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

/// An environment variable that is not empty.
fn set(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// What a new process could use without swapping, within every control group.
pub fn available_memory() -> Known<Bytes> {
    assemble::available(&of_host())
}

/// What this process holds; `None` where the system does not say.
pub fn process_memory() -> Option<ProcessMemory> {
    os::process_memory()
}

/// Threads worth starting: affinity, control-group quota rounded down, physical cores.
pub fn usable_threads() -> usize {
    assemble::processor(&of_host()).usable.value
}

/// The processor's marketing name.
pub fn cpu_name() -> Option<String> {
    assemble::processor(&of_host()).model.map(|name| name.value)
}

/// The disk under `path`; `None` if the path does not exist.
pub fn disk_under(path: &Path) -> Option<Disk> {
    disk::under(&Root::system(), path)
}

/// What is needed to know processor and memory.
fn of_host() -> Capture {
    let mut capture = of_system();
    os::look_at_host(&mut capture);
    capture
}

#[cfg(test)]
mod tests;
