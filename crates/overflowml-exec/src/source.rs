//! Where a decoder gets its weights from.

use overflowml_stream::{Store, StreamError, Wanted};

/// A run of rows of a matrix, as a source hands them out.
#[derive(Clone, Copy, Debug)]
pub struct RowRun<'a> {
    /// The first row.
    pub first_row: usize,
    /// How many.
    pub rows: usize,
    /// `[rows, cols]`, row-major and little-endian, at any alignment.
    pub bytes: &'a [u8],
}

/// What a decoder asks of whoever holds the weights: a [`Store`] that streams them, or
/// [`MemoryWeights`](crate::MemoryWeights). Weights are named by their index in the pass's list.
pub trait WeightSource {
    /// The bytes of a small weight that is always in memory.
    fn kept(&self, weight: usize) -> &[u8];

    /// Copies one row of a looked-up matrix.
    ///
    /// # Errors
    /// If it cannot be read.
    fn lookup(&mut self, weight: usize, row: u64, out: &mut [u8]) -> Result<(), StreamError>;

    /// Shows all rows of a matrix in order, in runs that follow each other. Called once per pass for every
    /// matrix that is not an expert's, in the order of the pass's list. Blocks until the rows are there.
    ///
    /// # Errors
    /// If they cannot be read; the pass must then be abandoned by [`Self::rewind`].
    fn each_run(
        &mut self,
        weight: usize,
        visit: &mut dyn FnMut(RowRun<'_>),
    ) -> Result<(), StreamError>;

    /// Tells which experts of a layer are needed next, so that reading them begins. Their matrices must
    /// then be asked for by [`Self::each_run`], expert by expert in the order in which `wanted` is left,
    /// each expert's in the order of the pass's list, and nothing be wanted before that is done.
    ///
    /// Unless `in_order`, those that are in memory are moved to the front, so that they can be computed
    /// with while the others are read.
    ///
    /// # Errors
    /// If they cannot be read.
    fn want_experts(&mut self, wanted: &mut [Wanted], in_order: bool) -> Result<(), StreamError>;

    /// Goes back to the start of a pass, after one was abandoned.
    ///
    /// # Errors
    /// If the source cannot go on.
    fn rewind(&mut self) -> Result<(), StreamError>;
}

impl WeightSource for Store {
    fn kept(&self, weight: usize) -> &[u8] {
        self.kept(weight)
    }

    fn lookup(&mut self, weight: usize, row: u64, out: &mut [u8]) -> Result<(), StreamError> {
        self.lookup(weight, row, out)
    }

    fn each_run(
        &mut self,
        weight: usize,
        visit: &mut dyn FnMut(RowRun<'_>),
    ) -> Result<(), StreamError> {
        let mut parts = self.parts(weight);
        while let Some(part) = parts.next() {
            let part = part?;
            visit(RowRun {
                first_row: part.first_row() as usize,
                rows: part.rows() as usize,
                bytes: part.bytes(),
            });
        }
        Ok(())
    }

    fn want_experts(&mut self, wanted: &mut [Wanted], in_order: bool) -> Result<(), StreamError> {
        self.want_experts(wanted, in_order)
    }

    fn rewind(&mut self) -> Result<(), StreamError> {
        self.rewind()
    }
}
