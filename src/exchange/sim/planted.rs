//! Bugs that are switched on by hand, to see that the checks find them.

use std::cell::Cell;

use crate::{
    base::waiting::Waiting,
    config::ProviderPlace,
    exchange::{
        Outgoing, pool,
        seam::{Wire, World},
    },
    ledger::record::{Record, Tokens},
    policy::attempts::{Came, Cause, Failure, Phase, Situation},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::exchange) enum Bug {
    PooledAfterCancel,
    PooledWithStrayBytes,
    UsageCountedTwice,
    RetriedAfterAnswer,
    RetriedAfterCommit,
    StaleRetriedAgain,
    EventCut,
    LostRecord,
    LastChunkAfterLoss,
    DoneAppended,
    ErrorEventMissing,
    BudgetKept,
    ReadDropped,
    /// Where there are several targets only: see `targets`.
    SecondAfterFirst,
    CommentUnframed,
    PlaceKept,
    UnheardKept,
    LineLost,
    NoUnheeded,
    EndUncopied,
    CopyUnbounded,
}

impl Bug {
    /// Every bug, and the words in which the checks complain of it.
    pub(super) const ALL: [(Self, &'static str); 19] = [
        (Self::PooledAfterCancel, "is pooled in mid-answer"),
        (Self::PooledWithStrayBytes, "is used after stray bytes"),
        (Self::UsageCountedTwice, "recorded Tokens"),
        (Self::RetriedAfterAnswer, "sent 2 times"),
        (Self::RetriedAfterCommit, "sent 2 times"),
        (Self::StaleRetriedAgain, "3 attempts"),
        (Self::EventCut, "cut within an event"),
        (Self::LostRecord, "counted"),
        (Self::LastChunkAfterLoss, "ends well but is not whole"),
        (Self::DoneAppended, "no last word"),
        (Self::ErrorEventMissing, "no last word"),
        (Self::BudgetKept, "of the budget are gone"),
        (Self::ReadDropped, "was dropped in flight"),
        (Self::CommentUnframed, "visit of"),
        (Self::UnheardKept, "places without a client"),
        (Self::LineLost, "handed over 0 times"),
        (Self::NoUnheeded, "said no and it was copied"),
        (Self::EndUncopied, "kept with another answer"),
        (Self::CopyUnbounded, "bytes were copied"),
    ];
}

thread_local! {
    static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// Whether this bug is in force on this thread.
pub(in crate::exchange) fn is(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Runs with a bug, or with none.
pub(super) fn with<T>(bug: Option<Bug>, run: impl FnOnce() -> T) -> T {
    PLANTED.set(bug);
    let result = run();
    PLANTED.set(None);
    result
}

/// The last word to a client, as a bug would have it.
pub(in crate::exchange) fn farewell(event: Option<Vec<u8>>) -> Option<Vec<u8>> {
    let mut event = event.filter(|_| !is(Bug::ErrorEventMissing))?;
    if is(Bug::DoneAppended) {
        event.extend_from_slice(b"data: [DONE]\n\n");
    }
    Some(event)
}

/// What cancels an upstream, unless its connection is to be kept.
pub(in crate::exchange) fn shutter(shut: impl FnOnce() + 'static) -> impl FnOnce() + 'static {
    move || {
        if !is(Bug::PooledAfterCancel) {
            shut();
        }
    }
}

/// What ends an attempt, unless its place is to be kept for ever.
pub(in crate::exchange) fn keep_place<T>(attempted: T) -> Option<T> {
    if is(Bug::PlaceKept) {
        std::mem::forget(attempted);
        return None;
    }
    Some(attempted)
}

/// Makes a failure look like the first of a stale connection.
pub(in crate::exchange) fn retry(came: Came, at: Situation) -> (Came, Situation) {
    if is(Bug::StaleRetriedAgain) {
        return (came, Situation { tried: 1, tried_here: 1, ..at });
    }
    match came {
        Came::Failed(failure) if is(Bug::RetriedAfterAnswer) && failure.answered => {
            let stale = Failure { reused: true, ..Failure::new(Phase::Head, Cause::Broken) };
            (Came::Failed(stale), at)
        }
        _ => (came, at),
    }
}

/// Whether this is the end of an answer, and is not to be copied.
pub(in crate::exchange) fn is_end_uncopied(part: &[u8]) -> bool {
    is(Bug::EndUncopied) && part.ends_with(b"[DONE]\n\n")
}

/// Counts usage once more where it had been counted.
pub(in crate::exchange) fn count_again(tokens: &mut Tokens, before: Tokens) {
    if is(Bug::UsageCountedTwice) {
        tokens.prompt = tokens.prompt.map(|count| count + before.prompt.unwrap_or(0));
    }
}

/// Asks the provider again for an answer that has begun to leave.
pub(in crate::exchange) async fn send_again<W: World>(world: &W, home: pool::Target, record: &Record) {
    if !is(Bug::RetriedAfterCommit) {
        return;
    }
    let until = world.now() + std::time::Duration::from_secs(1);
    let Ok(mut wire) = world.dial(&world.snapshot(), ProviderPlace(home.provider), until, None).await else {
        return;
    };
    let body = format!(r#"{{"model":"{}"}}"#, record.model_used.as_str());
    let head = format!("POST /v1/chat/completions HTTP/1.1\r\ncontent-length: {}\r\n\r\n", body.len());
    let mut out = Outgoing::default();
    out.push_all((head + &body).into_bytes());
    wire.expire_at(until, Waiting::Send);
    let _ = wire.write(&mut out).await;
    let _ = wire.read(Vec::with_capacity(64)).await;
}
