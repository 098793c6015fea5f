//! Copies of what is said in an exchange, for the logs: made only where that was decided before the body was read, or once
//! it is known to end badly, and never longer than was said. Where nothing is wanted each call is one branch.
//!
//! Only JSON and events are copied. Forms, sound and images are no text that could be masked: of them the length is told.
//! Nothing is copied of who was not admitted.

#[cfg(test)]
use super::sim::planted::{self, Bug};
use super::{ask::is_media_type, budget::Hold, lens::Kind, receive::Request, seam::World};
use crate::{
    base::limits::LOG_STREAM_FACTOR,
    config::{Snapshot, callers::Caller},
    ledger::logged::{self, Copied, Keep},
    wire::{
        http1::Known,
        openai::endpoint::{Endpoint, Repeat},
    },
};

/// Whether an exchange is kept, before anything is known of it.
pub(super) fn keep<W: World>(world: &W, snapshot: &Snapshot) -> Keep {
    let Some(kept) = &snapshot.kept_logs else { return Keep::No };
    // The remainder is even enough: 2^64 is not nearly a million.
    let chance = u32::try_from(world.random() % 1_000_000).unwrap_or_default();
    Keep::decide(kept, None, chance)
}

/// The copies of one exchange.
#[derive(Default)]
pub(super) struct Payload {
    state: State,
    bytes_max: usize,
    hold: Hold,
}

#[derive(Default)]
enum State {
    #[default]
    Off,
    /// Copied from the moment on when the exchange is known to end badly.
    IfBad,
    On(Box<logged::Payload>),
}

impl Payload {
    /// What is to be copied of an exchange of a caller who was admitted.
    pub(super) fn of<W: World>(
        world: &W,
        snapshot: &Snapshot,
        caller: Option<&Caller>,
        request: &Request,
        endpoint: Endpoint,
        keep: Keep,
    ) -> Self {
        let Some(kept) = &snapshot.kept_logs else { return Self::default() };
        let state = match keep {
            _ if endpoint.repeat() == Repeat::Local => return Self::default(),
            Keep::No => return Self::default(),
            Keep::IfBad => State::IfBad,
            Keep::Yes => State::On(Box::default()),
        };
        let word = request.known(Known::CollectPayload).or_else(|| request.known(Known::CollectPayloadAlias));
        let asked = match word {
            Some(b"true") => Some(true),
            #[cfg(test)]
            Some(b"false") if planted::is(Bug::NoUnheeded) => None,
            Some(b"false") => Some(false),
            // Whoever says something else means something: not to be kept is what can do no harm.
            Some(_) => Some(false),
            None => None,
        };
        if !kept.payload.decide(caller.and_then(|caller| caller.log_payload), asked) {
            return Self::default();
        }
        Self { state, bytes_max: kept.payload_bytes_max, hold: world.local().copies.hold() }
    }

    /// The body is whole.
    pub(super) fn asked(&mut self, request: &Request) {
        let State::On(payload) = &mut self.state else { return };
        let body = request.body();
        if is_json(request) {
            copy(&mut payload.request, body, self.bytes_max, 0, &mut self.hold);
        } else {
            payload.request.whole_bytes = body.len() as u64;
        }
    }

    /// The exchange will not end well, and this was asked, if that is still at hand.
    pub(super) fn ends_badly<'r>(&mut self, request: impl Into<Option<&'r Request>>) {
        if matches!(self.state, State::IfBad) {
            self.state = State::On(Box::default());
            if let Some(request) = request.into() {
                self.asked(request);
            }
        }
    }

    /// An answer begins to leave; with it the request is let go.
    pub(super) fn answers(&mut self, kind: Kind, is_bad: bool, request: Option<&Request>) {
        if matches!(self.state, State::Off) {
            return;
        }
        if is_bad {
            self.ends_badly(request);
        }
        match &mut self.state {
            State::On(payload) => payload.is_stream = kind == Kind::Events,
            // The request is gone, and half of an exchange explains nothing.
            _ => self.state = State::Off,
        }
        if kind == Kind::Other {
            self.bytes_max = 0;
        }
    }

    /// What leaves next of the answer.
    pub(super) fn says<'b>(&mut self, parts: impl IntoIterator<Item = &'b [u8]>) {
        let State::On(payload) = &mut self.state else { return };
        let factor = if payload.is_stream { LOG_STREAM_FACTOR } else { 1 };
        let held = payload.request.bytes.len();
        #[cfg(test)]
        let parts = parts.into_iter().filter(|part| !planted::is_end_uncopied(part));
        for part in parts {
            copy(&mut payload.response, part, self.bytes_max * factor, held, &mut self.hold);
        }
    }

    /// We said no, in the place of an answer.
    pub(super) fn refused(&mut self, body: &[u8]) {
        self.ends_badly(None);
        self.says([body]);
    }

    /// The last word of an answer that had begun before there was one: an event.
    pub(super) fn refused_late(&mut self, event: &[u8]) {
        self.ends_badly(None);
        if let State::On(payload) = &mut self.state {
            payload.is_stream = true;
        }
        self.says([event]);
    }

    /// What was copied.
    pub(super) fn take(self) -> Option<Box<logged::Payload>> {
        match self.state {
            State::On(payload) if payload.request.whole_bytes > 0 || payload.response.whole_bytes > 0 => {
                Some(payload)
            }
            _ => None,
        }
    }
}

/// Adds a copy of `bytes` as far as it may grow. What was cut once does not go on behind the gap.
fn copy(into: &mut Copied, bytes: &[u8], bytes_max: usize, held_besides: usize, hold: &mut Hold) {
    #[cfg(test)]
    let bytes_max = if planted::is(Bug::CopyUnbounded) { usize::MAX } else { bytes_max };
    let room = if into.is_whole() { bytes_max.saturating_sub(into.bytes.len()) } else { 0 };
    into.whole_bytes += bytes.len() as u64;
    let part = &bytes[..bytes.len().min(room)];
    if !part.is_empty() && hold.try_grow(held_besides + into.bytes.len() + part.len()) {
        into.bytes.extend_from_slice(part);
    }
}

/// Whether the body is what it should be where JSON is asked for, and in no coding that would hide keys from a mask.
fn is_json(request: &Request) -> bool {
    let coding = request.known(Known::ContentEncoding).unwrap_or(b"identity");
    let media_type = request.known(Known::ContentType).unwrap_or(b"");
    coding.eq_ignore_ascii_case(b"identity") && is_media_type(media_type, b"application/json")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::budget::Budget;

    fn on(budget: &Budget, bytes_max: usize, is_stream: bool) -> Payload {
        let payload = logged::Payload { is_stream, ..logged::Payload::default() };
        Payload { state: State::On(Box::new(payload)), bytes_max, hold: budget.hold() }
    }

    #[track_caller]
    fn check(mut payload: Payload, said: &[&str], expect: (&str, u64)) {
        payload.says(said.iter().map(|part| part.as_bytes()));
        let copied = payload.take().expect("something was said").response;
        assert_eq!((&*copied.bytes, copied.whole_bytes), (expect.0.as_bytes(), expect.1));
    }

    #[test]
    fn a_copy_is_a_beginning_and_tells_how_long_the_whole_is() {
        let budget = Budget::new(64);
        check(on(&budget, 8, false), &["one", "two"], ("onetwo", 6));
        check(on(&budget, 8, false), &["one", "twothree", "!"], ("onetwoth", 12));
        check(on(&budget, 0, false), &["sound"], ("", 5));
        check(on(&budget, 1, true), &["0123456789", "0123456789"], ("0123456789012345", 20));
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn what_a_core_has_no_room_for_is_cut_and_nothing_follows_the_gap() {
        let budget = Budget::new(4);
        check(on(&budget, 8, false), &["one", "two", "x"], ("one", 7));
        let mut first = on(&budget, 8, false);
        first.says([&b"full"[..]]);
        check(on(&budget, 8, false), &["x"], ("", 1));
    }

    #[test]
    fn of_what_is_kept_only_if_bad_nothing_is_copied_until_it_is() {
        let budget = Budget::new(64);
        let waiting = || Payload { state: State::IfBad, ..on(&budget, 8, false) };
        let mut good = waiting();
        good.answers(Kind::Json, false, None);
        good.says([&b"{}"[..]]);
        assert!(good.take().is_none());
        let mut bad = waiting();
        bad.answers(Kind::Json, true, None);
        check(bad, &["{}"], ("{}", 2));
        let mut refused = waiting();
        refused.refused(b"no");
        assert_eq!(refused.take().expect("it was said").response.bytes, b"no");
        let mut off = Payload::default();
        off.refused(b"no");
        assert!(off.take().is_none());
    }
}
