#![doc = include_str!("ARCHITECTURE.md")]

pub mod base;
pub mod bridge;
pub mod cli;
pub mod config;
pub mod control;
pub mod exchange;
pub mod ledger;
pub mod policy;
pub mod shard;
pub mod wire;

#[cfg(test)]
mod tidy;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
