//! Walks a route's tree with the facts of one request.
//!
//! A walk is a function of the tree, the facts and a number of chance. It looks at nothing that the tree does not ask for,
//! allocates nothing of its own, and ends: nodes and comparisons lead only to others of the same finite tree.

use smallvec::SmallVec;

use crate::{
    base::ids::{FNV_START, fnv, mix},
    config::routes::{Comparison, Fact, NO, Node, Route, Routes, Service, StickyBy, Subject, YES},
    wire::metadata::{Metadata, Value},
};

/// What is known of a request when its way is decided.
#[derive(Clone, Copy)]
pub struct Facts<'a, 't, 'm> {
    /// As the client wrote it.
    pub model: &'a str,
    pub stream: bool,
    /// The body's `user`.
    pub user: Option<&'a str>,
    /// The caller's name.
    pub caller: Option<&'a str>,
    pub tags: &'a [Box<str>],
    /// The first field of a name, given in lower case.
    pub header: &'t dyn Fn(&str) -> Option<&'t [u8]>,
    pub metadata: Told<'t, 'm>,
}

/// The routing metadata, read or not.
#[derive(Clone, Copy)]
pub enum Told<'t, 'm> {
    /// The header's value, if it was sent: read if a tree asks for it.
    Raw(Option<&'t [u8]>),
    Read(&'t Metadata<'m>),
}

/// The nodes that were passed, the first being the root.
pub type Path = SmallVec<[u32; 8]>;

/// Walks the tree of `route`: the service it leads to, and the way there. `None` only for a tree of another configuration.
pub fn walk<'r>(
    routes: &'r Routes,
    route: &Route,
    facts: &Facts<'_, '_, '_>,
    metadata: &Metadata<'_>,
    dice: &mut Dice,
) -> Option<(&'r Service, Path)> {
    let mut path = Path::new();
    let mut at = route.root;
    loop {
        path.push(at);
        let next = match &routes.spots.get(at as usize)?.node {
            Node::Serve(service) => return Some((routes.services.get(*service as usize)?, path)),
            Node::If { first, yes, no } => {
                if holds(routes, *first, facts, metadata)? {
                    *yes
                } else {
                    *no
                }
            }
            Node::Split { parts, sticky_by, salt } => {
                let key = sticky_by.as_ref().and_then(|by| sticky_key(by, facts, metadata));
                let share = match key {
                    Some(key) => mix(key ^ salt) % 10_000,
                    None => dice.below(10_000),
                };
                parts.iter().find(|(upto, _)| share < u64::from(*upto))?.1
            }
        };
        debug_assert!(next > at, "a branch has a higher index than what it hangs from");
        if next <= at {
            return None;
        }
        at = next;
    }
}

/// Whether the condition that begins at `first` is true.
fn holds(routes: &Routes, first: u32, facts: &Facts<'_, '_, '_>, metadata: &Metadata<'_>) -> Option<bool> {
    let mut at = first;
    loop {
        match at {
            YES => return Some(true),
            NO => return Some(false),
            _ => {}
        }
        let test = routes.tests.get(at as usize)?;
        let next = if compare(&test.comparison, facts, metadata) { test.yes } else { test.no };
        debug_assert!(next < at || next >= NO, "the comparisons of a condition were written from its end");
        if next >= at && next < NO {
            return None;
        }
        at = next;
    }
}

fn compare(comparison: &Comparison, facts: &Facts<'_, '_, '_>, metadata: &Metadata<'_>) -> bool {
    let fact = match &comparison.subject {
        Subject::Model => Some(Fact::Text(facts.model.as_bytes())),
        Subject::Stream => Some(Fact::Flag(facts.stream)),
        Subject::Tag => {
            return comparison.holds_of_one(facts.tags.iter().map(|tag| Fact::Text(tag.as_bytes())));
        }
        Subject::Header(name) => (facts.header)(name).map(Fact::Text),
        Subject::Metadata(key) => metadata.get(key).map(|value| match value {
            Value::Text(text) => Fact::Text(text.as_bytes()),
            Value::Number(number) => Fact::Number(*number),
            Value::Flag(flag) => Fact::Flag(*flag),
        }),
    };
    comparison.holds(fact)
}

/// The hash of what this request is to have in common with others; `None` if it has no such thing.
pub(super) fn sticky_key(by: &StickyBy, facts: &Facts<'_, '_, '_>, metadata: &Metadata<'_>) -> Option<u64> {
    let text = |text: &[u8]| (!text.is_empty()).then(|| mix(fnv(FNV_START, text)));
    match by {
        StickyBy::User => text(facts.user?.as_bytes()),
        StickyBy::Caller => text(facts.caller?.as_bytes()),
        StickyBy::Header(name) => text((facts.header)(name)?),
        StickyBy::Metadata(key) => match metadata.get(key)? {
            Value::Text(value) => text(value.as_bytes()),
            // `+ 0.0`: the two zeros are equal.
            Value::Number(number) => Some(mix((number + 0.0).to_bits())),
            Value::Flag(flag) => Some(mix(u64::from(*flag))),
        },
    }
}

/// A row of numbers that follow from one number of chance.
#[derive(Clone, Copy, Debug)]
pub struct Dice(u64);

impl Dice {
    pub fn new(chance: u64) -> Self {
        Self(chance)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `bound`, which is not zero; even enough for a small `bound`.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// Between 0 and 1, and neither.
    pub(super) fn fraction(&mut self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "52 bits are exact")]
        let bits = (self.next() >> 12) as f64;
        (bits + 0.5) / (1_u64 << 52) as f64
    }
}

#[cfg(test)]
mod tests;
