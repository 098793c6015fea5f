//! A budget in one word: which window it counts (16 bits) and what was used in it (48 bits).
//!
//! Windows are told apart by their low 16 bits: days since 1970 repeat after 179 years.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::{base::limits::BUDGET_MAX, policy::quota::Window};

const USED_BITS: u32 = 48;
const _: () = assert!(BUDGET_MAX == (1 << USED_BITS) - 1);

/// A slot's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Used {
    pub(super) window: u16,
    pub(super) amount: u64,
}

impl Used {
    pub(super) fn of(word: u64) -> Self {
        Self { window: u16::try_from(word >> USED_BITS).unwrap_or(0), amount: word & BUDGET_MAX }
    }

    pub(super) fn word(self) -> u64 {
        u64::from(self.window) << USED_BITS | self.amount.min(BUDGET_MAX)
    }

    /// What counts for somebody who draws in `window`.
    fn in_window(self, window: u16) -> Self {
        // The window just before the slot's: a core whose clock reads a moment behind at midnight. It counts with the
        // others. Any other window is a new one, be it because the clock was set back, and starts from zero.
        if window == self.window || window.wrapping_add(1) == self.window {
            self
        } else {
            Self { window, amount: 0 }
        }
    }
}

/// The bits of a window that a slot keeps.
pub(super) fn low(window: Window) -> u16 {
    u16::try_from(window.0 & 0xffff).unwrap_or(0)
}

// Relaxed throughout: a slot is read and changed as one, and nothing else is published by it.

pub(super) fn draw(slot: &AtomicU64, window: Window, most: u64, amount: u64) -> Option<u64> {
    // What the slot can't count is not there to be drawn: a full slot would grant for ever.
    let most = most.min(BUDGET_MAX);
    let mut word = slot.load(Relaxed);
    loop {
        let used = Used::of(word).in_window(low(window));
        let sum = used.amount.checked_add(amount).filter(|sum| *sum <= most)?;
        let next = Used { amount: sum, ..used };
        match slot.compare_exchange_weak(word, next.word(), Relaxed, Relaxed) {
            Ok(_) => return Some(most - sum),
            Err(newer) => word = newer,
        }
    }
}

pub(super) fn settle(slot: &AtomicU64, window: Window, most: u64, reserved: u64, used: u64) -> u64 {
    let most = most.min(BUDGET_MAX);
    let mut word = slot.load(Relaxed);
    loop {
        let now = Used::of(word);
        if now.window != low(window) || reserved == used {
            return most.saturating_sub(now.amount);
        }
        let amount = now.amount.saturating_sub(reserved.saturating_sub(used));
        let amount = amount.saturating_add(used.saturating_sub(reserved)).min(BUDGET_MAX);
        match slot.compare_exchange_weak(word, Used { amount, ..now }.word(), Relaxed, Relaxed) {
            Ok(_) => return most.saturating_sub(amount),
            Err(newer) => word = newer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_window_starts_from_zero_and_late_settles_change_nothing() {
        let slot = AtomicU64::new(0);
        assert_eq!(draw(&slot, Window(20_780), 100, 60), Some(40));
        assert_eq!(draw(&slot, Window(20_780), 100, 41), None);
        assert_eq!(draw(&slot, Window(20_781), 100, 90), Some(10));
        assert_eq!(settle(&slot, Window(20_780), 100, 60, 0), 10, "a day late");
        assert_eq!(settle(&slot, Window(20_781), 100, 90, 20), 80);
        assert_eq!(settle(&slot, Window(20_781), 100, 0, 300), 0, "a debt is counted");
        assert_eq!(draw(&slot, Window(20_781), 1_000, 1), Some(679));
    }

    #[test]
    fn a_core_that_is_behind_at_midnight_starts_nothing_anew() {
        let slot = AtomicU64::new(0);
        assert_eq!(draw(&slot, Window(8), 100, 70), Some(30));
        assert_eq!(draw(&slot, Window(7), 100, 40), None);
        assert_eq!(draw(&slot, Window(7), 100, 10), Some(20));
        assert_eq!(Used::of(slot.load(Relaxed)), Used { window: 8, amount: 80 });
        assert_eq!(draw(&slot, Window(5), 100, 100), Some(0), "a clock that was set back");
    }

    #[test]
    fn a_full_slot_grants_nothing() {
        let slot = AtomicU64::new(0);
        assert_eq!(draw(&slot, Window(1), u64::MAX, BUDGET_MAX), Some(0));
        assert_eq!(draw(&slot, Window(1), u64::MAX, 1), None);
        assert_eq!(settle(&slot, Window(1), u64::MAX, 0, u64::MAX), 0);
        assert_eq!(draw(&slot, Window(1), u64::MAX, 1), None);
        assert_eq!(draw(&slot, Window(1), u64::MAX, u64::MAX), None);
        assert_eq!(settle(&slot, Window(1), u64::MAX, u64::MAX, 0), BUDGET_MAX);
    }
}
