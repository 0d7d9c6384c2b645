//! `plan` and `can-run` for machines that are only described, and on this one.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a failure stops the test

mod support;

use serde_json::Value;
use support::{World, stderr, stdout};

const DESKTOP: [&str; 6] = ["--gpu", "RTX 4090", "--ram", "64GiB", "--os", "linux"];

fn on_desktop<'a>(first: &[&'a str]) -> Vec<&'a str> {
    first.iter().copied().chain(DESKTOP).collect()
}

#[test]
fn a_no_exits_with_1_with_and_without_json() {
    let world = World::new();
    for args in [&["can-run", "99999"][..], &["can-run", "99999", "--json"]] {
        let output = world.run(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(!output.stdout.is_empty());
    }
    let document: Value =
        serde_json::from_slice(&world.run(&["can-run", "99999", "--json"]).stdout).unwrap();
    assert_eq!(document["ok"], false);
    assert!(document["reason"].as_str().unwrap().contains("main memory"));
    let none = world.run(&on_desktop(&["can-run", "40", "--max-offload", "none", "--no-quantize"]));
    assert_eq!(none.status.code(), Some(0), "main memory holds it: {}", stdout(&none));
    assert_eq!(world.run(&on_desktop(&["can-run", "7"])).status.code(), Some(0));
}

#[test]
fn a_machine_without_a_gpu_is_not_said_to_use_one() {
    let world = World::new();
    let plan = world.json(&["plan", "40", "--gpu", "none", "--ram", "24GiB", "--json"]);
    assert_eq!(plan["fits"], true);
    let best = &plan["recommended"];
    assert_eq!(best["on_device"], false);
    assert_eq!(best["memory"]["device_bytes"]["expected"], 0);
    assert!(best["memory"]["host_bytes"]["expected"].as_u64().unwrap() <= 24 << 30);
}

#[test]
fn no_estimate_exceeds_the_card() {
    let world = World::new();
    for size in ["24", "35", "70"] {
        let plan = world.json(&on_desktop(&["plan", size, "--json"]));
        for one in plan["strategies"].as_array().unwrap() {
            let needed = one["memory"]["device_bytes"]["expected"].as_u64().unwrap();
            assert!(needed <= 24 << 30, "{size}: {one}");
        }
    }
}

#[test]
fn flags_reach_the_planner() {
    let world = World::new();
    let quantisation = |extra: &[&str]| {
        let args: Vec<_> = ["plan", "--moe", "14", "13", "8", "2", "--json"]
            .iter()
            .chain(extra)
            .copied()
            .collect();
        let plan = world.json(&on_desktop(&args));
        plan["recommended"]["quantization"].as_str().unwrap().to_owned()
    };
    assert_ne!(quantisation(&[]), "none", "28 GB do not fit 24");
    assert_eq!(quantisation(&["--no-quantize"]), "none");
    assert_eq!(quantisation(&["--precision", "exact"]), "none");
    let small = |extra: &[&str]| {
        let args: Vec<_> =
            ["plan", "--moe", "3", "2", "8", "2", "--json"].iter().chain(extra).copied().collect();
        let plan = world.json(&on_desktop(&args));
        plan["recommended"]["quantization"].as_str().unwrap().to_owned()
    };
    assert_eq!((small(&[]).as_str(), small(&["--fast"]).as_str()), ("none", "int4"));
    let fits = |vram: &str| {
        let plan = world.json(&on_desktop(&["plan", "7", "--json", "--vram", vram]));
        plan["recommended"]["offload"].as_str().unwrap().to_owned()
    };
    assert_eq!(fits("20GiB"), "none");
    assert_ne!(fits("4GiB"), "none");
}

#[test]
fn every_plan_says_why_and_names_a_trap() {
    let world = World::new();
    let text = stdout(&world.run(&on_desktop(&["plan", "40"])));
    assert!(text.starts_with("fits: yes, layer_hybrid"), "{text}");
    for part in
        ["why    not direct", "trap ", "speed  about", "estimated", "note   only a size is known"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    let compared = stdout(&world.run(&on_desktop(&["plan", "40", "--compare"])));
    assert!(compared.contains("not offered:") && compared.contains("quality risk"));
}

#[test]
fn a_saved_machine_gives_the_plan_that_it_gave() {
    let world = World::new();
    let here = stdout(&world.run(&["detect", "--json"]));
    let file = world.path("machine.json");
    std::fs::write(&file, &here).unwrap();
    let file = file.to_str().unwrap();
    let plan = world.json(&["plan", "3", "--hardware", file, "--json"]);
    let known: Value = serde_json::from_str(&here).unwrap();
    assert_eq!(plan["machine"]["memory"]["total_bytes"], known["memory"]["total_bytes"]);
    std::fs::write(file, "{}").unwrap();
    let wrong = world.run(&["plan", "3", "--hardware", file]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(stderr(&wrong).contains("detect --json"));
}

#[test]
fn what_cannot_be_planned_is_refused_with_the_reason() {
    let world = World::new();
    for (args, reason) in [
        (&["plan", "0"][..], "not a model's size"),
        (&["plan", "-3"], "error:"),
        (&["plan", "40", "--gpu", "RTX 9999"], "closest"),
        (&["plan", "--moe", "3", "30", "8", "2"], "contradict"),
        (&["plan", "--moe", "3", "NaN", "8", "2"], "not a number of"),
        (&["plan", "40", "--size", "1024"], "not a size"),
        (&["plan", "40", "--hardware", "nowhere.json"], "nowhere.json"),
        (&["plan", "40", "--os", "beos"], "beos"),
        (&["plan", "40", "--for", "llama.cpp"], "diffusers"),
    ] {
        let output = world.run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(stderr(&output).contains(reason), "{args:?}: {}", stderr(&output));
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn other_programs_get_their_flags() {
    let world = World::new();
    let text = |args: &[&str]| stdout(&world.run(&on_desktop(args)));
    let moe = ["plan", "--moe", "47", "13", "8", "2", "--for"];
    let with = |tool: &'static str| -> Vec<&str> { moe.iter().copied().chain([tool]).collect() };
    assert!(text(&with("llama.cpp")).contains("--n-cpu-moe"));
    assert!(text(&with("vllm")).contains("--max-model-len"));
    assert!(text(&with("accelerate")).contains("device_map"));
    assert!(text(&["plan", "7", "--for", "diffusers"]).contains(".to(\"cuda\")"));
    assert!(text(&["plan", "40", "--for", "diffusers"]).contains("enable_group_offload"));
}

#[test]
fn a_drawing_is_written_whole() {
    let world = World::new();
    let file = world.path("plan.svg");
    let args = on_desktop(&["plan", "40", "--svg", file.to_str().unwrap()]);
    assert!(world.run(&args).status.success());
    let drawing = std::fs::read_to_string(&file).unwrap();
    assert!(drawing.starts_with("<svg") && drawing.trim_end().ends_with("</svg>"));
    assert!(drawing.contains("transformer") && drawing.contains("GPU"));
    let nowhere = world.path("no/such/folder.svg");
    let args = on_desktop(&["plan", "40", "--svg", nowhere.to_str().unwrap()]);
    assert_eq!(world.run(&args).status.code(), Some(2));
}

#[test]
fn well_known_models_are_listed_for_a_machine() {
    let world = World::new();
    let table = world.json(&on_desktop(&["plan", "--popular", "--json"]));
    let models = table["models"].as_array().unwrap();
    assert!(models.len() >= 15);
    assert!(models.iter().all(|model| model["size_bytes"].as_u64().unwrap() > 0));
    assert!(models.iter().any(|model| model["strategy"] == "direct"));
}

#[test]
fn a_configuration_alone_can_be_planned() {
    let world = World::new();
    let model = world.model("llama", "1M");
    std::fs::remove_file(format!("{model}/model.safetensors")).unwrap();
    let plan = world.json(&on_desktop(&["plan", &model, "--json"]));
    assert_eq!(plan["model"]["source"], "config");
    assert!(plan["model"]["parameters"].as_u64().unwrap() > 500_000);
}
