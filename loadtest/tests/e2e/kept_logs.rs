//! `[logs]` and `ringway logs`: exchanges that are kept, by chance, by outcome or because the client wants it, and found again.

use std::{fs, path::PathBuf};

use serde_json::Value;

use crate::support::{Gateway, Provider, Setup, chat, own_address, ringway, until};

/// A state directory that ends with its test.
struct State(PathBuf);

impl State {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("ringway-e2e-logs-{}", own_address()));
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }

    fn setup(&self, logs: &str) -> Setup {
        Setup {
            provider: format!("[state]\ndir = {:?}\n[auth]\nrequired = false\n[logs]\n{logs}", self.0),
            ..Setup::default()
        }
    }

    /// What `ringway logs …` finds.
    #[track_caller]
    fn logs(&self, arguments: &[&str]) -> Vec<Value> {
        let dir = self.0.to_str().expect("a plain path");
        let (status, said) = ringway(&[&["logs", arguments[0], "--state", dir], &arguments[1..]].concat());
        assert!(status.success(), "{said}");
        said.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
    }
}

impl Drop for State {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[track_caller]
fn wait_for_kept(gateway: &Gateway, count: f64) {
    until("the exchanges are kept", || (gateway.total("rw_log_kept_total", "") == count).then_some(()));
}

#[test]
fn what_was_kept_is_found_while_the_gateway_runs_and_after() {
    let (provider, state) = (Provider::start(), State::new());
    let mut gateway = Gateway::with(&provider, &state.setup("sample = 1"));
    gateway.ask(chat("sim", false).replace("Host:", "x-request-id: one\r\nHost:")).expect(200);
    gateway.ask(chat("sim,status=429", false));
    gateway.stream("sim").expect(200);
    wait_for_kept(&gateway, 3.0);
    let found = state.logs(&["search", "--since", "1h"]);
    assert_eq!(found.len(), 3);
    let one = state.logs(&["search", "--request-id", "one"]);
    assert_eq!((one.len(), &one[0]["model_asked"]), (1, &"sim/sim".into()));
    assert_eq!(one[0], found[0]);
    assert_eq!(state.logs(&["search", "--model", "*/sim", "--status", "2xx"]).len(), 2);
    assert_eq!(state.logs(&["search", "--status", "5xx"]).len(), 0);
    assert_eq!(state.logs(&["search", "--until", "1h"]).len(), 0);
    assert_eq!(state.logs(&["tail", "-n", "1"])[0]["stream"], true);

    let mut client = gateway.client();
    client.ask(chat("sim", false)).expect(200);
    gateway.program.stop();
    assert_eq!(state.logs(&["search", "--provider", "sim", "--limit", "10"]).len(), 4);
}

#[test]
fn the_client_may_have_its_exchange_kept_or_not() {
    let (provider, state) = (Provider::start(), State::new());
    let gateway = Gateway::with(&provider, &state.setup("sample = 0"));
    let ask = |script: &str, field: &str| {
        gateway.ask(chat(script, false).replace("Host:", &format!("{field}\r\nHost:")))
    };
    ask("sim", "x-request-id: by-chance");
    ask("sim", "x-request-id: wanted\r\nx-ringway-collect-log: true");
    ask("sim", "x-request-id: also\r\ncf-aig-collect-log: true");
    ask("sim,status=400", "x-request-id: unwanted\r\nx-ringway-collect-log: false");
    ask("sim,status=400", "x-request-id: bad");
    wait_for_kept(&gateway, 3.0);
    let ids: Vec<_> = state.logs(&["search"]).iter().map(|line| line["request_id"].clone()).collect();
    assert_eq!(ids, ["wanted", "also", "bad"]);
    for seen in provider.seen() {
        assert!(
            seen.headers("x-ringway-collect-log").is_empty() && seen.headers("cf-aig-collect-log").is_empty()
        );
    }
}

#[test]
fn what_was_kept_survives_a_process_that_is_killed() {
    let (provider, state) = (Provider::start(), State::new());
    for round in 1..=3 {
        let gateway = Gateway::with(&provider, &state.setup("sample = 1"));
        gateway.chat("sim").expect(200);
        wait_for_kept(&gateway, 1.0);
        gateway.program.signal("KILL");
        drop(gateway);
        assert_eq!(state.logs(&["search"]).len(), round);
    }
}

#[test]
fn a_command_that_finds_no_logs_says_what_to_do() {
    let (status, said) = ringway(&["logs", "search", "--state", "/nowhere"]);
    assert!(!status.success() && said.contains("no logs were kept"), "{said}");
}
