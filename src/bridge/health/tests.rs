//! What the board promises, alone and under threads.

use std::{
    sync::{Barrier, atomic::AtomicUsize},
    thread,
};

use super::*;
use crate::policy::health::Underway;

const PROVIDER: ProviderId = ProviderId(3);
const TARGET: TargetKey = TargetKey(0xfeed);

fn at(ms: u64) -> Now {
    Now(ms * 1_000_000)
}

/// So that the keys of a test share one line.
fn small() -> HealthBoard {
    HealthBoard::with_lines(1)
}

fn attempt(board: &HealthBoard, target: TargetKey, now: Now) -> Underway<'_, HealthBoard> {
    Underway::begin(board, target, PROVIDER, now).expect("the target may be used")
}

fn open(board: &HealthBoard, target: TargetKey, now: Now) {
    let changes: Vec<_> = (0..5).map(|_| attempt(board, target, now).failed(None, now, 1_000)).collect();
    assert_eq!(changes, [None, None, None, None, Some(Change::Opened)]);
}

#[test]
fn a_target_that_nobody_knows_is_healthy() {
    let board = HealthBoard::default();
    for key in [0, 1, 2, u64::MAX] {
        let target = TargetKey(key);
        assert_eq!(board.verdict(target, at(0)), Standing::Closed);
        assert_eq!((board.in_flight(target), board.first_token_us(target)), (0, None));
    }
}

#[test]
fn what_is_under_way_is_counted_until_it_goes() {
    let board = HealthBoard::default();
    let (one, two) = (attempt(&board, TARGET, at(0)), attempt(&board, TARGET, at(0)));
    assert_eq!(board.in_flight(TARGET), 2);
    drop(one);
    assert_eq!(board.in_flight(TARGET), 1);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let _two = two;
        panic!("an exchange breaks");
    }));
    assert!(panicked.is_err());
    assert_eq!(board.in_flight(TARGET), 0);
}

#[test]
fn a_breaker_goes_all_the_way_round() {
    let board = HealthBoard::default();
    open(&board, TARGET, at(0));
    assert_eq!(board.verdict(TARGET, at(0)), Standing::Open { retry_after_ms: 5_000 });
    assert!(Underway::begin(&board, TARGET, PROVIDER, at(0)).is_none());
    assert_eq!(board.in_flight(TARGET), 0);

    // A probe that comes to nothing makes room for the next.
    let nothing = attempt(&board, TARGET, at(5_000));
    assert!(nothing.is_probe() && Underway::begin(&board, TARGET, PROVIDER, at(5_000)).is_none());
    drop(nothing);
    assert_eq!(board.verdict(TARGET, at(5_000)), Standing::Probe);

    let mut fails = attempt(&board, TARGET, at(5_000));
    assert_eq!(fails.failed(Some(30_000), at(5_000), 0), Some(Change::Opened));
    drop(fails);
    assert_eq!(board.verdict(TARGET, at(5_000)), Standing::Open { retry_after_ms: 30_000 });

    let mut succeeds = attempt(&board, TARGET, at(35_000));
    assert_eq!(succeeds.succeeded(at(35_000)), Some(Change::Closed));
    drop(succeeds);
    assert_eq!(board.verdict(TARGET, at(40_000)), Standing::Ramp(55));
    assert_eq!(attempt(&board, TARGET, at(40_000)).succeeded(at(40_000)), None);
    assert_eq!(board.verdict(TARGET, at(45_000)), Standing::Closed);
}

#[test]
fn half_of_twenty_open_it_and_old_ones_do_not_count_after_it_is_back() {
    let board = HealthBoard::default();
    for n in 0..20 {
        let mut attempt = attempt(&board, TARGET, at(n));
        let change = if n % 2 == 0 { attempt.succeeded(at(n)) } else { attempt.failed(None, at(n), 1_000) };
        assert_eq!(change, (n == 19).then_some(Change::Opened), "{n}");
    }
    attempt(&board, TARGET, at(5_100)).succeeded(at(5_100));
    assert_eq!(attempt(&board, TARGET, at(5_200)).failed(None, at(5_200), 0), None);
    assert!(matches!(board.verdict(TARGET, at(5_200)), Standing::Ramp(_)));
}

#[test]
fn rules_are_taken_up_at_once() {
    let board = HealthBoard::default();
    board.configure(Breaker { failures: 1, ..Breaker::default() }, Retry::default());
    assert_eq!(attempt(&board, TARGET, at(0)).failed(None, at(0), 0), Some(Change::Opened));
    board.configure(Breaker { enabled: false, ..Breaker::default() }, Retry::default());
    assert_eq!(board.verdict(TARGET, at(0)), Standing::Closed);
}

#[test]
fn retries_are_a_share_of_the_requests_and_a_few() {
    let board = HealthBoard::default();
    // Each that is granted is an attempt as well.
    let retry = |now| {
        let granted = board.retry_allowed(PROVIDER, now);
        if granted {
            drop(attempt(&board, TARGET, now));
        }
        granted
    };
    let granted = |now: Now| (0..100).filter(|_| retry(now)).count();
    assert_eq!(granted(at(0)), 3);
    (0..203).for_each(|_| drop(attempt(&board, TARGET, at(100))));
    assert_eq!(granted(at(200)), 17 + 3);
    assert!(board.retry_allowed(ProviderId(4), at(200)), "another provider has its own");
    assert_eq!(granted(at(20_000)), 3, "ten seconds later it is new");
    board.configure(Breaker::default(), Retry { budget_percent: 0, ..Retry::default() });
    (0..200).for_each(|_| drop(attempt(&board, TARGET, at(40_000))));
    assert_eq!(granted(at(40_000)), 3);
}

#[test]
fn first_tokens_are_told() {
    let board = HealthBoard::default();
    let attempt = attempt(&board, TARGET, at(0));
    (0..95).for_each(|_| attempt.first_token(100_000));
    (0..17).for_each(|_| attempt.first_token(3_000_000));
    let near = |told: Option<u64>, us: u64| told.is_some_and(|told| told.abs_diff(us) * 8 <= us);
    assert!(near(board.first_token_us(TARGET), 100_000));
    assert!(near(board.first_token_percentile_us(TARGET, 95), 3_000_000));
}

#[test]
fn the_quietest_gives_up_its_seat_and_an_open_one_last() {
    let board = small();
    open(&board, TargetKey(10), at(0));
    assert_eq!(attempt(&board, TargetKey(11), at(0)).failed(None, at(0), 0), None);
    let busy = attempt(&board, TargetKey(12), at(0));
    (13..18).for_each(|key| drop(attempt(&board, TargetKey(key), at(key))));
    // All seats are taken; the quiet ones go first, the longest unused before the others.
    for key in 20..25 {
        let under_way = attempt(&board, TargetKey(key), at(key));
        assert_eq!(board.crowding(), Crowding::default());
        std::mem::forget(under_way);
    }
    assert_eq!(board.in_flight(TargetKey(12)), 1);
    let one_more = attempt(&board, TargetKey(30), at(30));
    assert_eq!(board.crowding(), Crowding { seatless: 0, forgotten: 1, forgotten_open: 0 });
    assert!(matches!(board.verdict(TargetKey(10), at(30)), Standing::Open { .. }));
    let two_more = attempt(&board, TargetKey(31), at(31));
    assert_eq!(board.crowding(), Crowding { seatless: 0, forgotten: 2, forgotten_open: 1 });
    // Nothing is left to take: the attempt goes on without a seat, and its failure finds one as soon as there is.
    let mut seatless = attempt(&board, TargetKey(32), at(32));
    assert_eq!(board.crowding().seatless, 1);
    assert_eq!((seatless.failed(None, at(32), 0), board.in_flight(TargetKey(32))), (None, 0));
    drop(busy);
    (0..5).for_each(|_| _ = seatless.failed(None, at(33), 0));
    assert!(matches!(board.verdict(TargetKey(32), at(33)), Standing::Open { .. }));
    assert_eq!(board.in_flight(TargetKey(32)), 1);
    drop((one_more, two_more, seatless));
    assert_eq!(board.in_flight(TargetKey(32)), 0);
}

#[test]
fn of_all_cores_one_has_the_probe() {
    const CORES: usize = 4;
    const ROUNDS: u64 = 200;
    let board = HealthBoard::default();
    let target = |round: u64| TargetKey(round.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    (0..ROUNDS).for_each(|round| open(&board, target(round), at(0)));
    let probes: Vec<_> = (0..ROUNDS).map(|_| AtomicUsize::new(0)).collect();
    let meet = Barrier::new(CORES);
    thread::scope(|scope| {
        for _ in 0..CORES {
            scope.spawn(|| {
                for (round, probes) in (0..).zip(&probes) {
                    meet.wait();
                    let held = Underway::begin(&board, target(round), PROVIDER, at(6_000));
                    probes.fetch_add(usize::from(held.is_some()), Ordering::Relaxed);
                    // Held until all have tried: else the next has it, and rightly.
                    meet.wait();
                    drop(held);
                }
            });
        }
    });
    assert!(probes.iter().all(|probes| probes.load(Ordering::Relaxed) == 1));
    assert!((0..ROUNDS).all(|round| board.verdict(target(round), at(6_000)) == Standing::Probe));
}

#[test]
fn seats_that_change_hands_all_the_time_lose_no_count() {
    const CORES: u64 = 4;
    let board = small();
    thread::scope(|scope| {
        for core in 0..CORES {
            let board = &board;
            scope.spawn(move || {
                let (mut seen, mut begun) = (0, 0);
                for n in 0..20_000_u64 {
                    // Twelve targets for eight seats.
                    let target = TargetKey(100 + (n * 7 + core * 5) % 12);
                    let Some(mut attempt) = Underway::begin(board, target, PROVIDER, at(n)) else {
                        continue;
                    };
                    // None is told for the moment in which another core finds that the seat is taken after all.
                    let told = u64::from(board.in_flight(target));
                    assert!(told <= CORES, "{told} are under way, of {CORES} at most");
                    (seen, begun) = (seen + u64::from(told > 0), begun + 1);
                    if n % 3 == 0 {
                        attempt.succeeded(at(n));
                    }
                }
                assert!(seen * 10 > begun * 9, "nearly always mine is among them: {seen} of {begun}");
            });
        }
    });
    assert!((100..112).all(|key| board.in_flight(TargetKey(key)) == 0));
    assert!(board.seats.iter().all(|seat| seat.in_flight.load(Ordering::Relaxed) == 0));
    let mut keys: Vec<_> = board.lines[0].keys.iter().map(|key| key.load(Ordering::Relaxed)).collect();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), HEALTH_WAYS, "no target sits twice: {keys:?}");
    assert!(keys.iter().all(|key| (100..112).contains(key)));
}

#[test]
fn cores_that_fail_together_open_once() {
    for _ in 0..50 {
        let board = HealthBoard::default();
        let opened = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10 {
                        if let Some(mut attempt) = Underway::begin(&board, TARGET, PROVIDER, at(0)) {
                            let change = attempt.failed(None, at(0), 0);
                            opened.fetch_add(usize::from(change.is_some()), Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        assert_eq!(opened.into_inner(), 1);
    }
}

#[test]
fn at_most_one_request_in_twenty_is_asked_twice_whatever_the_cores_do() {
    let board = HealthBoard::default();
    assert!(!board.hedge_allowed(PROVIDER), "nothing is saved up at first");
    let (asked, hedged) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..5_000 {
                    asked.fetch_add(1, Ordering::SeqCst);
                    board.hedge_earned(PROVIDER);
                    if board.hedge_allowed(PROVIDER) {
                        let hedged = hedged.fetch_add(1, Ordering::SeqCst) + 1;
                        assert!(hedged * 20 <= asked.load(Ordering::SeqCst));
                    }
                }
            });
        }
    });
    assert_eq!(hedged.load(Ordering::SeqCst), 20_000 / 20, "none is lost either");
}

#[test]
fn hedges_are_saved_up_to_a_bound_and_for_each_provider_apart() {
    let board = HealthBoard::default();
    (0..100_000).for_each(|_| board.hedge_earned(PROVIDER));
    let granted = (0..1_000).filter(|_| board.hedge_allowed(PROVIDER)).count();
    assert_eq!(granted, HEDGES_SAVED_MAX as usize);
    assert!(!board.hedge_allowed(ProviderId(4)));
}
