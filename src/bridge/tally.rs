//! How much was written and how much was not, counted by whoever writes or cannot, and read by whoever asks.

use std::sync::atomic::{AtomicU64, Ordering};

/// Two counts that only grow. Each stands for itself, so every access is relaxed.
#[derive(Debug, Default)]
pub struct Tally {
    written: AtomicU64,
    dropped: AtomicU64,
}

impl Tally {
    pub fn count_written(&self, count: u64) {
        self.written.fetch_add(count, Ordering::Relaxed);
    }

    /// What nobody will read: there was no room for it, or what it goes to failed.
    pub fn count_dropped(&self, count: u64) {
        self.dropped.fetch_add(count, Ordering::Relaxed);
    }

    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_counted_for_itself() {
        let tally = Tally::default();
        tally.count_written(2);
        tally.count_dropped(3);
        tally.count_written(4);
        assert_eq!((tally.written(), tally.dropped()), (6, 3));
    }
}
