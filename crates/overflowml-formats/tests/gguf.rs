//! GGUF files: what they tell, and how broken and hostile ones are refused, each with its own code and a message
//! that names the file and the tensor.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a failure stops the test

use overflowml_formats::fixture::{GgufFile, MemoryDir};
use overflowml_formats::{GgmlType, GgufValue, limits, open_gguf_in, profile_in};
use overflowml_types::{Bytes, CacheElement, LayerCache, ModelProfile, Role, Shape};

const FILE: &str = "model.gguf";

fn number(value: u64) -> GgufValue {
    GgufValue::U64(value)
}

fn numbers(values: &[u64]) -> GgufValue {
    GgufValue::List(values.iter().copied().map(number).collect())
}

/// A file of architecture `arch` with these facts below its name, and no tensors.
fn facts(arch: &str, list: &[(&str, GgufValue)]) -> GgufFile {
    let mut file = GgufFile::new();
    file.value("general.architecture", GgufValue::Text(arch.to_owned()));
    for (key, value) in list {
        file.value(&format!("{arch}.{key}"), value.clone());
    }
    file
}

fn profile(file: &GgufFile) -> ModelProfile {
    profile_in(&MemoryDir::default().with(FILE, file.build()), Some(FILE)).unwrap()
}

fn caches(file: &GgufFile) -> Vec<LayerCache> {
    profile(file).components.remove(0).caches
}

mod knows {
    use super::*;

    fn llama() -> GgufFile {
        let mut file = facts(
            "llama",
            &[
                ("block_count", number(2)),
                ("context_length", number(4096)),
                ("embedding_length", number(256)),
                ("feed_forward_length", number(512)),
                ("attention.head_count", number(4)),
                ("attention.head_count_kv", number(2)),
                ("expert_count", number(4)),
                ("expert_used_count", number(2)),
                // As Mistral 7B 0.1 has it: llama.cpp does not use it.
                ("attention.sliding_window", number(16)),
            ],
        );
        file.value("tokenizer.ggml.tokens", GgufValue::Counted(97));
        file.tensor("token_embd.weight", GgmlType::Q4_K, &[97, 256]);
        for layer in 0..2 {
            let name = |part: &str| format!("blk.{layer}.{part}.weight");
            file.tensor(&name("attn_q"), GgmlType::Q4_K, &[256, 256]);
            file.tensor(&name("ffn_up_exps"), GgmlType::Q6_K, &[4, 512, 256]);
            file.tensor(&name("ffn_gate_inp"), GgmlType::F32, &[4, 256]);
        }
        file.tensor("output_norm.weight", GgmlType::F32, &[256]);
        file
    }

    #[test]
    fn sizes_experts_and_types_come_from_the_tensors() {
        let profile = profile(&llama());
        let part = &profile.components[0];
        let names: Vec<&str> = part.groups.iter().map(|group| group.name.as_str()).collect();
        assert_eq!(names, ["token_embd", "blk.0", "blk.1", "output_norm"]);
        let experts = part.groups[1].experts.unwrap();
        assert_eq!((experts.count, experts.active), (4, 2));
        assert_eq!(experts.parameters, 4 * 512 * 256);
        assert_eq!(experts.size, Bytes::new(4 * 512 * 210));
        assert_eq!(part.dtypes["q4_k"], Bytes::new((97 + 2 * 256) * 144));
        assert_eq!(part.dtypes["f32"], Bytes::new((2 * 4 * 256 + 256) * 4));
        assert_eq!(part.parameters(), 97 * 256 + 2 * (256 * 256 + 4 * 512 * 256 + 4 * 256) + 256);
        assert_eq!(part.class.as_deref(), Some("llama"));
        assert_eq!((part.role, part.max_context), (Role::Decoder, Some(4096)));
        let shape = Shape::Decoder { hidden: 256, intermediate: 2 * 512, heads: 4, vocab: 97 };
        assert_eq!(part.shape, shape);
        assert_eq!(part.caches, [LayerCache::Full { heads: 2, key: 64, value: 64 }; 2]);
        assert!(profile.notes.is_empty(), "{:?}", profile.notes);
    }

    #[test]
    fn a_split_model_is_one_model_whichever_part_is_named() {
        let whole = profile(&llama());
        let mut first = facts("llama", &[]);
        let mut second = GgufFile::new();
        for (no, file) in [&mut first, &mut second].into_iter().enumerate() {
            file.value("split.no", number(no as u64)).value("split.count", number(2));
            file.value("split.tensors.count", number(3));
        }
        first.tensor("token_embd.weight", GgmlType::F16, &[97, 256]);
        second.tensor("blk.0.attn_q.weight", GgmlType::F16, &[256, 256]);
        second.tensor("output_norm.weight", GgmlType::F32, &[256]);
        let dir = MemoryDir::default()
            .with("m-00001-of-00002.gguf", first.build())
            .with("m-00002-of-00002.gguf", second.build());
        let named = |name| profile_in(&dir, Some(name)).unwrap().components;
        let parts = named("m-00001-of-00002.gguf");
        assert_eq!(parts, named("m-00002-of-00002.gguf"));
        assert_eq!(parts, profile_in(&dir, None).unwrap().components);
        assert_eq!(parts[0].groups.len(), 3);
        assert_eq!(parts[0].parameters(), 97 * 256 + 256 * 256 + 256);
        assert_ne!(parts, whole.components);
        let model = open_gguf_in(&dir, "m-00002-of-00002.gguf").unwrap();
        assert_eq!(model.files.len(), 2);
        assert_eq!(model.tensors[1].span.file.0, 1);
    }

    #[test]
    fn lists_with_one_entry_per_layer_are_read_per_layer() {
        let file = facts(
            "lfm2",
            &[
                ("block_count", number(3)),
                ("embedding_length", number(64)),
                ("attention.head_count", number(4)),
                ("attention.head_count_kv", numbers(&[0, 2, 0])),
                ("shortconv.l_cache", number(3)),
            ],
        );
        let state = LayerCache::State { elements: 64 * 2 };
        let full = LayerCache::Full { heads: 2, key: 16, value: 16 };
        assert_eq!(caches(&file), [state, full, state]);
    }

    #[test]
    fn windows_follow_the_list_the_number_or_the_architecture() {
        let with = |arch: &str, pattern: Option<GgufValue>| {
            let mut list = vec![
                ("block_count", number(6)),
                ("embedding_length", number(64)),
                ("attention.head_count", number(4)),
                ("attention.head_count_kv", number(1)),
                ("attention.sliding_window", number(8)),
            ];
            list.extend(pattern.map(|pattern| ("attention.sliding_window_pattern", pattern)));
            let windowed =
                |cache: &LayerCache| matches!(cache, LayerCache::Window { window: 8, .. });
            caches(&facts(arch, &list)).iter().map(windowed).collect::<Vec<bool>>()
        };
        assert_eq!(with("gemma3", None), [true, true, true, true, true, false]);
        assert_eq!(with("gpt-oss", None), [true, false, true, false, true, false]);
        assert_eq!(with("llama", None), [false; 6]);
        assert_eq!(with("llama", Some(number(3))), [true, true, false, true, true, false]);
        let flags = [true, false, false, true, false, false];
        let list = GgufValue::List(flags.into_iter().map(GgufValue::Bool).collect());
        assert_eq!(with("gemma4", Some(list)), flags);
    }

    #[test]
    fn latent_attention_keeps_one_vector_and_older_files_whole_heads() {
        let list = [
            ("block_count", number(2)),
            ("embedding_length", number(64)),
            ("attention.head_count", number(4)),
            ("attention.kv_lora_rank", number(512)),
            ("rope.dimension_count", number(64)),
            ("attention.key_length", number(576)),
            ("attention.value_length", number(512)),
        ];
        let mut present = facts("deepseek2", &list);
        present.value("deepseek2.attention.head_count_kv", number(1));
        assert_eq!(caches(&present), [LayerCache::Latent { rank: 512, rope: 64 }; 2]);
        let mut older = facts("deepseek2", &list);
        older.value("deepseek2.attention.head_count_kv", number(4));
        assert_eq!(caches(&older), [LayerCache::Full { heads: 4, key: 576, value: 512 }; 2]);
    }

    #[test]
    fn qwen3_6_keeps_a_state_in_three_of_four_layers() {
        let file = facts(
            "qwen35",
            &[
                ("block_count", number(64)),
                ("embedding_length", number(5120)),
                ("attention.head_count", number(24)),
                ("attention.head_count_kv", number(4)),
                ("attention.key_length", number(256)),
                ("attention.value_length", number(256)),
                ("ssm.inner_size", number(48 * 128)),
                ("ssm.state_size", number(128)),
                ("ssm.group_count", number(16)),
                ("ssm.conv_kernel", number(4)),
                ("full_attention_interval", number(4)),
            ],
        );
        let part = &profile(&file).components[0];
        assert_eq!(part.cache(0, CacheElement::F16).get() * 4, 1197 * (1 << 19)); // 598.5 MiB
        let all = part.cache(262_144, CacheElement::F16);
        assert_eq!(all.left_after(part.cache(0, CacheElement::F16)), Bytes::mib(16_384));
    }

    #[test]
    fn layers_that_share_or_predict_keep_nothing_of_their_own() {
        let file = facts(
            "gemma3n",
            &[
                ("block_count", number(4)),
                ("embedding_length", number(64)),
                ("attention.head_count", number(4)),
                ("attention.head_count_kv", number(2)),
                ("attention.shared_kv_layers", number(1)),
                ("nextn_predict_layers", number(1)),
            ],
        );
        let full = LayerCache::Full { heads: 2, key: 16, value: 16 };
        assert_eq!(caches(&file), [full, full, LayerCache::None]);
    }

    #[test]
    fn mamba_and_rwkv_keep_states() {
        let mamba = facts(
            "mamba2",
            &[
                ("block_count", number(1)),
                ("embedding_length", number(64)),
                ("ssm.inner_size", number(128)),
                ("ssm.state_size", number(16)),
                ("ssm.group_count", number(2)),
                ("ssm.conv_kernel", number(4)),
            ],
        );
        let elements = 16 * 128 + 3 * (128 + 2 * 2 * 16);
        assert_eq!(caches(&mamba), [LayerCache::State { elements }]);
        let rwkv = facts(
            "rwkv7",
            &[
                ("block_count", number(1)),
                ("embedding_length", number(64)),
                ("wkv.head_size", number(32)),
                ("token_shift_count", number(2)),
            ],
        );
        assert_eq!(caches(&rwkv), [LayerCache::State { elements: 64 * 34 }]);
    }

    #[test]
    fn a_file_without_facts_still_has_sizes() {
        let mut file = GgufFile::new();
        file.tensor("double_blocks.0.w", GgmlType::Q8_0, &[2, 32]);
        let profile = profile(&file);
        assert_eq!(profile.components[0].size(), Bytes::new(68));
        assert_eq!(profile.components[0].shape, Shape::Unknown);
        assert!(profile.notes[0].contains("only sizes"), "{:?}", profile.notes);
    }

    #[test]
    fn a_folder_of_several_models_is_not_guessed_at() {
        let file = GgufFile::new().build();
        let dir = MemoryDir::default().with("a-q4.gguf", &file).with("a-q8.gguf", &file);
        let error = profile_in(&dir, None).unwrap_err();
        assert_eq!(error.code(), "formats.several-gguf");
        assert!(error.to_string().contains("a-q8.gguf"), "{error}");
        let dir = MemoryDir::default().with("a.gguf", &file).with("mmproj-a.gguf", &file);
        assert!(profile_in(&dir, None).is_ok());
    }
}

mod refuses {
    use super::*;

    /// Asserts how these bytes are refused: the code, and what the message must name.
    #[track_caller]
    fn assert_refused(bytes: impl AsRef<[u8]>, code: &str, named: &[&str]) {
        let dir = MemoryDir::default().with(FILE, bytes);
        let error = open_gguf_in(&dir, FILE).expect_err("the file should be refused");
        let message = error.to_string();
        assert_eq!(error.code(), code, "{message}");
        for name in [&[FILE][..], named].concat() {
            assert!(message.contains(name), "`{message}` does not name `{name}`");
        }
    }

    /// A header with these counts and nothing behind them.
    fn counts(tensors: u64, entries: u64) -> Vec<u8> {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend(tensors.to_le_bytes());
        bytes.extend(entries.to_le_bytes());
        bytes
    }

    /// One metadata entry `k` of this type, followed by `value`.
    fn entry(kind: u32, value: &[u8]) -> Vec<u8> {
        let mut bytes = counts(0, 1);
        bytes.extend(1_u64.to_le_bytes());
        bytes.push(b'k');
        bytes.extend(kind.to_le_bytes());
        bytes.extend(value);
        bytes
    }

    fn tensor(kind: u32, shape: &[u64], offset: u64) -> Vec<u8> {
        GgufFile::new().raw_tensor("w", kind, shape, offset).build()
    }

    #[test]
    fn an_empty_file() {
        assert_refused([], "formats.gguf-truncated", &["0 B"]);
    }

    #[test]
    fn a_file_of_another_format() {
        assert_refused(b"PK\x03\x04 and more", "formats.not-gguf", &[]);
    }

    #[test]
    fn a_version_that_is_not_read() {
        assert_refused(b"GGUF\x01\0\0\0\0\0\0\0\0\0\0\0", "formats.gguf-version", &["version 1"]);
        assert_refused(b"GGUF\x09\0\0\0\0\0\0\0\0\0\0\0", "formats.gguf-version", &["version 9"]);
    }

    #[test]
    fn a_file_of_the_other_byte_order() {
        assert_refused(b"GGUF\0\0\0\x03\0\0\0\0\0\0\0\0", "formats.gguf-big-endian", &[]);
    }

    #[test]
    fn a_header_that_stops_after_its_counts() {
        assert_refused(counts(1, 0), "formats.gguf-truncated", &["24 B"]);
    }

    #[test]
    fn more_tensors_than_any_model_has() {
        assert_refused(counts(u64::MAX, 0), "formats.gguf-too-many", &["tensors"]);
    }

    #[test]
    fn more_metadata_than_any_model_has() {
        let many = limits::GGUF_ENTRIES as u64 + 1;
        assert_refused(counts(0, many), "formats.gguf-too-many", &["metadata", "65537"]);
    }

    #[test]
    fn a_key_without_end() {
        let mut bytes = counts(0, 1);
        bytes.extend(u64::MAX.to_le_bytes());
        assert_refused(bytes, "formats.gguf-text-too-long", &["key"]);
    }

    #[test]
    fn a_key_that_is_no_text() {
        let mut bytes = counts(0, 1);
        bytes.extend(2_u64.to_le_bytes());
        bytes.extend([0xff, 0xfe]);
        assert_refused(bytes, "formats.gguf-not-utf8", &["key"]);
    }

    #[test]
    fn a_text_without_end() {
        let bytes = entry(8, &u64::MAX.to_le_bytes());
        assert_refused(bytes, "formats.gguf-text-too-long", &["text"]);
    }

    #[test]
    fn a_value_of_an_unknown_type() {
        assert_refused(entry(99, &[]), "formats.gguf-unknown-value-type", &["`k`", "99"]);
    }

    #[test]
    fn a_list_of_an_unknown_type() {
        let list = [&77_u32.to_le_bytes()[..], &1_u64.to_le_bytes()].concat();
        assert_refused(entry(9, &list), "formats.gguf-unknown-value-type", &["`k`", "77"]);
    }

    #[test]
    fn a_list_longer_than_the_file_before_anything_is_allocated() {
        for count in [1_u64 << 40, u64::MAX] {
            let list = [&10_u32.to_le_bytes()[..], &count.to_le_bytes()].concat();
            assert_refused(entry(9, &list), "formats.gguf-list-outside-file", &["`k`"]);
        }
    }

    #[test]
    fn lists_in_lists_without_end() {
        let level = [&9_u32.to_le_bytes()[..], &1_u64.to_le_bytes()].concat();
        assert_refused(entry(9, &level.repeat(50)), "formats.gguf-too-deep", &["`k`"]);
    }

    #[test]
    fn the_same_key_twice() {
        let one = [&1_u64.to_le_bytes()[..], b"k", &0_u32.to_le_bytes(), &[7]].concat();
        let bytes = [counts(0, 2), one.repeat(2)].concat();
        assert_refused(bytes, "formats.gguf-duplicate-key", &["`k`"]);
    }

    #[test]
    fn an_alignment_that_is_no_power_of_two() {
        for wrong in [0, 24, 1 << 40] {
            let mut file = GgufFile::new();
            file.value("general.alignment", number(wrong));
            assert_refused(file.build(), "formats.gguf-alignment", &[&wrong.to_string()]);
        }
    }

    #[test]
    fn a_tensor_of_an_unknown_type() {
        assert_refused(tensor(4, &[32], 0), "formats.gguf-unknown-type", &["`w`", " 4"]);
        assert_refused(tensor(4242, &[32], 0), "formats.gguf-unknown-type", &["`w`", "4242"]);
    }

    #[test]
    fn a_row_that_ends_inside_a_block() {
        let bytes = tensor(GgmlType::Q4_K.id(), &[2, 255], 0);
        assert_refused(bytes, "formats.gguf-partial-block", &["`w`", "255", "q4_k"]);
    }

    #[test]
    fn more_dimensions_than_any_tensor_has() {
        assert_refused(tensor(0, &[1; 17], 0), "formats.gguf-too-many-dimensions", &["`w`"]);
    }

    #[test]
    fn a_shape_beyond_64_bits() {
        let bytes = tensor(0, &[1 << 40, 1 << 40], 0);
        assert_refused(bytes, "formats.gguf-shape-overflow", &["`w`"]);
        assert_refused(tensor(0, &[1 << 62], 0), "formats.gguf-shape-overflow", &["`w`"]);
    }

    #[test]
    fn a_tensor_beyond_the_end() {
        assert_refused(tensor(0, &[64], 0), "formats.gguf-data-outside-file", &["`w`"]);
        let far = u64::MAX - 31;
        assert_refused(tensor(0, &[1], far), "formats.gguf-shape-overflow", &["`w`"]);
    }

    #[test]
    fn a_file_one_byte_short() {
        let mut bytes = GgufFile::new().tensor("w", GgmlType::F32, &[8]).build();
        assert!(open_gguf_in(&MemoryDir::default().with(FILE, &bytes), FILE).is_ok());
        bytes.pop();
        assert_refused(bytes, "formats.gguf-data-outside-file", &["`w`"]);
    }

    #[test]
    fn a_tensor_that_is_not_aligned() {
        let mut file = GgufFile::new();
        file.tensor("a", GgmlType::F32, &[64]).raw_tensor("w", 0, &[1], 33);
        assert_refused(file.build(), "formats.gguf-misaligned", &["`w`", "33"]);
    }

    #[test]
    fn tensors_that_overlap() {
        let mut file = GgufFile::new();
        file.tensor("a", GgmlType::F32, &[64]).raw_tensor("w", 0, &[8], 32);
        assert_refused(file.build(), "formats.gguf-overlap", &["`w`", "`a`"]);
    }

    #[test]
    fn the_same_tensor_twice() {
        let mut file = GgufFile::new();
        file.tensor("w", GgmlType::F32, &[4]).tensor("w", GgmlType::F32, &[4]);
        assert_refused(file.build(), "formats.gguf-duplicate-tensor", &["`w`"]);
    }

    /// Two parts with what they say about themselves.
    fn parts(said: [(u64, u64); 2], names: [&str; 2], total: u64) -> MemoryDir {
        let mut dir = MemoryDir::default();
        for (part, ((no, count), name)) in said.into_iter().zip(names).enumerate() {
            let mut file = GgufFile::new();
            file.value("split.no", number(no)).value("split.count", number(count));
            file.value("split.tensors.count", number(total));
            file.tensor(name, GgmlType::F32, &[4]);
            dir = dir.with(&format!("m-0000{}-of-00002.gguf", part + 1), file.build());
        }
        dir
    }

    #[track_caller]
    fn assert_parts(dir: &MemoryDir, code: &str, named: &str) {
        let error = open_gguf_in(dir, "m-00001-of-00002.gguf").unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert!(error.to_string().contains(named), "{error}");
    }

    #[test]
    fn a_part_that_is_missing() {
        let one = MemoryDir::default().with("m-00001-of-00002.gguf", GgufFile::new().build());
        assert_parts(&one, "formats.missing", "m-00002-of-00002.gguf");
    }

    #[test]
    fn parts_that_are_not_what_their_names_say() {
        let dir = parts([(0, 2), (0, 2)], ["a", "b"], 2);
        assert_parts(&dir, "formats.gguf-wrong-part", "m-00002-of-00002.gguf");
        let dir = parts([(0, 3), (1, 3)], ["a", "b"], 2);
        assert_parts(&dir, "formats.gguf-wrong-part", "of 3");
    }

    #[test]
    fn parts_that_do_not_add_up() {
        let dir = parts([(0, 2), (1, 2)], ["a", "b"], 5);
        assert_parts(&dir, "formats.gguf-wrong-total", "5");
        let dir = parts([(0, 2), (1, 2)], ["a", "a"], 2);
        assert_parts(&dir, "formats.gguf-in-two-parts", "`a`");
    }

    #[test]
    fn absurd_facts_are_no_layers() {
        let file = facts(
            "llama",
            &[("block_count", number(u64::MAX)), ("embedding_length", number(u64::MAX))],
        );
        assert_eq!(profile(&file).components[0].shape, Shape::Unknown);
        let file = facts(
            "qwen35",
            &[
                ("block_count", number(3)),
                ("embedding_length", number(u64::MAX)),
                ("attention.head_count", number(u64::MAX)),
                ("attention.head_count_kv", number(u64::MAX)),
                ("attention.key_length", number(u64::MAX)),
                ("ssm.inner_size", number(u64::MAX)),
                ("ssm.state_size", number(u64::MAX)),
                ("full_attention_interval", number(0)),
                ("attention.sliding_window", number(u64::MAX)),
                ("attention.sliding_window_pattern", number(0)),
            ],
        );
        assert_eq!(caches(&file).len(), 3);
        assert!(profile(&file).components[0].cache(u64::MAX, CacheElement::Q8_0) > Bytes::gib(1));
    }
}
