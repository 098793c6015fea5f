//! Deadlines that cost nothing per operation: a socket is filed once, and its deadline is a cell.
//!
//! When a deadline has passed, the socket is shut down, and whatever operation is in flight on it returns by itself.
//! A deadline that moved later is found when its old slot comes up, and filed again; one that moved earlier is filed at
//! once. Invariant: every live deadline is filed in a slot at or before its tick.

use std::{cell::RefCell, os::fd::RawFd, rc::Rc};

use crate::base::{
    limits,
    now::Now,
    waiting::{Expiry, Waiting},
};

/// Slots of the wheel; what lies farther ahead waits in the last and is filed again from there.
const SLOTS: usize = 512;

/// This core's deadlines.
#[derive(Clone, Default)]
pub(super) struct Wheel(Rc<RefCell<State>>);

#[derive(Default)]
struct State {
    timers: Vec<Timer>,
    free: Vec<u32>,
    slots: Vec<Vec<Filed>>,
    /// The next tick to come up.
    tick: u64,
}

struct Timer {
    fd: RawFd,
    /// Distinguishes this use of the entry from earlier ones.
    generation: u32,
    due: u64,
    why: Waiting,
    /// The tick under which a live entry lies in a slot; `u64::MAX`: none does.
    filed: u64,
    expired: Option<Expiry>,
}

#[derive(Clone, Copy)]
struct Filed {
    timer: u32,
    generation: u32,
}

/// One socket's deadline. Dropping it forgets the socket, which must happen before the descriptor can be reused.
pub(super) struct Deadline {
    wheel: Wheel,
    timer: u32,
}

impl Wheel {
    /// Files a socket, as yet without a deadline.
    pub(super) fn watch(&self, fd: RawFd) -> Deadline {
        let mut state = self.0.borrow_mut();
        let fresh =
            Timer { fd, generation: 0, due: u64::MAX, why: Waiting::Idle, filed: u64::MAX, expired: None };
        let timer = match state.free.pop() {
            Some(timer) => {
                let entry = &mut state.timers[timer as usize];
                *entry = Timer { generation: entry.generation, ..fresh };
                timer
            }
            None => {
                state.timers.push(fresh);
                u32::try_from(state.timers.len() - 1).unwrap_or(u32::MAX)
            }
        };
        Deadline { wheel: self.clone(), timer }
    }

    /// Turns up to `now` and gives each socket whose time is over to `shut`, with what was waited for.
    pub(super) fn turn(&self, now: Now, mut shut: impl FnMut(RawFd, Waiting)) {
        let mut state = self.0.borrow_mut();
        let state = &mut *state;
        if state.slots.is_empty() {
            state.slots.resize_with(SLOTS, Vec::new);
        }
        let last = now.0 / TICK_NS;
        while state.tick <= last {
            let tick = state.tick;
            state.tick += 1;
            let mut due = std::mem::take(&mut state.slots[slot(tick)]);
            for filed in due.drain(..) {
                let timer = &mut state.timers[filed.timer as usize];
                if timer.generation != filed.generation || timer.filed == u64::MAX || timer.filed > tick {
                    continue;
                }
                timer.filed = u64::MAX;
                if timer.due > tick {
                    state.file(filed.timer);
                } else {
                    // The first reason stays the reason. A later deadline still holds: the first may have shut one side.
                    timer.expired.get_or_insert(Expiry::Late(timer.why));
                    shut(timer.fd, timer.why);
                }
            }
            // Keeps the slot's allocation, unless it was refilled meanwhile.
            let slot = &mut state.slots[slot(tick)];
            if slot.is_empty() {
                *slot = due;
            }
        }
    }

    /// Ends every socket that waits for one of `kinds`, for the drain. `shut` says whether it really ended it.
    pub(super) fn end_all(&self, kinds: &[Waiting], mut shut: impl FnMut(RawFd) -> bool) {
        let mut state = self.0.borrow_mut();
        for timer in &mut state.timers {
            let lives = timer.fd >= 0 && timer.expired.is_none() && timer.due != u64::MAX;
            if lives && kinds.contains(&timer.why) && shut(timer.fd) {
                timer.expired = Some(Expiry::Drained);
            }
        }
    }

    /// Sockets filed, for tests and gauges.
    #[cfg(test)]
    fn len(&self) -> usize {
        let state = self.0.borrow();
        state.timers.len() - state.free.len()
    }
}

impl State {
    fn file(&mut self, timer: u32) {
        let entry = &mut self.timers[timer as usize];
        if entry.due == u64::MAX {
            return;
        }
        // Never under a tick that has already come up: it would wait for a whole turn.
        let tick = entry.due.max(self.tick).min(self.tick + SLOTS as u64 - 1);
        entry.filed = tick;
        let filed = Filed { timer, generation: entry.generation };
        if self.slots.is_empty() {
            self.slots.resize_with(SLOTS, Vec::new);
        }
        self.slots[slot(tick)].push(filed);
    }
}

const TICK_NS: u64 = limits::TICK.subsec_nanos() as u64;
const _: () = assert!(limits::TICK.as_secs() == 0 && TICK_NS > 0);

fn slot(tick: u64) -> usize {
    usize::try_from(tick % SLOTS as u64).unwrap_or(0)
}

impl Deadline {
    /// The socket is shut at the first tick at or after `at`.
    pub(super) fn set(&self, at: Now, why: Waiting) {
        let mut state = self.wheel.0.borrow_mut();
        let due = at.0.div_ceil(TICK_NS);
        let timer = &mut state.timers[self.timer as usize];
        timer.due = due;
        timer.why = why;
        if timer.filed > due {
            state.file(self.timer);
        }
    }

    pub(super) fn expired(&self) -> Option<Expiry> {
        self.wheel.0.borrow().timers[self.timer as usize].expired
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        let mut state = self.wheel.0.borrow_mut();
        let timer = &mut state.timers[self.timer as usize];
        timer.generation = timer.generation.wrapping_add(1);
        timer.fd = -1;
        timer.due = u64::MAX;
        state.free.push(self.timer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [RawFd; 0] = [];

    fn ms(ms: u64) -> Now {
        Now(ms * 1_000_000)
    }

    fn turn(wheel: &Wheel, now: Now) -> Vec<RawFd> {
        let mut shut = Vec::new();
        wheel.turn(now, |fd, _| shut.push(fd));
        shut.sort_unstable();
        shut
    }

    #[test]
    fn a_socket_is_shut_at_its_tick_and_once() {
        let wheel = Wheel::default();
        let a = wheel.watch(3);
        a.set(ms(120), Waiting::Head);
        assert_eq!(turn(&wheel, ms(100)), NONE);
        assert_eq!(a.expired(), None);
        assert_eq!(turn(&wheel, ms(150)), [3]);
        assert_eq!(a.expired(), Some(Expiry::Late(Waiting::Head)));
        assert_eq!(turn(&wheel, ms(10_000)), NONE);
    }

    #[test]
    fn a_socket_that_was_shut_half_way_has_deadlines_still() {
        let wheel = Wheel::default();
        let a = wheel.watch(3);
        a.set(ms(100), Waiting::Body);
        assert_eq!(turn(&wheel, ms(100)), [3]);
        assert_eq!(turn(&wheel, ms(5_000)), NONE);
        a.set(ms(6_000), Waiting::Reader);
        assert_eq!(turn(&wheel, ms(6_000)), [3]);
        assert_eq!(a.expired(), Some(Expiry::Late(Waiting::Body)));
    }

    #[test]
    fn a_deadline_moves_both_ways() {
        let wheel = Wheel::default();
        let a = wheel.watch(3);
        a.set(ms(100), Waiting::Head);
        a.set(ms(300), Waiting::Body);
        assert_eq!(turn(&wheel, ms(250)), NONE);
        a.set(ms(260), Waiting::Reader);
        assert_eq!(turn(&wheel, ms(300)), [3]);
        assert_eq!(a.expired(), Some(Expiry::Late(Waiting::Reader)));
    }

    #[test]
    fn a_reused_entry_has_nothing_of_the_one_before() {
        let wheel = Wheel::default();
        let a = wheel.watch(3);
        a.set(ms(100), Waiting::Head);
        drop(a);
        let b = wheel.watch(4);
        assert_eq!(turn(&wheel, ms(1_000)), NONE);
        assert_eq!(b.expired(), None);
        assert_eq!(wheel.len(), 1);
    }

    #[test]
    fn a_drain_ends_only_what_waits_for_what_it_names() {
        let wheel = Wheel::default();
        let (idle, busy, fresh) = (wheel.watch(3), wheel.watch(4), wheel.watch(5));
        idle.set(ms(100), Waiting::Idle);
        busy.set(ms(100), Waiting::Body);
        let mut shut = Vec::new();
        wheel.end_all(&[Waiting::Idle], |fd| {
            shut.push(fd);
            true
        });
        assert_eq!(shut, [3]);
        assert_eq!(idle.expired(), Some(Expiry::Drained));
        assert_eq!((busy.expired(), fresh.expired()), (None, None));
    }

    /// The naive twin: a list of deadlines, looked through at every tick.
    #[test]
    fn a_naive_twin_agrees_on_every_seed() {
        for seed in 1..=50u64 {
            let mut state = seed;
            let mut random = move || {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state
            };
            let wheel = Wheel::default();
            let mut live: Vec<(RawFd, Deadline, u64, bool)> = Vec::new();
            let mut now_ms = 0;
            for step in 0..2_000 {
                match random() % 5 {
                    0 => {
                        let at = now_ms + random() % 60_000;
                        let deadline = wheel.watch(step);
                        deadline.set(ms(at), Waiting::Idle);
                        live.push((step, deadline, at, false));
                    }
                    1 | 2 if !live.is_empty() => {
                        let which = usize::try_from(random()).unwrap_or(0) % live.len();
                        let at = now_ms + random() % 60_000;
                        if !live[which].3 {
                            live[which].1.set(ms(at), Waiting::Body);
                            live[which].2 = at;
                        }
                    }
                    3 if !live.is_empty() => {
                        let which = usize::try_from(random()).unwrap_or(0) % live.len();
                        live.swap_remove(which);
                    }
                    _ => {
                        now_ms += random() % 3_000;
                        let tick = now_ms / 50;
                        let mut expect: Vec<RawFd> = live
                            .iter()
                            .filter(|(_, _, at, done)| !done && at.div_ceil(50) <= tick)
                            .map(|(fd, ..)| *fd)
                            .collect();
                        live.iter_mut().for_each(|(_, _, at, done)| *done |= at.div_ceil(50) <= tick);
                        expect.sort_unstable();
                        assert_eq!(turn(&wheel, ms(now_ms)), expect, "seed {seed}, step {step}");
                    }
                }
            }
        }
    }
}
