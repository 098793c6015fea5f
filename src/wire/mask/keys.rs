//! Tokens and keys by their shape: a prefix that their issuer gives them, and enough behind it. What follows belongs to
//! the key, however long it is.

use super::Find;

const LABEL: &str = "[key]";

/// Prefix, and the fewest bytes behind it that make a key.
const SHAPES: &[(&str, usize)] = &[
    ("rw_", 16),         // our own
    ("sk-", 8),          // OpenAI, Anthropic, OpenRouter, DeepSeek, Alibaba and many more
    ("sk_", 16),         // ElevenLabs, Stripe
    ("rk_", 16),         // Stripe
    ("gsk_", 16),        // Groq
    ("csk-", 16),        // Cerebras
    ("xai-", 16),        // xAI
    ("AIza", 24),        // Google
    ("ya29.", 16),       // Google, OAuth
    ("hf_", 16),         // Hugging Face
    ("pplx-", 16),       // Perplexity
    ("r8_", 16),         // Replicate
    ("fw_", 16),         // Fireworks
    ("tgp_v1_", 16),     // Together
    ("nvapi-", 16),      // NVIDIA
    ("bce-v3/", 16),     // Baidu
    ("LTAI", 12),        // Alibaba Cloud
    ("AKIA", 12),        // Amazon
    ("ASIA", 12),        // Amazon
    ("AKID", 16),        // Tencent Cloud
    ("ghp_", 16),        // GitHub
    ("gho_", 16),        // GitHub
    ("ghu_", 16),        // GitHub
    ("ghs_", 16),        // GitHub
    ("ghr_", 16),        // GitHub
    ("github_pat_", 16), // GitHub
    ("glpat-", 16),      // GitLab
    ("xoxb-", 10),       // Slack
    ("xoxp-", 10),       // Slack
    ("eyJ", 20),         // a JSON Web Token
];

/// By its first byte, which shapes a key may have: a bit for each.
const BEGUN_BY: [u32; 256] = {
    assert!(SHAPES.len() <= 32);
    let mut begun_by = [0; 256];
    let mut index = 0;
    while index < SHAPES.len() {
        begun_by[SHAPES[index].0.as_bytes()[0] as usize] |= 1 << index;
        index += 1;
    }
    begun_by
};
/// The most bytes that tell a key.
pub(super) const SHORTEST_KEY_BYTES_MAX: usize = 32;
const _: () = {
    let mut index = 0;
    while index < SHAPES.len() {
        assert!(SHAPES[index].0.len() + SHAPES[index].1 <= SHORTEST_KEY_BYTES_MAX);
        index += 1;
    }
};
/// Spaces between `Bearer` and its token.
const SPACES_MAX: usize = 4;
/// Fewest bytes of a bearer token.
const TOKEN_BYTES_MIN: usize = 8;
const _: () = assert!("bearer".len() + SPACES_MAX + TOKEN_BYTES_MIN <= SHORTEST_KEY_BYTES_MAX);

/// Whether a text has nothing but digits as of a UUID, which most requests are called by: no key begins in such a one.
pub(super) fn is_of_no_key(text: &[u8]) -> bool {
    text.iter().fold(true, |is_plain, byte| is_plain & is_plain_digit(*byte))
}

const fn is_plain_digit(byte: u8) -> bool {
    byte.is_ascii_digit() | matches!(byte, b'a'..=b'f') | (byte == b'-')
}
const _: () = {
    let mut index = 0;
    while index < SHAPES.len() {
        let (prefix, mut at) = (SHAPES[index].0.as_bytes(), 0);
        // A prefix of such bytes alone would be looked at beyond its end, which does not compile.
        while is_plain_digit(prefix[at]) {
            at += 1;
        }
        index += 1;
    }
    assert!(!is_plain_digit(b'r'), "of bearer");
};

/// A key or token that begins here. `rest` begins a word.
pub(super) fn find(rest: &[u8]) -> Option<Find> {
    // Nearly every place is none: told by its first byte.
    let first = *rest.first()?;
    if matches!(first, b'b' | b'B')
        && let Some(find) = bearer(rest)
    {
        return Some(find);
    }
    let mut shapes = BEGUN_BY[usize::from(first)];
    while shapes != 0 {
        let (prefix, least) = SHAPES[shapes.trailing_zeros() as usize];
        shapes &= shapes - 1;
        let behind = rest.strip_prefix(prefix.as_bytes()).and_then(|behind| behind.get(..least));
        if behind.is_some_and(|behind| behind.iter().all(|byte| is_token(*byte))) {
            return Some(Find { bytes: prefix.len() + least, shown: 0, label: LABEL, tail: Some(is_token) });
        }
    }
    None
}

/// `Bearer` and what follows it, of which the word stays.
fn bearer(rest: &[u8]) -> Option<Find> {
    let word = rest.get(..6)?;
    if !word.eq_ignore_ascii_case(b"bearer") {
        return None;
    }
    let behind = &rest[6..];
    let spaces = behind.iter().take_while(|byte| **byte == b' ').count();
    let token = behind.get(spaces..spaces + TOKEN_BYTES_MIN)?;
    let is_one = (1..=SPACES_MAX).contains(&spaces) && token.iter().all(|byte| is_token(*byte));
    is_one.then_some(Find {
        bytes: 6 + spaces + TOKEN_BYTES_MIN,
        shown: 6 + spaces,
        label: LABEL,
        tail: Some(is_token),
    })
}

/// What RFC 6750 calls a token, and all keys that are known are of.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~' | b'+' | b'/' | b'=')
}
