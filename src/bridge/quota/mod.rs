//! The counts of every limited key, exact over all cores: what one core grants, no other grants again.
//!
//! A count is one atomic number in a line of its key, changed by compare-exchange; there is no lock, and who is refused
//! has only read. Keys of the configuration have lines given out by a [`LineRoll`](crate::base::ids::LineRoll). Keys that
//! no configuration names find theirs in a table (`dynamic`).

mod budget;
mod dynamic;
mod lines;
#[cfg(test)]
mod tests;
mod watch;

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

pub use watch::{Balance, BudgetWatch};

use crate::{
    base::{
        ids::Line,
        limits::{QUOTA_LINES_MAX, QUOTA_SETS},
        now::Now,
    },
    bridge::{
        padded::Padded,
        quota::{
            dynamic::{SET_LINES, Set},
            lines::Lines,
        },
    },
    config::allowance::{Measure, Rate},
    policy::{
        quota::{Level, Quota, Wait, Window},
        rate::Pace,
    },
};

/// One for the process.
#[derive(Debug)]
pub struct QuotaBoard {
    /// First the lines of the roll, then the sets.
    lines: Lines,
    fixed: usize,
    /// A power of two.
    sets: usize,
    /// Drawn by the process for itself: clients choose what is hashed, and must not know which keys share a set.
    seed: RandomState,
    overflows: Padded<AtomicU64>,
}

impl QuotaBoard {
    pub fn new() -> Self {
        Self::with_room(QUOTA_LINES_MAX, QUOTA_SETS)
    }

    /// A board of another size, for tests: so many lines of the configuration, and so many sets (a power of two).
    pub fn with_room(fixed: usize, sets: usize) -> Self {
        let sets = sets.next_power_of_two();
        Self {
            lines: Lines::zeroed(fixed + sets * SET_LINES),
            fixed,
            sets,
            seed: RandomState::new(),
            overflows: Padded::default(),
        }
    }

    /// The key for [`Quota::hold`] of what `bytes` are to `scope`: equal for equal ones, and nothing a client could guess.
    fn keyed(&self, scope: &str, name: &[u8]) -> u64 {
        let mut hasher = self.seed.build_hasher();
        // Its length too: where a scope ends and a name begins is no one's choice.
        hasher.write_usize(scope.len());
        hasher.write(scope.as_bytes());
        hasher.write(name);
        hasher.finish()
    }

    /// How often [`Quota::hold`] found no room and gave a line that keys share.
    pub fn overflows(&self) -> u64 {
        self.overflows.load(Relaxed)
    }

    /// For control, before any core draws: what a budget had used when it was last written down. A slot that has counted
    /// since keeps what it has; whether it was set.
    pub fn restore(&self, line: Line, measure: Measure, window: Window, used: u64) -> bool {
        let word = budget::Used { window: budget::low(window), amount: used }.word();
        self.is_fixed(line) && self.slot(line, measure).compare_exchange(0, word, Relaxed, Relaxed).is_ok()
    }

    /// What the budgets of `lines` have used, those that have used anything. [`BudgetWatch`] tells the changed ones.
    pub fn budgets(
        &self,
        lines: impl IntoIterator<Item = Line>,
    ) -> impl Iterator<Item = (Line, Measure, Window, u64)> {
        let all = lines.into_iter().flat_map(|line| BUDGETS.map(|measure| (line, measure)));
        all.filter_map(|(line, measure)| {
            let used = budget::Used::of(self.slot(line, measure).load(Relaxed));
            (used.amount > 0).then_some((line, measure, Window(used.window.into()), used.amount))
        })
    }

    fn slot(&self, line: Line, measure: Measure) -> &AtomicU64 {
        &self.lines.row(index(line))[measure.slot() & 15]
    }

    fn is_fixed(&self, line: Line) -> bool {
        index(line) < self.fixed
    }

    fn set(&self, number: usize) -> Set<'_> {
        let (sets, _) = self.lines.rows()[self.fixed..].as_chunks();
        debug_assert!(number < self.sets, "a line was given out by the table");
        Set(&sets[number.min(self.sets - 1)])
    }
}

impl Default for QuotaBoard {
    fn default() -> Self {
        Self::new()
    }
}

const BUDGETS: [Measure; 4] = [
    Measure::BudgetTokensDay,
    Measure::BudgetTokensMonth,
    Measure::BudgetNanoUsdDay,
    Measure::BudgetNanoUsdMonth,
];

fn index(line: Line) -> usize {
    // Where a usize has fewer bits, no line reaches so far.
    usize::try_from(line.0).unwrap_or(usize::MAX)
}

// Relaxed in all counts: each is changed as one number, in one order that all cores agree on, and publishes nothing else.
// That a dynamic line is still its key's is the business of the pin, which is ordered.
impl Quota for QuotaBoard {
    fn key(&self, scope: &str, name: &[u8]) -> u64 {
        self.keyed(scope, name)
    }

    fn spend(&self, line: Line, measure: Measure, rate: Rate, amount: u64, now: Now) -> Result<Level, Wait> {
        debug_assert!(kind(measure) == Kind::Rate, "{measure:?} is not a rate");
        let (slot, pace) = (self.slot(line, measure), Pace::of(rate));
        let mut horizon = slot.load(Relaxed);
        loop {
            let next = pace.spend(horizon, amount, now)?;
            match slot.compare_exchange_weak(horizon, next, Relaxed, Relaxed) {
                Ok(_) => return Ok(pace.level(next, now)),
                Err(newer) => horizon = newer,
            }
        }
    }

    fn settle(&self, line: Line, measure: Measure, rate: Rate, reserved: u64, used: u64, now: Now) -> Level {
        debug_assert!(kind(measure) == Kind::Rate, "{measure:?} is not a rate");
        let (slot, pace) = (self.slot(line, measure), Pace::of(rate));
        let mut horizon = slot.load(Relaxed);
        loop {
            let next = pace.settle(horizon, reserved, used, now);
            if next == horizon {
                return pace.level(next, now);
            }
            match slot.compare_exchange_weak(horizon, next, Relaxed, Relaxed) {
                Ok(_) => return pace.level(next, now),
                Err(newer) => horizon = newer,
            }
        }
    }

    fn enter(&self, line: Line, measure: Measure, most: u32) -> bool {
        debug_assert!(kind(measure) == Kind::Concurrency, "{measure:?} is no number of those at once");
        let slot = self.slot(line, measure);
        let mut inside = slot.load(Relaxed);
        // Not added first and looked at then: one who is refused would keep another out.
        while inside < u64::from(most) {
            match slot.compare_exchange_weak(inside, inside + 1, Relaxed, Relaxed) {
                Ok(_) => return true,
                Err(newer) => inside = newer,
            }
        }
        false
    }

    fn leave(&self, line: Line, measure: Measure) {
        debug_assert!(kind(measure) == Kind::Concurrency, "{measure:?} is no number of those at once");
        let before = self.slot(line, measure).fetch_sub(1, Relaxed);
        debug_assert!(before > 0, "only who entered leaves");
    }

    fn draw(&self, line: Line, measure: Measure, window: Window, most: u64, amount: u64) -> Option<u64> {
        debug_assert!(kind(measure) == Kind::Budget, "{measure:?} is not a budget");
        debug_assert!(self.is_fixed(line), "only what is configured has a budget");
        // A line that may become another key's counts no budget, and what isn't counted isn't granted.
        if !self.is_fixed(line) {
            return None;
        }
        budget::draw(self.slot(line, measure), window, most, amount)
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
        debug_assert!(kind(measure) == Kind::Budget, "{measure:?} is not a budget");
        if !self.is_fixed(line) {
            return 0;
        }
        budget::settle(self.slot(line, measure), window, most, reserved, used)
    }

    fn hold(&self, key: u64, now: Now) -> Line {
        let number = usize::try_from(key & (self.sets as u64 - 1)).unwrap_or(0);
        let held = self.set(number).hold(key, now);
        if held.is_shared {
            self.overflows.fetch_add(1, Relaxed);
        }
        let index = self.fixed + number * SET_LINES + held.place;
        // Bounded by the sum of QUOTA_LINES_MAX and the sets; a wrong one would be answered with the last line.
        Line(u32::try_from(index).unwrap_or(u32::MAX))
    }

    fn let_go(&self, line: Line) {
        // A line of the configuration is held by nobody.
        if let Some(offset) = index(line).checked_sub(self.fixed) {
            self.set(offset / SET_LINES).let_go(offset % SET_LINES);
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Rate,
    Concurrency,
    Budget,
}

fn kind(measure: Measure) -> Kind {
    match measure {
        Measure::RequestsPerSecond
        | Measure::RequestsPerMinute
        | Measure::RequestsPerHour
        | Measure::RequestsPerDay
        | Measure::TokensPerMinute
        | Measure::TokensPerDay => Kind::Rate,
        Measure::ConcurrentRequests | Measure::ConcurrentStreams | Measure::Connections => Kind::Concurrency,
        Measure::BudgetTokensDay
        | Measure::BudgetTokensMonth
        | Measure::BudgetNanoUsdDay
        | Measure::BudgetNanoUsdMonth => Kind::Budget,
    }
}
