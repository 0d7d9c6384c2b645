//! The plan that `run` makes on this machine, where it can run the model.

use std::fmt::Write;

use overflowml::hub::Depth;
use overflowml::{Infeasible, LogitsWanted, Plan, Planner, Text};

use crate::args::PlanArgs;
use crate::settings;

/// What `run` would do with `model` here; `None` if it cannot run it at all.
pub fn plan(model: &str, args: &PlanArgs) -> anyhow::Result<Option<Result<Plan, Infeasible>>> {
    let Ok(model) = overflowml::look(model, Depth::Tokenizer) else { return Ok(None) };
    if model.bind().is_err() {
        return Ok(None);
    }
    let what = &args.what;
    let (prompt, generate) = (what.prompt_tokens as usize, what.max_new_tokens as usize);
    let mut request = settings::session(&args.host, prompt, generate, LogitsWanted::Last);
    // A run holds the tokenizer too, which takes longer to read than everything else here.
    request.later = Text::memory(&model);
    Ok(Some(Planner::new(&model, &request)?.plan()))
}

/// Answer first, then why, then the numbers.
pub fn text(plan: &Plan) -> String {
    let mut text = String::new();
    let how = match (&plan.ring, &plan.experts) {
        (Some(_), _) => "streaming from disk",
        (None, Some(_)) => "reading experts from disk when chosen",
        (None, None) => "all in memory",
    };
    // Writing to a string cannot fail.
    let _ = writeln!(text, "fits: yes, {how}");
    for reason in plan.reasons() {
        let _ = writeln!(text, "  {reason}");
    }
    text
}
