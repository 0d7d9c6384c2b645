//! A drawing of placement and time.

use std::fmt::Write;
use std::path::Path;

use anyhow::Context;
use overflowml::device::{Candidate, DevicePlan, Lane, StageUse};

use super::table::parts;

const WIDTH: f64 = 760.0;
const LEFT: f64 = 90.0;
const BAR: f64 = 26.0;
const STEP: f64 = 44.0;

/// Draws `plan` into `file`, whole or not at all.
pub fn write(plan: &DevicePlan, file: &Path) -> anyhow::Result<()> {
    let drawing = draw(plan);
    let shown = file.display();
    let new = file.with_extension(format!("{}.new", std::process::id()));
    let written = std::fs::write(&new, drawing).and_then(|()| std::fs::rename(&new, file));
    if written.is_err() {
        // Ignored: the error of writing is the one to tell.
        let _ = std::fs::remove_file(&new);
    }
    written.with_context(|| format!("cannot write `{shown}`"))
}

fn draw(plan: &DevicePlan) -> String {
    let mut shapes = String::new();
    let mut y = 40.0;
    let best = plan.decision.recommended();
    let title = match best {
        Some(best) => format!("{}: {}", plan.model.name, best.name()),
        None => format!("{}: does not fit", plan.model.name),
    };
    label(&mut shapes, 12.0, 24.0, 16, &title);
    if let Some(best) = best {
        y = memory(&mut shapes, plan, best, y + 16.0);
        y = timeline(&mut shapes, best, y + 24.0);
        if let Some((component, pass)) = longest(best) {
            y = passes(&mut shapes, component, pass, y + 28.0);
        }
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" height=\"{1}\" \
         font-family=\"sans-serif\">\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n{shapes}</svg>\n",
        WIDTH + LEFT + 20.0,
        y + 20.0
    )
}

/// A bar per tier.
fn memory(shapes: &mut String, plan: &DevicePlan, best: &Candidate, mut y: f64) -> f64 {
    for (name, used, usable) in parts(plan, best) {
        let share = (used.as_f64() / usable.as_f64().max(1.0)).clamp(0.0, 1.0);
        label(shapes, 12.0, y + 18.0, 13, name);
        bar(shapes, LEFT, y, WIDTH, "#e6e6e6");
        bar(shapes, LEFT, y, WIDTH * share, "#88bbee");
        label(shapes, LEFT + 6.0, y + 18.0, 12, &format!("{used} of {usable}"));
        y += STEP;
    }
    y
}

/// A bar per stage, as long as its time: loading, then passes.
fn timeline(shapes: &mut String, best: &Candidate, mut y: f64) -> f64 {
    let total = best.speed.total.get().max(f64::MIN_POSITIVE);
    label(
        shapes,
        12.0,
        y,
        13,
        &format!("time: {} in all, limited by {}", best.speed.total, best.speed.limited_by),
    );
    y += 14.0;
    let mut x = LEFT;
    for stage in &best.stages {
        label(shapes, 12.0, y + 18.0, 11, &shortened(&stage.component));
        let mut piece = |seconds: f64, colour: &str| {
            let width = WIDTH * seconds / total;
            bar(shapes, x, y, width, colour);
            x += width;
        };
        piece(stage.load_seconds.get(), "#ccbb44");
        for one in &stage.uses {
            #[allow(clippy::cast_precision_loss)] // pass counts
            piece(one.seconds.get() * one.passes as f64, colour(one.limited_by));
        }
        let passes: Vec<_> = stage
            .uses
            .iter()
            .map(|one| format!("{} × {} {}", one.passes, one.seconds, one.what))
            .collect();
        label(shapes, LEFT + 6.0, y + BAR + 13.0, 11, &passes.join(", "));
        y += STEP + 6.0;
    }
    for (index, (what, fill)) in [
        ("moving in", "#ccbb44"),
        ("compute or memory", "#228833"),
        ("link", "#ee6677"),
        ("disk", "#aa3377"),
    ]
    .iter()
    .enumerate()
    {
        #[allow(clippy::cast_precision_loss)] // four
        let x = LEFT + 150.0 * index as f64;
        let _ = writeln!(
            shapes,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"12\" height=\"12\" fill=\"{fill}\"/>"
        );
        label(shapes, x + 18.0, y + 11.0, 12, what);
    }
    y + 16.0
}

/// The passes that take most of the time, if anything moves meanwhile.
fn longest(best: &Candidate) -> Option<(&str, &StageUse)> {
    let uses = best
        .stages
        .iter()
        .flat_map(|stage| stage.uses.iter().map(|one| (stage.component.as_str(), one)));
    #[allow(clippy::cast_precision_loss)] // pass counts
    let time = |one: &StageUse| one.seconds.get() * one.passes as f64;
    let longest = uses.max_by(|(_, a), (_, b)| time(a).total_cmp(&time(b)))?;
    let moves = longest.1.timeline(1).iter().any(|span| span.lane != Lane::Compute);
    moves.then_some(longest)
}

/// Two passes as simulated: which group is read, copied and computed with when.
fn passes(shapes: &mut String, component: &str, pass: &StageUse, mut y: f64) -> f64 {
    let spans = pass.timeline(2);
    let end = spans.iter().map(|span| span.end.get()).fold(f64::MIN_POSITIVE, f64::max);
    let title = format!("the first two of {} × {} {}", pass.passes, component, pass.what);
    label(shapes, 12.0, y, 13, &title);
    y += 14.0;
    for (lane, name, fills) in [
        (Lane::Disk, "disk", ["#aa3377", "#cc77aa"]),
        (Lane::Link, "link", ["#ee6677", "#f4a0aa"]),
        (Lane::Compute, "compute", ["#228833", "#66aa77"]),
    ] {
        let own = spans.iter().filter(|span| span.lane == lane);
        if own.clone().next().is_none() {
            continue;
        }
        label(shapes, 12.0, y + 18.0, 11, name);
        bar(shapes, LEFT, y, WIDTH, "#f4f4f4");
        for span in own {
            let x = LEFT + WIDTH * span.start.get() / end;
            let width = WIDTH * (span.end.get() - span.start.get()) / end;
            bar(shapes, x, y, width, fills[span.group % 2]);
        }
        y += BAR + 8.0;
    }
    y
}

fn colour(limited_by: &str) -> &'static str {
    match limited_by {
        "link" => "#ee6677",
        "disk" => "#aa3377",
        _ => "#228833",
    }
}

fn shortened(name: &str) -> String {
    if name.chars().count() > 12 {
        name.chars().take(11).chain(['…']).collect()
    } else {
        name.to_owned()
    }
}

// Writing to a string cannot fail.
fn bar(shapes: &mut String, x: f64, y: f64, width: f64, fill: &str) {
    let _ = writeln!(
        shapes,
        "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{BAR}\" fill=\"{fill}\"/>"
    );
}

fn label(shapes: &mut String, x: f64, y: f64, size: u32, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let _ = writeln!(shapes, "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{size}\">{text}</text>");
}
