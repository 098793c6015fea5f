//! Heads that must be refused, each with its reason, and near neighbours that must not be.

use super::{
    Framing,
    head::{HeadLimits, HeadScan, Method, parse_request, parse_response},
    refused::BadHead::{self, *},
};

/// Whole request heads.
const REQUESTS: &[(&[u8], BadHead)] = &[
    // Empty lines in front.
    (b"\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", LeadingEmptyLine),
    (b"\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", LeadingEmptyLine),
    (b"\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", LeadingEmptyLine),
    (b"\rGET / HTTP/1.1\r\nHost: h\r\n\r\n", LeadingEmptyLine),
    (b"\r\n\r\n", LeadingEmptyLine),
    // Line ends.
    (b"GET / HTTP/1.1\nHost: h\r\n\r\n", BareLf),
    (b"GET / HTTP/1.1\nHost: h\n\n", BareLf),
    (b"GET / HTTP/1.1\r\nHost: h\n\r\n\r\n", BareLf),
    (b"GET / HTTP/1.1\r\nHost: h\na: b\r\n\r\n", BareLf),
    (b"GET / HTTP/1.1\r\nHost: h\r\n\n", BareLf),
    (b"GET / HTTP/1.1\r\nHost: h\n\nGET /x HTTP/1.1\r\nHost: h\r\n\r\n", BareLf),
    (b"GET / HTTP/1.1\r\nHost: h\r\na: b\nContent-Length: 5\r\n\r\n", BareLf),
    (b"GET / HTTP/1.1\r\nHost: h\r\na:\nb: c\r\n\r\n", BareLf),
    (b"GET /\n HTTP/1.1\r\nHost: h\r\n\r\n", BareLf),
    (b"GET / HTTP/1.1\r\nHost: h\r\nbad line\n\r\n\r\n", BareLf),
    (b"GET / HTTP/1.1\rHost: h\r\n\r\n", BareCr),
    (b"GET / HTTP/1.1\r\nHost: h\ra: b\r\n\r\n", BareCr),
    (b"GET / HTTP/1.1\r\nHost: h\r\r\n\r\n", BareCr),
    (b"GET / HTTP/1.1\r\r\nHost: h\r\n\r\n", BareCr),
    (b"GET / HTTP/1.1\r\nHost: h\r\na\r: b\r\n\r\n", BareCr),
    (b"GET / HTTP/1.1\r\nHost: h\r\na:\rb\r\n\r\n", BareCr),
    (b"GET / HTTP/1.1\r\nHost: h\r\n\ra: b\r\n\r\n", BareCr),
    (b"GET /\r HTTP/1.1\r\nHost: h\r\n\r\n", BareCr),
    (b"GE\rT / HTTP/1.1\r\nHost: h\r\n\r\n", BareCr),
    // Methods.
    (b" GET / HTTP/1.1\r\nHost: h\r\n\r\n", BadMethod),
    (b"\tGET / HTTP/1.1\r\nHost: h\r\n\r\n", BadMethod),
    (b"\0GET / HTTP/1.1\r\nHost: h\r\n\r\n", BadMethod),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", BadMethod),
    (b"G(ET / HTTP/1.1\r\nHost: h\r\n\r\n", BadMethod),
    (b"GET\t/ HTTP/1.1\r\nHost: h\r\n\r\n", BadMethod),
    (b"GET\x00 / HTTP/1.1\r\nHost: h\r\n\r\n", BadMethod),
    (b"G\xc3\x89T / HTTP/1.1\r\nHost: h\r\n\r\n", BadMethod),
    (b"GET:/ HTTP/1.1\r\nHost: h\r\n\r\n", BadMethod),
    (b"{\"model\":1}\r\n\r\n", BadMethod),
    (b"CONNECT h:443 HTTP/1.1\r\nHost: h\r\n\r\n", BadMethod),
    (b"CONNECT / HTTP/1.1\r\nHost: h\r\n\r\n", BadMethod),
    // Targets.
    (b"GET  / HTTP/1.1\r\nHost: h\r\n\r\n", BadTarget),
    (b"GET /\r\n\r\n", BadTarget),
    (b"GET\r\n\r\n", BadMethod),
    (b"GET  HTTP/1.1\r\nHost: h\r\n\r\n", BadTarget),
    (b"GET /\x00 HTTP/1.1\r\nHost: h\r\n\r\n", BadTarget),
    (b"GET /\x01 HTTP/1.1\r\nHost: h\r\n\r\n", BadTarget),
    (b"GET /a\tb HTTP/1.1\r\nHost: h\r\n\r\n", BadTarget),
    (b"GET /\x7f HTTP/1.1\r\nHost: h\r\n\r\n", BadTarget),
    (b"GET /\xc3\xa9 HTTP/1.1\r\nHost: h\r\n\r\n", BadTarget),
    (b"GET /\xff HTTP/1.1\r\nHost: h\r\n\r\n", BadTarget),
    (b"GET /?\xc3\xa9 HTTP/1.1\r\nHost: h\r\n\r\n", BadTarget),
    (b"GET /#a HTTP/1.1\r\nHost: h\r\n\r\n", BadTarget),
    (b"GET /?a#b HTTP/1.1\r\nHost: h\r\n\r\n", BadTarget),
    (b"GET a HTTP/1.1\r\nHost: h\r\n\r\n", BadTarget),
    (b"GET ?a HTTP/1.1\r\nHost: h\r\n\r\n", BadTarget),
    (b"GET * HTTP/1.1\r\nHost: h\r\n\r\n", BadTarget),
    (b"OPTIONS ** HTTP/1.1\r\nHost: h\r\n\r\n", BadTarget),
    (b"OPTIONS *?a HTTP/1.1\r\nHost: h\r\n\r\n", BadTarget),
    (b"GET h:80 HTTP/1.1\r\nHost: h\r\n\r\n", BadTarget),
    (b"GET h.example/a HTTP/1.1\r\nHost: h\r\n\r\n", BadTarget),
    (b"GET ftp://h/ HTTP/1.1\r\nHost: h\r\n\r\n", BadTarget),
    (b"GET http:/a HTTP/1.1\r\nHost: h\r\n\r\n", BadTarget),
    (b"GET http://h?a HTTP/1.1\r\nHost: h\r\n\r\n", BadTarget),
    (b"GET http:///a HTTP/1.1\r\nHost: h\r\n\r\n", BadHost),
    (b"GET http://u:p@h/ HTTP/1.1\r\nHost: h\r\n\r\n", BadHost),
    (b"GET http://h:x/ HTTP/1.1\r\nHost: h\r\n\r\n", BadHost),
    (b"GET http://h\\a/ HTTP/1.1\r\nHost: h\r\n\r\n", BadHost),
    (b"GET http://h//a HTTP/1.1\r\nHost: h\r\n\r\n", BadPath),
    (b"GET http://h/../a HTTP/1.1\r\nHost: h\r\n\r\n", BadPath),
    (b"GET //h/a HTTP/1.1\r\nHost: h\r\n\r\n", BadPath),
    (b"GET /v1//models HTTP/1.1\r\nHost: h\r\n\r\n", BadPath),
    (b"GET /v1/../admin HTTP/1.1\r\nHost: h\r\n\r\n", BadPath),
    (b"GET /v1/./models HTTP/1.1\r\nHost: h\r\n\r\n", BadPath),
    (b"GET /.. HTTP/1.1\r\nHost: h\r\n\r\n", BadPath),
    (b"GET /%2e%2e/admin HTTP/1.1\r\nHost: h\r\n\r\n", BadPath),
    (b"GET /v1%2Fmodels HTTP/1.1\r\nHost: h\r\n\r\n", BadPath),
    (b"GET /v1/models%2fa HTTP/1.1\r\nHost: h\r\n\r\n", BadPath),
    (b"GET /V1/models/a%2Fb HTTP/1.1\r\nHost: h\r\n\r\n", BadPath),
    (b"GET /v1/models/..%2F..%2Fadmin HTTP/1.1\r\nHost: h\r\n\r\n", BadPath),
    (b"GET /v1/models/a%5Cb HTTP/1.1\r\nHost: h\r\n\r\n", BadPath),
    (b"GET /v1\\models HTTP/1.1\r\nHost: h\r\n\r\n", BadPath),
    (b"GET /v1/models/a%00 HTTP/1.1\r\nHost: h\r\n\r\n", BadPath),
    (b"GET /v1/models/a%0d%0aX:%20y HTTP/1.1\r\nHost: h\r\n\r\n", BadPath),
    (b"GET /%zz HTTP/1.1\r\nHost: h\r\n\r\n", BadTarget),
    (b"GET /% HTTP/1.1\r\nHost: h\r\n\r\n", BadTarget),
    // Versions.
    (b"GET / HTTP/1.2\r\nHost: h\r\n\r\n", BadVersion),
    (b"GET / HTTP/2.0\r\nHost: h\r\n\r\n", BadVersion),
    (b"GET / HTTP/0.9\r\nHost: h\r\n\r\n", BadVersion),
    (b"GET / http/1.1\r\nHost: h\r\n\r\n", BadVersion),
    (b"GET / HTTP/1.1 \r\nHost: h\r\n\r\n", BadVersion),
    (b"GET / HTTP/1.10\r\nHost: h\r\n\r\n", BadVersion),
    (b"GET / HTTP/01.1\r\nHost: h\r\n\r\n", BadVersion),
    (b"GET / HTTP/1,1\r\nHost: h\r\n\r\n", BadVersion),
    (b"GET / HTTP/1\r\nHost: h\r\n\r\n", BadVersion),
    (b"GET /  HTTP/1.1\r\nHost: h\r\n\r\n", BadVersion),
    (b"GET / x HTTP/1.1\r\nHost: h\r\n\r\n", BadVersion),
    (b"GET / HTTPS/1.1\r\nHost: h\r\n\r\n", BadVersion),
    (b"GET / \r\nHost: h\r\n\r\n", BadVersion),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", BadVersion),
    // Hosts.
    (b"GET / HTTP/1.1\r\n\r\n", MissingHost),
    (b"GET / HTTP/1.1\r\na: b\r\n\r\n", MissingHost),
    (b"GET http://h/ HTTP/1.1\r\na: b\r\n\r\n", MissingHost),
    (b"GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n", SeveralHosts),
    (b"GET / HTTP/1.1\r\nHost: h\r\nhOST: g\r\n\r\n", SeveralHosts),
    (b"GET / HTTP/1.0\r\nHost: h\r\nHost: h\r\n\r\n", SeveralHosts),
    (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", BadHost),
    (b"GET / HTTP/1.1\r\nHost: h g\r\n\r\n", BadHost),
    (b"GET / HTTP/1.1\r\nHost: h/a\r\n\r\n", BadHost),
    (b"GET / HTTP/1.1\r\nHost: localhost:4000/#@x\r\n\r\n", BadHost),
    (b"GET / HTTP/1.1\r\nHost: u@h\r\n\r\n", BadHost),
    (b"GET / HTTP/1.1\r\nHost: http://h\r\n\r\n", BadHost),
    (b"GET / HTTP/1.1\r\nHost: h:\r\n\r\n", BadHost),
    (b"GET / HTTP/1.1\r\nHost: h:80x\r\n\r\n", BadHost),
    (b"GET / HTTP/1.1\r\nHost: h:99999\r\n\r\n", BadHost),
    (b"GET / HTTP/1.1\r\nHost: ::1\r\n\r\n", BadHost),
    (b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", BadHost),
    (b"GET / HTTP/1.1\r\nHost: [h]\r\n\r\n", BadHost),
    (b"GET / HTTP/1.1\r\nHost: h%00\r\n\r\n", BadHost),
    (b"GET / HTTP/1.1\r\nHost: h\xc3\xa9\r\n\r\n", BadHost),
    (b"GET / HTTP/1.1\r\nHost: h\\g\r\n\r\n", BadHost),
    (b"GET / HTTP/1.0\r\nHost: h g\r\n\r\n", BadHost),
    // A coding that HTTP/1.0 does not have.
    (b"POST / HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n", ChunkedInHttp10),
    (b"POST / HTTP/1.0\r\nTransfer-Encoding: identity\r\n\r\n", ChunkedInHttp10),
    (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n", LengthAndChunked),
];

/// Field lines; each is put into a request and into a response.
const FIELDS: &[(&[u8], BadHead)] = &[
    // Names.
    (b": b", EmptyName),
    (b" : b", ObsFold),
    (b"a : b", SpaceBeforeColon),
    (b"a\t: b", SpaceBeforeColon),
    (b"Content-Length : 5", SpaceBeforeColon),
    (b"Transfer-Encoding\t: chunked", SpaceBeforeColon),
    (b"Transfer-Encoding \t : chunked", SpaceBeforeColon),
    (b"a b: c", BadName),
    (b"a", BadName),
    (b"a b", BadName),
    (b"a\x00: b", BadName),
    (b"a\x0b: b", BadName),
    (b"\x0btransfer-encoding: chunked", BadName),
    (b"a\x7f: b", BadName),
    (b"\xc3\xa9: b", BadName),
    (b"a\xa0: b", BadName),
    (b"(a): b", BadName),
    (b"a\"b: c", BadName),
    (b"a/b: c", BadName),
    (b"a,b: c", BadName),
    (b"a;b: c", BadName),
    (b"a=b: c", BadName),
    (b"a[b]: c", BadName),
    (b"{a}: c", BadName),
    (b"@a: c", BadName),
    (b"\\a: c", BadName),
    // Folds.
    (b" a: b", ObsFold),
    (b"\ta: b", ObsFold),
    (b"a: b\r\n c", ObsFold),
    (b"a: b\r\n\tc", ObsFold),
    (b"a:\r\n b", ObsFold),
    (b"Transfer-Encoding:\r\n chunked", ObsFold),
    (b"Content-Length: 5\r\n 6", ObsFold),
    (b"a: b\r\n ", ObsFold),
    // Values.
    (b"a: \x00", BadValue),
    (b"a: b\x00c", BadValue),
    (b"a: \x01", BadValue),
    (b"a: b\x08", BadValue),
    (b"a: \x0b", BadValue),
    (b"a: b\x0c", BadValue),
    (b"a: b\x1b[2J", BadValue),
    (b"a: b\x1f", BadValue),
    (b"a: a long value whose control byte is found by wide compares \x02 in the middle of it", BadValue),
    (b"a: \x7f", BadValue),
    (b"a: bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\x7f", BadValue),
    (b"Transfer-Encoding: \x0bchunked", BadValue),
    (b"Content-Length: 5\x00", BadValue),
    // Lengths.
    (b"Content-Length:", BadLength),
    (b"Content-Length: ", BadLength),
    (b"Content-Length: a", BadLength),
    (b"Content-Length: +5", BadLength),
    (b"Content-Length: -5", BadLength),
    (b"Content-Length: -0", BadLength),
    (b"Content-Length: 0x5", BadLength),
    (b"Content-Length: 5f", BadLength),
    (b"Content-Length: 5 6", BadLength),
    (b"Content-Length: 5,5", BadLength),
    (b"Content-Length: 5, 5", BadLength),
    (b"Content-Length: 5,", BadLength),
    (b"Content-Length: ,5", BadLength),
    (b"Content-Length: 5;", BadLength),
    (b"Content-Length: 5.0", BadLength),
    (b"Content-Length: 5e0", BadLength),
    (b"Content-Length: 1_0", BadLength),
    (b"Content-Length: \"5\"", BadLength),
    (b"Content-Length: \xb2", BadLength),
    (b"Content-Length: 18446744073709551616", BadLength),
    (b"Content-Length: 99999999999999999999999", BadLength),
    (b"Content-Length: 5\r\nContent-Length: 5", SeveralLengths),
    (b"Content-Length: 5\r\ncontent-length: 6", SeveralLengths),
    (b"Content-Length: 5\r\na: b\r\nCONTENT-LENGTH:", SeveralLengths),
    (b"Content-Length: 0\r\nContent-Length: 0\r\nContent-Length: 0", SeveralLengths),
    // Codings.
    (b"Transfer-Encoding:", BadTransferEncoding),
    (b"Transfer-Encoding: identity", BadTransferEncoding),
    (b"Transfer-Encoding: gzip", BadTransferEncoding),
    (b"Transfer-Encoding: gzip, chunked", BadTransferEncoding),
    (b"Transfer-Encoding: chunked, gzip", BadTransferEncoding),
    (b"Transfer-Encoding: chunked, chunked", BadTransferEncoding),
    (b"Transfer-Encoding: chunked,", BadTransferEncoding),
    (b"Transfer-Encoding: ,chunked", BadTransferEncoding),
    (b"Transfer-Encoding: chunked;a=b", BadTransferEncoding),
    (b"Transfer-Encoding: xchunked", BadTransferEncoding),
    (b"Transfer-Encoding: chunkedx", BadTransferEncoding),
    (b"Transfer-Encoding: \"chunked\"", BadTransferEncoding),
    (b"Transfer-Encoding: 'chunked'", BadTransferEncoding),
    (b"Transfer-Encoding: chun\tked", BadTransferEncoding),
    (b"Transfer-Encoding: \xa0chunked", BadTransferEncoding),
    (b"Transfer-Encoding: c\xe2\x84\xaaunked", BadTransferEncoding),
    (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", BadTransferEncoding),
    (b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked", BadTransferEncoding),
    (b"Transfer-Encoding: chunked\r\ntransfer-encoding: gzip", BadTransferEncoding),
    (b"Transfer-Encoding: chunked\r\nContent-Length: 5", LengthAndChunked),
    (b"Content-Length: 5\r\nTransfer-Encoding: chunked", LengthAndChunked),
    (b"Content-Length: 0\r\nTransfer-Encoding: chunked", LengthAndChunked),
    (b"Content-Length: 5\r\ntransfer-encoding: identity", LengthAndChunked),
    (b"Content-Length: x\r\nTransfer-Encoding: chunked", LengthAndChunked),
    (b"Content-Length: 5\r\nContent-Length: 5\r\nTransfer-Encoding: chunked", LengthAndChunked),
    // Connection options.
    (b"Connection: keep alive", BadConnection),
    (b"Connection: close;a", BadConnection),
    (b"Connection: \"close\"", BadConnection),
    (b"Connection: close\r\nConnection: \xff", BadConnection),
];

/// Field lines that only a request may not have.
const REQUEST_FIELDS: &[(&[u8], BadHead)] = &[
    (b"Expect: 200-ok", BadExpect),
    (b"Expect:", BadExpect),
    (b"Expect: 100-continue, 100-continue", BadExpect),
    (b"Expect: 100-continue\r\nExpect: 100-continue", BadExpect),
    (b"Expect: 100-continue;a=b", BadExpect),
    (b"Expect: x 100-continue", BadExpect),
    (b"Expect: 100 -continue", BadExpect),
];

/// Whole response heads.
const RESPONSES: &[(&[u8], BadHead)] = &[
    (b"\r\nHTTP/1.1 200 OK\r\n\r\n", LeadingEmptyLine),
    (b"\nHTTP/1.1 200 OK\r\n\r\n", LeadingEmptyLine),
    (b"HTTP/1.1 200 OK\n\n", BareLf),
    (b"HTTP/1.1 200\n\r\n\r\n", BareLf),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 0\n\r\n\r\n", BareLf),
    (b"HTTP/1.1 200 O\rK\r\n\r\n", BareCr),
    (b"HTTP/1.1 200\rOK\r\n\r\n", BareCr),
    (b"HTTP/1.1 200 OK\r\r\n\r\n", BareCr),
    (b"HTTP/1.2 200 OK\r\n\r\n", BadVersion),
    (b"HTTP/2.0 200 OK\r\n\r\n", BadVersion),
    (b"HTTP/2 200\r\n\r\n", BadVersion),
    (b"http/1.1 200 OK\r\n\r\n", BadVersion),
    (b"ICY 200 OK\r\n\r\n", BadVersion),
    (b" HTTP/1.1 200 OK\r\n\r\n", BadVersion),
    (b"hello", BadVersion),
    (b"\x15\x03\x03\x00\x02", BadVersion),
    (b"{\"error\":1}", BadVersion),
    (b"HTTP/1.1\t200 OK\r\n\r\n", BadVersion),
    (b"HTTP/1.1200 OK\r\n\r\n", BadVersion),
    (b"HTTP/1.1\r\n\r\n", BadVersion),
    (b"HTTP/1.1 \r\n\r\n", BadStatus),
    (b"HTTP/1.1  200 OK\r\n\r\n", BadStatus),
    (b"HTTP/1.1 20 OK\r\n\r\n", BadStatus),
    (b"HTTP/1.1 2000 OK\r\n\r\n", BadStatus),
    (b"HTTP/1.1 +20 OK\r\n\r\n", BadStatus),
    (b"HTTP/1.1 2x0 OK\r\n\r\n", BadStatus),
    (b"HTTP/1.1 OK\r\n\r\n", BadStatus),
    (b"HTTP/1.1 200\tOK\r\n\r\n", BadStatus),
    (b"HTTP/1.1 200 O\x00K\r\n\r\n", BadStatus),
    (b"HTTP/1.1 200 O\x7fK\r\n\r\n", BadStatus),
    (b"HTTP/1.1 000 OK\r\n\r\n", BadStatus),
    (b"HTTP/1.1 099 OK\r\n\r\n", BadStatus),
    (b"HTTP/1.1 600 OK\r\n\r\n", BadStatus),
    (b"HTTP/1.1 999 OK\r\n\r\n", BadStatus),
    (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n", SwitchedProtocols),
    (b"HTTP/1.1 100 Continue\r\nContent-Length: 5\r\n\r\n", BodyNotAllowed),
    (b"HTTP/1.1 103 Early Hints\r\nTransfer-Encoding: chunked\r\n\r\n", BodyNotAllowed),
    (b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", BodyNotAllowed),
    (b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", BodyNotAllowed),
    (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5, 5\r\n\r\n", BadLength),
    (b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", ChunkedInHttp10),
];

const GOOD_REQUESTS: &[(&[u8], Framing)] = &[
    (b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", Framing::None),
    (b"GET / HTTP/1.0\r\n\r\n", Framing::None),
    (b"GET / HTTP/1.0\r\nHost: h\r\nContent-Length: 5\r\n\r\n", Framing::Length(5)),
    (b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", Framing::None),
    (b"HEAD /v1/models HTTP/1.1\r\nHOST:h\r\n\r\n", Framing::None),
    (b"BREW /pot HTTP/1.1\r\nhost:\th:80\t \r\n\r\n", Framing::None),
    (b"GET /v1/models/openai%2Fgpt-4o HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n", Framing::None),
    (b"GET /v1/models?a=b&c[]=%2F..//. HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", Framing::None),
    (b"GET https://a.example/x HTTP/1.1\r\nHost: b\r\n\r\n", Framing::None),
    (
        b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n\r\n",
        Framing::None,
    ),
    (b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n", Framing::Length(3)),
    (b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: CHUNKED \r\n\r\n", Framing::Chunked),
    (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length:007\r\nExpect: 100-Continue\r\n\r\n", Framing::Length(7)),
    (
        b"GET / HTTP/1.1\r\nHost: h\r\na:\r\nb: \t \r\nc: d\te \xc3\xa9\xff\r\n!#$%&'*+-.^_`|~: 1\r\n\r\n",
        Framing::None,
    ),
    (b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length-X: 1\r\nX-Transfer-Encoding: gzip\r\n\r\n", Framing::None),
];

const GOOD_RESPONSES: &[(&[u8], Framing)] = &[
    (b"HTTP/1.1 200 OK\r\n\r\n", Framing::UntilClose),
    (b"HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n", Framing::Length(0)),
    (b"HTTP/1.1 200\r\nContent-Length: 9\r\n\r\n", Framing::Length(9)),
    (b"HTTP/1.0 404 Nicht gefunden \xc3\xa9\t!\r\nContent-Length: 9\r\n\r\n", Framing::Length(9)),
    (b"HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n", Framing::Chunked),
    (b"HTTP/1.1 599 What\r\nHost: a\r\nHost: b\r\nExpect: x\r\n\r\n", Framing::UntilClose),
    (b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", Framing::None),
    (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n", Framing::None),
    (b"HTTP/1.1 100 Continue\r\n\r\n", Framing::None),
];

/// The verdict on `head`, which must be the same when it comes byte by byte, and whatever comes behind it.
#[track_caller]
fn request(head: &[u8], expect: Result<Framing, BadHead>) {
    let limits = HeadLimits::default();
    let verdict =
        |bytes: &[u8], scan: &mut HeadScan| scan.request(bytes, limits).map(|head| head.map(|h| h.framing));
    let text = head.escape_ascii();
    assert_eq!(parse_request(head, limits).map(|head| head.map(|h| h.framing)), expect.map(Some), "{text}");
    assert_eq!(
        verdict(&[head, b"\nGET / HTTP/1.1\r\n\r\n"].concat(), &mut HeadScan::default()),
        expect.map(Some),
        "{text}"
    );
    let mut scan = HeadScan::default();
    let first =
        (0..=head.len()).map(|end| verdict(&head[..end], &mut scan)).find(|answer| *answer != Ok(None));
    assert_eq!(first, Some(expect.map(Some)), "byte by byte: {text}");
}

#[track_caller]
fn response(head: &[u8], expect: Result<Framing, BadHead>) {
    let (limits, asked) = (HeadLimits::default(), Method::Post);
    let text = head.escape_ascii();
    assert_eq!(
        parse_response(head, asked, limits).map(|head| head.map(|h| h.framing)),
        expect.map(Some),
        "{text}"
    );
    let mut scan = HeadScan::default();
    let mut verdict = |end| scan.response(&head[..end], asked, limits).map(|head| head.map(|h| h.framing));
    let first = (0..=head.len()).map(&mut verdict).find(|answer| *answer != Ok(None));
    assert_eq!(first, Some(expect.map(Some)), "byte by byte: {text}");
}

fn within(first: &[u8], line: &[u8], last: &[u8]) -> Vec<u8> {
    [first, line, last].concat()
}

#[test]
fn a_malformed_head_is_refused_for_its_reason() {
    for (head, bad) in REQUESTS {
        request(head, Err(*bad));
    }
    for (head, bad) in RESPONSES {
        response(head, Err(*bad));
    }
    for (line, bad) in FIELDS.iter().chain(REQUEST_FIELDS) {
        request(&within(b"POST / HTTP/1.1\r\nHost: h\r\n", line, b"\r\n\r\n"), Err(*bad));
    }
    for (line, bad) in FIELDS {
        request(&within(b"POST / HTTP/1.1\r\n", line, b"\r\nHost: h\r\n\r\n"), Err(*bad));
        response(&within(b"HTTP/1.1 200 OK\r\n", line, b"\r\n\r\n"), Err(*bad));
        response(&within(b"HTTP/1.1 200 OK\r\nx: y\r\n", line, b"\r\nz: z\r\n\r\n"), Err(*bad));
    }
    assert!(REQUESTS.len() + RESPONSES.len() + FIELDS.len() + REQUEST_FIELDS.len() >= 150, "rows were lost");
}

#[test]
fn a_well_formed_head_is_taken() {
    for (head, framing) in GOOD_REQUESTS {
        request(head, Ok(*framing));
    }
    for (head, framing) in GOOD_RESPONSES {
        response(head, Ok(*framing));
    }
}

#[test]
fn every_reason_has_a_row_and_a_sentence() {
    let rows = REQUESTS.iter().chain(FIELDS).chain(REQUEST_FIELDS).chain(RESPONSES);
    let mut seen: Vec<BadHead> = rows.map(|(_, bad)| *bad).collect();
    seen.extend([TooLarge, TooManyFields]); // these depend on limits: see `head`
    let sentences: std::collections::HashSet<&str> = seen.iter().map(|bad| bad.reason()).collect();
    assert!(sentences.iter().all(|sentence| sentence.ends_with('.') && sentence.len() > 20));
    seen.sort_by_key(|bad| *bad as u8);
    seen.dedup();
    assert_eq!(seen.len(), SwitchedProtocols as usize + 1, "a reason without a row");
    assert_eq!(sentences.len(), seen.len(), "two reasons with one sentence");
}
