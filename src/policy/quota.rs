//! What admission asks of the counts that all cores share, and all it asks.
//!
//! `bridge::quota` answers with one board for the process; a simulation answers with plain cells. Every method is one step
//! that no other core can divide; none waits.

use crate::{
    base::{ids::Line, now::Now},
    config::allowance::{Measure, Rate},
};

/// How far a limit is from being reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// What could be spent at once.
    pub remaining: u64,
    /// Until nothing would be spent any more.
    pub reset_ns: u64,
}

/// Not now: the same amount would be granted after so long, if nobody else came first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    pub ns: u64,
    pub level: Level,
}

/// Which calendar day or month a budget is counted in: another number, another count from zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window(pub u32);

/// The counts of every limited key.
pub trait Quota {
    /// Spends `amount` of a rate, or nothing. An amount above the burst is granted only when nothing is spent, and then
    /// delays what follows: a request larger than a limit is slow, not impossible.
    fn spend(&self, line: Line, measure: Measure, rate: Rate, amount: u64, now: Now) -> Result<Level, Wait>;

    /// Corrects what was spent: `used` turned out to be the amount, and not `reserved`. Never refuses: a debt delays others.
    fn settle(&self, line: Line, measure: Measure, rate: Rate, reserved: u64, used: u64, now: Now) -> Level;

    /// One more at the same time, unless there are `most` already. Each `true` is owed one [`Quota::leave`].
    fn enter(&self, line: Line, measure: Measure, most: u32) -> bool;

    fn leave(&self, line: Line, measure: Measure);

    /// Takes `amount` out of a budget, or nothing; what remains of it.
    fn draw(&self, line: Line, measure: Measure, window: Window, most: u64, amount: u64) -> Option<u64>;

    /// Corrects what was drawn; what remains. A correction for a window that has passed changes nothing.
    fn settle_budget(
        &self,
        line: Line,
        measure: Measure,
        window: Window,
        most: u64,
        reserved: u64,
        used: u64,
    ) -> u64;

    /// One number for a key that no configuration names: what is limited (`scope`), and which of it. Nobody outside can
    /// foresee it, so nobody can choose names that share a line.
    fn key(&self, scope: &str, name: &[u8]) -> u64;

    /// The line of a key that no configuration names: an address, a model, a metadata value. It stays that key's until it
    /// is let go. Where there is no room, keys share one line, which is stricter than a line each, and counted.
    fn hold(&self, key: u64, now: Now) -> Line;

    /// Lets go of what [`Quota::hold`] gave; its counts stay as long as they mean anything.
    fn let_go(&self, line: Line);
}

/// Plain cells for one thread: what tests and the simulation count in.
#[cfg(test)]
pub(crate) mod cells {
    use std::{cell::RefCell, collections::HashMap};

    use super::{Level, Line, Measure, Now, Quota, Rate, Wait, Window};
    use crate::policy::rate::Pace;

    #[derive(Default)]
    pub(crate) struct Cells {
        horizons: RefCell<HashMap<(Line, Measure), u64>>,
        places: RefCell<HashMap<(Line, Measure), u32>>,
        budgets: RefCell<HashMap<(Line, Measure), (Window, u64)>>,
        /// How often each line is held.
        held: RefCell<HashMap<Line, u32>>,
    }

    /// Lines above this stand for keys that no configuration names.
    const DYNAMIC: u32 = 1 << 31;

    impl Cells {
        /// Whether everybody has left and nothing is held.
        pub(crate) fn is_quiet(&self) -> bool {
            self.places.borrow().values().all(|count| *count == 0)
                && self.held.borrow().values().all(|count| *count == 0)
        }

        pub(crate) fn level(&self, line: Line, measure: Measure, rate: Rate, now: Now) -> Level {
            Pace::of(rate).level(self.horizons.borrow().get(&(line, measure)).copied().unwrap_or(0), now)
        }

        fn check_held(&self, line: Line) {
            let held = self.held.borrow().get(&line).copied().unwrap_or(0);
            assert!(line.0 < DYNAMIC || held > 0, "a line is used while it is held, and not longer");
        }
    }

    impl Quota for Cells {
        fn spend(
            &self,
            line: Line,
            measure: Measure,
            rate: Rate,
            amount: u64,
            now: Now,
        ) -> Result<Level, Wait> {
            self.check_held(line);
            let mut horizons = self.horizons.borrow_mut();
            let horizon = horizons.entry((line, measure)).or_default();
            *horizon = Pace::of(rate).spend(*horizon, amount, now)?;
            Ok(Pace::of(rate).level(*horizon, now))
        }

        fn settle(
            &self,
            line: Line,
            measure: Measure,
            rate: Rate,
            reserved: u64,
            used: u64,
            now: Now,
        ) -> Level {
            self.check_held(line);
            let mut horizons = self.horizons.borrow_mut();
            let horizon = horizons.entry((line, measure)).or_default();
            *horizon = Pace::of(rate).settle(*horizon, reserved, used, now);
            Pace::of(rate).level(*horizon, now)
        }

        fn enter(&self, line: Line, measure: Measure, most: u32) -> bool {
            self.check_held(line);
            let mut places = self.places.borrow_mut();
            let count = places.entry((line, measure)).or_default();
            let enters = *count < most;
            *count += u32::from(enters);
            enters
        }

        fn leave(&self, line: Line, measure: Measure) {
            self.check_held(line);
            let mut places = self.places.borrow_mut();
            let count = places.get_mut(&(line, measure)).expect("who leaves has entered");
            *count = count.checked_sub(1).expect("who leaves has entered");
        }

        fn draw(&self, line: Line, measure: Measure, window: Window, most: u64, amount: u64) -> Option<u64> {
            let mut budgets = self.budgets.borrow_mut();
            let (counted, used) = budgets.entry((line, measure)).or_insert((window, 0));
            if *counted != window {
                (*counted, *used) = (window, 0);
            }
            let next = used.checked_add(amount).filter(|next| *next <= most)?;
            *used = next;
            Some(most - next)
        }

        fn settle_budget(
            &self,
            line: Line,
            measure: Measure,
            window: Window,
            most: u64,
            reserved: u64,
            used: u64,
        ) -> u64 {
            let mut budgets = self.budgets.borrow_mut();
            let Some((counted, sum)) = budgets.get_mut(&(line, measure)) else { return most };
            if *counted == window {
                *sum = (*sum + used).saturating_sub(reserved);
            }
            most.saturating_sub(*sum)
        }

        fn key(&self, scope: &str, name: &[u8]) -> u64 {
            use std::hash::{DefaultHasher, Hash, Hasher};
            let mut hasher = DefaultHasher::new();
            (scope, name).hash(&mut hasher);
            hasher.finish()
        }

        fn hold(&self, key: u64, _now: Now) -> Line {
            let line = Line(DYNAMIC | u32::try_from(key >> 33).expect("31 bits"));
            *self.held.borrow_mut().entry(line).or_default() += 1;
            line
        }

        fn let_go(&self, line: Line) {
            let mut held = self.held.borrow_mut();
            let count = held.get_mut(&line).expect("what is let go was held");
            *count = count.checked_sub(1).expect("what is let go was held");
        }
    }
}
