//! The words of an answer, gathered as they go by for whoever counts them with a vocabulary. They lie here as they lay in their
//! JSON strings, escapes and all, and are the same strings that [`estimate`](super::estimate) weighs.
//!
//! Invariant: what is whole lacks nothing that was said; what outgrew its bound, or could not be followed, is not whole.

use super::{
    estimate::{Inside, Part, string},
    openai::{endpoint::Endpoint, members},
};

/// What one answer has said so far.
#[derive(Clone, Debug)]
pub struct Transcript {
    endpoint: Endpoint,
    bytes_max: usize,
    bytes: Vec<u8>,
    /// Where each text ends that stands for itself, but for the last.
    ends: Vec<usize>,
    /// The member that the last of `bytes` was said in.
    last: Option<members::Member>,
    is_cut: bool,
}

impl Transcript {
    pub fn of(endpoint: Endpoint, bytes_max: usize) -> Self {
        Self { endpoint, bytes_max, bytes: Vec::new(), ends: Vec::new(), last: None, is_cut: false }
    }

    /// A piece of a stream, which goes on where the last one ended. `spoke`: something was found in it that is said.
    pub fn hear_event(&mut self, event: &[u8], spoke: bool) {
        let before = self.bytes.len();
        self.hear(event, true);
        // Said in a way that cannot be found again without joining its lines: nobody writes events so.
        self.is_cut |= spoke && self.bytes.len() == before;
    }

    /// A whole answer, in which each string stands for itself.
    pub fn hear_answer(&mut self, json: &[u8]) {
        self.hear(json, false);
    }

    fn hear(&mut self, json: &[u8], goes_on: bool) {
        let is_part = || {
            members::of(self.endpoint, json)
                .any(|(member, _)| Part::of(self.endpoint, member) == Some(Part::Kind))
        };
        let wanted =
            if self.endpoint == Endpoint::Responses && is_part() { Part::Delta } else { Part::Whole };
        for (member, after) in members::of(self.endpoint, json) {
            let is_wanted = Part::of(self.endpoint, member) == Some(wanted);
            let Some(Inside { bytes, .. }) = string(after).filter(|_| is_wanted) else { continue };
            if bytes.is_empty() {
                continue;
            }
            if self.bytes.len() + bytes.len() > self.bytes_max || self.is_cut {
                self.is_cut = true;
                return;
            }
            if self.last.is_some_and(|last| last != member || !goes_on) {
                self.ends.push(self.bytes.len());
            }
            self.last = Some(member);
            self.bytes.extend_from_slice(bytes);
        }
    }

    /// Something was said that is not in here.
    pub fn cut(&mut self) {
        self.is_cut = true;
    }

    pub fn is_whole(&self) -> bool {
        !self.is_cut
    }

    /// Each text for itself, as the inside of a JSON string.
    pub fn texts(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        let ends = self.ends.iter().copied().chain([self.bytes.len()]);
        starts.zip(ends).filter_map(|(start, end)| self.bytes.get(start..end))
    }

    /// The memory it takes.
    pub fn bytes(&self) -> usize {
        self.bytes.capacity() + self.ends.capacity() * size_of::<usize>()
    }
}

/// Whatever the bytes, no more is kept than may be.
#[cfg(any(test, feature = "fuzzing"))]
pub fn fuzz_transcript(data: &[u8]) {
    for endpoint in Endpoint::ALL {
        let mut transcript = Transcript::of(endpoint, 64);
        for event in data.split_inclusive(|byte| *byte == b'\n') {
            transcript.hear_event(event, false);
        }
        transcript.hear_answer(data);
        assert!(transcript.texts().map(<[u8]>::len).sum::<usize>() <= 64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::json::mutate;

    #[track_caller]
    fn check(endpoint: Endpoint, events: &[&str], expect: &[&str]) {
        let mut transcript = Transcript::of(endpoint, 1 << 10);
        events.iter().for_each(|event| transcript.hear_event(event.as_bytes(), false));
        let texts: Vec<_> = transcript.texts().map(|text| str::from_utf8(text).expect("UTF-8")).collect();
        assert_eq!(texts, expect);
        assert!(transcript.is_whole());
    }

    #[test]
    fn pieces_of_one_text_are_joined_and_another_member_is_another_text() {
        let says = |text: &str| format!("data: {{\"choices\":[{{\"delta\":{{{text}}}}}]}}\n\n");
        check(Endpoint::ChatCompletions, &[], &[""]);
        check(
            Endpoint::ChatCompletions,
            &[
                &says(r#""role":"assistant","content":"""#),
                &says(r#""content":"Hel""#),
                &says(r#""content":"lo \ud83c""#),
                &says(r#""content":"\udf89""#),
                &says(r#""tool_calls":[{"function":{"arguments":"{\"a\""}}]"#),
                &says(r#""tool_calls":[{"function":{"arguments":":1}"}}]"#),
            ],
            &[r"Hello \ud83c\udf89", r#"{\"a\":1}"#],
        );
        check(
            Endpoint::Responses,
            &[
                "data: {\"type\":\"response.output_text.delta\",\"delta\":\"a \"}\n\n",
                "data: {\"type\":\"response.output_text.delta\",\"delta\":\"b\"}\n\n",
                "data: {\"type\":\"response.output_text.done\",\"text\":\"a b\"}\n\n",
            ],
            &["a b"],
        );
        check(Endpoint::Completions, &["data: {\"choices\":[{\"text\":\"x\"}]}\n\n"], &["x"]);
    }

    #[test]
    fn in_a_whole_answer_each_string_stands_for_itself() {
        let mut transcript = Transcript::of(Endpoint::ChatCompletions, 1 << 10);
        transcript.hear_answer(
            br#"{"choices":[{"message":{"content":"one"}},{"message":{"content":"two"}}],"content":null}"#,
        );
        assert!(transcript.texts().eq([&b"one"[..], b"two"]));
    }

    #[test]
    fn what_outgrows_its_bound_or_cannot_be_followed_is_not_whole() {
        let mut transcript = Transcript::of(Endpoint::Completions, 5);
        for (piece, is_whole) in [("abc", true), ("de", true), ("f", false), ("", false)] {
            transcript.hear_event(format!("{{\"text\":\"{piece}\"}}").as_bytes(), false);
            assert_eq!(transcript.is_whole(), is_whole, "{piece}");
        }
        assert!(transcript.texts().eq([&b"abcde"[..]]));
        let mut lines = Transcript::of(Endpoint::Completions, 5);
        lines.hear_event(b"data: {\"text\":\ndata: \"a\"}\n\n", true);
        assert!(!lines.is_whole());
    }

    #[test]
    fn mutated_events_never_panic() {
        let seeds: [&[u8]; 2] = [
            br#"{"choices":[{"delta":{"content":"Hi \u4f60 \" x","arguments":"{}"}}]}"#,
            br#"{"type":"response.output_text.delta","delta":"ab","text":"c"}"#,
        ];
        mutate::each(&seeds, 4_000, fuzz_transcript);
    }
}
