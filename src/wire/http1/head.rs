//! Request and response heads, strictly: bytes in, places of their parts out.
//!
//! A head is refused or it has exactly one reading. `httparse` tokenises; what it lets pass (bare LF, empty lines in front)
//! and what the fields mean is settled here and in `framing`. The verdict does not depend on how reads split the head.

use std::ops::Range;

use super::{
    fields::{self, Fields, Repeated},
    framing::{self, Framing, Seen},
    known::Known,
    lines,
    refused::BadHead,
    target,
};
use crate::base::{
    limits::{HEAD_BYTES_MAX, HEAD_FIELDS_CEILING, HEAD_FIELDS_MAX},
    span::Span,
};

/// The methods that mean something here. CONNECT is refused by the parser.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Get,
    Head,
    Post,
    Options,
    Other,
}

impl Method {
    /// As it is written in a request line; a method we do not know is never sent on.
    pub fn token(self) -> Option<&'static str> {
        match self {
            Self::Get => Some("GET"),
            Self::Head => Some("HEAD"),
            Self::Post => Some("POST"),
            Self::Options => Some("OPTIONS"),
            Self::Other => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    Http10,
    Http11,
}

/// How large a head may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    pub bytes_max: usize,
    /// At most `HEAD_FIELDS_CEILING` has an effect.
    pub fields_max: usize,
}

impl HeadLimits {
    /// A span holds 32 bits.
    fn cap(self) -> usize {
        self.bytes_max.min(u32::MAX as usize)
    }
}

impl Default for HeadLimits {
    fn default() -> Self {
        Self { bytes_max: HEAD_BYTES_MAX, fields_max: HEAD_FIELDS_MAX }
    }
}

/// A request's head. All spans lie in the bytes it was parsed from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHead {
    pub method: Method,
    /// Path and query in origin-form, or `*`. An absolute target is reduced to it.
    pub target: Span,
    pub path: Span,
    /// Without its question mark; may be empty.
    pub query: Span,
    /// Host and port that the request is for: the authority of an absolute target, else `Host`. Empty in HTTP/1.0
    /// without either.
    pub host: Span,
    pub version: Version,
    pub fields: Fields,
    /// Length of the head with the empty line that ends it.
    pub bytes: usize,
    /// Never `UntilClose`.
    pub framing: Framing,
    /// Whether the client will take another response on this connection.
    pub keep_alive: bool,
    /// Whether the client waits for `100 Continue` before it sends its body.
    pub expects_continue: bool,
}

/// A response's head. All spans lie in the bytes it was parsed from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseHead {
    /// 100 to 599, and never 101.
    pub status: u16,
    pub version: Version,
    pub fields: Fields,
    /// Length of the head with the empty line that ends it.
    pub bytes: usize,
    pub framing: Framing,
    /// Whether another request may follow on this connection, once the body has been read to its end.
    pub keep_alive: bool,
}

impl RequestHead {
    /// The first field that is this one. `bytes` is what the head was parsed from.
    pub fn known<'b>(&self, bytes: &'b [u8], known: Known) -> Option<&'b [u8]> {
        self.fields.known(bytes, known)
    }

    /// The first field of that name, in any letter case. `bytes` is what the head was parsed from.
    pub fn field<'b>(&self, bytes: &'b [u8], name: &str) -> Option<&'b [u8]> {
        fields::first(&self.fields, bytes, name)
    }

    /// The only field that is this one, where it may be sent once.
    pub fn only<'b>(&self, bytes: &'b [u8], known: Known) -> Result<Option<&'b [u8]>, Repeated> {
        self.fields.only(bytes, known)
    }
}

impl ResponseHead {
    /// The first field that is this one. `bytes` is what the head was parsed from.
    pub fn known<'b>(&self, bytes: &'b [u8], known: Known) -> Option<&'b [u8]> {
        self.fields.known(bytes, known)
    }

    /// The first field of that name, in any letter case. `bytes` is what the head was parsed from.
    pub fn field<'b>(&self, bytes: &'b [u8], name: &str) -> Option<&'b [u8]> {
        fields::first(&self.fields, bytes, name)
    }

    /// The only field that is this one, where it may be sent once.
    pub fn only<'b>(&self, bytes: &'b [u8], known: Known) -> Result<Option<&'b [u8]>, Repeated> {
        self.fields.only(bytes, known)
    }
}

/// The request head that `bytes` begin with, or `None` if it has not all arrived.
///
/// A reader that is given a head in pieces keeps a [`HeadScan`] instead.
pub fn parse_request(bytes: &[u8], limits: HeadLimits) -> Result<Option<RequestHead>, BadHead> {
    HeadScan::default().request(bytes, limits)
}

/// The response head that `bytes` begin with, or `None` if it has not all arrived. `asked` is the request's method.
///
/// Interim (1xx) responses come out as heads without a body; the caller skips them. A 101 is an error: nothing here asks
/// for it.
pub fn parse_response(
    bytes: &[u8],
    asked: Method,
    limits: HeadLimits,
) -> Result<Option<ResponseHead>, BadHead> {
    HeadScan::default().response(bytes, asked, limits)
}

/// How far a head that arrives in pieces has been searched for its end, so that each byte is looked at once.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeadScan {
    seen: usize, // the head's end is not within the first `seen` bytes, and no line among them ends in a bare LF
}

impl HeadScan {
    /// [`parse_request`] for `bytes` that begin with those of the call before. After a head it starts anew.
    pub fn request(&mut self, bytes: &[u8], limits: HeadLimits) -> Result<Option<RequestHead>, BadHead> {
        let Some(first) = bytes.first() else { return Ok(None) };
        // A client that speaks TLS to us would otherwise wait for us while we wait for it.
        if !fields::is_tchar(*first) && !matches!(first, b'\r' | b'\n') {
            return Err(BadHead::BadMethod);
        }
        // Most heads arrive whole, and then the tokeniser finds the end as well. Whatever else it says is asked again below,
        // of exactly one head, so that the answer does not depend on how much has arrived.
        if self.seen == 0 {
            let whole = whole_request(capped(bytes, limits), limits);
            if whole.is_ok() {
                return whole;
            }
        }
        let Some(end) = self.end(bytes, limits)? else { return Ok(None) };
        whole_request(&bytes[..end], limits)
    }

    /// [`parse_response`] for `bytes` that begin with those of the call before. After a head it starts anew.
    pub fn response(
        &mut self,
        bytes: &[u8],
        asked: Method,
        limits: HeadLimits,
    ) -> Result<Option<ResponseHead>, BadHead> {
        let Some(first) = bytes.first() else { return Ok(None) };
        // Whatever speaks first and says something else is not an HTTP server.
        if !matches!(first, b'H' | b'\r' | b'\n') {
            return Err(BadHead::BadVersion);
        }
        if self.seen == 0 {
            let whole = whole_response(capped(bytes, limits), asked, limits);
            if whole.is_ok() {
                return whole;
            }
        }
        let Some(end) = self.end(bytes, limits)? else { return Ok(None) };
        whole_response(&bytes[..end], asked, limits)
    }

    /// Where the head ends, just behind its empty line.
    ///
    /// What could never become a head is refused as soon as it is seen: a peer that ends its lines in LF believes that it
    /// has sent all of it.
    pub fn end(&mut self, bytes: &[u8], limits: HeadLimits) -> Result<Option<usize>, BadHead> {
        if matches!(bytes.first(), Some(b'\r' | b'\n')) {
            return Err(BadHead::LeadingEmptyLine);
        }
        let within = capped(bytes, limits);
        let unseen = within.get(self.seen..).unwrap_or_default();
        for lf in memchr::memchr_iter(b'\n', unseen) {
            let line = &within[..self.seen + lf + 1];
            if line.ends_with(b"\r\n\r\n") {
                self.seen = 0;
                return Ok(Some(line.len()));
            }
            if !line.ends_with(b"\r\n") {
                return Err(BadHead::BareLf);
            }
        }
        // At the cap already: a caller whose buffer is no larger than that could not read on.
        if within.len() == limits.cap() {
            return Err(BadHead::TooLarge);
        }
        self.seen = within.len();
        Ok(None)
    }
}

/// As much of `bytes` as a head may take.
fn capped(bytes: &[u8], limits: HeadLimits) -> &[u8] {
    &bytes[..bytes.len().min(limits.cap())]
}

/// The head that `bytes` begin with. Its reason for refusing is right only where `bytes` are one head.
fn whole_request(bytes: &[u8], limits: HeadLimits) -> Result<Option<RequestHead>, BadHead> {
    let mut slots = lines::slots();
    let room = &mut slots[..limits.fields_max.min(HEAD_FIELDS_CEILING)];
    let mut tokens = httparse::Request::new(&mut []);
    let parsed = tokens.parse_with_uninit_headers(bytes, room);
    let head = lines::sound(bytes, parsed, tokens.headers)?;
    let (Some(method), Some(aim), Some(minor)) = (tokens.method, tokens.path, tokens.version) else {
        return Err(BadHead::BadVersion);
    };
    let (noted, fields) = lines::read(head, tokens.headers);

    let method = match method {
        "POST" => Method::Post,
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "OPTIONS" => Method::Options,
        "CONNECT" => return Err(BadHead::BadMethod),
        _ => Method::Other,
    };
    let version = if minor == 0 { Version::Http10 } else { Version::Http11 };
    let parts = target::parse(aim.as_bytes(), method)?;
    let start = lines::span(head, aim.as_bytes()).range().start;
    let place = |part: Range<usize>| Span::new(start + part.start, start + part.end);

    let named = match noted.host {
        Seen::Once(host) if target::is_host(host) => lines::span(head, host),
        Seen::Once(_) => return Err(BadHead::BadHost),
        Seen::Again => return Err(BadHead::SeveralHosts),
        Seen::Never if version == Version::Http11 => return Err(BadHead::MissingHost),
        Seen::Never => Span::default(),
    };
    let framing = framing::of_request(noted.said, version)?;
    let expects = match noted.expect {
        Seen::Never => false,
        Seen::Once(value) if value.eq_ignore_ascii_case(b"100-continue") => true,
        _ => return Err(BadHead::BadExpect),
    };
    Ok(Some(RequestHead {
        method,
        target: place(parts.whole),
        path: place(parts.path),
        query: place(parts.query),
        host: parts.authority.map_or(named, place),
        version,
        bytes: head.len(),
        framing,
        keep_alive: noted.connection.keeps(version)?,
        // RFC 9110 §10.1.1: not to a 1.0 client, and not where there is no body to wait for.
        expects_continue: expects
            && version == Version::Http11
            && !matches!(framing, Framing::None | Framing::Length(0)),
        fields,
    }))
}

/// The head that `bytes` begin with. Its reason for refusing is right only where `bytes` are one head.
fn whole_response(bytes: &[u8], asked: Method, limits: HeadLimits) -> Result<Option<ResponseHead>, BadHead> {
    let mut slots = lines::slots();
    let room = &mut slots[..limits.fields_max.min(HEAD_FIELDS_CEILING)];
    let mut tokens = httparse::Response::new(&mut []);
    let parsed =
        httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut tokens, bytes, room);
    let head = lines::sound(bytes, parsed, tokens.headers)?;
    let (Some(status), Some(minor)) = (tokens.code, tokens.version) else { return Err(BadHead::BadStatus) };
    let (noted, fields) = lines::read(head, tokens.headers);

    match status {
        101 => return Err(BadHead::SwitchedProtocols),
        100..600 => {}
        _ => return Err(BadHead::BadStatus),
    }
    let version = if minor == 0 { Version::Http10 } else { Version::Http11 };
    let framing = framing::of_response(noted.said, version, asked, status)?;
    Ok(Some(ResponseHead {
        status,
        version,
        bytes: head.len(),
        framing,
        keep_alive: noted.connection.keeps(version)? && framing != Framing::UntilClose,
        fields,
    }))
}

/// Any bytes as a request: the answer is sound, and the same in three pieces.
#[cfg(any(test, feature = "fuzzing"))]
pub fn fuzz_request_head(data: &[u8]) {
    let limits = HeadLimits { bytes_max: 2048, fields_max: 20 };
    let whole = parse_request(data, limits);
    if let Ok(Some(head)) = &whole {
        check_sound(data, head.bytes, &head.fields);
        for part in [head.target, head.path, head.query, head.host] {
            assert!(part.range().end <= head.bytes);
        }
        assert!(head.framing != Framing::UntilClose);
        assert!(matches!(head.path.of(data).first(), Some(b'/' | b'*')));
    }
    in_pieces(data, |scan, bytes| scan.request(bytes, limits), &whole);
}

/// Any bytes as a response: the answer is sound, and the same in three pieces.
#[cfg(any(test, feature = "fuzzing"))]
pub fn fuzz_response_head(data: &[u8]) {
    let limits = HeadLimits { bytes_max: 2048, fields_max: 20 };
    for asked in [Method::Post, Method::Head] {
        let whole = parse_response(data, asked, limits);
        if let Ok(Some(head)) = &whole {
            check_sound(data, head.bytes, &head.fields);
            assert!((100..600).contains(&head.status));
        }
        in_pieces(data, |scan, bytes| scan.response(bytes, asked, limits), &whole);
    }
}

/// A second, plainer opinion of what an accepted head may hold.
#[cfg(any(test, feature = "fuzzing"))]
fn check_sound(data: &[u8], bytes: usize, places: &[fields::Field]) {
    let head = &data[..bytes];
    assert!(bytes <= data.len() && head.ends_with(b"\r\n\r\n"));
    let text = head.strip_suffix(b"\r\n\r\n").unwrap_or(head);
    let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
    assert_eq!(lines.len(), places.len() + 1, "one line a field, after the first");
    for (line, place) in lines.iter().skip(1).zip(places) {
        let colon = line.iter().position(|byte| *byte == b':').expect("a field has a colon");
        assert_eq!(&line[..colon], place.name.of(data));
        assert!(fields::is_token(&line[..colon]));
        let value = &line[colon + 1..];
        let value = value.strip_suffix(b"\r").unwrap_or(value);
        assert_eq!(fields::trim(value), place.value.of(data));
        assert!(value.iter().all(|byte| fields::is_value_byte(*byte)));
    }
}

/// Whatever arrives first, the answer is the one for all of it; an error may come early.
#[cfg(any(test, feature = "fuzzing"))]
fn in_pieces<T: PartialEq + std::fmt::Debug>(
    data: &[u8],
    mut parse: impl FnMut(&mut HeadScan, &[u8]) -> Result<Option<T>, BadHead>,
    whole: &Result<Option<T>, BadHead>,
) {
    for (first, second) in
        [(0, 1), (data.len() / 3, data.len() / 2), (data.len().saturating_sub(1), data.len())]
    {
        let mut scan = HeadScan::default();
        let mut answer = Ok(None);
        for end in [first, second, data.len()] {
            answer = parse(&mut scan, &data[..end.min(data.len())]);
            if !matches!(answer, Ok(None)) {
                break;
            }
        }
        assert_eq!(&answer, whole);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::http1::mutations;

    const SDK: &[u8] = b"POST /v1/chat/completions?x=1 HTTP/1.1\r\nHost: localhost:8080\r\nContent-Type:application/json\r\n\
        Authorization: \tBearer sk \r\nX-Empty:\r\nX-Blank:  \r\nExpect: 100-Continue\r\nContent-Length: 3\r\n\r\n{} ";

    fn request(bytes: &[u8]) -> Result<Option<RequestHead>, BadHead> {
        parse_request(bytes, HeadLimits::default())
    }

    #[test]
    fn every_part_of_a_request_is_found() {
        let head = request(SDK).expect("accepted").expect("whole");
        assert_eq!(head.method, Method::Post);
        assert_eq!(head.target.of(SDK), b"/v1/chat/completions?x=1");
        assert_eq!(head.path.of(SDK), b"/v1/chat/completions");
        assert_eq!(head.query.of(SDK), b"x=1");
        assert_eq!(head.host.of(SDK), b"localhost:8080");
        assert_eq!(head.version, Version::Http11);
        assert_eq!(head.bytes, SDK.len() - 3);
        assert_eq!(head.framing, Framing::Length(3));
        assert!(head.keep_alive && head.expects_continue);
        assert_eq!(head.field(SDK, "content-type"), Some(&b"application/json"[..]));
        assert_eq!(head.field(SDK, "AUTHORIZATION"), Some(&b"Bearer sk"[..]));
        assert_eq!(head.field(SDK, "x-empty"), Some(&b""[..]));
        assert_eq!(head.field(SDK, "x-blank"), Some(&b""[..]));
        assert_eq!(head.fields.len(), 7);
    }

    #[test]
    fn an_absolute_target_gives_way_to_its_path_and_names_the_host() {
        let bytes = b"GET http://real:81/a?b HTTP/1.1\r\nHost: other\r\n\r\n";
        let head = request(bytes).expect("accepted").expect("whole");
        assert_eq!((head.target.of(bytes), head.host.of(bytes)), (&b"/a?b"[..], &b"real:81"[..]));
        let bytes = b"GET http://real HTTP/1.1\r\nHost: other\r\n\r\n";
        let head = request(bytes).expect("accepted").expect("whole");
        assert_eq!((head.target.of(bytes), head.path.of(bytes)), (&b"/"[..], &b"/"[..]));
    }

    #[test]
    fn split_anywhere_the_head_is_the_same() {
        let whole = request(SDK);
        for first in 0..SDK.len() {
            for second in first..SDK.len() {
                let mut scan = HeadScan::default();
                let mut answer = Ok(None);
                for end in [first, second, SDK.len()] {
                    answer = scan.request(&SDK[..end], HeadLimits::default());
                    if answer != Ok(None) {
                        break;
                    }
                }
                assert_eq!(answer, whole);
            }
        }
    }

    #[test]
    fn a_scan_starts_anew_after_a_head() {
        let bytes = [SDK, SDK].concat();
        let mut scan = HeadScan::default();
        assert_eq!(scan.request(&bytes[..40], HeadLimits::default()), Ok(None));
        assert!(scan.request(&bytes, HeadLimits::default()).expect("accepted").is_some());
        assert!(scan.request(SDK, HeadLimits::default()).expect("accepted").is_some());
    }

    #[test]
    fn a_head_may_be_as_large_as_the_limit_and_no_larger() {
        let bytes = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n";
        let limits = |bytes_max, fields_max| HeadLimits { bytes_max, fields_max };
        assert!(parse_request(bytes, limits(bytes.len(), 1)).is_ok());
        assert_eq!(parse_request(bytes, limits(bytes.len() - 1, 1)), Err(BadHead::TooLarge));
        assert_eq!(parse_request(&bytes[..10], limits(10, 1)), Err(BadHead::TooLarge));
        assert_eq!(parse_request(&bytes[..9], limits(10, 1)), Ok(None));
        assert_eq!(parse_request(bytes, limits(1000, 0)), Err(BadHead::TooManyFields));
        let many =
            |count: usize| format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "a: b\r\n".repeat(count - 1));
        let default = HeadLimits::default();
        assert!(request(many(default.fields_max).as_bytes()).is_ok());
        assert_eq!(request(many(default.fields_max + 1).as_bytes()), Err(BadHead::TooManyFields));
        let beyond = limits(default.bytes_max, usize::MAX);
        assert_eq!(
            parse_request(many(HEAD_FIELDS_CEILING + 1).as_bytes(), beyond),
            Err(BadHead::TooManyFields)
        );
    }

    #[test]
    fn what_can_not_become_a_head_is_refused_before_it_ends() {
        assert_eq!(request(b""), Ok(None));
        assert_eq!(request(b"\r"), Err(BadHead::LeadingEmptyLine));
        assert_eq!(request(b"\n"), Err(BadHead::LeadingEmptyLine));
        assert_eq!(request(b"\x16\x03\x01"), Err(BadHead::BadMethod));
        assert_eq!(request(b"GET / HTTP/1.1\n"), Err(BadHead::BareLf));
        assert_eq!(request(b"GET / HTTP/1.1\r\nHost: h\r\n\n"), Err(BadHead::BareLf));
    }

    #[test]
    fn a_response_says_whether_its_connection_may_be_used_again() {
        let keep = |text: &str| {
            parse_response(text.as_bytes(), Method::Post, HeadLimits::default())
                .expect("accepted")
                .map(|head| (head.status, head.framing, head.keep_alive))
        };
        assert_eq!(keep("HTTP/1.1 200 OK\r\n\r\n"), Some((200, Framing::UntilClose, false)));
        assert_eq!(keep("HTTP/1.1 200\r\nContent-Length: 1\r\n\r\n"), Some((200, Framing::Length(1), true)));
        assert_eq!(
            keep("HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n"),
            Some((200, Framing::Length(1), false))
        );
        assert_eq!(
            keep("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\n"),
            Some((200, Framing::Length(1), true))
        );
        assert_eq!(keep("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"), Some((103, Framing::None, true)));
    }

    #[test]
    fn any_bytes_are_answered_soundly() {
        let requests: &[&[u8]] = &[
            SDK,
            b"GET /v1/models/a%2Fb HTTP/1.1\r\nHost: [::1]:80\r\nConnection: close\r\n\r\n",
            b"OPTIONS * HTTP/1.0\r\n\r\nGET",
            b"PUT http://h:1/a?b HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        ];
        mutations::run(requests, 20_000, fuzz_request_head);
        let responses: &[&[u8]] = &[
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n",
            b"HTTP/1.0 404\r\nContent-Length: 12\r\nConnection: keep-alive, x\r\n\r\n",
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No\r\nX: \xe9\t\r\n\r\n",
        ];
        mutations::run(responses, 20_000, fuzz_response_head);
    }
}
