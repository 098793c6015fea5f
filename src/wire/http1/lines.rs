//! From the tokeniser's slices to places in the head, and from its errors to reasons.

use std::mem::MaybeUninit;

use httparse::Header;

use super::{
    fields::{self, Field, Fields},
    framing::{Connection, Said, Seen},
    known::Known,
    refused::BadHead,
};
use crate::base::{limits::HEAD_FIELDS_CEILING, span::Span};

/// Room for the fields of a head on the stack; only what is parsed is written.
pub(super) const fn slots<'a>() -> [MaybeUninit<Header<'a>>; HEAD_FIELDS_CEILING] {
    [const { MaybeUninit::uninit() }; HEAD_FIELDS_CEILING]
}

/// The fields that decide what a message is.
#[derive(Default)]
pub(super) struct Noted<'a> {
    pub(super) host: Seen<'a>,
    pub(super) expect: Seen<'a>,
    pub(super) connection: Connection,
    pub(super) said: Said<'a>,
}

impl<'a> Noted<'a> {
    fn note(&mut self, known: Known, value: &'a [u8]) {
        match known {
            Known::Host => self.host.see(value),
            Known::Expect => self.expect.see(value),
            Known::Connection => self.connection.see(value),
            Known::ContentLength => self.said.length.see(value),
            Known::TransferEncoding => self.said.coding.see(value),
            _ => {}
        }
    }
}

/// The fields as places in `head`, and what those of them say that decide.
pub(super) fn read<'a>(head: &[u8], headers: &[Header<'a>]) -> (Noted<'a>, Fields) {
    let mut noted = Noted::default();
    let fields = headers.iter().map(|Header { name, value }| {
        let known = Known::of(name.as_bytes());
        noted.note(known, value);
        Field { name: span(head, name.as_bytes()), value: span(head, value), known }
    });
    let fields = fields.collect();
    (noted, fields)
}

/// Where `part`, a slice of `head`, lies in it.
pub(super) fn span(head: &[u8], part: &[u8]) -> Span {
    let start = (part.as_ptr() as usize).wrapping_sub(head.as_ptr() as usize);
    debug_assert!(start + part.len() <= head.len(), "the tokeniser answers with parts of what it was given");
    Span::new(start, start + part.len())
}

/// The head that the tokeniser found, if it begins at once and each of its lines ends in CRLF.
///
/// The tokeniser skips empty lines in front and takes LF for CRLF, but it takes neither within a name or a value: so what
/// stands before each name, and at the end, tells.
pub(super) fn sound<'a>(
    bytes: &'a [u8],
    parsed: httparse::Result<usize>,
    headers: &[Header<'_>],
) -> Result<&'a [u8], BadHead> {
    let end = match parsed {
        Ok(httparse::Status::Complete(end)) => end,
        Ok(httparse::Status::Partial) => return Err(BadHead::BareLf),
        Err(error) => return Err(diagnose(bytes, error)),
    };
    let head = bytes.get(..end).unwrap_or_default();
    if matches!(head.first(), Some(b'\r' | b'\n')) {
        return Err(BadHead::LeadingEmptyLine);
    }
    let follows_crlf = |header: &Header<'_>| {
        let start = span(head, header.name.as_bytes()).range().start;
        start.checked_sub(2).and_then(|before| head.get(before..start)) == Some(b"\r\n")
    };
    if head.ends_with(b"\r\n\r\n") && headers.iter().all(follows_crlf) {
        Ok(head)
    } else {
        Err(BadHead::BareLf)
    }
}

/// The tokeniser's error, told more precisely.
#[cold]
fn diagnose(head: &[u8], error: httparse::Error) -> BadHead {
    if memchr::memchr_iter(b'\r', head).any(|cr| head.get(cr + 1) != Some(&b'\n')) {
        return BadHead::BareCr;
    }
    match error {
        httparse::Error::TooManyHeaders => BadHead::TooManyFields,
        httparse::Error::Version | httparse::Error::NewLine => BadHead::BadVersion,
        httparse::Error::Status => BadHead::BadStatus,
        httparse::Error::HeaderValue => BadHead::BadValue,
        httparse::Error::Token => {
            let method = head.split(|byte| *byte == b' ').next().unwrap_or_default();
            if fields::is_token(method) { BadHead::BadTarget } else { BadHead::BadMethod }
        }
        httparse::Error::HeaderName => {
            head.split(|byte| *byte == b'\n').skip(1).find_map(bad_name).unwrap_or(BadHead::BadName)
        }
    }
}

/// What is wrong with the name on this line, if anything is.
fn bad_name(line: &[u8]) -> Option<BadHead> {
    if matches!(line, b"" | b"\r") {
        return None;
    }
    let length = line.iter().take_while(|byte| fields::is_tchar(**byte)).count();
    match (length, line.get(length)) {
        (0, Some(b' ' | b'\t')) => Some(BadHead::ObsFold),
        (0, Some(b':')) => Some(BadHead::EmptyName),
        (0, _) => Some(BadHead::BadName),
        (_, Some(b':')) => None,
        (_, Some(b' ' | b'\t')) => {
            let after = fields::trim(line.get(length..).unwrap_or_default());
            Some(if after.first() == Some(&b':') { BadHead::SpaceBeforeColon } else { BadHead::BadName })
        }
        (_, _) => Some(BadHead::BadName),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_blamed_for_what_is_wrong_with_its_name() {
        for (line, expect) in [
            ("a: b\r", None),
            ("a:\r", None),
            ("\r", None),
            ("", None),
            (": b\r", Some(BadHead::EmptyName)),
            (" a: b\r", Some(BadHead::ObsFold)),
            ("\ta\r", Some(BadHead::ObsFold)),
            ("a \t: b\r", Some(BadHead::SpaceBeforeColon)),
            ("a b: c\r", Some(BadHead::BadName)),
            ("a \r", Some(BadHead::BadName)),
            ("a\r", Some(BadHead::BadName)),
            ("(a): b\r", Some(BadHead::BadName)),
        ] {
            assert_eq!(bad_name(line.as_bytes()), expect, "{line:?}");
        }
    }
}
