//! The gateway token, `rw_<id>_<secret>`, and the keyed digest that is kept of it.
//!
//! A token has exactly one spelling: what parses renders to the same bytes. The secret's 256 bits are written in base32
//! (RFC 4648 §6, lower case, no padding), so that neither `_` nor anything a shell, a URL or a header reads twice is in it.
//! Only a digest under a key of this installation is kept, bound to the id: a stolen table lets nobody in, and a digest
//! moved to another caller's row fits nothing.

use std::{cell::Cell, fmt, sync::Arc};

use aws_lc_rs::hmac;
use zeroize::Zeroizing;

/// What every token begins with.
pub const PREFIX: &[u8; 3] = b"rw_";
pub const ID_BYTES: usize = 16;
/// 256 bits, five a character; the last character carries one bit and four zeros.
pub const SECRET_TEXT_BYTES: usize = 52;
pub const SECRET_BYTES: usize = 32;
pub const TOKEN_BYTES: usize = PREFIX.len() + ID_BYTES + 1 + SECRET_TEXT_BYTES;
const _: () = assert!(SECRET_TEXT_BYTES == (SECRET_BYTES * 8).div_ceil(5));
/// Random bytes that one id is made of: 80 bits.
pub const ID_CHANCE_BYTES: usize = ID_BYTES * 5 / 8;

/// The form of a token, met by these bytes. Whether anyone has it is another question.
pub fn parse(text: &[u8]) -> Option<Token<'_>> {
    let text: &[u8; TOKEN_BYTES] = text.try_into().ok()?;
    let (prefix, rest) = text.split_first_chunk::<3>()?;
    let (id, rest) = rest.split_first_chunk::<ID_BYTES>()?;
    let (dash, secret) = rest.split_first_chunk::<1>()?;
    let secret: &[u8; SECRET_TEXT_BYTES] = secret.try_into().ok()?;
    let is_token = prefix == PREFIX && dash == b"_" && is_id(id) && is_secret(secret);
    is_token.then_some(Token { id: TokenId(*id), text: secret })
}

/// A text that has the form of a token.
#[derive(Clone, Copy)]
pub struct Token<'a> {
    pub id: TokenId,
    text: &'a [u8; SECRET_TEXT_BYTES],
}

/// Equal when every byte is. Both sides come from the same client: there is nothing to learn from the time it takes.
impl PartialEq for Token<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id && self.text == other.text
    }
}

impl Eq for Token<'_> {}

impl fmt::Debug for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rw_{}_[secret]", self.id)
    }
}

/// The part of a token that is not secret: which caller it claims to be.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId([u8; ID_BYTES]);

impl TokenId {
    /// `[a-z0-9]`, sixteen of them.
    pub fn parse(text: &str) -> Option<Self> {
        let id: &[u8; ID_BYTES] = text.as_bytes().try_into().ok()?;
        is_id(id).then_some(Self(*id))
    }

    /// An id from bytes drawn at random.
    pub fn draw(chance: &[u8; ID_CHANCE_BYTES]) -> Self {
        let mut id = [0; ID_BYTES];
        encode(chance, &mut id);
        Self(id)
    }

    pub fn as_bytes(&self) -> &[u8; ID_BYTES] {
        &self.0
    }

    pub fn as_str(&self) -> &str {
        // ASCII by construction.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The whole token, to be shown once. `secret` was drawn at random.
pub fn render(id: TokenId, secret: &[u8; SECRET_BYTES]) -> Zeroizing<String> {
    let mut text = Zeroizing::new([0; SECRET_TEXT_BYTES]);
    encode(secret, &mut *text);
    let mut token = Zeroizing::new(String::with_capacity(TOKEN_BYTES));
    token.push_str("rw_");
    token.push_str(id.as_str());
    token.push('_');
    token.extend(text.iter().map(|byte| char::from(*byte)));
    token
}

/// What is kept of a token. Not secret by itself, but nobody's business either.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Whether they are the same, in a time that does not tell where they differ.
    pub fn is(&self, other: &Self) -> bool {
        aws_lc_rs::constant_time::verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[digest]")
    }
}

/// The key that digests are made with, one per installation.
#[derive(Clone)]
pub struct DigestKey(Arc<hmac::Key>);

impl DigestKey {
    pub fn new(key: &[u8; 32]) -> Self {
        Self(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, key)))
    }

    /// HMAC-SHA256 of the id and the secret's bits: 48 bytes, one block.
    pub fn digest(&self, token: &Token<'_>) -> Digest {
        self.digest_of(token.id, &decode(token.text))
    }

    /// The same for a token that was just drawn.
    pub fn digest_of(&self, id: TokenId, secret: &[u8; SECRET_BYTES]) -> Digest {
        let mut message = Zeroizing::new([0; ID_BYTES + SECRET_BYTES]);
        message[..ID_BYTES].copy_from_slice(&id.0);
        message[ID_BYTES..].copy_from_slice(secret);
        self.tag(&*message)
    }

    /// Tells this key from any other, and nothing else about it.
    pub fn check_value(&self) -> Digest {
        self.tag(b"ringway: which digest key")
    }

    fn tag(&self, message: &[u8]) -> Digest {
        let mut digest = [0; 32];
        let made = hmac::sign_to_buffer(&self.0, message, &mut digest);
        debug_assert!(made.is_ok(), "HMAC-SHA256 is 32 bytes long");
        Digest(digest)
    }
}

impl fmt::Debug for DigestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// The token that a connection showed last, and its digest. Who shows the same again is spared the hashing, and nothing else:
/// the digest is compared with what is kept now, as if it had been made anew.
#[derive(Default)]
pub struct Memo(Cell<Option<Box<Shown>>>);

struct Shown {
    id: TokenId,
    text: Zeroizing<[u8; SECRET_TEXT_BYTES]>,
    key: DigestKey,
    digest: Digest,
}

impl Memo {
    /// The digest of `token` under `key`, if that is what is remembered.
    pub fn digest(&self, token: &Token<'_>, key: &DigestKey) -> Option<Digest> {
        let shown = self.0.take()?;
        // Every byte, and no early way out: a proxy may send what several clients show over one connection.
        let different = std::iter::zip(&*shown.text, token.text).fold(0, |bits, (a, b)| bits | (a ^ b));
        let is_it = (different == 0) & (shown.id == token.id) & Arc::ptr_eq(&shown.key.0, &key.0);
        let digest = is_it.then_some(shown.digest);
        self.0.set(Some(shown));
        digest
    }

    /// Remembers this one, and no other. Only of a token that was good: nobody else's text is kept.
    pub fn remember(&self, token: &Token<'_>, key: &DigestKey, digest: Digest) {
        let text = Zeroizing::new(*token.text);
        self.0.set(Some(Box::new(Shown { id: token.id, text, key: key.clone(), digest })));
    }
}

impl fmt::Debug for Memo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// Without a branch on any character: the processor would learn the ids that are seen most, and be quicker with them.
fn is_id(id: &[u8; ID_BYTES]) -> bool {
    id.iter().fold(true, |good, byte| good & (byte.is_ascii_lowercase() | byte.is_ascii_digit()))
}

const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// A character's five bits; zero for what is none.
const VALUES: [u8; 256] = {
    let mut values = [0; 256];
    let mut value = 0u8;
    while value < 32 {
        values[ALPHABET[value as usize] as usize] = value;
        value += 1;
    }
    values
};

/// Five bits a character, the highest first; what is left over of the last is zero.
fn encode(bytes: &[u8], text: &mut [u8]) {
    debug_assert_eq!(text.len(), (bytes.len() * 8).div_ceil(5), "every bit has its place");
    let (mut bits, mut count, mut next) = (0u32, 0u32, bytes.iter());
    for character in text {
        if count < 5 {
            bits = bits << 8 | u32::from(next.next().copied().unwrap_or(0));
            count += 8;
        }
        count -= 5;
        *character = ALPHABET[(bits >> count & 31) as usize];
        bits &= (1 << count) - 1;
    }
}

/// Whether it is spelled as [`encode`] spells. Without a branch on any character: the time does not tell which one was wrong.
fn is_secret(text: &[u8; SECRET_TEXT_BYTES]) -> bool {
    let is_known = |byte: &u8| byte.is_ascii_lowercase() | (b'2'..=b'7').contains(byte);
    let is_spelled = text.iter().fold(true, |good, byte| good & is_known(byte));
    let last = text[SECRET_TEXT_BYTES - 1];
    // One bit is all that the last character may say.
    is_spelled & ((last == ALPHABET[0]) | (last == ALPHABET[16]))
}

/// The bits of what [`is_secret`].
fn decode(text: &[u8; SECRET_TEXT_BYTES]) -> Zeroizing<[u8; SECRET_BYTES]> {
    let mut secret = Zeroizing::new([0; SECRET_BYTES]);
    // Eight characters are five bytes; six times, and four characters are left for the last two.
    let (groups, tail) = text.as_chunks::<8>();
    for (group, bytes) in groups.iter().zip(secret.chunks_exact_mut(5)) {
        let bits =
            group.iter().fold(0, |bits, character| bits << 5 | u64::from(VALUES[usize::from(*character)]));
        bytes.copy_from_slice(&bits.to_be_bytes()[3..]);
    }
    let bits = tail.iter().fold(0, |bits, character| bits << 5 | u32::from(VALUES[usize::from(*character)]));
    secret[30..].copy_from_slice(&(bits >> 4).to_be_bytes()[2..]);
    secret
}

/// What parses is spelled the one way there is.
#[cfg(any(test, feature = "fuzzing"))]
pub fn fuzz_token(data: &[u8]) {
    if let Some(token) = parse(data) {
        assert_eq!(render(token.id, &decode(token.text)).as_bytes(), data);
        assert_eq!(TokenId::parse(token.id.as_str()), Some(token.id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "rw_abcdefghij012345_aaaqeayeaudaocajbifqydiob4ibceqtcqkrmfyydenbwha5dypq";

    fn counting() -> [u8; SECRET_BYTES] {
        std::array::from_fn(|index| u8::try_from(index).expect("below 32"))
    }

    #[test]
    fn a_token_reads_as_it_was_written() {
        let id = TokenId::parse("abcdefghij012345").expect("an id");
        let rendered = render(id, &counting());
        assert_eq!(rendered.as_str(), GOOD);
        let token = parse(GOOD.as_bytes()).expect("a token");
        assert_eq!((token.id, *decode(token.text)), (id, counting()));
        for secret in [[0; 32], [0xff; 32]] {
            let text = render(id, &secret);
            assert_eq!(*decode(parse(text.as_bytes()).expect("a token").text), secret);
        }
    }

    #[test]
    fn an_id_is_drawn_from_chance() {
        assert_eq!(TokenId::draw(&[0; 10]).as_str(), "aaaaaaaaaaaaaaaa");
        assert_eq!(TokenId::draw(&[0xff; 10]).as_str(), "7777777777777777");
        assert_eq!(TokenId::draw(b"0123456789").as_str(), "gaytemzugu3doobz");
    }

    #[test]
    fn nothing_but_the_one_spelling_is_a_token() {
        let changed = |from: &str, to: &str| GOOD.replacen(from, to, 1);
        for wrong in [
            String::new(),
            "rw_".to_owned(),
            format!(" {GOOD}"),
            format!("{GOOD} "),
            format!("{GOOD}a"),
            GOOD[..GOOD.len() - 1].to_owned(),
            changed("rw_", "RW_"),
            changed("rw_", "sk-"),
            changed("abcdefghij", "Abcdefghij"),
            changed("abcdefghij", "abcde-ghij"),
            changed("345_", "345-"),
            changed("_aaaq", "_Aaaq"),
            changed("_aaaq", "_1aaq"),
            changed("_aaaq", "_0aaq"),
            changed("_aaaq", "_a_aq"),
            changed("_aaaq", "_a=aq"),
            // The same 256 bits with something in the four that must be zero.
            changed("dypq", "dypr"),
            changed("dypq", "dyp7"),
            changed("dypq", "dyp\u{e9}"),
        ] {
            assert!(parse(wrong.as_bytes()).is_none(), "{wrong}");
        }
    }

    #[test]
    fn a_digest_depends_on_the_key_the_id_and_every_bit() {
        let (a, b) = (DigestKey::new(&[1; 32]), DigestKey::new(&[2; 32]));
        let ids = ["abcdefghij012345", "abcdefghij012346"].map(|id| TokenId::parse(id).expect("an id"));
        let mut digests = vec![a.check_value(), b.check_value(), b.digest_of(ids[0], &counting())];
        digests.extend(ids.map(|id| a.digest_of(id, &counting())));
        for bit in 0..256 {
            let mut secret = counting();
            secret[bit / 8] ^= 1 << (bit % 8);
            digests.push(a.digest_of(ids[0], &secret));
        }
        for (index, digest) in digests.iter().enumerate() {
            assert_eq!(digests.iter().filter(|other| other.is(digest)).count(), 1, "{index}");
        }
        let token = parse(GOOD.as_bytes()).expect("a token");
        assert!(a.digest(&token).is(&a.digest_of(ids[0], &counting())));
    }

    /// RFC 4231 §4.3 checks the library; this checks that we give it what we say.
    #[test]
    fn a_digest_is_the_hmac_of_id_and_secret() {
        let key = DigestKey::new(&[7; 32]);
        let id = TokenId::parse("abcdefghij012345").expect("an id");
        let mut message = b"abcdefghij012345".to_vec();
        message.extend(counting());
        let expect = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &[7; 32]), &message);
        assert_eq!(key.digest_of(id, &counting()).0, expect.as_ref());
    }

    #[test]
    fn what_is_remembered_is_one_token_under_one_key() {
        let key = DigestKey::new(&[1; 32]);
        let token = parse(GOOD.as_bytes()).expect("a token");
        let memo = Memo::default();
        assert_eq!(memo.digest(&token, &key), None);
        memo.remember(&token, &key, key.digest(&token));
        for _ in 0..2 {
            assert_eq!(memo.digest(&token, &key), Some(key.digest(&token)));
        }
        assert_eq!(memo.digest(&token, &DigestKey::new(&[2; 32])), None);
        // Every byte counts: of the id, of the secret, and the first as the last.
        for at in (3..19).chain(20..TOKEN_BYTES) {
            let mut text = GOOD.as_bytes().to_vec();
            text[at] = if text[at] == b'a' { b'q' } else { b'a' };
            let other = parse(&text).expect("a token");
            assert_eq!(memo.digest(&other, &key), None, "{at}");
        }
        assert_eq!(memo.digest(&token, &key), Some(key.digest(&token)), "another leaves it as it is");
        let other = parse(b"rw_abcdefghij012345_aaaqeayeaudaocajbifqydiob4ibceqtcqkrmfyydenbwha5dypa")
            .expect("a token");
        memo.remember(&other, &key, key.digest(&other));
        assert_eq!((memo.digest(&token, &key), memo.digest(&other, &key)), (None, Some(key.digest(&other))));
    }

    #[test]
    fn nothing_secret_is_printed() {
        let token = parse(GOOD.as_bytes()).expect("a token");
        let key = DigestKey::new(&[1; 32]);
        let shown = format!("{token:?} {key:?} {:?}", key.digest(&token));
        assert_eq!(shown, "rw_abcdefghij012345_[secret] [secret] [digest]");
    }

    #[test]
    fn whatever_parses_is_canonical() {
        let mut chance = 0x5eed_u64;
        let mut below = |bound: usize| {
            chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(chance >> 33).expect("31 bits") % bound
        };
        for _ in 0..20_000 {
            let mut text = GOOD.as_bytes().to_vec();
            for _ in 0..=below(3) {
                let at = below(text.len());
                match below(4) {
                    0 => text[at] = u8::try_from(below(256)).expect("a byte"),
                    1 => text[at] = ALPHABET[below(32)],
                    2 => drop(text.remove(at)),
                    _ => text.insert(at, b'a'),
                }
            }
            fuzz_token(&text);
        }
        (0..GOOD.len()).for_each(|end| assert!(parse(&GOOD.as_bytes()[..end]).is_none()));
    }
}
