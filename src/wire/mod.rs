//! Bytes ↔ meaning. Slices in, ranges out: no clock, no configuration, no I/O.

pub mod estimate;
pub mod http1;
pub mod json;
pub mod mask;
pub mod metadata;
pub mod model_name;
pub mod multipart;
pub mod openai;
pub mod proxy_protocol;
pub mod request_id;
pub mod sse;
pub mod token;
pub mod trace_context;
pub mod transcript;
