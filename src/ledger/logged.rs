//! What a log keeps of one exchange: its record, and who asked. There is no prompt, no answer and no secret in it, and
//! nothing of it is text yet: that is made of it far from the core it comes from.

use std::net::IpAddr;

use crate::{
    ledger::record::Closed,
    wire::{http1::head::Method, token::TokenId},
};

/// One exchange on its way to the log.
#[derive(Clone, Debug)]
pub struct Logged {
    pub closed: Closed,
    /// Wall-clock milliseconds since 1970 when the exchange ended.
    pub ended_unix_ms: u64,
    /// `x-request-id`: letters, digits, `-` and `_`; empty if not even a head was read.
    pub request_id: Box<str>,
    pub caller: Option<CallerTag>,
    /// The client's, as far as proxies that are trusted tell it.
    pub address: IpAddr,
    /// `None`: no head was read.
    pub method: Option<Method>,
    pub http10: bool,
    /// The route that was asked for.
    pub route: Option<Box<str>>,
    /// Whether it is to be kept, where the client said so.
    pub collect: Option<bool>,
}

/// Who called, by both its names: one never changes, the other is read by people.
#[derive(Clone, Debug)]
pub struct CallerTag {
    pub id: TokenId,
    pub name: Box<str>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_moves_little_for_a_line() {
        assert!(size_of::<Logged>() <= 576, "{}", size_of::<Logged>());
    }
}
