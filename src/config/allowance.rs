//! How much may be used under one key (the gateway, a caller, a model, an address, …), ready to be counted.
//!
//! An allowance says how much and how fast; what has been used stands in a line of the quota board, one slot a measure.

use std::num::NonZeroU64;

/// What a limit counts, and over which time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Measure {
    RequestsPerSecond = 1,
    RequestsPerMinute,
    RequestsPerHour,
    RequestsPerDay,
    TokensPerMinute,
    TokensPerDay,
    /// Requests that are being served now, streams among them.
    ConcurrentRequests,
    ConcurrentStreams,
    /// Connections that are open now.
    Connections,
    /// Tokens in a calendar day (UTC), kept over restarts.
    BudgetTokensDay,
    /// Tokens in a calendar month (UTC), kept over restarts.
    BudgetTokensMonth,
    /// Nano-dollars in a calendar day (UTC), kept over restarts.
    BudgetNanoUsdDay,
    /// Nano-dollars in a calendar month (UTC), kept over restarts.
    BudgetNanoUsdMonth,
}

/// What a measure is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Requests,
    Tokens,
    NanoUsd,
}

impl Measure {
    /// The slot that counts it, in every line of the board. Slot 0 is the board's own.
    pub fn slot(self) -> usize {
        self as usize
    }

    pub fn unit(self) -> Unit {
        match self {
            Self::TokensPerMinute | Self::TokensPerDay | Self::BudgetTokensDay | Self::BudgetTokensMonth => {
                Unit::Tokens
            }
            Self::BudgetNanoUsdDay | Self::BudgetNanoUsdMonth => Unit::NanoUsd,
            _ => Unit::Requests,
        }
    }

    /// What a client is told was limited.
    pub fn words(self) -> &'static str {
        match self {
            Self::RequestsPerSecond => "requests per second",
            Self::RequestsPerMinute => "requests per minute",
            Self::RequestsPerHour => "requests per hour",
            Self::RequestsPerDay => "requests per day",
            Self::TokensPerMinute => "tokens per minute",
            Self::TokensPerDay => "tokens per day",
            Self::ConcurrentRequests => "concurrent requests",
            Self::ConcurrentStreams => "concurrent streams",
            Self::Connections => "connections",
            Self::BudgetTokensDay | Self::BudgetNanoUsdDay => "budget of the day",
            Self::BudgetTokensMonth | Self::BudgetNanoUsdMonth => "budget of the month",
        }
    }
}

/// So many units a period, and a burst of them at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub amount: NonZeroU64,
    pub period_ns: NonZeroU64,
    /// The most that can be spent in one moment after a rest.
    pub burst: NonZeroU64,
}

/// One limit of an allowance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    Rate { measure: Measure, rate: Rate },
    Concurrency { measure: Measure, most: u32 },
    Budget { measure: Measure, most: u64 },
}

/// What becomes of a running stream whose tokens cross a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnExceed {
    /// It finishes; the debt is paid by those who come after.
    #[default]
    Finish,
    /// It is ended with an error event.
    Cut,
}

/// All limits that hold for one key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowance {
    /// Each measure at most once, in the order of [`Measure`].
    pub limits: Box<[Limit]>,
    pub on_exceed: OnExceed,
}

impl Limit {
    pub fn measure(self) -> Measure {
        match self {
            Self::Rate { measure, .. } | Self::Concurrency { measure, .. } | Self::Budget { measure, .. } => {
                measure
            }
        }
    }
}

impl Allowance {
    /// These limits, and those of `common` for what these do not measure.
    #[must_use]
    pub fn over(&self, common: &Self) -> Self {
        let mut limits = self.limits.to_vec();
        let measured = |limit: &&Limit| self.limits.iter().all(|own| own.measure() != limit.measure());
        limits.extend(common.limits.iter().filter(measured));
        limits.sort_by_key(|limit| limit.measure());
        let on_exceed = if self.limits.is_empty() { common.on_exceed } else { self.on_exceed };
        Self { limits: limits.into(), on_exceed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_limits_stand_above_common_ones_measure_by_measure() {
        let place = |measure, most| Limit::Concurrency { measure, most };
        let (requests, streams) = (Measure::ConcurrentRequests, Measure::ConcurrentStreams);
        let common =
            Allowance { limits: [place(requests, 5), place(streams, 6)].into(), on_exceed: OnExceed::Cut };
        let own = Allowance { limits: [place(streams, 1)].into(), on_exceed: OnExceed::Finish };
        assert_eq!(*own.over(&common).limits, [place(requests, 5), place(streams, 1)]);
        assert_eq!(own.over(&common).on_exceed, OnExceed::Finish);
        assert_eq!(Allowance::default().over(&common), common);
    }
}
