//! Plans: order, shares, stickiness, and what names lead to.

use std::{cell::RefCell, collections::HashMap};

use super::*;
use crate::{
    config::{self, Fake},
    wire::{json::mutate, metadata::BadMetadata},
};

/// What a test says of targets; of others, that they are well and idle.
#[derive(Default)]
struct Board {
    standings: HashMap<TargetKey, Standing>,
    in_flight: HashMap<TargetKey, u32>,
    first_token_us: HashMap<TargetKey, u64>,
    asked: RefCell<Vec<TargetKey>>,
}

impl Health for Board {
    fn verdict(&self, target: TargetKey, _: Now) -> Standing {
        self.asked.borrow_mut().push(target);
        self.standings.get(&target).copied().unwrap_or(Standing::Closed)
    }

    fn in_flight(&self, target: TargetKey) -> u32 {
        self.in_flight.get(&target).copied().unwrap_or(0)
    }

    fn first_token_us(&self, target: TargetKey) -> Option<u64> {
        self.first_token_us.get(&target).copied()
    }
}

/// A target of the provider `p`.
fn key(model: &str) -> TargetKey {
    TargetKey::of("p", "default", model)
}

impl Board {
    fn standing(mut self, model: &str, standing: Standing) -> Self {
        self.standings.insert(key(model), standing);
        self
    }
}

const OPEN: Standing = Standing::Open { retry_after_ms: 5_000 };

fn compiled(routes: &str) -> Snapshot {
    let text = format!(
        "{routes}\n[[provider]]\nname = \"p\"\nbase_url = \"http://127.0.0.1:1\"\n\
         [[provider]]\nname = \"q\"\nbase_url = \"http://127.0.0.1:2\"\n"
    );
    config::compile(&text, "t", &Fake::default()).unwrap_or_else(|wrong| panic!("{wrong}")).snapshot
}

/// A route `r` with these settings.
fn service(settings: &str) -> Snapshot {
    compiled(&format!("[[route]]\nname = \"r\"\n{settings}\n"))
}

fn facts(model: &str) -> Facts<'_, 'static, 'static> {
    Facts {
        model,
        stream: false,
        user: None,
        caller: None,
        tags: &[],
        header: &|_| None,
        metadata: Told::Raw(None),
    }
}

/// The plan's targets as they are asked for.
fn names(plan: &Plan<'_>) -> Vec<String> {
    plan.targets.iter().map(|target| format!("{}/{}", target.provider.name, target.model)).collect()
}

fn planned<'a>(snapshot: &'a Snapshot, facts: &Facts<'a, '_, '_>, chance: u64, board: &Board) -> Vec<String> {
    names(&plan(snapshot, facts, chance, board, Now(0)).expect("a plan"))
}

#[track_caller]
fn leads(snapshot: &Snapshot, model: &str, expect: Result<&[&str], NoRoute>) {
    let found = plan(snapshot, &facts(model), 1, &Board::default(), Now(0));
    let found = found.map(|plan| names(&plan));
    assert_eq!(found, expect.map(|names| names.iter().map(|name| (*name).to_owned()).collect()), "{model}");
}

#[test]
fn a_name_leads_through_aliases_routes_and_addresses_in_this_order() {
    let snapshot = compiled(
        "route = [{ name = \"r\", model = \"p/routed\" }]\n\
         [aliases]\n\"gpt-4o\" = \"p/gpt-4o-2024\"\n\"gpt-*\" = \"p/gpt-*\"\n\"gpt-5*\" = \"q/five\"\n\"*\" = \"q/rest\"\n\
         \"q/old-*\" = \"p/new-*\"\n\"q/exact\" = \"dynamic/r\"\nfast = \"dynamic/r\"\n\"x/*\" = \"q/*\"\n",
    );
    leads(&snapshot, "gpt-4o", Ok(&["p/gpt-4o-2024"]));
    leads(&snapshot, "gpt-4o-mini", Ok(&["p/gpt-4o-mini"]));
    leads(&snapshot, "gpt-5-nano", Ok(&["q/five"]));
    leads(&snapshot, "claude", Ok(&["q/rest"]));
    leads(&snapshot, "meta/llama", Ok(&["q/rest"]));
    leads(&snapshot, "x/some/model", Ok(&["q/some/model"]));
    leads(&snapshot, "fast", Ok(&["p/routed"]));
    leads(&snapshot, "dynamic/r", Ok(&["p/routed"]));
    leads(&snapshot, "dynamic/s", Err(NoRoute::UnknownRoute));
    // An address is itself, unless an alias speaks of it.
    leads(&snapshot, "p/gpt-4o", Ok(&["p/gpt-4o"]));
    leads(&snapshot, "q/exact", Ok(&["p/routed"]));
    leads(&snapshot, "q/old-1", Ok(&["p/new-1"]));
    leads(&snapshot, "q/older", Ok(&["q/older"]));
    leads(&snapshot, "x/", Err(NoRoute::NoProvider));
    let plain = compiled("");
    leads(&plain, "gpt-4o", Err(NoRoute::NoProvider));
    leads(&plain, "r/x", Err(NoRoute::UnknownProvider));
    leads(&plain, "p/", Err(NoRoute::NoProvider));
    leads(&plain, "dynamic/r", Err(NoRoute::UnknownRoute));
    leads(&plain, "p/a/b", Ok(&["p/a/b"]));
}

#[test]
fn an_address_may_have_fallbacks_and_none_comes_twice() {
    let snapshot = compiled(
        "[[fallback]]\nmatch = \"p/gpt-*\"\nto = [\"q/a\", \"p/gpt-4o\", \"q/b\"]\nattempts_max = 4\n\
         [[fallback]]\nmatch = \"*\"\nto = [\"q/c\"]\n[aliases]\nnick = \"p/gpt-4o\"\n",
    );
    leads(&snapshot, "p/gpt-4o", Ok(&["p/gpt-4o", "q/a", "q/b"]));
    leads(&snapshot, "nick", Ok(&["p/gpt-4o", "q/a", "q/b"]));
    leads(&snapshot, "p/o1", Ok(&["p/o1", "q/c"]));
    leads(&snapshot, "q/c", Ok(&["q/c"]));
    let terms = |model| plan(&snapshot, &facts(model), 1, &Board::default(), Now(0)).expect("a plan").terms;
    assert_eq!((terms("p/gpt-4o").attempts_max, terms("q/c").attempts_max), (4, 3));
}

#[test]
fn the_common_plan_is_made_without_allocating() {
    let snapshot = compiled(
        "[aliases]\n\"gpt-*\" = \"p/gpt-*\"\n\"q-*\" = \"q/*\"\n[[route]]\nname = \"r\"\n\
         targets = [\"p/a\", \"p/b\"]\nfallbacks = [\"q/a\", \"q/b\"]\n",
    );
    for model in ["dynamic/r", "gpt-4o", "q-x", "p/plain"] {
        let plan = plan(&snapshot, &facts(model), 1, &Board::default(), Now(0)).expect("a plan");
        assert!(!plan.targets.spilled() && !plan.path.spilled());
        assert!(plan.targets.iter().all(|target| matches!(target.model, Cow::Borrowed(_))), "{model}");
    }
}

#[test]
fn a_plan_says_which_way_it_came() {
    let snapshot = compiled(
        "[[route]]\nname = \"r\"\nif = { field = \"stream\", op = \"==\", value = true }\n\
         then.model = \"p/a\"\nthen.key = \"default\"\n\
         else.split = [{ percent = 100, model = \"p/b\", attempts_max = 1 }]\n",
    );
    let board = Board::default();
    let streamed =
        plan(&snapshot, &Facts { stream: true, ..facts("dynamic/r") }, 1, &board, Now(0)).expect("a plan");
    assert_eq!((streamed.branch, streamed.targets[0].pinned), ("then", true));
    assert_eq!(streamed.route.map(|route| &*route.name), Some("r"));
    let plain = plan(&snapshot, &facts("dynamic/r"), 1, &board, Now(0)).expect("a plan");
    assert_eq!((plain.branch, plain.terms.attempts_max), ("else.split[0]", 1));
    let words: Vec<_> = snapshot.routes.words(&plain.path).collect();
    assert_eq!(words, ["if stream == true: false", "split: 100 %", "serve: p/b"]);
    assert_eq!(plain.targets[0].target().model, "b");
}

#[test]
fn what_is_open_is_left_out_and_says_when_it_is_back() {
    let snapshot = service("model = \"p/a\"\nfallbacks = [\"p/b\", \"p/c\"]");
    let later = Standing::Open { retry_after_ms: 9_000 };
    let board = Board::default().standing("a", OPEN).standing("b", later);
    let some = plan(&snapshot, &facts("dynamic/r"), 1, &board, Now(0)).expect("a plan");
    assert_eq!((names(&some), some.retry_after_ms), (vec!["p/c".to_owned()], Some(5_000)));
    let board = board.standing("c", later);
    let none = plan(&snapshot, &facts("dynamic/r"), 1, &board, Now(0)).expect("a plan");
    assert_eq!((names(&none).len(), none.retry_after_ms), (0, Some(5_000)));
    let well = plan(&snapshot, &facts("dynamic/r"), 1, &Board::default(), Now(0)).expect("a plan");
    assert_eq!(well.retry_after_ms, None);
    // One may try: where it stands, and it is said.
    let board = Board::default().standing("a", Standing::Probe);
    let probe = plan(&snapshot, &facts("dynamic/r"), 1, &board, Now(0)).expect("a plan");
    assert_eq!((names(&probe)[0].as_str(), probe.targets[0].standing), ("p/a", Standing::Probe));
}

/// How often each target comes first, in 20,000 plans.
fn shares<'a>(snapshot: &'a Snapshot, board: &Board, facts: &Facts<'a, '_, '_>) -> HashMap<String, u32> {
    let mut counts = HashMap::new();
    for chance in 0..20_000 {
        let first = planned(snapshot, facts, chance, board).swap_remove(0);
        *counts.entry(first).or_default() += 1;
    }
    counts
}

/// Each share within four standard deviations of what it should be.
#[track_caller]
fn check_shares(counts: &HashMap<String, u32>, expect: &[(&str, f64)]) {
    for (name, share) in expect {
        let count = f64::from(counts.get(*name).copied().unwrap_or(0));
        let far = 4.0 * (20_000.0 * share * (1.0 - share)).sqrt();
        assert!((count - 20_000.0 * share).abs() <= far, "{name} should have {share}: {counts:?}");
    }
}

#[test]
fn weights_are_shares_and_what_is_left_out_leaves_its_share_in_proportion() {
    let snapshot = service(
        "targets = [{ model = \"p/a\", weight = 6 }, { model = \"p/b\", weight = 3 }, \"p/c\"]\nfallbacks = [\"q/d\"]",
    );
    let facts = facts("dynamic/r");
    check_shares(
        &shares(&snapshot, &Board::default(), &facts),
        &[("p/a", 0.6), ("p/b", 0.3), ("p/c", 0.1), ("q/d", 0.0)],
    );
    let board = Board::default().standing("a", OPEN);
    check_shares(&shares(&snapshot, &board, &facts), &[("p/a", 0.0), ("p/b", 0.75), ("p/c", 0.25)]);
    let all = planned(&snapshot, &facts, 3, &Board::default());
    assert_eq!((all.len(), all[3].as_str()), (4, "q/d"));
}

#[test]
fn what_is_just_back_has_its_share_and_the_rest_goes_to_who_is_well() {
    let snapshot = service("model = \"p/a\"\nfallbacks = [\"p/b\"]");
    let board = Board::default().standing("a", Standing::Ramp(25));
    check_shares(&shares(&snapshot, &board, &facts("dynamic/r")), &[("p/a", 0.25), ("p/b", 0.75)]);
    // Where nobody else is, it has all.
    let board = board.standing("b", OPEN);
    check_shares(&shares(&snapshot, &board, &facts("dynamic/r")), &[("p/a", 1.0)]);
}

#[test]
fn the_least_busy_comes_first_and_equals_take_turns() {
    let snapshot = service("balance = \"least_in_flight\"\ntargets = [\"p/a\", \"p/b\", \"p/c\"]");
    let in_flight = HashMap::from([(key("a"), 7), (key("b"), 0), (key("c"), 3)]);
    let mut board = Board { in_flight, ..Board::default() };
    assert_eq!(planned(&snapshot, &facts("dynamic/r"), 1, &board), ["p/b", "p/c", "p/a"]);
    board.in_flight.insert(key("c"), 0);
    check_shares(&shares(&snapshot, &board, &facts("dynamic/r")), &[("p/b", 0.5), ("p/c", 0.5)]);
}

#[test]
fn of_two_taken_by_chance_the_faster_comes_first() {
    let snapshot = service("balance = \"fastest\"\ntargets = [\"p/a\", \"p/b\", \"p/c\"]");
    let facts = facts("dynamic/r");
    let first_token_us = HashMap::from([(key("a"), 300), (key("b"), 100), (key("c"), 200)]);
    let mut board = Board { first_token_us, ..Board::default() };
    // The slowest wins no pair, the fastest both of its pairs of three.
    let third = 1.0 / 3.0;
    check_shares(&shares(&snapshot, &board, &facts), &[("p/a", 0.0), ("p/b", 2.0 * third), ("p/c", third)]);
    // What is not known has to become known.
    board.first_token_us.remove(&key("a"));
    check_shares(&shares(&snapshot, &board, &facts), &[("p/a", 2.0 * third), ("p/b", third), ("p/c", 0.0)]);
    // Nothing is known: any.
    board.first_token_us.clear();
    check_shares(&shares(&snapshot, &board, &facts), &[("p/a", third), ("p/b", third), ("p/c", third)]);
    // Those left out are not taken into a pair.
    board.first_token_us = HashMap::from([(key("a"), 300), (key("c"), 200)]);
    let board = board.standing("b", OPEN);
    check_shares(&shares(&snapshot, &board, &facts), &[("p/c", 1.0)]);
    let board = board.standing("c", OPEN);
    assert_eq!(planned(&snapshot, &facts, 1, &board), ["p/a"]);
}

#[test]
fn the_cheapest_comes_first_and_without_a_price_the_order_is_that_of_the_list() {
    let snapshot = service(
        "balance = \"cheapest\"\ntargets = [\"p/x\", { model = \"p/a\", price = 2.5 }, { model = \"p/b\", price = 0 }, \
         { model = \"p/c\", price = 0.5 }, \"p/y\"]",
    );
    let facts = facts("dynamic/r");
    assert_eq!(planned(&snapshot, &facts, 9, &Board::default()), ["p/b", "p/c", "p/a", "p/x", "p/y"]);
    let snapshot = service("balance = \"cheapest\"\ntargets = [\"p/z\", \"p/a\", \"p/m\"]");
    assert_eq!(planned(&snapshot, &facts, 9, &Board::default()), ["p/z", "p/a", "p/m"]);
}

#[test]
fn a_key_keeps_its_target_and_only_those_move_whose_target_leaves() {
    let snapshot =
        service("balance = \"sticky\"\nsticky_by = \"user\"\ntargets = [\"p/a\", \"p/b\", \"p/c\", \"p/d\"]");
    let without_b = Board::default().standing("b", OPEN);
    let well = Board::default();
    let mut counts = HashMap::new();
    for number in 0..20_000_u64 {
        let user = format!("user-{number}");
        let facts = Facts { user: Some(&user), ..facts("dynamic/r") };
        let order = planned(&snapshot, &facts, number, &well);
        assert_eq!(planned(&snapshot, &facts, !number, &well), order, "chance has no part in it");
        let expect: Vec<_> = order.iter().filter(|name| *name != "p/b").cloned().collect();
        assert_eq!(planned(&snapshot, &facts, number, &without_b), expect, "the others keep their places");
        *counts.entry(order[0].clone()).or_default() += 1;
    }
    check_shares(&counts, &[("p/a", 0.25), ("p/b", 0.25), ("p/c", 0.25), ("p/d", 0.25)]);
    // Without a key, by chance.
    check_shares(&shares(&snapshot, &well, &facts("dynamic/r")), &[("p/a", 0.25), ("p/d", 0.25)]);
}

#[test]
fn what_requests_stick_together_by_is_found() {
    let first = |by: &str, facts: &Facts<'_, '_, '_>, chance| {
        let targets: Vec<_> = (0..30).map(|number| format!("\"p/m{number}\"")).collect();
        let targets = targets.join(", ");
        let snapshot = service(&format!("balance = \"sticky\"\nsticky_by = \"{by}\"\ntargets = [{targets}]"));
        planned(&snapshot, facts, chance, &Board::default()).swap_remove(0)
    };
    let facts = |metadata: &'static str| Facts {
        user: Some("u1"),
        caller: Some("c1"),
        header: &|name| (name == "x-session").then_some(b"s1".as_slice()),
        metadata: Told::Raw(Some(metadata.as_bytes())),
        ..facts("dynamic/r")
    };
    let told = facts(r#"{"text":"t","number":1,"flag":true,"zero":0.0,"empty":""}"#);
    for by in ["user", "caller", "header.x-session", "metadata.text", "metadata.number", "metadata.flag"] {
        assert_eq!(first(by, &told, 1), first(by, &told, 2), "{by}");
    }
    for by in ["header.x-other", "metadata.other", "metadata.empty"] {
        assert_ne!(first(by, &told, 1), first(by, &told, 2), "{by} is not there");
    }
    assert_eq!(first("metadata.zero", &told, 1), first("metadata.zero", &facts(r#"{"zero":-0}"#), 2));
}

#[test]
fn a_split_divides_by_its_percentages_and_sticks_by_its_key() {
    let split = "split = [{ percent = 90, model = \"p/a\" }, { percent = 9.5, model = \"p/b\" }, { percent = 0.5, model = \"p/c\" }]";
    let expect = [("p/a", 0.9), ("p/b", 0.095), ("p/c", 0.005)];
    check_shares(&shares(&service(split), &Board::default(), &facts("dynamic/r")), &expect);
    let snapshot = service(&format!("{split}\nsticky_by = \"user\""));
    let mut counts = HashMap::new();
    for number in 0..20_000_u64 {
        let user = number.to_string();
        let facts = Facts { user: Some(&user), ..facts("dynamic/r") };
        let first = planned(&snapshot, &facts, number, &Board::default()).swap_remove(0);
        assert_eq!(planned(&snapshot, &facts, !number, &Board::default())[0], first);
        *counts.entry(first).or_default() += 1;
    }
    check_shares(&counts, &expect);
}

#[test]
fn a_split_below_a_split_divides_those_that_come_to_it() {
    let half = |a: &str, b: &str| {
        format!("split = [{{ percent = 50, {a} }}, {{ percent = 50, {b} }}], sticky_by = \"user\"")
    };
    let model = |name: &str| format!("model = \"p/{name}\"");
    let inner = |a: &str, b: &str| half(&model(a), &model(b));
    let tree = half(&inner("a", "b"), &inner("c", "d"));
    let snapshot = compiled(&format!("route = [{{ name = \"r\", {tree} }}]"));
    let mut counts = HashMap::new();
    for number in 0..20_000_u64 {
        let user = number.to_string();
        let facts = Facts { user: Some(&user), ..facts("dynamic/r") };
        *counts.entry(planned(&snapshot, &facts, 0, &Board::default()).swap_remove(0)).or_default() += 1;
    }
    check_shares(&counts, &[("p/a", 0.25), ("p/b", 0.25), ("p/c", 0.25), ("p/d", 0.25)]);
}

#[test]
fn metadata_that_cannot_be_read_is_refused_where_it_would_be_looked_at() {
    let looks = service(
        "if = { field = \"metadata.a\", op = \"==\", value = 1 }\nthen.model = \"p/a\"\nelse.model = \"p/b\"",
    );
    let does_not = service("model = \"p/a\"");
    let facts = Facts { metadata: Told::Raw(Some(b"{")), ..facts("dynamic/r") };
    let refused = plan(&looks, &facts, 1, &Board::default(), Now(0)).map(|plan| names(&plan));
    assert_eq!(refused, Err(NoRoute::BadMetadata(BadMetadata::NotJson)));
    assert_eq!(planned(&does_not, &facts, 1, &Board::default()), ["p/a"]);
    // None at all is not bad.
    let none = Facts { metadata: Told::Raw(None), ..facts };
    assert_eq!(planned(&looks, &none, 1, &Board::default()), ["p/b"]);
}

#[test]
fn each_target_is_asked_after_once() {
    let snapshot = service("targets = [\"p/a\", \"p/b\"]\nfallbacks = [\"p/c\"]");
    let board = Board::default();
    planned(&snapshot, &facts("dynamic/r"), 1, &board);
    assert_eq!(*board.asked.borrow(), [key("a"), key("b"), key("c")]);
}

#[test]
fn no_route_is_too_odd() {
    let seeds: [&[u8]; 4] = [
        b"\x01\x02[[route]]\nname = \"r\"\nif = { any = [{ field = \"metadata.a\", op = \"==\", value = 1 }, \
          { not = { field = \"stream\", op = \"==\", value = true } }] }\nthen.model = \"p/a\"\n\
          else.split = [{ percent = 40, model = \"p/b\" }, { percent = 60, targets = [\"q/c\", \"q/d\"], \
          balance = \"fastest\", fallbacks = [\"p/e\"] }]\nelse.sticky_by = \"metadata.a\"\n\0{\"a\":1}",
        b"\x07\xf0[aliases]\n\"gpt-*\" = \"p/x-*\"\n\"*\" = \"dynamic/r\"\n[[route]]\nname = \"r\"\n\
          targets = [{ model = \"p/a\", weight = 3 }, \"q/b\"]\nbalance = \"sticky\"\nsticky_by = \"header.x\"\0{}",
        b"ab[[fallback]]\nmatch = \"p/*\"\nto = [\"q/a\", \"q/b\", \"q/c\", \"q/d\", \"q/e\"]\n\0",
        b"zz[[route]]\nname = \"r\"\nif = { all = [{ field = \"metadata.s\", op = \"in\", value = [\"a\", 2, true] }, \
          { field = \"caller.tag\", op = \"exists\" }, { field = \"header.h\", op = \"starts_with\", value = \"a\" }] }\n\
          then = { model = \"p/a\", timeouts = { total_secs = 1 } }\nelse = { model = \"q/a\", attempts_max = 1 }\n\0{\"s\":2}",
    ];
    mutate::each(&seeds, 3_000, fuzz_route);
}
