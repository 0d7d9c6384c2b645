//! `overflowml can-run`

use overflowml::device::{Candidate, Offload, choose, plan_device};
use serde_json::json;

use super::Answer;
use super::subject::{Subject, subject};
use crate::args::{CanRunArgs, MostOffload};
use crate::output;

pub fn run(args: &CanRunArgs) -> anyhow::Result<Answer> {
    let Subject { model, machine, wish, .. } = subject(&args.what, &args.host)?;
    let plan = plan_device(model, machine, wish);
    let found = choose(&plan.decision, most(args.max_offload));
    let reason = found.map_or_else(
        || match plan.decision.recommended() {
            Some(best) => format!("only with more moving than allowed: {}", best.name()),
            None => plan.why_nothing_fits(),
        },
        |one| {
            let speed = &one.speed;
            format!("{}, about {} per {}", one.name(), speed.seconds.expected, speed.unit.name())
        },
    );
    if args.json {
        let gpu = plan.machine.gpus.first().and_then(|gpu| gpu.total.as_ref());
        output::json(&json!({
            "ok": found.is_some(),
            "reason": reason,
            "recommended_strategy": found.map(Candidate::name),
            "recommended": found,
            "detected_vram_bytes": gpu.map(|total| total.value),
            "detected_ram_bytes": plan.machine.memory.total.value,
        }))?;
    } else {
        output::answer_line(&format!("{}: {reason}", if found.is_some() { "yes" } else { "no" }));
    }
    Ok(if found.is_some() { Answer::Yes } else { Answer::No })
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
