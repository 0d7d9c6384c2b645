//! Windows answers through its own calls, the registry, and NVML.

use std::path::Path;
use std::time::Duration;

use overflowml_types::{Bytes, IsaExtension, Known};
use sysinfo::{Disks, Pid, ProcessesToUpdate, System};

use super::output_of;
use crate::apple::MetalDevice;
use crate::capture::{Capture, HostFacts};
use crate::memory::ProcessMemory;

const DISPLAYS: &str =
    r"HKLM\SYSTEM\CurrentControlSet\Control\Class\{4d36e968-e325-11ce-bfc1-08002be10318}";
const PROCESSOR: &str = r"HKLM\HARDWARE\DESCRIPTION\System\CentralProcessor\0";

pub(crate) fn look(capture: &mut Capture, _: Duration) {
    capture.registry = output_of("reg", &["query", DISPLAYS, "/s"]);
}

pub(crate) fn look_at_host(_: &mut Capture) {}

pub(crate) fn host_facts() -> Option<HostFacts> {
    let mut system = System::new();
    system.refresh_memory();
    Some(HostFacts {
        cpu: processor_name(),
        logical: std::thread::available_parallelism().ok().map(usize::from),
        physical: System::physical_core_count(),
        extensions: extensions(),
        total: Some(Bytes::new(system.total_memory())),
        available: Some(Bytes::new(system.available_memory())),
    })
}

/// `reg` prints `    ProcessorNameString    REG_SZ    AMD Ryzen 9 7950X`.
fn processor_name() -> Option<String> {
    let text = output_of("reg", &["query", PROCESSOR, "/v", "ProcessorNameString"])?;
    let (_, name) = text.split_once("REG_SZ")?;
    Some(name.lines().next()?.trim().to_owned())
}

#[cfg(target_arch = "x86_64")]
fn extensions() -> Vec<IsaExtension> {
    use IsaExtension as E;
    let known = [
        (is_x86_feature_detected!("avx2"), E::Avx2),
        (is_x86_feature_detected!("fma"), E::Fma),
        (is_x86_feature_detected!("f16c"), E::F16c),
        (is_x86_feature_detected!("avxvnni"), E::AvxVnni),
        (is_x86_feature_detected!("avx512f"), E::Avx512f),
        (is_x86_feature_detected!("avx512bw"), E::Avx512bw),
        (is_x86_feature_detected!("avx512vl"), E::Avx512vl),
        (is_x86_feature_detected!("avx512vnni"), E::Avx512vnni),
        (is_x86_feature_detected!("avx512bf16"), E::Avx512bf16),
        (is_x86_feature_detected!("avx512fp16"), E::Avx512fp16),
    ];
    known.into_iter().filter(|(has, _)| *has).map(|(_, extension)| extension).collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn extensions() -> Vec<IsaExtension> {
    vec![IsaExtension::Neon]
}

pub(crate) fn nvml_libraries() -> Result<Vec<String>, Vec<String>> {
    let programs = std::env::var("ProgramFiles").unwrap_or_else(|_| r"C:\Program Files".to_owned());
    // Drivers before 2018 keep it with their own program.
    let older = format!(r"{programs}\NVIDIA Corporation\NVSMI\nvml.dll");
    Ok(vec!["nvml.dll".to_owned(), older])
}

pub(crate) fn cuda_libraries() -> Result<Vec<String>, Vec<String>> {
    Ok(vec!["nvcuda.dll".to_owned()])
}

pub(crate) fn metal() -> Option<MetalDevice> {
    None
}

pub(crate) fn process_memory() -> Option<ProcessMemory> {
    let pid = Pid::from_u32(std::process::id());
    let mut system = System::new();
    system.refresh_processes(ProcessesToUpdate::Some(&[pid]), false);
    let rss = Bytes::new(system.process(pid)?.memory());
    Some(ProcessMemory { rss, peak_rss: None })
}

/// Of the drive that holds `path`.
pub(crate) fn free_space(path: &Path) -> Option<Known<Bytes>> {
    let disks = Disks::new_with_refreshed_list();
    let path = std::path::PathBuf::from(path.to_string_lossy().trim_start_matches(r"\\?\"));
    let above = disks.iter().filter(|disk| path.starts_with(disk.mount_point()));
    let disk = above.max_by_key(|disk| disk.mount_point().components().count())?;
    Some(Known::reported(Bytes::new(disk.available_space()), "GetDiskFreeSpaceEx"))
}

pub(crate) fn direct_io(_: &Path) -> Option<Known<bool>> {
    None
}
