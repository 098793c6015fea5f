//! The `/v1` paths and what each allows. One table; whatever is not in it is not served.

use std::borrow::Cow;

use crate::{
    base::limits::MODEL_BYTES_MAX,
    wire::{http1::TargetSafe, model_name::is_model_name},
};

/// What a method and a path (without its query) ask for.
///
/// Paths match byte for byte: no trailing slash, no doubled slash, no percent-encoding, no other letter case. What two
/// programs read differently is a hole between them.
pub fn find<'a>(method: &[u8], path: &'a [u8]) -> Result<Found<'a>, Miss> {
    let found = locate(path).ok_or(Miss::UnknownPath)?;
    let asks_to_read = matches!(method, b"GET" | b"HEAD");
    match found.endpoint.body() {
        Body::None if asks_to_read => Ok(found),
        Body::Json | Body::Multipart if method == b"POST" => Ok(found),
        _ if method == b"OPTIONS" => Err(Miss::Options { allow: found.endpoint.allow() }),
        _ => Err(Miss::Method { allow: found.endpoint.allow() }),
    }
}

/// A path that is served, asked for by a method that it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found<'a> {
    pub endpoint: Endpoint,
    /// The model of [`Endpoint::Model`], percent-decoded once; `None` for every other endpoint.
    pub model: Option<Cow<'a, str>>,
}

/// Why nothing was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Miss {
    /// 404.
    UnknownPath,
    /// 405, with this `Allow`.
    Method { allow: &'static str },
    /// Not an error: OPTIONS on a path that is served is answered with 204 and this `Allow`.
    Options { allow: &'static str },
}

/// What is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    ChatCompletions,
    Completions,
    Embeddings,
    Responses,
    Moderations,
    ImagesGenerations,
    ImagesEdits,
    ImagesVariations,
    AudioSpeech,
    AudioTranscriptions,
    AudioTranslations,
    Models,
    Model,
}

/// How a request says which model it wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    Json,
    Multipart,
    /// Read requests: nothing, or the path.
    None,
}

/// What a second try could do besides answering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// Nothing is kept at the provider: a second try costs tokens, no more.
    Generation,
    /// The provider keeps the result unless the body says otherwise (`store`, `background`, `previous_response_id`): a
    /// second try could leave two.
    Stateful,
    /// Answered here.
    Local,
}

impl Endpoint {
    pub const ALL: [Self; 13] = [
        Self::ChatCompletions,
        Self::Completions,
        Self::Embeddings,
        Self::Responses,
        Self::Moderations,
        Self::ImagesGenerations,
        Self::ImagesEdits,
        Self::ImagesVariations,
        Self::AudioSpeech,
        Self::AudioTranscriptions,
        Self::AudioTranslations,
        Self::Models,
        Self::Model,
    ];

    /// The path behind `/v1` here and behind the base URL at a provider. [`Endpoint::Model`] has a name behind it.
    pub const fn path(self) -> &'static str {
        self.row().0
    }

    /// [`Endpoint::path`] as it is written into a request.
    pub const fn target(self) -> TargetSafe<'static> {
        const TARGETS: [TargetSafe<'static>; Endpoint::ALL.len()] = {
            let mut targets = [TargetSafe::fixed(""); Endpoint::ALL.len()];
            let mut at = 0;
            while at < targets.len() {
                targets[Endpoint::ALL[at] as usize] = TargetSafe::fixed(Endpoint::ALL[at].path());
                at += 1;
            }
            targets
        };
        TARGETS[self as usize]
    }

    /// What metrics and logs call it.
    pub const fn operation(self) -> &'static str {
        self.row().1
    }

    pub const fn body(self) -> Body {
        self.row().2
    }

    pub const fn repeat(self) -> Repeat {
        self.row().3
    }

    /// May the answer be Server-Sent Events because the body asks for it (`stream`, `stream_format`)?
    pub const fn may_stream(self) -> bool {
        matches!(
            self,
            Self::ChatCompletions
                | Self::Completions
                | Self::Responses
                | Self::ImagesGenerations
                | Self::ImagesEdits
                | Self::AudioSpeech
                | Self::AudioTranscriptions
        )
    }

    /// Does it answer with tokens that `max_tokens` bounds?
    pub const fn generates_text(self) -> bool {
        matches!(self, Self::ChatCompletions | Self::Completions | Self::Responses)
    }

    /// May `stream_options.include_usage` be spliced in? The others report usage without being asked, or know no such
    /// member and would refuse it.
    pub const fn takes_stream_options(self) -> bool {
        matches!(self, Self::ChatCompletions | Self::Completions)
    }

    const fn allow(self) -> &'static str {
        match self.body() {
            Body::None => "GET, HEAD, OPTIONS",
            Body::Json | Body::Multipart => "POST, OPTIONS",
        }
    }

    #[rustfmt::skip]
    const fn row(self) -> (&'static str, &'static str, Body, Repeat) {
        use Body::{Json, Multipart};
        use Repeat::{Generation, Local, Stateful};
        match self {
            Self::ChatCompletions     => ("/chat/completions",     "chat",                Json,       Generation),
            Self::Completions         => ("/completions",          "completion",          Json,       Generation),
            Self::Embeddings          => ("/embeddings",           "embeddings",          Json,       Generation),
            Self::Responses           => ("/responses",            "responses",           Json,       Stateful),
            Self::Moderations         => ("/moderations",          "moderation",          Json,       Generation),
            Self::ImagesGenerations   => ("/images/generations",   "image_generation",    Json,       Generation),
            Self::ImagesEdits         => ("/images/edits",         "image_edit",          Multipart,  Generation),
            Self::ImagesVariations    => ("/images/variations",    "image_variation",     Multipart,  Generation),
            Self::AudioSpeech         => ("/audio/speech",         "audio_speech",        Json,       Generation),
            Self::AudioTranscriptions => ("/audio/transcriptions", "audio_transcription", Multipart,  Generation),
            Self::AudioTranslations   => ("/audio/translations",   "audio_translation",   Multipart,  Generation),
            Self::Models              => ("/models",               "models",              Body::None, Local),
            Self::Model               => ("/models/",              "model",               Body::None, Local),
        }
    }
}

fn locate(path: &[u8]) -> Option<Found<'_>> {
    let path = path.strip_prefix(b"/v1")?;
    if let Some(name) = path.strip_prefix(Endpoint::Model.path().as_bytes()) {
        return Some(Found { endpoint: Endpoint::Model, model: Some(model_of(name)?) });
    }
    let endpoint = Endpoint::ALL.into_iter().find(|e| e.path().as_bytes() == path)?;
    Some(Found { endpoint, model: None })
}

/// Everything after `/models/`, decoded once: the SDKs send `openai%2Fgpt-4o`. A second round of escapes stays as `%`,
/// which no name may hold.
fn model_of(encoded: &[u8]) -> Option<Cow<'_, str>> {
    let name = if encoded.contains(&b'%') { Cow::Owned(decode(encoded)?) } else { Cow::Borrowed(encoded) };
    if !is_model_name(&name) {
        return None;
    }
    match name {
        Cow::Borrowed(name) => std::str::from_utf8(name).ok().map(Cow::Borrowed),
        Cow::Owned(name) => String::from_utf8(name).ok().map(Cow::Owned),
    }
}

fn decode(encoded: &[u8]) -> Option<Vec<u8>> {
    // Three bytes encode one: what is longer decodes to no name.
    if encoded.len() > 3 * MODEL_BYTES_MAX {
        return None;
    }
    let mut decoded = Vec::with_capacity(encoded.len());
    let mut rest = encoded;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let (&[high, low], after) = rest.split_first_chunk()?;
        decoded.push(hex(high)? << 4 | hex(low)?);
        rest = after;
    }
    Some(decoded)
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// No panic, and a model that is found has a lawful name no longer than the path it came from.
#[cfg(any(test, feature = "fuzzing"))]
pub fn fuzz_endpoint(data: &[u8]) {
    for method in [&b"GET"[..], b"POST", b"OPTIONS"] {
        if let Ok(Found { endpoint, model }) = find(method, data) {
            assert_eq!(model.is_some(), endpoint == Endpoint::Model);
            let name = model.as_deref().unwrap_or("none");
            assert!(is_model_name(name.as_bytes()) && name.len() <= data.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(request: &str, expect: Result<Endpoint, Miss>) {
        let (method, path) = request.split_once(' ').unwrap();
        let got = find(method.as_bytes(), path.as_bytes());
        assert_eq!(got.map(|found| found.endpoint), expect);
    }

    #[test]
    fn every_endpoint_is_found_by_its_method_alone() {
        for endpoint in Endpoint::ALL {
            assert_eq!(Some(endpoint.target()), TargetSafe::new(endpoint.path().as_bytes()));
            let name = if endpoint == Endpoint::Model { "gpt-4o" } else { "" };
            let path = format!("/v1{}{name}", endpoint.path());
            let (good, bad) = if endpoint.body() == Body::None { ("GET", "POST") } else { ("POST", "GET") };
            let allow = endpoint.allow();
            check(&format!("{good} {path}"), Ok(endpoint));
            check(&format!("{bad} {path}"), Err(Miss::Method { allow }));
            check(&format!("PUT {path}"), Err(Miss::Method { allow }));
            check(&format!("post {path}"), Err(Miss::Method { allow }));
            check(&format!("OPTIONS {path}"), Err(Miss::Options { allow }));
            assert!(allow.contains(good) && !allow.contains(bad));
        }
        check("HEAD /v1/models", Ok(Endpoint::Models));
    }

    #[test]
    fn only_the_exact_path_is_served() {
        for path in [
            "",
            "/",
            "*",
            "/v1",
            "/v1/",
            "/v1/chat",
            "/v1/chat/completions/",
            "/v1//chat/completions",
            "/v1/Chat/completions",
            "/v1/chat%2fcompletions",
            "/chat/completions",
            "/v1/chat/completions/x",
            "/v1/files",
            "/v2/models",
            "/v1/models/",
        ] {
            check(&format!("POST {path}"), Err(Miss::UnknownPath));
            check(&format!("GET {path}"), Err(Miss::UnknownPath));
        }
    }

    #[track_caller]
    fn check_model(encoded: &str, expect: Option<&str>) {
        let path = format!("/v1/models/{encoded}");
        let got = find(b"GET", path.as_bytes()).ok().and_then(|found| found.model);
        assert_eq!(got.as_deref(), expect);
    }

    #[test]
    fn a_model_is_decoded_once() {
        check_model("gpt-4o", Some("gpt-4o"));
        check_model("openai%2Fgpt-4o", Some("openai/gpt-4o"));
        check_model("openai%2fgpt-4o", Some("openai/gpt-4o"));
        check_model("openai/gpt-4o", Some("openai/gpt-4o"));
        check_model("hf/meta-llama%2FLlama-3%3A8b", Some("hf/meta-llama/Llama-3:8b"));
        check_model("a%252Fb", None);
        check_model("a%2", None);
        check_model("a%", None);
        check_model("a%zz", None);
        check_model("a%00", None);
        check_model("a%0d%0ab", None);
        check_model("%C3%BC", None);
        check_model("a b", None);
        check_model("a?b", None);
        check_model(&"a".repeat(MODEL_BYTES_MAX), Some(&"a".repeat(MODEL_BYTES_MAX)));
        check_model(&"a".repeat(MODEL_BYTES_MAX + 1), None);
        check_model(&"%61".repeat(MODEL_BYTES_MAX), Some(&"a".repeat(MODEL_BYTES_MAX)));
        check_model(&"%61".repeat(MODEL_BYTES_MAX + 1), None);
    }

    #[test]
    fn the_list_of_all_has_each_once() {
        for (place, endpoint) in Endpoint::ALL.into_iter().enumerate() {
            assert_eq!(endpoint as usize, place);
        }
    }

    #[test]
    fn what_takes_stream_options_may_stream() {
        assert!(Endpoint::ALL.into_iter().all(|e| e.may_stream() || !e.takes_stream_options()));
    }

    #[test]
    fn mutated_paths_keep_the_promises() {
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        for round in 0..5_000 {
            let mut path = b"/v1/models/openai%2Fgpt-4o".to_vec();
            for _ in 0..round % 4 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                let [place, byte, ..] = state.to_le_bytes();
                let place = usize::from(place) % path.len();
                path[place] = if byte < 64 { b'%' } else { byte };
            }
            fuzz_endpoint(&path);
        }
    }
}
