//! What the gateway reads and changes in a JSON body, without ever building a tree of it.
//!
//! Order of trust: [`scan`] proves that the bytes are one strict document of bounded depth and notes its top-level members;
//! only then does [`peek()`] read the few that matter, with sonic-rs where they hold escapes or members of their own: it
//! recurses and believes what it reads. [`splice()`] turns the changes into ranges, so every byte that is not ours leaves as
//! it came. [`usage`] reads what an upstream reports.

mod bad;
#[cfg(test)]
pub(crate) mod mutate;
mod names;
mod peek;
pub mod scan;
mod splice;
mod text;
pub mod usage;

pub use bad::BadBody;
pub(crate) use names::{redirects, routing_key};
#[cfg(any(test, feature = "fuzzing"))]
pub use peek::fuzz_peek;
pub use peek::{IncludeUsage, Peek, Stateful, StreamOptions, peek, peek_scanned};
pub(crate) use splice::{Edit, append, apply};
pub use splice::{Piece, Pieces, Spliced, splice};
pub use usage::Usage;
