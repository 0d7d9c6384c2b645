//! What a machine can run of well-known models, by their published sizes in 16-bit weights.

use std::fmt::Write;

use overflowml::device::{Candidate, DevicePlan, MoeSize, Wish, moe_of_size, of_size, plan_device};
use overflowml::{Bytes, Machine, ModelProfile, Task};
use serde_json::{Value, json};

use crate::args::PlanArgs;
use crate::commands::Answer;
use crate::commands::subject::machine;
use crate::output;

/// Name, size in GB of 16-bit weights, and whether it is a language model.
const MODELS: [(&str, f64, bool); 14] = [
    ("Llama-3.2-1B", 2.5, true),
    ("Llama-3.2-3B", 6.4, true),
    ("Qwen3-4B", 8.0, true),
    ("Mistral-7B", 14.5, true),
    ("Llama-3.1-8B", 16.1, true),
    ("Gemma-3-12B", 24.4, true),
    ("Qwen3-14B", 29.5, true),
    ("Gemma-3-27B", 54.9, true),
    ("Qwen3-32B", 65.5, true),
    ("Llama-3.3-70B", 141.1, true),
    ("SDXL", 7.0, false),
    ("FLUX.1-dev", 33.7, false),
    ("Qwen-Image", 57.7, false),
    ("Wan2.1-14B", 40.0, false),
];

/// Name, parameters and active parameters in billions, experts, and experts per token.
const MIXTURES: [(&str, f64, f64, u64, u64); 4] = [
    ("Mixtral-8x7B", 46.7, 12.9, 8, 2),
    ("Qwen3-30B-A3B", 30.5, 3.3, 128, 8),
    ("gpt-oss-120b", 116.8, 5.1, 128, 4),
    ("DeepSeek-V3", 671.0, 37.0, 256, 8),
];

pub fn run(args: &PlanArgs) -> anyhow::Result<Answer> {
    let popular = look(args)?;
    if args.json {
        output::json(&popular.document())?;
    } else {
        output::answer(&popular.text());
    }
    Ok(Answer::Yes)
}

/// The plan of each well-known model on one machine.
pub struct Popular {
    machine: Machine,
    plans: Vec<DevicePlan>,
}

/// Plans them all.
pub fn look(args: &PlanArgs) -> anyhow::Result<Popular> {
    let machine = machine(&args.what, None)?;
    let wish = Wish { vram: args.what.vram, memory: args.host.memory, ..Wish::default() };
    let plan = |model| plan_device(model, machine.clone(), wish.clone());
    let plans = models().into_iter().map(plan).collect();
    Ok(Popular { machine, plans })
}

impl Popular {
    /// What `--json` prints.
    pub fn document(&self) -> Value {
        let row = |plan: &DevicePlan| {
            let best = plan.decision.recommended();
            json!({
                "model": plan.model.name, "size_bytes": plan.model.size(), "recommended": best,
                "strategy": best.map(Candidate::name),
            })
        };
        let rows: Vec<Value> = self.plans.iter().map(row).collect();
        json!({ "models": rows, "machine": self.machine })
    }

    fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{:<16} {:>10}  {:<26} {:>14}", "model", "size", "strategy", "time");
        for plan in &self.plans {
            let best = plan.decision.recommended();
            let strategy = best.map_or_else(|| "does not fit".to_owned(), Candidate::name);
            let speed = best.map_or_else(String::new, |one| {
                format!("{}/{}", one.speed.seconds.expected, one.speed.unit.name())
            });
            let (name, size) = (&plan.model.name, plan.model.size().to_string());
            let _ = writeln!(text, "{name:<16} {size:>10}  {strategy:<26} {speed:>14}");
        }
        let _ = writeln!(
            text,
            "\nSizes are published, shapes are stand-ins; `overflowml plan MODEL` knows more. Image models: 1024x1024."
        );
        text
    }
}

fn models() -> Vec<ModelProfile> {
    let dense = MODELS.iter().map(|&(name, gb, text)| {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a table
        let size = Bytes::new((gb * 1e9) as u64);
        if text { of_text_size(name, size) } else { of_size(name, size) }
    });
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a table
    let billions = |count: f64| (count * 1e9) as u64;
    let mixtures = MIXTURES.iter().filter_map(|&(name, total, active, experts, chosen)| {
        let size = MoeSize { total: billions(total), active: billions(active), experts, chosen };
        moe_of_size(name, size)
    });
    dense.chain(mixtures).collect()
}

/// A language model of equal layers: a mixture whose experts are all dense.
fn of_text_size(name: &str, size: Bytes) -> ModelProfile {
    let parameters = size.get() / 2;
    let size = MoeSize { total: parameters, active: parameters - 1, experts: 2, chosen: 1 };
    let mut model = moe_of_size(name, size).unwrap_or_else(|| of_size(name, Bytes::gib(1)));
    model.task = Task::Text;
    for group in model.components.iter_mut().flat_map(|part| &mut part.groups) {
        group.experts = None;
    }
    model
}
