//! Placement of torch objects on this machine; `overflowml_plan` decides.

use std::path::Path;
use std::sync::OnceLock;

use overflowml_hardware::available_memory;
use overflowml_plan::device::Resources;
pub use overflowml_plan::torch::{
    Allowed, Component, ComponentKind, ComputeDevice, PlaceRequest, Placed, PlacedComponent,
    Placement, Predicted, Room, Skipped, Source, Speeds, Stack, StrategyName, TorchTask, Vae,
};
use overflowml_types::Machine;

use crate::device::{Wish, machine_here};
use crate::error::Error;

/// Chooses which blocks of a torch object stay where, within what is free now or the budgets given.
///
/// The machine is looked at once per process; free memory each time.
///
/// # Errors
/// [`Error::Infeasible`] if it fits in no way; it names the smallest budget that works.
pub fn place(request: &PlaceRequest) -> Result<Placement, Error> {
    static MACHINE: OnceLock<Machine> = OnceLock::new();
    let machine = MACHINE.get_or_init(|| machine_here(Path::new(".")));
    let resources = Resources::of(machine, &Wish::default());
    let room = Room::of(request, &resources, available_memory().value, machine.memory.total.value);
    Ok(overflowml_plan::torch::place(request, &room)?)
}
