//! From start to end: what is checked before, what is said at the start, what is finished before the end.

use std::{
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
};

use crate::support::{Client, Gateway, Program, Provider, Setup, backend, chat, own_address, ringway, until};

/// A file that ends with its test.
struct File(PathBuf);

impl File {
    fn new(text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ringway-e2e-{}.toml", own_address()));
        fs::write(&path, text).expect("a temporary file can be written");
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("a plain path")
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn the_start_says_what_it_got() {
    let provider = Provider::start();
    let mut gateway = Gateway::start(&provider);
    let said = gateway.program.said();
    assert!(said.contains(&backend()), "no backend in the start-up line:\n{said}");
    assert!(said.contains(&gateway.address.to_string()), "no address in the start-up line:\n{said}");
}

#[test]
fn both_backends_can_be_forced() {
    let provider = Provider::start();
    for forced in ["io_uring", "epoll"] {
        let host = own_address();
        let (listen, admin) = (SocketAddr::from((host, 8080)), SocketAddr::from((host, 8081)));
        let file = File::new(&Setup::default().text(listen, admin, &provider));
        let mut program = Program::start("ringway", &["run", "-c", file.path(), "--backend", forced]);
        program.line("its backend", |line| line.contains(forced).then_some(()));
    }
}

#[test]
fn the_admin_listener_answers() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider);
    for path in ["/healthz", "/readyz", "/version", "/metrics"] {
        assert_eq!(gateway.admin(path).status, 200, "{path}");
    }
    assert_eq!(gateway.admin("/nothing").status, 404);
    assert!(gateway.admin("/version").text().contains(env!("CARGO_PKG_VERSION")));
    assert_eq!(gateway.total("rw_task_panics_total", ""), 0.0);
}

#[test]
fn models_are_listed_and_found() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider);
    let listed = until("the provider's list is merged", || {
        let list = gateway.ask("GET /v1/models HTTP/1.1\r\nHost: g\r\n\r\n").expect(200).json();
        let ids: Vec<String> =
            list["data"].as_array()?.iter().filter_map(|m| Some(m["id"].as_str()?.to_owned())).collect();
        ids.iter().any(|id| id.starts_with("sim/")).then_some(ids)
    });
    for id in listed {
        let encoded = id.replace('/', "%2F");
        let found =
            gateway.ask(format!("GET /v1/models/{encoded} HTTP/1.1\r\nHost: g\r\n\r\n")).expect(200).json();
        assert_eq!(found["id"], id.as_str());
        let plain =
            gateway.ask(format!("GET /v1/models/{id} HTTP/1.1\r\nHost: g\r\n\r\n")).expect(200).json();
        assert_eq!(plain, found);
    }
}

#[test]
fn sigterm_finishes_streams_and_exits_with_success() {
    let provider = Provider::start();
    let mut gateway = Gateway::start(&provider);
    let mut idle = gateway.client();
    idle.ask(chat("sim", false)).expect(200);
    let mut streaming = gateway.client();
    streaming.send(chat("sim,events=50,gap=10", true));
    assert_eq!(streaming.head().status, 200);
    let mut body = streaming.some_chunks(1);
    let mut waiting = gateway.client();
    waiting.send(chat("named-waiting,ttft=300", false));
    provider.wait_for("named-waiting");

    gateway.program.signal("TERM");
    idle.expect_close();
    let answer = waiting.answer().expect(200);
    assert!(answer.closes(), "{}", answer.head);
    while !body.ends_with(b"data: [DONE]\n\n") {
        body.extend(streaming.some_chunks(1));
    }
    assert!(gateway.program.wait().success(), "{}", gateway.program.said());
    assert!(TcpStream::connect(gateway.address).is_err(), "something still listens");
}

#[test]
fn sigterm_refuses_new_connections_at_once() {
    let provider = Provider::start();
    let mut gateway = Gateway::start(&provider);
    let mut streaming = gateway.client();
    streaming.send(chat("sim,events=200,gap=10", true));
    assert_eq!(streaming.head().status, 200);
    gateway.program.signal("TERM");
    until("no new connection is taken", || TcpStream::connect(gateway.address).is_err().then_some(()));
    let mut answer = Vec::new();
    while !answer.ends_with(b"data: [DONE]\n\n") {
        answer.extend(streaming.some_chunks(1));
    }
    assert!(gateway.program.wait().success());
}

#[test]
fn stragglers_get_the_error_event_at_the_deadline() {
    let provider = Provider::start();
    let setup = Setup { server: "drain_secs = 1\n".into(), ..Setup::default() };
    let mut gateway = Gateway::with(&provider, &setup);
    let mut client = gateway.client();
    client.send(chat("named-straggler,events=100000,gap=20", true));
    let mut answer = client.head();
    assert_eq!(answer.status, 200);
    gateway.program.signal("TERM");
    client.body(&mut answer);
    assert_ne!(answer.ending, crate::support::Ending::Whole);
    let text = answer.text();
    let last = text.trim_end().rsplit("\n\n").next().unwrap_or_default();
    assert!(last.contains("\"error\"") && !text.contains("[DONE]"), "{last}");
    assert!(gateway.program.wait().success(), "{}", gateway.program.said());
}

#[test]
fn two_interrupts_end_it_at_once() {
    let provider = Provider::start();
    let mut gateway = Gateway::start(&provider);
    let mut client = gateway.client();
    client.send(chat("sim,events=100000,gap=20", true));
    assert_eq!(client.head().status, 200);
    gateway.program.signal("INT");
    until("the first interrupt drains", || TcpStream::connect(gateway.address).is_err().then_some(()));
    gateway.program.signal("INT");
    gateway.program.wait();
}

#[test]
fn a_port_that_someone_holds_is_an_error() {
    let provider = Provider::start();
    let host = own_address();
    let (listen, admin) = (SocketAddr::from((host, 8080)), SocketAddr::from((host, 8081)));
    let _holder = TcpListener::bind(listen).expect("the address is ours");
    let file = File::new(&Setup::default().text(listen, admin, &provider));
    let (status, said) = ringway(&["run", "-c", file.path(), "--backend", &backend()]);
    assert!(!status.success(), "{said}");
    assert!(said.contains(&listen.to_string()), "{said}");
}

#[test]
fn a_second_gateway_on_the_same_port_is_an_error() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider);
    // Both would set SO_REUSEPORT; that must not let them share.
    let admin = SocketAddr::from((own_address(), 8081));
    let file = File::new(&Setup::default().text(gateway.address, admin, &provider));
    let (status, said) = ringway(&["run", "-c", file.path(), "--backend", &backend()]);
    assert!(!status.success(), "{said}");
    gateway.chat("sim").expect(200);
}

#[test]
fn check_says_everything_at_once() {
    let good = File::new(
        "[server]\nlisten = [\"127.0.0.1:8080\"]\n[[provider]]\nname = \"p\"\nbase_url = \"http://127.0.0.1:9/v1\"\n",
    );
    let (status, said) = ringway(&["check", "-c", good.path()]);
    assert!(status.success(), "{said}");
    let bad = File::new(
        "[server]\nlistn = [\"127.0.0.1:8080\"]\ncores = \"many\"\n[[provider]]\nbase_url = \"nonsense\"\n\
         [[provider]]\nname = \"openai\"\nkey = \"${RINGWAY_NO_SUCH_VARIABLE}\"\n",
    );
    for command in ["check", "-t"] {
        let (status, said) = ringway(&[command, "-c", bad.path()]);
        assert_eq!(status.code(), Some(1), "{said}");
        for expected in ["listn", "did you mean", "cores", "nonsense", "RINGWAY_NO_SUCH_VARIABLE"] {
            assert!(said.contains(expected), "no word of {expected}:\n{said}");
        }
        for place in [":2:", ":3:"] {
            assert!(said.contains(place), "no place {place}:\n{said}");
        }
    }
}

#[test]
fn check_never_shows_a_key() {
    let file = File::new(
        "[[provider]]\nname = \"p\"\nbase_url = \"nonsense\"\nkey = \"sk-secret-canary\"\nkeyy = \"sk-secret-canary\"\n",
    );
    let (status, said) = ringway(&["check", "-c", file.path()]);
    assert!(!status.success() && !said.contains("sk-secret-canary"), "{said}");
}

#[test]
fn a_missing_file_is_an_error_that_names_it() {
    for command in ["run", "check"] {
        let (status, said) = ringway(&[command, "-c", "/nonexistent/ringway.toml"]);
        assert!(!status.success() && said.contains("/nonexistent/ringway.toml"), "{said}");
    }
}

#[test]
fn the_demo_prints_a_line_that_works() {
    // The one place with a fixed port: the line that people copy names it.
    let mut demo = Program::start("ringway", &["demo"]);
    demo.line("that it listens", |line| line.contains("listening on 127.0.0.1:8080").then_some(()));
    demo.line("how to use it from Node", |line| line.contains("console.log").then_some(()));
    let said = demo.said();
    let from = said.find("curl -N").unwrap_or_else(|| panic!("no curl line:\n{said}"));
    // A line that ends in a backslash goes on.
    let mut lines = said[from..].lines();
    let mut line = lines.next().unwrap_or_default().to_owned();
    while let Some(start) = line.strip_suffix('\\') {
        line = format!("{start}{}", lines.next().unwrap_or_default());
    }
    let output = std::process::Command::new("sh").args(["-c", &line]).output().expect("there is a shell");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{line}\n{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("data: {") && text.trim_end().ends_with("data: [DONE]"), "{line}\n{text}");
    let mut client = Client::connect(SocketAddr::from(([127, 0, 0, 1], 8080)));
    let list = client.ask("GET /v1/models HTTP/1.1\r\nHost: g\r\n\r\n").expect(200).json();
    assert!(list["data"].as_array().is_some_and(|models| !models.is_empty()), "{list}");
    drop(client);
    demo.signal("TERM");
    assert!(demo.wait().success(), "{}", demo.said());
}
