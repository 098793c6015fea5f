//! Reads the `model` of a `multipart/form-data` body (RFC 7578), as strictly as [`super::json`] reads that of a JSON body.
//!
//! The rule that keeps other parsers from seeing other parts: `--boundary` occurs nowhere but in delimiters that are
//! written exactly as RFC 2046 has them. A client chooses its boundary so that its files do not hold it, so no honest
//! body is refused.

mod bad;
mod head;
mod parameter;
mod scan;

use smallvec::SmallVec;

pub use self::{bad::BadMultipart, parameter::boundary, scan::FormScan};
use super::json::{self, Edit, Spliced};
use crate::base::span::Span;

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

/// Reads the body of a form endpoint, which must have exactly one `model` part.
pub fn peek_multipart<'a>(body: &'a [u8], boundary: &[u8]) -> Result<MultipartPeek<'a>, BadMultipart> {
    let mut scan = FormScan::new(boundary);
    scan.feed(body);
    scan.finish(body)
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
    if memchr::memmem::find(b"--spliced/model", &[b"--", boundary].concat()).is_none() {
        let again =
            peek_multipart(&sent, boundary).expect("a spliced form is as good as the one that was peeked");
        assert_eq!((again.model, again.stream), ("spliced/model", peek.stream));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        base::limits::{BOUNDARY_BYTES_MAX, PART_HEAD_BYTES_MAX},
        wire::json::mutate,
    };

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
    fn cut_anywhere_a_form_is_read_alike() {
        let length = format!("Content-Length: 4\r\n{MODEL}");
        for whole in [
            form(&[(FILE, "\r\n-\r\n--X"), (STREAM, "true"), (&length, "m/1x")]),
            form(&[(&length, "m"), (FILE, "x")]),
            form(&[(MODEL, "m"), (FILE, "--XX")]),
            form(&[(MODEL, "m"), (MODEL, "m")]),
            form(&[(FILE, "x")]),
            form(&[("X", "x")]),
            form(&[(MODEL, "m")]) + "x",
            form(&[(MODEL, "m")]) + "\r\n",
            form(&[(MODEL, "m")]).trim_end().to_owned() + "\r",
            "--XX \r\n".to_owned(),
            "--X".to_owned(),
            "x--XX".to_owned(),
        ] {
            let body = whole.as_bytes();
            let expect = peek_multipart(body, b"XX");
            let pieces = |cuts: &[usize]| {
                let mut scan = FormScan::new(b"XX");
                cuts.iter().chain([&body.len()]).for_each(|&cut| scan.feed(&body[..cut]));
                scan.finish(body)
            };
            for cut in 0..=body.len() {
                assert_eq!(pieces(&[cut]), expect, "{whole}, cut at {cut}");
                assert_eq!(pieces(&[cut / 2, cut]), expect, "{whole}, cut at {} and {cut}", cut / 2);
            }
            assert_eq!(pieces(&(0..body.len()).collect::<Vec<_>>()), expect, "{whole}");
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
