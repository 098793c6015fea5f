//! Memory for the futures of exchanges: the slot that was left last is taken next, while it is still in the cache.
//!
//! An exchange's future is some kilobytes. From the allocator each would be at another place, cold, and would be made on
//! the stack and copied there.

use std::{
    cell::RefCell,
    future::Future,
    marker::PhantomData,
    mem::MaybeUninit,
    pin::Pin,
    ptr::NonNull,
    task::{Context, Poll},
};

use crate::base::limits;

/// A slot's unit: what a future needs no finer alignment than.
type Unit = MaybeUninit<u128>;

#[derive(Default)]
pub(super) struct Slots {
    free: RefCell<Vec<Box<[Unit]>>>,
}

impl Slots {
    /// Makes a future in a slot.
    pub(super) fn place<F: Future>(&self, make: impl FnOnce() -> F) -> Placed<'_, F> {
        const { assert!(align_of::<F>() <= align_of::<Unit>(), "a slot is aligned for the future in it") };
        let units = size_of::<F>().div_ceil(size_of::<Unit>());
        let kept = self.free.borrow_mut().pop().filter(|slot| slot.len() >= units);
        let slot = kept.unwrap_or_else(|| Box::new_uninit_slice(units));
        let length = slot.len();
        let place = NonNull::from(Box::leak(slot)).cast::<F>();
        // The slot is lost, and nothing else, if this panics.
        let future = make();
        // SAFETY: `place` is the start of `length` units that nobody else has, at least as large as `F` and as aligned.
        unsafe { place.write(future) };
        Placed { slots: self, place, length, owns: PhantomData }
    }
}

// Where this value lies is not where its future lies.
impl<F> Unpin for Placed<'_, F> {}

/// A future in a slot, which is left when this is dropped.
pub(super) struct Placed<'a, F> {
    slots: &'a Slots,
    // The start of a slot of `length` units, with a live `F` in it that does not move until it is dropped.
    place: NonNull<F>,
    length: usize,
    owns: PhantomData<F>,
}

impl<F: Future> Future for Placed<'_, F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let mut place = self.place;
        // SAFETY: a live future that only this value reaches, and that stays where it is until it is dropped.
        unsafe { Pin::new_unchecked(place.as_mut()) }.poll(cx)
    }
}

impl<F> Drop for Placed<'_, F> {
    fn drop(&mut self) {
        // SAFETY: the future is live, and nobody uses it after this.
        unsafe { self.place.drop_in_place() };
        let units = NonNull::slice_from_raw_parts(self.place.cast::<Unit>(), self.length);
        // SAFETY: these are the start and the length of the box that `place` leaked, given back once.
        let slot = unsafe { Box::from_raw(units.as_ptr()) };
        let mut free = self.slots.free.borrow_mut();
        if free.len() < limits::POOLED_SLOTS_MAX {
            free.push(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, future::poll_fn, rc::Rc};

    use super::*;

    /// Counts how often it was dropped.
    struct Counted(Rc<Cell<u32>>);

    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.set(self.0.get() + 1);
        }
    }

    fn poll_once<F: Future>(future: &mut Placed<'_, F>) -> Poll<F::Output> {
        Pin::new(future).poll(&mut Context::from_waker(std::task::Waker::noop()))
    }

    #[test]
    fn a_future_keeps_what_it_holds_and_drops_it_once() {
        let (slots, dropped) = (Slots::default(), Rc::new(Cell::new(0)));
        let counted = Counted(dropped.clone());
        let mut polls = 0;
        let mut placed = slots.place(|| async move {
            let held = [7u8; 3_000];
            poll_fn(|_| {
                polls += 1;
                if polls == 3 { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
            let _counted = &counted;
            held.iter().map(|&byte| u32::from(byte)).sum::<u32>()
        });
        assert!(poll_once(&mut placed).is_pending());
        assert!(poll_once(&mut placed).is_pending());
        assert_eq!(poll_once(&mut placed), Poll::Ready(21_000));
        assert_eq!(dropped.get(), 1, "a future that ended has dropped what it took");
        drop(placed);
        assert_eq!(dropped.get(), 1);
        let counted = Counted(dropped.clone());
        drop(slots.place(|| async move { drop(counted) }));
        assert_eq!(dropped.get(), 2, "a future that was never polled too");
    }

    #[test]
    fn the_slot_left_last_is_taken_next_if_it_is_large_enough() {
        let slots = Slots::default();
        let place = |bytes: &Placed<'_, _>| bytes.place.cast::<u8>();
        let large = || std::future::ready([1u8; 4_096]);
        let (first, second) = (slots.place(large), slots.place(large));
        let (at_first, at_second) = (place(&first), place(&second));
        assert_ne!(at_first, at_second);
        drop(first);
        drop(second);
        let third = slots.place(large);
        assert_eq!(place(&third), at_second);
        assert_eq!(slots.free.borrow().len(), 1);
        let small = slots.place(|| std::future::ready(1u8));
        assert_eq!(small.place.cast::<u8>(), at_first, "a smaller future fits");
        drop(small);
        let larger = slots.place(|| std::future::ready([1u8; 8_192]));
        assert!(larger.length >= 8_192 / size_of::<Unit>(), "a slot that is too small is not used");
    }

    #[test]
    fn no_more_slots_are_kept_than_the_bound() {
        let slots = Slots::default();
        let placed: Vec<_> = (0..limits::POOLED_SLOTS_MAX + 5)
            .map(|number| slots.place(|| std::future::ready(number)))
            .collect();
        drop(placed);
        assert_eq!(slots.free.borrow().len(), limits::POOLED_SLOTS_MAX);
    }
}
