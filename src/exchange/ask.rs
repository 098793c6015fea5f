//! What a request asks for: read once from its body, strictly, and sent on as ranges of it.

use std::borrow::Cow;

use super::receive::Request;
use crate::base::{limits::BYTES_PER_TOKEN_ESTIMATE, now::Now};
use crate::policy::admit::Want;
use crate::wire::{
    estimate,
    http1::Known,
    json::{self, Peek, Spliced, Stateful, scan::Scan},
    multipart::{self, BadMultipart, FormScan, MultipartPeek},
    openai::{
        endpoint::{Body, Endpoint},
        refusal::Refusal,
        stream::Watch,
    },
};

/// A request that has been understood as far as it must be. Spans in it are ranges of the body it was read from.
pub(super) struct Ask {
    pub endpoint: Endpoint,
    /// As the client wrote it: `{provider}/{model}`.
    pub model: Box<str>,
    pub stream: bool,
    /// The body's `user`.
    user: Option<Box<str>>,
    found: Found,
}

enum Found {
    Json(Peek<'static>),
    Multipart(MultipartPeek<'static>),
}

/// The judgement of a body that is still coming, read by read: a core has other work than one long body. What it finds is
/// told by [`Ask::read`], in its order among the other reasons to refuse.
#[expect(clippy::large_enum_variant, reason = "boxed as a whole, and only for long bodies")]
pub(super) enum Check {
    Json(Scan),
    Form(FormScan),
    /// What is wrong is known without the body.
    Moot,
}

impl Check {
    pub(super) fn new(body: Body, media_type: &[u8]) -> Self {
        match body {
            Body::Json => Self::Json(Scan::default()),
            Body::Multipart => {
                multipart::boundary(media_type).map_or(Self::Moot, |name| Self::Form(FormScan::new(name)))
            }
            Body::None => Self::Moot,
        }
    }

    /// Looks at what `body`, all that has come, holds beyond what was seen before.
    pub(super) fn feed(&mut self, body: &[u8]) {
        match self {
            Self::Json(scan) => scan.feed(body),
            Self::Form(scan) => scan.feed(body),
            Self::Moot => {}
        }
    }
}

impl Ask {
    /// Reads a complete body.
    pub(super) fn read(endpoint: Endpoint, request: &Request) -> Result<Self, Refusal> {
        let coding = request.known(Known::ContentEncoding).unwrap_or(b"identity");
        if !coding.eq_ignore_ascii_case(b"identity") {
            return Err(Refusal::WrongContentEncoding);
        }
        let media_type = request.known(Known::ContentType).unwrap_or(b"");
        let body = request.body();
        match endpoint.body() {
            Body::Json if !is_media_type(media_type, b"application/json") => {
                Err(Refusal::WrongContentType { expected: "application/json" })
            }
            _ if body.is_empty() => Err(Refusal::MissingBody),
            Body::Json => {
                let peek = match request.check.as_deref() {
                    Some(Check::Json(scan)) => json::peek_scanned(body, scan),
                    _ => json::peek(body),
                };
                let peek = peek.map_err(|bad| Refusal::BadBody {
                    message: bad.reason(),
                    param: bad.param().map(|param| Cow::Owned(param.to_owned())),
                    code: bad.code(),
                })?;
                let model = peek.model.as_ref().into();
                Ok(Self {
                    endpoint,
                    model,
                    stream: peek.stream,
                    user: peek.user.as_deref().map(Box::from),
                    found: Found::Json(peek.without_text()),
                })
            }
            Body::Multipart => {
                let bad = |bad: BadMultipart| Refusal::BadBody {
                    message: bad.reason(),
                    param: bad.param().map(Cow::Borrowed),
                    code: bad.code(),
                };
                let boundary = multipart::boundary(media_type)
                    .map_err(|_| Refusal::WrongContentType { expected: "multipart/form-data" })?;
                let peek = match request.check.as_deref() {
                    Some(Check::Form(scan)) => scan.finish(body),
                    _ => multipart::peek_multipart(body, boundary),
                };
                let peek = peek.map_err(bad)?;
                let model = peek.model.into();
                Ok(Self {
                    endpoint,
                    model,
                    stream: peek.stream,
                    user: None,
                    found: Found::Multipart(peek.without_text()),
                })
            }
            Body::None => {
                debug_assert!(false, "an endpoint without a body asks for nothing in it");
                Err(Refusal::Internal)
            }
        }
    }

    /// The body as it goes to a provider: `model` in the place of the client's, and, where the provider's stream would not
    /// report usage by itself, asked to. What is added is appended to `added`.
    pub(super) fn splice(
        &self,
        body_bytes: usize,
        model: &str,
        provider_wants_asking: bool,
        added: &mut Vec<u8>,
    ) -> Spliced {
        let inject = self.injects_usage(provider_wants_asking);
        match &self.found {
            Found::Json(peek) => json::splice(peek, body_bytes, model, inject, added),
            Found::Multipart(peek) => multipart::splice(peek, body_bytes, model, added),
        }
    }

    fn injects_usage(&self, provider_wants_asking: bool) -> bool {
        provider_wants_asking && self.stream && self.endpoint.takes_stream_options()
    }

    pub(super) fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// What ties it to state that one provider keeps.
    pub(super) fn stateful(&self) -> Stateful {
        match &self.found {
            Found::Json(peek) => peek.stateful,
            Found::Multipart(_) => Stateful::default(),
        }
    }

    /// What admission needs to know of it.
    pub(super) fn want<'a>(&'a self, request: &'a Request, now: Now, unix_ms: u64) -> Want<'a> {
        let (n, max_tokens, prompt_tokens) = match &self.found {
            Found::Json(peek) => (peek.n, peek.max_tokens, estimate::json(request.body()).tokens()),
            // A file for the most part, whose bytes are no text.
            Found::Multipart(_) => (None, None, request.body().len() as u64 / BYTES_PER_TOKEN_ESTIMATE),
        };
        Want {
            endpoint: self.endpoint,
            model: &self.model,
            stream: self.stream,
            n,
            max_tokens,
            prompt_tokens,
            head: &request.head,
            bytes: &request.buffer,
            now,
            unix_ms,
        }
    }

    /// What to watch for in a streamed answer.
    pub(super) fn watch(&self, provider_wants_asking: bool) -> Watch {
        let (choices, asked) = match &self.found {
            Found::Json(peek) => (peek.n.unwrap_or(1).max(1), peek.usage_asked()),
            Found::Multipart(_) => (1, false),
        };
        let strip_usage = self.injects_usage(provider_wants_asking) && !asked;
        Watch { endpoint: self.endpoint, choices, strip_usage }
    }
}

/// Compares the media type alone; parameters such as `charset` may follow.
pub(super) fn is_media_type(value: &[u8], expected: &[u8]) -> bool {
    let Some((bare, rest)) = value.split_at_checked(expected.len()) else { return false };
    bare.eq_ignore_ascii_case(expected) && matches!(rest.trim_ascii_start().first(), None | Some(b';'))
}
