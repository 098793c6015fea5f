//! Names that lead elsewhere: `[aliases]`, and the fallbacks of models that are asked for by their own name.

use std::collections::HashMap;

use super::{
    Draft, Known, plain,
    service::{Aim, Balance, Service, Strays, TERMS, aims, terms},
};
use crate::{
    base::limits::{ALIAS_PATTERNS_MAX, ALIASES_MAX, FALLBACK_TABLES_MAX},
    config::{
        ProviderPlace,
        raw::{Named, Table, Text},
        suggest::nearest,
    },
    wire::model_name::is_model_name,
};

/// A name, or the beginning of names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    start: Box<str>,
    open: bool,
}

impl Pattern {
    /// `None` if a `*` stands elsewhere than at the end.
    pub(super) fn new(text: &str) -> Option<Self> {
        let (start, open) = match text.strip_suffix('*') {
            Some(start) => (start, true),
            None => (text, false),
        };
        (!start.contains('*')).then(|| Self { start: start.into(), open })
    }

    /// What stands in the place of the `*`.
    fn rest<'n>(&self, name: &'n str) -> Option<&'n str> {
        name.strip_prefix(&*self.start).filter(|rest| self.open || rest.is_empty())
    }

    /// Whether it fits `{provider}/{model}`.
    fn fits(&self, provider: &str, model: &str) -> bool {
        let mut name = provider.bytes().chain([b'/']).chain(model.bytes());
        self.start.bytes().all(|byte| name.next() == Some(byte)) && (self.open || name.next().is_none())
    }
}

/// What an alias stands for.
#[derive(Clone, Debug)]
pub enum Leads {
    /// Index into the routes.
    Route(u32),
    Target(Box<Aim>),
    /// A model of that provider: this, and what the pattern's `*` stood for.
    Under {
        place: ProviderPlace,
        start: Box<str>,
    },
}

/// Where a name leads that an alias fits.
#[derive(Clone, Copy, Debug)]
pub struct Lead<'s, 'n> {
    pub leads: &'s Leads,
    /// The name that was asked for, from where its end is that of the model on: what [`Leads::Under`] needs.
    pub rest: &'n str,
    /// The length of what stands before `rest` in the name.
    pub before: usize,
}

/// All aliases.
#[derive(Clone, Debug, Default)]
pub struct Aliases {
    pub(super) exact: HashMap<Box<str>, Leads>,
    // Longest first.
    patterns: Vec<(Pattern, Leads)>,
}

impl Aliases {
    /// The alias of exactly this name.
    pub fn exact(&self, name: &str) -> Option<&Leads> {
        if self.exact.is_empty() { None } else { self.exact.get(name) }
    }

    /// The longest pattern that fits. Of a name that is an address already, only a pattern with a slash takes hold: `*`
    /// means what would lead nowhere.
    pub fn pattern<'s, 'n>(&'s self, name: &'n str, is_address: bool) -> Option<Lead<'s, 'n>> {
        self.patterns.iter().filter(|(pattern, _)| !is_address || pattern.start.contains('/')).find_map(
            |(pattern, leads)| {
                let rest = pattern.rest(name)?;
                Some(Lead { leads, rest, before: name.len() - rest.len() })
            },
        )
    }
}

/// A `[[fallback]]` table.
#[derive(Clone, Debug)]
pub struct Fallback {
    pub(super) pattern: Pattern,
    pub(super) service: Service,
}

impl Fallback {
    pub(super) fn fits(&self, provider: &str, model: &str) -> bool {
        self.pattern.fits(provider, model)
    }
}

/// Reads `[aliases]`.
pub(super) fn aliases(table: Table<'_>, known: Known<'_>, routes: &HashMap<Box<str>, u32>) -> Aliases {
    let mut aliases = Aliases::default();
    let entries = table.named();
    if entries.len() > ALIASES_MAX {
        table_too_long(&entries[ALIASES_MAX], "aliases", ALIASES_MAX);
    }
    let names: Vec<&str> = entries.iter().map(|entry| entry.name).collect();
    for entry in entries.into_iter().take(ALIASES_MAX) {
        let Some(pattern) = pattern(&entry) else { continue };
        let is_table = entry.field.value().is_table();
        if is_table {
            entry.complain(
                "a table stands here: a name with a dot needs quotes",
                "\"gpt-4.1\" = \"openai/gpt-4.1\"",
            );
            continue;
        }
        if pattern.open && aliases.patterns.len() == ALIAS_PATTERNS_MAX {
            table_too_long(&entry, "aliases with a `*`", ALIAS_PATTERNS_MAX);
        }
        let Some(text) = plain(entry.field) else { continue };
        let Some(leads) = leads(&text, &pattern, known, routes, &names) else { continue };
        if pattern.open {
            aliases.patterns.push((pattern, leads));
        } else {
            aliases.exact.insert(pattern.start, leads);
        }
    }
    aliases.patterns.sort_by_key(|(pattern, _)| std::cmp::Reverse(pattern.start.len()));
    aliases
}

fn table_too_long(entry: &Named<'_>, what: &str, most: usize) {
    entry.complain(format!("there are too many {what}"), format!("at most {most} are possible"));
}

fn pattern(entry: &Named<'_>) -> Option<Pattern> {
    let name = entry.name;
    if name.starts_with("dynamic/") {
        entry.complain("`dynamic/` leads to routes, and no alias hides one", "choose another name");
        return None;
    }
    let pattern = Pattern::new(name);
    let good = pattern.filter(|pattern| {
        is_model_name(pattern.start.as_bytes()) || pattern.open && pattern.start.is_empty()
    });
    if good.is_none() {
        entry.complain(
            "no model can be asked for under this name",
            "use A-Z, a-z, 0-9 and ._:/@+,=-, and a `*` only at the end",
        );
    }
    good
}

fn leads(
    text: &Text<'_>,
    pattern: &Pattern,
    known: Known<'_>,
    routes: &HashMap<Box<str>, u32>,
    names: &[&str],
) -> Option<Leads> {
    let value = text.value.as_str();
    if names.contains(&value) && !value.ends_with('*') {
        text.complain(
            format!(
                "{} is an alias itself, and what an alias stands for is not looked up again",
                text.quoted()
            ),
            "write the model that is meant",
        );
        return None;
    }
    if let Some(name) = value.strip_prefix("dynamic/") {
        let found = routes.get(name);
        if found.is_none() {
            let fix = match nearest(name, routes.keys().map(|known| &**known)) {
                Some(near) => format!("did you mean \"dynamic/{near}\"?"),
                None => "write a [[route]] of that name".to_owned(),
            };
            text.complain(format!("there is no route {}", text.quoted()), fix);
        }
        return found.map(|index| Leads::Route(*index));
    }
    let Some(start) = value.strip_suffix('*') else {
        return known.aim(text, None).map(|aim| Leads::Target(Box::new(aim)));
    };
    if !pattern.open || start.contains('*') {
        text.complain(
            "this `*` stands for nothing",
            "a `*` belongs at the end of both names, or only of the first",
        );
        return None;
    }
    let (place, model_at) = known.provider(text, start)?;
    if start.len() > model_at && !is_model_name(start.as_bytes()) {
        text.complain(format!("{} names no models", text.quoted()), "use A-Z, a-z, 0-9 and ._:/@+,=-");
        return None;
    }
    Some(Leads::Under { place, start: start[model_at..].into() })
}

/// Reads every `[[fallback]]`.
pub(super) fn fallbacks(root: &mut Table<'_>, known: Known<'_>, draft: &mut Draft) -> Vec<Fallback> {
    let tables = root.tables("fallback");
    if tables.len() > FALLBACK_TABLES_MAX {
        root.complain("there are too many fallbacks", format!("at most {FALLBACK_TABLES_MAX} are possible"));
    }
    let mut seen: Vec<(Pattern, String)> = Vec::new();
    let mut fallbacks = Vec::new();
    for mut table in tables.into_iter().take(FALLBACK_TABLES_MAX).flatten() {
        let fits = table.get("match");
        if fits.is_none() {
            table.complain("it is not said whose fallbacks these are", "match = \"openai/*\"");
        }
        let pattern = fits.and_then(plain).and_then(|text| {
            let pattern = Pattern::new(&text.value);
            if pattern.is_none() {
                text.complain("a `*` may stand at the end only", "match = \"openai/*\"");
            }
            let hidden = pattern.as_ref().and_then(|pattern| {
                seen.iter().find(|(other, _)| {
                    other == pattern || other.open && pattern.start.starts_with(&*other.start)
                })
            });
            if let Some((_, before)) = hidden {
                text.complain(
                    format!("{before} fits all of this already, and the first that fits counts"),
                    "put the narrower one first, or leave it out",
                );
            }
            pattern
        });
        let start = draft.targets.len();
        match table.get("to") {
            Some(to) => aims(&to, known, Strays::default(), start, draft),
            None => table.complain("there is nothing to fall back to", "to = [\"provider/model\"]"),
        }
        let settings: Vec<_> = TERMS.into_iter().map(|key| (key, table.get(key))).collect();
        let terms = terms(settings);
        if let Some(pattern) = pattern {
            seen.push((pattern.clone(), table.path().to_owned()));
            let range = start..draft.targets.len();
            let service = Service { own: start..start, fallbacks: range, balance: Balance::Weighted, terms };
            fallbacks.push(Fallback { pattern, service });
        }
        table.close();
    }
    fallbacks
}
