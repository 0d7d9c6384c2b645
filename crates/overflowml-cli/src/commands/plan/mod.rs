//! `overflowml plan`

pub mod native;
mod popular;
mod svg;
mod table;
mod tools;

use overflowml::device::{DevicePlan, plan_device};
use overflowml::{Infeasible, Plan};
use serde_json::{Value, json};

use super::Answer;
use super::subject::{Subject, subject};
use crate::args::PlanArgs;
use crate::output;

pub fn run(args: &PlanArgs) -> anyhow::Result<Answer> {
    if args.popular {
        return popular::run(args);
    }
    let found = Found::look(args)?;
    if let Some(file) = &args.svg {
        svg::write(&found.plan, file)?;
        output::note(&format!("drew {}", file.display()));
    }
    if args.json {
        output::json(&found.document()?)?;
    } else if let Some(tool) = args.tool {
        output::answer(&tools::text(tool, &found.plan, found.typed.as_deref())?);
    } else {
        print(&found.plan, found.native.as_ref(), found.native_answers, args.compare);
    }
    Ok(if found.fits() { Answer::Yes } else { Answer::No })
}

/// What `--json` prints.
pub fn document(args: &PlanArgs) -> anyhow::Result<Value> {
    if args.popular {
        return Ok(popular::look(args)?.document());
    }
    Found::look(args)?.document()
}

/// The plans for what was asked.
struct Found {
    plan: DevicePlan,
    /// What `run` would do on this machine, if it can run the model.
    native: Option<Result<Plan, Infeasible>>,
    /// That is what this machine would use.
    native_answers: bool,
    /// The model as typed.
    typed: Option<String>,
}

impl Found {
    fn look(args: &PlanArgs) -> anyhow::Result<Self> {
        let Subject { model, machine, wish, typed, is_here } = subject(&args.what, &args.host)?;
        // A GPU of this machine is used by the Python package; without one, `run` is what there is.
        let native = match typed.as_deref().filter(|_| is_here && args.what.vram.is_none()) {
            Some(model) => native::plan(model, args)?,
            None => None,
        };
        let plan = plan_device(model, machine, wish);
        let native_answers = native.is_some() && plan.machine.gpus.is_empty();
        Ok(Self { plan, native, native_answers, typed })
    }

    fn fits(&self) -> bool {
        match &self.native {
            Some(native) if self.native_answers => native.is_ok(),
            _ => self.plan.decision.chosen.is_some(),
        }
    }

    fn document(&self) -> anyhow::Result<Value> {
        describe(&self.plan, self.native.as_ref(), self.fits())
    }
}

/// One document whatever the machine: the device plan's fields, and `plan` for what `run` would do.
fn describe(
    plan: &DevicePlan,
    native: Option<&Result<Plan, Infeasible>>,
    fits: bool,
) -> anyhow::Result<Value> {
    let mut document = json!({
        "fits": fits,
        "recommended": plan.decision.recommended(),
        "strategies": plan.decision.candidates,
        "rejected": plan.decision.rejected,
        "advice": plan.decision.advice,
        "resources": plan.decision.resources,
        "warnings": plan.warnings,
        "explanation": plan.lines(),
        "model": {
            "name": plan.model.name,
            "source": plan.model.source,
            "task": plan.model.task,
            "parameters": plan.model.parameters(),
            "size_bytes": plan.model.size(),
            "notes": plan.model.notes,
            "components": plan.model.components.iter().map(|part| json!({
                "name": part.name,
                "class": part.class,
                "role": part.role,
                "parameters": part.parameters(),
                "size_bytes": part.size(),
            })).collect::<Vec<_>>(),
        },
        "wish": plan.wish,
        "machine": plan.machine,
        "plan": null,
    });
    match native {
        Some(Ok(run)) => {
            document["plan"] = serde_json::to_value(run)?;
            document["reasons"] = json!(run.reasons());
        }
        Some(Err(refused)) => {
            document["code"] = json!(refused.code());
            document["reason"] = json!(refused.to_string());
            document["hint"] = json!(refused.hint());
        }
        None => {}
    }
    Ok(document)
}

fn print(
    plan: &DevicePlan,
    native: Option<&Result<Plan, Infeasible>>,
    native_answers: bool,
    compare: bool,
) {
    match native {
        Some(Ok(run)) if native_answers => output::answer(&native::text(run)),
        // A model that does not fit is an answer too: on stdout, with exit code 1.
        Some(Err(refused)) if native_answers => {
            output::answer(&format!("fits: no\n  {refused}\n"));
            if let Some(hint) = refused.hint() {
                output::hint(&hint);
            }
        }
        _ => {
            for line in plan.lines() {
                output::answer_line(&line);
            }
            output::answer(&table::tiers(plan));
            if let Some(Ok(run)) = native {
                output::answer_line("\n`overflowml run` uses the processor only:");
                output::answer(&native::text(run));
            }
        }
    }
    if compare {
        output::answer(&table::compare(plan));
    }
}
