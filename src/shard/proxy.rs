//! Connections that a proxy relays: who the client is stands before its first byte.
//!
//! Exactly the header is taken from the socket. What has arrived is looked at first, and only bytes that belong to the
//! header are consumed, so that TLS or HTTP behind it begin where they would have begun without it.

use std::{
    future::poll_fn,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::RawFd,
};

use super::stream::{self, Tcp};
use crate::{
    base::{limits, prefixes::Prefixes},
    wire::proxy_protocol::{self, Header},
};

/// Whether a peer's header is believed: one on this machine, or one that the operator named.
pub(super) fn is_believed(peer: IpAddr, trusted: &Prefixes) -> bool {
    peer.to_canonical().is_loopback() || trusted.contains(peer)
}

/// Reads the header and says who the client is; `None` if there is no header, and the connection is to be closed without
/// an answer. The deadline is the wire's: set it before.
pub(super) async fn client(tcp: &mut Tcp, peer: SocketAddr) -> Option<SocketAddr> {
    let mut held = Vec::new();
    loop {
        poll_fn(|cx| tcp.poll_readable(cx)).await;
        match advance(tcp.fd(), &mut held) {
            Ok(None) => {}
            Ok(Some(header)) => {
                let client = header.source.unwrap_or(peer);
                return Some(SocketAddr::new(client.ip().to_canonical(), client.port()));
            }
            Err(NoHeader) => return None,
        }
    }
}

/// The connection ended, or began with something else.
struct NoHeader;

/// Takes what has arrived of the header, and nothing else, behind what is held of it.
fn advance(fd: RawFd, held: &mut Vec<u8>) -> Result<Option<Header>, NoHeader> {
    let before = held.len();
    held.resize(limits::PROXY_HEADER_BYTES_MAX, 0);
    let seen = match stream::receive(fd, &mut held[before..], libc::MSG_PEEK) {
        // The parser takes no more than this without a verdict, so there was room, and zero is the end.
        Ok(0) => return Err(NoHeader),
        Ok(seen) => seen,
        Err(error) if is_passing(&error) => 0,
        Err(_) => return Err(NoHeader),
    };
    held.truncate(before + seen);
    let header = proxy_protocol::parse(held).map_err(|_| NoHeader)?;
    // Not `seen` alone: where the header is not whole, all that was seen is its, and would be seen again and again.
    let end = header.map_or(held.len(), |header| header.consumed);
    let mut at = before;
    while at < end {
        match stream::receive(fd, &mut held[at..end], 0) {
            Ok(0) => return Err(NoHeader),
            Ok(taken) => at += taken,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // What was seen is there; whatever takes it away is no proxy's doing.
            Err(_) => return Err(NoHeader),
        }
    }
    Ok(header)
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use std::{io::Write, net::TcpStream, time::Duration};

    use super::*;
    use crate::{
        base::{now::Now, waiting::Waiting},
        shard::{tls::tests::meet, wheel::Wheel},
    };

    const PEER: &str = "10.0.0.1:5";
    const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc0\0\x02\x02\x12\x34\x01\xbb";

    /// A client that begins so, in the given pieces, each after the one before it was taken; and what follows is read
    /// behind it.
    #[track_caller]
    fn check(pieces: &[&[u8]], expect: Option<&str>, behind: &[u8]) {
        let (taken, wait) = std::sync::mpsc::channel();
        let wait = std::sync::Mutex::new(wait);
        meet(
            |mut socket: TcpStream| {
                let wait = wait.lock().expect("one peer at a time");
                for piece in pieces {
                    socket.write_all(piece).expect("it is taken");
                    wait.recv_timeout(Duration::from_secs(20)).expect("and looked at");
                }
            },
            async |mut tcp, _wheel| {
                let peer: SocketAddr = PEER.parse().unwrap();
                // As `client` does it, with a word to the other side after each step.
                let mut held = Vec::new();
                let found = loop {
                    poll_fn(|cx| tcp.poll_readable(cx)).await;
                    let step = advance(tcp.fd(), &mut held);
                    taken.send(()).expect("the peer waits");
                    match step {
                        Ok(None) => {}
                        Ok(Some(header)) => break Some(header.source.unwrap_or(peer)),
                        Err(NoHeader) => break None,
                    }
                };
                assert_eq!(found, expect.map(|address| address.parse().unwrap()));
                if !behind.is_empty() {
                    let (read, buffer) = tcp.read(Vec::with_capacity(64)).await;
                    assert_eq!((read.expect("bytes"), &buffer[..]), (behind.len(), behind));
                }
            },
        );
    }

    #[test]
    fn what_lies_behind_a_header_stays_where_it_is() {
        let line = b"PROXY TCP4 192.0.2.1 192.0.2.2 4660 443\r\n";
        check(&[&[&line[..], b"GET /"].concat()], Some("192.0.2.1:4660"), b"GET /");
        check(&[&[V2, b"\x16\x03\x01"].concat()], Some("192.0.2.1:4660"), b"\x16\x03\x01");
        check(&[b"PROXY UNKNOWN\r\nGET /"], Some(PEER), b"GET /");
        check(&[line], Some("192.0.2.1:4660"), b"");
    }

    #[test]
    fn a_header_may_come_in_pieces() {
        for header in [&b"PROXY TCP4 192.0.2.1 192.0.2.2 4660 443\r\n"[..], V2] {
            for cut in [1, 5, 13, 16, 20, header.len() - 1] {
                let rest = [&header[cut..], b"GET /"].concat();
                check(&[&header[..cut], &rest], Some("192.0.2.1:4660"), b"GET /");
            }
        }
    }

    #[test]
    fn what_is_no_header_is_no_client() {
        for bytes in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            b"\x16\x03\x01\x02\0",
            b"PROXY TCP4 x\r\n",
            b"\r\n\r\n\0\r\nQUIT\r",
        ] {
            check(&[bytes], None, b"");
        }
    }

    #[test]
    fn the_client_is_told_as_one_address_and_ends_with_its_connection() {
        #[track_caller]
        fn is(bytes: &[u8], expect: Option<&str>) {
            meet(
                |mut socket: TcpStream| {
                    socket.write_all(bytes).expect("it is taken");
                    socket.shutdown(std::net::Shutdown::Write).expect("a live socket");
                },
                async |mut tcp, _wheel| {
                    let found = client(&mut tcp, PEER.parse().unwrap()).await;
                    assert_eq!(found, expect.map(|address| address.parse().unwrap()));
                },
            );
        }
        is(b"PROXY TCP6 ::ffff:192.0.2.1 ::1 7 8\r\n", Some("192.0.2.1:7"));
        is(b"PROXY TCP6 2001:db8::1 ::1 7 8\r\n", Some("[2001:db8::1]:7"));
        is(b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0", Some(PEER));
        is(b"PROXY TCP4 192.0.2.1", None);
        is(b"", None);
    }

    #[test]
    fn a_header_that_does_not_come_is_ended_by_its_deadline() {
        meet(
            |socket: TcpStream| drop(io::Read::read(&mut &socket, &mut [0])),
            async |mut tcp: Tcp, wheel: Wheel| {
                tcp.expire_at(Now(1), Waiting::Head);
                let mut found = std::pin::pin!(client(&mut tcp, PEER.parse().unwrap()));
                let mut turned = false;
                let found = poll_fn(|cx| {
                    let poll = found.as_mut().poll(cx);
                    if poll.is_pending() && !turned {
                        turned = true;
                        wheel.turn(Now(0) + 2 * limits::TICK, stream::expire);
                    }
                    poll
                })
                .await;
                assert!(found.is_none() && turned);
            },
        );
    }

    #[test]
    fn only_this_machine_and_named_proxies_are_believed() {
        let trusted: Prefixes = ["10.0.0.0/8".parse().unwrap()].into_iter().collect();
        for (ip, expect) in [
            ("127.0.0.1", true),
            ("127.9.9.9", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("192.0.2.1", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(is_believed(ip.parse().unwrap(), &trusted), expect, "{ip}");
        }
        assert!(!is_believed("10.1.2.3".parse().unwrap(), &Prefixes::default()));
    }
}
