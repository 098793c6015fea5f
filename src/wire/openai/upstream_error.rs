//! What a provider's error answer says of itself: which kind of error it is, and when to come back.
//!
//! Decisions hang on it, so nothing is guessed: a code counts where it stands, whole and unescaped, in a body that is strict
//! JSON; a wait counts if it is written as the standards say. Everything else is silence.

use crate::{
    base::{
        calendar,
        limits::{ERROR_BODY_BYTES_MAX, UPSTREAM_RETRY_AFTER_MS_MAX},
    },
    wire::{
        http1::{Known, head::ResponseHead},
        json::{scan, usage::members},
    },
};

/// What kind of error a body names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// The account has no money, or a bound on its spending is reached: a wait of seconds changes nothing.
    Billing,
    RateLimited,
    Overloaded,
    /// The provider does not have the model, or does not give it to this key.
    MissingModel,
    /// The key is wrong.
    Key,
    /// The request is wrong, and will be everywhere.
    Request,
    /// The provider has an error of its own.
    Server,
}

/// What the body of an error answer, or the data of an error event, says of itself; `None` if it has no `error`, or one that
/// names no code and type that are known.
///
/// `error.code` before `error.type`: OpenAI's `insufficient_quota` may come with either. Some providers put both beside
/// `message` without an `error` around them, and write statuses as codes.
pub fn said(json: &[u8]) -> Option<Said> {
    if json.len() > ERROR_BODY_BYTES_MAX {
        return None;
    }
    let text = scan::document(json).ok()?;
    let [error, message] = members(text, ["error", "message"]);
    let object = match error {
        Some(error) if error.starts_with('{') => error,
        // `{"error":"…","code":"…"}`
        Some(_) => text,
        None if message.is_some() => text,
        None => return None,
    };
    let [code, kind] = members(object, ["code", "type"]);
    code.and_then(meaning).or_else(|| kind.and_then(meaning))
}

/// How long to wait, as the head says it: `retry-after-ms` before `retry-after`, which is seconds or a date.
///
/// A field that is sent twice says nothing. Never more than [`UPSTREAM_RETRY_AFTER_MS_MAX`].
pub fn retry_after_ms(head: &ResponseHead, bytes: &[u8], unix_ms: u64) -> Option<u64> {
    let field = |known| head.only(bytes, known).ok().flatten();
    let ms = field(Known::RetryAfterMs).and_then(|value| thousandths(value, 1)).or_else(|| {
        let value = field(Known::RetryAfter)?;
        thousandths(value, 1_000).or_else(|| Some(date_ms(value)?.saturating_sub(unix_ms)))
    });
    ms.map(|ms| ms.min(UPSTREAM_RETRY_AFTER_MS_MAX))
}

/// What a code or type means, given as it stands in the JSON.
fn meaning(raw: &str) -> Option<Said> {
    let Some(code) = raw.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
        return match raw {
            "401" | "403" => Some(Said::Key),
            "402" => Some(Said::Billing),
            "429" => Some(Said::RateLimited),
            "503" | "529" => Some(Said::Overloaded),
            "500" | "502" | "504" => Some(Said::Server),
            _ => None,
        };
    };
    match code {
        "insufficient_quota"
        | "insufficient_balance"
        | "insufficient_credits"
        | "credit_balance_exhausted"
        | "credit_balance_too_low"
        | "billing_hard_limit_reached"
        | "billing_not_active"
        | "billing_error"
        | "account_deactivated"
        | "payment_required"
        | "402" => Some(Said::Billing),
        _ if code.ends_with("_spend_limit_exceeded") || code.ends_with("_usage_limit_exceeded") => {
            Some(Said::Billing)
        }
        "rate_limit_exceeded"
        | "rate_limit_error"
        | "rate_limit_reached"
        | "rate_limited"
        | "requests"
        | "tokens"
        | "too_many_requests"
        | "429" => Some(Said::RateLimited),
        "slow_down"
        | "overloaded"
        | "overloaded_error"
        | "server_is_overloaded"
        | "engine_overloaded"
        | "model_overloaded"
        | "service_unavailable"
        | "service_unavailable_error"
        | "capacity_exceeded"
        | "503" => Some(Said::Overloaded),
        "model_not_found" | "model_not_available" | "model_not_active" => Some(Said::MissingModel),
        "invalid_api_key"
        | "authentication_error"
        | "permission_error"
        | "invalid_authentication"
        | "incorrect_api_key" => Some(Said::Key),
        "invalid_request_error"
        | "context_length_exceeded"
        | "content_filter"
        | "content_policy_violation"
        | "string_above_max_length"
        | "not_found_error"
        | "request_too_large" => Some(Said::Request),
        "server_error"
        | "api_error"
        | "internal_error"
        | "internal_server_error"
        | "timeout_error"
        | "upstream_error"
        | "500"
        | "502"
        | "504" => Some(Said::Server),
        _ => None,
    }
}

/// A decimal number, times `unit`, rounded up: no wait is shortened.
fn thousandths(value: &[u8], unit: u64) -> Option<u64> {
    let text = std::str::from_utf8(value).ok()?;
    let (whole, fraction) = text.split_once('.').map_or((text, None), |(whole, rest)| (whole, Some(rest)));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !fraction.is_none_or(digits) {
        return None;
    }
    // Only digits: what does not fit is more than any bound.
    let whole = whole.parse::<u64>().unwrap_or(u64::MAX).saturating_mul(unit);
    let places = unit.ilog10() as usize;
    let fraction = fraction.unwrap_or("");
    let (kept, rest) = fraction.split_at(places.min(fraction.len()));
    let kept = format!("{kept:0<places$}").parse::<u64>().unwrap_or(0);
    let up = u64::from(rest.bytes().any(|byte| byte != b'0'));
    Some(whole.saturating_add(kept + up))
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` (IMF-fixdate, RFC 9110 §5.6.7) in milliseconds since 1970. The two obsolete forms are not
/// read, nor is the name of the day checked.
fn date_ms(value: &[u8]) -> Option<u64> {
    const MONTHS: [&[u8]; 12] =
        [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];
    let value: &[u8; 29] = value.try_into().ok()?;
    let is_form = value.iter().zip(b"Www, 00 Mmm 0000 00:00:00 GMT").all(|(byte, form)| match form {
        b'0' => byte.is_ascii_digit(),
        b'W' | b'w' | b'm' => byte.is_ascii_alphabetic(),
        b'M' => byte.is_ascii_alphabetic() || *byte == b'M',
        form => byte == form,
    });
    if !is_form {
        return None;
    }
    let number = |at: usize, length: usize| {
        value.iter().skip(at).take(length).fold(0, |number, digit| number * 10 + u32::from(digit - b'0'))
    };
    let month = MONTHS.iter().position(|month| *month == &value[8..11])?;
    let day = calendar::day_of(number(12, 4), u32::try_from(month).ok()? + 1, number(5, 2))?;
    let (hour, minute, second) = (number(17, 2), number(20, 2), number(23, 2));
    // 60: a leap second.
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let secs = u64::from(day) * 86_400 + u64::from(hour * 3_600 + minute * 60 + second);
    Some(secs * 1_000)
}

/// No panic, and nothing is said by what is no strict document; a wait is bounded.
#[cfg(any(test, feature = "fuzzing"))]
pub fn fuzz_upstream_error(data: &[u8]) {
    if said(data).is_some() {
        assert!(scan::document(data).is_ok());
    }
    if let Some(ms) = date_ms(data) {
        assert!(ms < 253_402_300_801_000, "a year has four digits");
    }
    let value: Vec<u8> = data.iter().copied().filter(|byte| (b' '..0x7f).contains(byte)).take(64).collect();
    let _ = thousandths(&value, 1_000);
    let _ = thousandths(&value, 1);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{
        http1::head::{HeadLimits, HeadScan, Method},
        json::mutate,
    };

    #[track_caller]
    fn check(json: &str, expect: Option<Said>) {
        assert_eq!(said(json.as_bytes()), expect, "{json}");
    }

    #[test]
    fn providers_errors_are_told_apart() {
        check(
            r#"{"error":{"message":"You exceeded your current quota","type":"insufficient_quota","param":null,
                "code":"insufficient_quota"}}"#,
            Some(Said::Billing),
        );
        check(
            r#"{"error":{"message":"Rate limit reached","type":"requests","param":null,"code":"rate_limit_exceeded"}}"#,
            Some(Said::RateLimited),
        );
        for code in ["credit_balance_exhausted", "project_spend_limit_exceeded", "org_usage_limit_exceeded"] {
            check(&format!(r#"{{"error":{{"code":"{code}","type":"requests"}}}}"#), Some(Said::Billing));
        }
        check(r#"{"error":{"code":"slow_down"}}"#, Some(Said::Overloaded));
        check(
            r#"{"type":"error","error":{"type":"overloaded_error","message":"…"}}"#,
            Some(Said::Overloaded),
        );
        check(
            r#"{"error":{"type":"invalid_request_error","code":"model_not_found"}}"#,
            Some(Said::MissingModel),
        );
        check(r#"{"error":{"type":"invalid_request_error","code":null}}"#, Some(Said::Request));
        check(
            r#"{"error":{"type":"invalid_request_error","code":"a_code_of_tomorrow"}}"#,
            Some(Said::Request),
        );
        check(r#"{"error":{"code":502,"message":"…"},"choices":[]}"#, Some(Said::Server));
        check(
            r#"{"object":"error","message":"…","type":"rate_limited","code":"1300"}"#,
            Some(Said::RateLimited),
        );
        check(r#"{"error":"…","code":"payment_required"}"#, Some(Said::Billing));
    }

    #[test]
    fn what_is_no_known_error_says_nothing() {
        for json in [
            "",
            "null",
            "[]",
            "{}",
            r#"{"error":null}"#,
            r#"{"error":{}}"#,
            r#"{"error":[]}"#,
            r#"{"error":{"code":"unheard_of"}}"#,
            r#"{"error":{"code":["insufficient_quota"]}}"#,
            r#"{"error":{"code":"insufficient\u005fquota"}}"#,
            r#"{"error":{"code":"insufficient_quota"}"#,
            r#"{"error":{"code":"insufficient_quota"}} x"#,
            r#"{"code":"insufficient_quota"}"#,
            r#"{"choices":[{"error":{"code":"insufficient_quota"}}]}"#,
            r#"{"error":{"inner":{"code":"insufficient_quota"}}}"#,
        ] {
            check(json, None);
        }
        let long =
            format!(r#"{{"error":{{"code":"slow_down"}},"x":"{}"}}"#, "x".repeat(ERROR_BODY_BYTES_MAX));
        check(&long, None);
        check(&"[".repeat(60_000), None);
    }

    #[track_caller]
    fn check_wait(fields: &str, expect: Option<u64>) {
        let bytes = format!("HTTP/1.1 429 Too Many Requests\r\n{fields}content-length: 0\r\n\r\n");
        let bounds = HeadLimits { bytes_max: 1 << 14, fields_max: 16 };
        let head = HeadScan::default().response(bytes.as_bytes(), Method::Post, bounds).ok().flatten();
        let head = head.expect("a head");
        // Six seconds before the date below.
        assert_eq!(retry_after_ms(&head, bytes.as_bytes(), 784_111_771_000), expect, "{fields}");
    }

    #[test]
    fn a_wait_is_read_in_each_of_its_forms() {
        check_wait("", None);
        check_wait("Retry-After: 20\r\n", Some(20_000));
        check_wait("retry-after: 7.66\r\n", Some(7_660));
        check_wait("retry-after: 0.0001\r\n", Some(1));
        check_wait("retry-after: 0\r\n", Some(0));
        check_wait("retry-after-ms: 1250\r\n", Some(1_250));
        check_wait("retry-after-ms: 12.5\r\n", Some(13));
        check_wait("retry-after: 20\r\nretry-after-ms: 300\r\n", Some(300));
        check_wait("retry-after: 20\r\nretry-after-ms: soon\r\n", Some(20_000));
        check_wait("retry-after: Sun, 06 Nov 1994 08:49:37 GMT\r\n", Some(6_000));
        check_wait("retry-after: Sat, 05 Nov 1994 08:49:37 GMT\r\n", Some(0));
        check_wait("retry-after: 99999999999999999999999\r\n", Some(UPSTREAM_RETRY_AFTER_MS_MAX));
        check_wait("retry-after: Fri, 31 Dec 9999 23:59:59 GMT\r\n", Some(UPSTREAM_RETRY_AFTER_MS_MAX));
    }

    #[test]
    fn a_wait_that_is_no_number_and_no_date_is_none() {
        for value in [
            "-1",
            "+1",
            "1e3",
            "1.",
            ".5",
            "1.2.3",
            "1 s",
            "0x10",
            "soon",
            "Sun, 06 Nov 1994 08:49:37 CET",
            "Sun, 31 Feb 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 24:00:00 GMT",
            "Sun, 00 Nov 1994 08:49:37 GMT",
            "Sun, 06 nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
        ] {
            check_wait(&format!("retry-after: {value}\r\n"), None);
        }
        check_wait("retry-after: 1\r\nretry-after: 2\r\n", None);
    }

    #[test]
    fn mutated_errors_never_panic() {
        let seeds: [&[u8]; 5] = [
            br#"{"error":{"message":"m","type":"insufficient_quota","param":null,"code":"insufficient_quota"}}"#,
            br#"{"type":"error","error":{"type":"overloaded_error","message":"m"}}"#,
            br#"{"message":"m","code":429}"#,
            b"Sun, 06 Nov 1994 08:49:37 GMT",
            b"1.250",
        ];
        mutate::each(&seeds, 5_000, fuzz_upstream_error);
    }
}
