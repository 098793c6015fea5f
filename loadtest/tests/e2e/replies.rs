//! What every reply says of itself, and what a list of models says to whom.

use serde_json::Value;

use crate::{
    admission::{bearer, endpoints, request},
    support::{Gateway, Provider, Setup, State, chat, chat_with, post, provider_table, until},
};

#[test]
fn every_reply_says_how_many_attempts_it_took_and_by_which_route() {
    let provider = Provider::start();
    let gateway = Gateway::with_tables(
        &provider,
        "[[limit]]\nby = \"model\"\nmatch = \"*limited*\"\nrequests_per_hour = 1\n[[route]]\nname = \"limited\"\nmodel = \"sim/a\"\n\
         [[route]]\nname = \"told\"\nif = { field = \"metadata.plan\", op = \"==\", value = \"pro\" }\nthen.model = \"sim/a\"\nelse.model = \"sim/b\"",
    );
    let told = |request: String| {
        let answer = gateway.ask(request);
        let says = |what| answer.told(what).to_owned();
        (answer.status, says("attempts"), says("route"), says("provider"), says("model"))
    };
    let expect = |status, words: [&str; 4]| {
        let [attempts, route, provider, model] = words.map(str::to_owned);
        (status, attempts, route, provider, model)
    };
    assert_eq!(told(chat("sim", false)), expect(200, ["1", "-", "sim", "sim"]));
    assert_eq!(told(chat_with("dynamic/limited", &[], true)), expect(200, ["1", "limited", "sim", "a"]));
    // Refused after its route was known, and nobody was asked.
    assert_eq!(told(chat_with("dynamic/limited", &[], false)), expect(429, ["0", "limited", "-", "-"]));
    assert_eq!(
        told(chat_with("dynamic/told", &["x-ai-route-metadata: {"], false)),
        expect(400, ["0", "told", "-", "-"])
    );
    let nothing = ["0", "-", "-", "-"];
    assert_eq!(told(chat_with("nobody/m", &[], false)), expect(404, nothing));
    assert_eq!(told(post("/v1/chat/completions", "{")), expect(400, nothing));
    assert_eq!(told("GET /v1/models HTTP/1.1\r\nHost: g\r\n\r\n".to_owned()), expect(200, nothing));
    assert_eq!(told("GET /v1/nothing HTTP/1.1\r\nHost: g\r\n\r\n".to_owned()), expect(404, nothing));
    assert_eq!(
        told("OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: g\r\n\r\n".to_owned()),
        expect(204, nothing)
    );
    assert_eq!(told("GET / HTTP/1.1\r\nHost : g\r\n\r\n".to_owned()), expect(400, nothing));
}

/// What is expected of a reply: nobody was asked, or this provider was.
#[derive(Clone, Copy)]
enum Asked {
    Nobody,
    Once(&'static str),
}

#[test]
fn at_every_endpoint_every_reply_whatever_its_status_says_who_answered() {
    let (provider, state) = (Provider::start(), State::new());
    let [good, spent] = [("good", &[][..]), ("spent", &["--requests-per-day", "1"])]
        .map(|(name, more)| bearer(&state.create(name, more)));
    let elsewhere = bearer(&state.create("elsewhere", &["--allow", "192.0.2.0/24"]));
    let setup = Setup {
        limits: "body_bytes = 8192".to_owned(),
        ..state.setup("[timeouts]\nfirst_byte_secs = 0.3\n[breaker]\nopen_secs = 600\n")
    };
    let gateway = Gateway::with(&provider, &setup);
    let check = |path: &str, request: String, status: u16, asked: Asked| {
        let answer = gateway.ask(request);
        let what = format!("{path}: {}{}", answer.head, answer.text());
        assert_eq!(answer.status, status, "{what}");
        let told = ["provider", "model", "route", "attempts"].map(|name| answer.told(name));
        match asked {
            Asked::Nobody => assert_eq!(told, ["-", "-", "-", "0"], "{what}"),
            Asked::Once(provider) => {
                assert_eq!([told[0], told[2]], [provider, "-"], "{what}");
                assert!(told[1] != "-" && ["1", "2"].contains(&told[3]), "{what}");
            }
        }
    };
    let stream = r#"{"model":"sim/sim","messages":[{"role":"user","content":"x"}],"stream":true}"#;
    let streamed = ("POST", "/v1/chat/completions", "application/json", stream.to_owned());
    gateway.ask(request("GET", "/v1/models", &[&spent], "", ""));
    until("there is a list of models", || {
        (gateway.ask(request("GET", "/v1/models", &[&good], "", "")).status == 200).then_some(())
    });
    // A breaker learns of a provider that is down.
    until("it is known to be down", || {
        let answer = gateway.ask(chat_with("down/any", &[&good], false));
        assert!([502, 503].contains(&answer.status), "{}", answer.head);
        assert_eq!(answer.told("provider"), if answer.told("attempts") == "0" { "-" } else { "down" });
        (answer.status == 503).then_some(())
    });
    let all = endpoints().into_iter().chain([streamed]);
    let served = all.filter(|(method, path, ..)| *method != "OPTIONS" && *path != "/v1/nothing-here");
    // Forms are served only with a file.
    let file = |name: &str| {
        format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"f\"\r\n\r\nx\r\n")
    };
    let files = format!("{}{}--b--", file("image"), file("file"));
    for (number, (method, path, kind, body)) in served.enumerate() {
        let body = body.replace("--b--", &files);
        let ask = |path: &str, who: &str, body: &str| request(method, path, &[who], kind, body);
        let plain = |status, asked| check(path, ask(path, &good, &body), status, asked);
        check(path, request(method, path, &[], kind, &body), 401, Asked::Nobody);
        check(path, ask(path, &elsewhere, &body), 403, Asked::Nobody);
        check(path, ask(path, &spent, &body), 429, Asked::Nobody);
        check(path, ask(&format!("{path}/nothing/here"), &good, &body), 404, Asked::Nobody);
        if method == "GET" {
            plain(200, Asked::Nobody);
            check(path, ask("/v1/models/nobody%2Fm", &good, ""), 404, Asked::Nobody);
            continue;
        }
        plain(200, Asked::Once("sim"));
        let of = |model: &str| ask(path, &good, &body.replace("sim/sim", model));
        check(path, of("nobody/m"), 404, Asked::Nobody);
        check(path, ask(path, &good, "{"), 400, Asked::Nobody);
        check(path, ask(path, &good, &format!("{body}{}", " ".repeat(8192))), 413, Asked::Nobody);
        check(path, of("down/any"), 503, Asked::Nobody);
        for (script, status) in [
            ("status=404", 404),
            ("status=429", 429),
            ("badhead=version", 502),
            ("status=503", 503),
            ("ttft=60000", 504),
        ] {
            // Each is a target of its own: no breaker learns of any.
            check(path, of(&format!("sim/no{number},{script}")), status, Asked::Once("sim"));
        }
    }
}

/// A gateway behind a gateway: each reply tells of the one that it came through last.
#[test]
fn what_another_gateway_said_of_itself_is_not_passed_on() {
    let provider = Provider::start();
    let inner = Gateway::with_tables(&provider, "[[route]]\nname = \"inside\"\nmodel = \"sim/inmost\"");
    let table = provider_table("near", inner.address);
    let outer = Gateway::with_tables(
        &provider,
        &format!("{table}[[route]]\nname = \"outside\"\nmodel = \"near/dynamic/inside\""),
    );
    for stream in [false, true] {
        let answer = outer.ask(chat_with("dynamic/outside", &[], stream)).expect(200);
        let told = ["provider", "model", "route", "attempts"].map(|name| answer.told(name));
        assert_eq!(told, ["near", "dynamic/inside", "outside", "1"]);
    }
}

#[test]
fn a_list_of_models_has_what_its_reader_may_ask_for() {
    let (provider, state) = (Provider::start(), State::new());
    let one = state.create("one", &["--route", "fast", "--model", "sim/*"]);
    let other = state.create("other", &["--route", "slow", "--model", "by-*"]);
    let routes = "[aliases]\n\"by-route\" = \"dynamic/fast\"\n\"by-model\" = \"sim/a\"\n\"sim/hidden\" = \"dynamic/slow\"\n\
                  [[route]]\nname = \"fast\"\nmodel = \"sim/a\"\n[[route]]\nname = \"slow\"\nmodel = \"sim/b\"\n";
    let gateway = Gateway::with(&provider, &state.setup(routes));
    let of = |token: &str, path: &str| {
        gateway.ask(format!("GET {path} HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {token}\r\n\r\n"))
    };
    let listed = |token: &str| {
        let list = of(token, "/v1/models").expect(200).json();
        let ids = list["data"].as_array().into_iter().flatten().filter_map(|model| model["id"].as_str());
        ids.filter(|id| id.starts_with("by-") || id.starts_with("dynamic/") || *id == "sim/hidden")
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    // A route is the same under every name: an alias of it is no model, and a model's glob gives none.
    assert_eq!(listed(&one), ["dynamic/fast", "by-route"]);
    assert_eq!(listed(&other), ["dynamic/slow", "by-model", "sim/hidden"]);
    // And what is listed is what is served.
    for token in [&one, &other] {
        for name in ["dynamic/fast", "dynamic/slow", "by-route", "by-model", "sim/hidden"] {
            let is_listed = listed(token).iter().any(|id| id == name);
            let asked = gateway.ask(chat_with(name, &[&format!("Authorization: Bearer {token}")], false));
            assert_eq!(asked.status == 200, is_listed, "{name}: {}", asked.text());
            let shown = of(token, &format!("/v1/models/{}", name.replace('/', "%2F")));
            assert_eq!(shown.status == 200, is_listed, "{name}: {}", shown.text());
        }
    }
}

#[test]
fn open_breakers_and_the_boards_crowding_are_figures() {
    let provider = Provider::start();
    let gateway = Gateway::with_tables(&provider, "[breaker]\nopen_secs = 600\n");
    let open = |name: &str| gateway.total("rw_breakers_open", &format!("\"{name}\""));
    assert_eq!((open("sim"), open("down"), gateway.metric("rw_breakers_open").len()), (0.0, 0.0, 2));
    for model in ["sim/one,status=500", "sim/two,status=500"] {
        for _ in 0..5 {
            gateway.ask(chat_with(model, &[], false));
        }
    }
    until("they are open", || (open("sim") == 2.0).then_some(()));
    assert_eq!(open("down"), 0.0);
    for metric in ["rw_health_seatless_total", "rw_health_forgotten_total"] {
        let samples: Vec<Value> = gateway.metric(metric).into_iter().map(|(_, value)| value.into()).collect();
        assert!(!samples.is_empty() && samples.iter().all(|value| *value == 0.0), "{metric}: {samples:?}");
    }
}
