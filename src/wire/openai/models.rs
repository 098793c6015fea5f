//! The list of models: an answer that is written once and then copied.

use std::{collections::HashMap, ops::Range};

/// The body of `GET /v1/models`, and where in it each model's object lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelList {
    body: Box<[u8]>,
    // Every range lies in `body`.
    by_id: HashMap<Box<str>, Range<usize>>,
}

const HEAD: &[u8] = br#"{"object":"list","data":["#;
const TAIL: &[u8] = b"]}";

impl ModelList {
    /// A list of objects of the OpenAI API, each with its id (`{provider}/{model}`) and its JSON.
    pub fn new(models: impl IntoIterator<Item = (Box<str>, String)>) -> Self {
        let mut body = HEAD.to_vec();
        let mut by_id = HashMap::new();
        for (id, json) in models {
            if !by_id.is_empty() {
                body.push(b',');
            }
            let start = body.len();
            body.extend_from_slice(json.as_bytes());
            by_id.insert(id, start..body.len());
        }
        body.extend_from_slice(TAIL);
        Self { body: body.into(), by_id }
    }

    /// The body that lists all models.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The body that shows one model.
    pub fn of(&self, id: &str) -> Option<&[u8]> {
        self.body.get(self.by_id.get(id)?.clone())
    }

    /// The body that lists the models whose id `sees` allows.
    pub fn only(&self, sees: impl Fn(&str) -> bool) -> Vec<u8> {
        let mut seen: Vec<_> =
            self.by_id.iter().filter(|(id, _)| sees(id)).map(|(_, at)| at.clone()).collect();
        seen.sort_unstable_by_key(|at| at.start);
        let mut body = HEAD.to_vec();
        for (index, at) in seen.into_iter().enumerate() {
            if index > 0 {
                body.push(b',');
            }
            body.extend_from_slice(self.body.get(at).unwrap_or_default());
        }
        body.extend_from_slice(TAIL);
        body
    }

    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_model_is_a_part_of_the_list() {
        let list = ModelList::new([("a/1".into(), r#"{"id":"a/1"}"#.into()), ("b/2".into(), "{}".into())]);
        assert_eq!(list.body(), br#"{"object":"list","data":[{"id":"a/1"},{}]}"#);
        assert_eq!(list.of("a/1"), Some(&br#"{"id":"a/1"}"#[..]));
        assert_eq!(list.of("b/2"), Some(&b"{}"[..]));
        assert_eq!((list.of("c"), list.len()), (None, 2));
        assert_eq!(list.only(|id| id == "b/2"), br#"{"object":"list","data":[{}]}"#);
        assert_eq!(list.only(|_| true), list.body());
        assert_eq!(list.only(|_| false), br#"{"object":"list","data":[]}"#);
        assert_eq!(ModelList::new([]).body(), br#"{"object":"list","data":[]}"#);
    }
}
