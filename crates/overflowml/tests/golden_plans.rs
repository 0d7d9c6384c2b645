//! What is recommended for every fixture machine and a range of models: one reviewed snapshot.

#![allow(clippy::unwrap_used)] // a failure stops the test

use std::fmt::Write;
use std::path::Path;

use overflowml::device::{MoeSize, Wish, moe_of_size, of_size, plan_device};
use overflowml::{Bytes, Machine, ModelProfile, catalogue};

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

#[test]
fn recommendations_are_as_reviewed() {
    let mut text = String::new();
    let machines = machines();
    assert!(machines.len() >= 25 && models().len() >= 25);
    for (name, machine) in machines {
        writeln!(text, "{name}").unwrap();
        for model in models() {
            let name = model.name.clone();
            let plan = plan_device(model, machine.clone(), Wish::default());
            let answer = plan.decision.recommended().map_or_else(
                || "does not fit".to_owned(),
                |best| {
                    format!(
                        "{}, {}/{}, {} on GPU, {} in RAM, {} on disk",
                        best.name(),
                        best.speed.seconds.expected,
                        best.speed.unit.name(),
                        best.memory.device.expected,
                        best.memory.host.expected,
                        best.memory.disk
                    )
                },
            );
            writeln!(text, "  {name}: {answer}").unwrap();
        }
    }
    insta::assert_snapshot!(text);
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
