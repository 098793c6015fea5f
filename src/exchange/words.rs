//! What was asked and answered, as far as a vocabulary needs it: copied only where one is configured, and only of exchanges
//! whose provider has not said what was used. Where none is, each call is one branch.

use std::{cell::RefCell, rc::Rc};

use super::{budget::Hold, lens::Kind, receive::Request, seam::World};
use crate::{
    base::limits::ESTIMATE_BYTES_MAX,
    config::{Estimate, Snapshot, price::Price},
    ledger::untold::Texts,
    wire::{
        openai::{endpoint::Endpoint, stream::Watch},
        transcript::Transcript,
    },
};

/// What an answer says goes in here while it is looked at.
pub(super) type Heard = Rc<RefCell<Transcript>>;

/// The words of one exchange.
#[derive(Default)]
pub(super) struct Words(Option<Box<Kept>>);

struct Kept {
    endpoint: Endpoint,
    request: Option<Vec<u8>>,
    heard: Heard,
    hold: Hold,
    /// What was not reported in the end; nothing before the end.
    lacks: Lacks,
    price: Option<Price>,
}

/// What a provider did not report of the tokens that are charged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lacks {
    pub prompt: bool,
    pub completion: bool,
}

impl Words {
    pub(super) fn of<W: World>(world: &W, snapshot: &Snapshot) -> Self {
        if snapshot.estimate != Estimate::Bpe {
            return Self::default();
        }
        let endpoint = Endpoint::ChatCompletions;
        Self(Some(Box::new(Kept {
            endpoint,
            request: None,
            heard: Rc::new(RefCell::new(Transcript::of(endpoint, 0))),
            hold: world.local().copies.hold(),
            lacks: Lacks::default(),
            price: None,
        })))
    }

    /// An answer begins, another one if there was one before.
    pub(super) fn listen(&mut self, kind: Kind, watch: Watch) -> Option<Heard> {
        let kept = self.0.as_mut()?;
        (kept.endpoint, kept.request, kept.lacks) = (watch.endpoint, None, Lacks::default());
        let mut heard = Transcript::of(watch.endpoint, ESTIMATE_BYTES_MAX);
        // The pieces of several choices come as they please, and would be joined wrongly.
        if kind == Kind::Other || (kind == Kind::Events && watch.choices > 1) {
            heard.cut();
        }
        kept.heard.replace(heard);
        Some(kept.heard.clone())
    }

    /// This was asked; it is let go now.
    pub(super) fn asked(&mut self, request: Option<&Request>) {
        let (Some(kept), Some(request)) = (&mut self.0, request) else { return };
        let body = request.body();
        if body.len() <= ESTIMATE_BYTES_MAX && kept.hold.try_grow(body.len()) {
            kept.request = Some(body.to_vec());
        }
    }

    /// Something more may have been said.
    pub(super) fn weigh(&mut self) {
        let Some(kept) = &mut self.0 else { return };
        let mut heard = kept.heard.borrow_mut();
        let held = heard.bytes() + kept.request.as_ref().map_or(0, Vec::len);
        if !kept.hold.try_grow(held) {
            heard.cut();
        }
    }

    /// What was used was settled by bytes as far as it was not reported.
    pub(super) fn settled(&mut self, lacks: Lacks, price: Option<&Price>) {
        let Some(kept) = &mut self.0 else { return };
        kept.lacks = lacks;
        kept.price = price.filter(|_| lacks != Lacks::default()).cloned();
    }

    /// All that is needed to tell what was not reported, if it is there.
    pub(super) fn take(&mut self) -> Option<Texts> {
        let Kept { endpoint, mut request, heard, lacks, price, .. } = *self.0.take()?;
        if lacks == Lacks::default() || (lacks.prompt && request.is_none()) {
            return None;
        }
        let heard = heard.replace(Transcript::of(endpoint, 0));
        if lacks.completion && !heard.is_whole() {
            return None;
        }
        let request = request.take().filter(|_| lacks.prompt);
        Some(Texts { endpoint, request, answer: lacks.completion.then_some(heard), price })
    }
}
