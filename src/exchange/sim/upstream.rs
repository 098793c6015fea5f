//! A provider's end of a connection: reads requests, answers them by script, and forsakes its connection in every way.

use std::{cell::Cell, rc::Rc, time::Duration};

use super::{
    faults::Fault,
    peer::{Got, Peer},
    script::{Break, Script},
    world::{Seen, SimWorld},
};
use crate::base::{limits, now::Now};

/// What becomes of the connection after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    Stay,
    CloseSoon,
    CloseAtNextByte,
    ResetAtNextByte,
    Stray,
}

pub(super) async fn serve(world: Rc<SimWorld>, peer: Peer) {
    let mut buffer = Vec::new();
    let mut reused = false;
    while let Some(script) = request(&world, &peer, &mut buffer, reused).await {
        let stays = answer(&world, &peer, &script).await;
        if !stays {
            // Whoever does not close on us is waited for: it has a deadline.
            while let Got::Bytes(_) = peer.receive(usize::MAX).await {}
            peer.close();
            return;
        }
        reused = true;
        let chance = world.sim.chance();
        let after = match chance.of(0..10) {
            0 => After::CloseSoon,
            1 => After::CloseAtNextByte,
            2 => After::ResetAtNextByte,
            3 => After::Stray,
            _ => After::Stay,
        };
        match after {
            After::Stay => {}
            After::CloseSoon => {
                world.sim.pause(chance.pick(&[0, 20, 2_000])).await;
                world.sim.inject(Fault::StaleFin);
                peer.close();
                return;
            }
            After::CloseAtNextByte | After::ResetAtNextByte => {
                if let Got::Bytes(_) = peer.receive(1).await {
                    if after == After::ResetAtNextByte {
                        world.sim.inject(Fault::StaleReset);
                        peer.reset();
                        return;
                    }
                    world.sim.inject(Fault::StaleFin);
                }
                peer.close();
                return;
            }
            After::Stray => {
                stray(&world, &peer).await;
                return;
            }
        }
    }
    peer.close();
}

/// What a peer does next, without chance.
#[derive(Clone, Debug)]
pub(super) enum Cue {
    /// So many milliseconds later it sends this.
    Say(u64, Vec<u8>),
    Fin,
    Reset,
}

/// Waits for one whole request, notes when it has it, then plays.
pub(super) async fn play(peer: Peer, scene: Vec<Cue>, asked: Rc<Cell<Option<Now>>>) {
    let mut buffer = Vec::new();
    while !is_whole(&buffer) {
        match peer.receive(usize::MAX).await {
            Got::Bytes(bytes) => buffer.extend_from_slice(&bytes),
            Got::Fin | Got::Reset => return peer.close(),
        }
    }
    asked.set(Some(peer.conn.sim.now()));
    perform(&peer, scene).await;
    while let Got::Bytes(_) = peer.receive(usize::MAX).await {}
    peer.close();
}

pub(super) async fn perform(peer: &Peer, scene: Vec<Cue>) {
    for cue in scene {
        match cue {
            Cue::Say(after_ms, bytes) => {
                peer.conn.sim.sleep(Duration::from_millis(after_ms)).await;
                peer.send(&bytes).await;
            }
            Cue::Fin => peer.fin(),
            Cue::Reset => {
                peer.conn.sim.sleep(peer.conn.delay).await;
                peer.reset();
            }
        }
    }
}

/// Says something that nobody asked for. Whoever uses the connection after it has arrived is at fault.
async fn stray(world: &Rc<SimWorld>, peer: &Peer) {
    world.sim.pause(world.sim.chance().pick(&[0, 0, 40])).await;
    world.sim.inject(Fault::StrayBytes);
    peer.send_stray(b"HTTP/1.1 200 STRAY BYTES\n", {
        let world = world.clone();
        move |met_request| {
            if met_request {
                world.stray_races.set(world.stray_races.get() + 1);
            }
        }
    });
    while let Got::Bytes(_) = peer.receive(usize::MAX).await {}
    peer.close();
}

/// Reads one request whole, unless its script says that it shall not be, and notes what it saw of it.
async fn request(
    world: &Rc<SimWorld>,
    peer: &Peer,
    buffer: &mut Vec<u8>,
    reused: bool,
) -> Option<Rc<Script>> {
    loop {
        match number(buffer) {
            Some(id) if is_whole(buffer) => {
                let bytes = std::mem::take(buffer);
                let script = world.scripts.borrow().get(&id).cloned();
                world
                    .sim
                    .check(script.is_some(), || format!("a provider is asked for {id}, which nobody wanted"));
                let script = script?;
                check_request(world, id, &bytes);
                let seen = Seen { conn: peer.conn.clone(), reused, arrived_before: peer.conn.arrived.get() };
                world.seen.borrow_mut().entry(id).or_default().push(seen);
                if script.breaks == Break::WhileSending {
                    world.sim.inject(Fault::ResetWhileSending);
                    peer.reset();
                    return None;
                }
                script.faults.iter().for_each(|&fault| world.sim.inject(fault));
                return Some(script);
            }
            Some(id)
                if world
                    .scripts
                    .borrow()
                    .get(&id)
                    .is_some_and(|script| script.breaks == Break::WhileSending) =>
            {
                world.sim.inject(Fault::ResetWhileSending);
                peer.reset();
                return None;
            }
            _ => {}
        }
        match peer.receive(usize::MAX).await {
            Got::Bytes(bytes) => buffer.extend_from_slice(&bytes),
            Got::Fin | Got::Reset => return None,
        }
    }
}

/// Sends the answer as far as the script goes. Whether the connection may serve another.
async fn answer(world: &Rc<SimWorld>, peer: &Peer, script: &Script) -> bool {
    let sim = &world.sim;
    let at = match script.breaks {
        Break::Reset { at } | Break::Close { at } | Break::Stall { at } => at,
        Break::None | Break::WhileSending => script.wire.len(),
    };
    sim.pause(script.think_ms).await;
    let mut sent = 0;
    while sent < at {
        // An event, roughly, at a time.
        let left = &script.wire[sent..at];
        let event = memchr::memmem::find(left, b"\n\n").map_or(left.len(), |end| end + 2);
        let most = if script.gap_ms == 0 { left.len() } else { event.clamp(1, 64 << 10) };
        if !peer.send(&left[..most]).await {
            return false;
        }
        sent += most;
        sim.pause(script.gap_ms).await;
    }
    match script.breaks {
        Break::Reset { .. } => {
            // A reset overtakes what has not arrived; most often everything has.
            if !sim.chance().one_in(3) {
                sim.sleep(peer.conn.delay).await;
            }
            peer.reset();
            false
        }
        Break::Close { .. } => {
            peer.close();
            false
        }
        Break::Stall { .. } => false,
        _ if script.malformed => false,
        _ if !script.stays => {
            peer.close();
            false
        }
        _ => true,
    }
}

/// The number in the model's name, as soon as it can be read.
fn number(bytes: &[u8]) -> Option<usize> {
    let at = memchr::memmem::find(bytes, b"\"model\":\"s")? + 10;
    let end = at + bytes[at..].iter().position(|byte| *byte == b'"')?;
    std::str::from_utf8(&bytes[at..end]).ok()?.parse().ok()
}

fn split_head(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let end = memchr::memmem::find(bytes, b"\r\n\r\n")?;
    Some((std::str::from_utf8(&bytes[..end]).ok()?, &bytes[end + 4..]))
}

pub(super) fn is_whole(bytes: &[u8]) -> bool {
    let Some((head, body)) = split_head(bytes) else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    length.and_then(|digits| digits.parse().ok()).is_some_and(|length: usize| body.len() >= length)
}

/// What arrives is what the client sent: its body but for the model's name, none of its credentials.
fn check_request(world: &SimWorld, id: usize, bytes: &[u8]) {
    let sim = &world.sim;
    let Some((head, body)) = split_head(bytes) else { return };
    let bad = |what: &str| format!("request {id} reaches its provider {what}: {head}");
    let mut body: serde_json::Value = match serde_json::from_slice(body) {
        Ok(body) => body,
        Err(error) => return sim.check(false, || bad(&format!("with a torn body ({error})"))),
    };
    sim.check(body["model"] == format!("s{id}"), || bad("under a wrong name"));
    sim.check(body["last"] == id, || bad("without its end"));
    let filler = body["filler"].take();
    let filler = filler.as_str().unwrap_or_default();
    sim.check(filler == "f".repeat(filler.len()), || bad("with other bytes in it"));
    sim.check(!head.contains("Bearer rw_") && !head.contains("x-private"), || {
        bad("with more than it may know")
    });
    sim.check(head.contains("authorization: Bearer sk-sim"), || bad("without its key"));
    let wanted = world.scripts.borrow().get(&id).is_some_and(|script| script.wants_usage);
    let asked = body["stream_options"]["include_usage"] == true;
    sim.check(asked == wanted, || bad("with usage asked for wrongly"));
    sim.check(bytes.len() <= limits::BODY_BYTES_MAX, || bad("too large"));
}
