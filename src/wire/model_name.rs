//! What may be a model's name, here and at every provider.

use crate::base::limits::MODEL_BYTES_MAX;

/// `[A-Za-z0-9._:/@+,=-]`, 1 to [`MODEL_BYTES_MAX`] bytes: what providers use, and nothing that a parser, a path, a
/// header, a log line or a page could read in two ways.
pub fn is_model_name(name: &[u8]) -> bool {
    (1..=MODEL_BYTES_MAX).contains(&name.len()) && name.iter().all(|byte| IN_NAMES[usize::from(*byte)])
}

static IN_NAMES: [bool; 256] = {
    let mut in_names = [false; 256];
    let mut of = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:/@+,=-".as_slice();
    while let Some((byte, rest)) = of.split_first() {
        in_names[*byte as usize] = true;
        of = rest;
    }
    in_names
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_providers_use_pass_and_odd_ones_do_not() {
        for name in [
            "gpt-4o",
            "openai/gpt-4o",
            "accounts/fireworks/models/qwen3",
            "@cf/meta/llama",
            "ft:gpt-4o:org::a1",
        ] {
            assert!(is_model_name(name.as_bytes()), "{name}");
        }
        for name in
            ["", "a b", "a\"b", "a\\b", "a%2fb", "ünï", "a\0", "a\n", "<a>", "a?b", "a#b", "a&b", "{a}"]
        {
            assert!(!is_model_name(name.as_bytes()), "{name}");
        }
        assert!(is_model_name(&[b'm'; MODEL_BYTES_MAX]));
        assert!(!is_model_name(&[b'm'; MODEL_BYTES_MAX + 1]));
    }
}
