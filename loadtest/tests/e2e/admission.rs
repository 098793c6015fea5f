//! Who may call, from where, how much: decided before a byte of body, the same on every endpoint.

use std::fs;

use serde_json::Value;

use crate::support::{Answer, Gateway, Provider, Setup, State, chat_body, clock, model, until};

fn limited(limits: &str) -> Setup {
    Setup { provider: limits.to_owned(), ..Setup::default() }
}

/// A request with header lines of the caller's choice.
pub(crate) fn request(method: &str, path: &str, headers: &[&str], content_type: &str, body: &str) -> String {
    let lines: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
    let body_head = if method == "POST" {
        format!("Content-Type: {content_type}\r\nContent-Length: {}\r\n", body.len())
    } else {
        String::new()
    };
    format!("{method} {path} HTTP/1.1\r\nHost: g\r\n{lines}{body_head}\r\n{body}")
}

fn chat(script: &str, headers: &[&str]) -> String {
    request("POST", "/v1/chat/completions", headers, "application/json", &chat_body(&model(script), false))
}

pub(crate) fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}")
}

/// Every endpoint there is, with a request that it would serve.
pub(crate) fn endpoints() -> Vec<(&'static str, &'static str, &'static str, String)> {
    let json = |path, body: &str| ("POST", path, "application/json", body.replace("MODEL", "sim/sim"));
    let form = |path| {
        let part = "--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nsim/sim\r\n--b--\r\n";
        ("POST", path, "multipart/form-data; boundary=b", part.to_owned())
    };
    vec![
        json("/v1/chat/completions", r#"{"model":"MODEL","messages":[{"role":"user","content":"x"}]}"#),
        json("/v1/completions", r#"{"model":"MODEL","prompt":"x"}"#),
        json("/v1/embeddings", r#"{"model":"MODEL","input":"x"}"#),
        json("/v1/responses", r#"{"model":"MODEL","input":"x"}"#),
        json("/v1/moderations", r#"{"model":"MODEL","input":"x"}"#),
        json("/v1/images/generations", r#"{"model":"MODEL","prompt":"x"}"#),
        json("/v1/audio/speech", r#"{"model":"MODEL","input":"x","voice":"v"}"#),
        form("/v1/images/edits"),
        form("/v1/images/variations"),
        form("/v1/audio/transcriptions"),
        form("/v1/audio/translations"),
        ("GET", "/v1/models", "", String::new()),
        ("GET", "/v1/models/sim%2Fsim", "", String::new()),
        ("GET", "/v1/nothing-here", "", String::new()),
        ("OPTIONS", "/v1/chat/completions", "", String::new()),
    ]
}

#[track_caller]
fn expect(answer: &Answer, status: u16, code: &str, what: &str) {
    assert_eq!(answer.status, status, "{what}: {}", answer.text());
    assert_eq!(answer.refusal(status), code, "{what}");
}

#[test]
fn no_endpoint_is_served_to_who_may_not_call() {
    let (provider, state) = (Provider::start(), State::new());
    let good = state.create("good", &[]);
    let disabled = state.create("disabled", &[]);
    let id = disabled.split('_').nth(1).expect("an id");
    state.callers(&["disable", id]);
    let elsewhere = state.create("elsewhere", &["--allow", "192.0.2.0/24"]);
    let unwelcome = state.create("unwelcome", &["--deny", "127.0.0.0/8"]);
    let speaker = state.create("speaker", &["--endpoint", "audio_speech"]);
    let gateway = Gateway::with(&provider, &state.setup(""));

    let (head, secret) = good.rsplit_once('_').expect("a token");
    let wrong_secret = format!("{head}_{}{}", &secret[1..], &secret[..1]);
    let unknown_id = format!("rw_zzzzzzzzzzzzzzzz_{secret}");
    let kinds: Vec<(&str, Vec<String>, u16, &str)> = vec![
        ("nobody", vec![], 401, "invalid_api_key"),
        ("a foreign key", vec![bearer("sk-foreign")], 401, "invalid_api_key"),
        ("an empty bearer", vec!["Authorization: Bearer ".into()], 401, "invalid_api_key"),
        ("a wrong secret", vec![bearer(&wrong_secret)], 401, "invalid_api_key"),
        ("an unknown id", vec![bearer(&unknown_id)], 401, "invalid_api_key"),
        ("two that differ", vec![bearer(&good), format!("x-api-key: {disabled}")], 401, "invalid_api_key"),
        ("a disabled one", vec![bearer(&disabled)], 401, "invalid_api_key"),
        (
            "a deciding header without a token",
            vec!["esa_aigw_auth: Bearer sk-x".into(), bearer(&good)],
            401,
            "invalid_api_key",
        ),
        ("one from elsewhere", vec![bearer(&elsewhere)], 403, "ip_not_allowed"),
        ("one that is unwelcome", vec![bearer(&unwelcome)], 403, "ip_not_allowed"),
    ];
    for (method, path, content_type, body) in endpoints() {
        for (who, headers, status, code) in &kinds {
            let headers: Vec<_> = headers.iter().map(String::as_str).collect();
            let answer = gateway.ask(request(method, path, &headers, content_type, &body));
            expect(&answer, *status, code, &format!("{who} at {method} {path}"));
        }
        let spoken = gateway.ask(request(method, path, &[&bearer(&speaker)], content_type, &body));
        let serves = ["/v1/audio/speech", "/v1/nothing-here"].contains(&path) || method == "OPTIONS";
        if !serves {
            expect(&spoken, 403, "endpoint_not_allowed", path);
        }
        let served = gateway.ask(request(method, path, &[&bearer(&good)], content_type, &body));
        assert!(![401, 403].contains(&served.status), "{path}: {}", served.text());
    }
    // Only the good caller came through.
    let seen = provider.seen().len();
    assert!(seen <= 2 * 11, "{seen} requests reached the provider");
}

#[test]
fn the_deciding_header_stands_beside_a_clients_own_key_and_neither_is_forwarded() {
    let (provider, state) = (Provider::start(), State::new());
    let token = state.create("app", &[]);
    let gateway = Gateway::with(&provider, &state.setup(""));
    for (index, header) in
        ["esa_aigw_auth: Bearer", "esa-aigw-auth: bearer", "x-api-key:", "api-key:", "Authorization: Bearer"]
            .iter()
            .enumerate()
    {
        let name = format!("header{index}x");
        let mine = format!("{header} {token}");
        let mut headers = vec![mine.as_str()];
        if *header != "Authorization: Bearer" {
            headers.push("Authorization: Bearer sk-the-clients-own");
        }
        let answer = gateway.ask(chat(&name, &headers));
        assert_eq!(answer.status, 200, "{header}: {}", answer.text());
        let seen = provider.only(&name);
        let shown = seen.0.to_string();
        assert!(!shown.contains(&token) && !shown.contains("sk-the-clients-own"), "{shown}");
        assert!(!seen.header_names().iter().any(|name| name.contains("aigw") || name.contains("api-key")));
    }
}

#[test]
fn models_that_a_caller_may_not_use_are_refused_and_not_listed() {
    let (provider, state) = (Provider::start(), State::new());
    let some = state.create("some", &["--model", "sim/good*"]);
    let gateway = Gateway::with(&provider, &state.setup(""));
    let header = bearer(&some);
    let refused = gateway.ask(chat("sim", &[&header]));
    expect(&refused, 403, "model_not_allowed", "another model");
    let allowed = gateway.ask(chat("good", &[&header]));
    assert_ne!(allowed.status, 403, "{}", allowed.text());
    let list = until("the list is there", || {
        let answer = gateway.ask(request("GET", "/v1/models", &[&header], "", ""));
        (answer.status == 200).then(|| answer.json())
    });
    let all = list["data"].as_array().expect("a list");
    assert!(
        all.iter().all(|model| model["id"].as_str().is_some_and(|id| id.starts_with("sim/good"))),
        "{list}"
    );
}

#[test]
fn callers_come_and_go_while_the_gateway_runs() {
    let (provider, state) = (Provider::start(), State::new());
    state.create("first", &[]);
    let gateway = Gateway::with(&provider, &state.setup(""));
    let token = state.create("second", &[]);
    let id = token.split('_').nth(1).expect("an id");
    let status = |token: &str| gateway.ask(chat("sim", &[&bearer(token)])).status;
    until("the new caller is known", || (status(&token) == 200).then_some(()));
    let rotated = state.callers(&["rotate", id, "--quiet", "--overlap", "1h"]);
    until("the new token is known", || (status(&rotated) == 200).then_some(()));
    assert_eq!(status(&token), 200, "the former token holds during the overlap");
    state.callers(&["disable", id]);
    until("the caller is gone", || (status(&rotated) == 401).then_some(()));
    assert_eq!(status(&token), 401);
}

#[test]
fn while_the_store_cannot_be_read_nobody_is_let_in_and_afterwards_all_are() {
    let (provider, state) = (Provider::start(), State::new());
    let token = state.create("app", &[]);
    let gateway = Gateway::with(&provider, &state.setup(""));
    let ask = || gateway.ask(chat("sim", &[&bearer(&token)]));
    assert_eq!(ask().status, 200);
    let database = state.path().join("ringway.db");
    let aside = state.path().join("aside.db");
    fs::rename(&database, &aside).expect("it is there");
    let refused = until("the trouble is noticed", || Some(ask()).filter(|answer| answer.status != 200));
    expect(&refused, 503, "callers_unavailable", "no store");
    assert_eq!(gateway.admin("/readyz").status, 503);
    fs::rename(&aside, &database).expect("it is there");
    until("the trouble is over", || (ask().status == 200).then_some(()));
    assert_eq!(gateway.admin("/readyz").status, 200);
}

#[test]
fn a_rate_is_held_and_told() {
    let provider = Provider::start();
    let limit = "[[limit]]\nby = \"gateway\"\nrequests_per_minute = 2\ntokens_per_minute = 100000\n";
    let gateway = Gateway::with(&provider, &limited(limit));
    let first = gateway.chat("sim");
    assert_eq!(first.status, 200, "{}", first.text());
    assert_eq!(first.header("x-ratelimit-limit-requests"), Some("2"));
    assert_eq!(first.header("x-ratelimit-remaining-requests"), Some("1"));
    assert_eq!(first.header("x-ratelimit-limit-tokens"), Some("100000"));
    assert!(first.header("x-ratelimit-reset-requests").is_some_and(|reset| reset.ends_with('s')));
    assert_eq!(gateway.chat("sim").status, 200);
    let third = gateway.chat("sim");
    expect(&third, 429, "rate_limit_exceeded", "the third");
    let wait_ms: u64 = third.header("retry-after-ms").and_then(|ms| ms.parse().ok()).expect("a wait");
    let wait_secs: u64 = third.header("retry-after").and_then(|secs| secs.parse().ok()).expect("a wait");
    assert!((20_000..=30_000).contains(&wait_ms), "{wait_ms}");
    assert_eq!(wait_secs, wait_ms.div_ceil(1_000));
    assert_eq!(third.header("x-ratelimit-remaining-requests"), Some("0"));
    assert_eq!(third.header("x-should-retry"), Some("true"));
}

#[test]
fn who_is_limited_by_what() {
    let (provider, state) = (Provider::start(), State::new());
    let own = state.create("own", &["--requests-per-day", "1"]);
    let other = state.create("other", &[]);
    let limits = "[[limit]]\nby = \"caller\"\nrequests_per_day = 3\n\
                  [[limit]]\nby = \"model\"\nmatch = \"sim/scarce*\"\nrequests_per_day = 1\n\
                  [[limit]]\nby = \"metadata.team\"\nrequests_per_day = 1\n";
    let gateway = Gateway::with(&provider, &state.setup(limits));
    let ask = |token: &str, script: &str, team: Option<&str>| {
        let (auth, metadata) =
            (bearer(token), format!("x-ai-route-metadata: {{\"team\":\"{}\"}}", team.unwrap_or("")));
        let headers = if team.is_some() { vec![&*auth, &*metadata] } else { vec![&*auth] };
        gateway.ask(chat(script, &headers)).status
    };
    assert_eq!((ask(&own, "sim", None), ask(&own, "sim", None)), (200, 429), "its own limit stands above");
    assert_eq!(ask(&other, "scarce0x", Some("a")), 200);
    assert_eq!(ask(&other, "scarce0x", Some("b")), 429, "the model's limit");
    assert_eq!(ask(&other, "sim", Some("a")), 429, "the team's limit");
    let odd = format!("x-ai-route-metadata: {}", "{\"team\":null}");
    let answer = gateway.ask(chat("sim", &[&bearer(&other), &odd]));
    // Four requests were admitted for the caller's three: what was refused later counted as well.
    expect(&answer, 429, "rate_limit_exceeded", "the caller's default limit");
}

#[test]
fn metadata_that_cannot_be_read_is_refused_where_it_decides() {
    let provider = Provider::start();
    let gateway =
        Gateway::with(&provider, &limited("[[limit]]\nby = \"metadata.team\"\nrequests_per_day = 9\n"));
    for value in ["{\"team\":null}", "team=a", "[]", "{\"team\":1,\"team\":2}", "{\"team\":\"a\""] {
        let answer = gateway.ask(chat("sim", &[&format!("x-ai-route-metadata: {value}")]));
        expect(&answer, 400, "invalid_metadata", value);
    }
    let twice = ["x-ai-route-metadata: {\"team\":1}", "x-ai-route-metadata: {\"team\":2}"];
    expect(&gateway.ask(chat("sim", &twice)), 400, "invalid_metadata", "two headers");
    assert_eq!(gateway.ask(chat("sim", &["cf-aig-metadata: {\"team\":1}"])).status, 200);
}

#[test]
fn places_are_left_by_who_ends_and_by_who_is_cut() {
    let provider = Provider::start();
    let gateway =
        Gateway::with(&provider, &limited("[[limit]]\nby = \"gateway\"\nconcurrent_requests = 1\n"));
    let mut slow = gateway.client();
    slow.send(chat("slowplace,ttft=600000", &[]));
    provider.wait_for("slowplace");
    expect(&gateway.chat("sim"), 429, "rate_limit_exceeded", "the second at once");
    drop(slow);
    until("the place is free again", || (gateway.chat("sim").status == 200).then_some(()));
    for script in ["sim,status=500", "sim,cut=10", "sim"] {
        gateway.chat(script);
        until("the place is free again", || (gateway.chat("sim").status == 200).then_some(()));
    }
}

#[test]
fn tokens_are_reserved_and_settled_by_what_came() {
    let provider = Provider::start();
    let gateway =
        Gateway::with(&provider, &limited("[[limit]]\nby = \"gateway\"\ntokens_per_day = 100000\n"));
    let used = |answer: &Answer| {
        let remaining: u64 =
            answer.header("x-ratelimit-remaining-tokens").and_then(|n| n.parse().ok()).expect("told");
        100_000 - remaining
    };
    let first = gateway.chat("sim");
    let reported = first.json()["usage"]["total_tokens"].as_u64().expect("usage");
    let reserved = used(&first);
    assert!(reserved > reported, "{reserved} reserved, {reported} used");
    let second = gateway.chat("sim");
    // What the second sees: what the first really used, and its own reservation.
    assert_eq!(used(&second), reserved + reported);
    assert_eq!(gateway.chat("sim,status=500").status, 500);
    assert_eq!(used(&gateway.chat("sim")), reserved + 2 * reported, "a failure costs nothing");
}

#[test]
fn a_budget_survives_a_restart() {
    let (provider, state) = (Provider::start(), State::new());
    let token = state.create("thrifty", &["--budget-tokens-day", "2000"]);
    let setup = state.setup("");
    let ask = |gateway: &Gateway| gateway.ask(chat("sim", &[&bearer(&token)]));
    let mut spent = 0;
    {
        let mut gateway = Gateway::with(&provider, &setup);
        loop {
            let answer = ask(&gateway);
            if answer.status == 429 {
                expect(&answer, 429, "insufficient_quota", "the budget is spent");
                assert_eq!(answer.header("x-should-retry"), Some("false"));
                break;
            }
            spent += answer.json()["usage"]["total_tokens"].as_u64().expect("usage");
            assert!(spent <= 2_000, "{spent}");
        }
        gateway.program.stop();
    }
    let gateway = Gateway::with(&provider, &setup);
    expect(&ask(&gateway), 429, "insufficient_quota", "still spent");
}

#[test]
fn a_stream_is_cut_where_its_tokens_cross_a_limit_that_says_so() {
    let provider = Provider::start();
    let limit = |cut: &str| {
        limited(&format!("[[limit]]\nby = \"gateway\"\ntokens_per_day = 700\non_exceed = \"{cut}\"\n"))
    };
    let finished = Gateway::with(&provider, &limit("finish")).stream("sim,events=2000,size=400");
    assert!(finished.text().contains("[DONE]"), "{}", finished.head);
    let cut = Gateway::with(&provider, &limit("cut")).stream("sim,events=2000,size=400");
    let text = cut.text();
    assert!(
        !text.contains("[DONE]") && text.contains("rate_limit_exceeded"),
        "{}",
        &text[text.len() - 300..]
    );
}

#[test]
fn caps_bound_what_one_request_may_ask() {
    let (provider, state) = (Provider::start(), State::new());
    let caps = ["--n-max", "2", "--max-tokens-max", "100", "--body-bytes-max", "1000"];
    let token = state.create("small", &caps);
    let gateway = Gateway::with(&provider, &state.setup(""));
    let ask = |body: String| {
        gateway.ask(request("POST", "/v1/chat/completions", &[&bearer(&token)], "application/json", &body))
    };
    let body =
        |more: &str| format!(r#"{{"model":"sim/sim","messages":[{{"role":"user","content":"x"}}]{more}}}"#);
    assert_eq!(ask(body(r#","n":2,"max_tokens":100"#)).status, 200);
    for (more, param) in [
        (r#","n":3,"max_tokens":100"#, "n"),
        (r#","max_tokens":101"#, "max_tokens"),
        (r#","max_completion_tokens":101"#, "max_tokens"),
        ("", "max_tokens"),
    ] {
        let answer = ask(body(more));
        expect(&answer, 400, "invalid_value", more);
        assert_eq!(answer.json()["error"]["param"], Value::from(param));
    }
    let long = format!(r#","max_tokens":1,"user":"{}""#, "x".repeat(1_000));
    expect(&ask(body(&long)), 413, "request_too_large", "a long body");
}

#[test]
fn addresses_are_allowed_and_denied_and_proxies_are_believed_only_when_trusted() {
    let provider = Provider::start();
    let gateway = Gateway::with(
        &provider,
        &limited(
            "[access]\nallow = [\"127.0.0.0/8\", \"203.0.113.0/24\"]\ndeny = [\"203.0.113.66\"]\n\
                  trusted_proxies = [\"127.0.0.0/8\"]\n",
        ),
    );
    let from = |forwarded: &str| gateway.ask(chat("sim", &[&format!("X-Forwarded-For: {forwarded}")])).status;
    assert_eq!(gateway.chat("sim").status, 200);
    assert_eq!(from("203.0.113.7"), 200);
    assert_eq!(from("203.0.113.66"), 403);
    assert_eq!(from("203.0.113.7, 198.51.100.1"), 403, "the right-most untrusted hop counts");
    assert_eq!(from("198.51.100.1, 203.0.113.7, 127.0.0.9"), 200);
    assert_eq!(from("::ffff:203.0.113.66"), 403, "a mapped address is the address");
    for malformed in ["nonsense", "203.0.113.7,", "203.0.113.7:x", "203.0.113.007"] {
        assert_eq!(from(malformed), 403, "{malformed}");
    }
    let untrusting = Gateway::with(&provider, &limited("[access]\nallow = [\"127.0.0.0/8\"]\n"));
    let forged = untrusting.ask(chat("sim", &["X-Forwarded-For: 203.0.113.7"]));
    assert_eq!(forged.status, 200, "nobody's word is taken: the peer counts");
}

#[test]
fn an_address_has_only_so_many_connections_at_once() {
    let provider = Provider::start();
    let setup = Setup { limits: "connections_per_address = 3\n".into(), ..Setup::default() };
    let gateway = Gateway::with(&provider, &setup);
    let turned_away = || gateway.total("rw_connections_turned_away_total", "");
    let before = turned_away();
    let mut held: Vec<_> = (0..3).map(|_| gateway.client()).collect();
    for client in &mut held {
        assert_eq!(client.ask(chat("sim", &[])).status, 200);
    }
    gateway.client().expect_silent_end();
    until("the fourth is counted", || (turned_away() > before).then_some(()));
    assert_eq!(held[0].ask(chat("sim", &[])).status, 200, "who is there stays");
    drop(held.pop());
    until("a place is free again", || gateway.client().is_answered(chat("sim", &[])).then_some(()));
}

/// Seconds of overload.
fn overload_secs() -> u64 {
    std::env::var("RINGWAY_TEST_OVERLOAD_SECS").ok().and_then(|secs| secs.parse().ok()).unwrap_or(3)
}

#[test]
fn what_is_admitted_under_overload_is_the_limit_within_one_percent() {
    const RATE: u64 = 200;
    const BURST: u64 = 20;
    let provider = Provider::start();
    let setup = Setup {
        server: "cores = 2\n".into(),
        provider: format!("[[limit]]\nby = \"gateway\"\nrequests_per_second = {RATE}\nburst = {BURST}\n"),
        ..Setup::default()
    };
    let gateway = Gateway::with(&provider, &setup);
    let span = std::time::Duration::from_secs(overload_secs());
    let began = clock();
    // Eight clients that never rest ask for far more than is there, over both cores.
    let counts: Vec<(u64, u64)> = std::thread::scope(|scope| {
        let askers: Vec<_> = (0..8)
            .map(|_| {
                let mut client = gateway.client();
                scope.spawn(move || {
                    let (mut admitted, mut refused) = (0, 0);
                    while began.elapsed() < span {
                        match client.ask(chat("sim", &[])).status {
                            200 => admitted += 1,
                            429 => refused += 1,
                            other => panic!("status {other}"),
                        }
                    }
                    (admitted, refused)
                })
            })
            .collect();
        askers.into_iter().map(|asker| asker.join().expect("it counts")).collect()
    });
    let elapsed_us = u64::try_from(began.elapsed().as_micros()).expect("short");
    let (admitted, refused) = counts.iter().fold((0, 0), |sum, count| (sum.0 + count.0, sum.1 + count.1));
    let due = BURST + RATE * elapsed_us / 1_000_000;
    println!("{admitted} admitted, {due} due, {refused} refused in {elapsed_us} µs (CI 3 s, full 60 s)");
    assert!(refused > admitted, "this was no overload");
    assert!(admitted.abs_diff(due) * 100 <= due + 100, "{admitted} admitted, {due} due");
}
