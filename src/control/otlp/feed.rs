//! What the log thread leaves for the thread that sends: exchanges, in a list that both share, so that neither makes a message
//! of each. A list that is full costs exchanges, which are counted, and the log thread nothing.

use std::sync::{
    Arc, Mutex,
    mpsc::{self, Receiver, RecvTimeoutError, SyncSender},
};
use std::time::Duration;

use super::{Signal, Tallies};
use crate::{
    base::limits::{OTLP_BATCH_MAX, OTLP_WAITING_MAX},
    config::Signals,
    control::lock,
    ledger::logged::Logged,
};

/// An exchange, and the core it ran on.
pub(super) struct Line {
    pub(super) core: usize,
    pub(super) logged: Logged,
}

/// Where exchanges are left. Cheap to clone.
#[derive(Clone)]
pub struct Feed {
    lines: Arc<Mutex<Vec<Line>>>,
    /// Rung when there is a whole request's worth; what is less is looked for in time.
    bell: SyncSender<()>,
    signals: Signals,
    tallies: Arc<Tallies>,
}

/// Where they are taken from.
pub(super) struct Trough {
    lines: Arc<Mutex<Vec<Line>>>,
    bell: Receiver<()>,
}

/// Both ends.
pub(super) fn pair(signals: Signals, tallies: Arc<Tallies>) -> (Feed, Trough) {
    let lines = Arc::<Mutex<Vec<Line>>>::default();
    let (ring, bell) = mpsc::sync_channel(1);
    (Feed { lines: lines.clone(), bell: ring, signals, tallies }, Trough { lines, bell })
}

impl Feed {
    /// Leaves exchanges of one core, or drops and counts them.
    pub fn offer(&self, core: usize, exchanges: impl Iterator<Item = Logged>) {
        let (mut lost_spans, mut lost_records) = (0, 0);
        let is_batch = {
            let mut lines = lock(&self.lines);
            for logged in exchanges {
                let spans = self.spans_of(&logged);
                if spans == 0 && !self.signals.logs {
                    continue;
                }
                if lines.len() < OTLP_WAITING_MAX {
                    lines.push(Line { core, logged });
                } else {
                    lost_spans += spans;
                    lost_records += u64::from(self.signals.logs);
                }
            }
            lines.len() >= OTLP_BATCH_MAX
        };
        self.tallies[Signal::Traces as usize].count_dropped(lost_spans);
        self.tallies[Signal::Logs as usize].count_dropped(lost_records);
        if is_batch {
            // Full: it has been rung, and was not heard yet.
            let _ = self.bell.try_send(());
        }
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.signals.traces || self.signals.logs
    }

    fn spans_of(&self, logged: &Logged) -> u64 {
        let trail = logged.closed.trail.as_deref().filter(|trail| self.signals.traces && trail.is_sampled());
        trail.map_or(0, |trail| 1 + trail.tries().len() as u64)
    }
}

/// All feeds are gone: what is in the trough is all that will ever be.
pub(super) struct Over;

impl Trough {
    /// Waits for a whole request's worth, or for so long.
    pub(super) fn wait(&self, patience: Duration) -> Result<(), Over> {
        if lock(&self.lines).len() >= OTLP_BATCH_MAX {
            return Ok(());
        }
        match self.bell.recv_timeout(patience) {
            Ok(()) | Err(RecvTimeoutError::Timeout) => Ok(()),
            Err(RecvTimeoutError::Disconnected) => Err(Over),
        }
    }

    /// Fills a batch up, oldest first.
    pub(super) fn take(&self, batch: &mut Vec<Line>) {
        let mut lines = lock(&self.lines);
        let count = OTLP_BATCH_MAX.saturating_sub(batch.len()).min(lines.len());
        batch.extend(lines.drain(..count));
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Counts what it is left.
    pub(crate) struct Fed(Trough);

    impl Fed {
        pub(crate) fn take(&self) -> u64 {
            let mut taken = 0;
            loop {
                let mut batch = Vec::new();
                self.0.take(&mut batch);
                if batch.is_empty() {
                    return taken;
                }
                taken += batch.len() as u64;
            }
        }
    }

    impl Feed {
        /// One to which records matter, and nothing else.
        pub(crate) fn of_records() -> (Self, Fed) {
            let signals = Signals { metrics: false, traces: false, logs: true };
            let (feed, trough) = pair(signals, Arc::default());
            (feed, Fed(trough))
        }
    }
}
