//! What people and programs are told of requests, word for word.

use std::net::IpAddr;

use serde_json::Value;

use super::*;
use crate::{
    base::{glob::Glob, prefixes::AccessList},
    cli::explain::{
        account::account,
        asked::{Asked, Unclear},
    },
    config::{
        self, Fake, Snapshot,
        callers::{Caller, Caps, Endpoints, tests::caller},
        relay::OnDisconnect,
    },
    wire::{openai::endpoint::Endpoint, token::TokenId},
};

const PROVIDERS: &str = "
[[provider]]
name = \"openai\"
key = \"sk-canary\"
[[provider]]
name = \"local\"
base_url = \"http://127.0.0.1:9000/v1\"
auth = \"none\"
";

const ROUTE: &str = "
[[route]]
name = \"support\"
if = { field = \"metadata.plan\", op = \"==\", value = \"pro\" }
[route.then]
model = \"openai/gpt-4o\"
fallbacks = [\"local/small\"]
[route.else]
split = [{ percent = 90, model = \"local/small\" }, { percent = 10, model = \"local/tiny\" }]
[aliases]
gpt-4o = \"openai/gpt-4o-2024-11-20\"
help = \"dynamic/support\"
\"*\" = \"local/*\"
";

const REQUIRED: &str = "[state]\ndir = \"/state\"\n[auth]\nrequired = true\n";

fn snapshot(more: &str) -> Snapshot {
    let loaded = config::compile(&format!("{more}{PROVIDERS}"), "t.toml", &Fake::default());
    loaded.unwrap_or_else(|complaints| panic!("{complaints}")).snapshot
}

fn asked(model: &str) -> Asked<'_> {
    Asked {
        model,
        endpoint: Endpoint::ChatCompletions,
        stream: false,
        user: None,
        n: None,
        max_tokens: None,
        metadata: None,
        fields: &[],
        address: IpAddr::from([127, 0, 0, 1]),
        chance: 0,
    }
}

fn ci(change: impl FnOnce(&mut Caller)) -> Caller {
    let mut one = caller(TokenId::draw(&[0; 10]));
    one.name = "ci".into();
    change(&mut one);
    one
}

#[track_caller]
fn told(snapshot: &Snapshot, caller: Option<&Caller>, asked: &Asked<'_>) -> String {
    let account = account(snapshot, caller, asked, 1_000).expect("a request");
    let (text, json) = (text(&account), json(&account));
    assert!(!text.contains("canary") && !json.contains("canary"), "no secret is told");
    text
}

#[track_caller]
fn check(snapshot: &Snapshot, caller: Option<&Caller>, asked: &Asked<'_>, expect: &str) {
    let told = told(snapshot, caller, asked);
    assert_eq!(told, expect.trim_start_matches('\n'), "\n{told}");
}

/// Status and code of the refusal, and what the client is not told of it; all empty for what would be sent.
#[track_caller]
fn check_refusal(snapshot: &Snapshot, caller: Option<&Caller>, asked: &Asked<'_>, expect: (u64, &str, &str)) {
    let account = account(snapshot, caller, asked, 1_000).expect("a request");
    assert_eq!(account.refusal.is_none(), account.request.is_some(), "it is sent or refused");
    let value: Value = serde_json::from_str(&json(&account)).expect("JSON");
    let refusal = &value["refusal"];
    let got = (
        refusal["status"].as_u64().unwrap_or_default(),
        refusal["error"]["code"].as_str().unwrap_or_default(),
        refusal["because"].as_str().unwrap_or_default(),
    );
    assert_eq!(got, expect);
}

#[test]
fn a_models_own_name_needs_little_explanation() {
    check(
        &snapshot(""),
        None,
        &asked("openai/gpt-4o"),
        r#"
model     openai/gpt-4o
endpoint  chat
address   127.0.0.1
caller    anybody: callers are not verified
assumed   every target is well, no limit is used, chance 0

leads to  openai/gpt-4o
targets   1.  openai/gpt-4o  key default  https://api.openai.com/v1/chat/completions
terms     3 attempts at most
timeouts  openai: connect 2s, first byte 300s, between bytes 120s, total 3600s
if left   cancel, as the gateway has it
at most   a body of 33554432 bytes

sends     POST /v1/chat/completions HTTP/1.1
          host: api.openai.com
          authorization: [secret]
          content-type: application/json
          accept-encoding: identity
          content-length: [as the body]
body      model becomes gpt-4o

verdict   it would be sent
"#,
    );
}

#[test]
fn a_route_is_told_node_by_node() {
    let fields = ["x-beta: 1".to_owned(), "user-agent: sdk/1".to_owned()];
    let asked = Asked {
        metadata: Some("{\"plan\":\"pro\",\"team\":\"red\"}"),
        stream: true,
        fields: &fields,
        ..asked("dynamic/support")
    };
    let limits = "
[[limit]]
by = \"gateway\"
requests_per_second = 100
[[limit]]
by = \"address\"
requests_per_minute = 60
burst = 10
[[limit]]
by = \"caller\"
requests_per_day = 1000
tokens_per_day = 5000
[[limit]]
by = \"model\"
match = \"dynamic/*\"
concurrent_requests = 7
[[limit]]
by = \"metadata.team\"
tokens_per_minute = 900
on_exceed = \"cut\"
[[limit]]
by = \"provider\"
match = \"openai\"
concurrent_streams = 3
";
    let own = snapshot("[[limit]]\nby = \"gateway\"\nrequests_per_day = 20\nbudget_tokens_month = 9_000\n");
    let own = own.quotas.gateway.expect("limited").allowance;
    let caller = ci(|caller| {
        caller.allowance = own;
        caller.tags = ["beta".into()].into();
        caller.caps = Caps { n_max: Some(2), max_tokens_max: None, body_bytes_max: Some(1_000) };
    });
    check(
        &snapshot(&format!("{REQUIRED}{ROUTE}{limits}")),
        Some(&caller),
        &asked,
        r#"
model     dynamic/support
endpoint  chat, streamed
address   127.0.0.1
caller    ci (aaaaaaaaaaaaaaaa), tags beta
assumed   every target is well, no limit is used, chance 0

leads to  the route support
passes    if metadata.plan == "pro": true
          serve: openai/gpt-4o, then local/small
branch    then
targets   1.  openai/gpt-4o  key default  https://api.openai.com/v1/chat/completions
          2.  local/small    no key       http://127.0.0.1:9000/v1/chat/completions  (fallback)
terms     3 attempts at most; on to the next also when sent and unanswered
timeouts  openai: connect 2s, first byte 300s, between bytes 120s, total 3600s
          local: connect 2s, first byte 300s, between bytes 120s, total 3600s
if left   cancel, as the gateway has it
limits    address 127.0.0.1: 60 requests per minute, 10 at once
          gateway: 100 requests per second
          caller ci: 20 requests per day
          caller ci: budget of the month 9000 tokens
          caller ci, as every caller: 5000 tokens per day
          model dynamic/support: 7 concurrent requests
          metadata.team red: 900 tokens per minute, and a stream is cut at it
          provider openai: 3 concurrent streams
at most   a body of 1000 bytes, n 2

sends     POST /v1/chat/completions HTTP/1.1
          host: api.openai.com
          authorization: [secret]
          content-type: application/json
          user-agent: sdk/1
          accept-encoding: identity
          content-length: [as the body]
body      model becomes gpt-4o
          stream_options.include_usage is added where it is missing

verdict   it would be sent
"#,
    );
}

#[test]
fn a_refusal_is_told_as_the_client_hears_it() {
    let caller = ci(|caller| caller.models = [Glob::new("openai/*")].into());
    let snapshot = snapshot(&format!("{REQUIRED}{ROUTE}"));
    check(
        &snapshot,
        Some(&caller),
        &asked("local/small"),
        r#"
model     local/small
endpoint  chat
address   127.0.0.1
caller    ci (aaaaaaaaaaaaaaaa)
assumed   every target is well, no limit is used, chance 0

leads to  local/small
targets   1.  local/small  no key  http://127.0.0.1:9000/v1/chat/completions
terms     3 attempts at most
timeouts  local: connect 2s, first byte 300s, between bytes 120s, total 3600s
if left   cancel, as the gateway has it
at most   a body of 33554432 bytes

verdict   refused: 403 model_not_allowed
says      Your API key does not have access to the model `local/small`.
"#,
    );
}

#[test]
fn a_name_is_told_how_it_was_read() {
    let snapshot = snapshot(ROUTE);
    let check = |model: &str, expect: &str| {
        let told = told(&snapshot, None, &asked(model));
        let line = told.lines().find_map(|line| line.strip_prefix("leads to")).expect("told");
        assert_eq!(line.trim(), expect, "{model}");
    };
    check("openai/gpt-4o", "openai/gpt-4o");
    check("gpt-4o", "openai/gpt-4o-2024-11-20, by an alias");
    check("help", "the route support, by an alias");
    check("dynamic/support", "the route support");
    check("anything", "local/anything, by an alias with *");
    check("dynamic/other", "nothing");
}

#[test]
fn chance_decides_what_is_split() {
    let snapshot = snapshot(ROUTE);
    let share = |chance| {
        let told = told(&snapshot, None, &Asked { chance, ..asked("dynamic/support") });
        (told.contains("split: 90 %"), told.contains("split: 10 %"))
    };
    let shares: Vec<_> = (0..64).map(share).collect();
    assert!(shares.contains(&(true, false)) && shares.contains(&(false, true)));
}

#[test]
fn each_refusal_is_the_gateways_own() {
    let (open, required) = (snapshot(ROUTE), snapshot(REQUIRED));
    check_refusal(&open, None, &asked("help"), (0, "", ""));
    let unknown = "no route of that name is configured";
    check_refusal(&open, None, &asked("dynamic/no"), (404, "model_not_found", unknown));
    let unknown = "no provider of that name is configured";
    check_refusal(
        &required,
        None,
        &asked("no/no"),
        (401, "invalid_api_key", "callers are verified, and none is named: say --caller"),
    );
    check_refusal(&required, Some(&ci(|_| ())), &asked("no/no"), (404, "model_not_found", unknown));
    check_refusal(&open, None, &asked(""), (400, "invalid_value", ""));
    let bad = Asked { metadata: Some("{"), ..asked("dynamic/support") };
    check_refusal(&open, None, &bad, (400, "invalid_metadata", ""));
    // Nothing looks at it.
    check_refusal(&open, None, &Asked { metadata: Some("{"), ..asked("openai/gpt-4o") }, (0, "", ""));
    // Unless a limit does.
    let limited = snapshot("[[limit]]\nby = \"metadata.team\"\nrequests_per_day = 1\n");
    let bad = Asked { metadata: Some("{"), ..asked("openai/gpt-4o") };
    check_refusal(&limited, None, &bad, (400, "invalid_metadata", ""));
    let closed = snapshot("[access]\ndeny = [\"192.0.2.0/24\"]\ntrusted_proxies = [\"127.0.0.1\"]\n");
    let from = |forwarded: &str, expect| {
        let fields = [format!("X-Forwarded-For: {forwarded}")];
        check_refusal(&closed, None, &Asked { fields: &fields, ..asked("openai/gpt-4o") }, expect);
    };
    from("192.0.2.9", (403, "ip_not_allowed", "by [access] of the configuration"));
    from("198.51.100.9", (0, "", ""));
    from("what", (403, "ip_not_allowed", "X-Forwarded-For cannot be read"));
}

#[test]
fn each_restriction_of_a_caller_is_told() {
    let required = snapshot(REQUIRED);
    let check = |change: fn(&mut Caller), expect| {
        let asked = Asked { n: Some(3), ..asked("openai/gpt-4o") };
        check_refusal(&required, Some(&ci(change)), &asked, expect);
    };
    check(|_| (), (0, "", ""));
    check(|caller| caller.enabled = false, (401, "invalid_api_key", "the caller is disabled"));
    check(
        |caller| caller.expires_unix_ms = Some(1_000),
        (401, "invalid_api_key", "the caller's token has expired"),
    );
    check(|caller| caller.expires_unix_ms = Some(1_001), (0, "", ""));
    let by = "by the caller's own settings";
    check(
        |caller| caller.endpoints = Some(Endpoints::from_iter([Endpoint::Embeddings])),
        (403, "endpoint_not_allowed", by),
    );
    check(
        |caller| {
            let allow = Some("192.0.2.0/24".parse().into_iter().collect());
            caller.access = Some(Box::new(AccessList { allow, ..AccessList::default() }));
        },
        (403, "ip_not_allowed", by),
    );
    check(|caller| caller.models = [Glob::new("local/*")].into(), (403, "model_not_allowed", ""));
    check(|caller| caller.caps.n_max = Some(2), (400, "invalid_value", ""));
    check(|caller| caller.caps.max_tokens_max = Some(2), (400, "invalid_value", ""));
}

#[test]
fn a_budget_smaller_than_the_request_is_never_enough() {
    let budget =
        |tokens: u64| snapshot(&format!("[[limit]]\nby = \"gateway\"\nbudget_tokens_day = {tokens}\n"));
    let asked = Asked { max_tokens: Some(1_000), ..asked("openai/gpt-4o") };
    check_refusal(&budget(2_000), None, &asked, (0, "", ""));
    let text = told(&budget(1_000), None, &asked);
    assert!(text.contains("refused: 429 insufficient_quota") && text.contains("day of gateway"), "{text}");
}

#[test]
fn balance_pins_and_terms_are_told() {
    let route = "
[[route]]
name = \"r\"
balance = \"cheapest\"
targets = [{ model = \"local/a\", price = 2 }, { model = \"openai/b\", key = \"default\", price = 1 }]
attempts_max = 1
retry_unanswered = false
";
    let text = told(&snapshot(route), None, &asked("dynamic/r"));
    for line in [
        "targets   1.  openai/b  key default, no other  https://api.openai.com/v1/chat/completions",
        "          2.  local/a   no key                 http://127.0.0.1:9000/v1/chat/completions",
        "chosen    the cheapest",
        "terms     1 attempt at most; never on to the next once sent",
    ] {
        assert!(text.lines().any(|told| told == line), "{line}\n{text}");
    }
}

#[test]
fn what_is_done_before_the_first_byte_is_told_of_streams_that_can_go_elsewhere() {
    let route = "
[[route]]
name = \"r\"
model = \"local/a\"
fallbacks = [\"openai/b\"]
hold_back = { events = 8, secs = 0.5 }
hedge_percentile = 95
";
    let stream = |stream| Asked { stream, ..asked("dynamic/r") };
    let line = "early     local: held for 8 events or 500ms; the next asked, too, after 95 % of its times to first token";
    let text = told(&snapshot(route), None, &stream(true));
    assert!(text.lines().any(|told| told == line) && !text.contains("early     openai"), "{text}");
    assert!(!told(&snapshot(route), None, &stream(false)).contains("early"));
}

#[test]
fn what_makes_no_request_is_no_refusal() {
    let snapshot = snapshot("");
    let check = |fields: &[&str], part: &str| {
        let fields: Vec<_> = fields.iter().map(|field| (*field).to_owned()).collect();
        let asked = Asked { fields: &fields, metadata: Some("{}"), ..asked("openai/gpt-4o") };
        match account(&snapshot, None, &asked, 0) {
            Err(Unclear(why)) => assert!(why.contains(part), "{why}"),
            Ok(_) => panic!("{fields:?} make a request"),
        }
    };
    check(&["x: 1\r\ny: 2"], "the end of a line");
    check(&["no colon"], "malformed");
    check(&["host: other"], "Host");
    check(&["content-length: 1"], "Content-Length");
    check(&["Content-Type: text/plain"], "content-type");
    check(&["cf-aig-metadata: {}"], "twice");
    check(&["esa_aigw_auth: what"], "--caller");
}

#[test]
fn control_bytes_do_not_reach_the_terminal() {
    let told = told(&snapshot(""), None, &asked("openai/\u{1b}[31m"));
    assert!(told.lines().all(|line| !line.contains(char::is_control)), "{told:?}");
}

#[test]
fn what_a_silent_stream_a_departure_and_a_check_come_to_is_told() {
    let more = "[relay]\non_disconnect = \"drain\"\nkeep_alive_secs = 15\n";
    let check = "health_check = { path = \"/health\", interval_secs = 5 }\n";
    let routes = "[[route]]\nname = \"early\"\nmodel = \"openai/a\"\nfallbacks = [\"local/a\", \"local/b\"]\nkeep_alive_secs = 2.5\n\
                  keep_alive_commits = true\n[[route]]\nname = \"never\"\nmodel = \"local/a\"\nkeep_alive_secs = 0\n";
    let loaded = config::compile(&format!("{more}{routes}{PROVIDERS}{check}"), "t.toml", &Fake::default());
    let snapshot = loaded.unwrap_or_else(|complaints| panic!("{complaints}")).snapshot;
    let lines = |model: &str, stream: bool, caller: Option<&Caller>| {
        let told = told(&snapshot, caller, &Asked { stream, ..asked(model) });
        let begins =
            |line: &&str| ["silent ", "if left ", "checked "].iter().any(|label| line.starts_with(label));
        told.lines().filter(begins).map(str::to_owned).collect::<Vec<_>>()
    };
    let drain = "if left   drain, as the gateway has it";
    let checked = "checked   local: /health each 5s";
    assert_eq!(
        lines("openai/m", true, None),
        ["silent    openai: a comment after each 15s, from the first event on", drain]
    );
    assert_eq!(lines("openai/m", false, None), [drain]);
    assert_eq!(lines("local/m", false, None), [drain, checked]);
    let early = "silent    openai: a comment after each 2.5s, before the first event, too, which begins the stream with 200";
    assert_eq!(lines("dynamic/early", true, None), [early, drain, checked]);
    let told_early = told(&snapshot, None, &Asked { stream: true, ..asked("dynamic/early") });
    assert_eq!(told_early.matches("a comment after").count(), 2, "once a provider: {told_early}");
    assert_eq!(lines("dynamic/never", true, None), [drain, checked]);
}

#[test]
fn a_departure_is_told_by_the_callers_own_choice() {
    let snapshot = snapshot(REQUIRED);
    for (own, expect) in [
        (None, "if left   cancel, as the gateway has it"),
        (Some(OnDisconnect::Drain), "if left   drain, as the caller has it"),
        (Some(OnDisconnect::DrainUntilUsage), "if left   drain_until_usage, as the caller has it"),
        (Some(OnDisconnect::Cancel), "if left   cancel, as the caller has it"),
    ] {
        let caller = ci(|caller| caller.on_disconnect = own);
        let told = told(&snapshot, Some(&caller), &asked("openai/m"));
        assert!(told.lines().any(|line| line == expect), "{told}");
    }
}
