//! What is recommended for every fixture machine and a range of models: reviewed snapshots, one of stand-ins by size
//! and one of published models.

#![allow(clippy::unwrap_used)] // a failure stops the test

#[path = "../../overflowml-formats/tests/configurations/mod.rs"]
mod configurations;

use std::fmt::Write;
use std::path::Path;

use overflowml::device::{MoeSize, Wish, moe_of_size, of_size, plan_device};
use overflowml::{Bytes, Machine, ModelProfile, catalogue};
use overflowml_formats::fixture::MemoryDir;
use overflowml_formats::profile_in;
use serde_json::{Value, json};

/// Every fixture machine, as `overflowml-hardware` reads it: its own reviewed snapshots.
fn machines() -> Vec<(String, Machine)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../overflowml-hardware/src/snapshots");
    let mut machines: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            // A snapshot begins with a few lines about its test, between two lines of dashes.
            let json = text.splitn(3, "---\n").nth(2).unwrap();
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            (name, serde_json::from_str(json).unwrap())
        })
        .collect();
    machines.sort_by(|a: &(String, Machine), b| a.0.cmp(&b.0));
    machines
}

fn described(gpu: &str, ram: u64, os: &str) -> Machine {
    catalogue::find(gpu).unwrap().machine(Bytes::gib(ram), os)
}

/// Pipelines by size, language models by their parameters.
fn models() -> Vec<ModelProfile> {
    let sizes = [1, 2, 4, 7, 12, 16, 24, 32, 40, 58, 70, 100, 140, 250];
    let mut models: Vec<_> =
        sizes.iter().map(|&gb| of_size(&format!("{gb} GB"), Bytes::gib(gb))).collect();
    let mixtures = [
        ("8x7B", 46.7, 12.9, 8, 2),
        ("30B-A3B", 30.5, 3.3, 128, 8),
        ("120B-A5B", 116.8, 5.1, 128, 4),
        ("235B-A22B", 235.0, 22.0, 128, 8),
        ("671B-A37B", 671.0, 37.0, 256, 8),
        ("1000B-A32B", 1000.0, 32.0, 384, 8),
    ];
    let billions = |count: f64| (count * 1e9) as u64;
    models.extend(mixtures.map(|(name, total, active, experts, chosen)| {
        let size = MoeSize { total: billions(total), active: billions(active), experts, chosen };
        moe_of_size(name, size).unwrap()
    }));
    for (name, parameters) in
        [("1B", 1.2), ("8B", 8.0), ("14B", 14.8), ("32B", 32.8), ("70B", 70.6), ("405B", 405.0)]
    {
        let size = MoeSize {
            total: billions(parameters),
            active: billions(parameters) - 1,
            experts: 2,
            chosen: 1,
        };
        let mut model = moe_of_size(name, size).unwrap();
        model.components[0].groups.iter_mut().for_each(|group| group.experts = None);
        models.push(model);
    }
    models
}

/// Published models, from their configurations alone.
fn published() -> Vec<ModelProfile> {
    let decoders = [
        "Llama-3.2-1B",
        "Llama-3-8B",
        "Gemma-3-1B",
        "Gemma-2-9B",
        "Phi-4",
        "Qwen3-32B",
        "Llama-3-70B",
    ];
    let mixtures = [
        "OLMoE-1B-7B",
        "DeepSeek-V2-Lite",
        "gpt-oss-20b",
        "Qwen3-30B-A3B",
        "Mixtral-8x7B",
        "gpt-oss-120b",
        "Mixtral-8x22B",
        "Qwen3-235B-A22B",
        "DeepSeek-V3",
    ];
    let all = [configurations::small_decoders(), configurations::mixtures()].concat();
    let find = |name: &&str| {
        let (name, _, config) = all.iter().find(|(known, ..)| known == name).unwrap();
        let dir = MemoryDir::default().with("config.json", config.to_string());
        named(name, profile_in(&dir, None).unwrap())
    };
    let hybrid =
        MemoryDir::default().with("config.json", configurations::qwen3_6_27b().to_string());
    let mut models: Vec<_> = decoders.iter().map(find).collect();
    models.push(named("Qwen3.6-27B", profile_in(&hybrid, None).unwrap()));
    models.extend(mixtures.iter().map(find));
    let encoders = configurations::parts_of_pipelines().into_iter();
    models.extend(encoders.filter(|(name, ..)| name.contains("T5") || name.contains("bigG")).map(
        |(name, _, config)| {
            let dir = MemoryDir::default().with("config.json", config.to_string());
            named(name, profile_in(&dir, None).unwrap())
        },
    ));
    models.extend(configurations::pipelines().iter().map(pipeline));
    models
}

fn named(name: &str, mut profile: ModelProfile) -> ModelProfile {
    name.clone_into(&mut profile.name);
    profile
}

/// A pipeline's folder: an index, and a configuration for each component. Published in 16 bits.
fn pipeline(
    (name, class, parts): &(&'static str, &'static str, Vec<configurations::Component>),
) -> ModelProfile {
    let mut index = json!({ "_class_name": class });
    let mut dir = MemoryDir::default();
    for (part, class, config) in parts {
        index[part] = json!(["diffusers", class]);
        let mut config: Value = config.clone();
        config["torch_dtype"] = json!("bfloat16");
        dir = dir.with(&format!("{part}/config.json"), config.to_string());
    }
    let profile = profile_in(&dir.with("model_index.json", index.to_string()), None).unwrap();
    assert_eq!(profile.components.len(), parts.len(), "{name}: {:?}", profile.notes);
    named(name, profile)
}

/// One line: how, how fast and limited by what, memory by tier.
fn line(model: ModelProfile, machine: &Machine) -> String {
    let name = model.name.clone();
    let wish = Wish::usual(model.task);
    let plan = plan_device(model, machine.clone(), wish);
    let answer = plan.decision.recommended().map_or_else(
        || "does not fit".to_owned(),
        |best| {
            format!(
                "{}, {}/{} by {}, {} on GPU, {} in RAM, {} on disk",
                best.name(),
                best.speed.seconds.expected,
                best.speed.unit.name(),
                best.speed.limited_by,
                best.memory.device.expected,
                best.memory.host.expected,
                best.memory.disk
            )
        },
    );
    format!("  {name}: {answer}\n")
}

fn lines(models: &[ModelProfile]) -> String {
    let machines = machines();
    assert!(machines.len() >= 25 && models.len() >= 25);
    let mut text = String::new();
    for (name, machine) in machines {
        writeln!(text, "{name}").unwrap();
        text.extend(models.iter().map(|model| line(model.clone(), &machine)));
    }
    text
}

#[test]
fn recommendations_are_as_reviewed() {
    insta::assert_snapshot!(lines(&models()));
}

#[test]
fn recommendations_for_published_models_are_as_reviewed() {
    insta::assert_snapshot!(lines(&published()));
}

#[test]
fn the_original_s_traps_are_told_where_they_wait() {
    let machine = described("RTX 4090", 64, "windows");
    let plan = plan_device(of_size("40 GB", Bytes::gib(40)), machine, Wish::default());
    let told: Vec<_> = plan.warnings.iter().map(|warning| warning.rule.as_str()).collect();
    for rule in ["original-fp8-offload-windows", "original-attention-slicing-sequential"] {
        assert!(told.contains(&rule), "{rule}: {told:?}");
    }
    let sources = plan.warnings.iter().flat_map(|warning| &warning.sources);
    assert!(sources.clone().any(|source| source.contains("OverflowML 0.2.1")));
}

#[test]
fn our_own_engine_is_not_held_back_by_what_torch_classes_cannot_do() {
    let machine = described("RTX 4090", 64, "windows");
    let plan = plan_device(of_size("40 GB", Bytes::gib(40)), machine, Wish::default());
    let by_rule = |rejected: &&overflowml::device::Rejected| {
        matches!(rejected.why, overflowml::device::WhyNot::Rule { .. })
    };
    assert_eq!(plan.decision.rejected.iter().find(by_rule), None);
}
