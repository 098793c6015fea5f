//! What may happen before the first byte is released, told without chance and then with it: a stream that is held back, and
//! one that is asked for twice.

use std::{rc::Rc, time::Duration};

use super::{
    regressions::{Met, STOP, STREAM, WORD, meet_in, say, text},
    upstream::Cue,
    world::{Sim, SimWorld},
};
use crate::{
    base::limits::HOLD_BACK_BYTES_MAX,
    ledger::{
        record::{Outcome, UnheardEnd},
        sheet::{AttemptResult, Hedge},
    },
};

const DONE: &str = "data: [DONE]\n\n";
const FAILED: &str = "data: {\"error\":{\"message\":\"no\",\"type\":\"server_error\",\"code\":null}}\n\n";

/// The words of the second provider.
fn other_word() -> String {
    WORD.replace("\"a\"", "\"b\"")
}

fn whole(word: &str) -> String {
    format!("{word}{word}{STOP}{DONE}")
}

fn head() -> String {
    format!("{STREAM}connection: close\r\n\r\n")
}

/// A provider that answers with these events, all at once and well.
fn says(after_ms: u64, events: &str) -> Vec<Cue> {
    vec![say(after_ms, &format!("{}{events}", head())), Cue::Fin]
}

fn refuses(after_ms: u64, status: u16) -> Vec<Cue> {
    let answer = "content-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
    vec![say(after_ms, &format!("HTTP/1.1 {status} No\r\n{answer}"))]
}

fn asks(provider: &str) -> Cue {
    let body = format!(r#"{{"model":"{provider}/s0","stream":true}}"#);
    let length = body.len();
    say(
        0,
        &format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\n\r\n{body}"
        ),
    )
}

fn world(seed: u64, first: (&'static str, Vec<Cue>), spare: Vec<Cue>) -> Rc<SimWorld> {
    world_under("", seed, first, spare)
}

fn world_under(settings: &str, seed: u64, first: (&'static str, Vec<Cue>), spare: Vec<Cue>) -> Rc<SimWorld> {
    let world = SimWorld::under(&Sim::new(seed), settings);
    world.scenes.borrow_mut().extend([first, ("spare", spare)]);
    world.health.first_token_us.set(Some(200_000));
    world
}

/// What must be so whatever the delays: many are tried.
fn held(first: &[Cue], spare: &[Cue], expect: impl Fn(&Met, &SimWorld)) {
    for seed in 0..32 {
        let world = world(seed, ("brittle", first.to_vec()), spare.to_vec());
        expect(&meet_in(&world, vec![asks("brittle")]), &world);
    }
}

fn hedged(first: &[Cue], spare: &[Cue], expect: impl Fn(&Met, &SimWorld)) {
    for seed in 0..32 {
        let world = world(seed, ("slow", first.to_vec()), spare.to_vec());
        expect(&meet_in(&world, vec![asks("slow")]), &world);
    }
}

/// The client has this answer whole, after so many attempts.
#[track_caller]
fn completed(met: &Met, expect: &str, attempts: u8) {
    let answers = met.answers();
    assert_eq!(answers.len(), 1, "{}", met.got);
    assert_eq!(text(&answers[0]), expect);
    assert!(answers[0].whole);
    assert_eq!(answers[0].field("x-ringway-attempts"), Some(&*attempts.to_string()));
    assert_eq!(met.records.len(), 1);
    assert_eq!((met.records[0].outcome(), met.records[0].attempts), (Outcome::Completed, attempts));
}

fn count(world: &SimWorld, hedge: Hedge) -> u64 {
    let sheet = world.local.sheet.borrow();
    sheet.hedges.iter().filter(|(key, _)| key.hedge == hedge).map(|(_, count)| count).sum()
}

fn attempts(world: &SimWorld, result: AttemptResult) -> u64 {
    let sheet = world.local.sheet.borrow();
    sheet.attempts.iter().filter(|(key, _)| key.result == result).map(|(_, count)| count).sum()
}

#[test]
fn what_fails_while_it_is_held_costs_the_client_nothing() {
    let begun = format!("{}{WORD}{WORD}", head());
    let lost: [Vec<Cue>; 5] = [
        vec![say(5, &begun), Cue::Fin],
        vec![say(5, &begun), Cue::Reset],
        vec![say(5, &begun), say(200, FAILED), Cue::Fin],
        vec![say(5, &(begun.clone() + FAILED)), Cue::Fin],
        vec![say(
            5,
            &format!("{STREAM}transfer-encoding: chunked\r\n\r\n{:x}\r\n{WORD}\r\nzz\r\n", WORD.len()),
        )],
    ];
    for first in lost {
        held(&first, &says(5, &whole(&other_word())), |met, world| {
            completed(met, &whole(&other_word()), 2);
            assert_eq!(world.health.failures.get(), 1, "its breaker is told");
        });
    }
}

#[test]
fn usage_of_an_answer_that_never_left_is_not_the_client_s() {
    let usage = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":5}}\n\n";
    let first = vec![say(5, &format!("{}{WORD}{usage}", head())), Cue::Fin];
    held(&first, &says(5, &whole(WORD)), |met, _| {
        completed(met, &whole(WORD), 2);
        assert!(met.records[0].estimated, "{:?}", met.records[0].tokens);
    });
}

#[test]
fn behind_its_last_held_event_a_stream_is_the_client_s() {
    let first = vec![say(5, &format!("{}{WORD}{WORD}{WORD}", head())), say(100, ""), Cue::Fin];
    held(&first, &says(5, &whole(&other_word())), |met, _| {
        let answers = met.answers();
        let rest = text(&answers[0]).strip_prefix(&WORD.repeat(3)).unwrap_or("something else");
        assert!(rest.starts_with("data: {\"error\":"), "{}", met.got);
        assert_eq!(met.records[0].attempts, 1);
    });
}

#[test]
fn a_hold_ends_with_its_time() {
    let first =
        vec![say(5, &format!("{}{WORD}", head())), say(4_000, &format!("{WORD}{STOP}{DONE}")), Cue::Fin];
    held(&first, &[], |met, _| {
        completed(met, &whole(WORD), 1);
        let first = met.first_after.unwrap();
        assert!(first >= Duration::from_millis(500) && first < Duration::from_millis(700), "{first:?}");
    });
}

#[test]
fn a_hold_ends_with_its_stream() {
    let short = format!("{STOP}{DONE}");
    held(&says(5, &short), &[], |met, _| {
        completed(met, &short, 1);
        assert!(met.first_after < Some(Duration::from_millis(200)));
    });
}

#[test]
fn a_hold_ends_where_its_buffer_does() {
    let long = WORD.replace("\"a\"", &format!("\"{}\"", "a".repeat(HOLD_BACK_BYTES_MAX)));
    let first = vec![say(5, &format!("{}{long}", head())), say(4_000, &format!("{STOP}{DONE}")), Cue::Fin];
    held(&first, &[], |met, _| {
        completed(met, &format!("{long}{STOP}{DONE}"), 1);
        assert!(met.first_after < Some(Duration::from_millis(300)), "{:?}", met.first_after);
    });
}

#[test]
fn a_client_that_leaves_while_its_stream_is_held_takes_the_upstream_with_it() {
    for seed in 0..32 {
        let first = vec![say(5, &format!("{}{WORD}", head())), say(20_000, DONE)];
        let world = world(seed, ("brittle", first), Vec::new());
        let met = meet_in(&world, vec![asks("brittle"), say(300, ""), Cue::Fin]);
        assert_eq!(met.records[0].outcome(), Outcome::ClientGone);
        let took = Duration::from_micros(met.records[0].duration_us());
        assert!(took < Duration::from_millis(500), "{took:?}");
    }
}

#[test]
fn where_there_is_nowhere_to_go_nothing_is_held() {
    for seed in 0..32 {
        let first =
            vec![say(5, &format!("{}{WORD}", head())), say(4_000, &format!("{WORD}{STOP}{DONE}")), Cue::Fin];
        let world = world(seed, ("alone", first), Vec::new());
        let met = meet_in(&world, vec![asks("alone")]);
        completed(&met, &whole(WORD), 1);
        assert!(met.first_after < Some(Duration::from_millis(300)), "{:?}", met.first_after);
    }
}

#[test]
fn the_faster_of_two_is_the_client_s_and_the_other_is_ended_at_once() {
    hedged(&says(20_000, &whole(WORD)), &says(30, &whole(&other_word())), |met, world| {
        completed(met, &whole(&other_word()), 2);
        assert_eq!((count(world, Hedge::Begun), count(world, Hedge::Won)), (1, 1));
        assert_eq!(
            (attempts(world, AttemptResult::Cancelled), attempts(world, AttemptResult::Answered)),
            (1, 1)
        );
        assert_eq!(world.health.failures.get(), 0, "who is broken off has not failed");
        assert_eq!(world.health.first_tokens.get(), 2, "the slow one's time is known to be at least so long");
        let played = world.played.borrow();
        let (slow, spare) = (&played[0], &played[1]);
        let ended = slow.conn.gateway.borrow().ended.unwrap();
        let late = ended.since(spare.asked.get().unwrap() + Duration::from_millis(30));
        assert!(late < Duration::from_millis(100), "ended {late:?} after the other began");
    });
}

#[test]
fn a_first_that_is_in_time_is_asked_alone() {
    hedged(&says(20, &whole(WORD)), &says(0, &whole(&other_word())), |met, world| {
        completed(met, &whole(WORD), 1);
        assert_eq!((count(world, Hedge::Begun), world.played.borrow().len()), (0, 1));
    });
}

#[test]
fn a_first_that_comes_after_all_wins_and_the_second_leaves_no_trace() {
    hedged(&says(450, &whole(WORD)), &says(20_000, &whole(&other_word())), |met, world| {
        completed(met, &whole(WORD), 2);
        assert_eq!((count(world, Hedge::Begun), count(world, Hedge::Won)), (1, 0));
        assert_eq!((world.health.failures.get(), world.health.first_tokens.get()), (0, 1));
        let took = Duration::from_micros(met.records[0].duration_us());
        assert!(took < Duration::from_secs(1), "{took:?}");
    });
}

#[test]
fn comments_do_not_win() {
    let first = [vec![say(5, &format!("{}: working on it\n\n", head()))], says(20_000, "")].concat();
    hedged(&first, &says(30, &whole(&other_word())), |met, _| completed(met, &whole(&other_word()), 2));
}

#[test]
fn who_fails_leaves_it_to_the_other() {
    let bad = [
        vec![say(450, ""), Cue::Reset],
        refuses(450, 500),
        says(450, FAILED),
        vec![say(450, &head()), Cue::Fin],
        vec![say(450, "HTTP/1.1 no\r\n\r\n")],
    ];
    for bad in bad {
        hedged(&bad, &says(900, &whole(&other_word())), |met, world| {
            completed(met, &whole(&other_word()), 2);
            assert_eq!((count(world, Hedge::Won), world.health.failures.get()), (1, 1));
        });
        hedged(&says(1_500, &whole(WORD)), &bad, |met, world| {
            completed(met, &whole(WORD), 2);
            assert_eq!((count(world, Hedge::Won), world.health.failures.get()), (0, 1));
        });
        hedged(&bad, &bad, |met, world| {
            // A stream that begins with an error is the client's, where there is no other.
            assert!(met.answers()[0].status / 100 == 5 || met.got.contains(FAILED), "{}", met.got);
            assert_eq!((met.records.len(), met.records[0].attempts), (1, 2));
            assert_eq!(world.health.failures.get(), 2);
        });
    }
}

#[test]
fn the_client_s_own_mistake_ends_the_race() {
    hedged(&refuses(450, 400), &says(20_000, &whole(&other_word())), |met, world| {
        assert_eq!((met.answers()[0].status, met.records[0].attempts), (400, 2));
        assert_eq!(world.health.failures.get(), 0);
        let took = Duration::from_micros(met.records[0].duration_us());
        assert!(took < Duration::from_secs(1), "{took:?}");
    });
}

#[test]
fn without_a_budget_nobody_is_asked_twice() {
    for seed in 0..32 {
        let world = world(seed, ("slow", says(2_000, &whole(WORD))), says(0, &whole(&other_word())));
        world.health.hedges_refused.set(1);
        let met = meet_in(&world, vec![asks("slow")]);
        completed(&met, &whole(WORD), 1);
        assert_eq!((count(&world, Hedge::Refused), count(&world, Hedge::Begun)), (1, 0));
        assert_eq!(world.played.borrow().len(), 1);
    }
}

#[test]
fn a_client_that_leaves_takes_both_with_it() {
    for seed in 0..64 {
        let world = world(seed, ("slow", says(20_000, &whole(WORD))), says(20_000, &whole(WORD)));
        // Also while the second is being connected to.
        let leaves_ms = 210 + seed * 10;
        let met = meet_in(&world, vec![asks("slow"), say(leaves_ms, ""), Cue::Fin]);
        assert_eq!(met.records[0].outcome(), Outcome::ClientGone);
        let took = Duration::from_micros(met.records[0].duration_us());
        assert!(took < Duration::from_millis(leaves_ms + 100), "{took:?}");
        let cancelled = attempts(&world, AttemptResult::Cancelled);
        assert_eq!(cancelled, u64::from(met.records[0].attempts));
    }
}

/// Keeps alive, and goes on without its client; both fallbacks may begin early.
const TENDED: &str = "[relay]\non_disconnect = \"drain\"\nkeep_alive_secs = 0.1\n";

#[test]
fn while_two_are_asked_their_client_has_comments_and_then_one_answer() {
    for (first_ms, second_ms, provider, word) in
        [(20_000, 800, "spare", other_word()), (1_200, 20_000, "slow", WORD.to_owned())]
    {
        for seed in 0..32 {
            let first = ("slow", says(first_ms, &whole(WORD)));
            let world = world_under(TENDED, seed, first, says(second_ms, &whole(&other_word())));
            let met = meet_in(&world, vec![asks("slow")]);
            let answers = met.answers();
            let late = format!(": x-ringway-provider={provider} x-ringway-model=s0 x-ringway-attempts=2\n\n");
            let comments = ": keep-alive\n\n".repeat(usize::try_from(met.keep_alives).unwrap());
            assert_eq!(text(&answers[0]), format!("{comments}{late}{}", whole(&word)));
            assert!(met.keep_alives >= 6, "{}", met.keep_alives);
            assert!(met.silent_at_most < Duration::from_millis(200), "{:?}", met.silent_at_most);
            assert_eq!(met.records[0].outcome(), Outcome::Completed);
            assert_eq!(attempts(&world, AttemptResult::Cancelled), 1);
            let played = world.played.borrow();
            let [slow, spare] = [&played[0], &played[1]];
            let (winner, loser) = if provider == "slow" { (slow, spare) } else { (spare, slow) };
            // The gateway is asked so late, and answered so late: the other's end is no later than a tenth of a second after.
            let think_ms = if provider == "slow" { first_ms } else { second_ms };
            let ended = loser.conn.gateway.borrow().ended.unwrap();
            let late = ended.since(winner.asked.get().unwrap() + Duration::from_millis(think_ms));
            assert!(late < Duration::from_millis(100), "ended {late:?} after the other began");
        }
    }
}

#[test]
fn a_client_that_leaves_a_race_has_its_choice_and_what_is_not_read_on_is_ended_at_once() {
    for seed in 0..64 {
        let first = ("slow", says(3_000, &whole(WORD)));
        let world = world_under(TENDED, seed, first, says(20_000, &whole(&other_word())));
        // Also before the second is asked, and while it is being connected to.
        let leaves_ms = 210 + seed * 15;
        let met = meet_in(&world, vec![asks("slow"), say(leaves_ms, ""), Cue::Fin]);
        let record = &met.records[0];
        let unheard = record.unheard.map(|unheard| unheard.end);
        if unheard.is_none() {
            // While the first was connected to: nothing had been asked.
            assert_eq!(attempts(&world, AttemptResult::Cancelled), 1, "seed {seed}");
            continue;
        }
        assert_eq!(
            (record.outcome(), unheard),
            (Outcome::ClientGone, Some(UnheardEnd::Whole)),
            "seed {seed}"
        );
        let both = record.attempts == 2;
        assert_eq!(attempts(&world, AttemptResult::Answered), 1);
        assert_eq!(attempts(&world, AttemptResult::Cancelled), u64::from(both));
        assert_eq!(world.health.failures.get(), 0);
        // The second went when the client did; the first was the one that was read on.
        let played = world.played.borrow();
        for spare in played.iter().skip(1) {
            let ended = spare.conn.gateway.borrow().ended.unwrap();
            let first_ended = played[0].conn.gateway.borrow().ended.unwrap();
            assert!(first_ended.since(ended) > Duration::from_millis(1_500), "seed {seed}");
        }
    }
}

#[test]
fn where_the_first_has_failed_the_second_is_read_on_if_it_has_been_asked() {
    let mut read_on = 0;
    for seed in 0..64 {
        let first = ("slow", refuses(250, 500));
        let world = world_under(TENDED, seed, first, says(2_000, &whole(&other_word())));
        let leaves_ms = 500 + seed * 5;
        let met = meet_in(&world, vec![asks("slow"), say(leaves_ms, ""), Cue::Fin]);
        let record = &met.records[0];
        assert_eq!(record.outcome(), Outcome::ClientGone);
        let ended: u64 = world.local.sheet.borrow().attempts.iter().map(|(_, count)| count).sum();
        assert_eq!(ended, u64::from(record.attempts), "seed {seed}: each attempt has one result");
        match record.unheard.map(|unheard| unheard.end) {
            None => assert_eq!(attempts(&world, AttemptResult::Cancelled), 1, "seed {seed}"),
            Some(UnheardEnd::Whole) => read_on += 1,
            // It had been the first's turn, and it failed without its client.
            Some(end) => assert_eq!(end, UnheardEnd::Lost, "seed {seed}"),
        }
    }
    assert!(read_on > 20, "only {read_on} were read on");
}

/// Two providers that do anything at any time, and a client that may leave: it sees one of them alone, or an error.
#[test]
fn whatever_two_do_the_client_sees_one_of_them() {
    let mut begun = 0;
    for seed in 0..3_000 {
        let sim = Sim::new(seed);
        let chance = sim.chance();
        let scene = |word: &str| {
            let think_ms = chance.pick(&[0, 150, 200, 210, 250, 300, 400, 3_000]);
            let answer = format!("{}{}", head(), whole(word));
            let cut = chance.of(0..answer.len());
            match chance.of(0..8) {
                0 => vec![say(think_ms, &answer[..cut]), Cue::Fin],
                1 => vec![say(think_ms, &answer[..cut]), Cue::Reset],
                2 => refuses(think_ms, chance.pick(&[400, 401, 429, 500, 503])),
                3 => says(think_ms, FAILED),
                4 => vec![say(think_ms, &head()), say(chance.of(0..400) as u64, &whole(word)), Cue::Fin],
                5 => vec![say(think_ms, &format!("{}: x\n\n", head())), say(300, &whole(word)), Cue::Fin],
                _ => says(think_ms, &whole(word)),
            }
        };
        let name = chance.pick(&["slow", "slow", "brittle"]);
        let (first, spare) = (scene(WORD), scene(&other_word()));
        let mut client = vec![asks(name)];
        let leaves = chance.one_in(4);
        if leaves {
            client.extend([say(chance.of(0..700) as u64, ""), Cue::Fin]);
        }
        let world = SimWorld::under(&sim, if chance.one_in(2) { TENDED } else { "" });
        world.scenes.borrow_mut().extend([(name, first), ("spare", spare)]);
        world.health.first_token_us.set(Some(200_000));
        let met = meet_in(&world, client);
        begun += count(&world, Hedge::Begun);
        assert_eq!(met.records.len(), 1, "seed {seed}");
        let got = met.answers().first().map_or(String::new(), |answer| text(answer).to_owned());
        let stray = got.match_indices(": keep-alive").any(|(at, _)| at > 0 && !got[..at].ends_with("\n\n"));
        assert!(!stray, "seed {seed}: a comment in an event: {got}");
        let got = got.replace(": keep-alive\n\n", "");
        let (ours, theirs) = (got.contains("\"a\""), got.contains("\"b\""));
        assert!(!(ours && theirs), "seed {seed}: both: {got}");
        if got.ends_with(DONE) {
            let is_one = got.ends_with(&whole(WORD)) || got.ends_with(&whole(&other_word()));
            assert!(is_one, "seed {seed}: {got}");
        }
        let asked = world.played.borrow().iter().filter(|played| played.asked.get().is_some()).count();
        assert!(asked <= usize::from(met.records[0].attempts), "seed {seed}: {asked} were asked");
        let ended: u64 = world.local.sheet.borrow().attempts.iter().map(|(_, count)| count).sum();
        assert_eq!(ended, u64::from(met.records[0].attempts), "seed {seed}: each attempt has one result");
    }
    assert!(begun > 300, "only {begun} hedges");
}
