//! Where a core leaves its full sheet for the stats thread and finds an empty one. A sheet may be late; it is never
//! lost, and a core never waits.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::ledger::sheet::Sheet;

/// Two places for sheets between one core and the stats thread, and one for the core's last sheet.
///
/// Sheets in circulation: the core writes one; the other is in `full`, in the stats thread's hands, or in `empty`.
#[derive(Debug)]
pub struct Outbox {
    full: Slot,
    empty: Slot,
    last: Slot,
}

/// What became of an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// The core writes on a clean sheet now.
    Taken,
    /// The stats thread is behind: the core goes on with the same sheet and offers it at the next interval.
    Later,
}

impl Outbox {
    /// An outbox with the empty sheet that its core will get in return for its first full one.
    pub fn new() -> Self {
        Self { full: Slot::default(), empty: Slot::of(Box::default()), last: Slot::default() }
    }

    /// For the core, each interval: changes its sheet for an empty one, if there is one.
    pub fn offer(&self, sheet: &mut Box<Sheet>) -> Offer {
        // try_lock: the other side holds a slot for a pointer swap, but may be off its CPU in the middle of it.
        let Some(mut empty) = self.empty.try_lock() else { return Offer::Later };
        let Some(mut full) = self.full.try_lock() else { return Offer::Later };
        if full.is_some() {
            return Offer::Later;
        }
        let Some(clean) = empty.take() else { return Offer::Later };
        *full = Some(std::mem::replace(sheet, clean));
        Offer::Taken
    }

    /// For the core, when it ends: leaves the sheet it was writing.
    pub fn leave(&self, sheet: Box<Sheet>) {
        *self.last.lock() = Some(sheet);
    }

    /// For the stats thread: the full sheets that are there. Each is cleared and given back.
    pub fn collect(&self, mut merge: impl FnMut(&Sheet)) {
        // Slots are held for the swap alone: merging takes longer than a core may be kept from its slot.
        let full = self.full.lock().take();
        if let Some(mut sheet) = full {
            merge(&sheet);
            sheet.clear();
            *self.empty.lock() = Some(sheet);
        }
        let last = self.last.lock().take();
        if let Some(sheet) = last {
            merge(&sheet);
        }
    }
}

impl Default for Outbox {
    fn default() -> Self {
        Self::new()
    }
}

/// A place for one sheet.
#[derive(Debug, Default)]
struct Slot(Mutex<Option<Box<Sheet>>>);

impl Slot {
    fn of(sheet: Box<Sheet>) -> Self {
        Self(Mutex::new(Some(sheet)))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Box<Sheet>>> {
        // A slot holds a sheet or none whoever panicked: there is no half-way to be poisoned by.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn try_lock(&self) -> Option<MutexGuard<'_, Option<Box<Sheet>>>> {
        match self.0.try_lock() {
            Ok(slot) => Some(slot),
            Err(std::sync::TryLockError::Poisoned(slot)) => Some(slot.into_inner()),
            Err(std::sync::TryLockError::WouldBlock) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Barrier};

    use super::*;

    fn collected(outbox: &Outbox) -> u64 {
        let mut sum = 0;
        outbox.collect(|sheet| sum += sheet.accepted);
        sum
    }

    #[test]
    fn a_sheet_nobody_collects_is_written_on() {
        let outbox = Outbox::new();
        let mut sheet = Box::<Sheet>::default();
        sheet.accepted = 1;
        assert_eq!(outbox.offer(&mut sheet), Offer::Taken);
        assert_eq!(sheet.accepted, 0);
        for _ in 0..3 {
            sheet.accepted += 10;
            assert_eq!(outbox.offer(&mut sheet), Offer::Later);
        }
        assert_eq!(collected(&outbox), 1);
        assert_eq!(outbox.offer(&mut sheet), Offer::Taken);
        assert_eq!(collected(&outbox), 30);
        assert_eq!(collected(&outbox), 0);
    }

    #[test]
    fn the_last_sheet_is_collected_beside_a_full_one() {
        let outbox = Outbox::new();
        let mut sheet = Box::<Sheet>::default();
        sheet.accepted = 1;
        assert_eq!(outbox.offer(&mut sheet), Offer::Taken);
        sheet.accepted = 2;
        outbox.leave(sheet);
        assert_eq!(collected(&outbox), 3);
    }

    #[test]
    fn with_cores_and_stats_at_work_nothing_is_lost_or_counted_twice() {
        const CORES: usize = 3;
        const OFFERS: u64 = 2_000;
        let outboxes: Arc<[Outbox]> = (0..CORES).map(|_| Outbox::new()).collect();
        let start = Arc::new(Barrier::new(CORES + 1));
        let cores: Vec<_> = (0..CORES)
            .map(|core| {
                let (outboxes, start) = (Arc::clone(&outboxes), Arc::clone(&start));
                std::thread::spawn(move || {
                    let mut sheet = Box::<Sheet>::default();
                    start.wait();
                    for number in 0..OFFERS {
                        sheet.accepted += 1;
                        sheet.gap(number);
                        outboxes[core].offer(&mut sheet);
                    }
                    outboxes[core].leave(sheet);
                })
            })
            .collect();

        let mut whole = Sheet::default();
        start.wait();
        while !cores.iter().all(std::thread::JoinHandle::is_finished) {
            outboxes.iter().for_each(|outbox| outbox.collect(|sheet| whole.merge(sheet)));
        }
        cores.into_iter().for_each(|core| core.join().expect("the core ends"));
        outboxes.iter().for_each(|outbox| outbox.collect(|sheet| whole.merge(sheet)));

        assert_eq!(whole.accepted, CORES as u64 * OFFERS);
        assert_eq!(whole.gap_us.count(), CORES as u64 * OFFERS);
        assert_eq!(whole.gap_us.sum(), CORES as u64 * (OFFERS * (OFFERS - 1) / 2));
    }
}
