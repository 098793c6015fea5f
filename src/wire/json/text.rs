//! The inside of a JSON string: strict escapes, paired surrogates, no control bytes; wherever the bytes seen so far end.
//!
//! Plain stretches are skipped by blocks. Where escapes follow each other closely they are judged by blocks too, as bit masks;
//! whatever looks wrong in a block is left to the reading by single escapes, which alone decides what is refused, and where.

use super::scan::Flaw;

/// How far a string could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// Just past its closing quote.
    Ended(usize),
    /// All that is there; the string goes on at this offset, before which everything is in order.
    More(usize),
}

/// Escapes nearer to each other than this are close.
const CLOSE_BYTES: usize = 16;
/// So many simple escapes close to each other are taken for a sign of more, which are read by blocks.
const CLOSE_FIRST: u32 = 3;

/// Reads on in a string, from `at` between its quotes. Does not look at UTF-8.
#[inline(always)]
pub(super) fn read(bytes: &[u8], at: usize) -> Result<Read, Flaw> {
    // Most strings are short and hold nothing but plain text.
    let end = plain(bytes, at);
    if bytes.get(end) == Some(&b'"') { Ok(Read::Ended(end + 1)) } else { read_escapes(bytes, end) }
}

/// Reads on in a string, from what is no plain text in it.
#[inline(never)]
fn read_escapes(bytes: &[u8], mut at: usize) -> Result<Read, Flaw> {
    let (mut close, mut escaped) = (0, at); // how many were close to each other, and where the last of them ended
    loop {
        if bytes.get(at) != Some(&b'\\') {
            at = plain(bytes, at);
        }
        match bytes.get(at) {
            Some(b'"') => return Ok(Read::Ended(at + 1)),
            Some(b'\\') => {
                let is_simple = bytes.get(at + 1) != Some(&b'u');
                close = if is_simple && at - escaped < CLOSE_BYTES { close + 1 } else { 0 };
                if close > CLOSE_FIRST {
                    let reached = escapes(bytes, at);
                    if reached > at {
                        (at, escaped) = (reached, reached);
                        continue;
                    }
                }
                match escape(bytes, at)? {
                    Some(end) => (at, escaped) = (end, end),
                    None => return Ok(Read::More(at)),
                }
            }
            Some(_) => return Err(Flaw::Syntax { at }),
            None => return Ok(Read::More(at)),
        }
    }
}

/// The end of the escape at `at`; `None` if it is not all there.
fn escape(bytes: &[u8], at: usize) -> Result<Option<usize>, Flaw> {
    match bytes.get(at + 1) {
        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(Some(at + 2)),
        Some(b'u') => {
            let Some(first) = bytes[at + 2..].first_chunk() else { return Ok(None) };
            match unit(first) {
                // A surrogate counts only as half of a pair: parsers disagree on what a lone one means.
                Some(0xD800..=0xDBFF) => match bytes[at + 6..].first_chunk::<6>() {
                    None => Ok(None),
                    Some([b'\\', b'u', second @ ..]) if matches!(unit(second), Some(0xDC00..=0xDFFF)) => {
                        Ok(Some(at + 12))
                    }
                    Some([_, _, _, _, _, _]) => Err(Flaw::Syntax { at }),
                },
                None | Some(0xDC00..=0xDFFF) => Err(Flaw::Syntax { at }),
                Some(_) => Ok(Some(at + 6)),
            }
        }
        Some(_) => Err(Flaw::Syntax { at }),
        None => Ok(None),
    }
}

/// The UTF-16 unit of four hexadecimal digits.
fn unit(digits: &[u8; 4]) -> Option<u32> {
    let [a, b, c, d] = digits.map(|digit| u32::from(HEX[usize::from(digit)]));
    (a | b | c | d <= 0xF).then_some(a << 12 | b << 8 | c << 4 | d)
}

/// What a byte is worth as a hexadecimal digit; more than a digit can be if it is none.
const HEX: [u8; 256] = {
    let mut worth = [0xFF; 256];
    let mut digit = 0;
    while digit < 16 {
        let letter = b"0123456789abcdef"[digit as usize];
        worth[letter as usize] = digit;
        worth[letter.to_ascii_uppercase() as usize] = digit;
        digit += 1;
    }
    worth
};

const WORD: usize = size_of::<u64>();
/// Bytes looked at together in a long string: the compiler turns the block's loop into vector compares.
const BLOCK: usize = 64;
/// Words tried before blocks: most keys and short values end within them.
const WORDS_FIRST: usize = 4;

/// The first offset from `at` on that holds a quote, a backslash or a control byte, or the end.
pub(super) fn plain(bytes: &[u8], at: usize) -> usize {
    let mut rest = bytes.get(at..).unwrap_or_default();
    for _ in 0..WORDS_FIRST {
        let Some((word, after)) = rest.split_first_chunk::<WORD>() else { break };
        if let Some(offset) = special(word) {
            return bytes.len() - rest.len() + offset;
        }
        rest = after;
    }
    while let Some((block, after)) = rest.split_first_chunk::<BLOCK>() {
        if any_special(block) {
            break;
        }
        rest = after;
    }
    while let Some((word, after)) = rest.split_first_chunk::<WORD>() {
        if let Some(offset) = special(word) {
            return bytes.len() - rest.len() + offset;
        }
        rest = after;
    }
    let tail = rest.iter().position(|&b| b ^ QUOTE_LAST <= b' ' || b == b'\\').unwrap_or(rest.len());
    bytes.len() - rest.len() + tail
}

/// Exchanges the quote for the space. Control bytes stay below it then, and all others from the next byte on.
const QUOTE_LAST: u8 = b'"' ^ b' ';

fn any_special(block: &[u8; BLOCK]) -> bool {
    block.iter().fold(false, |found, &b| found | (b ^ QUOTE_LAST <= b' ') | (b == b'\\'))
}

/// The offset of a word's first special byte. Each test sets the high bit of bytes that pass; a borrow may also set it
/// in bytes *above* the first that passes, never below, and the lowest is the one taken.
fn special(word: &[u8; WORD]) -> Option<usize> {
    const HIGHS: u64 = every(0x80);
    const fn every(byte: u8) -> u64 {
        u64::from_ne_bytes([byte; WORD])
    }
    let word = u64::from_le_bytes(*word);
    let quote_or_control = (word ^ every(QUOTE_LAST)).wrapping_sub(every(b' ' + 1));
    let backslash = (word ^ every(b'\\')).wrapping_sub(every(1));
    let found = (quote_or_control | backslash) & !word & HIGHS;
    (found != 0).then(|| found.trailing_zeros() as usize / 8)
}

/// Skips simple escapes, and what lies between them, block by block for as long as a block holds any. Stops before whatever
/// is something else, or not in order.
fn escapes(bytes: &[u8], mut at: usize) -> usize {
    while let Some(block) = bytes.get(at..).and_then(|rest| rest.first_chunk()) {
        let (good, more) = judge(block);
        at += good;
        if !more {
            break;
        }
    }
    at
}

/// How many bytes at the beginning of a block, which starts outside of an escape, are simple escapes and plain; and whether
/// the next block is worth the same look.
fn judge(block: &[u8; BLOCK]) -> (usize, bool) {
    const BACKSLASH: u8 = 1;
    const STOP: u8 = 2;
    const SIMPLE: u8 = 4;
    let class = block.map(|b| {
        let stops = (b == b'"') | (b < 0x20);
        let simple = (b == b'"') | (b == b'\\') | (b == b'/') | (b == b'b') | (b == b'f') | (b == b'n');
        let simple = simple | (b == b'r') | (b == b't');
        let flag = |is: bool, bit: u8| if is { bit } else { 0 };
        flag(b == b'\\', BACKSLASH) | flag(stops, STOP) | flag(simple, SIMPLE)
    });
    let backslash = mask(&class, BACKSLASH);
    let escaped = escaped(backslash);
    let stop = (mask(&class, STOP) & !escaped).trailing_zeros();
    // Anything but a simple escape is left, its backslash too; so is a backslash whose second byte is in the next block.
    let left = ((escaped & !mask(&class, SIMPLE)) >> 1 | backslash & !escaped & LAST).trailing_zeros();
    let good = stop.min(left) as usize;
    (good, good >= BLOCK - 1 && backslash != 0)
}

/// The last byte's bit.
const LAST: u64 = 1 << (BLOCK - 1);

/// The bytes that a backslash stands before, which is not itself behind one: in a run of backslashes, every second.
///
/// simdjson's way: adding the odd starts of runs carries through them, and where the carry lands tells their length.
fn escaped(backslash: u64) -> u64 {
    const EVEN: u64 = 0x5555_5555_5555_5555;
    let follows = backslash << 1;
    let odd_starts = backslash & !EVEN & !follows;
    let even_ends = odd_starts.wrapping_add(backslash);
    (EVEN ^ (even_ends << 1)) & follows
}

/// One bit for each byte that has `bit`, a power of two.
fn mask(class: &[u8; BLOCK], bit: u8) -> u64 {
    /// Moves the lowest bits of eight bytes into the highest byte, in order.
    const GATHER: u64 = 0x0102_0408_1020_4080;
    let (words, _) = class.as_chunks::<WORD>();
    let lowest = u64::from_ne_bytes([1; WORD]);
    words.iter().enumerate().fold(0, |mask, (place, word)| {
        let ones = u64::from_le_bytes(*word) >> bit.trailing_zeros() & lowest;
        mask | ones.wrapping_mul(GATHER) >> (u64::BITS - u8::BITS) << (place * WORD)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::json::mutate::Chance;

    /// Reads by single escapes alone.
    fn slowly(bytes: &[u8], mut at: usize) -> Result<Read, Flaw> {
        loop {
            match bytes.get(at) {
                Some(b'"') => return Ok(Read::Ended(at + 1)),
                Some(b'\\') => match escape(bytes, at)? {
                    Some(end) => at = end,
                    None => return Ok(Read::More(at)),
                },
                Some(0..0x20) => return Err(Flaw::Syntax { at }),
                Some(_) => at += 1,
                None => return Ok(Read::More(at)),
            }
        }
    }

    #[test]
    fn a_plain_stretch_ends_before_every_special_byte_and_no_other() {
        for byte in 0..=u8::MAX {
            let is_special = matches!(byte, b'"' | b'\\' | 0..0x20);
            for at in 0..2 * BLOCK {
                for filling in [b' ', b'!', b'#', 0xFF] {
                    let mut text = [filling; 2 * BLOCK];
                    text[at] = byte;
                    let expect = if is_special { at } else { text.len() };
                    assert_eq!(plain(&text, 0), expect, "{byte:#x} at {at} among {filling:#x}");
                }
            }
        }
    }

    #[test]
    fn masks_have_one_bit_a_byte_in_order() {
        for at in 0..BLOCK {
            let mut class = [0xF7; BLOCK];
            class[at] = 0x08;
            assert_eq!(mask(&class, 8), 1 << at);
            assert_eq!(mask(&class, 1), !(1 << at));
        }
    }

    #[test]
    fn every_second_backslash_of_a_run_is_escaped() {
        for start in 0..BLOCK {
            for length in 1..=BLOCK - start {
                let run = u64::MAX >> (BLOCK - length) << start;
                let expect = (start + 1..=(start + length).min(BLOCK - 1)).filter(|at| (at - start) % 2 == 1);
                assert_eq!(escaped(run), expect.fold(0, |mask, at| mask | 1 << at), "{length} from {start}");
            }
        }
    }

    #[test]
    fn by_blocks_and_one_by_one_escapes_are_read_alike() {
        const PIECES: [&str; 24] = [
            r"\n",
            r"\\",
            r#"\""#,
            r"\t",
            r"\/",
            r"\b",
            r"\u00e9",
            r"\uD83D\uDE00",
            r"\ud800\udfff",
            r"\uFFFF",
            r"\ud7ff",
            r"\ue000",
            "a",
            "uuuu",
            "dD89abCF",
            "é",
            "漢字",
            "plain text",
            r"\n",
            r"\n",
            r"\\",
            r"\\\\\\\\\\",
            r"\u0041",
            r"\r\n",
        ];
        const BROKEN: [&str; 14] = [
            r"\a",
            r"\u12",
            r"\u12g4",
            r"\ud800",
            r"\udc00",
            r"\ud800\ud800",
            r"\ud800\n",
            r"\U0041",
            "\"",
            "\\",
            "\u{1}",
            "\\\u{1}",
            r"\udc00\ud800",
            r"\ud800\u00e9",
        ];
        let mut chance = Chance::seeded(3);
        let (mut ended, mut refused) = (0, 0);
        for round in 0..20_000 {
            let mut text = String::new();
            for _ in 0..chance.below(60) {
                text += PIECES[chance.below(PIECES.len())];
            }
            if round % 2 == 0 {
                text += BROKEN[chance.below(BROKEN.len())];
                for _ in 0..chance.below(30) {
                    text += PIECES[chance.below(PIECES.len())];
                }
            }
            if round % 3 > 0 {
                text.push('"');
                text += &"\\x".repeat(chance.below(50));
            }
            let expect = slowly(text.as_bytes(), 0);
            assert_eq!(read(text.as_bytes(), 0), expect, "{text}");
            ended += u32::from(matches!(expect, Ok(Read::Ended(_))));
            refused += u32::from(expect.is_err());
        }
        assert!(ended > 1_000 && refused > 1_000, "{ended} ended, {refused} were refused");
    }

    #[test]
    fn escapes_back_to_back_are_judged_by_blocks_wherever_the_block_cuts_them() {
        for escape in [r"\n", r"\\", r#"\"\t"#, r"a\n", r"ab\/\\"] {
            for shift in 0..BLOCK {
                let text = ["x".repeat(shift), escape.repeat(40)].concat();
                let start = shift + escape.find('\\').expect("an escape");
                let reached = escapes(text.as_bytes(), start);
                assert!(text.len() - reached < BLOCK, "{escape} after {shift}: {reached} of {}", text.len());
                assert_eq!(slowly(&text.as_bytes()[..reached], start), Ok(Read::More(reached)));
            }
        }
    }
}
