//! The seed's chance. One stream for the whole run, drawn from in the order in which things happen: a seed is a run.

use std::{cell::Cell, ops::Range};

pub(super) struct Chance(Cell<u64>);

impl Chance {
    pub(super) fn new(seed: u64) -> Self {
        // Neighbouring seeds must not begin alike, and zero would stay zero.
        let chance = Self(Cell::new((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1));
        (0..8).for_each(|_| _ = chance.next());
        chance
    }

    pub(super) fn next(&self) -> u64 {
        let mut x = self.0.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.0.set(x);
        x.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number of `range`, each as likely as the other.
    pub(super) fn of(&self, range: Range<usize>) -> usize {
        let span = (range.end - range.start).max(1) as u64;
        range.start + usize::try_from((self.next() >> 16) % span).unwrap_or(0)
    }

    pub(super) fn one_in(&self, n: usize) -> bool {
        self.of(0..n) == 0
    }

    pub(super) fn pick<T: Copy>(&self, from: &[T]) -> T {
        from[self.of(0..from.len())]
    }

    /// A piece of `left` bytes: one, a few, some or all of them.
    pub(super) fn piece(&self, left: usize, grain: Grain) -> usize {
        let most = match grain {
            Grain::Byte => 1,
            Grain::Fine => 48,
            Grain::Coarse => 1_500,
            Grain::Whole => usize::MAX,
        };
        if left <= 1 { left } else { self.of(1..left.min(most) + 1) }
    }
}

/// How finely a peer's bytes are cut.
#[derive(Clone, Copy, Debug)]
pub(super) enum Grain {
    Byte,
    Fine,
    Coarse,
    Whole,
}
