//! How a rate is held: one number, the *horizon*, says when everything spent so far will have been earned again.
//!
//! The generic cell rate algorithm, in integers. It stores nothing: who calls keeps the horizon, in a plain cell or in an
//! atomic. A horizon that has passed, zero among them, means that nothing is spent. Whatever is too large for the
//! arithmetic is refused for ever rather than granted for ever.

use crate::{
    base::now::Now,
    config::allowance::Rate,
    policy::quota::{Level, Wait},
};

/// Ticks of a horizon in a nanosecond. A unit costs a whole number of ticks, rounded up, so that a rate is never held
/// above what was configured, and at a thousand million a minute (1920 ticks a unit) less than 0.06 % below it. With
/// 32, a horizon reaches 18 years past the start of the process.
const TICKS_PER_NS: u64 = 32;

/// A horizon's measure of `now`: horizons up to it have passed.
pub fn ticks(now: Now) -> u64 {
    now.0.saturating_mul(TICKS_PER_NS)
}

/// A [`Rate`] as the arithmetic wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// What one unit moves the horizon by. At least 1.
    unit_ticks: u64,
    /// How far the horizon may lie ahead.
    ahead_ticks: u64,
}

impl Pace {
    pub fn of(rate: Rate) -> Self {
        // A period beyond the end of ticks is one beyond the end of time.
        let unit_ticks = match rate.period_ns.get().checked_mul(TICKS_PER_NS) {
            Some(period_ticks) => period_ticks.div_ceil(rate.amount.get()),
            None => u64::MAX,
        };
        Self { unit_ticks, ahead_ticks: rate.burst.get().saturating_mul(unit_ticks) }
    }

    /// The horizon after `amount` is spent, or how long until it could be. What exceeds the burst is granted when nothing
    /// is spent, and then delays what follows.
    pub fn spend(self, horizon: u64, amount: u64, now: Now) -> Result<u64, Wait> {
        let now_ticks = ticks(now);
        let base = horizon.max(now_ticks);
        let next = amount.checked_mul(self.unit_ticks).and_then(|cost| base.checked_add(cost));
        // Where the sum saturates, a horizon still has to lie below its end: more is not granted because it can't be told.
        let last = now_ticks.saturating_add(self.ahead_ticks);
        match next {
            Some(next) if next <= last => Ok(next),
            // The end of time never comes, or else everything would be granted there.
            next if horizon <= now_ticks && horizon < u64::MAX => Ok(next.unwrap_or(u64::MAX)),
            _ => Err(self.wait(base - now_ticks, amount, horizon, now)),
        }
    }

    /// The horizon after it turned out that `used` was the amount and not `reserved`.
    ///
    /// A refund gives back what has not been earned again since: never a horizon further back than now, for a rest
    /// doesn't add to the burst.
    pub fn settle(self, horizon: u64, reserved: u64, used: u64, now: Now) -> u64 {
        let now_ticks = ticks(now);
        let cost = used.abs_diff(reserved).saturating_mul(self.unit_ticks);
        if used > reserved {
            horizon.max(now_ticks).saturating_add(cost)
        } else {
            horizon.saturating_sub(cost).max(horizon.min(now_ticks))
        }
    }

    /// What a horizon leaves to be spent.
    pub fn level(self, horizon: u64, now: Now) -> Level {
        let now_ticks = ticks(now);
        let base = horizon.max(now_ticks);
        let last = now_ticks.saturating_add(self.ahead_ticks);
        Level {
            remaining: last.saturating_sub(base) / self.unit_ticks,
            reset_ns: (base - now_ticks).div_ceil(TICKS_PER_NS),
        }
    }

    #[cold]
    fn wait(self, behind_ticks: u64, amount: u64, horizon: u64, now: Now) -> Wait {
        // What is larger than the burst waits until nothing is spent.
        let spare_ticks = self.ahead_ticks.saturating_sub(amount.saturating_mul(self.unit_ticks));
        let ns = behind_ticks.saturating_sub(spare_ticks).div_ceil(TICKS_PER_NS);
        Wait { ns: ns.max(1), level: self.level(horizon, now) }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use proptest::prelude::*;

    use super::*;

    const MINUTE_NS: u64 = 60_000_000_000;

    fn rate(amount: u64, period_ns: u64, burst: u64) -> Rate {
        let some = |n| NonZeroU64::new(n).expect("tests count from one");
        Rate { amount: some(amount), period_ns: some(period_ns), burst: some(burst) }
    }

    /// The naive twin: a bucket of tokens, each cut into as many pieces as the period has nanoseconds. It holds the
    /// configured rate without any rounding.
    struct Bucket {
        rate: Rate,
        pieces: i128,
        at_ns: u64,
    }

    impl Bucket {
        fn full(rate: Rate) -> Self {
            Self { rate, pieces: Self::pieces(rate, rate.burst.get()), at_ns: 0 }
        }

        fn pieces(rate: Rate, amount: u64) -> i128 {
            i128::from(amount) * i128::from(rate.period_ns.get())
        }

        fn fill(&mut self, now: Now) {
            let earned = i128::from(now.0 - self.at_ns) * i128::from(self.rate.amount.get());
            self.pieces = (self.pieces + earned).min(Self::pieces(self.rate, self.rate.burst.get()));
            self.at_ns = now.0;
        }

        /// Nanoseconds until `amount` is there, zero if it is; what is more than fits waits for a full bucket.
        fn lacks_ns(&mut self, amount: u64, now: Now) -> u64 {
            self.fill(now);
            let wanted = Self::pieces(self.rate, amount.min(self.rate.burst.get()));
            let lacking = (wanted - self.pieces).max(0);
            let each_ns = i128::from(self.rate.amount.get());
            u64::try_from((lacking + each_ns - 1) / each_ns).expect("a test waits for less than 500 years")
        }

        fn take(&mut self, amount: u64) {
            self.pieces -= Self::pieces(self.rate, amount);
        }

        fn settle(&mut self, reserved: u64, used: u64, now: Now) {
            self.fill(now);
            self.pieces += Self::pieces(self.rate, reserved) - Self::pieces(self.rate, used);
            self.pieces = self.pieces.min(Self::pieces(self.rate, self.rate.burst.get()));
        }

        fn level(&self) -> Level {
            let full = Self::pieces(self.rate, self.rate.burst.get());
            let each_ns = i128::from(self.rate.amount.get());
            Level {
                remaining: u64::try_from(self.pieces.max(0) / i128::from(self.rate.period_ns.get())).unwrap(),
                reset_ns: u64::try_from((full - self.pieces + each_ns - 1) / each_ns).unwrap(),
            }
        }
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Rest { ns: u64 },
        Spend { amount: u64 },
        Settle { reserved: u64, used: u64 },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..3_000_000_u64).prop_map(|ns| Step::Rest { ns }),
            (0..60_u64).prop_map(|ns| Step::Rest { ns }),
            (0..70_u64).prop_map(|amount| Step::Spend { amount }),
            (0..3_u64).prop_map(|amount| Step::Spend { amount }),
            (0..90_u64, 0..90_u64).prop_map(|(reserved, used)| Step::Settle { reserved, used }),
        ]
    }

    fn cases() -> ProptestConfig {
        let is_full = std::env::var_os("RINGWAY_SIM_FULL").is_some();
        ProptestConfig::with_cases(if is_full { 20_000 } else { 256 })
    }

    proptest! {
        #![proptest_config(cases())]

        /// Rates whose unit is a whole number of nanoseconds: every answer is the bucket's.
        #[test]
        fn an_exact_bucket_agrees_in_every_answer(
            amount in 1..5_000_u64,
            unit_ns in 1..200_000_u64,
            burst in 1..50_u64,
            start_ns in 0..u64::from(u32::MAX),
            steps in prop::collection::vec(step(), 1..200),
        ) {
            let rate = rate(amount, amount * unit_ns, burst);
            let (pace, mut bucket) = (Pace::of(rate), Bucket::full(rate));
            let (mut horizon, mut now) = (0, Now(start_ns));
            for step in steps {
                match step {
                    Step::Rest { ns } => now.0 += ns,
                    Step::Spend { amount } => {
                        let lacks_ns = bucket.lacks_ns(amount, now);
                        match pace.spend(horizon, amount, now) {
                            Ok(next) => {
                                prop_assert_eq!(lacks_ns, 0);
                                horizon = next;
                                bucket.take(amount);
                            }
                            Err(wait) => {
                                prop_assert_eq!(wait.ns, lacks_ns);
                                prop_assert_eq!(wait.level, bucket.level());
                            }
                        }
                    }
                    Step::Settle { reserved, used } => {
                        horizon = pace.settle(horizon, reserved, used, now);
                        bucket.settle(reserved, used, now);
                    }
                }
                bucket.fill(now);
                prop_assert_eq!(pace.level(horizon, now), bucket.level());
            }
        }

        /// Any rate at all: what is granted never exceeds the burst and what was earned, over any interval, and a caller
        /// who always asks again gets at least 99.9 % of it.
        #[test]
        fn the_rate_is_never_exceeded_and_nearly_reached(
            amount in 1..=1_000_000_000_u64,
            burst in 1..100_u64,
            rests_ns in prop::collection::vec(0..1_000_000_u64, 1..100),
        ) {
            let rate = rate(amount, MINUTE_NS, burst);
            let (pace, mut bucket) = (Pace::of(rate), Bucket::full(rate));
            let (mut horizon, mut now, mut granted) = (0, Now(0), 0_u64);
            for rest_ns in rests_ns {
                now.0 += rest_ns;
                for _ in 0..burst {
                    let Ok(next) = pace.spend(horizon, 1, now) else { break };
                    prop_assert_eq!(bucket.lacks_ns(1, now), 0, "the bucket would have refused");
                    (horizon, granted) = (next, granted + 1);
                    bucket.take(1);
                }
            }
            prop_assert!(u128::from(granted) <= u128::from(burst) + u128::from(now.0) * u128::from(amount) / u128::from(MINUTE_NS));
            // A unit costs 0.06 % too much at most.
            let unit_ticks = u128::from(pace.unit_ticks) * u128::from(amount);
            let exact_ticks = u128::from(MINUTE_NS * TICKS_PER_NS);
            prop_assert!(unit_ticks >= exact_ticks && unit_ticks * 10_000 <= exact_ticks * 10_006);
        }

        #[test]
        fn what_is_refused_is_granted_when_told_and_not_a_nanosecond_before(
            amount in 1..=1_000_000_000_u64,
            period_ns in 1..=86_400_000_000_000_u64,
            burst in 1..10_000_u64,
            debt in 0..30_000_u64,
            wanted in 1..30_000_u64,
            now in 0..u64::from(u32::MAX),
        ) {
            let pace = Pace::of(rate(amount, period_ns, burst));
            let now = Now(now);
            let horizon = pace.settle(0, 0, debt, now);
            if let Err(wait) = pace.spend(horizon, wanted, now) {
                let then = Now(now.0 + wait.ns);
                prop_assert!(pace.spend(horizon, wanted, then).is_ok());
                prop_assert!(pace.spend(horizon, wanted, Now(then.0 - 1)).is_err());
            } else {
                prop_assert!(debt == 0 || debt + wanted <= burst);
            }
        }

        #[test]
        fn an_unspent_reservation_leaves_no_trace(
            amount in 1..=1_000_000_000_u64,
            period_ns in 1..=86_400_000_000_000_u64,
            burst in 1..10_000_u64,
            spent in 0..10_000_u64,
            reserved in 0..30_000_u64,
            now in 0..u64::from(u32::MAX),
        ) {
            let pace = Pace::of(rate(amount, period_ns, burst));
            let now = Now(now);
            let horizon = pace.settle(0, 0, spent, now);
            if let Ok(next) = pace.spend(horizon, reserved, now) {
                let back = pace.settle(next, reserved, 0, now);
                prop_assert_eq!(pace.level(back, now), pace.level(horizon, now));
            }
        }

        /// Whatever the numbers: no panic, and not everything is granted.
        #[test]
        fn no_number_is_too_large(
            [amount, period_ns, burst] in [const { 1..=u64::MAX }; 3],
            [horizon, wanted, used, now] in any::<[u64; 4]>(),
        ) {
            let pace = Pace::of(rate(amount, period_ns, burst));
            let now = Now(now);
            pace.settle(horizon, wanted, used, now);
            pace.level(horizon, now);
            let mut horizon = horizon;
            // A cost of at least one tick each: so much can't be granted twice in one moment.
            let large = u64::MAX / 2 + 1;
            let granted = (0..3).filter(|_| pace.spend(horizon, large, now).is_ok_and(|next| {
                horizon = next;
                true
            }));
            prop_assert!(granted.count() <= 2);
        }
    }

    #[test]
    fn a_request_larger_than_the_burst_is_slow_and_not_impossible() {
        let pace = Pace::of(rate(60, MINUTE_NS, 10));
        let now = Now(5_000_000_000);
        let horizon = pace.spend(0, 30, now).expect("nothing is spent");
        assert_eq!(pace.level(horizon, now), Level { remaining: 0, reset_ns: 30_000_000_000 });
        let one = pace.spend(horizon, 1, now).expect_err("a debt of 20 and one more");
        assert_eq!(one.ns, 21_000_000_000);
        let large = pace.spend(horizon, 11, now).expect_err("larger than the burst again");
        assert_eq!(large.ns, 30_000_000_000);
    }

    #[test]
    fn a_refund_of_what_time_gave_back_adds_nothing_to_the_burst() {
        let pace = Pace::of(rate(60, MINUTE_NS, 10));
        let horizon = pace.spend(0, 10, Now(0)).expect("nothing is spent");
        let later = Now(3_600_000_000_000);
        let horizon = pace.settle(horizon, 10, 0, later);
        assert_eq!(pace.level(horizon, later), Level { remaining: 10, reset_ns: 0 });
        let horizon = pace.spend(horizon, 10, later).expect("a full burst");
        assert!(pace.spend(horizon, 1, later).is_err());
    }

    #[test]
    fn at_the_end_of_time_nothing_is_granted_for_ever() {
        let pace = Pace::of(rate(1, 86_400_000_000_000, u64::MAX));
        let horizon = pace.spend(0, u64::MAX, Now(u64::MAX)).expect("nothing is spent");
        assert_eq!(horizon, u64::MAX);
        for now in [Now(0), Now(u64::MAX)] {
            assert!(pace.spend(horizon, 1, now).is_err());
            assert!(pace.spend(horizon, u64::MAX, now).is_err());
        }
    }
}
