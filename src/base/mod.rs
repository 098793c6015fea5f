//! Words that everyone uses: time as a value, addresses, bounds, spans, secrets. Names nothing else in the house.

pub mod address;
pub mod calendar;
pub mod glob;
pub mod hex;
pub mod ids;
pub mod limits;
pub mod money;
pub mod now;
pub mod prefixes;
pub mod secret;
pub mod span;
pub mod waiting;
