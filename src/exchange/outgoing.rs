//! What one write sends: ranges of buffers it owns, in order. The buffers come back when the write is over.

use smallvec::SmallVec;

use crate::base::span::Span;

/// Buffers and the pieces of them to send. Invariant: every piece lies inside its buffer.
#[derive(Default, Debug)]
pub struct Outgoing {
    buffers: SmallVec<[Vec<u8>; 2]>,
    pieces: SmallVec<[(u8, Span); 8]>,
    is_secret: bool,
}

impl Outgoing {
    /// Hands over a buffer; its pieces are named by the number returned.
    pub fn own(&mut self, buffer: Vec<u8>) -> u8 {
        debug_assert!(self.buffers.len() < 4, "a write has a head, a body and a few words of framing");
        self.buffers.push(buffer);
        u8::try_from(self.buffers.len() - 1).unwrap_or(u8::MAX)
    }

    /// Appends a piece. Neighbours in one buffer become one piece.
    pub fn push(&mut self, buffer: u8, span: Span) {
        debug_assert!(
            span.range().end <= self.buffers[usize::from(buffer)].len(),
            "a piece lies inside its buffer"
        );
        if span.is_empty() {
            return;
        }
        if let Some((last, before)) = self.pieces.last_mut()
            && *last == buffer
            && before.range().end == span.range().start
        {
            *before = Span::new(before.range().start, span.range().end);
            return;
        }
        self.pieces.push((buffer, span));
    }

    /// Appends a whole buffer.
    pub fn push_all(&mut self, buffer: Vec<u8>) -> u8 {
        let span = Span::new(0, buffer.len());
        let index = self.own(buffer);
        self.push(index, span);
        index
    }

    /// Takes a buffer back. It is left empty here.
    pub fn take(&mut self, buffer: u8) -> Vec<u8> {
        self.pieces.clear();
        std::mem::take(&mut self.buffers[usize::from(buffer)])
    }

    /// A credential is among the bytes: whoever copies them wipes the copy.
    pub fn keep_secret(&mut self) {
        self.is_secret = true;
    }

    pub fn is_secret(&self) -> bool {
        self.is_secret
    }

    /// All pieces in one buffer, if there are several and they add up to no more than `bytes_max`.
    pub fn joined(&self, bytes_max: usize) -> Option<Vec<u8>> {
        let len = self.len();
        (self.pieces.len() > 1 && len <= bytes_max).then(|| {
            let mut joined = Vec::with_capacity(len);
            self.slices().for_each(|slice| joined.extend_from_slice(slice));
            joined
        })
    }

    /// Bytes that the pieces add up to.
    pub fn len(&self) -> usize {
        self.pieces.iter().map(|(_, span)| span.len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// The pieces' bytes, in order.
    pub fn slices(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.pieces.iter().map(|(buffer, span)| span.of(&self.buffers[usize::from(*buffer)]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_become_one_piece_and_order_is_kept() {
        let mut out = Outgoing::default();
        let a = out.own(b"hello world".to_vec());
        let b = out.own(b", ".to_vec());
        out.push(a, Span::new(0, 3));
        out.push(a, Span::new(3, 5));
        out.push(b, Span::new(0, 2));
        out.push(a, Span::new(6, 6));
        out.push(a, Span::new(6, 11));
        assert_eq!(out.slices().len(), 3);
        assert_eq!(out.slices().collect::<Vec<_>>().concat(), b"hello, world");
        assert_eq!(out.len(), 12);
        assert_eq!(out.joined(12).as_deref(), Some(&b"hello, world"[..]));
        assert_eq!(out.joined(11), None);
    }

    #[test]
    fn a_buffer_comes_back_as_it_went() {
        let mut out = Outgoing::default();
        let buffer = Vec::with_capacity(64);
        let address = buffer.as_ptr();
        let index = out.push_all(buffer);
        let back = out.take(index);
        assert_eq!(back.as_ptr(), address);
    }
}
