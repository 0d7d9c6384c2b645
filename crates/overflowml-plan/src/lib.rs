//! Decides where every part of a model lives, and predicts what running it costs.
//!
//! Pure: values in, a [`Plan`] or an [`Infeasible`] out. No operating system, no clock, no files,
//! so that the same question always has the same answer and a test can ask about any machine.
#![forbid(unsafe_code)]

mod plan;

pub use plan::{Block, Home, MemoryTerms, Plan, Prediction, Rates, Request, Ring, Strategy};
