//! Names to addresses, for the cores, who must never wait for one. What was known stays in use while a refresh fails.
//!
//! Each lookup runs on a short-lived thread of its own, one per name at most: a name server that hangs holds up its
//! own names and nobody else's.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, ToSocketAddrs},
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        mpsc::{self, RecvTimeoutError},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::{
    base::{
        limits::{ADDRESSES_MAX, RESOLVE_INTERVAL, RESOLVE_RETRY, RESOLVE_STALE_TIME},
        now::Now,
    },
    bridge::{
        addresses::{Addresses, Resolved},
        bulletin::Bulletin,
    },
    control::{Clock, lock, log::Log},
};

/// Asks somebody for the addresses of a name, and may take its time.
pub trait Lookup: Send + Sync + 'static {
    fn lookup(&self, host: &str) -> io::Result<Vec<IpAddr>>;
}

/// The system's resolver: hosts file, DNS, whatever `nsswitch.conf` says.
pub struct SystemLookup;

impl Lookup for SystemLookup {
    #[expect(clippy::disallowed_methods, reason = "this is that thread: it may wait for a name server")]
    fn lookup(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        Ok((host, 0).to_socket_addrs()?.map(|address| address.ip()).collect())
    }
}

/// The resolver's thread. It ends when this is dropped; lookups that still run are left to themselves.
pub struct Resolver {
    inbox: mpsc::Sender<Message>,
    seen: Arc<Seen>,
    thread: Option<JoinHandle<()>>,
}

/// What was published last, for control's own threads that want to wait for it.
#[derive(Default)]
struct Seen {
    addresses: Mutex<Arc<Addresses>>,
    changed: Condvar,
}

enum Message {
    Want(Vec<Box<str>>),
    Answer(Box<str>, Result<Vec<IpAddr>, String>),
    Stop,
}

impl Resolver {
    /// Begins to publish on `bulletin` what `lookup` says of the names that are wanted.
    pub fn start(
        lookup: Arc<dyn Lookup>,
        bulletin: Arc<Bulletin<Addresses>>,
        clock: Clock,
        log: Log,
    ) -> io::Result<Self> {
        let (inbox, messages) = mpsc::channel();
        let seen = Arc::<Seen>::default();
        let desk = Desk { lookup, bulletin, clock, log, inbox: inbox.clone(), seen: Arc::clone(&seen) };
        let thread =
            thread::Builder::new().name("rw-resolver".to_owned()).spawn(move || desk.run(&messages))?;
        Ok(Self { inbox, seen, thread: Some(thread) })
    }

    /// The hosts of the snapshot in force, in place of those before. New ones are looked up at once; what is no longer
    /// wanted is forgotten.
    pub fn want(&self, hosts: impl IntoIterator<Item = Box<str>>) {
        // The thread ends only with us.
        let _ = self.inbox.send(Message::Want(hosts.into_iter().collect()));
    }

    /// Waits until something is known of `host`, good or bad. Not for cores.
    pub fn wait_for(&self, host: &str, patience: Duration) -> Resolved {
        let addresses = lock(&self.seen.addresses);
        let (addresses, _) = self
            .seen
            .changed
            .wait_timeout_while(addresses, patience, |addresses| addresses.of(host).is_none())
            .unwrap_or_else(PoisonError::into_inner);
        addresses.of(host).cloned().unwrap_or_else(|| Err("not resolved yet".into()))
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        let _ = self.inbox.send(Message::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The thread's own: what it needs to act on what [`Names`] decides.
struct Desk {
    lookup: Arc<dyn Lookup>,
    bulletin: Arc<Bulletin<Addresses>>,
    clock: Clock,
    log: Log,
    inbox: mpsc::Sender<Message>,
    seen: Arc<Seen>,
}

impl Desk {
    fn run(self, messages: &mpsc::Receiver<Message>) {
        let mut names = Names::default();
        loop {
            for host in names.due((self.clock)()) {
                self.ask(host);
            }
            self.publish(names.addresses());
            let wait = names.next_due().map_or(RESOLVE_INTERVAL, |due| due.since((self.clock)()));
            match messages.recv_timeout(wait) {
                Ok(Message::Want(hosts)) => names.want(hosts, (self.clock)()),
                Ok(Message::Answer(host, answer)) => {
                    if let Some(news) = names.answered(&host, answer, (self.clock)()) {
                        self.log.warning(format_args!("resolving {host}: {news}"));
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn ask(&self, host: Box<str>) {
        let (lookup, inbox, name) = (Arc::clone(&self.lookup), self.inbox.clone(), host.clone());
        let asked = thread::Builder::new().name("rw-lookup".to_owned()).spawn(move || {
            let answer = lookup.lookup(&name).map_err(|error| error.to_string());
            // Nobody is there to hear it once the resolver has ended.
            let _ = inbox.send(Message::Answer(name, answer));
        });
        if let Err(error) = asked {
            let _ = self.inbox.send(Message::Answer(host, Err(format!("no thread to look it up: {error}"))));
        }
    }

    /// Publishes `addresses` unless they are what is known already: each generation costs every core a lock.
    fn publish(&self, addresses: Addresses) {
        let mut seen = lock(&self.seen.addresses);
        if **seen == addresses {
            return;
        }
        let addresses = Arc::new(addresses);
        *seen = Arc::clone(&addresses);
        drop(seen);
        self.seen.changed.notify_all();
        self.bulletin.publish(addresses);
    }
}

/// When each name is to be asked for again, and what is known of it. Knows no clock and no network.
#[derive(Default)]
struct Names {
    wanted: BTreeMap<Box<str>, Name>,
    /// Names whose lookup runs, wanted or not: none is asked for twice at once.
    asked: BTreeSet<Box<str>>,
}

struct Name {
    due: Now,
    known: Option<Resolved>,
    /// When `known` was last confirmed to be good.
    good_at: Now,
}

impl Names {
    fn want(&mut self, hosts: Vec<Box<str>>, now: Now) {
        self.wanted.retain(|host, _| hosts.contains(host));
        for host in hosts {
            self.wanted.entry(host).or_insert(Name { due: now, known: None, good_at: now });
        }
    }

    /// The names to ask for now; each counts as asked. A name that is an address needs no asking.
    fn due(&mut self, now: Now) -> Vec<Box<str>> {
        let mut due = Vec::new();
        for (host, name) in &mut self.wanted {
            if name.due > now || self.asked.contains(host) {
                continue;
            }
            if let Ok(address) = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
                name.known = Some(Ok([address].into()));
                name.due = now + RESOLVE_INTERVAL;
                continue;
            }
            self.asked.insert(host.clone());
            due.push(host.clone());
        }
        due
    }

    fn next_due(&self) -> Option<Now> {
        let waiting = self.wanted.iter().filter(|(host, _)| !self.asked.contains(*host));
        waiting.map(|(_, name)| name.due).min()
    }

    /// Takes up what a lookup said. Answers what is worth a line in the log: a name that has begun to fail.
    fn answered(&mut self, host: &str, answer: Result<Vec<IpAddr>, String>, now: Now) -> Option<String> {
        self.asked.remove(host);
        // None when it was forgotten meanwhile.
        let name = self.wanted.get_mut(host)?;
        let addresses = answer.and_then(|addresses| {
            let addresses = alternating(&addresses);
            if addresses.is_empty() { Err("the name has no address".to_owned()) } else { Ok(addresses) }
        });
        match addresses {
            Ok(addresses) => {
                *name = Name { due: now + RESOLVE_INTERVAL, known: Some(Ok(addresses)), good_at: now };
                None
            }
            Err(error) => {
                name.due = now + RESOLVE_RETRY;
                let is_good = matches!(name.known, Some(Ok(_)));
                if is_good && now.since(name.good_at) <= RESOLVE_STALE_TIME {
                    return None;
                }
                let news = !matches!(&name.known, Some(Err(before)) if **before == *error);
                name.known = Some(Err(error.as_str().into()));
                news.then_some(error)
            }
        }
    }

    fn addresses(&self) -> Addresses {
        let known = self.wanted.iter().filter_map(|(host, name)| Some((host.clone(), name.known.clone()?)));
        known.collect()
    }
}

/// The addresses in the order in which they are tried: families alternating (RFC 8305 §4), beginning with the one the
/// system prefers, each family in the system's order; none twice, at most [`ADDRESSES_MAX`].
fn alternating(addresses: &[IpAddr]) -> Arc<[IpAddr]> {
    let mut families: [Vec<IpAddr>; 2] = Default::default();
    // An IPv4 address in IPv6 clothing is an IPv4 address.
    let first = addresses.first().is_none_or(|address| address.to_canonical().is_ipv6());
    for address in addresses.iter().map(IpAddr::to_canonical) {
        let family = &mut families[usize::from(address.is_ipv6() != first)];
        if !family.contains(&address) {
            family.push(address);
        }
    }
    let [first, second] = &families;
    let turns = first.len().max(second.len());
    (0..turns)
        .flat_map(|turn| [first.get(turn), second.get(turn)])
        .flatten()
        .take(ADDRESSES_MAX)
        .copied()
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    const fn secs(secs: u64) -> Now {
        Now(secs * 1_000_000_000)
    }

    fn ips(text: &str) -> Vec<IpAddr> {
        text.split_whitespace().map(|ip| ip.parse().expect("an address")).collect()
    }

    #[track_caller]
    fn check_order(given: &str, expect: &str) {
        assert_eq!(alternating(&ips(given))[..], ips(expect)[..], "{given}");
    }

    #[test]
    fn families_alternate_beginning_with_the_preferred_one() {
        check_order("", "");
        check_order("1.1.1.1 2.2.2.2", "1.1.1.1 2.2.2.2");
        check_order("::1 ::2 1.1.1.1 2.2.2.2", "::1 1.1.1.1 ::2 2.2.2.2");
        check_order("1.1.1.1 2.2.2.2 3.3.3.3 ::1", "1.1.1.1 ::1 2.2.2.2 3.3.3.3");
        check_order("1.1.1.1 1.1.1.1 ::ffff:1.1.1.1", "1.1.1.1");
        let many: Vec<IpAddr> = (0..40_u8).map(|n| IpAddr::from([10, 0, 0, n])).collect();
        assert_eq!(alternating(&many)[..], many[..ADDRESSES_MAX]);
    }

    fn names(hosts: &[&str]) -> Names {
        let mut names = Names::default();
        names.want(hosts.iter().map(|host| (*host).into()).collect(), secs(0));
        names
    }

    #[track_caller]
    fn check_due(names: &mut Names, now: Now, expect: &[&str]) {
        let due = names.due(now);
        assert_eq!(due.iter().map(|host| &**host).collect::<Vec<_>>(), expect, "at {now:?}");
    }

    #[test]
    fn a_good_answer_is_refreshed_and_a_bad_one_retried_sooner() {
        let mut names = names(&["a", "b"]);
        check_due(&mut names, secs(0), &["a", "b"]);
        check_due(&mut names, secs(0), &[]);
        assert_eq!(names.next_due(), None);
        assert_eq!(names.answered("a", Ok(ips("1.1.1.1")), secs(1)), None);
        assert_eq!(names.answered("b", Err("no such name".into()), secs(1)), Some("no such name".into()));
        assert_eq!(names.addresses().of("a"), Some(&Ok(ips("1.1.1.1").into())));
        assert_eq!(names.addresses().of("b"), Some(&Err("no such name".into())));

        assert_eq!(names.next_due(), Some(secs(1) + RESOLVE_RETRY));
        check_due(&mut names, secs(3), &[]);
        check_due(&mut names, secs(4), &["b"]);
        assert_eq!(names.answered("b", Err("no such name".into()), secs(5)), None, "said once");
        assert_eq!(names.answered("b", Ok(Vec::new()), secs(5)), Some("the name has no address".into()));
        check_due(&mut names, secs(31), &["a", "b"]);
    }

    #[test]
    fn what_was_known_is_used_while_refreshes_fail_but_not_for_ever() {
        let mut names = names(&["a"]);
        names.answered("a", Ok(ips("1.1.1.1")), secs(0));
        let good = names.addresses();
        for second in [30, 600, 3600] {
            assert_eq!(names.answered("a", Err("timeout".into()), secs(second)), None);
            assert_eq!(names.addresses(), good);
        }
        assert_eq!(names.answered("a", Err("timeout".into()), secs(3601)), Some("timeout".into()));
        assert_eq!(names.addresses().of("a"), Some(&Err("timeout".into())));
        names.answered("a", Ok(ips("1.1.1.1")), secs(3602));
        assert_eq!(names.addresses(), good);
    }

    #[test]
    fn an_address_needs_no_asking() {
        let mut names = names(&["127.0.0.1", "[::1]"]);
        check_due(&mut names, secs(0), &[]);
        assert_eq!(names.addresses().of("127.0.0.1"), Some(&Ok(ips("127.0.0.1").into())));
        assert_eq!(names.addresses().of("[::1]"), Some(&Ok(ips("::1").into())));
    }

    #[test]
    fn a_reload_keeps_what_is_known_and_forgets_what_is_not_wanted() {
        let mut names = names(&["a", "b"]);
        names.due(secs(0));
        names.answered("a", Ok(ips("1.1.1.1")), secs(0));
        names.want(vec!["a".into(), "c".into()], secs(1));
        assert_eq!(names.answered("b", Ok(ips("2.2.2.2")), secs(1)), None);
        assert_eq!(names.addresses().len(), 1);
        check_due(&mut names, secs(1), &["c"]);
    }

    #[test]
    fn a_name_that_comes_back_while_it_is_looked_up_is_not_asked_for_twice() {
        let mut names = names(&["a"]);
        check_due(&mut names, secs(0), &["a"]);
        names.want(Vec::new(), secs(1));
        names.want(vec!["a".into()], secs(2));
        check_due(&mut names, secs(2), &[]);
        assert_eq!(names.next_due(), None);
        names.answered("a", Ok(ips("1.1.1.1")), secs(3));
        assert_eq!(names.addresses().len(), 1);
        assert_eq!(names.next_due(), Some(secs(3) + RESOLVE_INTERVAL));
    }

    /// Answers for every name but `hung`, which waits until the test lets it go.
    struct TestLookup(Barrier);

    impl Lookup for TestLookup {
        fn lookup(&self, host: &str) -> io::Result<Vec<IpAddr>> {
            match host {
                "hung" => {
                    self.0.wait();
                    Ok(ips("9.9.9.9"))
                }
                "none" => Err(io::Error::other("no such name")),
                _ => Ok(ips("1.1.1.1 ::1")),
            }
        }
    }

    #[test]
    fn a_lookup_that_hangs_holds_up_no_other() {
        let lookup = Arc::new(TestLookup(Barrier::new(2)));
        let bulletin = Arc::new(Bulletin::new(1));
        let clock: Clock = Arc::new(|| secs(1));
        let log = Log::to(io::sink(), false);
        let resolver =
            Resolver::start(Arc::clone(&lookup) as _, Arc::clone(&bulletin), clock, log).expect("a thread");
        resolver.want(["good", "hung", "none"].map(Into::into));
        let patience = Duration::from_secs(60);
        assert_eq!(resolver.wait_for("good", patience), Ok(ips("1.1.1.1 ::1").into()));
        assert_eq!(resolver.wait_for("none", patience), Err("no such name".into()));
        assert!(resolver.wait_for("hung", Duration::ZERO).is_err());
        resolver.want(["good", "hung", "late"].map(Into::into));
        assert_eq!(resolver.wait_for("late", patience), Ok(ips("1.1.1.1 ::1").into()));

        lookup.0.wait();
        assert_eq!(resolver.wait_for("hung", patience), Ok(ips("9.9.9.9").into()));
        drop(resolver);
        let published = bulletin.current().expect("published");
        assert_eq!(published.of("hung"), Some(&Ok(ips("9.9.9.9").into())));
        assert_eq!((published.len(), published.of("none")), (3, None));
    }

    #[test]
    fn a_resolver_ends_though_a_lookup_hangs() {
        let lookup = Arc::new(TestLookup(Barrier::new(2)));
        let clock: Clock = Arc::new(|| secs(1));
        let log = Log::to(io::sink(), false);
        let resolver = Resolver::start(Arc::clone(&lookup) as _, Arc::new(Bulletin::new(1)), clock, log)
            .expect("a thread");
        resolver.want(["hung"].map(Into::into));
        drop(resolver);
        // If the lookup had begun it still waits; let it go so that its thread ends with the test.
        drop(lookup);
    }

    #[test]
    fn the_system_knows_loopback() {
        let addresses = SystemLookup.lookup("localhost").expect("every system does");
        assert!(addresses.iter().all(IpAddr::is_loopback));
    }
}
