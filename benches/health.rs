//! What the health board costs an attempt: asking for a verdict, beginning, reporting.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use ringway::{
    base::{ids::ProviderId, now::Now},
    bridge::health::HealthBoard,
    policy::health::{Health, Outcomes, TargetKey, Underway},
};

const PROVIDER: ProviderId = ProviderId(1);

fn target(number: u64) -> TargetKey {
    TargetKey(number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

fn health(c: &mut Criterion) {
    let board = HealthBoard::default();
    let now = Now(12_345_678_901);
    for number in 0..100 {
        let mut attempt = Underway::begin(&board, target(number), PROVIDER, now).expect("healthy");
        (0..64).for_each(|n| attempt.first_token(10_000 + n * 1_000));
        attempt.succeeded(now);
    }
    let open = target(7);
    for _ in 0..5 {
        let mut attempt = Underway::begin(&board, open, PROVIDER, now).expect("not yet open");
        attempt.failed(None, now, 1);
    }

    let mut group = c.benchmark_group("health");
    group.bench_function("verdict, healthy", |b| b.iter(|| board.verdict(black_box(target(3)), now)));
    group.bench_function("verdict, unknown", |b| b.iter(|| board.verdict(black_box(target(1_003)), now)));
    group.bench_function("verdict, open", |b| b.iter(|| board.verdict(black_box(open), now)));
    group.bench_function("median to first token", |b| {
        b.iter(|| board.first_token_us(black_box(target(3))));
    });
    group.bench_function("begin, succeeded, ended", |b| {
        b.iter(|| {
            let mut attempt = Underway::begin(&board, black_box(target(3)), PROVIDER, now);
            attempt.as_mut().and_then(|attempt| attempt.succeeded(now))
        });
    });
    group.bench_function("begin, first token, succeeded, ended", |b| {
        b.iter(|| {
            let mut attempt = Underway::begin(&board, black_box(target(3)), PROVIDER, now);
            attempt.as_mut().and_then(|attempt| {
                attempt.first_token(black_box(25_000));
                attempt.succeeded(now)
            })
        });
    });
    group.bench_function("retry_allowed, refused", |b| {
        while board.retry_allowed(PROVIDER, now) {}
        b.iter(|| board.retry_allowed(black_box(PROVIDER), now));
    });
    group.finish();
}

criterion_group!(benches, health);
criterion_main!(benches);
