//! Where a request goes: routes by what it says of itself, shares, aliases, and what is told of it on the reply.

use std::collections::BTreeSet;

use crate::support::{Answer, Gateway, Provider, State, chat_with, provider_table};

/// Two providers, `sim` and `two`, and these tables.
fn with_routes(one: &Provider, two: &Provider, tables: &str) -> Gateway {
    Gateway::with_tables(one, &second(two, tables))
}

fn second(two: &Provider, tables: &str) -> String {
    format!("{}{tables}\n", provider_table("two", two.address))
}

/// `{provider}/{model}`, as the reply says where it came from.
#[track_caller]
fn served(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{}{}", answer.head, answer.text());
    format!("{}/{}", answer.told("provider"), answer.told("model"))
}

#[track_caller]
fn expect_served(gateway: &Gateway, model: &str, headers: &[&str], expect: &str) {
    let answer = gateway.ask(chat_with(model, headers, false));
    assert_eq!(served(&answer), expect, "{model} with {headers:?}");
    // The provider says which model it was asked for.
    assert_eq!(answer.json()["model"], expect.split_once('/').expect("an address").1);
}

const SUPPORT: &str = r#"
[[route]]
name = "support"
if = { field = "metadata.plan", op = "==", value = "pro" }
then = { model = "two/pro" }
else = { model = "sim/plain" }
"#;

#[test]
fn metadata_decides_and_what_is_missing_is_unequal() {
    let (one, two) = (Provider::start(), Provider::start());
    let tables = format!(
        "{SUPPORT}[[route]]\nname = \"unequal\"\nif = {{ field = \"metadata.plan\", op = \"!=\", value = \"pro\" }}\n\
         then = {{ model = \"two/other\" }}\nelse = {{ model = \"sim/pro\" }}\n"
    );
    let gateway = with_routes(&one, &two, &tables);
    for name in ["x-ai-route-metadata", "cf-aig-metadata"] {
        for (value, is_pro) in [
            (r#"{"plan":"pro"}"#, true),
            (r#"{"a":1,"plan" : "\u0070ro","b":true}"#, true),
            (r#"{"plan":"free"}"#, false),
            (r#"{"plan":"pro "}"#, false),
            (r#"{"plan":1}"#, false),
            (r#"{"Plan":"pro"}"#, false),
            ("{}", false),
        ] {
            let header = format!("{name}: {value}");
            let (equal, unequal) = if is_pro { ("two/pro", "sim/pro") } else { ("sim/plain", "two/other") };
            expect_served(&gateway, "dynamic/support", &[&header], equal);
            expect_served(&gateway, "dynamic/unequal", &[&header], unequal);
        }
    }
    expect_served(&gateway, "dynamic/support", &[], "sim/plain");
    expect_served(&gateway, "dynamic/unequal", &[], "two/other");
    let both = [r#"cf-aig-metadata: {"plan":"free"}"#, r#"x-ai-route-metadata: {"plan":"pro"}"#];
    expect_served(&gateway, "dynamic/support", &both, "two/pro");
}

#[test]
fn metadata_that_cannot_be_read_is_refused_where_a_route_asks_for_it() {
    let (one, two) = (Provider::start(), Provider::start());
    let tables = format!("{SUPPORT}[[route]]\nname = \"blind\"\nmodel = \"sim/blind\"\n");
    let gateway = with_routes(&one, &two, &tables);
    let long = format!("{{\"plan\":\"{}\"}}", "x".repeat(4_096));
    for value in [
        "plan=pro",
        "",
        "[]",
        "\"pro\"",
        "{\"plan\":null}",
        "{\"plan\":{}}",
        "{\"plan\":1,\"plan\":1}",
        &long,
    ] {
        for name in ["x-ai-route-metadata", "cf-aig-metadata"] {
            let header = format!("{name}: {value}");
            for stream in [false, true] {
                let answer = gateway.ask(chat_with("dynamic/support", &[&header], stream));
                assert_eq!(answer.refusal(400), "invalid_metadata", "{header}");
            }
            expect_served(&gateway, "dynamic/blind", &[&header], "sim/blind");
            expect_served(&gateway, "sim/direct", &[&header], "sim/direct");
        }
    }
    let twice = [r#"x-ai-route-metadata: {"plan":"pro"}"#, r#"x-ai-route-metadata: {"plan":"pro"}"#];
    let answer = gateway.ask(chat_with("dynamic/support", &twice, false));
    assert_eq!(answer.refusal(400), "invalid_metadata", "sent twice");
    assert!(two.seen_as("\"pro\"").is_empty() && one.seen_as("\"plain\"").is_empty());
}

#[test]
fn conditions_nest_and_know_their_types() {
    let (one, two) = (Provider::start(), Provider::start());
    let tables = r#"
[[route]]
name = "deep"
if = { all = [{ field = "metadata.age", op = ">=", value = 18 }, { not = { field = "metadata.name", op = "starts_with", value = "bot-" } }] }
[route.then]
if = { any = [{ field = "metadata.tier", op = "in", value = ["gold", "platinum"] }, { field = "metadata.staff", op = "==", value = true }] }
then = { model = "two/best" }
else = { model = "two/good" }
[route.else]
if = { field = "metadata.note", op = "contains", value = "urgent" }
[route.else.then]
model = "sim/urgent"
[route.else.else]
if = { field = "metadata.age", op = "exists" }
then = { model = "sim/young" }
else = { model = "sim/unknown" }
"#;
    let gateway = with_routes(&one, &two, tables);
    for (metadata, expect) in [
        (r#"{"age":18,"tier":"gold"}"#, "two/best"),
        (r#"{"age":18.5,"staff":true}"#, "two/best"),
        (r#"{"age":18,"staff":"true"}"#, "two/good"),
        (r#"{"age":1e2,"tier":"silver"}"#, "two/good"),
        (r#"{"age":18,"tier":"gold","name":"bot-7"}"#, "sim/young"),
        (r#"{"age":17.9,"note":"not urgent"}"#, "sim/urgent"),
        (r#"{"age":"18"}"#, "sim/young"),
        (r#"{"note":"soon"}"#, "sim/unknown"),
        ("{}", "sim/unknown"),
    ] {
        expect_served(&gateway, "dynamic/deep", &[&format!("x-ai-route-metadata: {metadata}")], expect);
    }
}

#[test]
fn stream_header_model_and_tag_decide_too() {
    let (one, two, state) = (Provider::start(), Provider::start(), State::new());
    let (plain, tagged) = (state.create("plain", &[]), state.create("tagged", &["--tag", "beta"]));
    let tables = r#"
[[route]]
name = "stream"
if = { field = "stream", op = "==", value = true }
then = { model = "two/streamed" }
else = { model = "sim/whole" }
[[route]]
name = "header"
if = { field = "header.x-region", op = "in", value = ["eu", "uk"] }
then = { model = "two/near" }
else = { model = "sim/far" }
[[route]]
name = "tag"
if = { field = "caller.tag", op = "==", value = "beta" }
then = { model = "two/new" }
else = { model = "sim/old" }
[[route]]
name = "model"
if = { field = "model", op = "starts_with", value = "gpt-" }
then = { model = "two/asked-by-alias" }
else = { model = "sim/asked-by-route" }
[aliases]
gpt-any = "dynamic/model"
"#;
    let gateway = Gateway::with(&one, &state.setup(&second(&two, tables)));
    let auth = |token: &str| format!("Authorization: Bearer {token}");
    let (plain, tagged) = (auth(&plain), auth(&tagged));
    for (stream, expect) in [(true, "two/streamed"), (false, "sim/whole")] {
        let answer = gateway.ask(chat_with("dynamic/stream", &[&plain], stream));
        assert_eq!(served(&answer), expect);
        assert_eq!(answer.text().contains("data: [DONE]"), stream, "{}", answer.text());
    }
    for (region, expect) in [
        ("x-region: eu", "two/near"),
        ("X-REGION: uk", "two/near"),
        ("x-region: us", "sim/far"),
        ("x-a: eu", "sim/far"),
    ] {
        expect_served(&gateway, "dynamic/header", &[&plain, region], expect);
    }
    expect_served(&gateway, "dynamic/tag", &[&tagged], "two/new");
    expect_served(&gateway, "dynamic/tag", &[&plain], "sim/old");
    expect_served(&gateway, "gpt-any", &[&plain], "two/asked-by-alias");
    expect_served(&gateway, "dynamic/model", &[&plain], "sim/asked-by-route");
}

#[test]
fn shares_are_taken_and_stick() {
    let (one, two) = (Provider::start(), Provider::start());
    let tables = r#"
[[route]]
name = "all"
split = [{ percent = 100, model = "two/all" }]
[[route]]
name = "half"
split = [{ percent = 50, model = "sim/half" }, { percent = 50, model = "two/half" }]
[[route]]
name = "user"
split = [{ percent = 50, model = "sim/half" }, { percent = 50, model = "two/half" }]
sticky_by = "metadata.user"
[[route]]
name = "session"
split = [{ percent = 50, model = "sim/half" }, { percent = 50, model = "two/half" }]
sticky_by = "header.x-session"
"#;
    let gateway = with_routes(&one, &two, tables);
    let asked = |route: &str, headers: &[&str]| served(&gateway.ask(chat_with(route, headers, false)));
    let ways = |all: &[String]| all.iter().cloned().collect::<BTreeSet<_>>().len();
    let all: Vec<_> = (0..20).map(|_| asked("dynamic/all", &[])).collect();
    assert_eq!((ways(&all), all[0].as_str()), (1, "two/all"));
    // By chance one way 60 times: less often than once in 10^17.
    let half: Vec<_> = (0..60).map(|_| asked("dynamic/half", &[])).collect();
    assert_eq!(ways(&half), 2, "half of them go each way");
    for (route, header) in [
        ("dynamic/user", "x-ai-route-metadata: {\"user\":\"u-USER\"}"),
        ("dynamic/session", "X-Session: s-USER"),
    ] {
        let firsts: Vec<_> = (0..30)
            .map(|user| {
                let header = header.replace("USER", &user.to_string());
                let first = asked(route, &[&header]);
                for _ in 0..3 {
                    assert_eq!(asked(route, &[&header]), first, "{header} does not stick");
                }
                first
            })
            .collect();
        assert_eq!(ways(&firsts), 2, "{route}: users are spread");
    }
    // What has no key is spread.
    let keyless: Vec<_> = (0..60).map(|_| asked("dynamic/user", &[])).collect();
    assert_eq!(ways(&keyless), 2);
}

#[test]
fn aliases_lead_by_name_and_by_pattern() {
    let (one, two) = (Provider::start(), Provider::start());
    let tables = format!(
        "{SUPPORT}\n[aliases]\ngpt-4o = \"two/gpt-4o-2024-11-20\"\n\"gpt-*\" = \"two/gpt-*\"\n\"gpt-5*\" = \"sim/five\"\n\
         fast = \"dynamic/support\"\n\"sim/old-*\" = \"two/new-*\"\n\"*\" = \"sim/any\"\n"
    );
    let gateway = with_routes(&one, &two, &tables);
    for (asked, expect) in [
        ("gpt-4o", "two/gpt-4o-2024-11-20"),
        ("gpt-4o-mini", "two/gpt-4o-mini"),
        ("gpt-", "two/gpt-"),
        ("gpt-5-nano", "sim/five"),
        ("claude", "sim/any"),
        ("nobody/claude", "sim/any"),
        ("sim/itself", "sim/itself"),
        ("sim/old-1", "two/new-1"),
        ("two/gpt-4o", "two/gpt-4o"),
        ("fast", "sim/plain"),
        ("dynamic/support", "sim/plain"),
    ] {
        expect_served(&gateway, asked, &[], expect);
    }
    expect_served(&gateway, "fast", &[r#"x-ai-route-metadata: {"plan":"pro"}"#], "two/pro");
    let unread = gateway.ask(chat_with("fast", &["x-ai-route-metadata: ?"], false));
    assert_eq!(unread.refusal(400), "invalid_metadata");
    // No pattern takes what asks for a route.
    assert_eq!(gateway.ask(chat_with("dynamic/none", &[], false)).refusal(404), "model_not_found");
}

#[test]
fn a_plain_model_has_the_fallbacks_of_the_first_table_that_fits() {
    let (one, two) = (Provider::start(), Provider::start());
    let tables = "[[fallback]]\nmatch = \"sim/flaky*\"\nto = [\"two/steady\"]\n\
                  [[fallback]]\nmatch = \"sim/f*\"\nto = [\"two/second\"]\n[aliases]\n\"a-*\" = \"sim/flaky-*\"\n";
    let gateway = with_routes(&one, &two, tables);
    for (asked, expect, attempts) in [
        ("sim/flaky,status=500", "two/steady", "2"),
        ("a-lias,status=500", "two/steady", "2"),
        ("sim/fl,status=500", "two/second", "2"),
        ("sim/flaky-well", "sim/flaky-well", "1"),
    ] {
        let answer = gateway.ask(chat_with(asked, &[], false));
        assert_eq!((served(&answer).as_str(), answer.told("attempts")), (expect, attempts), "{asked}");
        assert_eq!(answer.told("route"), "-", "{asked} is no route");
    }
    let answer = gateway.ask(chat_with("sim/other,status=500", &[], false));
    assert_eq!((answer.status, answer.told("attempts")), (500, "1"), "{}", answer.head);
}

#[test]
fn routes_and_aliases_are_listed_as_models() {
    let (one, two) = (Provider::start(), Provider::start());
    let tables = format!(
        "{SUPPORT}[aliases]\ngpt-4o = \"two/gpt-4o-2024\"\nfast = \"dynamic/support\"\n\"*\" = \"sim/x\"\n"
    );
    let gateway = with_routes(&one, &two, &tables);
    let list = gateway.ask("GET /v1/models HTTP/1.1\r\nHost: g\r\n\r\n").expect(200).json();
    let models = list["data"].as_array().expect("a list");
    let owner = |id: &str| {
        let found: Vec<_> = models.iter().filter(|model| model["id"] == id).collect();
        assert_eq!(found.len(), 1, "{id} in {list}");
        assert_eq!(found[0]["object"], "model");
        found[0]["owned_by"].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(owner("dynamic/support"), "ringway");
    assert_eq!(owner("fast"), "ringway");
    assert_eq!(owner("gpt-4o"), "two");
    assert!(!models.iter().any(|model| model["id"] == "*"), "{list}");
    for id in ["dynamic/support", "dynamic%2Fsupport", "gpt-4o"] {
        let one = gateway.ask(format!("GET /v1/models/{id} HTTP/1.1\r\nHost: g\r\n\r\n")).expect(200).json();
        assert_eq!(one["id"], id.replace("%2F", "/"));
    }
}

#[test]
fn a_route_that_is_not_there_is_no_model() {
    let (one, two) = (Provider::start(), Provider::start());
    let gateway = with_routes(&one, &two, SUPPORT);
    for model in ["dynamic/none", "dynamic/", "dynamic/support/x", "Dynamic/support", "none/x", "bare"] {
        for stream in [false, true] {
            let answer = gateway.ask(chat_with(model, &[], stream));
            assert_eq!(answer.refusal(404), "model_not_found", "{model}");
            assert_eq!(answer.told("provider"), "-", "which providers there are is not told");
        }
    }
}

#[test]
fn every_reply_says_where_it_came_from() {
    let (one, two) = (Provider::start(), Provider::start());
    let tables = format!(
        "{SUPPORT}[[route]]\nname = \"moves\"\nmodel = \"sim/moves,status=500\"\nfallbacks = [\"two/moved\"]\n\
         [[route]]\nname = \"lost\"\nmodel = \"sim/lost,headcut=0\"\nfallbacks = [\"two/lost,status=503\"]\n\
         [[route]]\nname = \"wrong\"\nmodel = \"two/wrong,status=422\"\n\
         [[route]]\nname = \"locked\"\nmodel = \"two/locked,status=401\"\n"
    );
    let gateway = with_routes(&one, &two, &tables);
    for (asked, status, from) in [
        ("sim/direct", 200, ["sim", "direct", "-", "1"]),
        ("dynamic/support", 200, ["sim", "plain", "support", "1"]),
        ("dynamic/moves", 200, ["two", "moved", "moves", "2"]),
        ("dynamic/lost", 503, ["two", "lost,status=503", "lost", "2"]),
        ("dynamic/wrong", 422, ["two", "wrong,status=422", "wrong", "1"]),
        ("dynamic/locked", 502, ["two", "locked,status=401", "locked", "1"]),
        ("sim/direct,status=400", 400, ["sim", "direct,status=400", "-", "1"]),
    ] {
        for stream in [false, true] {
            let answer = gateway.ask(chat_with(asked, &[], stream));
            assert_eq!(answer.status, status, "{asked}: {}{}", answer.head, answer.text());
            let all = ["provider", "model", "route", "attempts"].map(|name| answer.told(name));
            assert_eq!(all, from, "{asked}");
        }
    }
}

#[test]
fn callers_may_use_the_routes_that_their_globs_name() {
    let (one, two, state) = (Provider::start(), Provider::start(), State::new());
    let (some, own) =
        (state.create("some", &["--route", "sup*"]), state.create("own", &["--model", "sim/*"]));
    let tables = format!(
        "{SUPPORT}[[route]]\nname = \"other\"\nmodel = \"sim/other\"\n\
         [aliases]\nto-support = \"dynamic/support\"\nto-other = \"dynamic/other\"\nto-two = \"two/x\"\n"
    );
    let gateway = Gateway::with(&one, &state.setup(&second(&two, &tables)));
    let auth = |token: &str| format!("Authorization: Bearer {token}");
    let (some, own) = (auth(&some), auth(&own));
    let check = |who: &str, model: &str, status: u16| {
        let answer = gateway.ask(chat_with(model, &[who], false));
        assert_eq!(answer.status, status, "{model}: {}", answer.text());
        if status == 403 {
            assert_eq!(answer.refusal(403), "model_not_allowed", "{model}");
        }
    };
    for (model, status) in
        [("dynamic/support", 200), ("to-support", 200), ("dynamic/other", 403), ("to-other", 403)]
    {
        check(&some, model, status);
    }
    // A name is allowed as it is asked for.
    for (model, status) in [("sim/x", 200), ("two/x", 403), ("to-two", 403)] {
        check(&own, model, status);
    }
    let list =
        gateway.ask(format!("GET /v1/models HTTP/1.1\r\nHost: g\r\n{some}\r\n\r\n")).expect(200).json();
    let ids: Vec<_> =
        list["data"].as_array().into_iter().flatten().filter_map(|model| model["id"].as_str()).collect();
    assert!(ids.contains(&"dynamic/support"), "{ids:?}");
    assert!(!ids.contains(&"dynamic/other"), "{ids:?}");
}
