//! A system that nobody has taught this crate: it says nothing of itself.

use std::path::Path;
use std::time::Duration;

use overflowml_types::{Bytes, Known};

use crate::apple::MetalDevice;
use crate::capture::{Capture, HostFacts};
use crate::memory::ProcessMemory;

pub(crate) fn look(_: &mut Capture, _: Duration) {}

pub(crate) fn look_at_host(_: &mut Capture) {}

pub(crate) fn host_facts() -> Option<HostFacts> {
    None
}

pub(crate) fn nvml_libraries() -> Result<Vec<String>, Vec<String>> {
    Err(Vec::new())
}

pub(crate) fn cuda_libraries() -> Result<Vec<String>, Vec<String>> {
    Err(Vec::new())
}

pub(crate) fn metal() -> Option<MetalDevice> {
    None
}

pub(crate) fn process_memory() -> Option<ProcessMemory> {
    None
}

pub(crate) fn free_space(_: &Path) -> Option<Known<Bytes>> {
    None
}

pub(crate) fn direct_io(_: &Path) -> Option<Known<bool>> {
    None
}
