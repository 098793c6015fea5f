//! The head of a request to a provider, written from parsed fields: nothing of the client's own head is copied raw, and
//! only what this list names is passed on.

use super::endpoint::Endpoint;
use crate::{
    base::span::Span,
    wire::{
        http1::{
            Known,
            head::RequestHead,
            render::{HeaderSafe, Opening},
        },
        trace_context::Onward,
    },
};

/// To whom a head is written, in the form in which it is sent.
#[derive(Clone, Copy)]
pub struct To<'a> {
    pub opening: &'a Opening,
    /// The whole field with its line end, or nothing.
    pub credential_line: &'a [u8],
}

/// Where in the buffer the provider's credential lies, to be wiped after the write.
pub struct Written {
    pub whole: Span,
    pub credential: Span,
}

/// Appends the head for a body of `body_bytes` to `out`. `bytes` is what the client's `head` was parsed from.
///
/// With `trace` the gateway takes part in the client's trace, and the provider's parent is the attempt; without it, it does
/// not, and what the client said of its trace goes on unchanged and unread.
pub fn write(
    out: &mut Vec<u8>,
    to: To<'_>,
    endpoint: Endpoint,
    head: &RequestHead,
    bytes: &[u8],
    body_bytes: usize,
    trace: Option<&Onward>,
) -> Written {
    let start = out.len();
    let mut ours = to.opening.begin(out, endpoint.target());
    let credential = ours.line(to.credential_line);
    let mut seen = 0u64;
    if let Some(trace) = trace {
        ours.field(Known::TraceParent.text(), HeaderSafe::of(&trace.parent.render()));
    }
    for field in head.fields.iter() {
        let bit = field.known.bit();
        let passes = match field.known {
            // A list over several fields, or what only its reader may judge: all of them.
            Known::TraceState => trace.is_none_or(|trace| trace.keeps_state),
            Known::TraceParent => trace.is_none(),
            // Once: of several, the first.
            known => is_passed_on(known) && seen & bit == 0,
        };
        if passes {
            seen |= bit;
            ours.field(field.known.text(), HeaderSafe::read(field, bytes));
        }
    }
    // Usage could not be read in a compressed answer.
    ours.field("accept-encoding", const { HeaderSafe::fixed("identity") });
    ours.length(body_bytes as u64).end();
    Written { whole: Span::new(start, out.len()), credential }
}

/// What a client may tell a provider. Its credentials, cookies and hop-by-hop fields are not among it.
fn is_passed_on(field: Known) -> bool {
    matches!(
        field,
        Known::ContentType | Known::Accept | Known::UserAgent | Known::OpenaiBeta | Known::IdempotencyKey
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{
        http1::{
            head::{HeadLimits, parse_request},
            render::TargetSafe,
        },
        trace_context::TraceParent,
    };

    #[track_caller]
    fn check(fields: &str, expect: &str) {
        check_traced(fields, None, expect);
    }

    #[track_caller]
    fn check_traced(fields: &str, trace: Option<&Onward>, expect: &str) {
        let bytes = format!("POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\n{fields}\r\n");
        let head = parse_request(bytes.as_bytes(), HeadLimits::default()).expect("good").expect("whole");
        let opening =
            Opening::new("POST", const { TargetSafe::fixed("/v1") }, const { HeaderSafe::fixed("p") });
        let to = To { opening: &opening, credential_line: b"authorization: k\r\n" };
        let mut out = b"before".to_vec();
        let written = write(&mut out, to, Endpoint::ChatCompletions, &head, bytes.as_bytes(), 7, trace);
        let start = "POST /v1/chat/completions HTTP/1.1\r\nhost: p\r\nauthorization: k\r\n";
        let end = "accept-encoding: identity\r\ncontent-length: 7\r\n\r\n";
        assert_eq!(written.whole.of(&out), format!("{start}{expect}{end}").as_bytes());
        assert_eq!(written.credential.of(&out), b"authorization: k\r\n");
    }

    #[test]
    fn only_what_is_named_is_passed_on_and_once() {
        check("", "");
        check("content-type: application/json\r\n", "content-type: application/json\r\n");
        check("User-Agent: a\r\nuser-agent: b\r\n", "user-agent: a\r\n");
        check("authorization: Bearer c\r\ncookie: c\r\nx-api-key: c\r\naccept-encoding: gzip\r\n", "");
        check("connection: close\r\nx-any: 1\r\naccept: */*\r\n", "accept: */*\r\n");
    }

    #[test]
    fn a_trace_is_taken_part_in_or_passed_on_unchanged() {
        let parent = |digit: char| format!("00-{}-{}-01", "a".repeat(32), digit.to_string().repeat(16));
        let theirs = format!("traceparent: {}\r\ntracestate: a=1\r\ntracestate: b=2\r\n", parent('1'));
        check(&theirs, &theirs);
        // Not read, not judged: two of them stay two.
        check("traceparent: x\r\ntraceparent: y\r\n", "traceparent: x\r\ntraceparent: y\r\n");
        let known = TraceParent::parse(parent('2').as_bytes()).expect("a parent");
        let trace = Onward { parent: known, keeps_state: true };
        let ours = format!("traceparent: {}\r\n", parent('2'));
        check_traced(&theirs, Some(&trace), &format!("{ours}tracestate: a=1\r\ntracestate: b=2\r\n"));
        check_traced(&theirs, Some(&Onward { keeps_state: false, ..trace }), &ours);
        check_traced("", Some(&trace), &ours);
    }
}
