//! The `[[limit]]` tables: what is limited, by which key, and how much.
//!
//! Several tables may speak of one kind of key. The gateway has one allowance; a caller, a provider and a model has that of
//! the first table whose `match` fits it; an address and a metadata value that of the first table for them.

use std::{collections::HashMap, num::NonZeroU64};

use super::{
    allowance::{Allowance, Limit, Measure, OnExceed, Rate, Unit},
    raw::{Field, Table, Text},
};
use crate::base::{
    glob::Glob,
    ids::Line,
    limits::{BUDGET_MAX, LIMIT_TABLES_MAX, QUOTA_AMOUNT_MAX},
    money::NanoUsd,
};

/// Every allowance that the configuration gives.
#[derive(Debug, Default)]
pub struct Quotas {
    /// Everything this process serves.
    pub gateway: Option<Numbered>,
    /// Each client address.
    pub address: Option<Allowance>,
    /// Each caller, by its name. A caller's own limits stand above these, measure by measure.
    pub callers: Box<[(Glob, Allowance)]>,
    /// Each provider, by its name. The lines stand in [`super::Provider::allowance`].
    pub providers: Box<[(Glob, Allowance)]>,
    /// Each model, by the name it is asked for: `{provider}/{model}`.
    pub models: Box<[(Glob, Allowance)]>,
    /// Each value of a key of the request's metadata.
    pub metadata: Box<[(Box<str>, Allowance)]>,
}

impl Quotas {
    /// Whether anything is limited by what the calendar counts.
    pub fn has_budgets(&self) -> bool {
        self.budgets().next().is_some()
    }

    /// Whether anything is limited in dollars.
    pub fn has_money(&self) -> bool {
        self.budgets().any(|measure| measure.unit() == Unit::NanoUsd)
    }

    fn budgets(&self) -> impl Iterator<Item = Measure> {
        let callers = self.callers.iter().map(|(_, allowance)| allowance);
        let gateway = self.gateway.iter().map(|numbered| &numbered.allowance);
        let limits = callers.chain(gateway).flat_map(|allowance| &allowance.limits);
        limits.filter_map(|limit| match limit {
            Limit::Budget { measure, .. } => Some(*measure),
            _ => None,
        })
    }
}

/// An allowance with the line in which it is counted.
#[derive(Clone, Debug)]
pub struct Numbered {
    pub allowance: Allowance,
    /// Set by whoever publishes it.
    pub line: Line,
}

/// The allowance of the first pattern that fits.
pub fn first<'a>(list: &'a [(Glob, Allowance)], name: &str) -> Option<&'a Allowance> {
    list.iter().find(|(glob, _)| glob.matches(name)).map(|(_, allowance)| allowance)
}

/// What one table limits by.
enum By {
    Gateway,
    Address,
    Caller,
    Provider,
    Model,
    Metadata(Box<str>),
}

type MakeBy = fn() -> By;

const WORDS: [(&str, MakeBy); 5] = [
    ("gateway", || By::Gateway),
    ("address", || By::Address),
    ("caller", || By::Caller),
    ("provider", || By::Provider),
    ("model", || By::Model),
];

const SECOND_NS: u64 = 1_000_000_000;

/// Each rate: its setting, and its period.
const RATES: [(&str, Measure, u64); 6] = [
    ("requests_per_second", Measure::RequestsPerSecond, SECOND_NS),
    ("requests_per_minute", Measure::RequestsPerMinute, 60 * SECOND_NS),
    ("requests_per_hour", Measure::RequestsPerHour, 3_600 * SECOND_NS),
    ("requests_per_day", Measure::RequestsPerDay, 86_400 * SECOND_NS),
    ("tokens_per_minute", Measure::TokensPerMinute, 60 * SECOND_NS),
    ("tokens_per_day", Measure::TokensPerDay, 86_400 * SECOND_NS),
];

const CONCURRENCIES: [(&str, Measure); 2] = [
    ("concurrent_requests", Measure::ConcurrentRequests),
    ("concurrent_streams", Measure::ConcurrentStreams),
];

const BUDGETS: [(&str, Measure); 2] =
    [("budget_tokens_day", Measure::BudgetTokensDay), ("budget_tokens_month", Measure::BudgetTokensMonth)];

const BUDGETS_USD: [(&str, Measure); 2] =
    [("budget_usd_day", Measure::BudgetNanoUsdDay), ("budget_usd_month", Measure::BudgetNanoUsdMonth)];

/// Reads every `[[limit]]`.
pub(super) fn quotas(root: &mut Table<'_>) -> Quotas {
    let tables = root.tables("limit");
    if tables.len() > LIMIT_TABLES_MAX {
        root.complain("there are too many limits", format!("at most {LIMIT_TABLES_MAX} are possible"));
    }
    let mut quotas = Quotas::default();
    let (mut callers, mut providers, mut models, mut metadata) = (vec![], vec![], vec![], vec![]);
    let mut seen = HashMap::new();
    for mut table in tables.into_iter().take(LIMIT_TABLES_MAX).flatten() {
        let by = table.get("by").map(Field::text);
        if by.is_none() {
            table.complain("it is not said what is limited", "by = \"gateway\", \"caller\", \"address\", …");
        }
        let by = by.flatten().and_then(|text| Some((by_of(&text)?, text)));
        let glob = table.get("match").and_then(|field| Some((field.text()?, ())));
        let takes_match = matches!(by, None | Some((By::Caller | By::Provider | By::Model, _)));
        if let Some((text, ())) = &glob
            && !takes_match
        {
            text.complain("nothing is matched here", "leave `match` out");
        }
        let budgets = matches!(by, None | Some((By::Gateway | By::Caller, _)));
        let allowance = allowance(&mut table, budgets);
        let glob = glob.map_or_else(|| "*".to_owned(), |(text, ())| text.value.to_string());
        if let Some((by, text)) = by {
            let key = (text.value.to_string(), glob.clone());
            if let Some(before) = seen.insert(key, table.path().to_owned()) {
                text.complain(
                    format!("{before} limits the same already"),
                    "put all limits of one key into one table",
                );
            }
            let glob = Glob::new(&glob);
            match by {
                By::Gateway => quotas.gateway = Some(Numbered { allowance, line: Line(0) }),
                By::Address => quotas.address = Some(allowance),
                By::Caller => callers.push((glob, allowance)),
                By::Provider => providers.push((glob, allowance)),
                By::Model => models.push((glob, allowance)),
                By::Metadata(key) => metadata.push((key, allowance)),
            }
        }
        table.close();
    }
    Quotas {
        callers: callers.into(),
        providers: providers.into(),
        models: models.into(),
        metadata: metadata.into(),
        ..quotas
    }
}

fn by_of(text: &Text<'_>) -> Option<By> {
    if let Some(key) = text.value.strip_prefix("metadata.") {
        if key.is_empty() {
            text.complain("no key is named", "by = \"metadata.team\"");
            return None;
        }
        return Some(By::Metadata(key.into()));
    }
    if text.value.as_str() == "metadata" {
        text.complain("a key of the metadata is limited by, not all of it", "by = \"metadata.team\"");
        return None;
    }
    text.choose(&WORDS).map(|make| make())
}

/// The limits of one table.
fn allowance(table: &mut Table<'_>, budgets: bool) -> Allowance {
    let mut limits = Vec::new();
    let mut is_given = false;
    let most = usize::try_from(QUOTA_AMOUNT_MAX).unwrap_or(usize::MAX);
    let mut number = |key: &'static str, most: usize| -> Option<NonZeroU64> {
        let field = table.get(key)?;
        // Given wrongly is given: that has been complained of.
        is_given = true;
        field.count(1..=most).and_then(|n| NonZeroU64::new(n as u64))
    };
    let burst = number("burst", most);
    let burst_tokens = number("burst_tokens", most);
    let mut takes_burst = [false; 2];
    for (setting, measure, period_ns) in RATES {
        let Some(amount) = number(setting, most) else { continue };
        let is_tokens = measure.unit() == Unit::Tokens;
        takes_burst[usize::from(is_tokens)] = true;
        let burst = if is_tokens { burst_tokens } else { burst };
        let period_ns = NonZeroU64::new(period_ns).unwrap_or(NonZeroU64::MIN);
        limits
            .push(Limit::Rate { measure, rate: Rate { amount, period_ns, burst: burst.unwrap_or(amount) } });
    }
    for (setting, measure) in CONCURRENCIES {
        if let Some(most) = number(setting, 1 << 20) {
            limits.push(Limit::Concurrency { measure, most: u32::try_from(most.get()).unwrap_or(u32::MAX) });
        }
    }
    if budgets {
        for (setting, measure) in BUDGETS {
            if let Some(most) = number(setting, most) {
                limits.push(Limit::Budget { measure, most: most.get() });
            }
        }
        for (setting, measure) in BUDGETS_USD {
            let Some(field) = table.get(setting) else { continue };
            is_given = true;
            if let Some(most) = field.usd(NanoUsd(1), NanoUsd(BUDGET_MAX)) {
                limits.push(Limit::Budget { measure, most: most.0 });
            }
        }
    }
    for (setting, given, taken) in
        [("burst", burst, takes_burst[0]), ("burst_tokens", burst_tokens, takes_burst[1])]
    {
        if given.is_some() && !taken {
            table.complain(format!("{setting} belongs to a rate, and none is here"), "add a rate to it");
        }
    }
    let choices = [("finish", OnExceed::Finish), ("cut", OnExceed::Cut)];
    let on_exceed = table.get("on_exceed").and_then(Field::text).and_then(|text| text.choose(&choices));
    if !is_given {
        table.complain("nothing is limited", "requests_per_minute = 60");
    }
    Allowance { limits: limits.into(), on_exceed: on_exceed.unwrap_or_default() }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{check, check_fix, compiled},
        *,
    };

    #[track_caller]
    fn limits(settings: &str) -> Allowance {
        let text = format!("[[provider]]\nname = \"openai\"\n[[limit]]\nby = \"gateway\"\n{settings}\n");
        compiled(&text).snapshot.quotas.gateway.expect("limited").allowance
    }

    #[track_caller]
    fn complains(table: &str, expect: &[&str]) {
        check(&format!("[[limit]]\n{table}\n[[provider]]\nname = \"openai\"\n"), expect);
    }

    fn rate(amount: u64, period_s: u64, burst: u64) -> Rate {
        let number = |n| NonZeroU64::new(n).expect("not zero");
        Rate { amount: number(amount), period_ns: number(period_s * SECOND_NS), burst: number(burst) }
    }

    #[test]
    fn a_table_is_an_allowance() {
        let allowance = limits(
            "requests_per_second = 5\ntokens_per_minute = 9_000\nconcurrent_streams = 2\nburst = 7\n\
             budget_tokens_month = 100\nbudget_usd_day = 12.5\non_exceed = \"cut\"",
        );
        assert_eq!(
            *allowance.limits,
            [
                Limit::Rate { measure: Measure::RequestsPerSecond, rate: rate(5, 1, 7) },
                Limit::Rate { measure: Measure::TokensPerMinute, rate: rate(9_000, 60, 9_000) },
                Limit::Concurrency { measure: Measure::ConcurrentStreams, most: 2 },
                Limit::Budget { measure: Measure::BudgetTokensMonth, most: 100 },
                Limit::Budget { measure: Measure::BudgetNanoUsdDay, most: 12_500_000_000 },
            ]
        );
        assert_eq!(allowance.on_exceed, OnExceed::Cut);
    }

    #[test]
    fn the_first_pattern_that_fits_counts() {
        let text = "[[provider]]\nname = \"openai\"\n\
            [[limit]]\nby = \"model\"\nmatch = \"openai/gpt-*\"\nrequests_per_day = 1\n\
            [[limit]]\nby = \"model\"\nrequests_per_day = 2\n\
            [[limit]]\nby = \"metadata.team\"\nrequests_per_day = 3\n";
        let quotas = compiled(text).snapshot.quotas;
        let amount = |name| match first(&quotas.models, name).map(|allowance| &*allowance.limits) {
            Some([Limit::Rate { rate, .. }]) => rate.amount.get(),
            _ => 0,
        };
        assert_eq!((amount("openai/gpt-4o"), amount("openai/o1")), (1, 2));
        assert_eq!(&*quotas.metadata[0].0, "team");
    }

    #[test]
    fn what_makes_no_sense_is_complained_of() {
        complains("requests_per_day = 1", &["1:1 limit[0]: it is not said what is limited"]);
        complains("by = \"gateway\"", &["1:1 limit[0]: nothing is limited"]);
        complains("by = \"user\"\nrequests_per_day = 1", &["2:6 limit[0].by: `user` is not a choice here"]);
        complains(
            "by = \"metadata\"\nrequests_per_day = 1",
            &["2:6 limit[0].by: a key of the metadata is limited by, not all of it"],
        );
        complains("by = \"metadata.\"\nrequests_per_day = 1", &["2:6 limit[0].by: no key is named"]);
        complains(
            "by = \"gateway\"\nmatch = \"*\"\nrequests_per_day = 1",
            &["3:9 limit[0].match: nothing is matched here"],
        );
        complains(
            "by = \"gateway\"\nconcurrent_requests = 1\nburst = 2",
            &["1:1 limit[0]: burst belongs to a rate, and none is here"],
        );
        complains(
            "by = \"model\"\nbudget_tokens_day = 1\nrequests_per_day = 1",
            &["3:1 limit[0]: there is no `budget_tokens_day` here"],
        );
        complains(
            "by = \"provider\"\nbudget_usd_day = 1\nrequests_per_day = 1",
            &["3:1 limit[0]: there is no `budget_usd_day` here"],
        );
        complains(
            "by = \"gateway\"\nbudget_usd_month = 300_000",
            &["3:20 limit[0].budget_usd_month: this amount is out of range"],
        );
        complains(
            "by = \"gateway\"\nrequests_per_day = 0",
            &["3:20 limit[0].requests_per_day: this number is out of range"],
        );
        complains(
            "by = \"caller\"\nrequests_per_day = 1\n[[limit]]\nby = \"caller\"\ntokens_per_day = 1",
            &["5:6 limit[1].by: limit[0] limits the same already"],
        );
        check_fix(
            "[[limit]]\nby = \"adress\"\nrequests_per_day = 1\n[[provider]]\nname = \"openai\"\n",
            "did you mean \"address\"?",
        );
    }
}
