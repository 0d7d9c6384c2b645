//! Many prompts together: each as if alone, in order, whatever is killed or damaged on the way.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a failure stops the test

mod support;

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{World, stderr, stdout};

const PROMPTS: [&str; 7] =
    ["the quick brown fox", "a", "one two three four five", "zzz", "the", "in the beginning", "so"];

/// The results, line by line.
fn results(path: &std::path::Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn write_prompts(world: &World) -> String {
    let row = |(index, prompt)| json!({"prompt": prompt, "id": format!("row-{index}")}).to_string();
    let lines: Vec<String> = PROMPTS.iter().enumerate().map(row).collect();
    let path = world.path("prompts.jsonl");
    fs::write(&path, lines.join("\n")).unwrap();
    path.to_str().unwrap().to_owned()
}

fn batch<'a>(model: &'a str, prompts: &'a str, out: &'a str, batch: &'a str) -> Vec<&'a str> {
    let fixed = ["--max-new-tokens", "5", "--temperature", "0.7", "--seed", "3", "--ignore-eos"];
    let start = ["run", model, "--prompts", prompts, "--out", out, "--batch", batch, "--json"];
    start.into_iter().chain(fixed).collect()
}

#[test]
fn every_row_is_as_if_alone_for_any_batch_and_budget() {
    let world = World::new();
    let model = world.model("gemma3", "8M");
    let prompts = write_prompts(&world);
    let alone: Vec<Value> = PROMPTS
        .iter()
        .map(|prompt| {
            world.json(&[
                "run",
                &model,
                "--prompt",
                prompt,
                "--max-new-tokens",
                "5",
                "--temperature",
                "0.7",
                "--seed",
                "3",
                "--ignore-eos",
                "--json",
            ])
        })
        .collect();
    for (name, memory) in [("1", "4GiB"), ("3", "4GiB"), ("7", "30MiB"), ("auto", "30MiB")] {
        let out = format!("out-{name}.jsonl");
        let args = [&batch(&model, &prompts, &out, name)[..], &["--memory", memory]].concat();
        let summary = world.json(&args);
        assert_eq!(summary["rows"], json!(PROMPTS.len()));
        assert_eq!(summary["failed"], json!(0));
        let peak = summary["memory"]["peak_rss_bytes"].as_u64().unwrap();
        assert!(peak <= summary["memory"]["budget_bytes"].as_u64().unwrap(), "{name}: {peak}");
        let rows = results(&world.path(&out));
        assert_eq!(rows.len(), PROMPTS.len());
        for (index, (row, alone)) in rows.iter().zip(&alone).enumerate() {
            assert_eq!(row["index"], json!(index));
            assert_eq!(row["id"], json!(format!("row-{index}")));
            for field in ["tokens", "text", "prompt_tokens", "stopped_by"] {
                assert_eq!(row[field], alone[field], "{name}: {field} of row {index}");
            }
        }
    }
}

#[test]
fn rows_together_share_what_is_read() {
    let world = World::new();
    let model = world.model("llama", "60M");
    let prompts = write_prompts(&world);
    let streamed = |out: &str, size: &str| {
        let args = [&batch(&model, &prompts, out, size)[..], &["--memory", "64MiB"]].concat();
        let summary = world.json(&args);
        let io = &summary["io"];
        let (passes, per_pass) = (
            io["passes"].as_u64().unwrap(),
            summary["plan"]["prediction"]["streamed_per_pass_bytes"].as_u64().unwrap(),
        );
        assert!(per_pass > 0);
        // Each pass reads what streams once, to within the alignment of direct reads; none is begun beyond the last.
        let ratio = io["streamed_bytes"].as_f64().unwrap() / (passes * per_pass) as f64;
        assert!((1.0..1.01).contains(&ratio), "{ratio}");
        passes
    };
    // Alone, each row takes a pass for its prompt and one for each token but the last.
    assert_eq!(streamed("one.jsonl", "1"), 5 * PROMPTS.len() as u64);
    assert_eq!(streamed("all.jsonl", "7"), 5);
}

#[test]
fn a_bad_row_is_told_and_the_others_are_done() {
    let world = World::new();
    let model = world.model("llama", "2M");
    let text = "{\"prompt\":\"the\"}\nnot json\n{\"prompt\":\"\",\"id\":5}\n{\"prompt\":\"a\",\"max_new_tokens\":2}\n{\"prompt\":\"a b c d e f g h i j k\"}\n{\"prompt\":\"a\",\"temperature\":-1}\n";
    fs::write(world.path("prompts.jsonl"), text).unwrap();
    let args = batch(&model, "prompts.jsonl", "out.jsonl", "2");
    let output = world.run(&[&args[..], &["--context", "6"]].concat());
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows = results(&world.path("out.jsonl"));
    assert_eq!(rows.len(), 6);
    let codes: Vec<Option<&str>> = rows.iter().map(|row| row["error"]["code"].as_str()).collect();
    assert_eq!(codes[0], None);
    assert_eq!(codes[1], Some("batch.row"));
    assert_eq!(codes[3], None);
    assert_eq!(rows[3]["tokens"].as_array().unwrap().len(), 2);
    assert_eq!(codes[5], Some("exec.sampling"));
    assert_eq!(summary["failed"], json!(codes.iter().flatten().count()));
}

#[test]
fn a_killed_run_is_continued_without_losing_or_repeating_rows() {
    let world = World::new();
    let model = world.model("llama", "60M");
    let lines: String = (0..40).map(|i| format!("{{\"prompt\":\"row {i}\"}}\n")).collect();
    fs::write(world.path("prompts.jsonl"), lines).unwrap();
    let whole = batch(&model, "prompts.jsonl", "whole.jsonl", "4");
    world.json(&whole);
    let args = batch(&model, "prompts.jsonl", "out.jsonl", "4");
    let partial = world.path("out.jsonl.partial");
    let kept = || fs::read_to_string(&partial).unwrap_or_default().lines().count();
    let mut child = Command::new(assert_cmd::cargo::cargo_bin("overflowml"));
    let mut child =
        child.args(&args).current_dir(world.path("")).stdout(Stdio::null()).spawn().unwrap();
    let waiting = Instant::now();
    while kept() < 6 && waiting.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let before = kept();
    assert!((6..41).contains(&before), "{before} lines");
    assert!(!world.path("out.jsonl").exists());
    // Other settings do not take these results for theirs.
    let other = world.run(&[&args[..], &["--top-k", "5"]].concat());
    assert_eq!(other.status.code(), Some(2));
    assert!(stderr(&other).contains("other settings"), "{}", stderr(&other));
    let summary = world.json(&args);
    assert!(summary["resumed"].as_u64().unwrap() + 1 >= before as u64);
    assert_eq!(summary["tokens"], json!(5 * (40 - summary["resumed"].as_u64().unwrap())));
    assert_eq!(
        fs::read(world.path("out.jsonl")).unwrap(),
        fs::read(world.path("whole.jsonl")).unwrap()
    );
    assert!(!partial.exists());
    // What is done is neither done again nor replaced by accident.
    let again = world.run(&args);
    assert_eq!(again.status.code(), Some(2));
    assert!(stderr(&again).contains("--overwrite"), "{}", stderr(&again));
    world.json(&[&args[..], &["--overwrite"]].concat());
}

#[test]
fn wrong_uses_are_refused() {
    let world = World::new();
    let model = world.model("llama", "2M");
    fs::write(world.path("none.jsonl"), "\n\n").unwrap();
    for (args, told) in [
        (vec!["--prompts", "none.jsonl"], "--out"),
        (vec!["--prompts", "missing.jsonl", "--out", "o"], "missing.jsonl"),
        (vec!["--prompts", "none.jsonl", "--out", "no/folder/o"], "no/folder/o"),
        (vec!["--prompts", "none.jsonl", "--out", "o", "--batch", "0"], "--batch"),
        (vec!["--prompts", "none.jsonl", "--out", "o", "--chat"], "--chat"),
    ] {
        let output = world.run(&[&["run", model.as_str()][..], &args].concat());
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(stderr(&output).contains(told), "{args:?}: {}", stderr(&output));
    }
    let nothing = world.run(&["run", &model, "--prompts", "none.jsonl", "--out", "o"]);
    assert!(nothing.status.success(), "{}", stderr(&nothing));
    assert_eq!(stdout(&nothing), "0 rows -> o\n");
    assert_eq!(fs::read(world.path("o")).unwrap(), b"");
}
