//! The book over time, in the state directory: minutes for a day, hours for 30 days, days for 13 months.
//!
//! What is counted goes into its minute. Once an hour has passed its minutes are summed into it, and its day likewise; what
//! comes late for an hour or a day that has been summed is added to it directly. So every span says the same, and a
//! question is answered from each piece of time once, by the finest that is kept for all of it.

mod table;

pub use table::{Moments, Store};

use crate::{
    base::ids::ProviderRoll,
    ledger::{figures::Figures, series, sheet::Sheet},
};

/// What a row is told apart by, in words that outlive the process. Empty is what is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Labels {
    pub endpoint: String,
    pub provider: String,
    pub model: String,
    /// The caller's id, which never changes.
    pub caller: String,
    /// `2xx`, or `none`.
    pub class: String,
}

impl Labels {
    fn of(labels: &series::Labels, roll: &ProviderRoll) -> Self {
        Self {
            endpoint: labels.operation.to_owned(),
            provider: labels.provider.and_then(|id| roll.name(id)).unwrap_or_default().to_owned(),
            model: labels.model.as_str().to_owned(),
            caller: labels.caller.map(|id| id.to_string()).unwrap_or_default(),
            class: labels.class.name().to_owned(),
        }
    }

    /// The row of all others.
    fn other() -> Self {
        let other = || "other".to_owned();
        Self { endpoint: other(), model: other(), class: "none".to_owned(), ..Self::default() }
    }
}

/// A count that is kept beside the figures.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Event {
    pub kind: Kind,
    /// The provider that was called; nobody for refusals.
    pub provider: String,
    /// What came of it: an attempt's result, a refusal's code.
    pub name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Attempt,
    Refusal,
}

impl Kind {
    /// As it stands in the file: a name means the same for ever.
    fn name(self) -> &'static str {
        match self {
            Self::Attempt => "attempt",
            Self::Refusal => "refusal",
        }
    }
}

/// What was counted in some span of time.
#[derive(Debug, Default)]
pub struct Page {
    pub rows: Vec<(Labels, Figures)>,
    pub events: Vec<(Event, u64)>,
}

impl Page {
    /// What a sheet says, with names in the place of numbers.
    pub fn of(sheet: &Sheet, roll: &ProviderRoll) -> Self {
        let rows = sheet.series.iter().map(|row| (Labels::of(&row.labels, roll), row.figures.clone()));
        let attempts = sheet.attempts.iter().map(|(key, count)| {
            let provider = key.provider.and_then(|id| roll.name(id)).unwrap_or_default().to_owned();
            (Event { kind: Kind::Attempt, provider, name: key.result.name().to_owned() }, count)
        });
        let refusals = sheet.refusals.iter().map(|(code, count)| {
            (Event { kind: Kind::Refusal, provider: String::new(), name: code.to_owned() }, count)
        });
        Self { rows: rows.collect(), events: attempts.chain(refusals).collect() }
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.events.is_empty()
    }
}
