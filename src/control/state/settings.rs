//! What a caller may do, in words: as an operator writes it and as the database keeps it, and compiled for the cores.
//!
//! Settings are checked before they are kept and again when they are read: a word that is not understood is trouble, never
//! a limit that isn't there.

use std::num::NonZeroU64;

use serde::{Deserialize, Serialize};

use crate::{
    base::{
        glob::Glob,
        ids::Line,
        limits::{CALLER_LIST_MAX, MODEL_BYTES_MAX, NAME_BYTES_MAX, TAG_BYTES_MAX},
        prefixes::{AccessList, BadPrefix, Prefix, Prefixes},
    },
    config::{
        allowance::{Allowance, Limit, Measure, OnExceed, Rate},
        callers::{Caller, Caps, Endpoints},
        relay::OnDisconnect,
    },
    wire::{openai::endpoint::Endpoint, token::TokenId},
};

/// What one caller may do. Whatever is left out is not restricted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Patterns of models, such as `openai/*`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<String>,
    /// Patterns of routes' names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<String>,
    /// Operations, such as `chat`: see [`Endpoint::operation`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<String>,
    /// Addresses or prefixes it may call from.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<String>,
    /// Addresses or prefixes it may not call from.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<LimitSetting>,
    /// `finish` or `cut`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_exceed: Option<String>,
    /// `cancel`, `drain` or `drain_until_usage`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_disconnect: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n_max: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens_max: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_bytes_max: Option<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Whether what it says and hears is kept in logs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_payload: Option<bool>,
}

/// One limit, as `{"measure": "requests_per_minute", "most": 60, "burst": 10}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitSetting {
    /// See [`MEASURES`].
    pub measure: String,
    pub most: u64,
    /// The most that can be spent in one moment; of a rate only. Left out: as much as a whole period has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u64>,
}

/// How a measure is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// So much in so many seconds.
    Rate(u64),
    Concurrency,
    Budget,
}

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// The measures that a caller can be limited by, in the order of [`Measure`], and what they are called.
#[rustfmt::skip]
pub const MEASURES: [(Measure, &str, Shape); 12] = [
    (Measure::RequestsPerSecond,  "requests_per_second",  Shape::Rate(1)),
    (Measure::RequestsPerMinute,  "requests_per_minute",  Shape::Rate(MINUTE)),
    (Measure::RequestsPerHour,    "requests_per_hour",    Shape::Rate(HOUR)),
    (Measure::RequestsPerDay,     "requests_per_day",     Shape::Rate(DAY)),
    (Measure::TokensPerMinute,    "tokens_per_minute",    Shape::Rate(MINUTE)),
    (Measure::TokensPerDay,       "tokens_per_day",       Shape::Rate(DAY)),
    (Measure::ConcurrentRequests, "concurrent_requests",  Shape::Concurrency),
    (Measure::ConcurrentStreams,  "concurrent_streams",   Shape::Concurrency),
    (Measure::BudgetTokensDay,    "budget_tokens_day",    Shape::Budget),
    (Measure::BudgetTokensMonth,  "budget_tokens_month",  Shape::Budget),
    (Measure::BudgetNanoUsdDay,   "budget_nano_usd_day",  Shape::Budget),
    (Measure::BudgetNanoUsdMonth, "budget_nano_usd_month", Shape::Budget),
];

impl Settings {
    /// A caller who may do what these settings say.
    ///
    /// # Errors
    /// What is wrong, for the operator.
    pub fn caller(
        &self,
        id: TokenId,
        name: &str,
        expires_unix_ms: Option<u64>,
        enabled: bool,
    ) -> Result<Caller, String> {
        check_name(name)?;
        let cap_is_zero =
            self.n_max == Some(0) || self.max_tokens_max == Some(0) || self.body_bytes_max == Some(0);
        if cap_is_zero {
            return Err("a cap of 0 allows nothing: disable the caller instead".to_owned());
        }
        Ok(Caller {
            id,
            name: name.into(),
            expires_unix_ms,
            enabled,
            models: globs(&self.models, "models")?,
            routes: globs(&self.routes, "routes")?,
            endpoints: endpoints(&self.endpoints)?,
            access: access(&self.allow, &self.deny)?,
            allowance: self.allowance()?,
            line: Line(0),
            caps: Caps {
                n_max: self.n_max,
                max_tokens_max: self.max_tokens_max,
                body_bytes_max: self.body_bytes_max,
            },
            on_disconnect: self.on_disconnect.as_deref().map(on_disconnect).transpose()?,
            log_payload: self.log_payload,
            tags: list(&self.tags, "tags", |tag| {
                let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._:/@=-".contains(&byte);
                if (1..=TAG_BYTES_MAX).contains(&tag.len()) && tag.bytes().all(plain) {
                    return Ok(tag.into());
                }
                Err(format!(
                    "`{}` is not a tag: letters, digits and ._:/@=- only, {TAG_BYTES_MAX} at most",
                    shown(tag)
                ))
            })?,
        })
    }

    fn allowance(&self) -> Result<Allowance, String> {
        let mut limits = Vec::with_capacity(self.limits.len());
        for (measure, name, shape) in MEASURES {
            let mut of_it = self.limits.iter().filter(|limit| limit.measure == name);
            let Some(limit) = of_it.next() else { continue };
            if of_it.next().is_some() {
                return Err(format!("{name} is limited twice"));
            }
            limits.push(limit.compile(measure, name, shape)?);
        }
        if let Some(odd) =
            self.limits.iter().find(|limit| MEASURES.iter().all(|(_, name, _)| *name != limit.measure))
        {
            return Err(format!("`{}` is not something that can be limited", shown(&odd.measure)));
        }
        let on_exceed = match self.on_exceed.as_deref() {
            None | Some("finish") => OnExceed::Finish,
            Some("cut") => OnExceed::Cut,
            Some(odd) => return Err(format!("`{}` is neither finish nor cut", shown(odd))),
        };
        Ok(Allowance { limits: limits.into(), on_exceed })
    }
}

impl LimitSetting {
    fn compile(&self, measure: Measure, name: &str, shape: Shape) -> Result<Limit, String> {
        let zero = || format!("{name} is 0, which allows nothing: disable the caller instead");
        let most = NonZeroU64::new(self.most).ok_or_else(zero)?;
        if let (Some(_), Shape::Concurrency | Shape::Budget) = (self.burst, shape) {
            return Err(format!("{name} is not a rate and has no burst"));
        }
        Ok(match shape {
            Shape::Rate(period_secs) => {
                let burst = self.burst.map_or(Some(most), NonZeroU64::new);
                let burst = burst.ok_or_else(|| format!("the burst of {name} is 0, which allows nothing"))?;
                let period_ns = NonZeroU64::new(period_secs * 1_000_000_000).unwrap_or(NonZeroU64::MIN);
                Limit::Rate { measure, rate: Rate { amount: most, period_ns, burst } }
            }
            Shape::Concurrency => {
                let most =
                    u32::try_from(self.most).map_err(|_| format!("{name} is more than can be counted"))?;
                Limit::Concurrency { measure, most }
            }
            Shape::Budget => Limit::Budget { measure, most: self.most },
        })
    }
}

fn on_disconnect(word: &str) -> Result<OnDisconnect, String> {
    let known = OnDisconnect::CHOICES.map(|(known, _)| known).join(", ");
    OnDisconnect::of(word).ok_or_else(|| format!("`{}` is none of {known}", shown(word)))
}

/// A caller's name: it stands in metrics, logs and on command lines.
pub fn check_name(name: &str) -> Result<(), String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._:/@-".contains(&byte);
    let starts_well = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if starts_well && name.len() <= NAME_BYTES_MAX && name.bytes().all(plain) {
        return Ok(());
    }
    Err(format!(
        "`{}` is not a name: letters, digits and ._:/@- only, a letter or a digit first, {NAME_BYTES_MAX} at most",
        shown(name)
    ))
}

fn list<T>(
    texts: &[String],
    what: &str,
    read: impl Fn(&str) -> Result<T, String>,
) -> Result<Box<[T]>, String> {
    if texts.len() > CALLER_LIST_MAX {
        return Err(format!("more than {CALLER_LIST_MAX} {what}"));
    }
    texts.iter().map(|text| read(text)).collect()
}

fn globs(texts: &[String], what: &str) -> Result<Box<[Glob]>, String> {
    list(texts, what, |text| {
        let plain = |byte: u8| byte.is_ascii_graphic();
        if (1..=MODEL_BYTES_MAX).contains(&text.len()) && text.bytes().all(plain) {
            return Ok(Glob::new(text));
        }
        Err(format!("`{}` is not a pattern for {what}", shown(text)))
    })
}

fn endpoints(texts: &[String]) -> Result<Option<Endpoints>, String> {
    let found = texts.iter().map(|text| {
        let endpoint = Endpoint::ALL.into_iter().find(|endpoint| endpoint.operation() == text);
        endpoint.ok_or_else(|| {
            let known: Vec<_> = Endpoint::ALL.into_iter().map(Endpoint::operation).collect();
            format!("`{}` is not an endpoint; there are {}", shown(text), known.join(", "))
        })
    });
    let set: Endpoints = found.collect::<Result<_, _>>()?;
    Ok((!texts.is_empty()).then_some(set))
}

/// Where a caller may call from; `None`: anywhere.
fn access(allow: &[String], deny: &[String]) -> Result<Option<Box<AccessList>>, String> {
    let [allow, deny] = [networks(allow, "allowed addresses")?, networks(deny, "denied addresses")?];
    let set = |networks: &[Prefix]| networks.iter().copied().collect::<Prefixes>();
    let list = AccessList { allow: (!allow.is_empty()).then(|| set(&allow)), deny: set(&deny) };
    Ok((list != AccessList::default()).then(|| Box::new(list)))
}

fn networks(texts: &[String], what: &str) -> Result<Box<[Prefix]>, String> {
    list(texts, what, |text| {
        text.parse().map_err(|why: BadPrefix| {
            format!(
                "`{}` is neither an address nor a prefix such as 10.0.0.0/8 or 2001:db8::/32: {why}",
                shown(text)
            )
        })
    })
}

/// The beginning of what was written, fit for a terminal.
fn shown(text: &str) -> String {
    text.chars().take(80).collect::<String>().escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(json: &str, expect: Result<(), &str>) {
        let id = TokenId::draw(&[0; 10]);
        let settings: Result<Settings, _> = serde_json::from_str(json);
        let said = settings.map_err(|error| error.to_string()).and_then(|settings| {
            let again = serde_json::to_string(&settings).expect("it can be written");
            assert_eq!(serde_json::from_str::<Settings>(&again).expect("it can be read"), settings);
            settings.caller(id, "ci", None, true).map(drop)
        });
        match (said, expect) {
            (Ok(()), Ok(())) => {}
            (Err(said), Err(words)) if said.contains(words) => {}
            (said, expect) => panic!("{json}: {said:?} where {expect:?}"),
        }
    }

    #[test]
    fn what_is_not_understood_is_never_taken_for_no_limit() {
        check("{}", Ok(()));
        check(r#"{"modles":["a"]}"#, Err("unknown field"));
        check(r#"{"models":[""]}"#, Err("not a pattern"));
        check(r#"{"models":["a b"]}"#, Err("not a pattern"));
        check(r#"{"models":["openai/*","*"],"routes":["fast-*"]}"#, Ok(()));
        check(r#"{"endpoints":["chat","model"]}"#, Ok(()));
        check(r#"{"endpoints":["chats"]}"#, Err("not an endpoint"));
        check(r#"{"tags":["team:search","env=prod"]}"#, Ok(()));
        check(r#"{"tags":["a b"]}"#, Err("not a tag"));
        check(r#"{"on_exceed":"stop"}"#, Err("neither finish nor cut"));
        check(r#"{"on_disconnect":"drain"}"#, Ok(()));
        check(r#"{"on_disconnect":"finish"}"#, Err("none of cancel, drain, drain_until_usage"));
        check(r#"{"n_max":0}"#, Err("a cap of 0"));
        check(r#"{"n_max":-1}"#, Err("invalid value"));
        check(
            &format!(r#"{{"tags":[{}"a"]}}"#, r#""a","#.repeat(CALLER_LIST_MAX)),
            Err("more than 256 tags"),
        );
        let limit = |limit: &str| format!(r#"{{"limits":[{limit}]}}"#);
        check(&limit(r#"{"measure":"requests_per_minute","most":60,"burst":5}"#), Ok(()));
        check(&limit(r#"{"measure":"requests_per_minute","most":0}"#), Err("allows nothing"));
        check(&limit(r#"{"measure":"requests_per_minute","most":1,"burst":0}"#), Err("allows nothing"));
        check(
            &limit(r#"{"measure":"requests_per_week","most":1}"#),
            Err("not something that can be limited"),
        );
        check(&limit(r#"{"measure":"concurrent_streams","most":1,"burst":1}"#), Err("has no burst"));
        check(
            &limit(r#"{"measure":"concurrent_streams","most":4294967296}"#),
            Err("more than can be counted"),
        );
        let twice = r#"{"measure":"tokens_per_day","most":1}"#;
        check(&limit(&format!("{twice},{twice}")), Err("limited twice"));
    }

    #[test]
    fn an_address_or_a_prefix_has_one_meaning() {
        for good in
            ["127.0.0.1", "::1", "0.0.0.0/0", "10.0.0.0/8", "10.1.2.3/32", "2001:db8::/32", "::/0", "::1/128"]
        {
            check(&format!(r#"{{"allow":["{good}"],"deny":["{good}"]}}"#), Ok(()));
        }
        for bad in [
            "",
            "localhost",
            "10.0.0.1/8",
            "10.0.0.0/33",
            "10.0.0.0/",
            "/8",
            "10.0.0.0/08",
            "10.0.0.0/+8",
            "10.0.0/8",
            "010.0.0.1",
            "::/129",
            "::1/127",
            "fe80::1%eth0",
            "10.0.0.0/8/8",
            " 10.0.0.1",
            "10.0.0.0/-1",
        ] {
            check(&format!(r#"{{"allow":["{bad}"]}}"#), Err("neither an address nor a prefix"));
            check(&format!(r#"{{"deny":["{bad}"]}}"#), Err("neither an address nor a prefix"));
        }
    }

    #[test]
    fn limits_compile_in_the_order_of_their_measures() {
        let setting = |measure: &str, most| LimitSetting { measure: measure.to_owned(), most, burst: None };
        let limits = MEASURES.iter().rev().map(|(_, name, _)| setting(name, 7)).collect();
        let allowance = Settings { limits, ..Settings::default() }.allowance().expect("good");
        let measures: Vec<Measure> = allowance
            .limits
            .iter()
            .map(|limit| match limit {
                Limit::Rate { measure, .. }
                | Limit::Concurrency { measure, .. }
                | Limit::Budget { measure, .. } => *measure,
            })
            .collect();
        assert_eq!(measures, MEASURES.map(|(measure, ..)| measure));
        assert!(measures.is_sorted());
        let Limit::Rate { rate, .. } = allowance.limits[1] else { panic!("a rate") };
        assert_eq!((rate.amount.get(), rate.burst.get(), rate.period_ns.get()), (7, 7, 60_000_000_000));
    }

    #[test]
    fn names_can_be_said_anywhere() {
        for good in ["ci", "team/search", "a", "Alice@example.com", "0"] {
            assert_eq!(check_name(good), Ok(()));
        }
        for bad in ["", "-x", "a b", "a\nb", "ü", "{a}", "\"", &"a".repeat(65)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
