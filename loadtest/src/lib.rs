//! Everything that drives the gateway from outside: a simulated provider, a load generator, a holder of idle
//! connections, a primary that flaps.
//!
//! A library too, so that end-to-end tests can start a provider inside their own process. Nothing here is part
//! of the gateway: monoio-http and its dependencies may be used, and every vice of a real provider can be shown.

pub mod clock;
pub mod flap;
pub mod generator;
pub mod idle;
pub mod provider;
pub mod runtime;
