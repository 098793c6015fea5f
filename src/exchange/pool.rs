//! This core's idle upstream connections, by target; the one used last is used next.
//!
//! An idle connection keeps one watch armed: whatever arrives on it, bytes or an end, makes it unfit, and is seen at
//! the next lease or sweep without a system call. A connection is given back only by an exchange that read its answer
//! to the last byte and no further.

use std::task::{Context, Waker};

use super::seam::Wire;
use crate::base::{now::Now, waiting::Waiting};

/// What must be equal for a connection to be used again. A new configuration starts with fresh connections: none
/// outlives the address, the TLS policy and the credential it was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    pub generation: u64,
    pub provider: u16,
    pub key: u16,
}

/// Bounds are given per call, because they belong to the provider.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    pub per_target: usize,
    pub in_all: usize,
}

pub struct Pool<C> {
    // One for each target; few enough that a scan beats a map. An empty one goes at the next sweep, not before: most are
    // filled again by the next exchange.
    shelves: Vec<Shelf<C>>,
    /// The sum of the shelves' connections.
    count: usize,
}

struct Shelf<C> {
    target: Target,
    /// In the order in which they were given back.
    idle: Vec<Idle<C>>,
}

struct Idle<C> {
    wire: C,
    /// When it is closed unless it is used.
    until: Now,
}

impl<C> Default for Pool<C> {
    fn default() -> Self {
        Self { shelves: Vec::new(), count: 0 }
    }
}

impl<C: Wire> Pool<C> {
    /// The connection to `target` that was used last and is still fit. Unfit ones met on the way are closed.
    pub fn lease(&mut self, target: Target, now: Now) -> Option<C> {
        let shelf = self.shelves.iter_mut().find(|shelf| shelf.target == target)?;
        let mut found = None;
        while found.is_none()
            && let Some(mut idle) = shelf.idle.pop()
        {
            self.count -= 1;
            found = (idle.until > now && is_quiet(&mut idle.wire)).then_some(idle.wire);
        }
        found
    }

    /// Takes a connection back. When there is no room the oldest of its kind makes way, else the oldest of another.
    pub fn give_back(&mut self, target: Target, mut wire: C, until: Now, room: Room) {
        wire.rearm();
        // The last deadline of its answer holds until another is set: it would end a connection that nobody waits for, or,
        // worse, the request that has just been given it.
        wire.expire_at(until, Waiting::BetweenBytes);
        if room.per_target == 0 || room.in_all == 0 || !is_quiet(&mut wire) {
            return;
        }
        let at = self.shelves.iter().position(|shelf| shelf.target == target).unwrap_or_else(|| {
            self.shelves.push(Shelf { target, idle: Vec::new() });
            self.shelves.len() - 1
        });
        let shelf = &mut self.shelves[at];
        if shelf.idle.len() >= room.per_target {
            shelf.idle.remove(0);
            self.count -= 1;
        }
        shelf.idle.push(Idle { wire, until });
        self.count += 1;
        if self.count > room.in_all {
            self.drop_oldest();
        }
        self.check_invariants();
    }

    /// Closes what has expired, ended or spoken out of turn.
    pub fn sweep(&mut self, now: Now) {
        for shelf in &mut self.shelves {
            shelf.idle.retain_mut(|idle| idle.until > now && is_quiet(&mut idle.wire));
        }
        self.shelves.retain(|shelf| !shelf.idle.is_empty());
        self.count = self.shelves.iter().map(|shelf| shelf.idle.len()).sum();
    }

    /// Closes every idle connection.
    pub fn clear(&mut self) {
        self.shelves.clear();
        self.count = 0;
    }

    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Rare: the pool as a whole is full.
    fn drop_oldest(&mut self) {
        let filled = self.shelves.iter_mut().filter(|shelf| !shelf.idle.is_empty());
        if let Some(eldest) = filled.min_by_key(|shelf| shelf.idle.first().map(|idle| idle.until)) {
            eldest.idle.remove(0);
            self.count -= 1;
        }
    }

    fn check_invariants(&self) {
        debug_assert_eq!(
            self.count,
            self.shelves.iter().map(|shelf| shelf.idle.len()).sum::<usize>(),
            "each connection is counted once"
        );
    }
}

/// Nothing has happened on the wire since its watch was armed: no byte, no end. One that we have shut ourselves may not have
/// told its watch yet.
fn is_quiet<C: Wire>(wire: &mut C) -> bool {
    wire.expired().is_none() && wire.poll_readable(&mut Context::from_waker(Waker::noop())).is_pending()
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, io, rc::Rc, task::Poll};

    use super::*;
    use crate::{
        base::waiting::Expiry,
        exchange::{Outgoing, seam::Stir},
    };

    /// A wire that can only be kept: it has a number, and something may happen on it.
    struct Kept {
        number: u32,
        stirred: Rc<Cell<bool>>,
        due: Rc<Cell<Option<Now>>>,
        expired: Rc<Cell<bool>>,
    }

    impl Kept {
        fn new(number: u32, stirred: &Rc<Cell<bool>>) -> Self {
            Self { number, stirred: stirred.clone(), due: Rc::default(), expired: Rc::default() }
        }
    }

    impl Wire for Kept {
        async fn read(&mut self, into: Vec<u8>) -> (io::Result<usize>, Vec<u8>) {
            (Ok(0), into)
        }

        async fn write(&mut self, _out: &mut Outgoing) -> io::Result<()> {
            Ok(())
        }

        fn expire_at(&mut self, at: Now, _why: Waiting) {
            self.due.set(Some(at));
        }

        fn expired(&self) -> Option<Expiry> {
            self.expired.get().then_some(Expiry::Late(Waiting::BetweenBytes))
        }

        fn poll_readable(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
            if self.stirred.get() { Poll::Ready(()) } else { Poll::Pending }
        }

        fn rearm(&mut self) {}

        fn peek(&mut self) -> Stir {
            Stir::Nothing
        }

        fn shutter(&self) -> impl FnOnce() + 'static {
            || {}
        }

        async fn finish(&mut self) {}
    }

    fn target(provider: u16) -> Target {
        Target { generation: 1, provider, key: 0 }
    }

    #[test]
    fn a_kept_connection_forgets_the_deadline_of_its_last_answer() {
        const ROOM: Room = Room { per_target: 3, in_all: 7 };
        let mut pool = Pool::default();
        let mut wire = Kept::new(0, &Rc::default());
        wire.expire_at(Now(5), Waiting::BetweenBytes);
        let (due, expired) = (wire.due.clone(), wire.expired.clone());
        pool.give_back(target(0), wire, Now(30), ROOM);
        assert_eq!(due.get(), Some(Now(30)));
        // Shut in this very turn, and its watch has not heard of it.
        expired.set(true);
        assert!(pool.lease(target(0), Now(6)).is_none());
    }

    /// The naive twin: one list, looked through from its end.
    #[test]
    fn a_naive_twin_agrees_on_every_seed() {
        const ROOM: Room = Room { per_target: 3, in_all: 7 };
        for seed in 1..=60u64 {
            let mut state = seed;
            let mut random = |below: u64| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state % below
            };
            let mut pool = Pool::default();
            let mut twin: Vec<(Target, u32, u64, Rc<Cell<bool>>)> = Vec::new();
            for step in 0..600u32 {
                let now = u64::from(step);
                let fit = |until: u64, stirred: &Rc<Cell<bool>>| until > now && !stirred.get();
                let which = target(u16::try_from(random(4)).unwrap());
                match random(6) {
                    0..=2 => {
                        let (until, stirred) = (now + 20, Rc::new(Cell::new(false)));
                        let wire = Kept::new(step, &stirred);
                        pool.give_back(which, wire, Now(until), ROOM);
                        if twin.iter().filter(|(t, ..)| *t == which).count() >= ROOM.per_target {
                            let oldest = twin.iter().position(|(t, ..)| *t == which).unwrap();
                            twin.remove(oldest);
                        }
                        twin.push((which, step, until, stirred));
                        if twin.len() > ROOM.in_all {
                            twin.remove(0);
                        }
                    }
                    3 | 4 => {
                        let leased = pool.lease(which, Now(now)).map(|wire| wire.number);
                        let mut expect = None;
                        while expect.is_none()
                            && let Some(last) = twin.iter().rposition(|(t, ..)| *t == which)
                        {
                            let (_, number, until, stirred) = twin.remove(last);
                            expect = fit(until, &stirred).then_some(number);
                        }
                        assert_eq!(leased, expect, "seed {seed}, step {step}");
                    }
                    _ => {
                        if let Some((.., stirred)) = twin.first() {
                            stirred.set(true);
                        }
                        pool.sweep(Now(now));
                        twin.retain(|(_, _, until, stirred)| fit(*until, stirred));
                    }
                }
                pool.check_invariants();
                assert_eq!(pool.len(), twin.len(), "seed {seed}, step {step}");
            }
        }
    }
}
