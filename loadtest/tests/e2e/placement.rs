//! Where the threads run: a shard on its own core, and everything else beside it, where there is a core beside it.

use std::{collections::BTreeSet, fs};

use crate::support::{Gateway, Provider, Setup};

/// The cores that a thread may run on, of what the kernel says of it.
fn allowed(status: &str) -> BTreeSet<usize> {
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).expect("it is told");
    let number = |text: &str| text.trim().parse::<usize>().expect(list);
    let range = |part: &str| match part.split_once('-') {
        Some((first, last)) => number(first)..number(last) + 1,
        None => number(part)..number(part) + 1,
    };
    list.split(',').flat_map(range).collect()
}

#[test]
fn only_a_shard_runs_on_its_core_where_another_is_left() {
    let ours = allowed(&fs::read_to_string("/proc/self/status").expect("it runs"));
    let provider = Provider::start();
    let gateway = Gateway::with(&provider, &Setup::default());
    let (mut shards, mut others) = (BTreeSet::new(), Vec::new());
    for task in fs::read_dir(format!("/proc/{}/task", gateway.program.id())).expect("it runs") {
        let task = task.expect("a thread").path();
        let said = |of| fs::read_to_string(task.join(of));
        // A thread that has ended meanwhile says nothing.
        let (Ok(name), Ok(status)) = (said("comm"), said("status")) else { continue };
        let cores = allowed(&status);
        if name.starts_with("shard-") { shards.extend(cores) } else { others.push((name, cores)) }
    }
    assert_eq!(shards.len(), 1, "one shard, pinned");
    assert!(others.len() >= 3, "{others:?}");
    let beside: BTreeSet<_> = ours.difference(&shards).copied().collect();
    println!("{} core(s) beside the shard's", beside.len());
    let expect = if beside.is_empty() { ours } else { beside };
    for (name, cores) in others {
        assert_eq!(cores, expect, "{name}");
    }
}
