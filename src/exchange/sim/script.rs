//! What a provider answers to one request, what the client must get of it, and where it goes wrong.

use super::{
    bodies::{binary, chat, json, responses},
    chance::Chance,
    faults::Fault,
};
use crate::{base::limits, ledger::record::Tokens};

/// Where an answer breaks off, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Break {
    None,
    /// Before the request has been read to its end.
    WhileSending,
    Reset {
        at: usize,
    },
    Close {
        at: usize,
    },
    Stall {
        at: usize,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Events,
    Json,
    Binary,
}

pub(super) struct Script {
    pub(super) status: u16,
    pub(super) form: Form,
    /// The answer's bytes, framing and all.
    pub(super) wire: Vec<u8>,
    pub(super) head_bytes: usize,
    /// Payload for the client.
    pub(super) expect: Vec<u8>,
    /// Where in `expect` events end.
    pub(super) ends: Vec<usize>,
    pub(super) usage: Tokens,
    /// The end of its payload as it stands is the end of a whole answer.
    pub(super) is_whole: bool,
    /// It has a last word, which needs no clean framing behind it.
    pub(super) has_last_word: bool,
    pub(super) says_it_failed: bool,
    pub(super) breaks: Break,
    /// Its head or its framing can not be read.
    pub(super) malformed: bool,
    /// Status or form make it one that the client does not see.
    pub(super) replaced: bool,
    /// The provider keeps its connection.
    pub(super) stays: bool,
    pub(super) has_large_event: bool,
    /// Its framing is its connection's end: a close anywhere in it looks like that.
    pub(super) until_close: bool,
    /// Milliseconds at most before its first byte, and between pieces.
    pub(super) think_ms: usize,
    pub(super) gap_ms: usize,
    /// The request asks for usage when it gets here.
    pub(super) wants_usage: bool,
    pub(super) faults: Vec<Fault>,
}

/// What a request asks for, as far as its answer depends on it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) id: usize,
    pub(super) endpoint: &'static str,
    pub(super) stream: bool,
    pub(super) choices: usize,
    /// The provider was asked for usage, by the client or by us.
    pub(super) usage: bool,
    /// Its event of its own is not for the client.
    pub(super) strip: bool,
}

impl Script {
    pub(super) fn new(chance: &Chance, wanted: Wanted) -> Self {
        let mut faults = Vec::new();
        let usage = Tokens {
            prompt: Some(chance.of(1..5_000) as u64),
            completion: Some(chance.of(1..900) as u64),
            cached: chance.one_in(3).then(|| chance.of(0..50) as u64),
            ..Tokens::default()
        };
        let body = match (wanted.endpoint, wanted.stream) {
            ("/audio/speech", _) => binary(chance),
            ("/responses", true) => responses(chance, usage, &mut faults),
            (_, true) => chat(chance, wanted, usage, &mut faults),
            _ => json(chance, usage, &mut faults),
        };
        let mut script = Self {
            status: 200,
            form: body.form,
            wire: Vec::new(),
            head_bytes: 0,
            expect: body.expect,
            ends: body.ends,
            usage: body.usage,
            is_whole: body.is_whole,
            has_last_word: body.has_last_word,
            says_it_failed: body.says_it_failed,
            breaks: Break::None,
            malformed: false,
            replaced: false,
            stays: true,
            has_large_event: faults.contains(&Fault::LargeEvent),
            until_close: false,
            think_ms: chance.pick(&[0, 5, 200, 3_000]),
            gap_ms: chance.pick(&[0, 0, 2, 60]),
            wants_usage: wanted.usage,
            faults,
        };
        if chance.one_in(12) {
            script.think_ms = 35_000;
            script.faults.push(Fault::SlowAnswer);
        }
        let content_type = script.status(chance, body.content_type);
        script.frame(chance, wanted.id, content_type, &body.payload);
        script.go_wrong(chance);
        script
    }

    /// A status other than 200, now and then.
    fn status(&mut self, chance: &Chance, content_type: &'static str) -> &'static str {
        if !chance.one_in(10) {
            return content_type;
        }
        self.form = Form::Json;
        self.status = chance.pick(&[400, 429, 500, 503, 401, 403, 307]);
        self.says_it_failed = false;
        let other_shape = chance.one_in(3);
        self.replaced = matches!(self.status, 401 | 403 | 307) || other_shape;
        // What fails reports nothing, so nothing may be counted; its body is that of the good answer all the same.
        if self.replaced {
            self.faults.push(Fault::StatusReplaced);
        }
        (self.is_whole, self.has_last_word, self.usage) = (true, false, Tokens::default());
        (self.expect, self.ends) = (ERROR_BODY.to_vec(), Vec::new());
        if other_shape { "text/html" } else { "application/json" }
    }

    fn frame(&mut self, chance: &Chance, id: usize, content_type: &str, payload: &[u8]) {
        let payload = if self.status == 200 { payload } else { ERROR_BODY };
        let mut wire = Vec::new();
        if chance.one_in(12) {
            let interims = if chance.one_in(4) { limits::INTERIM_ANSWERS_MAX + 1 } else { chance.of(1..4) };
            self.malformed |= interims > limits::INTERIM_ANSWERS_MAX;
            self.faults.push(if self.malformed { Fault::TooManyInterims } else { Fault::Interim });
            (0..interims)
                .for_each(|_| wire.extend_from_slice(b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"));
        }
        let framing = chance.of(0..8);
        let http10 = chance.one_in(12);
        if http10 {
            self.faults.push(Fault::Http10Answer);
            self.stays = false;
        }
        let version = if http10 { "1.0" } else { "1.1" };
        wire.extend_from_slice(
            format!("HTTP/{version} {} Whatever\r\nServer: sim\r\n", self.status).as_bytes(),
        );
        wire.extend_from_slice(format!("x-sim: {id}\r\nContent-Type: {content_type}\r\n").as_bytes());
        if chance.one_in(10) && !http10 {
            self.faults.push(Fault::ConnectionClose);
            self.stays = false;
            wire.extend_from_slice(b"Connection: close\r\n");
        }
        let mut wire = match framing {
            0..2 => {
                wire.extend_from_slice(format!("Content-Length: {}\r\n\r\n", payload.len()).as_bytes());
                self.head_bytes = wire.len();
                wire.extend_from_slice(payload);
                wire
            }
            2..7 if !http10 => {
                wire.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
                self.head_bytes = wire.len();
                self.chunked(chance, wire, payload)
            }
            _ => {
                self.faults.push(Fault::UntilClose);
                (self.stays, self.until_close) = (false, true);
                wire.extend_from_slice(b"\r\n");
                self.head_bytes = wire.len();
                wire.extend_from_slice(payload);
                wire
            }
        };
        if chance.one_in(25) {
            self.faults.push(Fault::GarbageHead);
            self.malformed = true;
            let garbage: &[u8] = chance.pick(&[
                &b"220 smtp.example ESMTP\r\n\r\n"[..],
                b"HTTP/1.1 200 OK\nx: bare line feed\n\n",
                b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
                b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
            ]);
            wire = garbage.to_vec();
            self.head_bytes = wire.len();
        }
        self.wire = wire;
    }

    fn chunked(&mut self, chance: &Chance, mut wire: Vec<u8>, payload: &[u8]) -> Vec<u8> {
        let extended = chance.one_in(8);
        let bad = chance.one_in(12);
        let torn = chance.one_in(3);
        let mut starts = Vec::new();
        let mut at = 0;
        while at < payload.len() {
            let left = payload.len() - at;
            let taken = if torn {
                chance.of(1..left.min(4_000) + 1)
            } else {
                memchr::memmem::find(&payload[at..], b"\n\n").map_or(left, |end| end + 2)
            };
            starts.push(wire.len());
            let extension = if extended { ";name=\"value\"" } else { "" };
            wire.extend_from_slice(format!("{taken:x}{extension}\r\n").as_bytes());
            wire.extend_from_slice(&payload[at..at + taken]);
            wire.extend_from_slice(b"\r\n");
            at += taken;
        }
        starts.push(wire.len());
        if extended {
            self.faults.push(Fault::ChunkExtension);
        }
        if torn {
            self.faults.push(Fault::TornChunks);
        }
        if chance.one_in(8) {
            self.faults.push(Fault::Trailers);
            wire.extend_from_slice(b"0\r\nx-trailer: 1\r\nx-sum: ok\r\n\r\n");
        } else {
            wire.extend_from_slice(b"0\r\n\r\n");
        }
        if bad {
            self.faults.push(Fault::BadChunk);
            self.malformed = true;
            let at = chance.pick(&starts);
            wire[at] = chance.pick(b"x;\r -");
            // Nothing behind it can be understood.
            wire.truncate(at + 1 + chance.of(0..64).min(wire.len() - at - 1));
        }
        wire
    }

    fn go_wrong(&mut self, chance: &Chance) {
        if !chance.one_in(4) {
            return;
        }
        let in_head = chance.one_in(3) || self.wire.len() == self.head_bytes;
        let at =
            if in_head { chance.of(0..self.head_bytes) } else { chance.of(self.head_bytes..self.wire.len()) };
        self.breaks = match chance.of(0..7) {
            0..2 => Break::Reset { at },
            2..4 => Break::Close { at },
            4..6 => Break::Stall { at },
            _ => Break::WhileSending,
        };
        if self.breaks == Break::WhileSending {
            return;
        }
        self.faults.push(match self.breaks {
            Break::Reset { .. } if in_head => Fault::ResetInHead,
            Break::Reset { .. } => Fault::ResetInBody,
            Break::Close { .. } if in_head => Fault::ClosedInHead,
            Break::Close { .. } => Fault::ClosedInBody,
            _ if in_head => Fault::StalledInHead,
            _ => Fault::StalledInBody,
        });
        self.stays = false;
    }

    /// Nothing about it should keep the client from getting it whole.
    pub(super) fn is_good(&self) -> bool {
        self.breaks == Break::None && !self.malformed && self.is_whole && !self.replaced
    }
}

impl std::fmt::Debug for Script {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { status, form, breaks, faults, malformed, usage, .. } = self;
        let (wire, head) = (self.wire.len(), self.head_bytes);
        write!(
            f,
            "{status} {form:?} {breaks:?} of {head}+{} malformed: {malformed} {faults:?} {usage:?}",
            wire - head
        )
    }
}

pub(super) const ERROR_BODY: &[u8] =
    br#"{"error":{"message":"not today","type":"server_error","param":null,"code":"not_today"}}"#;
