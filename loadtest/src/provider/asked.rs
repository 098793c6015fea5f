//! What a request asks for: the endpoint out of its path, the rest out of its body.

use http::{HeaderMap, Method};
use serde_json::Value;

/// The endpoints of OpenAI's API that are answered.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Endpoint {
    Chat,
    Completions,
    Embeddings,
    Responses,
    Moderations,
    ImageGenerations,
    ImageEdits,
    ImageVariations,
    Speech,
    Transcriptions,
    Translations,
    Models,
    Model(String),
    Unknown,
}

/// A request, understood.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub endpoint: Endpoint,
    pub model: String,
    /// Who the client says is asking.
    pub user: String,
    pub stream: bool,
    pub include_usage: bool,
    pub n: usize,
    /// Name of the first tool, and the schema of its arguments.
    pub tool: Option<(String, Value)>,
    /// The schema of a structured output.
    pub schema: Option<Value>,
    pub inputs: usize,
    pub base64: bool,
    pub dimensions: usize,
    /// The upload: its form field and its length.
    pub file: Option<(String, usize)>,
    pub plain_text: bool,
    pub body_bytes: usize,
}

impl Endpoint {
    /// By the end of the path: whatever prefix a provider's profile puts before `/v1` is ignored.
    pub(super) fn of(method: &Method, path: &str) -> Self {
        let path = path.split('?').next().unwrap_or_default().trim_end_matches('/');
        if *method == Method::GET {
            if path.ends_with("/models") {
                return Self::Models;
            }
            return path.split_once("/models/").map_or(Self::Unknown, |(_, id)| Self::Model(unescape(id)));
        }
        let ends = [
            ("/chat/completions", Self::Chat),
            ("/completions", Self::Completions),
            ("/embeddings", Self::Embeddings),
            ("/responses", Self::Responses),
            ("/moderations", Self::Moderations),
            ("/images/generations", Self::ImageGenerations),
            ("/images/edits", Self::ImageEdits),
            ("/images/variations", Self::ImageVariations),
            ("/audio/speech", Self::Speech),
            ("/audio/transcriptions", Self::Transcriptions),
            ("/audio/translations", Self::Translations),
        ];
        ends.into_iter()
            .find(|(end, _)| *method == Method::POST && path.ends_with(end))
            .map_or(Self::Unknown, |(_, endpoint)| endpoint)
    }
}

impl Asked {
    /// A request of which only the model is known (yet).
    pub(super) fn only(endpoint: Endpoint, model: String) -> Self {
        Self {
            endpoint,
            model,
            user: String::new(),
            stream: false,
            include_usage: false,
            n: 1,
            tool: None,
            schema: None,
            inputs: 1,
            base64: false,
            dimensions: 8,
            file: None,
            plain_text: false,
            body_bytes: 0,
        }
    }

    /// Reads a body; the error says what is wrong with it.
    pub(super) fn of(endpoint: Endpoint, headers: &HeaderMap, body: &[u8]) -> Result<Self, String> {
        if let Endpoint::Models | Endpoint::Model(_) | Endpoint::Unknown = endpoint {
            return Ok(Self::only(endpoint, String::new()));
        }
        let media = headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let mut asked = match media.split_once("boundary=") {
            Some((_, boundary)) => {
                let boundary = boundary.split(';').next().unwrap_or_default().trim().trim_matches('"');
                Self::of_form(endpoint, &parts(body, boundary))?
            }
            None => {
                let json =
                    serde_json::from_slice::<Value>(body).map_err(|error| format!("not JSON: {error}"))?;
                Self::of_json(endpoint, &json)?
            }
        };
        asked.body_bytes = body.len();
        Ok(asked)
    }

    fn of_json(endpoint: Endpoint, json: &Value) -> Result<Self, String> {
        let model = match &json["model"] {
            Value::String(model) => model.clone(),
            // OpenAI has a default here, and only here.
            Value::Null if endpoint == Endpoint::Moderations => "omni-moderation-latest".into(),
            _ => return Err("you must provide a model parameter".into()),
        };
        let input = &json["input"];
        let tool = json["tools"].as_array().and_then(|tools| tools.first()).map(|tool| {
            let function = if tool["function"].is_object() { &tool["function"] } else { tool };
            let name = function["name"].as_str().unwrap_or("tool").to_owned();
            (name, function["parameters"].clone())
        });
        let chat_schema = &json["response_format"]["json_schema"]["schema"];
        let responses_schema = &json["text"]["format"]["schema"];
        let schema = [chat_schema, responses_schema].into_iter().find(|schema| schema.is_object()).cloned();
        Ok(Self {
            user: json["user"].as_str().unwrap_or_default().to_owned(),
            stream: json["stream"].as_bool().unwrap_or(false),
            include_usage: json["stream_options"]["include_usage"].as_bool().unwrap_or(false),
            n: json["n"].as_u64().and_then(|n| usize::try_from(n).ok()).unwrap_or(1).clamp(1, 128),
            tool,
            schema,
            // An array of numbers is one input, already in tokens.
            inputs: input
                .as_array()
                .filter(|all| !all.iter().all(Value::is_number))
                .map_or(1, Vec::len)
                .max(1),
            base64: json["encoding_format"] == "base64",
            dimensions: json["dimensions"]
                .as_u64()
                .and_then(|n| usize::try_from(n).ok())
                .unwrap_or(8)
                .clamp(1, 8192),
            plain_text: false,
            ..Self::only(endpoint, model)
        })
    }

    fn of_form(endpoint: Endpoint, parts: &[Part<'_>]) -> Result<Self, String> {
        let field = |name: &str| {
            let part = parts.iter().find(|part| part.name == name && !part.is_file)?;
            Some(String::from_utf8_lossy(part.body).into_owned())
        };
        let file = parts.iter().find(|part| part.is_file).ok_or("the form holds no file")?;
        let variations = endpoint == Endpoint::ImageVariations;
        let model = field("model").or_else(|| variations.then(|| "dall-e-2".into()));
        let format = field("response_format").unwrap_or_default();
        Ok(Self {
            stream: field("stream").as_deref() == Some("true"),
            n: field("n").and_then(|n| n.parse().ok()).unwrap_or(1).clamp(1, 10),
            file: Some((file.name.clone(), file.body.len())),
            plain_text: ["text", "srt", "vtt"].contains(&format.as_str()),
            ..Self::only(endpoint, model.ok_or("you must provide a model parameter")?)
        })
    }
}

/// The model in the first bytes of a body that has not arrived yet, for answers that come early.
pub(super) fn early_model(start: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(start);
    let (_, after) = text.split_once("\"model\"")?;
    let value = after.trim_start().strip_prefix(':')?.trim_start().strip_prefix('"')?;
    value.split_once('"').map(|(model, _)| model.to_owned())
}

struct Part<'a> {
    name: String,
    is_file: bool,
    body: &'a [u8],
}

fn parts<'a>(body: &'a [u8], boundary: &str) -> Vec<Part<'a>> {
    // The first delimiter has no line break before it; every other belongs to its CRLF.
    let delimiter = format!("\r\n--{boundary}");
    let first = format!("--{boundary}");
    let mut rest = body.strip_prefix(first.as_bytes()).unwrap_or_default();
    let mut found = Vec::new();
    while let Some(part) = rest.strip_prefix(b"\r\n") {
        let Some(end) = find(part, delimiter.as_bytes()) else { break };
        if let Some(split) = find(&part[..end], b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&part[..split]);

            found.push(Part {
                name: attribute(&head, "name").unwrap_or_default(),
                is_file: attribute(&head, "filename").is_some(),
                body: &part[split + 4..end],
            });
        }
        rest = &part[end + delimiter.len()..];
    }
    found
}

fn attribute(head: &str, key: &str) -> Option<String> {
    let needle = format!(" {key}=");
    let (_, value) = head.split_once(&needle)?;
    let value = match value.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next()?,
        None => value.split([';', '\r']).next()?,
    };
    Some(value.to_owned())
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    let first = *needle.first()?;
    let mut from = 0;
    while let Some(at) = haystack[from..].iter().position(|byte| *byte == first) {
        if haystack[from + at..].starts_with(needle) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}

fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        let code = (*byte == b'%')
            .then(|| after.get(..2))
            .flatten()
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        bytes.push(code.unwrap_or(*byte));
        rest = if code.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_the_path_names_the_endpoint() {
        #[track_caller]
        fn check(method: &Method, path: &str, expect: Endpoint) {
            assert_eq!(Endpoint::of(method, path), expect, "{path}");
        }
        check(&Method::POST, "/v1/chat/completions", Endpoint::Chat);
        check(&Method::POST, "/compatible-mode/v1/chat/completions?x=1", Endpoint::Chat);
        check(&Method::POST, "/v1/completions", Endpoint::Completions);
        check(&Method::GET, "/v1/models", Endpoint::Models);
        check(&Method::GET, "/v1/models/openai%2Fgpt-4o", Endpoint::Model("openai/gpt-4o".into()));
        check(&Method::GET, "/v1/chat/completions", Endpoint::Unknown);
        check(&Method::POST, "/v1/chat", Endpoint::Unknown);
    }

    #[test]
    fn json_bodies_are_understood() {
        let body = br#"{"model":"sim","stream":true,"n":2,"stream_options":{"include_usage":true},
            "input":["a","b"],"tools":[{"type":"function","function":{"name":"f","parameters":{}}}]}"#;
        let asked = Asked::of(Endpoint::Chat, &HeaderMap::new(), body).unwrap_or_else(|e| panic!("{e}"));
        assert!(asked.stream && asked.include_usage);
        assert_eq!((asked.n, asked.inputs, asked.model.as_str()), (2, 2, "sim"));
        assert_eq!(asked.tool.map(|(name, _)| name).as_deref(), Some("f"));
    }

    #[test]
    fn bodies_without_a_model_are_refused() {
        for body in [&b"{}"[..], b"{\"model\":1}", b"", b"[", b"{\"model\":\"a\"} x"] {
            assert!(Asked::of(Endpoint::Chat, &HeaderMap::new(), body).is_err());
        }
    }

    #[test]
    fn forms_yield_their_model_and_the_length_of_their_file() {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", http::HeaderValue::from_static("multipart/form-data; boundary=xx"));
        let body = b"--xx\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nwhisper-1\r\n--xx\r\n\
            Content-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\nContent-Type: audio/wav\r\n\r\n\
            \r\n--x\r\n1234\r\n--xx--\r\n";
        let asked = Asked::of(Endpoint::Transcriptions, &headers, body).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(asked.model, "whisper-1");
        assert_eq!(asked.file, Some(("file".into(), 11)));
    }

    #[test]
    fn a_model_is_found_before_the_body_has_arrived() {
        assert_eq!(early_model(br#"{"model": "sim,early","mess"#).as_deref(), Some("sim,early"));
        assert_eq!(early_model(br#"{"model":"sim,ea"#), None);
        assert_eq!(early_model(b"{"), None);
    }
}
