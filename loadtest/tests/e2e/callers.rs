//! `ringway callers` against a state directory of its own, with no gateway running: what scripts and operators see.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use serde_json::Value;

use crate::support::{binary, own_address};

/// A state directory that is gone when the test is over.
struct State(PathBuf);

impl State {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("ringway-e2e-state-{}", own_address()));
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }

    /// Runs a command; `action` is split at spaces.
    fn run(&self, action: &str) -> Output {
        let mut command = Command::new(binary("ringway"));
        command.arg("callers").args(action.split(' ')).arg("--state").arg(&self.0);
        command.env_remove("RINGWAY_CONFIG").stdin(Stdio::null()).output().expect("ringway runs")
    }

    /// What it prints, and it says nothing else.
    #[track_caller]
    fn done(&self, action: &str) -> String {
        let output = self.run(action);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{action}: {said}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// It fails, says so with `words`, and prints nothing.
    #[track_caller]
    fn refused(&self, action: &str, words: &str) {
        let output = self.run(action);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && output.stdout.is_empty(), "{action}");
        assert!(said.contains(words), "{action}: {said:?} lacks {words:?}");
    }

    /// The token that is all of the output.
    #[track_caller]
    fn token(&self, action: &str) -> String {
        let said = self.done(action);
        let token = said.strip_suffix('\n').expect("a line").to_owned();
        assert!(token.len() == 72 && token.starts_with("rw_") && !token.contains('\n'), "{token}");
        token
    }

    fn list(&self) -> Value {
        serde_json::from_str(&self.done("list --json")).expect("JSON")
    }
}

impl Drop for State {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_caller_is_made_listed_rotated_disabled_and_deleted() {
    let state = State::new();
    let token = state.token(
        "create --name ci --quiet --expires 30d --model openai/* --endpoint chat --allow 10.0.0.0/8 --tag team:search \
         --requests-per-minute 60 --burst requests-per-minute=5 --n-max 2",
    );
    let id = &token[3..19];
    let list = state.list();
    let one = &list[0];
    assert_eq!(
        (one["name"].as_str(), one["id"].as_str(), one["enabled"].as_bool()),
        (Some("ci"), Some(id), Some(true))
    );
    assert_eq!(one["settings"]["limits"][0]["burst"], 5);
    assert_eq!(one["settings"]["models"][0], "openai/*");
    assert!(state.done("list").lines().any(|line| line.starts_with("ci ") && line.contains("enabled")));

    let second = state.token("rotate ci --overlap 1h --quiet");
    assert_ne!(second, token);
    assert_eq!(&second[..20], &token[..20], "the id stays");
    assert!(state.list()[0]["former_token_until"].is_string());

    assert_eq!(state.done("disable ci"), format!("ci ({id}) is disabled\n"));
    assert_eq!(state.list()[0]["enabled"], false);
    assert!(state.done(&format!("enable {id}")).contains("is enabled"));
    assert_eq!(state.list()[0]["enabled"], true);
    state.done("delete ci");
    assert_eq!(state.list(), Value::Array(Vec::new()));
    state.refused("show ci", "there is no caller `ci`");
}

#[test]
fn a_token_is_shown_once_and_is_nowhere_afterwards() {
    let state = State::new();
    let said = state.done("create --name ci");
    let token = said.lines().find_map(|line| line.strip_prefix("token  ")).expect("a token").to_owned();
    assert!(said.contains("the only time"));
    let secret = &token[20..];
    for action in ["list", "list --json", "show ci", "show ci --json"] {
        let shown = state.done(action);
        assert!(shown.contains("ci") && !shown.contains(secret), "{action}");
        assert!(!shown.contains("digest"), "{action}");
    }
    for entry in fs::read_dir(&state.0).expect("there") {
        let path = entry.expect("an entry").path();
        let bytes = fs::read(&path).expect("ours");
        assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()), "{}", path.display());
    }
    let mode = |path: &PathBuf| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!((mode(&state.0), mode(&state.0.join("digest.key"))), (0o700, 0o400));
}

#[test]
fn what_makes_no_sense_is_refused_with_a_sentence() {
    let state = State::new();
    state.token("create --name ci --quiet");
    for (action, words) in [
        ("create --name ci", "there is a caller `ci` already"),
        ("create --name a,b", "is not a name"),
        ("create --name x --expires yesterday", "is not a span"),
        ("create --name x --expires 2001-01-01", "is not in the future"),
        ("create --name x --endpoint chats", "is not an endpoint"),
        ("create --name x --allow 10.0.0.1/8", "neither an address nor a prefix"),
        ("create --name x --requests-per-minute 0", "allows nothing"),
        ("create --name x --burst requests-per-minute=1", "not limited"),
        ("rotate nobody", "there is no caller `nobody`"),
        ("rotate ci --overlap soon", "is not a span"),
    ] {
        state.refused(action, words);
    }
    assert_eq!(state.list().as_array().map(Vec::len), Some(1), "nothing was made");
    fs::set_permissions(state.0.join("digest.key"), PermissionsExt::from_mode(0o644)).expect("ours");
    state.refused("list", "mode 0644");
}

#[test]
fn the_configuration_names_the_state_directory() {
    let state = State::new();
    state.refused("list", "there are no callers in");
    assert!(!state.0.exists(), "whoever only looks makes nothing");
    state.token("create --name ci --quiet");
    let file = state.0.with_extension("toml");
    let run = |text: &str| {
        fs::write(&file, text).expect("a temporary file can be written");
        let mut command = Command::new(binary("ringway"));
        command.args(["callers", "list", "--json", "--config"]).arg(&file).env_remove("STATE_DIRECTORY");
        let output = command.stdin(Stdio::null()).output().expect("ringway runs");
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(run(&format!("[state]\ndir = \"{}\"\n", state.0.display())), (true, String::new()));
    let (done, said) = run("[server]\ncores = 1\n");
    assert!(!done && said.contains("has no state directory"), "{said}");
    let _ = fs::remove_file(&file);
}

#[test]
fn two_commands_at_once_make_one_key_and_both_callers() {
    let state = State::new();
    std::thread::scope(|scope| {
        for number in 0..4 {
            let state = &state;
            scope.spawn(move || state.token(&format!("create --name ci-{number} --quiet")));
        }
    });
    assert_eq!(state.list().as_array().map(Vec::len), Some(4));
}
