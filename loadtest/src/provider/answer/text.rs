//! Content to fill answers with: text of a size, parts of a text, instances of a schema, base64.

use serde_json::{Value, json};

/// Text of about so many bytes that says which piece it is; never fewer than nothing.
pub(super) fn text(index: usize, bytes: usize, utf8: bool) -> String {
    let mut text = format!("w{index} ");
    text.truncate(bytes);
    if utf8 {
        for character in ['é', '漢', '😀', '字'].into_iter().cycle() {
            if text.len() + character.len_utf8() > bytes {
                break;
            }
            text.push(character);
        }
    }
    text.extend(std::iter::repeat_n('x', bytes.saturating_sub(text.len())));
    text
}

/// The `index`th of `count` parts of a text, on character boundaries; all parts together are the text.
pub(super) fn slice_of(text: &str, index: usize, count: usize) -> String {
    let characters = text.chars().count();
    let from = characters * index / count;
    let to = characters * (index + 1) / count;
    text.chars().skip(from).take(to - from).collect()
}

/// The smallest value that a JSON schema of the usual kind accepts.
pub(super) fn instance(schema: &Value) -> Value {
    if let Some(first) = schema["enum"].as_array().and_then(|all| all.first()) {
        return first.clone();
    }
    if let Some(only) = schema.get("const") {
        return only.clone();
    }
    if let Some(first) = schema["anyOf"].as_array().and_then(|all| all.first()) {
        return instance(first);
    }
    match schema["type"].as_str() {
        Some("string") => "Ringway".into(),
        Some("integer") => 42.into(),
        Some("number") => 4.2.into(),
        Some("boolean") => true.into(),
        Some("null") => Value::Null,
        Some("array") => json!([instance(&schema["items"])]),
        _ => {
            let all = schema["properties"].as_object();
            all.into_iter().flatten().map(|(key, schema)| (key.clone(), instance(schema))).collect::<Value>()
        }
    }
}

/// Base64 with padding (RFC 4648 §4).
pub(super) fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let bits =
            three.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for place in 0..4 {
            let index = (bits >> (18 - 6 * place)) & 63;
            text.push(if place <= three.len() { char::from(ALPHABET[index as usize]) } else { '=' });
        }
    }
    text
}

pub(super) fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_rfc_4648() {
        #[track_caller]
        fn check(bytes: &[u8], expect: &str) {
            assert_eq!(base64(bytes), expect);
        }
        check(b"", "");
        check(b"f", "Zg==");
        check(b"fo", "Zm8=");
        check(b"foobar", "Zm9vYmFy");
    }
}
