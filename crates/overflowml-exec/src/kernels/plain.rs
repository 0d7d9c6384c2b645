//! Dot products as ordinary loops over fixed-width arrays, which the compiler turns into the instructions of whatever
//! set it compiles them for.

use std::marker::PhantomData;

use half::{bf16, f16};

use super::Dot;
use crate::kv::Cell;
use crate::vector::multiply_add;

/// Weights of type `W`, widened to `f32` and multiplied with activations in `f32`, in `LANES` partial sums.
pub(super) struct Widened<W, const LANES: usize>(PhantomData<W>);

/// A weight as it is stored: little-endian, as this processor has it, and of any pattern of bytes.
pub(super) trait Stored: Cell {}

const _: () = assert!(cfg!(target_endian = "little"), "weights are read as they are stored");

impl Stored for f32 {}
impl Stored for f16 {}
impl Stored for bf16 {}

impl<W: Stored, const LANES: usize> Dot for Widened<W, LANES> {
    type Input = f32;
    const BYTES: usize = size_of::<W>();
    #[inline(always)]
    fn tile<const FUSED: bool, const R: usize, const T: usize>(
        rows: [&[u8]; R],
        x: &[f32],
    ) -> [[f32; T]; R] {
        let cols = rows.first().map_or(0, |row| row.len() / size_of::<W>());
        assert!(x.len() == cols.next_multiple_of(LANES) * T, "the steps of rows and tokens");
        let mut sums = [[[0.0_f32; LANES]; T]; R];
        for (step, x) in x.as_chunks::<LANES>().0.as_chunks::<T>().0.iter().enumerate() {
            let col = step * LANES;
            // SAFETY: the rows have as many columns from `col` on as are asked for.
            unsafe { add::<W, FUSED, LANES, R, T>(rows, x, col, LANES.min(cols - col), &mut sums) };
        }
        let mut totals = [[0.0; T]; R];
        for r in 0..R {
            for t in 0..T {
                totals[r][t] = sum_lanes(sums[r][t]);
            }
        }
        totals
    }
}

/// `sums[r][t][lane] += rows[r][col + lane] * x[t][lane]`, for the first `count` lanes; for the others `x` is zero.
///
/// # Safety
/// Every row must have at least `col + count` columns, and `count` be at most `LANES`.
#[inline(always)]
unsafe fn add<W: Stored, const FUSED: bool, const LANES: usize, const R: usize, const T: usize>(
    rows: [&[u8]; R],
    x: &[[f32; LANES]; T],
    col: usize,
    count: usize,
    sums: &mut [[[f32; LANES]; T]; R],
) {
    for r in 0..R {
        let start = rows[r].as_ptr().cast::<W>();
        let mut weights = [0.0_f32; LANES];
        if count == LANES {
            // SAFETY: inside the row, as the caller says.
            let place = unsafe { start.add(col) };
            // SAFETY: so many elements are there, and every pattern of bytes is a value.
            let stored = unsafe { place.cast::<[W; LANES]>().read_unaligned() };
            for lane in 0..LANES {
                weights[lane] = stored[lane].widen();
            }
        } else {
            for (lane, weight) in weights.iter_mut().enumerate().take(count) {
                // SAFETY: inside the row, as the caller says.
                let place = unsafe { start.add(col + lane) };
                // SAFETY: an element is there, and every pattern of bytes is a value.
                *weight = unsafe { place.read_unaligned() }.widen();
            }
        }
        for t in 0..T {
            for lane in 0..LANES {
                sums[r][t][lane] =
                    multiply_add::<FUSED>(weights[lane], x[t][lane], sums[r][t][lane]);
            }
        }
    }
}

/// The sum of partial sums, pairwise.
#[inline(always)]
fn sum_lanes<const LANES: usize>(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
    }
    lanes[0]
}
