//! A model's folder or file → [`ModelProfile`]: what a planner needs, without a single weight.
//!
//! Sizes come from headers where there are weights and from `paper` where there is only a
//! configuration; shapes and caches always come from the configuration. A model of an unknown
//! architecture still has sizes: its shape is [`Shape::Unknown`] and a note says so.

mod assemble;
mod gguf;
mod order;
mod pipeline;
mod stored;

use overflowml_types::{
    ComponentProfile, Manifest, ModelProfile, ProfileSource, Role, Shape, Task,
};

pub(crate) use self::assemble::{Piece, assemble};
use crate::model::{CONFIG, Weights, file_names, read_config, read_weights};
use crate::paper::{self, Facts};
use crate::weights::{Choice, choose, variants_beside};
use crate::{Config, ConfigError, FormatError, ModelDir};

/// What is known of one folder or file, before it becomes part of a [`ModelProfile`].
pub(crate) struct Part {
    pub(crate) component: ComponentProfile,
    pub(crate) task: Task,
    pub(crate) source: ProfileSource,
    pub(crate) notes: Vec<String>,
}

/// The profile of the model in `dir`: of the weights file `file` if one is named, else of what the
/// folder holds.
///
/// # Errors
/// As [`open_profile`](crate::open_profile).
pub fn profile_in<D: ModelDir>(dir: &D, file: Option<&str>) -> Result<ModelProfile, FormatError> {
    let name = dir.path(file.unwrap_or_default()).display().to_string();
    if let Some(file) = file.filter(|file| file.ends_with(".gguf")) {
        return gguf::profile(dir, file);
    }
    if file.is_none() {
        if let Some(index) = pipeline::read_index(dir)? {
            return pipeline::profile(dir, name, &index);
        }
        if let Some(file) = chosen_gguf(dir)? {
            return gguf::profile(dir, &file);
        }
    }
    let part = part_in(dir, file, "model", None)?;
    Ok(ModelProfile {
        name,
        source: part.source,
        task: part.task,
        components: vec![part.component],
        notes: part.notes,
    })
}

/// The weights in `dir`, component by component: those of the file `file` if one is named, else what the folder holds.
///
/// # Errors
/// As [`open_weights`](crate::open_weights).
pub fn weights_in<D: ModelDir>(
    dir: &D,
    file: Option<&str>,
) -> Result<Vec<(String, Manifest)>, FormatError> {
    if file.is_none()
        && let Some(index) = pipeline::read_index(dir)?
    {
        return pipeline::manifests(dir, &index);
    }
    match read_weights(dir, &file_names(dir)?, file)? {
        Weights::Found(manifest) => Ok(vec![(String::new(), manifest)]),
        Weights::None { found } => Err(FormatError::NoWeights { path: dir.path(""), found }),
    }
}

/// The first file of the one GGUF model in `dir`, where the folder holds no other weights.
pub(crate) fn chosen_gguf<D: ModelDir>(dir: &D) -> Result<Option<String>, FormatError> {
    let names = file_names(dir)?;
    match choose(&names) {
        Choice::None => Ok(gguf::choose(dir, &names)?.map(str::to_owned)),
        _ => Ok(None),
    }
}

/// One component, called `name`: weights' headers and configuration, or the configuration alone.
/// `class` is known for the components of a pipeline.
fn part_in<D: ModelDir>(
    dir: &D,
    file: Option<&str>,
    name: &str,
    class: Option<&str>,
) -> Result<Part, FormatError> {
    let names = file_names(dir)?;
    let config = read_config(dir)?;
    let mut part = match (read_weights(dir, &names, file)?, config) {
        (Weights::Found(manifest), config) => from_headers(name, &manifest, config.as_ref(), class),
        (Weights::None { found }, None) => {
            return Err(FormatError::NoWeights { path: dir.path(""), found });
        }
        (Weights::None { found }, Some(config)) => {
            let wrong = |error| FormatError::NoSizes { path: dir.path(CONFIG), error };
            from_config(name, &config, class, &found).map_err(wrong)?
        }
    };
    let adapter = ["adapter_config.json", "pytorch_lora_weights.safetensors"];
    if adapter.iter().any(|name| names.contains(*name)) && class.is_none() {
        part.component.role = Role::Adapter;
    }
    let others = if file.is_none() { variants_beside(&names, choose(&names)) } else { Vec::new() };
    if !others.is_empty() {
        part.notes.push(format!("{name}: not counted: the variant {}", others.join(", ")));
    }
    Ok(part)
}

fn from_headers(
    name: &str,
    manifest: &Manifest,
    config: Option<&Config>,
    class: Option<&str>,
) -> Part {
    let mut notes = Vec::new();
    let facts = match config.map(|config| paper::facts(config, class)) {
        Some(Ok(facts)) => facts,
        reason => {
            let class = class.map(str::to_owned).or_else(|| config?.class());
            let reason = match reason {
                Some(Err(ConfigError::UnknownClass { class })) => {
                    format!("the class `{class}` is not known")
                }
                Some(Err(reason)) => reason.to_string(),
                _ => "there is no config.json".to_owned(),
            };
            notes.push(format!("{name}: only sizes are known: {reason}"));
            Facts::unknown(class.unwrap_or_default())
        }
    };
    let quantized = config.and_then(paper::quantized_bits);
    let pieces = stored::pieces(manifest.tensors(), quantized);
    let mut part = part(name, facts, pieces, ProfileSource::Headers);
    let unknown = |part: &Part| part.component.shape == Shape::Unknown;
    if unknown(&part) && part.component.groups.iter().any(|group| group.experts.is_some()) {
        notes.push(format!("{name}: how many experts a token uses is not known; all are counted"));
    }
    part.notes = notes;
    part
}

fn from_config(
    name: &str,
    config: &Config,
    class: Option<&str>,
    found: &[String],
) -> Result<Part, ConfigError> {
    let sketch = paper::sketch(config, class)?;
    let mut part = part(name, sketch.facts, sketch.pieces, ProfileSource::Config);
    part.notes.push(match found {
        [] => format!("{name}: no weights here; computed from the configuration"),
        found => {
            let found = found.join(", ");
            format!("{name}: {found} cannot be read; computed from the configuration")
        }
    });
    part.notes.extend(sketch.notes.into_iter().map(|note| format!("{name}: {note}")));
    Ok(part)
}

fn part(name: &str, facts: Facts, pieces: Vec<Piece>, source: ProfileSource) -> Part {
    let (groups, dtypes) = assemble(pieces, facts.active_experts);
    let component = ComponentProfile {
        name: name.to_owned(),
        class: Some(facts.class).filter(|class| !class.is_empty()),
        role: facts.role,
        groups,
        dtypes,
        shape: facts.shape,
        caches: facts.caches,
        max_context: facts.max_context,
    };
    Part { component, task: facts.task, source, notes: Vec::new() }
}

impl Facts {
    /// Of a class that is not known.
    pub(crate) const fn unknown(class: String) -> Self {
        Self {
            class,
            role: Role::Other,
            task: Task::Unknown,
            shape: Shape::Unknown,
            caches: Vec::new(),
            max_context: None,
            active_experts: None,
        }
    }
}
