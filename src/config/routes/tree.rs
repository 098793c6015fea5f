//! Reads the tree of one `[[route]]`: conditions, percentage splits, and model services at its leaves.

use toml::de::DeValue;

use super::{
    Draft, Known, Node, Size, Spot,
    condition::{NO, When, YES},
    reach::Settled,
    service::{Settings, StickyBy},
};
use crate::{
    base::ids::{FNV_START, fnv, mix},
    config::raw::{Field, Table},
};

/// One route on its way into the draft.
pub(super) struct Tree<'r> {
    pub(super) known: Known<'r>,
    pub(super) draft: &'r mut Draft,
    pub(super) size: Size,
    pub(super) settled: Settled,
    /// What the shares of its splits are hashed with, so that no two splits go the same way.
    pub(super) salt: u64,
    /// Whether anything in it asks for metadata.
    pub(super) reads_metadata: bool,
}

/// Everyone, in hundredths of a percent.
const WHOLE: u32 = 10_000;

impl Tree<'_> {
    /// Reads the branch that `table` is; the index of its node. A node's index is lower than those of its branches.
    pub(super) fn branch(&mut self, table: &mut Table<'_>, place: String, depth: usize) -> u32 {
        let index = u32::try_from(self.draft.spots.len()).unwrap_or(NO);
        // Replaced below, unless something is complained of.
        self.draft.spots.push(Spot { node: Node::Serve(0), place: place.as_str().into(), words: "".into() });
        let (when, split) = (table.get("if"), table.get("split"));
        let (then, other) = (table.get("then"), table.get("else"));
        let sticky_by = table.get("sticky_by");
        let settings = Settings::of(table);
        if !self.size.grow(table, depth) {
            return index;
        }
        let kinds = [when.is_some(), split.is_some(), settings.is_service()];
        match kinds.iter().filter(|is| **is).count() {
            1 => {}
            0 => {
                let fix = "model = \"provider/model\", or if = … with then and else, or split = […]";
                table.complain("this branch is empty: nothing serves it", fix);
                return index;
            }
            _ => {
                let fix = "put the model service into `then`, `else` or a branch of the split";
                table.complain("a branch is one of a condition, a split and a model service", fix);
                return index;
            }
        }
        if when.is_none() {
            for (word, stray) in [("then", &then), ("else", &other)] {
                if let Some(stray) = stray {
                    stray.complain(format!("`{word}` follows an `if`, and there is none here"), "if = { … }");
                }
            }
        }
        if !settings.is_service() {
            settings.refuse();
        }
        let (node, words) = if let Some(when) = when {
            if let Some(stray) = &sticky_by {
                stray.complain("a condition is not sticky", "put it beside the split or the model service");
            }
            self.condition(table, when, [then, other], &place, depth)
        } else if let Some(split) = split {
            (self.split(&split, sticky_by, &place, depth), String::new())
        } else {
            let service = settings.read(table, sticky_by, self.known, self.draft);
            let names = |range: std::ops::Range<usize>| {
                self.draft.targets[range].iter().map(|aim| &*aim.name).collect::<Vec<_>>().join(" | ")
            };
            let mut words = names(service.own.clone());
            if !service.fallbacks.is_empty() {
                words =
                    format!("{words}, then {}", names(service.fallbacks.clone()).replace(" | ", ", then "));
            }
            if let super::Balance::Sticky(by) = &service.balance {
                self.reads_metadata |= matches!(by, StickyBy::Metadata(_));
            }
            let service_index = u32::try_from(self.draft.services.len()).unwrap_or(NO);
            self.draft.services.push(service);
            (Node::Serve(service_index), words)
        };
        if let Some(spot) = self.draft.spots.get_mut(index as usize) {
            *spot = Spot { node, place: place.into(), words: words.into() };
        }
        index
    }

    fn condition(
        &mut self,
        table: &Table<'_>,
        field: Field<'_>,
        branches: [Option<Field<'_>>; 2],
        place: &str,
        depth: usize,
    ) -> (Node, String) {
        let when = field.clone().table().and_then(|table| When::read(table, &mut self.size, depth + 1));
        if let Some(truth) = when.as_ref().and_then(|when| self.settled.verdict(when)) {
            let (which, unreached) = if truth { ("true", "else") } else { ("false", "then") };
            field.complain(
                format!("this is always {which} here, so that `{unreached}` is never reached"),
                "it contradicts itself, or a condition above has decided it: leave it out or change it",
            );
        }
        let mut leads = [0; 2];
        for ((word, truth), (branch, lead)) in
            [("then", true), ("else", false)].into_iter().zip(branches.into_iter().zip(&mut leads))
        {
            let Some(branch) = branch else {
                let fix =
                    format!("say where to go when it is {truth}: {word} = {{ model = \"provider/model\" }}");
                table.complain(format!("this condition has no `{word}`"), fix);
                continue;
            };
            let mark = self.settled.mark();
            if let Some(when) = &when {
                self.settled.assume(when, truth);
            }
            if let Some(mut inner) = branch.table() {
                *lead = self.branch(&mut inner, join(place, word), depth + 1);
                inner.close();
            }
            self.settled.forget(mark);
        }
        let Some(when) = when else { return (Node::Serve(0), String::new()) };
        self.reads_metadata |= when.reads_metadata();
        let words = when.to_string();
        let first = when.flatten(YES, NO, &mut self.draft.tests);
        (Node::If { first, yes: leads[0], no: leads[1] }, words)
    }

    fn split(&mut self, field: &Field<'_>, sticky_by: Option<Field<'_>>, place: &str, depth: usize) -> Node {
        let sticky_by = sticky_by.and_then(StickyBy::read);
        self.reads_metadata |= matches!(sticky_by, Some(StickyBy::Metadata(_)));
        self.salt = mix(self.salt);
        let salt = self.salt;
        if !matches!(field.value(), DeValue::Array(_)) {
            field.complain("this is not a list of branches", "split = [{ percent = 90, model = … }, …]");
            return Node::Serve(0);
        }
        let (mut upto, mut is_known) = (0, true);
        let mut parts = Vec::new();
        for (number, item) in field.items().into_iter().enumerate() {
            let Some(mut table) = item.table() else {
                is_known = false;
                continue;
            };
            let share = match table.get("percent") {
                Some(field) => percent(&field),
                None => {
                    table.complain("it is not said how many requests go this way", "percent = 10");
                    None
                }
            };
            is_known &= share.is_some();
            upto += share.unwrap_or(0);
            let lead = self.branch(&mut table, join(place, &format!("split[{number}]")), depth + 1);
            table.close();
            parts.push((upto, lead));
        }
        if is_known && upto != WHOLE {
            field.complain(
                format!("the percentages sum to {}, not to 100", f64::from(upto) / 100.0),
                "every request has to go somewhere",
            );
        }
        Node::Split { parts: parts.into(), sticky_by, salt }
    }
}

/// The salt of a route's first split.
pub(super) fn salt(route: &str) -> u64 {
    fnv(FNV_START, route.as_bytes())
}

/// A share in hundredths of a percent.
fn percent(field: &Field<'_>) -> Option<u32> {
    let text = match field.value() {
        DeValue::Integer(number) if number.radix() == 10 => number.as_str(),
        DeValue::Float(number) => number.as_str(),
        _ => "",
    };
    let hundredths = text.parse::<f64>().ok().map(|percent| percent * 100.0);
    let whole = hundredths.filter(|n| (n - n.round()).abs() < 1e-6 && (0.0..=f64::from(WHOLE)).contains(n));
    let Some(whole) = whole else {
        field.complain("this is not a percentage", "write a number up to 100 with at most two decimals");
        return None;
    };
    if whole < 1.0 {
        field.complain("no request goes this way: the branch is never reached", "leave it out");
        return None;
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 10000")]
    Some(whole.round() as u32)
}

fn join(place: &str, word: &str) -> String {
    if place.is_empty() { word.to_owned() } else { format!("{place}.{word}") }
}
