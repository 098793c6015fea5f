//! Takes a request off the wire: the head alone first, so that admission comes before a byte of body, then the body,
//! whole, because a field that decides may come last.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
};

use super::{
    Stop,
    ask::Check,
    budget::Hold,
    h1::Client,
    outgoing::Outgoing,
    seam::{Wire, World},
};
use crate::{
    base::{limits, now::Now, span::Span, waiting::Waiting},
    config::Limits,
    policy::admit::Admitted,
    wire::{
        http1::{
            Known,
            chunked::{Chunked, Step},
            framing::Framing,
            head::{HeadLimits, HeadScan, RequestHead},
            refused::BadHead,
            render,
        },
        openai::{endpoint::Body, refusal::Refusal},
    },
};

/// A request whose head has been read. Its body may lie behind it, in part or whole.
pub(super) struct Request {
    pub buffer: Vec<u8>,
    pub head: RequestHead,
    /// Payload of the body in `buffer`, complete after [`body`].
    pub body: Span,
    /// The judgement of a body that came in several reads: all of it after [`body`].
    pub check: Option<Box<Check>>,
    /// What this request holds of the core's budget for buffered bytes.
    hold: Hold,
}

impl Request {
    pub(super) fn body(&self) -> &[u8] {
        self.body.of(&self.buffer)
    }

    /// Gives its bytes away, and its place in the core's budget with them: nobody will ask for it again.
    pub(super) fn let_go(&mut self) -> Vec<u8> {
        (self.check, self.hold) = (None, Hold::default());
        std::mem::take(&mut self.buffer)
    }

    /// The first value of a field that means something here; `None` where it is absent.
    pub(super) fn known(&self, known: Known) -> Option<&[u8]> {
        self.head.known(&self.buffer, known)
    }

    /// Judges as much of the body as has come, up to `end`, and `whole` says whether that is all. A body that never was longer
    /// than one read is left to be judged at once.
    fn judge(&mut self, kind: Body, end: usize, whole: bool) {
        let so_far = self.head.bytes..end;
        if self.check.is_none() && (whole || so_far.len() < limits::BODY_READ_BYTES) {
            return;
        }
        let mut check = self
            .check
            .take()
            .unwrap_or_else(|| Box::new(Check::new(kind, self.known(Known::ContentType).unwrap_or(b""))));
        check.feed(&self.buffer[so_far]);
        self.check = Some(check);
    }
}

/// Reads one request head.
pub(super) async fn head<W: World>(
    world: &W,
    client: &mut Client<W::Wire>,
    limits: &Limits,
) -> Result<Request, Stop> {
    let mut buffer = std::mem::take(&mut client.carry);
    if buffer.capacity() == 0 {
        buffer = world.local().buffer();
    }
    let mut scan = HeadScan::default();
    client.wire.expire_at(world.recent() + limits.head_time, Waiting::Head);
    loop {
        let bounds = HeadLimits { bytes_max: limits.head_bytes, fields_max: limits.head_fields };
        match scan.request(&buffer, bounds) {
            Ok(Some(head)) => {
                let body = Span::new(head.bytes, head.bytes);
                if head.framing == Framing::None {
                    // What lies behind it is the next request already.
                    client.carry = buffer.split_off(head.bytes);
                }
                let hold = world.local().budget.hold();
                return Ok(Request { buffer, head, body, check: None, hold });
            }
            Ok(None) => {}
            Err(bad) => {
                world.local().recycle(buffer);
                return Err(Stop::Refused(bad_head(bad, bounds)));
            }
        }
        if buffer.capacity() - buffer.len() < limits::READ_BYTES / 4 {
            buffer.reserve(limits::READ_BYTES);
        }
        let (read, filled) = client.read(buffer).await;
        buffer = filled;
        if matches!(read, Ok(0) | Err(_)) {
            let late = client.wire.expired().is_some() && !buffer.is_empty();
            world.local().recycle(buffer);
            return Err(if late { Stop::Refused(Refusal::HeadTooSlow) } else { Stop::Left });
        }
    }
}

/// Reads the body that an admitted head announced, all of it, at a rate that is worth waiting for.
pub(super) async fn body<W: World>(
    world: &W,
    client: &mut Client<W::Wire>,
    request: &mut Request,
    admitted: &Admitted<'_, '_, W::Quota>,
    kind: Body,
    limits: &Limits,
) -> Result<(), Stop> {
    let bytes_max = admitted.body_bytes_max();
    match request.head.framing {
        Framing::None => {}
        Framing::Length(length) => {
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            if length > bytes_max {
                return Err(Stop::Refused(Refusal::BodyTooLarge { bytes_max }));
            }
            invite(world, client, request, limits).await?;
            sized_body(world, client, request, kind, length, limits).await?;
        }
        Framing::Chunked => {
            invite(world, client, request, limits).await?;
            chunked_body(world, client, request, kind, bytes_max, limits).await?;
        }
        Framing::UntilClose => debug_assert!(false, "a request's body never ends with its connection"),
    }
    if client.carry.is_empty() {
        client.carry = Vec::new();
    }
    Ok(())
}

/// Reads the body of a request that goes no further, if it is small and on its way, and forgets it. Whether the connection is
/// fit for the next request: what is larger costs more than a new connection does.
pub(super) async fn skip<W: World>(
    world: &W,
    client: &mut Client<W::Wire>,
    mut request: Request,
    limits: &Limits,
) -> bool {
    let Framing::Length(length) = request.head.framing else { return false };
    let here = request.buffer.len() - request.head.bytes;
    // Who waits to be invited has nothing on its way.
    let comes = length <= limits::SKIPPED_BODY_BYTES_MAX && !(request.head.expects_continue && here == 0);
    let Some(length) = usize::try_from(length).ok().filter(|_| comes) else { return false };
    let read = sized_body(world, client, &mut request, Body::None, length, limits).await;
    if client.carry.is_empty() {
        client.carry = Vec::new();
    }
    world.local().recycle(request.buffer);
    read.is_ok()
}

/// Answers `Expect: 100-continue`, unless the body is coming already.
async fn invite<W: World>(
    world: &W,
    client: &mut Client<W::Wire>,
    request: &Request,
    limits: &Limits,
) -> Result<(), Stop> {
    if !request.head.expects_continue || request.buffer.len() > request.head.bytes {
        return Ok(());
    }
    let mut out = Outgoing::default();
    out.push_all(render::CONTINUE.to_vec());
    client.wire.expire_at(world.now() + limits.write_grace, Waiting::Reader);
    client.wire.write(&mut out).await.map_err(|_| Stop::Left)
}

async fn sized_body<W: World>(
    world: &W,
    client: &mut Client<W::Wire>,
    request: &mut Request,
    kind: Body,
    length: usize,
    limits: &Limits,
) -> Result<(), Stop> {
    let began = world.recent();
    let end = request.head.bytes + length;
    while request.buffer.len() < end {
        grow(world, request, end, limits).await?;
        let received = request.buffer.len() - request.head.bytes;
        more(client, request, deadline(began, received, limits)).await?;
        let filled = request.buffer.len();
        request.judge(kind, filled.min(end), filled >= end);
    }
    client.carry = request.buffer.split_off(end);
    request.body = Span::new(request.head.bytes, end);
    Ok(())
}

/// Decodes in place: payload moves down over the framing, so that the body becomes one slice.
async fn chunked_body<W: World>(
    world: &W,
    client: &mut Client<W::Wire>,
    request: &mut Request,
    kind: Body,
    bytes_max: usize,
    limits: &Limits,
) -> Result<(), Stop> {
    let began = world.recent();
    let start = request.head.bytes;
    let mut chunked = Chunked::default();
    // start <= end <= at <= buffer.len(): payload, then consumed framing, then what is to be decoded.
    let (mut end, mut at) = (start, start);
    loop {
        while at < request.buffer.len() {
            let (step, next) = chunked
                .next(&request.buffer, at)
                .map_err(|bad| Stop::Refused(Refusal::BadHead { why: bad.reason() }))?;
            at = next;
            match step {
                Step::Payload(range) => {
                    end += range.len();
                    // A chunk that announces too much is refused before it comes.
                    let announced = usize::try_from(chunked.in_payload_remaining()).unwrap_or(usize::MAX);
                    if (end - start).saturating_add(announced) > bytes_max {
                        return Err(Stop::Refused(Refusal::BodyTooLarge { bytes_max }));
                    }
                    request.buffer.copy_within(range.clone(), end - range.len());
                }
                Step::More => break,
                Step::End => {
                    client.carry = request.buffer.split_off(at);
                    request.buffer.truncate(end);
                    request.body = Span::new(start, end);
                    request.judge(kind, end, true);
                    return Ok(());
                }
            }
        }
        request.buffer.truncate(end);
        at = end;
        request.judge(kind, end, false);
        grow(world, request, start + bytes_max + limits::READ_BYTES, limits).await?;
        more(client, request, deadline(began, end - start, limits)).await?;
    }
}

/// The latest moment at which a body that has come this far may bring its next byte.
fn deadline(began: Now, received: usize, limits: &Limits) -> Now {
    let earned_ms = (received as u64).saturating_mul(1_000) / limits.body_rate_floor.max(1);
    began + limits.body_grace + std::time::Duration::from_millis(earned_ms)
}

/// Reads once more of the body.
async fn more<C: Wire>(client: &mut Client<C>, request: &mut Request, until: Now) -> Result<(), Stop> {
    client.wire.expire_at(until, Waiting::Body);
    let (read, buffer) = client.read(std::mem::take(&mut request.buffer)).await;
    request.buffer = buffer;
    match read {
        Ok(read) if read > 0 => Ok(()),
        _ if client.wire.expired().is_some() => Err(Stop::Refused(Refusal::BodyTooSlow)),
        _ => Err(Stop::Left),
    }
}

/// Makes room for the next read: doubles as bytes arrive, up to `end`, within the core's budget.
async fn grow<W: World>(
    world: &W,
    request: &mut Request,
    end: usize,
    snapshot_limits: &Limits,
) -> Result<(), Stop> {
    let buffer = &mut request.buffer;
    let spare = buffer.capacity() - buffer.len();
    if spare >= limits::READ_BYTES / 4 || buffer.capacity() >= end {
        return Ok(());
    }
    let capacity = end.min((buffer.capacity() * 2).max(buffer.len() + limits::BODY_RESERVE_BYTES));
    let hold = &mut request.hold;
    let granted = hold.try_grow(capacity) || {
        // Reading stops here; TCP tells the client to wait too.
        let mut patience = pin!(world.sleep_until(world.now() + snapshot_limits.buffer_wait));
        poll_fn(|cx| {
            if hold.poll_grow(capacity, cx).is_ready() {
                return Poll::Ready(true);
            }
            patience.as_mut().poll(cx).map(|()| false)
        })
        .await
    };
    if !granted {
        return Err(Stop::Refused(Refusal::Overloaded { retry_after_ms: 1_000 }));
    }
    let more = capacity - request.buffer.len();
    request.buffer.reserve_exact(more);
    Ok(())
}

/// What a client is told of a head that is not one.
fn bad_head(bad: BadHead, bounds: HeadLimits) -> Refusal {
    match bad {
        BadHead::TooLarge => Refusal::HeadTooLarge { bytes_max: bounds.bytes_max },
        BadHead::TooManyFields => Refusal::TooManyFields { fields_max: bounds.fields_max },
        BadHead::BadExpect => Refusal::ExpectationFailed,
        bad => Refusal::BadHead { why: bad.reason() },
    }
}
