//! What is neither a chat nor a response: transcripts, embeddings, moderations, images and speech.

use serde_json::{Value, json};

use super::{Answer, CREATED, Piece, Writer, text::base64};
use crate::provider::sse::Event;

impl Writer<'_> {
    fn transcript_text(&self) -> String {
        let (field, bytes) = self.asked.file.clone().unwrap_or_default();
        format!("received {bytes} bytes in {field} for {}", self.asked.model)
    }

    pub(super) fn transcript(&self) -> Answer {
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

    pub(super) fn transcript_events(&self) -> Vec<Event> {
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

    pub(super) fn embeddings(&self) -> String {
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

    pub(super) fn moderations(&self) -> String {
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

    pub(super) fn images(&self) -> String {
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

    pub(super) fn speech(&self) -> Answer {
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
}
