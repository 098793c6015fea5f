//! What the tests stand on: processes that end with their owner, and a client that sees every byte.

mod gateway;
mod process;
mod provider;
mod state;
mod wire;

use std::time::{Duration, Instant};

pub(crate) use gateway::{
    CANARY, Gateway, Setup, backend, chat, chat_body, chat_with, model, own_address, pair, provider_table,
};
pub(crate) use process::{Program, binary, ringway};
pub(crate) use provider::{Provider, Seen};
pub(crate) use state::State;
pub(crate) use wire::{Answer, Client, Ending, post};

/// How long anything may take before a test gives up on it. Generous: the machine may be busy with other tests.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// Within this a provider learns that the client has left.
pub(crate) const CANCEL_MAX: Duration = Duration::from_millis(100);

/// How often a test repeats what goes wrong only rarely.
pub(crate) fn rounds() -> usize {
    std::env::var("RINGWAY_TEST_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(20)
}

/// Of a streamed answer every how-manyth byte is one to cut at.
pub(crate) fn cut_stride() -> usize {
    let stride = std::env::var("RINGWAY_TEST_CUT_STRIDE").ok().and_then(|stride| stride.parse().ok());
    stride.unwrap_or(19).max(1)
}

/// A moment that has not come yet.
#[derive(Clone, Copy)]
pub(crate) struct Deadline(Instant);

impl Deadline {
    pub(crate) fn within(span: Duration) -> Self {
        Self(clock() + span)
    }

    pub(crate) fn has_passed(self) -> bool {
        clock() >= self.0
    }
}

/// Asks `find` again and again until it finds something; panics with `what` when patience ends.
#[track_caller]
pub(crate) fn until<T>(what: &str, mut find: impl FnMut() -> Option<T>) -> T {
    let deadline = Deadline::within(PATIENCE);
    loop {
        if let Some(found) = find() {
            return found;
        }
        assert!(!deadline.has_passed(), "not within {PATIENCE:?}: {what}");
    }
}

#[expect(clippy::disallowed_methods, reason = "a test outside the gateway has no other clock")]
pub(crate) fn clock() -> Instant {
    Instant::now()
}
