//! Published models: what their `config.json` means, checked by the number of parameters that
//! their makers' files have.

use std::collections::BTreeMap;

use overflowml_types::{Activation, DecoderSpec, Norms, QkNorm, RopeScaling};
use serde_json::{Value, json};

use super::parse_config;

fn spec(config: &Value) -> DecoderSpec {
    parse_config(config.to_string().as_bytes()).unwrap().decoder().unwrap()
}

/// A configuration with the sizes that all families have.
fn config(architecture: &str, sizes: [u64; 6], more: Value) -> Value {
    let [hidden, intermediate, layers, heads, kv_heads, vocab] = sizes;
    let mut config = json!({
        "architectures": [architecture],
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10_000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": false,
    });
    let Value::Object(more) = more else { panic!("more fields") };
    config.as_object_mut().unwrap().extend(more);
    config
}

fn parameters(spec: &DecoderSpec) -> u64 {
    // Tied weights appear twice, under one name.
    let by_name: BTreeMap<String, u64> =
        spec.weights().into_iter().map(|w| (w.name, w.shape.iter().product())).collect();
    by_name.values().sum()
}

fn llama_3_2_3b() -> Value {
    config(
        "LlamaForCausalLM",
        [3072, 8192, 28, 24, 8, 128_256],
        json!({
            "model_type": "llama", "head_dim": 128, "tie_word_embeddings": true, "rope_theta": 500_000.0,
            "rope_scaling": {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 8192},
        }),
    )
}

fn gemma_2_2b() -> Value {
    config(
        "Gemma2ForCausalLM",
        [2304, 9216, 26, 8, 4, 256_000],
        json!({
            "model_type": "gemma2", "head_dim": 256, "tie_word_embeddings": true, "sliding_window": 4096,
            "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
            "query_pre_attn_scalar": 256, "hidden_activation": "gelu_pytorch_tanh",
        }),
    )
}

fn gemma_3_1b() -> Value {
    config(
        "Gemma3ForCausalLM",
        [1152, 6912, 26, 4, 1, 262_144],
        json!({
            "model_type": "gemma3_text", "head_dim": 256, "tie_word_embeddings": true,
            "sliding_window": 512, "sliding_window_pattern": 6, "rope_theta": 1_000_000.0,
            "rope_local_base_freq": 10_000.0, "query_pre_attn_scalar": 256,
            "hidden_activation": "gelu_pytorch_tanh",
        }),
    )
}

#[test]
fn published_models_have_as_many_parameters_as_their_files() {
    let llama = |sizes| config("LlamaForCausalLM", sizes, json!({"model_type": "llama"}));
    let tied = |name: &str| json!({"model_type": name, "tie_word_embeddings": true});
    let of = |name: &str| json!({ "model_type": name });
    let qwen3 = json!({"model_type": "qwen3", "head_dim": 128});
    let smol = json!({
        "model_type": "smollm3", "tie_word_embeddings": true, "no_rope_layer_interval": 4,
    });
    let published = [
        ("Llama 2 7B", llama([4096, 11_008, 32, 32, 32, 32_000]), 6_738_415_616),
        ("Llama 3.1 8B", llama([4096, 14_336, 32, 32, 8, 128_256]), 8_030_261_248),
        ("Llama 3.2 3B", llama_3_2_3b(), 3_212_749_824),
        (
            "Mistral 7B",
            config("MistralForCausalLM", [4096, 14_336, 32, 32, 8, 32_000], of("mistral")),
            7_241_732_096,
        ),
        (
            "Qwen2.5 0.5B",
            config("Qwen2ForCausalLM", [896, 4864, 24, 14, 2, 151_936], tied("qwen2")),
            494_032_768,
        ),
        (
            "Qwen2.5 7B",
            config("Qwen2ForCausalLM", [3584, 18_944, 28, 28, 4, 152_064], of("qwen2")),
            7_615_616_512,
        ),
        (
            "Qwen3 8B",
            config("Qwen3ForCausalLM", [4096, 12_288, 36, 32, 8, 151_936], qwen3),
            8_190_735_360,
        ),
        (
            "Phi-3 mini",
            config("Phi3ForCausalLM", [3072, 8192, 32, 32, 32, 32_064], of("phi3")),
            3_821_079_552,
        ),
        ("Gemma 2 2B", gemma_2_2b(), 2_614_341_888),
        ("Gemma 3 1B", gemma_3_1b(), 999_885_952),
        (
            "SmolLM3 3B",
            config("SmolLM3ForCausalLM", [2048, 11_008, 36, 16, 4, 128_256], smol),
            3_075_098_624,
        ),
        (
            "OLMo 2 7B",
            config("Olmo2ForCausalLM", [4096, 11_008, 32, 32, 32, 100_352], of("olmo2")),
            7_298_617_344,
        ),
    ];
    for (name, config, expected) in published {
        assert_eq!(parameters(&spec(&config)), expected, "{name}");
    }
}

#[test]
fn llama_3_stretches_its_rotary_frequencies() {
    let spec = spec(&llama_3_2_3b());
    let expected = RopeScaling::Llama3 {
        factor: 32.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_context: 8192.0,
    };
    assert_eq!(spec.ropes.len(), 1);
    assert_eq!(spec.ropes[0].scaling, expected);
    assert_eq!((spec.ropes[0].theta, spec.ropes[0].rotary_dim), (500_000.0, 128));
    assert_eq!(
        (spec.norms, spec.qk_norm, spec.norm_weight_offset),
        (Norms::Before, QkNorm::None, 0.0)
    );
}

#[test]
fn gemma_2_alternates_windows_and_caps_softly() {
    let spec = spec(&gemma_2_2b());
    let windows: Vec<_> = spec.layers.iter().map(|layer| layer.window).collect();
    assert_eq!(windows[..4], [Some(4096), None, Some(4096), None]);
    assert_eq!((spec.attention_softcap, spec.logit_softcap), (Some(50.0), Some(30.0)));
    assert_eq!((spec.norms, spec.norm_weight_offset), (Norms::Around, 1.0));
    assert_eq!(spec.activation, Activation::GeluTanh);
    assert_eq!(spec.scales.embedding, (2304.0_f32).sqrt());
    assert_eq!(spec.scales.attention, 1.0 / 16.0);
}

#[test]
fn gemma_3_has_five_local_layers_to_a_global_one_with_rotary_bases_of_their_own() {
    let spec = spec(&gemma_3_1b());
    let global: Vec<_> = (0..26).filter(|&layer| spec.layers[layer].window.is_none()).collect();
    assert_eq!(global, [5, 11, 17, 23]);
    let theta = |layer: usize| spec.layers[layer].rope.map(|rope| spec.ropes[rope].theta);
    assert_eq!((theta(0), theta(5)), (Some(10_000.0), Some(1_000_000.0)));
    assert_eq!(spec.qk_norm, QkNorm::PerHead);
}

#[test]
fn every_fourth_layer_of_smollm3_has_no_positions() {
    let more = json!({
        "model_type": "smollm3", "tie_word_embeddings": true, "no_rope_layer_interval": 4,
    });
    let spec = spec(&config("SmolLM3ForCausalLM", [64, 128, 8, 4, 2, 100], more));
    let without: Vec<_> = (0..8).filter(|&layer| spec.layers[layer].rope.is_none()).collect();
    assert_eq!(without, [3, 7]);
}
