//! A target's breaker as one word, and what each event makes of it.
//!
//! Closed → (failures in a row, or a rate of them) → open → (its time is over) half-open: one probe → (it succeeds) a ramp
//! from a tenth to all of the requests → closed. Every function is pure: whoever keeps the word swaps it, and tries again
//! where another was faster.

use std::time::Duration;

use crate::{
    base::{
        limits::{BREAKER_RETRY_AFTER_MS_MAX, PROBE_TIME_MS},
        now::Now,
    },
    config::breaker::Breaker,
    policy::{health::Standing, window::Sums},
};

/// [`Breaker`] in the numbers that are calculated with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// In a row. 0: there are no breakers.
    pub failures: u64,
    pub rate_percent: u64,
    pub rate_requests: u64,
    pub open_ms: u64,
    pub open_max_ms: u64,
    pub ramp_ms: u64,
}

impl From<Breaker> for Rules {
    fn from(breaker: Breaker) -> Self {
        let ms = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        Self {
            failures: if breaker.enabled { u64::from(breaker.failures.max(1)) } else { 0 },
            rate_percent: u64::from(breaker.rate_percent),
            rate_requests: u64::from(breaker.rate_requests),
            open_ms: ms(breaker.open),
            open_max_ms: ms(breaker.open_max),
            ramp_ms: ms(breaker.ramp),
        }
    }
}

impl Rules {
    /// Do so many failures (the part) of so many attempts open a breaker?
    pub fn trips(self, recent: Sums) -> bool {
        recent.total >= self.rate_requests && recent.part * 100 >= recent.total * self.rate_percent
    }
}

/// A breaker. A word of zeros is closed and remembers nothing.
//
// From the lowest bit: phase (2), failures in a row (7), how often it opened in a row (4), a time in ms (51): until when it
// is open, until when the probe is waited for, since when it ramps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Word(pub u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Closed,
    Open,
    Probing,
    Ramp,
}

/// A failure, as the breaker hears of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed {
    /// The attempt was the probe.
    pub probe: bool,
    /// The rate of failures alone would open it; see [`Rules::trips`].
    pub by_rate: bool,
    /// How long the target said that it would go on.
    pub retry_after_ms: Option<u64>,
}

const FAILURES_SHIFT: u32 = 2;
const FAILURES_MAX: u64 = (1 << 7) - 1;
const OPENS_SHIFT: u32 = 9;
const OPENS_MAX: u64 = (1 << 4) - 1;
const AT_SHIFT: u32 = 13;

/// The share of the requests with which a ramp begins, in percent.
const RAMP_FIRST: u64 = 10;
/// What those are told to wait who come while the probe is out.
const PROBE_WAIT_MS: u64 = 1_000;

impl Word {
    pub const CLOSED: Self = Self(0);

    /// Whether the target may be used.
    pub fn standing(self, rules: Rules, now: Now) -> Standing {
        let now_ms = ms(now);
        match self.phase() {
            _ if rules.failures == 0 => Standing::Closed,
            Phase::Closed => Standing::Closed,
            Phase::Open | Phase::Probing if self.at_ms() <= now_ms => Standing::Probe,
            Phase::Open => Standing::Open { retry_after_ms: self.at_ms() - now_ms },
            Phase::Probing => Standing::Open { retry_after_ms: (self.at_ms() - now_ms).min(PROBE_WAIT_MS) },
            Phase::Ramp if self.ramp_is_over(rules, now_ms) => Standing::Closed,
            Phase::Ramp => {
                let ramped_ms = now_ms.saturating_sub(self.at_ms());
                let share = RAMP_FIRST + (100 - RAMP_FIRST) * ramped_ms / rules.ramp_ms.max(1);
                Standing::Ramp(u8::try_from(share).unwrap_or(100))
            }
        }
    }

    /// Whether it may be forgotten: the target is used like one that nobody knows.
    pub fn is_quiet(self, rules: Rules, now: Now) -> bool {
        self.standing(rules, now) == Standing::Closed && self.failures() == 0
    }

    /// Whether the target is given up for now, or waits for a probe.
    pub fn is_open(self) -> bool {
        matches!(self.phase(), Phase::Open | Phase::Probing)
    }

    /// The word of who takes the probe, where [`Word::standing`] is [`Standing::Probe`].
    #[must_use]
    pub fn probed(self, now: Now) -> Self {
        Self::new(Phase::Probing, 0, self.opens(), ms(now) + PROBE_TIME_MS)
    }

    /// A probe has ended and reported nothing: another may begin. `self` is the word that its taker made.
    #[must_use]
    pub fn released(self) -> Self {
        Self::new(Phase::Open, 0, self.opens(), 0)
    }

    /// A success. What began before the breaker opened closes nothing.
    #[must_use]
    pub fn succeeded(self, probe: bool, rules: Rules, now: Now) -> Self {
        match self.phase() {
            Phase::Probing if probe => Self::new(Phase::Ramp, 0, self.opens(), ms(now)),
            Phase::Open | Phase::Probing => self,
            Phase::Closed => Self::CLOSED,
            Phase::Ramp if self.ramp_is_over(rules, ms(now)) => Self::CLOSED,
            Phase::Ramp => Self::new(Phase::Ramp, 0, self.opens(), self.at_ms()),
        }
    }

    #[must_use]
    pub fn failed(self, failed: Failed, rules: Rules, now: Now, chance: u64) -> Self {
        let now_ms = ms(now);
        if rules.failures == 0 {
            return Self::CLOSED;
        }
        let asked_ms = now_ms + failed.retry_after_ms.unwrap_or(0).min(BREAKER_RETRY_AFTER_MS_MAX);
        let opens = match self.phase() {
            // Others that were under way fail as well; only what they say of the future is news.
            Phase::Open => {
                let until_ms = if failed.retry_after_ms.is_some() { asked_ms } else { 0 };
                return Self::new(Phase::Open, 0, self.opens(), self.at_ms().max(until_ms));
            }
            Phase::Probing if !failed.probe => return self,
            Phase::Probing => self.opens(),
            Phase::Closed | Phase::Ramp => {
                let is_over = self.ramp_is_over(rules, now_ms);
                let (phase, opens, at_ms) =
                    if is_over { (Phase::Closed, 0, 0) } else { (self.phase(), self.opens(), self.at_ms()) };
                let failures = self.failures() + 1;
                if failures < rules.failures && !failed.by_rate {
                    return Self::new(phase, failures, opens, at_ms);
                }
                opens
            }
        };
        // Opening the first time, it has opened no time before.
        let doubled_ms = rules.open_ms.saturating_mul(1 << opens).min(rules.open_max_ms);
        let open_ms = doubled_ms - doubled_ms / 5 + chance % (doubled_ms / 5 * 2 + 1);
        Self::new(Phase::Open, 0, opens + 1, asked_ms.max(now_ms + open_ms))
    }

    fn new(phase: Phase, failures: u64, opens: u64, at_ms: u64) -> Self {
        let failures = failures.min(FAILURES_MAX) << FAILURES_SHIFT;
        let opens = opens.min(OPENS_MAX) << OPENS_SHIFT;
        Self(phase as u64 | failures | opens | at_ms << AT_SHIFT)
    }

    fn phase(self) -> Phase {
        match self.0 & 0b11 {
            0 => Phase::Closed,
            1 => Phase::Open,
            2 => Phase::Probing,
            _ => Phase::Ramp,
        }
    }

    fn failures(self) -> u64 {
        self.0 >> FAILURES_SHIFT & FAILURES_MAX
    }

    fn opens(self) -> u64 {
        self.0 >> OPENS_SHIFT & OPENS_MAX
    }

    fn at_ms(self) -> u64 {
        self.0 >> AT_SHIFT
    }

    fn ramp_is_over(self, rules: Rules, now_ms: u64) -> bool {
        self.phase() == Phase::Ramp && now_ms >= self.at_ms().saturating_add(rules.ramp_ms)
    }
}

fn ms(now: Now) -> u64 {
    now.0 / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::json::mutate::Chance;

    const FAILED: Failed = Failed { probe: false, by_rate: false, retry_after_ms: None };
    const PROBE: Failed = Failed { probe: true, ..FAILED };
    /// The chance that leaves a time as it is: the middle of ± 20 % of five seconds.
    const MIDDLE: u64 = 1_000;

    /// The defaults, with room to see a time double.
    fn rules() -> Rules {
        Rules { open_max_ms: 60_000, ..Breaker::default().into() }
    }

    fn at(ms: u64) -> Now {
        Now(ms * 1_000_000)
    }

    fn fail(word: Word, failed: Failed, ms: u64) -> Word {
        word.failed(failed, rules(), at(ms), MIDDLE)
    }

    fn opened() -> Word {
        (0..5).fold(Word::CLOSED, |word, _| fail(word, FAILED, 0))
    }

    #[track_caller]
    fn check(word: Word, ms: u64, expect: Standing) {
        assert_eq!(word.standing(rules(), at(ms)), expect);
    }

    #[test]
    fn five_in_a_row_open_it_and_a_success_between_them_does_not() {
        let four = (0..4).fold(Word::CLOSED, |word, _| fail(word, FAILED, 0));
        check(four, 0, Standing::Closed);
        assert!(!four.is_quiet(rules(), at(0)));
        let again = four.succeeded(false, rules(), at(0));
        assert_eq!(again, Word::CLOSED);
        check((0..4).fold(again, |word, _| fail(word, FAILED, 0)), 0, Standing::Closed);
        check(fail(four, FAILED, 0), 0, Standing::Open { retry_after_ms: 5_000 });
    }

    #[test]
    fn a_rate_opens_it() {
        let trips = |total, part| rules().trips(Sums { total, part });
        assert!(trips(20, 10) && trips(1_000, 500));
        assert!(!trips(19, 19) && !trips(20, 9) && !trips(1_000, 499));
        let word = fail(Word::CLOSED, Failed { by_rate: true, ..FAILED }, 0);
        check(word, 0, Standing::Open { retry_after_ms: 5_000 });
    }

    #[test]
    fn one_probe_then_a_ramp_then_all() {
        let open = opened();
        check(open, 4_999, Standing::Open { retry_after_ms: 1 });
        check(open, 5_000, Standing::Probe);
        let probing = open.probed(at(5_000));
        check(probing, 5_000, Standing::Open { retry_after_ms: 1_000 });
        check(probing.released(), 5_001, Standing::Probe);
        // A probe that hangs is not waited for longer than its time.
        check(probing, 5_000 + PROBE_TIME_MS, Standing::Probe);
        assert_eq!(probing.succeeded(false, rules(), at(5_100)), probing, "an older attempt closes nothing");
        let ramp = probing.succeeded(true, rules(), at(6_000));
        check(ramp, 6_000, Standing::Ramp(10));
        check(ramp, 11_000, Standing::Ramp(55));
        check(ramp, 15_999, Standing::Ramp(99));
        check(ramp, 16_000, Standing::Closed);
        assert_eq!(ramp.succeeded(false, rules(), at(16_000)), Word::CLOSED);
    }

    #[test]
    fn its_time_doubles_up_to_a_bound_until_a_ramp_is_over() {
        let (mut word, mut now, mut times) = (opened(), 0, Vec::new());
        for _ in 0..20 {
            let Standing::Open { retry_after_ms } = word.standing(rules(), at(now)) else {
                panic!("{word:?} is not open")
            };
            times.push(retry_after_ms);
            now += retry_after_ms;
            word = word.probed(at(now)).failed(PROBE, rules(), at(now), 0);
        }
        // The lowest chance is 20 % less, from the second on.
        assert_eq!(times[..6], [5_000, 8_000, 16_000, 32_000, 48_000, 48_000]);
        assert!(times[4..].iter().all(|&time| time == 48_000));

        now += 48_000;
        let ramp = word.probed(at(now)).succeeded(true, rules(), at(now));
        let again = |after| {
            let word = (0..5).fold(ramp, |word, _| fail(word, FAILED, now + after));
            word.standing(rules(), at(now + after))
        };
        assert_eq!(again(9_999), Standing::Open { retry_after_ms: 48_000 + MIDDLE });
        assert_eq!(again(10_000), Standing::Open { retry_after_ms: 5_000 });
    }

    #[test]
    fn a_longer_retry_after_counts_and_is_bounded() {
        let said = |ms| Failed { by_rate: true, retry_after_ms: Some(ms), ..FAILED };
        check(fail(Word::CLOSED, said(30_000), 0), 0, Standing::Open { retry_after_ms: 30_000 });
        check(fail(Word::CLOSED, said(100), 0), 0, Standing::Open { retry_after_ms: 5_000 });
        let most = Standing::Open { retry_after_ms: BREAKER_RETRY_AFTER_MS_MAX };
        check(fail(Word::CLOSED, said(u64::MAX), 0), 0, most);
        check(fail(opened(), said(30_000), 1_000), 1_000, Standing::Open { retry_after_ms: 30_000 });
        check(fail(opened(), FAILED, 1_000), 1_000, Standing::Open { retry_after_ms: 4_000 });
    }

    #[test]
    fn the_spread_is_a_fifth_to_either_side() {
        for chance in (0..100_000).chain([u64::MAX]) {
            let word =
                Word::CLOSED.failed(Failed { by_rate: true, ..FAILED }, rules(), at(1_000_000), chance);
            let Standing::Open { retry_after_ms } = word.standing(rules(), at(1_000_000)) else { panic!() };
            assert!((4_000..=6_000).contains(&retry_after_ms), "{retry_after_ms}");
        }
    }

    #[test]
    fn without_breakers_nothing_opens_and_what_is_open_is_used() {
        let off = Rules::from(Breaker { enabled: false, ..Breaker::default() });
        let failed = Failed { by_rate: true, ..FAILED };
        assert_eq!((0..20).fold(Word::CLOSED, |word, _| word.failed(failed, off, at(0), 0)), Word::CLOSED);
        assert_eq!(opened().standing(off, at(0)), Standing::Closed);
    }

    /// The same breaker, as one would say it.
    #[derive(Clone, Debug)]
    enum Twin {
        Closed { failures: u64 },
        Open { until: u64, doublings: u32 },
        Probing { until: u64, doublings: u32 },
        Ramp { since: u64, failures: u64, doublings: u32 },
    }

    impl Twin {
        fn standing(&self, rules: Rules, now: u64) -> Standing {
            match *self {
                Self::Closed { .. } => Standing::Closed,
                Self::Open { until, .. } | Self::Probing { until, .. } if until <= now => Standing::Probe,
                Self::Open { until, .. } => Standing::Open { retry_after_ms: until - now },
                Self::Probing { until, .. } => Standing::Open { retry_after_ms: 1_000.min(until - now) },
                Self::Ramp { since, .. } if now - since >= rules.ramp_ms => Standing::Closed,
                Self::Ramp { since, .. } => Standing::Ramp(
                    u8::try_from(10 + 90 * (now - since) / rules.ramp_ms).expect("a percentage"),
                ),
            }
        }

        fn succeed(&mut self, probe: bool, rules: Rules, now: u64) {
            match *self {
                Self::Probing { doublings, .. } if probe => {
                    *self = Self::Ramp { since: now, failures: 0, doublings };
                }
                Self::Ramp { since, doublings, .. } if now - since < rules.ramp_ms => {
                    *self = Self::Ramp { since, failures: 0, doublings };
                }
                Self::Closed { .. } | Self::Ramp { .. } => *self = Self::Closed { failures: 0 },
                Self::Open { .. } | Self::Probing { .. } => {}
            }
        }

        fn fail(&mut self, failed: Failed, rules: Rules, now: u64, chance: u64) {
            if let Self::Ramp { since, failures, .. } = *self
                && now - since >= rules.ramp_ms
            {
                *self = Self::Closed { failures };
            }
            let doublings = match self {
                Self::Open { until, .. } => {
                    *until = (*until).max(failed.retry_after_ms.map_or(0, |after| now + after));
                    return;
                }
                Self::Probing { .. } if !failed.probe => return,
                Self::Probing { doublings, .. } => *doublings + 1,
                Self::Closed { failures } | Self::Ramp { failures, .. } => {
                    *failures += 1;
                    if *failures < rules.failures && !failed.by_rate {
                        return;
                    }
                    if let Self::Ramp { doublings, .. } = self { *doublings + 1 } else { 0 }
                }
            };
            let mut base = rules.open_ms;
            for _ in 0..doublings {
                base = (base * 2).min(rules.open_max_ms);
            }
            let spread = base / 5;
            let open = base - spread + chance % (2 * spread + 1);
            *self = Self::Open { until: now + open.max(failed.retry_after_ms.unwrap_or(0)), doublings };
        }
    }

    #[test]
    fn a_naive_twin_agrees_over_random_events() {
        for seed in 0..200 {
            let mut chance = Chance::seeded(seed);
            let rules = Rules { failures: 1 + chance.below(6) as u64, ..rules() };
            let (mut word, mut twin, mut now) = (Word::CLOSED, Twin::Closed { failures: 0 }, 0);
            for step in 0..500 {
                let most = if chance.below(4) == 0 { 8_000 } else { 300 };
                now += chance.below(most) as u64;
                let probe = chance.below(2) == 0;
                match chance.below(6) {
                    0 | 1 => {
                        word = word.succeeded(probe, rules, at(now));
                        twin.succeed(probe, rules, now);
                    }
                    2 | 3 => {
                        let failed = Failed {
                            probe,
                            by_rate: chance.below(8) == 0,
                            retry_after_ms: (chance.below(4) == 0).then(|| chance.below(90_000) as u64),
                        };
                        let dice = chance.below(1 << 30) as u64;
                        word = word.failed(failed, rules, at(now), dice);
                        twin.fail(failed, rules, now, dice);
                    }
                    _ if word.standing(rules, at(now)) != Standing::Probe => {}
                    event => {
                        word = word.probed(at(now));
                        let (Twin::Open { doublings, .. } | Twin::Probing { doublings, .. }) = twin else {
                            panic!("seed {seed}, step {step}: {twin:?} has a probe to give");
                        };
                        twin = Twin::Probing { until: now + PROBE_TIME_MS, doublings };
                        if event == 5 && probe {
                            word = word.released();
                            twin = Twin::Open { until: 0, doublings };
                        }
                    }
                }
                let shown = format!("seed {seed}, step {step}: {word:?} {twin:?}");
                assert_eq!(word.standing(rules, at(now)), twin.standing(rules, now), "{shown}");
            }
        }
    }
}
