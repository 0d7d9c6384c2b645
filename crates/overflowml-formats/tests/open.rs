//! What opening a model promises: the manifest, the weights of a pass, the files beside them.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a failure stops the test

use overflowml_formats::{fixture, open_model, unused_tensors};
use overflowml_types::{Access, Bytes, DType, GroupKind, WeightRole};

#[test]
fn a_single_file_and_a_sharded_folder_hold_the_same_model() {
    let folder = tempfile::tempdir().unwrap();
    let config = fixture::config("LlamaForCausalLM");
    let (one, five) = (folder.path().join("one"), folder.path().join("five"));
    fixture::write_model(&one, &config, DType::BF16, 7, 1).unwrap();
    fixture::write_model(&five, &config, DType::BF16, 7, 5).unwrap();
    let (one, five) = (open_model(&one).unwrap(), open_model(&five).unwrap());
    assert_eq!(one.manifest.files.len(), 1);
    assert_eq!(five.manifest.files.len(), 5);
    assert_eq!(one.manifest.size(), five.manifest.size());
    let names = |model: &overflowml_formats::Model| -> Vec<String> {
        model.bind().unwrap().into_iter().map(|weight| weight.tensor.name).collect()
    };
    assert_eq!(names(&one), names(&five));
}

#[test]
fn every_supported_architecture_binds_its_own_weights_and_leaves_none() {
    let folder = tempfile::tempdir().unwrap();
    for architecture in overflowml_formats::supported_architectures() {
        let path = folder.path().join(architecture);
        fixture::write_model(&path, &fixture::config(architecture), DType::F32, 1, 1).unwrap();
        let model = open_model(&path).unwrap();
        assert_eq!(model.architecture.as_deref(), Some(architecture));
        let weights = model.bind().unwrap();
        assert_eq!(weights[0].role, WeightRole::Embedding);
        assert_eq!(weights[0].access, Access::Lookup);
        assert_eq!(weights.last().unwrap().role, WeightRole::Head);
        assert_eq!(unused_tensors(&weights, &model.manifest), Vec::<&_>::new(), "{architecture}");
    }
}

#[test]
fn a_weights_file_named_directly_is_read_with_the_config_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let config = fixture::config("Qwen3ForCausalLM");
    fixture::write_model(folder.path(), &config, DType::F16, 3, 1).unwrap();
    let model = open_model(&folder.path().join("model.safetensors")).unwrap();
    assert_eq!(model.decoder.as_ref().unwrap().architecture, "Qwen3ForCausalLM");
    assert_eq!(model.generation.eos, [2]);
    assert_eq!(model.generation.bos, Some(1));
    model.bind().unwrap();
}

#[test]
fn groups_come_as_embedding_layers_head() {
    let folder = tempfile::tempdir().unwrap();
    let config = fixture::config("LlamaForCausalLM");
    fixture::write_model(folder.path(), &config, DType::BF16, 7, 2).unwrap();
    let model = open_model(folder.path()).unwrap();
    let kinds: Vec<_> = model.manifest.groups().map(|group| group.kind).collect();
    let layers = (0..4).map(GroupKind::Layer);
    let expected: Vec<_> = std::iter::once(GroupKind::Embedding)
        .chain(layers)
        .chain([GroupKind::Head, GroupKind::Head])
        .collect();
    assert_eq!(kinds, expected);
    assert_eq!(model.manifest.groups().next().unwrap().size(), Bytes::new(97 * 64 * 2));
}
