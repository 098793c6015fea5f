//! Words that everyone uses: time as a value, bounds, spans, secrets. Names nothing else in the house.

pub mod limits;
pub mod now;
pub mod secret;
pub mod span;
