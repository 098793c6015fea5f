//! `ringway logs`: what the gateway has kept of its exchanges, whether or not it runs. Rows are written as they are found: no
//! answer is too long.

mod forms;

use std::{
    io::{self, BufWriter, Write},
    ops::ControlFlow,
    path::PathBuf,
    process::ExitCode,
    sync::mpsc,
    time::Duration,
};

use clap::{Args, Subcommand};

use self::forms::{Format, Needle, Rows};
use super::{callers::directory, date};
use crate::control::{
    log_store::{Found, Part, Search, Store},
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
        #[command(flatten)]
        range: Range,
        #[command(flatten)]
        which: Which,
        /// A text that was said, as it was kept (masked), whatever its letter case. Payloads are opened one by one for it,
        /// so --since says how far back.
        #[arg(long, requires = "since")]
        text: Option<String>,
        /// At most so many: the latest of them, or the first in which the text is found.
        #[arg(long, value_name = "COUNT", default_value_t = 1_000)]
        limit: usize,
        /// What was said, too, where that was kept.
        #[arg(long)]
        payload: bool,
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// All exchanges that fit, with what was said, oldest first.
    Export {
        #[command(flatten)]
        range: Range,
        #[command(flatten)]
        which: Which,
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// One exchange, with what was said.
    Show {
        /// Its x-request-id.
        #[arg(value_name = "REQUEST-ID")]
        id: String,
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
struct Range {
    /// How far back: 15m, 1h, 30d.
    #[arg(long, value_name = "SPAN", value_parser = date::span)]
    since: Option<u64>,
    /// Up to how long ago.
    #[arg(long, value_name = "SPAN", value_parser = date::span)]
    until: Option<u64>,
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
/// Exchanges of one id that are shown: a client may use its ids again.
const SHOWN_MAX: usize = 100;
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
        let mut out = BufWriter::new(io::stdout().lock());
        match self.action {
            Action::Search { range, which, text, limit, payload, format } => {
                let search = range.of(Search { payload, ..which.search(limit) });
                let rows = Rows::begin(out, format, payload).map_err(unwritten)?;
                match text {
                    None => write_all(&store, &search, rows),
                    Some(text) => write_matching(&store, search, &Needle::new(&text), limit, rows),
                }
            }
            Action::Export { range, which, format } => {
                let search = range.of(Search { payload: true, ..which.search(usize::MAX) });
                write_all(&store, &search, Rows::begin(out, format, true).map_err(unwritten)?)
            }
            Action::Show { id } => {
                let search = Search {
                    request_id: Some(id.clone()),
                    payload: true,
                    limit: SHOWN_MAX,
                    ..Search::default()
                };
                let mut is_there = false;
                store.search(&search, |found| {
                    is_there = true;
                    show(&found, &mut out).map_err(unwritten)?;
                    Ok(ControlFlow::Continue(()))
                })?;
                out.flush().map_err(unwritten)?;
                if is_there {
                    return Ok(());
                }
                Err(Trouble(format!("no exchange `{}` was kept", id.escape_debug())))
            }
            Action::Tail { which, lines, follow } => {
                let mut search = which.search(lines);
                let mut last = print(&store, &search, &mut out)?.unwrap_or(0);
                search.limit = FOLLOW_ROWS;
                // Nobody sends: this is the pause between two looks.
                let (_kept, pause) = mpsc::channel::<()>();
                while follow && pause.recv_timeout(FOLLOW_INTERVAL).is_err() {
                    search.after_number = Some(last);
                    last = print(&store, &search, &mut out)?.unwrap_or(last);
                }
                Ok(())
            }
        }
    }
}

impl Range {
    fn of(&self, search: Search) -> Search {
        let ago = |span: Option<u64>| span.map(|span| unix_ms().saturating_sub(span));
        Search { from_unix_ms: ago(self.since), until_unix_ms: ago(self.until), ..search }
    }
}

impl Which {
    fn search(self, limit: usize) -> Search {
        let Self { model, provider, caller, status, request_id } = self;
        Search { model, provider, caller, status, request_id, limit, ..Search::default() }
    }
}

fn write_all<W: Write>(store: &Store, search: &Search, mut rows: Rows<W>) -> Result<(), Trouble> {
    store.search(search, |found| {
        rows.row(&found).map_err(unwritten)?;
        Ok(ControlFlow::Continue(()))
    })?;
    rows.flush().map_err(unwritten)
}

/// Opens what fits in the order of time, and writes that in which the text is found.
fn write_matching<W: Write>(
    store: &Store,
    search: Search,
    needle: &Needle,
    limit: usize,
    mut rows: Rows<W>,
) -> Result<(), Trouble> {
    let mut left = limit;
    let search = Search { payload: true, limit: usize::MAX, ..search };
    store.search(&search, |found| {
        if left == 0 {
            return Ok(ControlFlow::Break(()));
        }
        if needle.is_in(&found) {
            left -= 1;
            // At once: the next may be a while.
            rows.row(&found).and_then(|()| rows.flush()).map_err(unwritten)?;
        }
        Ok(ControlFlow::Continue(()))
    })?;
    rows.flush().map_err(unwritten)
}

/// Prints the lines; returns the number of the last that was kept.
fn print(store: &Store, search: &Search, out: &mut impl Write) -> Result<Option<i64>, Trouble> {
    let mut last = None;
    store.search(search, |found| {
        last = last.max(Some(found.number));
        writeln!(out, "{}", found.line).map_err(unwritten)?;
        Ok(ControlFlow::Continue(()))
    })?;
    out.flush().map_err(unwritten)?;
    Ok(last)
}

/// The line, and what was said below it.
fn show(found: &Found, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "{}", found.line)?;
    let Some(payload) = &found.payload else { return writeln!(out, "\nWhat was said was not kept.") };
    for (name, part) in [("request", &payload.request), ("response", &payload.response)] {
        let Part { text, bytes, is_whole } = part;
        let how = match (text, is_whole) {
            (Some(_), true) => "",
            (Some(_), false) => ", cut",
            (None, _) if *bytes == 0 => ", nothing",
            (None, _) => ", not kept or gone",
        };
        writeln!(out, "\n{name}: {bytes} bytes{how}")?;
        if let Some(text) = text {
            writeln!(out, "{text}")?;
        }
    }
    Ok(())
}

fn unwritten(error: io::Error) -> Trouble {
    Trouble(format!("the answer could not be written: {error}"))
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
