//! How targets are doing, as far as a decision needs it. `bridge` answers with one board for all cores; a test answers with
//! plain cells.

pub use crate::base::ids::TargetKey;
use crate::base::now::Now;

/// What all cores know of a target's health.
pub trait Health {
    /// May a request be sent there now? (Does not take a half-open probe.)
    fn verdict(&self, target: TargetKey, now: Now) -> Standing;

    fn in_flight(&self, target: TargetKey) -> u32;

    /// Median of the recent times to first token, if enough are known.
    fn first_token_us(&self, target: TargetKey) -> Option<u64>;
}

/// Whether a target takes requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Closed,
    /// Back for a short while: this share of requests, in percent.
    Ramp(u8),
    /// Half-open: one request may try.
    Probe,
    Open {
        retry_after_ms: u64,
    },
}
