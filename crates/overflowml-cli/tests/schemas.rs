//! The published JSON schemas against what the command really prints.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a failure stops the test

mod support;

use std::path::Path;

use jsonschema::Validator;
use serde_json::{Value, json};
use support::{World, edit_config};

fn schema(name: &str) -> Value {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../schemas");
    let text = std::fs::read(folder.join(format!("{name}.schema.json"))).unwrap();
    let schema = serde_json::from_slice(&text).unwrap();
    jsonschema::meta::validate(&schema).unwrap();
    schema
}

fn validator(name: &str) -> Validator {
    jsonschema::options().build(&schema(name)).unwrap()
}

fn complaints(validator: &Validator, document: &Value) -> Vec<String> {
    let complaint =
        |error: jsonschema::ValidationError<'_>| format!("{}: {error}", error.instance_path());
    validator.iter_errors(document).map(complaint).collect()
}

fn assert_valid(name: &str, document: &Value) {
    let complaints = complaints(&validator(name), document);
    assert!(complaints.is_empty(), "{name}: {complaints:#?}");
}

/// Removing any field that a schema requires, or changing its type, must be noticed.
fn assert_guards(name: &str, document: &Value) {
    let validator = validator(name);
    for (pointer, field) in fields(document, "") {
        let mut changed = document.clone();
        let parent = changed.pointer_mut(&pointer).unwrap().as_object_mut().unwrap();
        parent.insert(field.clone(), json!([[["neither"]]]));
        let complaints = complaints(&validator, &changed);
        assert!(!complaints.is_empty(), "{name}: {pointer}/{field} may be anything");
    }
}

/// Every field of every object, except below a decoder, whose inside is not published.
fn fields(document: &Value, pointer: &str) -> Vec<(String, String)> {
    match document {
        Value::Object(object) => object
            .iter()
            .flat_map(|(name, value)| {
                let below = format!("{pointer}/{name}");
                let inside = if name == "decoder" { Vec::new() } else { fields(value, &below) };
                [(pointer.to_owned(), name.clone())].into_iter().chain(inside)
            })
            .collect(),
        Value::Array(values) => values
            .iter()
            .enumerate()
            .flat_map(|(place, value)| fields(value, &format!("{pointer}/{place}")))
            .collect(),
        _ => Vec::new(),
    }
}

#[test]
fn detect_prints_what_its_schema_says() {
    let world = World::new();
    for args in [vec!["detect", "--json"], vec!["detect", "--live", "--json"]] {
        let machine = world.json(&args);
        assert_valid("detect", &machine);
        assert_guards("detect", &machine);
    }
}

#[test]
fn inspect_prints_what_its_schema_says_of_models_it_can_and_cannot_run() {
    let world = World::new();
    let model = world.model("llama", "300K");
    let seen = world.json(&["inspect", &model, "--json"]);
    assert_valid("inspect", &seen);
    assert_guards("inspect", &seen);
    edit_config(&model, "architectures", json!(["BloomForCausalLM"]));
    edit_config(&model, "model_type", json!("bloom"));
    let seen = world.json(&["inspect", &model, "--json"]);
    assert_eq!(seen["runnable"], json!(false));
    assert_valid("inspect", &seen);
}

#[test]
fn doctor_prints_what_its_schema_says_whatever_it_finds() {
    let world = World::new();
    for args in [&["doctor", "--json"][..], &["doctor", "--model", "./no-such", "--json"]] {
        let output = world.run(args);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_valid("doctor", &report);
        assert_guards("doctor", &report);
        let mut lacking = report.clone();
        lacking.as_object_mut().unwrap().remove("fix_commands");
        assert!(!complaints(&validator("doctor"), &lacking).is_empty());
    }
}

/// This machine may have no accelerator: one with everything that a machine can have is told, too.
#[test]
fn a_machine_with_every_part_is_as_the_schema_says() {
    let known = |value: Value| json!({"value": value, "basis": "measured", "source": "test"});
    let document = json!({
        "os": "linux", "wsl": true,
        "cpu": {"model": known(json!("A CPU")), "architecture": "x86_64", "logical": known(json!(16)),
            "physical": known(json!(8)), "usable": known(json!(8)), "extensions": ["avx2", "amx_int8"]},
        "memory": {"total_bytes": known(json!(64)), "available_bytes": known(json!(32)),
            "lockable_bytes": known(json!(8)), "pinnable_bytes": known(json!(4)),
            "bytes_per_second": known(json!(2e10)),
            "nodes": [{"node": 0, "total_bytes": 64, "cpus": "0-7"}]},
        "container": {"memory_limits": [{"group": "/a", "limit_bytes": 4, "used_bytes": 2,
            "reclaimable_bytes": 1}], "cpu_quota": known(json!(1.5))},
        "disk": {"path": "/m", "device": "vda", "file_system": "ext4", "rotational": known(json!(false)),
            "free_bytes": known(json!(9)), "direct_io": known(json!(true)),
            "bytes_per_second": known(json!(2e9))},
        "gpus": [{"index": 0, "name": "A GPU", "vendor": "nvidia", "uuid": "GPU-1", "pci": "0000:01:00.0",
            "pool": "own", "total_bytes": known(json!(24)), "free_bytes": known(json!(20)),
            "reserved_bytes": known(json!(1)), "limit_bytes": known(json!(22)),
            "bytes_per_second": known(json!(1e12)), "flops_per_second": known(json!(1e14)),
            "link": {"generation": 4, "width": 16, "current_generation": 1, "current_width": 8,
                "bytes_per_second": known(json!(2.2e10))},
            "architecture": "sm_89", "compute_capability": [8, 9], "driver": "570.1", "runtime": "12.8",
            "partition": "1g.18gb", "processes": [{"pid": 7, "used_bytes": 5}]}],
        "libraries": [{"state": "present", "name": "a", "version": "1"},
            {"state": "absent", "name": "b", "looked_in": ["/lib"]},
            {"state": "failed", "name": "c", "error": "no"}],
    });
    let machine: overflowml::Machine = serde_json::from_value(document.clone()).unwrap();
    let printed = serde_json::to_value(machine).unwrap();
    assert_eq!(printed, document, "the schema's test lags behind the type");
    assert_valid("detect", &printed);
    assert_guards("detect", &printed);
}
