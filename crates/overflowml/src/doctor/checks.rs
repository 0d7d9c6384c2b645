//! Checks of accelerators, memory, disk and the host's settings.

use overflowml_types::{Bytes, Library, Machine, Vendor};

use super::host::Host;
use super::report::Issue;

/// Below this much main memory even small models are tight.
const LITTLE_RAM: Bytes = Bytes::gib(16);
/// Available memory below which a container is tight.
const LITTLE_AVAILABLE: Bytes = Bytes::gib(4);
/// Locked memory below which drivers that need it fail.
const LITTLE_LOCKABLE: Bytes = Bytes::gib(1);
/// Slower disks make streaming a matter of minutes per token.
const SLOW_DISK: f64 = 4e8;
/// After this many days speeds are worth measuring again.
const OLD_DAYS: u64 = 90;

/// File systems behind a network or a virtual machine's border.
const NETWORK: [&str; 12] = [
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "9p",
    "fuse.sshfs",
    "fuse.rclone",
    "fuse.s3fs",
    "ceph",
    "fuse.glusterfs",
    "afs",
];

pub(super) fn gpu(machine: &Machine, host: &Host) -> Vec<Issue> {
    let mut issues: Vec<Issue> = machine
        .gpus
        .iter()
        .map(|gpu| {
            let code = if gpu.vendor == Vendor::Apple { "gpu_mps" } else { "gpu_ok" };
            let memory = gpu.total.as_ref().map(|total| format!(" with {}", total.value));
            let message = format!("GPU {}: {}{}.", gpu.index, gpu.name, memory.unwrap_or_default());
            Issue::info(code, message).found(&gpu.name)
        })
        .collect();
    let failed = machine.libraries.iter().find_map(|library| match library {
        Library::Failed { name, error } => Some(format!("{name} was found but failed: {error}")),
        _ => None,
    });
    let nvidia = machine.gpus.iter().any(|gpu| gpu.vendor == Vendor::Nvidia);
    match failed {
        Some(failed) => issues.push(
            Issue::error("gpu_not_accessible", format!("{failed}.")).fix("nvidia-smi"),
        ),
        None if host.nvidia_on_bus && !nvidia => issues.push(
            Issue::error(
                "gpu_not_accessible",
                "There is an NVIDIA GPU in this machine, but no driver that this process can use.",
            )
            .fix("Install the NVIDIA driver; in a container, start it with access to GPUs (--gpus all)"),
        ),
        None if issues.is_empty() => issues.push(Issue::warn(
            "gpu_none",
            "No GPU was found: models run on the processor.",
        )),
        None => {}
    }
    if let Some(library) = host.shadowing.first() {
        issues.push(
            Issue::warn(
                "wsl_cuda_shadowed",
                "A Linux copy of the NVIDIA driver hides the one that Windows provides, which can abort CUDA programs.",
            )
            .found(library.display())
            .fix("export LD_LIBRARY_PATH=/usr/lib/wsl/lib:$LD_LIBRARY_PATH"),
        );
    }
    issues
}

pub(super) fn memory(machine: &Machine) -> Vec<Issue> {
    let memory = &machine.memory;
    let (total, available) = (memory.total.value, memory.available.value);
    let mut issues = vec![if total < LITTLE_RAM {
        Issue::warn(
            "ram_low",
            format!(
                "{total} of main memory, {available} available: larger models stream from disk."
            ),
        )
        .found(total)
        .fix("Close other programs before large runs; --memory bounds what a run takes")
    } else {
        Issue::info("ram_ok", format!("{total} of main memory, {available} available."))
            .found(total)
    }];
    let tightest = machine.container.memory_limits.iter().min_by_key(|limit| limit.available());
    if let Some(tightest) = tightest.filter(|tightest| tightest.limit < total) {
        let message = format!(
            "A control group limits memory to {}, of which {} is left; plans keep to it.",
            tightest.limit,
            tightest.available()
        );
        let issue = if tightest.available() < LITTLE_AVAILABLE {
            Issue::warn("container_memory_limit", message)
                .fix("Raise the container's memory limit (docker run --memory, or resources.limits.memory)")
        } else {
            Issue::info("container_memory_limit", message)
        };
        issues.push(issue.found(tightest.limit));
    }
    if let Some(lockable) = memory.lockable.as_ref().filter(|most| most.value < LITTLE_LOCKABLE) {
        let message = format!("Only {} of memory can be locked.", lockable.value);
        // ROCm locks through this limit; NVIDIA's driver does not, and our own engine need not.
        let issue = if machine.gpus.iter().any(|gpu| gpu.vendor == Vendor::Amd) {
            Issue::warn("lockable_memory_low", message)
        } else {
            Issue::info("lockable_memory_low", message)
        };
        issues.push(issue.found(lockable.value).fix("ulimit -l unlimited"));
    }
    issues
}

pub(super) fn disk(machine: &Machine, host: &Host) -> Vec<Issue> {
    let Some(disk) = &machine.disk else {
        return vec![Issue::info(
            "disk_unknown",
            "The system does not say what the models' disk is.",
        )];
    };
    let name = disk.device.as_deref().or(disk.file_system.as_deref()).unwrap_or("the disk");
    let mut issues = Vec::new();
    let file_system = disk.file_system.as_deref().unwrap_or_default();
    if NETWORK.contains(&file_system) {
        issues.push(
            Issue::warn(
                "disk_network",
                format!("Models would be read through {file_system}, which is seldom fast."),
            )
            .found(file_system)
            .fix("Copy models to a disk of this machine; in WSL, into the Linux file system"),
        );
    }
    if disk.rotational.as_ref().is_some_and(|rotational| rotational.value) {
        issues.push(
            Issue::warn(
                "disk_rotational",
                format!("{name} is a rotating disk, or a virtual one that says so."),
            )
            .fix("overflowml bench --calibrate --model MODEL"),
        );
    }
    let measured = host.calibration.as_ref().and_then(|calibration| calibration.disk);
    if let Some(rate) = measured.filter(|rate| *rate < SLOW_DISK) {
        let message =
            format!("{name} was measured at {:.0} MB/s: streaming from it is slow.", rate / 1e6);
        issues.push(
            Issue::warn("disk_slow", message)
                .found(format!("{:.0} MB/s", rate / 1e6))
                .fix("Keep models on an NVMe disk"),
        );
    }
    if disk.direct_io.as_ref().is_some_and(|direct| !direct.value) {
        issues.push(
            Issue::warn(
                "no_direct_io",
                format!("Files on {file_system} can only be read through the page cache, which streaming fills for nothing."),
            )
            .fix("Keep models on a file system with direct reads: ext4, xfs, btrfs"),
        );
    }
    if issues.is_empty() {
        issues
            .push(Issue::info("disk_ok", format!("Models are read from {name} ({file_system}).")));
    }
    issues
}

pub(super) fn host(host: &Host) -> Vec<Issue> {
    let mut issues = Vec::new();
    if host.huge_pages.as_deref() == Some("never") {
        issues.push(
            Issue::warn(
                "huge_pages_off",
                "Transparent huge pages are off; weights in memory are read more slowly.",
            )
            .found("never")
            .fix("echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled"),
        );
    }
    let folder = host.cache.path.display();
    issues.push(match &host.cache.refused {
        None => Issue::info("cache_writable", format!("Measurements are kept in {folder}.")),
        Some(reason) => Issue::warn(
            "cache_not_writable",
            format!("Nothing can be written to {folder}: {reason}."),
        )
        .fix("export OVERFLOWML_CACHE_DIR=/a/folder/of/yours"),
    });
    issues.push(match &host.calibration {
        None => Issue::warn(
            "calibration_missing",
            "This machine was not measured: predictions use defaults.",
        )
        .fix("overflowml bench --calibrate"),
        Some(measured) if measured.age_days > OLD_DAYS => Issue::warn(
            "calibration_old",
            format!("This machine was last measured {} days ago.", measured.age_days),
        )
        .found(format!("{} days", measured.age_days))
        .fix("overflowml bench --calibrate"),
        Some(measured) => Issue::info(
            "calibration_ok",
            format!("This machine was measured {} day(s) ago.", measured.age_days),
        ),
    });
    issues
}
