//! Which blocks stay: exact sizes, spread evenly, slots no larger than what rotates.

use overflowml_types::Bytes;

/// Slots through which blocks rotate: one in use, one being filled.
const SLOTS: usize = 2;

/// At most so many sizes of slots are tried.
const SIZES: usize = 16;

/// Which blocks stay, and the slots of the others.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Residency {
    pub(super) stays: Vec<bool>,
    pub(super) slots: usize,
    /// Size of each slot: the largest block that rotates.
    pub(super) slot: Bytes,
}

impl Residency {
    /// Every block stays.
    pub(super) fn whole(blocks: usize) -> Self {
        Self { stays: vec![true; blocks], slots: 0, slot: Bytes::ZERO }
    }

    /// Bytes of the blocks that stay.
    pub(super) fn resident(&self, blocks: &[Bytes]) -> Bytes {
        let staying = blocks.iter().zip(&self.stays).filter(|(_, stays)| **stays);
        staying.map(|(size, _)| *size).sum()
    }

    /// Memory of the slots.
    pub(super) fn ring(&self) -> Bytes {
        self.slot.saturating_mul(self.slots as u64)
    }
}

/// The fastest choice within `room`, of those that differ in how large a block may be to rotate.
///
/// `seconds` times a choice.
///
/// # Errors
/// The least room with which there is a choice.
pub(super) fn choose(
    blocks: &[Bytes],
    room: Bytes,
    seconds: impl Fn(&Residency) -> f64,
) -> Result<Residency, Bytes> {
    let mut best: Option<(f64, Residency)> = None;
    for largest in limits(blocks) {
        let Some(one) = within(blocks, room, largest) else { continue };
        let time = seconds(&one);
        if best.as_ref().is_none_or(|(fastest, _)| time < *fastest) {
            best = Some((time, one));
        }
    }
    best.map(|(_, one)| one).ok_or_else(|| least(blocks))
}

/// The least room that some choice takes.
pub(super) fn least(blocks: &[Bytes]) -> Bytes {
    let base = |largest| base(blocks, largest).2;
    sizes(blocks).into_iter().map(base).min().unwrap_or_default()
}

/// What blocks may be at most to rotate: every size there is, or some of them, the least room among them.
fn limits(blocks: &[Bytes]) -> Vec<Bytes> {
    let sizes = sizes(blocks);
    if sizes.len() <= SIZES {
        return sizes;
    }
    let thriftiest = sizes.iter().copied().min_by_key(|&largest| base(blocks, largest).2);
    let step = sizes.len().div_ceil(SIZES);
    sizes.iter().copied().step_by(step).chain(thriftiest).collect()
}

/// The different sizes, largest first.
fn sizes(blocks: &[Bytes]) -> Vec<Bytes> {
    let mut sizes = blocks.to_vec();
    sizes.sort_unstable_by(|a, b| b.cmp(a));
    sizes.dedup();
    sizes
}

/// Of blocks of which none above `largest` rotates: how many may, in how many slots, and what everything else takes.
fn base(blocks: &[Bytes], largest: Bytes) -> (usize, usize, Bytes) {
    let rotating = blocks.iter().filter(|size| **size <= largest).count();
    let stay: Bytes = blocks.iter().filter(|size| **size > largest).copied().sum();
    let slots = SLOTS.min(rotating);
    (rotating, slots, stay.saturating_add(largest.saturating_mul(slots as u64)))
}

/// As many blocks as `room` has for, evenly spread, where none above `largest` rotates.
fn within(blocks: &[Bytes], room: Bytes, largest: Bytes) -> Option<Residency> {
    let (rotating, slots, base) = base(blocks, largest);
    let left = room.get().checked_sub(base.get()).map(Bytes::new)?;
    let candidates: Vec<usize> =
        (0..blocks.len()).filter(|&index| blocks[index] <= largest).collect();
    let chosen = (0..=rotating)
        .rev()
        .map(|count| spread(&candidates, count))
        .find(|chosen| chosen.iter().map(|&index| blocks[index]).sum::<Bytes>() <= left)?;
    let mut stays: Vec<bool> = blocks.iter().map(|size| *size > largest).collect();
    chosen.iter().for_each(|&index| stays[index] = true);
    let used = chosen.iter().map(|&index| blocks[index]).sum();
    fill(blocks, &mut stays, left.left_after(used));
    let slot = rotating_sizes(blocks, &stays).max().unwrap_or_default();
    let slots = slots.min(rotating_sizes(blocks, &stays).count());
    Some(Residency { stays, slots, slot })
}

fn rotating_sizes<'a>(blocks: &'a [Bytes], stays: &'a [bool]) -> impl Iterator<Item = Bytes> + 'a {
    blocks.iter().zip(stays).filter(|(_, stays)| !**stays).map(|(size, _)| *size)
}

/// `count` of `candidates`, at equal distances.
fn spread(candidates: &[usize], count: usize) -> Vec<usize> {
    let all = candidates.len();
    let begins = |place: &usize| (place + 1) * count / all > place * count / all;
    (0..all).filter(begins).map(|place| candidates[place]).collect()
}

/// Uses up what is left, the largest first.
fn fill(blocks: &[Bytes], stays: &mut [bool], mut left: Bytes) {
    let mut order: Vec<usize> = (0..blocks.len()).filter(|&index| !stays[index]).collect();
    order.sort_by_key(|&index| std::cmp::Reverse(blocks[index]));
    for index in order {
        if blocks[index] <= left {
            stays[index] = true;
            left = left.left_after(blocks[index]);
        }
    }
}
