//! An answer as the exact bytes of an HTTP/1 response, with every vice that the script wants.
//!
//! Written raw, because a well-behaved encoder could show none of them. The result is a plan: what is written
//! when, and how it ends. Building it needs no clock and no socket.

use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::{
    answer::{Answer, STAMP_DIGITS},
    script::{BadHead, Ending, Framing, Script, WireEnd},
};

/// One write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// After the request had arrived.
    pub due: Duration,
    pub bytes: Bytes,
    /// Where twenty digits are replaced by the moment of the write.
    pub stamp_at: Option<usize>,
}

/// What happens after the last write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The connection serves the next request.
    KeepAlive,
    /// FIN.
    Close,
    /// RST.
    Reset,
    /// Nothing, until the client leaves.
    Stall,
}

/// A whole response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub status: u16,
    pub steps: Vec<Step>,
    pub end: End,
}

impl Plan {
    /// Whether any of it has to wait, so that the client may leave in between.
    pub(super) fn waits(&self) -> bool {
        self.end == End::Stall || self.steps.last().is_some_and(|step| step.due > Duration::ZERO)
    }
}

/// Small writes that are due together leave together, up to this.
const WRITE_BYTES: usize = 16 << 10;

/// Frames an answer. `keep_alive` is whether the client wants the connection kept.
pub(super) fn plan(answer: &Answer, script: &Script, keep_alive: bool, head_only: bool) -> Plan {
    let gzipped = script.gzip.then(|| gzip_stored(answer));
    let answer = gzipped.as_ref().unwrap_or(answer);
    let chunked = match script.framing {
        Framing::Usual => {
            answer.streamed || script.chunk.is_some() || script.trailers || script.chunk_extension
        }
        Framing::Length | Framing::UntilClose | Framing::Http10 => false,
    } && !matches!(script.bad_head, Some(BadHead::LengthAndChunked | BadHead::OddEncoding))
        || script.bad_head == Some(BadHead::Chunk);
    let until_close = matches!(script.framing, Framing::UntilClose | Framing::Http10);
    let keep_alive = keep_alive && !until_close && !script.close_after;
    let body_bytes = answer.pieces.iter().map(|piece| piece.bytes.len()).sum::<usize>();

    let mut writer = Writer { script, chunked, allowed: usize::MAX, steps: Vec::new() };
    let first_due = answer.pieces.first().map_or(Duration::ZERO, |piece| piece.due);
    let head_due = if script.head_first { Duration::ZERO } else { first_due };
    for interim in 0..script.interim {
        let bytes: &[u8] = match interim % 2 {
            0 => b"HTTP/1.1 103 Early Hints\r\nlink: </a>; rel=preload\r\n\r\n",
            _ => b"HTTP/1.1 100 Continue\r\n\r\n",
        };
        writer.push(head_due, Bytes::from_static(bytes), None, true);
    }
    let mut head = head(answer, script, chunked, until_close, keep_alive, body_bytes);
    if let Ending::HeadCut(bytes) = script.ending {
        head.truncate(bytes);
        writer.allowed = 0;
    }
    writer.push(head_due, head.into(), None, false);
    if let Ending::Cut(bytes) | Ending::Reset(bytes) | Ending::Stall(bytes) = script.ending {
        writer.allowed = bytes;
    }
    if !head_only {
        for piece in &answer.pieces {
            writer.body(piece.due, &piece.bytes, piece.stamp_at, piece.apart);
        }
    }
    let whole = writer.allowed > 0 && !ended_early(script, body_bytes);
    let last_due = answer.pieces.last().map_or(Duration::ZERO, |piece| piece.due);
    if whole && chunked && !head_only {
        let end = if script.trailers { "0\r\nx-sim-trailer: 1\r\nx-sim-sum: 2\r\n\r\n" } else { "0\r\n\r\n" };
        writer.push(last_due, Bytes::from_static(end.as_bytes()), None, false);
    }
    if whole && script.extra {
        writer.push(
            last_due,
            Bytes::from_static(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nstray"),
            None,
            false,
        );
    }
    let end = match script.ending {
        Ending::Cut(_) | Ending::HeadCut(_) => End::Close,
        Ending::Reset(_) => End::Reset,
        Ending::Stall(_) => End::Stall,
        Ending::Whole if keep_alive => End::KeepAlive,
        Ending::Whole => End::Close,
    };
    let mut steps = writer.steps;
    let end = script.wire_end.map_or(end, |at| end_at(&mut steps, at));
    if let Some(split) = script.split {
        steps = cut_small(steps, split, script.pause);
    }
    Plan { status: answer.status, steps, end }
}

/// Ends a response after so many of its bytes, whatever they are.
fn end_at(steps: &mut Vec<Step>, at: WireEnd) -> End {
    let (WireEnd::Cut(bytes) | WireEnd::Reset(bytes) | WireEnd::Stall(bytes) | WireEnd::Garbage(bytes)) = at;
    let mut left = bytes;
    for step in steps.iter_mut() {
        step.bytes.truncate(left);
        step.stamp_at = step.stamp_at.filter(|at| at + STAMP_DIGITS <= step.bytes.len());
        left -= step.bytes.len();
    }
    steps.retain(|step| !step.bytes.is_empty());
    if let WireEnd::Garbage(_) = at {
        let due = steps.last().map_or(Duration::ZERO, |step| step.due);
        steps.push(Step { due, bytes: garbage(bytes).into(), stamp_at: None });
    }
    match at {
        WireEnd::Cut(_) | WireEnd::Garbage(_) => End::Close,
        WireEnd::Reset(_) => End::Reset,
        WireEnd::Stall(_) => End::Stall,
    }
}

/// Bytes that mean nothing, the same for the same place. Behind every other place a blank line comes first, which ends
/// whatever event they fall into.
fn garbage(seed: usize) -> Vec<u8> {
    let mut bytes = if seed.is_multiple_of(2) { b"\n\n".to_vec() } else { Vec::new() };
    let mut x = seed as u64 | 1 << 40;
    for _ in 0..64 {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        bytes.extend_from_slice(&x.to_le_bytes());
    }
    bytes
}

fn ended_early(script: &Script, body_bytes: usize) -> bool {
    match script.ending {
        Ending::Whole => false,
        Ending::HeadCut(_) => true,
        // A cut that lies behind the whole body still withholds what ends it.
        Ending::Cut(at) | Ending::Reset(at) | Ending::Stall(at) => at <= body_bytes || at > 0,
    }
}

struct Writer<'a> {
    script: &'a Script,
    chunked: bool,
    /// Body bytes that may still be written.
    allowed: usize,
    steps: Vec<Step>,
}

impl Writer<'_> {
    fn body(&mut self, due: Duration, bytes: &Bytes, stamp_at: Option<usize>, apart: bool) {
        if !self.chunked {
            let bytes = bytes.slice(..bytes.len().min(self.allowed));
            self.allowed -= bytes.len();
            let stamp_at = stamp_at.filter(|_| bytes.len() > 64);
            self.push(due, bytes, stamp_at, apart);
            return;
        }
        let mut from = 0;
        while from < bytes.len() && self.allowed > 0 {
            let to = self.script.chunk.map_or(bytes.len(), |most| bytes.len().min(from + most));
            let extension = if self.script.chunk_extension { ";a=b;c=\"d e\"" } else { "" };
            let size = match self.script.bad_head {
                Some(BadHead::Chunk) => "xyz".to_owned(),
                _ => format!("{:x}", to - from),
            };
            let line = format!("{size}{extension}\r\n");
            // The chunk line promises all of it, also where only a part is allowed.
            let given = (to - from).min(self.allowed);
            self.allowed -= given;
            let mut framed = BytesMut::with_capacity(line.len() + given + 2);
            framed.extend_from_slice(line.as_bytes());
            framed.extend_from_slice(&bytes[from..from + given]);
            if from + given == to {
                framed.extend_from_slice(b"\r\n");
            }
            let stamp_at = stamp_at.filter(|_| from == 0 && self.script.chunk.is_none() && given > 64);
            self.push(due, framed.freeze(), stamp_at.map(|at| at + line.len()), apart);
            from = to;
        }
    }

    fn push(&mut self, due: Duration, bytes: Bytes, stamp_at: Option<usize>, apart: bool) {
        if bytes.is_empty() {
            return;
        }
        match self.steps.last_mut() {
            // One write for what is due at once; a stamped event may take its head or its end along.
            Some(last)
                if last.due == due
                    && !apart
                    && last.bytes.len() + bytes.len() <= WRITE_BYTES
                    && stamp_at.is_none() =>
            {
                let mut both = BytesMut::with_capacity(last.bytes.len() + bytes.len());
                both.extend_from_slice(&last.bytes);
                both.extend_from_slice(&bytes);
                last.bytes = both.freeze();
            }
            _ => self.steps.push(Step { due, bytes, stamp_at }),
        }
    }
}

fn head(
    answer: &Answer,
    script: &Script,
    chunked: bool,
    until_close: bool,
    keep_alive: bool,
    body_bytes: usize,
) -> Vec<u8> {
    let mut lines = Vec::<String>::new();
    let version = match (script.framing, script.bad_head) {
        (_, Some(BadHead::Version)) => "HTTP/2.0",
        (Framing::Http10, _) => "HTTP/1.0",
        _ => "HTTP/1.1",
    };
    let status = answer.status;
    lines.push(match script.bad_head {
        Some(BadHead::Status) => format!("{version} {status}0 Sim"),
        _ => format!("{version} {status} {}", reason(status)),
    });
    lines.push(format!("content-type: {}", answer.media));
    lines.push("x-request-id: req_sim".into());
    lines.extend(answer.headers.iter().map(|(name, value)| format!("{name}: {value}")));
    if script.gzip {
        lines.push("content-encoding: gzip".into());
    }
    match script.bad_head {
        Some(BadHead::LengthAndChunked) => {
            lines.push(format!("content-length: {body_bytes}"));
            lines.push("transfer-encoding: chunked".into());
        }
        Some(BadHead::TwoLengths) => {
            lines.push(format!("content-length: {body_bytes}"));
            lines.push(format!("content-length: {}", body_bytes + 1));
        }
        Some(BadHead::OddLength) => lines.push(format!("content-length: +{body_bytes}")),
        Some(BadHead::OddEncoding) => lines.push("transfer-encoding: gzip, chunked".into()),
        _ if chunked => lines.push("transfer-encoding: chunked".into()),
        _ if until_close => {}
        _ => lines.push(format!("content-length: {body_bytes}")),
    }
    match script.bad_head {
        Some(BadHead::Fold) => lines.push("x-folded: a\r\n b".into()),
        Some(BadHead::Space) => lines.push("x-spaced : a".into()),
        Some(BadHead::Nul) => lines.push("x-nul: a\0b".into()),
        Some(BadHead::Huge) => lines.push(format!("x-huge: {}", "h".repeat(1 << 20))),
        Some(BadHead::Many) => lines.extend((0..500).map(|index| format!("x-many-{index}: 1"))),
        Some(BadHead::Empty) => lines.push(": nameless".into()),
        _ => {}
    }
    if !keep_alive {
        lines.push("connection: close".into());
    }
    let end = if script.bad_head == Some(BadHead::BareLf) { "\n" } else { "\r\n" };
    let mut head = lines.join(end);
    head += end;
    head += end;
    head.into_bytes()
}

/// Pieces of at most `split` bytes. With a pause each waits for it, so that no reader can see two at once.
fn cut_small(steps: Vec<Step>, split: usize, pause: Duration) -> Vec<Step> {
    let mut small = Vec::new();
    let mut late = Duration::ZERO;
    for step in steps {
        for at in (0..step.bytes.len()).step_by(split) {
            let bytes = step.bytes.slice(at..step.bytes.len().min(at + split));
            small.push(Step { due: step.due + late, bytes, stamp_at: None });
            late += pause;
        }
    }
    small
}

/// The same body as a gzip file of stored blocks: a true one, so that a client that asks for it can read it.
fn gzip_stored(answer: &Answer) -> Answer {
    let body = answer.pieces.iter().flat_map(|piece| piece.bytes.to_vec()).collect::<Vec<_>>();
    let mut file = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
    let mut blocks = body.chunks(u16::MAX.into()).peekable();
    if blocks.peek().is_none() {
        file.extend_from_slice(&[1, 0, 0, 0xff, 0xff]);
    }
    while let Some(block) = blocks.next() {
        let bytes = u16::try_from(block.len()).unwrap_or(u16::MAX);
        file.push(u8::from(blocks.peek().is_none()));
        file.extend_from_slice(&bytes.to_le_bytes());
        file.extend_from_slice(&(!bytes).to_le_bytes());
        file.extend_from_slice(block);
    }
    file.extend_from_slice(&crc32(&body).to_le_bytes());
    file.extend_from_slice(&u32::try_from(body.len() & 0xffff_ffff).unwrap_or(0).to_le_bytes());
    let mut answer = answer.clone();
    let due = answer.pieces.first().map_or(Duration::ZERO, |piece| piece.due);
    answer.pieces = vec![super::answer::Piece { due, bytes: file.into(), stamp_at: None, apart: false }];
    answer
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}

fn reason(status: u16) -> &'static str {
    http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or("Sim")
}

#[cfg(test)]
mod tests {
    use super::{super::answer::Piece, *};

    fn answered(streamed: bool, pieces: &[(u64, &'static str)]) -> Answer {
        let piece = |(ms, text): &(u64, &'static str)| Piece {
            due: Duration::from_millis(*ms),
            bytes: Bytes::from_static(text.as_bytes()),
            stamp_at: None,
            apart: false,
        };
        Answer {
            status: 200,
            media: "text/plain",
            headers: Vec::new(),
            pieces: pieces.iter().map(piece).collect(),
            streamed,
        }
    }

    /// The plan's body as one text, and its end.
    #[track_caller]
    fn check(words: &str, streamed: bool, expect: &str, end: End) {
        let script = Script::parse(&format!("sim,{words}")).unwrap_or_default();
        let plan = plan(&answered(streamed, &[(0, "hello"), (0, "you")]), &script, true, false);
        let bytes = plan.steps.iter().flat_map(|step| step.bytes.to_vec()).collect::<Vec<_>>();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let (_, body) = text.split_once("\r\n\r\n").unwrap_or_default();
        assert_eq!((body, plan.end), (expect, end), "{words}");
    }

    #[test]
    fn bodies_are_framed_as_the_script_wants() {
        check("", false, "helloyou", End::KeepAlive);
        check("", true, "5\r\nhello\r\n3\r\nyou\r\n0\r\n\r\n", End::KeepAlive);
        check("lengthbody", true, "helloyou", End::KeepAlive);
        check("untilclose", true, "helloyou", End::Close);
        check("http10", true, "helloyou", End::Close);
        check("closeafter", false, "helloyou", End::Close);
        check(
            "chunk=2",
            true,
            "2\r\nhe\r\n2\r\nll\r\n1\r\no\r\n2\r\nyo\r\n1\r\nu\r\n0\r\n\r\n",
            End::KeepAlive,
        );
        check(
            "chunkext,chunk=9",
            false,
            "5;a=b;c=\"d e\"\r\nhello\r\n3;a=b;c=\"d e\"\r\nyou\r\n0\r\n\r\n",
            End::KeepAlive,
        );
        check(
            "trailers",
            true,
            "5\r\nhello\r\n3\r\nyou\r\n0\r\nx-sim-trailer: 1\r\nx-sim-sum: 2\r\n\r\n",
            End::KeepAlive,
        );
        check("split=1", true, "5\r\nhello\r\n3\r\nyou\r\n0\r\n\r\n", End::KeepAlive);
    }

    #[test]
    fn bodies_end_where_the_script_ends_them() {
        check("cut=0", false, "", End::Close);
        check("cut=6", false, "helloy", End::Close);
        check("cut=6", true, "5\r\nhello\r\n3\r\ny", End::Close);
        check("reset=5", true, "5\r\nhello\r\n", End::Reset);
        check("stall=8", true, "5\r\nhello\r\n3\r\nyou\r\n", End::Stall);
        check("cut=99", true, "5\r\nhello\r\n3\r\nyou\r\n", End::Close);
    }

    #[test]
    fn what_is_due_at_once_is_one_write_and_what_is_split_is_many() {
        let answer = answered(true, &[(0, "a"), (0, "b"), (7, "c")]);
        let usual = plan(&answer, &Script::default(), true, false);
        assert_eq!(usual.steps.len(), 2);
        assert!(usual.waits());
        let script = Script { split: Some(7), pause: Duration::from_millis(1), ..Script::default() };
        let split = plan(&answer, &script, true, false);
        assert!(split.steps.iter().all(|step| step.bytes.len() <= 7));
        assert!(split.steps.windows(2).all(|pair| pair[0].due < pair[1].due));
    }

    #[test]
    fn a_head_may_be_cut_and_then_nothing_follows() {
        let script = Script::parse("sim,headcut=9").unwrap_or_default();
        let plan = plan(&answered(false, &[(0, "hello")]), &script, true, false);
        assert_eq!(plan.steps.iter().flat_map(|step| step.bytes.to_vec()).collect::<Vec<_>>(), b"HTTP/1.1 ");
        assert_eq!(plan.end, End::Close);
    }

    #[test]
    fn a_response_ends_after_any_of_its_bytes() {
        let bytes_of = |words: &str| {
            let script = Script::parse(&format!("sim,{words}")).unwrap_or_default();
            let plan = plan(&answered(true, &[(0, "hello"), (7, "you")]), &script, true, false);
            (plan.steps.iter().flat_map(|step| step.bytes.to_vec()).collect::<Vec<_>>(), plan.end)
        };
        let whole = bytes_of("").0;
        for at in 0..=whole.len() + 1 {
            let expect = whole[..at.min(whole.len())].to_vec();
            assert_eq!(bytes_of(&format!("wirecut={at}")), (expect.clone(), End::Close));
            assert_eq!(bytes_of(&format!("wirereset={at}")), (expect.clone(), End::Reset));
            assert_eq!(bytes_of(&format!("wirestall={at}")), (expect.clone(), End::Stall));
            let (with_garbage, end) = bytes_of(&format!("wiregarbage={at}"));
            assert!(with_garbage.starts_with(&expect) && with_garbage.len() >= expect.len() + 512);
            assert_eq!(end, End::Close);
        }
    }

    #[test]
    fn the_checksum_is_gzips() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }
}
