//! One core's counts for one interval. Written by that core alone, then handed over whole; merging the sheets of all
//! cores and intervals, in any order, gives what one sheet would have counted.

use crate::{
    base::{
        ids::ProviderId,
        limits::{HISTOGRAM_TOKENS_MAX, HISTOGRAM_US_MAX},
    },
    ledger::{
        counts::{CountKey, Counts},
        distribution::Distribution,
        record::{Outcome, Record, TokenKind, UnheardEnd},
    },
};

/// Counts of one interval. What an exchange was is counted when its record closes; what happens in between (attempts,
/// gaps, connections) when it happens.
#[derive(Clone, Debug, PartialEq)]
pub struct Sheet {
    pub requests: Counts<RequestKey>,
    /// By the refusal's code.
    pub refusals: Counts<&'static str>,
    pub outcomes: Counts<Outcome>,
    pub attempts: Counts<AttemptKey>,
    /// What was tried after an attempt that failed.
    pub moves: Counts<MoveKey>,
    /// What became of second attempts beside a first that was slow.
    pub hedges: Counts<HedgeKey>,
    /// What happened to the health of a provider's targets and keys.
    pub turns: Counts<TurnKey>,
    pub tokens: Counts<TokenKey>,
    /// Nano-dollars by provider.
    pub cost: Counts<Option<ProviderId>>,
    /// Exchanges whose tokens have no price, by provider.
    pub unpriced: Counts<Option<ProviderId>>,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub duration_us: Distribution,
    pub overhead_us: Distribution,
    pub first_token_us: Distribution,
    pub gap_us: Distribution,
    pub prompt_tokens: Distribution,
    pub completion_tokens: Distribution,
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
}

impl Default for Sheet {
    fn default() -> Self {
        Self {
            requests: Counts::new(),
            refusals: Counts::new(),
            outcomes: Counts::new(),
            attempts: Counts::new(),
            moves: Counts::new(),
            hedges: Counts::new(),
            turns: Counts::new(),
            tokens: Counts::new(),
            cost: Counts::new(),
            unpriced: Counts::new(),
            bytes_in: 0,
            bytes_out: 0,
            duration_us: Distribution::new(HISTOGRAM_US_MAX),
            overhead_us: Distribution::new(HISTOGRAM_US_MAX),
            first_token_us: Distribution::new(HISTOGRAM_US_MAX),
            gap_us: Distribution::new(HISTOGRAM_US_MAX),
            prompt_tokens: Distribution::new(HISTOGRAM_TOKENS_MAX),
            completion_tokens: Distribution::new(HISTOGRAM_TOKENS_MAX),
            accepted: 0,
            turned_away: 0,
            upstream: UpstreamCounts::default(),
            panics: 0,
            cancelled: 0,
            unheard: Counts::new(),
            keep_alives: 0,
        }
    }
}

impl Sheet {
    /// Counts an exchange. For [`Record::close`], which is how it is counted once.
    pub(super) fn exchange(&mut self, record: &Record, outcome: Outcome) {
        let Record { provider, operation, status, .. } = *record;
        self.requests.add(RequestKey { provider, status, operation }, 1);
        self.outcomes.add(outcome, 1);
        if let Some(code) = record.refusal {
            self.refusals.add(code, 1);
        }
        self.bytes_in += record.bytes_in;
        self.bytes_out += record.bytes_out;
        self.duration_us.record(record.duration_us());
        self.overhead_us.record(record.overhead_us());
        if let Some(first_token_us) = record.first_token_us() {
            self.first_token_us.record(first_token_us);
        }
        for (kind, count) in record.tokens.reported() {
            self.tokens.add(TokenKey { provider, kind, estimated: record.estimated }, count);
            match kind {
                _ if record.estimated => {}
                TokenKind::Prompt => self.prompt_tokens.record(count),
                TokenKind::Completion => self.completion_tokens.record(count),
                _ => {}
            }
        }
        if let Some(unheard) = record.unheard {
            self.unheard.add(unheard.end, 1);
        }
        match record.cost {
            Some(cost) => self.cost.add(provider, cost.0),
            None if record.tokens.total().is_some() => self.unpriced.add(provider, 1),
            None => {}
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
        self.requests.merge(&other.requests);
        self.refusals.merge(&other.refusals);
        self.outcomes.merge(&other.outcomes);
        self.attempts.merge(&other.attempts);
        self.moves.merge(&other.moves);
        self.hedges.merge(&other.hedges);
        self.turns.merge(&other.turns);
        self.tokens.merge(&other.tokens);
        self.cost.merge(&other.cost);
        self.unpriced.merge(&other.unpriced);
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        self.duration_us.merge(&other.duration_us);
        self.overhead_us.merge(&other.overhead_us);
        self.first_token_us.merge(&other.first_token_us);
        self.gap_us.merge(&other.gap_us);
        self.prompt_tokens.merge(&other.prompt_tokens);
        self.completion_tokens.merge(&other.completion_tokens);
        self.accepted += other.accepted;
        self.turned_away += other.turned_away;
        self.upstream.opened += other.upstream.opened;
        self.upstream.reused += other.upstream.reused;
        self.upstream.stale += other.upstream.stale;
        self.panics += other.panics;
        self.cancelled += other.cancelled;
        self.unheard.merge(&other.unheard);
        self.keep_alives += other.keep_alives;
    }

    /// Makes the sheet as good as new without giving its memory back.
    pub fn clear(&mut self) {
        self.requests.clear();
        self.refusals.clear();
        self.outcomes.clear();
        self.attempts.clear();
        self.moves.clear();
        self.hedges.clear();
        self.turns.clear();
        self.tokens.clear();
        self.cost.clear();
        self.unpriced.clear();
        for distribution in [
            &mut self.duration_us,
            &mut self.overhead_us,
            &mut self.first_token_us,
            &mut self.gap_us,
            &mut self.prompt_tokens,
            &mut self.completion_tokens,
        ] {
            distribution.clear();
        }
        (self.bytes_in, self.bytes_out) = (0, 0);
        (self.accepted, self.turned_away) = (0, 0);
        self.upstream = UpstreamCounts::default();
        (self.panics, self.cancelled, self.keep_alives) = (0, 0, 0);
        self.unheard.clear();
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
}

/// One row of `attempts`; no provider stands for the providers that found no row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AttemptKey {
    pub provider: Option<ProviderId>,
    pub result: AttemptResult,
}

impl CountKey for AttemptKey {
    const OTHER: Self = Self { provider: None, result: AttemptResult::Lost };
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

/// One row of `tokens`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenKey {
    pub provider: Option<ProviderId>,
    pub kind: TokenKind,
    /// Not reported: by the bytes of what was asked and said.
    pub estimated: bool,
}

impl CountKey for TokenKey {
    const OTHER: Self = Self { provider: None, kind: TokenKind::Prompt, estimated: false };
}

/// By provider alone; those that found no row are counted with no provider.
impl CountKey for Option<ProviderId> {
    const OTHER: Self = None;
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
        ledger::record::Tokens,
    };

    /// Something that a core counts.
    #[derive(Clone, Debug)]
    enum Event {
        Exchange { provider: Option<u16>, status: u16, ran_us: u32, prompt: Option<u32>, outcome: Outcome },
        Attempt(u16, AttemptResult),
        Moved(u16, Move, Turn),
        Gap(u64),
        Connections { accepted: u8, opened: u8, stale: u8 },
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let outcome = prop_oneof![Just(Outcome::Completed), Just(Outcome::Refused), Just(Outcome::Panicked)];
        let exchange = (any::<Option<u16>>(), 100..600_u16, any::<u32>(), any::<Option<u32>>(), outcome)
            .prop_map(|(provider, status, ran_us, prompt, outcome)| Event::Exchange {
                provider: provider.map(|id| id % 40),
                status,
                ran_us,
                prompt,
                outcome,
            });
        let event = prop_oneof![
            exchange,
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
            Event::Exchange { provider, status, ran_us, prompt, outcome } => {
                let mut record = Record::new("chat/completions", Now(0));
                record.provider = provider.map(ProviderId);
                record.status = status;
                record.refusal = (outcome == Outcome::Refused).then_some("invalid_json");
                record.bytes_in = u64::from(ran_us) % 1_000;
                record.phases.first_token = prompt.map(|_| Now(5_000));
                let prompt = prompt.map(u64::from);
                record.tokens = Tokens { prompt, completion: prompt, cached: prompt, ..Tokens::default() };
                record.estimated = ran_us % 3 == 0;
                record.cost = prompt.filter(|_| ran_us % 2 == 0).map(NanoUsd);
                record.close(Now(u64::from(ran_us) * 1_000), outcome, sheet);
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
        (record.bytes_in, record.bytes_out) = (10, 20);
        record.tokens = Tokens { prompt: Some(7), completion: Some(5), cached: Some(0), ..Tokens::default() };
        record.cost = Some(NanoUsd(9));
        record.close(Now(2_000), Outcome::Completed, &mut sheet);

        let key = RequestKey { provider: Some(ProviderId(3)), status: 200, operation: "chat/completions" };
        assert_eq!(sheet.requests.of(key), 1);
        assert_eq!(sheet.tokens.of(token_key(TokenKind::Prompt)), 7);
        assert_eq!(sheet.tokens.of(token_key(TokenKind::Completion)), 5);
        assert_eq!((sheet.cost.of(Some(ProviderId(3))), sheet.unpriced.total()), (9, 0));
        assert_eq!((sheet.bytes_in, sheet.bytes_out), (10, 20));
        assert_eq!((sheet.prompt_tokens.sum(), sheet.completion_tokens.sum()), (7, 5));
        assert_eq!((sheet.duration_us.count(), sheet.first_token_us.count()), (1, 0));
    }

    fn token_key(kind: TokenKind) -> TokenKey {
        TokenKey { provider: Some(ProviderId(3)), kind, estimated: false }
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
        let key = token_key(TokenKind::Prompt);
        assert_eq!((sheet.tokens.of(key), sheet.tokens.of(TokenKey { estimated: true, ..key })), (0, 7));
        assert_eq!((sheet.cost.total(), sheet.unpriced.total(), sheet.prompt_tokens.count()), (0, 1, 0));
    }
}
