//! The single loop of an exchange: one attempt after the other over the plan's targets, until an answer is on its way to the
//! client or there is nothing left to try.
//!
//! The commit point is the first byte written to the client. Until then a target that refuses, breaks or begins with an error
//! costs the client nothing but time; from then on nothing is tried again. What comes next is decided by
//! `policy::attempts::judge`; this file only does it.

use std::time::Duration;

#[cfg(test)]
use super::sim::planted;
use super::{
    Facts, Stop,
    ask::{Ask, is_media_type},
    attempt::{self, Answer, NoAnswer, Still},
    h1::{Audience, Client},
    hedge,
    lens::Kind,
    receive::Request,
    relay::{self, Relayed, Way},
    reply,
    seam::World,
    tending,
    words::Lacks,
};
use crate::{
    base::{limits, money::NanoUsd, now::Now},
    config::{Estimate, Provider, Snapshot, first_byte::HoldBack},
    ledger::{
        record::{Record, Tokens},
        sheet::{AttemptResult, Move, Turn},
    },
    policy::{
        admit::Entitled,
        attempts::{
            Answered, Bearing, Came, Cause, Failure, Judgement, Phase, Situation, Verdict, judge, keeps,
        },
        health::{Change, Health as _, KeyFault, KeyKey, KeyStanding, Outcomes, Standing, Underway},
        lost::{Last, Losses},
        plan::Planned,
        price::Used,
        quota::Quota,
        route::Target,
    },
    wire::{
        http1::known::Known,
        openai::{
            endpoint::Endpoint,
            refusal::Refusal,
            upstream_error::{self, Said},
        },
    },
};

/// Serves the request from the first target of the plan that answers it.
#[expect(
    clippy::too_many_arguments,
    reason = "the facts of one exchange; a struct of them would only rename them"
)]
pub(super) async fn serve_plan<'s, W: World>(
    world: &W,
    client: &mut Client<W::Wire>,
    snapshot: &'s Snapshot,
    entitled: &mut Entitled<'_, '_, '_, W::Quota>,
    request: &mut Request,
    ask: &Ask,
    facts: &mut Facts<'s>,
    record: &mut Record,
) -> Result<Relayed, Stop> {
    let mut course = Course::of(entitled, ask, request);
    let mut request = Some(request);
    loop {
        let Some((planned, key, underway)) = course.aim(world, entitled) else {
            facts.payload.ends_badly(request.as_deref());
            return Err(course.nothing_left(world));
        };
        if let Err(refusal) = entitled.attempt(planned, world.recent()) {
            course.limited = Some(refusal);
            course.next_target();
            continue;
        }
        course.begin(world, snapshot, planned, facts, record);
        let mut attempted = Attempted { planned, key, underway };
        let end = once(
            world,
            client,
            snapshot,
            entitled,
            &mut request,
            ask,
            &mut attempted,
            &mut course,
            facts,
            record,
        );
        let (came, answer) = match end.await? {
            End::Relayed(relayed) => return Ok(relayed),
            End::Came(came, answer) => (came, answer),
        };
        if let Some(tried) = record.last_try() {
            tried.ended = Some(world.now());
            tried.failure = match came {
                Came::Failed(failure) => Some(attempt::result_of(failure).name()),
                // Its status says it all, but for one that began well and then told of an error.
                Came::Answered(answered) => (answered.status < 300).then_some("error_event"),
            };
        }
        if client.is_unheard() {
            // Nothing is asked again for nobody.
            return Err(Stop::Left);
        }
        let ahead = Ahead::of(entitled, attempted.planned.provider, record.phases.started);
        let situation = course.situation(world, ahead, &attempted);
        #[cfg(test)]
        let (came, situation) = planted::retry(came, situation);
        let provider = attempted.planned.provider;
        let spend = || world.health().retry_allowed(provider.id, world.now());
        let judgement = judge(came, &situation, world.random(), spend);
        match course.tried_here {
            1 => course.losses.add(came),
            _ => course.losses.add_again(came),
        }
        bear(world, &mut attempted, came, judgement);
        let other = other_key(world.health(), &attempted, world.now());
        // Its place on the board is free before anything else is tried.
        #[cfg(test)]
        let attempted = planted::keep_place(attempted);
        drop(attempted);
        let moved = |to| world.local().sheet.borrow_mut().moved(provider.id, to, judgement.reason);
        match judgement.verdict {
            Verdict::SameTarget { after_ms } => {
                moved(Move::SameTarget);
                world.local().sheet.borrow_mut().upstream.stale += u64::from(judgement.reason == "stale");
                if after_ms > 0 {
                    let until = world.now() + Duration::from_millis(after_ms);
                    if let Still::Gone = tending::wait(world, client, until).await {
                        world.local().sheet.borrow_mut().cancelled += 1;
                        return Err(Stop::Left);
                    }
                }
            }
            Verdict::OtherKey => {
                moved(Move::OtherKey);
                (course.key, course.tried_here) = (other, 0);
            }
            Verdict::NextTarget => {
                moved(Move::NextTarget);
                course.next_target();
            }
            Verdict::PassThrough | Verdict::GiveUp => {
                let advice = match course.losses.end(world.random()) {
                    Last::Refused(refusal) => {
                        facts.payload.ends_badly(request.as_deref());
                        return Err(Stop::Refused(refusal));
                    }
                    Last::AsItCame(advice) => advice,
                };
                facts.advice = advice;
                facts.payload.ends_badly(request.as_deref());
                return match (answer, came) {
                    (Some(answer), _) => {
                        let (timeouts, watch) =
                            (&entitled.plan().terms.timeouts, ask.watch(provider.inject_usage));
                        let (yields, hold_back) = (&|_| false, HoldBack::OFF);
                        let way = Way { provider, timeouts, watch, yields, request: &mut request, hold_back };
                        show(world, client, entitled, facts, way, answer, record).await
                    }
                    (None, Came::Failed(failure)) => Err(Stop::Failed(failure)),
                    (None, Came::Answered(_)) => Err(Stop::Refused(Refusal::UpstreamInterrupted)),
                };
            }
        }
    }
}

/// How far the loop has come.
pub(super) struct Course {
    /// The target that is tried, by its place in the plan.
    pub(super) at: usize,
    /// The key to use there, if it is not to be chosen anew.
    pub(super) key: Option<u16>,
    pub(super) attempts_max: u8,
    pub(super) tried: u8,
    /// At this target, under this key.
    pub(super) tried_here: u8,
    /// The provider keeps what it makes, or the body is too long to be sent again.
    pub(super) keeps: bool,
    /// The client's SDK is trying again by itself.
    pub(super) client_retries: bool,
    pub(super) losses: Losses,
    /// A target further on that has been tried already, beside one before it.
    pub(super) skip: Option<usize>,
    /// A provider's own limit that kept a target from being tried.
    limited: Option<Refusal>,
}

/// An attempt under way: where, with which key, and its place on the board.
pub(super) struct Attempted<'p, 'b, B: Outcomes> {
    pub(super) planned: &'p Planned<'p>,
    pub(super) key: u16,
    pub(super) underway: Underway<'b, B>,
}

impl<B: Outcomes> Attempted<'_, '_, B> {
    pub(super) fn target(&self) -> Target<'_, '_> {
        let Planned { place, provider, model, .. } = self.planned;
        Target { place: *place, provider, key: self.key, model }
    }
}

/// What the plan still allows, however an attempt ends.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    deadline: Now,
    targets: usize,
    may_bill_twice: bool,
    missing_model_moves: bool,
}

impl Ahead {
    pub(super) fn of<Q: Quota>(
        entitled: &Entitled<'_, '_, '_, Q>,
        provider: &Provider,
        started: Now,
    ) -> Self {
        let plan = entitled.plan();
        Self {
            deadline: started + plan.terms.timeouts.over(provider.timeouts).total,
            targets: plan.targets.len(),
            may_bill_twice: plan.terms.retry_unanswered,
            missing_model_moves: plan.terms.retry_missing_model,
        }
    }
}

/// What became of one attempt.
enum End<C> {
    Relayed(Relayed),
    /// It came to nothing. With it, an answer that can still be shown.
    Came(Came, Option<Box<Answer<C>>>),
}

impl Course {
    fn of<Q: Quota>(entitled: &Entitled<'_, '_, '_, Q>, ask: &Ask, request: &Request) -> Self {
        let plan = entitled.plan();
        let mut losses = Losses::default();
        if let Some(ms) = plan.retry_after_ms {
            losses.passed_over(ms);
        }
        let count = request.known(Known::RetryCount);
        Self {
            at: 0,
            key: None,
            attempts_max: plan.terms.attempts_max,
            tried: 0,
            tried_here: 0,
            keeps: keeps(ask.endpoint, ask.stateful())
                || request.body.len() > limits::REPLAYED_BODY_BYTES_MAX,
            client_retries: count.is_some_and(|count| count != b"0"),
            losses,
            skip: None,
            limited: None,
        }
    }

    fn next_target(&mut self) {
        (self.at, self.key, self.tried_here) = (self.after_this(), None, 0);
    }

    /// The place of the target that comes after this one.
    pub(super) fn after_this(&self) -> usize {
        let next = self.at + 1;
        if self.skip == Some(next) { next + 1 } else { next }
    }

    /// The next target that takes requests now, a key for it, and a place on the board. What does not is passed over.
    fn aim<'w, 'p, W: World>(
        &mut self,
        world: &'w W,
        entitled: &Entitled<'p, '_, '_, W::Quota>,
    ) -> Option<(&'p Planned<'p>, u16, Underway<'w, W::Health>)> {
        loop {
            let planned = entitled.plan().targets.get(self.at)?;
            let (health, now) = (world.health(), world.now());
            let wait_ms = match self.key.map_or_else(|| good_key(health, planned, now), Ok) {
                Ok(key) => match Underway::begin(health, planned.health, planned.provider.id, now) {
                    Some(underway) => return Some((planned, key, underway)),
                    None => match health.verdict(planned.health, now) {
                        Standing::Open { retry_after_ms } => retry_after_ms,
                        // Somebody else has the probe.
                        _ => limits::PROBE_TIME_MS,
                    },
                },
                Err(wait_ms) => wait_ms,
            };
            self.losses.passed_over(wait_ms);
            self.next_target();
        }
    }

    /// Notes where the request goes now, for the books and for the reply.
    fn begin<'s, W: World>(
        &mut self,
        world: &W,
        snapshot: &'s Snapshot,
        planned: &Planned<'_>,
        facts: &mut Facts<'s>,
        record: &mut Record,
    ) {
        self.tried = self.tried.saturating_add(1);
        self.tried_here = self.tried_here.saturating_add(1);
        self.note(snapshot, planned, facts, record);
        facts.mark(|marks| marks.tried = Some(world.now()));
        if let Some(trail) = &mut record.trail {
            trail.begin(planned.provider.id, &record.model_used, world.now(), || world.random());
        }
    }

    /// The same of where it is served from, whichever attempt that was.
    pub(super) fn note<'s>(
        &self,
        snapshot: &'s Snapshot,
        planned: &Planned<'_>,
        facts: &mut Facts<'s>,
        record: &mut Record,
    ) {
        record.attempts = self.tried;
        record.provider = Some(planned.provider.id);
        record.model_used = planned.model.as_ref().into();
        facts.provider = snapshot.providers.get(usize::from(planned.place.0)).map(|provider| &*provider.name);
        facts.model = record.model_used.clone();
        facts.attempts = self.tried;
    }

    pub(super) fn situation<W: World>(
        &self,
        world: &W,
        ahead: Ahead,
        attempted: &Attempted<'_, '_, W::Health>,
    ) -> Situation {
        let Attempted { planned, .. } = attempted;
        let now = world.now();
        let left = ahead.deadline.since(now);
        Situation {
            attempts_max: self.attempts_max,
            tried: self.tried,
            tried_here: self.tried_here,
            committed: false,
            keeps: self.keeps,
            client_retries: self.client_retries,
            may_bill_twice: ahead.may_bill_twice,
            missing_model_moves: ahead.missing_model_moves,
            another_key: other_key(world.health(), attempted, now).is_some(),
            another_target: self.after_this() < ahead.targets,
            left_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
            typical_us: world.health().first_token_us(planned.health),
        }
    }

    /// What is said when no target is left that could be asked.
    fn nothing_left<W: World>(&mut self, world: &W) -> Stop {
        if let (0, Some(refusal)) = (self.tried, self.limited.take()) {
            return Stop::Refused(refusal);
        }
        Stop::Refused(match self.losses.end(world.random()) {
            Last::Refused(refusal) => refusal,
            Last::AsItCame(advice) => Refusal::UpstreamsFailed { retry_after_ms: advice.retry_after_ms },
        })
    }
}

/// One attempt: sends the request, reads the answer's head, and relays what is an answer.
#[expect(
    clippy::too_many_arguments,
    reason = "the facts of one attempt; a struct of them would only rename them"
)]
async fn once<'w, 's, 'p, W: World>(
    world: &'w W,
    client: &mut Client<W::Wire>,
    snapshot: &'s Snapshot,
    entitled: &mut Entitled<'p, '_, '_, W::Quota>,
    request: &mut Option<&mut Request>,
    ask: &Ask,
    attempted: &mut Attempted<'p, 'w, W::Health>,
    course: &mut Course,
    facts: &mut Facts<'s>,
    record: &mut Record,
) -> Result<End<W::Wire>, Stop> {
    let terms = entitled.plan().terms;
    let timeouts = &terms.timeouts;
    let Some(sent) = request.as_deref_mut() else {
        debug_assert!(false, "a request is kept until its answer begins to leave");
        return Err(Stop::Refused(Refusal::Internal));
    };
    tending::attend(world, client, terms, attempted.planned.provider, facts, record);
    let pooled = course.tried_here == 1;
    #[cfg(test)]
    let pooled = pooled || planted::is(planted::Bug::StaleRetriedAgain);
    let patience = hedge::patience(world, entitled, ask, attempted, course);
    let tried = if patience.is_some() || client.is_begun_early() {
        // Boxed: few are asked twice, or spoken to before there is an answer, and no exchange should be larger for it.
        let race = hedge::race(
            world, client, snapshot, entitled, sent, ask, attempted, course, facts, record, pooled, patience,
        );
        Box::pin(race).await
    } else {
        let times = timeouts.over(attempted.planned.provider.timeouts);
        let target = attempted.target();
        attempt::attempt(world, client, snapshot, target, &times, sent, ask, record, pooled).await
    };
    // Of two that were asked, the one whose outcome this is.
    let provider = attempted.planned.provider;
    let count = |result| world.local().sheet.borrow_mut().attempt(provider.id, result);
    let mut answer = match tried {
        Ok(answer) => answer,
        Err(NoAnswer::ClientGone) => {
            count(AttemptResult::Cancelled);
            world.local().sheet.borrow_mut().cancelled += 1;
            return Err(Stop::Left);
        }
        Err(NoAnswer::Failed(failure)) => {
            count(attempt::result_of(failure));
            return Ok(End::Came(Came::Failed(failure), None));
        }
    };
    facts.stays &= !world.draining();
    if let Some(tried) = record.last_try() {
        tried.status = answer.head.status;
    }
    if is_page(&answer) {
        let failure = page();
        count(attempt::result_of(failure));
        return Ok(End::Came(Came::Failed(failure), None));
    }
    count(AttemptResult::Answered);
    if answer.head.status >= 300 {
        let came = error_of(world, client, &mut answer).await?;
        return Ok(End::Came(Came::Answered(came), Some(Box::new(answer))));
    }
    // A stream that begins with an error goes back to the loop only where the loop has somewhere to go.
    let (status, is_stream) = (answer.head.status, answer.kind == Kind::Events);
    let begun_badly = |said| Came::Answered(Answered { status, said, retry_after_ms: None });
    let ahead = Ahead::of(entitled, attempted.planned.provider, record.phases.started);
    // Looked at only where it matters: most answers are whole.
    let situation = || course.situation(world, ahead, attempted);
    let yields = |said| {
        is_stream
            && matches!(
                judge(begun_badly(said), &situation(), 0, || false).verdict,
                Verdict::NextTarget | Verdict::OtherKey
            )
    };
    let yields = &yields;
    let mut hold_back = terms.hold_back(provider);
    if hold_back != HoldBack::OFF && !moves_when_lost(&situation()) {
        hold_back = HoldBack::OFF;
    }
    let way = Way { provider, timeouts, watch: ask.watch(provider.inject_usage), yields, request, hold_back };
    let relayed = relay::relay(world, client, entitled, facts, way, &mut answer, record).await;
    relay::give_back(world, answer, provider, facts.limits);
    match relayed {
        Err(Stop::Failed(Failure { cause: Cause::ErrorEvent(said), .. })) => {
            record.forget_answer();
            Ok(End::Came(begun_badly(said), None))
        }
        Err(Stop::Failed(failure)) if failure.cause != Cause::OverLimit && request.is_some() => {
            record.forget_answer();
            Ok(End::Came(Came::Failed(failure), None))
        }
        relayed => {
            settle(world, snapshot, ask.endpoint, entitled, facts, record);
            report(world, attempted, relayed.as_ref().ok(), record);
            relayed.map(End::Relayed)
        }
    }
}

/// Whether a stream that is lost before the commit point goes elsewhere. Where it does not, holding it back gains nothing.
#[cold]
fn moves_when_lost(situation: &Situation) -> bool {
    let lost = Failure { answered: true, ..Failure::new(Phase::Body, Cause::Ended) };
    matches!(judge(Came::Failed(lost), situation, 0, || false).verdict, Verdict::NextTarget)
}

/// Something else than the API took the request: no endpoint's answer is a web page.
pub(super) fn is_page<C>(answer: &Answer<C>) -> bool {
    let media_type = answer.head.known(&answer.buffer, Known::ContentType);
    answer.head.status < 300 && media_type.is_some_and(|value| is_media_type(value, b"text/html"))
}

pub(super) fn page() -> Failure {
    Failure::new(Phase::Head, Cause::Malformed("a web page in the place of an answer"))
}

/// Corrects what was reserved by what an answer used, and notes what that costs.
fn settle<W: World>(
    world: &W,
    snapshot: &Snapshot,
    endpoint: Endpoint,
    entitled: &mut Entitled<'_, '_, '_, W::Quota>,
    facts: &mut Facts<'_>,
    record: &mut Record,
) {
    if snapshot.estimate != Estimate::Off {
        let lacks = estimate_what_is_missing(endpoint, entitled.prompt_tokens(), record);
        facts.words.settled(lacks, entitled.price());
    }
    let used = record.tokens.total();
    record.cost = used.and_then(|_| entitled.cost(paid(record.tokens)));
    entitled.settle(used, record.cost, world.recent());
}

/// What the provider did not report of the tokens that are charged, by the bytes of what was asked and said.
fn estimate_what_is_missing(endpoint: Endpoint, prompt_tokens: u64, record: &mut Record) -> Lacks {
    let said = record.said.tokens();
    let Tokens { prompt, completion, .. } = &mut record.tokens;
    let generates = endpoint.generates_text();
    let lacks = Lacks {
        prompt: prompt.is_none() && (generates || endpoint == Endpoint::Embeddings),
        completion: completion.is_none() && generates,
    };
    if lacks.prompt {
        *prompt = Some(prompt_tokens);
    }
    if lacks.completion {
        *completion = Some(said);
    }
    record.estimated |= lacks != Lacks::default();
    lacks
}

/// Tokens as they are paid for.
fn paid(tokens: Tokens) -> Used {
    let Tokens { prompt, completion, cached, reasoning, audio_prompt, audio_completion } = tokens;
    let [prompt, completion, cached, reasoning, audio_prompt, audio_completion] =
        [prompt, completion, cached, reasoning, audio_prompt, audio_completion]
            .map(Option::unwrap_or_default);
    Used { prompt, completion, cached, reasoning, audio_prompt, audio_completion }
}

/// Passes an error on as the provider said it, unless the client must not see it.
async fn show<W: World>(
    world: &W,
    client: &mut Client<W::Wire>,
    entitled: &mut Entitled<'_, '_, '_, W::Quota>,
    facts: &mut Facts<'_>,
    way: Way<'_, '_>,
    mut answer: Box<Answer<W::Wire>>,
    record: &mut Record,
) -> Result<Relayed, Stop> {
    if let Some(refusal) = reply::replaced(&answer.head, answer.kind, &way.provider.name) {
        return Err(Stop::Refused(refusal));
    }
    if let Some(outward) = client.begun() {
        let shown =
            tending::show_late(world, client, outward, *answer, &way.provider.name, facts, record).await;
        entitled.settle(Some(0), Some(NanoUsd(0)), world.now());
        return shown;
    }
    let provider = way.provider;
    let relayed = relay::relay(world, client, entitled, facts, way, &mut answer, record).await;
    relay::give_back(world, *answer, provider, facts.limits);
    entitled.settle(Some(0), Some(NanoUsd(0)), world.now());
    relayed
}

/// What an answer that is an error says. A short JSON body is read to its end for it.
pub(super) async fn error_of<W: World>(
    world: &W,
    client: &mut impl Audience,
    answer: &mut Answer<W::Wire>,
) -> Result<Answered, Stop> {
    let retry_after_ms = upstream_error::retry_after_ms(&answer.head, &answer.buffer, world.unix_ms());
    let said = match attempt::short_body(world, client, answer).await {
        Ok(body) => body.and_then(|body| upstream_error::said(&body)),
        Err(NoAnswer::ClientGone) => return Err(Stop::Left),
        // Whoever relays it meets the same, and says so.
        Err(NoAnswer::Failed(_)) => None,
    };
    Ok(Answered { status: answer.head.status, said, retry_after_ms })
}

/// Tells the board how an answer went that reached the client.
fn report<W: World>(
    world: &W,
    attempted: &mut Attempted<'_, '_, W::Health>,
    relayed: Option<&Relayed>,
    record: &Record,
) {
    let Attempted { planned, underway, .. } = attempted;
    let phases = &record.phases;
    if let (Some(sent), Some(token)) = (phases.sent, phases.first_token) {
        underway.first_token(token.us_since(sent));
    }
    let now = world.recent();
    let change = match relayed {
        Some(Relayed::Whole | Relayed::Unheard) => underway.succeeded(now),
        // The client's own mistake, said by an event.
        Some(Relayed::Failed(Some(Said::Request | Said::MissingModel))) => None,
        Some(Relayed::Failed(_)) => underway.failed(None, now, world.random()),
        Some(Relayed::Cut(failure)) if !matches!(failure.cause, Cause::OverLimit | Cause::Expired(_)) => {
            underway.failed(None, now, world.random())
        }
        // The client left, or we ended it: neither well nor ill.
        Some(Relayed::Cut(_)) | None => None,
    };
    turned(world, planned, change);
}

/// Tells the board what an attempt that came to nothing means for its target and its key.
pub(super) fn bear<W: World>(
    world: &W,
    attempted: &mut Attempted<'_, '_, W::Health>,
    came: Came,
    judgement: Judgement,
) {
    let Attempted { planned, key, underway } = attempted;
    let now = world.now();
    let aside = |fault, turn| {
        world.health().key_failed(KeyKey::of(planned.provider, *key), fault, now);
        world.local().sheet.borrow_mut().turned(planned.provider.id, turn);
    };
    match judgement.bearing {
        Bearing::Nothing => {}
        Bearing::Failed(_) => {
            let retry_after_ms = match came {
                Came::Answered(answered) => answered.retry_after_ms,
                Came::Failed(_) => None,
            };
            let change = underway.failed(retry_after_ms, now, world.random());
            turned(world, planned, change);
        }
        Bearing::KeyDead => aside(KeyFault::Dead, Turn::KeyDead),
        Bearing::KeyRefused => aside(KeyFault::Refused, Turn::KeyRefused),
    }
}

fn turned<W: World>(world: &W, planned: &Planned<'_>, change: Option<Change>) {
    let turn = match change {
        Some(Change::Opened) => Turn::BreakerOpened,
        Some(Change::Closed) => Turn::BreakerClosed,
        None => return,
    };
    world.local().sheet.borrow_mut().turned(planned.provider.id, turn);
}

/// The planned key if it is good, else another of the provider's that is; or how long until there is one.
pub(super) fn good_key<B: Outcomes>(health: &B, planned: &Planned<'_>, now: Now) -> Result<u16, u64> {
    let standing = |key| health.key_standing(KeyKey::of(planned.provider, key), now);
    let aside = match standing(planned.key) {
        KeyStanding::Good => return Ok(planned.key),
        KeyStanding::Dead { retry_after_ms } => Err(retry_after_ms),
        // What was refused may have been one model: it is better than nothing.
        KeyStanding::Refused { .. } => Ok(planned.key),
    };
    if planned.pinned {
        return aside;
    }
    let all = 0..u16::try_from(planned.provider.keys.len()).unwrap_or(u16::MAX);
    let mut good = all.filter(|&key| standing(key) == KeyStanding::Good);
    good.next().map_or(aside, Ok)
}

/// Another key of the same provider that may be used now.
fn other_key<B: Outcomes>(health: &B, attempted: &Attempted<'_, '_, B>, now: Now) -> Option<u16> {
    let Attempted { planned, key: used, .. } = attempted;
    if planned.pinned {
        return None;
    }
    let mut all = 0..u16::try_from(planned.provider.keys.len()).unwrap_or(u16::MAX);
    all.find(|&key| {
        key != *used && health.key_standing(KeyKey::of(planned.provider, key), now) == KeyStanding::Good
    })
}
