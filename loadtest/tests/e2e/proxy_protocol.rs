//! Listeners behind a proxy that relays bytes: no header, no service; and what lies behind a header is served as ever.

use rustls::version::TLS13;

use crate::{
    support::{Client, Gateway, Provider, Setup, chat, clock},
    tls::{Secured, session},
};

const V1: &[u8] = b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n";
const V2: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x13\xc0\0\x02\x01\xc0\0\x02\x02\xdc\x04\x01\xbb\x04\0\x04abcd";

/// Headers that are accepted.
const GOOD: [&[u8]; 6] = [
    V1,
    V2,
    b"PROXY TCP6 2001:db8::1 2001:db8::2 1 2\r\n",
    b"PROXY UNKNOWN\r\n",
    b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
    b"\r\n\r\n\0\r\nQUIT\n\x20\xff\0\x05extra",
];

fn proxied() -> (Provider, Gateway) {
    let provider = Provider::start();
    let setup = Setup {
        server: "proxy_protocol = [\"HOST:8080\"]\n".into(),
        limits: "head_secs = 1\n".into(),
        ..Setup::default()
    };
    let gateway = Gateway::with(&provider, &setup);
    (provider, gateway)
}

/// A header where a request is due, with a request behind it.
fn as_request() -> Vec<u8> {
    [V1, chat("sim", false).as_bytes()].concat()
}

#[track_caller]
fn is_served(client: &mut Client) {
    client.ask(chat("sim", false)).expect(200);
}

#[test]
fn behind_a_header_a_connection_is_like_any_other() {
    let (_provider, gateway) = proxied();
    for header in GOOD {
        let mut client = gateway.client();
        let with_request = [header, chat("sim", false).as_bytes()].concat();
        client.ask(with_request).expect(200);
        // The header is the connection's, not the request's.
        is_served(&mut client);
        let mut client = gateway.client();
        client.send(header);
        is_served(&mut client);
        let stream = client.ask(chat("sim,events=20,split=7", true)).expect(200);
        assert!(stream.text().ends_with("data: [DONE]\n\n"), "{}", stream.text());
    }
}

#[test]
fn requests_that_came_with_the_header_are_all_answered() {
    let (_provider, gateway) = proxied();
    let request = chat("sim", false);
    for header in [V1, V2] {
        let mut client = gateway.client();
        client.send([header, request.as_bytes(), request.as_bytes()].concat());
        client.answer().expect(200);
        client.answer().expect(200);
    }
}

#[test]
fn a_header_may_arrive_byte_by_byte() {
    let (_provider, gateway) = proxied();
    for header in GOOD {
        let mut client = gateway.client();
        for byte in header {
            client.send([*byte]);
        }
        is_served(&mut client);
        let (first, rest) = header.split_at(header.len() - 1);
        let mut client = gateway.client();
        client.send(first);
        client.ask([rest, chat("sim", false).as_bytes()].concat()).expect(200);
    }
}

#[test]
fn without_a_header_there_is_no_answer() {
    let (provider, gateway) = proxied();
    let unlike = chat("sim-unseen", false);
    let half = [&V2[..12], b"\x21\x11\xff\xff"].concat();
    for bytes in [
        unlike.as_bytes(),
        b"GET /v1/models HTTP/1.1\r\nHost: g\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\nGET /v1/models HTTP/1.1\r\n\r\n",
        b"PROXY TCP4 192.0.2.999 192.0.2.2 56324 443\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 0443\r\n",
        b" PROXY UNKNOWN\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\0",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x04\xc0\0\x02\x01",
        &half,
        &[0; 100],
        &[b'P'; 5_000],
    ] {
        let mut client = gateway.client();
        client.offer(bytes);
        client.expect_silent_end();
    }
    // One that leaves half-way.
    let mut client = gateway.client();
    client.send(&V1[..20]);
    client.finish();
    client.expect_silent_end();
    assert!(provider.seen_as("sim-unseen").is_empty(), "something was served without a header");
    is_served(&mut {
        let mut client = gateway.client();
        client.send(V1);
        client
    });
}

#[test]
fn a_second_header_is_no_request() {
    let (_provider, gateway) = proxied();
    let mut client = gateway.client();
    client.ask([V1, &as_request()].concat()).refusal(400);
}

#[test]
fn a_header_must_come_within_the_time_for_a_head() {
    let (_provider, gateway) = proxied();
    for begun in [&b""[..], &V1[..10], &V2[..20]] {
        let from = clock();
        let mut client = gateway.client();
        client.send(begun);
        client.expect_silent_end();
        let took = from.elapsed();
        assert!((0.9..6.0).contains(&took.as_secs_f64()), "{took:?}");
    }
}

#[test]
fn only_the_listeners_that_are_named_expect_it() {
    let secured = Secured::with("proxy_protocol = \"HOST:8443\"\n");
    secured.gateway.chat("sim").expect(200);
    let mut client = secured.gateway.client();
    client.ask(as_request()).refusal(400);
    let other = Client::connect((secured.named, 8443).into());
    is_served(&mut other.with_tls(session(&secured.config(&[&TLS13]))));
}

#[test]
fn tls_begins_behind_the_header() {
    let secured = Secured::with("proxy_protocol = [\"HOST:8443\"]\n");
    let config = secured.config(&[&TLS13]);
    for header in GOOD {
        let mut client = secured.plain();
        client.send(header);
        let mut client = client.with_tls(session(&config));
        is_served(&mut client);
        is_served(&mut client);
    }
    // In one write with the first bytes of the handshake.
    let mut session = session(&config);
    let mut begin = V2.to_vec();
    session.write_tls(&mut begin).expect("into memory");
    let mut client = secured.plain();
    client.send(begin);
    is_served(&mut client.with_tls(session));
    // TLS without it, and the header inside TLS.
    let mut client = secured.plain();
    let mut hello = Vec::new();
    crate::tls::session(&config).write_tls(&mut hello).expect("into memory");
    client.offer(hello);
    client.expect_silent_end();
    let mut client = secured.plain();
    client.send(V1);
    let mut client = client.with_tls(crate::tls::session(&config));
    client.ask(as_request()).refusal(400);
}

#[test]
fn the_address_in_the_header_is_the_clients() {
    let provider = Provider::start();
    let setup = Setup {
        server: "proxy_protocol = [\"HOST:8080\"]\n".into(),
        provider: "[access]\ndeny = [\"192.0.2.1\"]\n".into(),
        ..Setup::default()
    };
    let gateway = Gateway::with(&provider, &setup);
    for (header, status) in [
        (V1, 403),
        (V2, 403),
        (&b"PROXY TCP4 192.0.2.7 192.0.2.2 56324 443\r\n"[..], 200),
        // The proxy speaks for itself: the peer counts.
        (&b"PROXY UNKNOWN\r\n"[..], 200),
    ] {
        let asked = [header, chat("sim", false).as_bytes()].concat();
        let answer = gateway.client().ask(asked);
        assert_eq!(answer.status, status, "{}", answer.text());
        if status == 403 {
            assert_eq!(answer.refusal(403), "ip_not_allowed");
        }
    }
}
