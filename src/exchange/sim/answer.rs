//! Reads what a client is sent, byte by byte and by the letter: a second reader, which shares no code with the first.

/// Answers on one connection, in order.
#[derive(Default)]
pub(super) struct Reader {
    phase: Phase,
    line: Vec<u8>,
    now: Answer,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) fields: Vec<(String, String)>,
    pub(super) payload: Vec<u8>,
    pub(super) until_close: bool,
    /// It came to its end.
    pub(super) whole: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Head,
    Length(usize),
    ChunkSize,
    Chunk(usize),
    ChunkEnd,
    LastLine,
    UntilClose,
}

impl Answer {
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }

    pub(super) fn closes(&self) -> bool {
        self.until_close || self.field("connection") == Some("close")
    }
}

impl Reader {
    /// Takes bytes up to the end of an answer. How many it took, and the answer if it is whole.
    pub(super) fn feed(&mut self, bytes: &[u8], asked_head: bool) -> Result<(usize, Option<Answer>), String> {
        let mut at = 0;
        while at < bytes.len() {
            match self.phase {
                Phase::Length(left) | Phase::Chunk(left) => {
                    let taken = left.min(bytes.len() - at);
                    self.now.payload.extend_from_slice(&bytes[at..at + taken]);
                    at += taken;
                    self.phase = match self.phase {
                        Phase::Length(_) if left == taken => return Ok((at, Some(self.end()))),
                        Phase::Length(_) => Phase::Length(left - taken),
                        _ if left == taken => Phase::ChunkEnd,
                        _ => Phase::Chunk(left - taken),
                    };
                    continue;
                }
                Phase::UntilClose => {
                    self.now.payload.extend_from_slice(&bytes[at..]);
                    return Ok((bytes.len(), None));
                }
                _ => {}
            }
            self.line.push(bytes[at]);
            at += 1;
            if !self.line.ends_with(b"\r\n") {
                if self.line.len() > 64 << 10 {
                    return Err("a line without end".to_owned());
                }
                continue;
            }
            let line = String::from_utf8(std::mem::take(&mut self.line)).map_err(|_| "a line is not text")?;
            if self.line_read(line.trim_end_matches("\r\n"), asked_head)? {
                return Ok((at, Some(self.end())));
            }
        }
        Ok((at, None))
    }

    /// The connection has ended: what there is of an answer, if there is one.
    pub(super) fn close(mut self) -> Option<Answer> {
        let begun = self.now.status != 0;
        if !begun {
            return None;
        }
        if self.phase == Phase::UntilClose {
            return Some(self.end());
        }
        Some(self.now)
    }

    /// Nothing of an answer has come yet.
    pub(super) fn is_between(&self) -> bool {
        self.phase == Phase::Head && self.now.status == 0 && self.line.is_empty()
    }

    fn end(&mut self) -> Answer {
        self.phase = Phase::Head;
        Answer { whole: true, ..std::mem::take(&mut self.now) }
    }

    /// Whether this line ended the answer.
    fn line_read(&mut self, line: &str, asked_head: bool) -> Result<bool, String> {
        match self.phase {
            Phase::Head if self.now.status == 0 => {
                let status = line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
                self.now.status = status.ok_or_else(|| format!("no status line: {line:?}"))?;
            }
            Phase::Head if !line.is_empty() => {
                let (name, value) = line.split_once(": ").ok_or_else(|| format!("no field: {line:?}"))?;
                self.now.fields.push((name.to_ascii_lowercase(), value.to_owned()));
            }
            Phase::Head if self.now.status == 100 => self.now = Answer::default(),
            Phase::Head => return self.head_read(asked_head),
            Phase::ChunkSize => {
                let size = usize::from_str_radix(line, 16).map_err(|_| format!("no chunk size: {line:?}"))?;
                self.phase = if size == 0 { Phase::LastLine } else { Phase::Chunk(size) };
            }
            Phase::ChunkEnd if line.is_empty() => self.phase = Phase::ChunkSize,
            Phase::LastLine if line.is_empty() => return Ok(true),
            _ => return Err(format!("bad framing: {line:?}")),
        }
        Ok(false)
    }

    fn head_read(&mut self, asked_head: bool) -> Result<bool, String> {
        let answer = &mut self.now;
        let all = |name: &str| answer.fields.iter().filter(|(known, _)| known == name).count();
        let (lengths, codings) = (all("content-length"), all("transfer-encoding"));
        if lengths + codings > 1 {
            return Err("framed twice".to_owned());
        }
        if answer.status == 204 {
            return if lengths + codings == 0 { Ok(true) } else { Err("a 204 with a body".to_owned()) };
        }
        if let Some(length) = answer.field("content-length") {
            let length: usize = length.parse().map_err(|_| "no length")?;
            self.phase = Phase::Length(length);
            return Ok(length == 0 || asked_head);
        }
        self.phase = if codings == 1 { Phase::ChunkSize } else { Phase::UntilClose };
        answer.until_close = codings == 0;
        Ok(false)
    }
}
