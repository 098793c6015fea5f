//! What one event says, read from its JSON without a tree of it. What can't be read is simply not understood.

use std::borrow::Cow;

use memchr::memchr2;
use sonic_rs::{LazyValue, to_array_iter, to_object_iter};

use crate::base::limits::JSON_DEPTH_MAX;

/// The members of an event that mean something to us, as raw JSON.
#[derive(Default)]
pub(super) struct Chunk<'a> {
    kind: Option<Cow<'a, str>>,
    choices: Option<Cow<'a, str>>,
    usage: Option<Cow<'a, str>>,
    error: Option<Cow<'a, str>>,
}

impl<'a> Chunk<'a> {
    /// `None` if it is not an object. `json` must be shallow. Of members with the same name the last counts, as it does for
    /// the clients.
    pub(super) fn read(json: &'a [u8]) -> Option<Self> {
        let mut chunk = Self::default();
        for member in to_object_iter(json) {
            let (name, value) = member.ok()?;
            let place = match &*name {
                "type" => &mut chunk.kind,
                "choices" => &mut chunk.choices,
                "usage" => &mut chunk.usage,
                "error" => &mut chunk.error,
                _ => continue,
            };
            *place = Some(value.as_raw_cow());
        }
        Some(chunk)
    }

    pub(super) fn kind(&self) -> Option<&[u8]> {
        let kind = self.kind.as_ref()?.as_bytes();
        kind.strip_prefix(b"\"")?.strip_suffix(b"\"")
    }

    pub(super) fn choices(&self) -> impl Iterator<Item = Choice> {
        let list = self.choices.as_deref().filter(|list| list.starts_with('['));
        list.into_iter()
            .flat_map(|list| to_array_iter(list).map_while(Result::ok))
            .map(|one| Choice::read(&one))
    }

    pub(super) fn is_usage_alone(&self) -> bool {
        self.usage.as_deref().is_some_and(|usage| usage.starts_with('{'))
            && self.choices.as_deref().is_some_and(|choices| choices.starts_with('['))
            && !self.is_error()
    }

    pub(super) fn is_error(&self) -> bool {
        self.error.as_deref().is_some_and(says_something)
    }
}

pub(super) struct Choice {
    /// `None`: its place in the list.
    pub(super) index: Option<u32>,
    pub(super) finished: bool,
    pub(super) speaks: bool,
    /// Nothing but an index and an empty delta.
    pub(super) silent: bool,
}

impl Choice {
    fn read(choice: &LazyValue<'_>) -> Self {
        let mut read = Self { index: None, finished: false, speaks: false, silent: true };
        for (name, value) in members(choice) {
            read.silent &= name == "index" || !says_something(value.as_raw_str());
            match &*name {
                "index" => read.index = value.as_raw_str().parse().ok(),
                "finish_reason" => read.finished = says_something(value.as_raw_str()),
                "text" => read.speaks |= says_something(value.as_raw_str()),
                // Whatever a delta holds beside the role is generated: content, reasoning, tool calls, a refusal, audio.
                "delta" => {
                    let mut said = members(&value).filter(|(name, _)| name != "role");
                    read.speaks |= said.any(|(_, value)| says_something(value.as_raw_str()));
                }
                _ => {}
            }
        }
        read
    }
}

fn members<'v>(value: &'v LazyValue<'_>) -> impl Iterator<Item = (Cow<'v, str>, LazyValue<'v>)> {
    let object = Some(value.as_raw_str()).filter(|raw| raw.starts_with('{'));
    object.into_iter().flat_map(|object| to_object_iter(object).map_while(Result::ok))
}

/// Providers fill members that they have nothing for with null or with something empty.
fn says_something(raw: &str) -> bool {
    !matches!(raw, "null" | "false" | "\"\"" | "{}" | "[]")
}

/// Does it nest within the bound? Walks recurse, and too deep a recursion ends the process.
pub(super) fn is_shallow(json: &[u8]) -> bool {
    let (mut depth, mut at) = (0_usize, 0);
    while let Some(&byte) = json.get(at) {
        at += 1;
        match byte {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => at = string_end(json, at),
            _ => {}
        }
        if depth > JSON_DEPTH_MAX {
            return false;
        }
    }
    true
}

/// Just past the quote that closes the string whose inside begins at `at`.
fn string_end(json: &[u8], at: usize) -> usize {
    let mut at = at;
    while let Some(found) = json.get(at..).and_then(|rest| memchr2(b'"', b'\\', rest)) {
        at += found;
        if json[at] == b'"' {
            return at + 1;
        }
        at += 2;
    }
    json.len()
}
