//! A hedge: a stream that is slow to begin is asked of a second target, too, and whichever begins first is the client's.
//!
//! Only what may be billed twice is asked twice, and one in twenty of a provider's requests at most. Nothing is relayed before
//! one has won: the other is shut and awaited first, which takes as long as a turn of the core's loop, so that there never are
//! two answers to one client, and the request's bytes are nobody's any more.
//!
//! All of it is awaited beside the client (`tending`), which gets its comments meanwhile. So a stream that may be begun before
//! anybody answers comes here, too, whether or not a second target would be asked. A client that leaves ends both, or all but
//! the one that is read on without it: whose answer has begun, else the first, which has had the longer time and was the
//! plan's choice.

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::Poll,
    time::Duration,
};

use super::{
    Facts,
    ask::Ask,
    attempt::{self, Answer, NoAnswer, Sent, Watched, cause, ended, read_head, read_watching, sooner},
    cancel::Cancel,
    failover::{Ahead, Attempted, Course, bear, error_of, good_key, is_page, page},
    h1::{Client, Elsewhere},
    intake::{End, Events, Intake},
    lens::Kind,
    receive::Request,
    reply,
    seam::{Wire, World},
    tending::{Attended, attended, to_the_end, while_heard},
};
use crate::{
    base::{limits, now::Now, waiting::Waiting},
    config::{Provider, Snapshot, Timeouts},
    ledger::{
        record::{Party, Record},
        sheet::{AttemptResult, Hedge, Move},
    },
    policy::{
        admit::{Beside, Entitled},
        attempts::{Answered, Came, Cause, Failure, Phase, Situation, Verdict, judge},
        health::{Health as _, Outcomes, Standing, Underway},
        plan::Planned,
        route::Target,
    },
    wire::openai::stream::{Observer, Watch},
};

/// How long a first event may take before a second target is asked; `None`: none is asked however long it takes.
pub(super) fn patience<W: World>(
    world: &W,
    entitled: &Entitled<'_, '_, '_, W::Quota>,
    ask: &Ask,
    attempted: &Attempted<'_, '_, W::Health>,
    course: &Course,
) -> Option<Duration> {
    let percentile = entitled.plan().terms.hedge_percentile(attempted.planned.provider);
    if percentile == 0 || !ask.stream {
        return None;
    }
    patience_of(world, entitled, attempted, course, percentile)
}

#[cold]
fn patience_of<W: World>(
    world: &W,
    entitled: &Entitled<'_, '_, '_, W::Quota>,
    attempted: &Attempted<'_, '_, W::Health>,
    course: &Course,
    percentile: u8,
) -> Option<Duration> {
    let plan = entitled.plan();
    let attempts_max = if course.client_retries { course.attempts_max.min(2) } else { course.attempts_max };
    let may_be_elsewhere = plan.terms.retry_unanswered
        && !course.keeps
        && course.tried < attempts_max
        && course.after_this() < plan.targets.len();
    if !may_be_elsewhere {
        return None;
    }
    let planned = attempted.planned;
    if course.tried == 1 {
        world.health().hedge_earned(planned.provider.id);
    }
    world.health().first_token_percentile_us(planned.health, percentile).map(Duration::from_micros)
}

/// One attempt, which becomes two if it is slow and there is a `patience` for it. What comes back is the outcome of the one that
/// `attempted`, `course`, `facts` and `record` tell of then; the other has been accounted.
#[expect(
    clippy::too_many_arguments,
    reason = "the facts of one attempt; a struct of them would only rename them"
)]
pub(super) async fn race<'w, 's, 'p, W: World>(
    world: &'w W,
    client: &mut Client<W::Wire>,
    snapshot: &'s Snapshot,
    entitled: &mut Entitled<'p, '_, '_, W::Quota>,
    request: &mut Request,
    ask: &Ask,
    attempted: &mut Attempted<'p, 'w, W::Health>,
    course: &mut Course,
    facts: &mut Facts<'s>,
    record: &mut Record,
    pooled: bool,
    patience: Option<Duration>,
) -> Result<Answer<W::Wire>, NoAnswer> {
    let lane = Lane::of(entitled, ask, attempted.planned.provider, record.phases.started);
    let (stop_first, stop_second) = (Cancel::default(), Cancel::default());
    let sent = {
        let (target, stop) = (attempted.target(), Some(&stop_first));
        let open = attempt::open(world, snapshot, target, &lane.times, request, ask, record, pooled, stop);
        let mut open = pin!(open);
        match while_heard(world, client, open.as_mut()).await {
            Some(sent) => sent.map_err(NoAnswer::Failed)?,
            None => {
                stop_first.cancel();
                drop(open.await);
                return Err(NoAnswer::ClientGone);
            }
        }
    };
    client.is_asked();
    let began = sent.at;
    let mut one = pin!(run(world, lane, sent, &stop_first));
    let mut slow = false;
    if let Some(patience) = patience {
        let step = {
            let mut early = pin!(before(one.as_mut(), world.sleep_until(began + patience)));
            attended(world, client, early.as_mut()).await
        };
        match step {
            Attended::Done(Some(ran)) => return hand_over(world, record, began, Some(ran)),
            Attended::Done(None) => slow = true,
            // Nobody else is asked for nobody.
            Attended::Unheard => {}
            Attended::Left => {
                stop_first.cancel();
                drop(one.await);
                return hand_over(world, record, began, None);
            }
        }
    }
    let second = if slow { begin(world, entitled, attempted, course) } else { None };
    let Some(mut second) = second else {
        let ran = to_the_end(world, client, one, || stop_first.cancel()).await.ok();
        return hand_over(world, record, began, ran);
    };

    let situation = Situation {
        attempts_max: u8::MAX,
        tried: 1,
        tried_here: 1,
        another_target: true,
        ..course.situation(
            world,
            Ahead::of(entitled, attempted.planned.provider, record.phases.started),
            attempted,
        )
    };
    let goes_on = |came| {
        let verdict = judge(came, &situation, 0, || false).verdict;
        !matches!(verdict, Verdict::PassThrough | Verdict::GiveUp)
    };
    let mut its = Record::new(record.operation, record.phases.started);
    its.trail = record.trail.as_ref().map(|trail| {
        let Planned { provider, model, .. } = second.attempted.planned;
        Box::new(trail.beside(provider.id, &(&**model).into(), world.now(), || world.random()))
    });
    let Contest { which, ran, other } = {
        let lane = Lane::of(entitled, ask, second.attempted.planned.provider, record.phases.started);
        let target = second.attempted.target();
        let stops = [&stop_first, &stop_second];
        let asked = Cell::new(false);
        let two = run_second(world, snapshot, target, lane, request, ask, &mut its, &stop_second, &asked);
        let first_lost = Cell::new(None);
        let two = pin!(two);
        let both = contest(one, two, stops, &first_lost, goes_on);
        see_out(world, client, both, stops, &first_lost, &asked).await
    };

    let slow = attempted.planned.provider.id;
    if which == Which::Second {
        entitled.keep_beside(second.attempted.planned, second.beside);
        std::mem::swap(attempted, &mut second.attempted);
        (course.at, course.key, course.tried_here) = (second.at, None, 1);
        (record.phases.connected, record.phases.sent) = (its.phases.connected, its.phases.sent);
        if ran.as_ref().is_some_and(|ran| ran.lost.is_none()) {
            world.local().sheet.borrow_mut().hedged(slow, Hedge::Won);
        }
        if other.is_none() {
            // At least so long it would have taken: without it, the percentile would forget what the target is slow at.
            second.attempted.underway.first_token(world.now().us_since(began));
        }
    } else {
        entitled.keep_first(second.beside);
        course.skip = Some(second.at);
    }
    if let (Some(trail), Some(beside)) = (&mut record.trail, its.trail.take()) {
        trail.join_beside(
            *beside,
            which == Which::Second,
            world.now(),
            other.map_or("cancelled", failure_of),
        );
    }
    account(world, course, &mut second.attempted, other, &situation);
    if let (Which::Second, Some(came)) = (which, other) {
        let reason = judge(came, &situation, 0, || false).reason;
        world.local().sheet.borrow_mut().moved(slow, Move::NextTarget, reason);
    }
    course.note(snapshot, attempted.planned, facts, record);
    hand_over(world, record, began, ran)
}

/// The second attempt: where it stands in the plan, and what it holds.
struct Second<'p, 'b, B: Outcomes> {
    at: usize,
    attempted: Attempted<'p, 'b, B>,
    beside: Beside,
}

/// Takes all that a second attempt needs; `None` if something of it is not to be had.
fn begin<'w, 'p, W: World>(
    world: &'w W,
    entitled: &mut Entitled<'p, '_, '_, W::Quota>,
    first: &Attempted<'p, 'w, W::Health>,
    course: &mut Course,
) -> Option<Second<'p, 'w, W::Health>> {
    let (health, now) = (world.health(), world.now());
    let plan = entitled.plan();
    // One that is just back has enough to do, and a probe should not hang on who is faster.
    let fit = |at: usize| {
        let planned = plan.targets.get(at)?;
        let is_well = health.verdict(planned.health, now) == Standing::Closed;
        let key = good_key(health, planned, now).ok()?;
        is_well.then_some((at, planned, key))
    };
    let (at, planned, key) = (course.after_this()..plan.targets.len()).find_map(fit)?;
    let provider = first.planned.provider.id;
    let hedged = |hedge| world.local().sheet.borrow_mut().hedged(provider, hedge);
    if !health.hedge_allowed(provider) {
        hedged(Hedge::Refused);
        return None;
    }
    let beside = entitled.attempt_beside(planned, now).ok()?;
    let Some(underway) = Underway::begin(health, planned.health, planned.provider.id, now) else {
        entitled.keep_first(beside);
        return None;
    };
    hedged(Hedge::Begun);
    course.tried = course.tried.saturating_add(1);
    Some(Second { at, attempted: Attempted { planned, key, underway }, beside })
}

/// Tells books and board of the attempt that did not stand: it failed, or was broken off, which says neither well nor ill.
fn account<W: World>(
    world: &W,
    course: &mut Course,
    loser: &mut Attempted<'_, '_, W::Health>,
    came: Option<Came>,
    situation: &Situation,
) {
    let result = match came {
        None => AttemptResult::Cancelled,
        Some(Came::Failed(failure)) => attempt::result_of(failure),
        Some(Came::Answered(_)) => AttemptResult::Answered,
    };
    world.local().sheet.borrow_mut().attempt(loser.planned.provider.id, result);
    if let Some(came) = came {
        course.losses.add(came);
        bear(world, loser, came, judge(came, situation, 0, || false));
    }
}

/// In a word, why an attempt came to nothing.
fn failure_of(came: Came) -> &'static str {
    match came {
        Came::Failed(failure) => attempt::result_of(failure).name(),
        Came::Answered(_) => "error_answer",
    }
}

/// What the loop goes on with; no outcome: the client left.
fn hand_over<W: World>(
    world: &W,
    record: &mut Record,
    began: Now,
    ran: Option<Ran<W::Wire>>,
) -> Result<Answer<W::Wire>, NoAnswer> {
    record.waited(Party::Upstream, began, world.now());
    let ran = ran.ok_or(NoAnswer::ClientGone)?;
    record.phases.first_byte = ran.first_byte.or(record.phases.first_byte);
    ran.answer.map_err(NoAnswer::Failed)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    First,
    Second,
}

/// How a race ended.
struct Contest<C> {
    /// Whose outcome this is.
    which: Which,
    /// `None`: the client left.
    ran: Option<Ran<C>>,
    /// How the other failed; `None`: it was broken off.
    other: Option<Came>,
}

/// Waits for the first of two that is not to be given up for the other. Neither is dropped half-way: who loses is shut, and
/// returns by itself. One whose cancel was asked for from outside has no outcome.
async fn contest<C>(
    mut one: Pin<&mut impl Future<Output = Ran<C>>>,
    mut two: Pin<&mut impl Future<Output = Ran<C>>>,
    [stop_first, stop_second]: [&Cancel; 2],
    first_lost: &Cell<Option<Came>>,
    goes_on: impl Fn(Came) -> bool,
) -> Contest<C> {
    let (which, ran) = poll_fn(|cx| {
        if let Poll::Ready(ran) = one.as_mut().poll(cx) {
            return Poll::Ready((Which::First, ran));
        }
        two.as_mut().poll(cx).map(|ran| (Which::Second, ran))
    })
    .await;
    let was_ended = |stop: &Cancel, ran: Ran<C>| (!stop.is_asked()).then_some(ran);
    let other = ran.lost.filter(|came| goes_on(*came));
    match (which, other) {
        (Which::First, _) if stop_first.is_asked() => {
            // Both have been ended.
            drop(two.await);
            Contest { which, ran: None, other: None }
        }
        // The client has left: the second was broken off for it, and fails for that.
        (Which::Second, _) if stop_second.is_asked() => {
            drop(ran);
            Contest { which: Which::First, ran: was_ended(stop_first, one.await), other: None }
        }
        (Which::First, None) => {
            stop_second.cancel();
            drop(two.await);
            Contest { which, ran: Some(ran), other }
        }
        (Which::Second, None) => {
            stop_first.cancel();
            drop(one.await);
            Contest { which, ran: Some(ran), other }
        }
        (Which::First, Some(_)) => {
            drop(ran);
            first_lost.set(other);
            Contest { which: Which::Second, ran: was_ended(stop_second, two.await), other }
        }
        (Which::Second, Some(_)) => {
            drop(ran);
            Contest { which: Which::First, ran: was_ended(stop_first, one.await), other }
        }
    }
}

/// Awaits two beside their client. If it leaves both are ended, or all but the one that is read on without it.
async fn see_out<W: World>(
    world: &W,
    client: &mut Client<W::Wire>,
    both: impl Future<Output = Contest<W::Wire>>,
    [stop_first, stop_second]: [&Cancel; 2],
    first_lost: &Cell<Option<Came>>,
    second_asked: &Cell<bool>,
) -> Contest<W::Wire> {
    let mut both = pin!(both);
    let stop = || [stop_first, stop_second].into_iter().for_each(Cancel::cancel);
    match attended(world, client, both.as_mut()).await {
        Attended::Done(contest) => return contest,
        Attended::Left => {
            stop();
            return both.await;
        }
        Attended::Unheard if first_lost.get().is_none() => stop_second.cancel(),
        // Only the second is left, and may be charged for.
        Attended::Unheard if second_asked.get() => {}
        Attended::Unheard => {
            client.not_unheard();
            stop();
            return both.await;
        }
    }
    match to_the_end(world, client, both, stop).await {
        Ok(contest) | Err(contest) => contest,
    }
}

/// How a wait for one ended: `None`, it was slow.
async fn before<T>(
    mut one: Pin<&mut impl Future<Output = T>>,
    patience: impl Future<Output = ()>,
) -> Option<T> {
    let mut patience = pin!(patience);
    poll_fn(|cx| {
        if let Poll::Ready(ran) = one.as_mut().poll(cx) {
            return Poll::Ready(Some(ran));
        }
        patience.as_mut().poll(cx).map(|()| None)
    })
    .await
}

/// The terms of one attempt in a race.
#[derive(Clone, Copy)]
struct Lane {
    times: Timeouts,
    first_token: Option<Duration>,
    total: Now,
    watch: Watch,
}

impl Lane {
    fn of<Q: crate::policy::quota::Quota>(
        entitled: &Entitled<'_, '_, '_, Q>,
        ask: &Ask,
        provider: &Provider,
        started: Now,
    ) -> Self {
        let timeouts = entitled.plan().terms.timeouts;
        let times = timeouts.over(provider.timeouts);
        Self {
            times,
            first_token: timeouts.first_token,
            total: started + times.total,
            watch: ask.watch(provider.inject_usage),
        }
    }
}

/// What became of one attempt in a race.
struct Ran<C> {
    /// How it failed; `None`: its answer is the client's.
    lost: Option<Came>,
    /// From its head on, so that it can be relayed from there or looked at again.
    answer: Result<Answer<C>, Failure>,
    first_byte: Option<Now>,
}

impl<C> Ran<C> {
    fn failed(failure: Failure, first_byte: Option<Now>) -> Self {
        Self { lost: Some(Came::Failed(failure)), answer: Err(failure), first_byte }
    }
}

/// The second attempt from its connection on.
#[expect(
    clippy::too_many_arguments,
    reason = "the facts of one attempt; a struct of them would only rename them"
)]
async fn run_second<W: World>(
    world: &W,
    snapshot: &Snapshot,
    target: Target<'_, '_>,
    lane: Lane,
    request: &mut Request,
    ask: &Ask,
    record: &mut Record,
    cancel: &Cancel,
    asked: &Cell<bool>,
) -> Ran<W::Wire> {
    let sent =
        attempt::open(world, snapshot, target, &lane.times, request, ask, record, true, Some(cancel)).await;
    match sent {
        Ok(sent) => {
            asked.set(true);
            run(world, lane, sent, cancel).await
        }
        Err(failure) => Ran::failed(failure, None),
    }
}

/// Reads an answer's head and on to its first event, as long as `cancel` is not asked for.
async fn run<W: World>(world: &W, lane: Lane, sent: Sent<W::Wire>, cancel: &Cancel) -> Ran<W::Wire> {
    let Sent { mut wire, home, reused, at } = sent;
    let _armed = cancel.arm(wire.shutter());
    let until = sooner(lane.total, at + lane.times.first_byte, Waiting::FirstByte);
    wire.expire_at(until.0, until.1);
    wire.readable().await;
    let (buffer, head) = match read_head(world, &mut Elsewhere, &mut wire).await {
        Ok(Ok(read)) => read,
        Ok(Err(failure)) | Err(NoAnswer::Failed(failure)) => {
            return Ran::failed(Failure { reused, ..failure }, None);
        }
        Err(NoAnswer::ClientGone) => {
            debug_assert!(false, "nobody was watched who could have left");
            return Ran::failed(Failure::new(Phase::Head, Cause::Broken), None);
        }
    };
    let first_byte = Some(world.now());
    let kind = reply::kind(&head, &buffer);
    let mut answer = Answer { wire, home, buffer, head, kind, is_clean: false };
    let lost = if is_page(&answer) {
        Some(Came::Failed(page()))
    } else if answer.head.status >= 300 {
        let nothing = Answered { status: answer.head.status, said: None, retry_after_ms: None };
        let said = error_of(world, &mut Elsewhere, &mut answer).await;
        Some(Came::Answered(said.unwrap_or(nothing)))
    } else if answer.kind == Kind::Events {
        match first_event(world, lane, at, &mut answer).await {
            Ok(lost) => lost.map(Came::Answered),
            Err(failure) => return Ran::failed(Failure { reused, answered: true, ..failure }, first_byte),
        }
    } else {
        None
    };
    Ran { lost, answer: Ok(answer), first_byte }
}

/// Reads until an event has come that says something; whether it is an error. All that was read stays in the answer's buffer,
/// where it lies for whoever relays it.
async fn first_event<W: World>(
    world: &W,
    lane: Lane,
    sent: Now,
    answer: &mut Answer<W::Wire>,
) -> Result<Option<Answered>, Failure> {
    let Answer { wire, buffer, head, .. } = answer;
    let failed = |cause| Err(Failure::new(Phase::Body, cause));
    let mut events = Events::new(Observer::new(lane.watch));
    let mut intake = Intake::new(std::mem::take(buffer), head.bytes, head.framing);
    let end = loop {
        let decoded = intake.advance(Some(&mut events));
        if events.observer.failed() {
            break Ok(Some(Answered {
                status: head.status,
                said: events.observer.said(),
                retry_after_ms: None,
            }));
        }
        // One that only ever comments has had its chance, too.
        if speaks(&intake) || intake.buffer.len() > limits::SSE_EVENT_BYTES_MAX {
            break Ok(None);
        }
        match decoded {
            Err(bad) => break failed(Cause::Malformed(bad.reason())),
            Ok(()) if intake.end() != End::NotYet => break failed(Cause::Ended),
            Ok(()) => {}
        }
        // What lies there stays where it is: its head is still to be read again.
        if intake.buffer.capacity() - intake.buffer.len() < limits::READ_BYTES / 4 {
            intake.buffer.reserve(limits::READ_BYTES);
        }
        let mut until = sooner(lane.total, world.now() + lane.times.between_bytes, Waiting::BetweenBytes);
        if let Some(span) = lane.first_token
            && sent + span < until.0
        {
            until = (sent + span, Waiting::FirstToken);
        }
        wire.expire_at(until.0, until.1);
        let read = match read_watching(&mut Elsewhere, wire, std::mem::take(&mut intake.buffer)).await {
            Watched::Read(read, filled) => {
                intake.buffer = filled;
                read
            }
            Watched::ClientGone(filled) => {
                debug_assert!(false, "nobody was watched who could have left");
                intake.buffer = filled;
                Ok(0)
            }
        };
        match read {
            Ok(0) if wire.expired().is_none() && intake.close() => {}
            Ok(0) => break failed(ended(wire)),
            Ok(_) => {}
            Err(error) => break failed(cause(wire, &error)),
        }
    };
    *buffer = intake.buffer;
    end
}

/// Whether what may leave holds an event, and not comments alone, with which some providers fill the time until they answer.
fn speaks(intake: &Intake) -> bool {
    let mut pieces = intake.ready();
    let (first, more) = (pieces.next().unwrap_or_default(), pieces.next().is_some());
    let has_data = |bytes: &[u8]| {
        bytes.split(|byte| matches!(byte, b'\n' | b'\r')).any(|line| line.starts_with(b"data"))
    };
    // Torn by its framing: rare, small, and looked at a few times.
    if more { has_data(&intake.ready().collect::<Vec<_>>().concat()) } else { has_data(first) }
}
