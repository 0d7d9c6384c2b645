use serde::Serialize;

use crate::{ExpertsSpec, LatentSpec};

/// What a decoder-only language model computes, as data: one executor runs them all.
///
/// Made from a model's `config.json` by `overflowml-formats`. Sizes are in elements.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DecoderSpec {
    /// The name in `config.json`, for example `LlamaForCausalLM`.
    pub architecture: String,
    /// Rows of the embedding and of the output head.
    pub vocab: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width inside the feed-forward part.
    pub intermediate: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of one head; not always `hidden / heads`.
    pub head_dim: usize,
    /// The layers, first to last.
    pub layers: Vec<LayerSpec>,
    /// The distinct rotary embeddings that layers refer to.
    pub ropes: Vec<RopeSpec>,
    /// Which normalisations a layer has.
    pub norms: Norms,
    /// Added inside the square root of every RMS norm.
    pub norm_eps: f32,
    /// Added to every norm weight: 1 for Gemma, whose files store `weight - 1`.
    pub norm_weight_offset: f32,
    /// Normalisation of queries and keys before the rotary embedding.
    pub qk_norm: QkNorm,
    /// Gate of the feed-forward part.
    pub activation: Activation,
    /// Query, key and value projections add a bias.
    pub qkv_bias: bool,
    /// The attention output projection adds a bias.
    pub out_bias: bool,
    /// The feed-forward projections add biases.
    pub mlp_bias: bool,
    /// Query, key and value are stored as one matrix, in that order (Phi-3).
    pub fused_qkv: bool,
    /// Gate and up are stored as one matrix, in that order (Phi-3).
    pub fused_gate_up: bool,
    /// The output head is the embedding matrix.
    pub tied_embeddings: bool,
    /// Multipliers at fixed places.
    pub scales: Scales,
    /// `s` in `s * tanh(score / s)` on attention scores (Gemma 2).
    pub attention_softcap: Option<f32>,
    /// `s` in `s * tanh(logit / s)` on the output (Gemma 2).
    pub logit_softcap: Option<f32>,
    /// Bound on every element of queries, keys and values (OLMoE).
    pub qkv_clip: Option<f32>,
    /// Every head has one more score, which takes weight from the others and adds nothing (gpt-oss).
    pub sinks: bool,
    /// Attention by way of a short vector; then `kv_heads` is `heads` and `head_dim` a query's.
    pub latent: Option<LatentSpec>,
    /// The experts of the layers that have them.
    pub experts: Option<ExpertsSpec>,
    /// The longest sequence the model was made for, in tokens.
    pub max_context: usize,
}

/// What differs from layer to layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct LayerSpec {
    /// A query sees only this many latest positions, itself included; `None` sees all.
    pub window: Option<usize>,
    /// Index into [`DecoderSpec::ropes`]; `None` for a layer without position embedding.
    pub rope: Option<usize>,
    /// Its feed-forward part is a mixture of experts.
    pub experts: bool,
}

/// Which RMS norms a layer has, around attention and feed-forward alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Norms {
    /// Before each part (Llama).
    Before,
    /// Before and after each part (Gemma 2 and 3).
    Around,
    /// After each part (OLMo 2).
    After,
}

/// RMS normalisation of queries and keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum QkNorm {
    /// None.
    None,
    /// Each head on its own, one weight of `head_dim` for all (Qwen3, Gemma 3).
    PerHead,
    /// All heads together, one weight over the whole projection (OLMo 2).
    Whole,
}

/// The gate's non-linearity.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// GELU by its tanh approximation (`gelu_pytorch_tanh`).
    GeluTanh,
    /// GELU by the error function.
    Gelu,
    /// `x * sigmoid(alpha * x)` with `x` at most `limit`; up lies within `limit` and has 1 added
    /// (gpt-oss).
    ClampedSwish {
        /// Steepness.
        alpha: f32,
        /// Bound.
        limit: f32,
    },
}

/// Multipliers; all 1 for Llama.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Scales {
    /// On the embedding (Gemma: `sqrt(hidden)`).
    pub embedding: f32,
    /// On what each part adds to the residual stream (Granite).
    pub residual: f32,
    /// On `query · key` (usually `1 / sqrt(head_dim)`).
    pub attention: f32,
    /// On the logits, before any soft cap (Granite: `1 / logits_scaling`).
    pub logits: f32,
}

/// One rotary position embedding.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RopeSpec {
    /// How many of a head's first elements rotate; even, at most `head_dim`.
    pub rotary_dim: usize,
    /// Base of the frequencies.
    pub theta: f64,
    /// Change of the frequencies for longer contexts.
    pub scaling: RopeScaling,
}

/// How rotary frequencies are stretched. Field names follow `config.json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "rope_type")]
#[allow(missing_docs)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Positions divided by `factor`.
    Linear { factor: f64 },
    /// Llama 3.1: low frequencies divided by `factor`, a smooth transition above.
    Llama3 { factor: f64, low_freq_factor: f64, high_freq_factor: f64, original_context: f64 },
    /// YaRN; `attention_factor` multiplies sine and cosine.
    Yarn {
        factor: f64,
        beta_fast: f64,
        beta_slow: f64,
        original_context: f64,
        attention_factor: f64,
        truncate: bool,
    },
    /// Phi-3: one factor per frequency, `long` beyond `original_context`.
    LongRope { short: Vec<f64>, long: Vec<f64>, original_context: usize, attention_factor: f64 },
}

impl DecoderSpec {
    /// Elements of all query heads of one token.
    pub const fn query_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Elements of all key (or value) heads of one token, where there is no latent vector.
    pub const fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Elements of one token that all projections before attention make.
    pub const fn projected_width(&self) -> usize {
        match &self.latent {
            Some(latent) => self.query_width() + latent.width(),
            None => self.query_width() + 2 * self.kv_width(),
        }
    }

    /// Elements of one token that attention makes.
    pub const fn attended_width(&self) -> usize {
        match &self.latent {
            Some(latent) => self.heads * latent.value_dim,
            None => self.query_width(),
        }
    }

    /// The experts of a layer, if it has any.
    pub fn experts_of(&self, layer: usize) -> Option<&ExpertsSpec> {
        self.experts.as_ref().filter(|_| self.layers.get(layer).is_some_and(|it| it.experts))
    }

    /// The widest feed-forward part that any layer has: dense, shared or of one expert.
    pub fn widest_feed_forward(&self) -> usize {
        let dense = self.layers.iter().any(|layer| !layer.experts);
        let dense = if dense || self.experts.is_none() { self.intermediate } else { 0 };
        let routed = self.experts.as_ref().map_or(0, |experts| {
            experts.intermediate.max(experts.shared.map_or(0, |shared| shared.intermediate))
        });
        dense.max(routed)
    }
}
