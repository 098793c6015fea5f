//! `[logs] payload`: what was said in exchanges that are kept, sealed on the disk, masked, and found again; and kept out where
//! the gateway, the caller or the request says so.

use std::{collections::HashSet, fs, path::Path};

use serde_json::Value;

use crate::support::{
    CANARY, Gateway, Provider, Setup, State, chat, chat_body, chat_with, model, post, ringway, rounds, until,
};

const SECRET: &str = "sk-abcdefghijklmnopqrstuvwx";

/// A gateway for anybody, which keeps all that it is let.
fn open(state: &State, logs: &str) -> Setup {
    let dir = state.path();
    Setup {
        provider: format!("[state]\ndir = {dir:?}\n[auth]\nrequired = false\n[logs]\nsample = 1\n{logs}"),
        ..Setup::default()
    }
}

/// What `ringway logs …` says.
#[track_caller]
fn logs(state: &State, arguments: &[&str]) -> String {
    let dir = state.path().to_str().expect("a plain path");
    let (status, said) = ringway(&[&["logs", arguments[0], "--state", dir], &arguments[1..]].concat());
    assert!(status.success(), "{said}");
    said
}

/// Every exchange with what was said, by its request id.
#[track_caller]
fn exported(state: &State) -> Vec<Value> {
    let lines = logs(state, &["export"]);
    lines.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

#[track_caller]
fn one(state: &State, id: &str) -> Value {
    let mut found: Vec<_> = exported(state).into_iter().filter(|row| row["request_id"] == id).collect();
    assert_eq!(found.len(), 1, "{id}");
    found.remove(0)
}

/// A body inside a row.
#[track_caller]
fn body(row: &Value, part: &str) -> Value {
    let text = row[part].as_str().unwrap_or_else(|| panic!("{part} was not kept: {row}"));
    serde_json::from_str(text).expect(text)
}

#[track_caller]
fn wait_for(gateway: &Gateway, kept: f64, payloads: f64) {
    until("the exchanges are kept", || {
        (gateway.total("rw_log_kept_total", "") == kept).then_some(())?;
        (gateway.total("rw_log_payloads_total", "") == payloads).then_some(())
    });
    assert_eq!(gateway.total("rw_log_payloads_dropped_total", ""), 0.0);
}

fn ask(id: &str, script: &str, stream: bool) -> String {
    chat_with(&model(script), &[&format!("x-request-id: {id}")], stream)
}

/// Whether any file under the directory holds these words as they are.
fn lies_open(directory: &Path, words: &str) -> bool {
    let mut folders = vec![directory.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if fs::read(path).expect("ours").windows(words.len()).any(|part| part == words.as_bytes())
            {
                return true;
            }
        }
    }
    false
}

#[test]
fn what_was_said_is_kept_as_it_was_said_and_nowhere_else() {
    let (provider, state) = (Provider::start(), State::new());
    let log = state.path().with_extension("log");
    let setup = open(&state, &format!("payload = \"always\"\n[access_log]\nto = {log:?}"));
    let mut gateway = Gateway::with(&provider, &setup);
    let answer = gateway.ask(ask("chat", "sim", false)).expect(200);
    let stream = gateway.ask(ask("stream", "sim,events=30,size=400,utf8", true)).expect(200);
    gateway.ask(ask("error", "sim,status=400,code=invalid_value", false)).expect(400);
    gateway.ask(ask("lost", "sim,events=9,errorevent", true)).expect(200);
    wait_for(&gateway, 4.0, 4.0);

    let row = one(&state, "chat");
    let asked = chat_body(&model("sim"), false);
    assert_eq!(row["request"], asked.as_str());
    assert_eq!(body(&row, "response"), answer.json());
    assert_eq!((&row["request_bytes"], &row["request_whole"]), (&asked.len().into(), &true.into()));
    assert_eq!((&row["response_bytes"], &row["status"]), (&answer.body.len().into(), &200.into()));

    let row = one(&state, "stream");
    let text = stream.text();
    let events = text.split("\n\n").filter_map(|event| event.strip_prefix("data: {"));
    let events = events.map(|data| serde_json::from_str(&format!("{{{data}")).expect(data));
    let said: String = events
        .filter_map(|event: Value| event["choices"][0]["delta"]["content"].as_str().map(str::to_owned))
        .collect();
    assert!(said.chars().count() > 100 && !said.is_ascii());
    let together = body(&row, "response");
    assert_eq!(together["choices"][0]["message"]["content"], said.as_str());
    assert_eq!(together["choices"][0]["finish_reason"], "stop");
    assert_eq!((&row["response_bytes"], &row["response_whole"]), (&stream.body.len().into(), &true.into()));

    let row = one(&state, "error");
    assert_eq!(
        (&body(&row, "response")["error"]["code"], &row["status"]),
        (&"invalid_value".into(), &400.into())
    );
    assert!(body(&one(&state, "lost"), "response")["error"].is_object());

    let shown = logs(&state, &["show", "chat"]);
    assert!(shown.contains(&asked) && shown.contains("response: "), "{shown}");
    let (status, shown) =
        ringway(&["logs", "show", "--state", state.path().to_str().expect("plain"), "nobody"]);
    assert!(!status.success() && shown.contains("no exchange `nobody`"), "{shown}");
    assert!(!logs(&state, &["search"]).contains("Say hello"), "whoever does not ask for it sees none of it");

    gateway.program.stop();
    let lines = fs::read_to_string(&log).expect("it was written");
    let _ = fs::remove_file(&log);
    assert_eq!(lines.lines().count(), 4);
    assert!(!lines.contains("Say hello") && !gateway.program.said().contains("Say hello"));
    assert!(!lies_open(state.path(), "Say hello") && !lies_open(state.path(), &said[..20]));
    assert!(lies_open(state.path(), "\"request_id\":\"stream\""), "what is looked for is looked for rightly");
}

#[test]
fn a_no_is_a_no_wherever_it_is_said() {
    let (provider, state) = (Provider::start(), State::new());
    let logs = |payload: &str| format!("[logs]\nsample = 1\npayload = \"{payload}\"");
    let plain = state.create("plain", &[]);
    let never = state.create("never", &["--log-payload", "false"]);
    let mine = state.create("mine", &["--log-payload", "true"]);
    let check = |payload: &str, expect: [[bool; 3]; 3]| {
        let gateway = Gateway::with(&provider, &state.setup(&logs(payload)));
        let mut kept = 0;
        for (who, (token, expect)) in [&plain, &never, &mine].into_iter().zip(expect).enumerate() {
            let fields =
                ["x-other: 1", "x-ringway-collect-log-payload: false", "cf-aig-collect-log-payload: true"];
            for (word, field) in fields.into_iter().enumerate() {
                let id = format!("x-request-id: {payload}-{who}-{word}");
                let bearer = format!("authorization: Bearer {token}");
                gateway.ask(chat_with(&model("sim"), &[&id, &bearer, field], false)).expect(200);
                kept += usize::from(expect[word]);
            }
        }
        wait_for(&gateway, 9.0, kept as f64);
        for (who, expect) in expect.into_iter().enumerate() {
            for (word, expect) in expect.into_iter().enumerate() {
                let row = one(&state, &format!("{payload}-{who}-{word}"));
                assert_eq!(row["request"].is_string(), expect, "{row}");
                assert_eq!(row["response"].is_string(), expect, "{row}");
            }
        }
    };
    // A row a caller (who has said nothing, no, yes), a column a request.
    const NO: [bool; 3] = [false; 3];
    check("never", [NO, NO, NO]);
    check("asked", [[false, false, true], NO, [true, false, true]]);
    check("always", [[true, false, true], NO, [true, false, true]]);
    for seen in provider.seen() {
        assert!(seen.headers("x-ringway-collect-log-payload").is_empty());
        assert!(seen.headers("cf-aig-collect-log-payload").is_empty());
    }
    // Of who is not admitted nothing is kept, whatever is said.
    let gateway = Gateway::with(&provider, &state.setup(&logs("always")));
    gateway.ask(ask("stranger", "sim", false)).refusal(401);
    wait_for(&gateway, 1.0, 0.0);
    assert_eq!(one(&state, "stranger")["request"], Value::Null);
    assert!(state.callers(&["show", "never"]).contains("log_payload  false"));
}

#[test]
fn errors_alone_are_kept_with_what_is_at_hand() {
    let (provider, state) = (Provider::start(), State::new());
    let setup = open(&state, "payload = \"always\"").provider.replace("sample = 1", "sample = 0");
    let gateway = Gateway::with(&provider, &Setup { provider: setup, ..Setup::default() });
    gateway.ask(ask("good", "sim", false)).expect(200);
    gateway.ask(ask("theirs", "sim,status=400", false)).expect(400);
    gateway.ask(chat_with("down/x", &["x-request-id: down"], false)).refusal(502);
    gateway.ask(chat_with("nobody/x", &["x-request-id: unknown"], false)).refusal(404);
    let wrong =
        post("/v1/chat/completions", "{\"model\": nothing").replace("Host:", "x-request-id: wrong\r\nHost:");
    gateway.ask(wrong).refusal(400);
    wait_for(&gateway, 4.0, 4.0);
    assert_eq!(exported(&state).len(), 4);
    for id in ["theirs", "down", "unknown", "wrong"] {
        let row = one(&state, id);
        assert!(row["request"].as_str().is_some_and(|text| text.contains("\"model\"")), "{row}");
        assert!(body(&row, "response")["error"]["message"].is_string());
    }
}

#[test]
fn nothing_is_kept_that_is_to_be_masked_however_it_comes() {
    let (provider, state) = (Provider::start(), State::new());
    let masking = "payload = \"always\"\n[masking]\nemail = true\npatterns = [\"project-[a-z]+\"]";
    let mut gateway = Gateway::with(&provider, &open(&state, masking));
    let words =
        format!("Bearer abcdefgh12345 {SECRET} a.b@example.com \\u0061.b\\u0040example.com project-blue");
    for stream in [false, true] {
        let request = ask(&format!("echo-{stream}"), "sim,echo", stream);
        let (head, old) = request.split_once("\r\n\r\n").expect("a head");
        let body = old.replace("Say hello.", &words);
        let head = head.replace(&format!("Length: {}", old.len()), &format!("Length: {}", body.len()));
        let answer = gateway.ask(format!("{head}\r\n\r\n{body}")).expect(200);
        assert!(answer.text().contains(SECRET), "the client gets what was said, unmasked");
    }
    wait_for(&gateway, 2.0, 2.0);
    let all = logs(&state, &["export"]);
    for hidden in [SECRET, "abcdefgh12345", "example.com", "project-blue", CANARY] {
        assert!(!all.contains(hidden), "{hidden}: {all}");
        assert!(!lies_open(state.path(), hidden), "{hidden}");
    }
    let row = one(&state, "echo-false");
    let said = "Bearer [key] [key] [email] [email] [masked]";
    assert_eq!(body(&row, "request")["messages"][0]["content"], said);
    assert!(row["response"].as_str().expect("kept").contains("[email]"), "{row}");
    gateway.program.stop();
}

#[test]
fn what_is_too_long_is_cut_and_what_is_no_text_is_told_by_its_length() {
    let (provider, state) = (Provider::start(), State::new());
    let gateway = Gateway::with(&provider, &open(&state, "payload = \"always\"\npayload_bytes_max = 1024"));
    let long =
        format!("{{\"model\":\"{}\",\"messages\":[],\"x\":\"{}\"}}", model("sim"), "long ".repeat(2_000));
    let request = post("/v1/chat/completions", &long).replace("Host:", "x-request-id: long\r\nHost:");
    gateway.ask(request).expect(200);
    let stream = gateway.ask(ask("stream", "sim,events=300,size=1000", true)).expect(200);
    let speech = format!("{{\"model\":\"{}\",\"input\":\"hello\",\"voice\":\"x\"}}", model("sim"));
    let request = post("/v1/audio/speech", &speech).replace("Host:", "x-request-id: sound\r\nHost:");
    let sound = gateway.ask(request).expect(200);
    wait_for(&gateway, 3.0, 3.0);
    let row = one(&state, "long");
    let kept = row["request"].as_str().expect("kept");
    assert!(long.starts_with(kept) && (500..=1_024).contains(&kept.len()), "{kept}");
    assert_eq!((&row["request_whole"], &row["request_bytes"]), (&false.into(), &long.len().into()));
    let row = one(&state, "stream");
    assert_eq!((&row["response_whole"], &row["response_bytes"]), (&false.into(), &stream.body.len().into()));
    assert!(row["response"].as_str().is_some_and(|text| (500..=1_024).contains(&text.len())), "{row}");
    let row = one(&state, "sound");
    assert_eq!((&row["response"], &row["response_bytes"]), (&Value::Null, &sound.body.len().into()));
    assert_eq!(row["request"], speech.as_str());
}

#[test]
fn a_text_is_found_within_a_time_and_a_table_holds_what_a_line_does() {
    let (provider, state) = (Provider::start(), State::new());
    let gateway = Gateway::with(&provider, &open(&state, "payload = \"always\""));
    for (id, said) in
        [("first", "the Blue one"), ("second", "the red one"), ("third", "=blue \\\"quoted\\\"")]
    {
        let body = chat_body(&model("sim"), false).replace("Say hello.", said);
        gateway.ask(
            post("/v1/chat/completions", &body).replace("Host:", &format!("x-request-id: {id}\r\nHost:")),
        );
    }
    wait_for(&gateway, 3.0, 3.0);
    let ids = |arguments: &[&str]| -> Vec<String> {
        let lines = logs(&state, &[&["search"], arguments].concat());
        let ids = lines
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).expect(line)["request_id"].to_string());
        ids.map(|id| id.trim_matches('"').to_owned()).collect()
    };
    assert_eq!(ids(&["--text", "BLUE", "--since", "1h"]), ["first", "third"]);
    assert_eq!(ids(&["--text", "blue \"quoted", "--since", "1h"]), ["third"]);
    assert_eq!(ids(&["--text", "blue", "--since", "1h", "--limit", "1"]), ["first"]);
    assert_eq!(ids(&["--text", "blue", "--since", "2h", "--until", "1h"]), [""; 0]);
    assert_eq!(ids(&["--text", "blue", "--since", "1h", "--request-id", "third"]), ["third"]);
    let (status, said) = ringway(&["logs", "search", "--state", "/nowhere", "--text", "blue"]);
    assert!(!status.success() && said.contains("--since"), "a text alone would open everything: {said}");

    let table = logs(&state, &["export", "--format", "csv"]);
    let script = "import csv,json,sys;print(json.dumps(list(csv.DictReader(sys.stdin,strict=True))))";
    let file = state.path().join("export.csv");
    fs::write(&file, &table).expect("room");
    let read = std::process::Command::new("python3")
        .args(["-c", script])
        .stdin(fs::File::open(&file).expect("there"))
        .output()
        .expect("python3 runs");
    let rows: Value = serde_json::from_slice(&read.stdout).expect("an independent reader reads it");
    let lines = exported(&state);
    assert_eq!(rows.as_array().map(Vec::len), Some(3));
    for (row, line) in rows.as_array().expect("rows").iter().zip(&lines) {
        for column in ["request_id", "model_asked", "provider", "request", "response"] {
            assert_eq!(row[column], line[column], "{column}");
        }
        assert_eq!(row["status"], "200");
    }
}

#[test]
fn what_is_kept_changes_with_the_configuration_at_once() {
    let (provider, state) = (Provider::start(), State::new());
    let mut gateway = Gateway::with(&provider, &open(&state, "payload = \"always\""));
    gateway.ask(ask("before", "sim", false)).expect(200);
    wait_for(&gateway, 1.0, 1.0);
    gateway.write_config(&gateway.read_config().replace("\"always\"", "\"never\""));
    gateway.program.signal("HUP");
    gateway.program.line("that it is taken up", |line| line.contains("reloaded").then_some(()));
    gateway.ask(ask("after", "sim", false)).expect(200);
    wait_for(&gateway, 2.0, 1.0);
    assert_eq!(one(&state, "after")["request"], Value::Null);
}

#[test]
fn a_process_that_is_killed_at_any_moment_leaves_whole_rows() {
    let (provider, state) = (Provider::start(), State::new());
    let (mut written, mut before) = (0, 0);
    for round in 0..rounds() {
        let gateway = Gateway::with(&provider, &open(&state, "payload = \"always\""));
        let address = gateway.address;
        let client = std::thread::spawn(move || {
            let mut client = crate::support::Client::connect(address);
            // Until it is killed.
            while client.is_answered(chat("sim,events=20", false)) {}
        });
        let enough = 1 + (round * 7 % 40) as u64;
        let kept = until("so many are kept", || {
            let kept = gateway.total("rw_log_kept_total", "");
            (kept >= enough as f64).then_some(kept)
        });
        gateway.program.signal("KILL");
        client.join().expect("it ends with its connection");
        drop(gateway);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small count")]
        {
            written += kept as usize;
        }
        let rows = exported(&state);
        assert!(rows.len() >= written, "{} of {written}", rows.len());
        let ids: HashSet<_> = rows.iter().map(|row| row["request_id"].to_string()).collect();
        assert_eq!(ids.len(), rows.len(), "none is there twice");
        for row in &rows[before..] {
            assert_eq!(body(row, "request")["model"], model("sim,events=20"));
            assert!(body(row, "response")["choices"].is_array());
            assert_eq!((&row["request_whole"], &row["response_whole"]), (&true.into(), &true.into()));
        }
        (written, before) = (rows.len(), rows.len());
    }
}
