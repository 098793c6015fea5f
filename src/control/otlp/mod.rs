//! Telemetry for an OpenTelemetry collector: a thread that takes records and sampled exchanges from the log thread, makes spans
//! of these, and reads the figures each interval. A collector that is slow, full or gone costs telemetry, which is counted, and
//! nobody else anything.

mod feed;
mod figures;
mod page;
mod post;
mod records;
mod spans;
mod words;

use std::{
    io,
    sync::{
        Arc,
        mpsc::{self, Receiver, RecvTimeoutError},
    },
    thread::JoinHandle,
    time::Duration,
};

use prost::Message;
use rustls::ClientConfig;

pub use self::{feed::Feed, post::Signal, records::add as add_record};
use self::{
    feed::{Batch, Line, Records, Trough},
    post::{Collector, NotTaken},
    records::Preamble,
};
use crate::{
    base::{
        limits::{OTLP_BACKOFF, OTLP_BACKOFF_MAX, OTLP_TRIES_MAX},
        now::Now,
    },
    bridge::{bulletin::Bulletin, tally::Tally},
    config::{Otlp, Snapshot},
    control::{Clock, access_log::render::Words, log::Log, standing::Reloads, state::unix_ms},
};

/// What was sent and what was not: data points, spans, records; in the order of [`Signal::ALL`].
pub type Tallies = [Tally; 3];

/// What the thread works with.
pub struct Task {
    pub settings: Arc<Otlp>,
    /// For an endpoint that begins with https.
    pub tls: Option<Arc<ClientConfig>>,
    /// The page of `/metrics` as it is now.
    pub page: Box<dyn Fn() -> String + Send>,
    pub names: Arc<Reloads>,
    pub snapshots: Arc<Bulletin<Snapshot>>,
    pub tallies: Arc<Tallies>,
    pub clock: Clock,
}

/// The thread that sends.
pub struct OtlpThread {
    feed: Option<Feed>,
    stop: mpsc::Sender<()>,
    ended: Receiver<()>,
    thread: JoinHandle<()>,
}

impl OtlpThread {
    pub fn start(task: Task, log: Log) -> io::Result<Self> {
        let preamble = Preamble::new(&words::resource(&task.settings));
        let (feed, trough) = feed::pair(task.settings.signals, preamble.room(), task.tallies.clone());
        let (stop, stopped) = mpsc::channel();
        let (end, ended) = mpsc::channel();
        let thread = std::thread::Builder::new().name("rw-otlp".to_owned()).spawn(move || {
            Exporter::new(task, log, preamble, trough).run(&stopped);
            // Nobody waits any more if the end took too long.
            let _ = end.send(());
        })?;
        Ok(Self { feed: Some(feed), stop, ended, thread })
    }

    /// For the log thread; `None` where neither spans nor records are made.
    pub fn feed(&self) -> Option<Feed> {
        self.feed.clone().filter(Feed::is_wanted)
    }

    /// Sends what is left, after the log thread has ended. False if that takes longer than `patience`.
    pub fn stop(mut self, patience: Duration) -> bool {
        self.feed = None;
        drop(self.stop);
        let in_time = self.ended.recv_timeout(patience).is_ok();
        if in_time {
            let _ = self.thread.join();
        }
        in_time
    }
}

/// A request that was not taken yet.
struct Unsent {
    signal: Signal,
    body: Vec<u8>,
    /// Where in the body the request begins.
    begin: usize,
    count: u64,
    tries: u32,
}

struct Exporter {
    task: Task,
    collector: Collector,
    log: Log,
    started_unix_ns: u64,
    preamble: Preamble,
    trough: Trough,
    unsent: Vec<Unsent>,
    /// The operator knows that nothing is taken.
    is_told: bool,
}

impl Exporter {
    fn new(mut task: Task, log: Log, preamble: Preamble, trough: Trough) -> Self {
        let collector = Collector::new(task.settings.clone(), task.tls.take());
        let started_unix_ns = unix_ms().saturating_mul(1_000_000);
        let unsent = Vec::new();
        Self { task, collector, log, started_unix_ns, preamble, trough, unsent, is_told: false }
    }

    fn run(&mut self, stopped: &Receiver<()>) {
        let interval = self.task.settings.interval;
        let mut due = self.now() + interval;
        let mut retry_at = None;
        loop {
            let wake = retry_at.map_or(due, |at: Now| at.min(due));
            let patience = wake.since(self.now());
            // While something is unsent nothing is taken: the trough fills, and what does not fit there is counted.
            let is_over = if self.unsent.is_empty() {
                self.trough.wait(patience).is_err()
            } else {
                stopped.recv_timeout(patience) == Err(RecvTimeoutError::Disconnected)
            };
            if is_over {
                break;
            }
            let is_due = self.now() >= due;
            if is_due {
                self.collector.look_up_again();
            }
            if retry_at.is_some_and(|at| self.now() >= at) {
                retry_at = self.try_again().map(|after| self.now() + after);
            }
            if self.unsent.is_empty() && (is_due || self.trough.has_batch()) {
                let batch = self.trough.take(is_due);
                retry_at = self.send_batch(batch).map(|after| self.now() + after);
            }
            if is_due {
                self.send_metrics();
                due = self.now() + interval;
            }
        }
        self.end();
    }

    /// One try for each thing that is left; a process that ends waits for nobody.
    fn end(&mut self) {
        self.try_again();
        loop {
            let batch = self.trough.take(true);
            if batch.is_empty() {
                break;
            }
            self.send_batch(batch);
        }
        self.send_metrics();
        for unsent in std::mem::take(&mut self.unsent) {
            self.tally(unsent.signal).count_dropped(unsent.count);
        }
    }

    /// Sends what was not taken before. How long to wait if it is not taken now either.
    fn try_again(&mut self) -> Option<Duration> {
        let mut after = None;
        for unsent in std::mem::take(&mut self.unsent) {
            after = after.max(self.send(unsent));
        }
        self.backoff(after)
    }

    /// How long to wait until what is unsent is tried again.
    fn backoff(&self, asked: Option<Duration>) -> Option<Duration> {
        let tries = self.unsent.iter().map(|unsent| unsent.tries).max()?;
        let doubled = OTLP_BACKOFF.saturating_mul(1 << (tries.min(16).saturating_sub(1)));
        Some(asked.unwrap_or(doubled).min(OTLP_BACKOFF_MAX))
    }

    /// Makes spans, and sends them and the records. How long to wait if something was not taken.
    fn send_batch(&mut self, Batch { sampled, records }: Batch) -> Option<Duration> {
        // Asked for after the exchanges were taken: their providers are enrolled by then.
        let (roll, snapshot) = (self.task.names.roll(), self.task.snapshots.current());
        let rules = snapshot.as_ref().map(|snapshot| snapshot.masking.clone()).unwrap_or_default();
        // Encoded exchange by exchange: as objects they are twenty times as large, and all of a request's fit no cache.
        let (mut spans, mut body, mut count) = (Vec::new(), vec![0; self.preamble.room()], 0);
        for Line { core, logged } in &sampled {
            let words = Words::new(*core, &roll, &rules);
            spans::add(logged, &words, snapshot.as_deref(), &mut spans);
            count += spans.len() as u64;
            spans.drain(..).for_each(|span| records::put_span(&span, &mut body));
        }
        drop(sampled);
        let mut after = None;
        if count > 0 {
            let (signal, begin) = (Signal::Traces, self.preamble.put(&mut body));
            after = self.send(Unsent { signal, body, begin, count, tries: 0 });
        }
        if let Some(Records { mut body, count }) = records {
            let begin = self.preamble.put(&mut body);
            let (signal, count) = (Signal::Logs, count as u64);
            after = after.max(self.send(Unsent { signal, body, begin, count, tries: 0 }));
        }
        self.backoff(after)
    }

    /// What is not taken is not kept: the next one says as much, and more.
    fn send_metrics(&mut self) {
        if !self.task.settings.signals.metrics {
            return;
        }
        let page = (self.task.page)();
        let span = figures::Span {
            from_unix_ns: self.started_unix_ns,
            to_unix_ns: unix_ms().saturating_mul(1_000_000),
        };
        let resource = words::resource(&self.task.settings);
        let (request, count) = figures::request(resource, &page, span);
        let (signal, body, tries) = (Signal::Metrics, request.encode_to_vec(), OTLP_TRIES_MAX);
        self.send(Unsent { signal, body, begin: 0, count, tries });
    }

    /// Sends one request; keeps it if it may be taken later, and returns how much later if the collector says so.
    fn send(&mut self, unsent: Unsent) -> Option<Duration> {
        let tallies = self.task.tallies.clone();
        let tally = &tallies[unsent.signal as usize];
        match self.collector.post(unsent.signal, &unsent.body[unsent.begin..]) {
            Ok(rejected) => {
                let rejected = rejected.min(unsent.count);
                tally.count_written(unsent.count - rejected);
                tally.count_dropped(rejected);
                if std::mem::take(&mut self.is_told) {
                    self.log.info(format_args!("telemetry is taken again"));
                }
                if unsent.signal == Signal::Logs {
                    self.trough.give_back(unsent.body);
                }
                None
            }
            Err(NotTaken::Later { after, why }) if unsent.tries + 1 < OTLP_TRIES_MAX => {
                self.tell(unsent.signal, &why);
                self.unsent.push(Unsent { tries: unsent.tries + 1, ..unsent });
                after
            }
            Err(NotTaken::Later { why, .. } | NotTaken::Never { why }) => {
                tally.count_dropped(unsent.count);
                self.tell(unsent.signal, &why);
                None
            }
        }
    }

    fn tell(&mut self, signal: Signal, why: &str) {
        if !std::mem::replace(&mut self.is_told, true) {
            let endpoint = &self.task.settings.endpoint;
            let signal = signal.name();
            self.log.warning(format_args!(
                "{endpoint} does not take {signal}: {why}; what is given up is counted"
            ));
        }
    }

    fn tally(&self, signal: Signal) -> &Tally {
        &self.task.tallies[signal as usize]
    }

    fn now(&self) -> Now {
        (self.task.clock)()
    }
}

#[cfg(test)]
mod tests;
