//! Readable means application data or an end, and an orderly end is no cut.

use super::*;

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
            assert_eq!(tls.write(&out).await.expect_err("an end").kind(), io::ErrorKind::InvalidData);
        },
    );
}

#[test]
fn tickets_and_key_updates_are_not_readable() {
    let config = their_server(&papers().good, &[&TLS13]);
    let (go, gone) = mpsc::channel();
    let gone = std::sync::Mutex::new(gone);
    meet(
        |socket| {
            let mut peer = Peer::server(socket, &config).shake_hands();
            for _ in 0..2 {
                gone.lock().expect("one peer").recv_timeout(Duration::from_secs(20)).expect("our end waits");
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
    // More tickets than anyone needs, each in a record of its own: 81 bytes, and 5 of the record's head. (rustls by
    // itself minds only when they lie across records.)
    server.send_tls13_tickets = 2_000;
    server.max_fragment_size = Some(81 + 5);
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
            assert!(tls.chatter_bytes > limits::TLS_CHATTER_BYTES_MAX, "{}", tls.chatter_bytes);
        },
    );
}
