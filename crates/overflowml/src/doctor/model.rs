//! Whether a model would run here, and how.

use overflowml_plan::Infeasible;
use overflowml_types::{Bytes, LogitsWanted, Machine, ModelProfile};

use super::report::Issue;
use crate::calibration::{Calibration, with_measured};
use crate::device::{DevicePlan, Wish, plan_device};
use crate::error::Error;
use crate::planner::{Planner, SessionRequest};

/// A usual request: what `plan` assumes.
const PROMPT: usize = 512;
const GENERATE: usize = 256;

/// What became of looking at a model.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum ModelFacts {
    /// It runs from main memory.
    Fits { weights: Bytes, peak: Bytes },
    /// It runs, streaming from disk.
    Streams { weights: Bytes, peak: Bytes, tokens_per_second: f64 },
    /// It cannot run in the memory that is free.
    DoesNotFit { reason: String, hint: Option<String> },
    /// What the best plan for this machine's accelerators does, or for its processor where `run` is not for the model.
    Planned { weights: Bytes, how: String, resident: bool, changes: Vec<String> },
    /// It could not be opened.
    Unknown { reason: String, hint: Option<String> },
}

/// Opens and plans `model`, without reading weights and without measuring.
///
/// A machine without an accelerator is judged by what `run` would do, if it runs such models; any other by the plan
/// that `plan` shows.
pub(super) fn look(model: &str, machine: &Machine) -> ModelFacts {
    let native = || if machine.gpus.is_empty() { native(model) } else { None };
    match native() {
        Some(facts) => facts,
        None => match crate::profile(model) {
            Ok(profile) => planned(profile, machine),
            Err(error) => unknown(&error),
        },
    }
}

/// What `run` would do; `None` if it does not run this model.
fn native(model: &str) -> Option<ModelFacts> {
    let opened = crate::look(model, crate::hub::Depth::Headers).ok()?;
    let weights = opened.manifest.size();
    let request = SessionRequest::new(PROMPT, GENERATE, LogitsWanted::Last);
    let known = |threads, _| {
        Calibration::stored(threads).unwrap_or_else(|| Calibration::unmeasured(threads))
    };
    Some(match Planner::with(&opened, &request, known).ok()?.plan() {
        Ok(plan) if plan.streams_nothing() => ModelFacts::Fits { weights, peak: plan.memory.peak },
        Ok(plan) => ModelFacts::Streams {
            weights,
            peak: plan.memory.peak,
            tokens_per_second: plan.prediction.decode_tokens_per_second,
        },
        Err(refused) => does_not_fit(&refused),
    })
}

fn planned(profile: ModelProfile, machine: &Machine) -> ModelFacts {
    let (weights, wish) = (profile.size(), Wish::usual(profile.task));
    let plan = plan_device(profile, with_measured(machine.clone()), wish);
    let changes = changes(&plan);
    let Some(best) = plan.decision.recommended() else {
        let reason = plan.why_nothing_fits();
        return ModelFacts::DoesNotFit { reason, hint: changes.into_iter().next() };
    };
    let speed = &best.speed;
    let how = format!(
        "`{}`: {} of GPU memory, {} of main memory, about {} per {}",
        best.name(),
        best.memory.device.expected,
        best.memory.host.expected,
        speed.seconds.expected,
        speed.unit.name()
    );
    ModelFacts::Planned { weights, how, resident: best.is_resident(), changes }
}

/// What would make it fit or faster.
fn changes(plan: &DevicePlan) -> Vec<String> {
    let advice = &plan.decision.advice;
    let wait = advice.wait_for.map(|missing| {
        format!(
            "Wait for {missing} more free GPU memory, which others hold now: then everything fits"
        )
    });
    let others =
        advice.changes.iter().map(|change| format!("Try {}: {}", change.what, change.candidate));
    wait.into_iter().chain(others).collect()
}

fn unknown(error: &Error) -> ModelFacts {
    ModelFacts::Unknown { reason: error.to_string(), hint: error.hint() }
}

fn does_not_fit(refused: &Infeasible) -> ModelFacts {
    ModelFacts::DoesNotFit { reason: refused.to_string(), hint: refused.hint() }
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
            Self::Planned { weights, how, resident, changes } => {
                let (code, start) = match resident {
                    true => ("model_fits", "fits"),
                    false => ("model_needs_offload", "runs with a part of it moving"),
                };
                let message = format!("The model ({weights} of weights) {start}, {how}.");
                let issue = Issue::info(code, message).found(weights);
                changes.iter().fold(issue, |issue, change| issue.fix(change))
            }
        }
    }
}
