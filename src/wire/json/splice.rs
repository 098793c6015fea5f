//! Turns the changes to a body into ranges: what is not changed is never copied and stays byte-identical.
//!
//! Invariant: the pieces, in order, are the body with the edits applied and nothing else.

use smallvec::SmallVec;

use super::{IncludeUsage, Peek, StreamOptions};
use crate::base::span::Span;

/// A stretch of the body that is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Bytes of the body as the client sent it.
    Body(Span),
    /// Bytes of the buffer of additions.
    Added(Span),
}

/// Two edits make at most five pieces, so this never allocates.
pub type Pieces = SmallVec<[Piece; 8]>;

/// A body as it will be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spliced {
    pub pieces: Pieces,
    /// The sum of the pieces' lengths: the Content-Length.
    pub len: usize,
}

/// The body that was peeked, with `model` as its model and, if `inject_usage`, with the usage event asked for.
///
/// `inject_usage` does nothing to a body that does not ask for a stream: there, `stream_options` is an error upstream.
/// What is added is appended to `added`, which the pieces then point into.
pub fn splice(
    peek: &Peek<'_>,
    body_bytes: usize,
    model: &str,
    inject_usage: bool,
    added: &mut Vec<u8>,
) -> Spliced {
    let mut edits: SmallVec<[Edit; 2]> = SmallVec::new();
    edits.push(Edit { replaced: peek.model_value, with: append(added, |added| quote(model, added)) });
    if inject_usage && peek.stream {
        edits.extend(usage_edit(peek, added));
        edits.sort_unstable_by_key(|edit| edit.replaced.range().start);
    }
    apply(body_bytes, &edits)
}

impl Spliced {
    /// The bytes of one piece.
    pub fn bytes<'b>(piece: Piece, body: &'b [u8], added: &'b [u8]) -> &'b [u8] {
        match piece {
            Piece::Body(span) => span.of(body),
            Piece::Added(span) => span.of(added),
        }
    }

    /// The whole body in one buffer: for tests and for whoever cannot send pieces.
    pub fn concat(&self, body: &[u8], added: &[u8]) -> Vec<u8> {
        let mut whole = Vec::with_capacity(self.len);
        for &piece in &self.pieces {
            whole.extend_from_slice(Self::bytes(piece, body, added));
        }
        whole
    }
}

/// Bytes of the body (perhaps none) that give way to bytes of the additions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Edit {
    pub(crate) replaced: Span,
    pub(crate) with: Span,
}

/// `edits` are in order and do not overlap.
pub(crate) fn apply(body_bytes: usize, edits: &[Edit]) -> Spliced {
    let mut pieces = Pieces::new();
    let mut sent = 0; // body bytes before this are in a piece, or replaced
    for edit in edits {
        let replaced = edit.replaced.range();
        debug_assert!(
            sent <= replaced.start && replaced.end <= body_bytes,
            "edits are in order and inside the body"
        );
        if sent < replaced.start {
            pieces.push(Piece::Body(Span::new(sent, replaced.start)));
        }
        pieces.push(Piece::Added(edit.with));
        sent = replaced.end;
    }
    if sent < body_bytes {
        pieces.push(Piece::Body(Span::new(sent, body_bytes)));
    }
    let len = pieces.iter().map(|&(Piece::Body(span) | Piece::Added(span))| span.len()).sum();
    Spliced { pieces, len }
}

/// Where `write` put its bytes.
pub(crate) fn append(added: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) -> Span {
    let start = added.len();
    write(added);
    Span::new(start, added.len())
}

fn usage_edit(peek: &Peek<'_>, added: &mut Vec<u8>) -> Option<Edit> {
    let (replaced, with) = match peek.stream_options {
        // The object holds a model, so a comma after the new first member is always due.
        StreamOptions::Absent => {
            (Span::new(peek.brace, peek.brace), &br#""stream_options":{"include_usage":true},"#[..])
        }
        StreamOptions::Null(value) => (value, &br#"{"include_usage":true}"#[..]),
        StreamOptions::Object { include_usage: Some(IncludeUsage { asked: true, .. }), .. } => return None,
        StreamOptions::Object { include_usage: Some(IncludeUsage { value, .. }), .. } => {
            (value, &b"true"[..])
        }
        StreamOptions::Object { value, empty, include_usage: None } => {
            let inside = value.range().start + 1;
            let member: &[u8] = if empty { br#""include_usage":true"# } else { br#""include_usage":true,"# };
            (Span::new(inside, inside), member)
        }
    };
    Some(Edit { replaced, with: append(added, |added| added.extend_from_slice(with)) })
}

/// `text` as a JSON string. A model name never needs the escapes; a configured one is not trusted to.
fn quote(text: &str, added: &mut Vec<u8>) {
    added.push(b'"');
    for &byte in text.as_bytes() {
        match byte {
            b'"' | b'\\' => added.extend_from_slice(&[b'\\', byte]),
            0..0x20 => {
                let digit = |nibble: u8| b"0123456789abcdef"[usize::from(nibble)];
                added.extend_from_slice(&[b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(byte & 15)]);
            }
            _ => added.push(byte),
        }
    }
    added.push(b'"');
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::wire::json::peek;

    #[track_caller]
    fn check(body: &str, inject_usage: bool, expect: &str) {
        let peek = peek(body.as_bytes()).expect("a good body");
        let mut added = b"before".to_vec();
        let spliced = splice(&peek, body.len(), "new", inject_usage, &mut added);
        let sent = spliced.concat(body.as_bytes(), &added);
        assert_eq!(String::from_utf8(sent).as_deref(), Ok(expect));
        assert_eq!(spliced.len, expect.len());
        assert!(!spliced.pieces.spilled());

        let mut document: Value = serde_json::from_str(body).expect("a good body");
        document["model"] = json!("new");
        if inject_usage && document["stream"] == json!(true) {
            document["stream_options"]["include_usage"] = json!(true);
        }
        assert_eq!(serde_json::from_str::<Value>(expect).ok(), Some(document));
    }

    #[test]
    fn the_model_is_replaced_and_nothing_else() {
        check(r#"{"model":"old"}"#, false, r#"{"model":"new"}"#);
        check(
            " { \"a\" : 1.0e5 , \"model\"\t: \"o\\u006cd\" } ",
            false,
            " { \"a\" : 1.0e5 , \"model\"\t: \"new\" } ",
        );
        check(r#"{"mod\u0065l":"old"}"#, false, r#"{"mod\u0065l":"new"}"#);
        check(r#"{"x":{"model":"old"},"model":"old"}"#, false, r#"{"x":{"model":"old"},"model":"new"}"#);
    }

    #[test]
    fn the_usage_event_is_asked_for_wherever_stream_options_stand() {
        check(
            r#"{"model":"old","stream":true}"#,
            true,
            r#"{"stream_options":{"include_usage":true},"model":"new","stream":true}"#,
        );
        check(
            r#"{"stream":true,"stream_options":null,"model":"old"}"#,
            true,
            r#"{"stream":true,"stream_options":{"include_usage":true},"model":"new"}"#,
        );
        check(
            r#"{"model":"old","stream":true,"stream_options":{ } }"#,
            true,
            r#"{"model":"new","stream":true,"stream_options":{"include_usage":true } }"#,
        );
        check(
            r#"{"model":"old","stream":true,"stream_options": {"include_obfuscation":false}}"#,
            true,
            r#"{"model":"new","stream":true,"stream_options": {"include_usage":true,"include_obfuscation":false}}"#,
        );
        for no in ["false", "null"] {
            check(
                &format!(
                    r#"{{"stream":true,"stream_options":{{"a":1,"include_usage": {no} }},"model":"old"}}"#
                ),
                true,
                r#"{"stream":true,"stream_options":{"a":1,"include_usage": true },"model":"new"}"#,
            );
        }
    }

    #[test]
    fn who_asked_already_or_does_not_stream_is_left_alone() {
        check(
            r#"{"stream_options":{"include_usage":true},"model":"old","stream":true}"#,
            true,
            r#"{"stream_options":{"include_usage":true},"model":"new","stream":true}"#,
        );
        check(r#"{"model":"old","stream":false}"#, true, r#"{"model":"new","stream":false}"#);
        check(r#"{"model":"old"}"#, true, r#"{"model":"new"}"#);
        check(r#"{"model":"old","stream":true}"#, false, r#"{"model":"new","stream":true}"#);
    }

    #[test]
    fn any_name_is_quoted_so_that_it_reads_back() {
        for name in ["plain", "a\"b", "a\\b", "\0\u{1f}\n", "é😀", ""] {
            let mut added = Vec::new();
            quote(name, &mut added);
            assert_eq!(serde_json::from_slice::<String>(&added).ok().as_deref(), Some(name));
        }
    }
}
