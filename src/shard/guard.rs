//! Every task on a core runs inside this guard: monoio lets a panic unwind through the whole core.

use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll},
};

/// Spawns `task` on this core. If it panics, it ends, `panicked` is called, and nothing else is touched.
pub(super) fn spawn(task: impl Future<Output = ()> + 'static, panicked: impl FnOnce() + 'static) {
    monoio::spawn(Guarded { task, panicked: Some(panicked) });
}

struct Guarded<F, P> {
    task: F,
    panicked: Option<P>,
}

impl<F: Future<Output = ()>, P: FnOnce()> Future for Guarded<F, P> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // SAFETY: `task` is structurally pinned: it is never moved out of `self`, and `Guarded` has no `Drop` and no
        // method that would. `panicked` is not pinned and only ever taken.
        let (task, panicked) = unsafe {
            let this = self.get_unchecked_mut();
            (Pin::new_unchecked(&mut this.task), &mut this.panicked)
        };
        // A task that panicked is never polled again: what it left half-done is only dropped.
        match catch_unwind(AssertUnwindSafe(|| task.poll(cx))) {
            Ok(poll) => poll,
            Err(_already_reported_by_the_hook) => {
                if let Some(panicked) = panicked.take() {
                    panicked();
                }
                Poll::Ready(())
            }
        }
    }
}
