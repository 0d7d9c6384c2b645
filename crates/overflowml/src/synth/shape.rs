//! Picks the sizes of a model with about a given number of parameters.

use overflowml_formats::ConfigError;
use overflowml_types::{DType, WeightSpec};

use super::SynthError;
use super::family::{Family, read};

/// The sizes that `config.json` states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) vocab: u32,
    pub(super) hidden: u32,
    pub(super) intermediate: u32,
    pub(super) layers: u32,
    pub(super) heads: u32,
    pub(super) kv_heads: u32,
    pub(super) head_dim: u32,
}

/// The least parameters that are worth a model of their own.
const LEAST: u64 = 150_000;
const MOST: u64 = 2_000_000_000_000;
/// How far the result may be off, from a million parameters up.
const TOLERANCE: f64 = 0.04;

pub(super) fn parameters(weights: &[WeightSpec]) -> u64 {
    weights.iter().map(|weight| weight.shape.iter().product::<u64>()).sum()
}

/// The shape of `family` that comes closest to the proportions of published models, among those
/// with about `asked` parameters.
pub(super) fn choose(family: &Family, asked: u64) -> Result<Shape, SynthError> {
    let architecture = || family.architecture.to_owned();
    let out_of_range = || SynthError::ParametersOutOfRange {
        architecture: architecture(),
        asked,
        least: LEAST,
        most: MOST,
    };
    if !(LEAST..=MOST).contains(&asked) {
        return Err(out_of_range());
    }
    let mut best: Option<(f64, Shape)> = None;
    for hidden in widths() {
        let failed = |source| SynthError::Config { architecture: architecture(), source };
        let Some((oddness, shape)) = fit(family, asked, hidden).map_err(failed)? else { continue };
        if best.is_none_or(|(least, _)| oddness < least) {
            best = Some((oddness, shape));
        }
    }
    best.map(|(_, shape)| shape).ok_or_else(out_of_range)
}

/// Widths with a round number of heads.
fn widths() -> impl Iterator<Item = u32> {
    let small = (64..512).step_by(64);
    small.chain((512..2048).step_by(256)).chain((2048..=32_768).step_by(512))
}

/// Bigger models have bigger vocabularies, so that the embedding stays a small part.
fn vocab(parameters: u64) -> u32 {
    match parameters {
        ..2_000_000 => 512,
        2_000_000..20_000_000 => 2048,
        20_000_000..100_000_000 => 8192,
        100_000_000..500_000_000 => 16_384,
        _ => 32_000,
    }
}

/// The shape of one width with about `asked` parameters, and how far its proportions are from
/// the usual; `None` if the width does not suit the number.
fn fit(family: &Family, asked: u64, hidden: u32) -> Result<Option<(f64, Shape)>, ConfigError> {
    let count = |shape: &Shape| {
        let spec = read(&family.config(shape, DType::BF16)?)?;
        Ok::<_, ConfigError>(float(parameters(&spec.tensors())))
    };
    let one = first_shape(asked, hidden);
    let two = Shape { layers: 2, ..one };
    let (with_one, with_two) = (count(&one)?, count(&two)?);
    let per_layer = with_two - with_one;
    let layers = ((float(asked) - with_one) / per_layer + 1.0).round();
    if !(1.0..=1024.0).contains(&layers) {
        return Ok(None);
    }
    // Whole layers are coarse: the feed-forward width makes up for the rest.
    let step = feed_forward_step(hidden);
    let deeper = Shape { layers: rounded(layers), ..one };
    let wider = Shape { intermediate: one.intermediate + step, ..one };
    let per_step = (count(&wider)? - with_one) * layers;
    let total = with_one + per_layer * (layers - 1.0);
    let steps = ((float(asked) - total) / per_step).round();
    let intermediate = f64::from(one.intermediate) + steps * f64::from(step);
    if !(1.0..=6.0).contains(&(intermediate / f64::from(hidden))) {
        return Ok(None);
    }
    let error = (total + steps * per_step - float(asked)).abs() / float(asked);
    if asked >= 1_000_000 && error > TOLERANCE {
        return Ok(None);
    }
    let shape = Shape { intermediate: rounded(intermediate), ..deeper };
    let ratio = f64::from(hidden) / layers;
    Ok(Some(((ratio / usual_ratio(asked)).ln().abs() + 4.0 * error, shape)))
}

/// One layer of that width.
fn first_shape(asked: u64, hidden: u32) -> Shape {
    let head_dim = match hidden {
        ..256 => 32,
        256..2048 => 64,
        _ => 128,
    };
    let heads = hidden / head_dim;
    let step = feed_forward_step(hidden);
    Shape {
        vocab: vocab(asked),
        hidden,
        intermediate: (hidden * 8 / 3).next_multiple_of(step),
        layers: 1,
        heads,
        kv_heads: match heads {
            8.. if heads.is_multiple_of(4) => heads / 4,
            _ if heads.is_multiple_of(2) => heads / 2,
            _ => 1,
        },
        head_dim,
    }
}

fn feed_forward_step(hidden: u32) -> u32 {
    match hidden {
        ..128 => 8,
        128..512 => 16,
        _ => 64,
    }
}

/// Width by depth: 24 at a million parameters, 128 from a billion up.
fn usual_ratio(parameters: u64) -> f64 {
    (24.0 * (float(parameters) / 1e6).powf(0.242)).min(128.0)
}

#[allow(clippy::cast_precision_loss)] // at most 2e12
fn float(count: u64) -> f64 {
    count as f64
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // at most 6 * 32768
fn rounded(value: f64) -> u32 {
    value.round() as u32
}
