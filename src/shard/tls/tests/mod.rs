//! The adaptor against rustls itself, blocking in a thread of its own, on each driver.

mod data;
mod ends;
mod handshake;

use std::{
    future::poll_fn,
    io::{self, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, OnceLock, mpsc},
    task::{Context, Waker},
    thread,
    time::Duration,
};

use rustls::{
    CertificateError, ClientConfig, ClientConnection, Connection, HandshakeKind, InvalidMessage,
    RootCertStore, ServerConfig, ServerConnection,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    version::{TLS12, TLS13},
};

use super::{Tls, Unsecured, client_config, server_config};
use crate::{
    base::{
        limits,
        now::Now,
        span::Span,
        waiting::{Expiry, Waiting},
    },
    exchange::{Outgoing, seam::Stir},
    shard::{
        stream::{Tcp, shutdown},
        wheel::Wheel,
    },
};

/// A blocking end of a connection, as someone else would write it.
struct Peer {
    session: Connection,
    socket: TcpStream,
}

impl Peer {
    fn client(socket: TcpStream, config: &Arc<ClientConfig>) -> Self {
        let session = ClientConnection::new(config.clone(), name("localhost")).expect("a session");
        Self { session: Connection::Client(session), socket }
    }

    fn server(socket: TcpStream, config: &Arc<ServerConfig>) -> Self {
        let session = ServerConnection::new(config.clone()).expect("a session");
        Self { session: Connection::Server(session), socket }
    }

    fn shake_hands(mut self) -> Self {
        while self.session.is_handshaking() {
            self.session.complete_io(&mut self.socket).expect("a handshake");
        }
        self.flush();
        self
    }

    fn flush(&mut self) {
        while self.session.wants_write() {
            self.session.write_tls(&mut self.socket).expect("the other end takes what is written");
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        // In pieces, because rustls buffers no more than so much at once.
        for piece in bytes.chunks(limits::TLS_RECORD_BYTES) {
            self.session.writer().write_all(piece).expect("a live session");
            self.flush();
        }
    }

    /// Reads some; empty: close_notify.
    fn some(&mut self) -> io::Result<Vec<u8>> {
        let mut into = vec![0; 64 << 10];
        loop {
            match self.session.reader().read(&mut into) {
                Ok(read) => {
                    into.truncate(read);
                    return Ok(into);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            self.session.read_tls(&mut self.socket)?;
            self.session.process_new_packets().map_err(io::Error::other)?;
        }
    }

    fn receive(&mut self, bytes: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while all.len() < bytes {
            let some = self.some().expect("the rest");
            assert!(!some.is_empty(), "an end after {} of {bytes} bytes", all.len());
            all.extend(some);
        }
        all
    }
}

/// Runs `peer` in a thread and `ours` on a core's runtime, once on every driver this kernel has. Each gets its own end.
pub(in crate::shard) fn meet<T: Send>(
    peer: impl Fn(TcpStream) -> T + Sync,
    ours: impl AsyncFn(Tcp, Wheel),
) -> Vec<T> {
    let mut answers = Vec::new();
    let legacy = monoio::RuntimeBuilder::<monoio::LegacyDriver>::new().build().expect("epoll");
    answers.push(meet_on(legacy, &peer, &ours));
    let mut flags = io_uring::IoUring::builder();
    flags.setup_single_issuer().setup_defer_taskrun();
    match monoio::RuntimeBuilder::<monoio::IoUringDriver>::new().uring_builder(flags).build() {
        Ok(ring) => answers.push(meet_on(ring, &peer, &ours)),
        // Containers often forbid it. Said, because it is not the same as having passed.
        Err(error) => eprintln!("io_uring: NOT CHECKED, {error}"),
    }
    answers
}

fn meet_on<D: monoio::Driver, T: Send>(
    mut runtime: monoio::Runtime<D>,
    peer: &(impl Fn(TcpStream) -> T + Sync),
    ours: &impl AsyncFn(Tcp, Wheel),
) -> T {
    let (theirs, mine) = sockets();
    let shutter = mine.try_clone().expect("a descriptor");
    let answer = thread::scope(|scope| {
        let peer = scope.spawn(move || peer(theirs));
        runtime.block_on(async {
            let wheel = Wheel::default();
            let tcp = monoio::net::TcpStream::from_std(mine).expect("a socket");
            ours(Tcp::new(tcp, &wheel), wheel).await;
        });
        // The runtime turns no more, so what it has yet to close would stay open.
        let _ = shutter.shutdown(Shutdown::Both);
        peer.join().expect("the peer is content")
    });
    // A runtime must not be dropped with operations in flight, and a dropped connection leaves one: its watch.
    std::mem::forget(runtime);
    answer
}

fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let theirs = TcpStream::connect(listener.local_addr().expect("its number")).expect("a connection");
    let (mine, _) = listener.accept().expect("the same connection");
    // If our end never answers, the test fails and does not hang.
    theirs.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    theirs.set_nodelay(true).expect("no delay");
    mine.set_nonblocking(true).expect("as the listener makes them");
    (theirs, mine)
}

struct Papers {
    ca_pem: String,
    good: (String, String),
    expired: (String, String),
    elsewhere: (String, String),
    self_signed: (String, String),
}

fn papers() -> &'static Papers {
    static PAPERS: OnceLock<Papers> = OnceLock::new();
    PAPERS.get_or_init(|| {
        let mut ca = rcgen::CertificateParams::new([]).expect("parameters");
        // Not the name that self-signed certificates of this crate have, or they would seem to be issued by it.
        ca.distinguished_name.push(rcgen::DnType::CommonName, "authority");
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca_key = rcgen::KeyPair::generate().expect("a key");
        let ca_pem = ca.self_signed(&ca_key).expect("a certificate").pem();
        let issuer = rcgen::Issuer::new(ca, ca_key);
        let issue = |name: &str, until: i32| {
            let key = rcgen::KeyPair::generate().expect("a key");
            let mut leaf = rcgen::CertificateParams::new([name.to_owned()]).expect("parameters");
            leaf.not_after = rcgen::date_time_ymd(until, 1, 1);
            (leaf.signed_by(&key, &issuer).expect("a certificate").pem(), key.serialize_pem())
        };
        let alone = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        Papers {
            good: issue("localhost", 4096),
            expired: issue("localhost", 2020),
            elsewhere: issue("elsewhere.example", 4096),
            self_signed: (alone.cert.pem(), alone.signing_key.serialize_pem()),
            ca_pem,
        }
    })
}

fn our_server() -> Arc<ServerConfig> {
    let (cert, key) = &papers().good;
    server_config(cert.as_bytes(), key.as_bytes()).expect("a configuration")
}

fn our_client() -> Arc<ClientConfig> {
    client_config(Some(papers().ca_pem.as_bytes())).expect("a configuration")
}

/// A server that we did not configure.
fn their_server(
    (cert, key): &(String, String),
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> Arc<ServerConfig> {
    let chain = vec![CertificateDer::from_pem_slice(cert.as_bytes()).expect("PEM")];
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("PEM");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config =
        ServerConfig::builder_with_provider(provider).with_protocol_versions(versions).expect("versions");
    Arc::new(config.with_no_client_auth().with_single_cert(chain, key).expect("a configuration"))
}

/// A client that we did not configure.
fn their_client(versions: &[&'static rustls::SupportedProtocolVersion], alpn: &[&[u8]]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(papers().ca_pem.as_bytes()).expect("PEM")).expect("a root");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config =
        ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).expect("versions");
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Arc::new(config)
}

fn name(name: &'static str) -> ServerName<'static> {
    ServerName::try_from(name).expect("a name")
}

async fn connect(tcp: Tcp) -> Box<Tls> {
    Tls::connect(tcp, our_client(), name("localhost")).await.expect("a handshake")
}

async fn accept(tcp: Tcp) -> Box<Tls> {
    Tls::accept(tcp, our_server()).await.expect("a handshake")
}

async fn read(tls: &mut Tls) -> io::Result<Vec<u8>> {
    let (read, buffer) = tls.read(Vec::with_capacity(limits::READ_BYTES)).await;
    assert_eq!(*read.as_ref().unwrap_or(&0), buffer.len());
    read.map(|_| buffer)
}

async fn write(tls: &mut Tls, bytes: &[u8]) {
    let mut out = Outgoing::default();
    out.push_all(bytes.to_vec());
    tls.write(&out).await.expect("the peer takes it");
}

/// Until the socket itself is readable, whatever it is that came.
async fn stirred(tls: &mut Tls) {
    poll_fn(|cx| tls.tcp_mut().poll_readable(cx)).await;
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    (0..bytes).map(|_| next()).collect()
}
