//! `overflowml can-run`

use overflowml::device::{Candidate, DevicePlan, Offload, choose, plan_device};
use serde_json::{Value, json};

use super::Answer;
use super::subject::{Subject, subject};
use crate::args::{CanRunArgs, MostOffload};
use crate::output;

pub fn run(args: &CanRunArgs) -> anyhow::Result<Answer> {
    let plan = plan(args)?;
    let found = choose(&plan.decision, most(args.max_offload));
    if args.json {
        output::json(&json(&plan, found))?;
    } else {
        let word = if found.is_some() { "yes" } else { "no" };
        output::answer_line(&format!("{word}: {}", reason(&plan, found)));
    }
    Ok(if found.is_some() { Answer::Yes } else { Answer::No })
}

/// What `--json` prints.
pub fn document(args: &CanRunArgs) -> anyhow::Result<Value> {
    let plan = plan(args)?;
    Ok(json(&plan, choose(&plan.decision, most(args.max_offload))))
}

fn plan(args: &CanRunArgs) -> anyhow::Result<DevicePlan> {
    let Subject { model, machine, wish, .. } = subject(&args.what, &args.host)?;
    Ok(plan_device(model, machine, wish))
}

fn reason(plan: &DevicePlan, found: Option<&Candidate>) -> String {
    if let Some(one) = found {
        let speed = &one.speed;
        return format!(
            "{}, about {} per {}",
            one.name(),
            speed.seconds.expected,
            speed.unit.name()
        );
    }
    match plan.decision.recommended() {
        Some(best) => format!("only with more moving than allowed: {}", best.name()),
        None => plan.why_nothing_fits(),
    }
}

fn json(plan: &DevicePlan, found: Option<&Candidate>) -> Value {
    let gpu = plan.machine.gpus.first().and_then(|gpu| gpu.total.as_ref());
    json!({
        "ok": found.is_some(),
        "reason": reason(plan, found),
        "recommended_strategy": found.map(Candidate::name),
        "recommended": found,
        "detected_vram_bytes": gpu.map(|total| total.value),
        "detected_ram_bytes": plan.machine.memory.total.value,
    })
}

fn most(most: MostOffload) -> Offload {
    match most {
        MostOffload::None => Offload::None,
        MostOffload::ModelCpu => Offload::ModelCpu,
        MostOffload::ExpertOffload => Offload::ExpertOffload,
        MostOffload::LayerHybrid => Offload::LayerHybrid,
        MostOffload::SequentialCpu => Offload::SequentialCpu,
        MostOffload::Disk => Offload::Disk,
    }
}
