//! Header fields as places in the head they were read from, and how to look them up.
//!
//! A field's name is a token and its value holds no control byte but HTAB: nothing else gets out of the parser.

use std::ops::Deref;

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

/// Fields in the order they were sent, and which of the known ones are among them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fields {
    /// On the heap at once: a head is handed on several times, and fifteen fields, which is what the SDKs send, are a third
    /// of a kilobyte.
    list: Vec<Field>,
    /// A bit for each. Most fields that are asked for were not sent, and that is all there is to know of them.
    present: u64,
}

impl Fields {
    /// The first field that is this one.
    pub fn get(&self, known: Known) -> Option<&Field> {
        if self.present & known.bit() == 0 {
            return None;
        }
        self.list.iter().find(|field| field.known == known)
    }

    /// What the first field says that is this one. `bytes` is what the fields were read from.
    pub fn known<'b>(&self, bytes: &'b [u8], known: Known) -> Option<&'b [u8]> {
        self.get(known).map(|field| field.value.of(bytes))
    }

    /// The same for a field of which a second would let two readers disagree.
    pub fn only<'b>(&self, bytes: &'b [u8], known: Known) -> Result<Option<&'b [u8]>, Repeated> {
        let Some(first) = self.get(known) else { return Ok(None) };
        let several = self.list.iter().filter(|field| field.known == known).nth(1).is_some();
        if several { Err(Repeated) } else { Ok(Some(first.value.of(bytes))) }
    }
}

impl FromIterator<Field> for Fields {
    fn from_iter<I: IntoIterator<Item = Field>>(fields: I) -> Self {
        let list: Vec<Field> = fields.into_iter().collect();
        let present = list.iter().fold(0, |present, field| present | field.known.bit());
        Self { list, present }
    }
}

impl Deref for Fields {
    type Target = [Field];

    fn deref(&self) -> &[Field] {
        &self.list
    }
}

/// A field that may be sent once was sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repeated;

/// The first field of that name, in any letter case.
pub fn first<'b>(fields: &[Field], bytes: &'b [u8], name: &str) -> Option<&'b [u8]> {
    let mut named = fields.iter().filter(|field| {
        // The length first: it settles nearly every comparison without touching the head.
        field.name.len() == name.len() && field.name.of(bytes).eq_ignore_ascii_case(name.as_bytes())
    });
    named.next().map(|field| field.value.of(bytes))
}

/// Whether a `Connection` field names this one, which then concerns this hop alone and is not passed on.
pub fn is_for_this_hop(fields: &[Field], bytes: &[u8], name: &[u8]) -> bool {
    let options = fields.iter().filter(|field| field.known == Known::Connection);
    options.flat_map(|field| list(field.value.of(bytes))).any(|listed| listed.eq_ignore_ascii_case(name))
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

/// Whether every byte is one that a field value may hold. Eight at a time, the last eight perhaps again: most values are a
/// few words long, and each that is written is looked at.
pub(super) fn is_value(text: &[u8]) -> bool {
    text.as_chunks().0.iter().all(is_value_word)
        && match text.last_chunk() {
            Some(last) => is_value_word(last),
            None => text.iter().all(|byte| is_value_byte(*byte)),
        }
}

/// [`is_value`] of eight bytes. To take a space from a control byte, or to add one to DEL, sets a highest bit that was not
/// set. A word in which that happens is looked at byte by byte: HTAB is good, and a carry may look like DEL.
fn is_value_word(word: &[u8; 8]) -> bool {
    const fn each(byte: u8) -> u64 {
        u64::from_ne_bytes([byte; 8])
    }
    let bytes = u64::from_le_bytes(*word);
    let moved = bytes.wrapping_sub(each(b' ')) | bytes.wrapping_add(each(1));
    moved & !bytes & each(0x80) == 0 || word.iter().all(|byte| is_value_byte(*byte))
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
        std::iter::from_fn(|| {
            let (name, value) = (spans.next()?, spans.next()?);
            Some(Field { name, value, known: Known::of(name.of(BYTES)) })
        })
        .collect()
    }

    #[test]
    fn names_are_compared_whole_and_in_any_letter_case() {
        let fields = fields();
        assert_eq!(first(&fields, BYTES, "accept"), Some(&b"a"[..]));
        assert_eq!(first(&fields, BYTES, "accep"), None);
        assert_eq!(first(&fields, BYTES, "X-ID"), Some(&b"1"[..]));
    }

    #[test]
    fn a_known_field_is_found_without_its_name() {
        let fields = fields();
        assert_eq!(fields.known(BYTES, Known::Accept), Some(&b"a"[..]));
        assert_eq!(fields.known(BYTES, Known::Host), None);
    }

    #[test]
    fn a_repeated_field_is_reported() {
        let fields = fields();
        assert_eq!(fields.only(BYTES, Known::Accept), Err(Repeated));
        assert_eq!(fields.only(BYTES, Known::Connection), Ok(Some(&b"close, X-Id ,,"[..])));
        assert_eq!(fields.only(BYTES, Known::Host), Ok(None));
    }

    #[test]
    fn a_field_that_connection_names_is_for_this_hop() {
        let fields = fields();
        assert!(is_for_this_hop(&fields, BYTES, b"x-id"));
        assert!(!is_for_this_hop(&fields, BYTES, b"accept"));
    }

    #[test]
    fn a_value_is_judged_by_each_of_its_bytes_wherever_they_stand() {
        for length in 1..=25 {
            for at in 0..length {
                // Around it, what carries and borrows the most.
                for around in [b' ', b'a', b'~', 0x80, 0xff] {
                    for byte in 0..=u8::MAX {
                        let mut value = vec![around; length];
                        value[at] = byte;
                        assert_eq!(is_value(&value), is_value_byte(byte), "{byte:#x} at {at} of {length}");
                    }
                }
            }
        }
        assert!(is_value(b""));
    }

    #[test]
    fn white_space_around_a_value_is_not_part_of_it() {
        for (value, expect) in [("", ""), (" ", ""), ("\t a\tb ", "a\tb"), ("a", "a")] {
            assert_eq!(trim(value.as_bytes()), expect.as_bytes());
        }
    }
}
