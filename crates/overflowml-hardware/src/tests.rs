//! Captured and hand-made machines: what their files say, and what follows.

use std::path::{Path, PathBuf};

use overflowml_types::{Basis, Bytes, Cpu, IsaExtension, Machine, Memory};

use crate::capture::Capture;
use crate::root::Root;
use crate::{assemble, cgroup, cpu, disk, memory};

fn machine(name: &str) -> Root {
    let home = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/machines").join(name);
    assert!(home.is_dir(), "{} is missing", home.display());
    Root::at(home)
}

/// The parts of a machine that its files alone tell.
fn probe_files(root: &Root) -> (Cpu, Memory) {
    let capture = Capture::read(root.path("/"));
    let container = cgroup::container(root);
    (cpu::probe(&capture, &container), memory::probe(root, &container))
}

#[test]
fn a_desktop_has_half_as_many_cores_as_threads_and_no_limits() {
    let root = machine("desktop");
    let (cpu, memory) = probe_files(&root);
    assert_eq!(cpu.model.unwrap().value, "AMD Ryzen 7 7700X 8-Core Processor");
    assert_eq!((cpu.logical.unwrap().value, cpu.physical.unwrap().value), (16, 8));
    assert_eq!((cpu.usable.value, cpu.usable.source.as_str()), (8, "physical cores"));
    assert!(cpu.extensions.contains(&IsaExtension::Avx512bf16));
    assert_eq!(memory.available.value, Bytes::kib(58_720_256));
    assert_eq!(memory.lockable.unwrap().value, Bytes::mib(8));
    assert!(cgroup::container(&root).memory_limits.is_empty());
    let disk = disk::on_mount(&root, Path::new("/home/me/models")).unwrap();
    assert_eq!(disk.device.as_deref(), Some("nvme0n1"));
    assert!(!disk.rotational.unwrap().value);
}

#[test]
fn a_container_may_use_its_limit_less_what_cannot_be_given_back() {
    let root = machine("container-4gib");
    let (cpu, memory) = probe_files(&root);
    // 4 GiB limit, 3 GiB in use, of which 2.5 GiB are file cache.
    assert_eq!(memory.available.value, Bytes::mib(3584));
    assert!(memory.available.source.contains("control group"));
    // A quota of one and a half processors is worth one thread.
    assert_eq!((cpu.usable.value, cpu.usable.source.as_str()), (1, "control-group quota"));
    let disk = disk::on_mount(&root, Path::new("/models")).unwrap();
    assert_eq!((disk.device, disk.file_system.as_deref()), (None, Some("overlay")));
}

#[test]
fn version_1_groups_are_found_below_the_part_of_the_tree_that_is_mounted() {
    let root = machine("docker-v1");
    let (cpu, memory) = probe_files(&root);
    assert_eq!(memory.available.value, Bytes::mib(1536));
    // A quota of -1 is none.
    assert_eq!(cpu.usable.value, 4);
    assert_eq!(cgroup::container(&root).cpu_quota, None);
}

#[test]
fn the_tightest_ancestor_decides() {
    let root = machine("nested-v2");
    let container = cgroup::container(&root);
    let groups: Vec<&str> =
        container.memory_limits.iter().map(|limit| limit.group.as_str()).collect();
    assert_eq!(groups, ["/kubepods.slice/pod7/app", "/kubepods.slice/pod7"]);
    let (cpu, memory) = probe_files(&root);
    assert_eq!(memory.available.value, Bytes::gib(1));
    assert_eq!(cpu.usable.value, 2);
}

#[test]
fn the_limit_that_throttles_counts_before_the_one_that_kills() {
    let (cpu, memory) = probe_files(&machine("systemd-high"));
    assert_eq!(memory.available.value, Bytes::gib(2));
    assert_eq!(cpu.usable.value, 2);
}

#[test]
fn an_arm_board_is_named_by_its_device_tree() {
    let root = machine("raspberry-pi-5");
    let (cpu, _) = probe_files(&root);
    assert_eq!(cpu.model.unwrap().value, "Raspberry Pi 5 Model B Rev 1.0");
    assert_eq!(cpu.usable.value, 4);
    assert_eq!(cpu.extensions, [IsaExtension::Neon, IsaExtension::Dotprod]);
    let disk = disk::on_mount(&root, Path::new("/")).unwrap();
    assert_eq!(disk.device.as_deref(), Some("mmcblk0"));
}

#[test]
fn a_job_counts_the_cores_that_it_may_run_on() {
    let (cpu, memory) = probe_files(&machine("server-affinity"));
    assert_eq!(cpu.physical.unwrap().value, 64);
    assert_eq!(cpu.usable.value, 4);
    assert_eq!(memory.lockable, None);
}

#[test]
fn old_kernels_and_windows_drives_are_understood() {
    let root = machine("wsl2");
    let (cpu, memory) = probe_files(&root);
    assert_eq!(memory.available.value, Bytes::kib(6_020_000));
    assert_eq!(cpu.extensions.last(), Some(&IsaExtension::AvxVnni));
    let disk = disk::on_mount(&root, Path::new("/mnt/c/models")).unwrap();
    assert_eq!((disk.device, disk.file_system.as_deref()), (None, Some("9p")));
    let disk = disk::on_mount(&root, Path::new("/home")).unwrap();
    assert_eq!(disk.device.as_deref(), Some("sdc"));
}

#[test]
fn a_machine_that_says_nothing_is_assumed_and_not_invented() {
    let empty = tempfile::tempdir().unwrap();
    let (cpu, memory) = probe_files(&Root::at(empty.path()));
    assert_eq!((cpu.model, cpu.logical, cpu.physical), (None, None, None));
    assert!(cpu.extensions.is_empty() && cpu.usable.value >= 1);
    assert_eq!((memory.total.basis, memory.available.basis), (Basis::Assumed, Basis::Assumed));
}

/// Every machine in the folder, as `detect --json` would print it: reviewed by hand.
#[test]
fn every_captured_machine_is_what_was_reviewed() {
    let home = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/machines");
    let mut names: Vec<String> = std::fs::read_dir(home)
        .unwrap()
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert!(names.len() >= 25, "{names:?}");
    for name in names {
        let machine = whole(&name);
        let text = serde_json::to_string_pretty(&machine).unwrap();
        assert_eq!(serde_json::from_str::<Machine>(&text).unwrap(), machine, "{name}");
        insta::with_settings!({ prepend_module_to_snapshot => false }, {
            insta::assert_snapshot!(name, text);
        });
    }
}

fn whole(name: &str) -> Machine {
    let root = machine(name);
    let capture = Capture::read(root.path("/"));
    let path = capture.system.path.clone().unwrap_or_else(|| PathBuf::from("/"));
    assemble::machine(&capture, disk::on_mount(&root, &path))
}
