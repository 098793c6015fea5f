//! The log thread: takes the lines that cores have left, renders them, and hands them on to those who write, keep or send
//! them, each on a thread of its own. Whatever one of these writes to may be slow, stuck, full or gone: that costs what was meant
//! for it, which is counted, and no core and none of the others anything.

pub(super) mod digits;
mod outlet;
pub(super) mod render;
mod shown;
mod sink;

use std::{
    convert::Infallible,
    fmt, io,
    sync::{
        Arc, Mutex,
        mpsc::{self, RecvTimeoutError},
    },
    thread::JoinHandle,
    time::Duration,
};

use self::outlet::{Outlet, Unwritten};
pub(in crate::control) use self::render::is_unfit;
pub use self::render::{Told, Words, line};
use crate::{
    base::limits::{LOG_BUSY_LINES, LOG_BUSY_SHARE, LOG_FLUSH_TIME},
    bridge::{
        bulletin::Bulletin,
        logpipe::{self, LogPipe},
        tally::Tally,
    },
    config::{LogFormat, LogTarget, Snapshot},
    control::{
        lock,
        log::Log,
        log_store::{Keeper, Spoken, Unkept},
        otlp::Feed,
        standing::Reloads,
    },
    ledger::logged::Logged,
    wire::mask::Rules,
};

/// The log thread.
pub struct AccessLogThread {
    tell: mpsc::Sender<Word>,
    /// Closed when the thread has ended, and with it those that it hands its work to.
    ended: mpsc::Receiver<Infallible>,
    thread: JoinHandle<()>,
    pipes: Arc<[LogPipe]>,
    unwritten: Option<Arc<Mutex<Unwritten>>>,
    unkept: Option<Arc<Mutex<Unkept>>>,
}

/// What the thread is told.
enum Word {
    Reopen,
    End,
}

/// Asks the log thread to open its file again. Cheap to clone.
#[derive(Clone)]
pub struct Reopen(mpsc::Sender<Word>);

/// What there was no time for at the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Of the access log.
    pub lines: u64,
    /// Exchanges that were to be kept, and how many of them with what was said.
    pub rows: u64,
    pub payloads: u64,
}

impl Left {
    pub fn is_nothing(self) -> bool {
        self == Self::default()
    }
}

/// For the operator.
impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut before = "";
        if self.lines > 0 {
            write!(f, "the access log is stuck: its last {} line(s) are lost", self.lines)?;
            before = "; ";
        }
        if self.rows > 0 {
            let Self { rows, payloads, .. } = self;
            write!(
                f,
                "{before}the log store is stuck: {rows} log(s), {payloads} with payload, are not kept"
            )?;
        }
        Ok(())
    }
}

impl AccessLogThread {
    /// `interval` is [`LOG_INTERVAL`](crate::base::limits::LOG_INTERVAL) but in tests.
    pub fn start(mut task: Task, interval: Duration, log: Log) -> io::Result<Self> {
        let (tell, told) = mpsc::channel();
        let (end, ended) = mpsc::channel();
        let outlet =
            task.target.take().map(|target| Outlet::start(target, task.tally.clone(), log, end.clone()));
        let outlet = outlet.transpose()?;
        let (unwritten, unkept) =
            (outlet.as_ref().map(Outlet::unwritten), task.keeper.as_ref().map(Keeper::unkept));
        let pipes = task.pipes.clone();
        let thread = std::thread::Builder::new().name("rw-access-log".to_owned()).spawn(move || {
            let mut writer = Writer { task, outlet, text: Vec::new(), rendered: 0 };
            let mut lines = logpipe::room();
            let mut patience = interval;
            loop {
                let word = told.recv_timeout(patience);
                let written = writer.write_all(&mut lines);
                // Lines that are taken soon are still in the cache in which the core has left them.
                patience = if written < LOG_BUSY_LINES { interval } else { interval / LOG_BUSY_SHARE };
                match word {
                    Err(RecvTimeoutError::Timeout) => {}
                    // After the lines that were there before the word: a file that was moved away gets what is its own.
                    Ok(Word::Reopen) => writer.outlet.iter().for_each(Outlet::reopen),
                    Ok(Word::End) | Err(RecvTimeoutError::Disconnected) => break,
                }
            }
            writer.end();
            drop(end);
        })?;
        Ok(Self { tell, ended, thread, pipes, unwritten, unkept })
    }

    pub fn reopener(&self) -> Reopen {
        Reopen(self.tell.clone())
    }

    /// Writes what the cores have left, after they have ended. If that takes longer than `patience`, something is stuck: it is
    /// left to itself, and what it holds is returned.
    pub fn stop(self, patience: Duration) -> Left {
        let _ = self.tell.send(Word::End);
        if self.ended.recv_timeout(patience) == Err(RecvTimeoutError::Disconnected) {
            let _ = self.thread.join();
        }
        let mut left = Left::default();
        if let Some(unwritten) = &self.unwritten {
            left.lines = lock(unwritten).lines + self.pipes.iter().map(LogPipe::waiting).sum::<u64>();
        }
        if let Some(unkept) = &self.unkept {
            (left.rows, left.payloads) = lock(unkept).counts();
        }
        left
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
    outlet: Option<Outlet>,
    text: Vec<u8>,
    /// Lines in `text`.
    rendered: u64,
}

/// Text of so many bytes is handed on, whatever else waits: it is written while it is still in a core's own cache.
const WRITE_BYTES: usize = 64 << 10;

impl Writer {
    /// Writes all that waits, pipe by pipe. Returns how many lines that were.
    fn write_all(&mut self, lines: &mut Vec<Logged>) -> usize {
        let (pipes, feed) = (self.task.pipes.clone(), self.task.feed.clone());
        // Asked for once there is a line, and not before it was taken: its provider is enrolled by then.
        let mut known = None;
        let mut written = 0;
        for (place, pipe) in pipes.iter().enumerate() {
            let core = place % self.task.cores.max(1);
            pipe.swap(lines);
            if lines.is_empty() {
                continue;
            }
            written += lines.len();
            let (roll, (rules, payload_bytes_max)) =
                known.get_or_insert_with(|| (self.task.names.roll(), self.rules()));
            let words = Words::new(core, roll, rules);
            let mut filling = feed.as_ref().map(Feed::open);
            for line in lines.iter_mut() {
                let payload = line.payload.take();
                let told = Told::of(line, &words);
                if let Some(keeper) = self.task.keeper.as_ref().filter(|_| line.is_kept()) {
                    let (rules, bytes_max) = (rules.clone(), *payload_bytes_max);
                    let spoken = payload.map(|payload| Spoken { payload, rules, bytes_max });
                    keeper.keep(render::row(&told), spoken);
                }
                if self.outlet.is_some() {
                    render::line(self.task.format, &told, &mut self.text);
                    self.rendered += 1;
                }
                if let Some(filling) = &mut filling {
                    filling.record(&told);
                }
                if self.text.len() >= WRITE_BYTES {
                    self.hand_on();
                }
            }
            match filling {
                Some(filling) => filling.close(core, lines),
                None => lines.clear(),
            }
        }
        self.hand_on();
        written
    }

    /// What must not be shown now, and how much of a payload is kept.
    fn rules(&self) -> (Arc<Rules>, usize) {
        let Some(snapshot) = self.task.snapshots.current() else { return Default::default() };
        let kept = snapshot.kept_logs.as_ref();
        (snapshot.masking.clone(), kept.map_or(0, |kept| kept.payload_bytes_max))
    }

    fn hand_on(&mut self) {
        let (Some(outlet), 1..) = (&self.outlet, self.rendered) else { return };
        outlet.leave(&mut self.text, std::mem::take(&mut self.rendered));
    }

    /// Nobody waits for another: each is told of the end before one is waited for.
    fn end(self) {
        let Task { keeper, feed, .. } = self.task;
        drop((self.outlet, feed));
        if let Some(keeper) = keeper {
            keeper.stop(LOG_FLUSH_TIME);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{
        base::limits::LOG_LINES_WAITING_MAX,
        bridge::logpipe::tests::numbered,
        config::{KeepPayload, KeptLogs},
        control::{
            log_store::{Store, Tallies},
            state::{State, tests::Scratch},
        },
        ledger::logged::Keep,
    };

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
        assert!(thread.stop(PATIENCE).is_nothing());
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
        assert!(thread.stop(PATIENCE).is_nothing());
        assert_eq!((tally.written(), tally.dropped()), (0, 1));
    }

    /// A pipe that nobody reads cannot even be opened.
    fn stuck(name: &str) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("ringway-access-{}-{name}", std::process::id()));
        let _ = fs::remove_file(&path);
        let made = std::process::Command::new("mkfifo").arg(&path).status().expect("mkfifo runs");
        assert!(made.success());
        path
    }

    #[test]
    fn a_stuck_sink_costs_its_own_lines_and_holds_up_nobody() {
        let path = stuck("stuck");
        let scratch = Scratch::new();
        State::open(&scratch.0).expect("a state");
        let store = Store::open(&scratch.0).expect("a store");
        let (silent, kept) = (|| Log::to(io::sink(), false), Tallies::default());
        let settings = KeptLogs {
            sample_ppm: 0,
            errors: false,
            payload: KeepPayload::Never,
            payload_bytes_max: 0,
            keep_time: Duration::from_secs(1 << 32),
            bytes_max: 1 << 30,
        };
        let keeper = Keeper::start(store, settings, kept.clone(), silent()).expect("a thread");
        let (feed, fed) = Feed::of_records();
        let (pipes, tally) = (pipes(), Arc::<Tally>::default());
        let task = Task {
            format: LogFormat::Json,
            target: Some(LogTarget::File(path.clone())),
            keeper: Some(keeper),
            feed: Some(feed),
            pipes: pipes.clone(),
            cores: pipes.len(),
            tally: tally.clone(),
            names: Arc::default(),
            snapshots: Arc::new(Bulletin::new(1)),
        };
        let thread = AccessLogThread::start(task, Duration::from_millis(1), silent()).expect("a thread");
        // More than the sink may owe, over and over what one pipe holds.
        let (mut pushed, mut taken) = (0, 0);
        while tally.dropped() == 0 || pushed < 3 * LOG_LINES_WAITING_MAX as u64 {
            for number in 0..64 {
                let keep = if number == 0 { Keep::Yes } else { Keep::No };
                pipes[0].push(Logged { keep, ..numbered(number) });
            }
            pushed += 64;
            while pipes[0].waiting() > LOG_LINES_WAITING_MAX as u64 / 2 {
                std::thread::yield_now();
            }
            taken += fed.take();
        }
        let left = thread.stop(Duration::from_millis(500));
        taken += fed.take();
        // A line that is left in the very moment of a swap may be.
        let collided = pipes[0].tally.dropped();
        assert!(collided < 64, "the pipe is drained all the same, and {collided} found no room");
        assert_eq!((taken, tally.written()), (pushed - collided, 0));
        let rows = kept.rows.written();
        assert!(rows + collided >= pushed / 64 && kept.rows.dropped() == 0, "{rows} of {pushed}");
        assert_eq!((left.lines + tally.dropped(), left.rows), (pushed - collided, 0), "{left}");
        assert!(left.lines > 1_000);
        fs::remove_file(&path).expect("it is there");
    }

    #[test]
    fn what_is_stuck_at_the_end_is_told_by_number() {
        let path = stuck("end");
        let pipes = pipes();
        let (thread, tally) = start(LogTarget::File(path.clone()), &pipes);
        (0..7).for_each(|number| pipes[0].push(numbered(number)));
        let left = thread.stop(Duration::from_millis(50));
        assert_eq!((left, tally.written()), (Left { lines: 7, ..Left::default() }, 0));
        assert_eq!(left.to_string(), "the access log is stuck: its last 7 line(s) are lost");
        let all = Left { lines: 1, rows: 3, payloads: 2 }.to_string();
        assert!(all.ends_with("; the log store is stuck: 3 log(s), 2 with payload, are not kept"), "{all}");
        fs::remove_file(&path).expect("it is there");
    }
}
