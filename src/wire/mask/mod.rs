//! What a log may show of a text: keys and tokens never, addresses, numbers and names of people as the operator chooses. For
//! copies that are kept; what is sent on is never touched.
//!
//! Whether something is masked at a place is decided by the `WINDOW` of bytes from there on and the few before it, and by
//! nothing else. So it does not matter how a text is cut: what is not yet decided is held back, and no more than that.

mod keys;
mod patterns;
mod personal;

pub use patterns::{BadPattern, Patterns};

use std::borrow::Cow;

use crate::base::limits::{MASK_MATCH_BYTES_MAX, READ_BYTES};

/// What to mask besides keys and tokens, which are masked always.
#[derive(Debug, Default)]
pub struct Rules {
    pub email: bool,
    pub phone: bool,
    /// Numbers of 13 to 19 digits whose check digit (Luhn) is right.
    pub card: bool,
    /// China's resident identity numbers with the right check digit, and social security numbers of the US.
    pub national_id: bool,
    /// IPv4 and IPv6.
    pub ip: bool,
    pub patterns: Patterns,
}

/// The bytes that a decision looks at: the longest thing that is told by its end, and one byte behind it.
const WINDOW: usize = 320;
const _: () = assert!(personal::EMAIL_BYTES_MAX < WINDOW && personal::NUMBER_BYTES_MAX < WINDOW);
const _: () = assert!(keys::SHORTEST_KEY_BYTES_MAX < WINDOW && MASK_MATCH_BYTES_MAX + 4 <= WINDOW);
/// So many bytes at the end of a text that was cut are not decided: what they begin might have been masked.
pub const UNDECIDED_BYTES_MAX: usize = WINDOW;
/// The bytes before a place that a decision may look at.
const CONTEXT: usize = 8;

/// Something to be masked at a place.
#[derive(Clone, Copy, Debug)]
struct Find {
    bytes: usize,
    /// How many of them are shown nevertheless.
    shown: usize,
    label: &'static str,
    /// What belongs to it as well, however long it goes on.
    tail: Option<fn(u8) -> bool>,
}

impl Find {
    fn whole(bytes: usize, label: &'static str) -> Self {
        Self { bytes, shown: 0, label, tail: None }
    }
}

/// Masks one text that comes in pieces.
pub struct Masker<'r> {
    rules: &'r Rules,
    // text[..at] is decided and kept as context, text[at..] is not decided yet
    text: Vec<u8>,
    at: usize,
    /// Inside something whose end has not come.
    tail: Option<fn(u8) -> bool>,
    /// A backslash is what a JSON string escapes with, and not itself.
    escapes: bool,
}

impl<'r> Masker<'r> {
    pub fn new(rules: &'r Rules) -> Self {
        Self { rules, text: Vec::new(), at: 0, tail: None, escapes: true }
    }

    /// For a text in which nothing is escaped.
    pub fn plain(rules: &'r Rules) -> Self {
        Self { escapes: false, ..Self::new(rules) }
    }

    /// Takes the next piece, and adds to `out` what is decided by now.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        // Read by read, so that what is held is small however much comes.
        for piece in bytes.chunks(READ_BYTES) {
            self.text.extend_from_slice(piece);
            self.decide(WINDOW, out);
            let gone = self.at.saturating_sub(CONTEXT);
            self.text.drain(..gone);
            self.at -= gone;
        }
    }

    /// The text is whole: adds the rest to `out`.
    pub fn finish(mut self, out: &mut Vec<u8>) {
        self.decide(1, out);
    }

    /// Decides every place that has `needed` bytes.
    fn decide(&mut self, needed: usize, out: &mut Vec<u8>) {
        let Self { rules, text, at, tail, escapes } = self;
        let mut patterns = rules.patterns.search();
        // Keys and numbers begin where a word does. What an operator looks for may begin anywhere, and so may addresses, but
        // not far from their sign.
        let in_words = !*escapes && rules.patterns.is_empty();
        let mut sign = 0;
        while text.len() - *at >= needed {
            if let Some(belongs) = *tail {
                if text.get(*at).is_some_and(|byte| belongs(*byte)) {
                    *at += 1;
                    continue;
                }
                *tail = None;
            }
            if rules.email && sign <= *at {
                let ahead = &text[*at + 1..];
                sign =
                    *at + 1 + memchr::memchr(b'@', ahead).unwrap_or(ahead.len() + personal::LOCAL_BYTES_MAX);
            }
            let end = text.len() + 1 - needed;
            let end = if rules.email { end.min(sign.saturating_sub(personal::LOCAL_BYTES_MAX)) } else { end };
            if in_words && *at < end && text[..*at].last().is_some_and(|byte| is_word(*byte)) {
                let undecided = &text[*at..end];
                let run = undecided
                    .iter()
                    .position(|byte| !is_word(*byte))
                    .map_or(undecided.len(), |word| word + 1);
                out.extend_from_slice(&undecided[..run]);
                *at += run;
                continue;
            }
            match rules.find(text, *at, *escapes).or_else(|| patterns.find(text, *at)) {
                Some(find) => {
                    out.extend_from_slice(&text[*at..*at + find.shown]);
                    out.extend_from_slice(find.label.as_bytes());
                    *at += find.bytes;
                    *tail = find.tail;
                }
                None => {
                    out.push(text[*at]);
                    *at += 1;
                }
            }
        }
    }
}

/// A whole text at once.
pub fn mask(rules: &Rules, text: &[u8]) -> Vec<u8> {
    let (mut masker, mut out) = (Masker::new(rules), Vec::with_capacity(text.len()));
    masker.push(text, &mut out);
    masker.finish(&mut out);
    out
}

/// A whole short text at once, a name or a number: nearly all show nothing that is to be masked, and are handed back as they are.
pub fn masked<'t>(rules: &Rules, text: &'t str) -> Cow<'t, str> {
    if rules.keeps(text.as_bytes()) {
        return Cow::Borrowed(text);
    }
    let masked = String::from_utf8(mask(rules, text.as_bytes()));
    debug_assert!(masked.is_ok(), "masking text leaves text");
    Cow::Owned(masked.unwrap_or_default())
}

impl Rules {
    /// Whether there is nothing in a text to mask. It looks where something may begin and nowhere else; in doubt it says no.
    fn keeps(&self, text: &[u8]) -> bool {
        if self.are_keys_alone() && keys::is_of_no_key(text) {
            return true;
        }
        let is_told_by_words = text.len() < WINDOW
            && memchr::memchr(b'\\', text).is_none()
            && !(self.email && memchr::memchr(b'@', text).is_some())
            && !self.patterns.are_in(text);
        let mut was_word = false;
        is_told_by_words
            && text.iter().enumerate().all(|(at, byte)| {
                let begins = !std::mem::replace(&mut was_word, is_word(*byte));
                !begins || self.find(text, at, false).is_none()
            })
    }

    fn are_keys_alone(&self) -> bool {
        let Self { email, phone, card, national_id, ip, patterns } = self;
        !(*email | *phone | *card | *national_id | *ip) && patterns.is_empty()
    }

    /// What is to be masked at this place, if anything begins there.
    fn find(&self, text: &[u8], at: usize, escapes: bool) -> Option<Find> {
        let (before, rest) = text.split_at(at);
        let rest = &rest[..rest.len().min(WINDOW)];
        let first = *rest.first()?;
        let in_escape = escapes && in_escape(before);
        let begins = !in_escape && begins_word(before, escapes);
        if begins && let Some(find) = keys::find(rest) {
            return Some(find);
        }
        let begins_number = first.is_ascii_digit() || matches!(first, b'+' | b'(');
        if begins && begins_number {
            if self.national_id
                && let Some(bytes) = personal::national_id(rest)
            {
                return Some(Find::whole(bytes, "[id]"));
            }
            if self.card
                && let Some(bytes) = personal::card(rest)
            {
                return Some(Find::whole(bytes, "[card]"));
            }
        }
        let begins_address = first.is_ascii_hexdigit() || first == b':';
        if self.ip
            && begins
            && begins_address
            && let Some(bytes) = personal::ip(before, rest)
        {
            return Some(Find::whole(bytes, "[ip]"));
        }
        if self.phone
            && begins
            && begins_number
            && let Some(bytes) = personal::phone(before, rest)
        {
            return Some(Find::whole(bytes, "[phone]"));
        }
        if self.email && personal::is_local(first) && !in_escape {
            return personal::email(rest).map(|bytes| Find::whole(bytes, "[email]"));
        }
        None
    }
}

/// Whether what comes next begins a word: behind anything but a letter, a digit or `_`, or behind a JSON escape.
fn begins_word(before: &[u8], escapes: bool) -> bool {
    match before {
        [.., b'\\', b'n' | b'r' | b't' | b'b' | b'f'] | [.., b'\\', b'u', _, _, _, _] if escapes => true,
        [.., last] => !is_word(*last),
        [] => true,
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Whether what comes next is part of a JSON escape: masking it would leave half of one.
fn in_escape(before: &[u8]) -> bool {
    matches!(
        before,
        [.., b'\\']
            | [.., b'\\', b'u']
            | [.., b'\\', b'u', _]
            | [.., b'\\', b'u', _, _]
            | [.., b'\\', b'u', _, _, _]
    )
}

#[cfg(any(test, feature = "fuzzing"))]
fn in_pieces(mut masker: Masker<'_>, data: &[u8], size: usize) -> Vec<u8> {
    let mut out = Vec::new();
    data.chunks(size).for_each(|piece| masker.push(piece, &mut out));
    assert!(masker.text.len() < WINDOW + CONTEXT, "no more is held back than must be");
    masker.finish(&mut out);
    out
}

/// The fuzz target: however a text is cut, the same is masked, and text stays text.
#[cfg(any(test, feature = "fuzzing"))]
pub fn fuzz_mask(data: &[u8]) {
    use std::sync::LazyLock;
    static ALL: LazyLock<Rules> = LazyLock::new(|| Rules {
        email: true,
        phone: true,
        card: true,
        national_id: true,
        ip: true,
        patterns: Patterns::new(&["(?i)proj-[0-9]+", r"\bsecret\b", "x+$"]).expect("they are good"),
    });
    /// With a pattern that matches nothing there is no quick way over words.
    static SLOW: LazyLock<Rules> = LazyLock::new(|| {
        let patterns = Patterns::new(&[r"\b\B"]).expect("it is good");
        Rules { patterns, email: true, card: true, ip: true, ..Rules::default() }
    });
    let keys = Rules { email: true, card: true, ip: true, ..Rules::default() };
    let plain = |rules: &Rules| in_pieces(Masker::plain(rules), data, data.len().max(1));
    assert_eq!(plain(&keys), plain(&SLOW));
    let whole = mask(&ALL, data);
    for size in [1, 7, WINDOW] {
        assert_eq!(in_pieces(Masker::new(&ALL), data, size), whole);
        assert_eq!(in_pieces(Masker::plain(&keys), data, size), plain(&keys));
    }
    if let Ok(text) = std::str::from_utf8(data) {
        assert!(std::str::from_utf8(&whole).is_ok());
        for rules in [&ALL, &keys, &Rules::default()] {
            assert_eq!(masked(rules, text).as_bytes(), mask(rules, data));
        }
    }
}

#[cfg(test)]
mod tests;
