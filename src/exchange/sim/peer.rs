//! The end of a connection that is not ours: a client's or a provider's.

use std::{
    cell::Cell,
    rc::Rc,
    task::{Poll, Waker},
};

use super::{
    chance::Grain,
    conn::{Conn, Way, take},
};

/// What a peer got.
pub(super) enum Got {
    Bytes(Vec<u8>),
    Fin,
    Reset,
}

/// The peer of the gateway.
#[derive(Clone)]
pub(super) struct Peer {
    pub(super) conn: Rc<Conn>,
    pub(super) grain: Rc<Cell<Grain>>,
}

impl Peer {
    pub(super) fn new(conn: &Rc<Conn>) -> Self {
        let grain = conn.sim.chance().pick(&[Grain::Fine, Grain::Coarse, Grain::Whole, Grain::Whole]);
        let grain = if conn.sim.chance().one_in(16) { Grain::Byte } else { grain };
        Self { conn: conn.clone(), grain: Rc::new(Cell::new(grain)) }
    }

    /// Sends bytes in pieces, and returns when they are on their way. False: the other side is gone.
    pub(super) async fn send(&self, bytes: &[u8]) -> bool {
        let chance = self.conn.sim.chance();
        let grain = if bytes.len() > 8 << 10 { Grain::Whole } else { self.grain.get() };
        let mut at = 0;
        while at < bytes.len() {
            let piece = chance.piece((bytes.len() - at).min(48 << 10), grain);
            if self.is_lost() || self.conn.into.borrow().fin_sent {
                return false;
            }
            self.conn.send(Way::In, bytes[at..at + piece].to_vec());
            at += piece;
            if chance.one_in(6) {
                let pause = self.conn.some_delay();
                self.conn.sim.sleep(pause).await;
            }
        }
        true
    }

    /// Sends bytes that belong to no answer, and tells when they have arrived whether a request had been written by
    /// then that had not yet been read here.
    pub(super) fn send_stray(&self, bytes: &'static [u8], arrived: impl FnOnce(bool) + 'static) {
        let conn = self.conn.clone();
        self.conn.pipe(Way::In).borrow_mut().outstanding += bytes.len();
        let on_its_way = self.conn.out.borrow().outstanding > 0;
        self.conn.later(Way::In, move || {
            conn.gateway.borrow_mut().stray = true;
            arrived(on_its_way || conn.writes.get() > 0);
            conn.arrive(Way::In, bytes);
        });
        self.conn.writes.set(0);
    }

    /// Takes what has arrived, at most `most` bytes of it.
    pub(super) async fn receive(&self, most: usize) -> Got {
        std::future::poll_fn(|cx| {
            let mut pipe = self.conn.out.borrow_mut();
            if !pipe.arrived.is_empty() {
                let taken = pipe.arrived.len().min(most);
                let mut bytes = Vec::with_capacity(taken);
                take(&mut pipe.arrived, taken, &mut bytes);
                pipe.outstanding -= taken;
                let writer = pipe.writer.take();
                drop(pipe);
                writer.into_iter().for_each(Waker::wake);
                return Poll::Ready(Got::Bytes(bytes));
            }
            if pipe.reset {
                return Poll::Ready(Got::Reset);
            }
            if pipe.fin {
                return Poll::Ready(Got::Fin);
            }
            pipe.reader = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// The gateway has reset or ended this connection.
    pub(super) fn is_lost(&self) -> bool {
        let pipe = self.conn.out.borrow();
        pipe.reset || pipe.fin
    }

    pub(super) fn fin(&self) {
        self.conn.finish(Way::In);
    }

    pub(super) fn reset(&self) {
        self.close_quietly();
        self.conn.reset(Way::In);
    }

    /// Takes no more: what still comes is answered with a reset.
    pub(super) fn close_quietly(&self) {
        let mut pipe = self.conn.out.borrow_mut();
        pipe.closed = true;
    }

    /// Closes in an orderly way.
    pub(super) fn close(&self) {
        self.fin();
        self.close_quietly();
    }
}
