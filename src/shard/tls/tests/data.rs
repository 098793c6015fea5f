//! Bytes: all of them, in order, in few records, in the caller's buffers.

use super::*;

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
        tls.write(&out).await.expect("the peer takes it");
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
                // Tickets come before this byte, and nothing behind it until it was answered: only that is counted.
                assert_eq!(peer.receive(1), b"-");
                peer.send(b"+");
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
                assert_eq!(read(&mut tls).await.expect("an answer"), b"+");
                let mut out = Outgoing::default();
                let (a, b) = (out.own(noise(200_000)), out.own(noise(200_000)));
                for (turn, bytes) in pieces.iter().enumerate() {
                    out.push(if turn % 2 == 0 { a } else { b }, Span::new(0, *bytes));
                }
                tls.write(&out).await.expect("the peer takes it");
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
