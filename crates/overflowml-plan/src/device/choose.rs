//! Which candidate is best: the fastest, at the best precision that does not cost much speed.

use super::candidate::{Candidate, Precision};
use super::{Decision, Wish};

/// A lower precision must be this much faster to be worth its risk.
const WORTH_IT: f64 = 0.9;

/// Puts candidates in order of preference. Returns the index of the first, if there is one.
///
/// From the best precision to the worst, the fastest candidate of each replaces the one so far only if it is more
/// than a tenth faster, and if the one so far has to move weights at all. With [`Wish::fast`] it need only be faster
/// by a tenth.
pub(crate) fn order(candidates: &mut [Candidate], wish: &Wish) -> Option<usize> {
    candidates.sort_by(|a, b| {
        let (a_time, b_time) = (a.speed.total.get(), b.speed.total.get());
        a_time
            .total_cmp(&b_time)
            .then(a.quantization.cmp(&b.quantization))
            .then(a.offload.cmp(&b.offload))
    });
    let mut best: Option<usize> = None;
    for precision in Precision::ALL {
        let fastest = candidates.iter().position(|one| one.quantization == precision);
        best = match (best, fastest) {
            (Some(so_far), Some(other))
                if replaces(&candidates[other], &candidates[so_far], wish) =>
            {
                Some(other)
            }
            (None, other) => other,
            (so_far, _) => so_far,
        };
    }
    let best = best?;
    candidates[..=best].rotate_right(1);
    Some(0)
}

fn replaces(other: &Candidate, so_far: &Candidate, wish: &Wish) -> bool {
    let settled = so_far.is_resident() && !wish.fast && (so_far.on_device || !other.on_device);
    !settled && other.speed.total.get() < so_far.speed.total.get() * WORTH_IT
}

/// The candidate that a decision recommends, with the most that may be moved: [`Offload`](super::Offload) in the
/// order of its variants.
pub fn choose(decision: &Decision, most: super::Offload) -> Option<&Candidate> {
    let level =
        |offload: super::Offload| super::Offload::ALL.iter().position(|one| *one == offload);
    decision.candidates.iter().find(|one| level(one.offload) <= level(most))
}
