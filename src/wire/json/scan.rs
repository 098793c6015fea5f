//! Proves that bytes are exactly one strict JSON document (RFC 8259) of bounded depth, before anything else reads them.
//!
//! Iterative and without allocation: nesting is one bit a level in a `u128`, so no input can overflow the stack. Linear:
//! no byte is looked at more than a fixed number of times, and numbers are checked for syntax, never converted.

use crate::base::{limits::JSON_DEPTH_MAX, span::Span};

/// Why bytes are not one strict document; `at` is the offset of the first byte that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// Starts with U+FEFF: some parsers skip it, others refuse it.
    ByteOrderMark,
    Utf8 {
        at: usize,
    },
    Syntax {
        at: usize,
    },
    /// Nested deeper than [`JSON_DEPTH_MAX`].
    Depth {
        at: usize,
    },
    /// Something but white space follows the document.
    Trailing {
        at: usize,
    },
}

/// A member of an object: where its key lies, quotes included, and its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    pub key: Span,
    pub value: Span,
}

/// The text of `bytes`, if that is exactly one JSON document with nothing but white space around it.
pub fn document(bytes: &[u8]) -> Result<&str, Flaw> {
    let Ok(text) = members(bytes, |_, _| Ok::<_, std::convert::Infallible>(()))?;
    Ok(text)
}

/// The same, and if it is an object, `each` is shown its members on the way, until it objects. A flaw anywhere in the
/// document is told before an objection.
pub fn members<'a, E>(
    bytes: &'a [u8],
    mut each: impl FnMut(&'a str, Member) -> Result<(), E>,
) -> Result<Result<&'a str, E>, Flaw> {
    if bytes.starts_with(b"\xEF\xBB\xBF") {
        return Err(Flaw::ByteOrderMark);
    }
    let text = simdutf8::compat::from_utf8(bytes).map_err(|e| Flaw::Utf8 { at: e.valid_up_to() })?;
    let mut verdict = Ok(text);
    let show = |member| {
        if verdict.is_ok()
            && let Err(objection) = each(text, member)
        {
            verdict = Err(objection);
        }
    };
    let end = space(bytes, walk(bytes, 0, show)?);
    if end < bytes.len() {
        return Err(Flaw::Trailing { at: end });
    }
    Ok(verdict)
}

/// The end of the one value that starts at or after `at` (white space is skipped). Does not look at UTF-8.
pub fn value(bytes: &[u8], at: usize) -> Result<usize, Flaw> {
    walk(bytes, at, |_| {})
}

fn walk(bytes: &[u8], mut at: usize, mut each: impl FnMut(Member)) -> Result<usize, Flaw> {
    let mut open = Nesting::default();
    // Of the outermost object: the key read last, and where its value begins.
    let (mut outer_key, mut outer_value) = (Span::default(), 0);
    loop {
        at = space(bytes, at);
        if open.depth == 1 {
            outer_value = at;
        }
        match bytes.get(at) {
            Some(b'"') => at = string(bytes, at + 1)?,
            Some(b'{') => {
                open.push(true, at)?;
                at = space(bytes, at + 1);
                if bytes.get(at) != Some(&b'}') {
                    let name = key(bytes, at)?;
                    if open.depth == 1 {
                        outer_key = name;
                    }
                    at = colon(bytes, name)?;
                    continue;
                }
                open.pop();
                at += 1;
            }
            Some(b'[') => {
                open.push(false, at)?;
                at = space(bytes, at + 1);
                if bytes.get(at) != Some(&b']') {
                    continue;
                }
                open.pop();
                at += 1;
            }
            Some(b'-' | b'0'..=b'9') => at = number(bytes, at)?,
            Some(b't') => at = literal(bytes, at, b"true")?,
            Some(b'f') => at = literal(bytes, at, b"false")?,
            Some(b'n') => at = literal(bytes, at, b"null")?,
            _ => return Err(Flaw::Syntax { at }),
        }
        // A value has ended: close what ends with it, until another value is due.
        loop {
            match (open.depth, open.in_object()) {
                (0, _) => return Ok(at),
                (1, true) => each(Member { key: outer_key, value: Span::new(outer_value, at) }),
                _ => {}
            }
            at = space(bytes, at);
            match (bytes.get(at), open.in_object()) {
                (Some(b','), true) => {
                    let name = key(bytes, space(bytes, at + 1))?;
                    if open.depth == 1 {
                        outer_key = name;
                    }
                    at = colon(bytes, name)?;
                    break;
                }
                (Some(b','), false) => {
                    at += 1;
                    break;
                }
                (Some(b'}'), true) | (Some(b']'), false) => {
                    open.pop();
                    at += 1;
                }
                _ => return Err(Flaw::Syntax { at }),
            }
        }
    }
}

/// Which of the open brackets are braces: the innermost is bit 0.
#[derive(Default)]
struct Nesting {
    braces: u128,
    depth: usize,
}

const _: () = assert!(JSON_DEPTH_MAX <= u128::BITS as usize);

impl Nesting {
    fn push(&mut self, brace: bool, at: usize) -> Result<(), Flaw> {
        if self.depth == JSON_DEPTH_MAX {
            return Err(Flaw::Depth { at });
        }
        self.depth += 1;
        self.braces = self.braces << 1 | u128::from(brace);
        Ok(())
    }

    fn pop(&mut self) {
        self.depth -= 1;
        self.braces >>= 1;
    }

    fn in_object(&self) -> bool {
        self.braces & 1 == 1
    }
}

fn space(bytes: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\t' | b'\n' | b'\r') = bytes.get(at) {
        at += 1;
    }
    at
}

/// The key at `at`, quotes included.
fn key(bytes: &[u8], at: usize) -> Result<Span, Flaw> {
    if bytes.get(at) != Some(&b'"') {
        return Err(Flaw::Syntax { at });
    }
    Ok(Span::new(at, string(bytes, at + 1)?))
}

/// Just after the colon that follows a key.
fn colon(bytes: &[u8], key: Span) -> Result<usize, Flaw> {
    let at = space(bytes, key.range().end);
    if bytes.get(at) != Some(&b':') {
        return Err(Flaw::Syntax { at });
    }
    Ok(at + 1)
}

/// From just after the opening quote to just after the closing one.
fn string(bytes: &[u8], mut at: usize) -> Result<usize, Flaw> {
    loop {
        at = plain(bytes, at);
        match bytes.get(at) {
            Some(b'"') => return Ok(at + 1),
            Some(b'\\') => at = escape(bytes, at)?,
            _ => return Err(Flaw::Syntax { at }),
        }
    }
}

fn escape(bytes: &[u8], at: usize) -> Result<usize, Flaw> {
    match bytes.get(at + 1) {
        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(at + 2),
        Some(b'u') => match unit(bytes, at)? {
            // A surrogate counts only as half of a pair: parsers disagree on what a lone one means.
            0xD800..=0xDBFF => match unit(bytes, at + 6) {
                Ok(0xDC00..=0xDFFF) => Ok(at + 12),
                _ => Err(Flaw::Syntax { at }),
            },
            0xDC00..=0xDFFF => Err(Flaw::Syntax { at }),
            _ => Ok(at + 6),
        },
        _ => Err(Flaw::Syntax { at }),
    }
}

/// The UTF-16 unit of the `\uXXXX` at `at`.
fn unit(bytes: &[u8], at: usize) -> Result<u32, Flaw> {
    let Some([b'\\', b'u', digits @ ..]) = bytes.get(at..at + 6) else {
        return Err(Flaw::Syntax { at });
    };
    digits.iter().try_fold(0, |unit, &digit| {
        char::from(digit).to_digit(16).map(|value| unit << 4 | value).ok_or(Flaw::Syntax { at })
    })
}

fn number(bytes: &[u8], at: usize) -> Result<usize, Flaw> {
    let mut at = at + usize::from(bytes.get(at) == Some(&b'-'));
    at = match bytes.get(at) {
        Some(b'0') => at + 1,
        _ => digits(bytes, at)?,
    };
    if bytes.get(at) == Some(&b'.') {
        at = digits(bytes, at + 1)?;
    }
    if let Some(b'e' | b'E') = bytes.get(at) {
        at += 1 + usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
        at = digits(bytes, at)?;
    }
    Ok(at)
}

/// At least one digit.
fn digits(bytes: &[u8], from: usize) -> Result<usize, Flaw> {
    let mut at = from;
    while let Some(b'0'..=b'9') = bytes.get(at) {
        at += 1;
    }
    if at == from { Err(Flaw::Syntax { at }) } else { Ok(at) }
}

fn literal(bytes: &[u8], at: usize, word: &[u8]) -> Result<usize, Flaw> {
    match bytes.get(at..at + word.len()) {
        Some(found) if found == word => Ok(at + word.len()),
        _ => Err(Flaw::Syntax { at }),
    }
}

const WORD: usize = size_of::<u64>();
/// Bytes looked at together in a long string: the compiler turns the block's loop into vector compares.
const BLOCK: usize = 64;
/// Words tried before blocks: most keys and short values end within them.
const WORDS_FIRST: usize = 4;

/// The first offset from `at` on that holds a quote, a backslash or a control byte, or the end.
fn plain(bytes: &[u8], at: usize) -> usize {
    let mut rest = bytes.get(at..).unwrap_or_default();
    for _ in 0..WORDS_FIRST {
        let Some((word, after)) = rest.split_first_chunk::<WORD>() else { break };
        if let Some(offset) = special(word) {
            return bytes.len() - rest.len() + offset;
        }
        rest = after;
    }
    while let Some((block, after)) = rest.split_first_chunk::<BLOCK>() {
        if any_special(block) {
            break;
        }
        rest = after;
    }
    while let Some((word, after)) = rest.split_first_chunk::<WORD>() {
        if let Some(offset) = special(word) {
            return bytes.len() - rest.len() + offset;
        }
        rest = after;
    }
    let tail = rest.iter().position(|&b| b == b'"' || b == b'\\' || b < 0x20).unwrap_or(rest.len());
    bytes.len() - rest.len() + tail
}

fn any_special(block: &[u8; BLOCK]) -> bool {
    block.iter().fold(false, |found, &b| found | (b == b'"') | (b == b'\\') | (b < 0x20))
}

/// The offset of a word's first special byte. Each test sets the high bit of bytes that pass; a borrow may also set it
/// in bytes *above* the first that passes, never below, and the lowest is the one taken.
fn special(word: &[u8; WORD]) -> Option<usize> {
    const ONES: u64 = u64::from_ne_bytes([0x01; WORD]);
    const HIGHS: u64 = u64::from_ne_bytes([0x80; WORD]);
    let word = u64::from_le_bytes(*word);
    let below = |bytes: u64, bound: u8| bytes.wrapping_sub(ONES * u64::from(bound)) & !bytes & HIGHS;
    let is = |byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
    let found = below(word, 0x20) | is(b'"') | is(b'\\');
    (found != 0).then(|| found.trailing_zeros() as usize / 8)
}

/// A document ends where [`value`] says, and the scan of its own bytes says the same.
#[cfg(any(test, feature = "fuzzing"))]
pub fn fuzz_scan(data: &[u8]) {
    if let Ok(end) = value(data, 0) {
        assert!(end <= data.len());
        assert_eq!(value(&data[..end], 0), Ok(end));
    }
    if let Ok(text) = document(data) {
        assert_eq!(text.as_bytes(), data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::json::mutate;

    #[track_caller]
    fn accepts(document: impl AsRef<[u8]>) {
        let document = document.as_ref();
        assert_eq!(super::document(document).map(str::as_bytes), Ok(document));
    }

    #[track_caller]
    fn refuses(document: impl AsRef<[u8]>, flaw: Flaw) {
        assert_eq!(super::document(document.as_ref()), Err(flaw));
    }

    #[test]
    fn a_strict_document_is_accepted() {
        for document in [
            r#"{}"#,
            r#" [ ] "#,
            "\t\r\n null\n",
            r#""""#,
            r#"{"a":[1,-0,0.5,1e5,1E-5,-1.25e+3,true,false,null,"x",{"b":{}}]}"#,
            r#"["\"\\\/\b\f\n\r\t\u0041\ud83d\ude00\uFFFF"]"#,
            "\"\u{7f}\u{80}é€😀\"",
            r#"{"":0}"#,
        ] {
            accepts(document);
        }
    }

    #[test]
    fn what_is_not_strict_is_refused_where_it_goes_wrong() {
        let at = |at| Flaw::Syntax { at };
        refuses("", at(0));
        refuses("  ", at(2));
        refuses("{", at(1));
        refuses("[1,]", at(3));
        refuses("[,1]", at(1));
        refuses("[1 2]", at(3));
        refuses(r#"{"a":1,}"#, at(7));
        refuses(r#"{"a"1}"#, at(4));
        refuses(r#"{"a":}"#, at(5));
        refuses("{a:1}", at(1));
        refuses("{1:1}", at(1));
        refuses("[1}", at(2));
        refuses(r#"{"a":1]"#, at(6));
        refuses("{/**/}", at(1));
        refuses("'a'", at(0));
        refuses("NaN", at(0));
        refuses("-Infinity", at(1));
        refuses("True", at(0));
        refuses("tru", at(0));
        refuses("nulL", at(0));
        refuses("\"\u{0}\"", at(1));
        refuses("\"a\nb\"", at(2));
        refuses("\u{b}1", at(0));
        refuses("[\u{a0}1]", at(1));
    }

    #[test]
    fn a_number_is_checked_for_syntax_only() {
        for number in
            ["0", "-0", "10", "1.0", "0e0", "1e999999999", "-1E+0", "123456789012345678901234567890"]
        {
            accepts(number);
        }
        for (number, at) in
            [("-", 1), ("1.", 2), (".5", 0), ("+1", 0), ("1e", 2), ("1e+", 3), ("1.e5", 2), ("--1", 1)]
        {
            refuses(number, Flaw::Syntax { at });
        }
        for (number, at) in [("01", 1), ("-00", 2), ("0x1", 1), ("1.5.5", 3), ("1e5.5", 3), ("1_000", 1)] {
            refuses(number, Flaw::Trailing { at });
        }
    }

    #[test]
    fn surrogates_come_in_pairs() {
        accepts(r#""\uD800\uDC00\uDBFF\uDFFF""#);
        for lone in [
            r#""\uD800""#,
            r#""\uDC00""#,
            r#""\uD800x""#,
            r#""\uD800\n""#,
            r#""\uD800\uD800""#,
            r#""\uD800\u0041""#,
            r#""\uDC00\uD800""#,
            r#""\uD800\u""#,
            r#""\uD800\"#,
        ] {
            assert!(matches!(document(lone.as_bytes()), Err(Flaw::Syntax { .. })), "{lone}");
        }
    }

    #[test]
    fn escapes_are_the_eight_of_the_rfc() {
        for bad in
            [r#""\a""#, r#""\u12""#, r#""\u12G4""#, r#""\x41""#, r#""\'""#, r#""\u+123""#, r#""\"#, r#""\""#]
        {
            assert!(matches!(document(bad.as_bytes()), Err(Flaw::Syntax { .. })), "{bad}");
        }
    }

    #[test]
    fn utf_8_is_valid_and_unmarked() {
        refuses(b"\xEF\xBB\xBF{}", Flaw::ByteOrderMark);
        refuses(b"\"\xFF\"", Flaw::Utf8 { at: 1 });
        refuses(b"[\"\xC0\xAF\"]", Flaw::Utf8 { at: 2 });
        refuses(b"\"\xED\xA0\x80\"", Flaw::Utf8 { at: 1 });
        refuses(b"\"\xE2\x82\"", Flaw::Utf8 { at: 1 });
        refuses(b"\"\xF4\x90\x80\x80\"", Flaw::Utf8 { at: 1 });
        refuses(b"[\0\"\0\xE9\0\"\0]\0", Flaw::Utf8 { at: 4 });
    }

    #[test]
    fn there_is_exactly_one_document() {
        accepts("{} \r\n\t");
        refuses("{}{}", Flaw::Trailing { at: 2 });
        refuses("{} x", Flaw::Trailing { at: 3 });
        refuses("1\0", Flaw::Trailing { at: 1 });
        refuses("[]]", Flaw::Trailing { at: 2 });
    }

    #[test]
    fn depth_128_is_accepted_and_129_is_refused() {
        let nested = |depth: usize| ["[".repeat(depth), "]".repeat(depth)].concat();
        accepts(nested(JSON_DEPTH_MAX));
        refuses(nested(JSON_DEPTH_MAX + 1), Flaw::Depth { at: JSON_DEPTH_MAX });
        let mixed = |depth: usize| [r#"{"a":["#.repeat(depth / 2), "]}".repeat(depth / 2)].concat();
        accepts(mixed(JSON_DEPTH_MAX));
        refuses(mixed(JSON_DEPTH_MAX + 2), Flaw::Depth { at: JSON_DEPTH_MAX / 2 * 6 });
    }

    #[test]
    fn any_number_of_opening_brackets_is_refused_without_using_the_stack() {
        for count in [20_000, 1_000_000] {
            refuses("[".repeat(count), Flaw::Depth { at: JSON_DEPTH_MAX });
            refuses(r#"{"a":"#.repeat(count), Flaw::Depth { at: JSON_DEPTH_MAX * 5 });
        }
    }

    #[test]
    fn a_number_of_a_million_digits_is_one_value() {
        let long = "7".repeat(1_000_000);
        accepts(&long);
        accepts(format!("-{long}.{long}e-{long}"));
        refuses(format!("{long}."), Flaw::Syntax { at: 1_000_001 });
    }

    #[test]
    fn a_special_byte_is_found_at_every_offset_of_a_long_string() {
        for length in 0..200 {
            for (byte, flaw) in [(b'"', None), (0x1F, Some(())), (0x00, Some(()))] {
                for neighbour in [b'a', 0x20, 0x21, 0x23, 0x5B, 0x5D, 0x7F] {
                    let mut document = vec![b'"'];
                    document.resize(1 + length, neighbour);
                    document.push(byte);
                    match flaw {
                        None => accepts(&document),
                        Some(()) => refuses(&document, Flaw::Syntax { at: length + 1 }),
                    }
                }
            }
        }
    }

    #[test]
    fn a_document_cut_anywhere_is_refused() {
        let whole = br#"{"a":[1.5e-7,"x\u00e9\ud83d\ude00",true,null,{"b":false}],"c":"d"}"#;
        accepts(whole);
        for cut in 0..whole.len() {
            assert!(document(&whole[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn mutated_bytes_never_panic_and_are_accepted_only_with_serde_json() {
        let seeds: [&[u8]; 4] = [
            br#"{"a":[1.5e-7,"x\u00e9\ud83d\ude00",true,null,{"b":false}],"c":"d"}"#,
            br#"[[],{},"",0,-1,"\\\"\/\b\f\n\r\t"]"#,
            "{\"text\":\"ünïcödé 漢字 😀 and a longer run of plain text, so that blocks are used as well, not only words\"}".as_bytes(),
            b" { \"k\" : [ 1 , 2 ] } ",
        ];
        mutate::each(&seeds, 6_000, |data| {
            fuzz_scan(data);
            let twin = serde_json::from_slice::<serde_json::Value>(data);
            match (document(data), twin) {
                (Ok(_), Err(e)) => assert!(e.to_string().contains("out of range"), "{e}: {data:?}"),
                (Err(flaw), Ok(_)) => panic!("serde_json accepts {data:?}, refused here: {flaw:?}"),
                _ => {}
            }
        });
    }
}
