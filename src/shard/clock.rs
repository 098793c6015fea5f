//! The one place that reads the monotonic clock on a core.

use std::{
    cell::Cell,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

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
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

/// Milliseconds since 1970 on the wall clock, as the kernel tells it.
fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A core's own hands of the clock: a request asks for the time some dozen times, and most of these are the same moment.
pub(super) struct CoreClock {
    clock: Clock,
    read: Cell<Now>,
    /// What the wall clock showed at our zero, in milliseconds since 1970.
    wall_at_zero_ms: Cell<u64>,
}

impl CoreClock {
    pub(super) fn new(clock: Clock) -> Self {
        let this = Self { read: Cell::new(clock.now()), wall_at_zero_ms: Cell::new(0), clock };
        this.look_at_the_wall();
        this
    }

    pub(super) fn now(&self) -> Now {
        let now = self.clock.now();
        self.read.set(now);
        now
    }

    /// What [`now`](Self::now) said last, to whomever on this core.
    pub(super) fn recent(&self) -> Now {
        self.read.get()
    }

    /// Follows the wall clock. Between two looks it goes on as the monotonic one does.
    pub(super) fn look_at_the_wall(&self) {
        self.wall_at_zero_ms.set(wall_ms().saturating_sub(ms(self.now())));
    }

    /// Milliseconds since 1970 on the wall clock at the last reading: for identifiers, calendars and `created` members, never
    /// for durations. A step of the wall clock is seen at the next look at it.
    pub(super) fn unix_ms(&self) -> u64 {
        self.wall_at_zero_ms.get() + ms(self.recent())
    }
}

fn ms(now: Now) -> u64 {
    now.0 / 1_000_000
}
