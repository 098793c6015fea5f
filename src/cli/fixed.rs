//! What a running process cannot change: sockets, threads and bounds that were set up at the start. A reload that asks
//! for it is otherwise taken up whole, and the operator is told what waits for a restart.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use crate::config::{AccessLog, Backend, Cores, Estimate, Otlp, Snapshot, Tracing};

/// These settings as they were at the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fixed {
    listen: Vec<SocketAddr>,
    tls_listen: Vec<SocketAddr>,
    cores: Cores,
    backend: Backend,
    connections_max: usize,
    drain_time: Duration,
    admin: Option<SocketAddr>,
    access_log: AccessLog,
    /// For how long, and how much of it; what is kept can change.
    kept_logs: Option<(Duration, u64)>,
    otlp: Option<Arc<Otlp>>,
    tracing: Tracing,
    /// Whether there is a vocabulary.
    counts_words: bool,
}

impl Fixed {
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        let server = &snapshot.server;
        Self {
            listen: server.listen.clone(),
            tls_listen: server.tls_listen.clone(),
            cores: server.cores.clone(),
            backend: server.backend,
            connections_max: server.connections_max,
            drain_time: server.drain_time,
            admin: snapshot.admin.listen,
            access_log: snapshot.access_log.clone(),
            kept_logs: snapshot.kept_logs.as_ref().map(|kept| (kept.keep_time, kept.bytes_max)),
            otlp: snapshot.otlp.clone(),
            tracing: snapshot.tracing,
            counts_words: snapshot.estimate == Estimate::Bpe,
        }
    }

    /// Gives a snapshot what its cores have to do as it was at the start: a span that nobody exports would be a hole in the
    /// client's trace.
    pub(super) fn hold(&self, snapshot: &mut Snapshot) {
        (snapshot.otlp, snapshot.tracing) = (self.otlp.clone(), self.tracing);
        if snapshot.estimate == Estimate::Bpe && !self.counts_words {
            snapshot.estimate = Estimate::Bytes;
        }
    }

    /// The settings, by their names in the file, in which `wanted` is not what was started with.
    pub(super) fn differences(&self, wanted: &Self) -> Vec<&'static str> {
        let differs = [
            ("server.listen", self.listen != wanted.listen),
            ("server.tls_listen", self.tls_listen != wanted.tls_listen),
            ("server.cores", self.cores != wanted.cores),
            ("server.backend", self.backend != wanted.backend),
            ("server.connections_max", self.connections_max != wanted.connections_max),
            ("server.drain_secs", self.drain_time != wanted.drain_time),
            ("admin.listen", self.admin != wanted.admin),
            ("logs", self.kept_logs != wanted.kept_logs),
            ("otlp", self.otlp != wanted.otlp),
            ("usage.estimate", wanted.counts_words && !self.counts_words),
            ("access_log", self.access_log != wanted.access_log),
        ];
        differs.into_iter().filter_map(|(setting, differs)| differs.then_some(setting)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Fake, compile};

    fn fixed(server: &str, admin: &str) -> Fixed {
        let text = format!(
            "[server]\n{server}\n[admin]\n{admin}\n\
             [[provider]]\nname = \"p\"\nauth = \"none\"\nbase_url = \"http://127.0.0.1:1\"\n"
        );
        Fixed::of(&compile(&text, "a test", &Fake::default()).expect("it is in order").snapshot)
    }

    #[track_caller]
    fn check(server: &str, admin: &str, expect: &[&str]) {
        let started = fixed("listen = \"127.0.0.1:1\"", "listen = \"127.0.0.1:2\"");
        assert_eq!(started.differences(&fixed(server, admin)), expect);
    }

    #[test]
    fn each_setting_that_waits_for_a_restart_is_named() {
        const LISTEN: &str = "listen = \"127.0.0.1:1\"\n";
        const ADMIN: &str = "listen = \"127.0.0.1:2\"";
        let with = |more: &str| format!("{LISTEN}{more}");
        check(LISTEN, ADMIN, &[]);
        check("listen = [\"127.0.0.1:1\", \"127.0.0.1:3\"]", ADMIN, &["server.listen"]);
        check(&with("cores = 1"), ADMIN, &["server.cores"]);
        check(&with("backend = \"epoll\""), ADMIN, &["server.backend"]);
        check(&with("connections_max = 77"), ADMIN, &["server.connections_max"]);
        check(&with("drain_secs = 7"), ADMIN, &["server.drain_secs"]);
        check(LISTEN, "listen = \"127.0.0.1:3\"", &["admin.listen"]);
        check(LISTEN, &format!("{ADMIN}\n[access_log]\nto = \"stdout\""), &["access_log"]);
        check(LISTEN, &format!("{ADMIN}\n[state]\ndir = \"/s\"\n[logs]"), &["logs"]);
        check(LISTEN, &format!("{ADMIN}\n[otlp]\nendpoint = \"http://127.0.0.1:4318\""), &["otlp"]);
        check(LISTEN, &format!("{ADMIN}\n[usage]\nestimate = \"bpe\""), &["usage.estimate"]);
        check(LISTEN, &format!("{ADMIN}\n[usage]\nestimate = \"off\""), &[]);
        check(&with("cores = [0]\ndrain_secs = 7"), ADMIN, &["server.cores", "server.drain_secs"]);
    }
}
