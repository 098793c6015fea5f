//! What can go wrong, counted: a fault that no seed injects proves nothing.

use std::cell::RefCell;

macro_rules! faults {
    ($($name:ident),* $(,)?) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Fault { $($name),* }
        pub(super) const ALL: &[Fault] = &[$(Fault::$name),*];
    };
}

faults! {
    ResetWhileSending, ResetInHead, ResetInBody, ClosedInHead, ClosedInBody, StalledInHead, StalledInBody,
    GarbageHead, BadChunk, TooManyInterims, SlowAnswer,
    ChunkExtension, Trailers, Interim, ConnectionClose, Http10Answer, UntilClose, TornChunks,
    StaleFin, StaleReset, StrayBytes, ShortWrite,
    ErrorEvent, MissingDone, MissingFinish, LargeEvent, LargeJson, StatusReplaced,
    NoAddress, DialRefused, DialTimedOut,
    ClientFin, ClientReset, Pipelined, SlowReader, StoppedReader, SlowHead, SlowBody, BadRequest, Http10Client,
    BudgetSpent, Drained, DrainCut,
    Commented, ReadToItsEnd, ReadToItsUsage, LostUnheard,
    Kept,
}

/// How often each was injected.
#[derive(Default)]
pub(super) struct Faults(RefCell<Vec<u64>>);

impl Faults {
    pub(super) fn inject(&self, fault: Fault) {
        let mut counts = self.0.borrow_mut();
        counts.resize(ALL.len(), 0);
        counts[fault as usize] += 1;
    }

    pub(super) fn add(&self, other: &Self) {
        let mut counts = self.0.borrow_mut();
        counts.resize(ALL.len(), 0);
        other.0.borrow().iter().zip(&mut *counts).for_each(|(more, count)| *count += more);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Fault, u64)> {
        let counts = self.0.borrow().clone();
        ALL.iter().map(move |&fault| (fault, counts.get(fault as usize).copied().unwrap_or(0)))
    }
}
