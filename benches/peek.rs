//! What one pass over a request body costs: `peek` whole, and the strict scan alone.
//!
//! `model` comes last, so nothing is saved by finding it early.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ringway::wire::{
    json::{peek, scan},
    multipart::peek_multipart,
};

const MIB: usize = 1 << 20;

/// A chat request of about `bytes`, whose one long message repeats `text` (already escaped).
fn body(bytes: usize, text: &str) -> String {
    const HEAD: &str = r#"{"stream":true,"temperature":0.7,"max_tokens":256,"messages":[{"role":"system","content":"You are helpful."},{"role":"user","content":""#;
    const TAIL: &str = r#""}],"model":"openai/gpt-4o-mini"}"#;
    let text = text.repeat((bytes - HEAD.len() - TAIL.len()) / text.len());
    [HEAD, &text, TAIL].concat()
}

fn bodies(c: &mut Criterion) {
    const PROSE: &str = "The quick brown fox jumps over the lazy dog, and the dog does not mind. ";
    const ESCAPES: &str = r#"{\"path\": \"C:\\\\dir\",\n\t\"caf\u00e9\": [1, 2]}\n"#;
    const HAN: &str = "敏捷的棕色狐狸跳过了懒狗，而那只狗并不在意。";
    let mut group = c.benchmark_group("peek");
    for (name, bytes, text) in [
        ("300 B", 300, "Hi! "),
        ("10 KB prose", 10_000, PROSE),
        ("100 KB prose", 100_000, PROSE),
        ("8 MiB prose", 8 * MIB, PROSE),
        ("8 MiB Chinese", 8 * MIB, HAN),
        ("8 MiB escapes", 8 * MIB, ESCAPES),
        ("32 MiB prose", 32 * MIB, PROSE),
    ] {
        let body = body(bytes, text);
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_with_input(BenchmarkId::new("whole", name), body.as_bytes(), |b, body| {
            b.iter(|| peek(black_box(body)).expect("a good body").model.len())
        });
        group.bench_with_input(BenchmarkId::new("scan", name), body.as_bytes(), |b, body| {
            b.iter(|| scan::document(black_box(body)).expect("a good body").len())
        });
    }
    let tokens = format!(r#"{{"input":[{}0],"model":"text-embedding-3-small"}}"#, "12345,".repeat(MIB / 6));
    group.throughput(Throughput::Bytes(tokens.len() as u64));
    group.bench_with_input(BenchmarkId::new("whole", "1 MiB numbers"), tokens.as_bytes(), |b, body| {
        b.iter(|| peek(black_box(body)).expect("a good body").model.len())
    });

    // A sound file: random bytes, so that the boundary's dashes occur by chance.
    let mut seed = 0x5EED_u64;
    let sound = std::iter::repeat_with(|| {
        seed = seed.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1);
        seed.to_be_bytes()[0]
    });
    let mut form =
        b"--XXXX-boundary\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\r\n"
            .to_vec();
    form.extend(sound.take(30 * MIB));
    form.extend_from_slice(b"\r\n--XXXX-boundary\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nwhisper-1\r\n--XXXX-boundary--\r\n");
    group.throughput(Throughput::Bytes(form.len() as u64));
    group.bench_with_input(BenchmarkId::new("multipart", "30 MiB sound"), &form[..], |b, form| {
        b.iter(|| peek_multipart(black_box(form), b"XXXX-boundary").expect("a good form").model.len())
    });
    group.finish();
}

criterion_group!(benches, bodies);
criterion_main!(benches);
