//! What a core leaves for the estimator: exchanges whose tokens are to be told by their words. A core never waits: what does not
//! fit, in number or in bytes, it has back at once, and counts by bytes.

use std::sync::{Mutex, PoisonError, TryLockError};

use crate::{
    base::limits::{ESTIMATES_WAITING_BYTES_MAX, ESTIMATES_WAITING_MAX},
    bridge::padded::Padded,
    ledger::untold::Untold,
};

/// The way of one core's exchanges to the estimator.
#[derive(Debug)]
pub struct EstimateQueue {
    waiting: Padded<Mutex<Waiting>>,
}

#[derive(Debug)]
struct Waiting {
    // At most ESTIMATES_WAITING_MAX, which is its capacity: nothing is allocated inside the lock.
    exchanges: Vec<Untold>,
    /// What the texts of `exchanges` take.
    bytes: usize,
}

impl EstimateQueue {
    pub fn new() -> Self {
        Self { waiting: Padded(Mutex::new(Waiting { exchanges: room(), bytes: 0 })) }
    }

    /// For the core: leaves an exchange, or has it back.
    #[must_use]
    pub fn push(&self, untold: Untold) -> Option<Untold> {
        // try_lock: the other side holds it for a pointer swap, but may be off its CPU in the middle of it.
        let mut waiting = match self.waiting.0.try_lock() {
            Ok(waiting) => waiting,
            Err(TryLockError::Poisoned(waiting)) => waiting.into_inner(),
            Err(TryLockError::WouldBlock) => return Some(untold),
        };
        let bytes = waiting.bytes + untold.bytes();
        if waiting.exchanges.len() >= ESTIMATES_WAITING_MAX || bytes > ESTIMATES_WAITING_BYTES_MAX {
            return Some(untold);
        }
        waiting.bytes = bytes;
        waiting.exchanges.push(untold);
        None
    }

    /// For the estimator: changes all that waits for `empty`, which has [`room`].
    pub fn swap(&self, empty: &mut Vec<Untold>) {
        debug_assert!(empty.is_empty(), "exchanges that were taken before have been counted");
        // A list of whole exchanges at any time, whoever panicked.
        let mut waiting = self.waiting.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut waiting.exchanges, empty);
        waiting.bytes = 0;
    }
}

/// Room for all exchanges that may wait. Memory is taken by what is written into it alone.
pub fn room() -> Vec<Untold> {
    Vec::with_capacity(ESTIMATES_WAITING_MAX)
}

impl Default for EstimateQueue {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{
        base::now::Now,
        bridge::logpipe::tests::numbered,
        ledger::{
            gist::{Gist, TokenSource},
            logged::Logged,
            open::{Desk, OpenRecord},
            record::{Outcome, Record, Tokens},
            sheet::Sheet,
            untold::Texts,
        },
        wire::{openai::endpoint::Endpoint, transcript::Transcript},
    };

    struct NoDesk;

    impl Desk for NoDesk {
        fn now(&self) -> Now {
            Now(0)
        }

        fn with_sheet(&self, _: impl FnOnce(&mut Sheet)) {}
    }

    /// A chat of which nothing was reported, estimated by bytes at 1 and 1.
    pub(crate) fn untold(request: &[u8], answer: &[u8]) -> Untold {
        let mut record = Record::new("chat/completions", Now(0));
        let mut open = OpenRecord::of(&mut record, NoDesk);
        open.tokens = Tokens { prompt: Some(1), completion: Some(1), ..Tokens::default() };
        open.estimated = true;
        let mut transcript = Transcript::of(Endpoint::ChatCompletions, 1 << 20);
        transcript.hear_answer(answer);
        let texts = Texts {
            endpoint: Endpoint::ChatCompletions,
            request: Some(request.to_vec()),
            answer: Some(transcript),
            price: None,
        };
        let uncounted = open.put_off(Now(1_000_000), Outcome::Completed);
        Untold::of(uncounted, texts, |ended| Logged { gist: ended.told(false).0, ..numbered(0) })
    }

    fn taken(queue: &EstimateQueue) -> usize {
        let mut exchanges = room();
        queue.swap(&mut exchanges);
        exchanges.len()
    }

    #[test]
    fn what_does_not_fit_in_number_comes_back() {
        let queue = EstimateQueue::default();
        let fit = (0..ESTIMATES_WAITING_MAX + 3).filter(|_| queue.push(untold(b"{}", b"")).is_none());
        assert_eq!(fit.count(), ESTIMATES_WAITING_MAX);
        assert_eq!(taken(&queue), ESTIMATES_WAITING_MAX);
        assert!(queue.push(untold(b"{}", b"")).is_none(), "there is room again");
    }

    #[test]
    fn what_does_not_fit_in_bytes_comes_back_and_small_ones_still_fit() {
        let queue = EstimateQueue::default();
        let third = vec![b' '; ESTIMATES_WAITING_BYTES_MAX / 3];
        let came_back = (0..5).filter(|_| queue.push(untold(&third, b"")).is_some()).count();
        assert_eq!(came_back, 2);
        assert_eq!(taken(&queue), 3);
        assert!(queue.push(untold(&third, b"")).is_none());
    }

    #[test]
    fn what_came_back_is_counted_as_it_stood() {
        let mut sheet = Sheet::default();
        let line = untold(b"{}", b"").count(None, &mut sheet);
        let Gist { prompt_tokens, source, .. } = line.gist;
        assert_eq!((prompt_tokens, source), (Some(1), Some(TokenSource::Bytes)));
        assert_eq!((sheet.requests.total(), sheet.estimates), (1, [1, 0]));
    }
}
