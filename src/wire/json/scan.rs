//! Proves that bytes are exactly one strict JSON document (RFC 8259) of bounded depth, before anything else reads them.
//!
//! Iterative: nesting is one bit a level in a `u128`, so no input can overflow the stack. Linear: no byte is looked at more
//! than a fixed number of times, and numbers are checked for syntax, never converted. Resumable: [`Scan`] judges a body
//! read by read, so that the last read of a long one is as cheap as the first.

use smallvec::SmallVec;

use super::text::{self, Read};
use crate::base::{
    limits::{JSON_DEPTH_MAX, JSON_KEYS_MAX},
    span::Span,
};

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

/// The text of `bytes`, if that is exactly one JSON document with nothing but white space around it.
pub fn document(bytes: &[u8]) -> Result<&str, Flaw> {
    if bytes.starts_with(MARK) {
        return Err(Flaw::ByteOrderMark);
    }
    let text = simdutf8::compat::from_utf8(bytes).map_err(|e| Flaw::Utf8 { at: e.valid_up_to() })?;
    let end = space(bytes, value(bytes, 0)?);
    if end < bytes.len() {
        return Err(Flaw::Trailing { at: end });
    }
    Ok(text)
}

/// The end of the one value that starts at or after `at` (white space is skipped). Does not look at UTF-8.
pub fn value(bytes: &[u8], at: usize) -> Result<usize, Flaw> {
    let mut walk = Walk { at, ..Walk::default() };
    walk.on(bytes, |_| {})?;
    walk.ended()
}

/// The judgement of [`document`] over a body that is still coming: each read is looked at once, when it is there.
///
/// However the bytes are cut, the end is the same. It also notes where the members of the top level lie, so that nobody has
/// to walk the body again to find them.
#[derive(Debug, Default)]
pub struct Scan {
    walk: Walk,
    /// Bytes before this are UTF-8. Looked at even when there is a flaw already: this one is told before others.
    utf8: usize,
    /// Nothing after it is walked.
    flaw: Option<Flaw>,
    members: Members,
}

impl Scan {
    /// Looks at what `bytes`, the body so far, holds beyond what was seen before.
    pub fn feed(&mut self, bytes: &[u8]) {
        // What is not UTF-8, or not all there, stays where it is looked at again.
        self.utf8 += match simdutf8::compat::from_utf8(bytes.get(self.utf8..).unwrap_or_default()) {
            Ok(text) => text.len(),
            Err(error) => error.valid_up_to(),
        };
        if self.flaw.is_none() {
            let Self { walk, members, .. } = self;
            self.flaw = walk.on(bytes, |member| members.add(member)).and_then(|()| walk.only(bytes)).err();
        }
    }

    /// The members of the top level, if `bytes`, all of the body, are one document and that is an object. An array and a
    /// scalar have none.
    pub fn finish(&self, bytes: &[u8]) -> Result<&[Member], Flaw> {
        if bytes.starts_with(MARK) {
            return Err(Flaw::ByteOrderMark);
        }
        if self.utf8 < bytes.len() {
            return Err(Flaw::Utf8 { at: self.utf8 });
        }
        self.flaw.map_or_else(|| self.walk.ended().map(drop), Err)?;
        Ok(&self.members.0)
    }
}

/// A key of the top level and its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Between the quotes.
    pub key: Span,
    pub value: Span,
}

/// In their order; one more than may be, so that it is seen that there are too many.
#[derive(Debug, Default)]
struct Members(SmallVec<[Member; 16]>);

impl Members {
    fn add(&mut self, member: Member) {
        if self.0.len() <= JSON_KEYS_MAX {
            self.0.push(member);
        }
    }
}

const MARK: &[u8] = b"\xEF\xBB\xBF";

/// A walk over one value that can stop wherever the bytes do, and go on when there are more.
#[derive(Debug, Default)]
struct Walk {
    /// Bytes before this are in order and never looked at again.
    at: usize,
    due: Due,
    open: Nesting,
    /// Where the top level's latest value began, or its key while that is read.
    from: usize,
    /// The top level's latest key.
    key: Span,
}

/// What must come next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Due {
    #[default]
    Value,
    /// A value or `]`.
    Item,
    Key,
    /// A key or `}`.
    Member,
    Colon,
    /// A comma or a closing bracket.
    Comma,
    /// The rest of a string that is a key.
    KeyText,
    /// The rest of a string that is a value.
    Text,
    /// The rest of a number.
    Number(Part),
    /// No more: the value has ended.
    Nothing,
}

impl Walk {
    /// Walks as far as `bytes` go, or to the end of the value; tells the members of the top level as their values end.
    fn on(&mut self, bytes: &[u8], mut member: impl FnMut(Member)) -> Result<(), Flaw> {
        let (mut at, mut due) = (self.at, self.due);
        // What is begun and not all there stays due where it begins.
        macro_rules! stop {
            () => {{
                (self.at, self.due) = (at, due);
                return Ok(());
            }};
        }
        // In the order in which things come, so that the usual next is the next line.
        'values: loop {
            let mut ended = true;
            'value: {
                if let Due::Key | Due::Member = due {
                    at = space(bytes, at);
                    match bytes.get(at) {
                        Some(b'"') => (at, due) = (at + 1, Due::KeyText),
                        Some(b'}') if due == Due::Member => {
                            self.open.pop();
                            at += 1;
                            break 'value;
                        }
                        Some(_) => return Err(Flaw::Syntax { at }),
                        None => stop!(),
                    }
                    if self.open.depth == 1 {
                        self.from = at;
                    }
                }
                if due == Due::KeyText {
                    match text::read(bytes, at)? {
                        Read::Ended(end) => (at, due) = (end, Due::Colon),
                        Read::More(end) => {
                            at = end;
                            stop!()
                        }
                    }
                    if self.open.depth == 1 {
                        self.key = Span::new(self.from, at - 1);
                    }
                }
                if due == Due::Colon {
                    at = space(bytes, at);
                    match bytes.get(at) {
                        Some(b':') => (at, due) = (at + 1, Due::Value),
                        Some(_) => return Err(Flaw::Syntax { at }),
                        None => stop!(),
                    }
                }
                if let Due::Value | Due::Item = due {
                    at = space(bytes, at);
                    if self.open.depth == 1 {
                        self.from = at;
                    }
                    match bytes.get(at) {
                        Some(b'"') => (at, due) = (at + 1, Due::Text),
                        Some(b'{') => {
                            self.open.push(true, at)?;
                            (at, due) = (at + 1, Due::Member);
                            continue 'values;
                        }
                        Some(b'[') => {
                            self.open.push(false, at)?;
                            (at, due) = (at + 1, Due::Item);
                            continue 'values;
                        }
                        Some(b']') if due == Due::Item => {
                            self.open.pop();
                            at += 1;
                            break 'value;
                        }
                        Some(b'-') => (at, due) = (at + 1, Due::Number(Part::Sign)),
                        Some(b'0'..=b'9') => due = Due::Number(Part::Sign),
                        Some(&first @ (b't' | b'f' | b'n')) => {
                            let Some(end) = literal(bytes, at, first)? else { stop!() };
                            at = end;
                            break 'value;
                        }
                        Some(_) => return Err(Flaw::Syntax { at }),
                        None => stop!(),
                    }
                }
                match due {
                    Due::Text => match text::read(bytes, at)? {
                        Read::Ended(end) => at = end,
                        Read::More(end) => {
                            at = end;
                            stop!()
                        }
                    },
                    Due::Number(part) => {
                        let (end, part) = number(bytes, at, part)?;
                        at = end;
                        if at == bytes.len() {
                            due = Due::Number(part);
                            stop!()
                        }
                    }
                    Due::Comma => ended = false,
                    _ => stop!(),
                }
            }
            // A value has ended: close what ends with it, until another is due.
            loop {
                if ended {
                    due = Due::Comma;
                    match self.open.depth {
                        0 => {
                            due = Due::Nothing;
                            stop!()
                        }
                        1 if self.open.in_object() => {
                            member(Member { key: self.key, value: Span::new(self.from, at) });
                        }
                        _ => {}
                    }
                }
                at = space(bytes, at);
                match (bytes.get(at), self.open.in_object()) {
                    (Some(b','), in_object) => {
                        (at, due) = (at + 1, if in_object { Due::Key } else { Due::Value });
                        break;
                    }
                    (Some(b'}'), true) | (Some(b']'), false) => {
                        self.open.pop();
                        at += 1;
                        ended = true;
                    }
                    (Some(_), _) => return Err(Flaw::Syntax { at }),
                    (None, _) => stop!(),
                }
            }
        }
    }

    /// Where the value ends, if it has: a number may end with the bytes.
    fn ended(&self) -> Result<usize, Flaw> {
        match self.due {
            Due::Nothing => Ok(self.at),
            Due::Number(part) if self.open.depth == 0 && part.is_whole() => Ok(self.at),
            _ => Err(Flaw::Syntax { at: self.at }),
        }
    }

    /// Refuses what follows the value.
    fn only(&mut self, bytes: &[u8]) -> Result<(), Flaw> {
        if self.due == Due::Nothing {
            self.at = space(bytes, self.at);
            if self.at < bytes.len() {
                return Err(Flaw::Trailing { at: self.at });
            }
        }
        Ok(())
    }
}

/// Which of the open brackets are braces: the innermost is bit 0.
#[derive(Debug, Default)]
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

/// How far into a number the bytes went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// At its beginning or behind its minus: a digit is due.
    Sign,
    /// Behind the zero that is all of its integer.
    Zero,
    Integer,
    /// Behind the point: a digit is due.
    Point,
    Fraction,
    /// Behind the `e`: a sign or a digit is due.
    Exponent,
    /// Behind the exponent's sign: a digit is due.
    ExponentSign,
    ExponentDigits,
}

impl Part {
    /// May the number end here?
    fn is_whole(self) -> bool {
        matches!(self, Self::Zero | Self::Integer | Self::Fraction | Self::ExponentDigits)
    }
}

/// To the end of a number or of the bytes.
fn number(bytes: &[u8], mut at: usize, mut part: Part) -> Result<(usize, Part), Flaw> {
    loop {
        let Some(&byte) = bytes.get(at) else { return Ok((at, part)) };
        part = match (part, byte) {
            (Part::Sign, b'0') => Part::Zero,
            (Part::Sign, b'1'..=b'9') => Part::Integer,
            (Part::Zero | Part::Integer, b'.') => Part::Point,
            (Part::Point, b'0'..=b'9') => Part::Fraction,
            (Part::Zero | Part::Integer | Part::Fraction, b'e' | b'E') => Part::Exponent,
            (Part::Exponent, b'+' | b'-') => Part::ExponentSign,
            (Part::Exponent | Part::ExponentSign, b'0'..=b'9') => Part::ExponentDigits,
            (Part::Integer | Part::Fraction | Part::ExponentDigits, b'0'..=b'9') => part,
            _ if part.is_whole() => return Ok((at, part)),
            _ => return Err(Flaw::Syntax { at }),
        };
        at += 1;
        if let Part::Integer | Part::Fraction | Part::ExponentDigits = part {
            while let Some(b'0'..=b'9') = bytes.get(at) {
                at += 1;
            }
        }
    }
}

/// The end of the literal that starts with `first`; `None` if it is not all there.
fn literal(bytes: &[u8], at: usize, first: u8) -> Result<Option<usize>, Flaw> {
    let word: &[u8] = match first {
        b't' => b"true",
        b'f' => b"false",
        _ => b"null",
    };
    let rest = &bytes[at..];
    match rest.get(..word.len()) {
        Some(found) if found == word => Ok(Some(at + word.len())),
        None if word.starts_with(rest) => Ok(None),
        _ => Err(Flaw::Syntax { at }),
    }
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
    let whole = document(data).map(drop);
    let (first, half) = (data.first().map_or(1, |&b| usize::from(b)), data.len() / 2);
    for cuts in [&[][..], &[half], &[half, half + 1], &[half.min(first % 7), half]] {
        let mut scan = Scan::default();
        for &cut in cuts {
            scan.feed(&data[..cut.min(data.len())]);
        }
        scan.feed(data);
        let members = scan.finish(data);
        assert_eq!(members.map(drop), whole);
        for member in members.unwrap_or_default() {
            assert_eq!(value(data, member.value.range().start), Ok(member.value.range().end));
        }
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

    type Shown<'a> = Vec<(&'a [u8], &'a [u8])>;

    /// The keys and values of the top level, or the flaw, of a body that comes in these pieces.
    fn piecewise<'a>(body: &'a [u8], cuts: &[usize]) -> Result<Shown<'a>, Flaw> {
        let mut scan = Scan::default();
        for &cut in cuts.iter().chain([&body.len()]) {
            scan.feed(&body[..cut]);
        }
        let shown = |member: &Member| (member.key.of(body), member.value.of(body));
        scan.finish(body).map(|members| members.iter().map(shown).collect())
    }

    #[test]
    fn the_members_of_the_top_level_are_noted() {
        let body = br#" { "a" : [1,{"a":2}] ,"\u0062":-1.5e3, "c":"x\"}", "d":{} , "" : null,"e":0 } "#;
        let expect: [(&[u8], &[u8]); 6] = [
            (b"a", br#"[1,{"a":2}]"#),
            (br"\u0062", b"-1.5e3"),
            (b"c", br#""x\"}""#),
            (b"d", b"{}"),
            (b"", b"null"),
            (b"e", b"0"),
        ];
        assert_eq!(piecewise(body, &[]), Ok(expect.to_vec()));
        for none in ["{}", "[]", r#"[{"a":1},2]"#, "1", r#""a""#] {
            assert_eq!(piecewise(none.as_bytes(), &[]), Ok(Vec::new()), "{none}");
        }
    }

    #[test]
    fn cut_anywhere_the_judgement_and_the_members_are_the_same() {
        let dense = format!(r#"{{"a":"{}","b":1}}"#, r#"\n\"\u00e9x\ud83d\ude00"#.repeat(8));
        for body in [
            r#" { "a" : [1.5e-7, "x\u00e9\ud83d\ude00é😀", true, null], "b":{"c":false},"d":-0 } "#,
            &dense,
            "-12.5E+3",
            "tru",
            "truf",
            r#"{"a":1}x"#,
            r#"{"a":1,}"#,
            r#"{"a":"\ud83d\u0041"}"#,
            r#"{"a":"\u12"}"#,
            "{\"a\":\"\u{1}\"}",
            "1.e5",
            "[1,",
            "\u{FEFF}{}",
        ] {
            let body = body.as_bytes();
            for damaged in [body.to_vec(), [body, b"\xFF"].concat(), [body, b"\xE2\x82"].concat()] {
                let whole = piecewise(&damaged, &[]);
                assert_eq!(whole.as_ref().err(), document(&damaged).as_ref().err());
                for cut in 0..=damaged.len() {
                    assert_eq!(piecewise(&damaged, &[cut]), whole, "cut at {cut}");
                    assert_eq!(piecewise(&damaged, &[cut / 2, cut]), whole, "cut at {} and {cut}", cut / 2);
                }
                assert_eq!(piecewise(&damaged, &(0..damaged.len()).collect::<Vec<_>>()), whole);
            }
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
