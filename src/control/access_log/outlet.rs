//! The thread that writes what the log thread has rendered. A write may take for ever: that costs lines, which are counted, and
//! holds up neither what else is made of an exchange nor the end of the process.

use std::{
    convert::Infallible,
    io,
    sync::{
        Arc, Mutex,
        mpsc::{self, Receiver, Sender, SyncSender},
    },
};

use super::sink::{Lost, Sink};
use crate::{
    base::limits::LOG_TEXT_WAITING_BYTES_MAX,
    bridge::tally::Tally,
    config::LogTarget,
    control::{lock, log::Log},
};

/// Where text is left for the thread. What was left is written when this is dropped, and then the thread ends.
pub(super) struct Outlet {
    told: Sender<Word>,
    /// Buffers that have been written, to be used again.
    spare: Receiver<Vec<u8>>,
    unwritten: Arc<Mutex<Unwritten>>,
    tally: Arc<Tally>,
}

/// What was left and is neither written nor lost yet.
#[derive(Debug, Default)]
pub(super) struct Unwritten {
    bytes: usize,
    pub(super) lines: u64,
}

enum Word {
    Text { text: Vec<u8>, lines: u64 },
    Reopen,
}

/// Buffers that may lie about unused.
const SPARE_MAX: usize = 4;

impl Outlet {
    /// `ended` is dropped when the thread has ended.
    pub(super) fn start(
        target: LogTarget,
        tally: Arc<Tally>,
        log: Log,
        ended: Sender<Infallible>,
    ) -> io::Result<Self> {
        let (told, words) = mpsc::channel();
        let (back, spare) = mpsc::sync_channel(SPARE_MAX);
        let unwritten = Arc::<Mutex<Unwritten>>::default();
        let mut writer =
            Writer { sink: Sink::new(target, log), unwritten: unwritten.clone(), tally: tally.clone(), back };
        std::thread::Builder::new().name("rw-log-sink".to_owned()).spawn(move || {
            writer.run(&words);
            drop(ended);
        })?;
        Ok(Self { told, spare, unwritten, tally })
    }

    /// Takes whole lines and leaves an empty buffer in their place. What there is no room for is dropped and counted.
    pub(super) fn leave(&self, text: &mut Vec<u8>, lines: u64) {
        let has_room = {
            let mut unwritten = lock(&self.unwritten);
            let has_room = unwritten.bytes + text.len() <= LOG_TEXT_WAITING_BYTES_MAX;
            if has_room {
                unwritten.bytes += text.len();
                unwritten.lines += lines;
            }
            has_room
        };
        if !has_room {
            self.tally.count_dropped(lines);
            text.clear();
            return;
        }
        let empty = self.spare.try_recv().unwrap_or_default();
        let text = std::mem::replace(text, empty);
        // A thread that has ended did so by a panic: what is left for it stays unwritten, and is known to be.
        let _ = self.told.send(Word::Text { text, lines });
    }

    /// Has the file opened anew, behind all that was left before.
    pub(super) fn reopen(&self) {
        let _ = self.told.send(Word::Reopen);
    }

    pub(super) fn unwritten(&self) -> Arc<Mutex<Unwritten>> {
        self.unwritten.clone()
    }
}

struct Writer {
    sink: Sink,
    unwritten: Arc<Mutex<Unwritten>>,
    tally: Arc<Tally>,
    back: SyncSender<Vec<u8>>,
}

impl Writer {
    fn run(&mut self, words: &Receiver<Word>) {
        for word in words {
            match word {
                Word::Text { text, lines } => self.write(text, lines),
                Word::Reopen => self.sink.reopen(),
            }
        }
    }

    fn write(&mut self, mut text: Vec<u8>, lines: u64) {
        match self.sink.write(&text) {
            Ok(()) => self.tally.count_written(lines),
            Err(Lost) => self.tally.count_dropped(lines),
        }
        {
            let mut unwritten = lock(&self.unwritten);
            unwritten.bytes -= text.len();
            unwritten.lines -= lines;
        }
        text.clear();
        // One more than may lie about is freed.
        let _ = self.back.try_send(text);
    }
}
