//! `overflowml detect`

use std::fmt::Write;

use overflowml::calibration::with_measured;
use overflowml::{
    Basis, Bytes, BytesPerSecond, DTypeSupport, Disk, DiskKind, Gpu, Known, Library, Link, Machine,
    Pool, ProbeOptions, Support, probe,
};
use serde_json::Value;

use super::Answer;
use crate::args::DetectArgs;
use crate::output;

pub fn run(args: &DetectArgs) -> anyhow::Result<Answer> {
    if args.json {
        output::json(&document(args)?)?;
    } else {
        output::answer(&text(&machine(args), args.live));
    }
    Ok(Answer::Yes)
}

fn machine(args: &DetectArgs) -> Machine {
    let options =
        ProbeOptions { path: Some(args.path.clone()), live: args.live, ..ProbeOptions::default() };
    with_measured(probe(&options))
}

/// What `--json` prints: the machine, and what follows from each GPU's architecture.
pub fn document(args: &DetectArgs) -> anyhow::Result<Value> {
    let machine = machine(args);
    let mut document = serde_json::to_value(&machine)?;
    if let Some(gpus) = document["gpus"].as_array_mut() {
        for (value, gpu) in gpus.iter_mut().zip(&machine.gpus) {
            value["supports"] = serde_json::to_value(DTypeSupport::of(gpu))?;
        }
    }
    document["cpu"]["supports"] = serde_json::to_value(DTypeSupport::of_cpu(&machine.cpu))?;
    Ok(document)
}

/// Lines of a name and a value; a name stands once for all its lines.
#[derive(Default)]
struct Lines {
    text: String,
    last: String,
}

impl Lines {
    fn line(&mut self, name: &str, value: &str) {
        let shown = if name == self.last { "" } else { name };
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "  {shown:<8} {value}");
        name.clone_into(&mut self.last);
    }

    /// A number's line, ending in where it comes from.
    fn known<T>(&mut self, name: &str, value: &str, known: &Known<T>) {
        self.line(name, &format!("{value}   {}", basis(known)));
    }
}

fn text(machine: &Machine, live: bool) -> String {
    let mut lines = Lines::default();
    host(machine, &mut lines);
    if let Some(disk) = &machine.disk {
        self::disk(disk, &mut lines);
    }
    for gpu in &machine.gpus {
        let _ = writeln!(lines.text, "GPU {}: {}{}", gpu.index, gpu.name, what(gpu));
        self::gpu(gpu, &mut lines);
        if live {
            holders(gpu, &machine.os, &mut lines);
        }
    }
    let mut text = format!("{}\n{}", answer(machine), lines.text);
    for library in &machine.libraries {
        if let Some(finding) = finding(library, machine) {
            let _ = writeln!(text, "{finding}");
        }
    }
    text
}

/// What most people want to know: how much can be used, and on what.
fn answer(machine: &Machine) -> String {
    let memory = &machine.memory;
    let host = format!("{} of {} main memory", memory.available.value, memory.total.value);
    let gpus: Vec<String> = machine
        .gpus
        .iter()
        .map(|gpu| match (&gpu.free, &gpu.total) {
            (Some(free), _) if gpu.pool == Pool::Shared => {
                format!("{} (up to {} of main memory)", gpu.name, free.value)
            }
            (Some(free), Some(total)) => {
                format!("{} ({} of {})", gpu.name, free.value, total.value)
            }
            (None, Some(total)) => format!("{} ({}, free unknown)", gpu.name, total.value),
            _ => format!("{} (memory unknown)", gpu.name),
        })
        .collect();
    if gpus.is_empty() {
        return format!("free now: {host}; no GPU that can be used");
    }
    format!("free now: {host}; {}", gpus.join("; "))
}

fn host(machine: &Machine, lines: &mut Lines) {
    let cpu = &machine.cpu;
    let model = cpu.model.as_ref().map_or(cpu.architecture.as_str(), |model| model.value.as_str());
    let system = if machine.wsl { "Linux in Windows" } else { machine.os.as_str() };
    lines.line("CPU", &format!("{model}, {} on {system}", cpu.architecture));
    lines.known("CPU", &format!("{} usable threads", cpu.usable.value), &cpu.usable);
    if !cpu.extensions.is_empty() {
        let names = cpu.extensions.iter().map(|own| format!("{own:?}").to_lowercase());
        lines.line("CPU", &names.collect::<Vec<_>>().join(" "));
    }
    let memory = &machine.memory;
    lines.known("memory", &format!("{} in all", memory.total.value), &memory.total);
    lines.known("memory", &format!("{} available", memory.available.value), &memory.available);
    if let Some(pinnable) = &memory.pinnable {
        lines.known("memory", &format!("{} can be pinned", pinnable.value), pinnable);
    }
    if let Some(lockable) = &memory.lockable {
        lines.known("memory", &format!("{} can be locked", lockable.value), lockable);
    }
    if let Some(rate) = &memory.rate {
        lines.known("memory", &format!("{}", rate.value), rate);
    }
    if memory.nodes.len() > 1 {
        for node in &memory.nodes {
            let place = format!("{} near processors {}", node.total, node.cpus);
            lines.line("NUMA", &format!("node {}: {place}", node.node));
        }
    }
    for limit in &machine.container.memory_limits {
        let left = format!("{} of {} left", limit.available(), limit.limit);
        lines.line("limit", &format!("{left} in control group {}   reported", limit.group));
    }
    if let Some(quota) = &machine.container.cpu_quota {
        lines.known("limit", &format!("{} processors", quota.value), quota);
    }
}

fn disk(disk: &Disk, lines: &mut Lines) {
    let device = disk.device.clone().unwrap_or_else(|| "no block device".to_owned());
    let system = disk.file_system.clone().unwrap_or_else(|| "unknown file system".to_owned());
    lines.line("disk", &format!("{device}, {system} under {}", disk.path.display()));
    if let Some(kind) = &disk.kind {
        lines.known("disk", disk_kind(kind.value), kind);
    }
    if let Some(rotational) = &disk.rotational {
        let kind = if rotational.value { "rotational" } else { "solid state" };
        lines.known("disk", kind, rotational);
    }
    if let Some(free) = &disk.free {
        lines.known("disk", &format!("{} free", free.value), free);
    }
    if let Some(direct) = &disk.direct_io {
        lines.known("disk", if direct.value { "direct reads" } else { "no direct reads" }, direct);
    }
    if let Some(rate) = &disk.rate {
        lines.known("disk", &format!("{}", rate.value), rate);
    }
}

fn disk_kind(kind: DiskKind) -> &'static str {
    match kind {
        DiskKind::Nvme => "NVM Express",
        DiskKind::Sata => "SATA, SAS or USB",
        DiskKind::Flash => "flash card",
        DiskKind::Virtual => "a virtual disk",
        DiskKind::Network => "files of another machine",
        DiskKind::Memory => "files in main memory",
        DiskKind::Layered => "layers of a container image",
        _ => "another kind",
    }
}

/// Architecture, partition and driver, in brackets.
fn what(gpu: &Gpu) -> String {
    let capability =
        gpu.compute_capability.map(|(major, minor)| format!("compute capability {major}.{minor}"));
    let parts = [
        gpu.partition.as_ref().map(|part| format!("its part {part}")),
        capability.or_else(|| gpu.architecture.clone()),
        gpu.driver.as_ref().map(|driver| format!("driver {driver}")),
        gpu.runtime.clone(),
        gpu.pci.as_ref().map(|pci| format!("at {pci}")),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) }
}

fn gpu(gpu: &Gpu, lines: &mut Lines) {
    lines.last.clear();
    let sizes: [(&Option<Known<Bytes>>, &str); 5] = [
        (&gpu.total, if gpu.pool == Pool::Shared { "in reach, shared" } else { "in all" }),
        (&gpu.free, "free"),
        (&gpu.dedicated, "of it carved out for the GPU"),
        (&gpu.reserved, "kept by the driver"),
        (&gpu.limit, "at most for one process"),
    ];
    for (size, what) in sizes {
        if let Some(size) = size {
            lines.known("memory", &format!("{} {what}", size.value), size);
        }
    }
    if gpu.total.is_none() {
        lines.line("memory", "unknown");
    }
    if let Some(rate) = &gpu.rate {
        lines.known("speed", &format!("{} memory", rate.value), rate);
    }
    if let Some(flops) = &gpu.flops {
        let teraflops = flops.value / 1e12;
        lines.known("speed", &format!("{teraflops:.1} TFLOP/s in 16-bit products"), flops);
    }
    if let Some(link) = &gpu.link {
        self::link(link, lines);
    }
    lines.line("types", &types(&DTypeSupport::of(gpu)));
}

fn link(link: &Link, lines: &mut Lines) {
    let form = |generation: Option<u32>, width: Option<u32>| match (generation, width) {
        (Some(generation), Some(width)) => Some(format!("PCIe {generation}.0 x{width}")),
        _ => None,
    };
    let now = form(link.current_generation, link.current_width);
    if let Some(most) = form(link.generation, link.width) {
        let now = now.filter(|now| *now != most).map(|now| format!(", now {now}"));
        lines.line("link", &format!("{most}{}   reported", now.unwrap_or_default()));
    }
    if let Some(rate) = &link.rate {
        let rate: &Known<BytesPerSecond> = rate;
        lines.known("link", &format!("{}", rate.value), rate);
    }
}

/// What the hardware multiplies, and what it can only keep.
fn types(support: &DTypeSupport) -> String {
    if !support.known {
        return "unknown architecture: what it computes is unknown".to_owned();
    }
    let columns: [(&str, Support); 6] = [
        ("fp16", support.fp16),
        ("bf16", support.bf16),
        ("int8", support.int8),
        ("fp8", support.fp8),
        ("mxfp8", support.mxfp8),
        ("fp4", support.fp4),
    ];
    let names = |wanted: fn(Support) -> bool| {
        let fitting = columns.iter().filter(|(_, own)| wanted(*own)).map(|(name, _)| *name);
        fitting.collect::<Vec<_>>().join(" ")
    };
    let groups = [
        ("computes", names(|own| own.compute && own.kernel)),
        ("hardware only, kernels lacking:", names(|own| own.compute && !own.kernel)),
        ("only stores", names(|own| !own.compute)),
    ];
    let groups = groups.iter().filter(|(_, names)| !names.is_empty());
    groups.map(|(what, names)| format!("{what} {names}")).collect::<Vec<_>>().join("; ")
}

fn holders(gpu: &Gpu, os: &str, lines: &mut Lines) {
    for process in &gpu.processes {
        let used = process.used.map_or_else(|| "an unknown amount".to_owned(), |b| b.to_string());
        let name = process.name.as_deref().unwrap_or("unknown program");
        lines.line("holder", &format!("{name} (process {}) holds {used}   reported", process.pid));
    }
    if gpu.processes.is_empty() {
        let none = match (gpu.vendor, os) {
            (overflowml::Vendor::Nvidia, _) => "none that the driver names",
            (overflowml::Vendor::Amd | overflowml::Vendor::Intel, "linux") => {
                "none that this user may see"
            }
            _ => "unknown",
        };
        lines.line("holder", none);
    }
}

/// What is worth saying about a library: not that one for hardware of another maker is absent.
fn finding(library: &Library, machine: &Machine) -> Option<String> {
    match library {
        Library::Absent { name, looked_in } if machine.gpus.is_empty() => {
            let places = looked_in.join(", ");
            Some(format!(
                "absent: {name}{}",
                if places.is_empty() { places } else { format!(" (looked in {places})") }
            ))
        }
        Library::Failed { name, error } => Some(format!("failed: {name}: {error}")),
        Library::Hidden { name, by } => Some(format!("hidden: {name}, by {by}")),
        _ => None,
    }
}

fn basis<T>(known: &Known<T>) -> String {
    let basis = match known.basis {
        Basis::Reported => "reported",
        Basis::Measured => "measured",
        Basis::Assumed => "assumed",
    };
    format!("{basis}: {}", known.source)
}
