//! Clients: they ask, wait, read as fast or as slowly as they like, and leave when they like. And the core's side of
//! their connections.

use std::{cell::Cell, rc::Rc, time::Duration};

use super::{
    answer::{Answer, Reader},
    asks::Ask,
    faults::Fault,
    peer::{Got, Peer},
    wire::{Side, SimWire},
    world::{SimWorld, Surroundings},
};
use crate::{
    base::{limits, now::Now, waiting::Waiting},
    exchange::{
        self, Next,
        h1::Client,
        seam::{Stir, Wire, World},
    },
};

/// What a client saw of one connection.
pub(super) struct Visit {
    pub(super) asks: Vec<Ask>,
    /// In order; the last may be in part.
    pub(super) answers: Vec<Answer>,
    pub(super) asked: usize,
    pub(super) nature: Nature,
    /// How the gateway ended it, if it did.
    pub(super) was_reset: bool,
    pub(super) bad: Option<String>,
    /// Bytes came that belong to no request.
    pub(super) surplus: bool,
    /// When it left before it had its answers.
    pub(super) left: Option<Now>,
    stopped: bool,
}

impl Visit {
    /// The client waited for its answers, and took them as they came.
    pub(super) fn is_patient(&self) -> bool {
        self.left.is_none() && self.nature.reads == Reading::Eager
    }
}

/// How a client behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Nature {
    pub(super) pipelines: bool,
    pub(super) leaves: Option<Leaving>,
    pub(super) reads: Reading,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leaving {
    after: Duration,
    with_reset: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    Eager,
    Slow,
    /// Not at all for minutes, after that many bytes.
    Stops(usize),
}

/// The core's side of one connection, as `shard::conn` serves it.
pub(super) async fn serve(world: Rc<SimWorld>, wire: SimWire) {
    let surroundings = Surroundings(world.clone());
    let mut client = Client::new(wire, std::net::IpAddr::from([127, 0, 0, 1]));
    loop {
        if client.carry.is_empty() {
            let idle_time = surroundings.snapshot().limits.idle_time;
            client.wire.expire_at(world.sim.now() + idle_time, Waiting::Idle);
            if !client.stirs().await {
                return;
            }
        }
        // An end that comes instead of a request is no exchange.
        let is_request = !client.carry.is_empty() || client.wire.peek() == Stir::Bytes;
        world.begun.set(world.begun.get() + usize::from(is_request));
        match Box::pin(exchange::serve(&surroundings, &mut client)).await {
            Next::Request => {}
            Next::Close => return,
        }
    }
}

/// One client, from its connection to its last answer.
pub(super) async fn visit(world: Rc<SimWorld>, first_id: usize, visits: Rc<std::cell::RefCell<Vec<Visit>>>) {
    let (sim, chance) = (world.sim.clone(), world.sim.chance());
    sim.pause(10_000).await;
    if world.draining.get() {
        return;
    }
    let nature = nature(&world);
    let mut asks: Vec<_> = (0..chance.of(1..5)).map(|number| Ask::new(&world, first_id + number)).collect();
    // Who does not finish one request sends no other.
    let unfinished = |ask: &Ask| matches!(ask.fault, Some(Fault::SlowHead | Fault::SlowBody));
    asks.truncate(asks.iter().position(unfinished).map_or(asks.len(), |last| last + 1));
    let window = match nature.reads {
        Reading::Eager => 64 << 10,
        Reading::Slow => 300,
        Reading::Stops(_) => 600,
    };
    let (wire, peer) = world.connect(Side::Client, window);
    let conn = peer.conn.clone();
    sim.executor.spawn(format!("connection {}", conn.id), serve(world.clone(), wire));
    let left = Rc::new(Cell::new(false));
    if let Some(leaving) = nature.leaves {
        let (peer, left, sim) = (peer.clone(), left.clone(), sim.clone());
        sim.clone().executor.at(sim.now() + leaving.after, move || {
            left.set(true);
            sim.inject(if leaving.with_reset { Fault::ClientReset } else { Fault::ClientFin });
            peer.conn.gateway.borrow_mut().left = Some(sim.now());
            if leaving.with_reset { peer.reset() } else { peer.fin() }
        });
    }

    let mut visit = Visit {
        asks,
        answers: Vec::new(),
        asked: 0,
        nature,
        was_reset: false,
        bad: None,
        surplus: false,
        left: None,
        stopped: false,
    };
    let mut reader = Reader::default();
    let mut unread = Vec::new();
    loop {
        let go_on = match visit.answers.last() {
            Some(answer) => answer.whole && !answer.closes() && visit.answers.len() == visit.asked,
            None => visit.asked == 0,
        };
        if !left.get() && go_on && visit.asked < visit.asks.len() {
            if world.draining.get() && visit.asked > 0 {
                break;
            }
            if visit.asked > 0 && chance.one_in(3) {
                sim.pause(chance.pick(&[1, 1_000, 40_000])).await;
                if left.get() {
                    continue;
                }
            }
            if peer.is_lost() && visit.asked > 0 {
                sim.check(world.draining.get() || visit.stopped, || {
                    format!(
                        "{}: the connection was not kept behind {:?}",
                        visit.asks[visit.asked].id,
                        visit.answers.last().map(|answer| &answer.fields)
                    )
                });
                break;
            }
            ask(&world, &peer, &mut visit, &left).await;
        }
        let all_said = visit.answers.len() >= visit.asked || visit.answers.last().is_some_and(Answer::closes);
        if all_said && !visit.answers.last().is_some_and(Answer::closes) && visit.asked >= visit.asks.len() {
            break;
        }
        if !read(&world, &peer, &mut visit, &mut reader, &mut unread).await {
            break;
        }
    }
    if visit.answers.last().is_some_and(Answer::closes) {
        visit.surplus |= !reader.is_between();
    } else {
        visit.answers.extend(reader.close());
    }
    if left.get() {
        visit.left = peer.conn.gateway.borrow().left;
    } else if chance.one_in(4) {
        // Stays until the gateway has had enough of it.
        while let Got::Bytes(_) = peer.receive(usize::MAX).await {
            visit.surplus = true;
        }
    }
    peer.close();
    visits.borrow_mut().push(visit);
}

fn nature(world: &SimWorld) -> Nature {
    let (sim, chance) = (&world.sim, world.sim.chance());
    let leaves = chance.one_in(4).then(|| Leaving {
        after: Duration::from_micros(
            chance.of(0..chance.pick(&[2_000, 100_000, 4_000_000, 60_000_000])) as u64
        ),
        with_reset: chance.one_in(2),
    });
    let reads = match chance.of(0..12) {
        0 => {
            sim.inject(Fault::SlowReader);
            Reading::Slow
        }
        1 => {
            sim.inject(Fault::StoppedReader);
            Reading::Stops(chance.of(0..2_000))
        }
        _ => Reading::Eager,
    };
    Nature { pipelines: chance.one_in(4), leaves, reads }
}

/// Sends the next request, or all that are left at once.
async fn ask(world: &SimWorld, peer: &Peer, visit: &mut Visit, left: &Cell<bool>) {
    let next = if visit.nature.pipelines && visit.asks.len() > 1 {
        world.sim.inject(Fault::Pipelined);
        visit.asks.len()
    } else {
        visit.asked + 1
    };
    let asks = visit.asks[visit.asked..next].to_vec();
    visit.asked = next;
    let mut together = Vec::new();
    for ask in asks {
        if ask.http10 {
            world.sim.inject(Fault::Http10Client);
        }
        if let Some(fault) = ask.fault {
            world.sim.inject(fault);
        }
        if visit.nature.pipelines {
            together.extend_from_slice(&ask.head);
            together.extend_from_slice(&ask.body);
        } else {
            if left.get() || !peer.send(&ask.head).await {
                return;
            }
            if world.sim.chance().one_in(3) {
                world.sim.pause(300).await;
            }
            together = ask.body;
        }
    }
    // In stretches, so that leaving can fall between them.
    for stretch in together.chunks(40_000) {
        if left.get() || !peer.send(stretch).await {
            return;
        }
        if together.len() > 40_000 {
            world.sim.pause(30).await;
        }
    }
}

/// Reads on. False: nothing more will come.
async fn read(
    world: &SimWorld,
    peer: &Peer,
    visit: &mut Visit,
    reader: &mut Reader,
    unread: &mut Vec<u8>,
) -> bool {
    if unread.is_empty() {
        let most = match visit.nature.reads {
            Reading::Eager => usize::MAX,
            Reading::Slow => {
                world.sim.pause(60).await;
                world.sim.chance().of(1..200)
            }
            Reading::Stops(after) => {
                let so_far: usize = visit.answers.iter().map(|answer| answer.payload.len()).sum();
                if so_far >= after && !std::mem::replace(&mut visit.stopped, true) {
                    world.sim.sleep(limits::WRITE_GRACE * 3).await;
                }
                400
            }
        };
        match peer.receive(most).await {
            Got::Bytes(bytes) => *unread = bytes,
            Got::Fin => return false,
            Got::Reset => {
                visit.was_reset = true;
                return false;
            }
        }
    }
    let is_over = visit.answers.last().is_some_and(Answer::closes);
    let Some(ask) = visit.asks[..visit.asked].get(visit.answers.len()).filter(|_| !is_over) else {
        visit.surplus = true;
        return false;
    };
    match reader.feed(unread, ask.is_head) {
        Ok((taken, answer)) => {
            unread.drain(..taken);
            visit.answers.extend(answer);
            true
        }
        Err(what) => {
            visit.bad = Some(what);
            false
        }
    }
}
