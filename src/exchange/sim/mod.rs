//! The exchange in a seeded world: a virtual clock, wires that fail in every way, clients and providers that behave in
//! every way, and what must hold all the same.
//!
//! A seed is a run. One that fails is printed; `RINGWAY_SIM_SEED=n` runs it again, alone.

mod answer;
mod asks;
mod chance;
pub(super) mod check;
mod client;
mod conn;
mod executor;
mod faults;
pub(super) mod planted;
mod regressions;
mod script;
mod upstream;
mod wire;
mod world;
