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
fn said(text: &str) -> Vec<String> {
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
fn check(text: &str, expect: &[&str]) {
    assert_eq!(said(text), expect, "{text}");
}

/// The same for the settings of one provider that is otherwise right.
#[track_caller]
fn check_provider(settings: &str, expect: &[&str]) {
    check(&format!("[[provider]]\n{settings}\n"), expect);
}

/// What is advised for the only thing wrong with `text`.
#[track_caller]
fn check_fix(text: &str, expect: &str) {
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
    assert_eq!(id, ProviderId(0));
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
    assert!(local.private && !local.inject_usage);
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
fn a_file_with_six_mistakes_is_told_all_six_at_once() {
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
    check(
        "sever = 1",
        &["1:1 : there is no `sever` here", "1:1 : there is no provider: every model is refused"][..1]
            .as_ref(),
    );
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
fn numbers_out_of_range_are_refused() {
    let range = "this number is out of range";
    for (setting, value) in [
        ("server.drain_secs", "-1"),
        ("server.drain_secs", "86401"),
        ("server.drain_secs", "nan"),
        ("server.drain_secs", "inf"),
        ("server.drain_secs", "-0.5"),
        ("server.connections_max", "0"),
        ("server.connections_max", "99999999999999999999"),
        ("server.cores", "0"),
        ("limits.head_bytes", "1023"),
        ("limits.head_bytes", "32769"),
        ("limits.head_fields", "101"),
        ("limits.body_bytes", "1073741825"),
        ("timeouts.total_secs", "0.01"),
    ] {
        let column = setting.len() + 4;
        check(&format!("{setting} = {value}"), &[&format!("1:{column} {setting}: {range}")]);
    }
    check(
        "[limits]\nbody_bytes = 2_000_000\nbuffered_bytes = 1_999_999\n",
        &[
            "1:1 limits: buffered_bytes is less than body_bytes: a request of the size that is allowed never fits",
        ],
    );
    check("[timeouts]\ntotal_secs = 1", &["1:1 timeouts: connect_secs is more than total_secs"]);
}

#[test]
fn listeners_are_addresses_and_each_has_its_own() {
    let wrong = |address: &str| format!("`{address}` is not an address to listen on");
    for address in
        ["localhost:1", ":8080", "8080", "127.0.0.1", "127.0.0.1:70000", "host:1", "", "[::1]", "127.1:1"]
    {
        check(
            &format!("server.listen = \"{address}\""),
            &[&format!("1:17 server.listen: {}", wrong(address))],
        );
    }
    check_fix(
        "server.listen = \":8080\"",
        "write \"0.0.0.0:8080\" or \"[::]:8080\" for every address of this machine",
    );
    check_fix("server.listen = \"::1\"", "add a port: \"127.0.0.1:8080\", \"[::1]:8080\"");
    check("server.listen = \"${HOST}\"", &["1:17 server.listen: `${HOST}` is not an address to listen on"]);
    check(
        "server.listen = []",
        &["0:0"][..0]
            .as_ref()
            .iter()
            .copied()
            .chain(["1:1 server: there is no address to listen on"])
            .collect::<Vec<_>>()
            .as_slice(),
    );
    check(
        "server.listen = [\"127.0.0.1:1\", \"127.0.0.1:1\"]",
        &["1:33 server.listen[1]: server.listen already takes this address"],
    );
    check(
        "server.listen = [\"0.0.0.0:1\"]\nadmin.listen = \"127.0.0.1:1\"",
        &["2:16 admin.listen: server.listen already takes this address"],
    );
    check("server.tls_listen = \"127.0.0.1:1\"", &["1:1 server: tls_listen needs a certificate"]);
    let provider = "[[provider]]\nname = \"openai\"\n";
    check(
        &format!(
            "server.listen = [\"127.0.0.1:0\", \"127.0.0.1:0\", \"[::1]:1\", \"0.0.0.0:1\"]\n{provider}"
        ),
        &[],
    );
    check(
        &format!("admin.listen = \"0.0.0.0:9\"\n{provider}"),
        &[
            "1:16 admin.listen: the admin listener can be reached from other machines and asks nobody who they are",
        ],
    );
}

#[test]
fn cores_and_backend_are_one_of_a_few_words() {
    check("server.cores = \"all\"", &["1:16 server.cores: `all` is not a choice here"]);
    check_fix("server.cores = \"atuo\"", "did you mean \"auto\"?");
    check("server.cores = []", &["1:16 server.cores: this list of cores is empty"]);
    check("server.cores = [1, 1]", &["1:16 server.cores: a core stands in this list twice"]);
    check("server.cores = [1, -1]", &["1:20 server.cores[1]: this number is out of range"]);
    check("server.cores = true", &["1:16 server.cores: this does not name cores"]);
    check_fix("server.backend = \"iouring\"", "did you mean \"io_uring\"?");
    check_fix("server.backend = \"kqueue\"", "choose one of: auto, io_uring, epoll");
}

#[test]
fn provider_names_are_plain_and_unique() {
    check_provider("key = \"${OPENAI_API_KEY}\"", &["1:1 provider[0]: this provider has no name"]);
    for name in ["", "OpenAI", "a/b", "-a", "ä", "a b", &"a".repeat(65)] {
        check_provider(
            &format!("name = \"{name}\""),
            &[&format!("2:8 provider[0].name: `{name}` is not a name")],
        );
    }
    check_provider("name = \"dynamic\"", &["2:8 provider[0].name: `dynamic` is reserved for routes"]);
    check(
        "[[provider]]\nname = \"openai\"\n[[provider]]\nname = \"deepseek\"\n[[provider]]\nname = \"openai\"",
        &["6:8 provider[2].name: provider[0] already has this name"],
    );
    check_provider("name = \"opnai\"", &["1:1 provider[0]: `opnai` is not built in and has no base_url"]);
    check_fix(
        "[[provider]]\nname = \"opnai\"",
        "did you mean \"openai\"? Any other needs base_url = \"https://…/v1\"",
    );
    check_fix(
        "[[provider]]\nname = \"a\"\nprofile = \"deepsek\"\nbase_url = \"https://x.test\"\n",
        "did you mean \"deepseek\"?",
    );
    check_provider(
        "name = \"azure\"\nkey = \"${OPENAI_API_KEY}\"",
        &["1:1 provider[0]: azure needs a base_url"],
    );
}

#[test]
fn keys_are_one_printable_word_and_never_shown() {
    let wrong = "this key has a space, a control character or a letter outside ASCII at byte";
    check_provider("name = \"openai\"\nkey = \"sk a-secret\"", &[&format!("3:7 provider[0].key: {wrong} 3")]);
    check_provider("name = \"openai\"\nkey = \"${SPACED}\"", &[&format!("3:7 provider[0].key: {wrong} 10")]);
    check_provider(
        "name = \"openai\"\nkey = \"sk-secret\\r\\nx: y\"",
        &[&format!("3:7 provider[0].key: {wrong} 10")],
    );
    check_provider(
        "name = \"openai\"\nkey = \"sk-secret\\n\"",
        &[&format!("3:7 provider[0].key: {wrong} 10")],
    );
    check_provider("name = \"openai\"\nkey = \"\"", &["3:7 provider[0].key: this key is empty"]);
    check_provider("name = \"openai\"\nkey = \"${EMPTY}\"", &["3:7 provider[0].key: this key is empty"]);
    check_provider(
        "name = \"openai\"\nkey = \"${cred:none}\"",
        &["3:8 provider[0].key: the file /creds/none cannot be read: entity not found"],
    );
    let long = "k".repeat(limits::PROVIDER_KEY_BYTES_MAX + 1);
    check_provider(
        &format!("name = \"openai\"\nkey = \"{long}\""),
        &["3:7 provider[0].key: this key is longer than 4096 bytes"],
    );
    check_provider(
        "name = \"openai\"\nkey = \"sk-secret\"",
        &["3:7 provider[0].key: this key stands in the file itself"],
    );
    check_provider(
        "name = \"openai\"\nkey = \"a\"\nkeys = []",
        &["3:7 provider[0].key: there is a `key` and there are `keys`"],
    );
    check_provider("name = \"openai\"\nkeys = []", &["1:1 provider[0]: `keys` has no key in it"]);
    check_provider(
        "name = \"openai\"\nkeys = [{ key = \"sk-secret\" }, { name = \"b\" }, { nam = \"sk-secret\" }]",
        &[
            "3:9 provider[0].keys[0]: this key has no name",
            "3:10 provider[0].keys[0].key: this key stands in the file itself",
            "3:32 provider[0].keys[1]: there is no key here",
            "3:48 provider[0].keys[2]: this key has no name",
            "3:48 provider[0].keys[2]: there is no key here",
            "3:50 provider[0].keys[2]: there is no `nam` here",
        ],
    );
    check_provider(
        "name = \"openai\"\nkeys = [{ name = \"a\", key = \"${file:/k}\" }, { name = \"a\", key = \"${file:/k}\" }]",
        &["3:55 provider[0].keys[1].name: another key of this provider has this name"],
    );
    check_provider("name = \"mistral\"", &["1:1 provider[0]: mistral needs a key"]);
    check_fix("[[provider]]\nname = \"mistral\"", "set MISTRAL_API_KEY, or write key = \"${…}\"");
}

#[test]
fn a_key_from_the_environment_goes_only_where_it_was_meant_to_go() {
    check_provider("name = \"openai\"", &[]);
    check_provider("name = \"openai\"\nbase_url = \"https://api.openai.com/v1/eu\"", &[]);
    let elsewhere = |variable, name| {
        format!(
            "1:1 provider[0]: {variable} is set, but base_url leads elsewhere than {name}'s own and nothing says it may go there"
        )
    };
    check_provider(
        "name = \"openai\"\nbase_url = \"https://evil.test/v1\"",
        &[&elsewhere("OPENAI_API_KEY", "openai")],
    );
    check_provider(
        "name = \"openai\"\nbase_url = \"https://api.openai.com:444/v1\"",
        &[&elsewhere("OPENAI_API_KEY", "openai")],
    );
    check_provider(
        "name = \"openai\"\nbase_url = \"https://evil.test/v1\"\nkey = \"${OPENAI_API_KEY}\"",
        &[],
    );
    check_provider(
        "name = \"ollama\"\nbase_url = \"http://127.0.0.1:1/v1\"",
        &[&elsewhere("OLLAMA_API_KEY", "ollama")],
    );
    check_provider("name = \"ollama\"\nbase_url = \"http://127.0.0.1:1/v1\"\nauth = \"none\"", &[]);
    let loaded = compiled("[[provider]]\nname = \"ollama\"\nbase_url = \"http://127.0.0.1:1/v1\"");
    assert!(loaded.snapshot.providers[0].keys[0].line.expose().is_empty());
}

#[test]
fn auth_is_a_scheme_or_the_name_of_a_field() {
    let url = "base_url = \"https://x.test\"";
    let line = |auth: &str| {
        let text = format!("[[provider]]\nname = \"a\"\n{url}\nauth = \"{auth}\"\nkey = \"${{file:/k}}\"");
        String::from_utf8_lossy(compiled(&text).snapshot.providers[0].keys[0].line.expose()).into_owned()
    };
    assert_eq!(line("bearer"), "authorization: Bearer sk-file-secret\r\n");
    assert_eq!(line("api-key"), "api-key: sk-file-secret\r\n");
    assert_eq!(line("x-goog-api-key"), "x-goog-api-key: sk-file-secret\r\n");
    assert_eq!(line("authorization"), "authorization: sk-file-secret\r\n");
    for auth in [
        "Bearer",
        "baerer",
        "host",
        "content-length",
        "transfer-encoding",
        "x-a\\r\\nb",
        "-x",
        "x y-z",
        "X-Key",
        "",
    ] {
        let said =
            said(&format!("[[provider]]\nname = \"a\"\n{url}\nauth = \"{auth}\"\nkey = \"${{file:/k}}\""));
        assert!(said.len() == 1 && said[0].starts_with("4:8 provider[0].auth: "), "{auth}: {said:?}");
    }
    check_fix(&format!("[[provider]]\nname = \"a\"\n{url}\nauth = \"Baerer\""), "did you mean \"bearer\"?");
    check_provider(
        &format!("name = \"a\"\n{url}\nauth = \"none\"\nkey = \"${{file:/k}}\""),
        &["5:7 provider[0].key: this key is never sent: auth is \"none\""],
    );
    check_provider(
        &format!("name = \"a\"\n{url}\nauth = \"bearer\""),
        &["1:1 provider[0]: this provider has no key"],
    );
    check_provider(&format!("name = \"a\"\n{url}"), &["1:1 provider[0]: requests are sent without a key"]);
    check_provider(&format!("name = \"a\"\n{url}\nauth = \"none\""), &[]);
}

#[test]
fn base_urls_are_strict_and_plain_http_stays_on_this_machine() {
    let url = |url: &str| format!("name = \"a\"\nauth = \"none\"\nbase_url = \"{url}\"");
    let http = "4:12 provider[0].base_url: plain http is only for this machine: keys and prompts could be read on the way";
    check_provider(&url("http://127.0.0.1:1"), &[]);
    check_provider(&url("http://[::1]:1"), &[]);
    check_provider(&url("http://localhost:1"), &[]);
    check_provider(&url("http://x.test"), &[http]);
    check_provider(&url("http://10.0.0.1"), &[http]);
    check_provider(&url("http://localhost.x.test"), &[http]);
    check_provider(&(url("http://x.test") + "\nallow_http = true"), &[]);
    check_provider(
        "name = \"openai\"\nbase_url = \"http://x.test\"\nallow_http = true\nkey = \"${file:/k}\"",
        &["3:12 provider[0].base_url: the key is sent unencrypted"],
    );
    check_provider(
        &url("https://u:sk-secret@x.test"),
        &["4:12 provider[0].base_url: a base URL has no user or password"],
    );
    check_provider(
        &url("https://x.test/?k=sk-secret"),
        &["4:12 provider[0].base_url: a base URL has no query and no fragment"],
    );
    check_provider(
        &url("https://${HOST}#.x.test"),
        &["4:12 provider[0].base_url: a base URL has no query and no fragment"],
    );
    check_provider(
        &url("https://x.test/"),
        &[
            "4:12 provider[0].base_url: a base URL that ends in a bare `/` means the root: requests go to /chat/completions",
        ],
    );
    check_provider(
        &url("https://vllm"),
        &[
            "4:12 provider[0].base_url: this looks like a name inside your network, where addresses are private and refused",
        ],
    );
    check_provider(&(url("https://vllm") + "\nallow_private = true"), &[]);
}

#[test]
fn models_are_names_and_stand_once() {
    let models = |list: &str| format!("name = \"openai\"\nmodels = {list}");
    check_provider(&models("[\"gpt-4o\", \"a/b:c@d\"]"), &[]);
    check_provider(&models("[\"\"]"), &["3:11 provider[0].models[0]: `` cannot be the name of a model"]);
    check_provider(
        &models("[\"a b\"]"),
        &["3:11 provider[0].models[0]: `a b` cannot be the name of a model"],
    );
    check_provider(
        &models("[\"a\", \"a\"]"),
        &["3:16 provider[0].models[1]: this model is already in the list"],
    );
    check_provider(
        &models("[\"openai/gpt-4o\"]"),
        &[
            "3:11 provider[0].models[0]: this model begins with the provider's own name, which callers then have to write twice",
        ],
    );
}

#[test]
fn certificates_are_read_and_judged() {
    let issued = rcgen::generate_simple_self_signed(["gateway.test".to_owned()]).expect("certificate");
    let other = rcgen::generate_simple_self_signed(["other.test".to_owned()]).expect("certificate");
    let leak = |text: String| -> &'static [u8] { text.into_bytes().leak() };
    let around = Fake {
        files: vec![
            ("/cert", leak(issued.cert.pem())),
            ("/key", leak(issued.signing_key.serialize_pem())),
            ("/other", leak(other.signing_key.serialize_pem())),
            ("/not-pem", b"hello"),
        ],
        ..Fake::default()
    };
    let tls = |cert: &str, key: &str| {
        let text = format!(
            "[server]\ntls_listen = \"127.0.0.1:1\"\n[server.tls]\ncert = \"{cert}\"\nkey = \"{key}\"\n\
             [[provider]]\nname = \"a\"\nauth = \"none\"\nbase_url = \"https://x.test\"\nca_file = \"{cert}\"\n"
        );
        compile(&text, "t.toml", &around)
    };
    let good = tls("/cert", "/key").unwrap_or_else(|complaints| panic!("{complaints}")).snapshot;
    assert!(good.server.listen.is_empty() && good.server.tls_listen.len() == 1);
    assert!(good.server.tls.is_some_and(|tls| tls.certificates_pem.starts_with(b"-----BEGIN CERTIFICATE")));
    assert!(good.providers[0].ca.is_some());
    let whats = |cert, key| -> Vec<String> {
        tls(cert, key).expect_err("wrong").0.into_iter().map(|c| format!("{}: {}", c.path, c.what)).collect()
    };
    assert_eq!(whats("/cert", "/other"), ["server.tls.key: this key does not belong to the certificate"]);
    assert_eq!(
        whats("/not-pem", "/not-pem"),
        [
            "server.tls.cert: this file holds no certificate",
            "server.tls.key: this file holds no private key",
            "provider[0].ca_file: this file holds no certificate",
        ]
    );
    assert_eq!(
        whats("/none", "/key"),
        [
            "server.tls.cert: this file cannot be read: entity not found",
            "provider[0].ca_file: this file cannot be read: entity not found",
        ]
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
    const SEEDS: [&str; 6] = [
        "[server]\nlisten = [\"127.0.0.1:8080\"]\ncores = [0, 2]\n[server.tls]\ncert = \"/c\"\nkey = \"${file:/k}\"\n",
        "[[provider]]\nname = \"openai\"\nkey = \"${OPENAI_API_KEY}\"\nmodels = ['a', \"b\"]\n# comment\n",
        "[[provider]]\nname = \"x\"\nbase_url = \"http://[::1]:9000/v1\"\nkeys = [{ name = \"a\", key = \"${A:-b}\" }]\n",
        "limits.head_bytes = 0x1000\ntimeouts = { connect_secs = 1.5e0, total_secs = 1979-05-27T07:32:00Z }\n",
        "key = \"\"\"\nüber\\u00e9\\\n  \"\"\"\n'a b'.\"c\\td\" = true\r\n[[provider.timeouts]]\n",
        "[admin]\nlisten = \"off\"\n[[provider]]\nname = \"qwen\"\ntimeouts.first_byte_secs = inf\n[provider.x]\n",
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
