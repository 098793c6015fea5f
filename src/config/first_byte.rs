//! What may be done before the first byte of an answer is released to its client: hold the beginning of a stream back, ask
//! a second target when the first is slow. Both cost something and are off by default; each is said of a provider and, in
//! place of that, of a model service.

use std::time::Duration;

use super::raw::Field;
use crate::base::limits::{HEDGE_PERCENTILE_FLOOR, HOLD_BACK_EVENTS_MAX, HOLD_BACK_TIME_MAX};

/// How much of a stream is held until it begins to leave: so many events or for so long, whichever comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HoldBack {
    /// 0: nothing is held.
    pub events: u16,
    pub time: Duration,
}

impl HoldBack {
    pub const OFF: Self = Self { events: 0, time: Duration::ZERO };
}

/// Reads `hold_back = { events = …, secs = … }`; an empty table says that nothing is held.
pub(super) fn hold_back(field: Field<'_>) -> Option<HoldBack> {
    let mut table = field.table()?;
    let (events, secs) = (table.get("events"), table.get("secs"));
    let hold_back = match (events, secs) {
        (None, None) => Some(HoldBack::OFF),
        (Some(events), Some(secs)) => {
            let events = events.count(1..=HOLD_BACK_EVENTS_MAX).and_then(|events| u16::try_from(events).ok());
            let time = secs.secs(Duration::from_millis(1)..=HOLD_BACK_TIME_MAX);
            events.zip(time).map(|(events, time)| HoldBack { events, time })
        }
        _ => {
            let fix = "hold_back = { events = 8, secs = 0.5 }, or {} to hold nothing";
            table.complain("a hold-back has an end in events and one in time", fix);
            None
        }
    };
    table.close();
    hold_back
}

/// Reads `hedge_percentile`. 0: nobody is asked beside the first.
pub(super) fn hedge_percentile(field: Field<'_>) -> Option<u8> {
    let percent = field.clone().count(0..=99).and_then(|percent| u8::try_from(percent).ok())?;
    if (1..HEDGE_PERCENTILE_FLOOR).contains(&percent) {
        field.complain(
            "most requests would be asked twice",
            format!("write {HEDGE_PERCENTILE_FLOOR} to 99, such as 95; or 0 for never"),
        );
        return None;
    }
    Some(percent)
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{check_provider, compiled},
        *,
    };

    fn provider(lines: &str) -> String {
        format!("name = \"a\"\nauth = \"none\"\nbase_url = \"http://127.0.0.1:1\"\n{lines}")
    }

    #[test]
    fn a_hold_back_has_two_ends() {
        let both = "a hold-back has an end in events and one in time";
        check_provider(
            &provider("hold_back = { events = 8 }"),
            &[&format!("5:13 provider[0].hold_back: {both}")],
        );
        check_provider(
            &provider("hold_back = { secs = 1 }"),
            &[&format!("5:13 provider[0].hold_back: {both}")],
        );
        for (lines, place) in [
            ("hold_back = { events = 0, secs = 1 }", "5:24 provider[0].hold_back.events"),
            ("hold_back = { events = 65, secs = 1 }", "5:24 provider[0].hold_back.events"),
            ("hold_back = { events = 1, secs = 0 }", "5:34 provider[0].hold_back.secs"),
            ("hold_back = { events = 1, secs = 11 }", "5:34 provider[0].hold_back.secs"),
            ("hedge_percentile = 100", "5:20 provider[0].hedge_percentile"),
        ] {
            check_provider(&provider(lines), &[&format!("{place}: this number is out of range")]);
        }
        let twice = "5:20 provider[0].hedge_percentile: most requests would be asked twice";
        check_provider(&provider("hedge_percentile = 49"), &[twice]);
    }

    #[test]
    fn a_service_says_it_in_place_of_its_providers() {
        let text = format!(
            "[[provider]]\n{}\n[[provider]]\nname = \"b\"\nauth = \"none\"\nbase_url = \"http://127.0.0.1:2\"\n\
             [[route]]\nname = \"off\"\nmodel = \"a/m\"\nhold_back = {{}}\nhedge_percentile = 0\n\
             [[route]]\nname = \"silent\"\nmodel = \"a/m\"\n",
            provider("hold_back = { events = 8, secs = 0.25 }\nhedge_percentile = 95")
        );
        let snapshot = compiled(&text).snapshot;
        let said = HoldBack { events: 8, time: Duration::from_millis(250) };
        let [a, b] = &snapshot.providers[..] else { panic!("two providers") };
        assert_eq!((a.hold_back, a.hedge_percentile), (said, 95));
        assert_eq!((b.hold_back, b.hedge_percentile), (HoldBack::OFF, 0));
        let terms: Vec<_> = snapshot.routes.services.iter().map(|service| service.terms).collect();
        assert_eq!((terms[0].hold_back(a), terms[0].hedge_percentile(a)), (HoldBack::OFF, 0));
        assert_eq!((terms[1].hold_back(a), terms[1].hedge_percentile(a)), (said, 95));
    }
}
