//! What an OpenAI-compatible provider would answer, as pieces with the moment at which each is due.
//!
//! Bodies only: how they are framed, cut or spoilt is `respond`'s business.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

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

    fn responses_usage(&self) -> Value {
        let (input, output) = (self.prompt_tokens(), self.completion_tokens());
        json!({
            "input_tokens": input,
            "input_tokens_details": {"cached_tokens": self.script.cached},
            "output_tokens": output,
            "output_tokens_details": {"reasoning_tokens": self.script.reasoning},
            "total_tokens": input + output,
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

    fn chat(&self) -> String {
        let finish = if self.tool().is_some() { "tool_calls" } else { "stop" };
        let render = |content: &str| {
            let message = match self.tool() {
                Some((name, arguments)) => json!({
                    "role": "assistant", "content": null, "refusal": null,
                    "tool_calls": [{"id": "call_sim", "type": "function",
                        "function": {"name": name, "arguments": arguments}}],
                }),
                None => json!({"role": "assistant", "content": content, "refusal": null}),
            };
            let choices = (0..self.asked.n).map(|index| {
                json!({"index": index, "message": message, "logprobs": null, "finish_reason": finish})
            });
            let mut body = json!({
                "id": "chatcmpl-sim", "object": "chat.completion", "created": CREATED, "model": self.asked.model,
                "choices": choices.collect::<Value>(),
            });
            if !self.script.no_usage {
                body["usage"] = self.usage();
            }
            body.to_string()
        };
        self.filled(render)
    }

    fn completion(&self) -> String {
        self.filled(|content| {
            let choices = (0..self.asked.n).map(
                |index| json!({"index": index, "text": content, "logprobs": null, "finish_reason": "stop"}),
            );
            let mut body = json!({
                "id": "cmpl-sim", "object": "text_completion", "created": CREATED, "model": self.asked.model,
                "choices": choices.collect::<Value>(),
            });
            if !self.script.no_usage {
                body["usage"] = self.usage();
            }
            body.to_string()
        })
    }

    /// Renders with the special text, or with as much text as makes the body `size` bytes.
    fn filled(&self, render: impl Fn(&str) -> String) -> String {
        if let Some(special) = self.special_text() {
            return render(&special);
        }
        let wanted = self.script.size.unwrap_or(500);
        let empty = render("").len();
        render(&self.text_of(0, wanted.saturating_sub(empty) / self.asked.n))
    }

    fn chat_events(&self) -> Vec<Event> {
        let chat = self.asked.endpoint == Endpoint::Chat;
        let count = self.events();
        let mut events = Vec::with_capacity(count * self.asked.n + 3);
        let special = self.special_text();
        for index in 0..count {
            for choice in 0..self.asked.n {
                if self.script.error_event && index == count / 2 {
                    events.push(error_event());
                    return events;
                }
                let content = match &special {
                    Some(text) => slice_of(text, index, count),
                    None => self.sized_text(index, |content| self.chat_chunk(chat, index, choice, content)),
                };
                let data = self.chat_chunk(chat, index, choice, &content);
                events.push(Event { name: "", data, paced: choice == 0 });
            }
        }
        if !self.script.no_finish {
            let reason = if chat && self.tool().is_some() { "tool_calls" } else { "stop" };
            for choice in 0..self.asked.n {
                let data = self.chunk_head(
                    chat,
                    choice,
                    "{}",
                    "\"\"",
                    &format!("\"{reason}\""),
                    self.script.usage_last,
                );
                events.push(Event { name: "", data, paced: choice == 0 });
            }
            if self.asked.include_usage && !self.script.no_usage && !self.script.usage_last {
                let object = if chat { "chat.completion.chunk" } else { "text_completion" };
                let data = format!(
                    r#"{{"id":"chatcmpl-sim","object":"{object}","created":{CREATED},"model":{},"choices":[],"usage":{}}}"#,
                    json!(self.asked.model),
                    self.usage()
                );
                events.push(Event { name: "", data, paced: false });
            }
            if !self.script.no_done {
                events.push(Event { name: "", data: "[DONE]".into(), paced: false });
            }
        }
        events
    }

    fn chat_chunk(&self, chat: bool, index: usize, choice: usize, content: &str) -> String {
        let role = if index == 0 { r#""role":"assistant","# } else { "" };
        let quoted = json!(content).to_string();
        let delta = match self.tool().filter(|_| chat) {
            None => format!("{{{role}\"content\":{quoted}}}"),
            // The name comes first, the arguments in two halves; afterwards there is nothing left to say.
            Some((name, arguments)) => {
                let half = arguments.len() / 2;
                let call = match index {
                    0 => {
                        json!({"index": 0, "id": "call_sim", "type": "function", "function": {"name": name, "arguments": ""}})
                    }
                    1 if self.events() > 2 => {
                        json!({"index": 0, "function": {"arguments": arguments[..half]}})
                    }
                    2 => json!({"index": 0, "function": {"arguments": arguments[half..]}}),
                    1 => json!({"index": 0, "function": {"arguments": arguments}}),
                    _ => json!({"index": 0, "function": {"arguments": ""}}),
                };
                format!("{{{role}\"content\":null,\"tool_calls\":[{call}]}}")
            }
        };
        self.chunk_head(chat, choice, &delta, &quoted, "null", self.script.usage_all)
    }

    fn chunk_head(
        &self,
        chat: bool,
        choice: usize,
        delta: &str,
        text: &str,
        finish: &str,
        with_usage: bool,
    ) -> String {
        // First, so that whoever reads it needs only the beginning of the event.
        let stamp = if self.script.stamp { format!(r#""stamp":"{STAMP_EMPTY}","#) } else { String::new() };
        let usage = match (with_usage && !self.script.no_usage, self.asked.include_usage) {
            (true, _) => format!(",\"usage\":{}", self.usage()),
            (false, true) => ",\"usage\":null".into(),
            (false, false) => String::new(),
        };
        let model = json!(self.asked.model);
        if chat {
            format!(
                r#"{{{stamp}"id":"chatcmpl-sim","object":"chat.completion.chunk","created":{CREATED},"model":{model},"choices":[{{"index":{choice},"delta":{delta},"logprobs":null,"finish_reason":{finish}}}]{usage}}}"#
            )
        } else {
            format!(
                r#"{{{stamp}"id":"cmpl-sim","object":"text_completion","created":{CREATED},"model":{model},"choices":[{{"index":{choice},"text":{text},"logprobs":null,"finish_reason":{finish}}}]{usage}}}"#
            )
        }
    }

    /// Text that makes the event `size` bytes on the wire, as far as it is not larger without.
    fn sized_text(&self, index: usize, render: impl Fn(&str) -> String) -> String {
        let wanted = self.script.size.unwrap_or(200);
        let around = "data: \n\n".len();
        self.text_of(index, wanted.saturating_sub(render("").len() + around))
    }

    fn response(&self, status: &str) -> Value {
        let content = self.special_text().unwrap_or_else(|| self.text_of(0, self.script.size.unwrap_or(64)));
        let output = match self.tool() {
            Some((name, arguments)) => json!({"id": "fc_sim", "type": "function_call", "call_id": "call_sim",
                "name": name, "arguments": arguments, "status": "completed"}),
            None => json!({"id": "msg_sim", "type": "message", "role": "assistant", "status": "completed",
                "content": [{"type": "output_text", "text": content, "annotations": [], "logprobs": []}]}),
        };
        let done = status == "completed";
        let usage = if done && !self.script.no_usage { self.responses_usage() } else { Value::Null };
        json!({
            "id": "resp_sim", "object": "response", "created_at": CREATED, "status": status,
            "model": self.asked.model, "error": null, "incomplete_details": null, "instructions": null,
            "metadata": {}, "parallel_tool_calls": true, "temperature": 1.0, "top_p": 1.0, "tool_choice": "auto",
            "tools": [], "output": if done { json!([output]) } else { json!([]) }, "usage": usage,
        })
    }

    fn responses_events(&self) -> Vec<Event> {
        let mut events = Vec::new();
        let mut push = |name: &'static str, mut data: Value, paced: bool| {
            data["type"] = name.into();
            data["sequence_number"] = events.len().into();
            if self.script.stamp {
                data[" stamp"] = STAMP_EMPTY.into();
            }
            events.push(Event { name, data: data.to_string().replacen("\" stamp\"", "\"stamp\"", 1), paced });
        };
        let place = || json!({"item_id": "msg_sim", "output_index": 0, "content_index": 0});
        let with = |key: &str, value: Value| {
            let mut data = place();
            data[key] = value;
            data
        };
        let part =
            |text: &str| json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []});
        let item = |status: &str, content: Value| {
            json!({"output_index": 0, "item": {"id": "msg_sim", "type": "message", "role": "assistant",
                "status": status, "content": content}})
        };
        push("response.created", json!({"response": self.response("in_progress")}), true);
        push("response.in_progress", json!({"response": self.response("in_progress")}), false);
        push("response.output_item.added", item("in_progress", json!([])), false);
        push("response.content_part.added", with("part", part("")), false);
        let count = self.events();
        let special = self.special_text();
        let mut whole = String::new();
        for index in 0..count {
            if self.script.error_event && index == count / 2 {
                push(
                    "error",
                    json!({"code": "server_error", "message": "the simulated model failed", "param": null}),
                    true,
                );
                return events;
            }
            let delta = match &special {
                Some(text) => slice_of(text, index, count),
                None => self.text_of(index, self.script.size.unwrap_or(200).saturating_sub(180)),
            };
            whole.push_str(&delta);
            let mut data = with("delta", delta.into());
            data["logprobs"] = json!([]);
            push("response.output_text.delta", data, true);
        }
        if self.script.no_finish {
            return events;
        }
        let mut done = with("text", whole.clone().into());
        done["logprobs"] = json!([]);
        push("response.output_text.done", done, true);
        push("response.content_part.done", with("part", part(&whole)), false);
        push("response.output_item.done", item("completed", json!([part(&whole)])), false);
        let mut response = self.response("completed");
        response["output"][0] = item("completed", json!([part(&whole)]))["item"].clone();
        push("response.completed", json!({"response": response}), false);
        events
    }

    fn transcript_text(&self) -> String {
        let (field, bytes) = self.asked.file.clone().unwrap_or_default();
        format!("received {bytes} bytes in {field} for {}", self.asked.model)
    }

    fn transcript(&self) -> Answer {
        let text = self.transcript_text();
        if self.asked.plain_text {
            return Answer { media: "text/plain; charset=utf-8", ..self.whole(text) };
        }
        let usage = json!({"type": "tokens", "input_tokens": self.prompt_tokens(),
            "output_tokens": self.completion_tokens(),
            "total_tokens": self.prompt_tokens() + self.completion_tokens()});
        let mut body = json!({"text": text});
        if !self.script.no_usage {
            body["usage"] = usage;
        }
        self.whole(self.with_echo(body))
    }

    fn transcript_events(&self) -> Vec<Event> {
        let text = self.transcript_text();
        let named = |name: &'static str, mut data: Value| {
            data["type"] = name.into();
            Event { name, data: data.to_string(), paced: true }
        };
        vec![
            named("transcript.text.delta", json!({"delta": text})),
            named("transcript.text.done", json!({"text": text})),
            Event { name: "", data: "[DONE]".into(), paced: false },
        ]
    }

    fn embeddings(&self) -> String {
        let vector = |input: usize| {
            (0..self.asked.dimensions)
                .map(move |at| f32::from(u16::try_from((input + at) % 64).unwrap_or(0)) / 64.0)
        };
        let data = (0..self.asked.inputs).map(|index| {
            let embedding = if self.asked.base64 {
                base64(&vector(index).flat_map(f32::to_le_bytes).collect::<Vec<_>>()).into()
            } else {
                vector(index).map(Value::from).collect::<Value>()
            };
            json!({"object": "embedding", "index": index, "embedding": embedding})
        });
        let mut body = json!({"object": "list", "model": self.asked.model, "data": data.collect::<Value>()});
        if !self.script.no_usage {
            let prompt = self.prompt_tokens();
            body["usage"] = json!({"prompt_tokens": prompt, "total_tokens": prompt});
        }
        self.with_echo(body)
    }

    fn moderations(&self) -> String {
        let kinds = ["harassment", "hate", "self-harm", "sexual", "violence", "illicit"];
        let none =
            kinds.iter().map(|kind| ((*kind).to_owned(), json!(false))).collect::<serde_json::Map<_, _>>();
        let low =
            kinds.iter().map(|kind| ((*kind).to_owned(), json!(0.01))).collect::<serde_json::Map<_, _>>();
        let result = json!({"flagged": false, "categories": none, "category_scores": low,
            "category_applied_input_types": {}});
        self.with_echo(json!({"id": "modr-sim", "model": self.asked.model,
            "results": vec![result; self.asked.inputs]}))
    }

    fn images(&self) -> String {
        let bytes = vec![0x89; self.script.size.unwrap_or(300)];
        let mut body = json!({"created": CREATED, "data": vec![json!({"b64_json": base64(&bytes)}); self.asked.n],
            "usage": {"input_tokens": self.prompt_tokens(), "output_tokens": self.completion_tokens(),
                "total_tokens": self.prompt_tokens() + self.completion_tokens(),
                "input_tokens_details": {"image_tokens": 0, "text_tokens": self.prompt_tokens()}}});
        if let Some((field, bytes)) = &self.asked.file {
            body["received"] = json!({"field": field, "bytes": bytes, "model": self.asked.model});
        }
        self.with_echo(body)
    }

    fn speech(&self) -> Answer {
        let count = self.events();
        let total = self.script.size.unwrap_or(4096);
        let piece = |index: usize| {
            let from = total * index / count.max(1);
            let to = total * (index + 1) / count.max(1);
            let bytes = (from..to).map(|at| u8::try_from(at % 251).unwrap_or(0)).collect::<Vec<_>>();
            let gaps = u32::try_from(index).unwrap_or(u32::MAX);
            Piece {
                due: self.script.ttft + self.script.gap * gaps,
                bytes: bytes.into(),
                stamp_at: None,
                apart: false,
            }
        };
        Answer {
            media: "audio/mpeg",
            pieces: (0..count).map(piece).collect(),
            streamed: true,
            ..self.whole(String::new())
        }
    }

    fn with_echo(&self, mut body: Value) -> String {
        if let Some(echo) = &self.echo {
            body["echo"] = echo.clone();
        }
        body.to_string()
    }
}

fn error_event() -> Event {
    let error = json!({"error": {"message": "the simulated model failed", "type": "server_error", "param": null,
        "code": "server_error"}});
    Event { name: "", data: error.to_string(), paced: true }
}

/// Text of about so many bytes that says which piece it is; never fewer than nothing.
fn text(index: usize, bytes: usize, utf8: bool) -> String {
    let mut text = format!("w{index} ");
    text.truncate(bytes);
    if utf8 {
        for character in ['é', '漢', '😀', '字'].into_iter().cycle() {
            if text.len() + character.len_utf8() > bytes {
                break;
            }
            text.push(character);
        }
    }
    text.extend(std::iter::repeat_n('x', bytes.saturating_sub(text.len())));
    text
}

/// The `index`th of `count` parts of a text, on character boundaries; all parts together are the text.
fn slice_of(text: &str, index: usize, count: usize) -> String {
    let characters = text.chars().count();
    let from = characters * index / count;
    let to = characters * (index + 1) / count;
    text.chars().skip(from).take(to - from).collect()
}

/// The smallest value that a JSON schema of the usual kind accepts.
fn instance(schema: &Value) -> Value {
    if let Some(first) = schema["enum"].as_array().and_then(|all| all.first()) {
        return first.clone();
    }
    if let Some(only) = schema.get("const") {
        return only.clone();
    }
    if let Some(first) = schema["anyOf"].as_array().and_then(|all| all.first()) {
        return instance(first);
    }
    match schema["type"].as_str() {
        Some("string") => "Ringway".into(),
        Some("integer") => 42.into(),
        Some("number") => 4.2.into(),
        Some("boolean") => true.into(),
        Some("null") => Value::Null,
        Some("array") => json!([instance(&schema["items"])]),
        _ => {
            let all = schema["properties"].as_object();
            all.into_iter().flatten().map(|(key, schema)| (key.clone(), instance(schema))).collect::<Value>()
        }
    }
}

/// Base64 with padding (RFC 4648 §4).
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let bits =
            three.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for place in 0..4 {
            let index = (bits >> (18 - 6 * place)) & 63;
            text.push(if place <= three.len() { char::from(ALPHABET[index as usize]) } else { '=' });
        }
    }
    text
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
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

    #[test]
    fn base64_is_rfc_4648() {
        #[track_caller]
        fn check(bytes: &[u8], expect: &str) {
            assert_eq!(base64(bytes), expect);
        }
        check(b"", "");
        check(b"f", "Zg==");
        check(b"fo", "Zm8=");
        check(b"foobar", "Zm9vYmFy");
    }
}
