//! What one request's attempts may do: when there is another, what it carries, and what bounds them.

use std::{net::SocketAddr, time::Duration};

use crate::support::{Ending, Gateway, Provider, chat_with, clock, pair, post, provider_table, until};

#[test]
fn a_first_event_that_is_an_error_moves_and_the_last_of_them_is_shown() {
    let (one, two) = (Provider::start(), Provider::start());
    let tables = format!(
        "{}[[route]]\nname = \"all\"\nmodel = \"sim/all,events=1,errorevent\"\nfallbacks = [\"two/all,events=1,errorevent\"]\n",
        pair(&two, "first,events=1,errorevent", "second", "")
    );
    let gateway = Gateway::with_tables(&one, &tables);
    let answer = gateway.ask(chat_with("dynamic/r", &[], true)).expect(200);
    assert_eq!((answer.told("provider"), answer.told("attempts")), ("two", "2"));
    assert!(!answer.text().contains("simulated model failed"), "{}", answer.text());
    assert!(
        answer.ending == Ending::Whole && answer.text().ends_with("data: [DONE]\n\n"),
        "{}",
        answer.text()
    );
    let answer = gateway.ask(chat_with("dynamic/all", &[], true));
    assert_eq!((answer.told("provider"), answer.told("attempts")), ("two", "2"), "{}", answer.head);
    assert!(answer.text().contains("the simulated model failed"), "{}", answer.text());
    assert!(!answer.text().contains("[DONE]"), "{}", answer.text());
    // Without a stream the same script is a good answer: nothing moves.
    let answer = gateway.ask(chat_with("dynamic/all", &[], false)).expect(200);
    assert_eq!((answer.told("provider"), answer.told("attempts")), ("sim", "1"));
}

#[test]
fn a_first_event_moves_only_for_what_moves_an_answer() {
    let (one, two) = (Provider::start(), Provider::start());
    let codes = [
        ("context_length_exceeded", false),
        ("content_filter", false),
        ("rate_limit_exceeded", true),
        ("overloaded_error", true),
        ("insufficient_quota", true),
        ("something_else", true),
    ];
    let mut tables = provider_table("two", two.address);
    for (index, (code, _)) in codes.iter().enumerate() {
        tables += &format!(
            "[[route]]\nname = \"e{index}\"\nmodel = \"a{index}/e{index},events=1,errorevent,code={code}\"\nfallbacks = [\"two/e{index}x\"]\n"
        );
        tables += &provider_table(&format!("a{index}"), one.address);
    }
    let gateway = Gateway::with_tables(&one, &tables);
    for (index, (code, moves)) in codes.iter().enumerate() {
        let answer = gateway.ask(chat_with(&format!("dynamic/e{index}"), &[], true)).expect(200);
        assert_eq!(answer.told("attempts"), if *moves { "2" } else { "1" }, "{code}: {}", answer.text());
        assert_eq!(answer.text().contains(code), !moves, "{code}: {}", answer.text());
    }
}

#[test]
fn nothing_is_tried_again_after_the_first_byte() {
    let (one, two) = (Provider::start(), Provider::start());
    let faults =
        ["cut=450", "reset=450", "stall=450", "cut=450,gap=20", "reset=450,gap=20", "errorevent,gap=20"];
    let tables: String = faults
        .iter()
        .enumerate()
        .map(|(index, fault)| {
            format!(
                "[[route]]\nname = \"f{index}\"\nmodel = \"sim/f{index},events=8,size=200,{fault}\"\nfallbacks = [\"two/f{index}x\"]\n\
                 timeouts = {{ between_bytes_secs = 1 }}\n"
            )
        })
        .collect();
    let long = "[[route]]\nname = \"long\"\nmodel = \"sim/long,size=9000000,cut=8000000\"\nfallbacks = [\"two/longx\"]\n";
    let gateway =
        Gateway::with_tables(&one, &format!("{tables}{long}{}", provider_table("two", two.address)));
    for (index, fault) in faults.iter().enumerate() {
        let answer = gateway.ask(chat_with(&format!("dynamic/f{index}"), &[], true)).expect(200);
        let text = answer.text();
        assert_eq!((answer.told("provider"), answer.told("attempts")), ("sim", "1"), "{fault}");
        assert!(text.starts_with("data: {") && text.contains("\"role\":\"assistant\""), "{fault}: {text}");
        assert!(text.contains("\"error\"") && !text.contains("[DONE]"), "{fault}: {text}");
        if fault.starts_with("errorevent") {
            assert!(text.contains("the simulated model failed"), "{text}");
        } else {
            assert_ne!(answer.ending, Ending::Whole, "{fault} ended as if it were whole: {text}");
        }
        assert_eq!(one.seen_as(&format!("\"f{index},")).len(), 1, "{fault}");
    }
    let answer = gateway.ask(chat_with("dynamic/long", &[], false)).expect(200);
    assert_ne!(answer.ending, Ending::Whole);
    assert_eq!(answer.told("attempts"), "1");
    let seen = two.seen();
    let elsewhere = seen.iter().filter(|seen| seen.0["method"] == "POST").count();
    assert_eq!(elsewhere, 0, "asked after the first byte was out");
}

#[test]
fn what_a_provider_keeps_is_asked_for_again_only_where_nothing_was_begun() {
    let (one, two) = (Provider::start(), Provider::start());
    let faults = [
        ("status=503", true, 200),
        ("status=429", true, 200),
        ("status=500", false, 500),
        ("status=502", false, 502),
        ("headcut=0", false, 502),
        ("headcut=20", false, 502),
        ("badhead=version", false, 502),
        ("status=401", false, 502),
        ("cut=10", false, 502),
    ];
    let mut tables = provider_table("two", two.address);
    for (index, (fault, ..)) in faults.iter().enumerate() {
        tables += &format!(
            "[[route]]\nname = \"s{index}\"\nmodel = \"a{index}/s{index},{fault}\"\nfallbacks = [\"two/s{index}x\"]\n"
        );
        tables += &provider_table(&format!("a{index}"), one.address);
    }
    tables += "[[route]]\nname = \"refused\"\nmodel = \"down/refused\"\nfallbacks = [\"two/refusedx\"]\n";
    let gateway = Gateway::with_tables(&one, &tables);
    let ask = |route: &str, more: &str| {
        let body = format!("{{\"model\":\"dynamic/{route}\",\"input\":\"x\"{more}}}");
        gateway.ask(post("/v1/responses", &body))
    };
    for (index, (fault, moves, status)) in faults.iter().enumerate() {
        for more in [
            "",
            ",\"store\":true",
            ",\"store\":false,\"previous_response_id\":\"r\"",
            ",\"store\":false,\"background\":true",
        ] {
            let before = two.seen_as(&format!("s{index}x")).len();
            let answer = ask(&format!("s{index}"), more);
            assert_eq!(answer.status, *status, "{fault}{more}: {}{}", answer.head, answer.text());
            let moved = two.seen_as(&format!("s{index}x")).len() - before;
            assert_eq!(moved, usize::from(*moves), "{fault}{more}");
            // Two more, and the breaker would be open.
            if *moves {
                break;
            }
        }
    }
    let answer = ask("refused", "").expect(200);
    assert_eq!(answer.told("provider"), "two", "nothing was sent to the first");
}

#[test]
fn what_a_provider_does_not_keep_moves_like_any_generation() {
    let (one, two) = (Provider::start(), Provider::start());
    let gateway = Gateway::with_tables(&one, &pair(&two, "first,status=500", "second", ""));
    let body = r#"{"model":"dynamic/r","input":"x","store":false}"#;
    let answer = gateway.ask(post("/v1/responses", body)).expect(200);
    assert_eq!(answer.told("provider"), "two");
    // A chat completion that is to be stored is left alone.
    let body = r#"{"model":"dynamic/r","messages":[],"store":true}"#;
    let answer = gateway.ask(post("/v1/chat/completions", body));
    assert_eq!((answer.status, answer.told("attempts")), (500, "1"));
    assert_eq!(two.seen_as("\"second\"").len(), 1);
}

#[test]
fn a_body_is_replayed_byte_for_byte_but_for_the_model() {
    let (one, two) = (Provider::start(), Provider::start());
    let gateway =
        Gateway::with_tables(&one, &pair(&two, "a,status=500", "a-much-longer-name-than-the-first", ""));
    let filler = |bytes: usize| "x".repeat(bytes);
    for (index, bytes) in [0, 10_000, 300_000, 2_000_000].into_iter().enumerate() {
        let body = format!(
            "{{ \"n\":{index} , \"z\" : [1.0e+1,\t\"\\u00e9\\/\"],\r\n\"model\": \"dynamic\\/r\" ,\"messages\":[ ],\"f\":\"{}\"}}",
            filler(bytes)
        );
        let answer = gateway.ask(post("/v1/chat/completions", &body)).expect(200);
        assert_eq!((answer.told("provider"), answer.told("attempts")), ("two", "2"));
        let fnv = |model: &str| {
            let body = body.replace("\"dynamic\\/r\"", &format!("\"{model}\""));
            format!("{:016x}", ringway_load::provider::fnv(body.as_bytes()))
        };
        let last = |provider: &Provider| {
            let seen = until("its body is there", || {
                provider
                    .seen_as(&format!("\"n\":{index} "))
                    .pop()
                    .filter(|seen| seen.0["outcome"] == "played")
            });
            seen.0["body_fnv"].as_str().unwrap_or_default().to_owned()
        };
        assert_eq!(last(&one), fnv("a,status=500"), "{bytes} bytes at the first");
        assert_eq!(last(&two), fnv("a-much-longer-name-than-the-first"), "{bytes} bytes at the second");
        assert_eq!(two.seen_as(&format!("\"n\":{index} "))[0].headers("authorization"), ["Bearer sk-two"]);
        assert_eq!(two.seen_as(&format!("\"n\":{index} "))[0].headers("host"), [two.address.to_string()]);
    }
}

#[test]
fn another_named_key_is_tried_unless_the_route_names_one() {
    let (one, two) = (Provider::start(), Provider::start());
    let keys = |name: &str, address: SocketAddr| {
        format!(
            "[[provider]]\nname = \"{name}\"\nbase_url = \"http://{address}/v1\"\n\
             keys = [{{ name = \"old\", key = \"sk-old\" }}, {{ name = \"new\", key = \"sk-new\" }}]\n"
        )
    };
    let tables = format!(
        "{}{}{}[[route]]\nname = \"pinned\"\nmodel = \"k3/pinned,key=sk-new\"\nkey = \"old\"\n",
        keys("k1", one.address),
        keys("k2", one.address),
        keys("k3", one.address),
    ) + &pair(&two, "unused", "unused", "").replace("name = \"r\"", "name = \"unused\"");
    let gateway = Gateway::with_tables(&one, &tables);
    for stream in [false, true] {
        let model = format!("k{}/asked,key=sk-new", 1 + u8::from(stream));
        let answer = gateway.ask(chat_with(&model, &[], stream)).expect(200);
        assert_eq!(answer.told("attempts"), "2");
        let seen = one.seen_as("\"asked,key=sk-new\"");
        let keys: Vec<_> = seen.iter().rev().take(2).flat_map(|seen| seen.headers("authorization")).collect();
        assert_eq!(keys, ["Bearer sk-new", "Bearer sk-old"]);
        assert_eq!(seen[seen.len() - 1].body(), seen[seen.len() - 2].body());
    }
    let answer = gateway.ask(chat_with("k1/neither,key=sk-none", &[], false));
    assert_eq!(answer.refusal(502), "upstream_auth_failed");
    let answer = gateway.ask(chat_with("dynamic/pinned", &[], false));
    assert_eq!(answer.refusal(502), "upstream_auth_failed");
    assert_eq!(answer.told("attempts"), "1");
    assert_eq!(one.seen_as("\"pinned,key=sk-new\"").len(), 1);
}

#[test]
fn a_refused_key_closes_its_provider_for_nobody() {
    let (one, two) = (Provider::start(), Provider::start());
    let gateway = Gateway::with_tables(&one, &pair(&two, "plain", "instead", ""));
    // One request that the provider forbids, as any client can send it.
    assert_eq!(
        gateway.ask(chat_with("sim/denied,status=403", &[], false)).refusal(502),
        "upstream_auth_failed"
    );
    for _ in 0..3 {
        let answer = gateway.ask(chat_with("sim/plain", &[], false)).expect(200);
        assert_eq!(answer.told("attempts"), "1");
    }
    let answer = gateway.ask(chat_with("dynamic/r", &[], false)).expect(200);
    assert_eq!((answer.told("provider"), answer.told("attempts")), ("sim", "1"));
    assert!(two.seen_as("\"instead\"").is_empty());
}

#[test]
fn an_sdk_that_tries_again_gets_one_attempt_and_one_failover() {
    let (one, two) = (Provider::start(), Provider::start());
    let route = |name: &str, first: &str| {
        format!(
            "[[route]]\nname = \"{name}\"\nmodel = \"{name}/a{name},{first}\"\nfallbacks = [\"two/b{name},status=500\", \"three/c{name}\"]\n"
        ) + &provider_table(name, one.address)
    };
    let tables = route("x", "status=500")
        + &route("y", "503=1")
        + &provider_table("two", two.address)
        + &provider_table("three", two.address);
    let gateway = Gateway::with_tables(&one, &tables);
    let ask =
        |name: &str, headers: &[&str]| gateway.ask(chat_with(&format!("dynamic/{name}"), headers, false));
    let answer = ask("x", &["x-stainless-retry-count: 0"]).expect(200);
    assert_eq!((answer.told("provider"), answer.told("attempts")), ("three", "3"));
    for count in ["1", "2", "7"] {
        let answer = ask("x", &[&format!("x-stainless-retry-count: {count}")]);
        assert_eq!((answer.status, answer.told("attempts")), (500, "2"), "{}", answer.head);
        assert_eq!(answer.header("x-should-retry"), Some("false"));
    }
    let answer = ask("y", &["x-stainless-retry-count: 1"]);
    assert_eq!((answer.status, answer.told("attempts")), (500, "2"), "{}", answer.head);
    assert_eq!(one.seen_as("\"ay,").len(), 1, "not once more at the same target");
}

#[test]
fn attempts_and_time_are_bounded_over_all_targets() {
    let (one, two) = (Provider::start(), Provider::start());
    let failing = (0..5).map(|index| format!("\"two/t{index},status=500\"")).collect::<Vec<_>>().join(", ");
    let many = |name: &str, more: &str| {
        format!(
            "[[route]]\nname = \"{name}\"\nmodel = \"sim/{name},status=500\"\nfallbacks = [{failing}]\n{more}\n"
        )
    };
    let tables = many("usual", "")
        + &many("one", "attempts_max = 1")
        + &many("five", "attempts_max = 5")
        + "[[route]]\nname = \"careful\"\nmodel = \"sim/careful,headcut=0\"\nfallbacks = [\"two/carefulx\"]\nretry_unanswered = false\n\
           [[route]]\nname = \"slow\"\nmodel = \"sim/slow,ttft=60000\"\nfallbacks = [\"two/slowx\"]\ntimeouts = { total_secs = 1 }\n"
        + &provider_table("two", two.address);
    let gateway = Gateway::with_tables(&one, &format!("[breaker]\nenabled = false\n{tables}"));
    for (route, attempts) in [("usual", "3"), ("one", "1"), ("five", "5")] {
        let answer = gateway.ask(chat_with(&format!("dynamic/{route}"), &[], false));
        assert_eq!((answer.status, answer.told("attempts")), (500, attempts), "{}", answer.head);
    }
    let answer = gateway.ask(chat_with("dynamic/careful", &[], false));
    assert_eq!((answer.status, answer.told("attempts")), (502, "1"), "{}{}", answer.head, answer.text());
    assert!(two.seen_as("\"carefulx\"").is_empty(), "it may be billed twice");
    let began = clock();
    let answer = gateway.ask(chat_with("dynamic/slow", &[], false));
    assert_eq!(answer.refusal(504), "upstream_timeout");
    assert_eq!(answer.told("attempts"), "1");
    assert!(two.seen_as("\"slowx\"").is_empty(), "the time was over");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[test]
fn a_client_that_leaves_ends_the_attempts() {
    let (one, two) = (Provider::start(), Provider::start());
    let tables = pair(&two, "first,status=500", "slow-second,ttft=600000", "");
    let gateway = Gateway::with_tables(&one, &tables);
    let mut client = gateway.client();
    client.send(chat_with("dynamic/r", &[], false));
    two.wait_for("\"slow-second,");
    drop(client);
    until("the second attempt is cancelled", || {
        two.seen_as("\"slow-second,").into_iter().find(|seen| seen.0["outcome"] == "aborted")
    });
    assert_eq!((one.seen_as("\"first,").len(), two.seen_as("\"slow-second,").len()), (1, 1));
}

#[test]
fn a_client_that_leaves_before_the_next_attempt_ends_them() {
    let one = Provider::start();
    let gateway = Gateway::start(&one);
    let mut client = gateway.client();
    client.send(chat_with("sim/waits,503=1", &[], false));
    until("the first attempt is over", || {
        one.seen_as("\"waits,").into_iter().find(|seen| seen.0["outcome"] == "played")
    });
    drop(client);
    until("the exchange is in the books", || (gateway.total("rw_requests_total", "") >= 1.0).then_some(()));
    assert_eq!(one.seen_as("\"waits,").len(), 1, "nobody is there any more to hear of a second");
}
