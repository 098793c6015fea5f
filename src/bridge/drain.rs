//! Whether the process is on its way out. It never comes back from that.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU8, Ordering},
};

/// How far the way out has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    Serving,
    /// Nothing new is accepted; what runs may finish.
    Draining,
    /// Time is up: what still runs is ended.
    Cutting,
}

/// The drain flag: written by control, read by every core at each request and each tick.
#[derive(Debug, Default)]
pub struct Drain(AtomicU8);

impl Drain {
    pub fn stage(&self) -> Stage {
        // Relaxed: the flag stands for itself; nothing else is read because of it.
        match self.0.load(Ordering::Relaxed) {
            0 => Stage::Serving,
            1 => Stage::Draining,
            _ => Stage::Cutting,
        }
    }

    /// Goes on to `stage`. Answers whether that was a step ahead: a stage once reached is never left for an earlier one.
    pub fn advance(&self, stage: Stage) -> bool {
        let number = stage as u8;
        self.0.fetch_max(number, Ordering::Relaxed) < number
    }
}

/// A flag that a signal handler sets and reads, in the type that signal-hook asks for.
pub fn latch() -> Arc<AtomicBool> {
    Arc::new(AtomicBool::new(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_is_never_left_for_an_earlier_one() {
        let drain = Drain::default();
        assert_eq!(drain.stage(), Stage::Serving);
        assert!(drain.advance(Stage::Draining));
        assert!(!drain.advance(Stage::Draining));
        assert!(drain.advance(Stage::Cutting));
        assert!(!drain.advance(Stage::Draining));
        assert_eq!(drain.stage(), Stage::Cutting);
    }
}
