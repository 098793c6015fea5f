//! Numbers, times and addresses as text, put straight behind what a buffer holds: a line has thirty of them, and formatting each
//! by the standard library's machinery costs more than all else that is done for the line.

use std::{
    io::Write,
    net::{IpAddr, Ipv4Addr},
};

use crate::{
    base::{
        calendar::{date, day},
        hex,
        money::NanoUsd,
    },
    wire::trace_context::TraceId,
};

/// Decimal, without leading zeros.
pub(in crate::control) fn number(number: u64, text: &mut Vec<u8>) {
    if number < 10 {
        text.push(low(number) + b'0');
        return;
    }
    let (mut digits, mut at, mut rest) = ([0; 20], 20, number);
    while rest >= 100 {
        at -= 2;
        digits[at..at + 2].copy_from_slice(pair(rest % 100));
        rest /= 100;
    }
    at -= 2;
    digits[at..at + 2].copy_from_slice(pair(rest));
    // Of three digits and five, the first was written with a zero before it.
    at += usize::from(rest < 10);
    text.extend_from_slice(&digits[at..]);
}

/// Milliseconds with microseconds behind the point.
pub(super) fn millis(us: u64, text: &mut Vec<u8>) {
    number(us / 1_000, text);
    let [tens, ones] = *pair(us % 100);
    text.extend_from_slice(&[b'.', low(us / 100 % 10) + b'0', tens, ones]);
}

/// Dollars, as [`NanoUsd`] shows them.
pub(super) fn usd(NanoUsd(nanos): NanoUsd, text: &mut Vec<u8>) {
    const NANOS: u64 = 1_000_000_000;
    number(nanos / NANOS, text);
    let mut fraction = nanos % NANOS;
    if fraction == 0 {
        return;
    }
    let mut digits = *b".000000000";
    for at in [8, 6, 4, 2] {
        digits[at..at + 2].copy_from_slice(pair(fraction % 100));
        fraction /= 100;
    }
    digits[1] = low(fraction) + b'0';
    let zeros = digits.iter().rev().take_while(|digit| **digit == b'0').count();
    text.extend_from_slice(&digits[..digits.len() - zeros]);
}

/// `2026-11-22T14:27:52.123Z`
pub(super) fn rfc3339(unix_ms: u64, text: &mut Vec<u8>) {
    let (year, month, day) = date(day(unix_ms));
    let (hour, minute, second, ms) = clock(unix_ms);
    if year > 9_999 {
        // Longer than the form has it, and the clock is wrong anyway.
        let _ = write!(text, "{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z");
        return;
    }
    let mut form = *b"0000-00-00T00:00:00.000Z";
    let parts = [
        (0, u64::from(year / 100)),
        (2, u64::from(year % 100)),
        (5, month.into()),
        (8, day.into()),
        (11, hour),
        (14, minute),
        (17, second),
        (21, ms % 100),
    ];
    for (at, value) in parts {
        form[at..at + 2].copy_from_slice(pair(value));
    }
    form[20] = low(ms / 100) + b'0';
    text.extend_from_slice(&form);
}

/// `22/Nov/2026:14:27:52 +0000`
pub(super) fn apache_time(unix_ms: u64, text: &mut Vec<u8>) {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (year, month, day) = date(day(unix_ms));
    let (hour, minute, second, _) = clock(unix_ms);
    let month = MONTHS.get(month as usize - 1).copied().unwrap_or("---");
    let _ = write!(text, "{day:02}/{month}/{year:04}:{hour:02}:{minute:02}:{second:02} +0000");
}

/// As it is usually written: an IPv4 address that came as an IPv6 one is one.
pub(in crate::control) fn address(address: IpAddr, text: &mut Vec<u8>) {
    match address.to_canonical() {
        IpAddr::V4(address) => dotted(address, text),
        IpAddr::V6(address) => {
            let _ = write!(text, "{address}");
        }
    }
}

fn dotted(address: Ipv4Addr, text: &mut Vec<u8>) {
    // Each octet behind a point, of which the first is not shown.
    let (mut form, mut end) = ([b'.'; 16], 0);
    for byte in address.octets() {
        let (hundreds, rest) = (byte / 100, pair(u64::from(byte % 100)));
        end += 1;
        if byte >= 100 {
            form[end] = hundreds + b'0';
            end += 1;
        }
        if byte >= 10 {
            form[end] = rest[0];
            end += 1;
        }
        form[end] = rest[1];
        end += 1;
    }
    text.extend_from_slice(&form[1..end]);
}

/// Thirty-two hexadecimal digits.
pub(super) fn trace(trace: TraceId, text: &mut Vec<u8>) {
    let mut digits = [0; 32];
    hex::put(&trace.bytes(), &mut digits);
    text.extend_from_slice(&digits);
}

/// Hour, minute, second and millisecond of a day.
fn clock(unix_ms: u64) -> (u64, u64, u64, u64) {
    let seconds = unix_ms / 1_000;
    (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60, unix_ms % 1_000)
}

/// 00 to 99, two digits each.
const PAIRS: [[u8; 2]; 100] = {
    let (mut pairs, mut index) = ([[b'0'; 2]; 100], 0_u8);
    while index < 100 {
        pairs[index as usize] = [b'0' + index / 10, b'0' + index % 10];
        index += 1;
    }
    pairs
};

fn pair(value: u64) -> &'static [u8; 2] {
    debug_assert!(value < 100, "two digits");
    PAIRS.get(usize::from(low(value))).unwrap_or(&PAIRS[0])
}

/// Of a number that is smaller than 256: all of it.
fn low(value: u64) -> u8 {
    value.to_le_bytes()[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(put: impl FnOnce(&mut Vec<u8>), expect: &str) {
        let mut text = b"before ".to_vec();
        put(&mut text);
        assert_eq!(String::from_utf8_lossy(&text), format!("before {expect}"));
    }

    #[test]
    fn numbers_are_written_as_the_standard_library_writes_them() {
        let powers = (0..20).map(|power| 10_u64.pow(power));
        let around = powers.flat_map(|power| [power - 1, power, power + 1]);
        for value in around.chain(0..1_100).chain([u64::MAX, 1 << 53, 12_345]) {
            check(|text| number(value, text), &value.to_string());
            check(|text| millis(value, text), &format!("{}.{:03}", value / 1_000, value % 1_000));
            check(|text| usd(NanoUsd(value), text), &NanoUsd(value).to_string());
        }
    }

    #[test]
    fn moments_are_written_as_their_forms_have_them() {
        for (unix_ms, expect, apache) in [
            (0, "1970-01-01T00:00:00.000Z", "01/Jan/1970:00:00:00 +0000"),
            (951_782_400_007, "2000-02-29T00:00:00.007Z", "29/Feb/2000:00:00:00 +0000"),
            (1_795_357_672_123, "2026-11-22T14:27:52.123Z", "22/Nov/2026:14:27:52 +0000"),
            (253_402_300_799_999, "9999-12-31T23:59:59.999Z", "31/Dec/9999:23:59:59 +0000"),
            (253_402_300_800_000, "10000-01-01T00:00:00.000Z", "01/Jan/10000:00:00:00 +0000"),
        ] {
            check(|text| rfc3339(unix_ms, text), expect);
            check(|text| apache_time(unix_ms, text), apache);
        }
    }

    #[test]
    fn addresses_and_traces_are_written_as_they_are_shown() {
        for shown in ["0.0.0.0", "192.0.2.7", "255.255.255.255", "::1", "2001:db8::7"] {
            check(|text| address(shown.parse().expect("an address"), text), shown);
        }
        check(|text| address("::ffff:192.0.2.7".parse().expect("an address"), text), "192.0.2.7");
        let id = TraceId::new(0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736).expect("not zero");
        check(|text| trace(id, text), &id.to_string());
    }
}
