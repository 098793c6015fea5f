//! `ringway stats`: what the book in the state directory says, whether or not the gateway runs.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};

use super::{callers::directory, date};
use crate::{
    base::money::NanoUsd,
    control::{
        history::{Event, Kind, Labels, Moments, Store},
        state::{self, State, Trouble, unix_ms},
    },
    ledger::{
        distribution::Distribution,
        figures::{Figures, Sum},
        record::{Outcome, Phase, TokenKind},
    },
};

/// What is counted as what is said below the options.
#[derive(Args)]
#[command(after_help = COUNTED)]
pub(super) struct Stats {
    /// The configuration, for its state directory.
    #[arg(short, long, value_name = "FILE", env = "RINGWAY_CONFIG")]
    config: Option<PathBuf>,
    /// The state directory itself.
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// How far back: 15m, 1h, 30d. Up to a day is counted by minutes, up to 30 days by hours, else by days.
    #[arg(long, value_name = "SPAN", value_parser = date::span, default_value = "1h")]
    since: u64,
    /// A row for each.
    #[arg(long, value_enum)]
    by: Option<By>,
    /// Everything there is, as one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum By {
    Model,
    Provider,
    Caller,
    /// The class of the status that clients were sent.
    Status,
    Endpoint,
}

const COUNTED: &str = "\
What is counted as what:
  requests   client requests that ended, once each, under their last attempt's model and provider
  errors     of these, with a status of 4xx or 5xx, or without any
  attempts   calls to providers that these requests took: none for a refused one, several after a failover
  tokens     of the answers that clients got; ~ are those that were estimated, beside those that were reported
  cost       of tokens with a known price; requests without one are counted apart, and cost nothing here
  times      from the first byte of a request: to the end of its answer, and to its first token; and the gateway's own part";

/// 0: done. 1: not, and standard error says why.
pub(super) fn stats(arguments: Stats) -> ExitCode {
    match arguments.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(trouble) => {
            eprintln!("ringway: {trouble}");
            ExitCode::FAILURE
        }
    }
}

/// What the book says, by what was asked for.
struct Answer {
    moments: Moments,
    whole: Figures,
    /// Of requests by class of status.
    classes: BTreeMap<String, u64>,
    rows: BTreeMap<String, Row>,
    events: BTreeMap<Event, u64>,
}

#[derive(Default)]
struct Row {
    figures: Figures,
    errors: u64,
}

impl Stats {
    fn run(self) -> Result<(), Trouble> {
        let directory = directory(self.state, self.config)?;
        let store = Store::open_existing(&directory)?.ok_or_else(|| {
            Trouble(format!(
                "nothing was counted in {}: a gateway with this state directory writes it down",
                directory.display()
            ))
        })?;
        let now_unix_s = unix_ms() / 1_000;
        let since_unix_s = now_unix_s.saturating_sub(self.since / 1_000);
        let mut answer = Answer::read(&store, since_unix_s, now_unix_s, self.by)?;
        if matches!(self.by, Some(By::Caller)) && state::is_begun(&directory) {
            let callers = State::open(&directory)?.callers()?;
            answer.name_callers(|id| {
                let caller = callers.iter().find(|caller| caller.id.as_str() == id);
                caller.map(|caller| caller.name.to_string())
            });
        }
        let text = if self.json { format!("{:#}\n", answer.json()) } else { answer.text(self.by) };
        let mut out = io::stdout().lock();
        let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        written.map_err(|error| Trouble(format!("the answer could not be written: {error}")))
    }
}

impl By {
    fn of(self, labels: Labels) -> String {
        match self {
            // As clients name it.
            Self::Model if !labels.provider.is_empty() => format!("{}/{}", labels.provider, labels.model),
            Self::Model => labels.model,
            Self::Provider => labels.provider,
            Self::Caller => labels.caller,
            Self::Status => labels.class,
            Self::Endpoint => labels.endpoint,
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Provider => "provider",
            Self::Caller => "caller",
            Self::Status => "status",
            Self::Endpoint => "endpoint",
        }
    }
}

impl Answer {
    fn read(store: &Store, since_unix_s: u64, now_unix_s: u64, by: Option<By>) -> Result<Self, Trouble> {
        let (mut whole, mut classes) = (Figures::default(), BTreeMap::new());
        let (mut rows, mut events) = (BTreeMap::<String, Row>::new(), BTreeMap::new());
        let moments = store.read(
            since_unix_s,
            now_unix_s,
            |labels, figures| {
                whole.merge(&figures);
                let requests = figures.of(Sum::Requests);
                *classes.entry(labels.class.clone()).or_default() += requests;
                let is_error = !matches!(labels.class.as_str(), "1xx" | "2xx" | "3xx");
                let row = rows.entry(by.map_or_else(|| "all".to_owned(), |by| by.of(labels))).or_default();
                row.figures.merge(&figures);
                row.errors += if is_error { requests } else { 0 };
            },
            |event, count| *events.entry(event).or_default() += count,
        )?;
        Ok(Self { moments, whole, classes, rows, events })
    }

    /// Puts names in the place of ids that still have one.
    fn name_callers(&mut self, name: impl Fn(&str) -> Option<String>) {
        let rows = std::mem::take(&mut self.rows);
        self.rows = rows.into_iter().map(|(id, row)| (name(&id).unwrap_or(id), row)).collect();
    }

    fn text(&self, by: Option<By>) -> String {
        let Moments { from_unix_s, until_unix_s, secs } = self.moments;
        let grain = if secs == 60 {
            "minutes"
        } else if secs == 3_600 {
            "hours"
        } else {
            "days"
        };
        let mut text = format!(
            "from {} to {}, by {grain}\n\n",
            date::render(from_unix_s * 1_000),
            date::render(until_unix_s * 1_000)
        );
        let titles = [
            by.map_or("", By::title),
            "requests",
            "errors",
            "attempts",
            "tokens in",
            "tokens out",
            "cost $",
            "no price",
            "p50",
            "p99",
            "first token p50",
            "own p99",
        ];
        let mut table = vec![titles.map(str::to_owned)];
        // What is used most comes first.
        let mut rows: Vec<_> = self.rows.iter().collect();
        rows.sort_by_key(|(_, row)| std::cmp::Reverse(row.figures.of(Sum::Requests)));
        table.extend(rows.into_iter().map(|(name, row)| cells(name, row)));
        align(&mut text, &table);
        self.lists(&mut text);
        text
    }

    /// What went how often, below the table.
    fn lists(&self, text: &mut String) {
        text.push('\n');
        let mut list = |title: &str, counts: Vec<(String, u64)>| {
            let counts: Vec<_> = counts.into_iter().filter(|(_, count)| *count > 0).collect();
            if !counts.is_empty() {
                let counts = counts.iter().map(|(name, count)| format!("{name} {count}"));
                let _ = writeln!(text, "{title:<10}{}", counts.collect::<Vec<_>>().join(", "));
            }
        };
        list(
            "ended",
            Outcome::ALL.iter().map(|outcome| (outcome.name().to_owned(), self.outcome(*outcome))).collect(),
        );
        list("status", self.classes.clone().into_iter().collect());
        let events = |kind| {
            let events = self.events.iter().filter(move |(event, _)| event.kind == kind);
            events.map(|(event, count)| {
                (format!("{} {}", event.provider, event.name).trim().to_owned(), *count)
            })
        };
        list("refused", events(Kind::Refusal).collect());
        list("attempts", events(Kind::Attempt).collect());
    }

    fn outcome(&self, outcome: Outcome) -> u64 {
        self.whole.outcomes[outcome.index()]
    }

    fn json(&self) -> Value {
        let Moments { from_unix_s, until_unix_s, secs } = self.moments;
        let events = |kind| -> Vec<Value> {
            let events = self.events.iter().filter(|(event, _)| event.kind == kind);
            let each = |(event, count): (&Event, &u64)| match kind {
                Kind::Attempt => json!({"provider": event.provider, "result": event.name, "count": count}),
                Kind::Refusal => json!({"code": event.name, "count": count}),
            };
            events.map(each).collect()
        };
        let rows = self.rows.iter().map(|(name, row)| {
            let mut object = figures_json(&row.figures);
            object.insert("name".to_owned(), json!(name));
            object.insert("errors".to_owned(), json!(row.errors));
            Value::Object(object)
        });
        json!({
            "from": date::render(from_unix_s * 1_000),
            "until": date::render(until_unix_s * 1_000),
            "resolution_seconds": secs,
            "all": figures_json(&self.whole),
            "status": self.classes,
            "attempts": events(Kind::Attempt),
            "refusals": events(Kind::Refusal),
            "rows": rows.collect::<Vec<_>>(),
        })
    }
}

fn cells(name: &str, row: &Row) -> [String; 12] {
    let figures = &row.figures;
    let sum = |sum| figures.of(sum).to_string();
    let tokens = |kind: TokenKind| match (figures.tokens[kind.index()], figures.estimated[kind.index()]) {
        (reported, 0) => reported.to_string(),
        (0, estimated) => format!("~{estimated}"),
        (reported, estimated) => format!("{reported} ~{estimated}"),
    };
    [
        if name.is_empty() { "-".to_owned() } else { name.to_owned() },
        sum(Sum::Requests),
        row.errors.to_string(),
        sum(Sum::Attempts),
        tokens(TokenKind::Prompt),
        tokens(TokenKind::Completion),
        NanoUsd(figures.of(Sum::NanoUsd)).to_string(),
        sum(Sum::Unpriced),
        span(&figures.duration_us, 0.5),
        span(&figures.duration_us, 0.99),
        span(&figures.first_token_us, 0.5),
        span(&figures.overhead_us, 0.99),
    ]
}

/// A quantile in the unit that suits it.
fn span(spread: &Distribution, quantile: f64) -> String {
    if spread.count() == 0 {
        return "-".to_owned();
    }
    match spread.quantile(quantile) {
        us @ ..1_000 => format!("{us} µs"),
        us @ ..1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        us => format!("{:.2} s", us as f64 / 1e6),
    }
}

/// Names to the left, numbers to the right.
fn align(text: &mut String, table: &[[String; 12]]) {
    let width = |column: usize| table.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 12] = std::array::from_fn(width);
    for row in table {
        for (index, (cell, width)) in row.iter().zip(widths).enumerate() {
            let _ = match index {
                0 => write!(text, "{cell:<width$}"),
                _ => write!(text, "  {cell:>width$}"),
            };
        }
        text.push('\n');
    }
}

fn figures_json(figures: &Figures) -> Map<String, Value> {
    let tokens = |counts: &[u64; TokenKind::ALL.len()]| -> Map<String, Value> {
        let each = TokenKind::ALL.iter().map(|kind| (kind.name().to_owned(), json!(counts[kind.index()])));
        each.collect()
    };
    let outcomes: Map<String, Value> = Outcome::ALL
        .iter()
        .map(|outcome| (outcome.name().to_owned(), json!(figures.outcomes[outcome.index()])))
        .filter(|(_, count)| *count != json!(0))
        .collect();
    let phases: Map<String, Value> = Phase::ALL
        .iter()
        .map(|phase| {
            let count = figures.phases[phase.index()];
            (phase.name().to_owned(), json!({"count": count, "sum_us": figures.phases_us[phase.index()]}))
        })
        .collect();
    let object = json!({
        "requests": figures.of(Sum::Requests),
        "streams": figures.of(Sum::Streams),
        "attempts": figures.of(Sum::Attempts),
        "outcomes": outcomes,
        "tokens": tokens(&figures.tokens),
        "tokens_estimated": tokens(&figures.estimated),
        "cost_usd": NanoUsd(figures.of(Sum::NanoUsd)).to_string(),
        "cost_nano_usd": figures.of(Sum::NanoUsd),
        "requests_without_price": figures.of(Sum::Unpriced),
        "bytes_in": figures.of(Sum::BytesIn),
        "bytes_out": figures.of(Sum::BytesOut),
        "gaps": {"count": figures.of(Sum::Gaps), "sum_us": figures.of(Sum::GapsUs)},
        "phases": phases,
        "duration_us": spread_json(&figures.duration_us),
        "overhead_us": spread_json(&figures.overhead_us),
        "first_token_us": spread_json(&figures.first_token_us),
        "stream_mean_gap_us": spread_json(&figures.gap_us),
        "prompt_tokens": spread_json(&figures.prompt_tokens),
        "completion_tokens": spread_json(&figures.completion_tokens),
    });
    match object {
        Value::Object(object) => object,
        _ => Map::new(),
    }
}

/// Null quantiles where there is nothing to take them of.
fn spread_json(spread: &Distribution) -> Value {
    let at = |quantile| (spread.count() > 0).then(|| spread.quantile(quantile));
    json!({
        "count": spread.count(),
        "sum": spread.sum(),
        "p50": at(0.5),
        "p90": at(0.9),
        "p99": at(0.99),
        "max": at(1.0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_the_unit_that_suits_them() {
        for (us, expect) in [(7, "7 µs"), (1_500, "1.5 ms"), (2_000_000, "2.00 s")] {
            let mut spread = Distribution::new();
            spread.record(us);
            let said = span(&spread, 0.5);
            let unit = |text: &str| text.rsplit(' ').next().map(str::to_owned);
            assert_eq!((unit(&said), said.len()), (unit(expect), expect.len()), "{said}");
        }
        assert_eq!(span(&Distribution::new(), 0.5), "-");
    }

    #[test]
    fn columns_stand_under_each_other() {
        let row =
            |cells: [&str; 2]| std::array::from_fn(|index| (*cells.get(index).unwrap_or(&"")).to_owned());
        let mut text = String::new();
        align(&mut text, &[row(["model", "requests"]), row(["a/long/name", "1"])]);
        let lines: Vec<_> = text.lines().map(str::trim_end).collect();
        assert_eq!(lines, ["model        requests", "a/long/name         1"]);
    }
}
