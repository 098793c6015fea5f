//! Streams as providers write them, and as they come damaged.

use serde_json::Value;

use super::*;
use crate::{base::limits::JSON_DEPTH_MAX, wire::sse::Scanner};

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
fn an_error_says_of_which_kind_it_is() {
    let check = |events: &[&str], expect: Option<Said>| {
        let mut observer = Observer::new(CHAT);
        for event in events {
            observer.event(event.as_bytes());
        }
        assert_eq!(observer.said(), expect, "{events:?}");
    };
    let error = |code: &str| format!("data: {{\"error\":{{\"message\":\"m\",\"code\":\"{code}\"}}}}\n\n");
    check(&[&error("context_length_exceeded")], Some(Said::Request));
    check(&[&error("insufficient_quota"), &error("server_error")], Some(Said::Billing));
    check(
        &["event: error\ndata: {\"code\":\"rate_limit_exceeded\",\"message\":\"m\"}\n\n"],
        Some(Said::RateLimited),
    );
    check(&[&error("never_heard_of")], None);
    check(&["data: {\"choices\":[],\"code\":\"server_error\",\"message\":\"m\"}\n\n"], None);
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
    let all: Vec<String> = (0..128).map(|i| STOP.replace("\"index\":0", &format!("\"index\":{i}"))).collect();
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
fn a_usage_event_with_choices_that_say_nothing_is_dropped_once_all_have_finished() {
    let strip = Watch { strip_usage: true, ..CHAT };
    // As LiteLLM's proxy sends it.
    const SILENT: &str = r#"{"id":"chatcmpl-1","created":1741570283,"model":"gpt-4o","object":"chat.completion.chunk","choices":[{"index":0,"delta":{}}],"usage":{"completion_tokens":20,"prompt_tokens":10,"total_tokens":30}}"#;
    check(strip, &[TEXT, STOP, SILENT, "[DONE]"], "+.x. done");
    check(CHAT, &[TEXT, STOP, SILENT, "[DONE]"], "+.u. done");
    check(strip, &[TEXT, SILENT, STOP, "[DONE]"], "+u.. done");
    let with = |choices: &str| SILENT.replace(r#"{"index":0,"delta":{}}"#, choices);
    for silent in [r#"{"delta":{}}"#, r#"{"delta":{},"finish_reason":null,"logprobs":null,"index":0}"#] {
        check(strip, &[TEXT, STOP, &with(silent)], "+.x framed");
    }
    for telling in [
        r#"{"index":0,"delta":{"role":"assistant"}}"#,
        r#"{"index":0,"delta":{"content":"a"}}"#,
        r#"{"index":0,"delta":{"content":""}}"#,
        r#"{"index":0,"delta":{},"finish_reason":"stop"}"#,
        r#"{"index":0,"delta":{},"logprobs":{"content":[]}}"#,
        r#"{"index":0,"delta":{}},{"index":0,"delta":{"content":"a"}}"#,
    ] {
        check(strip, &[TEXT, STOP, &with(telling)], "+.u framed");
    }
    let two = Watch { choices: 2, ..strip };
    let second = STOP.replace("\"index\":0", "\"index\":1");
    check(two, &[TEXT, STOP, SILENT, &second], "+.u. framed");
    check(two, &[TEXT, STOP, &second, SILENT], "+..x framed");
}

#[test]
fn a_response_ends_with_its_terminal_event() {
    let responses = Watch { endpoint: Endpoint::Responses, ..CHAT };
    let created = "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"error\":null,\"usage\":null}}";
    let delta =
        "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"a\"}";
    let usage = r#"{"type":"response.completed","response":{"usage":{"input_tokens":1}}}"#;
    check(responses, &[created, delta], ".+ open");
    check(responses, &[created, delta, usage], ".+u done");
    check(responses, &["event: response.completed\ndata: {}"], ". done");
    check(responses, &["event: response.incomplete\ndata: {}"], ". done");
    check(responses, &[r#"{"type" : "response.failed"}"#], ". done failed");
    check(responses, &[r#"{"sequence_number":1,"type":"response.completed"}"#], ". done");
    check(responses, &[r#"{"type":"response.output_text.delta","delta":"response.completed"}"#], "+ open");
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
    let nested =
        |depth: usize| format!(r#"{{"usage":{{"a":1}},"error":{}{}}}"#, "[".repeat(depth), "]".repeat(depth));
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
                let Verdict { drop, first_token, usage, .. } = observer.event(&stream[start..end]);
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
        "\x0cevent: response.created\ndata: {\"response\":{}}\n\ndata: {\"type\":\"response.failed\"}\n\n"
            .to_owned(),
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
