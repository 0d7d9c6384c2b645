//! Broken and hostile model files: each is refused with its own code and a message that names
//! the file and the tensor, without a panic and without allocating what the file claims.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a failure stops the test

use overflowml_formats::fixture::{self, MemoryDir};
use overflowml_formats::{FormatError, limits, open_model_in};
use overflowml_types::{Bytes, DType};

/// Asserts how `dir` is refused: the code, and what the message must name.
#[track_caller]
fn assert_refused(dir: &MemoryDir, code: &str, named: &[&str]) {
    let error = open_model_in(dir, None).expect_err("the model should be refused");
    assert_error(&error, code, named);
}

#[track_caller]
fn assert_error(error: &FormatError, code: &str, named: &[&str]) {
    let message = error.to_string();
    assert_eq!(error.code(), code, "{message}");
    for name in named {
        assert!(message.contains(name), "`{message}` does not name `{name}`");
    }
}

/// A folder whose `model.safetensors` has this header text, followed by `data` bytes.
fn with_header(json: impl AsRef<[u8]>, data: usize) -> MemoryDir {
    with_file(fixture::safetensors().json(json, data).build().bytes)
}

fn with_file(bytes: impl AsRef<[u8]>) -> MemoryDir {
    MemoryDir::default().with("model.safetensors", bytes)
}

const FILE: &str = "model.safetensors";

mod header {
    use super::*;

    #[test]
    fn an_empty_file_is_truncated() {
        assert_refused(&with_file([]), "formats.header-truncated", &[FILE]);
    }

    #[test]
    fn a_file_that_ends_inside_the_length_is_truncated() {
        assert_refused(&with_file([1, 0, 0]), "formats.header-truncated", &[FILE, "3 B"]);
    }

    #[test]
    fn a_header_that_claims_more_than_the_file_is_refused_before_it_is_read() {
        let bytes = u64::MAX.to_le_bytes();
        assert_refused(&with_file(bytes), "formats.header-outside-file", &[FILE]);
    }

    #[test]
    fn a_header_above_the_limit_is_refused_even_if_the_file_were_long_enough() {
        let claimed = limits::HEADER.get() + 1;
        let prefix = claimed.to_le_bytes();
        let refused = overflowml_formats::safetensors::data_start(&prefix, Bytes::gib(8));
        assert_eq!(refused.unwrap_err().code(), "formats.header-too-large");
    }

    #[test]
    fn a_header_cut_short_is_outside_the_file() {
        let mut bytes = fixture::safetensors().tensor("w", DType::F32, &[4]).build().bytes;
        bytes.truncate(20);
        assert_refused(&with_file(bytes), "formats.header-outside-file", &[FILE]);
    }

    #[test]
    fn a_header_that_is_not_utf8_is_refused_with_the_bad_byte() {
        assert_refused(&with_header(b"{\"\xff\":1}", 0), "formats.header-not-utf8", &[FILE, "10"]);
    }

    #[test]
    fn a_git_lfs_pointer_is_recognised_as_no_safetensors_file() {
        let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
        let error = open_model_in(&with_file(pointer), None).unwrap_err();
        assert_error(&error, "formats.header-outside-file", &[FILE]);
    }

    #[test]
    fn a_header_that_is_not_json_is_refused() {
        assert_refused(&with_header("tensors", 0), "formats.header-not-json", &[FILE]);
    }

    #[test]
    fn a_header_that_is_a_list_is_refused() {
        assert_refused(&with_header("[1, 2]", 0), "formats.header-not-json", &[FILE]);
    }

    #[test]
    fn text_behind_the_header_is_refused() {
        assert_refused(&with_header("{} {}", 0), "formats.header-not-json", &[FILE]);
    }

    #[test]
    fn json_nested_without_end_is_refused() {
        let json = format!("{{\"w\":{{\"x\":{}", "[".repeat(100_000));
        assert_refused(&with_header(json, 0), "formats.bad-tensor-entry", &[FILE, "`w`"]);
    }

    #[test]
    fn metadata_that_is_not_text_is_refused() {
        let json = r#"{"__metadata__":{"format":1}}"#;
        assert_refused(&with_header(json, 0), "formats.bad-metadata", &[FILE, "__metadata__"]);
    }

    #[test]
    fn a_name_without_end_is_refused() {
        let json = format!(r#"{{"{}":1}}"#, "n".repeat(limits::NAME + 1));
        assert_refused(&with_header(json, 0), "formats.name-too-long", &[FILE, "nnn"]);
    }
}

mod entry {
    use super::*;

    fn entry(json: &str) -> MemoryDir {
        with_header(format!(r#"{{"w":{json}}}"#), 16)
    }

    #[test]
    fn a_tensor_without_offsets_is_refused_by_name() {
        let json = r#"{"dtype":"F32","shape":[4]}"#;
        let named = [FILE, "`w`", "data_offsets"];
        assert_refused(&entry(json), "formats.bad-tensor-entry", &named);
    }

    #[test]
    fn a_tensor_without_shape_is_refused_by_name() {
        let json = r#"{"dtype":"F32","data_offsets":[0,16]}"#;
        assert_refused(&entry(json), "formats.bad-tensor-entry", &[FILE, "`w`", "shape"]);
    }

    #[test]
    fn a_tensor_that_is_a_number_is_refused_by_name() {
        assert_refused(&entry("7"), "formats.bad-tensor-entry", &[FILE, "`w`"]);
    }

    #[test]
    fn a_negative_dimension_is_refused_by_name() {
        let json = r#"{"dtype":"F32","shape":[-4],"data_offsets":[0,16]}"#;
        assert_refused(&entry(json), "formats.bad-tensor-entry", &[FILE, "`w`", "-4"]);
    }

    #[test]
    fn a_fractional_offset_is_refused_by_name() {
        let json = r#"{"dtype":"F32","shape":[4],"data_offsets":[0,16.5]}"#;
        assert_refused(&entry(json), "formats.bad-tensor-entry", &[FILE, "`w`", "16.5"]);
    }

    #[test]
    fn three_offsets_are_refused_by_name() {
        let json = r#"{"dtype":"F32","shape":[4],"data_offsets":[0,8,16]}"#;
        assert_refused(&entry(json), "formats.bad-tensor-entry", &[FILE, "`w`"]);
    }

    #[test]
    fn an_unknown_element_type_is_named_with_the_known_ones_as_a_hint() {
        let json = r#"{"dtype":"Q4_K","shape":[4],"data_offsets":[0,16]}"#;
        let error = open_model_in(&entry(json), None).unwrap_err();
        assert_error(&error, "formats.unknown-dtype", &[FILE, "`w`", "Q4_K"]);
        assert!(error.hint().unwrap().contains("BF16"));
    }

    #[test]
    fn a_tensor_of_too_many_dimensions_is_refused_without_keeping_them() {
        let shape = vec!["1"; 1_000_000].join(",");
        let json = format!(r#"{{"dtype":"F32","shape":[{shape}],"data_offsets":[0,4]}}"#);
        assert_refused(&entry(&json), "formats.too-many-dimensions", &[FILE, "`w`"]);
    }

    #[test]
    fn a_shape_whose_product_overflows_is_refused() {
        let json = r#"{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}"#;
        assert_refused(&entry(json), "formats.shape-overflow", &[FILE, "`w`", "4294967296"]);
    }

    #[test]
    fn a_shape_whose_bytes_overflow_is_refused() {
        let json = r#"{"dtype":"F64","shape":[4611686018427387904],"data_offsets":[0,0]}"#;
        assert_refused(&entry(json), "formats.shape-overflow", &[FILE, "`w`"]);
    }

    #[test]
    fn offsets_at_the_end_of_the_number_range_are_refused() {
        let json = r#"{"dtype":"U8","shape":[0],"data_offsets":[18446744073709551615,18446744073709551615]}"#;
        assert_refused(&entry(json), "formats.shape-overflow", &[FILE, "`w`"]);
    }

    #[test]
    fn a_span_longer_than_type_and_shape_demand_is_refused_with_both_sizes() {
        let json = r#"{"dtype":"BF16","shape":[4],"data_offsets":[0,16]}"#;
        assert_refused(&entry(json), "formats.size-mismatch", &[FILE, "`w`", "8", "16"]);
    }

    #[test]
    fn a_scalar_takes_one_element() {
        let json = r#"{"dtype":"F32","shape":[],"data_offsets":[0,16]}"#;
        assert_refused(&entry(json), "formats.size-mismatch", &[FILE, "`w`", "4", "16"]);
    }

    #[test]
    fn offsets_that_run_backwards_are_refused() {
        let json = r#"{"dtype":"F32","shape":[4],"data_offsets":[16,0]}"#;
        assert_refused(&entry(json), "formats.offsets-reversed", &[FILE, "`w`"]);
    }
}

mod tiling {
    use super::*;

    fn two(first: [u64; 2], second: [u64; 2], data: usize) -> MemoryDir {
        let entry = |[start, end]: [u64; 2]| {
            let len = end - start;
            format!(r#"{{"dtype":"U8","shape":[{len}],"data_offsets":[{start},{end}]}}"#)
        };
        with_header(format!(r#"{{"a":{},"b":{}}}"#, entry(first), entry(second)), data)
    }

    #[test]
    fn the_same_name_twice_is_refused() {
        let one = r#""a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}"#;
        let dir = with_header(format!("{{{one},{one}}}"), 4);
        assert_refused(&dir, "formats.duplicate-tensor", &[FILE, "`a`"]);
    }

    #[test]
    fn tensors_that_share_bytes_are_refused_with_both_names() {
        assert_refused(&two([0, 8], [4, 12], 12), "formats.data-overlap", &[FILE, "`a`", "`b`"]);
    }

    #[test]
    fn tensors_on_the_same_bytes_are_refused() {
        assert_refused(&two([0, 8], [0, 8], 8), "formats.data-overlap", &[FILE, "`a`", "`b`"]);
    }

    #[test]
    fn bytes_between_tensors_are_refused() {
        assert_refused(&two([0, 4], [8, 12], 12), "formats.data-gap", &[FILE, "`b`", "4 bytes"]);
    }

    #[test]
    fn bytes_before_the_first_tensor_are_refused() {
        assert_refused(&two([4, 8], [8, 12], 12), "formats.data-gap", &[FILE, "`a`", "4 bytes"]);
    }

    #[test]
    fn bytes_behind_the_last_tensor_are_refused() {
        assert_refused(&two([0, 4], [4, 8], 11), "formats.trailing-bytes", &[FILE, "3 bytes"]);
    }

    #[test]
    fn bytes_behind_no_tensor_at_all_are_refused() {
        assert_refused(&with_header("{}", 5), "formats.trailing-bytes", &[FILE, "5 bytes"]);
    }

    #[test]
    fn a_file_one_byte_shorter_than_its_header_claims_is_refused_by_tensor() {
        let file = fixture::safetensors().tensor("w", DType::F16, &[4, 4]).cut_data_by(1).build();
        let dir = with_file(file.bytes);
        assert_refused(&dir, "formats.data-outside-file", &[FILE, "`w`"]);
    }

    #[test]
    fn a_tensor_far_behind_the_end_is_refused() {
        let end = u64::MAX / 2;
        assert_refused(
            &two([0, 4], [end - 4, end], 8),
            "formats.data-outside-file",
            &[FILE, "`b`"],
        );
    }
}

mod index {
    use super::*;

    const INDEX: &str = "model.safetensors.index.json";

    fn with_index(json: impl AsRef<[u8]>) -> MemoryDir {
        let shard = |name| fixture::safetensors().tensor(name, DType::U8, &[4]).build().bytes;
        MemoryDir::default()
            .with(INDEX, json)
            .with("one.safetensors", shard("a"))
            .with("two.safetensors", shard("b"))
    }

    fn mapping(pairs: &str) -> MemoryDir {
        with_index(format!(r#"{{"weight_map":{{{pairs}}}}}"#))
    }

    #[test]
    fn the_fixture_itself_is_whole() {
        let dir = mapping(r#""a":"one.safetensors","b":"two.safetensors""#);
        assert_eq!(open_model_in(&dir, None).unwrap().manifest.tensors().count(), 2);
    }

    #[test]
    fn an_index_that_is_not_utf8_is_refused() {
        assert_refused(&with_index(b"{\"\xff\"}"), "formats.index-not-utf8", &[INDEX]);
    }

    #[test]
    fn an_index_that_is_not_json_is_refused() {
        assert_refused(&with_index("weight_map"), "formats.index-not-json", &[INDEX]);
    }

    #[test]
    fn an_index_without_weight_map_is_refused() {
        assert_refused(&with_index("{}"), "formats.index-not-json", &[INDEX, "weight_map"]);
    }

    #[test]
    fn an_index_that_lists_nothing_is_refused() {
        assert_refused(&mapping(""), "formats.index-empty", &[INDEX]);
    }

    #[test]
    fn a_missing_shard_is_named_with_a_tensor_that_it_holds() {
        let dir = mapping(r#""a":"one.safetensors","b":"two.safetensors","c":"gone.safetensors""#);
        let named = [INDEX, "gone.safetensors", "`c`"];
        assert_refused(&dir, "formats.shard-missing", &named);
    }

    #[test]
    fn a_tensor_that_its_shard_lacks_is_named() {
        let dir = mapping(r#""a":"one.safetensors","b":"two.safetensors","c":"two.safetensors""#);
        let named = [INDEX, "two.safetensors", "`c`"];
        assert_refused(&dir, "formats.tensor-not-in-shard", &named);
    }

    #[test]
    fn a_tensor_that_the_index_does_not_list_is_named() {
        let dir = mapping(r#""a":"one.safetensors","c":"two.safetensors""#);
        let named = [INDEX, "two.safetensors", "`b`"];
        assert_refused(&dir, "formats.tensor-not-in-index", &named);
    }

    #[test]
    fn the_same_tensor_in_two_shards_is_refused_with_both() {
        let dir = mapping(r#""a":"one.safetensors","b":"one.safetensors","x":"two.safetensors""#);
        let named = [INDEX, "one.safetensors", "two.safetensors", "`b`"];
        assert_refused(&dir, "formats.tensor-in-wrong-shard", &named);
    }

    #[test]
    fn a_tensor_listed_twice_is_refused() {
        let dir = mapping(r#""a":"one.safetensors","a":"two.safetensors""#);
        assert_refused(&dir, "formats.index-duplicate-tensor", &[INDEX, "`a`"]);
    }

    #[test]
    fn a_shard_in_another_folder_is_refused() {
        let dir = mapping(r#""a":"../secret.safetensors""#);
        let named = [INDEX, "`a`", "../secret.safetensors"];
        assert_refused(&dir, "formats.shard-outside-folder", &named);
    }

    #[test]
    fn a_shard_with_an_absolute_path_is_refused() {
        let dir = mapping(r#""a":"/etc/secret.safetensors""#);
        assert_refused(&dir, "formats.shard-outside-folder", &[INDEX, "/etc/secret.safetensors"]);
    }

    #[test]
    fn a_shard_of_another_format_is_refused() {
        let dir = mapping(r#""a":"pytorch_model.bin""#);
        assert_refused(&dir, "formats.shard-unsupported", &[INDEX, "pytorch_model.bin"]);
    }

    #[test]
    fn more_shards_than_any_model_has_are_refused_before_one_is_opened() {
        let pairs: Vec<_> =
            (0..=limits::SHARDS).map(|n| format!(r#""t{n}":"s{n}.safetensors""#)).collect();
        assert_refused(&mapping(&pairs.join(",")), "formats.too-many-shards", &[INDEX]);
    }

    #[test]
    fn a_broken_shard_is_named_instead_of_the_index() {
        let dir = mapping(r#""a":"one.safetensors","b":"two.safetensors""#)
            .with("two.safetensors", b"oops");
        assert_refused(&dir, "formats.header-truncated", &["two.safetensors"]);
    }
}

mod folder {
    use super::*;

    #[test]
    fn an_empty_folder_holds_no_weights() {
        assert_refused(&MemoryDir::default(), "formats.no-weights", &["memory"]);
    }

    #[test]
    fn a_folder_of_another_format_says_what_is_there_and_what_to_do() {
        let dir = MemoryDir::default().with("pytorch_model.bin", b"x").with("config.json", b"{}");
        let error = open_model_in(&dir, None).unwrap_err();
        assert_error(&error, "formats.no-weights", &["memory", "pytorch_model.bin"]);
        assert!(error.hint().unwrap().contains("safetensors"));
    }

    #[test]
    fn several_files_without_an_index_are_not_guessed_together() {
        let shard = fixture::safetensors().tensor("a", DType::U8, &[1]).build().bytes;
        let dir = MemoryDir::default().with("a.safetensors", &shard).with("b.safetensors", &shard);
        assert_refused(&dir, "formats.no-index", &["memory", "2"]);
    }

    #[test]
    fn a_folder_with_too_many_entries_is_refused() {
        let mut dir = MemoryDir::default();
        for number in 0..=limits::FOLDER_ENTRIES {
            dir = dir.with(&number.to_string(), []);
        }
        assert_refused(&dir, "formats.too-many-files", &["memory"]);
    }

    #[test]
    fn a_config_larger_than_any_real_one_is_refused_unread() {
        let big = vec![b' '; limits::CONFIG.to_usize().unwrap() + 1];
        let dir = with_header("{}", 0).with("config.json", big);
        assert_refused(&dir, "formats.file-too-large", &["config.json", "4.00 MiB"]);
    }

    #[test]
    fn a_config_that_is_not_json_is_refused() {
        let dir = with_header("{}", 0).with("config.json", b"{'a':1}");
        assert_refused(&dir, "formats.config-not-json", &["config.json"]);
    }

    #[test]
    fn a_config_that_is_not_utf8_is_refused() {
        let dir = with_header("{}", 0).with("config.json", b"\xfe\xff");
        assert_refused(&dir, "formats.config-not-utf8", &["config.json"]);
    }

    #[test]
    fn a_config_that_is_a_list_is_refused() {
        let dir = with_header("{}", 0).with("config.json", b"[]");
        assert_refused(&dir, "formats.config-not-object", &["config.json", "a list"]);
    }

    #[test]
    fn a_generation_config_with_an_impossible_value_is_refused_by_field() {
        let dir = with_header("{}", 0).with("generation_config.json", br#"{"top_p": 1.5}"#);
        let named = ["generation_config.json", "top_p", "1.5"];
        assert_refused(&dir, "formats.config-out-of-range", &named);
    }

    #[test]
    fn a_token_id_that_is_a_text_is_refused_by_field() {
        let json = br#"{"eos_token_id": [2, "</s>"]}"#;
        let dir = with_header("{}", 0).with("generation_config.json", json);
        let named = ["generation_config.json", "eos_token_id", "</s>"];
        assert_refused(&dir, "formats.config-wrong-type", &named);
    }
}

mod weights {
    use super::*;
    use serde_json::json;

    /// A whole tiny model, with one tensor left out or replaced.
    fn model(change: impl Fn(&str) -> Option<(DType, Vec<u64>)>) -> MemoryDir {
        let config = fixture::config("LlamaForCausalLM");
        let mut file = fixture::safetensors();
        for weight in fixture::spec(&config).weights() {
            let (dtype, shape) = match weight.name.contains("layers.2.mlp.up_proj") {
                true => match change(&weight.name) {
                    Some(changed) => changed,
                    None => continue,
                },
                false => (DType::BF16, weight.shape),
            };
            file = file.tensor(&weight.name, dtype, &shape);
        }
        with_file(file.build().bytes).with("config.json", config.to_string())
    }

    #[track_caller]
    fn assert_unbound(dir: &MemoryDir, code: &str, named: &[&str]) {
        let model = open_model_in(dir, None).expect("the files themselves are whole");
        assert_error(&model.bind().expect_err("it should not bind"), code, named);
    }

    #[test]
    fn a_missing_weight_is_named_with_its_place_and_shape() {
        let named = ["model.layers.2.mlp.up_proj.weight", "layer 2", "[96, 64]"];
        assert_unbound(&model(|_| None), "formats.weight-missing", &named);
    }

    #[test]
    fn a_weight_of_the_wrong_shape_is_named_with_both_shapes_and_its_file() {
        let dir = model(|_| Some((DType::BF16, vec![64, 96])));
        let named = ["model.layers.2.mlp.up_proj.weight", FILE, "[64, 96]", "[96, 64]"];
        assert_unbound(&dir, "formats.weight-shape", &named);
    }

    #[test]
    fn a_weight_of_an_uncomputable_type_is_named_with_its_file() {
        let dir = model(|_| Some((DType::F8E4M3, vec![96, 64])));
        let named = ["model.layers.2.mlp.up_proj.weight", FILE, "f8_e4m3"];
        assert_unbound(&dir, "formats.weight-dtype", &named);
    }

    #[test]
    fn a_model_without_config_opens_but_says_why_it_does_not_run() {
        assert_unbound(&with_header("{}", 0), "formats.no-config", &["config.json"]);
    }

    #[test]
    fn an_unsupported_architecture_is_named_and_the_supported_ones_are_the_hint() {
        let config = json!({ "architectures": ["MambaForCausalLM"] }).to_string();
        let model = open_model_in(&with_header("{}", 0).with("config.json", config), None).unwrap();
        assert_eq!(model.architecture.as_deref(), Some("MambaForCausalLM"));
        let error = model.bind().unwrap_err();
        assert_error(&error, "formats.unsupported-architecture", &["MambaForCausalLM"]);
        assert!(error.hint().unwrap().contains("Qwen3ForCausalLM"));
    }
}
