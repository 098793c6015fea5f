//! Money in whole nano-dollars, written and read as decimal dollars. Never a float: what was spent adds up exactly.

use std::fmt;

/// So many billionths of a US dollar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NanoUsd(pub u64);

const NANOS: u64 = 1_000_000_000;

impl NanoUsd {
    /// Reads plain decimal dollars, `12` or `0.000000001`. `None`: anything else, a tenth digit behind the point, or more
    /// than can be counted. Nothing is rounded.
    pub fn parse(text: &str) -> Option<Self> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number(whole) || !is_number(fraction) || fraction.len() > 9 {
            return None;
        }
        let whole: u64 = whole.parse().ok()?;
        let scale = 10_u64.pow(9 - u32::try_from(fraction.len()).ok()?);
        let nanos = fraction.parse::<u64>().ok()?.checked_mul(scale)?;
        whole.checked_mul(NANOS)?.checked_add(nanos).map(Self)
    }
}

/// Dollars, with as many digits behind the point as there are.
impl fmt::Display for NanoUsd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, fraction) = (self.0 / NANOS, self.0 % NANOS);
        if fraction == 0 {
            return write!(f, "{whole}");
        }
        let digits = format!("{fraction:09}");
        write!(f, "{whole}.{}", digits.trim_end_matches('0'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_was_read() {
        for (text, nanos) in [
            ("0", 0),
            ("0.000000001", 1),
            ("2.5", 2_500_000_000),
            ("281474.976710655", (1 << 48) - 1),
            ("18446744073.709551615", u64::MAX),
        ] {
            assert_eq!(NanoUsd::parse(text), Some(NanoUsd(nanos)), "{text}");
            assert_eq!(NanoUsd(nanos).to_string(), text);
        }
        assert_eq!(NanoUsd::parse("007.50"), Some(NanoUsd(7_500_000_000)));
    }

    #[test]
    fn what_is_no_amount_is_refused_not_rounded() {
        for text in [
            "",
            ".",
            "1.",
            ".5",
            "-1",
            "+1",
            "1e3",
            "1_0",
            " 1",
            "0.0000000001",
            "18446744073.709551616",
            "nan",
            "1.2.3",
        ] {
            assert_eq!(NanoUsd::parse(text), None, "{text}");
        }
    }
}
