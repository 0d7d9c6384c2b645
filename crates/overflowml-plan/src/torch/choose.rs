//! From a request to a placement: precision by precision, component by component.

use overflowml_types::{Bytes, Seconds};

use super::answer::{Placed, Placement, Predicted, Skipped, StrategyName, Vae};
use super::blocks::{self, Residency};
use super::part::{Part, component, note, word};
use super::request::{Component, ComponentKind, PlaceRequest, Room, Source};
use super::time;
use crate::Infeasible;
use crate::device::{Offload, Precision};

/// A lower precision must be this much faster to be worth its risk.
const WORTH_IT: f64 = 0.9;

/// What of its activations a VAE needs when it works on tiles of a quarter of the picture.
const TILE: f64 = 0.25;

/// Chooses where every part of `request` goes, within `room`.
///
/// # Errors
/// [`Infeasible::TorchTooSmall`] if a component fits in no way; it names the smallest budget that works.
pub fn place(request: &PlaceRequest, room: &Room) -> Result<Placement, Infeasible> {
    let mut rejected = Vec::new();
    let mut best: Option<Plan> = None;
    let mut refused = None;
    for precision in precisions(request) {
        let job = Job { request, room, precision };
        match job.plan(&mut rejected) {
            Ok(plan) if best.as_ref().is_none_or(|so_far| replaces(&plan, so_far)) => {
                best = Some(plan)
            }
            Ok(_) => rejected.push(Skipped {
                what: word(precision).to_owned(),
                why: "it is not faster by a tenth than better weights".to_owned(),
            }),
            Err(error) => {
                rejected.push(Skipped { what: word(precision).to_owned(), why: error.to_string() });
                // What the lowest precision takes is the smallest budget.
                refused = Some(error);
            }
        }
    }
    match (best, refused) {
        (Some(plan), _) => Ok(plan.answer(request, rejected)),
        (None, Some(error)) => Err(error),
        (None, None) => Ok(Plan::nothing().answer(request, rejected)),
    }
}

/// What is allowed, best first; the stored precision always is.
fn precisions(request: &PlaceRequest) -> Vec<Precision> {
    let allowed = |precision: &Precision| {
        *precision == Precision::Exact
            || request.allow.iter().any(|one| one.precision() == *precision)
    };
    Precision::ALL.into_iter().filter(allowed).collect()
}

fn replaces(plan: &Plan, so_far: &Plan) -> bool {
    let settled = so_far.offload == Offload::None;
    !settled && plan.seconds < so_far.seconds * WORTH_IT
}

/// Bytes of an element, by its name in torch or here.
pub(super) fn element_size(dtype: &str) -> f64 {
    let ends = |word: &str| dtype.ends_with(word);
    match dtype {
        _ if ends("64") => 8.0,
        _ if ends("f32") || ends("float32") => 4.0,
        _ if dtype.contains("8") => 1.0,
        _ => 2.0,
    }
}

/// One request at one precision.
struct Job<'a> {
    request: &'a PlaceRequest,
    room: &'a Room,
    precision: Precision,
}

/// A way that fits.
struct Plan {
    offload: Offload,
    precision: Precision,
    parts: Vec<Part>,
    fast_peak: Bytes,
    host_peak: Bytes,
    /// Of a usual run.
    seconds: f64,
    seconds_per_pass: f64,
    load: f64,
    on_host: bool,
    tiling: bool,
}

impl Job<'_> {
    fn plan(&self, rejected: &mut Vec<Skipped>) -> Result<Plan, Infeasible> {
        let mut parts: Vec<Part> =
            self.request.components.iter().map(|component| self.part(component)).collect();
        let all: Bytes = parts.iter().map(Part::size).sum();
        let working = parts.iter().map(|part| part.activations).max().unwrap_or_default();
        let together = all.saturating_add(working);
        if together <= self.room.fast {
            return Ok(self.timed(parts, Offload::None));
        }
        let what = format!("{together} are needed at once, but {} can be used", self.room.fast);
        let together = Skipped { what: name(Offload::None, self.precision), why: what };
        rejected.push(together);
        let fast = self.beside_what_is_there(&parts, working)?;
        let turns = parts.len() > 1;
        for (part, component) in parts.iter_mut().zip(&self.request.components) {
            if !self.is_there(part) {
                self.alone(part, component, (turns, fast))?;
            }
        }
        let disk = self.keep_in_host(&mut parts)?;
        let offload = if disk { Offload::Disk } else { offload(&parts) };
        Ok(self.timed(parts, offload))
    }

    /// It is in the memory that computes, and nowhere else.
    fn is_there(&self, part: &Part) -> bool {
        self.on_host() && part.source == Source::Host
    }

    /// What can be used beside weights that are where they compute already.
    fn beside_what_is_there(&self, parts: &[Part], working: Bytes) -> Result<Bytes, Infeasible> {
        let there = || parts.iter().filter(|part| self.is_there(part));
        let taken: Bytes = there().map(Part::size).sum();
        let needed = taken.saturating_add(working);
        match there().max_by_key(|part| part.size()) {
            Some(largest) if needed > self.room.fast => Err(self.too_small(largest, needed)),
            _ => Ok(self.room.fast.left_after(taken)),
        }
    }

    /// A component at this precision, all of it where it computes.
    fn part(&self, component: &Component) -> Part {
        let keeps = component.kind == ComponentKind::Vae;
        let precision = if keeps { Precision::Exact } else { self.precision };
        let shrunk = |size: Bytes| shrink(size, &component.dtype, precision);
        let blocks: Vec<Bytes> = component.blocks().into_iter().map(shrunk).collect();
        Part {
            name: component.name.clone(),
            kind: component.kind,
            stacks: component.stacks.iter().map(|stack| stack.blocks.len()).collect(),
            mode: Placed::Resident,
            precision,
            residency: Residency::whole(blocks.len()),
            kept: vec![true; blocks.len()],
            fixed: component.fixed,
            activations: component.activations,
            tiled: false,
            source: component.source,
            blocks,
        }
    }

    /// Places a component as if it were alone.
    fn alone(
        &self,
        part: &mut Part,
        component: &Component,
        (turns, fast): (bool, Bytes),
    ) -> Result<(), Infeasible> {
        let fits = |part: &Part| part.fast() <= fast;
        if component.kind == ComponentKind::Vae && !fits(part) {
            part.tiled = true;
            part.activations = part.activations.share(TILE);
        }
        if fits(part) {
            part.mode = if turns { Placed::Component } else { Placed::Resident };
            return Ok(());
        }
        let needs = part.fixed.saturating_add(part.activations);
        let room = fast.get().checked_sub(needs.get()).map(Bytes::new);
        let seconds = |residency: &Residency| self.seconds(component, part, residency);
        let chosen = match room.filter(|_| !part.blocks.is_empty()) {
            Some(room) => blocks::choose(&part.blocks, room, seconds),
            None => Err(blocks::least(&part.blocks)),
        };
        match chosen {
            Ok(residency) => {
                part.mode = Placed::Stream;
                part.residency = residency;
                Ok(())
            }
            Err(least) => {
                let there = self.room.fast.left_after(fast);
                Err(self.too_small(part, needs.saturating_add(least).saturating_add(there)))
            }
        }
    }

    fn on_host(&self) -> bool {
        self.request.device.is_host()
    }

    fn too_small(&self, part: &Part, needed: Bytes) -> Infeasible {
        Infeasible::TorchTooSmall {
            component: part.name.clone(),
            memory: if self.on_host() { "main memory" } else { "device memory" },
            option: if self.on_host() { "ram" } else { "vram" },
            needed,
            available: self.room.fast,
        }
    }

    /// Decides which blocks main memory keeps between uses. Tells whether anything is read from disk for every pass.
    fn keep_in_host(&self, parts: &mut [Part]) -> Result<bool, Infeasible> {
        if self.on_host() {
            for part in parts.iter_mut() {
                part.kept = part.residency.stays.clone();
            }
            let streams =
                |part: &Part| part.source == Source::Disk && part.mode != Placed::Resident;
            return Ok(parts.iter().any(streams));
        }
        let turns = parts.len() > 1;
        // What is in main memory already is counted by what is available, but not by a stated budget.
        let counts = |part: &Part| part.source == Source::Disk || self.request.ram.is_some();
        let least = |part: &Part| match part.source {
            Source::Host => part.host_copy(turns),
            Source::Disk => part.least_host_copy(turns),
        };
        let needed: Bytes = parts.iter().filter(|part| counts(part)).map(least).sum();
        if needed > self.room.host {
            let largest = parts.iter().filter(|part| counts(part)).max_by_key(|part| least(part));
            return Err(Infeasible::TorchTooSmall {
                component: largest.map(|part| part.name.clone()).unwrap_or_default(),
                memory: "main memory",
                option: "ram",
                needed,
                available: self.room.host,
            });
        }
        let mut left = self.room.host.left_after(needed);
        let mut disk = false;
        // What runs most often is kept first.
        let runs = |part: &&mut Part| std::cmp::Reverse(self.passes(part.kind));
        let mut order: Vec<&mut Part> =
            parts.iter_mut().filter(|part| part.source == Source::Disk).collect();
        order.sort_by_key(runs);
        for part in order {
            let own = part.least_host_copy(turns);
            let room = left.saturating_add(own);
            if part.host_copy(turns) > room {
                disk = true;
                part.keep_some(room, turns);
            }
            left = room.left_after(part.host_copy(turns));
        }
        Ok(disk)
    }

    fn passes(&self, kind: ComponentKind) -> u64 {
        time::passes(kind, self.request.task, self.request.steps)
    }

    fn seconds(&self, component: &Component, part: &Part, residency: &Residency) -> f64 {
        let passes = self.passes(component.kind);
        let read: Vec<bool> = match self.on_host() {
            true => vec![part.source == Source::Disk; part.blocks.len()],
            false => part.kept.iter().map(|kept| !kept).collect(),
        };
        let how = (self.room.speeds, !self.on_host(), passes);
        time::pass(component, &part.blocks, residency, &read, how)
    }

    /// Adds up times and memory.
    fn timed(&self, parts: Vec<Part>, offload: Offload) -> Plan {
        let speeds = self.room.speeds;
        let turns = offload != Offload::None && parts.len() > 1;
        let (mut seconds, mut longest, mut per_pass, mut load) = (0.0, 0.0, 0.0, 0.0);
        for (part, component) in parts.iter().zip(&self.request.components) {
            let each = self.seconds(component, part, &part.residency);
            let passes = self.passes(component.kind);
            #[allow(clippy::cast_precision_loss)] // pass counts
            let all = each * passes as f64;
            let stays = part.fixed.saturating_add(part.residency.resident(&part.blocks));
            let rate = if self.on_host() { speeds.disk } else { speeds.link };
            let brought =
                if self.on_host() && part.source == Source::Host { Bytes::ZERO } else { stays };
            seconds += all + if turns { rate.time_for(brought).get() } else { 0.0 };
            if part.source == Source::Disk {
                load += speeds.disk.time_for(part.kept_size().saturating_add(part.fixed)).get();
            } else if !self.on_host() {
                load += speeds.link.time_for(stays).get();
            }
            if all > longest {
                (longest, per_pass) = (all, each);
            }
        }
        let fast_peak = self.fast_peak(&parts, offload);
        let host = |part: &Part| part.host_copy(turns);
        let host_peak = match (self.on_host(), offload) {
            (true, _) => fast_peak,
            (false, Offload::None) => Bytes::ZERO,
            (false, _) => parts.iter().map(host).sum(),
        };
        Plan {
            offload,
            precision: self.precision,
            tiling: parts.iter().any(|part| part.tiled),
            fast_peak,
            host_peak,
            seconds,
            seconds_per_pass: per_pass,
            load,
            on_host: self.on_host(),
            parts,
        }
    }

    fn fast_peak(&self, parts: &[Part], offload: Offload) -> Bytes {
        if offload == Offload::None {
            let working = parts.iter().map(|part| part.activations).max().unwrap_or_default();
            return parts.iter().map(Part::size).sum::<Bytes>().saturating_add(working);
        }
        let there = parts.iter().filter(|part| self.is_there(part)).map(Part::size).sum::<Bytes>();
        let coming = |part: &Part| if self.is_there(part) { part.activations } else { part.fast() };
        there.saturating_add(parts.iter().map(coming).max().unwrap_or_default())
    }
}

/// Weights of a lower precision, with their scales; never more than they were.
fn shrink(size: Bytes, dtype: &str, precision: Precision) -> Bytes {
    let bits = match precision {
        Precision::Exact => return size,
        Precision::Fp8 | Precision::Int8 => 8.25,
        Precision::Int4 => 4.5,
    };
    size.share(bits / (8.0 * element_size(dtype)))
}

fn offload(parts: &[Part]) -> Offload {
    if parts.iter().all(|part| part.mode == Placed::Resident) {
        return Offload::None;
    }
    // The largest of those that stream gives the name.
    let streaming = parts.iter().filter(|part| part.mode == Placed::Stream);
    match streaming.max_by_key(|part| part.size()) {
        None => Offload::ModelCpu,
        Some(part) if part.residency.stays.contains(&true) => Offload::LayerHybrid,
        Some(_) => Offload::SequentialCpu,
    }
}

fn name(offload: Offload, precision: Precision) -> String {
    match precision {
        Precision::Exact => offload.name().to_owned(),
        other => format!("{} + {}", offload.name(), other.name()),
    }
}

impl Plan {
    /// Of an object without weights.
    fn nothing() -> Self {
        Self {
            offload: Offload::None,
            precision: Precision::Exact,
            parts: Vec::new(),
            fast_peak: Bytes::ZERO,
            host_peak: Bytes::ZERO,
            seconds: 0.0,
            seconds_per_pass: 0.0,
            load: 0.0,
            on_host: true,
            tiling: false,
        }
    }

    fn answer(self, request: &PlaceRequest, rejected: Vec<Skipped>) -> Placement {
        let largest = request.components.iter().max_by_key(|component| component.size());
        Placement {
            strategy: StrategyName {
                offload: self.offload,
                quantization: self.precision,
                dtype: torch_name(largest.map_or("f32", |one| one.dtype.as_str())).to_owned(),
            },
            notes: self.parts.iter().map(|part| note(part, self.on_host)).collect(),
            vae: Vae { tiling: self.tiling, slicing: self.tiling },
            predicted: Predicted {
                vram_peak: if self.on_host { Bytes::ZERO } else { self.fast_peak },
                ram_peak: self.host_peak,
                seconds_per_pass: Seconds::new(self.seconds_per_pass),
                load_seconds: Seconds::new(self.load),
                total_seconds: Seconds::new(self.seconds),
            },
            components: self.parts.into_iter().map(component).collect(),
            rejected,
            warnings: Vec::new(),
        }
    }
}

/// A type as torch calls it.
fn torch_name(dtype: &str) -> &str {
    match dtype {
        "bf16" => "bfloat16",
        "f16" => "float16",
        "f32" => "float32",
        "f64" => "float64",
        "f8_e4m3" => "float8_e4m3fn",
        "f8_e5m2" => "float8_e5m2",
        "i8" => "int8",
        "u8" => "uint8",
        other => other,
    }
}
