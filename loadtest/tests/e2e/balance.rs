//! Two cores and connections that stay: wherever the kernel puts them and whichever of them end, no core carries far
//! more than the other, and every connection that moved is served like any other.

use std::collections::BTreeMap;

use rustls::version;

use crate::{
    support::{Client, Gateway, Provider, Setup, chat, until},
    tls::Secured,
};

/// Connections by core, the one with the most last.
fn loads(gateway: &Gateway) -> Vec<(String, f64)> {
    let mut loads = gateway.metric("rw_connections");
    loads.sort_by(|one, other| one.1.total_cmp(&other.1));
    loads
}

/// A connection that is kept, after one request; which core it is on shows in what has changed.
#[track_caller]
fn placed(gateway: &Gateway, connect: impl Fn() -> Client) -> (String, Client) {
    let before: BTreeMap<_, _> = gateway.metric("rw_connections").into_iter().collect();
    let mut client = connect();
    client.ask(chat("sim", false)).expect(200);
    let after = gateway.metric("rw_connections");
    let grown = after.iter().find(|(core, load)| *load == before[core] + 1.0);
    let (core, _) = grown.unwrap_or_else(|| panic!("nobody has it: {before:?}, then {after:?}"));
    (core.clone(), client)
}

/// One core loses all its connections; then many more come, which the kernel spreads evenly over both.
#[track_caller]
fn evened_out(gateway: &mut Gateway, connect: impl Fn(&Gateway) -> Client) {
    let placed: Vec<(String, Client)> = (0..200).map(|_| placed(gateway, || connect(gateway))).collect();
    let (emptied, _) = loads(gateway).remove(0);
    let (gone, mut held): (Vec<_>, Vec<_>) = placed.into_iter().partition(|(core, _)| *core == emptied);
    drop(gone);
    until("one core is empty", || (loads(gateway)[0] == (emptied.clone(), 0.0)).then_some(()));
    let handed_over = gateway.total("rw_connections_handed_over_total", "");

    for _ in 0..300 {
        let mut client = connect(gateway);
        client.ask(chat("sim", false)).expect(200);
        held.push((String::new(), client));
    }
    let loads = loads(gateway);
    let ((_, least), (full, most)) = (&loads[0], &loads[1]);
    assert_eq!(least + most, held.len() as f64, "{loads:?}");
    assert!(most - least <= f64::max(8.0, least / 8.0), "{loads:?}");
    // Without it the first core's lead would have stayed about what it was: a hundred.
    let moved = gateway.total("rw_connections_handed_over_total", "") - handed_over;
    assert!(moved >= 20.0, "{moved} handed over; {full} has the most: {loads:?}");
    let accepted = until("all are counted", || {
        let accepted = gateway.total("rw_connections_accepted_total", "");
        (accepted >= 500.0).then_some(accepted)
    });
    assert_eq!(accepted, 500.0, "what is handed over is accepted once");
    for (_, client) in &mut held {
        client.ask(chat("sim", false)).expect(200);
        let stream = client.ask(chat("sim,events=3", true)).expect(200);
        assert!(stream.text().ends_with("data: [DONE]\n\n"));
    }
    assert_eq!(gateway.total("rw_task_panics_total", ""), 0.0);

    gateway.program.signal("TERM");
    for (_, client) in &mut held {
        client.expect_end();
    }
    assert!(gateway.program.wait().success(), "{}", gateway.program.said());
}

#[test]
fn connections_that_stay_are_evened_out() {
    let provider = Provider::start();
    let setup = Setup { server: "cores = 2".into(), ..Setup::default() };
    let mut gateway = Gateway::with(&provider, &setup);
    evened_out(&mut gateway, Gateway::client);
}

#[test]
fn connections_that_stay_are_evened_out_before_their_handshake() {
    let mut secured = Secured::with("cores = 2");
    let config = secured.config(&[&version::TLS13]);
    let address = secured.gateway.address;
    evened_out(&mut secured.gateway, |_| crate::tls::connect(address, &config));
}

#[test]
fn few_connections_stay_where_they_are() {
    let provider = Provider::start();
    let setup = Setup { server: "cores = 2".into(), ..Setup::default() };
    let gateway = Gateway::with(&provider, &setup);
    for _ in 0..40 {
        let clients = [(); 8].map(|()| {
            let mut client = gateway.client();
            client.ask(chat("sim", false)).expect(200);
            client
        });
        drop(clients);
        until("all have gone", || (gateway.total("rw_connections", "") == 0.0).then_some(()));
    }
    assert_eq!(gateway.total("rw_connections_handed_over_total", ""), 0.0);
}
