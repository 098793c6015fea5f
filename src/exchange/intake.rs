//! What has arrived of an answer's body, and how much of it may leave.
//!
//! Pure: it is fed by reads into its buffer and emptied by writes out of the same buffer. Nothing is copied on the way;
//! a tail that is not yet a whole event stays where it is, and the next read lands behind it.

use smallvec::SmallVec;

use super::{outgoing::Outgoing, words::Heard};
use crate::{
    base::{limits, span::Span},
    wire::{
        estimate::MilliTokens,
        http1::{
            chunked::{BadChunk, Chunked, Step},
            framing::Framing,
            render,
        },
        json::usage::{self, Usage},
        openai::stream::Observer,
        sse::Scanner,
    },
};

/// The body's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    NotYet,
    /// Where its framing says; `stray`: bytes lie behind it that nobody asked for.
    Clean {
        stray: bool,
    },
}

pub(super) struct Intake {
    /// From the upstream's socket, framing and all.
    pub buffer: Vec<u8>,
    framing: Unframed,
    // from <= at <= buffer.len(): what may have left, what has been decoded, what has been read.
    from: usize,
    at: usize,
    /// Payload that may leave, in order.
    ready: SmallVec<[Span; 8]>,
    /// Payload of the event that has not ended, in order. Always empty where bodies are not looked into.
    open: SmallVec<[Span; 4]>,
    /// Nothing was taken out, and `from` lies between two chunks: the upstream's own framing may serve the client.
    untouched: bool,
    end: End,
}

enum Unframed {
    Length(u64),
    Chunked(Chunked),
    UntilClose,
}

/// Looks into a stream of events as they become whole.
pub(super) struct Events {
    scanner: Scanner,
    pub observer: Observer,
    /// Where an event that the framing tore apart is put together to be looked at.
    scratch: Vec<u8>,
    /// The event that is open has outgrown `SSE_EVENT_BYTES_MAX` and is forwarded as it comes.
    large: bool,
    /// Usage as reported last.
    pub usage: Option<Usage>,
    /// What was said so far, by its bytes; looked at only as long as no usage was reported.
    pub said: MilliTokens,
    /// What was said, where somebody wants to know, as long as no usage was reported.
    pub heard: Option<Heard>,
    /// Whole events since this was last set to zero.
    pub whole: u32,
    /// Something generated has come.
    pub token_seen: bool,
}

impl Events {
    pub(super) fn new(observer: Observer) -> Self {
        Self {
            scanner: Scanner::default(),
            observer,
            scratch: Vec::new(),
            large: false,
            usage: None,
            said: MilliTokens::default(),
            heard: None,
            whole: 0,
            token_seen: false,
        }
    }

    /// Whether the client stands between two events, so that one of ours may follow.
    pub(super) fn at_boundary(&self) -> bool {
        !self.large
    }

    /// Looks at a whole event. Whether the client gets it.
    fn keeps(
        observer: &mut Observer,
        event: &[u8],
        usage: &mut Option<Usage>,
        said: &mut MilliTokens,
        heard: &Option<Heard>,
        token_seen: &mut bool,
    ) -> bool {
        let verdict = observer.event(event);
        if let Some(found) = verdict.usage.and_then(usage::find) {
            *usage = Some(found);
        }
        if usage.is_none() {
            *said = said.plus(verdict.said);
            if let Some(heard) = heard {
                heard.borrow_mut().hear_event(event, verdict.said > MilliTokens::default());
            }
        }
        *token_seen |= verdict.first_token;
        !verdict.drop
    }
}

impl Intake {
    /// `buffer` holds a head of `head` bytes, and behind it what came with it.
    pub(super) fn new(buffer: Vec<u8>, head: usize, framing: Framing) -> Self {
        let end = match framing {
            Framing::None | Framing::Length(0) => End::Clean { stray: buffer.len() > head },
            _ => End::NotYet,
        };
        let framing = match framing {
            Framing::None => Unframed::Length(0),
            Framing::Length(length) => Unframed::Length(length),
            Framing::Chunked => Unframed::Chunked(Chunked::default()),
            Framing::UntilClose => Unframed::UntilClose,
        };
        Self {
            buffer,
            framing,
            from: head,
            at: head,
            ready: SmallVec::new(),
            open: SmallVec::new(),
            untouched: true,
            end,
        }
    }

    pub(super) fn end(&self) -> End {
        self.end
    }

    /// The upstream has closed, in an orderly way. Whether that is an end this framing knows.
    pub(super) fn close(&mut self) -> bool {
        if matches!(self.framing, Unframed::UntilClose) {
            self.end = End::Clean { stray: false };
        }
        self.end != End::NotYet
    }

    /// Bytes of payload that may leave.
    pub(super) fn ready_bytes(&self) -> usize {
        self.ready.iter().map(|span| span.len()).sum()
    }

    /// Payload that may leave, in order.
    pub(super) fn ready(&self) -> impl Iterator<Item = &[u8]> {
        self.ready.iter().map(|span| span.of(&self.buffer))
    }

    /// Decodes what was read since, and, where `events` looks on, lets only whole events leave.
    pub(super) fn advance(&mut self, mut events: Option<&mut Events>) -> Result<(), BadChunk> {
        while self.end == End::NotYet && self.at < self.buffer.len() {
            let (step, next) = self.unframe()?;
            self.at = next;
            match step {
                Step::Payload(range) => match &mut events {
                    None => join(&mut self.ready, range.into()),
                    Some(events) => self.sort(range.into(), events),
                },
                Step::More => break,
                Step::End => self.end = End::Clean { stray: next < self.buffer.len() },
            }
        }
        if let Some(events) = events {
            self.let_go_of_the_large(events);
            if self.end != End::NotYet {
                self.take_the_rest(events);
            }
        }
        Ok(())
    }

    fn unframe(&mut self) -> Result<(Step, usize), BadChunk> {
        let here = self.buffer.len();
        match &mut self.framing {
            Unframed::Chunked(chunked) => chunked.next(&self.buffer, self.at),
            Unframed::UntilClose => Ok((Step::Payload(self.at..here), here)),
            Unframed::Length(0) => Ok((Step::End, self.at)),
            Unframed::Length(left) => {
                let take = usize::try_from(*left).unwrap_or(usize::MAX).min(here - self.at);
                *left -= take as u64;
                if *left == 0 {
                    self.end = End::Clean { stray: self.at + take < here };
                }
                Ok((Step::Payload(self.at..self.at + take), self.at + take))
            }
        }
    }

    /// Sorts payload into whole events, which may leave or are dropped, and the beginning of the next.
    fn sort(&mut self, payload: Span, events: &mut Events) {
        let range = payload.range();
        let mut at = range.start;
        while let Some(end) = events.scanner.next(&self.buffer[..range.end], at) {
            join(&mut self.open, Span::new(at, end));
            at = end;
            events.whole += 1;
            if std::mem::take(&mut events.large) {
                events.observer.large_event_ended();
                self.release_open();
                continue;
            }
            let event = match self.open.as_slice() {
                [whole] => whole.of(&self.buffer),
                torn => {
                    events.scratch.clear();
                    torn.iter().for_each(|span| events.scratch.extend_from_slice(span.of(&self.buffer)));
                    &events.scratch
                }
            };
            let Events { observer, usage, said, heard, token_seen, .. } = events;
            if Events::keeps(observer, event, usage, said, heard, token_seen) {
                self.release_open();
            } else {
                self.open.clear();
                self.untouched = false;
            }
        }
        if at < range.end {
            join(&mut self.open, Span::new(at, range.end));
        }
    }

    /// An event without end must not fill the core: past the bound it leaves as it comes.
    fn let_go_of_the_large(&mut self, events: &mut Events) {
        let held: usize = self.open.iter().map(|span| span.len()).sum();
        if !events.large && held > limits::SSE_EVENT_BYTES_MAX {
            events.large = true;
            events.scratch.clear();
            self.open.iter().for_each(|span| events.scratch.extend_from_slice(span.of(&self.buffer)));
            events.token_seen |= events.observer.large_event(&events.scratch);
            events.heard.iter().for_each(|heard| heard.borrow_mut().cut());
        }
        if events.large {
            self.release_open();
        }
    }

    /// A stream that ends well may leave its last event without the blank line. What is torn in the middle of a line, or
    /// is not followed by a whole answer's end, stays where it is: it is not for the client. Where only a close ends the
    /// body, a blank line that is missing is one that was lost: no client would take up the event, and each would call the
    /// answer whole. `[DONE]` alone is not to be taken up.
    fn take_the_rest(&mut self, events: &mut Events) {
        if self.open.is_empty() {
            return;
        }
        events.scratch.clear();
        self.open.iter().for_each(|span| events.scratch.extend_from_slice(span.of(&self.buffer)));
        let all = events.scratch.as_slice();
        let is_done = all.ends_with(b"data: [DONE]");
        let ends = [&b"\r\n"[..], b"\n", b"\r"];
        let line = ends.iter().find_map(|end| all.strip_suffix(*end)).unwrap_or(all);
        if !is_done && line.len() == all.len() {
            return;
        }
        let has_blank_line = line.ends_with(b"\n") || line.ends_with(b"\r");
        if matches!(self.framing, Unframed::UntilClose) && !has_blank_line && !line.ends_with(b"[DONE]") {
            return;
        }
        let Events { observer, scratch, usage, said, heard, token_seen, .. } = events;
        let keeps = Events::keeps(observer, scratch, usage, said, heard, token_seen);
        if !keeps {
            self.open.clear();
        } else if observer.ended(true) {
            self.release_open();
        }
    }

    fn release_open(&mut self) {
        for span in self.open.drain(..) {
            join(&mut self.ready, span);
        }
    }

    /// Gives up the event that will not become whole.
    pub(super) fn forget_open(&mut self) {
        #[cfg(test)]
        if super::sim::planted::is(super::sim::planted::Bug::EventCut) {
            self.release_open();
        }
        self.open.clear();
        self.untouched = false;
    }

    /// Lays out what may leave. `ours` holds the head, if it is due, and takes our framing; `last`: the body ends here.
    pub(super) fn lay_out(&mut self, mut ours: Vec<u8>, outward: Outward, last: bool) -> Outgoing {
        let mut out = Outgoing::default();
        let head = ours.len();
        let ready_bytes = self.ready_bytes();
        let verbatim = outward == Outward::Chunked && self.as_framed(last);
        if outward == Outward::Chunked && !verbatim {
            if ready_bytes > 0 {
                render::chunk_head(&mut ours, ready_bytes);
            }
            let size_line = ours.len();
            if ready_bytes > 0 {
                ours.extend_from_slice(b"\r\n");
            }
            if last {
                ours.extend_from_slice(render::LAST_CHUNK);
            }
            let closing = Span::new(size_line, ours.len());
            let theirs = out.own(std::mem::take(&mut self.buffer));
            let ours = out.own(ours);
            out.push(ours, Span::new(0, size_line));
            self.ready.drain(..).for_each(|span| out.push(theirs, span));
            out.push(ours, closing);
            return out;
        }
        let theirs = out.own(std::mem::take(&mut self.buffer));
        let ours = out.own(ours);
        out.push(ours, Span::new(0, head));
        if verbatim {
            out.push(theirs, Span::new(self.from, self.at));
            self.ready.clear();
        } else {
            self.ready.drain(..).for_each(|span| out.push(theirs, span));
        }
        out
    }

    /// Whether the upstream's own chunks can serve the client as they lie: whole ones, without extensions or trailers,
    /// nothing taken out of them, nothing held back, and ending where the client's body is to end.
    fn as_framed(&self, last: bool) -> bool {
        let Unframed::Chunked(chunked) = &self.framing else { return false };
        let ended = matches!(self.end, End::Clean { .. });
        self.untouched && self.open.is_empty() && chunked.plain() && chunked.between_chunks() && ended == last
    }

    /// Takes the buffers back after a write, keeps the tail, and makes room behind it. Returns `ours`, emptied.
    pub(super) fn settle(&mut self, out: &mut Outgoing) -> Vec<u8> {
        self.buffer = out.take(0);
        let mut ours = out.take(1);
        ours.clear();
        if self.open.is_empty() {
            self.buffer.drain(..self.at);
            self.at = 0;
        } else if self.buffer.capacity() - self.buffer.len() < limits::READ_BYTES / 4 {
            self.gather();
        }
        self.from = self.at;
        self.untouched = match &self.framing {
            Unframed::Chunked(chunked) => self.open.is_empty() && chunked.between_chunks(),
            _ => true,
        };
        ours
    }

    /// Makes room for a read where none is left; the only place where payload is moved.
    pub(super) fn make_room(&mut self) {
        if self.buffer.capacity() - self.buffer.len() < limits::READ_BYTES / 4 {
            if self.ready.is_empty() && !self.open.is_empty() {
                self.gather();
            }
            if self.buffer.capacity() - self.buffer.len() < limits::READ_BYTES / 4 {
                let more = self.buffer.capacity().max(limits::READ_BYTES);
                self.buffer.reserve_exact(more);
            }
        }
    }

    /// Moves the open event to the front, over what has left.
    fn gather(&mut self) {
        let mut end = 0;
        for span in self.open.drain(..) {
            self.buffer.copy_within(span.range(), end);
            end += span.len();
        }
        let undecoded = self.buffer.len() - self.at;
        self.buffer.copy_within(self.at.., end);
        self.buffer.truncate(end + undecoded);
        self.open.push(Span::new(0, end));
        self.at = end;
        self.from = end;
        self.untouched = false;
    }
}

/// How the client's body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outward {
    Chunked,
    /// By a Content-Length, or by the connection's end: payload alone.
    Bare,
}

fn join<const N: usize>(spans: &mut SmallVec<[Span; N]>, next: Span)
where
    [Span; N]: smallvec::Array<Item = Span>,
{
    if next.is_empty() {
        return;
    }
    if let Some(last) = spans.last_mut()
        && last.range().end == next.range().start
    {
        *last = Span::new(last.range().start, next.range().end);
        return;
    }
    spans.push(next);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::openai::{endpoint::Endpoint, stream::Watch};

    #[test]
    fn usage_and_text_are_the_same_wherever_the_stream_is_cut() {
        let stream = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hello, 世界\"}}],\"usage\":null}\n\n\
            data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\" again\"},\"finish_reason\":\"stop\"}]}\n\n\
            data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":5,\"total_tokens\":12}}\n\n\
            data: [DONE]\n\n";
        let said = crate::wire::estimate::text("Hello, 世界 again".as_bytes());
        for first in 0..=stream.len() {
            for second in [first, first + 1, first + 40] {
                let watch = Watch { endpoint: Endpoint::ChatCompletions, choices: 1, strip_usage: false };
                let mut events = Events::new(Observer::new(watch));
                let mut intake = Intake::new(Vec::new(), 0, Framing::UntilClose);
                let ends = [first, second.min(stream.len()), stream.len()];
                let mut from = 0;
                for end in ends {
                    intake.buffer.extend_from_slice(&stream.as_bytes()[from..end]);
                    from = end;
                    assert_eq!(intake.advance(Some(&mut events)), Ok(()));
                }
                let usage = events.usage.expect("it was reported");
                assert_eq!(
                    (usage.prompt, usage.completion),
                    (Some(7), Some(5)),
                    "cut at {first} and {second}"
                );
                assert_eq!(events.said, said, "cut at {first} and {second}");
            }
        }
    }
}
