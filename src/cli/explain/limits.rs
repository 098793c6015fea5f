//! The limits that a request would be asked by, with their numbers; what has been used of them is not known here.

use std::net::IpAddr;

use serde::Serialize;

use super::asked::Asked;
use crate::{
    config::{
        Provider, Snapshot,
        allowance::{Allowance, Limit, Measure, OnExceed, Unit},
        callers::Caller,
        quotas,
    },
    policy::plan::Plan,
    wire::{metadata::Metadata, openai::endpoint::Endpoint},
};

/// One limit that applies.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Limited {
    /// Whose use is counted: `gateway`, `caller ci`, …
    pub(super) of: String,
    /// What is counted, such as `requests per minute`.
    pub(super) measure: &'static str,
    pub(super) most: u64,
    /// In what budgets are counted; `None` where `measure` says it.
    pub(super) unit: Option<&'static str>,
    /// The most in one moment; of a rate only.
    pub(super) burst: Option<u64>,
    /// A stream that crosses it is ended.
    pub(super) cuts_streams: bool,
}

/// The most that the request may ask for.
#[derive(Debug, Serialize)]
pub(super) struct Caps {
    pub(super) body_bytes: u64,
    pub(super) n: Option<u32>,
    pub(super) max_tokens: Option<u64>,
}

/// Every limit that the request would be asked by, in the order in which it would be.
pub(super) fn limits(
    snapshot: &Snapshot,
    caller: Option<&Caller>,
    asked: &Asked<'_>,
    address: Option<IpAddr>,
    told: Option<&Metadata<'_>>,
    plan: Option<&Plan<'_>>,
) -> Vec<Limited> {
    let quotas = &snapshot.quotas;
    let mut all = Limits { list: Vec::new(), stream: asked.stream };
    if let (Some(allowance), Some(address)) = (&quotas.address, address) {
        all.add(&format!("address {address}"), allowance);
    }
    if let Some(gateway) = &quotas.gateway {
        all.add("gateway", &gateway.allowance);
    }
    if let Some(caller) = caller {
        let own = &caller.allowance;
        let whole = quotas::first(&quotas.callers, &caller.name).map_or_else(|| own.clone(), |c| own.over(c));
        let is_own = |limit: &Limit| own.limits.iter().any(|one| one.measure() == limit.measure());
        let part = |wanted: bool| Allowance {
            limits: whole.limits.iter().filter(|limit| is_own(limit) == wanted).copied().collect(),
            on_exceed: whole.on_exceed,
        };
        all.add(&format!("caller {}", caller.name), &part(true));
        all.add(&format!("caller {}, as every caller", caller.name), &part(false));
    }
    if let Some(allowance) = quotas::first(&quotas.models, asked.model) {
        all.add(&format!("model {}", asked.model), allowance);
    }
    for (key, allowance) in &quotas.metadata {
        if let Some(value) = told.and_then(|told| told.get(key)) {
            all.add(&format!("metadata.{key} {}", value.name()), allowance);
        }
    }
    let mut seen: Vec<&str> = Vec::new();
    for target in plan.map(|plan| &*plan.targets).unwrap_or_default() {
        if let Provider { name, allowance: Some(numbered), .. } = target.provider
            && !seen.contains(&&**name)
        {
            seen.push(name);
            all.add(&format!("provider {name}"), &numbered.allowance);
        }
    }
    all.list
}

pub(super) const TOKENS: &str = "tokens";

/// Limits while they are listed.
struct Limits {
    list: Vec<Limited>,
    stream: bool,
}

impl Limits {
    fn add(&mut self, of: &str, allowance: &Allowance) {
        let cuts = self.stream && allowance.on_exceed == OnExceed::Cut;
        for limit in &allowance.limits {
            let measure = limit.measure();
            if measure == Measure::ConcurrentStreams && !self.stream {
                continue;
            }
            let (most, burst, unit) = match *limit {
                Limit::Rate { rate, .. } => (rate.amount.get(), Some(rate.burst.get()), None),
                Limit::Concurrency { most, .. } => (u64::from(most), None, None),
                Limit::Budget { most, .. } => {
                    let unit = if measure.unit() == Unit::NanoUsd { "nano-dollars" } else { TOKENS };
                    (most, None, Some(unit))
                }
            };
            let cuts_streams = cuts && measure.unit() != Unit::Requests;
            let measure = measure.words();
            self.list.push(Limited { of: of.to_owned(), measure, most, unit, burst, cuts_streams });
        }
    }
}

pub(super) fn caps(snapshot: &Snapshot, caller: Option<&Caller>, endpoint: Endpoint) -> Caps {
    let all = snapshot.limits.body_bytes as u64;
    let caps = caller.map(|caller| caller.caps).unwrap_or_default();
    Caps {
        body_bytes: caps.body_bytes_max.map_or(all, |own| own.min(all)),
        n: caps.n_max,
        max_tokens: caps.max_tokens_max.filter(|_| endpoint.generates_text()),
    }
}
