//! Providers that are reached over TLS: who is trusted, what is resumed, and what is said too early.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    path::PathBuf,
};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};

use crate::support::{Gateway, Provider, Setup, chat_body, own_address, post, until};

/// A provider with a certificate, and a gateway that trusts whoever signed it.
struct Secured {
    provider: Provider,
    gateway: Gateway,
    files: Vec<PathBuf>,
}

/// What is special about the provider.
#[derive(Clone, Copy)]
struct Special {
    name: &'static str,
    expired: bool,
    /// Whether the gateway is told of the authority.
    trusted: bool,
    arguments: &'static [&'static str],
}

const GOOD: Special = Special { name: "127.0.0.1", expired: false, trusted: true, arguments: &[] };

impl Secured {
    fn start(special: Special) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names are good names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_key = KeyPair::generate().expect("a key can be made");
        let ca = params.self_signed(&ca_key).expect("a certificate can be made");
        let issuer = Issuer::new(params, ca_key);

        let mut params = CertificateParams::new(vec![special.name.to_owned()]).expect("a good name");
        if special.expired {
            (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
        }
        let key = KeyPair::generate().expect("a key can be made");
        let cert = params.signed_by(&key, &issuer).expect("a certificate can be signed");

        let id = own_address();
        let file = |kind: &str, text: String| {
            let file = std::env::temp_dir().join(format!("ringway-e2e-upstream-{id}.{kind}"));
            fs::write(&file, text).expect("a temporary file can be written");
            file
        };
        let files = vec![file("ca", ca.pem()), file("cert", cert.pem()), file("key", key.serialize_pem())];
        let [ca, cert, key] = [0, 1, 2].map(|at| files[at].to_str().expect("a plain path"));
        let arguments = [&["--tls-cert", cert, "--tls-key", key], special.arguments].concat();
        let (provider, tls): (Provider, SocketAddr) = Provider::with_tls(&arguments);
        let trust = if special.trusted { format!("ca_file = \"{ca}\"\n") } else { String::new() };
        let more = format!(
            "[[provider]]\nname = \"tls\"\nbase_url = \"https://{tls}/v1\"\nkey = \"sk-unused\"\n{trust}"
        );
        let gateway = Gateway::with(&provider, &Setup { provider: more, ..Setup::default() });
        Self { provider, gateway, files }
    }

    fn ask(&self, script: &str) -> crate::support::Answer {
        self.gateway.ask(post("/v1/chat/completions", &chat_body(&format!("tls/{script}"), false)))
    }

    /// The requests that were let through, not counting the model lists that the gateway fetches by itself.
    fn chats(&self) -> usize {
        self.provider.seen().iter().filter(|seen| seen.0["method"] == "POST").count()
    }
}

impl Drop for Secured {
    fn drop(&mut self) {
        for file in &self.files {
            let _ = fs::remove_file(file);
        }
    }
}

#[test]
fn a_provider_is_reached_over_tls_and_its_session_is_resumed() {
    let secured = Secured::start(GOOD);
    secured.ask("sim,closeafter").expect(200);
    assert!(secured.provider.handshakes().iter().all(|one| one["resumed"] == false));
    // The first one closed its connection, so this is a second.
    secured.ask("sim,closeafter").expect(200);
    let handshakes = secured.provider.handshakes();
    assert!(handshakes.iter().any(|one| one["resumed"] == true), "{handshakes:?}");
    assert_eq!(secured.chats(), 2);
}

#[test]
fn a_long_body_and_a_long_answer_pass_through_tls() {
    let secured = Secured::start(GOOD);
    let body = chat_body("tls/sim,size=300000", false).replace("Say hello.", &"x".repeat(1 << 20));
    let answer = secured.gateway.ask(post("/v1/chat/completions", &body)).expect(200);
    assert_eq!(answer.text().len(), 300_000);
}

#[test]
fn a_certificate_that_does_not_hold_is_a_bad_gateway_and_nothing_is_sent() {
    for (what, special) in [
        ("another name", Special { name: "other.test", ..GOOD }),
        ("another address", Special { name: "127.0.0.2", ..GOOD }),
        ("expired", Special { expired: true, ..GOOD }),
        ("an unknown authority", Special { trusted: false, ..GOOD }),
    ] {
        let secured = Secured::start(special);
        let answer = secured.ask("sim");
        assert_eq!(answer.status, 502, "{what}: {}", answer.text());
        answer.refusal(502);
        let failed = |one: &serde_json::Value| one["failed"].is_string();
        until("the provider saw it fail", || secured.provider.handshakes().iter().any(failed).then_some(()));
        assert!(secured.provider.handshakes().iter().all(failed), "{what}");
        assert_eq!(secured.chats(), 0, "{what}: no request got past it");
    }
}

#[test]
fn a_port_that_does_not_speak_tls_is_a_bad_gateway() {
    let provider = Provider::start();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it has one");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}");
            // Until the other side has had enough.
            let _ = stream.read_to_end(&mut Vec::new());
        }
    });
    let more =
        format!("[[provider]]\nname = \"tls\"\nbase_url = \"https://{address}/v1\"\nkey = \"sk-unused\"\n");
    let gateway = Gateway::with(&provider, &Setup { provider: more, ..Setup::default() });
    gateway.ask(post("/v1/chat/completions", &chat_body("tls/sim", false))).refusal(502);
}

#[test]
fn what_is_said_before_the_handshake_ends_is_no_answer() {
    let secured = Secured::start(Special { arguments: &["--tls-early"], ..GOOD });
    for round in 0..5 {
        let answer = secured.ask("sim,closeafter");
        // Discarded if it came with the handshake; else it lies on a connection that has asked nothing, which is given up.
        assert!(!answer.text().contains("planted"), "round {round}: {}", answer.text());
        // 503 once the breaker has seen enough of it.
        assert!([200, 502, 503].contains(&answer.status), "round {round}: {}", answer.text());
    }
}
