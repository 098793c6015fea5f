//! The gateway's end of a connection, as the exchange knows it, and what it must not do with it.

use std::{
    future::poll_fn,
    io,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use super::{
    conn::{Conn, Watch, Way},
    faults::Fault,
};
use crate::{
    base::{
        now::Now,
        waiting::{Expiry, Waiting},
    },
    exchange::{
        Outgoing,
        seam::{Stir, Wire},
    },
};

pub(super) struct SimWire {
    conn: Rc<Conn>,
    side: Side,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Upstream,
}

/// Our own words in one write: a head, a refusal, framing.
const OWN_BYTES_MAX: usize = 4 << 10;

/// An operation that has begun and not ended.
struct Flight<'a> {
    conn: &'a Conn,
    what: &'static str,
    landed: bool,
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.conn.sim.check(self.landed || self.conn.sim.over.get(), || {
            format!("a {} of connection {} was dropped in flight", self.what, self.conn.id)
        });
    }
}

impl SimWire {
    pub(super) fn new(conn: &Rc<Conn>, side: Side) -> Self {
        Self { conn: conn.clone(), side }
    }

    pub(super) fn conn(&self) -> &Rc<Conn> {
        &self.conn
    }

    fn flight(&self, what: &'static str) -> Flight<'_> {
        Flight { conn: &self.conn, what, landed: false }
    }

    /// What a client is sent of a stream lies in the buffer that was read from the upstream: nothing is copied.
    fn check_origin(&self, out: &Outgoing) {
        let sim = &self.conn.sim;
        let read = sim.last_reads.borrow();
        let lies_in = |piece: &&[u8]| {
            let start = piece.as_ptr() as usize;
            read.values().any(|(at, capacity)| start >= *at && start + piece.len() <= at + capacity)
        };
        let own: usize = out.slices().filter(|piece| !lies_in(piece)).map(<[u8]>::len).sum();
        sim.check(self.side == Side::Upstream || own <= OWN_BYTES_MAX, || {
            format!("{own} bytes of a write to a client were copied")
        });
    }
}

impl Wire for SimWire {
    async fn read(&mut self, into: Vec<u8>) -> (io::Result<usize>, Vec<u8>) {
        let mut into = into;
        let conn = &self.conn;
        conn.sim.check(into.capacity() > into.len(), || "a read without room".to_owned());
        let mut flight = self.flight("read");
        let read = poll_fn(|cx| conn.poll_read(cx, &mut into)).await;
        flight.landed = true;
        if self.side == Side::Upstream {
            conn.sim.last_reads.borrow_mut().insert(conn.id, (into.as_ptr() as usize, into.capacity()));
        }
        (read, into)
    }

    async fn write(&mut self, out: &mut Outgoing) -> io::Result<()> {
        let (conn, sim) = (&self.conn, &self.conn.sim);
        self.check_origin(out);
        sim.check(!conn.gateway.borrow().stray || self.side == Side::Client, || {
            format!("connection {} is used after stray bytes", conn.id)
        });
        sim.check(conn.gateway.borrow().finished.is_none(), || "a write behind the end".to_owned());
        conn.gateway.borrow_mut().idle = false;
        let mut flight = self.flight("write");
        let whole = out.slices().collect::<Vec<_>>().concat();
        let mut at = 0;
        while at < whole.len() {
            let short = sim.chance().one_in(4);
            let most = if short { sim.chance().of(at..whole.len()) + 1 } else { whole.len() };
            match poll_fn(|cx| conn.poll_write(cx, &whole[at..most])).await {
                Ok(written) => at += written,
                Err(error) => {
                    flight.landed = true;
                    return Err(error);
                }
            }
            if at < whole.len() {
                sim.inject(Fault::ShortWrite);
                sim.sleep(Duration::from_micros(sim.chance().of(0..400) as u64)).await;
            }
        }
        flight.landed = true;
        Ok(())
    }

    fn expire_at(&mut self, at: Now, why: Waiting) {
        self.conn.expire_at(at, why);
    }

    fn expired(&self) -> Option<Expiry> {
        self.conn.gateway.borrow().expired
    }

    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut gateway = self.conn.gateway.borrow_mut();
        if gateway.watch == Watch::None {
            gateway.watch = if self.conn.is_readable(&gateway) { Watch::Fired } else { Watch::Armed };
        }
        if gateway.watch == Watch::Fired {
            // It may have fired for what has been read since.
            gateway.watch = Watch::None;
            return Poll::Ready(());
        }
        gateway.watcher = Some(cx.waker().clone());
        Poll::Pending
    }

    fn rearm(&mut self) {
        let mut gateway = self.conn.gateway.borrow_mut();
        gateway.watch = Watch::None;
        // Only the pool rearms an upstream's watch.
        gateway.idle = self.side == Side::Upstream;
    }

    fn peek(&mut self) -> Stir {
        let gateway = self.conn.gateway.borrow();
        if self.conn.has_bytes() {
            Stir::Bytes
        } else if self.conn.is_readable(&gateway) {
            Stir::Gone
        } else {
            Stir::Nothing
        }
    }

    fn shutter(&self) -> impl FnOnce() + 'static {
        let conn = self.conn.clone();
        move || conn.shut()
    }

    async fn finish(&mut self) {
        self.conn.gateway.borrow_mut().finished = Some(self.conn.sim.now());
        self.conn.finish(Way::Out);
    }
}

impl Drop for SimWire {
    fn drop(&mut self) {
        self.conn.close();
    }
}
