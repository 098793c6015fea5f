//! Keys that are put aside for a while. There are few of them, so the common question costs one load.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use crate::{
    base::{
        limits::{KEY_DEAD_MS, KEY_REFUSED_MS, KEYS_ASIDE_MAX},
        now::Now,
    },
    policy::health::{KeyFault, KeyKey, KeyStanding},
};

const WAYS: usize = 8;
const LINES: usize = KEYS_ASIDE_MAX / WAYS;

#[derive(Debug)]
pub(super) struct Aside {
    /// Until when any key is aside at all.
    until_ms: AtomicU64,
    lines: Box<[[Entry; WAYS]]>,
    // Only who puts a key aside takes it.
    writing: Mutex<()>,
}

#[derive(Debug, Default)]
struct Entry {
    key: AtomicU64,
    /// Until when, in ms, and in the lowest bit whether it was refused. Over: the entry is free.
    word: AtomicU64,
}

impl Default for Aside {
    fn default() -> Self {
        Self {
            until_ms: AtomicU64::new(0),
            lines: (0..LINES).map(|_| <[Entry; WAYS]>::default()).collect(),
            writing: Mutex::new(()),
        }
    }
}

impl Aside {
    pub(super) fn standing(&self, key: KeyKey, now: Now) -> KeyStanding {
        let now_ms = now.0 / 1_000_000;
        if self.until_ms.load(Ordering::Acquire) <= now_ms {
            return KeyStanding::Good;
        }
        for entry in self.line(key) {
            if entry.key.load(Ordering::Acquire) != key.0 {
                continue;
            }
            let word = entry.word.load(Ordering::Acquire);
            let retry_after_ms = (word >> 1).saturating_sub(now_ms);
            // An entry is emptied before it becomes another key's: the word is this key's if the key still stands.
            if retry_after_ms > 0 && entry.key.load(Ordering::Acquire) == key.0 {
                return match word & 1 {
                    0 => KeyStanding::Dead { retry_after_ms },
                    _ => KeyStanding::Refused { retry_after_ms },
                };
            }
        }
        KeyStanding::Good
    }

    pub(super) fn put(&self, key: KeyKey, fault: KeyFault, now: Now) {
        let now_ms = now.0 / 1_000_000;
        let (span_ms, refused) = match fault {
            KeyFault::Dead => (KEY_DEAD_MS, 0),
            KeyFault::Refused => (KEY_REFUSED_MS, 1),
        };
        let until_ms = now_ms + span_ms;
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let line = self.line(key);
        let until = |entry: &Entry| entry.word.load(Ordering::Relaxed) >> 1;
        let own = line.iter().find(|entry| entry.key.load(Ordering::Relaxed) == key.0);
        let Some(entry) = own.or_else(|| line.iter().min_by_key(|entry| until(entry))) else { return };
        if own.is_some() && until(entry) > until_ms {
            return;
        }
        entry.word.store(0, Ordering::Release);
        entry.key.store(key.0, Ordering::Release);
        entry.word.store(until_ms << 1 | refused, Ordering::Release);
        // Last: who sees that there is one finds it.
        self.until_ms.fetch_max(until_ms, Ordering::AcqRel);
    }

    fn line(&self, key: KeyKey) -> &[Entry] {
        let wide = u128::from(key.0) * LINES as u128;
        self.lines.get(usize::try_from(wide >> 64).unwrap_or(0)).map_or(&[], |line| line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Now {
        Now(ms * 1_000_000)
    }

    #[test]
    fn a_key_is_aside_for_its_time_and_no_other_with_it() {
        let aside = Aside::default();
        let (dead, refused, other) = (KeyKey(1 << 60), KeyKey(0), KeyKey(1));
        aside.put(dead, KeyFault::Dead, at(1_000));
        aside.put(refused, KeyFault::Refused, at(1_000));
        for (key, ms, expect) in [
            (dead, 1_000, KeyStanding::Dead { retry_after_ms: KEY_DEAD_MS }),
            (refused, 1_000, KeyStanding::Refused { retry_after_ms: KEY_REFUSED_MS }),
            (other, 1_000, KeyStanding::Good),
            (refused, 1_000 + KEY_REFUSED_MS, KeyStanding::Good),
            (dead, KEY_DEAD_MS, KeyStanding::Dead { retry_after_ms: 1_000 }),
            (dead, 1_000 + KEY_DEAD_MS, KeyStanding::Good),
        ] {
            assert_eq!(aside.standing(key, at(ms)), expect);
        }
    }

    #[test]
    fn a_dead_key_that_is_refused_stays_dead() {
        let aside = Aside::default();
        aside.put(KeyKey(9), KeyFault::Dead, at(0));
        aside.put(KeyKey(9), KeyFault::Refused, at(1_000));
        assert_eq!(aside.standing(KeyKey(9), at(1_000)), KeyStanding::Dead { retry_after_ms: 599_000 });
        // And the other way round, once.
        aside.put(KeyKey(8), KeyFault::Refused, at(0));
        aside.put(KeyKey(8), KeyFault::Dead, at(0));
        assert_eq!(aside.standing(KeyKey(8), at(0)), KeyStanding::Dead { retry_after_ms: 600_000 });
    }

    #[test]
    fn one_too_many_takes_the_place_of_the_soonest_back() {
        let aside = Aside::default();
        (0..=WAYS as u64).for_each(|n| aside.put(KeyKey(n), KeyFault::Dead, at(n)));
        let standing = |key| aside.standing(KeyKey(key), at(10));
        assert_eq!(standing(0), KeyStanding::Good);
        assert!((1..=WAYS as u64).all(|key| standing(key) != KeyStanding::Good));
    }
}
