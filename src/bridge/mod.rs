//! Every line that two threads can run at once. Atomics and locks live only here, and each is so small that its order
//! can be argued in a comment.
//!
//! Nobody rings a bell for news: a core's deadline wheel ticks every [`limits::TICK`](crate::base::limits::TICK), even when the
//! core sleeps in the ring otherwise, and each tick looks at the bulletin and at the drain. A change is therefore
//! taken up within one tick by an idle core, and by the next request on a busy one. Only a
//! connection that is handed over cannot wait that long; [`handoff`] has a bell.

pub mod addresses;
pub mod bulletin;
pub mod drain;
pub mod estimates;
pub mod handoff;
pub mod health;
pub mod logpipe;
pub mod outbox;
pub mod padded;
pub mod quota;
pub mod tally;
pub mod turnstile;
pub mod vitals;
