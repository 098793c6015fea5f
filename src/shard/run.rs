//! A core from its start to its end: ring, listeners, the tick that keeps time, the drain.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    net::{IpAddr, TcpListener},
    os::fd::RawFd,
    rc::Rc,
    sync::{Arc, mpsc},
    task::Waker,
    thread::JoinHandle,
};

use monoio::io::Canceller;
use rustls::{ClientConfig, ServerConfig};

use super::{
    Clock,
    clock::CoreClock,
    conn, guard,
    ring::{self, Backend, Choice, Refused},
    slots::Slots,
    stream::{self, Stream},
    tls,
    wheel::Wheel,
};
use crate::{
    base::{ids::Line, limits, now::Now, waiting::Waiting},
    bridge::{
        addresses::Addresses,
        bulletin::{Lease, Reader},
        drain::{Drain, Stage},
        estimates::EstimateQueue,
        handoff::{Door, Inbox},
        health::HealthBoard,
        logpipe::LogPipe,
        outbox::Outbox,
        quota::QuotaBoard,
        vitals::{self, Vitals},
    },
    config::{Provider, ProviderPlace, Snapshot, allowance::Measure, callers::Callers},
    exchange::{local::Local, seam::Stir},
    policy::{
        attempts::{Cause, Failure, Phase},
        balance,
        quota::Quota as _,
    },
    wire::openai::models::ModelList,
};

/// Everything that ties one core to the rest of the house.
pub struct Links {
    /// The core's number among ours: its seat at every bulletin.
    pub seat: usize,
    /// The CPU to stay on; `None` leaves it to the kernel.
    pub cpu: Option<core_affinity::CoreId>,
    pub clock: Clock,
    pub choice: Choice,
    pub listeners: Vec<Listener>,
    pub snapshots: Arc<crate::bridge::bulletin::Bulletin<Snapshot>>,
    pub addresses: Arc<crate::bridge::bulletin::Bulletin<Addresses>>,
    pub models: Arc<crate::bridge::bulletin::Bulletin<ModelList>>,
    pub callers: Arc<crate::bridge::bulletin::Bulletin<Option<Callers>>>,
    pub quota: Arc<QuotaBoard>,
    pub health: Arc<HealthBoard>,
    /// What TLS listeners show to new clients.
    pub certificates: Arc<crate::bridge::bulletin::Bulletin<Arc<ServerConfig>>>,
    pub drain: Arc<Drain>,
    /// One for each core, by seat.
    pub outboxes: Arc<[Outbox]>,
    pub vitals: Arc<[Vitals]>,
    pub inboxes: Arc<[Inbox]>,
    /// One for each core, or none: nothing is logged.
    pub log_pipes: Arc<[LogPipe]>,
    /// One for each core, or none: there is no vocabulary.
    pub estimates: Arc<[EstimateQueue]>,
    pub connections_max: usize,
}

/// This core's socket of one address.
pub struct Listener {
    pub socket: TcpListener,
    pub door: Door,
}

/// A core that runs.
pub struct Running {
    pub thread: JoinHandle<()>,
    pub backend: Backend,
    /// Why it is not io_uring, where that was hoped for.
    pub refused: Option<Refused>,
}

/// Starts a core and returns when it serves.
///
/// # Errors
/// A sentence for the operator: no thread, or no runtime of the kind that was demanded.
pub fn start(links: Links) -> Result<Running, String> {
    let (told, hear) = mpsc::channel();
    let thread = std::thread::Builder::new()
        .name(format!("shard-{}", links.seat))
        .spawn(move || {
            if let Some(cpu) = links.cpu {
                core_affinity::set_for_current(cpu);
            }
            let (driver, backend) = match ring::build(links.choice) {
                Ok((driver, backend, refused)) => {
                    // A control thread that is gone has no use for the answer.
                    let _ = told.send(Ok((backend, refused)));
                    (driver, backend)
                }
                Err(refused) => {
                    let _ = told.send(Err(refused.to_string()));
                    return;
                }
            };
            links.vitals[links.seat]
                .set_backend(vitals::Backend { name: backend.name(), flags: backend.flags() });
            driver.run(live(links, backend));
        })
        .map_err(|error| format!("cannot start a thread: {error}"))?;
    let (backend, refused) = hear.recv().map_err(|_| "a core ended while it started".to_owned())??;
    Ok(Running { thread, backend, refused })
}

/// What a core keeps. Everything in here is touched by this core alone.
pub(super) struct Shard {
    pub(super) clock: CoreClock,
    pub(super) wheel: Wheel,
    pub(super) local: Local<Stream>,
    pub(super) slots: Slots,
    pub(super) is_epoll: bool,
    snapshot: RefCell<Reader<Snapshot>>,
    addresses: RefCell<Reader<Addresses>>,
    models: RefCell<Reader<ModelList>>,
    callers: RefCell<Reader<Option<Callers>>>,
    pub(super) quota: Arc<QuotaBoard>,
    pub(super) health: Arc<HealthBoard>,
    certificates: RefCell<Reader<Arc<ServerConfig>>>,
    drain: Arc<Drain>,
    seat: usize,
    outboxes: Arc<[Outbox]>,
    vitals: Arc<[Vitals]>,
    inboxes: Arc<[Inbox]>,
    log_pipes: Arc<[LogPipe]>,
    estimates: Arc<[EstimateQueue]>,
    chance: Cell<u64>,
    /// By provider, for the configuration of this generation.
    client_tls: RefCell<(u64, HashMap<u16, Arc<ClientConfig>>)>,
    connections: Cell<usize>,
    connections_max: usize,
    /// Acceptors that wait for a connection to end.
    crowd: RefCell<Vec<Waker>>,
}

async fn live(links: Links, backend: Backend) {
    let clock = CoreClock::new(links.clock);
    let seed = clock.unix_ms() ^ (links.seat as u64).rotate_left(32) ^ 0x9E37_79B9_7F4A_7C15;
    let shard = Rc::new(Shard {
        clock,
        wheel: Wheel::default(),
        local: Local::new(limits::BUFFERED_BYTES_MAX),
        slots: Slots::default(),
        is_epoll: backend == Backend::Epoll,
        snapshot: RefCell::new(links.snapshots.reader(links.seat)),
        addresses: RefCell::new(links.addresses.reader(links.seat)),
        models: RefCell::new(links.models.reader(links.seat)),
        callers: RefCell::new(links.callers.reader(links.seat)),
        quota: links.quota.clone(),
        health: links.health.clone(),
        certificates: RefCell::new(links.certificates.reader(links.seat)),
        drain: links.drain,
        seat: links.seat,
        outboxes: links.outboxes,
        vitals: links.vitals,
        inboxes: links.inboxes,
        log_pipes: links.log_pipes,
        estimates: links.estimates,
        chance: Cell::new(seed | 1),
        client_tls: RefCell::default(),
        connections: Cell::new(0),
        connections_max: links.connections_max,
        crowd: RefCell::default(),
    });
    let closing = Canceller::new();
    for listener in links.listeners {
        if let Err(error) = listener.socket.set_nonblocking(shard.is_epoll) {
            debug_assert!(false, "a listener of ours takes flags: {error}");
        }
        let accept = conn::accept(shard.clone(), listener, closing.handle());
        let shard = shard.clone();
        guard::spawn(accept, move || shard.panicked());
    }
    let adopt = conn::adopt(shard.clone());
    let deaf = shard.clone();
    guard::spawn(adopt, move || {
        deaf.panicked();
        conn::close_inbox(&deaf);
    });
    shard.keep_time(closing).await;
}

impl Shard {
    /// Ticks until the drain is over: deadlines, news from control, the sheet, the heartbeat.
    async fn keep_time(self: &Rc<Self>, closing: Canceller) {
        let mut closing = Some(closing);
        let mut sheet_due = self.clock.now() + limits::SHEET_INTERVAL;
        let mut cut_at: Option<Now> = None;
        loop {
            ring::sleep(limits::TICK).await;
            let now = self.clock.now();
            let vitals = &self.vitals[self.seat];
            vitals.beat(now);
            vitals.set_buffered_bytes(self.local.budget.used() as u64);
            self.clock.look_at_the_wall();
            self.wheel.turn(now, stream::expire);
            self.take_up_news();
            if now >= sheet_due {
                sheet_due = now + limits::SHEET_INTERVAL;
                self.outboxes[self.seat].offer(&mut self.local.sheet.borrow_mut());
                self.local.pool.borrow_mut().sweep(now);
            }
            match self.drain.stage() {
                Stage::Serving => {}
                stage => {
                    if let Some(closing) = closing.take() {
                        // Accepts in flight are cancelled and awaited by their tasks, never dropped.
                        closing.cancel();
                        conn::close_inbox(self);
                    }
                    self.drain_step(stage, now, &mut cut_at);
                    if self.connections.get() == 0 || cut_at.is_some_and(|cut| now > cut + CUT_PATIENCE) {
                        break;
                    }
                }
            }
        }
        self.local.pool.borrow_mut().clear();
        self.outboxes[self.seat].leave(std::mem::take(&mut *self.local.sheet.borrow_mut()));
    }

    /// Ends what may be ended at this stage of the drain.
    fn drain_step(&self, stage: Stage, now: Now, cut_at: &mut Option<Now>) {
        // A client that has just sent a request is served, and told to close.
        let idle = |fd: RawFd| {
            let ends = stream::peek(fd) != Stir::Bytes;
            if ends {
                stream::shutdown(fd, libc::SHUT_RDWR);
            }
            ends
        };
        let any = |fd: RawFd| {
            stream::shutdown(fd, libc::SHUT_RDWR);
            true
        };
        self.wheel.end_all(&[Waiting::Idle], idle);
        if stage == Stage::Cutting {
            // Upstreams first: their exchanges then tell their clients.
            let cut = *cut_at.get_or_insert(now);
            self.wheel.end_all(&UPSTREAM_WAITS, any);
            if now > cut + limits::LINGER_TIME {
                self.wheel.end_all(&CLIENT_WAITS, any);
            }
        }
    }

    fn take_up_news(&self) {
        if let Some(snapshot) = self.snapshot.borrow_mut().newest() {
            self.local.budget.set_max(snapshot.limits.buffered_bytes);
        }
        self.addresses.borrow_mut().newest();
        self.models.borrow_mut().newest();
        self.callers.borrow_mut().newest();
        self.certificates.borrow_mut().newest();
    }

    pub(super) fn current_snapshot(&self) -> Lease<Snapshot> {
        let mut reader = self.snapshot.borrow_mut();
        #[expect(clippy::expect_used, reason = "main publishes before it starts a core")]
        reader.newest().expect("a snapshot is published before a core starts").clone()
    }

    pub(super) fn current_addresses(&self) -> Option<Lease<Addresses>> {
        self.addresses.borrow_mut().newest().cloned()
    }

    pub(super) fn current_models(&self) -> Option<Lease<ModelList>> {
        self.models.borrow_mut().newest().cloned()
    }

    pub(super) fn current_callers(&self) -> Option<Lease<Option<Callers>>> {
        self.callers.borrow_mut().newest().cloned()
    }

    /// What a client that connects now is shown; one configuration for all cores, so that it can resume on any.
    pub(super) fn server_tls(&self) -> Option<Arc<ServerConfig>> {
        self.certificates.borrow_mut().newest().map(|config| Arc::clone(config))
    }

    /// What a handshake with this provider needs; made once per configuration, and with it the cache of its sessions.
    pub(super) fn client_tls(
        &self,
        generation: u64,
        place: ProviderPlace,
        provider: &Provider,
    ) -> Result<Arc<ClientConfig>, Failure> {
        let mut cache = self.client_tls.borrow_mut();
        if cache.0 != generation {
            *cache = (generation, HashMap::new());
        }
        if let Some(config) = cache.1.get(&place.0) {
            return Ok(config.clone());
        }
        let config = tls::client_config(provider.ca.as_deref())
            .map_err(|_| Failure::new(Phase::Handshake, Cause::Tls))?;
        cache.1.insert(place.0, config.clone());
        Ok(config)
    }

    pub(super) fn is_draining(&self) -> bool {
        self.drain.stage() != Stage::Serving
    }

    pub(super) fn panicked(&self) {
        self.local.sheet.borrow_mut().panics += 1;
    }

    /// xorshift64*: chance for identifiers and jitter, not for secrets.
    pub(super) fn chance(&self) -> u64 {
        let mut x = self.chance.get();
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.chance.set(x);
        x.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// Counts a connection in, until the guard is dropped.
    pub(super) fn enter(self: &Rc<Self>) -> Presence {
        self.set_connections(self.connections.get() + 1);
        Presence { shard: self.clone(), place: None }
    }

    fn set_connections(&self, connections: usize) {
        self.connections.set(connections);
        self.vitals[self.seat].set_connections(connections as u64);
    }

    /// Where a connection that was just accepted goes, if it is not to stay: the inbox of a core with far fewer.
    pub(super) fn better_inbox(&self) -> Option<&Inbox> {
        if self.is_draining() {
            return None;
        }
        let now = self.clock.now();
        let load = |seat: usize| self.vitals[seat].connections() + self.inboxes[seat].waiting();
        let others = (0..self.inboxes.len()).filter(|seat| *seat != self.seat);
        // A core that is stuck has few connections for a reason.
        let others = others.filter(|seat| self.vitals[*seat].is_alive(now));
        balance::hand_to(load(self.seat), others.map(|seat| (seat, load(seat))))
            .map(|seat| &self.inboxes[seat])
    }

    /// Counts a connection that was left in another core's inbox.
    pub(super) fn handed_over(&self) {
        self.vitals[self.seat].count_handed_over();
    }

    /// Where this core leaves a line for each exchange; `None`: nobody reads them.
    pub(super) fn log_pipe(&self) -> Option<&LogPipe> {
        self.log_pipes.get(self.seat)
    }

    /// Where this core leaves what is to be told by its words; `None`: nobody could.
    pub(super) fn estimate_queue(&self) -> Option<&EstimateQueue> {
        self.estimates.get(self.seat)
    }

    /// What other cores hand to this one.
    pub(super) fn inbox(&self) -> &Inbox {
        &self.inboxes[self.seat]
    }

    /// Ready when there is room for another connection.
    pub(super) fn poll_room(&self, cx: &std::task::Context<'_>) -> std::task::Poll<()> {
        if self.connections.get() < self.connections_max {
            return std::task::Poll::Ready(());
        }
        self.crowd.borrow_mut().push(cx.waker().clone());
        std::task::Poll::Pending
    }
}

/// One connection that is there.
pub(super) struct Presence {
    shard: Rc<Shard>,
    /// Where its client's address is counted.
    place: Option<Line>,
}

impl Presence {
    /// Counts the connection among those of its client. False if there are as many as one address may have; a proxy that
    /// speaks for others may have any number.
    pub(super) fn is_welcome(&mut self, client: IpAddr) -> bool {
        let shard = &self.shard;
        let snapshot = shard.current_snapshot();
        let Some(most) = snapshot.limits.connections_per_address else { return true };
        if snapshot.access.trusted_proxies.contains(client) {
            return true;
        }
        let key = shard.quota.key("connections", client.to_canonical().to_string().as_bytes());
        let line = shard.quota.hold(key, shard.clock.now());
        if shard.quota.enter(line, Measure::Connections, most) {
            self.place = Some(line);
            return true;
        }
        shard.quota.let_go(line);
        shard.local.sheet.borrow_mut().turned_away += 1;
        false
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        let Self { shard, place } = self;
        if let Some(line) = *place {
            shard.quota.leave(line, Measure::Connections);
            shard.quota.let_go(line);
        }
        shard.set_connections(shard.connections.get() - 1);
        let crowd = std::mem::take(&mut *shard.crowd.borrow_mut());
        crowd.into_iter().for_each(Waker::wake);
    }
}

/// After the cut, clients get this long to take their last words.
const CUT_PATIENCE: std::time::Duration = std::time::Duration::from_secs(2 * limits::LINGER_TIME.as_secs());

const UPSTREAM_WAITS: [Waiting; 5] =
    [Waiting::Connect, Waiting::Send, Waiting::FirstByte, Waiting::FirstToken, Waiting::BetweenBytes];
const CLIENT_WAITS: [Waiting; 6] =
    [Waiting::Head, Waiting::Body, Waiting::Reader, Waiting::Total, Waiting::Linger, Waiting::Handshake];
