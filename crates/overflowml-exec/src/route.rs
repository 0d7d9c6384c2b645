//! Which experts a token uses, and how much.

use overflowml_types::{ExpertGroups, RouterSpec, Scoring};

use crate::maths::exp;

/// An expert that a token uses, and what its result is multiplied by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Choice {
    pub(crate) expert: u32,
    pub(crate) weight: f32,
}

impl Choice {
    pub(crate) const NONE: Self = Self { expert: 0, weight: 0.0 };
}

/// Chooses for one token. `scores` is what the router says, `[experts]`, and overwritten; `keys` has room
/// for `[2 * experts]`; `chosen` is as long as a token uses experts. Of equals, the first is chosen.
pub(crate) fn choose(
    spec: &RouterSpec,
    correction: Option<&[f32]>,
    scores: &mut [f32],
    keys: &mut [f32],
    chosen: &mut [Choice],
) {
    match spec.scoring {
        Scoring::Softmax => softmax(scores),
        Scoring::SoftmaxOfChosen => {}
        Scoring::Sigmoid => {
            scores.iter_mut().for_each(|score| *score = 1.0 / (1.0 + exp::<false>(-*score)));
        }
    }
    let (keys, groups) = keys.split_at_mut(scores.len());
    keys.copy_from_slice(scores);
    for (key, correction) in keys.iter_mut().zip(correction.unwrap_or_default()) {
        *key += correction;
    }
    if let Some(rule) = spec.groups {
        keep_best_groups(rule, keys, groups);
    }
    for choice in chosen.iter_mut() {
        let expert = take_largest(keys);
        *choice = Choice { expert: expert as u32, weight: scores[expert] };
    }
    weigh(spec, chosen);
}

fn softmax(scores: &mut [f32]) {
    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    scores.iter_mut().for_each(|score| *score = exp::<false>(*score - largest));
    let sum: f32 = scores.iter().sum();
    scores.iter_mut().for_each(|score| *score /= sum);
}

/// The place of the largest, which is then passed over. A key that is not a number is never the largest.
fn take_largest(keys: &mut [f32]) -> usize {
    let mut best = 0;
    for (index, &key) in keys.iter().enumerate() {
        // Among taken ones only the first is looked at: all others are above minus infinity.
        if key > keys[best] || keys[best].is_nan() {
            best = index;
        }
    }
    keys[best] = f32::NEG_INFINITY;
    best
}

/// Passes over the experts of all groups but the best ones.
fn keep_best_groups(rule: ExpertGroups, keys: &mut [f32], scores: &mut [f32]) {
    let size = keys.len() / rule.count;
    let scores = &mut scores[..rule.count];
    for (score, group) in scores.iter_mut().zip(keys.chunks_exact(size)) {
        *score = sum_of_best(group, rule.best);
    }
    for _ in 0..rule.chosen {
        take_largest(scores);
    }
    for (score, group) in scores.iter().zip(keys.chunks_exact_mut(size)) {
        if *score != f32::NEG_INFINITY {
            group.fill(f32::NEG_INFINITY);
        }
    }
}

/// The largest of a group, or the sum of its two largest.
fn sum_of_best(group: &[f32], best: usize) -> f32 {
    let (mut first, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
    for &key in group {
        if key > first {
            (first, second) = (key, first);
        } else if key > second {
            second = key;
        }
    }
    if best == 1 { first } else { first + second }
}

fn weigh(spec: &RouterSpec, chosen: &mut [Choice]) {
    if spec.scoring == Scoring::SoftmaxOfChosen {
        let largest = chosen.iter().map(|it| it.weight).fold(f32::NEG_INFINITY, f32::max);
        chosen.iter_mut().for_each(|it| it.weight = exp::<false>(it.weight - largest));
    }
    if spec.normalise || spec.scoring == Scoring::SoftmaxOfChosen {
        // The small number is DeepSeek's; nothing else is changed by it.
        let sum = chosen.iter().map(|it| it.weight).sum::<f32>() + 1e-20;
        chosen.iter_mut().for_each(|it| it.weight /= sum);
    }
    chosen.iter_mut().for_each(|it| it.weight *= spec.scale);
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: RouterSpec = RouterSpec {
        scoring: Scoring::Softmax,
        normalise: false,
        scale: 1.0,
        groups: None,
        bias: false,
        correction: false,
    };

    fn chosen(spec: RouterSpec, correction: Option<&[f32]>, scores: &[f32]) -> Vec<(u32, f32)> {
        let mut chosen = [Choice::NONE; 2];
        let mut keys = vec![0.0; 2 * scores.len()];
        choose(&spec, correction, &mut scores.to_vec(), &mut keys, &mut chosen);
        chosen.map(|it| (it.expert, (it.weight * 1000.0).round() / 1000.0)).to_vec()
    }

    #[test]
    fn the_best_are_chosen_and_weighed_as_the_family_does() {
        let scores = [0.0, 2.0, 1.0, -1.0];
        // Of e^2 + e + 1 + e^-1.
        assert_eq!(chosen(PLAIN, None, &scores), [(1, 0.644), (2, 0.237)]);
        let normalised = RouterSpec { normalise: true, scale: 2.0, ..PLAIN };
        assert_eq!(chosen(normalised, None, &scores), [(1, 1.462), (2, 0.538)]);
        let of_chosen = RouterSpec { scoring: Scoring::SoftmaxOfChosen, ..PLAIN };
        assert_eq!(chosen(of_chosen, None, &scores), [(1, 0.731), (2, 0.269)]);
        let sigmoid = RouterSpec { scoring: Scoring::Sigmoid, ..PLAIN };
        assert_eq!(chosen(sigmoid, None, &scores), [(1, 0.881), (2, 0.731)]);
    }

    #[test]
    fn a_correction_changes_the_choice_but_not_the_weight() {
        let sigmoid = RouterSpec { scoring: Scoring::Sigmoid, ..PLAIN };
        let found = chosen(sigmoid, Some(&[0.0, 0.0, 0.0, 9.0]), &[0.0, 2.0, 1.0, -1.0]);
        assert_eq!(found, [(3, 0.269), (1, 0.881)]);
    }

    #[test]
    fn groups_are_chosen_by_their_best_experts() {
        let scores = [3.0, -9.0, 2.0, 1.9, 0.0, 0.0];
        let of = |best, chosen| {
            let groups = Some(ExpertGroups { count: 3, chosen, best });
            RouterSpec { groups, scoring: Scoring::SoftmaxOfChosen, ..PLAIN }
        };
        let experts = |spec| chosen(spec, None, &scores).into_iter().map(|it| it.0);
        assert!(experts(of(1, 1)).eq([0, 1]));
        assert!(experts(of(2, 1)).eq([2, 3]));
        assert!(experts(of(1, 2)).eq([0, 2]));
    }

    #[test]
    fn equals_are_chosen_first_to_last_and_what_is_no_number_last() {
        let of_chosen = RouterSpec { scoring: Scoring::SoftmaxOfChosen, ..PLAIN };
        assert_eq!(chosen(of_chosen, None, &[1.0, 1.0, 1.0]), [(0, 0.5), (1, 0.5)]);
        let found = chosen(of_chosen, None, &[f32::NAN, 1.0, 2.0]);
        assert_eq!([found[0].0, found[1].0], [2, 1]);
    }
}
