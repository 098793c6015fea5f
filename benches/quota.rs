//! What a limit costs: a spend alone, three on one line, one on a line that another core spends from, and a key that no
//! configuration names.

use std::{
    fs,
    hint::black_box,
    num::NonZeroU64,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
};

use criterion::{Criterion, criterion_group, criterion_main};
use ringway::{
    base::{ids::Line, now::Now},
    bridge::quota::QuotaBoard,
    config::allowance::{Measure, Rate},
    policy::quota::{Quota, Window},
};

const MINUTE_NS: u64 = 60_000_000_000;

fn rate(amount: u64, period_ns: u64) -> Rate {
    let some = |n| NonZeroU64::new(n).expect("counted from one");
    Rate { amount: some(amount), period_ns: some(period_ns), burst: some(amount) }
}

/// Kilobytes of memory that the process has.
fn resident_kb() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).map_or(0, |pages: u64| pages * 4)
}

fn quota(c: &mut Criterion) {
    let before_kb = resident_kb();
    let board = QuotaBoard::new();
    let board_kb = resident_kb() - before_kb;
    println!("a fresh board: {board_kb} KiB resident");
    assert!(board_kb < 1 << 10, "lines nobody uses take memory");

    let (per_second, per_minute, tokens) = (
        rate(1_000_000_000, 1_000_000_000),
        rate(10_000_000_000, MINUTE_NS),
        rate(1_000_000_000_000, MINUTE_NS),
    );
    let mut now = Now(MINUTE_NS);
    let mut tick = move || {
        now.0 += 100;
        now
    };
    let mut group = c.benchmark_group("quota");
    group.bench_function("one spend", |b| {
        b.iter(|| {
            board
                .spend(black_box(Line(7)), Measure::RequestsPerMinute, black_box(per_minute), 1, tick())
                .is_ok()
        });
    });
    group.bench_function("one spend, refused", |b| {
        let few = rate(1, 86_400_000_000_000);
        b.iter(|| {
            board.spend(black_box(Line(8)), Measure::RequestsPerDay, black_box(few), 1, tick()).is_err()
        });
    });
    group.bench_function("three spends on one line", |b| {
        b.iter(|| {
            let (line, now) = (black_box(Line(9)), tick());
            board.spend(line, Measure::RequestsPerSecond, black_box(per_second), 1, now).is_ok()
                & board.spend(line, Measure::RequestsPerMinute, black_box(per_minute), 1, now).is_ok()
                & board.spend(line, Measure::TokensPerMinute, black_box(tokens), 900, now).is_ok()
        });
    });
    group.bench_function("tokens reserved and settled", |b| {
        b.iter(|| {
            let (line, now) = (black_box(Line(10)), tick());
            let reserved = board.spend(line, Measure::TokensPerMinute, black_box(tokens), 900, now).is_ok();
            (reserved, board.settle(line, Measure::TokensPerMinute, black_box(tokens), 900, 400, now))
        });
    });
    group.bench_function("enter and leave", |b| {
        b.iter(|| {
            let entered = board.enter(black_box(Line(11)), Measure::ConcurrentRequests, 10);
            board.leave(Line(11), Measure::ConcurrentRequests);
            entered
        });
    });
    group.bench_function("a budget drawn and settled", |b| {
        b.iter(|| {
            let (line, window, most) = (black_box(Line(12)), Window(20_000), 1 << 40);
            let drawn = board.draw(line, Measure::BudgetTokensDay, window, most, 900);
            (drawn, board.settle_budget(line, Measure::BudgetTokensDay, window, most, 900, 0))
        });
    });
    group.bench_function("a spend on a line another core spends from", |b| {
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Relaxed) {
                    _ = board.spend(Line(13), Measure::RequestsPerMinute, per_minute, 1, Now(MINUTE_NS));
                }
            });
            b.iter(|| {
                board
                    .spend(black_box(Line(13)), Measure::RequestsPerMinute, black_box(per_minute), 1, tick())
                    .is_ok()
            });
            over.store(true, Relaxed);
        });
    });
    group.bench_function("the key of an address", |b| {
        b.iter(|| board.key("one", black_box(&[32, 1, 13, 184, 0, 0, 0, 1])));
    });
    group.bench_function("hold, let go", |b| {
        let key = board.key("one", b"alpha");
        b.iter(|| board.let_go(board.hold(black_box(key), tick())));
    });
    group.bench_function("hold, spend, let go", |b| {
        let key = board.key("one", b"beta");
        b.iter(|| {
            let now = tick();
            let line = board.hold(black_box(key), now);
            let granted =
                board.spend(line, Measure::RequestsPerMinute, black_box(per_minute), 1, now).is_ok();
            board.let_go(line);
            granted
        });
    });
    group.bench_function("hold, spend, let go; a new key each time", |b| {
        let mut key = 0_u64;
        b.iter(|| {
            key = key.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let now = tick();
            let line = board.hold(black_box(key >> 20), now);
            let granted =
                board.spend(line, Measure::RequestsPerSecond, black_box(per_second), 1, now).is_ok();
            board.let_go(line);
            granted
        });
    });
    group.finish();
}

criterion_group!(benches, quota);
criterion_main!(benches);
