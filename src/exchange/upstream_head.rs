//! The head of a request to a target. What stands in it is decided by `wire::openai::upstream_head`.

use super::{ask::Ask, receive::Request};
pub(super) use crate::wire::openai::upstream_head::Written;
use crate::{
    policy::route::Target,
    wire::{
        openai::upstream_head::{self, To},
        trace_context::Onward,
    },
};

/// Appends the head for a body of `body_bytes` to `out`.
pub(super) fn write(
    out: &mut Vec<u8>,
    target: Target<'_, '_>,
    request: &Request,
    ask: &Ask,
    body_bytes: usize,
    trace: Option<&Onward>,
) -> Written {
    let provider = target.provider;
    let to = To {
        opening: &provider.opening,
        credential_line: provider.keys[usize::from(target.key)].line.expose(),
    };
    upstream_head::write(out, to, ask.endpoint, &request.head, &request.buffer, body_bytes, trace)
}
