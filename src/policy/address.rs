//! Where a client is: the address that lists and limits by address are about.
//!
//! The TCP peer is the client, whatever it says, unless it is a proxy that the operator trusts; then the last hop that
//! is not such a proxy is. `X-Forwarded-For` grows from the right, so what stands left of that hop is only what the
//! client itself claims. A list that is not well-formed to its last byte says nothing: nobody is let in by it.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
};

use crate::base::{limits, prefixes::Prefixes};

/// The client's address, with IPv4 inside IPv6 as IPv4. `forwarded` are the values of all `X-Forwarded-For` fields in
/// the order in which they came; they are not looked at unless the peer is trusted.
///
/// # Errors
/// A trusted proxy sent a list that cannot be read.
pub fn client<'a>(
    peer: IpAddr,
    forwarded: impl Iterator<Item = &'a [u8]>,
    trusted: &Prefixes,
) -> Result<IpAddr, BadForwarded> {
    let peer = peer.to_canonical();
    if !trusted.contains(peer) {
        return Ok(peer);
    }
    // hops[..count], left-most first.
    let mut hops = [peer; limits::FORWARDED_HOPS_MAX];
    let mut count = 0;
    // Several fields are one list (RFC 9110 §5.3).
    for element in forwarded.flat_map(|value| value.split(|&byte| byte == b',')) {
        let slot = hops.get_mut(count).ok_or(BadForwarded::TooManyHops)?;
        *slot = hop(without_ows(element))?;
        count += 1;
    }
    let hops = &hops[..count];
    let client = hops.iter().rev().find(|hop| !trusted.contains(**hop));
    Ok(client.or_else(|| hops.first()).copied().unwrap_or(peer))
}

/// Why a trusted proxy's list is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadForwarded {
    /// Nothing between two commas, or nothing at all.
    EmptyHop,
    NotAnAddress,
    TooManyHops,
}

impl fmt::Display for BadForwarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EmptyHop => "X-Forwarded-For has an empty element",
            Self::NotAnAddress => "X-Forwarded-For has an element that is not an IP address",
            Self::TooManyHops => "X-Forwarded-For has too many elements",
        })
    }
}

impl std::error::Error for BadForwarded {}

/// Less the blanks that a list may have around its elements: spaces and tabs, and nothing else that is white.
fn without_ows(element: &[u8]) -> &[u8] {
    let is_text = |byte: &u8| !matches!(byte, b' ' | b'\t');
    let from = element.iter().position(is_text).unwrap_or(element.len());
    let to = element.iter().rposition(is_text).map_or(from, |last| last + 1);
    &element[from..to]
}

/// `192.0.2.1`, `2001:db8::1`, `[2001:db8::1]`, or one of these with `:port` where that can be told apart.
fn hop(element: &[u8]) -> Result<IpAddr, BadForwarded> {
    if element.is_empty() {
        return Err(BadForwarded::EmptyHop);
    }
    let text = std::str::from_utf8(element).map_err(|_| BadForwarded::NotAnAddress)?;
    address(text).map(|ip| ip.to_canonical()).ok_or(BadForwarded::NotAnAddress)
}

// Not by std's `SocketAddr`: it lets zones and ports with leading zeros pass.
fn address(text: &str) -> Option<IpAddr> {
    if let Some(bracketed) = text.strip_prefix('[') {
        let (inside, behind) = bracketed.split_once(']')?;
        let is_whole = behind.is_empty() || behind.strip_prefix(':').is_some_and(is_port);
        return is_whole.then(|| inside.parse::<Ipv6Addr>().ok()).flatten().map(IpAddr::from);
    }
    match text.split_once(':') {
        Some((ip, port)) if ip.contains('.') => {
            is_port(port).then(|| ip.parse().ok()).flatten().map(IpAddr::V4)
        }
        _ => text.parse().ok(),
    }
}

/// A number from 0 to 65535 without sign and leading zeros.
fn is_port(text: &str) -> bool {
    let is_plain =
        text.bytes().all(|byte| byte.is_ascii_digit()) && (text.len() == 1 || !text.starts_with('0'));
    is_plain && text.parse::<u16>().is_ok()
}

/// The address comes from the peer or from the list, and only a trusted peer's list is read.
#[cfg(any(test, feature = "fuzzing"))]
pub fn fuzz_client(data: &[u8]) {
    let trusted: Prefixes =
        ["10.0.0.0/8", "2001:db8::/32"].iter().filter_map(|text| text.parse().ok()).collect();
    let stranger = IpAddr::from([192, 0, 2, 1]);
    let proxy = IpAddr::from([10, 0, 0, 1]);
    let lines = || data.split(|&byte| byte == b'\n');
    assert_eq!(client(stranger, lines(), &trusted), Ok(stranger), "a stranger is where it is");
    let Ok(found) = client(proxy, lines(), &trusted) else { return };
    assert_eq!(found, found.to_canonical());
    let joined = data.iter().map(|&byte| if byte == b'\n' { b',' } else { byte }).collect::<Vec<_>>();
    assert_eq!(client(proxy, std::iter::once(&joined[..]), &trusted), Ok(found), "fields are one list");
    // Whatever a client claims left of what its proxy adds changes nothing.
    let mut spoofed = b"198.51.100.1, ".to_vec();
    spoofed.extend_from_slice(&joined);
    let hops = joined.split(|&byte| byte == b',').count();
    if hops < limits::FORWARDED_HOPS_MAX && !trusted.contains(found) {
        assert_eq!(
            client(proxy, std::iter::once(&spoofed[..]), &trusted),
            Ok(found),
            "the right-most counts"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trusted() -> Prefixes {
        ["10.0.0.0/8", "127.0.0.1", "2001:db8::/32"].iter().map(|text| text.parse().unwrap()).collect()
    }

    fn of(peer: &str, fields: &[&str]) -> Result<IpAddr, BadForwarded> {
        client(peer.parse().unwrap(), fields.iter().map(|field| field.as_bytes()), &trusted())
    }

    #[track_caller]
    fn check(peer: &str, fields: &[&str], expect: &str) {
        assert_eq!(of(peer, fields), Ok(expect.parse().unwrap()), "{peer} {fields:?}");
    }

    #[track_caller]
    fn refuses(expect: BadForwarded, fields: &[&str]) {
        assert_eq!(of("10.0.0.1", fields), Err(expect), "{fields:?}");
        let stranger = "192.0.2.1".parse().unwrap();
        assert_eq!(of("192.0.2.1", fields), Ok(stranger), "a stranger's fields are not read");
    }

    #[test]
    fn the_peer_counts_unless_it_is_trusted() {
        check("192.0.2.1", &[], "192.0.2.1");
        check("192.0.2.1", &["198.51.100.7"], "192.0.2.1");
        check("192.0.2.1", &["10.0.0.1"], "192.0.2.1");
        check("2001:db9::1", &["198.51.100.7"], "2001:db9::1");
        check("10.0.0.1", &[], "10.0.0.1");
        let nobody = client("10.0.0.1".parse().unwrap(), [&b"1.1.1.1"[..]].into_iter(), &Prefixes::default());
        assert_eq!(nobody, Ok("10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn the_right_most_untrusted_hop_is_the_client() {
        check("10.0.0.1", &["198.51.100.7"], "198.51.100.7");
        check("10.0.0.1", &["1.1.1.1, 198.51.100.7"], "198.51.100.7");
        check("10.0.0.1", &["1.1.1.1, 198.51.100.7, 10.9.9.9"], "198.51.100.7");
        check("10.0.0.1", &["1.1.1.1,198.51.100.7,10.9.9.9,127.0.0.1"], "198.51.100.7");
        check("2001:db8::5", &["2001:db9::1, 2001:db8::9"], "2001:db9::1");
        check("10.0.0.1", &["127.0.0.1, 1.1.1.1"], "1.1.1.1");
    }

    #[test]
    fn several_fields_are_one_list_in_their_order() {
        check("10.0.0.1", &["1.1.1.1", "198.51.100.7"], "198.51.100.7");
        check("10.0.0.1", &["198.51.100.7", "10.0.0.2", "10.0.0.3"], "198.51.100.7");
        check("10.0.0.1", &["1.1.1.1, 2.2.2.2", "10.0.0.2"], "2.2.2.2");
    }

    #[test]
    fn of_trusted_hops_alone_the_left_most_is_the_client() {
        check("10.0.0.1", &["10.0.0.9"], "10.0.0.9");
        check("10.0.0.1", &["10.0.0.9, 10.0.0.8", "127.0.0.1"], "10.0.0.9");
    }

    #[test]
    fn hops_may_have_ports_and_brackets() {
        check("10.0.0.1", &["198.51.100.7:65535"], "198.51.100.7");
        check("10.0.0.1", &["198.51.100.7:0"], "198.51.100.7");
        check("10.0.0.1", &["[2001:db9::1]:443"], "2001:db9::1");
        check("10.0.0.1", &["[2001:db9::1]"], "2001:db9::1");
        check("10.0.0.1", &["2001:db9::1"], "2001:db9::1");
        check("10.0.0.1", &["\t 198.51.100.7 \t,  10.0.0.2 "], "198.51.100.7");
    }

    #[test]
    fn ipv4_inside_ipv6_is_ipv4() {
        check("::ffff:192.0.2.1", &[], "192.0.2.1");
        check("::ffff:10.0.0.1", &["::ffff:198.51.100.7"], "198.51.100.7");
        check("::ffff:a00:1", &["198.51.100.7, ::ffff:10.0.0.2"], "198.51.100.7");
        check("10.0.0.1", &["[::ffff:198.51.100.7]:80"], "198.51.100.7");
    }

    #[test]
    fn what_is_malformed_anywhere_denies() {
        for empty in ["", " ", ",", "198.51.100.7,", ",198.51.100.7", "198.51.100.7,,10.0.0.1", "1.1.1.1, \t"]
        {
            refuses(BadForwarded::EmptyHop, &[empty]);
        }
        refuses(BadForwarded::EmptyHop, &["198.51.100.7", ""]);
        for odd in [
            "unknown",
            "_hidden",
            "client.example",
            "198.51.100",
            "198.51.100.256",
            "198.051.100.7",
            "0x7f.0.0.1",
            "198.51.100.7 10.0.0.1",
            "198.51.100.7;10.0.0.1",
            "\"198.51.100.7\"",
            "198.51.100.7:",
            "198.51.100.7:080",
            "198.51.100.7:+80",
            "198.51.100.7:65536",
            "198.51.100.7:http",
            "198.51.100.7:80:80",
            "198.51.100.0/24",
            "[198.51.100.7]",
            "[198.51.100.7]:80",
            "[2001:db9::1",
            "2001:db9::1]",
            "[2001:db9::1]80",
            "[2001:db9::1]:",
            "[2001:db9::1%eth0]",
            "[2001:db9::1%1]:80",
            "fe80::1%1",
            "[]",
            ":80",
            "::ffff:198.51.100.7:80",
            "for=198.51.100.7",
            "198.51.100.7\u{a0}",
            "198.51.100.7\0",
            "198.51.100.7\u{c}",
            "１.1.1.1",
        ] {
            refuses(BadForwarded::NotAnAddress, &[odd]);
            refuses(BadForwarded::NotAnAddress, &[odd, "198.51.100.7"]);
            refuses(BadForwarded::NotAnAddress, &[&format!("198.51.100.7, {odd}")]);
        }
        let obs_text = [&b"198.51.100.7\xff"[..]];
        assert_eq!(
            client("10.0.0.1".parse().unwrap(), obs_text.into_iter(), &trusted()),
            Err(BadForwarded::NotAnAddress)
        );
    }

    #[test]
    fn the_number_of_hops_is_bounded() {
        let many = |count| vec!["198.51.100.7"; count].join(",");
        check("10.0.0.1", &[&many(limits::FORWARDED_HOPS_MAX)], "198.51.100.7");
        refuses(BadForwarded::TooManyHops, &[&many(limits::FORWARDED_HOPS_MAX + 1)]);
        refuses(BadForwarded::TooManyHops, &vec!["10.0.0.2"; limits::FORWARDED_HOPS_MAX + 1]);
    }

    #[test]
    fn mutated_lists_keep_the_promises() {
        let seeds = [
            "198.51.100.7, 10.0.0.1",
            "1.1.1.1:80,[2001:db9::1]:443\n2001:db8::1",
            "::ffff:10.0.0.1, 127.0.0.1",
            "10.0.0.1\n10.0.0.2,10.0.0.3",
        ];
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for round in 0..20_000 {
            let mut data = seeds[round % seeds.len()].as_bytes().to_vec();
            for _ in 0..round % 5 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                let [place, byte, kind, ..] = state.to_le_bytes();
                let place = usize::from(place) % data.len();
                match kind % 4 {
                    0 => data[place] = byte,
                    1 => data[place] = b"0123456789abcdef:.[], \n"[usize::from(byte) % 23],
                    2 => data.insert(place, b",:[]\n "[usize::from(byte) % 6]),
                    _ => data.truncate(place + 1),
                }
            }
            fuzz_client(&data);
        }
    }
}
