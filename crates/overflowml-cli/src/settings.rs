//! Arguments resolved once into what the library takes.

use std::io::Read;
use std::path::Path;

use anyhow::{Context, bail};
use overflowml::{GenerationDefaults, LogitsWanted, Sampling, SessionRequest};

use crate::args::{HostArgs, SamplingArgs};

/// What a session may use, for `prompt` tokens and `generate` new ones.
pub fn session(
    host: &HostArgs,
    prompt: usize,
    generate: usize,
    logits: LogitsWanted,
) -> SessionRequest {
    SessionRequest {
        memory: host.memory,
        prompt,
        generate,
        context: host.context.map(|tokens| tokens as usize),
        sequences: 1,
        logits,
        threads: host.threads.map(usize::from),
        direct_io: !host.no_direct_io,
        later: overflowml::Bytes::ZERO,
    }
}

/// How tokens are chosen: what was typed, else what the model's makers recommend.
pub fn sampling(args: &SamplingArgs, defaults: &GenerationDefaults) -> anyhow::Result<Sampling> {
    let sampled = defaults.do_sample.unwrap_or(false);
    let recommended = |value: Option<f32>| value.filter(|_| sampled);
    let temperature = match (args.temperature, sampled) {
        (Some(temperature), _) => temperature,
        (None, true) => defaults.temperature.unwrap_or(1.0),
        (None, false) => 0.0,
    };
    let sampling = Sampling {
        temperature,
        top_k: args.top_k.or(defaults.top_k.filter(|_| sampled)).unwrap_or(0),
        top_p: args.top_p.or(recommended(defaults.top_p)).unwrap_or(1.0),
        min_p: args.min_p.or(recommended(defaults.min_p)).unwrap_or(0.0),
        repetition_penalty: args.repetition_penalty.or(defaults.repetition_penalty).unwrap_or(1.0),
        seed: args.seed,
    };
    in_range("--temperature", sampling.temperature, 0.0, 100.0)?;
    in_range("--top-p", sampling.top_p, f32::MIN_POSITIVE, 1.0)?;
    in_range("--min-p", sampling.min_p, 0.0, 1.0)?;
    in_range("--repetition-penalty", sampling.repetition_penalty, 0.01, 100.0)?;
    Ok(sampling)
}

fn in_range(flag: &str, value: f32, low: f32, high: f32) -> anyhow::Result<()> {
    if !(low..=high).contains(&value) {
        let least =
            if low == f32::MIN_POSITIVE { "above 0".to_owned() } else { format!("at least {low}") };
        bail!("{flag} is {value}: it must be {least} and at most {high}");
    }
    Ok(())
}

/// The text in `file`; `-` is stdin.
pub fn text_of(file: &Path) -> anyhow::Result<String> {
    if file.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("cannot read stdin as UTF-8 text")?;
        return Ok(text);
    }
    std::fs::read_to_string(file)
        .with_context(|| format!("cannot read `{}` as UTF-8 text", file.display()))
}
