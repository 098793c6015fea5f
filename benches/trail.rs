//! What taking part in a trace costs a core: reading the client's parent, keeping the trail, telling the provider.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use ringway::{
    base::{ids::ProviderId, now::Now},
    ledger::{record::ModelName, trail::Trail},
    wire::trace_context::{Share, TraceParent},
};

const PARENT: &[u8] = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn trail(bench: &mut Criterion) {
    bench.bench_function("trail/parse", |b| b.iter(|| TraceParent::parse(black_box(PARENT))));
    let client = TraceParent::parse(PARENT);
    for (name, client, share) in
        [("sampled", client, Share::ALL), ("not sampled", None, Share::of_million(0))]
    {
        exchange(bench, name, client, share);
    }
}

fn exchange(bench: &mut Criterion, name: &str, client: Option<TraceParent>, share: Share) {
    bench.bench_function(&format!("trail/exchange of one attempt, {name}"), |b| {
        let (mut chance, model) = (1u64, ModelName::from("gpt-4o-mini"));
        let mut next = || {
            chance = chance.wrapping_mul(0x2545_F491_4F6C_DD1D) + 1;
            chance
        };
        b.iter(|| {
            let mut trail = Box::new(Trail::join(black_box(client), true, share, &mut next));
            trail.begin(ProviderId(0), &model, Now(1), &mut next);
            black_box(trail.onward());
            trail
        });
    });
}

criterion_group!(benches, trail);
criterion_main!(benches);
