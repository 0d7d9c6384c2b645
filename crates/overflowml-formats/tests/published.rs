//! Golden numbers: parameter counts of published models from their configurations alone, their weights' bytes, and
//! caches as other programs measured them.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a failure stops the test

mod configurations;

use overflowml_formats::fixture::MemoryDir;
use overflowml_formats::profile_in;
use overflowml_types::{
    Bytes, CacheElement, ComponentProfile, LayerCache, ModelProfile, ProfileSource,
};
use serde_json::{Value, json};

use configurations::{
    deepseek_v3, dense, gpt_oss, mixtures, parts_of_pipelines, qwen3_6_27b, small_decoders,
};

fn profile(config: &Value) -> ModelProfile {
    let dir = MemoryDir::default().with("config.json", config.to_string());
    let profile = profile_in(&dir, None).unwrap();
    assert_eq!(profile.source, ProfileSource::Config);
    profile
}

fn part(config: &Value) -> ComponentProfile {
    profile(config).components.remove(0)
}

#[test]
fn parameter_counts_are_the_published_ones() {
    let models = [small_decoders(), mixtures(), parts_of_pipelines()].concat();
    assert!(models.len() >= 25);
    let mut wrong = Vec::new();
    for (name, published, config) in models {
        let found = profile(&config).parameters();
        // Some publishers count buffers.
        if found.abs_diff(published) * 1000 > published {
            wrong.push(format!("{name}: {found} instead of {published}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn sixteen_bits_take_two_bytes_each() {
    // A count that was taken for bytes planned every model at half of its size.
    for (name, _, config) in small_decoders() {
        let profile = profile(&config);
        assert_eq!(profile.size(), Bytes::new(2 * profile.parameters()), "{name}");
    }
}

#[test]
fn active_parameters_are_those_that_a_token_uses() {
    let billions = |config: &Value| part(config).active_parameters() as f64 / 1e9;
    let near =
        |found: f64, published: f64| assert!((found / published - 1.0).abs() < 0.02, "{found}");
    near(billions(&mixtures()[0].2), 12.88); // Mixtral: 12.9B
    near(billions(&deepseek_v3()), 37.55); // 37B without the embedding of the other tokens
    near(billions(&gpt_oss(24, 32)), 4.19); // 3.6B beside the embedding
}

#[test]
fn quantised_weights_take_the_bytes_of_the_published_files() {
    // What the headers of openai/gpt-oss-120b sum up to.
    assert_eq!(part(&gpt_oss(36, 128)).size(), Bytes::new(65_248_815_744));
    let small = part(&gpt_oss(24, 32));
    let packed = small.groups[1].experts.unwrap();
    let matrices = 32 * (2880 * 2 * 2880 + 2880 * 2880);
    let biases = 32 * (2 * 2880 + 2880);
    assert_eq!(packed.parameters, matrices + biases);
    assert_eq!(packed.size, Bytes::new(matrices * 17 / 32 + biases * 2));
    assert_eq!(small.dtypes.keys().collect::<Vec<_>>(), ["bf16", "mxfp4"]);
}

#[test]
fn fp8_weights_are_a_byte_each_and_a_scale_per_block() {
    let part = part(&deepseek_v3());
    // kv_b_proj: 512 to 128 heads of 256, blocks of 128 by 128.
    let scales = |input: u64, output: u64| input.div_ceil(128) * output.div_ceil(128) * 4;
    let dense = &part.groups[1];
    let plain = 2 * 7168 + 1536 + 512;
    let matrices: [(u64, u64); 8] = [
        (7168, 1536),
        (1536, 24_576),
        (7168, 576),
        (512, 32_768),
        (16_384, 7168),
        (7168, 18_432),
        (7168, 18_432),
        (18_432, 7168),
    ];
    let bytes: u64 = matrices.iter().map(|&(i, o)| i * o + scales(i, o)).sum();
    assert_eq!(dense.size, Bytes::new(bytes + 2 * plain));
}

#[test]
fn a_hybrid_keeps_tokens_in_some_layers_and_a_state_in_the_others() {
    let part = part(&qwen3_6_27b());
    let state = part.cache(0, CacheElement::F16);
    // lmstudio#1862: four sequences share 262,144 cells.
    let tokens = part.cache(262_144 / 4, CacheElement::F16).left_after(state);
    assert_eq!(tokens.saturating_mul(4), Bytes::mib(16_384));
    assert_eq!(state.saturating_mul(4), Bytes::kib(598 * 1024 + 512));
    let full = part.caches.iter().filter(|layer| matches!(layer, LayerCache::Full { .. }));
    assert_eq!(full.count(), 16);
}

#[test]
fn latent_attention_keeps_one_vector_per_token() {
    let part = part(&deepseek_v3());
    // ik_llama.cpp#259: 32k tokens in q8_0 are 1,166.6 MiB.
    let cache = part.cache(32_768, CacheElement::Q8_0);
    assert_eq!(cache, Bytes::new(61 * 576 * 32_768 / 32 * 34));
    assert_eq!(cache.to_string(), "1.14 GiB");
    assert_eq!((cache.as_f64() / Bytes::mib(1).as_f64() * 10.0) as u64, 11_666);
}

#[test]
fn windows_keep_only_their_latest_tokens() {
    // mlxcel#172: Gemma-3-1B at 32k, with and without regard to its windows of 512.
    let more = json!({ "head_dim": 256, "sliding_window": 512, "max_position_embeddings": 32_768 });
    let part = part(&dense("Gemma3ForCausalLM", [262_144, 1152, 6912, 26, 4, 1], more));
    assert_eq!(part.cache(32_768, CacheElement::F16), Bytes::mib(139));
    assert_eq!(without_windows(&part, 32_768), Bytes::mib(832));
}

/// Every layer keeps every token, as runtimes have it that do not know windows.
fn without_windows(part: &ComponentProfile, context: u64) -> Bytes {
    let full = |layer: &LayerCache| match *layer {
        LayerCache::Window { heads, key, value, .. } => LayerCache::Full { heads, key, value },
        other => other,
    };
    part.caches.iter().map(|layer| full(layer).bytes(context, CacheElement::F16)).sum()
}

#[test]
fn gpt_oss_keeps_half_of_what_its_layers_would_without_windows() {
    // hf-mem#70: the caches of 32 sequences of 8,192 tokens in 16 bits. Half of the 24 layers keep 128 tokens
    // (6.09 GiB) unless a runtime gives all layers pages of full length (12.00 GiB).
    let part = part(&gpt_oss(24, 32));
    let of_all = |one: Bytes| one.saturating_mul(32);
    let windowed = of_all(part.cache(8192, CacheElement::F16));
    assert_eq!(windowed, Bytes::mib(6 * 1024 + 96));
    assert_eq!(windowed.to_string(), "6.09 GiB");
    assert_eq!(of_all(without_windows(&part, 8192)), Bytes::gib(12));
}

#[test]
fn chunks_keep_only_the_current_one() {
    let config = &mixtures()[10].2;
    let part = part(config);
    let chunked =
        part.caches.iter().filter(|layer| matches!(layer, LayerCache::Chunked { chunk: 8192, .. }));
    assert_eq!(chunked.count(), 36);
    // 8 heads of 128, keys and values, 2 bytes: 4 KiB per token and layer.
    let expected = 12 * 131_072 + 36 * 8192;
    assert_eq!(part.cache(131_072, CacheElement::F16), Bytes::kib(4 * expected));
}
