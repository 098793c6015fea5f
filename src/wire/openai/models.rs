//! The list of models: an answer that is written once and then copied.

use std::{collections::HashMap, ops::Range};

/// The body of `GET /v1/models`, and where in it each model's object lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelList {
    body: Box<[u8]>,
    // Every range lies in `body`.
    by_id: HashMap<Box<str>, Range<usize>>,
}

impl ModelList {
    /// A list of objects of the OpenAI API, each with its id (`{provider}/{model}`) and its JSON.
    pub fn new(models: impl IntoIterator<Item = (Box<str>, String)>) -> Self {
        let mut body = br#"{"object":"list","data":["#.to_vec();
        let mut by_id = HashMap::new();
        for (id, json) in models {
            if !by_id.is_empty() {
                body.push(b',');
            }
            let start = body.len();
            body.extend_from_slice(json.as_bytes());
            by_id.insert(id, start..body.len());
        }
        body.extend_from_slice(b"]}");
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
        assert_eq!(ModelList::new([]).body(), br#"{"object":"list","data":[]}"#);
    }
}
