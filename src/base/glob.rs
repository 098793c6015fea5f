//! Patterns over names: `*` stands for any run of characters, nothing else is special, and a pattern covers the whole name.
//!
//! Matching takes time linear in pattern and name together, whatever the two hold, and allocates nothing: the name comes
//! from a client.

/// A pattern such as `openai/*`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Glob(Box<str>);

impl Glob {
    pub fn new(pattern: &str) -> Self {
        Self(pattern.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the whole of `name` is what the pattern says, letter for letter.
    pub fn matches(&self, name: &str) -> bool {
        let (pattern, name) = (self.0.as_bytes(), name.as_bytes());
        let Some(star) = pattern.iter().position(|byte| *byte == b'*') else { return pattern == name };
        let Some(mut rest) = name.strip_prefix(&pattern[..star]) else { return false };
        // Between two stars the first place that fits is as good as any: what follows has only more room.
        let mut parts = pattern[star + 1..].split(|byte| *byte == b'*').peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                return rest.ends_with(part);
            }
            match memchr::memmem::find(rest, part) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            }
        }
        true
    }
}

/// Whether `name` is covered by a list of patterns; an empty list covers everything.
pub fn any_or_all(patterns: &[Glob], name: &str) -> bool {
    patterns.is_empty() || patterns.iter().any(|glob| glob.matches(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, yes: &[&str], no: &[&str]) {
        let glob = Glob::new(pattern);
        for (names, expect) in [(yes, true), (no, false)] {
            for name in names {
                assert_eq!(glob.matches(name), expect, "{pattern:?} and {name:?}");
            }
        }
    }

    #[test]
    fn a_star_is_any_run_and_nothing_else_is_special() {
        check("", &[""], &["a"]);
        check("*", &["", "a", "a/b"], &[]);
        check("**", &["", "a/b"], &[]);
        check("openai/*", &["openai/", "openai/gpt-4o"], &["openai", "xopenai/a", "OpenAI/a"]);
        check("*/gpt-4o", &["a/gpt-4o", "/gpt-4o"], &["gpt-4o", "a/gpt-4o-mini"]);
        check("a*a", &["aa", "aba", "aaa"], &["a", "ab", "ba"]);
        check("a*b*c", &["abc", "a1b2c", "abbcbc"], &["ac", "acb", "abcd"]);
        check("*ab*ab*", &["abab", "xabyabz"], &["ab", "aba"]);
        check("a?[b].c", &["a?[b].c"], &["axb.c", "a?[b]xc"]);
    }

    /// A twin that tries every possibility.
    fn naive(pattern: &[u8], name: &[u8]) -> bool {
        match (pattern.split_first(), name.split_first()) {
            (None, _) => name.is_empty(),
            (Some((b'*', more)), _) => (0..=name.len()).any(|taken| naive(more, &name[taken..])),
            (Some((byte, more)), Some((first, rest))) => byte == first && naive(more, rest),
            (Some(_), None) => false,
        }
    }

    #[test]
    fn every_short_pattern_agrees_with_its_naive_twin() {
        fn words(letters: &[u8], most: usize) -> Vec<String> {
            let mut words = vec![String::new()];
            let mut from = 0;
            for _ in 0..most {
                let to = words.len();
                for index in from..to {
                    words.extend(
                        letters
                            .iter()
                            .map(|byte| format!("{}{}", words[index], char::from(*byte)))
                            .collect::<Vec<_>>(),
                    );
                }
                from = to;
            }
            words
        }
        for pattern in words(b"ab*", 5) {
            for name in words(b"ab", 5) {
                let expect = naive(pattern.as_bytes(), name.as_bytes());
                assert_eq!(Glob::new(&pattern).matches(&name), expect, "{pattern:?} and {name:?}");
            }
        }
    }

    #[test]
    fn a_pattern_made_to_be_slow_is_not() {
        let pattern = Glob::new(&"*a".repeat(60));
        assert!(!pattern.matches(&"b".repeat(256)));
        assert!(!pattern.matches(&"a".repeat(59)));
        assert!(pattern.matches(&"a".repeat(256)));
    }

    #[test]
    fn no_pattern_at_all_covers_everything() {
        assert!(any_or_all(&[], "x"));
        assert!(!any_or_all(&[Glob::new("y")], "x"));
        assert!(any_or_all(&[Glob::new("y"), Glob::new("x*")], "x"));
    }
}
