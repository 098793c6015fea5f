//! Ends an attempt from beside it: what it has in flight is shut, returns by itself, and is awaited.

use std::cell::{Cell, RefCell};

/// A cancel that may be asked for at any time. What it shuts is said by whoever has something in flight.
#[derive(Default)]
pub struct Cancel {
    asked: Cell<bool>,
    shut: RefCell<Option<Box<dyn FnOnce()>>>,
}

/// As long as it lives, its cancel shuts a wire. It must go before the wire does, whose descriptor may become another's.
pub struct Armed<'a>(&'a Cancel);

impl Cancel {
    /// What a cancel does from now on; at once if it has been asked for.
    #[must_use]
    pub fn arm(&self, shut: impl FnOnce() + 'static) -> Armed<'_> {
        if self.asked.get() {
            shut();
        } else {
            *self.shut.borrow_mut() = Some(Box::new(shut));
        }
        Armed(self)
    }

    pub fn is_asked(&self) -> bool {
        self.asked.get()
    }

    pub fn cancel(&self) {
        self.asked.set(true);
        let shut = self.shut.take();
        if let Some(shut) = shut {
            shut();
        }
    }
}

impl Drop for Armed<'_> {
    fn drop(&mut self) {
        self.0.shut.take();
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;

    #[test]
    fn what_is_in_flight_is_shut_once_and_what_has_landed_never() {
        let shut = Rc::new(Cell::new(0));
        let count = || {
            let shut = shut.clone();
            move || shut.set(shut.get() + 1)
        };
        let cancel = Cancel::default();
        drop(cancel.arm(count()));
        assert_eq!(shut.get(), 0);
        let armed = cancel.arm(count());
        cancel.cancel();
        cancel.cancel();
        assert_eq!((shut.get(), cancel.is_asked()), (1, true));
        drop(armed);
        // Whatever begins after it is ended at once.
        let _armed = cancel.arm(count());
        assert_eq!(shut.get(), 2);
    }
}
