//! What a request says of itself in `x-ai-route-metadata`: one flat JSON object of strings, numbers and booleans, by which
//! routes branch and limits are told apart.
//!
//! Malformed is never "absent": a condition on a header that cannot be read must not quietly be false.

use std::borrow::Cow;

use smallvec::SmallVec;
use sonic_rs::{JsonValueTrait, LazyValue, to_object_iter};

use super::{http1::Known, json::scan};
use crate::base::limits::{METADATA_BYTES_MAX, METADATA_KEYS_MAX};

/// The fields, the first that is there being the one that counts: ours, and Cloudflare's for the same.
pub const FIELDS: [Known; 2] = [Known::RouteMetadata, Known::RouteMetadataAlias];

/// The object, its keys in the order in which they came.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata<'a>(SmallVec<[(Cow<'a, str>, Value<'a>); 4]>);

/// What may stand in it.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    Text(Cow<'a, str>),
    /// Finite.
    Number(f64),
    Flag(bool),
}

/// Why the header is refused. Always a 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadMetadata {
    TooLarge,
    NotJson,
    NotAnObject,
    TooManyKeys,
    DuplicateKey,
    /// `null`, a list, an object, or a number without a finite value.
    OddValue,
}

impl BadMetadata {
    /// A sentence for `error.message`.
    pub fn reason(self) -> &'static str {
        match self {
            Self::TooLarge => "The routing metadata is larger than 4096 bytes.",
            Self::NotJson => "The routing metadata is not valid JSON.",
            Self::NotAnObject => "The routing metadata must be a JSON object.",
            Self::TooManyKeys => "The routing metadata has more than 64 keys.",
            Self::DuplicateKey => "A key appears twice in the routing metadata.",
            Self::OddValue => "The values of the routing metadata must be strings, numbers or booleans.",
        }
    }
}

const _: () = assert!(METADATA_BYTES_MAX == 4_096 && METADATA_KEYS_MAX == 64, "as the sentences say");

impl<'a> Metadata<'a> {
    /// Reads the field's value.
    pub fn parse(value: &'a [u8]) -> Result<Self, BadMetadata> {
        if value.len() > METADATA_BYTES_MAX {
            return Err(BadMetadata::TooLarge);
        }
        let text = scan::document(value).map_err(|_| BadMetadata::NotJson)?;
        if !text.trim_ascii_start().starts_with('{') {
            return Err(BadMetadata::NotAnObject);
        }
        let mut entries: SmallVec<[(Cow<'a, str>, Value<'a>); 4]> = SmallVec::new();
        for entry in to_object_iter(text) {
            let (key, value) = entry.map_err(|_| BadMetadata::NotJson)?;
            if entries.iter().any(|(known, _)| *known == key) {
                return Err(BadMetadata::DuplicateKey);
            }
            if entries.len() == METADATA_KEYS_MAX {
                return Err(BadMetadata::TooManyKeys);
            }
            entries.push((key, Value::read(&value)?));
        }
        Ok(Self(entries))
    }

    pub fn get(&self, key: &str) -> Option<&Value<'a>> {
        self.0.iter().find(|(known, _)| known == key).map(|(_, value)| value)
    }
}

impl Value<'_> {
    fn read<'a>(value: &LazyValue<'a>) -> Result<Value<'a>, BadMetadata> {
        // Most are strings without escapes and stay where they are; that the document is sound was seen before.
        let raw = value.as_raw_cow();
        if let Some(inner) = raw.strip_prefix('"') {
            let plain = inner.strip_suffix('"').filter(|text| !text.contains('\\'));
            if let (Cow::Borrowed(whole), Some(text)) = (&raw, plain) {
                return Ok(Value::Text(Cow::Borrowed(&whole[1..=text.len()])));
            }
            return value
                .as_str()
                .map(|text| Value::Text(Cow::Owned(text.to_owned())))
                .ok_or(BadMetadata::OddValue);
        }
        if let Some(flag) = value.as_bool() {
            return Ok(Value::Flag(flag));
        }
        value.as_f64().filter(|number| number.is_finite()).map(Value::Number).ok_or(BadMetadata::OddValue)
    }

    /// The value as one name for it: what counts are kept by. Different values have different names.
    pub fn name(&self) -> Cow<'_, str> {
        match self {
            Self::Text(text) => Cow::Borrowed(text),
            Self::Number(number) => Cow::Owned(format!("\u{1}{number}")),
            Self::Flag(flag) => Cow::Borrowed(if *flag { "\u{1}true" } else { "\u{1}false" }),
        }
    }
}

/// Never panics; what is read again reads the same.
#[cfg(any(test, feature = "fuzzing"))]
pub fn fuzz_metadata(data: &[u8]) {
    if let Ok(metadata) = Metadata::parse(data) {
        assert_eq!(Metadata::parse(data).as_ref(), Ok(&metadata));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::json::mutate;

    #[track_caller]
    fn check(header: &str, key: &str, expect: Option<Value<'_>>) {
        let metadata = Metadata::parse(header.as_bytes()).expect("a good header");
        assert_eq!(metadata.get(key), expect.as_ref(), "{header}");
    }

    #[track_caller]
    fn refuse(header: impl AsRef<[u8]>, expect: BadMetadata) {
        assert_eq!(Metadata::parse(header.as_ref()), Err(expect));
    }

    #[test]
    fn strings_numbers_and_booleans_are_read() {
        let header = r#"{"plan":"pr\u006f","seats":3.5,"beta":true,"neg":-1e2,"näme":"ü"}"#;
        check(header, "plan", Some(Value::Text("pro".into())));
        check(header, "seats", Some(Value::Number(3.5)));
        check(header, "neg", Some(Value::Number(-100.0)));
        check(header, "beta", Some(Value::Flag(true)));
        check(header, "näme", Some(Value::Text("ü".into())));
        check(header, "Plan", None);
        check(r#"{"plain":"a b"}"#, "plain", Some(Value::Text("a b".into())));
        check(r#"{"quoted":"\"a\""}"#, "quoted", Some(Value::Text("\"a\"".into())));
        check("{}", "plan", None);
        check(" { } ", "plan", None);
    }

    #[test]
    fn a_string_without_escapes_is_not_copied() {
        let borrowed = |header: &str| {
            let metadata = Metadata::parse(header.as_bytes()).expect("a good header");
            matches!(metadata.get("a"), Some(Value::Text(Cow::Borrowed(_))))
        };
        assert!(borrowed(r#"{"a": "pro" }"#) && borrowed(r#"{"a":""}"#));
        assert!(!borrowed(r#"{"a":"pr\u006f"}"#));
    }

    #[test]
    fn everything_else_is_refused() {
        refuse("", BadMetadata::NotJson);
        refuse("plan=pro", BadMetadata::NotJson);
        refuse("{\"a\":1", BadMetadata::NotJson);
        refuse("{\"a\":1}{}", BadMetadata::NotJson);
        refuse("{'a':1}", BadMetadata::NotJson);
        refuse(b"{\"a\":\"\xff\"}", BadMetadata::NotJson);
        refuse("[]", BadMetadata::NotAnObject);
        refuse("\"a\"", BadMetadata::NotAnObject);
        refuse("{\"a\":null}", BadMetadata::OddValue);
        refuse("{\"a\":[1]}", BadMetadata::OddValue);
        refuse("{\"a\":{\"b\":1}}", BadMetadata::OddValue);
        refuse("{\"a\":1,\"\\u0061\":2}", BadMetadata::DuplicateKey);
        refuse(format!("{{\"a\":\"{}\"}}", "x".repeat(METADATA_BYTES_MAX)), BadMetadata::TooLarge);
        let keys: Vec<_> = (0..=METADATA_KEYS_MAX).map(|n| format!("\"{n}\":0")).collect();
        refuse(format!("{{{}}}", keys.join(",")), BadMetadata::TooManyKeys);
    }

    #[test]
    fn values_of_different_types_have_different_names() {
        let values =
            [Value::Text("1".into()), Value::Number(1.0), Value::Flag(true), Value::Text("true".into())];
        for (i, one) in values.iter().enumerate() {
            for other in &values[i + 1..] {
                assert_ne!(one.name(), other.name());
            }
        }
    }

    #[test]
    fn no_input_is_too_odd() {
        let seeds: [&[u8]; 3] =
            [br#"{"plan":"pro","n":1e309,"f":false}"#, br#"{"a":"\ud83d\ude00"}"#, br#" {"":-0} "#];
        mutate::each(&seeds, 3_000, fuzz_metadata);
    }
}
