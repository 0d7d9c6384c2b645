//! How fast the kernels are on this machine, for the cost model.

use std::time::{Duration, Instant};

use overflowml_stream::{Buffer, StreamError};
use overflowml_types::{Bytes, BytesPerSecond, DType};

use crate::kernels::{Input, Kernels, MatrixRef};
use crate::pool::Pool;

/// Speeds that a plan is made with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Compute {
    /// Multiplying one token with weights in memory, in bytes of weights.
    pub memory: BytesPerSecond,
    /// Multiplying many tokens with weights, in floating-point operations per second.
    pub flops: f64,
}

/// Columns of the matrices that are timed: as wide as those of common models.
const COLS: usize = 4096;

/// More than any cache holds, but quick to fill.
const MOST: Bytes = Bytes::mib(256);

/// Less than this may stay in a cache.
const LEAST: Bytes = Bytes::mib(32);

/// Times products of bf16 weights, in less than half a second, with at most `spare` memory; `None` if that is too
/// little to tell.
pub fn compute(kernels: &Kernels, pool: &Pool, spare: Bytes) -> Option<Compute> {
    const TOKENS: usize = 256;
    if spare < LEAST {
        return None;
    }
    let mut buffer = Buffer::new(MOST.min(spare)).ok()?;
    // About 0.01 as bf16: neither zero nor so small that it is slow.
    buffer.fill(0x3c);
    let bytes: &[u8] = &buffer;
    let matrix = |rows| MatrixRef { dtype: DType::BF16, rows, cols: COLS, bytes };
    let all = bytes.len() / (2 * COLS);
    let some = all.min(COLS);
    let vector = typical_time(12, &mut product(*kernels, pool, matrix(all), 1).ok()?);
    let matrix = typical_time(4, &mut product(*kernels, pool, matrix(some), TOKENS).ok()?);
    let operations = 2.0 * (some * COLS * TOKENS) as f64;
    Some(Compute {
        memory: BytesPerSecond::of(Bytes::of_len(all * COLS * 2), vector)?,
        flops: operations / matrix.as_secs_f64(),
    })
}

/// One product with `tokens` tokens, ready to be timed.
fn product<'a>(
    kernels: Kernels,
    pool: &'a Pool,
    matrix: MatrixRef<'a>,
    tokens: usize,
) -> Result<impl FnMut() + use<'a>, StreamError> {
    let x = vec![0.5_f32; tokens * matrix.cols];
    let mut input = Input::with_capacity(x.len())?;
    kernels.prepare(pool, matrix.dtype, tokens, matrix.cols, &x, &mut input);
    let mut out = vec![0.0; tokens * matrix.rows];
    Ok(move || kernels.matmul(pool, matrix, &input, &mut out, matrix.rows, 0))
}

/// The median of `times` runs, after one that is not counted.
fn typical_time(times: usize, work: &mut impl FnMut()) -> Duration {
    work();
    let mut durations: Vec<_> = (0..times)
        .map(|_| {
            let started = Instant::now();
            work();
            started.elapsed()
        })
        .collect();
    durations.sort_unstable();
    durations[times / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measured_speeds_are_those_of_a_computer() {
        let speeds = compute(&Kernels::detect(), &Pool::new(2), LEAST).unwrap();
        assert!((1e8..1e13).contains(&speeds.memory.get()));
        assert!((1e8..1e15).contains(&speeds.flops));
    }

    #[test]
    fn nothing_is_measured_where_caches_would_be() {
        assert_eq!(compute(&Kernels::detect(), &Pool::new(1), Bytes::mib(8)), None);
    }
}
