//! What every reply says of itself, and what a list of models says to whom.

use serde_json::Value;

use crate::support::{Gateway, Provider, State, chat, chat_with, post, until};

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
    assert_eq!(told(chat("sim", false)), expect(200, ["1", "", "sim", "sim"]));
    assert_eq!(told(chat_with("dynamic/limited", &[], true)), expect(200, ["1", "limited", "sim", "a"]));
    // Refused after its route was known, and nobody was asked.
    assert_eq!(told(chat_with("dynamic/limited", &[], false)), expect(429, ["0", "limited", "", ""]));
    assert_eq!(
        told(chat_with("dynamic/told", &["x-ai-route-metadata: {"], false)),
        expect(400, ["0", "told", "", ""])
    );
    let nothing = ["0", "", "", ""];
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
