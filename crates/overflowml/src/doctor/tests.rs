//! Facts of made-up machines against the findings they must lead to.

use std::path::PathBuf;

use overflowml_types::{
    Bytes, BytesPerSecond, CgroupLimit, Container, Cpu, Disk, Gpu, Known, Library, Memory, Pool,
    Vendor,
};

use super::host::{CacheFolder, Measured};
use super::packages::TorchBuild;
use super::python::PythonAnswer;
use super::*;

fn known<T>(value: T) -> Known<T> {
    Known::reported(value, "test")
}

fn gpu(vendor: Vendor, driver: Option<&str>) -> Gpu {
    Gpu {
        index: 0,
        name: "Some GPU".to_owned(),
        vendor,
        uuid: None,
        pci: None,
        pool: Pool::Own,
        total: Some(known(Bytes::gib(24))),
        free: Some(known(Bytes::gib(20))),
        dedicated: None,
        reserved: None,
        limit: None,
        rate: None,
        flops: None,
        link: None,
        architecture: None,
        compute_capability: (vendor == Vendor::Nvidia).then_some((8, 9)),
        driver: driver.map(str::to_owned),
        runtime: None,
        partition: None,
        processes: Vec::new(),
    }
}

fn machine(gpus: Vec<Gpu>) -> Machine {
    Machine {
        os: "linux".to_owned(),
        wsl: false,
        cpu: Cpu {
            model: None,
            architecture: "x86_64".to_owned(),
            logical: None,
            physical: None,
            usable: known(8),
            extensions: Vec::new(),
        },
        memory: Memory {
            total: known(Bytes::gib(64)),
            available: known(Bytes::gib(50)),
            lockable: None,
            pinnable: None,
            rate: None,
            nodes: Vec::new(),
        },
        container: Container::default(),
        disk: Some(Disk {
            path: "/models".into(),
            device: Some("nvme0n1".to_owned()),
            file_system: Some("ext4".to_owned()),
            kind: None,
            rotational: Some(known(false)),
            free: None,
            direct_io: Some(known(true)),
            rate: None::<Known<BytesPerSecond>>,
        }),
        gpus,
        libraries: Vec::new(),
    }
}

fn installed(versions: &[(&str, &str)], cuda: Option<&str>) -> Installed {
    let owned = |(name, version): &(&str, &str)| ((*name).to_owned(), (*version).to_owned());
    let torch = TorchBuild { cuda: cuda.map(str::to_owned), ..TorchBuild::default() };
    Installed { versions: versions.iter().map(owned).collect(), torch: Some(torch) }
}

/// A machine where everything is as it should be, with these packages.
fn facts(installed: Installed, gpus: Vec<Gpu>) -> Facts {
    Facts {
        machine: machine(gpus),
        host: Host {
            huge_pages: Some("madvise".to_owned()),
            cache: CacheFolder { path: "/cache".into(), refused: None },
            calibration: Some(Measured { age_days: 3, disk: Some(2e9) }),
            ..Host::default()
        },
        python: Python::Found {
            executable: PathBuf::from("/usr/bin/python3"),
            answer: PythonAnswer { version: (3, 12, 1), folders: Vec::new() },
            installed,
        },
        model: None,
    }
}

fn newest() -> Installed {
    let versions = [
        ("torch", "2.15.0+cu130"),
        ("transformers", "5.23.0"),
        ("accelerate", "1.14.0"),
        ("diffusers", "0.40.0"),
        ("torchao", "0.17.0"),
        ("bitsandbytes", "0.49.0"),
        ("flash-attn", "2.8.3"),
    ];
    installed(&versions, Some("13.0"))
}

fn severity(report: &DoctorReport, code: &str) -> Option<Severity> {
    report.issues.iter().find(|issue| issue.code == code).map(|issue| issue.severity)
}

#[test]
fn a_machine_that_is_as_it_should_be_has_nothing_to_fix() {
    let report = examine(&facts(newest(), vec![gpu(Vendor::Nvidia, Some("580.65.06"))]));
    let bad: Vec<_> =
        report.issues.iter().filter(|issue| issue.severity != Severity::Info).collect();
    assert!(report.ok && bad.is_empty() && report.fix_commands.is_empty(), "{bad:#?}");
    for code in [
        "python_ok",
        "torch_cuda",
        "driver_ok",
        "dep_torchao_ok",
        "flash_attn_ok",
        "gpu_ok",
        "ram_ok",
    ] {
        assert_eq!(severity(&report, code), Some(Severity::Info), "{code}");
    }
    assert_eq!(report.environment.torch_cuda.as_deref(), Some("13.0"));
    assert_eq!(report.hardware.vram_gb, Some(24.0));
}

#[test]
fn a_newer_driver_runs_an_older_cuda_and_only_the_reverse_fails() {
    use Severity::{Error, Info, Warn};
    for (driver, cuda, code, expected) in [
        ("580.65.06", "11.8", "driver_ok", Info),
        ("580.65.06", "12.4", "driver_ok", Info),
        ("550.54.15", "12.4", "driver_ok", Info),
        ("535.183.01", "12.6", "driver_mismatch", Warn),
        ("525.60.13", "13.0", "driver_mismatch", Error),
        ("470.256.02", "12.1", "driver_mismatch", Error),
    ] {
        let packages = installed(&[("torch", "2.6.0")], Some(cuda));
        let report = examine(&facts(packages, vec![gpu(Vendor::Nvidia, Some(driver))]));
        assert_eq!(severity(&report, code), Some(expected), "{driver} {cuda}");
        assert_eq!(report.ok, expected != Error, "{driver} {cuda}");
    }
    let packages = installed(&[("torch", "2.6.0")], Some("13.0"));
    let report = examine(&facts(packages, vec![gpu(Vendor::Nvidia, Some("525.60.13"))]));
    assert!(report.fix_commands.iter().any(|fix| fix.ends_with("/cu126")), "{report:?}");
}

#[test]
fn what_the_driver_says_it_serves_counts_before_what_its_branch_is_known_for() {
    let mut gpu = gpu(Vendor::Nvidia, Some("470.256.02"));
    gpu.runtime = Some("12.8".to_owned());
    let report = examine(&facts(installed(&[("torch", "2.6.0")], Some("12.4")), vec![gpu]));
    assert_eq!(severity(&report, "driver_ok"), Some(Severity::Info));
}

#[test]
fn a_torch_without_a_gpu_build_fails_only_where_there_is_a_gpu() {
    let packages = || installed(&[("torch", "2.6.0+cpu")], None);
    let with = examine(&facts(packages(), vec![gpu(Vendor::Nvidia, Some("570.1"))]));
    assert_eq!(severity(&with, "torch_cpu_only"), Some(Severity::Error));
    assert!(with.fix_commands.iter().any(|fix| fix.ends_with("/cu128")), "{with:?}");
    let without = examine(&facts(packages(), Vec::new()));
    assert_eq!(severity(&without, "torch_cpu_only"), Some(Severity::Info));
    assert_eq!(severity(&without, "gpu_none"), Some(Severity::Warn));
    assert!(without.ok);
}

#[test]
fn builds_for_other_accelerators_are_named() {
    let mut rocm = installed(&[("torch", "2.6.0+rocm6.2")], None);
    rocm.torch = Some(TorchBuild { hip: Some("6.2".to_owned()), ..TorchBuild::default() });
    let report = examine(&facts(rocm, vec![gpu(Vendor::Amd, None)]));
    assert_eq!(severity(&report, "torch_rocm"), Some(Severity::Info));
    assert_eq!(severity(&report, "flash_attn_missing"), None);
    let mut mac = facts(installed(&[("torch", "2.6.0")], None), vec![gpu(Vendor::Apple, None)]);
    mac.machine.os = "macos".to_owned();
    mac.machine.cpu.architecture = "aarch64".to_owned();
    let report = examine(&mac);
    assert_eq!(severity(&report, "torch_mps"), Some(Severity::Info));
    assert_eq!(severity(&report, "gpu_mps"), Some(Severity::Info));
    assert!(report.ok);
}

#[test]
fn without_python_or_its_packages_the_command_still_works() {
    let mut missing = facts(newest(), Vec::new());
    missing.python = Python::Missing;
    let report = examine(&missing);
    assert!(report.ok);
    assert_eq!(severity(&report, "python_missing"), Some(Severity::Warn));
    assert_eq!(severity(&report, "torch_missing"), None);
    let mut hung = missing;
    hung.python = Python::Failed { executable: "/p".into(), reason: "gave no answer".to_owned() };
    assert_eq!(severity(&examine(&hung), "python_failed"), Some(Severity::Warn));
    let bare = examine(&facts(installed(&[], None), Vec::new()));
    assert!(bare.ok);
    for code in ["torch_missing", "dep_transformers_missing", "dep_bitsandbytes_missing"] {
        assert_eq!(severity(&bare, code), Some(Severity::Warn), "{code}");
    }
    assert!(bare.fix_commands.contains(&"pip install diffusers".to_owned()));
}

#[test]
fn an_old_python_is_named_with_its_version() {
    let mut old = facts(newest(), Vec::new());
    if let Python::Found { answer, .. } = &mut old.python {
        answer.version = (3, 9, 18);
    }
    let report = examine(&old);
    let issue = report.issues.iter().find(|issue| issue.code == "python_old").unwrap();
    assert_eq!(issue.detected_value.as_deref(), Some("3.9.18"));
}

#[test]
fn a_gpu_that_is_there_but_cannot_be_used_is_an_error() {
    let mut bus = facts(newest(), Vec::new());
    bus.host.nvidia_on_bus = true;
    assert_eq!(severity(&examine(&bus), "gpu_not_accessible"), Some(Severity::Error));
    let mut library = facts(newest(), Vec::new());
    library.machine.libraries =
        vec![Library::Failed { name: "libnvidia-ml.so.1".to_owned(), error: "hangs".to_owned() }];
    assert_eq!(severity(&examine(&library), "gpu_not_accessible"), Some(Severity::Error));
    let mut fine = facts(newest(), vec![gpu(Vendor::Nvidia, None)]);
    fine.host.nvidia_on_bus = true;
    assert_eq!(severity(&examine(&fine), "gpu_not_accessible"), None);
}

#[test]
fn little_memory_and_tight_limits_are_told() {
    let mut small = facts(newest(), vec![gpu(Vendor::Amd, None)]);
    small.machine.memory.total = known(Bytes::gib(8));
    small.machine.memory.lockable = Some(known(Bytes::mib(8)));
    let limit = CgroupLimit {
        group: "/docker".to_owned(),
        limit: Bytes::gib(4),
        used: Bytes::gib(2),
        reclaimable: Bytes::gib(1),
    };
    small.machine.container.memory_limits = vec![limit];
    let report = examine(&small);
    for code in ["ram_low", "container_memory_limit", "lockable_memory_low"] {
        assert_eq!(severity(&report, code), Some(Severity::Warn), "{code}");
    }
    let mut roomy = small;
    roomy.machine.gpus.clear();
    roomy.machine.container.memory_limits[0].limit = Bytes::gib(7);
    let report = examine(&roomy);
    for code in ["container_memory_limit", "lockable_memory_low"] {
        assert_eq!(severity(&report, code), Some(Severity::Info), "{code}");
    }
}

#[test]
fn each_trouble_with_a_disk_has_its_code() {
    let mut bad = facts(newest(), Vec::new());
    bad.machine.disk = bad.machine.disk.map(|disk| Disk {
        file_system: Some("nfs4".to_owned()),
        rotational: Some(known(true)),
        direct_io: Some(known(false)),
        ..disk
    });
    bad.host.calibration = Some(Measured { age_days: 365, disk: Some(9e7) });
    bad.host.huge_pages = Some("never".to_owned());
    bad.host.cache.refused = Some("read-only".to_owned());
    bad.host.shadowing = vec!["/usr/lib/x86_64-linux-gnu/libcuda.so.1".into()];
    let report = examine(&bad);
    for code in [
        "disk_network",
        "disk_rotational",
        "disk_slow",
        "no_direct_io",
        "huge_pages_off",
        "cache_not_writable",
        "calibration_old",
        "wsl_cuda_shadowed",
    ] {
        assert_eq!(severity(&report, code), Some(Severity::Warn), "{code}");
        let issue = report.issues.iter().find(|issue| issue.code == code).unwrap();
        assert!(issue.suggested_fix.is_some(), "{code}");
    }
    assert_eq!(severity(&report, "disk_ok"), None);
    bad.host.calibration = None;
    assert_eq!(severity(&examine(&bad), "calibration_missing"), Some(Severity::Warn));
}

#[test]
fn installed_versions_with_known_faults_are_warned_of_and_repaired_ones_are_not() {
    let mut packages = newest();
    packages.versions.insert("diffusers".to_owned(), "0.35.2".to_owned());
    let report = examine(&facts(packages.clone(), Vec::new()));
    assert_eq!(severity(&report, "rule_group_offload_record_stream"), Some(Severity::Warn));
    assert_eq!(severity(&report, "rule_lora_after_group_offload"), None);
    assert!(report.ok, "a combination that nobody uses is no failure");
    packages.versions.insert("diffusers".to_owned(), "0.36.0.dev0".to_owned());
    let report = examine(&facts(packages.clone(), Vec::new()));
    assert_eq!(severity(&report, "rule_group_offload_record_stream"), Some(Severity::Info));
    packages.versions.remove("torchao");
    let report = examine(&facts(packages, Vec::new()));
    assert_eq!(severity(&report, "rule_torchao_group_offload_device"), None);
}

#[test]
fn one_memory_for_both_is_told_once_per_machine() {
    let mut apus = vec![gpu(Vendor::Amd, None), gpu(Vendor::Amd, None)];
    apus.iter_mut().for_each(|gpu| gpu.pool = Pool::Shared);
    let report = examine(&facts(newest(), apus));
    let code = "rule_unified_memory_offload";
    assert_eq!(report.issues.iter().filter(|issue| issue.code == code).count(), 1);
}

#[test]
fn wsl_is_known_from_the_kernel_even_if_detection_did_not_say_so() {
    let mut wsl = facts(newest(), vec![gpu(Vendor::Nvidia, None)]);
    assert_eq!(severity(&examine(&wsl), "rule_pinned_memory_wsl"), None);
    wsl.host.wsl = true;
    assert_eq!(severity(&examine(&wsl), "rule_pinned_memory_wsl"), Some(Severity::Warn));
}

#[test]
fn a_model_fits_streams_or_is_an_error() {
    let outcome = |model| {
        let report = examine(&Facts { model: Some(model), ..facts(newest(), Vec::new()) });
        let issue = report.issues.into_iter().find(|issue| issue.code.starts_with("model_"));
        let issue = issue.unwrap();
        (issue.code, issue.severity)
    };
    let (weights, peak) = (Bytes::gib(10), Bytes::gib(11));
    let expected = |code: &str, severity| (code.to_owned(), severity);
    assert_eq!(outcome(ModelFacts::Fits { weights, peak }), expected("model_fits", Severity::Info));
    assert_eq!(
        outcome(ModelFacts::Streams { weights, peak, tokens_per_second: 0.5 }),
        expected("model_needs_offload", Severity::Info)
    );
    let reason = || "because".to_owned();
    assert_eq!(
        outcome(ModelFacts::DoesNotFit { reason: reason(), hint: None }),
        expected("model_does_not_fit", Severity::Error)
    );
    assert_eq!(
        outcome(ModelFacts::Unknown { reason: reason(), hint: None }),
        expected("model_unknown", Severity::Error)
    );
    let planned = |resident| ModelFacts::Planned {
        weights,
        how: "`layer_hybrid`".to_owned(),
        resident,
        changes: Vec::new(),
    };
    assert_eq!(outcome(planned(true)), expected("model_fits", Severity::Info));
    assert_eq!(outcome(planned(false)), expected("model_needs_offload", Severity::Info));
}
