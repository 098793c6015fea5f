//! Finds the payload in a chunked body, wherever reads split it (RFC 9112 §7.1).
//!
//! The decoder holds no byte: it remembers where in the grammar it is and answers with ranges of what it is given. It takes
//! `1*16HEXDIG [";" extension] CRLF` and nothing looser; extensions and trailers are checked, bounded and dropped.

use std::ops::Range;

use super::fields::{is_tchar, is_value_byte};
use crate::base::limits::{CHUNK_EXTENSION_BYTES_MAX, CHUNK_SIZE_DIGITS_MAX, TRAILER_BYTES_MAX};

/// What the next bytes of a chunked body are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Bytes of the body, as a range of what was given; never empty.
    Payload(Range<usize>),
    /// All that was given has been read, and the body goes on.
    More,
    /// The body has ended; what follows is another message.
    End,
}

/// What is wrong with a chunked body. Where its end is can no longer be told, so the connection is not used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BadChunk {
    NoSize,
    BadSize,
    SizeTooLong,
    BadExtension,
    ExtensionTooLong,
    BadLineEnd,
    BadPayloadEnd,
    BadTrailer,
    TrailersTooLarge,
}

impl BadChunk {
    /// A sentence fit for whoever sent it.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NoSize => "A chunk has no size.",
            Self::BadSize => "A chunk's size is not a hexadecimal number.",
            Self::SizeTooLong => "A chunk's size has more than 16 digits.",
            Self::BadExtension => "A chunk extension is empty or has a byte that is not printable.",
            Self::ExtensionTooLong => "A chunk extension is too long.",
            Self::BadLineEnd => "A line of the chunked body has a CR that no LF follows.",
            Self::BadPayloadEnd => "A chunk is not followed by CRLF.",
            Self::BadTrailer => "A trailer field is malformed.",
            Self::TrailersTooLarge => "The trailer section is too large.",
        }
    }
}

impl std::fmt::Display for BadChunk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.reason())
    }
}

impl std::error::Error for BadChunk {}

/// Where in a chunked body the reader is.
#[derive(Clone, Debug)]
pub struct Chunked {
    phase: Phase,
    /// Of the chunk: its size as far as it has been read, then the bytes of it that are still to come.
    left: u64,
    /// Digits, bytes of the extension, or bytes of all trailers: whichever `phase` is counting.
    count: usize,
    plain: bool,
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Size,
    Extension,
    SizeLf,
    Payload,
    PayloadCr,
    PayloadLf,
    /// The start of a trailer line, or of the empty line that ends the body.
    Trailer,
    TrailerName,
    TrailerValue,
    TrailerLf,
    LastLf,
    End,
    Bad(BadChunk),
}

impl Default for Chunked {
    fn default() -> Self {
        Self::new()
    }
}

impl Chunked {
    pub const fn new() -> Self {
        Self { phase: Phase::Size, left: 0, count: 0, plain: true }
    }

    /// The next piece of payload in `bytes` from `at` on, and the position behind what was read.
    ///
    /// After `More` the position is the end of `bytes`. `End` and an error are final: they are answered again.
    pub fn next(&mut self, bytes: &[u8], at: usize) -> Result<(Step, usize), BadChunk> {
        let mut at = at;
        loop {
            match self.phase {
                Phase::Payload => {
                    let there = bytes.len().saturating_sub(at);
                    if there == 0 {
                        return Ok((Step::More, at));
                    }
                    let taken = usize::try_from(self.left).map_or(there, |left| left.min(there));
                    self.left -= taken as u64;
                    if self.left == 0 {
                        self.phase = Phase::PayloadCr;
                    }
                    return Ok((Step::Payload(at..at + taken), at + taken));
                }
                Phase::End => return Ok((Step::End, at)),
                Phase::Bad(bad) => return Err(bad),
                // The two steps that every chunk takes, at once where they are there in full. All else goes byte by byte.
                Phase::PayloadCr if bytes.get(at..at + 2) == Some(b"\r\n") => {
                    self.phase = Phase::Size;
                    at += 2;
                    continue;
                }
                Phase::Size if self.count == 0 => {
                    if let Some((size, line)) = short_size_line(bytes.get(at..).unwrap_or_default()) {
                        (self.phase, self.left) = (Phase::Payload, size);
                        at += line;
                        continue;
                    }
                }
                _ => {}
            }
            let Some(&byte) = bytes.get(at) else { return Ok((Step::More, at)) };
            at += 1;
            self.phase = match self.after(byte) {
                Ok(phase) => phase,
                Err(bad) => Phase::Bad(bad),
            };
        }
    }

    /// Whether the body so far is whole chunks, so that another could begin here. False once it has ended.
    pub fn between_chunks(&self) -> bool {
        self.phase == Phase::Size && self.count == 0
    }

    /// Whether nothing had to be dropped so far: no extension and no trailer.
    pub fn plain(&self) -> bool {
        self.plain
    }

    /// Bytes still to come of the chunk whose payload is being read; zero elsewhere.
    pub fn in_payload_remaining(&self) -> u64 {
        if self.phase == Phase::Payload { self.left } else { 0 }
    }

    /// The phase after `byte`, which is not payload.
    fn after(&mut self, byte: u8) -> Result<Phase, BadChunk> {
        match self.phase {
            Phase::Size => self.after_size_byte(byte),
            Phase::Extension => match byte {
                b'\r' if self.count > 0 => Ok(Phase::SizeLf),
                b' '..=b'~' if self.count == CHUNK_EXTENSION_BYTES_MAX => Err(BadChunk::ExtensionTooLong),
                b' '..=b'~' => {
                    self.count += 1;
                    Ok(Phase::Extension)
                }
                _ => Err(BadChunk::BadExtension),
            },
            Phase::SizeLf if byte != b'\n' => Err(BadChunk::BadLineEnd),
            Phase::SizeLf => {
                self.count = 0;
                Ok(if self.left == 0 { Phase::Trailer } else { Phase::Payload })
            }
            Phase::PayloadCr if byte == b'\r' => Ok(Phase::PayloadLf),
            Phase::PayloadLf if byte == b'\n' => Ok(Phase::Size),
            Phase::PayloadCr | Phase::PayloadLf => Err(BadChunk::BadPayloadEnd),
            Phase::Trailer if byte == b'\r' => Ok(Phase::LastLf),
            Phase::LastLf if byte == b'\n' => Ok(Phase::End),
            Phase::LastLf => Err(BadChunk::BadLineEnd),
            _ => self.after_trailer_byte(byte),
        }
    }

    fn after_size_byte(&mut self, byte: u8) -> Result<Phase, BadChunk> {
        let Some(digit) = hex(byte) else {
            return match byte {
                b'\r' | b';' if self.count == 0 => Err(BadChunk::NoSize),
                b'\r' => Ok(Phase::SizeLf),
                b';' => {
                    (self.count, self.plain) = (0, false);
                    Ok(Phase::Extension)
                }
                _ => Err(BadChunk::BadSize),
            };
        };
        if self.count == CHUNK_SIZE_DIGITS_MAX {
            return Err(BadChunk::SizeTooLong);
        }
        self.count += 1;
        // Sixteen digits are 64 bits: none is shifted out.
        self.left = self.left << 4 | digit;
        Ok(Phase::Size)
    }

    fn after_trailer_byte(&mut self, byte: u8) -> Result<Phase, BadChunk> {
        self.plain = false;
        if self.count == TRAILER_BYTES_MAX {
            return Err(BadChunk::TrailersTooLarge);
        }
        self.count += 1;
        match self.phase {
            Phase::Trailer | Phase::TrailerName if is_tchar(byte) => Ok(Phase::TrailerName),
            Phase::TrailerName if byte == b':' => Ok(Phase::TrailerValue),
            Phase::TrailerValue if byte == b'\r' => Ok(Phase::TrailerLf),
            Phase::TrailerValue if is_value_byte(byte) => Ok(Phase::TrailerValue),
            Phase::TrailerLf if byte == b'\n' => Ok(Phase::Trailer),
            Phase::TrailerLf => Err(BadChunk::BadLineEnd),
            _ => Err(BadChunk::BadTrailer),
        }
    }
}

/// The size on a line of the usual form, and the line's length: a few digits, no extension, not the last chunk.
fn short_size_line(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut size = 0;
    for (at, &byte) in bytes.iter().take(CHUNK_SIZE_DIGITS_MAX).enumerate() {
        let Some(digit) = hex(byte) else {
            return (size > 0 && bytes.get(at..at + 2) == Some(b"\r\n")).then_some((size, at + 2));
        };
        size = size << 4 | digit;
    }
    None
}

fn hex(byte: u8) -> Option<u64> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
    .map(u64::from)
}

const _: () = assert!(CHUNK_SIZE_DIGITS_MAX * 4 <= u64::BITS as usize, "a chunk's size fits its number");

/// Any bytes as a chunked body: ranges lie in what was given and move forward, and pieces answer as the whole does.
#[cfg(any(test, feature = "fuzzing"))]
pub fn fuzz_chunked(data: &[u8]) {
    let whole = read(data, &[]);
    let (third, half) = (data.len() / 3, data.len() / 2);
    assert_eq!(read(data, &[third, half]), whole);
    assert_eq!(read(data, &(0..data.len()).collect::<Vec<_>>()), whole);
}

/// What a body says: its payload, and how it ended (where the next message begins; that it goes on; what is wrong).
#[cfg(any(test, feature = "fuzzing"))]
type Reading = (Vec<u8>, Result<Option<usize>, BadChunk>);

/// Reads `data` in pieces that end at `cuts`.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn read(data: &[u8], cuts: &[usize]) -> Reading {
    let mut chunked = Chunked::new();
    let mut payload = Vec::new();
    let mut base = 0;
    for &end in cuts.iter().chain([&data.len()]) {
        let piece = &data[base..end];
        let mut at = 0;
        loop {
            let remaining = chunked.in_payload_remaining();
            match chunked.next(piece, at) {
                Ok((Step::Payload(range), next)) => {
                    assert!(
                        at <= range.start
                            && range.start < range.end
                            && range.end == next
                            && next <= piece.len()
                    );
                    assert!(remaining == 0 || remaining >= range.len() as u64);
                    payload.extend_from_slice(&piece[range]);
                    at = next;
                }
                Ok((Step::More, next)) => {
                    assert_eq!(next, piece.len());
                    break;
                }
                Ok((Step::End, next)) => {
                    assert_eq!(chunked.next(piece, next), Ok((Step::End, next)));
                    return (payload, Ok(Some(base + next)));
                }
                Err(bad) => {
                    assert_eq!(chunked.next(piece, at), Err(bad));
                    return (payload, Err(bad));
                }
            }
        }
        base = end;
    }
    (payload, Ok(None))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::http1::mutations;

    const BODY: &[u8] =
        b"5\r\nhello\r\n1;a=\"b\"\r\n!\r\n00A\r\n0123\r\n5678\r\n0\r\nx-t: 1\r\ny:\r\n\r\nGET";

    #[test]
    fn split_anywhere_the_payload_is_the_same() {
        let expect = (b"hello!0123\r\n5678".to_vec(), Ok(Some(BODY.len() - 3)));
        for first in 0..=BODY.len() {
            for second in first..=BODY.len() {
                assert_eq!(read(BODY, &[first, second]), expect);
            }
        }
    }

    #[test]
    fn it_tells_where_in_the_body_it_is() {
        let mut chunked = Chunked::new();
        assert!(chunked.between_chunks() && chunked.plain());
        assert_eq!(chunked.next(b"5\r\nhe", 0), Ok((Step::Payload(3..5), 5)));
        assert!(!chunked.between_chunks());
        assert_eq!(chunked.in_payload_remaining(), 3);
        assert_eq!(chunked.next(b"llo\r\n", 0), Ok((Step::Payload(0..3), 3)));
        assert_eq!((chunked.between_chunks(), chunked.in_payload_remaining()), (false, 0));
        assert_eq!(chunked.next(b"llo\r\n", 3), Ok((Step::More, 5)));
        assert!(chunked.between_chunks() && chunked.plain());
        assert_eq!(chunked.next(b"2", 0), Ok((Step::More, 1)));
        assert_eq!((chunked.between_chunks(), chunked.in_payload_remaining()), (false, 0));
        assert_eq!(chunked.next(b";x", 0), Ok((Step::More, 2)));
        assert!(!chunked.plain());
    }

    #[test]
    fn a_trailer_is_not_plain_and_an_ended_body_is_not_between_chunks() {
        let mut chunked = Chunked::new();
        assert_eq!(chunked.next(b"0\r\n", 0), Ok((Step::More, 3)));
        assert!(chunked.plain() && !chunked.between_chunks());
        assert_eq!(chunked.next(b"a: b\r\n\r\n", 0), Ok((Step::End, 8)));
        assert!(!chunked.plain() && !chunked.between_chunks());
    }

    #[test]
    fn any_bytes_are_answered_soundly() {
        let seeds: &[&[u8]] =
            &[BODY, b"0\r\n\r\n", b"ffffffffffffffff;ext\r\nx", b"1\r\na\r\n2\r\nbc\r\n0\r\n\r\n"];
        mutations::run(seeds, 20_000, fuzz_chunked);
    }
}
