//! One core's counts for one interval. Written by that core alone, then handed over whole; merging the sheets of all
//! cores and intervals, in any order, gives what one sheet would have counted.

use crate::{
    base::ids::ProviderId,
    ledger::{
        counts::{CountKey, Counts},
        distribution::Distribution,
        figures::Figures,
        record::{Outcome, Record, UnheardEnd},
        series::SeriesTable,
    },
};

/// Counts of one interval. What an exchange was is counted when its record closes; what happens in between (attempts,
/// gaps, connections) when it happens.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sheet {
    /// What is counted of exchanges, by all they are told apart by.
    pub series: SeriesTable,
    pub requests: Counts<RequestKey>,
    /// By the refusal's code.
    pub refusals: Counts<&'static str>,
    pub attempts: Counts<AttemptKey>,
    /// What was tried after an attempt that failed.
    pub moves: Counts<MoveKey>,
    /// What became of second attempts beside a first that was slow.
    pub hedges: Counts<HedgeKey>,
    /// What happened to the health of a provider's targets and keys.
    pub turns: Counts<TurnKey>,
    /// Between the events of all streams.
    pub gap_us: Distribution,
    /// Connections accepted from clients.
    pub accepted: u64,
    /// Of these, closed at once: their address had as many as it may.
    pub turned_away: u64,
    pub upstream: UpstreamCounts,
    /// Tasks that panicked and were caught.
    pub panics: u64,
    /// Upstream requests that we broke off because the client left.
    pub cancelled: u64,
    /// Answers that were read on after their client had left, by how far.
    pub unheard: Counts<UnheardEnd>,
    /// Comments written to clients of silent streams.
    pub keep_alives: u64,
    /// Exchanges whose tokens were estimated: by bytes, and with a vocabulary.
    pub estimates: [u64; 2],
    /// Of these by bytes, those for which the estimator had no room.
    pub unqueued: u64,
}

impl Sheet {
    /// Counts an exchange. For [`Record::close`], which is how it is counted once.
    pub(super) fn exchange(&mut self, record: &Record, outcome: Outcome) {
        let Record { provider, operation, status, .. } = *record;
        self.series.count(record, outcome);
        self.requests.add(RequestKey { provider, status, operation }, 1);
        if let Some(code) = record.refusal {
            self.refusals.add(code, 1);
        }
        if let Some(unheard) = record.unheard {
            self.unheard.add(unheard.end, 1);
        }
        if record.estimated {
            self.estimates[usize::from(record.by_vocabulary)] += 1;
        }
    }

    /// Counts one try at one provider.
    pub fn attempt(&mut self, provider: ProviderId, result: AttemptResult) {
        self.attempts.add(AttemptKey { provider: Some(provider), result }, 1);
    }

    /// Counts another try, under the provider that failed the one before; `reason` is one of a few fixed words.
    pub fn moved(&mut self, provider: ProviderId, to: Move, reason: &'static str) {
        self.moves.add(MoveKey { provider: Some(provider), to, reason }, 1);
    }

    /// Counts what became of a hedge, under the provider that was slow.
    pub fn hedged(&mut self, provider: ProviderId, hedge: Hedge) {
        self.hedges.add(HedgeKey { provider: Some(provider), hedge }, 1);
    }

    /// Counts a change of health.
    pub fn turned(&mut self, provider: ProviderId, turn: Turn) {
        self.turns.add(TurnKey { provider: Some(provider), turn }, 1);
    }

    /// Counts the time between two events of a stream.
    pub fn gap(&mut self, gap_us: u64) {
        self.gap_us.record(gap_us);
    }

    pub fn merge(&mut self, other: &Self) {
        self.series.merge(&other.series);
        self.requests.merge(&other.requests);
        self.refusals.merge(&other.refusals);
        self.attempts.merge(&other.attempts);
        self.moves.merge(&other.moves);
        self.hedges.merge(&other.hedges);
        self.turns.merge(&other.turns);
        self.gap_us.merge(&other.gap_us);
        self.accepted += other.accepted;
        self.turned_away += other.turned_away;
        self.upstream.opened += other.upstream.opened;
        self.upstream.reused += other.upstream.reused;
        self.upstream.stale += other.upstream.stale;
        self.panics += other.panics;
        self.cancelled += other.cancelled;
        self.unheard.merge(&other.unheard);
        self.keep_alives += other.keep_alives;
        self.estimates.iter_mut().zip(other.estimates).for_each(|(sum, part)| *sum += part);
        self.unqueued += other.unqueued;
    }

    /// Makes the sheet as good as new without giving its memory back.
    pub fn clear(&mut self) {
        self.series.clear();
        self.requests.clear();
        self.refusals.clear();
        self.attempts.clear();
        self.moves.clear();
        self.hedges.clear();
        self.turns.clear();
        self.gap_us.clear();
        (self.accepted, self.turned_away) = (0, 0);
        self.upstream = UpstreamCounts::default();
        (self.panics, self.cancelled, self.keep_alives) = (0, 0, 0);
        self.unheard.clear();
        (self.estimates, self.unqueued) = ([0, 0], 0);
    }

    /// The figures of all exchanges in it.
    pub fn whole(&self) -> Figures {
        let mut whole = Figures::default();
        self.series.iter().for_each(|row| whole.merge(&row.figures));
        whole
    }
}

/// One row of `requests`. The status is 0 when the client was sent none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestKey {
    // The numbers first: most comparisons end before the text.
    pub provider: Option<ProviderId>,
    pub status: u16,
    pub operation: &'static str,
}

impl CountKey for RequestKey {
    const OTHER: Self = Self { provider: None, status: 0, operation: "other" };

    fn hint(self) -> usize {
        self.provider.map_or(0, |provider| usize::from(provider.0)) ^ usize::from(self.status >> 4)
    }
}

/// One row of `attempts`; no provider stands for the providers that found no row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AttemptKey {
    pub provider: Option<ProviderId>,
    pub result: AttemptResult,
}

impl CountKey for AttemptKey {
    const OTHER: Self = Self { provider: None, result: AttemptResult::Lost };

    fn hint(self) -> usize {
        self.provider.map_or(0, |provider| usize::from(provider.0)) ^ (self.result as usize) << 2
    }
}

/// One row of `moves`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MoveKey {
    pub provider: Option<ProviderId>,
    pub to: Move,
    pub reason: &'static str,
}

impl CountKey for MoveKey {
    const OTHER: Self = Self { provider: None, to: Move::NextTarget, reason: "other" };
}

/// Where an exchange turned after an attempt that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Move {
    SameTarget,
    OtherKey,
    NextTarget,
}

impl Move {
    pub fn name(self) -> &'static str {
        match self {
            Self::SameTarget => "same_target",
            Self::OtherKey => "other_key",
            Self::NextTarget => "next_target",
        }
    }
}

/// One row of `hedges`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HedgeKey {
    pub provider: Option<ProviderId>,
    pub hedge: Hedge,
}

impl CountKey for HedgeKey {
    const OTHER: Self = Self { provider: None, hedge: Hedge::Begun };
}

/// A second attempt beside a first that is slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hedge {
    Begun,
    /// Its answer was the client's.
    Won,
    /// The provider's requests had not saved up one.
    Refused,
}

impl Hedge {
    pub fn name(self) -> &'static str {
        match self {
            Self::Begun => "begun",
            Self::Won => "won",
            Self::Refused => "refused",
        }
    }
}

/// One row of `turns`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TurnKey {
    pub provider: Option<ProviderId>,
    pub turn: Turn,
}

impl CountKey for TurnKey {
    const OTHER: Self = Self { provider: None, turn: Turn::BreakerOpened };
}

/// A change in the health of a target or of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Turn {
    BreakerOpened,
    /// A probe succeeded.
    BreakerClosed,
    /// A key's account has no money.
    KeyDead,
    /// The provider does not accept a key.
    KeyRefused,
}

impl Turn {
    pub fn name(self) -> &'static str {
        match self {
            Self::BreakerOpened => "breaker_opened",
            Self::BreakerClosed => "breaker_closed",
            Self::KeyDead => "key_dead",
            Self::KeyRefused => "key_refused",
        }
    }
}

/// What came of one try at one target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AttemptResult {
    /// An answer that the client gets, whatever its status.
    Answered,
    /// An answer that says "not now" (429, 5xx), after which the next target is tried.
    Rejected,
    /// No connection: name, TCP or TLS.
    Unreachable,
    TimedOut,
    /// The connection broke, or what came was no HTTP.
    Lost,
    /// We broke it off because the client left, or because another that was asked beside it began first.
    Cancelled,
}

impl AttemptResult {
    pub fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Rejected => "rejected",
            Self::Unreachable => "unreachable",
            Self::TimedOut => "timed_out",
            Self::Lost => "lost",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Upstream connections by how an attempt came to one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UpstreamCounts {
    pub opened: u64,
    pub reused: u64,
    /// Pooled ones that turned out closed when they were used, and were replaced by a fresh one.
    pub stale: u64,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        base::{money::NanoUsd, now::Now},
        ledger::{
            figures::{
                Sum,
                tests::{Event as Exchange, event},
            },
            record::{TokenKind, Tokens},
        },
    };

    /// Something that a core counts.
    #[derive(Clone, Debug)]
    enum Event {
        Exchange(Option<u16>, Exchange),
        Attempt(u16, AttemptResult),
        Moved(u16, Move, Turn),
        Gap(u64),
        Connections { accepted: u8, opened: u8, stale: u8 },
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let event = prop_oneof![
            (any::<Option<u16>>(), event())
                .prop_map(|(provider, event)| Event::Exchange(provider.map(|id| id % 40), event)),
            (0..40_u16).prop_map(|provider| Event::Attempt(provider, AttemptResult::Answered)),
            (0..40_u16).prop_map(|provider| Event::Attempt(provider, AttemptResult::Unreachable)),
            (0..40_u16).prop_map(|provider| Event::Moved(provider, Move::SameTarget, Turn::KeyDead)),
            (0..40_u16).prop_map(|provider| Event::Moved(provider, Move::OtherKey, Turn::BreakerClosed)),
            (0..1_u64 << 40).prop_map(Event::Gap),
            any::<[u8; 3]>().prop_map(|[accepted, opened, stale]| Event::Connections {
                accepted,
                opened,
                stale
            }),
        ];
        prop::collection::vec(event, 0..60)
    }

    fn count(event: &Event, sheet: &mut Sheet) {
        match *event {
            Event::Exchange(provider, ref exchange) => {
                let mut record = exchange.record();
                record.provider = provider.map(ProviderId);
                record.close(Now(u64::from(exchange.ran_us) * 1_000), exchange.outcome, sheet);
            }
            Event::Attempt(provider, result) => sheet.attempt(ProviderId(provider), result),
            Event::Moved(provider, to, turn) => {
                sheet.moved(ProviderId(provider), to, "lost");
                sheet.hedged(ProviderId(provider), Hedge::Won);
                sheet.turned(ProviderId(provider), turn);
            }
            Event::Gap(gap_us) => sheet.gap(gap_us),
            Event::Connections { accepted, opened, stale } => {
                sheet.accepted += u64::from(accepted);
                sheet.upstream.opened += u64::from(opened);
                sheet.upstream.stale += u64::from(stale);
                sheet.upstream.reused += 1;
                sheet.panics += 1;
                sheet.cancelled += 1;
                sheet.unqueued += 1;
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn parts_merged_in_any_order_are_the_whole(events in events(), cores in 1..4_usize) {
            let mut whole = Sheet::default();
            let mut parts = vec![Sheet::default(); cores];
            for (index, event) in events.iter().enumerate() {
                count(event, &mut whole);
                count(event, &mut parts[index % cores]);
            }
            let (mut ahead, mut back) = (Sheet::default(), Sheet::default());
            parts.iter().for_each(|part| ahead.merge(part));
            parts.iter().rev().for_each(|part| back.merge(part));
            prop_assert!(ahead == whole);
            prop_assert!(back == whole);
        }

        #[test]
        fn a_cleared_sheet_counts_like_a_new_one(first in events(), second in events()) {
            let (mut used, mut new) = (Sheet::default(), Sheet::default());
            first.iter().for_each(|event| count(event, &mut used));
            used.clear();
            prop_assert!(used == new);
            second.iter().for_each(|event| count(event, &mut used));
            second.iter().for_each(|event| count(event, &mut new));
            prop_assert!(used == new);
        }
    }

    #[test]
    fn an_exchange_is_counted_in_every_place_it_belongs() {
        let mut sheet = Sheet::default();
        let mut record = Record::new("chat/completions", Now(0));
        record.provider = Some(ProviderId(3));
        record.status = 200;
        record.attempts = 2;
        (record.bytes_in, record.bytes_out) = (10, 20);
        record.tokens = Tokens { prompt: Some(7), completion: Some(5), cached: Some(0), ..Tokens::default() };
        record.cost = Some(NanoUsd(9));
        record.gap(1_000);
        record.gap(3_000);
        record.close(Now(2_000), Outcome::Completed, &mut sheet);

        let key = RequestKey { provider: Some(ProviderId(3)), status: 200, operation: "chat/completions" };
        assert_eq!(sheet.requests.of(key), 1);
        let whole = sheet.whole();
        assert_eq!(whole.tokens[TokenKind::Prompt.index()], 7);
        assert_eq!(whole.tokens[TokenKind::Completion.index()], 5);
        assert_eq!((whole.of(Sum::NanoUsd), whole.of(Sum::Unpriced)), (9, 0));
        assert_eq!((whole.of(Sum::BytesIn), whole.of(Sum::BytesOut)), (10, 20));
        assert_eq!((whole.of(Sum::Requests), whole.of(Sum::Attempts)), (1, 2));
        assert_eq!((whole.prompt_tokens.sum(), whole.completion_tokens.sum()), (7, 5));
        assert_eq!((whole.duration_us.count(), whole.first_token_us.count()), (1, 0));
        assert_eq!((whole.of(Sum::Gaps), whole.of(Sum::GapsUs), whole.gap_us.sum()), (2, 4_000, 2_000));
    }

    #[test]
    fn what_is_estimated_or_has_no_price_is_told_apart() {
        let mut sheet = Sheet::default();
        let mut record = Record::new("chat/completions", Now(0));
        record.provider = Some(ProviderId(3));
        record.tokens = Tokens { prompt: Some(7), completion: Some(5), ..Tokens::default() };
        record.estimated = true;
        record.close(Now(1), Outcome::Completed, &mut sheet);
        Record::new("models", Now(0)).close(Now(1), Outcome::Completed, &mut sheet);
        let (whole, prompt) = (sheet.whole(), TokenKind::Prompt.index());
        assert_eq!((whole.tokens[prompt], whole.estimated[prompt]), (0, 7));
        assert_eq!((whole.of(Sum::NanoUsd), whole.of(Sum::Unpriced), whole.prompt_tokens.count()), (0, 1, 0));
    }
}
