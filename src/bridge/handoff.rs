//! Connections on their way from the core that accepted them to a core that has fewer. Each is in one place at any time:
//! taken, still waiting, or given back to who offered it; one that nobody takes is closed with its inbox.
//!
//! The one bell of the house is here. A core that sleeps in the ring sees no atomic and no lock, and a client's first
//! request must not wait for its next tick: whoever puts something into an empty inbox writes a byte into a socket that
//! the core polls.

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{base::limits::HANDOFFS_WAITING_MAX, bridge::padded::Padded};

/// What kind of listener a connection came through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Door {
    pub is_tls: bool,
    /// Connections begin with a PROXY protocol header, before TLS.
    pub is_proxied: bool,
}

/// An accepted connection that no byte was read from.
#[derive(Debug)]
pub struct Handed {
    pub socket: TcpStream,
    pub peer: SocketAddr,
    pub door: Door,
}

/// What others hand to one core.
#[derive(Debug)]
pub struct Inbox {
    queue: Mutex<Queue>,
    /// The length of the queue, written inside its lock, for those who only weigh loads.
    waiting: Padded<AtomicU64>,
    ring: UnixStream,
    hear: UnixStream,
}

#[derive(Debug)]
struct Queue {
    is_open: bool,
    // waiting.len() <= HANDOFFS_WAITING_MAX, which is also its capacity: nothing is allocated inside the lock
    waiting: VecDeque<Handed>,
}

impl Inbox {
    /// An empty, open inbox.
    ///
    /// # Errors
    /// When there are no descriptors left for its bell.
    pub fn new() -> io::Result<Self> {
        let (ring, hear) = UnixStream::pair()?;
        ring.set_nonblocking(true)?;
        hear.set_nonblocking(true)?;
        let queue = Queue { is_open: true, waiting: VecDeque::with_capacity(HANDOFFS_WAITING_MAX) };
        Ok(Self { queue: Mutex::new(queue), waiting: Padded::default(), ring, hear })
    }

    /// For any other core: leaves a connection here.
    ///
    /// # Errors
    /// The connection itself, when the inbox is full or closed: who accepted it keeps it.
    pub fn offer(&self, handed: Handed) -> Result<(), Handed> {
        let mut queue = self.queue();
        if !queue.is_open || queue.waiting.len() == HANDOFFS_WAITING_MAX {
            return Err(handed);
        }
        let was_empty = queue.waiting.is_empty();
        queue.waiting.push_back(handed);
        self.count(&queue);
        drop(queue);
        if was_empty {
            self.ring();
        }
        Ok(())
    }

    /// For the inbox's core, after [`hush`](Self::hush): one connection after the other, until there is none.
    pub fn take(&self) -> Option<Handed> {
        let mut queue = self.queue();
        let handed = queue.waiting.pop_front();
        self.count(&queue);
        handed
    }

    /// For the inbox's core, when it accepts nothing any more: refuses all further offers and returns what still waited.
    /// The bell rings once more.
    pub fn close(&self) -> VecDeque<Handed> {
        let mut queue = self.queue();
        queue.is_open = false;
        let rest = std::mem::take(&mut queue.waiting);
        self.count(&queue);
        drop(queue);
        self.ring();
        rest
    }

    pub fn is_closed(&self) -> bool {
        !self.queue().is_open
    }

    /// How many wait. It stands for itself and may be a moment old.
    pub fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// The end to poll: readable once the bell has rung, until it is hushed.
    ///
    /// # Errors
    /// When there is no descriptor left.
    pub fn bell(&self) -> io::Result<UnixStream> {
        self.hear.try_clone()
    }

    /// For the inbox's core: makes the bell silent. To be called before taking, never after: a ring that is lost in
    /// here stands for a connection that the takes to come will find.
    pub fn hush(&self) {
        let mut rings = [0; 64];
        while matches!((&self.hear).read(&mut rings), Ok(read) if read == rings.len()) {}
    }

    fn ring(&self) {
        // It can only fail because the socket is full of rings that were not heard yet: it is readable all the same.
        let _ = (&self.ring).write(&[1]);
    }

    fn count(&self, queue: &Queue) {
        self.waiting.store(queue.waiting.len() as u64, Ordering::Relaxed);
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Held for a push or a pop; whole between any two statements, whoever panicked.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::ErrorKind,
        net::TcpListener,
        sync::{Arc, Barrier, mpsc},
        thread,
        time::Duration,
    };

    use super::*;

    /// Loopback connections: what is handed over, and the client's end of it.
    struct Street(TcpListener);

    impl Street {
        fn new() -> Self {
            Self(TcpListener::bind("127.0.0.1:0").expect("loopback"))
        }

        fn connection(&self) -> (Handed, TcpStream) {
            let client = TcpStream::connect(self.0.local_addr().expect("bound")).expect("it listens");
            let (socket, peer) = self.0.accept().expect("a connection");
            (Handed { socket, peer, door: Door { is_tls: false, is_proxied: false } }, client)
        }
    }

    fn has_rung(inbox: &Inbox) -> bool {
        let mut bell = inbox.bell().expect("a descriptor");
        match bell.read(&mut [0; 1]) {
            Ok(read) => read == 1,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                false
            }
        }
    }

    #[test]
    fn a_full_inbox_gives_back_and_rings_once() {
        let (street, inbox) = (Street::new(), Inbox::new().expect("descriptors"));
        assert!(!has_rung(&inbox));
        let mut clients = Vec::new();
        for waiting in 1..=HANDOFFS_WAITING_MAX {
            let (handed, client) = street.connection();
            inbox.offer(handed).expect("there is room");
            assert_eq!(inbox.waiting(), waiting as u64);
            clients.push(client);
        }
        let (handed, client) = street.connection();
        let back = inbox.offer(handed).expect_err("it is full");
        assert_eq!(back.peer, client.local_addr().expect("connected"));
        assert!(has_rung(&inbox));
        assert!(!has_rung(&inbox), "rung for more than the first");
        let taken: Vec<SocketAddr> = std::iter::from_fn(|| inbox.take()).map(|handed| handed.peer).collect();
        let sent: Vec<SocketAddr> =
            clients.iter().map(|client| client.local_addr().expect("connected")).collect();
        assert_eq!(taken, sent);
        assert_eq!(inbox.waiting(), 0);
        inbox.offer(back).expect("there is room again");
        assert!(has_rung(&inbox), "not rung for the next first");
    }

    #[test]
    fn a_closed_inbox_keeps_nothing_and_its_core_is_told() {
        let (street, inbox) = (Street::new(), Inbox::new().expect("descriptors"));
        let (handed, _client) = street.connection();
        inbox.offer(handed).expect("there is room");
        inbox.hush();
        assert!(!inbox.is_closed());
        assert_eq!(inbox.close().len(), 1);
        assert!(inbox.is_closed() && has_rung(&inbox));
        assert!(inbox.offer(street.connection().0).is_err());
        assert!(inbox.take().is_none() && inbox.waiting() == 0);
    }

    #[test]
    fn what_nobody_takes_is_closed_with_the_inbox() {
        let (street, inbox) = (Street::new(), Inbox::new().expect("descriptors"));
        let (handed, mut client) = street.connection();
        inbox.offer(handed).expect("there is room");
        drop(inbox);
        assert_eq!(client.read(&mut [0; 1]).expect("a FIN"), 0);
    }

    #[test]
    fn between_threads_every_connection_is_taken_or_given_back_once() {
        const CORES: usize = 3;
        const EACH: usize = 400;
        let inbox = Arc::new(Inbox::new().expect("descriptors"));
        let start = Arc::new(Barrier::new(CORES + 1));
        let givers: Vec<_> = (0..CORES)
            .map(|_| {
                let (inbox, start) = (Arc::clone(&inbox), Arc::clone(&start));
                thread::spawn(move || {
                    let street = Street::new();
                    let (mut given, mut kept) = (Vec::new(), 0);
                    start.wait();
                    for _ in 0..EACH {
                        let (handed, client) = street.connection();
                        match inbox.offer(handed) {
                            Ok(()) => given.push(client.local_addr().expect("connected")),
                            Err(_) => kept += 1,
                        }
                    }
                    (given, kept)
                })
            })
            .collect();
        let (take, taken) = mpsc::channel();
        let taker = {
            let inbox = Arc::clone(&inbox);
            thread::spawn(move || {
                // Sleeps on the bell alone, as a core does.
                let mut bell = inbox.bell().expect("a descriptor");
                bell.set_nonblocking(false).expect("a flag");
                while !inbox.is_closed() {
                    bell.read_exact(&mut [0; 1]).expect("a ring");
                    while let Some(handed) = inbox.take() {
                        take.send(handed.peer).expect("the test waits for it");
                    }
                }
            })
        };
        start.wait();
        let (mut given, mut kept) = (Vec::new(), 0);
        for giver in givers {
            let (its, back) = giver.join().expect("its assertions hold");
            given.extend(its);
            kept += back;
        }
        assert_eq!(given.len() + kept, CORES * EACH);
        // Before the close, which would wake the taker whatever it missed.
        let patience = Duration::from_secs(20);
        let mut came: Vec<SocketAddr> =
            given.iter().map(|_| taken.recv_timeout(patience).expect("no ring is lost")).collect();
        assert!(inbox.close().is_empty());
        taker.join().expect("its assertions hold");
        assert!(taken.recv().is_err(), "more came than was given");
        given.sort_unstable();
        came.sort_unstable();
        assert!(given == came, "{given:?} {came:?}");
    }
}
