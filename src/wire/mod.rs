//! Bytes ↔ meaning. Slices in, ranges out: no clock, no configuration, no I/O.

pub mod http1;
pub mod json;
pub mod model_name;
pub mod multipart;
pub mod openai;
pub mod sse;
pub mod token;
