//! Where models lead: `[[route]]` trees, `[aliases]`, and `[[fallback]]` tables.
//!
//! A route is asked for as the model `dynamic/<name>`. Its tree is made of branches, and each branch is one of three:
//!
//! ```toml
//! [[route]]
//! name = "support"
//! if = { field = "metadata.plan", op = "==", value = "pro" }       # a condition
//! [route.then]                                                      # true: a model service
//! model = "openai/gpt-4o"
//! fallbacks = ["qwen/qwen-max"]
//! [route.else]                                                      # false: a percentage split
//! split = [{ percent = 90, model = "qwen/qwen-max" }, { percent = 10, model = "qwen/qwen-plus" }]
//! sticky_by = "metadata.user"
//! ```
//!
//! A condition compares a field (`metadata.<key>`, `model`, `stream`, `header.<name>`, `caller.tag`) by an operator (`==`,
//! `!=`, `in`, `exists`, `contains`, `starts_with`, `<`, `<=`, `>`, `>=`) with a value, or is `{ all = [..] }`,
//! `{ any = [..] }` or `{ not = {..} }` of conditions.
//!
//! An alias is looked up once. An exact one comes first, then `dynamic/…` and `{provider}/…`, then the longest pattern; a
//! pattern with a slash comes before the address it fits, one without takes only what would lead nowhere.
//!
//! The compiled form is a few lists that refer to each other by index, always forward: a walk over them ends.

mod comparison;
mod condition;
mod names;
mod reach;
mod service;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::HashMap;

pub use self::{
    comparison::{Comparison, Fact, Subject},
    condition::{NO, Test, YES},
    names::{Aliases, Fallback, Lead, Leads, Pattern},
    service::{Aim, Balance, RouteTimeouts, Service, StickyBy, Terms},
};
use self::{reach::Settled, tree::Tree};
use super::{
    provider::good_name,
    raw::{Field, Table, Text},
    snapshot::{Provider, ProviderPlace},
};
use crate::base::limits::{ROUTE_DEPTH_MAX, ROUTE_NODES_MAX, ROUTES_MAX};

/// What the model of a route begins with.
pub const DYNAMIC: &str = "dynamic/";

/// Everything that says where a model leads, but the providers.
#[derive(Debug, Default)]
pub struct Routes {
    list: Vec<Route>,
    // by_name[r.name] == i exactly when list[i] is r
    by_name: HashMap<Box<str>, u32>,
    /// The nodes of all trees.
    pub spots: Vec<Spot>,
    pub tests: Vec<Test>,
    pub services: Vec<Service>,
    pub targets: Vec<Aim>,
    pub aliases: Aliases,
    fallbacks: Vec<Fallback>,
}

/// One route.
#[derive(Debug)]
pub struct Route {
    pub name: Box<str>,
    /// Index of its tree's first node.
    pub root: u32,
    /// Whether anything in its tree asks for metadata: then metadata that cannot be read is refused.
    pub reads_metadata: bool,
}

/// A node, and what is said of it.
#[derive(Debug)]
pub struct Spot {
    pub node: Node,
    /// Where in its route it is, such as `else.split[1]`; empty at the root.
    pub place: Box<str>,
    /// The condition, or the service's targets.
    words: Box<str>,
}

/// A node of a tree. What it refers to are indices.
#[derive(Debug)]
pub enum Node {
    /// `first` of [`Routes::tests`]; `yes` and `no` are nodes.
    If { first: u32, yes: u32, no: u32 },
    /// Each branch with the upper end of its share, in hundredths of a percent; the last is 10000.
    Split { parts: Box<[(u32, u32)]>, sticky_by: Option<StickyBy>, salt: u64 },
    /// One of [`Routes::services`].
    Serve(u32),
}

impl Routes {
    /// The route of that name, without `dynamic/`.
    pub fn route(&self, name: &str) -> Option<&Route> {
        self.at(*self.by_name.get(name)?)
    }

    /// The route of that index.
    pub fn at(&self, index: u32) -> Option<&Route> {
        self.list.get(index as usize)
    }

    /// What follows `{provider}/{model}` when it fails, and on which terms.
    pub fn fallback(&self, provider: &str, model: &str) -> Option<&Service> {
        self.fallbacks
            .iter()
            .find(|fallback| fallback.fits(provider, model))
            .map(|fallback| &fallback.service)
    }

    /// A path through a tree in words, a node each, as it was walked.
    pub fn words<'r>(&'r self, path: &'r [u32]) -> impl Iterator<Item = String> + 'r {
        path.iter().enumerate().filter_map(move |(step, index)| {
            let spot = self.spots.get(*index as usize)?;
            let next = path.get(step + 1);
            Some(match &spot.node {
                Node::If { yes, .. } => format!("if {}: {}", spot.words, next == Some(yes)),
                Node::Split { parts, .. } => {
                    let part = parts.iter().position(|(_, lead)| next == Some(lead)).unwrap_or_default();
                    let before = if part == 0 { 0 } else { parts.get(part - 1).map_or(0, |part| part.0) };
                    let upto = parts.get(part).map_or(0, |part| part.0);
                    format!("split: {} %", f64::from(upto - before) / 100.0)
                }
                Node::Serve(_) => format!("serve: {}", spot.words),
            })
        })
    }

    /// What can be asked for besides the providers' models, with the provider of those that lead to one.
    pub(super) fn offered(&self) -> impl Iterator<Item = (String, Option<ProviderPlace>)> {
        let mut aliases: Vec<_> = self.aliases.exact.iter().collect();
        aliases.sort_unstable_by_key(|(name, _)| *name);
        let aliases = aliases.into_iter().map(|(name, leads)| match leads {
            Leads::Target(aim) => (name.to_string(), Some(aim.place)),
            Leads::Route(_) | Leads::Under { .. } => (name.to_string(), None),
        });
        self.list.iter().map(|route| (format!("{DYNAMIC}{}", route.name), None)).chain(aliases)
    }
}

/// The providers that routes may name.
#[derive(Clone, Copy)]
pub(super) struct Known<'r> {
    pub(super) list: &'r [Provider],
    /// All names, also of those in which something is wrong.
    pub(super) taken: &'r HashMap<String, String>,
}

/// The lists of [`Routes`] while they grow.
#[derive(Default)]
struct Draft {
    spots: Vec<Spot>,
    tests: Vec<Test>,
    services: Vec<Service>,
    targets: Vec<Aim>,
}

/// How many nodes a tree has so far.
#[derive(Default)]
struct Size {
    nodes: usize,
    is_told: bool,
}

impl Size {
    /// One node more, unless there are too many already or the tree is too deep; says so once.
    fn grow(&mut self, table: &Table<'_>, depth: usize) -> bool {
        self.nodes += 1;
        let fits = self.nodes <= ROUTE_NODES_MAX && depth <= ROUTE_DEPTH_MAX;
        if !fits && !self.is_told {
            self.is_told = true;
            table.complain(
                "this route's tree is too large",
                format!("at most {ROUTE_NODES_MAX} nodes, {ROUTE_DEPTH_MAX} deep, with conditions counted"),
            );
        }
        fits
    }
}

/// A string that stands in the file itself: routes are shown, and what is looked up elsewhere may be secret.
fn plain(field: Field<'_>) -> Option<Text<'_>> {
    let text = field.text()?;
    if text.is_reference() {
        text.complain("routes are shown, and nothing in them is looked up elsewhere", "write it out");
        return None;
    }
    Some(text)
}

/// Reads everything that leads a model somewhere.
pub(super) fn read(root: &mut Table<'_>, known: Known<'_>) -> Routes {
    let tables = root.tables("route");
    if tables.len() > ROUTES_MAX {
        root.complain("there are too many routes", format!("at most {ROUTES_MAX} are possible"));
    }
    let mut draft = Draft::default();
    let mut taken: HashMap<Box<str>, String> = HashMap::new();
    let (mut list, mut by_name) = (Vec::new(), HashMap::new());
    for mut table in tables.into_iter().take(ROUTES_MAX).flatten() {
        let name = name(&mut table, &mut taken);
        let salt = tree::salt(name.as_deref().unwrap_or_default());
        let (size, settled) = (Size::default(), Settled::default());
        let mut tree = Tree { known, draft: &mut draft, size, settled, salt, reads_metadata: false };
        let first = tree.branch(&mut table, String::new(), 0);
        let reads_metadata = tree.reads_metadata;
        table.close();
        // A route in which something is wrong is there all the same for an alias that leads to it.
        if let Some(name) = name {
            by_name.insert(name.clone(), u32::try_from(list.len()).unwrap_or_default());
            list.push(Route { name, root: first, reads_metadata });
        }
    }
    let fallbacks = names::fallbacks(root, known, &mut draft);
    let aliases =
        root.table("aliases").map(|table| names::aliases(table, known, &by_name)).unwrap_or_default();
    let Draft { spots, tests, services, targets } = draft;
    Routes { list, by_name, spots, tests, services, targets, aliases, fallbacks }
}

fn name(table: &mut Table<'_>, taken: &mut HashMap<Box<str>, String>) -> Option<Box<str>> {
    let Some(field) = table.get("name") else {
        table.complain("this route has no name", "name = \"support\", to be asked for as dynamic/support");
        return None;
    };
    let text = field.text()?;
    let name = good_name(&text)?.into_boxed_str();
    if let Some(before) = taken.get(&name) {
        text.complain(format!("{before} already has this name"), "give each route a name of its own");
        return None;
    }
    taken.insert(name.clone(), table.path().to_owned());
    Some(name)
}
