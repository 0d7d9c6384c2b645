//! What is in a model, told in numbers.

use std::collections::BTreeMap;

use overflowml_formats::Model;
use overflowml_types::{Bytes, DType, DecoderSpec, Group, KvLayout};

use serde::Serialize;

use crate::planner::kv_dtype;

/// Everything that `inspect` shows.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// As given.
    pub model: String,
    /// The name in config.json, if there is one.
    pub architecture: Option<String>,
    /// Whether `run` can run it.
    pub runnable: bool,
    /// Why not, if not.
    pub not_runnable_because: Option<String>,
    /// How many numbers the model consists of.
    pub parameters: u64,
    /// Bytes of all tensors.
    #[serde(rename = "weights_bytes")]
    pub weights: Bytes,
    /// The same per element type.
    #[serde(rename = "by_dtype_bytes")]
    pub by_dtype: BTreeMap<DType, Bytes>,
    /// Files that hold them.
    pub files: usize,
    /// Parts by name: layers, embedding, head.
    pub groups: Vec<GroupSize>,
    /// The largest of them.
    pub largest_group: Option<GroupSize>,
    /// Layers of the decoder.
    pub layers: Option<usize>,
    /// Keys and values of one token.
    #[serde(rename = "kv_per_token_bytes")]
    pub kv_per_token: Option<Bytes>,
    /// The longest sequence the model was made for, in tokens.
    pub max_context: Option<usize>,
    /// What the decoder computes.
    pub decoder: Option<DecoderSpec>,
}

/// A group and its size.
#[derive(Clone, Debug, Serialize)]
pub struct GroupSize {
    /// For example `model.layers.3`.
    pub name: String,
    /// How many tensors.
    pub tensors: usize,
    /// Their bytes.
    #[serde(rename = "size_bytes")]
    pub size: Bytes,
}

/// Tells what is in `model`, which the user calls `name`.
pub fn inspect(name: &str, model: &Model) -> Inspection {
    let manifest = &model.manifest;
    let sized = |group: &Group| GroupSize {
        name: group.name.clone(),
        tensors: group.tensors.len(),
        size: group.size(),
    };
    let bound = model.bind();
    let decoder = model.decoder.as_ref().ok();
    let kv = decoder.map(|spec| {
        let dtype = bound.as_ref().map_or(DType::F32, |weights| kv_dtype(weights));
        KvLayout::new(spec, dtype, spec.max_context, 1)
    });
    Inspection {
        model: name.to_owned(),
        architecture: model.architecture.clone(),
        runnable: bound.is_ok(),
        not_runnable_because: bound.err().map(|reason| reason.to_string()),
        parameters: manifest.parameters(),
        weights: manifest.size(),
        by_dtype: manifest.size_by_dtype(),
        files: manifest.files.len(),
        groups: manifest.groups().map(sized).collect(),
        largest_group: manifest.largest_group().map(sized),
        layers: decoder.map(|spec| spec.layers.len()),
        kv_per_token: kv.map(|kv| kv.bytes_per_token()),
        max_context: decoder.map(|spec| spec.max_context),
        decoder: decoder.cloned(),
    }
}
