//! Whether the time it takes to refuse a token tells what is wrong with it: an unknown id, the secret's first character, or
//! its last.
//!
//! `cargo bench --bench token_timing` measures the three in random order in one process, as dudect does (Reparaz et al.,
//! "Dude, is my code constant time?"), and prints Welch's t of each pair, over all measurements and over those below
//! several percentiles. It fails where |t| reaches 4.5. A number behind `--` sets how many of each are measured. Not a
//! gate: a busy machine can raise it, and then it is to be run again.
//!
//! The table is small enough to stay in the first cache: which of its lines other callers have warmed is another matter,
//! and says nothing about a secret.

use std::{hint::black_box, process::ExitCode};

use ringway::{
    base::ids::Line,
    config::{
        allowance::Allowance,
        callers::{Caller, Callers, Caps, Digests},
    },
    wire::token::{self, DigestKey, SECRET_TEXT_BYTES, TOKEN_BYTES, TokenId},
};

const KINDS: [&str; 3] = ["unknown id", "wrong at its first", "wrong at its last"];
const CALLERS: usize = 64;
const T_MAX: f64 = 4.5;
/// Measured before anything counts.
const WARM_UP: usize = 20_000;

fn main() -> ExitCode {
    let number = std::env::args().find_map(|argument| argument.parse().ok());
    // Without `cargo bench` this only shows that it runs.
    let is_bench = std::env::args().any(|argument| argument == "--bench");
    let count: usize = number.unwrap_or(if is_bench { 1_000_000 } else { 1_000 });
    let mut chance = Chance(0x5eed_d0de);
    let key = DigestKey::new(&std::array::from_fn(|_| chance.byte()));
    let known: Vec<_> = (0..CALLERS).map(|_| drawn(&mut chance)).collect();
    let callers = known
        .iter()
        .map(|(id, secret)| (caller(*id), Digests { current: key.digest_of(*id, secret), former: None }));
    let callers = Callers::new(key.clone(), callers.collect()).expect("all differ");

    // As many different tokens of each kind as there are callers.
    let tokens: [Vec<[u8; TOKEN_BYTES]>; 3] = std::array::from_fn(|kind| {
        let wrong = known.iter().map(|(id, secret)| match kind {
            0 => text(drawn(&mut chance).0, secret),
            1 => {
                let mut text = text(*id, secret);
                let first = TOKEN_BYTES - SECRET_TEXT_BYTES;
                text[first] = if text[first] == b'a' { b'b' } else { b'a' };
                text
            }
            _ => {
                let mut text = text(*id, secret);
                let last = TOKEN_BYTES - 1;
                // One bit is all that the last character may say.
                text[last] = if text[last] == b'a' { b'q' } else { b'a' };
                text
            }
        });
        wrong.collect()
    });
    for token in tokens.iter().flatten() {
        let token = token::parse(token).expect("it has the form");
        assert!(callers.authenticate(&token, 0).is_err(), "it is wrong");
    }

    let clock = quanta::Clock::new();
    let mut taken: [Vec<f64>; 3] = std::array::from_fn(|_| Vec::with_capacity(count));
    // One place for all, so that what is measured starts from the same lines of the cache.
    let mut shown = [0; TOKEN_BYTES];
    for turn in 0..WARM_UP + 3 * count {
        let kind = chance.below(3);
        shown.copy_from_slice(&tokens[kind][chance.below(known.len())]);
        let before = clock.raw();
        let is_in =
            token::parse(black_box(&shown)).is_some_and(|token| callers.authenticate(&token, 0).is_ok());
        let after = clock.raw();
        assert!(!black_box(is_in));
        if turn >= WARM_UP {
            taken[kind].push(clock.delta_as_nanos(before, after) as f64);
        }
    }

    let mut all: Vec<f64> = taken.iter().flatten().copied().collect();
    all.sort_by(f64::total_cmp);
    let below = |permille: usize| all[(all.len() - 1) * permille / 1_000];
    println!("{} measurements; median {} ns, p99 {} ns", all.len(), below(500), below(990));
    let mut t_most = 0.0_f64;
    for permille in [500, 750, 900, 950, 990, 1_000] {
        let most = below(permille);
        let kept = taken.each_ref().map(|taken| Moments::of(taken.iter().copied().filter(|ns| *ns <= most)));
        for (a, b) in [(0, 1), (0, 2), (1, 2)] {
            let t = welch(&kept[a], &kept[b]);
            t_most = t_most.max(t.abs());
            println!(
                "up to p{:<5} {:>18} {:8.2} ns   {:>18} {:8.2} ns   t = {t:6.2}",
                permille / 10,
                KINDS[a],
                kept[a].mean,
                KINDS[b],
                kept[b].mean
            );
        }
    }
    println!("largest |t| = {t_most:.2}, {} {T_MAX}", if t_most < T_MAX { "below" } else { "NOT below" });
    if t_most < T_MAX || !is_bench { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn drawn(chance: &mut Chance) -> (TokenId, [u8; 32]) {
    let id = TokenId::draw(&std::array::from_fn(|_| chance.byte()));
    (id, std::array::from_fn(|_| chance.byte()))
}

fn text(id: TokenId, secret: &[u8; 32]) -> [u8; TOKEN_BYTES] {
    token::render(id, secret).as_bytes().try_into().expect("its length is fixed")
}

fn caller(id: TokenId) -> Caller {
    Caller {
        id,
        name: id.as_str().into(),
        expires_unix_ms: None,
        enabled: true,
        models: Box::default(),
        routes: Box::default(),
        endpoints: None,
        access: None,
        allowance: Allowance::default(),
        line: Line(0),
        caps: Caps::default(),
        on_disconnect: None,
        tags: Box::default(),
        log_payload: None,
    }
}

struct Moments {
    count: f64,
    mean: f64,
    variance: f64,
}

impl Moments {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let (mut count, mut mean, mut squares) = (0.0, 0.0, 0.0);
        for value in values {
            count += 1.0;
            let off = value - mean;
            mean += off / count;
            squares += off * (value - mean);
        }
        Self { count, mean, variance: squares / (count - 1.0_f64).max(1.0) }
    }
}

fn welch(a: &Moments, b: &Moments) -> f64 {
    let spread = (a.variance / a.count.max(1.0) + b.variance / b.count.max(1.0)).sqrt();
    if spread == 0.0 { 0.0 } else { (a.mean - b.mean) / spread }
}

struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).expect("64 bits") % bound
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.below(256)).expect("a byte")
    }
}
