//! Puts the parts together: boards, shards, control threads; then waits, drains, and ends.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::Path,
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use rustls::ServerConfig;

use super::{
    fixed::Fixed,
    placement,
    publisher::{Published, Publisher, Storage},
};
use crate::{
    base::{
        address,
        ids::{LineRoll, ProviderRoll},
        limits,
        secret::Secret,
    },
    bridge::{
        addresses::Addresses,
        bulletin::{Board, Bulletin},
        drain::{Drain, Stage},
        estimates::EstimateQueue,
        handoff::{Door, Inbox},
        health::HealthBoard,
        logpipe::LogPipe,
        outbox::Outbox,
        quota::QuotaBoard,
        tally::Tally,
        vitals::Vitals,
    },
    config::{self, Dial, Estimate, Otlp, Snapshot, callers::Callers},
    control::{
        access_log::{AccessLogThread, Left, Reopen, Task},
        admin::Admin,
        checks::{Checked, Checks, Found},
        estimator::{self, EstimatorThread},
        fetch::HttpFetch,
        history,
        log::Log,
        log_store::{Keeper, Store, Tallies},
        models::{ListAddress, ModelSource, Models},
        otlp::{self, OtlpThread},
        resolver::{Resolver, SystemLookup},
        signals::{Actions, SignalsThread},
        standing::{Reloads, Standing},
        state::{
            State,
            watch::{News, Watch},
        },
        stats::{History, Stats, StatsThread},
    },
    ledger::exposition::{self, Format},
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
    estimator: Option<EstimatorThread>,
    access_log: Option<AccessLogThread>,
    otlp: Option<OtlpThread>,
    told_to_drain: mpsc::Receiver<()>,
    _signals: SignalsThread,
    _watch: Option<Watch>,
    _publisher: Arc<Mutex<Publisher>>,
}

/// Starts everything; returns when clients can connect.
///
/// # Errors
/// A sentence for the operator.
pub(super) fn open(snapshot: Snapshot, choice: Choice, reload: Reload) -> Result<House, String> {
    let log = Log::stderr();
    let clock = Clock::new();
    raise_descriptor_limit();
    let cpus = placement::cpus(&snapshot.server.cores)?;
    // Before the first of them is started.
    placement::keep_off(&cpus);
    let cores = cpus.len();

    let snapshots = Arc::new(Bulletin::<Snapshot>::new(cores));
    let addresses = Arc::new(Bulletin::<Addresses>::new(cores));
    let lists = Arc::new(Bulletin::<ModelList>::new(cores));
    let callers = Arc::new(Bulletin::<Option<Callers>>::new(cores));
    let quota = Arc::new(QuotaBoard::new());
    let health = Arc::new(HealthBoard::default());
    let certificates = Arc::new(Bulletin::<Arc<ServerConfig>>::new(cores));
    let vitals: Arc<[Vitals]> = cpus.iter().map(|cpu| Vitals::new(cpu.map_or(0, |cpu| cpu.id))).collect();
    // Who tells tokens by their words counts in the place of the cores, and has an outbox behind theirs.
    let counts_words = snapshot.estimate == Estimate::Bpe;
    let seats = cores + usize::from(counts_words);
    let outboxes: Arc<[Outbox]> = (0..seats).map(|_| Outbox::new()).collect();
    let estimates: Arc<[EstimateQueue]> =
        (0..cores).filter(|_| counts_words).map(|_| EstimateQueue::default()).collect();
    let inboxes: Arc<[Inbox]> = (0..cores)
        .map(|_| Inbox::new())
        .collect::<io::Result<_>>()
        .map_err(|error| format!("cannot connect the cores: {error}"))?;
    let (access_log, kept_logs) = (snapshot.access_log.clone(), snapshot.kept_logs.clone());
    let otlp = snapshot.otlp.clone();
    let sent = otlp.as_ref().map(|_| Arc::new(otlp::Tallies::default()));
    let (lines, kept) = (Arc::new(Tally::default()), Tallies::default());
    let log_pipes: Arc<[LogPipe]> = (0..cores + estimates.len())
        .filter(|_| access_log.to.is_some() || kept_logs.is_some() || wants_exchanges(otlp.as_deref()))
        .map(|_| LogPipe::new())
        .collect();
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
    let fetch = Arc::new(fetch);
    let found = Arc::new(Found::default());
    let checks = Checks::new(fetch.clone(), health.clone(), found.clone(), now.clone(), log.clone());
    let models = Models::start(fetch, lists.clone(), limits::MODELS_INTERVAL, log.clone());
    let (admin_listen, drain_time) = (snapshot.admin.listen, snapshot.server.drain_time);
    let connections_max = snapshot.server.connections_max;
    let first_names = names(&snapshot);
    let state = snapshot.state.clone();
    let is_open = !snapshot.auth.required;
    let mut publisher = Publisher {
        roll: ProviderRoll::default(),
        snapshots: snapshots.clone(),
        resolver: resolver.clone(),
        models: models.map_err(no_thread)?,
        checks,
        reloads: reloads.clone(),
        certificates: certificates.clone(),
        started_with: Fixed::of(&snapshot),
        callers: callers.clone(),
        lines: LineRoll::default(),
        health: health.clone(),
        storage: state
            .as_ref()
            .map(|path| Storage::open(path, quota.clone(), log.clone()))
            .transpose()
            .map_err(|trouble| trouble.to_string())?,
    };
    publisher.publish(snapshot)?;
    let patience = clock.now() + FIRST_LOOKUP;
    for name in first_names {
        if let Err(why) = resolver.wait_for(&name, patience.since(clock.now())) {
            log.warning(format_args!("{name} has no address yet: {why}"));
        }
    }

    let mut shards = Vec::new();
    let mut sockets: Vec<_> = bound
        .into_iter()
        .map(|(listeners, door)| (listeners.sockets.into_iter(), listeners.address, door))
        .collect();
    for (seat, cpu) in cpus.into_iter().enumerate() {
        let listeners = sockets
            .iter_mut()
            .filter_map(|(sockets, _, door)| Some(Listener { socket: sockets.next()?, door: *door }))
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
            callers: callers.clone(),
            quota: quota.clone(),
            health: health.clone(),
            certificates: certificates.clone(),
            drain: drain.clone(),
            outboxes: outboxes.clone(),
            vitals: vitals.clone(),
            inboxes: inboxes.clone(),
            log_pipes: log_pipes.clone(),
            estimates: estimates.clone(),
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
    let listening: Vec<_> = sockets.iter().map(|(_, address, ..)| *address).collect();

    let estimator = counts_words.then(|| {
        let task = estimator::Task {
            queues: estimates,
            outboxes: outboxes.clone(),
            seat: cores,
            log_pipes: log_pipes.clone(),
        };
        EstimatorThread::start(task, limits::ESTIMATES_INTERVAL, log.clone())
    });
    let estimator = estimator.transpose().map_err(no_thread)?;
    let stats = Arc::new(Stats::new(outboxes));
    let boards: Vec<Arc<dyn Board>> =
        vec![snapshots.clone(), addresses, lists, certificates, callers.clone()];
    let history = state.as_deref().map(|directory| {
        // The directory is there: it was opened for the callers.
        let store = history::Store::open(directory).map_err(|trouble| trouble.to_string())?;
        Ok::<_, String>(History { store, names: reloads.clone(), log: log.clone() })
    });
    if history.is_none() {
        log.info(format_args!(
            "there is no state directory: figures are in memory alone, and end with the process"
        ));
    }
    let stats_thread = StatsThread::start(stats.clone(), boards, limits::BOOK_INTERVAL, history.transpose()?);
    let stats_thread = stats_thread.map_err(no_thread)?;
    let (log_snapshots, log_clock) = (snapshots.clone(), now.clone());
    let standing = Arc::new(Standing {
        clock: now,
        snapshots,
        callers,
        vitals,
        drain: drain.clone(),
        quota,
        health,
        found,
        reloads: reloads.clone(),
        log_pipes: log_pipes.clone(),
        lines: lines.clone(),
        kept: kept.clone(),
        otlp: sent.clone(),
    });
    let otlp = otlp.zip(sent).map(|(settings, tallies)| {
        let (standing, stats) = (standing.clone(), stats.clone());
        let tls = settings.tls.then(|| shard::client_config(settings.ca.as_deref()));
        let task = otlp::Task {
            tls: tls.transpose().map_err(|why| format!("otlp: {why}"))?,
            page: Box::new(move || {
                stats.read(|book| exposition::render(book, &standing.facts(), Format::Prometheus))
            }),
            names: reloads.clone(),
            snapshots: log_snapshots.clone(),
            tallies,
            clock: log_clock,
            settings,
        };
        OtlpThread::start(task, log.clone()).map_err(no_thread)
    });
    let otlp = otlp.transpose()?;
    let keeper = match (kept_logs, &state) {
        (Some(settings), Some(directory)) => {
            // The directory is there: it was opened for the callers.
            let keeper =
                Store::open(directory).and_then(|store| Keeper::start(store, settings, kept, log.clone()));
            Some(keeper.map_err(|trouble| trouble.to_string())?)
        }
        _ => None,
    };
    let access_log = (!log_pipes.is_empty()).then(|| {
        let task = Task {
            format: access_log.format,
            target: access_log.to,
            keeper,
            feed: otlp.as_ref().and_then(OtlpThread::feed),
            pipes: log_pipes,
            cores,
            tally: lines,
            names: reloads.clone(),
            snapshots: log_snapshots,
        };
        AccessLogThread::start(task, limits::LOG_INTERVAL, log.clone())
    });
    let access_log = access_log.transpose().map_err(no_thread)?;
    let reopen = access_log.as_ref().map(AccessLogThread::reopener);
    let admin = admin_listen
        .map(|listen| {
            Admin::start(listen, standing, stats).map_err(|error| format!("admin listener {listen}: {error}"))
        })
        .transpose()?;

    let publisher = Arc::new(Mutex::new(publisher));
    let watch = state.map(|path| watch_callers(&path, &publisher, &log)).transpose()?;
    if is_open {
        log.info(format_args!("callers are not verified: whoever can connect may call"));
    }
    let (tell_to_drain, told_to_drain) = mpsc::channel();
    let signals = SignalsThread::start(
        Actions {
            drain: Box::new(move || {
                // Nobody listens any more once the drain has begun.
                let _ = tell_to_drain.send(());
            }),
            reload: reload_action(publisher.clone(), reloads, reload, log.clone()),
            reopen_logs: Box::new(move || reopen.iter().for_each(Reopen::reopen)),
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
        estimator,
        access_log,
        otlp,
        told_to_drain,
        _signals: signals.map_err(no_thread)?,
        _watch: watch,
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
        self.estimator.into_iter().for_each(EstimatorThread::stop);
        self.stats.stop();
        let left =
            self.access_log.map_or_else(Left::default, |access_log| access_log.stop(limits::LOG_FLUSH_TIME));
        if !self.otlp.is_none_or(|otlp| otlp.stop(limits::OTLP_FLUSH_TIME)) {
            self.log.warning(format_args!("the collector is slow: the last telemetry is lost"));
        }
        if left.is_nothing() {
            self.log.info(format_args!("drained"));
        } else {
            self.log.warning(format_args!("drained, but {left}"));
        }
        ExitCode::SUCCESS
    }
}

/// Follows the callers from now on; what changed since they were published is published again.
fn watch_callers(path: &Path, publisher: &Arc<Mutex<Publisher>>, log: &Log) -> Result<Watch, String> {
    let told = publisher.clone();
    let take_up = move |news| told.lock().unwrap_or_else(PoisonError::into_inner).take_up(news);
    let state = State::open(path).map_err(|trouble| trouble.to_string())?;
    let (watch, callers) =
        Watch::start(state, take_up, log.clone()).map_err(|trouble| trouble.to_string())?;
    publisher.lock().unwrap_or_else(PoisonError::into_inner).take_up(News::Callers(callers));
    Ok(watch)
}

fn reload_action(
    publisher: Arc<Mutex<Publisher>>,
    reloads: Arc<Reloads>,
    mut reload: Reload,
    log: Log,
) -> Box<dyn FnMut() + Send> {
    Box::new(move || {
        let published = reload().and_then(|snapshot| {
            let mut publisher = publisher.lock().unwrap_or_else(PoisonError::into_inner);
            publisher.publish(snapshot).map_err(|why| log.error(format_args!("{why}")))
        });
        match published {
            Ok(Published { generation, certificate_is_new, waits_for_restart }) => {
                let certificate = if certificate_is_new { ", with a new certificate" } else { "" };
                log.info(format_args!("configuration reloaded: generation {generation}{certificate}"));
                for setting in waits_for_restart {
                    log.warning(format_args!("{setting} has changed: that takes effect at the next start"));
                }
            }
            Err(()) => {
                reloads.refused();
                log.error(format_args!("the configuration was not reloaded; the one before stays in force"));
            }
        }
    })
}

/// Whether exchanges are exported one by one.
fn wants_exchanges(otlp: Option<&Otlp>) -> bool {
    otlp.is_some_and(|otlp| otlp.signals.traces || otlp.signals.logs)
}

/// Binds every address for every core, before anything else is started.
type Bound = Vec<(shard::Listeners, Door)>;

fn bind(snapshot: &Snapshot, cores: usize) -> Result<Bound, String> {
    let server = &snapshot.server;
    let plain = server.listen.iter().map(|address| (*address, false));
    let secure = server.tls_listen.iter().map(|address| (*address, true));
    plain
        .chain(secure)
        .map(|(address, is_tls)| match shard::bind(address, cores) {
            Ok(listeners) => {
                Ok((listeners, Door { is_tls, is_proxied: server.proxy_protocol.contains(&address) }))
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                Err(format!("cannot listen on {address}: another process holds this port"))
            }
            Err(error) => Err(format!("cannot listen on {address}: {error}")),
        })
        .collect()
}

pub(super) fn names(snapshot: &Snapshot) -> Vec<Box<str>> {
    let names = snapshot.providers.iter().filter_map(|provider| match &provider.dial {
        Dial::Name(name) => Some(name.clone()),
        Dial::Address(_) => None,
    });
    names.collect()
}

/// What its health check needs of a provider that wants one.
pub(super) fn checked(provider: &config::Provider) -> Option<Checked> {
    let rules = provider.health_check.clone()?;
    let key = provider.keys.first();
    Some(Checked {
        provider: provider.id,
        name: provider.name.clone(),
        address: address_of(provider, &rules.path, key.and_then(|key| split_line(key.line.expose()))),
        rules,
    })
}

fn address_of(provider: &config::Provider, path: &str, credential: Option<(String, Secret)>) -> ListAddress {
    let scheme = if provider.tls { "https" } else { "http" };
    ListAddress {
        url: format!("{scheme}://{}{path}", provider.authority),
        credential,
        headers: Vec::new(),
        private: provider.private,
        // A CA that cannot be read was a complaint already; without a configuration nothing is fetched.
        tls: provider.tls.then(|| shard::client_config(provider.ca.as_deref()).ok()).flatten(),
    }
}

/// What the models' thread needs of a provider. One without a key that needs one is not asked.
pub(super) fn model_source(provider: &config::Provider) -> ModelSource {
    let key = provider.keys.first();
    let list = key.map(|key| address_of(provider, &provider.path("/models"), split_line(key.line.expose())));
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
