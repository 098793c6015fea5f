//! What happened, counted: a record per exchange, a sheet per core and interval, one book of all sheets.
//!
//! Nothing here reads a clock, takes a lock or is told anything twice: an exchange is counted when its record closes,
//! and only then.

pub mod book;
pub mod counts;
pub mod distribution;
pub mod exposition;
pub mod logged;
pub mod names;
pub mod record;
pub mod sheet;
pub mod trail;
