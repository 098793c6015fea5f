//! How long a target takes to its first token: a small histogram that fades, four steps an octave from 128 µs to 134 s.

use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

const LEAST_BITS: u32 = 7;
const OCTAVES: usize = 20;
const STEPS: usize = 4;
const BUCKETS: usize = OCTAVES * STEPS;

/// Fewer say nothing.
const KNOWN_LEAST: u32 = 8;
/// At so many all are halved, so that the last few hundred count.
const FADE_AT: u32 = 512;
const _: () = assert!(FADE_AT < u16::MAX as u32 / 2);
/// The median is told anew after so many: reading it is one load, and it is read more often than it changes.
const TOLD_EACH: u32 = 8;
const _: () = assert!(KNOWN_LEAST.is_multiple_of(TOLD_EACH) && FADE_AT.is_multiple_of(TOLD_EACH));

/// Every access is relaxed: a count that is lost between two cores shifts a percentile by less than a step.
#[derive(Debug)]
pub(super) struct Latency {
    buckets: [AtomicU16; BUCKETS],
    count: AtomicU32,
    /// 0: not enough are known.
    median_us: AtomicU64,
}

impl Default for Latency {
    fn default() -> Self {
        Self {
            buckets: [const { AtomicU16::new(0) }; BUCKETS],
            count: AtomicU32::new(0),
            median_us: AtomicU64::new(0),
        }
    }
}

impl Latency {
    pub(super) fn record(&self, us: u64) {
        let count = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        if count > FADE_AT {
            // Whoever counted to it is fading, and may have been taken off its core: what comes meanwhile is not counted,
            // and no bucket runs over.
            return;
        }
        self.buckets[bucket(us)].fetch_add(1, Ordering::Relaxed);
        if count.is_multiple_of(TOLD_EACH) {
            self.median_us.store(self.percentile_us(50).unwrap_or(0), Ordering::Relaxed);
        }
        // One core alone counts to it.
        if count == FADE_AT {
            self.fade();
        }
    }

    pub(super) fn median_us(&self) -> Option<u64> {
        match self.median_us.load(Ordering::Relaxed) {
            0 => None,
            us => Some(us),
        }
    }

    pub(super) fn percentile_us(&self, percent: u8) -> Option<u64> {
        let counts: [u32; BUCKETS] =
            std::array::from_fn(|bucket| u32::from(self.buckets[bucket].load(Ordering::Relaxed)));
        let known: u32 = counts.iter().sum();
        if known < KNOWN_LEAST {
            return None;
        }
        let rank = (known * u32::from(percent.min(100))).div_ceil(100).max(1);
        let mut passed = 0;
        let bucket = counts.iter().position(|count| {
            passed += count;
            passed >= rank
        })?;
        Some(middle_us(bucket))
    }

    pub(super) fn clear(&self) {
        self.buckets.iter().for_each(|bucket| bucket.store(0, Ordering::Relaxed));
        self.count.store(0, Ordering::Relaxed);
        self.median_us.store(0, Ordering::Relaxed);
    }

    fn fade(&self) {
        let mut left = 0;
        for bucket in &self.buckets {
            let count = bucket.load(Ordering::Relaxed);
            bucket.fetch_sub(count.div_ceil(2), Ordering::Relaxed);
            left += u32::from(count / 2);
        }
        // In steps of the telling, so that it goes on.
        self.count.store(left.next_multiple_of(TOLD_EACH), Ordering::Relaxed);
    }
}

fn bucket(us: u64) -> usize {
    let us = us.max(1 << LEAST_BITS);
    let octave = us.ilog2() - LEAST_BITS;
    let step = us >> (us.ilog2() - STEPS.ilog2()) & (STEPS as u64 - 1);
    (octave as usize * STEPS + usize::try_from(step).unwrap_or(0)).min(BUCKETS - 1)
}

fn middle_us(bucket: usize) -> u64 {
    let (octave, step) = (bucket / STEPS, (bucket % STEPS) as u64);
    let width = (1 << LEAST_BITS << octave) / STEPS as u64;
    width * STEPS as u64 + width * step + width / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_s_middle_is_in_it_and_near_all_that_is() {
        for us in (128..100_000).chain([1 << 20, 90_000_000, 134_217_727]) {
            let middle = middle_us(bucket(us));
            assert_eq!(bucket(middle), bucket(us), "{us}");
            assert!(middle.abs_diff(us) * 8 <= us, "{us} is told as {middle}");
        }
        assert_eq!((bucket(0), bucket(u64::MAX)), (0, BUCKETS - 1));
    }

    #[test]
    fn percentiles_are_told_once_enough_are_known() {
        let latency = Latency::default();
        (0..7).for_each(|_| latency.record(1_000));
        assert_eq!((latency.median_us(), latency.percentile_us(50)), (None, None));
        (8..=100).for_each(|n| latency.record(n * 1_000));
        let near = |told: Option<u64>, us: u64| told.is_some_and(|told| told.abs_diff(us) * 4 < us);
        assert!(near(latency.median_us(), 50_000), "{:?}", latency.median_us());
        assert!(near(latency.percentile_us(95), 95_000), "{:?}", latency.percentile_us(95));
    }

    #[test]
    fn what_was_long_ago_fades() {
        let latency = Latency::default();
        (0..10_000).for_each(|_| latency.record(1_000_000));
        (0..2 * FADE_AT).for_each(|_| latency.record(10_000));
        assert!(latency.median_us().is_some_and(|us| us < 12_000));
        assert!(latency.percentile_us(100).is_some_and(|us| us >= 10_000));
        latency.clear();
        assert_eq!((latency.median_us(), latency.percentile_us(50)), (None, None));
    }

    #[test]
    fn many_cores_count_without_running_over() {
        let latency = Latency::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..50_000).for_each(|_| latency.record(5_000)));
            }
        });
        let kept = latency.buckets[bucket(5_000)].load(Ordering::Relaxed);
        assert!(u32::from(kept) < 2 * FADE_AT, "{kept}");
        assert!(latency.median_us().is_some_and(|us| bucket(us) == bucket(5_000)));
    }
}
