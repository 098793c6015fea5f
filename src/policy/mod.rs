//! Decisions: functions of the snapshot, the facts and the time. They wait for nothing and store nothing.

pub mod attempts;
pub mod breaker;
pub mod health;
pub mod lost;
pub mod quota;
pub mod route;
pub mod window;
