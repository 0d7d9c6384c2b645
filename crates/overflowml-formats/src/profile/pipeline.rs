//! `model_index.json`: the components of a diffusion pipeline, each in a folder of its own.

use overflowml_types::{
    ComponentProfile, Manifest, ModelProfile, ProfileSource, Role, Shape, Task,
};
use serde_json::{Map, Value};

use super::{Part, part_in};
use crate::config::parse_object;
use crate::dir::read_small;
use crate::model::{Weights, file_names, read_weights};
use crate::{ConfigError, FormatError, ModelDir, limits};

const INDEX: &str = "model_index.json";

/// The pipeline's index, if `dir` holds one.
pub(super) fn read_index<D: ModelDir>(dir: &D) -> Result<Option<Map<String, Value>>, FormatError> {
    let Some(bytes) = read_small(dir, INDEX, limits::CONFIG)? else { return Ok(None) };
    let wrong = |error| FormatError::Config { path: dir.path(INDEX), error };
    parse_object(&bytes).map(Some).map_err(wrong)
}

/// The profile of the pipeline that `index` lists.
pub(super) fn profile<D: ModelDir>(
    dir: &D,
    name: String,
    index: &Map<String, Value>,
) -> Result<ModelProfile, FormatError> {
    let wrong = |error| FormatError::Config { path: dir.path(INDEX), error };
    let mut parts = Vec::new();
    let mut notes = Vec::new();
    for (name, class) in listed(index).map_err(wrong)? {
        match part_in(&dir.folder(name), None, name, Some(class)) {
            Ok(part) => parts.push(part),
            Err(problem) if is_absence(&problem) => {
                notes.push(format!("{name}: not counted: {problem}"));
            }
            Err(problem) => return Err(problem),
        }
    }
    if parts.is_empty() {
        return Err(FormatError::NoComponents { path: dir.path(""), reasons: notes });
    }
    parts.iter_mut().for_each(|part| cast(&mut part.component));
    parts.sort_by_cached_key(|part| (stage(part.component.role), part.component.name.clone()));
    let task = task(index, &parts);
    let source = parts.iter().map(|part| part.source).max().unwrap_or(ProfileSource::Config);
    let (components, own): (Vec<_>, Vec<_>) =
        parts.into_iter().map(|part| (part.component, part.notes)).unzip();
    notes.extend(own.into_iter().flatten());
    Ok(ModelProfile { name, source, task, components, notes })
}

/// The weights of every component of the pipeline that `index` lists, by its name; those that are not there, or of
/// other formats, are left out.
pub(super) fn manifests<D: ModelDir>(
    dir: &D,
    index: &Map<String, Value>,
) -> Result<Vec<(String, Manifest)>, FormatError> {
    let wrong = |error| FormatError::Config { path: dir.path(INDEX), error };
    let mut found = Vec::new();
    let mut reasons = Vec::new();
    for (name, _) in listed(index).map_err(wrong)? {
        let folder = dir.folder(name);
        let weights = file_names(&folder).and_then(|names| read_weights(&folder, &names, None));
        match weights {
            Ok(Weights::Found(manifest)) => found.push((name.to_owned(), manifest)),
            Ok(Weights::None { .. }) => reasons.push(format!("{name}: no safetensors file")),
            Err(problem) if is_absence(&problem) => reasons.push(format!("{name}: {problem}")),
            Err(problem) => return Err(problem),
        }
    }
    if found.is_empty() {
        return Err(FormatError::NoComponents { path: dir.path(""), reasons });
    }
    Ok(found)
}

/// Names and classes of the components that have weights.
fn listed(index: &Map<String, Value>) -> Result<Vec<(&str, &str)>, ConfigError> {
    let weightless = ["Scheduler", "Tokenizer", "Processor", "FeatureExtractor"];
    let mut found = Vec::new();
    for (name, value) in index {
        // Library and class; both are null for a component that the pipeline goes without.
        let Some([Value::String(_), Value::String(text)]) = value.as_array().map(Vec::as_slice)
        else {
            continue;
        };
        // `CLIPTokenizerFast` and `DPMSolverMultistepScheduler` alike.
        if weightless.iter().any(|part| text.contains(part)) {
            continue;
        }
        if name.is_empty() || name.starts_with('.') || name.contains(['/', '\\', ':', '\0']) {
            return Err(ConfigError::NotAFolder { name: name.clone() });
        }
        found.push((name.as_str(), text.as_str()));
    }
    match found.len() {
        count if count > limits::COMPONENTS => {
            Err(ConfigError::TooManyComponents { limit: limits::COMPONENTS })
        }
        _ => Ok(found),
    }
}

/// Whether a component is simply not there, or of a class whose sizes cannot be told.
const fn is_absence(problem: &FormatError) -> bool {
    use crate::FileProblem::{Missing, NotFolder};
    matches!(
        problem,
        FormatError::NoWeights { .. }
            | FormatError::NoSizes { .. }
            | FormatError::File { problem: Missing | NotFolder, .. }
    )
}

/// Gives a component the role that its name means in a pipeline.
fn cast(component: &mut ComponentProfile) {
    let stem = component.name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '_');
    component.role = match stem {
        "text_encoder" | "mllm" | "vlm" => Role::TextEncoder,
        "image_encoder" => Role::ImageEncoder,
        "transformer" | "unet" | "prior" => Role::Denoiser,
        "controlnet" => Role::ControlNet,
        "vae" | "vqvae" | "vqgan" | "movq" => Role::Vae,
        _ => match component.role {
            Role::Decoder => Role::TextEncoder,
            role => role,
        },
    };
    // A language model that only reads a prompt is an encoder: it runs once, without a cache.
    if component.role == Role::TextEncoder {
        component.caches.clear();
        if let Shape::Decoder { hidden, intermediate, heads, .. } = component.shape {
            component.shape = Shape::Encoder { hidden, intermediate, heads, tokens: PROMPT };
        }
    }
}

/// Tokens that pipelines feed to a language model that reads prompts.
const PROMPT: u64 = 1024;

/// The stage of a run in which a component is used.
const fn stage(role: Role) -> u8 {
    match role {
        Role::TextEncoder => 0,
        Role::ImageEncoder => 1,
        Role::ControlNet | Role::Denoiser => 2,
        Role::Vae => 3,
        _ => 4,
    }
}

/// What the denoiser makes; where its class is not known, what the pipeline's name says.
fn task(index: &Map<String, Value>, parts: &[Part]) -> Task {
    let denoisers = parts.iter().filter(|part| part.component.role == Role::Denoiser);
    let known = denoisers.map(|part| part.task).find(|task| *task != Task::Unknown);
    let class = index.get("_class_name").and_then(Value::as_str).unwrap_or_default();
    let moves = ["Video", "Wan", "LTX", "CogVideo", "Mochi", "Allegro"];
    known.unwrap_or(match moves.iter().any(|word| class.contains(word)) {
        true => Task::Video,
        false => Task::Image,
    })
}
