//! What all decoders on paper share: embedding, head, norms, plain attention.

use overflowml_types::{LayerCache, Role, Shape, Task};

use super::{Facts, Pen};
use crate::ConfigError;
use crate::config::Fields;

/// The sizes of a decoder.
#[derive(Clone, Copy, Debug)]
pub(super) struct Text {
    pub(super) vocab: u64,
    pub(super) hidden: u64,
    pub(super) layers: u64,
    pub(super) heads: u64,
    pub(super) kv_heads: u64,
    pub(super) head_dim: u64,
    pub(super) context: u64,
    pub(super) tied: bool,
    pub(super) attention_bias: bool,
}

/// What the absence of a field means; zero for as many as heads, and for hidden / heads.
pub(super) struct Defaults {
    pub(super) vocab: u64,
    pub(super) hidden: u64,
    pub(super) layers: u64,
    pub(super) heads: u64,
    pub(super) kv_heads: u64,
    pub(super) head_dim: u64,
    pub(super) context: u64,
    pub(super) attention_bias: bool,
}

/// A norm over queries and keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QkNorm {
    None,
    PerHead,
    Whole,
}

impl Text {
    pub(super) fn read(fields: &Fields<'_>, defaults: &Defaults) -> Result<Self, ConfigError> {
        let hidden = fields.count_or("hidden_size", defaults.hidden)?;
        let heads = fields.count_or("num_attention_heads", defaults.heads)?;
        let some = |value: u64| (value > 0).then_some(value);
        let kv_heads = match fields.is_null("num_key_value_heads") {
            true => None,
            false => fields.said("num_key_value_heads")?.or(some(defaults.kv_heads)),
        };
        let head_dim = fields.said("head_dim")?.or(some(defaults.head_dim));
        Ok(Self {
            vocab: fields.count_or("vocab_size", defaults.vocab)?,
            hidden,
            layers: fields.repeats("num_hidden_layers", Some(defaults.layers))?,
            heads,
            kv_heads: kv_heads.unwrap_or(heads),
            head_dim: head_dim.unwrap_or(hidden / heads.max(1)),
            context: fields.count_or("max_position_embeddings", defaults.context)?,
            tied: fields.flag("tie_word_embeddings", false)?,
            attention_bias: fields.flag("attention_bias", defaults.attention_bias)?,
        })
    }

    /// Width of all query heads.
    pub(super) const fn query(&self) -> u64 {
        self.heads.saturating_mul(self.head_dim)
    }

    /// Width of all key heads.
    pub(super) const fn key(&self) -> u64 {
        self.kv_heads.saturating_mul(self.head_dim)
    }

    /// Embedding, every layer by `layer`, final norm and head, below `model`.
    pub(super) fn draw(
        &self,
        pen: &mut Pen<'_>,
        model: &str,
        mut layer: impl FnMut(u64, &mut Pen<'_>) -> Result<(), ConfigError>,
    ) -> Result<(), ConfigError> {
        let mut body = pen.part(model);
        body.table("embed_tokens", self.vocab, self.hidden);
        for number in 0..self.layers {
            let mut pen = body.entry("layers", number);
            pen.vector("input_layernorm", self.hidden);
            pen.vector("post_attention_layernorm", self.hidden);
            layer(number, &mut pen)?;
        }
        body.vector("norm", self.hidden);
        if !self.tied {
            pen.kept_linear("lm_head", self.hidden, self.vocab, false);
        }
        Ok(())
    }

    /// Grouped-query attention.
    pub(super) fn attention(
        &self,
        pen: &mut Pen<'_>,
        qkv_bias: bool,
        out_bias: bool,
        norm: QkNorm,
    ) {
        let mut pen = pen.part("self_attn");
        pen.linear("q_proj", self.hidden, self.query(), qkv_bias);
        pen.linear("k_proj", self.hidden, self.key(), qkv_bias);
        pen.linear("v_proj", self.hidden, self.key(), qkv_bias);
        pen.linear("o_proj", self.query(), self.hidden, out_bias);
        let (query, key) = match norm {
            QkNorm::None => return,
            QkNorm::PerHead => (self.head_dim, self.head_dim),
            QkNorm::Whole => (self.query(), self.key()),
        };
        pen.vector("q_norm", query);
        pen.vector("k_norm", key);
    }

    /// A gated feed-forward part of width `inner`.
    pub(super) fn mlp(&self, pen: &mut Pen<'_>, name: &str, inner: u64, bias: bool) {
        let mut pen = pen.part(name);
        pen.linear("gate_proj", self.hidden, inner, bias);
        pen.linear("up_proj", self.hidden, inner, bias);
        pen.linear("down_proj", inner, self.hidden, bias);
    }

    /// The cache of a layer that sees everything, or a window.
    pub(super) const fn cache(&self, window: Option<u64>) -> LayerCache {
        let (heads, key, value) = (self.kv_heads, self.head_dim, self.head_dim);
        match window {
            Some(window) => LayerCache::Window { heads, key, value, window },
            None => LayerCache::Full { heads, key, value },
        }
    }

    /// What is known of it beside sizes; `intermediate` is the width that one token uses.
    pub(super) const fn facts(
        &self,
        intermediate: u64,
        caches: Vec<LayerCache>,
        active_experts: Option<u64>,
    ) -> Facts {
        Facts {
            class: String::new(),
            role: Role::Decoder,
            task: Task::Text,
            shape: Shape::Decoder {
                hidden: self.hidden,
                intermediate,
                heads: self.heads,
                vocab: self.vocab,
            },
            caches,
            max_context: Some(self.context),
            active_experts,
        }
    }
}

/// Which layers `layer_types` names `wanted`; `None` if it is absent.
pub(super) fn layers_of_type(
    fields: &Fields<'_>,
    layers: u64,
    wanted: &str,
) -> Result<Option<Vec<bool>>, ConfigError> {
    let Some(types) = fields.texts("layer_types")? else { return Ok(None) };
    match types.len() as u64 == layers {
        true => Ok(Some(types.into_iter().map(|found| found == wanted).collect())),
        #[allow(clippy::cast_possible_truncation)] // layers are capped
        false => Err(ConfigError::WrongCount {
            field: fields.path_to("layer_types"),
            found: types.len(),
            expected: layers as usize,
        }),
    }
}
