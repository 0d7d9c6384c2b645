//! What a family's `config.json` says besides its sizes. Which families there are, and what their
//! fields mean, is known to `overflowml-formats` alone; every configuration is read back by it.

use overflowml_formats::{ConfigError, parse_config, supported_architectures};
use overflowml_types::{DType, DecoderSpec};
use serde_json::{Map, Value, json};

use super::mixture;
use super::shape::Shape;
use super::tokenizer;

/// A supported family, by the two names that `config.json` has for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Family {
    pub(super) architecture: &'static str,
    pub(super) model_type: String,
}

impl Family {
    /// Finds a family by `model_type` (`llama`) or architecture (`LlamaForCausalLM`), whatever
    /// the case.
    pub(super) fn named(name: &str) -> Option<Self> {
        let name = name.trim();
        let mut families = supported_architectures()
            .map(|it| Self { architecture: it, model_type: short_name(it) });
        families.find(|family| {
            name.eq_ignore_ascii_case(family.architecture)
                || name.eq_ignore_ascii_case(&family.model_type)
                || name.replace('-', "_").eq_ignore_ascii_case(&family.model_type)
        })
    }

    /// Whether the language model is a part of something larger, described by `text_config`.
    fn is_nested(&self) -> bool {
        self.architecture.ends_with("ForConditionalGeneration")
    }

    /// A tensor's name in the family's files.
    pub(super) fn tensor_name(&self, name: &str) -> String {
        if self.is_nested() { format!("language_model.{name}") } else { name.to_owned() }
    }

    /// The whole `config.json`.
    pub(super) fn config(&self, shape: &Shape, dtype: DType) -> Result<Value, ConfigError> {
        let mut own = sizes(shape);
        own.extend(extras(self.architecture, shape));
        // Whether the head is tied is the family's default; saying it makes readers agree.
        let tied = read(&self.wrap(own.clone()))?.tied_embeddings;
        own.insert("tie_word_embeddings".to_owned(), json!(tied));
        own.insert("torch_dtype".to_owned(), json!(torch_name(dtype)));
        Ok(self.wrap(own))
    }

    fn wrap(&self, mut own: Map<String, Value>) -> Value {
        let mut outer = Map::new();
        outer.insert("architectures".to_owned(), json!([self.architecture]));
        outer.insert("model_type".to_owned(), json!(self.model_type));
        if !self.is_nested() {
            outer.append(&mut own);
            return Value::Object(outer);
        }
        for name in ["bos_token_id", "eos_token_id", "pad_token_id", "torch_dtype"] {
            if let Some(value) = own.get(name) {
                outer.insert(name.to_owned(), value.clone());
            }
        }
        own.insert("model_type".to_owned(), json!(format!("{}_text", self.model_type)));
        outer.insert("text_config".to_owned(), Value::Object(own));
        Value::Object(outer)
    }
}

/// What `config` describes.
pub(super) fn read(config: &Value) -> Result<DecoderSpec, ConfigError> {
    parse_config(config.to_string().as_bytes())?.decoder()
}

/// The `model_type` of an architecture: the spelling of its name that is read back as it.
pub(super) fn short_name(architecture: &str) -> String {
    let stem = architecture.split("For").next().unwrap_or(architecture);
    let lower = stem.to_ascii_lowercase();
    let candidates = [format!("{lower}_text"), lower, snake_case(stem)];
    let means_it = |name: &&String| {
        let config = json!({ "model_type": name }).to_string();
        let meant = parse_config(config.as_bytes()).ok().and_then(|config| config.architecture());
        meant.as_deref() == Some(architecture)
    };
    candidates.iter().find(means_it).cloned().unwrap_or_else(|| architecture.to_owned())
}

fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}

fn torch_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F16 => "float16",
        DType::F32 => "float32",
        _ => "bfloat16",
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        _ => Map::new(),
    }
}

/// The fields that all families have.
fn sizes(shape: &Shape) -> Map<String, Value> {
    object(json!({
        "vocab_size": shape.vocab,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "bos_token_id": tokenizer::BOS,
        "eos_token_id": tokenizer::EOS,
        "pad_token_id": tokenizer::PAD,
        "initializer_range": 0.02,
        "use_cache": true,
    }))
}

/// What published models of the family say besides.
fn extras(architecture: &str, shape: &Shape) -> Map<String, Value> {
    let gelu = "gelu_pytorch_tanh";
    object(match architecture {
        "MistralForCausalLM" | "MinistralForCausalLM" => {
            json!({ "hidden_act": "silu", "sliding_window": 4096, "rope_theta": 10_000.0 })
        }
        "Qwen2ForCausalLM" | "Qwen3ForCausalLM" => json!({
            "hidden_act": "silu", "use_sliding_window": false, "rope_theta": 1_000_000.0,
        }),
        "Phi3ForCausalLM" => json!({
            "hidden_act": "silu", "sliding_window": null, "rope_theta": 10_000.0,
            "original_max_position_embeddings": 8192,
        }),
        "GemmaForCausalLM" => {
            json!({ "hidden_act": gelu, "hidden_activation": gelu, "rope_theta": 10_000.0 })
        }
        "Gemma2ForCausalLM" => json!({
            "hidden_activation": gelu, "query_pre_attn_scalar": shape.head_dim,
            "sliding_window": 4096, "rope_theta": 10_000.0,
            "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
        }),
        "Gemma3ForCausalLM" | "Gemma3ForConditionalGeneration" => json!({
            "hidden_activation": gelu, "query_pre_attn_scalar": shape.head_dim,
            "sliding_window": 512, "sliding_window_pattern": 6,
            "rope_theta": 1_000_000.0, "rope_local_base_freq": 10_000.0,
        }),
        "SmolLM3ForCausalLM" => json!({
            "hidden_act": "silu", "no_rope_layer_interval": 4, "use_sliding_window": false,
            "rope_theta": 2_000_000.0,
        }),
        "Olmo3ForCausalLM" => {
            json!({ "hidden_act": "silu", "sliding_window": 4096, "rope_theta": 500_000.0 })
        }
        "GraniteForCausalLM" => json!({
            "hidden_act": "silu", "rope_theta": 10_000.0, "embedding_multiplier": 12.0,
            "residual_multiplier": 0.22, "logits_scaling": 8.0,
            "attention_multiplier": 1.0 / f64::from(shape.head_dim),
        }),
        "SeedOssForCausalLM" => json!({
            "hidden_act": "silu", "attention_bias": true, "attention_out_bias": false,
            "rope_theta": 10_000_000.0,
        }),
        name if mixture::is_mixture(name) => mixture::extras(name, shape),
        // Nothing that the defaults do not say.
        _ => json!({ "hidden_act": "silu", "rope_theta": 500_000.0 }),
    })
}
