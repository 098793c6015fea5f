//! Sends that do not wait for the end of the core's turn.
//!
//! The runtime tells the kernel of what its tasks have queued once a turn, when all of them have run: one system call for
//! all, and the event that was handled first waits for the last. Where many streams speak at once, a turn is long, so the
//! kernel is told each time [`limits::QUEUED_SENDS_MAX`] have come together. Invariant: nothing here changes what is sent,
//! or its order; a ring that cannot be told early is told at the turn's end, as ever.

use std::{
    cell::Cell,
    fs,
    future::{Future, poll_fn},
    os::fd::RawFd,
    pin::Pin,
};

use crate::{base::limits, bridge::turnstile};

/// This core's sends, numbered as they are queued.
#[derive(Clone, Copy)]
struct Sends {
    /// `None` without a ring, or where it was not found.
    ring: Option<RawFd>,
    queued: u64,
    /// The kernel knows of all up to this one.
    submitted: u64,
}

thread_local! {
    static SENDS: Cell<Sends> = const { Cell::new(Sends { ring: None, queued: 0, submitted: 0 }) };
}

/// Runs `make`, which may make one ring on this thread, and remembers which one that is: the runtime keeps it to itself.
pub(super) fn watching<T>(make: impl FnOnce() -> T) -> T {
    turnstile::one_at_a_time(|| {
        let before = rings();
        let made = make();
        let mut new = rings();
        new.retain(|ring| !before.contains(ring));
        let ring = if let [ring] = new[..] { Some(ring) } else { None };
        SENDS.set(Sends { ring, queued: 0, submitted: 0 });
        made
    })
}

/// The rings of this process. Empty where `/proc` is not there.
fn rings() -> Vec<RawFd> {
    let is_ring = |link: &std::path::Path| {
        fs::read_link(link).is_ok_and(|to| to.as_os_str() == "anon_inode:[io_uring]")
    };
    let entries = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let rings = entries.filter(|entry| is_ring(&entry.path()));
    rings.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Waits for a send. One that `hurries` leaves together with those queued before it as soon as there are enough of them.
pub(super) async fn sent<T>(mut send: Pin<&mut impl Future<Output = T>>, hurries: bool) -> T {
    let mut number = None;
    poll_fn(|cx| {
        let polled = send.as_mut().poll(cx);
        match number {
            None if polled.is_pending() => number = Some(queue(hurries)),
            // A send ends in a later turn than it was queued in: by then the kernel knew of all before it.
            Some(number) if polled.is_ready() => note(number),
            _ => {}
        }
        polled
    })
    .await
}

fn queue(hurries: bool) -> u64 {
    let mut sends = SENDS.get();
    sends.queued += 1;
    if let Some(ring) = sends.ring
        && hurries
        && sends.queued - sends.submitted >= limits::QUEUED_SENDS_MAX
    {
        submit(ring);
        sends.submitted = sends.queued;
    }
    SENDS.set(sends);
    sends.queued
}

fn note(number: u64) {
    let sends = SENDS.get();
    SENDS.set(Sends { submitted: sends.submitted.max(number), ..sends });
}

/// Tells the kernel of what is queued. It waits for nothing; what goes wrong is met again at the turn's end.
fn submit(ring: RawFd) {
    let (all, none) = (u32::MAX, 0u32);
    // SAFETY: the descriptor is this thread's ring, which is never closed while the thread runs (see `Driver::run`). The
    // entries up to the tail are complete: the runtime publishes the tail behind each one it has filled. The last two
    // arguments say that there is no signal mask.
    unsafe {
        libc::syscall(
            libc::SYS_io_uring_enter,
            ring,
            all,
            none,
            none,
            std::ptr::null::<libc::sigset_t>(),
            0usize,
        )
    };
}

#[cfg(test)]
mod tests {
    use std::{
        future::ready,
        pin::pin,
        task::{Context, Poll, Waker},
    };

    use super::*;

    fn unsubmitted() -> u64 {
        let sends = SENDS.get();
        sends.queued - sends.submitted
    }

    #[test]
    fn what_ends_tells_that_all_before_it_were_submitted() {
        let mut context = Context::from_waker(Waker::noop());
        let gate = Cell::new(false);
        let gated = || poll_fn(|_| if gate.get() { Poll::Ready(()) } else { Poll::Pending });
        let (first, second, third) = (pin!(gated()), pin!(gated()), pin!(gated()));
        let (mut one, mut two, mut three) =
            (pin!(sent(first, true)), pin!(sent(second, true)), pin!(sent(third, true)));
        for (number, send) in [(1, one.as_mut()), (2, two.as_mut()), (3, three.as_mut())] {
            assert!(send.poll(&mut context).is_pending());
            assert_eq!(unsubmitted(), number, "each counts once");
        }
        gate.set(true);
        assert!(two.as_mut().poll(&mut context).is_ready());
        assert_eq!(unsubmitted(), 1, "the first was submitted with the second");
        assert!(one.as_mut().poll(&mut context).is_ready());
        assert_eq!(unsubmitted(), 1, "what is known stays known");
        assert!(three.as_mut().poll(&mut context).is_ready());
        assert_eq!(unsubmitted(), 0);
    }

    #[test]
    fn what_need_not_wait_is_not_counted() {
        let mut context = Context::from_waker(Waker::noop());
        assert!(pin!(sent(pin!(ready(())), true)).poll(&mut context).is_ready());
        assert_eq!(unsubmitted(), 0);
    }
}
