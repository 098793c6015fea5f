//! `ringway-load`: the simulated provider, the load generator and the holder of idle connections.

use std::{net::SocketAddr, process::ExitCode};

use clap::{Args, Parser, Subcommand};
use ringway_load::provider::{self, script::WORDS};

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
    /// Requests that `GET /_sim/log` remembers; 0 for none.
    #[arg(long, default_value_t = 4096)]
    log: usize,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Provider(arguments) => run_provider(&arguments),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("ringway-load: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run_provider(arguments: &ProviderArguments) -> std::io::Result<ExitCode> {
    let provider = provider::start(&provider::Options {
        listen: arguments.listen,
        threads: arguments.threads.max(arguments.cores.len()),
        cores: arguments.cores.clone(),
        log_kept_max: arguments.log,
    })?;
    ringway_load::runtime::raise_open_files(65_536);
    println!("listening on {}", provider.addr);
    loop {
        std::thread::park();
    }
}
