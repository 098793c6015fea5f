//! Watches a streamed answer event by event: has it ended, did it fail, where is its usage. It changes nothing and holds no
//! event.
//!
//! A provider's answer is not trusted: no JSON is walked before its nesting is known to be bounded, and what can't be read
//! is simply not understood. An event is walked only when a cheap search says that it holds something for us.

use std::{borrow::Cow, sync::LazyLock};

use memchr::{memchr2, memmem::Finder};
use sonic_rs::{LazyValue, to_array_iter, to_object_iter};

use super::endpoint::Endpoint;
use crate::{
    base::limits::{FIRST_TOKEN_LOOKS_MAX, JSON_DEPTH_MAX},
    wire::sse::data_of,
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
    /// It is the usage-only event (`choices` empty, `usage` an object) that the client did not ask for: not to be forwarded.
    /// Nothing else is ever dropped.
    pub drop: bool,
    /// It is the first that carries something generated. True once per stream.
    pub first_token: bool,
    /// JSON that holds a `usage` which is not null, at whatever depth. It nests no deeper than [`JSON_DEPTH_MAX`].
    pub usage: Option<&'a [u8]>,
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
        let needles = &*NEEDLES;
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
        let usage = needles.usage.live(json, begins_something);
        let walk = usage
            || needles.error.live(json, begins_something)
            || state.looks_for_a_token()
            || (has_choices && needles.finish_reason.live(json, begins_something))
            // A list of prompts makes more choices than `n`: whoever speaks has to finish. (In chat it can't be, and there
            // tool calls have an index too.)
            || (watch.endpoint == Endpoint::Completions && needles.index.live(json, |v| !v.starts_with(b"0")))
            || (watch.endpoint == Endpoint::Responses && kind.is_none());
        if !walk || !is_shallow(json) {
            return Verdict::default();
        }
        let Some(chunk) = Chunk::read(json) else { return Verdict::default() };

        let kind = kind.or_else(|| chunk.kind());
        state.note(kind);
        state.failed |= chunk.is_error();
        let mut token = speaks(watch.endpoint, kind);
        let mut choices = 0;
        for choice in chunk.choices() {
            token |= has_choices && choice.speaks;
            state.choose(choice.index.unwrap_or(choices), choice.finished);
            choices += 1;
        }
        Verdict {
            drop: watch.strip_usage && has_choices && choices == 0 && chunk.is_usage_alone(),
            first_token: state.first(token),
            usage: usage.then_some(json),
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

/// The members looked for, quotes included. They can't match inside of a string, where quotes are escaped, but they may
/// match a whole string or a nested member: a hit only means that the event is worth a walk.
///
/// Constants that can't be made at compile time: preparing a search costs more than searching one event.
static NEEDLES: LazyLock<Needles> = LazyLock::new(Needles::new);

struct Needles {
    usage: Needle,
    error: Needle,
    finish_reason: Needle,
    index: Needle,
}

impl Needles {
    fn new() -> Self {
        let needle = |name: &'static str| Needle(Finder::new(name));
        Self {
            usage: needle("\"usage\""),
            error: needle("\"error\""),
            finish_reason: needle("\"finish_reason\""),
            index: needle("\"index\""),
        }
    }
}

struct Needle(Finder<'static>);

impl Needle {
    /// Is there a member of this name, anywhere, whose value begins as `wanted`?
    fn live(&self, json: &[u8], wanted: impl Fn(&[u8]) -> bool) -> bool {
        let length = self.0.needle().len();
        self.0.find_iter(json).any(|at| {
            let rest = json[at + length..].trim_ascii_start();
            rest.strip_prefix(b":").is_some_and(|value| wanted(value.trim_ascii_start()))
        })
    }
}

/// At first sight, neither null nor an empty string: some providers write `"finish_reason":""` until there is one.
fn begins_something(value: &[u8]) -> bool {
    !value.starts_with(b"null") && !value.starts_with(b"\"\"")
}

/// The members of an event that mean something to us, as raw JSON.
#[derive(Default)]
struct Chunk<'a> {
    kind: Option<Cow<'a, str>>,
    choices: Option<Cow<'a, str>>,
    usage: Option<Cow<'a, str>>,
    error: Option<Cow<'a, str>>,
}

impl<'a> Chunk<'a> {
    /// `None` if it is not an object. `json` must be shallow. Of members with the same name the last counts, as it does for
    /// the clients.
    fn read(json: &'a [u8]) -> Option<Self> {
        let mut chunk = Self::default();
        for member in to_object_iter(json) {
            let (name, value) = member.ok()?;
            let place = match &*name {
                "type" => &mut chunk.kind,
                "choices" => &mut chunk.choices,
                "usage" => &mut chunk.usage,
                "error" => &mut chunk.error,
                _ => continue,
            };
            *place = Some(value.as_raw_cow());
        }
        Some(chunk)
    }

    fn kind(&self) -> Option<&[u8]> {
        let kind = self.kind.as_ref()?.as_bytes();
        kind.strip_prefix(b"\"")?.strip_suffix(b"\"")
    }

    fn choices(&self) -> impl Iterator<Item = Choice> {
        let list = self.choices.as_deref().filter(|list| list.starts_with('['));
        list.into_iter()
            .flat_map(|list| to_array_iter(list).map_while(Result::ok))
            .map(|one| Choice::read(&one))
    }

    fn is_usage_alone(&self) -> bool {
        self.usage.as_deref().is_some_and(|usage| usage.starts_with('{'))
            && self.choices.as_deref().is_some_and(|choices| choices.starts_with('['))
            && !self.is_error()
    }

    fn is_error(&self) -> bool {
        self.error.as_deref().is_some_and(says_something)
    }
}

struct Choice {
    /// `None`: its place in the list.
    index: Option<u32>,
    finished: bool,
    speaks: bool,
}

impl Choice {
    fn read(choice: &LazyValue<'_>) -> Self {
        let mut read = Self { index: None, finished: false, speaks: false };
        for (name, value) in members(choice) {
            match &*name {
                "index" => read.index = value.as_raw_str().parse().ok(),
                "finish_reason" => read.finished = says_something(value.as_raw_str()),
                "text" => read.speaks |= says_something(value.as_raw_str()),
                // Whatever a delta holds beside the role is generated: content, reasoning, tool calls, a refusal, audio.
                "delta" => {
                    let mut said = members(&value).filter(|(name, _)| name != "role");
                    read.speaks |= said.any(|(_, value)| says_something(value.as_raw_str()));
                }
                _ => {}
            }
        }
        read
    }
}

fn members<'v>(value: &'v LazyValue<'_>) -> impl Iterator<Item = (Cow<'v, str>, LazyValue<'v>)> {
    let object = Some(value.as_raw_str()).filter(|raw| raw.starts_with('{'));
    object.into_iter().flat_map(|object| to_object_iter(object).map_while(Result::ok))
}

/// Providers fill members that they have nothing for with null or with something empty.
fn says_something(raw: &str) -> bool {
    !matches!(raw, "null" | "false" | "\"\"" | "{}" | "[]")
}

/// Does it nest within the bound? Walks recurse, and too deep a recursion ends the process.
fn is_shallow(json: &[u8]) -> bool {
    let (mut depth, mut at) = (0_usize, 0);
    while let Some(&byte) = json.get(at) {
        at += 1;
        match byte {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => at = string_end(json, at),
            _ => {}
        }
        if depth > JSON_DEPTH_MAX {
            return false;
        }
    }
    true
}

/// Just past the quote that closes the string whose inside begins at `at`.
fn string_end(json: &[u8], at: usize) -> usize {
    let mut at = at;
    while let Some(found) = json.get(at..).and_then(|rest| memchr2(b'"', b'\\', rest)) {
        at += found;
        if json[at] == b'"' {
            return at + 1;
        }
        at += 2;
    }
    json.len()
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

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::wire::sse::Scanner;

    const CHAT: Watch = Watch { endpoint: Endpoint::ChatCompletions, choices: 1, strip_usage: false };
    const ROLE: &str = r#"{"id":"c","choices":[{"index":0,"delta":{"role":"assistant","content":"","refusal":null,"tool_calls":[]},"finish_reason":null}],"usage":null}"#;
    const TEXT: &str = r#"{"id":"c","choices":[{"index":0,"delta":{"content":"say \"usage\": {\"error\":1}"},"finish_reason":null}],"usage":null}"#;
    const STOP: &str = r#"{"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":null}"#;
    const USAGE: &str =
        r#"{"id":"c","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}"#;

    /// How a stream of these payloads is seen: `+` first token, `u` usage, `x` dropped, `.` nothing; then what it takes to be
    /// whole (`done`, `framed`, `open`), and `failed`.
    #[track_caller]
    fn check(watch: Watch, payloads: &[&str], expect: &str) {
        let mut observer = Observer::new(watch);
        let mut got = String::new();
        for payload in payloads {
            let event = if payload.contains("data:") || payload.starts_with(':') {
                format!("{payload}\n\n")
            } else {
                format!("data: {payload}\n\n")
            };
            let verdict = observer.event(event.as_bytes());
            match verdict {
                Verdict { drop: true, usage: Some(_), .. } => got.push('x'),
                Verdict { usage: Some(_), .. } => got.push('u'),
                Verdict { first_token: true, .. } => got.push('+'),
                _ => got.push('.'),
            }
        }
        got.push_str(match (observer.ended(false), observer.ended(true)) {
            (true, _) => " done",
            (false, true) => " framed",
            (false, false) => " open",
        });
        if observer.failed() {
            got.push_str(" failed");
        }
        assert_eq!(got, expect);
    }

    #[test]
    fn a_chat_ends_with_done_or_framed_after_its_finish_reason() {
        check(CHAT, &[], " open");
        check(CHAT, &[ROLE], ". open");
        check(CHAT, &[ROLE, TEXT, TEXT], ".+. open");
        check(CHAT, &[ROLE, TEXT, STOP], ".+. framed");
        check(CHAT, &[ROLE, TEXT, STOP, USAGE], ".+.u framed");
        check(CHAT, &[ROLE, TEXT, STOP, USAGE, "[DONE]"], ".+.u. done");
        check(CHAT, &[TEXT, "[DONE]"], "+. done");
        check(CHAT, &[TEXT, "data:[DONE]"], "+. done");
        check(CHAT, &[TEXT, r#"{"choices":[{"delta":{},"finish_reason":""}]}"#], "+. open");
        check(CHAT, &[TEXT, r#"{"choices":[{"delta":{"content":"[DONE]"}}]}"#], "+. open");
        check(CHAT, &[TEXT, r#"{"choices":[{"delta":{}, "finish_reason" : "length"}]}"#], "+. framed");
    }

    #[test]
    fn every_choice_has_to_finish() {
        let two = Watch { choices: 2, ..CHAT };
        let second = STOP.replace("\"index\":0", "\"index\":1");
        check(two, &[TEXT, STOP], "+. open");
        check(two, &[TEXT, &second], "+. open");
        check(two, &[TEXT, STOP, &second], "+.. framed");
        check(CHAT, &[TEXT, &second], "+. open");
        check(CHAT, &[TEXT, &second, STOP], "+.. framed");
        let both = r#"{"choices":[{"finish_reason":"stop"},{"finish_reason":"stop"}]}"#;
        check(two, &[TEXT, both], "+. framed");
        let far = STOP.replace("\"index\":0", "\"index\":128");
        check(CHAT, &[TEXT, STOP, &far], "+.. open");
        check(Watch { choices: 500, ..CHAT }, &[TEXT, STOP], "+. open");
        let all: Vec<String> =
            (0..128).map(|i| STOP.replace("\"index\":0", &format!("\"index\":{i}"))).collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        check(Watch { choices: 128, ..CHAT }, &all, &format!("{} framed", ".".repeat(128)));
    }

    #[test]
    fn a_list_of_prompts_makes_more_choices_than_were_asked_for() {
        let completions = Watch { endpoint: Endpoint::Completions, ..CHAT };
        let say = |index: u32, reason: &str| {
            format!(r#"{{"choices":[{{"index":{index},"text":"a","finish_reason":{reason}}}]}}"#)
        };
        let (zero, one) = (say(0, "null"), say(1, "null"));
        let (zero_ends, one_ends) = (say(0, "\"stop\""), say(1, "\"stop\""));
        check(completions, &[&zero, &one, &zero_ends], "+.. open");
        check(completions, &[&zero, &one, &zero_ends, &one_ends], "+... framed");
        // Tool calls have an index of their own.
        let tool = r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":3}]},"finish_reason":null}]}"#;
        check(CHAT, &[tool, tool, STOP], "+.. framed");
    }

    #[test]
    fn only_the_usage_event_that_was_not_asked_for_is_dropped() {
        let strip = Watch { strip_usage: true, ..CHAT };
        check(strip, &[TEXT, STOP, USAGE, "[DONE]"], "+.x. done");
        check(CHAT, &[TEXT, STOP, USAGE, "[DONE]"], "+.u. done");
        check(strip, &[r#"{"choices":[],"prompt_filter_results":[],"usage":null}"#], ". open");
        check(strip, &[r#"{"choices":[],"usage":{}}"#], "x open");
        check(strip, &[r#"{"choices" : [ ] , "usage" : {"a":1}}"#], "x open");
        check(strip, &[r#"{"choices":null,"usage":{"a":1}}"#], "u open");
        check(strip, &[r#"{"usage":{"a":1}}"#], "u open");
        check(strip, &[r#"{"choices":[],"x":{"usage":{"a":1}}}"#], "u open");
        check(strip, &[r#"{"choices":[],"usage":{"a":1},"error":{"message":"no"}}"#], "u done failed");
        check(strip, &[r#"{"choices":[{"index":0,"finish_reason":"stop"}],"usage":{"a":1}}"#], "u framed");
        check(strip, &[r#"{"choices":[],"usage":{"a":1}"#], ". open");
        let responses = Watch { endpoint: Endpoint::Responses, ..strip };
        check(responses, &[USAGE], "u open");
    }

    #[test]
    fn a_response_ends_with_its_terminal_event() {
        let responses = Watch { endpoint: Endpoint::Responses, ..CHAT };
        let created = "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"error\":null,\"usage\":null}}";
        let delta = "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"a\"}";
        let usage = r#"{"type":"response.completed","response":{"usage":{"input_tokens":1}}}"#;
        check(responses, &[created, delta], ".+ open");
        check(responses, &[created, delta, usage], ".+u done");
        check(responses, &["event: response.completed\ndata: {}"], ". done");
        check(responses, &["event: response.incomplete\ndata: {}"], ". done");
        check(responses, &[r#"{"type" : "response.failed"}"#], ". done failed");
        check(responses, &[r#"{"sequence_number":1,"type":"response.completed"}"#], ". done");
        check(
            responses,
            &[r#"{"type":"response.output_text.delta","delta":"response.completed"}"#],
            "+ open",
        );
        check(responses, &[r#"{"type":"error","message":"no"}"#], ". done failed");
        check(responses, &[STOP], ". open");
    }

    #[test]
    fn an_error_event_is_an_end() {
        check(CHAT, &[TEXT, r#"{"error":{"message":"no"}}"#], "+. done failed");
        check(CHAT, &[TEXT, r#"{"id":1,"choices":[],"error":"no"}"#], "+. done failed");
        check(CHAT, &[TEXT, "event: error\ndata: no"], "+. done failed");
        check(CHAT, &[TEXT, "event: error\ndata:"], "+. done failed");
        check(CHAT, &[TEXT, r#"{"error":null,"choices":[]}"#], "+. open");
        check(CHAT, &[TEXT, r#"{"choices":[{"delta":{"error":{"a":1}}}]}"#], "+. open");
    }

    #[test]
    fn what_has_no_word_for_its_end_ends_by_its_framing() {
        let speech = Watch { endpoint: Endpoint::AudioSpeech, ..CHAT };
        check(speech, &[r#"{"type":"speech.audio.delta","audio":"aa"}"#], "+ framed");
        check(speech, &[r#"{"type":"error"}"#], "+ done failed");
    }

    #[test]
    fn comments_marks_and_several_lines_are_read_as_the_standard_says() {
        check(CHAT, &[": OPENROUTER PROCESSING", TEXT], ".+ open");
        check(CHAT, &["\u{feff}data: [DONE]"], ". done");
        check(CHAT, &[TEXT, "\u{feff}data: [DONE]"], "+. open");
        check(
            CHAT,
            &["data: {\"choices\":[{\"delta\":{},\"finish_reason\"\r\ndata: :\rdata: \"stop\"}]}"],
            ". framed",
        );
        check(CHAT, &["id: 1\nretry: 5\ndata: {\"choices\":[],\ndata: \"usage\":\ndata: {}}"], "u open");
    }

    #[test]
    fn the_first_token_is_whatever_is_generated_first() {
        let delta = |members: &str| format!(r#"{{"choices":[{{"index":0,"delta":{{{members}}}}}]}}"#);
        for (members, speaks) in [
            (r#""role":"assistant""#, false),
            (r#""role":"assistant","content":null"#, false),
            (r#""reasoning_content":"hm""#, true),
            (r#""tool_calls":[{"index":0}]"#, true),
            (r#""content":"a""#, true),
        ] {
            check(CHAT, &[&delta(members)], if speaks { "+ open" } else { ". open" });
        }
    }

    #[test]
    fn too_deep_an_event_is_not_walked() {
        let nested = |depth: usize| {
            format!(r#"{{"usage":{{"a":1}},"error":{}{}}}"#, "[".repeat(depth), "]".repeat(depth))
        };
        // Unoptimised, a walk takes 56 KiB of stack for each level (optimised: 0.5 KiB): more than a test thread has.
        let deepest = nested(JSON_DEPTH_MAX - 1);
        let walk = move || check(CHAT, &[&deepest], "u done failed");
        std::thread::Builder::new().stack_size(16 << 20).spawn(walk).unwrap().join().unwrap();
        check(CHAT, &[&nested(JSON_DEPTH_MAX)], ". open");
        check(CHAT, &[&nested(1 << 20)], ". open");
        let quoted = format!(r#"{{"usage":{{"a":1}},"b":"\"{}"}}"#, "[".repeat(1_000));
        check(CHAT, &[&quoted], "u open");
    }

    #[test]
    fn a_large_event_means_what_it_calls_itself_once_it_is_whole() {
        let mut observer = Observer::new(Watch { endpoint: Endpoint::Responses, ..CHAT });
        assert!(
            !observer.large_event(b"data: {\"type\":\"response.completed\",\"response\":{\"output\":[\"aaaa")
        );
        assert!(!observer.ended(true));
        observer.large_event_ended();
        assert!(observer.ended(false));

        let mut observer = Observer::new(CHAT);
        assert!(observer.large_event(b"data: {\"choices\":[{\"delta\":{\"content\":\"aaaa"));
        observer.large_event_ended();
        assert!(!observer.ended(true) && !observer.event(TEXT.as_bytes()).first_token);
    }

    #[test]
    fn the_observer_is_small_beside_an_exchange() {
        assert!(size_of::<Observer>() <= 128);
    }

    /// The same decisions by a reader of the whole JSON, for one chat event: usage-only, error, finished.
    fn naive(json: &Value) -> (bool, bool, bool) {
        let full = |value: Option<&Value>| match value {
            None | Some(Value::Null | Value::Bool(false)) => false,
            Some(Value::String(text)) => !text.is_empty(),
            Some(Value::Array(list)) => !list.is_empty(),
            Some(Value::Object(members)) => !members.is_empty(),
            Some(_) => true,
        };
        let choices = json.get("choices").and_then(Value::as_array);
        let error = full(json.get("error")) || json.get("type").is_some_and(|kind| kind == "error");
        let usage_only =
            choices.is_some_and(Vec::is_empty) && json["usage"].is_object() && !full(json.get("error"));
        let finished = choices.is_some_and(|choices| {
            let end = |(place, choice): (usize, &Value)| {
                let index = choice.get("index").and_then(Value::as_u64).unwrap_or(place as u64);
                (index, full(choice.get("finish_reason")))
            };
            let ends: Vec<(u64, bool)> = choices.iter().enumerate().map(end).collect();
            ends.contains(&(0, true)) && ends.iter().all(|&(index, _)| ends.contains(&(index, true)))
        });
        (usage_only, error, finished)
    }

    #[test]
    fn mutated_events_are_read_as_a_whole_reader_would() {
        let pieces = [
            r#""choices":[]"#,
            r#""choices":[{"index":0,"finish_reason":"stop"}]"#,
            r#""choices":null"#,
            r#""choices":[{"finish_reason":null},{"index":1,"finish_reason":"stop"}]"#,
            r#""usage":null"#,
            r#""usage":{"a":1}"#,
            r#""usage":[]"#,
            r#""error":{}"#,
            r#""error":{"message":"\"usage\":1"}"#,
            r#""error" : null"#,
            r#""a":{"usage":{},"error":1}"#,
            r#""b":"finish_reason""#,
            r#""b":"error""#,
            r#""type":"error""#,
            r#""choices" : [ {"finish_reason" : "a", "index" : 0 } ] "#,
            r#""c":[1,[2.5e3,"]"]]"#,
        ];
        let mut state = 0x1234_5678_9abc_def1_u64;
        let mut random = move |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state >> 33).unwrap_or(0) % below
        };
        let mut compared = [0_u32; 4];
        for round in 0..20_000 {
            let members: Vec<&str> = (0..random(5)).map(|_| pieces[random(pieces.len())]).collect();
            let mut json = format!("{{{}}}", members.join(",")).into_bytes();
            if round % 2 == 1 {
                let place = random(json.len());
                json[place] = b"{}[]\",:0 a\\"[random(11)];
            }
            // Of two types the first is seen before the last is walked to; no provider writes two.
            if json.windows(6).filter(|window| window == b"\"type\"").count() > 1 {
                continue;
            }
            let event = [b"data: ", &json[..], b"\n\n"].concat();
            let Ok(value) = serde_json::from_slice::<Value>(&json) else {
                fuzz_observer(&[b"\x02", &event[..]].concat());
                continue;
            };
            let mut observer = Observer::new(Watch { strip_usage: true, ..CHAT });
            let drop = observer.event(&event).drop;
            let got = (drop, observer.failed(), observer.ended(true) && !observer.failed());
            let (usage_only, error, finished) = naive(&value);
            assert_eq!(got, (usage_only, error, finished && !error), "{}", String::from_utf8_lossy(&json));
            for (count, seen) in compared.iter_mut().zip([usage_only, error, finished, true]) {
                *count += u32::from(seen);
            }
        }
        assert!(compared.iter().all(|&count| count > 100), "each decision was compared: {compared:?}");
    }

    #[test]
    fn split_anywhere_a_stream_is_seen_alike() {
        let stream = format!(
            "\u{feff}: hi\r\n\r\ndata: {ROLE}\n\ndata: {TEXT}\r\n\r\ndata: {STOP}\r\rdata: {USAGE}\n\ndata: [DONE]\n\n"
        );
        let stream = stream.as_bytes();
        let seen = |cuts: &[usize]| {
            let mut observer = Observer::new(Watch { strip_usage: true, ..CHAT });
            let mut scanner = Scanner::default();
            let (mut start, mut at, mut seen) = (0, 0, Vec::new());
            for &filled in cuts.iter().chain([&stream.len()]) {
                while let Some(end) = scanner.next(&stream[..filled], at) {
                    let Verdict { drop, first_token, usage } = observer.event(&stream[start..end]);
                    seen.push((start..end, drop, first_token, usage.is_some()));
                    (start, at) = (end, end);
                }
                at = filled;
            }
            (seen, observer.ended(false))
        };
        let whole = seen(&[]);
        assert_eq!((whole.0.len(), whole.1), (6, true));
        for cut in 0..=stream.len() {
            assert_eq!(seen(&[cut]), whole, "cut at {cut}");
            assert_eq!(seen(&[cut, (cut + 1).min(stream.len())]), whole, "cut at {cut} and behind it");
        }
    }

    #[test]
    fn mutated_streams_keep_the_promises() {
        let seeds = [
            format!("\x02data: {ROLE}\n\ndata: {TEXT}\n\ndata: {STOP}\n\ndata: {USAGE}\n\ndata: [DONE]\n\n"),
            "\x0cevent: response.created\ndata: {\"response\":{}}\n\ndata: {\"type\":\"response.failed\"}\n\n".to_owned(),
            "\x07data: {\"choices\":[{\"index\":1,\"text\":\"a\"}],\"error\":[[[]]]}\r\n\r\n".to_owned(),
        ];
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for round in 0..6_000 {
            let mut data = seeds[round % seeds.len()].clone().into_bytes();
            for _ in 0..round % 6 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                let [a, b, byte, kind, ..] = state.to_le_bytes();
                let place = usize::from(u16::from_le_bytes([a, b])) % data.len();
                match kind % 4 {
                    0 => data[place] = byte,
                    1 => data[place] = b"{}[]\",:\\ \n"[usize::from(byte) % 10],
                    2 => data.insert(place, b"[{\"\\\n"[usize::from(byte) % 5]),
                    _ => drop(data.remove(place)),
                }
            }
            fuzz_observer(&data);
        }
    }
}
