//! Puts a [`DecoderSpec`] together from a family's rules and a model's fields.

use overflowml_types::{Activation, DecoderSpec, LatentSpec, RopeSpec, Scales};

use super::families::{Bias, Family, Mixture, ScaleRule, SoftCap};
use super::{ConfigError, Fields, layers, mixture, rope};
use crate::limits;

/// The sizes that everything else is derived from.
pub(super) struct Dims {
    pub(super) hidden: usize,
    pub(super) layers: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    /// Width of one query head.
    pub(super) head_dim: usize,
    /// Width of the part of it that the rotary embedding may turn.
    pub(super) rope_dim: usize,
    pub(super) context: usize,
    pub(super) latent: Option<LatentSpec>,
}

pub(super) fn decoder(family: &Family, fields: &Fields<'_>) -> Result<DecoderSpec, ConfigError> {
    refuse_bidirectional(fields)?;
    let dims = dims(family, fields)?;
    let (ropes, rotary) = rope::ropes(family, fields, &dims)?;
    let activation = activation(family, fields)?;
    spec(family, fields, &dims, Computed { ropes, rotary, activation })
}

/// The sizes alone: right even where an activation or a rotary embedding is unknown.
pub(super) fn sizes(family: &Family, fields: &Fields<'_>) -> Result<DecoderSpec, ConfigError> {
    let dims = dims(family, fields)?;
    let rotary = rope::rotary(family);
    let activation = Activation::Silu;
    spec(family, fields, &dims, Computed { ropes: Vec::new(), rotary, activation })
}

/// What matters only to what is computed.
struct Computed {
    ropes: Vec<RopeSpec>,
    rotary: rope::Rotary,
    activation: Activation,
}

fn spec(
    family: &Family,
    fields: &Fields<'_>,
    dims: &Dims,
    computed: Computed,
) -> Result<DecoderSpec, ConfigError> {
    let layers = layers::layers(family, fields, dims, computed.rotary)?;
    let (attention_softcap, logit_softcap) = softcaps(family, fields)?;
    let bias = |bias| has_bias(bias, fields);
    Ok(DecoderSpec {
        architecture: family.architecture.to_owned(),
        vocab: size(fields, "vocab_size", family.sizes.vocab, limits::VOCAB)?,
        hidden: dims.hidden,
        intermediate: size(
            fields,
            "intermediate_size",
            family.sizes.intermediate,
            limits::INTERMEDIATE,
        )?,
        heads: dims.heads,
        kv_heads: dims.kv_heads,
        head_dim: dims.head_dim,
        layers,
        ropes: computed.ropes,
        norms: family.norms,
        norm_eps: fields.float_in("rms_norm_eps", 0.0..=1.0)?.unwrap_or(family.norm_eps),
        norm_weight_offset: family.norm_weight_offset,
        qk_norm: family.qk_norm,
        activation: computed.activation,
        qkv_bias: bias(family.qkv_bias)?,
        out_bias: bias(family.out_bias)?,
        mlp_bias: bias(family.mlp_bias)?,
        fused_qkv: family.fused,
        fused_gate_up: family.fused,
        tied_embeddings: fields.boolean("tie_word_embeddings")?.unwrap_or(family.tied),
        scales: scales(family, fields, dims)?,
        attention_softcap,
        logit_softcap,
        qkv_clip: qkv_clip(family, fields)?,
        sinks: family.mixture == Mixture::GptOss,
        latent: dims.latent,
        experts: mixture::experts(family.mixture, fields, dims)?,
        max_context: dims.context,
    })
}

/// Refuses weights in a format that only other libraries read.
pub(super) fn refuse_quantized(family: &Family, fields: &Fields<'_>) -> Result<(), ConfigError> {
    // The second is an older name of the first.
    for name in ["quantization_config", "compression_config"] {
        if let Some(quantized) = fields.object(name)? {
            let method = quantized.text("quant_method")?.unwrap_or("an unnamed method").to_owned();
            if family.mixture == Mixture::GptOss && method == "mxfp4" {
                continue;
            }
            return Err(ConfigError::Quantized { method });
        }
    }
    Ok(())
}

/// Refuses embedding models made from decoders: their tokens see later ones.
fn refuse_bidirectional(fields: &Fields<'_>) -> Result<(), ConfigError> {
    const NAME: &str = "use_bidirectional_attention";
    match fields.boolean(NAME)? {
        Some(true) => Err(ConfigError::Unsupported {
            field: fields.path_to(NAME),
            found: "true".to_owned(),
            supported: "false",
        }),
        _ => Ok(()),
    }
}

fn dims(family: &Family, fields: &Fields<'_>) -> Result<Dims, ConfigError> {
    let sizes = &family.sizes;
    let hidden = size(fields, "hidden_size", sizes.hidden, limits::HIDDEN)?;
    let heads = size(fields, "num_attention_heads", sizes.heads, limits::HEADS)?;
    let latent = family.latent.then(|| mixture::latent(fields, family.mixture)).transpose()?;
    let (kv_heads, head_dim) = match &latent {
        Some(latent) => (heads, latent.query_dim()),
        None => (kv_heads(family, fields, heads)?, head_dim(family, fields, hidden, heads)?),
    };
    if heads.saturating_mul(head_dim) > limits::HIDDEN {
        return Err(contradiction(fields, "head_dim", head_dim, "num_attention_heads", heads));
    }
    let context = fields.positive("max_position_embeddings", limits::CONTEXT)?;
    Ok(Dims {
        hidden,
        layers: size(fields, "num_hidden_layers", sizes.layers, limits::LAYERS)?,
        heads,
        kv_heads,
        head_dim,
        rope_dim: latent.map_or(head_dim, |latent| latent.rope_dim),
        context: context.unwrap_or(family.context),
        latent,
    })
}

fn head_dim(
    family: &Family,
    fields: &Fields<'_>,
    hidden: usize,
    heads: usize,
) -> Result<usize, ConfigError> {
    match fields.positive("head_dim", limits::HEAD_DIM)?.or(family.sizes.head_dim) {
        Some(head_dim) => Ok(head_dim),
        None if hidden.is_multiple_of(heads) => Ok(hidden / heads),
        None => Err(contradiction(fields, "num_attention_heads", heads, "hidden_size", hidden)),
    }
}

/// OLMoE's bound on projections.
fn qkv_clip(family: &Family, fields: &Fields<'_>) -> Result<Option<f32>, ConfigError> {
    match family.mixture {
        Mixture::Olmoe => fields.float_in("clip_qkv", 1e-6..=1e30),
        _ => Ok(None),
    }
}

/// Absent means the family's default, `null` as many as heads.
fn kv_heads(family: &Family, fields: &Fields<'_>, heads: usize) -> Result<usize, ConfigError> {
    const NAME: &str = "num_key_value_heads";
    let kv_heads = match fields.positive(NAME, limits::HEADS)? {
        Some(kv_heads) => kv_heads,
        None if fields.is_null(NAME) => heads,
        None => family.sizes.kv_heads.unwrap_or(heads),
    };
    match heads.is_multiple_of(kv_heads) {
        true => Ok(kv_heads),
        false => Err(contradiction(fields, NAME, kv_heads, "num_attention_heads", heads)),
    }
}

pub(super) fn size(
    fields: &Fields<'_>,
    name: &str,
    default: Option<usize>,
    most: usize,
) -> Result<usize, ConfigError> {
    fields.positive(name, most)?.or(default).ok_or_else(|| fields.missing(name))
}

pub(super) fn contradiction(
    fields: &Fields<'_>,
    name: &str,
    found: usize,
    other: &'static str,
    value: usize,
) -> ConfigError {
    ConfigError::Contradiction {
        field: fields.path_to(name),
        found: found.to_string(),
        other,
        value: value.to_string(),
    }
}

fn has_bias(bias: Bias, fields: &Fields<'_>) -> Result<bool, ConfigError> {
    match bias {
        Bias::Never => Ok(false),
        Bias::Always => Ok(true),
        Bias::Field(name, default) => Ok(fields.boolean(name)?.unwrap_or(default)),
    }
}

fn activation(family: &Family, fields: &Fields<'_>) -> Result<Activation, ConfigError> {
    if family.mixture == Mixture::GptOss {
        let number = |name, default| Ok(fields.float_in(name, 0.0..=1e6)?.unwrap_or(default));
        let (alpha, limit) = (number("swiglu_alpha", 1.702)?, number("swiglu_limit", 7.0)?);
        return Ok(Activation::ClampedSwish { alpha, limit });
    }
    let (field, default) = family.activation;
    let name = fields.text(field)?.unwrap_or(default);
    match name {
        "silu" | "swish" => Ok(Activation::Silu),
        "gelu_pytorch_tanh" | "gelu_new" => Ok(Activation::GeluTanh),
        // The first Gemma's files say `gelu` and mean the approximation.
        "gelu" if family.architecture == "GemmaForCausalLM" => Ok(Activation::GeluTanh),
        "gelu" => Ok(Activation::Gelu),
        other => Err(ConfigError::Unsupported {
            field: fields.path_to(field),
            found: other.to_owned(),
            supported: "silu, gelu, gelu_pytorch_tanh",
        }),
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)] // rounding is meant
fn scales(family: &Family, fields: &Fields<'_>, dims: &Dims) -> Result<Scales, ConfigError> {
    let inverse_root = |value: f64| value.sqrt().recip() as f32;
    let plain = Scales {
        embedding: 1.0,
        residual: 1.0,
        attention: inverse_root(dims.head_dim as f64),
        logits: 1.0,
    };
    let factor = |name| Ok::<_, ConfigError>(fields.positive_float(name)?.unwrap_or(1.0));
    match family.scales {
        ScaleRule::Plain => Ok(plain),
        ScaleRule::Latent => {
            let stretch = rope::latent_stretch(fields)? as f32;
            Ok(Scales { attention: plain.attention * stretch * stretch, ..plain })
        }
        ScaleRule::Gemma { query_scalar } => {
            let scalar = fields.positive_float("query_pre_attn_scalar")?.unwrap_or(256.0);
            let attention = if query_scalar { inverse_root(scalar) } else { plain.attention };
            let embedding = (dims.hidden as f64).sqrt() as f32;
            Ok(Scales { embedding, attention, ..plain })
        }
        ScaleRule::Granite => Ok(Scales {
            embedding: factor("embedding_multiplier")? as f32,
            residual: factor("residual_multiplier")? as f32,
            attention: factor("attention_multiplier")? as f32,
            logits: factor("logits_scaling")?.recip() as f32,
        }),
    }
}

/// The caps on attention scores and on logits. `null` switches a cap off.
fn softcaps(
    family: &Family,
    fields: &Fields<'_>,
) -> Result<(Option<f32>, Option<f32>), ConfigError> {
    let cap = |name: &str, default: Option<f32>| match fields.float_in(name, 1e-6..=1e30)? {
        None if fields.is_null(name) => Ok(None),
        None => Ok(default),
        said => Ok(said),
    };
    match family.softcap {
        SoftCap::None => Ok((None, None)),
        SoftCap::Both { attention, logits } => Ok((
            cap("attn_logit_softcapping", Some(attention))?,
            cap("final_logit_softcapping", Some(logits))?,
        )),
        SoftCap::Logits => Ok((None, cap("final_logit_softcapping", None)?)),
    }
}
