//! Whether, and where, to try again. A pure value: the one loop of an exchange turns over it.
//!
//! One table (`Row`) says what an outcome is; its columns say whether the same target, another key of it or the next target
//! may be asked, and what the board hears of it. Nothing is tried again after the commit point, and where the provider keeps
//! what it makes, nothing that it may have begun.

use crate::{
    base::{
        limits::{BACKOFF_MS, BACKOFF_MS_MAX},
        waiting::{Expiry, Waiting},
    },
    wire::{
        json::Stateful,
        openai::{
            endpoint::{Endpoint, Repeat},
            upstream_error::Said,
        },
    },
};

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
    /// The first event of a stream is an error, and another target can be asked.
    ErrorEvent(Option<Said>),
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
    /// At least one byte of the request may have left.
    pub sent: bool,
}

impl Failure {
    pub fn new(phase: Phase, cause: Cause) -> Self {
        Self { phase, cause, reused: false, answered: false, sent: phase >= Phase::Send }
    }
}

/// An answer whose head, or whose first event, is an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered {
    /// 2xx for a stream that begins with an error event.
    pub status: u16,
    /// What its body says it is.
    pub said: Option<Said>,
    pub retry_after_ms: Option<u64>,
}

/// What came of an attempt that did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Came {
    Failed(Failure),
    Answered(Answered),
}

/// All else that the decision hangs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Situation {
    pub attempts_max: u8,
    /// Attempts of this request, the one that is judged among them.
    pub tried: u8,
    /// The same, at this target and under this key.
    pub tried_here: u8,
    /// The client has been given a byte of answer.
    pub committed: bool,
    /// The provider keeps what it makes; see [`keeps`].
    pub keeps: bool,
    /// The client's SDK is itself trying again (`x-stainless-retry-count`).
    pub client_retries: bool,
    /// Whether the route lets a request go elsewhere that a silent provider may have answered, and bills.
    pub may_bill_twice: bool,
    /// Whether the route goes on where a provider does not have the model.
    pub missing_model_moves: bool,
    /// Whether the provider has another named key that is not put aside.
    pub another_key: bool,
    /// Whether the plan has another target that may be used now.
    pub another_target: bool,
    /// Until the exchange's deadline.
    pub left_ms: u64,
    /// This target's median time to the first byte, if it is known.
    pub typical_us: Option<u64>,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Once more at the same target, over a fresh connection.
    SameTarget { after_ms: u64 },
    /// At once at the same provider, with another of its keys.
    OtherKey,
    /// At once at the next target of the plan.
    NextTarget,
    /// The answer is the client's, as it came.
    PassThrough,
    /// The client is told by us; what, says [`super::lost::Losses`].
    GiveUp,
}

/// What the board is told of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bearing {
    /// Neither that the target is well nor that it is not: the client's own mistake, our own deadline, a stale connection.
    Nothing,
    /// It counts against the target.
    Failed(Fault),
    /// The key's account has no money: nobody is to use it for a while.
    KeyDead,
    /// The provider does not accept the key, and the operator should know.
    KeyRefused,
}

/// How a target failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// No connection: name, TCP or TLS.
    Unreachable,
    TimedOut,
    /// The connection broke before the answer was whole.
    Lost,
    /// What came was not HTTP, or a redirect.
    Malformed,
    /// 5xx.
    Rejected,
    RateLimited,
    Overloaded,
}

/// A verdict, and what is to be told to the board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    pub verdict: Verdict,
    pub bearing: Bearing,
    /// In one word, for the books.
    pub reason: &'static str,
}

/// Does the provider keep what it makes of this request? Then a second try could leave two.
pub fn keeps(endpoint: Endpoint, body: Stateful) -> bool {
    match endpoint.repeat() {
        Repeat::Generation => body.store == Some(true),
        Repeat::Stateful => body.store != Some(false) || body.background || body.previous_response_id,
        Repeat::Local => false,
    }
}

/// What to do after an attempt that did not succeed.
///
/// `spend` takes one retry out of the provider's budget; it is asked only where the answer decides, and then once.
pub fn judge(came: Came, at: &Situation, chance: u64, spend: impl FnOnce() -> bool) -> Judgement {
    let row = Row::of(came);
    let bearing = row.bearing();
    // An SDK that tries again gets one attempt and one failover.
    let attempts_max = if at.client_retries { at.attempts_max.min(2) } else { at.attempts_max };
    let may_try =
        !at.committed && at.tried < attempts_max && at.left_ms > 0 && (!at.keeps || row.is_undone());
    let verdict = if !may_try {
        None
    } else if row == Row::Key && at.another_key {
        Some(Verdict::OtherKey)
    } else if let Some(after_ms) = row.wait_here(at, chance)
        && at.tried_here < 2
        && !(at.client_retries && at.another_target)
        && at.left_ms > after_ms.saturating_add(2 * at.typical_us.unwrap_or(0) / 1_000)
        && (row.is_stale() || spend())
    {
        Some(Verdict::SameTarget { after_ms })
    } else {
        (at.another_target && row.moves(at)).then_some(Verdict::NextTarget)
    };
    let verdict = verdict.unwrap_or_else(|| match came {
        Came::Answered(_) if !at.committed && row.is_shown() => Verdict::PassThrough,
        _ => Verdict::GiveUp,
    });
    Judgement { verdict, bearing, reason: row.reason() }
}

/// The table: what an outcome is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Row {
    /// The name has no address that may be used.
    Nameless,
    /// Not a byte of the request left.
    Unsent(Fault),
    /// A pooled connection turned out closed; `sent`: after some of the request had been written to it.
    Stale {
        sent: bool,
    },
    /// The request was sent, and nothing came.
    Silent(Fault),
    /// "Not now", said by an upstream that did nothing.
    Busy {
        fault: Fault,
        retry_after_ms: Option<u64>,
    },
    Billing,
    /// It tried and failed, or made no sense.
    Broken(Fault),
    Redirect,
    Key,
    MissingModel,
    /// The request is at fault, or what was asked for.
    Request,
    /// The gateway ended it: deadline of the whole, or shutdown.
    Ours,
}

impl Row {
    pub(super) fn of(came: Came) -> Self {
        match came {
            Came::Failed(failure) => Self::of_failure(failure),
            Came::Answered(answered) => Self::of_answer(answered),
        }
    }

    fn of_failure(failure: Failure) -> Self {
        let Failure { phase, cause, reused, answered, sent } = failure;
        let timed_out = matches!(cause, Cause::Expired(_));
        match cause {
            // A deadline that a client may have chosen says nothing of the upstream.
            Cause::Expired(Expiry::Drained | Expiry::Late(Waiting::Total)) => Self::Ours,
            Cause::NoAddress | Cause::PrivateAddress => Self::Nameless,
            Cause::Malformed(_) => Self::Broken(Fault::Malformed),
            Cause::Broken | Cause::Ended if reused && !answered && phase <= Phase::Head => {
                Self::Stale { sent }
            }
            _ if !sent => Self::Unsent(if timed_out { Fault::TimedOut } else { Fault::Unreachable }),
            _ if answered || phase == Phase::Body => {
                Self::Broken(if timed_out { Fault::TimedOut } else { Fault::Lost })
            }
            _ => Self::Silent(if timed_out { Fault::TimedOut } else { Fault::Lost }),
        }
    }

    fn of_answer(answered: Answered) -> Self {
        let Answered { status, said, retry_after_ms } = answered;
        let rate_limited = Self::Busy { fault: Fault::RateLimited, retry_after_ms };
        let overloaded = Self::Busy { fault: Fault::Overloaded, retry_after_ms };
        // Its own word goes before its status where the status is wider: OpenAI says "no money" with 429.
        match (status, said) {
            (300..=399, _) => Self::Redirect,
            (_, Some(Said::Billing)) | (402, _) => Self::Billing,
            (401, _) => Self::Key,
            (403 | 404, Some(Said::MissingModel)) => Self::MissingModel,
            (403, _) => Self::Key,
            (429, Some(Said::Overloaded)) => overloaded,
            (429, _) => rate_limited,
            (503 | 529, _) | (500.., Some(Said::Overloaded)) => overloaded,
            (408 | 500.., _) => Self::Broken(Fault::Rejected),
            (400..=499, _) => Self::Request,
            // An event in a stream that began well.
            (_, Some(Said::RateLimited)) => rate_limited,
            (_, Some(Said::Overloaded)) => overloaded,
            (_, Some(Said::Key)) => Self::Key,
            (_, Some(Said::MissingModel)) => Self::MissingModel,
            (_, Some(Said::Request)) => Self::Request,
            (_, Some(Said::Server) | None) => Self::Broken(Fault::Rejected),
        }
    }

    /// Whether the upstream certainly did nothing: what may be repeated even where a second result would be kept.
    fn is_undone(self) -> bool {
        matches!(
            self,
            Self::Nameless
                | Self::Unsent(_)
                | Self::Stale { sent: false }
                | Self::Busy { .. }
                | Self::Billing
        )
    }

    /// Whether the upstream most likely never saw the request. It needs no budget: an upstream that restarts closes all its
    /// pooled connections at once, and none of the requests on them was a load to it.
    fn is_stale(self) -> bool {
        matches!(self, Self::Stale { .. })
    }

    /// How long to wait before the same target is tried again; `None` where it is not.
    fn wait_here(self, at: &Situation, chance: u64) -> Option<u64> {
        match self {
            Self::Stale { .. } => Some(0),
            // What took a whole connect timeout would take another.
            Self::Unsent(Fault::TimedOut) if at.another_target => None,
            Self::Unsent(_) => Some(backoff_ms(at.tried_here, chance)),
            Self::Busy { retry_after_ms, .. } => retry_after_ms.filter(|&ms| ms <= BACKOFF_MS_MAX),
            _ => None,
        }
    }

    /// Whether the next target may be tried.
    fn moves(self, at: &Situation) -> bool {
        match self {
            Self::Request | Self::Ours => false,
            Self::MissingModel => at.missing_model_moves,
            Self::Silent(_) => at.may_bill_twice,
            _ => true,
        }
    }

    /// Whether the client may see such an answer: not what concerns the operator's key, nor a way around us.
    fn is_shown(self) -> bool {
        !matches!(self, Self::Key | Self::Redirect)
    }

    fn bearing(self) -> Bearing {
        match self {
            Self::Nameless => Bearing::Failed(Fault::Unreachable),
            Self::Unsent(fault) | Self::Silent(fault) | Self::Broken(fault) | Self::Busy { fault, .. } => {
                Bearing::Failed(fault)
            }
            Self::Redirect => Bearing::Failed(Fault::Malformed),
            Self::Billing => Bearing::KeyDead,
            Self::Key => Bearing::KeyRefused,
            Self::Stale { .. } | Self::MissingModel | Self::Request | Self::Ours => Bearing::Nothing,
        }
    }
}

impl Row {
    fn reason(self) -> &'static str {
        match self {
            Self::Nameless => Fault::Unreachable.name(),
            Self::Unsent(fault) | Self::Silent(fault) | Self::Broken(fault) | Self::Busy { fault, .. } => {
                fault.name()
            }
            Self::Stale { .. } => "stale",
            Self::Billing => "key_dead",
            Self::Redirect => "redirected",
            Self::Key => "key_refused",
            Self::MissingModel => "missing_model",
            Self::Request => "request",
            Self::Ours => "ended",
        }
    }
}

impl Fault {
    pub fn name(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::TimedOut => "timed_out",
            Self::Lost => "lost",
            Self::Malformed => "malformed",
            Self::Rejected => "rejected",
            Self::RateLimited => "rate_limited",
            Self::Overloaded => "overloaded",
        }
    }
}

/// Full jitter: anything up to a bound that doubles with each try.
fn backoff_ms(tried_here: u8, chance: u64) -> u64 {
    let doublings = u32::from(tried_here.saturating_sub(1)).min(16);
    chance % ((BACKOFF_MS << doublings).min(BACKOFF_MS_MAX) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATE: Cause = Cause::Expired(Expiry::Late(Waiting::FirstByte));

    fn failed(phase: Phase, cause: Cause) -> Came {
        Came::Failed(Failure::new(phase, cause))
    }

    fn reused(phase: Phase, cause: Cause) -> Came {
        Came::Failed(Failure { reused: true, ..Failure::new(phase, cause) })
    }

    fn unsent(phase: Phase, cause: Cause) -> Came {
        Came::Failed(Failure { sent: false, ..Failure::new(phase, cause) })
    }

    fn status(status: u16) -> Came {
        Came::Answered(Answered { status, said: None, retry_after_ms: None })
    }

    fn busy(status: u16, retry_after_ms: u64) -> Came {
        Came::Answered(Answered { status, said: None, retry_after_ms: Some(retry_after_ms) })
    }

    fn says(status: u16, said: Said) -> Came {
        Came::Answered(Answered { status, said: Some(said), retry_after_ms: None })
    }

    /// The first of two targets, first attempt.
    const FIRST: Situation = Situation {
        attempts_max: 3,
        tried: 1,
        tried_here: 1,
        committed: false,
        keeps: false,
        client_retries: false,
        may_bill_twice: true,
        missing_model_moves: false,
        another_key: false,
        another_target: true,
        left_ms: 60_000,
        typical_us: None,
    };
    /// Its second try.
    const AGAIN: Situation = Situation { tried: 2, tried_here: 2, ..FIRST };
    /// The last target's first try, with an attempt left.
    const LAST: Situation = Situation { tried: 2, another_target: false, ..FIRST };
    /// Everything has been tried.
    const SPENT: Situation = Situation { tried: 3, tried_here: 2, another_target: false, ..FIRST };

    fn verdict(came: Came, at: Situation) -> Verdict {
        judge(came, &at, 7, || true).verdict
    }

    const fn here(after_ms: u64) -> Verdict {
        Verdict::SameTarget { after_ms }
    }

    const NEXT: Verdict = Verdict::NextTarget;
    const PASS: Verdict = Verdict::PassThrough;
    const GIVE: Verdict = Verdict::GiveUp;

    /// An outcome at the first target, at its second try, at the last target and when all is spent; then the same where
    /// the provider keeps what it makes.
    #[track_caller]
    fn check(came: Came, bearing: Bearing, expect: [Verdict; 4], kept: [Verdict; 4]) {
        let situations = [FIRST, AGAIN, LAST, SPENT];
        assert_eq!(situations.map(|at| verdict(came, at)), expect, "{came:?}");
        assert_eq!(
            situations.map(|at| verdict(came, Situation { keeps: true, ..at })),
            kept,
            "{came:?}, kept"
        );
        for at in situations {
            assert_eq!(judge(came, &at, 0, || true).bearing, bearing, "{came:?}");
            let committed = verdict(came, Situation { committed: true, ..at });
            assert_eq!(committed, GIVE, "{came:?} after commit");
        }
    }

    /// The same whether it is kept or not.
    #[track_caller]
    fn check_both(came: Came, bearing: Bearing, expect: [Verdict; 4]) {
        check(came, bearing, expect, expect);
    }

    #[test]
    fn nothing_sent_is_tried_here_once_and_then_elsewhere() {
        let unreachable = Bearing::Failed(Fault::Unreachable);
        let expect = [here(7), NEXT, here(7), GIVE];
        check_both(failed(Phase::Connect, Cause::Broken), unreachable, expect);
        check_both(failed(Phase::Handshake, Cause::Tls), unreachable, expect);
        check_both(failed(Phase::Handshake, Cause::Ended), unreachable, expect);
        check_both(unsent(Phase::Send, Cause::Broken), unreachable, expect);
        // A black hole is not waited for twice while there is somewhere else.
        let late = Cause::Expired(Expiry::Late(Waiting::Connect));
        let timed_out = Bearing::Failed(Fault::TimedOut);
        check_both(failed(Phase::Connect, late), timed_out, [NEXT, NEXT, here(7), GIVE]);
        // A fresh connection would find the same addresses.
        for cause in [Cause::NoAddress, Cause::PrivateAddress] {
            check_both(failed(Phase::Resolve, cause), unreachable, [NEXT, NEXT, GIVE, GIVE]);
        }
    }

    #[test]
    fn a_stale_connection_is_replaced_at_once_and_says_nothing_of_the_target() {
        for (phase, cause) in
            [(Phase::Send, Cause::Broken), (Phase::Head, Cause::Ended), (Phase::Head, Cause::Broken)]
        {
            let expect = [here(0), NEXT, here(0), GIVE];
            check(reused(phase, cause), Bearing::Nothing, expect, [GIVE; 4]);
        }
        let Came::Failed(failure) = unsent(Phase::Send, Cause::Broken) else { unreachable!() };
        let unsent = Came::Failed(Failure { reused: true, ..failure });
        check_both(unsent, Bearing::Nothing, [here(0), NEXT, here(0), GIVE]);
    }

    #[test]
    fn silence_goes_elsewhere_if_the_route_says_so() {
        for (came, fault) in [
            (failed(Phase::Head, Cause::Ended), Fault::Lost),
            (failed(Phase::Head, Cause::Broken), Fault::Lost),
            (failed(Phase::Send, Cause::Broken), Fault::Lost),
            (failed(Phase::Head, LATE), Fault::TimedOut),
            (reused(Phase::Head, LATE), Fault::TimedOut),
        ] {
            check(came, Bearing::Failed(fault), [NEXT, NEXT, GIVE, GIVE], [GIVE; 4]);
            assert_eq!(verdict(came, Situation { may_bill_twice: false, ..FIRST }), GIVE);
        }
    }

    #[test]
    fn not_now_is_waited_for_here_only_if_it_is_short() {
        for (code, fault) in [(429, Fault::RateLimited), (503, Fault::Overloaded), (529, Fault::Overloaded)] {
            let bearing = Bearing::Failed(fault);
            check_both(status(code), bearing, [NEXT, NEXT, PASS, PASS]);
            check_both(busy(code, 1_000), bearing, [here(1_000), NEXT, here(1_000), PASS]);
            check_both(busy(code, 1_001), bearing, [NEXT, NEXT, PASS, PASS]);
        }
        let overloaded = Bearing::Failed(Fault::Overloaded);
        check_both(says(500, Said::Overloaded), overloaded, [NEXT, NEXT, PASS, PASS]);
        check_both(says(200, Said::Overloaded), overloaded, [NEXT, NEXT, PASS, PASS]);
        let limited = Bearing::Failed(Fault::RateLimited);
        check_both(says(200, Said::RateLimited), limited, [NEXT, NEXT, PASS, PASS]);
    }

    #[test]
    fn no_money_is_never_asked_for_twice() {
        for came in
            [says(429, Said::Billing), status(402), says(403, Said::Billing), says(200, Said::Billing)]
        {
            check_both(came, Bearing::KeyDead, [NEXT, NEXT, PASS, PASS]);
            assert_eq!(verdict(came, Situation { another_key: true, ..LAST }), PASS);
        }
        let soon =
            Came::Answered(Answered { status: 429, said: Some(Said::Billing), retry_after_ms: Some(10) });
        check_both(soon, Bearing::KeyDead, [NEXT, NEXT, PASS, PASS]);
    }

    #[test]
    fn what_went_wrong_there_goes_elsewhere() {
        let expect = [NEXT, NEXT, PASS, PASS];
        let rejected = Bearing::Failed(Fault::Rejected);
        for code in [408, 500, 501, 502, 504, 599] {
            check(status(code), rejected, expect, [PASS; 4]);
        }
        check(says(200, Said::Server), rejected, expect, [PASS; 4]);
        check(status(302), Bearing::Failed(Fault::Malformed), [NEXT, NEXT, GIVE, GIVE], [GIVE; 4]);
        for (came, fault) in [
            (failed(Phase::Head, Cause::Malformed("no status line")), Fault::Malformed),
            (reused(Phase::Head, Cause::Malformed("no status line")), Fault::Malformed),
            (failed(Phase::Body, Cause::Ended), Fault::Lost),
            (reused(Phase::Body, Cause::Broken), Fault::Lost),
            (failed(Phase::Body, Cause::Expired(Expiry::Late(Waiting::BetweenBytes))), Fault::TimedOut),
        ] {
            check(came, Bearing::Failed(fault), [NEXT, NEXT, GIVE, GIVE], [GIVE; 4]);
        }
        let Came::Failed(failure) = reused(Phase::Head, Cause::Ended) else { unreachable!() };
        let half_a_head = Came::Failed(Failure { answered: true, ..failure });
        check(half_a_head, Bearing::Failed(Fault::Lost), [NEXT, NEXT, GIVE, GIVE], [GIVE; 4]);
    }

    #[test]
    fn a_refused_key_is_replaced_and_never_shown() {
        for came in [status(401), status(403), says(200, Said::Key)] {
            check(came, Bearing::KeyRefused, [NEXT, NEXT, GIVE, GIVE], [GIVE; 4]);
            assert_eq!(verdict(came, Situation { another_key: true, ..FIRST }), Verdict::OtherKey);
            assert_eq!(verdict(came, Situation { another_key: true, ..LAST }), Verdict::OtherKey);
            assert_eq!(verdict(came, Situation { another_key: true, ..SPENT }), GIVE);
        }
    }

    #[test]
    fn the_clients_own_mistakes_are_the_clients() {
        for code in [400, 404, 405, 409, 413, 415, 422, 451] {
            check_both(status(code), Bearing::Nothing, [PASS; 4]);
        }
        check_both(says(400, Said::Request), Bearing::Nothing, [PASS; 4]);
        check_both(says(200, Said::Request), Bearing::Nothing, [PASS; 4]);
        let missing = says(404, Said::MissingModel);
        check_both(missing, Bearing::Nothing, [PASS; 4]);
        assert_eq!(verdict(missing, Situation { missing_model_moves: true, ..FIRST }), NEXT);
        assert_eq!(verdict(status(404), Situation { missing_model_moves: true, ..FIRST }), PASS);
    }

    #[test]
    fn our_own_deadline_and_shutdown_end_it() {
        for expiry in [Expiry::Drained, Expiry::Late(Waiting::Total)] {
            for phase in [Phase::Connect, Phase::Send, Phase::Head, Phase::Body] {
                check_both(failed(phase, Cause::Expired(expiry)), Bearing::Nothing, [GIVE; 4]);
            }
        }
    }

    #[test]
    fn the_budget_is_asked_only_where_it_decides() {
        let asked = |came, at: &Situation| {
            let mut asked = 0;
            let judgement = judge(came, at, 0, || {
                asked += 1;
                false
            });
            (asked, judgement.verdict)
        };
        assert_eq!(asked(failed(Phase::Connect, Cause::Broken), &FIRST), (1, NEXT));
        assert_eq!(asked(failed(Phase::Connect, Cause::Broken), &LAST), (1, GIVE));
        assert_eq!(asked(busy(429, 10), &LAST), (1, PASS));
        assert_eq!(asked(busy(429, 10), &SPENT), (0, PASS));
        assert_eq!(asked(status(429), &FIRST), (0, NEXT));
        assert_eq!(asked(failed(Phase::Connect, Cause::Broken), &AGAIN), (0, NEXT));
        assert_eq!(asked(reused(Phase::Head, Cause::Ended), &LAST), (0, here(0)));
    }

    #[test]
    fn too_little_time_is_not_spent_here() {
        let slow = Situation { typical_us: Some(2_000_000), left_ms: 4_500, ..FIRST };
        assert_eq!(verdict(busy(429, 499), slow), here(499));
        assert_eq!(verdict(busy(429, 500), slow), NEXT);
        assert_eq!(verdict(busy(429, 500), Situation { another_target: false, ..slow }), PASS);
        assert_eq!(verdict(status(500), Situation { left_ms: 0, ..FIRST }), PASS);
        assert_eq!(verdict(failed(Phase::Head, LATE), Situation { left_ms: 0, ..FIRST }), GIVE);
    }

    #[test]
    fn an_sdk_that_tries_again_gets_one_attempt_and_one_failover() {
        let first = Situation { client_retries: true, ..FIRST };
        for came in [failed(Phase::Connect, Cause::Broken), reused(Phase::Head, Cause::Ended), busy(429, 10)]
        {
            assert_eq!(verdict(came, first), NEXT);
            assert_ne!(verdict(came, Situation { tried: 2, ..first }), NEXT);
        }
        // A stale connection is our own affair: where there is nowhere else, it is replaced.
        let alone = Situation { another_target: false, ..first };
        assert_eq!(verdict(reused(Phase::Head, Cause::Ended), alone), here(0));
    }

    #[test]
    fn back_off_is_anything_up_to_a_bound_that_doubles() {
        for (tried_here, most) in [(1, 25), (2, 50), (3, 100), (6, 800), (7, 1_000), (255, 1_000)] {
            assert!((0..5_000).all(|chance| backoff_ms(tried_here, chance) <= most));
            assert!((0..5_000).any(|chance| backoff_ms(tried_here, chance) == most));
            assert!((0..5_000).any(|chance| backoff_ms(tried_here, chance) == 0));
        }
    }

    #[test]
    fn whether_something_is_kept_hangs_on_endpoint_and_body() {
        let none = Stateful::default();
        let not_stored = Stateful { store: Some(false), ..none };
        for (endpoint, body, expect) in [
            (Endpoint::ChatCompletions, none, false),
            (Endpoint::ChatCompletions, Stateful { store: Some(true), ..none }, true),
            (Endpoint::Embeddings, not_stored, false),
            (Endpoint::Responses, none, true),
            (Endpoint::Responses, not_stored, false),
            (Endpoint::Responses, Stateful { background: true, ..not_stored }, true),
            (Endpoint::Responses, Stateful { previous_response_id: true, ..not_stored }, true),
            (Endpoint::Models, none, false),
        ] {
            assert_eq!(keeps(endpoint, body), expect, "{endpoint:?} {body:?}");
        }
    }
}
