//! A program that cannot be started again to ask a driver: a thread asks, and is given up.

#![cfg(unix)]

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use overflowml_hardware::{ProbeOptions, probe};
use overflowml_types::Library;

#[test]
fn a_driver_that_hangs_does_not_keep_a_program_that_embeds_us() {
    let folder = tempfile::tempdir().unwrap();
    let library = folder.path().join("libnvidia-ml.so.1");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/nvml_stub.c");
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-DHANG", "-o"]).arg(&library).arg(source);
    let Ok(status) = compiler.status() else {
        println!("skipped: no C compiler");
        return;
    };
    assert!(status.success());
    let options = ProbeOptions {
        nvml: Some(library),
        patience: Some(Duration::from_millis(300)),
        ..ProbeOptions::default()
    };
    let started = Instant::now();
    let machine = probe(&options);
    // The library sleeps for a minute.
    assert!(started.elapsed() < Duration::from_secs(10));
    let late = |library: &Library| matches!(library, Library::Failed { error, .. } if error == "no answer within 0.3 seconds");
    assert!(machine.libraries.iter().any(late), "{:?}", machine.libraries);
}
