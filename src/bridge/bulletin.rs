//! One value that control publishes and every core reads: the newest only, at the cost of one atomic load when nothing
//! is new.
//!
//! Whatever was published is freed by control and never by a core: a core would stop for as long as it takes to drop
//! a hundred thousand callers. Cores are not woken: they look at each request and at each tick.

use std::{
    ops::Deref,
    rc::Rc,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::bridge::padded::Padded;

/// Where a `T` is published. Generation 0 means that nothing has been.
#[derive(Debug)]
pub struct Bulletin<T> {
    /// The number of `current`. Written inside `current`'s lock.
    generation: Padded<AtomicU64>,
    current: Mutex<Posted<T>>,
    /// Everything published before, until nobody reads it. Control's alone: a core never takes this lock.
    retired: Mutex<Vec<Arc<T>>>,
    /// The generation each core has taken up; written by that core.
    seats: Box<[Padded<AtomicU64>]>,
}

#[derive(Debug)]
struct Posted<T> {
    generation: u64,
    value: Option<Arc<T>>,
}

impl<T> Bulletin<T> {
    /// A bulletin with nothing on it, for so many cores.
    pub fn new(cores: usize) -> Self {
        Self {
            generation: Padded(AtomicU64::new(0)),
            current: Mutex::new(Posted { generation: 0, value: None }),
            retired: Mutex::new(Vec::new()),
            seats: (0..cores).map(|_| Padded(AtomicU64::new(0))).collect(),
        }
    }

    /// Puts `value` in the place of what was there, and answers its generation.
    pub fn publish(&self, value: Arc<T>) -> u64 {
        let (replaced, generation) = {
            let mut posted = self.posted();
            posted.generation += 1;
            let replaced = posted.value.replace(value);
            // Release, and inside the lock: a core that sees the number sees this value or a later one.
            self.generation.store(posted.generation, Ordering::Release);
            (replaced, posted.generation)
        };
        if let Some(replaced) = replaced {
            self.retired().push(replaced);
        }
        generation
    }

    /// The generation in force.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// What is in force, for control's own threads. Cores have a [`Reader`].
    pub fn current(&self) -> Option<Arc<T>> {
        self.posted().value.clone()
    }

    /// How many cores have taken up `generation` or a later one.
    pub fn taken_up(&self, generation: u64) -> usize {
        self.seats.iter().filter(|seat| seat.load(Ordering::Acquire) >= generation).count()
    }

    /// How many cores there are to take it up.
    pub fn cores(&self) -> usize {
        self.seats.len()
    }

    /// For control, now and then: frees what nobody reads any more. Answers how many are still read.
    pub fn sweep(&self) -> usize {
        let mut unread = Vec::new();
        let mut retired = self.retired();
        // One left means ours: it is not current, so nobody can take a new one.
        retired.retain(|value| {
            let read = Arc::strong_count(value) > 1;
            if !read {
                unread.push(Arc::clone(value));
            }
            read
        });
        let still_read = retired.len();
        drop(retired);
        drop(unread);
        still_read
    }

    /// The reader of the core in `seat`, made on that core's thread. One per seat.
    ///
    /// # Panics
    /// In debug builds, if there is no such seat.
    pub fn reader(self: &Arc<Self>, seat: usize) -> Reader<T> {
        debug_assert!(seat < self.seats.len(), "a bulletin has a seat for each core");
        Reader { bulletin: Arc::clone(self), seat, generation: 0, current: None }
    }

    fn posted(&self) -> MutexGuard<'_, Posted<T>> {
        // Never half-written: a panic in here could only come from an allocator.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn retired(&self) -> MutexGuard<'_, Vec<Arc<T>>> {
        self.retired.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One core's view of a bulletin: the newest value it has taken up.
pub struct Reader<T> {
    bulletin: Arc<Bulletin<T>>,
    seat: usize,
    generation: u64,
    current: Option<Lease<T>>,
}

impl<T> Reader<T> {
    /// The newest value; `None` while nothing has been published. To be asked at each request and at each tick.
    pub fn newest(&mut self) -> Option<&Lease<T>> {
        if self.bulletin.generation() != self.generation {
            self.take_up();
        }
        self.current.as_ref()
    }

    /// The generation this core has taken up.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    #[cold]
    fn take_up(&mut self) {
        let posted = self.bulletin.posted();
        let (generation, value) = (posted.generation, posted.value.clone());
        drop(posted);
        self.generation = generation;
        self.current = value.map(|value| Lease(Rc::new(Held { value, generation })));
        if let Some(seat) = self.bulletin.seats.get(self.seat) {
            // Release: who sees the seat sees that the core reads the old value no more for new requests.
            seat.store(generation, Ordering::Release);
        }
    }
}

/// A value that a core keeps: an exchange holds on to the snapshot it began with. Cloning counts on this core alone.
#[derive(Debug)]
pub struct Lease<T>(Rc<Held<T>>);

#[derive(Debug)]
struct Held<T> {
    value: Arc<T>,
    generation: u64,
}

impl<T> Lease<T> {
    /// A lease that no bulletin stands behind, for simulations and tests.
    pub fn of(value: T) -> Self {
        Self(Rc::new(Held { value: Arc::new(value), generation: 0 }))
    }

    /// The generation of the value.
    pub fn generation(&self) -> u64 {
        self.0.generation
    }
}

impl<T> Clone for Lease<T> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<T> Deref for Lease<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.value
    }
}

/// What control does with a bulletin whatever is on it.
pub trait Board: Send + Sync {
    /// See [`Bulletin::generation`].
    fn generation(&self) -> u64;
    /// See [`Bulletin::taken_up`].
    fn taken_up(&self, generation: u64) -> usize;
    /// See [`Bulletin::sweep`].
    fn sweep(&self) -> usize;
}

impl<T: Send + Sync> Board for Bulletin<T> {
    fn generation(&self) -> u64 {
        self.generation()
    }

    fn taken_up(&self, generation: u64) -> usize {
        self.taken_up(generation)
    }

    fn sweep(&self) -> usize {
        self.sweep()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Barrier, mpsc},
        thread::{self, ThreadId},
    };

    use super::*;

    /// Tells which thread dropped it.
    struct Snapshot {
        number: u64,
        dropped_by: mpsc::Sender<ThreadId>,
    }

    impl Drop for Snapshot {
        fn drop(&mut self) {
            let _ = self.dropped_by.send(thread::current().id());
        }
    }

    #[test]
    fn a_reader_sees_nothing_then_the_newest() {
        let bulletin = Arc::new(Bulletin::new(2));
        let mut reader = bulletin.reader(0);
        assert!(reader.newest().is_none());
        assert_eq!(bulletin.publish(Arc::new("one")), 1);
        assert_eq!(bulletin.publish(Arc::new("two")), 2);
        assert_eq!(reader.newest().map(|lease| **lease), Some("two"));
        assert_eq!(reader.generation(), 2);
        assert_eq!(bulletin.current().as_deref(), Some(&"two"));
    }

    #[test]
    fn control_counts_the_cores_that_took_it_up() {
        let bulletin = Arc::new(Bulletin::new(2));
        let (mut first, mut second) = (bulletin.reader(0), bulletin.reader(1));
        let generation = bulletin.publish(Arc::new(1));
        assert_eq!((bulletin.taken_up(generation), bulletin.cores()), (0, 2));
        first.newest();
        assert_eq!(bulletin.taken_up(generation), 1);
        bulletin.publish(Arc::new(2));
        second.newest();
        assert_eq!(bulletin.taken_up(generation), 2, "a later one counts");
    }

    #[test]
    fn what_an_exchange_holds_outlives_its_replacement() {
        let (dropped_by, dropped) = mpsc::channel();
        let bulletin = Arc::new(Bulletin::new(1));
        let mut reader = bulletin.reader(0);
        bulletin.publish(Arc::new(Snapshot { number: 1, dropped_by: dropped_by.clone() }));
        let held = reader.newest().cloned();
        bulletin.publish(Arc::new(Snapshot { number: 2, dropped_by }));
        assert_eq!(reader.newest().map(|lease| lease.number), Some(2));
        assert_eq!(bulletin.sweep(), 1);
        assert_eq!(held.as_ref().map(|lease| lease.number), Some(1));
        drop(held);
        assert!(dropped.try_recv().is_err(), "the core did not free it");
        assert_eq!(bulletin.sweep(), 0);
        assert!(dropped.try_recv().is_ok());
    }

    #[test]
    fn no_core_goes_back_and_control_alone_frees() {
        const CORES: usize = 3;
        const LAST: u64 = 2_000;
        let (dropped_by, dropped) = mpsc::channel();
        let bulletin = Arc::new(Bulletin::<Snapshot>::new(CORES));
        let start = Arc::new(Barrier::new(CORES + 1));
        let cores: Vec<_> = (0..CORES)
            .map(|core| {
                let (bulletin, start) = (Arc::clone(&bulletin), Arc::clone(&start));
                thread::spawn(move || {
                    let mut reader = bulletin.reader(core);
                    let mut held: [Option<Lease<Snapshot>>; 4] = [const { None }; 4];
                    let mut newest = 0;
                    start.wait();
                    while newest < LAST {
                        let lease = reader.newest().cloned();
                        let number = lease.as_ref().map_or(0, |snapshot| snapshot.number);
                        assert!(number >= newest, "{number} after {newest}");
                        assert_eq!(number, reader.generation());
                        assert_eq!(number, lease.as_ref().map_or(0, Lease::generation));
                        newest = number;
                        // Exchanges that began with different snapshots and end out of order.
                        held[usize::try_from(number % 4).unwrap_or(0)] = lease;
                    }
                })
            })
            .collect();
        start.wait();
        for number in 1..=LAST {
            bulletin.publish(Arc::new(Snapshot { number, dropped_by: dropped_by.clone() }));
            bulletin.sweep();
        }
        cores.into_iter().for_each(|core| core.join().expect("a core's assertions hold"));
        assert_eq!(bulletin.taken_up(LAST), CORES);
        assert_eq!(bulletin.sweep(), 0);
        drop(dropped_by);
        let control = thread::current().id();
        let freed: Vec<ThreadId> = dropped.try_iter().collect();
        assert_eq!(freed.len() as u64, LAST - 1);
        assert!(freed.iter().all(|thread| *thread == control));
    }
}
