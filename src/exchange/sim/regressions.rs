//! What the simulation found once, told without chance: one client, one provider, and what each does when.

use std::{cell::RefCell, rc::Rc, time::Duration};

use super::{
    answer::{Answer, Reader},
    check,
    client::serve,
    peer::Got,
    upstream::{Cue, perform},
    wire::Side,
    world::{Sim, SimWorld},
};
use crate::{
    base::now::Now,
    ledger::{
        logged::Logged,
        record::{Closed, Outcome},
    },
};

/// What came of it.
pub(super) struct Met {
    pub(super) got: String,
    /// When its first byte had come.
    pub(super) first_after: Option<Duration>,
    /// Between its beginning and what came last, the longest in which nothing came.
    pub(super) silent_at_most: Duration,
    /// When the gateway ended the client's connection, after how much time.
    ended_after: Option<Duration>,
    was_reset: bool,
    pub(super) records: Vec<Closed>,
    pub(super) lines: Vec<Logged>,
    begun: usize,
    /// Connections that the pool held at the end.
    pub(super) pooled: usize,
    pub(super) keep_alives: u64,
}

#[derive(Default)]
struct Seen {
    got: Vec<u8>,
    first: Option<Now>,
    last: Option<Now>,
    silent_at_most: Duration,
    ended: Option<Now>,
    was_reset: bool,
}

/// Lets a client and a provider meet. What either does is what must happen whatever the delays, so many are tried.
fn meet(client: &[Cue], provider: &[Cue], expect: impl Fn(&Met)) {
    for seed in 0..48 {
        expect(&meet_once(seed, client.to_vec(), provider.to_vec()));
    }
}

fn meet_once(seed: u64, client: Vec<Cue>, provider: Vec<Cue>) -> Met {
    meet_under("", seed, client, vec![provider])
}

/// The same under a configuration that says more. Providers play a scene for each connection, the last for all that follow.
pub(super) fn meet_under(settings: &str, seed: u64, client: Vec<Cue>, mut scenes: Vec<Vec<Cue>>) -> Met {
    let world = SimWorld::under(&Sim::new(seed), settings);
    *world.scene.borrow_mut() = scenes.pop().unwrap_or_default();
    world.openings.borrow_mut().extend(scenes);
    meet_in(&world, client)
}

/// Lets a client come into this world. Whatever it does, nothing that was taken for it stays taken.
pub(super) fn meet_in(world: &Rc<SimWorld>, client: Vec<Cue>) -> Met {
    check::take_records();
    let sim = world.sim.clone();
    let (wire, peer) = world.connect(Side::Client, 64 << 10);
    sim.executor.spawn("gateway", serve(world.clone(), wire));
    let began = sim.now();
    let seen: Rc<RefCell<Seen>> = Rc::default();
    {
        let peer = peer.clone();
        sim.executor.spawn("client speaks", async move { perform(&peer, client).await });
    }
    {
        let (seen, sim) = (seen.clone(), sim.clone());
        sim.clone().executor.spawn("client listens", async move {
            loop {
                let got = peer.receive(usize::MAX).await;
                let mut seen = seen.borrow_mut();
                match got {
                    Got::Bytes(bytes) => {
                        seen.first.get_or_insert_with(|| sim.now());
                        let before = seen.last.replace(sim.now()).unwrap_or(began);
                        let silent = sim.now().since(before);
                        seen.silent_at_most = seen.silent_at_most.max(silent);
                        seen.got.extend_from_slice(&bytes);
                    }
                    Got::Fin => break seen.ended = Some(sim.now()),
                    Got::Reset => break (seen.ended, seen.was_reset) = (Some(sim.now()), true),
                }
            }
            peer.fin();
        });
    }
    sim.executor.run().unwrap();
    let pooled = world.local.pool.borrow().len();
    let keep_alives = world.local.sheet.borrow().keep_alives;
    world.local.pool.borrow_mut().clear();
    sim.executor.run().unwrap();
    sim.check(world.quota.is_quiet(), || "a place in a limit was never left".to_owned());
    sim.check(world.health.is_quiet(), || "an attempt was begun and never ended".to_owned());
    sim.check(sim.made.get() == sim.closed.get(), || "a connection was never closed".to_owned());
    let waiting = sim.executor.waiting();
    sim.check(waiting.is_empty(), || format!("these wait for ever: {waiting:?}"));
    sim.over.set(true);
    assert_eq!(sim.violations.take(), [""; 0]);
    let Seen { got, first, ended, was_reset, silent_at_most, .. } = seen.take();
    Met {
        got: String::from_utf8_lossy(&got).into_owned(),
        silent_at_most,
        first_after: first.map(|first| first.since(began)),
        ended_after: ended.map(|ended| ended.since(began)),
        was_reset,
        records: check::take_records(),
        lines: world.lines.take(),
        begun: world.begun.get(),
        pooled,
        keep_alives,
    }
}

impl Met {
    pub(super) fn answers(&self) -> Vec<Answer> {
        let (mut reader, mut rest, mut answers) = (Reader::default(), self.got.as_bytes(), Vec::new());
        while !rest.is_empty() {
            let (taken, answer) = reader.feed(rest, false).unwrap();
            rest = &rest[taken..];
            answers.extend(answer);
        }
        answers.extend(reader.close());
        answers
    }
}

pub(super) fn text(answer: &Answer) -> &str {
    std::str::from_utf8(&answer.payload).unwrap()
}

pub(super) fn say(after_ms: u64, text: &str) -> Cue {
    Cue::Say(after_ms, text.as_bytes().to_vec())
}

/// A chat request with these members and, in its head, these fields.
pub(super) fn chat(version: &str, fields: &str, members: &str) -> Cue {
    let body = format!(r#"{{"model":"plain/s0"{members}}}"#);
    let length = body.len();
    let head =
        format!("POST /v1/chat/completions HTTP/{version}\r\nhost: x\r\ncontent-type: application/json\r\n");
    say(0, &format!("{head}content-length: {length}\r\n{fields}\r\n{body}"))
}

pub(super) const STREAM: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n";
pub(super) const WORD: &str =
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"},\"finish_reason\":null}]}\n\n";
pub(super) const STOP: &str =
    "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";

#[test]
fn a_plain_exchange_is_whole_and_recorded_once() {
    let answer = format!("{STREAM}transfer-encoding: chunked\r\n\r\n");
    let chunk = |event: &str| format!("{:x}\r\n{event}\r\n", event.len());
    let events = [chunk(WORD), chunk(STOP), chunk("data: [DONE]\n\n"), "0\r\n\r\n".to_owned()];
    let provider = [say(0, &answer), say(5, &events[0]), say(5, &events[1..].concat())];
    meet(&[chat("1.1", "", r#","stream":true"#)], &provider, |met| {
        let answer = &met.answers()[0];
        assert!(answer.whole);
        assert_eq!(text(answer), format!("{WORD}{STOP}data: [DONE]\n\n"));
        assert_eq!((met.records.len(), met.begun), (1, 1));
        assert_eq!(met.records[0].outcome(), Outcome::Completed);
        assert!(
            !met.was_reset && met.ended_after > Some(Duration::from_secs(70)),
            "it stayed until it was idle"
        );
    });
}

#[test]
fn a_client_is_not_held_to_its_head_s_deadline_while_it_waits_for_the_answer() {
    let provider =
        [say(30_000, "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}")];
    meet(&[chat("1.1", "", "")], &provider, |met| {
        assert_eq!(met.answers().first().map(|answer| answer.status), Some(200), "{}", met.got);
        assert_eq!(met.records[0].outcome(), Outcome::Completed);
    });
}

#[test]
fn an_answer_to_http_1_0_that_only_its_end_can_end_takes_the_connection_with_it() {
    let answer = format!("{STREAM}transfer-encoding: chunked\r\n\r\n");
    let chunk = |event: &str| format!("{:x}\r\n{event}\r\n", event.len());
    let provider = [say(0, &answer), say(5, &chunk(WORD)), say(5, &chunk(STOP)), say(0, "0\r\n\r\n")];
    meet(&[chat("1.0", "connection: keep-alive\r\n", r#","stream":true"#)], &provider, |met| {
        assert!(met.answers()[0].closes());
        assert_eq!(text(&met.answers()[0]), format!("{WORD}{STOP}"));
        assert!(met.ended_after < Some(Duration::from_secs(1)), "ended after {:?}", met.ended_after);
    });
}

#[test]
fn an_answer_to_options_is_not_lost_to_a_reset() {
    let options = "OPTIONS /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let client = [say(0, &format!("{options}{}", "GET / HTTP/1.1\r\n".repeat(200))), say(50, "more")];
    meet(&client, &[Cue::Fin], |met| {
        assert_eq!(met.answers().first().map(|answer| answer.status), Some(204), "{}", met.got);
        assert!(!met.was_reset);
    });
}

#[test]
fn a_connection_that_brings_no_request_leaves_no_record() {
    for client in [[Cue::Fin], [Cue::Reset]] {
        meet(&client, &[Cue::Fin], |met| assert_eq!((met.begun, met.records.len()), (0, 0)));
    }
}

#[test]
fn a_slow_body_s_refusal_is_not_lost_to_a_reset() {
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n";
    let mut client = vec![say(0, &format!("{head}content-length: 900\r\n\r\n{{")), say(4_900, "a")];
    client.extend((0..60).map(|_| say(5, "a")));
    meet(&client, &[Cue::Fin], |met| {
        assert_eq!(met.answers().first().map(|answer| answer.status), Some(408), "{}", met.got);
        assert!(!met.was_reset);
    });
}

#[test]
fn usage_that_was_reported_before_a_loss_is_recorded() {
    let usage = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":5}}\n\n";
    let answer = format!("{STREAM}content-length: 9000\r\n\r\n{WORD}{STOP}{usage}");
    let asks = r#","stream":true,"stream_options":{"include_usage":true}"#;
    meet(&[chat("1.1", "", asks)], &[say(0, &answer), Cue::Fin], |met| {
        assert_eq!(met.records[0].outcome(), Outcome::UpstreamLost);
        assert_eq!((met.records[0].tokens.prompt, met.records[0].tokens.completion), (Some(7), Some(5)));
    });
}

#[test]
fn half_an_event_in_front_of_an_early_end_is_not_forwarded() {
    let half = &WORD[..WORD.len() / 2];
    let until_close = format!("{STREAM}connection: close\r\n\r\n{WORD}{half}");
    let line = format!("{STREAM}connection: close\r\n\r\n{WORD}{}", WORD.trim_end_matches('\n'));
    for answer in [until_close, line.clone() + "\n", line] {
        meet(&[chat("1.1", "", r#","stream":true"#)], &[say(0, &answer), Cue::Fin], |met| {
            let answer = &met.answers()[0];
            let rest = text(answer).strip_prefix(WORD).unwrap_or("something else");
            assert!(!answer.whole && rest.starts_with("data: {\"error\":"), "{}", text(answer));
        });
    }
}

#[test]
fn a_last_event_that_lost_its_blank_line_to_a_close_does_not_make_an_answer_whole() {
    let answer = format!("{STREAM}connection: close\r\n\r\n{WORD}{}", STOP.strip_suffix('\n').unwrap());
    meet(&[chat("1.1", "", r#","stream":true"#)], &[say(0, &answer), Cue::Fin], |met| {
        let answer = &met.answers()[0];
        let rest = text(answer).strip_prefix(WORD).unwrap_or("something else");
        assert!(!answer.whole && rest.starts_with("data: {\"error\":"), "{}", text(answer));
    });
}

#[test]
fn a_last_word_without_its_blank_line_is_forwarded() {
    for last in ["data: [DONE]", "data: [DONE]\n", "data: [DONE]\r\r", "data: [DONE]\r"] {
        let answer = format!("{STREAM}connection: close\r\n\r\n{WORD}{last}");
        meet(&[chat("1.1", "", r#","stream":true"#)], &[say(0, &answer), Cue::Fin], |met| {
            assert!(met.answers()[0].whole, "{last:?}: {}", met.got);
            assert_eq!(text(&met.answers()[0]), format!("{WORD}{last}"));
        });
    }
}
