//! Whatever bytes a file holds: a value or an error, never a panic, and what is written is read back.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a failure stops the test

use overflowml_formats::fixture::{self, GgufFile, MemoryDir};
use overflowml_formats::safetensors::parse_header;
use overflowml_formats::{
    GgmlType, GgufValue, HeaderBuilder, limits, open_model_in, parse_config,
    parse_generation_config, parse_gguf, parse_index, profile_in,
};
use overflowml_types::{Bytes, CacheElement, DType};
use proptest::prelude::*;
use proptest::sample::Index;

fn any_dtype() -> impl Strategy<Value = DType> {
    prop_oneof![
        Just(DType::F32),
        Just(DType::BF16),
        Just(DType::F16),
        Just(DType::U8),
        Just(DType::I64)
    ]
}

prop_compose! {
    fn any_tensors()(
        tensors in prop::collection::btree_map("[a-z.0-9\"\\\\é]{1,12}", (any_dtype(), prop::collection::vec(0_u64..9, 0..4)), 0..12)
    ) -> Vec<(String, DType, Vec<u64>)> {
        tensors.into_iter().map(|(name, (dtype, shape))| (name, dtype, shape)).collect()
    }
}

/// Some bytes replaced, and perhaps the end cut off.
#[derive(Clone, Debug)]
struct Damage {
    changes: Vec<(Index, u8)>,
    keep: Option<Index>,
}

prop_compose! {
    fn any_damage()(
        changes in prop::collection::vec((any::<Index>(), any::<u8>()), 0..4),
        keep in prop::option::of(any::<Index>()),
    ) -> Damage {
        Damage { changes, keep }
    }
}

impl Damage {
    fn of(&self, mut bytes: Vec<u8>) -> Vec<u8> {
        for (place, value) in &self.changes {
            let place = place.index(bytes.len());
            bytes[place] = *value;
        }
        if let Some(keep) = &self.keep {
            bytes.truncate(keep.index(bytes.len()));
        }
        bytes
    }
}

proptest! {
    #[test]
    fn headers_are_read_as_they_were_written(tensors in any_tensors()) {
        let mut builder = HeaderBuilder::new();
        for (name, dtype, shape) in &tensors {
            builder.tensor(name, *dtype, shape).unwrap();
        }
        let data = builder.data_len();
        let bytes = builder.build().unwrap();
        let len = Bytes::of_len(bytes.len()).saturating_add(data);
        let header = parse_header(&bytes, len).unwrap();
        prop_assert_eq!(header.tensors.len(), tensors.len());
        for (name, dtype, shape) in &tensors {
            let found = header.tensors.iter().find(|tensor| tensor.name == *name).unwrap();
            prop_assert_eq!((&found.dtype, &found.shape), (dtype, shape));
            prop_assert!(found.offset.saturating_add(found.len) <= len);
        }
    }

    #[test]
    fn damaged_headers_never_panic_and_never_point_outside_the_file(
        tensors in any_tensors(),
        damage in any_damage(),
        len in 0_u64..4000,
    ) {
        let mut builder = HeaderBuilder::new();
        for (name, dtype, shape) in &tensors {
            builder.tensor(name, *dtype, shape).unwrap();
        }
        let bytes = damage.of(builder.build().unwrap());
        if let Ok(header) = parse_header(&bytes, Bytes::new(len)) {
            for tensor in header.tensors {
                prop_assert!(tensor.offset.saturating_add(tensor.len) <= Bytes::new(len));
            }
        }
    }

    #[test]
    fn any_bytes_are_an_error_or_a_value(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse_header(&bytes, Bytes::of_len(bytes.len()));
        let _ = parse_index(&bytes);
        let _ = parse_generation_config(&bytes);
        let _ = parse_config(&bytes).map(|config| config.decoder());
    }

    #[test]
    fn damaged_configurations_and_folders_never_panic(damage in any_damage(), which in 0_usize..3) {
        let config = br#"{"architectures":["LlamaForCausalLM"],"model_type":"llama","hidden_size":64,
            "intermediate_size":96,"num_hidden_layers":2,"num_attention_heads":4,"vocab_size":100,
            "rope_scaling":{"rope_type":"yarn","factor":4.0,"original_max_position_embeddings":64},
            "max_position_embeddings":256,"rms_norm_eps":1e-5,"sliding_window":null}"#;
        let index = br#"{"metadata":{"total_size":64},"weight_map":{"w":"model-00001.safetensors"}}"#;
        let shard = fixture::safetensors().tensor("w", DType::F32, &[4, 4]).build().bytes;
        let mut files = [config.to_vec(), index.to_vec(), shard];
        files[which] = damage.of(std::mem::take(&mut files[which]));
        let [config, index, shard] = files;
        let dir = MemoryDir::default()
            .with("config.json", config)
            .with("model.safetensors.index.json", index)
            .with("model-00001.safetensors", shard);
        if let Ok(model) = open_model_in(&dir, None) {
            // It is no Llama: one tensor is not what the configuration calls for.
            prop_assert!(model.bind().is_err());
        }
    }

    #[test]
    fn damaged_gguf_files_never_panic_and_never_point_outside_the_file(
        tensors in prop::collection::btree_map("[a-z.0-9]{1,12}", prop::collection::vec(0_u64..9, 0..4), 0..8),
        damage in any_damage(),
    ) {
        let mut file = GgufFile::new();
        file.value("general.architecture", GgufValue::Text("gemma3".to_owned()));
        file.value("gemma3.block_count", GgufValue::U64(2));
        file.value("gemma3.embedding_length", GgufValue::U64(64));
        file.value("gemma3.attention.head_count_kv", GgufValue::List(vec![GgufValue::U64(2); 2]));
        for (name, shape) in &tensors {
            file.tensor(name, GgmlType::F16, shape);
        }
        let whole = file.build();
        let intact = parse_gguf(&whole, Bytes::of_len(whole.len())).unwrap();
        prop_assert_eq!(intact.tensors.len(), tensors.len());
        let bytes = damage.of(whole);
        let len = Bytes::of_len(bytes.len());
        if let Ok(header) = parse_gguf(&bytes, len) {
            for tensor in header.tensors {
                prop_assert!(tensor.offset.saturating_add(tensor.len) <= len);
            }
        }
        let dir = MemoryDir::default().with("model.gguf", bytes);
        if let Ok(profile) = profile_in(&dir, None) {
            prop_assert!(profile.size() <= len);
        }
    }

    /// Any number for any field of any class: a size or a refusal, never a panic or an endless list.
    #[test]
    fn absurd_configurations_have_sizes_or_are_refused(
        class in prop::sample::select(CLASSES),
        fields in prop::collection::btree_map(prop::sample::select(FIELDS), any_value(), 0..12),
    ) {
        let mut config = serde_json::json!({ "architectures": [class], "_class_name": class });
        for (name, value) in fields {
            config[name] = value;
        }
        let dir = MemoryDir::default().with("config.json", config.to_string());
        if let Ok(profile) = profile_in(&dir, None) {
            let part = &profile.components[0];
            prop_assert!(part.groups.len() <= limits::PIECES);
            prop_assert!(part.active_parameters() <= part.parameters());
            let _ = part.cache(u64::MAX, CacheElement::Q4_0);
        }
    }
}

const CLASSES: &[&str] = &[
    "LlamaForCausalLM",
    "Gemma3ForConditionalGeneration",
    "MixtralForCausalLM",
    "Qwen2MoeForCausalLM",
    "Qwen3MoeForCausalLM",
    "GptOssForCausalLM",
    "DeepseekV3ForCausalLM",
    "Qwen3NextForCausalLM",
    "Qwen3_5MoeForConditionalGeneration",
    "Llama4ForConditionalGeneration",
    "Qwen2_5_VLForConditionalGeneration",
    "T5EncoderModel",
    "CLIPTextModel",
    "SiglipVisionModel",
    "FluxTransformer2DModel",
    "SD3Transformer2DModel",
    "WanTransformer3DModel",
    "UNet2DConditionModel",
    "ControlNetModel",
    "AutoencoderKL",
    "AutoencoderKLWan",
];

const FIELDS: &[&str] = &[
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "num_experts",
    "num_local_experts",
    "num_experts_per_tok",
    "decoder_sparse_step",
    "layer_types",
    "sliding_window",
    "text_config",
    "vision_config",
    "quantization_config",
    "patch_size",
    "image_size",
    "block_out_channels",
    "layers_per_block",
    "transformer_layers_per_block",
    "cross_attention_dim",
    "down_block_types",
    "up_block_types",
    "dim_mult",
    "temperal_downsample",
    "num_res_blocks",
    "base_dim",
    "torch_dtype",
];

fn any_value() -> impl Strategy<Value = serde_json::Value> {
    use serde_json::{Value, json};
    prop_oneof![
        Just(Value::Null),
        (0_u64..9).prop_map(|number| json!(number)),
        Just(json!(4096)),
        Just(json!(u32::MAX >> 1)),
        Just(json!(u64::MAX)),
        Just(json!(-1)),
        Just(json!(1.5)),
        Just(json!("gated")),
        Just(json!({ "hidden_size": 0, "depth": 4096, "quant_method": "gptq", "group_size": 0 })),
        prop::collection::vec(0_u64..5000, 0..20).prop_map(|list| json!(list)),
        prop::collection::vec(
            prop::sample::select(&["DownBlock2D", "full_attention", "x"][..]),
            0..5
        )
        .prop_map(|list| json!(list)),
    ]
}
