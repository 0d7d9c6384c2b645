//! Runs a plan's schedule: what stays is read once, what does not is read ahead of use, pass after
//! pass, into slots that rotate.

mod error;

pub use error::StreamError;
