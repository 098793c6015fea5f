//! A provider's `[provider.health_check]` table: how it is asked, from time to time, whether it is there.
//!
//! For what one runs oneself, where asking costs nothing. Nobody is asked who has no such table.

use std::time::Duration;

use super::raw::{Field, Table};
use crate::base::limits::{
    HEALTH_CHECK_INTERVAL, HEALTH_CHECK_INTERVAL_MAX, HEALTH_CHECK_INTERVAL_MIN, HEALTH_CHECK_TIME,
    HEALTH_CHECK_TIME_MAX,
};

/// How a provider is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// Of the provider's host, whatever the base URL's path is.
    pub path: Box<str>,
    pub interval: Duration,
    /// A check that takes longer has failed.
    pub timeout: Duration,
    /// It is down after so many failures in a row,
    pub unhealthy_after: u8,
    /// and up again after so many successes.
    pub healthy_after: u8,
    /// Any other status is a failure.
    pub status: u16,
}

/// Reads the table; nothing if the path is missing or wrong.
pub(super) fn health_check(mut table: Table<'_>) -> Option<HealthCheck> {
    let path = table.get("path");
    if path.is_none() {
        table.complain("it is not said what to ask for", "path = \"/health\"");
    }
    let path = path.and_then(path_of);
    let mut secs = |key, range, default| {
        table.get(key).and_then(|field: Field<'_>| field.secs(range)).unwrap_or(default)
    };
    let interval = HEALTH_CHECK_INTERVAL_MIN..=HEALTH_CHECK_INTERVAL_MAX;
    let interval = secs("interval_secs", interval, HEALTH_CHECK_INTERVAL);
    let timeout = secs("timeout_secs", HEALTH_CHECK_INTERVAL_MIN..=HEALTH_CHECK_TIME_MAX, HEALTH_CHECK_TIME);
    let mut count = |key, range, default: u16| {
        let count = table.get(key).and_then(|field: Field<'_>| field.count(range));
        count.and_then(|count| u16::try_from(count).ok()).unwrap_or(default)
    };
    let narrow = |count| u8::try_from(count).unwrap_or(u8::MAX);
    let unhealthy_after = narrow(count("unhealthy_after", 1..=100, 3));
    let healthy_after = narrow(count("healthy_after", 1..=100, 2));
    let status = count("expect_status", 200..=599, 200);
    table.close();
    Some(HealthCheck { path: path?, interval, timeout, unhealthy_after, healthy_after, status })
}

fn path_of(field: Field<'_>) -> Option<Box<str>> {
    let text = field.text()?;
    let path = text.value.as_str();
    let is_plain = path.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'#' | b'"' | b'\\'));
    if path.starts_with('/') && !path.starts_with("//") && is_plain {
        return Some(path.into());
    }
    text.complain(
        format!("{} is not a path", text.quoted()),
        "write it from the host's root on: path = \"/health\"",
    );
    None
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{check, check_fix, compiled},
        *,
    };

    fn text(settings: &str) -> String {
        format!(
            "[[provider]]\nname = \"own\"\nbase_url = \"http://127.0.0.1:9/v1\"\n[provider.health_check]\n{settings}\n"
        )
    }

    #[test]
    fn nobody_is_checked_unless_it_is_said_and_a_path_is_enough() {
        let of = |text: &str| compiled(text).snapshot.providers.remove(0).health_check;
        assert_eq!(of("[[provider]]\nname = \"openai\"\n"), None);
        let usual = HealthCheck {
            path: "/health".into(),
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            unhealthy_after: 3,
            healthy_after: 2,
            status: 200,
        };
        assert_eq!(of(&text("path = \"/health\"")).as_ref(), Some(&usual));
        let all = "path = \"/up?deep=1\"\ninterval_secs = 0.5\ntimeout_secs = 1\nunhealthy_after = 1\nhealthy_after = 1\nexpect_status = 204";
        let expect = HealthCheck {
            path: "/up?deep=1".into(),
            interval: Duration::from_millis(500),
            timeout: Duration::from_secs(1),
            unhealthy_after: 1,
            healthy_after: 1,
            status: 204,
        };
        assert_eq!(of(&text(all)), Some(expect));
    }

    #[test]
    fn what_cannot_be_asked_is_complained_of() {
        let at = "provider[0].health_check";
        check(&text(""), &[&format!("4:1 {at}: it is not said what to ask for")]);
        for path in ["", "health", "http://x.test/", "//x.test/", "/a b", "/a#b"] {
            check(&text(&format!("path = \"{path}\"")), &[&format!("5:8 {at}.path: `{path}` is not a path")]);
        }
        for (setting, value) in [
            ("interval_secs", "0"),
            ("timeout_secs", "61"),
            ("unhealthy_after", "0"),
            ("expect_status", "99"),
        ] {
            let column = setting.len() + 4;
            check(
                &text(&format!("path = \"/\"\n{setting} = {value}")),
                &[&format!("6:{column} {at}.{setting}: this number is out of range")],
            );
        }
        check_fix(&text("path = \"/\"\ninterval_sec = 3"), "did you mean `interval_secs`?");
    }
}
