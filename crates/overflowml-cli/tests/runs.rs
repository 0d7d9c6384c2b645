//! Real runs of models that `synth` made: the same tokens for any budget, promises kept.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a failure stops the test

mod support;

use serde_json::{Value, json};
use support::{World, stderr};

fn tokens(report: &Value) -> Vec<u64> {
    report["tokens"].as_array().unwrap().iter().map(|token| token.as_u64().unwrap()).collect()
}

#[test]
fn a_model_larger_than_its_budget_gives_the_same_tokens_and_keeps_the_budget() {
    let world = World::new();
    let model = world.model("llama", "60M"); // 120 MB
    let args = [
        "run",
        &model,
        "--prompt",
        "the quick brown fox",
        "--max-new-tokens",
        "6",
        "--temperature",
        "0",
        "--ignore-eos",
        "--json",
    ];
    let unlimited = world.json(&args);
    assert_eq!(unlimited["plan"]["strategy"], json!("none"));
    assert_eq!(unlimited["io"]["streamed_bytes"], json!(0));
    for memory in ["96MiB", "64MiB"] {
        let limited = world.json(&[&args[..], &["--memory", memory]].concat());
        assert_eq!(limited["plan"]["strategy"], json!("disk"), "{memory}");
        assert_eq!(tokens(&limited), tokens(&unlimited), "{memory}");
        assert_eq!(limited["text"], unlimited["text"], "{memory}");
        let peak = limited["memory"]["peak_rss_bytes"].as_u64().unwrap();
        assert!(peak <= limited["memory"]["budget_bytes"].as_u64().unwrap(), "{memory}: {peak}");
        let streamed = limited["io"]["streamed_per_pass_bytes"].as_f64().unwrap();
        let least = limited["plan"]["prediction"]["streamed_per_pass_bytes"].as_f64().unwrap();
        assert!(streamed <= 1.02 * least, "{memory}: {streamed} of {least}");
    }
}

#[test]
fn every_family_runs_and_scores_alike_with_and_without_a_budget() {
    let world = World::new();
    for arch in [
        "llama", "mistral", "qwen2", "qwen3", "phi3", "gemma2", "gemma3", "smollm3", "olmo2",
        "granite",
    ] {
        let model = world.model(arch, "2M");
        let args = ["score", &model, "--tokens", "5,9,200,31,7,7,90", "--json"];
        let free = world.json(&args);
        let limited = world.json(&[&args[..], &["--memory", "24MiB"]].concat());
        assert_eq!(free["logprobs"], limited["logprobs"], "{arch}");
        assert_eq!(free["logprobs"].as_array().unwrap().len(), 6, "{arch}");
        let perplexity = free["perplexity"].as_f64().unwrap();
        assert!(perplexity.is_finite() && perplexity > 1.0, "{arch}: {perplexity}");
    }
}

#[test]
fn the_same_seed_gives_the_same_text_and_another_seed_another() {
    let world = World::new();
    let model = world.model("qwen3", "2M");
    let run = |seed: &str| {
        let report = world.json(&[
            "run",
            &model,
            "--prompt",
            "a b c",
            "--max-new-tokens",
            "16",
            "--temperature",
            "1.2",
            "--ignore-eos",
            "--json",
            "--seed",
            seed,
        ]);
        tokens(&report)
    };
    assert_eq!(run("1"), run("1"));
    assert_ne!(run("1"), run("2"));
}

#[test]
fn a_token_outside_the_vocabulary_is_refused() {
    let world = World::new();
    let model = world.model("llama", "300K");
    let output = world.run(&["score", &model, "--tokens", "1,4000000000"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("4000000000"), "{}", stderr(&output));
}

#[test]
fn text_from_a_file_is_continued_like_text_from_the_command_line() {
    let world = World::new();
    let model = world.model("llama", "2M");
    std::fs::write(world.path("prompt.txt"), "hello there").unwrap();
    let common = ["--max-new-tokens", "8", "--temperature", "0", "--ignore-eos", "--json"];
    let typed = world.json(&[&["run", &model, "--prompt", "hello there"][..], &common].concat());
    let read = world.json(&[&["run", &model, "--prompt-file", "prompt.txt"][..], &common].concat());
    assert_eq!(tokens(&typed), tokens(&read));
}

#[test]
fn a_chat_answers_each_line_and_ends_on_request() {
    let world = World::new();
    let model = world.model("llama", "2M");
    let output = world
        .overflowml()
        .args(["run", &model, "--chat", "--max-new-tokens", "4", "--temperature", "0"])
        .write_stdin("hello\nand again\n/exit\n")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(!output.stdout.is_empty());
}

#[test]
fn the_demo_says_yes_three_times() {
    let world = World::new();
    let report =
        world.json(&["demo", "--size", "160MB", "--memory", "96MiB", "--tokens", "4", "--json"]);
    assert_eq!(
        report["checks"],
        json!({ "same_tokens": true, "within_budget": true, "reads_least": true })
    );
    let cleaned = world.run(&["demo", "--clean"]);
    assert!(cleaned.status.success());
    assert!(!world.path("cache/overflowml/demo").exists());
}
