//! The access log: a line for each request, whatever becomes of what it is written to.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::Command,
};

use serde_json::Value;

use crate::support::{CANARY, Gateway, Provider, Setup, chat, chat_body, model, own_address, post, until};

/// A path that nothing lies at when the test is over.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        Self(std::env::temp_dir().join(format!("ringway-e2e-access-{}.log", own_address())))
    }

    fn setup(&self, more: &str) -> Setup {
        log_to(&format!("to = {:?}\n{more}", self.0))
    }

    /// Where a log rotator moves it.
    fn moved(&self) -> PathBuf {
        self.0.with_extension("log.1")
    }

    /// The lines once there are as many.
    #[track_caller]
    fn lines(&self, count: usize) -> Vec<Value> {
        let text = until("the lines are written", || {
            let text = fs::read_to_string(&self.0).ok()?;
            (text.lines().count() >= count && text.ends_with('\n')).then_some(text)
        });
        let lines: Vec<_> = text.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
        assert_eq!(lines.len(), count, "{text}");
        lines
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = (fs::remove_file(&self.0), fs::remove_file(self.moved()));
    }
}

fn log_to(settings: &str) -> Setup {
    Setup { provider: format!("[access_log]\n{settings}\n"), ..Setup::default() }
}

const MODELS: &str = "GET /v1/models HTTP/1.1\r\nHost: g\r\n\r\n";

#[test]
fn each_request_leaves_one_line_that_says_what_became_of_it() {
    let provider = Provider::start();
    let place = Place::new();
    let gateway = Gateway::with(&provider, &place.setup(""));
    let own_id = chat("sim", false).replace(
        "Host:",
        "x-request-id: my-own_1\r\ntraceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\nHost:",
    );
    gateway.ask(own_id).expect(200);
    gateway.stream("sim").expect(200);
    gateway.ask(post("/v1/chat/completions", "{")).refusal(400);
    gateway.ask(post("/v1/chat/completions", &chat_body("nowhere/x", false))).refusal(404);
    gateway.ask(post("/v1/chat/completions", &chat_body("down/x", false)));
    gateway.ask(MODELS).expect(200);
    let lines = place.lines(6);

    let [whole, stream, broken, nowhere, down, models] = &lines[..] else { panic!("{lines:?}") };
    assert_eq!(whole["request_id"], "my-own_1");
    assert_eq!(whole["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
    assert!(
        stream["trace_id"].is_null() && whole["route"].is_null() && whole["cost_usd"].is_null(),
        "{whole}"
    );
    assert_eq!((&whole["status"], &whole["outcome"]), (&200.into(), &"completed".into()));
    assert_eq!((&whole["method"], &whole["operation"]), (&"POST".into(), &"chat".into()));
    assert_eq!((&whole["model_asked"], &whole["model_used"]), (&model("sim").into(), &"sim".into()));
    assert_eq!((&whole["provider"], &whole["attempts"]), (&"sim".into(), &1.into()));
    assert_eq!((&whole["stream"], &whole["ttft_ms"]), (&false.into(), &Value::Null));
    assert!(whole["address"].as_str().is_some_and(|address| address.starts_with("127.")), "{whole}");
    assert!(whole["prompt_tokens"].as_u64() > Some(0) && whole["bytes_out"].as_u64() > Some(0), "{whole}");
    assert!(whole["duration_ms"].as_f64() >= whole["overhead_ms"].as_f64(), "{whole}");
    assert!(stream["stream"] == true && stream["ttft_ms"].as_f64() > Some(0.0), "{stream}");
    assert_eq!(stream["request_id"].as_str().map(str::len), Some(36));
    for (line, status) in [(broken, 400), (nowhere, 404)] {
        assert_eq!((&line["status"], &line["outcome"]), (&status.into(), &"refused".into()));
        assert!(line["refusal"].is_string() && line["provider"].is_null(), "{line}");
    }
    assert_eq!((&down["provider"], &down["outcome"]), (&"down".into(), &"upstream_lost".into()));
    assert_eq!((&models["operation"], &models["method"]), (&"models".into(), &"GET".into()));

    let text = fs::read_to_string(&place.0).expect("it is there");
    assert!(!text.contains(CANARY) && !text.contains("Say hello"), "{text}");
    assert_eq!(gateway.total("rw_log_lines_total", ""), 6.0);
    assert_eq!(gateway.total("rw_log_lines_dropped_total", ""), 0.0);
}

#[test]
fn stdout_takes_lines_as_a_file_does() {
    let provider = Provider::start();
    let mut gateway = Gateway::with(&provider, &log_to("to = \"stdout\"\nformat = \"combined\""));
    gateway.chat("sim").expect(200);
    let line = gateway.program.line("a line of the log", |line| {
        line.contains("\"POST /v1/chat/completions HTTP/1.1\" 200 ").then(|| line.to_owned())
    });
    assert!(line.starts_with("127.") && line.ends_with(" \"-\" \"-\""), "{line}");
    // What ends with the process is written before its end.
    let mut client = gateway.client();
    client.ask(MODELS).expect(200);
    gateway.program.stop();
    assert!(gateway.program.said().contains("\"GET /v1/models HTTP/1.1\" 200 "));
}

#[test]
fn nothing_is_logged_unless_it_is_asked_for() {
    let provider = Provider::start();
    let mut gateway = Gateway::start(&provider);
    gateway.chat("sim").expect(200);
    gateway.program.stop();
    assert!(!gateway.program.said().contains("chat"), "{}", gateway.program.said());
}

#[test]
fn a_file_that_was_moved_away_is_made_anew_on_sigusr1() {
    let provider = Provider::start();
    let place = Place::new();
    let mut gateway = Gateway::with(&provider, &place.setup(""));
    gateway.chat("sim").expect(200);
    place.lines(1);
    fs::rename(&place.0, place.moved()).expect("it is there");
    gateway.chat("sim").expect(200);
    until("it is written where it was moved", || {
        (fs::read_to_string(place.moved()).ok()?.lines().count() == 2).then_some(())
    });
    assert!(!place.0.exists());
    gateway.program.signal("USR1");
    gateway.program.line("that it opens the log again", |line| line.contains("SIGUSR1").then_some(()));
    until("the new file has a line", || {
        gateway.chat("sim").expect(200);
        fs::metadata(&place.0).is_ok_and(|file| file.len() > 0).then_some(())
    });
}

#[test]
fn a_sink_that_nobody_reads_stalls_no_request_and_no_line_is_unaccounted_for() {
    let provider = Provider::start();
    let place = Place::new();
    let made = Command::new("mkfifo").arg(&place.0).status().expect("mkfifo runs");
    assert!(made.success());
    let mut gateway = Gateway::with(&provider, &place.setup(""));
    let mut client = gateway.client();
    let mut asked = 0;
    while gateway.total("rw_log_lines_dropped_total", "") == 0.0 {
        assert!(asked < 50_000, "as many lines cannot wait");
        for _ in 0..500 {
            client.ask(MODELS).expect(200);
        }
        asked += 500;
    }
    assert_eq!(gateway.total("rw_log_lines_total", ""), 0.0);

    let fifo = fs::File::open(&place.0).expect("it is there");
    let lines = std::thread::spawn(move || {
        let lines = BufReader::new(fifo).lines().map_while(Result::ok);
        lines.inspect(|line| drop(serde_json::from_str::<Value>(line).expect(line))).count()
    });
    until("every line is written or counted", || {
        let written = gateway.total("rw_log_lines_total", "");
        (written > 0.0 && written + gateway.total("rw_log_lines_dropped_total", "") == f64::from(asked))
            .then_some(())
    });
    let written = gateway.total("rw_log_lines_total", "");
    gateway.program.stop();
    assert_eq!(lines.join().expect("whole lines") as f64, written);
}

#[test]
fn a_sink_that_is_stuck_does_not_hold_up_the_end() {
    let provider = Provider::start();
    let place = Place::new();
    assert!(Command::new("mkfifo").arg(&place.0).status().expect("mkfifo runs").success());
    let mut gateway = Gateway::with(&provider, &place.setup(""));
    gateway.ask(MODELS).expect(200);
    gateway.program.stop();
    assert!(gateway.program.said().contains("the access log is stuck"), "{}", gateway.program.said());
}
