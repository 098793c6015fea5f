//! The book's keeper: each interval, and whenever somebody wants to read, merges the sheets that cores have left.

use std::{
    io,
    sync::{
        Arc, Mutex,
        mpsc::{self, RecvTimeoutError},
    },
    thread::JoinHandle,
    time::Duration,
};

use crate::{
    bridge::{bulletin::Board, outbox::Outbox},
    control::lock,
    ledger::book::Book,
};

/// The book and the outboxes it is fed from.
pub struct Stats {
    book: Mutex<Book>,
    outboxes: Arc<[Outbox]>,
}

impl Stats {
    pub fn new(outboxes: Arc<[Outbox]>) -> Self {
        Self { book: Mutex::default(), outboxes }
    }

    /// Merges what is there, then shows the book.
    pub fn read<T>(&self, look: impl FnOnce(&Book) -> T) -> T {
        // Held throughout: one thread at a time collects, and a core never waits for this lock.
        let mut book = lock(&self.book);
        for outbox in self.outboxes.iter() {
            outbox.collect(|sheet| book.merge(sheet));
        }
        look(&book)
    }
}

/// The thread that keeps the book up to date and frees retired snapshots.
pub struct StatsThread {
    stop: mpsc::Sender<()>,
    thread: JoinHandle<()>,
}

impl StatsThread {
    /// `interval` is [`SHEET_INTERVAL`](crate::base::limits::SHEET_INTERVAL) but in tests.
    pub fn start(stats: Arc<Stats>, boards: Vec<Arc<dyn Board>>, interval: Duration) -> io::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::Builder::new().name("rw-stats".to_owned()).spawn(move || {
            while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                stats.read(|_| ());
                for board in &boards {
                    board.sweep();
                }
            }
            // The cores have ended, or nobody will ever know: what they left last belongs in the book.
            stats.read(|_| ());
        })?;
        Ok(Self { stop, thread })
    }

    /// Merges what is left, after the cores have ended.
    pub fn stop(self) {
        drop(self.stop);
        let _ = self.thread.join();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::sheet::Sheet;

    const NEVER: Duration = Duration::from_secs(3600);

    fn stats() -> (Arc<Stats>, Arc<[Outbox]>) {
        let outboxes: Arc<[Outbox]> = (0..2).map(|_| Outbox::new()).collect();
        (Arc::new(Stats::new(Arc::clone(&outboxes))), outboxes)
    }

    fn sheet(accepted: u64) -> Box<Sheet> {
        let mut sheet = Box::<Sheet>::default();
        sheet.accepted = accepted;
        sheet
    }

    #[test]
    fn a_reader_sees_what_lies_in_the_outboxes() {
        let (stats, outboxes) = stats();
        outboxes[0].offer(&mut sheet(3));
        outboxes[1].offer(&mut sheet(4));
        assert_eq!(stats.read(|book| book.totals().accepted), 7);
        outboxes[0].offer(&mut sheet(5));
        assert_eq!(stats.read(|book| book.totals().accepted), 12);
    }

    #[test]
    fn what_is_left_last_is_in_the_book_after_the_stop() {
        let (stats, outboxes) = stats();
        let thread = StatsThread::start(Arc::clone(&stats), Vec::new(), NEVER).expect("a thread");
        outboxes[0].offer(&mut sheet(1));
        outboxes[0].leave(sheet(2));
        outboxes[1].leave(sheet(4));
        thread.stop();
        assert_eq!(lock(&stats.book).totals().accepted, 7);
    }

    /// Tells when it is swept.
    struct Swept(Mutex<mpsc::Sender<()>>);

    impl Board for Swept {
        fn generation(&self) -> u64 {
            0
        }

        fn taken_up(&self, _: u64) -> usize {
            0
        }

        fn sweep(&self) -> usize {
            let _ = lock(&self.0).send(());
            0
        }
    }

    #[test]
    fn every_interval_sheets_are_merged_and_boards_swept() {
        let (stats, outboxes) = stats();
        outboxes[1].offer(&mut sheet(1));
        let (swept, sweeps) = mpsc::channel();
        let boards: Vec<Arc<dyn Board>> = vec![Arc::new(Swept(Mutex::new(swept)))];
        let thread =
            StatsThread::start(Arc::clone(&stats), boards, Duration::from_millis(1)).expect("a thread");
        for _ in 0..3 {
            sweeps.recv().expect("a sweep");
        }
        assert_eq!(lock(&stats.book).totals().accepted, 1);
        thread.stop();
    }
}
