//! The simulated provider: answers like an OpenAI-compatible one, and misbehaves as the model's name tells it to.
//!
//! One thread per core, each with its own ring; only the log is shared. monoio-http decodes the requests,
//! the responses are written raw (`respond`), so that every fault of a real peer can be shown.

mod answer;
mod asked;
mod log;
mod reader;
mod respond;
pub mod script;
mod serve;
mod sse;
pub mod tls;

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, mpsc},
    thread,
};

use monoio::net::{ListenerOpts, TcpListener};

pub use self::{
    answer::STAMP_DIGITS,
    log::{Entry, Log, Outcome, fnv},
};
use crate::runtime::{block_on, pin_to};

/// How a provider is to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Port 0 lets the kernel choose.
    pub listen: SocketAddr,
    /// Threads.
    pub threads: usize,
    /// Cores to pin them to, in turn; none leaves them to the scheduler.
    pub cores: Vec<usize>,
    /// Requests that the log keeps; 0 for none.
    pub log_kept_max: usize,
}

impl Options {
    /// One thread with a log, as tests want it.
    pub fn on(listen: SocketAddr) -> Self {
        Self { listen, threads: 1, cores: Vec::new(), log_kept_max: 4096 }
    }
}

/// A provider that runs on threads of its own until the process ends.
#[derive(Clone, Debug)]
pub struct Provider {
    /// Where it listens.
    pub addr: SocketAddr,
    /// What it has received.
    pub log: Arc<Log>,
}

/// Starts a provider; it accepts connections when this returns.
pub fn start(options: &Options) -> io::Result<Provider> {
    let log = Arc::new(Log::new(options.log_kept_max));
    let memory = Arc::new(serve::Memory::default());
    let mut addr = options.listen;
    for index in 0..options.threads.max(1) {
        let shared = options.threads > 1;
        let core = options.cores.get(index % options.cores.len().max(1)).copied();
        let (log, memory) = (Arc::clone(&log), Arc::clone(&memory));
        let (bound, heard) = mpsc::channel();
        thread::Builder::new().name(format!("provider-{index}")).spawn(move || {
            if let Some(error) = core.and_then(|core| pin_to(core).err()) {
                drop(bound.send(Err(error)));
                return;
            }
            block_on(async move {
                let opts = ListenerOpts::new().reuse_port(shared).reuse_addr(true).backlog(16_384);
                match TcpListener::bind_with_config(addr, &opts).and_then(|l| Ok((l.local_addr()?, l))) {
                    Ok((addr, listener)) => {
                        drop(bound.send(Ok(addr)));
                        serve::accept(listener, log, memory).await;
                    }
                    Err(error) => drop(bound.send(Err(error))),
                }
            });
        })?;
        addr = heard.recv().map_err(|_| io::Error::other("the provider's thread ended"))??;
    }
    Ok(Provider { addr, log })
}

#[cfg(test)]
mod tests {
    use std::{
        io::{ErrorKind, Read, Write},
        net::TcpStream,
        time::Duration,
    };

    use super::*;
    use crate::clock::now_ns;

    fn provider() -> Provider {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        start(&Options::on(listen)).unwrap_or_else(|error| panic!("{error}"))
    }

    fn ask(provider: &Provider, model: &str, stream: bool) -> TcpStream {
        let body = format!(r#"{{"model":"{model}","stream":{stream}}}"#);
        let mut connection = TcpStream::connect(provider.addr).unwrap_or_else(|error| panic!("{error}"));
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        connection.write_all((head + &body).as_bytes()).unwrap_or_else(|error| panic!("{error}"));
        connection.set_read_timeout(Some(Duration::from_secs(5))).unwrap_or_else(|error| panic!("{error}"));
        connection
    }

    /// The body that arrives, and how the connection ends.
    #[track_caller]
    fn check(words: &str, body_bytes: usize, end: Option<ErrorKind>) {
        let provider = provider();
        let mut connection = ask(&provider, &format!("sim,{words}"), false);
        let mut answer = Vec::new();
        let ended = connection.read_to_end(&mut answer).err().map(|error| error.kind());
        let head = answer.windows(4).position(|four| four == b"\r\n\r\n").map_or(answer.len(), |at| at + 4);
        assert_eq!((answer.len() - head, ended), (body_bytes, end), "{words}");
    }

    #[test]
    fn connections_end_as_the_script_ends_them() {
        check("closeafter", 500, None);
        check("http10", 500, None);
        check("cut=20", 20, None);
        check("headcut=5", 0, None);
        check("idleclose=5", 500, None);
        check("reset=20", 20, Some(ErrorKind::ConnectionReset));
        check("split=7,closeafter", 500, None);
        check("gzip,closeafter,size=600", 600 + 10 + 5 + 8, None);
    }

    #[test]
    fn a_client_that_leaves_is_noticed_at_once() {
        let provider = provider();
        let mut connection = ask(&provider, "sim,gap=10,events=1000", true);
        assert!(connection.read(&mut [0; 512]).is_ok_and(|read| read > 0));
        let left_ns = now_ns();
        drop(connection);
        let mut waiting = TcpStream::connect(provider.addr).unwrap_or_else(|error| panic!("{error}"));
        let asked =
            waiting.write_all(b"GET /_sim/wait?ended=1&ms=5000 HTTP/1.1\r\nconnection: close\r\n\r\n");
        assert!(asked.is_ok() && waiting.read_to_end(&mut Vec::new()).is_ok());
        let entry = provider.log.entries_kept().remove(0);
        assert_eq!(entry.outcome, Outcome::Aborted);
        assert!(entry.ended_ns.saturating_sub(left_ns) < 100_000_000);
    }

    #[test]
    fn vices_may_be_limited_to_the_first_requests() {
        let provider = provider();
        let statuses = (0..3).map(|_| {
            let mut connection = ask(&provider, "sim,503=1,times=2", false);
            let mut start = [0; 12];
            assert!(connection.read_exact(&mut start).is_ok());
            String::from_utf8_lossy(&start[9..]).into_owned()
        });
        assert_eq!(statuses.collect::<Vec<_>>(), ["503", "503", "200"]);
    }

    #[test]
    fn the_log_tells_connections_and_requests_apart() {
        let provider = provider();
        let mut connection = ask(&provider, "sim", false);
        let request = b"GET /v1/models HTTP/1.1\r\nX-Test: a\r\nconnection: close\r\n\r\n";
        assert!(connection.write_all(request).is_ok() && connection.read_to_end(&mut Vec::new()).is_ok());
        let entries = provider.log.entries_kept();
        let numbers = entries.iter().map(|entry| (entry.connection, entry.request_on_connection));
        assert_eq!(numbers.collect::<Vec<_>>(), [(0, 0), (0, 1)]);
        assert_eq!(entries[0].body_bytes, r#"{"model":"sim","stream":false}"#.len());
        assert_eq!(entries[1].header("x-test"), Some("a"));
    }
}
