//! Reads the `model` of a `multipart/form-data` body (RFC 7578), as strictly as [`super::json`] reads that of a JSON body.
//!
//! The rule that keeps other parsers from seeing other parts: `--boundary` occurs nowhere but in delimiters that are
//! written exactly as RFC 2046 has them. A client chooses its boundary so that its files do not hold it, so no honest
//! body is refused.

use std::borrow::Cow;

use memchr::memmem;
use smallvec::SmallVec;

use super::json::{self, Edit, Spliced, redirects, routing_key};
use crate::{
    base::{
        limits::{BOUNDARY_BYTES_MAX, MODEL_BYTES_MAX, PART_HEAD_BYTES_MAX},
        span::Span,
    },
    wire::model_name::is_model_name,
};

/// What a form says, and where. Invariant: every span lies in the body that was peeked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MultipartPeek<'a> {
    /// The model asked for; matches `[A-Za-z0-9._:/@+,=-]{1,256}`.
    pub model: &'a str,
    /// The content of the `model` part: what [`splice()`] replaces.
    pub model_value: Span,
    /// The value of that part's own `Content-Length`, which has to follow the model's.
    model_length: Option<Span>,
    pub stream: bool,
}

impl MultipartPeek<'_> {
    /// The places alone, which borrow nothing of the body.
    pub fn without_text(self) -> MultipartPeek<'static> {
        MultipartPeek { model: "", ..self }
    }
}

/// Why a multipart request is refused; always a 400. `at` is an offset in the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadMultipart {
    /// The Content-Type is not `multipart/form-data` with well-formed parameters.
    NotFormData,
    /// The boundary is missing, given twice, longer than [`BOUNDARY_BYTES_MAX`], or made of other characters than
    /// RFC 2046 allows.
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

/// Reads the body of a form endpoint, which must have exactly one `model` part.
pub fn peek_multipart<'a>(body: &'a [u8], boundary: &[u8]) -> Result<MultipartPeek<'a>, BadMultipart> {
    let dashed = [b"--", boundary].concat();
    let delimiters = memmem::Finder::new(&dashed);
    if !body.starts_with(&dashed) {
        return Err(BadMultipart::Delimiter { at: 0 });
    }
    let mut model = None;
    let mut stream = None;
    let mut at = dashed.len();
    // `at` is just after a delimiter's boundary: either a part's head follows, or this was the closing one.
    loop {
        let rest = body.get(at..).unwrap_or_default();
        if let Some(after) = rest.strip_prefix(b"--") {
            if !matches!(after, b"" | b"\r\n") {
                return Err(BadMultipart::TrailingBytes { at: at + 2 });
            }
            break;
        }
        if rest.len() < 2 {
            return Err(BadMultipart::Unclosed);
        }
        if !rest.starts_with(b"\r\n") {
            return Err(BadMultipart::Delimiter { at });
        }
        let head = Head::parse(body, at + 2)?;
        let start = head.end;
        let found = delimiters.find(&body[start..]).ok_or(BadMultipart::Unclosed)?;
        let Some(content) = body[start..start + found].strip_suffix(b"\r\n") else {
            return Err(BadMultipart::Delimiter { at: start + found });
        };
        at = start + found + dashed.len();

        head.measures(content)?;
        match known_field(head.name)? {
            Some(_) if head.is_file => return Err(BadMultipart::PartName { at: start }),
            Some("model") if model.is_some() => return Err(BadMultipart::DuplicateField("model")),
            Some("model") => {
                let name = std::str::from_utf8(content).ok().filter(|_| is_model_name(content));
                let value = Span::new(start, start + content.len());
                model = Some((name.ok_or(BadMultipart::ModelOdd)?, value, head.length));
            }
            Some("stream") if stream.is_some() => return Err(BadMultipart::DuplicateField("stream")),
            Some("stream") => match content {
                b"true" => stream = Some(true),
                b"false" => stream = Some(false),
                _ => return Err(BadMultipart::StreamNotBoolean),
            },
            _ => {}
        }
    }
    let (model, model_value, model_length) = model.ok_or(BadMultipart::ModelMissing)?;
    Ok(MultipartPeek { model, model_value, model_length, stream: stream.unwrap_or(false) })
}

/// The body that was peeked, with `model` as its model; what is added is appended to `added`.
///
/// The new name cannot make a delimiter: it holds no line break, and a delimiter starts a line.
pub fn splice(peek: &MultipartPeek<'_>, body_bytes: usize, model: &str, added: &mut Vec<u8>) -> Spliced {
    debug_assert!(!model.contains(['\r', '\n']), "a model name holds no line break");
    let mut edits: SmallVec<[Edit; 2]> = SmallVec::new();
    if let Some(replaced) = peek.model_length {
        let with = json::append(added, |added| added.extend_from_slice(model.len().to_string().as_bytes()));
        edits.push(Edit { replaced, with });
    }
    let with = json::append(added, |added| added.extend_from_slice(model.as_bytes()));
    edits.push(Edit { replaced: peek.model_value, with });
    json::apply(body_bytes, &edits)
}

/// `model` or `stream`, if the field is that; refuses what some parser could take for a routing field (`Model`,
/// `model[]`), and what redirects.
fn known_field(name: &str) -> Result<Option<&'static str>, BadMultipart> {
    let stem = name.split('[').next().unwrap_or_default();
    if let Some(redirecting) = redirects(stem) {
        return Err(BadMultipart::Redirecting(redirecting));
    }
    match routing_key(stem) {
        Some(routing) if routing != stem => Err(BadMultipart::FieldCase(routing)),
        Some(routing @ ("model" | "stream")) if routing != name => Err(BadMultipart::FieldCase(routing)),
        known => Ok(known.filter(|_| stem == name)),
    }
}

/// A part's head, of which only the name decides anything.
#[derive(Default)]
struct Head<'a> {
    name: &'a str,
    /// It gives a file name: some parsers would not look for a field here.
    is_file: bool,
    /// The value of its Content-Length.
    length: Option<Span>,
    stated_bytes: Option<usize>,
    /// Where the content starts, in the body.
    end: usize,
}

impl<'a> Head<'a> {
    /// The head that starts at `start`, the first line after a delimiter.
    fn parse(body: &'a [u8], start: usize) -> Result<Self, BadMultipart> {
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
    fn measures(&self, content: &[u8]) -> Result<(), BadMultipart> {
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

struct Parameter<'a> {
    name: &'a [u8],
    value: &'a [u8],
}

/// The parameter that `rest`, which starts at its semicolon, starts with, and what follows it.
fn parameter(rest: &[u8]) -> Option<(Parameter<'_>, &[u8])> {
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

fn is_token(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte)
}

fn is_control(byte: u8) -> bool {
    (byte < 0x20 && byte != b'\t') || byte == 0x7F
}

/// Whatever is accepted lies in the body, and reads back with another model in its place.
#[cfg(any(test, feature = "fuzzing"))]
pub fn fuzz_multipart(data: &[u8]) {
    let (content_type, body) =
        data.iter().position(|&b| b == b'\n').map_or((data, data), |end| (&data[..end], &data[end + 1..]));
    let Ok(boundary) = boundary(content_type) else { return };
    let Ok(peek) = peek_multipart(body, boundary) else { return };
    assert_eq!(peek.model_value.of(body), peek.model.as_bytes());
    let mut added = Vec::new();
    let spliced = splice(&peek, body.len(), "spliced/model", &mut added);
    let sent = spliced.concat(body, &added);
    assert_eq!(sent.len(), spliced.len);
    // Only a boundary that the new name happens to hold can spoil it.
    if memmem::find(b"--spliced/model", &[b"--", boundary].concat()).is_none() {
        let again =
            peek_multipart(&sent, boundary).expect("a spliced form is as good as the one that was peeked");
        assert_eq!((again.model, again.stream), ("spliced/model", peek.stream));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::json::mutate;

    const FILE: &str =
        "Content-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\nContent-Type: audio/wav";
    const MODEL: &str = "Content-Disposition: form-data; name=\"model\"";
    const STREAM: &str = "Content-Disposition: form-data; name=\"stream\"";

    /// A form with boundary `XX` out of heads and contents.
    fn form(parts: &[(&str, &str)]) -> String {
        let parts: String =
            parts.iter().map(|(head, content)| format!("--XX\r\n{head}\r\n\r\n{content}\r\n")).collect();
        parts + "--XX--\r\n"
    }

    #[track_caller]
    fn accepts(body: &str, model: &str, stream: bool) {
        let peek = peek_multipart(body.as_bytes(), b"XX").unwrap_or_else(|bad| panic!("{body}: {bad:?}"));
        assert_eq!((peek.model, peek.stream), (model, stream), "{body}");
        assert_eq!(peek.model_value.of(body.as_bytes()), model.as_bytes(), "{body}");
    }

    #[track_caller]
    fn refuses(body: &str, bad: BadMultipart) {
        assert_eq!(peek_multipart(body.as_bytes(), b"XX"), Err(bad), "{body}");
    }

    #[track_caller]
    fn refuses_head(head: &str, bad: BadMultipart) {
        refuses(&form(&[(head, "m")]), bad);
    }

    #[test]
    fn the_boundary_is_taken_from_a_strict_content_type() {
        for (content_type, expect) in [
            ("multipart/form-data; boundary=XX", Ok("XX")),
            ("Multipart/Form-Data;boundary=\"a b=c/d\"", Ok("a b=c/d")),
            ("multipart/form-data; charset=utf-8 ; Boundary=----x1", Ok("----x1")),
            ("multipart/form-data", Err(BadMultipart::Boundary)),
            ("multipart/form-data; boundary=\"\"", Err(BadMultipart::Boundary)),
            ("multipart/form-data; boundary=a; boundary=a", Err(BadMultipart::Boundary)),
            ("multipart/form-data; boundary=\"a \"", Err(BadMultipart::Boundary)),
            ("multipart/form-data; boundary=a*b", Err(BadMultipart::Boundary)),
            ("multipart/form-data; boundary=a b", Err(BadMultipart::NotFormData)),
            ("multipart/form-data; boundary=\"a", Err(BadMultipart::NotFormData)),
            ("multipart/form-data; boundary=\"a\\\"b\"", Err(BadMultipart::NotFormData)),
            ("multipart/form-data boundary=a", Err(BadMultipart::NotFormData)),
            ("multipart/form-data;", Err(BadMultipart::NotFormData)),
            ("multipart/form-datax; boundary=a", Err(BadMultipart::NotFormData)),
            ("multipart/mixed; boundary=a", Err(BadMultipart::NotFormData)),
            ("application/json", Err(BadMultipart::NotFormData)),
            ("", Err(BadMultipart::NotFormData)),
        ] {
            assert_eq!(boundary(content_type.as_bytes()), expect.map(str::as_bytes), "{content_type}");
        }
        for (length, good) in [(BOUNDARY_BYTES_MAX, true), (BOUNDARY_BYTES_MAX + 1, false)] {
            let content_type = format!("multipart/form-data; boundary={}", "b".repeat(length));
            assert_eq!(boundary(content_type.as_bytes()).is_ok(), good);
        }
    }

    #[test]
    fn the_model_is_read_wherever_it_stands() {
        accepts(&form(&[(MODEL, "whisper-1")]), "whisper-1", false);
        accepts(&form(&[(FILE, "\r\n-- \0 X\r\n--X"), (STREAM, "true"), (MODEL, "a/b")]), "a/b", true);
        accepts(&form(&[(MODEL, "m"), (FILE, "")]), "m", false);
        accepts(form(&[(MODEL, "m"), (STREAM, "false")]).trim_end(), "m", false);
        accepts(&form(&[("content-disposition:form-data;name=model", "m")]), "m", false);
        accepts(
            &form(&[("Content-Type: text/plain\r\nContent-Disposition: form-data; name=\"model\" ", "m")]),
            "m",
            false,
        );
        let image =
            "Content-Disposition: form-data; name=\"image[]\"; filename=\"C:\\x\\é.png\"; filename*=UTF-8''x";
        accepts(&form(&[(image, "1"), (image, "2"), (MODEL, "m")]), "m", false);
        let binary = "Content-Transfer-Encoding: binary\r\nContent-Disposition: form-data; name=\"file\"";
        accepts(&form(&[(binary, "1"), (MODEL, "m")]), "m", false);
    }

    #[test]
    fn there_is_exactly_one_plain_model() {
        refuses("--XX--", BadMultipart::ModelMissing);
        refuses(&form(&[(FILE, "x")]), BadMultipart::ModelMissing);
        refuses(&form(&[(MODEL, "m"), (FILE, "x"), (MODEL, "m")]), BadMultipart::DuplicateField("model"));
        refuses(
            &form(&[(MODEL, "m"), (STREAM, "true"), (STREAM, "true")]),
            BadMultipart::DuplicateField("stream"),
        );
        for odd in ["", " m", "m\r\n", "\"m\"", "a b", "é", &"m".repeat(257)] {
            refuses(&form(&[(MODEL, odd)]), BadMultipart::ModelOdd);
        }
        for odd in ["True", "1", "", "true "] {
            refuses(&form(&[(MODEL, "m"), (STREAM, odd)]), BadMultipart::StreamNotBoolean);
        }
    }

    #[test]
    fn names_that_could_be_read_as_ours_are_refused() {
        let named = |name: &str| format!("Content-Disposition: form-data; name=\"{name}\"");
        for (name, bad) in [
            ("Model", BadMultipart::FieldCase("model")),
            ("model[]", BadMultipart::FieldCase("model")),
            ("model[0]", BadMultipart::FieldCase("model")),
            ("STREAM", BadMultipart::FieldCase("stream")),
            ("Messages[]", BadMultipart::FieldCase("messages")),
            ("api_base", BadMultipart::Redirecting("api_base")),
            ("API_KEY", BadMultipart::Redirecting("api_key")),
            ("extra_headers[x]", BadMultipart::Redirecting("extra_headers")),
            ("litellm_params", BadMultipart::Redirecting("litellm_")),
            ("%6dodel", BadMultipart::PartName { at: 6 }),
            ("mod\\el", BadMultipart::PartName { at: 6 }),
            ("modèl", BadMultipart::PartName { at: 6 }),
            ("model ", BadMultipart::PartName { at: 6 }),
            ("", BadMultipart::PartName { at: 6 }),
        ] {
            refuses_head(&named(name), bad);
        }
    }

    #[test]
    fn a_part_head_is_strict() {
        let (at, start) = (6, 6);
        for head in [
            "",
            "X: y",
            "Content-Disposition: form-data",
            "Content-Disposition: attachment; name=\"model\"",
            "Content-Disposition: form-data; name=\"model\"; name=\"model\"",
            "Content-Disposition: form-data; name*=UTF-8''model",
            "Content-Disposition: form-data; name=\"model\"; name*=x",
            "Content-Disposition: form-data; name=\"model\"; x=y",
            "Content-Disposition: form-data; name=\"model\"x",
            "Content-Disposition: form-data; name=\"model\";",
            "Content-Disposition: form-data; name=\"x\"; filename=\"\\\"; name=\"model\"",
            "Content-Disposition: form-data; name = \"model\"",
        ] {
            let bad = peek_multipart(form(&[(head, "m")]).as_bytes(), b"XX").map(drop);
            assert!(
                matches!(bad, Err(BadMultipart::PartName { .. } | BadMultipart::PartHead { .. })),
                "{head}: {bad:?}"
            );
        }
        for head in [
            format!("{MODEL}\r\n{MODEL}"),
            format!("{MODEL}\nX: y"),
            format!("{MODEL}\rX: y"),
            format!("{MODEL}\r\n folded"),
            format!("{MODEL}\r\nX : y"),
            format!("{MODEL}\r\n: y"),
            format!("{MODEL}\r\nX: \0"),
            format!("{MODEL}\r\nno colon"),
            format!("{MODEL}\r\nContent-Transfer-Encoding: base64"),
            format!("{MODEL}\r\nContent-Transfer-Encoding: quoted-printable"),
            format!("{MODEL}\r\nContent-Length: 1\r\nContent-Length: 1"),
            format!("{MODEL}\r\nContent-Length: +1"),
        ] {
            refuses_head(&head, BadMultipart::PartHead { at });
        }
        let long = format!("{MODEL}\r\nX: {}", "y".repeat(PART_HEAD_BYTES_MAX));
        refuses_head(&long, BadMultipart::PartHeadTooLarge { at: start });
        let file = format!("{MODEL}; filename=\"m\"");
        assert!(matches!(
            peek_multipart(form(&[(&file, "m")]).as_bytes(), b"XX"),
            Err(BadMultipart::PartName { .. })
        ));
    }

    #[test]
    fn a_part_s_own_content_length_is_true_and_follows_the_model() {
        let head = |bytes: usize| format!("Content-Length:  {bytes}\r\n{MODEL}");
        refuses_head(&head(2), BadMultipart::PartHead { at: 6 + head(2).len() + 4 });
        let body = form(&[(&head(3), "old"), (FILE, "x")]);
        let peek = peek_multipart(body.as_bytes(), b"XX").expect("a good form");
        let mut added = Vec::new();
        let sent = splice(&peek, body.len(), "provider-model", &mut added).concat(body.as_bytes(), &added);
        assert_eq!(sent, form(&[(&head(14), "provider-model"), (FILE, "x")]).as_bytes());
    }

    #[test]
    fn delimiters_are_written_one_way_and_occur_nowhere_else() {
        let odd = |at| BadMultipart::Delimiter { at };
        refuses("", odd(0));
        refuses(&format!("\r\n{}", form(&[(MODEL, "m")])), odd(0));
        refuses(&format!("preamble\r\n{}", form(&[(MODEL, "m")])), odd(0));
        refuses("--XX", BadMultipart::Unclosed);
        refuses("--XX \r\n", odd(4));
        refuses("--XXX\r\n", odd(4));
        refuses("--XX\n\n", odd(4));
        let good = form(&[(MODEL, "m")]);
        refuses(&format!("{good}x"), BadMultipart::TrailingBytes { at: good.len() - 2 });
        refuses(&format!("{good}\r\n"), BadMultipart::TrailingBytes { at: good.len() - 2 });
        for hidden in ["--XX", "a\n--XX\n", "a\r--XX\r", "\r\n--XXx", "\r\n--XX \r\n", "--XX--"] {
            let bad = peek_multipart(form(&[(FILE, hidden), (MODEL, "m")]).as_bytes(), b"XX").map(drop);
            assert!(matches!(bad, Err(BadMultipart::Delimiter { .. })), "{hidden:?}: {bad:?}");
        }
        // The blank line's CRLF is not also the delimiter's.
        let bad = peek_multipart(format!("--XX\r\n{MODEL}\r\n\r\n--XX--").as_bytes(), b"XX").map(drop);
        assert!(matches!(bad, Err(BadMultipart::Delimiter { .. })), "{bad:?}");
    }

    #[test]
    fn a_form_cut_anywhere_is_refused() {
        let whole = form(&[(FILE, "abc"), (STREAM, "true"), (MODEL, "m")]);
        let body = whole.trim_end();
        accepts(body, "m", true);
        for cut in 0..body.len() {
            assert!(peek_multipart(&body.as_bytes()[..cut], b"XX").is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn the_model_is_replaced_and_nothing_else() {
        let body = form(&[(FILE, "abc"), (MODEL, "openai/whisper-1"), (STREAM, "true")]);
        let peek = peek_multipart(body.as_bytes(), b"XX").expect("a good form");
        let mut added = b"before".to_vec();
        let spliced = splice(&peek, body.len(), "whisper-1", &mut added);
        let sent = spliced.concat(body.as_bytes(), &added);
        assert_eq!(sent, form(&[(FILE, "abc"), (MODEL, "whisper-1"), (STREAM, "true")]).as_bytes());
        assert_eq!(spliced.len, sent.len());
    }

    #[test]
    fn many_near_delimiters_and_many_parts_stay_linear() {
        let near = "\r\n--X".repeat(1 << 18);
        accepts(&form(&[(FILE, &near), (MODEL, "m")]), "m", false);
        let mut parts = vec![(FILE, "x"); 20_000];
        parts.push((MODEL, "m"));
        accepts(&form(&parts), "m", false);
    }

    #[test]
    fn mutated_forms_never_panic() {
        let with_length = format!("{MODEL}\r\nContent-Length: 1");
        let seeds = [
            form(&[(MODEL, "m"), (FILE, "abc")]),
            form(&[(FILE, "\r\n-"), (STREAM, "true"), (MODEL, "a/b")]),
            form(&[(&with_length, "m")]),
        ]
        .map(|body| format!("multipart/form-data; boundary=XX\n{body}"));
        let seeds: Vec<&[u8]> = seeds.iter().map(String::as_bytes).collect();
        mutate::each(&seeds, 8_000, fuzz_multipart);
    }
}
