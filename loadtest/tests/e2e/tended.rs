//! What becomes of an upstream's answer whose client leaves, and of a client whose upstream is silent.

use std::time::{Duration, Instant};

use crate::{
    failover::black_hole,
    support::{
        Client, Ending, Gateway, Provider, State, chat, chat_body, chat_with, clock, model, pair,
        provider_table, until,
    },
};

const COMMENT: &str = ": keep-alive\n\n";

/// The longest that a stream's client is left without a byte, where it asks for a comment after 0.2 s: the machine may be busy.
const SILENT_MAX: Duration = Duration::from_millis(900);

/// Reads a stream chunk by chunk as long as it lasts; its text, and the longest time in which nothing came.
fn listen(client: &mut Client, asked: Instant) -> (String, Duration) {
    let (mut text, mut last, mut silent) = (Vec::new(), asked, Duration::ZERO);
    while !text.ends_with(b"data: [DONE]\n\n") {
        text.extend(client.some_chunks(1));
        silent = silent.max(last.elapsed());
        last = clock();
    }
    (String::from_utf8(text).expect("events are text"), silent)
}

#[test]
fn a_stream_that_may_begin_early_has_comments_while_it_is_connected_for_and_between_attempts() {
    let (one, two) = (Provider::start(), Provider::start());
    let terms = "keep_alive_secs = 0.2\nkeep_alive_commits = true\nattempts_max = 2";
    let (hole, _kept) = black_hole();
    let hole = hole.local_addr().ok().and_then(|address| address.as_socket()).expect("an address");
    let route = format!("[timeouts]\nconnect_secs = 1\n{}", pair(&two, "unused", "good,events=3", terms));
    let connects = route.replace("sim/unused", "hole/m") + &provider_table("hole", hole);
    // The provider is busy, and says for how long; then it thinks.
    let waits = pair(&two, "busy,ttft=900,429=1,times=1", "good,events=3", terms);
    for (tables, told) in [
        (connects, ": x-ringway-provider=two x-ringway-model=good,events=3 x-ringway-attempts=2\n\n"),
        (
            waits,
            ": x-ringway-provider=sim x-ringway-model=busy,ttft=900,429=1,times=1 x-ringway-attempts=2\n\n",
        ),
    ] {
        let gateway = Gateway::with_tables(&one, &tables);
        let mut client = gateway.client();
        let asked = clock();
        client.send(chat_with("dynamic/r", &[], true));
        assert_eq!(client.head().status, 200);
        let (text, silent) = listen(&mut client, asked);
        assert!(silent < SILENT_MAX, "silent for {silent:?}: {text}");
        let comments = text.matches(COMMENT).count();
        assert!(comments >= 4 && text.starts_with(&COMMENT.repeat(comments)), "{text}");
        assert!(text[comments * COMMENT.len()..].starts_with(told), "{text}");
    }
}

/// A streamed chat of a caller, of which it takes something; then it leaves.
fn leaves_in_mid_answer(gateway: &Gateway, script: &str, token: &str) {
    let mut client = gateway.client();
    let bearer = format!("Authorization: Bearer {token}");
    client.send(chat_with(&model(script), &[&bearer], true));
    assert_eq!(client.head().status, 200, "{script}");
    assert!(!client.some_chunks(1).is_empty());
}

fn outcome_of(provider: &Provider, name: &str) -> String {
    until(&format!("{name} has ended"), || {
        let seen = provider.seen_as(name).pop()?;
        seen.0["outcome"].as_str().filter(|outcome| *outcome != "open").map(str::to_owned)
    })
}

#[test]
fn each_caller_has_its_own_choice_of_what_becomes_of_an_answer_it_leaves() {
    let (provider, state) = (Provider::start(), State::new());
    let usual = state.create("usual", &[]);
    let drains = state.create("drains", &["--on-disconnect", "drain"]);
    let counts = state.create("counts", &["--on-disconnect", "drain_until_usage"]);
    let shown = state.callers(&["show", "drains"]);
    assert!(shown.lines().any(|line| line.split_whitespace().eq(["on_disconnect", "drain"])), "{shown}");
    let gateway = Gateway::with(&provider, &state.setup(""));
    let unheard = |end: &str| gateway.total("rw_upstream_unheard_total", &format!("\"{end}\""));
    let reported = || gateway.total("rw_tokens_total", "source=\"reported\"");

    leaves_in_mid_answer(&gateway, "drained,events=8,gap=150,prompt=1000,completion=7", &drains);
    until("it was read to its end", || (unheard("whole") == 1.0).then_some(()));
    assert_ne!(outcome_of(&provider, "drained"), "aborted");
    until("its tokens are counted", || (reported() == 1_007.0).then_some(()));
    until("the client is said to have left", || {
        (gateway.total("rw_outcomes_total", "client_gone") == 1.0).then_some(())
    });
    assert_eq!(gateway.total("rw_upstream_cancelled_total", ""), 0.0);
    // Its connection serves another.
    let bearer = format!("Authorization: Bearer {drains}");
    gateway.ask(chat_with(&model("next"), &[&bearer], false)).expect(200);
    until("its connection is used again", || {
        (gateway.total("rw_upstream_connections_total", "reused") == 1.0).then_some(())
    });

    // What each event says of it is enough, long before the end.
    leaves_in_mid_answer(&gateway, "counted,events=1000,gap=100,usageall", &counts);
    until("it was read until its usage", || (unheard("usage") == 1.0).then_some(()));

    leaves_in_mid_answer(&gateway, "usual,events=1000,gap=100", &usual);
    assert_eq!(outcome_of(&provider, "\"usual,"), "aborted");
    assert_eq!(unheard("whole") + unheard("usage") + unheard("lost") + unheard("over_bound"), 2.0);
}

#[test]
fn the_gateways_default_holds_for_who_has_no_choice_and_for_answers_that_are_held() {
    let provider = Provider::start();
    let gateway = Gateway::with_tables(&provider, "[relay]\non_disconnect = \"drain\"\n");
    let unheard = || gateway.total("rw_upstream_unheard_total", "\"whole\"");
    let mut client = gateway.client();
    client.send(chat("reset,events=8,gap=150", true));
    client.head();
    client.some_chunks(1);
    // What comes after this is answered with a reset: the next write finds out, and not the watch.
    drop(client);
    until("it was read to its end", || (unheard() == 1.0).then_some(()));

    // Half of a JSON answer has come, and none of it has left.
    let mut client = gateway.client();
    client.send(chat("held,size=9000,split=5000,pause=6000", false));
    provider.wait_for("held");
    until("its head has come", || (gateway.total("rw_attempts_total", "answered") == 2.0).then_some(()));
    drop(client);
    until("it was read to its end", || (unheard() == 2.0).then_some(()));
    assert_ne!(outcome_of(&provider, "held"), "aborted");

    // Nothing has come yet: an answer that is still thought about is charged for as well.
    let mut client = gateway.client();
    client.send(chat("thinks,ttft=1500", false));
    provider.wait_for("thinks");
    drop(client);
    until("it was read to its end", || (unheard() == 3.0).then_some(()));
    assert_ne!(outcome_of(&provider, "thinks"), "aborted");
}

#[test]
fn a_silent_stream_is_kept_alive_between_its_events() {
    let provider = Provider::start();
    let gateway = Gateway::with_tables(&provider, "[relay]\nkeep_alive_secs = 0.2\n");
    for script in ["sim,events=3,gap=900", "sim,events=3,gap=900,crlf", "sim,events=3,gap=900,size=70000"] {
        let answer = gateway.stream(script).expect(200);
        let text = answer.text();
        assert_eq!(answer.ending, Ending::Whole, "{script}");
        assert!(text.matches(COMMENT).count() >= 4, "{script}: {text}");
        assert_eq!(text.replace(COMMENT, ""), provider.events(script), "{script}");
        assert!(text.starts_with("data: "), "nothing is said before the first event");
    }
    until("they are counted", || (gateway.total("rw_keep_alive_comments_total", "") >= 12.0).then_some(()));
    // A slow reader is no silent stream, and one answer is no stream at all.
    let whole = gateway.chat("sim,ttft=900").expect(200);
    assert!(!whole.text().contains(COMMENT));
    let before_the_first = gateway.stream("sim,ttft=900,head,events=2").expect(200);
    assert!(!before_the_first.text().contains(COMMENT));
}

#[test]
fn what_is_nearer_decides_whether_there_are_comments() {
    let (provider, two) = (Provider::start(), Provider::start());
    let route = format!(
        "keep_alive_secs = 0\n[relay]\nkeep_alive_secs = 0.2\n[[route]]\nname = \"loud\"\nmodel = \"sim/sim,events=2,gap=700\"\n\
         keep_alive_secs = 0.2\n{}",
        provider_table("two", two.address)
    );
    let gateway = Gateway::with_tables(&provider, &route);
    let comments =
        |model: &str| gateway.ask(chat_with(model, &[], true)).expect(200).text().contains(COMMENT);
    assert!(comments("two/sim,events=2,gap=700"), "the gateway's");
    assert!(!comments("sim/sim,events=2,gap=700"), "the provider's own: none");
    assert!(comments("dynamic/loud"), "the route's own");
}

#[test]
fn a_route_may_begin_a_stream_before_anybody_answers_and_still_move_on() {
    let (one, two) = (Provider::start(), Provider::start());
    let commits = "keep_alive_secs = 0.2\nkeep_alive_commits = true\nattempts_max = 2";
    for bad in ["bad,ttft=900,status=503", "bad,ttft=900,headcut=9", "bad,ttft=900,cut=0"] {
        let gateway = Gateway::with_tables(&one, &pair(&two, bad, "good,events=3", commits));
        let mut client = gateway.client();
        let answer = client.ask(chat_with("dynamic/r", &[], true)).expect(200);
        let text = answer.text();
        assert!(text.starts_with(COMMENT), "{bad}: {text}");
        assert_eq!((answer.ending, answer.told("route")), (Ending::Whole, "r"), "{bad}");
        let told = ["provider", "model", "attempts"].map(|name| answer.told(name));
        assert_eq!(told, ["-"; 3], "nobody had answered yet");
        let late = ": x-ringway-provider=two x-ringway-model=good,events=3 x-ringway-attempts=2\n\n";
        assert_eq!(text.replace(COMMENT, ""), format!("{late}{}", two.events("good,events=3")), "{bad}");
        // Its connection is as good as any.
        client.ask(chat("again", false)).expect(200);
    }
    // Where all fail there is no status left to say it with.
    let gateway =
        Gateway::with_tables(&one, &pair(&two, "bad,ttft=900,status=503", "worse,status=500", commits));
    let mut client = gateway.client();
    let answer = client.ask(chat_with("dynamic/r", &[], true)).expect(200);
    assert_eq!(answer.ending, Ending::Cut, "{}", answer.text());
    let last = answer.text().replace(COMMENT, "");
    let late = ": x-ringway-provider=two x-ringway-model=worse,status=500 x-ringway-attempts=2\n\n";
    let event = last.strip_prefix(late).unwrap_or_default();
    let event = event.strip_prefix("data: ").and_then(|event| event.strip_suffix("\n\n"));
    let event: serde_json::Value = serde_json::from_str(event.expect("one event")).expect("JSON");
    assert!(event["error"]["message"].is_string() && !last.contains("[DONE]"), "{last}");
    client.expect_close();
    // Somebody who speaks HTTP/1.0 has the end of the connection for an end.
    let body = chat_body("dynamic/r", true);
    let old = format!(
        "POST /v1/chat/completions HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = Client::connect(gateway.address).ask(old).expect(200);
    assert!(answer.text().starts_with(COMMENT) && answer.text().contains("\"error\""), "{}", answer.text());
}
