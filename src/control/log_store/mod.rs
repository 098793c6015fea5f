//! Logs that are kept: a thread of its own masks what was said, seals it and writes all to the state directory, so that a slow
//! disk holds up neither the log thread nor, through it, anything else. What does not fit is dropped and counted.

mod keys;
mod stream;
mod table;
mod veil;

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex,
        mpsc::{self, RecvTimeoutError, SyncSender, TrySendError},
    },
    thread::JoinHandle,
    time::Duration,
};

pub use table::{Found, Part, Payload, Row, Search, Store};

#[cfg(any(test, feature = "fuzzing"))]
use crate::control::access_log::is_unfit;
use crate::{
    base::{
        calendar,
        limits::{
            LOG_BATCH_ROWS, LOG_PAYLOADS_UNWRITTEN_BYTES_MAX, LOG_ROWS_GATHER_TIME, LOG_ROWS_WAITING_MAX,
            LOG_SWEEP_INTERVAL,
        },
    },
    bridge::tally::Tally,
    config::KeptLogs,
    control::{
        lock,
        log::Log,
        state::{Trouble, unix_ms},
    },
    ledger::logged::{self, Copied},
    wire::mask::Rules,
};

/// Where rows are left for the thread.
pub struct Keeper {
    rows: SyncSender<(Row, Option<Spoken>)>,
    ended: mpsc::Receiver<()>,
    thread: JoinHandle<()>,
    /// Dropped when there is no time to gather rows any more.
    stop: mpsc::Sender<Infallible>,
    tallies: Tallies,
    unkept: Arc<Mutex<Unkept>>,
}

/// What was left for the thread and is neither written nor lost yet.
#[derive(Debug, Default)]
pub struct Unkept {
    rows: u64,
    payloads: u64,
    /// What the payloads take that are not masked yet.
    bytes: usize,
}

impl Unkept {
    /// Rows, and how many of them have a payload.
    pub fn counts(&self) -> (u64, u64) {
        (self.rows, self.payloads)
    }
}

/// What was said in an exchange, before it is masked.
pub struct Spoken {
    pub payload: Box<logged::Payload>,
    pub rules: Arc<Rules>,
    /// Most bytes of either part that are kept.
    pub bytes_max: usize,
}

/// What is written and what is not: of exchanges, and of their payloads.
#[derive(Clone, Default)]
pub struct Tallies {
    pub rows: Arc<Tally>,
    pub payloads: Arc<Tally>,
}

impl Keeper {
    /// # Errors
    /// A sentence for the operator: no thread.
    pub fn start(store: Store, kept: KeptLogs, tallies: Tallies, log: Log) -> Result<Self, Trouble> {
        let (rows, waiting) = mpsc::sync_channel(LOG_ROWS_WAITING_MAX);
        let (end, ended) = mpsc::channel();
        let (stop, stopped) = mpsc::channel();
        let unkept = Arc::<Mutex<Unkept>>::default();
        let mut writer =
            Writer { store, kept, tallies: tallies.clone(), unkept: unkept.clone(), is_told: false, log };
        let thread = std::thread::Builder::new()
            .name("rw-log-store".to_owned())
            .spawn(move || {
                writer.run(&waiting, &stopped);
                let _ = end.send(());
            })
            .map_err(|error| Trouble(format!("cannot start a thread: {error}")))?;
        Ok(Self { rows, ended, thread, stop, tallies, unkept })
    }

    /// Leaves a row with what was said, or drops and counts either.
    pub fn keep(&self, row: Row, mut spoken: Option<Spoken>) {
        let has_room = {
            let mut unkept = lock(&self.unkept);
            let bytes = unkept.bytes + spoken.as_ref().map_or(0, |said| said.payload.bytes());
            let has_room = bytes <= LOG_PAYLOADS_UNWRITTEN_BYTES_MAX;
            unkept.rows += 1;
            if has_room {
                unkept.bytes = bytes;
                unkept.payloads += u64::from(spoken.is_some());
            }
            has_room
        };
        if !has_room {
            spoken = None;
            self.tallies.payloads.count_dropped(1);
        }
        let Err(refused) = self.rows.try_send((row, spoken)) else { return };
        let (TrySendError::Full((_, spoken)) | TrySendError::Disconnected((_, spoken))) = refused;
        self.tallies.rows.count_dropped(1);
        let mut unkept = lock(&self.unkept);
        unkept.rows -= 1;
        if let Some(said) = spoken {
            unkept.bytes -= said.payload.bytes();
            unkept.payloads -= 1;
            self.tallies.payloads.count_dropped(1);
        }
    }

    pub fn unkept(&self) -> Arc<Mutex<Unkept>> {
        self.unkept.clone()
    }

    /// Writes what waits. False if that takes longer than `patience`.
    pub fn stop(self, patience: Duration) -> bool {
        drop((self.rows, self.stop));
        let in_time = self.ended.recv_timeout(patience).is_ok();
        if in_time {
            let _ = self.thread.join();
        }
        in_time
    }
}

struct Writer {
    store: Store,
    kept: KeptLogs,
    tallies: Tallies,
    unkept: Arc<Mutex<Unkept>>,
    /// The operator knows that it fails.
    is_told: bool,
    log: Log,
}

impl Writer {
    fn run(&mut self, waiting: &mpsc::Receiver<(Row, Option<Spoken>)>, stopped: &mpsc::Receiver<Infallible>) {
        let mut batch = Vec::new();
        // What was written since the store was swept: long before the next time it may be too much.
        let (mut swept_unix_ms, mut unswept_bytes) = (0, 0);
        let mut was_full = false;
        loop {
            let now = unix_ms();
            // Also back over it: the wall clock may be set.
            let is_due = u128::from(now.abs_diff(swept_unix_ms)) >= LOG_SWEEP_INTERVAL.as_millis();
            if is_due || unswept_bytes > self.kept.bytes_max / 8 {
                (swept_unix_ms, unswept_bytes) = (now, 0);
                let keep_ms = u64::try_from(self.kept.keep_time.as_millis()).unwrap_or(u64::MAX);
                let today = calendar::day(now);
                let swept = self.store.sweep(now.saturating_sub(keep_ms), self.kept.bytes_max, today);
                self.tell(swept.err());
            }
            match waiting.recv_timeout(LOG_SWEEP_INTERVAL) {
                Ok((row, spoken)) => batch.push(self.whole(row, spoken)),
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return,
            }
            // A transaction costs as much as fifty rows. Where rows are many, the last one has left enough of them.
            if !was_full {
                let _ = stopped.recv_timeout(LOG_ROWS_GATHER_TIME);
            }
            let more = waiting.try_iter().take(LOG_BATCH_ROWS - 1);
            batch.extend(more.map(|(row, spoken)| self.whole(row, spoken)));
            was_full = batch.len() >= LOG_BATCH_ROWS;
            let payloads = batch.iter().filter(|row| row.payload.is_some()).count() as u64;
            match self.store.add(&batch) {
                Ok(()) => {
                    self.tallies.rows.count_written(batch.len() as u64);
                    self.tallies.payloads.count_written(payloads);
                    unswept_bytes += batch.iter().map(Row::bytes).sum::<u64>();
                    self.tell(None);
                }
                Err(trouble) => {
                    self.tallies.rows.count_dropped(batch.len() as u64);
                    self.tallies.payloads.count_dropped(payloads);
                    self.tell(Some(trouble));
                }
            }
            let mut unkept = lock(&self.unkept);
            unkept.rows -= batch.len() as u64;
            unkept.payloads -= payloads;
            drop(unkept);
            batch.clear();
        }
    }

    /// A row with what was said, as it may be kept.
    fn whole(&self, row: Row, spoken: Option<Spoken>) -> Row {
        let Some(Spoken { payload, rules, bytes_max }) = spoken else { return row };
        let kept = Payload {
            request: part(&rules, &payload.request, false, bytes_max),
            response: part(&rules, &payload.response, payload.is_stream, bytes_max),
        };
        lock(&self.unkept).bytes -= payload.bytes();
        Row { payload: Some(kept), ..row }
    }

    fn tell(&mut self, trouble: Option<Trouble>) {
        match trouble {
            None => self.is_told = false,
            Some(trouble) if !std::mem::replace(&mut self.is_told, true) => {
                self.log.error(format_args!("logs cannot be kept, they are dropped and counted: {trouble}"));
            }
            Some(_) => {}
        }
    }
}

/// A copy as it may be kept: a stream put together, masked, and no longer than it may be.
fn part(rules: &Rules, copied: &Copied, is_stream: bool, bytes_max: usize) -> Part {
    let mut is_whole = copied.is_whole();
    let text = (!copied.bytes.is_empty()).then(|| {
        let mut text = if is_stream {
            // What holds the end of a cut stream back has done so already, and what it leaves is whole.
            veil::veiled(rules, stream::together(&copied.bytes, is_whole).as_bytes(), true)
        } else {
            veil::veiled(rules, &copied.bytes, is_whole)
        };
        is_whole &= text.len() <= bytes_max;
        veil::cut(&mut text, bytes_max);
        text
    });
    Part { text, bytes: copied.whole_bytes, is_whole }
}

/// The fuzz target: whatever a client or a provider sent, whole or cut, becomes a text that shows nothing unfit.
#[cfg(any(test, feature = "fuzzing"))]
pub fn fuzz_kept(data: &[u8]) {
    let rules = Rules { email: true, card: true, ..Rules::default() };
    let copied =
        |bytes: &[u8], cut: u64| Copied { bytes: bytes.to_vec(), whole_bytes: bytes.len() as u64 + cut };
    for (is_stream, cut) in [(false, 0), (false, 1), (true, 0), (true, 1)] {
        let kept = part(&rules, &copied(data, cut), is_stream, 512);
        let text = kept.text.unwrap_or_default();
        assert!(text.len() <= 512 && !(kept.is_whole && cut > 0));
        assert!(text.chars().all(|c| matches!(c, '\n' | '\r' | '\t') || !is_unfit(c)));
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::{
        table::tests::{all, row},
        *,
    };
    use crate::{
        config::KeepPayload,
        control::state::{State, tests::Scratch},
    };

    const PATIENCE: Duration = Duration::from_secs(20);

    fn kept() -> KeptLogs {
        KeptLogs {
            sample_ppm: 1_000_000,
            errors: true,
            payload: KeepPayload::Always,
            payload_bytes_max: 1 << 20,
            keep_time: Duration::from_secs(86_400),
            bytes_max: 1 << 20,
        }
    }

    fn spoken(request: &str, response: &str, is_stream: bool, bytes_max: usize) -> Spoken {
        let copied = |text: &str| Copied { bytes: text.into(), whole_bytes: text.len() as u64 };
        let payload =
            Box::new(logged::Payload { request: copied(request), response: copied(response), is_stream });
        Spoken { payload, rules: Arc::default(), bytes_max }
    }

    #[test]
    fn what_waits_at_the_end_is_kept_and_what_is_old_is_not() {
        let scratch = Scratch::new();
        State::open(&scratch.0).expect("a state");
        let mut store = Store::open(&scratch.0).expect("a store");
        store.add(&[row(1_000), row(unix_ms())]).expect("room");
        let tallies = Tallies::default();
        let keeper =
            Keeper::start(store, kept(), tallies.clone(), Log::to(io::sink(), false)).expect("a thread");
        for _ in 0..2 {
            keeper.keep(row(unix_ms()), None);
        }
        let stream = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"sk-1234\"}}]}\n\n\
                      data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"5678!\"}}]}\n\n";
        keeper.keep(row(unix_ms()), Some(spoken("Bearer abcdefgh", stream, true, 1_000)));
        assert!(keeper.stop(PATIENCE));
        assert_eq!((tallies.rows.written(), tallies.rows.dropped()), (3, 0));
        assert_eq!((tallies.payloads.written(), tallies.payloads.dropped()), (1, 0));
        let store = Store::open_existing(&scratch.0).expect("it is there").expect("it is there");
        let found = all(&store, &Search { limit: 100, payload: true, ..Search::default() });
        assert_eq!(found.len(), 4);
        let said = found[3].payload.as_ref().expect("it was kept");
        assert_eq!(said.request.text.as_deref(), Some("Bearer [key]"));
        let answer = r#"{"choices":[{"index":0,"message":{"content":"[key]!"}}]}"#;
        assert_eq!(said.response.text.as_deref(), Some(answer), "a key that came in two pieces is one");
        assert!(said.response.is_whole && said.response.bytes == stream.len() as u64);
    }

    #[test]
    fn more_payloads_than_may_wait_cost_themselves_and_not_their_rows() {
        let (rows, waiting) = mpsc::sync_channel(LOG_ROWS_WAITING_MAX);
        let (_end, ended) = mpsc::channel();
        let (tallies, unkept) = (Tallies::default(), Arc::<Mutex<Unkept>>::default());
        let (stop, _stopped) = mpsc::channel();
        let thread = std::thread::spawn(|| {});
        let keeper = Keeper { rows, ended, thread, stop, tallies, unkept };
        let third = "x".repeat(LOG_PAYLOADS_UNWRITTEN_BYTES_MAX / 3);
        for _ in 0..5 {
            keeper.keep(row(1), Some(spoken(&third, "", false, 1)));
        }
        assert_eq!((keeper.tallies.payloads.dropped(), keeper.tallies.rows.dropped()), (2, 0));
        assert_eq!(waiting.try_iter().filter(|(_, spoken)| spoken.is_some()).count(), 3);
        assert_eq!(lock(&keeper.unkept).counts(), (5, 3), "what is not written yet is known");
        drop(waiting);
        *lock(&keeper.unkept) = Unkept::default();
        keeper.keep(row(1), Some(spoken("x", "", false, 1)));
        assert_eq!((keeper.tallies.payloads.dropped(), keeper.tallies.rows.dropped()), (3, 1));
        let Unkept { rows, payloads, bytes } = *lock(&keeper.unkept);
        assert_eq!((rows, payloads, bytes), (0, 0, 0), "nothing waits where nobody takes");
    }

    #[test]
    fn whatever_was_sent_becomes_a_text_that_can_be_shown() {
        let seeds: [&[u8]; 3] = [
            br#"{"messages":[{"content":"a\u0040b.cd \ud83d\ude00 sk-12345678","n":4111111111111111}]}"#,
            b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a@b\"}}]}\n\ndata: {\"usage\":{}}\n\n",
            b"data: {\"type\":\"response.output_text.delta\",\"delta\":\"{\\\"a\\\":1}\"}\r\n\r\n\x1b[2J\xff",
        ];
        let mut chance = 3_u64;
        for seed in seeds {
            fuzz_kept(seed);
            for _ in 0..2_000 {
                let mut data = seed.to_vec();
                for _ in 0..4 {
                    chance ^= chance << 13;
                    chance ^= chance >> 7;
                    chance ^= chance << 17;
                    let at = usize::try_from(chance % data.len() as u64).expect("small");
                    match chance >> 60 {
                        0..4 => data.truncate(at.max(1)),
                        4..8 => data.insert(at, chance.to_le_bytes()[5]),
                        8..12 => data[at] = b"\"\\{}[]:,\n"[usize::from(chance.to_le_bytes()[4]) % 9],
                        _ => data[at] ^= 1 << (chance >> 32 & 7),
                    }
                }
                fuzz_kept(&data);
            }
        }
    }

    #[test]
    fn what_is_too_long_is_cut_and_says_so() {
        let rules = Rules::default();
        let whole = Copied { bytes: b"\"0123456789\"".to_vec(), whole_bytes: 12 };
        let of = |copied, bytes_max| part(&rules, copied, false, bytes_max);
        let kept = |text: &str, is_whole| Part { text: Some(text.into()), bytes: 12, is_whole };
        assert_eq!(of(&whole, 12), kept("\"0123456789\"", true));
        assert_eq!(of(&whole, 4), kept("\"012", false));
        let nothing = Copied { bytes: Vec::new(), whole_bytes: 12 };
        assert_eq!(of(&nothing, 9), Part { text: None, bytes: 12, is_whole: false });
    }
}
