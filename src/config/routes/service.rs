//! A model service, a leaf of a route's tree: its targets, how one is chosen, and what is done when it fails.

use std::{ops::Range, time::Duration};

use toml::de::DeValue;

use super::{Draft, Known, condition::header_name, plain};
use crate::{
    base::{
        ids::{TargetKey, target_number},
        limits::{
            ATTEMPTS_CEILING, ATTEMPTS_MAX, CONFIG_TIME_MAX, MODEL_BYTES_MAX, SERVICE_TARGETS_MAX, TICK,
        },
    },
    config::{
        Provider, ProviderPlace, Timeouts,
        first_byte::{self, HoldBack},
        raw::{Field, Table, Text},
        relay::keep_alive,
        suggest::nearest,
    },
    wire::model_name::is_model_name,
};

/// A model service.
#[derive(Clone, Debug)]
pub struct Service {
    /// Indices into [`super::Routes::targets`]: those among which `balance` chooses.
    pub own: Range<usize>,
    /// The same, those that come after them in this order.
    pub fallbacks: Range<usize>,
    pub balance: Balance,
    pub terms: Terms,
}

/// A target that the configuration names.
#[derive(Clone, Debug)]
pub struct Aim {
    /// `{provider}/{model}`.
    pub name: Box<str>,
    model_at: usize, // <= name.len(), behind the slash
    pub place: ProviderPlace,
    /// Index into the provider's keys.
    pub key: u16,
    /// The configuration names the key: no other may be used instead.
    pub pinned: bool,
    pub weight: u32,
    pub price: Option<f64>,
    pub health: TargetKey,
    /// What sticks to it is found by this, in every process alike.
    pub number: u64,
}

impl Aim {
    /// What the provider calls the model.
    pub fn model(&self) -> &str {
        &self.name[self.model_at..]
    }
}

/// How one of several targets is chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Balance {
    /// By chance, in the proportion of the weights.
    Weighted,
    LeastInFlight,
    /// The faster to the first token of two taken by chance.
    Fastest,
    /// By price; what has none comes last.
    Cheapest,
    /// The same for the same key.
    Sticky(StickyBy),
}

/// What requests have in common that go the same way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StickyBy {
    /// `user` in the body.
    User,
    Caller,
    Header(Box<str>),
    Metadata(Box<str>),
}

/// How long and how often it is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Over all targets.
    pub attempts_max: u8,
    pub timeouts: RouteTimeouts,
    /// Another target may be tried after a request was sent and nothing came back: it may be billed twice.
    pub retry_unanswered: bool,
    /// Another target may be tried when a provider does not know the model.
    pub retry_missing_model: bool,
    /// How long the client of a stream is left without a byte, in place of the provider's; zero: as long as it takes.
    pub keep_alive: Option<Duration>,
    /// That holds before the first event too: the client is then told 200 before anybody has answered.
    pub keep_alive_commits: bool,
    /// In place of the provider's.
    pub hold_back: Option<HoldBack>,
    pub hedge_percentile: Option<u8>,
}

impl Terms {
    /// Those of a service of which nothing is configured.
    pub const UNSAID: Self = Self {
        attempts_max: ATTEMPTS_MAX,
        timeouts: RouteTimeouts {
            connect: None,
            first_byte: None,
            first_token: None,
            between_bytes: None,
            total: None,
        },
        retry_unanswered: true,
        retry_missing_model: false,
        hold_back: None,
        hedge_percentile: None,
        keep_alive: None,
        keep_alive_commits: false,
    };

    /// How much of a stream of this provider is held back.
    pub fn hold_back(&self, provider: &Provider) -> HoldBack {
        self.hold_back.unwrap_or(provider.hold_back)
    }

    /// After which percentile of its times to first token another target is asked beside this provider's; 0: never.
    pub fn hedge_percentile(&self, provider: &Provider) -> u8 {
        self.hedge_percentile.unwrap_or(provider.hedge_percentile)
    }
}

impl Default for Terms {
    fn default() -> Self {
        Self::UNSAID
    }
}

/// Timeouts in place of the provider's, where given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteTimeouts {
    pub connect: Option<Duration>,
    pub first_byte: Option<Duration>,
    /// To the first whole event of a stream; none by default.
    pub first_token: Option<Duration>,
    pub between_bytes: Option<Duration>,
    pub total: Option<Duration>,
}

impl RouteTimeouts {
    /// These where given, else the provider's.
    pub fn over(&self, provider: Timeouts) -> Timeouts {
        Timeouts {
            connect: self.connect.unwrap_or(provider.connect),
            first_byte: self.first_byte.unwrap_or(provider.first_byte),
            between_bytes: self.between_bytes.unwrap_or(provider.between_bytes),
            total: self.total.unwrap_or(provider.total),
        }
    }
}

/// The settings of a service, before it is known whether this is one.
pub(super) struct Settings<'a> {
    model: Option<Field<'a>>,
    targets: Option<Field<'a>>,
    others: Vec<(&'static str, Option<Field<'a>>)>,
}

impl<'a> Settings<'a> {
    pub(super) fn of(table: &mut Table<'a>) -> Self {
        let others = ["key", "fallbacks", "balance"].into_iter().chain(TERMS);
        Self {
            model: table.get("model"),
            targets: table.get("targets"),
            others: others.map(|key| (key, table.get(key))).collect(),
        }
    }

    /// Whether it is said what serves.
    pub(super) fn is_service(&self) -> bool {
        self.model.is_some() || self.targets.is_some()
    }

    /// Complains of every setting, where there is no service.
    pub(super) fn refuse(&self) {
        for (key, field) in &self.others {
            if let Some(field) = field {
                let fix = "put it beside a `model` or `targets`";
                field.complain(format!("`{key}` belongs to a model service"), fix);
            }
        }
    }

    fn take(&mut self, key: &str) -> Option<Field<'a>> {
        self.others.iter_mut().find(|(known, _)| *known == key).and_then(|(_, field)| field.take())
    }

    /// Reads the service. Complains of what is wrong, and then what is returned is not used.
    pub(super) fn read(
        mut self,
        table: &mut Table<'_>,
        sticky_by: Option<Field<'_>>,
        known: Known<'_>,
        draft: &mut Draft,
    ) -> Service {
        let balance = balance(table, self.take("balance"), sticky_by);
        // A balance that could not be read may have been any.
        let strays = Strays {
            weights: matches!(balance, None | Some(Balance::Weighted)),
            prices: matches!(balance, None | Some(Balance::Cheapest)),
        };
        let start = draft.targets.len();
        let key = self.take("key");
        match (self.model.take(), self.targets.take()) {
            (Some(model), targets) => {
                if let Some(targets) = targets {
                    targets.complain("there is a `model` already", "put all of them into `targets`");
                }
                let key = key.map(plain);
                if let (Some(model), None | Some(Some(_))) = (plain(model), &key) {
                    draft.targets.extend(known.aim(&model, key.flatten().as_ref()));
                }
            }
            (None, Some(targets)) => {
                if let Some(key) = key {
                    key.complain("each target has its own key", "{ model = …, key = … }");
                }
                aims(&targets, known, strays, start, draft);
            }
            (None, None) => {}
        }
        let between = draft.targets.len();
        if let Some(fallbacks) = self.take("fallbacks") {
            aims(&fallbacks, known, Strays::default(), start, draft);
        }
        let terms = terms(self.others);
        Service {
            own: start..between,
            fallbacks: between..draft.targets.len(),
            balance: balance.unwrap_or(Balance::Weighted),
            terms,
        }
    }
}

/// Which settings of a target mean something.
#[derive(Clone, Copy, Default)]
pub(super) struct Strays {
    weights: bool,
    prices: bool,
}

/// Adds a list of targets to the draft, in which none stands from `start` on already.
pub(super) fn aims(field: &Field<'_>, known: Known<'_>, strays: Strays, start: usize, draft: &mut Draft) {
    if !matches!(field.value(), DeValue::Array(_)) {
        field.complain(
            "this is not a list of targets",
            "write [\"provider/model\", { model = \"provider/model\", key = \"name\" }]",
        );
        return;
    }
    let items = field.items();
    if items.is_empty() {
        field.complain("there is no target in this list", "name one, or leave the list out");
    }
    if items.len() > SERVICE_TARGETS_MAX {
        field
            .complain("this list is too long", format!("at most {SERVICE_TARGETS_MAX} targets are possible"));
        return;
    }
    for item in items {
        let Some((text, aim)) = aim(item, known, strays) else { continue };
        if draft.targets[start..].iter().any(|other| other.health == aim.health) {
            text.complain("this target is here already", "leave it out");
        }
        draft.targets.push(aim);
    }
}

/// A target, given as a string or as a table, and what names its model.
fn aim<'a>(item: Field<'a>, known: Known<'_>, takes: Strays) -> Option<(Text<'a>, Aim)> {
    if let DeValue::String(_) = item.value() {
        let text = plain(item)?;
        let aim = known.aim(&text, None)?;
        return Some((text, aim));
    }
    let mut table = item.table()?;
    let model = table.get("model");
    if model.is_none() {
        table.complain("this target has no model", "model = \"provider/model\"");
    }
    let model = model.and_then(plain);
    let key = table.get("key").map(plain);
    let aim = match (&model, &key) {
        (Some(model), None) => known.aim(model, None),
        (Some(model), Some(Some(key))) => known.aim(model, Some(key)),
        _ => None,
    };
    let weight = table.get("weight");
    let price = table.get("price");
    for (field, takes, setting, balance) in
        [(&weight, takes.weights, "weight", "weighted"), (&price, takes.prices, "price", "cheapest")]
    {
        if let (Some(field), false) = (field, takes) {
            field.complain(
                format!("a {setting} counts only among the `targets` of balance = \"{balance}\""),
                "leave it out",
            );
        }
    }
    let weight = weight.and_then(|field| field.count(1..=1_000_000)).and_then(|n| u32::try_from(n).ok());
    let price = price.and_then(number);
    table.close();
    Some((model?, Aim { weight: weight.unwrap_or(1), price, ..aim? }))
}

/// A price: any unit will do that is the same for all.
fn number(field: Field<'_>) -> Option<f64> {
    let text = match field.value() {
        DeValue::Integer(number) if number.radix() == 10 => number.as_str(),
        DeValue::Float(number) => number.as_str(),
        _ => "",
    };
    let price = text.parse::<f64>().ok().filter(|price| price.is_finite() && *price >= 0.0);
    if price.is_none() {
        field.complain("this is not a price", "write a number from 0 on, without quotes");
    }
    price
}

impl Known<'_> {
    /// The target `{provider}/{model}`.
    pub(super) fn aim(self, text: &Text<'_>, key: Option<&Text<'_>>) -> Option<Aim> {
        let name = text.value.as_str();
        let (place, model_at) = self.provider(text, name)?;
        let provider = self.list.get(usize::from(place.0))?;
        if !is_model_name(name.as_bytes()) || model_at == name.len() {
            text.complain(
                format!("{} names no model", text.quoted()),
                format!("write provider/model, up to {MODEL_BYTES_MAX} of A-Z, a-z, 0-9 and ._:/@+,=-"),
            );
            return None;
        }
        let index = match key {
            None => 0,
            Some(key) => {
                let found = provider.keys.iter().position(|known| *known.name == *key.value.as_str());
                if found.is_none() {
                    let names: Vec<_> = provider.keys.iter().map(|key| &*key.name).collect();
                    let fix = match nearest(key.raw, names.iter().copied()) {
                        Some(near) => format!("did you mean \"{near}\"?"),
                        None => format!("its keys are: {}", names.join(", ")),
                    };
                    key.complain(format!("{} has no key {}", provider.name, key.quoted()), fix);
                }
                found?
            }
        };
        let key_name = provider.keys.get(index).map_or("", |key| &*key.name);
        Some(Aim {
            name: name.into(),
            model_at,
            place,
            key: u16::try_from(index).unwrap_or(0),
            pinned: key.is_some(),
            weight: 1,
            price: None,
            health: provider.on_board(u16::try_from(index).unwrap_or(0), Some(&name[model_at..])),
            number: target_number(&provider.name, key_name, &name[model_at..]),
        })
    }

    /// The provider that `name` begins with, and where its model begins; says what is wrong with `text` otherwise.
    pub(super) fn provider(self, text: &Text<'_>, name: &str) -> Option<(ProviderPlace, usize)> {
        let Some((provider, _)) = name.split_once('/') else {
            text.complain(
                format!("{} is a model without a provider", text.quoted()),
                "write it as provider/model, such as \"openai/gpt-4o\"",
            );
            return None;
        };
        let found = self.list.iter().position(|known| *known.name == *provider);
        // One with a mistake of its own is known all the same, and has been complained of.
        if found.is_none() && !self.taken.contains_key(provider) {
            let names: Vec<_> = self.list.iter().map(|provider| &*provider.name).collect();
            let (what, fix) = if provider == "dynamic" {
                ("a route cannot lead to another route".to_owned(), "name a provider's model".to_owned())
            } else {
                let fix = match nearest(provider, names.iter().copied()) {
                    Some(near) => format!("did you mean \"{near}/…\"?"),
                    None if names.is_empty() => "configure one: [[provider]]".to_owned(),
                    None => format!("the providers are: {}", names.join(", ")),
                };
                (format!("{} begins with no configured provider", text.quoted()), fix)
            };
            text.complain(what, fix);
        }
        Some((ProviderPlace(u16::try_from(found?).ok()?), provider.len() + 1))
    }
}

fn balance(table: &Table<'_>, field: Option<Field<'_>>, sticky_by: Option<Field<'_>>) -> Option<Balance> {
    const CHOICES: [(&str, Option<Balance>); 5] = [
        ("weighted", Some(Balance::Weighted)),
        ("least_in_flight", Some(Balance::LeastInFlight)),
        ("fastest", Some(Balance::Fastest)),
        ("cheapest", Some(Balance::Cheapest)),
        ("sticky", None),
    ];
    let words = CHOICES.each_ref().map(|(word, _)| (*word, *word));
    let word = match field {
        None => "weighted",
        Some(field) => field.text()?.choose(&words)?,
    };
    let choice = CHOICES.into_iter().find(|(known, _)| *known == word).and_then(|(_, choice)| choice);
    if let Some(balance) = choice {
        if let Some(field) = sticky_by {
            field.complain("nothing is sticky here", "balance = \"sticky\", or leave sticky_by out");
        }
        return Some(balance);
    }
    if sticky_by.is_none() {
        table.complain("it is not said by what requests stick together", "sticky_by = \"user\"");
    }
    sticky_by.and_then(StickyBy::read).map(Balance::Sticky)
}

impl StickyBy {
    pub(super) fn read(field: Field<'_>) -> Option<Self> {
        let text = plain(field)?;
        let word = text.value.as_str();
        if let Some(name) = word.strip_prefix("header.") {
            return match header_name(name) {
                Ok(name) => Some(Self::Header(name)),
                Err((what, fix)) => {
                    text.complain(what, fix);
                    None
                }
            };
        }
        match word.strip_prefix("metadata.") {
            Some("") => {
                text.complain("no key of the metadata is named", "sticky_by = \"metadata.user\"");
                None
            }
            Some(key) => Some(Self::Metadata(key.into())),
            None if word == "user" => Some(Self::User),
            None if word == "caller" => Some(Self::Caller),
            None => {
                text.complain(
                    format!("{} is nothing that requests have in common", text.quoted()),
                    "use \"user\", \"caller\", \"header.<name>\" or \"metadata.<key>\"",
                );
                None
            }
        }
    }
}

/// The settings of [`Terms`].
pub(super) const TERMS: [&str; 8] = [
    "attempts_max",
    "timeouts",
    "retry_unanswered",
    "retry_missing_model",
    "hold_back",
    "hedge_percentile",
    "keep_alive_secs",
    "keep_alive_commits",
];

pub(super) fn terms<'a>(settings: impl IntoIterator<Item = (&'static str, Option<Field<'a>>)>) -> Terms {
    let mut terms = Terms::default();
    for (key, field) in settings {
        let Some(field) = field else { continue };
        match key {
            "attempts_max" => {
                let count = field.count(1..=usize::from(ATTEMPTS_CEILING));
                terms.attempts_max = count.and_then(|n| u8::try_from(n).ok()).unwrap_or(ATTEMPTS_MAX);
            }
            "timeouts" => terms.timeouts = field.table().map(timeouts).unwrap_or_default(),
            "retry_unanswered" => terms.retry_unanswered = field.flag().unwrap_or(true),
            "retry_missing_model" => terms.retry_missing_model = field.flag().unwrap_or(false),
            "hold_back" => terms.hold_back = first_byte::hold_back(field),
            "hedge_percentile" => terms.hedge_percentile = first_byte::hedge_percentile(field),
            "keep_alive_secs" => terms.keep_alive = keep_alive(field),
            "keep_alive_commits" => terms.keep_alive_commits = field.flag().unwrap_or(false),
            _ => {}
        }
    }
    terms
}

fn timeouts(mut table: Table<'_>) -> RouteTimeouts {
    let mut secs = |key| table.get(key).and_then(|field| field.secs(TICK..=CONFIG_TIME_MAX));
    let timeouts = RouteTimeouts {
        connect: secs("connect_secs"),
        first_byte: secs("first_byte_secs"),
        first_token: secs("first_token_secs"),
        between_bytes: secs("between_bytes_secs"),
        total: secs("total_secs"),
    };
    if let (Some(connect), Some(total)) = (timeouts.connect, timeouts.total)
        && connect > total
    {
        table.complain(
            "connect_secs is more than total_secs",
            "an attempt ends within total_secs whatever it is doing",
        );
    }
    table.close();
    timeouts
}
