//! Turns weights in memory into logits and tokens: one decoder for every family, its key/value cache, the
//! matrix kernels and the sampler.
//!
//! Weights are borrowed from a [`WeightSource`], a run of rows at a time, and never copied. Nothing is
//! allocated after [`Decoder::new`], and every result is the same bits whatever the runs, chunks and threads.

mod attention;
mod decoder;
mod error;
mod kernels;
mod kv;
mod latent;
mod layer;
mod maths;
pub mod measure;
mod memory;
mod mixture;
mod mxfp4;
mod pool;
mod rope;
mod route;
mod sampler;
mod score;
mod scratch;
mod source;
mod transposed;
mod vector;
mod weights;

pub use decoder::{Decoder, Layouts, Step};
pub use error::ExecError;
pub use kernels::Kernels;
pub use memory::{MemoryWeight, MemoryWeights};
pub use pool::Pool;
pub use sampler::{Sampler, Sampling};
pub use source::{RowRun, WeightSource};
