//! A connection in memory: two pipes with delays, and what a kernel would know of its two ends.
//!
//! Bytes arrive in order, in pieces, each when it is due. A reset overtakes what has not arrived; closing with bytes
//! unread is a reset, and so are bytes that reach a closed end, as with TCP.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    io,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use super::world::Sim;
use crate::base::{
    limits,
    now::Now,
    waiting::{Expiry, Waiting},
};

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// To the gateway.
    In,
    /// To the peer.
    Out,
}

/// One connection, seen by both ends.
pub(super) struct Conn {
    pub(super) id: usize,
    pub(super) sim: Rc<Sim>,
    pub(super) into: RefCell<Pipe>,
    pub(super) out: RefCell<Pipe>,
    pub(super) gateway: RefCell<Gateway>,
    /// Bytes that the gateway has written since this was last set to zero.
    pub(super) writes: Cell<usize>,
    /// Bytes that have reached the gateway.
    pub(super) arrived: Cell<usize>,
    /// Longest delay of a piece.
    pub(super) delay: Duration,
}

/// One direction.
#[derive(Default)]
pub(super) struct Pipe {
    pub(super) arrived: VecDeque<u8>,
    /// Sent and not yet taken by the reader, at most `window` where the writer is the gateway.
    pub(super) outstanding: usize,
    pub(super) window: usize,
    /// Nothing arrives before what was sent before it.
    pub(super) last: Now,
    pub(super) fin_sent: bool,
    pub(super) fin: bool,
    pub(super) reset: bool,
    /// The reader takes no more: what comes is answered with a reset.
    pub(super) closed: bool,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
}

/// What only the gateway's end has.
#[derive(Default)]
pub(super) struct Gateway {
    pub(super) watch: Watch,
    pub(super) watcher: Option<Waker>,
    due: Option<(Now, Waiting)>,
    filed: Option<Now>,
    pub(super) expired: Option<Expiry>,
    /// Neither reads nor writes any more, but for what has arrived.
    pub(super) shut: bool,
    /// Reads no more.
    pub(super) deaf: bool,
    pub(super) closed: bool,
    /// When it let go, or was made to.
    pub(super) ended: Option<Now>,
    pub(super) finished: Option<Now>,
    /// Bytes read since then.
    pub(super) discarded: usize,
    /// Bytes that belong to no answer have arrived here.
    pub(super) stray: bool,
    /// An upstream connection that lies in the pool, or has just been taken out of it.
    pub(super) idle: bool,
    /// When the peer, a client, left.
    pub(super) left: Option<Now>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Watch {
    #[default]
    None,
    Armed,
    Fired,
}

impl Conn {
    pub(super) fn new(sim: &Rc<Sim>, window: usize) -> Rc<Self> {
        let delay = sim.chance().pick(&[0, 50_000, 1_000_000, 20_000_000]);
        sim.made.set(sim.made.get() + 1);
        Rc::new(Self {
            id: sim.made.get(),
            sim: sim.clone(),
            into: RefCell::default(),
            out: RefCell::new(Pipe { window, ..Pipe::default() }),
            gateway: RefCell::default(),
            writes: Cell::new(0),
            arrived: Cell::new(0),
            delay: Duration::from_nanos(delay),
        })
    }

    pub(super) fn pipe(&self, way: Way) -> &RefCell<Pipe> {
        if way == Way::In { &self.into } else { &self.out }
    }

    /// Sends bytes, to arrive behind all that was sent before.
    pub(super) fn send(self: &Rc<Self>, way: Way, bytes: Vec<u8>) {
        self.pipe(way).borrow_mut().outstanding += bytes.len();
        let conn = self.clone();
        self.later(way, move || conn.arrive(way, &bytes));
    }

    /// Sends a FIN.
    pub(super) fn finish(self: &Rc<Self>, way: Way) {
        if std::mem::replace(&mut self.pipe(way).borrow_mut().fin_sent, true) {
            return;
        }
        let conn = self.clone();
        self.later(way, move || {
            conn.pipe(way).borrow_mut().fin = true;
            conn.stir(way);
        });
    }

    /// Sends a reset, both ways: what has not arrived is lost, and what the gateway said last may be lost to the peer
    /// even if it has.
    pub(super) fn reset(self: &Rc<Self>, way: Way) {
        let conn = self.clone();
        self.sim.executor.at(self.sim.now() + self.some_delay(), move || {
            {
                let mut pipe = conn.pipe(way).borrow_mut();
                pipe.reset = true;
                if way == Way::Out {
                    pipe.arrived.clear();
                }
            }
            conn.stir(Way::In);
            conn.stir(Way::Out);
        });
    }

    pub(super) fn later(&self, way: Way, act: impl FnOnce() + 'static) {
        let mut pipe = self.pipe(way).borrow_mut();
        pipe.last = pipe.last.max(self.sim.now() + self.some_delay());
        self.sim.executor.at(pipe.last, act);
    }

    pub(super) fn some_delay(&self) -> Duration {
        let most = usize::try_from(self.delay.as_nanos()).unwrap_or(0);
        Duration::from_nanos(self.sim.chance().of(0..most + 1) as u64)
    }

    pub(super) fn arrive(self: &Rc<Self>, way: Way, bytes: &[u8]) {
        let mut pipe = self.pipe(way).borrow_mut();
        if pipe.reset {
            return;
        }
        if pipe.closed {
            drop(pipe);
            self.reset(if way == Way::In { Way::Out } else { Way::In });
            return;
        }
        pipe.arrived.extend(bytes);
        drop(pipe);
        if way == Way::In {
            let gateway = self.gateway.borrow();
            self.sim.check(!gateway.idle || gateway.stray, || {
                format!("connection {} is pooled in mid-answer", self.id)
            });
            drop(gateway);
            self.arrived.set(self.arrived.get() + bytes.len());
        }
        self.stir(way);
    }

    /// Wakes whom a change of this direction concerns.
    pub(super) fn stir(&self, way: Way) {
        let mut pipe = self.pipe(way).borrow_mut();
        let wakers = [pipe.reader.take(), pipe.writer.take()];
        drop(pipe);
        let mut gateway = self.gateway.borrow_mut();
        let watcher = if way == Way::In && gateway.watch == Watch::Armed && self.is_readable(&gateway) {
            gateway.watch = Watch::Fired;
            gateway.watcher.take()
        } else {
            None
        };
        drop(gateway);
        wakers.into_iter().chain([watcher]).flatten().for_each(Waker::wake);
    }

    pub(super) fn is_readable(&self, gateway: &Gateway) -> bool {
        let pipe = self.into.borrow();
        !pipe.arrived.is_empty() || pipe.fin || pipe.reset || gateway.shut || gateway.deaf
    }

    /// Whether bytes lie here that the gateway has not read.
    pub(super) fn has_bytes(&self) -> bool {
        !self.into.borrow().arrived.is_empty()
    }

    /// The gateway reads once behind `into`'s bytes.
    pub(super) fn poll_read(&self, cx: &Context<'_>, into: &mut Vec<u8>) -> Poll<io::Result<usize>> {
        let mut pipe = self.into.borrow_mut();
        let mut gateway = self.gateway.borrow_mut();
        let spare = into.capacity() - into.len();
        let most = pipe.arrived.len().min(spare);
        if most > 0 {
            let taken = if self.sim.chance().one_in(8) { self.sim.chance().of(1..most + 1) } else { most };
            take(&mut pipe.arrived, taken, into);
            pipe.outstanding -= taken;
            if gateway.finished.is_some() {
                gateway.discarded += taken;
            }
            return Poll::Ready(Ok(taken));
        }
        if pipe.reset && !gateway.shut {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if pipe.fin || gateway.shut || gateway.deaf {
            return Poll::Ready(Ok(0));
        }
        pipe.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    /// The gateway writes as much of `bytes` as there is room for.
    pub(super) fn poll_write(self: &Rc<Self>, cx: &Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.gateway.borrow().shut {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if self.into.borrow().reset {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let mut pipe = self.out.borrow_mut();
        let room = pipe.window.saturating_sub(pipe.outstanding);
        if room == 0 {
            pipe.writer = Some(cx.waker().clone());
            // A reset or a shut wakes whoever reads, and the writer with it.
            drop(pipe);
            self.into.borrow_mut().writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        drop(pipe);
        let written = bytes.len().min(room);
        self.writes.set(self.writes.get() + written);
        self.send(Way::Out, bytes[..written].to_vec());
        Poll::Ready(Ok(written))
    }

    /// Ends both directions on the gateway's side.
    pub(super) fn shut(self: &Rc<Self>) {
        self.gateway.borrow_mut().shut = true;
        self.gateway.borrow_mut().ended.get_or_insert_with(|| self.sim.now());
        self.finish(Way::Out);
        self.stir(Way::In);
        self.stir(Way::Out);
    }

    pub(super) fn expire_at(self: &Rc<Self>, at: Now, why: Waiting) {
        #[expect(clippy::cast_possible_truncation, reason = "a tick is milliseconds")]
        const TICK_NS: u64 = limits::TICK.as_nanos() as u64;
        let tick = Now(at.0.div_ceil(TICK_NS).saturating_mul(TICK_NS));
        let mut gateway = self.gateway.borrow_mut();
        gateway.due = Some((tick, why));
        self.file(&mut gateway);
    }

    fn file(self: &Rc<Self>, gateway: &mut Gateway) {
        let Some((tick, _)) = gateway.due else { return };
        if gateway.filed.is_some_and(|filed| filed <= tick) || gateway.closed {
            return;
        }
        gateway.filed = Some(tick);
        let conn = Rc::downgrade(self);
        self.sim.executor.at(tick, move || {
            if let Some(conn) = conn.upgrade() {
                conn.tick();
            }
        });
    }

    fn tick(self: &Rc<Self>) {
        let mut gateway = self.gateway.borrow_mut();
        gateway.filed = None;
        let Some((tick, why)) = gateway.due else { return };
        if tick > self.sim.now() {
            self.file(&mut gateway);
            return;
        }
        gateway.due = None;
        gateway.expired.get_or_insert(Expiry::Late(why));
        let half = matches!(why, Waiting::Head | Waiting::Body);
        gateway.deaf |= half;
        drop(gateway);
        if half { self.stir(Way::In) } else { self.shut() }
    }

    /// The drain ends this connection if it waits for one of `kinds`.
    pub(super) fn drain(self: &Rc<Self>, kinds: &[Waiting]) -> bool {
        let mut gateway = self.gateway.borrow_mut();
        let ends = gateway.due.is_some_and(|(_, why)| kinds.contains(&why)) && gateway.expired.is_none();
        if ends {
            gateway.expired = Some(Expiry::Drained);
            drop(gateway);
            self.shut();
        }
        ends
    }

    /// The gateway lets go of its end.
    pub(super) fn close(self: &Rc<Self>) {
        let again = std::mem::replace(&mut self.gateway.borrow_mut().closed, true);
        self.gateway.borrow_mut().ended.get_or_insert_with(|| self.sim.now());
        self.sim.check(!again, || format!("connection {} is closed twice", self.id));
        self.sim.closed.set(self.sim.closed.get() + 1);
        let mut into = self.into.borrow_mut();
        into.closed = true;
        let unread = !into.arrived.is_empty();
        drop(into);
        if unread { self.reset(Way::Out) } else { self.finish(Way::Out) }
    }
}

/// Moves the first `taken` bytes.
pub(super) fn take(from: &mut VecDeque<u8>, taken: usize, into: &mut Vec<u8>) {
    let (first, second) = from.as_slices();
    let head = taken.min(first.len());
    into.extend_from_slice(&first[..head]);
    into.extend_from_slice(&second[..taken - head]);
    from.drain(..taken);
}
