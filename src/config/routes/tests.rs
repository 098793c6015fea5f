//! Routes, aliases and fallbacks as texts: what is said of the wrong ones.

use super::super::tests::{check, check_fix, compiled};

const PROVIDERS: &str = "[[provider]]\nname = \"openai\"\nkeys = [{ name = \"main\", key = \"${OPENAI_API_KEY}\" }, \
                         { name = \"team-a\", key = \"${OPENAI_API_KEY}\" }]\n\
                         [[provider]]\nname = \"local\"\nbase_url = \"http://127.0.0.1:9000/v1\"\n";

/// Complaints about a text that stands before two good providers.
#[track_caller]
fn complains(text: &str, expect: &[&str]) {
    check(&format!("{text}\n{PROVIDERS}"), expect);
}

/// Complaints about a route whose settings these are, the first in line 3.
#[track_caller]
fn route(settings: &str, expect: &[&str]) {
    complains(&format!("[[route]]\nname = \"r\"\n{settings}"), expect);
}

/// Complaints about a condition, which begins in column 6 of line 3.
#[track_caller]
fn condition(condition: &str, expect: &[&str]) {
    route(&format!("if = {condition}\nthen.model = \"openai/a\"\nelse.model = \"local/b\""), expect);
}

#[test]
fn the_documented_route_compiles_to_its_tree() {
    let text = format!(
        r#"
[[route]]
name = "support"
if = {{ field = "metadata.plan", op = "==", value = "pro" }}
[route.then]
model = "openai/gpt-4o"
key = "team-a"
fallbacks = ["local/llama", {{ model = "openai/gpt-4o", key = "main" }}]
attempts_max = 2
timeouts = {{ first_token_secs = 8, total_secs = 60 }}
retry_missing_model = true
[route.else]
split = [
    {{ percent = 99.5, targets = [{{ model = "local/a", weight = 3 }}, "local/b"] }},
    {{ percent = 0.5, if = {{ field = "stream", op = "==", value = true }}, then.model = "local/c", else.model = "local/d" }},
]
sticky_by = "metadata.user"
{PROVIDERS}"#
    );
    let loaded = compiled(&text);
    assert_eq!(loaded.warnings, []);
    let routes = loaded.snapshot.routes;
    let route = routes.route("support").expect("there");
    assert!(route.reads_metadata && routes.route("dynamic/support").is_none());
    let places: Vec<_> = routes.spots.iter().map(|spot| &*spot.place).collect();
    assert_eq!(
        places,
        ["", "then", "else", "else.split[0]", "else.split[1]", "else.split[1].then", "else.split[1].else"]
    );
    let words: Vec<_> = routes.words(&[0, 2, 4, 5]).collect();
    assert_eq!(
        words,
        ["if metadata.plan == \"pro\": false", "split: 0.5 %", "if stream == true: true", "serve: local/c"]
    );
    assert_eq!(
        routes.words(&[1]).collect::<Vec<_>>(),
        ["serve: openai/gpt-4o, then local/llama, then openai/gpt-4o"]
    );
    let service = &routes.services[0];
    let aims = &routes.targets[service.own.start..service.fallbacks.end];
    let aims: Vec<_> = aims.iter().map(|aim| (aim.model(), aim.key, aim.pinned)).collect();
    assert_eq!(aims, [("gpt-4o", 1, true), ("llama", 0, false), ("gpt-4o", 0, true)]);
    let terms = service.terms;
    assert_eq!((terms.attempts_max, terms.retry_unanswered, terms.retry_missing_model), (2, true, true));
    assert_eq!(terms.timeouts.first_token.map(|time| time.as_secs()), Some(8));
    let over = terms.timeouts.over(loaded.snapshot.providers[0].timeouts);
    assert_eq!((over.total.as_secs(), over.connect), (60, loaded.snapshot.providers[0].timeouts.connect));
}

#[test]
fn a_route_has_a_name_of_its_own() {
    complains("[[route]]\nmodel = \"openai/a\"", &["1:1 route[0]: this route has no name"]);
    complains("[[route]]\nname = \"A\"\nmodel = \"openai/a\"", &["2:8 route[0].name: `A` is not a name"]);
    complains(
        "[[route]]\nname = \"a\"\nmodel = \"openai/a\"\n[[route]]\nname = \"a\"\nmodel = \"openai/a\"",
        &["5:8 route[1].name: route[0] already has this name"],
    );
}

#[test]
fn a_branch_is_one_of_three_things_and_leads_somewhere() {
    let model = "{ model = \"openai/a\" }";
    let when = "if = { field = \"stream\", op = \"==\", value = true }";
    route("", &["1:1 route[0]: this branch is empty: nothing serves it"]);
    route("fallbacks = []", &["1:1 route[0]: this branch is empty: nothing serves it"]);
    route(
        &format!("{when}\nthen = {model}\nelse = {{}}"),
        &["5:8 route[0].else: this branch is empty: nothing serves it"],
    );
    route(&format!("{when}\nthen = {model}"), &["1:1 route[0]: this condition has no `else`"]);
    route(
        when,
        &["1:1 route[0]: this condition has no `then`", "1:1 route[0]: this condition has no `else`"],
    );
    route(
        &format!("{when}\nmodel = \"openai/a\""),
        &["1:1 route[0]: a branch is one of a condition, a split and a model service"],
    );
    route(
        &format!("model = \"openai/a\"\nelse = {model}"),
        &["4:8 route[0].else: `else` follows an `if`, and there is none here"],
    );
    route(
        &format!("{when}\nthen = {model}\nelse = {model}\nattempts_max = 2\nsticky_by = \"user\""),
        &[
            "6:16 route[0].attempts_max: `attempts_max` belongs to a model service",
            "7:13 route[0].sticky_by: a condition is not sticky",
        ],
    );
    route("model = \"openai/a\"\nmodle = 1", &["4:1 route[0]: there is no `modle` here"]);
    route(
        &format!("{when}\nthen = {model}\nelse = \"openai/a\""),
        &["5:8 route[0].else: this is a string, not a table"],
    );
}

#[test]
fn targets_are_configured_providers_and_keys() {
    route("model = \"gpt-4o\"", &["3:9 route[0].model: `gpt-4o` is a model without a provider"]);
    route("model = \"opnai/a\"", &["3:9 route[0].model: `opnai/a` begins with no configured provider"]);
    check_fix(
        &format!("[[route]]\nname = \"r\"\nmodel = \"opnai/a\"\n{PROVIDERS}"),
        "did you mean \"openai/…\"?",
    );
    route("model = \"dynamic/r\"", &["3:9 route[0].model: a route cannot lead to another route"]);
    route("model = \"openai/\"", &["3:9 route[0].model: `openai/` names no model"]);
    route("model = \"openai/a b\"", &["3:9 route[0].model: `openai/a b` names no model"]);
    route(
        "model = \"openai/${HOST}\"",
        &["3:9 route[0].model: routes are shown, and nothing in them is looked up elsewhere"],
    );
    route("model = \"openai/a\"\nkey = \"team-b\"", &["4:7 route[0].key: openai has no key `team-b`"]);
    route(
        "model = \"openai/a\"\nfallbacks = [\"openai/b\", \"openai/a\", { model = \"openai/a\", key = \"main\" }]",
        &[
            "4:26 route[0].fallbacks[1]: this target is here already",
            "4:48 route[0].fallbacks[2].model: this target is here already",
        ],
    );
    route("targets = []", &["3:11 route[0].targets: there is no target in this list"]);
    route("targets = \"openai/a\"", &["3:11 route[0].targets: this is not a list of targets"]);
    route("targets = [{ key = \"main\" }]", &["3:12 route[0].targets[0]: this target has no model"]);
    route(
        "model = \"openai/a\"\ntargets = [\"local/b\"]",
        &["4:11 route[0].targets: there is a `model` already"],
    );
    route("targets = [\"openai/a\"]\nkey = \"main\"", &["4:7 route[0].key: each target has its own key"]);
    route(
        "targets = [{ model = \"openai/a\", weight = 0 }]",
        &["3:43 route[0].targets[0].weight: this number is out of range"],
    );
    route(
        "balance = \"cheapest\"\ntargets = [{ model = \"openai/a\", weight = 2, price = -1 }]",
        &[
            "4:43 route[0].targets[0].weight: a weight counts only among the `targets` of balance = \"weighted\"",
            "4:54 route[0].targets[0].price: this is not a price",
        ],
    );
    // A provider with a mistake of its own is not unknown.
    check(
        "[[route]]\nname = \"r\"\nmodel = \"openai/a\"\n[[provider]]\nname = \"openai\"\nallow_http = 1",
        &["6:14 provider[0].allow_http: this is a whole number, not true or false"],
    );
}

#[test]
fn balance_and_what_it_sticks_to_go_together() {
    let sticky = |by: &str| format!("model = \"openai/a\"\nbalance = \"sticky\"\nsticky_by = \"{by}\"");
    for by in ["user", "caller", "header.x-session", "metadata.session"] {
        route(&sticky(by), &[]);
    }
    route(&sticky("ip"), &["5:13 route[0].sticky_by: `ip` is nothing that requests have in common"]);
    route(&sticky("metadata."), &["5:13 route[0].sticky_by: no key of the metadata is named"]);
    route(
        &sticky("header.authorization"),
        &["5:13 route[0].sticky_by: this field carries a credential, and routes are shown"],
    );
    route(
        "model = \"openai/a\"\nbalance = \"sticky\"",
        &["1:1 route[0]: it is not said by what requests stick together"],
    );
    route("model = \"openai/a\"\nsticky_by = \"user\"", &["4:13 route[0].sticky_by: nothing is sticky here"]);
    route(
        "model = \"openai/a\"\nbalance = \"random\"",
        &["4:11 route[0].balance: `random` is not a choice here"],
    );
    route(
        "model = \"openai/a\"\nattempts_max = 11\ntimeouts = { connect_secs = 9, total_secs = 3 }",
        &[
            "4:16 route[0].attempts_max: this number is out of range",
            "5:12 route[0].timeouts: connect_secs is more than total_secs",
        ],
    );
}

#[test]
fn percentages_make_a_whole_and_none_is_nothing() {
    let split = |a: &str, b: &str| {
        format!(
            "split = [{{ percent = {a}, model = \"openai/a\" }}, {{ percent = {b}, model = \"local/b\" }}]"
        )
    };
    route(&split("90", "10"), &[]);
    route(&split("33.33", "66.67"), &[]);
    route(&split("90", "9"), &["3:9 route[0].split: the percentages sum to 99, not to 100"]);
    route(&split("90", "10.01"), &["3:9 route[0].split: the percentages sum to 100.01, not to 100"]);
    let never = "no request goes this way: the branch is never reached";
    route(&split("100", "0"), &[&format!("3:61 route[0].split[1].percent: {never}")]);
    for odd in ["-1", "101", "0.001", "nan", "inf", "\"10\"", "0x10", "true"] {
        route(&split(odd, "10"), &["3:22 route[0].split[0].percent: this is not a percentage"]);
    }
    route(
        "split = [{ model = \"openai/a\" }]",
        &["3:10 route[0].split[0]: it is not said how many requests go this way"],
    );
    route("split = []", &["3:9 route[0].split: the percentages sum to 0, not to 100"]);
    route("split = [1]", &["3:10 route[0].split[0]: this is a whole number, not a table"]);
    route("split = 1", &["3:9 route[0].split: this is not a list of branches"]);
    route(
        "split = [{ percent = 100 }]",
        &["3:10 route[0].split[0]: this branch is empty: nothing serves it"],
    );
}

#[test]
fn conditions_say_what_is_compared_with_what_and_types_fit() {
    let one = |field: &str, op: &str, value: &str| {
        format!("{{ field = \"{field}\", op = \"{op}\", value = {value} }}")
    };
    for (field, op, value) in [
        ("metadata.plan", "==", "\"pro\""),
        ("metadata.plan", "in", "[\"a\", 1, 1.5, true]"),
        ("metadata.seats", ">=", "-0.5"),
        ("metadata.seats", "<", "0x10"),
        ("metadata.plan", ">", "\"m\""),
        ("model", "starts_with", "\"gpt-\""),
        ("stream", "!=", "true"),
        ("header.x-team", "contains", "\"a\""),
        ("caller.tag", "in", "[\"a\"]"),
    ] {
        condition(&one(field, op, value), &[]);
    }
    condition("{ field = \"caller.tag\", op = \"exists\" }", &[]);
    let field = |field: &str, what: &str| {
        condition(&one(field, "==", "\"a\""), &[&format!("3:16 route[0].if.field: {what}")]);
    };
    field("metadata", "`metadata` is not a field that conditions know");
    field("metadata.", "no key of the metadata is named");
    field("modle", "`modle` is not a field that conditions know");
    field("header.", "this names no header field");
    field("header.a b", "this names no header field");
    field("header.X-Team", "names of header fields are written in lower case here");
    field("header.esa_aigw_auth", "this field carries a credential, and routes are shown");
    let odd = |field: &str, op: &str, value: &str, what: &str| {
        let column = 6 + one(field, op, value).find("value = ").expect("there") + 8;
        condition(&one(field, op, value), &[&format!("3:{column} route[0].if.value: {what}")]);
    };
    odd("stream", "==", "\"true\"", "`stream` is true or false, never a string");
    odd("stream", "==", "1", "`stream` is true or false");
    odd("stream", "<", "true", "true and false have no order");
    odd("stream", "contains", "true", "this operator looks into strings");
    odd("model", "==", "4", "`model` is a string");
    odd("header.x-n", ">", "4", "`header.x-n` is a string");
    odd("metadata.a", "<=", "true", "true and false have no order");
    odd("metadata.a", "contains", "4", "this operator looks into strings");
    odd("metadata.a", "starts_with", "\"\"", "the empty string is part of every string");
    odd("metadata.a", "==", "9007199254740993", "this number is too large to be compared exactly");
    odd("metadata.a", "==", "nan", "no number of the metadata is like this");
    odd("metadata.a", "==", "1979-05-27", "this cannot be compared with");
    odd("metadata.a", "==", "[1]", "this cannot be compared with");
    odd("metadata.a", "in", "1", "`in` compares with a list");
    odd("metadata.a", "in", "[]", "nothing is in an empty list");
    odd("metadata.a", "exists", "true", "`exists` compares with nothing");
    condition(&one("metadata.a", "=", "1"), &["3:35 route[0].if.op: `=` is not a choice here"]);
    condition(&one("caller.tag", "<", "\"a\""), &["3:35 route[0].if.op: tags have no order"]);
    condition("{ field = \"model\", op = \"exists\" }", &["3:30 route[0].if.op: `model` always exists"]);
    condition("{ field = \"model\" }", &["3:6 route[0].if: it is not said how this field is compared"]);
    condition(
        "{ field = \"model\", op = \"==\" }",
        &["3:6 route[0].if: it is not said what this field is compared with"],
    );
    condition("{}", &["3:6 route[0].if: a condition has one of `field`, `all`, `any` and `not`"]);
    condition("{ all = [] }", &["3:6 route[0].if: `all` of nothing decides nothing"]);
    condition("{ any = 1 }", &["3:14 route[0].if.any: this is a whole number, not a list of tables"]);
    condition(
        "{ not = { field = \"stream\", op = \"==\", value = true }, op = \"==\" }",
        &["3:66 route[0].if.op: `op` belongs to a `field`"],
    );
}

#[test]
fn what_a_condition_above_has_decided_is_never_reached() {
    let is = |op: &str, value: &str| format!("{{ field = \"metadata.a\", op = \"{op}\", value = {value} }}");
    let model = "{ model = \"openai/a\" }";
    let never = |which: &str, branch: &str| {
        format!("this is always {which} here, so that `{branch}` is never reached")
    };
    // The inner condition stands where the outer one is true, or where it is false.
    let nested = |outer: &str, branch: &str, inner: &str, expect: Option<bool>| {
        let other = if branch == "then" { "else" } else { "then" };
        let inner = format!("{branch} = {{ if = {inner}, then = {model}, else = {model} }}");
        let expect = expect.map(|truth| {
            let words = if truth { never("true", "else") } else { never("false", "then") };
            format!("4:{} route[0].{branch}.if: {words}", branch.len() + 11)
        });
        route(
            &format!("if = {outer}\n{inner}\n{other} = {model}"),
            &expect.as_deref().into_iter().collect::<Vec<_>>(),
        );
    };
    nested(&is("==", "1"), "then", &is("==", "1"), Some(true));
    nested(&is("==", "1"), "else", &is("==", "1"), Some(false));
    nested(&is("==", "1"), "then", &is("==", "2"), Some(false));
    nested(&is("==", "1"), "else", &is("==", "2"), None);
    nested(&is("!=", "1"), "else", &is("<", "2"), Some(true));
    nested(&is("!=", "1"), "then", &is("==", "1"), Some(false));
    nested(&is("in", "[1, 2]"), "then", &is("<", "3"), Some(true));
    nested(&is("in", "[1, 2]"), "then", &is("<", "2"), None);
    nested(&is("in", "[1, 2]"), "else", &is("==", "2"), Some(false));
    nested(&is("<", "2"), "then", "{ field = \"metadata.a\", op = \"exists\" }", Some(true));
    nested("{ field = \"metadata.a\", op = \"exists\" }", "else", &is("!=", "2"), Some(true));
    nested("{ field = \"metadata.b\", op = \"exists\" }", "else", &is("!=", "2"), None);
    let stream = |flag: bool| format!("{{ field = \"stream\", op = \"==\", value = {flag} }}");
    nested(&stream(true), "else", &stream(false), Some(true));
    let tag = |value: &str| format!("{{ field = \"caller.tag\", op = \"==\", value = \"{value}\" }}");
    nested(&tag("x"), "then", &tag("y"), None);
    nested(&tag("x"), "then", &tag("x"), Some(true));
    let both = format!("{{ all = [{}, {}] }}", is("<", "9"), is("!=", "4"));
    nested(&both, "then", &is("==", "4"), Some(false));
    nested(&both, "else", &both, Some(false));
    nested(&both, "else", &is("==", "4"), None);
    condition(
        &format!("{{ all = [{}, {}] }}", is("==", "1"), is("==", "2")),
        &[&format!("3:6 route[0].if: {}", never("false", "then"))],
    );
    condition(
        &format!("{{ any = [{}, {{ not = {} }}] }}", is("<", "1"), is("<", "1")),
        &[&format!("3:6 route[0].if: {}", never("true", "else"))],
    );
}

#[test]
fn a_tree_has_bounds() {
    let many = |count: usize| {
        let one = "{ field = \"metadata.a\", op = \"contains\", value = \"x\" }";
        let parts: Vec<_> = (0..count).map(|n| one.replace("\"x\"", &format!("\"{n}\""))).collect();
        format!("{{ any = [{}] }}", parts.join(", "))
    };
    condition(&many(996), &[]);
    let text = format!(
        "[[route]]\nname = \"r\"\nif = {}\nthen.model = \"openai/a\"\nelse.model = \"local/b\"\n{PROVIDERS}",
        many(997)
    );
    check_fix(&text, "at most 1000 nodes, 64 deep, with conditions counted");
    let deep = |levels: usize| {
        let open = "{ not = ".repeat(levels);
        format!("{open}{{ field = \"stream\", op = \"==\", value = true }}{}", " }".repeat(levels))
    };
    condition(&deep(63), &[]);
    let column = 6 + 8 * 64;
    let path = format!("route[0].if{}", ".not".repeat(64));
    condition(&deep(64), &[&format!("3:{column} {path}: this route's tree is too large")]);
}

#[test]
fn aliases_lead_somewhere_and_only_once() {
    let alias = |line: &str, expect: &[&str]| {
        complains(&format!("[[route]]\nname = \"r\"\nmodel = \"openai/a\"\n[aliases]\n{line}"), expect);
    };
    alias(
        "gpt-4o = \"openai/gpt-4o-2024\"\n\"gpt-*\" = \"openai/gpt-*\"\n\"*\" = \"local/any\"\nfast = \"dynamic/r\"",
        &[],
    );
    alias("\"openai/*\" = \"local/*\"\n\"o/*\" = \"openai/x-*\"", &[]);
    alias("a = \"b\"", &["5:5 aliases: `b` is a model without a provider"]);
    alias("a = \"opnai/b\"", &["5:5 aliases: `opnai/b` begins with no configured provider"]);
    alias("a = \"dynamic/s\"", &["5:5 aliases: there is no route `dynamic/s`"]);
    let again = |line: &str, name: &str| {
        format!(
            "{line} aliases: `{name}` is an alias itself, and what an alias stands for is not looked up again"
        )
    };
    alias(
        "\"openai/a\" = \"local/a\"\n\"local/a\" = \"openai/a\"",
        &[&again("5:14", "local/a"), &again("6:13", "openai/a")],
    );
    alias("\"openai/a\" = \"openai/a\"", &[&again("5:14", "openai/a")]);
    alias(
        "gpt-4.1 = \"openai/gpt-4.1\"",
        &["5:1 aliases: a table stands here: a name with a dot needs quotes"],
    );
    alias("\"a*b\" = \"openai/x\"", &["5:1 aliases: no model can be asked for under this name"]);
    alias("\"a b\" = \"openai/x\"", &["5:1 aliases: no model can be asked for under this name"]);
    alias(
        "\"dynamic/x\" = \"openai/x\"",
        &["5:1 aliases: `dynamic/` leads to routes, and no alias hides one"],
    );
    alias("a = \"openai/*\"", &["5:5 aliases: this `*` stands for nothing"]);
    alias("\"a*\" = \"*\"", &["5:8 aliases: `*` is a model without a provider"]);
    alias("a = 1", &["5:5 aliases: this is a whole number, not a string"]);
}

#[test]
fn fallbacks_say_whose_they_are() {
    let to = "to = [\"local/b\"]";
    complains(
        &format!(
            "[[fallback]]\nmatch = \"openai/gpt-*\"\n{to}\nattempts_max = 2\n[[fallback]]\nmatch = \"*\"\n{to}"
        ),
        &[],
    );
    complains("[[fallback]]\nmatch = \"*\"", &["1:1 fallback[0]: there is nothing to fall back to"]);
    complains(&format!("[[fallback]]\n{to}"), &["1:1 fallback[0]: it is not said whose fallbacks these are"]);
    complains(
        &format!("[[fallback]]\nmatch = \"*/gpt\"\n{to}"),
        &["2:9 fallback[0].match: a `*` may stand at the end only"],
    );
    complains(
        &format!("[[fallback]]\nmatch = \"openai/*\"\n{to}\n[[fallback]]\nmatch = \"openai/o1\"\n{to}"),
        &["5:9 fallback[1].match: fallback[0] fits all of this already, and the first that fits counts"],
    );
}

#[test]
fn routes_and_aliases_are_offered_as_models() {
    let text = format!(
        "[[route]]\nname = \"r\"\nmodel = \"openai/a\"\n[aliases]\nz = \"dynamic/r\"\ngpt = \"local/gpt\"\n\"*\" = \"local/x\"\n{PROVIDERS}"
    );
    let snapshot = compiled(&text).snapshot;
    let offered: Vec<_> = snapshot.own_models().collect();
    assert_eq!(
        offered,
        [("dynamic/r".to_owned(), "ringway"), ("gpt".to_owned(), "local"), ("z".to_owned(), "ringway")]
    );
}
