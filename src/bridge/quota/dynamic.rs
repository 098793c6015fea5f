//! Lines for keys that no configuration names: a fixed table of sets, in which a line whose counts mean nothing any more
//! is given to another key.
//!
//! A set is eight lines: a head, six *ways* (a key's own line each), and one line that keys without a way share. What must
//! hold at every moment: **a key has one line in its set**. Its own way, or, while it has none, the shared line; never
//! two ways, and never a way beside a use of the shared line, or else it could spend its allowance twice.
//!
//! # How
//!
//! The head's first word holds a number that every change of *who has which way* or *who came to the shared line*
//! increments. Such a change is one compare-exchange of that word, made by somebody who looked at the whole set since
//! he read it: when it succeeds, what he saw (nobody has a way for this key; nobody uses the shared line) still holds.
//!
//! A way has a word of its own in the head. It counts the pins of those who use it now and, so that it never shows the
//! same value twice, how often it was pinned. A way is claimed in four steps:
//!
//! 1. *Reserve*: its word goes from unpinned to reserved, stamped with the set's number. That succeeds only if nobody has
//!    pinned it since its counts were looked at, and from here nobody can: the way is the claimant's alone.
//! 2. Its key and its counts are written. They begin where the shared line stands, because the key may have spent there.
//! 3. *Commit*: the set's word, if it is unchanged, gets the next number and names the way. This is the moment of change.
//! 4. *Finish*: the word goes from reserved to ready with the claimant's pin. Anyone who finds a commit unfinished does
//!    it in his place before he looks any further, so that nobody waits for a claimant who lost his CPU.
//!
//! A claimant whose commit fails empties the way again and looks anew. Somebody else's change made it fail, so of all
//! who try, one always gets on. A way that is being claimed is no room for others: at such a moment a set may seem full that
//! isn't, which is strict and rare. A spend cannot land in a line that was taken away: who spends has it pinned.

use std::sync::atomic::{
    AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};

use crate::{base::now::Now, bridge::quota::lines::Row, config::allowance::Measure, policy::rate};

/// Lines of a set.
pub(super) const SET_LINES: usize = 8;
/// The lines of a set that are a key's own. The head's slots of the same numbers hold their words.
const WAYS: std::ops::RangeInclusive<usize> = 1..=6;
/// The line of keys that have no way.
const SHARED: usize = 7;
/// The head's slot that holds the key of way `n` is this and `n`.
const KEYS: usize = 8;

/// One set: its head, its ways, its shared line.
pub(super) struct Set<'a>(pub(super) &'a [Row; SET_LINES]);

/// Which line of the set a key got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) place: usize,
    pub(super) is_shared: bool,
}

impl Set<'_> {
    /// The line of `key`, pinned.
    pub(super) fn hold(&self, key: u64, now: Now) -> Held {
        loop {
            // Acquire: all that was committed up to this number is seen by the looks below.
            let seen = SetWord(self.head(0).load(Acquire));
            self.finish(seen);
            if let Some(place) = self.pin(key) {
                return Held { place, is_shared: false };
            }
            // The key had no way when `seen` was read, or lost it since: only its own commit could give it one, and that
            // would change the word.
            if seen.guests() == 0
                && let Some((place, reserved)) = self.reserve(seen, now)
            {
                self.fill(place, key, now);
                // AcqRel: the key and the counts are seen by whoever sees the number.
                if self.swap(seen, seen.claimed(place)) {
                    self.finish_way(place, reserved);
                    return Held { place, is_shared: false };
                }
                // Still ours: it is ready only by a commit, and that one was not made.
                self.head(place).store(reserved.emptied().0, Release);
            } else if self.swap(seen, seen.joined()) {
                return Held { place: SHARED, is_shared: true };
            }
        }
    }

    /// Takes back the pin of [`Set::hold`].
    pub(super) fn let_go(&self, place: usize) {
        // Release: what was spent under the pin is seen by whoever finds the way unpinned. Both counts stand lowest in
        // their word, and a pin that was taken is in there.
        let word = if place == SHARED { self.head(0) } else { self.head(place) };
        let before = word.fetch_sub(1, Release);
        let pins = if place == SHARED { SetWord(before).guests() } else { WayWord(before).low() };
        debug_assert!(pins > 0, "only what is held is let go");
    }

    /// Does for the last commit what its claimant may not have come to.
    fn finish(&self, seen: SetWord) {
        if let Some(place) = seen.last() {
            let word = WayWord(self.head(place).load(Acquire));
            // A stamp of the number before: this reservation is the one that was committed. One that came later carries
            // this number or a higher one; stamps are compared with 26 bits, but no way is reserved while another's
            // reservation of it stands.
            if word.state() == RESERVED && word.low() == u64::from(seen.number().wrapping_sub(1)) & LOW {
                self.finish_way(place, word);
            }
        }
    }

    fn finish_way(&self, place: usize, reserved: WayWord) {
        // It fails if somebody was so kind already.
        let _ = self.head(place).compare_exchange(reserved.0, reserved.ready().0, AcqRel, Acquire);
    }

    /// Pins the way of `key`, if it has one.
    fn pin(&self, key: u64) -> Option<usize> {
        'ways: for place in WAYS {
            while self.head(KEYS + place).load(Relaxed) == key {
                // The word first, then again the key, then the word's exchange: a key is written only while its way is
                // reserved, and no word comes twice, so the key was this one at the moment of the pin.
                let word = WayWord(self.head(place).load(Acquire));
                if word.state() != READY || self.head(KEYS + place).load(Acquire) != key {
                    continue 'ways;
                }
                // A pin is an exchange, which has a connection: there are never so many that they fill 26 bits.
                debug_assert!(word.low() < LOW, "pins are counted, not guessed");
                if self.head(place).compare_exchange(word.0, word.pinned().0, AcqRel, Relaxed).is_ok() {
                    return Some(place);
                }
            }
        }
        None
    }

    /// A way that nobody uses and whose counts mean nothing any more.
    fn reserve(&self, seen: SetWord, now: Now) -> Option<(usize, WayWord)> {
        WAYS.into_iter().find_map(|place| {
            // Acquire: the counts are looked at after the last pin was taken back, with all that was spent under it.
            let word = WayWord(self.head(place).load(Acquire));
            let is_free = match word.state() {
                EMPTY => true,
                READY => word.low() == 0 && is_idle(&self.0[place], now),
                _ => false,
            };
            let reserved = word.reserved(seen.number());
            // It fails if anyone pinned the way since, even if he has let it go again.
            (is_free && self.head(place).compare_exchange(word.0, reserved.0, AcqRel, Relaxed).is_ok())
                .then_some((place, reserved))
        })
    }

    /// Writes a reserved way. Relaxed: the commit publishes it, and without it nobody looks.
    fn fill(&self, place: usize, key: u64, now: Now) {
        self.head(KEYS + place).store(key, Relaxed);
        // Nobody uses the shared line, or the commit will fail: its counts stand still.
        for (slot, (own, shared)) in self.0[place].iter().zip(&self.0[SHARED]).enumerate() {
            let horizon = if RATES.contains(&slot) { shared.load(Relaxed) } else { 0 };
            own.store(if horizon > rate::ticks(now) { horizon } else { 0 }, Relaxed);
        }
    }

    fn swap(&self, seen: SetWord, next: SetWord) -> bool {
        self.head(0).compare_exchange(seen.0, next.0, AcqRel, Relaxed).is_ok()
    }

    fn head(&self, slot: usize) -> &AtomicU64 {
        #[cfg(test)]
        super::tests::interleave::step();
        &self.0[0][slot]
    }
}

const RATES: std::ops::RangeInclusive<usize> =
    Measure::RequestsPerSecond as usize..=Measure::TokensPerDay as usize;

/// Whether a key that begins from nothing would stand where this line stands.
fn is_idle(row: &Row, now: Now) -> bool {
    let now_ticks = rate::ticks(now);
    row.iter().enumerate().skip(1).all(|(slot, count)| {
        let passed = if RATES.contains(&slot) { now_ticks } else { 0 };
        count.load(Relaxed) <= passed
    })
}

/// The head's first word: the number of changes (32 bits), the way of the last one (4 bits; 0 if it was a guest's), and
/// how many use the shared line now (28 bits).
#[derive(Clone, Copy)]
struct SetWord(u64);

impl SetWord {
    fn number(self) -> u32 {
        u32::try_from(self.0 >> 32).unwrap_or(0)
    }

    fn last(self) -> Option<usize> {
        let place = usize::try_from(self.0 >> 28 & 0xf).unwrap_or(0);
        WAYS.contains(&place).then_some(place)
    }

    fn guests(self) -> u64 {
        self.0 & ((1 << 28) - 1)
    }

    fn claimed(self, place: usize) -> Self {
        Self(u64::from(self.number().wrapping_add(1)) << 32 | (place as u64) << 28 | self.guests())
    }

    fn joined(self) -> Self {
        debug_assert!(self.guests() + 1 < 1 << 28, "guests are exchanges, and never so many");
        Self(u64::from(self.number().wrapping_add(1)) << 32 | (self.guests() + 1))
    }
}

/// A way's word: how often it was pinned or reserved (36 bits), what it is (2 bits), and, when it is ready, its pins, when
/// it is reserved, the set's number at that time (26 bits). Zero is an empty way.
#[derive(Clone, Copy)]
struct WayWord(u64);

const EMPTY: u64 = 0;
const RESERVED: u64 = 1;
const READY: u64 = 2;
const LOW: u64 = (1 << 26) - 1;

impl WayWord {
    fn state(self) -> u64 {
        self.0 >> 26 & 3
    }

    fn low(self) -> u64 {
        self.0 & LOW
    }

    fn pinned(self) -> Self {
        // The uses stand highest: what they carry is lost.
        Self(self.0.wrapping_add(1 << 28).wrapping_add(1))
    }

    fn reserved(self, number: u32) -> Self {
        self.next(RESERVED, u64::from(number) & LOW)
    }

    fn ready(self) -> Self {
        self.next(READY, 1)
    }

    fn emptied(self) -> Self {
        self.next(EMPTY, 0)
    }

    fn next(self, state: u64, low: u64) -> Self {
        Self(((self.0 >> 28).wrapping_add(1)) << 28 | state << 26 | low)
    }
}
