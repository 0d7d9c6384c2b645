use std::collections::HashSet;
use std::fmt;

use serde::Serialize;

use crate::{DecoderSpec, Norms, QkNorm, Tensor};

/// What a weight does in a decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightRole {
    /// `[vocab, hidden]`, looked up by token.
    Embedding,
    /// A part of a numbered layer.
    Layer(u32, LayerPart),
    /// A part of one expert of a numbered layer.
    Expert(u32, u32, ExpertPart),
    /// `[hidden]`, after the last layer.
    FinalNorm,
    /// `[vocab, hidden]`, the output projection.
    Head,
}

/// A weight inside a layer. Matrices are `[out, in]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // each variant is the weight's usual name
pub enum LayerPart {
    AttentionNorm,
    Query,
    Key,
    Value,
    QueryKeyValue,
    QueryBias,
    KeyBias,
    ValueBias,
    QueryKeyValueBias,
    QueryNorm,
    KeyNorm,
    AttentionOut,
    AttentionOutBias,
    AttentionPostNorm,
    MlpNorm,
    Gate,
    Up,
    GateUp,
    GateBias,
    UpBias,
    Down,
    DownBias,
    MlpPostNorm,
    Sinks,
    QueryDown,
    QueryDownBias,
    QueryDownNorm,
    LatentDown,
    LatentDownBias,
    LatentNorm,
    /// Of one head: `[plain_dim, rank]`.
    KeyUp(u32),
    /// Of one head: `[value_dim, rank]`.
    ValueUp(u32),
    Router,
    RouterBias,
    RouterCorrection,
    SharedGate,
    SharedUp,
    SharedDown,
    SharedRouter,
    /// Of all experts: `[experts * 2 * intermediate]`.
    ExpertsGateUpBias,
    /// Of all experts: `[experts * hidden]`.
    ExpertsDownBias,
}

/// A matrix of an expert. Matrices are `[out, in]` unless they are stored transposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // as above
pub enum ExpertPart {
    Gate,
    Up,
    GateUp,
    Down,
    /// Scales of [`Self::GateUp`], where they are stored beside it.
    GateUpScales,
    /// Scales of [`Self::Down`].
    DownScales,
}

/// How a pass touches a weight, which decides where it can live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// A small vector that is always in memory.
    Kept,
    /// A matrix whose every row is used once per pass, in order: it can stream.
    Rows,
    /// A matrix of which a pass needs one row per token: it can stay on disk.
    Lookup,
    /// A matrix of an expert: a pass needs it only if a token chose the expert.
    Expert,
}

/// A weight that a [`DecoderSpec`] calls for.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WeightSpec {
    /// What it does.
    pub role: WeightRole,
    /// Its name in Hugging Face files.
    pub name: String,
    /// Where it lies in the tensor of that name; `None` if it is all of it.
    pub slice: Option<Slice>,
    /// Outermost dimension first.
    pub shape: Vec<u64>,
    /// How a pass touches it.
    pub access: Access,
}

/// A run of neighbouring elements of a tensor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Slice {
    /// The tensor's shape.
    pub of: Vec<u64>,
    /// Elements before the run.
    pub first: u64,
}

/// A weight found in the model's files: [`WeightSpec`] bound to its tensor, or to its run of one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PassWeight {
    /// What it does.
    pub role: WeightRole,
    /// How a pass touches it.
    pub access: Access,
    /// Where it is; shared by embedding and head when they are tied.
    pub tensor: Tensor,
}

impl PassWeight {
    /// Rows of a matrix; a vector is one row.
    pub fn rows(&self) -> u64 {
        match self.tensor.shape.as_slice() {
            [rows, _] => *rows,
            _ => 1,
        }
    }

    /// Elements of one row.
    pub fn cols(&self) -> u64 {
        self.tensor.shape.last().copied().unwrap_or(1)
    }
}

impl fmt::Display for WeightRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedding => f.write_str("embedding"),
            Self::Layer(layer, part) => write!(f, "layer {layer} {part:?}"),
            Self::Expert(layer, expert, part) => {
                write!(f, "layer {layer} expert {expert} {part:?}")
            }
            Self::FinalNorm => f.write_str("final norm"),
            Self::Head => f.write_str("head"),
        }
    }
}

/// The weights of one layer, as they are listed.
pub(crate) struct LayerList<'a> {
    pub(crate) layer: u32,
    pub(crate) weights: &'a mut Vec<WeightSpec>,
}

impl LayerList<'_> {
    /// A whole tensor; `name` is what follows the layer's own.
    pub(crate) fn add(&mut self, part: LayerPart, name: &str, shape: &[usize]) {
        self.push(WeightRole::Layer(self.layer, part), name, shape, None);
    }

    /// A part of a tensor of shape `of`, after its first `first` elements.
    pub(crate) fn add_slice(
        &mut self,
        part: LayerPart,
        name: &str,
        shape: &[usize],
        (of, first): (&[usize], usize),
    ) {
        let slice = Slice { of: widened(of), first: first as u64 };
        self.push(WeightRole::Layer(self.layer, part), name, shape, Some(slice));
    }

    pub(crate) fn push(
        &mut self,
        role: WeightRole,
        name: &str,
        shape: &[usize],
        slice: Option<Slice>,
    ) {
        let access = match (role, shape.len()) {
            (WeightRole::Expert(..), _) => Access::Expert,
            (_, 2) => Access::Rows,
            _ => Access::Kept,
        };
        let name = format!("model.layers.{}.{name}", self.layer);
        self.weights.push(WeightSpec { role, name, slice, shape: widened(shape), access });
    }
}

pub(crate) fn widened(shape: &[usize]) -> Vec<u64> {
    shape.iter().map(|&dim| dim as u64).collect()
}

impl DecoderSpec {
    /// Every weight of the model, in the order in which a pass uses them.
    ///
    /// With tied embeddings the embedding's tensor appears twice: looked up first, as head last.
    pub fn weights(&self) -> Vec<WeightSpec> {
        let (vocab, hidden) = (self.vocab as u64, self.hidden as u64);
        let mut weights = vec![WeightSpec {
            role: WeightRole::Embedding,
            name: "model.embed_tokens.weight".to_owned(),
            slice: None,
            shape: vec![vocab, hidden],
            access: Access::Lookup,
        }];
        for layer in 0..self.layers.len() {
            self.layer_weights(layer, &mut weights);
        }
        weights.push(WeightSpec {
            role: WeightRole::FinalNorm,
            name: "model.norm.weight".to_owned(),
            slice: None,
            shape: vec![hidden],
            access: Access::Kept,
        });
        let head =
            if self.tied_embeddings { "model.embed_tokens.weight" } else { "lm_head.weight" };
        weights.push(WeightSpec {
            role: WeightRole::Head,
            name: head.to_owned(),
            slice: None,
            shape: vec![vocab, hidden],
            access: Access::Rows,
        });
        weights
    }

    /// Every tensor that files hold, each once: a tied head is not stored, and weights that are parts of one
    /// tensor are one.
    pub fn tensors(&self) -> Vec<WeightSpec> {
        let mut tensors: Vec<WeightSpec> = Vec::new();
        let mut sliced = HashSet::new();
        for mut weight in self.weights() {
            if weight.role == WeightRole::Head && self.tied_embeddings {
                continue;
            }
            if let Some(slice) = weight.slice.take() {
                if !sliced.insert(weight.name.clone()) {
                    continue;
                }
                weight.shape = slice.of;
            }
            tensors.push(weight);
        }
        tensors
    }

    fn layer_weights(&self, layer: usize, weights: &mut Vec<WeightSpec>) {
        #[allow(clippy::cast_possible_truncation)] // config caps the layer count
        let mut list = LayerList { layer: layer as u32, weights };
        match &self.latent {
            Some(latent) => self.latent_weights(latent, &mut list),
            None => self.attention_weights(&mut list),
        }
        match self.experts_of(layer) {
            Some(experts) => self.expert_weights(experts, &mut list),
            None => self.mlp_weights(&mut list),
        }
    }

    fn attention_weights(&self, list: &mut LayerList<'_>) {
        use LayerPart as P;
        let mut add = |part, name: &str, shape: &[usize]| list.add(part, name, shape);
        let (hidden, q, kv) = (self.hidden, self.query_width(), self.kv_width());
        if self.norms != Norms::After {
            add(P::AttentionNorm, "input_layernorm.weight", &[hidden]);
        }
        if self.fused_qkv {
            add(P::QueryKeyValue, "self_attn.qkv_proj.weight", &[q + 2 * kv, hidden]);
            if self.qkv_bias {
                add(P::QueryKeyValueBias, "self_attn.qkv_proj.bias", &[q + 2 * kv]);
            }
        } else {
            let parts = [
                (P::Query, P::QueryBias, "q", q),
                (P::Key, P::KeyBias, "k", kv),
                (P::Value, P::ValueBias, "v", kv),
            ];
            for (weight, bias, name, rows) in parts {
                add(weight, &format!("self_attn.{name}_proj.weight"), &[rows, hidden]);
                if self.qkv_bias {
                    add(bias, &format!("self_attn.{name}_proj.bias"), &[rows]);
                }
            }
        }
        let qk_norm = match self.qk_norm {
            QkNorm::None => None,
            QkNorm::PerHead => Some((self.head_dim, self.head_dim)),
            QkNorm::Whole => Some((q, kv)),
        };
        if let Some((query, key)) = qk_norm {
            add(P::QueryNorm, "self_attn.q_norm.weight", &[query]);
            add(P::KeyNorm, "self_attn.k_norm.weight", &[key]);
        }
        if self.sinks {
            add(P::Sinks, "self_attn.sinks", &[self.heads]);
        }
        add(P::AttentionOut, "self_attn.o_proj.weight", &[hidden, q]);
        if self.out_bias {
            add(P::AttentionOutBias, "self_attn.o_proj.bias", &[hidden]);
        }
        if self.norms != Norms::Before {
            add(P::AttentionPostNorm, "post_attention_layernorm.weight", &[hidden]);
        }
    }

    fn mlp_weights(&self, list: &mut LayerList<'_>) {
        use LayerPart as P;
        let mut add = |part, name: &str, shape: &[usize]| list.add(part, name, shape);
        let (hidden, inner) = (self.hidden, self.intermediate);
        match self.norms {
            Norms::Before => add(P::MlpNorm, "post_attention_layernorm.weight", &[hidden]),
            Norms::Around => add(P::MlpNorm, "pre_feedforward_layernorm.weight", &[hidden]),
            Norms::After => {}
        }
        if self.fused_gate_up {
            add(P::GateUp, "mlp.gate_up_proj.weight", &[2 * inner, hidden]);
        } else {
            let parts = [(P::Gate, P::GateBias, "gate"), (P::Up, P::UpBias, "up")];
            for (weight, bias, name) in parts {
                add(weight, &format!("mlp.{name}_proj.weight"), &[inner, hidden]);
                if self.mlp_bias {
                    add(bias, &format!("mlp.{name}_proj.bias"), &[inner]);
                }
            }
        }
        add(P::Down, "mlp.down_proj.weight", &[hidden, inner]);
        if self.mlp_bias {
            add(P::DownBias, "mlp.down_proj.bias", &[hidden]);
        }
        if self.norms != Norms::Before {
            add(P::MlpPostNorm, "post_feedforward_layernorm.weight", &[hidden]);
        }
    }
}
