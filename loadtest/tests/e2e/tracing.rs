//! What is told of where time goes (`Server-Timing`), and what becomes of a client's trace where none is exported. That
//! which is exported is decoded by the suite `otlp` of the SDK tests.

use std::collections::HashMap;

use crate::support::{Answer, Gateway, Provider, Setup, chat_with, model, pair};

const PARENT: &str = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const ASKS: &str = "x-ringway-server-timing: 1";

fn telling(said: &str) -> Setup {
    Setup { server: format!("server_timing = \"{said}\""), ..Setup::default() }
}

/// Each metric with its milliseconds.
fn timing(answer: &Answer) -> HashMap<String, f64> {
    let value = answer.header("server-timing").expect("it was asked for");
    let one = |metric: &str| {
        let (name, ms) = metric.split_once(";dur=").expect(value);
        assert_eq!(ms.split_once('.').map(|(_, tenths)| tenths.len()), Some(1), "{value}");
        (name.to_owned(), ms.parse().expect(value))
    };
    value.split(", ").map(one).collect()
}

/// What is left of the whole once everything before the request was sent is taken away, in milliseconds. No more is known
/// of a wait to the last one: the provider may have the request, and begin its own wait, before the gateway runs again and
/// learns that it is sent. (Each of the seven figures is rounded to a tenth.)
fn waiting(told: &HashMap<String, f64>) -> f64 {
    let before = ["auth", "body", "parse", "route", "queue", "connect"];
    told["total"] - before.iter().map(|phase| told[*phase]).sum::<f64>()
}

#[test]
fn where_time_went_is_told_to_who_may_know_and_asks() {
    let provider = Provider::start();
    let gateway = Gateway::with(&provider, &telling("asked"));
    let slow = model("sim,ttft=60");
    let told = timing(&gateway.ask(chat_with(&slow, &[ASKS], false)).expect(200));
    for name in ["auth", "body", "parse", "route", "queue", "connect", "first_byte", "total"] {
        assert!(told.contains_key(name), "{name} is missing: {told:?}");
    }
    assert!(waiting(&told) >= 59.5 && told["total"] >= told["first_byte"], "{told:?}");
    assert!(told["auth"] < 60.0 && told["parse"] < 60.0 && told["route"] < 60.0, "{told:?}");
    // The head of a stream leaves with its first event, which tells of a role and has no token yet.
    let stream = timing(&gateway.ask(chat_with(&slow, &[ASKS], true)).expect(200));
    assert!(waiting(&stream) >= 59.5, "{stream:?}");
    assert!(stream.get("first_token").is_none_or(|ms| *ms >= stream["first_byte"]), "{stream:?}");
    let refused = timing(&gateway.ask(chat_with("nowhere/x", &[ASKS], false)).expect(404));
    assert!(refused.contains_key("parse") && !refused.contains_key("connect"), "{refused:?}");
    let models = gateway.ask(format!("GET /v1/models HTTP/1.1\r\nHost: g\r\n{ASKS}\r\n\r\n")).expect(200);
    assert!(timing(&models).contains_key("auth"));
    for asks in [&[][..], &["x-ringway-server-timing: yes"]] {
        let answer = gateway.ask(chat_with(&slow, asks, false)).expect(200);
        assert_eq!(answer.header("server-timing"), None);
    }
}

#[test]
fn attempts_before_the_last_one_are_time_in_the_queue() {
    let (one, two) = (Provider::start(), Provider::start());
    let setup = Setup { provider: pair(&two, "sim,ttft=50,status=500", "sim", ""), ..telling("always") };
    let answer = Gateway::with(&one, &setup).ask(chat_with("dynamic/r", &[], false)).expect(200);
    assert_eq!(answer.header("x-ringway-attempts"), Some("2"));
    let told = timing(&answer);
    assert!(told["queue"] >= 50.0 && told["first_byte"] < 50.0, "{told:?}");
}

#[test]
fn nobody_is_told_unless_it_is_switched_on() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider);
    let answer = gateway.ask(chat_with(&model("sim"), &[ASKS], false)).expect(200);
    assert_eq!(answer.header("server-timing"), None);
}

#[test]
fn a_trace_that_we_take_no_part_in_is_passed_on_as_it_came() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider);
    let headers = [PARENT, "tracestate: a=1", "tracestate: b=2"];
    gateway.ask(chat_with(&model("passed-on"), &headers, false)).expect(200);
    let seen = provider.only("passed-on");
    assert_eq!(seen.headers("traceparent"), [PARENT.split_once(": ").expect("a header").1]);
    assert_eq!(seen.headers("tracestate"), ["a=1", "b=2"]);
    gateway.ask(chat_with(&model("none"), &[], false)).expect(200);
    assert_eq!(provider.only("none").headers("traceparent"), [""; 0]);
    gateway.ask(chat_with(&model("unread"), &["traceparent: what it is"], false)).expect(200);
    assert_eq!(provider.only("unread").headers("traceparent"), ["what it is"]);
}
