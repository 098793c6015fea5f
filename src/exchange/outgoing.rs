//! What one write sends: ranges of buffers it owns, in order. The buffers come back when the write is over.

use smallvec::SmallVec;

use crate::base::span::Span;

/// Buffers and the pieces of them to send. Invariant: every piece lies inside its buffer.
#[derive(Default, Debug)]
pub struct Outgoing {
    buffers: SmallVec<[Vec<u8>; 2]>,
    pieces: SmallVec<[(u8, Span); 8]>,
    /// What the pieces add up to.
    bytes: usize,
    is_secret: bool,
    hurries: bool,
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
        self.bytes += span.len();
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
        self.bytes = 0;
        std::mem::take(&mut self.buffers[usize::from(buffer)])
    }

    /// A credential is in the first piece, which is never copied then.
    pub fn keep_secret(&mut self) {
        self.is_secret = true;
    }

    /// Somebody waits for each piece, such as an event: it is not to wait for what other connections send.
    pub fn hurry(&mut self) {
        self.hurries = true;
    }

    pub fn hurries(&self) -> bool {
        self.hurries
    }

    /// Makes one piece of several that add up to no more than `bytes_max`, by copying the others behind the first.
    /// Returns how many bytes its buffer has got longer, which whoever writes takes off again.
    #[must_use]
    pub fn join(&mut self, bytes_max: usize) -> usize {
        let [(into, first), ref others @ ..] = self.pieces[..] else { return 0 };
        if others.is_empty() {
            return 0;
        }
        let len = self.bytes;
        let room = &self.buffers[usize::from(into)];
        let first_ends_its_buffer = first.range().end == room.len();
        if len > bytes_max || len > room.capacity() - room.len() || (self.is_secret && !first_ends_its_buffer)
        {
            return 0;
        }
        let mut joined = std::mem::take(&mut self.buffers[usize::from(into)]);
        let start = if first_ends_its_buffer { first.range().start } else { joined.len() };
        let copied = if first_ends_its_buffer { others } else { &self.pieces[..] };
        for (buffer, span) in copied {
            if *buffer == into {
                joined.extend_from_within(span.range());
            } else {
                joined.extend_from_slice(span.of(&self.buffers[usize::from(*buffer)]));
            }
        }
        let whole = Span::new(start, joined.len());
        let longer = whole.len() - if first_ends_its_buffer { first.len() } else { 0 };
        self.buffers[usize::from(into)] = joined;
        self.pieces.clear();
        self.pieces.push((into, whole));
        longer
    }

    /// The only piece, if there is but one: its buffer's number, and where in it it lies.
    pub fn only(&self) -> Option<(u8, Span)> {
        if let [only] = self.pieces[..] { Some(only) } else { None }
    }

    /// Puts a buffer back that was taken.
    pub fn put_back(&mut self, number: u8, buffer: Vec<u8>) {
        self.buffers[usize::from(number)] = buffer;
    }

    /// Bytes that the pieces add up to.
    pub fn len(&self) -> usize {
        self.bytes
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
    }

    #[track_caller]
    fn check_joined(first: Span, is_secret: bool, bytes_max: usize, expect: &[&[u8]]) {
        let mut out = Outgoing::default();
        let mut ours = Vec::with_capacity(64);
        ours.extend_from_slice(b"worldhello");
        let ours = out.own(ours);
        let theirs = out.own(b", ".to_vec());
        out.push(ours, first);
        out.push(theirs, Span::new(0, 2));
        out.push(ours, Span::new(0, 5));
        if is_secret {
            out.keep_secret();
        }
        let longer = out.join(bytes_max);
        assert_eq!(out.slices().collect::<Vec<_>>(), expect);
        assert_eq!(
            &out.take(ours)[..],
            &[&b"worldhello"[..], &expect.concat()[expect.concat().len() - longer..]].concat()
        );
    }

    #[test]
    fn small_pieces_are_copied_behind_the_first() {
        let (whole, torn): (&[u8], [&[u8]; 3]) = (b"hello, world", [b"hello", b", ", b"world"]);
        check_joined(Span::new(5, 10), false, 12, &[whole]);
        check_joined(Span::new(5, 10), true, 12, &[whole]);
        check_joined(Span::new(5, 10), false, 11, &torn);
        check_joined(Span::new(5, 9), false, 12, &[b"hell, world"]);
        check_joined(Span::new(5, 9), true, 12, &[b"hell", b", ", b"world"]);
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
