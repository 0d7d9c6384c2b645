//! Weights that are simply in memory, cut into any blocks: the reference that streaming is compared with.

use std::sync::Arc;

use overflowml_stream::{StreamError, Wanted};

use crate::source::{RowRun, WeightSource};

/// One weight in memory.
#[derive(Clone, Debug)]
pub struct MemoryWeight {
    /// Row-major, little-endian. Shared where weights are tied.
    pub bytes: Arc<[u8]>,
    /// Bytes of one row; of the whole weight for a vector.
    pub row_bytes: usize,
    /// Rows at which a run ends and the next begins, ascending; empty for one run.
    pub cuts: Vec<usize>,
}

/// All weights of a pass, in memory.
#[derive(Clone, Debug)]
pub struct MemoryWeights {
    weights: Vec<MemoryWeight>,
}

impl MemoryWeights {
    /// Holds `weights`, in the order of the pass's list.
    pub fn new(weights: Vec<MemoryWeight>) -> Self {
        Self { weights }
    }
}

impl WeightSource for MemoryWeights {
    /// # Panics
    /// If `weight` is out of range.
    fn kept(&self, weight: usize) -> &[u8] {
        &self.weights[weight].bytes
    }

    /// # Panics
    /// If `weight` or `row` is out of range, or `out` is not one row long.
    fn lookup(&mut self, weight: usize, row: u64, out: &mut [u8]) -> Result<(), StreamError> {
        let weight = &self.weights[weight];
        let start = row as usize * weight.row_bytes;
        out.copy_from_slice(&weight.bytes[start..start + weight.row_bytes]);
        Ok(())
    }

    /// # Panics
    /// If `weight` is out of range, or its cuts are not ascending rows.
    fn each_run(
        &mut self,
        weight: usize,
        visit: &mut dyn FnMut(RowRun<'_>),
    ) -> Result<(), StreamError> {
        let weight = &self.weights[weight];
        let rows = weight.bytes.len() / weight.row_bytes;
        let mut first_row = 0;
        for &end in weight.cuts.iter().chain([&rows]) {
            if end > first_row {
                let bytes = &weight.bytes[first_row * weight.row_bytes..end * weight.row_bytes];
                visit(RowRun { first_row, rows: end - first_row, bytes });
                first_row = end;
            }
        }
        Ok(())
    }

    fn want_experts(&mut self, _: &mut [Wanted], _: bool) -> Result<(), StreamError> {
        Ok(())
    }

    fn rewind(&mut self) -> Result<(), StreamError> {
        Ok(())
    }
}
