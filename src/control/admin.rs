//! The operator's listener: is it alive, is it ready, which version, what are the figures. It runs on a thread and a
//! runtime of its own, so that no scrape is ever served by a core.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::unix::net::UnixStream,
    sync::Arc,
    thread::JoinHandle,
};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing,
};
use serde_json::{Value, json};

use crate::{
    control::{standing::Standing, stats::Stats},
    ledger::exposition::{self, Format},
};

/// The admin listener, serving until it is dropped.
pub struct Admin {
    address: SocketAddr,
    // Closing our end is what tells the thread to end.
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Admin {
    /// Binds `listen` and serves it. Nothing on it asks who is there: it belongs on loopback.
    pub fn start(listen: SocketAddr, standing: Arc<Standing>, stats: Arc<Stats>) -> io::Result<Self> {
        let listener = TcpListener::bind(listen)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (stop, stopped) = UnixStream::pair()?;
        stopped.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let router = router(Desk { standing, stats });
        let thread = std::thread::Builder::new().name("rw-admin".to_owned()).spawn(move || {
            runtime
                .block_on(async move {
                    let listener = tokio::net::TcpListener::from_std(listener)?;
                    let stopped = tokio::net::UnixStream::from_std(stopped)?;
                    tokio::spawn(async move { axum::serve(listener, router).await });
                    stopped.readable().await
                })
                .unwrap_or_default();
        })?;
        Ok(Self { address, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens: the port is the one that was bound, whatever was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[derive(Clone)]
struct Desk {
    standing: Arc<Standing>,
    stats: Arc<Stats>,
}

fn router(desk: Desk) -> Router {
    Router::new()
        .route("/healthz", routing::get(healthz))
        .route("/readyz", routing::get(readyz))
        .route("/version", routing::get(version))
        .route("/metrics", routing::get(metrics))
        .fallback(no_such_page)
        .method_not_allowed_fallback(no_such_method)
        .with_state(desk)
}

/// Alive: this answers.
async fn healthz() -> Response {
    answer(StatusCode::OK, &json!({"status": "ok"}))
}

async fn readyz(State(desk): State<Desk>) -> Response {
    let reasons = desk.standing.reasons_against();
    if reasons.is_empty() {
        return answer(StatusCode::OK, &json!({"status": "ready"}));
    }
    answer(StatusCode::SERVICE_UNAVAILABLE, &json!({"status": "not ready", "reasons": reasons}))
}

async fn version() -> Response {
    answer(StatusCode::OK, &json!({"name": env!("CARGO_PKG_NAME"), "version": env!("CARGO_PKG_VERSION")}))
}

async fn metrics(State(desk): State<Desk>, headers: HeaderMap) -> Response {
    let accept = headers.get_all(header::ACCEPT).iter().filter_map(|line| line.to_str().ok());
    let format = Format::accepted(&accept.collect::<Vec<_>>().join(","));
    let facts = desk.standing.facts();
    let page = desk.stats.read(|book| exposition::render(book, &facts, format));
    page_of(StatusCode::OK, format.content_type(), page)
}

async fn no_such_page() -> Response {
    refuse(
        StatusCode::NOT_FOUND,
        "not_found",
        "There is no such page; see /healthz, /readyz, /version, /metrics.",
    )
}

async fn no_such_method() -> Response {
    refuse(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "This page can only be read.")
}

/// An error in the shape that the gateway's own have.
fn refuse(status: StatusCode, code: &str, message: &str) -> Response {
    let error = json!({"message": message, "type": "invalid_request_error", "param": null, "code": code});
    answer(status, &json!({"error": error}))
}

fn answer(status: StatusCode, body: &Value) -> Response {
    page_of(status, "application/json", format!("{body}\n"))
}

fn page_of(status: StatusCode, content_type: &'static str, body: String) -> Response {
    let headers = [
        (header::CONTENT_TYPE, content_type),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (status, headers, body).into_response()
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{Ipv4Addr, TcpStream},
    };

    use super::*;
    use crate::{
        base::now::Now,
        bridge::{bulletin::Bulletin, drain::Stage, outbox::Outbox},
        control::standing::tests::standing,
        ledger::sheet::Sheet,
    };

    struct World {
        admin: Admin,
        standing: Arc<Standing>,
        snapshots: Arc<Bulletin<()>>,
        outboxes: Arc<[Outbox]>,
    }

    fn world() -> World {
        let (standing, snapshots) = standing();
        let standing = Arc::new(standing);
        let outboxes: Arc<[Outbox]> = [Outbox::new()].into();
        let stats = Arc::new(Stats::new(Arc::clone(&outboxes)));
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let admin = Admin::start(listen, Arc::clone(&standing), stats).expect("a free port");
        World { admin, standing, snapshots, outboxes }
    }

    /// Status and body of one request.
    fn ask(address: SocketAddr, method: &str, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(address).expect("it listens");
        let request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("it reads");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("it answers");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
        assert!(head.contains("cache-control: no-store"), "{head}");
        (status, body.to_owned())
    }

    #[track_caller]
    fn check(address: SocketAddr, method: &str, path: &str, status: u16, expect: &Value) {
        let (got, body) = ask(address, method, path);
        let body: Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!((got, &body), (status, expect));
    }

    #[test]
    fn ready_only_when_nothing_speaks_against_it() {
        let World { admin, standing, snapshots, .. } = world();
        let reasons = [
            "no configuration has been published",
            "the shard of core 4 has not started",
            "the shard of core 6 has not started",
        ];
        let not_ready = |reasons: &[&str]| json!({"status": "not ready", "reasons": reasons});
        check(admin.address(), "GET", "/readyz", 503, &not_ready(&reasons));
        check(admin.address(), "GET", "/healthz", 200, &json!({"status": "ok"}));

        snapshots.publish(Arc::new(()));
        standing.vitals.iter().for_each(|vitals| vitals.beat(Now(9_999_000_000)));
        check(admin.address(), "GET", "/readyz", 200, &json!({"status": "ready"}));

        standing.drain.advance(Stage::Draining);
        check(admin.address(), "GET", "/readyz", 503, &not_ready(&["draining"]));
    }

    #[test]
    fn a_scrape_shows_what_cores_have_just_left() {
        let World { admin, outboxes, .. } = world();
        let mut sheet = Box::<Sheet>::default();
        sheet.accepted = 41;
        outboxes[0].offer(&mut sheet);
        let (status, page) = ask(admin.address(), "GET", "/metrics");
        assert_eq!(status, 200);
        assert!(page.contains("\nrw_connections_accepted_total 41\n"), "{page}");
        assert!(page.contains("\nrw_connections{core=\"4\"} 0\n"), "{page}");
        assert!(page.contains(concat!("rw_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1\n")));
    }

    #[test]
    fn errors_are_json_with_all_members() {
        let World { admin, .. } = world();
        let error = |code: &str, message: &str| json!({"error": {"message": message, "type": "invalid_request_error", "param": null, "code": code}});
        let pages = "There is no such page; see /healthz, /readyz, /version, /metrics.";
        check(admin.address(), "GET", "/", 404, &error("not_found", pages));
        let read_only = "This page can only be read.";
        check(admin.address(), "POST", "/healthz", 405, &error("method_not_allowed", read_only));
        check(admin.address(), "GET", "/version", 200, &json!({"name": "ringway", "version": "0.1.0"}));
    }

    #[test]
    fn a_taken_port_is_an_error_and_a_dropped_listener_is_gone() {
        let World { admin, standing, .. } = world();
        let stats = Arc::new(Stats::new([Outbox::new()].into()));
        assert!(Admin::start(admin.address(), Arc::clone(&standing), Arc::clone(&stats)).is_err());
        let address = admin.address();
        let _held_open = TcpStream::connect(address).expect("it listens");
        drop(admin);
        assert!(TcpStream::connect(address).is_err());
    }
}
