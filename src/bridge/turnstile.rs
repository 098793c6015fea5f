//! What cores do one after the other while they start.
//!
//! Invariant: nobody waits here once requests are served.

use std::sync::{Mutex, PoisonError};

/// Runs `start` while no other core runs its own.
pub fn one_at_a_time<T>(start: impl FnOnce() -> T) -> T {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    start()
}
