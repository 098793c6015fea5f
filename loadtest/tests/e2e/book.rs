//! The book: what was counted is told by `ringway stats` and `/metrics`, and a gateway that is killed loses a second of it.

use std::time::Duration;

use serde_json::Value;

use crate::support::{Client, Gateway, Provider, Setup, State, chat, clock, ringway, rounds, until};

/// What was counted longer ago than this is on disk.
const LOST_MAX: Duration = Duration::from_secs(1);

fn open_setup(state: &State) -> Setup {
    let dir = state.path().to_str().expect("a plain path");
    let tables = format!("[state]\ndir = \"{dir}\"\n[auth]\nrequired = false\n");
    Setup { provider: tables, ..Setup::default() }
}

/// What `ringway stats --json …` says.
#[track_caller]
fn stats(state: &State, more: &[&str]) -> Value {
    let dir = state.path().to_str().expect("a plain path");
    let (status, said) = ringway(&[&["stats", "--state", dir, "--since", "1d", "--json"], more].concat());
    assert!(status.success(), "{said}");
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
}

/// How many requests the book has; none before there is one.
fn counted(state: &State) -> u64 {
    stats(state, &[])["all"]["requests"].as_u64().expect("a number")
}

fn row<'v>(answer: &'v Value, name: &str) -> &'v Value {
    let rows = answer["rows"].as_array().expect("rows");
    rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("no row {name}: {answer:#}"))
}

#[test]
fn what_happened_is_told_by_model_caller_and_status_while_it_runs_and_after() {
    let (provider, state) = (Provider::start(), State::new());
    let token = state.create("frontend", &[]);
    let mut gateway = Gateway::with(&provider, &state.setup(""));
    let with_token =
        |request: String| request.replace("Host:", &format!("Authorization: Bearer {token}\r\nHost:"));
    gateway.ask(with_token(chat("sim", false))).expect(200);
    gateway.ask(with_token(chat("sim", true))).expect(200);
    gateway.ask(with_token(chat("sim,status=400", false))).expect(400);
    gateway.ask(chat("sim", false)).expect(401);
    let mut seen = 0;
    until("four requests are in the book", || {
        let now = counted(&state);
        assert!((seen..=4).contains(&now), "{now} after {seen}");
        seen = now;
        (now == 4).then_some(())
    });

    let by_model = stats(&state, &["--by", "model"]);
    let sim = row(&by_model, "sim/sim");
    assert_eq!((&sim["requests"], &sim["streams"], &sim["attempts"]), (&2.into(), &1.into(), &2.into()));
    assert_eq!((&sim["errors"], &row(&by_model, "")["requests"]), (&0.into(), &1.into()));
    assert!(sim["tokens"]["prompt"].as_u64() > Some(0) && sim["first_token_us"]["count"] == 1, "{sim:#}");
    // Nobody knows what the simulated provider's models cost: that is told, and is not nothing.
    assert_eq!((&sim["requests_without_price"], &sim["cost_nano_usd"]), (&2.into(), &0.into()));
    let by_caller = stats(&state, &["--by", "caller"]);
    assert_eq!(
        (&row(&by_caller, "frontend")["requests"], &row(&by_caller, "")["requests"]),
        (&3.into(), &1.into())
    );
    assert_eq!(by_caller["status"], serde_json::json!({"2xx": 2, "4xx": 2}));
    assert_eq!(by_caller["refusals"][0]["code"], "invalid_api_key");
    let answered = serde_json::json!({"provider": "sim", "result": "answered", "count": 3});
    assert_eq!(by_caller["attempts"], serde_json::json!([answered]));

    assert_eq!(gateway.total("rw_caller_requests_total", "caller=\"frontend\""), 3.0);
    assert_eq!(gateway.total("rw_model_requests_total", "model=\"sim\",class=\"2xx\""), 2.0);
    assert_eq!(
        gateway.total("gen_ai_client_operation_duration_seconds_count", "gen_ai_provider_name=\"sim\""),
        3.0
    );
    assert_eq!(gateway.total("gen_ai_client_operation_duration_seconds_count", "error_type=\"4xx\""), 1.0);

    // What is counted last is written at the end.
    gateway.ask(with_token(chat("sim", false))).expect(200);
    gateway.program.stop();
    assert_eq!(counted(&state), 5);
    let dir = state.path().to_str().expect("a plain path");
    let (status, said) = ringway(&["stats", "--state", dir, "--by", "model"]);
    assert!(status.success() && said.contains("sim/sim") && said.contains("no price"), "{said}");
}

#[test]
fn a_gateway_that_is_killed_at_any_moment_loses_a_second_at_most() {
    let (provider, state) = (Provider::start(), State::new());
    let setup = open_setup(&state);
    let (mut before, mut chance) = (0, 20_261_122_u64);
    for round in 0..(rounds() / 4).max(5) {
        let gateway = Gateway::with(&provider, &setup);
        chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let lives = Duration::from_millis(900 + (chance >> 33) % 1_500);
        let began = clock();
        let mut answered = Vec::new();
        let mut client = Client::connect(gateway.address);
        while clock() - began < lives {
            client.ask(chat("sim", false)).expect(200);
            answered.push(clock());
        }
        let killed = clock();
        gateway.program.signal("KILL");
        drop(gateway);

        let is_old = |moment: &&std::time::Instant| killed.duration_since(**moment) > LOST_MAX;
        let (least, most) = (answered.iter().filter(is_old).count() as u64, answered.len() as u64);
        let now = counted(&state);
        assert!(
            (before + least..=before + most).contains(&now),
            "round {round}: {now} requests in the book, which had {before}; of {most} answered since, {least} more than a second ago"
        );
        before = now;
    }
}

#[test]
fn without_a_state_directory_figures_are_in_memory_alone_and_that_is_said() {
    let provider = Provider::start();
    let mut gateway = Gateway::start(&provider);
    gateway.chat("sim").expect(200);
    until("it is counted", || {
        (gateway.total("rw_model_requests_total", "model=\"sim\"") == 1.0).then_some(())
    });
    assert!(gateway.program.said().contains("figures are in memory alone"));
    let (status, said) = ringway(&["stats", "--state", "/nowhere"]);
    assert!(!status.success() && said.contains("nothing was counted"), "{said}");
}
