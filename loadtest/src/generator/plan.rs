//! When requests are to be sent. Latency counts from these moments, whether or not they could be kept.

use std::{num::ParseFloatError, time::Duration};

/// How sends are spread.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// A next one whenever a connection has finished its last: a closed loop.
    Closed,
    /// So many a second, evenly: an open loop.
    Constant(f64),
    /// So many a second on average, with exponential gaps: an open loop.
    Poisson(f64),
}

/// The planned moments of an open loop, in nanoseconds after its start; endless, never decreasing.
#[derive(Clone, Debug)]
pub struct Schedule {
    interval_ns: f64,
    poisson: bool,
    chance: Chance,
    index: u64,
    at_ns: f64,
}

impl Schedule {
    /// The share of one thread of several: their constant plans interleave. `None` for a closed loop.
    pub fn share(pace: Pace, thread: usize, threads: usize, seed: u64) -> Option<Self> {
        let (rate, poisson) = match pace {
            Pace::Closed => return None,
            Pace::Constant(rate) => (rate, false),
            Pace::Poisson(rate) => (rate, true),
        };
        let interval_ns = 1e9 / rate * threads as f64;
        let chance = Chance::new(seed.wrapping_add(thread as u64));
        Some(Self { interval_ns, poisson, chance, index: 0, at_ns: 1e9 / rate * thread as f64 })
    }
}

impl Iterator for Schedule {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        let at_ns = if self.poisson {
            // The first gap is exponential too: otherwise all threads would begin together.
            self.at_ns -= self.chance.unit().ln() * self.interval_ns;
            self.at_ns
        } else {
            // From the index, so that rounding does not add up.
            self.at_ns + self.index as f64 * self.interval_ns
        };
        self.index += 1;
        Some(to_ns(at_ns))
    }
}

/// Chance from a seed: xorshift64*, good enough to spread arrivals.
#[derive(Clone, Debug)]
struct Chance(u64);

impl Chance {
    fn new(seed: u64) -> Self {
        // Zero is its fixed point; the multiplication spreads neighbouring seeds.
        Self((seed ^ 0x5851_f42d_4c95_7f2d).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// In (0, 1].
    fn unit(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast of floats saturates")]
fn to_ns(ns: f64) -> u64 {
    ns as u64
}

/// Reads `200ms`, `1.5s`, `2m` or `80us`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no duration such as 200ms, 10s or 2m");
    let digits = text.trim_end_matches(|character: char| character.is_ascii_alphabetic());
    let number: f64 = digits.parse().map_err(|_: ParseFloatError| wrong())?;
    let secs = match &text[digits.len()..] {
        "us" => number / 1e6,
        "ms" => number / 1e3,
        "s" => number,
        "m" => number * 60.0,
        _ => return Err(wrong()),
    };
    Duration::try_from_secs_f64(secs).map_err(|_| wrong())
}

/// What a request must keep to count as good.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Slo {
    pub ttft: Option<Duration>,
    pub itl: Option<Duration>,
    pub e2e: Option<Duration>,
}

impl Slo {
    /// Reads `ttft=200ms,itl=20ms,e2e=2s`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut slo = Self::default();
        for pair in text.split(',') {
            let (key, value) = pair.split_once('=').ok_or_else(|| format!("`{pair}` is no KEY=DURATION"))?;
            let bound = match key {
                "ttft" => &mut slo.ttft,
                "itl" => &mut slo.itl,
                "e2e" => &mut slo.e2e,
                _ => return Err(format!("`{key}` is none of ttft, itl, e2e")),
            };
            *bound = Some(duration(value)?);
        }
        Ok(slo)
    }

    /// Whether a request of these figures (in nanoseconds) kept it.
    pub fn kept(self, ttft_ns: u64, e2e_ns: u64, events: u64) -> bool {
        let within =
            |bound: Option<Duration>, ns: u64| bound.is_none_or(|bound| u128::from(ns) <= bound.as_nanos());
        let itl_ns = e2e_ns.saturating_sub(ttft_ns) / events.saturating_sub(1).max(1);
        within(self.ttft, ttft_ns) && within(self.e2e, e2e_ns) && within(self.itl, itl_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(pace: Pace, thread: usize, threads: usize, count: usize) -> Vec<u64> {
        Schedule::share(pace, thread, threads, 7).into_iter().flatten().take(count).collect()
    }

    #[test]
    fn constant_plans_are_even_and_those_of_threads_interleave() {
        assert_eq!(moments(Pace::Constant(1000.0), 0, 1, 4), [0, 1_000_000, 2_000_000, 3_000_000]);
        assert_eq!(moments(Pace::Constant(1000.0), 1, 2, 3), [1_000_000, 3_000_000, 5_000_000]);
        assert_eq!(moments(Pace::Constant(3.0), 0, 1, 4)[3], 1_000_000_000);
    }

    #[test]
    fn poisson_plans_keep_their_rate_and_their_seed() {
        let plan = moments(Pace::Poisson(10_000.0), 0, 1, 100_000);
        assert!(plan.windows(2).all(|pair| pair[0] <= pair[1]));
        let mean_ns = plan[plan.len() - 1] / plan.len() as u64;
        assert!((98_000..102_000).contains(&mean_ns), "{mean_ns}");
        assert_eq!(plan, moments(Pace::Poisson(10_000.0), 0, 1, 100_000));
        // Exponential gaps: about 1/e of them are longer than the mean.
        let long = plan.windows(2).filter(|pair| pair[1] - pair[0] > 100_000).count();
        assert!((35_000..38_500).contains(&long), "{long}");
    }

    #[test]
    fn a_closed_loop_has_no_plan() {
        assert!(Schedule::share(Pace::Closed, 0, 1, 0).is_none());
    }

    #[test]
    fn durations_have_a_unit() {
        #[track_caller]
        fn check(text: &str, expect: Option<u64>) {
            assert_eq!(duration(text).ok().map(|span| span.as_micros()), expect.map(u128::from), "{text}");
        }
        check("200ms", Some(200_000));
        check("1.5s", Some(1_500_000));
        check("2m", Some(120_000_000));
        check("80us", Some(80));
        for wrong in ["", "10", "s", "-1s", "1h", "1e400s"] {
            check(wrong, None);
        }
    }

    #[test]
    fn an_objective_is_kept_or_missed() {
        let slo = Slo::parse("ttft=200ms,itl=20ms").unwrap_or_default();
        assert!(slo.kept(200_000_000, 400_000_000, 11));
        assert!(!slo.kept(200_000_001, 400_000_000, 11));
        assert!(!slo.kept(100_000_000, 400_000_000, 11));
        assert!(Slo::parse("ttfb=1s").is_err() && Slo::parse("ttft").is_err());
    }
}
