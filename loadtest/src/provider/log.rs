//! What the provider received and what became of it, for tests to ask about afterwards.
//!
//! Every moment is `CLOCK_MONOTONIC` in nanoseconds, so that a test of the same machine can relate it to its own.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use serde_json::{Value, json};

use crate::{clock::now_ns, runtime::PANICS};

/// Most bytes of a request body that the log keeps; its length and hash are always kept.
const BODY_KEPT_BYTES: usize = 64 << 10;

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Still going on.
    Open,
    /// As the script wanted it, faults included.
    Played,
    /// The client left first.
    Aborted,
    /// The request was cut off or could not be decoded.
    Malformed,
}

/// One request.
#[derive(Clone, Debug)]
pub struct Entry {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub body_bytes: usize,
    pub body_fnv: u64,
    pub connection: u64,
    pub request_on_connection: u64,
    pub received_ns: u64,
    pub body_ns: u64,
    pub ended_ns: u64,
    pub status: u16,
    pub outcome: Outcome,
}

/// All that the cores of one provider count and remember together.
#[derive(Debug, Default)]
pub struct Log {
    entries: Mutex<Entries>,
    handshakes: Mutex<Vec<Value>>,
    kept_max: usize,
    accepted: AtomicU64,
    closed: AtomicU64,
    requests: AtomicU64,
    ended: AtomicU64,
    aborted: AtomicU64,
    malformed: AtomicU64,
}

#[derive(Debug, Default)]
struct Entries {
    kept: VecDeque<Entry>,
    // Number of the first entry that is kept.
    first: u64,
}

impl Log {
    /// A log that keeps the last `kept_max` requests; with none it only counts.
    pub fn new(kept_max: usize) -> Self {
        Self { kept_max, ..Self::default() }
    }

    /// Whether entries are kept at all.
    pub fn keeps(&self) -> bool {
        self.kept_max > 0
    }

    /// Notes a TLS handshake; without entries none is kept either.
    pub fn handshake(&self, what: Value) {
        if self.keeps() {
            self.handshakes.lock().unwrap_or_else(PoisonError::into_inner).push(what);
        }
    }

    /// `GET /_sim/tls`: the handshakes, oldest first.
    pub fn handshakes(&self) -> Value {
        Value::Array(self.handshakes.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// Counts a connection, and returns its number.
    pub fn accept(&self) -> u64 {
        self.accepted.fetch_add(1, Ordering::Relaxed)
    }

    /// Counts a connection's end.
    pub fn close(&self) {
        self.closed.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a request whose head has arrived; returns the number by which it may be amended.
    pub fn begin(&self, entry: impl FnOnce() -> Entry) -> u64 {
        self.requests.fetch_add(1, Ordering::Relaxed);
        if self.kept_max == 0 {
            return 0;
        }
        let mut entries = self.entries();
        if entries.kept.len() == self.kept_max {
            entries.kept.pop_front();
            entries.first += 1;
        }
        entries.kept.push_back(entry());
        entries.first + entries.kept.len() as u64 - 1
    }

    /// Adds the body to an entry.
    pub fn body(&self, number: u64, body: &[u8]) {
        self.amend(number, |entry| {
            entry.body = body[..body.len().min(BODY_KEPT_BYTES)].to_vec();
            entry.body_bytes = body.len();
            entry.body_fnv = fnv(body);
            entry.body_ns = now_ns();
        });
    }

    /// Closes an entry.
    pub fn end(&self, number: u64, status: u16, outcome: Outcome) {
        match outcome {
            Outcome::Aborted => drop(self.aborted.fetch_add(1, Ordering::Relaxed)),
            Outcome::Malformed => drop(self.malformed.fetch_add(1, Ordering::Relaxed)),
            Outcome::Open | Outcome::Played => {}
        }
        self.ended.fetch_add(1, Ordering::Relaxed);
        self.amend(number, |entry| {
            entry.status = status;
            entry.outcome = outcome;
            entry.ended_ns = now_ns();
        });
    }

    /// Forgets the entries; the counters go on.
    pub fn clear(&self) {
        let mut entries = self.entries();
        entries.first += entries.kept.len() as u64;
        entries.kept.clear();
    }

    /// A copy of what is kept, oldest first.
    pub fn entries_kept(&self) -> Vec<Entry> {
        self.entries().kept.iter().cloned().collect()
    }

    /// Requests ended since the start.
    pub fn ended(&self) -> u64 {
        self.ended.load(Ordering::Relaxed)
    }

    /// Requests whose head arrived since the start.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// `GET /_sim/log`.
    pub fn to_json(&self) -> Value {
        self.entries().kept.iter().map(Entry::to_json).collect()
    }

    /// `GET /_sim/stats`.
    pub fn stats(&self) -> Value {
        let accepted = self.accepted.load(Ordering::Relaxed);
        json!({
            "connections_accepted": accepted,
            "connections_open": accepted.saturating_sub(self.closed.load(Ordering::Relaxed)),
            "requests": self.requests(),
            "ended": self.ended(),
            "aborted": self.aborted.load(Ordering::Relaxed),
            "malformed": self.malformed.load(Ordering::Relaxed),
            "panics": PANICS.load(Ordering::Relaxed),
            "now_ns": now_ns(),
        })
    }

    fn amend(&self, number: u64, change: impl FnOnce(&mut Entry)) {
        if self.kept_max == 0 {
            return;
        }
        let mut entries = self.entries();
        let Some(index) = number.checked_sub(entries.first) else { return };
        if let Some(entry) = usize::try_from(index).ok().and_then(|index| entries.kept.get_mut(index)) {
            change(entry);
        }
    }

    // A panic under this lock leaves at worst one entry half amended: still worth reading.
    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// The first header of that name, in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn to_json(&self) -> Value {
        let outcome = match self.outcome {
            Outcome::Open => "open",
            Outcome::Played => "played",
            Outcome::Aborted => "aborted",
            Outcome::Malformed => "malformed",
        };
        json!({
            "method": self.method,
            "path": self.path,
            "headers": self.headers.iter().map(|(key, value)| json!([key, value])).collect::<Value>(),
            "body": String::from_utf8_lossy(&self.body),
            "body_bytes": self.body_bytes,
            "body_fnv": format!("{:016x}", self.body_fnv),
            "connection": self.connection,
            "request_on_connection": self.request_on_connection,
            "received_ns": self.received_ns,
            "body_ns": self.body_ns,
            "ended_ns": self.ended_ns,
            "status": self.status,
            "outcome": outcome,
            "client_closed": self.outcome == Outcome::Aborted,
            "client_closed_after_us": (self.outcome == Outcome::Aborted)
                .then(|| self.ended_ns.saturating_sub(self.received_ns) / 1_000),
        })
    }
}

/// FNV-1a, 64 bits: enough to see whether a body arrived as it was sent.
pub fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        Entry {
            method: "POST".into(),
            path: "/v1/x".into(),
            headers: vec![("host".into(), "a".into())],
            body: Vec::new(),
            body_bytes: 0,
            body_fnv: 0,
            connection: 0,
            request_on_connection: 0,
            received_ns: 5_000,
            body_ns: 0,
            ended_ns: 0,
            status: 0,
            outcome: Outcome::Open,
        }
    }

    #[test]
    fn the_hash_is_fnv_1a() {
        assert_eq!(fnv(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn only_the_last_entries_are_kept_and_late_amendments_of_lost_ones_do_nothing() {
        let log = Log::new(2);
        let numbers = [log.begin(entry), log.begin(entry), log.begin(entry)];
        assert_eq!(numbers, [0, 1, 2]);
        log.end(0, 500, Outcome::Aborted);
        log.body(2, b"hello");
        log.end(2, 200, Outcome::Played);
        let kept = log.entries_kept();
        assert_eq!(kept.len(), 2);
        assert_eq!((kept[0].status, kept[0].outcome), (0, Outcome::Open));
        assert_eq!((kept[1].status, kept[1].body_bytes), (200, 5));
        assert_eq!((log.requests(), log.ended()), (3, 2));
    }

    #[test]
    fn clearing_keeps_the_numbers_going() {
        let log = Log::new(8);
        log.begin(entry);
        log.clear();
        let number = log.begin(entry);
        log.end(number, 204, Outcome::Played);
        assert_eq!(log.entries_kept()[0].status, 204);
        assert_eq!(log.to_json().as_array().map(Vec::len), Some(1));
    }

    #[test]
    fn a_log_that_keeps_nothing_still_counts() {
        let log = Log::new(0);
        let number = log.begin(entry);
        log.end(number, 200, Outcome::Aborted);
        assert_eq!(log.stats()["aborted"], 1);
        assert!(log.entries_kept().is_empty());
    }
}
