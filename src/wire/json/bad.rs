//! Why a JSON request body is refused: one variant each, with the words of OpenAI's error body. Always a 400.
//!
//! No text holds bytes of the body but a short, plain key name, so it can go into an answer or a log as it is.

use std::borrow::Cow;

use super::scan::Flaw;
use crate::base::limits::{
    JSON_DEPTH_MAX, JSON_KEY_BYTES_MAX, JSON_KEYS_MAX, MODEL_BYTES_MAX, STREAM_OPTIONS_BYTES_MAX,
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadBody {
    ByteOrderMark,
    InvalidUtf8 {
        at: usize,
    },
    InvalidJson {
        at: usize,
    },
    TrailingBytes {
        at: usize,
    },
    TooDeep {
        at: usize,
    },
    NotAnObject,
    /// More than [`JSON_KEYS_MAX`] at the top level.
    TooManyKeys,
    /// A top-level key longer than [`JSON_KEY_BYTES_MAX`].
    KeyTooLong,
    /// The same key twice after unescaping; named if the name is short and plain.
    DuplicateKey(Option<Box<str>>),
    /// A routing key in another letter case.
    KeyCase(&'static str),
    /// A key that would send the request elsewhere.
    Redirecting(&'static str),
    ModelMissing,
    ModelNotString,
    ModelOdd,
    /// A flag that is neither a boolean nor null.
    NotBoolean(&'static str),
    StreamOptionsNotObject,
    /// Longer than [`STREAM_OPTIONS_BYTES_MAX`].
    StreamOptionsTooLong,
    /// A count that is neither a non-negative integer in range nor null.
    NotCount(&'static str),
    UserNotString,
}

impl BadBody {
    pub(crate) fn duplicate(key: &str) -> Self {
        const NAMED_BYTES_MAX: usize = 64;
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
        let named = !key.is_empty() && key.len() <= NAMED_BYTES_MAX && key.bytes().all(plain);
        Self::DuplicateKey(named.then(|| key.into()))
    }

    /// A sentence for `error.message`.
    pub fn reason(&self) -> Cow<'static, str> {
        match self {
            Self::ByteOrderMark => "The request body starts with a byte order mark; send plain UTF-8.".into(),
            Self::InvalidUtf8 { at } => format!("The request body is not valid UTF-8 at byte {at}.").into(),
            Self::InvalidJson { at } => format!("The request body is not valid JSON at byte {at}.").into(),
            Self::TrailingBytes { at } => {
                format!("The JSON document ends, but bytes follow it at byte {at}.").into()
            }
            Self::TooDeep { at } => {
                format!("The request body nests deeper than {JSON_DEPTH_MAX} levels at byte {at}.").into()
            }
            Self::NotAnObject => "The request body must be a JSON object.".into(),
            Self::TooManyKeys => {
                format!("The request body has more than {JSON_KEYS_MAX} top-level keys.").into()
            }
            Self::KeyTooLong => {
                format!("The request body has a top-level key of more than {JSON_KEY_BYTES_MAX} bytes.")
                    .into()
            }
            Self::DuplicateKey(Some(key)) => format!("The key '{key}' appears more than once.").into(),
            Self::DuplicateKey(None) => "A top-level key appears more than once.".into(),
            Self::KeyCase(name) => {
                format!("A key differs from '{name}' only in letter case; write '{name}'.").into()
            }
            Self::Redirecting(name) => {
                format!("'{name}' would redirect the request; it may not be set in the body.").into()
            }
            Self::ModelMissing => "The request has no 'model'.".into(),
            Self::ModelNotString => "'model' must be a string.".into(),
            Self::ModelOdd => {
                format!("'model' must be 1 to {MODEL_BYTES_MAX} characters of A-Z a-z 0-9 . _ : / @ + , = -")
                    .into()
            }
            Self::NotBoolean(name) => format!("'{name}' must be true or false.").into(),
            Self::StreamOptionsNotObject => "'stream_options' must be an object.".into(),
            Self::StreamOptionsTooLong => {
                format!("'stream_options' is longer than {STREAM_OPTIONS_BYTES_MAX} bytes.").into()
            }
            Self::NotCount(name) => format!("'{name}' must be a non-negative integer.").into(),
            Self::UserNotString => "'user' must be a string.".into(),
        }
    }

    /// What `error.param` names.
    pub fn param(&self) -> Option<&str> {
        match self {
            Self::DuplicateKey(key) => key.as_deref(),
            Self::KeyCase(name) | Self::Redirecting(name) | Self::NotBoolean(name) | Self::NotCount(name) => {
                Some(name)
            }
            Self::ModelMissing | Self::ModelNotString | Self::ModelOdd => Some("model"),
            Self::StreamOptionsNotObject | Self::StreamOptionsTooLong => Some("stream_options"),
            Self::UserNotString => Some("user"),
            _ => None,
        }
    }

    /// A stable word for `error.code`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::DuplicateKey(_) => "duplicate_key",
            Self::KeyCase(_) => "ambiguous_key",
            Self::Redirecting(_) => "redirecting_parameter",
            Self::ModelMissing => "missing_required_parameter",
            Self::ModelOdd | Self::StreamOptionsTooLong => "invalid_value",
            Self::NotAnObject
            | Self::ModelNotString
            | Self::NotBoolean(_)
            | Self::StreamOptionsNotObject
            | Self::NotCount(_)
            | Self::UserNotString => "invalid_type",
            Self::ByteOrderMark
            | Self::InvalidUtf8 { .. }
            | Self::InvalidJson { .. }
            | Self::TrailingBytes { .. }
            | Self::TooDeep { .. }
            | Self::TooManyKeys
            | Self::KeyTooLong => "invalid_json",
        }
    }
}

impl From<Flaw> for BadBody {
    fn from(flaw: Flaw) -> Self {
        match flaw {
            Flaw::ByteOrderMark => Self::ByteOrderMark,
            Flaw::Utf8 { at } => Self::InvalidUtf8 { at },
            Flaw::Syntax { at } => Self::InvalidJson { at },
            Flaw::Depth { at } => Self::TooDeep { at },
            Flaw::Trailing { at } => Self::TrailingBytes { at },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duplicate_key_is_named_only_if_its_name_is_harmless() {
        assert_eq!(BadBody::duplicate("model").param(), Some("model"));
        for key in ["", "a b", "<script>", "\u{1b}[31m", "é", &"a".repeat(65)] {
            assert_eq!(BadBody::duplicate(key).param(), None, "{key}");
        }
    }
}
