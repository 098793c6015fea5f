//! Decisions: functions of the snapshot, the facts and the time. They wait for nothing and store nothing.

pub mod address;
pub mod admit;
pub mod attempts;
pub mod balance;
pub mod breaker;
pub mod condition;
pub mod credential;
pub mod health;
pub mod lost;
pub mod plan;
pub mod price;
pub mod quota;
pub mod rate;
pub mod route;
pub mod spending;
pub mod window;
