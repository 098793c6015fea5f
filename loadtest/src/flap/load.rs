//! Requests at a steady rate, each on a connection of its own, and what came of each.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::clock::now_ns;

/// Threads: more than there are requests under way at once.
const THREADS: u64 = 96;
const PATIENCE: Duration = Duration::from_secs(30);

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    Whole,
    /// A stream that was lost after its first event, and said so.
    Cut,
    Failed(String),
}

/// One request.
#[derive(Clone, Debug)]
pub(super) struct Done {
    pub(super) began_ns: u64,
    pub(super) took_ns: u64,
    /// What it is known by to the provider: its `user`.
    pub(super) name: String,
    /// When its first byte was there: from then on nothing may be asked for it. Zero where none came.
    pub(super) first_ns: u64,
    pub(super) end: End,
    /// As the gateway tells it; zero where it made none.
    pub(super) attempts: u64,
    /// Who answered; empty for nobody.
    pub(super) provider: String,
}

/// A load that goes on until it is told to end.
pub(super) struct Load {
    done: Arc<Mutex<Vec<Done>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Half of the requests ask for a stream.
    pub(super) fn start(gateway: SocketAddr, model: &str, per_second: u64) -> Self {
        let (done, stop) = (Arc::<Mutex<Vec<Done>>>::default(), Arc::new(AtomicBool::new(false)));
        let began_ns = now_ns();
        let threads = (0..THREADS).map(|index| {
            let (done, stop, model) = (Arc::clone(&done), Arc::clone(&stop), model.to_owned());
            thread::spawn(move || {
                for number in (index..).step_by(usize::try_from(THREADS).unwrap_or(1)) {
                    let planned_ns = began_ns + number * 1_000_000_000 / per_second;
                    until(planned_ns, &stop);
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let one = ask(gateway, &model, &format!("load-{began_ns}-{number}"), number % 2 == 0);
                    held(&done).push(one);
                }
            })
        });
        let threads = threads.collect();
        Self { done, stop, threads }
    }

    /// What has ended so far.
    pub(super) fn so_far(&self) -> Vec<Done> {
        held(&self.done).clone()
    }

    /// Ends it; all that came of it, in the order in which it began.
    pub(super) fn end(self) -> Vec<Done> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.thread().unpark();
            let _ = thread.join();
        }
        let mut done = std::mem::take(&mut *held(&self.done));
        done.sort_by_key(|one| one.began_ns);
        done
    }
}

/// Waits for a moment, or for the end of the load.
fn until(at_ns: u64, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        match at_ns.saturating_sub(now_ns()) {
            0 => return,
            left_ns => thread::park_timeout(Duration::from_nanos(left_ns)),
        }
    }
}

/// One chat completion, under a name of its own.
pub(super) fn ask(gateway: SocketAddr, model: &str, name: &str, stream: bool) -> Done {
    let began_ns = now_ns();
    let mut first_ns = 0;
    let answer = exchange(gateway, model, name, stream, &mut first_ns);
    let took_ns = now_ns() - began_ns;
    let text = answer.as_deref().unwrap_or_default();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
    let field = |name: &str| {
        let mut lines = head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value)
    };
    let end = match (&answer, head.starts_with("HTTP/1.1 200 ")) {
        (Err(error), _) => End::Failed(error.clone()),
        (Ok(_), true) if stream && body.contains("data: [DONE]") && body.ends_with("0\r\n\r\n") => End::Whole,
        (Ok(_), true) if stream && body.contains("data: {\"error\":") && !body.contains("[DONE]") => End::Cut,
        (Ok(_), true) if !stream && body.ends_with('}') => End::Whole,
        _ => End::Failed(text.lines().next().unwrap_or("no answer").to_owned()),
    };
    let attempts = field("x-ringway-attempts").parse().unwrap_or(0);
    let provider = match field("x-ringway-provider") {
        "-" => String::new(),
        provider => provider.to_owned(),
    };
    Done { began_ns, took_ns, name: name.to_owned(), first_ns, end, attempts, provider }
}

fn exchange(
    gateway: SocketAddr,
    model: &str,
    name: &str,
    stream: bool,
    first_ns: &mut u64,
) -> Result<String, String> {
    let body = format!(
        r#"{{"model":"{model}","user":"{name}","messages":[{{"role":"user","content":"Say hello."}}],"stream":{stream}}}"#
    );
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let said = |error: std::io::Error| error.to_string();
    let mut connection = TcpStream::connect(gateway).map_err(said)?;
    connection.set_read_timeout(Some(PATIENCE)).map_err(said)?;
    connection.write_all(request.as_bytes()).map_err(said)?;
    let mut answer = Vec::new();
    let mut first = [0; 1];
    if connection.read(&mut first).map_err(said)? == 1 {
        *first_ns = now_ns();
        answer.extend(first);
    }
    connection.read_to_end(&mut answer).map_err(said)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn held<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}
