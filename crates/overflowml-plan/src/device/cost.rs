//! What a pass costs on a machine with accelerators. Every formula of that is here.
//!
//! A pass computes on the accelerator while what does not stay there streams to it: `max(compute, streamed / link,
//! read / disk)`, and a share of the shorter one, because both use the same memory. Few tokens are multiplied faster where the weights are: then the processor computes its own part,
//! after the accelerator's, `compute of the one + max(compute of the other, read / disk)`.

use overflowml_types::{Bytes, Seconds};

use super::resources::{Accelerator, HostSide};
use super::stages::{Stage, Use};

/// What copying and computing at the same time cost each other, as a share of the shorter one.
const CONTENTION: f64 = 0.15;

/// Starting one copy and waiting for its end.
const PER_COPY: f64 = 30e-6;

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

/// A time, and what it is limited by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Timed {
    pub(crate) seconds: Seconds,
    pub(crate) by: &'static str,
}

impl Timed {
    /// Both at once.
    fn beside(self, other: Self) -> Self {
        let (long, short) =
            if self.seconds < other.seconds { (other, self) } else { (self, other) };
        let seconds = Seconds::new(long.seconds.get() + CONTENTION * short.seconds.get());
        Self { seconds, by: long.by }
    }
}

/// One pass over a stage.
pub(crate) fn pass(side: Side<'_>, stage: &Stage, split: Split, pass: Use) -> Timed {
    let cache = if pass.cached { stage.cache.as_f64() } else { 0.0 };
    let (device, host, disk) =
        (split.device.used(pass), split.host.used(pass), split.disk.used(pass));
    match side {
        Side::Host(processor) => {
            let read = cache + device + host + disk;
            longest(&[
                (read / processor.memory.value.get(), "memory"),
                (pass.flops / processor.flops.value, "processor"),
                (disk / processor.disk.value.get(), "disk"),
            ])
        }
        Side::Device(accelerator, processor) => {
            let all = device + host + disk;
            #[allow(clippy::cast_precision_loss)] // group counts
            let copies = if host + disk > 0.0 {
                PER_COPY * stage.groups as f64 * (host + disk) / all.max(1.0)
            } else {
                0.0
            };
            let computed = longest(&[
                ((cache + all) / accelerator.memory.value.get(), "memory"),
                (pass.flops / accelerator.flops.value, "compute"),
            ]);
            let copied = longest(&[
                ((host + disk) / accelerator.link.value.get() + copies, "link"),
                (disk / processor.disk.value.get(), "disk"),
            ]);
            let streamed = computed.beside(copied);
            if stage.cache.is_zero() || host + disk == 0.0 {
                return streamed;
            }
            let there = device / all.max(1.0);
            let own = longest(&[
                ((cache + device) / accelerator.memory.value.get(), "memory"),
                (pass.flops * there / accelerator.flops.value, "compute"),
            ]);
            let other = longest(&[
                ((host + disk) / processor.memory.value.get(), "host memory"),
                (pass.flops * (1.0 - there) / processor.flops.value, "processor"),
                (disk / processor.disk.value.get(), "disk"),
            ]);
            let by = if own.seconds > other.seconds { own.by } else { other.by };
            let shared =
                Timed { seconds: Seconds::new(own.seconds.get() + other.seconds.get()), by };
            if shared.seconds < streamed.seconds { shared } else { streamed }
        }
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
    Seconds::new(now.seconds.get() - later.seconds.get())
}

fn longest(terms: &[(f64, &'static str)]) -> Timed {
    let first = Timed { seconds: Seconds::new(0.0), by: "compute" };
    terms.iter().fold(first, |most, &(seconds, by)| {
        let seconds = Seconds::new(seconds);
        if seconds > most.seconds { Timed { seconds, by } } else { most }
    })
}
