//! Matrices in blocks of 32 four-bit numbers with one power of two each (MXFP4), as gpt-oss stores its experts: numbers and
//! powers in two tensors.

use std::sync::Mutex;

use overflowml_types::DType;

use crate::error::ExecError;
use crate::kernels::MatrixRef;
use crate::layer::{Pass, Prepared, Target, take_next};
use crate::source::WeightSource;
use crate::vector::Loop;
use crate::weights::Matrix;

/// Rows that are turned into numbers at a time.
const ROWS: usize = overflowml_types::ExpertScratch::BLOCK_ROWS;

/// What four bits mean: sign, two bits of exponent, one of fraction.
const NUMBERS: [f32; 16] =
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// Numbers of one block, and bytes that hold them.
const BLOCK: (usize, usize) = (32, 16);

/// Buffers for one matrix, allocated once.
#[derive(Debug)]
pub(crate) struct Decoded {
    /// `[rows, blocks]`.
    scales: Vec<u8>,
    /// `[ROWS, cols]` of `f32`.
    rows: Vec<u8>,
}

impl Decoded {
    /// Room for `scales` blocks of one matrix, and rows of up to `cols` numbers; written here.
    pub(crate) fn new(scales: usize, cols: usize) -> Self {
        Self { scales: vec![0xff; scales], rows: vec![0xff; ROWS * cols * size_of::<f32>()] }
    }
}

impl Pass<'_> {
    /// [`Pass::multiply`] with a matrix in blocks, `[rows, bytes]`, whose scales come before it.
    pub(crate) fn multiply_blocks<S: WeightSource>(
        &self,
        (scales, blocks): (Matrix, Matrix),
        x: &[f32],
        (input, decoded): (&mut Prepared<'_>, &mut Decoded),
        source: &mut S,
        target: Target<'_>,
    ) -> Result<(), ExecError> {
        let (per_row, row_bytes) = (scales.cols, blocks.cols);
        let Decoded { scales: all, rows } = decoded;
        source.each_run(scales.index, &mut |run| {
            let bytes = &run.bytes[..run.rows * per_row];
            all[run.first_row * per_row..][..bytes.len()].copy_from_slice(bytes);
        })?;
        let cols = per_row * BLOCK.0;
        input.prepare(self, DType::F32, x.len() / cols, cols, x);
        let Target { out, stride, offset } = target;
        source.each_run(blocks.index, &mut |run| {
            for first in (0..run.rows).step_by(ROWS) {
                let count = ROWS.min(run.rows - first);
                let row = run.first_row + first;
                let stored = &run.bytes[first * row_bytes..][..count * row_bytes];
                let scales = &all[row * per_row..][..count * per_row];
                let numbers = &mut rows[..count * cols * size_of::<f32>()];
                self.decode(
                    stored.chunks_exact(row_bytes).zip(scales.chunks_exact(per_row)),
                    numbers,
                );
                let matrix = MatrixRef { dtype: DType::F32, rows: count, cols, bytes: numbers };
                self.kernels.matmul(self.pool, matrix, input.input(), out, stride, offset + row);
            }
        })?;
        Ok(())
    }

    /// Rows as numbers, on all threads.
    fn decode<'a>(
        &self,
        rows: impl ExactSizeIterator<Item = (&'a [u8], &'a [u8])> + Send,
        out: &mut [u8],
    ) {
        let width = out.len() / rows.len().max(1);
        let rows = Mutex::new(rows.zip(out.chunks_exact_mut(width)));
        self.pool.run(&|_, _| {
            while let Some(((blocks, scales), out)) = take_next(&rows) {
                self.isa.run(Decode { blocks, scales, out });
            }
        });
    }
}

/// One row.
struct Decode<'a> {
    blocks: &'a [u8],
    scales: &'a [u8],
    /// `f32`, little-endian.
    out: &'a mut [u8],
}

impl Loop for Decode<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let (numbers, bytes) = BLOCK;
        let blocks = self.blocks.chunks_exact(bytes).zip(self.scales);
        for ((block, &scale), out) in blocks.zip(self.out.chunks_exact_mut(4 * numbers)) {
            let scale = power_of_two(scale);
            for (pair, &byte) in out.as_chunks_mut::<8>().0.iter_mut().zip(block) {
                let (low, high) =
                    (NUMBERS[usize::from(byte & 15)], NUMBERS[usize::from(byte >> 4)]);
                pair[..4].copy_from_slice(&(low * scale).to_le_bytes());
                pair[4..].copy_from_slice(&(high * scale).to_le_bytes());
            }
        }
    }
}

/// `2 ^ (exponent - 127)`.
#[inline(always)]
fn power_of_two(exponent: u8) -> f32 {
    f32::from_bits(if exponent == 0 { 1 << 22 } else { u32::from(exponent) << 23 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vector::Isa;

    #[test]
    fn blocks_mean_what_the_format_says() {
        let mut block = [0_u8; 16];
        (block[0], block[1], block[15]) = (0x21, 0xf7, 0x9a);
        for (scale, factor) in
            [(127, 1.0), (128, 2.0), (120, 2.0_f32.powi(-7)), (0, 2.0_f32.powi(-127))]
        {
            let mut out = [0_u8; 128];
            Isa::detect().run(Decode { blocks: &block, scales: &[scale], out: &mut out });
            let numbers: Vec<f32> =
                out.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
            let expected = [0.5, 1.0, 6.0, -6.0].map(|number| number * factor);
            assert_eq!(numbers[..4], expected);
            assert_eq!(numbers[30..], [-factor, -0.5 * factor]);
        }
    }
}
