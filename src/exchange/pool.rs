//! This core's idle upstream connections, by target; the one used last is used next.
//!
//! An idle connection keeps one watch armed: whatever arrives on it, bytes or an end, makes it unfit, and is seen at
//! the next lease or sweep without a system call. A connection is given back only by an exchange that read its answer
//! to the last byte and no further.

use std::task::{Context, Waker};

use super::seam::Wire;
use crate::base::now::Now;

/// What must be equal for a connection to be used again. A new configuration starts with fresh connections: none
/// outlives the address, the TLS policy and the credential it was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    pub generation: u64,
    pub provider: u16,
    pub key: u16,
}

struct Idle<C> {
    target: Target,
    wire: C,
    /// When it is closed unless it is used.
    until: Now,
}

/// Bounds are given per call, because they belong to the provider.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    pub per_target: usize,
    pub in_all: usize,
}

pub struct Pool<C> {
    // In the order in which they were given back; few enough that a scan from the end beats a map.
    idle: Vec<Idle<C>>,
}

impl<C> Default for Pool<C> {
    fn default() -> Self {
        Self { idle: Vec::new() }
    }
}

impl<C: Wire> Pool<C> {
    /// The connection to `target` that was used last and is still fit. Unfit ones met on the way are closed.
    pub fn lease(&mut self, target: Target, now: Now) -> Option<C> {
        let mut at = self.idle.len();
        while at > 0 {
            at -= 1;
            if self.idle[at].target != target {
                continue;
            }
            let mut found = self.idle.remove(at);
            if found.until > now && is_quiet(&mut found.wire) {
                return Some(found.wire);
            }
        }
        None
    }

    /// Takes a connection back. When there is no room the oldest of its kind makes way.
    pub fn give_back(&mut self, target: Target, mut wire: C, until: Now, room: Room) {
        wire.rearm();
        if room.per_target == 0 || !is_quiet(&mut wire) {
            return;
        }
        let mut same =
            self.idle.iter().enumerate().filter(|(_, idle)| idle.target == target).map(|(at, _)| at);
        let oldest = same.next();
        if let Some(oldest) = oldest
            && 1 + same.count() >= room.per_target
        {
            self.idle.remove(oldest);
        } else if self.idle.len() >= room.in_all {
            self.idle.remove(0);
        }
        self.idle.push(Idle { target, wire, until });
    }

    /// Closes what has expired, ended or spoken out of turn.
    pub fn sweep(&mut self, now: Now) {
        self.idle.retain_mut(|idle| idle.until > now && is_quiet(&mut idle.wire));
    }

    /// Closes every idle connection.
    pub fn clear(&mut self) {
        self.idle.clear();
    }

    pub fn len(&self) -> usize {
        self.idle.len()
    }

    pub fn is_empty(&self) -> bool {
        self.idle.is_empty()
    }
}

/// Nothing has happened on the wire since its watch was armed: no byte, no end.
fn is_quiet<C: Wire>(wire: &mut C) -> bool {
    wire.poll_readable(&mut Context::from_waker(Waker::noop())).is_pending()
}
