//! The memory of the board: lines of sixteen numbers, each with a cache line (or two) to itself, all zero at first.
//!
//! The pages are the kernel's zero page until they are written to: what nobody is limited by costs address space alone.

use std::sync::atomic::AtomicU64;

/// Numbers in a line: 128 bytes, because x86 fetches lines in pairs, and some ARM cores have lines that long.
const SLOTS: usize = 16;

/// The counts of one key: slot 0 is the board's own, the others are numbered by `Measure::slot`.
pub(super) type Row = [AtomicU64; SLOTS];

#[derive(Debug)]
pub(super) struct Lines {
    slots: Box<[AtomicU64]>,
    /// Slots before the first that stands on a boundary of 128 bytes.
    skew: usize,
}

impl Lines {
    pub(super) fn zeroed(count: usize) -> Self {
        // The allocator asks the kernel for zeroes and writes none, and an optimised build makes the atomics out of them in
        // place, without a loop.
        let zeroes = vec![0_u64; (count + 1) * SLOTS];
        let slots: Box<[AtomicU64]> = zeroes.into_iter().map(AtomicU64::new).collect();
        let skew = slots.as_ptr().align_offset(SLOTS * size_of::<u64>());
        // A pointer to a u64 is aligned to 8 bytes, so that it never takes a whole row.
        Self { slots, skew: skew.min(SLOTS - 1) }
    }

    /// The row of line `index`. One that doesn't exist is answered with the last: nothing is ever uncounted.
    pub(super) fn row(&self, index: usize) -> &Row {
        let rows = self.rows();
        debug_assert!(index < rows.len(), "a line was given out by a roll or by the table");
        &rows[index.min(rows.len() - 1)]
    }

    pub(super) fn rows(&self) -> &[Row] {
        self.slots[self.skew..].as_chunks().0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_share_no_cache_line() {
        let lines = Lines::zeroed(3);
        for index in 0..3 {
            assert_eq!(lines.row(index).as_ptr() as usize % 128, 0);
        }
        assert_eq!(lines.row(1).as_ptr() as usize - lines.row(0).as_ptr() as usize, 128);
    }
}
