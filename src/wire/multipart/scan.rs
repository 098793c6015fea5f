//! The walk over a form's parts, read by read: it can stop wherever the bytes do, and go on when there are more.
//!
//! However the bytes are cut, the end is the same, and no byte of a file is looked at more than twice.

use memchr::memmem;

use super::{BadMultipart, MultipartPeek, head::Head};
use crate::{
    base::span::Span,
    wire::{
        json::{redirects, routing_key},
        model_name::is_model_name,
    },
};

/// What is known of a form that is still coming.
#[derive(Debug)]
pub struct FormScan {
    /// `--boundary`.
    dashed: Box<[u8]>,
    due: Due,
    model: Option<Model>,
    stream: Option<bool>,
    /// Nothing after it is looked at.
    bad: Option<BadMultipart>,
}

#[derive(Debug)]
struct Model {
    value: Span,
    length: Option<Span>,
}

/// What must come next.
#[derive(Clone, Copy, Debug)]
enum Due {
    /// The first delimiter, with which the form begins.
    Start,
    /// At `at`, just after a delimiter's boundary: either a part's head, or the end.
    Part { at: usize },
    /// The rest of a part whose head is at `head`; before `sought` no delimiter begins.
    Content { head: usize, sought: usize },
    /// Nothing but a line's end, at `at`.
    Nothing { at: usize },
}

impl FormScan {
    pub fn new(boundary: &[u8]) -> Self {
        let dashed = [b"--", boundary].concat().into();
        Self { dashed, due: Due::Start, model: None, stream: None, bad: None }
    }

    /// Looks at what `body`, all that has come, holds beyond what was seen before.
    pub fn feed(&mut self, body: &[u8]) {
        if self.bad.is_none() {
            self.bad = self.walk(body).err();
        }
    }

    /// What the form says, if `body` is all of it.
    pub fn finish<'a>(&self, body: &'a [u8]) -> Result<MultipartPeek<'a>, BadMultipart> {
        if let Some(bad) = self.bad {
            return Err(bad);
        }
        match self.due {
            Due::Start => return Err(BadMultipart::Delimiter { at: 0 }),
            Due::Part { .. } | Due::Content { .. } => return Err(BadMultipart::Unclosed),
            Due::Nothing { at } if body.len() == at + 1 => return Err(BadMultipart::TrailingBytes { at }),
            Due::Nothing { .. } => {}
        }
        let Model { value, length } = self.model.as_ref().ok_or(BadMultipart::ModelMissing)?;
        let model = std::str::from_utf8(value.of(body)).map_err(|_| BadMultipart::ModelOdd)?;
        let stream = self.stream.unwrap_or(false);
        Ok(MultipartPeek { model, model_value: *value, model_length: *length, stream })
    }

    fn walk(&mut self, body: &[u8]) -> Result<(), BadMultipart> {
        let dashed = std::mem::take(&mut self.dashed);
        let delimiters = memmem::Finder::new(&dashed);
        let walked = self.parts(body, &delimiters);
        self.dashed = dashed;
        walked
    }

    fn parts(&mut self, body: &[u8], delimiters: &memmem::Finder<'_>) -> Result<(), BadMultipart> {
        let dashed = delimiters.needle();
        loop {
            match self.due {
                Due::Start => {
                    if body.len() < dashed.len() && dashed.starts_with(body) {
                        return Ok(());
                    }
                    if !body.starts_with(dashed) {
                        return Err(BadMultipart::Delimiter { at: 0 });
                    }
                    self.due = Due::Part { at: dashed.len() };
                }
                Due::Part { at } => {
                    let rest = &body[at..];
                    if rest.len() < 2 {
                        return Ok(());
                    }
                    if rest.starts_with(b"--") {
                        self.due = Due::Nothing { at: at + 2 };
                        continue;
                    }
                    if !rest.starts_with(b"\r\n") {
                        return Err(BadMultipart::Delimiter { at });
                    }
                    let start = at + 2;
                    match Head::parse(body, start) {
                        Ok(head) => self.due = Due::Content { head: start, sought: head.end },
                        Err(BadMultipart::Unclosed) => return Ok(()),
                        Err(bad) => return Err(bad),
                    }
                }
                Due::Content { head, sought } => {
                    let Some(found) = delimiters.find(&body[sought..]) else {
                        // A delimiter may have begun in the last bytes.
                        let sought = sought.max((body.len() + 1).saturating_sub(dashed.len()));
                        self.due = Due::Content { head, sought };
                        return Ok(());
                    };
                    let delimiter = sought + found;
                    let head = Head::parse(body, head)?;
                    let Some(content) = body[head.end..delimiter].strip_suffix(b"\r\n") else {
                        return Err(BadMultipart::Delimiter { at: delimiter });
                    };
                    self.part(&head, content)?;
                    self.due = Due::Part { at: delimiter + dashed.len() };
                }
                Due::Nothing { at } => {
                    let is_line_end = matches!(&body[at..], b"" | b"\r" | b"\r\n");
                    return if is_line_end { Ok(()) } else { Err(BadMultipart::TrailingBytes { at }) };
                }
            }
        }
    }

    /// Reads one whole part.
    fn part(&mut self, head: &Head<'_>, content: &[u8]) -> Result<(), BadMultipart> {
        head.measures(content)?;
        match known_field(head.name)? {
            Some(_) if head.is_file => return Err(BadMultipart::PartName { at: head.end }),
            Some("model") if self.model.is_some() => return Err(BadMultipart::DuplicateField("model")),
            Some("model") if !is_model_name(content) => return Err(BadMultipart::ModelOdd),
            Some("model") => {
                let value = Span::new(head.end, head.end + content.len());
                self.model = Some(Model { value, length: head.length });
            }
            Some("stream") if self.stream.is_some() => return Err(BadMultipart::DuplicateField("stream")),
            Some("stream") => match content {
                b"true" => self.stream = Some(true),
                b"false" => self.stream = Some(false),
                _ => return Err(BadMultipart::StreamNotBoolean),
            },
            _ => {}
        }
        Ok(())
    }
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
