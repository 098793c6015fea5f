//! The file as it was written: its tables, read setting by setting.
//!
//! Each reader returns the setting, or notes what is wrong with it and returns nothing, so one pass over a file finds
//! everything that is wrong in it. (serde's derive would stop at the first error of a table, lose the place of all but
//! that, and quote the offending value, which may be a key.)

use std::{ops::Range, ops::RangeInclusive, time::Duration};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};
use zeroize::Zeroizing;

use super::{
    complaint::Severity,
    interpolate::{interpolate, refers},
    report::Report,
    suggest::nearest,
};
use crate::base::money::NanoUsd;

/// One table of the file. Every setting it may have is asked for once; [`Table::close`] complains of the others.
pub(super) struct Table<'a> {
    report: &'a Report<'a>,
    entries: &'a DeTable<'a>,
    span: Range<usize>,
    path: String,
    known: Vec<&'static str>,
}

/// One setting that is there, whatever its type.
#[derive(Clone)]
pub(super) struct Field<'a> {
    report: &'a Report<'a>,
    value: &'a Spanned<DeValue<'a>>,
    path: String,
}

/// A setting under a name that the operator gave it.
pub(super) struct Named<'a> {
    pub(super) name: &'a str,
    pub(super) field: Field<'a>,
    span: Range<usize>,
}

/// A string after interpolation, with the place it came from.
pub(super) struct Text<'a> {
    pub(super) value: Zeroizing<String>,
    /// As it stands in the file: what a complaint may quote.
    pub(super) raw: &'a str,
    field: Field<'a>,
}

impl<'a> Table<'a> {
    pub(super) fn root(report: &'a Report<'a>, entries: &'a DeTable<'a>) -> Self {
        Self { report, entries, span: 0..0, path: String::new(), known: Vec::new() }
    }

    /// A setting of this table, if it is there.
    pub(super) fn get(&mut self, key: &'static str) -> Option<Field<'a>> {
        self.known.push(key);
        let value = self.entries.get(key)?;
        Some(Field { report: self.report, value, path: join(&self.path, key) })
    }

    /// A table inside this one.
    pub(super) fn table(&mut self, key: &'static str) -> Option<Self> {
        self.get(key)?.table()
    }

    /// Every table of an array of tables (`[[key]]`); `None` for what is there but is no table.
    pub(super) fn tables(&mut self, key: &'static str) -> Vec<Option<Self>> {
        let Some(field) = self.get(key) else { return Vec::new() };
        let DeValue::Array(array) = field.value.get_ref() else {
            field.complain(
                format!("this is {}, not a list of tables", kind(field.value.get_ref())),
                format!("write `[[{}]]` before each of them, or `{key} = [{{ … }}]`", key_path(&field.path)),
            );
            return vec![None];
        };
        let items = array.iter().enumerate();
        let fields = items.map(|(i, value)| Field { value, path: format!("{}[{i}]", field.path), ..field });
        fields.map(Field::table).collect()
    }

    /// Every setting of a table whose keys are the operator's own names.
    pub(super) fn named(self) -> Vec<Named<'a>> {
        let named = self.entries.iter().map(|(key, value)| Named {
            name: key.get_ref().as_ref(),
            span: key.span(),
            field: Field { report: self.report, value, path: self.path.clone() },
        });
        named.collect()
    }

    /// Notes that something about the table as a whole is wrong.
    pub(super) fn complain(&self, what: impl Into<String>, fix: impl Into<String>) {
        self.report.note(Severity::Error, self.span.clone(), &self.path, what.into(), fix.into());
    }

    pub(super) fn warn(&self, what: impl Into<String>, fix: impl Into<String>) {
        self.report.note(Severity::Warning, self.span.clone(), &self.path, what.into(), fix.into());
    }

    /// Complains of every setting that was not asked for.
    pub(super) fn close(self) {
        for key in self.entries.keys() {
            let name = key.get_ref().as_ref();
            if self.known.contains(&name) {
                continue;
            }
            let alias = ALIASES.iter().find(|(other, ours)| *other == name && self.known.contains(ours));
            let near = alias.map(|(_, ours)| *ours).or_else(|| nearest(name, self.known.iter().copied()));
            let fix = match near {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("what can stand here: {}", self.known.join(", ")),
            };
            let shown: String = name.chars().take(64).collect();
            let what = format!("there is no `{}` here", shown.escape_debug());
            self.report.note(Severity::Error, key.span(), &self.path, what, fix);
        }
    }

    /// Where in the file this table is, such as `provider[0]`.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn around(&self) -> &'a dyn super::Surroundings {
        self.report.around
    }
}

/// What others call a setting of ours.
const ALIASES: [(&str, &str); 14] = [
    ("api_key", "key"),
    ("apikey", "key"),
    ("token", "key"),
    ("api_keys", "keys"),
    ("url", "base_url"),
    ("endpoint", "base_url"),
    ("api_base", "base_url"),
    ("timeout", "timeouts"),
    ("bind", "listen"),
    ("address", "listen"),
    ("workers", "cores"),
    ("threads", "cores"),
    ("type", "profile"),
    ("upstream", "provider"),
];

impl<'a> Field<'a> {
    /// Notes that this setting is wrong.
    pub(super) fn complain(&self, what: impl Into<String>, fix: impl Into<String>) {
        self.report.note(Severity::Error, self.value.span(), &self.path, what.into(), fix.into());
    }

    pub(super) fn warn(&self, what: impl Into<String>, fix: impl Into<String>) {
        self.report.note(Severity::Warning, self.value.span(), &self.path, what.into(), fix.into());
    }

    /// A string that is not secret.
    pub(super) fn text(self) -> Option<Text<'a>> {
        // `@` and `?`: a URL may carry a password or a token where none belongs.
        if self.value.get_ref().as_str().is_none_or(|raw| !raw.contains(['@', '?'])) {
            self.report.show(self.value.span());
        }
        self.string()
    }

    /// A string that is never shown.
    pub(super) fn secret(self) -> Option<Text<'a>> {
        self.report.hide(self.value.span());
        self.string()
    }

    fn string(self) -> Option<Text<'a>> {
        let Some(raw) = self.value.get_ref().as_str() else {
            self.complain(
                format!("this is {}, not a string", kind(self.value.get_ref())),
                "put it in quotes",
            );
            return None;
        };
        match interpolate(raw, self.report.around) {
            Ok(value) => Some(Text { value, raw, field: self }),
            Err(misses) => {
                let span = self.value.span();
                let source = self.report.text.get(span.clone()).unwrap_or("");
                for miss in misses {
                    // The reference itself, unless the string is written with escapes.
                    let place = source.find(&miss.token).map(|at| span.start + at);
                    let place = place.map_or_else(|| span.clone(), |at| at..at + miss.token.len());
                    self.report.note(Severity::Error, place, &self.path, miss.what, miss.fix);
                }
                None
            }
        }
    }

    /// A list of strings; one string alone is a list of one.
    pub(super) fn texts(self) -> Option<Vec<Text<'a>>> {
        match self.value.get_ref() {
            DeValue::String(_) => self.text().map(|text| vec![text]),
            DeValue::Array(array) => {
                let items = array.iter().enumerate();
                let fields =
                    items.map(|(i, value)| Field { value, path: format!("{}[{i}]", self.path), ..self });
                // Each is read even after one was wrong.
                let texts: Vec<_> = fields.map(Field::text).collect();
                texts.into_iter().collect()
            }
            other => {
                self.complain(
                    format!("this is {}, not a list of strings", kind(other)),
                    "write `[\"…\", \"…\"]`",
                );
                None
            }
        }
    }

    pub(super) fn flag(self) -> Option<bool> {
        self.report.show(self.value.span());
        let flag = self.value.get_ref().as_bool();
        if flag.is_none() {
            let what = format!("this is {}, not true or false", kind(self.value.get_ref()));
            self.complain(what, "write `true` or `false`, without quotes");
        }
        flag
    }

    /// A whole number within `range`.
    pub(super) fn count(self, range: RangeInclusive<usize>) -> Option<usize> {
        self.report.show(self.value.span());
        let expect = format!("a whole number from {} to {}", range.start(), range.end());
        let DeValue::Integer(number) = self.value.get_ref() else {
            let what = format!("this is {}, not a whole number", kind(self.value.get_ref()));
            self.complain(what, format!("write {expect}, without quotes or unit"));
            return None;
        };
        let number = i64::from_str_radix(number.as_str(), number.radix()).ok();
        let number = number.and_then(|number| usize::try_from(number).ok()).filter(|n| range.contains(n));
        if number.is_none() {
            self.complain("this number is out of range", format!("write {expect}"));
        }
        number
    }

    /// An amount of dollars, whole or not, of `least` at least and `most` at most. Read as it is written: no float rounds it.
    pub(super) fn usd(self, least: NanoUsd, most: NanoUsd) -> Option<NanoUsd> {
        self.report.show(self.value.span());
        let expect = format!("dollars from {least} to {most}, with nine digits behind the point at most");
        let number = match self.value.get_ref() {
            DeValue::Integer(number) if number.radix() == 10 => number.as_str(),
            DeValue::Float(number) => number.as_str(),
            other => {
                let what = format!("this is {}, not an amount of dollars", kind(other));
                self.complain(what, format!("write {expect}, without quotes or sign"));
                return None;
            }
        };
        let amount = NanoUsd::parse(number).filter(|amount| (least..=most).contains(amount));
        if amount.is_none() {
            self.complain("this amount is out of range", format!("write {expect}"));
        }
        amount
    }

    /// A duration in seconds, whole or not, within `range`.
    pub(super) fn secs(self, range: RangeInclusive<Duration>) -> Option<Duration> {
        self.report.show(self.value.span());
        let (least, most) = (range.start().as_secs_f64(), range.end().as_secs_f64());
        let expect = format!("a number of seconds from {least} to {most}");
        let number = match self.value.get_ref() {
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
                .ok()
                .and_then(|secs| u64::try_from(secs).ok())
                .map(Duration::from_secs),
            DeValue::Float(number) => {
                number.as_str().parse().ok().and_then(|secs| Duration::try_from_secs_f64(secs).ok())
            }
            other => {
                self.complain(
                    format!("this is {}, not a number", kind(other)),
                    format!("write {expect}, without quotes or unit"),
                );
                return None;
            }
        };
        let number = number.filter(|secs| range.contains(secs));
        if number.is_none() {
            self.complain("this number is out of range", format!("write {expect}"));
        }
        number
    }

    pub(super) fn table(self) -> Option<Table<'a>> {
        let DeValue::Table(entries) = self.value.get_ref() else {
            self.complain(
                format!("this is {}, not a table", kind(self.value.get_ref())),
                format!("write `[{0}]` on a line of its own, or `{0} = {{ … }}`", key_path(&self.path)),
            );
            return None;
        };
        Some(Table {
            report: self.report,
            entries,
            span: self.value.span(),
            path: self.path,
            known: Vec::new(),
        })
    }

    /// Whether this is a string, a number or a list: for settings that may be several of them.
    pub(super) fn value(&self) -> &'a DeValue<'a> {
        self.value.get_ref()
    }

    /// The elements of a list.
    pub(super) fn items(&self) -> Vec<Self> {
        let DeValue::Array(array) = self.value.get_ref() else { return Vec::new() };
        let items = array.iter().enumerate();
        items.map(|(i, value)| Field { value, path: format!("{}[{i}]", self.path), ..*self }).collect()
    }
}

impl Named<'_> {
    /// Notes that the name is wrong.
    pub(super) fn complain(&self, what: impl Into<String>, fix: impl Into<String>) {
        let Field { report, path, .. } = &self.field;
        report.note(Severity::Error, self.span.clone(), path, what.into(), fix.into());
    }
}

impl Text<'_> {
    pub(super) fn complain(&self, what: impl Into<String>, fix: impl Into<String>) {
        self.field.complain(what, fix);
    }

    pub(super) fn warn(&self, what: impl Into<String>, fix: impl Into<String>) {
        self.field.warn(what, fix);
    }

    /// Whether the value came from elsewhere, at least in part.
    pub(super) fn is_reference(&self) -> bool {
        refers(self.raw)
    }

    /// What a complaint calls this text: as it was written, never what it was replaced by.
    pub(super) fn quoted(&self) -> String {
        let start: String = self.raw.chars().take(80).collect();
        if start.contains(['@', '?']) { "this".to_owned() } else { format!("`{}`", start.escape_debug()) }
    }

    /// The choice this text names; complains, with the nearest, if it names none.
    pub(super) fn choose<T: Copy>(&self, choices: &[(&'static str, T)]) -> Option<T> {
        let found = choices.iter().find(|(word, _)| *word == self.value.as_str());
        if found.is_none() {
            let words = || choices.iter().map(|(word, _)| *word);
            let fix = match nearest(self.raw, words()) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => format!("choose one of: {}", words().collect::<Vec<_>>().join(", ")),
            };
            self.complain(format!("{} is not a choice here", self.quoted()), fix);
        }
        found.map(|(_, choice)| *choice)
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// A path as it would stand in a table header: without the numbers.
fn key_path(path: &str) -> String {
    let mut plain = String::new();
    let mut inside = false;
    for c in path.chars() {
        inside = (inside || c == '[') && c != ']';
        if !inside && c != ']' {
            plain.push(c);
        }
    }
    plain
}

/// What a value is, in words that an operator who does not know TOML understands.
fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
