//! What an answer says of its caller's limits, as OpenAI's API says it: `x-ratelimit-{limit,remaining,reset}-{requests,tokens}`.

use crate::wire::http1::render::{HeadWriter, HeaderSafe};

/// The tightest limit of each kind, where there is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateHeaders {
    pub requests: Option<Told>,
    pub tokens: Option<Told>,
}

/// One limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// As it was configured, whatever its period.
    pub limit: u64,
    pub remaining: u64,
    /// Until nothing of it is used any more.
    pub reset_ns: u64,
}

impl RateHeaders {
    /// Whether there is anything to tell.
    pub fn is_empty(&self) -> bool {
        self.requests.is_none() && self.tokens.is_none()
    }

    /// Adds the fields to a head.
    pub fn write(&self, writer: &mut HeadWriter<'_>) {
        const REQUESTS: [&str; 3] =
            ["x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"];
        const TOKENS: [&str; 3] =
            ["x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"];
        for (told, names) in [(self.requests, REQUESTS), (self.tokens, TOKENS)] {
            let Some(told) = told else { continue };
            let values = [told.limit.to_string(), told.remaining.to_string(), span(told.reset_ns)];
            for (name, value) in names.into_iter().zip(&values) {
                if let Some(value) = HeaderSafe::new(value.as_bytes()) {
                    writer.field(name, value);
                }
            }
        }
    }
}

/// A duration as OpenAI writes it (`120ms`, `1s`, `6m0s`), rounded up to a millisecond.
fn span(ns: u64) -> String {
    let ms = ns.div_ceil(1_000_000);
    if ms < 1_000 {
        return format!("{ms}ms");
    }
    let (hours, minutes) = (ms / 3_600_000, ms / 60_000 % 60);
    let secs = ms % 60_000 / 1_000;
    let fraction = match ms % 1_000 {
        0 => String::new(),
        thousandths => format!(".{thousandths:03}").trim_end_matches('0').to_owned(),
    };
    match (hours, minutes) {
        (0, 0) => format!("{secs}{fraction}s"),
        (0, _) => format!("{minutes}m{secs}{fraction}s"),
        _ => format!("{hours}h{minutes}m{secs}{fraction}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::http1::render::status_line;

    #[test]
    fn durations_are_written_as_openai_writes_them() {
        for (ns, expect) in [
            (0, "0ms"),
            (1, "1ms"),
            (119_000_001, "120ms"),
            (1_000_000_000, "1s"),
            (8_640_000_000, "8.64s"),
            (59_999_999_999, "1m0s"),
            (360_000_000_000, "6m0s"),
            (3_723_000_000_000, "1h2m3s"),
            (86_400_000_000_000, "24h0m0s"),
        ] {
            assert_eq!(span(ns), expect, "{ns}");
        }
    }

    #[test]
    fn only_limits_that_there_are_are_told() {
        let mut head = Vec::new();
        let told = Told { limit: 60, remaining: 59, reset_ns: 1_000_000_000 };
        let mut writer = status_line(&mut head, 200);
        RateHeaders { requests: Some(told), tokens: None }.write(&mut writer);
        writer.end();
        let text = String::from_utf8(head).expect("text");
        assert!(text.contains("\r\nx-ratelimit-limit-requests: 60\r\n"), "{text}");
        assert!(text.contains("\r\nx-ratelimit-remaining-requests: 59\r\n"), "{text}");
        assert!(text.contains("\r\nx-ratelimit-reset-requests: 1s\r\n"), "{text}");
        assert!(!text.contains("-tokens"), "{text}");
        assert!(RateHeaders::default().is_empty());
    }
}
