//! What this machine is: processor, memory within every control group, the disk under a path, NVIDIA GPUs.
//!
//! The system is asked through small text files; each is read by a pure parser that is tested on captured text.
//! What is absent is a value ([`Library::Absent`](overflowml_types::Library), `None`), never an error, and every number says
//! where it comes from.
#![forbid(unsafe_code)]

mod cgroup;
mod cpu;
mod disk;
mod memory;
mod nvidia;
mod root;

use std::path::{Path, PathBuf};

use overflowml_types::{Bytes, Disk, Known, Machine};
#[cfg(test)]
use overflowml_types::{Cpu, Memory};

pub use crate::memory::ProcessMemory;
use crate::root::Root;

/// What to look at.
#[derive(Clone, Debug, Default)]
pub struct ProbeOptions {
    /// The path whose disk is reported.
    pub path: Option<PathBuf>,
    /// Also list the processes that hold accelerator memory.
    pub live: bool,
}

/// Looks at this machine.
pub fn probe(options: &ProbeOptions) -> Machine {
    let root = Root::system();
    let container = cgroup::container(&root);
    let disk = options.path.as_deref().and_then(|path| disk::under(&root, path));
    let (gpus, libraries) = nvidia::probe(options.live);
    Machine {
        os: std::env::consts::OS.to_owned(),
        wsl: false,
        cpu: cpu::probe(&root, &container),
        memory: memory::probe(&root, &container),
        container,
        disk,
        gpus,
        libraries,
    }
}

/// What a new process could use without swapping, within every control group.
pub fn available_memory() -> Known<Bytes> {
    let root = Root::system();
    memory::available(&root, &cgroup::container(&root))
}

/// What this process holds; `None` where the system does not say.
pub fn process_memory() -> Option<ProcessMemory> {
    memory::of_process(&Root::system())
}

/// Threads worth starting: affinity, control-group quota rounded down, physical cores.
pub fn usable_threads() -> usize {
    let root = Root::system();
    cpu::probe(&root, &cgroup::container(&root)).usable.value
}

/// The processor's marketing name.
pub fn cpu_name() -> Option<String> {
    cpu::name(&Root::system()).map(|name| name.value)
}

/// The disk under `path`; `None` if the path does not exist or the system does not say.
pub fn disk_under(path: &Path) -> Option<Disk> {
    disk::under(&Root::system(), path)
}

/// The parts of a machine that its files tell: what tests look at.
#[cfg(test)]
fn probe_files(root: &Root) -> (Cpu, Memory) {
    let container = cgroup::container(root);
    (cpu::probe(root, &container), memory::probe(root, &container))
}

#[cfg(test)]
mod tests;
