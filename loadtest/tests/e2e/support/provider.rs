//! A simulated provider in a process of its own, and what it remembers.

use std::net::SocketAddr;

use ringway_load::clock::now_ns;
use serde_json::Value;

use super::{CANCEL_MAX, Client, Program, chat_body, post, until};

pub(crate) struct Provider {
    pub(crate) address: SocketAddr,
    #[expect(dead_code, reason = "ends the process when it is dropped")]
    program: Program,
}

/// One request as the provider received it.
#[derive(Clone, Debug)]
pub(crate) struct Seen(pub(crate) Value);

impl Provider {
    pub(crate) fn start() -> Self {
        let mut program = Program::start("ringway-load", &["provider", "--listen", "127.0.0.1:0"]);
        let address = program.line("its address", listening);
        Self { address, program }
    }

    /// One that listens there.
    pub(crate) fn at(address: SocketAddr) -> Self {
        let mut program = Program::start("ringway-load", &["provider", "--listen", &address.to_string()]);
        program.line("its address", |line| line.contains("listening on").then_some(()));
        Self { address, program }
    }

    /// One that speaks TLS, too; returns the address where it does.
    pub(crate) fn with_tls(arguments: &[&str]) -> (Self, SocketAddr) {
        let all = [&["provider", "--listen", "127.0.0.1:0"], arguments].concat();
        let mut program = Program::start("ringway-load", &all);
        let address = program.line("its address", listening);
        let tls = program.line("its other address", |line| listening(line.strip_suffix(" with TLS")?));
        (Self { address, program }, tls)
    }

    /// The TLS handshakes so far, oldest first.
    pub(crate) fn handshakes(&self) -> Vec<Value> {
        let log = self.ask("GET /_sim/tls HTTP/1.1\r\nHost: sim\r\n\r\n").json();
        log.as_array().expect("the log is a list").clone()
    }

    /// What the provider itself answers to this request.
    #[track_caller]
    pub(crate) fn ask(&self, request: impl AsRef<[u8]>) -> super::Answer {
        Client::connect(self.address).allowing_trailers().ask(request)
    }

    /// The events of this script as a client that did not ask for usage should get them.
    ///
    /// The gateway does ask, which changes events; what it then removes is the event that holds nothing else.
    #[track_caller]
    pub(crate) fn events(&self, script: &str) -> String {
        let body = chat_body(script, true);
        let body =
            body.replace("\"stream\":true", "\"stream\":true,\"stream_options\":{\"include_usage\":true}");
        let text = self.ask(post("/v1/chat/completions", &body)).text();
        let end = ["\r\n\r\n", "\r\r", "\n\n"].into_iter().find(|end| text.contains(end)).unwrap_or("\n\n");
        text.split_inclusive(end).filter(|event| !event.contains("\"choices\":[]")).collect()
    }

    /// All requests for an endpoint so far, oldest first.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        let log = self.ask("GET /_sim/log HTTP/1.1\r\nHost: sim\r\n\r\n").json();
        log.as_array().expect("the log is a list").iter().cloned().map(Seen).collect()
    }

    /// The requests whose model is named so.
    pub(crate) fn seen_as(&self, name: &str) -> Vec<Seen> {
        self.seen().into_iter().filter(|seen| seen.body().contains(name)).collect()
    }

    /// The one request whose model is named so.
    #[track_caller]
    pub(crate) fn only(&self, name: &str) -> Seen {
        let mut seen = self.seen_as(name);
        assert_eq!(seen.len(), 1, "the provider saw {} requests for {name}", seen.len());
        seen.remove(0)
    }

    /// Waits until the request is there.
    #[track_caller]
    pub(crate) fn wait_for(&self, name: &str) -> Seen {
        until(&format!("the provider got {name}"), || self.seen_as(name).pop())
    }

    /// `leave` starts a request by this name, leaves, and returns the moment: the provider must learn of it at once.
    ///
    /// Every time it must learn of it; within the bound it must in one of five tries, for the machine may be busy.
    #[track_caller]
    pub(crate) fn expect_cancelled(&self, name: &str, mut leave: impl FnMut(&str) -> u64) {
        let mut late_us = Vec::new();
        for round in 0..5 {
            let name = format!("{name}-{round}x");
            let left_ns = leave(&name);
            let seen = until(&format!("{name} was cancelled"), || {
                self.seen_as(&name).into_iter().find(|seen| seen.0["outcome"] == "aborted")
            });
            let late_ns = seen.number("ended_ns").saturating_sub(left_ns);
            if u128::from(late_ns) <= CANCEL_MAX.as_nanos() {
                return;
            }
            late_us.push(late_ns / 1_000);
        }
        panic!("{name} was cancelled only {late_us:?} µs after the client left");
    }

    /// The clock of the log.
    pub(crate) fn now_ns() -> u64 {
        now_ns()
    }
}

/// The address in a line that says where something listens.
fn listening(line: &str) -> Option<SocketAddr> {
    let address = &line[line.find("127.0.0.1:")?..];
    let end = address.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == ':')).unwrap_or(address.len());
    address[..end].parse::<SocketAddr>().ok().filter(|address| address.port() != 0)
}

impl Seen {
    pub(crate) fn body(&self) -> &str {
        self.0["body"].as_str().unwrap_or_default()
    }

    #[track_caller]
    pub(crate) fn number(&self, member: &str) -> u64 {
        self.0[member].as_u64().unwrap_or_else(|| panic!("no number {member} in {}", self.0))
    }

    /// The values of all headers of that name.
    pub(crate) fn headers(&self, name: &str) -> Vec<&str> {
        let headers = self.0["headers"].as_array().into_iter().flatten();
        let named = headers.filter(|pair| pair[0].as_str().is_some_and(|key| key.eq_ignore_ascii_case(name)));
        named.filter_map(|pair| pair[1].as_str()).collect()
    }

    pub(crate) fn header_names(&self) -> Vec<String> {
        let headers = self.0["headers"].as_array().into_iter().flatten();
        headers.filter_map(|pair| pair[0].as_str()).map(str::to_ascii_lowercase).collect()
    }
}
