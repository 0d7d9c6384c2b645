//! One component of a plan, and what it takes of each memory.

use overflowml_types::Bytes;

use super::answer::{Placed, PlacedComponent};
use super::blocks::Residency;
use super::request::{ComponentKind, Source};
use crate::device::Precision;

/// One component of a plan.
pub(super) struct Part {
    pub(super) name: String,
    pub(super) kind: ComponentKind,
    pub(super) stacks: Vec<usize>,
    pub(super) blocks: Vec<Bytes>,
    pub(super) mode: Placed,
    pub(super) precision: Precision,
    pub(super) residency: Residency,
    /// Blocks that main memory keeps.
    pub(super) kept: Vec<bool>,
    pub(super) fixed: Bytes,
    pub(super) activations: Bytes,
    pub(super) tiled: bool,
    pub(super) source: Source,
}

impl Part {
    pub(super) fn size(&self) -> Bytes {
        self.fixed.saturating_add(self.blocks.iter().copied().sum())
    }

    /// What it takes where it computes, while it runs.
    pub(super) fn fast(&self) -> Bytes {
        let stays = self.fixed.saturating_add(self.residency.resident(&self.blocks));
        stays.saturating_add(self.residency.ring()).saturating_add(self.activations)
    }
}

impl Part {
    /// Blocks that are kept in main memory or where they compute, in bytes.
    pub(super) fn kept_size(&self) -> Bytes {
        let flags =
            self.kept.iter().zip(&self.residency.stays).map(|(kept, stays)| *kept || *stays);
        self.blocks.iter().zip(flags).filter(|(_, stays)| *stays).map(|(size, _)| *size).sum()
    }

    /// What main memory holds for a device: what moves, and what leaves when another component runs; slots to read into
    /// for what it does not hold.
    pub(super) fn host_copy(&self, turns: bool) -> Bytes {
        self.host_copy_with(turns, &self.kept)
    }

    /// The same with nothing kept between uses.
    pub(super) fn least_host_copy(&self, turns: bool) -> Bytes {
        self.host_copy_with(turns, &vec![false; self.blocks.len()])
    }

    fn host_copy_with(&self, turns: bool, kept: &[bool]) -> Bytes {
        let moves = |index: &usize| turns || !self.residency.stays[*index];
        let needed = (0..self.blocks.len()).filter(moves);
        let (keep, read): (Vec<usize>, Vec<usize>) = needed.partition(|&index| kept[index]);
        let largest = read.iter().map(|&index| self.blocks[index]).max().unwrap_or_default();
        let ring = largest.saturating_mul(read.len().min(2) as u64);
        let fixed = if turns { self.fixed } else { Bytes::ZERO };
        let kept: Bytes = keep.iter().map(|&index| self.blocks[index]).sum();
        kept.saturating_add(ring).saturating_add(fixed)
    }

    /// Keeps what `room` has for: first of what moves in every pass, the largest first and otherwise evenly spread, then
    /// of what moves when components take turns. At worst nothing, and two slots are left.
    pub(super) fn keep_some(&mut self, room: Bytes, turns: bool) {
        let count = self.blocks.len();
        self.kept = vec![false; count];
        let mut order: Vec<usize> = (0..count).collect();
        order.sort_by_key(|&index| {
            let once = self.residency.stays[index];
            // Numbers with their bits reversed: the first of them are far apart, however many are taken.
            (once, std::cmp::Reverse(self.blocks[index]), (index as u64).reverse_bits())
        });
        for index in order.into_iter().filter(|&index| turns || !self.residency.stays[index]) {
            self.kept[index] = true;
            self.kept[index] = self.host_copy(turns) <= room;
        }
    }
}

pub(super) fn component(part: Part) -> PlacedComponent {
    PlacedComponent {
        resident: by_stack(&part.stacks, &part.residency.stays),
        host: by_stack(&part.stacks, &part.kept),
        name: part.name,
        mode: part.mode,
        precision: word(part.precision),
        slots: part.residency.slots,
    }
}

fn by_stack(stacks: &[usize], flags: &[bool]) -> Vec<Vec<bool>> {
    let mut rest = flags;
    let mut cut = |count: &usize| {
        let (own, after) = rest.split_at(*count);
        rest = after;
        own.to_vec()
    };
    stacks.iter().map(&mut cut).collect()
}

pub(super) fn note(part: &Part, on_host: bool) -> String {
    let place = if on_host { "in main memory" } else { "on the device" };
    let name = if part.name.is_empty() { "the model" } else { &part.name };
    let tiled = if part.tiled { ", decoding in tiles" } else { "" };
    match part.mode {
        Placed::Resident => format!("{name}: {} stay {place}{tiled}", part.size()),
        Placed::Component => format!("{name}: {} are {place} while it runs{tiled}", part.size()),
        Placed::Stream => {
            let stay = part.residency.stays.iter().filter(|stays| **stays).count();
            let Residency { slots, slot, .. } = &part.residency;
            format!(
                "{name}: {stay} of {} blocks stay {place}, the others pass through {slots} slots of {slot}{tiled}",
                part.blocks.len()
            )
        }
    }
}

pub(super) const fn word(precision: Precision) -> &'static str {
    match precision {
        Precision::Exact => "exact",
        Precision::Fp8 => "fp8",
        Precision::Int8 => "int8",
        Precision::Int4 => "int4",
    }
}
