//! What an operator may ask the process about itself: is it ready, and what are its figures now.

use std::sync::{Arc, Mutex};

use crate::{
    base::ids::ProviderRoll,
    bridge::{
        bulletin::{Board, Bulletin},
        drain::{Drain, Stage},
        health::HealthBoard,
        logpipe::LogPipe,
        quota::QuotaBoard,
        tally::Tally,
        vitals::Vitals,
    },
    config::callers::Callers,
    control::{
        Clock,
        checks::Found,
        lock, log_store,
        otlp::{Signal, Tallies},
    },
    ledger::exposition::{Facts, HealthFacts},
};

/// The process as its operator sees it.
pub struct Standing {
    pub clock: Clock,
    /// Where snapshots are published.
    pub snapshots: Arc<dyn Board>,
    /// Who may call, for their names.
    pub callers: Arc<Bulletin<Option<Callers>>>,
    pub vitals: Arc<[Vitals]>,
    pub drain: Arc<Drain>,
    pub quota: Arc<QuotaBoard>,
    pub health: Arc<HealthBoard>,
    /// By health checks.
    pub found: Arc<Found>,
    pub reloads: Arc<Reloads>,
    /// One for each core; empty if nothing is logged.
    pub log_pipes: Arc<[LogPipe]>,
    /// Of the access log's lines, and of the exchanges that are kept.
    pub lines: Arc<Tally>,
    pub kept: log_store::Tallies,
    /// Of what is sent to a collector, where there is one.
    pub otlp: Option<Arc<Tallies>>,
}

/// What came of loading the configuration; written by whoever loads it.
#[derive(Debug, Default)]
pub struct Reloads(Mutex<Loaded>);

#[derive(Clone, Debug, Default)]
struct Loaded {
    success: bool,
    roll: ProviderRoll,
    /// Why callers cannot be verified now.
    callers_trouble: Option<String>,
}

impl Reloads {
    /// A configuration was accepted and published; `roll` names all providers so far.
    pub fn accepted(&self, roll: ProviderRoll) {
        let mut loaded = lock(&self.0);
        (loaded.success, loaded.roll) = (true, roll);
    }

    /// The names of all providers so far.
    pub fn roll(&self) -> ProviderRoll {
        lock(&self.0).roll.clone()
    }

    /// Callers can be verified, or why they cannot.
    pub fn callers_are_known(&self, trouble: Option<String>) {
        lock(&self.0).callers_trouble = trouble;
    }

    /// A configuration was refused; the old one stays.
    pub fn refused(&self) {
        lock(&self.0).success = false;
    }
}

impl Standing {
    /// Why no client should be sent here; empty when ready.
    pub fn reasons_against(&self) -> Vec<String> {
        let now = (self.clock)();
        let mut reasons = Vec::new();
        if self.snapshots.generation() == 0 {
            reasons.push("no configuration has been published".to_owned());
        }
        if self.drain.stage() != Stage::Serving {
            reasons.push("draining".to_owned());
        }
        if let Some(trouble) = &lock(&self.reloads.0).callers_trouble {
            reasons.push(format!("callers cannot be verified: {trouble}"));
        }
        for vitals in self.vitals.iter().filter(|vitals| !vitals.is_alive(now)) {
            let core = vitals.core();
            reasons.push(match vitals.beat_age_us(now) {
                None => format!("the shard of core {core} has not started"),
                Some(age_us) => format!("the shard of core {core} has not ticked for {} ms", age_us / 1_000),
            });
        }
        reasons
    }

    pub fn facts(&self) -> Facts {
        let now = (self.clock)();
        let generation = self.snapshots.generation();
        let crowding = self.health.crowding();
        let Loaded { success, roll, .. } = lock(&self.reloads.0).clone();
        let callers = self.callers.current();
        let callers = callers.iter().filter_map(|callers| callers.as_ref().as_ref());
        Facts {
            version: env!("CARGO_PKG_VERSION"),
            roll,
            callers: callers
                .flat_map(|callers| callers.iter().map(|caller| (caller.id, caller.name.clone())))
                .collect(),
            config_generation: generation,
            config_cores: self.snapshots.taken_up(generation) as u64,
            reload_success: success,
            log_lines_written: self.lines.written(),
            log_lines_dropped: self.log_pipes.iter().map(|pipe| pipe.tally.dropped()).sum::<u64>()
                + self.lines.dropped(),
            log_kept: self.kept.rows.written(),
            log_kept_dropped: self.kept.rows.dropped(),
            log_payloads: self.kept.payloads.written(),
            log_payloads_dropped: self.log_pipes.iter().map(|pipe| pipe.payloads.dropped()).sum::<u64>()
                + self.kept.payloads.dropped(),
            quota_overflows: self.quota.overflows(),
            draining: self.drain.stage() != Stage::Serving,
            otlp: self.otlp.iter().flat_map(|tallies| sent(tallies)).collect(),
            shards: self.vitals.iter().map(|vitals| vitals.facts(now)).collect(),
            health: HealthFacts {
                open: self.health.open_breakers(),
                seatless: crowding.seatless,
                forgotten: crowding.forgotten,
                forgotten_open: crowding.forgotten_open,
            },
            checks: self.found.facts(),
        }
    }
}

/// Each signal with what was taken of it and what was not.
fn sent(tallies: &Tallies) -> impl Iterator<Item = (&'static str, u64, u64)> {
    let each = Signal::ALL.into_iter().zip(tallies);
    each.map(|(signal, tally)| (signal.name(), tally.written(), tally.dropped()))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::base::now::Now;

    /// A process of two cores whose clock stands at ten seconds; nothing is published and nothing has started.
    pub(in crate::control) fn standing() -> (Standing, Arc<Bulletin<()>>) {
        let snapshots = Arc::new(Bulletin::new(2));
        let standing = Standing {
            clock: Arc::new(|| Now(10_000_000_000)),
            snapshots: Arc::clone(&snapshots) as Arc<dyn Board>,
            callers: Arc::new(Bulletin::new(2)),
            vitals: [4, 6].into_iter().map(Vitals::new).collect(),
            drain: Arc::default(),
            quota: Arc::new(QuotaBoard::with_room(1, 1)),
            health: Arc::default(),
            found: Arc::default(),
            reloads: Arc::default(),
            log_pipes: [LogPipe::default(), LogPipe::default()].into(),
            lines: Arc::default(),
            kept: log_store::Tallies::default(),
            otlp: None,
        };
        (standing, snapshots)
    }

    #[test]
    fn each_thing_that_is_missing_is_named() {
        let (standing, snapshots) = standing();
        assert_eq!(
            standing.reasons_against(),
            [
                "no configuration has been published",
                "the shard of core 4 has not started",
                "the shard of core 6 has not started"
            ]
        );
        snapshots.publish(Arc::new(()));
        standing.vitals[0].beat(Now(9_990_000_000));
        standing.vitals[1].beat(Now(4_900_000_000));
        assert_eq!(standing.reasons_against(), ["the shard of core 6 has not ticked for 5100 ms"]);
        standing.vitals[1].beat(Now(9_000_000_000));
        assert!(standing.reasons_against().is_empty());
        standing.drain.advance(Stage::Draining);
        assert_eq!(standing.reasons_against(), ["draining"]);
    }

    #[test]
    fn a_refused_reload_shows_and_keeps_the_names() {
        let (standing, snapshots) = standing();
        let mut roll = ProviderRoll::default();
        roll.enrol("openai");
        standing.reloads.accepted(roll.clone());
        snapshots.publish(Arc::new(()));
        snapshots.reader(1).newest();
        standing.reloads.refused();
        let facts = standing.facts();
        assert_eq!((facts.reload_success, facts.roll), (false, roll));
        assert_eq!((facts.config_generation, facts.config_cores), (1, 1));
    }
}
