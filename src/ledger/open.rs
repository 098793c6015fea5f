//! A record while its exchange runs: counted once when it is closed, and whatever happens to the exchange, it is closed.

use std::ops::{Deref, DerefMut};

use crate::{
    base::now::Now,
    ledger::{
        gist::Gist,
        record::{Closed, Outcome, Record, Uncounted},
        sheet::Sheet,
        trail::Trail,
    },
};

/// Where an [`OpenRecord`] finds the time and its core's sheet when nobody is left to tell it: the shard's world, or
/// the simulation's.
pub trait Desk {
    fn now(&self) -> Now;
    fn with_sheet(&self, write: impl FnOnce(&mut Sheet));
}

impl<D: Desk> Desk for &D {
    fn now(&self) -> Now {
        (**self).now()
    }

    fn with_sheet(&self, write: impl FnOnce(&mut Sheet)) {
        (**self).with_sheet(write);
    }
}

impl<D: Desk> Desk for std::rc::Rc<D> {
    fn now(&self) -> Now {
        (**self).now()
    }

    fn with_sheet(&self, write: impl FnOnce(&mut Sheet)) {
        (**self).with_sheet(write);
    }
}

/// Closes a record when this is dropped: as `Panicked` while a panic unwinds, else as `Abandoned`. The record stays where it
/// is, and is moved only for who wants to keep it.
pub struct OpenRecord<'r, D: Desk> {
    desk: D,
    // Some until closed.
    record: Option<&'r mut Record>,
}

/// A record that has been counted, where it lies.
pub struct Ended<'r>(pub(super) &'r mut Record);

impl Ended<'_> {
    /// For the log: in short, and the record itself where spans are made of it, or `whole` says that it is wanted.
    pub fn told(self, whole: bool) -> (Gist, Option<Box<Closed>>) {
        let is_sampled = self.0.trail.as_deref().is_some_and(Trail::is_sampled);
        let whole = (whole || is_sampled).then(|| Box::new(Closed(self.0.clone())));
        (Gist::of(self.0), whole)
    }
}

impl<'r, D: Desk> OpenRecord<'r, D> {
    /// Guards a record that is fresh.
    pub fn of(record: &'r mut Record, desk: D) -> Self {
        debug_assert!(record.outcome.is_none(), "a record is closed once");
        Self { desk, record: Some(record) }
    }

    /// Ends the exchange as it was meant to end.
    pub fn close(mut self, now: Now, outcome: Outcome) -> Ended<'r> {
        let record = self.record.take().expect(OPEN);
        self.desk.with_sheet(|sheet| record.end(now, outcome, sheet));
        Ended(record)
    }

    /// Ends the exchange likewise, but for its place in a sheet: its tokens are told elsewhere, and there it is counted.
    pub fn put_off(mut self, now: Now, outcome: Outcome) -> Uncounted {
        let record = self.record.take().expect(OPEN);
        (record.phases.ended, record.outcome) = (Some(now), Some(outcome));
        Uncounted(Closed(std::mem::replace(record, Record::new("", Now(0)))))
    }
}

const OPEN: &str = "who closes the guard consumes it, so it is still open";

impl<D: Desk> Deref for OpenRecord<'_, D> {
    type Target = Record;

    fn deref(&self) -> &Record {
        self.record.as_ref().expect(OPEN)
    }
}

impl<D: Desk> DerefMut for OpenRecord<'_, D> {
    fn deref_mut(&mut self) -> &mut Record {
        self.record.as_mut().expect(OPEN)
    }
}

impl<D: Desk> Drop for OpenRecord<'_, D> {
    fn drop(&mut self) {
        let Some(record) = self.record.take() else { return };
        let outcome = if std::thread::panicking() { Outcome::Panicked } else { Outcome::Abandoned };
        let now = self.desk.now();
        self.desk.with_sheet(|sheet| record.end(now, outcome, sheet));
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, panic::AssertUnwindSafe};

    use super::*;

    struct TestDesk(RefCell<Sheet>);

    impl Desk for TestDesk {
        fn now(&self) -> Now {
            Now(9_000_000)
        }

        fn with_sheet(&self, write: impl FnOnce(&mut Sheet)) {
            write(&mut self.0.borrow_mut());
        }
    }

    #[track_caller]
    fn check(end: impl FnOnce(OpenRecord<'_, &TestDesk>), expect: Outcome) {
        let desk = TestDesk(RefCell::new(Sheet::default()));
        let mut record = Record::new("chat/completions", Now(1_000_000));
        let open = OpenRecord::of(&mut record, &desk);
        let _ = std::panic::catch_unwind(AssertUnwindSafe(|| end(open)));
        let sheet = desk.0.into_inner();
        let whole = sheet.whole();
        assert_eq!((whole.outcomes[expect.index()], whole.outcomes.iter().sum::<u64>()), (1, 1));
        assert_eq!(sheet.requests.total(), 1);
        assert_eq!(whole.duration_us.sum(), 8_000);
    }

    #[test]
    fn a_record_is_counted_once_however_it_ends() {
        let close = |open: OpenRecord<'_, &TestDesk>, outcome| {
            let (gist, whole) = open.close(Now(9_000_000), outcome).told(false);
            assert_eq!((gist.outcome, whole.is_none()), (outcome, true));
        };
        check(|open| close(open, Outcome::Completed), Outcome::Completed);
        check(|open| close(open, Outcome::ClientGone), Outcome::ClientGone);
        check(|open| drop(open), Outcome::Abandoned);
        check(|_open| std::panic::resume_unwind(Box::new("a bug")), Outcome::Panicked);
    }

    #[test]
    fn a_panic_while_the_sheet_is_borrowed_is_still_counted() {
        let desk = TestDesk(RefCell::new(Sheet::default()));
        let caught = std::panic::catch_unwind(AssertUnwindSafe(|| {
            let mut record = Record::new("embeddings", Now(1));
            let _open = OpenRecord::of(&mut record, &desk);
            desk.with_sheet(|_| std::panic::resume_unwind(Box::new("a bug")));
        }));
        assert!(caught.is_err());
        assert_eq!(desk.0.borrow().whole().outcomes[Outcome::Panicked.index()], 1);
    }
}
