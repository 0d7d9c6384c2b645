//! Places a torch object: which of its blocks stay where it computes, and how the others get there.
//!
//! `device` plans a model of which shapes are known, by shares of its weights. Here the object itself is at hand: the
//! exact bytes of every block, what it needs beside them, and what is free now. The answer is exact, too: these blocks
//! stay, the others rotate through slots as large as the largest of *them*. Times come from the same simulation.
//!
//! Components take turns: each is placed as if it were alone, unless everything fits at once.

mod answer;
mod blocks;
mod choose;
mod part;
mod request;
mod time;

pub use answer::{Placed, PlacedComponent, Placement, Predicted, Skipped, StrategyName, Vae};
pub use choose::place;
pub use request::{
    Allowed, Component, ComponentKind, ComputeDevice, PlaceRequest, Room, Source, Speeds, Stack,
    TorchTask,
};

#[cfg(test)]
mod tests;
