//! A table of counts by key that cannot grow without bound, and never loses a count: what finds no row is counted
//! under the key's `OTHER`.

use crate::base::limits::SERIES_MAX;

/// A key of [`Counts`].
pub trait CountKey: Ord + Copy {
    /// Stands for every key that came when the table was full.
    const OTHER: Self;

    /// A small number that few of the keys in use share.
    fn hint(self) -> usize {
        0
    }
}

impl CountKey for &'static str {
    const OTHER: Self = "other";
}

/// Counts by key. Invariant: rows are sorted by key, no key twice, at most [`SERIES_MAX`] rows, of which one place is
/// kept for `OTHER`.
#[derive(Clone, Debug)]
pub struct Counts<K> {
    rows: Vec<(K, u64)>,
    /// Where to look first, by the key's hint: where one with that hint was last time. Never trusted: rows may have moved since.
    recent: [u16; RECENT],
}

/// Keys that are found at once: the few of which nearly all counts are.
const RECENT: usize = 16;
const _: () = assert!(SERIES_MAX <= u16::MAX as usize);

impl<K: CountKey> Counts<K> {
    pub const fn new() -> Self {
        Self { rows: Vec::new(), recent: [0; RECENT] }
    }

    #[inline]
    pub fn add(&mut self, key: K, count: u64) {
        let recent = usize::from(self.recent[key.hint() % RECENT]);
        match self.rows.get_mut(recent) {
            Some((known, sum)) if *known == key => *sum = sum.saturating_add(count),
            _ => self.search(key, count),
        }
    }

    fn search(&mut self, key: K, count: u64) {
        match self.find(key) {
            Ok(row) => {
                self.recent[key.hint() % RECENT] = u16::try_from(row).unwrap_or(0);
                self.bump(row, count);
            }
            Err(place) if self.rows.len() < SERIES_MAX - 1 => self.rows.insert(place, (key, count)),
            Err(_) => match self.find(K::OTHER) {
                Ok(row) => self.bump(row, count),
                Err(place) => self.rows.insert(place, (K::OTHER, count)),
            },
        }
    }

    pub fn merge(&mut self, other: &Self) {
        for (key, count) in other.iter() {
            self.add(key, count);
        }
    }

    /// Forgets the counts. Keys stay while they are few, so that a busy core does not sort them in anew each second.
    pub fn clear(&mut self) {
        if self.rows.len() > SERIES_MAX / 2 {
            self.rows.clear();
        }
        for (_, count) in &mut self.rows {
            *count = 0;
        }
    }

    /// Every count above zero, in order of the keys.
    pub fn iter(&self) -> impl Iterator<Item = (K, u64)> + '_ {
        self.rows.iter().copied().filter(|(_, count)| *count > 0)
    }

    /// The count of one key.
    pub fn of(&self, key: K) -> u64 {
        self.find(key).ok().and_then(|row| self.rows.get(row)).map_or(0, |(_, count)| *count)
    }

    pub fn total(&self) -> u64 {
        self.rows.iter().map(|(_, count)| count).sum()
    }

    fn find(&self, key: K) -> Result<usize, usize> {
        self.rows.binary_search_by(|(known, _)| known.cmp(&key))
    }

    fn bump(&mut self, row: usize, count: u64) {
        if let Some((_, sum)) = self.rows.get_mut(row) {
            *sum = sum.saturating_add(count);
        }
    }
}

impl<K: CountKey> Default for Counts<K> {
    fn default() -> Self {
        Self::new()
    }
}

/// A row of zero is no row.
impl<K: CountKey> PartialEq for Counts<K> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl CountKey for u64 {
        const OTHER: Self = Self::MAX;
    }

    #[test]
    fn counts_by_key_in_order() {
        let mut counts = Counts::new();
        for key in ["b", "a", "b", "c"] {
            counts.add(key, 2);
        }
        assert_eq!(counts.iter().collect::<Vec<_>>(), [("a", 2), ("b", 4), ("c", 2)]);
        assert_eq!((counts.of("b"), counts.of("z"), counts.total()), (4, 0, 8));
    }

    #[test]
    fn a_full_table_counts_the_rest_as_other_and_loses_nothing() {
        let mut counts = Counts::new();
        for key in 0..3 * SERIES_MAX as u64 {
            counts.add(key, 1);
        }
        assert_eq!(counts.rows.len(), SERIES_MAX);
        assert_eq!(counts.total(), 3 * SERIES_MAX as u64);
        assert_eq!(counts.of(u64::MAX), 2 * SERIES_MAX as u64 + 1);
        counts.add(5, 1);
        assert_eq!(counts.of(5), 2, "known keys are still told apart");

        let mut merged = counts.clone();
        merged.merge(&counts);
        assert_eq!((merged.rows.len(), merged.total()), (SERIES_MAX, 2 * counts.total()));
    }

    #[test]
    fn a_row_is_found_wherever_others_have_moved_it() {
        let mut counts = Counts::new();
        // Every key has the same hint, and each new one moves those before it.
        for round in 1..=3 {
            for key in (0..40_u64).rev() {
                counts.add(key, 1);
                counts.add(key, key);
                assert_eq!(counts.of(key), (key + 1) * round);
            }
        }
        assert_eq!(counts.rows.len(), 40);
        counts.clear();
        counts.add(7, 1);
        assert_eq!(counts.iter().collect::<Vec<_>>(), [(7, 1)]);
    }

    #[test]
    fn a_cleared_table_equals_a_new_one() {
        let mut counts = Counts::new();
        counts.add("a", 1);
        counts.clear();
        assert!(counts == Counts::new());
        assert_eq!(counts.iter().count(), 0);
    }
}
