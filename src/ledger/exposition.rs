//! The book as a page of `/metrics`: totals since the process started, in Prometheus' text or OpenMetrics.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
};

use crate::{
    base::{
        ids::{ProviderId, ProviderRoll},
        money::NanoUsd,
    },
    ledger::{
        book::Book,
        figures::{Figures, Sum},
        genai, names,
        page::{Page, seconds},
        record::{Outcome, Phase, TokenKind},
        series::{Labels, SeriesTable},
        sheet::Sheet,
    },
    wire::token::TokenId,
};

pub use crate::ledger::page::Format;

/// What is true now, beside what has been counted.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub version: &'static str,
    pub roll: ProviderRoll,
    /// The names of callers.
    pub callers: Vec<(TokenId, Box<str>)>,
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
    pub log_payloads: u64,
    pub log_payloads_dropped: u64,
    /// What an OpenTelemetry collector took and did not take, by signal; empty where there is none.
    pub otlp: Vec<(&'static str, u64, u64)>,
    pub shards: Vec<ShardFacts>,
    pub health: HealthFacts,
    /// Providers that are checked.
    pub checks: Vec<CheckFacts>,
}

/// The health board, seen from outside.
#[derive(Clone, Debug, Default)]
pub struct HealthFacts {
    /// Breakers that are open now, or wait for a probe.
    pub open: BTreeMap<ProviderId, u64>,
    /// Attempts that found no seat.
    pub seatless: u64,
    /// Targets that lost their seat with failures on it, and those of them whose breaker was open.
    pub forgotten: u64,
    pub forgotten_open: u64,
}

/// What the health checks of one provider have found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckFacts {
    pub provider: Box<str>,
    pub up: bool,
    pub passed: u64,
    pub failed: u64,
}

impl CheckFacts {
    /// Nothing yet: who has not been found down is up.
    pub fn of(provider: &str) -> Self {
        Self { provider: provider.into(), up: true, passed: 0, failed: 0 }
    }
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
pub fn render(book: &Book, facts: &Facts, format: Format) -> String {
    let totals = book.totals();
    let mut page = Page::new(format);
    page.family(names::BUILD_INFO).sample(&[("version", facts.version)], 1);
    page.family(names::CONFIG_GENERATION).sample(&[], facts.config_generation);
    page.family(names::CONFIG_CORES).sample(&[], facts.config_cores);
    page.family(names::CONFIG_RELOAD_SUCCESS).sample(&[], u64::from(facts.reload_success));
    page.family(names::DRAINING).sample(&[], u64::from(facts.draining));

    requests(&mut page, totals, facts);
    models(&mut page, totals, facts);
    callers(&mut page, &totals.series, facts);
    genai_family(&mut page, &totals.series, facts);
    upstream(&mut page, totals, facts);

    health(&mut page, facts);
    page.family(names::ACCEPTED).sample(&[], totals.accepted);
    page.family(names::TURNED_AWAY).sample(&[], totals.turned_away);
    page.family(names::QUOTA_OVERFLOWS).sample(&[], facts.quota_overflows);
    page.family(names::LOG_LINES).sample(&[], facts.log_lines_written);
    page.family(names::LOG_LINES_DROPPED).sample(&[], facts.log_lines_dropped);
    page.family(names::LOG_KEPT).sample(&[], facts.log_kept);
    page.family(names::LOG_KEPT_DROPPED).sample(&[], facts.log_kept_dropped);
    page.family(names::LOG_PAYLOADS).sample(&[], facts.log_payloads);
    page.family(names::LOG_PAYLOADS_DROPPED).sample(&[], facts.log_payloads_dropped);
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
    page.finish()
}

/// Requests as a whole.
fn requests(page: &mut Page, totals: &Sheet, facts: &Facts) {
    page.family(names::REQUESTS);
    for (key, count) in totals.requests.iter() {
        let code = if key.status == 0 { "none".to_owned() } else { key.status.to_string() };
        let labels =
            [("endpoint", key.operation), ("provider", facts.provider(key.provider)), ("code", &code)];
        page.sample(&labels, count);
    }
    let whole = totals.whole();
    page.family(names::OUTCOMES);
    for outcome in Outcome::ALL {
        page.sample(&[("outcome", outcome.name())], whole.outcomes[outcome.index()]);
    }
    page.family(names::REFUSALS);
    for (code, count) in totals.refusals.iter() {
        page.sample(&[("code", code)], count);
    }
    page.family(names::OVERHEAD).seconds(&[], &whole.overhead_us, &OVERHEAD_BOUNDS_US);
    page.family(names::TOKEN_GAP).seconds(&[], &totals.gap_us, &GAP_BOUNDS_US);
    page.family(names::PHASE);
    for phase in Phase::ALL {
        let labels = [("phase", phase.name())];
        page.line("_sum", &labels, &seconds(whole.phases_us[phase.index()]));
        page.line("_count", &labels, &whole.phases[phase.index()].to_string());
    }
    page.family(names::REQUEST_TOKENS)
        .numbers(&[("type", "prompt")], &whole.prompt_tokens, &genai::TOKEN_BOUNDS)
        .numbers(&[("type", "completion")], &whole.completion_tokens, &genai::TOKEN_BOUNDS);
    page.family(names::ESTIMATES)
        .sample(&[("by", "bytes")], totals.estimates[0])
        .sample(&[("by", "bpe")], totals.estimates[1]);
    page.family(names::ESTIMATES_UNQUEUED).sample(&[], totals.unqueued);
    page.family(names::BYTES_IN).sample(&[], whole.of(Sum::BytesIn));
    page.family(names::BYTES_OUT).sample(&[], whole.of(Sum::BytesOut));
}

/// Writes the samples that one set of labels has in a family.
type Write<'w> = &'w dyn Fn(&mut Page, &[(&str, &str)], &Figures);

/// By provider and model.
fn models(page: &mut Page, totals: &Sheet, facts: &Facts) {
    let series = &totals.series;
    page.family(names::MODEL_REQUESTS);
    let keys = |labels: &Labels| {
        (labels.operation, facts.provider(labels.provider), labels.model.as_str().to_owned(), labels.class)
    };
    for ((endpoint, provider, model, class), figures) in by(series, keys) {
        let labels =
            [("endpoint", endpoint), ("provider", provider), ("model", &model), ("class", class.name())];
        page.sample(&labels, figures.of(Sum::Requests));
    }
    let models = by(series, |labels| (facts.provider(labels.provider), labels.model.as_str().to_owned()));
    let each = |page: &mut Page, write: Write<'_>| {
        for ((provider, model), figures) in &models {
            write(page, &[("provider", provider), ("model", model)], figures);
        }
    };
    page.family(names::DURATION);
    each(page, &|page, labels, figures| {
        page.seconds(labels, &figures.duration_us, &DURATION_BOUNDS_US);
    });
    page.family(names::FIRST_TOKEN);
    each(page, &|page, labels, figures| {
        if figures.first_token_us.count() > 0 {
            page.seconds(labels, &figures.first_token_us, &DURATION_BOUNDS_US);
        }
    });
    page.family(names::STREAM_GAP);
    each(page, &|page, labels, figures| {
        if figures.gap_us.count() > 0 {
            page.seconds(labels, &figures.gap_us, &GAP_BOUNDS_US);
        }
    });
    page.family(names::TOKENS);
    each(page, &tokens);
    page.family(names::COST);
    each(page, &cost);
    page.family(names::UNPRICED);
    each(page, &|page, labels, figures| {
        if figures.of(Sum::Unpriced) > 0 {
            page.sample(labels, figures.of(Sum::Unpriced));
        }
    });
}

/// By who asked. No histograms: there may be many callers.
fn callers(page: &mut Page, series: &SeriesTable, facts: &Facts) {
    let names: HashMap<TokenId, &str> = facts.callers.iter().map(|(id, name)| (*id, &**name)).collect();
    // One that has been deleted since has its id left.
    let name = |caller: Option<TokenId>| match caller {
        None => Cow::Borrowed(""),
        Some(id) => names.get(&id).map_or_else(|| Cow::Owned(id.to_string()), |name| Cow::Borrowed(*name)),
    };
    page.family(names::CALLER_REQUESTS);
    for ((caller, class), figures) in by(series, |labels| (name(labels.caller), labels.class)) {
        page.sample(&[("caller", &caller), ("class", class.name())], figures.of(Sum::Requests));
    }
    let callers = by(series, |labels| name(labels.caller));
    page.family(names::CALLER_TOKENS);
    callers.iter().for_each(|(caller, figures)| tokens(page, &[("caller", caller)], figures));
    page.family(names::CALLER_COST);
    callers.iter().for_each(|(caller, figures)| cost(page, &[("caller", caller)], figures));
}

fn tokens(page: &mut Page, labels: &[(&str, &str)], figures: &Figures) {
    for (source, counts) in [("reported", &figures.tokens), ("estimate", &figures.estimated)] {
        for kind in TokenKind::ALL {
            if counts[kind.index()] > 0 {
                let more = [("type", kind.name()), ("source", source)];
                page.sample(&[labels, &more].concat(), counts[kind.index()]);
            }
        }
    }
}

fn cost(page: &mut Page, labels: &[(&str, &str)], figures: &Figures) {
    let nano_usd = figures.of(Sum::NanoUsd);
    if nano_usd > 0 {
        page.line("", labels, &NanoUsd(nano_usd).to_string());
    }
}

/// What OpenTelemetry's conventions want of a client of providers, which this is.
fn genai_family(page: &mut Page, series: &SeriesTable, facts: &Facts) {
    let keys = |labels: &Labels| {
        let provider = genai::provider_name(facts.provider(labels.provider));
        let error = labels.class.is_error().then(|| match labels.class.name() {
            "none" => "_OTHER",
            class => class,
        });
        (genai::operation_name(labels.operation), provider, labels.model.as_str().to_owned(), error)
    };
    let operations = by(series, |labels| labels.provider.map(|_| keys(labels)));
    let operations: Vec<_> =
        operations.into_iter().filter_map(|(keys, figures)| Some((keys?, figures))).collect();
    let each = |page: &mut Page, write: Write<'_>| {
        for ((operation, provider, model, error), figures) in &operations {
            let labels = [
                ("gen_ai_operation_name", *operation),
                ("gen_ai_provider_name", provider),
                ("gen_ai_request_model", model),
                ("error_type", error.unwrap_or_default()),
            ];
            // An empty label is none, and would be one more in the text.
            write(page, &labels[..3 + usize::from(error.is_some())], figures);
        }
    };
    page.family(names::GENAI_TOKENS);
    each(page, &|page, labels, figures| {
        for (kind, spread) in [("input", &figures.prompt_tokens), ("output", &figures.completion_tokens)] {
            if spread.count() > 0 {
                let labels = [labels, &[("gen_ai_token_type", kind)]].concat();
                page.numbers(&labels, spread, &genai::TOKEN_BOUNDS);
            }
        }
    });
    page.family(names::GENAI_DURATION);
    each(page, &|page, labels, figures| {
        page.seconds(labels, &figures.duration_us, &genai::DURATION_BOUNDS_US);
    });
    page.family(names::GENAI_FIRST_CHUNK);
    each(page, &|page, labels, figures| {
        if figures.first_token_us.count() > 0 {
            page.seconds(labels, &figures.first_token_us, &genai::DURATION_BOUNDS_US);
        }
    });
    // A chunk has no error: what became of its stream is not told apart here.
    let mut chunks: BTreeMap<_, Vec<&Figures>> = BTreeMap::new();
    for ((operation, provider, model, _), figures) in &operations {
        chunks.entry((operation, provider, model)).or_default().push(figures);
    }
    page.family(names::GENAI_OUTPUT_CHUNK);
    for ((operation, provider, model), parts) in &chunks {
        let labels = [
            ("gen_ai_operation_name", **operation),
            ("gen_ai_provider_name", *provider),
            ("gen_ai_request_model", model),
        ];
        let sum = |of: &dyn Fn(&Figures) -> u64| parts.iter().map(|figures| of(figures)).sum::<u64>();
        let whole = (sum(&|figures| figures.of(Sum::Gaps)), sum(&|figures| figures.of(Sum::GapsUs)));
        let bounds = genai::DURATION_BOUNDS_US.iter().enumerate();
        let steps = bounds.map(|(step, bound_us)| (*bound_us, sum(&|figures| figures.gap_steps()[step])));
        if whole.0 > 0 {
            page.steps(&labels, steps, whole);
        }
    }
}

/// By provider alone: what happened on the way to an answer.
fn upstream(page: &mut Page, totals: &Sheet, facts: &Facts) {
    page.family(names::ATTEMPTS);
    for (key, count) in totals.attempts.iter() {
        page.sample(&[("provider", facts.provider(key.provider)), ("result", key.result.name())], count);
    }
    page.family(names::MOVES);
    for (key, count) in totals.moves.iter() {
        let provider = facts.provider(key.provider);
        page.sample(&[("provider", provider), ("to", key.to.name()), ("reason", key.reason)], count);
    }
    page.family(names::HEDGES);
    for (key, count) in totals.hedges.iter() {
        page.sample(&[("provider", facts.provider(key.provider)), ("result", key.hedge.name())], count);
    }
    page.family(names::HEALTH_CHANGES);
    for (key, count) in totals.turns.iter() {
        page.sample(&[("provider", facts.provider(key.provider)), ("change", key.turn.name())], count);
    }
    page.family(names::UPSTREAM_CONNECTIONS)
        .sample(&[("result", "opened")], totals.upstream.opened)
        .sample(&[("result", "reused")], totals.upstream.reused)
        .sample(&[("result", "stale")], totals.upstream.stale);
    page.family(names::UPSTREAM_CANCELLED).sample(&[], totals.cancelled);
    page.family(names::UPSTREAM_UNHEARD);
    for (end, count) in totals.unheard.iter() {
        page.sample(&[("end", end.name())], count);
    }
    page.family(names::KEEP_ALIVES).sample(&[], totals.keep_alives);
}

impl Facts {
    fn provider(&self, id: Option<ProviderId>) -> &str {
        id.map_or("", |id| self.roll.name(id).unwrap_or("unknown"))
    }
}

/// The figures of all series that have the same key.
fn by<K: Ord>(series: &SeriesTable, key: impl Fn(&Labels) -> K) -> BTreeMap<K, Figures> {
    let mut sums: BTreeMap<K, Figures> = BTreeMap::new();
    for row in series.iter() {
        sums.entry(key(&row.labels)).or_default().merge(&row.figures);
    }
    sums
}

fn health(page: &mut Page, facts: &Facts) {
    page.family(names::BREAKERS_OPEN);
    let known = (0..=u16::MAX).map(ProviderId).map_while(|id| Some((id, facts.roll.name(id)?)));
    for (id, name) in known {
        page.sample(&[("provider", name)], facts.health.open.get(&id).copied().unwrap_or(0));
    }
    page.family(names::HEALTH_SEATLESS).sample(&[], facts.health.seatless);
    let forgotten = facts.health.forgotten.saturating_sub(facts.health.forgotten_open);
    page.family(names::HEALTH_FORGOTTEN)
        .sample(&[("breaker", "closed")], forgotten)
        .sample(&[("breaker", "open")], facts.health.forgotten_open);
    page.family(names::PROVIDER_UP);
    for check in &facts.checks {
        page.sample(&[("provider", &check.provider)], u64::from(check.up));
    }
    page.family(names::HEALTH_CHECKS);
    for check in &facts.checks {
        page.sample(&[("provider", &check.provider), ("result", "passed")], check.passed);
        page.sample(&[("provider", &check.provider), ("result", "failed")], check.failed);
    }
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
#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

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
            record.model_used = "gpt".into();
            record.caller = (number == 0).then(|| TokenId::draw(&[1; 10]));
            record.phases.head_read = Some(Now(3_000_000));
            record.status = if number == 2 { 0 } else { 200 };
            record.refusal = (number == 2).then_some("invalid_json");
            record.phases.first_token = Some(Now(1_000_000));
            record.tokens =
                Tokens { prompt: Some(100), completion: Some(7), cached: Some(64), ..Tokens::default() };
            [9_000, 10_000, 30_000, 100_000_000].into_iter().for_each(|gap_us| record.gap(gap_us));
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
            callers: vec![(TokenId::draw(&[1; 10]), "frontend".into())],
            config_generation: 2,
            shards: vec![shard, ShardFacts { core: 4, ..ShardFacts::default() }],
            ..Facts::default()
        };
        (book, facts)
    }

    #[track_caller]
    fn check_conforms(book: &Book, facts: &Facts) {
        for (name, family) in scrape(&render(book, facts, Format::Prometheus)).expect("the page conforms") {
            assert!(family.help.is_some_and(|help| !help.is_empty()), "{name} has no help");
            let kind = family.kind.unwrap_or_default();
            assert!(name.starts_with("rw_") || name.starts_with("gen_ai_"), "{name}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
            let series: BTreeSet<_> = family.samples.iter().map(|(name, labels, _)| (name, labels)).collect();
            assert_eq!(series.len(), family.samples.len(), "{name} has a series twice");
            if kind == "histogram" {
                check_histogram(&name, &family.samples);
            } else if kind == "summary" {
                let parts = [format!("{name}_sum"), format!("{name}_count")];
                assert!(family.samples.iter().all(|(sample, _, _)| parts.contains(sample)), "{name}");
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
        let page = render(&book, &facts, Format::Prometheus);
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
                &[("provider", "openai"), ("model", "gpt"), ("type", "cached"), ("source", "reported")]
            ),
            Some(128.0)
        );
        let estimated =
            [("provider", "od\"d\\na\nme"), ("model", "gpt"), ("type", "prompt"), ("source", "estimate")];
        assert_eq!(value(&page, "rw_tokens_total", &estimated), Some(100.0));
        assert!(
            page.contains("rw_cost_usd_total{provider=\"openai\",model=\"gpt\"} 1.500000001\n"),
            "{page}"
        );
        assert_eq!(
            value(&page, "rw_requests_without_price_total", &[("provider", "openai"), ("model", "gpt")]),
            Some(1.0)
        );
        assert_eq!(value(&page, "rw_request_tokens_count", &[("type", "prompt")]), Some(3.0));
        assert_eq!(value(&page, "rw_refusals_total", &[("code", "invalid_json")]), Some(1.0));
        let openai = [("provider", "openai"), ("model", "gpt")];
        let bucket = |bound| [openai.as_slice(), &[("le", bound)]].concat();
        assert_eq!(value(&page, "rw_request_duration_seconds_sum", &openai), Some(0.08));
        assert_eq!(value(&page, "rw_request_duration_seconds_bucket", &bucket("0.025")), Some(0.0));
        assert_eq!(value(&page, "rw_request_duration_seconds_bucket", &bucket("0.05")), Some(2.0));
        assert_eq!(value(&page, "rw_request_phase_seconds_sum", &[("phase", "head")]), Some(0.012));
        let by_class = |caller| [("caller", caller), ("class", "2xx")];
        assert_eq!(value(&page, "rw_caller_requests_total", &by_class("frontend")), Some(1.0));
        assert_eq!(value(&page, "rw_caller_requests_total", &by_class("")), Some(2.0));
        let operation = [
            ("gen_ai_operation_name", "chat/completions"),
            ("gen_ai_provider_name", "openai"),
            ("gen_ai_request_model", "gpt"),
        ];
        let input = [operation.as_slice(), &[("gen_ai_token_type", "input")]].concat();
        assert_eq!(value(&page, "gen_ai_client_token_usage_sum", &input), Some(200.0));
        assert_eq!(value(&page, "gen_ai_client_operation_duration_seconds_count", &operation), Some(2.0));
        let chunk = "gen_ai_client_operation_time_per_output_chunk_seconds";
        let under = |bound| {
            value(&page, &format!("{chunk}_bucket"), &[operation.as_slice(), &[("le", bound)]].concat())
        };
        assert_eq!(["0.01", "0.02", "0.04", "81.92", "+Inf"].map(under), [4.0, 4.0, 6.0, 6.0, 8.0].map(Some));
        assert_eq!(value(&page, &format!("{chunk}_sum"), &operation), Some(200.098));
        assert_eq!(value(&page, &format!("{chunk}_count"), &operation), Some(8.0));
        assert_eq!(value(&page, "rw_token_gap_seconds_bucket", &[("le", "0.001")]), Some(2.0));
        assert_eq!(value(&page, "rw_request_tokens_sum", &[("type", "prompt")]), Some(300.0));
        assert_eq!(value(&page, "rw_shard_heartbeat_age_seconds", &[("core", "3")]), Some(0.0125));
        assert_eq!(value(&page, "rw_shard_heartbeat_age_seconds", &[("core", "4")]), None);
        assert_eq!(value(&page, "rw_connections_handed_over_total", &[("core", "3")]), Some(2.0));
        let labels = [("core", "3"), ("backend", "io_uring"), ("flags", "DEFER_TASKRUN|SINGLE_ISSUER")];
        assert_eq!(value(&page, "rw_shard_backend", &labels), Some(1.0));
    }

    #[test]
    fn openmetrics_is_the_same_in_another_dialect() {
        let (book, facts) = full();
        let samples = |page: &str| -> Vec<String> {
            page.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
        };
        let (text, open) =
            (render(&book, &facts, Format::Prometheus), render(&book, &facts, Format::OpenMetrics));
        assert_eq!(samples(&text), samples(&open));
        assert!(open.ends_with("\n# EOF\n") && !text.contains("# EOF"));
        assert!(open.contains("\n# TYPE rw_requests counter\n") && open.contains("\nrw_requests_total{"));
        assert!(open.contains("\n# UNIT rw_overhead_seconds seconds\n"));
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
}
