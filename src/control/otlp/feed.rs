//! What the log thread leaves for the thread that sends: a record of each exchange, encoded while the exchange is at hand, and
//! those exchanges of which spans are made. What finds no room costs telemetry, which is counted, and the log thread nothing.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard,
        mpsc::{self, Receiver, RecvTimeoutError, SyncSender},
    },
    time::Duration,
};

use super::{Signal, Tallies, records};
use crate::{
    base::limits::{OTLP_BATCH_MAX, OTLP_WAITING_MAX},
    config::Signals,
    control::{access_log::Told, lock},
    ledger::logged::Logged,
};

/// An exchange, and the core it ran on.
pub(super) struct Line {
    pub(super) core: usize,
    pub(super) logged: Logged,
}

/// What one request holds, or will.
#[derive(Default)]
pub(super) struct Records {
    /// Begins with room for what stands before them.
    pub(super) body: Vec<u8>,
    pub(super) count: usize,
}

/// What is sent together.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) sampled: Vec<Line>,
    pub(super) records: Option<Records>,
}

#[derive(Default)]
struct Waiting {
    sampled: VecDeque<Line>,
    /// Only the last may be filled up.
    records: VecDeque<Records>,
    /// In all of `records`.
    record_count: usize,
    /// A body that was sent: pages that are there need not be asked for.
    spare: Option<Vec<u8>>,
}

/// Where exchanges are left. Cheap to clone.
#[derive(Clone)]
pub struct Feed {
    waiting: Arc<Mutex<Waiting>>,
    /// Rung when there is a whole request's worth; what is less is looked for in time.
    bell: SyncSender<()>,
    signals: Signals,
    /// What a body begins with.
    room: usize,
    tallies: Arc<Tallies>,
}

/// A feed into which exchanges are put now.
pub(in crate::control) struct Filling<'a> {
    feed: &'a Feed,
    waiting: MutexGuard<'a, Waiting>,
    lost_records: u64,
}

/// Where they are taken from.
pub(super) struct Trough {
    waiting: Arc<Mutex<Waiting>>,
    bell: Receiver<()>,
}

/// Both ends.
pub(super) fn pair(signals: Signals, room: usize, tallies: Arc<Tallies>) -> (Feed, Trough) {
    let waiting = Arc::<Mutex<Waiting>>::default();
    let (ring, bell) = mpsc::sync_channel(1);
    (Feed { waiting: waiting.clone(), bell: ring, signals, room, tallies }, Trough { waiting, bell })
}

impl Feed {
    /// Holds the sending thread up until it is closed.
    pub(in crate::control) fn open(&self) -> Filling<'_> {
        Filling { feed: self, waiting: lock(&self.waiting), lost_records: 0 }
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.signals.traces || self.signals.logs
    }

    fn spans_of(&self, logged: &Logged) -> u64 {
        let trail = logged.closed.trail.as_deref().filter(|trail| self.signals.traces && trail.is_sampled());
        trail.map_or(0, |trail| 1 + trail.tries().len() as u64)
    }
}

impl Filling<'_> {
    /// Leaves the record of an exchange, if somebody wants it, or drops and counts it.
    pub(in crate::control) fn record(&mut self, told: &Told<'_>) {
        if !self.feed.signals.logs {
            return;
        }
        let waiting = &mut *self.waiting;
        if waiting.record_count >= OTLP_WAITING_MAX {
            self.lost_records += 1;
            return;
        }
        if waiting.records.back().is_none_or(|last| last.count >= OTLP_BATCH_MAX) {
            let mut body = waiting.spare.take().unwrap_or_default();
            body.clear();
            body.resize(self.feed.room, 0);
            waiting.records.push_back(Records { body, count: 0 });
        }
        if let Some(last) = waiting.records.back_mut() {
            records::add(told, &mut last.body);
            last.count += 1;
            waiting.record_count += 1;
        }
    }

    /// Leaves those exchanges of one core of which spans are made, or drops and counts them.
    pub(in crate::control) fn close(self, core: usize, exchanges: impl Iterator<Item = Logged>) {
        let Self { feed, mut waiting, lost_records } = self;
        let mut lost_spans = 0;
        for logged in exchanges {
            match feed.spans_of(&logged) {
                0 => {}
                _ if waiting.sampled.len() < OTLP_WAITING_MAX => {
                    waiting.sampled.push_back(Line { core, logged });
                }
                spans => lost_spans += spans,
            }
        }
        let is_batch = waiting.has_batch();
        drop(waiting);
        feed.tallies[Signal::Traces as usize].count_dropped(lost_spans);
        feed.tallies[Signal::Logs as usize].count_dropped(lost_records);
        if is_batch {
            // Full: it has been rung, and was not heard yet.
            let _ = feed.bell.try_send(());
        }
    }
}

impl Waiting {
    fn has_batch(&self) -> bool {
        self.sampled.len() >= OTLP_BATCH_MAX
            || self.records.front().is_some_and(|first| first.count >= OTLP_BATCH_MAX)
    }
}

/// All feeds are gone: what is in the trough is all that will ever be.
pub(super) struct Over;

impl Trough {
    pub(super) fn has_batch(&self) -> bool {
        lock(&self.waiting).has_batch()
    }

    /// Waits for a whole request's worth, or for so long.
    pub(super) fn wait(&self, patience: Duration) -> Result<(), Over> {
        if self.has_batch() {
            return Ok(());
        }
        match self.bell.recv_timeout(patience) {
            Ok(()) | Err(RecvTimeoutError::Timeout) => Ok(()),
            Err(RecvTimeoutError::Disconnected) => Err(Over),
        }
    }

    /// The oldest that waits, as much as is sent together.
    pub(super) fn take(&self) -> Batch {
        let mut waiting = lock(&self.waiting);
        let count = OTLP_BATCH_MAX.min(waiting.sampled.len());
        let sampled = waiting.sampled.drain(..count).collect();
        let records = waiting.records.pop_front();
        waiting.record_count -= records.as_ref().map_or(0, |records| records.count);
        Batch { sampled, records }
    }

    /// Takes a body back that is not needed any more.
    pub(super) fn give_back(&self, body: Vec<u8>) {
        lock(&self.waiting).spare = Some(body);
    }
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.sampled.is_empty() && self.records.is_none()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{base::ids::ProviderRoll, control::access_log::Words, wire::mask::Rules};

    /// Counts what it is left.
    pub(crate) struct Fed(Trough);

    impl Fed {
        pub(crate) fn take(&self) -> u64 {
            let mut taken = 0;
            while let Batch { records: Some(Records { count, .. }), .. } = self.0.take() {
                taken += count as u64;
            }
            taken
        }
    }

    impl Feed {
        /// One to which records matter, and nothing else.
        pub(crate) fn of_records() -> (Self, Fed) {
            let signals = Signals { metrics: false, traces: false, logs: true };
            let (feed, trough) = pair(signals, 0, Arc::default());
            (feed, Fed(trough))
        }

        /// Leaves exchanges of one core.
        pub(in super::super) fn offer(&self, core: usize, exchanges: impl Iterator<Item = Logged>) {
            let exchanges: Vec<_> = exchanges.collect();
            let words = Words { core, roll: &ProviderRoll::default(), rules: &Rules::default() };
            let mut filling = self.open();
            exchanges.iter().for_each(|logged| filling.record(&Told::of(logged, &words)));
            filling.close(core, exchanges.into_iter());
        }
    }
}
