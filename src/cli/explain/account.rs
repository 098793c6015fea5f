//! Puts together what would become of a request, in the order in which the gateway decides it.
//!
//! The first refusal counts; what can be known beyond it is told all the same.

use std::{net::IpAddr, time::Duration};

use serde::Serialize;
use serde_json::Value;

use super::{
    asked::{Asked, Unclear, client, read},
    limits::{Caps, Limited, TOKENS, caps, limits},
};
use crate::{
    base::now::Now,
    config::{
        Snapshot,
        callers::Caller,
        routes::{Aim, Balance, DYNAMIC, Node, Service, StickyBy},
    },
    policy::{
        admit,
        condition::{Facts, Told},
        health::{Health, Standing, TargetKey},
        plan::{Plan, Planned, plan},
        route::{self, NoRoute},
    },
    wire::{
        http1::head::RequestHead,
        json as body_json,
        metadata::{self, Metadata},
        openai::{
            endpoint::Endpoint,
            refusal::Refusal,
            upstream_head::{self, To},
        },
    },
};

/// What would become of it.
#[derive(Debug, Serialize)]
pub(super) struct Account {
    pub(super) model: String,
    pub(super) endpoint: &'static str,
    pub(super) stream: bool,
    /// Of the client, whatever proxies stand before it.
    pub(super) address: Option<IpAddr>,
    /// `None`: nobody is named, or callers are not verified.
    pub(super) caller: Option<CallerIs>,
    pub(super) callers_verified: bool,
    pub(super) chance: u64,
    /// `None`: the name leads nowhere.
    pub(super) plan: Option<Planning>,
    pub(super) limits: Vec<Limited>,
    pub(super) caps: Caps,
    /// What the first target would be sent; `None` if refused.
    pub(super) request: Option<Request>,
    pub(super) refusal: Option<Refused>,
}

#[derive(Debug, Serialize)]
pub(super) struct CallerIs {
    pub(super) name: String,
    pub(super) id: String,
    pub(super) tags: Vec<String>,
}

/// How a name came to lead where it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Via {
    /// `{provider}/{model}`.
    Model,
    /// `dynamic/{route}`.
    Route,
    Alias,
    /// An alias with a `*`.
    AliasPattern,
}

#[derive(Debug, Serialize)]
pub(super) struct Planning {
    pub(super) via: Via,
    pub(super) route: Option<String>,
    /// Each node of the route's tree that is passed, in words.
    pub(super) path: Vec<String>,
    /// Where in the route the service stands; empty at its root and without a route.
    pub(super) branch: String,
    /// How one of several targets is chosen; `None` where there is no choice.
    pub(super) balance: Option<String>,
    pub(super) targets: Vec<TargetIs>,
    pub(super) attempts_max: u8,
    pub(super) retry_unanswered: bool,
    pub(super) retry_missing_model: bool,
    /// What becomes of an answer whose client leaves, by the word that it is configured by.
    pub(super) on_disconnect: &'static str,
    /// The caller has chosen it.
    pub(super) on_disconnect_own: bool,
}

#[derive(Debug, Serialize)]
pub(super) struct TargetIs {
    pub(super) provider: String,
    pub(super) model: String,
    /// `None`: the provider is sent no credential.
    pub(super) key: Option<String>,
    pub(super) pinned: bool,
    pub(super) url: String,
    pub(super) fallback: bool,
    pub(super) timeouts: Timeouts,
    /// Of a stream, where it can go elsewhere.
    pub(super) hold_back: Option<HoldBack>,
    /// Of its times to first token, after which another target is asked, too; `None`: never.
    pub(super) hedge_percentile: Option<u8>,
    /// Of a stream: what its client is written while it is silent; `None`: nothing.
    pub(super) keep_alive: Option<KeepAlive>,
    /// `None`: only what it is asked tells how it does.
    pub(super) health_check: Option<HealthCheck>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct KeepAlive {
    pub(super) every_ms: u64,
    /// Also before the first event, which begins the stream.
    pub(super) commits: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct HealthCheck {
    pub(super) path: String,
    pub(super) interval_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct HoldBack {
    pub(super) events: u16,
    pub(super) ms: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Timeouts {
    pub(super) connect_ms: u64,
    pub(super) first_byte_ms: u64,
    pub(super) first_token_ms: Option<u64>,
    pub(super) between_bytes_ms: u64,
    pub(super) total_ms: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct Request {
    /// The request line and the fields, the credential and the length left out.
    pub(super) head: Vec<String>,
    /// What is changed in the client's body.
    pub(super) body: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct Refused {
    pub(super) status: u16,
    /// The client's `error` object.
    pub(super) error: Value,
    pub(super) should_retry: Option<bool>,
    pub(super) retry_after_ms: Option<u64>,
    /// What the client is not told.
    pub(super) because: Option<String>,
}

/// A board on which nothing has happened yet.
struct AllWell;

impl Health for AllWell {
    fn verdict(&self, _: TargetKey, _: Now) -> Standing {
        Standing::Closed
    }

    fn in_flight(&self, _: TargetKey) -> u32 {
        0
    }

    fn first_token_us(&self, _: TargetKey) -> Option<u64> {
        None
    }
}

/// What would become of `asked`, if every target were well and nothing had been used of any limit. `caller` has no more than
/// its own limits.
pub(super) fn account(
    snapshot: &Snapshot,
    caller: Option<&Caller>,
    asked: &Asked<'_>,
    unix_ms: u64,
) -> Result<Account, Unclear> {
    let body = asked.body();
    let bytes = asked.head(body.len())?;
    let head = read(&bytes, snapshot)?;
    let caller = caller.filter(|_| snapshot.auth.required);
    let address = client(snapshot, asked, &head, &bytes);
    let mut first = First::default();
    match address {
        Ok(address) => first.note(admit_by_head(snapshot, caller, address, asked.endpoint, unix_ms)),
        Err(forwarded) => first.note(Err((Refusal::AddressNotAllowed, Some(forwarded.to_owned())))),
    }
    let user = match body_json::peek(body.as_bytes()) {
        Ok(peek) => peek.user.map(std::borrow::Cow::into_owned),
        Err(bad) => {
            let param = bad.param().map(|param| param.to_owned().into());
            first.refuse(Refusal::BadBody { message: bad.reason(), param, code: bad.code() });
            None
        }
    };
    let facts = Facts {
        model: asked.model,
        stream: asked.stream,
        user: user.as_deref(),
        caller: caller.map(|caller| &*caller.name),
        tags: caller.map_or(&[], |caller| &caller.tags),
        header: &|name| head.field(&bytes, name),
        metadata: Told::Raw(metadata::FIELDS.into_iter().find_map(|known| head.known(&bytes, known))),
    };
    let plan = match plan(snapshot, &facts, asked.chance, &AllWell, Now(0)) {
        Ok(plan) => Some(plan),
        Err(why) => {
            first.note(Err((why.refusal(asked.model), because(why))));
            None
        }
    };
    let want = asked.want(&head, &bytes, body.len(), unix_ms);
    if let Some(caller) = caller {
        if !admit::may_take(
            caller,
            asked.model,
            plan.as_ref().and_then(|plan| plan.route).map(|route| &*route.name),
        ) {
            first.refuse(Refusal::ModelNotAllowed { model: asked.model.into() });
        }
        first.note(admit::capped(caller, want).map_err(|refusal| (refusal, None)));
    }
    let told = match snapshot.quotas.metadata.is_empty() {
        true => Ok(Metadata::default()),
        false => admit::metadata_of(&head, &bytes),
    };
    let limits = limits(snapshot, caller, asked, address.ok(), told.as_ref().ok(), plan.as_ref());
    // A rate lets one request pass that is larger than its burst; a budget does not.
    let least = admit::estimated_tokens(want);
    if let Some(budget) = limits.iter().find(|limit| limit.unit == Some(TOKENS) && limit.most < least) {
        let why = format!(
            "the {} of {} is less than the {least} tokens that this is taken for",
            budget.measure, budget.of
        );
        first.note(Err((Refusal::OverBudget, Some(why))));
    }
    first.note(told.map(drop).map_err(|refusal| (refusal, None)));
    let request = match &plan {
        Some(plan) if first.0.is_none() => {
            plan.targets.first().map(|target| request(target, asked, &head, &bytes))
        }
        _ => None,
    };
    Ok(Account {
        model: asked.model.to_owned(),
        endpoint: asked.endpoint.operation(),
        stream: asked.stream,
        address: address.ok(),
        caller: caller.map(|caller| CallerIs {
            name: caller.name.to_string(),
            id: caller.id.to_string(),
            tags: caller.tags.iter().map(|tag| tag.to_string()).collect(),
        }),
        callers_verified: snapshot.auth.required,
        chance: asked.chance,
        plan: plan.map(|plan| planning(snapshot, caller, &plan, asked)),
        limits,
        caps: caps(snapshot, caller, asked.endpoint),
        request,
        refusal: first.0.map(|(refusal, because)| refused(&refusal, because)),
    })
}

/// A refusal, and what of it the client is not told.
type No = (Refusal, Option<String>);

/// The first refusal.
#[derive(Default)]
struct First(Option<No>);

impl First {
    fn note(&mut self, verdict: Result<(), No>) {
        if let (None, Err(no)) = (&self.0, verdict) {
            self.0 = Some(no);
        }
    }

    fn refuse(&mut self, refusal: Refusal) {
        self.note(Err((refusal, None)));
    }
}

/// What is decided before the body is read.
fn admit_by_head(
    snapshot: &Snapshot,
    caller: Option<&Caller>,
    address: IpAddr,
    endpoint: Endpoint,
    unix_ms: u64,
) -> Result<(), No> {
    if !snapshot.access.list.permits(address) {
        return Err((Refusal::AddressNotAllowed, Some("by [access] of the configuration".to_owned())));
    }
    if !snapshot.auth.required {
        return Ok(());
    }
    let Some(caller) = caller else {
        let why = "callers are verified, and none is named: say --caller";
        return Err((Refusal::MissingKey, Some(why.to_owned())));
    };
    if !caller.enabled {
        return Err((Refusal::InvalidKey, Some("the caller is disabled".to_owned())));
    }
    if caller.expires_unix_ms.is_some_and(|end| unix_ms >= end) {
        return Err((Refusal::InvalidKey, Some("the caller's token has expired".to_owned())));
    }
    admit::restricted(caller, address, Some(endpoint))
        .map_err(|refusal| (refusal, Some("by the caller's own settings".to_owned())))
}

fn because(why: NoRoute) -> Option<String> {
    let words = match why {
        NoRoute::NoProvider => "it is no alias, and names no provider as {provider}/{model}",
        NoRoute::UnknownProvider => "no provider of that name is configured",
        NoRoute::UnknownRoute => "no route of that name is configured",
        NoRoute::NoKey | NoRoute::BadMetadata(_) => return None,
    };
    Some(words.to_owned())
}

fn refused(refusal: &Refusal, because: Option<String>) -> Refused {
    let mut body = Vec::new();
    refusal.body(&mut body);
    let mut body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let retry = refusal.retry();
    Refused {
        status: refusal.class().status,
        error: body["error"].take(),
        should_retry: retry.should_retry,
        retry_after_ms: retry.retry_after_ms,
        because,
    }
}

/// How a name is read, in the order in which plans read it.
fn via(snapshot: &Snapshot, asked: &str) -> Via {
    let aliases = &snapshot.routes.aliases;
    if aliases.exact(asked).is_some() {
        return Via::Alias;
    }
    if asked.starts_with(DYNAMIC) {
        return Via::Route;
    }
    let direct = route::target(snapshot, asked);
    let is_address = !matches!(direct, Err(NoRoute::NoProvider | NoRoute::UnknownProvider));
    if aliases.pattern(asked, is_address).is_some() { Via::AliasPattern } else { Via::Model }
}

fn planning(snapshot: &Snapshot, caller: Option<&Caller>, plan: &Plan<'_>, asked: &Asked<'_>) -> Planning {
    let own = caller.and_then(|caller| caller.on_disconnect);
    let routes = &snapshot.routes;
    let service = service(snapshot, plan);
    let fallbacks = service.and_then(|service| routes.targets.get(service.fallbacks.clone()));
    let is_fallback = |target: &Planned<'_>| {
        // Whoever stands among the service's own as well was planned as one of these.
        let own = service.and_then(|service| routes.targets.get(service.own.clone())).unwrap_or_default();
        let is_in = |aims: &[Aim]| aims.iter().any(|aim| aim.health == target.health);
        is_in(fallbacks.unwrap_or_default()) && !is_in(own)
    };
    let targets = plan.targets.iter().enumerate().map(|(place, target)| {
        // Without a route, the first is what was asked for.
        let fallback = is_fallback(target) && (plan.route.is_some() || place > 0);
        target_is(snapshot, target, plan, asked, fallback)
    });
    Planning {
        via: via(snapshot, asked.model),
        route: plan.route.map(|route| route.name.to_string()),
        path: routes.words(&plan.path).collect(),
        branch: plan.branch.to_owned(),
        balance: service.filter(|service| service.own.len() > 1).map(|service| balance(&service.balance)),
        targets: targets.collect(),
        attempts_max: plan.terms.attempts_max,
        retry_unanswered: plan.terms.retry_unanswered,
        retry_missing_model: plan.terms.retry_missing_model,
        on_disconnect: snapshot.relay.on_disconnect_for(own).word(),
        on_disconnect_own: own.is_some(),
    }
}

/// The service that made the plan.
fn service<'s>(snapshot: &'s Snapshot, plan: &Plan<'_>) -> Option<&'s Service> {
    let routes = &snapshot.routes;
    match plan.path.last() {
        Some(last) => match routes.spots.get(*last as usize)?.node {
            Node::Serve(service) => routes.services.get(service as usize),
            _ => None,
        },
        None => {
            let first = plan.targets.first()?;
            routes.fallback(&first.provider.name, &first.model)
        }
    }
}

fn balance(balance: &Balance) -> String {
    match balance {
        Balance::Weighted => "by weight".to_owned(),
        Balance::LeastInFlight => "the least in flight".to_owned(),
        Balance::Fastest => "the faster of two".to_owned(),
        Balance::Cheapest => "the cheapest".to_owned(),
        Balance::Sticky(by) => match by {
            StickyBy::User => "sticky by user".to_owned(),
            StickyBy::Caller => "sticky by caller".to_owned(),
            StickyBy::Header(name) => format!("sticky by header.{name}"),
            StickyBy::Metadata(key) => format!("sticky by metadata.{}", key.escape_debug()),
        },
    }
}

fn target_is(
    snapshot: &Snapshot,
    target: &Planned<'_>,
    plan: &Plan<'_>,
    asked: &Asked<'_>,
    fallback: bool,
) -> TargetIs {
    let provider = target.provider;
    let timeouts = plan.terms.timeouts.over(provider.timeouts);
    let ms = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    let scheme = if provider.tls { "https" } else { "http" };
    let key = provider.keys.get(usize::from(target.key));
    TargetIs {
        provider: provider.name.to_string(),
        model: target.model.to_string(),
        key: key.filter(|key| !key.line.expose().is_empty()).map(|key| key.name.to_string()),
        pinned: target.pinned,
        url: format!("{scheme}://{}{}", provider.authority, provider.path(asked.endpoint.path())),
        fallback,
        timeouts: Timeouts {
            connect_ms: ms(timeouts.connect),
            first_byte_ms: ms(timeouts.first_byte),
            first_token_ms: plan.terms.timeouts.first_token.map(ms),
            between_bytes_ms: ms(timeouts.between_bytes),
            total_ms: ms(timeouts.total),
        },
        hold_back: Some(plan.terms.hold_back(provider))
            .filter(|held| asked.stream && held.events > 0)
            .map(|held| HoldBack { events: held.events, ms: ms(held.time) }),
        hedge_percentile: Some(plan.terms.hedge_percentile(provider))
            .filter(|percent| asked.stream && *percent > 0),
        keep_alive: snapshot
            .relay
            .keep_alive_for(plan.terms.keep_alive, provider.keep_alive)
            .filter(|_| asked.stream)
            .map(|every| KeepAlive { every_ms: ms(every), commits: plan.terms.keep_alive_commits }),
        health_check: provider
            .health_check
            .as_ref()
            .map(|check| HealthCheck { path: check.path.to_string(), interval_ms: ms(check.interval) }),
    }
}

/// What the target would be sent.
fn request(target: &Planned<'_>, asked: &Asked<'_>, head: &RequestHead, bytes: &[u8]) -> Request {
    let provider = target.provider;
    let line = provider.keys.get(usize::from(target.key)).map_or(&b""[..], |key| key.line.expose());
    let credential_line = masked(line);
    let to = To { opening: &provider.opening, credential_line: &credential_line };
    let mut out = Vec::new();
    let _ = upstream_head::write(&mut out, to, asked.endpoint, head, bytes, 0, None);
    let text = String::from_utf8_lossy(&out);
    let lines = text.split("\r\n").filter(|line| !line.is_empty());
    let head = lines.map(|line| match line.split_once(':') {
        // The body here is not the client's.
        Some(("content-length", _)) => "content-length: [as the body]".to_owned(),
        _ => line.to_owned(),
    });
    let mut body = Vec::new();
    if target.model != asked.model {
        body.push(format!("model becomes {}", target.model));
    }
    if provider.inject_usage && asked.stream && asked.endpoint.takes_stream_options() {
        body.push("stream_options.include_usage is added where it is missing".to_owned());
    }
    Request { head: head.collect(), body }
}

/// A credential's field without what is secret in it.
fn masked(line: &[u8]) -> Vec<u8> {
    match line.iter().position(|byte| *byte == b':') {
        Some(colon) => [&line[..colon], b": [secret]\r\n"].concat(),
        None => Vec::new(),
    }
}
