//! Decisions: functions of the snapshot, the facts and the time. They wait for nothing and store nothing.

pub mod attempts;
pub mod condition;
pub mod health;
pub mod plan;
pub mod quota;
pub mod route;
