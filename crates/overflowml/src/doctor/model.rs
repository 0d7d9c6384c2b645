//! Whether a model would run here.

use overflowml_plan::Infeasible;
use overflowml_types::{Bytes, LogitsWanted, Machine};

use super::report::Issue;
use crate::calibration::Calibration;
use crate::error::Error;
use crate::planner::{Planner, SessionRequest};

/// A usual request: what `plan` assumes.
const PROMPT: usize = 512;
const GENERATE: usize = 256;

/// Working memory beside the weights of a model that our engine does not run.
const WORKING_SHARE: f64 = 0.15;

/// What became of looking at a model.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum ModelFacts {
    /// It runs from main memory.
    Fits { weights: Bytes, peak: Bytes },
    /// It runs, streaming from disk.
    Streams { weights: Bytes, peak: Bytes, tokens_per_second: f64 },
    /// It cannot run in the memory that is free.
    DoesNotFit { reason: String, hint: Option<String> },
    /// Our engine does not run it; another could, in this much memory.
    Foreign { reason: String, weights: Bytes, largest: Option<(String, Bytes)> },
    /// It could not be opened.
    Unknown { reason: String, hint: Option<String> },
}

/// Opens and plans `model`, without reading weights and without measuring.
pub(super) fn look(model: &str, machine: &Machine) -> ModelFacts {
    let opened = crate::look(model, crate::hub::Depth::Headers);
    let opened = match opened {
        Ok(opened) => opened,
        Err(error) => return unknown(&error),
    };
    let weights = opened.manifest.size();
    let request = SessionRequest::new(PROMPT, GENERATE, LogitsWanted::Last);
    let known = |threads, _| {
        Calibration::stored(threads).unwrap_or_else(|| Calibration::unmeasured(threads))
    };
    let planner = match Planner::with(&opened, &request, known) {
        Ok(planner) => planner,
        Err(error) => {
            let (reason, largest) = (error.to_string(), largest_memory(machine));
            return ModelFacts::Foreign { reason, weights, largest };
        }
    };
    match planner.plan() {
        Ok(plan) if plan.ring.is_none() => ModelFacts::Fits { weights, peak: plan.memory.peak },
        Ok(plan) => ModelFacts::Streams {
            weights,
            peak: plan.memory.peak,
            tokens_per_second: plan.prediction.decode_tokens_per_second,
        },
        Err(refused) => does_not_fit(&refused),
    }
}

fn unknown(error: &Error) -> ModelFacts {
    ModelFacts::Unknown { reason: error.to_string(), hint: error.hint() }
}

fn does_not_fit(refused: &Infeasible) -> ModelFacts {
    ModelFacts::DoesNotFit { reason: refused.to_string(), hint: refused.hint() }
}

/// The largest free memory that weights could be in, and what it is called.
fn largest_memory(machine: &Machine) -> Option<(String, Bytes)> {
    let gpus =
        machine.gpus.iter().filter_map(|gpu| Some((gpu.name.clone(), gpu.free.as_ref()?.value)));
    let ram = ("main memory".to_owned(), machine.memory.available.value);
    gpus.chain([ram]).max_by_key(|(_, free)| *free)
}

impl ModelFacts {
    /// The finding.
    pub(super) fn issue(&self) -> Issue {
        match self {
            Self::Fits { weights, peak } => Issue::info(
                "model_fits",
                format!("The model ({weights} of weights) runs from memory and takes {peak} at most."),
            )
            .found(weights),
            Self::Streams { weights, peak, tokens_per_second } => Issue::info(
                "model_needs_offload",
                format!(
                    "The model ({weights} of weights) runs in {peak} by streaming from disk, at an estimated \
                     {tokens_per_second:.2} tokens per second."
                ),
            )
            .found(weights)
            .fix("Free memory makes it faster: see `overflowml plan`"),
            Self::DoesNotFit { reason, hint } => {
                let issue = Issue::error("model_does_not_fit", format!("{reason}."));
                hint.iter().fold(issue, |issue, hint| issue.fix(hint))
            }
            Self::Unknown { reason, hint } => {
                let issue = Issue::error("model_unknown", format!("The model cannot be opened: {reason}."));
                hint.iter().fold(issue, |issue, hint| issue.fix(hint))
            }
            Self::Foreign { reason, weights, largest } => foreign(reason, *weights, largest.as_ref()),
        }
    }
}

fn foreign(reason: &str, weights: Bytes, largest: Option<&(String, Bytes)>) -> Issue {
    let needed = weights.saturating_add(weights.share(WORKING_SHARE));
    let start = format!("`run` cannot run this model ({reason}); other programs");
    match largest {
        Some((name, free)) if needed <= *free => Issue::info(
            "model_fits",
            format!("{start} can hold its {weights} of weights in {name}, where {free} is free."),
        ),
        _ => Issue::warn(
            "model_needs_offload",
            format!("{start} need about {needed} or have to move weights while running."),
        )
        .fix("Use offload or quantisation in the program that runs it"),
    }
    .found(weights)
}
