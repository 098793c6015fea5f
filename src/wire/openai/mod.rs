//! What is OpenAI's in the bytes: the `/v1` paths, what a streamed answer says, and how a refusal looks.

pub mod endpoint;
pub mod members;
pub mod models;
pub mod rate_headers;
pub mod refusal;
pub mod stream;
pub mod upstream_error;
pub mod upstream_head;
