//! Hexadecimal digits, small letters.

/// The eight digits of a number of 32 bits, all at once: a byte for each, then its letter or numeral.
pub fn digits(number: u32) -> [u8; 8] {
    const fn each(byte: u8) -> u64 {
        u64::from_ne_bytes([byte; 8])
    }
    let number = u64::from(number);
    let spread = (number << 16 | number) & 0x0000_ffff_0000_ffff;
    let spread = (spread << 8 | spread) & 0x00ff_00ff_00ff_00ff;
    let digits = (spread << 4 | spread) & each(0x0f);
    let letters = (digits + each(6)) >> 4 & each(1);
    (digits + each(b'0') + letters * u64::from(b'a' - b'9' - 1)).to_be_bytes()
}

/// The digits of bytes, two for each, as many as there are places for.
pub fn put(bytes: &[u8], places: &mut [u8]) {
    let (fours, rest) = bytes.as_chunks();
    let (eights, few) = places.as_chunks_mut();
    for (four, eight) in fours.iter().zip(eights) {
        *eight = digits(u32::from_be_bytes(*four));
    }
    for (byte, pair) in rest.iter().zip(few.as_chunks_mut().0) {
        let [.., tens, ones] = digits(u32::from(*byte));
        *pair = [tens, ones];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_digit_has_its_letter_in_every_place() {
        for digit in 0..16_u32 {
            for place in 0..8 {
                let number = digit << (place * 4);
                assert_eq!(digits(number), *format!("{number:08x}").as_bytes());
            }
        }
    }

    #[test]
    fn bytes_of_any_number_have_two_digits_each() {
        let bytes: Vec<u8> = (0..=255).step_by(7).collect();
        for count in 0..bytes.len() {
            let expect: String = bytes[..count].iter().map(|byte| format!("{byte:02x}")).collect();
            let mut places = vec![0; count * 2];
            put(&bytes[..count], &mut places);
            assert_eq!(places, expect.as_bytes());
        }
    }
}
