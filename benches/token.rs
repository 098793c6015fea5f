//! Who is calling: from the header fields to the caller, in tables of one and of 100,000.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use ringway::{
    base::{glob::Glob, ids::Line},
    config::{
        allowance::Allowance,
        callers::{Caller, Callers, Caps, Digests},
    },
    control::state::State,
    policy::credential::{Presented, presented},
    wire::{
        http1::{HeadLimits, parse_request},
        token::{self, DigestKey, TokenId},
    },
};

fn id(number: u32) -> TokenId {
    let mut chance = [0x5a; 10];
    // Spread, as chance would.
    chance[..8].copy_from_slice(&(u64::from(number) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    TokenId::draw(&chance)
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

fn table(count: u32) -> Callers {
    let key = DigestKey::new(&[7; 32]);
    let callers = (0..count).map(|number| {
        let id = id(number);
        (caller(id), Digests { current: key.digest_of(id, &[0x33; 32]), former: None })
    });
    Callers::new(key.clone(), callers.collect()).expect("all differ")
}

fn authenticate(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("token");
    let text = token::render(id(0), &[0x33; 32]);
    group.bench_function("parse", |bencher| {
        bencher.iter(|| token::parse(black_box(text.as_bytes())).is_some())
    });
    let shown = token::parse(text.as_bytes()).expect("a token");
    let key = DigestKey::new(&[7; 32]);
    group.bench_function("digest", |bencher| bencher.iter(|| key.digest(black_box(&shown))));
    for (count, name) in [(1, "of_one"), (100_000, "of_100000")] {
        let callers = table(count);
        // Many different ones, so that a caller's entry is as cold as it would be.
        let texts = |from: u32, to: u32| -> Vec<_> {
            (from..to).map(|number| token::render(id(number), &[0x33; 32])).collect()
        };
        for (what, texts) in
            [("valid", texts(0, count.min(50_000))), ("unknown", texts(count, count + count.min(50_000)))]
        {
            let mut turn = 0;
            group.bench_function(format!("authenticate_{what}_{name}"), |bencher| {
                bencher.iter(|| {
                    turn = (turn + 7_919) % texts.len();
                    let token = token::parse(black_box(texts[turn].as_bytes())).expect("a token");
                    callers.authenticate(&token, 0).is_ok()
                });
            });
        }
    }
    group.finish();
}

fn header(criterion: &mut Criterion) {
    let text = token::render(id(0), &[0x33; 32]);
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost:8080\r\nAccept-Encoding: gzip, deflate\r\n\
         Connection: keep-alive\r\nAccept: application/json\r\nContent-Type: application/json\r\n\
         User-Agent: OpenAI/Python 1.109.1\r\nX-Stainless-Lang: python\r\nX-Stainless-Package-Version: 1.109.1\r\n\
         X-Stainless-OS: Linux\r\nX-Stainless-Arch: x64\r\nX-Stainless-Runtime: CPython\r\n\
         X-Stainless-Runtime-Version: 3.13.5\r\nAuthorization: Bearer {}\r\nX-Stainless-Async: false\r\n\
         x-stainless-retry-count: 0\r\nx-stainless-read-timeout: 600\r\nContent-Length: 187\r\n\r\n",
        text.as_str()
    );
    let parsed = parse_request(head.as_bytes(), HeadLimits::default()).expect("lawful").expect("whole");
    let callers = table(100_000);
    let mut group = criterion.benchmark_group("token");
    group.bench_function("presented_17_fields", |bencher| {
        bencher.iter(|| matches!(presented(black_box(&parsed.fields), head.as_bytes()), Presented::One(_)));
    });
    group.bench_function("presented_and_authenticated", |bencher| {
        bencher.iter(|| match presented(black_box(&parsed.fields), head.as_bytes()) {
            Presented::One(token) => callers.authenticate(&token, 0).is_ok(),
            _ => false,
        });
    });
    group.finish();
    let (globs, name) = ([Glob::new("openai/*"), Glob::new("*/gpt-4o*")], "groq/gpt-4o-mini");
    criterion.bench_function("glob/two_patterns", |bencher| {
        bencher.iter(|| globs.iter().any(|glob| glob.matches(black_box(name))));
    });
}

/// What a change costs the thread that follows the state: the whole table, read and built anew.
fn load(criterion: &mut Criterion) {
    let directory = std::env::temp_dir().join(format!("ringway-bench-state-{}", std::process::id()));
    let state = State::open(&directory).expect("it can be made");
    let mut database = rusqlite::Connection::open(directory.join("ringway.db")).expect("it opens");
    let filling = database.transaction().expect("it begins");
    {
        let insert = "INSERT INTO caller (id, name, digest, created_unix_ms, enabled, settings) VALUES (?, ?, ?, 0, 1, ?)";
        let mut insert = filling.prepare(insert).expect("the table is there");
        let settings = r#"{"models":["openai/*","groq/*"],"allow":["10.0.0.0/8"],"tags":["team:search"],
            "limits":[{"measure":"requests_per_minute","most":60},{"measure":"tokens_per_day","most":1000000}]}"#;
        for number in 0..100_000 {
            let row = (id(number).as_str().to_owned(), format!("caller-{number}"), [1u8; 32], settings);
            insert.execute(row).expect("inserted");
        }
    }
    filling.commit().expect("it ends");
    let before = resident_bytes();
    let callers = state.callers().expect("they can be read");
    println!(
        "{} callers take {} bytes each",
        callers.len(),
        resident_bytes().saturating_sub(before) / callers.len()
    );
    let mut group = criterion.benchmark_group("state");
    group.sample_size(10);
    group.bench_function("load_100000_callers", |bencher| {
        bencher.iter(|| state.callers().expect("read").len())
    });
    group.finish();
    let _ = std::fs::remove_dir_all(directory);
}

fn resident_bytes() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    pages.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).expect("a number of pages") * 4096
}

// The table's size is read off the process before others have left room in it.
criterion_group!(benches, load, authenticate, header);
criterion_main!(benches);
