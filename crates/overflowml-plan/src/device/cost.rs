//! What a pass costs on a machine with accelerators. Every formula of that is here.
//!
//! A pass computes on the accelerator while what does not stay there streams to it. What each group takes of disk, link
//! and accelerator is computed here; `simulate` finds when it happens. Few tokens are multiplied faster where the
//! weights are: then the processor computes its own part of every group after the accelerator's.

use overflowml_types::{Bytes, Seconds};

use super::resources::{Accelerator, HostSide};
use super::simulate::{self, Step};
use super::stages::{Stage, Use};

/// What copying and computing at the same time cost each other, as a share of the shorter one.
const CONTENTION: f64 = 0.15;

/// Starting one copy and waiting for its end.
const PER_COPY: f64 = 30e-6;

/// Starting what one group computes on an accelerator.
const LAUNCH: f64 = 30e-6;

/// Weights in one tier: what every pass uses, and experts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Part {
    pub(crate) dense: Bytes,
    pub(crate) experts: Bytes,
}

impl Part {
    pub(crate) fn size(self) -> Bytes {
        self.dense.saturating_add(self.experts)
    }

    /// As much of it as `room` has; what every pass uses comes first.
    pub(crate) fn up_to(self, room: Bytes) -> Self {
        let dense = self.dense.min(room);
        Self { dense, experts: self.experts.min(room.left_after(dense)) }
    }

    /// What is left of it without `taken`.
    pub(crate) fn less(self, taken: Self) -> Self {
        Self {
            dense: self.dense.left_after(taken.dense),
            experts: self.experts.left_after(taken.experts),
        }
    }

    /// Both together.
    fn with(self, other: Self) -> Self {
        Self {
            dense: self.dense.saturating_add(other.dense),
            experts: self.experts.saturating_add(other.experts),
        }
    }

    /// Bytes that a pass uses.
    fn used(self, pass: Use) -> f64 {
        self.dense.as_f64() + self.experts.as_f64() * pass.experts
    }
}

/// Where a stage's weights are.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Split {
    pub(crate) device: Part,
    pub(crate) host: Part,
    pub(crate) disk: Part,
}

/// Who computes a stage.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Side<'a> {
    /// The accelerator; the processor may take its own part of a language model's layers.
    Device(&'a Accelerator, &'a HostSide),
    /// The processor.
    Host(&'a HostSide),
}

/// What a pass takes, and what it is limited by.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Timed {
    /// Each, of a run of as many as there are.
    pub(crate) seconds: Seconds,
    /// The first alone, with nothing in the slots.
    pub(crate) first: Seconds,
    pub(crate) by: &'static str,
    pub(crate) steps: Vec<Step>,
}

/// Seconds, and what takes them.
type Term = (f64, &'static str);

/// One pass over a stage.
pub(crate) fn pass(side: Side<'_>, stage: &Stage, split: Split, pass: Use) -> Timed {
    let work = Work::of(stage, split, pass);
    match side {
        Side::Host(host) => work.on_host(host),
        Side::Device(card, host) => {
            let streamed = work.streamed(card, host);
            // Only language models are cut so that two can compute one pass.
            if stage.cache.is_zero() || work.host + work.disk == 0.0 {
                return streamed;
            }
            let shared = work.shared(card, host);
            if shared.seconds < streamed.seconds { shared } else { streamed }
        }
    }
}

/// A pass over a stage, in bytes that are used: experts that no token chooses are not.
struct Work<'a> {
    stage: &'a Stage,
    split: Split,
    pass: Use,
    /// Of the KV cache.
    cache: f64,
    device: f64,
    host: f64,
    disk: f64,
}

impl<'a> Work<'a> {
    fn of(stage: &'a Stage, split: Split, pass: Use) -> Self {
        let cache = if pass.cached { stage.cache.as_f64() } else { 0.0 };
        let (device, host, disk) =
            (split.device.used(pass), split.host.used(pass), split.disk.used(pass));
        Self { stage, split, pass, cache, device, host, disk }
    }

    fn all(&self) -> f64 {
        self.device + self.host + self.disk
    }

    /// The processor computes; what is on disk is read ahead.
    fn on_host(&self, host: &HostSide) -> Timed {
        let compute = longest(&[
            ((self.cache + self.all()) / host.memory.value.get(), "memory"),
            (self.pass.flops / host.flops.value, "processor"),
        ]);
        self.timed(compute, 0.0, (0.0, 0.0), host)
    }

    /// The accelerator computes; what is elsewhere is copied ahead.
    fn streamed(&self, card: &Accelerator, host: &HostSide) -> Timed {
        let compute = longest(&[
            ((self.cache + self.all()) / card.memory.value.get(), "memory"),
            (self.pass.flops / card.flops.value, "compute"),
        ]);
        self.timed(compute, LAUNCH, (1.0 / card.link.value.get(), PER_COPY), host)
    }

    /// Both compute, one after the other, what they have.
    fn shared(&self, card: &Accelerator, host: &HostSide) -> Timed {
        let there = self.device / self.all().max(1.0);
        let own = longest(&[
            ((self.cache + self.device) / card.memory.value.get(), "memory"),
            (self.pass.flops * there / card.flops.value, "compute"),
        ]);
        let other = longest(&[
            ((self.host + self.disk) / host.memory.value.get(), "host memory"),
            (self.pass.flops * (1.0 - there) / host.flops.value, "processor"),
        ]);
        let by = if own.0 > other.0 { own.1 } else { other.1 };
        self.timed((own.0 + other.0, by), LAUNCH, (0.0, 0.0), host)
    }

    /// Simulates it: `compute` for all groups together, `launch` for each, `copy` for each byte and for each copy.
    fn timed(&self, compute: Term, launch: f64, copy: (f64, f64), host: &HostSide) -> Timed {
        let steps = self.steps((compute.0, launch), copy, 1.0 / host.disk.value.get());
        let sum = |pick: fn(&Step) -> f64| steps.iter().map(pick).sum::<f64>();
        let by = longest(&[
            (sum(|step| step.compute), compute.1),
            (sum(|step| step.copy), "link"),
            (sum(|step| step.read), "disk"),
        ]);
        Timed {
            seconds: Seconds::new(simulate::per_pass(&steps, self.pass.passes)),
            first: Seconds::new(simulate::per_pass(&steps, 1)),
            by: by.1,
            steps,
        }
    }

    fn steps(
        &self,
        (compute, launch): (f64, f64),
        (per_byte, per_copy): (f64, f64),
        per_read: f64,
    ) -> Vec<Step> {
        let experts = self.pass.experts;
        let all = self.all().max(1.0);
        let (host, disk) =
            (Share::of(self.split.host, self.stage), Share::of(self.split.disk, self.stage));
        let copies = per_byte > 0.0;
        let step = |piece: &Part| {
            let used = piece.used(self.pass);
            let read = disk.of_piece(*piece, experts);
            let moved = host.of_piece(*piece, experts) + read;
            let compute = launch + compute * used / all;
            let copy =
                if copies { moved * per_byte + per_copy * moved / used.max(1.0) } else { 0.0 };
            let contention = CONTENTION * compute.min(copy);
            let slot = (host.of_piece(*piece, 1.0) + disk.of_piece(*piece, 1.0))
                .min(self.stage.largest.as_f64());
            Step {
                read: read * per_read,
                copy: copy + contention,
                compute: compute + contention,
                slot: self.stage.largest.share(slot / self.stage.largest.as_f64().max(1.0)),
            }
        };
        self.stage.pieces.iter().map(step).collect()
    }
}

/// The share of a stage's weights that is in one tier: the same in every group.
#[derive(Clone, Copy)]
struct Share {
    dense: f64,
    experts: f64,
}

impl Share {
    fn of(part: Part, stage: &Stage) -> Self {
        let share = |part: Bytes, all: Bytes| part.as_f64() / all.as_f64().max(1.0);
        Self { dense: share(part.dense, stage.dense), experts: share(part.experts, stage.experts) }
    }

    /// Its bytes of one group, of whose experts a share is used.
    fn of_piece(self, piece: Part, experts: f64) -> f64 {
        self.dense * piece.dense.as_f64() + self.experts * piece.experts.as_f64() * experts
    }
}

/// What the first pass of a stage takes more than the others when components take turns: all of its weights are
/// elsewhere then, `copy` of what will stay in main memory and the rest on disk.
pub(crate) fn swap_in(
    side: Side<'_>,
    stage: &Stage,
    split: Split,
    copy: Bytes,
    first: Use,
) -> Seconds {
    let elsewhere = match side {
        Side::Device(..) => {
            let host = split.device.up_to(copy);
            Split {
                device: Part::default(),
                host: split.host.with(host),
                disk: split.disk.with(split.device.less(host)),
            }
        }
        Side::Host(_) => {
            Split { host: Part::default(), disk: split.disk.with(split.host), ..split }
        }
    };
    let (now, later) = (pass(side, stage, elsewhere, first), pass(side, stage, split, first));
    Seconds::new(now.first.get() - later.first.get())
}

fn longest(terms: &[Term]) -> Term {
    terms.iter().fold((0.0, "compute"), |most, &term| if term.0 > most.0 { term } else { most })
}
