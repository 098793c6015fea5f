//! Hands our buffers to the kernel: to be read into behind their bytes, and to be written from piece by piece.

use std::ops::Range;

use monoio::buf::{IoBuf, IoBufMut, IoVecBuf};

use crate::{
    base::{limits, span::Span},
    exchange::Outgoing,
};

/// Reads land behind the bytes that the vector holds, never on them, and are of a size that other work can wait for.
pub(super) struct Behind(pub(super) Vec<u8>);

// SAFETY: the pointer is to the spare capacity of a vector that this value owns; moving the value moves no heap memory,
// and nothing else can reach the vector while the operation owns it. `set_init(n)` follows a read of `n` bytes, at most
// `bytes_total`, so the new length is initialised and within capacity.
unsafe impl IoBufMut for Behind {
    fn write_ptr(&mut self) -> *mut u8 {
        self.0.spare_capacity_mut().as_mut_ptr().cast()
    }

    fn bytes_total(&mut self) -> usize {
        (self.0.capacity() - self.0.len()).min(limits::BODY_READ_BYTES)
    }

    unsafe fn set_init(&mut self, read: usize) {
        debug_assert!(read <= self.0.capacity() - self.0.len(), "a read stays inside the spare capacity");
        // SAFETY: see above.
        unsafe { self.0.set_len(self.0.len() + read) };
    }
}

/// What is left to write of one piece, in the buffer it lies in.
pub(super) struct Piece {
    buffer: Vec<u8>,
    // Inside of `buffer`.
    left: Range<usize>,
}

impl Piece {
    pub(super) fn new(buffer: Vec<u8>, span: Span) -> Self {
        debug_assert!(span.range().end <= buffer.len(), "a piece lies inside its buffer");
        Self { buffer, left: span.range() }
    }

    pub(super) fn into_buffer(self) -> Vec<u8> {
        self.buffer
    }

    pub(super) fn is_done(&self) -> bool {
        self.left.is_empty()
    }

    /// The kernel has taken so many bytes.
    pub(super) fn advance(&mut self, written: usize) {
        self.left.start = self.left.end.min(self.left.start + written);
    }
}

// SAFETY: the piece lies in the heap memory of a vector that this value owns, and that stays where it is when the value
// moves.
unsafe impl IoBuf for Piece {
    fn read_ptr(&self) -> *const u8 {
        self.buffer[self.left.clone()].as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.left.len()
    }
}

/// What is left to write of an [`Outgoing`] of several pieces, as the kernel wants it told. Boxed: an operation is moved
/// many times.
pub(super) struct Pieces(Box<Left>);

struct Left {
    out: Outgoing,
    // Point into the vectors that `out` owns, which are neither moved nor changed before the write is over.
    iovecs: Vec<libc::iovec>,
    /// Pieces before this have been written.
    done: usize,
}

/// Most pieces of one call (`UIO_MAXIOV`).
const PIECES_MAX: usize = 1024;

impl Pieces {
    pub(super) fn new(out: Outgoing) -> Self {
        let iovec =
            |bytes: &[u8]| libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        let iovecs = out.slices().map(iovec).collect();
        Self(Box::new(Left { out, iovecs, done: 0 }))
    }

    pub(super) fn into_out(self) -> Outgoing {
        self.0.out
    }

    pub(super) fn is_done(&self) -> bool {
        self.left().is_empty()
    }

    /// Only one piece is left: a plain send does.
    pub(super) fn is_single(&self) -> bool {
        self.left().len() == 1
    }

    fn left(&self) -> &[libc::iovec] {
        &self.0.iovecs[self.0.done..]
    }

    /// The kernel has taken so many bytes.
    pub(super) fn advance(&mut self, mut written: usize) {
        let Left { iovecs, done, .. } = &mut *self.0;
        while written > 0 && *done < iovecs.len() {
            let piece = &mut iovecs[*done];
            if written < piece.iov_len {
                piece.iov_base = piece.iov_base.wrapping_byte_add(written);
                piece.iov_len -= written;
                return;
            }
            written -= piece.iov_len;
            *done += 1;
        }
    }
}

// SAFETY: the pieces lie in heap memory that `out` owns and that stays where it is when this value moves.
unsafe impl IoBuf for Pieces {
    fn read_ptr(&self) -> *const u8 {
        self.left().first().map_or(std::ptr::null(), |piece| piece.iov_base.cast_const().cast())
    }

    fn bytes_init(&self) -> usize {
        self.left().first().map_or(0, |piece| piece.iov_len)
    }
}

// SAFETY: as above; the list of pieces itself lies on the heap too.
unsafe impl IoVecBuf for Pieces {
    fn read_iovec_ptr(&self) -> *const libc::iovec {
        self.left().as_ptr()
    }

    fn read_iovec_len(&self) -> usize {
        self.left().len().min(PIECES_MAX)
    }
}
