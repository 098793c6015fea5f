//! Header fields as places in the head they were read from, and how to look them up.
//!
//! A field's name is a token and its value holds no control byte but HTAB: nothing else gets out of the parser.

use super::known::Known;
use crate::base::span::Span;

/// One header field. The value has no white space around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    pub name: Span,
    pub value: Span,
    /// Which field the name says it is.
    pub known: Known,
}

/// Fields in the order they were sent. On the heap at once: a head is handed on several times, and fifteen fields, which
/// is what the SDKs send, are a third of a kilobyte.
pub type Fields = Vec<Field>;

/// A field that may be sent once was sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repeated;

/// The first field that is this one.
pub fn known<'b>(fields: &[Field], bytes: &'b [u8], known: Known) -> Option<&'b [u8]> {
    fields.iter().find(|field| field.known == known).map(|field| field.value.of(bytes))
}

/// The first field of that name, in any letter case.
pub fn first<'b>(fields: &[Field], bytes: &'b [u8], name: &str) -> Option<&'b [u8]> {
    every(fields, bytes, name).next()
}

/// The only field of that name, for those where a second would let two readers disagree.
pub fn only<'b>(fields: &[Field], bytes: &'b [u8], name: &str) -> Result<Option<&'b [u8]>, Repeated> {
    let mut found = every(fields, bytes, name);
    let first = found.next();
    if found.next().is_some() { Err(Repeated) } else { Ok(first) }
}

/// The values of all fields of that name, in order.
pub fn every<'b>(fields: &[Field], bytes: &'b [u8], name: &str) -> impl Iterator<Item = &'b [u8]> {
    fields
        .iter()
        .filter(move |field| {
            // The length first: it settles nearly every comparison without touching the head.
            field.name.len() == name.len() && field.name.of(bytes).eq_ignore_ascii_case(name.as_bytes())
        })
        .map(|field| field.value.of(bytes))
}

/// Whether a `Connection` field names this one, which then concerns this hop alone and is not passed on.
pub fn is_for_this_hop(fields: &[Field], bytes: &[u8], name: &[u8]) -> bool {
    every(fields, bytes, "connection").flat_map(list).any(|listed| listed.eq_ignore_ascii_case(name))
}

/// The elements of a comma-separated list without the white space around them. Empty ones are skipped, as RFC 9110
/// §5.6.1.2 wants.
pub fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(trim).filter(|element| !element.is_empty())
}

/// Without the spaces and tabs around it.
pub(super) fn trim(value: &[u8]) -> &[u8] {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let Some(start) = value.iter().position(|byte| !blank(byte)) else { return b"" };
    let end = value.iter().rposition(|byte| !blank(byte)).map_or(start, |last| last + 1);
    &value[start..end]
}

/// `token` of RFC 9110 §5.6.2.
pub(super) fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|byte| is_tchar(*byte))
}

/// `tchar` of RFC 9110 §5.6.2.
pub(super) const fn is_tchar(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z')
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

/// A byte that a field value may hold: HTAB, SP, VCHAR and obs-text of RFC 9110 §5.5.
pub(super) const fn is_value_byte(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: &[u8] = b"Accept|a|x-id|1|ACCEPT|b|connection|close, X-Id ,,|accepts|c";

    fn fields() -> Fields {
        let mut at = 0;
        let mut spans = BYTES.split(|byte| *byte == b'|').map(|part| {
            let span = Span::new(at, at + part.len());
            at += part.len() + 1;
            span
        });
        let mut fields = Fields::new();
        while let (Some(name), Some(value)) = (spans.next(), spans.next()) {
            fields.push(Field { name, value, known: Known::of(name.of(BYTES)) });
        }
        fields
    }

    #[test]
    fn names_are_compared_whole_and_in_any_letter_case() {
        let fields = fields();
        assert_eq!(first(&fields, BYTES, "accept"), Some(&b"a"[..]));
        assert_eq!(first(&fields, BYTES, "accep"), None);
        assert_eq!(every(&fields, BYTES, "Accept").collect::<Vec<_>>(), [b"a", b"b"]);
    }

    #[test]
    fn a_known_field_is_found_without_its_name() {
        let fields = fields();
        assert_eq!(known(&fields, BYTES, Known::Accept), Some(&b"a"[..]));
        assert_eq!(known(&fields, BYTES, Known::Host), None);
    }

    #[test]
    fn a_repeated_field_is_reported() {
        let fields = fields();
        assert_eq!(only(&fields, BYTES, "accept"), Err(Repeated));
        assert_eq!(only(&fields, BYTES, "X-ID"), Ok(Some(&b"1"[..])));
        assert_eq!(only(&fields, BYTES, "none"), Ok(None));
    }

    #[test]
    fn a_field_that_connection_names_is_for_this_hop() {
        let fields = fields();
        assert!(is_for_this_hop(&fields, BYTES, b"x-id"));
        assert!(!is_for_this_hop(&fields, BYTES, b"accept"));
    }

    #[test]
    fn white_space_around_a_value_is_not_part_of_it() {
        for (value, expect) in [("", ""), (" ", ""), ("\t a\tb ", "a\tb"), ("a", "a")] {
            assert_eq!(trim(value.as_bytes()), expect.as_bytes());
        }
    }
}
