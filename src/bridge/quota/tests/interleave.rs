//! Threads that run one at a time and change places where a seed says so: at each look at a set's head. A schedule is a seed,
//! and the rare ones, in which somebody sleeps between two steps, are as likely as the others.

use std::{
    cell::RefCell,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use super::*;

thread_local! {
    static SEAT: RefCell<Option<Seat>> = const { RefCell::new(None) };
}

/// Called before each step: perhaps others go first.
pub(in crate::bridge::quota) fn step() {
    SEAT.with_borrow(|seat| seat.iter().for_each(Seat::step));
}

/// One thread of a schedule. It leaves when it is dropped, be it by a panic.
struct Seat {
    number: usize,
    table: Arc<(Mutex<Schedule>, Condvar)>,
}

struct Schedule {
    chance: Chance,
    /// Whose turn it is.
    turn: usize,
    running: Vec<usize>,
    /// One in so many steps changes the turn.
    patience: u64,
}

impl Seat {
    fn step(&self) {
        let mut schedule = self.lock();
        if schedule.turn == self.number {
            schedule.maybe_pass();
            self.table.1.notify_all();
        }
        self.wait(schedule);
    }

    fn wait(&self, mut schedule: MutexGuard<'_, Schedule>) {
        while schedule.turn != self.number {
            schedule = self.table.1.wait(schedule).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Schedule> {
        self.table.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut schedule = self.lock();
        schedule.running.retain(|number| *number != self.number);
        schedule.pass();
        self.table.1.notify_all();
    }
}

impl Schedule {
    fn maybe_pass(&mut self) {
        if self.chance.below(self.patience) == 0 {
            self.pass();
        }
    }

    fn pass(&mut self) {
        if !self.running.is_empty() {
            let next = self.chance.index(self.running.len());
            self.turn = self.running[next];
        }
    }
}

fn interleaved(seed: u64, threads: usize, work: impl Fn(usize) + Sync) {
    let schedule = Schedule {
        chance: Chance::new(seed),
        turn: 0,
        running: (0..threads).collect(),
        // From a schedule that changes at every other step to one in which a thread sleeps for long.
        patience: 2 + seed % 12,
    };
    let table = Arc::new((Mutex::new(schedule), Condvar::new()));
    thread::scope(|scope| {
        for number in 0..threads {
            let (table, work) = (Arc::clone(&table), &work);
            scope.spawn(move || {
                let seat = Seat { number, table };
                seat.wait(seat.lock());
                SEAT.set(Some(seat));
                work(number);
                SEAT.set(None);
            });
        }
    });
}

/// A set in which a few ways are free, passed or taken, and threads that want them for the same few keys.
fn contend(seed: u64) -> (u64, u64) {
    const BURST: u64 = 2;
    const MOST: u32 = 1;
    let mut chance = Chance::new(seed ^ 0x5eed_0000);
    let board = QuotaBoard::with_room(0, 1);
    let rate = rate(1, SECOND_NS, BURST);
    let keys = 2 + chance.index(3);
    // Strangers keep most of the ways; what our keys had before has passed.
    for stranger in 0..3 + chance.below(4) {
        board.hold(100 + stranger, Now(SECOND_NS));
    }
    for key in 0..keys {
        board.let_go(board.hold(key as u64, Now(SECOND_NS)));
    }
    let before = board.overflows();
    let now = Now(100 * SECOND_NS);
    let accounts: Vec<_> = (0..keys).map(|_| Mutex::new((0, 0))).collect();
    let wrong = Mutex::new(Vec::new());
    interleaved(seed, 3, |number| {
        let mut chance = Chance::new(seed * 8 + number as u64);
        for _ in 0..6 {
            let key = chance.index(keys);
            let account = &accounts[key];
            let line = board.hold(key as u64, now);
            if board.enter(line, RUNNING, MOST) {
                account.lock().unwrap().1 += 1;
                if board.spend(line, RPS, rate, 1, now).is_ok() {
                    account.lock().unwrap().0 += 1;
                }
                step();
                let mut account = account.lock().unwrap();
                if account.0 > BURST || account.1 > u64::from(MOST) {
                    wrong.lock().unwrap().push(format!("key {key}: {account:?}"));
                }
                account.1 -= 1;
                board.leave(line, RUNNING);
            }
            board.let_go(line);
        }
    });
    assert_eq!(wrong.into_inner().unwrap(), [""; 0], "seed {seed}");
    let granted = accounts.into_iter().map(|account| account.into_inner().unwrap().0).sum();
    (granted, board.overflows() - before)
}

#[test]
fn whoever_sleeps_between_two_steps_no_key_has_two_lines() {
    let (mut granted, mut overflows) = (0, 0);
    for seed in 0..10 * seeds() {
        let (more, shared) = contend(seed);
        granted += more;
        overflows += shared;
    }
    assert!(granted > 0 && overflows > 0, "{granted} granted, {overflows} times no room");
}
