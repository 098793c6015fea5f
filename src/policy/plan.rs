//! The plan of a request: the targets to try, in order, and on which terms.
//!
//! What a client asks for (an alias, `dynamic/<route>`, or `{provider}/{model}`) leads to targets; those that are known to
//! fail are left out, those that are just back take their share, and the rest is a matter of balance. The same facts, the
//! same health and the same number of chance make the same plan.

use std::borrow::Cow;

use smallvec::SmallVec;

use super::{
    condition::{Dice, Facts, Path, Told, sticky_key, walk},
    health::{Health, Standing, TargetKey},
    route::{self, NoRoute, Target},
};
use crate::{
    base::{ids::mix, now::Now},
    config::{
        Provider, ProviderPlace, Snapshot,
        routes::{Aim, Balance, DYNAMIC, Lead, Leads, Route, Service, Terms},
    },
    wire::{metadata::Metadata, model_name::is_model_name},
};

/// Where a request goes.
#[derive(Debug)]
pub struct Plan<'a> {
    /// To be tried in this order. Empty only if none takes requests now: [`Plan::retry_after_ms`] says when one will.
    pub targets: SmallVec<[Planned<'a>; 4]>,
    pub terms: &'a Terms,
    /// The route that was taken, if one was asked for.
    pub route: Option<&'a Route>,
    /// The nodes of its tree that were passed: [`Routes::words`](crate::config::routes::Routes::words) tells them.
    pub path: Path,
    /// Where in its route the service stands, such as `else.split[1]`; empty at the root and without a route.
    pub branch: &'a str,
    /// The soonest that a target left out takes requests again; `None` if none was left out.
    pub retry_after_ms: Option<u64>,
}

/// One target of a plan.
#[derive(Clone, Debug)]
pub struct Planned<'a> {
    pub place: ProviderPlace,
    pub provider: &'a Provider,
    /// Index into the provider's keys.
    pub key: u16,
    /// The configuration names the key: no other may be used instead.
    pub pinned: bool,
    /// What the provider calls the model.
    pub model: Cow<'a, str>,
    pub health: TargetKey,
    /// Never `Open`. If `Probe`, whoever tries it has to take the probe first.
    pub standing: Standing,
    order: Order,
}

/// Smaller is sooner: just back and not in its share; a fallback; by balance; as listed.
type Order = (bool, bool, u64, u16);

impl Planned<'_> {
    pub fn target(&self) -> Target<'_, '_> {
        Target { place: self.place, provider: self.provider, key: self.key, model: &self.model }
    }
}

/// Plans a request. Of `facts`, only what decides is looked at.
pub fn plan<'a>(
    snapshot: &'a Snapshot,
    facts: &Facts<'a, '_, '_>,
    chance: u64,
    health: &impl Health,
    now: Now,
) -> Result<Plan<'a>, NoRoute> {
    let mut plan = Plan::default();
    plan.lay(snapshot, facts, chance, health, now)?;
    Ok(plan)
}

impl<'a> Plan<'a> {
    /// The same in its place, for who plans one request after the other: a plan is half a kilobyte. It has to be a fresh one,
    /// and is of no use if this fails.
    ///
    /// # Errors
    /// Why the model leads nowhere.
    pub fn lay(
        &mut self,
        snapshot: &'a Snapshot,
        facts: &Facts<'a, '_, '_>,
        chance: u64,
        health: &impl Health,
        now: Now,
    ) -> Result<(), NoRoute> {
        debug_assert!(self.targets.is_empty(), "a plan is laid once");
        let way = way(snapshot, facts.model)?;
        let mut builder = Builder { snapshot, health, now, dice: Dice::new(chance), plan: self };
        match way {
            Way::Direct(first) => {
                let service = snapshot.routes.fallback(&first.provider.name, &first.model);
                builder.add(first, false);
                if let Some(service) = service {
                    builder.plan.terms = &service.terms;
                    builder.add_fallbacks(service);
                }
            }
            Way::Route(route) => match facts.metadata {
                Told::Read(metadata) => builder.follow(route, facts, metadata)?,
                Told::Raw(Some(raw)) if route.reads_metadata => {
                    let metadata = Metadata::parse(raw).map_err(NoRoute::BadMetadata)?;
                    builder.follow(route, facts, &metadata)?;
                }
                Told::Raw(_) => builder.follow(route, facts, &Metadata::default())?,
            },
        }
        self.targets.sort_unstable_by_key(|target| target.order);
        Ok(())
    }
}

/// The route that this name leads to, if it leads to one.
pub fn route_of<'a>(snapshot: &'a Snapshot, asked: &'a str) -> Option<&'a Route> {
    match way(snapshot, asked) {
        Ok(Way::Route(route)) => Some(route),
        _ => None,
    }
}

/// Where a name leads, before anything else of the request is looked at.
enum Way<'a> {
    Route(&'a Route),
    Direct(Planned<'a>),
}

fn way<'a>(snapshot: &'a Snapshot, asked: &'a str) -> Result<Way<'a>, NoRoute> {
    let routes = &snapshot.routes;
    let lead = |leads| lead(snapshot, asked, Lead { leads, rest: "", before: asked.len() });
    if let Some(leads) = routes.aliases.exact(asked) {
        return lead(leads);
    }
    if let Some(name) = asked.strip_prefix(DYNAMIC) {
        return routes.route(name).map(Way::Route).ok_or(NoRoute::UnknownRoute);
    }
    let direct = route::target(snapshot, asked);
    let is_address = !matches!(direct, Err(NoRoute::NoProvider | NoRoute::UnknownProvider));
    if let Some(found) = routes.aliases.pattern(asked, is_address) {
        return self::lead(snapshot, asked, found);
    }
    direct.map(|target| Way::Direct(Planned::of(target)))
}

/// Where an alias leads.
fn lead<'a>(snapshot: &'a Snapshot, asked: &'a str, lead: Lead<'a, 'a>) -> Result<Way<'a>, NoRoute> {
    match lead.leads {
        Leads::Route(index) => snapshot.routes.at(*index).map(Way::Route).ok_or(NoRoute::UnknownRoute),
        Leads::Target(aim) => Planned::at(snapshot, aim).map(Way::Direct).ok_or(NoRoute::UnknownProvider),
        Leads::Under { place, start } => {
            let provider = snapshot.providers.get(usize::from(place.0)).ok_or(NoRoute::UnknownProvider)?;
            // Most often the name is the model's: then nothing is put together.
            let model = match asked[..lead.before].strip_suffix(&**start) {
                Some(before) => Cow::Borrowed(&asked[before.len()..]),
                None => Cow::Owned(format!("{start}{}", lead.rest)),
            };
            if !is_model_name(model.as_bytes()) {
                return Err(NoRoute::NoProvider);
            }
            if provider.keys.is_empty() {
                return Err(NoRoute::NoKey);
            }
            Ok(Way::Direct(Planned::new(*place, provider, 0, model)))
        }
    }
}

impl<'a> Planned<'a> {
    fn new(place: ProviderPlace, provider: &'a Provider, key: u16, model: Cow<'a, str>) -> Self {
        let health = provider.on_board(key, Some(&model));
        let (standing, order) = (Standing::Closed, Order::default());
        Self { place, provider, key, pinned: false, model, health, standing, order }
    }

    fn of(target: Target<'a, 'a>) -> Self {
        Self::new(target.place, target.provider, target.key, Cow::Borrowed(target.model))
    }

    /// What the configuration names. `None` only for an aim of another snapshot.
    fn at(snapshot: &'a Snapshot, aim: &'a Aim) -> Option<Self> {
        Some(Self {
            place: aim.place,
            provider: snapshot.providers.get(usize::from(aim.place.0))?,
            key: aim.key,
            pinned: aim.pinned,
            model: Cow::Borrowed(aim.model()),
            health: aim.health,
            standing: Standing::Closed,
            order: Order::default(),
        })
    }
}

impl Default for Plan<'_> {
    fn default() -> Self {
        Self {
            targets: SmallVec::new(),
            terms: &Terms::UNSAID,
            route: None,
            path: Path::new(),
            branch: "",
            retry_after_ms: None,
        }
    }
}

/// A plan while it is made.
struct Builder<'a, 'h, 'p, H> {
    snapshot: &'a Snapshot,
    health: &'h H,
    now: Now,
    dice: Dice,
    plan: &'p mut Plan<'a>,
}

impl<'a, H: Health> Builder<'a, '_, '_, H> {
    fn follow(
        &mut self,
        route: &'a Route,
        facts: &Facts<'a, '_, '_>,
        metadata: &Metadata<'_>,
    ) -> Result<(), NoRoute> {
        let routes = &self.snapshot.routes;
        let found = walk(routes, route, facts, metadata, &mut self.dice);
        debug_assert!(found.is_some(), "a route's tree is in the same snapshot");
        let (service, path) = found.ok_or(NoRoute::UnknownRoute)?;
        let last = path.last().and_then(|last| routes.spots.get(*last as usize));
        self.plan.branch = last.map_or("", |spot| &*spot.place);
        self.plan.path = path;
        self.plan.route = Some(route);
        self.plan.terms = &service.terms;
        self.add_own(service, facts, metadata);
        self.add_fallbacks(service);
        Ok(())
    }

    /// The targets among which the service chooses.
    fn add_own(&mut self, service: &'a Service, facts: &Facts<'a, '_, '_>, metadata: &Metadata<'_>) {
        let aims = self.snapshot.routes.targets.get(service.own.clone()).unwrap_or_default();
        let sticky = match &service.balance {
            // What has no key is spread.
            Balance::Sticky(by) => sticky_key(by, facts, metadata).unwrap_or_else(|| self.dice.next()),
            _ => 0,
        };
        for aim in aims {
            let Some(mut target) = Planned::at(self.snapshot, aim) else { continue };
            // One number each, taken once: what all cores change must not change in the middle of sorting.
            target.order.2 = match &service.balance {
                Balance::Weighted if aims.len() == 1 => 0,
                // The order of -ln(u)/w is that of drawing by weight again and again without putting back.
                Balance::Weighted => (-self.dice.fraction().ln() / f64::from(aim.weight)).to_bits(),
                Balance::LeastInFlight => {
                    u64::from(self.health.in_flight(aim.health)) << 32 | self.dice.next() >> 32
                }
                // `+ 0.0`: never the negative zero, whose bits are large.
                Balance::Cheapest => aim.price.map_or(u64::MAX, |price| (price + 0.0).to_bits()),
                // The highest of hashes of key and target: without it, the second highest, and nobody else moves.
                Balance::Sticky(_) => !mix(sticky ^ aim.number),
                Balance::Fastest => 2,
            };
            self.add(target, false);
        }
        if service.balance == Balance::Fastest {
            self.prefer_the_faster();
        }
    }

    /// Takes two by chance, and puts the faster first and the other second. One whose time is unknown is taken for fast,
    /// so that it becomes known.
    fn prefer_the_faster(&mut self) {
        let able = self.plan.targets.iter().filter(|target| !target.order.0).count();
        if able < 2 {
            return;
        }
        let bound = able as u64;
        let one = self.dice.below(bound);
        let other = (one + 1 + self.dice.below(bound - 1)) % bound;
        let health = self.health;
        let pair = self.plan.targets.iter_mut().filter(|target| !target.order.0).zip(0_u64..);
        let mut pair =
            pair.filter(|(_, number)| *number == one || *number == other).map(|(target, _)| target);
        if let (Some(a), Some(b)) = (pair.next(), pair.next()) {
            let time = |target: &Planned<'_>| health.first_token_us(target.health).unwrap_or(0);
            let (time_a, time_b) = (time(a), time(b));
            // Equally fast: as chance took them.
            let first = if time_a == time_b { one < other } else { time_a < time_b };
            (a.order.2, b.order.2) = if first { (0, 1) } else { (1, 0) };
        }
    }

    fn add_fallbacks(&mut self, service: &'a Service) {
        let aims = self.snapshot.routes.targets.get(service.fallbacks.clone()).unwrap_or_default();
        for aim in aims {
            if let Some(target) = Planned::at(self.snapshot, aim) {
                self.add(target, true);
            }
        }
    }

    /// Puts a target behind those there are, unless it is there already or is known to fail.
    fn add(&mut self, mut target: Planned<'a>, is_fallback: bool) {
        if self.plan.targets.iter().any(|other| other.health == target.health) {
            return;
        }
        // A provider that is down by its check is as good as an open breaker of each of its targets.
        target.standing = match self.health.down_ms(target.provider.id, self.now) {
            Some(retry_after_ms) => Standing::Open { retry_after_ms },
            None => self.health.verdict(target.health, self.now),
        };
        let waits = match target.standing {
            Standing::Open { retry_after_ms } => {
                let soonest = self.plan.retry_after_ms.unwrap_or(u64::MAX);
                self.plan.retry_after_ms = Some(soonest.min(retry_after_ms));
                return;
            }
            Standing::Ramp(share) => self.dice.below(100) >= u64::from(share),
            Standing::Closed | Standing::Probe => false,
        };
        target.order.0 = waits;
        target.order.1 = is_fallback;
        target.order.3 = u16::try_from(self.plan.targets.len()).unwrap_or(u16::MAX);
        self.plan.targets.push(target);
    }
}

#[cfg(any(test, feature = "fuzzing"))]
mod fuzz;
#[cfg(any(test, feature = "fuzzing"))]
pub use fuzz::fuzz_route;

#[cfg(test)]
mod tests;
