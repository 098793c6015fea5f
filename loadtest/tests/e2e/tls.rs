//! The TLS listener: the same exchanges under it, and handshakes that are slow, odd or not TLS at all.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, ProtocolVersion, RootCertStore, SupportedProtocolVersion,
    pki_types::{CertificateDer, ServerName},
    version,
};

use crate::support::{Client, Ending, Gateway, Provider, Setup, chat, chat_body, own_address, post, until};

/// A gateway with a TLS listener, and what a client needs to trust it.
pub(crate) struct Secured {
    provider: Provider,
    pub(crate) gateway: Gateway,
    roots: Arc<RootCertStore>,
    files: [PathBuf; 2],
    /// An address that the certificate names.
    pub(crate) named: Ipv4Addr,
}

impl Secured {
    fn start() -> Self {
        Self::with("")
    }

    /// With more lines for `[server]`.
    pub(crate) fn with(server: &str) -> Self {
        let name = own_address();
        let files =
            ["cert", "key"].map(|kind| std::env::temp_dir().join(format!("ringway-e2e-{name}.{kind}")));
        let made = issue(name);
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).expect("it is well-formed");
        write(&files, &made);
        let [cert, key] = files.each_ref().map(|file| file.display());
        let setup = Setup {
            server: format!(
                "{server}\ntls_listen = [\"HOST:8443\", \"{name}:8443\"]\ntls = {{ cert = \"{cert}\", key = \"{key}\" }}\n"
            ),
            limits: "handshake_secs = 1\n".into(),
            ..Setup::default()
        };
        let provider = Provider::start();
        let gateway = Gateway::with(&provider, &setup);
        Self { provider, gateway, roots: Arc::new(roots), files, named: name }
    }

    /// Puts another certificate for the same names into the files, and trusts it beside those before; nobody is told.
    fn renew(&mut self) -> CertificateDer<'static> {
        let made = issue(self.named);
        let mut roots = RootCertStore::clone(&self.roots);
        roots.add(made.cert.der().clone()).expect("it is well-formed");
        self.roots = Arc::new(roots);
        write(&self.files, &made);
        made.cert.der().clone()
    }

    pub(crate) fn config(&self, versions: &[&'static SupportedProtocolVersion]) -> Arc<ClientConfig> {
        let builder = ClientConfig::builder_with_protocol_versions(versions);
        let mut config = builder.with_root_certificates(Arc::clone(&self.roots)).with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(config)
    }

    /// A connection to the TLS listener, without TLS as yet.
    pub(crate) fn plain(&self) -> Client {
        plain(self.gateway.address)
    }

    fn client(&self, config: &Arc<ClientConfig>) -> Client {
        connect(self.gateway.address, config)
    }

    /// SIGHUP, until the gateway has said so.
    fn reload(&mut self, expect: &str) {
        self.gateway.program.signal("HUP");
        self.gateway.program.line(expect, |line| line.ends_with(expect).then_some(()));
    }
}

/// A connection to the TLS listener of the gateway whose plain one is at `address`.
pub(crate) fn connect(address: SocketAddr, config: &Arc<ClientConfig>) -> Client {
    plain(address).with_tls(session(config))
}

fn plain(mut address: SocketAddr) -> Client {
    address.set_port(8443);
    Client::connect(address)
}

fn issue(name: Ipv4Addr) -> rcgen::CertifiedKey<rcgen::KeyPair> {
    let names = vec!["localhost".to_owned(), name.to_string()];
    rcgen::generate_simple_self_signed(names).expect("a certificate can be made")
}

fn write([cert, key]: &[PathBuf; 2], made: &rcgen::CertifiedKey<rcgen::KeyPair>) {
    fs::write(cert, made.cert.pem()).expect("a temporary file can be written");
    fs::write(key, made.signing_key.serialize_pem()).expect("a temporary file can be written");
}

impl Drop for Secured {
    fn drop(&mut self) {
        for file in &self.files {
            let _ = fs::remove_file(file);
        }
    }
}

pub(crate) fn session(config: &Arc<ClientConfig>) -> ClientConnection {
    let name = ServerName::try_from("localhost").expect("a name");
    ClientConnection::new(Arc::clone(config), name).expect("a session can be made")
}

#[test]
fn both_versions_of_tls_are_served() {
    let secured = Secured::start();
    for (version, expect) in
        [(&version::TLS12, ProtocolVersion::TLSv1_2), (&version::TLS13, ProtocolVersion::TLSv1_3)]
    {
        let config = secured.config(&[version]);
        let mut client = secured.client(&config);
        for _ in 0..3 {
            client.ask(chat("sim", false)).expect(200);
            let stream = client.ask(chat("sim,events=20,split=7", true)).expect(200);
            assert!(stream.ending == Ending::Whole && stream.text().ends_with("data: [DONE]\n\n"));
        }
        let session = client.session().expect("a session");
        assert_eq!(session.protocol_version(), Some(expect));
        assert_eq!(session.alpn_protocol(), Some(&b"http/1.1"[..]));
    }
    // The plain listener serves as before.
    secured.gateway.chat("sim").expect(200);
}

#[test]
fn sessions_are_resumed() {
    let secured = Secured::start();
    for version in [&version::TLS12, &version::TLS13] {
        let config = secured.config(&[version]);
        let kinds = [(); 3].map(|()| {
            let mut client = secured.client(&config);
            client.ask(chat("sim", false)).expect(200);
            client.session().and_then(|session| session.handshake_kind())
        });
        assert_eq!(kinds[0], Some(HandshakeKind::Full));
        assert_eq!(kinds[1..], [Some(HandshakeKind::Resumed); 2]);
    }
}

/// A request on a new connection: what certificate it was shown, and whether it had to be.
fn shown(secured: &Secured, config: &Arc<ClientConfig>) -> (CertificateDer<'static>, HandshakeKind) {
    let mut client = secured.client(config);
    client.ask(chat("sim", false)).expect(200);
    (certificate(&mut client), kind(&mut client))
}

fn certificate(client: &mut Client) -> CertificateDer<'static> {
    let chain = client.session().and_then(|session| session.peer_certificates()).expect("a chain");
    chain[0].clone().into_owned()
}

fn kind(client: &mut Client) -> HandshakeKind {
    client.session().and_then(|session| session.handshake_kind()).expect("the handshake is over")
}

#[test]
fn a_reload_shows_a_new_certificate_to_new_clients_alone() {
    let mut secured = Secured::with("cores = 2");
    let configs = [&version::TLS12, &version::TLS13].map(|version| secured.config(&[version]));
    let mut old_clients = configs.each_ref().map(|config| secured.client(config));
    let [old, _] = old_clients.each_mut().map(|client| {
        client.ask(chat("sim", false)).expect(200);
        certificate(client)
    });
    let new = secured.renew();
    assert_ne!(old, new);
    // As long as nobody has said so, the files are only files.
    assert_eq!(shown(&secured, &configs[1]).0, old);

    secured.reload("generation 2, with a new certificate");
    // So many that both cores are asked.
    for version in [&version::TLS12, &version::TLS13].repeat(10) {
        assert_eq!(shown(&secured, &secured.config(&[version])), (new.clone(), HandshakeKind::Full));
    }
    for client in &mut old_clients {
        client.ask(chat("sim", false)).expect(200);
        assert_eq!(certificate(client), old);
    }
}

#[test]
fn sessions_are_resumed_across_a_reload_that_keeps_the_certificate() {
    let mut secured = Secured::with("cores = 2");
    let configs = [&version::TLS12, &version::TLS13].map(|version| secured.config(&[version]));
    for config in &configs {
        assert_eq!(shown(&secured, config).1, HandshakeKind::Full);
    }
    secured.reload("generation 2");
    for config in configs.iter().flat_map(|config| [config; 5]) {
        assert_eq!(shown(&secured, config).1, HandshakeKind::Resumed);
    }
}

#[test]
fn a_bad_certificate_file_changes_nothing() {
    let secured = Secured::start();
    let config = secured.config(&[&version::TLS13]);
    let (old, _) = shown(&secured, &config);
    let stranger = issue(secured.named);
    for (file, text) in [
        (0, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned()),
        (0, String::new()),
        (1, stranger.signing_key.serialize_pem()),
    ] {
        let good = fs::read(&secured.files[file]).expect("it is there");
        fs::write(&secured.files[file], text).expect("a temporary file can be written");
        secured.gateway.program.signal("HUP");
        until("the reload is reported as failed", || {
            (secured.gateway.metric("rw_config_reload_success") == [(String::new(), 0.0)]).then_some(())
        });
        assert_eq!(shown(&secured, &config), (old.clone(), HandshakeKind::Resumed));
        assert_eq!(shown(&secured, &secured.config(&[&version::TLS13])), (old.clone(), HandshakeKind::Full));
        fs::write(&secured.files[file], good).expect("a temporary file can be written");
        secured.gateway.program.signal("HUP");
        until("the good file is taken up again", || {
            (secured.gateway.metric("rw_config_reload_success") == [(String::new(), 1.0)]).then_some(())
        });
    }
    // It is the same certificate as at the start: nothing was replaced.
    assert_eq!(shown(&secured, &config), (old, HandshakeKind::Resumed));
}

#[test]
fn a_handshake_may_arrive_byte_by_byte() {
    let secured = Secured::start();
    let config = secured.config(&[&version::TLS13]);
    let mut session = session(&config);
    let mut hello = Vec::new();
    session.write_tls(&mut hello).expect("into memory");
    let mut client = secured.plain();
    for byte in hello {
        client.send([byte]);
    }
    client.with_tls(session).ask(chat("sim", false)).expect(200);
}

#[test]
fn what_is_not_tls_is_closed_and_harms_nobody() {
    let secured = Secured::start();
    for bytes in [
        &b"GET /v1/models HTTP/1.1\r\nHost: g\r\n\r\n"[..],
        &[0x16, 3, 1, 0xff, 0xff, 1],
        &[0; 100],
        &[0xff; 20_000],
    ] {
        let mut client = secured.plain();
        client.offer(bytes);
        client.expect_end();
    }
    secured.client(&secured.config(&[&version::TLS13])).ask(chat("sim", false)).expect(200);
}

#[test]
fn a_handshake_that_stalls_is_ended() {
    let secured = Secured::start();
    secured.plain().expect_end();
    let mut hello = Vec::new();
    session(&secured.config(&[&version::TLS13])).write_tls(&mut hello).expect("into memory");
    let mut client = secured.plain();
    client.send(&hello[..hello.len() / 2]);
    client.expect_end();
}

#[test]
fn a_large_body_passes_both_ways() {
    let secured = Secured::start();
    let mut client = secured.client(&secured.config(&[&version::TLS13]));
    let filler = "x".repeat(2 << 20);
    let body = format!(
        r#"{{"model":"{}","messages":[{{"role":"user","content":"{filler}"}}]}}"#,
        crate::support::model("sim,size=2000000")
    );
    let answer = client.ask(post("/v1/chat/completions", &body)).expect(200);
    assert!(answer.ending == Ending::Whole && answer.body.len() >= 2_000_000, "{}", answer.body.len());
}

#[test]
fn leaving_cancels_upstream_with_and_without_a_goodbye() {
    let secured = Secured::start();
    let config = secured.config(&[&version::TLS13]);
    for (name, goodbye) in [("named-polite", true), ("named-abrupt", false)] {
        // With a goodbye the connection below stays until the provider has seen it: FIN is not what tells.
        let mut kept = Vec::new();
        secured.provider.expect_cancelled(name, |name| {
            let mut client = secured.client(&config);
            client.send(chat(&format!("{name},events=100000,gap=5"), true));
            assert_eq!(client.head().status, 200);
            client.some_chunks(100);
            let left_ns = Provider::now_ns();
            if goodbye {
                client.say_goodbye();
                kept.push(client);
            }
            left_ns
        });
    }
}

#[test]
fn a_lost_stream_ends_without_a_last_chunk() {
    let secured = Secured::start();
    let mut client = secured.client(&secured.config(&[&version::TLS13]));
    let answer = client.ask(chat("sim,events=50,cut=1000", true)).expect(200);
    assert_ne!(answer.ending, Ending::Whole);
    assert!(
        answer.text().contains("upstream_interrupted") && !answer.text().contains("[DONE]"),
        "{}",
        answer.text()
    );
}

fn chat_of(model: &str, stream: bool) -> String {
    post("/v1/chat/completions", &chat_body(model, stream))
}

/// A gateway that has a gateway for its provider, over TLS.
#[track_caller]
fn behind(secured: &Secured, trust: &str) -> Gateway {
    let setup = Setup {
        provider: format!(
            "[[provider]]\nname = \"front\"\nbase_url = \"https://{}:8443/v1\"\nauth = \"none\"\n{trust}",
            secured.named
        ),
        ..Setup::default()
    };
    Gateway::with(&secured.provider, &setup)
}

#[test]
fn an_upstream_behind_tls_is_served() {
    let secured = Secured::start();
    let gateway = behind(&secured, &format!("ca_file = \"{}\"\n", secured.files[0].display()));
    let mut client = gateway.client();
    for _ in 0..3 {
        client.ask(chat_of("front/sim/sim", false)).expect(200);
        let stream = client.ask(chat_of("front/sim/sim,events=20,size=2000", true)).expect(200);
        assert!(stream.text().ends_with("data: [DONE]\n\n"), "{}", stream.text());
    }
    until("a connection is counted as used again", || {
        let pooled = gateway.metric("rw_upstream_connections_total");
        pooled.iter().any(|(labels, count)| labels.contains("reused") && *count > 0.0).then_some(())
    });
}

#[test]
fn an_upstream_that_no_root_vouches_for_is_refused() {
    let secured = Secured::start();
    let gateway = behind(&secured, "");
    let answer = gateway.client().ask(chat_of("front/sim/sim", false));
    answer.refusal(502);
    assert_eq!(secured.provider.seen_as("chat").len(), 0, "something was sent all the same");
}
