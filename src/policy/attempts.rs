//! Whether, and where, to try again after a failure. A pure value: the one loop of an exchange turns over it.

use crate::base::waiting::Expiry;

/// How far an attempt had come when the world failed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Resolve,
    Connect,
    Handshake,
    Send,
    /// Waiting for the answer's head.
    Head,
    /// Reading the answer's body.
    Body,
}

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The name has no address, or none that may be used.
    NoAddress,
    /// Every address of the name is private, and the provider does not say that it may be.
    PrivateAddress,
    /// The connection was refused, reset or unreachable.
    Broken,
    /// The upstream ended the connection in an orderly way, but too early.
    Ended,
    /// A deadline.
    Expired(Expiry),
    /// Certificate or protocol trouble in TLS.
    Tls,
    /// Nobody failed: the caller's own limit ended the stream.
    OverLimit,
    /// What came was not HTTP, or not framed as RFC 9112 wants it; why.
    Malformed(&'static str),
}

/// The world failed an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    pub phase: Phase,
    pub cause: Cause,
    /// The connection came from the pool.
    pub reused: bool,
    /// At least one byte of the answer had arrived.
    pub answered: bool,
}

impl Failure {
    pub fn new(phase: Phase, cause: Cause) -> Self {
        Self { phase, cause, reused: false, answered: false }
    }
}

/// What comes after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Once more at the same target, over a connection of its own.
    Fresh,
    /// This failure is the answer.
    GiveUp,
}

/// The attempts of one exchange so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attempts {
    tried: u8,
}

impl Attempts {
    /// Counts an attempt that begins.
    pub fn begin(&mut self) {
        self.tried = self.tried.saturating_add(1);
    }

    pub fn tried(self) -> u8 {
        self.tried
    }

    /// A pooled connection that dies without a byte of answer was most likely closed before our request reached it:
    /// the one failure that is nearly always safe to retry, and only once.
    pub fn after(self, failure: Failure) -> Verdict {
        let was_stale = failure.reused
            && !failure.answered
            && matches!(failure.phase, Phase::Send | Phase::Head)
            && matches!(failure.cause, Cause::Broken | Cause::Ended);
        if was_stale && self.tried == 1 { Verdict::Fresh } else { Verdict::GiveUp }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::waiting::Waiting;

    #[track_caller]
    fn check(tried: u8, failure: Failure, expect: Verdict) {
        assert_eq!(Attempts { tried }.after(failure), expect);
    }

    #[test]
    fn only_a_stale_connection_is_tried_again_and_only_once() {
        let stale = Failure { phase: Phase::Head, cause: Cause::Ended, reused: true, answered: false };
        check(1, stale, Verdict::Fresh);
        check(1, Failure { phase: Phase::Send, cause: Cause::Broken, ..stale }, Verdict::Fresh);
        check(2, stale, Verdict::GiveUp);
        check(1, Failure { reused: false, ..stale }, Verdict::GiveUp);
        check(1, Failure { answered: true, ..stale }, Verdict::GiveUp);
        check(1, Failure { phase: Phase::Body, ..stale }, Verdict::GiveUp);
        let late = Cause::Expired(Expiry::Late(Waiting::FirstByte));
        check(1, Failure { cause: late, ..stale }, Verdict::GiveUp);
        check(1, Failure { cause: Cause::Malformed("no status line"), ..stale }, Verdict::GiveUp);
    }
}
