//! Conditions as they are written: comparisons under `all`, `any` and `not`; and what becomes of them, a list of
//! comparisons each of which says which comes next.

use std::fmt;

use toml::de::DeValue;

use super::{
    Size,
    comparison::{Comparison, Literal, OPS, Op, Subject},
    plain,
};
use crate::{
    base::limits::{CONDITION_NUMBER_MAX, CONDITION_VALUES_MAX},
    config::{
        raw::{Field, Table},
        suggest::nearest,
    },
};

/// A condition as a tree.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum When {
    Is(Comparison),
    /// Never empty, as is `Any`.
    All(Vec<Self>),
    Any(Vec<Self>),
    Not(Box<Self>),
}

/// A comparison of a compiled condition, and where to go on after it: to another one, or to [`YES`] or [`NO`].
#[derive(Clone, Debug)]
pub struct Test {
    pub comparison: Comparison,
    pub yes: u32,
    pub no: u32,
}

/// The condition as a whole is true, or false.
pub const YES: u32 = u32::MAX;
pub const NO: u32 = u32::MAX - 1;

impl When {
    /// Reads a condition; nothing if anything in it is wrong.
    pub(super) fn read(mut table: Table<'_>, size: &mut Size, depth: usize) -> Option<Self> {
        if !size.grow(&table, depth) {
            return None;
        }
        let field = table.get("field");
        let (op, value) = (table.get("op"), table.get("value"));
        let not = table.get("not");
        let kinds = [field.is_some(), not.is_some(), table.get("all").is_some(), table.get("any").is_some()];
        if kinds.iter().filter(|is| **is).count() != 1 {
            table.complain(
                "a condition has one of `field`, `all`, `any` and `not`",
                "{ field = \"metadata.plan\", op = \"==\", value = \"pro\" }, or { all = [{ … }, { … }] }",
            );
            table.close();
            return None;
        }
        if field.is_none() {
            for (setting, stray) in [("op", &op), ("value", &value)] {
                if let Some(stray) = stray {
                    stray.complain(format!("`{setting}` belongs to a `field`"), "put it beside the field");
                }
            }
        }
        let when = if let Some(field) = field {
            comparison(&table, field, op, value).map(Self::Is)
        } else if let Some(not) = not {
            not.table()
                .and_then(|inner| Self::read(inner, size, depth + 1))
                .map(|inner| Self::Not(Box::new(inner)))
        } else {
            let (word, make): (_, fn(Vec<Self>) -> Self) =
                if kinds[2] { ("all", Self::All) } else { ("any", Self::Any) };
            let parts = table.tables(word);
            if parts.is_empty() {
                table.complain(format!("`{word}` of nothing decides nothing"), "put conditions into it");
            }
            // Each is read even after one was wrong.
            let parts: Vec<_> = parts.into_iter().map(|part| Self::read(part?, size, depth + 1)).collect();
            parts.into_iter().collect::<Option<Vec<_>>>().filter(|parts| !parts.is_empty()).map(make)
        };
        table.close();
        when
    }

    /// Adds the condition's comparisons to `tests`; where to begin. `yes` and `no` are where it leads.
    pub(super) fn flatten(self, yes: u32, no: u32, tests: &mut Vec<Test>) -> u32 {
        match self {
            Self::Is(comparison) => {
                let index = u32::try_from(tests.len()).unwrap_or(NO);
                tests.push(Test { comparison, yes, no });
                index
            }
            Self::All(parts) => parts.into_iter().rev().fold(yes, |next, part| part.flatten(next, no, tests)),
            Self::Any(parts) => parts.into_iter().rev().fold(no, |next, part| part.flatten(yes, next, tests)),
            Self::Not(inner) => inner.flatten(no, yes, tests),
        }
    }

    /// Whether a comparison in it asks for metadata.
    pub(super) fn reads_metadata(&self) -> bool {
        match self {
            Self::Is(comparison) => matches!(comparison.subject, Subject::Metadata(_)),
            Self::All(parts) | Self::Any(parts) => parts.iter().any(Self::reads_metadata),
            Self::Not(inner) => inner.reads_metadata(),
        }
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, parts) = match self {
            Self::Is(comparison) => return comparison.fmt(f),
            Self::Not(inner) => return write!(f, "not ({inner})"),
            Self::All(parts) => (" and ", parts),
            Self::Any(parts) => (" or ", parts),
        };
        for (index, part) in parts.iter().enumerate() {
            let between = if index == 0 { "" } else { word };
            match part {
                Self::Is(_) | Self::Not(_) => write!(f, "{between}{part}")?,
                Self::All(_) | Self::Any(_) => write!(f, "{between}({part})")?,
            }
        }
        Ok(())
    }
}

fn comparison(
    table: &Table<'_>,
    field: Field<'_>,
    op: Option<Field<'_>>,
    value: Option<Field<'_>>,
) -> Option<Comparison> {
    if op.is_none() {
        table.complain("it is not said how this field is compared", "op = \"==\"");
    }
    let subject = subject(field);
    let op = op.and_then(Field::text).and_then(|text| text.choose(&OPS).map(|op| (op, text)));
    let literals = match &op {
        None => None,
        Some((Op::Exists, _)) => {
            if let Some(value) = &value {
                value.complain("`exists` compares with nothing", "leave the value out");
            }
            Some(Vec::new())
        }
        Some((op, _)) => match value {
            None => {
                table.complain("it is not said what this field is compared with", "value = \"…\"");
                None
            }
            Some(value) => literals(value, *op, subject.as_ref()),
        },
    };
    let (subject, (op, text), literals) = (subject?, op?, literals?);
    if op == Op::Exists && matches!(subject, Subject::Model | Subject::Stream) {
        text.complain(format!("`{subject}` always exists"), "compare it with something");
        return None;
    }
    if op.is_order() && subject == Subject::Tag {
        text.complain("tags have no order", "ask with ==, !=, in, contains or starts_with");
        return None;
    }
    Some(Comparison { subject, op, literals: literals.into() })
}

/// Fields of a request that carry secrets: no route may depend on them, because routes are shown.
const SECRET_FIELDS: [&str; 11] = [
    "authorization",
    "proxy-authorization",
    "cookie",
    "x-api-key",
    "api-key",
    "x-goog-api-key",
    "esa_aigw_auth",
    "esa-aigw-auth",
    "cf-aig-authorization",
    "x-ringway-token",
    "x-auth-token",
];

/// `header.<name>` without its beginning, if a route may look at it; else why not.
pub(super) fn header_name(name: &str) -> Result<Box<str>, (&'static str, &'static str)> {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || !name.bytes().all(inner) {
        return Err(("this names no header field", "header.x-team"));
    }
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(("names of header fields are written in lower case here", "header.x-team"));
    }
    if SECRET_FIELDS.contains(&name) {
        return Err(("this field carries a credential, and routes are shown", "use caller.tag"));
    }
    Ok(name.into())
}

fn subject(field: Field<'_>) -> Option<Subject> {
    let text = plain(field)?;
    let word = text.value.as_str();
    if let Some(key) = word.strip_prefix("metadata.") {
        if key.is_empty() {
            text.complain("no key of the metadata is named", "field = \"metadata.plan\"");
            return None;
        }
        return Some(Subject::Metadata(key.into()));
    }
    if let Some(name) = word.strip_prefix("header.") {
        return match header_name(name) {
            Ok(name) => Some(Subject::Header(name)),
            Err((what, fix)) => {
                text.complain(what, fix);
                None
            }
        };
    }
    let words = [("model", Subject::Model), ("stream", Subject::Stream), ("caller.tag", Subject::Tag)];
    let near = nearest(word, words.iter().map(|(word, _)| *word));
    let found = words.into_iter().find(|(known, _)| *known == word).map(|(_, subject)| subject);
    if found.is_none() {
        text.complain(
            format!("{} is not a field that conditions know", text.quoted()),
            match near {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => "use metadata.<key>, model, stream, header.<name> or caller.tag".to_owned(),
            },
        );
    }
    found
}

/// What a comparison compares with, in the types that suit the operator and the field.
fn literals(value: Field<'_>, op: Op, subject: Option<&Subject>) -> Option<Vec<Literal>> {
    if op != Op::In {
        return literal(value, op, subject).map(|literal| vec![literal]);
    }
    if !matches!(value.value(), DeValue::Array(_)) {
        value.complain("`in` compares with a list", "value = [\"a\", \"b\"]");
        return None;
    }
    let items = value.items();
    if items.is_empty() || items.len() > CONDITION_VALUES_MAX {
        value.complain(
            if items.is_empty() { "nothing is in an empty list" } else { "this list is too long" },
            format!("name 1 to {CONDITION_VALUES_MAX} values"),
        );
        return None;
    }
    // Each is read even after one was wrong.
    let literals: Vec<_> = items.into_iter().map(|item| literal(item, op, subject)).collect();
    literals.into_iter().collect()
}

fn literal(value: Field<'_>, op: Op, subject: Option<&Subject>) -> Option<Literal> {
    let wants_text = matches!(op, Op::Contains | Op::StartsWith);
    let (strings, rest) = match subject {
        None | Some(Subject::Metadata(_)) => (true, true),
        Some(Subject::Stream) => (false, true),
        Some(_) => (true, false),
    };
    let name = || subject.map(Subject::to_string).unwrap_or_default();
    match value.value() {
        DeValue::String(_) if !strings => {
            value.complain(format!("`{}` is true or false, never a string", name()), "leave out the quotes");
            None
        }
        DeValue::String(_) => {
            let text = plain(value)?;
            if wants_text && text.value.is_empty() {
                text.complain("the empty string is part of every string", "ask whether the field exists");
                return None;
            }
            Some(Literal::Text(text.value.as_str().into()))
        }
        DeValue::Boolean(_) | DeValue::Integer(_) | DeValue::Float(_) if !rest => {
            value.complain(format!("`{}` is a string", name()), "put the value in quotes");
            None
        }
        _ if wants_text => {
            value.complain("this operator looks into strings", "put the value in quotes, or compare with ==");
            None
        }
        DeValue::Boolean(_) if op.is_order() => {
            value.complain("true and false have no order", "compare with == or !=");
            None
        }
        DeValue::Integer(_) | DeValue::Float(_) if subject == Some(&Subject::Stream) => {
            value.complain("`stream` is true or false", "value = true");
            None
        }
        DeValue::Boolean(flag) => Some(Literal::Flag(*flag)),
        DeValue::Integer(number) => {
            let exact = i64::from_str_radix(number.as_str(), number.radix())
                .ok()
                .filter(|number| number.unsigned_abs() <= CONDITION_NUMBER_MAX);
            if exact.is_none() {
                value.complain("this number is too large to be compared exactly", "compare strings instead");
            }
            #[expect(clippy::cast_precision_loss, reason = "exact up to CONDITION_NUMBER_MAX")]
            exact.map(|number| Literal::Number(number as f64))
        }
        DeValue::Float(number) => {
            let finite = number.as_str().parse::<f64>().ok().filter(|number| number.is_finite());
            if finite.is_none() {
                value.complain("no number of the metadata is like this", "write a finite number");
            }
            finite.map(Literal::Number)
        }
        _ => {
            value.complain("this cannot be compared with", "write a string, a number, true or false");
            None
        }
    }
}
