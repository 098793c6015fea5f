//! Reads, in one strict pass, the few fields of a request body that decide where it goes and what it may cost.
//!
//! What is read here is what an upstream will read: a body that two parsers could understand differently is refused.
//! Only the top level counts; `{"metadata":{"model":…}}` is not the model.

use std::{borrow::Cow, collections::HashSet};

use smallvec::SmallVec;
use sonic_rs::to_object_iter;

use super::{
    BadBody,
    names::exact_routing_key,
    redirects, routing_key,
    scan::{Member, Scan},
};
use crate::{
    base::{
        limits::{JSON_KEY_BYTES_MAX, JSON_KEYS_MAX, MODEL_BYTES_MAX, STREAM_OPTIONS_BYTES_MAX},
        span::Span,
    },
    wire::model_name::is_model_name,
};

/// What a request body says, and where. Invariant: every span lies in the body that was peeked.
#[derive(Clone, Debug, PartialEq)]
pub struct Peek<'a> {
    /// The model asked for, unescaped; matches `[A-Za-z0-9._:/@+,=-]{1,256}`.
    pub model: Cow<'a, str>,
    /// The value of `model`, quotes included: what [`super::splice()`] replaces.
    pub model_value: Span,
    pub stream: bool,
    pub stream_options: StreamOptions,
    /// The most tokens the caller lets the model write: `max_completion_tokens`, else `max_output_tokens`, else
    /// `max_tokens`.
    pub max_tokens: Option<u64>,
    /// How many answers are asked for.
    pub n: Option<u32>,
    pub user: Option<Cow<'a, str>>,
    /// The offset just after the opening `{`, where a member can be put.
    pub brace: usize,
    pub stateful: Stateful,
}

/// The `stream_options` of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamOptions {
    Absent,
    /// Present as `null`, which lies here.
    Null(Span),
    Object {
        /// From `{` to `}`.
        value: Span,
        /// Whether nothing but white space is in it.
        empty: bool,
        include_usage: Option<IncludeUsage>,
    },
}

/// The caller's own `stream_options.include_usage`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IncludeUsage {
    /// `null` counts as no.
    pub asked: bool,
    pub value: Span,
}

/// Members of a `/v1/responses` body that tie it to state kept at one provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Stateful {
    /// `None` leaves it to the endpoint's default.
    pub store: Option<bool>,
    pub background: bool,
    pub previous_response_id: bool,
}

impl Peek<'_> {
    /// The places and numbers alone, which borrow nothing of the body.
    pub fn without_text(self) -> Peek<'static> {
        Peek { model: Cow::Borrowed(""), user: None, ..self }
    }

    /// Whether the caller itself asked for the usage-only event, which then must reach it.
    pub fn usage_asked(&self) -> bool {
        matches!(
            self.stream_options,
            StreamOptions::Object { include_usage: Some(IncludeUsage { asked: true, .. }), .. }
        )
    }
}

/// Reads the body of a JSON endpoint, which must be one strict object that names a model.
pub fn peek(body: &[u8]) -> Result<Peek<'_>, BadBody> {
    let mut scan = Scan::default();
    scan.feed(body);
    peek_scanned(body, &scan)
}

/// [`peek()`] of a body that was scanned as it came, to its end.
pub fn peek_scanned<'a>(body: &'a [u8], scan: &Scan) -> Result<Peek<'a>, BadBody> {
    let members = scan.finish(body)?;
    let brace = body.iter().position(|b| !b.is_ascii_whitespace()).filter(|&at| body[at] == b'{');
    let brace = brace.ok_or(BadBody::NotAnObject)? + 1;

    let mut keys = Keys::default();
    let mut model = None;
    let mut stream = false;
    let mut stream_options = StreamOptions::Absent;
    let (mut max_completion_tokens, mut max_output_tokens, mut max_tokens) = (None, None, None);
    let mut n = None;
    let mut user = None;
    let mut stateful = Stateful::default();

    for &Member { key, value } in members {
        if key.len() > JSON_KEY_BYTES_MAX {
            return Err(BadBody::KeyTooLong);
        }
        // What is written as one of the names holds no escape.
        let exact = exact_routing_key(key.of(body));
        let key = exact
            .map(Cow::Borrowed)
            .or_else(|| string(key.of(body)))
            .ok_or_else(|| BadBody::InvalidJson { at: key.range().start })?;
        let raw = Raw::new(body, value);
        match &*key {
            "model" => model = Some((raw.model()?, raw.span)),
            "stream" => stream = raw.flag("stream")?.unwrap_or(false),
            "stream_options" => stream_options = raw.stream_options()?,
            "max_completion_tokens" => max_completion_tokens = raw.count("max_completion_tokens")?,
            "max_output_tokens" => max_output_tokens = raw.count("max_output_tokens")?,
            "max_tokens" => max_tokens = raw.count("max_tokens")?,
            "n" => n = raw.count("n")?,
            "user" => user = raw.user()?,
            "store" => stateful.store = raw.flag("store")?,
            "background" => stateful.background = raw.flag("background")?.unwrap_or(false),
            "previous_response_id" => stateful.previous_response_id = raw.text != b"null",
            key if exact.is_none() => known_spelling(key)?,
            _ => {}
        }
        keys.add(key)?;
    }

    let (model, model_value) = model.ok_or(BadBody::ModelMissing)?;
    let max_tokens = max_completion_tokens.or(max_output_tokens).or(max_tokens);
    Ok(Peek { model, model_value, stream, stream_options, max_tokens, n, user, brace, stateful })
}

/// The string that stands so between its quotes; borrowed if it holds no escape.
fn string(inner: &[u8]) -> Option<Cow<'_, str>> {
    let text = std::str::from_utf8(inner).ok()?;
    if memchr::memchr(b'\\', inner).is_none() {
        return Some(Cow::Borrowed(text));
    }
    sonic_rs::from_str(&[r#"""#, text, r#"""#].concat()).map(Cow::Owned).ok()
}

/// Refuses a key that is a routing key in another letter case, or that redirects.
fn known_spelling(key: &str) -> Result<(), BadBody> {
    if let Some(name) = routing_key(key).filter(|&name| name != key) {
        return Err(BadBody::KeyCase(name));
    }
    redirects(key).map_or(Ok(()), |name| Err(BadBody::Redirecting(name)))
}

/// The top-level keys so far, unescaped. Few are compared one by one; many move to a table with a random key.
#[derive(Default)]
struct Keys<'a> {
    few: SmallVec<[Cow<'a, str>; 16]>,
    many: Option<HashSet<Cow<'a, str>>>,
}

impl<'a> Keys<'a> {
    fn add(&mut self, key: Cow<'a, str>) -> Result<(), BadBody> {
        let Some(many) = &mut self.many else {
            if self.few.contains(&key) {
                return Err(BadBody::duplicate(&key));
            }
            if self.few.len() == self.few.inline_size() {
                self.many = Some(self.few.drain(..).chain([key]).collect());
            } else {
                self.few.push(key);
            }
            return Ok(());
        };
        if many.contains(&key) {
            return Err(BadBody::duplicate(&key));
        }
        if many.len() == JSON_KEYS_MAX {
            return Err(BadBody::TooManyKeys);
        }
        many.insert(key);
        Ok(())
    }
}

/// A value as it stands in the body.
struct Raw<'a> {
    text: &'a [u8],
    span: Span,
}

impl<'a> Raw<'a> {
    fn new(body: &'a [u8], span: Span) -> Self {
        Self { text: span.of(body), span }
    }

    /// What is between the quotes, if this is a string.
    fn inner(&self) -> Option<&'a [u8]> {
        self.text.strip_prefix(b"\"")?.strip_suffix(b"\"")
    }

    fn model(&self) -> Result<Cow<'a, str>, BadBody> {
        let inner = self.inner().ok_or(BadBody::ModelNotString)?;
        if is_model_name(inner) {
            return std::str::from_utf8(inner).map(Cow::Borrowed).map_err(|_| BadBody::ModelOdd);
        }
        // Longer than any name is, even if each letter were escaped: not worth unescaping.
        let name =
            Some(inner).filter(|inner| inner.len() <= MODEL_BYTES_MAX * r"\u0000".len()).and_then(string);
        name.filter(|name| is_model_name(name.as_bytes())).ok_or(BadBody::ModelOdd)
    }

    fn user(&self) -> Result<Option<Cow<'a, str>>, BadBody> {
        match self.text {
            b"null" => Ok(None),
            _ => self.inner().and_then(string).map(Some).ok_or(BadBody::UserNotString),
        }
    }

    fn flag(&self, name: &'static str) -> Result<Option<bool>, BadBody> {
        match self.text {
            b"true" => Ok(Some(true)),
            b"false" => Ok(Some(false)),
            b"null" => Ok(None),
            _ => Err(BadBody::NotBoolean(name)),
        }
    }

    /// Digits only: `1.0` and `1e0` are integers to some parsers and not to others.
    fn count<T: std::str::FromStr>(&self, name: &'static str) -> Result<Option<T>, BadBody> {
        if self.text == b"null" {
            return Ok(None);
        }
        let digits =
            std::str::from_utf8(self.text).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
        digits.and_then(|digits| digits.parse().ok()).map(Some).ok_or(BadBody::NotCount(name))
    }

    fn stream_options(&self) -> Result<StreamOptions, BadBody> {
        if self.text == b"null" {
            return Ok(StreamOptions::Null(self.span));
        }
        if !self.text.starts_with(b"{") {
            return Err(BadBody::StreamOptionsNotObject);
        }
        if self.text.len() > STREAM_OPTIONS_BYTES_MAX {
            return Err(BadBody::StreamOptionsTooLong);
        }
        // sonic-rs reads an object that the scan has proven; should the two ever disagree, the stricter wins.
        let at = self.span.range().start;
        let text = std::str::from_utf8(self.text).map_err(|_| BadBody::InvalidJson { at })?;
        let mut keys = Keys::default();
        let mut include_usage = None;
        let mut empty = true;
        for entry in to_object_iter(text) {
            let (key, value) = entry.map_err(|_| BadBody::InvalidJson { at })?;
            empty = false;
            if key == "include_usage" {
                let value = value.as_raw_str();
                let start = value.as_ptr().addr().wrapping_sub(text.as_ptr().addr());
                debug_assert!(text[start..].starts_with(value), "a value lies in its object");
                let raw =
                    Raw { text: value.as_bytes(), span: Span::new(start, start + value.len()).behind(at) };
                let asked = raw.flag("stream_options.include_usage")?.unwrap_or(false);
                include_usage = Some(IncludeUsage { asked, value: raw.span });
            } else if routing_key(&key) == Some("include_usage") {
                return Err(BadBody::KeyCase("include_usage"));
            }
            keys.add(key)?;
        }
        Ok(StreamOptions::Object { value: self.span, empty, include_usage })
    }
}

/// Whatever is accepted lies in the body, and the model it names is the model at its place.
#[cfg(any(test, feature = "fuzzing"))]
pub fn fuzz_peek(data: &[u8]) {
    let Ok(peek) = peek(data) else { return };
    let model = peek.model_value.of(data);
    assert!(model.starts_with(b"\"") && model.ends_with(b"\"") && is_model_name(peek.model.as_bytes()));
    assert_eq!(data.get(peek.brace - 1), Some(&b'{'));
    let mut added = Vec::new();
    let spliced = super::splice(&peek, data.len(), "spliced/model", true, &mut added);
    let sent = spliced.concat(data, &added);
    let again = super::peek(&sent).expect("a spliced body is as good as the one that was peeked");
    assert_eq!(again.model, "spliced/model");
    assert_eq!(again.usage_asked(), peek.stream || peek.usage_asked());
    assert_eq!(
        (again.stream, again.n, again.max_tokens, again.user),
        (peek.stream, peek.n, peek.max_tokens, peek.user)
    );
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use serde_json::Value;

    use super::*;
    use crate::wire::json::mutate;

    #[track_caller]
    fn check(body: &str, expect: impl FnOnce(Peek<'_>) -> bool) {
        let peek = peek(body.as_bytes()).unwrap_or_else(|bad| panic!("{body}: {bad:?}"));
        assert!(expect(peek.clone()), "{body}: {peek:?}");
    }

    #[track_caller]
    fn refuse(body: impl AsRef<[u8]>, bad: BadBody) {
        assert_eq!(peek(body.as_ref()), Err(bad));
    }

    #[test]
    fn the_fields_are_read_wherever_they_stand() {
        let body = r#" {"messages":[{"model":"no","stream":"no"}],"n":2,"user":"a\u0042","max_tokens":5,
            "stream":true,"stream_options":{"x":1,"include_usage":true},"model":"openai/gpt-4o"} "#;
        check(body, |p| {
            p.model == "openai/gpt-4o"
                && p.model_value.of(body.as_bytes()) == br#""openai/gpt-4o""#
                && p.stream
                && p.usage_asked()
                && p.n == Some(2)
                && p.max_tokens == Some(5)
                && p.user.as_deref() == Some("aB")
                && p.brace == 2
                && p.stateful == Stateful::default()
        });
    }

    #[test]
    fn a_body_that_says_little_gets_the_defaults() {
        check(r#"{"model":"m"}"#, |p| {
            !p.stream
                && p.stream_options == StreamOptions::Absent
                && p.max_tokens.is_none()
                && p.n.is_none()
                && p.user.is_none()
        });
        check(
            r#"{"model":"m","stream":null,"n":null,"max_tokens":null,"user":null,"stream_options":null}"#,
            |p| {
                !p.stream
                    && p.n.is_none()
                    && p.user.is_none()
                    && p.stream_options == StreamOptions::Null(Span::new(83, 87))
            },
        );
    }

    #[test]
    fn keys_and_model_are_compared_unescaped() {
        check(r#"{"\u006dodel":"gpt\u002d4o"}"#, |p| {
            p.model == "gpt-4o" && p.model_value == Span::new(14, 27)
        });
        check(r#"{"model":"\/a"}"#, |p| p.model == "/a");
        refuse(r#"{"model":"a","mod\u0065l":"b"}"#, BadBody::DuplicateKey(Some("model".into())));
        refuse(r#"{"x":1,"model":"a","x":2}"#, BadBody::DuplicateKey(Some("x".into())));
        refuse(r#"{"model":"a","<>":1,"\u003c>":2}"#, BadBody::DuplicateKey(None));
    }

    #[test]
    fn what_is_not_one_strict_object_is_refused() {
        refuse("", BadBody::InvalidJson { at: 0 });
        refuse(r#"{"model":"m",}"#, BadBody::InvalidJson { at: 13 });
        refuse(b"\xEF\xBB\xBF{\"model\":\"m\"}", BadBody::ByteOrderMark);
        refuse(b"{\"model\":\"m\",\"x\":\"\xFF\"}", BadBody::InvalidUtf8 { at: 18 });
        refuse(r#"{"model":"m"}{"model":"denied"}"#, BadBody::TrailingBytes { at: 13 });
        refuse(r#"[{"model":"m"}]"#, BadBody::NotAnObject);
        refuse(r#""model""#, BadBody::NotAnObject);
        refuse(r#"{/**/"model":"m"}"#, BadBody::InvalidJson { at: 1 });
        refuse(r#"{"model":"m","x":"\ud800"}"#, BadBody::InvalidJson { at: 18 });
    }

    #[test]
    fn a_model_is_a_string_with_a_plain_name() {
        refuse("{}", BadBody::ModelMissing);
        refuse(r#"{"metadata":{"model":"m"}}"#, BadBody::ModelMissing);
        for value in ["1", "null", "true", r#"["m"]"#, r#"{"model":"m"}"#] {
            refuse(format!(r#"{{"model":{value}}}"#), BadBody::ModelNotString);
        }
        for value in ["", " m", "m\\u0000", "a b", "a\\nb", "é", "\\ud83d\\ude00", &"m".repeat(257)] {
            refuse(format!(r#"{{"model":"{value}"}}"#), BadBody::ModelOdd);
        }
        check(&format!(r#"{{"model":"{}"}}"#, "m".repeat(256)), |p| p.model.len() == 256);
    }

    #[test]
    fn a_routing_key_in_another_letter_case_is_refused() {
        for (key, name) in [
            ("Model", "model"),
            ("STREAM", "stream"),
            ("\\u004dodel", "model"),
            ("Messages", "messages"),
            ("N", "n"),
            ("\u{17F}tore", "store"),
        ] {
            refuse(format!(r#"{{"model":"m","{key}":1}}"#), BadBody::KeyCase(name));
        }
        refuse(r#"{"model":"m","stream_options":{"Include_Usage":true}}"#, BadBody::KeyCase("include_usage"));
        check(r#"{"model":"m","metadata":{"Model":"x"},"messages":[{"MODEL":1}]}"#, |p| p.model == "m");
    }

    #[test]
    fn a_key_that_redirects_is_refused() {
        for (key, name) in [
            ("api_base", "api_base"),
            ("Base_URL", "base_url"),
            ("api\\u005fkey", "api_key"),
            ("litellm_params", "litellm_"),
            ("models", "models"),
        ] {
            refuse(format!(r#"{{"model":"m","{key}":null}}"#), BadBody::Redirecting(name));
        }
        check(r#"{"model":"m","metadata":{"api_base":"x"}}"#, |p| p.model == "m");
    }

    #[test]
    fn flags_and_counts_have_one_type() {
        for value in [r#""true""#, "1", "[]", "{}"] {
            refuse(format!(r#"{{"model":"m","stream":{value}}}"#), BadBody::NotBoolean("stream"));
            refuse(format!(r#"{{"model":"m","store":{value}}}"#), BadBody::NotBoolean("store"));
        }
        for value in ["true", "1", "[]", r#""x""#] {
            refuse(format!(r#"{{"model":"m","stream_options":{value}}}"#), BadBody::StreamOptionsNotObject);
        }
        refuse(
            r#"{"model":"m","stream_options":{"include_usage":1}}"#,
            BadBody::NotBoolean("stream_options.include_usage"),
        );
        refuse(
            r#"{"model":"m","stream_options":{"include_usage":false,"include_usag\u0065":true}}"#,
            BadBody::DuplicateKey(Some("include_usage".into())),
        );
        for value in ["-1", "1.0", "1e2", "-0", r#""1""#, "true", "[1]", "4294967296"] {
            refuse(format!(r#"{{"model":"m","n":{value}}}"#), BadBody::NotCount("n"));
        }
        for key in ["max_tokens", "max_completion_tokens", "max_output_tokens"] {
            let bad = peek(format!(r#"{{"model":"m","{key}":18446744073709551616}}"#).as_bytes()).map(drop);
            assert_eq!(bad.as_ref().map_err(BadBody::param), Err(Some(key)));
        }
        refuse(r#"{"model":"m","user":7}"#, BadBody::UserNotString);
    }

    #[test]
    fn max_completion_tokens_wins() {
        check(r#"{"model":"m","max_completion_tokens":7,"max_tokens":9}"#, |p| p.max_tokens == Some(7));
        check(r#"{"model":"m","max_tokens":9,"max_completion_tokens":7}"#, |p| p.max_tokens == Some(7));
        check(r#"{"model":"m","max_tokens":9,"max_completion_tokens":null}"#, |p| p.max_tokens == Some(9));
        check(r#"{"model":"m","max_output_tokens":3}"#, |p| p.max_tokens == Some(3));
    }

    #[test]
    fn what_ties_a_response_to_a_provider_is_seen() {
        check(r#"{"model":"m","store":false,"background":true,"previous_response_id":"resp_1"}"#, |p| {
            p.stateful == Stateful { store: Some(false), background: true, previous_response_id: true }
        });
        check(r#"{"model":"m","store":true,"previous_response_id":null}"#, |p| {
            p.stateful == Stateful { store: Some(true), background: false, previous_response_id: false }
        });
    }

    #[test]
    fn nesting_is_bounded_and_never_reaches_the_stack() {
        for count in [20_000, 1_000_000] {
            refuse("[".repeat(count), BadBody::TooDeep { at: 128 });
            refuse(format!(r#"{{"model":"m","x":{}"#, "[".repeat(count)), BadBody::TooDeep { at: 144 });
        }
        let nested =
            |depth: usize| format!(r#"{{"x":{}{},"model":"m"}}"#, "[".repeat(depth), "]".repeat(depth));
        check(&nested(127), |p| p.model == "m");
        refuse(nested(128), BadBody::TooDeep { at: 132 });
    }

    #[test]
    fn the_deepest_body_is_walked_in_a_small_stack() {
        let walk = || {
            let body = format!(
                r#"{{"x":{}{},"model":"m"}}"#,
                r#"[{"":"#.repeat(63) + "[",
                "]".to_owned() + &"}]".repeat(63)
            );
            check(&body, |p| p.model == "m");
        };
        let thread = std::thread::Builder::new().stack_size(256 << 10).spawn(walk).expect("a thread starts");
        thread.join().expect("the walk ends well");
    }

    #[test]
    fn four_thousand_keys_are_told_apart_and_more_are_bounded() {
        let body = |keys: usize, last: &str| {
            let mut body = String::from(r#"{"model":"m""#);
            for key in 0..keys {
                write!(body, r#","k{key}":0"#).expect("a string grows");
            }
            body + last + "}"
        };
        check(&body(JSON_KEYS_MAX - 1, ""), |p| p.model == "m");
        for (keys, again) in [(1, "k0"), (15, "k3"), (16, "k3"), (17, "k16"), (40, "k3")] {
            refuse(body(keys, &format!(r#","{again}":0"#)), BadBody::DuplicateKey(Some(again.into())));
        }
        refuse(body(4_000, r#","\u006b3999":0"#), BadBody::DuplicateKey(Some("k3999".into())));
        refuse(body(JSON_KEYS_MAX, ""), BadBody::TooManyKeys);
        refuse(body(JSON_KEYS_MAX + 100, r#","k7":0"#), BadBody::TooManyKeys);
    }

    #[test]
    fn what_is_read_in_one_go_is_short() {
        let key = |bytes: usize| format!(r#"{{"{}":0,"model":"m"}}"#, "k".repeat(bytes));
        check(&key(JSON_KEY_BYTES_MAX), |p| p.model == "m");
        refuse(key(JSON_KEY_BYTES_MAX + 1), BadBody::KeyTooLong);
        let options = |bytes: usize| {
            format!(
                r#"{{"stream_options":{{"x":"{}"}},"model":"m"}}"#,
                "x".repeat(bytes - r#"{"x":""}"#.len())
            )
        };
        check(&options(STREAM_OPTIONS_BYTES_MAX), |p| p.model == "m");
        refuse(options(STREAM_OPTIONS_BYTES_MAX + 1), BadBody::StreamOptionsTooLong);
    }

    #[test]
    fn a_number_of_a_megabyte_costs_a_walk_and_no_more() {
        let long = "9".repeat(1 << 20);
        check(&format!(r#"{{"x":{long}e{long},"model":"m"}}"#), |p| p.model == "m");
        refuse(format!(r#"{{"model":"m","max_tokens":{long}}}"#), BadBody::NotCount("max_tokens"));
    }

    /// A body with random members: most bodies are in order, some lack a model or hold a key twice.
    fn generated(chance: &mut mutate::Chance) -> String {
        const MEMBERS: [&str; 24] = [
            r#""model":"openai/gpt-4o""#,
            r#""model":"m""#,
            r#""mod\u0065l":"esc\u0061ped""#,
            r#""stream":true"#,
            r#""stream":false"#,
            r#""stream":null"#,
            r#""stream_options":{"include_usage":false}"#,
            r#""stream_options":{}"#,
            r#""stream_options":null"#,
            r#""stream_options":{"include_obfuscation":true,"include_usage":true}"#,
            r#""n":3"#,
            r#""max_tokens":100"#,
            r#""max_completion_tokens":7"#,
            r#""user":"\u00e9\ud83d\ude00""#,
            r#""messages":[{"role":"user","content":"{\"model\":\"x\"}"}]"#,
            r#""metadata":{"model":"no","Model":"no"}"#,
            r#""temperature":0.7e-1"#,
            r#""tools":[[[{}]]]"#,
            r#""":"""#,
            r#""Model":"x""#,
            r#""x":null"#,
            r#""stop":["\n","\\"]"#,
            r#""seed":-1"#,
            r#""background":true"#,
        ];
        let mut members: Vec<&str> = Vec::new();
        for _ in 0..=chance.below(8) {
            let member = MEMBERS[chance.below(MEMBERS.len())];
            let key = member.split(':').next();
            if chance.below(40) == 0 || !members.iter().any(|other| other.split(':').next() == key) {
                members.push(member);
            }
        }
        if chance.below(8) > 0 && !members.iter().any(|member| member.starts_with(r#""mod"#)) {
            members.insert(chance.below(members.len() + 1), MEMBERS[chance.below(3)]);
        }
        format!("{{{}}}", members.join(","))
    }

    /// Whatever is accepted here is accepted by serde_json, which reads the same.
    #[track_caller]
    fn agree(data: &[u8]) -> bool {
        let Ok(peek) = peek(data) else { return false };
        let twin: Value = match serde_json::from_slice(data) {
            Ok(twin) => twin,
            Err(e) if e.to_string().contains("out of range") => return true,
            Err(e) => panic!("{e}: {}", String::from_utf8_lossy(data)),
        };
        let shown = String::from_utf8_lossy(data);
        assert_eq!(twin["model"], *peek.model, "{shown}");
        assert_eq!(twin["stream"] == true, peek.stream, "{shown}");
        assert_eq!(twin["stream_options"]["include_usage"] == true, peek.usage_asked(), "{shown}");
        assert_eq!(twin["n"].as_u64(), peek.n.map(u64::from), "{shown}");
        let most = [&twin["max_completion_tokens"], &twin["max_output_tokens"], &twin["max_tokens"]];
        assert_eq!(most.into_iter().find_map(Value::as_u64), peek.max_tokens, "{shown}");
        assert_eq!(twin["user"].as_str(), peek.user.as_deref(), "{shown}");

        // What is sent is the same document but for the changes.
        let mut added = Vec::new();
        let spliced = crate::wire::json::splice(&peek, data.len(), "other", true, &mut added);
        let sent: Value =
            serde_json::from_slice(&spliced.concat(data, &added)).expect("spliced JSON is JSON");
        let mut expect = twin;
        expect["model"] = "other".into();
        if peek.stream {
            expect["stream_options"]["include_usage"] = true.into();
        }
        assert_eq!(sent, expect, "{shown}");
        true
    }

    #[test]
    fn generated_and_mutated_bodies_are_read_as_serde_json_reads_them() {
        let mut chance = mutate::Chance::seeded(7);
        let bodies: Vec<String> = (0..3_000).map(|_| generated(&mut chance)).collect();
        let seeds: Vec<&[u8]> = bodies.iter().map(String::as_bytes).collect();
        let mut accepted = 0;
        mutate::each(&seeds, 12_000, |data| {
            fuzz_peek(data);
            accepted += usize::from(agree(data));
        });
        assert!(accepted > 1_000, "only {accepted} bodies were accepted: the property was hardly tried");
    }
}
