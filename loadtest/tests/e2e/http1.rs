//! HTTP/1.1 as clients speak it: every well-formed way to send a request is served, and answers keep their order.

use crate::support::{Client, Ending, Gateway, Provider, chat, chat_body, model, post};

#[test]
fn a_connection_serves_many_requests() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider);
    let mut client = gateway.client();
    for _ in 0..20 {
        let answer = client.ask(chat("sim", false)).expect(200);
        assert!(!answer.closes(), "{}", answer.head);
    }
    client.ask(chat("sim,events=5", true)).expect(200);
    client.ask(chat("sim", false)).expect(200);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider);
    let mut client = gateway.client();
    // The first is the slowest: order must come from the gateway, not from luck.
    let scripts =
        ["sim,ttft=200,completion=1", "sim,completion=2", "sim,ttft=50,completion=3", "sim,completion=4"];
    let requests: String = scripts.iter().map(|script| chat(script, false)).collect();
    client.send(requests);
    for expect in 1..=4 {
        let answer = client.answer().expect(200).json();
        assert_eq!(answer["usage"]["completion_tokens"], expect, "{answer}");
    }
}

#[test]
fn a_stream_and_a_refusal_keep_their_place_in_a_pipeline() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider);
    let mut client = gateway.client();
    client.send(chat("sim,events=5,gap=10", true));
    client.send("GET /v1/nothing HTTP/1.1\r\nHost: gateway\r\n\r\n");
    client.send(chat("sim", false));
    assert!(client.answer().expect(200).text().ends_with("data: [DONE]\n\n"));
    client.answer().refusal(404);
    client.answer().expect(200);
}

#[test]
fn a_request_may_arrive_byte_by_byte() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider);
    let mut client = gateway.client();
    for byte in chat("sim", false).as_bytes() {
        client.send([*byte]);
    }
    client.answer().expect(200);
}

#[test]
fn expect_100_continue_is_answered_here() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider);
    let mut client = gateway.client();
    let body = chat_body(&model("named-continue"), false);
    client.send(format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: gateway\r\nExpect: 100-continue\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    ));
    assert_eq!(client.head().status, 100);
    client.send(body);
    client.answer().expect(200);
    assert!(provider.only("named-continue").headers("expect").is_empty(), "Expect was passed on");
}

#[test]
fn expect_100_continue_is_not_answered_when_the_request_is_refused() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider);
    let mut client = gateway.client();
    client.send(
        "POST /v1/nothing HTTP/1.1\r\nHost: gateway\r\nExpect: 100-continue\r\nContent-Length: 1000\r\n\r\n",
    );
    client.answer().refusal(404);
}

#[test]
fn chunked_request_bodies_are_decoded() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider);
    for step in [1, 7, 64, 4096] {
        let name = format!("chunked-by-{step}");
        let body = chat_body(&model(&name), false);
        let mut request = String::from(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/json\r\n\
             Transfer-Encoding: chunked\r\n\r\n",
        );
        for part in body.as_bytes().chunks(step) {
            let part = std::str::from_utf8(part).expect("the body is ASCII");
            request += &format!("{:X};note=x\r\n{part}\r\n", part.len());
        }
        request += "0\r\nX-Trailer: dropped\r\n\r\n";
        let mut client = gateway.client();
        client.ask(&request).expect(200);
        // The trailer was read, so the next request begins where it should.
        client.ask(chat("sim", false)).expect(200);
        let seen = provider.only(&name);
        assert!(
            seen.headers("x-trailer").is_empty() && seen.headers("content-length").len() == 1,
            "{seen:?}"
        );
    }
}

#[test]
fn head_and_options_are_answered_without_a_body() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider);
    let mut client = gateway.client();
    let head = client.ask("HEAD /v1/models HTTP/1.1\r\nHost: gateway\r\n\r\n").expect(200);
    assert!(head.header("content-length").is_some(), "{}", head.head);
    let options = client.ask("OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: gateway\r\n\r\n").expect(204);
    assert!(options.header("allow").is_some_and(|allow| allow.contains("POST")), "{}", options.head);
    // Had either sent a body, this answer would not be where it is.
    client.ask(chat("sim", false)).expect(200);
}

#[test]
fn http_1_0_is_served_and_closed() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider);
    let mut client = gateway.client();
    let answer = client.ask(chat("sim", false).replace("HTTP/1.1", "HTTP/1.0")).expect(200);
    assert!(answer.header("transfer-encoding").is_none(), "chunked for HTTP/1.0: {}", answer.head);
    client.expect_close();
}

#[test]
fn a_stream_for_http_1_0_is_not_chunked() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider);
    let mut client = gateway.client();
    let answer = client.ask(chat("sim,events=10,gap=5", true).replace("HTTP/1.1", "HTTP/1.0")).expect(200);
    assert!(answer.header("transfer-encoding").is_none(), "chunked for HTTP/1.0: {}", answer.head);
    assert_eq!(answer.ending, Ending::Whole);
    assert!(answer.text().ends_with("data: [DONE]\n\n"), "{}", answer.text());
}

#[test]
fn http_1_0_may_ask_to_stay() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider);
    let mut client = gateway.client();
    let request = chat("sim", false).replace("HTTP/1.1\r\n", "HTTP/1.0\r\nConnection: keep-alive\r\n");
    let answer = client.ask(&request).expect(200);
    assert_eq!(answer.header("connection").map(str::to_ascii_lowercase).as_deref(), Some("keep-alive"));
    client.ask(&request).expect(200);
}

#[test]
fn connection_close_is_obeyed_after_the_answer() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider);
    for stream in [false, true] {
        let mut client = gateway.client();
        let request = chat("sim", stream).replace("Host:", "Connection: close\r\nHost:");
        let answer = client.ask(request).expect(200);
        assert!(answer.closes() && answer.ending == Ending::Whole, "{}", answer.head);
        client.expect_close();
    }
}

#[test]
fn absolute_form_is_served() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider);
    let request = chat("sim", false).replace("POST /v1", "POST http://api.openai.com/v1");
    gateway.ask(request).expect(200);
}

#[test]
fn a_query_is_not_part_of_the_path() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider);
    gateway.ask(chat("sim", false).replace("completions HTTP", "completions?api-version=1 HTTP")).expect(200);
}

#[test]
fn a_client_that_finishes_sending_is_gone() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider);
    // Documented: a FIN means that nobody waits for the answer.
    provider.expect_cancelled("named-finish", |name| {
        let mut client = gateway.client();
        client.send(chat(&format!("{name},ttft=60000"), false));
        provider.wait_for(name);
        let left_ns = Provider::now_ns();
        client.finish();
        client.expect_end();
        left_ns
    });
}

#[test]
fn every_answer_has_an_id_and_a_good_one_is_kept() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider);
    let asked = |id: &str| {
        let request = chat("sim", false).replace("Host:", &format!("X-Request-Id: {id}\r\nHost:"));
        let answer = gateway.ask(request).expect(200);
        let ids: Vec<String> = answer.headers_of("x-request-id").into_iter().map(str::to_owned).collect();
        assert_eq!(ids.len(), 1, "{}", answer.head);
        ids.into_iter().next().unwrap_or_default()
    };
    assert_eq!(asked("mine-1_2"), "mine-1_2");
    for bad in ["a b", "a;b", &"x".repeat(129), "é"] {
        assert_ne!(asked(bad), bad);
    }
    let (one, other) = (gateway.chat("sim"), gateway.chat("sim"));
    assert_ne!(one.header("x-request-id"), other.header("x-request-id"));
}

#[test]
fn many_connections_are_served_at_once() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider);
    let mut clients: Vec<Client> = (0..200).map(|_| gateway.client()).collect();
    for client in &mut clients {
        client.send(post("/v1/chat/completions", &chat_body(&model("sim,ttft=20"), false)));
    }
    for client in &mut clients {
        client.answer().expect(200);
    }
}
