use std::cmp::Ordering;

/// How often and how lately something was used: every use counts 1, and half as much after every unit of time.
///
/// Stored as the logarithm of what the sum would have been at time 0, so that two of them can be compared without knowing
/// the time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Frecency(f64);

impl Frecency {
    /// Of something that was never used.
    pub(crate) const NEVER: Self = Self(f64::NEG_INFINITY);

    /// Counts `uses` at time `now`, which must not go back.
    pub(crate) fn add(&mut self, uses: f64, now: f64) {
        self.0 = ((self.0 - now).exp2() + uses).log2() + now;
    }

    /// The less used first.
    pub(crate) fn cmp(self, other: Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(uses: &[(f64, f64)]) -> Frecency {
        let mut frecency = Frecency::NEVER;
        uses.iter().for_each(|&(count, time)| frecency.add(count, time));
        frecency
    }

    #[test]
    fn frequent_and_late_use_count_more() {
        let [never, once, later] = [used(&[]), used(&[(1.0, 0.0)]), used(&[(1.0, 0.1)])];
        assert!(never.cmp(once).is_lt() && once.cmp(later).is_lt());
        let often = used(&[(1.0, 0.0), (1.0, 0.05)]);
        assert!(later.cmp(often).is_lt());
    }

    #[test]
    fn a_use_counts_half_after_each_unit_of_time() {
        let twice_long_ago = used(&[(2.0, 0.0)]);
        assert!(twice_long_ago.cmp(used(&[(1.0, 0.99)])).is_gt());
        assert!(twice_long_ago.cmp(used(&[(1.0, 1.01)])).is_lt());
        // Even after so long that the sum itself would have no number.
        assert!(used(&[(1.0, 0.0)]).cmp(used(&[(1.0, 5000.0)])).is_lt());
    }
}
