//! Exchanges that are tended, told without chance: who is kept alive, what is read without its client, and what neither may do.

use std::time::Duration;

use super::{
    regressions::{Met, STOP, STREAM, WORD, chat, meet_under, say, text},
    upstream::Cue,
};
use crate::{
    base::limits,
    exchange::tending::COMMENT,
    ledger::record::{Outcome, UnheardEnd},
};

const USAGE: &str = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":5}}\n\n";
const DONE: &str = "data: [DONE]\n\n";
const FALLBACK: &str = "[[fallback]]\nmatch = \"plain/*\"\nto = [\"asks/other\"]\nkeep_alive_secs = 1\n";

fn chunk(event: &str) -> String {
    format!("{:x}\r\n{event}\r\n", event.len())
}

fn head() -> String {
    format!("{STREAM}transfer-encoding: chunked\r\n\r\n")
}

fn comment() -> &'static str {
    std::str::from_utf8(COMMENT).unwrap()
}

/// What a stream that was begun early says of its answer, as soon as there is one.
fn late(provider: &str, attempts: u8) -> String {
    format!(": x-ringway-provider={provider} x-ringway-model=s0 x-ringway-attempts={attempts}\n\n")
}

/// What must hold whatever the delays.
#[track_caller]
fn check(settings: &str, client: &[Cue], scenes: &[Vec<Cue>], expect: impl Fn(&Met)) {
    for seed in 0..24 {
        expect(&meet_under(settings, seed, client.to_vec(), scenes.to_vec()));
    }
}

fn streams() -> Cue {
    chat("1.1", "", r#","stream":true"#)
}

/// A client that leaves after so long.
fn leaves(after_ms: u64) -> [Cue; 3] {
    [streams(), say(after_ms, ""), Cue::Fin]
}

#[test]
fn a_silent_stream_has_comments_between_its_events_and_nowhere_else() {
    let scene = vec![
        say(0, &(head() + &chunk(WORD))),
        say(3_600, &chunk(STOP)),
        say(0, &(chunk(DONE) + "0\r\n\r\n")),
    ];
    let settings = "[relay]\nkeep_alive_secs = 1\n";
    check(settings, &[streams()], std::slice::from_ref(&scene), |met| {
        assert_eq!(text(&met.answers()[0]), format!("{WORD}{}{STOP}{DONE}", comment().repeat(3)));
        assert_eq!((met.records[0].outcome(), met.keep_alives), (Outcome::Completed, 3));
        assert_eq!(met.records[0].bytes_out, met.answers()[0].payload.len() as u64);
    });
    let http10 = chat("1.0", "", r#","stream":true"#);
    check(settings, &[http10], std::slice::from_ref(&scene), |met| {
        assert_eq!(text(&met.answers()[0]), format!("{WORD}{}{STOP}{DONE}", comment().repeat(3)));
    });
    check("", &[streams()], &[scene], |met| assert_eq!(met.keep_alives, 0));
}

#[test]
fn an_event_that_leaves_in_parts_is_not_interrupted() {
    let half =
        format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{}", "a".repeat(80 << 10));
    let rest = "\"}}]}\n\n";
    let scene = vec![
        say(0, &(head() + &chunk(WORD) + &chunk(&half))),
        say(5_000, &chunk(rest)),
        say(1_500, &(chunk(STOP) + "0\r\n\r\n")),
    ];
    check("[relay]\nkeep_alive_secs = 1\n", &[streams()], &[scene], |met| {
        assert_eq!(text(&met.answers()[0]), format!("{WORD}{half}{rest}{}{STOP}", comment()));
    });
}

#[test]
fn nothing_is_said_before_the_first_event_unless_that_may_commit() {
    let scene = vec![say(3_500, &(head() + &chunk(WORD) + &chunk(STOP) + "0\r\n\r\n"))];
    check(FALLBACK, &[streams()], std::slice::from_ref(&scene), |met| {
        assert_eq!((met.keep_alives, text(&met.answers()[0])), (0, &*format!("{WORD}{STOP}")));
    });
    let commits = format!("{FALLBACK}keep_alive_commits = true\n");
    check(&commits, &[streams()], &[scene], |met| {
        let answer = &met.answers()[0];
        assert!(answer.whole && met.keep_alives >= 3, "{}", met.got);
        let comments = comment().repeat(usize::try_from(met.keep_alives).unwrap());
        assert_eq!(text(answer), format!("{comments}{}{WORD}{STOP}", late("plain", 1)));
        assert_eq!(answer.field("content-type"), Some("text/event-stream"));
        for name in ["provider", "model", "route", "attempts"] {
            let told = answer.field(&format!("x-ringway-{name}"));
            assert_eq!(told, Some("-"), "{name}: nobody had answered");
        }
        assert_eq!(met.records[0].bytes_out, answer.payload.len() as u64);
        assert_eq!((met.records[0].outcome(), met.records[0].status), (Outcome::Completed, 200));
    });
}

#[test]
fn a_stream_that_was_begun_early_still_moves_to_the_next_target() {
    let commits = format!("{FALLBACK}keep_alive_commits = true\n");
    let good = vec![say(0, &(head() + &chunk(WORD) + &chunk(STOP) + "0\r\n\r\n"))];
    let error = r#"{"error":{"message":"no","type":"server_error","code":"x"}}"#;
    let status = format!(
        "HTTP/1.1 503 No\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{error}",
        error.len()
    );
    let json = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
    let bad: [Vec<Cue>; 4] = [
        vec![say(2_500, &status)],
        vec![say(2_500, ""), Cue::Fin],
        vec![say(2_500, &(head() + &chunk(&format!("data: {error}\n\n")) + "0\r\n\r\n"))],
        vec![say(2_500, json)],
    ];
    for (number, scene) in bad.into_iter().enumerate() {
        check(&commits, &[streams()], &[scene.clone(), good.clone()], |met| {
            let answer = &met.answers()[0];
            assert!(answer.whole && met.keep_alives >= 2, "{}", met.got);
            let events = text(answer).replace(comment(), "");
            assert_eq!(events, format!("{}{WORD}{STOP}", late("asks", 2).replace("s0", "other")));
            assert_eq!((met.records[0].attempts, met.records[0].outcome()), (2, Outcome::Completed));
        });
        // And where every target fails, the client is told by an event, and by an end that is none, but for a stream that
        // is whole and says itself that it failed.
        check(&commits, &[streams()], &[scene], |met| {
            let answer = &met.answers()[0];
            let events = text(answer).replace(comment(), "");
            let told = late("asks", 2).replace("s0", "other");
            let error = events.strip_prefix(&told).unwrap_or_default();
            assert!(answer.whole == (number == 2) && error.starts_with("data: {\"error\":{"), "{}", met.got);
            assert_eq!(met.records[0].bytes_out, answer.payload.len() as u64);
            assert_eq!((answer.status, met.records[0].status), (200, 200));
            assert_ne!(met.records[0].outcome(), Outcome::Completed);
        });
    }
}

/// A chat that asks for a stream of this model.
fn streams_of(model: &str) -> Cue {
    let Cue::Say(after, request) = streams() else { return streams() };
    let request = String::from_utf8(request).unwrap();
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let longer = body.replace("plain/s0", model);
    let head = head.replace(&format!("length: {}", body.len()), &format!("length: {}", longer.len()));
    Cue::Say(after, format!("{head}\r\n\r\n{longer}").into_bytes())
}

/// Comments come in time whatever is waited for: a connection, a back-off, an answer, a second target.
#[test]
fn a_stream_that_may_begin_early_is_never_silent_for_longer() {
    let commits = "[[fallback]]\nmatch = \"silent/*\"\nto = [\"asks/other\"]\nkeep_alive_secs = 0.3\nkeep_alive_commits = true\n\
                   [[fallback]]\nmatch = \"plain/*\"\nto = [\"asks/other\"]\nkeep_alive_secs = 0.3\nkeep_alive_commits = true\n";
    let good = vec![say(0, &(head() + &chunk(WORD) + &chunk(STOP) + "0\r\n\r\n"))];
    // Two seconds of a connect that comes to nothing.
    check(commits, &[streams_of("silent/s0")], std::slice::from_ref(&good), |met| {
        let events = text(&met.answers()[0]).replace(comment(), "");
        assert_eq!(events, format!("{}{WORD}{STOP}", late("asks", 2).replace("s0", "other")));
        assert!(met.keep_alives >= 6, "{}", met.got);
        assert!(met.first_after < Some(Duration::from_millis(400)), "{:?}", met.first_after);
        assert!(met.silent_at_most < Duration::from_millis(400), "{:?}", met.silent_at_most);
    });
    // And one of a back-off that the provider asked for.
    let busy = "HTTP/1.1 503 No\r\ncontent-type: application/json\r\nretry-after-ms: 1000\r\ncontent-length: 2\r\n\r\n{}";
    let scenes = [vec![say(0, busy)], good.clone()];
    check(commits, &[streams()], &scenes, |met| {
        let events = text(&met.answers()[0]).replace(comment(), "");
        assert_eq!(events, format!("{}{WORD}{STOP}", late("plain", 2)));
        assert!(met.keep_alives >= 3, "{}", met.got);
        assert!(met.silent_at_most < Duration::from_millis(400), "{:?}", met.silent_at_most);
    });
    // An answer that trickles in, head and error alike, then a second target that thinks.
    let trickle = [
        say(700, "HTTP/1.1 500 No\r\ncontent-type: appl"),
        say(700, "ication/json\r\ncontent-length: 2\r\n\r\n"),
        say(700, "{"),
        say(700, "}"),
    ];
    let thinks = vec![
        say(700, &head()),
        say(700, &chunk(": thinking\n\n")),
        say(700, &chunk(WORD)),
        say(0, &(chunk(STOP) + "0\r\n\r\n")),
    ];
    check(commits, &[streams()], &[trickle.to_vec(), thinks], |met| {
        assert_eq!(met.records[0].attempts, 2);
        assert!(text(&met.answers()[0]).ends_with(&format!("{WORD}{STOP}")), "{}", met.got);
        assert!(met.keep_alives >= 13, "{}", met.got);
        assert!(met.silent_at_most < Duration::from_millis(400), "{:?}", met.silent_at_most);
    });
}

#[test]
fn a_client_that_leaves_while_nobody_thinks_for_it_ends_what_goes_on_at_once() {
    let drains = "[relay]\non_disconnect = \"drain\"\n[[fallback]]\nmatch = \"silent/*\"\nto = [\"asks/other\"]\nkeep_alive_secs = 0.3\nkeep_alive_commits = true\n";
    let ends = |met: &Met, attempts: u8| {
        let record = &met.records[0];
        assert_eq!(
            (record.outcome(), record.unheard, record.attempts),
            (Outcome::ClientGone, None, attempts)
        );
        let took = Duration::from_micros(record.duration_us());
        assert!(took < Duration::from_millis(1_100), "{took:?}");
    };
    // While it is connected for.
    check(drains, &[streams_of("silent/s0"), say(1_000, ""), Cue::Fin], &[vec![]], |met| ends(met, 1));
    // While a back-off goes on: the request before it has been answered.
    let busy = "HTTP/1.1 503 No\r\ncontent-type: application/json\r\nretry-after-ms: 1000\r\ncontent-length: 2\r\n\r\n{}";
    for more in ["keep_alive_secs = 0.3\n", ""] {
        let drains = format!("[relay]\non_disconnect = \"drain\"\n{more}");
        check(&drains, &leaves(700), &[vec![say(0, busy)], vec![say(0, busy)]], |met| ends(met, 1));
    }
}

#[test]
fn a_client_that_leaves_before_the_first_event_has_its_choice_too() {
    let commits = format!("{FALLBACK}keep_alive_commits = true\n");
    let drains = format!("{commits}[relay]\non_disconnect = \"drain\"\n");
    let late = vec![say(
        9_000,
        &(head() + &chunk(WORD) + &chunk(STOP) + &chunk(USAGE) + &chunk(DONE) + "0\r\n\r\n"),
    )];
    check(&commits, &leaves(2_500), std::slice::from_ref(&late), |met| {
        let record = &met.records[0];
        assert_eq!((record.outcome(), record.unheard, met.pooled), (Outcome::ClientGone, None, 0));
        assert_eq!((record.status, record.attempts), (200, 1));
        assert!(Duration::from_micros(record.duration_us()) < Duration::from_secs(3));
    });
    check(&drains, &leaves(2_500), &[late], |met| {
        let record = &met.records[0];
        assert_eq!(record.unheard.map(|unheard| unheard.end), Some(UnheardEnd::Whole));
        assert_eq!((record.outcome(), record.tokens.completion), (Outcome::ClientGone, Some(5)));
        assert_eq!((record.attempts, met.pooled), (1, 1));
    });
    // It fails after all: nobody is there for whom another could be asked.
    let good = vec![say(0, &(head() + &chunk(WORD) + &chunk(STOP) + "0\r\n\r\n"))];
    let refuses = "HTTP/1.1 503 No\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
    for bad in [vec![say(5_000, refuses)], vec![say(5_000, ""), Cue::Fin]] {
        check(&drains, &leaves(2_500), &[bad, good.clone()], |met| {
            let record = &met.records[0];
            assert_eq!(record.unheard.map(|unheard| unheard.end), Some(UnheardEnd::Lost));
            assert_eq!((record.outcome(), record.attempts, met.pooled), (Outcome::ClientGone, 1, 0));
        });
    }
}

#[test]
fn an_error_that_is_the_client_s_own_is_its_event() {
    let commits = format!("{FALLBACK}keep_alive_commits = true\n");
    let error =
        "{\n \"error\": {\"message\":\"no such voice\",\"type\":\"invalid_request_error\",\"code\":null}\n}";
    let status = format!(
        "HTTP/1.1 400 No\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{error}",
        error.len()
    );
    check(&commits, &[streams()], &[vec![say(2_500, &status)]], |met| {
        let events = text(&met.answers()[0]).replace(comment(), "");
        assert_eq!(events, format!("{}data: {}\n\n", late("plain", 1), error.replace('\n', " ")));
        assert_eq!((met.records[0].attempts, met.answers()[0].whole), (1, false));
    });
}

/// Everything is kept, whoever calls.
const KEPT: &str =
    "[state]\ndir = \"/s\"\n[auth]\nrequired = false\n[logs]\nsample = 1\npayload = \"always\"\n";

#[test]
fn what_is_said_in_an_answer_that_was_begun_for_nobody_is_kept_as_it_was_said() {
    let commits = format!("{FALLBACK}keep_alive_commits = true\n{KEPT}");
    let refuses = "HTTP/1.1 400 No\r\ncontent-type: application/json\r\ncontent-length: 16\r\n\r\n{\"error\":{\"a\":1}}";
    let good = vec![say(2_500, &(head() + &chunk(WORD) + &chunk(STOP) + &chunk(DONE) + "0\r\n\r\n"))];
    for (scene, is_refused) in
        [(vec![say(2_500, refuses)], true), (vec![say(2_500, ""), Cue::Fin], true), (good, false)]
    {
        check(&commits, &[streams()], &[scene], |met| {
            // Comments are no part of what was said.
            let said: String = text(&met.answers()[0])
                .split_inclusive("\n\n")
                .filter(|said| !said.starts_with(':'))
                .collect();
            assert_eq!(said.starts_with("data: {\"error\":"), is_refused, "{said}");
            let payload = met.lines[0].payload.as_ref().expect("it is kept");
            assert_eq!(String::from_utf8_lossy(&payload.response.bytes), said);
            assert!(payload.is_stream && payload.response.is_whole() && payload.request.whole_bytes > 0);
        });
    }
}

#[test]
fn an_answer_whose_client_left_is_read_to_its_end_and_its_connection_kept() {
    let scene = vec![
        say(0, &(head() + &chunk(WORD))),
        say(3_000, &(chunk(STOP) + &chunk(USAGE))),
        say(2_000, &(chunk(DONE) + "0\r\n\r\n")),
    ];
    check("[relay]\non_disconnect = \"drain\"\n", &leaves(1_500), std::slice::from_ref(&scene), |met| {
        let record = &met.records[0];
        let unheard = record.unheard.expect("it was read on");
        assert_eq!((record.outcome(), unheard.end), (Outcome::ClientGone, UnheardEnd::Whole));
        assert_eq!(
            (record.tokens.prompt, record.tokens.completion, record.estimated),
            (Some(7), Some(5), false)
        );
        assert_eq!((record.status, met.pooled), (200, 1));
        assert!(unheard.bytes >= (STOP.len() + DONE.len()) as u64);
    });
    check(
        "[relay]\non_disconnect = \"drain_until_usage\"\n",
        &leaves(1_500),
        std::slice::from_ref(&scene),
        |met| {
            let record = &met.records[0];
            assert_eq!(record.unheard.map(|unheard| unheard.end), Some(UnheardEnd::Usage));
            assert_eq!((record.tokens.completion, met.pooled), (Some(5), 0));
        },
    );
    check("", &leaves(1_500), &[scene], |met| {
        assert_eq!((met.records[0].unheard, met.pooled), (None, 0));
        assert!(met.records[0].estimated);
    });
}

#[test]
fn what_is_to_be_told_by_its_words_is_counted_and_logged_once() {
    let usage_comes = vec![say(0, &(head() + &chunk(WORD) + &chunk(USAGE) + &chunk(DONE) + "0\r\n\r\n"))];
    let none_comes = vec![say(0, &(head() + &chunk(WORD) + &chunk(STOP) + &chunk(DONE) + "0\r\n\r\n"))];
    for (scene, estimated) in [(usage_comes, false), (none_comes, true)] {
        check("[usage]\nestimate = \"bpe\"\n", &[streams()], &[scene], |met| {
            let record = &met.records[0];
            assert_eq!((met.records.len(), record.outcome()), (1, Outcome::Completed));
            assert_eq!((record.estimated, record.by_vocabulary), (estimated, false));
            assert!(record.tokens.completion > Some(0));
        });
    }
}

#[test]
fn an_answer_that_nobody_hears_ends_in_time_and_a_lost_one_is_not_asked_for_again() {
    let word = format!("{}{}", head(), chunk(WORD));
    let mut endless = vec![say(0, &word)];
    endless.extend((0..40).map(|_| say(10_000, &chunk(WORD))));
    let drain = "[relay]\non_disconnect = \"drain\"\n";
    check(drain, &leaves(500), &[endless], |met| {
        let record = &met.records[0];
        assert_eq!(record.unheard.map(|unheard| unheard.end), Some(UnheardEnd::OverBound));
        let took = Duration::from_micros(record.duration_us());
        assert!(took < limits::UNHEARD_TIME + Duration::from_secs(2), "{took:?}");
    });
    check(drain, &leaves(500), &[vec![say(0, &word), say(2_000, ""), Cue::Fin]], |met| {
        let record = &met.records[0];
        assert_eq!(record.unheard.map(|unheard| unheard.end), Some(UnheardEnd::Lost));
        assert_eq!((record.outcome(), record.attempts), (Outcome::ClientGone, 1));
    });
    // A body that is held until it is whole: nothing of it had left, and it is counted all the same.
    let json = r#"{"usage":{"prompt_tokens":7,"completion_tokens":5}}"#;
    let json_head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
    let held =
        vec![say(0, &format!("{json_head}content-length: {}\r\n\r\n{{", json.len())), say(3_000, &json[1..])];
    check(drain, &[chat("1.1", "", ""), say(1_500, ""), Cue::Fin], &[held], |met| {
        let record = &met.records[0];
        assert_eq!((record.status, record.tokens.completion, met.pooled), (0, Some(5), 1));
        assert_eq!(record.outcome(), Outcome::ClientGone);
    });
    // Nor where it is lost before it began: no other target is asked for a client that has left.
    let silent = vec![say(5_000, ""), Cue::Fin];
    check(drain, &leaves(1_500), &[silent], |met| {
        let record = &met.records[0];
        assert_eq!((record.unheard.map(|unheard| unheard.end), record.attempts), (Some(UnheardEnd::Lost), 1));
    });
}
