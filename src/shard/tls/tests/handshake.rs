//! Who gets a session, and who does not.

use super::*;

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
                monoio::spawn(async move {
                    wheel.turn(Now(1_000_000_000), |fd, _| shutdown(fd, libc::SHUT_RDWR))
                });
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
            monoio::spawn(
                async move { wheel.turn(Now(1_000_000_000), |fd, _| shutdown(fd, libc::SHUT_RDWR)) },
            );
            poll_fn(|cx| tls.poll_readable(cx)).await;
            assert_eq!(tls.peek(), Stir::Gone);
            assert_eq!(read(&mut tls).await.expect_err("an end").kind(), io::ErrorKind::UnexpectedEof);
            assert_eq!(tls.tcp().expired(), Some(Expiry::Late(Waiting::Idle)));
        },
    );
}

#[test]
fn whoever_awaits_a_session_stays_small() {
    meet(drop, async |tcp, _| {
        let shaking = Tls::accept(tcp, our_server());
        assert!(size_of_val(&shaking) <= 1 << 10, "{}", size_of_val(&shaking));
        assert!(shaking.await.is_err());
    });
    assert!(size_of::<Tls>() <= 2 << 10, "{}", size_of::<Tls>());
}
