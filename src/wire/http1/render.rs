//! Writes heads from parsed parts. Nothing raw is ever copied into one.
//!
//! What a peer sent gets into a head only as a [`HeaderSafe`] or a [`TargetSafe`], which can not hold a line end; names are
//! ours. So a head that is written here reads back as exactly the fields that were put in.

use super::fields::{Field, is_token, is_value, is_value_byte, trim};
use crate::base::span::Span;

/// The chunk that ends a body.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";
/// What follows the payload of every other chunk.
pub const CHUNK_END: &[u8] = b"\r\n";
/// The interim answer to `Expect: 100-continue`.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The value of a field: no control byte but HTAB, no white space around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderSafe<'a>(&'a [u8]);

impl<'a> HeaderSafe<'a> {
    /// `None` if a control byte is in it. White space around it is not part of a value (RFC 9110 §5.5) and is left off.
    pub fn new(value: &'a [u8]) -> Option<Self> {
        is_value(value).then(|| Self(trim(value)))
    }

    /// What a field says that was read from `head`. No other value gets out of the parser, so it is not looked at again.
    pub fn read(field: &Field, head: &'a [u8]) -> Self {
        let value = field.value.of(head);
        debug_assert_eq!(Self::new(value), Some(Self(value)), "a parsed value is safe");
        Self(value)
    }

    /// What its type lets be nothing else, without a look at it.
    pub fn of(text: &'a impl FieldText) -> Self {
        let value = text.value();
        debug_assert_eq!(Self::new(value), Some(Self(value)), "its type says so");
        Self(value)
    }

    pub fn bytes(self) -> &'a [u8] {
        self.0
    }
}

/// Text that can only be made of visible ASCII.
pub trait FieldText {
    fn value(&self) -> &[u8];
}

impl HeaderSafe<'static> {
    /// A value of ours, checked when it is compiled: `const { HeaderSafe::fixed("close") }`.
    ///
    /// # Panics
    /// If the value is not safe.
    pub const fn fixed(value: &'static str) -> Self {
        let bytes = value.as_bytes();
        let mut at = 0;
        while at < bytes.len() {
            let edge = at == 0 || at + 1 == bytes.len();
            assert!(
                is_value_byte(bytes[at]) && !(edge && matches!(bytes[at], b' ' | b'\t')),
                "a value on one line"
            );
            at += 1;
        }
        Self(bytes)
    }
}

/// A part of a request target: visible ASCII.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TargetSafe<'a>(&'a [u8]);

impl<'a> TargetSafe<'a> {
    /// `None` if a space, a control byte or a byte beyond ASCII is in it.
    pub const fn new(part: &'a [u8]) -> Option<Self> {
        let mut at = 0;
        while at < part.len() {
            if !part[at].is_ascii_graphic() {
                return None;
            }
            at += 1;
        }
        Some(Self(part))
    }
}

impl TargetSafe<'static> {
    /// A part of ours, checked when it is compiled.
    ///
    /// # Panics
    /// If the part is not safe.
    pub const fn fixed(part: &'static str) -> Self {
        Self::new(part.as_bytes()).expect("visible ASCII")
    }
}

/// How each of many requests to one server begins, written once: the first line and the Host field, but for the end of the
/// target, which stands between its two halves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    before: Box<[u8]>,
    behind: Box<[u8]>,
}

impl Opening {
    /// `method` is a token of ours, `base` what every target begins with.
    pub fn new(method: &'static str, base: TargetSafe<'_>, host: HeaderSafe<'_>) -> Self {
        debug_assert!(is_token(method.as_bytes()), "a method is a token");
        Self {
            before: [method.as_bytes(), b" ", base.0].concat().into(),
            behind: [b" HTTP/1.1\r\nhost: ", host.0, b"\r\n"].concat().into(),
        }
    }

    /// Begins a request, whose target ends in `path`.
    pub fn begin<'o>(&self, out: &'o mut Vec<u8>, path: TargetSafe<'_>) -> HeadWriter<'o> {
        for piece in [&self.before, path.0, &self.behind] {
            out.extend_from_slice(piece);
        }
        HeadWriter { out }
    }
}

/// Begins a response. `status` is from 100 to 599.
pub fn status_line(out: &mut Vec<u8>, status: u16) -> HeadWriter<'_> {
    debug_assert!((100..600).contains(&status), "a status has three digits and a meaning");
    match ready_line(status) {
        Some(line) => out.extend_from_slice(line.as_bytes()),
        // A phrase may be empty.
        None => {
            out.extend_from_slice(b"HTTP/1.1 ");
            decimal(out, u64::from(status));
            out.extend_from_slice(b" \r\n");
        }
    }
    HeadWriter { out }
}

/// Goes on with a head that was left unfinished by [`HeadWriter::pause`].
pub fn resume(out: &mut Vec<u8>) -> HeadWriter<'_> {
    debug_assert!(out.ends_with(b"\r\n"), "a head that was begun ends in a line");
    HeadWriter { out }
}

/// A head that has its first line and perhaps some fields.
///
/// It says once how its body ends: [`length`](Self::length) and [`chunked`](Self::chunked) give back what can only be
/// ended.
#[must_use = "a head ends with `end`"]
pub struct HeadWriter<'o> {
    out: &'o mut Vec<u8>,
}

impl<'o> HeadWriter<'o> {
    /// Adds a field whose value is a number.
    pub fn number(&mut self, name: &'static str, value: u64) -> &mut Self {
        self.field(name, HeaderSafe(digits_of(value, &mut [0; 20])))
    }

    /// Adds a field. The name is a token, and neither `content-length` nor `transfer-encoding`.
    pub fn field(&mut self, name: &'static str, value: HeaderSafe<'_>) -> &mut Self {
        debug_assert!(is_token(name.as_bytes()), "a name is a token");
        debug_assert!(
            !name.eq_ignore_ascii_case("content-length") && !name.eq_ignore_ascii_case("transfer-encoding"),
            "framing is said once, by `length` or `chunked`"
        );
        self.pieces(name.as_bytes(), value)
    }

    fn pieces(&mut self, name: &[u8], value: HeaderSafe<'_>) -> &mut Self {
        self.out.extend_from_slice(name);
        self.out.extend_from_slice(b": ");
        self.out.extend_from_slice(value.0);
        self.out.extend_from_slice(b"\r\n");
        self
    }

    /// Adds a field that was read from another head, as it is.
    pub fn passed_on(&mut self, field: &Field, head: &[u8]) -> &mut Self {
        let name = field.name.of(head);
        debug_assert!(is_token(name), "a parsed name is a token");
        self.pieces(name, HeaderSafe::read(field, head))
    }

    /// Adds a field line that is ready, line end and all, and tells where it lies: a credential, to be wiped later.
    pub fn line(&mut self, line: &[u8]) -> Span {
        debug_assert!(line.ends_with(b"\r\n") || line.is_empty(), "a line has its end");
        let start = self.out.len();
        self.out.extend_from_slice(line);
        Span::new(start, self.out.len())
    }

    /// Leaves the head unfinished; [`resume`] goes on with it.
    pub fn pause(self) {}

    /// The body has that many bytes.
    pub fn length(self, bytes: u64) -> Framed<'o> {
        self.out.extend_from_slice(b"content-length: ");
        decimal(self.out, bytes);
        self.out.extend_from_slice(b"\r\n");
        Framed { out: self.out }
    }

    /// The body is chunked.
    pub fn chunked(self) -> Framed<'o> {
        self.out.extend_from_slice(b"transfer-encoding: chunked\r\n");
        Framed { out: self.out }
    }

    /// Ends a head that has no body, or one that lasts until the connection closes.
    pub fn end(self) {
        self.out.extend_from_slice(b"\r\n");
    }
}

/// A head that has said how its body ends.
#[must_use = "a head ends with `end`"]
pub struct Framed<'o> {
    out: &'o mut Vec<u8>,
}

impl Framed<'_> {
    pub fn end(self) {
        self.out.extend_from_slice(b"\r\n");
    }
}

/// The line in front of a chunk of `len` bytes. Nothing for none: a size of zero would end the body.
pub fn chunk_head(out: &mut Vec<u8>, len: usize) {
    if len == 0 {
        return;
    }
    let digits = (len.ilog2() / 4 + 1) as usize;
    for place in (0..digits).rev() {
        out.push(b"0123456789abcdef"[(len >> (place * 4)) & 0xf]);
    }
    out.extend_from_slice(b"\r\n");
}

fn decimal(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(digits_of(number, &mut [0; 20]));
}

/// The number's decimal digits, of which `u64::MAX` has twenty.
fn digits_of(number: u64, room: &mut [u8; 20]) -> &[u8] {
    let (mut start, mut rest) = (room.len(), number);
    for digit in room.iter_mut().rev() {
        *digit = b"0123456789"[(rest % 10) as usize];
        start -= 1;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    &room[start..]
}

/// Declares the statuses that have a phrase: RFC 9110 §15 and the registry.
macro_rules! statuses {
    ($($status:literal $phrase:literal)*) => {
        /// The whole first line of a response, where its status has a phrase.
        fn ready_line(status: u16) -> Option<&'static str> {
            Some(match status {
                $($status => concat!("HTTP/1.1 ", $status, " ", $phrase, "\r\n"),)*
                _ => return None,
            })
        }
    };
}

statuses! {
    100 "Continue"
    200 "OK"
    201 "Created"
    202 "Accepted"
    204 "No Content"
    206 "Partial Content"
    301 "Moved Permanently"
    302 "Found"
    303 "See Other"
    304 "Not Modified"
    307 "Temporary Redirect"
    308 "Permanent Redirect"
    400 "Bad Request"
    401 "Unauthorized"
    402 "Payment Required"
    403 "Forbidden"
    404 "Not Found"
    405 "Method Not Allowed"
    406 "Not Acceptable"
    408 "Request Timeout"
    409 "Conflict"
    410 "Gone"
    411 "Length Required"
    412 "Precondition Failed"
    413 "Content Too Large"
    414 "URI Too Long"
    415 "Unsupported Media Type"
    416 "Range Not Satisfiable"
    417 "Expectation Failed"
    418 "I'm a teapot"
    421 "Misdirected Request"
    422 "Unprocessable Content"
    424 "Failed Dependency"
    425 "Too Early"
    426 "Upgrade Required"
    428 "Precondition Required"
    429 "Too Many Requests"
    431 "Request Header Fields Too Large"
    451 "Unavailable For Legal Reasons"
    500 "Internal Server Error"
    501 "Not Implemented"
    502 "Bad Gateway"
    503 "Service Unavailable"
    504 "Gateway Timeout"
    505 "HTTP Version Not Supported"
    507 "Insufficient Storage"
    511 "Network Authentication Required"
    // Not registered, but what a CDN in front of a provider sends, and passed on.
    520 "Origin Error"
    521 "Origin Error"
    522 "Origin Error"
    523 "Origin Error"
    524 "Origin Error"
    525 "Origin Error"
    526 "Origin Error"
    527 "Origin Error"
    529 "Overloaded"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::http1::{
        Framing, HeadLimits, Method, chunked::read, mutations::Chance, parse_request, parse_response,
    };

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).expect("ASCII")
    }

    fn safe(value: &str) -> HeaderSafe<'_> {
        HeaderSafe::new(value.as_bytes()).expect("safe")
    }

    #[test]
    fn a_head_is_written_as_it_reads() {
        let request = written(|out| {
            let opening = Opening::new("POST", const { TargetSafe::fixed("/base") }, safe("h:80"));
            let mut head = opening.begin(out, const { TargetSafe::fixed("/v1/chat?a=b") });
            head.field("accept", const { HeaderSafe::fixed("*/*") });
            head.length(18_446_744_073_709_551_615).end();
        });
        assert_eq!(
            request,
            "POST /base/v1/chat?a=b HTTP/1.1\r\nhost: h:80\r\naccept: */*\r\ncontent-length: 18446744073709551615\r\n\r\n"
        );
        assert_eq!(
            written(|out| status_line(out, 200).chunked().end()),
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
        );
        assert_eq!(
            written(|out| status_line(out, 413).length(0).end()),
            "HTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\n\r\n"
        );
        assert_eq!(written(|out| status_line(out, 599).end()), "HTTP/1.1 599 \r\n\r\n");
    }

    #[test]
    fn a_value_that_could_start_a_line_can_not_be_made() {
        for byte in 0..=u8::MAX {
            let good = byte == b'\t' || (byte >= b' ' && byte != 0x7f);
            assert_eq!(HeaderSafe::new(&[b'a', byte, b'b']).is_some(), good, "{byte:#x}");
            assert_eq!(TargetSafe::new(&[b'/', byte]).is_some(), byte.is_ascii_graphic(), "{byte:#x}");
        }
        assert_eq!(safe(" \ta b\t").bytes(), b"a b");
        assert_eq!(safe("").bytes(), b"");
        assert_eq!(safe("  ").bytes(), b"");
    }

    #[test]
    fn what_is_written_reads_back_as_what_was_meant() {
        const NAMES: &[&str] =
            &["accept", "x-request-id", "connection", "Authorization", "a", "openai-organization"];
        let mut chance = Chance::new(7);
        for _ in 0..5_000 {
            let meant: Vec<(&'static str, Vec<u8>)> = (0..chance.below(30))
                .map(|_| {
                    let name = NAMES[chance.below(NAMES.len())];
                    // Any byte at all; a value that is not safe is not written.
                    let wild = chance.below(4) == 0;
                    let value: Vec<u8> = (0..chance.below(40))
                        .map(|_| if wild { chance.below(256) } else { b'a' as usize + chance.below(26) })
                        .map(|byte| u8::try_from(byte).unwrap_or(0))
                        .collect();
                    (name, value)
                })
                .filter(|(name, value)| {
                    HeaderSafe::new(value).is_some() && (*name != "connection" || is_token(value))
                })
                .collect();
            let length = chance.below(1 << 40) as u64;
            let framing = [Framing::None, Framing::Length(length), Framing::Chunked][chance.below(3)];
            let finish = |mut head: HeadWriter<'_>| {
                for (name, value) in &meant {
                    head.field(name, HeaderSafe::new(value).expect("kept above"));
                }
                match framing {
                    Framing::Length(bytes) => head.length(bytes).end(),
                    Framing::Chunked => head.chunked().end(),
                    Framing::None | Framing::UntilClose => head.end(),
                }
            };
            let expect = |skipped: usize, bytes: &[u8], fields: &[Field]| {
                let read: Vec<(&[u8], &[u8])> =
                    fields.iter().map(|f| (f.name.of(bytes), f.value.of(bytes))).skip(skipped).collect();
                let meant: Vec<(&[u8], &[u8])> = meant.iter().map(|(n, v)| (n.as_bytes(), trim(v))).collect();
                assert_eq!(&read[..meant.len()], meant);
                assert_eq!(read.len(), meant.len() + usize::from(framing != Framing::None));
            };

            let mut out = Vec::new();
            finish(Opening::new("POST", TargetSafe(b"/v1"), safe("h")).begin(&mut out, TargetSafe(b"/x?y")));
            let head = parse_request(&out, HeadLimits::default()).expect("accepted").expect("whole");
            assert_eq!(
                (head.bytes, head.framing, head.target.of(&out)),
                (out.len(), framing, &b"/v1/x?y"[..])
            );
            expect(1, &out, &head.fields);

            out.clear();
            let status = 200 + u16::try_from(chance.below(400)).unwrap_or(0);
            if matches!(status, 204 | 304) {
                continue;
            }
            finish(status_line(&mut out, status));
            let head =
                parse_response(&out, Method::Post, HeadLimits::default()).expect("accepted").expect("whole");
            let framing = if framing == Framing::None { Framing::UntilClose } else { framing };
            assert_eq!((head.status, head.bytes, head.framing), (status, out.len(), framing));
            expect(0, &out, &head.fields);
        }
    }

    #[test]
    fn chunks_read_back_as_their_payload() {
        let mut chance = Chance::new(11);
        for _ in 0..300 {
            let (mut out, mut meant) = (Vec::new(), Vec::new());
            for _ in 0..chance.below(6) {
                let payload = vec![b'x'; chance.below(70_000) >> chance.below(17)];
                chunk_head(&mut out, payload.len());
                if !payload.is_empty() {
                    out.extend_from_slice(&payload);
                    out.extend_from_slice(CHUNK_END);
                }
                meant.extend_from_slice(&payload);
            }
            out.extend_from_slice(LAST_CHUNK);
            assert_eq!(read(&out, &[]), (meant, Ok(Some(out.len()))));
        }
        for (len, line) in [(0, ""), (1, "1\r\n"), (15, "f\r\n"), (16, "10\r\n"), (0xabc, "abc\r\n")] {
            assert_eq!(written(|out| chunk_head(out, len)), line);
        }
    }
}
