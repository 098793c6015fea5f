//! `ringway explain` beside a gateway that does it: what is explained is what happens, and nothing is sent for it.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use serde_json::Value;

use crate::support::{CANARY, Gateway, Provider, Setup, binary, chat_body, own_address, post};

/// A folder that ends with its test: the configuration, and the state directory.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("ringway-e2e-explain-{}", own_address()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).expect("a temporary folder can be made");
        Self(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("a plain path").to_owned()
    }

    fn run(arguments: &[&str]) -> Output {
        let mut command = Command::new(binary("ringway"));
        command.args(arguments).env_remove("RINGWAY_CONFIG").stdin(Stdio::null()).output().expect("it runs")
    }

    fn create_caller(&self, more: &[&str]) -> String {
        let state = self.path("state");
        let start = ["callers", "create", "--quiet", "--state", &state];
        let output = Self::run(&[&start, more].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    }

    /// The exit code, and what is said on standard output and standard error.
    fn explain(&self, more: &[&str]) -> (Option<i32>, String, String) {
        let config = self.path("ringway.toml");
        let output = Self::run(&[&["explain", "-c", &config], more].concat());
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        let (out, err) = (text(output.stdout), text(output.stderr));
        assert!(!out.contains(CANARY) && !err.contains(CANARY), "a secret is told:\n{out}{err}");
        (output.status.code(), out, err)
    }

    #[track_caller]
    fn json(&self, more: &[&str], code: i32) -> Value {
        let (status, out, err) = self.explain(&[more, &["--json"]].concat());
        assert_eq!(status, Some(code), "{out}{err}");
        serde_json::from_str(&out).expect("JSON")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A gateway that verifies callers, and its configuration beside its state.
fn gateway(provider: &Provider, folder: &Folder) -> Gateway {
    let state = folder.path("state");
    let more = format!("[state]\ndir = \"{state}\"\n[auth]\nrequired = true\n");
    let gateway = Gateway::with(provider, &Setup { provider: more, ..Setup::default() });
    fs::write(folder.path("ringway.toml"), gateway.read_config()).expect("a file can be written");
    gateway
}

/// The request with fields of its client behind those that it has.
fn with_token(request: &str, token: &str) -> String {
    let fields = format!("\r\nX-Beta: 1\r\nUser-Agent: sdk\r\nAuthorization: Bearer {token}\r\n\r\n");
    request.replacen("\r\n\r\n", &fields, 1)
}

/// Requests with a body that the provider was sent: the gateway's own are for its list of models.
fn asked_of(provider: &Provider) -> usize {
    provider.seen().iter().filter(|seen| !seen.body().is_empty()).count()
}

#[test]
fn the_head_that_is_explained_is_the_head_that_is_sent() {
    let (provider, folder) = (Provider::start(), Folder::new());
    let token = folder.create_caller(&["--name", "ci"]);
    let gateway = gateway(&provider, &folder);
    let named = ["--model", "sim/explained", "--caller", "ci", "--stream"];
    let fields = ["--header", "X-Beta: 1", "--header", "User-Agent: sdk"];
    let account = folder.json(&[&named[..], &fields].concat(), 0);
    assert_eq!(asked_of(&provider), 0, "nothing is sent for an explanation");
    let head = account["request"]["head"].as_array().expect("a head");
    let (line, fields) = head.split_first().expect("a request line");

    gateway
        .ask(with_token(&post("/v1/chat/completions", &chat_body("sim/explained", true)), &token))
        .expect(200);
    let seen = provider.only("explained");
    assert_eq!(*line, format!("POST {} HTTP/1.1", seen.0["path"].as_str().expect("a path")));
    let fields: Vec<_> = fields.iter().filter_map(|field| field.as_str()?.split_once(": ")).collect();
    let names: Vec<_> = fields.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(seen.header_names(), names);
    for (name, value) in fields {
        match name {
            "authorization" => assert_eq!(value, "[secret]"),
            "content-length" => assert_eq!(value, "[as the body]"),
            _ => assert_eq!(seen.headers(name), [value]),
        }
    }
}

#[test]
fn the_refusal_that_is_explained_is_the_one_that_is_given() {
    let (provider, folder) = (Provider::start(), Folder::new());
    let token = folder.create_caller(&["--name", "ci", "--model", "sim/a*"]);
    let gateway = gateway(&provider, &folder);
    for model in ["sim/b", "none/a", "nothing"] {
        let account = folder.json(&["--model", model, "--caller", "ci"], 1);
        let answer = gateway.ask(with_token(&post("/v1/chat/completions", &chat_body(model, false)), &token));
        assert_eq!(account["refusal"]["status"], answer.status, "{model}");
        assert_eq!(account["refusal"]["error"], answer.json()["error"], "{model}");
        assert_eq!(account["request"], Value::Null);
    }
    let account = folder.json(&["--model", "sim/a"], 1);
    let answer = gateway.ask(post("/v1/chat/completions", &chat_body("sim/a", false)));
    assert_eq!(account["refusal"]["error"], answer.json()["error"], "without a caller");
    assert_eq!(asked_of(&provider), 0);
}

#[test]
fn the_exit_code_tells_sent_from_refused_from_unusable() {
    let folder = Folder::new();
    let route = "[[route]]\nname = \"r\"\nif = { field = \"metadata.plan\", op = \"==\", value = \"pro\" }\n\
                 then = { model = \"p/large\" }\nelse = { model = \"p/small\" }\n\
                 [[provider]]\nname = \"p\"\nbase_url = \"http://127.0.0.1:9/v1\"\n";
    fs::write(folder.path("ringway.toml"), route).expect("a file can be written");
    let check = |more: &[&str], code: i32, words: &str| {
        let (status, out, err) = folder.explain(more);
        assert_eq!(status, Some(code), "{more:?}: {out}{err}");
        let said = if code == 2 { &err } else { &out };
        assert!(said.contains(words) && (code != 2 || out.is_empty()), "{more:?}: {out}{err}");
    };
    let routed = ["--model", "dynamic/r"];
    check(
        &[&routed[..], &["--metadata", r#"{"plan":"pro"}"#]].concat(),
        0,
        "if metadata.plan == \"pro\": true",
    );
    check(&routed, 0, "if metadata.plan == \"pro\": false");
    check(&[&routed[..], &["--metadata", "{"]].concat(), 1, "refused: 400 invalid_metadata");
    check(&["--model", "dynamic/s"], 1, "no route of that name");
    check(&[], 2, "--model");
    check(&[&routed[..], &["--endpoint", "models"]].concat(), 2, "answered here");
    check(&[&routed[..], &["--header", "no colon"]].concat(), 2, "no head");
    fs::write(folder.path("ringway.toml"), "[serve]\n").expect("a file can be written");
    check(&routed, 2, "ringway.toml:1:");
}
