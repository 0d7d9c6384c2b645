//! What is in a model, told in numbers.

use std::collections::BTreeMap;
use std::path::Path;

use overflowml_formats::Model;
use overflowml_types::{
    Bytes, CacheElement, ComponentProfile, DType, DecoderSpec, Group, GroupProfile, KvLayout,
    LayerCache, ModelProfile, ProfileSource, Role, Task,
};

use serde::Serialize;

use crate::error::Error;
use crate::hub::Depth;
use crate::planner::kv_dtype;

/// Everything that `inspect` shows.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// As given.
    pub model: String,
    /// The name in config.json, if there is one.
    pub architecture: Option<String>,
    /// Whether sizes come from files or were computed from a configuration.
    pub source: ProfileSource,
    /// What it is for.
    pub task: Task,
    /// Whether `run` can run it.
    pub runnable: bool,
    /// Why not, if not.
    pub not_runnable_because: Option<String>,
    /// How many numbers the model consists of.
    pub parameters: u64,
    /// How many of them one token uses: fewer only for mixtures of experts.
    pub active_parameters: u64,
    /// Bytes of all tensors.
    #[serde(rename = "weights_bytes")]
    pub weights: Bytes,
    /// The same per element type.
    #[serde(rename = "by_dtype_bytes")]
    pub by_dtype: BTreeMap<String, Bytes>,
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
    /// Keys, values and states of one sequence as long as `max_context`.
    #[serde(rename = "kv_at_max_context_bytes")]
    pub kv_at_max_context: Option<Bytes>,
    /// The part of it that does not grow with the context.
    #[serde(rename = "state_bytes")]
    pub state: Option<Bytes>,
    /// The longest sequence the model was made for, in tokens.
    pub max_context: Option<u64>,
    /// What the decoder computes.
    pub decoder: Option<DecoderSpec>,
    /// What a run uses one after the other.
    pub stages: Vec<Stage>,
    /// Its parts that run on their own.
    pub components: Vec<ComponentProfile>,
    /// What was assumed, skipped or not understood.
    pub notes: Vec<String>,
}

/// A group and its size.
#[derive(Clone, Debug, Serialize)]
pub struct GroupSize {
    /// For example `model.layers.3`; of a pipeline, after its component's name.
    pub name: String,
    /// How many tensors, where files were read.
    pub tensors: Option<usize>,
    /// Their bytes.
    #[serde(rename = "size_bytes")]
    pub size: Bytes,
}

/// Components that are used together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stage {
    /// What it does: `encode`, `denoise`, `decode`, `generate`.
    pub name: &'static str,
    /// The components' names.
    pub components: Vec<String>,
    /// Their parameters.
    pub parameters: u64,
    /// Their weights.
    #[serde(rename = "weights_bytes")]
    pub weights: Bytes,
}

/// Tells what is in a model: a folder with or without weights, a pipeline's folder, a weights file, or a name on
/// the hub, of which only headers and small files are read.
///
/// # Errors
/// If it is missing, damaged, or of a kind whose sizes cannot be told.
pub fn inspect(name: &str) -> Result<Inspection, Error> {
    let profile = crate::profile(name)?;
    let mut seen = from_profile(name, profile);
    match files(name, &seen) {
        Files::Model(model) => add_model(&mut seen, &model),
        Files::Others { count, reason } => {
            seen.files = count;
            seen.not_runnable_because = Some(reason.to_owned());
        }
    }
    Ok(seen)
}

/// What a model's weights lie in.
enum Files {
    /// What the decoder might run.
    Model(Box<Model>),
    /// So many files, as far as they are on this machine, which it does not run for this reason.
    Others { count: usize, reason: &'static str },
}

fn files(name: &str, seen: &Inspection) -> Files {
    let local = crate::local_path(name);
    if seen.components.len() > 1 || matches!(seen.task, Task::Image | Task::Video) {
        let reason = "a pipeline of several components does not run here";
        let count = local.map_or(0, |path| pipeline_files(seen, &path));
        return Files::Others { count, reason };
    }
    if let Ok(model) = crate::look(name, Depth::Headers) {
        return Files::Model(Box::new(model));
    }
    match local.map_or(0, |path| gguf_files(&path)) {
        0 => Files::Others { count: 0, reason: "there are no weights here, only a configuration" },
        count => Files::Others { count, reason: "GGUF files do not run here" },
    }
}

/// How many files the components of the pipeline at `path` lie in.
fn pipeline_files(seen: &Inspection, path: &Path) -> usize {
    let open =
        |part: &ComponentProfile| overflowml_formats::open_model(&path.join(&part.name)).ok();
    let opened = seen.components.iter().filter_map(open);
    opened.map(|model| model.manifest.files.len()).sum()
}

/// How many GGUF files the model at `path` consists of.
fn gguf_files(path: &Path) -> usize {
    match overflowml_formats::open_gguf(path) {
        Ok(model) => model.files.len(),
        Err(_) => 0,
    }
}

fn from_profile(name: &str, profile: ModelProfile) -> Inspection {
    let several = profile.components.len() > 1;
    let mut groups = Vec::new();
    let mut by_dtype: BTreeMap<String, Bytes> = BTreeMap::new();
    for component in &profile.components {
        groups.extend(component.groups.iter().map(|group| sized(component, group, several)));
        for (dtype, size) in &component.dtypes {
            let sum = by_dtype.entry(dtype.clone()).or_default();
            *sum = sum.saturating_add(*size);
        }
    }
    let decoder = profile.components.iter().find(|part| !part.caches.is_empty());
    let active = profile.components.iter().map(ComponentProfile::active_parameters);
    let cache = |context| decoder.map(|part| part.cache(context, CacheElement::F16));
    let max_context = decoder.and_then(|part| part.max_context);
    Inspection {
        model: name.to_owned(),
        architecture: profile.components.first().and_then(|part| part.class.clone()),
        source: profile.source,
        task: profile.task,
        runnable: false,
        not_runnable_because: None,
        parameters: profile.parameters(),
        active_parameters: active.fold(0, u64::saturating_add),
        weights: profile.size(),
        by_dtype,
        files: 0,
        largest_group: groups.iter().max_by_key(|group| group.size).cloned(),
        groups,
        layers: decoder.map(|part| part.caches.len()),
        kv_per_token: decoder.map(per_token),
        kv_at_max_context: max_context.and_then(cache),
        state: cache(0).filter(|state| !state.is_zero()),
        max_context,
        decoder: None,
        stages: stages(&profile),
        components: profile.components,
        notes: profile.notes,
    }
}

/// What one more token costs while no window is full.
fn per_token(part: &ComponentProfile) -> Bytes {
    let grows = |layer: &&LayerCache| !matches!(layer, LayerCache::State { .. });
    part.caches.iter().filter(grows).map(|layer| layer.bytes(1, CacheElement::F16)).sum()
}

fn sized(component: &ComponentProfile, group: &GroupProfile, several: bool) -> GroupSize {
    let name = match several {
        true => format!("{}/{}", component.name, group.name),
        false => group.name.clone(),
    };
    GroupSize { name, tensors: None, size: group.size }
}

/// What only the files of a model that runs on its own tell.
fn add_model(seen: &mut Inspection, model: &Model) {
    let manifest = &model.manifest;
    let sized = |group: &Group| GroupSize {
        name: group.name.clone(),
        tensors: Some(group.tensors.len()),
        size: group.size(),
    };
    let bound = model.bind();
    let decoder = model.decoder.as_ref().ok();
    let kv = decoder.map(|spec| {
        let dtype = bound.as_ref().map_or(DType::F32, |weights| kv_dtype(weights));
        KvLayout::new(spec, dtype, spec.max_context, 1)
    });
    seen.runnable = bound.is_ok();
    seen.not_runnable_because = bound.err().map(|reason| reason.to_string());
    seen.architecture = model.architecture.clone().or_else(|| seen.architecture.take());
    seen.files = manifest.files.len();
    seen.groups = manifest.groups().map(sized).collect();
    seen.largest_group = manifest.largest_group().map(sized);
    seen.decoder = decoder.cloned();
    if let Some(kv) = kv {
        seen.kv_per_token = Some(kv.bytes_per_token());
        seen.kv_at_max_context = Some(kv.size());
    }
}

/// The stages of a run, in order.
fn stages(profile: &ModelProfile) -> Vec<Stage> {
    let mut stages: Vec<Stage> = Vec::new();
    for part in &profile.components {
        let name = match part.role {
            Role::Decoder => "generate",
            Role::TextEncoder | Role::ImageEncoder => "encode",
            Role::Denoiser | Role::ControlNet => "denoise",
            Role::Vae => "decode",
            _ => "other",
        };
        if stages.last().is_none_or(|stage| stage.name != name) {
            let components = Vec::new();
            stages.push(Stage { name, components, parameters: 0, weights: Bytes::ZERO });
        }
        if let Some(stage) = stages.last_mut() {
            stage.components.push(part.name.clone());
            stage.parameters = stage.parameters.saturating_add(part.parameters());
            stage.weights = stage.weights.saturating_add(part.size());
        }
    }
    stages
}
