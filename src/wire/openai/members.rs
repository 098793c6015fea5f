//! The members of an answer that are looked at, found in one search for all of their names.
//!
//! It is a search, not a parser: a name can't match inside of a string, where quotes are escaped, but it may be a whole
//! string or stand at any depth. A hit only means that there is something worth a look.

use std::sync::LazyLock;

use aho_corasick::AhoCorasick;

/// What a hit is a name of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Member {
    Usage,
    Error,
    FinishReason,
    Index,
    /// Also what ends so, such as `reasoning_content`.
    Content,
    Arguments,
    Text,
    Delta,
    /// No member, but how the kinds of events of the Responses API begin.
    ResponseKind,
}

const NAMES: [(&str, Member); 9] = [
    ("\"usage\"", Member::Usage),
    ("\"error\"", Member::Error),
    ("\"finish_reason\"", Member::FinishReason),
    ("\"index\"", Member::Index),
    ("content\"", Member::Content),
    ("\"arguments\"", Member::Arguments),
    ("\"text\"", Member::Text),
    ("\"delta\"", Member::Delta),
    ("\"response.", Member::ResponseKind),
];

static SEARCH: LazyLock<Option<AhoCorasick>> = LazyLock::new(|| {
    let search = AhoCorasick::new(NAMES.map(|(name, _)| name));
    debug_assert!(search.is_ok(), "nine short names make a small automaton");
    search.ok()
});

/// Every name in `json`, in order, with what follows it.
pub fn of(json: &[u8]) -> impl Iterator<Item = (Member, &[u8])> {
    let found = SEARCH.as_ref().map(|search| search.find_iter(json));
    found.into_iter().flatten().filter_map(|hit| {
        let (_, member) = NAMES.get(hit.pattern().as_usize())?;
        Some((*member, json.get(hit.end()..)?))
    })
}

/// The value that begins behind a member's name; `None` where it was no member's name.
pub fn value(after: &[u8]) -> Option<&[u8]> {
    Some(after.trim_ascii_start().strip_prefix(b":")?.trim_ascii_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(json: &str, expect: &[(Member, &str)]) {
        let found: Vec<_> = of(json.as_bytes()).map(|(member, after)| (member, value(after))).collect();
        let expect: Vec<_> = expect.iter().map(|(member, value)| (*member, Some(value.as_bytes()))).collect();
        assert_eq!(found, expect, "{json}");
    }

    #[test]
    fn every_name_is_found_where_it_stands() {
        use Member::*;
        check("{}", &[]);
        check(r#"{"usage":1}"#, &[(Usage, "1}")]);
        check("{\"error\" :\n \"x\"}", &[(Error, "\"x\"}")]);
        check(r#"{"reasoning_content":"a"}"#, &[(Content, "\"a\"}")]);
        check(
            r#"{"index":0,"delta":{"content":"a"},"finish_reason":null}"#,
            &[
                (Index, r#"0,"delta":{"content":"a"},"finish_reason":null}"#),
                (Delta, r#"{"content":"a"},"finish_reason":null}"#),
                (Content, r#""a"},"finish_reason":null}"#),
                (FinishReason, "null}"),
            ],
        );
        check(r#"{"text":"","arguments":""}"#, &[(Text, r#""","arguments":""}"#), (Arguments, r#"""}"#)]);
    }

    #[test]
    fn inside_of_a_string_there_is_no_name() {
        check(r#"{"a":"say \"usage\": 1, \"content\": 2"}"#, &[]);
    }

    #[test]
    fn a_string_that_reads_like_a_name_is_no_member() {
        let json = br#"{"type":"error","a":["usage"]}"#;
        let found: Vec<_> = of(json).map(|(member, after)| (member, value(after))).collect();
        assert_eq!(found, [(Member::Error, None), (Member::Usage, None)]);
    }

    #[test]
    fn a_naive_search_agrees_wherever_a_name_stands() {
        for (name, member) in NAMES {
            for before in 0..70 {
                let json = format!("{}{name}:7{}", "x".repeat(before), "y".repeat(70 - before));
                let found: Vec<_> = of(json.as_bytes()).map(|(member, _)| member).collect();
                assert_eq!(found, [member], "{json}");
            }
        }
    }
}
