//! Decoding of chunked bodies: one SSE event a chunk, as providers send them, and large chunks.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringway::wire::http1::{Chunked, LAST_CHUNK, Step, chunk_head, render::CHUNK_END};

fn body(chunks: usize, bytes: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for _ in 0..chunks {
        chunk_head(&mut out, bytes);
        out.extend(std::iter::repeat_n(b'x', bytes));
        out.extend_from_slice(CHUNK_END);
    }
    out.extend_from_slice(LAST_CHUNK);
    out
}

fn payload_bytes(body: &[u8]) -> usize {
    let (mut chunked, mut at, mut total) = (Chunked::new(), 0, 0);
    loop {
        match chunked.next(body, at) {
            Ok((Step::Payload(range), next)) => (total, at) = (total + range.len(), next),
            Ok((Step::More | Step::End, _)) => return total,
            Err(bad) => panic!("{bad}"),
        }
    }
}

fn chunked(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("chunked");
    for (name, chunks, bytes) in [("64_events_of_240_bytes", 64, 240), ("one_chunk_of_16_kib", 1, 16 << 10)] {
        let body = body(chunks, bytes);
        group.throughput(Throughput::Elements(chunks as u64));
        group.bench_function(name, |bencher| bencher.iter(|| payload_bytes(black_box(&body))));
    }
    group.finish();
}

criterion_group!(benches, chunked);
criterion_main!(benches);
