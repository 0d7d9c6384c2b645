//! What would help: memory that others hold, a shorter context, a cheaper cache.

use overflowml_types::{Bytes, CacheElement, Machine, ModelProfile, Seconds, Task};
use serde::Serialize;

use super::candidate::{Candidate, Offload, Precision, WhyNot};
use super::resources::Resources;
use super::{Wish, choose, place};

/// A change is worth a line if it saves this much time.
const WORTH_IT: f64 = 0.85;

/// What the user could change.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Advice {
    /// So much more free memory on the accelerator, which others hold now, and everything would fit there.
    #[serde(rename = "wait_for_bytes")]
    pub wait_for: Option<Bytes>,
    /// The most positions for which the recommended candidate still fits.
    pub largest_context: Option<u64>,
    /// Changes that make it fit, or faster, cheapest first.
    pub changes: Vec<Change>,
}

/// Something to change, and what it would give.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    /// In words, with the flag that does it.
    pub what: String,
    /// The candidate that would then be recommended.
    pub candidate: String,
    /// What one token, step or input would take.
    pub seconds: Seconds,
}

pub(crate) fn advise(
    model: &ModelProfile,
    machine: &Machine,
    wish: &Wish,
    chosen: Option<&Candidate>,
) -> Advice {
    Advice {
        wait_for: wait_for(model, machine, wish, chosen),
        largest_context: largest_context(model, machine, wish, chosen),
        changes: changes(model, machine, wish, chosen),
    }
}

fn wait_for(
    model: &ModelProfile,
    machine: &Machine,
    wish: &Wish,
    chosen: Option<&Candidate>,
) -> Option<Bytes> {
    let settled = |one: &Candidate| {
        one.is_resident() && one.on_device && one.quantization == Precision::Exact
    };
    if wish.vram.is_some() || chosen.is_some_and(settled) {
        return None;
    }
    let mut empty = machine.clone();
    for gpu in &mut empty.gpus {
        gpu.free = gpu.total.clone();
    }
    let fits_empty = direct(model, &empty, wish).is_ok();
    match direct(model, machine, wish) {
        Err(Some(missing)) if fits_empty => Some(missing),
        _ => None,
    }
}

/// Whether everything fits on the first accelerator as stored; what is missing if not.
fn direct(model: &ModelProfile, machine: &Machine, wish: &Wish) -> Result<(), Option<Bytes>> {
    let (fits, rejected) = place::candidates(model, &Resources::of(machine, wish), wish);
    let is_direct = |offload, precision, on_device, devices| {
        (offload, precision, on_device, devices) == (Offload::None, Precision::Exact, true, 1)
    };
    if fits.iter().any(|one| is_direct(one.offload, one.quantization, one.on_device, one.devices)) {
        return Ok(());
    }
    let why = rejected
        .into_iter()
        .find(|one| is_direct(one.offload, one.quantization, one.on_device, one.devices))
        .map(|one| one.why);
    match why {
        Some(WhyNot::DeviceMemory { needed, available, .. }) => {
            Err(Some(needed.left_after(available)))
        }
        _ => Err(None),
    }
}

/// By halving: more positions never take less.
fn largest_context(
    model: &ModelProfile,
    machine: &Machine,
    wish: &Wish,
    chosen: Option<&Candidate>,
) -> Option<u64> {
    let chosen = chosen?;
    let decoder = model.components.iter().find(|part| !part.caches.is_empty())?;
    let most = decoder.max_context?;
    let resources = Resources::of(machine, wish);
    let fits = |context: u64| {
        let wish = Wish { context: Some(context), ..wish.clone() };
        let (candidates, _) = place::candidates(model, &resources, &wish);
        candidates.iter().any(|one| {
            (one.offload, one.quantization, one.on_device, one.devices)
                == (chosen.offload, chosen.quantization, chosen.on_device, chosen.devices)
        })
    };
    let (mut low, mut high) = (wish.positions(), most.max(wish.positions()));
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if fits(middle) { low = middle } else { high = middle - 1 }
    }
    Some(low)
}

fn changes(
    model: &ModelProfile,
    machine: &Machine,
    wish: &Wish,
    chosen: Option<&Candidate>,
) -> Vec<Change> {
    let mut tried: Vec<(String, Wish)> = Vec::new();
    if model.task == Task::Text {
        if wish.kv == CacheElement::F16 {
            let kv = Wish { kv: CacheElement::Q8_0, ..wish.clone() };
            tried.push(("an 8-bit KV cache (`--kv q8_0`)".to_owned(), kv));
        }
        let half = wish.positions() / 2;
        if half > wish.prompt.saturating_add(wish.generate) {
            let shorter = Wish { context: Some(half), ..wish.clone() };
            tried.push((format!("half the context (`--context {half}`)"), shorter));
        }
    }
    if matches!(model.task, Task::Image | Task::Video) && wish.width.min(wish.height) > 512 {
        let (width, height) = (wish.width * 3 / 4 / 64 * 64, wish.height * 3 / 4 / 64 * 64);
        let smaller = Wish { width, height, ..wish.clone() };
        tried.push((format!("smaller pictures (`--size {width}x{height}`)"), smaller));
    }
    if !wish.quantize {
        let allowed = Wish { quantize: true, ..wish.clone() };
        tried.push(("a lower precision (without `--no-quantize`)".to_owned(), allowed));
    } else if !wish.fast {
        tried.push((
            "speed before precision (`--fast`)".to_owned(),
            Wish { fast: true, ..wish.clone() },
        ));
    }
    let better = |(what, wish): (String, Wish)| {
        let (mut candidates, _) = place::candidates(model, &Resources::of(machine, &wish), &wish);
        let best = choose::order(&mut candidates, &wish).map(|index| &candidates[index])?;
        let gain =
            chosen.is_none_or(|now| best.speed.total.get() < now.speed.total.get() * WORTH_IT);
        gain.then(|| Change { what, candidate: best.name(), seconds: best.speed.seconds.expected })
    };
    tried.into_iter().filter_map(better).collect()
}
