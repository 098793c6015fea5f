//! Which cores the shards have, and where everything else runs: beside them, if any core is left.
//!
//! A shard takes in, in one turn, whatever has come since the last. A log or statistics thread on its core holds all of that
//! up for a time slice, and leaves it a cold cache.

use crate::config::Cores;

/// The CPUs to pin shards to. What the process may run on bounds it: cgroup cpusets and taskset are honoured.
pub(super) fn cpus(cores: &Cores) -> Result<Vec<Option<core_affinity::CoreId>>, String> {
    let allowed = core_affinity::get_core_ids().unwrap_or_default();
    let chosen = match cores {
        Cores::Auto if allowed.is_empty() => return Ok(vec![None]),
        Cores::Auto => allowed,
        Cores::Count(count) => {
            if *count > allowed.len() {
                return Err(format!(
                    "server.cores = {count}, but this process may run on {} core(s) only",
                    allowed.len()
                ));
            }
            allowed.into_iter().take(*count).collect()
        }
        Cores::List(list) => {
            let wanted = list.iter().map(|id| {
                let found = allowed.iter().find(|core| core.id == *id).copied();
                found
                    .ok_or_else(|| format!("server.cores names core {id}, on which this process may not run"))
            });
            wanted.collect::<Result<_, _>>()?
        }
    };
    Ok(chosen.into_iter().map(Some).collect())
}

/// Keeps this thread, and those that it starts, off the shards' cores, which shards then go to by themselves. Where no other
/// core may be used, nothing changes.
pub(super) fn keep_off(shards: &[Option<core_affinity::CoreId>]) {
    let is_free = |core: &core_affinity::CoreId| !shards.contains(&Some(*core));
    let free: Vec<_> =
        core_affinity::get_core_ids().unwrap_or_default().into_iter().filter(is_free).collect();
    if free.is_empty() || shards.contains(&None) {
        return;
    }
    // SAFETY: a set of no cores is all zeros.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for core in free {
        // SAFETY: a live set, and a number that the kernel gave within one of the same size.
        unsafe { libc::CPU_SET(core.id, &mut set) };
    }
    // SAFETY: a pointer to a live set of the size that is said; a refusal changes nothing.
    unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) };
}
