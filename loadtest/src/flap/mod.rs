//! A primary that goes and comes back, and a backup that stays: what becomes of the requests in front of a gateway.
//!
//! Starts the gateway and two providers, drives them through flapping, an outage, a black hole and the loss of everything, and
//! says by how much each bound is kept. What its clients see of the gateway is held against what the providers were asked, request by
//! request.

mod gate;
mod load;
mod report;

use std::{
    collections::HashMap,
    fs, io,
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

pub use self::report::{Figure, Report};
use self::{
    gate::Gate,
    load::{Done, End, Load, ask},
};
use crate::{
    clock::now_ns,
    provider::{self, Provider},
};

/// A run to be made.
#[derive(Clone, Debug)]
pub struct Options {
    /// The gateway's program, and its backend.
    pub gateway: PathBuf,
    pub backend: String,
    /// How long the primary flaps, and how long it is gone afterwards.
    pub flap: Duration,
    pub outage: Duration,
    pub per_second: u64,
}

/// The primary is there for so long, and gone for so long.
const HALF: Duration = Duration::from_secs(3);
const CONNECT_SECS: u64 = 1;
/// In which a breaker may learn that a target is gone.
const LEARN: Duration = Duration::from_secs(1);
/// Answers take a while, so that some are under way whenever the primary goes.
const SCRIPT: &str = "ttft=30,gap=20,events=15";
/// No connection is kept: each request needs one of its own, and finds that there is none to be had.
const UNKEPT: &str = "closeafter";
const PRIMARY: &str = "primary";
const BACKUP: &str = "backup";

/// Makes a run.
pub fn run(options: &Options) -> io::Result<Report> {
    let mut stage = Stage::set(options)?;
    let mut report = Report::default();
    stage.flap(options, &mut report)?;
    stage.outage(options, &mut report)?;
    stage.black_hole(options, &mut report)?;
    stage.all_gone(&mut report)?;
    Ok(report)
}

/// Who plays.
struct Stage {
    gateway: SocketAddr,
    primary: Gate,
    backup: Gate,
    behind: [Provider; 2],
    _running: Running,
}

/// The gateway's process, which ends with this.
struct Running {
    child: Child,
    config: PathBuf,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.config);
    }
}

impl Stage {
    fn set(options: &Options) -> io::Result<Self> {
        let remembering =
            provider::Options { log_kept_max: 200_000, ..provider::Options::on(([127, 0, 0, 1], 0).into()) };
        let (behind_primary, behind_backup) =
            (provider::start(&remembering)?, provider::start(&remembering)?);
        let (primary, backup) = (Gate::new(behind_primary.addr)?, Gate::new(behind_backup.addr)?);
        let (gateway, admin) = (free_address()?, free_address()?);
        let config = std::env::temp_dir().join(format!("ringway-flap-{}.toml", std::process::id()));
        fs::write(&config, configuration(gateway, admin, primary.addr, backup.addr))?;
        let child = Command::new(&options.gateway)
            .args(["run", "--backend", &options.backend, "-c"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let mut running = Running { child, config };
        let patience_ns = now_ns() + 20_000_000_000;
        while !is_ready(admin) {
            if now_ns() > patience_ns || running.child.try_wait()?.is_some() {
                return Err(io::Error::other("the gateway does not get ready"));
            }
            wait(Duration::from_millis(20));
        }
        Ok(Self { gateway, primary, backup, behind: [behind_primary, behind_backup], _running: running })
    }

    /// Three seconds there, three seconds gone, again and again.
    fn flap(&mut self, options: &Options, report: &mut Report) -> io::Result<()> {
        let load = Load::start(self.gateway, "dynamic/flap", options.per_second);
        let mut gone_ns = Vec::new();
        let end_ns = now_ns() + ns(options.flap);
        wait(HALF);
        while now_ns() < end_ns {
            self.primary.crash();
            gone_ns.push(now_ns());
            wait(HALF);
            self.primary.open()?;
            wait(HALF);
        }
        let back_ns = now_ns() - ns(HALF);
        let back = self.serves_again(&load, back_ns, 60);
        let done = load.end();
        let asked = self.asked();

        let cut = done.iter().filter(|one| one.end == End::Cut).count();
        let whole = done.iter().filter(|one| one.end == End::Whole).count();
        let share = 100.0 * whole as f64 / (done.len() - cut).max(1) as f64;
        report.note("requests", done.len() as f64);
        report.note("streams cut after commit", cut as f64);
        report.at_least("success, %", share, 99.9);
        for one in done.iter().filter(|one| matches!(one.end, End::Failed(_))).take(10) {
            report.failures.push(format!("{:?} after {} attempts", one.end, one.attempts));
        }
        let learns = |one: &Done| gone_ns.iter().any(|at| (*at..at + ns(LEARN)).contains(&one.began_ns));
        let others: Vec<_> = done.iter().filter(|one| !learns(one)).collect();
        let attempts = others.iter().map(|one| one.attempts).sum::<u64>() as f64;
        let all = done.iter().map(|one| one.attempts).sum::<u64>() as f64;
        report.note("attempts a request, learning included", all / done.len().max(1) as f64);
        report.at_most("attempts a request", attempts / others.len().max(1) as f64, 1.10);
        // Every answer is found at a provider under its name, and nothing came there for it after its client's first byte.
        let whole = || done.iter().filter(|one| one.end == End::Whole);
        let found = whole().filter(|one| asked.contains_key(&one.name)).count();
        report.at_least(
            "answers found at a provider, of all",
            found as f64 / whole().count().max(1) as f64,
            1.0,
        );
        let late = |one: &&Done| {
            let received = asked.get(&one.name).into_iter().flatten();
            received.filter(|at_ns| one.first_ns > 0 && **at_ns > one.first_ns).count()
        };
        let cuts = || done.iter().filter(|one| one.end == End::Cut);
        report.at_most("attempts after commit", done.iter().map(|one| late(&one)).sum::<usize>() as f64, 0.0);
        report.at_most(
            "of these for streams that were cut",
            cuts().map(|one| late(&one)).sum::<usize>() as f64,
            0.0,
        );
        let served = done.iter().filter(|one| one.provider == PRIMARY && one.end == End::Whole).count();
        report.note("served by the primary, %", 100.0 * served as f64 / done.len().max(1) as f64);
        let out: Vec<_> = gone_ns.iter().filter_map(|at| time_to_eject(&done, *at, HALF)).collect();
        report.note("times that it was in use when it went", out.len() as f64);
        report.at_most("longest time to eject, s", out.iter().copied().fold(0.0, f64::max), 1.0);
        report.at_most("traffic back after flapping, s", back.unwrap_or(f64::INFINITY), 15.0);
        Ok(())
    }

    /// When each request was received by a provider, by its name.
    fn asked(&self) -> HashMap<String, Vec<u64>> {
        let mut asked: HashMap<String, Vec<u64>> = HashMap::new();
        for entry in self.behind.iter().flat_map(|provider| provider.log.entries_kept()) {
            let body: serde_json::Value = serde_json::from_slice(&entry.body).unwrap_or_default();
            // Lists of models are asked for now and then, and by nobody's request.
            if let Some(name) = body["user"].as_str() {
                asked.entry(name.to_owned()).or_default().push(entry.received_ns);
            }
        }
        asked
    }

    /// Gone for a while, then back for good. What was under way comes to its end, so that only new requests can tell.
    fn outage(&mut self, options: &Options, report: &mut Report) -> io::Result<()> {
        let load = Load::start(self.gateway, "dynamic/outage", options.per_second);
        wait(HALF);
        self.primary.refuse();
        let gone_ns = now_ns();
        wait(options.outage);
        self.primary.open()?;
        let back = self.serves_again(&load, now_ns(), 60);
        let done = load.end();
        let out = time_to_eject(&done, gone_ns, options.outage.min(HALF));
        report.at_most("refusing: time to eject, s", out.unwrap_or(f64::INFINITY), 1.0);
        report.at_most("refusing: traffic back after return, s", back.unwrap_or(f64::INFINITY), 15.0);
        Ok(())
    }

    /// Not even handshakes are answered.
    fn black_hole(&mut self, options: &Options, report: &mut Report) -> io::Result<()> {
        let load = Load::start(self.gateway, "dynamic/hole", options.per_second);
        wait(HALF);
        self.primary.vanish()?;
        let gone_ns = now_ns();
        wait(Duration::from_secs(CONNECT_SECS) + HALF);
        let done = load.end();
        let out = time_to_eject(&done, gone_ns, HALF + LEARN);
        let most = CONNECT_SECS as f64 + 1.0;
        report.at_most("black hole: time to eject, s", out.unwrap_or(f64::INFINITY), most);
        let lost = done.iter().filter(|one| matches!(one.end, End::Failed(_))).count();
        report.at_most("black hole: requests lost", lost as f64, 0.0);
        Ok(())
    }

    /// Nobody is there, and the gateway knows.
    fn all_gone(&mut self, report: &mut Report) -> io::Result<()> {
        self.primary.crash();
        self.backup.crash();
        let ask_once = |number: u64| {
            ask(self.gateway, "dynamic/gone", &format!("gone-{number}"), number.is_multiple_of(2))
        };
        let learnt = (0..100).map(ask_once).position(|one| one.attempts == 0);
        report
            .note("all gone: requests until the gateway knew", learnt.map_or(f64::INFINITY, |at| at as f64));
        let knowing: Vec<_> = (0..500).map(ask_once).filter(|one| one.attempts == 0).collect();
        let mut took_ms: Vec<_> = knowing.iter().map(|one| one.took_ns as f64 / 1e6).collect();
        took_ms.sort_by(f64::total_cmp);
        let refused =
            knowing.iter().filter(|one| one.end == End::Failed("HTTP/1.1 503 Service Unavailable".into()));
        report.at_least("all gone: refused at once, of 500", refused.count() as f64, 450.0);
        // The bound holds for the 99th percentile: a machine that is busy with something else may hold up a few of them.
        let of =
            |percent: usize| took_ms.get(took_ms.len() * percent / 100).copied().unwrap_or(f64::INFINITY);
        report.note("all gone: median answer, ms", of(50));
        report.at_most("all gone: 99 of 100 answers within, ms", of(99), 50.0);
        report.note("all gone: longest answer, ms", took_ms.last().copied().unwrap_or(f64::INFINITY));
        Ok(())
    }

    /// How long it took from `back_ns` until the primary served one that began after it, in seconds.
    fn serves_again(&self, load: &Load, back_ns: u64, secs_max: u64) -> Option<f64> {
        let until_ns = now_ns() + secs_max * 1_000_000_000;
        while now_ns() < until_ns {
            let by_it = load
                .so_far()
                .into_iter()
                .filter(|one| one.began_ns > back_ns && one.provider == PRIMARY && one.end == End::Whole);
            if let Some(first) = by_it.map(|one| one.began_ns).min() {
                return Some((first - back_ns) as f64 / 1e9);
            }
            wait(Duration::from_millis(100));
        }
        None
    }
}

/// From the moment at which the primary went until the last request that still tried it, in seconds; nothing if it was not in
/// use. Looked at for so long that no probe comes in between.
fn time_to_eject(done: &[Done], gone_ns: u64, within: Duration) -> Option<f64> {
    let before = gone_ns.saturating_sub(1_000_000_000)..gone_ns;
    let used = done.iter().filter(|one| before.contains(&one.began_ns) && one.provider == PRIMARY).count();
    let after = gone_ns..gone_ns + ns(within);
    let tried = |one: &&Done| after.contains(&one.began_ns) && (one.attempts > 1 || one.provider == PRIMARY);
    let last_ns = done.iter().filter(tried).map(|one| one.began_ns).max();
    // Fewer are those of a ramp, which have been few all along.
    (used >= 10).then(|| last_ns.map_or(0.0, |last| (last - gone_ns) as f64 / 1e9))
}

fn configuration(gateway: SocketAddr, admin: SocketAddr, primary: SocketAddr, backup: SocketAddr) -> String {
    let mut text = format!(
        "[server]\nlisten = [\"{gateway}\"]\ncores = 1\n[admin]\nlisten = \"{admin}\"\n\
         [timeouts]\nconnect_secs = {CONNECT_SECS}\n"
    );
    for (name, at) in [(PRIMARY, primary), (BACKUP, backup)] {
        text += &format!("[[provider]]\nname = \"{name}\"\nbase_url = \"http://{at}/v1\"\nauth = \"none\"\n");
    }
    // Each part has targets of its own: none begins with what another has left of a breaker.
    for (name, more) in [("flap", ""), ("outage", UNKEPT), ("hole", UNKEPT), ("gone", "")] {
        let model = format!("{name},{SCRIPT},{more}");
        text += &format!(
            "[[route]]\nname = \"{name}\"\nmodel = \"{PRIMARY}/{model}\"\nfallbacks = [\"{BACKUP}/{model}\"]\n"
        );
    }
    text
}

fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}

fn is_ready(admin: SocketAddr) -> bool {
    use std::io::{Read, Write};
    let Ok(mut stream) = TcpStream::connect(admin) else { return false };
    let mut answer = Vec::new();
    stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").is_ok()
        && stream.read_to_end(&mut answer).is_ok()
        && answer.starts_with(b"HTTP/1.1 200 ")
}

/// The scenario's own clock going on.
fn wait(span: Duration) {
    let until_ns = now_ns() + ns(span);
    while let left_ns @ 1.. = until_ns.saturating_sub(now_ns()) {
        thread::park_timeout(Duration::from_nanos(left_ns));
    }
}

fn ns(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX / 4)
}
