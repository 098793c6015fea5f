//! Time as a value. The clock itself is read in one place (`shard::clock`); everything else is told.

use std::{
    ops::{Add, Sub},
    time::Duration,
};

/// A moment on this process's monotonic clock, in nanoseconds since the process started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Now(pub u64);

impl Now {
    /// How long ago `earlier` was; zero if it is not in the past.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Whole microseconds from `earlier` to here; zero if it is not in the past.
    pub fn us_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0) / 1_000
    }
}

impl Add<Duration> for Now {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Now {
    type Output = Self;

    fn sub(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_never_runs_below_zero_or_past_the_end() {
        assert_eq!(Now(5) - Duration::from_secs(1), Now(0));
        assert_eq!(Now(u64::MAX) + Duration::MAX, Now(u64::MAX));
        assert_eq!(Now(1_000).since(Now(3_000)), Duration::ZERO);
        assert_eq!(Now(5_500).us_since(Now(2_000)), 3);
    }
}
