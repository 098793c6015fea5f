//! Collects what is wrong while a file is read, and knows which values of the file may be shown.
//!
//! A string of the file is shown in an excerpt only if it was read as a setting that is not secret. So a key is never
//! shown, wherever it was put by mistake: under an unknown name, in the wrong table, behind a missing quote.

use std::{cell::RefCell, collections::HashSet, ops::Range, sync::Arc};

use toml::de::{DeTable, DeValue};

use super::{
    complaint::{Complaint, Severity},
    surroundings::Surroundings,
};

/// What was found wrong in one text so far.
pub(super) struct Report<'a> {
    pub(super) text: &'a str,
    pub(super) around: &'a dyn Surroundings,
    file: Arc<str>,
    notes: RefCell<Vec<Note>>,
    shown: RefCell<Vec<Range<usize>>>,
    secret: RefCell<Vec<Range<usize>>>,
}

struct Note {
    severity: Severity,
    span: Range<usize>,
    path: String,
    what: String,
    fix: String,
}

impl<'a> Report<'a> {
    pub(super) fn new(text: &'a str, file: &str, around: &'a dyn Surroundings) -> Self {
        Self {
            text,
            around,
            file: file.into(),
            notes: RefCell::default(),
            shown: RefCell::default(),
            secret: RefCell::default(),
        }
    }

    pub(super) fn note(&self, severity: Severity, span: Range<usize>, path: &str, what: String, fix: String) {
        let path = path.to_owned();
        self.notes.borrow_mut().push(Note { severity, span, path, what, fix });
    }

    /// The value at `span` is not secret and may stand in an excerpt.
    pub(super) fn show(&self, span: Range<usize>) {
        self.shown.borrow_mut().push(span);
    }

    /// The value at `span` is secret even if it is not a string.
    pub(super) fn hide(&self, span: Range<usize>) {
        self.secret.borrow_mut().push(span);
    }

    /// All complaints and all warnings, in the order of the file. `tree` is what the text parsed to; without it the text
    /// is not TOML, and a line is shown only if it reads like a harmless setting by itself.
    pub(super) fn finish(self, tree: Option<&DeTable<'_>>) -> (Vec<Complaint>, Vec<Complaint>) {
        let mut strings = Vec::new();
        if let Some(tree) = tree {
            leaves(tree, &mut strings);
        }
        let shown: HashSet<_> = self.shown.into_inner().into_iter().collect();
        let mut hidden: Vec<_> = strings.iter().filter(|span| !shown.contains(span)).cloned().collect();
        hidden.extend(self.secret.into_inner());
        hidden.sort_by_key(|span| span.start);

        let lines = Lines::new(self.text);
        let mut notes = self.notes.into_inner();
        notes.sort_by_key(|note| note.span.start);
        let complaints = notes.into_iter().map(|note| {
            let start = floor(self.text, note.span.start);
            let end = floor(self.text, note.span.end).max(start);
            let (line, range) = lines.at(start);
            let source = &self.text[range.clone()];
            let column = self.text[range.start..start].chars().count() + 1;
            let parts = match tree {
                Some(_) => mask(self.text, range.clone(), &strings, &hidden),
                None => guess(source, range.start),
            };
            let (excerpt, caret) = excerpt(self.text, &parts, start..end.min(range.end).max(start));
            let Note { severity, path, what, fix, .. } = note;
            Complaint { file: self.file.clone(), severity, line, column, path, what, fix, excerpt, caret }
        });
        complaints.partition(|complaint| complaint.severity == Severity::Error)
    }
}

/// The spans of all strings in `table`.
fn leaves(table: &DeTable<'_>, found: &mut Vec<Range<usize>>) {
    for value in table.values() {
        leaf(value.get_ref(), value.span(), found);
    }
}

fn leaf(value: &DeValue<'_>, span: Range<usize>, found: &mut Vec<Range<usize>>) {
    match value {
        DeValue::String(_) => found.push(span),
        DeValue::Table(table) => leaves(table, found),
        DeValue::Array(array) => array.iter().for_each(|value| leaf(value.get_ref(), value.span(), found)),
        _ => {}
    }
}

/// Where each line of a text begins.
struct Lines<'t> {
    text: &'t str,
    starts: Vec<usize>,
}

impl<'t> Lines<'t> {
    fn new(text: &'t str) -> Self {
        let after_breaks = text.bytes().enumerate().filter(|&(_, byte)| byte == b'\n').map(|(at, _)| at + 1);
        Self { text, starts: std::iter::once(0).chain(after_breaks).collect() }
    }

    /// The number of the line that holds `at`, from 1, and its range without the line break.
    fn at(&self, at: usize) -> (usize, Range<usize>) {
        let number = self.starts.partition_point(|&start| start <= at);
        let start = self.starts[number - 1];
        let end = self.starts.get(number).map_or(self.text.len(), |&next| next - 1);
        (number, start..start + self.text[start..end].trim_end_matches('\r').len())
    }
}

/// The nearest character boundary at or before `at`, inside `text`.
fn floor(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// A part of a line: as it is, or masked.
type Part = (Range<usize>, bool);

/// Cuts a line into what is shown and what is hidden. Comments are left out: they may hold an old key.
fn mask(text: &str, line: Range<usize>, strings: &[Range<usize>], hidden: &[Range<usize>]) -> Vec<Part> {
    let in_string = |at: &usize| strings.iter().any(|span| span.contains(at));
    let mut hashes = text[line.clone()].match_indices('#').map(|(at, _)| line.start + at);
    let end = hashes.find(|at| !in_string(at)).unwrap_or(line.end);
    let mut parts = Vec::new();
    let mut at = line.start;
    for span in hidden.iter().filter(|span| span.start < end && span.end > line.start) {
        let (from, to) = (span.start.max(at), span.end.min(end));
        if from < to {
            parts.push((at..from, true));
            parts.push((from..to, false));
            at = to;
        }
    }
    parts.push((at..end, true));
    parts
}

/// The same for a line of a text that could not be parsed, from its looks.
fn guess(line: &str, offset: usize) -> Vec<Part> {
    let end = offset + line.len();
    let header = |byte: u8| byte.is_ascii_lowercase() || matches!(byte, b'[' | b']' | b'_' | b'.' | b' ');
    if line.bytes().all(header) {
        return vec![(offset..end, true)];
    }
    match line.split_once('=') {
        Some((key, value)) if HARMLESS.contains(&key.trim()) && !value.contains('=') => {
            vec![(offset..end, true)]
        }
        // What stands before the first `=` might be the rest of a value of several lines.
        Some((key, _))
            if key.trim().bytes().all(|byte| byte.is_ascii_lowercase() || matches!(byte, b'_' | b'.')) =>
        {
            let value = offset + key.len() + 1;
            vec![(offset..value, true), (value..end, false)]
        }
        _ => vec![(offset..end, false)],
    }
}

/// Settings whose line may be shown even when the file is not TOML.
const HARMLESS: [&str; 18] = [
    "listen",
    "tls_listen",
    "cores",
    "backend",
    "drain_secs",
    "connections_max",
    "head_bytes",
    "head_fields",
    "body_bytes",
    "buffered_bytes",
    "head_secs",
    "idle_secs",
    "name",
    "profile",
    "inject_usage",
    "allow_private",
    "allow_http",
    "models",
];

/// Most characters of a line that are shown.
const EXCERPT_CHARS_MAX: usize = 120;

/// The line as it is shown, and where in it `span` lies, in characters.
fn excerpt(text: &str, parts: &[Part], span: Range<usize>) -> (String, Range<usize>) {
    let mut chars: Vec<char> = Vec::new();
    for (range, shown) in parts {
        match shown {
            true => chars.extend(text[range.clone()].chars().map(|c| match c {
                '\t' => '\t',
                c if c.is_control() => char::REPLACEMENT_CHARACTER,
                c => c,
            })),
            false if range.is_empty() => {}
            false => chars.extend(MASK.chars()),
        }
    }
    let from = place(text, parts, span.start, false);
    let to = place(text, parts, span.end, true).max(from + 1);
    // A very long line is cut around the place that is meant.
    let first = if chars.len() > EXCERPT_CHARS_MAX { from.saturating_sub(EXCERPT_CHARS_MAX / 3) } else { 0 };
    let excerpt: String = chars.iter().skip(first).take(EXCERPT_CHARS_MAX).collect();
    (excerpt.trim_end().to_owned(), from - first..to.min(first + EXCERPT_CHARS_MAX).max(from + 1) - first)
}

/// What stands in an excerpt instead of a value.
const MASK: &str = "\"***\"";

/// How many characters are shown before byte `at`; an end that lies in a masked part lies behind it.
fn place(text: &str, parts: &[Part], at: usize, is_end: bool) -> usize {
    let mut chars = 0;
    for (range, shown) in parts.iter().filter(|(range, _)| range.start < at) {
        let whole = at >= range.end;
        chars += match shown {
            true => text[range.start..at.min(range.end)].chars().count(),
            false if whole || is_end => MASK.len(),
            false => 0,
        };
    }
    chars
}

#[cfg(test)]
mod tests {
    use super::{super::surroundings::Fake, *};

    #[track_caller]
    fn check(
        line: &str,
        hidden: Option<Range<usize>>,
        span: Range<usize>,
        expect: &str,
        caret: Range<usize>,
    ) {
        let hidden = hidden.as_slice();
        let parts = mask(line, 0..line.len(), hidden, hidden);
        assert_eq!(excerpt(line, &parts, span), (expect.to_owned(), caret));
    }

    #[test]
    fn hidden_values_are_masked_and_the_caret_follows() {
        check("cores = 3", None, 8..9, "cores = 3", 8..9);
        check("key = \"sk-abcdefgh\"", Some(6..19), 6..19, "key = \"***\"", 6..11);
        check("key = \"sk-abcdefgh\", x = 1", Some(6..19), 21..22, "key = \"***\", x = 1", 13..14);
        check("key = \"sk-abcdefgh\"", Some(6..19), 0..3, "key = \"***\"", 0..3);
        check("key = \"sk-abcdefgh\"", Some(6..19), 0..19, "key = \"***\"", 0..11);
        check("key = \"sk-abcdefgh\" # was sk-old", Some(6..19), 0..3, "key = \"***\"", 0..3);
        check("sk-abc \"\"\"", Some(0..10), 3..6, "\"***\"", 0..5);
        check("ü = 1", None, 0..2, "ü = 1", 0..1);
        check("a = \u{1b}[31m", None, 0..1, "a = \u{fffd}[31m", 0..1);
        check("x", None, 1..1, "x", 1..2);
    }

    #[test]
    fn a_long_line_is_cut_around_the_place() {
        let line = format!("{}here{}", "a".repeat(500), "b".repeat(500));
        let (shown, caret) = excerpt(&line, &[(0..line.len(), true)], 500..504);
        assert_eq!(shown.chars().count(), EXCERPT_CHARS_MAX);
        assert_eq!(&shown[caret], "here");
    }

    #[track_caller]
    fn check_guess(line: &str, expect: &str) {
        assert_eq!(excerpt(line, &guess(line, 0), 0..0).0, expect);
    }

    #[test]
    fn a_line_that_is_not_toml_shows_only_what_is_harmless() {
        check_guess("[[provider]", "[[provider]");
        check_guess("cores = atuo", "cores = atuo");
        check_guess("key = sk-abc", "key =\"***\"");
        check_guess("provider.key = sk-abc", "provider.key =\"***\"");
        check_guess("name = \"a\", key = sk-abc", "name =\"***\"");
        check_guess("sk-abc\"", "\"***\"");
        check_guess("sk-abc= = 1", "\"***\"");
        check_guess("  { name = \"a\", key = \"sk-abc }", "\"***\"");
    }

    #[test]
    fn places_are_counted_from_one_in_characters() {
        let around = Fake::default();
        let report = Report::new("a = 1\r\nüü = 2\n", "f.toml", &around);
        for span in [0..1, 7..11, 14..15, 16..16, 99..100] {
            report.note(Severity::Error, span, "", String::new(), String::new());
        }
        let tree = DeTable::new();
        let (errors, _) = report.finish(Some(&tree));
        let places: Vec<_> = errors.iter().map(|c| (c.line, c.column, c.excerpt.as_str())).collect();
        assert_eq!(places, [(1, 1, "a = 1"), (2, 1, "üü = 2"), (2, 6, "üü = 2"), (3, 1, ""), (3, 1, "")]);
    }
}
