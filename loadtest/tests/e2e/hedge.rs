//! A stream that is slow to begin is asked of a second provider, too: the faster is the client's, the other is broken off.

use std::{net::TcpListener, time::Duration};

use crate::{
    failover::black_hole,
    support::{
        Answer, CANCEL_MAX, Client, Ending, Gateway, Provider, chat_with, clock, pair, provider_table, until,
    },
};

/// Streams that make the first provider's times known, and save up so many hedges.
fn warm_up(gateway: &Gateway, hedges: usize) {
    let mut clients: Vec<Client> = (0..hedges * 20).map(|_| gateway.client()).collect();
    clients.iter_mut().for_each(|client| client.send(chat_with("dynamic/r", &[], true)));
    for client in &mut clients {
        let answer = client.answer();
        assert_eq!((answer.status, answer.told("provider"), answer.told("attempts")), (200, "sim", "1"));
    }
}

/// Always later than the time which stands for it in the histogram of the target's times, by a tenth of a second and more: a
/// quarter of an octave is one to it, and told by its middle. Its events are long enough to say something.
const SLOW: &str = "slow,ttft=2500,events=40,gap=20,size=400";

fn start(one: &Provider, two: &Provider, second: &str) -> Gateway {
    let gateway =
        Gateway::with_tables(one, &format!("hedge_percentile = 50\n{}", pair(two, SLOW, second, "")));
    warm_up(&gateway, 2);
    gateway
}

fn stream(gateway: &Gateway) -> Answer {
    gateway.ask(chat_with("dynamic/r", &[], true)).expect(200)
}

/// How many hedges came to this.
fn hedges(gateway: &Gateway, result: &str) -> f64 {
    gateway.total("rw_hedges_total", &format!("provider=\"sim\",result=\"{result}\""))
}

/// When each request that the provider was broken off at ended, as soon as there are so many.
fn broken_off(provider: &Provider, count: usize) -> Vec<u64> {
    until(&format!("{count} were broken off"), || {
        let seen = provider.seen();
        let aborted = seen.iter().filter(|seen| seen.0["outcome"] == "aborted");
        let ended: Vec<_> = aborted.map(|seen| seen.number("ended_ns")).collect();
        (ended.len() == count).then_some(ended)
    })
}

/// One of two at least: the machine may be busy.
#[track_caller]
fn expect_prompt(ended_ns: &[u64], since_ns: &[u64]) {
    assert_eq!(ended_ns.len(), since_ns.len());
    let late_us: Vec<_> =
        ended_ns.iter().zip(since_ns).map(|(ended, since)| ended.saturating_sub(*since) / 1_000).collect();
    assert!(late_us.iter().any(|us| u128::from(*us) <= CANCEL_MAX.as_micros()), "{late_us:?} µs late");
}

#[test]
fn the_second_wins_and_the_first_is_ended_at_once_as_long_as_there_is_a_budget() {
    let (one, two) = (Provider::start(), Provider::start());
    let expect = two.events("second,events=4");
    let gateway = start(&one, &two, "second,events=4");
    for _ in 0..2 {
        let answer = stream(&gateway);
        assert_eq!((answer.told("provider"), answer.told("attempts")), ("two", "2"));
        assert_eq!((answer.text(), answer.ending), (expect.clone(), Ending::Whole));
    }
    // The first of them is the test's own.
    let won: Vec<_> =
        two.seen_as("\"second,").iter().skip(1).map(|seen| seen.number("received_ns")).collect();
    expect_prompt(&broken_off(&one, 2), &won);

    // The third finds nothing saved up.
    let answer = stream(&gateway);
    assert_eq!((answer.told("provider"), answer.told("attempts")), ("sim", "1"));
    until("all is counted", || (hedges(&gateway, "refused") == 1.0).then_some(()));
    assert_eq!((hedges(&gateway, "begun"), hedges(&gateway, "won")), (2.0, 2.0));
    assert_eq!(gateway.total("rw_attempts_total", "provider=\"sim\",result=\"cancelled\""), 2.0);
    assert_eq!(gateway.total("rw_attempts_total", "provider=\"two\",result=\"answered\""), 2.0);
    assert_eq!(gateway.total("rw_upstream_health_changes_total", ""), 0.0);
}

#[test]
fn the_first_wins_and_the_second_is_ended_at_once() {
    let (one, two) = (Provider::start(), Provider::start());
    let gateway = start(&one, &two, "second,ttft=60000");
    let mut told_ns = Vec::new();
    for _ in 0..2 {
        let mut client = gateway.client();
        client.send(chat_with("dynamic/r", &[], true));
        let head = client.head();
        told_ns.push(Provider::now_ns());
        assert_eq!((head.status, head.told("provider"), head.told("attempts")), (200, "sim", "2"));
    }
    expect_prompt(&broken_off(&two, 2), &told_ns);
    until("all is counted", || (hedges(&gateway, "begun") == 2.0).then_some(()));
    assert_eq!(hedges(&gateway, "won"), 0.0);
}

/// Neither a connection that is not answered nor a handshake keeps an answer from leaving that is there.
#[test]
fn a_second_that_never_gets_through_holds_nobody_up() {
    let one = Provider::start();
    let (hole, _kept) = black_hole();
    let hole = hole.local_addr().ok().and_then(|address| address.as_socket()).expect("an address");
    // The kernel takes its connections, and nobody says a word on them.
    let mute = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let mute = mute.local_addr().map(|address| (address, mute)).expect("an address");
    let tables = [provider_table("two", hole), provider_table("two", mute.0).replace("http://", "https://")];
    for table in tables {
        let route =
            format!("[[route]]\nname = \"r\"\nmodel = \"sim/{SLOW}\"\nfallbacks = [\"two/second\"]\n");
        let gateway = Gateway::with_tables(&one, &format!("hedge_percentile = 50\n{route}{table}"));
        warm_up(&gateway, 1);
        let mut client = gateway.client();
        let asked = clock();
        client.send(chat_with("dynamic/r", &[], true));
        let head = client.head();
        assert_eq!((head.status, head.told("provider"), head.told("attempts")), (200, "sim", "2"), "{table}");
        // Its connect would go on for two seconds, its handshake for seven.
        assert!(asked.elapsed() < Duration::from_millis(3_700), "{:?}, {table}", asked.elapsed());
    }
}

#[test]
fn a_second_that_fails_costs_nothing() {
    let (one, two) = (Provider::start(), Provider::start());
    let gateway = start(&one, &two, "second,status=500");
    let answer = stream(&gateway);
    assert_eq!((answer.told("provider"), answer.told("attempts")), ("sim", "2"));
    assert!(
        answer.ending == Ending::Whole && answer.text().ends_with("data: [DONE]\n\n"),
        "{}",
        answer.text()
    );
    assert_eq!(two.seen_as("\"second,").len(), 1);
}

#[test]
fn a_client_that_leaves_ends_both() {
    let (one, two) = (Provider::start(), Provider::start());
    let gateway = start(&one, &two, "second,ttft=60000");
    let mut left_ns = Vec::new();
    for round in 1..=2 {
        let mut client = gateway.client();
        client.send(chat_with("dynamic/r", &[], true));
        until("the second is asked", || (two.seen_as("\"second,").len() == round).then_some(()));
        drop(client);
        left_ns.push(Provider::now_ns());
    }
    expect_prompt(&broken_off(&two, 2), &left_ns);
    expect_prompt(&broken_off(&one, 2), &left_ns);
}

/// A race in which the client has comments, and may leave what it was asked for to be read on.
fn start_tended(one: &Provider, two: &Provider, second: &str) -> Gateway {
    let terms = "keep_alive_secs = 0.2\nkeep_alive_commits = true";
    let drains = "[relay]\non_disconnect = \"drain\"\n";
    let tables = format!("hedge_percentile = 50\n{drains}{}", pair(two, SLOW, second, terms));
    let gateway = Gateway::with_tables(one, &tables);
    let mut clients: Vec<Client> = (0..40).map(|_| gateway.client()).collect();
    clients.iter_mut().for_each(|client| client.send(chat_with("dynamic/r", &[], true)));
    let late = format!(": x-ringway-provider=sim x-ringway-model={SLOW} x-ringway-attempts=1\n\n");
    for client in &mut clients {
        let text = client.answer().expect(200).text();
        assert!(text.contains(&late), "{text}");
    }
    gateway
}

#[test]
fn a_client_that_has_comments_has_the_faster_of_two_and_the_loser_is_ended_at_once_all_the_same() {
    let (one, two) = (Provider::start(), Provider::start());
    let second = "second,events=4";
    let gateway = start_tended(&one, &two, second);
    let events = two.events(second);
    let mut won = Vec::new();
    for _ in 0..2 {
        let answer = stream(&gateway);
        let late = format!(": x-ringway-provider=two x-ringway-model={second} x-ringway-attempts=2\n\n");
        let (comments, rest) = answer
            .text()
            .split_once(&late)
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
            .unwrap_or_else(|| panic!("{}", answer.text()));
        // Some two seconds of them, until the second was asked and answered.
        assert!(comments.matches(": keep-alive\n\n").count() >= 5, "{comments}");
        assert_eq!((rest.replace(": keep-alive\n\n", ""), answer.ending), (events.clone(), Ending::Whole));
        assert_eq!(answer.told("provider"), "-", "nobody had answered");
    }
    for seen in two.seen_as("\"second,").iter().skip(1) {
        won.push(seen.number("received_ns"));
    }
    expect_prompt(&broken_off(&one, 2), &won);
}

#[test]
fn a_client_that_leaves_a_race_ends_the_second_and_has_the_first_read_on() {
    let (one, two) = (Provider::start(), Provider::start());
    let gateway = start_tended(&one, &two, "second,ttft=60000");
    let mut left_ns = Vec::new();
    for round in 1..=2 {
        let mut client = gateway.client();
        client.send(chat_with("dynamic/r", &[], true));
        until("the second is asked", || (two.seen_as("\"second,").len() == round).then_some(()));
        drop(client);
        left_ns.push(Provider::now_ns());
    }
    expect_prompt(&broken_off(&two, 2), &left_ns);
    until("the first was read to its end", || {
        (gateway.total("rw_upstream_unheard_total", "\"whole\"") == 2.0).then_some(())
    });
    assert!(one.seen().iter().all(|seen| seen.0["outcome"] != "aborted"));
    let ended = |provider: &str, result: &str| {
        gateway.total("rw_attempts_total", &format!("provider=\"{provider}\",result=\"{result}\""))
    };
    until("all is counted", || (ended("two", "cancelled") == 2.0).then_some(()));
    assert_eq!((ended("sim", "answered"), ended("sim", "cancelled")), (42.0, 0.0));
    assert_eq!(hedges(&gateway, "begun"), 2.0);
}
