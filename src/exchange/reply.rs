//! What is said to a client by us: the head of an answer that is passed on, and every refusal, hit and list.

use super::{
    Facts,
    h1::Client,
    intake::Outward,
    lens::Kind,
    outgoing::Outgoing,
    seam::{Wire, World},
};
use crate::{
    base::waiting::Waiting,
    policy::attempts::{Cause, Failure, Phase},
    wire::{
        http1::{
            Known, fields,
            head::ResponseHead,
            render::{self, HeadWriter, HeaderSafe, status_line},
        },
        openai::refusal::{Refusal, Retry, WaitingFor},
    },
};

/// What a provider's answer may not tell our client: about its own transport, its own cookies, its own account.
fn is_kept_back(field: Known) -> bool {
    matches!(
        field,
        Known::Connection
            | Known::ContentLength
            | Known::TransferEncoding
            | Known::Trailer
            | Known::Upgrade
            | Known::KeepAlive
            | Known::Server
            | Known::Via
            | Known::SetCookie
            | Known::AltSvc
            | Known::TransportSecurity
            | Known::OpenaiOrganization
            | Known::OpenaiProject
            | Known::ShouldRetry
            | Known::RequestId
            | Known::Location
            | Known::AllowOrigin
            | Known::ExposeHeaders
            | Known::WwwAuthenticate
    )
}

/// By its head, what kind of body an answer has.
pub(super) fn kind(head: &ResponseHead, bytes: &[u8]) -> Kind {
    let coding = head.known(bytes, Known::ContentEncoding);
    if coding.is_some_and(|coding| !coding.eq_ignore_ascii_case(b"identity")) {
        return Kind::Other;
    }
    let media_type = head.known(bytes, Known::ContentType).unwrap_or(b"");
    if super::ask::is_media_type(media_type, b"text/event-stream") {
        Kind::Events
    } else if super::ask::is_media_type(media_type, b"application/json") {
        Kind::Json
    } else {
        Kind::Other
    }
}

/// Begins the head of an answer that is passed on; [`commit`] ends it. `bytes` is what `head` was parsed from.
pub(super) fn begin(ours: &mut Vec<u8>, head: &ResponseHead, bytes: &[u8], kind: Kind, facts: &Facts<'_>) {
    let mut writer = status_line(ours, head.status);
    // A caller's own limits are the ones it meets; the provider's are shared by all callers.
    let tells_limits = !facts.told.is_empty();
    // What was found over all attempts stands in the place of what the last one says.
    let advises = facts.advice.retry_after_ms.is_some();
    let names_fields = head.known(bytes, Known::Connection).is_some();
    for field in head.fields.iter() {
        let name = field.name.of(bytes);
        let stays = is_kept_back(field.known)
            || (advises && is_advice(field.known))
            || (field.known == Known::Other && is_ours(name))
            || (tells_limits
                && name.get(..12).is_some_and(|start| start.eq_ignore_ascii_case(b"x-ratelimit-")))
            || (names_fields && fields::is_for_this_hop(&head.fields, bytes, name));
        if !stays {
            writer.passed_on(field, bytes);
        }
    }
    advise(&mut writer, facts.advice);
    if let Some(theirs) = head.fields.get(Known::RequestId) {
        writer.field("x-upstream-request-id", HeaderSafe::read(theirs, bytes));
    }
    if kind == Kind::Events {
        if head.known(bytes, Known::CacheControl).is_none() {
            writer.field("cache-control", const { HeaderSafe::fixed("no-cache") });
        }
        writer.field("x-accel-buffering", const { HeaderSafe::fixed("no") });
    }
    ours_too(&mut writer, facts);
    writer.pause();
}

/// The whole head of a stream that is begun before anybody has answered. Who will is not known, so it is not said here, but
/// by a comment ([`comment_late`]) as soon as it is.
pub(super) fn begin_early(ours: &mut Vec<u8>, facts: &Facts<'_>, outward: Outward) {
    let mut writer = status_line(ours, super::tending::STATUS);
    writer.field("content-type", const { HeaderSafe::fixed("text/event-stream") });
    writer.field("cache-control", const { HeaderSafe::fixed("no-cache") });
    writer.field("x-accel-buffering", const { HeaderSafe::fixed("no") });
    who(&mut writer, facts);
    writer.field(PROVIDER, NOTHING).field(MODEL, NOTHING);
    writer.field(ROUTE, told(facts.route.as_deref())).field(ATTEMPTS, NOTHING);
    match outward {
        Outward::Chunked => {
            connection(&mut writer, facts);
            writer.chunked().end();
        }
        Outward::Bare => {
            writer.field("connection", const { HeaderSafe::fixed("close") });
            writer.end();
        }
    }
}

/// One of the four that every reply has once: what another gateway behind this one says of itself is not passed on.
fn is_ours(name: &[u8]) -> bool {
    let ours: &[&str] = match name.len() {
        15 => &[MODEL, ROUTE],
        18 => &[PROVIDER, ATTEMPTS],
        _ => return false,
    };
    ours.iter().any(|ours| name.eq_ignore_ascii_case(ours.as_bytes()))
}

fn is_advice(field: Known) -> bool {
    matches!(field, Known::RetryAfter | Known::RetryAfterMs)
}

/// What a client is told about trying again.
fn advise(writer: &mut HeadWriter<'_>, retry: Retry) {
    if let (Some(secs), Some(ms)) = (retry.retry_after_secs(), retry.retry_after_ms) {
        writer.number("retry-after", secs);
        writer.number("retry-after-ms", ms);
    }
    match retry.should_retry {
        Some(true) => _ = writer.field("x-should-retry", const { HeaderSafe::fixed("true") }),
        Some(false) => _ = writer.field("x-should-retry", const { HeaderSafe::fixed("false") }),
        None => {}
    }
}

const PROVIDER: &str = "x-ringway-provider";
const MODEL: &str = "x-ringway-model";
const ROUTE: &str = "x-ringway-route";
const ATTEMPTS: &str = "x-ringway-attempts";

/// What is said where there is nothing to say, or where it is not known yet.
const NOTHING: HeaderSafe<'static> = HeaderSafe::fixed("-");

/// What every reply of ours carries.
fn ours_too(writer: &mut HeadWriter<'_>, facts: &Facts<'_>) {
    who(writer, facts);
    writer.field(PROVIDER, told(facts.provider));
    writer.field(MODEL, told(Some(facts.model.as_bytes())));
    writer.field(ROUTE, told(facts.route.as_deref()));
    // Also where nobody was asked: then it is 0, and there is neither a provider nor its model.
    writer.number(ATTEMPTS, u64::from(facts.attempts));
}

/// A comment with what the head of a stream could not say that was begun before anybody had answered.
pub(super) fn comment_late(facts: &Facts<'_>) -> Vec<u8> {
    let mut comment = Vec::with_capacity(128);
    let attempts = facts.attempts.to_string();
    let all = [
        (": ", PROVIDER, told(facts.provider).bytes()),
        (" ", MODEL, told(Some(facts.model.as_bytes())).bytes()),
        (" ", ATTEMPTS, attempts.as_bytes()),
    ];
    for (before, name, value) in all {
        for piece in [before.as_bytes(), name.as_bytes(), b"=", value] {
            comment.extend_from_slice(piece);
        }
    }
    comment.extend_from_slice(b"\n\n");
    comment
}

fn told<T: AsRef<[u8]> + ?Sized>(text: Option<&T>) -> HeaderSafe<'_> {
    text.map(T::as_ref).filter(|text| !text.is_empty()).and_then(HeaderSafe::new).unwrap_or(NOTHING)
}

/// Which request this answers, and what its client has left.
fn who(writer: &mut HeadWriter<'_>, facts: &Facts<'_>) {
    if !facts.id.is_empty() {
        writer.field("x-request-id", HeaderSafe::of(&facts.id));
    }
    facts.told.write(writer);
}

/// Ends the head: how the body is framed, and whether the connection stays. A body that only its end can end takes the
/// connection with it.
pub(super) fn commit(ours: &mut Vec<u8>, facts: &mut Facts<'_>, status: u16, length: Option<u64>) -> Outward {
    let mut writer = render::resume(ours);
    if matches!(status, 204 | 304) {
        // By its status it has no body, and may not say a length (RFC 9110 §8.6).
        connection(&mut writer, facts);
        writer.end();
        return Outward::Bare;
    }
    let chunked = length.is_none() && !facts.http10;
    facts.stays &= chunked || length.is_some();
    connection(&mut writer, facts);
    match length {
        Some(length) => writer.length(length).end(),
        None if chunked => writer.chunked().end(),
        None => writer.end(),
    }
    if chunked { Outward::Chunked } else { Outward::Bare }
}

/// What is said last, because it is known last.
fn connection(writer: &mut HeadWriter<'_>, facts: &Facts<'_>) {
    if let Some(timing) = facts.timing.as_deref().and_then(|timing| HeaderSafe::new(timing.as_bytes())) {
        writer.field("server-timing", timing);
    }
    if !facts.stays {
        writer.field("connection", const { HeaderSafe::fixed("close") });
    } else if facts.http10 {
        writer.field("connection", const { HeaderSafe::fixed("keep-alive") });
    }
}

/// A whole reply of our own.
pub(super) struct Own<'a> {
    pub status: u16,
    pub content_type: Option<HeaderSafe<'static>>,
    pub extra: Option<(&'static str, &'static str)>,
    pub retry: Retry,
    pub body: &'a [u8],
}

impl<'a> Own<'a> {
    pub(super) fn json(status: u16, body: &'a [u8]) -> Self {
        let content_type = (status != 204).then_some(const { HeaderSafe::fixed("application/json") });
        Self { status, content_type, extra: None, retry: Retry::default(), body }
    }
}

/// Says a reply of our own. Whether the client took it.
pub(super) async fn say<W: World>(
    world: &W,
    client: &mut Client<W::Wire>,
    own: Own<'_>,
    facts: &Facts<'_>,
) -> bool {
    let mut ours = world.local().buffer();
    let mut writer = status_line(&mut ours, own.status);
    if let Some(content_type) = own.content_type {
        writer.field("content-type", content_type);
    }
    if let Some((name, value)) = own.extra
        && let Some(value) = HeaderSafe::new(value.as_bytes())
    {
        writer.field(name, value);
    }
    advise(&mut writer, own.retry);
    ours_too(&mut writer, facts);
    connection(&mut writer, facts);
    if own.status == 204 {
        writer.end();
    } else {
        writer.length(own.body.len() as u64).end();
        if !facts.head_only {
            ours.extend_from_slice(own.body);
        }
    }
    let mut out = Outgoing::default();
    let index = out.push_all(ours);
    client.wire.expire_at(world.now() + facts.limits.write_time(out.len()), Waiting::Reader);
    let sent = client.wire.write(&mut out).await;
    world.local().recycle(out.take(index));
    sent.is_ok()
}

/// After a stream that was ended by a limit on tokens: how long the debt lasts is told when the next request meets it.
const STREAM_RETRY_MS: u64 = 1_000;

/// What a client is told of a failure.
pub(super) fn refusal_of(failure: Failure, provider: &str) -> Refusal {
    use crate::base::waiting::Expiry;
    let provider = provider.into();
    match (failure.cause, failure.phase) {
        (Cause::Expired(Expiry::Drained), _) => Refusal::Draining,
        (Cause::Expired(Expiry::Late(waiting)), _) => {
            let waiting_for = match waiting {
                Waiting::Connect | Waiting::Handshake => WaitingFor::Connect,
                Waiting::FirstToken => WaitingFor::FirstToken,
                Waiting::BetweenBytes => WaitingFor::BetweenBytes,
                Waiting::Total => WaitingFor::Total,
                _ => WaitingFor::FirstByte,
            };
            Refusal::UpstreamTimedOut { provider, waiting_for }
        }
        (Cause::OverLimit, _) => Refusal::RateLimited { what: "tokens", retry_after_ms: STREAM_RETRY_MS },
        (Cause::Malformed(_), _) => Refusal::UpstreamMalformed { provider },
        (_, Phase::Resolve | Phase::Connect | Phase::Handshake) => Refusal::UpstreamUnreachable { provider },
        (_, Phase::Send | Phase::Head | Phase::Body) => Refusal::UpstreamInterrupted,
    }
}

/// Whether the answer's head makes it one that the client must not see, and what it sees instead.
pub(super) fn replaced(head: &ResponseHead, kind: Kind, provider: &str) -> Option<Refusal> {
    match head.status {
        300..=399 => Some(Refusal::UpstreamRedirect { provider: provider.into() }),
        // Our key, not the client's; and the body may quote it.
        401 | 403 => Some(Refusal::UpstreamAuth { provider: provider.into() }),
        status @ 400..=599 if kind != Kind::Json => Some(Refusal::UpstreamError {
            status,
            message: format!("The provider {provider} answered {status} in a form that is not OpenAI's.")
                .into(),
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_said_on_one_line_is_nothing() {
        for text in [None, Some(""), Some("a\r\nx-evil: 1"), Some("a\nb"), Some("a\0"), Some("\u{7f}")] {
            assert_eq!(told(text).bytes(), b"-", "{text:?}");
        }
        assert_eq!(told(Some("a b")).bytes(), b"a b");
    }

    #[test]
    fn the_four_are_told_in_any_letter_case_and_nothing_else_is() {
        for name in [PROVIDER, MODEL, ROUTE, ATTEMPTS, "X-Ringway-Route", "X-RINGWAY-ATTEMPTS"] {
            assert!(is_ours(name.as_bytes()), "{name}");
        }
        for name in [
            "",
            "x-ringway-",
            "x-ringway-routf",
            "x-ringway-providers",
            "x-other-provider",
            "x-ringway-attempt",
        ] {
            assert!(!is_ours(name.as_bytes()), "{name}");
        }
    }
}
