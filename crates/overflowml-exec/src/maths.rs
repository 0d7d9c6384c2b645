//! The element-wise mathematics of a decoder: norms, gates, soft caps, and the exponential they need.
//!
//! Own polynomials instead of the C library's functions: they vectorise, and give the same bits on
//! every system.

use overflowml_types::Activation;

use crate::vector::{Loop, multiply_add};

/// Partial sums of a reduction: its order is fixed by this, not by the instruction set's width.
const LANES: usize = 16;

/// `e^x` to about one unit in the last place; 0 for minus infinity, infinity above 88.7.
#[inline(always)]
pub(crate) fn exp<const FUSED: bool>(x: f32) -> f32 {
    // Adding and subtracting 1.5 * 2^23 rounds to the nearest integer without a rounding instruction.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let shifted = multiply_add::<FUSED>(x.clamp(-104.0, 89.0), std::f32::consts::LOG2_E, ROUND);
    let power = shifted - ROUND;
    let rest = multiply_add::<FUSED>(power, -LN2_HIGH, x.clamp(-104.0, 89.0));
    let rest = multiply_add::<FUSED>(power, -LN2_LOW, rest);
    let mut sum = 1.987_569_1e-4;
    for term in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        sum = multiply_add::<FUSED>(sum, rest, term);
    }
    let fraction = multiply_add::<FUSED>(sum, rest * rest, rest) + 1.0;
    // In two steps, so that results below the smallest normal number and near the largest are right.
    let exponent = shifted.to_bits() as i32 - ROUND.to_bits() as i32;
    let half = exponent >> 1;
    let result = fraction * power_of_two(half) * power_of_two(exponent - half);
    if x < -103.9 { 0.0 } else { result }
}

#[inline(always)]
fn power_of_two(exponent: i32) -> f32 {
    f32::from_bits(((exponent + 127) << 23).cast_unsigned())
}

#[inline(always)]
fn tanh<const FUSED: bool>(x: f32) -> f32 {
    1.0 - 2.0 / (exp::<FUSED>(2.0 * x) + 1.0)
}

/// `cap * tanh(x / cap)`.
#[inline(always)]
pub(crate) fn soft_cap<const FUSED: bool>(x: f32, cap: f32) -> f32 {
    cap * tanh::<FUSED>(x / cap)
}

/// The error function to 1.5e-7 (Abramowitz and Stegun 7.1.26).
#[inline(always)]
fn erf<const FUSED: bool>(x: f32) -> f32 {
    let size = x.abs();
    let t = 1.0 / multiply_add::<FUSED>(0.327_591_1, size, 1.0);
    let mut sum = 1.061_405_4;
    for term in [-1.453_152_1, 1.421_413_8, -0.284_496_72, 0.254_829_6] {
        sum = multiply_add::<FUSED>(sum, t, term);
    }
    (1.0 - sum * t * exp::<FUSED>(-size * size)).copysign(x)
}

#[inline(always)]
fn silu<const FUSED: bool>(x: f32) -> f32 {
    x / (1.0 + exp::<FUSED>(-x))
}

#[inline(always)]
fn gelu_tanh<const FUSED: bool>(x: f32) -> f32 {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    let inner = SQRT_2_OVER_PI * multiply_add::<FUSED>(0.044_715 * x * x, x, x);
    0.5 * x * (1.0 + tanh::<FUSED>(inner))
}

#[inline(always)]
fn gelu<const FUSED: bool>(x: f32) -> f32 {
    0.5 * x * (1.0 + erf::<FUSED>(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// `Σ x²` in [`LANES`] partial sums.
#[inline(always)]
fn sum_of_squares<const FUSED: bool>(x: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let (whole, rest) = x.as_chunks::<LANES>();
    for part in whole {
        for lane in 0..LANES {
            lanes[lane] = multiply_add::<FUSED>(part[lane], part[lane], lanes[lane]);
        }
    }
    for (lane, &value) in rest.iter().enumerate() {
        lanes[lane] = multiply_add::<FUSED>(value, value, lanes[lane]);
    }
    sum_lanes(lanes)
}

/// The sum of partial sums, pairwise.
#[inline(always)]
pub(crate) fn sum_lanes(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
    }
    lanes[0]
}

/// The largest of `x`; minus infinity if there is none. Not-a-number values are passed over.
#[inline(always)]
pub(crate) fn largest(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (whole, rest) = x.as_chunks::<LANES>();
    for part in whole {
        for lane in 0..LANES {
            lanes[lane] = if part[lane] > lanes[lane] { part[lane] } else { lanes[lane] };
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a })
}

/// `out = x / sqrt(mean(x²) + eps) * weight`: the RMS norm of one row.
pub(crate) struct RmsNorm<'a> {
    /// `[width]`.
    pub(crate) x: &'a [f32],
    /// `[width]`, with the family's offset already added.
    pub(crate) weight: &'a [f32],
    /// Added inside the root.
    pub(crate) eps: f32,
    /// `[width]`.
    pub(crate) out: &'a mut [f32],
}

impl Loop for RmsNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let scale = inverse_rms::<FUSED>(self.x, self.eps);
        for ((out, x), weight) in self.out.iter_mut().zip(self.x).zip(self.weight) {
            *out = x * scale * weight;
        }
    }
}

/// [`RmsNorm`] in place.
pub(crate) struct RmsNormInPlace<'a> {
    /// `[width]`.
    pub(crate) x: &'a mut [f32],
    /// `[width]`.
    pub(crate) weight: &'a [f32],
    /// Added inside the root.
    pub(crate) eps: f32,
}

impl Loop for RmsNormInPlace<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let scale = inverse_rms::<FUSED>(self.x, self.eps);
        for (x, weight) in self.x.iter_mut().zip(self.weight) {
            *x = *x * scale * weight;
        }
    }
}

#[inline(always)]
#[allow(clippy::cast_precision_loss)] // widths are far below 2^24
fn inverse_rms<const FUSED: bool>(x: &[f32], eps: f32) -> f32 {
    1.0 / (sum_of_squares::<FUSED>(x) / x.len() as f32 + eps).sqrt()
}

/// `gate = activation(gate) * up`.
pub(crate) struct Gate<'a> {
    /// Which non-linearity.
    pub(crate) activation: Activation,
    /// Changed in place.
    pub(crate) gate: &'a mut [f32],
    /// As long as `gate`.
    pub(crate) up: &'a [f32],
}

impl Loop for Gate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        match self.activation {
            Activation::Silu => gate(self.gate, self.up, silu::<FUSED>),
            Activation::GeluTanh => gate(self.gate, self.up, gelu_tanh::<FUSED>),
            Activation::Gelu => gate(self.gate, self.up, gelu::<FUSED>),
            Activation::ClampedSwish { alpha, limit } => {
                for (gate, up) in self.gate.iter_mut().zip(self.up) {
                    let (bounded, up) = (gate.min(limit), up.clamp(-limit, limit));
                    let sigmoid = 1.0 / (1.0 + exp::<FUSED>(-alpha * bounded));
                    *gate = bounded * sigmoid * (up + 1.0);
                }
            }
        }
    }
}

#[inline(always)]
fn gate(gate: &mut [f32], up: &[f32], activation: impl Fn(f32) -> f32) {
    for (gate, up) in gate.iter_mut().zip(up) {
        *gate = activation(*gate) * up;
    }
}

/// [`Gate`] of gate and up in one row, each half of it or every other element.
pub(crate) struct GateApart<'a> {
    /// Which non-linearity.
    pub(crate) activation: Activation,
    /// `[2 * width]`.
    pub(crate) both: &'a [f32],
    /// Gate and up alternate, instead of following each other.
    pub(crate) interleaved: bool,
    /// `[width]`.
    pub(crate) out: &'a mut [f32],
}

impl Loop for GateApart<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let Self { activation, both, interleaved, out } = self;
        if !interleaved {
            let (gate, up) = both.split_at(out.len());
            out.copy_from_slice(gate);
            return Gate { activation, gate: out, up }.run::<FUSED>();
        }
        let (pairs, _) = both.as_chunks::<2>();
        for (out, &[gate, up]) in out.iter_mut().zip(pairs) {
            let mut gated = [gate];
            Gate { activation, gate: &mut gated, up: &[up] }.run::<FUSED>();
            *out = gated[0];
        }
    }
}

/// `residual += scale * delta`.
pub(crate) struct AddScaled<'a> {
    /// Changed in place.
    pub(crate) residual: &'a mut [f32],
    /// As long as `residual`.
    pub(crate) delta: &'a [f32],
    /// What a part's contribution is multiplied by.
    pub(crate) scale: f32,
}

impl Loop for AddScaled<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        for (residual, delta) in self.residual.iter_mut().zip(self.delta) {
            // Not fused: a scale of 1 must be an exact no-op on every instruction set.
            *residual += self.scale * delta;
        }
    }
}

/// `logits = cap(scale * logits)`.
pub(crate) struct FinishLogits<'a> {
    /// Changed in place.
    pub(crate) logits: &'a mut [f32],
    /// Multiplied first.
    pub(crate) scale: f32,
    /// Then soft-capped, if the family does.
    pub(crate) cap: Option<f32>,
}

impl Loop for FinishLogits<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        for logit in self.logits.iter_mut() {
            *logit *= self.scale;
        }
        if let Some(cap) = self.cap {
            for logit in self.logits {
                *logit = soft_cap::<FUSED>(*logit, cap);
            }
        }
    }
}

/// `Σ e^(x - maximum)`, each term in `f32`, summed in `f64` in [`LANES`] partial sums.
pub(crate) struct SumExp<'a> {
    /// The logits.
    pub(crate) x: &'a [f32],
    /// At least the largest of them.
    pub(crate) maximum: f32,
}

impl Loop for SumExp<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<const FUSED: bool>(self) -> f64 {
        let mut lanes = [0.0_f64; LANES];
        let (whole, rest) = self.x.as_chunks::<LANES>();
        for part in whole {
            for lane in 0..LANES {
                lanes[lane] += f64::from(exp::<FUSED>(part[lane] - self.maximum));
            }
        }
        for (lane, &value) in rest.iter().enumerate() {
            lanes[lane] += f64::from(exp::<FUSED>(value - self.maximum));
        }
        lanes.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vector::Isa;

    #[test]
    fn the_exponential_is_right_to_a_unit_in_the_last_place_over_its_whole_range() {
        let mut x = -103.0_f32;
        while x < 88.7 {
            let expected = f64::from(x).exp();
            for got in [exp::<true>(x), exp::<false>(x)] {
                let error = (f64::from(got) - expected).abs();
                assert!(error <= expected * 2.4e-7 + 1.5e-45, "exp({x}) = {got}, not {expected}");
            }
            x += 0.013_7;
        }
        assert_eq!(exp::<true>(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp::<true>(0.0), 1.0);
        assert_eq!(exp::<true>(200.0), f32::INFINITY);
        assert!(exp::<true>(f32::NAN).is_nan());
    }

    #[test]
    fn gates_follow_their_definitions() {
        let exact_tanh = |x: f64| {
            0.5 * x * (1.0 + (0.797_884_560_802_865_4 * (x + 0.044_715 * x.powi(3))).tanh())
        };
        for step in -60..60 {
            let x = f64::from(step) * 0.1;
            assert!((f64::from(silu::<true>(x as f32)) - x / (1.0 + (-x).exp())).abs() < 1e-6);
            assert!((f64::from(gelu_tanh::<true>(x as f32)) - exact_tanh(x)).abs() < 1e-6);
        }
        // erf(1) and erf(0.3), from tables.
        assert!((erf::<true>(1.0) - 0.842_700_8).abs() < 3e-7);
        assert!((erf::<false>(-0.3) + 0.328_626_76).abs() < 3e-7);
        assert_eq!(silu::<true>(-200.0), 0.0);
    }

    #[test]
    fn every_instruction_set_agrees_with_the_plain_definition_of_the_norm() {
        let x: Vec<f32> = (0..77).map(|i| (i as f32 * 0.37).sin()).collect();
        let weight: Vec<f32> = (0..77).map(|i| 1.0 + i as f32 * 0.01).collect();
        let mean = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / 77.0;
        for isa in [Isa::detect(), Isa::Baseline] {
            let mut out = vec![0.0; 77];
            isa.run(RmsNorm { x: &x, weight: &weight, eps: 1e-5, out: &mut out });
            for i in 0..77 {
                let expected = f64::from(x[i]) / (mean + 1e-5).sqrt() * f64::from(weight[i]);
                assert!((f64::from(out[i]) - expected).abs() < 1e-5);
            }
        }
    }
}
