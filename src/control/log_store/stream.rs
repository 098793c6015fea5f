//! A stream of events put together into the answer that it would have been without streaming: what a model says a token at a
//! time is one text again, in which a mask finds what it must and a search what it looks for.
//!
//! It is for events as they were sent to a client: of a stream that was cut, all that is whole. What cannot be read is left out.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::wire::{
    mask::UNDECIDED_BYTES_MAX,
    sse::{Scanner, data_of},
};

/// More choices or calls than these are not looked through for the one that goes on: each delta stands for itself.
const LIST_ITEMS_MAX: usize = 1_024;

/// The answer as one JSON text. `is_whole`: nothing was cut off the end of `events`.
pub(super) fn together(events: &[u8], is_whole: bool) -> String {
    let (mut answer, mut scanner, mut scratch) = (Answer::default(), Scanner::default(), Vec::new());
    let mut at = 0;
    while let Some(end) = scanner.next(events, at) {
        answer.take(data_of(&events[at..end]).joined(&mut scratch));
        at = end;
    }
    if is_whole {
        // A last event may lack its blank line.
        answer.take(data_of(&events[at..]).joined(&mut scratch));
    } else {
        answer.hold_back();
    }
    answer.into_value().to_string()
}

#[derive(Default)]
struct Answer {
    /// All members but the choices, as they were said last.
    members: Map<String, Value>,
    choices: Vec<Value>,
    /// What the Responses API said piece by piece, until it says all of it once more: by kind and place.
    pieces: BTreeMap<(String, u64, u64), String>,
    /// That once more.
    response: Option<Value>,
}

impl Answer {
    fn take(&mut self, data: &[u8]) {
        let Ok(Value::Object(mut event)) = serde_json::from_slice(data) else { return };
        let kind = event.get("type").and_then(Value::as_str).unwrap_or_default();
        if kind.starts_with("response.") {
            let kind = kind.to_owned();
            self.take_piece(&kind, &mut event);
            return;
        }
        if let Some(Value::Array(choices)) = event.remove("choices") {
            choices.into_iter().for_each(|choice| self.take_choice(choice));
        }
        for (name, value) in event {
            if !value.is_null() || !self.members.contains_key(&name) {
                self.members.insert(name, value);
            }
        }
    }

    fn take_choice(&mut self, choice: Value) {
        let Value::Object(mut choice) = choice else { return };
        // What is new of a message becomes the message.
        if let Some(delta) = choice.remove("delta") {
            choice.insert("message".to_owned(), delta);
        }
        add_item(&mut self.choices, Value::Object(choice));
    }

    fn take_piece(&mut self, kind: &str, event: &mut Map<String, Value>) {
        if matches!(kind, "response.completed" | "response.incomplete" | "response.failed") {
            self.response = event.remove("response");
        } else if let (Some(kind), Some(Value::String(piece))) =
            (kind.strip_suffix(".delta"), event.get("delta"))
        {
            let place = |name| event.get(name).and_then(Value::as_u64).unwrap_or(0);
            let key = (kind.to_owned(), place("output_index"), place("content_index"));
            self.pieces.entry(key).or_default().push_str(piece);
        }
    }

    /// Takes off what the end that was cut may have torn: each text may go on with what would have been masked.
    fn hold_back(&mut self) {
        let choices = self.choices.iter_mut().filter_map(Value::as_object_mut);
        choices.for_each(|choice| choice.iter_mut().for_each(|(name, value)| shorten(name, value)));
        self.pieces.values_mut().for_each(shorten_text);
    }

    fn into_value(self) -> Value {
        if let Some(response) = self.response {
            return response;
        }
        let mut members = self.members;
        if let Some(Value::String(object)) = members.get_mut("object")
            && let Some(whole) = object.strip_suffix(".chunk")
        {
            *object = whole.to_owned();
        }
        if !self.choices.is_empty() {
            members.insert("choices".to_owned(), Value::Array(self.choices));
        }
        if !self.pieces.is_empty() {
            let pieces = self.pieces.into_iter().map(|((kind, output, content), text)| {
                json!({ "type": kind, "output_index": output, "content_index": content, "text": text })
            });
            members.insert("output".to_owned(), pieces.collect());
        }
        Value::Object(members)
    }
}

/// Names rather than texts: said once, or again and again, and never piece by piece.
fn is_name(member: &str) -> bool {
    matches!(
        member,
        "id" | "type" | "role" | "name" | "index" | "object" | "finish_reason" | "stop_reason" | "format"
    )
}

/// Adds to `whole` what `delta` says more.
fn add(name: &str, whole: &mut Value, delta: Value) {
    match (whole, delta) {
        (_, Value::Null) => {}
        (Value::String(text), Value::String(more)) if !is_name(name) => text.push_str(&more),
        // Some say a name again with every piece, and an empty one when they mean the same.
        (Value::String(_), Value::String(more)) if more.is_empty() => {}
        (Value::Object(members), Value::Object(more)) => {
            for (name, value) in more {
                match members.get_mut(&name) {
                    Some(member) => add(&name, member, value),
                    None => _ = members.insert(name, value),
                }
            }
        }
        (Value::Array(items), Value::Array(more)) => more.into_iter().for_each(|item| add_item(items, item)),
        (whole, delta) => *whole = delta,
    }
}

/// Adds an item, to the one of the same index if there is one.
fn add_item(items: &mut Vec<Value>, item: Value) {
    let index = item.get("index").and_then(Value::as_u64);
    let same = |other: &&mut Value| index.is_some() && other.get("index").and_then(Value::as_u64) == index;
    let known = items.iter_mut().take(LIST_ITEMS_MAX).find(same);
    match known {
        Some(known) => add("", known, item),
        None => items.push(item),
    }
}

fn shorten(name: &str, value: &mut Value) {
    match value {
        Value::String(text) if !is_name(name) => shorten_text(text),
        Value::Array(items) => items.iter_mut().for_each(|item| shorten(name, item)),
        Value::Object(members) => members.iter_mut().for_each(|(name, value)| shorten(name, value)),
        _ => {}
    }
}

fn shorten_text(text: &mut String) {
    text.truncate(text.floor_char_boundary(text.len().saturating_sub(UNDECIDED_BYTES_MAX)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(data: &[&str]) -> String {
        data.iter().map(|data| format!("data: {data}\n\n")).collect()
    }

    #[track_caller]
    fn check(data: &[&str], expect: Value) {
        let text = together(events(data).as_bytes(), true);
        assert_eq!(serde_json::from_str::<Value>(&text).expect(&text), expect);
    }

    #[test]
    fn a_chat_is_one_message_a_choice() {
        check(
            &[
                r#"{"id":"c1","object":"chat.completion.chunk","model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#,
                r#"{"id":"c1","choices":[{"index":1,"delta":{"content":"B"}},{"index":0,"delta":{"content":"Hel"}}],"usage":null}"#,
                r#"{"id":"c1","choices":[{"index":0,"delta":{"content":"lo","reasoning_content":"hm"},"finish_reason":"stop"}]}"#,
                r#"{"id":"c1","choices":[],"usage":{"total_tokens":3}}"#,
                "[DONE]",
            ],
            json!({
                "id": "c1", "object": "chat.completion", "model": "m", "usage": {"total_tokens": 3},
                "choices": [
                    {"index": 0, "finish_reason": "stop", "message":
                        {"role": "assistant", "content": "Hello", "reasoning_content": "hm"}},
                    {"index": 1, "message": {"content": "B"}},
                ],
            }),
        );
    }

    #[test]
    fn a_tool_call_is_whole_arguments_under_one_name() {
        let delta =
            |call: &str| format!(r#"{{"choices":[{{"index":0,"delta":{{"tool_calls":[{call}]}}}}]}}"#);
        check(
            &[
                &delta(
                    r#"{"index":0,"id":"t1","type":"function","function":{"name":"find","arguments":""}}"#,
                ),
                &delta(r#"{"index":0,"id":"","function":{"name":"find","arguments":"{\"a\""}}"#),
                &delta(r#"{"index":1,"id":"t2","function":{"arguments":"{}"}}"#),
                &delta(r#"{"index":0,"function":{"arguments":":1}"}}"#),
            ],
            json!({"choices": [{"index": 0, "message": {"tool_calls": [
                {"index": 0, "id": "t1", "type": "function", "function": {"name": "find", "arguments": "{\"a\":1}"}},
                {"index": 1, "id": "t2", "function": {"arguments": "{}"}},
            ]}}]}),
        );
    }

    #[test]
    fn completions_and_responses_are_put_together_too() {
        check(
            &[
                r#"{"object":"text_completion","choices":[{"index":0,"text":"a"}]}"#,
                r#"{"choices":[{"index":0,"text":"b"}]}"#,
            ],
            json!({"object": "text_completion", "choices": [{"index": 0, "text": "ab"}]}),
        );
        let pieces = [
            r#"{"type":"response.created","response":{"id":"r"}}"#,
            r#"{"type":"response.output_text.delta","output_index":1,"content_index":0,"delta":"a"}"#,
            r#"{"type":"response.output_text.delta","output_index":1,"content_index":0,"delta":"b"}"#,
        ];
        let piece =
            json!({"type": "response.output_text", "output_index": 1, "content_index": 0, "text": "ab"});
        check(&pieces, json!({"output": [piece]}));
        let last = r#"{"type":"response.completed","response":{"id":"r","output":["ab"]}}"#;
        check(&[&pieces[..], &[last]].concat(), json!({"id": "r", "output": ["ab"]}));
    }

    #[test]
    fn an_error_stays_and_what_cannot_be_read_is_left_out() {
        check(
            &[
                "{",
                "7",
                r#"{"choices":[{"index":0,"delta":{"content":"a"}}]}"#,
                r#"{"error":{"code":"lost"}}"#,
            ],
            json!({"error": {"code": "lost"}, "choices": [{"index": 0, "message": {"content": "a"}}]}),
        );
        check(&[], json!({}));
    }

    #[test]
    fn a_stream_that_was_cut_shows_no_text_that_might_go_on() {
        let word =
            |n: usize| format!(r#"{{"id":"c1","choices":[{{"index":0,"delta":{{"content":"w{n} "}}}}]}}"#);
        let words: Vec<_> = (0..200).map(word).collect();
        let all = events(&words.iter().map(String::as_str).collect::<Vec<_>>());
        let whole = (0..200).map(|n| format!("w{n} ")).collect::<String>();
        for cut in (0..all.len()).step_by(97) {
            let shown: Value = serde_json::from_str(&together(&all.as_bytes()[..cut], false)).expect("JSON");
            let said = shown["choices"][0]["message"]["content"].as_str().unwrap_or_default().to_owned();
            assert!(whole.starts_with(&said));
            let sent = all[..cut].matches("\n\n").count();
            let sent: String = (0..sent).map(|n| format!("w{n} ")).collect();
            assert_eq!(said.len(), sent.len().saturating_sub(UNDECIDED_BYTES_MAX));
        }
    }

    #[test]
    fn any_events_are_put_together_without_a_panic() {
        let pieces = [
            "data: {\"choices\":[{\"index\":0,\"delta\":",
            "{\"content\":\"é\"}",
            "}]}",
            "\n\n",
            "\r",
            "[[{}]]",
            "null",
            "{\"type\":\"response.x.delta\",\"delta\":\"a\"}",
            "data: ",
            "{\"object\":\".chunk\"}",
        ];
        let mut chance = 99_u64;
        for _ in 0..3_000 {
            let mut text = String::new();
            for _ in 0..chance % 20 {
                chance ^= chance << 13;
                chance ^= chance >> 7;
                chance ^= chance << 17;
                text.push_str(pieces[usize::try_from(chance % 10).expect("small")]);
            }
            chance = chance.wrapping_add(1);
            for is_whole in [true, false] {
                let shown = together(text.as_bytes(), is_whole);
                assert!(
                    serde_json::from_str::<Value>(&shown).is_ok_and(|value| value.is_object()),
                    "{shown}"
                );
            }
        }
    }
}
