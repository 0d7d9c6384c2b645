//! What is recommended for every described machine and a range of models: one reviewed snapshot.

#![allow(clippy::unwrap_used)] // a failure stops the test

use std::fmt::Write;

use overflowml::device::{MoeSize, Wish, moe_of_size, of_size, plan_device};
use overflowml::{Bytes, Machine, ModelProfile, catalogue};

/// GPU, how many, main memory in GiB, system.
const MACHINES: [(&str, u32, u64, &str); 26] = [
    ("none", 1, 8, "linux"),
    ("none", 1, 24, "linux"),
    ("none", 1, 128, "linux"),
    ("RTX 3060", 1, 32, "linux"),
    ("RTX 3060", 1, 32, "windows"),
    ("RTX 4060 Laptop", 1, 16, "windows"),
    ("RTX 4070", 1, 32, "linux"),
    ("RTX 4090", 1, 32, "linux"),
    ("RTX 4090", 1, 64, "linux"),
    ("RTX 4090", 1, 64, "windows"),
    ("RTX 3090", 2, 64, "linux"),
    ("RTX 5090", 1, 194, "linux"),
    ("RTX 5090", 1, 194, "windows"),
    ("A100 80GB", 1, 256, "linux"),
    ("H200", 1, 512, "linux"),
    ("H200", 8, 1024, "linux"),
    ("RX 7900 XTX", 1, 64, "linux"),
    ("MI300X", 1, 512, "linux"),
    ("Arc B580", 1, 32, "linux"),
    ("GB10", 1, 128, "linux"),
    ("Jetson AGX Orin", 1, 64, "linux"),
    ("Ryzen AI Max+ 395", 1, 128, "linux"),
    ("M1", 1, 16, "macos"),
    ("M4 Max", 1, 128, "macos"),
    ("M2 Ultra", 1, 192, "macos"),
    ("M3 Ultra", 1, 512, "macos"),
];

fn machine((gpu, count, ram, os): (&str, u32, u64, &str)) -> Machine {
    let gpu = (gpu != "none").then(|| catalogue::find(gpu).unwrap());
    catalogue::Wanted { gpu, count, vram: None, ram: Bytes::gib(ram), os }.machine()
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
    for described in MACHINES {
        let (gpu, count, ram, os) = described;
        writeln!(text, "{count} x {gpu}, {ram} GiB, {os}").unwrap();
        let machine = machine(described);
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
    let machine = machine(("RTX 4090", 1, 64, "windows"));
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
    let machine = machine(("RTX 4090", 1, 64, "windows"));
    let plan = plan_device(of_size("40 GB", Bytes::gib(40)), machine, Wish::default());
    let by_rule = |rejected: &&overflowml::device::Rejected| {
        matches!(rejected.why, overflowml::device::WhyNot::Rule { .. })
    };
    assert_eq!(plan.decision.rejected.iter().find(by_rule), None);
}
