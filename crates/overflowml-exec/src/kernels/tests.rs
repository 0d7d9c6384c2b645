use half::{bf16, f16};
use overflowml_types::{DType, ScratchLayout};
use proptest::prelude::*;

use super::*;

/// A matrix as stored, with its exact values.
struct Stored {
    dtype: DType,
    rows: usize,
    cols: usize,
    bytes: Vec<u8>,
    values: Vec<f64>,
}

/// Numbers that look random, in -1..1, from a seed.
fn noise(seed: u64) -> impl FnMut() -> f32 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

impl Stored {
    fn random(dtype: DType, rows: usize, cols: usize, seed: u64) -> Self {
        let (mut bytes, mut values) = (Vec::new(), Vec::new());
        let mut next = noise(seed);
        for _ in 0..rows * cols {
            let value = next();
            match dtype {
                DType::F32 => {
                    bytes.extend(value.to_le_bytes());
                    values.push(f64::from(value));
                }
                DType::F16 => {
                    bytes.extend(f16::from_f32(value).to_le_bytes());
                    values.push(f16::from_f32(value).to_f64());
                }
                _ => {
                    bytes.extend(bf16::from_f32(value).to_le_bytes());
                    values.push(bf16::from_f32(value).to_f64());
                }
            }
        }
        Self { dtype, rows, cols, bytes, values }
    }

    fn view(&self) -> MatrixRef<'_> {
        self.rows_from(0, self.rows, &self.bytes)
    }

    fn rows_from<'a>(&self, first: usize, rows: usize, bytes: &'a [u8]) -> MatrixRef<'a> {
        let row = self.bytes.len() / self.rows.max(1);
        let bytes = &bytes[first * row..(first + rows) * row];
        MatrixRef { dtype: self.dtype, rows, cols: self.cols, bytes }
    }
}

fn multiply(kernels: Kernels, pool: &Pool, matrix: MatrixRef<'_>, x: &[f32]) -> Vec<f32> {
    let tokens = x.len() / matrix.cols;
    let mut input = room_for(tokens, matrix.cols);
    kernels.prepare(pool, matrix.dtype, tokens, matrix.cols, x, &mut input);
    let mut out = vec![f32::NAN; tokens * matrix.rows];
    kernels.matmul(pool, matrix, &input, &mut out, matrix.rows, 0);
    out
}

fn room_for(tokens: usize, cols: usize) -> Input {
    Input::with_capacity(tokens * cols.next_multiple_of(ScratchLayout::COLUMN_STEP)).unwrap()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn any_dtype() -> impl Strategy<Value = DType> {
    prop_oneof![Just(DType::BF16), Just(DType::F16), Just(DType::F32)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn products_are_right_to_within_rounding(
        dtype in any_dtype(),
        rows in 1_usize..40,
        cols in 1_usize..300,
        tokens in 1_usize..40,
        seed in any::<u64>(),
    ) {
        let pool = Pool::new(2);
        let matrix = Stored::random(dtype, rows, cols, seed);
        let mut next = noise(!seed);
        let x: Vec<f32> = (0..tokens * cols).map(|_| next()).collect();
        for kernels in Kernels::all_available() {
            let out = multiply(kernels, &pool, matrix.view(), &x);
            for t in 0..tokens {
                for r in 0..rows {
                    let terms = (0..cols).map(|c| matrix.values[r * cols + c] * f64::from(x[t * cols + c]));
                    let (exact, size) = terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
                    // Each sum of f32 loses at most half a unit per addition; rounding an activation to bf16
                    // changes its term by 2^-8 at most.
                    let rounding = if kernels.packing(dtype).form == Form::BF16 { 4e-3 } else { 0.0 };
                    let allowed = size * (rounding + 6e-8 * (cols as f64 / 8.0 + 5.0)) + 1e-30;
                    let got = f64::from(out[t * rows + r]);
                    prop_assert!((got - exact).abs() <= allowed, "{}: {got}, not {exact}", kernels.name());
                }
            }
        }
    }

    #[test]
    fn runs_tokens_threads_and_alignment_change_no_bit(
        dtype in any_dtype(),
        rows in 1_usize..60,
        cols in 1_usize..200,
        tokens in 1_usize..45,
        cut in 0.0_f64..1.0,
        threads in 1_usize..4,
        shift in 0_usize..4,
        seed in any::<u64>(),
    ) {
        let matrix = Stored::random(dtype, rows, cols, seed);
        let mut next = noise(!seed);
        let x: Vec<f32> = (0..tokens * cols).map(|_| next()).collect();
        let one = Pool::new(1);
        let pool = Pool::new(threads);
        let cut = (cut * rows as f64) as usize;
        let mut shifted = vec![0; shift];
        shifted.extend_from_slice(&matrix.bytes);
        for kernels in Kernels::all_available() {
            let whole = multiply(kernels, &one, matrix.view(), &x);
            let mut input = room_for(tokens, cols);
            kernels.prepare(&pool, dtype, tokens, cols, &x, &mut input);
            // In a wider output, from another place in memory, in two runs.
            let stride = rows + 3;
            let mut out = vec![0.5; tokens * stride];
            for (first, count) in [(cut, rows - cut), (0, cut)] {
                let run = matrix.rows_from(first, count, &shifted[shift..]);
                kernels.matmul(&pool, run, &input, &mut out, stride, 2 + first);
            }
            for t in 0..tokens {
                let alone = multiply(kernels, &one, matrix.view(), &x[t * cols..(t + 1) * cols]);
                prop_assert_eq!(bits(&alone), bits(&whole[t * rows..(t + 1) * rows]));
                prop_assert_eq!(bits(&alone), bits(&out[t * stride + 2..][..rows]));
                // Nothing else was written.
                prop_assert_eq!(bits(&out[t * stride..][..2]), bits(&[0.5; 2]));
                prop_assert_eq!(out[t * stride + 2 + rows], 0.5);
            }
        }
    }
}

#[test]
fn activations_are_rounded_to_bf16_as_the_half_crate_rounds_them() {
    let mut values: Vec<f32> = (0..=u16::MAX)
        .flat_map(|high| {
            [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff]
                .map(|low| f32::from_bits(u32::from(high) << 16 | low))
        })
        .collect();
    values.push(f32::MIN_POSITIVE);
    let mut out = vec![bf16::ZERO; values.len()];
    Isa::detect().run(narrow::Narrow { x: &values, out: &mut out });
    for (value, out) in values.iter().zip(out) {
        let expected = bf16::from_f32(*value);
        assert!(out == expected || out.is_nan() && value.is_nan(), "{value:e} became {out:e}");
    }
}
