//! Who may call: an immutable table of callers, found by the token they show.
//!
//! Whoever shows a token that is not right learns nothing from the time it takes: a known id and an unknown one read one
//! bucket, one entry and compute one digest, and the entry is compared whole. An unknown id is compared with some other
//! caller's entry, which its hash chooses, so that even the caches are touched in the same way; that the ids differ is
//! part of the comparison. A connection that shows again what was good before is spared the digest, and learns that it has
//! shown it before.

use std::{fmt, hint::black_box};

use crate::{
    base::{
        glob::Glob,
        ids::{Line, LineRoll},
        prefixes::AccessList,
    },
    config::{
        NoLine,
        allowance::Allowance,
        quotas::{Quotas, first},
        relay::OnDisconnect,
    },
    wire::{
        openai::endpoint::Endpoint,
        token::{Digest, DigestKey, Memo, Token, TokenId},
    },
};

/// Somebody who holds a gateway token, and what they may do with it.
#[derive(Debug, Clone)]
pub struct Caller {
    pub id: TokenId,
    pub name: Box<str>,
    /// The first moment at which the token is no longer good.
    pub expires_unix_ms: Option<u64>,
    pub enabled: bool,
    /// Models as clients name them; empty: all.
    pub models: Box<[Glob]>,
    /// Names of routes; empty: all.
    pub routes: Box<[Glob]>,
    /// `None`: all.
    pub endpoints: Option<Endpoints>,
    /// Where it may call from; `None`: anywhere.
    pub access: Option<Box<AccessList>>,
    pub allowance: Allowance,
    /// Where its use is counted; set by whoever publishes the table.
    pub line: Line,
    pub caps: Caps,
    /// What becomes of an answer in whose middle it leaves; `None`: what the gateway does.
    pub on_disconnect: Option<OnDisconnect>,
    pub tags: Box<[Box<str>]>,
    /// Whether its payloads are kept in logs; `None`: as the gateway has it.
    pub log_payload: Option<bool>,
}

/// The most that one request may ask for; `None`: what holds for everybody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caps {
    /// Answers to one request (`n`).
    pub n_max: Option<u32>,
    /// `max_tokens`, `max_completion_tokens`, `max_output_tokens`.
    pub max_tokens_max: Option<u64>,
    pub body_bytes_max: Option<u64>,
}

/// A set of endpoints.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Endpoints(u16);

const _: () = assert!(Endpoint::ALL.len() <= 16, "a bit each");

impl Endpoints {
    pub const fn contains(self, endpoint: Endpoint) -> bool {
        self.0 & 1 << endpoint as u32 != 0
    }

    pub fn iter(self) -> impl Iterator<Item = Endpoint> {
        Endpoint::ALL.into_iter().filter(move |endpoint| self.contains(*endpoint))
    }
}

impl FromIterator<Endpoint> for Endpoints {
    fn from_iter<T: IntoIterator<Item = Endpoint>>(endpoints: T) -> Self {
        Self(endpoints.into_iter().fold(0, |set, endpoint| set | 1 << endpoint as u32))
    }
}

impl fmt::Debug for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// What is kept of a caller's tokens.
#[derive(Clone, Copy, Debug)]
pub struct Digests {
    pub current: Digest,
    /// The token before the last rotation, and the first moment at which it is no longer good.
    pub former: Option<(Digest, u64)>,
}

/// Why a token lets nobody in. The client is told the same of all; the last two are known only to who holds the secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAuthentic {
    /// No such id, or not its secret, or the secret before a rotation that is over.
    Unknown,
    Disabled,
    Expired,
}

/// Two callers cannot be told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SameId(pub TokenId);

/// All callers.
pub struct Callers {
    key: DigestKey,
    // entries[i] belongs to callers[i]; one more stands alone when there is no caller, and is nobody's
    entries: Box<[Entry]>,
    callers: Box<[Caller]>,
    index: Index,
}

/// What authentication reads of a caller, apart from the rest: two cache lines.
#[repr(align(64))]
struct Entry {
    id: [u8; 16],
    current: Digest,
    former: Digest,
    /// Zero where there is no former one.
    former_until_unix_ms: u64,
    /// The last moment there is, where there is no end.
    expires_unix_ms: u64,
    enabled: bool,
}

const _: () = assert!(size_of::<Entry>() == 128);

impl Entry {
    /// No token has such an id, and no digest is zero.
    const NOBODY: Self = Self {
        id: [0; 16],
        current: Digest([0; 32]),
        former: Digest([0; 32]),
        former_until_unix_ms: 0,
        expires_unix_ms: 0,
        enabled: false,
    };

    fn of(caller: &Caller, digests: &Digests) -> Self {
        let (former, former_until_unix_ms) = digests.former.unwrap_or((Digest([0; 32]), 0));
        Self {
            id: *caller.id.as_bytes(),
            current: digests.current,
            former,
            former_until_unix_ms,
            expires_unix_ms: caller.expires_unix_ms.unwrap_or(u64::MAX),
            enabled: caller.enabled,
        }
    }
}

impl Callers {
    /// The table of these callers, whose digests were made with `key`.
    pub fn new(key: DigestKey, callers: Vec<(Caller, Digests)>) -> Result<Self, SameId> {
        let mut ids: Vec<TokenId> = callers.iter().map(|(caller, _)| caller.id).collect();
        ids.sort_unstable();
        if let Some(pair) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(SameId(pair[0]));
        }
        Ok(Self::of_distinct(key, callers))
    }

    /// A table in which nobody is.
    pub fn nobody() -> Self {
        Self::of_distinct(DigestKey::new(&[0; 32]), Vec::new())
    }

    fn of_distinct(key: DigestKey, callers: Vec<(Caller, Digests)>) -> Self {
        let mut entries: Vec<Entry> =
            callers.iter().map(|(caller, digests)| Entry::of(caller, digests)).collect();
        let index = Index::of(&entries);
        if entries.is_empty() {
            entries.push(Entry::NOBODY);
        }
        let callers = callers.into_iter().map(|(caller, _)| caller).collect();
        Self { key, entries: entries.into(), callers, index }
    }

    /// Who shows this token. `unix_ms` is the time of day.
    pub fn authenticate(&self, token: &Token<'_>, unix_ms: u64) -> Result<&Caller, NotAuthentic> {
        self.identify(token, &self.key.digest(token), unix_ms)
    }

    /// The same, by a connection that may have shown it before: what is known of the token is asked anew each time.
    pub fn authenticate_again(
        &self,
        token: &Token<'_>,
        memo: &Memo,
        unix_ms: u64,
    ) -> Result<&Caller, NotAuthentic> {
        if let Some(digest) = memo.digest(token, &self.key) {
            return self.identify(token, &digest, unix_ms);
        }
        let digest = self.key.digest(token);
        let caller = self.identify(token, &digest, unix_ms)?;
        memo.remember(token, &self.key, digest);
        Ok(caller)
    }

    fn identify(&self, token: &Token<'_>, digest: &Digest, unix_ms: u64) -> Result<&Caller, NotAuthentic> {
        let place = self.index.place(token.id.as_bytes(), self.entries.len());
        let entry = &self.entries[place];
        let is_id = aws_lc_rs::constant_time::verify_slices_are_equal(&entry.id, token.id.as_bytes()).is_ok();
        let is_current = digest.is(&entry.current);
        let is_former = digest.is(&entry.former) & (unix_ms < entry.former_until_unix_ms);
        // One decision over all of it: left to itself, the compiler branches on the id first, and what the processor then
        // guesses wrong more often is an unknown one.
        if !black_box(is_id & (is_current | is_former)) {
            return Err(NotAuthentic::Unknown);
        }
        if !entry.enabled {
            return Err(NotAuthentic::Disabled);
        }
        if unix_ms >= entry.expires_unix_ms {
            return Err(NotAuthentic::Expired);
        }
        self.callers.get(place).ok_or(NotAuthentic::Unknown)
    }

    /// The caller of that id, whoever asks.
    pub fn get(&self, id: TokenId) -> Option<&Caller> {
        self.callers.get(self.index.place(id.as_bytes(), self.entries.len())).filter(|caller| caller.id == id)
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Caller> {
        self.callers.iter()
    }

    pub fn len(&self) -> usize {
        self.callers.len()
    }

    pub fn is_empty(&self) -> bool {
        self.callers.is_empty()
    }

    /// Gives each caller what it has not of itself, before the table is published: the limits that hold for all of its
    /// name, where it has none of its own, and the line that its use is counted in.
    ///
    /// # Errors
    /// There is no line left: this process has been given too many names.
    pub fn complete(&mut self, quotas: &Quotas, roll: &mut LineRoll) -> Result<(), NoLine> {
        for caller in &mut self.callers {
            if let Some(common) = first(&quotas.callers, &caller.name) {
                caller.allowance = caller.allowance.over(common);
            }
            if !caller.allowance.limits.is_empty() {
                caller.line = roll.enrol(&format!("caller/{}", caller.id)).ok_or(NoLine)?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Callers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// From an id to its place, in a time that does not depend on whether it has one.
struct Index {
    /// As many as a power of two.
    buckets: Box<[Bucket]>,
    seed: u64,
}

/// One cache line, always read whole. A slot is the upper half of an id's hash, and its place counted from 1; or zero.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Bucket([u64; SLOTS]);

const SLOTS: usize = 8;
/// Seeds that are tried before there are twice as many buckets. With one caller a bucket on average, and 100,000 of them,
/// about six seeds of seven give every caller a slot.
const SEEDS_PER_SIZE: u64 = 8;

impl Index {
    /// `entries` have ids that differ.
    fn of(entries: &[Entry]) -> Self {
        let mut buckets = entries.len().next_power_of_two();
        for seed in 1.. {
            if let Some(index) = Self::with(entries, buckets, seed) {
                return index;
            }
            if seed % SEEDS_PER_SIZE == 0 {
                buckets *= 2;
            }
        }
        Self { buckets: Box::new([Bucket([0; SLOTS])]), seed: 0 }
    }

    /// `None` if a bucket overflows, or if two ids could not be told apart by their slots.
    fn with(entries: &[Entry], buckets: usize, seed: u64) -> Option<Self> {
        let mut index = Self { buckets: vec![Bucket([0; SLOTS]); buckets].into(), seed };
        for (place, entry) in (1..=u32::MAX).zip(entries) {
            let hash = index.hash(&entry.id);
            let bucket = index.bucket(hash);
            let slots = &mut index.buckets[bucket].0;
            if slots.iter().any(|slot| *slot != 0 && tag(*slot) == tag(hash)) {
                return None;
            }
            *slots.iter_mut().find(|slot| **slot == 0)? = hash & TAG | u64::from(place);
        }
        Some(index)
    }

    /// Where the entry of this id is, if it has one; otherwise any place below `count`. Every slot of one bucket is read,
    /// and nothing branches on what is in it.
    fn place(&self, id: &[u8; 16], count: usize) -> usize {
        let hash = self.hash(id);
        let mut found = 0;
        for slot in self.buckets[self.bucket(hash)].0 {
            let is_it = u64::from(tag(slot) == tag(hash));
            found |= slot & !TAG & is_it.wrapping_neg();
        }
        // An upper part of the hash, scaled: any other caller, always the same for the same id.
        let other = ((hash.rotate_left(17) & !TAG) * count as u64) >> 32;
        let is_found = black_box(u64::from(found != 0).wrapping_neg());
        let place = found.wrapping_sub(1) & is_found | other & !is_found;
        usize::try_from(place).unwrap_or(0)
    }

    fn bucket(&self, hash: u64) -> usize {
        usize::try_from(hash & !TAG).unwrap_or(0) & (self.buckets.len() - 1)
    }

    /// Ids are drawn here, not chosen by who shows them, so all that is asked of this is to spread them.
    fn hash(&self, id: &[u8; 16]) -> u64 {
        let [low, high] = [0, 1].map(|half| u64::from_le_bytes(id.as_chunks::<8>().0[half]));
        let seed = self.seed.wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let folded = fold(low ^ 0x9e37_79b9_7f4a_7c15, high ^ seed);
        fold(folded, 0x94d0_49bb_1331_11eb)
    }
}

/// Both halves of a product: every bit of it depends on most of both.
fn fold(a: u64, b: u64) -> u64 {
    let (low, high) = a.carrying_mul(b, 0);
    low ^ high
}

/// The half of a hash that a slot keeps; the other half chooses the bucket, and in a slot is the place.
const TAG: u64 = !0 << 32;

const fn tag(slot: u64) -> u64 {
    slot & TAG
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::wire::token::{parse, render};

    /// A caller who may do everything, and who is nobody in particular.
    pub(crate) fn caller(id: TokenId) -> Caller {
        Caller {
            id,
            name: id.as_str().into(),
            expires_unix_ms: None,
            enabled: true,
            models: Box::default(),
            routes: Box::default(),
            endpoints: None,
            access: None,
            allowance: Allowance::default(),
            line: Line(0),
            caps: Caps::default(),
            on_disconnect: None,
            tags: Box::default(),
            log_payload: None,
        }
    }

    fn id(number: u32) -> TokenId {
        let mut chance = [0; 10];
        chance[..4].copy_from_slice(&number.to_le_bytes());
        TokenId::draw(&chance)
    }

    const SECRET: [u8; 32] = [0x5a; 32];

    fn key() -> DigestKey {
        DigestKey::new(&[9; 32])
    }

    fn digests(id: TokenId) -> Digests {
        Digests { current: key().digest_of(id, &SECRET), former: None }
    }

    fn table(count: u32) -> Callers {
        let callers = (0..count).map(|number| (caller(id(number)), digests(id(number)))).collect();
        Callers::new(key(), callers).expect("all differ")
    }

    fn shows(
        callers: &Callers,
        id: TokenId,
        secret: &[u8; 32],
        unix_ms: u64,
    ) -> Result<TokenId, NotAuthentic> {
        let text = render(id, secret);
        let token = parse(text.as_bytes()).expect("a token");
        callers.authenticate(&token, unix_ms).map(|caller| caller.id)
    }

    #[test]
    fn each_caller_is_found_by_their_own_token_alone() {
        for count in [0, 1, 2, 3, 9, 100, 3_000] {
            let callers = table(count);
            for number in 0..count {
                assert_eq!(shows(&callers, id(number), &SECRET, 0), Ok(id(number)), "{number} of {count}");
                assert_eq!(callers.get(id(number)).map(|caller| caller.id), Some(id(number)));
            }
            for number in count..count + 100 {
                assert_eq!(shows(&callers, id(number), &SECRET, 0), Err(NotAuthentic::Unknown));
                assert!(callers.get(id(number)).is_none());
            }
        }
    }

    #[test]
    fn any_wrong_bit_of_the_secret_lets_nobody_in() {
        let callers = table(2);
        for bit in 0..256 {
            let mut secret = SECRET;
            secret[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(shows(&callers, id(1), &secret, 0), Err(NotAuthentic::Unknown), "{bit}");
        }
        let other =
            Callers::new(DigestKey::new(&[8; 32]), vec![(caller(id(1)), digests(id(1)))]).expect("one");
        assert_eq!(
            shows(&other, id(1), &SECRET, 0),
            Err(NotAuthentic::Unknown),
            "another installation's digest"
        );
        let moved = Callers::new(key(), vec![(caller(id(1)), digests(id(0)))]).expect("one");
        assert_eq!(shows(&moved, id(1), &SECRET, 0), Err(NotAuthentic::Unknown), "another caller's digest");
    }

    #[test]
    fn nobody_is_in_an_empty_table_whatever_is_shown() {
        let callers = Callers::nobody();
        for secret in [[0; 32], SECRET] {
            assert_eq!(shows(&callers, id(0), &secret, 0), Err(NotAuthentic::Unknown));
        }
    }

    #[test]
    fn disabled_and_expired_are_told_to_who_holds_the_secret_only() {
        let mut one = caller(id(1));
        one.expires_unix_ms = Some(1_000);
        let callers = Callers::new(key(), vec![(one.clone(), digests(id(1)))]).expect("one");
        assert_eq!(shows(&callers, id(1), &SECRET, 999), Ok(id(1)));
        assert_eq!(shows(&callers, id(1), &SECRET, 1_000), Err(NotAuthentic::Expired));
        assert_eq!(shows(&callers, id(1), &[0; 32], 1_000), Err(NotAuthentic::Unknown));
        one.enabled = false;
        let callers = Callers::new(key(), vec![(one, digests(id(1)))]).expect("one");
        assert_eq!(shows(&callers, id(1), &SECRET, 0), Err(NotAuthentic::Disabled));
        assert_eq!(shows(&callers, id(1), &SECRET, 1_000), Err(NotAuthentic::Disabled));
        assert_eq!(shows(&callers, id(1), &[0; 32], 0), Err(NotAuthentic::Unknown));
    }

    #[test]
    fn the_token_before_a_rotation_is_good_until_its_end_and_not_a_moment_longer() {
        let former = key().digest_of(id(1), &[1; 32]);
        let digests = Digests { former: Some((former, 500)), ..digests(id(1)) };
        let callers = Callers::new(key(), vec![(caller(id(1)), digests)]).expect("one");
        assert_eq!(shows(&callers, id(1), &[1; 32], 499), Ok(id(1)));
        assert_eq!(shows(&callers, id(1), &[1; 32], 500), Err(NotAuthentic::Unknown));
        assert_eq!(shows(&callers, id(1), &SECRET, 499), Ok(id(1)));
        assert_eq!(shows(&callers, id(1), &SECRET, 500), Ok(id(1)));
    }

    #[test]
    fn who_is_remembered_is_judged_by_what_holds_now() {
        let text = render(id(1), &SECRET);
        let token = parse(text.as_bytes()).expect("a token");
        let memo = Memo::default();
        let shows = |callers: &Callers, unix_ms| {
            callers.authenticate_again(&token, &memo, unix_ms).map(|caller| caller.id)
        };
        let table_of =
            |key: DigestKey, caller, digests| Callers::new(key, vec![(caller, digests)]).expect("one");
        let callers = table(3);
        for _ in 0..2 {
            assert_eq!(shows(&callers, 0), Ok(id(1)));
        }
        let mut other = caller(id(1));
        other.expires_unix_ms = Some(1_000);
        let expires = table_of(callers.key.clone(), other.clone(), digests(id(1)));
        assert_eq!(shows(&expires, 999), Ok(id(1)));
        assert_eq!(shows(&expires, 1_000), Err(NotAuthentic::Expired));
        other.enabled = false;
        let disabled = table_of(callers.key.clone(), other, digests(id(1)));
        assert_eq!(shows(&disabled, 0), Err(NotAuthentic::Disabled));
        let rotated = Digests {
            current: key().digest_of(id(1), &[1; 32]),
            former: Some((digests(id(1)).current, 500)),
        };
        let rotated = table_of(callers.key.clone(), caller(id(1)), rotated);
        assert_eq!(shows(&rotated, 499), Ok(id(1)));
        assert_eq!(shows(&rotated, 500), Err(NotAuthentic::Unknown));
        let gone = table_of(callers.key.clone(), caller(id(2)), digests(id(2)));
        assert_eq!(shows(&gone, 0), Err(NotAuthentic::Unknown));
        assert_eq!(shows(&Callers::nobody(), 0), Err(NotAuthentic::Unknown));
        // The same bytes in another key's table: hashed anew, and found.
        let moved = DigestKey::new(&[8; 32]);
        let current = moved.digest_of(id(1), &SECRET);
        let moved = table_of(moved, caller(id(1)), Digests { current, former: None });
        assert_eq!(shows(&moved, 0), Ok(id(1)));
        assert_eq!(shows(&callers, 0), Ok(id(1)));
    }

    #[test]
    fn a_token_that_let_nobody_in_is_not_remembered() {
        let callers = table(3);
        let memo = Memo::default();
        for (id, secret) in [(id(1), [0; 32]), (id(9), SECRET)] {
            let text = render(id, &secret);
            let token = parse(text.as_bytes()).expect("a token");
            assert!(callers.authenticate_again(&token, &memo, 0).is_err());
            assert!(memo.digest(&token, &callers.key).is_none());
        }
    }

    #[test]
    fn two_callers_with_one_id_are_refused() {
        let twice = vec![
            (caller(id(1)), digests(id(1))),
            (caller(id(2)), digests(id(2))),
            (caller(id(1)), digests(id(1))),
        ];
        assert_eq!(Callers::new(key(), twice).map(|_| ()), Err(SameId(id(1))));
    }

    #[test]
    fn endpoints_are_a_set() {
        let set: Endpoints = [Endpoint::Embeddings, Endpoint::Model].into_iter().collect();
        for endpoint in Endpoint::ALL {
            assert_eq!(set.contains(endpoint), matches!(endpoint, Endpoint::Embeddings | Endpoint::Model));
        }
        assert_eq!(set.iter().count(), 2);
    }

    #[test]
    fn a_table_crosses_threads_and_says_no_digest() {
        fn crosses<T: Send + Sync>() {}
        crosses::<Callers>();
        assert!(!format!("{:?}", table(1)).contains("igest"));
    }
}
