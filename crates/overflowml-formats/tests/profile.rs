//! What a profile promises: the same sizes from headers and from the configuration alone, groups
//! in order of use, caches, and sizes even for what is not known.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a failure stops the test

use overflowml_formats::fixture::{self, MemoryDir};
use overflowml_formats::{open_model, open_profile, profile_in};
use overflowml_types::{
    Bytes, CacheElement, DType, GroupKind, KvLayout, LayerCache, ProfileSource, Role, Shape, Task,
};
use serde_json::json;

#[test]
fn a_configuration_alone_tells_the_same_groups_as_the_headers() {
    let folder = tempfile::tempdir().unwrap();
    for architecture in overflowml_formats::supported_architectures() {
        // The vision tower of this one is not in the fixture.
        if architecture == "Gemma3ForConditionalGeneration" {
            continue;
        }
        let mut config = fixture::config(architecture);
        config["dtype"] = json!("bfloat16");
        let path = folder.path().join(architecture);
        fixture::write_model(&path, &config, DType::BF16, 1, 2).unwrap();
        let whole = open_profile(&path).unwrap();
        let alone = MemoryDir::default().with("config.json", config.to_string());
        let alone = profile_in(&alone, None).unwrap();
        assert_eq!(whole.source, ProfileSource::Headers);
        assert_eq!(alone.source, ProfileSource::Config);
        assert_eq!(whole.components, alone.components, "{architecture}");
        assert_eq!(whole.size(), open_model(&path).unwrap().manifest.size());
        assert!(whole.notes.is_empty(), "{:?}", whole.notes);
    }
}

#[test]
fn the_caches_of_a_profile_are_those_of_the_executor() {
    for architecture in ["LlamaForCausalLM", "Gemma2ForCausalLM", "SmolLM3ForCausalLM"] {
        let config = fixture::config(architecture);
        let dir = MemoryDir::default().with("config.json", config.to_string());
        let profile = profile_in(&dir, None).unwrap();
        let part = &profile.components[0];
        // A window of 8 and a multiple of the executor's lanes: the chunk fills the lanes up.
        let layout = KvLayout::new(&fixture::spec(&config), DType::F16, 64, 8);
        let cells: usize = layout.cells.iter().sum();
        let width = 2 * layout.width;
        let windows = part.caches.iter().filter(|layer| matches!(layer, LayerCache::Window { .. }));
        let spare = windows.count() * 8 * width * 2;
        let executor = cells * width * 2 - spare;
        assert_eq!(part.cache(64, CacheElement::F16), Bytes::of_len(executor), "{architecture}");
    }
}

#[test]
fn a_model_of_an_unknown_class_still_has_sizes() {
    let file = fixture::safetensors()
        .tensor("encoder.layer.0.w", DType::F32, &[4, 4])
        .tensor("encoder.layer.1.w", DType::F16, &[4, 4])
        .tensor("pooler.bias", DType::F32, &[4])
        .build();
    let config = json!({ "architectures": ["NovelModel"] });
    let dir = MemoryDir::default().with("model.safetensors", file.bytes);
    let bare = profile_in(&dir, None).unwrap();
    let dir = dir.with("config.json", config.to_string());
    let profile = profile_in(&dir, None).unwrap();
    let part = &profile.components[0];
    assert_eq!(part.shape, Shape::Unknown);
    assert_eq!((part.role, profile.task), (Role::Other, Task::Unknown));
    assert_eq!(part.class.as_deref(), Some("NovelModel"));
    assert_eq!(part.size(), Bytes::new(64 + 32 + 16));
    assert_eq!(part.dtypes["f32"], Bytes::new(80));
    assert_eq!(part.groups.len(), 3);
    assert!(part.groups.iter().any(|group| group.kind == GroupKind::Layer(1)));
    assert!(profile.notes[0].contains("NovelModel"), "{:?}", profile.notes);
    assert_eq!(bare.components[0].groups, part.groups);
    assert!(bare.notes[0].contains("no config.json"), "{:?}", bare.notes);
}

#[test]
fn an_unknown_class_without_weights_is_refused_by_name() {
    let config = json!({ "architectures": ["NovelModel"] });
    let dir = MemoryDir::default().with("config.json", config.to_string());
    let error = profile_in(&dir, None).unwrap_err();
    assert_eq!(error.code(), "formats.unknown-class");
    assert!(error.to_string().contains("NovelModel"), "{error}");
    assert_eq!(profile_in(&MemoryDir::default(), None).unwrap_err().code(), "formats.no-weights");
}

#[test]
fn numbered_experts_are_summed_up_per_layer() {
    let mut file = fixture::safetensors();
    for layer in 0..2 {
        file = file.tensor(&format!("model.layers.{layer}.mlp.gate.weight"), DType::BF16, &[4, 8]);
        for expert in 0..4 {
            let name = format!("model.layers.{layer}.mlp.experts.{expert}.up_proj.weight");
            file = file.tensor(&name, DType::BF16, &[16, 8]);
        }
    }
    let dir = MemoryDir::default().with("model.safetensors", file.build().bytes);
    let profile = profile_in(&dir, None).unwrap();
    let group = &profile.components[0].groups[1];
    let experts = group.experts.unwrap();
    assert_eq!((group.name.as_str(), experts.count, experts.active), ("model.layers.1", 4, 4));
    assert_eq!(experts.parameters, 4 * 16 * 8);
    assert_eq!(group.dense_size(), Bytes::new(4 * 8 * 2));
    assert!(profile.notes.iter().any(|note| note.contains("how many experts")));
}
