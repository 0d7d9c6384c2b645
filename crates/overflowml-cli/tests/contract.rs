//! What the command promises whatever the model: streams, exit codes, errors with a next step.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a failure stops the test

mod support;

use serde_json::{Value, json};
use support::{World, edit_config, stderr, stdout};

const COMMANDS: [&str; 10] =
    ["detect", "inspect", "plan", "run", "score", "synth", "demo", "bench", "doctor", "can-run"];

#[test]
fn every_command_explains_itself_on_stdout() {
    let world = World::new();
    for command in COMMANDS {
        let output = world.run(&[command, "--help"]);
        assert_eq!(output.status.code(), Some(0), "{command}");
        assert!(stdout(&output).contains("Usage: overflowml"), "{command}");
        assert!(output.stderr.is_empty(), "{command}");
    }
}

#[test]
fn the_general_help_has_examples_and_names_every_command() {
    let text = stdout(&World::new().run(&["--help"]));
    assert!(text.contains("Examples:"));
    for command in COMMANDS {
        assert!(text.contains(command), "{command}");
    }
}

#[test]
fn what_cannot_be_understood_exits_with_2_and_says_what_could_be() {
    let world = World::new();
    for args in [
        vec!["frobnicate"],
        vec!["run", "m"],
        vec!["run", "m", "--prompt", "a", "--chat"],
        vec!["run", "m", "--prompt", "a", "--memory", "lots"],
        vec!["run", "m", "--prompt", "a", "--max-new-tokens", "0"],
        vec!["score", "m", "--tokens", "1,x"],
        vec!["synth", "d", "--params", "-3"],
    ] {
        let output = world.run(&args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(output.stdout.is_empty(), "{args:?}");
        assert!(stderr(&output).contains("error:"), "{args:?}: {}", stderr(&output));
    }
}

#[test]
fn a_model_that_is_not_there_is_named() {
    let world = World::new();
    let output = world.run(&["inspect", "./no-such-model"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("no-such-model"), "{}", stderr(&output));
}

#[test]
fn an_unsupported_architecture_is_named_with_the_supported_ones() {
    let world = World::new();
    let model = world.model("llama", "300K");
    edit_config(&model, "architectures", json!(["BloomForCausalLM"]));
    edit_config(&model, "model_type", json!("bloom"));
    let output = world.run(&["run", &model, "--prompt", "a"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("Bloom"), "{}", stderr(&output));
    assert!(stderr(&output).contains("LlamaForCausalLM"), "{}", stderr(&output));
    let seen = world.json(&["inspect", &model, "--json"]);
    assert_eq!(seen["runnable"], json!(false));
    assert!(seen["parameters"].as_u64().unwrap() > 100_000);
}

#[test]
fn a_truncated_weight_file_is_refused_by_name_and_nothing_is_printed() {
    let world = World::new();
    let model = world.model("llama", "300K");
    let file = std::path::Path::new(&model).join("model.safetensors");
    let length = std::fs::metadata(&file).unwrap().len();
    std::fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(length - 7).unwrap();
    let output = world.run(&["run", &model, "--prompt", "a"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty());
    assert!(stderr(&output).contains("model.safetensors"), "{}", stderr(&output));
}

#[test]
fn a_budget_that_cannot_hold_is_a_no_that_names_one_that_can() {
    let world = World::new();
    let model = world.model("llama", "300K");
    let args = ["run", &model, "--prompt", "a", "--max-new-tokens", "2", "--json", "--memory"];
    let output = world.run(&[&args[..], &["1MiB"]].concat());
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(output.stdout.is_empty());
    let hint = stderr(&output);
    assert!(hint.contains("hint:"), "{hint}");
    let plan = world.run(&["plan", &model, "--memory", "1MiB", "--json"]);
    assert_eq!(plan.status.code(), Some(1));
    let answer: Value = serde_json::from_slice(&plan.stdout).unwrap();
    assert_eq!(answer["fits"], json!(false));
    assert!(answer["code"].as_str().unwrap().starts_with("plan."));
}

#[test]
fn a_reader_that_goes_away_is_not_an_error() {
    let world = World::new();
    let binary = assert_cmd::cargo::cargo_bin("overflowml");
    let script = format!("'{}' --help | true; exit ${{PIPESTATUS[0]}}", binary.display());
    let status = std::process::Command::new("bash")
        .args(["-c", &script])
        .current_dir(world.path("."))
        .status()
        .unwrap();
    assert!(matches!(status.code(), Some(0 | 2)), "{status}");
}

#[test]
fn detect_prints_one_json_document_whose_numbers_have_sources() {
    let machine = World::new().json(&["detect", "--json"]);
    assert!(machine["memory"]["available_bytes"]["value"].as_u64().unwrap() > 0);
    assert!(!machine["memory"]["available_bytes"]["source"].as_str().unwrap().is_empty());
    assert!(machine["cpu"]["usable"]["value"].as_u64().unwrap() >= 1);
}
