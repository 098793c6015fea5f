//! How an answer's body is looked at on its way: event by event, as a whole, or hardly at all.

use super::{
    intake::{End, Events, Intake},
    words::Heard,
};
use crate::{
    base::{limits, now::Now},
    ledger::{
        record::{Record, Tokens},
        sheet::Sheet,
    },
    wire::{
        estimate::{self, MilliTokens},
        http1::{framing::Framing, head::ResponseHead},
        json::usage::{self, Usage},
        openai::{
            endpoint::Endpoint,
            refusal::Refusal,
            stream::{Observer, Watch},
            upstream_error::Said,
        },
    },
};

/// What kind of body an answer has, by its head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Events,
    Json,
    Other,
}

pub(super) struct Lens {
    view: View,
    usage: Option<Usage>,
    endpoint: Endpoint,
    /// What the answer has said, by its bytes.
    said: MilliTokens,
    /// What it has said, where somebody wants to know.
    heard: Option<Heard>,
    /// The provider counts reasoning beside the completion, not in it.
    reasoning_apart: bool,
    /// Events that carried something generated.
    token_events: u64,
    /// When a read last brought whole events behind the first token.
    last_token: Option<Now>,
}

enum View {
    Events(Box<Events>),
    /// Held until it is complete, so that a cut answer is an error and not a torn body.
    Held,
    /// As it comes. `tail`: the end of a long JSON answer, because usage lies there.
    Opaque {
        tail: Option<Vec<u8>>,
    },
}

impl Lens {
    pub(super) fn of(kind: Kind, head: &ResponseHead, watch: Watch, reasoning_apart: bool) -> Self {
        let is_short = match head.framing {
            Framing::Length(length) => length <= limits::HELD_ANSWER_BYTES_MAX as u64,
            _ => true,
        };
        let view = match kind {
            Kind::Events => View::Events(Box::new(Events::new(Observer::new(watch)))),
            Kind::Json if is_short => View::Held,
            Kind::Json => View::Opaque { tail: Some(Vec::new()) },
            Kind::Other => View::Opaque { tail: None },
        };
        let said = MilliTokens::default();
        Self {
            view,
            usage: None,
            endpoint: watch.endpoint,
            said,
            heard: None,
            reasoning_apart,
            token_events: 0,
            last_token: None,
        }
    }

    /// Leaves there what the answer says.
    pub(super) fn tell(&mut self, heard: Option<Heard>) {
        if let Some(events) = self.events() {
            events.heard.clone_from(&heard);
        }
        self.heard = heard;
    }

    pub(super) fn events(&mut self) -> Option<&mut Events> {
        match &mut self.view {
            View::Events(events) => Some(events),
            View::Held | View::Opaque { .. } => None,
        }
    }

    /// Notes what the last read brought, before it leaves.
    pub(super) fn look(&mut self, intake: &Intake, now: Now, record: &mut Record, sheet: &mut Sheet) {
        let ended = intake.end() != End::NotYet;
        match &mut self.view {
            View::Events(events) => {
                let whole = if events.token_seen { std::mem::take(&mut events.whole) } else { 0 };
                self.token_events += u64::from(whole);
                if whole > 0 {
                    match self.last_token.replace(now) {
                        Some(before) => {
                            sheet.gap(now.us_since(before));
                            record.gap(now.us_since(before));
                        }
                        None => record.phases.first_token = Some(now),
                    }
                }
                self.usage = events.usage;
                self.said = events.said;
            }
            View::Held if ended => {
                let whole = Whole::of(intake);
                self.usage = usage::last(whole.bytes());
                if self.usage.is_none() {
                    self.said = estimate::said(self.endpoint, whole.bytes());
                    self.heard.iter().for_each(|heard| heard.borrow_mut().hear_answer(whole.bytes()));
                }
            }
            View::Held if intake.ready_bytes() > limits::HELD_ANSWER_BYTES_MAX => {
                self.view = View::Opaque { tail: Some(Vec::new()) };
                self.look(intake, now, record, sheet);
            }
            View::Held => {}
            View::Opaque { tail: None } => {}
            View::Opaque { tail: Some(tail) } => {
                self.heard.take().iter().for_each(|heard| heard.borrow_mut().cut());
                for payload in intake.ready() {
                    keep_tail(tail, payload);
                    // Too long to be looked into: what lies around its text is small beside it.
                    if self.endpoint.generates_text() {
                        self.said = self.said.plus(estimate::text(payload));
                    }
                }
                if ended {
                    self.usage = usage::from_tail(tail);
                }
            }
        }
        record.said = self.said;
        // As soon as it is known: what was reported was used, even if the rest is lost.
        if self.usage.is_some() {
            #[cfg(test)]
            let before = record.tokens;
            record.tokens = tokens(self.usage, self.endpoint, self.reasoning_apart);
            #[cfg(test)]
            super::sim::planted::count_again(&mut record.tokens, before);
        }
    }

    /// Whether the client stands between two events, once what is ready has left.
    pub(super) fn at_boundary(&self) -> bool {
        matches!(&self.view, View::Events(events) if events.at_boundary())
    }

    /// Whether the provider has said what was used.
    pub(super) fn knows_usage(&self) -> bool {
        self.usage.is_some()
    }

    /// How many events of a stream have carried something generated.
    pub(super) fn token_events(&self) -> u64 {
        self.token_events
    }

    /// How many whole events have come, whatever they carried.
    pub(super) fn whole_events(&self) -> u64 {
        match &self.view {
            View::Events(events) => self.token_events + u64::from(events.whole),
            View::Held | View::Opaque { .. } => 0,
        }
    }

    /// Whether what may leave is held back until the body has ended.
    pub(super) fn holds(&self) -> bool {
        matches!(self.view, View::Held)
    }

    /// Whether a body that ends by its framing here is a whole answer.
    pub(super) fn is_whole_when_framed(&self) -> bool {
        match &self.view {
            View::Events(events) => events.observer.ended(true),
            View::Held | View::Opaque { .. } => true,
        }
    }

    /// Whether the answer is whole already, however its connection ends.
    pub(super) fn had_last_word(&self) -> bool {
        match &self.view {
            View::Events(events) => events.observer.ended(false),
            View::Held | View::Opaque { .. } => false,
        }
    }

    /// Whether the provider itself said that it failed.
    pub(super) fn failed(&self) -> bool {
        matches!(&self.view, View::Events(events) if events.observer.failed())
    }

    /// What the error of a stream says of itself.
    pub(super) fn said(&self) -> Option<Said> {
        match &self.view {
            View::Events(events) => events.observer.said(),
            View::Held | View::Opaque { .. } => None,
        }
    }

    /// The length of the body that the client gets, where it is known before the body is.
    pub(super) fn length(&self, intake: &Intake, head: &ResponseHead) -> Option<u64> {
        match (&self.view, head.framing) {
            // An event may be taken out of it.
            (View::Events(_), _) => None,
            (View::Held, _) => Some(intake.ready_bytes() as u64),
            (View::Opaque { .. }, Framing::Length(length)) => Some(length),
            (View::Opaque { .. }, Framing::None) => Some(0),
            (View::Opaque { .. }, _) => None,
        }
    }

    /// The last event of a stream that was lost, if the client stands where one can be said.
    pub(super) fn farewell(&self, refusal: &Refusal) -> Option<Vec<u8>> {
        let View::Events(events) = &self.view else { return None };
        events.at_boundary().then(|| {
            let mut event = Vec::new();
            refusal.event(&mut event);
            event
        })
    }
}

/// A whole answer in one piece.
enum Whole<'a> {
    AsItLies(&'a [u8]),
    /// Torn by its framing: rare, small, and looked at once.
    Joined(Vec<u8>),
}

impl<'a> Whole<'a> {
    fn of(intake: &'a Intake) -> Self {
        let mut parts = intake.ready();
        match (parts.next(), parts.next()) {
            (None, _) => Self::AsItLies(b""),
            (Some(whole), None) => Self::AsItLies(whole),
            (Some(_), Some(_)) => Self::Joined(intake.ready().collect::<Vec<_>>().concat()),
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::AsItLies(bytes) => bytes,
            Self::Joined(bytes) => bytes,
        }
    }
}

/// Keeps the last `USAGE_TAIL_BYTES` of what went by.
fn keep_tail(tail: &mut Vec<u8>, payload: &[u8]) {
    let fresh = &payload[payload.len().saturating_sub(limits::USAGE_TAIL_BYTES)..];
    let old = (tail.len() + fresh.len()).saturating_sub(limits::USAGE_TAIL_BYTES);
    tail.drain(..old.min(tail.len()));
    tail.extend_from_slice(fresh);
}

fn tokens(usage: Option<Usage>, endpoint: Endpoint, reasoning_apart: bool) -> Tokens {
    usage.map_or_else(Tokens::default, |usage| Tokens {
        // Some say for embeddings only how much it was in all.
        prompt: usage.prompt.or_else(|| usage.total.filter(|_| endpoint == Endpoint::Embeddings)),
        completion: usage.completion_with_reasoning(reasoning_apart),
        cached: usage.cached,
        reasoning: usage.reasoning,
        audio_prompt: usage.audio_prompt,
        audio_completion: usage.audio_completion,
    })
}
