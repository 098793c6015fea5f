//! What an exchange asks of the world, and all it asks.
//!
//! `shard` answers with monoio, `sim` from a seed. Every operation owns its buffer until it finishes, and none is
//! dropped half-way: to end one early, set a deadline on its wire or shut the wire, and await it.

use std::{
    future::poll_fn,
    io,
    ops::Deref,
    task::{Context, Poll},
};

use super::{cancel::Cancel, local::Local, outgoing::Outgoing};
use crate::{
    base::{
        now::Now,
        waiting::{Expiry, Waiting},
    },
    config::{ProviderPlace, Snapshot, callers::Callers},
    ledger::{logged::Logged, untold::Untold},
    policy::{attempts::Failure, health::Outcomes, quota::Quota},
    wire::openai::models::ModelList,
};

/// What lies on a wire that became readable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stir {
    /// Nothing after all.
    Nothing,
    /// Bytes that nobody has asked for yet.
    Bytes,
    /// The peer has ended or reset the connection.
    Gone,
}

/// One connection's bytes, plain or inside TLS.
#[expect(async_fn_in_trait, reason = "every world runs on one thread; no bound on the futures is wanted")]
pub trait Wire {
    /// Reads once into the spare capacity behind `into`'s bytes. `Ok(0)`: the peer ended its side, or we shut the wire.
    async fn read(&mut self, into: Vec<u8>) -> (io::Result<usize>, Vec<u8>);

    /// Writes every piece, in order. The buffers are lent to the operation; afterwards they are in `out` again.
    async fn write(&mut self, out: &mut Outgoing) -> io::Result<()>;

    /// From now on no operation of this wire outlasts `at`: the wire is shut then, and [`Wire::expired`] says why. While
    /// waiting for a request ([`Waiting::Head`], [`Waiting::Body`]) only its reading side is, so that the peer can be told.
    fn expire_at(&mut self, at: Now, why: Waiting);

    /// Whether, and how, a deadline has ended this wire.
    fn expired(&self) -> Option<Expiry>;

    /// Ready once the wire has something to read or has ended. Keeps one watch armed between calls; costs no buffer.
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Forgets a watch that may have fired for bytes already read; the next [`Wire::poll_readable`] arms a new one.
    fn rearm(&mut self);

    /// Looks, without waiting, what made the wire readable, and consumes nothing of it.
    fn peek(&mut self) -> Stir;

    /// What ends both directions at once, usable while an operation is in flight: the operation returns then.
    fn shutter(&self) -> impl FnOnce() + 'static;

    /// Says that nothing more will be written (TLS close_notify, then FIN). The peer may still write.
    async fn finish(&mut self);

    /// Waits as [`Wire::poll_readable`] does.
    async fn readable(&mut self) {
        poll_fn(|cx| self.poll_readable(cx)).await;
    }
}

/// One core's surroundings.
#[expect(async_fn_in_trait, reason = "every world runs on one thread; no bound on the futures is wanted")]
pub trait World {
    type Wire: Wire;
    type Snapshot: Deref<Target = Snapshot>;
    type Models: Deref<Target = ModelList>;
    type Callers: Deref<Target = Option<Callers>>;
    type Quota: Quota;
    type Health: Outcomes;

    fn now(&self) -> Now;

    /// What [`now`](Self::now) said last, at most a tick ago. As good for a deadline, and for who has not waited since it asked.
    fn recent(&self) -> Now;

    /// Returns at `at`. May be dropped at any time.
    async fn sleep_until(&self, at: Now);

    /// Wall-clock milliseconds since 1970, for identifiers; never for a duration.
    fn unix_ms(&self) -> u64;

    /// 64 bits of chance.
    fn random(&self) -> u64;

    /// The configuration in force. An exchange keeps the one it began with.
    fn snapshot(&self) -> Self::Snapshot;

    /// The providers' model lists, as last fetched; `None` before the first fetch.
    fn models(&self) -> Option<Self::Models>;

    /// Who may call, as last read; `None`, in either place: it cannot be known now.
    fn callers(&self) -> Option<Self::Callers>;

    /// What has been used of every limit, by all cores together.
    fn quota(&self) -> &Self::Quota;

    /// How targets are doing, as all cores have found together.
    fn health(&self) -> &Self::Health;

    /// Whether no further request should be taken on a connection.
    fn draining(&self) -> bool;

    /// What this core keeps between exchanges.
    fn local(&self) -> &Local<Self::Wire>;

    /// An exchange has ended; `line` is called only where somebody wants to know. Called once for each, and never waits.
    fn log(&self, line: impl FnOnce() -> Logged);

    /// Whether lines come with the whole record, and not only where spans are made of it.
    fn wants_records(&self) -> bool {
        false
    }

    /// An exchange has ended whose tokens can be told by its words. It comes back where there is no room for it, or nobody
    /// who could; else it is counted and logged by who has it. Never waits.
    fn estimate(&self, untold: Untold) -> Option<Untold>;

    /// A fresh connection to a provider of `snapshot`, with TLS where its address says https, before `until`, and as long as
    /// `cancel` is not asked for.
    async fn dial(
        &self,
        snapshot: &Snapshot,
        place: ProviderPlace,
        until: Now,
        cancel: Option<&Cancel>,
    ) -> Result<Self::Wire, Failure>;
}
