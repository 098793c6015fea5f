//! What must hold after a run, whatever went wrong in it.

use std::{cell::RefCell, time::Duration};

use super::{
    answer::Answer,
    asks::{Ask, Hope},
    client::{Reading, Visit},
    faults::Fault,
    script::{Break, Form, Script},
    world::{Seen, SimWorld, TIMEOUTS},
};
use crate::{
    base::limits,
    config::relay::OnDisconnect,
    exchange::tending::COMMENT,
    ledger::record::{Closed, Outcome, Tokens, Unheard, UnheardEnd},
};

thread_local! {
    static RECORDS: RefCell<Vec<Closed>> = const { RefCell::new(Vec::new()) };
}

/// Every record that is closed on this thread passes here.
pub(in crate::exchange) fn observe(closed: Closed) {
    RECORDS.with_borrow_mut(|records| records.push(closed));
}

/// The records since this was called last.
pub(super) fn take_records() -> Vec<Closed> {
    RECORDS.take()
}

/// How an exchange looked to its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Looked {
    Whole,
    Cut,
    Refused,
    Unanswered,
}

/// Looks at everything once a run has come to rest.
pub(super) fn check_invariants(world: &SimWorld, visits: &[Visit], records: &[Closed]) {
    let check = Check { world, records };
    let mut races = world.stray_races.get();
    for visit in visits {
        check.visit(visit, &mut races);
    }
    check.upstreams();
    check.totals();
    check.resources();
}

struct Check<'a> {
    world: &'a SimWorld,
    records: &'a [Closed],
}

impl Check<'_> {
    fn that(&self, holds: bool, else_say: impl FnOnce() -> String) {
        self.world.sim.check(holds, else_say);
    }

    fn visit(&self, visit: &Visit, races: &mut usize) {
        let ids = || visit.asks.first().map_or(0, |ask| ask.id);
        self.that(visit.bad.is_none(), || format!("visit of {}: {:?}", ids(), visit.bad));
        self.that(!visit.surplus, || format!("visit of {}: bytes that belong to no request", ids()));
        let is_patient = visit.is_patient();
        let mut ended = false;
        for (number, ask) in visit.asks[..visit.asked].iter().enumerate() {
            let answer = visit.answers.get(number);
            self.that(answer.is_none() || !ended, || format!("{}: answered behind the end", ask.id));
            let looked = match answer {
                None => {
                    let excused = ended || !is_patient || self.world.draining.get();
                    self.that(excused, || format!("{}: not answered (reset: {})", ask.id, visit.was_reset));
                    Looked::Unanswered
                }
                Some(answer) => self.answer(ask, answer, visit, races),
            };
            if !ended {
                self.record(ask, answer, looked, visit);
            }
            ended |= answer.is_some_and(|answer| !answer.whole || answer.closes());
        }
    }

    fn answer(&self, ask: &Ask, answer: &Answer, visit: &Visit, races: &mut usize) -> Looked {
        let id = ask.id;
        let is_patient = visit.is_patient();
        if answer.fields.is_empty() && !answer.whole {
            self.that(!is_patient, || format!("{id}: not even a head"));
            return Looked::Cut;
        }
        self.that(!answer.whole || answer.field("x-request-id").is_some(), || format!("{id}: no request id"));
        match (answer.field("x-sim"), &ask.hope) {
            (Some(theirs), Hope::Answer(script)) => {
                self.that(theirs == id.to_string(), || format!("{id}: got the answer to {theirs}"));
                self.that(answer.status == script.status, || format!("{id}: status {}", answer.status));
                self.that(!script.replaced, || format!("{id}: got what it must not see"));
                self.relayed(id, script, answer, is_patient)
            }
            (Some(theirs), _) => {
                self.that(false, || format!("{id}: got the answer to {theirs} and had asked for none"));
                Looked::Cut
            }
            (None, Hope::Own(status, body)) if answer.status < 400 => {
                let right = answer.status == *status && (answer.payload == *body || !answer.whole);
                self.that(right, || format!("{id}: got {} instead of {status}", answer.status));
                if answer.whole { Looked::Whole } else { Looked::Cut }
            }
            (None, _) if !answer.whole => {
                self.that(!is_patient, || format!("{id}: a torn refusal"));
                Looked::Cut
            }
            (None, hope) => {
                self.refusal(ask, hope, answer, visit.nature.pipelines, races);
                Looked::Refused
            }
        }
    }

    /// One target's bytes, in order: all of them, or whole events and one of ours that says why there are no more.
    fn relayed(&self, id: usize, script: &Script, answer: &Answer, is_patient: bool) -> Looked {
        let got = &self.uncommented(id, script, &answer.payload, is_patient);
        let closed_early = script.until_close && matches!(script.breaks, Break::Close { .. });
        let framed = script.breaks == Break::None && !script.malformed;
        if answer.whole
            && *got == script.expect
            && script.is_whole
            && (framed || script.has_last_word || closed_early)
        {
            return Looked::Whole;
        }
        if answer.whole && closed_early && script.is_whole && script.expect.starts_with(got) {
            // Nobody can tell, unless events say so.
            let whole_lines = got.ends_with(b"\n") || got.ends_with(b"\r");
            let boundary = script.form != Form::Events || script.ends.contains(&got.len()) || whole_lines;
            self.that(boundary, || format!("{id}: a torn event at the end of a whole stream"));
            return Looked::Whole;
        }
        let may_look_whole = answer.until_close || !answer.whole;
        self.that(may_look_whole, || {
            format!(
                "{id}: ends well but is not whole: {} of {} bytes, {script:?}",
                got.len(),
                script.expect.len()
            )
        });
        if !is_patient && script.expect.starts_with(got) {
            return Looked::Cut;
        }
        self.that(!script.is_good() || self.world.draining.get() || !is_patient, || {
            format!("{id}: cut for no reason: {:?} of {:?}", text(got), text(&script.expect))
        });
        if script.form != Form::Events {
            let large = script.form == Form::Binary || script.expect.len() > limits::HELD_ANSWER_BYTES_MAX;
            self.that(large && script.expect.starts_with(got), || format!("{id}: a torn body"));
            return Looked::Cut;
        }
        let farewell = rfind(got, br#"data: {"error":{"message":"#);
        let events = farewell.map_or(&got[..], |at| &got[..at]);
        let at_boundary = events.is_empty() || script.ends.contains(&events.len());
        let ours = farewell.map(|at| &got[at..]);
        let no_word = ours.is_none() && script.has_large_event;
        self.that(script.expect.starts_with(events), || format!("{id}: other bytes than the provider's"));
        self.that(at_boundary || no_word, || format!("{id}: cut within an event: {:?}", text(got)));
        let said = ours.is_some_and(|event| event.ends_with(b"\n\n") && is_error(&event[6..event.len() - 2]));
        self.that(said || no_word || !is_patient, || format!("{id}: no last word: {:?}", text(got)));
        Looked::Cut
    }

    /// What a client got, without the comments of ours, each of which stands between two events.
    fn uncommented(&self, id: usize, script: &Script, payload: &[u8], is_patient: bool) -> Vec<u8> {
        let (mut got, mut rest) = (Vec::new(), payload);
        while let Some(at) = memchr::memmem::find(rest, COMMENT) {
            got.extend_from_slice(&rest[..at]);
            rest = &rest[at + COMMENT.len()..];
            self.world.sim.inject(Fault::Commented);
            let is_between = script.form == Form::Events && script.ends.contains(&got.len());
            self.that(is_between, || format!("{id}: a comment within an event: {:?}", text(&got)));
        }
        // Who leaves may have taken the beginning of one.
        let torn = (1..COMMENT.len()).rev().find(|len| !is_patient && rest.ends_with(&COMMENT[..*len]));
        let torn = torn.filter(|_| !script.expect.starts_with(&[&got, rest].concat()));
        got.extend_from_slice(&rest[..rest.len() - torn.unwrap_or(0)]);
        got
    }

    fn refusal(&self, ask: &Ask, hope: &Hope, answer: &Answer, pipelines: bool, races: &mut usize) {
        let id = ask.id;
        self.that(is_error(&answer.payload), || format!("{id}: not an error: {:?}", text(&answer.payload)));
        let code = code(&answer.payload);
        let code = code.as_str();
        if code == "server_is_overloaded" {
            self.world.sim.inject(Fault::BudgetSpent);
        }
        let general = (code == "server_is_overloaded"
            && (pipelines || ask.body.len() > limits::READ_BYTES / 2))
            || (code == "server_shutting_down" && self.world.draining.get());
        let expected = match hope {
            Hope::Own(..) => false,
            Hope::Refusal(codes) => codes.contains(&code),
            Hope::Answer(script) => match code {
                "upstream_interrupted" => {
                    // What may have begun is not begun again where the provider keeps it: not over a stale connection either.
                    matches!(script.breaks, Break::Reset { .. } | Break::Close { .. } | Break::WhileSending)
                        || !script.is_whole
                        || ask.head.starts_with(b"POST /v1/responses ")
                }
                "upstream_malformed" => {
                    script.malformed || races.checked_sub(1).inspect(|left| *races = *left).is_some()
                }
                "upstream_timeout" => matches!(script.breaks, Break::Stall { .. }),
                "upstream_error" | "upstream_auth_failed" | "upstream_redirect" => script.replaced,
                _ => false,
            },
        };
        self.that(general || expected, || {
            format!(
                "{id}: refused with {code} for no reason: {hope:?} {:?} {:?}",
                text(&answer.payload),
                text(&ask.head)
            )
        });
    }

    fn record(&self, ask: &Ask, answer: Option<&Answer>, looked: Looked, visit: &Visit) {
        let (id, Hope::Answer(script)) = (ask.id, &ask.hope) else { return };
        let name = format!("s{id}");
        let of_it: Vec<_> = self.records.iter().filter(|record| record.model_used.as_str() == name).collect();
        self.that(of_it.len() <= 1, || format!("{id}: {} records", of_it.len()));
        let Some(record) = of_it.first() else {
            // A request that was not understood is counted without its model.
            let unknown = matches!(looked, Looked::Refused | Looked::Unanswered) || visit.left.is_some();
            self.that(unknown, || format!("{id}: no record"));
            return;
        };
        let left = !visit.is_patient();
        let (outcome, status) = (record.outcome(), answer.map_or(0, |answer| answer.status));
        let fits = match looked {
            // Only the end of the connection ends its body, and the client did not wait for it.
            Looked::Whole if left && answer.is_some_and(|answer| answer.until_close) => true,
            Looked::Whole if script.says_it_failed => outcome == Outcome::UpstreamLost,
            Looked::Whole => outcome == Outcome::Completed,
            Looked::Cut => {
                left || matches!(outcome, Outcome::UpstreamLost | Outcome::TimedOut(_) | Outcome::Drained)
            }
            Looked::Refused => outcome != Outcome::Completed && outcome != Outcome::ClientGone,
            Looked::Unanswered => left || self.world.draining.get(),
        };
        self.that(fits, || format!("{id}: looked {looked:?} and is recorded as {outcome:?}: {script:?}"));
        let shown = matches!(looked, Looked::Whole | Looked::Refused);
        self.that(!shown || record.status == status, || {
            format!("{id}: recorded with status {}", record.status)
        });
        // Estimates stand for what was not reported, and for nothing else.
        let unknown = record.estimated || record.tokens == Tokens::default();
        let counted = if script.usage == Tokens::default() { unknown } else { record.tokens == script.usage };
        let is_reported = |answer: &Answer| rfind(&answer.payload, b"\"usage\":{").is_some();
        let reported = script.form == Form::Events && answer.is_some_and(is_reported);
        self.that(counted || !reported, || format!("{id}: usage came by and was not recorded"));
        let partial = looked == Looked::Whole && script.until_close && script.breaks != Break::None;
        self.that(counted || (unknown && (looked != Looked::Whole || partial)), || {
            format!("{id}: looked {looked:?}, used {:?}, recorded {:?}", script.usage, record.tokens)
        });
        self.that(record.attempts <= 2, || format!("{id}: {} attempts", record.attempts));
        self.cancelled(id, record, visit);
    }

    /// A client that leaves while its answer is awaited takes the upstream's connection with it at once.
    fn cancelled(&self, id: usize, record: &Closed, visit: &Visit) {
        let (Some(left), Some(sent), Some(ended)) = (visit.left, record.phases.sent, record.phases.ended)
        else {
            return;
        };
        if record.outcome() == Outcome::ClientGone && sent <= left && !visit.nature.pipelines {
            let late = ended.since(left);
            if let Some(unheard) = record.unheard {
                self.unheard(id, record, unheard, late);
                return;
            }
            let is_prompt = late <= Duration::from_millis(100 + 20);
            self.that(is_prompt || visit.nature.reads != Reading::Eager, || {
                format!("{id}: cancelled after {late:?}")
            });
        }
    }

    /// An answer that is read on costs no more than it may, and what it says of its usage is taken.
    fn unheard(&self, id: usize, record: &Closed, unheard: Unheard, late: Duration) {
        let is_wanted = self.world.snapshot.relay.on_disconnect != OnDisconnect::Cancel;
        self.that(is_wanted, || format!("{id}: read on without its client"));
        self.world.sim.inject(match unheard.end {
            UnheardEnd::Whole => Fault::ReadToItsEnd,
            UnheardEnd::Usage => Fault::ReadToItsUsage,
            UnheardEnd::OverBound | UnheardEnd::Lost => Fault::LostUnheard,
        });
        let slack = Duration::from_secs(1) + limits::WRITE_GRACE;
        self.that(late <= limits::UNHEARD_TIME + slack, || format!("{id}: read on for {late:?}"));
        let reported = unheard.end != UnheardEnd::Usage || !record.estimated;
        self.that(reported, || format!("{id}: usage was seen and not recorded"));
    }

    /// Nothing is sent twice, but to a connection that had died before it could answer.
    fn upstreams(&self) {
        for (id, seen) in &*self.world.seen.borrow() {
            let earlier = &seen[..seen.len() - 1];
            let stale = |seen: &Seen| seen.reused && !seen.answered();
            self.that(earlier.iter().all(stale) && earlier.len() <= 1, || {
                format!("{id}: sent {} times", seen.len())
            });
        }
    }

    fn totals(&self) {
        let sheet = self.world.local.sheet.borrow();
        let (begun, counted) = (self.world.begun.get() as u64, sheet.requests.total());
        self.that(begun == counted, || format!("{begun} requests, {counted} counted"));
        self.that(begun == self.records.len() as u64, || {
            format!("{begun} requests, {} records", self.records.len())
        });
        let whole = sheet.whole();
        let broken = whole.outcomes[Outcome::Abandoned.index()] + whole.outcomes[Outcome::Panicked.index()];
        self.that(broken == 0, || format!("{broken} records were left open"));
        let of_records: u64 =
            self.records.iter().flat_map(|record| record.tokens.reported()).map(|(_, n)| n).sum();
        let of_sheet = whole.tokens.iter().chain(&whole.estimated).sum::<u64>();
        self.that(of_sheet == of_records, || format!("{of_sheet} tokens counted of {of_records}"));
        for record in self.records {
            let took = Duration::from_micros(record.duration_us());
            let upload =
                limits::BODY_GRACE + limits::BUFFER_WAIT + Duration::from_secs(record.bytes_in >> 10);
            // The last write may begin just before the exchange's own end.
            let most = limits::HEAD_TIME
                + upload
                + TIMEOUTS.total
                + limits::WRITE_GRACE * 2
                + limits::LINGER_TIME
                + Duration::from_secs(record.bytes_out >> 10);
            self.that(took <= most + Duration::from_secs(1), || {
                format!("an exchange took {took:?}: {record:?}")
            });
        }
    }

    fn resources(&self) {
        let (made, closed) = (self.world.sim.made.get(), self.world.sim.closed.get());
        let pooled = self.world.local.pool.borrow().len();
        self.that(made == closed + pooled, || {
            format!("{made} connections, {closed} closed, {pooled} pooled")
        });
        let used = self.world.local.budget.used();
        self.that(used == 0, || format!("{used} bytes of the budget are gone"));
        let places = self.world.local.unheard.get();
        self.that(places == 0, || format!("{places} places without a client are gone"));
    }
}

fn is_error(json: &[u8]) -> bool {
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(json) else { return false };
    let Some(error) = value["error"].as_object() else { return false };
    let members: Vec<_> = error.keys().map(String::as_str).collect();
    let texts =
        ["message", "type", "code"].iter().all(|name| error.get(*name).is_some_and(|text| text.is_string()));
    texts && members.len() == 4 && error.contains_key("param")
}

fn code(json: &[u8]) -> String {
    let value: serde_json::Value = serde_json::from_slice(json).unwrap_or_default();
    value["error"]["code"].as_str().unwrap_or_default().to_owned()
}

fn rfind(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    memchr::memmem::rfind(bytes, needle)
}

fn text(bytes: &[u8]) -> String {
    let whole = String::from_utf8_lossy(bytes);
    let start = whole.len().saturating_sub(400);
    whole[whole.ceil_char_boundary(start)..].to_owned()
}
