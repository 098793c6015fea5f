//! What a request is called in replies and logs: as its client calls it, if that is fit, else as we do.
//!
//! Invariant: it is ASCII that can be logged, searched and sent on as it is.

use smallvec::SmallVec;

/// A request's id; empty until its head was read. Ours fit in place, as nearly all of clients do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestId(SmallVec<[u8; 36]>);

impl RequestId {
    /// The client's own, if it is fit.
    pub fn theirs(id: &[u8]) -> Option<Self> {
        let is_fit = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        ((1..=128).contains(&id.len()) && id.iter().all(is_fit)).then(|| Self(SmallVec::from_slice(id)))
    }

    /// A UUIDv7: sorts by time, is known to every log tool.
    pub fn fresh(unix_ms: u64, chance: [u64; 2]) -> Self {
        let mut bytes = [0; 10];
        bytes[..8].copy_from_slice(&chance[0].to_ne_bytes());
        bytes[8..].copy_from_slice(&chance[1].to_ne_bytes()[..2]);
        let id = uuid::Builder::from_unix_timestamp_millis(unix_ms, &bytes).into_uuid();
        Self(SmallVec::from_buf(hyphenated(id.as_bytes())))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<&RequestId> for Box<str> {
    fn from(id: &RequestId) -> Self {
        String::from_utf8_lossy(&id.0).into()
    }
}

/// As the `uuid` crate writes it, eight digits at a time: there is one for each request.
fn hyphenated(id: &[u8; 16]) -> [u8; 36] {
    let digits = |at: usize| hex(u32::from_be_bytes([id[at], id[at + 1], id[at + 2], id[at + 3]]));
    let (b, c) = (digits(4), digits(8));
    let mut text = [b'-'; 36];
    text[..8].copy_from_slice(&digits(0));
    text[9..13].copy_from_slice(&b[..4]);
    text[14..18].copy_from_slice(&b[4..]);
    text[19..23].copy_from_slice(&c[..4]);
    text[24..28].copy_from_slice(&c[4..]);
    text[28..].copy_from_slice(&digits(12));
    text
}

/// The eight digits of a number, each in a byte of one that is as long as all of them.
fn hex(number: u32) -> [u8; 8] {
    const EACH: u64 = 0x0101_0101_0101_0101;
    let wide = u64::from(number);
    let wide = (wide | wide << 16) & 0x0000_ffff_0000_ffff;
    let wide = (wide | wide << 8) & 0x00ff_00ff_00ff_00ff;
    let halves = (wide | wide << 4) & (0x0f * EACH);
    // Six more than nine and above carries into the upper half of its byte.
    let is_letter = (halves + 6 * EACH) >> 4 & EACH;
    let digits = halves + u64::from(b'0') * EACH + is_letter * u64::from(b'a' - b'0' - 10);
    digits.to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clients_id_is_taken_if_it_can_be_sent_on_as_it_is() {
        #[track_caller]
        fn check(id: &[u8], is_fit: bool) {
            let taken = RequestId::theirs(id);
            assert_eq!(taken.as_ref().map(RequestId::as_bytes), is_fit.then_some(id));
        }
        check(b"0193-abc_D", true);
        check(&[b'x'; 128], true);
        check(b"", false);
        check(&[b'x'; 129], false);
        for ill in [&b"a b"[..], b"a\"", b"a\r\n", b"\xc3\xa4", b"a\xff"] {
            check(ill, false);
        }
    }

    #[test]
    fn ours_is_the_uuid_of_its_moment_and_chance_and_lies_in_place() {
        for number in 0..1_000_u64 {
            let (ms, chance) =
                (number * 1_234_567_891, [number.wrapping_mul(0x9e37_79b9_7f4a_7c15), !number]);
            let ours = RequestId::fresh(ms, chance);
            let text: Box<str> = (&ours).into();
            let parsed = uuid::Uuid::try_parse(&text).expect("a UUID");
            assert_eq!(parsed.hyphenated().to_string(), *text);
            assert_eq!(parsed.get_version_num(), 7);
            assert_eq!(parsed.as_u128() >> 80, u128::from(ms));
            assert!(!ours.0.spilled());
            assert!(RequestId::theirs(ours.as_bytes()).is_some());
        }
    }
}
