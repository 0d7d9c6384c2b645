//! DeepSeek-V2 and -V3 (and what is built like them): latent attention, shared experts, dense
//! layers first.

use overflowml_types::LayerCache;

use super::moe::{Routed, experts};
use super::text::{Defaults, Text};
use super::{Facts, Pen};
use crate::ConfigError;
use crate::config::Fields;

const V2: Defaults = Defaults {
    vocab: 102_400,
    hidden: 4096,
    layers: 32,
    heads: 32,
    kv_heads: 0,
    head_dim: 0,
    context: 2048,
    attention_bias: false,
};

const V3: Defaults = Defaults {
    vocab: 129_280,
    hidden: 7168,
    layers: 61,
    heads: 128,
    kv_heads: 128,
    head_dim: 0,
    context: 4096,
    attention_bias: false,
};

/// What differs between the two beside [`Defaults`].
struct Mixture {
    experts: u64,
    active: u64,
    inner: u64,
    dense_inner: u64,
    shared: u64,
    dense_layers: u64,
    /// The router has a correction that is adjusted, not learnt.
    corrects: bool,
}

pub(super) fn v2(fields: &Fields<'_>, pen: &mut Pen<'_>) -> Result<Facts, ConfigError> {
    let mixture = Mixture {
        experts: 64,
        active: 8,
        inner: 1407,
        dense_inner: 11_008,
        shared: 2,
        dense_layers: 0,
        corrects: false,
    };
    draw(fields, pen, &V2, &mixture)
}

pub(super) fn v3(fields: &Fields<'_>, pen: &mut Pen<'_>) -> Result<Facts, ConfigError> {
    let mixture = Mixture {
        experts: 256,
        active: 8,
        inner: 2048,
        dense_inner: 18_432,
        shared: 1,
        dense_layers: 3,
        corrects: true,
    };
    draw(fields, pen, &V3, &mixture)
}

fn draw(
    fields: &Fields<'_>,
    pen: &mut Pen<'_>,
    defaults: &Defaults,
    mixture: &Mixture,
) -> Result<Facts, ConfigError> {
    let text = Text::read(fields, defaults)?;
    let latent = Latent::read(fields)?;
    let routed = Routed {
        experts: experts(fields, mixture.experts)?,
        active: fields.count_or("num_experts_per_tok", mixture.active)?,
        inner: fields.count_or("moe_intermediate_size", mixture.inner)?,
    };
    let shared = fields.count_or("n_shared_experts", mixture.shared)?.saturating_mul(routed.inner);
    let dense = fields.count_or("intermediate_size", mixture.dense_inner)?;
    let first = fields.count_or("first_k_dense_replace", mixture.dense_layers)?;
    let bias = fields.flag("mlp_bias", false)?;
    text.draw(pen, "model", |layer, pen| {
        latent.draw(&text, pen);
        if layer < first {
            text.mlp(pen, "mlp", dense, bias);
        } else {
            text.mlp(pen, "mlp.shared_experts", shared, bias);
            routed.draw(pen, "mlp", text.hidden);
            if mixture.corrects {
                pen.buffer("mlp.gate.e_score_correction_bias", routed.experts);
            }
        }
        Ok(())
    })?;
    let cache = LayerCache::Latent { rank: latent.kv_rank, rope: latent.rope };
    let caches = vec![cache; text.layers as usize];
    Ok(text.facts(routed.width(shared), caches, Some(routed.active)))
}

/// Multi-head latent attention.
struct Latent {
    query_rank: Option<u64>,
    kv_rank: u64,
    nope: u64,
    rope: u64,
    value: u64,
}

impl Latent {
    fn read(fields: &Fields<'_>) -> Result<Self, ConfigError> {
        Ok(Self {
            query_rank: match fields.is_null("q_lora_rank") {
                true => None,
                false => Some(fields.count_or("q_lora_rank", 1536)?),
            },
            kv_rank: fields.count_or("kv_lora_rank", 512)?,
            nope: fields.count_or("qk_nope_head_dim", 128)?,
            rope: fields.count_or("qk_rope_head_dim", 64)?,
            value: fields.count_or("v_head_dim", 128)?,
        })
    }

    fn draw(&self, text: &Text, pen: &mut Pen<'_>) {
        let (hidden, heads, bias) = (text.hidden, text.heads, text.attention_bias);
        let wide = |width: u64| heads.saturating_mul(width);
        let query = wide(self.nope.saturating_add(self.rope));
        let mut pen = pen.part("self_attn");
        match self.query_rank {
            None => pen.linear("q_proj", hidden, query, false),
            Some(rank) => {
                pen.linear("q_a_proj", hidden, rank, bias);
                pen.vector("q_a_layernorm", rank);
                pen.linear("q_b_proj", rank, query, false);
            }
        }
        let kept = self.kv_rank.saturating_add(self.rope);
        pen.linear("kv_a_proj_with_mqa", hidden, kept, bias);
        pen.vector("kv_a_layernorm", self.kv_rank);
        let decoded = wide(self.nope.saturating_add(self.value));
        pen.linear("kv_b_proj", self.kv_rank, decoded, false);
        pen.linear("o_proj", wide(self.value), hidden, bias);
    }
}
