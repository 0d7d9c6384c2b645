//! Timing the way to a GPU through CUDA's driver: what is measured, stored, shown and planned with, and drivers that
//! hang, crash, lack calls or refuse them.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;

/// The library hangs for a minute: an answer in less is one that did not wait for it.
const FAR_BELOW_A_MINUTE: Duration = Duration::from_secs(40);

/// Compiles a library of `fixtures`; `None`, with the reason printed, where there is no C compiler.
fn stub(source: &str, folder: &Path, flags: &[&str]) -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(source);
    let library = folder.join(source.file_stem().unwrap()).with_extension("so");
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-o"]).arg(&library).args(flags).arg(&source);
    match compiler.status() {
        Ok(status) => {
            assert!(status.success(), "the stub does not compile");
            Some(library)
        }
        Err(error) => {
            println!("skipped: no C compiler ({error})");
            None
        }
    }
}

/// A machine with stub drivers and its own cache.
struct Stubbed {
    folder: tempfile::TempDir,
    cuda: PathBuf,
    management: PathBuf,
}

impl Stubbed {
    fn new(flags: &[&str]) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let cuda = stub("cuda_stub.c", folder.path(), flags)?;
        let management = stub("nvml_stub.c", folder.path(), &[])?;
        Some(Self { folder, cuda, management })
    }

    fn run(&self, arguments: &[&str], env: &[(&str, &str)]) -> Output {
        let started = Instant::now();
        let output = Command::new(assert_cmd::cargo::cargo_bin("overflowml"))
            .args(arguments)
            .env("OVERFLOWML_CUDA", &self.cuda)
            .env("OVERFLOWML_NVML", &self.management)
            .env("OVERFLOWML_CACHE_DIR", self.folder.path().join("cache"))
            .env_remove("CUDA_VISIBLE_DEVICES")
            .envs(env.iter().copied())
            .output()
            .unwrap();
        assert!(started.elapsed() < FAR_BELOW_A_MINUTE, "{:?}", started.elapsed());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output
    }

    fn json(&self, arguments: &[&str], env: &[(&str, &str)]) -> Value {
        serde_json::from_slice(&self.run(arguments, env).stdout).unwrap()
    }

    fn calibrate(&self, env: &[(&str, &str)]) -> Value {
        self.json(&["bench", "--calibrate", "--json"], env)
    }
}

#[test]
fn a_link_is_timed_stored_for_its_device_shown_and_planned_with() {
    let Some(machine) = Stubbed::new(&[]) else { return };
    let measured = machine.calibrate(&[]);
    let device = &measured["link"]["timed"][0];
    assert_eq!(device["name"], "NVIDIA Stub 24GB");
    assert_eq!(device["uuid"], "GPU-00112233-4455-6677-8899-aabbccddeeff");
    assert_eq!(device["error"], Value::Null);
    for way in ["pinned_in", "pinned_out", "pageable_in", "pageable_out"] {
        let rate = device["speed"][format!("{way}_bytes_per_second")].as_f64().unwrap();
        assert!(rate > 1e7, "{way}: {rate}");
    }
    let detected = machine.json(&["detect", "--json"], &[]);
    let rate = &detected["gpus"][0]["link"]["bytes_per_second"];
    assert_eq!(rate["basis"], "measured");
    assert!(rate["source"].as_str().unwrap().contains("copies from pinned memory"), "{rate}");
    let plan = machine.json(&["plan", "40", "--json"], &[]);
    let planned = &plan["resources"]["accelerators"][0]["link"];
    assert_eq!(planned["value"], rate["value"]);
    assert_eq!(planned["basis"], "measured");
    let text = String::from_utf8(machine.run(&["detect"], &[]).stdout).unwrap();
    assert!(text.contains("measured: copies from pinned memory"), "{text}");
}

#[test]
fn another_device_has_no_stored_link() {
    let Some(machine) = Stubbed::new(&[]) else { return };
    machine.calibrate(&[]);
    let other = [("STUB_UUID", "GPU-ffffffff-0000-0000-0000-000000000000")];
    let detected = machine.json(&["detect", "--json"], &other);
    assert_eq!(detected["gpus"][0]["link"]["bytes_per_second"], Value::Null);
}

#[test]
fn what_cannot_be_pinned_is_still_timed_without() {
    let Some(machine) = Stubbed::new(&[]) else { return };
    let measured = machine.calibrate(&[("STUB_CUDA", "no-pinned")]);
    let device = &measured["link"]["timed"][0];
    assert!(device["error"].as_str().unwrap().contains("cuMemAllocHost"), "{device}");
    assert_eq!(device["speed"]["pinned_in_bytes_per_second"], Value::Null);
    assert!(device["speed"]["pageable_in_bytes_per_second"].as_f64().unwrap() > 1e7);
    let small = machine.calibrate(&[("STUB_CUDA", "small")]);
    assert_eq!(small["link"]["timed"][0]["error"], Value::Null, "{small}");
}

#[test]
fn a_driver_that_hangs_or_crashes_costs_only_its_own_figures() {
    let Some(machine) = Stubbed::new(&[]) else { return };
    for (mode, told) in [
        ("hang", "no answer within"),
        ("hang-copy", "no answer within"),
        ("crash", "ended without"),
    ] {
        let env = [("STUB_CUDA", mode), ("OVERFLOWML_PROBE_SECONDS", "1")];
        let measured = machine.calibrate(&env);
        let failed = measured["link"]["failed"]["error"].as_str().unwrap();
        assert!(failed.contains(told), "{mode}: {failed}");
        assert!(measured["flops_per_second"].as_f64().unwrap() > 0.0);
    }
}

#[test]
fn a_library_that_refuses_or_lacks_calls_is_a_finding() {
    let Some(machine) = Stubbed::new(&[]) else { return };
    for code in ["100", "999"] {
        let measured = machine.calibrate(&[("STUB_CUDA_CODE", code)]);
        let error = measured["link"]["failed"]["error"].as_str().unwrap();
        assert!(error.contains(&format!("`cuInit` says {code}")), "{error}");
    }
    let Some(bare) = Stubbed::new(&["-DBARE"]) else { return };
    let measured = bare.calibrate(&[]);
    assert!(measured["link"]["failed"]["error"].as_str().unwrap().contains("has no `cu"));
    let nowhere = [("OVERFLOWML_CUDA", "/nonexistent/libcuda.so.1")];
    let measured = bare.calibrate(&nowhere);
    assert_eq!(measured["link"]["absent"]["looked_in"][0], "/nonexistent/libcuda.so.1");
}
