//! A range of a buffer that fits in eight bytes and can be kept beside the buffer it points into.

use std::ops::Range;

/// `start..end` in some buffer of at most 4 GiB. Invariant: `start <= end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
pub struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// # Panics
    /// In debug builds, when the range runs backwards or past 4 GiB (every buffer here is far smaller).
    #[expect(clippy::cast_possible_truncation, reason = "bounded by limits::BODY_BYTES_CEILING")]
    pub fn new(start: usize, end: usize) -> Self {
        debug_assert!(start <= end && u32::try_from(end).is_ok(), "a span lies in a buffer below 4 GiB");
        Self { start: start as u32, end: end as u32 }
    }

    pub fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    pub fn len(self) -> usize {
        (self.end - self.start) as usize
    }

    pub fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// The same range of something that begins at `start` of the buffer.
    pub fn behind(self, start: usize) -> Self {
        Self::new(self.range().start + start, self.range().end + start)
    }

    /// The bytes this span names in `buffer`.
    pub fn of(self, buffer: &[u8]) -> &[u8] {
        &buffer[self.range()]
    }
}

impl From<Range<usize>> for Span {
    fn from(range: Range<usize>) -> Self {
        Self::new(range.start, range.end)
    }
}
