//! The payloads that providers send: streams of events in every legal spelling, JSON, and bytes.

use super::{
    chance::Chance,
    faults::Fault,
    script::{Form, Wanted},
};
use crate::{base::limits, ledger::record::Tokens};

/// The payload of an answer, and what is to be known of it.
pub(super) struct Body {
    pub(super) payload: Vec<u8>,
    pub(super) expect: Vec<u8>,
    pub(super) ends: Vec<usize>,
    pub(super) is_whole: bool,
    pub(super) has_last_word: bool,
    pub(super) says_it_failed: bool,
    pub(super) usage: Tokens,
    pub(super) content_type: &'static str,
    pub(super) form: Form,
}

/// Writes events with any line ends, comments between them, and payloads of several lines.
struct Writer<'a> {
    chance: &'a Chance,
    body: Body,
    /// One line end for all, or any.
    line_end: Option<&'static str>,
}

const LINE_ENDS: [&str; 3] = ["\n", "\r\n", "\r"];

impl<'a> Writer<'a> {
    fn new(chance: &'a Chance) -> Self {
        let body = Body {
            payload: Vec::new(),
            expect: Vec::new(),
            ends: Vec::new(),
            is_whole: false,
            has_last_word: false,
            says_it_failed: false,
            usage: Tokens::default(),
            content_type: chance.pick(&["text/event-stream", "text/event-stream; charset=utf-8"]),
            form: Form::Events,
        };
        let line_end = (!chance.one_in(6)).then(|| chance.pick(&["\n", "\n", "\r\n", "\r"]));
        Self { chance, body, line_end }
    }

    fn line(&self, event: &mut Vec<u8>, text: &str) {
        event.extend_from_slice(text.as_bytes());
        let mut end = self.line_end.unwrap_or_else(|| self.chance.pick(&LINE_ENDS));
        // A blank line's LF right behind a CR would be one line end with it, and end nothing.
        if text.is_empty() && event.last() == Some(&b'\r') && end == "\n" {
            end = "\r\n";
        }
        event.extend_from_slice(end.as_bytes());
    }

    fn event(&mut self, name: Option<&str>, json: &str, kept: bool) {
        let mut event = Vec::new();
        if self.chance.one_in(12) {
            self.line(&mut event, ": processing");
            if self.chance.one_in(2) {
                self.line(&mut event, "");
                self.put(&std::mem::take(&mut event), true);
            }
        }
        if let Some(name) = name {
            self.line(&mut event, &format!("event: {name}"));
        }
        match json.split_once(",\"") {
            Some((first, second)) if self.chance.one_in(10) => {
                self.line(&mut event, &format!("data: {first},"));
                self.line(&mut event, &format!("data: \"{second}"));
            }
            _ => self.line(&mut event, &format!("data: {json}")),
        }
        self.line(&mut event, "");
        self.put(&event, kept);
    }

    fn put(&mut self, event: &[u8], kept: bool) {
        self.body.payload.extend_from_slice(event);
        if kept {
            self.body.expect.extend_from_slice(event);
            self.body.ends.push(self.body.expect.len());
        }
    }
}

fn usage_json(usage: Tokens) -> String {
    let cached = match usage.cached {
        Some(cached) => format!(r#","prompt_tokens_details":{{"cached_tokens":{cached}}}"#),
        None => String::new(),
    };
    let (prompt, completion) = (usage.prompt.unwrap_or(0), usage.completion.unwrap_or(0));
    format!(
        r#"{{"prompt_tokens":{prompt},"completion_tokens":{completion},"total_tokens":{}{cached}}}"#,
        prompt + completion
    )
}

const WORDS: [&str; 6] = ["Hello", " wörld", " 世界", " 😀", " \\\"quoted\\\"\\n", " data: [DONE] "];

pub(super) fn chat(chance: &Chance, wanted: Wanted, usage: Tokens, faults: &mut Vec<Fault>) -> Body {
    let mut writer = Writer::new(chance);
    let chunk = |rest: &str| format!(r#"{{"id":"c","object":"chat.completion.chunk",{rest}}}"#);
    let missing_finish = chance.one_in(12);
    let missing_done = chance.one_in(10);
    let error = chance.one_in(14);
    let large = chance.one_in(40);
    for round in 0..chance.of(1..8) {
        for choice in 0..wanted.choices {
            let mut words: String = (0..chance.of(1..4)).map(|_| chance.pick(&WORDS)).collect();
            if large && round == 0 && choice == 0 {
                faults.push(Fault::LargeEvent);
                words = words.repeat(limits::SSE_EVENT_BYTES_MAX / words.len() + chance.of(1..2_000));
            }
            let json = format!(
                r#""choices":[{{"index":{choice},"delta":{{"content":"{words}"}},"finish_reason":null}}]"#
            );
            writer.event(None, &chunk(&json), true);
        }
    }
    if error {
        faults.push(Fault::ErrorEvent);
        writer.event(
            None,
            r#"{"error":{"message":"overloaded","type":"server_error","param":null,"code":null}}"#,
            true,
        );
        (writer.body.is_whole, writer.body.has_last_word, writer.body.says_it_failed) = (true, true, true);
        return writer.body;
    }
    if missing_finish {
        faults.push(Fault::MissingFinish);
    } else {
        for choice in 0..wanted.choices {
            let json = format!(r#""choices":[{{"index":{choice},"delta":{{}},"finish_reason":"stop"}}]"#);
            writer.event(None, &chunk(&json), true);
        }
    }
    if wanted.usage {
        writer.body.usage = usage;
        let json = format!(r#""choices":[],"usage":{}"#, usage_json(usage));
        writer.event(None, &chunk(&json), !wanted.strip);
    }
    if missing_done {
        faults.push(Fault::MissingDone);
    } else {
        writer.event(None, "[DONE]", true);
    }
    writer.body.is_whole = !missing_finish || !missing_done;
    writer.body.has_last_word = !missing_done;
    writer.body
}

pub(super) fn responses(chance: &Chance, usage: Tokens, faults: &mut Vec<Fault>) -> Body {
    let mut writer = Writer::new(chance);
    let mut say =
        |name: &str, rest: &str| writer.event(Some(name), &format!(r#"{{"type":"{name}"{rest}}}"#), true);
    say("response.created", "");
    for _ in 0..chance.of(1..10) {
        say("response.output_text.delta", &format!(r#","delta":"{}""#, chance.pick(&WORDS)));
    }
    let end = chance.of(0..8);
    let usage_there = format!(
        r#","response":{{"usage":{{"input_tokens":{},"output_tokens":{}}}}}"#,
        usage.prompt.unwrap_or(0),
        usage.completion.unwrap_or(0)
    );
    match end {
        0 => faults.push(Fault::MissingFinish),
        1 => say("response.failed", ""),
        2 => say("response.incomplete", &usage_there),
        _ => say("response.completed", &usage_there),
    }
    let mut body = writer.body;
    (body.is_whole, body.has_last_word, body.says_it_failed) = (end != 0, end != 0, end == 1);
    if end > 1 {
        body.usage = Tokens { cached: None, ..usage };
    }
    body
}

pub(super) fn json(chance: &Chance, usage: Tokens, faults: &mut Vec<Fault>) -> Body {
    let mut filler = chance.of(0..900);
    if chance.one_in(150) {
        faults.push(Fault::LargeJson);
        filler = limits::HELD_ANSWER_BYTES_MAX + chance.of(0..9_000);
    }
    let payload = format!(
        r#"{{"id":"j","choices":[{{"index":0,"message":{{"content":"{}"}},"finish_reason":"stop"}}],"usage":{}}}"#,
        "0123456789abcdef ".repeat(filler / 17),
        usage_json(usage),
    )
    .into_bytes();
    let content_type = chance.pick(&["application/json", "application/json; charset=utf-8"]);
    Body { usage, ..whole(payload, content_type, Form::Json) }
}

pub(super) fn binary(chance: &Chance) -> Body {
    let payload = (0..chance.of(0..3_000)).map(|_| chance.next().to_le_bytes()[0]).collect();
    whole(payload, "audio/mpeg", Form::Binary)
}

fn whole(payload: Vec<u8>, content_type: &'static str, form: Form) -> Body {
    let expect = payload.clone();
    Body {
        payload,
        expect,
        ends: Vec::new(),
        is_whole: true,
        has_last_word: false,
        says_it_failed: false,
        usage: Tokens::default(),
        content_type,
        form,
    }
}
