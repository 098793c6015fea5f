//! HTTP/1.1, strictly: heads, the framing of bodies, chunked bodies, and the writing of heads.
//!
//! A message has one meaning here or none: whatever two readers of RFC 9112 could take differently is refused.
//! Nothing in this module holds a byte; it is fed slices and answers with ranges of them.

pub mod chunked;
pub mod fields;
pub mod framing;
pub mod head;
pub mod known;
mod lines;
pub mod refused;
pub mod render;
mod target;

#[cfg(test)]
mod corpus;
#[cfg(test)]
mod corpus_chunked;
#[cfg(test)]
mod mutations;

pub use chunked::{BadChunk, Chunked, Step};
pub use fields::{Field, Fields, Repeated};
pub use framing::Framing;
pub use head::{
    HeadLimits, HeadScan, Method, RequestHead, ResponseHead, Version, parse_request, parse_response,
};
pub use known::Known;
pub use refused::BadHead;
pub use render::{HeadWriter, HeaderSafe, LAST_CHUNK, Opening, TargetSafe, chunk_head, status_line};
