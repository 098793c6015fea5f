//! Addresses and numbers of people, told by their form and, where they have one, by their check digit. Each function looks
//! whether one begins with the first byte it is given, and says how long it is.

use std::net::{Ipv4Addr, Ipv6Addr};

pub(super) const LOCAL_BYTES_MAX: usize = 64;
const DOMAIN_BYTES_MAX: usize = 253;
pub(super) const EMAIL_BYTES_MAX: usize = LOCAL_BYTES_MAX + 1 + DOMAIN_BYTES_MAX;
/// Longest number with all that may separate its digits.
pub(super) const NUMBER_BYTES_MAX: usize = 19 * 3;

/// A byte of an e-mail address's local part, as such are in use.
pub(super) fn is_local(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'%' | b'+' | b'-')
}

pub(super) fn email(rest: &[u8]) -> Option<usize> {
    let local = rest.iter().take(LOCAL_BYTES_MAX + 1).take_while(|byte| is_local(**byte)).count();
    if !(1..=LOCAL_BYTES_MAX).contains(&local) || rest.get(local) != Some(&b'@') {
        return None;
    }
    let domain = &rest[local + 1..];
    let is_domain = |byte: &&u8| byte.is_ascii_alphanumeric() || matches!(**byte, b'.' | b'-');
    let domain = &domain[..domain.iter().take(DOMAIN_BYTES_MAX).take_while(is_domain).count()];
    // What ends a sentence is not part of it.
    let domain = domain.trim_suffix_of(|byte| matches!(byte, b'.' | b'-'));
    let dot = domain.iter().rposition(|byte| *byte == b'.')?;
    let top = &domain[dot + 1..];
    let is_one = dot > 0 && top.len() >= 2 && top.iter().any(u8::is_ascii_alphabetic);
    is_one.then_some(local + 1 + domain.len())
}

trait TrimSuffix {
    fn trim_suffix_of(&self, is_suffix: impl Fn(u8) -> bool) -> &Self;
}

impl TrimSuffix for [u8] {
    fn trim_suffix_of(&self, is_suffix: impl Fn(u8) -> bool) -> &Self {
        let kept = self.iter().rposition(|byte| !is_suffix(*byte)).map_or(0, |last| last + 1);
        &self[..kept]
    }
}

pub(super) fn card(rest: &[u8]) -> Option<usize> {
    let number = Number::read(rest, 19, 1, |byte| matches!(byte, b' ' | b'-'));
    // One group is the whole of it; of several, the usual lengths first: a date or another number may stand behind it.
    let group = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let lengths: &[usize] = if group >= 13 { &[group] } else { &[16, 15, 14, 13, 17, 18, 19] };
    lengths.iter().find_map(|&count| {
        let digits = number.digits.get(..count)?;
        let end = number.whole(rest, count)?;
        (digits[0] != 0 && luhn(digits)).then_some(end)
    })
}

pub(super) fn national_id(rest: &[u8]) -> Option<usize> {
    resident_identity(rest).or_else(|| social_security(rest))
}

/// `+` and 8 to 15 digits; three groups as in North America; eleven digits as of China's mobile phones; or a trunk 0 and 9
/// to 13 digits in all.
pub(super) fn phone(before: &[u8], rest: &[u8]) -> Option<usize> {
    if matches!(before.last(), Some(b'.' | b'-' | b'+')) {
        return None;
    }
    let is_separator = |byte| matches!(byte, b' ' | b'-' | b'.' | b'(' | b')' | b'/');
    if let Some(behind) = rest.strip_prefix(b"+") {
        let number = Number::read(behind, 15, 2, is_separator);
        return (8..=number.digits.len())
            .rev()
            .find_map(|count| number.whole(behind, count))
            .map(|end| end + 1);
    }
    if let Some(end) = north_american(rest) {
        return Some(end);
    }
    let number = Number::read(rest, 14, 1, |byte| matches!(byte, b' ' | b'-' | b'/'));
    match number.digits[..] {
        [1, 3..=9, ..] => number.whole(rest, 11),
        [0, 1..=9, ..] => (9..=13).rev().find_map(|count| number.whole(rest, count)),
        _ => None,
    }
}

/// `(212) 555-0123`, `212-555-0123`, `212.555.0123`
fn north_american(rest: &[u8]) -> Option<usize> {
    let is_open = rest.first() == Some(&b'(');
    let mut at = usize::from(is_open);
    for (index, count) in [3, 3, 4].into_iter().enumerate() {
        let group = rest.get(at..at + count)?;
        let is_group = group.iter().all(u8::is_ascii_digit) && (index == 2 || group[0] >= b'2');
        if !is_group {
            return None;
        }
        at += count;
        if index == 0 && is_open {
            at +=
                rest[at..].strip_prefix(b")").map(|behind| 1 + usize::from(behind.first() == Some(&b' ')))?;
        } else if index < 2 {
            rest.get(at).filter(|byte| matches!(byte, b' ' | b'-' | b'.'))?;
            at += 1;
        }
    }
    ends_word(rest, at).then_some(at)
}

/// Seventeen digits and a check digit by ISO 7064, which may be `X`.
fn resident_identity(rest: &[u8]) -> Option<usize> {
    const BYTES: usize = 18;
    let (check, digits) = rest.get(..BYTES)?.split_last()?;
    if !digits.iter().all(u8::is_ascii_digit) || digits[0] == b'0' {
        return None;
    }
    let sum = digits.iter().fold(0, |sum, digit| (sum + u32::from(digit - b'0')) * 2 % 11);
    let check = match check {
        b'X' | b'x' => 10,
        digit @ b'0'..=b'9' => u32::from(digit - b'0'),
        _ => return None,
    };
    ((sum + check) % 11 == 1 && ends_word(rest, BYTES)).then_some(BYTES)
}

/// `123-45-6789`, but for the numbers that are never given.
fn social_security(rest: &[u8]) -> Option<usize> {
    const BYTES: usize = 11;
    let number = rest.get(..BYTES)?;
    let [a, b, c, b'-', d, e, b'-', serial @ ..] = number else { return None };
    let is_number = [a, b, c, d, e].into_iter().chain(serial).all(u8::is_ascii_digit);
    let is_given =
        *a != b'9' && ![b"000", b"666"].contains(&&[*a, *b, *c]) && [*d, *e] != *b"00" && serial != b"0000";
    (is_number && is_given && ends_word(rest, BYTES)).then_some(BYTES)
}

pub(super) fn ip(before: &[u8], rest: &[u8]) -> Option<usize> {
    // Part of something longer: a version, a time.
    if matches!(before.last(), Some(b'.' | b':')) {
        return None;
    }
    const BYTES_MAX: usize = 45;
    let is_address = |byte: &&u8| byte.is_ascii_hexdigit() || matches!(**byte, b'.' | b':');
    let run = rest.iter().take(BYTES_MAX + 1).take_while(is_address).count();
    if run > BYTES_MAX || !ends_word(rest, run) {
        return None;
    }
    // What ends a sentence, or comes before a port, is not part of it.
    let run = &rest[..run];
    let trimmed = run.trim_suffix_of(|byte| byte == b'.');
    let port = run.iter().position(|byte| *byte == b':');
    let text = |bytes| std::str::from_utf8(bytes).ok();
    let has_port =
        port.filter(|port| text(&run[..*port]).is_some_and(|host| host.parse::<Ipv4Addr>().is_ok()));
    if let Some(port) = has_port {
        return Some(port);
    }
    let run = if text(run)?.parse::<Ipv6Addr>().is_ok() {
        run
    } else {
        trimmed.strip_suffix(b":").filter(|run| !run.ends_with(b":")).unwrap_or(trimmed)
    };
    let text = text(run)?;
    let is_one = text.parse::<Ipv4Addr>().is_ok()
        || text.parse::<Ipv6Addr>().is_ok() && run.iter().any(u8::is_ascii_hexdigit);
    is_one.then_some(run.len())
}

/// Digits with something between them.
struct Number {
    digits: Vec<u8>,
    /// By digit: where it ends.
    ends: Vec<usize>,
}

impl Number {
    /// Reads up to `most` digits, and one more to tell that there are more, with up to `gap` separators between two.
    fn read(rest: &[u8], most: usize, gap: usize, is_separator: impl Fn(u8) -> bool) -> Self {
        let (mut digits, mut ends, mut separators) = (Vec::new(), Vec::new(), 0);
        for (index, byte) in rest.iter().enumerate() {
            if byte.is_ascii_digit() && digits.len() < most {
                digits.push(byte - b'0');
                ends.push(index + 1);
                separators = 0;
            } else if is_separator(*byte) && separators < gap {
                separators += 1;
            } else {
                break;
            }
        }
        Self { digits, ends }
    }

    /// Where the number of the first `count` digits ends, if a word ends there.
    fn whole(&self, rest: &[u8], count: usize) -> Option<usize> {
        let end = *self.ends.get(count.checked_sub(1)?)?;
        (count >= 2 && ends_word(rest, end)).then_some(end)
    }
}

/// Whether no letter and no digit stands at `end`.
fn ends_word(rest: &[u8], end: usize) -> bool {
    rest.get(end).is_none_or(|byte| !(byte.is_ascii_alphanumeric() || *byte == b'_'))
}

/// The check digit of cards: every second digit from the right is doubled.
fn luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(place, digit)| {
            let value = u32::from(*digit) << (place % 2);
            value / 10 + value % 10
        })
        .sum();
    sum.is_multiple_of(10)
}
