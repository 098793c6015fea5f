//! `usage.estimate = "bpe"`: what is not reported is counted with the vocabulary, and says so wherever it is shown.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use serde_json::Value;

use crate::support::{Gateway, Provider, Setup, clock, own_address, post, until};

/// A dollar for a thousand tokens of prompt, two for a thousand of completion.
const PRICE: &str =
    "[[price]]\nmodel = \"sim/*\"\ninput_per_million_usd = 1000\noutput_per_million_usd = 2000\n";

/// `Say hello.` are 3 tokens, its role 1, its message 3, and 3 begin the answer.
const PROMPT: f64 = 10.0;
/// What the simulated provider says, in that vocabulary: `ww1 xxxxxxxxxxxxxxxxxw2 …`, and its answer of usual size.
const STREAM: f64 = 20.0;
const WHOLE: f64 = 39.0;

fn gateway(provider: &Provider, more: &str) -> Gateway {
    let tables = format!("{PRICE}[usage]\nestimate = \"bpe\"\n{more}");
    Gateway::with(provider, &Setup { provider: tables, ..Setup::default() })
}

/// Prompt and completion, once so many requests were counted.
#[track_caller]
fn estimated(gateway: &Gateway, requests: f64) -> (f64, f64) {
    until("all are counted", || {
        let total = gateway.total("rw_requests_total", "");
        assert!(total <= requests, "{total} requests");
        (total == requests).then_some(())
    });
    let of = |kind: &str| gateway.total("rw_tokens_total", &format!("type=\"{kind}\",source=\"estimate\""));
    (of("prompt"), of("completion"))
}

#[test]
fn a_stream_and_a_whole_answer_have_the_tokens_of_the_vocabulary() {
    let provider = Provider::start();
    let file = std::env::temp_dir().join(format!("ringway-e2e-estimates-{}", own_address()));
    let _ = std::fs::remove_file(&file);
    let log = format!("[access_log]\nto = {file:?}\n");
    let gateway = gateway(&provider, &log);
    gateway.stream("sim,events=5,size=240,nousage").expect(200);
    assert_eq!(estimated(&gateway, 1.0), (PROMPT, STREAM));
    gateway.chat("sim,nousage").expect(200);
    gateway.chat("sim,prompt=1000,completion=7").expect(200);
    assert_eq!(estimated(&gateway, 3.0), (2.0 * PROMPT, STREAM + WHOLE));
    let by = |by: &str| gateway.total("rw_estimates_total", &format!("by=\"{by}\""));
    assert_eq!((by("bpe"), by("bytes"), gateway.total("rw_estimates_unqueued_total", "")), (2.0, 0.0, 0.0));
    let cost = gateway.total("rw_cost_usd_total", "");
    let expect = (2.0 * PROMPT + 2.0 * (STREAM + WHOLE)) / 1_000.0 + 1.014;
    assert!((cost - expect).abs() < 1e-9, "{cost} and not {expect}");
    let lines = until("three lines", || {
        let text = std::fs::read_to_string(&file).ok()?;
        (text.ends_with('\n') && text.lines().count() == 3).then_some(text)
    });
    std::fs::remove_file(&file).expect("it was there");
    for (found, sources) in [("\"tokens_source\":\"bpe\"", 2), ("\"tokens_source\":\"reported\"", 1)] {
        assert_eq!(lines.matches(found).count(), sources, "{lines}");
    }
    let completion = format!("\"completion_tokens\":{STREAM},");
    assert!(lines.lines().any(|line| line.contains(&completion) && line.contains("\"bpe\"")), "{lines}");
}

#[test]
fn what_is_too_long_for_the_vocabulary_is_counted_by_bytes_and_never_called_otherwise() {
    let provider = Provider::start();
    let gateway = gateway(&provider, "");
    let long = "word ".repeat(60_000);
    let body = format!(r#"{{"model":"sim/sim,nousage","messages":[{{"role":"user","content":"{long}"}}]}}"#);
    gateway.ask(post("/v1/chat/completions", &body)).expect(200);
    let (prompt, _) = estimated(&gateway, 1.0);
    assert!((45_000.0..75_000.0).contains(&prompt), "{prompt}");
    let by = |by: &str| gateway.total("rw_estimates_total", &format!("by=\"{by}\""));
    assert_eq!((by("bpe"), by("bytes")), (0.0, 1.0));
}

#[test]
fn a_reload_that_wants_the_vocabulary_says_that_it_waits_for_a_restart() {
    let provider = Provider::start();
    let mut gateway = Gateway::start(&provider);
    gateway.write_config(&format!("{}\n[usage]\nestimate = \"bpe\"\n", gateway.read_config()));
    gateway.program.signal("HUP");
    gateway.program.line("what waits", |line| line.contains("usage.estimate").then_some(()));
    gateway.chat("sim,nousage").expect(200);
    estimated(&gateway, 1.0);
    assert_eq!(gateway.total("rw_estimates_total", "by=\"bytes\""), 1.0);
}

/// A chat about something that takes its time to be counted, or about a picture, which takes none.
fn long_chat(is_picture: bool) -> String {
    let filling = if is_picture { "A".repeat(250_000) } else { "words and words, ".repeat(12_000) };
    let content = if is_picture {
        let url = format!("data:image/png;base64,{filling}");
        format!(r#"[{{"type":"image_url","image_url":{{"url":"{url}"}}}}]"#)
    } else {
        format!("\"{filling}\"")
    };
    format!(r#"{{"model":"sim/sim,nousage","messages":[{{"role":"user","content":{content}}}]}}"#)
}

#[test]
fn what_finds_the_queue_full_is_counted_by_bytes_at_once_and_nothing_is_lost_or_waits() {
    let provider = Provider::start();
    let file = std::env::temp_dir().join(format!("ringway-e2e-estimates-full-{}", own_address()));
    let _ = std::fs::remove_file(&file);
    let gateway = gateway(&provider, &format!("[access_log]\nto = {file:?}\n"));
    let is_full = AtomicBool::new(false);
    let sent: usize = thread::scope(|scope| {
        let clients: Vec<_> = (0..6)
            .map(|_| {
                let (mut client, is_full) = (gateway.client(), &is_full);
                let chats = [false, true, true, true, true, true, true, true]
                    .map(|is_picture| post("/v1/chat/completions", &long_chat(is_picture)));
                scope.spawn(move || {
                    let mut sent = 0;
                    while !is_full.load(Ordering::Relaxed) {
                        client.ask(&chats[sent % chats.len()]).expect(200);
                        sent += 1;
                    }
                    sent
                })
            })
            .collect();
        until("the queue is full", || (gateway.total("rw_estimates_unqueued_total", "") > 0.0).then_some(()));
        is_full.store(true, Ordering::Relaxed);
        clients.into_iter().map(|client| client.join().expect("a client")).sum()
    });
    // Whoever is behind is the estimator: all of these have their answers.
    let answered = clock();
    until("all are counted", || (gateway.total("rw_requests_total", "") >= sent as f64).then_some(()));
    let behind = answered.elapsed();
    let by = |by: &str| gateway.total("rw_estimates_total", &format!("by=\"{by}\""));
    let unqueued = gateway.total("rw_estimates_unqueued_total", "");
    assert_eq!((gateway.total("rw_requests_total", ""), by("bpe") + by("bytes")), (sent as f64, sent as f64));
    assert!(by("bytes") == unqueued && unqueued > 0.0 && by("bpe") > 0.0, "{unqueued} of {sent}");
    let lines = until("a line for each", || {
        let text = std::fs::read_to_string(&file).ok()?;
        // A line is there when its end is: what is being written may be seen in its middle.
        (text.ends_with('\n') && text.lines().count() == sent).then_some(text)
    });
    std::fs::remove_file(&file).expect("it was there");
    let mut slowest_ms = [0.0, 0.0];
    let mut told = [0.0, 0.0];
    for line in lines.lines() {
        let line: Value = serde_json::from_str(line).expect("JSON");
        let of = usize::from(line["tokens_source"] == "bytes");
        let duration_ms = line["duration_ms"].as_f64().expect("a duration");
        slowest_ms[of] = f64::max(slowest_ms[of], duration_ms);
        told[of] += 1.0;
    }
    assert_eq!(told, [by("bpe"), by("bytes")]);
    eprintln!(
        "{sent} chats, {unqueued} by bytes; slowest {slowest_ms:?} ms; the estimator was {behind:?} behind"
    );
    let behind_ms = behind.as_secs_f64() * 1e3;
    assert!(slowest_ms.iter().all(|ms| *ms < behind_ms), "{slowest_ms:?} ms, and {behind_ms} ms behind");
}
