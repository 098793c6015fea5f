//! The PROXY protocol's header, versions 1 and 2: what a proxy that relays bytes says of the client behind it, before
//! the client's first byte.
//!
//! Pure: it is given what has arrived so far and either needs more, or knows the header's end and the client, or knows
//! that nothing that may still come can make a header of it. A header is read to its last byte or not at all; what lies
//! behind it is never looked at.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use crate::base::limits::{PROXY_HEADER_BYTES_MAX, PROXY_LINE_BYTES_MAX};

/// A whole header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its length in bytes.
    pub consumed: usize,
    /// The client; `None` where the proxy speaks for itself, or does not know (`LOCAL`, `UNKNOWN`): then the connection's
    /// own peer counts.
    pub source: Option<SocketAddr>,
}

/// Reads a header at the beginning of `bytes`. `Ok(None)`: it may become one.
///
/// # Errors
/// These bytes begin no header, whatever comes behind them.
pub fn parse(bytes: &[u8]) -> Result<Option<Header>, BadProxyHeader> {
    match bytes.first() {
        None => Ok(None),
        Some(first) if *first == SIGNATURE[0] => parse_binary(bytes),
        Some(_) => parse_line(bytes),
    }
}

/// Why there is no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadProxyHeader {
    /// Neither version begins so.
    Missing,
    /// The line of version 1 is not written as specified.
    Line,
    /// No CR LF where version 1 must have ended, or more bytes announced by version 2 than are taken.
    TooLong,
    /// Version, command, family or transport of version 2 is not one that exists.
    Unknown,
    /// Version 2 announces fewer bytes than its addresses need.
    TooShort,
    /// What follows the addresses is not a sequence of type, length and value.
    Tlv,
    /// The checksum that the header carries is not its own.
    Checksum,
}

impl fmt::Display for BadProxyHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "there is no PROXY protocol header",
            Self::Line => "the PROXY protocol line is malformed",
            Self::TooLong => "the PROXY protocol header is too long",
            Self::Unknown => "the PROXY protocol header is of an unknown kind",
            Self::TooShort => "the PROXY protocol header is shorter than its addresses",
            Self::Tlv => "the PROXY protocol header has malformed fields",
            Self::Checksum => "the PROXY protocol header's checksum is wrong",
        })
    }
}

impl std::error::Error for BadProxyHeader {}

/// `PROXY TCP4 192.0.2.1 192.0.2.2 56324 443` and CR LF.
fn parse_line(bytes: &[u8]) -> Result<Option<Header>, BadProxyHeader> {
    const BEGINNING: &[u8] = b"PROXY ";
    let begun = bytes.len().min(BEGINNING.len());
    if bytes[..begun] != BEGINNING[..begun] {
        return Err(BadProxyHeader::Missing);
    }
    let window = &bytes[..bytes.len().min(PROXY_LINE_BYTES_MAX)];
    let end = match window.iter().position(|byte| matches!(byte, b'\r' | b'\n')) {
        Some(end) => end,
        None if window.len() == PROXY_LINE_BYTES_MAX => return Err(BadProxyHeader::TooLong),
        None => return Ok(None),
    };
    match &window[end..] {
        [b'\r', b'\n', ..] => {}
        [b'\r'] if window.len() < PROXY_LINE_BYTES_MAX => return Ok(None),
        [b'\r'] => return Err(BadProxyHeader::TooLong),
        // Either alone ends no line.
        _ => return Err(BadProxyHeader::Line),
    }
    let rest = &window[BEGINNING.len()..end];
    let source = if rest == b"UNKNOWN" || rest.starts_with(b"UNKNOWN ") {
        // What follows is to be ignored, by the specification.
        None
    } else {
        Some(tcp_source(rest).ok_or(BadProxyHeader::Line)?)
    };
    Ok(Some(Header { consumed: end + 2, source }))
}

/// `TCP4 192.0.2.1 192.0.2.2 56324 443`: each word is checked, and the first address and port are the client's.
fn tcp_source(rest: &[u8]) -> Option<SocketAddr> {
    let text = std::str::from_utf8(rest).ok()?;
    let mut words = text.split(' ');
    let mut next = || words.next();
    let (family, source, destination) = (next()?, next()?, next()?);
    let (source_port, _destination_port) = (port(next()?)?, port(next()?)?);
    if next().is_some() {
        return None;
    }
    let source = match family {
        "TCP4" => {
            destination.parse::<Ipv4Addr>().ok()?;
            IpAddr::V4(source.parse().ok()?)
        }
        "TCP6" => {
            destination.parse::<Ipv6Addr>().ok()?;
            IpAddr::V6(source.parse().ok()?)
        }
        _ => return None,
    };
    Some(SocketAddr::new(source, source_port))
}

/// A number from 0 to 65535 without sign and leading zeros.
fn port(text: &str) -> Option<u16> {
    let is_plain =
        text.bytes().all(|byte| byte.is_ascii_digit()) && (text.len() == 1 || !text.starts_with('0'));
    text.parse().ok().filter(|_| is_plain)
}

/// How version 2 begins. Its first byte tells it from version 1.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// The signature, version and command, family and transport, and the number of bytes that follow.
const FIXED_BYTES: usize = 16;

const VERSION_2: u8 = 0x20;
const LOCAL: u8 = 0;
const PROXY: u8 = 1;

fn parse_binary(bytes: &[u8]) -> Result<Option<Header>, BadProxyHeader> {
    let begun = bytes.len().min(SIGNATURE.len());
    if bytes[..begun] != SIGNATURE[..begun] {
        return Err(BadProxyHeader::Missing);
    }
    if let Some(kind) = bytes.get(12)
        && ![VERSION_2 | LOCAL, VERSION_2 | PROXY].contains(kind)
    {
        return Err(BadProxyHeader::Unknown);
    }
    let Some(fixed) = bytes.get(..FIXED_BYTES) else { return Ok(None) };
    let (command, family) = (fixed[12] & 0x0f, fixed[13]);
    let follow = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    let consumed = FIXED_BYTES + follow;
    if consumed > PROXY_HEADER_BYTES_MAX {
        return Err(BadProxyHeader::TooLong);
    }
    let address_bytes = match (command, family) {
        // Everything behind it is to be skipped, its family unread.
        (LOCAL, _) => None,
        // Of unknown origin: neither are its addresses of a known length.
        (_, 0x00) => None,
        // TCP, or UDP where the client speaks HTTP/3 to the proxy: it is the client all the same.
        (_, 0x11 | 0x12) => Some(12),
        (_, 0x21 | 0x22) => Some(36),
        // A UNIX socket on the proxy's machine: there is no address.
        (_, 0x31 | 0x32) => Some(216),
        _ => return Err(BadProxyHeader::Unknown),
    };
    if address_bytes.is_some_and(|needed| follow < needed) {
        return Err(BadProxyHeader::TooShort);
    }
    let Some(header) = bytes.get(..consumed) else { return Ok(None) };
    if let Some(address_bytes) = address_bytes {
        check_fields(header, FIXED_BYTES + address_bytes)?;
    }
    let source = match family >> 4 {
        _ if command == LOCAL => None,
        1 => array(header, 16)
            .zip(array(header, 24))
            .map(|(ip, port)| (Ipv4Addr::from_octets(ip).into(), port)),
        2 => array(header, 16)
            .zip(array(header, 48))
            .map(|(ip, port)| (Ipv6Addr::from_octets(ip).into(), port)),
        _ => None,
    };
    let source = source.map(|(ip, port)| SocketAddr::new(ip, u16::from_be_bytes(port)));
    Ok(Some(Header { consumed, source }))
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

const TLV_CRC32C: u8 = 0x03;

/// Walks over the fields behind the addresses. None is used; but whoever sends a checksum wants it compared.
fn check_fields(header: &[u8], from: usize) -> Result<(), BadProxyHeader> {
    let mut at = from;
    let mut has_checksum = false;
    while at < header.len() {
        let Some([kind, high, low]) = array(header, at) else { return Err(BadProxyHeader::Tlv) };
        let value = at + 3..at + 3 + usize::from(u16::from_be_bytes([high, low]));
        if value.end > header.len() {
            return Err(BadProxyHeader::Tlv);
        }
        if kind == TLV_CRC32C {
            let told = array(header, value.start).filter(|_| value.len() == 4 && !has_checksum);
            let told = u32::from_be_bytes(told.ok_or(BadProxyHeader::Tlv)?);
            has_checksum = true;
            // It is that of the header with zeros in its place.
            let parts = [&header[..value.start], &[0; 4], &header[value.end..]];
            if crc32c(parts.into_iter().flatten().copied()) != told {
                return Err(BadProxyHeader::Checksum);
            }
        }
        at = value.end;
    }
    Ok(())
}

/// Castagnoli's, bit by bit: once a connection, over some dozen bytes.
fn crc32c(bytes: impl Iterator<Item = u8>) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    !bytes.fold(!0, |crc: u32, byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| crc >> 1 ^ (POLYNOMIAL & (crc & 1).wrapping_neg()))
    })
}

/// However the bytes arrive, the verdict is the same and is given once: at the header's last byte, or at the first byte
/// that spoils it.
#[cfg(any(test, feature = "fuzzing"))]
pub fn fuzz_parse(data: &[u8]) {
    let whole = parse(data);
    if let Ok(Some(header)) = whole {
        assert!((1..=data.len()).contains(&header.consumed), "a header is a part of what was given");
        assert!(header.consumed <= PROXY_HEADER_BYTES_MAX);
        assert_eq!(parse(&data[..header.consumed]), whole, "what lies behind a header changes nothing");
    }
    let mut verdict = None;
    for end in 0..=data.len().min(PROXY_HEADER_BYTES_MAX) {
        match (parse(&data[..end]), verdict) {
            (Ok(None), None) => {}
            (now, None) => {
                verdict = Some(now);
                if let Ok(Some(header)) = now {
                    assert_eq!(header.consumed, end, "a header ends with the byte that made it whole");
                }
            }
            (now, Some(before)) => assert_eq!(now, before, "a verdict stays"),
        }
    }
    if data.len() <= PROXY_HEADER_BYTES_MAX {
        assert_eq!(verdict.unwrap_or(Ok(None)), whole);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(bytes: &[u8], expect: Result<Option<&str>, BadProxyHeader>) {
        let expect = expect.map(|source| source.map(|source| source.parse().unwrap()));
        assert_eq!(parse(bytes).map(|header| header.unwrap().source), expect, "{}", bytes.escape_ascii());
        fuzz_parse(bytes);
        let mut with_more = bytes.to_vec();
        with_more.extend_from_slice(b"GET / HTTP/1.1\r\n");
        match parse(&with_more) {
            Ok(header) => assert_eq!(header.unwrap().consumed, bytes.len()),
            Err(error) => assert_eq!(Err(error), expect),
        }
        fuzz_parse(&with_more);
    }

    #[track_caller]
    fn waits(bytes: &[u8]) {
        assert_eq!(parse(bytes), Ok(None), "{}", bytes.escape_ascii());
        fuzz_parse(bytes);
    }

    #[test]
    fn lines_are_read() {
        check(b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n", Ok(Some("192.0.2.1:56324")));
        check(
            b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
            Ok(Some("255.255.255.255:65535")),
        );
        check(b"PROXY TCP6 2001:db8::1 ::1 0 0\r\n", Ok(Some("[2001:db8::1]:0")));
        check(b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n", Ok(Some("[::ffff:192.0.2.1]:1")));
        check(b"PROXY UNKNOWN\r\n", Ok(None));
        check(b"PROXY UNKNOWN ffff::1 what ever \xff\r\n", Ok(None));
        let full = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        let longest = format!("PROXY UNKNOWN {full} {full} 65535 65535\r\n");
        assert_eq!(longest.len(), PROXY_LINE_BYTES_MAX);
        check(longest.as_bytes(), Ok(None));
    }

    #[test]
    fn lines_that_are_not_exactly_so_are_refused() {
        for line in [
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2\r\n",
            "PROXY TCP4  192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY  TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY TCP4 192.0.2.1\t192.0.2.2 1 2\r\n",
            "PROXY tcp4 192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY TCP4 192.0.2.01 192.0.2.2 1 2\r\n",
            "PROXY TCP4 192.0.2 192.0.2.2 1 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.256 1 2\r\n",
            "PROXY TCP4 ::1 ::1 1 2\r\n",
            "PROXY TCP4 192.0.2.1 ::1 1 2\r\n",
            "PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY TCP6 ::1 192.0.2.2 1 2\r\n",
            "PROXY TCP6 fe80::1%1 ::1 1 2\r\n",
            "PROXY TCP6 [::1] ::1 1 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 02\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 65536 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 \r\n",
            "PROXY UNKNOWNS\r\n",
            "PROXY \r\n",
            "PROXY UNKNOWN x\ny\r\n",
        ] {
            check(line.as_bytes(), Err(BadProxyHeader::Line));
        }
        for bytes in
            ["GET / HTTP/1.1\r\n", "proxy TCP4 ", "PROXYTCP4", "\u{16}\u{3}\u{1}", " PROXY ", "PROXY\r\n"]
        {
            check(bytes.as_bytes(), Err(BadProxyHeader::Missing));
        }
        check(&[b"PROXY UNKNOWN ".as_slice(), &[b'x'; 94], b"\r\n"].concat(), Err(BadProxyHeader::TooLong));
        check(&[b"PROXY UNKNOWN ".as_slice(), &[b'x'; 92], b"\r\n"].concat(), Err(BadProxyHeader::TooLong));
    }

    #[test]
    fn a_line_is_judged_at_its_end_and_not_before() {
        waits(b"");
        waits(b"PROX");
        waits(b"PROXY TCP4 999");
        waits(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r");
        assert_eq!(parse(b"PX"), Err(BadProxyHeader::Missing));
        assert_eq!(parse(b"PROXY \n"), Err(BadProxyHeader::Line));
    }

    /// A header of version 2 with these bytes behind its fixed part.
    fn binary(kind: u8, family: u8, follow: &[&[u8]]) -> Vec<u8> {
        let follow = follow.concat();
        let length = u16::try_from(follow.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[kind, family], &length, &follow].concat()
    }

    const V4: &[u8] = &[192, 0, 2, 1, 192, 0, 2, 2, 0xdc, 0x04, 0x01, 0xbb];
    const V6: &[u8] =
        b"\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\xdc\x04\x01\xbb";

    #[test]
    fn binary_headers_are_read() {
        check(&binary(0x21, 0x11, &[V4]), Ok(Some("192.0.2.1:56324")));
        check(&binary(0x21, 0x12, &[V4]), Ok(Some("192.0.2.1:56324")));
        check(&binary(0x21, 0x21, &[V6]), Ok(Some("[2001:db8::1]:56324")));
        check(&binary(0x21, 0x22, &[V6]), Ok(Some("[2001:db8::1]:56324")));
        check(&binary(0x21, 0x31, &[&[7; 216]]), Ok(None));
        check(&binary(0x21, 0x00, &[]), Ok(None));
        check(&binary(0x21, 0x00, &[V4, b"anything"]), Ok(None));
        check(&binary(0x20, 0x00, &[]), Ok(None));
        check(&binary(0x20, 0x11, &[V4]), Ok(None));
        check(&binary(0x20, 0xff, &[b"anything"]), Ok(None));
        check(&binary(0x21, 0x11, &[V4, b"\x04\0\0", b"\xe0\0\x03abc"]), Ok(Some("192.0.2.1:56324")));
        let padding = vec![0; PROXY_HEADER_BYTES_MAX - FIXED_BYTES];
        check(&binary(0x20, 0x00, &[&padding]), Ok(None));
    }

    #[test]
    fn binary_headers_that_do_not_exist_are_refused() {
        for kind in [0x00, 0x01, 0x11, 0x22, 0x2f, 0x31, 0xff] {
            check(&binary(kind, 0x11, &[V4]), Err(BadProxyHeader::Unknown));
        }
        for family in [0x01, 0x10, 0x13, 0x20, 0x23, 0x30, 0x33, 0x41, 0xff] {
            check(&binary(0x21, family, &[V6]), Err(BadProxyHeader::Unknown));
        }
        check(&binary(0x21, 0x11, &[]), Err(BadProxyHeader::TooShort));
        check(&binary(0x21, 0x11, &[&V4[..11]]), Err(BadProxyHeader::TooShort));
        check(&binary(0x21, 0x21, &[&V6[..35]]), Err(BadProxyHeader::TooShort));
        check(&binary(0x21, 0x31, &[&[7; 215]]), Err(BadProxyHeader::TooShort));
        let padding = vec![0; PROXY_HEADER_BYTES_MAX - FIXED_BYTES + 1];
        check(&binary(0x20, 0x00, &[&padding]), Err(BadProxyHeader::TooLong));
        check(b"\r\n\r\n\0\r\nQUIT\r", Err(BadProxyHeader::Missing));
        check(b"\r\nGET / HTTP/1.1\r\n", Err(BadProxyHeader::Missing));
    }

    #[test]
    fn fields_stay_inside_their_header() {
        for fields in
            [&b"\x04"[..], b"\x04\0", b"\x04\0\x01", b"\x04\0\0\x04", b"\x04\xff\xffabc", b"\x04\0\x02a"]
        {
            check(&binary(0x21, 0x11, &[V4, fields]), Err(BadProxyHeader::Tlv));
        }
    }

    #[test]
    fn a_checksum_that_is_there_is_right() {
        assert_eq!(crc32c(b"123456789".iter().copied()), 0xe306_9283);
        let zeroed = binary(0x21, 0x11, &[V4, b"\x04\0\x01x", b"\x03\0\x04\0\0\0\0", b"\x05\0\x02id"]);
        let at = zeroed.len() - 9;
        let mut summed = zeroed.clone();
        summed[at..at + 4].copy_from_slice(&crc32c(zeroed.iter().copied()).to_be_bytes());
        check(&summed, Ok(Some("192.0.2.1:56324")));
        // But for the byte that makes it a checksum: with another, there is none.
        for byte in (16..summed.len()).filter(|byte| *byte != at - 3) {
            let mut changed = summed.clone();
            changed[byte] ^= 1;
            assert!(parse(&changed).is_err(), "byte {byte}");
        }
        check(&binary(0x21, 0x11, &[V4, b"\x03\0\x03\0\0\0"]), Err(BadProxyHeader::Tlv));
    }

    #[test]
    fn mutated_headers_keep_the_promises() {
        let seeds = [
            b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\nGET".to_vec(),
            b"PROXY TCP6 2001:db8::1 ::1 0 0\r\n\x16\x03".to_vec(),
            b"PROXY UNKNOWN ffff::1 x\r\n".to_vec(),
            binary(0x21, 0x11, &[V4, b"\x04\0\x01x", b"\x03\0\x04\0\0\0\0"]),
            binary(0x21, 0x21, &[V6, b"\x20\0\x08\x01\0\0\0\0\x21\0\0"]),
            binary(0x20, 0x00, &[b"GET"]),
        ];
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for round in 0..20_000 {
            let mut data = seeds[round % seeds.len()].clone();
            for _ in 0..round % 5 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                let [place, byte, kind, ..] = state.to_le_bytes();
                let place = usize::from(place) % data.len();
                match kind % 4 {
                    0 => data[place] = byte,
                    1 => data[place] = b"\r\n 0.:\0\x01\x11\x20\x21"[usize::from(byte) % 11],
                    2 => data.insert(place, b"\r\n 0"[usize::from(byte) % 4]),
                    _ => data.truncate(place + 1),
                }
            }
            fuzz_parse(&data);
        }
    }
}
