//! How long a component takes; every estimate of it that is not measured is here.

use overflowml_types::Bytes;

use super::blocks::Residency;
use super::request::{Component, ComponentKind, Speeds, TorchTask};
use crate::device::{Step, per_pass};

/// Tokens of a pass, as is usual: a picture of 1024x1024 in Flux, a prompt, one new token.
fn tokens(kind: ComponentKind) -> f64 {
    match kind {
        ComponentKind::Denoiser | ComponentKind::Vae => 4096.0,
        ComponentKind::TextEncoder => 512.0,
        ComponentKind::LanguageModel => 1.0,
        ComponentKind::Other => 256.0,
    }
}

/// Passes of a usual run.
pub(super) fn passes(kind: ComponentKind, task: TorchTask, steps: u64) -> u64 {
    match (kind, task) {
        (ComponentKind::Denoiser, TorchTask::Diffusion) => steps.max(1),
        (ComponentKind::LanguageModel, TorchTask::Language) => 256,
        _ => 1,
    }
}

/// Seconds of one pass of a run of `passes`, where `stays` is what does not move.
///
/// `on_disk` tells which blocks are read each time; `copies` whether blocks that move are copied to a device.
pub(super) fn pass(
    component: &Component,
    blocks: &[Bytes],
    residency: &Residency,
    on_disk: &[bool],
    (speeds, copies, passes): (Speeds, bool, u64),
) -> f64 {
    let fixed = Step { compute: compute(component, component.fixed, speeds), ..Step::default() };
    let steps = blocks.iter().enumerate().map(|(index, &size)| {
        let moves = !residency.stays[index];
        let time = |wanted: bool, rate: overflowml_types::BytesPerSecond| {
            if wanted { rate.time_for(size).get() } else { 0.0 }
        };
        Step {
            read: time(moves && on_disk[index], speeds.disk),
            copy: time(moves && copies, speeds.link),
            compute: compute(component, size, speeds),
            slot: size,
        }
    });
    let steps: Vec<Step> = std::iter::once(fixed).chain(steps).collect();
    per_pass(&steps, passes)
}

/// Reading the weights, or multiplying with them, whichever takes longer.
fn compute(component: &Component, size: Bytes, speeds: Speeds) -> f64 {
    let parameters = size.as_f64() / super::choose::element_size(&component.dtype);
    let multiply = 2.0 * parameters * tokens(component.kind) / speeds.flops.max(1.0);
    speeds.memory.time_for(size).get().max(multiply)
}
