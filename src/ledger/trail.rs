//! Which trace an exchange belongs to, and what became of each of its attempts. Kept only where somebody wants to know: a
//! record without a trail costs its exchange one branch for each thing that would stand here, and a trace of which no spans are
//! made no more than its numbers.

use smallvec::SmallVec;

use crate::{
    base::{ids::ProviderId, now::Now},
    ledger::record::ModelName,
    wire::trace_context::{Flags, Onward, Share, SpanId, TraceId, TraceParent},
};

/// Part in a trace.
#[derive(Clone, Debug)]
pub struct Trail {
    pub trace: TraceId,
    /// The exchange itself; `None`: we only know of the trace and take no part in it.
    pub span: Option<SpanId>,
    /// The client's span, if it named one.
    pub parent: Option<SpanId>,
    flags: Flags,
    keeps_state: bool,
    /// The attempt that began last, as its provider is told of it.
    tried: Option<SpanId>,
    /// In the order in which they began; none where no spans are made of them.
    tries: Option<Box<Tries>>,
}

type Tries = SmallVec<[Try; 2]>;

/// One attempt.
#[derive(Clone, Debug)]
pub struct Try {
    pub span: Option<SpanId>,
    pub provider: ProviderId,
    pub model: ModelName,
    pub began: Now,
    /// `None`: it lasted as long as its exchange.
    pub ended: Option<Now>,
    /// Of the provider's answer; 0: there was none.
    pub status: u16,
    /// In a word, why it came to nothing without an answer.
    pub failure: Option<&'static str>,
    /// Over a connection that had served before.
    pub reused: bool,
}

impl Trail {
    /// Joins the client's trace, or begins one. `chance` gives 64 bits at a time.
    pub fn join(
        client: Option<TraceParent>,
        keeps_state: bool,
        share: Share,
        mut chance: impl FnMut() -> u64,
    ) -> Self {
        let span = Some(fresh_span(&mut chance));
        if let Some(TraceParent { trace, span: parent, flags }) = client {
            return Self { trace, span, parent: Some(parent), flags, keeps_state, tried: None, tries: None };
        }
        let trace = loop {
            let number = u128::from(chance()) << 64 | u128::from(chance());
            if let Some(trace) = TraceId::new(number) {
                break trace;
            }
        };
        let flags = Flags::sampled(share.keeps(trace));
        // A state belongs to a parent.
        Self { trace, span, parent: None, flags, keeps_state: false, tried: None, tries: None }
    }

    /// Knows of the client's trace, and takes no part in it.
    pub fn note(client: TraceParent) -> Self {
        let TraceParent { trace, span: parent, flags } = client;
        Self { trace, span: None, parent: Some(parent), flags, keeps_state: true, tried: None, tries: None }
    }

    /// Whether spans are made of it.
    pub fn is_sampled(&self) -> bool {
        self.span.is_some() && self.flags.is_sampled()
    }

    pub fn flags(&self) -> Flags {
        self.flags
    }

    /// What is known of each attempt, where spans are made of them.
    pub fn tries(&self) -> &[Try] {
        self.tries.as_deref().map_or(&[], SmallVec::as_slice)
    }

    /// The attempt under way, where spans are made of attempts.
    pub fn last_try(&mut self) -> Option<&mut Try> {
        self.tries.as_mut()?.last_mut()
    }

    /// An attempt begins.
    pub fn begin(&mut self, provider: ProviderId, model: &ModelName, now: Now, chance: impl FnMut() -> u64) {
        let span = self.span.map(|_| fresh_span(chance));
        self.tried = span;
        if !self.is_sampled() {
            return;
        }
        let (ended, status, failure, reused) = (None, 0, None, false);
        let tried = Try { span, provider, model: model.clone(), began: now, ended, status, failure, reused };
        self.tries.get_or_insert_default().push(tried);
    }

    /// A trail of one attempt alone, which runs beside the last one.
    pub fn beside(
        &self,
        provider: ProviderId,
        model: &ModelName,
        now: Now,
        chance: impl FnMut() -> u64,
    ) -> Self {
        let Self { trace, span, parent, flags, keeps_state, .. } = *self;
        let mut beside = Self { trace, span, parent, flags, keeps_state, tried: None, tries: None };
        beside.begin(provider, model, now, chance);
        beside
    }

    /// Takes the attempt that ran beside the last one. The one that goes on stands last; the other has ended, for this reason.
    pub fn join_beside(&mut self, beside: Self, it_goes_on: bool, now: Now, failure: &'static str) {
        if it_goes_on {
            self.tried = beside.tried;
        }
        let (Some(tries), Some(beside)) = (&mut self.tries, beside.tries) else { return };
        let last = tries.len().saturating_sub(1);
        let place = if it_goes_on { tries.len() } else { last };
        tries.insert_many(place, *beside);
        if let Some(other) = tries.get_mut(last) {
            (other.ended, other.failure) = (Some(now), Some(failure));
        }
    }

    /// What the provider of the last attempt is told; `None`: what the client said goes on unchanged.
    pub fn onward(&self) -> Option<Onward> {
        let span = self.tried?;
        let parent = TraceParent { trace: self.trace, span, flags: self.flags };
        Some(Onward { parent, keeps_state: self.keeps_state })
    }
}

fn fresh_span(mut chance: impl FnMut() -> u64) -> SpanId {
    loop {
        if let Some(span) = SpanId::new(chance()) {
            return span;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THEIRS: &[u8] = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    /// Zero at first: numbers that mean nothing are drawn again.
    fn counting() -> impl FnMut() -> u64 {
        let mut next = 0;
        move || {
            next += 1;
            next - 1
        }
    }

    #[track_caller]
    fn check_onward(trail: &Trail, expect: Option<(&str, bool)>) {
        let onward = trail.onward();
        let expect = expect.map(|(parent, keeps_state)| Onward {
            parent: TraceParent::parse(parent.as_bytes()).expect("a parent"),
            keeps_state,
        });
        assert_eq!(onward, expect);
    }

    #[test]
    fn each_attempt_is_a_span_of_its_own_in_the_clients_trace() {
        let client = TraceParent::parse(THEIRS);
        let mut chance = counting();
        let mut trail = Trail::join(client, true, Share::of_million(0), &mut chance);
        assert_eq!((trail.parent, trail.span), (client.map(|client| client.span), SpanId::new(1)));
        assert!(trail.is_sampled(), "the parent decides, not the share");
        check_onward(&trail, None);
        for expect in ["0000000000000002", "0000000000000003"] {
            trail.begin(ProviderId(0), &"m".into(), Now(1), &mut chance);
            check_onward(&trail, Some((&format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{expect}-01"), true)));
        }
    }

    #[test]
    fn a_trace_of_ones_own_is_kept_by_its_number() {
        let of = |low: u64, share| {
            let mut numbers = [9, 1, low].into_iter();
            Trail::join(None, true, share, || numbers.next().expect("three"))
        };
        let half = Share::of_million(500_000);
        assert!(
            of(1 << 62 | 1 << 63, Share::ALL).is_sampled()
                && of((1 << 63) - 1, Share::of_million(1_000_000)).is_sampled()
        );
        assert!(of(1 << 61, half).is_sampled() && !of(1 << 62, half).is_sampled());
        assert!(!of(1, Share::of_million(0)).is_sampled());
        let mut trail = of(1, half);
        trail.begin(ProviderId(0), &"m".into(), Now(1), || 5);
        assert!(trail.tries().len() == 1);
        check_onward(&trail, Some(("00-00000000000000010000000000000001-0000000000000005-01", false)));
    }

    #[test]
    fn of_two_that_run_side_by_side_the_one_that_goes_on_stands_last() {
        for it_goes_on in [false, true] {
            let mut chance = counting();
            let mut trail = Trail::join(None, true, Share::ALL, &mut chance);
            trail.begin(ProviderId(0), &"slow".into(), Now(1), &mut chance);
            let beside = trail.beside(ProviderId(1), &"hedge".into(), Now(2), &mut chance);
            assert_ne!(
                beside.onward().map(|onward| onward.parent),
                trail.onward().map(|onward| onward.parent)
            );
            trail.join_beside(beside, it_goes_on, Now(3), "cancelled");
            let told: Vec<_> = trail
                .tries()
                .iter()
                .map(|tried| (tried.model.as_str(), tried.ended, tried.failure))
                .collect();
            let expect = if it_goes_on { ["slow", "hedge"] } else { ["hedge", "slow"] };
            assert_eq!(told, [(expect[0], Some(Now(3)), Some("cancelled")), (expect[1], None, None)]);
        }
    }

    #[test]
    fn of_a_trace_that_is_not_kept_the_provider_is_told_and_no_more_is_known() {
        assert!(size_of::<Trail>() <= 64, "one line of the cache");
        let mut chance = counting();
        let mut trail = Trail::join(None, true, Share::of_million(0), &mut chance);
        let told = |trail: &Trail| trail.onward().expect("an attempt is under way").parent;
        trail.begin(ProviderId(0), &"a".into(), Now(1), &mut chance);
        let first = told(&trail);
        let beside = trail.beside(ProviderId(1), &"b".into(), Now(2), &mut chance);
        let second = told(&beside);
        assert!(first.span != second.span && ![first, second].iter().any(|told| told.flags.is_sampled()));
        trail.join_beside(beside.clone(), false, Now(3), "lost");
        assert_eq!(told(&trail), first);
        trail.join_beside(beside, true, Now(3), "lost");
        assert_eq!(told(&trail), second);
        assert!(trail.tries().is_empty() && trail.last_try().is_none());
    }

    #[test]
    fn who_only_notes_a_trace_says_nothing_of_its_own() {
        let mut trail = Trail::note(TraceParent::parse(THEIRS).expect("good"));
        trail.begin(ProviderId(0), &"m".into(), Now(1), || unreachable!("no number is made"));
        check_onward(&trail, None);
        assert!(!trail.is_sampled());
    }
}
