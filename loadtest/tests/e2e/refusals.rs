//! Every no has OpenAI's shape, the right status, and an id; what the provider's own refusal says passes through.

use crate::support::{CANARY, Client, Gateway, Provider, Setup, chat, chat_body, model, post};

/// A request, the status it gets, and the code in its error body.
#[track_caller]
fn check(gateway: &Gateway, request: impl AsRef<[u8]>, status: u16, code: &str) {
    let answer = gateway.ask(request);
    assert_eq!(answer.refusal(status), code, "{}", answer.text());
}

#[test]
fn paths_and_methods_that_are_not_served() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider);
    for path in [
        "/",
        "/v1",
        "/v1/",
        "/v1/chat",
        "/v1/chat/completions/",
        "/v1/Chat/completions",
        "/v2/models",
        "/metrics",
    ] {
        gateway.ask(format!("GET {path} HTTP/1.1\r\nHost: g\r\n\r\n")).refusal(404);
    }
    for (method, path, allow) in [
        ("GET", "/v1/chat/completions", "POST"),
        ("PUT", "/v1/embeddings", "POST"),
        ("DELETE", "/v1/models", "GET"),
        ("POST", "/v1/models/gpt-4o", "GET"),
    ] {
        let answer = gateway.ask(format!("{method} {path} HTTP/1.1\r\nHost: g\r\nContent-Length: 0\r\n\r\n"));
        answer.refusal(405);
        assert!(answer.header("allow").is_some_and(|given| given.contains(allow)), "{}", answer.head);
    }
}

#[test]
fn models_that_are_not_there() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider);
    for name in ["nobody/gpt-4o", "gpt-4o", "/gpt-4o", "Sim/sim"] {
        check(&gateway, post("/v1/chat/completions", &chat_body(name, false)), 404, "model_not_found");
    }
    let get = |id: &str| format!("GET /v1/models/{id} HTTP/1.1\r\nHost: g\r\n\r\n");
    check(&gateway, get("nobody%2Fgpt-4o"), 404, "model_not_found");
}

#[test]
fn bodies_that_have_no_one_meaning() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider);
    let deep = format!("{{\"model\":\"sim/sim\",\"x\":{}", "[".repeat(20_000));
    let deeper = format!("{{\"model\":\"sim/sim\",\"x\":{}", "[".repeat(1_000_000));
    let bodies = [
        "",
        "{",
        "[]",
        "null",
        "\"sim/sim\"",
        "{\"model\":\"sim/sim\"} x",
        "{\"model\":\"sim/sim\"}{}",
        "\u{feff}{\"model\":\"sim/sim\"}",
        "{\"messages\":[]}",
        "{\"model\":null}",
        "{\"model\":7}",
        "{\"model\":[\"sim/sim\"]}",
        "{\"model\":\"\"}",
        "{\"model\":\"sim/a b\"}",
        "{\"model\":\"sim/a\\u0000\"}",
        "{\"model\":\"sim/sim\",\"model\":\"sim/sim\"}",
        "{\"model\":\"sim/sim\",\"mod\\u0065l\":\"down/x\"}",
        "{\"model\":\"sim/sim\",\"Model\":\"down/x\"}",
        "{\"model\":\"sim/sim\",\"STREAM\":true}",
        "{\"model\":\"sim/sim\",\"stream\":\"yes\"}",
        "{\"model\":\"sim/sim\",\"api_base\":\"http://x/\"}",
        "{\"model\":\"sim/sim\",\"base_url\":\"http://x/\"}",
        "{\"model\":\"sim/sim\",\"api_key\":\"sk-x\"}",
        "{\"model\":\"sim/sim\",\"x\":\"\\ud800\"}",
        "{\"model\":\"sim/sim\",\"x\":01}",
        "{\"model\":\"sim/sim\",\"x\":NaN}",
        "{\"model\":\"sim/sim\",\"x\":'a'}",
        "{\"model\":\"sim/sim\",}",
        "{\"model\":\"sim/sim\" /* */}",
        deep.as_str(),
        deeper.as_str(),
    ];
    let mut client = gateway.client();
    for body in bodies {
        let answer = client.ask(post("/v1/chat/completions", body));
        answer.refusal(400);
        // The body was read whole, so the connection may be kept; whether it is must be said.
        if answer.closes() {
            client = gateway.client();
        }
    }
    let mut invalid = post("/v1/chat/completions", &chat_body("sim/sim", false)).into_bytes();
    let at = invalid.len() - 30;
    invalid[at] = 0xff;
    gateway.ask(invalid).refusal(400);
    assert!(provider.seen_as("model").is_empty(), "a refused body reached the provider");
}

#[test]
fn what_the_provider_refuses_passes_through() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider);
    for status in [400, 404, 409, 422, 429, 500, 502, 503] {
        for stream in [false, true] {
            let script = format!("sim,status={status}");
            let relayed = gateway.ask(chat(&script, stream)).expect(status);
            let direct = provider.ask(post("/v1/chat/completions", &chat_body(&script, stream)));
            assert_eq!(relayed.text(), direct.text());
            relayed.refusal(status);
        }
    }
    let limited = gateway.chat("named-limit,429=7").expect(429);
    assert_eq!(limited.header("retry-after"), Some("7"), "{}", limited.head);
    provider.only("named-limit");
}

#[test]
fn a_provider_that_cannot_be_reached_is_a_typed_error() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider);
    let answer = gateway.ask(post("/v1/chat/completions", &chat_body("down/any", false)));
    assert!([502, 503].contains(&answer.status), "{}", answer.head);
    answer.refusal(answer.status);
}

#[test]
fn heads_that_must_not_be_believed_are_upstream_errors() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider);
    for kind in [
        "clte", "dupcl", "cl", "te", "version", "status", "fold", "space", "barelf", "nul", "huge", "many",
        "empty", "chunk",
    ] {
        for stream in [false, true] {
            println!("badhead={kind}, stream: {stream}");
            let answer = gateway.ask(chat(&format!("sim,badhead={kind}"), stream));
            // A chunk size that is no number comes after the head: a stream has by then begun.
            if kind == "chunk" && stream && answer.status == 200 {
                assert!(!answer.text().contains("[DONE]"), "{}", answer.text());
                continue;
            }
            answer.refusal(502);
        }
        gateway.chat("sim").expect(200);
    }
}

#[test]
fn redirects_are_never_followed() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider);
    let answer = gateway.chat("named-redirect,redirect");
    answer.refusal(502);
    assert!(answer.header("location").is_none(), "{}", answer.head);
    provider.only("named-redirect");
}

#[test]
fn the_providers_credential_is_nowhere_to_be_seen() {
    let provider = Provider::start();
    let gateway = Gateway::with(&provider, &Setup::default());
    let mut shown = String::new();
    for script in ["sim", "sim,status=401", "sim,status=500", "sim,badhead=nul", "sim,cut=10", "sim,redirect"]
    {
        for stream in [false, true] {
            let answer = gateway.ask(chat(script, stream));
            shown += &format!("{}{}", answer.head, answer.text());
        }
    }
    for path in ["/metrics", "/readyz", "/healthz", "/version"] {
        let answer = Client::connect(gateway.admin).ask(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        shown += &format!("{}{}", answer.head, answer.text());
    }
    assert!(!shown.contains(CANARY), "{shown}");
    let mut gateway = gateway;
    let said = gateway.program.said();
    assert!(!said.contains(CANARY), "{said}");
}

#[test]
fn our_credential_refused_is_not_the_callers_fault() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider);
    for status in [401, 403] {
        gateway
            .ask(post("/v1/chat/completions", &chat_body(&model(&format!("sim,status={status}")), false)))
            .refusal(502);
    }
}
