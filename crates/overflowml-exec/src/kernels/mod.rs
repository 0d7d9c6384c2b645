//! Matrix products with borrowed weights: the loops over rows and tokens, shared by all element types and
//! instruction sets.
//!
//! Every output element is a dot product that is accumulated in one order, which depends on the number of columns,
//! the element type and the instruction set only. How many tokens there are, how rows are cut into runs, and which
//! thread works on them makes no difference to the bits.

mod pairs;
mod plain;

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use half::{bf16, f16};
use overflowml_types::DType;

use crate::pool::Pool;
use crate::vector::{Isa, Loop};

/// Rows that are worked on for all tokens before the next ones: they stay in a core's cache meanwhile.
const ROW_BLOCK: usize = 384;

/// Tokens that are worked on for all rows of a row block before the next ones.
const TOKEN_BLOCK: usize = 32;

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

/// Tokens' activations, `[tokens, cols]`, as the kernels for one element type want them.
#[derive(Debug)]
pub struct Input {
    /// What `form` says, in the first bytes.
    words: Vec<f32>,
    form: Form,
    tokens: usize,
    cols: usize,
}

/// How an input is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    F32,
    /// Rounded to nearest, ties to even.
    BF16,
}

impl Input {
    /// Room for `elements` activations, allocated and written here and never again.
    pub fn with_capacity(elements: usize) -> Self {
        Self { words: vec![f32::NAN; elements], form: Form::F32, tokens: 0, cols: 0 }
    }

    fn f32(&self) -> &[f32] {
        &self.words[..self.tokens * self.cols]
    }

    fn bf16(&self) -> &[bf16] {
        // SAFETY: a bf16 is two bytes without invalid values or padding.
        let (before, halves, _) = unsafe { self.words.align_to::<bf16>() };
        debug_assert!(before.is_empty(), "an f32 is aligned for a bf16");
        &halves[..self.tokens * self.cols]
    }

    fn bf16_mut(&mut self) -> &mut [bf16] {
        // SAFETY: a bf16 is two bytes without invalid values or padding, and so are the f32 that it overwrites.
        let (before, halves, _) = unsafe { self.words.align_to_mut::<bf16>() };
        debug_assert!(before.is_empty(), "an f32 is aligned for a bf16");
        &mut halves[..self.tokens * self.cols]
    }
}

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
        assert!(x.len() == tokens * cols && x.len() <= input.words.len(), "an input's size");
        (input.tokens, input.cols) = (tokens, cols);
        input.form = self.form(dtype);
        match input.form {
            Form::F32 => input.words[..x.len()].copy_from_slice(x),
            Form::BF16 => {
                let rows = input.bf16_mut().chunks_mut(cols).zip(x.chunks(cols));
                let narrow = |out, x| self.isa.run(pairs::Narrow { x, out });
                if tokens == 1 {
                    rows.for_each(|(out, x)| narrow(out, x));
                } else {
                    let rows = Mutex::new(rows);
                    pool.run(&|_, _| {
                        while let Some((out, x)) = rows.lock().ok().and_then(|mut rows| rows.next())
                        {
                            narrow(out, x);
                        }
                    });
                }
            }
        }
    }

    fn form(self, dtype: DType) -> Form {
        match (self.isa, dtype) {
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512Bf16, DType::BF16) => Form::BF16,
            _ => Form::F32,
        }
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
        assert!(input.form == self.form(matrix.dtype), "the input was prepared for another type");
        match (self.isa, matrix.dtype) {
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512Bf16, DType::BF16) => {
                let x = input.bf16();
                self.product::<pairs::Pairs, 6, 4>(pool, matrix, input, x, out, stride, first_row);
            }
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512Bf16 | Isa::Avx512, dtype) => {
                self.plain::<16, 6, 4>(pool, dtype, matrix, input, out, stride, first_row);
            }
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx2, dtype) => {
                self.plain::<8, 4, 2>(pool, dtype, matrix, input, out, stride, first_row);
            }
            (Isa::Baseline, dtype) => {
                self.plain::<8, 2, 2>(pool, dtype, matrix, input, out, stride, first_row);
            }
        }
    }

    /// [`Self::matmul`] with inputs as `f32` and accumulators of `LANES`.
    #[allow(clippy::too_many_arguments)] // as `matmul`
    fn plain<const LANES: usize, const ROWS: usize, const TOKENS: usize>(
        self,
        pool: &Pool,
        dtype: DType,
        matrix: MatrixRef<'_>,
        input: &Input,
        out: &mut [f32],
        stride: usize,
        first_row: usize,
    ) {
        use plain::Widened;
        let x = input.f32();
        match dtype {
            DType::F32 => self.product::<Widened<f32, LANES>, ROWS, TOKENS>(
                pool, matrix, input, x, out, stride, first_row,
            ),
            DType::F16 => self.product::<Widened<f16, LANES>, ROWS, TOKENS>(
                pool, matrix, input, x, out, stride, first_row,
            ),
            DType::BF16 => self.product::<Widened<bf16, LANES>, ROWS, TOKENS>(
                pool, matrix, input, x, out, stride, first_row,
            ),
            other => unreachable!("{other} was refused when the weights were bound"),
        }
    }

    #[allow(clippy::too_many_arguments)] // as `matmul`
    fn product<D: Dot, const ROWS: usize, const TOKENS: usize>(
        self,
        pool: &Pool,
        matrix: MatrixRef<'_>,
        input: &Input,
        x: &[D::Input],
        out: &mut [f32],
        stride: usize,
        first_row: usize,
    ) {
        let (tokens, cols) = (input.tokens, input.cols);
        if matrix.rows == 0 || tokens == 0 {
            return;
        }
        assert!(matrix.cols == cols, "{} columns for an input of {cols}", matrix.cols);
        let end = (tokens - 1) * stride + first_row + matrix.rows;
        assert!(first_row + matrix.rows <= stride && end <= out.len(), "a product's output");
        let bytes = &matrix.bytes[..matrix.rows * cols * D::BYTES];
        let out = Out { start: out.as_mut_ptr(), len: out.len(), stride, first_row };
        let product = Product::<D, ROWS, TOKENS> { bytes, cols, x, out, dot: PhantomData };
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

/// Dot products of one element type in one way.
trait Dot: Sync {
    /// A prepared activation.
    type Input: Copy + Sync;
    /// Size of a stored weight.
    const BYTES: usize;

    /// `[r][t] = Σ rows[r] * tokens[t]`, in an order that depends on the number of columns only.
    ///
    /// All `tokens` are of the same length, and all `rows` of [`Self::BYTES`] times that.
    fn tile<const FUSED: bool, const R: usize, const T: usize>(
        rows: [&[u8]; R],
        tokens: [&[Self::Input]; T],
    ) -> [[f32; T]; R];
}

/// A product whose rows threads take piece by piece.
struct Product<'a, D: Dot, const ROWS: usize, const TOKENS: usize> {
    bytes: &'a [u8],
    cols: usize,
    x: &'a [D::Input],
    out: Out,
    dot: PhantomData<D>,
}

/// Some rows of a product, for one thread.
struct Part<'a, D: Dot, const ROWS: usize, const TOKENS: usize> {
    product: &'a Product<'a, D, ROWS, TOKENS>,
    rows: Range<usize>,
}

impl<D: Dot, const ROWS: usize, const TOKENS: usize> Loop for Part<'_, D, ROWS, TOKENS> {
    type Output = ();

    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let Product { cols, x, .. } = *self.product;
        let tokens = x.len() / cols;
        let mut start = 0;
        while start < tokens {
            let block = start..tokens.min(start + TOKEN_BLOCK);
            let mut row = self.rows.start;
            while row + ROWS <= self.rows.end {
                self.product.across::<FUSED, ROWS>(row, block.clone());
                row += ROWS;
            }
            while row < self.rows.end {
                self.product.across::<FUSED, 1>(row, block.clone());
                row += 1;
            }
            start = block.end;
        }
    }
}

impl<D: Dot, const ROWS: usize, const TOKENS: usize> Product<'_, D, ROWS, TOKENS> {
    /// `R` rows from `row` on, with all `tokens`.
    #[inline(always)]
    fn across<const FUSED: bool, const R: usize>(&self, row: usize, tokens: Range<usize>) {
        let len = self.cols * D::BYTES;
        let rows = std::array::from_fn(|r| &self.bytes[(row + r) * len..(row + r + 1) * len]);
        let mut token = tokens.start;
        while token + TOKENS <= tokens.end {
            self.tile::<FUSED, R, TOKENS>(row, rows, token);
            token += TOKENS;
        }
        while token < tokens.end {
            self.tile::<FUSED, R, 1>(row, rows, token);
            token += 1;
        }
    }

    #[inline(always)]
    fn tile<const FUSED: bool, const R: usize, const T: usize>(
        &self,
        row: usize,
        rows: [&[u8]; R],
        token: usize,
    ) {
        let cols = self.cols;
        let tokens = std::array::from_fn(|t| &self.x[(token + t) * cols..(token + t + 1) * cols]);
        let sums = D::tile::<FUSED, R, T>(rows, tokens);
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
