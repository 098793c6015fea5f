//! Parsing and writing of heads, on what the OpenAI SDK for Python sends and what a provider answers.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringway::wire::http1::{
    HeadLimits, HeaderSafe, Method, Opening, TargetSafe, parse_request, parse_response, status_line,
};

const REQUEST: &[u8] = b"POST /v1/chat/completions HTTP/1.1\r\n\
    Host: localhost:8080\r\n\
    Accept-Encoding: gzip, deflate\r\n\
    Connection: keep-alive\r\n\
    Accept: application/json\r\n\
    Content-Type: application/json\r\n\
    User-Agent: OpenAI/Python 1.109.1\r\n\
    X-Stainless-Lang: python\r\n\
    X-Stainless-Package-Version: 1.109.1\r\n\
    X-Stainless-OS: Linux\r\n\
    X-Stainless-Arch: x64\r\n\
    X-Stainless-Runtime: CPython\r\n\
    X-Stainless-Runtime-Version: 3.13.5\r\n\
    Authorization: Bearer sk-proj-0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMN\r\n\
    X-Stainless-Async: false\r\n\
    x-stainless-retry-count: 0\r\n\
    x-stainless-read-timeout: 600\r\n\
    Content-Length: 187\r\n\r\n";

const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\n\
    Date: Mon, 01 Jan 2024 00:00:00 GMT\r\n\
    Content-Type: text/event-stream; charset=utf-8\r\n\
    Transfer-Encoding: chunked\r\n\
    Connection: keep-alive\r\n\
    openai-organization: org-0123456789\r\n\
    openai-processing-ms: 187\r\n\
    openai-version: 2020-10-01\r\n\
    x-ratelimit-limit-requests: 10000\r\n\
    x-ratelimit-remaining-requests: 9999\r\n\
    x-ratelimit-reset-requests: 6ms\r\n\
    x-request-id: req_0123456789abcdef0123456789abcdef\r\n\r\n";

fn head(criterion: &mut Criterion) {
    let limits = HeadLimits::default();
    let mut group = criterion.benchmark_group("head");
    group.throughput(Throughput::Bytes(REQUEST.len() as u64));
    group.bench_function("parse_request_17_fields", |bencher| {
        bencher.iter(|| parse_request(black_box(REQUEST), limits));
    });
    group.throughput(Throughput::Bytes(RESPONSE.len() as u64));
    group.bench_function("parse_response_11_fields", |bencher| {
        bencher.iter(|| parse_response(black_box(RESPONSE), Method::Post, limits));
    });

    let mut out = Vec::with_capacity(4096);
    group.throughput(Throughput::Elements(1));
    group.bench_function("render_response_7_fields", |bencher| {
        bencher.iter(|| {
            out.clear();
            let safe = |value| HeaderSafe::new(black_box(value)).expect("safe");
            let mut head = status_line(&mut out, black_box(200));
            head.field("content-type", safe(b"text/event-stream; charset=utf-8"))
                .field("x-request-id", safe(b"req_0123456789abcdef0123456789abcdef"))
                .field("openai-processing-ms", safe(b"187"))
                .field("openai-version", safe(b"2020-10-01"))
                .field("x-ratelimit-remaining-requests", safe(b"9999"))
                .field("cache-control", const { HeaderSafe::fixed("no-cache") });
            head.chunked().end();
            black_box(out.len())
        });
    });
    let host = const { HeaderSafe::fixed("api.openai.com") };
    let opening = Opening::new("POST", const { TargetSafe::fixed("/v1") }, host);
    group.bench_function("render_request_7_fields", |bencher| {
        bencher.iter(|| {
            out.clear();
            let safe = |value| HeaderSafe::new(black_box(value)).expect("safe");
            let mut head =
                black_box(&opening).begin(&mut out, const { TargetSafe::fixed("/chat/completions") });
            head.field("authorization", safe(b"Bearer sk-proj-0123456789abcdefghijklmnopqrstuvwxyz"))
                .field("content-type", safe(b"application/json"))
                .field("accept", safe(b"application/json"))
                .field("user-agent", safe(b"OpenAI/Python 1.109.1"))
                .field("accept-encoding", const { HeaderSafe::fixed("identity") });
            head.length(black_box(187)).end();
            black_box(out.len())
        });
    });
    group.finish();
}

criterion_group!(benches, head);
criterion_main!(benches);
