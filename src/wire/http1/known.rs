//! The field names that mean something to this gateway. A name is compared once, when its head is parsed; from then on
//! a field is told by a number.

/// Declares the names: what a field is called here, and on the wire.
macro_rules! known {
    ($($name:ident $text:literal)*) => {
        /// Which field a name is, whatever its letter case.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Known {
            /// None of those that mean something here.
            Other,
            $($name,)*
        }

        impl Known {
            #[cfg(test)]
            const ALL: &[Self] = &[$(Self::$name),*];

            /// The name in lower case; nothing for `Other`.
            pub const fn text(self) -> &'static str {
                match self {
                    Self::Other => "",
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

known! {
    Accept "accept"
    AllowOrigin "access-control-allow-origin"
    AltSvc "alt-svc"
    Authorization "authorization"
    CacheControl "cache-control"
    CollectLog "x-ringway-collect-log"
    CollectLogAlias "cf-aig-collect-log"
    CollectPayload "x-ringway-collect-log-payload"
    CollectPayloadAlias "cf-aig-collect-log-payload"
    Connection "connection"
    ContentEncoding "content-encoding"
    ContentLength "content-length"
    ContentType "content-type"
    Expect "expect"
    ExposeHeaders "access-control-expose-headers"
    Host "host"
    IdempotencyKey "idempotency-key"
    KeepAlive "keep-alive"
    Location "location"
    OpenaiBeta "openai-beta"
    OpenaiOrganization "openai-organization"
    OpenaiProject "openai-project"
    RequestId "x-request-id"
    RetryAfter "retry-after"
    RetryAfterMs "retry-after-ms"
    RetryCount "x-stainless-retry-count"
    RouteMetadata "x-ai-route-metadata"
    RouteMetadataAlias "cf-aig-metadata"
    Server "server"
    ServerTimingAsked "x-ringway-server-timing"
    SetCookie "set-cookie"
    ShouldRetry "x-should-retry"
    TraceParent "traceparent"
    TraceState "tracestate"
    Trailer "trailer"
    TransferEncoding "transfer-encoding"
    TransportSecurity "strict-transport-security"
    Upgrade "upgrade"
    UserAgent "user-agent"
    Via "via"
    WwwAuthenticate "www-authenticate"
}

impl Known {
    /// Which of the names this is.
    pub fn of(name: &[u8]) -> Self {
        let candidate = Self::candidate(name);
        if folds_to(name, candidate.text().as_bytes()) { candidate } else { Self::Other }
    }

    /// Its place in a set of them.
    pub const fn bit(self) -> u64 {
        1 << self as u32
    }

    /// The only one it could be, by its length and its first letter.
    fn candidate(name: &[u8]) -> Self {
        match (name.len(), name.first().map(u8::to_ascii_lowercase)) {
            (3, Some(b'v')) => Self::Via,
            (4, Some(b'h')) => Self::Host,
            (6, Some(b'a')) => Self::Accept,
            (6, Some(b'e')) => Self::Expect,
            (6, Some(b's')) => Self::Server,
            (7, Some(b'a')) => Self::AltSvc,
            (7, Some(b't')) => Self::Trailer,
            (7, Some(b'u')) => Self::Upgrade,
            (8, Some(b'l')) => Self::Location,
            (10, Some(b'c')) => Self::Connection,
            (10, Some(b'k')) => Self::KeepAlive,
            (10, Some(b's')) => Self::SetCookie,
            (10, Some(b't')) => Self::TraceState,
            (10, Some(b'u')) => Self::UserAgent,
            (11, Some(b'o')) => Self::OpenaiBeta,
            (11, Some(b'r')) => Self::RetryAfter,
            (11, Some(b't')) => Self::TraceParent,
            (12, Some(b'c')) => Self::ContentType,
            (12, Some(b'x')) => Self::RequestId,
            (13, Some(b'a')) => Self::Authorization,
            (13, Some(b'c')) => Self::CacheControl,
            (14, Some(b'c')) => Self::ContentLength,
            (14, Some(b'o')) => Self::OpenaiProject,
            (14, Some(b'r')) => Self::RetryAfterMs,
            (14, Some(b'x')) => Self::ShouldRetry,
            (15, Some(b'c')) => Self::RouteMetadataAlias,
            (15, Some(b'i')) => Self::IdempotencyKey,
            (16, Some(b'c')) => Self::ContentEncoding,
            (16, Some(b'w')) => Self::WwwAuthenticate,
            (17, Some(b't')) => Self::TransferEncoding,
            (18, Some(b'c')) => Self::CollectLogAlias,
            (19, Some(b'o')) => Self::OpenaiOrganization,
            (19, Some(b'x')) => Self::RouteMetadata,
            (21, Some(b'x')) => Self::CollectLog,
            // The only two that begin alike: by their third letter.
            (23, Some(b'x')) if matches!(name[2], b's' | b'S') => Self::RetryCount,
            (23, Some(b'x')) => Self::ServerTimingAsked,
            (25, Some(b's')) => Self::TransportSecurity,
            (26, Some(b'c')) => Self::CollectPayloadAlias,
            (27, Some(b'a')) => Self::AllowOrigin,
            (29, Some(b'a')) => Self::ExposeHeaders,
            (29, Some(b'x')) => Self::CollectPayload,
            _ => Self::Other,
        }
    }
}

/// Whether `name`, a token, is `text` in some letter case; eight letters at a time, the last eight perhaps again. The bit
/// that tells letter cases apart is set in every byte of `text`, and of the bytes of a token only letters are what they are
/// with and without it.
fn folds_to(name: &[u8], text: &[u8]) -> bool {
    let is_word = |(name, text): (&[u8; 8], &[u8; 8])| {
        u64::from_ne_bytes(*name) | u64::from_ne_bytes([b' '; 8]) == u64::from_ne_bytes(*text)
    };
    if name.len() != text.len() {
        return false;
    }
    match (name.last_chunk(), text.last_chunk()) {
        (Some(last), Some(text_last)) => {
            is_word((last, text_last)) && name.as_chunks().0.iter().zip(text.as_chunks().0).all(is_word)
        }
        _ => name.iter().zip(text).all(|(byte, text)| byte | b' ' == *text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_known_in_any_letter_case() {
        for &known in Known::ALL {
            assert_eq!(Known::of(known.text().as_bytes()), known);
            assert_eq!(Known::of(known.text().to_ascii_uppercase().as_bytes()), known);
        }
    }

    #[test]
    fn what_only_begins_or_sounds_like_a_name_is_another() {
        for name in ["", "v", "vib", "hosts", "x-request-ix", "content-lengty", "content_type", "x-forwarded"]
        {
            assert_eq!(Known::of(name.as_bytes()), Known::Other, "{name}");
        }
    }
}
