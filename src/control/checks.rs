//! Active health checks: asks each provider that wants it, from time to time, whether it is there, and tells the health board.
//!
//! A thread for each, so that none waits for another. What it found is worth something only for a while: a verdict that is not
//! renewed ends by itself, because a provider must not stay down for want of somebody who looks.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        mpsc::{self, RecvTimeoutError, TryRecvError},
    },
    thread,
    time::Duration,
};

use crate::{
    base::ids::ProviderId,
    bridge::health::{Down, HealthBoard},
    config::health_check::HealthCheck,
    control::{Clock, fetch::HttpFetch, lock, log::Log, models::ListAddress},
    ledger::exposition::CheckFacts,
};

/// One provider to be checked.
pub struct Checked {
    pub provider: ProviderId,
    pub name: Box<str>,
    /// Where and how it is asked.
    pub address: ListAddress,
    pub rules: HealthCheck,
}

/// Asks once.
pub trait Probe: Send + Sync + 'static {
    /// The status of the answer.
    ///
    /// # Errors
    /// There was none in time.
    fn probe(&self, address: &ListAddress, time: Duration) -> Result<u16, String>;
}

impl Probe for HttpFetch {
    fn probe(&self, address: &ListAddress, time: Duration) -> Result<u16, String> {
        self.status(address, time)
    }
}

/// What all checks so far have found, for `/metrics`.
#[derive(Debug, Default)]
pub struct Found(Mutex<BTreeMap<Box<str>, CheckFacts>>);

impl Found {
    /// Each provider that is checked now.
    pub fn facts(&self) -> Vec<CheckFacts> {
        lock(&self.0).values().cloned().collect()
    }
}

/// The checks of the configuration in force. Dropping it ends them.
pub struct Checks {
    desk: Arc<Desk>,
    /// One for each thread, which ends when this is gone.
    running: Vec<mpsc::Sender<()>>,
    checked: Vec<ProviderId>,
}

struct Desk {
    probe: Arc<dyn Probe>,
    board: Arc<HealthBoard>,
    found: Arc<Found>,
    clock: Clock,
    log: Log,
    /// Held by who tells the board something, and by who makes others stop.
    telling: Mutex<()>,
}

impl Checks {
    pub fn new(
        probe: Arc<dyn Probe>,
        board: Arc<HealthBoard>,
        found: Arc<Found>,
        clock: Clock,
        log: Log,
    ) -> Self {
        let desk = Arc::new(Desk { probe, board, found, clock, log, telling: Mutex::new(()) });
        Self { desk, running: Vec::new(), checked: Vec::new() }
    }

    /// Checks these from now on, and nobody else. Who was down stays so until a check says otherwise, or nobody looks any more;
    /// who is not checked any more is up.
    pub fn reload(&mut self, all: Vec<Checked>) {
        {
            let _telling = lock(&self.desk.telling);
            self.running.clear();
            lock(&self.desk.found.0).retain(|name, _| all.iter().any(|checked| checked.name == *name));
            for gone in self.checked.drain(..) {
                if !all.iter().any(|checked| checked.provider == gone) {
                    self.desk.board.set_down(gone, None);
                }
            }
        }
        for checked in all {
            self.checked.push(checked.provider);
            let (name, (stop, stopped)) = (checked.name.clone(), mpsc::channel());
            let desk = Arc::clone(&self.desk);
            let thread = thread::Builder::new().name("rw-check".to_owned());
            match thread.spawn(move || desk.check(&checked, &stopped)) {
                Ok(_) => self.running.push(stop),
                Err(error) => self.desk.log.error(format_args!("{name} is not checked: {error}")),
            }
        }
    }
}

impl Desk {
    fn check(&self, checked: &Checked, stopped: &mpsc::Receiver<()>) {
        let HealthCheck { interval, timeout, status, .. } = checked.rules;
        let mut verdict = Verdict { is_down: self.board.is_down(checked.provider), streak: 0 };
        loop {
            let answer = self.probe.probe(&checked.address, timeout).and_then(|told| match told == status {
                true => Ok(()),
                false => Err(format!("status {told}")),
            });
            {
                let _telling = lock(&self.telling);
                if stopped.try_recv() == Err(TryRecvError::Disconnected) {
                    return;
                }
                self.tell(checked, &mut verdict, answer);
            }
            if stopped.recv_timeout(interval) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    }

    fn tell(&self, checked: &Checked, verdict: &mut Verdict, answer: Result<(), String>) {
        let Checked { provider, name, rules, .. } = checked;
        let has_passed = answer.is_ok();
        let has_changed = verdict.turn(has_passed, rules);
        let now = (self.clock)();
        self.board.set_down(
            *provider,
            verdict.is_down.then(|| Down {
                back_at: now + rules.interval * verdict.left(rules),
                stale_at: now + (rules.interval + rules.timeout) * STALE_AFTER,
            }),
        );
        let mut found = lock(&self.found.0);
        let facts = found.entry(name.clone()).or_insert_with(|| CheckFacts::of(name));
        facts.up = !verdict.is_down;
        facts.passed += u64::from(has_passed);
        facts.failed += u64::from(!has_passed);
        if has_changed {
            match answer {
                Ok(()) => self.log.info(format_args!("{name} is healthy again")),
                Err(why) => self.log.warning(format_args!("{name} is down by its health check: {why}")),
            }
        }
    }
}

/// A verdict that has not been renewed for as long as so many checks take is none.
const STALE_AFTER: u32 = 3;

/// What the checks of one provider have found so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Verdict {
    is_down: bool,
    /// Checks in a row that contradict it.
    streak: u8,
}

impl Verdict {
    /// Takes one more check into account. Whether the verdict is another now.
    fn turn(&mut self, has_passed: bool, rules: &HealthCheck) -> bool {
        if has_passed != self.is_down {
            self.streak = 0;
            return false;
        }
        self.streak = self.streak.saturating_add(1);
        let enough = if self.is_down { rules.healthy_after } else { rules.unhealthy_after };
        if self.streak < enough {
            return false;
        }
        *self = Self { is_down: !self.is_down, streak: 0 };
        true
    }

    /// Checks that have to pass before it is up.
    fn left(self, rules: &HealthCheck) -> u32 {
        u32::from(rules.healthy_after.saturating_sub(self.streak)).max(1)
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::{base::now::Now, policy::health::Health as _};

    fn rules(unhealthy_after: u8, healthy_after: u8) -> HealthCheck {
        HealthCheck {
            path: "/health".into(),
            interval: Duration::from_millis(1),
            timeout: Duration::from_secs(1),
            unhealthy_after,
            healthy_after,
            status: 200,
        }
    }

    #[track_caller]
    fn check(unhealthy_after: u8, healthy_after: u8, checks: &str, expect: &str) {
        let mut verdict = Verdict { is_down: false, streak: 0 };
        let rules = rules(unhealthy_after, healthy_after);
        let found = checks.chars().map(|passed| {
            verdict.turn(passed == '+', &rules);
            if verdict.is_down { 'd' } else { 'u' }
        });
        assert_eq!(found.collect::<String>(), expect, "{checks}");
    }

    #[test]
    fn only_so_many_in_a_row_turn_a_verdict() {
        check(1, 1, "+-+-", "udud");
        check(3, 2, "--+---+-++--", "uuuuudddduuu");
        check(2, 3, "--++-+++--", "udddddduud");
    }

    #[test]
    fn what_is_left_is_never_nothing() {
        let rules = rules(1, 3);
        let left = |streak| Verdict { is_down: true, streak }.left(&rules);
        assert_eq!([left(0), left(1), left(2), left(9)], [3, 2, 1, 1]);
    }

    /// Answers each check with what the test sends it.
    struct Scripted(Mutex<mpsc::Receiver<Result<u16, String>>>);

    impl Probe for Scripted {
        fn probe(&self, _: &ListAddress, _: Duration) -> Result<u16, String> {
            lock(&self.0).recv().unwrap_or_else(|_| Err("the test is over".to_owned()))
        }
    }

    fn checked(provider: u16) -> Checked {
        let address = ListAddress {
            url: "http://own/health".to_owned(),
            credential: None,
            headers: Vec::new(),
            private: true,
            tls: None,
        };
        Checked { provider: ProviderId(provider), name: "own".into(), address, rules: rules(2, 1) }
    }

    #[test]
    fn the_board_and_the_figures_follow_the_checks() {
        // Without a queue: what is sent has been taken by a check, and the one before it has been told.
        let (say, answers) = mpsc::sync_channel(0);
        let board = Arc::new(HealthBoard::default());
        let found = Arc::new(Found::default());
        let clock: Clock = Arc::new(|| Now(1_000_000_000));
        let log = Log::to(io::sink(), false);
        let probe = Arc::new(Scripted(Mutex::new(answers)));
        let mut checks = Checks::new(probe, Arc::clone(&board), Arc::clone(&found), clock, log);
        checks.reload(vec![checked(3)]);
        let (id, now) = (ProviderId(3), Now(1_000_000_000));
        let tell = |answer: Result<u16, &str>| say.send(answer.map_err(str::to_owned)).expect("a check");
        tell(Ok(200));
        tell(Ok(503));
        assert_eq!(board.down_ms(id, now), None, "one failure is none");
        tell(Err("timeout"));
        tell(Err("timeout"));
        assert_eq!(board.down_ms(id, now), Some(1), "the next check is a millisecond away");
        assert_eq!(board.down_ms(ProviderId(4), now), None);
        let facts = found.facts();
        assert_eq!((facts.len(), facts[0].up, facts[0].passed), (1, false, 1));
        // The last may have been told by now.
        assert!((2..=3).contains(&facts[0].failed), "{facts:?}");
        assert_eq!(board.down_ms(id, now + Duration::from_secs(4)), None, "nobody has looked for long");
        // A reload keeps what was found, until nobody is checked any more.
        drop(say);
        checks.reload(vec![checked(3)]);
        assert!(board.is_down(id));
        checks.reload(Vec::new());
        assert!(!board.is_down(id) && found.facts().is_empty());
    }
}
