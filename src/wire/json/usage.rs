//! Reads what an upstream reports to have used, in any of the shapes that providers write it.
//!
//! Tolerant of names and places, since nothing is decided by it; but an upstream is not trusted: whatever it sends passes
//! the strict scan before sonic-rs walks it.

use sonic_rs::to_array_iter;

use super::{scan, text};
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
/// names the last number counts. What is not read is skipped, not judged: an answer has been paid for whatever else is in
/// it.
fn read(bytes: &[u8]) -> Option<Usage> {
    let mut usage = Usage::default();
    let (mut cached_beside, mut reasoning_beside) = (None, None);
    let mut within = Within::Usage;
    let mut reader = Reader { rest: bytes };
    reader.open()?;
    loop {
        let Some(key) = reader.key()? else {
            if within == Within::Usage {
                break;
            }
            within = Within::Usage;
            continue;
        };
        let is = |names: &[&str]| names.iter().any(|name| name.as_bytes() == key);
        let number = match within {
            Within::Usage if is(&["prompt_tokens", "input_tokens"]) => &mut usage.prompt,
            Within::Usage if is(&["completion_tokens", "output_tokens"]) => &mut usage.completion,
            Within::Usage if is(&["total_tokens"]) => &mut usage.total,
            Within::Usage if is(&PROMPT_DETAILS) && reader.open().is_some() => {
                within = Within::Prompt;
                continue;
            }
            Within::Usage if is(&COMPLETION_DETAILS) && reader.open().is_some() => {
                within = Within::Completion;
                continue;
            }
            Within::Usage if is(&["cached_tokens", "prompt_cache_hit_tokens"]) => &mut cached_beside,
            Within::Usage if is(&["reasoning_tokens"]) => &mut reasoning_beside,
            Within::Prompt if is(&["cached_tokens"]) => &mut usage.cached,
            Within::Prompt if is(&["audio_tokens"]) => &mut usage.audio_prompt,
            Within::Completion if is(&["reasoning_tokens"]) => &mut usage.reasoning,
            Within::Completion if is(&["audio_tokens"]) => &mut usage.audio_completion,
            _ => {
                reader.skip()?;
                continue;
            }
        };
        *number = reader.count()?.or(*number);
    }
    usage.cached = usage.cached.or(cached_beside);
    usage.reasoning = usage.reasoning.or(reasoning_beside);
    (usage != Usage::default()).then_some(usage)
}

const PROMPT_DETAILS: [&str; 3] = ["prompt_tokens_details", "input_tokens_details", "input_token_details"];
const COMPLETION_DETAILS: [&str; 3] =
    ["completion_tokens_details", "output_tokens_details", "output_token_details"];

/// The object that a name stands in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Within {
    Usage,
    /// The details of a count, in the usage.
    Prompt,
    Completion,
}

/// Reads members one after the other. `None` means that the bytes end or make no sense.
#[derive(Clone, Copy)]
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// The next byte that is not white space; it is not passed.
    fn peek(&mut self) -> Option<u8> {
        loop {
            let (&byte, after) = self.rest.split_first()?;
            if !byte.is_ascii_whitespace() {
                return Some(byte);
            }
            self.rest = after;
        }
    }

    /// Passes the byte, if it is the next that is not white space.
    fn pass(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.rest = &self.rest[1..])
    }

    /// Enters an object, if one begins here.
    fn open(&mut self) -> Option<()> {
        self.pass(b'{')
    }

    /// The next member's name, up to its value; `Some(None)` where the object ends, which is left then. A name that is
    /// written with escapes is none of those that are looked for.
    #[inline(always)]
    fn key(&mut self) -> Option<Option<&'a [u8]>> {
        if self.peek()? == b',' {
            self.rest = &self.rest[1..];
        }
        match self.peek()? {
            b'}' => {
                self.rest = &self.rest[1..];
                Some(None)
            }
            b'"' => {
                let (name, rest) = string(self.rest)?;
                self.rest = rest;
                self.pass(b':')?;
                Some(Some(name))
            }
            _ => None,
        }
    }

    /// A count; `Some(None)` for any other value, which is passed over.
    fn count(&mut self) -> Option<Option<u64>> {
        let mut count = self.peek()?.is_ascii_digit().then_some(0_u64);
        while let Some((digit @ b'0'..=b'9', after)) = self.rest.split_first() {
            count = count.and_then(|count| count.checked_mul(10)?.checked_add(u64::from(digit - b'0')));
            self.rest = after;
        }
        if ends(*self.rest.first()?) {
            return Some(count);
        }
        self.skip()?;
        Some(None)
    }

    /// Passes over a value.
    fn skip(&mut self) -> Option<()> {
        self.rest = behind_value(self.rest)?;
        Some(())
    }
}

/// The inside of the string that these bytes begin with, and what follows it.
fn string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut end = 1;
    loop {
        end = text::plain(bytes, end);
        match bytes.get(end)? {
            b'"' => return Some((&bytes[1..end], &bytes[end + 1..])),
            b'\\' => end += 2,
            _ => end += 1,
        }
    }
}

/// What follows the value that these bytes begin with, or that white space leads to.
fn behind_value(bytes: &[u8]) -> Option<&[u8]> {
    let bytes = bytes.trim_ascii_start();
    match bytes.first()? {
        b'"' => Some(string(bytes)?.1),
        // The scan knows a bound for nesting.
        b'{' | b'[' => bytes.get(scan::value(bytes, 0).ok()?..),
        _ => bytes.get(bytes.iter().position(|byte| ends(*byte))?..),
    }
}

/// Whether a number or a word ends before this byte.
fn ends(byte: u8) -> bool {
    matches!(byte, b',' | b'}' | b']') || byte.is_ascii_whitespace()
}

/// The raw values of the named members of `object`, which has passed the scan; `null` is as good as absent, and of
/// equal names the last counts.
pub(crate) fn members<'a, const N: usize>(object: &'a str, names: [&str; N]) -> [Option<&'a str>; N] {
    let mut found = [None; N];
    let mut reader = Reader { rest: object.as_bytes() };
    if reader.open().is_none() {
        return found;
    }
    while let Some(Some(key)) = reader.key() {
        let start = object.len() - reader.rest.trim_ascii_start().len();
        if reader.skip().is_none() {
            break;
        }
        if let Some(index) = names.iter().position(|name| name.as_bytes() == key) {
            found[index] = object.get(start..object.len() - reader.rest.len()).filter(|raw| *raw != "null");
        }
    }
    found
}

impl Usage {
    /// Completion tokens with those that were thought, wherever the provider counts them. Its total tells: it is the sum of
    /// the parts. Where that says nothing, `apart` does: whether this provider is known to count them beside the completion.
    pub fn completion_with_reasoning(&self, apart: bool) -> Option<u64> {
        let (completion, reasoning) = (self.completion?, self.reasoning.unwrap_or(0));
        let beyond = self.total.and_then(|total| total.checked_sub(self.prompt?.checked_add(completion)?));
        let is_apart = match beyond {
            Some(beyond) => beyond > 0 && beyond >= reasoning,
            None => apart,
        };
        Some(if is_apart { completion.saturating_add(reasoning) } else { completion })
    }
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

    /// What each provider sends last, as its documentation or its SDK shows it; in the order prompt, completion with
    /// reasoning, cached, reasoning, audio in, audio out.
    const CORPUS: &[(&str, &str, [Option<u64>; 6])] = {
        const fn all(prompt: u64, completion: u64) -> [Option<u64>; 6] {
            [Some(prompt), Some(completion), None, None, None, None]
        }
        const fn parts(prompt: u64, completion: u64, cached: u64, reasoning: u64) -> [Option<u64>; 6] {
            [Some(prompt), Some(completion), Some(cached), Some(reasoning), None, None]
        }
        &[
            (
                "openai chat, the event of its own",
                r#"{"id":"c","object":"chat.completion.chunk","choices":[],"usage":{"prompt_tokens":2006,"completion_tokens":300,
                "total_tokens":2306,"prompt_tokens_details":{"cached_tokens":1920,"audio_tokens":0},
                "completion_tokens_details":{"reasoning_tokens":64,"audio_tokens":0,"accepted_prediction_tokens":0,
                "rejected_prediction_tokens":0}}}"#,
                [Some(2006), Some(300), Some(1920), Some(64), Some(0), Some(0)],
            ),
            (
                "openai audio",
                r#"{"choices":[{}],"usage":{"prompt_tokens":87,"completion_tokens":120,"total_tokens":207,
                "prompt_tokens_details":{"cached_tokens":0,"text_tokens":17,"audio_tokens":70},
                "completion_tokens_details":{"reasoning_tokens":0,"text_tokens":20,"audio_tokens":100}}}"#,
                [Some(87), Some(120), Some(0), Some(0), Some(70), Some(100)],
            ),
            (
                "openai responses, streamed",
                r#"{"type":"response.completed","sequence_number":9,"response":{"id":"r","output":[{"usage":1}],"usage":
                {"input_tokens":37,"input_tokens_details":{"cached_tokens":5},"output_tokens":11,
                "output_tokens_details":{"reasoning_tokens":7},"total_tokens":48}}}"#,
                parts(37, 11, 5, 7),
            ),
            (
                "openai transcription",
                r#"{"text":"…","usage":{"type":"tokens","input_tokens":14,"input_token_details":{"text_tokens":0,"audio_tokens":14},
                "output_tokens":45,"total_tokens":59}}"#,
                [Some(14), Some(45), None, None, Some(14), None],
            ),
            (
                "openai embeddings",
                r#"{"object":"list","data":[{"embedding":[0.1]}],"usage":{"prompt_tokens":8,"total_tokens":8}}"#,
                [Some(8), None, None, None, None, None],
            ),
            (
                "alibaba",
                r#"{"choices":[],"usage":{"prompt_tokens":22,"completion_tokens":17,"total_tokens":39,
                "prompt_tokens_details":{"cached_tokens":2,"text_tokens":22},
                "completion_tokens_details":{"reasoning_tokens":9,"text_tokens":8}},"system_fingerprint":null}"#,
                parts(22, 17, 2, 9),
            ),
            (
                "deepseek, on the last event with content",
                r#"{"choices":[{"index":0,"delta":{"content":""},"finish_reason":"stop"}],"usage":{"prompt_tokens":19,
                "completion_tokens":10,"total_tokens":29,"prompt_tokens_details":{"cached_tokens":16},
                "completion_tokens_details":{"reasoning_tokens":4},"prompt_cache_hit_tokens":16,"prompt_cache_miss_tokens":3}}"#,
                parts(19, 10, 16, 4),
            ),
            (
                "anthropic, compatible",
                r#"{"choices":[{}],"usage":{"prompt_tokens":12,"completion_tokens":6,"total_tokens":18,
                "prompt_tokens_details":null,"completion_tokens_details":null}}"#,
                all(12, 6),
            ),
            (
                "mistral",
                r#"{"choices":[{"finish_reason":"stop"}],"usage":{"prompt_audio_seconds":{},"prompt_tokens":14,"total_tokens":30,
                "completion_tokens":16}}"#,
                all(14, 16),
            ),
            (
                "groq, both places",
                r#"{"choices":[{"delta":{}}],"x_groq":{"id":"req","usage":{"queue_time":0.018,"prompt_tokens":43,
                "prompt_time":0.0022,"completion_tokens":9,"completion_time":0.01,"total_tokens":52,"total_time":0.012}}}"#,
                all(43, 9),
            ),
            (
                "xai, reasoning beside the completion",
                r#"{"choices":[],"usage":{"prompt_tokens":32,"completion_tokens":9,"total_tokens":135,"prompt_tokens_details":
                {"text_tokens":32,"audio_tokens":0,"image_tokens":0,"cached_tokens":6},"completion_tokens_details":
                {"reasoning_tokens":94,"audio_tokens":0},"num_sources_used":0}}"#,
                [Some(32), Some(103), Some(6), Some(94), Some(0), Some(0)],
            ),
            (
                "openrouter",
                r#"{"choices":[{}],"usage":{"prompt_tokens":10,"completion_tokens":4,"total_tokens":14,"cost":0.00014,
                "is_byok":false,"prompt_tokens_details":{"cached_tokens":0},"cost_details":{"upstream_inference_cost":null},
                "completion_tokens_details":{"reasoning_tokens":0}}}"#,
                parts(10, 4, 0, 0),
            ),
            (
                "moonshot, in the choice",
                r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop","usage":{"prompt_tokens":19,"completion_tokens":13,
                "total_tokens":32,"cached_tokens":3}}]}"#,
                [Some(19), Some(13), Some(3), None, None, None],
            ),
            (
                "minimax",
                r#"{"choices":[],"usage":{"total_tokens":157,"total_characters":0,"prompt_tokens":20,"completion_tokens":137,
                "completion_tokens_details":{"reasoning_tokens":130}},"base_resp":{"status_code":0}}"#,
                [Some(20), Some(137), None, Some(130), None, None],
            ),
            (
                "perplexity, reasoning beside the other counts",
                r#"{"choices":[{"finish_reason":"stop"}],"usage":{"prompt_tokens":33,"completion_tokens":70,"total_tokens":103,
                "search_context_size":"low","citation_tokens":90,"num_search_queries":2,"reasoning_tokens":20,
                "cost":{"total_cost":0.006}}}"#,
                [Some(33), Some(70), None, Some(20), None, None],
            ),
            (
                "together, on its last event",
                r#"{"choices":[{"text":"","seed":1}],"usage":{"prompt_tokens":5,"completion_tokens":6,"total_tokens":11,
                "cached_tokens":0}}"#,
                [Some(5), Some(6), Some(0), None, None, None],
            ),
            (
                "ollama, a prompt that was cached",
                r#"{"choices":[],"usage":{"prompt_tokens":0,"completion_tokens":6,"total_tokens":6}}"#,
                all(0, 6),
            ),
            (
                "vllm, counted on every event",
                r#"{"choices":[{"delta":{"content":"x"}}],"usage":{"prompt_tokens":9,"total_tokens":11,"completion_tokens":2},
                "metrics":null}"#,
                all(9, 2),
            ),
            (
                "llama.cpp",
                r#"{"choices":[],"usage":{"completion_tokens":8,"prompt_tokens":30,"total_tokens":38},
                "timings":{"cache_n":20,"prompt_n":10,"predicted_n":8}}"#,
                all(30, 8),
            ),
        ]
    };

    #[test]
    fn what_each_provider_reports_is_read_to_the_last_token() {
        for (who, json, expect) in CORPUS {
            let usage = find(json.as_bytes()).unwrap_or_else(|| panic!("{who}"));
            let Usage { prompt, cached, reasoning, audio_prompt, audio_completion, .. } = usage;
            let completion = usage.completion_with_reasoning(false);
            assert_eq!(
                [prompt, completion, cached, reasoning, audio_prompt, audio_completion],
                *expect,
                "{who}"
            );
            assert_eq!(last(json.as_bytes()), Some(usage), "{who}, as a part of an answer");
        }
    }

    #[test]
    fn reasoning_is_counted_once_wherever_it_is_reported() {
        let of =
            |total, reasoning| Usage { prompt: Some(10), completion: Some(20), total, reasoning, ..NONE };
        for (total, apart, expect) in [
            (Some(30), false, 20),
            (Some(30), true, 20),
            (Some(35), false, 25),
            (Some(35), true, 25),
            (Some(33), true, 20),
            (Some(1), true, 25),
            (None, false, 20),
            (None, true, 25),
        ] {
            let completion = of(total, Some(5)).completion_with_reasoning(apart);
            assert_eq!(completion, Some(expect), "{total:?} {apart}");
        }
        assert_eq!(of(Some(35), None).completion_with_reasoning(true), Some(20));
        assert_eq!(NONE.completion_with_reasoning(true), None);
        let most = Usage { completion: Some(u64::MAX), ..of(None, Some(u64::MAX)) };
        assert_eq!(most.completion_with_reasoning(true), Some(u64::MAX));
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
    fn a_count_is_digits_that_have_room() {
        for (value, expect) in [
            ("0", Some(0)),
            ("007", Some(7)),
            (" 3 ", Some(3)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("99999999999999999999999", None),
            ("-3", None),
            ("3.0", None),
            ("3e2", None),
            ("null", None),
            ("\"3\"", None),
            ("[3]", None),
            (r#"{"total_tokens":3}"#, None),
        ] {
            let json =
                format!(r#"{{"a\"}}":"\\\"{{","prompt_tokens":{value},"b":[{{"c":1}}],"total_tokens":9}}"#);
            let expect = Usage { prompt: expect, total: Some(9), ..NONE };
            assert_eq!(read(json.as_bytes()), Some(expect), "{json}");
        }
    }

    #[test]
    fn a_control_byte_in_a_string_is_passed_over() {
        let json = "{\"a\n\u{1}\":\"b\t\",\"prompt_tokens\":3}";
        assert_eq!(read(json.as_bytes()), Some(THREE));
    }

    #[test]
    fn of_equal_names_the_last_number_counts() {
        for (json, expect) in [
            (r#"{"prompt_tokens":2,"prompt_tokens":3}"#, THREE),
            (r#"{"prompt_tokens":3,"input_tokens":null}"#, THREE),
            (
                r#"{"prompt_tokens_details":{"cached_tokens":1,"cached_tokens":2,"cached_tokens":null}}"#,
                Usage { cached: Some(2), ..NONE },
            ),
        ] {
            assert_eq!(read(json.as_bytes()), Some(expect), "{json}");
        }
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
