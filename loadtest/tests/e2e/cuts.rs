//! A streamed answer that is lost after any of its bytes, in every way, is never taken for a whole one.
//!
//! The simulated provider ends its response after N bytes, head and framing among them, by FIN, by RST, by silence or by bytes
//! that mean nothing. Each N is a request of its own; `RINGWAY_TEST_CUT_STRIDE` says how many are left out.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use crate::support::{Answer, Client, Ending, Gateway, PATIENCE, Provider, cut_stride, pair, post};

const FAULTS: [&str; 4] = ["wirecut", "wirereset", "wirestall", "wiregarbage"];
/// What is always part of the script. What is reported must not hang on how long the request is.
const SCRIPT: &str = "byuser,events=4,size=290,prompt=9,completion=9";
/// As many requests at once: most wait for a deadline.
const THREADS: usize = 48;

/// Which gateway a fault is tried at. Only silence has to be waited for: elsewhere a deadline would be one that a busy machine let
/// pass, and what it hid of the answer could not be told from what the gateway lost. No breaker: what fails must be asked again
/// and again.
struct Gateways {
    patient: Gateway,
    impatient: Gateway,
}

impl Gateways {
    fn with(provider: &Provider, tables: &str) -> Self {
        let of = |secs: &str| {
            let deadlines = format!("[timeouts]\nfirst_byte_secs = {secs}\nbetween_bytes_secs = {secs}\n");
            Gateway::with_tables(provider, &format!("{deadlines}[breaker]\nenabled = false\n{tables}"))
        };
        Self { patient: of("60"), impatient: of("1.5") }
    }

    fn at(&self, fault: &str) -> SocketAddr {
        if fault == "wirestall" { self.impatient.address } else { self.patient.address }
    }
}

/// A chat stream whose usage the client asks for itself, so that the gateway leaves every byte as it is.
fn ask(model: &str, user: &str) -> String {
    let body = format!(
        r#"{{"model":"{model}","messages":[{{"role":"user","content":"Say hello."}}],"stream":true,"stream_options":{{"include_usage":true}},"user":"{user}"}}"#
    );
    post("/v1/chat/completions", &body)
}

/// A response as the provider writes it.
struct Reference {
    /// Bytes, framing and all.
    bytes: usize,
    payload: String,
    /// Where events end in the payload, and in the response.
    ends: Vec<(usize, usize)>,
    /// Of these the event that tells why the model stopped.
    finish: usize,
}

impl Reference {
    /// Reads a whole response by hand, so that nothing is known of it but its bytes.
    fn of(provider: SocketAddr, script: &str) -> Self {
        let mut connection = TcpStream::connect(provider).expect("the provider listens");
        connection.set_read_timeout(Some(PATIENCE)).expect("a socket takes a time-out");
        // Far behind the end: nothing is cut, and the connection closes.
        connection.write_all(ask(script, "wirecut=9999").as_bytes()).expect("it is read");
        let mut wire = Vec::new();
        connection.read_to_end(&mut wire).expect("an orderly end");
        let head = find(&wire, b"\r\n\r\n").expect("a head") + 4;
        let chunked = find(&wire[..head], b"chunked").is_some();
        let (mut payload, mut places, mut at) = (Vec::new(), Vec::new(), head);
        while at < wire.len() {
            let size = match find(&wire[at..], b"\r\n").filter(|_| chunked) {
                Some(line) => {
                    let hex = std::str::from_utf8(&wire[at..at + line]).expect("a chunk's size is text");
                    at += line + 2;
                    usize::from_str_radix(hex, 16).expect("a chunk's size is a number")
                }
                None => wire.len() - at,
            };
            payload.extend_from_slice(&wire[at..at + size]);
            places.extend(at + 1..=at + size);
            at += size + if chunked { 2 } else { 0 };
        }
        let payload = String::from_utf8(payload).expect("events are text");
        let ends: Vec<_> = payload.match_indices("\n\n").map(|(at, _)| (at + 2, places[at + 1])).collect();
        let finish = payload.split_inclusive("\n\n").position(|event| event.contains("\"stop\""));
        Self { bytes: wire.len(), payload, ends, finish: finish.expect("it says why it stopped") }
    }

    /// The whole events among the first `at` bytes of the response.
    fn whole_events(&self, at: usize) -> &str {
        let end = self.ends.iter().take_while(|(_, wire)| *wire <= at).last();
        &self.payload[..end.map_or(0, |(payload, _)| *payload)]
    }

    /// What is wrong with an answer to a request whose response was cut after `at` bytes; else how it ended.
    fn judge(&self, fault: &str, at: usize, answer: &Answer) -> Result<&'static str, String> {
        let (finish, last) = (self.ends[self.finish], self.ends[self.ends.len() - 1]);
        let mangled = fault == "wiregarbage";
        if answer.status != 200 {
            let code = answer.refusal(answer.status);
            if !is_due(fault, &code)
                || !(502..=504).contains(&answer.status)
                || answer.ending != Ending::Whole
            {
                return Err(format!("refused with {} {code}", answer.status));
            }
            // What reads together with an event may be looked at before the event has left.
            if at >= self.ends[0].1 && !mangled {
                return Err(format!("refused with {code}, and an event had come"));
            }
            return Ok("refused");
        }
        let body = answer.text();
        if answer.ending == Ending::Whole {
            // Bytes that mean nothing may bring the blank line that the last event wanted.
            let complete = body.starts_with(&self.payload[..finish.0]) && (at >= finish.1 || mangled);
            return if complete { Ok("complete") } else { Err("taken for whole".to_owned()) };
        }
        if answer.ending == Ending::Reset {
            return Err("reset".to_owned());
        }
        if at >= last.1 {
            return Err("cut, and [DONE] had come".to_owned());
        }
        let Some((before, farewell)) = body.rfind("data: {\"error\":").map(|at| body.split_at(at)) else {
            return Err("no error event".to_owned());
        };
        let error: serde_json::Value = farewell
            .strip_prefix("data: ")
            .and_then(|rest| serde_json::from_str(rest.strip_suffix("\n\n")?).ok())
            .unwrap_or_default();
        let code = error["error"]["code"].as_str().unwrap_or("");
        if !is_due(fault, code) {
            return Err(format!("the error event is {farewell:?}"));
        }
        if body.contains("[DONE]") {
            return Err("[DONE] after a loss".to_owned());
        }
        let due = self.whole_events(at);
        // What it put in the place of an event may look like one.
        let right = before == due || mangled && (before.starts_with(due) || due.starts_with(before));
        if right { Ok("cut") } else { Err(format!("{:?} before the error event", tail(before))) }
    }
}

/// Whether a fault is told by this code: silence by a deadline, and nothing else by one.
fn is_due(fault: &str, code: &str) -> bool {
    match fault {
        "wirestall" => code == "upstream_timeout",
        _ => ["upstream_interrupted", "upstream_malformed"].contains(&code),
    }
}

fn tail(text: &str) -> String {
    text.chars().rev().take(120).collect::<Vec<_>>().into_iter().rev().collect()
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// Cuts after each of these bytes in every way, and lets `judge` look at what comes of it.
fn cut_everywhere(
    bytes: std::ops::RangeInclusive<usize>,
    gateways: &Gateways,
    model: &str,
    judge: impl Fn(&str, usize, &Answer) -> Result<&'static str, String> + Sync,
) {
    let stride = cut_stride();
    // Each fault begins elsewhere, so that together they leave out less.
    let all = FAULTS.iter().enumerate().flat_map(|(number, fault)| {
        bytes
            .clone()
            .skip(number * 3 % stride)
            .step_by(stride)
            .map(move |at| (*fault, at, gateways.at(fault)))
    });
    let all: Vec<_> = all.collect();
    let (next, wrong, ways) = (AtomicUsize::new(0), Mutex::new(Vec::new()), Mutex::new(BTreeMap::new()));
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some((fault, at, gateway)) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let answer = Client::connect(*gateway).ask(ask(model, &format!("{fault}={at:04}")));
                    match judge(fault, *at, &answer) {
                        Ok(way) => *held(&ways).entry(way).or_insert(0) += 1,
                        Err(what) => held(&wrong).push(format!("{fault}={at}: {what}")),
                    }
                }
            });
        }
    });
    let (wrong, of_all) = (held(&wrong), FAULTS.len() * bytes.count());
    println!("{} cuts of {of_all} (CI every 19th byte, full every byte): {:?}", all.len(), held(&ways));
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), all.len(), wrong.join("\n"));
}

fn held<T>(lock: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The stream in one framing.
#[track_caller]
fn check(framing: &str) {
    let provider = Provider::start();
    let gateways = Gateways::with(&provider, "");
    let script = format!("cut,{SCRIPT}{framing}");
    let reference = Reference::of(provider.address, &script);
    assert!((1_000..9_999).contains(&reference.bytes), "{} bytes", reference.bytes);
    cut_everywhere(0..=reference.bytes, &gateways, &format!("sim/{script}"), |fault, at, answer| {
        reference.judge(fault, at, answer)
    });
}

#[test]
fn a_chunk_for_each_event() {
    check("");
}

#[test]
fn each_event_by_itself() {
    check(",gap=2");
}

#[test]
fn events_torn_by_chunks() {
    check(",chunk=37");
}

#[test]
fn a_length_in_the_head() {
    check(",lengthbody");
}

#[test]
fn an_end_by_closing() {
    check(",untilclose");
}

#[test]
fn before_the_first_whole_event_the_second_target_serves_and_after_it_nobody() {
    let (one, two) = (Provider::start(), Provider::start());
    let (bad, good) = (format!("bad,{SCRIPT}"), "good,events=4,size=290,prompt=9,completion=9".to_owned());
    let gateways = Gateways::with(&one, &pair(&two, &bad, &good, ""));
    let reference = Reference::of(one.address, &bad);
    let second = two.ask(ask(&good, "")).text();
    assert_ne!(second, reference.payload);
    let first_event = reference.ends[0].1;
    cut_everywhere(0..=first_event + 40, &gateways, "dynamic/r", |fault, at, answer| {
        let by = (answer.told("provider"), answer.told("attempts"));
        // A connection that dies before a byte came is worth a second try.
        let moved = by.0 == "two" && (by.1 == "2" || at == 0 && by.1 == "3");
        match reference.judge(fault, at, answer) {
            Err(_) if moved && (at < first_event || fault == "wiregarbage") => {
                let is_second =
                    answer.status == 200 && answer.ending == Ending::Whole && answer.text() == second;
                if is_second {
                    Ok("moved")
                } else {
                    Err(format!("not the second's answer: {}", answer.text()))
                }
            }
            Ok("cut") if at >= first_event && by == ("sim", "1") => Ok("cut"),
            other => Err(format!("{by:?} {other:?}: {}", tail(&answer.text()))),
        }
    });
}
