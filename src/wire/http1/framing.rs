//! Where a message's body ends: the one place that decides it.
//!
//! RFC 9112 §6.3 lets a recipient repair some messages that frame their body twice or oddly. Each repair is a guess that
//! another reader may not share, which is how requests are smuggled; so none is made here, for requests or responses.

use super::{
    fields::is_token,
    head::{Method, Version},
    refused::BadHead,
};

/// How the end of a message body is found (RFC 9112 §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is no body: the message ends with its head.
    None,
    /// That many bytes.
    Length(u64),
    /// As many chunks as there are.
    Chunked,
    /// All that comes until the connection closes. Responses only.
    UntilClose,
}

/// How often a field was seen that may be sent once.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Seen<'a> {
    #[default]
    Never,
    Once(&'a [u8]),
    Again,
}

impl<'a> Seen<'a> {
    pub(super) fn see(&mut self, value: &'a [u8]) {
        *self = if matches!(self, Self::Never) { Self::Once(value) } else { Self::Again };
    }
}

/// What a head says about its body: its `Content-Length` and `Transfer-Encoding` fields.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Said<'a> {
    pub(super) length: Seen<'a>,
    pub(super) coding: Seen<'a>,
}

/// The framing of a request's body.
pub(super) fn of_request(said: Said<'_>, version: Version) -> Result<Framing, BadHead> {
    // §6.3 rule 7: a request without either field has no body.
    Ok(announced(said, version)?.unwrap_or(Framing::None))
}

/// The framing of the body of a response to a request of method `asked`.
pub(super) fn of_response(
    said: Said<'_>,
    version: Version,
    asked: Method,
    status: u16,
) -> Result<Framing, BadHead> {
    // Before rule 1, so that a head that frames its body twice is refused even where it has none.
    let announced = announced(said, version)?;
    match status {
        // §6.1, §6.2: a server must send neither field with these. A length of zero is sent in practice, and is harmless.
        100..200 | 204 => match announced {
            None | Some(Framing::Length(0)) => Ok(Framing::None),
            Some(_) => Err(BadHead::BodyNotAllowed),
        },
        // §6.3 rule 1: these end with their head, whatever length they name.
        304 => Ok(Framing::None),
        _ if asked == Method::Head => Ok(Framing::None),
        // §6.3 rule 2 concerns CONNECT, which is never sent.
        // §6.3 rule 8: a response without either field ends where the connection does.
        _ => Ok(announced.unwrap_or(Framing::UntilClose)),
    }
}

/// §6.3 rules 3 to 6, which requests and responses share.
fn announced(said: Said<'_>, version: Version) -> Result<Option<Framing>, BadHead> {
    match (said.coding, said.length) {
        (Seen::Never, Seen::Never) => Ok(None),
        // Rule 3: both. The RFC: "ought to be handled as an error".
        (Seen::Once(_) | Seen::Again, Seen::Once(_) | Seen::Again) => Err(BadHead::LengthAndChunked),
        // Rule 4: only `chunked`, only once. A second coding would have to be taken off before the body means anything.
        (Seen::Again, Seen::Never) => Err(BadHead::BadTransferEncoding),
        (Seen::Once(coding), Seen::Never) => match version {
            // §6.1: a 1.0 message with the field must be treated "as if the framing is faulty".
            Version::Http10 => Err(BadHead::ChunkedInHttp10),
            Version::Http11 if coding.eq_ignore_ascii_case(b"chunked") => Ok(Some(Framing::Chunked)),
            Version::Http11 => Err(BadHead::BadTransferEncoding),
        },
        // Rule 5: the RFC allows a list of equal numbers; it is the mark of a message that was tampered with.
        (Seen::Never, Seen::Again) => Err(BadHead::SeveralLengths),
        // Rule 6.
        (Seen::Never, Seen::Once(digits)) => decimal(digits).map(|bytes| Some(Framing::Length(bytes))),
    }
}

/// `1*DIGIT`, and nothing that Rust's own parser would take besides, such as a sign.
fn decimal(digits: &[u8]) -> Result<u64, BadHead> {
    if digits.is_empty() {
        return Err(BadHead::BadLength);
    }
    digits
        .iter()
        .try_fold(0u64, |number, digit| {
            let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
            number.checked_mul(10)?.checked_add(digit)
        })
        .ok_or(BadHead::BadLength)
}

/// What the `Connection` fields say about this connection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Connection {
    close: bool,
    keep_alive: bool,
    malformed: bool,
}

impl Connection {
    pub(super) fn see(&mut self, value: &[u8]) {
        // What nearly every client sends; a list of one, without the work of taking it apart.
        if value == b"keep-alive" {
            self.keep_alive = true;
            return;
        }
        for option in super::fields::list(value) {
            self.close |= option.eq_ignore_ascii_case(b"close");
            self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
            self.malformed |= !is_token(option);
        }
    }

    /// Whether another message may follow on this connection (RFC 9112 §9.3).
    pub(super) fn keeps(self, version: Version) -> Result<bool, BadHead> {
        if self.malformed {
            return Err(BadHead::BadConnection);
        }
        Ok(!self.close && (version == Version::Http11 || self.keep_alive))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said<'a>(lengths: &[&'a str], codings: &[&'a str]) -> Said<'a> {
        let mut said = Said::default();
        lengths.iter().for_each(|value| said.length.see(value.as_bytes()));
        codings.iter().for_each(|value| said.coding.see(value.as_bytes()));
        said
    }

    #[track_caller]
    fn request(lengths: &[&str], codings: &[&str], expect: Result<Framing, BadHead>) {
        assert_eq!(of_request(said(lengths, codings), Version::Http11), expect);
        // What a request may not do, a response may not do either.
        if let Err(bad) = expect {
            for (asked, status) in
                [(Method::Post, 200), (Method::Head, 200), (Method::Post, 204), (Method::Get, 304)]
            {
                assert_eq!(of_response(said(lengths, codings), Version::Http11, asked, status), Err(bad));
            }
        }
    }

    #[test]
    fn a_body_is_framed_once_or_refused() {
        request(&[], &[], Ok(Framing::None));
        request(&["0"], &[], Ok(Framing::Length(0)));
        request(&["0012"], &[], Ok(Framing::Length(12)));
        request(&["18446744073709551615"], &[], Ok(Framing::Length(u64::MAX)));
        request(&[], &["chunked"], Ok(Framing::Chunked));
        request(&[], &["Chunked"], Ok(Framing::Chunked));
        request(&["5"], &["chunked"], Err(BadHead::LengthAndChunked));
        request(&["5", "5"], &["chunked"], Err(BadHead::LengthAndChunked));
        request(&[""], &["identity"], Err(BadHead::LengthAndChunked));
        request(&["5", "5"], &[], Err(BadHead::SeveralLengths));
        request(&["5", "6"], &[], Err(BadHead::SeveralLengths));
        for odd in
            ["", "+5", "-5", "0x5", "5,5", "5, 5", "5 5", "5.0", "1e3", "1_0", "5;", "18446744073709551616"]
        {
            request(&[odd], &[], Err(BadHead::BadLength));
        }
        for odd in [
            "",
            "identity",
            "gzip",
            "gzip, chunked",
            "chunked, chunked",
            "chunked;q=1",
            "xchunked",
            "\"chunked\"",
        ] {
            request(&[], &[odd], Err(BadHead::BadTransferEncoding));
        }
        request(&[], &["chunked", "chunked"], Err(BadHead::BadTransferEncoding));
        request(&[], &["gzip", "chunked"], Err(BadHead::BadTransferEncoding));
    }

    #[test]
    fn chunked_needs_http_1_1() {
        assert_eq!(of_request(said(&[], &["chunked"]), Version::Http10), Err(BadHead::ChunkedInHttp10));
        assert_eq!(of_request(said(&["3"], &[]), Version::Http10), Ok(Framing::Length(3)));
    }

    #[track_caller]
    fn response(
        asked: Method,
        status: u16,
        lengths: &[&str],
        codings: &[&str],
        expect: Result<Framing, BadHead>,
    ) {
        assert_eq!(of_response(said(lengths, codings), Version::Http11, asked, status), expect);
    }

    #[test]
    fn a_response_ends_as_its_status_and_its_request_say() {
        response(Method::Post, 200, &[], &[], Ok(Framing::UntilClose));
        response(Method::Post, 200, &["7"], &[], Ok(Framing::Length(7)));
        response(Method::Post, 200, &[], &["chunked"], Ok(Framing::Chunked));
        response(Method::Head, 200, &["7"], &[], Ok(Framing::None));
        response(Method::Head, 200, &[], &["chunked"], Ok(Framing::None));
        response(Method::Head, 200, &[], &[], Ok(Framing::None));
        response(Method::Get, 304, &["7"], &[], Ok(Framing::None));
        for status in [100, 103, 199, 204] {
            response(Method::Post, status, &[], &[], Ok(Framing::None));
            response(Method::Post, status, &["0"], &[], Ok(Framing::None));
            response(Method::Post, status, &["7"], &[], Err(BadHead::BodyNotAllowed));
            response(Method::Head, status, &[], &["chunked"], Err(BadHead::BodyNotAllowed));
        }
        response(Method::Post, 205, &["0"], &[], Ok(Framing::Length(0)));
        response(Method::Post, 500, &[], &[], Ok(Framing::UntilClose));
    }

    #[track_caller]
    fn keeps(values: &[&str], version: Version, expect: Result<bool, BadHead>) {
        let mut connection = Connection::default();
        values.iter().for_each(|value| connection.see(value.as_bytes()));
        assert_eq!(connection.keeps(version), expect);
    }

    #[test]
    fn close_wins_and_http_1_0_must_ask_to_stay() {
        keeps(&[], Version::Http11, Ok(true));
        keeps(&[], Version::Http10, Ok(false));
        keeps(&["Keep-Alive"], Version::Http10, Ok(true));
        keeps(&["keep-alive", "upgrade, CLOSE"], Version::Http11, Ok(false));
        keeps(&["keep-alive,close"], Version::Http10, Ok(false));
        keeps(&["closed"], Version::Http11, Ok(true));
        keeps(&["Upgrade"], Version::Http11, Ok(true));
        keeps(&["", " , ,keep-alive"], Version::Http10, Ok(true));
        keeps(&["keep alive"], Version::Http11, Err(BadHead::BadConnection));
        keeps(&["close;x"], Version::Http11, Err(BadHead::BadConnection));
    }
}
