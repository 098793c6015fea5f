//! What an exchange asks of, and tells, the board on which all cores share a target's health.
//!
//! `bridge::health` is that board. Every method is one step that waits for nothing; what is begun is ended exactly once,
//! whatever happens in between, which [`Underway`] sees to.

pub use crate::base::ids::TargetKey;
use crate::{
    base::{ids::ProviderId, now::Now},
    config::Provider,
};

/// What all cores know of a target's health.
pub trait Health {
    /// May a request be sent there now? Does not take a half-open probe.
    fn verdict(&self, target: TargetKey, now: Now) -> Standing;

    /// Attempts that are under way there, of all cores.
    fn in_flight(&self, target: TargetKey) -> u32;

    /// How long until the provider may be back, if a check has found it down. A board on which nothing is checked knows of none.
    fn down_ms(&self, _provider: ProviderId, _now: Now) -> Option<u64> {
        None
    }

    /// Median of the recent times to first token, if enough are known.
    fn first_token_us(&self, target: TargetKey) -> Option<u64>;
}

/// Whether a target is to be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Closed,
    /// It has just come back: this share of its requests, in percent, may go there.
    Ramp(u8),
    /// Half-open: one request may find out whether it is back. Who begins first has it.
    Probe,
    Open {
        retry_after_ms: u64,
    },
}

/// A provider's named key, hashed like a [`TargetKey`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeyKey(pub u64);

impl KeyKey {
    pub fn of(provider: &Provider, key: u16) -> Self {
        Self(provider.on_board(key, None).0)
    }
}

/// Whether a key is to be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyStanding {
    Good,
    /// Its account has no money left.
    Dead {
        retry_after_ms: u64,
    },
    /// The provider did not accept it.
    Refused {
        retry_after_ms: u64,
    },
}

/// Why a key is put aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyFault {
    Dead,
    Refused,
}

/// What a report did to a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    Opened,
    /// A probe succeeded; the share ramps up from here.
    Closed,
}

/// One attempt's place on the board. Its fields are the board's own business.
///
/// Owed one [`Outcomes::ended`]; [`Underway`] pays.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "what is begun has to be ended"]
pub struct Ticket {
    pub target: TargetKey,
    /// Where on the board; `None` where the board had no room.
    pub seat: Option<u32>,
    /// The breaker's word as this attempt left it when it took the probe, until it has reported.
    pub probe: Option<u64>,
}

/// What became of attempts.
pub trait Outcomes: Health {
    /// An attempt begins, and takes the probe if the target is half-open. `None`: it is open, or somebody else has the probe.
    fn begin(&self, target: TargetKey, provider: ProviderId, now: Now) -> Option<Ticket>;

    /// How long the first token took.
    fn first_token(&self, ticket: &Ticket, us: u64);

    /// The target did what it is for.
    fn succeeded(&self, ticket: &mut Ticket, now: Now) -> Option<Change>;

    /// The target failed, and may have said for how long it will go on.
    fn failed(
        &self,
        ticket: &mut Ticket,
        retry_after_ms: Option<u64>,
        now: Now,
        chance: u64,
    ) -> Option<Change>;

    /// The attempt is over. A probe that reported nothing is free again.
    fn ended(&self, ticket: Ticket);

    /// Spends one of the retries that a provider's targets may have; `false` if none is left.
    fn retry_allowed(&self, provider: ProviderId, now: Now) -> bool;

    /// A percentile of the recent times to first token, if enough are known. Walks a histogram: not for every request.
    fn first_token_percentile_us(&self, target: TargetKey, percent: u8) -> Option<u64>;

    /// A request goes to a provider that could be asked elsewhere, too: a part of a hedge is saved up.
    fn hedge_earned(&self, provider: ProviderId);

    /// Spends one hedge of what a provider's requests have saved up; `false` if there is none.
    fn hedge_allowed(&self, provider: ProviderId) -> bool;

    fn key_standing(&self, key: KeyKey, now: Now) -> KeyStanding;

    /// Puts a key aside for its time.
    fn key_failed(&self, key: KeyKey, fault: KeyFault, now: Now);
}

/// An attempt under way: ends its ticket when it goes, by whichever way.
#[derive(Debug)]
pub struct Underway<'b, B: Outcomes + ?Sized> {
    board: &'b B,
    // Some until dropped
    ticket: Option<Ticket>,
}

impl<'b, B: Outcomes + ?Sized> Underway<'b, B> {
    /// See [`Outcomes::begin`].
    pub fn begin(board: &'b B, target: TargetKey, provider: ProviderId, now: Now) -> Option<Self> {
        let ticket = board.begin(target, provider, now)?;
        Some(Self { board, ticket: Some(ticket) })
    }

    /// Whether on this attempt hangs that the target is used again.
    pub fn is_probe(&self) -> bool {
        self.ticket.as_ref().is_some_and(|ticket| ticket.probe.is_some())
    }

    /// See [`Outcomes::first_token`].
    pub fn first_token(&self, us: u64) {
        if let Some(ticket) = &self.ticket {
            self.board.first_token(ticket, us);
        }
    }

    /// See [`Outcomes::succeeded`].
    pub fn succeeded(&mut self, now: Now) -> Option<Change> {
        self.board.succeeded(self.ticket.as_mut()?, now)
    }

    /// See [`Outcomes::failed`].
    pub fn failed(&mut self, retry_after_ms: Option<u64>, now: Now, chance: u64) -> Option<Change> {
        self.board.failed(self.ticket.as_mut()?, retry_after_ms, now, chance)
    }
}

impl<B: Outcomes + ?Sized> Drop for Underway<'_, B> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.board.ended(ticket);
        }
    }
}

/// A board on which every target is well, for one thread: what the simulation tells its outcomes to.
#[cfg(test)]
pub(crate) mod calm {
    use std::cell::Cell;

    use super::{
        Change, Health, KeyFault, KeyKey, KeyStanding, Now, Outcomes, ProviderId, Standing, TargetKey, Ticket,
    };

    #[derive(Default)]
    pub(crate) struct Calm {
        under_way: Cell<u32>,
        /// Every percentile of every target; unknown unless a test says it.
        pub(crate) first_token_us: Cell<Option<u64>>,
        /// Hedges that are refused before one is allowed.
        pub(crate) hedges_refused: Cell<u32>,
        /// What was reported: failures, and times to first token.
        pub(crate) failures: Cell<u32>,
        pub(crate) first_tokens: Cell<u32>,
    }

    impl Calm {
        /// Whether every attempt that was begun has ended.
        pub(crate) fn is_quiet(&self) -> bool {
            self.under_way.get() == 0
        }
    }

    impl Health for Calm {
        fn verdict(&self, _target: TargetKey, _now: Now) -> Standing {
            Standing::Closed
        }

        fn in_flight(&self, _target: TargetKey) -> u32 {
            0
        }

        fn first_token_us(&self, _target: TargetKey) -> Option<u64> {
            None
        }
    }

    impl Outcomes for Calm {
        fn begin(&self, target: TargetKey, _provider: ProviderId, _now: Now) -> Option<Ticket> {
            self.under_way.set(self.under_way.get() + 1);
            Some(Ticket { target, seat: None, probe: None })
        }

        fn first_token(&self, _ticket: &Ticket, _us: u64) {
            self.first_tokens.set(self.first_tokens.get() + 1);
        }

        fn succeeded(&self, _ticket: &mut Ticket, _now: Now) -> Option<Change> {
            None
        }

        fn failed(
            &self,
            _ticket: &mut Ticket,
            _retry_after_ms: Option<u64>,
            _now: Now,
            _chance: u64,
        ) -> Option<Change> {
            self.failures.set(self.failures.get() + 1);
            None
        }

        fn ended(&self, _ticket: Ticket) {
            self.under_way.set(self.under_way.get().checked_sub(1).expect("who ends has begun"));
        }

        fn retry_allowed(&self, _provider: ProviderId, _now: Now) -> bool {
            true
        }

        fn first_token_percentile_us(&self, _target: TargetKey, _percent: u8) -> Option<u64> {
            self.first_token_us.get()
        }

        fn hedge_earned(&self, _provider: ProviderId) {}

        fn hedge_allowed(&self, _provider: ProviderId) -> bool {
            let refused = self.hedges_refused.get();
            self.hedges_refused.set(refused.saturating_sub(1));
            refused == 0
        }

        fn key_standing(&self, _key: KeyKey, _now: Now) -> KeyStanding {
            KeyStanding::Good
        }

        fn key_failed(&self, _key: KeyKey, _fault: KeyFault, _now: Now) {}
    }
}
