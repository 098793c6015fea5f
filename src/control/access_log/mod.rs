//! The log thread: takes the lines that cores have left, renders them and writes them. Whatever it writes to may be slow,
//! stuck, full or gone: that costs lines, which are counted, and no core anything.

pub(super) mod render;
mod sink;
mod text;

use std::{
    io,
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError},
    },
    thread::JoinHandle,
    time::Duration,
};

pub(in crate::control) use self::render::is_unfit;
use self::{render::Words, sink::Sink};
use crate::{
    base::limits::LOG_FLUSH_TIME,
    bridge::{
        bulletin::Bulletin,
        logpipe::{self, LogPipe},
        tally::Tally,
    },
    config::{LogFormat, LogTarget, Snapshot},
    control::{
        log::Log,
        log_store::{Keeper, Spoken},
        otlp::Feed,
        standing::Reloads,
    },
    ledger::logged::Logged,
    wire::mask::Rules,
};

/// The log thread.
pub struct AccessLogThread {
    tell: mpsc::Sender<Word>,
    ended: mpsc::Receiver<()>,
    thread: JoinHandle<()>,
}

/// What the thread is told.
enum Word {
    Reopen,
    End,
}

/// Asks the log thread to open its file again. Cheap to clone.
#[derive(Clone)]
pub struct Reopen(mpsc::Sender<Word>);

impl AccessLogThread {
    /// `interval` is [`LOG_INTERVAL`](crate::base::limits::LOG_INTERVAL) but in tests.
    pub fn start(task: Task, interval: Duration, log: Log) -> io::Result<Self> {
        let (tell, told) = mpsc::channel();
        let (end, ended) = mpsc::channel();
        let thread = std::thread::Builder::new().name("rw-access-log".to_owned()).spawn(move || {
            let mut writer = Writer::new(task, log);
            let mut lines = logpipe::room();
            loop {
                let word = told.recv_timeout(interval);
                writer.write_all(&mut lines);
                match word {
                    Err(RecvTimeoutError::Timeout) => {}
                    // After the lines that were there before the word: a file that was moved away gets what is its own.
                    Ok(Word::Reopen) => writer.reopen(),
                    Ok(Word::End) | Err(RecvTimeoutError::Disconnected) => break,
                }
            }
            writer.end();
            // Nobody waits any more if the end took too long.
            let _ = end.send(());
        })?;
        Ok(Self { tell, ended, thread })
    }

    pub fn reopener(&self) -> Reopen {
        Reopen(self.tell.clone())
    }

    /// Writes what the cores have left, after they have ended. False if that takes longer than `patience`: the sink is
    /// stuck, and the thread is left to itself.
    pub fn stop(self, patience: Duration) -> bool {
        let _ = self.tell.send(Word::End);
        let in_time = self.ended.recv_timeout(patience).is_ok();
        if in_time {
            let _ = self.thread.join();
        }
        in_time
    }
}

impl Reopen {
    pub fn reopen(&self) {
        // A thread that has ended has no file.
        let _ = self.0.send(Word::Reopen);
    }
}

/// What the log thread has to do.
pub struct Task {
    pub format: LogFormat,
    /// `None`: no access log is written.
    pub target: Option<LogTarget>,
    /// Who keeps what is to be kept besides.
    pub keeper: Option<Keeper>,
    /// Who wants the exchanges besides.
    pub feed: Option<Feed>,
    /// One for each core, and perhaps one for each core's lines that come by way of the estimator.
    pub pipes: Arc<[LogPipe]>,
    pub cores: usize,
    /// Of the lines that reach their target, or do not.
    pub tally: Arc<Tally>,
    pub names: Arc<Reloads>,
    pub snapshots: Arc<Bulletin<Snapshot>>,
}

struct Writer {
    task: Task,
    sink: Option<Sink>,
    text: Vec<u8>,
    /// Lines in `text`.
    rendered: u64,
}

/// Text of so many bytes is written at once, whatever else waits.
const WRITE_BYTES: usize = 256 << 10;

impl Writer {
    fn new(mut task: Task, log: Log) -> Self {
        let sink = task.target.take().map(|target| Sink::new(target, log));
        Self { task, sink, text: Vec::new(), rendered: 0 }
    }

    /// Writes all that waits, pipe by pipe.
    fn write_all(&mut self, lines: &mut Vec<Logged>) {
        let pipes = self.task.pipes.clone();
        // Asked for once there is a line, and not before it was taken: its provider is enrolled by then.
        let mut known = None;
        for (place, pipe) in pipes.iter().enumerate() {
            let core = place % self.task.cores.max(1);
            pipe.swap(lines);
            if lines.is_empty() {
                continue;
            }
            let (roll, (rules, payload_bytes_max)) =
                known.get_or_insert_with(|| (self.task.names.roll(), self.rules()));
            let words = Words { core, roll, rules };
            for mut line in lines.drain(..) {
                let payload = line.payload.take();
                if let Some(keeper) = self.task.keeper.as_ref().filter(|_| line.is_kept()) {
                    let (rules, bytes_max) = (rules.clone(), *payload_bytes_max);
                    let spoken = payload.map(|payload| Spoken { payload, rules, bytes_max });
                    keeper.keep(render::row(&line, &words), spoken);
                }
                if self.sink.is_some() {
                    render::line(self.task.format, &line, &words, &mut self.text);
                    self.rendered += 1;
                }
                if let Some(feed) = &self.task.feed {
                    feed.offer(core, line);
                }
                if self.text.len() >= WRITE_BYTES {
                    self.flush();
                }
            }
        }
        self.flush();
    }

    /// What must not be shown now, and how much of a payload is kept.
    fn rules(&self) -> (Arc<Rules>, usize) {
        let Some(snapshot) = self.task.snapshots.current() else { return Default::default() };
        let kept = snapshot.kept_logs.as_ref();
        (snapshot.masking.clone(), kept.map_or(0, |kept| kept.payload_bytes_max))
    }

    fn flush(&mut self) {
        let (Some(sink), 1..) = (&mut self.sink, self.rendered) else { return };
        let lines = std::mem::take(&mut self.rendered);
        match sink.write(&self.text) {
            Ok(()) => self.task.tally.count_written(lines),
            Err(sink::Lost) => self.task.tally.count_dropped(lines),
        }
        self.text.clear();
    }

    fn reopen(&mut self) {
        if let Some(sink) = &mut self.sink {
            sink.reopen();
        }
    }

    fn end(self) {
        if let Some(keeper) = self.task.keeper {
            keeper.stop(LOG_FLUSH_TIME);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{base::limits::LOG_LINES_WAITING_MAX, bridge::logpipe::tests::numbered};

    const NEVER: Duration = Duration::from_secs(3600);
    const PATIENCE: Duration = Duration::from_secs(20);

    fn start(target: LogTarget, pipes: &Arc<[LogPipe]>) -> (AccessLogThread, Arc<Tally>) {
        let tally = Arc::new(Tally::default());
        let task = Task {
            format: LogFormat::Logfmt,
            target: Some(target),
            keeper: None,
            feed: None,
            pipes: pipes.clone(),
            cores: pipes.len(),
            tally: tally.clone(),
            names: Arc::default(),
            snapshots: Arc::new(Bulletin::new(1)),
        };
        let thread = AccessLogThread::start(task, NEVER, Log::to(io::sink(), false));
        (thread.expect("a thread"), tally)
    }

    fn pipes() -> Arc<[LogPipe]> {
        [LogPipe::new(), LogPipe::new()].into()
    }

    #[test]
    fn what_is_left_last_is_written_before_the_end() {
        let file = std::env::temp_dir().join(format!("ringway-access-{}-last", std::process::id()));
        let _ = fs::remove_file(&file);
        let pipes = pipes();
        let (thread, tally) = start(LogTarget::File(file.clone()), &pipes);
        for number in 0..5 {
            pipes[usize::from(number % 2 == 0)].push(numbered(number));
        }
        assert!(thread.stop(PATIENCE));
        let text = fs::read_to_string(&file).expect("it was made");
        fs::remove_file(&file).expect("it is there");
        assert_eq!((text.lines().count(), tally.written(), tally.dropped()), (5, 5, 0));
        assert!(text.ends_with('\n'));
    }

    #[test]
    fn a_sink_that_cannot_be_opened_costs_lines_that_are_counted() {
        let pipes = pipes();
        let (thread, tally) = start(LogTarget::File("/nowhere/at/all".into()), &pipes);
        pipes[1].push(numbered(1));
        assert!(thread.stop(PATIENCE));
        assert_eq!((tally.written(), tally.dropped()), (0, 1));
    }

    #[test]
    fn a_stuck_sink_holds_up_neither_cores_nor_the_end() {
        // A pipe that nobody reads cannot even be opened.
        let path = std::env::temp_dir().join(format!("ringway-access-{}-stuck", std::process::id()));
        let made = std::process::Command::new("mkfifo").arg(&path).status().expect("mkfifo runs");
        assert!(made.success());
        let pipes = pipes();
        let (thread, tally) = start(LogTarget::File(path.clone()), &pipes);
        for number in 0..LOG_LINES_WAITING_MAX as u64 + 7 {
            pipes[0].push(numbered(number));
        }
        assert_eq!((pipes[0].tally.dropped(), tally.written()), (7, 0));
        assert!(!thread.stop(Duration::from_millis(50)), "it waits for a reader");
        pipes[0].push(numbered(0));
        fs::remove_file(&path).expect("it is there");
    }
}
