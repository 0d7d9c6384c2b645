//! macOS answers through its commands, and Metal.

use std::path::Path;
use std::time::Duration;

use objc2_metal::{MTLCreateSystemDefaultDevice, MTLDevice};
use overflowml_types::{Bytes, Known};

use super::output_of;
use crate::apple::MetalDevice;
use crate::ask::{Question, ask};
use crate::capture::{Capture, HostFacts};
use crate::memory::ProcessMemory;

pub(crate) fn look(capture: &mut Capture, patience: Duration) {
    look_at_host(capture);
    capture.ioreg = output_of("/usr/sbin/ioreg", &["-r", "-c", "AGXAccelerator", "-d", "1"]);
    capture.metal = ask::<Option<MetalDevice>>(Question::Metal, patience).ok().flatten();
}

pub(crate) fn look_at_host(capture: &mut Capture) {
    capture.sysctl = output_of("/usr/sbin/sysctl", &["-a"]);
    capture.vm_stat = output_of("/usr/bin/vm_stat", &[]);
}

pub(crate) fn host_facts() -> Option<HostFacts> {
    None
}

/// No Mac of today has an NVIDIA driver.
pub(crate) fn nvml_libraries() -> Result<Vec<String>, Vec<String>> {
    Err(Vec::new())
}

pub(crate) fn cuda_libraries() -> Result<Vec<String>, Vec<String>> {
    Err(Vec::new())
}

pub(crate) fn metal() -> Option<MetalDevice> {
    let device = MTLCreateSystemDefaultDevice()?;
    Some(MetalDevice {
        working_set: Bytes::new(device.recommendedMaxWorkingSetSize()),
        unified_memory: device.hasUnifiedMemory(),
    })
}

/// `ps` prints kibibytes.
pub(crate) fn process_memory() -> Option<ProcessMemory> {
    let text = output_of("/bin/ps", &["-o", "rss=", "-p", &std::process::id().to_string()])?;
    let kib: u64 = text.trim().parse().ok()?;
    Some(ProcessMemory { rss: Bytes::kib(1).saturating_mul(kib), peak_rss: None })
}

pub(crate) fn free_space(path: &Path) -> Option<Known<Bytes>> {
    let space = rustix::fs::statvfs(path).ok()?;
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    Some(Known::reported(Bytes::new(free), "statvfs"))
}

/// macOS has no such mode; a file's caching can be turned off instead, which always works.
pub(crate) fn direct_io(_: &Path) -> Option<Known<bool>> {
    None
}
