//! The cache of a mixture's experts: how experts are cut into pieces, and how many stay in memory.
//!
//! A piece is what one slot holds. Which pieces stay is decided while the model runs, by which experts its
//! tokens choose; the plan decides how many of each layer may.

use std::collections::BTreeSet;

use overflowml_types::{Access, Bytes, PassWeight, WeightRole};
use serde::Serialize;

use crate::blocks::cut;
use crate::cost::schedule_bytes;
use crate::plan::Block;

/// Sizes of pieces to choose from, best first.
const TARGETS: [Bytes; 8] = [
    Bytes::mib(4),
    Bytes::mib(3),
    Bytes::mib(2),
    Bytes::mib(1),
    Bytes::kib(512),
    Bytes::kib(256),
    Bytes::kib(64),
    Bytes::kib(16),
];

/// More pieces than this would make the list itself large.
const MOST_PIECES: u64 = 60_000;

/// Slots beyond those of experts that stay: as many as keep the readers busy.
const SPARE: usize = 24;

/// Spare slots take at most this share of the room for experts.
const SPARE_SHARE: f64 = 0.125;

/// What can be read at all.
const FEWEST_SPARE: usize = 2;

/// Slots for pieces of experts: some keep what is used often, through the others passes what is not kept.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ExpertCache {
    /// Size of each slot: the largest piece and the alignment of direct reads.
    #[serde(rename = "slot_bytes")]
    pub slot: Bytes,
    /// Slots of pieces that stay, all layers together.
    pub kept: usize,
    /// Slots that others pass through.
    pub spare: usize,
    /// Layers that have experts.
    pub layers: usize,
    /// Every piece of every expert, in the order of the pass's list.
    #[serde(skip)]
    pub pieces: Vec<Block>,
}

impl ExpertCache {
    /// Bytes of all slots.
    pub fn size(&self) -> Bytes {
        self.slot.saturating_mul((self.kept + self.spare) as u64)
    }

    /// How many pieces the `nth` layer with experts may keep.
    pub const fn kept_in(&self, nth: usize) -> usize {
        let layers = if self.layers == 0 { 1 } else { self.layers };
        self.kept / layers + if nth < self.kept % layers { 1 } else { 0 }
    }

    /// The share of the experts' bytes that stays, 0 to 1.
    pub fn share(&self) -> f64 {
        #[allow(clippy::cast_precision_loss)] // far below 2^52
        let share = self.kept as f64 / self.pieces.len().max(1) as f64;
        share.min(1.0)
    }
}

/// Whether the model has experts at all.
pub(crate) fn has_experts(weights: &[PassWeight]) -> bool {
    weights.iter().any(|weight| weight.access == Access::Expert)
}

/// The cache that makes the most of `room`; `None` if it is too small for reading experts at speed.
pub(crate) fn cache(weights: &[PassWeight], room: Bytes) -> Option<ExpertCache> {
    let affordable = room.share(SPARE_SHARE);
    let of = |target: &Bytes| {
        let mut cache = passing(weights, *target)?;
        let most = (affordable.get() / cache.slot.get().max(1)).min(SPARE as u64);
        cache.spare = usize::try_from(most).unwrap_or(SPARE);
        let left = room.left_after(cache.size()).left_after(schedule_bytes(&cache.pieces));
        let kept = usize::try_from(left.get() / cache.slot.get().max(1)).unwrap_or(0);
        cache.kept = kept.min(cache.pieces.len());
        (cache.spare >= SPARE / 4).then_some(cache)
    };
    let caches = TARGETS.iter().filter_map(of);
    // Larger pieces are read faster, but count only if slots of their size hold about as much.
    let mut best: Option<(f64, ExpertCache)> = None;
    for cache in caches {
        let share = cache.share();
        if best.as_ref().is_none_or(|(most, _)| share > most * 1.08) {
            best = Some((share, cache));
        }
    }
    best.map(|(_, cache)| cache)
}

/// No cache, only slots for reading through, of at most `affordable` or as small as possible.
pub(crate) fn passage(weights: &[PassWeight], affordable: Bytes) -> Option<ExpertCache> {
    let with = |target: &Bytes, spare| {
        let cache = ExpertCache { spare, ..passing(weights, *target)? };
        let cost = cache.size().saturating_add(schedule_bytes(&cache.pieces));
        (cost <= affordable).then_some(cache)
    };
    let preferred = TARGETS.iter().find_map(|target| with(target, SPARE / 2));
    preferred.or_else(|| smallest(weights))
}

/// What the smallest [`passage`] takes.
pub(crate) fn smallest_passage(weights: &[PassWeight]) -> Bytes {
    smallest(weights).map_or(Bytes::ZERO, |cache| cost(&cache))
}

fn smallest(weights: &[PassWeight]) -> Option<ExpertCache> {
    let of =
        |target: &Bytes| Some(ExpertCache { spare: FEWEST_SPARE, ..passing(weights, *target)? });
    TARGETS.iter().filter_map(of).min_by_key(cost)
}

fn cost(cache: &ExpertCache) -> Bytes {
    cache.size().saturating_add(schedule_bytes(&cache.pieces))
}

/// Pieces of about `target`, without slots.
fn passing(weights: &[PassWeight], target: Bytes) -> Option<ExpertCache> {
    let experts = weights.iter().filter(|weight| weight.access == Access::Expert);
    let total: Bytes = experts.clone().map(|weight| weight.tensor.span.len).sum();
    let layer = |weight: &PassWeight| match weight.role {
        WeightRole::Expert(layer, ..) => Some(layer),
        _ => None,
    };
    let layers = experts.filter_map(layer).collect::<BTreeSet<_>>().len();
    let least = Bytes::new(total.get() / MOST_PIECES);
    let pieces = cut(weights, target.max(least), &[Access::Expert]);
    let slot = pieces.iter().map(|piece| piece.stored().len).max()?;
    Some(ExpertCache { slot, kept: 0, spare: 0, layers, pieces })
}

#[cfg(test)]
mod tests {
    use overflowml_types::{DType, ExpertPart, FileId, FileSpan, Tensor};

    use super::*;

    /// `layers` layers of `count` experts with three matrices of `rows` rows of 4 KiB each.
    fn weights(layers: u32, count: u32, rows: u64) -> Vec<PassWeight> {
        let mut weights = Vec::new();
        let mut offset = Bytes::new(100);
        for layer in 0..layers {
            for expert in 0..count {
                for part in [ExpertPart::Gate, ExpertPart::Up, ExpertPart::Down] {
                    let len = Bytes::kib(4 * rows);
                    let span = FileSpan { file: FileId(0), offset, len };
                    let (name, shape) = (String::new(), vec![rows, 2048]);
                    let tensor = Tensor { name, dtype: DType::BF16, shape, span };
                    let role = WeightRole::Expert(layer, expert, part);
                    weights.push(PassWeight { role, access: Access::Expert, tensor });
                    offset = offset.saturating_add(len);
                }
            }
        }
        weights
    }

    #[test]
    fn a_cache_fits_its_room_and_fills_it() {
        let weights = weights(4, 8, 700);
        for room in [24, 40, 77, 130, 200] {
            let room = Bytes::mib(room);
            let cache = cache(&weights, room).unwrap();
            let taken = cost(&cache);
            assert!(taken <= room, "{taken} of {room}");
            let all_kept = cache.kept == cache.pieces.len();
            assert!(all_kept || room.left_after(taken) < cache.slot, "{taken} of {room}");
            let kept: usize = (0..cache.layers).map(|nth| cache.kept_in(nth)).sum();
            assert_eq!((cache.layers, kept), (4, cache.kept));
        }
        assert_eq!(cache(&weights, Bytes::kib(64)), None);
    }

    #[test]
    fn more_room_keeps_no_less() {
        let weights = weights(3, 16, 500);
        let shares = (8..160).filter_map(|room| cache(&weights, Bytes::mib(room)));
        let shares: Vec<f64> = shares.map(|cache| cache.share()).collect();
        // Other sizes of pieces are taken where that is worth a twelfth.
        assert!(shares.windows(2).all(|pair| pair[1] >= pair[0] / 1.09), "{shares:?}");
        assert!(shares.len() > 100);
    }

    #[test]
    fn pieces_cover_every_row_once_whatever_their_size() {
        let weights = weights(2, 3, 333);
        for target in TARGETS {
            let cache = passing(&weights, target).unwrap();
            for (index, weight) in weights.iter().enumerate() {
                let mine = cache.pieces.iter().filter(|piece| piece.weight == index);
                assert_eq!(mine.map(|piece| piece.rows).sum::<u64>(), weight.rows());
            }
            assert!(cache.pieces.iter().all(|piece| piece.stored().len <= cache.slot));
        }
    }

    #[test]
    fn the_smallest_passage_is_what_is_said_of_it() {
        let weights = weights(2, 4, 300);
        let smallest = passage(&weights, Bytes::ZERO).unwrap();
        assert_eq!((smallest.kept, smallest.spare), (0, FEWEST_SPARE));
        assert_eq!(cost(&smallest), smallest_passage(&weights));
        let roomy = passage(&weights, Bytes::mib(500)).unwrap();
        assert!(roomy.slot > smallest.slot && roomy.spare > smallest.spare);
    }
}
