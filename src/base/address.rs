//! Which addresses belong to the public internet: the last thing asked before a connection to a provider is made.
//!
//! An address is public only if no entry of IANA's special-purpose registries (RFC 6890 and successors) takes it out;
//! an IPv6 address that carries an IPv4 address inside it is as public as what it carries, or not at all.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether `ip` is a globally reachable unicast address.
pub fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

/// Networks that are not the public internet: first address, prefix length. The few anycast addresses that the
/// registry takes back out of a block (192.0.0.9, 2001:1::1 …) serve no HTTP and stay in.
const SPECIAL_V4: [(Ipv4Addr, u32); 15] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),       // this network, RFC 791
    (Ipv4Addr::new(10, 0, 0, 0), 8),      // private, RFC 1918
    (Ipv4Addr::new(100, 64, 0, 0), 10),   // carrier-grade NAT, RFC 6598
    (Ipv4Addr::new(127, 0, 0, 0), 8),     // loopback, RFC 1122
    (Ipv4Addr::new(169, 254, 0, 0), 16),  // link-local and cloud metadata, RFC 3927
    (Ipv4Addr::new(172, 16, 0, 0), 12),   // private, RFC 1918
    (Ipv4Addr::new(192, 0, 0, 0), 24),    // protocol assignments, RFC 6890
    (Ipv4Addr::new(192, 0, 2, 0), 24),    // documentation, RFC 5737
    (Ipv4Addr::new(192, 88, 99, 0), 24),  // 6to4 relays, deprecated, RFC 7526
    (Ipv4Addr::new(192, 168, 0, 0), 16),  // private, RFC 1918
    (Ipv4Addr::new(198, 18, 0, 0), 15),   // benchmarking, RFC 2544
    (Ipv4Addr::new(198, 51, 100, 0), 24), // documentation, RFC 5737
    (Ipv4Addr::new(203, 0, 113, 0), 24),  // documentation, RFC 5737
    (Ipv4Addr::new(224, 0, 0, 0), 4),     // multicast, RFC 1112
    (Ipv4Addr::new(240, 0, 0, 0), 4),     // reserved and broadcast, RFC 1112, RFC 919
];

fn is_public_v4(ip: Ipv4Addr) -> bool {
    !SPECIAL_V4.iter().any(|&(net, bits)| (ip.to_bits() ^ net.to_bits()) >> (32 - bits) == 0)
}

/// Blocks inside global unicast (2000::/3) that are not the public internet.
const SPECIAL_V6: [(Ipv6Addr, u32); 4] = [
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23), // protocol assignments with Teredo and ORCHID, RFC 2928
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32), // documentation, RFC 3849
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16), // 6to4: carries an IPv4 address, deprecated, RFC 7526
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20), // documentation, RFC 9637
];

/// Global unicast, and the only block outside it with public addresses: NAT64's well-known prefix (RFC 6052).
const GLOBAL_UNICAST: (Ipv6Addr, u32) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);
const NAT64: (Ipv6Addr, u32) = (Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96);

fn is_public_v6(ip: Ipv6Addr) -> bool {
    if let Some(inner) = ip.to_ipv4_mapped() {
        return is_public_v4(inner);
    }
    if lies_in(ip, NAT64) {
        // A host behind DNS64 reaches every IPv4 provider this way, so what is translated to is what counts.
        let [.., a, b, c, d] = ip.octets();
        return is_public_v4(Ipv4Addr::new(a, b, c, d));
    }
    // Unspecified, loopback, IPv4-compatible, local NAT64 (64:ff9b:1::/48), discard (100::/64), segment routing
    // (5f00::/16), unique local (fc00::/7), link-local (fe80::/10), site-local (fec0::/10), multicast: all outside.
    lies_in(ip, GLOBAL_UNICAST) && !SPECIAL_V6.iter().any(|&net| lies_in(ip, net))
}

fn lies_in(ip: Ipv6Addr, (net, bits): (Ipv6Addr, u32)) -> bool {
    (ip.to_bits() ^ net.to_bits()) >> (128 - bits) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(public: bool, addresses: &[&str]) {
        for text in addresses {
            let ip: IpAddr = text.parse().unwrap_or_else(|_| panic!("{text} is an address"));
            assert_eq!(is_public(ip), public, "{text}");
        }
    }

    #[test]
    fn ordinary_addresses_are_public() {
        check(true, &["1.1.1.1", "8.8.8.8", "104.18.6.192", "47.236.0.1", "223.255.255.254", "192.0.1.0"]);
        check(true, &["2606:4700::6812:6c0", "2400:3200::1", "2a00:1450:4001::200e", "2001:4860:4860::8888"]);
    }

    #[test]
    fn each_special_block_ends_exactly_where_the_registry_says() {
        check(false, &["0.0.0.0", "0.255.255.255", "10.0.0.0", "10.255.255.255"]);
        check(true, &["1.0.0.0", "9.255.255.255", "11.0.0.0"]);
        check(false, &["100.64.0.0", "100.127.255.255", "127.0.0.1", "127.255.255.255"]);
        check(true, &["100.63.255.255", "100.128.0.0", "126.255.255.255", "128.0.0.0"]);
        check(false, &["169.254.0.0", "169.254.169.254", "169.254.255.255", "172.16.0.0", "172.31.255.255"]);
        check(true, &["169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0"]);
        check(false, &["192.0.0.0", "192.0.0.170", "192.0.0.255", "192.0.2.1", "192.88.99.1", "192.168.0.1"]);
        check(
            true,
            &[
                "191.255.255.255",
                "192.0.3.0",
                "192.88.98.255",
                "192.88.100.0",
                "192.167.255.255",
                "192.169.0.0",
            ],
        );
        check(false, &["198.18.0.0", "198.19.255.255", "198.51.100.7", "203.0.113.9"]);
        check(true, &["198.17.255.255", "198.20.0.0", "198.51.99.255", "203.0.112.255", "203.0.114.0"]);
        check(false, &["224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255"]);
    }

    #[test]
    fn special_ipv6_is_not_public() {
        check(false, &["::", "::1", "::7f00:1", "::808:808", "100::1", "100:0:0:1::1", "5f00::1"]);
        check(
            false,
            &[
                "64:ff9b:1::",
                "64:ff9b:1::808:808",
                "64:ff9b:1:ffff:ffff:ffff:ffff:ffff",
                "64:ff9b:2::808:808",
            ],
        );
        check(
            false,
            &["2001::1", "2001:1::1", "2001:20::1", "2001:1ff:ffff::1", "2001:db8::1", "2001:db8:ffff::1"],
        );
        check(
            false,
            &["2002::1", "2002:808:808::1", "2002:7f00:1::1", "2002:ffff::1", "3fff::1", "3fff:fff:ffff::1"],
        );
        check(
            false,
            &["fc00::1", "fd12:3456::1", "fe80::1", "febf::1", "fec0::1", "feff::1", "ff02::1", "ffff::1"],
        );
        check(true, &["2001:200::1", "2001:db7::1", "2001:db9::1", "2003::1", "3fff:1000::1", "3ffe::1"]);
    }

    #[test]
    fn an_address_inside_an_address_is_judged_by_the_inner_one() {
        check(false, &["::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:0.0.0.0"]);
        check(true, &["::ffff:8.8.8.8"]);
        check(false, &["64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b::a00:1", "64:ff9b::6440:1"]);
        check(true, &["64:ff9b::808:808"]);
    }
}
