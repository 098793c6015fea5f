//! The `[breaker]` and `[retry]` tables: when a target is given up for a while, and how often a request is tried.

use std::time::Duration;

use super::raw::{Field, Table};
use crate::base::limits;

/// When a target's breaker opens, and how it closes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Breaker {
    /// Whether there are breakers at all.
    pub enabled: bool,
    /// It opens after so many failures in a row,
    pub failures: u8,
    /// or when of at least `rate_requests` in ten seconds at least `rate_percent` failed.
    pub rate_percent: u8,
    pub rate_requests: u16,
    /// It is open for so long the first time, and twice as long each time that it opens again,
    pub open: Duration,
    /// up to this.
    pub open_max: Duration,
    /// Over this time its share of the requests rises from a tenth to all of them.
    pub ramp: Duration,
}

/// How often a request is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Over all targets.
    pub attempts_max: u8,
    /// How many more attempts a provider gets because a target of its own is tried again, in percent of its requests.
    pub budget_percent: u8,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            enabled: true,
            failures: 5,
            rate_percent: 50,
            rate_requests: 20,
            open: limits::BREAKER_OPEN_TIME,
            open_max: limits::BREAKER_OPEN_TIME_MAX,
            ramp: limits::BREAKER_RAMP_TIME,
        }
    }
}

impl Default for Retry {
    fn default() -> Self {
        Self { attempts_max: 3, budget_percent: 10 }
    }
}

/// Reads `[breaker]`.
pub(super) fn breaker(root: &mut Table<'_>) -> Breaker {
    let d = Breaker::default();
    let Some(mut table) = root.table("breaker") else { return d };
    let enabled = table.get("enabled").and_then(Field::flag).unwrap_or(d.enabled);
    let mut number = |key, range| table.get(key).and_then(|field| field.count(range));
    let narrow = |number: usize| u8::try_from(number).unwrap_or(u8::MAX);
    let failures = number("failures", 1..=100).map_or(d.failures, narrow);
    let rate_percent = number("rate_percent", 1..=100).map_or(d.rate_percent, narrow);
    let rate_requests = number("rate_requests", 1..=10_000);
    let rate_requests =
        rate_requests.map_or(d.rate_requests, |number| u16::try_from(number).unwrap_or(u16::MAX));
    let mut secs = |key| {
        table.get(key).and_then(|field| field.secs(Duration::from_millis(100)..=Duration::from_secs(3_600)))
    };
    let (open, open_max) = (secs("open_secs"), secs("open_max_secs"));
    let ramp = secs("ramp_secs").unwrap_or(d.ramp);
    let open_secs = open.unwrap_or(d.open);
    if open_max.is_some_and(|most| most < open_secs) {
        table
            .complain("open_max_secs is less than open_secs", "a breaker opens for open_secs the first time");
    }
    table.close();
    // A longer first time raises a most that nobody has set.
    let open_max = open_max.unwrap_or(d.open_max).max(open_secs);
    Breaker { enabled, failures, rate_percent, rate_requests, open: open_secs, open_max, ramp }
}

/// Reads `[retry]`.
pub(super) fn retry(root: &mut Table<'_>) -> Retry {
    let d = Retry::default();
    let Some(mut table) = root.table("retry") else { return d };
    let mut number = |key, range| {
        let number = table.get(key).and_then(|field| field.count(range));
        number.map(|number| u8::try_from(number).unwrap_or(u8::MAX))
    };
    let attempts_max =
        number("attempts_max", 1..=usize::from(limits::ATTEMPTS_CEILING)).unwrap_or(d.attempts_max);
    let budget_percent = number("budget_percent", 0..=100).unwrap_or(d.budget_percent);
    table.close();
    Retry { attempts_max, budget_percent }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{check, check_fix, compiled},
        *,
    };

    const PROVIDER: &str = "[[provider]]\nname = \"openai\"\n";

    #[test]
    fn what_is_not_said_is_the_default() {
        let snapshot = compiled(PROVIDER).snapshot;
        assert_eq!((snapshot.breaker, snapshot.retry), (Breaker::default(), Retry::default()));
        let text =
            format!("[breaker]\nfailures = 3\nopen_secs = 0.5\n[retry]\nbudget_percent = 0\n{PROVIDER}");
        let snapshot = compiled(&text).snapshot;
        let open = Duration::from_millis(500);
        assert_eq!(snapshot.breaker, Breaker { failures: 3, open, ..Breaker::default() });
        assert_eq!(snapshot.retry, Retry { budget_percent: 0, ..Retry::default() });
        let long = compiled(&format!("[breaker]\nopen_secs = 90\n{PROVIDER}")).snapshot.breaker;
        assert_eq!(long.open_max, Duration::from_secs(90));
    }

    #[test]
    fn what_makes_no_sense_is_complained_of() {
        let range = "this number is out of range";
        for (setting, value) in [
            ("breaker.failures", "0"),
            ("breaker.failures", "101"),
            ("breaker.rate_percent", "0"),
            ("breaker.rate_percent", "101"),
            ("breaker.rate_requests", "10001"),
            ("breaker.open_secs", "0"),
            ("breaker.ramp_secs", "3601"),
            ("retry.attempts_max", "0"),
            ("retry.attempts_max", "11"),
            ("retry.budget_percent", "101"),
        ] {
            let column = setting.len() + 4;
            check(&format!("{setting} = {value}\n"), &[&format!("1:{column} {setting}: {range}")]);
        }
        check(
            &format!("[breaker]\nopen_secs = 5\nopen_max_secs = 4\n{PROVIDER}"),
            &["1:1 breaker: open_max_secs is less than open_secs"],
        );
        check_fix(&format!("[breaker]\nfailure = 3\n{PROVIDER}"), "did you mean `failures`?");
    }
}
