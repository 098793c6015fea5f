//! What happened, counted: a record per exchange, a sheet per core and interval, one book of all sheets.
//!
//! Nothing here reads a clock, takes a lock or is told anything twice: an exchange is counted when its record closes,
//! and only then.

pub mod book;
pub mod counts;
pub mod distribution;
pub mod exposition;
pub mod figures;
pub mod genai;
pub mod gist;
pub mod logged;
pub mod names;
pub mod open;
pub mod page;
pub mod record;
pub mod series;
pub mod sheet;
pub mod trail;
pub mod untold;
pub mod varint;
