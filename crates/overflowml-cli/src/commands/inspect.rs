//! `overflowml inspect`

use std::fmt::Write;

use overflowml::hub::Depth;
use overflowml::{Inspection, inspect};

use super::Answer;
use crate::args::InspectArgs;
use crate::output;

pub fn run(args: &InspectArgs) -> anyhow::Result<Answer> {
    let model = overflowml::look(&args.model.model, Depth::Headers)?;
    let inspection = inspect(&args.model.model, &model);
    if args.json {
        output::json(&inspection)?;
    } else {
        output::answer(&text(&inspection));
    }
    Ok(Answer::Yes)
}

fn text(seen: &Inspection) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {name:<15} {value}");
    };
    line("architecture", seen.architecture.clone().unwrap_or_else(|| "unknown".to_owned()));
    line("parameters", parameters(seen.parameters));
    let by_dtype: Vec<String> =
        seen.by_dtype.iter().map(|(dtype, size)| format!("{size} {dtype}")).collect();
    line("weights", format!("{} in {} file(s): {}", seen.weights, seen.files, by_dtype.join(", ")));
    if let Some(decoder) = &seen.decoder {
        line(
            "decoder",
            format!(
                "{} layers, hidden {}, {} query and {} key/value heads of {}, vocabulary {}",
                decoder.layers.len(),
                decoder.hidden,
                decoder.heads,
                decoder.kv_heads,
                decoder.head_dim,
                decoder.vocab
            ),
        );
    }
    line("groups", groups(seen));
    if let (Some(per_token), Some(context)) = (seen.kv_per_token, seen.max_context) {
        line("KV cache", format!("{per_token} per token of context"));
        line("context", format!("up to {context} tokens"));
    }
    let head = match &seen.not_runnable_because {
        None => format!("{}: runnable\n", seen.model),
        Some(reason) => format!("{}: not runnable: {reason}\n", seen.model),
    };
    head + &text
}

fn groups(seen: &Inspection) -> String {
    match &seen.largest_group {
        Some(largest) => format!(
            "{}, the largest `{}` with {} in {} tensors",
            seen.groups.len(),
            largest.name,
            largest.size,
            largest.tensors
        ),
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
