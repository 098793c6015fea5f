//! Sampled logs: which exchanges are kept in the state directory, how long, and how many bytes of them.

use std::{ops::RangeInclusive, time::Duration};

use toml::de::DeValue;

use super::raw::{Field, Table};
use crate::base::limits::{LOG_KEEP_DAYS, LOG_KEEP_DAYS_MAX, LOG_STORE_BYTES, LOG_STORE_BYTES_FLOOR};

/// What is kept; taken up at the start alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptLogs {
    /// Of a million exchanges, so many are kept.
    pub sample_ppm: u32,
    /// Whether all are kept that did not end well.
    pub errors: bool,
    pub keep_time: Duration,
    pub bytes_max: u64,
}

const BYTES: RangeInclusive<usize> = LOG_STORE_BYTES_FLOOR..=1 << 40;

/// Compiles the table; without it nothing is kept.
pub(super) fn kept_logs(table: Option<Table<'_>>, has_state: bool) -> Option<KeptLogs> {
    let mut table = table?;
    let sample_ppm = table.get("sample").and_then(share).unwrap_or(0);
    let errors = table.get("errors").and_then(Field::flag).unwrap_or(true);
    let days = table.get("retention_days").and_then(|field| field.count(1..=LOG_KEEP_DAYS_MAX));
    let bytes_max = table.get("bytes_max").and_then(|field| field.count(BYTES));
    if !has_state {
        table.complain(
            "there is no place where logs are kept",
            "[state]\n          dir = \"/var/lib/ringway\"",
        );
    }
    table.close();
    Some(KeptLogs {
        sample_ppm,
        errors,
        keep_time: Duration::from_secs(days.unwrap_or(LOG_KEEP_DAYS) as u64 * 86_400),
        bytes_max: bytes_max.unwrap_or(LOG_STORE_BYTES) as u64,
    })
}

/// A share from 0 to 1, in millionths.
pub(super) fn share(field: Field<'_>) -> Option<u32> {
    let number = match field.value() {
        DeValue::Integer(number) => number.as_str().parse::<f64>().ok(),
        DeValue::Float(number) => number.as_str().parse().ok(),
        _ => None,
    };
    let Some(share) = number.filter(|share| (0.0..=1.0).contains(share)) else {
        field.complain("this is no share from 0 to 1", "sample = 0.01 keeps one in a hundred");
        return None;
    };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to a million")]
    Some((share * 1e6).round() as u32)
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{check as check_said, compiled},
        *,
    };

    const PROVIDER: &str = "[[provider]]\nname = \"p\"\nauth = \"none\"\nbase_url = \"http://127.0.0.1:1\"\n";

    fn kept(settings: &str) -> Option<KeptLogs> {
        compiled(&format!("{PROVIDER}[state]\ndir = \"/state\"\n{settings}")).snapshot.kept_logs
    }

    #[test]
    fn nothing_is_kept_without_the_table_and_errors_with_it() {
        assert_eq!(kept(""), None);
        let logs = kept("[logs]").expect("a table");
        assert_eq!((logs.sample_ppm, logs.errors), (0, true));
        let all = "[logs]\nsample = 0.25\nerrors = false\nretention_days = 2\nbytes_max = 4194304";
        let expect = KeptLogs {
            sample_ppm: 250_000,
            errors: false,
            keep_time: Duration::from_secs(172_800),
            bytes_max: 4 << 20,
        };
        assert_eq!(kept(all), Some(expect));
        assert_eq!(kept("[logs]\nsample = 1").map(|logs| logs.sample_ppm), Some(1_000_000));
    }

    #[test]
    fn what_cannot_be_kept_is_complained_of() {
        let said = [
            "5:1 logs: there is no place where logs are kept",
            "6:10 logs.sample: this is no share from 0 to 1",
        ];
        check_said(&format!("{PROVIDER}[logs]\nsample = 1.5\n"), &said);
    }
}
