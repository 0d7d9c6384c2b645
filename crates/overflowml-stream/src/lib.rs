//! Runs a plan's schedule: what stays is read once, what does not is read ahead of use, pass after
//! pass, into slots that rotate.
//!
//! Reads are exact or an error; they bypass the page cache where the file system allows it, so that
//! the memory of a run is what its plan says. Nothing is allocated after [`Store::open`]. Two stores share the reading:
//! [`Store`] for our own decoder, row by row in a fixed order; [`GroupStore`] for other programs, group by group.

mod buffer;
mod counters;
mod demand;
mod error;
mod files;
mod frecency;
mod groups;
mod load;
mod measure;
mod ring;
mod store;

pub use buffer::Buffer;
pub use counters::{Counters, ExpertCounters};
pub use demand::Wanted;
pub use error::StreamError;
pub use files::DirectIo;
pub use groups::{GroupCounters, GroupRequest, GroupStore, Place, Slab};
pub use measure::measure_disk;
pub use store::{Part, Parts, Store, StoreOptions};

#[cfg(test)]
mod tests;
