//! One request, from its first byte to its record. READ THIS FIRST: [`serve`] names the ten steps in their order.
//!
//! It knows no runtime, only a seam ([`seam::World`], [`seam::Wire`]). No step calls back into an earlier one; the single
//! loop is over the attempts. What may not be is a [`Refusal`], what the world failed at is a [`Failure`], and both are
//! shown to the client in one place, `reply`.

mod ask;
mod attempt;
mod budget;
pub mod cancel;
mod failover;
pub mod h1;
mod hedge;
mod hold;
mod intake;
mod lens;
pub mod local;
mod outgoing;
mod payload;
pub mod pool;
mod receive;
mod relay;
mod reply;
pub mod seam;
#[cfg(test)]
mod sim;
mod tending;
mod timing;
mod upstream_head;
mod words;

pub use attempt::{Watched, read_watching};
pub use outgoing::Outgoing;

use self::{
    ask::Ask,
    h1::Client,
    payload::Payload,
    receive::Request,
    relay::Relayed,
    reply::Own,
    seam::{Wire, World},
    timing::Marks,
    words::Words,
};
use std::net::IpAddr;

use crate::{
    base::{
        limits,
        now::Now,
        waiting::{Expiry, Waiting},
    },
    config::{
        Limits, Snapshot, Tracing,
        callers::{Caller, Callers},
        relay::Relay,
    },
    ledger::{
        logged::{CallerTag, Keep, Logged},
        open::{self, Ended, OpenRecord},
        record::{Deadline, ModelName, Outcome, Party, Record},
        sheet::Sheet,
        trail::Trail,
        untold::Untold,
    },
    policy::{
        admit::{self, Admitted, Knock, Visitor},
        attempts::{Cause, Failure},
        condition::{self, Told},
        plan::{self, Plan},
        spending::Spending,
    },
    wire::{
        http1::{
            Known,
            framing::Framing,
            head::{Method, Version},
        },
        openai::{
            endpoint::{self, Endpoint, Miss, Repeat},
            rate_headers::RateHeaders,
            refusal::{Refusal, Retry},
        },
        request_id::RequestId,
        trace_context::{self, TraceParent},
    },
};

/// What becomes of the client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It may bring another request.
    Request,
    Close,
}

/// Why an exchange has no answer to relay.
#[derive(Debug)]
pub enum Stop {
    /// We said no.
    Refused(Refusal),
    /// The world said no, and every attempt is spent.
    Failed(Failure),
    /// The client left: there is nobody to say anything to.
    Left,
    /// It asked what it may ask here.
    Options { allow: &'static str },
}

/// What a reply needs to know of its request, after the request's bytes have been let go.
pub struct Facts<'a> {
    /// `x-request-id`: the client's own if it is fit, else ours.
    pub id: RequestId,
    pub http10: bool,
    /// A HEAD request: the reply has no body.
    pub head_only: bool,
    /// The connection may serve another request, as far as the client and the drain are concerned.
    pub stays: bool,
    /// Part of the request's body may still be on its way.
    pub unread: bool,
    /// Where the last attempt went, and as which model.
    pub provider: Option<&'a str>,
    pub model: ModelName,
    pub attempts: u8,
    /// The route that was asked for.
    pub route: Option<Box<str>>,
    /// What is said about trying again, in the place of what a refusal or a provider says of itself.
    pub advice: Retry,
    /// `None` until a head was read.
    pub method: Option<Method>,
    pub visitor: Visitor<'a>,
    /// Whether the exchange is kept in the logs, and copies of what is said in it for them.
    pub keep: Keep,
    payload: Payload,
    /// What a vocabulary needs of it.
    words: Words,
    /// What the client hears of its limits.
    pub told: RateHeaders,
    /// Moments that are told, where they are to be; and what is told of them.
    marks: Option<Box<Marks>>,
    timing: Option<Box<str>>,
    pub limits: &'a Limits,
    pub relay: Relay,
}

impl Facts<'_> {
    /// For the log; nothing else is done with the facts after it.
    fn logged<W: World>(&mut self, world: &W, ended: Ended<'_>, peer: IpAddr) -> Logged {
        let caller = self.visitor.caller;
        let (gist, whole) = ended.told(world.wants_records());
        Logged {
            gist,
            whole,
            ended_unix_ms: world.unix_ms(),
            request_id: std::mem::take(&mut self.id),
            caller: caller.map(|caller| CallerTag { id: caller.id, name: caller.name.clone() }),
            address: self.visitor.address.unwrap_or(peer),
            method: self.method,
            http10: self.http10,
            route: self.route.take(),
            keep: self.keep,
            payload: std::mem::take(&mut self.payload).take(),
        }
    }
}

/// Serves one request of `client`, of which there is something to read, and leaves one record behind, whatever happens.
/// A client that ends its connection instead leaves none.
pub async fn serve<W: World>(world: &W, client: &mut Client<W::Wire>) -> Next {
    if client.carry.is_empty() && !client.begins(world).await {
        return Next::Close;
    }
    let mut record = Record::new("none", world.now());
    let mut open = OpenRecord::of(&mut record, Desk(world));
    let snapshot = world.snapshot();
    let callers = world.callers();
    let mut facts = Facts {
        id: RequestId::default(),
        http10: false,
        head_only: false,
        stays: false,
        unread: true,
        provider: None,
        model: ModelName::default(),
        attempts: 0,
        route: None,
        advice: Retry::default(),
        method: None,
        visitor: Visitor::default(),
        keep: payload::keep(world, &snapshot),
        payload: Payload::default(),
        words: Words::of(world, &snapshot),
        told: RateHeaders::default(),
        marks: None,
        timing: None,
        limits: &snapshot.limits,
        relay: snapshot.relay,
    };
    let end = exchange(
        world,
        client,
        &snapshot,
        callers.as_deref().and_then(Option::as_ref),
        &mut facts,
        &mut open,
    )
    .await;
    let (outcome, next) = conclude(world, client, &mut facts, end, &mut open).await;
    client.untended(&mut open);
    #[cfg(test)]
    if sim::planted::is(sim::planted::Bug::LostRecord) && outcome == Outcome::ClientGone {
        std::mem::forget(open);
        return next;
    }
    match facts.words.take() {
        #[cfg(test)]
        None if sim::planted::is(sim::planted::Bug::LineLost) && matches!(outcome, Outcome::TimedOut(_)) => {
            open.close(world.now(), outcome);
        }
        None => {
            let ended = open.close(world.now(), outcome);
            world.log(|| facts.logged(world, ended, client.address));
        }
        Some(texts) => {
            let uncounted = open.put_off(world.now(), outcome);
            let line = |ended: Ended<'_>| facts.logged(world, ended, client.address);
            leave_untold(world, Untold::of(uncounted, texts, line));
        }
    }
    next
}

/// Leaves an exchange to the estimator, who counts it; or counts it as it stands, where the estimator has no room.
#[cold]
fn leave_untold<W: World>(world: &W, untold: Untold) {
    let Some(untold) = world.estimate(untold) else { return };
    let line = {
        let mut sheet = world.local().sheet.borrow_mut();
        sheet.unqueued += 1;
        untold.count(None, &mut sheet)
    };
    world.log(|| line);
}

/// Steps 3 to 8. `facts` and `record` are filled on the way, so that they are there however it ends.
async fn exchange<'s, W: World>(
    world: &'s W,
    client: &mut Client<W::Wire>,
    snapshot: &'s Snapshot,
    callers: Option<&'s Callers>,
    facts: &mut Facts<'s>,
    record: &mut Record,
) -> Result<Relayed, Stop> {
    let mut request = receive::head(world, client, &snapshot.limits).await?;
    record.phases.head_read = Some(world.now());
    note_head(world, snapshot, &request, facts);
    record.trail = trail_of(world, snapshot.tracing, &request);
    facts.marks = timing::marks(snapshot.server.timing, &request);
    let asked = locate(&request);
    let knock = knock(world, client, &request, &asked);
    let mut spending = Spending::new(world.quota());
    let admitted = admit::admit(snapshot, callers, &mut spending, knock, &mut facts.told, &mut facts.visitor);
    record.caller = facts.visitor.caller.map(|caller| caller.id);
    let (mut admitted, (endpoint, model)) = match (admitted, asked) {
        (Ok(admitted), Ok(asked)) => (admitted, asked),
        (Err(refusal), _) => return Err(let_go(world, client, request, facts, refusal.into()).await),
        (_, Err(stop)) => return Err(let_go(world, client, request, facts, stop).await),
    };
    record.operation = endpoint.operation();
    facts.payload = Payload::of(world, snapshot, admitted.caller(), &request, endpoint, facts.keep);
    facts.mark(|marks| marks.admitted = Some(world.now()));

    let body = receive::body(world, client, &mut request, &admitted, endpoint.body(), &snapshot.limits).await;
    let read = world.now();
    record.waited(Party::Client, record.phases.head_read.unwrap_or(read), read);
    body?;
    record.phases.body_read = Some(read);
    record.bytes_in = request.body().len() as u64;
    facts.payload.asked(&request);
    facts.unread = false;
    // It owes us nothing until there is something for it to read.
    client.owes_nothing(record);
    if endpoint.repeat() == Repeat::Local {
        return list_models(world, client, snapshot, &admitted, model.as_deref(), facts, record).await;
    }

    let ask = Ask::read(endpoint, &request).map_err(|refusal| ends_badly(facts, &request, refusal))?;
    record.stream = ask.stream;
    record.model_asked = ask.model.as_ref().into();
    facts.mark(|marks| marks.parsed = Some(world.now()));
    let mut plan = Plan::default();
    let planned = lay_plan(world, snapshot, admitted.caller(), &ask, &request, &mut plan);
    let route = if planned.is_ok() { plan.route } else { plan::route_of(snapshot, &ask.model) };
    facts.route = route.map(|route| route.name.clone());
    planned.map_err(|refusal| ends_badly(facts, &request, refusal))?;
    let want = ask.want(&request, world.recent(), world.unix_ms());
    let entitled = admit::entitle(snapshot, &mut admitted, &plan, want, &mut facts.told);
    let mut entitled = entitled.map_err(|refusal| ends_badly(facts, &request, refusal))?;
    facts.mark(|marks| marks.routed = Some(world.now()));
    failover::serve_plan(world, client, snapshot, &mut entitled, &mut request, &ask, facts, record).await
}

/// What was asked is at hand, and we say no.
#[cold]
fn ends_badly(facts: &mut Facts<'_>, request: &Request, refusal: Refusal) -> Stop {
    facts.payload.ends_badly(request);
    refusal.into()
}

/// Where the request may go, in order: by its model's name, and by what its route looks at.
fn lay_plan<'p, W: World>(
    world: &W,
    snapshot: &'p Snapshot,
    caller: Option<&'p Caller>,
    ask: &'p Ask,
    request: &Request,
    plan: &mut Plan<'p>,
) -> Result<(), Refusal> {
    let header = |name: &str| request.head.field(&request.buffer, name);
    let asked = condition::Facts {
        model: &ask.model,
        stream: ask.stream,
        user: ask.user(),
        caller: caller.map(|caller| &*caller.name),
        tags: caller.map_or(&[], |caller| &caller.tags),
        header: &header,
        metadata: Told::Raw(admit::metadata_field(&request.head, &request.buffer)?),
    };
    let planned = plan.lay(snapshot, &asked, world.random(), world.health(), world.recent());
    planned.map_err(|why| why.refusal(&ask.model))
}

/// What admission needs to know of a request.
fn knock<'a, W: World>(
    world: &W,
    client: &'a Client<W::Wire>,
    request: &'a Request,
    asked: &Result<(Endpoint, Option<Box<str>>), Stop>,
) -> Knock<'a> {
    Knock {
        peer: client.address,
        head: &request.head,
        bytes: &request.buffer,
        endpoint: asked.as_ref().ok().map(|(endpoint, _)| *endpoint),
        memo: &client.memo,
        now: world.recent(),
        unix_ms: world.unix_ms(),
    }
}

/// Forgets a request that goes no further, body and all where that is small: its connection may bring another.
async fn let_go<W: World>(
    world: &W,
    client: &mut Client<W::Wire>,
    request: Request,
    facts: &mut Facts<'_>,
    stop: Stop,
) -> Stop {
    if facts.unread && facts.stays {
        facts.unread = !receive::skip(world, client, request, facts.limits).await;
    }
    stop
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Steps 9 and 10 up to the record: says what must be said, and decides what becomes of the connection.
async fn conclude<W: World>(
    world: &W,
    client: &mut Client<W::Wire>,
    facts: &mut Facts<'_>,
    end: Result<Relayed, Stop>,
    record: &mut Record,
) -> (Outcome, Next) {
    let (refusal, outcome) = match end {
        Ok(Relayed::Unheard) => return (Outcome::ClientGone, Next::Close),
        Ok(Relayed::Whole) if facts.stays => return (Outcome::Completed, Next::Request),
        Ok(Relayed::Failed(_)) if facts.stays => return (Outcome::UpstreamLost, Next::Request),
        Ok(relayed) => {
            linger(world, client).await;
            let outcome = match relayed {
                Relayed::Whole => Outcome::Completed,
                Relayed::Unheard => Outcome::ClientGone,
                Relayed::Failed(_) => Outcome::UpstreamLost,
                Relayed::Cut(failure) => outcome_of(failure),
            };
            return (outcome, Next::Close);
        }
        Err(Stop::Left) => return (Outcome::ClientGone, Next::Close),
        Err(Stop::Options { allow }) => {
            let own = Own { extra: Some(("allow", allow)), ..Own::json(204, b"") };
            facts.stays &= !facts.unread;
            record.status = 204;
            facts.time(&record.phases, world);
            if !reply::say(world, client, own, facts).await {
                return (Outcome::ClientGone, Next::Close);
            }
            if facts.stays {
                return (Outcome::Completed, Next::Request);
            }
            linger(world, client).await;
            return (Outcome::Completed, Next::Close);
        }
        Err(Stop::Refused(refusal)) => (refusal, Outcome::Refused),
        Err(Stop::Failed(failure)) => {
            (reply::refusal_of(failure, facts.provider.unwrap_or_default()), outcome_of(failure))
        }
    };
    let class = refusal.class();
    record.refusal = Some(class.code);
    if let Some(outward) = client.begun() {
        if !tending::say_lost(world, client, outward, &refusal, facts, record).await {
            return (Outcome::ClientGone, Next::Close);
        }
        linger(world, client).await;
        return (outcome, Next::Close);
    }
    record.status = class.status;
    // A body that was not read to its end is not skipped: the connection goes.
    facts.stays &= !facts.unread && !refusal.closes();
    if facts.id.is_empty() {
        facts.id = fresh_id(world);
    }
    let mut body = Vec::new();
    refusal.body(&mut body);
    facts.payload.refused(&body);
    let retry = if facts.advice == Retry::default() { refusal.retry() } else { facts.advice };
    facts.time(&record.phases, world);
    let own = Own { extra: refusal.header(), retry, ..Own::json(class.status, &body) };
    if !reply::say(world, client, own, facts).await {
        return (Outcome::ClientGone, Next::Close);
    }
    record.bytes_out += body.len() as u64;
    if facts.stays {
        return (outcome, Next::Request);
    }
    linger(world, client).await;
    (outcome, Next::Close)
}

/// Says FIN, then reads and discards what the client still sends, so that our last words reach it and not a reset.
async fn linger<W: World>(world: &W, client: &mut Client<W::Wire>) {
    let until = world.now() + limits::LINGER_TIME;
    client.wire.expire_at(until, Waiting::Linger);
    client.wire.finish().await;
    let mut discarded = 0;
    let mut buffer = world.local().buffer();
    while discarded < limits::LINGER_BYTES_MAX {
        buffer.clear();
        let (read, same) = client.read(buffer).await;
        buffer = same;
        match read {
            Ok(read) if read > 0 => discarded += read,
            _ => break,
        }
    }
    world.local().recycle(buffer);
    // A wire that ran out of patience with a request reads no more, and cannot tell when the client is done.
    let is_deaf = matches!(client.wire.expired(), Some(Expiry::Late(Waiting::Head | Waiting::Body)));
    if is_deaf || discarded >= limits::LINGER_BYTES_MAX {
        // No more is read of it, but a close now would be a reset that overtakes our answer: it gets its time.
        world.sleep_until(until).await;
    }
}

fn note_head<W: World>(world: &W, snapshot: &Snapshot, request: &Request, facts: &mut Facts<'_>) {
    facts.method = Some(request.head.method);
    let collect = request.known(Known::CollectLog).or_else(|| request.known(Known::CollectLogAlias));
    match collect {
        // Wanted, and there is nowhere to keep it.
        _ if snapshot.kept_logs.is_none() => {}
        Some(b"true") => facts.keep = Keep::Yes,
        Some(b"false") => facts.keep = Keep::No,
        _ => {}
    }
    facts.http10 = request.head.version == Version::Http10;
    facts.head_only = request.head.method == Method::Head;
    facts.unread = request.head.framing != Framing::None;
    facts.stays = request.head.keep_alive && !world.draining();
    facts.id = request.known(Known::RequestId).and_then(RequestId::theirs).unwrap_or_else(|| fresh_id(world));
}

/// What is kept of the exchange's trace and attempts, if anything is.
fn trail_of<W: World>(world: &W, tracing: Tracing, request: &Request) -> Option<Box<Trail>> {
    let fields = &request.head.fields;
    let client = || TraceParent::of(fields, &request.buffer);
    match tracing {
        Tracing::Off => None,
        Tracing::Noted => client().map(|client| Box::new(Trail::note(client))),
        Tracing::Joined(share) => {
            let client = client();
            let keeps_state = client.is_some() && trace_context::is_good_state(fields, &request.buffer);
            Some(Box::new(Trail::join(client, keeps_state, share, || world.random())))
        }
    }
}

fn fresh_id<W: World>(world: &W) -> RequestId {
    RequestId::fresh(world.unix_ms(), [world.random(), world.random()])
}

/// What the request line asks for: an endpoint, and the model if it is in the path.
fn locate(request: &Request) -> Result<(Endpoint, Option<Box<str>>), Stop> {
    let method = request.head.method.token().unwrap_or("");
    let path = request.head.path.of(&request.buffer);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned().into_boxed_str();
    match endpoint::find(method.as_bytes(), path) {
        Ok(found) => Ok((found.endpoint, found.model.map(Box::from))),
        Err(Miss::Options { allow }) => Err(Stop::Options { allow }),
        Err(Miss::UnknownPath) => {
            Err(Stop::Refused(Refusal::UnknownPath { method: method.into(), path: text(path) }))
        }
        Err(Miss::Method { allow }) => {
            Err(Stop::Refused(Refusal::MethodNotAllowed { method: method.into(), path: text(path), allow }))
        }
    }
}

/// Step 6 for what is answered here: the list of models, or one of it.
async fn list_models<W: World>(
    world: &W,
    client: &mut Client<W::Wire>,
    snapshot: &Snapshot,
    admitted: &Admitted<'_, '_, W::Quota>,
    model: Option<&str>,
    facts: &mut Facts<'_>,
    record: &mut Record,
) -> Result<Relayed, Stop> {
    let models = world.models();
    let Some(models) = &models else {
        return Err(Stop::Refused(Refusal::Overloaded { retry_after_ms: 1_000 }));
    };
    let part;
    let body = match model {
        Some(model) if admitted.may_use(snapshot, model) => models.of(model),
        Some(_) => None,
        None if admitted.sees_all_models() => Some(models.body()),
        None => {
            part = models.only(|model| admitted.may_use(snapshot, model));
            Some(&*part)
        }
    };
    let Some(body) = body else {
        return Err(Stop::Refused(Refusal::UnknownModel { model: model.unwrap_or_default().into() }));
    };
    record.status = 200;
    record.bytes_out = body.len() as u64;
    facts.time(&record.phases, world);
    if reply::say(world, client, Own::json(200, body), facts).await {
        Ok(Relayed::Whole)
    } else {
        Err(Stop::Left)
    }
}

/// Where a record finds time and sheet if nobody closes it.
struct Desk<'a, W>(&'a W);

impl<W: World> open::Desk for Desk<'_, W> {
    fn now(&self) -> Now {
        self.0.now()
    }

    fn with_sheet(&self, write: impl FnOnce(&mut Sheet)) {
        write(&mut self.0.local().sheet.borrow_mut());
    }
}

/// What the record says of a failure.
fn outcome_of(failure: Failure) -> Outcome {
    let expiry = match failure.cause {
        Cause::Expired(expiry) => expiry,
        Cause::OverLimit => return Outcome::Refused,
        _ => return Outcome::UpstreamLost,
    };
    match expiry {
        Expiry::Drained => Outcome::Drained,
        Expiry::Late(waiting) => Outcome::TimedOut(match waiting {
            Waiting::Idle | Waiting::Head => Deadline::Head,
            Waiting::Body => Deadline::Body,
            Waiting::Connect | Waiting::Handshake => Deadline::Connect,
            Waiting::FirstByte | Waiting::FirstToken => Deadline::FirstByte,
            Waiting::BetweenBytes => Deadline::BetweenBytes,
            Waiting::Reader | Waiting::Send | Waiting::Linger => Deadline::Write,
            Waiting::Total => Deadline::Exchange,
        }),
    }
}
