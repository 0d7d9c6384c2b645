//! Chooses the next token from logits, in transformers' order: repetition penalty, temperature, top-k,
//! top-p, min-p.

use std::cmp::Ordering;

use serde::Serialize;

use crate::error::ExecError;

/// How tokens are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Sampling {
    /// Divides the logits; 0 takes the likeliest token.
    pub temperature: f32,
    /// Only so many of the likeliest tokens; 0 is no limit.
    pub top_k: usize,
    /// Only the likeliest tokens that together have at least this probability; 1 is no limit.
    pub top_p: f32,
    /// Only tokens at least this likely, relative to the likeliest; 0 is no limit.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens that have occurred; 1 changes nothing.
    pub repetition_penalty: f32,
    /// The same seed, logits and settings choose the same tokens.
    pub seed: u64,
}

impl Sampling {
    /// Always the likeliest token.
    pub const fn greedy() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            seed: 0,
        }
    }

    fn check(&self) -> Result<(), ExecError> {
        let within =
            |value: f32, low: f32, high: f32| value.is_finite() && (low..=high).contains(&value);
        let bounds = [
            ("temperature", self.temperature, 0.0, 1e6),
            ("top_p", self.top_p, f32::MIN_POSITIVE, 1.0),
            ("min_p", self.min_p, 0.0, 1.0),
            ("repetition_penalty", self.repetition_penalty, 1e-6, 1e6),
        ];
        match bounds.into_iter().find(|&(_, value, low, high)| !within(value, low, high)) {
            Some((name, value, low, high)) => Err(ExecError::Sampling { name, value, low, high }),
            None => Ok(()),
        }
    }
}

/// Chooses tokens and remembers which have occurred.
#[derive(Clone, Debug)]
pub struct Sampler {
    sampling: Sampling,
    /// One bit per token of the vocabulary; empty without a penalty.
    occurred: Vec<u64>,
    candidates: Vec<Candidate>,
    random: SplitMix64,
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    /// The logit; later its weight relative to the likeliest.
    value: f32,
    token: u32,
}

impl Sampler {
    /// A sampler for a vocabulary of `vocab` tokens, of which `prompt` has occurred.
    ///
    /// # Errors
    /// [`ExecError::Sampling`] for a setting out of its range.
    pub fn new(sampling: Sampling, vocab: usize, prompt: &[u32]) -> Result<Self, ExecError> {
        sampling.check()?;
        let penalised = sampling.repetition_penalty != 1.0;
        let samples = sampling.temperature > 0.0;
        let mut sampler = Self {
            sampling,
            occurred: vec![0; if penalised { vocab.div_ceil(64) } else { 0 }],
            candidates: Vec::with_capacity(if samples { vocab } else { 0 }),
            random: SplitMix64(sampling.seed),
        };
        prompt.iter().for_each(|&token| sampler.note(token));
        Ok(sampler)
    }

    /// Chooses the next token from its logits, `[vocab]`, and remembers it.
    ///
    /// # Errors
    /// [`ExecError::TooFewTokens`] if there are no logits.
    pub fn choose(&mut self, logits: &[f32]) -> Result<u32, ExecError> {
        let token = if self.sampling.temperature > 0.0 {
            self.sample(logits)
        } else {
            self.likeliest(logits)
        };
        let token = token.ok_or(ExecError::TooFewTokens { given: 0, needed: 1 })?;
        self.note(token);
        Ok(token)
    }

    fn note(&mut self, token: u32) {
        if let Some(word) = self.occurred.get_mut(token as usize / 64) {
            *word |= 1 << (token % 64);
        }
    }

    fn penalised(&self, token: usize, logit: f32) -> f32 {
        let penalty = self.sampling.repetition_penalty;
        let occurred =
            self.occurred.get(token / 64).is_some_and(|word| word >> (token % 64) & 1 == 1);
        match (occurred, logit > 0.0) {
            (false, _) => logit,
            (true, true) => logit / penalty,
            (true, false) => logit * penalty,
        }
    }

    /// The first of the likeliest tokens.
    fn likeliest(&self, logits: &[f32]) -> Option<u32> {
        let mut best: Option<(usize, f32)> = None;
        for (token, &logit) in logits.iter().enumerate() {
            let logit = self.penalised(token, logit);
            if best.is_none_or(|(_, highest)| logit > highest) {
                best = Some((token, logit));
            }
        }
        best.map(|(token, _)| token as u32)
    }

    fn sample(&mut self, logits: &[f32]) -> Option<u32> {
        let mut candidates = std::mem::take(&mut self.candidates);
        candidates.clear();
        let of = |(token, &logit): (usize, &f32)| Candidate {
            value: self.penalised(token, logit),
            token: token as u32,
        };
        candidates.extend(logits.iter().enumerate().map(of));
        let token = self.sample_from(&mut candidates);
        self.candidates = candidates;
        token
    }

    fn sample_from(&mut self, candidates: &mut Vec<Candidate>) -> Option<u32> {
        let Sampling { temperature, top_k, top_p, min_p, .. } = self.sampling;
        if top_k > 0 && top_k < candidates.len() {
            candidates.select_nth_unstable_by(top_k - 1, likelier_first);
            candidates.truncate(top_k);
        }
        candidates.sort_unstable_by(likelier_first);
        let highest = candidates.first()?.value;
        for candidate in candidates.iter_mut() {
            candidate.value = ((candidate.value - highest) / temperature).exp();
        }
        keep_top_p(candidates, top_p);
        let likely_enough = candidates.partition_point(|candidate| candidate.value >= min_p);
        candidates.truncate(likely_enough.max(1));
        let total: f64 = candidates.iter().map(|candidate| f64::from(candidate.value)).sum();
        let mut left = self.random.fraction() * total;
        for candidate in candidates.iter() {
            left -= f64::from(candidate.value);
            if left < 0.0 {
                return Some(candidate.token);
            }
        }
        candidates.last().map(|candidate| candidate.token)
    }
}

/// By logit, and by token where logits are equal, so that the order is the same on every run.
fn likelier_first(a: &Candidate, b: &Candidate) -> Ordering {
    b.value.total_cmp(&a.value).then(a.token.cmp(&b.token))
}

/// Keeps the fewest likeliest candidates whose weights are `top_p` of all; at least one.
fn keep_top_p(candidates: &mut Vec<Candidate>, top_p: f32) {
    if top_p >= 1.0 {
        return;
    }
    let total: f64 = candidates.iter().map(|candidate| f64::from(candidate.value)).sum();
    let wanted = total * f64::from(top_p);
    let mut sum = 0.0;
    let enough = candidates.iter().position(|candidate| {
        sum += f64::from(candidate.value);
        sum >= wanted
    });
    if let Some(last) = enough {
        candidates.truncate(last + 1);
    }
}

/// Steele, Lea and Flood's generator: tiny, and the same numbers for a seed for ever.
#[derive(Clone, Debug)]
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 up to, but not including, 1.
    #[allow(clippy::cast_precision_loss)] // 53 bits fit
    fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 6] = [1.0, 3.0, 2.0, -1.0, 3.0, 0.5];

    fn counts(sampling: Sampling, draws: usize) -> [usize; 6] {
        let mut sampler = Sampler::new(sampling, 6, &[]).unwrap();
        let mut counts = [0; 6];
        (0..draws).for_each(|_| counts[sampler.choose(&LOGITS).unwrap() as usize] += 1);
        counts
    }

    fn warm() -> Sampling {
        Sampling { temperature: 1.0, ..Sampling::greedy() }
    }

    #[test]
    fn greedy_takes_the_first_of_the_likeliest() {
        assert_eq!(counts(Sampling::greedy(), 5), [0, 5, 0, 0, 0, 0]);
    }

    #[test]
    fn frequencies_follow_the_softmax_at_the_temperature() {
        for temperature in [0.5_f32, 1.0, 3.0] {
            let counts = counts(Sampling { temperature, ..warm() }, 40_000);
            let weights = LOGITS.map(|logit| f64::from(logit / temperature).exp());
            let total: f64 = weights.iter().sum();
            for (count, weight) in counts.iter().zip(weights) {
                let (p, n) = (weight / total, 40_000.0);
                let spread = 5.0 * (n * p * (1.0 - p)).sqrt() + 1.0;
                assert!((*count as f64 - n * p).abs() < spread, "{count} of {n}, p = {p}");
            }
        }
    }

    #[test]
    fn each_limit_excludes_what_it_should() {
        let used = |sampling| counts(sampling, 3000).map(|count| count > 0);
        let [f, t] = [false, true];
        assert_eq!(used(Sampling { top_k: 3, ..warm() }), [f, t, t, f, t, f]);
        // Probabilities: 0.384 twice, 0.141, 0.052, 0.031, 0.007.
        assert_eq!(used(Sampling { top_p: 0.7, ..warm() }), [f, t, f, f, t, f]);
        assert_eq!(used(Sampling { top_p: 0.9, ..warm() }), [f, t, t, f, t, f]);
        assert_eq!(used(Sampling { min_p: 0.3, ..warm() }), [f, t, t, f, t, f]);
        assert_eq!(used(Sampling { top_p: 1e-6, ..warm() }), [f, t, f, f, f, f]);
    }

    #[test]
    fn the_same_seed_gives_the_same_tokens_and_another_seed_others() {
        let draw = |seed| {
            let mut sampler = Sampler::new(Sampling { seed, ..warm() }, 6, &[]).unwrap();
            (0..40).map(|_| sampler.choose(&LOGITS).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn tokens_that_occurred_are_penalised_in_prompt_and_reply() {
        let sampling = Sampling { repetition_penalty: 4.0, ..Sampling::greedy() };
        let mut sampler = Sampler::new(sampling, 6, &[1]).unwrap();
        let chosen: Vec<u32> = (0..3).map(|_| sampler.choose(&LOGITS).unwrap()).collect();
        assert_eq!(chosen, [4, 2, 0]);
    }

    #[test]
    fn settings_out_of_range_are_named() {
        let wrong = Sampling { top_p: 1.5, ..warm() };
        let error = Sampler::new(wrong, 6, &[]).unwrap_err();
        assert_eq!(error.code(), "exec.sampling");
        assert!(error.to_string().contains("top_p"));
    }
}
