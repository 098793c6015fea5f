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
        let trail = logged.whole.as_ref().and_then(|record| record.trail.as_deref());
        let trail = trail.filter(|trail| self.signals.traces && trail.is_sampled());
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

    /// Takes those exchanges of one core of which spans are made, or drops and counts them; of the others nothing is left.
    pub(in crate::control) fn close(self, core: usize, exchanges: &mut Vec<Logged>) {
        let Self { feed, mut waiting, lost_records } = self;
        let mut lost_spans = 0;
        // From behind, because what is taken gives its place to the last. The others are not moved: they are large, and many.
        for place in (0..exchanges.len()).rev() {
            match feed.spans_of(&exchanges[place]) {
                0 => {}
                _ if waiting.sampled.len() < OTLP_WAITING_MAX => {
                    waiting.sampled.push_back(Line { core, logged: exchanges.swap_remove(place) });
                }
                spans => lost_spans += spans,
            }
        }
        exchanges.clear();
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
        self.has_exchanges() || self.has_records()
    }

    fn has_exchanges(&self) -> bool {
        self.sampled.len() >= OTLP_BATCH_MAX
    }

    fn has_records(&self) -> bool {
        self.records.front().is_some_and(|first| first.count >= OTLP_BATCH_MAX)
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

    /// The oldest that waits, as much as is sent together: of each kind what is a whole request's worth, or whatever there is.
    pub(super) fn take(&self, is_due: bool) -> Batch {
        let mut waiting = lock(&self.waiting);
        let count = OTLP_BATCH_MAX.min(waiting.sampled.len());
        let count = if is_due || waiting.has_exchanges() { count } else { 0 };
        let sampled = waiting.sampled.drain(..count).collect();
        let records = if is_due || waiting.has_records() { waiting.records.pop_front() } else { None };
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
    use crate::{
        base::{ids::ProviderRoll, now::Now},
        bridge::logpipe::tests::numbered,
        control::access_log::Words,
        ledger::{
            record::{Outcome, Record},
            sheet::Sheet,
            trail::Trail,
        },
        wire::{mask::Rules, trace_context::Share},
    };

    /// Counts what it is left.
    pub(crate) struct Fed(Trough);

    impl Fed {
        pub(crate) fn take(&self) -> u64 {
            let mut taken = 0;
            while let Batch { records: Some(Records { count, .. }), .. } = self.0.take(true) {
                taken += count as u64;
            }
            taken
        }
    }

    #[test]
    fn what_is_less_than_a_whole_request_waits_for_its_time() {
        let signals = Signals { metrics: false, traces: true, logs: true };
        let (feed, trough) = pair(signals, 0, Arc::default());
        let took = |is_due| {
            let Batch { sampled, records } = trough.take(is_due);
            (sampled.len(), records.map_or(0, |records| records.count))
        };
        let sampled = |count| std::iter::repeat_with(sampled).take(count);
        let plain = |count| std::iter::repeat_with(|| numbered(0)).take(count);
        feed.offer(0, sampled(3).chain(plain(OTLP_BATCH_MAX)));
        assert_eq!(took(false), (0, OTLP_BATCH_MAX));
        assert_eq!(took(false), (0, 0));
        feed.offer(0, sampled(OTLP_BATCH_MAX - 4));
        assert!(!trough.has_batch());
        feed.offer(0, sampled(2));
        assert_eq!(took(false), (OTLP_BATCH_MAX, OTLP_BATCH_MAX));
        assert_eq!(took(true), (1, 1));
        assert!(trough.take(true).is_empty());
    }

    fn sampled() -> Logged {
        let mut record = Record::new("chat", Now(0));
        record.trail = Some(Box::new(Trail::join(None, false, Share::ALL, || 7)));
        let closed = record.close(Now(1), Outcome::Completed, &mut Sheet::default());
        Logged { whole: Some(Box::new(closed)), ..numbered(0) }
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
            let mut exchanges: Vec<_> = exchanges.collect();
            let (roll, rules) = (ProviderRoll::default(), Rules::default());
            let words = Words::new(core, &roll, &rules);
            let mut filling = self.open();
            exchanges.iter().for_each(|logged| filling.record(&Told::of(logged, &words)));
            filling.close(core, &mut exchanges);
        }
    }
}
