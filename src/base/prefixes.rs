//! Sets of IPv4 and IPv6 networks: who may come in, and whose word is taken for where a client is.
//!
//! Two networks either lie one inside the other or have nothing in common, so a set is kept as sorted ranges of which
//! none touches another's inside, and an address is looked up in the one range that begins at or before it. An IPv4
//! address inside IPv6 (`::ffff:0:0/96`) is that IPv4 address, in what is asked and in what is stored: `::/0` is every
//! IPv6 address and no IPv4 one.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// Whom an operator lets in: deny wins, and a list of the allowed that is there but empty allows nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessList {
    /// `None`: everyone who is not denied.
    pub allow: Option<Prefixes>,
    pub deny: Prefixes,
}

impl AccessList {
    /// Whether a client at this address may come in.
    pub fn permits(&self, ip: IpAddr) -> bool {
        !self.deny.contains(ip) && self.allow.as_ref().is_none_or(|allow| allow.contains(ip))
    }
}

/// A set of networks that never changes.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Prefixes {
    v4: Ranges<u32>,
    v6: Ranges<u128>,
}

impl Prefixes {
    /// Whether one of the networks holds this address.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match ip.to_canonical() {
            IpAddr::V4(ip) => self.v4.contains(ip.to_bits()),
            IpAddr::V6(ip) => self.v6.contains(ip.to_bits()),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.v4.ranges.is_empty() && self.v6.ranges.is_empty()
    }
}

impl FromIterator<Prefix> for Prefixes {
    fn from_iter<I: IntoIterator<Item = Prefix>>(prefixes: I) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for prefix in prefixes {
            match prefix.network {
                IpAddr::V4(first) => {
                    let first = first.to_bits();
                    v4.push((first, first | host_bits_v4(prefix.length)));
                }
                IpAddr::V6(first) => {
                    let first = first.to_bits();
                    v6.push((first, first | host_bits_v6(prefix.length)));
                }
            }
        }
        Self { v4: Ranges::new(v4), v6: Ranges::new(v6) }
    }
}

// A hundred thousand networks are not for a log.
impl fmt::Debug for Prefixes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Prefixes({} of IPv4, {} of IPv6)", self.v4.ranges.len(), self.v6.ranges.len())
    }
}

/// One network: an address whose host bits are all zero, and the number of bits before them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prefix {
    network: IpAddr,
    length: u8,
}

impl Prefix {
    /// Whether it is all of IPv4 or all of IPv6.
    pub fn is_everyone(self) -> bool {
        self.length == 0
    }

    /// The network of this length that the address lies in. `length` is at most the family's number of bits.
    fn around(ip: IpAddr, length: u8) -> Self {
        let network = match ip {
            IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() & !host_bits_v4(length)).into(),
            IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !host_bits_v6(length)).into(),
        };
        match network {
            // 96: the bits of `::ffff:0:0/96`, which an IPv4 address does not have.
            IpAddr::V6(inside) if length >= 96 && inside.to_ipv4_mapped().is_some() => {
                Self { network: network.to_canonical(), length: length - 96 }
            }
            _ => Self { network, length },
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.length)
    }
}

/// `192.0.2.0/24`, `2001:db8::/32`, or an address alone, which is a network of one.
impl FromStr for Prefix {
    type Err = BadPrefix;

    fn from_str(text: &str) -> Result<Self, BadPrefix> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        // std's own grammar: no leading zeros in IPv4, no zone in IPv6, nothing around them.
        let ip: IpAddr = address.parse().map_err(|_| BadPrefix::NotAnAddress)?;
        let bits = if ip.is_ipv4() { 32 } else { 128 };
        let length = match length {
            None => bits,
            Some(digits) => {
                number(digits).filter(|length| *length <= bits).ok_or(BadPrefix::Length { bits })?
            }
        };
        let prefix = Self::around(ip, length);
        if prefix.network != ip.to_canonical() {
            return Err(BadPrefix::HostBits { network: prefix });
        }
        Ok(prefix)
    }
}

/// Why a text is no network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadPrefix {
    NotAnAddress,
    /// What stands behind the slash is not a number from 0 to `bits`, written plainly.
    Length {
        bits: u8,
    },
    /// Bits behind the length are set: either the length or the address is not what was meant.
    HostBits {
        /// The network of that length which the address lies in.
        network: Prefix,
    },
}

impl fmt::Display for BadPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAnAddress => f.write_str("not an IPv4 or IPv6 network"),
            Self::Length { bits } => write!(f, "the length of this network is not a number from 0 to {bits}"),
            Self::HostBits { network } => {
                write!(f, "bits are set behind the length: the network is {network}")
            }
        }
    }
}

impl std::error::Error for BadPrefix {}

/// A number of up to three digits as one would write it: without sign and leading zeros.
fn number(digits: &str) -> Option<u8> {
    let plain =
        digits.bytes().all(|byte| byte.is_ascii_digit()) && (digits.len() == 1 || !digits.starts_with('0'));
    digits.parse().ok().filter(|_| plain)
}

fn host_bits_v4(length: u8) -> u32 {
    u32::MAX.checked_shr(length.into()).unwrap_or(0)
}

fn host_bits_v6(length: u8) -> u128 {
    u128::MAX.checked_shr(length.into()).unwrap_or(0)
}

/// Disjoint ranges in order, under two levels of fences: a tree whose nodes are searched whole.
///
/// What it costs depends on the number of ranges alone. A table over the first bits of an address would do as well for
/// IPv4 spread evenly, but registries give out IPv6 from few /12s, where all ranges would share a handful of its
/// entries. Of 100,000 IPv6 ranges the roof is 6 KiB, the fences 100 KiB and the ranges 3 MiB: what is searched by halves
/// lies in the first-level cache, and in what does not, a node's lines are fetched at once and not one after the other.
#[derive(Clone, PartialEq, Eq)]
struct Ranges<T> {
    /// The first of each node of fences.
    roof: Box<[T]>,
    /// The first address of each node of ranges.
    fences: Box<[T]>,
    // ranges[i].0 <= ranges[i].1 < ranges[i + 1].0
    ranges: Box<[(T, T)]>,
}

/// Entries of a node.
const NODE: usize = 16;

impl<T> Default for Ranges<T> {
    fn default() -> Self {
        Self { roof: Box::default(), fences: Box::default(), ranges: Box::default() }
    }
}

impl<T: Ord + Copy> Ranges<T> {
    /// Of ranges that are networks: any two lie one inside the other or are disjoint.
    fn new(mut ranges: Vec<(T, T)>) -> Self {
        // The widest of those that begin together comes first.
        ranges.sort_unstable_by(|(a, a_last), (b, b_last)| a.cmp(b).then(b_last.cmp(a_last)));
        let mut end = None;
        ranges.retain(|&(first, last)| {
            let is_outside = end.is_none_or(|end| first > end);
            if is_outside {
                end = Some(last);
            }
            is_outside
        });
        let fences: Box<[T]> = ranges.iter().step_by(NODE).map(|(first, _)| *first).collect();
        let roof = fences.iter().step_by(NODE).copied().collect();
        Self { roof, fences, ranges: ranges.into() }
    }

    fn contains(&self, address: T) -> bool {
        let begun = self.roof.partition_point(|first| *first <= address);
        // From here on each node has an entry at or before the address: its first, which stands in the level above.
        let Some(at) = begun.checked_sub(1) else { return false };
        let node = node_of(&self.fences, at);
        let at = at * NODE + node.iter().map(|first| usize::from(*first <= address)).sum::<usize>() - 1;
        let node = node_of(&self.ranges, at);
        let at = node.iter().map(|(first, _)| usize::from(*first <= address)).sum::<usize>() - 1;
        address <= node[at].1
    }
}

fn node_of<E>(level: &[E], at: usize) -> &[E] {
    let rest = &level[at * NODE..];
    &rest[..rest.len().min(NODE)]
}

/// What parses is written the same way again, and a set of it holds exactly its addresses.
#[cfg(any(test, feature = "fuzzing"))]
pub fn fuzz_prefix(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match text.parse::<Prefix>() {
        Ok(prefix) => {
            assert_eq!(prefix.to_string().parse(), Ok(prefix), "it is read as it is written");
            let set: Prefixes = [prefix].into_iter().collect();
            assert!(set.contains(prefix.network), "a network holds its first address");
        }
        Err(BadPrefix::HostBits { network }) => {
            assert_eq!(network.to_string().parse(), Ok(network), "the network that is advised is one");
        }
        Err(BadPrefix::NotAnAddress | BadPrefix::Length { .. }) => {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn prefixes(texts: &[&str]) -> Prefixes {
        texts.iter().map(|text| prefix(text)).collect()
    }

    #[track_caller]
    fn parses(text: &str, expect: &str) {
        assert_eq!(text.parse::<Prefix>().map(|prefix| prefix.to_string()), Ok(expect.to_owned()));
    }

    #[track_caller]
    fn refuses(texts: &[&str], expect: &str) {
        for text in texts {
            let words = text.parse::<Prefix>().map_err(|error| error.to_string());
            assert_eq!(words, Err(expect.to_owned()), "{text:?}");
        }
    }

    #[test]
    fn networks_are_read_strictly() {
        parses("10.0.0.0/8", "10.0.0.0/8");
        parses("0.0.0.0/0", "0.0.0.0/0");
        parses("192.0.2.7/32", "192.0.2.7/32");
        parses("192.0.2.7", "192.0.2.7/32");
        parses("2001:DB8::/32", "2001:db8::/32");
        parses("::/0", "::/0");
        parses("::1", "::1/128");
        refuses(
            &[
                "",
                "/",
                "/8",
                " 10.0.0.0/8",
                "10.0.0.0 /8",
                "10.0.0/8",
                "010.0.0.0/8",
                "0x0a.0.0.0/8",
                "10.0.0.0.0/8",
                "256.0.0.0/8",
                "[::]/0",
                "fe80::%eth0/64",
                "fe80::%1",
                "1::2::3/128",
                "::12345/128",
                "localhost",
                "10.0.0.1:80",
            ],
            "not an IPv4 or IPv6 network",
        );
        refuses(
            &[
                "1.0.0.0/",
                "1.0.0.0/33",
                "1.0.0.0/08",
                "1.0.0.0/+8",
                "1.0.0.0/-1",
                "1.0.0.0/8 ",
                "1.0.0.0/8/8",
            ],
            "the length of this network is not a number from 0 to 32",
        );
        refuses(
            &["::/", "::/129", "::/00", "::/256", "::/0x8", "::/255.0.0.0", "::/999999999999999999999"],
            "the length of this network is not a number from 0 to 128",
        );
    }

    #[test]
    fn bits_behind_the_length_are_told_with_the_network_that_was_meant() {
        refuses(&["10.0.0.1/8", "10.255.0.0/8"], "bits are set behind the length: the network is 10.0.0.0/8");
        refuses(&["1.2.3.4/0"], "bits are set behind the length: the network is 0.0.0.0/0");
        refuses(&["2001:db8::1/32"], "bits are set behind the length: the network is 2001:db8::/32");
        refuses(&["::ffff:10.0.0.1/104"], "bits are set behind the length: the network is 10.0.0.0/8");
        refuses(&["::ffff:10.0.0.0/95"], "bits are set behind the length: the network is ::fffe:0:0/95");
    }

    #[test]
    fn ipv4_inside_ipv6_is_ipv4() {
        parses("::ffff:10.0.0.0/104", "10.0.0.0/8");
        parses("::ffff:0:0/96", "0.0.0.0/0");
        parses("::ffff:192.0.2.7", "192.0.2.7/32");
        let set = prefixes(&["10.0.0.0/8"]);
        assert!(set.contains("::ffff:10.1.2.3".parse().unwrap()));
        assert!(!set.contains("::10.1.2.3".parse().unwrap()), "compatible is not mapped");
        let six = prefixes(&["::/0"]);
        assert!(six.contains("::1".parse().unwrap()) && !six.contains("::ffff:1.1.1.1".parse().unwrap()));
        assert!(!six.contains("1.1.1.1".parse().unwrap()));
    }

    #[track_caller]
    fn check(set: &Prefixes, expect: bool, ips: &[&str]) {
        for ip in ips {
            assert_eq!(set.contains(ip.parse().unwrap()), expect, "{ip}");
        }
    }

    #[test]
    fn a_network_ends_where_its_length_says() {
        let set =
            prefixes(&["10.0.0.0/8", "192.0.2.128/25", "0.0.0.0/32", "255.255.255.255", "2001:db8::/32"]);
        check(&set, true, &["10.0.0.0", "10.255.255.255", "192.0.2.128", "192.0.2.255", "0.0.0.0"]);
        check(&set, true, &["255.255.255.255", "2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"]);
        check(&set, false, &["9.255.255.255", "11.0.0.0", "192.0.2.127", "192.0.3.0", "0.0.0.1"]);
        check(&set, false, &["255.255.255.254", "2001:db7:ffff::", "2001:db9::", "::", "ffff::"]);
        check(&Prefixes::default(), false, &["0.0.0.0", "::", "255.255.255.255"]);
        check(&prefixes(&["0.0.0.0/0"]), true, &["0.0.0.0", "127.0.0.1", "255.255.255.255"]);
    }

    #[test]
    fn networks_inside_others_change_nothing() {
        let set = prefixes(&["10.1.0.0/16", "10.0.0.0/8", "10.0.0.0/8", "10.0.0.0/24", "10.255.255.255"]);
        assert_eq!(set, prefixes(&["10.0.0.0/8"]));
        assert!(!set.is_empty() && prefixes(&[]).is_empty());
    }

    #[test]
    fn deny_wins_and_an_empty_allow_list_permits_nobody() {
        #[track_caller]
        fn check(allow: Option<&[&str]>, deny: &[&str], ip: &str, expect: bool) {
            let list = AccessList { allow: allow.map(prefixes), deny: prefixes(deny) };
            assert_eq!(list.permits(ip.parse().unwrap()), expect, "{list:?} {ip}");
        }
        check(None, &[], "192.0.2.1", true);
        check(None, &["192.0.2.0/24"], "192.0.2.1", false);
        check(None, &["192.0.2.0/24"], "::ffff:192.0.2.1", false);
        check(None, &["192.0.2.0/24"], "2001:db8::1", true);
        check(Some(&[]), &[], "192.0.2.1", false);
        check(Some(&["192.0.2.0/24"]), &[], "192.0.2.1", true);
        check(Some(&["192.0.2.0/24"]), &[], "192.0.3.1", false);
        check(Some(&["192.0.2.0/24"]), &["192.0.2.1"], "192.0.2.1", false);
        check(Some(&["192.0.2.1"]), &["192.0.2.0/24"], "192.0.2.1", false);
    }

    fn any_prefix() -> impl Strategy<Value = Prefix> {
        // Few distinct high bits, so that networks nest and neighbour each other.
        let v4 = (0..4u32, any::<u32>(), 0..=32u8).prop_map(|(high, low, length)| {
            Prefix::around(Ipv4Addr::from_bits(high << 30 | low >> 12).into(), length)
        });
        let v6 = (0..4u128, any::<u128>(), 0..=128u8).prop_map(|(high, low, length)| {
            Prefix::around(Ipv6Addr::from_bits(high << 126 | low >> 60).into(), length)
        });
        prop_oneof![v4, v6]
    }

    /// A set by the letter: every network is asked.
    fn naive(prefixes: &[Prefix], ip: IpAddr) -> bool {
        prefixes.iter().any(|prefix| {
            let bits = if ip.is_ipv4() { 32 } else { 128 };
            ip.is_ipv4() == prefix.network.is_ipv4()
                && Prefix::around(ip, prefix.length.min(bits)).network == prefix.network
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        #[test]
        fn a_linear_scan_agrees(list in prop::collection::vec(any_prefix(), 0..700), asked in prop::collection::vec(any_prefix(), 1..40)) {
            let set: Prefixes = list.iter().copied().collect();
            // Both edges of every network, one beyond each, and some others.
            let mut ips: Vec<IpAddr> = asked.iter().map(|prefix| prefix.network).collect();
            for prefix in &list {
                match prefix.network {
                    IpAddr::V4(first) => {
                        let (first, last) = (first.to_bits(), first.to_bits() | host_bits_v4(prefix.length));
                        let edges = [first, first.wrapping_sub(1), last, last.wrapping_add(1)];
                        ips.extend(edges.map(|bits| IpAddr::from(Ipv4Addr::from_bits(bits))));
                    }
                    IpAddr::V6(first) => {
                        let (first, last) = (first.to_bits(), first.to_bits() | host_bits_v6(prefix.length));
                        let edges = [first, first.wrapping_sub(1), last, last.wrapping_add(1)];
                        ips.extend(edges.map(|bits| IpAddr::from(Ipv6Addr::from_bits(bits))));
                    }
                }
            }
            for ip in ips {
                prop_assert_eq!(set.contains(ip), naive(&list, ip.to_canonical()), "{}", ip);
            }
        }
    }

    #[test]
    fn every_node_of_a_large_set_is_found() {
        // Every second address, so that none lies inside another: each count of nodes, whole and broken, and a full roof.
        for count in (0..600).chain([4_095, 4_096, 4_097, 20_000]) {
            let places = [0u32, count / 2, count.saturating_sub(1)].map(|place| place * 2);
            let some: Vec<u32> =
                if count < 600 { (0..count).map(|i| i * 2).collect() } else { places.to_vec() };
            let v4 = |offset: u32| IpAddr::from(Ipv4Addr::from_bits(0x0a00_0000 + offset));
            let v6 = |offset: u32| IpAddr::from(Ipv6Addr::from_bits((0x2a00 << 112) + u128::from(offset)));
            let members =
                (0..count).flat_map(|i| [Prefix::around(v4(i * 2), 32), Prefix::around(v6(i * 2), 128)]);
            let set: Prefixes = members.collect();
            assert_eq!(set.v4.ranges.len() + set.v6.ranges.len(), 2 * count as usize);
            for offset in some.into_iter().filter(|_| count > 0) {
                assert!(set.contains(v4(offset)) && set.contains(v6(offset)), "{offset} of {count}");
                assert!(
                    !set.contains(v4(offset + 1)) && !set.contains(v6(offset + 1)),
                    "{offset} of {count}"
                );
            }
            assert!(
                !set.contains("9.255.255.255".parse().unwrap()) && !set.contains("29ff::1".parse().unwrap())
            );
            assert!(!set.contains(v4(count * 2)) && !set.contains(v6(count * 2)));
        }
    }

    #[test]
    fn mutated_texts_keep_the_promises() {
        let seeds =
            ["10.0.0.0/8", "2001:db8::/32", "::ffff:10.0.0.0/104", "fe80::1%1/64", "255.255.255.255/32"];
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for round in 0..10_000 {
            let mut data = seeds[round % seeds.len()].as_bytes().to_vec();
            for _ in 0..round % 4 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                let [place, byte, kind, ..] = state.to_le_bytes();
                let place = usize::from(place) % data.len();
                match kind % 4 {
                    0 => data[place] = byte,
                    1 => data[place] = b"0123456789abcdef:./%"[usize::from(byte) % 20],
                    2 => data.insert(place, b"0:./"[usize::from(byte) % 4]),
                    _ => data.truncate(place + 1),
                }
            }
            fuzz_prefix(&data);
        }
    }
}
