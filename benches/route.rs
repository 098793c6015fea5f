//! From a model's name and metadata to a plan, on a route of 20 nodes that is walked to its last.

use std::{fmt::Write, hint::black_box};

use criterion::{Criterion, criterion_group, criterion_main};
use ringway::{
    base::now::Now,
    config::{self, Snapshot, Surroundings},
    policy::{
        condition::{Dice, Facts, Told, walk},
        health::{Health, Standing, TargetKey},
        plan::plan,
    },
    wire::metadata::Metadata,
};

struct Well;

impl Health for Well {
    fn verdict(&self, _: TargetKey, _: Now) -> Standing {
        Standing::Closed
    }

    fn in_flight(&self, _: TargetKey) -> u32 {
        0
    }

    fn first_token_us(&self, _: TargetKey) -> Option<u64> {
        None
    }
}

/// No environment and no files.
struct Nowhere;

impl Surroundings for Nowhere {
    fn env(&self, _: &str) -> Option<String> {
        None
    }

    fn read(&self, _: &std::path::Path) -> std::io::Result<Vec<u8>> {
        Err(std::io::ErrorKind::NotFound.into())
    }
}

const METADATA: &[u8] =
    br#"{"tenant":"acme-corporation","plan":"pro","seats":250,"beta":true,"region":"eu"}"#;

/// Ten conditions of which none is true, nine services beside them, and one behind the last.
fn snapshot() -> Snapshot {
    let mut text = String::from("[[route]]\nname = \"support\"\n");
    let mut place = String::new();
    for number in 0..10 {
        let when = match number % 5 {
            0 => format!("{{ field = \"metadata.plan\", op = \"==\", value = \"plan-{number}\" }}"),
            1 => format!("{{ field = \"metadata.seats\", op = \">\", value = {} }}", 9_000 - number),
            2 => format!(
                "{{ field = \"metadata.region\", op = \"in\", value = [\"us-{number}\", \"ap-{number}\"] }}"
            ),
            3 => format!("{{ field = \"model\", op = \"starts_with\", value = \"gpt-{number}\" }}"),
            _ => format!("{{ field = \"caller.tag\", op = \"==\", value = \"team-{number}\" }}"),
        };
        let prefix = if place.is_empty() { String::new() } else { format!("{place}.") };
        writeln!(text, "{prefix}if = {when}\n{prefix}then.model = \"p/m{number}\"").expect("a string");
        place = format!("{prefix}else");
    }
    // 21 nodes in all.
    writeln!(
        text,
        "{place}.targets = [{{ model = \"p/a\", weight = 3 }}, \"p/b\"]\n{place}.fallbacks = [\"q/c\"]\n\
         [aliases]\n\"gpt-*\" = \"p/gpt-*\"\n\
         [[provider]]\nname = \"p\"\nbase_url = \"http://127.0.0.1:1\"\n\
         [[provider]]\nname = \"q\"\nbase_url = \"http://127.0.0.1:2\"\n"
    )
    .expect("a string");
    config::compile(&text, "bench.toml", &Nowhere).expect("a good configuration").snapshot
}

fn route(criterion: &mut Criterion) {
    let snapshot = snapshot();
    let metadata = Metadata::parse(METADATA).expect("good metadata");
    let tags: [Box<str>; 2] = ["team:search".into(), "env:prod".into()];
    let facts = |model, metadata| Facts {
        model,
        stream: true,
        user: None,
        caller: None,
        tags: &tags,
        header: &|_| None,
        metadata,
    };
    let read = facts("dynamic/support", Told::Read(&metadata));
    let raw = facts("dynamic/support", Told::Raw(Some(METADATA)));
    let alias = facts("gpt-4o-mini", Told::Raw(None));
    let plain = facts("p/gpt-4o", Told::Raw(None));
    let plans = [("plan_21_nodes", read), ("plan_alias", alias), ("plan_plain", plain)];

    let made = plan(&snapshot, &read, 1, &Well, Now(0)).expect("a plan");
    assert_eq!((made.path.len(), made.targets.len()), (11, 3), "to the last node");

    let mut group = criterion.benchmark_group("route");
    let tree = snapshot.routes.route("support").expect("there");
    group.bench_function("walk_21_nodes", |bencher| {
        bencher.iter(|| walk(&snapshot.routes, tree, black_box(&read), &metadata, &mut Dice::new(1)));
    });
    for (name, facts) in plans {
        group.bench_function(name, |bencher| {
            bencher.iter(|| plan(&snapshot, black_box(&facts), black_box(7), &Well, Now(0)));
        });
    }
    group.bench_function("plan_21_nodes_and_parse_metadata", |bencher| {
        bencher.iter(|| plan(&snapshot, black_box(&raw), black_box(7), &Well, Now(0)));
    });
    group.finish();
}

criterion_group!(benches, route);
criterion_main!(benches);
