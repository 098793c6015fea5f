//! One exchange as spans: one of kind SERVER for what the client saw, and under it one of kind CLIENT for each attempt at a
//! provider. No prompt and no answer is in them.

use std::borrow::Cow;

use opentelemetry_proto::tonic::{
    common::v1::KeyValue,
    trace::v1::{Span, Status, span::SpanKind, status::StatusCode},
};

use super::words::Attributes;
use crate::{
    base::now::Now,
    config::{Provider, Snapshot},
    control::access_log::render::Words,
    ledger::{
        genai,
        logged::Logged,
        record::{Closed, Outcome, Record},
        trail::{Trail, Try},
    },
    wire::{
        mask::{Rules, masked},
        openai::endpoint::Endpoint,
        trace_context::SpanId,
    },
};

/// Adds the spans of an exchange that is sampled; of another, nothing.
pub(super) fn add(logged: &Logged, words: &Words<'_>, snapshot: Option<&Snapshot>, spans: &mut Vec<Span>) {
    let Some(record) = logged.whole.as_deref() else { return };
    let Some(trail) = record.trail.as_deref().filter(|trail| trail.is_sampled()) else { return };
    let Some(own) = trail.span else { return };
    let view = View { logged, record, words, snapshot, trail };
    spans.push(view.exchange(own));
    let last = trail.tries().len().wrapping_sub(1);
    let tries = trail.tries().iter().enumerate();
    spans.extend(tries.filter_map(|(index, tried)| view.attempt(own, tried, index == last)));
}

struct View<'a> {
    logged: &'a Logged,
    record: &'a Closed,
    words: &'a Words<'a>,
    snapshot: Option<&'a Snapshot>,
    trail: &'a Trail,
}

/// What the conventions call an error, and whether it is ours to answer for.
struct Wrong {
    kind: Cow<'static, str>,
    is_error: bool,
}

impl View<'_> {
    fn exchange(&self, own: SpanId) -> Span {
        let Self { logged, record, words, trail, .. } = self;
        let endpoint = Endpoint::ALL.into_iter().find(|it| it.operation() == record.operation);
        let path = endpoint.map(|endpoint| format!("/v1{}", endpoint.path()));
        let method = logged.method.map(|method| method.token().unwrap_or("_OTHER"));
        let mut attributes = Attributes::default();
        attributes
            .text("http.request.method", method.unwrap_or_default())
            .text("http.route", path.as_deref().unwrap_or_default())
            .text("network.protocol.name", "http")
            .text("network.protocol.version", if logged.http10 { "1.0" } else { "1.1" })
            .text("client.address", &self.masked_address());
        if record.status > 0 {
            attributes.number("http.response.status_code", record.status.into());
        }
        self.say_genai(&mut attributes, record.model_asked.as_str());
        if (200..300).contains(&record.status) {
            attributes.text("gen_ai.response.model", &masked(words.rules, record.model_used.as_str()));
        }
        say_usage(&mut attributes, record);
        if let Some(us) = record.first_token_us() {
            attributes.fraction("gen_ai.response.time_to_first_chunk", us as f64 / 1e6);
        }
        let caller = logged.caller.as_ref();
        attributes
            .text("ringway.request_id", &masked(&Rules::default(), logged.request_id.as_str()))
            .text("ringway.caller.id", caller.map_or("", |caller| caller.id.as_str()))
            .text("ringway.caller.name", caller.map_or("", |caller| &caller.name))
            .text("ringway.route", logged.route.as_deref().unwrap_or_default())
            .text("ringway.outcome", record.outcome().name())
            .text("ringway.refusal", record.refusal.unwrap_or_default())
            .number("ringway.attempts", record.attempts.into())
            .number("ringway.core", words.core as u64);
        if let Some(cost) = record.cost {
            attributes.fraction("ringway.cost_usd", cost.0 as f64 / 1e9);
        }
        let wrong = wrong(record);
        let name = match (method, &path) {
            (Some(method), Some(path)) => format!("{method} {path}"),
            (Some(method), None) => method.to_owned(),
            (None, _) => "HTTP".to_owned(),
        };
        let status = self.judged(&mut attributes, wrong);
        let (started, ended) = (record.phases.started, record.phases.ended.unwrap_or(record.phases.started));
        Span {
            parent_span_id: trail.parent.map_or_else(Vec::new, |parent| parent.bytes().to_vec()),
            flags: self.flags(trail.parent.is_some()),
            ..self.span(own, name, SpanKind::Server, (started, ended), attributes.0, status)
        }
    }

    fn attempt(&self, parent: SpanId, tried: &Try, is_last: bool) -> Option<Span> {
        let record = self.record;
        let ended = record.phases.ended.unwrap_or(tried.began);
        // The last one lasted as long as the exchange did, and shares its fate.
        let carried_on = is_last && tried.ended.is_none();
        let model = masked(self.words.rules, tried.model.as_str());
        let mut attributes = Attributes::default();
        self.say_genai(&mut attributes, &model);
        let name = self.words.roll.name(tried.provider).unwrap_or("unknown");
        let known = self.provider(name);
        let profile = known.and_then(|provider| provider.profile.as_deref()).unwrap_or(name);
        attributes.text("gen_ai.provider.name", genai::provider_name(profile)).text("ringway.provider", name);
        if let Some(provider) = known {
            attributes.text("server.address", &provider.host).number("server.port", provider.port.into());
        }
        if tried.status > 0 {
            attributes.number("http.response.status_code", tried.status.into());
        }
        attributes.flag("ringway.connection.reused", tried.reused);
        if carried_on && (200..300).contains(&tried.status) {
            attributes.text("gen_ai.response.model", &model);
            say_usage(&mut attributes, record);
            if let Some(token) = record.phases.first_token {
                let seconds = token.since(tried.began).as_secs_f64();
                attributes.fraction("gen_ai.response.time_to_first_chunk", seconds);
            }
        }
        let wrong = match (tried.failure, tried.status) {
            (Some(kind), _) => Some(Wrong { kind: kind.into(), is_error: true }),
            (None, 300..) => Some(Wrong { kind: tried.status.to_string().into(), is_error: true }),
            (None, _) if carried_on => wrong(record).filter(|_| record.outcome() != Outcome::Completed),
            (None, _) => None,
        };
        let status = self.judged(&mut attributes, wrong);
        let time = (tried.began, tried.ended.unwrap_or(ended));
        let name = format!("{} {model}", genai::operation_name(record.operation));
        Some(Span {
            parent_span_id: parent.bytes().to_vec(),
            flags: self.flags(false),
            ..self.span(tried.span?, name, SpanKind::Client, time, attributes.0, status)
        })
    }

    fn span(
        &self,
        own: SpanId,
        name: String,
        kind: SpanKind,
        (began, ended): (Now, Now),
        attributes: Vec<KeyValue>,
        status: Option<Status>,
    ) -> Span {
        Span {
            trace_id: self.trail.trace.bytes().to_vec(),
            span_id: own.bytes().to_vec(),
            name,
            kind: kind.into(),
            start_time_unix_nano: self.unix_ns(began),
            end_time_unix_nano: self.unix_ns(ended),
            attributes,
            status,
            ..Span::default()
        }
    }

    fn say_genai(&self, attributes: &mut Attributes, model: &str) {
        let record = self.record;
        if model.is_empty() {
            return;
        }
        attributes
            .text("gen_ai.operation.name", genai::operation_name(record.operation))
            .text("gen_ai.request.model", &masked(self.words.rules, model))
            .flag("gen_ai.request.stream", record.stream);
    }

    fn judged(&self, attributes: &mut Attributes, wrong: Option<Wrong>) -> Option<Status> {
        let wrong = wrong?;
        attributes.text("error.type", &wrong.kind);
        wrong.is_error.then(|| Status { code: StatusCode::Error.into(), message: String::new() })
    }

    /// As it is logged.
    fn masked_address(&self) -> String {
        self.logged.address.to_canonical().to_string()
    }

    /// As it is configured now; one that has gone since says no more than its name.
    fn provider(&self, name: &str) -> Option<&Provider> {
        Some(self.snapshot?.provider(name)?.1)
    }

    /// A moment by the wall clock, which was read when the exchange ended.
    fn unix_ns(&self, moment: Now) -> u64 {
        let ended = self.record.phases.ended.unwrap_or(moment);
        let before = ended.0.saturating_sub(moment.0);
        self.logged.ended_unix_ms.saturating_mul(1_000_000).saturating_sub(before)
    }

    /// The trace's own flags, and whether the parent is in another process.
    fn flags(&self, is_remote: bool) -> u32 {
        let known = 0x100 | if is_remote { 0x200 } else { 0 };
        u32::from(self.trail.flags().is_sampled()) | known
    }
}

fn say_usage(attributes: &mut Attributes, record: &Record) {
    let tokens = record.tokens;
    let kinds = [
        ("gen_ai.usage.input_tokens", tokens.prompt),
        ("gen_ai.usage.output_tokens", tokens.completion),
        ("gen_ai.usage.cache_read.input_tokens", tokens.cached),
        ("gen_ai.usage.reasoning.output_tokens", tokens.reasoning),
    ];
    for (key, count) in kinds {
        if let Some(count) = count {
            attributes.number(key, count);
        }
    }
    if record.estimated {
        attributes.flag("ringway.usage.estimated", true);
    }
}

/// What went wrong with an exchange as a whole. A client's own mistake is no error of a server (HTTP conventions).
fn wrong(record: &Closed) -> Option<Wrong> {
    match record.outcome() {
        Outcome::Completed | Outcome::Refused if record.status < 400 => None,
        Outcome::Completed => {
            Some(Wrong { kind: record.status.to_string().into(), is_error: record.status >= 500 })
        }
        Outcome::Refused => {
            Some(Wrong { kind: record.refusal.unwrap_or("refused").into(), is_error: record.status >= 500 })
        }
        outcome => Some(Wrong { kind: outcome.name().into(), is_error: outcome != Outcome::ClientGone }),
    }
}
