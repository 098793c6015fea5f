//! Whole texts: what they compile to, and what is said of the wrong ones.

use std::time::Duration;

use super::*;
use crate::base::limits;

/// An environment with a few keys in it.
pub(super) fn around() -> Fake {
    Fake {
        env: vec![
            ("OPENAI_API_KEY", "sk-openai-secret"),
            ("DEEPSEEK_API_KEY", "sk-deepseek-secret"),
            ("OLLAMA_API_KEY", "sk-ollama-secret"),
            ("SPACED", "sk-spaced secret"),
            ("EMPTY", ""),
            ("PORT", "8443"),
            ("HOST", "sk-host-secret"),
            ("CREDENTIALS_DIRECTORY", "/creds"),
        ],
        files: vec![
            ("/creds/openai", b"sk-cred-secret\n"),
            ("/k", b"sk-file-secret\n"),
            ("/not-pem", b"hello\n"),
        ],
        any: None,
    }
}

#[track_caller]
pub(super) fn compiled(text: &str) -> Loaded {
    compile(text, "t.toml", &around()).unwrap_or_else(|complaints| panic!("{complaints}"))
}

/// `line:column path: what` of everything that is said of `text`.
pub(super) fn said(text: &str) -> Vec<String> {
    let said = match compile(text, "t.toml", &around()) {
        Ok(loaded) => loaded.warnings,
        Err(complaints) => complaints.0,
    };
    for complaint in &said {
        let words = complaint.to_string();
        assert!(!words.contains("-secret"), "a secret is shown: {words}");
    }
    said.iter().map(|c| format!("{}:{} {}: {}", c.line, c.column, c.path, c.what)).collect()
}

#[track_caller]
pub(super) fn check(text: &str, expect: &[&str]) {
    assert_eq!(said(text), expect, "{text}");
}

/// The same for the settings of one provider that is otherwise right.
#[track_caller]
pub(super) fn check_provider(settings: &str, expect: &[&str]) {
    check(&format!("[[provider]]\n{settings}\n"), expect);
}

/// What is advised for the only thing wrong with `text`.
#[track_caller]
pub(super) fn check_fix(text: &str, expect: &str) {
    let complaints = compile(text, "t.toml", &around()).expect_err(text);
    let fixes: Vec<_> = complaints.0.iter().map(|complaint| complaint.fix.as_str()).collect();
    assert_eq!(fixes, [expect], "{text}");
}

#[test]
fn the_documented_example_compiles() {
    let text = r#"
[server]
listen = ["127.0.0.1:8080"]
cores = "auto"
[admin]
listen = "127.0.0.1:8081"
[[provider]]
name = "openai"
key = "${OPENAI_API_KEY}"
[[provider]]
name = "local"
base_url = "http://127.0.0.1:9000/v1"
"#;
    let Loaded { snapshot, warnings } = compiled(text);
    assert_eq!(warnings, []);
    assert_eq!(snapshot.server.listen, ["127.0.0.1:8080".parse().expect("address")]);
    assert_eq!(snapshot.server.cores, Cores::Auto);
    assert_eq!(snapshot.admin.listen, Some("127.0.0.1:8081".parse().expect("address")));

    let (id, openai) = snapshot.provider("openai").expect("there");
    assert_eq!(id, ProviderPlace(0));
    assert_eq!(
        (openai.tls, &*openai.host, &*openai.authority, openai.port),
        (true, "api.openai.com", "api.openai.com", 443)
    );
    assert_eq!(openai.dial, Dial::Name("api.openai.com".into()));
    assert_eq!(&*openai.base_path, "/v1");
    assert_eq!(
        (&*openai.keys[0].name, openai.keys[0].line.expose()),
        ("default", &b"authorization: Bearer sk-openai-secret\r\n"[..])
    );
    assert!(openai.inject_usage && !openai.private);

    let (_, local) = snapshot.provider("local").expect("there");
    assert_eq!((local.tls, &*local.authority, local.port), (false, "127.0.0.1:9000", 9000));
    assert_eq!(local.dial, Dial::Address("127.0.0.1".parse().expect("address")));
    assert!(local.private && local.inject_usage);
    assert!(local.keys[0].line.expose().is_empty());
}

#[test]
fn every_setting_arrives() {
    let text = r#"
[server]
listen = "[::1]:${PORT}"
cores = [0, 2, 5]
backend = "epoll"
drain_secs = 0
connections_max = 100
[admin]
listen = "off"
[limits]
head_bytes = 0x2000
head_fields = 50
body_bytes = 1_048_576
buffered_bytes = 10_000_000
buffer_wait_secs = 0.5
head_secs = 1
handshake_secs = 2
idle_secs = 3
body_grace_secs = 4
body_rate_floor = 0
write_grace_secs = 6
write_rate_floor = 7
pool_idle_max = 8
connections_per_address = 7
[timeouts]
connect_secs = 0.25
total_secs = 10
[[provider]]
name = "eu.openai-1"
profile = "openai"
base_url = "https://eu.api.openai.com"
auth = "x-api-key"
keys = [{ name = "a", key = "${cred:openai}" }, { name = "b", key = "${file:/k}" }]
inject_usage = false
allow_private = true
models = ["gpt-4o", "o3"]
timeouts = { first_byte_secs = 9 }
pool_idle_max = 0
pool_idle_secs = 5
"#;
    let Loaded { snapshot, warnings } = compiled(text);
    assert_eq!(warnings, []);
    let Server { listen, tls_listen, cores, backend, drain_time, connections_max, .. } = &snapshot.server;
    assert_eq!((listen.as_slice(), tls_listen.len()), (&["[::1]:8443".parse().expect("address")][..], 0));
    assert_eq!((cores, *backend), (&Cores::List(vec![0, 2, 5]), Backend::Epoll));
    assert_eq!((*drain_time, *connections_max), (Duration::ZERO, 100));
    assert_eq!(snapshot.admin.listen, None);
    let secs = Duration::from_secs;
    let limits = Limits {
        head_bytes: 8192,
        head_fields: 50,
        body_bytes: 1 << 20,
        buffered_bytes: 10_000_000,
        buffer_wait: Duration::from_millis(500),
        head_time: secs(1),
        handshake_time: secs(2),
        idle_time: secs(3),
        body_grace: secs(4),
        body_rate_floor: 0,
        write_grace: secs(6),
        write_rate_floor: 7,
        pool_idle_max: 8,
        connections_per_address: Some(7),
    };
    assert_eq!(snapshot.limits, limits);
    let (_, provider) = snapshot.provider("eu.openai-1").expect("there");
    assert_eq!((&*provider.host, &*provider.base_path), ("eu.api.openai.com", "/v1"));
    let keys: Vec<_> = provider.keys.iter().map(|key| (&*key.name, key.line.expose())).collect();
    assert_eq!(
        keys,
        [("a", &b"x-api-key: sk-cred-secret\r\n"[..]), ("b", &b"x-api-key: sk-file-secret\r\n"[..])]
    );
    assert!(provider.private && !provider.inject_usage);
    assert_eq!(provider.models, ["gpt-4o".into(), "o3".into()]);
    let expect = Timeouts {
        connect: Duration::from_millis(250),
        first_byte: secs(9),
        between_bytes: limits::BETWEEN_BYTES_TIME,
        total: secs(10),
    };
    assert_eq!(provider.timeouts, expect);
    assert_eq!((provider.pool_idle_max, provider.pool_idle_time), (0, secs(5)));
}

#[test]
fn a_file_with_many_mistakes_is_told_all_of_them_at_once() {
    let text = "\
# A gateway for the lab.
[server]
listen = [\"localhost:8080\"]
cors = \"auto\"

[limits]
idle_secs = \"75\"

[[provider]]
name = \"openai\"
key = \"${OPENAI_KEY}\" # was sk-old-secret
timeouts = { connect_secs = 0 }

[[provider]]
name = \"lab\"
base_url = \"http://lab.example/v1\"
api_key = \"sk-literal-secret\"
";
    let expect = "\
lab.toml:3:11: error: server.listen[0]: `localhost:8080` is not an address to listen on
   |
 3 | listen = [\"localhost:8080\"]
   |           ^^^^^^^^^^^^^^^^
   = help: write \"127.0.0.1:8080\" or \"[::1]:8080\"

lab.toml:4:1: error: server: there is no `cors` here
   |
 4 | cors = \"***\"
   | ^^^^
   = help: did you mean `cores`?

lab.toml:7:13: error: limits.idle_secs: this is a string, not a number
   |
 7 | idle_secs = \"75\"
   |             ^^^^
   = help: write a number of seconds from 0.05 to 86400, without quotes or unit

lab.toml:11:8: error: provider[0].key: the environment variable OPENAI_KEY is not set
    |
 11 | key = \"***\"
    |       ^^^^^
    = help: set OPENAI_KEY, or give a default: `${OPENAI_KEY:-…}`

lab.toml:12:29: error: provider[0].timeouts.connect_secs: this number is out of range
    |
 12 | timeouts = { connect_secs = 0 }
    |                             ^
    = help: write a number of seconds from 0.05 to 86400

lab.toml:16:12: error: provider[1].base_url: plain http is only for this machine: keys and prompts could be read on the way
    |
 16 | base_url = \"http://lab.example/v1\"
    |            ^^^^^^^^^^^^^^^^^^^^^^^
    = help: begin it with https://, or say allow_http = true if the network in between is your own

lab.toml:17:1: error: provider[1]: there is no `api_key` here
    |
 17 | api_key = \"***\"
    | ^^^^^^^
    = help: did you mean `key`?

configuration refused: 7 errors
";
    let complaints = compile(text, "lab.toml", &around()).expect_err("wrong");
    assert_eq!(complaints.to_string(), expect);
}

#[test]
fn text_that_is_not_toml_is_refused_without_showing_what_may_be_secret() {
    check("cores = atuo", &["1:9 : this is not TOML: string values must be quoted, expected literal string"]);
    check("[server]\ncores = 1\ncores = 2\n", &["3:1 : this is not TOML: duplicate key"]);
    for text in [
        "key = sk-a-secret",
        "key = \"sk-a-secret",
        "[[provider]\nkey = \"sk-a-secret\"",
        "key = \"\"\"\nsk-a-secret",
    ] {
        assert!(!said(text).is_empty());
    }
    let text = "[[provider]]\nname = \"\"\"openai\nkey = \"sk-a-secret\"\nkeys = [{ name = \"a\", key = sk-b-secret }]\n";
    assert!(!said(text).is_empty());
}

#[test]
fn unknown_settings_are_refused_everywhere() {
    check("sever = 1", &["1:1 : there is no `sever` here"]);
    check("[servr]\n", &["1:2 : there is no `servr` here"]);
    check_fix("[servr]\n", "did you mean `server`?");
    check_fix("[[providers]]\nname = \"openai\"\n", "did you mean `provider`?");
    check_fix("[server]\nthreads = 3\n", "did you mean `cores`?");
    check_fix("[server]\nbackand = \"auto\"\n", "did you mean `backend`?");
    check_fix("[admin]\nport = 1\n", "what can stand here: listen");
    check("[server]\n\"a\\u001b[31m\" = 1\n", &["2:1 server: there is no `a\\u{1b}[31m` here"]);
    check_provider(
        "name = \"openai\"\nurl = \"https://a:sk-secret@b\"",
        &["3:1 provider[0]: there is no `url` here"],
    );
    check_provider(
        "name = \"openai\"\ntimeouts.conect_secs = 1",
        &["3:10 provider[0].timeouts: there is no `conect_secs` here"],
    );
}

#[test]
fn wrong_types_are_named_in_plain_words() {
    check("server = 3", &["1:10 server: this is a whole number, not a table"]);
    check("provider = 3", &["1:12 provider: this is a whole number, not a list of tables"]);
    check("[provider]\nname = \"openai\"", &["1:1 provider: this is a table, not a list of tables"]);
    check("provider = [3]", &["1:13 provider[0]: this is a whole number, not a table"]);
    check("[server]\nlisten = 8080", &["2:10 server.listen: this is a whole number, not a list of strings"]);
    check("[server]\nlisten = [8080]", &["2:11 server.listen[0]: this is a whole number, not a string"]);
    check("[server]\ndrain_secs = 1979-05-27", &["2:14 server.drain_secs: this is a date, not a number"]);
    check(
        "[server]\nconnections_max = 1.5",
        &["2:19 server.connections_max: this is a number with a fraction, not a whole number"],
    );
    check_provider(
        "name = \"openai\"\nallow_http = 1",
        &["3:14 provider[0].allow_http: this is a whole number, not true or false"],
    );
    check_provider(
        "name = \"openai\"\nkey = 12345",
        &["3:7 provider[0].key: this is a whole number, not a string"],
    );
    check_provider(
        "name = \"openai\"\nkeys = [\"sk-a-secret\"]",
        &["3:9 provider[0].keys[0]: this is a string, not a table"],
    );
}

#[test]
fn a_secret_put_in_any_place_by_mistake_is_not_shown() {
    for text in [
        "key = \"sk-a-secret\"",
        "[sk-a]\nkey = \"sk-a-secret\"",
        "[server]\nkey = [\"sk-a-secret\", { a = 'sk-b-secret' }]",
        "[[provider]]\nkey = \"\"\"\nsk-a-secret\nsk-b-secret\"\"\"\nsecret = '''\nsk-c-secret'''",
        "[[provider]]\nname = \"openai\"\nkeys = [\"sk-a-secret\"]",
        "[[provider]]\nname = \"openai\"\nkeys = { name = \"a\", key = \"sk-a-secret\" }",
        "[[provider]]\nname = \"openai\"\nkey = [\"sk-a-secret\"]",
        "[[provider]]\nname = \"openai\"\nkey = { value = \"sk-a-secret\" }",
        "[[provider]]\nname = \"openai\"\nheaders = { authorization = \"Bearer sk-a-secret\" }",
        "provider = [{ name = \"openai\", key = \"sk-a-secret x\" }] # sk-b-secret",
        "[[provider]]\nname = \"openai\" # sk-a-secret\nnam = 1 # sk-b-secret",
        "[[provider]]\nname = 3 # sk-a-secret # sk-b-secret",
    ] {
        // `said` looks through every word.
        assert!(!said(text).is_empty(), "{text}");
    }
}

#[test]
fn files_that_cannot_be_read_as_text_are_refused_whole() {
    let around = Fake { files: vec![("/bad", b"a = 1\nb = \"\xff\"\n")], ..Fake::default() };
    let words = |path: &str| load(Path::new(path), &around).expect_err(path).0[0].to_string();
    assert!(words("/bad").starts_with("/bad: error: this file is not UTF-8 from line 2 on\n"));
    assert!(words("/none").starts_with("/none: error: this file cannot be read: entity not found\n"));
}

#[test]
fn an_empty_file_is_a_gateway_without_providers() {
    let Loaded { snapshot, warnings } = compiled("");
    assert_eq!(snapshot.server.listen, ["127.0.0.1:8080".parse().expect("address")]);
    assert_eq!(snapshot.admin.listen, Some("127.0.0.1:8081".parse().expect("address")));
    assert_eq!(snapshot.limits.idle_time, limits::IDLE_TIME);
    assert_eq!(warnings.len(), 1);
}

#[test]
fn no_text_panics() {
    const SEEDS: [&str; 7] = [
        "[server]\nlisten = [\"127.0.0.1:8080\"]\ncores = [0, 2]\n[server.tls]\ncert = \"/c\"\nkey = \"${file:/k}\"\n",
        "[[provider]]\nname = \"openai\"\nkey = \"${OPENAI_API_KEY}\"\nmodels = ['a', \"b\"]\n# comment\n",
        "[[provider]]\nname = \"x\"\nbase_url = \"http://[::1]:9000/v1\"\nkeys = [{ name = \"a\", key = \"${A:-b}\" }]\n",
        "limits.head_bytes = 0x1000\ntimeouts = { connect_secs = 1.5e0, total_secs = 1979-05-27T07:32:00Z }\n",
        "key = \"\"\"\nüber\\u00e9\\\n  \"\"\"\n'a b'.\"c\\td\" = true\r\n[[provider.timeouts]]\n",
        "[admin]\nlisten = \"off\"\n[[provider]]\nname = \"qwen\"\ntimeouts.first_byte_secs = inf\n[provider.x]\n",
        "[[route]]\nname = \"r\"\nif = { all = [{ field = \"metadata.a\", op = \"in\", value = [1, \"${X}\"] }] }\nthen = \
         { model = \"openai/a\", key = \"k\" }\nelse.split = [{ percent = 100, targets = [\"openai/b\"] }]\n[aliases]\n\
         \"g*\" = \"openai/g*\"\nh = \"dynamic/r\"\n[[fallback]]\nmatch = \"${Y}/*\"\nto = [\"openai/c\"]\n",
    ];
    const PIECES: [&str; 16] = [
        "[", "]", "[[", "=", "\"", "'''", "\"\"\"", "${", "}", "{", ".", "#", "\n", "\\u001b", "ü",
        "provider",
    ];
    for seed in SEEDS {
        fuzz_compile(seed.as_bytes());
        for end in 0..seed.len() {
            fuzz_compile(&seed.as_bytes()[..end]);
        }
    }
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 33).expect("31 bits") % below
    };
    for _ in 0..6_000 {
        let mut bytes = SEEDS[next(SEEDS.len())].as_bytes().to_vec();
        if next(4) == 0 {
            bytes.extend_from_slice(SEEDS[next(SEEDS.len())].as_bytes());
        }
        for _ in 0..=next(6) {
            let at = next(bytes.len());
            match next(4) {
                0 => bytes[at] = u8::try_from(next(128)).expect("ASCII"),
                1 => drop(bytes.drain(at..(at + next(8)).min(bytes.len()))),
                2 => drop(bytes.splice(at..at, PIECES[next(PIECES.len())].bytes())),
                _ => {
                    let from = next(bytes.len());
                    let piece = bytes[from..(from + next(24)).min(bytes.len())].to_vec();
                    drop(bytes.splice(at..at, piece));
                }
            }
            if bytes.is_empty() {
                bytes.push(b'x');
            }
        }
        fuzz_compile(&bytes);
    }
}
