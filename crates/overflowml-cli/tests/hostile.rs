//! Drivers that hang, crash, lack calls or refuse them: `detect` answers with what it knows.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

/// The library hangs for a minute: an answer in less is one that did not wait for it.
const FAR_BELOW_A_MINUTE: Duration = Duration::from_secs(10);

/// Compiles the library of `fixtures/nvml_stub.c`; `None`, with the reason printed, where there is no C compiler.
fn stub(folder: &Path, flags: &[&str]) -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/nvml_stub.c");
    let library = folder.join("libnvidia-ml.so.1");
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

fn detect(library: &Path, env: &[(&str, &str)]) -> Value {
    let started = Instant::now();
    let output = Command::new(assert_cmd::cargo::cargo_bin("overflowml"))
        .args(["detect", "--json", "--live"])
        .env("OVERFLOWML_NVML", library)
        .env_remove("CUDA_VISIBLE_DEVICES")
        .envs(env.iter().copied())
        .output()
        .unwrap();
    assert!(started.elapsed() < FAR_BELOW_A_MINUTE, "{:?}", started.elapsed());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let machine: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(machine["memory"]["total_bytes"]["value"].as_u64().unwrap() > 0);
    machine
}

fn nvidia(machine: &Value) -> Vec<&Value> {
    let gpus = machine["gpus"].as_array().unwrap().iter();
    gpus.filter(|gpu| gpu["vendor"] == "nvidia").collect()
}

fn failure(machine: &Value) -> String {
    let libraries = machine["libraries"].as_array().unwrap().iter();
    let failed = libraries.filter(|library| library["state"] == "failed");
    failed.map(|library| library["error"].as_str().unwrap()).collect()
}

#[test]
fn a_driver_that_answers_is_heard() {
    let folder = tempfile::tempdir().unwrap();
    let Some(library) = stub(folder.path(), &[]) else { return };
    let machine = detect(&library, &[]);
    let gpu = nvidia(&machine)[0];
    assert_eq!(gpu["name"], "NVIDIA Stub 24GB");
    assert_eq!(gpu["total_bytes"]["value"], 24u64 << 30);
    assert_eq!(gpu["free_bytes"]["value"], 20u64 << 30);
    assert_eq!(gpu["reserved_bytes"]["value"], 1u64 << 29);
    assert_eq!(gpu["architecture"], "sm_89");
    assert_eq!(gpu["supports"]["fp8"]["compute"], true);
    // The stub has no call for the link: unknown, not zero.
    assert_eq!(gpu["link"], Value::Null);
    let machine = detect(&library, &[("CUDA_VISIBLE_DEVICES", "")]);
    assert!(nvidia(&machine).is_empty());
}

#[test]
fn a_driver_that_hangs_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let Some(library) = stub(folder.path(), &[]) else { return };
    for mode in ["hang", "hang-memory"] {
        let machine = detect(&library, &[("STUB_MODE", mode)]);
        assert_eq!(failure(&machine), "no answer within 1.5 seconds");
    }
}

#[test]
fn a_user_can_have_more_or_less_patience() {
    let folder = tempfile::tempdir().unwrap();
    let Some(library) = stub(folder.path(), &[]) else { return };
    let machine = detect(&library, &[("STUB_MODE", "hang"), ("OVERFLOWML_PROBE_SECONDS", "0.3")]);
    assert_eq!(failure(&machine), "no answer within 0.3 seconds");
}

#[test]
fn a_driver_that_crashes_takes_only_the_process_that_asked_it() {
    let folder = tempfile::tempdir().unwrap();
    let Some(library) = stub(folder.path(), &[]) else { return };
    let machine = detect(&library, &[("STUB_MODE", "crash")]);
    assert!(failure(&machine).contains("ended without an answer"), "{machine}");
}

#[test]
fn a_library_without_calls_is_no_driver() {
    let folder = tempfile::tempdir().unwrap();
    let Some(library) = stub(folder.path(), &["-DBARE"]) else { return };
    let machine = detect(&library, &[]);
    assert!(nvidia(&machine).is_empty());
    assert!(failure(&machine).contains("FUNCTION_NOT_FOUND"), "{machine}");
}

#[test]
fn every_refusal_is_survived_at_the_first_call_and_at_later_ones() {
    let folder = tempfile::tempdir().unwrap();
    let Some(library) = stub(folder.path(), &[]) else { return };
    for code in (1..=30).chain([999]) {
        let code = code.to_string();
        let machine = detect(&library, &[("STUB_INIT_CODE", &code)]);
        assert!(!failure(&machine).is_empty(), "code {code}: {machine}");
        let machine = detect(&library, &[("STUB_CODE", &code)]);
        let gpu = nvidia(&machine)[0];
        assert_eq!(gpu["name"], "NVIDIA GPU", "code {code}");
        // Only "not supported" means that there is no memory of its own.
        let shared = code == "3";
        assert_eq!(gpu["pool"] == "shared", shared, "code {code}");
        assert_eq!(gpu["free_bytes"].is_null(), !shared, "code {code}");
    }
}

#[test]
fn what_is_no_library_is_a_finding() {
    let folder = tempfile::tempdir().unwrap();
    let machine = detect(&folder.path().join("missing.so"), &[]);
    let absent = machine["libraries"].as_array().unwrap().iter();
    assert!(absent.into_iter().any(|library| library["state"] == "absent"));
    let text = folder.path().join("text.so");
    std::fs::write(&text, "not a library").unwrap();
    assert!(!failure(&detect(&text, &[])).is_empty());
}

#[test]
fn the_text_answers_first_and_says_where_numbers_come_from() {
    let folder = tempfile::tempdir().unwrap();
    let Some(library) = stub(folder.path(), &[]) else { return };
    let output = Command::new(assert_cmd::cargo::cargo_bin("overflowml"))
        .args(["detect", "--live"])
        .env("OVERFLOWML_NVML", &library)
        .env_remove("CUDA_VISIBLE_DEVICES")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let first = text.lines().next().unwrap();
    assert!(first.starts_with("free now: ") && first.contains("20.00 GiB of 24.00 GiB"), "{text}");
    assert!(text.contains("20.00 GiB free   reported: NVML: free memory"), "{text}");
    assert!(text.contains("none that the driver names"), "{text}");
}
