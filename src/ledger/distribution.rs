//! How a quantity was spread: a two-digit histogram that costs memory only where values fell, and its exact sum, which a
//! histogram alone does not keep.
//!
//! The steps are those of HDR histograms of two significant digits: 128 to each power of two, so that a value is known to
//! one part in 128. The crate's own keep all 3,328 counts, 27 KB, and there is one of these for each quantity and series:
//! here 32 steps are a page, and a page is there once something fell into it. Values that belong together share a few.

use crate::{
    base::limits::HISTOGRAM_MAX,
    ledger::varint::{Reader, write},
};

/// Steps of one page: 256 bytes.
const PAGE_STEPS: usize = 32;
/// Pages of all steps up to 32 bits: each power of two above the first 256 values has 128.
const PAGES: usize = (256 + 24 * 128) / PAGE_STEPS;
const _: () = assert!(PAGES < u8::MAX as usize && HISTOGRAM_MAX == u32::MAX as u64);

/// A histogram that never refuses a value: what is above [`HISTOGRAM_MAX`] is counted as that much (the sum stays exact).
#[derive(Clone, Debug)]
pub struct Distribution {
    count: u64,
    sum: u64,
    // One for each place that is not zero.
    pages: Vec<[u64; PAGE_STEPS]>,
    /// Where a page lies in `pages`, and one; zero: nowhere. Out of the way, for it is as long as two lines of the
    /// processor's cache, and a value mostly falls where the one before fell.
    places: Option<Box<[u8; PAGES]>>,
    /// The place that was last asked for, or [`NO_PLACE`], and where its page lies in `pages`.
    last_place: u8,
    last_page: u8,
}

const NO_PLACE: u8 = u8::MAX;

impl Distribution {
    pub const fn new() -> Self {
        Self { count: 0, sum: 0, pages: Vec::new(), places: None, last_place: NO_PLACE, last_page: 0 }
    }

    #[inline]
    pub fn record(&mut self, value: u64) {
        self.add(step(value), 1);
        self.sum = self.sum.saturating_add(value);
    }

    pub fn merge(&mut self, other: &Self) {
        for (place, page) in other.pages() {
            for (sum, count) in self.page(place).iter_mut().zip(page) {
                *sum = sum.saturating_add(*count);
            }
        }
        self.count = self.count.saturating_add(other.count);
        self.sum = self.sum.saturating_add(other.sum);
    }

    /// Forgets what was counted. Pages stay while they are few, so that the next interval allocates none.
    pub fn clear(&mut self) {
        if self.pages.len() > PAGES / 4 {
            *self = Self::new();
        }
        for page in &mut self.pages {
            *page = [0; PAGE_STEPS];
        }
        (self.count, self.sum) = (0, 0);
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// The value that this part of all values (0 to 1) does not exceed, to two digits; zero if there is none.
    pub fn quantile(&self, quantile: f64) -> u64 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 0 and the count"
        )]
        let rank = ((quantile.clamp(0.0, 1.0) * self.count as f64).ceil() as u64).max(1);
        let mut below = 0;
        for (step, count) in self.steps() {
            below += count;
            if below >= rank {
                return if quantile <= 0.0 { lowest(step) } else { highest(step) };
            }
        }
        0
    }

    /// How many values were at most each of the ascending `bounds`, to two digits.
    pub fn cumulative(&self, bounds: &[u64]) -> Vec<u64> {
        let mut below = vec![0; bounds.len()];
        for (step, count) in self.steps() {
            // The low end of the step, so that a value equal to a bound counts as at most that bound.
            let first = bounds.partition_point(|bound| *bound < lowest(step));
            if let Some(sum) = below.get_mut(first) {
                *sum += count;
            }
        }
        let mut sum = 0;
        for count in &mut below {
            sum += *count;
            *count = sum;
        }
        below
    }

    /// Appends it as bytes: the sum, how many steps, then each as its distance from the one before and its count.
    pub fn encode(&self, bytes: &mut Vec<u8>) {
        write(bytes, self.sum);
        write(bytes, self.steps().count() as u64);
        let mut before = 0;
        for (step, count) in self.steps() {
            write(bytes, (step - before) as u64);
            write(bytes, count);
            before = step;
        }
    }

    /// The other way round; `None` for what [`encode`](Self::encode) never writes.
    pub fn decode(bytes: &mut Reader<'_>) -> Option<Self> {
        let mut decoded = Self::new();
        let sum = bytes.number()?;
        let mut next = 0_usize;
        for index in 0..bytes.number()? {
            let distance = usize::try_from(bytes.number()?).ok()?;
            let count = bytes.number()?;
            next = next.checked_add(distance)?;
            let repeats = index > 0 && distance == 0;
            if next >= PAGES * PAGE_STEPS || count == 0 || repeats {
                return None;
            }
            decoded.count.checked_add(count)?;
            decoded.add(next, count);
        }
        decoded.sum = sum;
        Some(decoded)
    }

    /// Every step into which something fell, ascending, with how many.
    fn steps(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        self.pages().flat_map(|(place, page)| {
            let counted = page.iter().enumerate().filter(|(_, count)| **count > 0);
            counted.map(move |(index, count)| (place * PAGE_STEPS + index, *count))
        })
    }

    /// Pages in order of their steps.
    fn pages(&self) -> impl Iterator<Item = (usize, &[u64; PAGE_STEPS])> + '_ {
        self.places.iter().flat_map(|places| places.iter().enumerate()).filter_map(|(place, at)| {
            let at = usize::from(*at).checked_sub(1)?;
            Some((place, self.pages.get(at)?))
        })
    }

    #[inline]
    fn add(&mut self, step: usize, count: u64) {
        let sum = &mut self.page(step / PAGE_STEPS)[step % PAGE_STEPS];
        *sum = sum.saturating_add(count);
        self.count = self.count.saturating_add(count);
    }

    #[inline]
    fn page(&mut self, place: usize) -> &mut [u64; PAGE_STEPS] {
        if usize::from(self.last_place) != place {
            self.turn_to(place.min(PAGES - 1));
        }
        &mut self.pages[usize::from(self.last_page)]
    }

    /// Finds the page of a place that is not the last one, or begins it.
    fn turn_to(&mut self, place: usize) {
        let at = &mut self.places.get_or_insert_with(|| Box::new([0; PAGES]))[place];
        if *at == 0 {
            self.pages.push([0; PAGE_STEPS]);
            *at = u8::try_from(self.pages.len()).unwrap_or(u8::MAX);
        }
        self.last_page = *at - 1;
        self.last_place = u8::try_from(place).unwrap_or(NO_PLACE);
    }
}

impl Default for Distribution {
    fn default() -> Self {
        Self::new()
    }
}

/// Pages that are empty, and the order in which they came, are nobody's business.
impl PartialEq for Distribution {
    fn eq(&self, other: &Self) -> bool {
        (self.count, self.sum) == (other.count, other.sum) && self.steps().eq(other.steps())
    }
}

/// Where a value is counted: the first 256 each by itself, then 128 steps to each power of two.
fn step(value: u64) -> usize {
    let value = value.min(HISTOGRAM_MAX);
    let shift = (value | 0xff).ilog2() - 7;
    // At most 24 * 128 + 255.
    shift as usize * 128 + (value >> shift) as usize
}

/// The least value of a step.
fn lowest(step: usize) -> u64 {
    let shift = (step / 128).saturating_sub(1);
    ((step - shift * 128) as u64) << shift
}

/// The greatest value of a step.
fn highest(step: usize) -> u64 {
    lowest(step + 1) - 1
}

#[cfg(test)]
mod tests {
    use hdrhistogram::Histogram;
    use proptest::prelude::*;

    use super::*;

    fn of(values: &[u64]) -> Distribution {
        let mut distribution = Distribution::new();
        values.iter().for_each(|value| distribution.record(*value));
        distribution
    }

    /// Values of every size, many of them alike.
    fn values() -> impl Strategy<Value = Vec<u64>> {
        let value =
            prop_oneof![0..300_u64, 10_000..12_000_u64, any::<u32>().prop_map(u64::from), any::<u64>()];
        prop::collection::vec(value, 0..200)
    }

    #[track_caller]
    fn check(values: &[u64], bounds: &[u64], expect: &[u64]) {
        let distribution = of(values);
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
    fn steps_touch_and_each_value_is_in_its_own() {
        assert_eq!((step(0), step(255), step(256), step(257), step(258)), (0, 255, 256, 256, 257));
        assert_eq!(step(u64::MAX), step(HISTOGRAM_MAX));
        for number in 0..PAGES * PAGE_STEPS {
            assert_eq!(highest(number) + 1, lowest(number + 1));
            if highest(number) <= HISTOGRAM_MAX {
                assert_eq!((step(lowest(number)), step(highest(number))), (number, number));
            }
        }
    }

    #[test]
    fn the_sum_is_exact_even_beyond_the_range() {
        let mut distribution = of(&[1_001, HISTOGRAM_MAX * 10]);
        assert_eq!(distribution.sum(), 1_001 + HISTOGRAM_MAX * 10);
        distribution.clear();
        assert_eq!(distribution, Distribution::new());
    }

    #[test]
    fn values_that_belong_together_cost_a_few_pages_and_no_values_none() {
        assert_eq!(size_of::<Distribution>(), 56);
        let close: Vec<_> = (0..10_000).map(|n| 20_000 + n % 2_000).collect();
        assert!(of(&close).pages.len() <= 2, "{}", of(&close).pages.len());
        assert_eq!((Distribution::new().pages.capacity(), Distribution::new().places), (0, None));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn quantiles_are_those_of_an_hdr_histogram(values in values()) {
            let mut twin = Histogram::<u64>::new_with_bounds(1, HISTOGRAM_MAX, 2).expect("bounds");
            values.iter().for_each(|value| twin.saturating_record(*value));
            let distribution = of(&values);
            for quantile in [0.0, 0.01, 0.5, 0.9, 0.99, 0.999, 1.0] {
                prop_assert_eq!(distribution.quantile(quantile), twin.value_at_quantile(quantile));
            }
        }

        #[test]
        fn what_is_merged_in_any_order_is_what_was_recorded_at_once(a in values(), b in values(), c in values()) {
            let whole = of(&[a.clone(), b.clone(), c.clone()].concat());
            let (a, b, c) = (of(&a), of(&b), of(&c));
            let merged = |parts: &[&Distribution]| {
                let mut sum = Distribution::new();
                parts.iter().for_each(|part| sum.merge(part));
                sum
            };
            prop_assert_eq!(&merged(&[&a, &b, &c]), &whole);
            prop_assert_eq!(&merged(&[&c, &a, &b]), &whole);
            prop_assert_eq!(&merged(&[&a, &merged(&[&b, &c])]), &whole);
            prop_assert_eq!(merged(&[&a, &b, &c]).quantile(0.95), whole.quantile(0.95));
        }

        #[test]
        fn what_is_written_is_read_again(values in values()) {
            let distribution = of(&values);
            let mut bytes = Vec::new();
            distribution.encode(&mut bytes);
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(Distribution::decode(&mut reader), Some(distribution));
            prop_assert!(reader.is_empty());
            for cut in 0..bytes.len() {
                prop_assert_eq!(Distribution::decode(&mut Reader::new(&bytes[..cut])), None);
            }
        }
    }

    #[test]
    fn what_was_never_written_is_not_read() {
        let read = |numbers: &[u64]| {
            let mut bytes = Vec::new();
            numbers.iter().for_each(|number| write(&mut bytes, *number));
            Distribution::decode(&mut Reader::new(&bytes))
        };
        assert_eq!(read(&[7, 1, 7, 1]), Some(of(&[7])));
        assert_eq!(read(&[7, 1, 7, 0]), None, "a step of none");
        assert_eq!(read(&[7, 2, 7, 1, 0, 1]), None, "a step twice");
        assert_eq!(read(&[7, 1, 3_328, 1]), None, "no such step");
        assert_eq!(read(&[7, 2, 1, u64::MAX, 1, 1]), None, "more than can be counted");
    }
}
