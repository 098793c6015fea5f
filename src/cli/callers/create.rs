//! The options of `ringway callers create`: what a new caller may do. Whatever is left out is not restricted.

use clap::Args;

use crate::base::{limits::BUDGET_MAX, money::NanoUsd};
use crate::control::state::settings::{LimitSetting, MEASURES, Settings, Shape};

#[derive(Args)]
pub(super) struct Create {
    /// What it is called, in lists, logs and metrics; nobody else may be called so.
    #[arg(long)]
    pub(super) name: String,
    /// When its token ends: 30d, 2027-01-31 or 2027-01-31T12:00:00Z (UTC).
    #[arg(long, value_name = "WHEN")]
    pub(super) expires: Option<String>,
    /// Print the token and nothing else.
    #[arg(short, long)]
    pub(super) quiet: bool,

    /// A model it may use, `*` for any run of characters: openai/*. Can be given several times, as all below that name one.
    #[arg(long = "model", value_name = "GLOB")]
    models: Vec<String>,
    /// A route it may use, with `*` likewise.
    #[arg(long = "route", value_name = "GLOB")]
    routes: Vec<String>,
    /// An endpoint it may use, such as chat, embeddings or models.
    #[arg(long = "endpoint", value_name = "NAME")]
    endpoints: Vec<String>,
    /// Where it may call from: an address, or a prefix such as 10.0.0.0/8.
    #[arg(long, value_name = "CIDR")]
    allow: Vec<String>,
    /// Where it may not call from.
    #[arg(long, value_name = "CIDR")]
    deny: Vec<String>,
    /// Something to group callers by.
    #[arg(long = "tag")]
    tags: Vec<String>,

    /// Whether its prompts and answers may be kept in logs: false keeps them out whatever else is said. Otherwise as the
    /// gateway has it, which may rule it out.
    #[arg(long, value_name = "BOOL")]
    log_payload: Option<bool>,

    #[command(flatten)]
    limits: Limits,
    /// The most that a rate gives in one moment, such as requests-per-minute=10; otherwise a whole period's.
    #[arg(long, value_name = "RATE=N", help_heading = "Limits")]
    burst: Vec<String>,
    /// What becomes of a running stream that crosses a limit: it may finish, or it is cut with an error event.
    #[arg(long, value_name = "finish|cut", help_heading = "Limits")]
    on_exceed: Option<String>,
    /// What becomes of an upstream's answer when the client leaves in its middle: it is broken off, read to its end, or read
    /// until it has said what was used. Otherwise what the configuration says.
    #[arg(long, value_name = "cancel|drain|drain_until_usage")]
    on_disconnect: Option<String>,

    /// Most answers to one request.
    #[arg(long, value_name = "N", help_heading = "Caps")]
    n_max: Option<u32>,
    /// Most tokens that one request may ask for.
    #[arg(long, value_name = "N", help_heading = "Caps")]
    max_tokens_max: Option<u64>,
    /// Most bytes of a request's body.
    #[arg(long, value_name = "N", help_heading = "Caps")]
    body_bytes_max: Option<u64>,
}

/// One option a measure.
#[derive(Args)]
#[command(next_help_heading = "Limits")]
struct Limits {
    #[arg(long, value_name = "N")]
    requests_per_second: Option<u64>,
    #[arg(long, value_name = "N")]
    requests_per_minute: Option<u64>,
    #[arg(long, value_name = "N")]
    requests_per_hour: Option<u64>,
    #[arg(long, value_name = "N")]
    requests_per_day: Option<u64>,
    #[arg(long, value_name = "N")]
    tokens_per_minute: Option<u64>,
    #[arg(long, value_name = "N")]
    tokens_per_day: Option<u64>,
    #[arg(long, value_name = "N")]
    concurrent_requests: Option<u64>,
    #[arg(long, value_name = "N")]
    concurrent_streams: Option<u64>,
    /// Tokens in a calendar day (UTC).
    #[arg(long, value_name = "N")]
    budget_tokens_day: Option<u64>,
    /// Tokens in a calendar month (UTC).
    #[arg(long, value_name = "N")]
    budget_tokens_month: Option<u64>,
    /// Dollars in a calendar day (UTC), such as 12.50; what has no price is not counted.
    #[arg(long, value_name = "USD", value_parser = usd)]
    budget_usd_day: Option<u64>,
    /// Dollars in a calendar month (UTC).
    #[arg(long, value_name = "USD", value_parser = usd)]
    budget_usd_month: Option<u64>,
}

/// Decimal dollars, as the settings keep them.
fn usd(text: &str) -> Result<u64, String> {
    let amount = NanoUsd::parse(text)
        .ok_or("write dollars, such as 12.50, with nine digits behind the point at most")?;
    if amount.0 > BUDGET_MAX {
        return Err(format!("at most {} dollars can be counted", NanoUsd(BUDGET_MAX)));
    }
    Ok(amount.0)
}

impl Limits {
    /// In the order of [`MEASURES`].
    fn given(&self) -> [Option<u64>; MEASURES.len()] {
        [
            self.requests_per_second,
            self.requests_per_minute,
            self.requests_per_hour,
            self.requests_per_day,
            self.tokens_per_minute,
            self.tokens_per_day,
            self.concurrent_requests,
            self.concurrent_streams,
            self.budget_tokens_day,
            self.budget_tokens_month,
            self.budget_usd_day,
            self.budget_usd_month,
        ]
    }
}

impl Create {
    /// The options as settings. What they say is judged where they are kept; here is judged what only an option can get wrong.
    pub(super) fn settings(&self) -> Result<Settings, String> {
        let mut limits: Vec<LimitSetting> = MEASURES
            .iter()
            .zip(self.limits.given())
            .filter_map(|((_, name, _), most)| {
                Some(LimitSetting { measure: (*name).to_owned(), most: most?, burst: None })
            })
            .collect();
        for burst in &self.burst {
            let wrong = |why: &str| format!("--burst {}: {why}", burst.escape_debug());
            let (rate, number) =
                burst.split_once('=').ok_or_else(|| wrong("write requests-per-minute=10"))?;
            let rate = rate.replace('-', "_");
            let is_rate = |known: &str, shape: Shape| known == rate && matches!(shape, Shape::Rate(_));
            if !MEASURES.iter().any(|(_, known, shape)| is_rate(known, *shape)) {
                return Err(wrong("there is no such rate"));
            }
            let number = number.parse().map_err(|_| wrong("a whole number is needed"))?;
            let limit = limits.iter_mut().find(|limit| limit.measure == rate);
            let limit = limit.ok_or_else(|| wrong("this rate is not limited; give its option too"))?;
            if limit.burst.replace(number).is_some() {
                return Err(wrong("this burst was given twice"));
            }
        }
        Ok(Settings {
            models: self.models.clone(),
            routes: self.routes.clone(),
            endpoints: self.endpoints.clone(),
            allow: self.allow.clone(),
            deny: self.deny.clone(),
            limits,
            on_exceed: self.on_exceed.clone(),
            on_disconnect: self.on_disconnect.clone(),
            n_max: self.n_max,
            max_tokens_max: self.max_tokens_max,
            body_bytes_max: self.body_bytes_max,
            log_payload: self.log_payload,
            tags: self.tags.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        create: Create,
    }

    fn settings(options: &str) -> Result<Settings, String> {
        let words = ["create", "--name", "ci"].into_iter().chain(options.split_whitespace());
        Command::try_parse_from(words).map_err(|error| error.to_string())?.create.settings()
    }

    #[test]
    fn every_measure_has_the_option_of_its_name() {
        Command::command().debug_assert();
        for (_, name, _) in MEASURES {
            let got =
                settings(&format!("--{} 7", name.replace("nano_", "").replace('_', "-"))).expect("an option");
            let most = if name.contains("usd") { 7_000_000_000 } else { 7 };
            assert_eq!(got.limits, [LimitSetting { measure: name.to_owned(), most, burst: None }]);
        }
    }

    #[test]
    fn dollars_are_decimal_and_within_what_can_be_counted() {
        let got = settings("--budget-usd-day 0.25 --budget-usd-month 281474").expect("good");
        let most: Vec<u64> = got.limits.iter().map(|limit| limit.most).collect();
        assert_eq!(most, [250_000_000, 281_474_000_000_000]);
        for (wrong, words) in
            [("-1", ""), ("1e3", "write dollars"), ("1,5", "write dollars"), ("281475", "at most")]
        {
            assert!(
                settings(&format!("--budget-usd-day {wrong}")).is_err_and(|said| said.contains(words)),
                "{wrong}"
            );
        }
    }

    #[test]
    fn a_burst_belongs_to_a_rate_that_is_limited() {
        let got = settings("--requests-per-minute 60 --burst requests-per-minute=5").expect("good");
        assert_eq!(got.limits[0].burst, Some(5));
        for (options, words) in [
            ("--burst requests-per-minute=5", "not limited"),
            ("--requests-per-minute 60 --burst requests-per-minute", "write requests"),
            ("--requests-per-minute 60 --burst requests-per-minute=x", "whole number"),
            ("--concurrent-streams 6 --burst concurrent-streams=1", "no such rate"),
            ("--requests-per-day 9 --burst requests-per-day=1 --burst requests-per-day=2", "twice"),
        ] {
            assert!(settings(options).is_err_and(|said| said.contains(words)), "{options}");
        }
    }

    #[test]
    fn every_option_reaches_its_setting() {
        let got = settings(
            "--model a --model b --route r --endpoint chat --allow ::1 --deny 10.0.0.0/8 --tag t --on-exceed cut \
             --on-disconnect drain --n-max 1 --max-tokens-max 2 --body-bytes-max 3 --log-payload false",
        );
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let expect = Settings {
            models: texts(&["a", "b"]),
            routes: texts(&["r"]),
            endpoints: texts(&["chat"]),
            allow: texts(&["::1"]),
            deny: texts(&["10.0.0.0/8"]),
            limits: Vec::new(),
            on_exceed: Some("cut".to_owned()),
            on_disconnect: Some("drain".to_owned()),
            n_max: Some(1),
            max_tokens_max: Some(2),
            body_bytes_max: Some(3),
            log_payload: Some(false),
            tags: texts(&["t"]),
        };
        assert_eq!(got, Ok(expect));
    }
}
