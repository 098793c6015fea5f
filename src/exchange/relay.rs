//! Carries an answer's body from the upstream to the client, each buffer as soon as it may leave.
//!
//! Lock-step: read, look, write, out of one buffer. Back-pressure is TCP itself; nothing queues. From the first byte
//! written to the client nothing is retried: what goes wrong then is told inside the stream.

#[cfg(test)]
use super::sim::planted::{self, Bug};
use super::{
    Facts, Stop,
    attempt::{Answer, Watched, cause, ended, may_stay, sooner},
    h1::Client,
    hold::{Hold, Waited},
    intake::{End, Intake, Outward},
    lens::{Kind, Lens},
    outgoing::Outgoing,
    pool::Room,
    receive::Request,
    reply,
    seam::{Wire, World},
    tending,
};
use crate::{
    base::waiting::Waiting,
    config::{Limits, Provider, first_byte::HoldBack, routes::RouteTimeouts},
    ledger::record::{Party, Record, UnheardEnd},
    policy::{
        admit::Entitled,
        attempts::{Cause, Failure, Phase},
    },
    wire::{
        http1::render,
        openai::{stream::Watch, upstream_error::Said},
    },
};

/// How a relay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Relayed {
    /// The client has the whole answer.
    Whole,
    /// The client has the whole answer, and it says that the provider failed.
    Failed(Option<Said>),
    /// The client left, and the upstream's answer was read to its end all the same.
    Unheard,
    /// The upstream was lost on the way. The client has been told as far as its framing allows; its connection must end.
    Cut(Failure),
}

/// On which terms an answer is relayed.
pub(super) struct Way<'a, 'r> {
    pub provider: &'a Provider,
    pub timeouts: &'a RouteTimeouts,
    pub watch: Watch,
    /// A stream whose first event is an error is given back, because another target can be asked.
    pub yields: &'a dyn Fn(Option<Said>) -> bool,
    /// What was asked, until nothing can be asked again.
    pub request: &'a mut Option<&'r mut Request>,
    /// How much of a stream is held before the commit point.
    pub hold_back: HoldBack,
}

/// Relays `answer`. If that went well, its connection can be given back.
pub(super) async fn relay<W: World>(
    world: &W,
    client: &mut Client<W::Wire>,
    entitled: &mut Entitled<'_, '_, '_, W::Quota>,
    facts: &mut Facts<'_>,
    way: Way<'_, '_>,
    answer: &mut Answer<W::Wire>,
    record: &mut Record,
) -> Result<Relayed, Stop> {
    let Way { provider, timeouts, watch, yields, request, hold_back } = way;
    let times = timeouts.over(provider.timeouts);
    let Answer { wire, buffer, head, .. } = answer;
    let (buffer, head, kind) = (std::mem::take(buffer), &*head, answer.kind);
    client.is_answered(head.status < 300);
    let is_begun = client.begun().is_some();
    if is_begun && kind != Kind::Events {
        // The client has been told that events come.
        world.local().recycle(buffer);
        return Err(Stop::Failed(Failure::new(Phase::Head, Cause::Malformed("an answer that is no stream"))));
    }
    let mut lens = Lens::of(kind, head, watch, provider.reasoning_apart);
    lens.tell(facts.words.listen(kind, watch));
    let mut ours = world.local().buffer();
    if !is_begun {
        reply::begin(&mut ours, head, &buffer, kind, facts);
    }
    let mut intake = Intake::new(buffer, head.bytes, head.framing);
    let mut committed: Option<Outward> = None;
    let mut hold = Hold::of(hold_back, kind);
    let limits = facts.limits;
    let total = record.phases.started + times.total;
    let first_token = record.phases.sent.zip(timeouts.first_token).map(|(sent, span)| sent + span);

    let cut = loop {
        let decoded = intake.advance(lens.events());
        lens.look(&intake, world.recent(), record, &mut world.local().sheet.borrow_mut());
        facts.words.weigh();
        let has_ended = intake.end() != End::NotYet;
        if committed.is_none() && lens.failed() && !client.is_unheard() && yields(lens.said()) {
            return Err(Stop::Failed(Failure::new(Phase::Body, Cause::ErrorEvent(lens.said()))));
        }
        if !has_ended && entitled.streamed(lens.token_events(), world.recent()) {
            break Failure::new(Phase::Body, Cause::OverLimit);
        }
        match decoded {
            Err(bad) => break Failure::new(Phase::Body, Cause::Malformed(bad.reason())),
            Ok(()) if has_ended && !lens.is_whole_when_framed() => {
                break Failure::new(Phase::Body, Cause::Ended);
            }
            Ok(()) => {}
        }
        let held = hold.as_mut().is_some_and(|hold| !has_ended && hold.keeps(&intake, &lens, world.now()));
        if has_ended || (!held && !lens.holds() && intake.ready_bytes() > 0) {
            hold = None;
            let outward = *committed.get_or_insert_with(|| {
                // The commit point: nothing is tried again from here, so nothing need be kept for it.
                #[cfg(test)]
                let request = if planted::is(Bug::SecondAfterFirst) { &mut None } else { &mut *request };
                let is_bad = head.status >= 400 || lens.failed();
                facts.payload.answers(kind, is_bad, request.as_deref());
                if !lens.knows_usage() {
                    facts.words.asked(request.as_deref());
                }
                if let Some(request) = request.take() {
                    world.local().recycle(request.let_go());
                }
                facts.time(&record.phases, world);
                match client.begun() {
                    Some(outward) => {
                        ours.clear();
                        client.tell_late(&mut ours, outward, facts);
                        facts.stays &= outward == Outward::Chunked;
                        outward
                    }
                    None => reply::commit(&mut ours, facts, head.status, lens.length(&intake, head)),
                }
            });
            let manner = Manner { outward, hurries: kind == Kind::Events, limits };
            if !client.is_unheard() {
                record.status = head.status;
            }
            facts.payload.says(intake.ready());
            ours = pass_on(world, client, &mut intake, ours, manner, has_ended, record).await?;
        }
        if has_ended {
            let is_unheard = client.ended_unheard(UnheardEnd::Whole);
            let outcome = if is_unheard {
                Relayed::Unheard
            } else if lens.failed() {
                Relayed::Failed(lens.said())
            } else {
                Relayed::Whole
            };
            let stray = intake.end() != End::Clean { stray: false };
            #[cfg(test)]
            let stray = stray && !planted::is(Bug::PooledWithStrayBytes);
            world.local().recycle(ours);
            world.local().recycle(intake.buffer);
            answer.is_clean = !stray && may_stay(head);
            return Ok(outcome);
        }
        if client.heard_enough(lens.knows_usage()) {
            world.local().sheet.borrow_mut().cancelled += 1;
            world.local().recycle(ours);
            world.local().recycle(intake.buffer);
            return Err(Stop::Left);
        }
        intake.make_room();
        client.stands(committed, lens.at_boundary());
        let began = world.recent();
        let mut until = sooner(total, began + times.between_bytes, Waiting::BetweenBytes);
        if let Some(at) = first_token
            && record.phases.first_token.is_none()
            && at < until.0
        {
            until = (at, Waiting::FirstToken);
        }
        wire.expire_at(until.0, until.1);
        if let Some(hold) = &mut hold
            && let Waited::TimeUp = hold.wait(world, client, wire).await
        {
            continue;
        }
        let read = match tending::read(world, client, wire, std::mem::take(&mut intake.buffer)).await {
            Watched::Read(read, buffer) => {
                intake.buffer = buffer;
                read
            }
            Watched::ClientGone(buffer) => {
                world.local().sheet.borrow_mut().cancelled += 1;
                world.local().recycle(buffer);
                world.local().recycle(ours);
                #[cfg(test)]
                if planted::is(Bug::PooledAfterCancel) {
                    answer.is_clean = true;
                }
                return Err(Stop::Left);
            }
        };
        record.waited(Party::Upstream, began, world.now());
        match read {
            Ok(0) if wire.expired().is_none() && intake.close() => {}
            Ok(0) => break Failure::new(Phase::Body, ended(wire)),
            Ok(_) => {}
            Err(error) => break Failure::new(Phase::Body, cause(wire, &error)),
        }
    };

    let unheard_end = match cut.cause {
        _ if lens.had_last_word() => UnheardEnd::Whole,
        Cause::Expired(_) => UnheardEnd::OverBound,
        _ => UnheardEnd::Lost,
    };
    if client.ended_unheard(unheard_end) {
        return Err(Stop::Left);
    }
    let Some(outward) = committed else {
        // Nothing has left: this can still be said with a status.
        return Err(Stop::Failed(Failure { answered: true, ..cut }));
    };
    let manner = Manner { outward, hurries: kind == Kind::Events, limits };
    #[cfg(test)]
    planted::send_again(world, answer.home, record).await;
    #[cfg(test)]
    if planted::is(Bug::SecondAfterFirst) {
        return Err(Stop::Failed(cut));
    }
    // A stream that had its last word is whole, however its connection ended.
    let is_whole = lens.had_last_word();
    #[cfg(test)]
    let is_whole = is_whole || planted::is(Bug::LastChunkAfterLoss);
    intake.forget_open();
    if intake.ready_bytes() > 0 || is_whole {
        facts.payload.says(intake.ready());
        ours = pass_on(world, client, &mut intake, ours, manner, is_whole, record).await?;
    }
    if is_whole {
        return Ok(if lens.failed() { Relayed::Failed(lens.said()) } else { Relayed::Whole });
    }
    let farewell = lens.farewell(&reply::refusal_of(cut, &provider.name));
    #[cfg(test)]
    let farewell = planted::farewell(farewell);
    if let Some(event) = farewell {
        facts.payload.says([&*event]);
        say_farewell(world, client, ours, manner, &event, record).await?;
    }
    Ok(Relayed::Cut(cut))
}

/// How a client is written to.
#[derive(Clone, Copy)]
struct Manner<'a> {
    outward: Outward,
    /// They are events, which somebody reads as they come.
    hurries: bool,
    limits: &'a Limits,
}

/// Writes what may leave, and gives the room for our framing back.
async fn pass_on<W: World>(
    world: &W,
    client: &mut Client<W::Wire>,
    intake: &mut Intake,
    ours: Vec<u8>,
    manner: Manner<'_>,
    last: bool,
    record: &mut Record,
) -> Result<Vec<u8>, Stop> {
    let payload = intake.ready_bytes();
    let mut out = intake.lay_out(ours, manner.outward, last);
    if manner.hurries {
        out.hurry();
    }
    if client.is_unheard() {
        client.took(world.recent(), payload);
        return Ok(intake.settle(&mut out));
    }
    let sent = write(world, client, &mut out, manner.limits, record).await;
    let ours = intake.settle(&mut out);
    record.bytes_out += payload as u64;
    client.took(world.recent(), 0);
    match sent {
        Err(_) if tending::goes_on_unheard(world, client) => Ok(ours),
        sent => sent.map(|()| ours),
    }
}

/// The error event of a stream that was lost. No last chunk follows it, and no `[DONE]`: both SDKs take a stream that ends
/// well for a complete one.
async fn say_farewell<W: World>(
    world: &W,
    client: &mut Client<W::Wire>,
    mut ours: Vec<u8>,
    manner: Manner<'_>,
    event: &[u8],
    record: &mut Record,
) -> Result<(), Stop> {
    if manner.outward == Outward::Chunked {
        render::chunk_head(&mut ours, event.len());
    }
    ours.extend_from_slice(event);
    if manner.outward == Outward::Chunked {
        ours.extend_from_slice(render::CHUNK_END);
    }
    let mut out = Outgoing::default();
    let index = out.push_all(ours);
    let sent = write(world, client, &mut out, manner.limits, record).await;
    world.local().recycle(out.take(index));
    record.bytes_out += event.len() as u64;
    sent
}

async fn write<W: World>(
    world: &W,
    client: &mut Client<W::Wire>,
    out: &mut Outgoing,
    limits: &Limits,
    record: &mut Record,
) -> Result<(), Stop> {
    let began = world.now();
    let bytes = out.len();
    client.wire.expire_at(began + limits.write_time(bytes), Waiting::Reader);
    let sent = client.wire.write(out).await;
    // While the upstream is silent nothing is asked of the client; the upstream's own deadline is nearer.
    client.owes_nothing(record);
    record.waited(Party::Client, began, world.now());
    sent.map_err(|_| Stop::Left)
}

/// The exchange is done with the answer: its connection goes back to the pool if it is clean.
pub(super) fn give_back<W: World>(world: &W, answer: Answer<W::Wire>, provider: &Provider, limits: &Limits) {
    let Answer { wire, home, is_clean, .. } = answer;
    if is_clean && !world.draining() {
        let until = world.recent() + provider.pool_idle_time;
        let room = Room { per_target: provider.pool_idle_max, in_all: limits.pool_idle_max };
        world.local().pool.borrow_mut().give_back(home, wire, until, room);
    }
}
