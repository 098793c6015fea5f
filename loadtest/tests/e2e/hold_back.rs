//! The beginning of a stream that is held back: what fails in it goes elsewhere, and it lasts no longer than was said.

use std::time::Duration;

use crate::support::{Ending, Gateway, Provider, chat_with, clock, pair, provider_table};

const HELD: &str = "hold_back = { events = 8, secs = 5 }";

/// A route from a provider that fails early to one that is well, held back as `hold_back` says.
fn start(one: &Provider, two: &Provider, first: &str, hold_back: &str) -> Gateway {
    Gateway::with_tables(one, &pair(two, first, "second,events=4", hold_back))
}

#[test]
fn a_failure_right_behind_the_head_goes_elsewhere() {
    for fault in ["cut=450", "reset=450", "cut=450,gap=20", "reset=450,gap=20", "errorevent,gap=20"] {
        let (one, two) = (Provider::start(), Provider::start());
        let gateway = start(&one, &two, &format!("first,events=8,size=200,{fault}"), HELD);
        let answer = gateway.ask(chat_with("dynamic/r", &[], true)).expect(200);
        assert_eq!((answer.told("provider"), answer.told("attempts")), ("two", "2"), "{fault}");
        assert_eq!(answer.text(), two.events("second,events=4"), "{fault}: one provider's bytes alone");
        assert_eq!(answer.ending, Ending::Whole, "{fault}");
        assert_eq!((one.seen_as("first").len(), two.seen_as("\"second").len()), (1, 2), "{fault}");
    }
}

#[test]
fn without_it_the_same_failure_is_the_client_s() {
    let (one, two) = (Provider::start(), Provider::start());
    let gateway = start(&one, &two, "first,events=8,size=200,cut=450,gap=20", "hold_back = {}");
    let answer = gateway.ask(chat_with("dynamic/r", &[], true)).expect(200);
    assert_eq!((answer.told("provider"), answer.told("attempts")), ("sim", "1"));
    assert!(
        answer.ending != Ending::Whole && answer.text().contains("upstream_interrupted"),
        "{}",
        answer.text()
    );
}

#[test]
fn a_stream_that_goes_well_is_unchanged() {
    let (one, two) = (Provider::start(), Provider::start());
    for script in
        ["whole,events=3", "long,events=40,gap=5", "large,events=3,size=30000", "crlf,events=9,crlf"]
    {
        let gateway = start(&one, &two, script, HELD);
        let answer = gateway.ask(chat_with("dynamic/r", &[], true)).expect(200);
        assert_eq!((answer.told("provider"), answer.ending), ("sim", Ending::Whole), "{script}");
        assert_eq!(answer.text(), one.events(script), "{script}");
    }
}

#[test]
fn a_silent_stream_is_let_go_when_its_time_is_over() {
    let (one, two) = (Provider::start(), Provider::start());
    let gateway = start(
        &one,
        &two,
        "first,events=8,size=200,stall=450",
        "hold_back = { events = 8, secs = 0.3 }\ntimeouts = { between_bytes_secs = 3 }",
    );
    let mut client = gateway.client();
    client.send(chat_with("dynamic/r", &[], true));
    let asked = clock();
    let answer = client.head();
    let (took, after) = (asked.elapsed(), Duration::from_millis(300));
    assert_eq!((answer.status, answer.told("provider")), (200, "sim"));
    assert!(took >= after && took < after * 5, "{took:?}");
}

#[test]
fn a_client_that_leaves_during_it_ends_the_upstream() {
    let (one, two) = (Provider::start(), Provider::start());
    let scripts: String = (0..5)
        .map(|round| {
            format!(
                "[[route]]\nname = \"g{round}\"\nmodel = \"sim/gone-{round}x,events=8,stall=450\"\n\
                 fallbacks = [\"two/second\"]\n{HELD}\n"
            )
        })
        .collect();
    let gateway = Gateway::with_tables(&one, &(scripts + &provider_table("two", two.address)));
    let mut round = 0;
    one.expect_cancelled("gone", |name| {
        let mut client = gateway.client();
        client.send(chat_with(&format!("dynamic/g{round}"), &[], true));
        round += 1;
        one.wait_for(name);
        drop(client);
        Provider::now_ns()
    });
    assert_eq!(two.seen_as("second").len(), 0);
}
