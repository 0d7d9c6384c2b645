//! `overflowml inspect`

use std::fmt::Write;

use overflowml::{ComponentProfile, Experts, Inspection, ProfileSource, inspect};

use serde_json::Value;

use super::Answer;
use crate::args::InspectArgs;
use crate::output;

pub fn run(args: &InspectArgs) -> anyhow::Result<Answer> {
    if args.json {
        output::json(&document(args)?)?;
    } else {
        output::answer(&text(&inspect(&args.model.model)?));
    }
    Ok(Answer::Yes)
}

/// What `--json` prints.
pub fn document(args: &InspectArgs) -> anyhow::Result<Value> {
    Ok(serde_json::to_value(inspect(&args.model.model)?)?)
}

fn text(seen: &Inspection) -> String {
    let mut text = match &seen.not_runnable_because {
        None => format!("{}: runnable\n", seen.model),
        Some(reason) => format!("{}: not runnable: {reason}\n", seen.model),
    };
    let mut line = |name: &str, value: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {name:<15} {value}");
    };
    line("architecture", seen.architecture.clone().unwrap_or_else(|| "unknown".to_owned()));
    line("parameters", parameters(seen.parameters));
    if seen.active_parameters < seen.parameters {
        line("active", format!("{} per token", parameters(seen.active_parameters)));
    }
    line("weights", weights(seen));
    if seen.components.len() > 1 {
        for part in &seen.components {
            line(&part.name, component(part));
        }
        let stages: Vec<String> = seen.stages.iter().map(stage).collect();
        line("stages", stages.join(" → "));
    }
    if let Some(decoder) = decoder(seen) {
        line("decoder", decoder);
    }
    line("groups", groups(seen));
    if let Some((layers, experts)) = experts(seen) {
        let each = format!("{} experts, {} active", experts.count, experts.active);
        line("experts", format!("{each}, {} in each of {layers} layers", experts.size));
    }
    cache(seen, &mut line);
    for note in &seen.notes {
        line("note", note.clone());
    }
    text
}

fn weights(seen: &Inspection) -> String {
    let by_dtype: Vec<String> =
        seen.by_dtype.iter().map(|(dtype, size)| format!("{size} {dtype}")).collect();
    let by_dtype = by_dtype.join(", ");
    match seen.source {
        ProfileSource::Headers => {
            format!("{} in {} file(s): {by_dtype}", seen.weights, seen.files)
        }
        _ => format!("{}, computed from the configuration: {by_dtype}", seen.weights),
    }
}

fn component(part: &ComponentProfile) -> String {
    let class = part.class.as_deref().unwrap_or("unknown class");
    format!("{}, {}, {class}", part.size(), parameters(part.parameters()))
}

fn stage(stage: &overflowml::Stage) -> String {
    format!("{} {} ({})", stage.name, stage.weights, stage.components.join(", "))
}

fn decoder(seen: &Inspection) -> Option<String> {
    let decoder = seen.decoder.as_ref()?;
    Some(format!(
        "{} layers, hidden {}, {} query and {} key/value heads of {}, vocabulary {}",
        decoder.layers.len(),
        decoder.hidden,
        decoder.heads,
        decoder.kv_heads,
        decoder.head_dim,
        decoder.vocab
    ))
}

fn cache(seen: &Inspection, line: &mut impl FnMut(&str, String)) {
    if let Some(per_token) = seen.kv_per_token {
        line("KV cache", format!("{per_token} per token of context"));
    }
    if let Some(state) = seen.state {
        line("state", format!("{state} per sequence, whatever its length"));
    }
    match (seen.max_context, seen.kv_at_max_context) {
        (Some(context), Some(size)) => {
            line("context", format!("up to {context} tokens, then {size} of KV cache"));
        }
        (Some(context), None) => line("context", format!("up to {context} tokens")),
        _ => {}
    }
}

/// How many layers have experts, and those of the first of them.
fn experts(seen: &Inspection) -> Option<(usize, Experts)> {
    let groups = seen.components.iter().flat_map(|part| &part.groups);
    let mut experts = groups.filter_map(|group| group.experts);
    let first = experts.next()?;
    Some((experts.count() + 1, first))
}

fn groups(seen: &Inspection) -> String {
    match &seen.largest_group {
        Some(largest) => {
            let tensors = largest.tensors.map(|count| format!(" in {count} tensors"));
            format!(
                "{}, the largest `{}` with {}{}",
                seen.groups.len(),
                largest.name,
                largest.size,
                tensors.unwrap_or_default()
            )
        }
        None => "none".to_owned(),
    }
}

/// `3.21 B (3 212 749 824)`.
#[allow(clippy::cast_precision_loss)] // two decimals are printed
fn parameters(count: u64) -> String {
    let (scale, unit) = match count {
        1_000_000_000.. => (1e9, " B"),
        1_000_000.. => (1e6, " M"),
        _ => return count.to_string(),
    };
    format!("{:.2}{unit} ({count})", count as f64 / scale)
}
