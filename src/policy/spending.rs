//! What one exchange takes out of limits, and what of it is given back.
//!
//! Whatever was taken is either counted for good, settled by what was really used, or undone when this is dropped: a request
//! that is refused on the way leaves nothing behind, and one that panics releases its places.

use smallvec::SmallVec;

use super::quota::{Level, Quota, Window};
use crate::{
    base::{calendar, ids::Line, money::NanoUsd, now::Now},
    config::allowance::{Allowance, Limit, Measure, OnExceed, Rate, Unit},
    wire::openai::{
        rate_headers::{RateHeaders, Told},
        refusal::Refusal,
    },
};

/// The limits that one exchange has spent from.
pub struct Spending<'q, Q: Quota> {
    quota: &'q Q,
    taken: SmallVec<[Taken; 4]>,
    told: RateHeaders,
    /// When something was last taken or settled: what undoing counts as now.
    last: Now,
}

/// Which of an allowance's limits are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// What counts requests, before the body is read.
    Requests,
    /// What needs the body: tokens, streams, budgets.
    Content,
    All,
}

/// In which part a limit is asked.
pub fn part_of(measure: Measure) -> Part {
    match measure {
        Measure::RequestsPerSecond
        | Measure::RequestsPerMinute
        | Measure::RequestsPerHour
        | Measure::RequestsPerDay
        | Measure::ConcurrentRequests
        | Measure::Connections => Part::Requests,
        Measure::TokensPerMinute
        | Measure::TokensPerDay
        | Measure::ConcurrentStreams
        | Measure::BudgetTokensDay
        | Measure::BudgetTokensMonth
        | Measure::BudgetNanoUsdDay
        | Measure::BudgetNanoUsdMonth => Part::Content,
    }
}

/// What is asked of an allowance.
#[derive(Clone, Copy, Debug)]
pub struct Demand {
    pub part: Part,
    /// What the exchange is taken to cost.
    pub tokens: u64,
    /// In money; `None`: what it asks for has no price.
    pub nano_usd: Option<NanoUsd>,
    pub stream: bool,
    pub now: Now,
    pub unix_ms: u64,
}

enum Taken {
    Request {
        line: Line,
        measure: Measure,
        rate: Rate,
    },
    Place {
        line: Line,
        measure: Measure,
    },
    Tokens {
        line: Line,
        measure: Measure,
        rate: Rate,
        reserved: u64,
        on_exceed: OnExceed,
    },
    Budget {
        line: Line,
        measure: Measure,
        window: Window,
        most: u64,
        reserved: u64,
        on_exceed: OnExceed,
    },
    /// A line that is ours as long as we hold it.
    Held(Line),
}

impl<'q, Q: Quota> Spending<'q, Q> {
    pub fn new(quota: &'q Q) -> Self {
        Self { quota, taken: SmallVec::new(), told: RateHeaders::default(), last: Now::default() }
    }

    /// What the client is to be told of its limits so far, those that refused it among them.
    pub fn told(&self) -> RateHeaders {
        self.told
    }

    /// The line of a key that no configuration names, held until this is dropped. `scope` tells apart what is limited.
    pub fn hold(&mut self, scope: &str, name: &[u8], now: Now) -> Line {
        let line = self.quota.hold(self.quota.key(scope, name), now);
        self.taken.push(Taken::Held(line));
        line
    }

    /// Takes what is demanded out of every limit of `allowance`, which is counted in `line`.
    ///
    /// # Errors
    /// The first limit that is reached. What was taken before is undone when this is dropped.
    pub fn take(&mut self, line: Line, allowance: &Allowance, demand: Demand) -> Result<(), Refusal> {
        self.last = demand.now;
        for limit in &allowance.limits {
            match *limit {
                Limit::Rate { measure, rate } => {
                    let is_tokens = measure.unit() == Unit::Tokens;
                    if !demand.includes(part_of(measure)) {
                        continue;
                    }
                    let amount = if is_tokens { demand.tokens } else { 1 };
                    self.spend(line, measure, rate, amount, demand.now)?;
                    self.taken.push(if is_tokens {
                        let on_exceed = allowance.on_exceed;
                        Taken::Tokens { line, measure, rate, reserved: amount, on_exceed }
                    } else {
                        Taken::Request { line, measure, rate }
                    });
                }
                Limit::Concurrency { measure, most } => {
                    let is_streams = measure == Measure::ConcurrentStreams;
                    if !demand.includes(part_of(measure)) || (is_streams && !demand.stream) {
                        continue;
                    }
                    if !self.quota.enter(line, measure, most) {
                        return Err(Refusal::RateLimited {
                            what: measure.words(),
                            retry_after_ms: PLACE_RETRY_MS,
                        });
                    }
                    self.taken.push(Taken::Place { line, measure });
                }
                Limit::Budget { measure, most } => {
                    if !demand.includes(part_of(measure)) {
                        continue;
                    }
                    let window = window(measure, demand.unix_ms);
                    // Without a price nothing is counted, but where nothing is left nothing is given: a nano-dollar asks.
                    let reserved = match measure.unit() {
                        Unit::NanoUsd => demand.nano_usd.map_or(1, |cost| cost.0.max(1)),
                        _ => demand.tokens,
                    };
                    if self.quota.draw(line, measure, window, most, reserved).is_none() {
                        return Err(Refusal::OverBudget);
                    }
                    let on_exceed = allowance.on_exceed;
                    self.taken.push(Taken::Budget { line, measure, window, most, reserved, on_exceed });
                }
            }
        }
        Ok(())
    }

    fn spend(
        &mut self,
        line: Line,
        measure: Measure,
        rate: Rate,
        amount: u64,
        now: Now,
    ) -> Result<(), Refusal> {
        let (level, wait_ns) = match self.quota.spend(line, measure, rate, amount, now) {
            Ok(level) => (level, None),
            Err(wait) => (wait.level, Some(wait.ns)),
        };
        let told = Told { limit: rate.amount.get(), remaining: level.remaining, reset_ns: level.reset_ns };
        match measure.unit() {
            Unit::Requests => tighten(&mut self.told.requests, told),
            Unit::Tokens => tighten(&mut self.told.tokens, told),
            Unit::NanoUsd => debug_assert!(false, "money has budgets and no rates"),
        }
        let Some(ns) = wait_ns else { return Ok(()) };
        // A millisecond begun is a millisecond to wait: who comes back then is not refused again.
        Err(Refusal::RateLimited { what: measure.words(), retry_after_ms: ns.div_ceil(1_000_000) })
    }

    /// The requests taken so far count for good, whatever becomes of the exchange.
    pub fn count_requests(&mut self) {
        self.taken.retain(|taken| !matches!(taken, Taken::Request { .. }));
    }

    /// What a running stream has used so far, by estimate. What goes beyond the reservation is charged at once.
    /// Whether a limit is crossed that ends the stream for it. `cost` is asked only where money is limited.
    pub fn used_so_far(&mut self, tokens: u64, cost: impl Fn() -> Option<NanoUsd>, now: Now) -> bool {
        self.last = now;
        let mut cuts = false;
        for taken in &mut self.taken {
            cuts |= match taken {
                Taken::Tokens { line, measure, rate, reserved, on_exceed } if tokens > *reserved => {
                    let level = self.quota.settle(*line, *measure, *rate, *reserved, tokens, now);
                    *reserved = tokens;
                    level.remaining == 0 && *on_exceed == OnExceed::Cut
                }
                Taken::Budget { line, measure, window, most, reserved, on_exceed } => {
                    let used = match measure.unit() {
                        Unit::NanoUsd => cost().unwrap_or_default().0,
                        _ => tokens,
                    };
                    let is_more = used > *reserved;
                    is_more && {
                        let remaining =
                            self.quota.settle_budget(*line, *measure, *window, *most, *reserved, used);
                        *reserved = used;
                        remaining == 0 && *on_exceed == OnExceed::Cut
                    }
                }
                _ => false,
            };
        }
        cuts
    }

    /// The exchange has used so many tokens, and they cost so much (`None`: they have no price, and no budget counts them):
    /// what was reserved is corrected, up or down.
    pub fn settle(&mut self, tokens: u64, cost: Option<NanoUsd>, now: Now) {
        self.last = now;
        for taken in &mut self.taken {
            settle(self.quota, taken, tokens, cost.unwrap_or_default(), now);
        }
        self.taken.retain(|taken| !matches!(taken, Taken::Tokens { .. } | Taken::Budget { .. }));
    }

    /// What was reserved stays charged: how much was used will never be known.
    pub fn forfeit(&mut self) {
        self.taken.retain(|taken| !matches!(taken, Taken::Tokens { .. } | Taken::Budget { .. }));
    }

    /// How much has been taken so far: where [`Spending::give_back`] may come back to.
    pub fn mark(&self) -> usize {
        self.taken.len()
    }

    /// The same for those taken since `mark`.
    pub fn count_requests_from(&mut self, mark: usize) {
        let mut at = 0;
        self.taken.retain(|taken| {
            at += 1;
            at <= mark || !matches!(taken, Taken::Request { .. })
        });
    }

    /// Gives back what was taken since `mark` and is not counted for good.
    pub fn give_back(&mut self, mark: usize) {
        self.give_back_between(mark, self.taken.len());
    }

    /// The same of what was taken since `mark` and before `end`.
    pub fn give_back_between(&mut self, mark: usize, end: usize) {
        let given = mark.min(end)..end.min(self.taken.len());
        if given.is_empty() {
            return;
        }
        for taken in &self.taken[given.clone()] {
            match taken {
                Taken::Request { line, measure, rate } => {
                    self.quota.settle(*line, *measure, *rate, 1, 0, self.last);
                }
                Taken::Place { line, measure } => self.quota.leave(*line, *measure),
                Taken::Tokens { .. } | Taken::Budget { .. } => {
                    settle(self.quota, taken, 0, NanoUsd(0), self.last);
                }
                Taken::Held(_) => {}
            }
        }
        // Last: nothing may be counted in a line that has been let go.
        for taken in &self.taken[given.clone()] {
            if let Taken::Held(line) = taken {
                self.quota.let_go(*line);
            }
        }
        self.taken.drain(given);
    }
}

/// When somebody leaves is not known; a second is what most streams last at least.
const PLACE_RETRY_MS: u64 = 1_000;

impl Demand {
    fn includes(self, part: Part) -> bool {
        self.part == Part::All || self.part == part
    }
}

impl<Q: Quota> Drop for Spending<'_, Q> {
    fn drop(&mut self) {
        self.give_back(0);
    }
}

fn settle<Q: Quota>(quota: &Q, taken: &Taken, tokens: u64, cost: NanoUsd, now: Now) {
    match *taken {
        Taken::Tokens { line, measure, rate, reserved, .. } => {
            let _level: Level = quota.settle(line, measure, rate, reserved, tokens, now);
        }
        Taken::Budget { line, measure, window, most, reserved, .. } => {
            let used = if measure.unit() == Unit::NanoUsd { cost.0 } else { tokens };
            let _remaining = quota.settle_budget(line, measure, window, most, reserved, used);
        }
        Taken::Request { .. } | Taken::Place { .. } | Taken::Held(_) => {}
    }
}

/// Of several limits, the client is told of the one it will meet first.
fn tighten(slot: &mut Option<Told>, told: Told) {
    if slot.is_none_or(|known| told.remaining < known.remaining) {
        *slot = Some(told);
    }
}

// Not inlined: the calendar would be asked once a call, ahead of the loop that seldom finds a budget.
#[inline(never)]
fn window(measure: Measure, unix_ms: u64) -> Window {
    Window(match measure {
        Measure::BudgetTokensMonth | Measure::BudgetNanoUsdMonth => calendar::month(unix_ms),
        _ => calendar::day(unix_ms),
    })
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;
    use crate::policy::quota::cells::Cells;

    const LINE: Line = Line(1);
    const NOW: Now = Now(1_000_000_000);

    fn rate(amount: u64, secs: u64) -> Rate {
        let number = |n| NonZeroU64::new(n).expect("not zero");
        Rate { amount: number(amount), period_ns: number(secs * 1_000_000_000), burst: number(amount) }
    }

    fn allowance(limits: &[Limit], on_exceed: OnExceed) -> Allowance {
        Allowance { limits: limits.into(), on_exceed }
    }

    const ALL: Demand =
        Demand { part: Part::All, tokens: 100, nano_usd: None, stream: true, now: NOW, unix_ms: 0 };

    fn requests(amount: u64) -> Limit {
        Limit::Rate { measure: Measure::RequestsPerMinute, rate: rate(amount, 60) }
    }

    fn tokens(amount: u64) -> Limit {
        Limit::Rate { measure: Measure::TokensPerMinute, rate: rate(amount, 60) }
    }

    fn remaining(cells: &Cells, limit: Limit) -> u64 {
        let Limit::Rate { measure, rate } = limit else { panic!("a rate") };
        cells.level(LINE, measure, rate, NOW).remaining
    }

    #[test]
    fn what_is_refused_leaves_nothing_behind() {
        let cells = Cells::default();
        let (first, second) = (requests(10), tokens(50));
        let place = Limit::Concurrency { measure: Measure::ConcurrentRequests, most: 1 };
        let full = Limit::Budget { measure: Measure::BudgetTokensDay, most: 60 };
        let mut spending = Spending::new(&cells);
        let held = spending.hold("address", b"x", NOW);
        assert!(spending.take(held, &allowance(&[first, place], OnExceed::Finish), ALL).is_ok());
        // 100 tokens of 50 are granted, because nothing is spent; the budget has no such kindness.
        let refused = spending.take(LINE, &allowance(&[first, place, second, full], OnExceed::Finish), ALL);
        assert_eq!(refused, Err(Refusal::OverBudget));
        drop(spending);
        assert!(cells.is_quiet());
        assert_eq!((remaining(&cells, first), remaining(&cells, second)), (10, 50));
    }

    #[test]
    fn counted_requests_stay_and_reservations_are_settled() {
        let cells = Cells::default();
        let both = allowance(&[requests(10), tokens(1_000)], OnExceed::Finish);
        let mut spending = Spending::new(&cells);
        assert!(spending.take(LINE, &both, ALL).is_ok());
        spending.count_requests();
        assert_eq!(remaining(&cells, tokens(1_000)), 900);
        spending.settle(30, None, NOW);
        drop(spending);
        assert_eq!((remaining(&cells, requests(10)), remaining(&cells, tokens(1_000))), (9, 970));

        let mut spending = Spending::new(&cells);
        assert!(spending.take(LINE, &both, ALL).is_ok());
        spending.count_requests();
        spending.forfeit();
        drop(spending);
        assert_eq!((remaining(&cells, requests(10)), remaining(&cells, tokens(1_000))), (8, 870));
    }

    #[test]
    fn only_the_part_that_is_demanded_is_taken() {
        let cells = Cells::default();
        let streams = Limit::Concurrency { measure: Measure::ConcurrentStreams, most: 1 };
        let both = allowance(&[requests(10), tokens(1_000), streams], OnExceed::Finish);
        let mut spending = Spending::new(&cells);
        for demand in [Demand { part: Part::Requests, ..ALL }, Demand { part: Part::Content, ..ALL }] {
            assert!(spending.take(LINE, &both, demand).is_ok());
        }
        assert_eq!((remaining(&cells, requests(10)), remaining(&cells, tokens(1_000))), (9, 900));
        let mut other = Spending::new(&cells);
        let second = other.take(LINE, &both, ALL);
        assert!(matches!(second, Err(Refusal::RateLimited { what: "concurrent streams", .. })), "{second:?}");
        let plain = Demand { stream: false, ..ALL };
        assert!(other.take(LINE, &both, plain).is_ok());
    }

    #[test]
    fn the_tightest_limit_is_told_and_the_wait_is_exact() {
        let cells = Cells::default();
        let hour = Limit::Rate { measure: Measure::RequestsPerHour, rate: rate(100, 3_600) };
        let both = allowance(&[requests(2), hour], OnExceed::Finish);
        let mut spending = Spending::new(&cells);
        assert!(spending.take(LINE, &both, ALL).is_ok());
        assert_eq!(spending.told().requests, Some(Told { limit: 2, remaining: 1, reset_ns: 30_000_000_000 }));
        assert!(spending.take(LINE, &both, ALL).is_ok());
        let refused = spending.take(LINE, &both, ALL);
        assert_eq!(
            refused,
            Err(Refusal::RateLimited { what: "requests per minute", retry_after_ms: 30_000 })
        );
        assert_eq!(spending.told().requests.map(|told| told.remaining), Some(0));
    }

    #[test]
    fn a_stream_that_crosses_its_limit_is_charged_and_cut_only_where_it_is_said() {
        for (on_exceed, cuts) in [(OnExceed::Finish, false), (OnExceed::Cut, true)] {
            let cells = Cells::default();
            let mut spending = Spending::new(&cells);
            assert!(spending.take(LINE, &allowance(&[tokens(150)], on_exceed), ALL).is_ok());
            assert!(!spending.used_so_far(99, || None, NOW));
            assert_eq!(remaining(&cells, tokens(150)), 50);
            assert!(!spending.used_so_far(140, || None, NOW));
            assert_eq!(spending.used_so_far(151, || None, NOW), cuts);
            assert_eq!(remaining(&cells, tokens(150)), 0);
        }
    }

    const DAY: Measure = Measure::BudgetNanoUsdDay;
    const MONTH: Measure = Measure::BudgetNanoUsdMonth;

    fn money(most: u64) -> Allowance {
        let budget = |measure| Limit::Budget { measure, most };
        allowance(&[budget(DAY), budget(MONTH)], OnExceed::Cut)
    }

    /// What is left of a day and of a month.
    fn left(cells: &Cells, most: u64, unix_ms: u64) -> [u64; 2] {
        [DAY, MONTH]
            .map(|measure| cells.draw(LINE, measure, window(measure, unix_ms), most, 0).unwrap_or_default())
    }

    fn priced(nanos: u64) -> Demand {
        Demand { nano_usd: Some(NanoUsd(nanos)), ..ALL }
    }

    #[test]
    fn money_is_reserved_by_estimate_and_settled_by_cost() {
        let cells = Cells::default();
        let mut spending = Spending::new(&cells);
        assert_eq!(spending.take(LINE, &money(1_000), priced(600)), Ok(()));
        assert_eq!(left(&cells, 1_000, 0), [400, 400]);
        let mut other = Spending::new(&cells);
        assert_eq!(other.take(LINE, &money(1_000), priced(401)), Err(Refusal::OverBudget));
        drop(other);
        assert!(!spending.used_so_far(1 << 40, || Some(NanoUsd(700)), NOW), "tokens are not money");
        assert_eq!(left(&cells, 1_000, 0), [300, 300]);
        spending.settle(1 << 40, Some(NanoUsd(250)), NOW);
        drop(spending);
        assert_eq!(left(&cells, 1_000, 0), [750, 750]);
    }

    #[test]
    fn a_stream_that_costs_more_than_is_left_is_cut() {
        let cells = Cells::default();
        let mut spending = Spending::new(&cells);
        assert_eq!(spending.take(LINE, &money(1_000), priced(600)), Ok(()));
        assert!(!spending.used_so_far(1, || Some(NanoUsd(999)), NOW));
        assert!(spending.used_so_far(1, || Some(NanoUsd(1_000)), NOW));
    }

    #[test]
    fn what_has_no_price_is_not_counted_and_not_given_once_nothing_is_left() {
        let cells = Cells::default();
        let mut spending = Spending::new(&cells);
        assert_eq!(spending.take(LINE, &money(10), ALL), Ok(()));
        assert!(!spending.used_so_far(1 << 40, || None, NOW));
        spending.settle(1 << 40, None, NOW);
        drop(spending);
        assert_eq!(left(&cells, 10, 0), [10, 10]);

        let mut spending = Spending::new(&cells);
        assert_eq!(spending.take(LINE, &money(10), priced(10)), Ok(()));
        spending.settle(5, Some(NanoUsd(10)), NOW);
        drop(spending);
        for demand in [ALL, priced(0), priced(1)] {
            let mut spending = Spending::new(&cells);
            assert_eq!(spending.take(LINE, &money(10), demand), Err(Refusal::OverBudget), "{demand:?}");
        }
    }

    #[test]
    fn a_budget_begins_anew_with_its_day_and_its_month() {
        let cells = Cells::default();
        const DAY_MS: u64 = 86_400_000;
        let mut spending = Spending::new(&cells);
        assert_eq!(spending.take(LINE, &money(1_000), priced(900)), Ok(()));
        spending.forfeit();
        drop(spending);
        assert_eq!(left(&cells, 1_000, 0), [100, 100]);
        assert_eq!(left(&cells, 1_000, DAY_MS), [1_000, 100]);
        assert_eq!(left(&cells, 1_000, 31 * DAY_MS), [1_000, 1_000]);
    }
}
