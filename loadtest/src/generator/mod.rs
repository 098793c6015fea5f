//! The load generator: open and closed loop, one pinned thread per core, latency from the planned moment.
//!
//! In an open loop the plan goes on whatever the system under test does, and new connections are opened when
//! none is free: slowness shows as latency, it does not thin out the load (no coordinated omission).

mod client;
pub mod plan;
mod reply;
pub mod report;
mod timer;

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::poll_fn,
    io,
    net::SocketAddr,
    rc::Rc,
    task::{Poll, Waker},
    thread,
    time::Duration,
};

use bytes::Bytes;
use serde_json::json;

use self::{
    client::{Client, Fault, Handle, Received},
    plan::{Pace, Schedule, Slo},
    report::{Report, Tally},
    timer::Timer,
};
use crate::{
    clock::now_ns,
    runtime::{block_on, pin_to, shut_down, spawn_guarded},
};

/// A run to be made.
#[derive(Clone, Debug)]
pub struct Options {
    /// `http://ADDR:PORT/v1`; an address, not a name.
    pub url: String,
    pub endpoint: String,
    pub model: String,
    pub stream: bool,
    pub include_usage: bool,
    pub headers: Vec<(String, String)>,
    /// One more for each connection, in turn.
    pub headers_each: Vec<(String, String)>,
    /// Bytes of the user's message.
    pub message_bytes: usize,
    pub pace: Pace,
    /// Connections: all of a closed loop, those opened beforehand of an open one.
    pub connections: usize,
    /// Most connections of an open loop.
    pub connections_max: usize,
    pub duration: Duration,
    pub requests: Option<u64>,
    pub warmup: Duration,
    /// Over which the connections of a closed loop begin.
    pub ramp: Duration,
    /// How long an open loop waits for what it has sent.
    pub grace: Duration,
    pub cores: Vec<usize>,
    pub slo: Option<Slo>,
    pub seed: u64,
}

impl Options {
    /// Ten seconds of a closed loop over one connection.
    pub fn to(url: &str, model: &str) -> Self {
        Self {
            url: url.to_owned(),
            endpoint: "/chat/completions".to_owned(),
            model: model.to_owned(),
            stream: false,
            include_usage: false,
            headers: Vec::new(),
            headers_each: Vec::new(),
            message_bytes: 100,
            pace: Pace::Closed,
            connections: 1,
            connections_max: 10_000,
            duration: Duration::from_secs(10),
            requests: None,
            warmup: Duration::ZERO,
            ramp: Duration::ZERO,
            grace: Duration::from_secs(5),
            cores: Vec::new(),
            slo: None,
            seed: 1,
        }
    }

    /// Whom to ask, and the requests that connections send in turn.
    fn target(&self) -> io::Result<(SocketAddr, Vec<Bytes>)> {
        let wrong = || {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("`{}` is not http://ADDRESS:PORT/PATH", self.url),
            )
        };
        let rest = self.url.strip_prefix("http://").ok_or_else(wrong)?;
        let (host, prefix) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
        // A name would have to be resolved; a load test should say which machine it means.
        let addr = host.replace("localhost", "127.0.0.1").parse().map_err(|_| wrong())?;
        let path = format!("{}{}", prefix.trim_end_matches('/'), self.endpoint);
        let content = "x".repeat(self.message_bytes);
        let mut body = match self.endpoint.as_str() {
            "/chat/completions" => json!({"messages": [{"role": "user", "content": content}]}),
            "/completions" => json!({"prompt": content}),
            _ => json!({"input": content}),
        };
        body["model"] = self.model.as_str().into();
        if self.stream {
            body["stream"] = true.into();
        }
        if self.include_usage {
            body["stream_options"] = json!({"include_usage": true});
        }
        let body = body.to_string();
        let mut head = format!("POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n");
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        let end = format!("content-length: {}\r\n\r\n{body}", body.len());
        let mut requests: Vec<Bytes> = self
            .headers_each
            .iter()
            .map(|(name, value)| format!("{head}{name}: {value}\r\n{end}").into())
            .collect();
        if requests.is_empty() {
            requests.push((head + &end).into());
        }
        Ok((addr, requests))
    }
}

/// Makes a run; returns when it is over.
pub fn run(options: &Options) -> io::Result<Report> {
    let (addr, requests) = options.target()?;
    let threads = options.cores.len().max(1);
    let started_ns = now_ns();
    let handles = (0..threads).map(|index| {
        let (options, texts) = (options.clone(), requests.clone());
        thread::Builder::new().name(format!("load-{index}")).spawn(move || {
            if let Some(core) = options.cores.get(index) {
                pin_to(*core)?;
            }
            let share = Share {
                addr,
                texts,
                first_text: index,
                text_step: threads,
                connections: part(options.connections, index, threads).max(1),
                connections_max: part(options.connections_max, index, threads).max(1),
                requests: options
                    .requests
                    .map(|all| part(usize::try_from(all).unwrap_or(usize::MAX), index, threads)),
                schedule: Schedule::share(options.pace, index, threads, options.seed),
                warm_ns: started_ns + ns(options.warmup),
                end_ns: started_ns + ns(options.warmup) + ns(options.duration),
                options,
            };
            io::Result::Ok(block_on(share.work()))
        })
    });
    let mut tally = Tally::new();
    let mut ended_ns = 0;
    for handle in handles.collect::<io::Result<Vec<_>>>()? {
        let (theirs, their_end_ns) = handle.join().map_err(|_| io::Error::other("a thread panicked"))??;
        tally.add(&theirs);
        ended_ns = ended_ns.max(their_end_ns);
    }
    let warm_ns = started_ns + ns(options.warmup);
    let measured_secs = (ended_ns.saturating_sub(warm_ns).max(1)) as f64 / 1e9;
    Ok(Report { tally, options: options.clone(), measured_secs })
}

fn part(all: usize, index: usize, parts: usize) -> usize {
    all / parts + usize::from(index < all % parts)
}

fn ns(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX / 4)
}

/// What one thread does of a run.
struct Share {
    options: Options,
    addr: SocketAddr,
    /// What connections send, in turn: this thread's `n`th the one at `first_text + n * text_step`.
    texts: Vec<Bytes>,
    first_text: usize,
    text_step: usize,
    connections: usize,
    connections_max: usize,
    requests: Option<usize>,
    schedule: Option<Schedule>,
    warm_ns: u64,
    end_ns: u64,
}

/// What the tasks of one thread share.
struct Bench {
    share: Share,
    tally: RefCell<Tally>,
    jobs: RefCell<Jobs>,
    handles: RefCell<Vec<Handle>>,
    stopping: Cell<bool>,
    /// Requests yet to be begun, if they are counted.
    left: Cell<Option<usize>>,
    working: Cell<usize>,
    connecting: Cell<usize>,
    in_flight: Cell<usize>,
}

#[derive(Default)]
struct Jobs {
    planned: VecDeque<Job>,
    waiting: VecDeque<Waker>,
}

#[derive(Clone, Copy)]
struct Job {
    planned_ns: u64,
    /// A connection was free for it.
    direct: bool,
}

/// Connections being opened at once by an open loop that finds none free. Opening costs more than a request: if
/// each late request opened one, a moment's delay would grow into a collapse that is the generator's own.
const CONNECTING_MAX: usize = 16;

/// How often the end of a run is looked for; ends are not measured, so milliseconds do.
const TICK: Duration = Duration::from_millis(2);

impl Share {
    fn text_of(&self, connection: usize) -> Bytes {
        self.texts[(self.first_text + connection * self.text_step) % self.texts.len()].clone()
    }

    async fn work(mut self) -> (Tally, u64) {
        let schedule = self.schedule.take();
        let left = self.requests;
        let bench = Rc::new(Bench {
            share: self,
            tally: RefCell::new(Tally::new()),
            jobs: RefCell::default(),
            handles: RefCell::default(),
            stopping: Cell::new(false),
            left: Cell::new(left),
            working: Cell::new(0),
            connecting: Cell::new(0),
            in_flight: Cell::new(0),
        });
        let connections = bench.share.connections;
        for index in 0..connections {
            let nth = u32::try_from(index).unwrap_or(u32::MAX);
            let late = bench.share.options.ramp * nth / u32::try_from(connections).unwrap_or(u32::MAX);
            bench.spawn(schedule.is_some(), late);
        }
        match schedule {
            Some(schedule) => bench.dispatch(schedule).await,
            None => {
                while now_ns() < bench.share.end_ns && bench.working.get() > 0 {
                    monoio::time::sleep(TICK).await;
                }
            }
        }
        let ended_ns = now_ns().min(bench.share.end_ns);
        bench.stop().await;
        let tally = std::mem::take(&mut *bench.tally.borrow_mut());
        (tally, ended_ns)
    }
}

impl Bench {
    fn spawn(self: &Rc<Self>, open_loop: bool, late: Duration) {
        let bench = Rc::clone(self);
        self.working.set(self.working.get() + 1);
        spawn_guarded(async move {
            let working = Working(Rc::clone(&bench));
            let mut client = Client::new(bench.share.addr);
            let text = bench.share.text_of(bench.handles.borrow().len());
            bench.handles.borrow_mut().push(Rc::clone(&client.handle));
            if open_loop {
                // A failure here will show when the connection is used.
                bench.connecting.set(bench.connecting.get() + 1);
                let _ = client.open().await;
                bench.connecting.set(bench.connecting.get() - 1);
            } else if late > Duration::ZERO {
                monoio::time::sleep(late).await;
            }
            while let Some(job) = if open_loop { bench.next_job().await } else { bench.next_in_turn() } {
                bench.exchange(&mut client, &text, job).await;
            }
            drop(working);
        });
    }

    /// The plan goes on, whatever becomes of what was sent.
    async fn dispatch(self: &Rc<Self>, schedule: Schedule) {
        let timer = Timer::new();
        // The plan begins when the connections are there (or cannot be had).
        let patience_ns = now_ns() + ns(Duration::from_secs(1));
        while now_ns() < patience_ns && self.jobs.borrow().waiting.len() < self.share.connections {
            monoio::time::sleep(TICK).await;
        }
        let start_ns = now_ns();
        for offset_ns in schedule {
            let planned_ns = start_ns + offset_ns;
            if planned_ns >= self.share.end_ns || !self.take_turn() {
                break;
            }
            timer.until(planned_ns).await;
            let mut jobs = self.jobs.borrow_mut();
            let direct = !jobs.waiting.is_empty();
            jobs.planned.push_back(Job { planned_ns, direct });
            if let Some(waker) = jobs.waiting.pop_front() {
                waker.wake();
            } else {
                let wanted = jobs.planned.len() > self.connecting.get();
                let room = self.working.get() < self.share.connections_max;
                drop(jobs);
                if wanted && room && self.connecting.get() < CONNECTING_MAX {
                    self.spawn(true, Duration::ZERO);
                }
            }
        }
        let grace_ns = now_ns() + ns(self.share.options.grace);
        while now_ns() < grace_ns && (self.in_flight.get() > 0 || !self.jobs.borrow().planned.is_empty()) {
            monoio::time::sleep(TICK).await;
        }
        let unfinished = self.in_flight.get() + self.jobs.borrow().planned.len();
        for _ in 0..unfinished {
            self.tally.borrow_mut().error("unfinished");
        }
    }

    async fn next_job(&self) -> Option<Job> {
        poll_fn(|context| {
            if self.stopping.get() {
                return Poll::Ready(None);
            }
            let mut jobs = self.jobs.borrow_mut();
            match jobs.planned.pop_front() {
                Some(job) => Poll::Ready(Some(job)),
                None => {
                    jobs.waiting.push_back(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    fn next_in_turn(&self) -> Option<Job> {
        let now_ns = now_ns();
        let over = self.stopping.get() || now_ns >= self.share.end_ns || !self.take_turn();
        (!over).then_some(Job { planned_ns: now_ns, direct: false })
    }

    fn take_turn(&self) -> bool {
        match self.left.get() {
            Some(0) => false,
            Some(left) => {
                self.left.set(Some(left - 1));
                true
            }
            None => true,
        }
    }

    async fn exchange(&self, client: &mut Client, request: &Bytes, job: Job) {
        let warm = |at_ns: u64| at_ns >= self.share.warm_ns;
        {
            let mut tally = self.tally.borrow_mut();
            if job.direct && warm(job.planned_ns) {
                tally.lag.saturating_record(now_ns().saturating_sub(job.planned_ns));
            }
            tally.waited += u64::from(!job.direct && self.share.options.pace != Pace::Closed);
        }
        self.in_flight.set(self.in_flight.get() + 1);
        let mut last_event_ns = 0;
        let received = client.exchange(request, |at_ns, arrived| {
            let mut tally = self.tally.borrow_mut();
            tally.all_events += arrived.events;
            if arrived.events > 0 {
                if warm(at_ns) {
                    tally.events += arrived.events;
                    tally.body_bytes += arrived.body_bytes as u64;
                    for index in 0..arrived.events {
                        // Events that came in one read have no gap between them, and that is what a user sees.
                        let gap_ns = if index == 0 { at_ns.saturating_sub(last_event_ns) } else { 0 };
                        if last_event_ns > 0 || index > 0 {
                            tally.gap.saturating_record(gap_ns);
                        }
                    }
                    for stamp_ns in &arrived.stamps_ns {
                        tally.delivery.saturating_record(at_ns.saturating_sub(*stamp_ns));
                    }
                }
                last_event_ns = at_ns;
            }
        });
        let received = received.await;
        self.in_flight.set(self.in_flight.get() - 1);
        let refused = matches!(received, Err("connect"));
        self.record(job, received);
        if refused && !self.stopping.get() {
            monoio::time::sleep(TICK).await;
        }
    }

    fn record(&self, job: Job, received: Result<Received, Fault>) {
        let warm = job.planned_ns >= self.share.warm_ns;
        let mut tally = self.tally.borrow_mut();
        let received = match received {
            // Our own end of the run, not theirs.
            Err(_) if self.stopping.get() => return,
            Err(fault) if warm => return tally.error(fault),
            Err(_) => return,
            Ok(received) => received,
        };
        tally.all_requests += 1;
        if !warm {
            return;
        }
        if received.status != 200 {
            return tally.error(&format!("http_{}", received.status));
        }
        if received.errors_in_stream > 0 {
            return tally.error("error_event");
        }
        let since_planned = |at_ns: u64| at_ns.saturating_sub(job.planned_ns);
        let (ttft_ns, e2e_ns) = (since_planned(received.first_ns), since_planned(received.last_ns));
        tally.ok += 1;
        tally.ttft.saturating_record(ttft_ns);
        tally.e2e.saturating_record(e2e_ns);
        tally.service.saturating_record(received.last_ns.saturating_sub(received.sent_ns));
        let kept = self.share.options.slo.is_none_or(|slo| slo.kept(ttft_ns, e2e_ns, received.events));
        tally.good += u64::from(kept);
    }

    /// Ends every connection by shutting it down: reads in flight return by themselves, none is dropped.
    async fn stop(&self) {
        self.stopping.set(true);
        for handle in self.handles.borrow().iter().filter(|handle| handle.get() >= 0) {
            shut_down(handle.get());
        }
        let waiting = std::mem::take(&mut self.jobs.borrow_mut().waiting);
        waiting.into_iter().for_each(Waker::wake);
        let patience_ns = now_ns() + 2_000_000_000;
        while self.working.get() > 0 && now_ns() < patience_ns {
            monoio::time::sleep(TICK).await;
        }
    }
}

/// Counts a worker out, however it ends.
struct Working(Rc<Bench>);

impl Drop for Working {
    fn drop(&mut self) {
        self.0.working.set(self.0.working.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;

    #[test]
    fn parts_add_up_to_the_whole() {
        for (all, parts) in [(0, 1), (64, 3), (2, 4), (10, 10)] {
            assert_eq!((0..parts).map(|index| part(all, index, parts)).sum::<usize>(), all);
        }
    }

    #[test]
    fn the_request_names_its_host_path_and_length() {
        let options =
            Options { message_bytes: 3, stream: true, ..Options::to("http://127.0.0.1:80/v1/", "m") };
        let (addr, requests) = options.target().unwrap_or_else(|e| panic!("{e}"));
        let [request] = &requests[..] else { panic!("{}", requests.len()) };
        assert_eq!(addr.port(), 80);
        let text = String::from_utf8_lossy(request).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_default();
        assert!(head.starts_with("POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:80\r\n"));
        assert!(head.ends_with(&format!("content-length: {}", body.len())));
        assert_eq!(body, r#"{"messages":[{"content":"xxx","role":"user"}],"model":"m","stream":true}"#);
        assert!(Options::to("https://127.0.0.1:1/v1", "m").target().is_err());
        assert!(Options::to("http://example/v1", "m").target().is_err());
    }

    #[test]
    fn each_connection_sends_one_of_the_headers_in_turn() {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let provider = crate::provider::start(&crate::provider::Options::on(listen));
        let provider = provider.unwrap_or_else(|e| panic!("{e}"));
        let each = |value: &str| ("x-who".to_owned(), value.to_owned());
        let options = Options {
            connections: 4,
            cores: vec![0, 0],
            requests: Some(40),
            headers_each: vec![each("a"), each("b"), each("c")],
            ..Options::to(&format!("http://{}/v1", provider.addr), "sim")
        };
        let report = run(&options).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(report.tally.ok, 40, "{:?}", report.tally.errors);
        let mut sent = HashMap::<_, HashSet<_>>::new();
        for entry in provider.log.entries_kept() {
            sent.entry(entry.connection).or_default().insert(entry.header("x-who").map(str::to_owned));
        }
        assert!(sent.values().all(|headers| headers.len() == 1), "one each: {sent:?}");
        let mut sent: Vec<_> = sent.into_values().flatten().flatten().collect();
        sent.sort();
        assert_eq!(sent, ["a", "a", "b", "c"]);
    }

    #[test]
    fn a_closed_loop_counts_what_the_provider_answered() {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let provider = crate::provider::start(&crate::provider::Options::on(listen));
        let provider = provider.unwrap_or_else(|e| panic!("{e}"));
        let options = Options {
            connections: 4,
            requests: Some(50),
            stream: true,
            ..Options::to(&format!("http://{}/v1", provider.addr), "sim,events=5,stamp")
        };
        let report = run(&options).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((report.tally.ok, report.tally.all_requests), (50, 50), "{:?}", report.tally.errors);
        // Five of content and one with the finish reason.
        assert_eq!((report.tally.events, report.tally.delivery.len()), (300, 300));
        assert_eq!(provider.log.requests(), 50);
    }

    #[test]
    fn an_open_loop_sends_what_was_planned_and_names_its_errors() {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let provider = crate::provider::start(&crate::provider::Options::on(listen));
        let provider = provider.unwrap_or_else(|e| panic!("{e}"));
        let url = format!("http://{}/v1", provider.addr);
        let options = Options { pace: Pace::Constant(500.0), requests: Some(50), ..Options::to(&url, "sim") };
        let report = run(&options).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(report.tally.ok, 50, "{:?}", report.tally.errors);
        let failing = Options { requests: Some(7), ..Options::to(&url, "sim,status=503") };
        let report = run(&failing).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(report.tally.errors.get("http_503"), Some(&7));
    }
}
