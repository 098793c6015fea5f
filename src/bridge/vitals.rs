//! One core's signs of life, written by that core and read from outside it.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering},
};

use crate::{
    base::{limits::HEARTBEAT_AGE_MAX, now::Now},
    bridge::padded::Padded,
    ledger::exposition::ShardFacts,
};

/// A core's gauges. Each stands for itself, so every access is relaxed.
#[derive(Debug)]
pub struct Vitals {
    core: usize,
    gauges: Padded<Gauges>,
    backend: OnceLock<Backend>,
}

#[derive(Debug, Default)]
struct Gauges {
    // 0 until the first beat.
    beat_us: AtomicU64,
    connections: AtomicU64,
    handed_over: AtomicU64,
    buffered_bytes: AtomicU64,
}

/// Which I/O a shard got, in words for the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend {
    /// `io_uring` or `epoll`.
    pub name: &'static str,
    /// The ring's set-up flags; empty for epoll.
    pub flags: &'static str,
}

impl Vitals {
    pub fn new(core: usize) -> Self {
        Self { core, gauges: Padded(Gauges::default()), backend: OnceLock::new() }
    }

    pub fn core(&self) -> usize {
        self.core
    }

    /// At each tick.
    pub fn beat(&self, now: Now) {
        // At least 1: a core that beats in the process's first microsecond has started.
        self.gauges.beat_us.store((now.0 / 1_000).max(1), Ordering::Relaxed);
    }

    /// At each connection that comes or goes: other cores weigh their own against it.
    pub fn set_connections(&self, connections: u64) {
        self.gauges.connections.store(connections, Ordering::Relaxed);
    }

    /// Counts a connection that the core accepted and another one took.
    pub fn count_handed_over(&self) {
        self.gauges.handed_over.fetch_add(1, Ordering::Relaxed);
    }

    pub fn set_buffered_bytes(&self, bytes: u64) {
        self.gauges.buffered_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Says which I/O the shard got, once: a second answer is ignored.
    pub fn set_backend(&self, backend: Backend) {
        let _ = self.backend.set(backend);
    }

    pub fn backend(&self) -> Option<Backend> {
        self.backend.get().copied()
    }

    pub fn connections(&self) -> u64 {
        self.gauges.connections.load(Ordering::Relaxed)
    }

    /// How long ago the core last beat; `None` until it has.
    pub fn beat_age_us(&self, now: Now) -> Option<u64> {
        let beat_us = self.gauges.beat_us.load(Ordering::Relaxed);
        (beat_us > 0).then(|| (now.0 / 1_000).saturating_sub(beat_us))
    }

    /// Whether the core has started and still ticks.
    pub fn is_alive(&self, now: Now) -> bool {
        self.beat_age_us(now).is_some_and(|age_us| u128::from(age_us) < HEARTBEAT_AGE_MAX.as_micros())
    }

    pub fn facts(&self, now: Now) -> ShardFacts {
        ShardFacts {
            core: self.core,
            connections: self.connections(),
            handed_over: self.gauges.handed_over.load(Ordering::Relaxed),
            buffered_bytes: self.gauges.buffered_bytes.load(Ordering::Relaxed),
            backend: self.backend().map(|backend| (backend.name, backend.flags)),
            heartbeat_age_us: self.beat_age_us(now),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_is_alive_from_its_first_beat_until_it_misses_too_many() {
        let vitals = Vitals::new(3);
        assert!(!vitals.is_alive(Now(0)));
        vitals.beat(Now(0));
        assert!(vitals.is_alive(Now(0)));
        assert!(vitals.is_alive(Now(1_999_000_000)));
        assert!(!vitals.is_alive(Now(2_001_000_000)));
        assert_eq!(vitals.beat_age_us(Now(5_001_000)), Some(5_000));
    }

    #[test]
    fn facts_show_what_the_core_said() {
        let vitals = Vitals::new(3);
        assert_eq!(vitals.facts(Now(0)).backend, None);
        vitals.set_backend(Backend { name: "epoll", flags: "" });
        vitals.set_backend(Backend { name: "io_uring", flags: "COOP_TASKRUN" });
        vitals.set_connections(7);
        vitals.set_buffered_bytes(9);
        vitals.count_handed_over();
        let facts = vitals.facts(Now(0));
        assert_eq!((facts.core, facts.connections, facts.buffered_bytes), (3, 7, 9));
        assert_eq!(facts.handed_over, 1);
        assert_eq!(facts.backend, Some(("epoll", "")));
    }
}
