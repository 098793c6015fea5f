//! The book as Prometheus text, format 0.0.4: every family announced once, its samples together, cumulative buckets.

use std::fmt::Write;

use crate::{
    base::{
        ids::{ProviderId, ProviderRoll},
        money::NanoUsd,
    },
    ledger::{
        book::Book,
        distribution::Distribution,
        names::{self, Metric},
        record::TokenKind,
    },
};

/// What `Content-Type` says of [`render`]'s text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What is true now, beside what has been counted.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub version: &'static str,
    pub roll: ProviderRoll,
    pub config_generation: u64,
    /// Cores that have taken that generation up.
    pub config_cores: u64,
    pub reload_success: bool,
    pub draining: bool,
    /// Limited keys that had to share a count.
    pub quota_overflows: u64,
    /// Lines of the access log, of all cores.
    pub log_lines_written: u64,
    pub log_lines_dropped: u64,
    /// Exchanges that are kept in the state directory.
    pub log_kept: u64,
    pub log_kept_dropped: u64,
    /// What an OpenTelemetry collector took and did not take, by signal; empty where there is none.
    pub otlp: Vec<(&'static str, u64, u64)>,
    pub shards: Vec<ShardFacts>,
}

/// One shard, seen from outside.
#[derive(Clone, Debug, Default)]
pub struct ShardFacts {
    pub core: usize,
    pub connections: u64,
    /// Connections it accepted and another core took.
    pub handed_over: u64,
    pub buffered_bytes: u64,
    /// Backend and ring flags; `None` until the shard has started.
    pub backend: Option<(&'static str, &'static str)>,
    /// `None` until the shard has started.
    pub heartbeat_age_us: Option<u64>,
}

/// The whole page of `/metrics`.
pub fn render(book: &Book, facts: &Facts) -> String {
    let totals = book.totals();
    let provider = |id: Option<ProviderId>| id.map_or("", |id| facts.roll.name(id).unwrap_or("unknown"));
    let mut page = Page { text: String::with_capacity(32 << 10), name: "" };

    page.family(names::BUILD_INFO).sample(&[("version", facts.version)], 1);
    page.family(names::CONFIG_GENERATION).sample(&[], facts.config_generation);
    page.family(names::CONFIG_CORES).sample(&[], facts.config_cores);
    page.family(names::CONFIG_RELOAD_SUCCESS).sample(&[], u64::from(facts.reload_success));
    page.family(names::DRAINING).sample(&[], u64::from(facts.draining));

    page.family(names::REQUESTS);
    for (key, count) in totals.requests.iter() {
        let code = if key.status == 0 { "none".to_owned() } else { key.status.to_string() };
        let labels = [("endpoint", key.operation), ("provider", provider(key.provider)), ("code", &code)];
        page.sample(&labels, count);
    }
    page.family(names::OUTCOMES);
    for (outcome, count) in totals.outcomes.iter() {
        page.sample(&[("outcome", outcome.name())], count);
    }
    page.family(names::REFUSALS);
    for (code, count) in totals.refusals.iter() {
        page.sample(&[("code", code)], count);
    }

    page.family(names::DURATION).seconds(&totals.duration_us, &DURATION_BOUNDS_US);
    page.family(names::OVERHEAD).seconds(&totals.overhead_us, &OVERHEAD_BOUNDS_US);
    page.family(names::FIRST_TOKEN).seconds(&totals.first_token_us, &DURATION_BOUNDS_US);
    page.family(names::TOKEN_GAP).seconds(&totals.gap_us, &GAP_BOUNDS_US);
    page.family(names::REQUEST_TOKENS)
        .tokens(TokenKind::Prompt, &totals.prompt_tokens)
        .tokens(TokenKind::Completion, &totals.completion_tokens);

    page.family(names::TOKENS);
    for (key, count) in totals.tokens.iter() {
        let source = if key.estimated { "estimate" } else { "reported" };
        let labels = [("provider", provider(key.provider)), ("type", key.kind.name()), ("source", source)];
        page.sample(&labels, count);
    }
    page.family(names::COST);
    for (id, nano_usd) in totals.cost.iter() {
        page.line("", &[("provider", provider(id))], &NanoUsd(nano_usd).to_string());
    }
    page.family(names::UNPRICED);
    for (id, count) in totals.unpriced.iter() {
        page.sample(&[("provider", provider(id))], count);
    }
    page.family(names::BYTES_IN).sample(&[], totals.bytes_in);
    page.family(names::BYTES_OUT).sample(&[], totals.bytes_out);

    page.family(names::ATTEMPTS);
    for (key, count) in totals.attempts.iter() {
        page.sample(&[("provider", provider(key.provider)), ("result", key.result.name())], count);
    }
    page.family(names::MOVES);
    for (key, count) in totals.moves.iter() {
        let labels = [("provider", provider(key.provider)), ("to", key.to.name()), ("reason", key.reason)];
        page.sample(&labels, count);
    }
    page.family(names::HEALTH_CHANGES);
    for (key, count) in totals.turns.iter() {
        page.sample(&[("provider", provider(key.provider)), ("change", key.turn.name())], count);
    }
    page.family(names::UPSTREAM_CONNECTIONS)
        .sample(&[("result", "opened")], totals.upstream.opened)
        .sample(&[("result", "reused")], totals.upstream.reused)
        .sample(&[("result", "stale")], totals.upstream.stale);
    page.family(names::UPSTREAM_CANCELLED).sample(&[], totals.cancelled);
    page.family(names::ACCEPTED).sample(&[], totals.accepted);
    page.family(names::TURNED_AWAY).sample(&[], totals.turned_away);
    page.family(names::QUOTA_OVERFLOWS).sample(&[], facts.quota_overflows);
    page.family(names::LOG_LINES).sample(&[], facts.log_lines_written);
    page.family(names::LOG_LINES_DROPPED).sample(&[], facts.log_lines_dropped);
    page.family(names::LOG_KEPT).sample(&[], facts.log_kept);
    page.family(names::LOG_KEPT_DROPPED).sample(&[], facts.log_kept_dropped);
    if !facts.otlp.is_empty() {
        page.family(names::OTLP_SENT);
        for (signal, sent, _) in &facts.otlp {
            page.sample(&[("signal", signal)], *sent);
        }
        page.family(names::OTLP_DROPPED);
        for (signal, _, dropped) in &facts.otlp {
            page.sample(&[("signal", signal)], *dropped);
        }
    }
    page.family(names::PANICS).sample(&[], totals.panics);

    shards(&mut page, &facts.shards);
    page.text
}

fn shards(page: &mut Page, shards: &[ShardFacts]) {
    let cores: Vec<(String, &ShardFacts)> =
        shards.iter().map(|shard| (shard.core.to_string(), shard)).collect();
    page.family(names::CONNECTIONS);
    for (core, shard) in &cores {
        page.sample(&[("core", core)], shard.connections);
    }
    page.family(names::HANDED_OVER);
    for (core, shard) in &cores {
        page.sample(&[("core", core)], shard.handed_over);
    }
    page.family(names::BUFFERED);
    for (core, shard) in &cores {
        page.sample(&[("core", core)], shard.buffered_bytes);
    }
    page.family(names::BACKEND);
    for (core, shard) in &cores {
        if let Some((backend, flags)) = shard.backend {
            page.sample(&[("core", core), ("backend", backend), ("flags", flags)], 1);
        }
    }
    page.family(names::HEARTBEAT_AGE);
    for (core, shard) in &cores {
        if let Some(age_us) = shard.heartbeat_age_us {
            page.line("", &[("core", core)], &seconds(age_us));
        }
    }
}

/// The bounds of the buckets, in microseconds; ascending.
const DURATION_BOUNDS_US: [u64; 18] = [
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    120_000_000,
    300_000_000,
    600_000_000,
];
const OVERHEAD_BOUNDS_US: [u64; 15] =
    [10, 20, 30, 50, 75, 100, 150, 250, 500, 1_000, 2_500, 5_000, 10_000, 100_000, 1_000_000];
const GAP_BOUNDS_US: [u64; 14] = [
    100, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 75_000, 100_000, 200_000, 500_000, 1_000_000,
    5_000_000, 30_000_000,
];
/// Powers of four, as OpenTelemetry's `gen_ai.client.token.usage` has them.
const TOKEN_BOUNDS: [u64; 14] = {
    let mut bounds = [1; 14];
    let mut index = 1;
    while index < bounds.len() {
        bounds[index] = bounds[index - 1] * 4;
        index += 1;
    }
    bounds
};

/// Text in the making. Samples belong to the family announced last.
struct Page {
    text: String,
    name: &'static str,
}

impl Page {
    fn family(&mut self, metric: Metric) -> &mut Self {
        let Metric { name, kind, help } = metric;
        self.name = name;
        self.text.push_str("# HELP ");
        self.text.push_str(name);
        self.text.push(' ');
        escape(&mut self.text, help, Place::Help);
        let _ = writeln!(self.text, "\n# TYPE {name} {}", kind.name());
        self
    }

    fn sample(&mut self, labels: &[(&str, &str)], value: u64) -> &mut Self {
        self.line("", labels, &value.to_string())
    }

    /// A histogram of microseconds, told in seconds.
    fn seconds(&mut self, distribution: &Distribution, bounds_us: &[u64]) -> &mut Self {
        self.histogram(&[], distribution, bounds_us, seconds)
    }

    fn tokens(&mut self, kind: TokenKind, distribution: &Distribution) -> &mut Self {
        self.histogram(&[("type", kind.name())], distribution, &TOKEN_BOUNDS, |tokens| tokens.to_string())
    }

    fn histogram(
        &mut self,
        labels: &[(&str, &str)],
        distribution: &Distribution,
        bounds: &[u64],
        show: impl Fn(u64) -> String,
    ) -> &mut Self {
        let with_bound = |bound: &str, page: &mut Self, count: u64| {
            let labels: Vec<(&str, &str)> = labels.iter().copied().chain([("le", bound)]).collect();
            page.line("_bucket", &labels, &count.to_string());
        };
        for (bound, count) in bounds.iter().zip(distribution.cumulative(bounds)) {
            with_bound(&show(*bound), self, count);
        }
        with_bound("+Inf", self, distribution.count());
        self.line("_sum", labels, &show(distribution.sum()));
        self.line("_count", labels, &distribution.count().to_string())
    }

    fn line(&mut self, suffix: &str, labels: &[(&str, &str)], value: &str) -> &mut Self {
        self.text.push_str(self.name);
        self.text.push_str(suffix);
        for (index, (label, text)) in labels.iter().enumerate() {
            self.text.push(if index == 0 { '{' } else { ',' });
            self.text.push_str(label);
            self.text.push_str("=\"");
            escape(&mut self.text, text, Place::Label);
            self.text.push('"');
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        self.text.push(' ');
        self.text.push_str(value);
        self.text.push('\n');
        self
    }
}

/// Microseconds as a decimal fraction of seconds, exactly: no float rounds a counter.
fn seconds(us: u64) -> String {
    let (whole, fraction) = (us / 1_000_000, us % 1_000_000);
    if fraction == 0 {
        return whole.to_string();
    }
    format!("{whole}.{fraction:06}").trim_end_matches('0').to_owned()
}

/// Where text stands decides what must be escaped: a quote is plain in help text.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Help,
    Label,
}

fn escape(page: &mut String, text: &str, place: Place) {
    for character in text.chars() {
        match character {
            '\\' => page.push_str("\\\\"),
            '\n' => page.push_str("\\n"),
            '"' if place == Place::Label => page.push_str("\\\""),
            other => page.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::{
        base::now::Now,
        ledger::{
            record::{Outcome, Record, Tokens},
            sheet::{AttemptResult, Sheet},
        },
    };

    type Labels = BTreeMap<String, String>;

    /// One family as a scraper sees it.
    #[derive(Debug, Default)]
    struct Family {
        help: Option<String>,
        kind: Option<String>,
        samples: Vec<(String, Labels, f64)>,
    }

    /// Reads format 0.0.4 by its published grammar, and knows nothing of the writer.
    fn scrape(page: &str) -> Result<BTreeMap<String, Family>, String> {
        let mut families: BTreeMap<String, Family> = BTreeMap::new();
        let mut order: Vec<String> = Vec::new();
        let Some(lines) = page.strip_suffix('\n') else { return Err("no newline at the end".into()) };
        for line in lines.split('\n') {
            let name = if let Some(comment) = line.strip_prefix("# ") {
                let mut words = comment.splitn(3, ' ');
                let (what, name, rest) = (words.next(), words.next(), words.next());
                let (Some(what), Some(name), Some(rest)) = (what, name, rest) else {
                    return Err(format!("comment {line:?}"));
                };
                let family = families.entry(name.to_owned()).or_default();
                let place = match what {
                    "HELP" => &mut family.help,
                    "TYPE" => &mut family.kind,
                    _ => return Err(format!("comment {line:?}")),
                };
                if place.replace(rest.to_owned()).is_some() || !family.samples.is_empty() {
                    return Err(format!("announced twice or late: {line:?}"));
                }
                name.to_owned()
            } else {
                let (sample, labels, value) = sample(line).ok_or_else(|| format!("sample {line:?}"))?;
                let family = ["", "_bucket", "_sum", "_count"]
                    .iter()
                    .filter_map(|suffix| sample.strip_suffix(suffix))
                    .find(|name| families.contains_key(*name))
                    .ok_or_else(|| format!("unannounced {sample}"))?
                    .to_owned();
                families.entry(family.clone()).or_default().samples.push((sample, labels, value));
                family
            };
            if order.last() != Some(&name) {
                if order.contains(&name) {
                    return Err(format!("{name} is torn apart"));
                }
                order.push(name);
            }
        }
        Ok(families)
    }

    fn sample(line: &str) -> Option<(String, Labels, f64)> {
        let mut rest = line;
        let name = word(&mut rest)?;
        let mut labels = Labels::new();
        if let Some(inner) = rest.strip_prefix('{') {
            rest = inner;
            loop {
                let label = word(&mut rest)?;
                rest = rest.strip_prefix("=\"")?;
                let mut value = String::new();
                loop {
                    let character = rest.chars().next()?;
                    rest = &rest[character.len_utf8()..];
                    match character {
                        '"' => break,
                        '\\' => {
                            value.push(match rest.chars().next()? {
                                'n' => '\n',
                                plain @ ('"' | '\\') => plain,
                                _ => return None,
                            });
                            rest = &rest[1..];
                        }
                        other => value.push(other),
                    }
                }
                if labels.insert(label, value).is_some() {
                    return None;
                }
                match rest.strip_prefix(',') {
                    Some(next) => rest = next,
                    None => break,
                }
            }
            rest = rest.strip_prefix('}')?;
        }
        Some((name, labels, rest.strip_prefix(' ')?.parse().ok()?))
    }

    fn word(rest: &mut &str) -> Option<String> {
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        *rest = after;
        (word.chars().next()?.is_ascii_alphabetic()).then(|| word.to_owned())
    }

    fn value(page: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let wanted: Labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        scrape(page)
            .expect("the page conforms")
            .into_values()
            .flat_map(|family| family.samples)
            .find(|(sample, labels, _)| sample == name && *labels == wanted)
            .map(|(_, _, value)| value)
    }

    fn full() -> (Book, Facts) {
        let mut sheet = Sheet::default();
        let mut roll = ProviderRoll::default();
        let openai = roll.enrol("openai");
        let odd = roll.enrol("od\"d\\na\nme");
        for (number, provider) in [openai, odd, None, openai].into_iter().enumerate() {
            let mut record = Record::new("chat/completions", Now(0));
            record.provider = provider;
            record.status = if number == 2 { 0 } else { 200 };
            record.refusal = (number == 2).then_some("invalid_json");
            record.phases.first_token = Some(Now(1_000_000));
            record.tokens =
                Tokens { prompt: Some(100), completion: Some(7), cached: Some(64), ..Tokens::default() };
            record.cost = (number < 2).then_some(NanoUsd(1_500_000_001));
            record.estimated = number == 1;
            record.close(Now(40_000_000), Outcome::Completed, &mut sheet);
        }
        sheet.attempt(ProviderId(0), AttemptResult::Answered);
        [90, 1_000, 20_000].into_iter().for_each(|gap_us| sheet.gap(gap_us));
        let mut book = Book::default();
        book.merge(&sheet);
        let shard = ShardFacts {
            core: 3,
            connections: 12,
            handed_over: 2,
            buffered_bytes: 5,
            backend: Some(("io_uring", "DEFER_TASKRUN|SINGLE_ISSUER")),
            heartbeat_age_us: Some(12_500),
        };
        let facts = Facts {
            version: "0.1.0",
            roll,
            config_generation: 2,
            shards: vec![shard, ShardFacts { core: 4, ..ShardFacts::default() }],
            ..Facts::default()
        };
        (book, facts)
    }

    #[track_caller]
    fn check_conforms(book: &Book, facts: &Facts) {
        for (name, family) in scrape(&render(book, facts)).expect("the page conforms") {
            assert!(family.help.is_some_and(|help| !help.is_empty()), "{name} has no help");
            let kind = family.kind.unwrap_or_default();
            assert!(name.starts_with("rw_"), "{name}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
            let series: BTreeSet<_> = family.samples.iter().map(|(name, labels, _)| (name, labels)).collect();
            assert_eq!(series.len(), family.samples.len(), "{name} has a series twice");
            if kind == "histogram" {
                check_histogram(&name, &family.samples);
            } else {
                assert!(family.samples.iter().all(|(sample, _, _)| *sample == name), "{name}");
            }
        }
    }

    #[track_caller]
    fn check_histogram(name: &str, samples: &[(String, Labels, f64)]) {
        let mut by_labels: BTreeMap<Labels, Vec<(f64, f64)>> = BTreeMap::new();
        let mut counts: BTreeMap<Labels, f64> = BTreeMap::new();
        let mut sums = 0;
        for (sample, labels, value) in samples {
            let mut labels = labels.clone();
            match sample.strip_prefix(name) {
                Some("_bucket") => {
                    let bound = labels.remove("le").expect("a bucket has a bound");
                    by_labels.entry(labels).or_default().push((bound.parse().expect("a number"), *value));
                }
                Some("_count") => assert!(counts.insert(labels, *value).is_none()),
                Some("_sum") => sums += 1,
                _ => panic!("{sample} in histogram {name}"),
            }
        }
        assert_eq!((by_labels.len(), sums), (counts.len(), counts.len()), "{name}");
        for (labels, buckets) in by_labels {
            assert!(buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{name} {buckets:?}");
            assert_eq!(buckets.last().copied(), Some((f64::INFINITY, counts[&labels])), "{name}");
        }
    }

    #[test]
    fn the_page_conforms_empty_and_full() {
        check_conforms(&Book::default(), &Facts::default());
        let (book, facts) = full();
        check_conforms(&book, &facts);
    }

    #[test]
    fn what_was_counted_is_what_is_shown() {
        let (book, facts) = full();
        let page = render(&book, &facts);
        let request = |provider, code| {
            let labels = [("endpoint", "chat/completions"), ("provider", provider), ("code", code)];
            value(&page, "rw_requests_total", &labels)
        };
        assert_eq!(request("openai", "200"), Some(2.0));
        assert_eq!(request("od\"d\\na\nme", "200"), Some(1.0));
        assert_eq!(request("", "none"), Some(1.0));
        assert_eq!(
            value(
                &page,
                "rw_tokens_total",
                &[("provider", "openai"), ("type", "cached"), ("source", "reported")]
            ),
            Some(128.0)
        );
        let estimated = [("provider", "od\"d\\na\nme"), ("type", "prompt"), ("source", "estimate")];
        assert_eq!(value(&page, "rw_tokens_total", &estimated), Some(100.0));
        assert!(page.contains("rw_cost_usd_total{provider=\"openai\"} 1.500000001\n"), "{page}");
        assert_eq!(value(&page, "rw_requests_without_price_total", &[("provider", "openai")]), Some(1.0));
        assert_eq!(value(&page, "rw_request_tokens_count", &[("type", "prompt")]), Some(3.0));
        assert_eq!(value(&page, "rw_refusals_total", &[("code", "invalid_json")]), Some(1.0));
        assert_eq!(value(&page, "rw_request_duration_seconds_sum", &[]), Some(0.16));
        assert_eq!(value(&page, "rw_request_duration_seconds_bucket", &[("le", "0.025")]), Some(0.0));
        assert_eq!(value(&page, "rw_request_duration_seconds_bucket", &[("le", "0.05")]), Some(4.0));
        assert_eq!(value(&page, "rw_token_gap_seconds_bucket", &[("le", "0.001")]), Some(2.0));
        assert_eq!(value(&page, "rw_request_tokens_sum", &[("type", "prompt")]), Some(300.0));
        assert_eq!(value(&page, "rw_shard_heartbeat_age_seconds", &[("core", "3")]), Some(0.0125));
        assert_eq!(value(&page, "rw_shard_heartbeat_age_seconds", &[("core", "4")]), None);
        assert_eq!(value(&page, "rw_connections_handed_over_total", &[("core", "3")]), Some(2.0));
        let labels = [("core", "3"), ("backend", "io_uring"), ("flags", "DEFER_TASKRUN|SINGLE_ISSUER")];
        assert_eq!(value(&page, "rw_shard_backend", &labels), Some(1.0));
    }

    #[test]
    fn the_scraper_itself_refuses_what_does_not_conform() {
        for wrong in [
            "rw_a 1\n",
            "# HELP rw_a x\n# TYPE rw_a gauge\nrw_a 1",
            "# HELP rw_a x\n# TYPE rw_a gauge\nrw_a{b=\"c} 1\n",
            "# HELP rw_a x\n# HELP rw_a y\n",
            "# HELP rw_a x\nrw_a 1\n# HELP rw_b x\nrw_b 1\nrw_a{c=\"d\"} 2\n",
        ] {
            assert!(scrape(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn seconds_are_exact() {
        for (us, expect) in
            [(0, "0"), (1, "0.000001"), (2_500, "0.0025"), (60_000_000, "60"), (1_500_000, "1.5")]
        {
            assert_eq!(seconds(us), expect);
        }
    }
}
