//! `doctor`: its findings, exit codes and bundle, with a Python environment of the test's own.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used)] // a failure stops the test

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Output;

use serde_json::Value;
use support::{World, stderr, stdout};

/// A world with an environment whose Python only says where its packages are.
fn world(packages: &[(&str, &str)]) -> World {
    let world = World::new();
    let (bin, site) = (world.path("venv/bin"), world.path("venv/site-packages"));
    std::fs::create_dir_all(&bin).unwrap();
    std::fs::create_dir_all(&site).unwrap();
    for (name, version) in packages {
        let info = site.join(format!("{name}-{version}.dist-info"));
        std::fs::create_dir(&info).unwrap();
        let text = format!("Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n");
        std::fs::write(info.join("METADATA"), text).unwrap();
    }
    let torch = site.join("torch");
    std::fs::create_dir(&torch).unwrap();
    std::fs::write(torch.join("version.py"), "cuda: Optional[str] = '11.8'\nhip = None\n").unwrap();
    let script = format!("#!/bin/sh\necho version 3.12.4\necho packages '{}'\n", site.display());
    python(&world, &script);
    world
}

fn python(world: &World, script: &str) {
    let file = world.path("venv/bin/python3");
    std::fs::write(&file, script).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
}

fn doctor(world: &World, args: &[&str]) -> Output {
    let mut command = world.overflowml();
    command.env("VIRTUAL_ENV", world.path("venv")).env("HF_TOKEN", "hf_thisisaverysecrettoken");
    command.arg("doctor").args(args).output().unwrap()
}

fn codes(report: &Value) -> Vec<&str> {
    report["issues"].as_array().unwrap().iter().map(|i| i["code"].as_str().unwrap()).collect()
}

const PACKAGES: [(&str, &str); 3] =
    [("torch", "2.6.0+cu118"), ("diffusers", "0.35.1"), ("flash_attn", "2.7.4.post1")];

#[test]
fn the_report_has_the_fields_of_the_original_and_its_exit_code_is_its_answer() {
    let world = world(&PACKAGES);
    let output = doctor(&world, &["--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let ok = report["ok"].as_bool().unwrap();
    assert_eq!(output.status.code(), Some(i32::from(!ok)), "{report:#}");
    assert_eq!(report["environment"]["python"], "3.12.4");
    assert_eq!(report["environment"]["torch"], "2.6.0+cu118");
    assert_eq!(report["environment"]["torch_cuda"], "11.8");
    assert!(report["environment"]["torch_hip"].is_null());
    assert!(report["hardware"]["ram_gb"].as_f64().unwrap() > 0.0);
    let codes = codes(&report);
    for code in [
        "python_ok",
        "torch_cuda",
        "dep_diffusers_ok",
        "dep_transformers_missing",
        "cache_writable",
        "calibration_missing",
        "rule_group_offload_record_stream",
    ] {
        assert!(codes.contains(&code), "{code} in {codes:?}");
    }
    for issue in report["issues"].as_array().unwrap() {
        let fix = &issue["suggested_fix"];
        let listed = report["fix_commands"].as_array().unwrap().contains(fix);
        assert_eq!(listed, issue["severity"] != "info" && !fix.is_null(), "{issue}");
    }
}

#[test]
fn the_text_answers_first_and_gives_a_fix_below_what_is_not_well() {
    let output = doctor(&world(&PACKAGES), &[]);
    let text = stdout(&output);
    let first = text.lines().next().unwrap();
    assert!(first.starts_with("ok: ") || first.starts_with("not ok: "), "{text}");
    assert!(text.contains("PASS  python_ok: Python 3.12.4"), "{text}");
    assert!(
        text.contains("WARN  dep_transformers_missing: ")
            && text.contains("\n      fix: pip install transformers\n"),
        "{text}"
    );
    assert!(output.stderr.is_empty(), "{}", stderr(&output));
}

#[test]
fn a_model_that_is_not_there_fails_and_one_that_fits_does_not() {
    let world = world(&PACKAGES);
    let output = doctor(&world, &["--model", "./no-such-model", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(codes(&report).contains(&"model_unknown"));
    let model = world.model("llama", "300K");
    let output = doctor(&world, &["--model", &model, "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(codes(&report).contains(&"model_fits"), "{report:#}");
    assert!(!world.path("cache/overflowml/calibration.json").exists(), "doctor measures nothing");
}

#[test]
fn a_python_that_hangs_up_or_lies_is_a_warning() {
    let world = world(&PACKAGES);
    for script in ["#!/bin/sh\nexit 3\n", "#!/bin/sh\necho version two\n"] {
        python(&world, script);
        let output = doctor(&world, &["--json"]);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(codes(&report).contains(&"python_failed"), "{report:#}");
        assert!(report["environment"]["python"].is_null());
    }
}

#[test]
fn a_bundle_has_no_names_and_is_not_replaced_unasked() {
    let world = world(&PACKAGES);
    let home = PathBuf::from("/home/carol-the-user");
    let run = |args: &[&str]| {
        let mut command = world.overflowml();
        command.env("VIRTUAL_ENV", world.path("venv")).env("HF_TOKEN", "hf_thisisaverysecrettoken");
        command.env("HOME", &home).env("USER", "carol-the-user").env("HOSTNAME", "carols-box");
        command.env("LD_LIBRARY_PATH", "/home/carol-the-user/lib:/opt/carols-box");
        command.arg("doctor").args(args).output().unwrap()
    };
    let output = run(&["--bundle", "--json"]);
    assert!(stderr(&output).contains("wrote overflowml-doctor.json"), "{}", stderr(&output));
    let file = world.path("overflowml-doctor.json");
    let text = std::fs::read_to_string(&file).unwrap();
    let bundle: Value = serde_json::from_str(&text).unwrap();
    assert!(!text.contains("carol") && !text.contains("secret"), "{text}");
    assert_eq!(bundle["variables"]["LD_LIBRARY_PATH"], "~/lib:/opt/<host>");
    assert_eq!(bundle["report"]["environment"]["torch"], "2.6.0+cu118");
    assert!(bundle["machine"]["memory"]["total_bytes"]["value"].as_u64().unwrap() > 0);

    let refused = run(&["--bundle"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(refused.stdout.is_empty());
    assert!(stderr(&refused).contains("hint:") && stderr(&refused).contains("--overwrite"));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
    let replaced = run(&["--bundle", "--overwrite"]);
    assert_ne!(replaced.status.code(), Some(2), "{}", stderr(&replaced));
    let plain = run(&["--bundle", "report.txt"]);
    assert_ne!(plain.status.code(), Some(2), "{}", stderr(&plain));
    let text = std::fs::read_to_string(world.path("report.txt")).unwrap();
    assert!(text.contains("report.environment.python: 3.12.4\n"), "{text}");
    assert_eq!(run(&["--overwrite"]).status.code(), Some(2));
}
