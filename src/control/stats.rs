//! The book's keeper: each interval, and whenever somebody wants to read, merges the sheets that cores have left; and
//! writes them down where there is a state directory.

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
    control::{
        history::{Page, Store},
        lock,
        log::Log,
        standing::Reloads,
        state::unix_ms,
    },
    ledger::{book::Book, sheet::Sheet},
};

/// The book and the outboxes it is fed from.
pub struct Stats {
    desk: Mutex<Desk>,
    outboxes: Arc<[Outbox]>,
}

#[derive(Default)]
struct Desk {
    book: Book,
    /// What has been merged since it was last written down; `None`: it never is.
    unwritten: Option<Box<Sheet>>,
}

impl Stats {
    pub fn new(outboxes: Arc<[Outbox]>) -> Self {
        Self { desk: Mutex::default(), outboxes }
    }

    /// Merges what is there, then shows the book.
    pub fn read<T>(&self, look: impl FnOnce(&Book) -> T) -> T {
        look(&self.collect(&mut lock(&self.desk)).book)
    }

    // The desk is held throughout: one thread at a time collects, and a core never waits for this lock.
    fn collect<'d>(&self, desk: &'d mut Desk) -> &'d mut Desk {
        for outbox in self.outboxes.iter() {
            outbox.collect(|sheet| {
                desk.book.merge(sheet);
                desk.unwritten.iter_mut().for_each(|unwritten| unwritten.merge(sheet));
            });
        }
        desk
    }

    /// Changes what is unwritten for an empty sheet.
    fn take(&self, empty: Box<Sheet>) -> Box<Sheet> {
        self.collect(&mut lock(&self.desk)).unwritten.replace(empty).unwrap_or_default()
    }

    /// Gives back what could not be written.
    fn give_back(&self, sheet: &Sheet) {
        lock(&self.desk).unwritten.iter_mut().for_each(|unwritten| unwritten.merge(sheet));
    }
}

/// Where the book is written down.
pub struct History {
    pub store: Store,
    /// The names of providers.
    pub names: Arc<Reloads>,
    pub log: Log,
}

/// The thread that keeps the book up to date and frees retired snapshots.
pub struct StatsThread {
    stop: mpsc::Sender<()>,
    thread: JoinHandle<()>,
}

impl StatsThread {
    /// `interval` is [`BOOK_INTERVAL`](crate::base::limits::BOOK_INTERVAL) but in tests.
    pub fn start(
        stats: Arc<Stats>,
        boards: Vec<Arc<dyn Board>>,
        interval: Duration,
        history: Option<History>,
    ) -> io::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        // From the beginning: what comes before the thread runs is written, too.
        lock(&stats.desk).unwritten = history.as_ref().map(|_| Box::default());
        let mut writer =
            history.map(|history| Writer { history, spare: Box::default(), is_told: false, swept: None });
        let thread = std::thread::Builder::new().name("rw-stats".to_owned()).spawn(move || {
            let mut turn = || match &mut writer {
                Some(writer) => writer.write(&stats),
                None => stats.read(|_| ()),
            };
            while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                turn();
                for board in &boards {
                    board.sweep();
                }
            }
            // The cores have ended, or nobody will ever know: what they left last belongs in the book.
            turn();
        })?;
        Ok(Self { stop, thread })
    }

    /// Merges what is left, after the cores have ended.
    pub fn stop(self) {
        drop(self.stop);
        let _ = self.thread.join();
    }
}

struct Writer {
    history: History,
    spare: Box<Sheet>,
    /// The operator knows that it fails.
    is_told: bool,
    /// The minute in which what is old was last looked for.
    swept: Option<u64>,
}

impl Writer {
    fn write(&mut self, stats: &Stats) {
        let mut sheet = stats.take(std::mem::take(&mut self.spare));
        let page = Page::of(&sheet, &self.history.names.roll());
        let unix_s = unix_ms() / 1_000;
        let mut written = Ok(());
        if !page.is_empty() {
            written = self.history.store.add(unix_s, &page);
            if written.is_err() {
                stats.give_back(&sheet);
            }
        }
        // Also back over it: the wall clock may be set.
        if written.is_ok() && self.swept != Some(unix_s / 60) {
            self.swept = Some(unix_s / 60);
            written = self.history.store.keep(unix_s);
        }
        match written {
            Ok(()) => self.is_told = false,
            Err(trouble) if !std::mem::replace(&mut self.is_told, true) => {
                self.history
                    .log
                    .error(format_args!("figures are not written down, and held in memory: {trouble}"));
            }
            Err(_) => {}
        }
        sheet.clear();
        self.spare = sheet;
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
        let thread = StatsThread::start(Arc::clone(&stats), Vec::new(), NEVER, None).expect("a thread");
        outboxes[0].offer(&mut sheet(1));
        outboxes[0].leave(sheet(2));
        outboxes[1].leave(sheet(4));
        thread.stop();
        assert_eq!(lock(&stats.desk).book.totals().accepted, 7);
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
            StatsThread::start(Arc::clone(&stats), boards, Duration::from_millis(1), None).expect("a thread");
        for _ in 0..3 {
            sweeps.recv().expect("a sweep");
        }
        assert_eq!(lock(&stats.desk).book.totals().accepted, 1);
        thread.stop();
    }
}
