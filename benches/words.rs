//! What it costs the estimator to count one chat with each of OpenAI's vocabularies: its request is read as JSON and its
//! messages are counted. One element is one token; the bytes are in the name.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringway::{control::estimator::words::Counter, wire::openai::endpoint::Endpoint};

const ENGLISH: &str = "All human beings are born free and equal in dignity and rights. They are endowed with reason and \
                       conscience and should act towards one another in a spirit of brotherhood.\n";
const CHINESE: &str =
    "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。\n";
const CODE: &str = include_str!("../src/exchange/failover.rs");

/// A conversation of eight messages with so many bytes of text, near enough.
fn chat(text: &str, bytes: usize) -> String {
    let piece: String = text.chars().cycle().take(bytes * text.chars().count() / text.len() / 8).collect();
    let message = serde_json::json!({"role": "user", "content": piece});
    serde_json::json!({"model": "m", "messages": vec![message; 8]}).to_string()
}

fn words(c: &mut Criterion) {
    let mut group = c.benchmark_group("words");
    for (model, vocabulary) in [("gpt-4o", "o200k_base"), ("gpt-4", "cl100k_base")] {
        let counter = Counter::of(model);
        assert_eq!(counter.vocabulary().name(), vocabulary);
        for (kind, text) in [("English", ENGLISH), ("Chinese", CHINESE), ("Rust", CODE)] {
            let body = chat(text, 16 << 10);
            let count = || counter.asked(Endpoint::ChatCompletions, black_box(body.as_bytes()));
            group.throughput(Throughput::Elements(count().expect("a chat")));
            group.bench_function(format!("{vocabulary}, {kind}, {} bytes", body.len()), |b| b.iter(count));
        }
    }
    group.finish();
}

criterion_group!(benches, words);
criterion_main!(benches);
