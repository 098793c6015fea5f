//! What a log keeps of one exchange: its record in short, and who asked. Nothing of it is text yet: that is made of it far from
//! the core it comes from. A prompt and an answer are in it only where [`Payload`] says so, and no log shows that but the one
//! that seals it.

use std::{fmt, net::IpAddr};

use crate::{
    config::KeptLogs,
    ledger::{
        gist::Gist,
        record::{Closed, Outcome},
    },
    wire::{http1::head::Method, request_id::RequestId, token::TokenId},
};

/// One exchange on its way to the log.
#[derive(Clone, Debug)]
pub struct Logged {
    pub gist: Gist,
    /// The record itself, where spans are made of it.
    pub whole: Option<Box<Closed>>,
    /// Wall-clock milliseconds since 1970 when the exchange ended.
    pub ended_unix_ms: u64,
    /// `x-request-id`; empty if not even a head was read.
    pub request_id: RequestId,
    pub caller: Option<CallerTag>,
    /// The client's, as far as proxies that are trusted tell it.
    pub address: IpAddr,
    /// `None`: no head was read.
    pub method: Option<Method>,
    pub http10: bool,
    /// The route that was asked for.
    pub route: Option<Box<str>>,
    pub keep: Keep,
    /// Copies of what was said, where they were wanted.
    pub payload: Option<Box<Payload>>,
}

/// Whether an exchange is kept in the state directory; known before its body is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    #[default]
    No,
    /// If it does not end well.
    IfBad,
    Yes,
}

impl Keep {
    /// What the client wants is done; else a share of all is kept, by `chance` out of a million, and by choice what ends badly.
    pub fn decide(kept: &KeptLogs, asked: Option<bool>, chance: u32) -> Self {
        match asked {
            Some(true) => Self::Yes,
            Some(false) => Self::No,
            None if chance < kept.sample_ppm => Self::Yes,
            None if kept.errors => Self::IfBad,
            None => Self::No,
        }
    }
}

impl Logged {
    /// Whether it is kept, now that it is known how it ended.
    pub fn is_kept(&self) -> bool {
        match self.keep {
            Keep::No => false,
            Keep::IfBad => self.gist.status >= 400 || self.gist.outcome != Outcome::Completed,
            Keep::Yes => true,
        }
    }
}

/// What was asked and what was answered, as far as it was copied.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Payload {
    pub request: Copied,
    pub response: Copied,
    /// The answer is a stream of events.
    pub is_stream: bool,
}

/// The beginning of a body.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Copied {
    pub bytes: Vec<u8>,
    /// How long the body is; what `bytes` has less was not copied.
    pub whole_bytes: u64,
}

impl Copied {
    pub fn is_whole(&self) -> bool {
        self.bytes.len() as u64 == self.whole_bytes
    }
}

impl Payload {
    /// The memory it takes.
    pub fn bytes(&self) -> usize {
        self.request.bytes.capacity() + self.response.bytes.capacity()
    }
}

/// Its size and nothing else: a prompt must not come into another log by way of a message.
impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} + {} bytes)", self.request.whole_bytes, self.response.whole_bytes)
    }
}

/// Who called, by both its names: one never changes, the other is read by people.
#[derive(Clone, Debug)]
pub struct CallerTag {
    pub id: TokenId,
    pub name: Box<str>,
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, time::Duration};

    use super::*;
    use crate::{
        base::now::Now,
        config::KeepPayload,
        ledger::{record::Record, sheet::Sheet},
    };

    #[track_caller]
    fn check_kept(outcome: Outcome, asked: Option<bool>, (sample_ppm, errors): (u32, bool), expect: bool) {
        let kept = KeptLogs {
            sample_ppm,
            errors,
            payload: KeepPayload::Never,
            payload_bytes_max: 0,
            keep_time: Duration::ZERO,
            bytes_max: 0,
        };
        let record = Record::new("chat", Now(0));
        let line = Logged {
            gist: record.close(Now(1), outcome, &mut Sheet::default()).gist(),
            whole: None,
            ended_unix_ms: 0,
            request_id: RequestId::default(),
            caller: None,
            address: Ipv4Addr::LOCALHOST.into(),
            method: None,
            http10: false,
            route: None,
            keep: Keep::decide(&kept, asked, 10),
            payload: None,
        };
        assert_eq!(line.is_kept(), expect);
    }

    #[test]
    fn the_client_decides_then_chance_then_the_outcome() {
        let (good, bad) = (Outcome::Completed, Outcome::ClientGone);
        check_kept(good, None, (0, true), false);
        check_kept(good, None, (10, false), false);
        check_kept(good, None, (11, false), true);
        check_kept(bad, None, (0, true), true);
        check_kept(bad, None, (0, false), false);
        check_kept(good, Some(true), (0, false), true);
        check_kept(bad, Some(false), (1_000_000, true), false);
    }

    #[test]
    fn a_message_shows_nothing_of_a_payload() {
        let bytes = b"secret".to_vec();
        let payload =
            Payload { request: Copied { whole_bytes: 6, bytes }, is_stream: true, ..Payload::default() };
        assert_eq!(format!("{payload:?}"), "Payload(6 + 0 bytes)");
    }

    #[test]
    fn a_core_moves_little_for_a_line() {
        assert!(size_of::<Logged>() <= 480, "{}", size_of::<Logged>());
    }
}
