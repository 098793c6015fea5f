//! W3C Trace Context: which trace a request belongs to, read strictly and written as it has to be.
//!
//! What is not exactly as the recommendation has it is no trace: whoever reads it begins a new one, and the `tracestate`
//! beside it means nothing then.

use std::num::NonZeroU64;

use super::http1::{
    Known,
    fields::{self, Field},
    render::FieldText,
};
use crate::base::hex;

/// A trace's number; never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceId(u128);

/// A span's number; never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanId(NonZeroU64);

impl TraceId {
    /// `None` for zero, which means that there is none.
    pub fn new(number: u128) -> Option<Self> {
        (number != 0).then_some(Self(number))
    }

    pub fn bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// The bits that tell traces apart when some are chosen by chance: the same at every hop.
    pub fn low(self) -> u64 {
        let [.., a, b, c, d, e, f, g, h] = self.bytes();
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }
}

impl SpanId {
    /// `None` for zero, which means that there is none.
    pub fn new(number: u64) -> Option<Self> {
        NonZeroU64::new(number).map(Self)
    }

    pub fn bytes(self) -> [u8; 8] {
        self.0.get().to_be_bytes()
    }
}

impl std::fmt::Display for TraceId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// What `traceparent` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    pub trace: TraceId,
    /// The span that the request was sent in.
    pub span: SpanId,
    pub flags: Flags,
}

/// The flags that mean something; others are neither kept nor passed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(u8);

impl Flags {
    const SAMPLED: u8 = 1;
    /// The trace's number was made by chance (level 2): passed on as it came.
    const RANDOM: u8 = 2;

    pub fn sampled(sampled: bool) -> Self {
        Self(u8::from(sampled))
    }

    /// Whether the caller keeps this trace.
    pub fn is_sampled(self) -> bool {
        self.0 & Self::SAMPLED != 0
    }
}

/// How one who is not told decides which traces are kept: a share of them, the same ones at every hop that keeps as many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Traces whose lower 63 bits are below it are kept.
    below: u64,
}

impl Share {
    pub const ALL: Self = Self { below: 1 << 63 };

    /// So many of a million.
    pub fn of_million(count: u32) -> Self {
        match count {
            1_000_000.. => Self::ALL,
            count => Self { below: Self::ALL.below / 1_000_000 * u64::from(count) },
        }
    }

    pub fn keeps(self, trace: TraceId) -> bool {
        trace.low() & (Self::ALL.below - 1) < self.below
    }
}

/// How long the field is in version 00.
pub const TRACE_PARENT_BYTES: usize = 55;

impl TraceParent {
    /// Reads `version-trace-parent-flags`, in lower case throughout. A later version may go on behind another `-`.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let (known, more) = value.split_at_checked(TRACE_PARENT_BYTES)?;
        let [version, trace, span, flags] = parts(known)?;
        let version = hex(version)?;
        let ends_well = match version {
            0 => more.is_empty(),
            0xff => false,
            _ => more.is_empty() || more.starts_with(b"-"),
        };
        if !ends_well {
            return None;
        }
        let flags = u8::try_from(hex(flags)?).ok()? & (Flags::SAMPLED | Flags::RANDOM);
        let span = u64::try_from(hex(span)?).ok()?;
        Some(Self { trace: TraceId::new(hex(trace)?)?, span: SpanId::new(span)?, flags: Flags(flags) })
    }

    /// The parent of a request that has exactly one; of two, neither can be believed.
    pub fn of(fields: &[Field], bytes: &[u8]) -> Option<Self> {
        let mut found = fields.iter().filter(|field| field.known == Known::TraceParent);
        let only = found.next().filter(|_| found.next().is_none())?;
        Self::parse(only.value.of(bytes))
    }

    /// The field's value, in version 00.
    pub fn render(self) -> TraceParentText {
        let mut out = *b"00-00000000000000000000000000000000-0000000000000000-00";
        hex::put(&self.trace.bytes(), &mut out[3..35]);
        hex::put(&self.span.bytes(), &mut out[36..52]);
        hex::put(&[self.flags.0], &mut out[53..55]);
        TraceParentText(out)
    }
}

/// What an upstream is told of the trace in the place of what the client said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Onward {
    pub parent: TraceParent,
    /// Whether the client's `tracestate` goes with it.
    pub keeps_state: bool,
}

/// A `traceparent` as it is written: digits and hyphens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParentText([u8; TRACE_PARENT_BYTES]);

impl FieldText for TraceParentText {
    fn value(&self) -> &[u8] {
        &self.0
    }
}

/// Most members of all `tracestate` fields together, as the recommendation has it, and most bytes that we pass on of them.
const STATE_MEMBERS_MAX: usize = 32;
const STATE_BYTES_MAX: usize = 4 << 10;

/// Whether the `tracestate` fields of a head, together, are a list that may be passed on.
pub fn is_good_state(fields: &[Field], bytes: &[u8]) -> bool {
    let states = fields.iter().filter(|field| field.known == Known::TraceState);
    let (mut count, mut length) = (0, 0);
    for field in states {
        length += field.value.len();
        for member in fields::list(field.value.of(bytes)) {
            count += 1;
            if !is_member(member) {
                return false;
            }
        }
    }
    count <= STATE_MEMBERS_MAX && length <= STATE_BYTES_MAX
}

/// `key=value`: the key in lower case, perhaps as `tenant@system`; the value printable, without comma or another `=`.
fn is_member(member: &[u8]) -> bool {
    let Some(at) = memchr::memchr(b'=', member) else { return false };
    let (key, value) = (&member[..at], &member[at + 1..]);
    let inner = |byte: &u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-' | b'*' | b'/')
    };
    let is_key = match memchr::memchr(b'@', key) {
        None => key.first().is_some_and(u8::is_ascii_lowercase) && key.len() <= 256 && key.iter().all(inner),
        Some(at) => {
            let (tenant, system) = (&key[..at], &key[at + 1..]);
            tenant.first().is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
                && system.first().is_some_and(u8::is_ascii_lowercase)
                && tenant.len() <= 241
                && system.len() <= 14
                && tenant.iter().chain(system).all(inner)
        }
    };
    let is_value = (1..=256).contains(&value.len())
        && value.iter().all(|byte| matches!(byte, b' '..=b'~') && !matches!(byte, b',' | b'='));
    is_key && is_value
}

fn parts(known: &[u8]) -> Option<[&[u8]; 4]> {
    let is_hyphen = |at: usize| known.get(at) == Some(&b'-');
    (is_hyphen(2) && is_hyphen(35) && is_hyphen(52))
        .then(|| [&known[..2], &known[3..35], &known[36..52], &known[53..]])
}

fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0u128, |number, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(digit))
    })
}

/// What is read is written as it was, as far as version 00 goes; and nothing else is taken for it.
#[cfg(any(test, feature = "fuzzing"))]
pub fn fuzz_trace_parent(data: &[u8]) {
    if let Some(read) = TraceParent::parse(data) {
        let again = read.render();
        assert_eq!(TraceParent::parse(again.value()), Some(read));
        assert_eq!(again.value()[3..52], data[3..52], "trace and span are as they came");
    }
    let _ = is_member(data);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::http1::head::{HeadLimits, parse_request};

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[track_caller]
    fn check(value: &str, expect: Option<&str>) {
        let read = TraceParent::parse(value.as_bytes());
        let written = read.map(|read| String::from_utf8(read.render().value().to_vec()).expect("ASCII"));
        assert_eq!(written.as_deref(), expect, "{value}");
    }

    #[test]
    fn exactly_what_the_recommendation_allows_is_read() {
        check(GOOD, Some(GOOD));
        let ends = |flags: &str| format!("{}{flags}", &GOOD[..53]);
        check(&ends("00"), Some(&ends("00")));
        check(&ends("03"), Some(&ends("03")));
        // Flags that nobody knows yet are not passed on.
        check(&ends("ff"), Some(&ends("03")));
        check(&ends("0g"), None);
        check(&ends("0"), None);
        check("", None);
        check(&GOOD.to_ascii_uppercase(), None);
        check(&GOOD.replace("4736", "473"), None);
        check(&GOOD.replace('-', "_"), None);
        check(&format!("{GOOD}-"), None);
        check(&format!(" {GOOD}"), None);
        check("00-00000000000000000000000000000000-00f067aa0ba902b7-01", None);
        check("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", None);
        // Later versions are read as far as they are known, and only if they go on as they must.
        let later = GOOD.replacen("00", "cc", 1);
        check(&later, Some(GOOD));
        check(&format!("{later}-what-comes"), Some(GOOD));
        check(&format!("{later}."), None);
        check(&GOOD.replacen("00", "ff", 1), None);
    }

    #[track_caller]
    fn check_head(fields: &str, is_traced: bool, state_is_good: bool) {
        let bytes = format!("POST /v1 HTTP/1.1\r\nhost: g\r\n{fields}\r\n");
        let head = parse_request(bytes.as_bytes(), HeadLimits::default()).expect("good").expect("whole");
        assert_eq!(TraceParent::of(&head.fields, bytes.as_bytes()).is_some(), is_traced, "{fields}");
        assert_eq!(is_good_state(&head.fields, bytes.as_bytes()), state_is_good, "{fields}");
    }

    #[test]
    fn two_parents_are_none_and_states_add_up() {
        check_head("", false, true);
        check_head(&format!("TraceParent: {GOOD}\r\n"), true, true);
        check_head(&format!("traceparent: {GOOD}\r\ntraceparent: {GOOD}\r\n"), false, true);
        check_head("tracestate: a=1, b@c=x y\r\ntracestate: \r\ntracestate: 0t/x@sys-1=!~\r\n", false, true);
        for bad in ["a", "A=1", "a=", "=1", "1=1", "a=b=c", "a@=1", "@a=1", "a@1=1", "a=\u{e9}", "a b=1"] {
            check_head(&format!("tracestate: {bad}\r\n"), false, false);
        }
        let many = |count: usize| (0..count).map(|at| format!("k{at}=v,")).collect::<String>();
        check_head(&format!("tracestate: {}\r\n", many(32)), false, true);
        check_head(&format!("tracestate: {}\r\ntracestate: x=1\r\n", many(32)), false, false);
    }

    #[test]
    fn no_input_is_read_as_what_it_is_not() {
        // xorshift, so that every run sees the same.
        let mut chance = 0x9e37_79b9_7f4a_7c15_u64;
        let mut below = |bound: usize| {
            chance ^= chance << 13;
            chance ^= chance >> 7;
            chance ^= chance << 17;
            usize::try_from(chance >> 11).unwrap_or(0) % bound
        };
        for seed in [GOOD.as_bytes(), b"cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x", b"a@b=c"]
        {
            (0..=seed.len()).for_each(|end| fuzz_trace_parent(&seed[..end]));
            for _ in 0..5_000 {
                let mut input = seed.to_vec();
                for _ in 0..=below(3) {
                    let at = below(input.len());
                    input[at] = u8::try_from(below(256)).unwrap_or(0);
                }
                fuzz_trace_parent(&input);
            }
        }
    }
}
