//! Patterns over names: `*` stands for any run of characters, everything else for itself.

/// A pattern. Matching takes time linear in the name for each `*`, whatever both say.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Glob(Box<str>);

impl Glob {
    pub fn new(pattern: &str) -> Self {
        Self(pattern.into())
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn matches(&self, name: &str) -> bool {
        let Some((start, rest)) = self.0.split_once('*') else { return *self.0 == *name };
        let Some(mut name) = name.strip_prefix(start) else { return false };
        let (middle, end) = rest.rsplit_once('*').unwrap_or(("", rest));
        // The first place where a part fits leaves the most room for those behind it.
        for part in middle.split('*') {
            let Some(at) = name.find(part) else { return false };
            name = &name[at + part.len()..];
        }
        name.ends_with(end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, yes: &[&str], no: &[&str]) {
        let glob = Glob::new(pattern);
        for name in yes {
            assert!(glob.matches(name), "{pattern} {name}");
        }
        for name in no {
            assert!(!glob.matches(name), "{pattern} {name}");
        }
    }

    #[test]
    fn a_star_is_any_run_and_the_rest_is_itself() {
        check("openai/*", &["openai/", "openai/gpt-4o"], &["openai", "Openai/x", "xopenai/x"]);
        check("*", &["", "a"], &[]);
        check("", &[""], &["a"]);
        check("a", &["a"], &["", "aa", "A"]);
        check("*/gpt-*", &["openai/gpt-4o", "/gpt-"], &["openai/o1", "gpt-4"]);
        check("a*a", &["aa", "aba"], &["a"]);
        check("ab*bc", &["abbc", "abxbc"], &["abc"]);
        check("a**b", &["ab", "axb"], &["a"]);
        check("a.c[d]?", &["a.c[d]?"], &["abcd", "axcd1"]);
    }

    #[test]
    fn it_agrees_with_the_plain_definition() {
        fn naive(pattern: &[u8], name: &[u8]) -> bool {
            match pattern.split_first() {
                None => name.is_empty(),
                Some((b'*', rest)) => (0..=name.len()).any(|skip| naive(rest, &name[skip..])),
                Some((byte, rest)) => name.first() == Some(byte) && naive(rest, &name[1..]),
            }
        }
        let words = |letters: &[char], most: u32| {
            let count = letters.len();
            (0..=most)
                .flat_map(move |length| {
                    (0..count.pow(length)).map(move |mut number| {
                        (0..length).map(|_| (number % count, number /= count).0).collect::<Vec<_>>()
                    })
                })
                .map(|word| word.into_iter().map(|index| letters[index]).collect::<String>())
                .collect::<Vec<_>>()
        };
        for pattern in words(&['a', 'b', '*'], 5) {
            let glob = Glob::new(&pattern);
            for name in words(&['a', 'b'], 5) {
                assert_eq!(
                    glob.matches(&name),
                    naive(pattern.as_bytes(), name.as_bytes()),
                    "{pattern} {name}"
                );
            }
        }
    }
}
