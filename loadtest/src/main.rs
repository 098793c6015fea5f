//! `ringway-load`: the simulated provider, the load generator, the holder of idle connections and the primary that flaps.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::{Args, Parser, Subcommand};
use ringway_load::{
    flap,
    generator::{
        self,
        plan::{Pace, Slo, duration},
        report::DEFINITIONS,
    },
    idle,
    provider::{self, script::WORDS},
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Simulate a provider that answers as the model's name tells it to.
    #[command(after_help = WORDS)]
    Provider(ProviderArguments),
    /// Load an endpoint and measure it.
    #[command(after_help = DEFINITIONS)]
    Run(Box<RunArguments>),
    /// Open idle keep-alive connections and hold them until standard input ends.
    Idle(IdleArguments),
    /// Start a gateway between a primary that flaps and a healthy backup, and check what failover promises.
    Flap(FlapArguments),
}

#[derive(Args)]
struct ProviderArguments {
    /// Where to listen; port 0 lets the kernel choose.
    #[arg(long, default_value = "127.0.0.1:9000")]
    listen: SocketAddr,
    /// Number of threads.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Cores to pin the threads to, e.g. 1 or 1,3.
    #[arg(long, value_delimiter = ',')]
    cores: Vec<usize>,
    /// Speak TLS on that address, with the certificates in this PEM file; a second, plain port is for `/_sim/`.
    #[arg(long, requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The private key to them.
    #[arg(long, requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Send an answer before each handshake has ended, which nobody may take for one.
    #[arg(long, requires = "tls_cert")]
    tls_early: bool,
    /// Requests that `GET /_sim/log` remembers; 0 for none.
    #[arg(long, default_value_t = 4096)]
    log: usize,
}

#[derive(Args)]
struct RunArguments {
    /// Base URL with an address: http://127.0.0.1:8080/v1
    #[arg(long, default_value = "http://127.0.0.1:8080/v1")]
    url: String,
    /// Path below the base URL.
    #[arg(long, default_value = "/chat/completions")]
    endpoint: String,
    /// Model to ask for; the simulated provider takes it as its script.
    #[arg(long, default_value = "sim/sim")]
    model: String,
    /// Ask for a stream.
    #[arg(long)]
    stream: bool,
    /// Ask for the usage of a stream.
    #[arg(long)]
    include_usage: bool,
    /// Open loop: so many requests a second, whatever becomes of them.
    #[arg(long, conflicts_with = "concurrency")]
    rate: Option<f64>,
    /// Spread an open loop's requests at random (from the seed) instead of evenly.
    #[arg(long, requires = "rate")]
    poisson: bool,
    /// Closed loop: so many requests at once.
    #[arg(long)]
    concurrency: Option<usize>,
    /// Connections that an open loop opens beforehand; more are opened when none is free.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Length of the measured part.
    #[arg(long, default_value = "10s", value_parser = duration)]
    duration: Duration,
    /// End after so many requests, if that comes first.
    #[arg(long)]
    requests: Option<u64>,
    /// Unmeasured time before it.
    #[arg(long, default_value = "2s", value_parser = duration)]
    warmup: Duration,
    /// Spread the beginnings of a closed loop over this time, so that streams do not tick together.
    #[arg(long, default_value = "0s", value_parser = duration)]
    ramp: Duration,
    /// Header to send, e.g. 'authorization: Bearer sk-1'; may be repeated.
    #[arg(long = "header", value_parser = header)]
    headers: Vec<(String, String)>,
    /// File of headers, one a line: each connection sends one of them, in turn, with all its requests.
    #[arg(long, value_name = "FILE")]
    header_each: Option<PathBuf>,
    /// Bytes of the user's message.
    #[arg(long, default_value_t = 100)]
    body_bytes: usize,
    /// Cores to pin to, one thread each, e.g. 1 or 1,3.
    #[arg(long, value_delimiter = ',')]
    cores: Vec<usize>,
    /// What makes a request good, e.g. ttft=200ms,itl=20ms,e2e=2s
    #[arg(long, value_parser = Slo::parse)]
    slo: Option<Slo>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Where chance comes from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Args)]
struct IdleArguments {
    /// Whom to connect to.
    #[arg(long)]
    connect: SocketAddr,
    /// How many connections.
    #[arg(long, default_value_t = 10_000)]
    connections: usize,
    /// Have each ask for /v1/models once before it idles.
    #[arg(long)]
    request: bool,
    /// Speak TLS, and trust the certificates in this PEM file and nothing else.
    #[arg(long, requires = "tls_name")]
    tls_ca: Option<PathBuf>,
    /// The name that the certificate must have.
    #[arg(long, requires = "tls_ca")]
    tls_name: Option<String>,
    /// Close them at once instead of holding them.
    #[arg(long)]
    no_hold: bool,
}

#[derive(Args)]
struct FlapArguments {
    /// The gateway's program; the one beside this program if it is not given.
    #[arg(long)]
    gateway: Option<PathBuf>,
    /// Its backend.
    #[arg(long, default_value = "io_uring")]
    backend: String,
    /// How long the primary flaps: three seconds there, three seconds gone.
    #[arg(long, default_value = "600s", value_parser = duration)]
    duration: Duration,
    /// How long it is gone at a stretch afterwards.
    #[arg(long, default_value = "10s", value_parser = duration)]
    outage: Duration,
    /// Requests a second, half of them for streams.
    #[arg(long, default_value_t = 25)]
    rate: u64,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Provider(arguments) => run_provider(&arguments),
        Command::Run(arguments) => run_load(*arguments),
        Command::Idle(arguments) => run_idle(&arguments),
        Command::Flap(arguments) => run_flap(arguments),
    };
    done.unwrap_or_else(|error| {
        eprintln!("ringway-load: {error}");
        ExitCode::FAILURE
    })
}

fn run_provider(arguments: &ProviderArguments) -> io::Result<ExitCode> {
    ringway_load::runtime::raise_open_files(65_536);
    let tls = arguments.tls_cert.as_deref().zip(arguments.tls_key.as_deref());
    let beside = SocketAddr::new(arguments.listen.ip(), 0);
    let provider = provider::start(&provider::Options {
        listen: if tls.is_some() { beside } else { arguments.listen },
        threads: arguments.threads.max(arguments.cores.len()),
        cores: arguments.cores.clone(),
        log_kept_max: arguments.log,
    })?;
    println!("listening on {}", provider.addr);
    if let Some((cert, key)) = tls {
        let options =
            provider::tls::Options { listen: arguments.listen, cert, key, early: arguments.tls_early };
        println!("listening on {} with TLS", provider::tls::start(&options, provider.addr, provider.log)?);
    }
    loop {
        std::thread::park();
    }
}

/// Succeeds if the run proves something.
fn run_load(arguments: RunArguments) -> io::Result<ExitCode> {
    ringway_load::runtime::raise_open_files(65_536);
    let report = generator::run(&generator::Options {
        endpoint: arguments.endpoint,
        stream: arguments.stream,
        include_usage: arguments.include_usage,
        headers: arguments.headers,
        headers_each: arguments.header_each.as_deref().map(headers_in).transpose()?.unwrap_or_default(),
        message_bytes: arguments.body_bytes,
        pace: match arguments.rate {
            Some(rate) if arguments.poisson => Pace::Poisson(rate),
            Some(rate) => Pace::Constant(rate),
            None => Pace::Closed,
        },
        connections: match arguments.rate {
            Some(_) => arguments.connections,
            None => arguments.concurrency.unwrap_or(1),
        },
        duration: arguments.duration,
        requests: arguments.requests,
        warmup: arguments.warmup,
        ramp: arguments.ramp,
        cores: arguments.cores,
        slo: arguments.slo,
        seed: arguments.seed,
        ..generator::Options::to(&arguments.url, &arguments.model)
    })?;
    if arguments.json {
        println!("{}", report.to_json());
    } else {
        print!("{}", report.to_text());
    }
    Ok(if report.flaw().is_none() { ExitCode::SUCCESS } else { ExitCode::from(2) })
}

fn run_idle(arguments: &IdleArguments) -> io::Result<ExitCode> {
    let request = format!("GET /v1/models HTTP/1.1\r\nhost: {}\r\n\r\n", arguments.connect);
    let request = arguments.request.then_some(request.as_bytes());
    let tls = match (&arguments.tls_ca, &arguments.tls_name) {
        (Some(file), Some(name)) => Some(idle::Tls::trusting(file, name)?),
        _ => None,
    };
    let held = idle::open(arguments.connect, arguments.connections, request, tls.as_ref())?;
    println!("holding {}", held.len());
    if !arguments.no_hold {
        io::copy(&mut io::stdin(), &mut io::sink())?;
    }
    println!("open {}", idle::still_open(&held)?);
    Ok(ExitCode::SUCCESS)
}

/// Succeeds if every bound is kept.
fn run_flap(arguments: FlapArguments) -> io::Result<ExitCode> {
    let beside = || std::env::current_exe().map(|own| own.with_file_name("ringway"));
    let report = flap::run(&flap::Options {
        gateway: arguments.gateway.map_or_else(beside, Ok)?,
        backend: arguments.backend,
        flap: arguments.duration,
        outage: arguments.outage,
        per_second: arguments.rate.max(1),
    })?;
    if arguments.json {
        println!("{}", report.to_json());
    } else {
        print!("{}", report.to_text());
    }
    Ok(if report.is_kept() { ExitCode::SUCCESS } else { ExitCode::from(2) })
}

fn headers_in(file: &Path) -> io::Result<Vec<(String, String)>> {
    let wrong = |why| io::Error::new(io::ErrorKind::InvalidInput, why);
    std::fs::read_to_string(file)?.lines().map(|line| header(line).map_err(wrong)).collect()
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("a header is `name: value`")?;
    let whole = (name.trim(), value.trim());
    let clean = !name.is_empty() && !text.contains(['\r', '\n']);
    if clean { Ok((whole.0.to_owned(), whole.1.to_owned())) } else { Err("a header is one line".into()) }
}
