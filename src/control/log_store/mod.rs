//! Logs that are kept: a thread of its own writes them to the state directory, so that a slow disk holds up neither the
//! log thread nor, through it, anything else. What does not fit is dropped and counted.

mod table;

use std::{
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError, SyncSender, TrySendError},
    },
    thread::JoinHandle,
    time::Duration,
};

pub use table::{Row, Search, Store};

use crate::{
    base::limits::{LOG_BATCH_ROWS, LOG_ROWS_WAITING_MAX, LOG_SWEEP_INTERVAL},
    bridge::tally::Tally,
    config::KeptLogs,
    control::{
        log::Log,
        state::{Trouble, unix_ms},
    },
};

/// Where rows are left for the thread.
pub struct Keeper {
    rows: SyncSender<Row>,
    ended: mpsc::Receiver<()>,
    thread: JoinHandle<()>,
    tally: Arc<Tally>,
}

impl Keeper {
    /// # Errors
    /// A sentence for the operator: no thread.
    pub fn start(store: Store, kept: KeptLogs, tally: Arc<Tally>, log: Log) -> Result<Self, Trouble> {
        let (rows, waiting) = mpsc::sync_channel(LOG_ROWS_WAITING_MAX);
        let (end, ended) = mpsc::channel();
        let mut writer = Writer { store, kept, tally: tally.clone(), is_told: false, log };
        let thread = std::thread::Builder::new()
            .name("rw-log-store".to_owned())
            .spawn(move || {
                writer.run(&waiting);
                let _ = end.send(());
            })
            .map_err(|error| Trouble(format!("cannot start a thread: {error}")))?;
        Ok(Self { rows, ended, thread, tally })
    }

    /// Leaves a row, or drops and counts it.
    pub fn keep(&self, row: Row) {
        match self.rows.try_send(row) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => self.tally.count_dropped(1),
        }
    }

    /// Writes what waits. False if that takes longer than `patience`.
    pub fn stop(self, patience: Duration) -> bool {
        drop(self.rows);
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
    tally: Arc<Tally>,
    /// The operator knows that it fails.
    is_told: bool,
    log: Log,
}

impl Writer {
    fn run(&mut self, waiting: &mpsc::Receiver<Row>) {
        let mut batch = Vec::new();
        let mut swept_unix_ms = 0;
        loop {
            let now = unix_ms();
            // Also back over it: the wall clock may be set.
            if u128::from(now.abs_diff(swept_unix_ms)) >= LOG_SWEEP_INTERVAL.as_millis() {
                swept_unix_ms = now;
                let keep_ms = u64::try_from(self.kept.keep_time.as_millis()).unwrap_or(u64::MAX);
                let swept = self.store.sweep(now.saturating_sub(keep_ms), self.kept.bytes_max);
                self.tell(swept.err());
            }
            match waiting.recv_timeout(LOG_SWEEP_INTERVAL) {
                Ok(row) => batch.push(row),
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return,
            }
            batch.extend(waiting.try_iter().take(LOG_BATCH_ROWS - 1));
            match self.store.add(&batch) {
                Ok(()) => {
                    self.tally.count_written(batch.len() as u64);
                    self.tell(None);
                }
                Err(trouble) => {
                    self.tally.count_dropped(batch.len() as u64);
                    self.tell(Some(trouble));
                }
            }
            batch.clear();
        }
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

#[cfg(test)]
mod tests {
    use std::io;

    use super::{table::tests::row, *};
    use crate::control::state::tests::Scratch;

    const PATIENCE: Duration = Duration::from_secs(20);

    #[test]
    fn what_waits_at_the_end_is_kept_and_what_is_old_is_not() {
        let scratch = Scratch::new();
        std::fs::create_dir_all(&scratch.0).expect("a directory");
        let mut store = Store::open(&scratch.0).expect("a store");
        store.add(&[row(1_000), row(unix_ms())]).expect("room");
        let kept = KeptLogs {
            sample_ppm: 1_000_000,
            errors: true,
            keep_time: Duration::from_secs(86_400),
            bytes_max: 1 << 20,
        };
        let tally = Arc::new(Tally::default());
        let keeper = Keeper::start(store, kept, tally.clone(), Log::to(io::sink(), false)).expect("a thread");
        for _ in 0..3 {
            keeper.keep(row(unix_ms()));
        }
        assert!(keeper.stop(PATIENCE));
        assert_eq!((tally.written(), tally.dropped()), (3, 0));
        let store = Store::open_existing(&scratch.0).expect("it is there").expect("it is there");
        assert_eq!(store.search(&Search { limit: 100, ..Search::default() }).expect("rows").len(), 4);
    }
}
