//! What is counted of the exchanges that have one set of labels, for any span of time: a second, a minute, a day. Merging
//! the figures of parts, in any order, gives those of the whole.
//!
//! What is counted as what:
//!
//! | word | what it counts | when |
//! |---|---|---|
//! | request | a client's request, once, whatever became of it, under the labels of its last attempt | at its end |
//! | attempt | a call to a provider, counted with its request: none if that was refused, several if it failed over | at its end |
//! | tokens, cost | those of the answer that the client got; of attempts that failed nothing is known | at its end |
//! | estimated tokens | tokens that were not reported, by bytes or by words; never part of the reported ones | at its end |
//! | without a price | requests that used tokens of a model whose price is not known; their cost is in no sum | at its end |
//! | outcome | how a request ended: one for each request; all but `completed` are errors | at its end |
//! | duration | from the first byte of a request to the end of its answer, all attempts within | at its end |
//! | own overhead | the part of it that was spent waiting neither for upstream nor client | at its end |
//! | first token | from the first byte of a request to the first token of its answer; streams only | at its end |
//! | gap | between two events of a stream: all of them in sum, number and steps, and each stream's mean as spread | at its end |
//! | phase | the part of a duration between two moments of it, where both came | at its end |

use crate::ledger::{
    distribution::Distribution,
    genai::DURATION_BOUNDS_US,
    record::{Outcome, Phase, Record, TokenKind},
    varint::{Reader, write},
};

/// A count that stands by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sum {
    Requests,
    Streams,
    Attempts,
    NanoUsd,
    /// Requests whose tokens have no price.
    Unpriced,
    BytesIn,
    BytesOut,
    Gaps,
    GapsUs,
}

const SUMS: usize = Sum::GapsUs as usize + 1;
const GAP_STEPS: usize = DURATION_BOUNDS_US.len();

/// Counts, and how durations and tokens were spread.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    /// By [`Sum`], then all gaps by [`chunk_step`](crate::ledger::genai::chunk_step).
    plain: [u64; SUMS + GAP_STEPS],
    /// By [`TokenKind::index`], as reported, and as estimated.
    pub tokens: [u64; TokenKind::ALL.len()],
    pub estimated: [u64; TokenKind::ALL.len()],
    /// By [`Outcome::index`].
    pub outcomes: [u64; Outcome::ALL.len()],
    /// By [`Phase::index`]: how many requests had it, and how long it was in all of them.
    pub phases: [u64; Phase::ALL.len()],
    pub phases_us: [u64; Phase::ALL.len()],
    pub duration_us: Distribution,
    pub overhead_us: Distribution,
    pub first_token_us: Distribution,
    /// Of each stream the mean.
    pub gap_us: Distribution,
    pub prompt_tokens: Distribution,
    pub completion_tokens: Distribution,
}

impl Figures {
    pub fn of(&self, sum: Sum) -> u64 {
        self.plain[sum as usize]
    }

    /// All gaps, by the number of the bucket of `time_per_output_chunk` that they fall into.
    pub fn gap_steps(&self) -> &[u64] {
        &self.plain[SUMS..]
    }

    fn add(&mut self, sum: Sum, count: u64) {
        bump(&mut self.plain, sum as usize, count);
    }

    /// Counts an exchange that has ended.
    pub(super) fn count(&mut self, record: &Record, outcome: Outcome) {
        let mean_gap_us = record.gaps_us.checked_div(u64::from(record.gaps));
        // These first: what each needs from memory is then on its way while the rest is done.
        self.count_spreads(record, mean_gap_us);
        self.add(Sum::Requests, 1);
        self.add(Sum::Streams, u64::from(record.stream));
        self.add(Sum::Attempts, u64::from(record.attempts));
        self.add(Sum::BytesIn, record.bytes_in);
        self.add(Sum::BytesOut, record.bytes_out);
        bump(&mut self.outcomes, outcome.index(), 1);
        if mean_gap_us.is_some() {
            self.count_gaps(record);
        }
        record.phases.each_span_us(|phase, us| {
            bump(&mut self.phases, phase.index(), 1);
            bump(&mut self.phases_us, phase.index(), us);
        });
        let sums = if record.estimated { &mut self.estimated } else { &mut self.tokens };
        record.tokens.each(|kind, count| bump(sums, kind.index(), count));
        match record.cost {
            Some(cost) => self.add(Sum::NanoUsd, cost.0),
            None if record.tokens.total().is_some() => self.add(Sum::Unpriced, 1),
            None => {}
        }
    }

    fn count_spreads(&mut self, record: &Record, mean_gap_us: Option<u64>) {
        self.duration_us.record(record.duration_us());
        self.overhead_us.record(record.overhead_us());
        if let Some(first_token_us) = record.first_token_us() {
            self.first_token_us.record(first_token_us);
        }
        if let Some(mean_gap_us) = mean_gap_us {
            self.gap_us.record(mean_gap_us);
        }
        if !record.estimated {
            record.tokens.prompt.iter().for_each(|count| self.prompt_tokens.record(*count));
            record.tokens.completion.iter().for_each(|count| self.completion_tokens.record(*count));
        }
    }

    fn count_gaps(&mut self, record: &Record) {
        self.add(Sum::Gaps, u64::from(record.gaps));
        self.add(Sum::GapsUs, record.gaps_us);
        let sums = self.plain[SUMS..].chunks_mut(4).zip(record.gap_steps.chunks(4));
        // A stream's gaps are alike: most steps have none, which is seen of four at once.
        for (sums, gaps) in sums.filter(|(_, gaps)| gaps.iter().fold(0, |any, gaps| any | gaps) != 0) {
            sums.iter_mut().zip(gaps).for_each(|(sum, gaps)| *sum = sum.saturating_add(u64::from(*gaps)));
        }
    }

    pub fn merge(&mut self, other: &Self) {
        for (sums, parts) in self.counts_mut().into_iter().zip(other.counts()) {
            for (sum, part) in sums.iter_mut().zip(parts) {
                *sum = sum.saturating_add(*part);
            }
        }
        for (sum, part) in self.spreads_mut().into_iter().zip(other.spreads()) {
            sum.merge(part);
        }
    }

    /// Forgets the counts, and keeps the memory.
    pub fn clear(&mut self) {
        self.counts_mut().into_iter().for_each(|counts| counts.fill(0));
        self.spreads_mut().into_iter().for_each(Distribution::clear);
    }

    /// Appends it as bytes: each group of counts by how many there are, then the distributions likewise.
    pub fn encode(&self, bytes: &mut Vec<u8>) {
        for counts in self.counts() {
            // What is zero at a group's end needs not be said.
            let told = counts.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1);
            write(bytes, told as u64);
            counts.iter().take(told).for_each(|count| write(bytes, *count));
        }
        let spreads = self.spreads();
        write(bytes, spreads.len() as u64);
        spreads.into_iter().for_each(|spread| spread.encode(bytes));
    }

    /// The other way round, all bytes of it. A group may be shorter than it is today, because it grew since; `None` for one
    /// that is longer, and whatever else [`encode`](Self::encode) never wrote.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let mut decoded = Self::default();
        for counts in decoded.counts_mut() {
            let told = usize::try_from(reader.number()?).ok()?;
            for count in counts.get_mut(..told)? {
                *count = reader.number()?;
            }
        }
        let told = usize::try_from(reader.number()?).ok()?;
        for spread in decoded.spreads_mut().get_mut(..told)? {
            **spread = Distribution::decode(&mut reader)?;
        }
        reader.is_empty().then_some(decoded)
    }

    // The order of these is how they lie on disk: what is new comes last, also within each, and nothing leaves.

    fn counts(&self) -> [&[u64]; 6] {
        [&self.plain, &self.tokens, &self.estimated, &self.outcomes, &self.phases, &self.phases_us]
    }

    fn counts_mut(&mut self) -> [&mut [u64]; 6] {
        let Self { plain, tokens, estimated, outcomes, phases, phases_us, .. } = self;
        [plain, tokens, estimated, outcomes, phases, phases_us]
    }

    fn spreads(&self) -> [&Distribution; 6] {
        [
            &self.duration_us,
            &self.overhead_us,
            &self.first_token_us,
            &self.gap_us,
            &self.prompt_tokens,
            &self.completion_tokens,
        ]
    }

    fn spreads_mut(&mut self) -> [&mut Distribution; 6] {
        [
            &mut self.duration_us,
            &mut self.overhead_us,
            &mut self.first_token_us,
            &mut self.gap_us,
            &mut self.prompt_tokens,
            &mut self.completion_tokens,
        ]
    }
}

#[inline]
fn bump(sums: &mut [u64], index: usize, count: u64) {
    if let Some(sum) = sums.get_mut(index) {
        *sum = sum.saturating_add(count);
    }
}

/// Whatever lies on the disk is read or refused; what is read is written as it was, and read again.
#[cfg(any(test, feature = "fuzzing"))]
pub fn fuzz_figures(data: &[u8]) {
    if let Some(figures) = Figures::decode(data) {
        let mut bytes = Vec::new();
        figures.encode(&mut bytes);
        assert!(bytes.len() <= data.len());
        assert_eq!(Figures::decode(&bytes), Some(figures));
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        base::{money::NanoUsd, now::Now},
        ledger::{record::Tokens, sheet::Sheet},
    };

    /// One exchange, by what is counted of it.
    #[derive(Clone, Debug)]
    pub(crate) struct Event {
        pub(crate) status: u16,
        pub(crate) ran_us: u32,
        pub(crate) prompt: Option<u32>,
        pub(crate) outcome: Outcome,
    }

    pub(crate) fn event() -> impl Strategy<Value = Event> {
        let outcome = prop::sample::select(&Outcome::ALL[..]);
        let parts = (100..600_u16, any::<u32>(), any::<Option<u32>>(), outcome);
        parts.prop_map(|(status, ran_us, prompt, outcome)| Event { status, ran_us, prompt, outcome })
    }

    impl Event {
        /// The record of it, still open.
        pub(crate) fn record(&self) -> Record {
            let mut record = Record::new("chat/completions", Now(0));
            record.status = self.status;
            record.stream = self.ran_us.is_multiple_of(2);
            record.attempts = u8::try_from(self.ran_us % 4).expect("below 4");
            record.refusal = (self.outcome == Outcome::Refused).then_some("invalid_json");
            (record.bytes_in, record.bytes_out) = (u64::from(self.ran_us) % 1_000, 7);
            record.phases.head_read = Some(Now(3_000));
            record.phases.first_token = self.prompt.map(|_| Now(5_000));
            (0..self.ran_us % 5).for_each(|_| record.gap(u64::from(self.ran_us)));
            let prompt = self.prompt.map(u64::from);
            record.tokens = Tokens { prompt, completion: prompt, cached: prompt, ..Tokens::default() };
            record.estimated = self.ran_us.is_multiple_of(3);
            record.cost = prompt.filter(|_| self.ran_us.is_multiple_of(2)).map(NanoUsd);
            record
        }

        fn count(&self, figures: &mut Figures) {
            let closed =
                self.record().close(Now(u64::from(self.ran_us) * 1_000), self.outcome, &mut Sheet::default());
            figures.count(&closed, self.outcome);
        }
    }

    fn of(events: &[Event]) -> Figures {
        let mut figures = Figures::default();
        events.iter().for_each(|event| event.count(&mut figures));
        figures
    }

    fn bytes(figures: &Figures) -> Vec<u8> {
        let mut bytes = Vec::new();
        figures.encode(&mut bytes);
        bytes
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_is_merged_in_any_order_is_what_was_counted_at_once(
            events in prop::collection::vec(event(), 0..60), first in 0..60_usize, second in 0..60_usize,
        ) {
            let (first, second) = (first.min(events.len()), second.min(events.len()));
            let (a, rest) = events.split_at(first.min(second));
            let (b, c) = rest.split_at(first.max(second) - a.len());
            let (whole, a, b, c) = (of(&events), of(a), of(b), of(c));
            let merged = |parts: &[&Figures]| {
                let mut sum = Figures::default();
                parts.iter().for_each(|part| sum.merge(part));
                sum
            };
            prop_assert_eq!(&merged(&[&a, &b, &c]), &whole);
            prop_assert_eq!(&merged(&[&c, &b, &a]), &whole);
            prop_assert_eq!(&merged(&[&a, &merged(&[&b, &c])]), &whole);
        }

        #[test]
        fn what_is_written_is_read_again_and_a_cleared_one_counts_like_a_new_one(
            events in prop::collection::vec(event(), 0..60),
        ) {
            let mut figures = of(&events);
            prop_assert_eq!(Figures::decode(&bytes(&figures)), Some(figures.clone()));
            figures.clear();
            prop_assert_eq!(&figures, &Figures::default());
            events.iter().for_each(|event| event.count(&mut figures));
            prop_assert_eq!(figures, of(&events));
        }
    }

    #[test]
    fn a_shorter_group_was_written_before_it_grew_and_a_longer_one_is_from_tomorrow() {
        let mut old = Vec::new();
        [0, 0, 0, 0, 0, 0, 0].iter().for_each(|number| write(&mut old, *number));
        assert_eq!(Figures::decode(&old), Some(Figures::default()));
        let mut new = Vec::new();
        write(&mut new, (SUMS + GAP_STEPS) as u64 + 1);
        (0..SUMS + GAP_STEPS + 7).for_each(|_| write(&mut new, 0));
        assert_eq!(Figures::decode(&new), None);
        assert_eq!(Figures::decode(&[&old[..], &[0]].concat()), None, "a byte too many");
    }

    #[test]
    fn no_bytes_at_all_are_too_much_for_the_reader() {
        let events: Vec<_> = (0..40)
            .map(|n: u32| Event {
                status: 200,
                ran_us: n.pow(5),
                prompt: Some(n * 97),
                outcome: Outcome::Completed,
            })
            .collect();
        let seed = bytes(&of(&events));
        fuzz_figures(&seed);
        let mut chance = 7_u64;
        for _ in 0..5_000 {
            let mut mutated = seed.clone();
            for _ in 0..3 {
                chance = crate::base::ids::mix(chance.wrapping_add(0x9e37_79b9_7f4a_7c15));
                let place = usize::try_from(chance >> 16).expect("64 bits") % mutated.len();
                mutated[place] = chance.to_le_bytes()[0];
            }
            fuzz_figures(&mutated);
        }
    }

    #[test]
    fn a_row_of_one_kind_of_request_is_small() {
        let events: Vec<_> = (0..1_000)
            .map(|n| Event {
                status: 200,
                ran_us: 300_000 + n * 100,
                prompt: Some(100 + n % 50),
                outcome: Outcome::Completed,
            })
            .collect();
        assert!(bytes(&of(&events)).len() < 1_024, "{}", bytes(&of(&events)).len());
    }
}
