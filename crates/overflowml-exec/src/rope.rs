//! Rotary position embeddings: which angle every pair of elements turns by at every position.
//!
//! Frequencies and angles are rounded to `f32` where transformers rounds them: at long positions the
//! rounding of an angle is visible in the results, so a "more exact" one would be further from what
//! models were trained with.

use overflowml_types::{RopeScaling, RopeSpec};

/// One rotary embedding, ready to turn queries and keys.
#[derive(Clone, Debug)]
pub(crate) struct Rope {
    /// `[rotary_dim / 2]`: radians per position.
    frequencies: Vec<f32>,
    /// On sine and cosine.
    scale: f32,
}

impl Rope {
    /// The embedding for a session of at most `context` positions.
    ///
    /// `context` decides between LongRoPE's two sets of factors, once for the whole session: keys that are
    /// already in the cache cannot be turned by other factors later. (transformers decides by the length so
    /// far, and throws its cache away at the border.)
    pub(crate) fn new(spec: &RopeSpec, context: usize) -> Self {
        let base = base_frequencies(spec);
        let dim = spec.rotary_dim;
        let (frequencies, scale) = match &spec.scaling {
            RopeScaling::None => (base, 1.0),
            RopeScaling::Linear { factor } => {
                (base.into_iter().map(|f| f / *factor as f32).collect(), 1.0)
            }
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                let stretch =
                    |f| llama3(f, *factor, *low_freq_factor, *high_freq_factor, *original_context);
                (base.into_iter().map(stretch).collect(), 1.0)
            }
            RopeScaling::Yarn {
                factor,
                beta_fast,
                beta_slow,
                original_context,
                attention_factor,
                truncate,
            } => {
                let ramp =
                    YarnRamp::new(spec, *beta_fast, *beta_slow, *original_context, *truncate);
                let stretch = |(i, f)| ramp.mix(i, f, *factor as f32);
                (base.into_iter().enumerate().map(stretch).collect(), *attention_factor)
            }
            RopeScaling::LongRope { short, long, original_context, attention_factor } => {
                let factors = if context > *original_context { long } else { short };
                let period = |i: usize| period(spec.theta, i, dim);
                let stretch = |(i, &factor): (usize, &f64)| 1.0 / (factor as f32 * period(i));
                (factors.iter().enumerate().map(stretch).collect(), *attention_factor)
            }
        };
        Self { frequencies, scale: scale as f32 }
    }

    /// Elements of a head that turn.
    pub(crate) fn rotary_dim(&self) -> usize {
        self.frequencies.len() * 2
    }

    /// Cosines, then sines, of one position: `[rotary_dim]`.
    ///
    /// # Panics
    /// If `out` is shorter.
    #[allow(clippy::cast_precision_loss)] // transformers rounds positions to f32 too
    pub(crate) fn fill(&self, position: usize, out: &mut [f32]) {
        let (cosines, sines) = out.split_at_mut(self.frequencies.len());
        for ((frequency, cosine), sine) in self.frequencies.iter().zip(cosines).zip(sines) {
            let angle = f64::from(position as f32 * frequency);
            *cosine = angle.cos() as f32 * self.scale;
            *sine = angle.sin() as f32 * self.scale;
        }
    }
}

/// Turns the first `rotation.len()` elements of `head`: element `i` of the first half pairs with element `i`
/// of the second.
pub(crate) fn rotate(head: &mut [f32], rotation: &[f32]) {
    let half = rotation.len() / 2;
    let (cosines, sines) = rotation.split_at(half);
    let (first, second) = head[..2 * half].split_at_mut(half);
    for (((a, b), cosine), sine) in first.iter_mut().zip(second).zip(cosines).zip(sines) {
        (*a, *b) = (*a * cosine - *b * sine, *b * cosine + *a * sine);
    }
}

/// [`rotate`] where neighbouring elements pair: element `2i` with `2i + 1`.
pub(crate) fn rotate_neighbours(head: &mut [f32], rotation: &[f32]) {
    let (cosines, sines) = rotation.split_at(rotation.len() / 2);
    for ((pair, cosine), sine) in head.chunks_exact_mut(2).zip(cosines).zip(sines) {
        let (a, b) = (pair[0], pair[1]);
        (pair[0], pair[1]) = (a * cosine - b * sine, b * cosine + a * sine);
    }
}

fn base_frequencies(spec: &RopeSpec) -> Vec<f32> {
    (0..spec.rotary_dim / 2).map(|i| 1.0 / period(spec.theta, i, spec.rotary_dim)).collect()
}

/// `theta ^ (2i / dim)`, with base, exponent and result rounded to `f32`.
fn period(theta: f64, i: usize, dim: usize) -> f32 {
    let exponent = (2 * i) as f32 / dim as f32;
    f64::from(theta as f32).powf(f64::from(exponent)) as f32
}

/// Low frequencies are divided by `factor`, high ones kept, with a linear transition between.
fn llama3(frequency: f32, factor: f64, low: f64, high: f64, original_context: f64) -> f32 {
    let (factor, low, high, original) =
        (factor as f32, low as f32, high as f32, original_context as f32);
    let wavelength = std::f32::consts::TAU / frequency;
    if wavelength > original / low {
        frequency / factor
    } else if wavelength < original / high {
        frequency
    } else {
        let smooth = (original / wavelength - low) / (high - low);
        (1.0 - smooth) * frequency / factor + smooth * frequency
    }
}

/// Where YaRN passes from keeping frequencies to dividing them.
struct YarnRamp {
    low: f32,
    high: f32,
}

impl YarnRamp {
    fn new(spec: &RopeSpec, fast: f64, slow: f64, original_context: f64, truncate: bool) -> Self {
        let dim = spec.rotary_dim as f64;
        let dimension = |rotations: f64| {
            dim * (original_context / (rotations * std::f64::consts::TAU)).ln()
                / (2.0 * spec.theta.ln())
        };
        let (low, high) = (dimension(fast), dimension(slow));
        let (low, high) = if truncate { (low.floor(), high.ceil()) } else { (low, high) };
        let (low, high) = (low.max(0.0), high.min(dim - 1.0));
        let high = if low == high { high + 0.001 } else { high };
        Self { low: low as f32, high: high as f32 }
    }

    fn mix(&self, i: usize, frequency: f32, factor: f32) -> f32 {
        let ramp = ((i as f32 - self.low) / (self.high - self.low)).clamp(0.0, 1.0);
        let keep = 1.0 - ramp;
        let stretched = 1.0 / (factor * (1.0 / frequency));
        stretched * (1.0 - keep) + frequency * keep
    }
}
