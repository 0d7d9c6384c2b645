//! Linux says nearly all in files.

use std::path::{Path, PathBuf};
use std::time::Duration;

use overflowml_types::{Bytes, Known};
use rustix::fs::{Mode, OFlags, open, statvfs};
use rustix::io::Errno;

use crate::apple::MetalDevice;
use crate::capture::{Capture, HostFacts};
use crate::memory::{self, ProcessMemory};
use crate::root::Root;

/// What a machine with a loaded driver has: a card, Windows' Linux, a Jetson.
const NODES: [&str; 5] =
    ["/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/nvhost-ctrl-gpu", "/dev/nvgpu"];

const MANAGEMENT: &str = "libnvidia-ml.so.1";
const CUDA: &str = "libcuda.so.1";

pub(crate) fn look(_: &mut Capture, _: Duration) {}

pub(crate) fn look_at_host(_: &mut Capture) {}

pub(crate) fn host_facts() -> Option<HostFacts> {
    None
}

pub(crate) fn nvml_libraries() -> Result<Vec<String>, Vec<String>> {
    libraries(MANAGEMENT)
}

pub(crate) fn cuda_libraries() -> Result<Vec<String>, Vec<String>> {
    libraries(CUDA)
}

/// Where to look; the places in vain if there is no device, which makes searching the library path useless.
fn libraries(name: &str) -> Result<Vec<String>, Vec<String>> {
    if !NODES.iter().any(|node| Path::new(node).exists()) {
        return Err(NODES.map(str::to_owned).to_vec());
    }
    // Windows' Linux has its own; a copy that a package installed does not work there.
    let windows = Path::new("/dev/dxg").exists();
    let first = windows.then(|| format!("/usr/lib/wsl/lib/{name}"));
    Ok(first.into_iter().chain([name.to_owned()]).collect())
}

pub(crate) fn metal() -> Option<MetalDevice> {
    None
}

pub(crate) fn process_memory() -> Option<ProcessMemory> {
    memory::of_process(&Root::system())
}

pub(crate) fn free_space(path: &Path) -> Option<Known<Bytes>> {
    let space = statvfs(path).ok()?;
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    Some(Known::reported(Bytes::new(free), "statvfs"))
}

/// Whether a file there can be read past the page cache: tried on `path`, or on a file in it.
pub(crate) fn direct_io(path: &Path) -> Option<Known<bool>> {
    let file = if path.is_file() { path.to_owned() } else { some_file_in(path)? };
    match open(&file, OFlags::RDONLY | OFlags::DIRECT | OFlags::CLOEXEC, Mode::empty()) {
        Ok(_) => Some(Known::measured(true, "a file was opened so")),
        Err(Errno::INVAL) => Some(Known::measured(false, "a file could not be opened so")),
        Err(_) => None,
    }
}

fn some_file_in(folder: &Path) -> Option<PathBuf> {
    const ENOUGH: usize = 64;
    let entries = std::fs::read_dir(folder).ok()?.flatten().take(ENOUGH);
    let files = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()));
    files.map(|entry| entry.path()).next()
}
