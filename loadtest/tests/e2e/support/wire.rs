//! An HTTP/1.1 client that writes exactly the bytes it is given and shows exactly what came back.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
};

use rustls::{ClientConnection, StreamOwned};
use serde_json::Value;

use super::PATIENCE;

/// How an answer's bytes came to an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Its framing says that it is whole.
    Whole,
    /// FIN before that.
    Cut,
    /// RST before that.
    Reset,
}

/// One answer, head and body.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) headers: Vec<(String, String)>,
    /// Without its framing.
    pub(crate) body: Vec<u8>,
    pub(crate) ending: Ending,
}

/// One connection to the gateway.
pub(crate) struct Client {
    stream: Stream,
    held: Vec<u8>,
    /// The provider may send trailers; the gateway must have dropped them.
    trailers_allowed: bool,
}

/// What a connection is made of.
enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

/// A whole POST, as a client would write it.
pub(crate) fn post(path: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

impl Client {
    pub(crate) fn connect(to: SocketAddr) -> Self {
        let stream = TcpStream::connect(to).unwrap_or_else(|error| panic!("cannot connect to {to}: {error}"));
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket takes a time-out");
        stream.set_write_timeout(Some(PATIENCE)).expect("a socket takes a time-out");
        stream.set_nodelay(true).expect("TCP has this option");
        Self { stream: Stream::Plain(stream), held: Vec::new(), trailers_allowed: false }
    }

    /// The same connection, to a server that may send trailers.
    pub(crate) fn allowing_trailers(self) -> Self {
        Self { trailers_allowed: true, ..self }
    }

    /// The same connection with TLS on it; the handshake happens with the first bytes.
    pub(crate) fn with_tls(self, session: ClientConnection) -> Self {
        let Stream::Plain(stream) = self.stream else { panic!("TLS inside TLS") };
        Self {
            stream: Stream::Tls(Box::new(StreamOwned::new(session, stream))),
            held: Vec::new(),
            trailers_allowed: false,
        }
    }

    /// The TLS session, if there is one.
    pub(crate) fn session(&mut self) -> Option<&mut ClientConnection> {
        match &mut self.stream {
            Stream::Plain(_) => None,
            Stream::Tls(stream) => Some(&mut stream.conn),
        }
    }

    #[track_caller]
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("the gateway takes what it is sent");
    }

    /// Sends what may be refused half-way: that the gateway stops reading is not an error here.
    pub(crate) fn offer(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).is_ok()
    }

    /// A second handle, to send on while this one reads.
    pub(crate) fn twin(&self) -> Self {
        let twin = self.socket().try_clone().expect("a descriptor can be doubled");
        Self { stream: Stream::Plain(twin), held: Vec::new(), trailers_allowed: false }
    }

    /// FIN: nothing more will be sent.
    pub(crate) fn finish(&self) {
        let _ = self.socket().shutdown(Shutdown::Write);
    }

    fn socket(&self) -> &TcpStream {
        match &self.stream {
            Stream::Plain(stream) => stream,
            Stream::Tls(stream) => &stream.sock,
        }
    }

    /// One request and its answer.
    #[track_caller]
    pub(crate) fn ask(&mut self, request: impl AsRef<[u8]>) -> Answer {
        self.send(&request);
        let method = request.as_ref().split(|byte| *byte == b' ').next().unwrap_or_default().to_vec();
        self.answer_to(&method)
    }

    #[track_caller]
    pub(crate) fn answer(&mut self) -> Answer {
        self.answer_to(b"POST")
    }

    /// Reads one answer: its head, then its body by its framing.
    #[track_caller]
    pub(crate) fn answer_to(&mut self, method: &[u8]) -> Answer {
        let mut answer = self.head();
        let bodiless =
            method == b"HEAD" || answer.status == 204 || answer.status == 304 || answer.status < 200;
        if !bodiless {
            self.body(&mut answer);
        }
        answer
    }

    /// Reads the head alone.
    #[track_caller]
    pub(crate) fn head(&mut self) -> Answer {
        let end = loop {
            if let Some(at) = find(&self.held, b"\r\n\r\n") {
                break at + 4;
            }
            let before = String::from_utf8_lossy(&self.held).into_owned();
            assert!(self.more().is_ok_and(|n| n > 0), "closed before a whole head: {before:?}");
        };
        let head: Vec<u8> = self.held.drain(..end).collect();
        let head = String::from_utf8(head).expect("a head is text");
        let mut lines = head.trim_end().split("\r\n");
        let status =
            lines.next().and_then(|line| line.strip_prefix("HTTP/1.")).and_then(|line| line.get(2..5));
        let status = status.and_then(|digits| digits.parse().ok());
        let headers = lines.map(|line| {
            let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("odd header line {line:?}"));
            (name.to_ascii_lowercase(), value.to_owned())
        });
        Answer {
            status: status.unwrap_or_else(|| panic!("odd status line in {head:?}")),
            headers: headers.collect(),
            head: head.clone(),
            body: Vec::new(),
            ending: Ending::Whole,
        }
    }

    /// Reads the body of `answer`, as its head frames it.
    #[track_caller]
    pub(crate) fn body(&mut self, answer: &mut Answer) {
        let chunked = answer.headers_of("transfer-encoding");
        let lengths = answer.headers_of("content-length");
        match (chunked.as_slice(), lengths.as_slice()) {
            (["chunked"], []) => answer.ending = self.chunks(&mut answer.body),
            ([], [length]) => {
                let length = length.parse().expect("a length is a number");
                answer.ending = self.fill(length);
                answer.body = self.held.drain(..length.min(self.held.len())).collect();
            }
            ([], []) => {
                let reset = self.rest();
                answer.body = std::mem::take(&mut self.held);
                answer.ending = if reset { Ending::Reset } else { Ending::Whole };
            }
            framings => panic!("framed more than once: {framings:?}"),
        }
    }

    /// Reads until the next `bytes` body bytes of a chunked answer have come, for tests that look half-way.
    #[track_caller]
    pub(crate) fn some_chunks(&mut self, bytes: usize) -> Vec<u8> {
        let mut body = Vec::new();
        while body.len() < bytes {
            assert_eq!(self.chunk(&mut body), None, "the answer ended after {} bytes", body.len());
        }
        body
    }

    /// Whether anything is said to this, rather than the connection closed.
    pub(crate) fn is_answered(&mut self, request: impl AsRef<[u8]>) -> bool {
        self.offer(request) && self.more().is_ok_and(|bytes| bytes > 0)
    }

    /// Nothing more comes, and the connection is closed: by FIN, not by RST.
    #[track_caller]
    pub(crate) fn expect_close(&mut self) {
        let reset = self.rest();
        let more = String::from_utf8_lossy(&self.held).into_owned();
        assert!(self.held.is_empty(), "something after the last answer: {more:?}");
        assert!(!reset, "reset instead of closed");
    }

    /// The connection ends, by FIN or by RST, and not a byte comes before that.
    #[track_caller]
    pub(crate) fn expect_silent_end(&mut self) {
        self.rest();
        let said = String::from_utf8_lossy(&self.held).into_owned();
        assert!(self.held.is_empty(), "an answer where none was due: {said:?}");
    }

    /// The connection ends, whatever is said before that.
    #[track_caller]
    pub(crate) fn expect_end(&mut self) {
        self.rest();
    }

    /// The end of TLS, properly announced; the connection below stays.
    pub(crate) fn say_goodbye(&mut self) {
        if let Stream::Tls(stream) = &mut self.stream {
            stream.conn.send_close_notify();
            let _ = stream.flush();
        }
    }

    fn chunks(&mut self, body: &mut Vec<u8>) -> Ending {
        loop {
            if let Some(ending) = self.chunk(body) {
                return ending;
            }
        }
    }

    /// One chunk; how the body ended if that was the last.
    fn chunk(&mut self, body: &mut Vec<u8>) -> Option<Ending> {
        let line = loop {
            if let Some(at) = find(&self.held, b"\r\n") {
                break at;
            }
            match self.more() {
                Ok(0) => return Some(Ending::Cut),
                Ok(_) => {}
                Err(()) => return Some(Ending::Reset),
            }
        };
        let hex = self.held[..line].split(|byte| *byte == b';').next().unwrap_or_default();
        let size = std::str::from_utf8(hex).ok().and_then(|hex| usize::from_str_radix(hex, 16).ok());
        let size = size
            .unwrap_or_else(|| panic!("odd chunk line {:?}", String::from_utf8_lossy(&self.held[..line])));
        if size == 0 && self.trailers_allowed {
            while find(&self.held, b"\r\n\r\n").is_none() {
                assert!(self.more().is_ok_and(|read| read > 0), "closed within the trailers");
            }
            let end = find(&self.held, b"\r\n\r\n").unwrap_or_default() + 4;
            self.held.drain(..end);
            return Some(Ending::Whole);
        }
        let ending = self.fill(line + 2 + size + 2);
        if ending != Ending::Whole {
            body.extend_from_slice(self.held.get(line + 2..).unwrap_or_default());
            self.held.clear();
            return Some(ending);
        }
        body.extend_from_slice(&self.held[line + 2..line + 2 + size]);
        assert_eq!(&self.held[line + 2 + size..line + 4 + size], b"\r\n", "a chunk without its line end");
        self.held.drain(..line + 4 + size);
        (size == 0).then_some(Ending::Whole)
    }

    fn fill(&mut self, bytes: usize) -> Ending {
        while self.held.len() < bytes {
            match self.more() {
                Ok(0) => return Ending::Cut,
                Ok(_) => {}
                Err(()) => return Ending::Reset,
            }
        }
        Ending::Whole
    }

    /// Reads to the end; whether that was a reset.
    fn rest(&mut self) -> bool {
        loop {
            match self.more() {
                Ok(0) => return false,
                Ok(_) => {}
                Err(()) => return true,
            }
        }
    }

    /// One read; an error is a reset, silence is a failed test.
    fn more(&mut self) -> Result<usize, ()> {
        let mut buffer = [0; 16 << 10];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(read) => {
                    self.held.extend_from_slice(&buffer[..read]);
                    return Ok(read);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    let held = String::from_utf8_lossy(&self.held).into_owned();
                    panic!("silence for {PATIENCE:?}; held so far: {held:?}")
                }
                Err(_) => return Err(()),
            }
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

impl Answer {
    /// The first header of that (lower-case) name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers_of(name).first().copied()
    }

    pub(crate) fn headers_of(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str()).collect()
    }

    /// What `x-ringway-{name}` says: every reply has it once, and says `-` where there is nothing to say.
    #[track_caller]
    pub(crate) fn told(&self, name: &str) -> &str {
        let all = self.headers_of(&format!("x-ringway-{name}"));
        let ([told], false) = (&*all, all.contains(&"")) else {
            panic!("not said once: {name} in {}", self.head)
        };
        told
    }

    /// Asserts what every reply of the gateway has, whatever it says.
    #[track_caller]
    fn expect_ours(&self) {
        let id = self.header("x-request-id");
        assert!(id.is_some_and(|id| !id.is_empty()), "no x-request-id: {}", self.head);
        for name in ["provider", "model", "route"] {
            self.told(name);
        }
        let attempts = self.told("attempts");
        assert!(attempts == "-" || attempts.parse::<u8>().is_ok(), "{}", self.head);
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {:?}", self.text()))
    }

    /// Asserts the status, showing the answer if it is another, and what every answer of ours has.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert!(self.head.starts_with("HTTP/1.1 "), "{}", self.head);
        assert_eq!(self.status, status, "{}{}", self.head, self.text());
        self.expect_ours();
        self
    }

    /// Asserts a refusal in OpenAI's shape, and returns its code.
    #[track_caller]
    pub(crate) fn refusal(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{}{}", self.head, self.text());
        self.expect_ours();
        assert_eq!(
            self.header("content-type").map(|kind| kind.starts_with("application/json")),
            Some(true),
            "{}",
            self.head
        );
        let body = self.json();
        let error = &body["error"];
        let members: Vec<&str> =
            error.as_object().into_iter().flatten().map(|(key, _)| key.as_str()).collect();
        for member in ["message", "type", "param", "code"] {
            assert!(members.contains(&member), "no member {member} in {error}");
        }
        assert!(error["message"].is_string() && error["type"].is_string(), "{error}");
        error["code"].as_str().unwrap_or_default().to_owned()
    }

    pub(crate) fn closes(&self) -> bool {
        self.headers_of("connection").iter().any(|value| value.eq_ignore_ascii_case("close"))
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
