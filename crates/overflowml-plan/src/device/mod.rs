//! Plans for machines with accelerators: which way of placing a model is fastest, and what it costs.
//!
//! Candidates are placement modes × precisions. Each is placed within the memory that is free, timed by the
//! formulas of `cost` and in the virtual time of `simulate`, and either offered or rejected with its reason. Nothing is moved here, and nothing is
//! asked of the system: a [`Machine`] that does not exist can be planned for.

mod advice;
mod candidate;
mod choose;
mod cost;
mod estimate;
mod place;
mod resources;
mod simulate;
mod stages;
mod standin;

use overflowml_types::{Bytes, CacheElement, Machine, ModelProfile, Task};
use serde::{Deserialize, Serialize};

pub use advice::Advice;
pub use candidate::{
    Candidate, Estimate, MemoryUse, Offload, Precision, Quality, Rejected, Speed, StagePlan,
    StageUse, Unit, WhyNot,
};
pub use choose::choose;
pub use resources::{Accelerator, HostSide, Resources};
pub use simulate::{Lane, Span};
pub(crate) use simulate::{Step, per_pass};
pub use standin::{MoeSize, moe_of_size, of_size};

/// What is wanted of a model, and what may be used for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Wish {
    /// Bound on the memory of each accelerator; `None` is what is free.
    #[serde(rename = "vram_bytes")]
    pub vram: Option<Bytes>,
    /// Bound on main memory; `None` is what is available.
    #[serde(rename = "memory_bytes")]
    pub memory: Option<Bytes>,
    /// Tokens that are fed before the first new one.
    pub prompt: u64,
    /// New tokens.
    pub generate: u64,
    /// Positions that the KV cache must hold, if more than `prompt + generate`.
    pub context: Option<u64>,
    /// Sequences or pictures at once.
    pub batch: u64,
    /// How cached keys and values are stored.
    pub kv: CacheElement,
    /// Width of pictures, in pixels.
    pub width: u64,
    /// Height of pictures, in pixels.
    pub height: u64,
    /// Frames of a video; ignored for pictures.
    pub frames: u64,
    /// Denoising steps.
    pub steps: u64,
    /// Weights may be shrunk.
    pub quantize: bool,
    /// A lower precision is taken whenever it is faster, not only where the better one does not fit.
    pub fast: bool,
    /// The decoded picture may be put together from tiles.
    pub tile_vae: bool,
    /// Adapters that are loaded beside the model.
    #[serde(rename = "lora_bytes")]
    pub lora: Bytes,
}

impl Default for Wish {
    fn default() -> Self {
        Self {
            vram: None,
            memory: None,
            prompt: 512,
            generate: 256,
            context: None,
            batch: 1,
            kv: CacheElement::F16,
            width: 1024,
            height: 1024,
            frames: 81,
            steps: 28,
            quantize: true,
            fast: false,
            tile_vae: true,
            lora: Bytes::ZERO,
        }
    }
}

impl Wish {
    /// What is usual for a task: a clip has fewer pixels than a picture.
    pub fn usual(task: Task) -> Self {
        match task {
            Task::Video => Self { width: 832, height: 480, ..Self::default() },
            _ => Self::default(),
        }
    }

    /// Positions that the KV cache holds.
    pub fn positions(&self) -> u64 {
        self.context.unwrap_or(0).max(self.prompt.saturating_add(self.generate))
    }
}

/// Every candidate, the choice, and what would change it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Decision {
    /// Index into `candidates`; `None` if nothing fits.
    pub chosen: Option<usize>,
    /// What fits, in order of preference.
    pub candidates: Vec<Candidate>,
    /// What does not, or must not be done, and why.
    pub rejected: Vec<Rejected>,
    /// What the plan counted on.
    pub resources: Resources,
    /// What would help.
    pub advice: Advice,
}

impl Decision {
    /// The candidate to use; `None` if nothing fits.
    pub fn recommended(&self) -> Option<&Candidate> {
        self.chosen.and_then(|index| self.candidates.get(index))
    }
}

/// Plans `model` on `machine`.
///
/// `forbidden` says why a candidate must not be used although it fits: known incompatibilities.
pub fn decide(
    model: &ModelProfile,
    machine: &Machine,
    wish: &Wish,
    forbidden: &dyn Fn(&Candidate) -> Option<WhyNot>,
) -> Decision {
    let resources = Resources::of(machine, wish);
    let (mut candidates, mut rejected) = place::candidates(model, &resources, wish);
    candidates.retain(|candidate| match forbidden(candidate) {
        None => true,
        Some(why) => {
            rejected.push(candidate.rejected(why));
            false
        }
    });
    let chosen = choose::order(&mut candidates, wish);
    let advice =
        advice::advise(model, machine, wish, chosen.and_then(|index| candidates.get(index)));
    Decision { chosen, candidates, rejected, resources, advice }
}

#[cfg(test)]
mod tests;
