//! A pass in virtual time: what streams is read from disk, copied over the link and computed with, in order, through
//! two slots on each way.
//!
//! A step is a group of the model. Its share that stays needs nothing; the rest is read ahead into one of two places
//! in main memory and copied ahead into one of two slots, whichever of the three is late holding up the others.
//! The share that stays is the same in every group, so the resident set is spread evenly. No clock: times are sums of
//! the durations that `cost` gives.

use overflowml_types::{Bytes, Seconds};

/// Places through which streamed groups rotate, in main memory and on the accelerator.
const SLOTS: usize = 2;

/// A long run is timed by its first passes: filling the slots at its start counts a little more than it does.
const MOST_PASSES: u64 = 6;

/// What one group takes in a pass, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Step {
    /// Reading what is on disk.
    pub(crate) read: f64,
    /// Copying what is not on the accelerator.
    pub(crate) copy: f64,
    /// Computing with all of it.
    pub(crate) compute: f64,
    /// What of it is in a slot at once.
    pub(crate) slot: Bytes,
}

/// What works on a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Reading from disk.
    Disk,
    /// Copying to the accelerator.
    Link,
    /// Computing.
    Compute,
}

/// When one lane worked on one group.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    /// Which.
    pub lane: Lane,
    /// Place of the group in the pass.
    pub group: usize,
    /// From the start of the first pass.
    pub start: Seconds,
    /// From the start of the first pass.
    pub end: Seconds,
}

/// What came of a simulation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Simulated {
    /// From the start of the first pass to the end of the last.
    pub(crate) seconds: f64,
    /// The most bytes in slots at once.
    pub(crate) slots: Bytes,
}

/// Seconds per pass of a run of `passes`.
pub(crate) fn per_pass(steps: &[Step], passes: u64) -> f64 {
    let passes = passes.clamp(1, MOST_PASSES);
    #[allow(clippy::cast_precision_loss)] // a few
    let count = passes as f64;
    run(steps, passes, |_| {}).seconds / count
}

/// When everything happens in the first `passes` passes.
pub(crate) fn spans(steps: &[Step], passes: u64) -> Vec<Span> {
    let mut spans = Vec::new();
    run(steps, passes, |span| spans.push(span));
    spans
}

/// Runs `passes` passes; `tell` hears of everything that takes time.
pub(crate) fn run(steps: &[Step], passes: u64, mut tell: impl FnMut(Span)) -> Simulated {
    let mut state = State { only: steps.len() == 1, ..State::default() };
    for _ in 0..passes {
        for (group, step) in steps.iter().enumerate() {
            state.step(group, *step, &mut tell);
        }
    }
    Simulated { seconds: state.computed, slots: state.most }
}

/// When each lane is free again, and when the slots are.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    read: f64,
    copied: f64,
    computed: f64,
    /// When what was read last has left its place in main memory, oldest first.
    places: [f64; SLOTS],
    /// When what was copied last has been computed with, oldest first, and how much it was.
    slots: [(f64, Bytes); SLOTS],
    /// One group alone has one slot: there is no room to have it twice.
    only: bool,
    most: Bytes,
}

impl State {
    fn step(&mut self, group: usize, step: Step, tell: &mut impl FnMut(Span)) {
        let mut lane = |lane, start: f64, end: f64| {
            if end > start {
                tell(Span { lane, group, start: Seconds::new(start), end: Seconds::new(end) });
            }
        };
        let mut ready = 0.0_f64;
        if step.read > 0.0 {
            let start = self.read.max(self.places[0]);
            self.read = start + step.read;
            ready = self.read;
            lane(Lane::Disk, start, self.read);
        }
        if step.copy > 0.0 {
            let (oldest, latest) = (self.slots[0].0, self.slots[SLOTS - 1].0);
            let free = if self.only { latest } else { oldest };
            let start = self.copied.max(ready).max(free);
            self.copied = start + step.copy;
            ready = self.copied;
            lane(Lane::Link, start, self.copied);
            let held = self.slots.iter().filter(|(free, _)| *free > start);
            let held: Bytes = held.map(|(_, bytes)| *bytes).sum();
            self.most = self.most.max(held.saturating_add(step.slot));
        }
        let start = self.computed.max(ready);
        self.computed = start + step.compute;
        lane(Lane::Compute, start, self.computed);
        if step.read > 0.0 {
            // What is copied leaves main memory then; what the processor computes with stays until it has.
            let left = if step.copy > 0.0 { self.copied } else { self.computed };
            self.places = [self.places[1], left];
        }
        if step.copy > 0.0 {
            self.slots = [self.slots[1], (self.computed, step.slot)];
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn step(read: f64, copy: f64, compute: f64) -> Step {
        Step { read, copy, compute, slot: Bytes::mib(4) }
    }

    #[test]
    fn what_stays_takes_only_its_computing() {
        let simulated = run(&[step(0.0, 0.0, 2.0); 5], 3, |_| {});
        assert_eq!(simulated, Simulated { seconds: 30.0, slots: Bytes::ZERO });
    }

    #[test]
    fn copies_run_beside_computing_after_the_first() {
        // The first copy has nothing beside it; from then on computing is what takes longest.
        assert_eq!(run(&[step(0.0, 1.0, 2.0); 10], 1, |_| {}).seconds, 1.0 + 20.0);
        // Here copying is, and the last group is computed with alone.
        assert_eq!(run(&[step(0.0, 2.0, 1.0); 10], 1, |_| {}).seconds, 20.0 + 1.0);
    }

    #[test]
    fn the_next_pass_finds_its_first_groups_there() {
        let steps = [step(0.0, 1.0, 2.0); 10];
        assert_eq!(run(&steps, 3, |_| {}).seconds, 1.0 + 60.0);
    }

    #[test]
    fn two_slots_hold_two_groups_and_a_third_waits() {
        let steps = [step(0.0, 1.0, 10.0); 3];
        let copies: Vec<_> =
            spans(&steps, 1).into_iter().filter(|span| span.lane == Lane::Link).collect();
        let starts: Vec<f64> = copies.iter().map(|span| span.start.get()).collect();
        assert_eq!(
            starts,
            [0.0, 1.0, 11.0],
            "the third copy waits for the first group's computing"
        );
        assert_eq!(run(&steps, 1, |_| {}).slots, Bytes::mib(8));
    }

    #[test]
    fn the_slowest_way_decides() {
        let steps = [step(3.0, 2.0, 1.0); 100];
        assert_eq!(run(&steps, 1, |_| {}).seconds, 300.0 + 2.0 + 1.0);
    }

    fn any_steps() -> impl Strategy<Value = Vec<Step>> {
        let time = || prop_oneof![Just(0.0), 0.0..1.0_f64];
        let one =
            (time(), time(), 0.001..1.0_f64, 1..64_u64).prop_map(|(read, copy, compute, mib)| {
                Step { read, copy, compute, slot: Bytes::mib(mib) }
            });
        prop::collection::vec(one, 1..40)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn time_is_between_the_busiest_lane_and_all_of_them(
            steps in any_steps(), passes in 1..5_u64
        ) {
            let simulated = run(&steps, passes, |_| {});
            let sum = |pick: fn(&Step) -> f64| steps.iter().map(pick).sum::<f64>() * passes as f64;
            let busy = [sum(|one| one.read), sum(|one| one.copy), sum(|one| one.compute)];
            let most = busy.iter().copied().fold(0.0, f64::max);
            prop_assert!(simulated.seconds >= most - 1e-9);
            prop_assert!(simulated.seconds <= busy.iter().sum::<f64>() + 1e-9);
            let largest = steps.iter().map(|one| one.slot).max().unwrap();
            prop_assert!(simulated.slots <= largest.saturating_mul(2));
        }

        #[test]
        fn each_lane_does_one_thing_at_a_time_and_nothing_before_its_turn(steps in any_steps()) {
            let spans = spans(&steps, 2);
            for lane in [Lane::Disk, Lane::Link, Lane::Compute] {
                let own: Vec<_> = spans.iter().filter(|span| span.lane == lane).collect();
                prop_assert!(own.windows(2).all(|two| two[0].end <= two[1].start));
            }
            for pair in spans.windows(2).filter(|two| two[0].group == two[1].group) {
                prop_assert!(pair[0].lane >= pair[1].lane || pair[0].end <= pair[1].start);
            }
        }

        #[test]
        fn less_to_move_never_takes_longer(
            steps in any_steps(), share in 0.0..1.0_f64, passes in 1..200_u64
        ) {
            let less: Vec<_> = steps
                .iter()
                .map(|one| Step { read: one.read * share, copy: one.copy * share, ..*one })
                .collect();
            prop_assert!(per_pass(&less, passes) <= per_pass(&steps, passes) + 1e-9);
        }
    }
}
