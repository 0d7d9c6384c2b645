//! What was typed about a model and a machine, resolved.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use overflowml::catalogue;
use overflowml::device::{MoeSize, Wish, machine_here, moe_of_size, of_size};
use overflowml::{Bytes, CacheElement, Machine, ModelProfile, Task};

use crate::args::{HostArgs, Kv, Precision, SubjectArgs};

/// What is planned, on what, and how.
pub struct Subject {
    pub model: ModelProfile,
    pub machine: Machine,
    pub wish: Wish,
    /// The model's name as typed, if it is one and not a size.
    pub typed: Option<String>,
    /// The machine is the one that this runs on.
    pub is_here: bool,
}

/// Resolves model and machine.
pub fn subject(args: &SubjectArgs, host: &HostArgs) -> anyhow::Result<Subject> {
    let (model, typed) = model(args)?;
    let is_here = is_here(args);
    let path = typed.as_deref().and_then(overflowml::local_path);
    let machine = machine(args, path.as_deref())?;
    let wish = wish(args, host, model.task);
    Ok(Subject { model, machine, wish, typed, is_here })
}

/// The machine that is meant: this one, one from a file, or one that is described.
pub fn machine(args: &SubjectArgs, model: Option<&Path>) -> anyhow::Result<Machine> {
    if let Some(file) = &args.hardware {
        return from_file(file);
    }
    if is_here(args) {
        let here = PathBuf::from(".");
        return Ok(machine_here(model.unwrap_or(&here)));
    }
    described(args)
}

fn is_here(args: &SubjectArgs) -> bool {
    args.hardware.is_none() && args.gpu.is_none() && args.ram.is_none() && args.os.is_none()
}

fn from_file(file: &Path) -> anyhow::Result<Machine> {
    const MOST: u64 = 16 << 20;
    let shown = file.display();
    let size = std::fs::metadata(file).with_context(|| format!("cannot read `{shown}`"))?.len();
    if size > MOST {
        bail!("`{shown}` is too large for what `overflowml detect --json` prints");
    }
    let text = std::fs::read(file).with_context(|| format!("cannot read `{shown}`"))?;
    serde_json::from_slice(&text)
        .with_context(|| format!("`{shown}` is not what `overflowml detect --json` prints"))
}

fn described(args: &SubjectArgs) -> anyhow::Result<Machine> {
    let none = args.gpu.as_deref().is_some_and(|name| name.eq_ignore_ascii_case("none"));
    let entry = match args.gpu.as_deref().filter(|_| !none) {
        Some(name) => Some(catalogue::find(name)?),
        None => None,
    };
    let shared = entry.filter(|entry| entry.pool == overflowml::Pool::Shared);
    let ram = args.ram.or(shared.map(|entry| entry.memory)).unwrap_or(Bytes::gib(32));
    let apple = entry.is_some_and(|entry| entry.vendor == overflowml::Vendor::Apple);
    let os = args.os.as_deref().unwrap_or(if apple { "macos" } else { "linux" });
    let count = args.gpus.unwrap_or(1);
    // Only a memory size makes a GPU of which nothing else is known.
    let vram = if entry.is_none() && !none { args.vram } else { None };
    Ok(catalogue::Wanted { gpu: entry, count, vram, ram, os }.machine())
}

fn model(args: &SubjectArgs) -> anyhow::Result<(ModelProfile, Option<String>)> {
    if let Some(figures) = &args.moe {
        return Ok((moe(figures)?, None));
    }
    let text = args.subject.as_deref().context("a size or a model is needed")?;
    if let Some(size) = size(text)? {
        return Ok((of_size(&format!("{size} model"), size), None));
    }
    Ok((overflowml::profile(text)?, Some(text.to_owned())))
}

/// A size is a number, with or without a unit, that no file has as its name.
fn size(text: &str) -> anyhow::Result<Option<Bytes>> {
    if Path::new(text).exists() {
        return Ok(None);
    }
    // A bare number is what GPU makers call GB.
    let size = match text.parse::<f64>() {
        Ok(gb) if gb > 0.0 && gb < 1e6 => format!("{text}GiB").parse().ok(),
        Ok(gb) => bail!("{gb} GB is not a model's size"),
        Err(_) => text.parse().ok(),
    };
    match size {
        Some(size) if size < Bytes::mib(1) => bail!("{size} is too small for a model"),
        size => Ok(size),
    }
}

fn moe(figures: &[f64]) -> anyhow::Result<ModelProfile> {
    let &[total, active, experts, chosen] = figures else { bail!("--moe takes four numbers") };
    let whole = |number: f64, most: f64, what: &str| {
        if number.is_finite() && number > 0.0 && number <= most {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // checked
            Ok(number.round() as u64)
        } else {
            bail!("--moe: {number} is not a number of {what}")
        }
    };
    let size = MoeSize {
        total: whole(total * 1e9, 1e14, "parameters")?,
        active: whole(active * 1e9, 1e14, "active parameters")?,
        experts: whole(experts, 1e6, "experts")?,
        chosen: whole(chosen, 1e6, "experts per token")?,
    };
    let name = format!("{total}B mixture of {experts} experts");
    moe_of_size(&name, size).context(
        "--moe: these figures contradict each other; fewer parameters must be active than there are, and fewer \
         experts chosen than there are",
    )
}

fn wish(args: &SubjectArgs, host: &HostArgs, task: Task) -> Wish {
    let usual = Wish::usual(task);
    let (width, height) = args.size.unwrap_or((usual.width, usual.height));
    Wish {
        vram: args.vram,
        memory: host.memory,
        prompt: args.prompt_tokens.into(),
        generate: args.max_new_tokens.into(),
        context: host.context.map(u64::from),
        batch: args.batch.into(),
        kv: match args.kv {
            Kv::F32 => CacheElement::F32,
            Kv::F16 => CacheElement::F16,
            Kv::Q8_0 => CacheElement::Q8_0,
            Kv::F8 => CacheElement::F8,
            Kv::Q4_0 => CacheElement::Q4_0,
        },
        width,
        height,
        frames: args.frames.into(),
        steps: args.steps.into(),
        quantize: !args.no_quantize && host.precision != Precision::Exact,
        fast: args.fast,
        tile_vae: true,
        lora: args.lora_size.unwrap_or(Bytes::ZERO),
    }
}
