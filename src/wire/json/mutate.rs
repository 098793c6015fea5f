//! Test help: a seeded stream of damaged inputs. The same seeds give the same inputs, so a failure can be repeated.

/// xorshift64*: enough chance for tests, and no dependency.
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn seeded(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// A number below `bound`, which is not zero.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let wide = u128::from(self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)) * bound as u128;
        usize::try_from(wide >> 64).expect("below the bound")
    }
}

/// Bytes that mean something to the readers under test.
const TELLING: &[u8] = b"{}[]\",:\\u0eE+-.dD \t\r\n\0tfn\xFF\xC3\xA9-";

/// Hands `check` every seed, then `count` seeds with one to four mutations each.
pub(crate) fn each(seeds: &[&[u8]], count: usize, mut check: impl FnMut(&[u8])) {
    seeds.iter().for_each(|seed| check(seed));
    let mut chance = Chance::seeded(0x5EED);
    for _ in 0..count {
        let mut data = seeds[chance.below(seeds.len())].to_vec();
        for _ in 0..=chance.below(4) {
            mutate(&mut data, seeds, &mut chance);
        }
        check(&data);
    }
}

fn mutate(data: &mut Vec<u8>, seeds: &[&[u8]], chance: &mut Chance) {
    let at = chance.below(data.len() + 1);
    let telling = TELLING[chance.below(TELLING.len())];
    match chance.below(6) {
        0 if at < data.len() => data[at] = telling,
        1 if at < data.len() => drop(data.remove(at)),
        2 => data.insert(at, telling),
        3 => data.truncate(at),
        4 => {
            let end = (at + chance.below(12)).min(data.len());
            let again = data[at..end].to_vec();
            data.splice(at..at, again);
        }
        _ => {
            let other = seeds[chance.below(seeds.len())];
            let from = chance.below(other.len() + 1);
            let end = (from + chance.below(24)).min(other.len());
            data.splice(at..at, other[from..end].iter().copied());
        }
    }
}
