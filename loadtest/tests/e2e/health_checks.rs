//! Active health checks: a provider that is down is asked nothing, and is asked again when it is back.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    thread,
};

use crate::support::{Gateway, Provider, chat_with, own_address, provider_table, until};

/// Answers every request on a port of its own with the status that is set, until the test's process ends.
struct Watched {
    address: SocketAddr,
    status: Arc<AtomicU16>,
}

impl Watched {
    fn start() -> Self {
        let listener = TcpListener::bind((own_address(), 0)).expect("a free port");
        let address = listener.local_addr().expect("bound");
        let status = Arc::new(AtomicU16::new(200));
        let told = Arc::clone(&status);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let mut reader = BufReader::new(&stream);
                let head: Vec<_> = reader
                    .by_ref()
                    .lines()
                    .map_while(Result::ok)
                    .take_while(|line| !line.is_empty())
                    .collect();
                let request = head.first().cloned().unwrap_or_default();
                let length = head.iter().find_map(|line| {
                    line.to_ascii_lowercase().strip_prefix("content-length: ").and_then(|n| n.parse().ok())
                });
                // All of it: what is left unread would be answered with a reset.
                let _ = std::io::copy(&mut reader.by_ref().take(length.unwrap_or(0)), &mut std::io::sink());
                let status = if request == "GET /up HTTP/1.1" { told.load(Ordering::SeqCst) } else { 404 };
                let body =
                    format!("HTTP/1.1 {status} Said\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                let _ = (&stream).write_all(body.as_bytes());
            }
        });
        Self { address, status }
    }

    fn says(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }
}

const RULES: &str = "health_check = { path = \"/up\", interval_secs = 0.1, timeout_secs = 5, unhealthy_after = 2, healthy_after = 2 }\n";

#[test]
fn a_provider_that_is_down_is_left_out_until_it_is_back() {
    let (provider, own) = (Provider::start(), Watched::start());
    let tables = format!(
        "[[route]]\nname = \"r\"\nmodel = \"own/m\"\nfallbacks = [\"sim/backup\"]\n{}{RULES}",
        provider_table("own", own.address)
    );
    let gateway = Gateway::with_tables(&provider, &tables);
    let up = || gateway.total("rw_provider_up", "\"own\"");
    until("it has been checked", || (gateway.total("rw_health_checks_total", "passed") >= 2.0).then_some(()));
    assert_eq!((up(), gateway.metric("rw_provider_up").len()), (1.0, 1), "nobody is checked unasked");
    // It is up, and serves nothing: that is a matter of the attempt.
    let answer = gateway.ask(chat_with("own/m", &[], false));
    assert_eq!((answer.status, answer.told("attempts")), (404, "1"));

    own.says(503);
    until("it is found down", || (up() == 0.0).then_some(()));
    let answer = gateway.ask(chat_with("dynamic/r", &[], true)).expect(200);
    assert_eq!((answer.told("provider"), answer.told("attempts")), ("sim", "1"), "{}", answer.head);
    let answer = gateway.ask(chat_with("own/m", &[], false));
    assert_eq!(answer.refusal(503), "no_upstream");
    assert_eq!(answer.told("attempts"), "0");
    let ms: u64 = answer.header("retry-after-ms").and_then(|ms| ms.parse().ok()).expect("a time");
    assert!((1..=300).contains(&ms), "two checks, and a fifth more: {ms}");
    // What it answers with is what counts, not that it answers.
    own.says(204);
    let failed = gateway.total("rw_health_checks_total", "failed");
    until("it is checked again", || {
        (gateway.total("rw_health_checks_total", "failed") >= failed + 2.0).then_some(())
    });
    assert_eq!(up(), 0.0);

    own.says(200);
    until("it is up again", || (up() == 1.0).then_some(()));
    assert_eq!(gateway.ask(chat_with("own/m", &[], false)).told("attempts"), "1");
}

#[test]
fn a_reload_keeps_the_verdict_and_ends_it_with_the_check() {
    let (provider, own) = (Provider::start(), Watched::start());
    own.says(500);
    let tables = format!("{}{RULES}", provider_table("own", own.address));
    let mut gateway = Gateway::with_tables(&provider, &tables);
    until("it is found down", || (gateway.total("rw_provider_up", "\"own\"") == 0.0).then_some(()));
    let without = gateway.read_config().replace(RULES, "");
    gateway.write_config(&without);
    gateway.program.signal("HUP");
    gateway.program.line("it was reloaded", |line| line.contains("configuration reloaded").then_some(()));
    let answer = gateway.ask(chat_with("own/m", &[], false));
    assert_eq!((answer.status, answer.told("attempts")), (404, "1"), "{}", answer.head);
    assert!(gateway.metric("rw_provider_up").is_empty());
}
