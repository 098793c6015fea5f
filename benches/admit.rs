//! What admission costs a request: token, address list and three limits, then the same limits again for its tokens.

use std::{hint::black_box, num::NonZeroU64, sync::Arc, thread};

use criterion::{Criterion, criterion_group, criterion_main};
use ringway::{
    base::{glob::Glob, ids::LineRoll, now::Now},
    bridge::{health::HealthBoard, quota::QuotaBoard},
    config::{
        self, Process, Snapshot,
        allowance::{Allowance, Limit, Measure, Rate},
        callers::{Caller, Callers, Caps, Digests},
    },
    policy::{
        admit::{Knock, Visitor, Want, admit, entitle},
        condition, plan,
        spending::Spending,
    },
    wire::{
        http1::head::{HeadLimits, parse_request},
        openai::{endpoint::Endpoint, rate_headers::RateHeaders},
        token::{DigestKey, Memo, TokenId, render},
    },
};

const CALLERS: u32 = 10_000;
const SECRET: [u8; 32] = [7; 32];
const BODY_BYTES: usize = 400;

fn id(number: u32) -> TokenId {
    let mut chance = [0; 10];
    chance[..4].copy_from_slice(&number.to_le_bytes());
    TokenId::draw(&chance)
}

/// A caller with a model pattern and three limits that it never reaches.
fn caller(number: u32) -> Caller {
    let plenty = NonZeroU64::new(1 << 39).expect("not zero");
    let rate =
        Rate { amount: plenty, period_ns: NonZeroU64::new(60_000_000_000).expect("not zero"), burst: plenty };
    let limits = [
        Limit::Rate { measure: Measure::RequestsPerMinute, rate },
        Limit::Rate { measure: Measure::TokensPerMinute, rate },
        Limit::Concurrency { measure: Measure::ConcurrentRequests, most: 1_000 },
    ];
    Caller {
        id: id(number),
        name: id(number).as_str().into(),
        expires_unix_ms: None,
        enabled: true,
        models: [Glob::new("local/*")].into(),
        routes: Box::default(),
        endpoints: None,
        access: None,
        allowance: Allowance { limits: limits.into(), ..Allowance::default() },
        line: ringway::base::ids::Line(0),
        caps: Caps::default(),
        on_disconnect: None,
        tags: Box::default(),
        log_payload: None,
    }
}

fn callers(snapshot: &Snapshot) -> Callers {
    let key = DigestKey::new(&[9; 32]);
    let entries = (0..CALLERS).map(|number| {
        let digests = Digests { current: key.digest_of(id(number), &SECRET), former: None };
        (caller(number), digests)
    });
    let mut callers = Callers::new(key.clone(), entries.collect()).expect("all differ");
    callers.complete(&snapshot.quotas, &mut LineRoll::default()).expect("room");
    callers
}

fn snapshot() -> Snapshot {
    let networks: Vec<_> = (0..=255).map(|byte| format!("\"10.{byte}.0.0/16\"")).collect();
    let text = format!(
        "[state]\ndir = \"/nowhere\"\n[access]\nallow = [{}, \"127.0.0.0/8\"]\n[[provider]]\nname = \"local\"\n\
         base_url = \"http://127.0.0.1:1\"\nauth = \"none\"\n",
        networks.join(", ")
    );
    config::compile(&text, "bench", &Process).unwrap_or_else(|complaints| panic!("{complaints}")).snapshot
}

fn admission(c: &mut Criterion) {
    let snapshot = snapshot();
    let callers = callers(&snapshot);
    let board = Arc::new(QuotaBoard::new());
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: gateway\r\nAccept: application/json\r\nAccept-Encoding: gzip, deflate\r\n\
         Connection: keep-alive\r\nContent-Type: application/json\r\nUser-Agent: OpenAI/Python 3.54.0\r\n\
         X-Stainless-Lang: python\r\nX-Stainless-Package-Version: 3.54.0\r\nX-Stainless-OS: Linux\r\n\
         X-Stainless-Arch: x64\r\nX-Stainless-Runtime: CPython\r\nX-Stainless-Retry-Count: 0\r\n\
         Authorization: Bearer {}\r\nContent-Length: {BODY_BYTES}\r\n\r\n",
        &*render(id(77), &SECRET)
    );
    let parsed = parse_request(head.as_bytes(), HeadLimits::default()).expect("good").expect("whole");
    let health = HealthBoard::default();
    let mut now = 1_000_000_000;
    let mut once = |board: &QuotaBoard, memo: &Memo| {
        now += 1_000;
        let (peer, bytes, now) = ([127, 0, 0, 1].into(), head.as_bytes(), Now(now));
        let endpoint = Endpoint::ChatCompletions;
        let knock = Knock { peer, head: &parsed, bytes, endpoint: Some(endpoint), memo, now, unix_ms: 1 };
        let mut told = RateHeaders::default();
        let mut spending = Spending::new(board);
        let mut admitted = admit(
            &snapshot,
            Some(&callers),
            &mut spending,
            black_box(knock),
            &mut told,
            &mut Visitor::default(),
        )
        .expect("it may");
        let want = Want {
            endpoint,
            model: "local/model",
            stream: true,
            n: None,
            max_tokens: None,
            prompt_tokens: BODY_BYTES as u64 / 4,
            head: &parsed,
            bytes,
            now,
            unix_ms: 1,
        };
        let facts = condition::Facts {
            model: "local/model",
            stream: true,
            user: None,
            caller: None,
            tags: &[],
            header: &|_| None,
            metadata: condition::Told::Raw(None),
        };
        let plan = plan::plan(&snapshot, &facts, 1, &health, now).expect("a plan");
        let mut entitled =
            entitle(&snapshot, &mut admitted, &plan, black_box(want), &mut told).expect("it may");
        entitled.settle(Some(100), None, now);
        told
    };
    c.bench_function("admit, plan, entitle and settle: token, 257 networks, three limits", |b| {
        b.iter(|| black_box(once(&board, &Memo::default())));
    });
    let memo = Memo::default();
    c.bench_function("the same on a connection that has shown the token before", |b| {
        b.iter(|| black_box(once(&board, &memo)));
    });
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let other = {
        let (stop, board) = (stop.clone(), board.clone());
        let line = callers.get(id(77)).expect("there").line;
        thread::spawn(move || {
            use ringway::policy::quota::Quota as _;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let entered = board.enter(line, Measure::ConcurrentRequests, 1_000);
                if entered {
                    board.leave(line, Measure::ConcurrentRequests);
                }
            }
        })
    };
    c.bench_function("the same while another core spends from the same line without a pause", |b| {
        b.iter(|| black_box(once(&board, &memo)));
    });
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    other.join().expect("it only counts");
}

criterion_group!(benches, admission);
criterion_main!(benches);
