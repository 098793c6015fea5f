//! What a core leaves for the log thread, a line for each exchange. A core never waits for the log: what does not fit is
//! dropped and counted, and all else is taken in the order in which it was left. Payloads have a bound of their own, in bytes:
//! a line whose payload does not fit is left without it.

use std::{
    hint::spin_loop,
    sync::{Mutex, PoisonError, TryLockError},
};

use crate::{
    base::limits::{LOG_LINES_WAITING_MAX, LOG_PAYLOADS_WAITING_BYTES_MAX, LOG_PIPE_TRIES},
    bridge::{padded::Padded, tally::Tally},
    ledger::logged::Logged,
};

/// The way of one core's lines to the log thread.
#[derive(Debug)]
pub struct LogPipe {
    waiting: Padded<Mutex<Waiting>>,
    pub tally: Tally,
    /// Of payloads alone.
    pub payloads: Tally,
}

#[derive(Debug)]
struct Waiting {
    // At most LOG_LINES_WAITING_MAX, which is its capacity: nothing is allocated inside the lock.
    lines: Vec<Logged>,
    /// What the payloads of `lines` take.
    payload_bytes: usize,
}

impl LogPipe {
    pub fn new() -> Self {
        let waiting = Waiting { lines: room(), payload_bytes: 0 };
        Self { waiting: Padded(Mutex::new(waiting)), tally: Tally::default(), payloads: Tally::default() }
    }

    /// For the core, once an exchange: leaves a line, or drops and counts it.
    pub fn push(&self, mut logged: Logged) {
        // The other side holds it for a pointer swap, but may be off its CPU in the middle of it.
        let waiting = (0..LOG_PIPE_TRIES).find_map(|_| match self.waiting.0.try_lock() {
            Ok(waiting) => Some(waiting),
            Err(TryLockError::Poisoned(waiting)) => Some(waiting.into_inner()),
            Err(TryLockError::WouldBlock) => {
                spin_loop();
                None
            }
        });
        // Freed, if it must be, when nothing is locked any more.
        let mut too_much = None;
        match waiting {
            Some(mut waiting) if waiting.lines.len() < LOG_LINES_WAITING_MAX => {
                if let Some(payload) = &logged.payload {
                    let bytes = waiting.payload_bytes + payload.bytes();
                    if bytes <= LOG_PAYLOADS_WAITING_BYTES_MAX {
                        waiting.payload_bytes = bytes;
                    } else {
                        too_much = logged.payload.take();
                    }
                }
                waiting.lines.push(logged);
            }
            _ => {
                self.tally.count_dropped(1);
                too_much = logged.payload.take();
            }
        }
        if too_much.is_some() {
            self.payloads.count_dropped(1);
        }
    }

    /// For the log thread: changes all that waits for `empty`, which has [`room`].
    pub fn swap(&self, empty: &mut Vec<Logged>) {
        debug_assert!(empty.is_empty(), "lines that were taken before have been dealt with");
        // A list of whole lines at any time, whoever panicked.
        let mut waiting = self.waiting.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut waiting.lines, empty);
        waiting.payload_bytes = 0;
    }

    /// Lines that wait.
    pub fn waiting(&self) -> u64 {
        self.waiting.0.lock().unwrap_or_else(PoisonError::into_inner).lines.len() as u64
    }
}

/// Room for all lines that may wait. Memory is taken by what is written into it alone.
pub fn room() -> Vec<Logged> {
    Vec::with_capacity(LOG_LINES_WAITING_MAX)
}

impl Default for LogPipe {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{
        net::Ipv4Addr,
        sync::{Arc, Barrier},
    };

    use super::*;
    use crate::{
        base::now::Now,
        ledger::{
            logged::{Copied, Keep, Payload},
            record::{Outcome, Record},
            sheet::Sheet,
        },
        wire::request_id::RequestId,
    };

    /// A line that is told from others by its number.
    pub(crate) fn numbered(number: u64) -> Logged {
        let record = Record::new("chat/completions", Now(0));
        Logged {
            gist: record.close(Now(1_000_000), Outcome::Completed, &mut Sheet::default()).gist(),
            whole: None,
            ended_unix_ms: number,
            request_id: RequestId::default(),
            caller: None,
            address: Ipv4Addr::LOCALHOST.into(),
            method: None,
            http10: false,
            route: None,
            keep: Keep::No,
            payload: None,
        }
    }

    #[test]
    fn what_does_not_fit_is_counted_and_the_rest_keeps_its_order() {
        let (pipe, mut lines) = (LogPipe::new(), room());
        let line = numbered(0);
        for number in 0..LOG_LINES_WAITING_MAX as u64 + 3 {
            pipe.push(Logged { ended_unix_ms: number, ..line.clone() });
        }
        pipe.swap(&mut lines);
        assert_eq!((lines.len(), pipe.tally.dropped()), (LOG_LINES_WAITING_MAX, 3));
        assert!(lines.iter().map(|line| line.ended_unix_ms).eq(0..LOG_LINES_WAITING_MAX as u64));
        lines.clear();
        pipe.push(line);
        pipe.swap(&mut lines);
        assert_eq!((lines.len(), pipe.tally.dropped()), (1, 3), "there is room again");
    }

    #[test]
    fn a_payload_that_does_not_fit_is_counted_and_its_line_is_left() {
        let (pipe, mut lines) = (LogPipe::new(), room());
        let third = LOG_PAYLOADS_WAITING_BYTES_MAX / 3;
        let heavy = || {
            let response = Copied { bytes: vec![b'x'; third], whole_bytes: third as u64 };
            Logged { payload: Some(Box::new(Payload { response, ..Payload::default() })), ..numbered(0) }
        };
        for _ in 0..2 {
            (0..5).for_each(|_| pipe.push(heavy()));
            pipe.swap(&mut lines);
            assert_eq!(lines.drain(..).filter(|line| line.payload.is_some()).count(), 3);
        }
        assert_eq!((pipe.payloads.dropped(), pipe.tally.dropped()), (4, 0));
    }

    #[test]
    fn with_both_at_work_every_line_is_taken_once_or_counted() {
        const LINES: u64 = 20_000;
        let pipe = Arc::new(LogPipe::new());
        let start = Arc::new(Barrier::new(2));
        let core = {
            let (pipe, start, line) = (Arc::clone(&pipe), Arc::clone(&start), numbered(0));
            std::thread::spawn(move || {
                start.wait();
                for number in 0..LINES {
                    pipe.push(Logged { ended_unix_ms: number, ..line.clone() });
                }
            })
        };
        let (mut lines, mut taken) = (room(), Vec::new());
        start.wait();
        let mut take = || {
            pipe.swap(&mut lines);
            taken.extend(lines.drain(..).map(|line| line.ended_unix_ms));
        };
        while !core.is_finished() {
            take();
        }
        core.join().expect("the core ends");
        take();
        assert_eq!(taken.len() as u64 + pipe.tally.dropped(), LINES);
        assert!(taken.is_sorted_by(|one, next| one < next));
    }
}
