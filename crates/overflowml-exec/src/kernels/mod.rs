//! Matrix products with borrowed weights: the loops over rows and tokens, shared by all element types and
//! instruction sets.
//!
//! Every output element is a dot product that is accumulated in one order, which depends on the number of columns,
//! the element type and the instruction set only. How many tokens there are, how rows are cut into runs, and which
//! thread works on them makes no difference to the bits.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod narrow;
mod portable;
mod tile;

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use half::{bf16, f16};
use overflowml_stream::{Buffer, StreamError};
use overflowml_types::{Bytes, DType};

use self::tile::{Lanes, tile};
use crate::pool::Pool;
use crate::vector::{Isa, Loop};

/// Rows that are worked on for all tokens before the next ones: they stay in a core's cache meanwhile.
const ROW_BLOCK: usize = 384;

/// Groups of tokens that are worked on for all rows of a row block before the next ones.
const GROUPS: usize = 8;

/// How many pieces each thread takes of a product, so that one that is interrupted does not hold up the others.
const PIECES_PER_THREAD: usize = 4;

/// A matrix, `[rows, cols]`, row-major and little-endian, at any alignment.
#[derive(Clone, Copy, Debug)]
pub struct MatrixRef<'a> {
    /// F32, F16 or BF16.
    pub dtype: DType,
    /// Rows: outputs per token.
    pub rows: usize,
    /// Columns: inputs per token.
    pub cols: usize,
    /// At least `rows * cols` elements.
    pub bytes: &'a [u8],
}

/// Tokens' activations, `[tokens, cols]`, packed as the kernels for one element type want them.
#[derive(Debug)]
pub struct Input {
    buffer: Buffer,
    packing: Packing,
    tokens: usize,
    cols: usize,
}

/// How activations are stored.
///
/// Tokens that are worked on together lie together: a kernel reads them as one stream. A group of `tokens` tokens is
/// `[cols / width, tokens, width]`; those that fill no group follow, each `[cols / width, width]`. The last columns are
/// filled up with zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Packing {
    form: Form,
    /// Columns per step, at most [`ScratchLayout::COLUMN_STEP`].
    width: usize,
    /// Tokens per group.
    tokens: usize,
}

/// Element type of stored activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    F32,
    /// Rounded to nearest, ties to even.
    BF16,
}

impl Input {
    /// Room for `elements` activations as `f32`, allocated and written here and never again.
    ///
    /// # Errors
    /// If the memory cannot be had.
    pub fn with_capacity(elements: usize) -> Result<Self, StreamError> {
        let mut buffer = Buffer::new(Bytes::of_len(elements * size_of::<f32>()))?;
        buffer.fill(0xff);
        let packing = Packing { form: Form::F32, width: 1, tokens: 1 };
        Ok(Self { buffer, packing, tokens: 0, cols: 0 })
    }

    /// Elements of one token, filled up.
    fn padded(&self) -> usize {
        self.cols.next_multiple_of(self.packing.width)
    }

    /// All elements, as what the packing's form says.
    fn elements<T: Element>(&self) -> &[T] {
        // SAFETY: every pattern of bytes is a value of an `Element`.
        let (before, elements, _) = unsafe { self.buffer.align_to::<T>() };
        debug_assert!(before.is_empty(), "buffers are aligned to pages");
        &elements[..self.tokens * self.padded()]
    }

    fn elements_mut<T: Element>(&mut self) -> &mut [T] {
        let len = self.tokens * self.padded();
        // SAFETY: every pattern of bytes is a value of an `Element`, and its bytes are all initialised.
        let (before, elements, _) = unsafe { self.buffer.align_to_mut::<T>() };
        debug_assert!(before.is_empty(), "buffers are aligned to pages");
        &mut elements[..len]
    }
}

/// A stored activation: a plain number without padding or invalid patterns.
trait Element: Copy + Send + Sync {}

impl Element for f32 {}
impl Element for bf16 {}

/// The matrix kernels of one instruction set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernels {
    isa: Isa,
}

impl Kernels {
    /// The fastest for this processor.
    pub fn detect() -> Self {
        Self { isa: Isa::detect() }
    }

    /// Those that run on every processor of this architecture.
    pub fn portable() -> Self {
        Self { isa: Isa::Baseline }
    }

    /// All that run on this processor, fastest first.
    pub fn all_available() -> Vec<Self> {
        Isa::all_available().into_iter().map(|isa| Self { isa }).collect()
    }

    /// For example `avx512-bf16`.
    pub fn name(self) -> &'static str {
        self.isa.name()
    }

    pub(crate) fn isa(self) -> Isa {
        self.isa
    }

    /// Stores `x`, `[tokens, cols]`, in `input` as products with matrices of `dtype` want it.
    ///
    /// # Panics
    /// If `x` is not `tokens * cols` long, or `input` has less room.
    pub fn prepare(
        self,
        pool: &Pool,
        dtype: DType,
        tokens: usize,
        cols: usize,
        x: &[f32],
        input: &mut Input,
    ) {
        assert!(x.len() == tokens * cols, "an input's size");
        (input.tokens, input.cols, input.packing) = (tokens, cols, self.packing(dtype));
        let isa = self.isa;
        match input.packing.form {
            Form::F32 => pack(pool, x, input, |x, out: &mut [f32]| out.copy_from_slice(x)),
            Form::BF16 => pack(pool, x, input, |x, out| isa.run(narrow::Narrow { x, out })),
        }
    }

    fn packing(self, dtype: DType) -> Packing {
        let (form, width, tokens) = match (self.isa, dtype) {
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512Bf16, DType::BF16) => (Form::BF16, 32, 4),
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512Bf16 | Isa::Avx512, _) => (Form::F32, 16, 4),
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx2, _) => (Form::F32, 8, 2),
            (Isa::Baseline, _) => (Form::F32, 8, 2),
        };
        Packing { form, width, tokens }
    }

    /// `out[token * stride + first_row + row] = Σ matrix[row] * input[token]`, for every row and token.
    ///
    /// # Panics
    /// If sizes do not fit together, `input` was prepared for another element type, or `matrix` has one that is
    /// not computed with.
    pub fn matmul(
        self,
        pool: &Pool,
        matrix: MatrixRef<'_>,
        input: &Input,
        out: &mut [f32],
        stride: usize,
        first_row: usize,
    ) {
        assert!(input.packing == self.packing(matrix.dtype), "prepared for another type");
        let job = Job { pool, matrix, input, out, stride, first_row };
        match (self.isa, matrix.dtype) {
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512Bf16, DType::BF16) => self.product::<avx512::Pairs, 6, 4>(job),
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512Bf16 | Isa::Avx512, DType::F32) => {
                self.product::<avx512::Widened<f32>, 6, 4>(job);
            }
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512Bf16 | Isa::Avx512, DType::F16) => {
                self.product::<avx512::Widened<f16>, 6, 4>(job);
            }
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512, DType::BF16) => self.product::<avx512::Widened<bf16>, 6, 4>(job),
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx2, DType::F32) => self.product::<avx2::Widened<f32>, 6, 2>(job),
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx2, DType::F16) => self.product::<avx2::Widened<f16>, 6, 2>(job),
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx2, DType::BF16) => self.product::<avx2::Widened<bf16>, 6, 2>(job),
            (Isa::Baseline, DType::F32) => self.product::<portable::Portable<f32>, 2, 2>(job),
            (Isa::Baseline, DType::F16) => self.product::<portable::Portable<f16>, 2, 2>(job),
            (Isa::Baseline, DType::BF16) => self.product::<portable::Portable<bf16>, 2, 2>(job),
            (_, other) => unreachable!("{other} was refused when the weights were bound"),
        }
    }

    /// `L` must be for this instruction set.
    fn product<L: Lanes, const ROWS: usize, const TOKENS: usize>(self, job: Job<'_>) {
        let Job { pool, matrix, input, out, stride, first_row } = job;
        let (tokens, cols) = (input.tokens, input.cols);
        if matrix.rows == 0 || tokens == 0 {
            return;
        }
        assert!(matrix.cols == cols, "{} columns for an input of {cols}", matrix.cols);
        let end = (tokens - 1) * stride + first_row + matrix.rows;
        assert!(first_row + matrix.rows <= stride && end <= out.len(), "a product's output");
        let bytes = &matrix.bytes[..matrix.rows * cols * L::BYTES];
        let out = Out { start: out.as_mut_ptr(), len: out.len(), stride, first_row };
        let (x, padded) = (input.elements(), input.padded());
        let product =
            Product::<L, ROWS, TOKENS> { bytes, cols, x, padded, out, lanes: PhantomData };
        let pieces = matrix.rows.div_ceil(pool.threads() * PIECES_PER_THREAD);
        let step = pieces.next_multiple_of(ROWS).min(ROW_BLOCK);
        let next = AtomicUsize::new(0);
        pool.run(&|_, _| {
            loop {
                let from = next.fetch_add(step, Ordering::Relaxed);
                if from >= matrix.rows {
                    return;
                }
                let rows = from..matrix.rows.min(from + step);
                self.isa.run(Part { product: &product, rows });
            }
        });
    }
}

/// Packs `x` into `input`, row by row of `width` columns through `convert`, on all threads.
fn pack<T: Element>(
    pool: &Pool,
    x: &[f32],
    input: &mut Input,
    convert: impl Fn(&[f32], &mut [T]) + Sync,
) {
    let Packing { width, tokens: group, .. } = input.packing;
    let (cols, padded) = (input.cols, input.padded());
    let grouped = input.tokens - input.tokens % group;
    let pack_some = |x: &[f32], tokens: usize, out: &mut [T]| {
        for (step, out) in out.chunks_exact_mut(tokens * width).enumerate() {
            for (token, out) in out.chunks_exact_mut(width).enumerate() {
                let row = &x[token * cols..(token + 1) * cols];
                let row = &row[step * width..cols.min((step + 1) * width)];
                let (used, rest) = out.split_at_mut(row.len());
                convert(row, used);
                rest.iter_mut().for_each(|element| convert(&[0.0], std::slice::from_mut(element)));
            }
        }
    };
    let (groups, singles) = input.elements_mut().split_at_mut(grouped * padded);
    let (x_groups, x_singles) = x.split_at(grouped * cols);
    for (x, out) in x_singles.chunks_exact(cols).zip(singles.chunks_exact_mut(padded)) {
        pack_some(x, 1, out);
    }
    if grouped > 0 {
        let groups =
            x_groups.chunks_exact(group * cols).zip(groups.chunks_exact_mut(group * padded));
        let groups = Mutex::new(groups);
        pool.run(&|_, _| {
            while let Some((x, out)) = groups.lock().ok().and_then(|mut groups| groups.next()) {
                pack_some(x, group, out);
            }
        });
    }
}

/// The arguments of [`Kernels::matmul`].
struct Job<'a> {
    pool: &'a Pool,
    matrix: MatrixRef<'a>,
    input: &'a Input,
    out: &'a mut [f32],
    stride: usize,
    first_row: usize,
}

/// A product whose rows threads take piece by piece.
struct Product<'a, L: Lanes, const ROWS: usize, const TOKENS: usize> {
    bytes: &'a [u8],
    cols: usize,
    x: &'a [L::Input],
    /// Elements of one token in `x`.
    padded: usize,
    out: Out,
    lanes: PhantomData<L>,
}

/// Some rows of a product, for one thread.
struct Part<'a, L: Lanes, const ROWS: usize, const TOKENS: usize> {
    product: &'a Product<'a, L, ROWS, TOKENS>,
    rows: Range<usize>,
}

impl<L: Lanes, const ROWS: usize, const TOKENS: usize> Loop for Part<'_, L, ROWS, TOKENS> {
    type Output = ();

    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let tokens = self.product.x.len() / self.product.padded;
        let grouped = tokens - tokens % TOKENS;
        let mut start = 0;
        while start < grouped {
            let end = grouped.min(start + GROUPS * TOKENS);
            self.each_rows::<FUSED>(start..end, true);
            start = end;
        }
        if grouped < tokens {
            self.each_rows::<FUSED>(grouped..tokens, false);
        }
    }
}

impl<L: Lanes, const ROWS: usize, const TOKENS: usize> Part<'_, L, ROWS, TOKENS> {
    /// All rows, [`ROWS`] at a time, with some tokens: a few groups of them, or those that fill no group.
    #[inline(always)]
    fn each_rows<const FUSED: bool>(&self, tokens: Range<usize>, grouped: bool) {
        let mut row = self.rows.start;
        while row + ROWS <= self.rows.end {
            self.product.across::<FUSED, ROWS>(row, tokens.clone(), grouped);
            row += ROWS;
        }
        while row < self.rows.end {
            self.product.across::<FUSED, 1>(row, tokens.clone(), grouped);
            row += 1;
        }
    }
}

impl<L: Lanes, const ROWS: usize, const TOKENS: usize> Product<'_, L, ROWS, TOKENS> {
    /// `R` rows from `row` on, with all `tokens`.
    #[inline(always)]
    fn across<const FUSED: bool, const R: usize>(
        &self,
        row: usize,
        tokens: Range<usize>,
        grouped: bool,
    ) {
        let rows = std::array::from_fn(|r| {
            let start = (row + r) * self.cols * L::BYTES;
            &self.bytes[start..start + self.cols * L::BYTES]
        });
        if grouped {
            for token in tokens.step_by(TOKENS) {
                self.tile::<FUSED, R, TOKENS>(row, rows, token);
            }
        } else {
            for token in tokens {
                self.tile::<FUSED, R, 1>(row, rows, token);
            }
        }
    }

    #[inline(always)]
    fn tile<const FUSED: bool, const R: usize, const T: usize>(
        &self,
        row: usize,
        rows: [&[u8]; R],
        token: usize,
    ) {
        let x = &self.x[token * self.padded..(token + T) * self.padded];
        // SAFETY: `Kernels` takes `L` for its own instruction set, and runs this inside `Isa::run`, which has seen that the
        // processor has it and compiles for it.
        let sums = unsafe { tile::<L, FUSED, R, T>(rows, x) };
        for (r, sums) in sums.iter().enumerate() {
            for (t, sum) in sums.iter().enumerate() {
                self.out.set(token + t, row + r, *sum);
            }
        }
    }
}

/// Where a product's results go. Threads write to different rows of it.
struct Out {
    start: *mut f32,
    len: usize,
    stride: usize,
    first_row: usize,
}

// SAFETY: threads take rows from one counter, so that no two ever write the same element, and nobody reads
// before all have finished.
unsafe impl Sync for Out {}

impl Out {
    #[inline(always)]
    fn set(&self, token: usize, row: usize, value: f32) {
        let index = token * self.stride + self.first_row + row;
        debug_assert!(index < self.len, "checked by `product`");
        // SAFETY: `product` has checked that the last token's last row is inside, and stride and rows that
        // others are before it.
        let place = unsafe { self.start.add(index) };
        // SAFETY: inside the slice that `product` borrows mutably, and no other thread has this row.
        unsafe { place.write(value) };
    }
}

#[cfg(test)]
mod tests;
