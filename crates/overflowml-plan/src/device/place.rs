//! Places a model in every mode and precision: what fits becomes a candidate, what does not is rejected with
//! what it would take.

use overflowml_types::{Bytes, ModelProfile, Role, Seconds, Task};

use super::Wish;
use super::candidate::{
    Candidate, Estimate, MemoryUse, Offload, Precision, Rejected, Speed, StagePlan, StageUse, Unit,
    WhyNot,
};
use super::cost::{self, Part, Side, Split};
use super::resources::{Accelerator, Resources};
use super::stages::{Stage, stages};

/// A precision that saves less than this is not worth its risk.
const WORTH_IT: f64 = 0.95;

/// Every way that fits, and every way that does not.
pub(crate) fn candidates(
    model: &ModelProfile,
    resources: &Resources,
    wish: &Wish,
) -> (Vec<Candidate>, Vec<Rejected>) {
    let mut found = Found { candidates: Vec::new(), rejected: Vec::new() };
    let exact = stages(model, wish, Precision::Exact, false);
    let stored: Bytes = exact.iter().map(Stage::weights).sum();
    for precision in Precision::ALL {
        let variants = [false, true].map(|tiled| stages(model, wish, precision, tiled));
        let size: Bytes = variants[0].iter().map(Stage::weights).sum();
        let pointless = size.as_f64() > stored.as_f64() * WORTH_IT;
        let unwanted = if precision == Precision::Exact {
            None
        } else if !wish.quantize {
            Some(WhyNot::NotWanted { flag: "--no-quantize" })
        } else if pointless {
            let what = "the weights are stored in as few bits already".to_owned();
            Some(WhyNot::Pointless { what })
        } else {
            None
        };
        if let Some(why) = unwanted {
            let on_device = !resources.accelerators.is_empty();
            found.rejected.push(Rejected::new(Offload::None, precision, (on_device, 1), why));
            continue;
        }
        let job = Job { model, resources, wish, precision, variants };
        job.on_devices(&mut found);
        job.on_host(&mut found);
    }
    (found.candidates, found.rejected)
}

struct Found {
    candidates: Vec<Candidate>,
    rejected: Vec<Rejected>,
}

/// One model at one precision.
struct Job<'a> {
    model: &'a ModelProfile,
    resources: &'a Resources,
    wish: &'a Wish,
    precision: Precision,
    /// With the picture decoded whole, and in tiles.
    variants: [Vec<Stage>; 2],
}

/// Where every stage's weights are.
struct Placed {
    splits: Vec<Split>,
    /// Of what each stage has on the accelerator (or, without one, in main memory), the part that main memory keeps
    /// a copy of while other stages run; the rest is read from disk again.
    copies: Vec<Bytes>,
    /// Components take turns: their weights are brought in when their stage begins.
    turns: bool,
}

/// The accelerators that share the work.
#[derive(Clone, Copy)]
struct Cards<'a>(&'a [Accelerator]);

impl Cards<'_> {
    /// Room for weights beside what every card needs for itself.
    fn room(self, each: Bytes) -> Bytes {
        self.0.iter().map(|card| card.usable.left_after(each)).sum()
    }

    fn usable(self) -> Bytes {
        self.room(Bytes::ZERO)
    }
}

impl Job<'_> {
    fn on_devices(&self, found: &mut Found) {
        let all = &self.resources.accelerators;
        let Some(first) = all.first() else { return };
        if self.precision == Precision::Fp8 && !first.fp8 {
            let what = format!("{} does not compute with 8-bit floating point", first.name);
            let why = WhyNot::Unsupported { what };
            found.rejected.push(Rejected::new(Offload::None, self.precision, (true, 1), why));
            return;
        }
        let counts: &[usize] = if all.len() > 1 { &[1, all.len()] } else { &[1] };
        for &count in counts {
            let cards = Cards(&all[..count]);
            for mode in Offload::ALL {
                self.attempt(found, mode, (true, count), &|stages| {
                    self.on_cards(mode, cards, stages)
                });
            }
        }
    }

    fn on_host(&self, found: &mut Found) {
        if self.precision == Precision::Fp8 {
            return;
        }
        for mode in [Offload::None, Offload::Disk] {
            self.attempt(found, mode, (false, 1), &|stages| self.in_memory(mode, stages));
        }
    }

    /// Offers the faster of decoding pictures whole and in tiles; whole if there is no difference.
    fn attempt(
        &self,
        found: &mut Found,
        mode: Offload,
        on: (bool, usize),
        place: &dyn Fn(&[Stage]) -> Result<Placed, WhyNot>,
    ) {
        let has_vae = self.variants[0].iter().any(|stage| stage.role == Role::Vae);
        let tiles: &[bool] = if has_vae && self.wish.tile_vae { &[false, true] } else { &[false] };
        let mut best: Option<Candidate> = None;
        let mut refused = None;
        for &tiled in tiles {
            let stages = &self.variants[usize::from(tiled)];
            match place(stages) {
                Ok(placed) => {
                    let candidate = self.candidate(mode, on, stages, &placed, tiled);
                    let faster =
                        best.as_ref().is_none_or(|best| candidate.speed.total < best.speed.total);
                    if faster {
                        best = Some(candidate);
                    }
                }
                Err(why) => refused = Some(why),
            }
        }
        match (best, refused) {
            (Some(candidate), _) => found.candidates.push(candidate),
            (None, Some(why)) => found.rejected.push(Rejected::new(mode, self.precision, on, why)),
            (None, None) => {}
        }
    }

    fn on_cards(
        &self,
        mode: Offload,
        cards: Cards<'_>,
        stages: &[Stage],
    ) -> Result<Placed, WhyNot> {
        if self.resources.shared_pool && !matches!(mode, Offload::None | Offload::Disk) {
            let what =
                "GPU and processor share one memory: there is nowhere to offload to".to_owned();
            return Err(WhyNot::Pointless { what });
        }
        if mode == Offload::None {
            return direct(cards, stages);
        }
        if direct(cards, stages).is_ok() {
            let what = "everything fits on the GPU".to_owned();
            return Err(WhyNot::Pointless { what });
        }
        match mode {
            Offload::ModelCpu => self.take_turns(cards, stages),
            Offload::ExpertOffload => self.experts_in_memory(cards, stages),
            Offload::LayerHybrid => self.hybrid(cards, stages, true),
            Offload::SequentialCpu => self.hybrid(cards, stages, false),
            _ => self.over_disk(cards, stages),
        }
    }

    /// Each component alone on the accelerator.
    fn take_turns(&self, cards: Cards<'_>, stages: &[Stage]) -> Result<Placed, WhyNot> {
        if stages.len() < 2 {
            let what = "the model has only one component".to_owned();
            return Err(WhyNot::Pointless { what });
        }
        for stage in stages {
            let needed = stage.weights().saturating_add(stage.working);
            if stage.weights() > cards.room(stage.working) {
                return Err(no_room(stage, needed, cards));
            }
        }
        self.check_host(stages.iter().map(Stage::weights).sum())?;
        let on_device = |stage: &Stage| Split { device: whole(stage), ..Split::default() };
        let copies = stages.iter().map(Stage::weights).collect();
        Ok(Placed { splits: stages.iter().map(on_device).collect(), copies, turns: true })
    }

    /// As much of each component as there is room for while it runs (or nothing); the rest in main memory.
    fn hybrid(&self, cards: Cards<'_>, stages: &[Stage], stay: bool) -> Result<Placed, WhyNot> {
        if let (true, [only]) = (stay, stages)
            && !only.experts.is_zero()
            && only.dense <= room_for(only, cards)?
        {
            let what = "expert_offload does the same, experts last".to_owned();
            return Err(WhyNot::Pointless { what });
        }
        let turns = stages.len() > 1;
        let mut splits = Vec::new();
        for stage in stages {
            let room = room_for(stage, cards)?;
            let device = if stay { whole(stage).up_to(room) } else { Part::default() };
            splits.push(Split { device, host: whole(stage).less(device), disk: Part::default() });
        }
        let streams = splits.iter().any(|split| split.host != Part::default());
        let stays = splits.iter().any(|split| split.device != Part::default());
        let what = match (stay, streams, stays) {
            (true, false, _) => "every component fits alone: model_cpu does the same",
            (true, _, false) => "not one layer could stay: sequential_cpu does the same",
            _ => "",
        };
        if !what.is_empty() {
            return Err(WhyNot::Pointless { what: what.to_owned() });
        }
        let host = |(stage, split): (&Stage, &Split)| {
            if turns { stage.weights() } else { split.host.size() }
        };
        self.check_host(stages.iter().zip(&splits).map(host).sum())?;
        let copy = |split: &Split| if turns { split.device.size() } else { Bytes::ZERO };
        let copies = splits.iter().map(copy).collect();
        Ok(Placed { splits, copies, turns })
    }

    /// What every token uses on the accelerator, experts in main memory as far as they have to be.
    fn experts_in_memory(&self, cards: Cards<'_>, stages: &[Stage]) -> Result<Placed, WhyNot> {
        let [stage] = stages else {
            return Err(WhyNot::Pointless {
                what: "only language models route to experts".to_owned(),
            });
        };
        if stage.experts.is_zero() {
            return Err(WhyNot::Pointless { what: "the model has no experts".to_owned() });
        }
        let room = room_for(stage, cards)?;
        if stage.dense > room {
            let needed = stage.dense.saturating_add(stage.working).saturating_add(stage.slots());
            return Err(no_room(stage, needed, cards));
        }
        let device = whole(stage).up_to(room);
        let host = whole(stage).less(device);
        self.check_host(host.size())?;
        let split = Split { device, host, disk: Part::default() };
        Ok(Placed { splits: vec![split], copies: vec![Bytes::ZERO], turns: false })
    }

    /// What has room nowhere else is read from disk for every pass; what runs most often stays first.
    fn over_disk(&self, cards: Cards<'_>, stages: &[Stage]) -> Result<Placed, WhyNot> {
        let turns = stages.len() > 1;
        let mut splits = Vec::new();
        for stage in stages {
            let device = whole(stage).up_to(room_for(stage, cards)?);
            splits.push(Split { device, host: whole(stage).less(device), disk: Part::default() });
        }
        let mut host =
            if self.resources.shared_pool { Bytes::ZERO } else { self.resources.host.usable };
        let mut order: Vec<usize> = (0..stages.len()).collect();
        order.sort_by_key(|&index| {
            std::cmp::Reverse(stages[index].uses.iter().map(|one| one.passes).sum::<u64>())
        });
        let mut copies = vec![Bytes::ZERO; stages.len()];
        for index in order {
            let split = &mut splits[index];
            let kept = split.host.up_to(host);
            host = host.left_after(kept.size());
            (split.host, split.disk) = (kept, split.host.less(kept));
            // A component that takes turns is needed again.
            if turns {
                copies[index] = split.device.size().min(host);
                host = host.left_after(copies[index]);
            }
        }
        let all_kept = splits.iter().zip(&copies).all(|(split, &copy)| {
            split.disk == Part::default() && (!turns || copy == split.device.size())
        });
        if all_kept {
            let what = "main memory holds what the GPU does not".to_owned();
            return Err(WhyNot::Pointless { what });
        }
        Ok(Placed { splits, copies, turns })
    }

    /// On the processor.
    fn in_memory(&self, mode: Offload, stages: &[Stage]) -> Result<Placed, WhyNot> {
        let usable = self.resources.host.free.left_after(self.process());
        let all: Bytes = stages.iter().map(Stage::weights).sum();
        let working = stages.iter().map(|stage| stage.working).max().unwrap_or_default();
        let needed = all.saturating_add(working);
        if mode == Offload::None {
            if needed > usable {
                return Err(WhyNot::HostMemory { needed, available: usable });
            }
            let stays = |stage: &Stage| Split { host: whole(stage), ..Split::default() };
            let copies = vec![Bytes::ZERO; stages.len()];
            return Ok(Placed { splits: stages.iter().map(stays).collect(), copies, turns: false });
        }
        if needed <= usable {
            return Err(WhyNot::Pointless { what: "everything fits in main memory".to_owned() });
        }
        let mut splits = Vec::new();
        let turns = stages.len() > 1;
        for stage in stages {
            let fixed = stage.working.saturating_add(stage.slots_on_host());
            if fixed > usable {
                return Err(WhyNot::HostMemory { needed: fixed, available: usable });
            }
            let full = stage.weights().saturating_add(stage.working) <= usable;
            let room = if full { stage.weights() } else { usable.left_after(fixed) };
            let host = whole(stage).up_to(room);
            splits.push(Split { host, disk: whole(stage).less(host), device: Part::default() });
        }
        Ok(Placed { splits, copies: vec![Bytes::ZERO; stages.len()], turns })
    }

    /// What the process itself takes on the processor.
    fn process(&self) -> Bytes {
        self.resources.host.process(self.model.task == Task::Text)
    }

    fn check_host(&self, needed: Bytes) -> Result<(), WhyNot> {
        if needed > self.resources.host.usable { Err(self.no_memory(needed)) } else { Ok(()) }
    }

    fn no_memory(&self, needed: Bytes) -> WhyNot {
        WhyNot::HostMemory { needed, available: self.resources.host.usable }
    }

    /// Times and sizes of what was placed.
    fn candidate(
        &self,
        offload: Offload,
        (on_device, devices): (bool, usize),
        stages: &[Stage],
        placed: &Placed,
        tiled_vae: bool,
    ) -> Candidate {
        let host = &self.resources.host;
        let side = match self.resources.accelerators.first() {
            Some(card) if on_device => Side::Device(card, host),
            _ => Side::Host(host),
        };
        let plans: Vec<_> = stages
            .iter()
            .zip(placed.splits.iter().zip(&placed.copies))
            .map(|(stage, (&split, &copy))| {
                let again = if placed.turns { Some(copy) } else { None };
                self.stage_plan(side, stage, split, again)
            })
            .collect();
        let memory = self.memory(&plans, placed, on_device);
        let weights: Bytes = stages.iter().map(Stage::weights).sum();
        let load = host.disk.value.time_for(weights.left_after(memory.disk));
        Candidate {
            offload,
            quantization: self.precision,
            on_device,
            devices,
            speed: speed(self.model.task, self.wish, &plans, load, side),
            memory,
            stages: plans,
            quality_risk: self.precision.quality(),
            tiled_vae,
        }
    }

    /// `again` is the copy from which its weights come back when components take turns.
    fn stage_plan(
        &self,
        side: Side<'_>,
        stage: &Stage,
        split: Split,
        again: Option<Bytes>,
    ) -> StagePlan {
        let slots = match side {
            Side::Device(..) if split.host.size().saturating_add(split.disk.size()).is_zero() => {
                Bytes::ZERO
            }
            Side::Device(..) => stage.slots(),
            Side::Host(_) if split.disk.size().is_zero() => Bytes::ZERO,
            Side::Host(_) => stage.slots_on_host(),
        };
        let load = again.zip(stage.uses.first());
        let load = load.map(|(copy, &first)| cost::swap_in(side, stage, split, copy, first));
        let uses = stage.uses.iter().map(|&one| {
            let timed = cost::pass(side, stage, split, one);
            StageUse {
                what: one.what,
                passes: one.passes,
                seconds: timed.seconds,
                limited_by: timed.by,
                steps: timed.steps,
            }
        });
        StagePlan {
            component: stage.component.clone(),
            device: split.device.size(),
            host: split.host.size(),
            disk: split.disk.size(),
            slots,
            working: stage.working,
            load_seconds: load.unwrap_or_default(),
            uses: uses.collect(),
        }
    }

    /// The most in each tier: the largest stage if components take turns, else all weights and the largest need.
    fn memory(&self, plans: &[StagePlan], placed: &Placed, on_device: bool) -> MemoryUse {
        let each = plans.iter().zip(&placed.splits);
        let here = |split: &Split| if on_device { split.device.size() } else { split.host.size() };
        let kept: Bytes = placed.splits.iter().map(here).sum();
        let most = each.clone().map(|(stage, split)| {
            let weights = if placed.turns { here(split) } else { kept };
            (weights.saturating_add(stage.slots), stage.working)
        });
        let (weights, working) = most
            .max_by_key(|(weights, working)| weights.saturating_add(*working))
            .unwrap_or_default();
        let computing = around(weights, working);
        let disk = placed.splits.iter().map(|split| split.disk.size()).sum();
        let overhead = self.resources.host.overhead;
        if !on_device {
            let host = plus(computing, self.process());
            let none = Estimate { low: Bytes::ZERO, expected: Bytes::ZERO, high: Bytes::ZERO };
            return MemoryUse { device: none, host, disk };
        }
        let hosted: Bytes = placed.splits.iter().map(|split| split.host.size()).sum();
        let copied: Bytes = placed.copies.iter().copied().sum();
        let host = around(hosted.saturating_add(copied).saturating_add(overhead), Bytes::ZERO);
        MemoryUse { device: computing, host, disk }
    }
}

/// Everything at once, beside the largest need of any stage.
fn direct(cards: Cards<'_>, stages: &[Stage]) -> Result<Placed, WhyNot> {
    let all: Bytes = stages.iter().map(Stage::weights).sum();
    let working = stages.iter().map(|stage| stage.working).max().unwrap_or_default();
    if all > cards.room(working) {
        let largest = stages.iter().max_by_key(|stage| stage.weights());
        let component = match (stages.len(), largest) {
            (1, Some(stage)) => stage.component.clone(),
            _ => "all components together".to_owned(),
        };
        let needed = all.saturating_add(working);
        return Err(WhyNot::DeviceMemory { component, needed, available: cards.usable() });
    }
    let on_device = |stage: &Stage| Split { device: whole(stage), ..Split::default() };
    let copies = vec![Bytes::ZERO; stages.len()];
    Ok(Placed { splits: stages.iter().map(on_device).collect(), copies, turns: false })
}

/// Room for a stage's weights: all of them, or what is left beside two slots.
fn room_for(stage: &Stage, cards: Cards<'_>) -> Result<Bytes, WhyNot> {
    if stage.weights() <= cards.room(stage.working) {
        return Ok(stage.weights());
    }
    let fixed = stage.working.saturating_add(stage.slots());
    if cards.0.iter().all(|card| card.usable < fixed) {
        return Err(no_room(stage, fixed, cards));
    }
    Ok(cards.room(fixed))
}

fn no_room(stage: &Stage, needed: Bytes, cards: Cards<'_>) -> WhyNot {
    WhyNot::DeviceMemory { component: stage.component.clone(), needed, available: cards.usable() }
}

fn whole(stage: &Stage) -> Part {
    Part { dense: stage.dense, experts: stage.experts }
}

/// Weights are exact; what computing takes is known to within about a third.
fn around(weights: Bytes, working: Bytes) -> Estimate<Bytes> {
    Estimate {
        low: weights.saturating_add(working.share(0.7)),
        expected: weights.saturating_add(working),
        high: weights.saturating_add(working.saturating_add(working.share(0.35))),
    }
}

fn plus(estimate: Estimate<Bytes>, more: Bytes) -> Estimate<Bytes> {
    Estimate {
        low: estimate.low.saturating_add(more),
        expected: estimate.expected.saturating_add(more),
        high: estimate.high.saturating_add(more),
    }
}

/// Adds up a run.
#[allow(clippy::cast_precision_loss)] // pass counts
fn speed(task: Task, wish: &Wish, stages: &[StagePlan], load: Seconds, side: Side<'_>) -> Speed {
    let (unit, what, count) = match task {
        Task::Text => (Unit::Token, "token", wish.generate),
        Task::Image | Task::Video => (Unit::Step, "step", wish.steps),
        _ => (Unit::Input, "", 1),
    };
    let uses = || stages.iter().flat_map(|stage| &stage.uses);
    let swapped: f64 = stages.iter().map(|stage| stage.load_seconds.get()).sum();
    let time = |one: &StageUse| one.seconds.get() * one.passes as f64;
    let total = swapped + uses().map(time).sum::<f64>();
    let counted: f64 = uses().filter(|one| one.what == what).map(time).sum();
    let expected = if unit == Unit::Input { total } else { counted / count.max(1) as f64 };
    let longest = uses().max_by(|a, b| time(a).total_cmp(&time(b)));
    let limited_by = longest.map_or("compute", |one| one.limited_by);
    let (low, high) = if is_measured(side, limited_by) { (0.85, 1.2) } else { (0.6, 1.8) };
    let seconds = Estimate {
        low: Seconds::new(expected * low),
        expected: Seconds::new(expected),
        high: Seconds::new(expected * high),
    };
    Speed { unit, seconds, total: Seconds::new(total), load, limited_by }
}

/// Whether the rate that limits was timed on this machine.
fn is_measured(side: Side<'_>, limited_by: &str) -> bool {
    use overflowml_types::Basis::Measured;
    let (card, host) = match side {
        Side::Device(card, host) => (Some(card), host),
        Side::Host(host) => (None, host),
    };
    match (limited_by, card) {
        ("disk", _) => host.disk.basis == Measured,
        ("host memory", _) | ("memory", None) => host.memory.basis == Measured,
        ("processor", _) => host.flops.basis == Measured,
        ("link", Some(card)) => card.link.basis == Measured,
        ("memory", Some(card)) => card.memory.basis == Measured,
        ("compute", Some(card)) => card.flops.basis == Measured,
        _ => false,
    }
}
