//! Chat completions and plain completions, whole and streamed.

use serde_json::{Value, json};

use super::{CREATED, STAMP_EMPTY, Writer, error_event, text::slice_of};
use crate::provider::{asked::Endpoint, sse::Event};

impl Writer<'_> {
    pub(super) fn chat(&self) -> String {
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

    pub(super) fn completion(&self) -> String {
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

    pub(super) fn chat_events(&self) -> Vec<Event> {
        let chat = self.asked.endpoint == Endpoint::Chat;
        let count = self.events();
        let mut events = Vec::with_capacity(count * self.asked.n + 3);
        let special = self.special_text();
        for index in 0..count {
            for choice in 0..self.asked.n {
                if self.script.error_event && index == count / 2 {
                    events.push(error_event(self.script));
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
}
