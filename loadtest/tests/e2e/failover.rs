//! What happens when a provider fails: who is asked next, how often, and what the client is told.
//!
//! One table of faults, each by itself and on all targets, streamed and not. Every case has two providers of its own name
//! and a route over them, so that no breaker, budget or dead key of one case reaches into another.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use socket2::{Domain, SockRef, Socket, Type};

use crate::support::{
    Answer, Client, Ending, Gateway, Provider, Seen, chat_body, chat_with, own_address, pair, post,
};

/// Where a target that fails is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    /// At the simulated provider, which plays its script.
    Sim,
    /// Nobody listens there.
    Refused,
    /// Connections are reset as soon as they are there.
    Reset,
    /// Nothing answers, not even the handshake.
    BlackHole,
    /// The name has no address.
    Nameless,
    /// TLS is asked for, and refused by an alert.
    Alert,
    /// TLS is asked for, and the connection closed.
    NoHandshake,
    /// TLS, with a certificate that nobody has vouched for.
    Unvouched,
}

/// What the client gets.
#[derive(Clone, Copy, Debug)]
struct Expect {
    status: u16,
    /// Of our own refusals, or of the provider's error that is passed on; empty for a success.
    code: &'static str,
    provider: Who,
    /// Attempts in all, at least and at most.
    attempts: (u64, u64),
    /// What the first and the second provider saw.
    seen: (usize, usize),
    should_retry: Option<bool>,
    /// The least that may be told to wait; up to a fifth is added.
    retry_after_ms: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    First,
    Second,
}

/// Which of the targets fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fail {
    First,
    /// After a first that fails in the plainest way; a third stands behind it.
    Second,
    All,
}

/// The first fails, the second serves: `tries` of the first.
const fn moved(tries: u64) -> Expect {
    Expect {
        status: 200,
        code: "",
        provider: Who::Second,
        attempts: (tries + 1, tries + 1),
        #[expect(clippy::cast_possible_truncation, reason = "one or two")]
        seen: (tries as usize, 1),
        should_retry: None,
        retry_after_ms: None,
    }
}

/// Both fail, one attempt each.
const fn lost(status: u16, code: &'static str) -> Expect {
    Expect {
        status,
        code,
        provider: Who::Second,
        attempts: (2, 2),
        seen: (1, 1),
        should_retry: Some(false),
        retry_after_ms: None,
    }
}

/// The first answer is the client's, whatever stands behind it.
const fn passed(status: u16, code: &'static str) -> Expect {
    Expect {
        status,
        code,
        provider: Who::First,
        attempts: (1, 1),
        seen: (1, 0),
        should_retry: None,
        retry_after_ms: None,
    }
}

impl Expect {
    /// The same at a place that keeps no log.
    const fn unseen(self) -> Self {
        let second = if self.status == 200 { 1 } else { 0 };
        Self { seen: (0, second), ..self }
    }

    const fn attempts(self, least: u64, most: u64) -> Self {
        Self { attempts: (least, most), ..self }
    }

    const fn seen(self, first: usize, second: usize) -> Self {
        Self { seen: (first, second), ..self }
    }

    const fn by(self, provider: Who) -> Self {
        Self { provider, ..self }
    }

    const fn wait(self, ms: u64, should_retry: bool) -> Self {
        Self { retry_after_ms: Some(ms), should_retry: Some(should_retry), ..self }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Both,
    Whole,
    Stream,
}

struct Row {
    at: At,
    /// Words of a model's name.
    script: &'static str,
    /// Lines of the route.
    route: &'static str,
    kind: Kind,
    /// The first target alone fails.
    first: Expect,
    /// All targets fail.
    all: Expect,
}

const fn row(script: &'static str, first: Expect, all: Expect) -> Row {
    Row { at: At::Sim, script, route: "", kind: Kind::Both, first, all }
}

impl Row {
    const fn at(self, at: At) -> Self {
        Self { at, ..self }
    }

    const fn of(self, kind: Kind) -> Self {
        Self { kind, ..self }
    }

    const fn on(self, route: &'static str) -> Self {
        Self { route, ..self }
    }
}

const BROKEN: &str = "upstreams_failed";
const SHORT_CONNECT: &str = "timeouts = { connect_secs = 1 }";
const SHORT_FIRST_BYTE: &str = "timeouts = { first_byte_secs = 1 }";
const SHORT_FIRST_TOKEN: &str = "timeouts = { first_token_secs = 1 }";

/// A busy provider's wait of up to a second is waited for, and then it is asked once more.
const TABLE: &[Row] = &[
    // No connection: once more, then elsewhere.
    row("", moved(2).unseen(), lost(503, BROKEN).unseen().attempts(3, 3).by(Who::Second)).at(At::Refused),
    // Whether a byte was written before the reset came is the kernel's secret.
    row("", moved(2).unseen().attempts(2, 3), lost(503, BROKEN).unseen().attempts(2, 3)).at(At::Reset),
    row("", moved(1).unseen(), lost(504, "upstream_timeout").unseen().attempts(2, 3))
        .at(At::BlackHole)
        .on(SHORT_CONNECT),
    // No name: a resolver that has just failed would fail again.
    row("", moved(1).unseen(), lost(503, BROKEN).unseen()).at(At::Nameless),
    // No TLS: not a byte of the request was sent.
    row("", moved(2).unseen(), lost(503, BROKEN).unseen().attempts(3, 3)).at(At::Alert),
    row("", moved(2).unseen(), lost(503, BROKEN).unseen().attempts(3, 3)).at(At::NoHandshake),
    row("", moved(2).unseen(), lost(503, BROKEN).unseen().attempts(3, 3)).at(At::Unvouched),
    // No answer.
    row("headcut=0", moved(1), lost(503, BROKEN)),
    row("ttft=60000", moved(1), lost(504, "upstream_timeout")).on(SHORT_FIRST_BYTE),
    row("head,ttft=60000", moved(1), lost(504, "upstream_timeout")).on(SHORT_FIRST_TOKEN).of(Kind::Stream),
    // An answer that says no for the provider's own reasons.
    row("status=500", moved(1), lost(500, "simulated")),
    row("status=502", moved(1), lost(502, "simulated")),
    row("status=504", moved(1), lost(504, "simulated")),
    row("status=503", moved(1), lost(503, "simulated")),
    row("503=1", moved(2), lost(503, "simulated").attempts(3, 3).seen(2, 1).wait(1_000, true)),
    row("503=20", moved(1), lost(503, "simulated").wait(20_000, true)),
    row("503=90", moved(1), lost(503, "simulated").wait(90_000, false)),
    row("status=529", moved(1), lost(529, "simulated")),
    row("status=429", moved(1), lost(429, "rate_limit_exceeded")),
    row("429=7", moved(1), lost(429, "rate_limit_exceeded").wait(7_000, true)),
    row("status=429,code=slow_down", moved(1), lost(429, "slow_down")),
    // No money and no good key: nothing that time heals, and no key trouble of ours is the client's.
    row("status=429,code=insufficient_quota", moved(1), lost(429, "insufficient_quota")),
    row("429=1,code=insufficient_quota", moved(1), lost(429, "insufficient_quota").wait(1_000, false)),
    row("status=401", moved(1), lost(502, "upstream_auth_failed")),
    row("status=403", moved(1), lost(502, "upstream_auth_failed")),
    // The client's own mistake.
    row("status=400", passed(400, "simulated"), passed(400, "simulated")),
    row("status=404", passed(404, "model_not_found"), passed(404, "model_not_found")),
    row("status=404", moved(1), lost(404, "model_not_found").wait_nothing()).on("retry_missing_model = true"),
    row("status=409", passed(409, "simulated"), passed(409, "simulated")),
    row("status=413", passed(413, "simulated"), passed(413, "simulated")),
    row("status=415", passed(415, "simulated"), passed(415, "simulated")),
    row("status=422", passed(422, "simulated"), passed(422, "simulated")),
    row("status=400,code=content_filter", passed(400, "content_filter"), passed(400, "content_filter")),
    // What makes no sense.
    row("redirect", moved(1), lost(502, "upstream_redirect")),
    row("badhead=version", moved(1), lost(503, BROKEN)),
    row("badhead=clte", moved(1), lost(503, BROKEN)),
    row("badhead=huge", moved(1), lost(503, BROKEN)),
    row("headcut=20", moved(1), lost(503, BROKEN)),
    row("html", moved(1), lost(503, BROKEN)),
    // An answer that is not whole, before any of it was passed on.
    row("cut=0", moved(1), lost(503, BROKEN)),
    row("cut=10", moved(1), lost(503, BROKEN)),
    row("reset=10", moved(1), lost(503, BROKEN)),
    row("cut=499", moved(1), lost(503, BROKEN)).of(Kind::Whole),
];

impl Expect {
    /// Passed on as it came, after other attempts: nothing is added.
    const fn wait_nothing(self) -> Self {
        Self { should_retry: None, retry_after_ms: None, ..self }
    }
}

/// Addresses at which nothing good happens.
struct Places {
    reset: SocketAddr,
    black_hole: SocketAddr,
    alert: SocketAddr,
    no_handshake: SocketAddr,
    unvouched: SocketAddr,
    _kept: (Socket, Vec<TcpStream>, Provider, [PathBuf; 2]),
}

impl Drop for Places {
    fn drop(&mut self) {
        for file in &self._kept.3 {
            let _ = fs::remove_file(file);
        }
    }
}

/// A listener that reads what comes first, says this, and closes.
fn says(answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for mut connection in listener.incoming().flatten() {
            let _ = connection.read(&mut [0; 4096]);
            let _ = connection.write_all(answer);
        }
    });
    address
}

/// A provider with a certificate of its own making.
fn unvouched() -> (Provider, SocketAddr, [PathBuf; 2]) {
    let made =
        rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate can be made");
    let id = own_address();
    let file = |kind: &str, text: String| {
        let file = std::env::temp_dir().join(format!("ringway-e2e-unvouched-{id}.{kind}"));
        fs::write(&file, text).expect("a temporary file can be written");
        file
    };
    let files = [file("cert", made.cert.pem()), file("key", made.signing_key.serialize_pem())];
    let [cert, key] = [0, 1].map(|at| files[at].to_str().expect("a plain path"));
    let (provider, address) = Provider::with_tls(&["--tls-cert", cert, "--tls-key", key]);
    (provider, address, files)
}

impl Places {
    fn new() -> Self {
        let resetting = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let reset = resetting.local_addr().expect("an address");
        thread::spawn(move || {
            for connection in resetting.incoming().flatten() {
                // With no time to linger, closing is a reset.
                let _ = SockRef::from(&connection).set_linger(Some(Duration::ZERO));
            }
        });
        let (hole, kept) = black_hole();
        let address = hole.local_addr().ok().and_then(|address| address.as_socket()).expect("an address");
        let (provider, unvouched, files) = unvouched();
        Self {
            reset,
            black_hole: address,
            // Fatal: handshake_failure.
            alert: says(b"\x15\x03\x03\x00\x02\x02\x28"),
            no_handshake: says(b""),
            unvouched,
            _kept: (hole, kept, provider, files),
        }
    }

    /// The table of a provider of this name at that place.
    fn table(&self, name: &str, at: At, sim: &Provider) -> String {
        let (scheme, authority) = match at {
            At::Sim => ("http", sim.address.to_string()),
            At::Refused => ("http", "127.0.0.1:1".to_owned()),
            At::Reset => ("http", self.reset.to_string()),
            At::BlackHole => ("http", self.black_hole.to_string()),
            // Reserved for names that never have an address (RFC 6761).
            At::Nameless => ("https", "nobody.invalid".to_owned()),
            At::Alert => ("https", self.alert.to_string()),
            At::NoHandshake => ("https", self.no_handshake.to_string()),
            At::Unvouched => ("https", self.unvouched.to_string()),
        };
        format!(
            "[[provider]]\nname = \"{name}\"\nbase_url = \"{scheme}://{authority}/v1\"\nkey = \"sk-{name}\"\n"
        )
    }
}

/// A listener whose backlog is full: further handshakes are not answered.
pub(crate) fn black_hole() -> (Socket, Vec<TcpStream>) {
    let hole = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    hole.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("loopback");
    hole.listen(0).expect("it listens");
    let address = hole.local_addr().expect("an address");
    let fillers = (0..2).map(|_| {
        let filler = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        filler.set_nonblocking(true).expect("it has this mode");
        let _ = filler.connect(&address);
        TcpStream::from(filler)
    });
    let fillers = fillers.collect();
    (hole, fillers)
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or_else(|_| panic!("no number: {text:?}"))
}

/// One cell of the table.
struct Case<'t> {
    row: &'t Row,
    name: String,
    stream: bool,
    fail: Fail,
}

impl Case<'_> {
    fn tables(&self, places: &Places, [one, two, three]: [&Provider; 3]) -> String {
        let Self { row, name, .. } = self;
        let script = if row.script.is_empty() { String::new() } else { format!(",{}", row.script) };
        let (fails, plain, route) = (format!("{name}{script}"), format!("{name},status=500"), row.route);
        let targets = match self.fail {
            Fail::First => vec![("a", row.at, one, &fails), ("b", At::Sim, two, name)],
            Fail::Second => {
                vec![("a", At::Sim, three, &plain), ("b", row.at, one, &fails), ("c", At::Sim, two, name)]
            }
            Fail::All => vec![("a", row.at, one, &fails), ("b", row.at, two, &fails)],
        };
        let models: Vec<_> =
            targets.iter().map(|(letter, _, _, model)| format!("\"{letter}-{name}/{model}\"")).collect();
        let (first, others) = (&models[0], models[1..].join(", "));
        let most = if self.fail == Fail::Second { "attempts_max = 4" } else { "" };
        let tables =
            targets.iter().map(|(letter, at, sim, _)| places.table(&format!("{letter}-{name}"), *at, sim));
        format!("[[route]]\nname = \"{name}\"\nmodel = {first}\nfallbacks = [{others}]\n{most}\n{route}\n")
            + &tables.collect::<String>()
    }

    fn expect(&self) -> Expect {
        let first = self.row.first;
        match self.fail {
            Fail::First => first,
            Fail::Second => first.attempts(first.attempts.0 + 1, first.attempts.1 + 1),
            Fail::All => self.row.all,
        }
    }

    /// What is wrong with an answer; the table shows all of it at once.
    fn wrong(&self, answer: &Answer, one: &[Seen], two: &[Seen]) -> Vec<String> {
        let expect = self.expect();
        let mut wrong = Vec::new();
        let mut check = |what: &str, is: String, wanted: String| {
            if is != wanted {
                wrong.push(format!("{what} is {is}, not {wanted}"));
            }
        };
        check("status", answer.status.to_string(), expect.status.to_string());
        let letter = match (expect.provider, self.fail) {
            (Who::First, Fail::First | Fail::All) => "a",
            (Who::Second, Fail::Second) => "c",
            _ => "b",
        };
        check("provider", answer.told("provider").to_owned(), format!("{letter}-{}", self.name));
        check("route", answer.told("route").to_owned(), self.name.clone());
        let attempts = answer.told("attempts").parse().unwrap_or(0);
        let (least, most) = expect.attempts;
        if !(least..=most).contains(&attempts) {
            check("attempts", attempts.to_string(), format!("{least} to {most}"));
        }
        let word = format!("\"{}", self.name);
        let is_this = |all: &[Seen]| {
            let names_it =
                |body: &str| body.contains(&format!("{word},")) || body.contains(&format!("{word}\""));
            all.iter().filter(|seen| names_it(seen.body())).count()
        };
        check("seen", format!("{:?}", (is_this(one), is_this(two))), format!("{:?}", expect.seen));
        let should_retry = answer.header("x-should-retry").unwrap_or("").to_owned();
        check(
            "x-should-retry",
            should_retry,
            expect.should_retry.map_or(String::new(), |flag| flag.to_string()),
        );
        let waits = ["retry-after-ms", "retry-after"].map(|name| answer.header(name).map(number));
        match (expect.retry_after_ms, waits) {
            (None, [None, None]) => {}
            (Some(least), [Some(ms), Some(secs)])
                if (least..=least + least / 5).contains(&ms) && secs == ms.div_ceil(1_000) => {}
            (expect, is) => check("wait", format!("{is:?}"), format!("{expect:?}")),
        }
        if expect.status == 200 {
            check("ending", format!("{:?}", answer.ending), format!("{:?}", Ending::Whole));
            let is_whole = if self.stream {
                answer.text().ends_with("data: [DONE]\n\n") && !answer.text().contains("\"error\"")
            } else {
                serde_json::from_slice::<serde_json::Value>(&answer.body)
                    .is_ok_and(|json| json["choices"].is_array())
            };
            check("whole", is_whole.to_string(), "true".to_owned());
        } else {
            let json: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
            check("code", json["error"]["code"].as_str().unwrap_or("").to_owned(), expect.code.to_owned());
        }
        wrong
    }
}

#[test]
fn each_fault_has_its_outcome() {
    let (one, two, three) = (Provider::start(), Provider::start(), Provider::start());
    let places = Places::new();
    let mut cases = Vec::new();
    for (index, row) in TABLE.iter().enumerate() {
        for stream in [false, true] {
            if row.kind == (if stream { Kind::Whole } else { Kind::Stream }) {
                continue;
            }
            for (fail, letter) in [(Fail::First, "f"), (Fail::Second, "s"), (Fail::All, "a")] {
                let name = format!("r{index}{}{letter}", if stream { "s" } else { "w" });
                cases.push(Case { row, name, stream, fail });
            }
        }
    }
    let tables: String = cases.iter().map(|case| case.tables(&places, [&one, &two, &three])).collect();
    let gateway = Gateway::with_tables(&one, &tables);
    // Several at once, because many wait for a deadline.
    let (address, next) = (gateway.address, AtomicUsize::new(0));
    let answers: Vec<_> = thread::scope(|scope| {
        let work = || {
            let taken = || cases.get(next.fetch_add(1, Ordering::Relaxed));
            let ask = |case: &Case<'_>| chat_with(&format!("dynamic/{}", case.name), &[], case.stream);
            std::iter::from_fn(taken)
                .map(|case| (case, Client::connect(address).ask(ask(case))))
                .collect::<Vec<_>>()
        };
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("every case has an answer")).collect()
    });
    let (seen_by_one, seen_by_two) = (one.seen(), two.seen());
    let mut failures = Vec::new();
    for (case, answer) in answers {
        let wrong = case.wrong(&answer, &seen_by_one, &seen_by_two);
        if !wrong.is_empty() {
            failures.push(format!(
                "{} `{}` {} {}, {:?} fail: {}\n{}{}",
                case.name,
                case.row.script,
                case.row.route,
                if case.stream { "stream" } else { "whole" },
                case.fail,
                wrong.join("; "),
                answer.head,
                answer.text().chars().take(300).collect::<String>()
            ));
        }
    }
    assert!(failures.is_empty(), "{} of {} cells:\n{}", failures.len(), cases.len(), failures.join("\n"));
}

#[test]
fn a_body_beyond_the_replay_bound_is_sent_once() {
    let (one, two) = (Provider::start(), Provider::start());
    let more = format!(
        "[[route]]\nname = \"unsent\"\nmodel = \"down/x\"\nfallbacks = [\"two/unsent\"]\n{}",
        pair(&two, "long,headcut=0", "longer", "")
    );
    let gateway = Gateway::with_tables(&one, &more);
    let ask = |model: &str, bytes: usize| {
        let body = chat_body(model, false);
        let filler = "x".repeat(bytes - body.len());
        gateway.ask(post("/v1/chat/completions", &body.replace("Say hello.", &format!("Say hello.{filler}"))))
    };
    const MOST: usize = ringway::base::limits::REPLAYED_BODY_BYTES_MAX;
    let answer = ask("dynamic/r", MOST).expect(200);
    assert_eq!((answer.told("provider"), answer.told("attempts")), ("two", "2"));
    let answer = ask("dynamic/r", MOST + 1);
    assert_eq!((answer.status, answer.told("attempts")), (502, "1"), "{}{}", answer.head, answer.text());
    assert_eq!((one.seen_as("\"long,").len(), two.seen_as("\"longer\"").len()), (2, 1));
    // Of which nothing was sent may go elsewhere, however long it is.
    let answer = ask("dynamic/unsent", MOST + 1).expect(200);
    assert_eq!((answer.told("provider"), answer.told("attempts")), ("two", "3"));
}

#[test]
fn the_resetting_place_resets() {
    let places = Places::new();
    let mut connection = TcpStream::connect(places.reset).expect("it listens");
    let read = connection.read(&mut [0; 1]);
    assert!(read.is_err(), "an orderly end: {read:?}");
}
