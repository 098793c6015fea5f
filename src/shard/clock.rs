//! The one place that reads the monotonic clock on a core.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::base::now::Now;

/// A clock that all cores share: equal readings are equal moments.
#[derive(Clone)]
pub struct Clock {
    quanta: quanta::Clock,
    /// Its raw reading at our zero.
    began: u64,
}

impl Clock {
    /// A clock whose zero is this moment.
    pub fn new() -> Self {
        let quanta = quanta::Clock::new();
        Self { began: quanta.raw(), quanta }
    }

    /// About 10 ns.
    pub fn now(&self) -> Now {
        Now(self.quanta.delta_as_nanos(self.began, self.quanta.raw()))
    }

    /// Milliseconds since 1970 on the wall clock: for identifiers and `created` members, never for durations.
    pub fn unix_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}
