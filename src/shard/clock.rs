//! The one place that reads the monotonic clock on a core.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::base::now::Now;

/// A clock that all cores share: equal readings are equal moments.
#[derive(Clone)]
pub struct Clock {
    quanta: quanta::Clock,
    began: quanta::Instant,
}

impl Clock {
    /// A clock whose zero is this moment.
    pub fn new() -> Self {
        let quanta = quanta::Clock::new();
        Self { began: quanta.now(), quanta }
    }

    /// About 10 ns.
    pub fn now(&self) -> Now {
        let ran = self.quanta.now().duration_since(self.began);
        Now(u64::try_from(ran.as_nanos()).unwrap_or(u64::MAX))
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
