//! Which of OpenAI's vocabularies a model counts with, and what a conversation costs beside its words. By the public table of
//! `tiktoken` (`tiktoken/model.py`, 0.14.0) and OpenAI's cookbook ("How to count tokens with tiktoken").
//!
//! Invariant: a vocabulary is read when its first text is counted, by whoever counts it, and stays in memory from then on.

use crate::base::limits::{MESSAGE_NAME_TOKENS, MESSAGE_TOKENS};

/// A vocabulary, as `tiktoken` calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vocabulary {
    /// Of every model since gpt-4o, and of all that nobody says it of.
    O200k,
    /// Of gpt-4, gpt-3.5 and the embeddings.
    Cl100k,
}

/// Models of the older vocabulary, whole.
const CL100K: [&str; 9] = [
    "gpt-4",
    "gpt-3.5",
    "gpt-3.5-turbo",
    "gpt-35-turbo",
    "davinci-002",
    "babbage-002",
    "text-embedding-ada-002",
    "text-embedding-3-small",
    "text-embedding-3-large",
];
/// What the others of them begin with; Azure's deployments leave out the dot.
const CL100K_BEGINS: [&str; 3] = ["gpt-4-", "gpt-3.5-turbo-", "gpt-35-turbo-"];
/// The one model that was made for conversations and framed them in another way.
const FIRST_CHAT: [&str; 2] = ["gpt-3.5-turbo-0301", "gpt-35-turbo-0301"];

impl Vocabulary {
    pub const ALL: [Self; 2] = [Self::O200k, Self::Cl100k];

    /// Of a model by the name that its provider knows it by.
    pub fn of(model: &str) -> Self {
        let base = base(model);
        let is_older = CL100K.contains(&base) || CL100K_BEGINS.iter().any(|begin| base.starts_with(begin));
        if is_older { Self::Cl100k } else { Self::O200k }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::O200k => "o200k_base",
            Self::Cl100k => "cl100k_base",
        }
    }

    /// What it takes once it has been read, to the nearest ten: memory grows by 81 MiB (32 the file's) and by 38 (14).
    pub fn megabytes(self) -> u32 {
        match self {
            Self::O200k => 80,
            Self::Cl100k => 40,
        }
    }

    pub fn count(self, text: &str) -> u64 {
        let tokenizer = match self {
            Self::O200k => bpe_openai::o200k_base(),
            Self::Cl100k => bpe_openai::cl100k_base(),
        };
        tokenizer.count(text) as u64
    }
}

/// What a model adds to a conversation for each message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Framing {
    pub message: u64,
    /// Of one whose author has a name.
    pub named_message: u64,
}

impl Framing {
    pub fn of(model: &str) -> Self {
        if FIRST_CHAT.contains(&base(model)) {
            // Where there is a name, the role is left out.
            Self { message: 4, named_message: 3 }
        } else {
            Self { message: MESSAGE_TOKENS, named_message: MESSAGE_TOKENS + MESSAGE_NAME_TOKENS }
        }
    }
}

/// The model that this one is: without whose it is (`openai/gpt-4`), and what it was fine-tuned from (`ft:gpt-4:us::id`).
fn base(model: &str) -> &str {
    let name = model.rsplit_once('/').map_or(model, |(_, name)| name);
    let Some(tuned) = name.strip_prefix("ft:") else { return name };
    tuned.split_once(':').map_or(tuned, |(base, _)| base)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_counts_with_the_vocabulary_that_tiktoken_says() {
        #[track_caller]
        fn check(models: &[&str], expect: Vocabulary) {
            for model in models {
                assert_eq!(Vocabulary::of(model), expect, "{model}");
            }
        }
        check(&CL100K, Vocabulary::Cl100k);
        let older = [
            "gpt-4-0314",
            "gpt-4-32k",
            "gpt-4-turbo-2024-04-09",
            "gpt-3.5-turbo-0301",
            "gpt-35-turbo-16k",
            "openai/gpt-4-turbo",
            "ft:gpt-4-0613:us::a",
            "ft:gpt-3.5-turbo",
            "ft:davinci-002:x",
        ];
        check(&older, Vocabulary::Cl100k);
        let newer = [
            "gpt-4o",
            "gpt-4o-mini-2024-07-18",
            "chatgpt-4o-latest",
            "gpt-4.1",
            "gpt-4.5-preview",
            "gpt-5-mini",
            "o1",
            "o3-mini",
            "o4-mini-high",
            "gpt-oss-120b",
            "ft:gpt-4o-mini-2024-07-18:us::a",
            "ft:gpt-4.1-nano-2025-04-14:us::a",
            "openai/gpt-4o",
            "claude-sonnet-4",
            "gpt-40",
            "gpt-3.5-sonata",
            "",
        ];
        check(&newer, Vocabulary::O200k);
    }

    #[test]
    fn the_first_model_for_conversations_frames_them_in_its_own_way() {
        let usual = Framing { message: 3, named_message: 4 };
        for model in ["gpt-3.5-turbo-0613", "gpt-3.5-turbo-03011", "gpt-4o", ""] {
            assert_eq!(Framing::of(model), usual, "{model}");
        }
        let first = Framing { message: 4, named_message: 3 };
        assert_eq!(
            (Framing::of("gpt-3.5-turbo-0301"), Framing::of("openai/gpt-35-turbo-0301")),
            (first, first)
        );
    }

    /// Counted by `tiktoken` 0.14.0.
    #[test]
    fn the_vocabularies_are_two() {
        for (text, o200k, cl100k) in
            [("", 0, 0), ("hello world", 2, 2), ("你好，世界", 3, 6), ("مرحبا بالعالم", 4, 10)]
        {
            let counted = Vocabulary::ALL.map(|vocabulary| vocabulary.count(text));
            assert_eq!(counted, [o200k, cl100k], "{text}");
        }
    }
}
