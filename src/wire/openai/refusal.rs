//! Every error that a client can see: one table from what went wrong to status, type, code, words and advice on retrying.
//!
//! Nothing here comes from a secret: a message is fixed text plus the client's own words (method, path, model) or names
//! from the configuration. The one exception is [`Refusal::UpstreamError`], whose text the caller has masked. Header values,
//! credentials and addresses have no variant that could hold them.

use std::{borrow::Cow, fmt::Write as _};

use crate::base::limits::{REFUSAL_MESSAGE_BYTES_MAX, RETRY_AFTER_MS_MAX};

/// Why a request is refused, or what became of it. Made anywhere, shown by one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    // The head.
    /// The head is not one we would ever read the same way as the next program.
    BadHead {
        why: &'static str,
    },
    HeadTooLarge {
        bytes_max: usize,
    },
    TooManyFields {
        fields_max: usize,
    },
    HeadTooSlow,
    /// `Expect` with anything but `100-continue`.
    ExpectationFailed,
    UnknownPath {
        method: Box<str>,
        path: Box<str>,
    },
    MethodNotAllowed {
        method: Box<str>,
        path: Box<str>,
        allow: &'static str,
    },

    // The body.
    MissingBody,
    /// `expected` is the media type that this endpoint reads.
    WrongContentType {
        expected: &'static str,
    },
    /// A compressed body is not decompressed: a small one could become a huge one.
    WrongContentEncoding,
    BodyTooLarge {
        bytes_max: usize,
    },
    BodyTooSlow,
    /// `code`: `invalid_json`, `invalid_value`, `missing_required_parameter`, …
    BadBody {
        message: Cow<'static, str>,
        param: Option<Cow<'static, str>>,
        code: &'static str,
    },

    // Who asks, for what.
    MissingKey,
    InvalidKey,
    AddressNotAllowed,
    EndpointNotAllowed,
    ModelNotAllowed {
        model: Box<str>,
    },
    /// No such provider, or no such model there. The two look the same on purpose: which providers exist is not told.
    UnknownModel {
        model: Box<str>,
    },
    /// `what` was limited, such as "requests per minute".
    RateLimited {
        what: &'static str,
        retry_after_ms: u64,
    },
    OverBudget,

    // We can't now.
    /// Who may call is not known: nobody may, until it is.
    CallersUnknown,
    Overloaded {
        retry_after_ms: u64,
    },
    Draining,
    Internal,

    // The providers can't. `provider` is its name in the configuration.
    /// The operator gave it no key. Not a 401: the client's key is fine.
    NoProviderKey {
        provider: Box<str>,
    },
    /// Every target is known to be down.
    NoUpstream {
        retry_after_ms: u64,
    },
    /// Every target was tried or is known to be down, and one of them at least is only busy.
    UpstreamsBusy {
        retry_after_ms: Option<u64>,
    },
    /// Every target was tried or is known to be down.
    UpstreamsFailed {
        retry_after_ms: Option<u64>,
    },
    UpstreamUnreachable {
        provider: Box<str>,
    },
    /// It refused the operator's key. Not a 401, for the same reason.
    UpstreamAuth {
        provider: Box<str>,
    },
    UpstreamRedirect {
        provider: Box<str>,
    },
    UpstreamMalformed {
        provider: Box<str>,
    },
    UpstreamTimedOut {
        provider: Box<str>,
        waiting_for: WaitingFor,
    },
    /// Lost before its answer was whole. In mid-stream it is said by [`Refusal::event`], elsewhere with a status.
    UpstreamInterrupted,
    /// It answered with an error in another shape than OpenAI's: its status, and its words, *masked by the caller*.
    UpstreamError {
        status: u16,
        message: Box<str>,
    },
}

/// Which of an attempt's timeouts ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitingFor {
    Connect,
    FirstByte,
    FirstToken,
    BetweenBytes,
    Total,
}

/// What the client is told about trying again.
///
/// The OpenAI SDKs try 408, 409, 429 and every 5xx twice more by themselves, so `x-should-retry` is said only where they
/// would do the wrong thing: `false` on such a status where a second try can't help; `true` beside a wait that they honour.
/// Nothing is said on 408: a stalled network is exactly what a second try is for. Every other 4xx of ours says `false`:
/// the same request would be refused again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Retry {
    /// `x-should-retry`.
    pub should_retry: Option<bool>,
    /// `retry-after-ms`, and rounded up `retry-after`.
    pub retry_after_ms: Option<u64>,
}

/// Status, `type` and `code` of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class {
    pub status: u16,
    pub kind: &'static str,
    pub code: &'static str,
}

impl Refusal {
    /// The table.
    pub fn class(&self) -> Class {
        const BAD: &str = "invalid_request_error";
        const UNAVAILABLE: &str = "service_unavailable_error";
        let (status, kind, code) = match self {
            Self::BadHead { .. } => (400, BAD, "invalid_http"),
            Self::BadBody { code, .. } => (400, BAD, *code),
            Self::MissingBody => (400, BAD, "missing_body"),
            Self::MissingKey | Self::InvalidKey => (401, BAD, "invalid_api_key"),
            Self::AddressNotAllowed => (403, BAD, "ip_not_allowed"),
            Self::EndpointNotAllowed => (403, BAD, "endpoint_not_allowed"),
            Self::ModelNotAllowed { .. } => (403, BAD, "model_not_allowed"),
            Self::UnknownPath { .. } => (404, BAD, "unknown_url"),
            Self::UnknownModel { .. } => (404, BAD, "model_not_found"),
            Self::MethodNotAllowed { .. } => (405, BAD, "method_not_supported"),
            Self::HeadTooSlow | Self::BodyTooSlow => (408, BAD, "request_timeout"),
            Self::BodyTooLarge { .. } => (413, BAD, "request_too_large"),
            Self::WrongContentType { .. } => (415, BAD, "unsupported_content_type"),
            Self::WrongContentEncoding => (415, BAD, "unsupported_content_encoding"),
            Self::ExpectationFailed => (417, BAD, "expectation_failed"),
            Self::RateLimited { .. } => (429, "rate_limit_error", "rate_limit_exceeded"),
            Self::OverBudget => (429, "insufficient_quota", "insufficient_quota"),
            Self::HeadTooLarge { .. } | Self::TooManyFields { .. } => (431, BAD, "request_header_too_large"),
            Self::Internal => (500, "api_error", "internal_error"),
            Self::NoProviderKey { .. } => (502, UNAVAILABLE, "provider_not_configured"),
            Self::UpstreamUnreachable { .. } => (502, UNAVAILABLE, "upstream_unreachable"),
            Self::UpstreamAuth { .. } => (502, UNAVAILABLE, "upstream_auth_failed"),
            Self::UpstreamRedirect { .. } => (502, UNAVAILABLE, "upstream_redirect"),
            Self::UpstreamMalformed { .. } => (502, UNAVAILABLE, "upstream_malformed"),
            Self::UpstreamInterrupted => (502, "server_error", "upstream_interrupted"),
            Self::UpstreamsBusy { .. } => (429, "rate_limit_error", "rate_limit_exceeded"),
            Self::NoUpstream { .. } => (503, UNAVAILABLE, "no_upstream"),
            Self::UpstreamsFailed { .. } => (503, UNAVAILABLE, "upstreams_failed"),
            Self::Overloaded { .. } => (503, UNAVAILABLE, "server_is_overloaded"),
            Self::CallersUnknown => (503, UNAVAILABLE, "callers_unavailable"),
            Self::Draining => (503, UNAVAILABLE, "server_shutting_down"),
            Self::UpstreamTimedOut { .. } => (504, UNAVAILABLE, "upstream_timeout"),
            Self::UpstreamError { status, .. } => match status {
                429 => (429, "rate_limit_error", "upstream_error"),
                400..=499 => (*status, BAD, "upstream_error"),
                500..=599 => (*status, UNAVAILABLE, "upstream_error"),
                // A status that is no error belongs to no error body.
                _ => (502, UNAVAILABLE, "upstream_error"),
            },
        };
        Class { status, kind, code }
    }

    /// What to say about trying again. The caller adds [`Retry::spent`] when it has made several attempts itself.
    pub fn retry(&self) -> Retry {
        match self {
            Self::RateLimited { retry_after_ms, .. }
            | Self::Overloaded { retry_after_ms }
            | Self::NoUpstream { retry_after_ms } => Retry::after(*retry_after_ms),
            Self::UpstreamsBusy { retry_after_ms } | Self::UpstreamsFailed { retry_after_ms } => {
                retry_after_ms.map_or_else(Retry::default, Retry::after).spent()
            }
            // Another process has the port, or will in a moment; the store of callers is read several times a second.
            Self::Draining | Self::CallersUnknown => Retry::after(1_000),
            Self::OverBudget
            | Self::NoProviderKey { .. }
            | Self::UpstreamAuth { .. }
            | Self::UpstreamRedirect { .. } => Retry { should_retry: Some(false), retry_after_ms: None },
            // What the client sent will be refused again; clients other than the SDKs may not know which statuses those are.
            Self::UpstreamError { .. } => Retry::default(),
            refusal if matches!(refusal.class().status, 400..=407 | 409..=499) => {
                Retry { should_retry: Some(false), retry_after_ms: None }
            }
            _ => Retry::default(),
        }
    }

    /// The one header beyond those of every answer, as name and value.
    pub fn header(&self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::MethodNotAllowed { allow, .. } => Some(("allow", allow)),
            Self::MissingKey | Self::InvalidKey => Some(("www-authenticate", "Bearer")),
            _ => None,
        }
    }

    /// Must the client's connection be closed whatever was left unread? Where one request ends and the next begins is not
    /// known, or the client has shown that it is not worth waiting for.
    pub fn closes(&self) -> bool {
        matches!(
            self,
            Self::BadHead { .. }
                | Self::HeadTooLarge { .. }
                | Self::TooManyFields { .. }
                | Self::HeadTooSlow
                | Self::ExpectationFailed
                | Self::BodyTooLarge { .. }
                | Self::BodyTooSlow
                | Self::Draining
                | Self::Internal
        )
    }

    /// Appends the body: OpenAI's error object with all four members.
    pub fn body(&self, out: &mut Vec<u8>) {
        let class = self.class();
        out.extend_from_slice(br#"{"error":{"message":"#);
        write_string(out, truncated(&self.message()));
        out.extend_from_slice(br#","type":"#);
        write_string(out, class.kind);
        out.extend_from_slice(br#","param":"#);
        match self.param() {
            Some(param) => write_string(out, truncated(param)),
            None => out.extend_from_slice(b"null"),
        }
        out.extend_from_slice(br#","code":"#);
        write_string(out, class.code);
        out.extend_from_slice(b"}}");
    }

    /// Appends the same as a Server-Sent Event, for a stream that has begun. No `[DONE]` may follow: clients would take the
    /// stream as complete.
    pub fn event(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"data: ");
        self.body(out);
        out.extend_from_slice(b"\n\n");
    }

    fn param(&self) -> Option<&str> {
        match self {
            Self::BadBody { param, .. } => param.as_deref(),
            Self::UnknownModel { .. } | Self::ModelNotAllowed { .. } => Some("model"),
            _ => None,
        }
    }

    /// In OpenAI's own words where it has some.
    fn message(&self) -> Cow<'_, str> {
        let text = match self {
            Self::BadHead { why } => {
                format!("The request is not valid HTTP/1.1: {}.", why.trim_end_matches('.'))
            }
            Self::HeadTooLarge { bytes_max } => {
                format!("The request head is larger than the {bytes_max} bytes that are accepted.")
            }
            Self::TooManyFields { fields_max } => {
                format!("The request has more than the {fields_max} header fields that are accepted.")
            }
            Self::HeadTooSlow => return "The request head took too long to arrive.".into(),
            Self::ExpectationFailed => return "The only expectation that is met is '100-continue'.".into(),
            Self::UnknownPath { method, path } => format!(
                "Unknown request URL: {method} {path}. Please check the URL for typos, or see the docs at \
                 https://platform.openai.com/docs/api-reference/."
            ),
            Self::MethodNotAllowed { method, path, .. } => format!(
                "Not allowed to {method} on {path}. (HINT: Perhaps you meant to use a different HTTP method?)"
            ),
            Self::MissingBody => return "The request needs a body, and it has none.".into(),
            Self::WrongContentType { expected } => {
                format!(
                    "Unsupported Content-Type header. This API method only accepts '{expected}' requests."
                )
            }
            Self::WrongContentEncoding => {
                return "Unsupported Content-Encoding header. Only 'identity' is accepted: send the body uncompressed."
                    .into();
            }
            Self::BodyTooLarge { bytes_max } => {
                format!("The request body is larger than the {bytes_max} bytes that are accepted.")
            }
            Self::BodyTooSlow => return "The request body took too long to arrive.".into(),
            Self::BadBody { message, .. } => return Cow::Borrowed(message),
            Self::MissingKey => {
                return "You didn't provide an API key. You need to provide your API key in an Authorization header \
                        using Bearer auth (i.e. Authorization: Bearer YOUR_KEY)."
                    .into();
            }
            Self::InvalidKey => return "Incorrect API key provided.".into(),
            Self::AddressNotAllowed => {
                return "Your IP address is not authorized to use this API key or project.".into();
            }
            Self::EndpointNotAllowed => {
                return "Your API key does not have access to this endpoint.".into();
            }
            Self::ModelNotAllowed { model } => {
                format!("Your API key does not have access to the model `{model}`.")
            }
            Self::UnknownModel { model } => {
                format!("The model `{model}` does not exist or you do not have access to it.")
            }
            Self::RateLimited { what, retry_after_ms } => {
                let (secs, tenths) = (retry_after_ms / 1_000, retry_after_ms % 1_000 / 100);
                format!("Rate limit reached for {what}. Please try again in {secs}.{tenths}s.")
            }
            Self::OverBudget => {
                return "You exceeded your current quota, please check your plan and billing details.".into();
            }
            Self::Overloaded { .. } => {
                return "The server is currently overloaded with other requests. Please try again later."
                    .into();
            }
            Self::CallersUnknown => {
                return "API keys cannot be verified at the moment. Please try again later.".into();
            }
            Self::Draining => return "The server is shutting down. Please try again.".into(),
            Self::Internal => {
                return "The server had an error while processing your request. Sorry about that!".into();
            }
            Self::NoProviderKey { provider } => {
                format!("The gateway has no API key for the provider '{provider}'.")
            }
            Self::NoUpstream { .. } => {
                return "No provider for this model is available at the moment. Please try again later."
                    .into();
            }
            Self::UpstreamsBusy { .. } => {
                return "Every provider for this model is busy at the moment. Please try again later.".into();
            }
            Self::UpstreamsFailed { .. } => {
                return "Every provider for this model failed. Please try again later.".into();
            }
            Self::UpstreamUnreachable { provider } => {
                format!("The provider '{provider}' could not be reached.")
            }
            Self::UpstreamAuth { provider } => {
                format!("The provider '{provider}' did not accept the gateway's API key.")
            }
            Self::UpstreamRedirect { provider } => {
                format!("The provider '{provider}' answered with a redirect, which is not followed.")
            }
            Self::UpstreamMalformed { provider } => {
                format!("The provider '{provider}' sent an answer that is not valid.")
            }
            Self::UpstreamTimedOut { provider, waiting_for } => {
                let phase = match waiting_for {
                    WaitingFor::Connect => "accept a connection",
                    WaitingFor::FirstByte => "begin its answer",
                    WaitingFor::FirstToken => "send its first token",
                    WaitingFor::BetweenBytes => "go on with its answer",
                    WaitingFor::Total => "finish its answer",
                };
                format!("The provider '{provider}' took too long to {phase}.")
            }
            Self::UpstreamInterrupted => return "upstream stream interrupted".into(),
            Self::UpstreamError { message, .. } => return Cow::Borrowed(message),
        };
        Cow::Owned(text)
    }
}

impl Retry {
    /// A wait. Beyond [`RETRY_AFTER_MS_MAX`] it stays for humans, and programs are told not to try: the Node SDK would
    /// ignore so long a wait and come back at once.
    pub fn after(retry_after_ms: u64) -> Self {
        let should_retry = Some(retry_after_ms <= RETRY_AFTER_MS_MAX);
        Self { should_retry, retry_after_ms: Some(retry_after_ms) }
    }

    /// The gateway has used its own attempts: the SDK's would multiply them. A known wait stays as it is, because after it
    /// the answer may differ.
    #[must_use]
    pub fn spent(self) -> Self {
        if self.retry_after_ms.is_some() { self } else { Self { should_retry: Some(false), ..self } }
    }

    /// `retry-after`: whole seconds, never sooner than meant.
    pub fn retry_after_secs(self) -> Option<u64> {
        self.retry_after_ms.map(|ms| ms.div_ceil(1_000))
    }
}

/// As much of `text` as may be said, cut between characters.
fn truncated(text: &str) -> &str {
    &text[..text.floor_char_boundary(REFUSAL_MESSAGE_BYTES_MAX)]
}

/// Appends `text` as a JSON string. No byte below 0x20 leaves raw, so that an event stays one line.
fn write_string(out: &mut Vec<u8>, text: &str) {
    let mut escaped = String::with_capacity(text.len() + 2);
    escaped.push('"');
    for c in text.chars() {
        match c {
            '"' => escaped.push_str("\\\""),
            '\\' => escaped.push_str("\\\\"),
            '\n' => escaped.push_str("\\n"),
            '\r' => escaped.push_str("\\r"),
            '\t' => escaped.push_str("\\t"),
            // The separators end a line in JavaScript, DEL and the C1 controls drive terminals.
            '\0'..='\x1f' | '\x7f'..='\u{9f}' | '\u{2028}' | '\u{2029}' => {
                let _ = write!(escaped, "\\u{:04x}", u32::from(c));
            }
            _ => escaped.push(c),
        }
    }
    escaped.push('"');
    out.extend_from_slice(escaped.as_bytes());
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn every() -> Vec<Refusal> {
        let name = || Box::from("openai");
        let path = || Box::from("/v1/foo");
        let provider = name;
        vec![
            Refusal::BadHead { why: "two Content-Length fields" },
            Refusal::HeadTooLarge { bytes_max: 32_768 },
            Refusal::TooManyFields { fields_max: 100 },
            Refusal::HeadTooSlow,
            Refusal::ExpectationFailed,
            Refusal::UnknownPath { method: "POST".into(), path: path() },
            Refusal::MethodNotAllowed { method: "GET".into(), path: path(), allow: "POST, OPTIONS" },
            Refusal::MissingBody,
            Refusal::WrongContentType { expected: "application/json" },
            Refusal::WrongContentEncoding,
            Refusal::BodyTooLarge { bytes_max: 1 },
            Refusal::BodyTooSlow,
            Refusal::BadBody { message: "no".into(), param: Some("n".into()), code: "invalid_value" },
            Refusal::MissingKey,
            Refusal::InvalidKey,
            Refusal::AddressNotAllowed,
            Refusal::EndpointNotAllowed,
            Refusal::CallersUnknown,
            Refusal::ModelNotAllowed { model: name() },
            Refusal::UnknownModel { model: name() },
            Refusal::RateLimited { what: "requests per minute", retry_after_ms: 1_250 },
            Refusal::OverBudget,
            Refusal::Overloaded { retry_after_ms: 1_000 },
            Refusal::Draining,
            Refusal::Internal,
            Refusal::NoProviderKey { provider: provider() },
            Refusal::NoUpstream { retry_after_ms: 90_000 },
            Refusal::UpstreamUnreachable { provider: provider() },
            Refusal::UpstreamAuth { provider: provider() },
            Refusal::UpstreamRedirect { provider: provider() },
            Refusal::UpstreamMalformed { provider: provider() },
            Refusal::UpstreamTimedOut { provider: provider(), waiting_for: WaitingFor::Connect },
            Refusal::UpstreamTimedOut { provider: provider(), waiting_for: WaitingFor::FirstByte },
            Refusal::UpstreamTimedOut { provider: provider(), waiting_for: WaitingFor::FirstToken },
            Refusal::UpstreamTimedOut { provider: provider(), waiting_for: WaitingFor::BetweenBytes },
            Refusal::UpstreamsBusy { retry_after_ms: Some(2_000) },
            Refusal::UpstreamsBusy { retry_after_ms: None },
            Refusal::UpstreamsFailed { retry_after_ms: Some(90_000) },
            Refusal::UpstreamsFailed { retry_after_ms: None },
            Refusal::UpstreamTimedOut { provider: provider(), waiting_for: WaitingFor::Total },
            Refusal::UpstreamInterrupted,
            Refusal::UpstreamError { status: 422, message: "<html>".into() },
            Refusal::UpstreamError { status: 302, message: "moved".into() },
        ]
    }

    fn parsed(refusal: &Refusal) -> Value {
        let mut out = Vec::new();
        refusal.body(&mut out);
        serde_json::from_slice(&out).expect("a body is JSON")
    }

    #[test]
    fn every_body_has_all_four_members() {
        for refusal in every() {
            let body = parsed(&refusal);
            let error = body["error"].as_object().unwrap();
            let class = refusal.class();
            assert_eq!(error.len(), 4, "{refusal:?}");
            assert!(!error["message"].as_str().unwrap().is_empty());
            assert_eq!(error["type"], class.kind);
            assert_eq!(error["code"], class.code);
            assert!(error["param"].is_null() || error["param"].is_string());
            assert!((400..600).contains(&class.status));
        }
    }

    #[test]
    fn an_error_event_is_one_data_line() {
        for refusal in every() {
            let mut out = Vec::new();
            refusal.event(&mut out);
            assert_eq!(crate::wire::sse::Scanner::default().next(&out, 0), Some(out.len()));
            assert_eq!(crate::wire::sse::data_of(&out).lines(), 1);
        }
        let mut out = Vec::new();
        Refusal::UpstreamInterrupted.event(&mut out);
        assert_eq!(
            std::str::from_utf8(&out).unwrap(),
            "data: {\"error\":{\"message\":\"upstream stream interrupted\",\"type\":\"server_error\",\"param\":null,\
             \"code\":\"upstream_interrupted\"}}\n\n"
        );
    }

    #[test]
    fn advice_is_given_only_where_the_sdks_would_retry_by_themselves() {
        for refusal in every() {
            let Class { status, .. } = refusal.class();
            let tried_again = matches!(status, 408 | 409 | 429 | 500..);
            let theirs = matches!(refusal, Refusal::UpstreamError { .. });
            assert!(tried_again || theirs || refusal.retry().should_retry == Some(false), "{refusal:?}");
        }
    }

    #[track_caller]
    fn check_retry(refusal: Refusal, should_retry: Option<bool>, secs: Option<u64>) {
        let retry = refusal.retry();
        assert_eq!((retry.should_retry, retry.retry_after_secs()), (should_retry, secs));
    }

    #[test]
    fn a_wait_is_rounded_up_and_a_long_one_forbids() {
        check_retry(Refusal::Overloaded { retry_after_ms: 1 }, Some(true), Some(1));
        check_retry(Refusal::Overloaded { retry_after_ms: 2_000 }, Some(true), Some(2));
        check_retry(Refusal::NoUpstream { retry_after_ms: 60_000 }, Some(true), Some(60));
        check_retry(Refusal::NoUpstream { retry_after_ms: 60_001 }, Some(false), Some(61));
        check_retry(Refusal::Draining, Some(true), Some(1));
        check_retry(Refusal::OverBudget, Some(false), None);
        check_retry(Refusal::HeadTooSlow, None, None);
        check_retry(Refusal::UpstreamInterrupted, None, None);
    }

    #[test]
    fn own_attempts_are_not_multiplied() {
        assert_eq!(Retry::default().spent().should_retry, Some(false));
        assert_eq!(Retry::after(5).spent(), Retry::after(5));
    }

    #[test]
    fn words_are_escaped_and_bounded() {
        let hostile = "\"\\\n\r\t\0\x1f\u{7f}\u{85}\u{2028}ü";
        let body = parsed(&Refusal::UnknownModel { model: hostile.into() });
        assert!(body["error"]["message"].as_str().unwrap().contains(hostile));

        let long: Box<str> = "ü\n".repeat(2_000).into();
        let mut out = Vec::new();
        Refusal::UpstreamError { status: 500, message: long }.body(&mut out);
        assert!(out.len() < 2 * REFUSAL_MESSAGE_BYTES_MAX);
        let body: Value = serde_json::from_slice(&out).unwrap();
        let said = body["error"]["message"].as_str().unwrap();
        assert!(said.len() <= REFUSAL_MESSAGE_BYTES_MAX && said.starts_with("ü\nü"));
    }

    #[test]
    fn headers_name_what_the_status_demands() {
        for refusal in every() {
            match refusal.class().status {
                405 => assert_eq!(refusal.header(), Some(("allow", "POST, OPTIONS"))),
                401 => assert_eq!(refusal.header(), Some(("www-authenticate", "Bearer"))),
                _ => assert_eq!(refusal.header(), None),
            }
        }
    }

    #[test]
    fn a_refusal_is_small_enough_to_return() {
        assert!(size_of::<Refusal>() <= 72);
    }
}
