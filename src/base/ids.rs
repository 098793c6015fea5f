//! Small numbers that stand for names where a name would be too big to carry, each in a type of its own.
//!
//! A number, once given, means the same name until the process ends: counts are kept by number across reloads.

use std::{
    collections::HashMap,
    hash::{BuildHasher, DefaultHasher, Hash, Hasher, RandomState},
    sync::{Arc, LazyLock},
};

use crate::base::limits::{PROVIDER_NAMES_MAX, QUOTA_LINES_MAX};

/// Which provider. Given out by [`ProviderRoll`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProviderId(pub u16);

impl ProviderId {
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// The names of all providers this process has ever been configured with. It only grows: a provider that a reload
/// takes away keeps its number, so that its counts never become another's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProviderRoll(Vec<Box<str>>);

impl ProviderRoll {
    /// The number of `name`, which is enrolled if it is new; `None` when [`PROVIDER_NAMES_MAX`] names are taken.
    pub fn enrol(&mut self, name: &str) -> Option<ProviderId> {
        let index = self.0.iter().position(|known| **known == *name).unwrap_or(self.0.len());
        if index >= PROVIDER_NAMES_MAX {
            return None;
        }
        if index == self.0.len() {
            self.0.push(name.into());
        }
        u16::try_from(index).ok().map(ProviderId)
    }

    /// The name of `id`, or `None` for a number that was never given.
    pub fn name(&self, id: ProviderId) -> Option<&str> {
        self.0.get(id.index()).map(|name| &**name)
    }
}

/// A line of the quota board: the counts of one limited key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Line(pub u32);

/// The lines of all keys this process has ever been configured with, by name. It only grows, so that what one key has
/// spent never becomes another's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LineRoll {
    lines: HashMap<Arc<str>, Line>,
    /// By line. As many as `lines`.
    names: Vec<Arc<str>>,
}

impl LineRoll {
    /// The line of `name`, which is enrolled if it is new; `None` when [`QUOTA_LINES_MAX`] names are taken.
    pub fn enrol(&mut self, name: &str) -> Option<Line> {
        if let Some(line) = self.line(name) {
            return Some(line);
        }
        if self.names.len() >= QUOTA_LINES_MAX {
            return None;
        }
        let line = Line(u32::try_from(self.names.len()).ok()?);
        let name: Arc<str> = name.into();
        self.names.push(Arc::clone(&name));
        self.lines.insert(name, line);
        Some(line)
    }

    /// The line of `name`, if it was ever enrolled.
    pub fn line(&self, name: &str) -> Option<Line> {
        self.lines.get(name).copied()
    }

    /// The name of `line`, or `None` for one that was never given.
    pub fn name(&self, line: Line) -> Option<&str> {
        self.names.get(usize::try_from(line.0).ok()?).map(|name| &**name)
    }
}

/// A target's number on the board: provider, key and model hashed. Models are named by clients, so the hash is keyed, by chance
/// for each process: nobody can find a name that shares a breaker with another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TargetKey(pub u64);

impl TargetKey {
    pub fn of(provider: &str, key: &str, model: &str) -> Self {
        KeyStem::of(provider, key).target(model)
    }
}

/// What the numbers of all targets under a provider's key have in common, so that a request hashes its model's name alone.
#[derive(Clone, Debug)]
pub struct KeyStem {
    hashed: DefaultHasher,
    /// The key's own number on the board.
    pub itself: TargetKey,
}

impl KeyStem {
    pub fn of(provider: &str, key: &str) -> Self {
        let mut hashed = BY_CHANCE.build_hasher();
        (provider, key).hash(&mut hashed);
        let itself = TargetKey(hashed.finish());
        Self { hashed, itself }
    }

    pub fn target(&self, model: &str) -> TargetKey {
        let mut whole = self.hashed.clone();
        whole.write(model.as_bytes());
        TargetKey(whole.finish())
    }
}

static BY_CHANCE: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// A configured target's number, the same in every process: what sticks to it sticks over a restart.
pub fn target_number(provider: &str, key: &str, model: &str) -> u64 {
    // A byte that no name can hold parts them.
    let names = [provider.as_bytes(), b"\0", key.as_bytes(), b"\0", model.as_bytes()];
    mix(names.iter().fold(FNV_START, |hash, part| fnv(hash, part)))
}

/// Where [`fnv`] begins.
pub const FNV_START: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a: what is remembered by its hash must hash the same in every process. Its low bits are weak until [`mix`]ed.
pub fn fnv(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Spreads every bit over all (the finisher of splitmix64). One to one.
pub fn mix(bits: u64) -> u64 {
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_targets_number_is_fixed_and_its_parts_do_not_run_together() {
        assert_eq!(target_number("openai", "default", "gpt-4o"), 0xd751_d807_ac72_c875);
        assert_ne!(target_number("a", "bc", "d"), target_number("ab", "c", "d"));
        assert_eq!(
            TargetKey::of("openai", "default", "gpt-4o"),
            TargetKey::of("openai", "default", "gpt-4o")
        );
        assert_ne!(TargetKey::of("a", "bc", "d"), TargetKey::of("ab", "c", "d"));
        assert_ne!(TargetKey::of("a", "b", "cd"), TargetKey::of("a", "bc", "d"));
        assert_eq!(fnv(FNV_START, b"foobar"), 0x8594_4171_f739_67e8, "as published");
    }

    #[test]
    fn a_number_means_the_same_name_for_ever() {
        let mut roll = ProviderRoll::default();
        let (a, b) = (roll.enrol("a"), roll.enrol("b"));
        assert_eq!((a, b), (Some(ProviderId(0)), Some(ProviderId(1))));
        assert_eq!(roll.enrol("a"), a);
        assert_eq!(roll.name(ProviderId(1)), Some("b"));
        assert_eq!(roll.name(ProviderId(2)), None);
    }

    #[test]
    fn a_full_roll_says_so_and_keeps_what_it_has() {
        let mut roll = ProviderRoll::default();
        for number in 0..PROVIDER_NAMES_MAX {
            assert!(roll.enrol(&number.to_string()).is_some());
        }
        assert_eq!(roll.enrol("one more"), None);
        assert_eq!(roll.enrol("7"), Some(ProviderId(7)));
    }

    #[test]
    fn a_line_is_one_names_for_ever_and_there_are_only_so_many() {
        let mut roll = LineRoll::default();
        assert_eq!((roll.enrol("a"), roll.enrol("b")), (Some(Line(0)), Some(Line(1))));
        assert_eq!((roll.enrol("a"), roll.line("b"), roll.line("c")), (Some(Line(0)), Some(Line(1)), None));
        assert_eq!((roll.name(Line(1)), roll.name(Line(2))), (Some("b"), None));
        for number in 2..QUOTA_LINES_MAX {
            assert!(roll.enrol(&number.to_string()).is_some());
        }
        assert_eq!(roll.enrol("one more"), None);
        assert_eq!(roll.enrol("2"), Some(Line(2)));
    }
}
