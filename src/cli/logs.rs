//! `ringway logs`: what the gateway has kept of its exchanges, whether or not it runs. A line for each, as JSON.

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
    sync::mpsc,
    time::Duration,
};

use clap::{Args, Subcommand};

use super::{callers::directory, date};
use crate::control::{
    log_store::{Search, Store},
    state::{Trouble, unix_ms},
};

#[derive(Args)]
pub(super) struct Logs {
    /// The configuration, for its state directory.
    #[arg(short, long, value_name = "FILE", env = "RINGWAY_CONFIG", global = true)]
    config: Option<PathBuf>,
    /// The state directory itself.
    #[arg(long, value_name = "DIR", global = true)]
    state: Option<PathBuf>,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// The exchanges that fit, oldest first.
    Search {
        /// How far back: 15m, 1h, 30d.
        #[arg(long, value_name = "SPAN", value_parser = date::span)]
        since: Option<u64>,
        /// Up to how long ago.
        #[arg(long, value_name = "SPAN", value_parser = date::span)]
        until: Option<u64>,
        #[command(flatten)]
        which: Which,
        /// At most so many, the latest of them.
        #[arg(long, value_name = "COUNT", default_value_t = 1_000)]
        limit: usize,
    },
    /// The latest exchanges that fit.
    Tail {
        #[command(flatten)]
        which: Which,
        /// At most so many.
        #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 10)]
        lines: usize,
        /// Go on with those to come, until interrupted.
        #[arg(short, long)]
        follow: bool,
    },
}

#[derive(Args)]
struct Which {
    /// The model as clients name it; `*` stands for anything.
    #[arg(long)]
    model: Option<String>,
    #[arg(long)]
    provider: Option<String>,
    /// A caller's name, or its id.
    #[arg(long, value_name = "NAME|ID")]
    caller: Option<String>,
    /// 429, or a class of them: 5xx.
    #[arg(long, value_parser = status)]
    status: Option<(u16, u16)>,
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
}

/// How often a follower looks for more.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(500);
/// How many a follower takes at a time.
const FOLLOW_ROWS: usize = 10_000;

/// 0: done. 1: not, and standard error says why.
pub(super) fn logs(arguments: Logs) -> ExitCode {
    match arguments.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(trouble) => {
            eprintln!("ringway: {trouble}");
            ExitCode::FAILURE
        }
    }
}

impl Logs {
    fn run(self) -> Result<(), Trouble> {
        let directory = directory(self.state, self.config)?;
        let store = Store::open_existing(&directory)?.ok_or_else(|| {
            Trouble(format!(
                "no logs were kept in {}: `[logs]` with sample = 0.01 keeps one exchange in a hundred",
                directory.display()
            ))
        })?;
        let ago = |span: Option<u64>| span.map(|span| unix_ms().saturating_sub(span));
        match self.action {
            Action::Search { since, until, which, limit } => {
                let search =
                    Search { from_unix_ms: ago(since), until_unix_ms: ago(until), ..which.search(limit) };
                print(&store.search(&search)?).map(|_| ())
            }
            Action::Tail { which, lines, follow } => {
                let mut search = which.search(lines);
                let mut last = print(&store.search(&search)?)?.unwrap_or(0);
                search.limit = FOLLOW_ROWS;
                // Nobody sends: this is the pause between two looks.
                let (_kept, pause) = mpsc::channel::<()>();
                while follow && pause.recv_timeout(FOLLOW_INTERVAL).is_err() {
                    search.after_number = Some(last);
                    last = print(&store.search(&search)?)?.unwrap_or(last);
                }
                Ok(())
            }
        }
    }
}

impl Which {
    fn search(self, limit: usize) -> Search {
        let Self { model, provider, caller, status, request_id } = self;
        Search { model, provider, caller, status, request_id, limit, ..Search::default() }
    }
}

/// Prints the lines; returns the number of the last.
fn print(rows: &[(i64, String)]) -> Result<Option<i64>, Trouble> {
    let mut out = io::stdout().lock();
    let printed = rows.iter().try_for_each(|(_, line)| writeln!(out, "{line}")).and_then(|()| out.flush());
    printed.map_err(|error| Trouble(format!("the answer could not be written: {error}")))?;
    Ok(rows.last().map(|(number, _)| *number))
}

/// `429`, or `4xx`.
fn status(text: &str) -> Result<(u16, u16), String> {
    let wrong = || format!("`{}` is no status: write 429, or 4xx", text.escape_debug());
    if let Some(class) = text.strip_suffix("xx") {
        let class: u16 = class.parse().ok().filter(|class| (1..=5).contains(class)).ok_or_else(wrong)?;
        return Ok((class * 100, class * 100 + 99));
    }
    let status = text.parse().ok().filter(|status| (100..=599).contains(status)).ok_or_else(wrong)?;
    Ok((status, status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expect: Option<(u16, u16)>) {
        assert_eq!(status(text).ok(), expect);
    }

    #[test]
    fn a_status_is_one_or_a_class() {
        check("429", Some((429, 429)));
        check("5xx", Some((500, 599)));
        for text in ["", "xx", "6xx", "0xx", "42", "600", "4x", "-1xx", "four"] {
            check(text, None);
        }
    }
}
