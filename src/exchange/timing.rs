//! `Server-Timing`: where the time before a reply's head went, told to who may know and asks. Durations are milliseconds.
//!
//! The head is the last place where it can stand, so a stream tells what was known by its first event, which has a token in
//! it at some providers only; `first_byte` is always there. What was not reached is left out; what took no time is not.

use std::fmt::Write as _;

use super::{Facts, receive::Request, seam::World};
use crate::{base::now::Now, config::TimingSaid, ledger::record::Phases, wire::http1::Known};

/// Moments that nobody else wants to know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Marks {
    /// By the head alone.
    pub(super) admitted: Option<Now>,
    /// It is known what is asked.
    pub(super) parsed: Option<Now>,
    /// It is known where it may go, and that it may.
    pub(super) routed: Option<Now>,
    /// The last attempt began.
    pub(super) tried: Option<Now>,
}

/// Whether this request's reply tells.
pub(super) fn marks(said: TimingSaid, request: &Request) -> Option<Box<Marks>> {
    let is_told = match said {
        TimingSaid::Never => false,
        TimingSaid::Asked => request.known(Known::ServerTimingAsked) == Some(b"1"),
        TimingSaid::Always => true,
    };
    is_told.then(Box::default)
}

impl Facts<'_> {
    /// Notes a moment if it will be told.
    pub(super) fn mark(&mut self, note: impl FnOnce(&mut Marks)) {
        if let Some(marks) = &mut self.marks {
            note(marks);
        }
    }

    /// Fixes what the head, which is due now, says of the time until now.
    pub(super) fn time<W: World>(&mut self, phases: &Phases, world: &W) {
        if let Some(marks) = &self.marks {
            self.timing = Some(value(marks, phases, world.now()).into());
        }
    }
}

fn value(marks: &Marks, phases: &Phases, now: Now) -> String {
    let of_this_try = |moment: Option<Now>| moment.filter(|moment| Some(*moment) >= marks.tried);
    let (connected, sent) = (of_this_try(phases.connected), of_this_try(phases.sent));
    let spans = [
        ("auth", phases.head_read, marks.admitted),
        ("body", marks.admitted, phases.body_read),
        ("parse", phases.body_read, marks.parsed),
        ("route", marks.parsed, marks.routed),
        // Attempts before the last one, and what was waited between them.
        ("queue", marks.routed, marks.tried),
        ("connect", marks.tried, connected),
        ("first_byte", sent, of_this_try(phases.first_byte)),
        ("first_token", sent, of_this_try(phases.first_token)),
        ("total", Some(phases.started), Some(now)),
    ];
    let mut text = String::new();
    for (name, from, to) in spans {
        let (Some(from), Some(to)) = (from, to) else { continue };
        let separator = if text.is_empty() { "" } else { ", " };
        let tenths = to.us_since(from).saturating_add(50) / 100;
        let written = write!(text, "{separator}{name};dur={}.{}", tenths / 10, tenths % 10);
        debug_assert!(written.is_ok(), "memory takes whatever is written");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(us: u64) -> Option<Now> {
        Some(Now(us * 1_000))
    }

    #[track_caller]
    fn check(marks: Marks, phases: Phases, expect: &str) {
        assert_eq!(value(&marks, &Phases { started: Now(0), ..phases }, Now(1_000_000_000)), expect);
    }

    #[test]
    fn every_phase_that_was_reached_is_told_in_tenths_of_a_millisecond() {
        check(Marks::default(), Phases::default(), "total;dur=1000.0");
        let marks = Marks { admitted: at(149), parsed: at(2_300), routed: at(2_310), tried: at(2_311) };
        let phases = Phases {
            head_read: at(100),
            body_read: at(2_200),
            connected: at(3_311),
            sent: at(3_400),
            first_byte: at(103_400),
            first_token: at(103_500),
            ..Phases::default()
        };
        check(
            Marks { parsed: None, routed: None, tried: None, ..marks },
            Phases { body_read: None, ..phases },
            "auth;dur=0.0, first_byte;dur=100.0, first_token;dur=100.1, total;dur=1000.0",
        );
        check(
            marks,
            phases,
            "auth;dur=0.0, body;dur=2.1, parse;dur=0.1, route;dur=0.0, queue;dur=0.0, connect;dur=1.0, \
             first_byte;dur=100.0, first_token;dur=100.1, total;dur=1000.0",
        );
    }

    #[test]
    fn what_an_earlier_attempt_reached_is_time_in_the_queue() {
        let marks = Marks { routed: at(10), tried: at(5_010), ..Marks::default() };
        let phases = Phases { connected: at(20), sent: at(30), first_byte: at(5_000), ..Phases::default() };
        check(marks, phases, "queue;dur=5.0, total;dur=1000.0");
        let phases = Phases { connected: at(5_110), ..phases };
        check(marks, phases, "queue;dur=5.0, connect;dur=0.1, total;dur=1000.0");
    }
}
