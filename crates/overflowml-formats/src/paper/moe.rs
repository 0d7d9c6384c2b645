//! Decoders with routed experts and plain attention: Mixtral, Qwen-MoE, OLMoE, GLM-MoE, gpt-oss.

use overflowml_types::LayerCache;

use super::text::{Defaults, QkNorm, Text, layers_of_type};
use super::{Facts, Pen};
use crate::ConfigError;
use crate::config::Fields;

/// The routed part of a layer, with experts of three matrices each.
#[derive(Clone, Copy, Debug)]
pub(super) struct Routed {
    pub(super) experts: u64,
    pub(super) active: u64,
    /// Width inside one expert.
    pub(super) inner: u64,
}

impl Routed {
    /// Router and experts, in the part `name`.
    pub(super) fn draw(&self, pen: &mut Pen<'_>, name: &str, hidden: u64) {
        let mut pen = pen.part(name);
        pen.kept_linear("gate", hidden, self.experts, false);
        let mut pen = pen.part("experts");
        pen.experts("gate_proj", self.experts, hidden, self.inner, false);
        pen.experts("up_proj", self.experts, hidden, self.inner, false);
        pen.experts("down_proj", self.experts, self.inner, hidden, false);
    }

    /// Width that one token uses, beside `shared`.
    pub(super) const fn width(&self, shared: u64) -> u64 {
        self.inner.saturating_mul(self.active).saturating_add(shared)
    }
}

/// How many experts there are, by whichever name.
pub(super) fn experts(fields: &Fields<'_>, default: u64) -> Result<u64, ConfigError> {
    for name in ["num_experts", "num_local_experts", "n_routed_experts"] {
        if let Some(count) = fields.said(name)? {
            return Ok(count);
        }
    }
    Ok(default)
}

pub(super) fn mixtral(fields: &Fields<'_>, pen: &mut Pen<'_>) -> Result<Facts, ConfigError> {
    let text = Text::read(
        fields,
        &Defaults {
            vocab: 32_000,
            hidden: 4096,
            layers: 32,
            heads: 32,
            kv_heads: 8,
            head_dim: 0,
            context: 131_072,
            attention_bias: false,
        },
    )?;
    let routed = Routed {
        experts: experts(fields, 8)?,
        active: fields.count_or("num_experts_per_tok", 2)?,
        inner: fields.count_or("intermediate_size", 14_336)?,
    };
    text.draw(pen, "model", |_, pen| {
        text.attention(pen, false, false, QkNorm::None);
        routed.draw(pen, "block_sparse_moe", text.hidden);
        Ok(())
    })?;
    let cache = text.cache(fields.said("sliding_window")?);
    let caches = vec![cache; text.layers as usize];
    Ok(text.facts(routed.width(0), caches, Some(routed.active)))
}

/// Which layers of Qwen's mixtures have experts.
pub(super) struct Sparse {
    step: u64,
    dense: Vec<u64>,
}

impl Sparse {
    pub(super) fn read(fields: &Fields<'_>) -> Result<Self, ConfigError> {
        Ok(Self {
            step: fields.count_or("decoder_sparse_step", 1)?,
            dense: fields.counts("mlp_only_layers")?.unwrap_or_default(),
        })
    }

    pub(super) fn has_experts(&self, layer: u64, routed: &Routed) -> bool {
        routed.experts > 0
            && !self.dense.contains(&layer)
            && self.step > 0
            && (layer + 1).is_multiple_of(self.step)
    }
}

pub(super) fn qwen2(fields: &Fields<'_>, pen: &mut Pen<'_>) -> Result<Facts, ConfigError> {
    let text = Text::read(fields, &QWEN)?;
    let routed = Routed {
        experts: experts(fields, 60)?,
        active: fields.count_or("num_experts_per_tok", 4)?,
        inner: fields.count_or("moe_intermediate_size", 1408)?,
    };
    let shared = fields.count_or("shared_expert_intermediate_size", 5632)?;
    let dense = fields.count_or("intermediate_size", 5632)?;
    let bias = fields.flag("qkv_bias", true)?;
    let sparse = Sparse::read(fields)?;
    text.draw(pen, "model", |layer, pen| {
        text.attention(pen, bias, false, QkNorm::None);
        if sparse.has_experts(layer, &routed) {
            shared_expert(&text, pen, shared);
            routed.draw(pen, "mlp", text.hidden);
        } else {
            text.mlp(pen, "mlp", dense, false);
        }
        Ok(())
    })?;
    let caches = windows(&text, fields, |layer, most| {
        // As `transformers` has it, in place of `layer_types`.
        layer % 2 == 0 && layer < most
    })?;
    Ok(text.facts(routed.width(shared), caches, Some(routed.active)))
}

/// The expert that all tokens use, behind a gate of its own.
pub(super) fn shared_expert(text: &Text, pen: &mut Pen<'_>, inner: u64) {
    pen.linear("mlp.shared_expert_gate", text.hidden, 1, false);
    text.mlp(pen, "mlp.shared_expert", inner, false);
}

const QWEN: Defaults = Defaults {
    vocab: 151_936,
    hidden: 2048,
    layers: 24,
    heads: 16,
    kv_heads: 16,
    head_dim: 0,
    context: 32_768,
    attention_bias: false,
};

pub(super) fn qwen3(fields: &Fields<'_>, pen: &mut Pen<'_>) -> Result<Facts, ConfigError> {
    let text = Text::read(fields, &Defaults { heads: 32, kv_heads: 4, ..QWEN })?;
    let routed = Routed {
        experts: experts(fields, 128)?,
        active: fields.count_or("num_experts_per_tok", 8)?,
        inner: fields.count_or("moe_intermediate_size", 768)?,
    };
    let dense = fields.count_or("intermediate_size", 6144)?;
    let sparse = Sparse::read(fields)?;
    let bias = text.attention_bias;
    text.draw(pen, "model", |layer, pen| {
        text.attention(pen, bias, bias, QkNorm::PerHead);
        match sparse.has_experts(layer, &routed) {
            true => routed.draw(pen, "mlp", text.hidden),
            false => text.mlp(pen, "mlp", dense, false),
        }
        Ok(())
    })?;
    let caches = windows(&text, fields, |_, _| true)?;
    Ok(text.facts(routed.width(0), caches, Some(routed.active)))
}

/// Caches where `use_sliding_window` may switch windows on.
fn windows(
    text: &Text,
    fields: &Fields<'_>,
    by_default: impl Fn(u64, u64) -> bool,
) -> Result<Vec<LayerCache>, ConfigError> {
    let on = fields.flag("use_sliding_window", false)?;
    let window = if on { fields.said("sliding_window")? } else { None };
    let most = fields.count_or("max_window_layers", 28)?;
    let said = layers_of_type(fields, text.layers, "sliding_attention")?;
    let windowed =
        said.unwrap_or_else(|| (0..text.layers).map(|layer| by_default(layer, most)).collect());
    Ok(windowed.into_iter().map(|on| text.cache(window.filter(|_| on))).collect())
}

pub(super) fn olmoe(fields: &Fields<'_>, pen: &mut Pen<'_>) -> Result<Facts, ConfigError> {
    let defaults = Defaults { vocab: 50_304, layers: 16, kv_heads: 0, context: 4096, ..QWEN };
    let text = Text::read(fields, &defaults)?;
    let routed = Routed {
        experts: experts(fields, 64)?,
        active: fields.count_or("num_experts_per_tok", 8)?,
        inner: fields.count_or("intermediate_size", 2048)?,
    };
    let bias = text.attention_bias;
    text.draw(pen, "model", |_, pen| {
        text.attention(pen, bias, bias, QkNorm::Whole);
        routed.draw(pen, "mlp", text.hidden);
        Ok(())
    })?;
    let caches = vec![text.cache(None); text.layers as usize];
    Ok(text.facts(routed.width(0), caches, Some(routed.active)))
}

pub(super) fn glm4(fields: &Fields<'_>, pen: &mut Pen<'_>) -> Result<Facts, ConfigError> {
    let text = Text::read(
        fields,
        &Defaults {
            vocab: 151_552,
            hidden: 4096,
            layers: 46,
            heads: 96,
            kv_heads: 8,
            head_dim: 0,
            context: 131_072,
            attention_bias: false,
        },
    )?;
    let routed = Routed {
        experts: experts(fields, 128)?,
        active: fields.count_or("num_experts_per_tok", 8)?,
        inner: fields.count_or("moe_intermediate_size", 1408)?,
    };
    let shared = fields.count_or("n_shared_experts", 1)?.saturating_mul(routed.inner);
    let dense = fields.count_or("intermediate_size", 10_944)?;
    let first = fields.count_or("first_k_dense_replace", 1)?;
    let norm = if fields.flag("use_qk_norm", false)? { QkNorm::PerHead } else { QkNorm::None };
    text.draw(pen, "model", |layer, pen| {
        text.attention(pen, text.attention_bias, false, norm);
        if layer < first {
            text.mlp(pen, "mlp", dense, false);
        } else {
            text.mlp(pen, "mlp.shared_experts", shared, false);
            routed.draw(pen, "mlp", text.hidden);
        }
        Ok(())
    })?;
    let caches = vec![text.cache(None); text.layers as usize];
    Ok(text.facts(routed.width(shared), caches, Some(routed.active)))
}

pub(super) fn gpt_oss(fields: &Fields<'_>, pen: &mut Pen<'_>) -> Result<Facts, ConfigError> {
    let text = Text::read(
        fields,
        &Defaults {
            vocab: 201_088,
            hidden: 2880,
            layers: 36,
            heads: 64,
            kv_heads: 8,
            head_dim: 64,
            context: 131_072,
            attention_bias: true,
        },
    )?;
    let routed = Routed {
        experts: experts(fields, 128)?,
        active: fields.count_or("num_experts_per_tok", 4)?,
        inner: fields.count_or("intermediate_size", 2880)?,
    };
    let (hidden, bias) = (text.hidden, text.attention_bias);
    text.draw(pen, "model", |_, pen| {
        text.attention(pen, bias, bias, QkNorm::None);
        pen.parameter("self_attn.sinks", text.heads);
        pen.kept_linear("mlp.router", hidden, routed.experts, true);
        let mut pen = pen.part("mlp.experts");
        let both = routed.inner.saturating_mul(2);
        pen.experts("gate_up_proj", routed.experts, hidden, both, true);
        pen.experts("down_proj", routed.experts, routed.inner, hidden, true);
        Ok(())
    })?;
    let said = layers_of_type(fields, text.layers, "sliding_attention")?;
    let windowed = said.unwrap_or_else(|| (0..text.layers).map(|layer| layer % 2 == 0).collect());
    let window = match fields.is_null("sliding_window") {
        true => None,
        false => Some(fields.count_or("sliding_window", 128)?),
    };
    let caches = windowed.into_iter().map(|on| text.cache(window.filter(|_| on))).collect();
    Ok(text.facts(routed.width(0), caches, Some(routed.active)))
}
