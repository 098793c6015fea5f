//! What one can ask of the program: one file per subcommand.

mod callers;
mod check;
mod date;
mod demo;
mod explain;
mod fixed;
mod house;
mod logs;
mod panics;
mod placement;
mod prices;
mod publisher;
mod run;
mod sim_provider;
mod stats;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand, ValueEnum};

use crate::shard::Choice;

/// An AI gateway for Linux edge hosts: a drop-in OpenAI /v1 endpoint in front of many providers.
#[derive(Parser)]
#[command(name = "ringway", version, max_term_width = 100)]
struct Arguments {
    /// Check the configuration and end, as nginx and HAProxy do: `ringway -t -c ringway.toml`.
    #[arg(short = 't', requires = "config")]
    test: bool,
    /// The configuration that -t checks.
    #[arg(short, long, requires = "test", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Serve what a configuration says, until SIGTERM. SIGHUP reads it again.
    Run {
        #[arg(short, long, value_name = "FILE", env = "RINGWAY_CONFIG")]
        config: PathBuf,
        /// What to do I/O with, in place of what the configuration says.
        #[arg(long, value_enum)]
        backend: Option<BackendName>,
    },
    /// Serve at once, without a key or a configuration, in front of a simulated provider.
    Demo {
        /// Where clients connect to.
        #[arg(long, default_value = "127.0.0.1:8080")]
        listen: std::net::SocketAddr,
        #[arg(long, value_enum, default_value = "auto")]
        backend: BackendName,
    },
    /// Check a configuration: every complaint at once, with its place and what to do about it.
    Check {
        #[arg(short, long, value_name = "FILE", env = "RINGWAY_CONFIG")]
        config: PathBuf,
    },
    /// What would become of a request: its way, its targets, its limits, what would be sent. Nothing is.
    Explain(Box<explain::Explain>),
    /// Who may call: make, list, disable, rotate, whether or not a gateway runs.
    Callers(callers::Callers),
    /// What models cost: list, import a newer catalogue, check a configuration.
    Prices(prices::Prices),
    /// What was kept of exchanges: search it, follow it.
    Logs(logs::Logs),
    /// What happened, counted: requests, tokens, cost and times, by model, provider, caller or status.
    Stats(stats::Stats),
}

#[derive(Clone, Copy, ValueEnum)]
enum BackendName {
    Auto,
    #[value(name = "io_uring")]
    IoUring,
    Epoll,
}

impl From<BackendName> for Choice {
    fn from(name: BackendName) -> Self {
        match name {
            BackendName::Auto => Self::Auto,
            BackendName::IoUring => Self::IoUring,
            BackendName::Epoll => Self::Epoll,
        }
    }
}

/// Runs the program. 0: as asked. 1: the configuration, or a part of it, cannot be used. 2: the command cannot.
pub fn main() -> ExitCode {
    panics::say_where_alone();
    let arguments = Arguments::parse();
    match (arguments.command, arguments.config) {
        (None, Some(config)) => check::check(&config),
        (Some(Command::Check { config }), _) => check::check(&config),
        (Some(Command::Run { config, backend }), _) => run::run(&config, backend.map(Choice::from)),
        (Some(Command::Explain(arguments)), _) => explain::explain(*arguments),
        (Some(Command::Callers(arguments)), _) => callers::callers(arguments),
        (Some(Command::Prices(arguments)), _) => prices::prices(arguments),
        (Some(Command::Logs(arguments)), _) => logs::logs(arguments),
        (Some(Command::Stats(arguments)), _) => stats::stats(arguments),
        (Some(Command::Demo { listen, backend }), _) => demo::demo(listen, backend.into()),
        (None, None) => {
            let _ = <Arguments as clap::CommandFactory>::command().print_help();
            ExitCode::from(2)
        }
    }
}
