//! Finds the ends of Server-Sent Events in a byte stream, wherever reads happen to split it, and reads the two fields
//! of one event that we care about.
//!
//! The scanner holds no byte: it remembers only what the last read ended with, and tells the caller how far whole events
//! reach. No byte is ever changed: comments, a leading byte order mark and unknown fields belong to the event they stand in.

use memchr::memchr2;

/// Finds where events end. An event is whatever lies between two blank lines, and its blank line is part of it; lines end
/// with LF, CR LF or CR, in any mixture. A blank line that follows nothing is an event of its own, an empty one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scanner {
    last: Last,
}

impl Scanner {
    /// Reads on at `at` and returns the offset just past the end of the next event, or `None` when `bytes[at..]` is used
    /// up without one. After `Some(end)` go on at `end`; after `None` go on where the next read lands.
    ///
    /// A CR that ends a blank line at the very end of `bytes` decides nothing yet, because a LF may follow that belongs to
    /// it. The next byte decides, and if it is no LF the event's end is `at` itself.
    pub fn next(&mut self, bytes: &[u8], at: usize) -> Option<usize> {
        let mut at = at;
        loop {
            let byte = *bytes.get(at)?;
            match (self.last, byte) {
                (Last::BlankCr, _) => {
                    self.last = Last::LineStart;
                    return Some(at + usize::from(byte == b'\n'));
                }
                (Last::LineCr, _) => {
                    self.last = Last::LineStart;
                    at += usize::from(byte == b'\n');
                }
                (Last::LineStart, b'\n') => return Some(at + 1),
                (Last::LineStart, b'\r') => {
                    self.last = Last::BlankCr;
                    at += 1;
                }
                (Last::LineStart | Last::Text, _) => {
                    let Some(text) = memchr2(b'\n', b'\r', &bytes[at..]) else {
                        self.last = Last::Text;
                        return None;
                    };
                    at += text;
                    self.last = if bytes[at] == b'\n' { Last::LineStart } else { Last::LineCr };
                    at += 1;
                }
            }
        }
    }

    /// The stream is over: were the bytes since the last end a whole event after all, whose last CR waited for its LF?
    pub fn finish(&mut self) -> bool {
        std::mem::take(&mut self.last) == Last::BlankCr
    }
}

/// What the bytes seen so far ended with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Last {
    /// Nothing on this line yet.
    #[default]
    LineStart,
    /// Something on this line.
    Text,
    /// The CR that ended a line with something on it; a LF may belong to it.
    LineCr,
    /// The CR that ended a blank line, hence an event; a LF may belong to it.
    BlankCr,
}

/// The name and the payload of one event.
pub fn data_of(event: &[u8]) -> Data<'_> {
    let mut read = Data { event, name: b"", first: b"", lines: 0 };
    let mut rest = event;
    while let Some(line) = next_line(&mut rest) {
        match field(line) {
            (b"data", value) => {
                if read.lines == 0 {
                    read.first = value;
                }
                read.lines += 1;
            }
            (b"event", value) => read.name = value,
            _ => {}
        }
    }
    read
}

/// What [`data_of`] found in an event.
#[derive(Clone, Copy, Debug)]
pub struct Data<'a> {
    event: &'a [u8],
    name: &'a [u8],
    first: &'a [u8],
    lines: usize,
}

impl<'a> Data<'a> {
    /// The value of the last `event:` line, empty if there is none.
    pub fn name(&self) -> &'a [u8] {
        self.name
    }

    /// How many `data:` lines there are. An event without any, such as a comment, says nothing.
    pub fn lines(&self) -> usize {
        self.lines
    }

    /// The payload: its lines with a LF between them. A single line, which is all that providers send, is borrowed from
    /// the event; several are joined in `scratch`.
    pub fn joined<'s>(&self, scratch: &'s mut Vec<u8>) -> &'s [u8]
    where
        'a: 's,
    {
        if self.lines <= 1 {
            return self.first;
        }
        scratch.clear();
        let mut rest = self.event;
        while let Some(line) = next_line(&mut rest) {
            if let (b"data", value) = field(line) {
                scratch.extend_from_slice(value);
                scratch.push(b'\n');
            }
        }
        scratch.pop();
        scratch
    }
}

/// Takes the next line, without its end, off `rest`.
fn next_line<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    if rest.is_empty() {
        return None;
    }
    let Some(end) = memchr2(b'\n', b'\r', rest) else { return Some(std::mem::take(rest)) };
    let line = &rest[..end];
    let past = if rest[end..].starts_with(b"\r\n") { end + 2 } else { end + 1 };
    *rest = &rest[past..];
    Some(line)
}

/// A line's name and value: up to the first colon and after it, less one space. A comment's name is empty.
fn field(line: &[u8]) -> (&[u8], &[u8]) {
    // Nearly every line there is.
    if let Some(value) = line.strip_prefix(b"data: ") {
        return (b"data", value);
    }
    let Some(colon) = memchr::memchr(b':', line) else { return (line, b"") };
    let value = &line[colon + 1..];
    (&line[..colon], value.strip_prefix(b" ").unwrap_or(value))
}

/// Events end at the same places however the stream is cut, every end lies inside the bytes, and a naive reader agrees.
#[cfg(any(test, feature = "fuzzing"))]
pub fn fuzz_scanner(data: &[u8]) {
    // The first byte says how long the reads are, so that the fuzzer controls the cuts.
    let Some((&step, stream)) = data.split_first() else { return };
    let whole = ends_by_reads(stream, stream.len().max(1));
    assert_eq!(whole, ends_by_reads(stream, usize::from(step) % 17 + 1), "a cut moved an end");
    assert_eq!(whole, naive_ends(stream), "the naive reader disagrees");
    let mut start = 0;
    let mut scratch = Vec::new();
    for end in whole {
        assert!(start < end && end <= stream.len(), "an event is a part of the stream");
        let said = data_of(&stream[start..end]);
        assert!(said.joined(&mut scratch).len() <= end - start, "a payload is no longer than its event");
        start = end;
    }
}

/// The ends that a scanner finds when `stream` arrives in reads of `step` bytes.
#[cfg(any(test, feature = "fuzzing"))]
fn ends_by_reads(stream: &[u8], step: usize) -> Vec<usize> {
    let cuts: Vec<usize> = (step..stream.len()).step_by(step).collect();
    ends_cut_at(stream, &cuts)
}

/// The ends that a scanner finds when reads stop at `cuts`.
#[cfg(any(test, feature = "fuzzing"))]
fn ends_cut_at(stream: &[u8], cuts: &[usize]) -> Vec<usize> {
    let mut scanner = Scanner::default();
    let (mut ends, mut at) = (Vec::new(), 0);
    for &filled in cuts.iter().chain([&stream.len()]) {
        while let Some(end) = scanner.next(&stream[..filled], at) {
            ends.push(end);
            at = end;
        }
        at = filled;
    }
    if scanner.finish() {
        ends.push(stream.len());
    }
    ends
}

/// The same by the letter of the standard: split into lines, then look for the empty ones.
#[cfg(any(test, feature = "fuzzing"))]
fn naive_ends(stream: &[u8]) -> Vec<usize> {
    let (mut ends, mut at) = (Vec::new(), 0);
    while at < stream.len() {
        let Some(text) = stream[at..].iter().position(|b| matches!(b, b'\n' | b'\r')) else { break };
        let line_end = if stream[at + text..].starts_with(b"\r\n") { 2 } else { 1 };
        at += text + line_end;
        if text == 0 {
            ends.push(at);
        }
    }
    ends
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(stream: &[u8], expect: &[usize]) {
        assert_eq!(naive_ends(stream), expect, "the reference");
        for first in 0..=stream.len() {
            for second in first..=stream.len() {
                assert_eq!(ends_cut_at(stream, &[first, second]), expect, "cut at {first} and {second}");
            }
        }
        assert_eq!(ends_by_reads(stream, 1), expect, "byte by byte");
    }

    #[test]
    fn split_anywhere_the_events_are_the_same() {
        check(b"", &[]);
        check(b"data: a\r\n\r\nid: 1\r\n\r\n", &[11, 20]);
        check(b"data: a\n\ndata: b\n\n", &[9, 18]);
        check(b"data: a\r\rdata: b\r\r", &[9, 18]);
        check(b"data: cut", &[]);
        check(b"data: cut\n", &[]);
        check(b"data: cut\r\n", &[]);
        check(b"data: a\ndata: b\n\n", &[17]);
        check(b": ping\n\n: pong\r\n\r\n", &[8, 18]);
        check(b"\xef\xbb\xbfdata: a\n\n", &[12]);
        check("data: ü€😀\n\n".as_bytes(), &[17]);
    }

    #[test]
    fn line_ends_may_be_mixed() {
        check(b"a\r\n\nb\n\r\nc\r\n\rd\n\r", &[4, 8, 12, 15]);
        check(b"a\n\r\n\rb", &[4, 5]);
        check(b"a\r\r\nb\r\n\r\r\n", &[4, 8, 10]);
    }

    #[test]
    fn blank_lines_alone_are_empty_events() {
        check(b"\n\n\n", &[1, 2, 3]);
        check(b"\r\n\r\n", &[2, 4]);
        check(b"\r\r\n\r", &[1, 3, 4]);
    }

    #[test]
    fn every_mixture_of_six_bytes_agrees_with_the_reference() {
        const ALPHABET: [u8; 3] = [b'\n', b'\r', b'x'];
        for number in 0..3usize.pow(6) {
            let stream: Vec<u8> = (0..6).map(|i| ALPHABET[number / 3usize.pow(i) % 3]).collect();
            check(&stream, &naive_ends(&stream));
        }
    }

    #[test]
    fn a_cr_at_the_end_waits_for_its_lf() {
        let mut scanner = Scanner::default();
        assert_eq!(scanner.next(b"a\r\n\r", 0), None);
        let mut other = scanner;
        assert_eq!(scanner.next(b"a\r\n\r\nb", 4), Some(5));
        assert_eq!(other.next(b"a\r\n\rb", 4), Some(4));
    }

    #[track_caller]
    fn check_data(event: &str, name: &str, payload: &str) {
        let said = data_of(event.as_bytes());
        let mut scratch = Vec::new();
        assert_eq!(said.name(), name.as_bytes());
        assert_eq!(said.joined(&mut scratch), payload.as_bytes());
    }

    #[test]
    fn a_payload_is_its_data_lines_joined() {
        check_data("data: {\"a\":1}\n\n", "", "{\"a\":1}");
        check_data("data:{}\r\n\r\n", "", "{}");
        check_data("data:  two spaces\n\n", "", " two spaces");
        check_data("event: error\ndata: a\r\ndata: b\rdata\rdata:c\n\n", "error", "a\nb\n\nc");
        check_data(": OPENROUTER PROCESSING\n\n", "", "");
        check_data("id: 7\nretry: 10\nevent:done\ndata: x\n\n", "done", "x");
        check_data("database: x\ndata\n\n", "", "");
        check_data("data: cut", "", "cut");
    }

    #[test]
    fn one_line_is_not_copied() {
        let event = b"event: x\ndata: {}\n\n";
        let mut scratch = Vec::new();
        assert_eq!(data_of(event).joined(&mut scratch).as_ptr(), event[15..].as_ptr());
        assert_eq!(scratch.capacity(), 0);
    }

    #[test]
    fn mutated_streams_keep_the_promises() {
        let seeds: [&[u8]; 4] = [
            b"\x03data: {\"choices\":[]}\n\ndata: [DONE]\n\n",
            b"\x01event: a\r\ndata: b\r\n\r\n: c\r\n\r\n",
            b"\x05\xef\xbb\xbfdata: a\r\rdata: b\r\n\r\r\n\n",
            b"\x02\r\n\r\r\n\n\r",
        ];
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for round in 0..20_000 {
            let mut data = seeds[round % seeds.len()].to_vec();
            for _ in 0..round % 5 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                let [place, byte, kind, ..] = state.to_le_bytes();
                let place = usize::from(place) % data.len();
                match kind % 4 {
                    0 => data[place] = byte,
                    1 => data[place] = b"\r\n: x"[usize::from(byte) % 5],
                    2 => data.insert(place, b"\r\n"[usize::from(byte) % 2]),
                    _ => data.truncate(place + 1),
                }
            }
            fuzz_scanner(&data);
        }
    }
}
