//! Counts of the last ten seconds in five words: how many, and how many of them.
//!
//! A word is one bucket of two seconds and knows which: one that is older counts nothing and is begun anew by whoever writes
//! it next. Every function is pure; whoever keeps the words swaps them.

use crate::base::now::Now;

/// Buckets of a window, each in a word of its own.
pub const BUCKETS: usize = 5;
/// How long a bucket is written to; all of them make ten seconds.
const BUCKET_NS: u64 = 2_000_000_000;

const EPOCH_BITS: u32 = 24;
const PART_BITS: u32 = 20;
const EPOCH_MASK: u64 = (1 << EPOCH_BITS) - 1;
const PART_MASK: u64 = (1 << PART_BITS) - 1;

/// One of something that is counted, as it is added to a word of its own time.
// The total stands highest: half a million a second for one target would run over the top, and spoil no neighbour.
pub const TOTAL: u64 = 1 << (EPOCH_BITS + PART_BITS);
/// One of the part of them, for which [`TOTAL`] is not counted by itself.
pub const PART: u64 = 1 << EPOCH_BITS;

/// Sums over a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    pub total: u64,
    pub part: u64,
}

/// Which word is written at a time.
pub fn place(now: Now) -> usize {
    usize::try_from(now.0 / BUCKET_NS % BUCKETS as u64).unwrap_or(0)
}

/// Whether a word is the bucket of this time, so that [`TOTAL`] and [`PART`] may be added to it.
pub fn is_current(word: u64, now: Now) -> bool {
    word & EPOCH_MASK == epoch(now)
}

/// The bucket of this time, empty.
pub fn begun(now: Now) -> u64 {
    epoch(now)
}

/// What all words of a window hold that is no older than ten seconds.
pub fn sums(words: [u64; BUCKETS], now: Now) -> Sums {
    let mut sums = Sums::default();
    for word in words {
        // Modulo the numbers that fit: a word is read at the latest a year after it was written.
        if epoch(now).wrapping_sub(word) & EPOCH_MASK < BUCKETS as u64 {
            sums.total += word >> (EPOCH_BITS + PART_BITS);
            sums.part += word >> EPOCH_BITS & PART_MASK;
        }
    }
    sums
}

/// From 1 on: a word of zeros is no bucket of the first seconds.
fn epoch(now: Now) -> u64 {
    (now.0 / BUCKET_NS + BUCKETS as u64) & EPOCH_MASK
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::json::mutate::Chance;

    fn add(words: &mut [u64; BUCKETS], now: Now, what: u64) {
        let word = &mut words[place(now)];
        if !is_current(*word, now) {
            *word = begun(now);
        }
        *word += what;
    }

    #[test]
    fn a_window_agrees_with_a_list_of_events() {
        let mut chance = Chance::seeded(7);
        let mut words = [0; BUCKETS];
        let mut events: Vec<(u64, bool)> = Vec::new();
        let mut now = Now(0);
        for _ in 0..20_000 {
            now.0 += match chance.below(40) {
                0 => chance.below(30) as u64 * 1_000_000_000,
                _ => chance.below(200) as u64 * 1_000_000,
            };
            let is_part = chance.below(3) == 0;
            add(&mut words, now, TOTAL + u64::from(is_part) * PART);
            events.push((now.0 / BUCKET_NS, is_part));
            let recent = events.iter().rev().take_while(|(at, _)| at + BUCKETS as u64 > now.0 / BUCKET_NS);
            let (mut total, mut part) = (0, 0);
            for (_, is_part) in recent {
                total += 1;
                part += u64::from(*is_part);
            }
            assert_eq!(sums(words, now), Sums { total, part });
        }
    }

    #[test]
    fn an_unwritten_window_is_empty_at_any_time() {
        for now in [0, 1, BUCKET_NS * 4, BUCKET_NS * 5, u64::MAX / 2] {
            let empty = sums([0; BUCKETS], Now(now));
            assert_eq!(empty, Sums::default());
            assert!(!is_current(0, Now(now)));
        }
    }
}
