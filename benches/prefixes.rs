//! What it costs to look an address up among 100,000 networks, half of them IPv4, half IPv6: with every network anywhere,
//! and with IPv6 in the few blocks that registries give out.

use std::{
    hint::black_box,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use criterion::{Criterion, criterion_group, criterion_main};
use ringway::base::prefixes::{Prefix, Prefixes};

const NETWORKS: usize = 100_000;
/// Addresses asked for in turn: more than branch predictors and caches learn by heart.
const ASKED: usize = 1 << 16;

struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() >> 33).unwrap_or(0) % bound
    }

    fn address(&mut self, is_v4: bool, blocks: &[u16]) -> IpAddr {
        let (high, low) = (self.next(), self.next());
        if is_v4 {
            return Ipv4Addr::from(low.to_be_bytes().first_chunk::<4>().copied().unwrap_or_default()).into();
        }
        let bits = u128::from(high) << 64 | u128::from(low);
        match blocks {
            [] => Ipv6Addr::from(bits | 1 << 127).into(),
            blocks => {
                let block = u128::from(blocks[self.below(blocks.len())]);
                Ipv6Addr::from(bits >> 12 | block << 112).into()
            }
        }
    }
}

fn network(ip: IpAddr, length: usize) -> Prefix {
    let text = match ip {
        IpAddr::V4(ip) => format!("{}/{length}", Ipv4Addr::from(u32::from(ip) & !0 << (32 - length))),
        IpAddr::V6(ip) => format!("{}/{length}", Ipv6Addr::from(u128::from(ip) & !0 << (128 - length))),
    };
    text.parse().expect("a network")
}

fn prefixes(c: &mut Criterion) {
    let mut group = c.benchmark_group("prefixes, 100,000 networks");
    for (name, blocks) in [("anywhere", &[][..]), ("registries", &[0x2400, 0x2600, 0x2800, 0x2a00][..])] {
        let mut chance = Chance(0x5eed_0001);
        let members: Vec<(IpAddr, usize)> = (0..NETWORKS)
            .map(|i| {
                let is_v4 = i % 2 == 0;
                let length = if is_v4 { 20 + chance.below(13) } else { 36 + chance.below(29) };
                (chance.address(is_v4, blocks), length)
            })
            .collect();
        let set: Prefixes = members.iter().map(|(ip, length)| network(*ip, *length)).collect();
        for is_v4 in [true, false] {
            let family = if is_v4 { "IPv4" } else { "IPv6" };
            let of_family: Vec<IpAddr> =
                members.iter().map(|(ip, _)| *ip).filter(|ip| ip.is_ipv4() == is_v4).collect();
            let hits: Vec<IpAddr> = (0..ASKED).map(|_| of_family[chance.below(of_family.len())]).collect();
            let misses: Vec<IpAddr> = std::iter::repeat_with(|| chance.address(is_v4, blocks))
                .filter(|ip| !set.contains(*ip))
                .take(ASKED)
                .collect();
            for (kind, asked) in [("hit", &hits), ("miss", &misses)] {
                let mut turn = 0;
                group.bench_function(format!("{name}: {family} {kind}"), |b| {
                    b.iter(|| {
                        turn = (turn + 1) % ASKED;
                        set.contains(black_box(asked[turn]))
                    });
                });
            }
        }
    }
    group.finish();
}

criterion_group!(benches, prefixes);
criterion_main!(benches);
