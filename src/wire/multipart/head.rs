//! The head of one part: strict lines, one plain name, and nothing that two parsers could read differently.

use memchr::memmem;

use super::{
    BadMultipart,
    parameter::{is_control, is_token, parameter},
};
use crate::base::{limits::PART_HEAD_BYTES_MAX, span::Span};

/// A part's head, of which only the name decides anything.
#[derive(Default)]
pub(super) struct Head<'a> {
    pub(super) name: &'a str,
    /// It gives a file name: some parsers would not look for a field here.
    pub(super) is_file: bool,
    /// The value of its Content-Length.
    pub(super) length: Option<Span>,
    stated_bytes: Option<usize>,
    /// Where the content starts, in the body.
    pub(super) end: usize,
}

impl<'a> Head<'a> {
    /// The head that starts at `start`, the first line after a delimiter.
    pub(super) fn parse(body: &'a [u8], start: usize) -> Result<Self, BadMultipart> {
        const LAST: &[u8] = b"\r\n\r\n";
        let bad = BadMultipart::PartHead { at: start };
        let rest = &body[start..];
        let within = &rest[..rest.len().min(PART_HEAD_BYTES_MAX)];
        let lines = match memmem::find(within, LAST) {
            Some(end) => &within[..end],
            None if rest.len() > PART_HEAD_BYTES_MAX => {
                return Err(BadMultipart::PartHeadTooLarge { at: start });
            }
            None => return Err(BadMultipart::Unclosed),
        };
        let mut head = Self { end: start + lines.len() + LAST.len(), ..Self::default() };
        let mut disposition = None;
        let mut encoded = false;
        let mut line_at = start;
        for line in split_lines(lines) {
            let colon = memchr::memchr(b':', line).ok_or(bad)?;
            let (name, value) = (&line[..colon], &line[colon + 1..]);
            // A name is a token, so a folded line or a space before the colon is refused with everything else odd.
            if name.is_empty() || !name.iter().all(is_token) || value.iter().any(|&b| is_control(b)) {
                return Err(bad);
            }
            if name.eq_ignore_ascii_case(b"content-disposition") {
                if disposition.replace(value.trim_ascii()).is_some() {
                    return Err(bad);
                }
            } else if name.eq_ignore_ascii_case(b"content-length") {
                let digits = value.trim_ascii();
                let digits_at = line_at + colon + 1 + (value.len() - value.trim_ascii_start().len());
                let plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
                let stated = std::str::from_utf8(digits).ok().filter(|_| plain).and_then(|d| d.parse().ok());
                if head.length.replace(Span::new(digits_at, digits_at + digits.len())).is_some()
                    || stated.is_none()
                {
                    return Err(bad);
                }
                head.stated_bytes = stated;
            } else if name.eq_ignore_ascii_case(b"content-transfer-encoding") {
                // Any other encoding gives the content a second reading.
                let identity = [&b"binary"[..], b"8bit", b"7bit"];
                if encoded || !identity.iter().any(|plain| value.trim_ascii().eq_ignore_ascii_case(plain)) {
                    return Err(bad);
                }
                encoded = true;
            }
            line_at += line.len() + 2;
        }
        let no_name = BadMultipart::PartName { at: start };
        (head.name, head.is_file) = disposed(disposition.ok_or(no_name)?).ok_or(no_name)?;
        Ok(head)
    }

    /// Refuses content of another length than the head states.
    pub(super) fn measures(&self, content: &[u8]) -> Result<(), BadMultipart> {
        match self.stated_bytes {
            Some(stated) if stated != content.len() => Err(BadMultipart::PartHead { at: self.end }),
            _ => Ok(()),
        }
    }
}

/// Lines that end with CRLF; what is not such an end stays in the line, where it is refused as a control byte.
fn split_lines(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(head);
    std::iter::from_fn(move || {
        let lines = rest?;
        let end = memmem::find(lines, b"\r\n");
        rest = end.map(|end| &lines[end + 2..]);
        Some(&lines[..end.unwrap_or(lines.len())])
    })
}

/// The field's name and whether a file name is given, of `form-data; name="…"`.
fn disposed(value: &[u8]) -> Option<(&str, bool)> {
    const FORM_DATA: &[u8] = b"form-data";
    let (kind, mut rest) = value.split_at_checked(FORM_DATA.len())?;
    if !kind.eq_ignore_ascii_case(FORM_DATA) {
        return None;
    }
    let mut name = None;
    let (mut file_name, mut file_name_extended) = (false, false);
    while !rest.is_empty() {
        let (param, after) = parameter(rest)?;
        let again = match &param.name.to_ascii_lowercase()[..] {
            b"name" => name.replace(param.value).is_some(),
            b"filename" => std::mem::replace(&mut file_name, true),
            b"filename*" => std::mem::replace(&mut file_name_extended, true),
            // `name*` and `name*0` are names to some parsers; anything else has no business here.
            _ => return None,
        };
        if again {
            return None;
        }
        rest = after;
    }
    // No `%`, no `\`: nothing that a parser could unescape.
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"_-.[]".contains(b);
    let name =
        std::str::from_utf8(name?).ok().filter(|name| !name.is_empty() && name.bytes().all(|b| plain(&b)))?;
    Some((name, file_name || file_name_extended))
}
