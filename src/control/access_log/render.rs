//! One exchange as one line, in three forms. Whatever a client sent, it can neither end a line nor begin a member: what
//! does not belong into a form is escaped as the form has it, and no form holds a byte that moves a terminal.
//!
//! Times are the wall clock's when the exchange ended, in UTC; durations are milliseconds with microseconds behind the point.

use std::{borrow::Cow, cell::OnceCell, net::IpAddr, sync::LazyLock};

use super::{digits, shown::Shown};
use crate::{
    base::{ids::ProviderRoll, money::NanoUsd},
    config::LogFormat,
    control::log_store::Row,
    ledger::{gist::TokenSource, logged::Logged, record::ModelName},
    wire::{
        http1::render::FieldText,
        mask::{Rules, masked},
        openai::endpoint::Endpoint,
        trace_context::TraceId,
    },
};

/// What a line is made of besides the exchange.
pub struct Words<'a> {
    pub(in crate::control) core: usize,
    pub(in crate::control) roll: &'a ProviderRoll,
    pub(in crate::control) rules: &'a Rules,
    shown: Shown,
}

impl<'a> Words<'a> {
    pub fn new(core: usize, roll: &'a ProviderRoll, rules: &'a Rules) -> Self {
        Self { core, roll, rules, shown: Shown::default() }
    }
}

/// For identifiers: their digits are nobody's number.
static KEYS_ALONE: LazyLock<Rules> = LazyLock::new(Rules::default);

/// An exchange as it may be told, to as many as want it: what has to be masked is masked once.
pub struct Told<'a> {
    pub(in crate::control) logged: &'a Logged,
    words: &'a Words<'a>,
    names: OnceCell<Names<'a>>,
}

/// What clients write as they like. A key ends up there sooner than one thinks.
struct Names<'a> {
    request_id: Cow<'a, [u8]>,
    asked: Cow<'a, [u8]>,
    used: Cow<'a, [u8]>,
}

impl<'a> Told<'a> {
    pub fn of(logged: &'a Logged, words: &'a Words<'a>) -> Self {
        Self { logged, words, names: OnceCell::new() }
    }

    fn names(&self) -> &Names<'a> {
        let Self { logged, words, .. } = *self;
        let model = |name: &'a ModelName| words.shown.masked(words.rules, name);
        self.names.get_or_init(|| Names {
            request_id: match &logged.request_id {
                ours if ours.is_ours() => Cow::Borrowed(ours.value()),
                theirs => bytes(masked(&KEYS_ALONE, theirs.as_str())),
            },
            asked: model(&logged.gist.model_asked),
            used: model(&logged.gist.model_used),
        })
    }
}

pub(super) fn bytes(text: Cow<'_, str>) -> Cow<'_, [u8]> {
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
        Cow::Owned(text) => Cow::Owned(text.into_bytes()),
    }
}

/// Adds the line, and the line feed that ends it, to `text`.
pub fn line(format: LogFormat, told: &Told<'_>, text: &mut Vec<u8>) {
    text.reserve(LINE_BYTES);
    let start = text.len();
    match format {
        LogFormat::Json => {
            members(told, &mut JsonMembers(text));
            // In the place of the comma before the first member.
            if let Some(first) = text.get_mut(start) {
                *first = b'{';
            }
            text.push(b'}');
        }
        LogFormat::Logfmt => members(told, &mut |name, value: Value<'_>| logfmt_member(name, value, text)),
        LogFormat::Combined => combined(told.logged, text),
    }
    text.push(b'\n');
}

/// Nearly all lines are shorter.
const LINE_BYTES: usize = 1_024;

/// What a member is called.
#[derive(Clone, Copy)]
pub(in crate::control) struct Name {
    pub(in crate::control) plain: &'static str,
    /// As it stands in an object, behind another member.
    json: &'static str,
    /// As OpenTelemetry's protobuf has it: a member of a log record's list of attributes, up to where its value's length
    /// stands. The second byte is its own length without the value.
    pub(in crate::control) attribute: &'static [u8],
}

macro_rules! name {
    ($name:literal) => {
        Name {
            plain: $name,
            json: concat!(",\"", $name, "\":"),
            attribute: const { &attribute::<{ $name.len() + 5 }>($name) },
        }
    };
}

/// Each field begins with its number and its layout, and here with a length.
const fn attribute<const BYTES: usize>(name: &str) -> [u8; BYTES] {
    const LENGTH: u8 = 2;
    let (mut attribute, mut at) = ([0; BYTES], 0);
    assert!(name.len() + 5 == BYTES && name.len() < 0x40);
    #[expect(clippy::cast_possible_truncation, reason = "less than 64")]
    let length = name.len() as u8;
    (attribute[0], attribute[1]) = (6 << 3 | LENGTH, length + 3);
    (attribute[2], attribute[3]) = (1 << 3 | LENGTH, length);
    while at < name.len() {
        attribute[at + 4] = name.as_bytes()[at];
        at += 1;
    }
    attribute[BYTES - 1] = 2 << 3 | LENGTH;
    attribute
}

/// Who is told the members.
pub(in crate::control) trait Listener {
    fn hear(&mut self, name: Name, value: Value<'_>);
}

impl<F: FnMut(Name, Value<'_>)> Listener for F {
    fn hear(&mut self, name: Name, value: Value<'_>) {
        self(name, value);
    }
}

/// A member's value.
pub(in crate::control) enum Value<'a> {
    Absent,
    /// UTF-8; whoever needs to know looks at it again.
    Text(&'a [u8]),
    /// One of our own words, of which none needs an escape.
    Word(&'static str),
    Number(u64),
    Flag(bool),
    Time {
        unix_ms: u64,
    },
    Millis {
        us: u64,
    },
    Usd(NanoUsd),
    Address(IpAddr),
    Trace(TraceId),
}

impl<'a> From<Option<&'a str>> for Value<'a> {
    fn from(text: Option<&'a str>) -> Self {
        text.map_or(Self::Absent, |text| Self::Text(text.as_bytes()))
    }
}

impl From<Option<u64>> for Value<'_> {
    fn from(number: Option<u64>) -> Self {
        number.map_or(Self::Absent, Value::Number)
    }
}

/// Everything a line says, in its order. What is not known is said to be absent.
pub(in crate::control) fn members(told: &Told<'_>, listener: &mut impl Listener) {
    let Told { logged, words, .. } = *told;
    let gist = &logged.gist;
    let caller = logged.caller.as_ref();
    let Names { request_id, asked, used } = told.names();
    let provider = gist.provider.map(|id| words.roll.name(id).unwrap_or("unknown"));
    let word = |word: Option<&'static str>| word.map_or(Value::Absent, Value::Word);
    listener.hear(name!("time"), Value::Time { unix_ms: logged.ended_unix_ms });
    listener.hear(name!("request_id"), known(request_id));
    listener.hear(name!("caller_id"), caller.map(|caller| caller.id.as_str()).into());
    listener.hear(name!("caller"), caller.map(|caller| &*caller.name).into());
    listener.hear(name!("address"), Value::Address(logged.address));
    listener.hear(name!("method"), word(logged.method.and_then(|method| method.token())));
    listener.hear(name!("operation"), Value::Word(gist.operation));
    listener.hear(name!("route"), logged.route.as_deref().into());
    listener.hear(name!("model_asked"), known(asked));
    listener.hear(name!("model_used"), known(used));
    listener.hear(name!("provider"), provider.into());
    listener.hear(name!("status"), Some(u64::from(gist.status)).filter(|status| *status > 0).into());
    listener.hear(name!("outcome"), Value::Word(gist.outcome.name()));
    listener.hear(name!("refusal"), word(gist.refusal));
    listener.hear(name!("attempts"), Value::Number(gist.attempts.into()));
    listener.hear(name!("stream"), Value::Flag(gist.stream));
    listener.hear(name!("prompt_tokens"), gist.prompt_tokens.into());
    listener.hear(name!("completion_tokens"), gist.completion_tokens.into());
    listener.hear(name!("cached_tokens"), gist.cached_tokens.into());
    listener.hear(name!("reasoning_tokens"), gist.reasoning_tokens.into());
    listener.hear(name!("tokens_source"), word(gist.source.map(TokenSource::name)));
    listener.hear(name!("cost_usd"), gist.cost.map_or(Value::Absent, Value::Usd));
    listener.hear(name!("bytes_in"), Value::Number(gist.bytes_in));
    listener.hear(name!("bytes_out"), Value::Number(gist.bytes_out));
    listener.hear(name!("duration_ms"), Value::Millis { us: gist.duration_us });
    listener.hear(name!("overhead_ms"), Value::Millis { us: gist.overhead_us });
    listener.hear(name!("upstream_ms"), Value::Millis { us: gist.upstream_us });
    listener.hear(name!("ttft_ms"), gist.first_token_us.map_or(Value::Absent, |us| Value::Millis { us }));
    listener.hear(name!("unheard"), word(gist.unheard.map(|unheard| unheard.end.name())));
    listener.hear(name!("unheard_bytes"), gist.unheard.map(|unheard| unheard.bytes).into());
    listener.hear(name!("trace_id"), gist.trace.map_or(Value::Absent, |traced| Value::Trace(traced.trace)));
    listener.hear(name!("core"), Value::Number(words.core as u64));
}

/// The exchange as it is kept: the line as JSON, and what it is found by.
pub(super) fn row(told: &Told<'_>) -> Row {
    let Told { logged, words, .. } = *told;
    let record = &logged.gist;
    let mut text = Vec::new();
    line(LogFormat::Json, told, &mut text);
    let names = told.names();
    text.pop();
    let caller = logged.caller.as_ref();
    Row {
        ended_unix_ms: logged.ended_unix_ms,
        request_id: String::from_utf8_lossy(&names.request_id).into_owned(),
        caller_id: caller.map(|caller| caller.id.to_string()).unwrap_or_default(),
        caller: caller.map(|caller| caller.name.to_string()).unwrap_or_default(),
        model: String::from_utf8_lossy(&names.asked).into_owned(),
        provider: record.provider.and_then(|id| words.roll.name(id)).unwrap_or_default().to_owned(),
        status: record.status,
        line: String::from_utf8(text).unwrap_or_default(),
        payload: None,
    }
}

/// Empty is what was never known.
fn known(text: &[u8]) -> Value<'_> {
    if text.is_empty() { Value::Absent } else { Value::Text(text) }
}

/// Every member stands in every object: a reader that loads them into a table meets one set of columns.
struct JsonMembers<'a>(&'a mut Vec<u8>);

impl Listener for JsonMembers<'_> {
    // Inlined, because then each member's name has a length that is known, and its kind of value is not looked at.
    #[inline(always)]
    fn hear(&mut self, name: Name, value: Value<'_>) {
        json_member(name, value, self.0);
    }
}

#[inline(always)]
fn json_member(name: Name, value: Value<'_>, text: &mut Vec<u8>) {
    text.extend_from_slice(name.json.as_bytes());
    match value {
        Value::Absent => text.extend_from_slice(b"null"),
        Value::Text(value) => quoted(value, text),
        Value::Word(_) | Value::Time { .. } | Value::Address(_) | Value::Trace(_) => {
            text.push(b'"');
            bare(value, text);
            text.push(b'"');
        }
        plain => bare(plain, text),
    }
}

/// What is absent is left out, as the format's readers have it.
fn logfmt_member(name: Name, value: Value<'_>, text: &mut Vec<u8>) {
    if matches!(value, Value::Absent) {
        return;
    }
    if text.last().is_some_and(|last| *last != b'\n') {
        text.push(b' ');
    }
    text.extend_from_slice(name.plain.as_bytes());
    text.push(b'=');
    let is_plain = |byte: &u8| {
        byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'/' | b':' | b'@' | b'+')
    };
    match value {
        Value::Text(value) if value.is_empty() || !value.iter().all(is_plain) => quoted(value, text),
        plain => bare(plain, text),
    }
}

#[inline(always)]
fn bare(value: Value<'_>, text: &mut Vec<u8>) {
    match value {
        Value::Absent => {}
        Value::Text(value) => text.extend_from_slice(value),
        Value::Word(value) => text.extend_from_slice(value.as_bytes()),
        Value::Number(number) => digits::number(number, text),
        Value::Usd(cost) => digits::usd(cost, text),
        Value::Flag(true) => text.extend_from_slice(b"true"),
        Value::Flag(false) => text.extend_from_slice(b"false"),
        Value::Time { unix_ms } => digits::rfc3339(unix_ms, text),
        Value::Millis { us } => digits::millis(us, text),
        Value::Address(address) => digits::address(address, text),
        Value::Trace(trace) => digits::trace(trace, text),
    }
}

/// A JSON string, which is also what logfmt's readers expect between quotes.
fn quoted(value: &[u8], text: &mut Vec<u8>) {
    text.push(b'"');
    if needs_no_escape(value) {
        text.extend_from_slice(value);
    } else {
        String::from_utf8_lossy(value).chars().for_each(|c| escaped(c, text));
    }
    text.push(b'"');
}

/// Whether all of it is visible ASCII or spaces, without quotes and backslashes.
fn needs_no_escape(value: &[u8]) -> bool {
    match (value.as_chunks(), value.last_chunk()) {
        ((words, _), Some(last)) => {
            words.iter().chain([last]).fold(0, |found, word| found | unfit(word)) == 0
        }
        ((_, few), None) => {
            let mut word = [b' '; 8];
            word[..few.len()].copy_from_slice(few);
            unfit(&word) == 0
        }
    }
}

/// Not zero if one of eight bytes needs an escape.
fn unfit(word: &[u8; 8]) -> u64 {
    const fn each(byte: u8) -> u64 {
        u64::from_ne_bytes([byte; 8])
    }
    let word = u64::from_ne_bytes(*word);
    // The high bit of each byte below a bound is set, and perhaps of some above the first such byte.
    let below = |word: u64, bound: u8| word.wrapping_sub(each(bound)) & !word;
    let is = |byte: u8| below(word ^ each(byte), 1);
    (below(word, b' ') | is(b'"') | is(b'\\') | is(0x7f) | word) & each(0x80)
}

#[cold]
fn escaped(c: char, text: &mut Vec<u8>) {
    match c {
        '"' | '\\' => text.extend_from_slice(&[b'\\', c as u8]),
        c if is_unfit(c) => {
            for unit in c.encode_utf16(&mut [0; 2]) {
                text.extend_from_slice(format!("\\u{unit:04x}").as_bytes());
            }
        }
        c => text.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
    }
}

/// Controls, and what ends a line for some readers or turns the direction of text.
pub(in crate::control) fn is_unfit(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// `host ident user [time] "request" status bytes "referer" "agent"`: what is not known is `-`, and a status that was
/// never sent is `000`. The path is that of the
/// operation, not what the client wrote.
fn combined(logged: &Logged, text: &mut Vec<u8>) {
    let record = &logged.gist;
    let put = |text: &mut Vec<u8>, words: &[&str]| {
        words.iter().for_each(|word| text.extend_from_slice(word.as_bytes()));
    };
    digits::address(logged.address, text);
    put(text, &[" - "]);
    match &logged.caller {
        Some(caller) => word(&caller.name, text),
        None => text.push(b'-'),
    }
    put(text, &[" ["]);
    digits::apache_time(logged.ended_unix_ms, text);
    put(text, &["] \""]);
    let method = logged.method.map(|method| method.token().unwrap_or("OTHER"));
    match method {
        Some(method) => {
            let version = if logged.http10 { "1.0" } else { "1.1" };
            let endpoint = Endpoint::ALL.into_iter().find(|it| it.operation() == record.operation);
            match endpoint.map(Endpoint::path) {
                Some(path) => put(text, &[method, " /v1", path, " HTTP/", version]),
                None => put(text, &[method, " - HTTP/", version]),
            }
        }
        None => text.push(b'-'),
    }
    put(text, &["\" "]);
    if record.status < 100 {
        put(text, &["0", if record.status < 10 { "0" } else { "" }]);
    }
    digits::number(record.status.into(), text);
    text.push(b' ');
    if record.bytes_out == 0 {
        text.push(b'-');
    } else {
        digits::number(record.bytes_out, text);
    }
    put(text, &[" \"-\" \"-\""]);
}

/// As Apache writes what is not plain ASCII: byte by byte. A space would begin the next field.
fn word(value: &str, text: &mut Vec<u8>) {
    for byte in value.bytes() {
        if byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\' | b'[' | b']') {
            text.push(byte);
        } else {
            text.extend_from_slice(format!("\\x{byte:02x}").as_bytes());
        }
    }
    if value.is_empty() {
        text.push(b'-');
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value as Json;

    use super::*;
    use crate::{
        base::{ids::ProviderId, now::Now},
        bridge::logpipe::tests::numbered,
        ledger::{
            logged::{CallerTag, Keep},
            record::{Deadline, Outcome, Party, Record, Tokens},
            sheet::Sheet,
            trail::Trail,
        },
        wire::{http1::head::Method, token::TokenId, trace_context::TraceParent},
    };

    const ENDED: u64 = 1_795_357_672_123;

    fn roll() -> ProviderRoll {
        let mut roll = ProviderRoll::default();
        roll.enrol("openai");
        roll
    }

    /// A stream that went well, with everything that can be known.
    fn whole() -> Logged {
        let mut record = Record::new("chat", Now(1_000_000));
        record.status = 200;
        record.stream = true;
        record.provider = Some(ProviderId(0));
        record.model_asked = "openai/gpt-4o".into();
        record.model_used = "gpt-4o".into();
        record.attempts = 2;
        record.cost = Some(NanoUsd(3_340_000));
        let client = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        record.trail = Some(Box::new(Trail::note(TraceParent::parse(client).expect("a parent"))));
        record.phases.first_token = Some(Now(420_500_000));
        record.waited(Party::Upstream, Now(1_100_000), Now(1_900_900_000));
        record.tokens = Tokens {
            prompt: Some(1_200),
            completion: Some(34),
            cached: Some(1_024),
            reasoning: Some(0),
            ..Tokens::default()
        };
        (record.bytes_in, record.bytes_out) = (4_321, 98_765);
        Logged {
            gist: record.close(Now(1_901_250_000), Outcome::Completed, &mut Sheet::default()).gist(),
            whole: None,
            ended_unix_ms: ENDED,
            request_id: "0193-abc_D".into(),
            caller: Some(CallerTag {
                id: TokenId::parse("abcdefghij234567").expect("an id"),
                name: "Frontend".into(),
            }),
            address: "::ffff:192.0.2.7".parse().expect("an address"),
            method: Some(Method::Post),
            http10: false,
            route: Some("support".into()),
            keep: Keep::No,
            payload: None,
        }
    }

    /// One that never got as far as a head.
    fn nothing() -> Logged {
        let record = Record::new("none", Now(0));
        let outcome = Outcome::TimedOut(Deadline::Head);
        let closed = record.close(Now(10_000_000_000), outcome, &mut Sheet::default());
        Logged { gist: closed.gist(), ended_unix_ms: 951_782_400_007, ..numbered(0) }
    }

    /// One of a client that means ill: no name here comes past the parser, but the log does not rely on it.
    fn hostile() -> Logged {
        let ill = "a\"b\\c\nd\r\u{1b}[2J\u{2028}\u{202e}\u{85}é\u{1f600} =x";
        let mut record = Record::new("chat", Now(0));
        record.model_asked = ill.into();
        record.refusal = Some("model_not_found");
        record.status = 404;
        let closed = record.close(Now(1_000), Outcome::Refused, &mut Sheet::default());
        let mut logged = Logged { gist: closed.gist(), request_id: ill.into(), ..whole() };
        logged.caller.as_mut().expect("there is one").name = ill.into();
        logged
    }

    fn rendered(format: LogFormat, logged: &Logged) -> String {
        let mut text = Vec::new();
        let rules = Rules { email: true, ..Rules::default() };
        let roll = roll();
        let words = Words::new(3, &roll, &rules);
        line(format, &Told::of(logged, &words), &mut text);
        String::from_utf8(text).expect("text")
    }

    #[track_caller]
    fn check(format: LogFormat, logged: &Logged, expect: &str) {
        assert_eq!(rendered(format, logged), format!("{expect}\n"));
    }

    #[test]
    fn json_has_every_member_in_every_line() {
        check(
            LogFormat::Json,
            &whole(),
            r#"{"time":"2026-11-22T14:27:52.123Z","request_id":"0193-abc_D","caller_id":"abcdefghij234567","caller":"Frontend","address":"192.0.2.7","method":"POST","operation":"chat","route":"support","model_asked":"openai/gpt-4o","model_used":"gpt-4o","provider":"openai","status":200,"outcome":"completed","refusal":null,"attempts":2,"stream":true,"prompt_tokens":1200,"completion_tokens":34,"cached_tokens":1024,"reasoning_tokens":0,"tokens_source":"reported","cost_usd":0.00334,"bytes_in":4321,"bytes_out":98765,"duration_ms":1900.250,"overhead_ms":0.450,"upstream_ms":1899.800,"ttft_ms":419.500,"unheard":null,"unheard_bytes":null,"trace_id":"4bf92f3577b34da6a3ce929d0e0e4736","core":3}"#,
        );
        check(
            LogFormat::Json,
            &nothing(),
            r#"{"time":"2000-02-29T00:00:00.007Z","request_id":null,"caller_id":null,"caller":null,"address":"127.0.0.1","method":null,"operation":"none","route":null,"model_asked":null,"model_used":null,"provider":null,"status":null,"outcome":"timed_out_head","refusal":null,"attempts":0,"stream":false,"prompt_tokens":null,"completion_tokens":null,"cached_tokens":null,"reasoning_tokens":null,"tokens_source":null,"cost_usd":null,"bytes_in":0,"bytes_out":0,"duration_ms":10000.000,"overhead_ms":10000.000,"upstream_ms":0.000,"ttft_ms":null,"unheard":null,"unheard_bytes":null,"trace_id":null,"core":3}"#,
        );
    }

    #[test]
    fn logfmt_leaves_out_what_is_not_known() {
        check(
            LogFormat::Logfmt,
            &whole(),
            "time=2026-11-22T14:27:52.123Z request_id=0193-abc_D caller_id=abcdefghij234567 caller=Frontend \
             address=192.0.2.7 method=POST operation=chat route=support model_asked=openai/gpt-4o model_used=gpt-4o \
             provider=openai status=200 outcome=completed attempts=2 stream=true prompt_tokens=1200 \
             completion_tokens=34 cached_tokens=1024 reasoning_tokens=0 tokens_source=reported cost_usd=0.00334 bytes_in=4321 bytes_out=98765 \
             duration_ms=1900.250 overhead_ms=0.450 upstream_ms=1899.800 ttft_ms=419.500 trace_id=4bf92f3577b34da6a3ce929d0e0e4736 core=3",
        );
        check(
            LogFormat::Logfmt,
            &nothing(),
            "time=2000-02-29T00:00:00.007Z address=127.0.0.1 operation=none outcome=timed_out_head attempts=0 \
             stream=false bytes_in=0 bytes_out=0 duration_ms=10000.000 overhead_ms=10000.000 upstream_ms=0.000 core=3",
        );
    }

    #[test]
    fn combined_is_what_apache_writes() {
        check(
            LogFormat::Combined,
            &whole(),
            r#"192.0.2.7 - Frontend [22/Nov/2026:14:27:52 +0000] "POST /v1/chat/completions HTTP/1.1" 200 98765 "-" "-""#,
        );
        check(
            LogFormat::Combined,
            &nothing(),
            r#"127.0.0.1 - - [29/Feb/2000:00:00:00 +0000] "-" 000 - "-" "-""#,
        );
    }

    #[test]
    fn a_key_in_the_wrong_place_is_not_shown() {
        let mut record = Record::new("chat", Now(0));
        record.model_asked = "openai/sk-proj-0123456789".into();
        record.model_used = "me@example.com".into();
        let closed = record.close(Now(1), Outcome::Refused, &mut Sheet::default());
        let text = rendered(
            LogFormat::Json,
            &Logged { gist: closed.gist(), request_id: "sk-proj-0123456789".into(), ..whole() },
        );
        let json: Json = serde_json::from_str(&text).expect("JSON");
        assert_eq!(json["request_id"], "[key]");
        assert_eq!((&json["model_asked"], &json["model_used"]), (&"openai/[key]".into(), &"[email]".into()));
    }

    #[test]
    fn what_needs_an_escape_is_found_wherever_it_stands() {
        for length in 0..=19 {
            for at in 0..length {
                for byte in 0..=u8::MAX {
                    let mut text = vec![b'~'; length];
                    text[at] = byte;
                    let expect = matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
                    assert_eq!(needs_no_escape(&text), expect, "{byte:#x} at {at} of {length}");
                }
            }
        }
        assert!(needs_no_escape(b""));
    }

    #[test]
    fn nothing_a_client_sends_breaks_a_line() {
        let logged = hostile();
        for format in [LogFormat::Json, LogFormat::Logfmt, LogFormat::Combined] {
            let text = rendered(format, &logged);
            let line = text.strip_suffix('\n').expect("a line");
            assert!(!line.chars().any(is_unfit), "{line:?}");
        }
        let json: Json = serde_json::from_str(&rendered(LogFormat::Json, &logged)).expect("JSON");
        let ill = logged.gist.model_asked.as_str();
        assert_eq!((json["model_asked"].as_str(), json["request_id"].as_str()), (Some(ill), Some(ill)));
        assert_eq!(json.as_object().map(serde_json::Map::len), Some(32));
        let logfmt = rendered(LogFormat::Logfmt, &logged);
        assert!(
            logfmt.contains(r#" model_asked="a\"b\\c\u000ad\u000d\u001b[2J\u2028\u202e\u0085é😀 =x" "#),
            "{logfmt}"
        );
        let combined = rendered(LogFormat::Combined, &logged);
        assert!(
            combined.contains(r" - a\x22b\x5cc\x0ad\x0d\x1b\x5b2J\xe2\x80\xa8")
                && combined.split(' ').count() == 12,
            "{combined}"
        );
    }
}
