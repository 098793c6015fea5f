//! What admission asks of the counts that all cores share, and all it asks.
//!
//! `bridge::quota` answers with one board for the process; a simulation answers with plain cells. Every method is one step
//! that no other core can divide; none waits.

use crate::{
    base::{ids::Line, now::Now},
    config::allowance::{Measure, Rate},
};

/// How far a limit is from being reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// What could be spent at once.
    pub remaining: u64,
    /// Until nothing would be spent any more.
    pub reset_ns: u64,
}

/// Not now: the same amount would be granted after so long, if nobody else came first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    pub ns: u64,
    pub level: Level,
}

/// Which calendar day or month a budget is counted in: another number, another count from zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window(pub u32);

/// The counts of every limited key.
pub trait Quota {
    /// Spends `amount` of a rate, or nothing. An amount above the burst is granted only when nothing is spent, and then
    /// delays what follows: a request larger than a limit is slow, not impossible.
    fn spend(&self, line: Line, measure: Measure, rate: Rate, amount: u64, now: Now) -> Result<Level, Wait>;

    /// Corrects what was spent: `used` turned out to be the amount, and not `reserved`. Never refuses: a debt delays others.
    fn settle(&self, line: Line, measure: Measure, rate: Rate, reserved: u64, used: u64, now: Now) -> Level;

    /// One more at the same time, unless there are `most` already. Each `true` is owed one [`Quota::leave`].
    fn enter(&self, line: Line, measure: Measure, most: u32) -> bool;

    fn leave(&self, line: Line, measure: Measure);

    /// Takes `amount` out of a budget, or nothing; what remains of it.
    fn draw(&self, line: Line, measure: Measure, window: Window, most: u64, amount: u64) -> Option<u64>;

    /// Corrects what was drawn; what remains. A correction for a window that has passed changes nothing.
    fn settle_budget(
        &self,
        line: Line,
        measure: Measure,
        window: Window,
        most: u64,
        reserved: u64,
        used: u64,
    ) -> u64;

    /// The line of a key that no configuration names: an address, a model, a metadata value. It stays that key's until it
    /// is let go. Where there is no room, keys share one line, which is stricter than a line each, and counted.
    fn hold(&self, key: u64, now: Now) -> Line;

    /// Lets go of what [`Quota::hold`] gave; its counts stay as long as they mean anything.
    fn let_go(&self, line: Line);
}
