//! What a request asks and an answer says, in tokens of its model's vocabulary: the words of messages, and what OpenAI adds to
//! each. What has no words (an image, a file) is taken for what it is by bytes; tools count as the JSON that describes them.

use serde_json::Value;

use super::vocabulary::{Framing, Vocabulary};
use crate::{
    base::limits::{ANSWER_BEGIN_TOKENS, FILE_TOKENS_ESTIMATE},
    wire::openai::endpoint::Endpoint,
};

/// How one model's words are counted.
#[derive(Clone, Copy, Debug)]
pub struct Counter {
    vocabulary: Vocabulary,
    framing: Framing,
}

impl Counter {
    /// For a model by the name that its provider knows it by.
    pub fn of(model: &str) -> Self {
        Self { vocabulary: Vocabulary::of(model), framing: Framing::of(model) }
    }

    pub fn vocabulary(self) -> Vocabulary {
        self.vocabulary
    }

    /// The inside of a JSON string; `None`: it is none.
    pub fn said(self, inside: &[u8]) -> Option<u64> {
        let inside = std::str::from_utf8(inside).ok()?;
        if !inside.contains('\\') {
            return Some(self.count(inside));
        }
        let text: String = serde_json::from_str(&format!("\"{inside}\"")).ok()?;
        Some(self.count(&text))
    }

    /// The prompt of a request's body; `None`: it is none that could be told.
    pub fn asked(self, endpoint: Endpoint, body: &[u8]) -> Option<u64> {
        let body: Value = serde_json::from_slice(body).ok()?;
        let tools = body.get("tools").and_then(Value::as_array).into_iter().flatten();
        let tools: u64 = tools.map(|tool| self.count(&tool.to_string())).sum();
        match endpoint {
            Endpoint::ChatCompletions => {
                let messages = body.get("messages")?.as_array()?;
                let messages: u64 = messages.iter().map(|message| self.message(message)).sum();
                Some(messages + tools + ANSWER_BEGIN_TOKENS)
            }
            Endpoint::Responses => {
                let instructions =
                    body.get("instructions").and_then(Value::as_str).map_or(0, |text| self.alone(text));
                let input = match body.get("input")? {
                    Value::String(text) => self.alone(text),
                    Value::Array(items) => items.iter().map(|item| self.message(item)).sum(),
                    _ => return None,
                };
                Some(instructions + input + tools + ANSWER_BEGIN_TOKENS)
            }
            Endpoint::Completions => self.prompts(body.get("prompt")?),
            Endpoint::Embeddings => self.prompts(body.get("input")?),
            _ => None,
        }
    }

    fn count(self, text: &str) -> u64 {
        self.vocabulary.count(text)
    }

    /// A message that is a text and nothing else: its role is a token.
    fn alone(self, text: &str) -> u64 {
        self.framing.message + 1 + self.count(text)
    }

    fn message(self, message: &Value) -> u64 {
        let text = |name: &str| message.get(name).and_then(Value::as_str);
        let words = |name: &str| text(name).map_or(0, |text| self.count(text));
        let frame = match text("name") {
            Some(name) => self.framing.named_message + self.count(name),
            None => self.framing.message,
        };
        let calls = message.get("tool_calls").and_then(Value::as_array).into_iter().flatten().map(|call| {
            let part =
                |name: &str| call.pointer(name).and_then(Value::as_str).map_or(0, |text| self.count(text));
            part("/function/name") + part("/function/arguments")
        });
        // What the Responses API calls so stands beside the role.
        let call = words("arguments") + words("output");
        let content = message.get("content").map_or(0, |content| self.content(content));
        frame + words("role") + content + words("refusal") + calls.sum::<u64>() + call
    }

    fn content(self, content: &Value) -> u64 {
        match content {
            Value::String(text) => self.count(text),
            Value::Array(parts) => parts.iter().map(|part| self.part(part)).sum(),
            _ => 0,
        }
    }

    fn part(self, part: &Value) -> u64 {
        let text = ["text", "refusal"].iter().find_map(|name| part.get(name).and_then(Value::as_str));
        text.map_or(FILE_TOKENS_ESTIMATE, |text| self.count(text))
    }

    /// A text, or a list of tokens, or a list of either.
    fn prompts(self, prompts: &Value) -> Option<u64> {
        match prompts {
            Value::String(text) => Some(self.count(text)),
            Value::Number(_) => Some(1),
            Value::Array(list) => list.iter().map(|prompts| self.prompts(prompts)).sum(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::wire::estimate::CORPUS;

    fn newer() -> Counter {
        Counter::of("gpt-4o")
    }

    #[test]
    fn every_text_of_the_corpus_has_the_tokens_that_tiktoken_counts() {
        for (text, tokens) in CORPUS {
            assert_eq!(newer().count(text), *tokens, "{text}");
            let inside = Value::from(*text).to_string();
            assert_eq!(newer().said(&inside.as_bytes()[1..inside.len() - 1]), Some(*tokens), "{inside}");
        }
    }

    #[test]
    fn pairs_of_escapes_are_characters_and_half_a_pair_is_not_told() {
        assert_eq!(newer().said(br"\ud83c\udf89"), Some(newer().count("🎉")));
        assert_eq!(newer().said(br"\ud83c"), None);
        assert_eq!(newer().said(b"\xff"), None);
        assert_eq!(newer().said(b""), Some(0));
    }

    #[track_caller]
    fn check(endpoint: Endpoint, body: &Value, expect: Option<u64>) {
        let model = body.get("model").and_then(Value::as_str).unwrap_or_default();
        assert_eq!(Counter::of(model).asked(endpoint, body.to_string().as_bytes()), expect, "{body}");
    }

    /// OpenAI's own example (`num_tokens_from_messages` in its cookbook), for which its API reports 124 for gpt-4o, 129 for
    /// gpt-4 and gpt-3.5-turbo, and 127 for the first of these.
    #[test]
    fn a_conversation_has_the_tokens_that_openai_reports() {
        let system = |name: &str, content: &str| json!({"role": "system", "name": name, "content": content});
        let messages = json!([
            {"role": "system", "content":
                "You are a helpful, pattern-following assistant that translates corporate jargon into plain English."},
            system("example_user", "New synergies will help drive top-line growth."),
            system("example_assistant", "Things working well together will increase revenue."),
            system("example_user", "Let's circle back when we have more bandwidth to touch base on opportunities \
                                    for increased leverage."),
            system("example_assistant", "Let's talk later when we're less busy about how to do better."),
            {"role": "user", "content":
                "This late pivot means we don't have time to boil the ocean for the client deliverable."},
        ]);
        for (model, tokens) in
            [("gpt-4o", 124), ("gpt-4-0613", 129), ("gpt-3.5-turbo", 129), ("gpt-3.5-turbo-0301", 127)]
        {
            check(Endpoint::ChatCompletions, &json!({"model": model, "messages": messages}), Some(tokens));
        }
    }

    #[test]
    fn each_endpoint_s_prompt_is_found_and_what_is_none_is_not_told() {
        use Endpoint::{ChatCompletions, Completions, Embeddings, Responses};
        let hello = |role: &str| json!({"role": role, "content": "hello world"});
        check(ChatCompletions, &json!({"messages": [hello("user")]}), Some(9));
        check(ChatCompletions, &json!({"messages": [hello("system"), hello("user")]}), Some(15));
        let parts = json!([{"type": "text", "text": "hello world"}, {"type": "image_url", "image_url": {}}]);
        check(
            ChatCompletions,
            &json!({"messages": [{"role": "user", "content": parts}]}),
            Some(9 + FILE_TOKENS_ESTIMATE),
        );
        check(ChatCompletions, &json!({"messages": "hello"}), None);
        check(Completions, &json!({"prompt": "hello world"}), Some(2));
        check(Completions, &json!({"prompt": [[1, 2], [3]]}), Some(3));
        check(Embeddings, &json!({"input": ["hello world", "hello world"]}), Some(4));
        check(Embeddings, &json!({"input": {}}), None);
        check(Responses, &json!({"input": "hello world"}), Some(9));
        check(Responses, &json!({"instructions": "hello world", "input": [hello("user")]}), Some(15));
        check(Endpoint::ImagesGenerations, &json!({"prompt": "x"}), None);
    }
}
