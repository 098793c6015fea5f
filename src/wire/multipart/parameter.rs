//! The parameters of a Content-Type and a Content-Disposition, read one way only.

use super::BadMultipart;
use crate::base::limits::BOUNDARY_BYTES_MAX;

/// The boundary that a Content-Type names.
pub fn boundary(content_type: &[u8]) -> Result<&[u8], BadMultipart> {
    const MEDIA_TYPE: &[u8] = b"multipart/form-data";
    let (media_type, mut rest) =
        content_type.split_at_checked(MEDIA_TYPE.len()).ok_or(BadMultipart::NotFormData)?;
    if !media_type.eq_ignore_ascii_case(MEDIA_TYPE) {
        return Err(BadMultipart::NotFormData);
    }
    let mut boundary = None;
    while !rest.is_empty() {
        let (param, after) = parameter(rest).ok_or(BadMultipart::NotFormData)?;
        if param.name.eq_ignore_ascii_case(b"boundary") && boundary.replace(param.value).is_some() {
            return Err(BadMultipart::Boundary);
        }
        rest = after;
    }
    let legal = |b: &u8| b.is_ascii_alphanumeric() || b"'()+_,-./:=? ".contains(b);
    boundary
        .filter(|value| (1..=BOUNDARY_BYTES_MAX).contains(&value.len()))
        .filter(|value| value.iter().all(legal) && !value.ends_with(b" "))
        .ok_or(BadMultipart::Boundary)
}

/// `name=value`, without quotes.
pub(super) struct Parameter<'a> {
    pub(super) name: &'a [u8],
    pub(super) value: &'a [u8],
}

/// The parameter that `rest`, which starts at its semicolon, starts with, and what follows it.
pub(super) fn parameter(rest: &[u8]) -> Option<(Parameter<'_>, &[u8])> {
    let rest = rest.trim_ascii_start().strip_prefix(b";")?.trim_ascii_start();
    let name_end = rest.iter().position(|b| !is_token(b))?;
    let (name, rest) = rest.split_at(name_end);
    let rest = rest.strip_prefix(b"=")?;
    let (value, rest) = match rest.strip_prefix(b"\"") {
        // A backslash just before a quote ends the string for one parser and not for another.
        Some(quoted) => {
            let end = memchr::memchr(b'"', quoted)?;
            let value = &quoted[..end];
            if value.ends_with(b"\\") || value.iter().any(|&b| is_control(b)) {
                return None;
            }
            (value, &quoted[end + 1..])
        }
        None => rest.split_at(rest.iter().position(|b| !is_token(b)).unwrap_or(rest.len())),
    };
    let ended = rest.is_empty() || rest.trim_ascii_start().starts_with(b";");
    (ended && !name.is_empty()).then_some((Parameter { name, value }, rest))
}

pub(super) fn is_token(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte)
}

pub(super) fn is_control(byte: u8) -> bool {
    (byte < 0x20 && byte != b'\t') || byte == 0x7F
}
