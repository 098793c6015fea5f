//! The members of an answer that are looked at, found in one search for all of their names.
//!
//! It is a search, not a parser: a name can't match inside of a string, where quotes are escaped, but it may be a whole
//! string or stand at any depth. A hit only means that there is something worth a look.

use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, MatchKind, packed};

use super::endpoint::Endpoint;

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

impl Member {
    fn name(self) -> &'static str {
        match self {
            Self::Usage => "\"usage\"",
            Self::Error => "\"error\"",
            Self::FinishReason => "\"finish_reason\"",
            Self::Index => "\"index\"",
            Self::Content => "content\"",
            Self::Arguments => "\"arguments\"",
            Self::Text => "\"text\"",
            Self::Delta => "\"delta\"",
            Self::ResponseKind => "\"response.",
        }
    }
}

/// One search for some members. Each name that is looked for and never of use would be a hit in every event.
struct Search {
    members: &'static [Member],
    /// With SIMD, where the processor has it. Asked for by name: left to choose, the crate looks for quotes, which are all over.
    packed: Option<packed::Searcher>,
    /// Where it has not.
    automaton: Option<AhoCorasick>,
}

impl Search {
    fn of(members: &'static [Member]) -> Self {
        let packed = packed::Searcher::new(members.iter().map(|member| member.name()));
        let automaton = packed.is_none().then(|| Self::automaton(members)).flatten();
        Self { members, packed, automaton }
    }

    fn automaton(members: &[Member]) -> Option<AhoCorasick> {
        let names = members.iter().map(|member| member.name());
        let automaton = AhoCorasick::builder().match_kind(MatchKind::LeftmostFirst).build(names);
        debug_assert!(automaton.is_ok(), "a few short names make a small automaton");
        automaton.ok()
    }
}

static CHAT: LazyLock<Search> = LazyLock::new(|| {
    use Member::{Arguments, Content, Error, FinishReason, Usage};
    Search::of(&[Usage, Error, FinishReason, Content, Arguments])
});
static COMPLETIONS: LazyLock<Search> = LazyLock::new(|| {
    use Member::{Error, FinishReason, Index, Text, Usage};
    Search::of(&[Usage, Error, FinishReason, Index, Text])
});
static RESPONSES: LazyLock<Search> = LazyLock::new(|| {
    use Member::{Arguments, Delta, Error, ResponseKind, Text, Usage};
    Search::of(&[Usage, Error, Text, Arguments, Delta, ResponseKind])
});
static OTHERS: LazyLock<Search> = LazyLock::new(|| Search::of(&[Member::Usage, Member::Error]));

/// Every name in `json` that says something in an answer of this endpoint, in order, with what follows it.
pub fn of(endpoint: Endpoint, json: &[u8]) -> impl Iterator<Item = (Member, &[u8])> {
    let search = match endpoint {
        Endpoint::ChatCompletions => &*CHAT,
        Endpoint::Completions => &*COMPLETIONS,
        Endpoint::Responses => &*RESPONSES,
        _ => &*OTHERS,
    };
    let packed = search.packed.as_ref().map(|packed| packed.find_iter(json));
    let automaton = search.automaton.as_ref().map(|automaton| automaton.find_iter(json));
    packed.into_iter().flatten().chain(automaton.into_iter().flatten()).filter_map(|hit| {
        let member = search.members.get(hit.pattern().as_usize())?;
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
    fn check(endpoint: Endpoint, json: &str, expect: &[(Member, &str)]) {
        let found: Vec<_> =
            of(endpoint, json.as_bytes()).map(|(member, after)| (member, value(after))).collect();
        let expect: Vec<_> = expect.iter().map(|(member, value)| (*member, Some(value.as_bytes()))).collect();
        assert_eq!(found, expect, "{json}");
    }

    #[test]
    fn every_name_is_found_where_it_stands() {
        use Endpoint::{ChatCompletions, Completions, Embeddings, Responses};
        use Member::{Arguments, Content, Delta, Error, FinishReason, Index, Text, Usage};
        check(ChatCompletions, "{}", &[]);
        check(ChatCompletions, r#"{"usage":1}"#, &[(Usage, "1}")]);
        check(Embeddings, "{\"error\" :\n \"x\"}", &[(Error, "\"x\"}")]);
        check(ChatCompletions, r#"{"reasoning_content":"a"}"#, &[(Content, "\"a\"}")]);
        let choice = r#"{"index":0,"delta":{"content":"a"},"finish_reason":null}"#;
        check(
            ChatCompletions,
            choice,
            &[(Content, r#""a"},"finish_reason":null}"#), (FinishReason, "null}")],
        );
        check(
            Completions,
            choice,
            &[(Index, r#"0,"delta":{"content":"a"},"finish_reason":null}"#), (FinishReason, "null}")],
        );
        check(Responses, choice, &[(Delta, r#"{"content":"a"},"finish_reason":null}"#)]);
        check(
            Responses,
            r#"{"text":"","arguments":""}"#,
            &[(Text, r#""","arguments":""}"#), (Arguments, r#"""}"#)],
        );
    }

    #[test]
    fn inside_of_a_string_there_is_no_name() {
        check(Endpoint::ChatCompletions, r#"{"a":"say \"usage\": 1, \"content\": 2"}"#, &[]);
    }

    #[test]
    fn a_string_that_reads_like_a_name_is_no_member() {
        let json = br#"{"type":"error","a":["usage"]}"#;
        let found: Vec<_> =
            of(Endpoint::Responses, json).map(|(member, after)| (member, value(after))).collect();
        assert_eq!(found, [(Member::Error, None), (Member::Usage, None)]);
    }

    #[test]
    fn without_simd_the_same_is_found() {
        let json =
            br#"{"usage":{"content":"a"},"error":[],"finish_reason":"x","arguments":"{}","content":null}"#;
        let automaton = Search::automaton(CHAT.members).expect("a small automaton");
        let plain: Vec<_> =
            automaton.find_iter(json).map(|hit| CHAT.members[hit.pattern().as_usize()]).collect();
        let found: Vec<_> = of(Endpoint::ChatCompletions, json).map(|(member, _)| member).collect();
        assert_eq!((found.len(), &found), (6, &plain));
    }

    #[test]
    fn a_name_is_found_at_every_place() {
        for (endpoint, search) in [
            (Endpoint::ChatCompletions, &*CHAT),
            (Endpoint::Completions, &*COMPLETIONS),
            (Endpoint::Responses, &*RESPONSES),
            (Endpoint::Embeddings, &*OTHERS),
        ] {
            for member in search.members {
                for before in 0..70 {
                    let json =
                        format!("{}{}:7{}", "x".repeat(before), member.name(), "y".repeat(70 - before));
                    let found: Vec<_> = of(endpoint, json.as_bytes()).map(|(member, _)| member).collect();
                    assert_eq!(found, [*member], "{json}");
                }
            }
        }
    }
}
