//! Reads what an upstream reports to have used, in any of the shapes that providers write it.
//!
//! Tolerant of names and places, since nothing is decided by it; but an upstream is not trusted: whatever it sends passes
//! the strict scan before sonic-rs walks it.

use sonic_rs::to_array_iter;

use super::scan;
use crate::base::limits::{USAGE_TAIL_BYTES, USAGE_TRIES_MAX};

/// Tokens as reported; `None` was not reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Usage {
    pub prompt: Option<u64>,
    pub completion: Option<u64>,
    pub total: Option<u64>,
    /// Prompt tokens that came from the provider's cache; part of `prompt`.
    pub cached: Option<u64>,
    /// Tokens thought and not shown; for most providers part of `completion`.
    pub reasoning: Option<u64>,
    pub audio_prompt: Option<u64>,
    pub audio_completion: Option<u64>,
}

/// The usage in one JSON object of an upstream: an answer, or the data of one event.
///
/// The first of `usage`, `x_groq.usage`, `choices[0].usage`, `response.usage` that reports any number.
pub fn find(json: &[u8]) -> Option<Usage> {
    let text = scan::document(json).ok()?;
    let [usage, x_groq, choices, response] = members(text, ["usage", "x_groq", "choices", "response"]);
    usage
        .and_then(|usage| read(usage.as_bytes()))
        .or_else(|| nested(x_groq?))
        .or_else(|| nested(to_array_iter(choices?).next()?.ok()?.as_raw_str()))
        .or_else(|| nested(response?))
}

/// The last usage object in the end of a JSON answer that was too long to keep. `tail` may start anywhere in it.
pub fn from_tail(tail: &[u8]) -> Option<Usage> {
    last(&tail[tail.len().saturating_sub(USAGE_TAIL_BYTES)..])
}

/// The last usage object anywhere in a JSON answer, or in a part of it. What lies around it is not read.
pub fn last(tail: &[u8]) -> Option<Usage> {
    // The name never matches inside a string: there, its quotes are escaped. From the end bytes are found faster than
    // words, so it is sought by its rarest letter.
    memchr::memrchr_iter(b'g', tail)
        .filter_map(|g| tail.get(g.checked_sub(4)?..)?.strip_prefix(b"\"usage\""))
        .take(USAGE_TRIES_MAX)
        .find_map(|after| read(after.trim_ascii_start().strip_prefix(b":")?))
}

/// The usage member of an object.
fn nested(object: &str) -> Option<Usage> {
    let [usage] = members(object, ["usage"]);
    read(usage?.as_bytes())
}

/// The usage object that `bytes` begin with; `None` if it is none, is not whole, or reports nothing we know. Of equal
/// names the last counts. What is not read is skipped, not judged: an answer has been paid for whatever else is in it.
fn read(bytes: &[u8]) -> Option<Usage> {
    let mut usage = Usage::default();
    let mut cached_beside = None;
    let mut reader = Reader::new(bytes);
    reader.open()?;
    while let Some(key) = reader.key()? {
        match key {
            b"prompt_tokens" | b"input_tokens" => usage.prompt = reader.count()?.or(usage.prompt),
            b"completion_tokens" | b"output_tokens" => {
                usage.completion = reader.count()?.or(usage.completion)
            }
            b"total_tokens" => usage.total = reader.count()?.or(usage.total),
            b"cached_tokens" | b"prompt_cache_hit_tokens" => {
                cached_beside = reader.count()?.or(cached_beside)
            }
            b"prompt_tokens_details" | b"input_tokens_details" if reader.open().is_some() => {
                while let Some(key) = reader.key()? {
                    match key {
                        b"cached_tokens" => usage.cached = reader.count()?,
                        b"audio_tokens" => usage.audio_prompt = reader.count()?,
                        _ => reader.skip()?,
                    }
                }
            }
            b"completion_tokens_details" | b"output_tokens_details" if reader.open().is_some() => {
                while let Some(key) = reader.key()? {
                    match key {
                        b"reasoning_tokens" => usage.reasoning = reader.count()?,
                        b"audio_tokens" => usage.audio_completion = reader.count()?,
                        _ => reader.skip()?,
                    }
                }
            }
            _ => reader.skip()?,
        }
    }
    usage.cached = usage.cached.or(cached_beside);
    (usage != Usage::default()).then_some(usage)
}

/// Reads members one after the other. `None` means that the bytes end or make no sense.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// The next byte that is not white space; it is not passed.
    fn peek(&mut self) -> Option<u8> {
        loop {
            let byte = *self.bytes.get(self.at)?;
            if !byte.is_ascii_whitespace() {
                return Some(byte);
            }
            self.at += 1;
        }
    }

    /// Enters an object, if one begins here.
    fn open(&mut self) -> Option<()> {
        (self.peek()? == b'{').then(|| self.at += 1)
    }

    /// The next member's name, up to its value; `Some(None)` where the object ends, which is left then. A name that is
    /// written with escapes is none of those that are looked for.
    fn key(&mut self) -> Option<Option<&'a [u8]>> {
        if self.peek()? == b',' {
            self.at += 1;
        }
        match self.peek()? {
            b'}' => {
                self.at += 1;
                Some(None)
            }
            b'"' => {
                let name = self.string()?;
                (self.peek()? == b':').then(|| self.at += 1)?;
                Some(Some(name))
            }
            _ => None,
        }
    }

    /// A string, without its quotes.
    fn string(&mut self) -> Option<&'a [u8]> {
        let start = self.at + 1;
        let mut end = start;
        loop {
            end += memchr::memchr2(b'"', b'\\', self.bytes.get(end..)?)?;
            if self.bytes[end] == b'"' {
                self.at = end + 1;
                return self.bytes.get(start..end);
            }
            end += 2;
        }
    }

    /// A count; `Some(None)` for any other value, which is passed over.
    fn count(&mut self) -> Option<Option<u64>> {
        if !self.peek()?.is_ascii_digit() {
            self.skip()?;
            return Some(None);
        }
        let start = self.at;
        self.skip()?;
        Some(decimal(self.bytes.get(start..self.at)?))
    }

    /// Passes over a value.
    fn skip(&mut self) -> Option<()> {
        match self.peek()? {
            b'"' => _ = self.string()?,
            // The scan knows a bound for nesting.
            b'{' | b'[' => self.at += scan::value(self.bytes.get(self.at..)?, 0).ok()?,
            _ => {
                let ends = |byte: &u8| matches!(byte, b',' | b'}' | b']') || byte.is_ascii_whitespace();
                self.at += self.bytes.get(self.at..)?.iter().position(ends)?;
            }
        }
        Some(())
    }
}

/// Digits and nothing else, as a number that has room for them.
fn decimal(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0u64, |number, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

/// The raw values of the named members of `object`, which has passed the scan; `null` is as good as absent, and of
/// equal names the last counts.
pub(crate) fn members<'a, const N: usize>(object: &'a str, names: [&str; N]) -> [Option<&'a str>; N] {
    let mut found = [None; N];
    let mut reader = Reader::new(object.as_bytes());
    if reader.open().is_none() {
        return found;
    }
    while let Some(Some(key)) = reader.key() {
        if reader.peek().is_none() {
            break;
        }
        let start = reader.at;
        if reader.skip().is_none() {
            break;
        }
        if let Some(index) = names.iter().position(|name| name.as_bytes() == key) {
            found[index] = object.get(start..reader.at).filter(|raw| *raw != "null");
        }
    }
    found
}

#[cfg(any(test, feature = "fuzzing"))]
pub fn fuzz_usage(data: &[u8]) {
    if find(data).is_some() {
        assert!(scan::document(data).is_ok());
    }
    from_tail(data);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::json::mutate;

    const NONE: Usage = Usage {
        prompt: None,
        completion: None,
        total: None,
        cached: None,
        reasoning: None,
        audio_prompt: None,
        audio_completion: None,
    };
    const THREE: Usage = Usage { prompt: Some(3), ..NONE };

    #[track_caller]
    fn check(json: &str, expect: Option<Usage>) {
        assert_eq!(find(json.as_bytes()), expect, "{json}");
    }

    #[test]
    fn every_provider_s_shape_is_read() {
        check(
            r#"{"id":"x","choices":[],"usage":{"prompt_tokens":10,"completion_tokens":20,"total_tokens":30,
                "prompt_tokens_details":{"cached_tokens":4,"audio_tokens":1},
                "completion_tokens_details":{"reasoning_tokens":5,"audio_tokens":2}}}"#,
            Some(Usage {
                prompt: Some(10),
                completion: Some(20),
                total: Some(30),
                cached: Some(4),
                reasoning: Some(5),
                audio_prompt: Some(1),
                audio_completion: Some(2),
            }),
        );
        check(
            r#"{"type":"response.completed","response":{"output":[{}],"usage":{"input_tokens":10,"output_tokens":20,
                "input_tokens_details":{"cached_tokens":4},"output_tokens_details":{"reasoning_tokens":5}}}}"#,
            Some(Usage {
                prompt: Some(10),
                completion: Some(20),
                cached: Some(4),
                reasoning: Some(5),
                ..NONE
            }),
        );
        check(r#"{"usage":null,"x_groq":{"id":"x","usage":{"prompt_tokens":3}}}"#, Some(THREE));
        check(r#"{"choices":[{"delta":{},"usage":{"prompt_tokens":3}},{}]}"#, Some(THREE));
        check(
            r#"{"usage":{"prompt_tokens":3,"prompt_cache_hit_tokens":2,"prompt_cache_miss_tokens":1}}"#,
            Some(Usage { cached: Some(2), ..THREE }),
        );
        check(r#"{"usage":{"prompt_tokens":3,"cached_tokens":2}}"#, Some(Usage { cached: Some(2), ..THREE }));
        check(
            r#"{"usage":{"prompt_tokens":3,"prompt_tokens_details":null,"completion_tokens":null}}"#,
            Some(THREE),
        );
    }

    #[test]
    fn the_places_are_tried_in_order() {
        let four = r#"{"prompt_tokens":4}"#;
        check(&format!(r#"{{"response":{{"usage":{four}}},"usage":{{"prompt_tokens":3}}}}"#), Some(THREE));
        check(
            &format!(r#"{{"choices":[{{"usage":{four}}}],"x_groq":{{"usage":{{"input_tokens":3}}}}}}"#),
            Some(THREE),
        );
        check(
            &format!(r#"{{"usage":{{}},"choices":[{{"usage":{{"prompt_tokens":3}}}}],"response":{four}}}"#),
            Some(THREE),
        );
    }

    #[test]
    fn no_usage_is_none() {
        for json in [
            "",
            "null",
            "[]",
            "{}",
            r#""usage""#,
            r#"{"usage":null}"#,
            r#"{"usage":{}}"#,
            r#"{"usage":[]}"#,
            r#"{"usage":{"type":"duration","seconds":3}}"#,
            r#"{"usage":{"prompt_tokens":-1}}"#,
            r#"{"usage":{"prompt_tokens":"3"}}"#,
            r#"{"choices":[]}"#,
            r#"{"choices":{},"response":[],"x_groq":7}"#,
            r#"{"usage":{"prompt_tokens":3}"#,
            r#"{"usage":{"prompt_tokens":99999999999999999999}}"#,
            r#"{"x":{"usage":{"prompt_tokens":3}}}"#,
        ] {
            check(json, None);
        }
    }

    #[test]
    fn deep_nesting_of_an_upstream_is_refused_before_it_is_walked() {
        for count in [129, 20_000, 1_000_000] {
            check(&format!(r#"{{"usage":{}"#, "[".repeat(count)), None);
            check(&format!(r#"{{"usage":{}"#, r#"{"usage":"#.repeat(count)), None);
            assert_eq!(from_tail(format!(r#""usage":{}"#, "[".repeat(count)).as_bytes()), None);
            assert_eq!(from_tail(r#""usage":{"a":["#.repeat(count).as_bytes()), None);
        }
    }

    #[test]
    fn a_tail_cut_anywhere_before_its_usage_gives_the_same() {
        let answer = r#"{"choices":[{"message":{"content":"say \"usage\": {\"prompt_tokens\":9} 漢字"}}],"usage" :
            {"prompt_tokens":3},"service_tier":"usage","x":{}}"#;
        let usage_at = answer.find("\"usage\" :").expect("it is there");
        for cut in 0..answer.len() {
            let expect = (cut <= usage_at).then_some(THREE);
            assert_eq!(from_tail(&answer.as_bytes()[cut..]), expect, "cut at {cut}");
        }
        for end in usage_at..answer.len() {
            let whole = end > answer.find("},\"service").expect("it is there");
            assert_eq!(from_tail(&answer.as_bytes()[..end]), whole.then_some(THREE), "ends at {end}");
        }
    }

    #[test]
    fn the_last_usage_of_a_tail_counts_and_only_the_tail_is_read() {
        let tail = br#"{"usage":{"prompt_tokens":1}},{"usage":{"prompt_tokens":3},"usage":null}"#;
        assert_eq!(from_tail(tail), Some(THREE));
        let far = [&br#"{"usage":{"prompt_tokens":3}"#[..], &b" ".repeat(USAGE_TAIL_BYTES)].concat();
        assert_eq!(from_tail(&far), None);
    }

    #[test]
    fn mutated_reports_never_panic() {
        let seeds: [&[u8]; 3] = [
            br#"{"usage":{"prompt_tokens":10,"completion_tokens":20,"prompt_tokens_details":{"cached_tokens":4}}}"#,
            br#"{"usage":null,"x_groq":{"usage":{"prompt_tokens":3}},"choices":[{"usage":{"input_tokens":1}}]}"#,
            br#"{"response":{"usage":{"output_tokens":1,"output_tokens_details":{"reasoning_tokens":1}}}}"#,
        ];
        mutate::each(&seeds, 5_000, fuzz_usage);
    }
}
