//! Decisions: functions of the snapshot, the facts and the time. They wait for nothing and store nothing.

pub mod address;
pub mod attempts;
pub mod quota;
pub mod route;
