//! Bounds the request bytes that this core buffers at once. Who finds it spent waits in line; the wait has an end.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::{Rc, Weak},
    task::{Context, Poll, Waker},
};

/// Bytes of request bodies that may be held at once. Invariant: `used <= max`, unless `max` was lowered meanwhile.
pub struct Budget(Rc<State>);

struct State {
    used: Cell<usize>,
    max: Cell<usize>,
    line: RefCell<VecDeque<Waker>>,
}

/// Bytes taken from the budget; they return when this is dropped.
#[derive(Default)]
pub struct Hold {
    budget: Weak<State>,
    bytes: usize,
}

impl Budget {
    pub fn new(max: usize) -> Self {
        Self(Rc::new(State { used: Cell::new(0), max: Cell::new(max), line: RefCell::default() }))
    }

    pub fn used(&self) -> usize {
        self.0.used.get()
    }

    /// A new bound, from a new configuration.
    pub fn set_max(&self, max: usize) {
        if self.0.max.replace(max) != max {
            self.0.wake_all();
        }
    }

    /// A hold on nothing, to be grown.
    pub fn hold(&self) -> Hold {
        Hold { budget: Rc::downgrade(&self.0), bytes: 0 }
    }
}

impl Hold {
    /// Grows the hold to `bytes` if there is room; else remembers whom to wake.
    pub fn poll_grow(&mut self, bytes: usize, cx: &mut Context<'_>) -> Poll<()> {
        if self.try_grow(bytes) {
            return Poll::Ready(());
        }
        if let Some(budget) = self.budget.upgrade() {
            budget.line.borrow_mut().push_back(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Grows the hold to `bytes` in all if there is room.
    pub fn try_grow(&mut self, bytes: usize) -> bool {
        let Some(budget) = self.budget.upgrade() else { return true };
        let more = bytes.saturating_sub(self.bytes);
        if budget.used.get() + more > budget.max.get() {
            return false;
        }
        budget.used.set(budget.used.get() + more);
        self.bytes += more;
        true
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        #[cfg(test)]
        if super::sim::planted::is(super::sim::planted::Bug::BudgetKept) {
            return;
        }
        if self.bytes > 0
            && let Some(budget) = self.budget.upgrade()
        {
            budget.used.set(budget.used.get() - self.bytes);
            budget.wake_all();
        }
    }
}

impl State {
    // All, not one: the first in line may want more than there is while a later one would fit.
    fn wake_all(&self) {
        let line = std::mem::take(&mut *self.line.borrow_mut());
        line.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_returns_when_dropped() {
        let budget = Budget::new(10);
        let mut a = budget.hold();
        let mut b = budget.hold();
        assert!(a.try_grow(6) && a.try_grow(8));
        assert!(!b.try_grow(3));
        assert_eq!(budget.used(), 8);
        drop(a);
        assert!(b.try_grow(10));
        drop(b);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn whoever_waits_is_woken_by_a_release() {
        let (waker, count) = counting_waker();
        let budget = Budget::new(4);
        let mut a = budget.hold();
        assert!(a.try_grow(4));
        let mut b = budget.hold();
        assert!(b.poll_grow(1, &mut Context::from_waker(&waker)).is_pending());
        drop(a);
        assert_eq!(count.count(), 1);
        assert!(b.poll_grow(1, &mut Context::from_waker(&waker)).is_ready());
    }

    struct Wakes(std::sync::Mutex<usize>);

    impl Wakes {
        fn count(&self) -> usize {
            *self.0.lock().unwrap()
        }
    }

    impl std::task::Wake for Wakes {
        fn wake(self: std::sync::Arc<Self>) {
            *self.0.lock().unwrap() += 1;
        }
    }

    fn counting_waker() -> (Waker, std::sync::Arc<Wakes>) {
        let wakes = std::sync::Arc::new(Wakes(std::sync::Mutex::new(0)));
        (wakes.clone().into(), wakes)
    }
}
