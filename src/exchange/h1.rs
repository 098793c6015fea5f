//! A client that speaks HTTP/1.1: its wire, and the bytes it sent ahead of what was asked for.

use std::{
    io,
    net::IpAddr,
    task::{Context, Poll},
};

use super::{
    seam::{Stir, Wire, World},
    tending::Tending,
};
use crate::{
    base::{limits, waiting::Waiting},
    ledger::record::Record,
    wire::token::Memo,
};

/// One client connection between and during exchanges.
pub struct Client<C> {
    pub wire: C,
    /// Bytes read behind the last request: the beginning of the next (pipelining). Empty and unallocated when idle.
    pub carry: Vec<u8>,
    pub address: IpAddr,
    /// Bytes it sent ahead lie on the wire: there is no use in watching it before they are read.
    ahead: bool,
    /// What the exchange that runs is tended with; `None`: nothing was asked for.
    pub(super) tending: Option<Box<Tending>>,
    /// The token it showed last.
    pub(super) memo: Memo,
}

/// The client has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone;

/// Who may leave while something is awaited for it.
pub trait Audience {
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Gone>;
}

/// Somebody else looks whether the client is still there.
pub(super) struct Elsewhere;

impl Audience for Elsewhere {
    fn poll_gone(&mut self, _cx: &mut Context<'_>) -> Poll<Gone> {
        Poll::Pending
    }
}

impl<C: Wire> Audience for Client<C> {
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Gone> {
        Self::poll_gone(self, cx)
    }
}

impl<C: Wire> Client<C> {
    pub fn new(wire: C, address: IpAddr) -> Self {
        Self { wire, carry: Vec::new(), address, ahead: false, tending: None, memo: Memo::default() }
    }

    /// Waits, without a buffer, until there is something to read: a request, or the connection's end. False if a deadline
    /// came first.
    pub async fn stirs(&mut self) -> bool {
        if !self.ahead {
            self.wire.readable().await;
        }
        self.wire.expired().is_none()
    }

    /// Reads the beginning of a request into `carry`. False if none comes: the client has ended the connection.
    pub(super) async fn begins<W: World<Wire = C>>(&mut self, world: &W) -> bool {
        // Before the read, which takes the bytes: by this deadline a drain knows that a request is on its way.
        self.wire.expire_at(world.recent() + world.snapshot().limits.head_time, Waiting::Head);
        let (read, buffer) = self.read(world.local().buffer()).await;
        if buffer.is_empty() {
            world.local().recycle(buffer);
        } else {
            self.carry = buffer;
        }
        matches!(read, Ok(1..))
    }

    /// Ready when the client has left. A client's FIN means that it left: half-closed clients are not served.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Gone> {
        while !self.ahead {
            std::task::ready!(self.wire.poll_readable(cx));
            match self.wire.peek() {
                Stir::Nothing => self.wire.rearm(),
                Stir::Bytes => self.ahead = true,
                Stir::Gone => return Poll::Ready(Gone),
            }
        }
        Poll::Pending
    }

    /// Nothing is asked of the client for now: the upstream's deadlines are nearer than the one it has from here on, so
    /// that they fire first and it can be told.
    pub(super) fn owes_nothing(&mut self, record: &Record) {
        self.wire.expire_at(record.phases.started + limits::CONFIG_TIME_MAX * 2, Waiting::Total);
    }

    /// Reads behind `into`'s bytes.
    pub async fn read(&mut self, into: Vec<u8>) -> (io::Result<usize>, Vec<u8>) {
        // A watch that is armed would fire for the bytes that are read here.
        self.wire.rearm();
        self.ahead = false;
        self.wire.read(into).await
    }
}
