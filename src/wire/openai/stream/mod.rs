//! Watches a streamed answer event by event: has it ended, did it fail, where is its usage. It changes nothing and holds no
//! event.
//!
//! A provider's answer is not trusted: no JSON is walked before its nesting is known to be bounded, and what can't be read
//! is simply not understood. An event is walked only when a cheap search says that it holds something for us.

mod chunk;
#[cfg(test)]
mod tests;

use memchr::memchr2;

use self::chunk::{Chunk, is_shallow};
use super::{
    endpoint::Endpoint,
    members::{self, Member},
    upstream_error::{self, Said},
};
use crate::{
    base::limits::FIRST_TOKEN_LOOKS_MAX,
    wire::{
        estimate::{Heard, MilliTokens},
        sse::data_of,
    },
};

/// What to watch for.
#[derive(Clone, Copy, Debug)]
pub struct Watch {
    pub endpoint: Endpoint,
    /// `n` of the request: as many choices must finish. 1 if it was not given.
    pub choices: u32,
    /// Usage was asked for by us and not by the client: its event of its own is not for the client.
    pub strip_usage: bool,
}

/// What one event said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict<'a> {
    /// It is the usage-only event that the client did not ask for: not to be forwarded. Its `usage` is an object and its
    /// `choices` are empty; or, once all have finished, they are there and say nothing (LiteLLM writes `[{"delta":{}}]`).
    /// Nothing else is ever dropped.
    pub drop: bool,
    /// It is the first that carries something generated. True once per stream.
    pub first_token: bool,
    /// JSON that holds a `usage` which is not null, at whatever depth. It nests no deeper than `JSON_DEPTH_MAX`.
    pub usage: Option<&'a [u8]>,
    /// What it says, by its bytes.
    pub said: MilliTokens,
}

/// The state of one streamed answer.
pub struct Observer {
    watch: Watch,
    state: State,
    /// Where a payload of several lines is joined; never allocated for any other.
    scratch: Vec<u8>,
}

impl Observer {
    pub fn new(watch: Watch) -> Self {
        Self { watch, state: State::default(), scratch: Vec::new() }
    }

    /// Reads one whole event, its blank line included.
    pub fn event<'a>(&'a mut self, event: &'a [u8]) -> Verdict<'a> {
        let said = data_of(self.state.without_mark(event));
        let Self { watch, state, scratch } = self;
        let json = said.joined(scratch);
        // By its beginning, as both SDKs tell it.
        if json.starts_with(b"[DONE]") {
            state.said_end = true;
            return Verdict::default();
        }
        let kind = kind(said.name(), json);
        state.note(kind);
        if json.is_empty() {
            return Verdict::default();
        }

        let has_choices = watch.endpoint.takes_stream_options();
        let sight = Sight::of(watch.endpoint, json);
        let walk = sight.usage
            || sight.error
            || state.looks_for_a_token()
            || (has_choices && sight.finish)
            // A list of prompts makes more choices than `n`: whoever speaks has to finish. (In chat it can't be, and there
            // tool calls have an index too.)
            || (watch.endpoint == Endpoint::Completions && sight.later_choice)
            || (watch.endpoint == Endpoint::Responses && kind.is_none());
        let verdict = Verdict { said: sight.said, ..Verdict::default() };
        if !walk || !is_shallow(json) {
            return verdict;
        }
        let Some(chunk) = Chunk::read(json) else { return verdict };

        let kind = kind.or_else(|| chunk.kind());
        state.note(kind);
        state.failed |= chunk.is_error();
        if state.failed && state.said.is_none() {
            state.said = upstream_error::said(json);
        }
        let mut token = speaks(watch.endpoint, kind);
        let mut choices = 0;
        let mut silent = state.all_finished(watch.choices);
        for choice in chunk.choices() {
            token |= has_choices && choice.speaks;
            silent &= choice.silent;
            state.choose(choice.index.unwrap_or(choices), choice.finished);
            choices += 1;
        }
        Verdict {
            drop: watch.strip_usage && has_choices && (choices == 0 || silent) && chunk.is_usage_alone(),
            first_token: state.first(token),
            usage: sight.usage.then_some(json),
            ..verdict
        }
    }

    /// An event larger than [`SSE_EVENT_BYTES_MAX`](crate::base::limits::SSE_EVENT_BYTES_MAX) is forwarded as it comes, and
    /// `head` is as much of it as was seen. Only what it calls itself is understood: `response.completed` repeats the whole
    /// answer and is often as large. Tells whether it carries the first token.
    pub fn large_event(&mut self, head: &[u8]) -> bool {
        let said = data_of(self.state.without_mark(head));
        let json = if said.lines() == 1 { said.joined(&mut self.scratch) } else { b"" };
        let kind = kind(said.name(), json);
        self.state.large = End::of(kind);
        let token = self.watch.endpoint.takes_stream_options() || speaks(self.watch.endpoint, kind);
        self.state.first(token)
    }

    /// The end of that large event went by: what it called itself holds.
    pub fn large_event_ended(&mut self) {
        if let Some(end) = self.state.large.take() {
            self.state.end(end);
        }
    }

    /// Was the answer whole, if it ends now? `framed`: it ends by its framing (last chunk, Content-Length, or a close where
    /// that is the framing), rather than by a loss.
    ///
    /// `[DONE]`, a terminal event and an error event need no more. A finish reason for every choice does, because usage
    /// follows it. Other bodies than choices and responses have no word for their end, so framing is all there is.
    pub fn ended(&self, framed: bool) -> bool {
        let by_framing = match self.watch.endpoint {
            Endpoint::ChatCompletions | Endpoint::Completions => self.state.all_finished(self.watch.choices),
            Endpoint::Responses => false,
            _ => true,
        };
        self.state.said_end || self.state.failed || (framed && by_framing)
    }

    /// Did the provider itself say that it failed: an error event, or `response.failed`?
    pub fn failed(&self) -> bool {
        self.state.failed
    }

    /// What kind of error it said that it was, if it failed and said so.
    pub fn said(&self) -> Option<Said> {
        self.state.said
    }
}

/// What an event shows at first sight: whether it is worth a walk, and what it says.
struct Sight {
    usage: bool,
    error: bool,
    finish: bool,
    /// A choice that is not the first.
    later_choice: bool,
    said: MilliTokens,
}

impl Sight {
    fn of(endpoint: Endpoint, json: &[u8]) -> Self {
        let (mut usage, mut error, mut finish, mut later_choice) = (false, false, false, false);
        let mut heard = Heard::of(endpoint);
        let something = |after| members::value(after).is_some_and(begins_something);
        for (member, after) in members::of(endpoint, json) {
            match member {
                Member::Usage => usage |= something(after),
                Member::Error => error |= something(after),
                Member::FinishReason => finish |= something(after),
                Member::Index => {
                    later_choice |= members::value(after).is_some_and(|v| !v.starts_with(b"0"));
                }
                text => heard.add(text, after),
            }
        }
        Self { usage, error, finish, later_choice, said: heard.sum() }
    }
}

/// At first sight, neither null nor an empty string: some providers write `"finish_reason":""` until there is one.
fn begins_something(value: &[u8]) -> bool {
    !value.starts_with(b"null") && !value.starts_with(b"\"\"")
}

/// What is remembered between events.
#[derive(Default)]
struct State {
    begun: bool,
    token_seen: bool,
    /// Events in which a first token was looked for.
    looks: u8,
    said_end: bool,
    failed: bool,
    said: Option<Said>,
    /// What the large event that is going by will mean when it is whole.
    large: Option<End>,
    /// One bit per choice that spoke, and per choice that finished.
    spoke: u128,
    finished: u128,
    /// A choice beyond the bits spoke: only `[DONE]` can tell that all is said.
    beyond: bool,
}

impl State {
    /// A byte order mark may stand before the first event and nowhere else.
    fn without_mark<'a>(&mut self, event: &'a [u8]) -> &'a [u8] {
        let first = !std::mem::replace(&mut self.begun, true);
        event.strip_prefix(b"\xef\xbb\xbf").filter(|_| first).unwrap_or(event)
    }

    fn note(&mut self, kind: Option<&[u8]>) {
        if let Some(end) = End::of(kind) {
            self.end(end);
        }
    }

    fn end(&mut self, end: End) {
        match end {
            End::Whole => self.said_end = true,
            End::Failed => self.failed = true,
        }
    }

    fn choose(&mut self, index: u32, finished: bool) {
        let bit = 1_u128.checked_shl(index).unwrap_or(0);
        self.beyond |= bit == 0;
        self.spoke |= bit;
        if finished {
            self.finished |= bit;
        }
    }

    fn all_finished(&self, choices: u32) -> bool {
        let expected = match choices {
            0 | 1 => 1,
            128 => u128::MAX,
            129.. => return false,
            _ => (1 << choices) - 1,
        };
        !self.beyond && (self.spoke | expected) & !self.finished == 0
    }

    /// A stream that says nothing is not walked for ever in the hope of a first word.
    fn looks_for_a_token(&mut self) -> bool {
        self.looks = self.looks.saturating_add(1);
        !self.token_seen && usize::from(self.looks) <= FIRST_TOKEN_LOOKS_MAX
    }

    fn first(&mut self, token: bool) -> bool {
        token && !std::mem::replace(&mut self.token_seen, true)
    }
}

/// What an event says about the stream by what it calls itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Whole,
    Failed,
}

impl End {
    fn of(kind: Option<&[u8]>) -> Option<Self> {
        match kind? {
            b"response.completed" | b"response.incomplete" => Some(Self::Whole),
            b"response.failed" | b"error" => Some(Self::Failed),
            _ => None,
        }
    }
}

/// What an event calls itself, if that is cheaply seen: its `event:` line, else a `type` at the very start of its JSON.
fn kind<'a>(name: &'a [u8], json: &'a [u8]) -> Option<&'a [u8]> {
    if name == b"error" || name.starts_with(b"response.") {
        return Some(name);
    }
    let rest = json.strip_prefix(b"{")?.trim_ascii_start().strip_prefix(b"\"type\"")?;
    let rest = rest.trim_ascii_start().strip_prefix(b":")?.trim_ascii_start().strip_prefix(b"\"")?;
    let end = memchr2(b'"', b'\\', rest)?;
    (rest[end] == b'"').then_some(&rest[..end])
}

/// Does an event of this kind carry something generated? Choices speak for themselves; what has neither choices nor a kind
/// that we know (audio, images) begins with its first event.
fn speaks(endpoint: Endpoint, kind: Option<&[u8]>) -> bool {
    match endpoint {
        Endpoint::ChatCompletions | Endpoint::Completions => false,
        Endpoint::Responses => kind.is_some_and(|kind| kind.ends_with(b".delta")),
        _ => true,
    }
}

/// No panic, nothing dropped unasked, one first token, and an end is not taken back.
#[cfg(any(test, feature = "fuzzing"))]
pub fn fuzz_observer(data: &[u8]) {
    let Some((&choice, stream)) = data.split_first() else { return };
    let endpoint = Endpoint::ALL[usize::from(choice >> 2) % Endpoint::ALL.len()];
    let watch = Watch { endpoint, choices: u32::from(choice & 1) + 1, strip_usage: choice & 2 != 0 };
    let mut observer = Observer::new(watch);
    let mut scanner = crate::wire::sse::Scanner::default();
    let (mut start, mut tokens) = (0, 0);
    while let Some(end) = scanner.next(stream, start) {
        let event = &stream[start..end];
        let before = observer.ended(true);
        let verdict = observer.event(event);
        assert!(!verdict.drop || (watch.strip_usage && verdict.usage.is_some()), "dropped unasked");
        assert!(verdict.usage.is_none_or(|json| !json.is_empty() && json.len() <= event.len()));
        tokens += u32::from(verdict.first_token);
        assert!(observer.ended(true) || !observer.ended(false), "framing only adds");
        let more_choices_may_come = endpoint.takes_stream_options();
        assert!(observer.ended(true) || !before || more_choices_may_come, "an end is not taken back");
        start = end;
    }
    assert!(tokens <= 1, "one first token");
    observer.large_event(&stream[start..]);
    observer.large_event_ended();
}
