//! An operator's own patterns: regular expressions that are matched in linear time, whatever they are and whatever the text is.
//!
//! A match is at most [`MASK_MATCH_BYTES_MAX`] bytes long; what goes on matching is masked piece by piece.

use regex_automata::{
    Anchored, Input,
    meta::{BuildError, Config, Regex},
};

use super::Find;
use crate::base::limits::{MASK_MATCH_BYTES_MAX, MASK_PATTERN_MEMORY_MAX};

/// Patterns, compiled once.
#[derive(Debug, Default)]
pub struct Patterns(Option<Regex>);

/// A pattern that cannot be used.
#[derive(Debug)]
pub struct BadPattern {
    /// Which of them; `None`: all together are too large.
    pub index: Option<usize>,
    /// Why, in the words of its compiler.
    pub why: String,
}

impl Patterns {
    /// # Errors
    /// One is no regular expression, or they need more memory than they may.
    pub fn new(patterns: &[&str]) -> Result<Self, BadPattern> {
        if patterns.is_empty() {
            return Ok(Self::default());
        }
        let config = Config::new()
            .nfa_size_limit(Some(MASK_PATTERN_MEMORY_MAX))
            .onepass_size_limit(Some(MASK_PATTERN_MEMORY_MAX))
            .hybrid_cache_capacity(2 * MASK_PATTERN_MEMORY_MAX);
        let built = Regex::builder().configure(config).build_many(patterns);
        built.map(|regex| Self(Some(regex))).map_err(|error: BuildError| BadPattern {
            index: error.pattern().map(|pattern| pattern.as_usize()),
            why: error.syntax_error().map_or_else(|| error.to_string(), ToString::to_string),
        })
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Whether one of them matches anywhere.
    pub(super) fn are_in(&self, text: &[u8]) -> bool {
        self.0.as_ref().is_some_and(|regex| regex.is_match(text))
    }

    /// For one text that grows at its end only.
    pub(super) fn search(&self) -> Search<'_> {
        Search { regex: self.0.as_ref(), next: None }
    }
}

/// Remembers where the next match can begin, so that a text without any is walked once.
pub(super) struct Search<'p> {
    regex: Option<&'p Regex>,
    /// No match begins before this place; `None`: it has not been looked for.
    next: Option<usize>,
}

impl Search<'_> {
    pub(super) fn find(&mut self, text: &[u8], at: usize) -> Option<Find> {
        let regex = self.regex?;
        if self.next.is_none_or(|next| next < at) {
            let found = regex.find(Input::new(text).span(at..text.len()));
            self.next = Some(found.map_or(text.len(), |found| found.start()));
        }
        if self.next != Some(at) {
            return None;
        }
        // The bytes around the span are seen by what looks around: `\b` is right at both ends.
        let span = at..text.len().min(at + MASK_MATCH_BYTES_MAX);
        let found = regex.find(Input::new(text).span(span).anchored(Anchored::Yes))?;
        (!found.is_empty()).then(|| Find::whole(found.len(), "[masked]"))
    }
}
