//! The exchange in a seeded world: a virtual clock, wires that fail in every way, clients and providers that behave in
//! every way, and what must hold all the same.
//!
//! A seed is a run. One that fails is printed; `RINGWAY_SIM_SEED=n` runs it again, alone, and `RINGWAY_SIM_FULL=1` runs many
//! more than an ordinary test run does.

mod answer;
mod asks;
mod before_commit;
mod bodies;
mod chance;
pub(super) mod check;
mod client;
mod conn;
mod executor;
mod faults;
mod kept;
mod peer;
pub(super) mod planted;
mod regressions;
mod script;
mod targets;
mod tended;
mod upstream;
mod wire;
mod world;

use std::{cell::RefCell, rc::Rc, time::Duration};

use self::{
    faults::Faults,
    planted::Bug,
    world::{Sim, SimWorld},
};

/// Seeds of a run, and of the search for each planted bug.
struct Seeds {
    name: &'static str,
    runs: u64,
    per_bug: u64,
}

const CI: Seeds = Seeds { name: "CI", runs: 200, per_bug: 200 };
const FULL: Seeds = Seeds { name: "full", runs: 2_000, per_bug: 200 };

/// Clients of one run.
const CLIENTS: usize = 24;
/// More than any client asks.
const IDS_PER_CLIENT: usize = 8;

/// What a run is configured with, by its seed.
const RELAYS: [&str; 6] = [
    "",
    "[relay]\non_disconnect = \"drain\"\n",
    "[relay]\nkeep_alive_secs = 1\n",
    "[usage]\nestimate = \"bpe\"\n",
    "[relay]\non_disconnect = \"drain_until_usage\"\nkeep_alive_secs = 0.1\n",
    "[relay]\non_disconnect = \"drain\"\nkeep_alive_secs = 3\n",
];

/// What came of one run.
struct Report {
    violations: Vec<String>,
    exchanges: usize,
}

fn run(seed: u64, faults: &Faults) -> Report {
    check::take_records();
    let sim = Sim::new(seed);
    let place = usize::try_from(seed).unwrap_or(0);
    let (relay, logs) = (RELAYS[place % RELAYS.len()], kept::LOGS[place % kept::LOGS.len()]);
    let world = SimWorld::under(&sim, &format!("{relay}{logs}"));
    let visits = Rc::new(RefCell::new(Vec::new()));
    for client in 0..CLIENTS {
        let visit = client::visit(world.clone(), client * IDS_PER_CLIENT, visits.clone());
        sim.executor.spawn(format!("client {client}"), visit);
    }
    if sim.chance().one_in(4) {
        let world = world.clone();
        let (begin, until_cut) = (sim.chance().of(0..30_000) as u64, sim.chance().of(0..20_000) as u64);
        sim.executor.spawn("drain", async move {
            world.sim.sleep(Duration::from_millis(begin)).await;
            world.drain(Duration::from_millis(until_cut)).await;
        });
    }
    let mut ended = sim.executor.run();
    let records = check::take_records();
    if ended.is_ok() {
        check::check_invariants(&world, &visits.borrow(), &records);
        kept::check(&world, &visits.borrow());
        // What still waits are providers with an idle connection: closing it must end them all.
        world.local.pool.borrow_mut().clear();
        ended = sim.executor.run();
        sim.check(world.quota.is_quiet(), || "a place in a limit was never left".to_owned());
        sim.check(world.health.is_quiet(), || "an attempt was begun and never ended".to_owned());
        let waiting = sim.executor.waiting();
        sim.check(waiting.is_empty(), || format!("these wait for ever: {waiting:?}"));
    }
    sim.over.set(true);
    if let Err(stuck) = ended {
        sim.violations.borrow_mut().push(stuck);
    }
    faults.add(&sim.faults);
    Report { violations: sim.violations.take(), exchanges: records.len() }
}

fn seeds() -> Seeds {
    let is_full = std::env::var_os("RINGWAY_SIM_FULL").is_some();
    if is_full { FULL } else { CI }
}

#[test]
fn whatever_goes_wrong_the_promises_hold() {
    let faults = Faults::default();
    if let Some(seed) = std::env::var("RINGWAY_SIM_SEED").ok().and_then(|seed| seed.parse().ok()) {
        let report = run(seed, &faults);
        assert!(report.violations.is_empty(), "seed {seed}:\n{}", report.violations.join("\n"));
        return;
    }
    let Seeds { name, runs, .. } = seeds();
    let (mut exchanges, mut failed) = (0, Vec::new());
    for seed in 0..runs {
        let report = run(seed, &faults);
        exchanges += report.exchanges;
        if !report.violations.is_empty() {
            println!("RINGWAY_SIM_SEED={seed}\n  {}", report.violations.join("\n  "));
            failed.push(seed);
        }
    }
    println!("{name}: {runs} seeds (CI {}, full {}), {exchanges} exchanges", CI.runs, FULL.runs);
    let counts: Vec<_> = faults.iter().collect();
    counts.iter().for_each(|(fault, count)| println!("  {fault:?}: {count}"));
    let never: Vec<_> = counts.iter().filter(|(_, count)| *count == 0).collect();
    assert!(failed.is_empty(), "{} seeds fail: {failed:?}", failed.len());
    assert!(never.is_empty(), "never injected: {never:?}");
}

#[test]
fn every_planted_bug_is_found() {
    let unfound: Vec<_> = Bug::ALL.into_iter().filter(|(bug, words)| !is_found(*bug, words)).collect();
    assert!(unfound.is_empty(), "not found: {unfound:?}");
}

/// Whether a seed finds `bug` for what it is.
fn is_found(bug: Bug, words: &str) -> bool {
    for seed in 0..seeds().per_bug {
        let report = planted::with(Some(bug), || run(seed, &Faults::default()));
        if let Some(said) = report.violations.iter().find(|violation| violation.contains(words)) {
            println!("{bug:?}: seed {seed}: {}", said.chars().take(160).collect::<String>());
            return true;
        }
    }
    false
}
