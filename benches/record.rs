//! What it costs a core to count one exchange, with everything that is counted of it, among few and many sets of labels.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use ringway::{
    base::{ids::ProviderId, money::NanoUsd, now::Now},
    ledger::{
        record::{Outcome, Record, Tokens},
        sheet::Sheet,
    },
    wire::token::TokenId,
};

const ENDED: Now = Now(812_345_678);

/// A stream that ended well, with all that can be known of it.
fn exchange(number: u16) -> Record {
    let mut record = Record::new("chat/completions", Now(0));
    record.status = 200;
    record.stream = true;
    record.attempts = 1;
    record.caller = Some(TokenId::draw(&[u8::try_from(number % 200).expect("a byte"); 10]));
    record.provider = Some(ProviderId(number % 7));
    record.model_used = (&*format!("gpt-4o-mini-2024-07-18-{number}")).into();
    record.phases.head_read = Some(Now(20_000));
    record.phases.body_read = Some(Now(50_000));
    record.phases.connected = Some(Now(90_000));
    record.phases.sent = Some(Now(120_000));
    record.phases.first_byte = Some(Now(230_000_000 + u64::from(number) * 1_000_000));
    record.phases.first_token = Some(Now(231_000_000 + u64::from(number) * 1_000_000));
    (0..60).for_each(|gap| record.gap(8_000 + gap * 97 + u64::from(number)));
    (record.bytes_in, record.bytes_out) = (900, 12_000);
    record.tokens = Tokens {
        prompt: Some(210 + u64::from(number)),
        completion: Some(61),
        cached: Some(128),
        ..Tokens::default()
    };
    record.cost = Some(NanoUsd(68_100));
    record
}

fn record(c: &mut Criterion) {
    let mut group = c.benchmark_group("record");
    for sets in [1_u16, 50, 500] {
        let records: Vec<_> = (0..sets).map(exchange).collect();
        let mut sheet = Sheet::default();
        let mut next = records.iter().cycle();
        group.bench_function(format!("count one exchange, {sets} sets of labels"), |b| {
            // A record is in the cache when it closes, and so is a batch of them: their making is not measured.
            b.iter_batched(
                || next.next().expect("a cycle").clone(),
                |record| record.close(black_box(ENDED), Outcome::Completed, &mut sheet),
                BatchSize::NumIterations(64),
            );
        });
    }
    let mut sheet = Sheet::default();
    let mut gap_us = 9_000;
    group.bench_function("count one gap", |b| {
        b.iter(|| {
            gap_us = (gap_us * 7) % 30_011;
            sheet.gap(black_box(gap_us));
        });
    });
    group.finish();
}

criterion_group!(benches, record);
criterion_main!(benches);
