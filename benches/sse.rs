//! What a streamed event costs us: finding its end, and watching what it says. Events are OpenAI's, about 200 bytes.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringway::wire::{
    openai::{
        endpoint::Endpoint,
        stream::{Observer, Watch},
    },
    sse::{Scanner, data_of},
};

/// As OpenAI sends it when usage was asked for: both members that we look for are there, and null.
const CHAT: &str = "data: {\"id\":\"chatcmpl-B9MHDbslfkBeAs8l4bebGdFOJ6PeG\",\"object\":\"chat.completion.chunk\",\
                    \"created\":1741570283,\"model\":\"gpt-4o\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" token\"},\
                    \"finish_reason\":null}],\"usage\":null}\n\n";
const RESPONSE: &str = "event: response.output_text.delta\n\
                        data: {\"type\":\"response.output_text.delta\",\"sequence_number\":12,\"item_id\":\
                        \"msg_67c9fdcf37fc8190ba82116e33fb28c5\",\"output_index\":0,\"content_index\":0,\"delta\":\" token\"}\n\n";
const FINISH: &str = "data: {\"id\":\"chatcmpl-B9MHDbslfkBeAs8l4bebGdFOJ6PeG\",\"object\":\"chat.completion.chunk\",\
                      \"created\":1741570283,\"model\":\"gpt-4o\",\"choices\":[{\"index\":0,\"delta\":{},\
                      \"finish_reason\":\"stop\"}],\"usage\":null}\n\n";

/// Events in one pass, as they lie in a buffer after a read.
const EVENTS: usize = 64;

fn sse(c: &mut Criterion) {
    let mut group = c.benchmark_group("sse, 64 events");
    for (name, event, endpoint) in [
        ("chat", CHAT, Endpoint::ChatCompletions),
        ("response", RESPONSE, Endpoint::Responses),
        ("chat, every event finishes", FINISH, Endpoint::ChatCompletions),
    ] {
        let stream = event.repeat(EVENTS).into_bytes();
        group.throughput(Throughput::Elements(EVENTS as u64));
        group.bench_function(format!("{name}: scan"), |b| {
            b.iter(|| {
                let mut scanner = Scanner::default();
                let mut at = 0;
                while let Some(end) = scanner.next(black_box(&stream), at) {
                    at = end;
                }
                at
            });
        });
        group.bench_function(format!("{name}: scan, data"), |b| {
            b.iter(|| {
                let mut scanner = Scanner::default();
                let mut at = 0;
                while let Some(end) = scanner.next(black_box(&stream), at) {
                    black_box(data_of(&stream[at..end]));
                    at = end;
                }
                at
            });
        });
        group.bench_function(format!("{name}: scan, observe"), |b| {
            let mut observer = Observer::new(Watch { endpoint, choices: 1, strip_usage: true });
            observer.event(CHAT.as_bytes());
            observer.event(RESPONSE.as_bytes());
            b.iter(|| {
                let mut scanner = Scanner::default();
                let mut at = 0;
                while let Some(end) = scanner.next(black_box(&stream), at) {
                    black_box(observer.event(&stream[at..end]));
                    at = end;
                }
                at
            });
        });
    }
    group.finish();
}

criterion_group!(benches, sse);
criterion_main!(benches);
