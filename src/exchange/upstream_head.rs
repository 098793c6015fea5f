//! The head of a request to a provider, written from parsed fields: nothing of the client's own head is copied raw, and
//! only what this list names is passed on.

use super::{ask::Ask, receive::Request};
use crate::{
    base::span::Span,
    policy::route::Target,
    wire::http1::{
        Known,
        render::{HeaderSafe, TargetSafe, request_line},
    },
};

/// What a client may tell a provider. Its credentials, cookies and hop-by-hop fields are not among it.
fn is_passed_on(field: Known) -> bool {
    matches!(
        field,
        Known::ContentType
            | Known::Accept
            | Known::UserAgent
            | Known::OpenaiBeta
            | Known::IdempotencyKey
            | Known::TraceParent
            | Known::TraceState
    )
}

/// Where in the buffer the provider's credential lies, to be wiped after the write.
pub(super) struct Written {
    pub whole: Span,
    pub credential: Span,
}

/// Appends the head for a body of `body_bytes` to `out`.
pub(super) fn write(
    out: &mut Vec<u8>,
    target: Target<'_, '_>,
    request: &Request,
    ask: &Ask,
    body_bytes: usize,
) -> Written {
    let start = out.len();
    let provider = target.provider;
    // Both come from a checked configuration and a table of ours.
    let path = [provider.base_path.as_bytes(), ask.endpoint.path().as_bytes()].map(TargetSafe::new);
    debug_assert!(path.iter().all(Option::is_some), "paths of the configuration are visible ASCII");
    let path = path.map(|part| part.unwrap_or(TargetSafe::EMPTY));

    let mut head = request_line(out, "POST", &path);
    if let Some(authority) = HeaderSafe::new(provider.authority.as_bytes()) {
        head.field("host", authority);
    }
    let key = &provider.keys[usize::from(target.key)];
    let credential = head.line(key.line.expose());
    let mut seen = 0u64;
    for field in &request.head.fields {
        let bit = 1 << field.known as u32;
        // Once: of several, the first.
        if is_passed_on(field.known)
            && seen & bit == 0
            && let Some(value) = HeaderSafe::new(field.value.of(&request.buffer))
        {
            seen |= bit;
            head.field(field.known.text(), value);
        }
    }
    // Usage could not be read in a compressed answer.
    head.field("accept-encoding", const { HeaderSafe::fixed("identity") });
    head.length(body_bytes as u64).end();
    Written { whole: Span::new(start, out.len()), credential }
}
