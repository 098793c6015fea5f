//! A gateway that is killed while days expire: its logs open whenever that was, every row is whole, and a day whose key has
//! been destroyed stays so.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::Value;

use crate::support::{Client, Gateway, Provider, Setup, State, chat, clock, ringway, rounds, until};

/// What stands for the key of the day that has expired.
const MARK: &str = "this-would-open-what-was-said-forty-days-ago-and-must-be-gone";

/// Makes the older half of all rows rows of forty days ago, in one transaction, as a day has them that went by; prints the
/// name of that day's key.
const AGE: &str = r#"
import datetime, sqlite3, sys
store = sqlite3.connect(sys.argv[1] + "/logs.db", timeout=30)
with store:
    store.execute("BEGIN IMMEDIATE")
    [half] = store.execute("SELECT (min(number) + max(number)) / 2 FROM exchange").fetchone()
    store.execute("UPDATE exchange SET ended_unix_ms = ended_unix_ms - 40 * 86400000 WHERE number <= ?", [half])
    store.execute("UPDATE payload SET day = day - 40 WHERE number <= ?", [half])
    [day] = store.execute("SELECT min(day) FROM payload").fetchone()
print(datetime.date(1970, 1, 1) + datetime.timedelta(days=day), end=".key")
"#;

/// Lets half of what was kept expire. Where the key of its day lies, if there is still a row of it.
fn age(state: &State) -> PathBuf {
    let output = Command::new("python3").args(["-c", AGE]).arg(state.path()).output().expect("python3 runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let key = state.path().join("log-keys").join(String::from_utf8(output.stdout).expect("a name"));
    fs::write(&key, MARK).expect("room");
    key
}

/// Little room, so that what is old is looked for all the time.
fn setup(state: &State) -> Setup {
    let logs = "sample = 1\npayload = \"always\"\nretention_days = 1\nbytes_max = 1048576";
    let dir = state.path();
    Setup {
        provider: format!("[state]\ndir = {dir:?}\n[auth]\nrequired = false\n[logs]\n{logs}"),
        ..Setup::default()
    }
}

/// The lines of `ringway logs …`, which opens the store whatever became of its last owner.
#[track_caller]
fn logs(state: &State, command: &str, arguments: &[&str]) -> Vec<Value> {
    let dir = state.path().to_str().expect("a plain path");
    let (status, said) = ringway(&[&["logs", command, "--state", dir], arguments].concat());
    assert!(status.success(), "{said}");
    said.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

/// Rows of the day that has expired.
fn expired(state: &State) -> usize {
    logs(state, "search", &["--until", "2d", "--limit", "100000"]).len()
}

/// Every row that is not to expire is whole and there once.
#[track_caller]
fn check_whole(state: &State) -> usize {
    let rows = logs(state, "export", &["--since", "1d"]);
    let ids: HashSet<_> = rows.iter().map(|row| row["request_id"].to_string()).collect();
    assert_eq!(ids.len(), rows.len(), "none is there twice");
    for row in &rows {
        for part in ["request", "response"] {
            let text = row[part].as_str().unwrap_or_else(|| panic!("{part} does not open: {row}"));
            let body: Value = serde_json::from_str(text).expect(text);
            assert!(body["model"].is_string(), "{text}");
        }
    }
    rows.len()
}

/// Whether a file under the directory holds the key of the day.
fn is_marked(directory: &Path) -> bool {
    fs::read_dir(directory).expect("a folder").any(|entry| {
        let path = entry.expect("an entry").path();
        let holds = |bytes: Vec<u8>| bytes.windows(MARK.len()).any(|part| part == MARK.as_bytes());
        if path.is_dir() { is_marked(&path) } else { fs::read(path).is_ok_and(holds) }
    })
}

#[test]
fn what_has_expired_stays_destroyed_whenever_a_process_is_killed() {
    let (provider, state) = (Provider::start(), State::new());
    let (mut chance, mut kept_before) = (20_261_122_u64, 0);
    let (mut key, mut destroyed, mut interrupted) = (None::<PathBuf>, 0, 0);
    for round in 0..(rounds() / 2).max(5) {
        let gateway = Gateway::with(&provider, &setup(&state));
        let address = gateway.address;
        let crowd: Vec<_> = (0..2)
            .map(|_| {
                std::thread::spawn(move || {
                    let (mut client, mut answered) = (Client::connect(address), 0);
                    // Until it is killed.
                    while client.is_answered(chat("sim,size=400", false)) {
                        answered += 1;
                    }
                    answered
                })
            })
            .collect();
        until("something is kept", || (gateway.total("rw_log_payloads_total", "") >= 8.0).then_some(()));
        let known = key.get_or_insert_with(|| age(&state));
        if !known.exists() {
            *known = age(&state);
        }
        chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (lives, began) = (Duration::from_millis((chance >> 33) % 400), clock());
        let mut asked = 0;
        let mut client = gateway.client();
        while clock() - began < lives {
            client.ask(chat("sim,size=400", false)).expect(200);
            asked += 1;
        }
        gateway.program.signal("KILL");
        asked += crowd
            .into_iter()
            .map(|each| each.join().expect("it ends with its connection") + 1)
            .sum::<usize>();
        drop(gateway);

        let kept = check_whole(&state);
        assert!(
            kept <= kept_before + asked,
            "round {round}: {kept} rows, of {kept_before} and {asked} asked"
        );
        kept_before = kept;
        if known.exists() {
            interrupted += 1;
        } else {
            assert_eq!(expired(&state), 0, "round {round}: its key is gone and rows of it are there");
            assert!(!is_marked(state.path()), "round {round}: the key lies somewhere else");
            destroyed += 1;
        }
    }
    println!("killed after the old day had gone {destroyed} times, before {interrupted} times");
    let mut gateway = Gateway::with(&provider, &setup(&state));
    let key = key.expect("there was a round");
    until("the last old day has gone", || (!key.exists()).then_some(()));
    gateway.program.stop();
    assert!(expired(&state) == 0 && !is_marked(state.path()));
    check_whole(&state);
}
