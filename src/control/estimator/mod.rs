//! The estimator: a thread that tells the tokens of what no provider reported, with OpenAI's vocabularies, and counts these
//! exchanges in the place of their cores. It has a sheet and log pipes as a core has, so that book, metrics and log lines of
//! an exchange are made of one record.
//!
//! Invariant: each exchange that it takes is counted once and logged once; by bytes where its words cannot be told.

pub mod vocabulary;
pub mod words;

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError, TryRecvError},
    },
    thread::JoinHandle,
    time::Duration,
};

use self::{vocabulary::Vocabulary, words::Counter};
use crate::{
    bridge::{
        estimates::{self, EstimateQueue},
        logpipe::LogPipe,
        outbox::Outbox,
    },
    control::log::Log,
    ledger::{
        record::Tokens,
        sheet::Sheet,
        untold::{Told, Untold},
    },
    policy::price::{self, Used},
};

/// The thread.
pub struct EstimatorThread {
    stop: mpsc::Sender<()>,
    thread: JoinHandle<()>,
}

/// Where it takes exchanges from, and leaves them.
pub struct Task {
    /// By core.
    pub queues: Arc<[EstimateQueue]>,
    pub outboxes: Arc<[Outbox]>,
    /// Its own outbox.
    pub seat: usize,
    /// A pipe for each core's lines, behind those of the cores; none: nothing is logged.
    pub log_pipes: Arc<[LogPipe]>,
}

impl EstimatorThread {
    /// `interval` is [`ESTIMATES_INTERVAL`](crate::base::limits::ESTIMATES_INTERVAL) but in tests.
    pub fn start(task: Task, interval: Duration, log: Log) -> io::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::Builder::new().name("rw-estimator".to_owned()).spawn(move || {
            let mut desk = Desk::new(task, log);
            // Read now, because nearly everybody needs it; the older one when it is.
            desk.announce(Vocabulary::O200k);
            let _ = Vocabulary::O200k.count("");
            while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                desk.turn(|| stopped.try_recv() == Err(TryRecvError::Empty));
            }
            // What is left is not worth the wait: it is counted by bytes.
            desk.turn(|| false);
            desk.task.outboxes[desk.task.seat].leave(desk.sheet);
        })?;
        Ok(Self { stop, thread })
    }

    /// Counts what is left, after the cores have ended. An exchange that is being told is told to its end.
    pub fn stop(self) {
        drop(self.stop);
        let _ = self.thread.join();
    }
}

struct Desk {
    task: Task,
    sheet: Box<Sheet>,
    exchanges: Vec<Untold>,
    /// The operator knows that there is a bug.
    is_told: bool,
    /// The operator knows what these take.
    announced: Vec<Vocabulary>,
    log: Log,
}

impl Desk {
    fn new(task: Task, log: Log) -> Self {
        let (sheet, exchanges) = (Box::default(), estimates::room());
        Self { task, sheet, exchanges, is_told: false, announced: Vec::new(), log }
    }

    /// Says what a vocabulary takes before it is read.
    fn announce(&mut self, vocabulary: Vocabulary) {
        if !self.announced.contains(&vocabulary) {
            self.announced.push(vocabulary);
            let (name, megabytes) = (vocabulary.name(), vocabulary.megabytes());
            self.log.info(format_args!(
                "tokens that are not reported are counted with {name}, which takes about {megabytes} MB of memory"
            ));
        }
    }

    /// Counts all that waits, with the vocabulary as long as `has_time`.
    fn turn(&mut self, has_time: impl Fn() -> bool) {
        let queues = self.task.queues.clone();
        for (core, queue) in queues.iter().enumerate() {
            queue.swap(&mut self.exchanges);
            let mut exchanges = std::mem::take(&mut self.exchanges);
            for untold in exchanges.drain(..) {
                let told = if has_time() { self.tell(&untold) } else { None };
                let line = untold.count(told, &mut self.sheet);
                if let Some(pipe) = self.task.log_pipes.get(queues.len() + core) {
                    pipe.push(line);
                }
            }
            self.exchanges = exchanges;
        }
        // Not taken: it goes on with the same sheet, and offers it the next time.
        let _ = self.task.outboxes[self.task.seat].offer(&mut self.sheet);
    }

    fn tell(&mut self, untold: &Untold) -> Option<Told> {
        let counter = Counter::of(untold.record().model_used.as_str());
        self.announce(counter.vocabulary());
        // A bug in the crate must not cost an exchange its count.
        let told = catch_unwind(AssertUnwindSafe(|| tell(untold, counter)));
        if told.is_err() && !std::mem::replace(&mut self.is_told, true) {
            self.log.error(format_args!(
                "the vocabulary failed at a text; what it fails at is estimated by bytes"
            ));
        }
        told.unwrap_or_default()
    }
}

/// What a vocabulary finds; `None`: it cannot be told so.
fn tell(untold: &Untold, counter: Counter) -> Option<Told> {
    let (texts, mut tokens) = (untold.texts(), untold.record().tokens);
    if let Some(request) = &texts.request {
        tokens.prompt = Some(counter.asked(texts.endpoint, request)?);
    }
    if let Some(answer) = &texts.answer {
        tokens.completion = Some(answer.texts().map(|text| counter.said(text)).sum::<Option<u64>>()?);
    }
    let cost = texts.price.as_ref().and_then(|price| price::cost(price, paid(tokens)));
    Some(Told { tokens, cost })
}

/// Tokens as they are paid for.
fn paid(tokens: Tokens) -> Used {
    let Tokens { prompt, completion, cached, reasoning, audio_prompt, audio_completion } = tokens;
    Used {
        prompt: prompt.unwrap_or_default(),
        completion: completion.unwrap_or_default(),
        cached: cached.unwrap_or_default(),
        reasoning: reasoning.unwrap_or_default(),
        audio_prompt: audio_prompt.unwrap_or_default(),
        audio_completion: audio_completion.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        bridge::{estimates::tests::untold, logpipe},
        ledger::record::TokenKind,
    };

    const NEVER: Duration = Duration::from_secs(3_600);
    const ASKED: &[u8] = br#"{"messages":[{"role":"user","content":"hello world"}]}"#;
    const SAID: &[u8] = br#"{"choices":[{"message":{"content":"hello world, again"}}]}"#;

    struct Seen {
        /// Prompt and completion, as estimated in all.
        tokens: (u64, u64),
        estimates: [u64; 2],
        requests: u64,
        lines: usize,
    }

    /// What comes of these exchanges: at a turn, or else at the end.
    fn seen(exchanges: Vec<Untold>, at_a_turn: bool) -> Seen {
        let queues: Arc<[EstimateQueue]> = [EstimateQueue::default(), EstimateQueue::default()].into();
        let outboxes: Arc<[Outbox]> = (0..3).map(|_| Outbox::new()).collect();
        let log_pipes: Arc<[LogPipe]> = (0..4).map(|_| LogPipe::new()).collect();
        let task = Task {
            queues: queues.clone(),
            outboxes: outboxes.clone(),
            seat: 2,
            log_pipes: log_pipes.clone(),
        };
        for untold in exchanges {
            assert!(queues[1].push(untold).is_none());
        }
        let log = Log::to(io::sink(), false);
        if at_a_turn {
            Desk::new(task, log).turn(|| true);
        } else {
            EstimatorThread::start(task, NEVER, log).expect("a thread").stop();
        }
        let mut whole = Sheet::default();
        outboxes[2].collect(|sheet| whole.merge(sheet));
        let mut lines = logpipe::room();
        log_pipes[3].swap(&mut lines);
        let estimated = whole.whole().estimated;
        Seen {
            tokens: (estimated[TokenKind::Prompt.index()], estimated[TokenKind::Completion.index()]),
            estimates: whole.estimates,
            requests: whole.requests.total(),
            lines: lines.len(),
        }
    }

    #[test]
    fn an_exchange_is_counted_and_logged_once_with_what_the_vocabulary_finds() {
        let seen = seen(vec![untold(ASKED, SAID)], true);
        // 3 of the message, 1 of `user`, 2 of its content, 3 to begin the answer.
        assert_eq!((seen.tokens, seen.estimates), ((9, 4), [0, 1]));
        assert_eq!((seen.requests, seen.lines), (1, 1));
    }

    #[test]
    fn what_cannot_be_told_is_counted_by_bytes() {
        let seen = seen(vec![untold(b"no JSON", SAID)], true);
        assert_eq!((seen.tokens, seen.estimates, seen.requests, seen.lines), ((1, 1), [1, 0], 1, 1));
    }

    #[test]
    fn what_is_left_at_the_end_is_counted_by_bytes() {
        let seen = seen(vec![untold(ASKED, SAID), untold(ASKED, SAID)], false);
        assert_eq!((seen.tokens, seen.estimates, seen.requests, seen.lines), ((2, 2), [2, 0], 2, 2));
    }
}
