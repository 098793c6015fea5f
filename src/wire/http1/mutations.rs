//! Pseudo-random inputs for the tests of this module, the same in every run.

/// Xorshift64: enough chance for a test, and its seed is its whole state.
pub(super) struct Chance(u64);

impl Chance {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// A number below `bound`, which is not zero.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap_or(0) % bound
    }
}

/// What the grammar turns on; put in where it does the most harm.
const PIECES: &[&[u8]] = &[
    b"\r\n",
    b"\r",
    b"\n",
    b"\r\n\r\n",
    b"\0",
    b" ",
    b"\t",
    b":",
    b"0",
    b"f",
    b";",
    b"%2f",
    b"/",
    b"..",
    b"#",
    b"\x7f",
    b"\xff",
    b"content-length: 1\r\n",
    b"transfer-encoding: chunked\r\n",
    b"host: h\r\n",
    b"connection: close\r\n",
    b"expect: 100-continue\r\n",
    b"0\r\n\r\n",
    b"5\r\nhello\r\n",
    b"a: b\r\n",
    b"HTTP/1.1",
    b"ffffffffffffffff",
];

/// Gives `check` every seed, every prefix of it, and `rounds` changed copies.
pub(super) fn run(seeds: &[&[u8]], rounds: usize, check: impl Fn(&[u8])) {
    for seed in seeds {
        (0..=seed.len()).for_each(|end| check(&seed[..end]));
    }
    let mut chance = Chance::new(0x5eed_0001);
    for _ in 0..rounds {
        let mut input = seeds[chance.below(seeds.len())].to_vec();
        for _ in 0..=chance.below(4) {
            let at = chance.below(input.len() + 1);
            match chance.below(4) {
                0 => {
                    let piece = PIECES[chance.below(PIECES.len())];
                    input.splice(at..at, piece.iter().copied());
                }
                1 if at < input.len() => input[at] = u8::try_from(chance.below(256)).unwrap_or(0),
                2 => {
                    let end = (at + 1 + chance.below(8)).min(input.len());
                    input.drain(at..end);
                }
                _ => {
                    let end = (at + chance.below(40)).min(input.len());
                    let copy = input[at..end].to_vec();
                    input.splice(at..at, copy);
                }
            }
        }
        check(&input);
    }
}
