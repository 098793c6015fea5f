//! The surroundings of one simulated core, and what the checks watch in them.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap, VecDeque},
    future::{Future, poll_fn},
    pin::pin,
    rc::{Rc, Weak},
    task::{Poll, Waker},
    time::Duration,
};

use super::{
    chance::Chance,
    check,
    conn::Conn,
    executor::Executor,
    faults::{Fault, Faults},
    kept,
    peer::Peer,
    script::Script,
    targets::{self, Cast},
    upstream::{self, Cue},
    wire::{Side, SimWire},
};
use crate::{
    base::{
        ids::ProviderRoll,
        limits,
        now::Now,
        waiting::{Expiry, Waiting},
    },
    config::{self, Fake, ProviderPlace, Snapshot, Timeouts, callers::Callers},
    exchange::{cancel::Cancel, local::Local, seam::World},
    ledger::{logged::Logged, untold::Untold},
    policy::{
        attempts::{Cause, Failure, Phase},
        health::calm::Calm,
        quota::cells::Cells,
    },
    wire::openai::models::ModelList,
};

/// What every part of a run shares.
pub(super) struct Sim {
    pub(super) executor: Rc<Executor>,
    pub(super) faults: Faults,
    /// What must not have happened, in the order in which it did.
    pub(super) violations: RefCell<Vec<String>>,
    pub(super) made: Cell<usize>,
    pub(super) closed: Cell<usize>,
    /// Where the last read of each upstream connection lies: address and capacity.
    pub(super) last_reads: RefCell<HashMap<usize, (usize, usize)>>,
    /// The run is being taken apart.
    pub(super) over: Cell<bool>,
}

impl Sim {
    pub(super) fn new(seed: u64) -> Rc<Self> {
        Rc::new(Self {
            executor: Executor::new(seed),
            faults: Faults::default(),
            violations: RefCell::default(),
            made: Cell::new(0),
            closed: Cell::new(0),
            last_reads: RefCell::default(),
            over: Cell::new(false),
        })
    }

    pub(super) fn now(&self) -> Now {
        self.executor.now()
    }

    pub(super) fn chance(&self) -> &Chance {
        &self.executor.chance
    }

    pub(super) fn inject(&self, fault: Fault) {
        self.faults.inject(fault);
    }

    pub(super) async fn sleep(&self, span: Duration) {
        self.executor.sleep_until(self.now() + span).await;
    }

    /// Sleeps, unless it is cancelled. Whether it was not.
    async fn sleep_unless(&self, cancel: &Cancel, until: Now) -> bool {
        let stop: Rc<RefCell<(bool, Option<Waker>)>> = Rc::default();
        let _armed = cancel.arm({
            let stop = stop.clone();
            move || {
                stop.borrow_mut().0 = true;
                let waker = stop.borrow_mut().1.take();
                waker.into_iter().for_each(Waker::wake);
            }
        });
        let mut sleep = pin!(self.executor.sleep_until(until));
        poll_fn(|cx| {
            if stop.borrow().0 {
                return Poll::Ready(false);
            }
            stop.borrow_mut().1 = Some(cx.waker().clone());
            sleep.as_mut().poll(cx).map(|()| true)
        })
        .await
    }

    /// A pause of at most so many milliseconds.
    pub(super) async fn pause(&self, ms_max: usize) {
        let us = self.chance().of(0..ms_max * 1_000 + 1);
        self.sleep(Duration::from_micros(us as u64)).await;
    }

    pub(super) fn check(&self, holds: bool, else_say: impl FnOnce() -> String) {
        if !holds {
            self.violations.borrow_mut().push(else_say());
        }
    }
}

/// One request as a provider saw it.
pub(super) struct Seen {
    pub(super) conn: Rc<Conn>,
    /// The connection had served another before.
    pub(super) reused: bool,
    /// Bytes that had reached the gateway by then.
    pub(super) arrived_before: usize,
}

impl Seen {
    /// A byte of an answer reached the gateway.
    pub(super) fn answered(&self) -> bool {
        self.conn.arrived.get() > self.arrived_before
    }
}

pub(super) struct SimWorld {
    pub(super) sim: Rc<Sim>,
    pub(super) local: Local<SimWire>,
    pub(super) snapshot: Rc<Snapshot>,
    models: Rc<ModelList>,
    callers: Rc<Option<Callers>>,
    /// What was handed over to the log, in the order in which it was.
    pub(super) lines: RefCell<Vec<Logged>>,
    pub(super) quota: Cells,
    pub(super) health: Calm,
    pub(super) draining: Cell<bool>,
    /// The clock's last reading.
    read: Cell<Now>,
    conns: RefCell<Vec<Weak<Conn>>>,
    /// What providers answer, by the number in the model's name.
    pub(super) scripts: RefCell<BTreeMap<usize, Rc<Script>>>,
    pub(super) seen: RefCell<BTreeMap<usize, Vec<Seen>>>,
    /// Stray bytes that met a request on its way: its failure is nobody's fault.
    pub(super) stray_races: Cell<usize>,
    pub(super) begun: Cell<usize>,
    /// Every provider plays this instead of its script.
    pub(super) scene: RefCell<Vec<Cue>>,
    /// Providers play these before it, a connection each.
    pub(super) openings: RefCell<VecDeque<Vec<Cue>>>,
    /// The same for providers by their name.
    pub(super) scenes: RefCell<BTreeMap<&'static str, Vec<Cue>>>,
    /// Connections on which these played, in the order in which they were made.
    pub(super) played: RefCell<Vec<Played>>,
    /// Or these are the providers.
    pub(super) cast: RefCell<Option<Rc<Cast>>>,
}

/// A connection on which a scene was played.
pub(super) struct Played {
    pub(super) conn: Rc<Conn>,
    /// When a request had arrived whole.
    pub(super) asked: Rc<Cell<Option<Now>>>,
}

/// Request bytes that are buffered at once: less than a few large uploads want.
const BUFFERED_BYTES_MAX: usize = 200 << 10;

/// Deadlines in the simulation: near enough that stalls of a few seconds and of minutes both occur.
pub(super) const TIMEOUTS: Timeouts = Timeouts {
    connect: Duration::from_secs(2),
    first_byte: Duration::from_secs(40),
    between_bytes: Duration::from_secs(20),
    total: Duration::from_secs(120),
};

const CONFIGURATION: &str = r#"
[limits]
body_bytes = 131072
# Too high to refuse anyone; what is taken must come back all the same.
[[limit]]
by = "gateway"
concurrent_requests = 100000
concurrent_streams = 100000
tokens_per_day = 1000000000
[[limit]]
by = "address"
concurrent_requests = 100000
[[limit]]
by = "model"
concurrent_streams = 100000
[[limit]]
by = "provider"
concurrent_requests = 100000
[[provider]]
name = "asks"
base_url = "http://127.0.0.1:9001/v1"
key = "sk-sim"
inject_usage = true
[[provider]]
name = "plain"
base_url = "http://127.0.0.1:9002/v1"
key = "sk-sim"
inject_usage = false
pool_idle_max = 1
[[provider]]
name = "nameless"
base_url = "http://127.0.0.1:9003/v1"
key = "sk-sim"
[[provider]]
name = "refusing"
base_url = "http://127.0.0.1:9004/v1"
key = "sk-sim"
[[provider]]
name = "silent"
base_url = "http://127.0.0.1:9005/v1"
key = "sk-sim"
[[provider]]
name = "brittle"
base_url = "http://127.0.0.1:9006/v1"
key = "sk-sim"
inject_usage = false
hold_back = { events = 3, secs = 0.5 }
[[provider]]
name = "alone"
base_url = "http://127.0.0.1:9006/v1"
key = "sk-sim"
inject_usage = false
hold_back = { events = 3, secs = 0.5 }
[[provider]]
name = "slow"
base_url = "http://127.0.0.1:9007/v1"
key = "sk-sim"
inject_usage = false
hedge_percentile = 95
[[provider]]
name = "spare"
base_url = "http://127.0.0.1:9008/v1"
key = "sk-sim"
inject_usage = false
[[fallback]]
match = "brittle/*"
to = ["spare/s0"]
keep_alive_commits = true
[[fallback]]
match = "slow/*"
to = ["spare/s0"]
keep_alive_commits = true
"#;

pub(super) const MODELS: &[u8] = br#"{"object":"list","data":[{"id":"asks/m"}]}"#;

impl SimWorld {
    /// A world whose configuration says this as well.
    pub(super) fn under(sim: &Rc<Sim>, settings: &str) -> Rc<Self> {
        Self::of(sim, &format!("{CONFIGURATION}{settings}"))
    }

    pub(super) fn of(sim: &Rc<Sim>, configuration: &str) -> Rc<Self> {
        let loaded = config::compile(configuration, "sim.toml", &Fake::default());
        let mut snapshot = loaded.unwrap_or_else(|complaints| panic!("{complaints}")).snapshot;
        snapshot.generation = 1;
        snapshot.enrol(&mut ProviderRoll::default());
        snapshot.providers.iter_mut().for_each(|provider| provider.timeouts = TIMEOUTS);
        Rc::new(Self {
            sim: sim.clone(),
            local: Local::new(BUFFERED_BYTES_MAX),
            snapshot: Rc::new(snapshot),
            models: Rc::new(ModelList::new([("asks/m".into(), r#"{"id":"asks/m"}"#.into())])),
            callers: Rc::new(Some(kept::callers())),
            lines: RefCell::default(),
            quota: Cells::default(),
            health: Calm::default(),
            draining: Cell::new(false),
            read: Cell::default(),
            conns: RefCell::default(),
            scripts: RefCell::default(),
            seen: RefCell::default(),
            stray_races: Cell::new(0),
            begun: Cell::new(0),
            scene: RefCell::default(),
            cast: RefCell::default(),
            scenes: RefCell::default(),
            played: RefCell::default(),
            openings: RefCell::default(),
        })
    }

    fn hand_over(&self, line: Logged) {
        let whole = line.whole.as_deref().cloned();
        check::observe(whole.expect("this world wants records"));
        self.lines.borrow_mut().push(line);
    }

    /// A connection whose gateway end lives here; the other is the peer's.
    pub(super) fn connect(&self, side: Side, window: usize) -> (SimWire, Peer) {
        let conn = Conn::new(&self.sim, window);
        self.conns.borrow_mut().push(Rc::downgrade(&conn));
        (SimWire::new(&conn, side), Peer::new(&conn))
    }

    /// Ends every connection that waits for one of `kinds`. Whether there was one.
    fn end_all(&self, kinds: &[Waiting], even_with_bytes: bool) -> bool {
        let mut ended = false;
        let conns: Vec<_> = self.conns.borrow().iter().filter_map(Weak::upgrade).collect();
        for conn in conns.into_iter().filter(|conn| even_with_bytes || !conn.has_bytes()) {
            ended |= !conn.gateway.borrow().closed && conn.drain(kinds);
        }
        ended
    }

    /// Drains as a shard does: idle connections at once, upstreams at the cut, clients after a last word.
    pub(super) async fn drain(&self, until_cut: Duration) {
        self.draining.set(true);
        self.sim.inject(Fault::Drained);
        let cut = self.sim.now() + until_cut;
        loop {
            self.end_all(&[Waiting::Idle], false);
            if self.sim.now() >= cut {
                let upstream = [
                    Waiting::Connect,
                    Waiting::Send,
                    Waiting::FirstByte,
                    Waiting::FirstToken,
                    Waiting::BetweenBytes,
                ];
                if self.end_all(&upstream, true) {
                    self.sim.inject(Fault::DrainCut);
                }
            }
            if self.sim.now() > cut + limits::LINGER_TIME {
                let client = [Waiting::Head, Waiting::Body, Waiting::Reader, Waiting::Total, Waiting::Linger];
                self.end_all(&client, true);
            }
            if self.sim.now() > cut + limits::LINGER_TIME * 2 {
                return;
            }
            self.sim.sleep(limits::TICK).await;
        }
    }
}

/// What the exchange sees of the world.
#[derive(Clone)]
pub(super) struct Surroundings(pub(super) Rc<SimWorld>);

impl World for Surroundings {
    type Wire = SimWire;
    type Snapshot = Rc<Snapshot>;
    type Models = Rc<ModelList>;
    type Callers = Rc<Option<Callers>>;
    type Quota = Cells;
    type Health = Calm;

    fn now(&self) -> Now {
        let now = self.0.sim.now();
        self.0.read.set(now);
        now
    }

    fn recent(&self) -> Now {
        // As on a core, where a tick reads the clock, too.
        let now = self.0.sim.now();
        if now.since(self.0.read.get()) > limits::TICK { self.now() } else { self.0.read.get() }
    }

    async fn sleep_until(&self, at: Now) {
        self.0.sim.executor.sleep_until(at).await;
    }

    fn unix_ms(&self) -> u64 {
        1_700_000_000_000 + self.now().0 / 1_000_000
    }

    fn random(&self) -> u64 {
        self.0.sim.chance().next()
    }

    fn snapshot(&self) -> Rc<Snapshot> {
        self.0.snapshot.clone()
    }

    fn models(&self) -> Option<Rc<ModelList>> {
        Some(self.0.models.clone())
    }

    fn callers(&self) -> Option<Rc<Option<Callers>>> {
        Some(self.0.callers.clone())
    }

    fn quota(&self) -> &Cells {
        &self.0.quota
    }

    fn health(&self) -> &Calm {
        &self.0.health
    }

    fn draining(&self) -> bool {
        self.0.draining.get()
    }

    fn local(&self) -> &Local<SimWire> {
        &self.0.local
    }

    fn wants_records(&self) -> bool {
        true
    }

    fn log(&self, line: impl FnOnce() -> Logged) {
        self.0.hand_over(line());
    }

    fn estimate(&self, untold: Untold) -> Option<Untold> {
        // The estimator takes some, and counts them elsewhere.
        if untold.bytes().is_multiple_of(2) {
            return Some(untold);
        }
        let line = untold.count(None, &mut self.0.local.sheet.borrow_mut());
        self.0.hand_over(line);
        None
    }

    async fn dial(
        &self,
        snapshot: &Snapshot,
        place: ProviderPlace,
        until: Now,
        cancel: Option<&Cancel>,
    ) -> Result<SimWire, Failure> {
        let (world, sim) = (&self.0, &self.0.sim);
        let provider = &snapshot.providers[usize::from(place.0)];
        let cast = world.cast.borrow().clone();
        if let Some(cast) = cast {
            return targets::dial(world, &cast, &provider.name, until).await;
        }
        match &*provider.name {
            "nameless" => {
                sim.inject(Fault::NoAddress);
                return Err(Failure::new(Phase::Resolve, Cause::NoAddress));
            }
            "refusing" => {
                sim.inject(Fault::DialRefused);
                sim.pause(20).await;
                return Err(Failure::new(Phase::Connect, Cause::Broken));
            }
            "silent" => {
                sim.inject(Fault::DialTimedOut);
                let until = until.min(sim.now() + provider.timeouts.connect);
                match cancel {
                    Some(cancel) => _ = sim.sleep_unless(cancel, until).await,
                    None => sim.executor.sleep_until(until).await,
                }
                return Err(Failure::new(Phase::Connect, Cause::Expired(Expiry::Late(Waiting::Connect))));
            }
            _ => {}
        }
        if let Some(cancel) = cancel {
            let connected = sim.now() + Duration::from_millis(sim.chance().of(0..200) as u64);
            if !sim.sleep_unless(cancel, connected).await {
                return Err(Failure::new(Phase::Connect, Cause::Broken));
            }
        } else {
            sim.pause(20).await;
        }
        let (wire, peer) = world.connect(Side::Upstream, 256 << 10);
        if let Some(scene) = world.scenes.borrow().get(&*provider.name) {
            let asked = Rc::new(Cell::new(None));
            world.played.borrow_mut().push(Played { conn: peer.conn.clone(), asked: asked.clone() });
            let name = format!("{} {}", provider.name, wire.conn().id);
            sim.executor.spawn(name, upstream::play(peer, scene.clone(), asked));
            return Ok(wire);
        }
        let name = format!("upstream {}", wire.conn().id);
        let opening = world.openings.borrow_mut().pop_front();
        let scene = opening.unwrap_or_else(|| world.scene.borrow().clone());
        if scene.is_empty() {
            sim.executor.spawn(name, upstream::serve(world.clone(), peer));
        } else {
            sim.executor.spawn(name, upstream::play(peer, scene, Rc::default()));
        }
        Ok(wire)
    }
}
