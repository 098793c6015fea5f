//! What the provider receives: a head written from parsed fields, one model, and connections that are used again only
//! when they are clean.

use crate::support::{CANARY, Gateway, Provider, Setup, chat, chat_body, model, post, rounds};

#[test]
fn the_head_is_written_and_not_copied() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider);
    let body = chat_body(&model("named-head"), false);
    gateway
        .ask(format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: gateway.example\r\nAuthorization: Bearer sk-of-the-caller\r\n\
             esa_aigw_auth: Bearer sk-of-the-caller\r\nesa-aigw-auth: Bearer sk-of-the-caller\r\n\
             X-Api-Key: sk-of-the-caller\r\nApi-Key: sk-of-the-caller\r\nCookie: session=sk-of-the-caller\r\n\
             Proxy-Authorization: Basic x\r\nConnection: keep-alive, X-Hop\r\nX-Hop: yes\r\nKeep-Alive: timeout=5\r\n\
             TE: trailers\r\nUpgrade: websocket\r\nX-Forwarded-For: 10.0.0.1\r\nForwarded: for=10.0.0.1\r\n\
             Content-Type: application/json\r\nAccept: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ))
        .expect(200);
    let seen = provider.only("named-head");
    assert_eq!(seen.headers("authorization"), [format!("Bearer {CANARY}")]);
    assert_eq!(seen.headers("host"), [provider.address.to_string()]);
    assert_eq!(seen.headers("content-length"), [seen.number("body_bytes").to_string()]);
    assert_eq!(seen.headers("content-type"), ["application/json"]);
    for name in [
        "esa_aigw_auth",
        "esa-aigw-auth",
        "x-api-key",
        "api-key",
        "cookie",
        "proxy-authorization",
        "x-hop",
        "keep-alive",
        "te",
        "upgrade",
        "transfer-encoding",
        "expect",
        "x-forwarded-for",
        "forwarded",
    ] {
        assert!(seen.headers(name).is_empty(), "{name} was passed on: {:?}", seen.headers(name));
    }
    assert!(!seen.0["headers"].to_string().contains("sk-of-the-caller"), "{seen:?}");
    let mut names = seen.header_names();
    let all = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), all, "a header was sent twice: {names:?}");
    assert_eq!(seen.0["path"], "/v1/chat/completions");
}

#[test]
fn the_body_is_the_clients_but_for_the_model() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider);
    // White space, order, escapes and unknown members are the client's business.
    let body = "{ \"z\" : [1.0e+1,\t\"\\u00e9\\/\"] ,\r\n\"model\": \"sim\\/named-body\" , \"messages\":[ ],\"a\":{\"model\":\"other\"} }";
    gateway.ask(post("/v1/chat/completions", body)).expect(200);
    let seen = provider.only("named-body");
    assert_eq!(seen.body(), body.replace("\"sim\\/named-body\"", "\"named-body\""));
}

#[test]
fn usage_is_asked_for_in_streams_alone_and_only_once() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider);
    gateway.chat("named-whole").expect(200);
    assert!(!provider.only("named-whole").body().contains("stream_options"));
    gateway.stream("named-stream").expect(200);
    let seen = provider.only("named-stream");
    assert_eq!(seen.body().matches("\"include_usage\"").count(), 1, "{}", seen.body());
    let asked = format!(
        r#"{{"model":"{}","messages":[],"stream":true,"stream_options":{{"include_usage":true}}}}"#,
        model("named-asked")
    );
    gateway.ask(post("/v1/chat/completions", &asked)).expect(200);
    let seen = provider.only("named-asked");
    assert_eq!(seen.body().matches("\"include_usage\"").count(), 1, "{}", seen.body());
}

#[test]
fn connections_to_the_provider_are_used_again() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider);
    let mut client = gateway.client();
    for _ in 0..rounds() {
        client.ask(chat("named-reuse", false)).expect(200);
        client.ask(chat("named-reuse,events=3", true)).expect(200);
    }
    let seen = provider.seen_as("named-reuse");
    let mut connections: Vec<u64> = seen.iter().map(|seen| seen.number("connection")).collect();
    assert_eq!(connections.len(), 2 * rounds());
    connections.sort_unstable();
    connections.dedup();
    assert_eq!(connections.len(), 1, "one client after another needed {} connections", connections.len());
}

#[test]
fn a_stale_connection_is_replaced_without_the_client_noticing() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider);
    let mut client = gateway.client();
    for round in 0..rounds() {
        // The provider closes its side right after the answer; the next request must not be lost on it.
        client.ask(chat(&format!("named-stale-{round}x,idleclose=0"), false)).expect(200);
        provider.only(&format!("named-stale-{round}x"));
    }
    client.ask(chat("named-stale-last", false)).expect(200);
    provider.only("named-stale-last");
}

#[test]
fn stray_bytes_close_a_connection() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider);
    let mut client = gateway.client();
    for round in 0..rounds() {
        // What the provider sends behind its answer would be taken for the answer to someone else's request.
        client.ask(chat(&format!("named-extra-{round}x,extra"), false)).expect(200);
        let next = client.ask(chat("sim", false)).expect(200);
        assert!(next.json()["choices"].is_array(), "{}", next.text());
    }
    let last: Vec<(u64, u64)> = (0..rounds())
        .map(|round| provider.only(&format!("named-extra-{round}x")))
        .map(|seen| (seen.number("connection"), seen.number("request_on_connection")))
        .collect();
    for seen in provider.seen_as("model") {
        let (connection, request) = (seen.number("connection"), seen.number("request_on_connection"));
        let stray = last.iter().find(|(stray, last)| *stray == connection && request > *last);
        assert_eq!(stray, None, "used again after stray bytes: {seen:?}");
    }
}

#[test]
fn a_connection_is_not_used_again_after_an_error_or_a_cancel() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider);
    provider.expect_cancelled("named-left", |name| {
        let mut client = gateway.client();
        client.send(chat(&format!("{name},events=100000,gap=5"), true));
        let _ = client.head();
        client.some_chunks(100);
        Provider::now_ns()
    });
    let left: Vec<u64> =
        provider.seen_as("named-left").iter().map(|seen| seen.number("connection")).collect();
    gateway.stream("named-cut,events=50,cut=500");
    let cut = provider.only("named-cut").number("connection");
    for _ in 0..5 {
        gateway.chat("named-after").expect(200);
    }
    for seen in provider.seen_as("named-after") {
        let connection = seen.number("connection");
        assert!(connection != cut && !left.contains(&connection), "{seen:?}");
    }
}

#[test]
fn answers_in_any_framing_arrive_in_a_right_one() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider);
    let mut client = gateway.client();
    for framing in [
        "lengthbody",
        "untilclose",
        "http10",
        "chunk=1",
        "chunk=7",
        "chunkext",
        "trailers",
        "split=1",
        "closeafter",
    ] {
        for stream in [false, true] {
            let script = format!("sim,events=5,{framing}");
            let answer = client.ask(chat(&script, stream)).expect(200);
            if stream {
                assert_eq!(answer.text(), provider.events(&script), "{framing}");
            } else {
                assert!(
                    answer.json()["choices"][0]["message"]["content"].is_string(),
                    "{framing}: {}",
                    answer.text()
                );
            }
            assert!(!answer.closes(), "{framing}: {}", answer.head);
        }
    }
}

#[test]
fn interim_answers_are_passed_over() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider);
    let mut client = gateway.client();
    for interim in ["interim", "interim=5"] {
        client.ask(chat(&format!("sim,{interim}"), false)).expect(200);
        let stream = client.ask(chat(&format!("sim,{interim}"), true)).expect(200);
        assert!(stream.text().ends_with("data: [DONE]\n\n"), "{interim}: {}", stream.text());
    }
}

#[test]
fn too_many_interim_answers_are_an_upstream_error() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider);
    gateway.chat("sim,interim=100").refusal(502);
}

#[test]
fn an_early_answer_does_not_hang() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider);
    let filler = "x".repeat(4 << 20);
    let body = format!(
        r#"{{"model":"{}","messages":[{{"role":"user","content":"{filler}"}}]}}"#,
        model("sim,early,status=413")
    );
    let answer = gateway.ask(post("/v1/chat/completions", &body));
    assert!([413, 502].contains(&answer.status), "{}", answer.head);
    answer.refusal(answer.status);
    gateway.chat("sim").expect(200);
}

#[test]
fn a_provider_without_a_word_is_given_up() {
    let provider = Provider::start();
    let setup = Setup {
        provider: "timeouts = { first_byte_secs = 1, between_bytes_secs = 1 }\n".into(),
        ..Setup::default()
    };
    let gateway = Gateway::with(&provider, &setup);
    gateway.chat("sim,ttft=60000").refusal(504);
    let answer = gateway.stream("sim,events=50,stall=1000").expect(200);
    assert_ne!(answer.ending, crate::support::Ending::Whole, "a stalled stream ended as if it were whole");
    assert!(answer.text().contains("upstream_"), "{}", answer.text());
}
