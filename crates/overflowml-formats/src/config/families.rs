//! Data table: what sets each model family apart, with the defaults of its configuration class in
//! `transformers` 5 for fields that `config.json` leaves out.

use overflowml_types::{Norms, QkNorm};

/// One architecture.
pub(super) struct Family {
    pub(super) architecture: &'static str,
    pub(super) model_type: &'static str,
    /// The object inside `config.json` that describes the language model.
    pub(super) nested_in: Option<&'static str>,
    pub(super) sizes: Sizes,
    /// `tie_word_embeddings`.
    pub(super) tied: bool,
    /// `rms_norm_eps`.
    pub(super) norm_eps: f32,
    /// `max_position_embeddings`.
    pub(super) context: usize,
    /// `rope_theta`.
    pub(super) theta: f64,
    /// The field that names the activation, and what it means if absent.
    pub(super) activation: (&'static str, &'static str),
    pub(super) norms: Norms,
    pub(super) norm_weight_offset: f32,
    pub(super) qk_norm: QkNorm,
    pub(super) qkv_bias: Bias,
    pub(super) out_bias: Bias,
    pub(super) mlp_bias: Bias,
    /// Query/key/value and gate/up are stored as one matrix each.
    pub(super) fused: bool,
    pub(super) scales: ScaleRule,
    /// `attn_logit_softcapping` and `final_logit_softcapping`.
    pub(super) softcap: SoftCap,
    pub(super) windows: Windows,
    pub(super) ropes: Ropes,
    pub(super) mixture: Mixture,
    /// Keys and values are made from a latent vector (DeepSeek).
    pub(super) latent: bool,
}

/// Defaults of sizes; `None` where every published model says it.
pub(super) struct Sizes {
    pub(super) vocab: Option<usize>,
    pub(super) hidden: Option<usize>,
    pub(super) intermediate: Option<usize>,
    pub(super) layers: Option<usize>,
    pub(super) heads: Option<usize>,
    /// `num_key_value_heads`; as many as heads if `None`.
    pub(super) kv_heads: Option<usize>,
    /// `head_dim`; `hidden / heads` if `None`.
    pub(super) head_dim: Option<usize>,
}

/// Whether projections add a bias.
#[derive(Clone, Copy)]
pub(super) enum Bias {
    Never,
    Always,
    /// If this field says so, else this.
    Field(&'static str, bool),
}

/// Where the multipliers come from.
#[derive(Clone, Copy)]
pub(super) enum ScaleRule {
    /// `1 / sqrt(head_dim)` on attention, nothing else.
    Plain,
    /// Embeddings times `sqrt(hidden)`; attention by `query_pre_attn_scalar` if `true`.
    Gemma { query_scalar: bool },
    /// Four multipliers of its own.
    Granite,
    /// `1 / sqrt(width of a query)`, changed by YaRN's `mscale_all_dim`.
    Latent,
}

/// Soft caps.
#[derive(Clone, Copy)]
pub(super) enum SoftCap {
    None,
    /// On attention scores and logits, with these defaults.
    Both {
        attention: f32,
        logits: f32,
    },
    /// On logits only, if the field says so.
    Logits,
}

/// Whose mixture of experts it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mixture {
    None,
    Mixtral,
    Qwen2,
    Qwen3,
    Olmoe,
    GptOss,
    DeepseekV2,
    DeepseekV3,
}

/// Which layers see only a window.
#[derive(Clone, Copy)]
pub(super) enum Windows {
    Never,
    /// All, if `sliding_window` is set; this is its default where the field is absent. By
    /// `layer_types` where that is there and `by_type`.
    EveryLayer {
        default: Option<usize>,
        by_type: bool,
    },
    /// None unless `use_sliding_window`. Then by `layer_types`; without it, those from
    /// `max_window_layers` on.
    FromLayer,
    /// By `layer_types`; without it, all but every `every`-th, of this width by default.
    AllBut {
        every: usize,
        every_field: Option<&'static str>,
        width: usize,
    },
    /// All if `use_sliding_window`.
    EveryLayerIfUsed,
    /// None unless `use_sliding_window`. Then by `layer_types`; without it, every other one of those
    /// before `max_window_layers`.
    EveryOther,
    /// By `layer_types`; without it, those without rotary embedding if `use_sliding_window`.
    WithoutRope,
}

/// Which layers have which rotary embedding.
#[derive(Clone, Copy)]
pub(super) enum Ropes {
    /// One for all.
    One,
    /// One that rotates a part of each head (`partial_rotary_factor`); its
    /// `original_max_position_embeddings` is the model's own field, with this default.
    Partial { original_context: usize },
    /// One, but some layers have none (`no_rope_layers`).
    Some,
    /// One for windowed layers, one for the others, with this default base for the windowed.
    PerLayerType { local_field: &'static str, local_theta: f64 },
}

const SAID: Sizes = Sizes {
    vocab: None,
    hidden: None,
    intermediate: None,
    layers: None,
    heads: None,
    kv_heads: None,
    head_dim: None,
};

const LLAMA: Family = Family {
    architecture: "LlamaForCausalLM",
    model_type: "llama",
    nested_in: None,
    sizes: SAID,
    tied: false,
    norm_eps: 1e-6,
    context: 2048,
    theta: 10_000.0,
    activation: ("hidden_act", "silu"),
    norms: Norms::Before,
    norm_weight_offset: 0.0,
    qk_norm: QkNorm::None,
    qkv_bias: Bias::Field("attention_bias", false),
    out_bias: Bias::Field("attention_bias", false),
    mlp_bias: Bias::Field("mlp_bias", false),
    fused: false,
    scales: ScaleRule::Plain,
    softcap: SoftCap::None,
    windows: Windows::Never,
    ropes: Ropes::One,
    mixture: Mixture::None,
    latent: false,
};

const MISTRAL: Family = Family {
    architecture: "MistralForCausalLM",
    model_type: "mistral",
    sizes: Sizes { kv_heads: Some(8), ..SAID },
    context: 131_072,
    qkv_bias: Bias::Never,
    out_bias: Bias::Never,
    mlp_bias: Bias::Never,
    windows: Windows::EveryLayer { default: Some(4096), by_type: false },
    ..LLAMA
};

const MINISTRAL: Family = Family {
    architecture: "MinistralForCausalLM",
    model_type: "ministral",
    windows: Windows::EveryLayer { default: Some(4096), by_type: true },
    ..MISTRAL
};

const QWEN2: Family = Family {
    architecture: "Qwen2ForCausalLM",
    model_type: "qwen2",
    sizes: Sizes { kv_heads: Some(32), ..SAID },
    context: 32_768,
    qkv_bias: Bias::Always,
    out_bias: Bias::Never,
    mlp_bias: Bias::Never,
    windows: Windows::FromLayer,
    ..LLAMA
};

const QWEN3: Family = Family {
    architecture: "Qwen3ForCausalLM",
    model_type: "qwen3",
    sizes: Sizes { kv_heads: Some(32), head_dim: Some(128), ..SAID },
    qk_norm: QkNorm::PerHead,
    qkv_bias: Bias::Field("attention_bias", false),
    out_bias: Bias::Field("attention_bias", false),
    ..QWEN2
};

const PHI3: Family = Family {
    architecture: "Phi3ForCausalLM",
    model_type: "phi3",
    norm_eps: 1e-5,
    context: 4096,
    qkv_bias: Bias::Never,
    out_bias: Bias::Never,
    mlp_bias: Bias::Never,
    fused: true,
    windows: Windows::EveryLayer { default: None, by_type: false },
    ropes: Ropes::Partial { original_context: 4096 },
    ..LLAMA
};

const GEMMA: Family = Family {
    architecture: "GemmaForCausalLM",
    model_type: "gemma",
    sizes: Sizes { kv_heads: Some(16), head_dim: Some(256), ..SAID },
    tied: true,
    context: 8192,
    activation: ("hidden_act", "gelu_pytorch_tanh"),
    norm_weight_offset: 1.0,
    mlp_bias: Bias::Never,
    scales: ScaleRule::Gemma { query_scalar: false },
    ..LLAMA
};

const GEMMA2: Family = Family {
    architecture: "Gemma2ForCausalLM",
    model_type: "gemma2",
    sizes: Sizes { kv_heads: Some(4), head_dim: Some(256), ..SAID },
    activation: ("hidden_activation", "gelu_pytorch_tanh"),
    norms: Norms::Around,
    scales: ScaleRule::Gemma { query_scalar: true },
    softcap: SoftCap::Both { attention: 50.0, logits: 30.0 },
    windows: Windows::AllBut { every: 2, every_field: None, width: 4096 },
    ..GEMMA
};

const GEMMA3: Family = Family {
    architecture: "Gemma3ForCausalLM",
    model_type: "gemma3_text",
    // Published text_config objects leave out whatever equals these.
    sizes: Sizes {
        vocab: Some(262_208),
        hidden: Some(2304),
        intermediate: Some(9216),
        layers: Some(26),
        heads: Some(8),
        kv_heads: Some(4),
        head_dim: Some(256),
    },
    context: 131_072,
    theta: 1_000_000.0,
    qk_norm: QkNorm::PerHead,
    // `transformers` ignores attn_logit_softcapping here.
    softcap: SoftCap::Logits,
    windows: Windows::AllBut { every: 6, every_field: Some("sliding_window_pattern"), width: 4096 },
    ropes: Ropes::PerLayerType { local_field: "rope_local_base_freq", local_theta: 10_000.0 },
    ..GEMMA2
};

const SMOLLM3: Family = Family {
    architecture: "SmolLM3ForCausalLM",
    model_type: "smollm3",
    sizes: Sizes { kv_heads: Some(4), ..SAID },
    tied: true,
    context: 32_768,
    theta: 2_000_000.0,
    windows: Windows::WithoutRope,
    ropes: Ropes::Some,
    ..LLAMA
};

const OLMO2: Family = Family {
    architecture: "Olmo2ForCausalLM",
    model_type: "olmo2",
    norm_eps: 1e-5,
    norms: Norms::After,
    qk_norm: QkNorm::Whole,
    mlp_bias: Bias::Never,
    ..LLAMA
};

const OLMO3: Family = Family {
    architecture: "Olmo3ForCausalLM",
    model_type: "olmo3",
    theta: 500_000.0,
    windows: Windows::AllBut { every: 4, every_field: None, width: 4096 },
    ropes: Ropes::PerLayerType { local_field: "rope_theta", local_theta: 500_000.0 },
    ..OLMO2
};

const GRANITE: Family = Family {
    architecture: "GraniteForCausalLM",
    model_type: "granite",
    scales: ScaleRule::Granite,
    ..LLAMA
};

const SEED_OSS: Family = Family {
    architecture: "SeedOssForCausalLM",
    model_type: "seed_oss",
    sizes: Sizes { kv_heads: Some(8), head_dim: Some(128), ..SAID },
    context: 524_288,
    qkv_bias: Bias::Field("attention_bias", true),
    out_bias: Bias::Field("attention_out_bias", false),
    ..LLAMA
};

const MIXTRAL: Family = Family {
    architecture: "MixtralForCausalLM",
    model_type: "mixtral",
    sizes: Sizes {
        vocab: Some(32_000),
        hidden: Some(4096),
        intermediate: Some(14_336),
        layers: Some(32),
        heads: Some(32),
        kv_heads: Some(8),
        head_dim: None,
    },
    norm_eps: 1e-5,
    theta: 1_000_000.0,
    windows: Windows::EveryLayer { default: None, by_type: false },
    mixture: Mixture::Mixtral,
    ..MISTRAL
};

const QWEN2_MOE: Family = Family {
    architecture: "Qwen2MoeForCausalLM",
    model_type: "qwen2_moe",
    sizes: Sizes {
        vocab: Some(151_936),
        hidden: Some(2048),
        intermediate: Some(5632),
        layers: Some(24),
        heads: Some(16),
        kv_heads: Some(16),
        head_dim: None,
    },
    qkv_bias: Bias::Field("qkv_bias", true),
    windows: Windows::EveryOther,
    mixture: Mixture::Qwen2,
    ..QWEN2
};

const QWEN3_MOE: Family = Family {
    architecture: "Qwen3MoeForCausalLM",
    model_type: "qwen3_moe",
    sizes: Sizes {
        vocab: Some(151_936),
        hidden: Some(2048),
        intermediate: Some(6144),
        layers: Some(24),
        heads: Some(32),
        kv_heads: Some(4),
        head_dim: None,
    },
    windows: Windows::EveryLayerIfUsed,
    mixture: Mixture::Qwen3,
    ..QWEN3
};

const OLMOE: Family = Family {
    architecture: "OlmoeForCausalLM",
    model_type: "olmoe",
    sizes: Sizes {
        vocab: Some(50_304),
        hidden: Some(2048),
        intermediate: Some(2048),
        layers: Some(16),
        heads: Some(16),
        kv_heads: None,
        head_dim: None,
    },
    norm_eps: 1e-5,
    context: 4096,
    qk_norm: QkNorm::Whole,
    mlp_bias: Bias::Never,
    mixture: Mixture::Olmoe,
    ..LLAMA
};

const GPT_OSS: Family = Family {
    architecture: "GptOssForCausalLM",
    model_type: "gpt_oss",
    sizes: Sizes {
        vocab: Some(201_088),
        hidden: Some(2880),
        intermediate: Some(2880),
        layers: Some(36),
        heads: Some(64),
        kv_heads: Some(8),
        head_dim: Some(64),
    },
    norm_eps: 1e-5,
    context: 131_072,
    theta: 150_000.0,
    qkv_bias: Bias::Field("attention_bias", true),
    out_bias: Bias::Field("attention_bias", true),
    mlp_bias: Bias::Never,
    windows: Windows::AllBut { every: 2, every_field: None, width: 128 },
    mixture: Mixture::GptOss,
    ..LLAMA
};

const DEEPSEEK_V2: Family = Family {
    architecture: "DeepseekV2ForCausalLM",
    model_type: "deepseek_v2",
    sizes: Sizes {
        vocab: Some(102_400),
        hidden: Some(4096),
        intermediate: Some(11_008),
        layers: Some(32),
        heads: Some(32),
        kv_heads: None,
        head_dim: None,
    },
    qkv_bias: Bias::Never,
    mlp_bias: Bias::Never,
    scales: ScaleRule::Latent,
    mixture: Mixture::DeepseekV2,
    latent: true,
    ..LLAMA
};

const DEEPSEEK_V3: Family = Family {
    architecture: "DeepseekV3ForCausalLM",
    model_type: "deepseek_v3",
    sizes: Sizes {
        vocab: Some(129_280),
        hidden: Some(7168),
        intermediate: Some(18_432),
        layers: Some(61),
        heads: Some(128),
        kv_heads: None,
        head_dim: None,
    },
    context: 4096,
    mixture: Mixture::DeepseekV3,
    ..DEEPSEEK_V2
};

/// Every family that runs, in the order in which messages list them.
pub(super) const FAMILIES: &[Family] = &[
    LLAMA,
    MISTRAL,
    MINISTRAL,
    QWEN2,
    QWEN3,
    PHI3,
    GEMMA,
    GEMMA2,
    GEMMA3,
    Family {
        architecture: "Gemma3ForConditionalGeneration",
        model_type: "gemma3",
        nested_in: Some("text_config"),
        ..GEMMA3
    },
    SMOLLM3,
    OLMO2,
    OLMO3,
    GRANITE,
    SEED_OSS,
    MIXTRAL,
    QWEN2_MOE,
    QWEN3_MOE,
    OLMOE,
    GPT_OSS,
    DEEPSEEK_V2,
    DEEPSEEK_V3,
];
