//! Products with matrices that are stored `[in, out]`: a row is what one input adds to all outputs.

use std::ops::Range;
use std::sync::Mutex;

use half::{bf16, f16};
use overflowml_types::DType;

use crate::kv::Cell;
use crate::layer::take_next;
use crate::pool::Pool;
use crate::vector::{Isa, Loop, multiply_add};

/// Columns that one thread works on at a time.
const COLUMNS: usize = 512;

/// Columns whose sums stay in registers.
const STEP: usize = 64;

/// Some rows of a transposed matrix, `[rows, cols]`, row-major and little-endian, at any alignment.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub(crate) dtype: DType,
    /// The first row's number in the whole matrix: which input it belongs to.
    pub(crate) first: usize,
    pub(crate) count: usize,
    pub(crate) cols: usize,
    pub(crate) bytes: &'a [u8],
}

/// Adds to `out` what these rows make of their inputs: `out[token][col] += Σ x[token][row] * rows[row][col]`.
///
/// Inputs are added one after the other, so that the result does not depend on how rows are cut into runs.
/// `x` is `[tokens, width]`; `out` has a token every `stride` elements, the first column at `offset`.
pub(crate) fn add_product(
    (pool, isa): (&Pool, Isa),
    rows: Rows<'_>,
    (x, width): (&[f32], usize),
    (out, stride, offset): (&mut [f32], usize, usize),
) {
    let tokens = out.chunks_mut(stride).take(x.len() / width).enumerate();
    let parts = tokens.flat_map(|(token, out)| {
        let parts = out[offset..offset + rows.cols].chunks_mut(COLUMNS).enumerate();
        parts.map(move |(part, out)| (token, part * COLUMNS, out))
    });
    let parts = Mutex::new(parts);
    pool.run(&|_, _| {
        while let Some((token, first, out)) = take_next(&parts) {
            let x = &x[token * width + rows.first..][..rows.count];
            let columns = first..first + out.len();
            match rows.dtype {
                DType::F32 => isa.run(Add::<f32, 4>::new(rows, x, columns, out)),
                DType::F16 => isa.run(Add::<f16, 2>::new(rows, x, columns, out)),
                _ => isa.run(Add::<bf16, 2>::new(rows, x, columns, out)),
            }
        }
    });
}

/// A stored element of `SIZE` bytes.
trait Stored<const SIZE: usize>: Cell {
    fn read(bytes: [u8; SIZE]) -> Self;
}

impl Stored<4> for f32 {
    #[inline(always)]
    fn read(bytes: [u8; 4]) -> Self {
        Self::from_le_bytes(bytes)
    }
}

impl Stored<2> for f16 {
    #[inline(always)]
    fn read(bytes: [u8; 2]) -> Self {
        Self::from_le_bytes(bytes)
    }
}

impl Stored<2> for bf16 {
    #[inline(always)]
    fn read(bytes: [u8; 2]) -> Self {
        Self::from_le_bytes(bytes)
    }
}

/// Some columns of one token's product.
struct Add<'a, T, const SIZE: usize> {
    rows: Rows<'a>,
    x: &'a [f32],
    columns: Range<usize>,
    out: &'a mut [f32],
    stored: std::marker::PhantomData<T>,
}

impl<'a, T: Stored<SIZE>, const SIZE: usize> Add<'a, T, SIZE> {
    fn new(rows: Rows<'a>, x: &'a [f32], columns: Range<usize>, out: &'a mut [f32]) -> Self {
        Self { rows, x, columns, out, stored: std::marker::PhantomData }
    }

    /// `N` columns from `column` of `out` on.
    #[inline(always)]
    fn some<const FUSED: bool, const N: usize>(&mut self, column: usize) {
        let Some(out) = self.out[column..].first_chunk_mut::<N>() else { return };
        let mut sums = *out;
        let mut at = (self.columns.start + column) * SIZE;
        for &x in self.x {
            let Some(bytes) = self.rows.bytes.get(at..at + N * SIZE) else { return };
            let (weights, _) = bytes.as_chunks::<SIZE>();
            for n in 0..N {
                sums[n] = multiply_add::<FUSED>(x, T::read(weights[n]).widen(), sums[n]);
            }
            at += self.rows.cols * SIZE;
        }
        *out = sums;
    }
}

impl<T: Stored<SIZE>, const SIZE: usize> Loop for Add<'_, T, SIZE> {
    type Output = ();

    #[inline(always)]
    fn run<const FUSED: bool>(mut self) {
        let (cols, mut column) = (self.out.len(), 0);
        while column + STEP <= cols {
            self.some::<FUSED, STEP>(column);
            column += STEP;
        }
        while column + 8 <= cols {
            self.some::<FUSED, 8>(column);
            column += 8;
        }
        while column < cols {
            self.some::<FUSED, 1>(column);
            column += 1;
        }
    }
}
