//! The one decision over who may ask for what, in two stages: [`admit`] by the head alone, before a byte of body is read, and
//! [`entitle`] when the body has said what it wants, before anything is sent.
//!
//! Each stage returns a proof that the next step of the exchange demands by type. The default is to deny: what cannot be known
//! (no table of callers, a forwarded address that cannot be read) is refused, and never let through.

use std::net::IpAddr;

use smallvec::SmallVec;

use super::{
    address,
    credential::{Presented, presented},
    plan::{Plan, Planned, route_of},
    price::{self, Used},
    quota::Quota,
    spending::{Demand, Part, Spending, part_of},
};
use crate::{
    base::{
        glob::any_or_all,
        ids::Line,
        limits::{COMPLETION_TOKENS_ESTIMATE, PROMPT_TOKENS_ESTIMATE_MAX},
        money::NanoUsd,
        now::Now,
    },
    config::{
        Snapshot,
        allowance::Allowance,
        callers::{Caller, Callers},
        price::Price,
        quotas,
    },
    wire::{
        http1::head::RequestHead,
        metadata::{self, Metadata},
        openai::{endpoint::Endpoint, rate_headers::RateHeaders, refusal::Refusal},
        token::Memo,
    },
};

/// Who knocks: what is known once the head has been read.
#[derive(Clone, Copy)]
pub struct Knock<'a> {
    /// The other end of the connection, or whom its PROXY header names.
    pub peer: IpAddr,
    pub head: &'a RequestHead,
    /// What `head` was parsed from.
    pub bytes: &'a [u8],
    /// `None`: a path that is not served. Nobody is told so who may not call at all.
    pub endpoint: Option<Endpoint>,
    /// What its connection showed before.
    pub memo: &'a Memo,
    pub now: Now,
    pub unix_ms: u64,
}

/// The proof that a request may have its body read.
pub struct Admitted<'a, 's, Q: Quota> {
    /// `None`: callers are not verified here.
    caller: Option<&'s Caller>,
    body_bytes_max: usize,
    spending: &'a mut Spending<'s, Q>,
    /// What will be asked for tokens and streams.
    applied: SmallVec<[(Line, &'s Allowance); 3]>,
}

/// Who turned out to be there, as far as it came out.
#[derive(Clone, Copy, Default)]
pub struct Visitor<'s> {
    /// The client's address, as far as trusted proxies tell it.
    pub address: Option<IpAddr>,
    /// Has shown its token, whether or not it may do what it wants.
    pub caller: Option<&'s Caller>,
}

/// What a request wants, once its body has been read.
#[derive(Clone, Copy)]
pub struct Want<'a> {
    pub endpoint: Endpoint,
    /// As the client named it.
    pub model: &'a str,
    pub stream: bool,
    pub n: Option<u32>,
    pub max_tokens: Option<u64>,
    /// What the prompt is taken to have.
    pub prompt_tokens: u64,
    /// The head's fields again, for the metadata.
    pub head: &'a RequestHead,
    pub bytes: &'a [u8],
    pub now: Now,
    pub unix_ms: u64,
}

/// The proof that a caller may have what it wants, of any of the plan's targets.
pub struct Entitled<'a, 's, 'p, Q: Quota> {
    spending: &'a mut Spending<'s, Q>,
    plan: &'a Plan<'p>,
    demand: Demand,
    /// Of the target that is asked.
    price: Option<&'a Price>,
    prompt_tokens: u64,
    /// How much of what was taken is the request's own, and not an attempt's.
    own: usize,
}

/// Where the limits of a second attempt begin among all that an exchange holds.
#[derive(Debug)]
#[must_use = "one of two attempts has to give back what it holds"]
pub struct Beside(usize);

/// May this request be read? `spending` takes what that costs of limits, or has nothing of them any more. `told` becomes what
/// the client is to hear of its limits, and `visitor` who it is, whatever the verdict.
///
/// # Errors
/// Why not: 401 or 403 for who asks, 429 for how often, 503 where it cannot be known.
pub fn admit<'a, 's, Q: Quota>(
    snapshot: &'s Snapshot,
    callers: Option<&'s Callers>,
    spending: &'a mut Spending<'s, Q>,
    knock: Knock<'_>,
    told: &mut RateHeaders,
    visitor: &mut Visitor<'s>,
) -> Result<Admitted<'a, 's, Q>, Refusal> {
    let mut admitted = Admitted {
        caller: None,
        body_bytes_max: snapshot.limits.body_bytes,
        spending,
        applied: SmallVec::new(),
    };
    let verdict = admitted.judge(snapshot, callers, knock, visitor);
    visitor.caller = admitted.caller;
    *told = admitted.spending.told();
    if let Err(refusal) = verdict {
        admitted.spending.give_back(0);
        return Err(refusal);
    }
    admitted.spending.count_requests();
    Ok(admitted)
}

impl<'s, Q: Quota> Admitted<'_, 's, Q> {
    /// Address, caller, rates: in the order in which each protects the next.
    fn judge(
        &mut self,
        snapshot: &'s Snapshot,
        callers: Option<&'s Callers>,
        knock: Knock<'_>,
        visitor: &mut Visitor<'_>,
    ) -> Result<(), Refusal> {
        let forwarded = knock.head.fields.iter().filter_map(|field| {
            let is_forwarded = field.name.of(knock.bytes).eq_ignore_ascii_case(b"x-forwarded-for");
            is_forwarded.then(|| field.value.of(knock.bytes))
        });
        let address = address::client(knock.peer, forwarded, &snapshot.access.trusted_proxies)
            .map_err(|_| Refusal::AddressNotAllowed)?;
        visitor.address = Some(address);
        if !snapshot.access.list.permits(address) {
            return Err(Refusal::AddressNotAllowed);
        }
        // Before the token is looked at: who guesses tokens is limited too.
        if let Some(allowance) = &snapshot.quotas.address {
            let line = self.spending.hold("address", &octets(address), knock.now);
            self.apply(line, allowance, knock)?;
            // For good, whatever comes now: a guess that is refused is one of them.
            self.spending.count_requests();
        }
        if snapshot.auth.required {
            let caller = authenticate(callers, knock)?;
            self.caller = Some(caller);
            restricted(caller, address, knock.endpoint)?;
            let cap = caller.caps.body_bytes_max.and_then(|cap| usize::try_from(cap).ok());
            self.body_bytes_max = self.body_bytes_max.min(cap.unwrap_or(usize::MAX));
        }
        // After the token: nobody's guesses use up what belongs to all.
        if let Some(gateway) = &snapshot.quotas.gateway {
            self.apply(gateway.line, &gateway.allowance, knock)?;
        }
        if let Some(caller) = self.caller
            && !caller.allowance.limits.is_empty()
        {
            self.apply(caller.line, &caller.allowance, knock)?;
        }
        Ok(())
    }

    fn apply(&mut self, line: Line, allowance: &'s Allowance, knock: Knock<'_>) -> Result<(), Refusal> {
        if allowance.limits.iter().any(|limit| part_of(limit.measure()) == Part::Content) {
            self.applied.push((line, allowance));
        }
        let Knock { now, unix_ms, .. } = knock;
        let demand = Demand { part: Part::Requests, tokens: 0, nano_usd: None, stream: false, now, unix_ms };
        self.spending.take(line, allowance, demand)
    }

    /// Who calls; `None` where callers are not verified.
    pub fn caller(&self) -> Option<&'s Caller> {
        self.caller
    }

    /// The largest body this request may have.
    pub fn body_bytes_max(&self) -> usize {
        self.body_bytes_max
    }

    /// Whether a model of that name may be seen, and asked for: by the same rule as a request for it.
    pub fn may_use(&self, snapshot: &Snapshot, model: &str) -> bool {
        let route = |model| route_of(snapshot, model).map(|route| &*route.name);
        self.caller.is_none_or(|caller| may_take(caller, model, route(model)))
    }

    /// Whether no model is kept from it.
    pub fn sees_all_models(&self) -> bool {
        self.caller.is_none_or(|caller| caller.models.is_empty() && caller.routes.is_empty())
    }
}

/// May this caller have what it wants? `plan` is where that would come from; `told` becomes what the client is to hear of its
/// limits.
///
/// # Errors
/// 400 for metadata that cannot be read and for more than the caller's caps, 403 for the model, 429 for limits.
pub fn entitle<'a, 's, 'p, Q: Quota>(
    snapshot: &'s Snapshot,
    admitted: &'a mut Admitted<'_, 's, Q>,
    plan: &'a Plan<'p>,
    want: Want<'_>,
    told: &mut RateHeaders,
) -> Result<Entitled<'a, 's, 'p, Q>, Refusal> {
    let prompt_tokens = prompt_tokens(want);
    let answer_tokens = answer_tokens(want);
    let tokens = prompt_tokens.saturating_add(answer_tokens);
    // Reserved at the first target's price; settled at that of the one which answers.
    let price = plan.targets.first().and_then(|first| first.provider.prices.of(&first.model));
    let nano_usd = cost_of(price, prompt_tokens, answer_tokens);
    let Want { now, unix_ms, stream, .. } = want;
    let demand = Demand { part: Part::All, tokens, nano_usd, stream, now, unix_ms };
    let route = plan.route.map(|route| &*route.name);
    let verdict = within(snapshot, admitted, want, route, demand);
    *told = admitted.spending.told();
    verdict?;
    admitted.spending.count_requests();
    let own = admitted.spending.mark();
    Ok(Entitled { spending: admitted.spending, plan, demand, price, prompt_tokens, own })
}

impl<'a, 'p, Q: Quota> Entitled<'a, '_, 'p, Q> {
    /// Where the request may be sent.
    pub fn plan(&self) -> &'a Plan<'p> {
        self.plan
    }

    /// May this target be asked once more? Its provider's limits are everyone's together, and count each attempt; what the
    /// attempt before held of them is given back first.
    pub fn attempt(&mut self, planned: &Planned<'a>, now: Now) -> Result<(), Refusal> {
        self.price = planned.provider.prices.of(&planned.model);
        let spending = &mut *self.spending;
        spending.give_back(self.own);
        let Some(numbered) = &planned.provider.allowance else { return Ok(()) };
        spending.take(numbered.line, &numbered.allowance, Demand { now, ..self.demand })?;
        spending.count_requests();
        Ok(())
    }

    /// May this target be asked beside the one that is? Says where what it holds of its provider's limits begins.
    pub fn attempt_beside(&mut self, planned: &Planned<'a>, now: Now) -> Result<Beside, Refusal> {
        let spending = &mut *self.spending;
        let beside = Beside(spending.mark());
        if let Some(numbered) = &planned.provider.allowance {
            let taken = spending.take(numbered.line, &numbered.allowance, Demand { now, ..self.demand });
            if let Err(refusal) = taken {
                spending.give_back(beside.0);
                return Err(refusal);
            }
            spending.count_requests_from(beside.0);
        }
        Ok(beside)
    }

    /// The target that was asked first goes on alone: what the other held is given back.
    pub fn keep_first(&mut self, beside: Beside) {
        self.spending.give_back(beside.0);
    }

    /// The target that was asked beside it, this one, goes on alone: what the first held is given back.
    pub fn keep_beside(&mut self, planned: &Planned<'a>, beside: Beside) {
        self.price = planned.provider.prices.of(&planned.model);
        self.spending.give_back_between(self.own, beside.0);
    }

    /// A stream has brought so many events. Whether a limit ends it here.
    pub fn streamed(&mut self, events: u64, now: Now) -> bool {
        // An event carries about a token; what it really was is settled at the end.
        let (price, prompt) = (self.price, self.prompt_tokens);
        let cost = || cost_of(price, prompt, events);
        self.spending.used_so_far(prompt.saturating_add(events), cost, now)
    }

    /// What the prompt was taken to have.
    pub fn prompt_tokens(&self) -> u64 {
        self.prompt_tokens
    }

    /// What the target's tokens cost; `None`: it has no price.
    pub fn price(&self) -> Option<&'a Price> {
        self.price
    }

    /// What these tokens cost of the target; `None`: it has no price.
    pub fn cost(&self, used: Used) -> Option<NanoUsd> {
        price::cost(self.price?, used)
    }

    /// What the exchange has used, if it is known, and what that cost: what was reserved is corrected. Unknown, it stays
    /// charged; what has no price is not counted in money.
    pub fn settle(&mut self, tokens: Option<u64>, cost: Option<NanoUsd>, now: Now) {
        match tokens {
            Some(tokens) => self.spending.settle(tokens, cost, now),
            None => self.spending.forfeit(),
        }
    }
}

fn within<'s, Q: Quota>(
    snapshot: &'s Snapshot,
    admitted: &mut Admitted<'_, 's, Q>,
    want: Want<'_>,
    route: Option<&str>,
    all: Demand,
) -> Result<(), Refusal> {
    if let Some(caller) = admitted.caller {
        if !may_take(caller, want.model, route) {
            return Err(Refusal::ModelNotAllowed { model: want.model.into() });
        }
        capped(caller, want)?;
    }
    let content = Demand { part: Part::Content, ..all };
    let Admitted { applied, spending, .. } = admitted;
    for (line, allowance) in applied.iter() {
        spending.take(*line, allowance, content)?;
    }
    if let Some(allowance) = quotas::first(&snapshot.quotas.models, want.model) {
        let line = spending.hold("model", want.model.as_bytes(), want.now);
        spending.take(line, allowance, all)?;
    }
    if snapshot.quotas.metadata.is_empty() {
        return Ok(());
    }
    let metadata = metadata_of(want.head, want.bytes)?;
    for (key, allowance) in &snapshot.quotas.metadata {
        if let Some(value) = metadata.get(key) {
            let line = spending.hold(key, value.name().as_bytes(), want.now);
            spending.take(line, allowance, all)?;
        }
    }
    Ok(())
}

/// The request's metadata as it was sent; `None` where there is none.
///
/// # Errors
/// It was sent twice.
pub fn metadata_field<'b>(head: &RequestHead, bytes: &'b [u8]) -> Result<Option<&'b [u8]>, Refusal> {
    for field in metadata::FIELDS {
        match head.only(bytes, field) {
            Ok(None) => {}
            Ok(Some(value)) => return Ok(Some(value)),
            Err(_) => return Err(bad_metadata("The routing metadata is sent twice.")),
        }
    }
    Ok(None)
}

/// What is said of metadata that cannot be read. It is never taken for "none".
pub fn bad_metadata(why: &'static str) -> Refusal {
    Refusal::BadBody { message: why.into(), param: None, code: "invalid_metadata" }
}

/// The request's metadata; empty where there is none.
pub fn metadata_of<'b>(head: &RequestHead, bytes: &'b [u8]) -> Result<Metadata<'b>, Refusal> {
    match metadata_field(head, bytes)? {
        None => Ok(Metadata::default()),
        Some(value) => Metadata::parse(value).map_err(|bad| bad_metadata(bad.reason())),
    }
}

fn authenticate<'s>(callers: Option<&'s Callers>, knock: Knock<'_>) -> Result<&'s Caller, Refusal> {
    let callers = callers.ok_or(Refusal::CallersUnknown)?;
    match presented(&knock.head.fields, knock.bytes) {
        Presented::One(token) => {
            let authenticated = callers.authenticate_again(&token, knock.memo, knock.unix_ms);
            authenticated.map_err(|_| Refusal::InvalidKey)
        }
        Presented::None => Err(Refusal::MissingKey),
        Presented::Conflict | Presented::Malformed => Err(Refusal::InvalidKey),
    }
}

/// Refuses a caller where it may not call from, and what it may not call.
///
/// # Errors
/// 403, for the one or the other.
pub fn restricted(caller: &Caller, address: IpAddr, endpoint: Option<Endpoint>) -> Result<(), Refusal> {
    if !caller.access.as_ref().is_none_or(|list| list.permits(address)) {
        return Err(Refusal::AddressNotAllowed);
    }
    match (caller.endpoints, endpoint) {
        (Some(allowed), Some(endpoint)) if !allowed.contains(endpoint) => Err(Refusal::EndpointNotAllowed),
        _ => Ok(()),
    }
}

/// A route is allowed by its own name, everything else by the model's.
fn may_use(caller: &Caller, model: &str) -> bool {
    match model.strip_prefix("dynamic/") {
        Some(route) => any_or_all(&caller.routes, route),
        None => any_or_all(&caller.models, model),
    }
}

/// Whether a model that was asked for by this name, and led to this route if it led to one, may be used: a route is the same
/// under every name.
pub fn may_take(caller: &Caller, model: &str, route: Option<&str>) -> bool {
    route.map_or_else(|| may_use(caller, model), |route| any_or_all(&caller.routes, route))
}

/// Refuses what asks for more than the caller's caps. A cap on tokens has to be met by saying a number: what a provider does
/// without one is not known here.
///
/// # Errors
/// 400, for the first of them.
pub fn capped(caller: &Caller, want: Want<'_>) -> Result<(), Refusal> {
    let over = |param: &'static str, most: u64, why: &str| {
        Err(Refusal::BadBody {
            message: format!("{why} This API key may ask for at most {most}.").into(),
            param: Some(param.into()),
            code: "invalid_value",
        })
    };
    if let Some(most) = caller.caps.n_max
        && want.n.unwrap_or(1) > most
    {
        return over("n", u64::from(most), "'n' is too large.");
    }
    if let Some(most) = caller.caps.max_tokens_max
        && want.endpoint.generates_text()
    {
        return match want.max_tokens {
            Some(asked) if asked <= most => Ok(()),
            Some(_) => over("max_tokens", most, "'max_tokens' is too large."),
            None => over("max_tokens", most, "'max_tokens' is required."),
        };
    }
    Ok(())
}

/// What a request is taken to cost before it is known.
pub fn estimated_tokens(want: Want<'_>) -> u64 {
    prompt_tokens(want).saturating_add(answer_tokens(want))
}

fn prompt_tokens(want: Want<'_>) -> u64 {
    want.prompt_tokens.clamp(1, PROMPT_TOKENS_ESTIMATE_MAX)
}

fn cost_of(price: Option<&Price>, prompt: u64, completion: u64) -> Option<NanoUsd> {
    price::cost(price?, Used { prompt, completion, ..Used::default() })
}

/// What an answer is taken to cost before it is known; nobody has to say `max_tokens` for it.
fn answer_tokens(want: Want<'_>) -> u64 {
    if !want.endpoint.generates_text() {
        return 0;
    }
    let one = want.max_tokens.unwrap_or(COMPLETION_TOKENS_ESTIMATE);
    one.saturating_mul(u64::from(want.n.unwrap_or(1).max(1)))
}

fn octets(address: IpAddr) -> SmallVec<[u8; 16]> {
    match address {
        IpAddr::V4(v4) => SmallVec::from_slice(&v4.octets()),
        IpAddr::V6(v6) => SmallVec::from_slice(&v6.octets()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::{
        base::prefixes::AccessList,
        config::{
            self, Fake,
            callers::{Caps, Digests, Endpoints, tests::caller},
        },
        policy::{condition, health::calm::Calm, plan, quota::cells::Cells},
        wire::{
            http1::head::{HeadLimits, parse_request},
            token::{DigestKey, TokenId, render},
        },
    };

    const SECRET: [u8; 32] = [7; 32];
    const HOME: Ipv4Addr = Ipv4Addr::LOCALHOST;

    fn id() -> TokenId {
        TokenId::draw(&[1; 10])
    }

    fn callers(change: impl FnOnce(&mut Caller)) -> Callers {
        let key = DigestKey::new(&[9; 32]);
        let digests = Digests { current: key.digest_of(id(), &SECRET), former: None };
        let mut one = caller(id());
        change(&mut one);
        Callers::new(key, vec![(one, digests)]).expect("one differs from no other")
    }

    fn token() -> String {
        format!("authorization: Bearer {}\r\n", &*render(id(), &SECRET))
    }

    fn snapshot(more: &str) -> Snapshot {
        let provider = "[[provider]]\nname = \"p\"\nbase_url = \"http://127.0.0.1:1\"\nauth = \"none\"\n";
        let loaded = config::compile(&format!("{provider}{more}"), "t.toml", &Fake::default());
        loaded.unwrap_or_else(|complaints| panic!("{complaints}")).snapshot
    }

    const REQUIRED: &str = "[state]\ndir = \"/state\"\n[auth]\nrequired = true\n";

    /// The code of the refusal by head alone, or `""`.
    #[track_caller]
    fn knocks(snapshot: &Snapshot, callers: Option<&Callers>, lines: &str) -> &'static str {
        let head = format!("POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\n{lines}\r\n");
        let parsed = parse_request(head.as_bytes(), HeadLimits::default());
        let parsed = parsed.expect("a good head").expect("a whole head");
        let knock = Knock {
            peer: HOME.into(),
            head: &parsed,
            bytes: head.as_bytes(),
            endpoint: Some(Endpoint::ChatCompletions),
            memo: &Memo::default(),
            now: Now(1),
            unix_ms: 1_000,
        };
        let cells = Cells::default();
        let code = match admit(
            snapshot,
            callers,
            &mut Spending::new(&cells),
            knock,
            &mut RateHeaders::default(),
            &mut Visitor::default(),
        ) {
            Ok(_) => "",
            Err(refusal) => refusal.class().code,
        };
        assert!(cells.is_quiet(), "nothing is held by who was dropped");
        code
    }

    #[test]
    fn what_cannot_be_known_is_refused() {
        let required = snapshot(REQUIRED);
        assert_eq!(knocks(&required, None, &token()), "callers_unavailable");
        assert_eq!(knocks(&required, Some(&Callers::nobody()), &token()), "invalid_api_key");
        assert_eq!(knocks(&required, Some(&callers(|_| ())), ""), "invalid_api_key");
        assert_eq!(knocks(&required, Some(&callers(|_| ())), &token()), "");
        let trusting = snapshot("[access]\ntrusted_proxies = [\"127.0.0.1\"]\n");
        assert_eq!(knocks(&trusting, None, "x-forwarded-for: what\r\n"), "ip_not_allowed");
        assert_eq!(knocks(&trusting, None, "x-forwarded-for: 192.0.2.1\r\n"), "");
    }

    #[test]
    fn each_restriction_of_a_caller_holds() {
        let required = snapshot(REQUIRED);
        let check = |change: fn(&mut Caller), code| {
            assert_eq!(knocks(&required, Some(&callers(change)), &token()), code);
        };
        check(|caller| caller.enabled = false, "invalid_api_key");
        check(|caller| caller.expires_unix_ms = Some(1_000), "invalid_api_key");
        check(|caller| caller.expires_unix_ms = Some(1_001), "");
        check(
            |caller| caller.endpoints = Some(Endpoints::from_iter([Endpoint::Embeddings])),
            "endpoint_not_allowed",
        );
        check(
            |caller| {
                let elsewhere = "192.0.2.0/24".parse();
                caller.access = Some(Box::new(AccessList {
                    allow: Some(elsewhere.into_iter().collect()),
                    ..AccessList::default()
                }));
            },
            "ip_not_allowed",
        );
    }

    #[test]
    fn guesses_are_limited_by_address_and_cost_the_gateway_nothing() {
        let limits = "[[limit]]\nby = \"address\"\nrequests_per_day = 2\n[[limit]]\nby = \"gateway\"\nrequests_per_day = 1\n";
        let snapshot = snapshot(&format!("{REQUIRED}{limits}"));
        let (callers, cells) = (callers(|_| ()), Cells::default());
        let knocked = |lines: &str| {
            let head = format!("POST / HTTP/1.1\r\nhost: g\r\n{lines}\r\n");
            let parsed = parse_request(head.as_bytes(), HeadLimits::default()).expect("good").expect("whole");
            let knock = Knock {
                peer: HOME.into(),
                head: &parsed,
                bytes: head.as_bytes(),
                endpoint: None,
                memo: &Memo::default(),
                now: Now(1),
                unix_ms: 0,
            };
            let mut spending = Spending::new(&cells);
            let verdict = admit(
                &snapshot,
                Some(&callers),
                &mut spending,
                knock,
                &mut RateHeaders::default(),
                &mut Visitor::default(),
            );
            verdict.map_or_else(|refusal| refusal.class().status, |_| 200)
        };
        assert_eq!(knocked(""), 401);
        assert_eq!(knocked(&token()), 200);
        assert_eq!(knocked(&token()), 429);
    }

    /// What an entitled caller is refused for, and `""`.
    fn wants(
        change: impl FnOnce(&mut Caller),
        model: &str,
        n: Option<u32>,
        max_tokens: Option<u64>,
    ) -> String {
        let snapshot = snapshot(REQUIRED);
        let (callers, cells) = (callers(change), Cells::default());
        let head = format!("POST / HTTP/1.1\r\nhost: g\r\n{}\r\n", token());
        let parsed = parse_request(head.as_bytes(), HeadLimits::default()).expect("good").expect("whole");
        let (peer, bytes, now) = (HOME.into(), head.as_bytes(), Now(1));
        let knock =
            Knock { peer, head: &parsed, bytes, endpoint: None, memo: &Memo::default(), now, unix_ms: 0 };
        let told = &mut RateHeaders::default();
        let spending = &mut Spending::new(&cells);
        let mut admitted = admit(&snapshot, Some(&callers), spending, knock, told, &mut Visitor::default())
            .unwrap_or_else(|_| panic!());
        let facts = condition::Facts {
            model,
            stream: false,
            user: None,
            caller: None,
            tags: &[],
            header: &|_| None,
            metadata: condition::Told::Raw(None),
        };
        let plan = plan::plan(&snapshot, &facts, 0, &Calm::default(), now).expect("a plan");
        let endpoint = Endpoint::ChatCompletions;
        let want = Want {
            endpoint,
            model,
            stream: false,
            n,
            max_tokens,
            prompt_tokens: 10,
            head: &parsed,
            bytes,
            now,
            unix_ms: 0,
        };
        match entitle(&snapshot, &mut admitted, &plan, want, told) {
            Ok(_) => String::new(),
            Err(refusal) => refusal.class().code.to_owned(),
        }
    }

    #[test]
    fn a_second_attempt_does_not_meet_the_first_at_the_providers_limits() {
        let limits = "[[limit]]\nby = \"provider\"\nconcurrent_requests = 1\ntokens_per_day = 100000\n";
        let unlimited = snapshot("");
        let snapshot = snapshot(limits);
        let cells = Cells::default();
        let head = "POST / HTTP/1.1\r\nhost: g\r\n\r\n";
        let parsed = parse_request(head.as_bytes(), HeadLimits::default()).expect("good").expect("whole");
        let (peer, bytes, now, endpoint) = (HOME.into(), head.as_bytes(), Now(1), Endpoint::ChatCompletions);
        let knock = Knock {
            peer,
            head: &parsed,
            bytes,
            endpoint: Some(endpoint),
            memo: &Memo::default(),
            now,
            unix_ms: 0,
        };
        let told = &mut RateHeaders::default();
        let mut spending = Spending::new(&cells);
        let mut admitted = admit(&snapshot, None, &mut spending, knock, told, &mut Visitor::default())
            .unwrap_or_else(|_| panic!());
        let facts = condition::Facts {
            model: "p/a",
            stream: false,
            user: None,
            caller: None,
            tags: &[],
            header: &|_| None,
            metadata: condition::Told::Raw(None),
        };
        let plan = plan::plan(&snapshot, &facts, 0, &Calm::default(), now).expect("a plan");
        let target = plan.targets[0].clone();
        let want = Want {
            endpoint,
            model: "p/a",
            stream: false,
            n: None,
            max_tokens: Some(100),
            prompt_tokens: 10,
            head: &parsed,
            bytes,
            now,
            unix_ms: 0,
        };
        let mut entitled = entitle(&snapshot, &mut admitted, &plan, want, told).unwrap_or_else(|_| panic!());
        for _ in 0..3 {
            assert!(entitled.attempt(&target, now).is_ok());
        }
        // Beside it is another matter: there is one place, and what was refused of it took nothing.
        assert!(entitled.attempt_beside(&target, now).is_err());
        assert!(entitled.attempt(&target, now).is_ok());
        // A target without limits beside it, and back: whoever goes on alone holds what is its own.
        let mut free = target.clone();
        free.provider = &unlimited.providers[0];
        let beside = entitled.attempt_beside(&free, now).expect("it has no limits");
        entitled.keep_first(beside);
        assert!(entitled.attempt_beside(&target, now).is_err(), "the first still has its place");
        let beside = entitled.attempt_beside(&free, now).expect("it has no limits");
        entitled.keep_beside(&free, beside);
        let beside = entitled.attempt_beside(&target, now).expect("the first has left its place");
        entitled.keep_beside(&target, beside);
        assert!(entitled.attempt_beside(&target, now).is_err(), "the second has it now");
        drop(spending);
        assert!(cells.is_quiet());
    }

    #[test]
    fn models_and_caps_are_a_callers_own() {
        let globs = |caller: &mut Caller| caller.models = ["p/a*"].map(crate::base::glob::Glob::new).into();
        assert_eq!(wants(globs, "p/abc", None, None), "");
        assert_eq!(wants(globs, "p/b", None, None), "model_not_allowed");
        let caps = |caller: &mut Caller| {
            caller.caps = Caps { n_max: Some(1), max_tokens_max: Some(10), body_bytes_max: None };
        };
        assert_eq!(wants(caps, "p/a", None, Some(10)), "");
        assert_eq!(wants(caps, "p/a", Some(2), Some(10)), "invalid_value");
        assert_eq!(wants(caps, "p/a", None, Some(11)), "invalid_value");
        assert_eq!(wants(caps, "p/a", None, None), "invalid_value");
    }
}
