//! Why a form is refused: one variant each, with the words of OpenAI's error body. Always a 400.
//!
//! No text holds bytes of the form but names that are ours.

use std::borrow::Cow;

use crate::base::limits::{MODEL_BYTES_MAX, PART_HEAD_BYTES_MAX};

/// Why a multipart request is refused; always a 400. `at` is an offset in the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadMultipart {
    /// The Content-Type is not `multipart/form-data` with well-formed parameters.
    NotFormData,
    /// The boundary is missing, given twice, longer than RFC 2046 has it, or made of other characters than it allows.
    Boundary,
    /// Bytes that look like a delimiter and are none, or a delimiter where none may be.
    Delimiter {
        at: usize,
    },
    /// The body ends before its closing delimiter.
    Unclosed,
    /// Bytes after the closing delimiter.
    TrailingBytes {
        at: usize,
    },
    PartHeadTooLarge {
        at: usize,
    },
    /// A part's head that is not strict: bare CR or LF, folding, odd names, a second Content-Disposition, an encoding.
    PartHead {
        at: usize,
    },
    /// A part without one plain name.
    PartName {
        at: usize,
    },
    /// A routing field in another letter case, or with brackets.
    FieldCase(&'static str),
    DuplicateField(&'static str),
    /// A field that would send the request elsewhere.
    Redirecting(&'static str),
    ModelMissing,
    ModelOdd,
    StreamNotBoolean,
}

impl BadMultipart {
    /// A sentence for `error.message`.
    pub fn reason(&self) -> Cow<'static, str> {
        match self {
            Self::NotFormData => "The Content-Type must be multipart/form-data with a boundary.".into(),
            Self::Boundary => "The Content-Type has no usable boundary.".into(),
            Self::Delimiter { at } => format!("The multipart body has an odd delimiter at byte {at}.").into(),
            Self::Unclosed => "The multipart body has no closing delimiter.".into(),
            Self::TrailingBytes { at } => format!("Bytes follow the closing delimiter at byte {at}.").into(),
            Self::PartHeadTooLarge { at } => {
                format!("The head of the part at byte {at} is longer than {PART_HEAD_BYTES_MAX} bytes.")
                    .into()
            }
            Self::PartHead { at } => format!("The head of the part at byte {at} is malformed.").into(),
            Self::PartName { at } => format!("The part at byte {at} has no plain name.").into(),
            Self::FieldCase(name) => format!("A field differs from '{name}'; write '{name}'.").into(),
            Self::DuplicateField(name) => format!("The field '{name}' appears more than once.").into(),
            Self::Redirecting(name) => {
                format!("'{name}' would redirect the request; it may not be set in the body.").into()
            }
            Self::ModelMissing => "The request has no 'model'.".into(),
            Self::ModelOdd => {
                format!("'model' must be 1 to {MODEL_BYTES_MAX} characters of A-Z a-z 0-9 . _ : / @ + , = -")
                    .into()
            }
            Self::StreamNotBoolean => "'stream' must be true or false.".into(),
        }
    }

    /// What `error.param` names.
    pub fn param(&self) -> Option<&'static str> {
        match *self {
            Self::FieldCase(name) | Self::DuplicateField(name) | Self::Redirecting(name) => Some(name),
            Self::ModelMissing | Self::ModelOdd => Some("model"),
            Self::StreamNotBoolean => Some("stream"),
            _ => None,
        }
    }

    /// A stable word for `error.code`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::FieldCase(_) => "ambiguous_key",
            Self::DuplicateField(_) => "duplicate_key",
            Self::Redirecting(_) => "redirecting_parameter",
            Self::ModelMissing => "missing_required_parameter",
            Self::ModelOdd => "invalid_value",
            Self::StreamNotBoolean => "invalid_type",
            _ => "invalid_multipart",
        }
    }
}
