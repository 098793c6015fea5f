//! Reads one HTTP/1.1 response out of a byte stream, and the moments of the events in it.
//!
//! No socket, no clock: fed slices, whatever the reads split. It trusts its peer no further than a load
//! generator must: anything odd is `Malformed` and counts as an error.

/// How far a response is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// More bytes are to come.
    More,
    /// Complete; whether the connection may be used again.
    Done { keep_alive: bool },
}

/// The bytes are no HTTP response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// What one feed brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Arrived {
    /// Events with data, `[DONE]` and comments apart.
    pub(super) events: u64,
    /// Their send stamps, where they carry one.
    pub(super) stamps_ns: Vec<u64>,
    pub(super) body_bytes: usize,
}

/// The state of one response.
#[derive(Debug)]
pub(super) struct Reply {
    head: Vec<u8>,
    stage: Stage,
    keep_alive: bool,
    scanner: Option<Scanner>,
    /// Zero until the head has been read.
    pub(super) status: u16,
    pub(super) errors_in_stream: u64,
}

#[derive(Debug, PartialEq, Eq)]
enum Stage {
    Head,
    Length(u64),
    UntilClose,
    ChunkLine { size: u64, digits: u8, extension: bool },
    Chunk(u64),
    ChunkEnd,
    Trailer { line_bytes: usize },
    Done,
}

const HEAD_BYTES_MAX: usize = 64 << 10;
const CHUNK_LINE: Stage = Stage::ChunkLine { size: 0, digits: 0, extension: false };

impl Reply {
    pub(super) fn new() -> Self {
        Self {
            head: Vec::new(),
            stage: Stage::Head,
            keep_alive: true,
            scanner: None,
            status: 0,
            errors_in_stream: 0,
        }
    }

    /// Takes what a read brought.
    pub(super) fn feed(&mut self, mut bytes: &[u8], arrived: &mut Arrived) -> Result<Progress, Malformed> {
        while !bytes.is_empty() {
            bytes = match self.stage {
                Stage::Head => {
                    let before = self.head.len();
                    self.head.extend_from_slice(bytes);
                    let from = before.saturating_sub(3);
                    let Some(end) = self.head[from..].windows(4).position(|four| four == b"\r\n\r\n") else {
                        return if self.head.len() > HEAD_BYTES_MAX {
                            Err(Malformed)
                        } else {
                            Ok(Progress::More)
                        };
                    };
                    let end = from + end + 4;
                    self.read_head(end)?;
                    self.head.clear();
                    &bytes[end - before..]
                }
                Stage::Length(left) => {
                    let take = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    self.payload(&bytes[..take], arrived);
                    let left = left - take as u64;
                    self.stage = if left == 0 { Stage::Done } else { Stage::Length(left) };
                    &bytes[take..]
                }
                Stage::UntilClose => {
                    self.payload(bytes, arrived);
                    &[]
                }
                Stage::ChunkLine { size, digits, extension } => {
                    self.stage = match (bytes[0], extension) {
                        (b'\n', _) if digits > 0 && size == 0 => Stage::Trailer { line_bytes: 0 },
                        (b'\n', _) if digits > 0 => Stage::Chunk(size),
                        (b'\n', _) => return Err(Malformed),
                        (b'\r' | b';', _) => Stage::ChunkLine { size, digits, extension: true },
                        (_, true) => Stage::ChunkLine { size, digits, extension },
                        (digit, false) if digits < 15 => {
                            let value = char::from(digit).to_digit(16).ok_or(Malformed)?;
                            Stage::ChunkLine {
                                size: size * 16 + u64::from(value),
                                digits: digits + 1,
                                extension,
                            }
                        }
                        _ => return Err(Malformed),
                    };
                    &bytes[1..]
                }
                Stage::Chunk(left) => {
                    let take = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    self.payload(&bytes[..take], arrived);
                    let left = left - take as u64;
                    self.stage = if left == 0 { Stage::ChunkEnd } else { Stage::Chunk(left) };
                    &bytes[take..]
                }
                Stage::ChunkEnd => {
                    match bytes[0] {
                        b'\r' => {}
                        b'\n' => self.stage = CHUNK_LINE,
                        _ => return Err(Malformed),
                    }
                    &bytes[1..]
                }
                Stage::Trailer { line_bytes } => {
                    self.stage = match bytes[0] {
                        b'\n' if line_bytes == 0 => Stage::Done,
                        b'\n' => Stage::Trailer { line_bytes: 0 },
                        b'\r' => Stage::Trailer { line_bytes },
                        _ => Stage::Trailer { line_bytes: line_bytes + 1 },
                    };
                    &bytes[1..]
                }
                // Nothing was asked for that these could answer.
                Stage::Done => return Err(Malformed),
            };
        }
        match self.stage {
            Stage::Done => Ok(Progress::Done { keep_alive: self.keep_alive }),
            _ => Ok(Progress::More),
        }
    }

    /// The peer closed: whether that was the end of the response.
    pub(super) fn closed(&self) -> bool {
        self.stage == Stage::UntilClose
    }

    fn read_head(&mut self, end: usize) -> Result<(), Malformed> {
        let head = std::str::from_utf8(&self.head[..end]).map_err(|_| Malformed)?;
        let mut lines = head.split("\r\n");
        let status_line = lines.next().unwrap_or_default();
        let (version, rest) = status_line.split_once(' ').ok_or(Malformed)?;
        if !matches!(version, "HTTP/1.1" | "HTTP/1.0") {
            return Err(Malformed);
        }
        let status = rest.split(' ').next().unwrap_or_default().parse().map_err(|_| Malformed)?;
        // An interim response; the real one follows.
        if (100..200).contains(&status) {
            return Ok(());
        }
        self.status = status;
        self.keep_alive = version == "HTTP/1.1";
        let (mut length, mut chunked, mut events) = (None, false, false);
        for line in lines.filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once(':').ok_or(Malformed)?;
            let value = value.trim();
            if name.eq_ignore_ascii_case("content-length") {
                length = Some(value.parse::<u64>().map_err(|_| Malformed)?);
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                chunked = value.eq_ignore_ascii_case("chunked");
            } else if name.eq_ignore_ascii_case("content-type") {
                events = value.starts_with("text/event-stream");
            } else if name.eq_ignore_ascii_case("connection") && value.eq_ignore_ascii_case("close") {
                self.keep_alive = false;
            }
        }
        self.scanner = events.then(Scanner::default);
        self.stage = match length {
            _ if chunked => CHUNK_LINE,
            Some(0) => Stage::Done,
            Some(length) => Stage::Length(length),
            None if status == 204 || status == 304 => Stage::Done,
            None => Stage::UntilClose,
        };
        if self.stage == Stage::UntilClose {
            self.keep_alive = false;
        }
        Ok(())
    }

    fn payload(&mut self, bytes: &[u8], arrived: &mut Arrived) {
        arrived.body_bytes += bytes.len();
        if let Some(scanner) = &mut self.scanner {
            scanner.feed(bytes, arrived);
            self.errors_in_stream = scanner.errors;
        }
    }
}

/// Counts events by their blank lines, and reads the beginning of each data line.
#[derive(Debug, Default)]
struct Scanner {
    /// The beginning of the line: enough for `data: {"stamp":"…20 digits…"`.
    start: Vec<u8>,
    has_data: bool,
    errors: u64,
}

const START_BYTES: usize = 48;

impl Scanner {
    fn feed(&mut self, mut bytes: &[u8], arrived: &mut Arrived) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.line(&bytes[..end]);
            self.line_end(arrived);
            bytes = &bytes[end + 1..];
        }
        self.line(bytes);
    }

    fn line(&mut self, part: &[u8]) {
        let room = START_BYTES.saturating_sub(self.start.len());
        self.start.extend_from_slice(&part[..part.len().min(room)]);
    }

    fn line_end(&mut self, arrived: &mut Arrived) {
        let line = self.start.strip_suffix(b"\r").unwrap_or(&self.start);
        if line.is_empty() {
            arrived.events += u64::from(std::mem::take(&mut self.has_data));
        } else if let Some(data) = line.strip_prefix(b"data:") {
            let data = data.strip_prefix(b" ").unwrap_or(data);
            if data.starts_with(b"{\"error\"") {
                self.errors += 1;
            }
            if data != b"[DONE]" {
                self.has_data = true;
                let digits = data.strip_prefix(b"{\"stamp\":\"").and_then(|rest| rest.get(..20));
                let stamp = digits.and_then(|digits| std::str::from_utf8(digits).ok()?.parse::<u64>().ok());
                arrived.stamps_ns.extend(stamp);
            }
        }
        self.start.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Chunks that cut a line end, an event and `[DONE]`, after an interim response.
    fn stream() -> Vec<u8> {
        let mut stream = b"HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
            Transfer-Encoding: chunked\r\n\r\n"
            .to_vec();
        for payload in PAYLOADS {
            stream.extend_from_slice(format!("{:x};x=\"y\"\r\n", payload.len()).as_bytes());
            stream.extend_from_slice(payload);
            stream.extend_from_slice(b"\r\n");
        }
        stream.extend_from_slice(b"0\r\nx: y\r\n\r\n");
        stream
    }

    const PAYLOADS: [&[u8]; 5] = [
        b": ping\n\ndata: {\"a\":1}\r",
        b"\n\r\ndata: {\"a\":2}\ndata: }\n",
        b"\n",
        b"data: {\"stamp\":\"00000000000000000042\"}\n\ndata: [DON",
        b"E]\n\n",
    ];

    #[track_caller]
    fn check(reads: &[&[u8]], expect: Result<Progress, Malformed>, events: u64, body_bytes: usize) {
        let (mut reply, mut arrived) = (Reply::new(), Arrived::default());
        let mut last = Ok(Progress::More);
        for read in reads {
            last = reply.feed(read, &mut arrived);
            if last.is_err() {
                break;
            }
        }
        assert_eq!((last, arrived.events, arrived.body_bytes), (expect, events, body_bytes));
    }

    #[test]
    fn split_anywhere_the_events_are_the_same() {
        let stream = stream();
        let done = Ok(Progress::Done { keep_alive: true });
        let body = PAYLOADS.iter().map(|payload| payload.len()).sum();
        for first in 0..stream.len() {
            for second in (first..stream.len()).step_by(7) {
                check(&[&stream[..first], &stream[first..second], &stream[second..]], done, 3, body);
            }
        }
    }

    #[test]
    fn a_stamp_is_read() {
        let (mut reply, mut arrived) = (Reply::new(), Arrived::default());
        assert!(reply.feed(&stream(), &mut arrived).is_ok());
        assert_eq!(arrived.stamps_ns, [42]);
    }

    #[test]
    fn each_framing_ends_where_it_should() {
        let close = Ok(Progress::Done { keep_alive: false });
        check(
            &[b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nab"],
            Ok(Progress::Done { keep_alive: true }),
            0,
            2,
        );
        check(&[b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nab"], close, 0, 2);
        check(&[b"HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n"], close, 0, 0);
        check(&[b"HTTP/1.1 200 OK\r\n\r\nab"], Ok(Progress::More), 0, 2);
        check(&[b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\na"], Ok(Progress::More), 0, 1);
    }

    #[test]
    fn odd_answers_are_malformed() {
        for odd in [
            &b"HTTP/2 200 OK\r\n\r\n"[..],
            b"hello\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\nmore",
        ] {
            check(&[odd], Err(Malformed), 0, 0);
        }
    }
}
