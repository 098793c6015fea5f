//! Requests with one to three targets, each of which fails in a way of its own: the client sees the bytes of one of them, in
//! order, and nobody is asked once an answer has begun.
//!
//! One request after the other, so that whoever is asked is asked for it; the connections that are kept are shared by all.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
    time::Duration,
};

use super::{
    answer::{Answer, Reader},
    chance::Chance,
    check, client,
    peer::{Got, Peer},
    planted::{self, Bug},
    upstream,
    wire::{Side, SimWire},
    world::{Sim, SimWorld},
};
use crate::{
    base::{
        now::Now,
        waiting::{Expiry, Waiting},
    },
    ledger::record::{Closed, Outcome},
    policy::attempts::{Cause, Failure, Phase},
};

/// Seeds of a test run, and of one that has time.
const CI: u64 = 500;
const FULL: u64 = 5_000;
const ASKS: usize = 4;
const ATTEMPTS_MAX: usize = 3;

const CONFIGURATION: &str = r#"
[[limit]]
by = "gateway"
concurrent_requests = 100000
concurrent_streams = 100000
tokens_per_day = 1000000000
[[limit]]
by = "provider"
concurrent_requests = 100000
[[provider]]
name = "t1"
base_url = "http://127.0.0.1:9001/v1"
key = "sk-sim"
inject_usage = false
[[provider]]
name = "t2"
base_url = "http://127.0.0.1:9002/v1"
key = "sk-sim"
inject_usage = false
[[provider]]
name = "t3"
base_url = "http://127.0.0.1:9003/v1"
key = "sk-sim"
inject_usage = false
[[route]]
name = "r1"
model = "t1/m"
timeouts = { connect_secs = 1, first_byte_secs = 5, between_bytes_secs = 4 }
[[route]]
name = "r2"
model = "t1/m"
fallbacks = ["t2/m"]
timeouts = { connect_secs = 1, first_byte_secs = 5, between_bytes_secs = 4 }
[[route]]
name = "r3"
model = "t1/m"
fallbacks = ["t2/m", "t3/m"]
timeouts = { connect_secs = 1, first_byte_secs = 5, between_bytes_secs = 4 }
"#;

/// What a target does with one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Act {
    Serve,
    Refuse,
    BlackHole,
    ResetBefore,
    RateLimited,
    Rejected,
    Page,
    ErrorEvent,
    CutBefore,
    CutAfter,
    ResetAfter,
    StallBefore,
    StallAfter,
    GarbageBefore,
    GarbageAfter,
}

const ACTS: [Act; 15] = [
    Act::Serve,
    Act::Refuse,
    Act::BlackHole,
    Act::ResetBefore,
    Act::RateLimited,
    Act::Rejected,
    Act::Page,
    Act::ErrorEvent,
    Act::CutBefore,
    Act::CutAfter,
    Act::ResetAfter,
    Act::StallBefore,
    Act::StallAfter,
    Act::GarbageBefore,
    Act::GarbageAfter,
];

/// One attempt as the target saw it.
#[derive(Debug)]
struct Attempt {
    target: usize,
    act: Act,
    /// What it would have said, and how much of that it said in whole events.
    payload: String,
    ends: Vec<usize>,
    whole: usize,
}

/// All targets of a run, and what they were asked.
pub(super) struct Cast {
    current: Cell<usize>,
    stream: Cell<bool>,
    attempts: RefCell<BTreeMap<usize, Vec<Attempt>>>,
}

/// A connection to a target, if it lets one come about.
pub(super) async fn dial(
    world: &Rc<SimWorld>,
    cast: &Rc<Cast>,
    name: &str,
    until: Now,
) -> Result<SimWire, Failure> {
    let (sim, target) = (&world.sim, usize::from(name.as_bytes()[1] - b'0'));
    let chance = sim.chance();
    sim.pause(20).await;
    if chance.one_in(8) {
        cast.note(Attempt::silent(target, Act::Refuse));
        return Err(Failure::new(Phase::Connect, Cause::Broken));
    }
    if chance.one_in(20) {
        cast.note(Attempt::silent(target, Act::BlackHole));
        sim.executor.sleep_until(until.min(sim.now() + Duration::from_secs(1))).await;
        return Err(Failure::new(Phase::Connect, Cause::Expired(Expiry::Late(Waiting::Connect))));
    }
    let (wire, peer) = world.connect(Side::Upstream, 256 << 10);
    sim.executor.spawn(format!("target {target}"), play(world.clone(), cast.clone(), peer, target));
    Ok(wire)
}

/// Answers one request after the other, each as chance wants it.
async fn play(world: Rc<SimWorld>, cast: Rc<Cast>, peer: Peer, target: usize) {
    let (sim, mut buffer) = (world.sim.clone(), Vec::new());
    loop {
        while !upstream::is_whole(&buffer) {
            match peer.receive(usize::MAX).await {
                Got::Bytes(bytes) => buffer.extend_from_slice(&bytes),
                Got::Fin | Got::Reset => return peer.close(),
            }
        }
        buffer.clear();
        let chance = sim.chance();
        let stream = cast.stream.get();
        let act = match chance.of(0..3) {
            0 => Act::Serve,
            // The first three are decided before there is a connection.
            _ => chance.pick(&ACTS[3..]),
        };
        let act = if stream || act != Act::ErrorEvent { act } else { Act::Rejected };
        let said = Said::new(chance, target, cast.current.get(), stream);
        let at = said.ends_at(chance, act);
        let whole = said.ends.iter().rev().find(|(_, wire)| *wire <= at).map_or(0, |(payload, _)| *payload);
        let ends = said.ends.iter().map(|(payload, _)| *payload).collect();
        let payload = if act == Act::ErrorEvent { error_event(target) } else { said.payload };
        cast.note(Attempt { target, act, payload, ends, whole });
        sim.pause(chance.pick(&[0, 5, 400])).await;
        let sent = match act {
            Act::RateLimited => refusal(chance, 429, target),
            Act::Rejected => refusal(chance, chance.pick(&[500, 502, 503, 504]), target),
            Act::Page => {
                b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 6\r\n\r\n<html>".to_vec()
            }
            Act::ErrorEvent => chunked(&error_event(target)),
            _ => said.wire[..at].to_vec(),
        };
        peer.send(&sent).await;
        match act {
            Act::GarbageBefore | Act::GarbageAfter => {
                // Without a blank line, which would make an event of it, and longer than a chunk has left.
                peer.send(&b"\x00\xffnot what was announced\x80".repeat(16)).await;
                peer.close();
                return;
            }
            Act::ResetBefore | Act::ResetAfter => {
                sim.sleep(peer.conn.delay).await;
                return peer.reset();
            }
            Act::CutBefore | Act::CutAfter => return peer.close(),
            Act::StallBefore | Act::StallAfter => {
                while let Got::Bytes(_) = peer.receive(usize::MAX).await {}
                return peer.close();
            }
            // A connection that is kept dies as others do.
            _ if chance.one_in(5) => {
                let _ = peer.receive(1).await;
                return peer.reset();
            }
            _ => {}
        }
    }
}

/// A good answer.
struct Said {
    payload: String,
    wire: Vec<u8>,
    /// Where events end: in the payload, and in the answer.
    ends: Vec<(usize, usize)>,
    /// Where its head ends.
    head: usize,
}

impl Said {
    fn new(chance: &Chance, target: usize, id: usize, stream: bool) -> Self {
        let usage = format!(
            r#""usage":{{"prompt_tokens":{},"completion_tokens":{id},"total_tokens":0}}"#,
            prompt_tokens(target, id)
        );
        let choice = |rest: &str| format!(r#"{{"id":"t{target}","choices":[{{"index":0,{rest}}}]"#);
        if !stream {
            let message = choice(&format!(r#""message":{{"content":"t{target}"}},"finish_reason":"stop""#));
            let payload = format!("{message},{usage}}}");
            // Chunked, so that its framing can tell it from bytes that mean nothing.
            let head =
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
            let wire = format!("{head}{:x}\r\n{payload}\r\n0\r\n\r\n", payload.len()).into_bytes();
            return Self { payload, wire, ends: Vec::new(), head: head.len() };
        }
        let mut events: Vec<_> = (0..chance.of(1..6))
            .map(|word| {
                choice(&format!(r#""delta":{{"content":"t{target} {word}"}},"finish_reason":null"#)) + "}"
            })
            .collect();
        events.push(choice(r#""delta":{},"finish_reason":"stop""#) + "}");
        events.push(format!(r#"{{"id":"t{target}","choices":[],{usage}}}"#));
        events.push("[DONE]".to_owned());
        let mut wire =
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
                .to_vec();
        let (head, mut payload, mut ends) = (wire.len(), String::new(), Vec::new());
        for event in events {
            let event = format!("data: {event}\n\n");
            wire.extend_from_slice(format!("{:x}\r\n{event}", event.len()).as_bytes());
            payload.push_str(&event);
            ends.push((payload.len(), wire.len()));
            wire.extend_from_slice(b"\r\n");
        }
        wire.extend_from_slice(b"0\r\n\r\n");
        Self { payload, wire, ends, head }
    }

    /// After how many of its bytes it breaks off.
    fn ends_at(&self, chance: &Chance, act: Act) -> usize {
        // Of an answer that is held until it is whole nothing is too late.
        let (first, last) = match (self.ends.first(), self.ends.last()) {
            (Some(first), Some(last)) => (first.1, last.1),
            // Its last chunk is its end.
            _ => (self.head, self.wire.len() - 5),
        };
        match act {
            Act::ResetBefore => chance.pick(&[0, 0, chance.of(0..first)]),
            Act::CutBefore | Act::StallBefore | Act::GarbageBefore => chance.of(0..first),
            Act::CutAfter | Act::ResetAfter | Act::StallAfter | Act::GarbageAfter => chance.of(first..last),
            _ => self.wire.len(),
        }
    }
}

/// Another number for each target and request.
fn prompt_tokens(target: usize, id: usize) -> u64 {
    (1_000 * (id + 1) + target) as u64
}

fn refusal(chance: &Chance, status: u16, target: usize) -> Vec<u8> {
    let code = if status == 429 { "rate_limit_exceeded" } else { "sim" };
    let body = format!(
        r#"{{"error":{{"message":"said by t{target}","type":"server_error","param":null,"code":"{code}"}}}}"#
    );
    let wait = chance.pick(&["", "retry-after: 1\r\n", "retry-after: 7\r\n"]);
    format!(
        "HTTP/1.1 {status} No\r\ncontent-type: application/json\r\n{wait}content-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

fn error_event(target: usize) -> String {
    format!(
        r#"data: {{"error":{{"message":"said by t{target}","type":"server_error","param":null,"code":"overloaded"}}}}"#
    ) + "\n\n"
}

/// A stream of one event.
fn chunked(event: &str) -> Vec<u8> {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    format!("{head}{:x}\r\n{event}\r\n0\r\n\r\n", event.len()).into_bytes()
}

impl Attempt {
    fn silent(target: usize, act: Act) -> Self {
        Self { target, act, payload: String::new(), ends: Vec::new(), whole: 0 }
    }
}

impl Cast {
    fn note(&self, attempt: Attempt) {
        self.attempts.borrow_mut().entry(self.current.get()).or_default().push(attempt);
    }
}

/// One request, and what its client got.
struct Asked {
    targets: usize,
    stream: bool,
    left: bool,
    answer: Option<Answer>,
}

async fn ask_all(world: Rc<SimWorld>, cast: Rc<Cast>, asked: Rc<RefCell<Vec<Asked>>>) {
    let (sim, chance) = (world.sim.clone(), world.sim.chance());
    for id in 0..ASKS {
        let (targets, stream) = (chance.of(1..4), !chance.one_in(3));
        cast.current.set(id);
        cast.stream.set(stream);
        let (wire, peer) = world.connect(Side::Client, 64 << 10);
        sim.executor.spawn("gateway", client::serve(world.clone(), wire));
        let left = Rc::new(Cell::new(false));
        if chance.one_in(8) {
            let (peer, left) = (peer.clone(), left.clone());
            let after = Duration::from_micros(chance.of(0..chance.pick(&[2_000, 200_000, 8_000_000])) as u64);
            sim.executor.at(sim.now() + after, move || {
                left.set(true);
                peer.fin();
            });
        }
        let options = if stream { r#","stream":true,"stream_options":{"include_usage":true}"# } else { "" };
        let body = format!(r#"{{"model":"dynamic/r{targets}"{options}}}"#);
        let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n";
        peer.send(format!("{head}content-length: {}\r\n\r\n{body}", body.len()).as_bytes()).await;
        let (mut reader, mut answer) = (Reader::default(), None);
        while let Got::Bytes(bytes) = peer.receive(usize::MAX).await {
            let fed = reader.feed(&bytes, false);
            sim.check(fed.is_ok(), || format!("{id}: {fed:?}"));
            let Ok((taken, Some(whole))) = fed else { continue };
            sim.check(taken == bytes.len(), || format!("{id}: bytes behind its answer"));
            answer = Some(whole);
            break;
        }
        answer = answer.or_else(|| reader.close());
        peer.close();
        asked.borrow_mut().push(Asked { targets, stream, left: left.get(), answer });
        // Whatever a client that left has begun is over by then.
        sim.sleep(Duration::from_secs(150)).await;
    }
}

/// What one seed came to.
#[derive(Default)]
struct Report {
    violations: Vec<String>,
    acts: BTreeMap<Act, u64>,
    moved: u64,
}

fn run(seed: u64) -> Report {
    check::take_records();
    let sim = Sim::new(seed);
    let world = SimWorld::of(&sim, CONFIGURATION);
    let cast =
        Rc::new(Cast { current: Cell::new(0), stream: Cell::new(false), attempts: RefCell::default() });
    *world.cast.borrow_mut() = Some(cast.clone());
    let asked = Rc::new(RefCell::new(Vec::new()));
    sim.executor.spawn("client", ask_all(world.clone(), cast.clone(), asked.clone()));
    let mut ended = sim.executor.run();
    let records = check::take_records();
    let mut report = Report::default();
    if ended.is_ok() {
        let (asked, attempts) = (asked.borrow(), cast.attempts.borrow());
        let begun =
            asked.iter().enumerate().filter(|(id, asked)| !asked.left || attempts.contains_key(id)).count();
        let in_bounds = (begun..=ASKS).contains(&records.len());
        sim.check(asked.len() == ASKS && in_bounds, || format!("{ASKS} requests, {} records", records.len()));
        for (id, asked) in asked.iter().enumerate() {
            // A client may have left before it was heard; then the records are fewer, and whose is whose is not known.
            let record = records.get(id).filter(|_| records.len() == ASKS);
            let of_it = attempts.get(&id).map_or(&[][..], Vec::as_slice);
            let it = It { sim: &sim, id, asked, attempts: of_it };
            it.check(record);
            of_it.iter().for_each(|attempt| *report.acts.entry(attempt.act).or_default() += 1);
            report.moved += u64::from(of_it.iter().any(|attempt| attempt.target > 1));
        }
        let reported: u64 = records.iter().flat_map(|record| record.tokens.reported()).map(|(_, n)| n).sum();
        let whole = world.local.sheet.borrow().whole();
        let counted = whole.tokens.iter().chain(&whole.estimated).sum::<u64>();
        sim.check(counted == reported, || format!("{counted} tokens counted of {reported}"));
        let (made, closed, pooled) = (sim.made.get(), sim.closed.get(), world.local.pool.borrow().len());
        sim.check(made == closed + pooled, || {
            format!("{made} connections, {closed} closed, {pooled} pooled")
        });
        let used = world.local.budget.used();
        sim.check(used == 0, || format!("{used} bytes of the budget are gone"));
        world.local.pool.borrow_mut().clear();
        ended = sim.executor.run();
        sim.check(world.quota.is_quiet(), || "a place in a limit was never left".to_owned());
        sim.check(world.health.is_quiet(), || "an attempt was begun and never ended".to_owned());
        let waiting = sim.executor.waiting();
        sim.check(waiting.is_empty(), || format!("these wait for ever: {waiting:?}"));
    }
    sim.over.set(true);
    report.violations = sim.violations.take();
    report.violations.extend(ended.err());
    report
}

/// One request at the end of a run.
struct It<'a> {
    sim: &'a Sim,
    id: usize,
    asked: &'a Asked,
    attempts: &'a [Attempt],
}

impl It<'_> {
    fn that(&self, holds: bool, what: impl FnOnce() -> String) {
        self.sim.check(holds, || {
            let acts: Vec<_> = self.attempts.iter().map(|it| (it.target, it.act, it.whole)).collect();
            let Asked { targets, stream, left, answer } = self.asked;
            format!(
                "{}: {} ({targets} targets, stream {stream}, left {left}, {acts:?}): {answer:?}",
                self.id,
                what()
            )
        });
    }

    fn check(&self, record: Option<&Closed>) {
        let Self { asked, attempts, .. } = self;
        self.that(attempts.len() <= ATTEMPTS_MAX, || format!("{} attempts", attempts.len()));
        let in_order = attempts.windows(2).all(|pair| pair[0].target <= pair[1].target);
        self.that(in_order && attempts.iter().all(|it| it.target <= asked.targets), || {
            "out of the plan's order".into()
        });
        if let Some(record) = record {
            let tried = usize::from(record.attempts);
            self.that((attempts.len()..=ATTEMPTS_MAX).contains(&tried), || {
                format!("{tried} attempts recorded")
            });
        }
        let begun = |it: &Attempt| match it.act {
            Act::Serve => true,
            Act::CutAfter | Act::StallAfter => it.whole > 0,
            // What a reset or bytes that mean nothing overtook has not left.
            _ => false,
        };
        let earlier = attempts.split_last().map_or(&[][..], |(_, earlier)| earlier);
        self.that(!earlier.iter().any(begun), || "asked again after an answer had begun".into());
        let Some(answer) = &asked.answer else {
            return self.that(asked.left, || "not answered".into());
        };
        let told = answer.field("x-ringway-provider").and_then(|name| name.strip_prefix('t')?.parse().ok());
        let last = attempts.last();
        match (answer.status, last) {
            (200, Some(last)) => {
                self.that(told == Some(last.target), || format!("asked again after {told:?} had begun"));
                self.relayed(answer, last, record);
            }
            (200, None) => self.that(false, || "an answer of nobody's".into()),
            _ => self.refused(answer, told, record),
        }
    }

    /// One target's bytes, in order: all of them, or whole events and the reason why there are no more.
    fn relayed(&self, answer: &Answer, last: &Attempt, record: Option<&Closed>) {
        let got = String::from_utf8_lossy(&answer.payload);
        let outcome = record.map(Closed::outcome);
        if answer.whole {
            self.that(got == last.payload, || "other bytes than one target's".into());
            if last.act == Act::ErrorEvent {
                // The last that could be asked: its own words are the client's.
                let lost = outcome.is_none_or(|outcome| outcome == Outcome::UpstreamLost);
                return self.that(lost, || format!("an error, recorded as {outcome:?}"));
            }
            let right = last.act == Act::Serve && outcome.is_none_or(|outcome| outcome == Outcome::Completed);
            self.that(right, || format!("ends well but is not whole, {outcome:?}"));
            let prompt = record.map(|record| record.tokens.prompt);
            let expect = Some(prompt_tokens(last.target, self.id));
            self.that(prompt.is_none_or(|prompt| prompt == expect), || format!("{prompt:?} tokens counted"));
            return;
        }
        let (events, farewell) = got.rfind("data: {\"error\":").map_or((&*got, ""), |at| got.split_at(at));
        self.that(last.payload.starts_with(events), || "other bytes than one target's".into());
        if self.asked.left {
            return;
        }
        self.that(
            !events.is_empty() && events.len() <= last.whole && last.ends.contains(&events.len()),
            || "cut within an event".into(),
        );
        self.that(farewell.ends_with("\n\n") && !got.contains("[DONE]"), || "no last word".into());
        let lost = outcome.is_none_or(|it| matches!(it, Outcome::UpstreamLost | Outcome::TimedOut(_)));
        self.that(lost && last.act != Act::Serve, || format!("cut for no reason, {outcome:?}"));
    }

    /// All is lost: nobody was left to ask, or it had been asked often enough.
    fn refused(&self, answer: &Answer, told: Option<usize>, record: Option<&Closed>) {
        let text = String::from_utf8_lossy(&answer.payload);
        self.that(answer.whole || self.asked.left, || "a torn refusal".into());
        let served = self.attempts.iter().any(|it| it.act == Act::Serve);
        self.that(!served || self.asked.left, || "refused, and a target had answered".into());
        if let Some((_, by)) = text.split_once("said by t") {
            self.that(told.is_some_and(|told| by.starts_with(&told.to_string())), || {
                "another's refusal".into()
            });
        }
        let tried = record.map_or(ATTEMPTS_MAX, |record| usize::from(record.attempts));
        let exhausted = tried == ATTEMPTS_MAX || told == Some(self.asked.targets);
        self.that(exhausted || self.asked.left, || format!("given up after {tried} attempts"));
    }
}

#[test]
fn with_several_targets_the_client_sees_one_of_them() {
    if let Some(seed) = std::env::var("RINGWAY_SIM_SEED").ok().and_then(|seed| seed.parse().ok()) {
        let violations = run(seed).violations;
        assert!(violations.is_empty(), "seed {seed}:\n{}", violations.join("\n"));
        return;
    }
    let seeds =
        std::env::var("RINGWAY_TEST_PLAN_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(CI);
    let (mut acts, mut moved, mut failed) = (BTreeMap::new(), 0, Vec::new());
    for seed in 0..seeds {
        let report = run(seed);
        report.acts.iter().for_each(|(act, count)| *acts.entry(*act).or_insert(0) += count);
        moved += report.moved;
        if !report.violations.is_empty() {
            println!("RINGWAY_SIM_SEED={seed}\n  {}", report.violations.join("\n  "));
            failed.push(seed);
        }
    }
    println!(
        "{seeds} seeds (CI {CI}, full {FULL}), {} requests, {moved} moved: {acts:?}",
        seeds * ASKS as u64
    );
    assert!(failed.is_empty(), "{} seeds fail: {failed:?}", failed.len());
    assert!(ACTS.iter().all(|act| acts.contains_key(act)) && moved > 0, "something never happened");
}

#[test]
fn bugs_between_targets_are_found() {
    for (bug, words) in [
        (Bug::RetriedAfterCommit, "asked again after"),
        (Bug::SecondAfterFirst, "other bytes than one target's"),
        (Bug::StaleRetriedAgain, "attempts"),
        (Bug::PlaceKept, "never ended"),
        (Bug::UsageCountedTwice, "tokens counted"),
        (Bug::LostRecord, "records"),
    ] {
        let found = (0..CI).find(|&seed| {
            let report = planted::with(Some(bug), || run(seed));
            report.violations.iter().any(|violation| violation.contains(words))
        });
        println!("{bug:?}: seed {found:?}");
        assert!(found.is_some(), "{bug:?} is not found");
    }
}
