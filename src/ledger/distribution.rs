//! How a quantity was spread: a two-digit histogram, and its exact sum, which a histogram alone does not keep.

use hdrhistogram::Histogram;

/// A histogram that never refuses a value: what is above its range is counted as the most it can tell apart (the sum
/// stays exact).
#[derive(Clone, Debug, PartialEq)]
pub struct Distribution {
    histogram: Histogram<u64>,
    sum: u64,
}

impl Distribution {
    /// For values up to `max`, told apart to two decimal digits.
    ///
    /// # Panics
    /// If `max` is below 2, which is a constant's mistake.
    pub fn new(max: u64) -> Self {
        let histogram = Histogram::new_with_bounds(1, max, 2).expect("the bounds are constants, 2 or more");
        Self { histogram, sum: 0 }
    }

    pub fn record(&mut self, value: u64) {
        self.histogram.saturating_record(value);
        self.sum = self.sum.saturating_add(value);
    }

    /// Adds what `other` counted. Both were made with the same `max`.
    pub fn merge(&mut self, other: &Self) {
        let added = self.histogram.add(&other.histogram);
        debug_assert!(added.is_ok(), "distributions of one quantity have one range");
        self.sum = self.sum.saturating_add(other.sum);
    }

    pub fn clear(&mut self) {
        self.histogram.reset();
        self.sum = 0;
    }

    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    pub fn sum(&self) -> u64 {
        self.sum
    }

    pub fn quantile(&self, quantile: f64) -> u64 {
        self.histogram.value_at_quantile(quantile)
    }

    /// How many values were at most each of the ascending `bounds`, to the histogram's two digits.
    pub fn cumulative(&self, bounds: &[u64]) -> Vec<u64> {
        let mut below = vec![0; bounds.len()];
        for step in self.histogram.iter_recorded() {
            // The low end of the step, so that a value equal to a bound counts as at most that bound.
            let value = self.histogram.lowest_equivalent(step.value_iterated_to());
            let first = bounds.partition_point(|bound| *bound < value);
            if let Some(count) = below.get_mut(first) {
                *count += step.count_since_last_iteration();
            }
        }
        let mut sum = 0;
        for count in &mut below {
            sum += *count;
            *count = sum;
        }
        below
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::limits::{HISTOGRAM_TOKENS_MAX, HISTOGRAM_US_MAX};

    #[track_caller]
    fn check(values: &[u64], bounds: &[u64], expect: &[u64]) {
        let mut distribution = Distribution::new(HISTOGRAM_US_MAX);
        values.iter().for_each(|value| distribution.record(*value));
        assert_eq!(distribution.cumulative(bounds), expect);
        assert_eq!(distribution.count(), values.len() as u64);
    }

    #[test]
    fn a_value_on_a_bound_is_at_most_that_bound() {
        check(&[], &[1, 10], &[0, 0]);
        check(&[0, 1, 10, 11], &[1, 10, 100], &[2, 3, 4]);
        check(&[1_000, 2_500, 1_000_000], &[1_000, 2_500, 1_000_000], &[1, 2, 3]);
        check(&[5_000_000_000], &[1_000, 600_000_000], &[0, 0]);
    }

    #[test]
    fn the_sum_is_exact_even_beyond_the_range() {
        let mut distribution = Distribution::new(HISTOGRAM_TOKENS_MAX);
        distribution.record(1_001);
        distribution.record(HISTOGRAM_TOKENS_MAX * 10);
        assert_eq!(distribution.sum(), 1_001 + HISTOGRAM_TOKENS_MAX * 10);
        distribution.clear();
        assert_eq!(distribution, Distribution::new(HISTOGRAM_TOKENS_MAX));
    }

    #[test]
    fn a_histogram_of_times_costs_27_kilobytes() {
        let histogram = Distribution::new(HISTOGRAM_US_MAX).histogram;
        assert!(histogram.distinct_values() * size_of::<u64>() <= 27 << 10);
    }

    #[test]
    fn two_digits_are_kept() {
        let mut distribution = Distribution::new(HISTOGRAM_US_MAX);
        distribution.record(123_456);
        let seen = distribution.quantile(0.5).abs_diff(123_456);
        assert!(seen * 100 <= 123_456, "off by {seen}");
    }
}
