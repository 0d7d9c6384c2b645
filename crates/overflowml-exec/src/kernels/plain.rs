//! Dot products as ordinary loops over fixed-width arrays, which the compiler turns into the instructions of whatever
//! set it compiles them for.

use std::marker::PhantomData;

use half::{bf16, f16};

use super::Dot;
use crate::kv::Cell;
use crate::vector::multiply_add;

/// Weights of type `W`, widened to `f32` and multiplied with activations in `f32`, in `LANES` partial sums.
pub(super) struct Widened<W, const LANES: usize>(PhantomData<W>);

/// A weight as it is stored.
pub(super) trait Stored: Cell {
    const BYTES: usize;

    /// The element at `index` of a row.
    ///
    /// # Safety
    /// The row must have more than `index` elements.
    unsafe fn read(row: &[u8], index: usize) -> Self;
}

macro_rules! stored {
    ($type:ty) => {
        impl Stored for $type {
            const BYTES: usize = size_of::<$type>();

            #[inline(always)]
            unsafe fn read(row: &[u8], index: usize) -> Self {
                debug_assert!((index + 1) * Self::BYTES <= row.len());
                // SAFETY: the caller says that it is inside.
                let place = unsafe { row.as_ptr().add(index * Self::BYTES) };
                // SAFETY: inside the row, and every bit pattern is a value.
                let bytes = unsafe { place.cast::<[u8; size_of::<$type>()]>().read_unaligned() };
                Self::from_le_bytes(bytes)
            }
        }
    };
}

stored!(f32);
stored!(f16);
stored!(bf16);

impl<W: Stored, const LANES: usize> Dot for Widened<W, LANES> {
    type Input = f32;
    const BYTES: usize = W::BYTES;

    #[inline(always)]
    fn tile<const FUSED: bool, const R: usize, const T: usize>(
        rows: [&[u8]; R],
        tokens: [&[f32]; T],
    ) -> [[f32; T]; R] {
        let cols = tokens.first().map_or(0, |token| token.len());
        let mut sums = [[[0.0_f32; LANES]; T]; R];
        let mut col = 0;
        while col + LANES <= cols {
            // SAFETY: `LANES` columns from `col` on are inside every row and token.
            unsafe { add::<W, FUSED, LANES, R, T>(rows, tokens, col, LANES, &mut sums) };
            col += LANES;
        }
        if col < cols {
            // SAFETY: the columns that are left are inside every row and token.
            unsafe { add::<W, FUSED, LANES, R, T>(rows, tokens, col, cols - col, &mut sums) };
        }
        sums.map(|sums| sums.map(sum_lanes))
    }
}

/// `sums[r][t][lane] += rows[r][col + lane] * tokens[t][col + lane]`, for `count` lanes.
///
/// # Safety
/// Every row and token must have at least `col + count` columns.
#[inline(always)]
unsafe fn add<W: Stored, const FUSED: bool, const LANES: usize, const R: usize, const T: usize>(
    rows: [&[u8]; R],
    tokens: [&[f32]; T],
    col: usize,
    count: usize,
    sums: &mut [[[f32; LANES]; T]; R],
) {
    let mut x = [[0.0_f32; LANES]; T];
    for t in 0..T {
        for lane in 0..count {
            debug_assert!(col + lane < tokens[t].len());
            // SAFETY: the caller says that it is inside.
            x[t][lane] = unsafe { *tokens[t].get_unchecked(col + lane) };
        }
    }
    for r in 0..R {
        let mut weights = [0.0_f32; LANES];
        for lane in 0..count {
            // SAFETY: the caller says that it is inside.
            weights[lane] = unsafe { W::read(rows[r], col + lane) }.widen();
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
