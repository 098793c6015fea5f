//! The id by which a request is found in logs, and by which its client asks about it. One that is made here is a UUIDv7:
//! it sorts by time, and every log tool knows it.
//!
//! An id is visible ASCII without a space: it can be logged, searched and sent on as it is.

use super::seam::World;

/// A client's own id is taken if it is short and made of letters, digits, hyphens and underscores.
pub(super) fn is_fit(id: &str) -> bool {
    (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

/// An id for a request whose client gave none.
pub(super) fn fresh<W: World>(world: &W) -> Box<str> {
    let text = uuid_v7(world.unix_ms(), [world.random(), world.random()]);
    std::str::from_utf8(&text).unwrap_or_default().into()
}

/// RFC 9562 §5.7: 48 bits of time, then chance around the version (7) and the variant (binary 10).
fn uuid_v7(unix_ms: u64, chance: [u64; 2]) -> [u8; 36] {
    let high = unix_ms << 16 | 0x7000 | chance[0] & 0x0fff;
    let low = 1 << 63 | chance[1] >> 2;
    let [a, b, c, d] = [high >> 32, high, low >> 32, low].map(|half| hex(half & 0xffff_ffff));
    let mut text = [b'-'; 36];
    text[..8].copy_from_slice(&a);
    text[9..13].copy_from_slice(&b[..4]);
    text[14..18].copy_from_slice(&b[4..]);
    text[19..23].copy_from_slice(&c[..4]);
    text[24..28].copy_from_slice(&c[4..]);
    text[28..].copy_from_slice(&d);
    text
}

/// The eight digits of a number of 32 bits, all at once: a byte for each, then its letter or numeral.
fn hex(number: u64) -> [u8; 8] {
    const fn each(byte: u8) -> u64 {
        u64::from_ne_bytes([byte; 8])
    }
    let spread = (number << 16 | number) & 0x0000_ffff_0000_ffff;
    let spread = (spread << 8 | spread) & 0x00ff_00ff_00ff_00ff;
    let digits = (spread << 4 | spread) & each(0x0f);
    let letters = (digits + each(6)) >> 4 & each(1);
    (digits + each(b'0') + letters * u64::from(b'a' - b'9' - 1)).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_id_is_the_uuid_of_its_moment() {
        let text = |unix_ms, chance| String::from_utf8(uuid_v7(unix_ms, chance).to_vec()).expect("ASCII");
        // The example of RFC 9562, appendix A.6.
        let chance = [0x0cc3, 0x18c4_dc0c_0c07_398f << 2];
        assert_eq!(text(0x017f_22e2_79b0, chance), "017f22e2-79b0-7cc3-98c4-dc0c0c07398f");
        assert_eq!(text(0, [0, 0]), "00000000-0000-7000-8000-000000000000");
        assert_eq!(text((1 << 48) - 1, [u64::MAX; 2]), "ffffffff-ffff-7fff-bfff-ffffffffffff");
        assert!(is_fit(&text(0x017f_22e2_79b0, chance)));
    }

    #[test]
    fn every_digit_has_its_letter_in_every_place() {
        for digit in 0..16u64 {
            for place in 0..8 {
                let number = digit << (place * 4);
                assert_eq!(hex(number), *format!("{number:08x}").as_bytes());
            }
        }
    }

    #[test]
    fn a_clients_own_id_is_taken_where_it_cannot_be_misread() {
        for good in ["a", "req_1-B", &"a".repeat(128)] {
            assert!(is_fit(good), "{good}");
        }
        for bad in ["", "a b", "a\n", "a.b", "é", &"a".repeat(129)] {
            assert!(!is_fit(bad), "{bad}");
        }
    }
}
