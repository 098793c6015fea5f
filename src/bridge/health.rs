//! Each target's health, one truth for all cores: its breaker, how many attempts are under way, how soon it answers.
//!
//! A target has no seat on the board until it is first used, and loses it to another when it is quiet: no history, nothing
//! under way. One that has no seat is healthy. A seat is never taken from a target with an attempt under way, so a ticket's
//! seat stays its target's until the ticket is ended.

mod aside;
mod latency;
mod tally;

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use self::{aside::Aside, latency::Latency, tally::Tally};
use crate::{
    base::{
        ids::ProviderId,
        limits::{
            HEALTH_TARGETS_MAX, HEALTH_WAYS, HEDGE_PERCENT, HEDGES_SAVED_MAX, PROVIDER_NAMES_MAX,
            RETRY_BUDGET_LEAST,
        },
        now::Now,
    },
    bridge::padded::Padded,
    config::breaker::{Breaker, Retry},
    policy::{
        breaker::{Failed, Rules, Word},
        health::{Change, Health, KeyFault, KeyKey, KeyStanding, Outcomes, Standing, TargetKey, Ticket},
        window::{PART, TOTAL},
    },
};

/// The board. Seats stand in lines of [`HEALTH_WAYS`]; a target's key says in which line it sits.
#[derive(Debug)]
pub struct HealthBoard {
    rules: Padded<Settings>,
    lines: Box<[Line]>,
    // seats[line * HEALTH_WAYS + way] is that of the target whose key stands in lines[line].keys[way]
    seats: Box<[Seat]>,
    /// By the provider's number.
    budgets: Box<[Padded<Budgets>]>,
    /// By the provider's number, what its health check has found. Written every few seconds at most.
    down: Box<[DownUntil]>,
    aside: Aside,
    counts: Counts,
}

/// What went otherwise than meant, since the process started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Crowding {
    /// Attempts that found no seat: their target was taken for healthy.
    pub seatless: u64,
    /// Targets that lost their seat with failures on it.
    pub forgotten: u64,
    /// Those of them whose breaker was open.
    pub forgotten_open: u64,
}

/// A provider that its health check has found down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Down {
    /// The soonest that it can be found up again.
    pub back_at: Now,
    /// The finding is worth nothing from here on, unless it is renewed.
    pub stale_at: Now,
}

/// A [`Down`]; zeros where there is none.
#[derive(Debug, Default)]
struct DownUntil {
    back_ms: AtomicU64,
    stale_ms: AtomicU64,
}

/// One cache line: a target is found, or found to be absent, by one load of it.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Line {
    keys: [AtomicU64; HEALTH_WAYS],
}

/// No target sits here.
const FREE: u64 = 0;
/// Somebody is being replaced.
const RESERVED: u64 = 1;

// Two pairs of cache lines; in the first what every attempt writes.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Seat {
    word: AtomicU64,
    in_flight: AtomicU32,
    /// Whose target it is, counted from 1.
    provider: AtomicU32,
    /// When an attempt last began, for who has to find the one that nobody misses.
    used_ms: AtomicU64,
    /// Attempts that came to something, and those of them that failed.
    recent: Tally,
    latency: Latency,
}

/// What a provider's targets may be asked beside what clients ask.
#[derive(Debug, Default)]
struct Budgets {
    /// Attempts, and those of them that were retries.
    retries: Tally,
    /// Hedges saved up, in hundredths; written only where hedging is configured.
    hedges: AtomicU32,
}

/// A whole hedge of [`Budgets::hedges`].
const HEDGE: u32 = 100;

#[derive(Debug, Default)]
struct Counts {
    // Held for as long as it takes to look at one line and to clear one seat.
    claims: Mutex<()>,
    seatless: AtomicU64,
    forgotten: AtomicU64,
    forgotten_open: AtomicU64,
}

/// The configured rules. Each number stands for itself: a core that sees half of a change is right either way.
#[derive(Debug, Default)]
struct Settings {
    failures: AtomicU64,
    rate_percent: AtomicU64,
    rate_requests: AtomicU64,
    open_ms: AtomicU64,
    open_max_ms: AtomicU64,
    ramp_ms: AtomicU64,
    budget_percent: AtomicU64,
}

impl Default for HealthBoard {
    fn default() -> Self {
        Self::with_lines(HEALTH_TARGETS_MAX / HEALTH_WAYS)
    }
}

impl HealthBoard {
    fn with_lines(lines: usize) -> Self {
        let board = Self {
            rules: Padded::default(),
            lines: (0..lines).map(|_| Line::default()).collect(),
            seats: (0..lines * HEALTH_WAYS).map(|_| Seat::default()).collect(),
            budgets: (0..PROVIDER_NAMES_MAX).map(|_| Padded::default()).collect(),
            down: (0..PROVIDER_NAMES_MAX).map(|_| DownUntil::default()).collect(),
            aside: Aside::default(),
            counts: Counts::default(),
        };
        board.configure(Breaker::default(), Retry::default());
        board
    }

    /// Takes up the rules of a configuration. What breakers remember stays.
    pub fn configure(&self, breaker: Breaker, retry: Retry) {
        let rules = Rules::from(breaker);
        for (setting, value) in [
            (&self.rules.failures, rules.failures),
            (&self.rules.rate_percent, rules.rate_percent),
            (&self.rules.rate_requests, rules.rate_requests),
            (&self.rules.open_ms, rules.open_ms),
            (&self.rules.open_max_ms, rules.open_max_ms),
            (&self.rules.ramp_ms, rules.ramp_ms),
            (&self.rules.budget_percent, u64::from(retry.budget_percent)),
        ] {
            setting.store(value, Ordering::Relaxed);
        }
    }

    pub fn crowding(&self) -> Crowding {
        let counts = &self.counts;
        Crowding {
            seatless: counts.seatless.load(Ordering::Relaxed),
            forgotten: counts.forgotten.load(Ordering::Relaxed),
            forgotten_open: counts.forgotten_open.load(Ordering::Relaxed),
        }
    }

    /// Breakers that are open now, or wait for a probe, by provider. Walks the board: not for a request.
    pub fn open_breakers(&self) -> BTreeMap<ProviderId, u64> {
        let mut open = BTreeMap::new();
        for seat in self.seats.iter().filter(|seat| Word(seat.word.load(Ordering::Relaxed)).is_open()) {
            let number = seat.provider.load(Ordering::Relaxed).checked_sub(1);
            if let Some(number) = number.and_then(|number| u16::try_from(number).ok()) {
                *open.entry(ProviderId(number)).or_default() += 1;
            }
        }
        open
    }

    /// Takes up what a health check has found; `None`: the provider is up, or is not checked any more.
    pub fn set_down(&self, provider: ProviderId, found: Option<Down>) {
        let Some(down) = self.down.get(provider.index()) else { return };
        let ms = |moment: Now| (moment.0 / 1_000_000).max(1);
        // Each number stands for itself: whoever sees half of a change is right either way.
        down.stale_ms.store(found.map_or(0, |found| ms(found.stale_at)), Ordering::Relaxed);
        down.back_ms.store(found.map_or(0, |found| ms(found.back_at)), Ordering::Relaxed);
    }

    /// What was found last, however long ago.
    pub fn is_down(&self, provider: ProviderId) -> bool {
        self.down.get(provider.index()).is_some_and(|down| down.back_ms.load(Ordering::Relaxed) > 0)
    }

    fn rules(&self) -> Rules {
        let of = |setting: &AtomicU64| setting.load(Ordering::Relaxed);
        Rules {
            failures: of(&self.rules.failures),
            rate_percent: of(&self.rules.rate_percent),
            rate_requests: of(&self.rules.rate_requests),
            open_ms: of(&self.rules.open_ms),
            open_max_ms: of(&self.rules.open_max_ms),
            ramp_ms: of(&self.rules.ramp_ms),
        }
    }

    /// The line of a key, by its upper half: the hash's lower half may be what somebody else has sorted by.
    fn line(&self, key: u64) -> usize {
        let wide = u128::from(key) * self.lines.len() as u128;
        usize::try_from(wide >> 64).unwrap_or(0)
    }

    /// Where a target sits now. By the time that the seat is read it may be another's; who minds takes a place on it first.
    fn find(&self, key: u64) -> Option<usize> {
        let line = self.line(key);
        let keys = &self.lines.get(line)?.keys;
        // Acquire: who sees the key sees the seat as it was cleared for it.
        let way = keys.iter().position(|way| way.load(Ordering::Acquire) == key)?;
        Some(line * HEALTH_WAYS + way)
    }

    fn key_of(&self, index: usize) -> Option<&AtomicU64> {
        self.lines.get(index / HEALTH_WAYS)?.keys.get(index % HEALTH_WAYS)
    }

    /// The target's seat, on which one more is under way now; `None` if no seat is to be had.
    fn take_place(&self, key: u64, now: Now) -> Option<usize> {
        while let Some(index) = self.find(key) {
            let seat = self.seats.get(index)?;
            // Sequentially consistent, as are the two accesses in `claim`: of a core that counts itself and then looks at the
            // key, and one that changes the key and then looks at the count, at least one sees the other.
            seat.in_flight.fetch_add(1, Ordering::SeqCst);
            if self.key_of(index)?.load(Ordering::SeqCst) == key {
                return Some(index);
            }
            seat.in_flight.fetch_sub(1, Ordering::SeqCst);
        }
        self.claim(key, now)
    }

    /// A seat for a target that had none, with one under way on it.
    #[cold]
    fn claim(&self, key: u64, now: Now) -> Option<usize> {
        let _claim = self.counts.claims.lock().unwrap_or_else(PoisonError::into_inner);
        // Seats change hands only under the lock, so one that is found is the target's for good.
        if let Some(index) = self.find(key) {
            self.seats.get(index)?.in_flight.fetch_add(1, Ordering::SeqCst);
            return Some(index);
        }
        let rules = self.rules();
        let first = self.line(key) * HEALTH_WAYS;
        // Those that nobody would miss before those with a history, and open ones last; of equals the longest unused.
        let rank = |index: usize| {
            let (seat, holder) = (self.seats.get(index)?, self.key_of(index)?.load(Ordering::Relaxed));
            if holder == FREE {
                return Some((0, 0));
            }
            let word = Word(seat.word.load(Ordering::Relaxed));
            let kind = match word.is_quiet(rules, now) {
                true => 1,
                false if word.is_open() => 3,
                false => 2,
            };
            let idle = seat.in_flight.load(Ordering::Relaxed) == 0;
            idle.then(|| (kind, seat.used_ms.load(Ordering::Relaxed)))
        };
        let mut candidates: Vec<_> =
            (first..first + HEALTH_WAYS).filter_map(|index| Some((rank(index)?, index))).collect();
        candidates.sort_unstable();
        for ((kind, _), index) in candidates {
            let (seat, holder) = (self.seats.get(index)?, self.key_of(index)?);
            let before = holder.swap(RESERVED, Ordering::SeqCst);
            if before != FREE && seat.in_flight.load(Ordering::SeqCst) > 0 {
                // Somebody was faster, and it stays theirs.
                holder.store(before, Ordering::SeqCst);
                continue;
            }
            self.counts.forgotten.fetch_add(u64::from(kind >= 2), Ordering::Relaxed);
            self.counts.forgotten_open.fetch_add(u64::from(kind == 3), Ordering::Relaxed);
            seat.clear();
            // Added, not stored: a core that has counted itself here by the old key is about to take that back.
            seat.in_flight.fetch_add(1, Ordering::SeqCst);
            holder.store(key, Ordering::SeqCst);
            return Some(index);
        }
        None
    }

    fn seat(&self, ticket: &Ticket) -> Option<&Seat> {
        self.seats.get(usize::try_from(ticket.seat?).ok()?)
    }
}

impl Health for HealthBoard {
    fn verdict(&self, target: TargetKey, now: Now) -> Standing {
        let key = stored(target);
        let Some(index) = self.find(key) else { return Standing::Closed };
        let Some(seat) = self.seats.get(index) else { return Standing::Closed };
        let word = seat.word.load(Ordering::Acquire);
        // It may have become another's seat in between; then this target was quiet.
        let is_still = self.key_of(index).is_some_and(|holder| holder.load(Ordering::Relaxed) == key);
        if word == Word::CLOSED.0 || !is_still {
            return Standing::Closed;
        }
        Word(word).standing(self.rules(), now)
    }

    fn down_ms(&self, provider: ProviderId, now: Now) -> Option<u64> {
        let down = self.down.get(provider.index())?;
        let back_ms = down.back_ms.load(Ordering::Relaxed);
        let now_ms = now.0 / 1_000_000;
        let holds = back_ms > 0 && now_ms < down.stale_ms.load(Ordering::Relaxed);
        holds.then(|| back_ms.saturating_sub(now_ms).max(1))
    }

    fn in_flight(&self, target: TargetKey) -> u32 {
        // None while `claim` looks at its seat: a glance for the balance, not a count to build on.
        let seat = self.find(stored(target)).and_then(|index| self.seats.get(index));
        seat.map_or(0, |seat| seat.in_flight.load(Ordering::Relaxed))
    }

    fn first_token_us(&self, target: TargetKey) -> Option<u64> {
        self.find(stored(target)).and_then(|index| self.seats.get(index)?.latency.median_us())
    }
}

impl Outcomes for HealthBoard {
    fn begin(&self, target: TargetKey, provider: ProviderId, now: Now) -> Option<Ticket> {
        if self.down_ms(provider, now).is_some() {
            return None;
        }
        let index = self.take_place(stored(target), now);
        let mut ticket =
            Ticket { target, seat: index.and_then(|index| u32::try_from(index).ok()), probe: None };
        match self.seat(&ticket) {
            Some(seat) => {
                seat.used_ms.store(now.0 / 1_000_000, Ordering::Relaxed);
                seat.provider.store(u32::from(provider.0) + 1, Ordering::Relaxed);
                let word = Word(seat.word.load(Ordering::Acquire));
                let standing =
                    if word == Word::CLOSED { Standing::Closed } else { word.standing(self.rules(), now) };
                let admitted = match standing {
                    Standing::Closed | Standing::Ramp(_) => true,
                    Standing::Open { .. } => false,
                    Standing::Probe => {
                        let probed = word.probed(now);
                        // The one that swaps has the probe. Whatever else happened to the word in between, it is not ours.
                        let swapped =
                            seat.word.compare_exchange(word.0, probed.0, Ordering::AcqRel, Ordering::Relaxed);
                        ticket.probe = swapped.is_ok().then_some(probed.0);
                        swapped.is_ok()
                    }
                };
                if !admitted {
                    self.ended(ticket);
                    return None;
                }
            }
            None => _ = self.counts.seatless.fetch_add(1, Ordering::Relaxed),
        }
        if let Some(budget) = self.budgets.get(provider.index()) {
            budget.retries.add(TOTAL, now);
        }
        Some(ticket)
    }

    fn first_token(&self, ticket: &Ticket, us: u64) {
        if let Some(seat) = self.seat(ticket) {
            seat.latency.record(us);
        }
    }

    fn succeeded(&self, ticket: &mut Ticket, now: Now) -> Option<Change> {
        let seat = self.seat(ticket)?;
        let probe = ticket.probe.take().is_some();
        seat.recent.add(TOTAL, now);
        if seat.word.load(Ordering::Acquire) == Word::CLOSED.0 {
            return None;
        }
        let rules = self.rules();
        let (before, after) = seat.turn(|word| word.succeeded(probe, rules, now));
        (before.is_open() && !after.is_open()).then_some(Change::Closed)
    }

    fn failed(
        &self,
        ticket: &mut Ticket,
        retry_after_ms: Option<u64>,
        now: Now,
        chance: u64,
    ) -> Option<Change> {
        if ticket.seat.is_none() {
            // A failure is worth another look for a seat.
            let index = self.take_place(stored(ticket.target), now);
            ticket.seat = index.and_then(|index| u32::try_from(index).ok());
        }
        let seat = self.seat(ticket)?;
        let probe = ticket.probe.take().is_some();
        seat.recent.add(TOTAL + PART, now);
        let rules = self.rules();
        let failed = Failed { probe, by_rate: rules.trips(seat.recent.sums(now)), retry_after_ms };
        let (before, after) = seat.turn(|word| word.failed(failed, rules, now, chance));
        let opened = after.is_open() && (probe || !before.is_open());
        if opened {
            // What it did before says nothing of how it is when it comes back.
            seat.recent.clear();
        }
        opened.then_some(Change::Opened)
    }

    fn ended(&self, ticket: Ticket) {
        let Some(seat) = self.seat(&ticket) else { return };
        if let Some(probed) = ticket.probe {
            // If it is not this probe's word any more, it has been given to another.
            let free = Word(probed).released();
            let _ = seat.word.compare_exchange(probed, free.0, Ordering::AcqRel, Ordering::Relaxed);
        }
        // Release: who finds nothing under way and clears the seat comes after all that was written to it.
        seat.in_flight.fetch_sub(1, Ordering::Release);
    }

    fn retry_allowed(&self, provider: ProviderId, now: Now) -> bool {
        let percent = self.rules.budget_percent.load(Ordering::Relaxed);
        let Some(budget) = self.budgets.get(provider.index()) else { return false };
        budget.retries.add_if(PART, now, |recent| {
            let requests = recent.total.saturating_sub(recent.part);
            (recent.part + 1) * 100 <= requests * percent + RETRY_BUDGET_LEAST * 100
        })
    }

    fn first_token_percentile_us(&self, target: TargetKey, percent: u8) -> Option<u64> {
        self.find(stored(target)).and_then(|index| self.seats.get(index)?.latency.percentile_us(percent))
    }

    fn hedge_earned(&self, provider: ProviderId) {
        let Some(budget) = self.budgets.get(provider.index()) else { return };
        // Two that see it below the bound at once go over it by one share: what matters is that no share counts twice.
        if budget.hedges.load(Ordering::Relaxed) < HEDGES_SAVED_MAX * HEDGE {
            budget.hedges.fetch_add(HEDGE_PERCENT, Ordering::Relaxed);
        }
    }

    fn hedge_allowed(&self, provider: ProviderId) -> bool {
        let Some(budget) = self.budgets.get(provider.index()) else { return false };
        let spend = |saved: u32| saved.checked_sub(HEDGE);
        budget.hedges.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend).is_ok()
    }

    fn key_standing(&self, key: KeyKey, now: Now) -> KeyStanding {
        self.aside.standing(key, now)
    }

    fn key_failed(&self, key: KeyKey, fault: KeyFault, now: Now) {
        self.aside.put(key, fault, now);
    }
}

impl Seat {
    /// Swaps the breaker's word for what `turn` makes of it; both.
    fn turn(&self, turn: impl Fn(Word) -> Word) -> (Word, Word) {
        let mut seen = self.word.load(Ordering::Acquire);
        loop {
            let next = turn(Word(seen));
            if next.0 == seen {
                return (Word(seen), next);
            }
            match self.word.compare_exchange_weak(seen, next.0, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return (Word(seen), next),
                Err(newer) => seen = newer,
            }
        }
    }

    /// For who has reserved it with nothing under way. What is under way is counted apart: see `claim`.
    fn clear(&self) {
        self.word.store(Word::CLOSED.0, Ordering::Relaxed);
        self.provider.store(0, Ordering::Relaxed);
        self.recent.clear();
        self.latency.clear();
    }
}

/// A target's key as it stands on the board, where two numbers mean something else.
fn stored(target: TargetKey) -> u64 {
    if target.0 <= RESERVED { target.0 + RESERVED + 1 } else { target.0 }
}

#[cfg(test)]
mod tests;
