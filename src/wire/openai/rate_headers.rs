//! What an answer says of its caller's limits, as OpenAI's API says it: `x-ratelimit-{limit,remaining,reset}-{requests,tokens}`.

use crate::wire::http1::render::HeadWriter;

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
        const REQUESTS: [&[u8]; 3] = [
            b"x-ratelimit-limit-requests: ",
            b"x-ratelimit-remaining-requests: ",
            b"x-ratelimit-reset-requests: ",
        ];
        const TOKENS: [&[u8]; 3] =
            [b"x-ratelimit-limit-tokens: ", b"x-ratelimit-remaining-tokens: ", b"x-ratelimit-reset-tokens: "];
        if let Some(told) = self.requests {
            writer.line(told.lines(REQUESTS).bytes());
        }
        if let Some(told) = self.tokens {
            writer.line(told.lines(TOKENS).bytes());
        }
    }
}

impl Told {
    // Each use knows its names when it is compiled, so that copying them is a few moves: of six calls for each answer, and
    // the numbers' own strings, nothing is left.
    #[inline(always)]
    fn lines(self, [limit, remaining, reset]: [&[u8]; 3]) -> Backwards {
        let mut lines = Backwards { bytes: [0; _], start: LINES_MAX };
        lines.text(b"\r\n");
        lines.span(self.reset_ns);
        lines.text(reset);
        lines.text(b"\r\n");
        lines.number(self.remaining);
        lines.text(remaining);
        lines.text(b"\r\n");
        lines.number(self.limit);
        lines.text(limit);
        lines
    }
}

/// The longest three lines: names of 32 bytes, numbers of 20 and what is written in front of one, line ends.
const LINES_MAX: usize = 3 * (32 + 24 + 2);

/// Text that is made from its end: a number's last digit is the first to be known.
struct Backwards {
    bytes: [u8; LINES_MAX],
    start: usize,
}

impl Backwards {
    fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    #[inline(always)]
    fn text(&mut self, text: &[u8]) {
        debug_assert!(text.len() <= self.start, "the longest text fits");
        let start = self.start.saturating_sub(text.len());
        self.bytes[start..start + text.len()].copy_from_slice(text);
        self.start = start;
    }

    fn number(&mut self, mut number: u64) {
        while number >= EIGHT_DIGITS {
            self.text(&eight_digits(number % EIGHT_DIGITS));
            number /= EIGHT_DIGITS;
        }
        let digits = eight_digits(number);
        self.text(&digits);
        // The zeros in front are written too, and given up again; the last digit stays, be it zero.
        let zeros = (u64::from_le_bytes(digits) ^ ZEROS).trailing_zeros() / 8;
        self.start += zeros.min(7) as usize;
    }

    /// A duration as OpenAI writes it (`120ms`, `1s`, `6m0s`), rounded up to a millisecond.
    fn span(&mut self, ns: u64) {
        let ms = ns.div_ceil(1_000_000);
        self.text(b"s");
        if ms < 1_000 {
            self.text(b"m");
            return self.number(ms);
        }
        let (hours, minutes, secs) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60);
        let (hundredths, thousandths) = (ms % 1_000 / 10, ms % 10);
        if thousandths > 0 {
            self.text(&[digit(thousandths)]);
        }
        if thousandths > 0 || hundredths % 10 > 0 {
            self.text(&[digit(hundredths % 10)]);
        }
        if thousandths > 0 || hundredths > 0 {
            self.text(&[b'.', digit(hundredths / 10)]);
        }
        self.number(secs);
        if hours > 0 || minutes > 0 {
            self.text(b"m");
            self.number(minutes);
        }
        if hours > 0 {
            self.text(b"h");
            self.number(hours);
        }
    }
}

fn digit(number: u64) -> u8 {
    b"0123456789"[(number % 10) as usize]
}

const EIGHT_DIGITS: u64 = 100_000_000;
const ZEROS: u64 = u64::from_le_bytes(*b"00000000");

/// The digits of a number below 10⁸, zeros in front: halves, quarters and eighths of it side by side in one word, the first
/// lowest. The products divide by 100 and by 10 exactly for all that their lanes can hold.
fn eight_digits(number: u64) -> [u8; 8] {
    debug_assert!(number < EIGHT_DIGITS, "it has eight digits");
    let (high, low) = (number / 10_000, number % 10_000);
    let fours = high | low << 32;
    let hundreds = (fours * 10_486) >> 20 & 0x7f_0000_007f;
    let twos = hundreds | (fours - hundreds * 100) << 16;
    let tens = (twos * 103) >> 10 & 0x000f_000f_000f_000f;
    let ones = tens | (twos - tens * 10) << 8;
    (ones | ZEROS).to_le_bytes()
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
            (1_001_000_000, "1.001s"),
            (1_030_000_000, "1.03s"),
            (1_500_000_000, "1.5s"),
            (61_005_000_000, "1m1.005s"),
            (59_999_999_999, "1m0s"),
            (360_000_000_000, "6m0s"),
            (3_723_000_000_000, "1h2m3s"),
            (86_400_000_000_000, "24h0m0s"),
            (u64::MAX, "5124095h34m33.71s"),
        ] {
            let mut text = Backwards { bytes: [0; _], start: LINES_MAX };
            text.span(ns);
            assert_eq!(text.bytes(), expect.as_bytes(), "{ns}");
        }
    }

    #[test]
    fn numbers_are_written_whole_and_the_longest_fit() {
        let most = Told { limit: u64::MAX, remaining: u64::MAX, reset_ns: u64::MAX };
        for number in [0, 9, 10, 99, 100, 101, 999, 1_000, 123_456_789, u64::MAX] {
            let mut text = Backwards { bytes: [0; _], start: LINES_MAX };
            text.number(number);
            assert_eq!(text.bytes(), number.to_string().as_bytes());
        }
        // Every pair of digits in each of its places.
        for number in (0..10_000).flat_map(|four| [four, four * 10_000, four * 10_000 + four]) {
            assert_eq!(eight_digits(number), format!("{number:08}").as_bytes(), "{number}");
        }
        let mut head = Vec::new();
        let mut writer = status_line(&mut head, 200);
        RateHeaders { requests: Some(most), tokens: Some(most) }.write(&mut writer);
        writer.end();
        let text = String::from_utf8(head).expect("text");
        let lines: Vec<_> = text.split("\r\n").skip(1).collect();
        let most = u64::MAX;
        assert_eq!(
            lines,
            [
                &*format!("x-ratelimit-limit-requests: {most}"),
                &*format!("x-ratelimit-remaining-requests: {most}"),
                "x-ratelimit-reset-requests: 5124095h34m33.71s",
                &*format!("x-ratelimit-limit-tokens: {most}"),
                &*format!("x-ratelimit-remaining-tokens: {most}"),
                "x-ratelimit-reset-tokens: 5124095h34m33.71s",
                "",
                ""
            ]
        );
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
