//! Requests that two readers could frame, or understand, in two ways: each is refused with 400 and a close, and nothing
//! that follows it on the connection is ever answered or sent on.

use crate::support::{CANARY, Gateway, Provider};

/// What an attacker would like to see answered: it comes right behind each request below.
const SMUGGLED: &[u8] = b"GET /v1/models HTTP/1.1\r\nHost: g\r\nX-Smuggled: yes\r\n\r\n";

/// A request line that is served, for tables that vary what follows it.
const LINE: &str = "POST /v1/embeddings HTTP/1.1\r\n";

/// Each row is sent raw, with the smuggled request behind it.
#[track_caller]
fn check(rows: &[(&str, Vec<u8>)], statuses: &[u16]) {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider);
    for (name, request) in rows {
        println!("{name}");
        let mut client = gateway.client();
        let mut bytes = request.clone();
        bytes.extend_from_slice(SMUGGLED);
        client.send(&bytes);
        // A request cut short by its own oddness must not wait for more.
        let answer = client.answer();
        assert!(statuses.contains(&answer.status), "{name}: {}{}", answer.head, answer.text());
        answer.refusal(answer.status);
        assert!(answer.closes(), "{name}: kept open: {}", answer.head);
        assert!(!answer.text().contains(CANARY), "{name}");
        client.expect_close();
    }
    let reached: Vec<_> = provider.seen().into_iter().filter(|seen| seen.0["path"] != "/v1/models").collect();
    assert!(reached.is_empty(), "reached the provider: {reached:?}");
    // The gateway is none the worse for it.
    gateway.chat("sim").expect(200);
}

/// `LINE`, a Host, these fields, and this body.
fn with(fields: &str, body: &str) -> Vec<u8> {
    format!("{LINE}Host: g\r\nContent-Type: application/json\r\n{fields}\r\n{body}").into_bytes()
}

#[test]
fn two_ways_to_frame_a_body() {
    let rows = [
        ("length and chunked", with("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n")),
        ("chunked and length", with("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n")),
        (
            "length of nothing and chunked",
            with("Content-Length: 0\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        ),
        ("two lengths", with("Content-Length: 5\r\nContent-Length: 6\r\n", "hello")),
        ("two equal lengths", with("Content-Length: 5\r\nContent-Length: 5\r\n", "hello")),
        ("two equal lengths in one", with("Content-Length: 5, 5\r\n", "hello")),
        ("two lengths in one", with("Content-Length: 5, 6\r\n", "hello")),
        ("two lengths in another case", with("Content-Length: 5\r\ncontent-length: 6\r\n", "hello")),
        ("chunked twice", with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n")),
        ("chunked twice in one", with("Transfer-Encoding: chunked, chunked\r\n", "0\r\n\r\n")),
        (
            "chunked, then identity",
            with("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "0\r\n\r\n"),
        ),
        ("identity", with("Transfer-Encoding: identity\r\n", "")),
        ("gzip, chunked", with("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n")),
        ("chunked, gzip", with("Transfer-Encoding: chunked, gzip\r\n", "0\r\n\r\n")),
        ("empty coding", with("Transfer-Encoding:\r\n", "")),
        ("quoted coding", with("Transfer-Encoding: \"chunked\"\r\n", "0\r\n\r\n")),
        ("coding with a parameter", with("Transfer-Encoding: chunked;q=1\r\n", "0\r\n\r\n")),
        ("coding with a prefix", with("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n")),
        ("coding with a vertical tab", with("Transfer-Encoding: \x0bchunked\r\n", "0\r\n\r\n")),
        ("coding with a NUL", with("Transfer-Encoding: chunked\0\r\n", "0\r\n\r\n")),
        ("coding behind a list comma", with("Transfer-Encoding: ,chunked\r\n", "0\r\n\r\n")),
        (
            "chunked in HTTP/1.0",
            b"POST /v1/embeddings HTTP/1.0\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
                .to_vec(),
        ),
    ];
    check(&rows, &[400]);
}

#[test]
fn lengths_that_are_no_decimal_number() {
    let rows = [
        "",
        "+5",
        "-5",
        "0x5",
        "5 5",
        "5.0",
        "5e0",
        "5_0",
        "five",
        "5;",
        "18446744073709551616",
        "\"5\"",
        "5\t5",
        "५",
    ]
    .map(|length| (length, with(&format!("Content-Length: {length}\r\n"), "hello")));
    check(&rows, &[400]);
}

#[test]
fn heads_that_are_torn_or_folded() {
    let head = |text: &str| format!("{text}\r\n").into_bytes();
    let rows = [
        ("empty line first", head(&format!("\r\n{LINE}Host: g\r\nContent-Length: 0\r\n"))),
        ("bare LF after the line", head("POST /v1/embeddings HTTP/1.1\nHost: g\r\n")),
        ("bare LF after a field", head(&format!("{LINE}Host: g\nContent-Length: 0\r\n"))),
        ("bare LF hides a field", head(&format!("{LINE}Host: g\r\nX: y\nTransfer-Encoding: chunked\r\n"))),
        ("bare CR in a value", head(&format!("{LINE}Host: g\r\nX: y\rTransfer-Encoding: chunked\r\n"))),
        ("bare CR in a name", head(&format!("{LINE}Host: g\r\nX\rY: y\r\n"))),
        ("folded with a space", head(&format!("{LINE}Host: g\r\nX: y\r\n Content-Length: 5\r\n"))),
        ("folded with a tab", head(&format!("{LINE}Host: g\r\nTransfer-Encoding:\r\n\tchunked\r\n"))),
        ("folded first field", head(&format!("{LINE} Host: g\r\n"))),
        ("space before colon", head(&format!("{LINE}Host: g\r\nTransfer-Encoding : chunked\r\n"))),
        ("tab before colon", head(&format!("{LINE}Host: g\r\nContent-Length\t: 5\r\n"))),
        ("space in a name", head(&format!("{LINE}Host: g\r\nContent Length: 5\r\n"))),
        ("empty name", head(&format!("{LINE}Host: g\r\n: x\r\n"))),
        ("no colon", head(&format!("{LINE}Host: g\r\nTransfer-Encoding\r\n"))),
        ("NUL in a name", head(&format!("{LINE}Host: g\r\nX\0Y: z\r\n"))),
        ("NUL in a value", head(&format!("{LINE}Host: g\r\nX: y\0z\r\n"))),
        ("control byte in a value", head(&format!("{LINE}Host: g\r\nX: y\x01z\r\n"))),
        ("DEL in a value", head(&format!("{LINE}Host: g\r\nX: y\x7fz\r\n"))),
        ("bracket in a name", head(&format!("{LINE}Host: g\r\nContent[Length]: 5\r\n"))),
        ("byte above ASCII in a name", head(&format!("{LINE}Host: g\r\nCont\u{eb}nt-Length: 5\r\n"))),
    ];
    check(&rows, &[400]);
}

#[test]
fn request_lines_with_two_readings() {
    let line = |text: &str| format!("{text}\r\nHost: g\r\nContent-Length: 0\r\n\r\n").into_bytes();
    let rows = [
        ("two spaces", line("POST  /v1/embeddings HTTP/1.1")),
        ("tab for a space", line("POST\t/v1/embeddings HTTP/1.1")),
        ("space after the version", line("POST /v1/embeddings HTTP/1.1 ")),
        ("space before the method", line(" POST /v1/embeddings HTTP/1.1")),
        ("no version", line("POST /v1/embeddings")),
        ("version 0.9", line("POST /v1/embeddings HTTP/0.9")),
        ("version 1.2", line("POST /v1/embeddings HTTP/1.2")),
        ("version 2.0", line("POST /v1/embeddings HTTP/2.0")),
        ("version in small letters", line("POST /v1/embeddings http/1.1")),
        ("version of two digits", line("POST /v1/embeddings HTTP/1.10")),
        ("odd method", line("PO(ST /v1/embeddings HTTP/1.1")),
        ("CONNECT", line("CONNECT g:443 HTTP/1.1")),
        ("control byte in the target", line("POST /v1/embeddings\x01 HTTP/1.1")),
        ("NUL in the target", line("POST /v1/embeddings\0 HTTP/1.1")),
        ("byte above ASCII in the target", line("POST /v1/\u{e9}mbeddings HTTP/1.1")),
        ("fragment", line("POST /v1/embeddings#x HTTP/1.1")),
        ("dot segment", line("POST /v1/x/../embeddings HTTP/1.1")),
        ("encoded dot segment", line("POST /v1/%2e%2e/embeddings HTTP/1.1")),
        ("empty segment", line("POST //v1/embeddings HTTP/1.1")),
        ("encoded slash", line("POST /v1%2Fembeddings HTTP/1.1")),
        ("encoded line end", line("POST /v1/embeddings%0d%0aX:%20y HTTP/1.1")),
        ("bad escape", line("POST /v1/embeddings%zz HTTP/1.1")),
        ("backslash", line("POST /v1\\embeddings HTTP/1.1")),
        ("another scheme", line("POST ftp://g/v1/embeddings HTTP/1.1")),
        ("user in the authority", line("POST http://u@g/v1/embeddings HTTP/1.1")),
        ("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()),
    ];
    check(&rows, &[400]);
}

#[test]
fn hosts_with_two_readings() {
    let line = |fields: &str| format!("{LINE}{fields}Content-Length: 0\r\n\r\n").into_bytes();
    let rows = [
        ("no host", line("")),
        ("two hosts", line("Host: g\r\nHost: h\r\n")),
        ("two equal hosts", line("Host: g\r\nHost: g\r\n")),
        ("host list", line("Host: g h\r\n")),
        ("host with a user", line("Host: u@g\r\n")),
        ("host with a path", line("Host: g/x\r\n")),
        ("host with a bad port", line("Host: g:70000\r\n")),
    ];
    check(&rows, &[400]);
}

#[test]
fn chunks_with_two_readings() {
    let chunked = |body: &str| with("Transfer-Encoding: chunked\r\n", body);
    let rows = [
        ("empty size", chunked("\r\nhello\r\n0\r\n\r\n")),
        ("size in 0x", chunked("0x5\r\nhello\r\n0\r\n\r\n")),
        ("signed size", chunked("+5\r\nhello\r\n0\r\n\r\n")),
        ("negative size", chunked("-5\r\nhello\r\n0\r\n\r\n")),
        ("size with an underscore", chunked("0_5\r\nhello\r\n0\r\n\r\n")),
        ("size of 17 digits", chunked("00000000000000005\r\nhello\r\n0\r\n\r\n")),
        ("size beyond 64 bits", chunked("fffffffffffffffff\r\nhello\r\n0\r\n\r\n")),
        ("size that wraps around", chunked("ffffffffffffffff\r\nhello\r\n0\r\n\r\n")),
        ("space before the size", chunked(" 5\r\nhello\r\n0\r\n\r\n")),
        ("space after the size", chunked("5 \r\nhello\r\n0\r\n\r\n")),
        ("bare LF after the size", chunked("5\nhello\r\n0\r\n\r\n")),
        ("bare CR after the size", chunked("5\rhello\r\n0\r\n\r\n")),
        ("bare LF in an extension", chunked("5;x\nhello\r\n0\r\n\r\n")),
        ("bare CR in an extension", chunked("5;x\ry\r\nhello\r\n0\r\n\r\n")),
        ("control byte in an extension", chunked("5;\x01\r\nhello\r\n0\r\n\r\n")),
        ("endless extension", chunked(&format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(1_000)))),
        ("data longer than its size", chunked("5\r\nhelloX\r\n0\r\n\r\n")),
        ("data shorter than its size", chunked("5\r\nhell\r\n0\r\n\r\n")),
        ("bare LF after the data", chunked("5\r\nhello\n0\r\n\r\n")),
        ("bare LF after the last chunk", chunked("0\n\n")),
        ("odd trailer", chunked("0\r\nX Y: z\r\n\r\n")),
        ("folded trailer", chunked("0\r\nX: y\r\n z\r\n\r\n")),
        ("bare LF in a trailer", chunked("0\r\nX: y\n\r\n")),
        ("endless trailers", chunked(&format!("0\r\nX: {}\r\n\r\n", "y".repeat(10_000)))),
    ];
    check(&rows, &[400, 413, 431]);
}

#[test]
fn bytes_behind_a_refused_body_are_not_a_request() {
    // A body nobody reads is not the next request: 404 and 405 come before the body is read.
    let provider = Provider::start();
    let gateway = Gateway::start(&provider);
    let hidden = String::from_utf8_lossy(SMUGGLED).into_owned();
    for line in ["POST /v1/nothing", "PUT /v1/embeddings", "DELETE /v1/models", "GET /v1/models"] {
        let mut client = gateway.client();
        client
            .send(format!("{line} HTTP/1.1\r\nHost: g\r\nContent-Length: {}\r\n\r\n{hidden}", hidden.len()));
        let first = client.answer();
        assert!([200, 400, 404, 405].contains(&first.status), "{line}: {}", first.head);
        if first.closes() {
            client.expect_close();
        } else {
            // The body was read and dropped: what follows is the next answer and no other.
            client.send("GET /v1/unknown HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n");
            client.answer().refusal(404);
            client.expect_close();
        }
    }
}

#[test]
fn upgrades_are_not_made() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider);
    let mut client = gateway.client();
    client.send("GET /v1/models HTTP/1.1\r\nHost: g\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n");
    let answer = client.answer();
    assert_ne!(answer.status, 101, "{}", answer.head);
}

#[test]
fn unknown_expectations_are_refused() {
    let rows = [("odd expectation", with("Expect: 200-ok\r\nContent-Length: 0\r\n", ""))];
    check(&rows, &[400, 417]);
}
