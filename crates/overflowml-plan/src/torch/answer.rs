use overflowml_types::{Bytes, Seconds};
use serde::Serialize;

use crate::device::{Offload, Precision};

/// Where every part of a torch object goes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Placement {
    /// In the words users know.
    pub strategy: StrategyName,
    /// In the order of the request.
    pub components: Vec<PlacedComponent>,
    /// How pictures are decoded.
    pub vae: Vae,
    /// What it is expected to take.
    pub predicted: Predicted,
    /// What was considered and not chosen.
    pub rejected: Vec<Skipped>,
    /// What was decided, in words.
    pub notes: Vec<String>,
    /// What to know before it is used.
    pub warnings: Vec<String>,
}

/// The short name of a placement.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StrategyName {
    /// Where parts live.
    pub offload: Offload,
    /// How weights are stored.
    pub quantization: Precision,
    /// What they are computed in, as torch calls it.
    pub dtype: String,
}

/// Where one component goes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PlacedComponent {
    /// Its name.
    pub name: String,
    /// How it gets to what computes.
    pub mode: Placed,
    /// `exact`, `fp8`, `int8` or `int4`.
    pub precision: &'static str,
    /// Slots through which the blocks that do not stay rotate.
    pub slots: usize,
    /// Per stack and block: it stays where it computes.
    pub resident: Vec<Vec<bool>>,
    /// Per stack and block: main memory keeps it between uses; the others are read from disk each time.
    pub host: Vec<Vec<bool>>,
}

/// How a component gets to what computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Placed {
    /// It is there all the time.
    Resident,
    /// It is there, whole, while it runs.
    Component,
    /// Some of its blocks stay while it runs, the others rotate through slots.
    Stream,
}

/// How pictures are decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Vae {
    /// From tiles.
    pub tiling: bool,
    /// One by one.
    pub slicing: bool,
}

/// What a placement is expected to take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Predicted {
    /// The most device memory at once: weights, slots, activations.
    #[serde(rename = "vram_peak_bytes")]
    pub vram_peak: Bytes,
    /// The most main memory at once: weights, slots, and activations where the processor computes.
    #[serde(rename = "ram_peak_bytes")]
    pub ram_peak: Bytes,
    /// A pass of the component that takes longest in all.
    pub seconds_per_pass: Seconds,
    /// Bringing weights to where they stay, once.
    pub load_seconds: Seconds,
    /// A whole run, as is usual for the task.
    pub total_seconds: Seconds,
}

/// Something that was considered and not chosen.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Skipped {
    /// What.
    pub what: String,
    /// Why not.
    pub why: String,
}
