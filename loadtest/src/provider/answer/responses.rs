//! The Responses API, whole and streamed.

use serde_json::{Value, json};

use super::{CREATED, STAMP_EMPTY, Writer, text::slice_of};
use crate::provider::sse::Event;

impl Writer<'_> {
    pub(super) fn response(&self, status: &str) -> Value {
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

    pub(super) fn responses_events(&self) -> Vec<Event> {
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
}
