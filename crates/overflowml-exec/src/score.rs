//! Log-probabilities of given tokens, from logits that come in tiles of the vocabulary.

use crate::maths::{SumExp, largest};
use crate::vector::Isa;

/// What is known of one token's distribution after some tiles.
///
/// Tiles lie at fixed places of the vocabulary, so that the result does not depend on how the head was
/// cut into blocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tally {
    /// The largest logit so far.
    maximum: f64,
    /// `Σ e^(logit - maximum)` so far.
    sum: f64,
    /// The logit of the token that followed.
    wanted: f64,
}

impl Tally {
    /// Before the first tile.
    pub(crate) const EMPTY: Self = Self { maximum: f64::NEG_INFINITY, sum: 0.0, wanted: f64::NAN };

    /// Takes the logits of the tokens from `first` on; `wanted` is the one that followed.
    pub(crate) fn add(&mut self, isa: Isa, logits: &[f32], first: usize, wanted: u32) {
        let highest = largest(logits);
        let maximum = self.maximum.max(f64::from(highest));
        let sum = isa.run(SumExp { x: logits, maximum: highest });
        self.sum =
            self.sum * (self.maximum - maximum).exp() + sum * (f64::from(highest) - maximum).exp();
        self.maximum = maximum;
        let index = (wanted as usize).checked_sub(first);
        if let Some(&logit) = index.and_then(|index| logits.get(index)) {
            self.wanted = f64::from(logit);
        }
    }

    /// The natural logarithm of the wanted token's probability.
    pub(crate) fn log_probability(&self) -> f32 {
        (self.wanted - self.maximum - self.sum.ln()) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_add_up_to_the_log_softmax_of_the_whole() {
        let logits: Vec<f32> = (0..1000).map(|i| ((i * 37 % 101) as f32).sin() * 20.0).collect();
        let sum: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
        for wanted in [0, 399, 400, 999] {
            let mut tally = Tally::EMPTY;
            for (tile, part) in logits.chunks(400).enumerate() {
                tally.add(Isa::detect(), part, tile * 400, wanted);
            }
            let expected = f64::from(logits[wanted as usize]) - sum.ln();
            assert!((f64::from(tally.log_probability()) - expected).abs() < 1e-5);
        }
    }

    #[test]
    fn a_logit_that_is_not_a_number_makes_the_result_none() {
        let mut tally = Tally::EMPTY;
        tally.add(Isa::detect(), &[0.0, f32::NAN, 1.0], 0, 2);
        assert!(tally.log_probability().is_nan());
    }
}
