//! The gateway token, `rw_<id>_<secret>`, and the keyed digest that is kept of it.
//!
//! A token has exactly one spelling: what parses renders to the same bytes. The secret's 256 bits are written in base32
//! (RFC 4648 §6, lower case, no padding), so that neither `_` nor anything a shell, a URL or a header reads twice is in it.
//! Only a digest under a key of this installation is kept, bound to the id: a stolen table lets nobody in, and a digest
//! moved to another caller's row fits nothing.

use std::{fmt, sync::Arc};

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
    if prefix != PREFIX || dash != b"_" || !is_id(id) {
        return None;
    }
    Some(Token { id: TokenId(*id), text: secret, secret: decode(secret)? })
}

/// A text that has the form of a token.
#[derive(Clone)]
pub struct Token<'a> {
    pub id: TokenId,
    text: &'a [u8; SECRET_TEXT_BYTES],
    secret: Zeroizing<[u8; SECRET_BYTES]>,
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
        self.digest_of(token.id, &token.secret)
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

/// Without a branch on any character: the processor would learn the ids that are seen most, and be quicker with them.
fn is_id(id: &[u8; ID_BYTES]) -> bool {
    id.iter().fold(true, |good, byte| good & (byte.is_ascii_lowercase() | byte.is_ascii_digit()))
}

const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// A character's five bits; 0xff for what is none.
const VALUES: [u8; 256] = {
    let mut values = [0xff; 256];
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

/// Without a branch on any character before the last was read: the time does not tell which one was wrong.
fn decode(text: &[u8; SECRET_TEXT_BYTES]) -> Option<Zeroizing<[u8; SECRET_BYTES]>> {
    let mut secret = Zeroizing::new([0; SECRET_BYTES]);
    let mut wrong = 0;
    // Eight characters are five bytes; six times, and four characters are left for the last two.
    let (groups, tail) = text.as_chunks::<8>();
    for (group, bytes) in groups.iter().zip(secret.chunks_exact_mut(5)) {
        let mut bits = 0u64;
        for character in group {
            let value = VALUES[usize::from(*character)];
            wrong |= value;
            bits = bits << 5 | u64::from(value & 31);
        }
        bytes.copy_from_slice(&bits.to_be_bytes()[3..]);
    }
    let mut bits = 0u32;
    for character in tail {
        let value = VALUES[usize::from(*character)];
        wrong |= value;
        bits = bits << 5 | u32::from(value & 31);
    }
    secret[30..].copy_from_slice(&(bits >> 4).to_be_bytes()[2..]);
    (wrong < 32 && bits & 15 == 0).then_some(secret)
}

/// What parses is spelled the one way there is.
#[cfg(any(test, feature = "fuzzing"))]
pub fn fuzz_token(data: &[u8]) {
    if let Some(token) = parse(data) {
        assert_eq!(render(token.id, &token.secret).as_bytes(), data);
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
        assert_eq!((token.id, *token.secret), (id, counting()));
        for secret in [[0; 32], [0xff; 32]] {
            let text = render(id, &secret);
            assert_eq!(*parse(text.as_bytes()).expect("a token").secret, secret);
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
