//! Bounds on what a client may send, and on how slowly; beyond each stands a typed answer, not a reset.

use std::thread;

use ringway_load::provider::fnv;

use crate::support::{Client, Ending, Gateway, Provider, Setup, chat, chat_body, model};

const MIB: usize = 1 << 20;

fn small() -> (Provider, Gateway) {
    let provider = Provider::start();
    let setup = Setup {
        limits: "head_bytes = 4096\nhead_fields = 20\nbody_bytes = 65536\nhead_secs = 1\nidle_secs = 1\nbody_grace_secs = 1\n".into(),
        ..Setup::default()
    };
    let gateway = Gateway::with(&provider, &setup);
    (provider, gateway)
}

#[test]
fn a_head_too_large_is_431_and_closed() {
    let (_provider, gateway) = small();
    let large = format!("X-Large: {}\r\n", "x".repeat(5_000));
    let many: String = (0..40).map(|i| format!("X-{i}: y\r\n")).collect();
    for more in [large, many] {
        let mut client = gateway.client();
        client.offer(format!("GET /v1/models HTTP/1.1\r\nHost: g\r\n{more}\r\n"));
        let answer = client.answer();
        answer.refusal(431);
        assert!(answer.closes(), "{}", answer.head);
        client.expect_close();
    }
}

#[test]
fn an_endless_request_line_is_refused_while_it_grows() {
    let (_provider, gateway) = small();
    let mut client = gateway.client();
    client.offer(format!("GET /v1/{}", "x".repeat(100_000)));
    let answer = client.answer();
    assert!([414, 431].contains(&answer.status), "{}", answer.head);
    answer.refusal(answer.status);
}

#[test]
fn a_body_too_large_is_413_at_its_head() {
    let (provider, gateway) = small();
    let mut client = gateway.client();
    // Not one byte of the body is sent: the head alone decides.
    client.send(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nContent-Type: application/json\r\nContent-Length: 65537\r\n\r\n",
    );
    let answer = client.answer();
    assert_eq!(answer.refusal(413), "request_too_large");
    assert!(provider.seen_as("model").is_empty());
}

#[test]
fn a_length_that_no_memory_holds_is_413() {
    let (_provider, gateway) = small();
    for length in ["9999999999", "18446744073709551615"] {
        let head = format!(
            "POST /v1/embeddings HTTP/1.1\r\nHost: g\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        );
        gateway.ask(head).refusal(413);
    }
}

#[test]
fn a_chunked_body_too_large_is_413_when_it_becomes_so() {
    let (_provider, gateway) = small();
    let mut client = gateway.client();
    client.send("POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n");
    for _ in 0..20 {
        client.offer(format!("1000\r\n{}\r\n", " ".repeat(4096)));
    }
    assert_eq!(client.answer().refusal(413), "request_too_large");
}

#[test]
fn a_refused_upload_still_gets_its_answer() {
    let (_provider, gateway) = small();
    // A client that only reads once everything is sent, or can't be: as the SDKs do.
    for mib in [1, 8, 8, 8, 32] {
        let mut client = gateway.client();
        client.send(format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            mib * MIB
        ));
        let mut sender = client.twin();
        let upload = thread::spawn(move || {
            let part = vec![b'x'; 64 << 10];
            (0..mib * MIB / part.len()).all(|_| sender.offer(&part))
        });
        let answer = client.answer();
        assert_eq!(answer.refusal(413), "request_too_large");
        assert!(answer.closes() && answer.ending == Ending::Whole, "{}", answer.head);
        let _ = upload.join();
    }
}

#[test]
fn a_body_at_the_limit_is_served() {
    let (provider, gateway) = small();
    let body = chat_body(&model("named-full"), false);
    let full = format!("{body}{}", " ".repeat(65_536 - body.len()));
    gateway.ask(crate::support::post("/v1/chat/completions", &full)).expect(200);
    provider.only("named-full");
}

#[test]
fn a_head_that_takes_too_long_is_408() {
    let (_provider, gateway) = small();
    let mut client = gateway.client();
    client.send("POST /v1/chat/completions HTTP/1.1\r\nHost: ");
    let answer = client.answer();
    answer.refusal(408);
    client.expect_close();
}

#[test]
fn a_body_that_takes_too_long_is_408() {
    let (_provider, gateway) = small();
    let mut client = gateway.client();
    client.send("POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nContent-Type: application/json\r\nContent-Length: 60000\r\n\r\n{");
    let answer = client.answer();
    answer.refusal(408);
    client.expect_close();
}

#[test]
fn an_idle_connection_is_closed_without_a_word() {
    let (_provider, gateway) = small();
    let mut fresh = gateway.client();
    fresh.expect_close();
    let mut used = gateway.client();
    used.ask(chat("sim", false)).expect(200);
    used.expect_close();
}

#[test]
fn eight_mebibytes_pass_unchanged() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider);
    // `model` comes last, and every byte counts: the provider hashes what it got.
    let filler: String = (0..8 * MIB / 16).map(|i| format!("{i:015} ")).collect();
    let body = |model: &str| {
        let ask = format!(r#"[{{"role":"user","content":"{filler}"}}]"#);
        format!(r#"{{"messages":{ask},"model":"{model}"}}"#)
    };
    gateway.ask(crate::support::post("/v1/chat/completions", &body(&model("named-large")))).expect(200);
    let sent = body("named-large");
    let seen = provider.seen().into_iter().find(|seen| seen.number("body_bytes") == sent.len() as u64);
    let seen = seen.expect("the provider got a body of that length");
    assert_eq!(seen.0["body_fnv"], format!("{:016x}", fnv(sent.as_bytes())), "a byte was changed");
}

#[test]
fn a_client_that_sends_nothing_costs_the_others_nothing() {
    let (_provider, gateway) = small();
    let silent: Vec<Client> = (0..100).map(|_| gateway.client()).collect();
    gateway.chat("sim").expect(200);
    drop(silent);
}

#[test]
fn a_model_that_thinks_longer_than_a_request_may_take_is_waited_for() {
    let provider = Provider::start();
    let limits = "head_secs = 1\nbody_grace_secs = 1\nidle_secs = 1\n";
    let gateway = Gateway::with(&provider, &Setup { limits: limits.into(), ..Setup::default() });
    for stream in [false, true] {
        gateway.client().ask(chat("sim,ttft=2500", stream)).expect(200);
    }
}
