//! Decides where every part of a model lives, and predicts what running it costs.
//!
//! Pure: values in, a [`Plan`] or an [`Infeasible`] out. No operating system, no clock, no files,
//! so that the same question always has the same answer and a test can ask about any machine.
#![forbid(unsafe_code)]

mod blocks;
mod choose;
mod cost;
pub mod device;
mod experts;
mod explain;
mod infeasible;
mod plan;
pub mod rules;
mod simulate;
pub mod torch;

pub use blocks::{ALIGNMENT, stored};
pub use choose::plan;
pub use cost::predict;
pub use experts::ExpertCache;
pub use infeasible::Infeasible;
pub use plan::{
    Block, ExpertPrediction, ExpertRate, Home, MemoryTerms, Plan, Prediction, Rates, Request, Ring,
    Run, Strategy,
};
pub use simulate::{Simulated, simulate};

#[cfg(test)]
mod tests;
