//! SIGHUP: a good file takes effect whole, a bad one not at all, and nothing in flight notices either.

use crate::support::{Gateway, Provider, chat, chat_body, post, rounds, until};

#[test]
fn a_good_file_takes_effect() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider);
    let ask = || gateway.ask(post("/v1/chat/completions", &chat_body("more/sim", false)));
    ask().refusal(404);
    let more = format!(
        "[[provider]]\nname = \"more\"\nbase_url = \"http://{}/v1\"\nkey = \"sk-more\"\n",
        provider.address
    );
    gateway.write_config(&(gateway.read_config() + &more));
    gateway.program.signal("HUP");
    until("the new provider is served", || (ask().status == 200).then_some(()));
    assert_eq!(gateway.metric("rw_config_reload_success"), [(String::new(), 1.0)]);
}

#[test]
fn a_bad_file_changes_nothing() {
    let provider = Provider::start();
    let mut gateway = Gateway::start(&provider);
    let good = gateway.read_config();
    for (bad, word) in [
        ("[server\n", "not TOML"),
        ("\n[serve]\ncores = 1\n", "serve"),
        ("\n[[provider]]\nname = 5\n", "name"),
    ] {
        gateway.write_config(&format!("{good}{bad}"));
        gateway.program.signal("HUP");
        until("the reload is reported as failed", || {
            (gateway.metric("rw_config_reload_success") == [(String::new(), 0.0)]).then_some(())
        });
        gateway.program.line(&format!("a complaint with {word}"), |line| line.contains(word).then_some(()));
        gateway.chat("sim").expect(200);
        assert_eq!(gateway.admin("/readyz").status, 200);
        gateway.write_config(&good);
        gateway.program.signal("HUP");
        until("the good file is taken up again", || {
            (gateway.metric("rw_config_reload_success") == [(String::new(), 1.0)]).then_some(())
        });
    }
}

#[test]
fn what_waits_for_a_restart_is_said() {
    let provider = Provider::start();
    let mut gateway = Gateway::start(&provider);
    let (listen, admin) = (gateway.address.to_string(), gateway.admin.to_string());
    let moved = |address: &str| address.replace(":808", ":908");
    let changed = gateway
        .read_config()
        .replace(&listen, &moved(&listen))
        .replace(&admin, &moved(&admin))
        .replace("cores = 1", "cores = \"auto\"\nbackend = \"epoll\"\ndrain_secs = 7\nconnections_max = 77")
        .replace("name = \"down\"", "name = \"renamed\"");
    gateway.write_config(&changed);
    gateway.program.signal("HUP");
    for setting in [
        "server.listen",
        "server.cores",
        "server.backend",
        "server.drain_secs",
        "server.connections_max",
        "admin.listen",
    ] {
        gateway.program.line(&format!("that {setting} waits"), |line| {
            line.ends_with(&format!("{setting} has changed: that takes effect at the next start"))
                .then_some(())
        });
    }
    assert!(!gateway.program.said().contains("tls_listen has changed"));
    // The rest of the file is in force, and the old places are where clients find us.
    let answer = gateway.ask(post("/v1/chat/completions", &chat_body("renamed/sim", false)));
    assert_ne!(answer.status, 404, "{}", answer.text());
    gateway.chat("sim").expect(200);
}

#[test]
fn a_stream_keeps_the_configuration_it_began_with() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider);
    let mut client = gateway.client();
    client.send(chat("sim,events=100,gap=10", true));
    assert_eq!(client.head().status, 200);
    let begun = client.some_chunks(1).len();
    // The provider that is streaming goes away.
    gateway.write_config(&gateway.read_config().replace("name = \"sim\"", "name = \"renamed\""));
    gateway.program.signal("HUP");
    until("the new name is served", || {
        let answer = gateway.ask(post("/v1/chat/completions", &chat_body("renamed/sim", false)));
        (answer.status == 200).then_some(())
    });
    gateway.chat("sim").refusal(404);
    let mut rest = Vec::new();
    while !rest.ends_with(b"data: [DONE]\n\n") {
        rest.extend(client.some_chunks(1));
    }
    assert!(begun + rest.len() > 100 * 50);
}

#[test]
fn reloads_under_load_lose_nothing() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider);
    let mut client = gateway.client();
    for round in 0..2 * rounds() {
        gateway.program.signal("HUP");
        client.ask(chat("sim", false)).expect(200);
        let stream = client.ask(chat("sim,events=5", true)).expect(200);
        assert!(stream.text().ends_with("data: [DONE]\n\n"), "round {round}");
    }
}
