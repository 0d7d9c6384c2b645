//! `overflowml plan`

use std::fmt::Write;

use overflowml::hub::Depth;
use overflowml::{Infeasible, LogitsWanted, Plan, Planner, Text};
use serde_json::json;

use super::Answer;
use crate::args::PlanArgs;
use crate::{output, settings};

pub fn run(args: &PlanArgs) -> anyhow::Result<Answer> {
    let model = overflowml::look(&args.model.model, Depth::Tokenizer)?;
    let (prompt, generate) = (args.prompt_tokens as usize, args.max_new_tokens as usize);
    let request = settings::session(&args.host, prompt, generate, LogitsWanted::Last);
    // A run holds the tokenizer too: the plan is to be the one that it will make.
    let _text = model
        .files
        .tokenizer
        .as_ref()
        .map(|_| Text::open(&model))
        .transpose()
        .map_err(overflowml::Error::from)?;
    let planner = Planner::new(&model, &request)?;
    match planner.plan() {
        Ok(plan) => {
            if args.json {
                output::json(&json!({ "fits": true, "plan": plan, "reasons": plan.reasons() }))?;
            } else {
                output::answer(&text(&plan));
            }
            Ok(Answer::Yes)
        }
        Err(refused) => refusal(args.json, &refused),
    }
}

/// A model that does not fit is an answer too: on stdout, with exit code 1.
fn refusal(as_json: bool, refused: &Infeasible) -> anyhow::Result<Answer> {
    let hint = refused.hint();
    if as_json {
        let code = refused.code();
        output::json(
            &json!({ "fits": false, "code": code, "reason": refused.to_string(), "hint": hint }),
        )?;
    } else {
        output::answer(&format!("fits: no\n  {refused}\n"));
        if let Some(hint) = hint {
            output::hint(&hint);
        }
    }
    Ok(Answer::No)
}

/// Answer first, then why, then the numbers.
pub fn text(plan: &Plan) -> String {
    let mut text = String::new();
    let how = if plan.ring.is_some() { "streaming from disk" } else { "all in memory" };
    // Writing to a string cannot fail.
    let _ = writeln!(text, "fits: yes, {how}");
    for reason in plan.reasons() {
        let _ = writeln!(text, "  {reason}");
    }
    text
}
