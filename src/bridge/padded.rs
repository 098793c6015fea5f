//! A value with its cache lines to itself, so that one core's writes do not slow another's reads.

use std::ops::Deref;

/// 128 bytes: x86 fetches lines in pairs, and some ARM cores have lines that long.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Padded<T>(pub T);

impl<T> Deref for Padded<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_share_no_line() {
        assert_eq!(size_of::<[Padded<u64>; 2]>(), 256);
    }
}
