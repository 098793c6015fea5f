//! The board against a naive twin: alone in every answer, and under threads in every sum.

pub(super) mod interleave;

use std::{
    collections::HashMap,
    num::NonZeroU64,
    sync::{
        Barrier, Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    thread,
};

use super::*;

const RPS: Measure = Measure::RequestsPerSecond;
const RPM: Measure = Measure::RequestsPerMinute;
const TPM: Measure = Measure::TokensPerMinute;
const RUNNING: Measure = Measure::ConcurrentRequests;
const BUDGET: Measure = Measure::BudgetTokensDay;
const SECOND_NS: u64 = 1_000_000_000;
const THREADS: usize = 4;

fn rate(amount: u64, period_ns: u64, burst: u64) -> Rate {
    let some = |n| NonZeroU64::new(n).expect("tests count from one");
    Rate { amount: some(amount), period_ns: some(period_ns), burst: some(burst) }
}

/// A hundred seeds in a test run, many in a long one.
fn seeds() -> u64 {
    if std::env::var_os("RINGWAY_SIM_FULL").is_some() { 5_000 } else { 100 }
}

struct Chance(u64);

impl Chance {
    fn new(seed: u64) -> Self {
        Self((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) % end
    }

    fn index(&mut self, end: usize) -> usize {
        usize::try_from(self.below(end as u64)).unwrap_or(0)
    }
}

/// Runs `work` on so many threads, which begin together.
fn together(threads: usize, work: impl Fn(usize) + Sync) {
    let start = Barrier::new(threads);
    thread::scope(|scope| {
        for number in 0..threads {
            let (start, work) = (&start, &work);
            scope.spawn(move || {
                start.wait();
                work(number);
            });
        }
    });
}

/// One lock around plain numbers, and time in whole units: what the board has to be equal to.
#[derive(Default)]
struct Twin(HashMap<(u32, usize), i128>);

impl Twin {
    /// Nanoseconds by which what was spent is ahead of time.
    fn ahead(&mut self, line: Line, measure: Measure, now: Now) -> &mut i128 {
        let until = self.0.entry((line.0, measure.slot())).or_default();
        *until = (*until).max(i128::from(now.0));
        until
    }

    fn spend(&mut self, line: Line, measure: Measure, rate: Rate, amount: u64, now: Now) -> bool {
        let unit_ns = i128::from(rate.period_ns.get() / rate.amount.get());
        let (cost, most) = (i128::from(amount) * unit_ns, i128::from(rate.burst.get()) * unit_ns);
        let until = self.ahead(line, measure, now);
        let is_at_rest = *until == i128::from(now.0);
        let is_granted = *until + cost <= i128::from(now.0) + most || is_at_rest;
        if is_granted {
            *until += cost;
        }
        is_granted
    }

    fn settle(&mut self, line: Line, measure: Measure, rate: Rate, reserved: u64, used: u64, now: Now) {
        let unit_ns = i128::from(rate.period_ns.get() / rate.amount.get());
        *self.ahead(line, measure, now) += (i128::from(used) - i128::from(reserved)) * unit_ns;
        self.ahead(line, measure, now);
    }
}

#[test]
fn alone_every_answer_is_the_twins() {
    for seed in 0..seeds() {
        let (board, mut twin, mut chance) = (QuotaBoard::with_room(8, 1), Twin::default(), Chance::new(seed));
        let mut now = Now(chance.below(SECOND_NS));
        let mut inside = [0_u64; 8];
        for _ in 0..500 {
            let (line, measure) =
                ([0, 1, 2, 5, 7].map(Line)[chance.index(5)], [RPS, RPM, TPM][chance.index(3)]);
            let rate = rate(10, SECOND_NS, 1 + chance.below(20));
            match chance.below(5) {
                0 => now.0 += chance.below(SECOND_NS / 5),
                1 | 2 => {
                    let amount = chance.below(24);
                    let granted = board.spend(line, measure, rate, amount, now).is_ok();
                    assert_eq!(granted, twin.spend(line, measure, rate, amount, now), "seed {seed}");
                }
                3 => {
                    let (reserved, used) = (chance.below(9), chance.below(9));
                    let level = board.settle(line, measure, rate, reserved, used, now);
                    twin.settle(line, measure, rate, reserved, used, now);
                    let behind_ns = *twin.ahead(line, measure, now) - i128::from(now.0);
                    assert_eq!(i128::from(level.reset_ns), behind_ns, "seed {seed}");
                }
                _ => {
                    let count = &mut inside[index(line)];
                    if chance.below(2) == 0 {
                        let entered = board.enter(line, RUNNING, 3);
                        assert_eq!(entered, *count < 3, "seed {seed}");
                        *count += u64::from(entered);
                    } else if *count > 0 {
                        board.leave(line, RUNNING);
                        *count -= 1;
                    }
                }
            }
        }
    }
}

#[test]
fn while_time_stands_still_a_burst_is_granted_once_over_all_threads() {
    const BURST: u64 = 5_000;
    let board = QuotaBoard::with_room(2, 1);
    let (rate, now) = (rate(100, SECOND_NS, BURST), Now(7 * SECOND_NS));
    let granted = AtomicU64::new(0);
    together(THREADS, |number| {
        let mut chance = Chance::new(number as u64);
        // Ones and twos, until not even a one is left.
        loop {
            let amount = 1 + chance.below(2);
            if board.spend(Line(1), TPM, rate, amount, now).is_ok() {
                granted.fetch_add(amount, SeqCst);
            } else if amount == 1 {
                break;
            }
        }
    });
    assert_eq!(granted.into_inner(), BURST);
    assert!(board.spend(Line(0), TPM, rate, BURST, now).is_ok(), "the neighbour has its own");
}

#[test]
fn while_time_goes_on_the_rate_is_granted_to_the_unit() {
    for seed in 0..seeds() / 10 {
        let board = QuotaBoard::with_room(1, 1);
        let (rate, start_ns) = (rate(1_000, SECOND_NS, 50), 3 * SECOND_NS);
        let (clock, granted) = (AtomicU64::new(start_ns), AtomicU64::new(0));
        together(THREADS, |number| {
            let mut chance = Chance::new(seed * 16 + number as u64);
            for _ in 0..2_000 {
                let now = Now(clock.fetch_add(chance.below(SECOND_NS / 1_000 / 2), SeqCst));
                if board.spend(Line(0), RPS, rate, 1, now).is_ok() {
                    granted.fetch_add(1, SeqCst);
                }
            }
        });
        let end = Now(clock.into_inner());
        let mut granted = granted.into_inner();
        while board.spend(Line(0), RPS, rate, 1, end).is_ok() {
            granted += 1;
        }
        let allowed = 50 + (end.0 - start_ns) / (SECOND_NS / 1_000);
        assert!(granted <= allowed && granted + 1 >= allowed, "seed {seed}: {granted} of {allowed}");
    }
}

#[test]
fn reservations_settled_by_many_threads_leave_the_sum_of_what_was_used() {
    let board = QuotaBoard::with_room(1, 1);
    let (rate, now) = (rate(1_000, SECOND_NS, 1_000_000_000), Now(SECOND_NS));
    let used = AtomicU64::new(0);
    together(THREADS, |number| {
        let mut chance = Chance::new(number as u64);
        for _ in 0..5_000 {
            let (reserve, amount) = (chance.below(500), chance.below(900));
            board.spend(Line(0), TPM, rate, reserve, now).expect("far below the burst");
            board.settle(Line(0), TPM, rate, reserve, amount, now);
            used.fetch_add(amount, SeqCst);
        }
    });
    let level = board.settle(Line(0), TPM, rate, 0, 0, now);
    assert_eq!(level.remaining, 1_000_000_000 - used.into_inner());
}

#[test]
fn there_are_never_more_at_once_than_the_most_and_none_at_the_end() {
    const MOST: u32 = 3;
    let board = QuotaBoard::with_room(1, 1);
    let (inside, entered) = (AtomicU64::new(0), AtomicU64::new(0));
    together(THREADS + 2, |_| {
        for _ in 0..3_000 {
            if board.enter(Line(0), RUNNING, MOST) {
                assert!(inside.fetch_add(1, SeqCst) < u64::from(MOST));
                entered.fetch_add(1, SeqCst);
                inside.fetch_sub(1, SeqCst);
                board.leave(Line(0), RUNNING);
            }
        }
    });
    assert!(entered.into_inner() > 0);
    for _ in 0..MOST {
        assert!(board.enter(Line(0), RUNNING, MOST), "all have left");
    }
    assert!(!board.enter(Line(0), RUNNING, MOST));
    assert!(!board.enter(Line(0), RUNNING, MOST - 1), "a reload with less");
}

/// What a key may do in the churn tests, and what it did.
struct Account {
    twin: Twin,
    inside: u64,
}

/// Threads that hold, spend and let go of more keys than there are lines. Time moves between the rounds alone, so that the
/// order in which the twin hears of a round's grants makes no difference.
fn churn(seed: u64, sets: usize, keys: usize, rounds: u64) -> (u64, u64) {
    const MOST: u32 = 2;
    let board = QuotaBoard::with_room(3, sets);
    let rate = rate(10, SECOND_NS, 3);
    let accounts: Vec<_> =
        (0..keys).map(|_| Mutex::new(Account { twin: Twin::default(), inside: 0 })).collect();
    // Told at the end: a thread that stops would leave the others at their barrier.
    let wrong = Mutex::new(Vec::new());
    let (granted, clock, turn) = (AtomicU64::new(0), AtomicU64::new(SECOND_NS), Barrier::new(THREADS));
    together(THREADS, |number| {
        let mut chance = Chance::new(seed * 64 + number as u64);
        let mut kept = Vec::new();
        for _ in 0..rounds {
            let now = Now(clock.load(SeqCst));
            for _ in 0..40 {
                let index = chance.index(keys);
                // Neighbouring numbers: every set gets its share, and zero is a key like others.
                let line = board.hold(index as u64, now);
                let account = &accounts[index];
                if board.spend(line, RPS, rate, 1, now).is_ok() {
                    granted.fetch_add(1, SeqCst);
                    if !account.lock().unwrap().twin.spend(Line(0), RPS, rate, 1, now) {
                        wrong.lock().unwrap().push(format!("{index} got too much"));
                    }
                }
                if board.enter(line, RUNNING, MOST) {
                    let mut account = account.lock().unwrap();
                    account.inside += 1;
                    if account.inside > u64::from(MOST) {
                        wrong.lock().unwrap().push(format!("{index} is inside too often"));
                    }
                    kept.push((index, line));
                } else {
                    board.let_go(line);
                }
                // Some stay for longer than a round.
                while kept.len() > chance.index(4) {
                    let (index, line) = kept.swap_remove(chance.index(kept.len()));
                    accounts[index].lock().unwrap().inside -= 1;
                    board.leave(line, RUNNING);
                    board.let_go(line);
                }
            }
            if turn.wait().is_leader() {
                clock.fetch_add(chance.below(SECOND_NS / 3), SeqCst);
            }
            turn.wait();
        }
        for (_, line) in kept {
            board.leave(line, RUNNING);
            board.let_go(line);
        }
    });
    assert_eq!(wrong.into_inner().unwrap(), [""; 0], "seed {seed}");
    // Nothing is pinned, nothing running: after a rest, each set has its six ways for new keys again.
    let rested = Now(clock.into_inner() + 10 * SECOND_NS);
    let before = board.overflows();
    for key in keys..keys + 6 * sets {
        let line = board.hold(key as u64, rested);
        let level = board.spend(line, RPS, rate, 3, rested).expect("a whole burst");
        assert_eq!(level.remaining, 0);
        assert!(board.enter(line, RUNNING, 1));
    }
    assert_eq!(board.overflows(), before);
    (granted.into_inner(), before)
}

#[test]
fn with_more_keys_than_lines_no_key_gets_more_than_its_allowance() {
    let (mut granted, mut overflows) = (0, 0);
    for seed in 0..seeds() {
        // From much room to far too little.
        let (sets, keys) = [(4, 12), (2, 12), (2, 14), (1, 7), (1, 9), (1, 30)][Chance::new(seed).index(6)];
        let (more, shared) = churn(seed, sets, keys, 25);
        granted += more;
        overflows += shared;
        // Each of the other threads may be about to claim a way.
        let is_roomy = keys.div_ceil(sets) + THREADS - 1 <= 6;
        assert!(!is_roomy || shared == 0, "seed {seed}: there was room for all");
    }
    assert!(granted > 0 && overflows > 0, "{granted} granted, {overflows} times no room");
}

#[test]
fn a_key_held_by_all_threads_at_once_has_one_line() {
    let now = Now(SECOND_NS);
    for seed in 0..20 * seeds() {
        let board = QuotaBoard::with_room(0, 1);
        let lines: [AtomicU64; THREADS] = Default::default();
        together(THREADS, |number| {
            // Others come and go at the same time.
            let other = board.hold(100 + number as u64, now);
            lines[number].store(board.hold(seed, now).0.into(), SeqCst);
            board.let_go(other);
        });
        let [first, rest @ ..] = lines.map(AtomicU64::into_inner);
        assert!(rest.iter().all(|line| *line == first), "seed {seed}: {first} and {rest:?}");
    }
}

#[test]
fn a_full_set_shares_a_line_and_what_was_spent_there_goes_along() {
    let board = QuotaBoard::with_room(0, 1);
    let (rate, now) = (rate(1, SECOND_NS, 2), Now(SECOND_NS));
    let own: Vec<Line> = (0..6).map(|key| board.hold(key, now)).collect();
    assert_eq!(board.overflows(), 0);
    let (late, later) = (board.hold(6, now), board.hold(7, now));
    assert_eq!((late, board.overflows()), (later, 2));
    assert!(board.spend(late, RPS, rate, 1, now).is_ok() && board.spend(later, RPS, rate, 1, now).is_ok());
    assert!(board.spend(late, RPS, rate, 1, now).is_err(), "two keys, one allowance");
    board.let_go(own[2]);
    assert_eq!(board.hold(6, now), late, "while the shared line is used, nobody moves away from it");
    for line in [late, late, later] {
        board.let_go(line);
    }
    let moved = board.hold(6, now);
    assert_eq!(moved, own[2]);
    assert!(board.spend(moved, RPS, rate, 1, now).is_err(), "what was spent is not forgotten");
    assert!(board.spend(moved, RPS, rate, 1, Now(2 * SECOND_NS)).is_ok());
}

#[test]
fn a_line_stays_its_keys_while_its_counts_mean_something() {
    let board = QuotaBoard::with_room(0, 1);
    let (rate, now) = (rate(1, SECOND_NS, 1), Now(SECOND_NS));
    let spent = board.hold(1, now);
    assert!(board.spend(spent, RPM, rate, 1, now).is_ok());
    board.let_go(spent);
    let pinned = board.hold(2, now);
    // Churn through the other four.
    for key in 10..40 {
        board.let_go(board.hold(key, now));
    }
    assert_eq!((board.hold(1, now), board.hold(2, now), board.overflows()), (spent, pinned, 0));
    board.let_go(spent);
    let rested = Now(2 * SECOND_NS);
    let fresh: Vec<Line> = (40..45).map(|key| board.hold(key, rested)).collect();
    assert!(fresh.contains(&spent) && !fresh.contains(&pinned) && board.overflows() == 0);
    assert_eq!(board.settle(spent, RPM, rate, 0, 0, rested).reset_ns, 0);
}

#[test]
fn around_midnight_each_day_is_granted_once_even_to_those_who_are_behind() {
    const MOST: u64 = 9_000;
    for seed in 0..seeds() / 10 {
        let board = QuotaBoard::with_room(1, 1);
        let (steps, granted) = (AtomicU64::new(0), AtomicU64::new(0));
        together(THREADS, |number| {
            let mut chance = Chance::new(seed * 16 + number as u64);
            // The day changes for all in the middle, but each may have read the clock a while ago.
            loop {
                let window = Window(100 + u32::from(steps.fetch_add(1, SeqCst) > 1_500));
                let amount = 1 + chance.below(3);
                if board.draw(Line(0), BUDGET, window, MOST, amount).is_some() {
                    granted.fetch_add(amount, SeqCst);
                } else if amount == 1 && window == Window(101) {
                    break;
                }
            }
        });
        let granted = granted.into_inner();
        assert!((MOST..=2 * MOST).contains(&granted), "seed {seed}: {granted}");
        let all: Vec<_> = board.budgets([Line(0)]).collect();
        assert_eq!(all, [(Line(0), BUDGET, Window(101), MOST)], "seed {seed}");
    }
}

#[test]
fn what_a_budget_has_used_is_the_sum_over_all_threads_in_each_window() {
    const MOST: u64 = 20_000;
    let board = QuotaBoard::with_room(1, 1);
    let used = AtomicU64::new(0);
    for window in [Window(7), Window(8)] {
        used.store(0, SeqCst);
        together(THREADS, |number| {
            let mut chance = Chance::new(number as u64);
            for _ in 0..3_000 {
                let (reserve, amount) = (chance.below(20), chance.below(20));
                if let Some(left) = board.draw(Line(0), BUDGET, window, MOST, reserve) {
                    assert!(left <= MOST);
                    board.settle_budget(Line(0), BUDGET, window, MOST, reserve, amount);
                    used.fetch_add(amount, SeqCst);
                }
                // From the day before: it changes nothing.
                board.settle_budget(Line(0), BUDGET, Window(window.0 - 1), MOST, 5, 0);
            }
        });
        let all: Vec<_> = board.budgets([Line(0)]).collect();
        assert_eq!(all, [(Line(0), BUDGET, window, used.load(SeqCst))]);
    }
}

#[test]
fn budgets_are_restored_once_and_told_when_they_change() {
    const USD: Measure = Measure::BudgetNanoUsdMonth;
    let board = QuotaBoard::with_room(3, 1);
    assert!(board.restore(Line(1), USD, Window(682), 70));
    assert!(!board.restore(Line(1), USD, Window(682), 70));
    assert_eq!(board.draw(Line(1), USD, Window(682), 100, 31), None);

    let mut watch = BudgetWatch::default();
    watch.watch([(Line(1), USD), (Line(0), BUDGET)]);
    let balance = |line, measure, window, used| Balance { line, measure, window: Window(window), used };
    assert_eq!(watch.changed(&board).collect::<Vec<_>>(), [balance(Line(1), USD, 682, 70)]);
    assert_eq!(watch.changed(&board).count(), 0);
    assert_eq!(board.draw(Line(0), BUDGET, Window(9), 10, 4), Some(6));
    // A reload in between forgets nothing of what it keeps.
    watch.watch([(Line(0), BUDGET), (Line(1), USD), (Line(2), BUDGET)]);
    assert_eq!(watch.changed(&board).collect::<Vec<_>>(), [balance(Line(0), BUDGET, 9, 4)]);
    assert_eq!(board.settle_budget(Line(0), BUDGET, Window(9), 10, 4, 0), 10);
    assert_eq!(watch.changed(&board).collect::<Vec<_>>(), [balance(Line(0), BUDGET, 9, 0)]);
}

#[test]
fn keys_differ_by_scope_by_value_and_by_process() {
    let (board, other) = (QuotaBoard::with_room(0, 1), QuotaBoard::with_room(0, 1));
    assert_eq!(board.key("one", b"alpha"), board.key("one", b"alpha"));
    assert_ne!(board.key("one", b"alpha"), board.key("two", b"alpha"));
    assert_ne!(board.key("one", b"alpha"), board.key("one", b"beta"));
    assert_ne!(board.key("one", b"alpha"), other.key("one", b"alpha"));
}
