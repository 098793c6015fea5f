//! Everything slow, on threads of its own: names, model lists, statistics, the admin listener, signals.
//!
//! No core ever waits for anything here. What a core needs is published on a bulletin; what a core has to say it leaves
//! in its outbox.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::base::now::Now;

pub mod access_log;
pub mod admin;
pub mod budgets;
pub mod checks;
pub mod estimator;
pub mod fetch;
pub mod history;
pub mod log;
pub mod log_store;
pub mod models;
pub mod otlp;
pub mod resolver;
pub mod signals;
pub mod standing;
pub mod state;
pub mod stats;

/// The clock of the process, the same that cores read: their heartbeats are compared with it.
pub type Clock = Arc<dyn Fn() -> Now + Send + Sync>;

/// Locks what control's own threads share. Each value behind such a lock is whole between any two statements, so
/// another thread's panic is no reason to stop.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
