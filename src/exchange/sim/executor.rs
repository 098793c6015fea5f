//! Runs tasks on a virtual clock: when nothing is runnable, time jumps to the next thing that is due.
//!
//! Which of several runnable tasks goes first is the seed's choice. What does not come to rest is found by bounds on
//! steps, and who waits for nothing is found because nothing is due.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    future::{Future, poll_fn},
    pin::Pin,
    rc::Rc,
    sync::{Arc, Mutex},
    task::{Context, Poll, Wake, Waker},
};

use super::chance::Chance;
use crate::base::now::Now;

/// Polls within one moment after which it is a livelock.
const STEPS_PER_MOMENT_MAX: usize = 200_000;
/// Moments of one run after which it is without end.
const MOMENTS_MAX: usize = 5_000_000;

pub(super) struct Executor {
    now: Cell<Now>,
    tasks: RefCell<Vec<Option<Task>>>,
    ready: Arc<Mutex<Ready>>,
    // By moment, and within one in the order of filing.
    due: RefCell<BTreeMap<(Now, u64), Act>>,
    filed: Cell<u64>,
    pub(super) chance: Chance,
}

type Act = Box<dyn FnOnce()>;

struct Task {
    name: String,
    future: Pin<Box<dyn Future<Output = ()>>>,
    waker: Waker,
}

#[derive(Default)]
struct Ready {
    line: Vec<usize>,
    queued: Vec<bool>,
}

struct TaskWaker {
    task: usize,
    ready: Arc<Mutex<Ready>>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        let mut ready = self.ready.lock().unwrap();
        if !std::mem::replace(&mut ready.queued[self.task], true) {
            ready.line.push(self.task);
        }
    }
}

impl Executor {
    pub(super) fn new(seed: u64) -> Rc<Self> {
        Rc::new(Self {
            // Not zero: a moment of zero must not pass for one that never was.
            now: Cell::new(Now(1_000_000_000)),
            tasks: RefCell::default(),
            ready: Arc::default(),
            due: RefCell::default(),
            filed: Cell::new(0),
            chance: Chance::new(seed),
        })
    }

    pub(super) fn now(&self) -> Now {
        self.now.get()
    }

    pub(super) fn spawn(&self, name: impl Into<String>, future: impl Future<Output = ()> + 'static) {
        let mut tasks = self.tasks.borrow_mut();
        let task = tasks.len();
        let waker: Waker = Arc::new(TaskWaker { task, ready: self.ready.clone() }).into();
        self.ready.lock().unwrap().queued.push(false);
        waker.wake_by_ref();
        tasks.push(Some(Task { name: name.into(), future: Box::pin(future), waker }));
    }

    /// Does something later.
    pub(super) fn at(&self, when: Now, act: impl FnOnce() + 'static) {
        let number = self.filed.replace(self.filed.get() + 1);
        self.due.borrow_mut().insert((when.max(self.now()), number), Box::new(act));
    }

    pub(super) async fn sleep_until(&self, when: Now) {
        let mut filed = false;
        poll_fn(|cx| {
            if self.now() >= when {
                return Poll::Ready(());
            }
            if !std::mem::replace(&mut filed, true) {
                let waker = cx.waker().clone();
                self.at(when, move || waker.wake());
            }
            Poll::Pending
        })
        .await;
    }

    /// Runs until nothing is runnable and nothing is due.
    pub(super) fn run(&self) -> Result<(), String> {
        for _ in 0..MOMENTS_MAX {
            self.run_moment()?;
            let next = self.due.borrow_mut().pop_first();
            let Some(((when, _), act)) = next else { return Ok(()) };
            self.now.set(when);
            act();
        }
        Err("the run does not end".to_owned())
    }

    /// Tasks that have not ended.
    pub(super) fn waiting(&self) -> Vec<String> {
        self.tasks.borrow().iter().flatten().map(|task| task.name.clone()).collect()
    }

    fn run_moment(&self) -> Result<(), String> {
        for _ in 0..STEPS_PER_MOMENT_MAX {
            let Some(number) = self.pick() else { return Ok(()) };
            let Some(mut task) = self.tasks.borrow_mut()[number].take() else { continue };
            let waker = task.waker.clone();
            if task.future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
                self.tasks.borrow_mut()[number] = Some(task);
            }
        }
        let name = self.pick().and_then(|task| Some(self.tasks.borrow()[task].as_ref()?.name.clone()));
        Err(format!("livelock, by {name:?} among others"))
    }

    fn pick(&self) -> Option<usize> {
        let mut ready = self.ready.lock().unwrap();
        if ready.line.is_empty() {
            return None;
        }
        let at = self.chance.of(0..ready.line.len());
        let task = ready.line.swap_remove(at);
        ready.queued[task] = false;
        Some(task)
    }
}
