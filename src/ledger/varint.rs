//! Numbers as bytes: seven bits in each, least first, the eighth says that more follow. Most counts are small.

/// Appends a number.
pub fn write(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(low(number) | 0x80);
        number >>= 7;
    }
    bytes.push(low(number));
}

fn low(number: u64) -> u8 {
    number.to_le_bytes()[0]
}

/// Reads numbers from the front of some bytes.
#[derive(Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next number; `None` at the end, where one is cut, and where it has more than 64 bits or bytes of nothing.
    pub fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for (index, byte) in self.rest.iter().enumerate().take(10) {
            let bits = u64::from(byte & 0x7f);
            if index == 9 && bits > 1 {
                return None;
            }
            number |= bits << (7 * index);
            if byte & 0x80 == 0 {
                if index > 0 && bits == 0 {
                    return None;
                }
                self.rest = self.rest.get(index + 1..)?;
                return Some(number);
            }
        }
        None
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_they_were_written() {
        let numbers = [0, 1, 127, 128, 300, 1 << 32, u64::MAX - 1, u64::MAX];
        let mut bytes = Vec::new();
        numbers.iter().for_each(|number| write(&mut bytes, *number));
        let mut reader = Reader::new(&bytes);
        for number in numbers {
            assert_eq!(reader.number(), Some(number));
        }
        assert!(reader.is_empty() && reader.number().is_none());
    }

    #[test]
    fn what_is_cut_or_too_long_is_no_number() {
        for wrong in [&[][..], &[0x80], &[0xff; 9], &[0xff; 10], &[0x80, 0], &[0x80; 11]] {
            assert_eq!(Reader::new(wrong).number(), None, "{wrong:?}");
        }
        let most = [[0xff; 9].as_slice(), &[2]].concat();
        assert_eq!(Reader::new(&most).number(), None);
    }
}
