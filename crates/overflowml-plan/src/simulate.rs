//! Runs a plan's schedule in virtual time, to check it and to see where it would wait.

use overflowml_types::{Bytes, Seconds};

use crate::plan::{Block, Home, Plan, Rates};

/// What a schedule does when nothing but its own reads and products takes time.
#[derive(Clone, Debug, PartialEq)]
pub struct Simulated {
    /// One entry per use of a block, in order of use.
    pub uses: Vec<Use>,
    /// The most that was in memory at once: what stays, and the slots that were in use.
    pub peak: Bytes,
    /// Time of the last pass.
    pub pass: Seconds,
    /// Time that computing waited for reading, in all passes.
    pub stall: Seconds,
}

/// One use of a block in one pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Use {
    /// Counted from 0.
    pub pass: u64,
    /// Index into [`Plan::blocks`].
    pub block: usize,
    /// When its read began and ended; `None` for a block that stays.
    pub read: Option<(Seconds, Seconds)>,
    /// When it was multiplied with.
    pub computed: (Seconds, Seconds),
}

/// Simulates `passes` passes of one token each.
pub fn simulate(plan: &Plan, rates: &Rates, passes: u64) -> Simulated {
    let mut clock = Clock::new(plan);
    let mut pass_began = 0.0;
    for pass in 0..passes {
        pass_began = clock.now;
        for (index, block) in plan.blocks.iter().enumerate() {
            clock.step(plan, rates, pass, index, block);
        }
    }
    Simulated {
        peak: plan.memory.resident.saturating_add(clock.most_in_slots()),
        pass: Seconds::new(clock.now - pass_began),
        stall: Seconds::new(clock.stall),
        uses: clock.uses,
    }
}

struct Clock {
    /// When computing is free again.
    now: f64,
    /// When the disk is free again.
    disk: f64,
    stall: f64,
    uses: Vec<Use>,
    slots: usize,
    /// When the last reads began, when their slots were freed, and how large they were.
    reads: Vec<(f64, f64, Bytes)>,
}

impl Clock {
    fn new(plan: &Plan) -> Self {
        let slots = plan.ring.map_or(0, |ring| ring.slots);
        Self { now: 0.0, disk: 0.0, stall: 0.0, uses: Vec::new(), slots, reads: Vec::new() }
    }

    fn step(&mut self, plan: &Plan, rates: &Rates, pass: u64, index: usize, block: &Block) {
        let read = (block.home == Home::Disk).then(|| self.read(rates, block));
        let began = read.map_or(self.now, |(_, end)| self.now.max(end));
        self.stall += began - self.now;
        self.now = began + rates.memory.value.time_for(block.span.len).get();
        if let Some((start, _)) = read {
            debug_assert!(plan.ring.is_some(), "streaming takes slots");
            self.reads.push((start, self.now, block.stored().len));
        }
        self.uses.push(Use {
            pass,
            block: index,
            read: read.map(|(start, end)| (Seconds::new(start), Seconds::new(end))),
            computed: (Seconds::new(began), Seconds::new(self.now)),
        });
    }

    /// A read begins when the disk and the oldest slot are free.
    fn read(&mut self, rates: &Rates, block: &Block) -> (f64, f64) {
        let oldest = self.reads.len().checked_sub(self.slots.max(1));
        let slot_free = oldest.map_or(0.0, |oldest| self.reads[oldest].1);
        let start = self.disk.max(slot_free);
        self.disk = start + rates.disk.value.time_for(block.stored().len).get();
        (start, self.disk)
    }

    /// The largest sum of slots that are held at the same moment; it is reached when a read begins.
    fn most_in_slots(&self) -> Bytes {
        let held_at = |(index, &(start, ..)): (usize, &(f64, f64, Bytes))| {
            let earlier = self.reads[..=index].iter().rev();
            let held = earlier.take_while(move |(_, freed, _)| *freed > start);
            held.map(|(_, _, len)| *len).sum()
        };
        self.reads.iter().enumerate().map(held_at).max().unwrap_or_default()
    }
}
