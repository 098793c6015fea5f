//! A connection to the provider: requests in, plans played out, the log told.

use std::{
    cell::RefCell,
    collections::HashMap,
    os::fd::{AsRawFd, BorrowedFd},
    pin::pin,
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Version, request::Parts};
use monoio::{
    io::AsyncWriteRentExt,
    net::{TcpListener, TcpStream},
};
use serde_json::{Value, json};

use super::{
    answer::{STAMP_DIGITS, answer, refusal},
    asked::{Asked, Endpoint, early_model},
    log::{Entry, Log, Outcome},
    reader::{Broken, Reader},
    respond::{End, Plan, Step, plan},
    script::Script,
};
use crate::{
    clock::now_ns,
    runtime::{First, first, peer_left, reset, shut_down, spawn_guarded},
};

/// How often each name with `times` has been asked for, over all cores.
#[derive(Debug, Default)]
pub(super) struct Memory(Mutex<HashMap<String, u64>>);

impl Memory {
    fn asked_before(&self, model: &str) -> u64 {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(model.to_owned()).or_default();
        *count += 1;
        *count - 1
    }

    fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// One core's side of the provider.
struct Core {
    log: Arc<Log>,
    memory: Arc<Memory>,
    plans: RefCell<HashMap<(String, Bytes), Rc<Plan>>>,
}

/// Plans that are remembered; a load generator sends few different requests.
const PLANS_MAX: usize = 64;
/// Larger bodies are planned anew each time.
const PLANNED_BODY_BYTES_MAX: usize = 4 << 10;
/// How much of an early answer's request is looked at for its model.
const EARLY_BYTES_MAX: usize = 64 << 10;

/// Accepts for ever.
pub(super) async fn accept(listener: TcpListener, log: Arc<Log>, memory: Arc<Memory>) {
    let core = Rc::new(Core { log, memory, plans: RefCell::default() });
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let core = Rc::clone(&core);
                spawn_guarded(async move {
                    let open = Open { number: core.log.accept(), log: Arc::clone(&core.log) };
                    drop(stream.set_nodelay(true));
                    serve(stream, open.number, &core).await;
                });
            }
            // Out of descriptors: some will come back.
            Err(_) => monoio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

struct Open {
    number: u64,
    log: Arc<Log>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.log.close();
    }
}

struct Connection<'a> {
    stream: TcpStream,
    // A second descriptor of the same socket, to be polled for the client's leaving while the first is written.
    watch: Option<TcpStream>,
    reader: Reader,
    core: &'a Core,
    idle_close: Option<Duration>,
}

async fn serve(stream: TcpStream, number: u64, core: &Core) {
    let mut connection = Connection { stream, watch: None, reader: Reader::new(), core, idle_close: None };
    for request in 0.. {
        if !connection.exchange(number, request).await {
            break;
        }
    }
    // The watch holds the socket open for as long as its poll takes to cancel.
    if connection.watch.is_some() {
        shut_down(connection.stream.as_raw_fd());
    }
}

impl Connection<'_> {
    /// Serves one request; whether another may follow.
    async fn exchange(&mut self, connection: u64, request_on_connection: u64) -> bool {
        if !self.wait_for_bytes().await {
            return false;
        }
        let (head, mut decoder) = match self.reader.head(&mut self.stream).await {
            Ok(read) => read,
            Err(Broken::Closed) => return false,
            Err(Broken::Malformed) => {
                let number = self.core.log.begin(|| entry(None, connection, request_on_connection));
                self.core.log.end(number, 400, Outcome::Malformed);
                let refused = refusal(400, "malformed", "the request could not be decoded");
                self.play(&plan(&refused, &Script::default(), false, false), 0).await;
                return false;
            }
        };
        let control = head.uri.path().strip_prefix("/_sim/").map(str::to_owned);
        let number = match control {
            Some(_) => 0,
            None => self.core.log.begin(|| entry(Some(&head), connection, request_on_connection)),
        };
        if head
            .headers
            .get("expect")
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
        {
            let (written, _) = self.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n".as_slice()).await;
            if written.is_err() {
                return false;
            }
        }

        let mut chunks = BytesMut::new();
        let mut answered = None;
        let body = loop {
            match self.reader.body(&mut decoder, &mut chunks) {
                Ok(Some(body)) => break body,
                Ok(None) => {}
                Err(_) => {
                    self.core.log.end(number, 0, Outcome::Malformed);
                    return false;
                }
            }
            if answered.is_none()
                && self.reader.buffered.len() < EARLY_BYTES_MAX
                && let Some(plan) = self.early(&head)
            {
                let outcome = self.play(&plan, now_ns()).await;
                answered = Some((plan.status, outcome));
                if outcome == Outcome::Aborted || plan.end != End::KeepAlive {
                    self.core.log.end(number, plan.status, outcome);
                    return false;
                }
            }
            if self.reader.more(&mut self.stream).await.is_err() {
                self.core.log.end(number, 0, Outcome::Aborted);
                return false;
            }
        };
        if let Some((status, outcome)) = answered {
            self.core.log.body(number, &body);
            self.core.log.end(number, status, outcome);
            return true;
        }
        if let Some(what) = control {
            return self.control(&what, &head).await;
        }
        if self.core.log.keeps() {
            self.core.log.body(number, &body);
        }
        let arrived_ns = now_ns();
        let plan = self.plan_for(&head, &body);
        let outcome = self.play(&plan, arrived_ns).await;
        self.core.log.end(number, plan.status, outcome);
        outcome == Outcome::Played && plan.end == End::KeepAlive
    }

    /// Waits as long as the last script lets a connection be idle; false once that is over.
    async fn wait_for_bytes(&self) -> bool {
        let Some(idle) = self.idle_close.filter(|_| self.reader.buffered.is_empty()) else { return true };
        let readable = pin!(self.stream.readable(false));
        let timer = pin!(monoio::time::sleep(idle));
        matches!(first(readable, timer).await, First::Left(_))
    }

    fn early(&self, head: &Parts) -> Option<Rc<Plan>> {
        let model = early_model(&self.reader.buffered)?;
        let script = Script::parse(&model).ok().filter(|script| script.early)?;
        let asked = Asked::only(Endpoint::of(&head.method, head.uri.path()), model);
        Some(Rc::new(planned(&asked, &script, None, keeps_alive(head), false)))
    }

    fn plan_for(&mut self, head: &Parts, body: &Bytes) -> Rc<Plan> {
        let plain = head.method == Method::POST
            && body.len() <= PLANNED_BODY_BYTES_MAX
            && head.version == Version::HTTP_11
            && !head.headers.contains_key("connection")
            && self.idle_close.is_none();
        let key = plain.then(|| (head.uri.path().to_owned(), body.clone()));
        if let Some(plan) = key.as_ref().and_then(|key| self.core.plans.borrow().get(key).cloned()) {
            return plan;
        }
        let (plan, repeatable) = self.plan_anew(head, body);
        let plan = Rc::new(plan);
        if let Some(key) = key.filter(|_| repeatable) {
            let mut plans = self.core.plans.borrow_mut();
            if plans.len() >= PLANS_MAX {
                plans.clear();
            }
            plans.insert(key, Rc::clone(&plan));
        }
        plan
    }

    /// A plan, and whether the same request will always get the same one.
    fn plan_anew(&mut self, head: &Parts, body: &Bytes) -> (Plan, bool) {
        let keep_alive = keeps_alive(head);
        let refuse = |status, code, message: &str| {
            (plan(&refusal(status, code, message), &Script::default(), keep_alive, false), false)
        };
        let endpoint = Endpoint::of(&head.method, head.uri.path());
        let asked = match Asked::of(endpoint, &head.headers, body) {
            Ok(asked) => asked,
            Err(wrong) => return refuse(400, "bad_request", &wrong),
        };
        let script = Script::parse(&asked.model).and_then(|script| script.with_words_of(&asked.user));
        let mut script = match script {
            Ok(script) => script,
            Err(wrong) => return refuse(400, "bad_script", &wrong),
        };
        let mut repeatable = !script.echo && script.key.is_none() && script.idle_close.is_none();
        if let Some(times) = script.times {
            repeatable = false;
            if self.core.memory.asked_before(&asked.model) >= times {
                script = script.mended();
            }
        }
        if let Some(key) = &script.key {
            let expect = format!("Bearer {key}");
            if head.headers.get("authorization").is_none_or(|given| given.as_bytes() != expect.as_bytes()) {
                return refuse(401, "invalid_api_key", "Incorrect API key provided");
            }
        }
        self.idle_close = script.idle_close;
        let echo = script.echo.then(|| received(head, body));
        (planned(&asked, &script, echo, keep_alive, head.method == Method::HEAD), repeatable)
    }

    /// Writes a plan at its moments, and notices a client that leaves.
    async fn play(&mut self, plan: &Plan, arrived_ns: u64) -> Outcome {
        if !plan.waits() {
            for step in &plan.steps {
                if self.write(step).await.is_err() {
                    return Outcome::Aborted;
                }
            }
            return self.finish(plan.end);
        }
        let Ok(watch) = self.take_watch() else { return Outcome::Aborted };
        let outcome = {
            let mut left = pin!(departure(&watch));
            let mut outcome = Outcome::Played;
            for step in &plan.steps {
                let due_ns = arrived_ns + u64::try_from(step.due.as_nanos()).unwrap_or(u64::MAX);
                let wait = Duration::from_nanos(due_ns.saturating_sub(now_ns()));
                if wait > Duration::ZERO {
                    let timer = pin!(monoio::time::sleep(wait));
                    if let First::Left(()) = first(left.as_mut(), timer).await {
                        outcome = Outcome::Aborted;
                        break;
                    }
                }
                if self.write(step).await.is_err() {
                    outcome = Outcome::Aborted;
                    break;
                }
            }
            if outcome == Outcome::Played && plan.end == End::Stall {
                left.await;
                outcome = Outcome::Aborted;
            }
            outcome
        };
        self.watch = Some(watch);
        if outcome == Outcome::Played { self.finish(plan.end) } else { outcome }
    }

    fn take_watch(&mut self) -> std::io::Result<TcpStream> {
        if let Some(watch) = self.watch.take() {
            return Ok(watch);
        }
        // SAFETY: the descriptor is owned by `stream`, which outlives this borrow.
        let fd = unsafe { BorrowedFd::borrow_raw(self.stream.as_raw_fd()) };
        TcpStream::from_std(std::net::TcpStream::from(fd.try_clone_to_owned()?))
    }

    async fn write(&mut self, step: &Step) -> std::io::Result<()> {
        let Some(at) = step.stamp_at else {
            return self.stream.write_all(step.bytes.clone()).await.0.map(drop);
        };
        let mut bytes = step.bytes.to_vec();
        let stamp = format!("{:0width$}", now_ns(), width = STAMP_DIGITS);
        bytes[at..at + STAMP_DIGITS].copy_from_slice(stamp.as_bytes());
        self.stream.write_all(bytes).await.0.map(drop)
    }

    fn finish(&self, end: End) -> Outcome {
        match end {
            End::Reset => reset(self.stream.as_raw_fd()),
            End::Close => shut_down_write(self.stream.as_raw_fd()),
            End::KeepAlive | End::Stall => {}
        }
        Outcome::Played
    }

    async fn control(&mut self, what: &str, head: &Parts) -> bool {
        let log = &self.core.log;
        let (status, body) = match (&head.method, what) {
            (&Method::GET, "log") => (200, log.to_json()),
            (&Method::GET, "tls") => (200, log.handshakes()),
            (&Method::GET, "stats") => (200, log.stats()),
            (&Method::DELETE, "log") => {
                log.clear();
                self.core.memory.clear();
                (200, json!({"cleared": true}))
            }
            (&Method::GET, "wait") => (200, self.wait(head.uri.query().unwrap_or_default()).await),
            _ => (404, json!({"error": "GET log, tls, stats, wait?requests=N&ended=N&ms=N; DELETE log"})),
        };
        let text = body.to_string();
        let length = text.len();
        let reason = if status == 200 { "OK" } else { "Not Found" };
        let keep_alive = keeps_alive(head);
        let connection = if keep_alive { "keep-alive" } else { "close" };
        let response = format!(
            "HTTP/1.1 {status} {reason}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: {connection}\r\n\r\n{text}"
        );
        self.stream.write_all(response.into_bytes()).await.0.is_ok() && keep_alive
    }

    /// Waits until so many requests have come or ended since the start, or the time is over.
    async fn wait(&self, query: &str) -> Value {
        let wanted = |key: &str| {
            let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs
                .filter(|(name, _)| *name == key)
                .find_map(|(_, value)| value.parse::<u64>().ok())
                .unwrap_or(0)
        };
        let deadline_ns = now_ns() + wanted("ms").clamp(1, 60_000) * 1_000_000;
        let reached =
            || self.core.log.requests() >= wanted("requests") && self.core.log.ended() >= wanted("ended");
        while !reached() && now_ns() < deadline_ns {
            monoio::time::sleep(Duration::from_millis(1)).await;
        }
        let mut stats = self.core.log.stats();
        stats["reached"] = reached().into();
        stats
    }
}

/// Resolves when the client has left; never if it merely sends more.
async fn departure(watch: &TcpStream) {
    let polled = watch.readable(false).await;
    if polled.is_ok() && !peer_left(watch.as_raw_fd()) {
        // Pipelined bytes: the poll would fire again at once, so nothing more can be told.
        std::future::pending::<()>().await;
    }
}

/// FIN, and what the client still sends is not answered by a reset that could overtake the answer.
fn shut_down_write(fd: i32) {
    // SAFETY: shutdown reads no memory.
    unsafe { libc::shutdown(fd, libc::SHUT_WR) };
}

fn planned(asked: &Asked, script: &Script, echo: Option<Value>, keep_alive: bool, head_only: bool) -> Plan {
    let answer = match script.status {
        Some(status) if status >= 400 => {
            let code = match status {
                401 => "invalid_api_key",
                404 => "model_not_found",
                429 => "rate_limit_exceeded",
                _ => "simulated",
            };
            let code = script.code.as_deref().unwrap_or(code);
            let mut refused = refusal(status, code, &format!("simulated {status}"));
            if let Some(piece) = refused.pieces.first_mut() {
                piece.due = script.ttft;
            }
            if let Some(secs) = script.retry_after_secs {
                refused.headers.push(("retry-after", secs.to_string()));
            }
            refused
        }
        _ if script.redirect => {
            let mut moved = refusal(302, "moved", "simulated redirect");
            moved.headers.push(("location", "http://127.0.0.1:9/v1/elsewhere".into()));
            moved
        }
        _ if script.html => {
            let mut page = refusal(200, "page", "simulated page");
            page.media = "text/html";
            if let Some(piece) = page.pieces.first_mut() {
                piece.bytes = "<html><body>It works!</body></html>".into();
            }
            page
        }
        other => {
            let mut answered = answer(asked, script, echo);
            answered.status = other.unwrap_or(answered.status);
            answered
        }
    };
    plan(&answer, script, keep_alive, head_only)
}

fn keeps_alive(head: &Parts) -> bool {
    let connection = header(&head.headers, "connection").to_ascii_lowercase();
    let has = |word: &str| connection.split(',').any(|token| token.trim() == word);
    if head.version == Version::HTTP_10 { has("keep-alive") } else { !has("close") }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn fields(headers: &HeaderMap) -> Vec<(String, String)> {
    let pair = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    headers.iter().map(pair).collect()
}

fn received(head: &Parts, body: &[u8]) -> Value {
    let text = String::from_utf8_lossy(body);
    json!({
        "method": head.method.as_str(),
        "path": path_of(head),
        "headers": fields(&head.headers).iter().map(|(name, value)| json!([name, value])).collect::<Value>(),
        "body": serde_json::from_slice::<Value>(body).unwrap_or_else(|_| text.clone().into()),
        "body_text": text,
    })
}

fn path_of(head: &Parts) -> String {
    head.uri.path_and_query().map_or_else(|| head.uri.to_string(), |path| path.as_str().to_owned())
}

fn entry(head: Option<&Parts>, connection: u64, request_on_connection: u64) -> Entry {
    Entry {
        method: head.map_or_else(String::new, |head| head.method.as_str().to_owned()),
        path: head.map_or_else(String::new, path_of),
        headers: head.map_or_else(Vec::new, |head| fields(&head.headers)),
        body: Vec::new(),
        body_bytes: 0,
        body_fnv: 0,
        connection,
        request_on_connection,
        received_ns: now_ns(),
        body_ns: 0,
        ended_ns: 0,
        status: 0,
        outcome: Outcome::Open,
    }
}
