//! What may be kept of a body: masked, and fit to be shown.
//!
//! A body is read as JSON, whole or cut, well formed or not: each string is masked as it reads when its escapes are taken away,
//! so that none hides what it says, and what stands between strings is masked as it stands. Of a body that was cut the end is
//! left out as far as it is not yet decided what it shows.

use crate::{
    control::access_log::is_unfit,
    wire::mask::{Masker, Rules},
};

/// JSON inside a string is read as such, and what is in its strings, so many times over: a tool's arguments, and what a model
/// quotes in them.
const NESTED_MAX: u32 = 3;

/// A body as it may be kept.
pub(super) fn veiled(rules: &Rules, body: &[u8], is_whole: bool) -> String {
    nested(rules, body, is_whole, 0)
}

fn nested(rules: &Rules, body: &[u8], is_whole: bool, depth: u32) -> String {
    let mut out = String::with_capacity(body.len());
    let mut at = 0;
    while let Some(rest) = body.get(at..).filter(|rest| !rest.is_empty()) {
        if rest[0] != b'"' {
            let run = &rest[..memchr::memchr(b'"', rest).unwrap_or(rest.len())];
            at += run.len();
            let is_last = at == body.len();
            between(rules, run, is_whole || !is_last, &mut out);
            continue;
        }
        match string_end(rest) {
            Some(end) => {
                string(rules, &rest[1..end], true, depth, &mut out);
                out.push('"');
                at += end + 1;
            }
            None => {
                string(rules, &rest[1..], is_whole, depth, &mut out);
                break;
            }
        }
    }
    if rules.patterns.is_empty() {
        return out;
    }
    // An operator's pattern may look at a member's name and value together.
    text(masked(rules, out.as_bytes(), is_whole))
}

/// Cuts a text to so many bytes, between two characters.
pub(super) fn cut(text: &mut String, bytes_max: usize) {
    text.truncate(text.floor_char_boundary(bytes_max));
}

/// What stands between two strings: punctuation and numbers, if the body is JSON.
fn between(rules: &Rules, run: &[u8], is_decided: bool, out: &mut String) {
    // Nothing that is masked is shorter.
    let shown = if run.len() < 3 && rules.patterns.is_empty() {
        run.to_vec()
    } else {
        masked(rules, run, is_decided)
    };
    let shown = text(shown);
    if shown.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        out.push_str(&shown);
        return;
    }
    let is_space = |c: char| matches!(c, '\n' | '\r' | '\t');
    out.extend(shown.chars().map(|c| if is_unfit(c) && !is_space(c) { '\u{fffd}' } else { c }));
}

/// A string's opening quote and its inside.
fn string(rules: &Rules, inside: &[u8], is_decided: bool, depth: u32, out: &mut String) {
    let shown = if !inside.contains(&b'\\') {
        masked(rules, inside, is_decided)
    } else {
        let plain = unescape(inside);
        if !plain.contains('\\') {
            masked(rules, plain.as_bytes(), is_decided)
        } else if is_decided && depth < NESTED_MAX && is_json(&plain) {
            nested(rules, plain.as_bytes(), true, depth + 1).into_bytes()
        } else {
            // A backslash may be itself, or begin an escape of what is quoted here.
            masked(rules, &with_escapes(rules, plain.as_bytes(), is_decided), is_decided)
        }
    };
    out.push('"');
    let shown = text(shown);
    if is_plain(&shown) {
        out.push_str(&shown);
        return;
    }
    for c in shown.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if is_unfit(c) => {
                let units = c
                    .encode_utf16(&mut [0; 2])
                    .iter()
                    .map(|unit| format!("\\u{unit:04x}"))
                    .collect::<String>();
                out.push_str(&units);
            }
            c => out.push(c),
        }
    }
}

/// Whether nothing in a text has to be escaped. Looked at to the end, and not to the first that does: many bytes at a time.
fn is_plain(text: &str) -> bool {
    let is_one = |byte: u8| (b' '..=b'~').contains(&byte) & (byte != b'"') & (byte != b'\\');
    text.bytes().fold(true, |plain, byte| plain & is_one(byte))
}

/// Whether a text is a JSON object or list, all of it.
fn is_json(text: &str) -> bool {
    text.trim_start().starts_with(['{', '[']) && serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
}

/// Where the string ends that begins with these bytes: the place of its closing quote.
fn string_end(bytes: &[u8]) -> Option<usize> {
    let mut at = 1;
    loop {
        at += memchr::memchr2(b'"', b'\\', bytes.get(at..)?)?;
        if bytes[at] == b'"' {
            return Some(at);
        }
        at += 2;
    }
}

/// What a string says. An escape that is none is left as it stands, and half of a surrogate pair is no character.
fn unescape(inside: &[u8]) -> String {
    let (mut said, mut at) = (Vec::with_capacity(inside.len()), 0);
    while let Some(&byte) = inside.get(at) {
        if byte != b'\\' {
            said.push(byte);
            at += 1;
            continue;
        }
        let (byte, length) = match inside.get(at + 1) {
            Some(b'n') => (b'\n', 2),
            Some(b'r') => (b'\r', 2),
            Some(b't') => (b'\t', 2),
            Some(b'b') => (8, 2),
            Some(b'f') => (12, 2),
            Some(b'u') => match code_point(&inside[at..]) {
                Some((c, length)) => {
                    said.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                    at += length;
                    continue;
                }
                None => (b'\\', 1),
            },
            Some(&plain @ (b'"' | b'\\' | b'/')) => (plain, 2),
            _ => (b'\\', 1),
        };
        said.push(byte);
        at += length;
    }
    text(said)
}

/// The character of `\uXXXX`, or of two of them, and their length.
fn code_point(bytes: &[u8]) -> Option<(char, usize)> {
    let unit = |at: usize| {
        let digits = std::str::from_utf8(bytes.get(at..at + 6)?.strip_prefix(b"\\u")?).ok()?;
        let is_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        u16::from_str_radix(digits, 16).ok().filter(|_| is_hex)
    };
    let first = unit(0)?;
    let pair = unit(6).filter(|_| (0xd800..0xdc00).contains(&first));
    let mut read = char::decode_utf16([Some(first), pair].into_iter().flatten());
    match read.next()? {
        Ok(c) => Some((c, if pair.is_some() { 12 } else { 6 })),
        Err(_) => Some((char::REPLACEMENT_CHARACTER, 6)),
    }
}

/// Masks a text; without its end where that is not decided.
fn masked(rules: &Rules, bytes: &[u8], is_decided: bool) -> Vec<u8> {
    run(Masker::plain(rules), bytes, is_decided)
}

/// The same of a text in which a backslash may escape.
fn with_escapes(rules: &Rules, bytes: &[u8], is_decided: bool) -> Vec<u8> {
    run(Masker::new(rules), bytes, is_decided)
}

fn run(mut masker: Masker<'_>, bytes: &[u8], is_decided: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    masker.push(bytes, &mut out);
    if is_decided {
        masker.finish(&mut out);
    }
    out
}

/// Bytes as text. What is none is shown as such.
fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::mask::Patterns;

    fn rules(patterns: &[&str]) -> Rules {
        let patterns = Patterns::new(patterns).expect("they are good");
        Rules { email: true, card: true, patterns, ..Rules::default() }
    }

    #[track_caller]
    fn check(body: &str, expect: &str) {
        assert_eq!(veiled(&rules(&[]), body.as_bytes(), true), expect);
    }

    #[test]
    fn json_stays_as_it_is_but_for_what_is_masked() {
        check("", "");
        check(r#"{"a": [1, -2.5e9, true], "b":"c" }"#, r#"{"a": [1, -2.5e9, true], "b":"c" }"#);
        check(r#"{"a":"mail a@b.cd, sk-12345678"}"#, r#"{"a":"mail [email], [key]"}"#);
        check(r#"{"a":4111111111111111}"#, r#"{"a":[card]}"#);
        check(r#"{"a":"say \"hi\" \\ \/ \n"}"#, r#"{"a":"say \"hi\" \\ / \n"}"#);
        check("{\"a\":\"世界\"}", "{\"a\":\"世界\"}");
    }

    #[test]
    fn no_escape_hides_what_a_string_says() {
        check(r#"{"a":"a\u0040b.cd"}"#, r#"{"a":"[email]"}"#);
        check(
            r#"["C:\\sk-12345678 \\u00 sk-12345678 \\\nsk-12345678"]"#,
            r#"["C:\\[key] \\u00 [key] \\\n[key]"]"#,
        );
        check(r#"["\u0073k-\u00312345678"]"#, r#"["[key]"]"#);
        check(r#"["411111\u003111111\u0031111"]"#, r#"["[card]"]"#);
        check(r#"["\ud83d\ude00 \ud83d \u12 \q"]"#, "[\"😀 \u{fffd} \\\\u12 \\\\q\"]");
    }

    #[test]
    fn json_inside_a_string_hides_nothing_either() {
        check(
            r#"{"arguments":"{\"to\":\"a\\u0040b.cd\",\"n\":1}"}"#,
            r#"{"arguments":"{\"to\":\"[email]\",\"n\":1}"}"#,
        );
        check(r#"["[\"x\\nsk-12345678\"]"]"#, r#"["[\"x\\n[key]\"]"]"#);
        check(r#"["cut: \"x\\nsk-12345678"]"#, r#"["cut: \"x\\n[key]"]"#);
        let mut deep = "a@b.cd".to_owned();
        for _ in 0..6 {
            deep = serde_json::to_string(&[&deep]).expect("text");
        }
        assert!(veiled(&rules(&[]), deep.as_bytes(), true).contains("[email]"));
    }

    #[test]
    fn what_is_no_json_is_masked_and_fit_to_be_shown_all_the_same() {
        check("Bearer abcdefgh12345", "Bearer [key]");
        check("\u{1b}[2J\u{202e} a@b.cd\nx", "\u{fffd}[2J\u{fffd} [email]\nx");
        check("{\"a\": \"no end sk-12345678", "{\"a\": \"no end [key]");
        check("{\"a\\", "{\"a\\\\");
        assert_eq!(veiled(&rules(&[]), b"\xff\"\xfe\"", true), "\u{fffd}\"\u{fffd}\"");
    }

    #[test]
    fn a_pattern_may_span_a_name_and_its_value() {
        let rules = rules(&[r#""secret":\s*"[a-z]+""#]);
        assert_eq!(veiled(&rules, br#"{"secret": "abc","a":1}"#, true), r#"{[masked],"a":1}"#);
    }

    #[test]
    fn wherever_a_body_is_cut_nothing_shows_that_the_whole_would_hide() {
        let body =
            r#"{"m":[{"c":"write to someone@example.com or sk-abcdefghijklmnop now"},{"d":"x\u0040y.zz"}]}"#;
        for cut in 0..body.len() {
            let shown = veiled(&rules(&[]), &body.as_bytes()[..cut], false);
            for part in ["some", "example", "sk-", "abcdef", "y.z"] {
                assert!(!shown.contains(part), "{shown}");
            }
        }
        let long = format!("{{\"c\":\"{}", "word ".repeat(1_000));
        let shown = veiled(&rules(&[]), long.as_bytes(), false);
        assert!(shown.len() > long.len() - 400 && shown.len() < long.len(), "{}", shown.len());
    }

    #[test]
    fn a_text_is_cut_between_two_characters() {
        let mut text = "aé".to_owned();
        cut(&mut text, 2);
        assert_eq!(text, "a");
        cut(&mut text, 9);
        assert_eq!(text, "a");
    }

    #[test]
    fn any_bytes_become_a_text_without_keys() {
        let mut chance = 7_u64;
        for _ in 0..5_000 {
            let mut bytes = Vec::new();
            for _ in 0..chance % 60 {
                chance ^= chance << 13;
                chance ^= chance >> 7;
                chance ^= chance << 17;
                let pieces: [&[u8]; 8] =
                    [b"\"", b"\\", b"\\u00", b"sk-12345678", b"a@b.cd", b"\xd8", b"{", b" "];
                bytes.extend_from_slice(pieces[usize::try_from(chance % 8).expect("small")]);
            }
            for is_whole in [true, false] {
                let shown = veiled(&rules(&[]), &bytes, is_whole);
                assert!(!shown.contains(" sk-1234"), "{shown}");
            }
            chance = chance.wrapping_add(1);
        }
    }
}
