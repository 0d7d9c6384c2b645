//! Candidates side by side, and memory by tier.

use std::fmt::Write;

use overflowml::Bytes;
use overflowml::device::{Candidate, DevicePlan};

/// Every candidate and every rejected one.
pub fn compare(plan: &DevicePlan) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "\n{:>2}  {:<26} {:>12} {:>10} {:>12} {:>12} {:>12}  quality risk",
        "#", "strategy", "time", "in all", "GPU", "RAM", "disk"
    );
    for (index, one) in plan.decision.candidates.iter().enumerate() {
        let _ = writeln!(
            text,
            "{:>2}  {:<26} {:>12} {:>10} {:>12} {:>12} {:>12}  {}",
            index + 1,
            one.name(),
            format!("{}/{}", one.speed.seconds.expected, one.speed.unit.name()),
            one.speed.total.to_string(),
            one.memory.device.expected.to_string(),
            one.memory.host.expected.to_string(),
            one.memory.disk.to_string(),
            format!("{:?}", one.quality_risk).to_lowercase(),
        );
    }
    if !plan.decision.rejected.is_empty() {
        let _ = writeln!(text, "\nnot offered:");
    }
    for one in &plan.decision.rejected {
        let _ = writeln!(text, "    {:<26} {}", one.name(), one.reason);
    }
    text
}

/// How wide a full bar is.
const WIDTH: usize = 40;

/// A bar per tier for the recommended candidate.
pub fn tiers(plan: &DevicePlan) -> String {
    let Some(best) = plan.decision.recommended() else { return String::new() };
    let mut text = "\n".to_owned();
    for (name, used, usable) in parts(plan, best) {
        let share = (used.as_f64() / usable.as_f64().max(1.0)).clamp(0.0, 1.0);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // at most WIDTH
        let filled = (share * WIDTH as f64).round() as usize;
        let bar = format!("{}{}", "#".repeat(filled), ".".repeat(WIDTH - filled));
        let _ = writeln!(text, "  {name:<5} [{bar}] {used} of {usable}");
    }
    text
}

/// Name, use and size of every tier that is there.
pub fn parts(plan: &DevicePlan, best: &Candidate) -> Vec<(&'static str, Bytes, Bytes)> {
    let resources = &plan.decision.resources;
    let mut parts = Vec::new();
    if best.on_device {
        let cards = resources.accelerators.iter().take(best.devices);
        parts.push(("GPU", best.memory.device.expected, cards.map(|card| card.usable).sum()));
    }
    let host = resources.host.free;
    parts.push(("RAM", best.memory.host.expected, host));
    if !best.memory.disk.is_zero() {
        parts.push(("disk", best.memory.disk, plan.model.size()));
    }
    parts
}
