//! What one exchange leaves behind: filled left to right while it runs, counted once when it closes, whatever happens.

use std::{fmt, ops::Deref};

use smallvec::SmallVec;

use crate::{
    base::{ids::ProviderId, money::NanoUsd, now::Now},
    ledger::{
        counts::CountKey,
        genai,
        gist::Gist,
        sheet::Sheet,
        trail::{Trail, Try},
        untold::Told,
    },
    wire::{estimate::MilliTokens, token::TokenId},
};

/// Gaps of a stream, by how long they were.
pub type GapSteps = [u32; genai::DURATION_BOUNDS_US.len()];

/// One exchange: one request and its reply, whatever the attempts. `None` and zero mean "not that far".
#[derive(Clone, Debug)]
pub struct Record {
    /// What was asked for, as a metric label: `chat/completions`.
    pub operation: &'static str,
    /// Status the client was sent; 0 when it was sent none.
    pub status: u16,
    pub stream: bool,
    pub caller: Option<TokenId>,
    pub provider: Option<ProviderId>,
    pub model_asked: ModelName,
    pub model_used: ModelName,
    pub attempts: u8,
    /// The code of the refusal, if we said no.
    pub refusal: Option<&'static str>,
    pub phases: Phases,
    waits: Waits,
    /// How many gaps there were between the events of a stream, and how long they were in all.
    pub gaps: u32,
    pub gaps_us: u64,
    /// The gaps by [`genai::chunk_step`]; those beyond the last are in none.
    pub gap_steps: GapSteps,
    /// Bytes of bodies: from the client, and to it.
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub tokens: Tokens,
    /// Some of these tokens were not reported, but estimated.
    pub estimated: bool,
    /// That was done with a vocabulary, and not by bytes.
    pub by_vocabulary: bool,
    /// What the answer has said so far, by its bytes; of no use where its tokens are reported.
    pub said: MilliTokens,
    /// What the exchange cost; `None`: nothing was used, or it has no price.
    pub cost: Option<NanoUsd>,
    /// What became of the upstream's answer after the client had left in its middle; `None`: nothing of it was read then.
    pub unheard: Option<Unheard>,
    /// Its trace and its attempts, where somebody wants to know.
    pub trail: Option<Box<Trail>>,
    /// Set by [`Record::close`] and nothing else.
    pub(super) outcome: Option<Outcome>,
}

impl Record {
    /// The answer that had begun never reached its client: another will, or none.
    pub fn forget_answer(&mut self) {
        self.phases.first_token = None;
        (self.tokens, self.said) = (Tokens::default(), MilliTokens::default());
        (self.gaps, self.gaps_us, self.gap_steps) = (0, 0, GapSteps::default());
    }

    /// A record whose first phase begins `now`.
    // Inlined: it is half a kilobyte, and is made where it stays.
    #[inline]
    pub fn new(operation: &'static str, now: Now) -> Self {
        Self {
            operation,
            status: 0,
            stream: false,
            caller: None,
            provider: None,
            model_asked: ModelName::default(),
            model_used: ModelName::default(),
            attempts: 0,
            refusal: None,
            phases: Phases { started: now, ..Phases::default() },
            waits: Waits::default(),
            gaps: 0,
            gaps_us: 0,
            gap_steps: GapSteps::default(),
            bytes_in: 0,
            bytes_out: 0,
            tokens: Tokens::default(),
            estimated: false,
            by_vocabulary: false,
            said: MilliTokens::default(),
            cost: None,
            unheard: None,
            trail: None,
            outcome: None,
        }
    }

    /// The attempt under way, where spans are made of attempts.
    pub fn last_try(&mut self) -> Option<&mut Try> {
        self.trail.as_mut()?.last_try()
    }

    /// Nothing could be done between these moments but wait for `party`: this is not our overhead.
    pub fn waited(&mut self, party: Party, from: Now, to: Now) {
        let waited_ns = to.0.saturating_sub(from.0);
        match party {
            Party::Client => self.waits.client_ns += waited_ns,
            Party::Upstream => self.waits.upstream_ns += waited_ns,
        }
    }

    /// Ends the exchange and adds it to the sheet. What comes back is for the log; it can't be closed twice.
    #[inline]
    pub fn close(mut self, now: Now, outcome: Outcome, sheet: &mut Sheet) -> Closed {
        self.end(now, outcome, sheet);
        Closed(self)
    }

    // In place: a record is half a kilobyte.
    pub(super) fn end(&mut self, now: Now, outcome: Outcome, sheet: &mut Sheet) {
        self.phases.ended = Some(now);
        self.outcome = Some(outcome);
        sheet.exchange(self, outcome);
    }

    /// From the first byte of the request to the end, or zero while it runs.
    pub fn duration_us(&self) -> u64 {
        self.phases.ended.map_or(0, |ended| ended.us_since(self.phases.started))
    }

    /// Notes the time between two events of a stream.
    pub fn gap(&mut self, gap_us: u64) {
        self.gaps = self.gaps.saturating_add(1);
        self.gaps_us = self.gaps_us.saturating_add(gap_us);
        if let Some(gaps) = self.gap_steps.get_mut(genai::chunk_step(gap_us)) {
            *gaps = gaps.saturating_add(1);
        }
    }

    /// What of the duration is our own: all of it but the waits.
    pub fn overhead_us(&self) -> u64 {
        let waited_ns = self.waits.client_ns.saturating_add(self.waits.upstream_ns);
        let ran_ns = self.phases.ended.map_or(0, |ended| ended.0.saturating_sub(self.phases.started.0));
        ran_ns.saturating_sub(waited_ns) / 1_000
    }

    /// What of the duration went into waiting for an upstream.
    pub fn upstream_us(&self) -> u64 {
        self.waits.upstream_ns / 1_000
    }

    /// From the first byte of the request to the first token of the answer, if there was one.
    pub fn first_token_us(&self) -> Option<u64> {
        self.phases.first_token.map(|moment| moment.us_since(self.phases.started))
    }
}

/// A record that has been counted. It can be read and no longer changed.
#[derive(Clone, Debug)]
pub struct Closed(pub(super) Record);

impl Closed {
    pub fn outcome(&self) -> Outcome {
        debug_assert!(self.0.outcome.is_some(), "only Record::close makes a closed record");
        self.0.outcome.unwrap_or(Outcome::Abandoned)
    }

    /// What a log tells of it.
    pub fn gist(mut self) -> Gist {
        Gist::of(&mut self.0)
    }

    /// For [`Untold`](super::untold::Untold), which holds one that is not counted yet, and does this once.
    pub(super) fn count(&mut self, told: Option<Told>, sheet: &mut Sheet) {
        if let Some(Told { tokens, cost }) = told {
            (self.0.tokens, self.0.cost, self.0.by_vocabulary) = (tokens, cost, true);
        }
        sheet.exchange(&self.0, self.outcome());
    }
}

/// The record of an exchange that has ended and is in no sheet yet.
#[must_use]
pub struct Uncounted(pub(super) Closed);

impl Uncounted {
    pub(super) fn hidden(self) -> Closed {
        self.0
    }
}

impl Deref for Closed {
    type Target = Record;

    fn deref(&self) -> &Record {
        &self.0
    }
}

/// When each phase ended. In the order of an exchange; a phase that was skipped stays `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Phases {
    pub started: Now,
    pub head_read: Option<Now>,
    pub body_read: Option<Now>,
    /// An upstream connection was leased from the pool, or dialled.
    pub connected: Option<Now>,
    pub sent: Option<Now>,
    pub first_byte: Option<Now>,
    pub first_token: Option<Now>,
    pub ended: Option<Now>,
}

impl Phases {
    /// Each phase there was, with how long it was: together they are the duration.
    pub fn spans_us(&self) -> impl Iterator<Item = (Phase, u64)> {
        let mut spans = [None; Phase::ALL.len()];
        self.each_span_us(|phase, us| spans[phase.index()] = Some((phase, us)));
        spans.into_iter().flatten()
    }

    /// The same for who counts them, without a list of them in between.
    #[inline]
    pub(super) fn each_span_us(&self, mut span: impl FnMut(Phase, u64)) {
        let mut before = self.started;
        let mut until = |phase: Phase, end: Option<Now>| {
            if let Some(end) = end {
                span(phase, end.us_since(before));
                before = before.max(end);
            }
        };
        until(Phase::Head, self.head_read);
        until(Phase::Body, self.body_read);
        until(Phase::Connect, self.connected);
        until(Phase::Send, self.sent);
        until(Phase::FirstByte, self.first_byte);
        until(Phase::FirstToken, self.first_token);
        until(Phase::Rest, self.ended);
    }
}

/// A part of an exchange, called by what ends it. It begins where the one before ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Head,
    Body,
    /// With what was decided before it: who may, and where to. Of the last attempt; those before it are in here.
    Connect,
    Send,
    FirstByte,
    FirstToken,
    Rest,
}

impl Phase {
    /// In the order of their numbers, which are kept on disk: what is new comes last.
    pub const ALL: [Self; 7] =
        [Self::Head, Self::Body, Self::Connect, Self::Send, Self::FirstByte, Self::FirstToken, Self::Rest];

    pub fn index(self) -> usize {
        self as usize
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Head => "head",
            Self::Body => "body",
            Self::Connect => "connect",
            Self::Send => "send",
            Self::FirstByte => "first_byte",
            Self::FirstToken => "first_token",
            Self::Rest => "rest",
        }
    }
}

/// Whom an exchange waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Party {
    Client,
    Upstream,
}

#[derive(Clone, Copy, Debug, Default)]
struct Waits {
    client_ns: u64,
    upstream_ns: u64,
}

/// Tokens as the provider reported them, or as they were estimated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    pub prompt: Option<u64>,
    pub completion: Option<u64>,
    /// Part of `prompt` that the provider had in its cache.
    pub cached: Option<u64>,
    /// Part of `completion` that was spent on reasoning.
    pub reasoning: Option<u64>,
    /// Part of `prompt` that was sound.
    pub audio_prompt: Option<u64>,
    /// Part of `completion` that was sound.
    pub audio_completion: Option<u64>,
}

impl Tokens {
    /// Prompt and completion together, as far as either was reported.
    pub fn total(self) -> Option<u64> {
        (self.prompt.is_some() || self.completion.is_some())
            .then(|| self.prompt.unwrap_or(0).saturating_add(self.completion.unwrap_or(0)))
    }

    /// The kinds that were reported.
    pub fn reported(self) -> impl Iterator<Item = (TokenKind, u64)> {
        let mut counts = [None; TokenKind::ALL.len()];
        self.each(|kind, count| counts[kind.index()] = Some((kind, count)));
        counts.into_iter().flatten()
    }

    /// The same for who counts them, without a list of them in between.
    #[inline]
    pub(super) fn each(&self, mut tell: impl FnMut(TokenKind, u64)) {
        let mut kind = |kind: TokenKind, count: Option<u64>| {
            if let Some(count) = count {
                tell(kind, count);
            }
        };
        kind(TokenKind::Prompt, self.prompt);
        kind(TokenKind::Completion, self.completion);
        kind(TokenKind::Cached, self.cached);
        kind(TokenKind::Reasoning, self.reasoning);
        kind(TokenKind::AudioPrompt, self.audio_prompt);
        kind(TokenKind::AudioCompletion, self.audio_completion);
    }
}

/// A kind of token, as a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TokenKind {
    Prompt,
    Completion,
    Cached,
    Reasoning,
    AudioPrompt,
    AudioCompletion,
}

impl TokenKind {
    /// In the order of their numbers, which are kept on disk: what is new comes last.
    pub const ALL: [Self; 6] = [
        Self::Prompt,
        Self::Completion,
        Self::Cached,
        Self::Reasoning,
        Self::AudioPrompt,
        Self::AudioCompletion,
    ];

    pub fn index(self) -> usize {
        self as usize
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Prompt => "prompt",
            Self::Completion => "completion",
            Self::Cached => "cached",
            Self::Reasoning => "reasoning",
            Self::AudioPrompt => "audio_prompt",
            Self::AudioCompletion => "audio_completion",
        }
    }
}

/// An answer that was read on without its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unheard {
    pub end: UnheardEnd,
    /// Bytes of the body that the client would have got.
    pub bytes: u64,
}

/// How far an answer was read that nobody heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum UnheardEnd {
    /// To its end.
    Whole,
    /// Until the provider had said what was used.
    Usage,
    /// Until it had taken too long, or had become too long.
    OverBound,
    /// The upstream broke off, or a limit ended it.
    Lost,
}

impl UnheardEnd {
    pub fn name(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::Usage => "usage",
            Self::OverBound => "over_bound",
            Self::Lost => "lost",
        }
    }
}

impl CountKey for UnheardEnd {
    const OTHER: Self = Self::Lost;
}

/// How an exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// The client has the whole answer, whatever its status.
    Completed,
    /// We said no.
    Refused,
    ClientGone,
    /// The upstream broke off after its first byte had left for the client.
    UpstreamLost,
    TimedOut(Deadline),
    /// A bug, caught by the guard around the task.
    Panicked,
    /// Ended by us because the drain's time was over.
    Drained,
    /// Dropped without being closed, and not by a panic: a bug, or a core that was cut.
    Abandoned,
}

impl Outcome {
    /// In the order of their numbers, which are kept on disk: what is new comes last.
    pub const ALL: [Self; 14] = [
        Self::Completed,
        Self::Refused,
        Self::ClientGone,
        Self::UpstreamLost,
        Self::Panicked,
        Self::Drained,
        Self::Abandoned,
        Self::TimedOut(Deadline::Head),
        Self::TimedOut(Deadline::Body),
        Self::TimedOut(Deadline::Connect),
        Self::TimedOut(Deadline::FirstByte),
        Self::TimedOut(Deadline::BetweenBytes),
        Self::TimedOut(Deadline::Write),
        Self::TimedOut(Deadline::Exchange),
    ];

    pub fn index(self) -> usize {
        match self {
            Self::Completed => 0,
            Self::Refused => 1,
            Self::ClientGone => 2,
            Self::UpstreamLost => 3,
            Self::Panicked => 4,
            Self::Drained => 5,
            Self::Abandoned => 6,
            Self::TimedOut(deadline) => 7 + deadline as usize,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Refused => "refused",
            Self::ClientGone => "client_gone",
            Self::UpstreamLost => "upstream_lost",
            Self::TimedOut(Deadline::Head) => "timed_out_head",
            Self::TimedOut(Deadline::Body) => "timed_out_body",
            Self::TimedOut(Deadline::Connect) => "timed_out_connect",
            Self::TimedOut(Deadline::FirstByte) => "timed_out_first_byte",
            Self::TimedOut(Deadline::BetweenBytes) => "timed_out_between_bytes",
            Self::TimedOut(Deadline::Write) => "timed_out_write",
            Self::TimedOut(Deadline::Exchange) => "timed_out_exchange",
            Self::Panicked => "panicked",
            Self::Drained => "drained",
            Self::Abandoned => "abandoned",
        }
    }
}

/// Which deadline passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deadline {
    Head,
    Body,
    Connect,
    FirstByte,
    BetweenBytes,
    /// The client took too little of the answer.
    Write,
    Exchange,
}

/// A model's name. Nearly all fit in 36 bytes, which are kept without an allocation.
#[derive(Default, PartialEq, Eq)]
pub struct ModelName(SmallVec<[u8; 36]>);

impl ModelName {
    pub fn as_str(&self) -> &str {
        debug_assert!(std::str::from_utf8(&self.0).is_ok(), "made from a str");
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// All bytes at once; the vector's own takes them one by one.
impl Clone for ModelName {
    fn clone(&self) -> Self {
        Self(SmallVec::from_slice(&self.0))
    }
}

impl From<&str> for ModelName {
    fn from(name: &str) -> Self {
        Self(SmallVec::from_slice(name.as_bytes()))
    }
}

impl fmt::Debug for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overhead_is_the_duration_without_the_waits() {
        let mut record = Record::new("chat/completions", Now(1_000_000));
        record.waited(Party::Client, Now(1_000_000), Now(3_000_000));
        record.waited(Party::Upstream, Now(4_000_000), Now(8_000_000));
        record.waited(Party::Upstream, Now(8_000_000), Now(7_000_000));
        record.phases.first_token = Some(Now(6_000_000));
        let mut sheet = Sheet::default();
        let closed = record.close(Now(9_000_000), Outcome::Completed, &mut sheet);
        assert_eq!((closed.duration_us(), closed.overhead_us(), closed.upstream_us()), (8_000, 2_000, 4_000));
        assert_eq!(closed.first_token_us(), Some(5_000));
        assert_eq!(closed.outcome(), Outcome::Completed);
    }

    #[test]
    fn phases_follow_each_other_and_add_up() {
        let mut record = Record::new("chat/completions", Now(1_000_000));
        let moment = |ms: u64| Some(Now(ms * 1_000_000));
        (record.phases.head_read, record.phases.body_read) = (moment(2), moment(4));
        (record.phases.connected, record.phases.sent) = (moment(8), moment(7));
        record.phases.ended = moment(20);
        let spans: Vec<_> = record.phases.spans_us().map(|(phase, us)| (phase.name(), us / 1_000)).collect();
        assert_eq!(spans, [("head", 1), ("body", 2), ("connect", 4), ("send", 0), ("rest", 12)]);
        assert_eq!(spans.iter().map(|(_, ms)| ms).sum::<u64>(), record.duration_us() / 1_000);
    }

    #[test]
    fn a_number_on_disk_means_one_thing() {
        Outcome::ALL.iter().enumerate().for_each(|(index, outcome)| assert_eq!(outcome.index(), index));
        TokenKind::ALL.iter().enumerate().for_each(|(index, kind)| assert_eq!(kind.index(), index));
        Phase::ALL.iter().enumerate().for_each(|(index, phase)| assert_eq!(phase.index(), index));
    }

    #[test]
    fn a_model_name_of_usual_length_is_kept_in_place() {
        for name in ["", "openai/gpt-4o-mini-2024-07-18", "qwen/qwen3-coder-480b-a35b-instruct"] {
            let kept = ModelName::from(name);
            assert_eq!(kept.as_str(), name);
            assert!(!kept.0.spilled());
        }
        let long = "x".repeat(256);
        assert_eq!(ModelName::from(&*long).as_str(), long);
    }

    #[test]
    fn a_record_is_small_enough_to_live_in_an_exchange() {
        assert!(size_of::<Record>() <= 520, "{}", size_of::<Record>());
    }
}
