//! What an OpenAI-compatible provider would answer, as pieces with the moment at which each is due.
//!
//! Bodies only: how they are framed, cut or spoilt is `respond`'s business.

mod chat;
mod media;
mod responses;
mod text;

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use self::text::{find, instance, text};
use super::{
    asked::{Asked, Endpoint},
    script::Script,
    sse::{Event, event_bytes},
};

/// Bytes of a body that are due together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// After the request had arrived.
    pub due: Duration,
    pub bytes: Bytes,
    /// Where the twenty digits of the send time stand.
    pub stamp_at: Option<usize>,
    /// Never written together with a neighbour.
    pub apart: bool,
}

/// An answer before it is framed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub status: u16,
    pub media: &'static str,
    pub headers: Vec<(&'static str, String)>,
    pub pieces: Vec<Piece>,
    pub streamed: bool,
}

/// The digits that a stamp replaces.
pub const STAMP_DIGITS: usize = 20;
const STAMP_EMPTY: &str = "00000000000000000000";
const CREATED: u64 = 1_700_000_000;

/// The answer that a request gets under a script. `echo` is what was received, for scripts that want it back.
pub(super) fn answer(asked: &Asked, script: &Script, echo: Option<Value>) -> Answer {
    let writer = Writer { asked, script, echo };
    match asked.endpoint {
        Endpoint::Chat | Endpoint::Completions if asked.stream => writer.stream(writer.chat_events()),
        Endpoint::Responses if asked.stream => writer.stream(writer.responses_events()),
        Endpoint::Transcriptions if asked.stream => writer.stream(writer.transcript_events()),
        Endpoint::Speech => writer.speech(),
        Endpoint::Chat => writer.whole(writer.chat()),
        Endpoint::Completions => writer.whole(writer.completion()),
        Endpoint::Responses => writer.whole(writer.response("completed").to_string()),
        Endpoint::Embeddings => writer.whole(writer.embeddings()),
        Endpoint::Moderations => writer.whole(writer.moderations()),
        Endpoint::ImageGenerations | Endpoint::ImageEdits | Endpoint::ImageVariations => {
            writer.whole(writer.images())
        }
        Endpoint::Transcriptions | Endpoint::Translations => writer.transcript(),
        Endpoint::Models => writer.whole(
            json!({"object": "list", "data": MODELS.iter().map(|id| model(id)).collect::<Value>()})
                .to_string(),
        ),
        Endpoint::Model(ref id) => writer.whole(model(id).to_string()),
        Endpoint::Unknown => refusal(404, "unknown_url", "Unknown request URL"),
    }
}

/// An error in OpenAI's shape.
pub(super) fn refusal(status: u16, code: &str, message: &str) -> Answer {
    let kind = match status {
        401 => "invalid_request_error",
        403 => "permission_error",
        404 => "invalid_request_error",
        429 => "rate_limit_error",
        500.. => "server_error",
        _ => "invalid_request_error",
    };
    let body = json!({"error": {"message": message, "type": kind, "param": null, "code": code}}).to_string();
    Answer {
        status,
        media: "application/json",
        headers: Vec::new(),
        pieces: vec![Piece { due: Duration::ZERO, bytes: body.into(), stamp_at: None, apart: false }],
        streamed: false,
    }
}

/// Names that `GET /models` lists.
const MODELS: [&str; 3] = ["sim", "sim-large", "gpt-4o-mini"];

fn model(id: &str) -> Value {
    json!({"id": id, "object": "model", "created": CREATED, "owned_by": "sim"})
}

struct Writer<'a> {
    asked: &'a Asked,
    script: &'a Script,
    echo: Option<Value>,
}

impl Writer<'_> {
    fn whole(&self, body: String) -> Answer {
        Answer {
            status: 200,
            media: "application/json",
            headers: Vec::new(),
            pieces: vec![Piece { due: self.script.ttft, bytes: body.into(), stamp_at: None, apart: false }],
            streamed: false,
        }
    }

    fn stream(&self, events: Vec<Event>) -> Answer {
        let mut pieces = Vec::with_capacity(events.len());
        let mut due = self.script.ttft;
        for (index, event) in events.iter().enumerate() {
            if index > 0 && event.paced {
                due += self.script.gap;
            }
            let bytes = Bytes::from(event_bytes(event, self.script, index));
            let stamp_at = self.script.stamp.then(|| find(&bytes, STAMP_EMPTY.as_bytes())).flatten();
            let inside = self.script.utf8.then(|| bytes.iter().position(|byte| (0x80..0xc0).contains(byte)));
            match inside.flatten() {
                Some(cut) if stamp_at.is_none() => {
                    for half in [bytes.slice(..cut), bytes.slice(cut..)] {
                        pieces.push(Piece { due, bytes: half, stamp_at: None, apart: true });
                    }
                }
                _ => pieces.push(Piece { due, bytes, stamp_at, apart: stamp_at.is_some() }),
            }
        }
        Answer {
            status: 200,
            media: "text/event-stream; charset=utf-8",
            headers: Vec::new(),
            pieces,
            streamed: true,
        }
    }

    fn events(&self) -> usize {
        self.script.events.unwrap_or(8)
    }

    fn prompt_tokens(&self) -> u64 {
        self.script.prompt.unwrap_or(self.asked.body_bytes as u64 / 4)
    }

    fn completion_tokens(&self) -> u64 {
        self.script.completion.unwrap_or_else(|| self.events() as u64 * self.asked.n as u64)
    }

    fn usage(&self) -> Value {
        let (prompt, completion) = (self.prompt_tokens(), self.completion_tokens());
        json!({
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": self.script.cached},
            "completion_tokens_details": {"reasoning_tokens": self.script.reasoning},
        })
    }

    fn tool(&self) -> Option<(String, String)> {
        let (name, schema) = self.asked.tool.as_ref().filter(|_| self.script.tools)?;
        Some((name.clone(), instance(schema).to_string()))
    }

    /// The text of the answer, where it is neither an echo nor structured; `None` means: fill to the size.
    fn special_text(&self) -> Option<String> {
        if let Some(echo) = &self.echo {
            return Some(echo.to_string());
        }
        if self.script.json || self.asked.schema.is_some() {
            let plain = json!({"name": "Ringway", "value": 42});
            return Some(self.asked.schema.as_ref().map_or(plain, instance).to_string());
        }
        None
    }

    fn text_of(&self, index: usize, bytes: usize) -> String {
        text(index, bytes, self.script.utf8)
    }

    fn with_echo(&self, mut body: Value) -> String {
        if let Some(echo) = &self.echo {
            body["echo"] = echo.clone();
        }
        body.to_string()
    }
}

fn error_event(script: &Script) -> Event {
    let code = script.code.as_deref().unwrap_or("server_error");
    let error = json!({"error": {"message": "the simulated model failed", "type": "server_error", "param": null,
        "code": code}});
    Event { name: "", data: error.to_string(), paced: true }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(model: &str, json: Value) -> Answer {
        let script = Script::parse(model).unwrap_or_default();
        let mut body = json;
        body["model"] = model.into();
        let body = body.to_string();
        let asked = Asked::of(Endpoint::Chat, &http::HeaderMap::new(), body.as_bytes());
        answer(&asked.unwrap_or_else(|e| panic!("{e}")), &script, None)
    }

    fn body(answer: &Answer) -> Vec<u8> {
        answer.pieces.iter().flat_map(|piece| piece.bytes.to_vec()).collect()
    }

    fn data_of(answer: &Answer) -> Vec<Value> {
        let text = String::from_utf8(body(answer)).unwrap_or_else(|e| panic!("{e}"));
        let lines =
            text.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]");
        lines.map(|data| serde_json::from_str(data).unwrap_or_else(|e| panic!("{e}: {data}"))).collect()
    }

    #[test]
    fn a_json_answer_has_the_size_that_was_asked_for() {
        for size in [500, 501, 4_000] {
            let answer = written(&format!("sim,size={size}"), json!({}));
            assert_eq!(body(&answer).len(), size);
        }
        assert_eq!(body(&written("sim", json!({}))).len(), 500);
    }

    #[test]
    fn events_have_their_size_and_their_moment() {
        let answer = written("sim,ttft=80,gap=10,events=3,size=260", json!({"stream": true}));
        let due = answer.pieces.iter().map(|piece| piece.due.as_millis()).collect::<Vec<_>>();
        assert_eq!(due, [80, 90, 100, 110, 110]);
        assert!(answer.pieces[..3].iter().skip(1).all(|piece| piece.bytes.len() == 260));
        assert!(body(&answer).ends_with(b"data: [DONE]\n\n"));
    }

    #[test]
    fn usage_is_null_on_each_chunk_and_then_comes_alone() {
        let answer = written(
            "sim,events=2,prompt=7",
            json!({"stream": true, "stream_options": {"include_usage": true}}),
        );
        let chunks = data_of(&answer);
        assert_eq!(chunks.len(), 4);
        assert!(chunks[..3].iter().all(|chunk| chunk.get("usage") == Some(&Value::Null)));
        assert_eq!(chunks[3]["choices"], json!([]));
        assert_eq!(chunks[3]["usage"]["total_tokens"], 9);
        let without = data_of(&written("sim,events=2", json!({"stream": true})));
        assert!(without.iter().all(|chunk| chunk.get("usage").is_none()));
    }

    #[test]
    fn each_choice_is_finished() {
        let chunks = data_of(&written("sim,events=2", json!({"stream": true, "n": 2})));
        let finished = chunks.iter().filter(|chunk| chunk["choices"][0]["finish_reason"] == "stop");
        assert_eq!(finished.count(), 2);
        assert!(data_of(&written("sim,events=2,nofinish", json!({"stream": true}))).len() == 2);
    }

    #[test]
    fn tools_and_schemas_are_honoured() {
        let schema = json!({"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}});
        let tools = json!([{"type": "function", "function": {"name": "weather", "parameters": schema}}]);
        let whole = serde_json::from_slice::<Value>(&body(&written("sim,tools", json!({"tools": tools}))));
        let call = whole.unwrap_or_default()["choices"][0]["message"]["tool_calls"][0]["function"].clone();
        assert_eq!(call, json!({"name": "weather", "arguments": r#"{"city":"Ringway","days":42}"#}));

        let chunks = data_of(&written("sim,tools", json!({"tools": tools, "stream": true})));
        let arguments = chunks.iter().filter_map(|chunk| {
            chunk["choices"][0]["delta"]["tool_calls"][0]["function"]["arguments"].as_str()
        });
        assert_eq!(arguments.collect::<String>(), r#"{"city":"Ringway","days":42}"#);
    }

    #[test]
    fn utf8_events_are_cut_inside_a_character_and_lose_nothing() {
        let answer = written("sim,utf8,size=400", json!({"stream": true}));
        assert!(answer.pieces.iter().any(|piece| std::str::from_utf8(&piece.bytes).is_err()));
        assert!(!data_of(&answer).is_empty());
    }

    #[test]
    fn stamped_events_know_where_their_stamp_is() {
        let answer = written("sim,stamp,events=2", json!({"stream": true}));
        let at = answer.pieces[0].stamp_at.unwrap_or_default();
        assert_eq!(&answer.pieces[0].bytes[at..at + STAMP_DIGITS], STAMP_EMPTY.as_bytes());
        assert!(at < 32);
    }
}
