//! What the client is told when no attempt succeeded: the best class of all that went wrong, and the soonest time at which
//! another try makes sense.

use super::attempts::{Came, Cause, Failure, Fault, Row};
use crate::{
    base::waiting::Expiry,
    wire::openai::refusal::{Refusal, Retry},
};

/// Everything that went wrong for one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    tried: u8,
    /// Targets among which these attempts were.
    targets: u8,
    passed_over: u8,
    /// How many of the attempts ran out of time.
    late: u8,
    rate_limited: bool,
    /// Something went wrong that may go right the next time.
    may_heal: bool,
    soonest_ms: Option<u64>,
    last: Option<Came>,
}

/// What the client is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Last {
    /// What the last attempt came to is said: its answer as it is, or the refusal that its failure stands for by itself. This
    /// advice stands in the place of the upstream's; where it says nothing, the refusal's own counts.
    AsItCame(Retry),
    Refused(Refusal),
}

impl Losses {
    /// An attempt at another target, or with another key, came to this.
    pub fn add(&mut self, came: Came) {
        self.targets = self.targets.saturating_add(1);
        self.add_again(came);
    }

    /// The same target was tried once more, and came to this.
    pub fn add_again(&mut self, came: Came) {
        let row = Row::of(came);
        self.tried = self.tried.saturating_add(1);
        self.rate_limited |= matches!(row, Row::Busy { fault: Fault::RateLimited, .. });
        self.may_heal |=
            !matches!(row, Row::Billing | Row::Key | Row::Redirect | Row::MissingModel | Row::Request);
        match came {
            Came::Failed(Failure { cause: Cause::Expired(_), .. }) => self.late = self.late.saturating_add(1),
            Came::Failed(_) => {}
            Came::Answered(answered) => self.waits(answered.retry_after_ms),
        }
        self.last = Some(came);
    }

    /// A target of the plan was not tried, because its breaker is open for so long.
    pub fn passed_over(&mut self, retry_after_ms: u64) {
        self.passed_over = self.passed_over.saturating_add(1);
        self.may_heal = true;
        self.waits(Some(retry_after_ms));
    }

    /// The last word. `chance` spreads a wait that we found ourselves, so that all who are told one do not come back together;
    /// what the only target said of its own stays exact.
    pub fn end(&self, chance: u64) -> Last {
        let is_alone = self.targets.saturating_add(self.passed_over) == 1;
        let is_said = is_alone && self.last.is_some();
        let spread = |ms: u64| if is_said { ms } else { ms.saturating_add(chance % (ms / 5 + 1)) };
        let wait_ms = self.soonest_ms.map(spread);
        let Some(last) = self.last else {
            return Last::Refused(Refusal::NoUpstream { retry_after_ms: wait_ms.unwrap_or(1_000) });
        };
        let drained =
            matches!(last, Came::Failed(failure) if failure.cause == Cause::Expired(Expiry::Drained));
        let row = Row::of(last);
        if drained || matches!(row, Row::Request | Row::MissingModel) {
            return Last::AsItCame(Retry::default());
        }
        let is_best = match row {
            Row::Ours | Row::Busy { fault: Fault::RateLimited, .. } => true,
            Row::Billing | Row::Key | Row::Redirect => !self.may_heal,
            _ => matches!(last, Came::Answered(_)) && !self.rate_limited,
        };
        let all_late = self.late == self.tried && self.passed_over == 0;
        if !(is_alone || is_best || all_late) {
            return Last::Refused(match self.rate_limited {
                true => Refusal::UpstreamsBusy { retry_after_ms: wait_ms },
                false => Refusal::UpstreamsFailed { retry_after_ms: wait_ms },
            });
        }
        Last::AsItCame(match wait_ms {
            // The wait stays for humans.
            wait_ms if !self.may_heal => Retry { should_retry: Some(false), retry_after_ms: wait_ms },
            Some(ms) => Retry::after(ms),
            None if self.tried > 1 => Retry::default().spent(),
            // One attempt leaves the SDK its own.
            None => Retry::default(),
        })
    }

    fn waits(&mut self, ms: Option<u64>) {
        self.soonest_ms = match (self.soonest_ms, ms) {
            (Some(before), Some(ms)) => Some(before.min(ms)),
            (before, ms) => before.or(ms),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        base::waiting::Waiting,
        policy::attempts::{Answered, Phase},
        wire::openai::upstream_error::Said,
    };

    const REFUSED: Came = Came::Failed(Failure {
        phase: Phase::Connect,
        cause: Cause::Broken,
        reused: false,
        answered: false,
        sent: false,
    });

    fn late(waiting: Waiting) -> Came {
        Came::Failed(Failure::new(Phase::Head, Cause::Expired(Expiry::Late(waiting))))
    }

    fn status(status: u16, retry_after_ms: Option<u64>) -> Came {
        Came::Answered(Answered { status, said: None, retry_after_ms })
    }

    fn billing() -> Came {
        Came::Answered(Answered { status: 429, said: Some(Said::Billing), retry_after_ms: None })
    }

    #[track_caller]
    fn check(all: &[Came], open_ms: &[u64], expect: Last) {
        let mut losses = Losses::default();
        all.iter().for_each(|&came| losses.add(came));
        open_ms.iter().for_each(|&ms| losses.passed_over(ms));
        assert_eq!(losses.end(0), expect, "{all:?} {open_ms:?}");
    }

    fn as_it_came(should_retry: Option<bool>, retry_after_ms: Option<u64>) -> Last {
        Last::AsItCame(Retry { should_retry, retry_after_ms })
    }

    fn busy(retry_after_ms: Option<u64>) -> Last {
        Last::Refused(Refusal::UpstreamsBusy { retry_after_ms })
    }

    fn failed(retry_after_ms: Option<u64>) -> Last {
        Last::Refused(Refusal::UpstreamsFailed { retry_after_ms })
    }

    #[test]
    fn with_all_open_the_soonest_is_told() {
        check(&[], &[9_000, 4_000, 5_000], Last::Refused(Refusal::NoUpstream { retry_after_ms: 4_000 }));
        check(&[], &[], Last::Refused(Refusal::NoUpstream { retry_after_ms: 1_000 }));
    }

    #[test]
    fn one_attempt_speaks_for_itself() {
        for came in [REFUSED, late(Waiting::FirstByte), status(500, None), status(429, None)] {
            check(&[came], &[], as_it_came(None, None));
        }
        check(&[status(429, Some(2_000))], &[], as_it_came(Some(true), Some(2_000)));
        check(&[status(503, Some(61_000))], &[], as_it_came(Some(false), Some(61_000)));
    }

    #[test]
    fn the_best_class_of_several_is_said() {
        // 429 if any was rate-limited, else 503.
        check(&[status(429, None), REFUSED], &[], busy(None));
        check(&[status(429, Some(9_000)), status(500, None)], &[], busy(Some(9_000)));
        check(&[REFUSED, status(429, Some(9_000))], &[], as_it_came(Some(true), Some(9_000)));
        check(&[status(500, None), REFUSED], &[], failed(None));
        check(&[REFUSED], &[7_000], failed(Some(7_000)));
        check(&[status(429, Some(9_000)), REFUSED], &[7_000], busy(Some(7_000)));
        check(&[late(Waiting::FirstByte), REFUSED], &[], failed(None));
        // An answer of that class is passed on.
        check(&[REFUSED, status(500, None)], &[], as_it_came(Some(false), None));
        check(
            &[status(503, Some(3_000)), status(503, Some(2_000))],
            &[],
            as_it_came(Some(true), Some(2_000)),
        );
    }

    #[test]
    fn a_deadline_is_a_timeout() {
        check(&[status(429, None), late(Waiting::Total)], &[], as_it_came(Some(false), None));
        check(&[late(Waiting::FirstByte), late(Waiting::Connect)], &[], as_it_came(Some(false), None));
        let drained = Came::Failed(Failure::new(Phase::Head, Cause::Expired(Expiry::Drained)));
        check(&[REFUSED, drained], &[], as_it_came(None, None));
    }

    #[test]
    fn what_stays_wrong_is_not_tried_again() {
        check(&[billing()], &[], as_it_came(Some(false), None));
        check(&[status(401, None)], &[], as_it_came(Some(false), None));
        check(&[status(401, None), billing()], &[], as_it_came(Some(false), None));
        check(&[billing(), REFUSED], &[], failed(None));
        check(&[REFUSED, billing()], &[], failed(None));
        check(&[billing()], &[5_000], failed(Some(5_000)));
    }

    #[test]
    fn the_clients_own_mistake_is_passed_on_as_it_came() {
        check(&[REFUSED, status(400, None)], &[], as_it_came(None, None));
        check(&[status(429, Some(1_000)), status(404, None)], &[5], as_it_came(None, None));
    }

    #[test]
    fn the_wait_is_spread_by_up_to_a_fifth() {
        let mut losses = Losses::default();
        losses.passed_over(10_000);
        let waits = (0..4_000).map(|chance| match losses.end(chance) {
            Last::Refused(Refusal::NoUpstream { retry_after_ms }) => retry_after_ms,
            other => panic!("{other:?}"),
        });
        let (least, most) = waits.fold((u64::MAX, 0), |(least, most), ms| (least.min(ms), most.max(ms)));
        assert_eq!((least, most), (10_000, 12_000));
    }

    #[test]
    fn what_is_told_never_invites_a_multiplication() {
        for last in [busy(None), failed(None), busy(Some(61_000)), failed(Some(61_000))] {
            let Last::Refused(refusal) = last else { panic!() };
            assert_eq!(refusal.retry().should_retry, Some(false));
        }
        for last in [busy(Some(60_000)), failed(Some(60_000))] {
            let Last::Refused(refusal) = last else { panic!() };
            assert_eq!(refusal.retry().should_retry, Some(true));
        }
    }
}
