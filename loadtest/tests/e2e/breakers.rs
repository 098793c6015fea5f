//! A target that fails is left out for a while, for everyone, and comes back by one probe.

use std::{thread, time::Duration};

use crate::support::{Client, Gateway, Provider, chat_with, clock, pair, until};

fn number(text: &str) -> u64 {
    text.parse().unwrap_or_else(|_| panic!("no number: {text:?}"))
}

#[test]
fn a_target_that_keeps_failing_is_left_out() {
    let (one, two) = (Provider::start(), Provider::start());
    let gateway = Gateway::with_tables(
        &one,
        &format!("[breaker]\nopen_secs = 600\n{}", pair(&two, "bad,status=500", "good", "")),
    );
    for round in 1..=12 {
        let answer = gateway.ask(chat_with("dynamic/r", &[], round % 2 == 0)).expect(200);
        assert_eq!(answer.told("provider"), "two");
        assert_eq!(answer.told("attempts"), if round <= 5 { "2" } else { "1" }, "in round {round}");
    }
    assert_eq!(one.seen_as("\"bad,status=500\"").len(), 5, "five failures in a row are enough");
    assert_eq!(two.seen_as("\"good\"").len(), 12);
    // Another model of the same provider is another target.
    gateway.ask(chat_with("sim/other", &[], false)).expect(200);
}

#[test]
fn what_is_not_the_targets_fault_opens_no_breaker() {
    let one = Provider::start();
    let gateway = Gateway::with_tables(&one, "");
    for status in [400, 404, 409, 413, 422] {
        let model = format!("sim/own{status},status={status}");
        for _ in 0..12 {
            assert_eq!(gateway.ask(chat_with(&model, &[], false)).status, status);
        }
        assert_eq!(one.seen_as(&format!("\"own{status},")).len(), 12);
    }
    // A success in between begins the count anew.
    for _ in 0..3 {
        for _ in 0..4 {
            assert_eq!(
                gateway.ask(chat_with("sim/mixed,status=500,times=4", &[], false)).status.min(500),
                500
            );
        }
        assert_eq!(gateway.ask(chat_with("sim/mixed,status=500,times=4", &[], false)).status, 200);
        one.ask("DELETE /_sim/log HTTP/1.1\r\nHost: sim\r\n\r\n");
    }
}

#[test]
fn with_all_open_the_answer_comes_at_once() {
    let (one, two) = (Provider::start(), Provider::start());
    let tables = pair(&two, "bad,status=500", "worse,status=502", "");
    let gateway = Gateway::with_tables(&one, &format!("[breaker]\nopen_secs = 40\n{tables}"));
    for _ in 0..5 {
        let answer = gateway.ask(chat_with("dynamic/r", &[], false));
        assert_eq!((answer.status, answer.told("attempts")), (502, "2"), "{}", answer.head);
    }
    let mut quickest = Duration::MAX;
    for round in 0..10 {
        let began = clock();
        let answer = gateway.ask(chat_with("dynamic/r", &[], round % 2 == 1));
        quickest = quickest.min(began.elapsed());
        assert_eq!(answer.refusal(503), "no_upstream");
        assert_eq!(answer.told("route"), "r");
        assert_eq!(
            (answer.told("attempts"), answer.told("provider")),
            ("0", "-"),
            "none was made: {}",
            answer.head
        );
        assert_eq!(answer.header("x-should-retry"), Some("true"));
        let (ms, secs) = (
            number(answer.header("retry-after-ms").unwrap_or("")),
            number(answer.header("retry-after").unwrap_or("")),
        );
        // Forty seconds, give or take a fifth, and a fifth more so that not all come back together.
        assert!((20_000..=58_000).contains(&ms) && secs == ms.div_ceil(1_000), "{ms} ms, {secs} s");
    }
    assert!(quickest < Duration::from_millis(50), "{quickest:?}");
    assert_eq!((one.seen_as("\"bad,").len(), two.seen_as("\"worse,").len()), (5, 5));
}

#[test]
fn one_probe_brings_a_target_back() {
    let one = Provider::start();
    let gateway = Gateway::with_tables(&one, "[breaker]\nfailures = 2\nopen_secs = 0.5\nramp_secs = 1\n");
    // Each answer takes a while, so that others come while the probe is out.
    let model = "sim/back,status=500,times=2,ttft=700";
    let count = || one.seen_as("\"back,").len();
    for _ in 0..2 {
        assert_eq!(gateway.ask(chat_with(model, &[], false)).status, 500);
    }
    assert_eq!(gateway.ask(chat_with(model, &[], false)).refusal(503), "no_upstream");
    assert_eq!(count(), 2);
    let address = gateway.address;
    thread::scope(|scope| {
        let prober = scope.spawn(move || {
            until("a probe is let through", || {
                let answer = Client::connect(address).ask(chat_with(model, &[], false));
                if answer.status == 503 {
                    assert_eq!(answer.refusal(503), "no_upstream");
                    return None;
                }
                Some(answer)
            })
        });
        until("the probe is at the provider", || (count() == 3).then_some(()));
        for _ in 0..5 {
            assert_eq!(
                gateway.ask(chat_with(model, &[], false)).refusal(503),
                "no_upstream",
                "the probe is out"
            );
        }
        assert_eq!(count(), 3, "one probe, and no other");
        prober.join().expect("it was let through").expect(200);
    });
    for _ in 0..3 {
        gateway.ask(chat_with(model, &[], false)).expect(200);
    }
}

#[test]
fn a_probe_that_fails_opens_for_longer() {
    let one = Provider::start();
    let gateway =
        Gateway::with_tables(&one, "[breaker]\nfailures = 2\nopen_secs = 0.3\nopen_max_secs = 40\n");
    let model = "sim/stays,status=500";
    let count = || one.seen_as("\"stays,").len();
    let began = clock();
    let mut at = Vec::new();
    until("four probes have failed", || {
        if gateway.ask(chat_with(model, &[], false)).status == 500 && count() > 2 {
            at.push(began.elapsed());
        }
        (at.len() == 4).then_some(())
    });
    assert_eq!(count(), 6, "each probe is one request");
    let waits: Vec<_> = at.windows(2).map(|pair| pair[1] - pair[0]).collect();
    // 0.6, 1.2 and 2.4 s, each up to a fifth shorter.
    for (wait, least_ms) in waits.iter().zip([450, 900, 1_800]) {
        assert!(*wait >= Duration::from_millis(least_ms), "{waits:?}");
    }
}
