//! The id by which a request is found in logs, and by which its client asks about it: the client's own, if that is fit, else
//! one of ours. Ours is a UUIDv7: it sorts by time, and every log tool knows it.
//!
//! Invariant: an id is visible ASCII without a space; it can be logged, searched and sent on as it is.

use super::http1::render::FieldText;
use crate::base::hex;

/// A request's id; empty until its head was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestId(Id);

// Ours lies in place, as it is made for nearly every request.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Id {
    Ours([u8; UUID_BYTES]),
    Theirs(Box<str>),
}

const UUID_BYTES: usize = 36;

impl Default for Id {
    fn default() -> Self {
        Self::Theirs(Box::default())
    }
}

impl RequestId {
    /// The client's own, if it is short and made of letters, digits, hyphens and underscores.
    pub fn theirs(id: &[u8]) -> Option<Self> {
        let is_fit = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        let id = std::str::from_utf8(id).ok()?;
        ((1..=128).contains(&id.len()) && id.bytes().all(is_fit)).then(|| Self(Id::Theirs(id.into())))
    }

    /// One for a request whose client gave none.
    pub fn fresh(unix_ms: u64, chance: [u64; 2]) -> Self {
        Self(Id::Ours(uuid_v7(unix_ms, chance)))
    }

    pub fn is_empty(&self) -> bool {
        self.value().is_empty()
    }

    /// Made here: there is nothing in it that one would have to hide.
    pub fn is_ours(&self) -> bool {
        matches!(self.0, Id::Ours(_))
    }

    pub fn as_str(&self) -> &str {
        match &self.0 {
            Id::Ours(id) => std::str::from_utf8(id).unwrap_or_default(),
            Id::Theirs(id) => id,
        }
    }
}

impl FieldText for RequestId {
    fn value(&self) -> &[u8] {
        match &self.0 {
            Id::Ours(id) => id,
            Id::Theirs(id) => id.as_bytes(),
        }
    }
}

/// RFC 9562 §5.7: 48 bits of time, then chance around the version (7) and the variant (binary 10).
fn uuid_v7(unix_ms: u64, chance: [u64; 2]) -> [u8; UUID_BYTES] {
    let high = unix_ms << 16 | 0x7000 | chance[0] & 0x0fff;
    let low = 1 << 63 | chance[1] >> 2;
    let ([a, b], [c, d]) = (halves(high), halves(low));
    let [a, b, c, d] = [a, b, c, d].map(hex::digits);
    let mut text = [b'-'; UUID_BYTES];
    text[..8].copy_from_slice(&a);
    text[9..13].copy_from_slice(&b[..4]);
    text[14..18].copy_from_slice(&b[4..]);
    text[19..23].copy_from_slice(&c[..4]);
    text[24..28].copy_from_slice(&c[4..]);
    text[28..].copy_from_slice(&d);
    text
}

/// The upper and the lower.
fn halves(number: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = number.to_be_bytes();
    [u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h])]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever it is.
    impl From<&str> for RequestId {
        fn from(id: &str) -> Self {
            Self(Id::Theirs(id.into()))
        }
    }

    #[test]
    fn a_fresh_id_is_the_uuid_of_its_moment() {
        #[track_caller]
        fn check(unix_ms: u64, chance: [u64; 2], expect: &str) {
            let ours = RequestId::fresh(unix_ms, chance);
            assert_eq!(ours.value(), expect.as_bytes());
            let theirs = RequestId::theirs(ours.value()).expect("it is fit");
            assert_eq!(theirs.as_str(), ours.as_str());
        }
        // The example of RFC 9562, appendix A.6.
        let chance = [0x0cc3, 0x18c4_dc0c_0c07_398f << 2];
        check(0x017f_22e2_79b0, chance, "017f22e2-79b0-7cc3-98c4-dc0c0c07398f");
        check(0, [0, 0], "00000000-0000-7000-8000-000000000000");
        check((1 << 48) - 1, [u64::MAX; 2], "ffffffff-ffff-7fff-bfff-ffffffffffff");
    }

    #[test]
    fn a_clients_id_is_taken_if_it_can_be_sent_on_as_it_is() {
        #[track_caller]
        fn check(id: &[u8], is_fit: bool) {
            let taken = RequestId::theirs(id);
            assert_eq!(taken.as_ref().map(FieldText::value), is_fit.then_some(id));
        }
        check(b"0193-abc_D", true);
        check(&[b'x'; 128], true);
        check(b"", false);
        check(&[b'x'; 129], false);
        for ill in [&b"a b"[..], b"a\"", b"a\r\n", b"a.b", b"\xc3\xa4", b"a\xff"] {
            check(ill, false);
        }
    }
}
