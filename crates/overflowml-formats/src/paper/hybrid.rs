//! Qwen3-Next and Qwen3.5/3.6: gated delta nets with full attention in every fourth layer, dense
//! or with experts.

use overflowml_types::LayerCache;

use super::moe::{Routed, Sparse, experts, shared_expert};
use super::text::{Defaults, Text, layers_of_type};
use super::{Facts, Pen, vision};
use crate::ConfigError;
use crate::config::Fields;

const NEXT: Defaults = Defaults {
    vocab: 151_936,
    hidden: 2048,
    layers: 48,
    heads: 16,
    kv_heads: 2,
    head_dim: 256,
    context: 32_768,
    attention_bias: false,
};

const DENSE: Defaults = Defaults { vocab: 248_320, hidden: 4096, layers: 32, kv_heads: 4, ..NEXT };

const MOE: Defaults = Defaults { vocab: 248_320, layers: 40, ..NEXT };

pub(super) fn next(fields: &Fields<'_>, pen: &mut Pen<'_>) -> Result<Facts, ConfigError> {
    let text = Text::read(fields, &NEXT)?;
    let mixture = Mixture::read(fields, 512, 10)?;
    let dense = fields.count_or("intermediate_size", 5632)?;
    draw(fields, pen, "model", &text, true, Some(&mixture), dense)
}

pub(super) fn dense(fields: &Fields<'_>, pen: &mut Pen<'_>) -> Result<Facts, ConfigError> {
    let text = Text::read(fields, &DENSE)?;
    let inner = fields.count_or("intermediate_size", 12_288)?;
    draw(fields, pen, "model", &text, false, None, inner)
}

pub(super) fn moe(fields: &Fields<'_>, pen: &mut Pen<'_>) -> Result<Facts, ConfigError> {
    let text = Text::read(fields, &MOE)?;
    let mixture = Mixture::read(fields, 256, 8)?;
    draw(fields, pen, "model", &text, false, Some(&mixture), 0)
}

/// With pictures: the dense one.
pub(super) fn dense_sees(fields: &Fields<'_>, pen: &mut Pen<'_>) -> Result<Facts, ConfigError> {
    let (whole, inner) = (fields, fields.inner("text_config")?);
    let text = Text { tied: tied(whole)?, ..Text::read(&inner, &DENSE)? };
    vision::qwen3(&whole.inner_or_default("vision_config")?, &mut pen.part("model.visual"))?;
    let width = inner.count_or("intermediate_size", 12_288)?;
    draw(&inner, pen, "model.language_model", &text, false, None, width)
}

/// With pictures: the one with experts.
pub(super) fn moe_sees(fields: &Fields<'_>, pen: &mut Pen<'_>) -> Result<Facts, ConfigError> {
    let (whole, inner) = (fields, fields.inner("text_config")?);
    let text = Text { tied: tied(whole)?, ..Text::read(&inner, &MOE)? };
    vision::qwen3(&whole.inner_or_default("vision_config")?, &mut pen.part("model.visual"))?;
    let mixture = Mixture::read(&inner, 256, 8)?;
    draw(&inner, pen, "model.language_model", &text, false, Some(&mixture), 0)
}

/// The outermost field decides.
fn tied(whole: &Fields<'_>) -> Result<bool, ConfigError> {
    whole.flag("tie_word_embeddings", false)
}

struct Mixture {
    routed: Routed,
    shared: u64,
    sparse: Sparse,
}

impl Mixture {
    fn read(fields: &Fields<'_>, count: u64, active: u64) -> Result<Self, ConfigError> {
        Ok(Self {
            routed: Routed {
                experts: experts(fields, count)?,
                active: fields.count_or("num_experts_per_tok", active)?,
                inner: fields.count_or("moe_intermediate_size", 512)?,
            },
            shared: fields.count_or("shared_expert_intermediate_size", 512)?,
            sparse: Sparse::read(fields)?,
        })
    }
}

fn draw(
    fields: &Fields<'_>,
    pen: &mut Pen<'_>,
    model: &str,
    text: &Text,
    fused: bool,
    mixture: Option<&Mixture>,
    dense: u64,
) -> Result<Facts, ConfigError> {
    let delta = Delta::read(fields, fused)?;
    let linear = match layers_of_type(fields, text.layers, "linear_attention")? {
        Some(linear) => linear,
        None => {
            let every = fields.count_or("full_attention_interval", 4)?.max(1);
            (1..=text.layers).map(|layer| !layer.is_multiple_of(every)).collect()
        }
    };
    text.draw(pen, model, |layer, pen| {
        match linear.get(layer as usize) {
            Some(true) => delta.draw(text.hidden, pen),
            _ => gated_attention(text, pen),
        }
        match mixture.filter(|mixture| mixture.sparse.has_experts(layer, &mixture.routed)) {
            Some(mixture) => {
                shared_expert(text, pen, mixture.shared);
                mixture.routed.draw(pen, "mlp", text.hidden);
            }
            None => text.mlp(pen, "mlp", dense, false),
        }
        Ok(())
    })?;
    let state = LayerCache::State { elements: delta.state() };
    let caches = linear.into_iter().map(|linear| if linear { state } else { text.cache(None) });
    let caches = caches.collect();
    Ok(match mixture {
        Some(Mixture { routed, shared, .. }) => {
            text.facts(routed.width(*shared), caches, Some(routed.active))
        }
        None => text.facts(dense, caches, None),
    })
}

/// Attention whose query projection makes a gate as well.
fn gated_attention(text: &Text, pen: &mut Pen<'_>) {
    let twice = Text { heads: text.heads.saturating_mul(2), ..*text };
    let (hidden, bias) = (text.hidden, text.attention_bias);
    let mut pen = pen.part("self_attn");
    pen.linear("q_proj", hidden, twice.query(), bias);
    pen.linear("k_proj", hidden, text.key(), bias);
    pen.linear("v_proj", hidden, text.key(), bias);
    pen.linear("o_proj", text.query(), hidden, bias);
    pen.vector("q_norm", text.head_dim);
    pen.vector("k_norm", text.head_dim);
}

/// A gated delta net.
struct Delta {
    key_heads: u64,
    value_heads: u64,
    key: u64,
    value: u64,
    kernel: u64,
    /// Query, key, value and gate come from one matrix, as do the two scalars of each head.
    fused: bool,
}

impl Delta {
    fn read(fields: &Fields<'_>, fused: bool) -> Result<Self, ConfigError> {
        Ok(Self {
            key_heads: fields.count_or("linear_num_key_heads", 16)?,
            value_heads: fields.count_or("linear_num_value_heads", 32)?,
            key: fields.count_or("linear_key_head_dim", 128)?,
            value: fields.count_or("linear_value_head_dim", 128)?,
            kernel: fields.count_or("linear_conv_kernel_dim", 4)?,
            fused,
        })
    }

    /// Channels of queries, keys and values together.
    const fn channels(&self) -> u64 {
        let keys = self.key_heads.saturating_mul(self.key).saturating_mul(2);
        keys.saturating_add(self.values())
    }

    const fn values(&self) -> u64 {
        self.value_heads.saturating_mul(self.value)
    }

    /// The recurrent state and the convolution's latest inputs.
    const fn state(&self) -> u64 {
        let latest = self.kernel.saturating_sub(1).saturating_mul(self.channels());
        self.values().saturating_mul(self.key).saturating_add(latest)
    }

    fn draw(&self, hidden: u64, pen: &mut Pen<'_>) {
        let mut pen = pen.part("linear_attn");
        pen.parameter("A_log", self.value_heads);
        pen.parameter("dt_bias", self.value_heads);
        pen.conv("conv1d", 1, self.channels(), self.kernel, false);
        if self.fused {
            let all = self.channels().saturating_add(self.values());
            pen.linear("in_proj_qkvz", hidden, all, false);
            pen.linear("in_proj_ba", hidden, self.value_heads.saturating_mul(2), false);
        } else {
            pen.linear("in_proj_qkv", hidden, self.channels(), false);
            pen.linear("in_proj_z", hidden, self.values(), false);
            pen.linear("in_proj_b", hidden, self.value_heads, false);
            pen.linear("in_proj_a", hidden, self.value_heads, false);
        }
        pen.vector("norm", self.value);
        pen.linear("out_proj", self.values(), hidden, false);
    }
}
