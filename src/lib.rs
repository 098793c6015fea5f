#![doc = include_str!("ARCHITECTURE.md")]

pub mod base;
pub mod wire;
pub mod config;
pub mod policy;
pub mod ledger;
pub mod exchange;
pub mod bridge;
pub mod shard;
pub mod control;
pub mod cli;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
