//! One try at one target: a connection, the request over it, the head of the answer.

use std::{
    future::{Future, poll_fn},
    io,
    pin::pin,
    task::Poll,
};

use zeroize::Zeroize;

#[cfg(test)]
use super::sim::planted::{self, Bug};
use super::{
    ask::Ask,
    cancel::Cancel,
    h1::{Audience, Client, Elsewhere},
    lens::Kind,
    outgoing::Outgoing,
    pool,
    receive::Request,
    reply,
    seam::{Wire, World},
    tending, upstream_head,
};
use crate::{
    base::{limits, now::Now, waiting::Waiting},
    config::{Limits, Snapshot, Timeouts},
    ledger::{
        record::{Party, Record},
        sheet::AttemptResult,
        trail::Trail,
    },
    policy::{
        attempts::{Cause, Failure, Phase},
        route::Target,
    },
    wire::{
        http1::{
            chunked::{BadChunk, Chunked, Step},
            framing::Framing,
            head::{HeadLimits, HeadScan, Method, ResponseHead},
        },
        json::Piece,
        trace_context::Onward,
    },
};

/// An upstream's answer, of which the head has been read.
pub(super) struct Answer<C> {
    pub wire: C,
    /// Where the connection goes back to when the answer has been read to its end.
    pub home: pool::Target,
    /// The head, and behind it what came with it of the body.
    pub buffer: Vec<u8>,
    pub head: ResponseHead,
    /// By its head, what kind of body it has.
    pub kind: Kind,
    /// It was read to its last byte and no further, and its connection may serve another request.
    pub is_clean: bool,
}

/// Why there is no answer.
pub(super) enum NoAnswer {
    Failed(Failure),
    /// The client left while we waited; the upstream has been cancelled.
    ClientGone,
}

/// A request that has been sent, and what its answer will come over.
pub(super) struct Sent<C> {
    pub wire: C,
    pub home: pool::Target,
    /// The connection came from the pool.
    pub reused: bool,
    pub at: Now,
}

/// Sends the request to the target and reads the head of its answer.
#[expect(
    clippy::too_many_arguments,
    reason = "the facts of one attempt; a struct of them would only rename them"
)]
pub(super) async fn attempt<W: World>(
    world: &W,
    client: &mut Client<W::Wire>,
    snapshot: &Snapshot,
    target: Target<'_, '_>,
    timeouts: &Timeouts,
    request: &mut Request,
    ask: &Ask,
    record: &mut Record,
    pooled: bool,
) -> Result<Answer<W::Wire>, NoAnswer> {
    let sent = open(world, snapshot, target, timeouts, request, ask, record, pooled, None).await;
    let Sent { mut wire, home, reused, at } = sent.map_err(NoAnswer::Failed)?;
    let failed = |failure: Failure| NoAnswer::Failed(Failure { reused, ..failure });
    let total = record.phases.started + timeouts.total;
    let until = sooner(total, at + timeouts.first_byte, Waiting::FirstByte);
    wire.expire_at(until.0, until.1);
    client.is_asked();
    let head = match tending::readable(world, client, &mut wire).await {
        Still::There if client.is_unheard() => read_head(world, &mut Elsewhere, &mut wire).await,
        Still::There => read_head(world, client, &mut wire).await,
        Still::Gone => Err(NoAnswer::ClientGone),
    };
    let over = world.now();
    record.waited(Party::Upstream, at, over);
    match head? {
        Ok((buffer, head)) => {
            record.phases.first_byte = Some(over);
            let kind = reply::kind(&head, &buffer);
            Ok(Answer { wire, home, buffer, head, kind, is_clean: false })
        }
        Err(failure) => Err(failed(failure)),
    }
}
/// Connects to the target and sends it the request, as long as `cancel` is not asked for.
#[expect(
    clippy::too_many_arguments,
    reason = "the facts of one attempt; a struct of them would only rename them"
)]
pub(super) async fn open<W: World>(
    world: &W,
    snapshot: &Snapshot,
    target: Target<'_, '_>,
    timeouts: &Timeouts,
    request: &mut Request,
    ask: &Ask,
    record: &mut Record,
    pooled: bool,
    cancel: Option<&Cancel>,
) -> Result<Sent<W::Wire>, Failure> {
    let home = pool::Target { generation: snapshot.generation, provider: target.place.0, key: target.key };
    let (mut wire, reused) =
        connection(world, snapshot, target, timeouts, home, record, pooled, cancel).await?;
    let _armed = cancel.map(|cancel| cancel.arm(wire.shutter()));
    if let Some(tried) = record.last_try() {
        tried.reused = reused;
    }
    let trace = record.trail.as_deref().and_then(Trail::onward);
    if let Err(failure) = send(world, &snapshot.limits, &mut wire, target, request, ask, trace).await {
        return Err(Failure { reused, ..failure });
    }
    let at = world.now();
    record.phases.sent = Some(at);
    Ok(Sent { wire, home, reused, at })
}

/// An idle connection if there is one and `pooled` allows it, else a fresh one; whether it was used before.
#[expect(
    clippy::too_many_arguments,
    reason = "the facts of one attempt; a struct of them would only rename them"
)]
async fn connection<W: World>(
    world: &W,
    snapshot: &Snapshot,
    target: Target<'_, '_>,
    timeouts: &Timeouts,
    home: pool::Target,
    record: &mut Record,
    pooled: bool,
    cancel: Option<&Cancel>,
) -> Result<(W::Wire, bool), Failure> {
    let now = world.recent();
    let idle = if pooled { world.local().pool.borrow_mut().lease(home, now) } else { None };
    if let Some(wire) = idle {
        world.local().sheet.borrow_mut().upstream.reused += 1;
        record.phases.connected = Some(now);
        return Ok((wire, true));
    }
    world.local().sheet.borrow_mut().upstream.opened += 1;
    let until = now + timeouts.connect + snapshot.limits.handshake_time;
    let dialled = world.dial(snapshot, target.place, until, cancel).await;
    let over = world.now();
    record.waited(Party::Upstream, now, over);
    let wire = dialled?;
    record.phases.connected = Some(over);
    Ok((wire, false))
}

/// Writes head and body. The body's bytes leave from the buffer they were read into.
async fn send<W: World>(
    world: &W,
    limits: &Limits,
    wire: &mut W::Wire,
    target: Target<'_, '_>,
    request: &mut Request,
    ask: &Ask,
    trace: Option<Onward>,
) -> Result<(), Failure> {
    let mut ours = world.local().buffer();
    let body = ask.splice(request.body.len(), target.model, target.provider.inject_usage, &mut ours);
    let head = upstream_head::write(&mut ours, target, request, ask, body.len, trace.as_ref());

    let mut out = Outgoing::default();
    let ours = out.own(ours);
    let theirs = out.own(std::mem::take(&mut request.buffer));
    out.keep_secret();
    out.push(ours, head.whole);
    for piece in body.pieces {
        match piece {
            Piece::Body(span) => out.push(theirs, span.behind(request.body.range().start)),
            Piece::Added(span) => out.push(ours, span),
        }
    }
    wire.expire_at(world.recent() + limits.write_time(out.len()), Waiting::Send);
    let sent = wire.write(&mut out).await;

    request.buffer = out.take(theirs);
    let mut ours = out.take(ours);
    // The pool's buffers must not remember a provider's key.
    ours[head.credential.range()].zeroize();
    world.local().recycle(ours);
    sent.map_err(|error| Failure::new(Phase::Send, cause(wire, &error)))
}

/// Whichever comes first: the end of the wait, or of the exchange as a whole.
pub(super) fn sooner(total: Now, at: Now, why: Waiting) -> (Now, Waiting) {
    if at < total { (at, why) } else { (total, Waiting::Total) }
}

/// Reads the final head, over any interim ones, once there is something to read: a model may think for minutes, and no
/// buffer is held meanwhile. The outer error is the client's departure.
pub(super) async fn read_head<W: World>(
    world: &W,
    client: &mut impl Audience,
    wire: &mut W::Wire,
) -> Result<Result<(Vec<u8>, ResponseHead), Failure>, NoAnswer> {
    let bounds = HeadLimits { bytes_max: limits::HEAD_BYTES_MAX, fields_max: limits::HEAD_FIELDS_MAX };
    let mut scan = HeadScan::default();
    let mut interim = 0;
    let mut buffer = world.local().buffer();
    loop {
        let failure = match scan.response(&buffer, Method::Post, bounds) {
            Ok(Some(head)) if head.status < 200 => {
                interim += 1;
                buffer.drain(..head.bytes);
                scan = HeadScan::default();
                if interim <= limits::INTERIM_ANSWERS_MAX {
                    continue;
                }
                Some(Cause::Malformed("too many interim answers"))
            }
            Ok(Some(head)) => return Ok(Ok((buffer, head))),
            Ok(None) => None,
            Err(bad) => Some(Cause::Malformed(bad.reason())),
        };
        let answered = !buffer.is_empty() || interim > 0;
        if let Some(cause) = failure {
            world.local().recycle(buffer);
            return Ok(Err(Failure { answered, ..Failure::new(Phase::Head, cause) }));
        }
        if buffer.capacity() - buffer.len() < limits::READ_BYTES / 4 {
            buffer.reserve(limits::READ_BYTES);
        }
        let read = match read_watching(client, wire, buffer).await {
            Watched::Read(read, filled) => {
                buffer = filled;
                read
            }
            Watched::ClientGone(buffer) => {
                world.local().recycle(buffer);
                return Err(NoAnswer::ClientGone);
            }
        };
        let cause = match read {
            Ok(0) => ended(wire),
            Ok(_) => continue,
            Err(error) => cause(wire, &error),
        };
        world.local().recycle(buffer);
        return Ok(Err(Failure { answered, ..Failure::new(Phase::Head, cause) }));
    }
}

/// The body of an answer that is short and JSON, read to its end; `None` where it is another. It stays in the answer's buffer.
pub(super) async fn short_body<W: World>(
    world: &W,
    client: &mut impl Audience,
    answer: &mut Answer<W::Wire>,
) -> Result<Option<Vec<u8>>, NoAnswer> {
    const MOST: usize = limits::ERROR_BODY_BYTES_MAX;
    if answer.kind != Kind::Json {
        return Ok(None);
    }
    answer.wire.expire_at(world.now() + limits::ERROR_BODY_TIME, Waiting::BetweenBytes);
    loop {
        let so_far = answer.buffer.get(answer.head.bytes..).unwrap_or_default();
        match answer.head.framing {
            Framing::Length(length) if length > MOST as u64 => return Ok(None),
            Framing::Length(length) if so_far.len() as u64 >= length => return Ok(Some(so_far.to_vec())),
            Framing::Length(_) => {}
            Framing::Chunked => match dechunked(so_far) {
                Ok(Some(body)) => return Ok(Some(body)),
                Ok(None) if so_far.len() <= MOST => {}
                _ => return Ok(None),
            },
            Framing::None | Framing::UntilClose => return Ok(None),
        }
        if answer.buffer.capacity() - answer.buffer.len() < limits::READ_BYTES / 4 {
            answer.buffer.reserve(limits::READ_BYTES);
        }
        match read_watching(client, &mut answer.wire, std::mem::take(&mut answer.buffer)).await {
            Watched::ClientGone(_) => return Err(NoAnswer::ClientGone),
            Watched::Read(read, buffer) => {
                answer.buffer = buffer;
                if matches!(read, Ok(0) | Err(_)) {
                    return Err(NoAnswer::Failed(Failure::new(Phase::Body, ended(&answer.wire))));
                }
            }
        }
    }
}

/// The payload of a chunked body, if it has all come.
fn dechunked(bytes: &[u8]) -> Result<Option<Vec<u8>>, BadChunk> {
    let (mut chunked, mut at, mut body) = (Chunked::default(), 0, Vec::new());
    while at < bytes.len() {
        let (step, next) = chunked.next(bytes, at)?;
        at = next;
        match step {
            Step::Payload(range) => body.extend_from_slice(bytes.get(range).unwrap_or_default()),
            Step::More => break,
            Step::End => return Ok(Some(body)),
        }
    }
    Ok(None)
}

/// What came of a read that kept an eye on the client.
pub enum Watched {
    Read(io::Result<usize>, Vec<u8>),
    /// The client left first. The upstream has been shut, and its read awaited.
    ClientGone(Vec<u8>),
}

/// What the books say of a failure.
pub(super) fn result_of(failure: Failure) -> AttemptResult {
    match (failure.phase, failure.cause) {
        (Phase::Resolve | Phase::Connect | Phase::Handshake, _) => AttemptResult::Unreachable,
        (_, Cause::Expired(_)) => AttemptResult::TimedOut,
        _ => AttemptResult::Lost,
    }
}

/// Whether the client is still there.
pub(super) enum Still {
    There,
    Gone,
}

/// Waits until the upstream has something to read or has ended, unless the client leaves first.
pub(super) async fn readable_watching<C: Wire>(client: &mut impl Audience, wire: &mut C) -> Still {
    poll_fn(|cx| {
        if wire.poll_readable(cx).is_ready() {
            return Poll::Ready(Still::There);
        }
        client.poll_gone(cx).map(|_gone| Still::Gone)
    })
    .await
}

/// Reads from the upstream unless the client leaves first.
pub async fn read_watching<C: Wire>(client: &mut impl Audience, wire: &mut C, into: Vec<u8>) -> Watched {
    let shut = wire.shutter();
    let mut read = pin!(wire.read(into));
    let early = poll_fn(|cx| {
        if let Poll::Ready(done) = read.as_mut().poll(cx) {
            return Poll::Ready(Some(done));
        }
        client.poll_gone(cx).map(|_gone| None)
    })
    .await;
    match early {
        Some((read, buffer)) => Watched::Read(read, buffer),
        None => {
            // Never dropped half-way: shut, the read returns by itself.
            #[cfg(test)]
            let shut = planted::shutter(shut);
            shut();
            #[cfg(test)]
            if planted::is(Bug::ReadDropped) {
                return Watched::ClientGone(Vec::new());
            }
            Watched::ClientGone(read.await.1)
        }
    }
}

/// What an error on this wire means.
pub(super) fn cause<C: Wire>(wire: &C, error: &io::Error) -> Cause {
    match wire.expired() {
        Some(expiry) => Cause::Expired(expiry),
        None if error.kind() == io::ErrorKind::InvalidData => Cause::Tls,
        None => Cause::Broken,
    }
}

/// What an end of this wire means, where none was due.
pub(super) fn ended<C: Wire>(wire: &C) -> Cause {
    wire.expired().map_or(Cause::Ended, Cause::Expired)
}

/// Whether the connection may serve another request, as far as the head tells.
pub(super) fn may_stay(head: &ResponseHead) -> bool {
    head.keep_alive && !matches!(head.framing, Framing::UntilClose)
}
