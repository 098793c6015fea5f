//! A [`window`](crate::policy::window) that all cores count in.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::{
    base::now::Now,
    policy::window::{BUCKETS, Sums, begun, is_current, place, sums},
};

/// Counts of the last ten seconds. Each word stands for itself, so every access is relaxed.
#[derive(Debug, Default)]
pub(super) struct Tally([AtomicU64; BUCKETS]);

/// How often a conditional addition looks again because others counted meanwhile, before it counts as refused.
const TRIES: usize = 64;

impl Tally {
    /// Adds `TOTAL`, `PART` or both.
    pub(super) fn add(&self, what: u64, now: Now) {
        let word = &self.0[place(now)];
        let mut seen = word.load(Ordering::Relaxed);
        // Ends at the second round: whoever was faster has begun the bucket.
        while !is_current(seen, now) {
            let next = begun(now) + what;
            match word.compare_exchange_weak(seen, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return,
                Err(newer) => seen = newer,
            }
        }
        word.fetch_add(what, Ordering::Relaxed);
    }

    /// Adds if `allowed` says so of the sums; no two cores are allowed the same one.
    pub(super) fn add_if(&self, what: u64, now: Now, allowed: impl Fn(Sums) -> bool) -> bool {
        for _ in 0..TRIES {
            let words = self.words();
            if !allowed(sums(words, now)) {
                return false;
            }
            let (place, seen) = (place(now), words[place(now)]);
            let next = if is_current(seen, now) { seen } else { begun(now) } + what;
            let swapped = self.0[place].compare_exchange(seen, next, Ordering::Relaxed, Ordering::Relaxed);
            if swapped.is_ok() {
                return true;
            }
        }
        false
    }

    pub(super) fn sums(&self, now: Now) -> Sums {
        sums(self.words(), now)
    }

    pub(super) fn clear(&self) {
        self.0.iter().for_each(|word| word.store(0, Ordering::Relaxed));
    }

    fn words(&self) -> [u64; BUCKETS] {
        std::array::from_fn(|place| self.0[place].load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::policy::window::{PART, TOTAL};

    #[test]
    fn cores_that_begin_a_bucket_together_lose_nothing() {
        let tally = Tally::default();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|n| tally.add(TOTAL, Now(n * 100_000))));
            }
        });
        assert_eq!(tally.sums(Now(999_900_000)).total, 40_000);
    }

    #[test]
    fn no_more_are_allowed_than_there_are() {
        let tally = Tally::default();
        let now = Now(5);
        let granted = thread::scope(|scope| {
            let cores: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let few = |recent: Sums| recent.part < 100;
                        (0..1_000).filter(|_| tally.add_if(PART, now, few)).count()
                    })
                })
                .collect();
            cores.into_iter().map(|core| core.join().expect("a core ends")).sum::<usize>()
        });
        assert_eq!((granted, tally.sums(now).part), (100, 100));
    }
}
