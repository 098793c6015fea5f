//! The test tools themselves, in front of the simulated provider alone: a client that could not see a cut, or a provider
//! that could not make one, would prove nothing.

use crate::support::{Client, Ending, Provider, chat_body, post, until};

fn ask(provider: &Provider, script: &str, stream: bool) -> crate::support::Answer {
    provider.ask(post("/v1/chat/completions", &chat_body(script, stream)))
}

#[test]
fn the_client_tells_whole_from_cut_from_reset() {
    let provider = Provider::start();
    for (script, ending) in [
        ("sim", Ending::Whole),
        ("sim,chunk=1", Ending::Whole),
        ("sim,cut=100", Ending::Cut),
        ("sim,reset=100", Ending::Reset),
        ("sim,untilclose", Ending::Whole),
    ] {
        for stream in [false, true] {
            let answer = ask(&provider, script, stream);
            assert_eq!(answer.ending, ending, "{script}");
            // What of the body came before a reset is up to the kernel.
            assert!(ending != Ending::Cut || answer.body.len() == 100, "{script}: {}", answer.body.len());
        }
    }
}

#[test]
fn every_framing_has_the_same_body() {
    let provider = Provider::start();
    // An event has a fixed size with the model's name in it, so names of one length make the bodies comparable.
    for framing in ["lengthbody", "untilclose", "chunk=7", "split=1"] {
        let script = |word: &str| format!("t{},events=5,{word}", "x".repeat(20 - word.len()));
        let text = |word: &str| ask(&provider, &script(word), true).text().replace(&script(word), "MODEL");
        assert_eq!(text(framing), text("gap=0"), "{framing}");
        assert!(text(framing).ends_with("data: [DONE]\n\n"));
    }
}

#[test]
fn the_log_has_what_was_sent() {
    let provider = Provider::start();
    ask(&provider, "named-one", false);
    let seen = provider.only("named-one");
    assert_eq!(seen.headers("HOST"), ["gateway"]);
    assert_eq!(seen.number("body_bytes"), seen.body().len() as u64);
    assert_eq!(seen.0["path"], "/v1/chat/completions");
    until("the request is over", || (provider.only("named-one").0["outcome"] == "played").then_some(()));
}

#[test]
fn a_client_that_leaves_is_seen_to() {
    let provider = Provider::start();
    provider.expect_cancelled("named-left", |name| {
        let mut client = Client::connect(provider.address);
        client.send(post("/v1/chat/completions", &chat_body(&format!("{name},ttft=60000"), false)));
        provider.wait_for(name);
        Provider::now_ns()
    });
}
