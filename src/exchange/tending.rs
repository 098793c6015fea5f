//! What is done for an exchange while its upstream is silent, where somebody asked for it: a client that waits is written a
//! comment now and then, and an answer whose client has left is read on without it.
//!
//! An exchange for which neither is asked has no [`Tending`], and pays nothing but to see that. A comment stands between two
//! events and never in one. The read in flight is never dropped: a comment is written beside it, and it goes on when the
//! client has left.

use std::{
    cell::Cell,
    future::{Future, pending, poll_fn},
    pin::{Pin, pin},
    rc::Rc,
    task::Poll,
    time::Duration,
};

#[cfg(test)]
use super::sim::planted::{self, Bug};
use super::{
    Facts, Stop,
    attempt::{self, Answer, NoAnswer, Still, Watched, read_watching, readable_watching},
    h1::Client,
    intake::Outward,
    outgoing::Outgoing,
    relay::Relayed,
    reply,
    seam::{Wire, World},
};
use crate::{
    base::{limits, now::Now, waiting::Waiting},
    config::{Provider, relay::OnDisconnect, routes::Terms},
    ledger::record::{Record, Unheard, UnheardEnd},
    policy::attempts::{Cause, Failure, Phase},
    wire::{
        http1::render,
        json::{scan, usage::members},
        openai::refusal::Refusal,
    },
};

/// What a client is written that has nothing to read. Every reader of events skips it.
pub(super) const COMMENT: &[u8] = b": keep-alive\n\n";

/// What a client is told of an answer that is begun before there is one.
pub(super) const STATUS: u16 = 200;

/// What one exchange is tended with.
pub(super) struct Tending {
    on_disconnect: OnDisconnect,
    /// A request is on its way, or an answer is being read, for which it is worth going on.
    in_answer: bool,
    unheard: Option<Alone>,
    /// How long the client is left without a byte, by the provider that is asked now.
    every: Option<Duration>,
    /// When it was written to last, or began to wait.
    since: Now,
    /// What begins the answer, as long as nothing has and a comment may.
    head: Option<Vec<u8>>,
    /// How the body would be framed that this head begins.
    framing: Outward,
    /// It has been written.
    begun: bool,
    /// The client stands between two events of a body that is framed so.
    between: Option<Outward>,
    write_time: Duration,
    /// The client's deadline while nothing is asked of it.
    at_rest: Now,
    comment_bytes: u64,
}

/// An answer that is read without its client.
struct Alone {
    until: Now,
    account: Unheard,
    _place: Place,
}

/// One of the [`limits::UNHEARD_MAX`] places of a core.
struct Place(Rc<Cell<usize>>);

impl Place {
    fn take(taken: &Rc<Cell<usize>>) -> Option<Self> {
        (taken.get() < limits::UNHEARD_MAX).then(|| {
            taken.set(taken.get() + 1);
            Self(taken.clone())
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        #[cfg(test)]
        if planted::is(Bug::UnheardKept) {
            return;
        }
        self.0.set(self.0.get() - 1);
    }
}

/// An attempt at `provider` begins: tends the exchange as its caller, route and provider want it.
pub(super) fn attend<W: World>(
    world: &W,
    client: &mut Client<W::Wire>,
    terms: &Terms,
    provider: &Provider,
    facts: &Facts<'_>,
    record: &Record,
) {
    let caller = facts.visitor.caller.and_then(|caller| caller.on_disconnect);
    let on_disconnect = facts.relay.on_disconnect_for(caller);
    let every = facts.relay.keep_alive_for(terms.keep_alive, provider.keep_alive);
    let every = every.filter(|_| record.stream);
    if client.tending.is_none() && every.is_none() && on_disconnect == OnDisconnect::Cancel {
        return;
    }
    let tending = client.tending.get_or_insert_with(|| {
        let framing = if facts.http10 { Outward::Bare } else { Outward::Chunked };
        Box::new(Tending {
            on_disconnect,
            in_answer: false,
            unheard: None,
            every: None,
            since: world.now(),
            head: None,
            framing,
            begun: false,
            between: None,
            write_time: facts.limits.write_time(limits::READ_BYTES),
            at_rest: record.phases.started + limits::CONFIG_TIME_MAX * 2,
            comment_bytes: 0,
        })
    });
    tending.every = every;
    tending.in_answer = false;
    if !tending.begun {
        tending.head = (every.is_some() && terms.keep_alive_commits).then(|| {
            let mut head = Vec::new();
            reply::begin_early(&mut head, facts, tending.framing);
            head
        });
    }
}

impl<C: Wire> Client<C> {
    /// How the body is framed that has been begun before anybody answered; `None`: none has.
    pub(super) fn begun(&self) -> Option<Outward> {
        self.tending.as_ref().filter(|tending| tending.begun).map(|tending| tending.framing)
    }

    /// A stream that may be begun before anybody answers, or has been: its client is written to whatever is waited for.
    pub(super) fn is_begun_early(&self) -> bool {
        self.tending.as_ref().is_some_and(|tending| tending.begun || tending.head.is_some())
    }

    /// Puts into a write what the head could not say of an answer that was begun before anybody had answered. Once: before
    /// the first that follows the comments.
    pub(super) fn tell_late(&mut self, ours: &mut Vec<u8>, outward: Outward, facts: &Facts<'_>) {
        let comment = reply::comment_late(facts);
        put(ours, outward, &comment);
        if let Some(tending) = &mut self.tending {
            debug_assert!(tending.begun, "what has a head of its own says it there");
            tending.comment_bytes += comment.len() as u64;
        }
    }

    /// Whether the answer is read although the client has left.
    pub(super) fn is_unheard(&self) -> bool {
        self.tending.as_ref().is_some_and(|tending| tending.unheard.is_some())
    }

    /// The request has left: it may be charged for, whoever is there to hear the answer.
    pub(super) fn is_asked(&mut self) {
        if let Some(tending) = &mut self.tending {
            tending.in_answer = true;
        }
    }

    /// Until when an answer is read that nobody hears.
    fn unheard_until(&self, now: Now) -> Now {
        let alone = self.tending.as_ref().and_then(|tending| tending.unheard.as_ref());
        alone.map_or(now, |alone| alone.until)
    }

    /// An answer has come, and is worth being read to its end or not.
    pub(super) fn is_answered(&mut self, worth: bool) {
        if let Some(tending) = &mut self.tending {
            tending.in_answer = worth;
        }
    }

    /// The upstream is waited for: where the client stands, if its answer has been committed to.
    pub(super) fn stands(&mut self, committed: Option<Outward>, at_boundary: bool) {
        if let Some(tending) = &mut self.tending
            && let Some(outward) = committed
        {
            tending.head = None;
            tending.between = at_boundary.then_some(outward);
        }
    }

    /// So many bytes of the answer would have been the client's, or were.
    pub(super) fn took(&mut self, now: Now, bytes: usize) {
        if let Some(tending) = &mut self.tending {
            tending.since = now;
            if let Some(alone) = &mut tending.unheard {
                alone.account.bytes += bytes as u64;
            }
        }
    }

    /// Notes how an answer ended that nobody hears. Whether it is one.
    pub(super) fn ended_unheard(&mut self, end: UnheardEnd) -> bool {
        let alone = self.tending.as_mut().and_then(|tending| tending.unheard.as_mut());
        alone.map(|alone| alone.account.end = end).is_some()
    }

    /// What would have been read on without the client is not, after all.
    pub(super) fn not_unheard(&mut self) {
        if let Some(tending) = &mut self.tending {
            tending.unheard = None;
        }
    }

    /// Whether an answer that nobody hears has been read far enough.
    pub(super) fn heard_enough(&mut self, is_usage_known: bool) -> bool {
        let Some(tending) = &mut self.tending else { return false };
        let Some(alone) = &mut tending.unheard else { return false };
        let end = match tending.on_disconnect {
            OnDisconnect::DrainUntilUsage if is_usage_known => UnheardEnd::Usage,
            _ if alone.account.bytes > limits::UNHEARD_BYTES_MAX => UnheardEnd::OverBound,
            _ => return false,
        };
        alone.account.end = end;
        true
    }

    /// The exchange is over: what the record is to say of it.
    pub(super) fn untended(&mut self, record: &mut Record) {
        if let Some(tending) = self.tending.take() {
            record.bytes_out += tending.comment_bytes;
            if tending.begun {
                record.status = STATUS;
            }
            record.unheard = tending.unheard.map(|alone| alone.account);
        }
    }
}

/// Whether the answer is read on, now that the client has left. Its connection is ended then.
pub(super) fn goes_on_unheard<W: World>(world: &W, client: &mut Client<W::Wire>) -> bool {
    let Some(tending) = &mut client.tending else { return false };
    if tending.unheard.is_some() {
        return true;
    }
    if tending.on_disconnect == OnDisconnect::Cancel || !tending.in_answer {
        return false;
    }
    let Some(place) = Place::take(&world.local().unheard) else { return false };
    let account = Unheard { end: UnheardEnd::Lost, bytes: 0 };
    tending.unheard = Some(Alone { until: world.now() + limits::UNHEARD_TIME, account, _place: place });
    // Who closed only its own side is not kept waiting for bytes that will not come.
    client.wire.shutter()();
    true
}

/// How work ended that was awaited beside its client.
pub(super) enum Attended<T> {
    Done(T),
    /// The client left, and that ends the work: whoever has it shuts and awaits it.
    Left,
    /// The client left, and the work is worth going on with: it is awaited again.
    Unheard,
}

/// Awaits work that does not have the client: it is kept alive meanwhile, or left, as its exchange has it. The work is never
/// dropped half-way here, and goes on while a comment is written.
pub(super) async fn attended<W: World, T>(
    world: &W,
    client: &mut Client<W::Wire>,
    mut work: Pin<&mut impl Future<Output = T>>,
) -> Attended<T> {
    if client.tending.is_some() {
        // Boxed: the others need not be as large as this.
        return Box::pin(attended_boxed(world, client, work)).await;
    }
    poll_fn(|cx| {
        if let Poll::Ready(done) = work.as_mut().poll(cx) {
            return Poll::Ready(Attended::Done(done));
        }
        client.poll_gone(cx).map(|_gone| Attended::Left)
    })
    .await
}

async fn attended_boxed<W: World, T>(
    world: &W,
    client: &mut Client<W::Wire>,
    mut work: Pin<&mut impl Future<Output = T>>,
) -> Attended<T> {
    if client.is_unheard() {
        return attended_by_nobody(world, client, work).await;
    }
    loop {
        let is_due = {
            let mut due = pin!(until(world, due(client.tending.as_deref())));
            poll_fn(|cx| {
                if let Poll::Ready(done) = work.as_mut().poll(cx) {
                    return Poll::Ready(Some(Attended::Done(done)));
                }
                if client.poll_gone(cx).is_ready() {
                    return Poll::Ready(Some(Attended::Left));
                }
                due.as_mut().poll(cx).map(|()| None)
            })
            .await
        };
        let is_there = match is_due {
            Some(Attended::Done(done)) => return Attended::Done(done),
            Some(_) => false,
            None => {
                let mut saying = pin!(say_comment(world, client));
                let mut done = None;
                let is_there = poll_fn(|cx| {
                    if done.is_none()
                        && let Poll::Ready(result) = work.as_mut().poll(cx)
                    {
                        done = Some(result);
                    }
                    saying.as_mut().poll(cx)
                })
                .await;
                if let Some(done) = done {
                    // A client that did not take it is found out by whoever writes next.
                    return Attended::Done(done);
                }
                is_there
            }
        };
        if !is_there {
            return if goes_on_unheard(world, client) { Attended::Unheard } else { Attended::Left };
        }
    }
}

/// Awaits what nobody will hear of, as long as that is worth it.
async fn attended_by_nobody<W: World, T>(
    world: &W,
    client: &mut Client<W::Wire>,
    mut work: Pin<&mut impl Future<Output = T>>,
) -> Attended<T> {
    let mut over = pin!(world.sleep_until(client.unheard_until(world.now())));
    let came = poll_fn(|cx| {
        if let Poll::Ready(done) = work.as_mut().poll(cx) {
            return Poll::Ready(Attended::Done(done));
        }
        over.as_mut().poll(cx).map(|()| Attended::Left)
    })
    .await;
    if let Attended::Left = came {
        client.ended_unheard(UnheardEnd::OverBound);
    }
    came
}

/// Awaits work that is not worth going on with for nobody; `None`: the client left first.
pub(super) async fn while_heard<W: World, T>(
    world: &W,
    client: &mut Client<W::Wire>,
    work: impl Future<Output = T>,
) -> Option<T> {
    client.is_answered(false);
    match attended(world, client, pin!(work)).await {
        Attended::Done(done) => Some(done),
        Attended::Left | Attended::Unheard => None,
    }
}

/// Awaits work to its end, with its client or without. An error: what came of it when `shut` had ended it, because the client
/// had left.
pub(super) async fn to_the_end<W: World, T>(
    world: &W,
    client: &mut Client<W::Wire>,
    mut work: Pin<&mut impl Future<Output = T>>,
    shut: impl FnOnce(),
) -> Result<T, T> {
    loop {
        match attended(world, client, work.as_mut()).await {
            Attended::Done(done) => return Ok(done),
            Attended::Unheard => {}
            Attended::Left => break,
        }
    }
    shut();
    Err(work.await)
}

/// Reads from the upstream; meanwhile the client is kept alive, or left, as its exchange has it.
pub(super) async fn read<W: World>(
    world: &W,
    client: &mut Client<W::Wire>,
    wire: &mut W::Wire,
    into: Vec<u8>,
) -> Watched {
    if client.tending.is_none() {
        return read_watching(client, wire, into).await;
    }
    // Boxed: the others need not be as large as this.
    Box::pin(async {
        let shut = wire.shutter();
        #[cfg(test)]
        let shut = planted::shutter(shut);
        let read = pin!(wire.read(into));
        match to_the_end(world, client, read, shut).await {
            Ok((read, buffer)) => Watched::Read(read, buffer),
            Err((_, buffer)) => Watched::ClientGone(buffer),
        }
    })
    .await
}

/// Waits until the upstream has something to read or has ended, as [`read`] does.
pub(super) async fn readable<W: World>(world: &W, client: &mut Client<W::Wire>, wire: &mut W::Wire) -> Still {
    if client.tending.is_none() {
        return readable_watching(client, wire).await;
    }
    Box::pin(async {
        let mut waiting = pin!(poll_fn(|cx| wire.poll_readable(cx)));
        loop {
            match attended(world, client, waiting.as_mut()).await {
                Attended::Done(()) => return Still::There,
                Attended::Left => return Still::Gone,
                Attended::Unheard => {}
            }
        }
    })
    .await
}

/// Waits for a moment before something is asked again; nothing is for nobody.
pub(super) async fn wait<W: World>(world: &W, client: &mut Client<W::Wire>, until: Now) -> Still {
    match while_heard(world, client, world.sleep_until(until)).await {
        Some(()) => Still::There,
        None => Still::Gone,
    }
}

/// When the client is to be written a comment, if it is to be.
fn due(tending: Option<&Tending>) -> Option<Now> {
    let tending = tending?;
    let may_speak = tending.between.is_some() || tending.head.is_some();
    tending.every.filter(|_| may_speak).map(|every| tending.since + every)
}

async fn until<W: World>(world: &W, at: Option<Now>) {
    match at {
        Some(at) => world.sleep_until(at).await,
        None => pending().await,
    }
}

/// Writes a comment, and before it the answer's head where nothing has begun it. Whether the client took it.
async fn say_comment<W: World>(world: &W, client: &mut Client<W::Wire>) -> bool {
    let Some(tending) = &mut client.tending else { return true };
    let mut ours = world.local().buffer();
    if let Some(head) = tending.head.take() {
        ours.extend_from_slice(&head);
        tending.begun = true;
        tending.between = Some(tending.framing);
    }
    let Some(outward) = tending.between else { return true };
    #[cfg(test)]
    let outward = if planted::is(Bug::CommentUnframed) { Outward::Bare } else { outward };
    put(&mut ours, outward, COMMENT);
    tending.comment_bytes += COMMENT.len() as u64;
    world.local().sheet.borrow_mut().keep_alives += 1;
    let (until, at_rest) = (world.now() + tending.write_time, tending.at_rest);
    let sent = write(world, client, ours, until).await;
    client.wire.expire_at(at_rest, Waiting::Total);
    client.took(world.now(), 0);
    sent
}

/// The end of an answer that was begun before anybody had answered, and that nobody has: an error event. No last chunk follows
/// it, and no `[DONE]`.
pub(super) async fn say_lost<W: World>(
    world: &W,
    client: &mut Client<W::Wire>,
    outward: Outward,
    refusal: &Refusal,
    facts: &mut Facts<'_>,
    record: &mut Record,
) -> bool {
    let mut event = Vec::new();
    refusal.event(&mut event);
    facts.payload.refused_late(&event);
    let mut ours = world.local().buffer();
    client.tell_late(&mut ours, outward, facts);
    put(&mut ours, outward, &event);
    record.bytes_out += event.len() as u64;
    let until = world.now() + facts.limits.write_time(ours.len());
    write(world, client, ours, until).await
}

/// An error that a provider answered with where the answer has been begun: the client gets its body as an event.
pub(super) async fn show_late<W: World>(
    world: &W,
    client: &mut Client<W::Wire>,
    outward: Outward,
    mut answer: Answer<W::Wire>,
    provider: &str,
    facts: &mut Facts<'_>,
    record: &mut Record,
) -> Result<Relayed, Stop> {
    let body = match attempt::short_body(world, client, &mut answer).await {
        Ok(body) => body,
        Err(NoAnswer::ClientGone) => return Err(Stop::Left),
        Err(NoAnswer::Failed(failure)) => return Err(Stop::Failed(failure)),
    };
    let status = answer.head.status;
    let Some(event) = body.and_then(error_event) else {
        let message = format!("The provider {provider} answered {status}.").into();
        return Err(Stop::Refused(Refusal::UpstreamError { status, message }));
    };
    facts.payload.refused_late(&event);
    let mut ours = world.local().buffer();
    client.tell_late(&mut ours, outward, facts);
    put(&mut ours, outward, &event);
    record.bytes_out += event.len() as u64;
    let until = world.now() + facts.limits.write_time(ours.len());
    match write(world, client, ours, until).await {
        true => Ok(Relayed::Cut(Failure::new(Phase::Body, Cause::ErrorEvent(None)))),
        false => Err(Stop::Left),
    }
}

/// An error's body as the data of an event; `None` if it is none.
fn error_event(body: Vec<u8>) -> Option<Vec<u8>> {
    let [error] = members(scan::document(&body).ok()?, ["error"]);
    error?;
    // A line break in JSON is white space, wherever it may stand unescaped.
    let line = body.into_iter().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { byte });
    Some(b"data: ".iter().copied().chain(line).chain(*b"\n\n").collect())
}

async fn write<W: World>(world: &W, client: &mut Client<W::Wire>, ours: Vec<u8>, until: Now) -> bool {
    let mut out = Outgoing::default();
    let index = out.push_all(ours);
    client.wire.expire_at(until, Waiting::Reader);
    let sent = client.wire.write(&mut out).await;
    world.local().recycle(out.take(index));
    sent.is_ok()
}

/// Adds payload to a write, framed as the client's body is.
fn put(ours: &mut Vec<u8>, outward: Outward, payload: &[u8]) {
    if outward == Outward::Chunked {
        render::chunk_head(ours, payload.len());
    }
    ours.extend_from_slice(payload);
    if outward == Outward::Chunked {
        ours.extend_from_slice(render::CHUNK_END);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_event(body: &str, expect: Option<&str>) {
        let event = error_event(body.as_bytes().to_vec());
        assert_eq!(event.as_deref().map(String::from_utf8_lossy).as_deref(), expect);
    }

    #[test]
    fn an_error_body_becomes_one_event_of_one_line() {
        check_event("{\"error\":{}}", Some("data: {\"error\":{}}\n\n"));
        check_event("{\r\n \"error\": \"a\\n\"\n}\n", Some("data: {   \"error\": \"a\\n\" } \n\n"));
        check_event("{\"message\":\"no\"}", None);
        check_event("error", None);
        check_event("", None);
    }

    #[test]
    fn places_are_bounded_and_come_back() {
        let taken = Rc::default();
        let mut places: Vec<_> = (0..limits::UNHEARD_MAX).filter_map(|_| Place::take(&taken)).collect();
        assert_eq!(places.len(), limits::UNHEARD_MAX);
        assert!(Place::take(&taken).is_none());
        places.pop();
        assert!(Place::take(&taken).is_some());
        drop(places);
        assert_eq!(taken.get(), 0);
    }
}
