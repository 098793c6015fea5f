//! What it costs the log thread to make a line of an exchange, masking included.

use std::{hint::black_box, net::Ipv4Addr};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringway::{
    base::{
        ids::{ProviderId, ProviderRoll},
        money::NanoUsd,
        now::Now,
    },
    config::LogFormat,
    control::{
        access_log::{Told, Words, line},
        otlp::add_record,
    },
    ledger::{
        logged::{Keep, Logged},
        record::{Outcome, Record, Tokens},
        sheet::Sheet,
    },
    wire::{
        http1::head::Method,
        mask::{Rules, masked},
        request_id::RequestId,
    },
};

/// A small request that went well.
fn exchange() -> Logged {
    let mut record = Record::new("chat", Now(0));
    (record.status, record.attempts) = (200, 1);
    record.provider = Some(ProviderId(0));
    record.model_asked = "openai/gpt-4o-mini-2024-07-18".into();
    record.model_used = "gpt-4o-mini-2024-07-18".into();
    record.phases.first_token = Some(Now(231_000_000));
    (record.bytes_in, record.bytes_out) = (900, 12_000);
    record.tokens = Tokens { prompt: Some(210), completion: Some(61), ..Tokens::default() };
    record.cost = Some(NanoUsd(68_100));
    Logged {
        gist: record.close(Now(812_345_678), Outcome::Completed, &mut Sheet::default()).gist(),
        whole: None,
        ended_unix_ms: 1_795_357_672_123,
        request_id: RequestId::fresh(1_795_357_672_123, [1, 2]),
        caller: None,
        address: Ipv4Addr::LOCALHOST.into(),
        method: Some(Method::Post),
        http10: false,
        route: None,
        keep: Keep::No,
        payload: None,
    }
}

fn log_line(c: &mut Criterion) {
    let (logged, mut roll) = (exchange(), ProviderRoll::default());
    roll.enrol("openai");
    let rules = Rules { email: true, phone: true, card: true, ..Rules::default() };
    let words = Words::new(0, &roll, &rules);
    let mut group = c.benchmark_group("log_line");
    group.throughput(Throughput::Elements(1));
    let mut text = Vec::new();
    for (name, format) in
        [("json", LogFormat::Json), ("logfmt", LogFormat::Logfmt), ("combined", LogFormat::Combined)]
    {
        group.bench_function(name, |b| {
            b.iter(|| {
                text.clear();
                line(format, &Told::of(black_box(&logged), &words), &mut text);
                text.len()
            });
        });
    }
    group.bench_function("otlp", |b| {
        b.iter(|| {
            text.clear();
            add_record(&Told::of(black_box(&logged), &words), &mut text);
            text.len()
        });
    });
    group.bench_function("json and otlp", |b| {
        b.iter(|| {
            text.clear();
            let told = Told::of(black_box(&logged), &words);
            line(LogFormat::Json, &told, &mut text);
            add_record(&told, &mut text);
            text.len()
        });
    });
    group.bench_function("mask a model's name", |b| {
        b.iter(|| masked(&rules, black_box("openai/gpt-4o-mini-2024-07-18")).len());
    });
    group.finish();
}

criterion_group!(benches, log_line);
criterion_main!(benches);
