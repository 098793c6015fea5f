//! What a request is addressed to: its target, and the host it names.
//!
//! A path that comes out of here has one reading: after decoding it once it has no empty, `.` or `..` segment and no
//! control byte, and where it is cut into segments does not depend on whether one decodes first.

use std::{net::Ipv6Addr, ops::Range};

use super::{head::Method, refused::BadHead};
use crate::base::limits::HOST_BYTES_MAX;

/// The parts of a target, as ranges of the target.
#[derive(Debug)]
pub(super) struct Target {
    /// Path and query. What is left out of an absolute target is its scheme and its authority.
    pub(super) whole: Range<usize>,
    pub(super) path: Range<usize>,
    /// Without its question mark.
    pub(super) query: Range<usize>,
    /// Of an absolute target; it takes the place of `Host` (RFC 9112 §3.2.2).
    pub(super) authority: Option<Range<usize>>,
}

/// Model names have slashes, and the SDKs send them encoded (`openai%2Fgpt-4o`). Only here is that legal.
const NAMES_BELOW: &[u8] = b"/v1/models/";

/// Takes a request target apart (RFC 9112 §3.2).
pub(super) fn parse(target: &[u8], method: Method) -> Result<Target, BadHead> {
    if target.first() == Some(&b'/') {
        return from(target, 0, None);
    }
    if target == b"*" && method == Method::Options {
        return Ok(Target { whole: 0..1, path: 0..1, query: 1..1, authority: None });
    }
    // What is neither a path nor absolute is authority-form, which belongs to CONNECT, or nothing at all.
    let start = ["http://", "https://"]
        .into_iter()
        .find(|scheme| target.get(..scheme.len()).is_some_and(|s| s.eq_ignore_ascii_case(scheme.as_bytes())))
        .ok_or(BadHead::BadTarget)?
        .len();
    let rest = target.get(start..).unwrap_or_default();
    let end = start + rest.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#')).unwrap_or(rest.len());
    if !is_host(&target[start..end]) {
        return Err(BadHead::BadHost);
    }
    match target.get(end) {
        Some(b'/') => from(target, end, Some(start..end)),
        // An empty path means `/`, and the scheme has one to point at.
        None => {
            let slash = start - 1..start;
            Ok(Target { whole: slash.clone(), path: slash, query: end..end, authority: Some(start..end) })
        }
        Some(_) => Err(BadHead::BadTarget),
    }
}

/// Path and query, from `start` on, where there is a slash.
fn from(target: &[u8], start: usize, authority: Option<Range<usize>>) -> Result<Target, BadHead> {
    let end = target.len();
    let mark = start + check_path(&target[start..])?;
    let query = (mark + 1).min(end)..end;
    check_query(&target[query.clone()])?;
    Ok(Target { whole: start..end, path: start..mark, query, authority })
}

/// The length of the path, which begins with a slash and ends at a question mark or with `path`.
fn check_path(path: &[u8]) -> Result<usize, BadHead> {
    let names_from = if path.starts_with(NAMES_BELOW) { NAMES_BELOW.len() } else { usize::MAX };
    // Where the segment began that `at` is in. Only dots as such can be all that it is: hidden ones are refused.
    let (mut segment, mut at) = (1, 1);
    let is_dots = |segment: &[u8]| matches!(segment, b"." | b"..");
    loop {
        let rest = path.get(at..).unwrap_or_default();
        at += rest.iter().position(|byte| !is_pchar(*byte)).unwrap_or(rest.len());
        let width = match path.get(at) {
            None | Some(b'?') => break,
            Some(b'/') => 1,
            Some(b'%') if decoded(path, at)? != b'/' => {
                at += 3;
                continue;
            }
            // An encoded slash ends a segment too: whoever decodes it will see it so.
            Some(b'%') if at >= names_from => 3,
            Some(b'%' | b'\\') => return Err(BadHead::BadPath),
            Some(_) => return Err(BadHead::BadTarget),
        };
        if segment == at || is_dots(&path[segment..at]) {
            return Err(BadHead::BadPath);
        }
        at += width;
        segment = at;
    }
    if is_dots(&path[segment..at]) { Err(BadHead::BadPath) } else { Ok(at) }
}

/// What the percent at `at` stands for, unless that is something which must not be hidden.
fn decoded(path: &[u8], at: usize) -> Result<u8, BadHead> {
    let hex =
        |at: usize| path.get(at).and_then(|digit| char::from(*digit).to_digit(16)).ok_or(BadHead::BadTarget);
    let byte = u8::try_from(hex(at + 1)? * 16 + hex(at + 2)?).unwrap_or(0);
    if byte < b' ' || matches!(byte, b'.' | b'\\' | 0x7f) { Err(BadHead::BadPath) } else { Ok(byte) }
}

/// Visible ASCII, so that it can be written on as it is. Brackets and the like are not in RFC 3986 but are sent.
fn check_query(query: &[u8]) -> Result<(), BadHead> {
    for (at, &byte) in query.iter().enumerate() {
        let hex = |at: usize| query.get(at).is_some_and(u8::is_ascii_hexdigit);
        let good = match byte {
            b'%' => hex(at + 1) && hex(at + 2),
            b'#' => false,
            _ => byte.is_ascii_graphic(),
        };
        if !good {
            return Err(BadHead::BadTarget);
        }
    }
    Ok(())
}

/// `host [ ":" port ]` of RFC 3986 §3.2, without user information. A colon is followed by a port here.
pub(super) fn is_host(text: &[u8]) -> bool {
    if let Some(rest) = text.strip_prefix(b"[") {
        let Some(end) = rest.iter().position(|byte| *byte == b']') else { return false };
        let address = std::str::from_utf8(&rest[..end]).unwrap_or_default();
        let after = &rest[end + 1..];
        return address.parse::<Ipv6Addr>().is_ok()
            && (after.is_empty() || after.strip_prefix(b":").is_some_and(is_port));
    }
    let name = text.iter().position(|byte| !is_reg_name_byte(*byte)).unwrap_or(text.len());
    let after = &text[name..];
    (1..=HOST_BYTES_MAX).contains(&name)
        && (after.is_empty() || after.strip_prefix(b":").is_some_and(is_port))
}

fn is_port(text: &[u8]) -> bool {
    let digit = |port, byte: &u8| byte.is_ascii_digit().then(|| port * 10 + u32::from(byte - b'0'));
    (1..=5).contains(&text.len())
        && text.iter().try_fold(0, digit).is_some_and(|port| port <= u32::from(u16::MAX))
}

/// Unreserved and sub-delims of RFC 3986. Its percent-encoding is left out: no name that resolves has any.
fn is_reg_name_byte(byte: u8) -> bool {
    CLASSES[usize::from(byte)] & REG_NAME != 0
}

/// `pchar` of RFC 3986 without percent-encoding.
fn is_pchar(byte: u8) -> bool {
    CLASSES[usize::from(byte)] & PCHAR != 0
}

const REG_NAME: u8 = 1;
const PCHAR: u8 = 2;

static CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = 0u8;
    while byte < 0x7f {
        classes[byte as usize] = match byte {
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'.' | b'_' | b'~' => REG_NAME | PCHAR,
            b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' => REG_NAME | PCHAR,
            b':' | b'@' => PCHAR,
            _ => 0,
        };
        byte += 1;
    }
    classes
};

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expect: Result<(&str, &str, &str), BadHead>) {
        let target = text.as_bytes();
        let parts = parse(target, Method::Get).map(|parts| {
            let authority = parts.authority.map_or("", |range| &text[range]);
            assert!(text[parts.whole.clone()].starts_with(&text[parts.path.clone()]));
            (&text[parts.path], &text[parts.query], authority)
        });
        assert_eq!(parts, expect, "{text}");
    }

    #[test]
    fn a_target_is_a_path_or_is_reduced_to_one() {
        check("/", Ok(("/", "", "")));
        check("/v1/chat/completions", Ok(("/v1/chat/completions", "", "")));
        check("/v1/models?limit=2&a[]=%20", Ok(("/v1/models", "limit=2&a[]=%20", "")));
        check("/v1/models?", Ok(("/v1/models", "", "")));
        check("/a?b?c", Ok(("/a", "b?c", "")));
        check("http://h:80/a?b", Ok(("/a", "b", "h:80")));
        check("HTTPS://[::1]/", Ok(("/", "", "[::1]")));
        check("http://h", Ok(("/", "", "h")));
        check("http://h?b", Err(BadHead::BadTarget));
        check("http://u@h/", Err(BadHead::BadHost));
        check("http:///a", Err(BadHead::BadHost));
        check("http://h#f", Err(BadHead::BadTarget));
        check("ftp://h/", Err(BadHead::BadTarget));
        check("h:80", Err(BadHead::BadTarget));
        check("*", Err(BadHead::BadTarget));
        check("", Err(BadHead::BadTarget));
        assert!(parse(b"*", Method::Options).is_ok());
    }

    #[test]
    fn a_path_has_one_reading() {
        for good in [
            "/a.b/c..d/...",
            "/a/",
            "/%20%C3%A9",
            "/a:b@c",
            "/v1/models/a%2Fb",
            "/v1/models/a%2fb%2Fc",
            "/%252e",
        ] {
            check(good, Ok((good, "", "")));
        }
        for bad in [
            "//a",
            "/a//b",
            "/.",
            "/..",
            "/./a",
            "/a/../b",
            "/a/..",
            "/a\\b",
            "/%2e",
            "/%2E%2e/",
            "/a%5cb",
            "/a%00",
            "/a%0d%0ab",
            "/a%7F",
            "/a%2fb",
            "/v1/models%2Fa",
            "/v1/chat%2Fcompletions",
            "/v1/models/%2Fa",
            "/v1/models/a%2F%2Fb",
            "/v1/models/a%2F/b",
            "/v1/models/..%2Fchat",
            "/v1/models/a%2F..",
            "/v1/models/a%2F.%2Fb",
        ] {
            check(bad, Err(BadHead::BadPath));
        }
        for bad in [
            "/a b", "/a#b", "/a%", "/a%2", "/a%zz", "/a%+1", "/a\"", "/a<", "/{", "/a|b", "/a^", "/a`", "/é",
            "/\u{7f}",
        ] {
            check(bad, Err(BadHead::BadTarget));
        }
        for bad in ["/?#", "/?a b", "/?%", "/?%2", "/?%g0", "/?é", "/?\t"] {
            check(bad, Err(BadHead::BadTarget));
        }
    }

    #[test]
    fn a_host_is_a_name_or_an_address_and_perhaps_a_port() {
        for good in [
            "a",
            "a.b-c_d",
            "127.0.0.1",
            "127.0.0.1:8080",
            "[::1]",
            "[::1]:0",
            "[2001:db8::7]:65535",
            "a:1",
            "a,b",
        ] {
            assert!(is_host(good.as_bytes()), "{good}");
        }
        for bad in [
            "",
            ":",
            ":80",
            "a:",
            "a:b",
            "a:65536",
            "a:123456",
            "a:+1",
            "a:1:2",
            "::1",
            "[::1",
            "[]",
            "[::1]x",
            "[::1]:",
            "[fe80::1%25lo]",
            "[v1.x]",
            "[127.0.0.1]",
            "a b",
            "a/b",
            "a@b",
            "a?b",
            "a#b",
            "a\\b",
            "a%41",
            "é",
            "a\tb",
            "localhost:4000/#@x",
            "http://a",
        ] {
            assert!(!is_host(bad.as_bytes()), "{bad}");
        }
        assert!(is_host(&[b'a'; HOST_BYTES_MAX]) && !is_host(&[b'a'; HOST_BYTES_MAX + 1]));
    }
}
