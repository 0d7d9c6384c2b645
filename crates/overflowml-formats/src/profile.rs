//! A model's folder or file → [`ModelProfile`]: what a planner needs, without a single weight.
//!
//! Sizes come from headers where there are weights and from `paper` where there is only a
//! configuration; shapes and caches always come from the configuration. A model of an unknown
//! architecture still has sizes: its shape is [`Shape::Unknown`] and a note says so.

mod assemble;
mod order;
mod stored;

use overflowml_types::{
    ComponentProfile, LayerCache, Manifest, ModelProfile, ProfileSource, Role, Shape, Task,
};

pub(crate) use self::assemble::{Piece, assemble};
use crate::model::{Weights, file_names, read_config, read_weights};
use crate::paper::{self, Facts};
use crate::{Config, FormatError, ModelDir};

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
    let part = part_in(dir, file, "model")?;
    Ok(ModelProfile {
        name: dir.path(file.unwrap_or_default()).display().to_string(),
        source: part.source,
        task: part.task,
        components: vec![part.component],
        notes: part.notes,
    })
}

/// One component: weights' headers and configuration, or the configuration alone.
fn part_in<D: ModelDir>(dir: &D, file: Option<&str>, name: &str) -> Result<Part, FormatError> {
    let names = file_names(dir)?;
    let config = read_config(dir)?;
    match (read_weights(dir, &names, file)?, config) {
        (Weights::Found(manifest), config) => Ok(from_headers(name, &manifest, config.as_ref())),
        (Weights::None { found }, None) => {
            Err(FormatError::NoWeights { path: dir.path(""), found })
        }
        (Weights::None { found }, Some(config)) => {
            let mut part = from_config(dir, name, &config)?;
            if !found.is_empty() {
                part.notes.push(format!(
                    "{name}: {} is not read; sizes were computed from the configuration",
                    found.join(", ")
                ));
            }
            Ok(part)
        }
    }
}

fn from_headers(name: &str, manifest: &Manifest, config: Option<&Config>) -> Part {
    let (facts, mut notes) = match config.map(paper::facts) {
        Some(Ok(facts)) => (Some(facts), Vec::new()),
        Some(Err(reason)) => (None, vec![format!("{name}: only sizes are known: {reason}")]),
        None => (None, vec![format!("{name}: only sizes are known: there is no config.json")]),
    };
    let quantized = config.and_then(paper::quantized_bits);
    let pieces = stored::pieces(manifest.tensors(), quantized);
    let active = facts.as_ref().and_then(|facts| facts.active_experts);
    let (groups, dtypes) = assemble(pieces, active);
    if active.is_none() && groups.iter().any(|group| group.experts.is_some()) {
        notes.push(format!("{name}: how many experts a token uses is not known; all are counted"));
    }
    let class = config.and_then(Config::class);
    let facts = facts.unwrap_or_else(|| Facts::unknown(class.clone().unwrap_or_default()));
    Part {
        component: ComponentProfile {
            name: name.to_owned(),
            class: Some(facts.class).filter(|class| !class.is_empty()),
            role: facts.role,
            groups,
            dtypes,
            shape: facts.shape,
            caches: facts.caches,
            max_context: facts.max_context,
        },
        task: facts.task,
        source: ProfileSource::Headers,
        notes,
    }
}

fn from_config<D: ModelDir>(dir: &D, name: &str, config: &Config) -> Result<Part, FormatError> {
    let sketch = paper::sketch(config)
        .map_err(|error| FormatError::NoSizes { path: dir.path("config.json"), error })?;
    let facts = sketch.facts;
    let (groups, dtypes) = assemble(sketch.pieces, facts.active_experts);
    let mut notes = vec![format!("{name}: no weights here; computed from the configuration")];
    notes.extend(sketch.notes.into_iter().map(|note| format!("{name}: {note}")));
    Ok(Part {
        component: ComponentProfile {
            name: name.to_owned(),
            class: Some(facts.class),
            role: facts.role,
            groups,
            dtypes,
            shape: facts.shape,
            caches: facts.caches,
            max_context: facts.max_context,
        },
        task: facts.task,
        source: ProfileSource::Config,
        notes,
    })
}

impl Facts {
    /// Of a class that is not known.
    pub(crate) fn unknown(class: String) -> Self {
        Self {
            class,
            role: Role::Other,
            task: Task::Unknown,
            shape: Shape::Unknown,
            caches: Vec::<LayerCache>::new(),
            max_context: None,
            active_experts: None,
        }
    }
}
