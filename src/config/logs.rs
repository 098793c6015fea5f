//! Sampled logs: which exchanges are kept in the state directory, how long, how many bytes of them, and whether with what was
//! said in them.

use std::{ops::RangeInclusive, time::Duration};

use toml::de::DeValue;

use super::raw::{Field, Table};
use crate::base::limits::{
    LOG_KEEP_DAYS, LOG_KEEP_DAYS_MAX, LOG_PAYLOAD_BYTES, LOG_PAYLOAD_BYTES_FLOOR, LOG_PAYLOAD_BYTES_MAX,
    LOG_STORE_BYTES, LOG_STORE_BYTES_FLOOR,
};

/// What is kept. For how long and how much of it is taken up at the start alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptLogs {
    /// Of a million exchanges, so many are kept.
    pub sample_ppm: u32,
    /// Whether all are kept that did not end well.
    pub errors: bool,
    pub payload: KeepPayload,
    /// Most bytes that are kept of a request's body, and of an answer's.
    pub payload_bytes_max: usize,
    pub keep_time: Duration,
    pub bytes_max: u64,
}

/// Whether an exchange that is kept is kept with its payload. A caller's own setting and the request's come behind it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeepPayload {
    /// Never, whoever wants it.
    #[default]
    Never,
    /// Where the caller's setting or the request says so.
    Asked,
    /// Unless the caller's setting or the request says no.
    Always,
}

impl KeepPayload {
    /// Who wins: the gateway's `Never`; then a caller's no; then the request; then a caller's yes; then the gateway.
    pub fn decide(self, caller: Option<bool>, request: Option<bool>) -> bool {
        match (self, caller) {
            (Self::Never, _) | (_, Some(false)) => false,
            (gateway, caller) => request.or(caller).unwrap_or(gateway == Self::Always),
        }
    }
}

const BYTES: RangeInclusive<usize> = LOG_STORE_BYTES_FLOOR..=1 << 40;
const PAYLOAD_BYTES: RangeInclusive<usize> = LOG_PAYLOAD_BYTES_FLOOR..=LOG_PAYLOAD_BYTES_MAX;

/// Compiles the table; without it nothing is kept.
pub(super) fn kept_logs(table: Option<Table<'_>>, has_state: bool) -> Option<KeptLogs> {
    let mut table = table?;
    let sample_ppm = table.get("sample").and_then(share).unwrap_or(0);
    let errors = table.get("errors").and_then(Field::flag).unwrap_or(true);
    let days = table.get("retention_days").and_then(|field| field.count(1..=LOG_KEEP_DAYS_MAX));
    let bytes_max = table.get("bytes_max").and_then(|field| field.count(BYTES));
    let payloads =
        [("never", KeepPayload::Never), ("asked", KeepPayload::Asked), ("always", KeepPayload::Always)];
    let payload = table.get("payload").and_then(Field::text).and_then(|text| text.choose(&payloads));
    let payload_bytes_max = table.get("payload_bytes_max").and_then(|field| field.count(PAYLOAD_BYTES));
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
        payload: payload.unwrap_or_default(),
        payload_bytes_max: payload_bytes_max.unwrap_or(LOG_PAYLOAD_BYTES),
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
        assert_eq!((logs.payload, logs.payload_bytes_max), (KeepPayload::Never, 64 << 10));
        let all = "[logs]\nsample = 0.25\nerrors = false\nretention_days = 2\nbytes_max = 4194304\n\
                   payload = \"always\"\npayload_bytes_max = 2048";
        let expect = KeptLogs {
            sample_ppm: 250_000,
            errors: false,
            payload: KeepPayload::Always,
            payload_bytes_max: 2048,
            keep_time: Duration::from_secs(172_800),
            bytes_max: 4 << 20,
        };
        assert_eq!(kept(all), Some(expect));
        assert_eq!(kept("[logs]\nsample = 1").map(|logs| logs.sample_ppm), Some(1_000_000));
    }

    #[track_caller]
    fn check_decided(gateway: KeepPayload, expect: [[bool; 3]; 3]) {
        let words = [None, Some(false), Some(true)];
        assert_eq!(words.map(|caller| words.map(|request| gateway.decide(caller, request))), expect);
    }

    #[test]
    fn a_no_wins_wherever_it_is_said_and_a_yes_where_it_is_allowed() {
        // A row a caller, a column a request: nothing said, no, yes.
        const NO: [bool; 3] = [false; 3];
        const YES: [bool; 3] = [true, false, true];
        check_decided(KeepPayload::Never, [NO, NO, NO]);
        check_decided(KeepPayload::Asked, [[false, false, true], NO, YES]);
        check_decided(KeepPayload::Always, [YES, NO, YES]);
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
