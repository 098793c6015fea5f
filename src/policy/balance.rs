//! Which core is to have a new connection, if not the one that accepted it.
//!
//! The kernel spreads connections evenly, but they do not end evenly: streams and idle keep-alives pile up. A connection
//! moves once, before its first byte, and only over a margin: cores as unequal as chance makes them never pay for it.

use crate::base::limits::{HANDOFF_MARGIN_MIN, HANDOFF_MARGIN_SHARE};

/// The least loaded of the `others`, given by seat and load, if a core that has `own` connections and has just accepted
/// one more is above it by more than the margin.
pub fn hand_to(own: u64, others: impl IntoIterator<Item = (usize, u64)>) -> Option<usize> {
    let own = own + 1;
    // So few are within the margin of none: the others need not be looked at.
    if own <= HANDOFF_MARGIN_MIN {
        return None;
    }
    let (seat, least) = others.into_iter().min_by_key(|(_, load)| *load)?;
    (own > least + margin(least)).then_some(seat)
}

/// How many more than the least loaded core another may have.
fn margin(least: u64) -> u64 {
    HANDOFF_MARGIN_MIN.max(least / HANDOFF_MARGIN_SHARE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(own: u64, others: &[u64], expect: Option<usize>) {
        // Seats from 10 on, so that a seat is not taken for a place in the list.
        let others = others.iter().enumerate().map(|(place, load)| (10 + place, *load));
        assert_eq!(hand_to(own, others), expect);
    }

    #[test]
    fn only_what_is_above_the_margin_moves_and_to_the_least_loaded() {
        check(0, &[0], None);
        check(7, &[0], None);
        check(8, &[0], Some(10));
        check(8, &[1], None);
        check(9, &[1, 0, 0], Some(11));
        check(100, &[100, 100], None);
        check(107, &[100, 110], None);
        check(111, &[100, 110], None);
        check(112, &[100, 110], Some(10));
        check(112, &[110, 100], Some(11));
        check(16_000, &[15_000], None);
        check(16_000, &[14_000], Some(10));
        check(16_000, &[], None);
    }

    #[test]
    fn no_core_is_ever_further_ahead_than_the_margin() {
        // All connections are accepted by the first core and none ends.
        let mut loads = [0_u64; 4];
        for _ in 0..10_000 {
            let others = loads.iter().copied().enumerate().skip(1);
            loads[hand_to(loads[0], others).unwrap_or(0)] += 1;
            let least = loads.iter().copied().min().unwrap_or_default();
            assert!(loads.iter().all(|load| *load <= least + margin(least)), "{loads:?}");
        }
    }
}
