//! `overflowml detect`

use std::fmt::Write;

use overflowml::{Basis, Gpu, Known, Library, Machine, ProbeOptions, probe};

use super::Answer;
use crate::args::DetectArgs;
use crate::output;

pub fn run(args: &DetectArgs) -> anyhow::Result<Answer> {
    let machine = probe(&ProbeOptions {
        path: Some(args.path.clone()),
        live: args.live,
        ..ProbeOptions::default()
    });
    if args.json {
        output::json(&machine)?;
    } else {
        output::answer(&text(&machine, args.live));
    }
    Ok(Answer::Yes)
}

fn text(machine: &Machine, live: bool) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:<8} {value}");
    };
    line("CPU", cpu(machine));
    line("memory", memory(machine));
    for limit in &machine.container.memory_limits {
        line(
            "limit",
            format!(
                "{} of {} left in control group {}",
                limit.available(),
                limit.limit,
                limit.group
            ),
        );
    }
    if let Some(disk) = &machine.disk {
        line("disk", self::disk(disk));
    }
    for gpu in &machine.gpus {
        line("GPU", self::gpu(gpu));
        if live {
            for process in &gpu.processes {
                let used =
                    process.used.map_or_else(|| "an unknown amount".to_owned(), |b| b.to_string());
                line("", format!("process {} holds {used}", process.pid));
            }
        }
    }
    if machine.gpus.is_empty() {
        line("GPU", format!("none{}", why_no_gpu(&machine.libraries)));
    }
    text
}

fn cpu(machine: &Machine) -> String {
    let cpu = &machine.cpu;
    let model = cpu.model.as_ref().map_or(cpu.architecture.as_str(), |model| model.value.as_str());
    let extensions: Vec<String> =
        cpu.extensions.iter().map(|extension| format!("{extension:?}").to_lowercase()).collect();
    format!(
        "{model}, {} usable threads ({}); {}",
        cpu.usable.value,
        cpu.usable.source,
        extensions.join(" ")
    )
}

fn memory(machine: &Machine) -> String {
    let memory = &machine.memory;
    format!(
        "{} available of {} ({}, {})",
        memory.available.value,
        memory.total.value,
        basis(&memory.available),
        memory.available.source
    )
}

fn disk(disk: &overflowml::Disk) -> String {
    let mut parts = vec![
        disk.device.clone().unwrap_or_else(|| "no block device".to_owned()),
        disk.file_system.clone().unwrap_or_else(|| "unknown file system".to_owned()),
    ];
    if let Some(free) = &disk.free {
        parts.push(format!("{} free", free.value));
    }
    if let Some(rotational) = &disk.rotational {
        let kind = if rotational.value { "rotational" } else { "solid state" };
        parts.push(format!("{kind} ({})", basis(rotational)));
    }
    if let Some(direct) = &disk.direct_io {
        parts.push(format!("direct reads: {}", if direct.value { "yes" } else { "no" }));
    }
    format!("{} under {}", parts.join(", "), disk.path.display())
}

fn gpu(gpu: &Gpu) -> String {
    let size = |size: &Option<Known<overflowml::Bytes>>| {
        size.as_ref().map_or_else(|| "unknown".to_owned(), |size| size.value.to_string())
    };
    let capability = gpu
        .compute_capability
        .map_or_else(String::new, |(major, minor)| format!(", compute capability {major}.{minor}"));
    let driver =
        gpu.driver.as_ref().map_or_else(String::new, |driver| format!(", driver {driver}"));
    format!(
        "{}: {}, {} free of {}{capability}{driver}",
        gpu.index,
        gpu.name,
        size(&gpu.free),
        size(&gpu.total)
    )
}

/// The reason in a library's own words, if it has one.
fn why_no_gpu(libraries: &[Library]) -> String {
    let reasons: Vec<String> = libraries
        .iter()
        .filter_map(|library| match library {
            Library::Absent { name, .. } => Some(format!("{name} not found")),
            Library::Failed { name, error } => Some(format!("{name}: {error}")),
            Library::Hidden { name, by } => Some(format!("{name} is hidden by {by}")),
            Library::Present { .. } => None,
        })
        .collect();
    if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join("; ")) }
}

fn basis<T>(known: &Known<T>) -> &'static str {
    match known.basis {
        Basis::Reported => "reported",
        Basis::Measured => "measured",
        Basis::Assumed => "assumed",
    }
}
