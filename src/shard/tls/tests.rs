//! The adaptor against rustls itself, blocking in a thread of its own, on each driver.

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

// ---- the two ends --------------------------------------------------------------------------------------------------

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
fn meet<T: Send>(peer: impl Fn(TcpStream) -> T + Sync, ours: impl AsyncFn(Tcp, Wheel)) -> Vec<T> {
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

// ---- certificates --------------------------------------------------------------------------------------------------

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

// ---- helpers of ours -----------------------------------------------------------------------------------------------

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
    tls.write(out).await.0.expect("the peer takes it");
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

// ---- bytes ---------------------------------------------------------------------------------------------------------

/// Sizes around every boundary there is, adding up to a mebibyte.
fn odd_sizes() -> Vec<usize> {
    let mut sizes =
        vec![1, 2, 5, 16_383, 16_384, 16_385, 4_095, 4_096, 4_097, 65_535, 65_536, 65_537, 131_073];
    let mut left = (1 << 20) - sizes.iter().sum::<usize>();
    for size in [7, 31_337, 997, 99_991].into_iter().cycle() {
        sizes.push(size.min(left));
        left -= size.min(left);
        if left == 0 {
            return sizes;
        }
    }
    sizes
}

async fn echo(tls: &mut Tls) {
    // Room of every size, some of it before what is read.
    for (turn, room) in [1, 3, 100, 5_000, 16_384, 16_406, 70_000].into_iter().cycle().enumerate() {
        let kept = vec![b'#'; turn % 7];
        let mut into = Vec::with_capacity(kept.len() + room);
        into.extend_from_slice(&kept);
        let (read, buffer) = tls.read(into).await;
        let read = read.expect("more, or an end");
        assert_eq!((&buffer[..kept.len()], buffer.len()), (kept.as_slice(), kept.len() + read));
        if read == 0 {
            return;
        }
        let mut out = Outgoing::default();
        let index = out.own(buffer);
        let middle = kept.len() + read / 2;
        out.push(index, Span::new(middle, kept.len() + read));
        out.push(index, Span::new(kept.len(), middle));
        let (written, _) = tls.write(out).await;
        written.expect("the peer takes it");
    }
}

/// The peer's side of [`echo`]. Halves come back exchanged, so only what comes back is counted and summed.
fn check_echo(peer: &mut Peer) {
    let bytes = noise(1 << 20);
    let mut from = 0;
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>();
    for size in odd_sizes() {
        let piece = &bytes[from..from + size];
        peer.send(piece);
        assert_eq!(sum(&peer.receive(size)), sum(piece), "a piece of {size} bytes");
        from += size;
    }
    assert_eq!(from, 1 << 20);
    peer.session.send_close_notify();
    peer.flush();
}

#[test]
fn a_mebibyte_in_odd_pieces_comes_back_from_a_server() {
    for versions in [&[&TLS12][..], &[&TLS13]] {
        let config = their_client(versions, &[b"http/1.1"]);
        meet(
            |socket| check_echo(&mut Peer::client(socket, &config).shake_hands()),
            async |tcp, _| echo(&mut *accept(tcp).await).await,
        );
    }
}

#[test]
fn a_mebibyte_in_odd_pieces_comes_back_from_a_client() {
    for versions in [&[&TLS12][..], &[&TLS13]] {
        let config = their_server(&papers().good, versions);
        meet(
            |socket| {
                let mut peer = Peer::server(socket, &config).shake_hands();
                assert_eq!(peer.receive(1), b"?");
                check_echo(&mut peer);
            },
            async |tcp, _| {
                let mut tls = connect(tcp).await;
                write(&mut tls, b"?").await;
                echo(&mut tls).await;
            },
        );
    }
}

#[test]
fn bytes_arrive_in_order_and_the_buffer_is_the_callers() {
    let sent = noise(300_000);
    let config = their_server(&papers().good, &[&TLS13]);
    meet(
        |socket| {
            let mut peer = Peer::server(socket, &config).shake_hands();
            assert_eq!(peer.receive(1), b"?");
            peer.send(&sent);
            assert_eq!(peer.receive(sent.len()), sent);
        },
        async |tcp, _| {
            let mut tls = connect(tcp).await;
            write(&mut tls, b"?").await;
            let mut got = Vec::new();
            let mut into = Vec::with_capacity(limits::READ_BYTES);
            let address = into.as_ptr();
            while got.len() < sent.len() {
                let (read, buffer) = tls.read(into).await;
                read.expect("more");
                got.extend_from_slice(&buffer);
                into = buffer;
                assert_eq!((into.as_ptr(), into.capacity()), (address, limits::READ_BYTES));
                into.clear();
            }
            assert_eq!(got, sent);
            write(&mut tls, &sent).await;
        },
    );
}

#[test]
fn a_vectored_write_is_as_few_records_as_can_be() {
    #[track_caller]
    fn check(pieces: &[usize], expect: &[usize]) {
        let config = their_client(&[&TLS13], &[]);
        let records = meet(
            |socket| {
                let mut peer = Peer::client(socket, &config).shake_hands();
                // Tickets come before: only what follows this byte is counted.
                assert_eq!(peer.receive(1), b"-");
                let mut ciphertext = Vec::new();
                peer.socket.read_to_end(&mut ciphertext).expect("the rest");
                let mut rest = ciphertext.as_slice();
                let mut records = Vec::new();
                while let [kind, _, _, high, low, tail @ ..] = rest {
                    let bytes = usize::from(u16::from_be_bytes([*high, *low]));
                    assert_eq!(*kind, 23);
                    // The content's type and the tag are not plaintext.
                    records.push(bytes - 17);
                    rest = &tail[bytes..];
                }
                records
            },
            async |tcp, _| {
                let mut tls = accept(tcp).await;
                write(&mut tls, b"-").await;
                let mut out = Outgoing::default();
                let (a, b) = (out.own(noise(200_000)), out.own(noise(200_000)));
                for (turn, bytes) in pieces.iter().enumerate() {
                    out.push(if turn % 2 == 0 { a } else { b }, Span::new(0, *bytes));
                }
                let (written, mut out) = tls.write(out).await;
                written.expect("the peer takes it");
                assert_eq!((out.take(a).len(), out.take(b).len()), (200_000, 200_000));
                tls.finish().await;
            },
        );
        for records in records {
            let (notify, data) = records.split_last().expect("at least close_notify");
            assert_eq!((data, *notify), (expect, 2), "{pieces:?}");
        }
    }
    check(&[100], &[100]);
    check(&[6, 900, 2], &[908]);
    check(&[5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5], &[55]);
    check(&[16_000, 384], &[16_384]);
    check(&[16_384, 1], &[16_384, 1]);
    check(&[100_000], &[16_384, 16_384, 16_384, 16_384, 16_384, 16_384, 1_696]);
    check(&[], &[]);
}

// ---- ends ----------------------------------------------------------------------------------------------------------

#[test]
fn an_orderly_end_is_told_from_a_cut() {
    let config = their_client(&[&TLS12, &TLS13], &[]);
    for orderly in [true, false] {
        meet(
            |socket| {
                let mut peer = Peer::client(socket, &config).shake_hands();
                peer.send(b"last words");
                if orderly {
                    peer.session.send_close_notify();
                    peer.flush();
                }
                peer.socket.shutdown(Shutdown::Write).expect("a FIN");
                // Half-closed: what we still write arrives, and our own end is orderly.
                assert_eq!(peer.receive(8), b"answered");
                assert_eq!(peer.some().expect("close_notify"), b"");
                assert_eq!(peer.socket.read(&mut [0]).expect("a FIN"), 0);
            },
            async |tcp, _| {
                let mut tls = accept(tcp).await;
                assert_eq!(read(&mut tls).await.expect("data comes before the end"), b"last words");
                for _ in 0..2 {
                    match read(&mut tls).await {
                        Ok(end) => assert!(orderly && end.is_empty()),
                        Err(error) => assert!(!orderly && error.kind() == io::ErrorKind::UnexpectedEof),
                    }
                    poll_fn(|cx| tls.poll_readable(cx)).await;
                    assert_eq!(tls.peek(), Stir::Gone);
                }
                write(&mut tls, b"answered").await;
                tls.finish().await;
                tls.finish().await;
            },
        );
    }
}

#[test]
fn a_record_that_was_tampered_with_is_an_end() {
    let config = their_client(&[&TLS13], &[]);
    meet(
        |socket| {
            let mut peer = Peer::client(socket, &config).shake_hands();
            peer.send(b"good");
            peer.session.writer().write_all(b"evil").expect("a live session");
            let mut record = Vec::new();
            peer.session.write_tls(&mut record).expect("a record");
            *record.last_mut().expect("a tag") ^= 1;
            peer.socket.write_all(&record).expect("sent");
            let said = peer.some().expect_err("an alert");
            assert!(said.to_string().contains("BadRecordMac"), "{said}");
        },
        async |tcp, _| {
            let mut tls = accept(tcp).await;
            assert_eq!(read(&mut tls).await.expect("what came before"), b"good");
            let error = read(&mut tls).await.expect_err("an end");
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            assert_eq!(tls.peek(), Stir::Gone);
            let mut out = Outgoing::default();
            out.push_all(b"more".to_vec());
            assert_eq!(tls.write(out).await.0.expect_err("an end").kind(), io::ErrorKind::InvalidData);
        },
    );
}

// ---- readable means data or an end ---------------------------------------------------------------------------------

#[test]
fn tickets_and_key_updates_are_not_readable() {
    let config = their_server(&papers().good, &[&TLS13]);
    let (go, gone) = mpsc::channel();
    let gone = std::sync::Mutex::new(gone);
    meet(
        |socket| {
            let mut peer = Peer::server(socket, &config).shake_hands();
            for _ in 0..2 {
                gone.lock().expect("one peer").recv().expect("our end waits");
                peer.send(b"data");
                assert_eq!(peer.receive(4), b"back");
                peer.session.refresh_traffic_keys().expect("TLS 1.3");
                peer.flush();
            }
            assert_eq!(peer.receive(3), b"end");
        },
        async |tcp, _| {
            let mut tls = connect(tcp).await;
            // First tickets lie in the socket, then a key update does.
            for _ in 0..2 {
                stirred(&mut tls).await;
                let mut polls = 0;
                poll_fn(|cx| {
                    let poll = tls.poll_readable(cx);
                    if polls == 0 {
                        assert!(poll.is_pending(), "there is no data yet");
                        go.send(()).expect("the peer waits");
                    }
                    polls += 1;
                    poll
                })
                .await;
                assert_eq!((tls.peek(), tls.peek()), (Stir::Bytes, Stir::Bytes));
                assert_eq!(read(&mut tls).await.expect("what was promised"), b"data");
                assert_eq!(tls.peek(), Stir::Nothing);
                write(&mut tls, b"back").await;
            }
            stirred(&mut tls).await;
            assert_eq!(tls.peek(), Stir::Nothing, "the key update is taken by a peek too");
            write(&mut tls, b"end").await;
        },
    );
}

#[test]
fn data_that_came_with_the_handshake_is_readable_without_the_socket() {
    let config = their_client(&[&TLS13], &[]);
    meet(
        |socket| {
            let mut peer = Peer::client(socket, &config);
            // rustls keeps it until the handshake is over, and sends it with its last flight.
            peer.session.writer().write_all(b"GET").expect("room");
            let mut peer = peer.shake_hands();
            assert_eq!(peer.receive(2), b"OK");
        },
        async |tcp, _| {
            let mut tls = accept(tcp).await;
            poll_fn(|cx| tls.poll_readable(cx)).await;
            assert_eq!(tls.peek(), Stir::Bytes);
            assert!(tls.poll_readable(&mut Context::from_waker(Waker::noop())).is_ready());
            assert_eq!(read(&mut tls).await.expect("a request"), b"GET");
            write(&mut tls, b"OK").await;
        },
    );
}

#[test]
fn a_watch_that_fired_for_bytes_already_read_does_no_harm() {
    let config = their_client(&[&TLS13], &[]);
    meet(
        |socket| {
            let mut peer = Peer::client(socket, &config).shake_hands();
            for _ in 0..3 {
                peer.send(b"ping");
                assert_eq!(peer.receive(4), b"pong");
            }
        },
        async |tcp, _| {
            let mut tls = accept(tcp).await;
            for _ in 0..3 {
                // Armed, and then left behind by a read.
                let _ = tls.poll_readable(&mut Context::from_waker(Waker::noop()));
                assert_eq!(read(&mut tls).await.expect("a ping"), b"ping");
                write(&mut tls, b"pong").await;
            }
            poll_fn(|cx| tls.poll_readable(cx)).await;
            assert_eq!(tls.peek(), Stir::Gone);
        },
    );
}

#[test]
fn a_peer_that_only_chatters_is_left() {
    let mut server = (*their_server(&papers().good, &[&TLS13])).clone();
    // More tickets than anyone needs.
    server.send_tls13_tickets = 2_000;
    let server = Arc::new(server);
    meet(
        |socket| {
            let mut peer = Peer::server(socket, &server);
            while peer.session.complete_io(&mut peer.socket).is_ok() && peer.session.wants_write() {}
        },
        async |tcp, _| {
            let mut tls = connect(tcp).await;
            let error = read(&mut tls).await.expect_err("an end");
            assert_eq!((error.kind(), tls.peek()), (io::ErrorKind::InvalidData, Stir::Gone));
        },
    );
}

// ---- handshakes ----------------------------------------------------------------------------------------------------

#[test]
fn a_second_handshake_is_resumed_on_both_sides() {
    for (versions, resumed) in [(&[&TLS12][..], HandshakeKind::Resumed), (&[&TLS13], HandshakeKind::Resumed)]
    {
        let (theirs, ours) = (their_client(versions, &[b"http/1.1"]), our_server());
        for expect in [HandshakeKind::Full, resumed] {
            // Both drivers share the configurations, so of a first pair only the first handshake is a full one.
            let kinds = meet(
                |socket| {
                    let mut peer = Peer::client(socket, &theirs).shake_hands();
                    assert_eq!(peer.receive(1), b"!");
                    assert_eq!(peer.session.alpn_protocol(), Some(&b"http/1.1"[..]));
                    peer.session.handshake_kind()
                },
                async |tcp, _| {
                    let mut tls = Tls::accept(tcp, ours.clone()).await.expect("a handshake");
                    write(&mut tls, b"!").await;
                    tls.finish().await;
                },
            );
            assert_eq!(kinds[0], Some(expect), "{versions:?}");
        }
        let (theirs, ours) = (their_server(&papers().good, versions), our_client());
        for expect in [HandshakeKind::Full, resumed] {
            let kinds = meet(
                |socket| {
                    let mut peer = Peer::server(socket, &theirs).shake_hands();
                    assert_eq!(peer.receive(1), b"?");
                    peer.send(b"!");
                    // Tickets were sent before it, so both have what they need.
                    peer.session.handshake_kind()
                },
                async |tcp, _| {
                    let connected = Tls::connect(tcp, ours.clone(), name("localhost")).await;
                    let mut tls = connected.expect("a handshake");
                    write(&mut tls, b"?").await;
                    assert_eq!(read(&mut tls).await.expect("an answer"), b"!");
                },
            );
            assert_eq!(kinds[0], Some(expect), "{versions:?}");
        }
    }
}

/// Shakes hands with our server by hand, passing what the client says through `cut`.
fn fragmented(cut: impl Fn(&[u8]) -> Vec<Vec<u8>> + Sync) {
    let config = their_client(&[&TLS13], &[]);
    meet(
        |socket| {
            let mut peer = Peer::client(socket, &config);
            let mut hello = Vec::new();
            peer.session.write_tls(&mut hello).expect("a hello");
            for piece in cut(&hello) {
                peer.socket.write_all(&piece).expect("sent");
            }
            let mut peer = peer.shake_hands();
            assert_eq!(peer.receive(2), b"hi");
        },
        async |tcp, _| write(&mut *accept(tcp).await, b"hi").await,
    );
}

#[test]
fn a_hello_in_segments_of_one_byte_is_understood() {
    fragmented(|hello| hello.chunks(1).map(<[u8]>::to_vec).collect());
}

#[test]
fn a_hello_in_records_of_one_byte_is_understood() {
    fragmented(|hello| {
        let (head, message) = hello.split_at(5);
        message.iter().map(|byte| vec![head[0], head[1], head[2], 0, 1, *byte]).collect()
    });
}

#[test]
fn whoever_leaves_in_mid_handshake_is_noticed_wherever_it_was() {
    let config = their_client(&[&TLS13], &[]);
    for kept in [0, 1, 4, 5, 6, 100, usize::MAX] {
        meet(
            |socket| {
                let mut peer = Peer::client(socket, &config);
                let mut hello = Vec::new();
                peer.session.write_tls(&mut hello).expect("a hello");
                peer.socket.write_all(&hello[..kept.min(hello.len())]).expect("sent");
                peer.socket.shutdown(Shutdown::Write).expect("a FIN");
                let _ = peer.socket.read_to_end(&mut Vec::new());
            },
            async |tcp, _| {
                let error = Tls::accept(tcp, our_server()).await.err().expect("no session");
                assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
            },
        );
    }
}

/// What our client says of a server that does `serve`.
#[track_caller]
fn refused(serve: impl Fn(TcpStream) + Sync, expect: impl Fn(&rustls::Error) -> bool) {
    meet(serve, async |tcp, _| match Tls::connect(tcp, our_client(), name("localhost")).await {
        Ok(_) => panic!("a session"),
        Err(Unsecured::Tls(error)) => assert!(expect(&error), "{error:?}"),
        Err(unsecured) => panic!("{unsecured:?}"),
    });
}

#[test]
fn a_certificate_that_does_not_fit_is_refused() {
    #[track_caller]
    fn check(papers: &(String, String), expect: impl Fn(&CertificateError) -> bool) {
        let config = their_server(papers, &[&TLS12, &TLS13]);
        refused(
            |socket| {
                let mut peer = Peer::server(socket, &config);
                while peer.session.is_handshaking() {
                    if peer.session.complete_io(&mut peer.socket).is_err() {
                        return;
                    }
                }
                panic!("our client must not finish the handshake");
            },
            |error| matches!(error, rustls::Error::InvalidCertificate(why) if expect(why)),
        );
    }
    check(&papers().elsewhere, |why| matches!(why, CertificateError::NotValidForNameContext { .. }));
    check(&papers().expired, |why| matches!(why, CertificateError::ExpiredContext { .. }));
    check(&papers().self_signed, |why| matches!(why, CertificateError::UnknownIssuer));
}

#[test]
fn plaintext_before_the_handshake_ends_is_a_protocol_error() {
    for garbage in [&b"HTTP/1.1 200 OK\r\n\r\n"[..], b"\0\0\0\0\0\0", b"\x17\x03\x03\0\x05hello"] {
        refused(
            |mut socket| {
                socket.write_all(garbage).expect("sent");
                let _ = socket.read_to_end(&mut Vec::new());
            },
            |error| {
                use rustls::Error::{InappropriateMessage, InvalidMessage as Invalid};
                matches!(error, Invalid(InvalidMessage::InvalidContentType) | InappropriateMessage { .. })
            },
        );
    }
}

#[test]
fn a_server_that_speaks_before_it_is_asked_is_refused() {
    let mut config = (*their_server(&papers().good, &[&TLS13])).clone();
    config.send_half_rtt_data = true;
    let config = Arc::new(config);
    refused(
        |socket| {
            let mut peer = Peer::server(socket, &config);
            peer.session.read_tls(&mut peer.socket).expect("a hello");
            peer.session.process_new_packets().expect("a good one");
            // Encrypted, and behind our server's Finished: in one segment, so that it lies there when we look.
            peer.session.writer().write_all(b"HTTP/1.1 200 OK\r\n").expect("half a round trip");
            let mut flight = Vec::new();
            while peer.session.wants_write() {
                peer.session.write_tls(&mut flight).expect("a flight");
            }
            peer.socket.write_all(&flight).expect("sent");
            let _ = peer.socket.read_to_end(&mut Vec::new());
        },
        |error| matches!(error, rustls::Error::General(_)),
    );
}

#[test]
fn a_client_that_speaks_no_http_1_1_is_refused() {
    #[track_caller]
    fn check(alpn: &[&[u8]], welcome: bool) {
        let config = their_client(&[&TLS12, &TLS13], alpn);
        meet(
            |socket| {
                let mut peer = Peer::client(socket, &config);
                let mut shaken = Ok((0, 0));
                while shaken.is_ok() && peer.session.is_handshaking() {
                    shaken = peer.session.complete_io(&mut peer.socket);
                }
                let said = shaken.err().map_or_else(String::new, |error| error.to_string());
                assert_eq!(said.contains("NoApplicationProtocol"), !welcome, "{said}");
            },
            async |tcp, _| assert_eq!(Tls::accept(tcp, our_server()).await.is_ok(), welcome),
        );
    }
    check(&[b"h2"], false);
    check(&[b"h2", b"http/1.1"], true);
    check(&[b"http/1.1"], true);
    check(&[], true);
}

#[test]
fn a_handshake_ends_at_its_deadline_on_either_side() {
    for client in [true, false] {
        meet(
            // Reads, and never answers.
            |mut socket| assert!(socket.read_to_end(&mut Vec::new()).is_ok()),
            async |mut tcp, wheel| {
                tcp.expire_at(Now(1), Waiting::Handshake);
                // Runs when the handshake first waits.
                monoio::spawn(
                    async move { wheel.turn(Now(1_000_000_000), |fd| shutdown(fd, libc::SHUT_RDWR)) },
                );
                if client {
                    let unsecured = Tls::connect(tcp, our_client(), name("localhost")).await.err();
                    let late = Expiry::Late(Waiting::Handshake);
                    assert!(matches!(unsecured, Some(Unsecured::Expired(expiry)) if expiry == late));
                } else {
                    let error = Tls::accept(tcp, our_server()).await.err().expect("no session");
                    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
                }
            },
        );
    }
}

#[test]
fn a_deadline_ends_a_read_and_says_so() {
    let config = their_client(&[&TLS13], &[]);
    meet(
        |socket| {
            let mut peer = Peer::client(socket, &config).shake_hands();
            assert!(peer.some().is_err(), "no close_notify came");
        },
        async |tcp, wheel| {
            let mut tls = accept(tcp).await;
            tls.tcp_mut().expire_at(Now(1), Waiting::Idle);
            monoio::spawn(async move { wheel.turn(Now(1_000_000_000), |fd| shutdown(fd, libc::SHUT_RDWR)) });
            poll_fn(|cx| tls.poll_readable(cx)).await;
            assert_eq!(tls.peek(), Stir::Gone);
            assert_eq!(read(&mut tls).await.expect_err("an end").kind(), io::ErrorKind::UnexpectedEof);
            assert_eq!(tls.tcp().expired(), Some(Expiry::Late(Waiting::Idle)));
        },
    );
}

// ---- size ----------------------------------------------------------------------------------------------------------

#[test]
fn whoever_awaits_a_session_stays_small() {
    meet(
        |socket| drop(socket),
        async |tcp, _| {
            let shaking = Tls::accept(tcp, our_server());
            assert!(size_of_val(&shaking) <= 1 << 10, "{}", size_of_val(&shaking));
            assert!(shaking.await.is_err());
        },
    );
    assert!(size_of::<Tls>() <= 2 << 10, "{}", size_of::<Tls>());
}
