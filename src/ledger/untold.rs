//! An exchange that has ended and whose tokens nobody has told yet: its words go to whoever counts them with a vocabulary, and
//! there it is counted, once, with what that finds. Whatever its line shows and the book holds is then the same.
//!
//! Invariant: who has one counts it, in the end by the estimate that it came with.

use crate::{
    base::money::NanoUsd,
    config::price::Price,
    ledger::{
        logged::Logged,
        open::Ended,
        record::{Closed, Record, Tokens, Uncounted},
        sheet::Sheet,
    },
    wire::{openai::endpoint::Endpoint, transcript::Transcript},
};

/// The exchange, on its way to the estimator.
#[derive(Debug)]
#[must_use = "it is in no sheet yet"]
pub struct Untold {
    // Nobody sees it as a closed one before it is counted.
    closed: Closed,
    /// As it stood.
    line: Logged,
    texts: Texts,
}

/// What its tokens can be told by.
pub struct Texts {
    pub endpoint: Endpoint,
    /// The request's body, where the prompt was not reported.
    pub request: Option<Vec<u8>>,
    /// What was answered, where that was not reported.
    pub answer: Option<Transcript>,
    /// What the target's tokens cost, where that is known.
    pub price: Option<Price>,
}

/// What a vocabulary found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    pub tokens: Tokens,
    pub cost: Option<NanoUsd>,
}

impl Untold {
    pub fn of(uncounted: Uncounted, texts: Texts, line: impl FnOnce(Ended<'_>) -> Logged) -> Self {
        let closed = uncounted.hidden();
        let line = line(Ended(&mut closed.clone().0));
        Self { closed, line, texts }
    }

    /// As it stands, estimated by bytes.
    pub fn record(&self) -> &Record {
        &self.closed
    }

    pub fn texts(&self) -> &Texts {
        &self.texts
    }

    /// The memory that its texts take.
    pub fn bytes(&self) -> usize {
        let answer = self.texts.answer.as_ref().map_or(0, Transcript::bytes);
        self.texts.request.as_ref().map_or(0, Vec::capacity) + answer
    }

    /// Counts it, as it was told or else as it stands.
    pub fn count(self, told: Option<Told>, sheet: &mut Sheet) -> Logged {
        let Self { mut closed, line, .. } = self;
        closed.count(told, sheet);
        let (gist, whole) = Ended(&mut closed.0).told(line.whole.is_some());
        Logged { gist, whole, ..line }
    }
}

/// Its size and nothing else: a prompt must not come into a log by way of a message.
impl std::fmt::Debug for Texts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Texts({} bytes asked)", self.request.as_ref().map_or(0, Vec::len))
    }
}
