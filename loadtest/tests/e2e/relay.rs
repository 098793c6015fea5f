//! Streams: every byte of every event, in order, as it comes; and an end that cannot be mistaken for another.

use std::thread;

use crate::support::{Ending, Gateway, Provider, chat, chat_body, post, until};

#[test]
fn the_bytes_of_events_are_the_providers() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider);
    for words in [
        "",
        "crlf",
        "cr",
        "comments",
        "multiline",
        "nospace",
        "utf8",
        "named",
        "bom",
        "split=1",
        "split=3",
        "split=1000",
        "utf8,split=1",
        "crlf,split=1",
        "comments,split=2,crlf",
        "size=1",
        "size=70000",
        "size=300000",
        "nousage",
    ] {
        let script = format!("sim,events=6,size=400,{words}").trim_end_matches(',').to_owned();
        let answer = gateway.stream(&script).expect(200);
        assert_eq!(answer.ending, Ending::Whole, "{script}");
        assert!(
            answer.header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream")),
            "{}",
            answer.head
        );
        assert_eq!(answer.text(), provider.events(&script), "{script}");
    }
}

#[test]
fn whole_answers_are_the_providers() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider);
    for size in [0, 1, 500, 16_384, 100_000, 3_000_000] {
        let script = format!("sim,size={size}");
        let answer = gateway.chat(&script).expect(200);
        let direct = provider.ask(post("/v1/chat/completions", &chat_body(&script, false)));
        assert!(
            answer.body == direct.body,
            "{size}: {} bytes, direct {}",
            answer.body.len(),
            direct.body.len()
        );
    }
}

#[test]
fn an_event_leaves_as_soon_as_it_is_whole() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider);
    let mut client = gateway.client();
    // The second event is a minute away: the first must not wait for it.
    client.send(chat("sim,events=3,gap=60000", true));
    assert_eq!(client.head().status, 200);
    let first = String::from_utf8(client.some_chunks(1)).expect("events are text");
    assert!(first.starts_with("data: ") && first.ends_with("\n\n"), "{first:?}");
}

#[test]
fn usage_is_removed_unless_it_was_asked_for() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider);
    let asked = |more: &str| {
        let model = crate::support::model("sim,events=4");
        let body = format!(r#"{{"model":"{model}","messages":[],"stream":true{more}}}"#);
        gateway.ask(post("/v1/chat/completions", &body)).expect(200).text()
    };
    let without = asked("");
    assert!(!without.contains("\"usage\":{") && without.ends_with("data: [DONE]\n\n"), "{without}");
    let with = asked(r#","stream_options":{"include_usage":true}"#);
    assert_eq!(with.matches("\"usage\":{").count(), 1, "{with}");
    let declined = asked(r#","stream_options":{"include_usage":false}"#);
    assert!(!declined.contains("\"usage\":{"), "{declined}");
}

#[test]
fn tokens_are_counted_as_reported_once() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider);
    gateway.chat("sim,prompt=1000,completion=7").expect(200);
    gateway.stream("sim,prompt=1000,completion=7").expect(200);
    gateway.stream("sim,prompt=1000,completion=7,usagelast").expect(200);
    for (kind, expect) in [("prompt", 3_000.0), ("completion", 21.0)] {
        until(&format!("{expect} {kind} tokens"), || {
            let counted = gateway.total("rw_tokens_total", &format!("\"{kind}\""));
            assert!(counted <= expect, "{counted} {kind} tokens were counted");
            (counted == expect).then_some(())
        });
    }
    let requests = gateway.total("rw_requests_total", "code=\"200\"");
    assert!((requests - 3.0).abs() < 0.1, "{requests} requests were counted");
}

#[test]
fn a_lost_stream_ends_with_an_error_event_and_without_a_last_chunk() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider);
    for how in
        ["cut=0", "cut=1", "cut=250", "cut=300", "cut=777", "cut=1000", "reset=0", "reset=600", "reset=1000"]
    {
        let mut client = gateway.client();
        let answer = client.ask(chat(&format!("sim,events=50,{how}"), true));
        // Before the first event nothing is lost but time: that is an error like any other.
        if answer.status != 200 {
            answer.refusal(502);
            continue;
        }
        let text = answer.text();
        assert_ne!(answer.ending, Ending::Whole, "{how}: ended as if it were whole: {text}");
        assert_eq!(answer.ending, Ending::Cut, "{how}: reset, which may take the error event with it");
        let last = text.trim_end().rsplit("\n\n").next().unwrap_or_default();
        let last = last.strip_prefix("data: ").unwrap_or_else(|| panic!("{how}: no event last: {text}"));
        let error: serde_json::Value =
            serde_json::from_str(last).unwrap_or_else(|error| panic!("{how}: {error}: {last}"));
        assert_eq!(error["error"]["code"], "upstream_interrupted", "{how}: {text}");
        assert!(text.ends_with("\n\n") && !text.contains("[DONE]"), "{how}: {text}");
        // Each event before it is whole.
        for event in text.trim_end().split("\n\n") {
            let data = event.strip_prefix("data: ").unwrap_or_else(|| panic!("{how}: torn event {event:?}"));
            assert!(serde_json::from_str::<serde_json::Value>(data).is_ok(), "{how}: torn event {event:?}");
        }
        client.expect_close();
    }
}

#[test]
fn a_lost_answer_is_an_error_and_not_a_torn_body() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider);
    for how in ["cut=0", "cut=1", "cut=400", "reset=400", "headcut=0", "headcut=20"] {
        gateway.chat(&format!("sim,size=500,{how}")).refusal(502);
    }
    // Too long to be held until it is whole: then its end must tell.
    let answer = gateway.chat("sim,size=3000000,cut=2500000");
    if answer.status == 200 {
        assert_ne!(answer.ending, Ending::Whole);
    }
}

#[test]
fn ends_that_are_whole_and_ends_that_are_not() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider);
    let finished = gateway.stream("sim,events=5,nodone").expect(200);
    assert_eq!(finished.ending, Ending::Whole);
    assert_eq!(finished.text(), provider.events("sim,events=5,nodone"));
    // Lost before anything was passed on, it is an answer of its own; afterwards, an event.
    let unfinished = gateway.stream("sim,events=5,nodone,nofinish");
    assert!(unfinished.status == 502 || unfinished.ending == Ending::Cut, "{}", unfinished.head);
    assert!(unfinished.text().contains("upstream_interrupted"), "{}", unfinished.text());
    let later = gateway.stream("sim,events=5,gap=50,nodone,nofinish").expect(200);
    assert_eq!(later.ending, Ending::Cut);
    assert!(later.text().contains("upstream_interrupted"), "{}", later.text());
    let failed = gateway.stream("sim,events=5,errorevent").expect(200);
    assert!(
        failed.text().contains("\"error\"") && !failed.text().contains("upstream_interrupted"),
        "{}",
        failed.text()
    );
}

#[test]
fn a_client_that_leaves_cancels_upstream() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider);
    for (words, stream) in [
        ("events=100000,gap=5", true),
        ("ttft=60000", true),
        ("ttft=60000", false),
        ("events=3,gap=60000", true),
        ("head,ttft=60000", true),
    ] {
        provider.expect_cancelled(&format!("named-{}-{stream}", words.len()), |name| {
            let mut client = gateway.client();
            client.send(chat(&format!("{name},{words}"), stream));
            provider.wait_for(name);
            if words.contains("events") {
                let _ = client.head();
                client.some_chunks(100);
            }
            Provider::now_ns()
        });
    }
}

#[test]
fn a_slow_reader_holds_back_the_provider_and_not_the_memory() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider);
    let before_kib = rss_kib(&gateway);
    let mut client = gateway.client();
    // 40 MB that nobody takes: they must stay where they are.
    client.send(chat("named-slow,events=400,size=100000", true));
    assert_eq!(client.head().status, 200);
    client.some_chunks(1);
    // Other work goes on meanwhile, and gives a leak the time to show.
    for _ in 0..200 {
        gateway.chat("sim").expect(200);
    }
    let grown_kib = rss_kib(&gateway).saturating_sub(before_kib);
    assert!(grown_kib < 16 << 10, "{grown_kib} KiB more for one slow reader");
    // And it still gets all of it.
    let mut answer = crate::support::Answer {
        status: 200,
        head: String::new(),
        headers: vec![("transfer-encoding".to_owned(), "chunked".to_owned())],
        body: Vec::new(),
        ending: Ending::Whole,
    };
    client.body(&mut answer);
    assert_eq!(answer.ending, Ending::Whole);
    assert!(
        answer.body.ends_with(b"data: [DONE]\n\n") && answer.body.len() > 39_000_000,
        "{}",
        answer.body.len()
    );
}

#[test]
fn streams_do_not_mix() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider);
    let address = gateway.address;
    let runs: Vec<_> = (0..50)
        .map(|index| {
            thread::spawn(move || {
                let mut client = crate::support::Client::connect(address);
                let answer =
                    client.ask(chat(&format!("sim,events=20,gap=2,size={}", 300 + index), true)).expect(200);
                (index, answer)
            })
        })
        .collect();
    for run in runs {
        let (index, answer) = run.join().expect("a stream was served");
        assert_eq!(answer.ending, Ending::Whole);
        assert_eq!(answer.text(), provider.events(&format!("sim,events=20,gap=2,size={}", 300 + index)));
    }
}

/// What of the gateway is in memory.
fn rss_kib(gateway: &Gateway) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.program.id())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).expect("VmRSS is a number")
}
