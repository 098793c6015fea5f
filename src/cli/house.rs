//! Puts the parts together: boards, shards, control threads; then waits, drains, and ends.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    process::ExitCode,
    sync::{Arc, Mutex, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use crate::{
    base::{address, ids::ProviderRoll, limits, secret::Secret},
    bridge::{
        addresses::Addresses,
        bulletin::{Board, Bulletin},
        drain::{Drain, Stage},
        outbox::Outbox,
        vitals::Vitals,
    },
    config::{self, Cores, Dial, Snapshot},
    control::{
        admin::Admin,
        fetch::HttpFetch,
        log::Log,
        models::{ListAddress, ModelSource, Models, Offer},
        resolver::{Resolver, SystemLookup},
        signals::{Actions, SignalsThread},
        standing::{Reloads, Standing},
        stats::{Stats, StatsThread},
    },
    shard::{self, Choice, Clock, Links, Listener},
    wire::openai::models::ModelList,
};

/// How long the first look-ups of the providers' names, all of them, may hold up the start.
const FIRST_LOOKUP: Duration = Duration::from_secs(2);

/// Reads the configuration anew; an error has been told already.
pub(super) type Reload = Box<dyn FnMut() -> Result<Snapshot, ()> + Send>;

/// Everything that runs.
pub(super) struct House {
    log: Log,
    drain: Arc<Drain>,
    drain_time: Duration,
    shards: Vec<JoinHandle<()>>,
    /// Where clients connect to.
    pub(super) listening: Vec<SocketAddr>,
    pub(super) admin: Option<Admin>,
    stats: StatsThread,
    told_to_drain: mpsc::Receiver<()>,
    _signals: SignalsThread,
    _publisher: Arc<Mutex<Publisher>>,
}

/// Makes a snapshot the one in force, and tells those who follow it.
struct Publisher {
    roll: ProviderRoll,
    snapshots: Arc<Bulletin<Snapshot>>,
    resolver: Arc<Resolver>,
    models: Models,
    reloads: Arc<Reloads>,
}

impl Publisher {
    fn publish(&mut self, mut snapshot: Snapshot) -> u64 {
        snapshot.enrol(&mut self.roll);
        snapshot.generation = self.snapshots.generation() + 1;
        self.resolver.want(names(&snapshot));
        self.models.reload(Offer {
            sources: snapshot.providers.iter().map(model_source).collect(),
            own: snapshot.own_models().map(|(id, owner)| (id.into(), owner.into())).collect(),
        });
        let generation = self.snapshots.publish(Arc::new(snapshot));
        self.reloads.accepted(self.roll.clone());
        generation
    }
}

/// Starts everything; returns when clients can connect.
///
/// # Errors
/// A sentence for the operator.
pub(super) fn open(snapshot: Snapshot, choice: Choice, reload: Reload) -> Result<House, String> {
    let log = Log::stderr();
    let clock = Clock::new();
    raise_descriptor_limit();
    let cpus = cpus(&snapshot.server.cores)?;
    let cores = cpus.len();

    let snapshots = Arc::new(Bulletin::<Snapshot>::new(cores));
    let addresses = Arc::new(Bulletin::<Addresses>::new(cores));
    let lists = Arc::new(Bulletin::<ModelList>::new(cores));
    let vitals: Arc<[Vitals]> = cpus.iter().map(|cpu| Vitals::new(cpu.map_or(0, |cpu| cpu.id))).collect();
    let outboxes: Arc<[Outbox]> = (0..cores).map(|_| Outbox::new()).collect();
    let drain = Arc::new(Drain::default());
    let reloads = Arc::new(Reloads::default());
    let now = {
        let clock = clock.clone();
        Arc::new(move || clock.now())
    };

    let bound = bind(&snapshot, cores)?;
    let resolver = Resolver::start(Arc::new(SystemLookup), addresses.clone(), now.clone(), log.clone());
    let resolver = Arc::new(resolver.map_err(no_thread)?);
    let find = resolver.clone();
    let fetch = HttpFetch::new(
        Arc::new(move |host, patience| match host.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(ip) => Ok([ip].into()),
            Err(_) => find.wait_for(host, patience),
        }),
        address::is_public,
    );
    let models = Models::start(Arc::new(fetch), lists.clone(), limits::MODELS_INTERVAL, log.clone());
    let (admin_listen, drain_time) = (snapshot.admin.listen, snapshot.server.drain_time);
    let connections_max = snapshot.server.connections_max;
    let first_names = names(&snapshot);
    let mut publisher = Publisher {
        roll: ProviderRoll::default(),
        snapshots: snapshots.clone(),
        resolver: resolver.clone(),
        models: models.map_err(no_thread)?,
        reloads: reloads.clone(),
    };
    publisher.publish(snapshot);
    let patience = clock.now() + FIRST_LOOKUP;
    for name in first_names {
        if let Err(why) = resolver.wait_for(&name, patience.since(clock.now())) {
            log.warning(format_args!("{name} has no address yet: {why}"));
        }
    }

    let mut shards = Vec::new();
    let mut sockets: Vec<_> = bound
        .into_iter()
        .map(|(listeners, tls)| (listeners.sockets.into_iter(), listeners.address, tls))
        .collect();
    for (seat, cpu) in cpus.into_iter().enumerate() {
        let listeners = sockets
            .iter_mut()
            .filter_map(|(sockets, _, tls)| Some(Listener { socket: sockets.next()?, tls: tls.clone() }))
            .collect();
        let running = shard::start(Links {
            seat,
            cpu,
            clock: clock.clone(),
            choice,
            listeners,
            snapshots: snapshots.clone(),
            addresses: addresses.clone(),
            models: lists.clone(),
            drain: drain.clone(),
            outboxes: outboxes.clone(),
            vitals: vitals.clone(),
            connections_max,
        })?;
        if seat == 0 {
            if let Some(refused) = &running.refused {
                log.warning(format_args!("{refused}; serving with epoll instead"));
            }
            log.info(format_args!(
                "ringway {} · {} shard(s) on {}{} · {connections_max} connections a core · {} descriptors",
                env!("CARGO_PKG_VERSION"),
                cores,
                running.backend.name(),
                match running.backend.flags() {
                    "" => String::new(),
                    flags => format!(" ({flags})"),
                },
                descriptor_limit(),
            ));
        }
        shards.push(running.thread);
    }
    let listening: Vec<_> = sockets.iter().map(|(_, address, _)| *address).collect();

    let stats = Arc::new(Stats::new(outboxes));
    let boards: Vec<Arc<dyn Board>> = vec![snapshots.clone(), addresses, lists];
    let stats_thread =
        StatsThread::start(stats.clone(), boards, limits::SHEET_INTERVAL).map_err(no_thread)?;
    let standing =
        Arc::new(Standing { clock: now, snapshots, vitals, drain: drain.clone(), reloads: reloads.clone() });
    let admin = admin_listen
        .map(|listen| {
            Admin::start(listen, standing, stats).map_err(|error| format!("admin listener {listen}: {error}"))
        })
        .transpose()?;

    let publisher = Arc::new(Mutex::new(publisher));
    let (tell_to_drain, told_to_drain) = mpsc::channel();
    let signals = SignalsThread::start(
        Actions {
            drain: Box::new(move || {
                // Nobody listens any more once the drain has begun.
                let _ = tell_to_drain.send(());
            }),
            reload: reload_action(publisher.clone(), reloads, reload, log.clone()),
        },
        log.clone(),
    );
    Ok(House {
        log,
        drain,
        drain_time,
        shards,
        listening,
        admin,
        stats: stats_thread,
        told_to_drain,
        _signals: signals.map_err(no_thread)?,
        _publisher: publisher,
    })
}

impl House {
    /// Says where clients find us. The line that scripts wait for.
    pub(super) fn announce(&self) {
        let listening: Vec<_> = self.listening.iter().map(ToString::to_string).collect();
        let admin = self
            .admin
            .as_ref()
            .map_or(String::new(), |admin| format!(", admin on http://{}", admin.address()));
        self.log.info(format_args!("listening on {}{admin}", listening.join(", ")));
    }

    /// Serves until it is told to drain, drains, and ends.
    pub(super) fn serve(self) -> ExitCode {
        // Also when the signals' thread is gone: nobody could ever tell us.
        let _ = self.told_to_drain.recv();
        self.drain.advance(Stage::Draining);
        let drain = self.drain.clone();
        let drain_time = self.drain_time;
        let (done, all_done) = mpsc::channel::<()>();
        let cutter = std::thread::spawn(move || {
            if all_done.recv_timeout(drain_time).is_err() {
                drain.advance(Stage::Cutting);
            }
        });
        for shard in self.shards {
            let _ = shard.join();
        }
        let _ = done.send(());
        let _ = cutter.join();
        self.stats.stop();
        self.log.info(format_args!("drained"));
        ExitCode::SUCCESS
    }
}

fn reload_action(
    publisher: Arc<Mutex<Publisher>>,
    reloads: Arc<Reloads>,
    mut reload: Reload,
    log: Log,
) -> Box<dyn FnMut() + Send> {
    Box::new(move || match reload() {
        Ok(snapshot) => {
            let generation = match publisher.lock() {
                Ok(mut publisher) => publisher.publish(snapshot),
                Err(poisoned) => poisoned.into_inner().publish(snapshot),
            };
            log.info(format_args!("configuration reloaded: generation {generation}"));
        }
        Err(()) => {
            reloads.refused();
            log.error(format_args!("the configuration was not reloaded; the one before stays in force"));
        }
    })
}

/// Binds every address for every core, before anything else is started.
type Bound = Vec<(shard::Listeners, Option<Arc<rustls::ServerConfig>>)>;

fn bind(snapshot: &Snapshot, cores: usize) -> Result<Bound, String> {
    let server = &snapshot.server;
    let tls = match &server.tls {
        Some(tls) => Some(
            shard::server_config(&tls.certificates_pem, tls.key_pem.expose())
                .map_err(|why| format!("server.tls: {why}"))?,
        ),
        None => None,
    };
    let plain = server.listen.iter().map(|address| (*address, None));
    let secure = server.tls_listen.iter().map(|address| (*address, tls.clone()));
    plain
        .chain(secure)
        .map(|(address, tls)| match shard::bind(address, cores) {
            Ok(listeners) => Ok((listeners, tls)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                Err(format!("cannot listen on {address}: another process holds this port"))
            }
            Err(error) => Err(format!("cannot listen on {address}: {error}")),
        })
        .collect()
}

/// The CPUs to pin shards to. What the process may run on bounds it: cgroup cpusets and taskset are honoured.
fn cpus(cores: &Cores) -> Result<Vec<Option<core_affinity::CoreId>>, String> {
    let allowed = core_affinity::get_core_ids().unwrap_or_default();
    let chosen = match cores {
        Cores::Auto if allowed.is_empty() => return Ok(vec![None]),
        Cores::Auto => allowed,
        Cores::Count(count) => {
            if *count > allowed.len() {
                return Err(format!(
                    "server.cores = {count}, but this process may run on {} core(s) only",
                    allowed.len()
                ));
            }
            allowed.into_iter().take(*count).collect()
        }
        Cores::List(list) => {
            let wanted = list.iter().map(|id| {
                let found = allowed.iter().find(|core| core.id == *id).copied();
                found
                    .ok_or_else(|| format!("server.cores names core {id}, on which this process may not run"))
            });
            wanted.collect::<Result<_, _>>()?
        }
    };
    Ok(chosen.into_iter().map(Some).collect())
}

fn names(snapshot: &Snapshot) -> Vec<Box<str>> {
    let names = snapshot.providers.iter().filter_map(|provider| match &provider.dial {
        Dial::Name(name) => Some(name.clone()),
        Dial::Address(_) => None,
    });
    names.collect()
}

/// What the models' thread needs of a provider. One without a key that needs one is not asked.
fn model_source(provider: &config::Provider) -> ModelSource {
    let scheme = if provider.tls { "https" } else { "http" };
    let list = provider.keys.first().map(|key| ListAddress {
        url: format!("{scheme}://{}{}", provider.authority, provider.path("/models")),
        credential: split_line(key.line.expose()),
        headers: Vec::new(),
        private: provider.private,
        // A CA that cannot be read was a complaint already; without a configuration nothing is fetched.
        tls: provider.tls.then(|| shard::client_config(provider.ca.as_deref()).ok()).flatten(),
    });
    ModelSource { provider: provider.name.clone(), configured: provider.models.clone(), list }
}

fn split_line(line: &[u8]) -> Option<(String, Secret)> {
    let line = std::str::from_utf8(line).ok()?;
    let (name, value) = line.trim_end().split_once(": ")?;
    Some((name.to_owned(), Secret::new(value.as_bytes().to_vec())))
}

fn no_thread(error: io::Error) -> String {
    format!("cannot start a thread: {error}")
}

/// As many descriptors as the hard limit allows: every exchange needs two.
fn raise_descriptor_limit() {
    if let Some(mut limit) = limit() {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: a pointer to a live struct; a refusal changes nothing.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    }
}

fn descriptor_limit() -> u64 {
    limit().map_or(0, |limit| limit.rlim_cur)
}

fn limit() -> Option<libc::rlimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a pointer to a live struct that the call fills.
    let got = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    (got == 0).then_some(limit)
}
