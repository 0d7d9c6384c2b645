//! Language models beside a vision tower: Llama 4, Qwen2.5-VL.

use overflowml_types::LayerCache;

use super::moe::{Routed, experts};
use super::text::{Defaults, QkNorm, Text, layers_of_type};
use super::{Facts, Pen, vision};
use crate::ConfigError;
use crate::config::Fields;

const LLAMA4: Defaults = Defaults {
    vocab: 202_048,
    hidden: 5120,
    layers: 48,
    heads: 40,
    kv_heads: 8,
    head_dim: 128,
    context: 131_072,
    attention_bias: false,
};

pub(super) fn llama4(fields: &Fields<'_>, pen: &mut Pen<'_>) -> Result<Facts, ConfigError> {
    let inner = fields.inner("text_config")?;
    let hidden = inner.count_or("hidden_size", LLAMA4.hidden)?;
    vision::llama4(&fields.inner_or_default("vision_config")?, pen, hidden)?;
    llama4_text(&inner, &mut pen.part("language_model"))
}

pub(super) fn llama4_text(fields: &Fields<'_>, pen: &mut Pen<'_>) -> Result<Facts, ConfigError> {
    let text = Text::read(fields, &LLAMA4)?;
    let routed = Routed {
        experts: experts(fields, 16)?,
        active: fields.count_or("num_experts_per_tok", 1)?,
        inner: fields.count_or("intermediate_size", 8192)?,
    };
    let dense = fields.count_or("intermediate_size_mlp", 16_384)?;
    let step = fields.count_or("interleave_moe_layer_step", 1)?.max(1);
    let sparse = fields.counts("moe_layers")?;
    let hidden = text.hidden;
    text.draw(pen, "model", |layer, pen| {
        text.attention(pen, text.attention_bias, text.attention_bias, QkNorm::None);
        let has_experts = match &sparse {
            Some(sparse) => sparse.contains(&layer),
            None => (layer + 1).is_multiple_of(step),
        };
        if !has_experts {
            text.mlp(pen, "feed_forward", dense, false);
            return Ok(());
        }
        let mut pen = pen.part("feed_forward");
        text.mlp(&mut pen, "shared_expert", routed.inner, false);
        pen.kept_linear("router", hidden, routed.experts, false);
        let both = routed.inner.saturating_mul(2);
        pen.experts("experts.gate_up_proj", routed.experts, hidden, both, false);
        pen.experts("experts.down_proj", routed.experts, routed.inner, hidden, false);
        Ok(())
    })?;
    let caches = llama4_caches(fields, &text)?;
    Ok(text.facts(routed.width(routed.inner), caches, Some(routed.active)))
}

/// Layers with a rotary embedding see only their chunk.
fn llama4_caches(fields: &Fields<'_>, text: &Text) -> Result<Vec<LayerCache>, ConfigError> {
    let chunk = match fields.is_null("attention_chunk_size") {
        true => None,
        false => Some(fields.count_or("attention_chunk_size", 8192)?),
    };
    let every = fields.count_or("no_rope_layer_interval", 4)?.max(1);
    let listed = fields.counts("no_rope_layers")?.filter(|list| !list.is_empty());
    let chunked = match (layers_of_type(fields, text.layers, "chunked_attention")?, listed) {
        (Some(chunked), _) => chunked,
        (None, Some(list)) => list.into_iter().map(|rope| rope != 0).collect(),
        (None, None) => (1..=text.layers).map(|layer| !layer.is_multiple_of(every)).collect(),
    };
    let (heads, key, value) = (text.kv_heads, text.head_dim, text.head_dim);
    let cache = |layer: usize| match chunk.filter(|_| chunked.get(layer) == Some(&true)) {
        Some(chunk) => LayerCache::Chunked { heads, key, value, chunk },
        None => LayerCache::Full { heads, key, value },
    };
    Ok((0..text.layers as usize).map(cache).collect())
}

pub(super) fn qwen2_5(fields: &Fields<'_>, pen: &mut Pen<'_>) -> Result<Facts, ConfigError> {
    let inner = fields.inner("text_config")?;
    let text = Text::read(
        &inner,
        &Defaults {
            vocab: 152_064,
            hidden: 8192,
            layers: 80,
            heads: 64,
            kv_heads: 8,
            head_dim: 0,
            context: 32_768,
            attention_bias: false,
        },
    )?;
    let tied = text.tied || fields.flag("tie_word_embeddings", false)?;
    let text = Text { tied, ..text };
    let width = inner.count_or("intermediate_size", 29_568)?;
    vision::qwen2_5(&fields.inner_or_default("vision_config")?, &mut pen.part("visual"))?;
    text.draw(pen, "model", |_, pen| {
        text.attention(pen, true, false, QkNorm::None);
        text.mlp(pen, "mlp", width, false);
        Ok(())
    })?;
    let on = inner.flag("use_sliding_window", false)?;
    let window = if on { Some(inner.count_or("sliding_window", 4096)?) } else { None };
    let most = inner.count_or("max_window_layers", 80)?;
    let said = layers_of_type(&inner, text.layers, "sliding_attention")?;
    let windowed = said.unwrap_or_else(|| (0..text.layers).map(|layer| layer >= most).collect());
    let caches = windowed.into_iter().map(|on| text.cache(window.filter(|_| on))).collect();
    Ok(text.facts(width, caches, None))
}
