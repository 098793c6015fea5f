//! The evaluator against a naive interpreter, on generated trees: the same tree as a text, compiled, and as a value, walked
//! by the plainest code there is.

use std::{cell::RefCell, fmt::Write};

use super::*;
use crate::{
    config::{self, Fake, Snapshot},
    wire::json::mutate::Chance,
};

/// A value of a request, or of a condition.
#[derive(Clone, Debug, PartialEq)]
enum Val {
    Text(&'static str),
    Number(i64),
    Flag(bool),
}

#[derive(Debug)]
enum Cond {
    Is(&'static str, &'static str, Vec<Val>),
    All(Vec<Self>),
    Any(Vec<Self>),
    Not(Box<Self>),
}

#[derive(Debug)]
enum Branch {
    If(Cond, Box<Self>, Box<Self>),
    Leaf(usize),
}

/// A request.
#[derive(Debug)]
struct Asked {
    a: Option<Val>,
    b: Option<Val>,
    model: Val,
    stream: Val,
    header: Option<Val>,
    tags: Vec<Val>,
}

const TEXTS: [&str; 3] = ["x", "xy", "yx"];

fn any<T: Clone>(chance: &mut Chance, of: &[T]) -> T {
    of[chance.below(of.len())].clone()
}

fn value(chance: &mut Chance) -> Val {
    match chance.below(6) {
        0 => Val::Flag(chance.below(2) == 0),
        1 | 2 => Val::Number(i64::try_from(chance.below(3)).expect("small") - 1),
        _ => Val::Text(any(chance, &TEXTS)),
    }
}

fn condition(chance: &mut Chance, depth: usize) -> Cond {
    let parts = |chance: &mut Chance| {
        let count = 1 + chance.below(3);
        (0..count).map(|_| condition(chance, depth - 1)).collect()
    };
    match chance.below(if depth == 0 { 1 } else { 6 }) {
        1 => Cond::All(parts(chance)),
        2 => Cond::Any(parts(chance)),
        3 => Cond::Not(Box::new(condition(chance, depth - 1))),
        _ => comparison(chance),
    }
}

fn comparison(chance: &mut Chance) -> Cond {
    let field =
        any(chance, &["metadata.a", "metadata.a", "metadata.b", "model", "stream", "header.h", "caller.tag"]);
    let mut ops = vec!["==", "!=", "in"];
    if field != "stream" {
        ops.extend(["contains", "starts_with"]);
    }
    if field != "stream" && field != "caller.tag" {
        ops.extend(["<", "<=", ">", ">="]);
    }
    if field != "stream" && field != "model" {
        ops.push("exists");
    }
    let op = any(chance, &ops);
    let mut one = || loop {
        let value = match field {
            "stream" => Val::Flag(chance.below(2) == 0),
            "metadata.a" | "metadata.b" => value(chance),
            _ => Val::Text(any(chance, &TEXTS)),
        };
        let fits = match (op, &value) {
            ("contains" | "starts_with", value) => matches!(value, Val::Text(_)),
            ("<" | "<=" | ">" | ">=", value) => !matches!(value, Val::Flag(_)),
            _ => true,
        };
        if fits {
            return value;
        }
    };
    let values = match op {
        "exists" => Vec::new(),
        "in" => vec![one(), one()],
        _ => vec![one()],
    };
    Cond::Is(field, op, values)
}

fn branch(chance: &mut Chance, depth: usize, leaves: &mut usize) -> Branch {
    if depth == 0 || depth < 3 && chance.below(3) == 0 {
        *leaves += 1;
        return Branch::Leaf(*leaves);
    }
    let when = condition(chance, 2);
    let then = branch(chance, depth - 1, leaves);
    Branch::If(when, Box::new(then), Box::new(branch(chance, depth - 1, leaves)))
}

fn asked(chance: &mut Chance) -> Asked {
    let maybe = |chance: &mut Chance| (chance.below(4) != 0).then(|| value(chance));
    Asked {
        a: maybe(chance),
        b: maybe(chance),
        model: Val::Text(any(chance, &TEXTS)),
        stream: Val::Flag(chance.below(2) == 0),
        header: (chance.below(3) != 0).then(|| Val::Text(any(chance, &TEXTS))),
        tags: TEXTS.iter().filter(|_| chance.below(3) == 0).map(|tag| Val::Text(tag)).collect(),
    }
}

// As text.

fn toml(value: &Val) -> String {
    match value {
        Val::Text(text) => format!("\"{text}\""),
        Val::Number(number) => number.to_string(),
        Val::Flag(flag) => flag.to_string(),
    }
}

fn write_condition(when: &Cond, out: &mut String) {
    let list = |word: &str, parts: &[Cond], out: &mut String| {
        write!(out, "{{ {word} = [").expect("a string");
        for part in parts {
            write_condition(part, out);
            out.push_str(", ");
        }
        out.push_str("] }");
    };
    match when {
        Cond::All(parts) => list("all", parts, out),
        Cond::Any(parts) => list("any", parts, out),
        Cond::Not(inner) => {
            out.push_str("{ not = ");
            write_condition(inner, out);
            out.push_str(" }");
        }
        Cond::Is(field, op, values) => {
            write!(out, "{{ field = \"{field}\", op = \"{op}\"").expect("a string");
            let values: Vec<_> = values.iter().map(toml).collect();
            match *op {
                "exists" => {}
                "in" => write!(out, ", value = [{}]", values.join(", ")).expect("a string"),
                _ => write!(out, ", value = {}", values[0]).expect("a string"),
            }
            out.push_str(" }");
        }
    }
}

fn write_branch(branch: &Branch, out: &mut String) {
    match branch {
        Branch::Leaf(number) => write!(out, "model = \"p/m{number}\"").expect("a string"),
        Branch::If(when, then, other) => {
            out.push_str("if = ");
            write_condition(when, out);
            for (word, branch) in [("then", then), ("else", other)] {
                write!(out, ", {word} = {{ ").expect("a string");
                write_branch(branch, out);
                out.push_str(" }");
            }
        }
    }
}

// As itself.

fn naive(when: &Cond, asked: &Asked) -> bool {
    match when {
        Cond::All(parts) => parts.iter().all(|part| naive(part, asked)),
        Cond::Any(parts) => parts.iter().any(|part| naive(part, asked)),
        Cond::Not(inner) => !naive(inner, asked),
        Cond::Is("caller.tag", "!=", values) => !asked.tags.contains(&values[0]),
        Cond::Is("caller.tag", op, values) => asked.tags.iter().any(|tag| naive_one(op, Some(tag), values)),
        Cond::Is(field, op, values) => {
            let found = match *field {
                "metadata.a" => asked.a.as_ref(),
                "metadata.b" => asked.b.as_ref(),
                "header.h" => asked.header.as_ref(),
                "model" => Some(&asked.model),
                _ => Some(&asked.stream),
            };
            naive_one(op, found, values)
        }
    }
}

fn naive_one(op: &str, found: Option<&Val>, values: &[Val]) -> bool {
    match op {
        "exists" => found.is_some(),
        "in" => found.is_some_and(|found| values.contains(found)),
        "==" => found == Some(&values[0]),
        "!=" => found != Some(&values[0]),
        _ => match (found, &values[0]) {
            (Some(Val::Text(found)), Val::Text(value)) => match op {
                "contains" => found.contains(value),
                "starts_with" => found.starts_with(value),
                "<" => *found < *value,
                "<=" => *found <= *value,
                ">" => *found > *value,
                _ => *found >= *value,
            },
            (Some(Val::Number(found)), Val::Number(value)) => match op {
                "<" => found < value,
                "<=" => found <= value,
                ">" => found > value,
                ">=" => found >= value,
                _ => false,
            },
            _ => false,
        },
    }
}

/// The leaf that `asked` comes to; tells of each condition on the way where it is and what it was.
fn naive_leaf(branch: &Branch, asked: &Asked, place: &str, tell: &mut dyn FnMut(&str, bool)) -> usize {
    match branch {
        Branch::Leaf(number) => *number,
        Branch::If(when, then, other) => {
            let truth = naive(when, asked);
            tell(place, truth);
            let (word, next) = if truth { ("then", then) } else { ("else", other) };
            naive_leaf(next, asked, &format!("{place}.{word}"), tell)
        }
    }
}

/// The leaf that the evaluator comes to.
fn walked(snapshot: &Snapshot, asked: &Asked) -> String {
    let mut header = String::from("{");
    for (key, value) in [("a", &asked.a), ("b", &asked.b)] {
        if let Some(value) = value {
            let comma = if header.len() > 1 { "," } else { "" };
            write!(header, "{comma}\"{key}\":{}", toml(value)).expect("a string");
        }
    }
    header.push('}');
    let text = |value: &Val| match value {
        Val::Text(text) => *text,
        _ => panic!("not a text"),
    };
    let tags: Vec<Box<str>> = asked.tags.iter().map(|tag| text(tag).into()).collect();
    let metadata = Metadata::parse(header.as_bytes()).expect("good metadata");
    let facts = Facts {
        model: text(&asked.model),
        stream: asked.stream == Val::Flag(true),
        user: None,
        caller: None,
        tags: &tags,
        header: &|name| asked.header.as_ref().filter(|_| name == "h").map(|value| text(value).as_bytes()),
        metadata: Told::Read(&metadata),
    };
    let routes = &snapshot.routes;
    let route = routes.route("r").expect("there");
    let (service, path) = walk(routes, route, &facts, &metadata, &mut Dice::new(0)).expect("a service");
    assert!(path.windows(2).all(|pair| pair[0] < pair[1]));
    routes.targets[service.own.start].model().to_owned()
}

#[test]
fn the_evaluator_agrees_with_a_naive_interpreter() {
    let mut chance = Chance::seeded(0x7EE5);
    let (mut compiled, mut refused) = (0, 0);
    for number in 0..1_500 {
        let tree = branch(&mut chance, 3, &mut 0);
        let requests: Vec<_> = (0..24).map(|_| asked(&mut chance)).collect();
        let mut text = String::from("route = [{ name = \"r\", ");
        write_branch(&tree, &mut text);
        text.push_str(" }]\n[[provider]]\nname = \"p\"\nbase_url = \"http://127.0.0.1:1\"\n");
        match config::compile(&text, "t", &Fake::default()) {
            Ok(loaded) => {
                compiled += 1;
                for request in &requests {
                    let expect = naive_leaf(&tree, request, "route[0]", &mut |_, _| {});
                    let found = walked(&loaded.snapshot, request);
                    assert_eq!(found, format!("m{expect}"), "{number}: {request:?}\n{text}");
                }
            }
            Err(complaints) => {
                refused += 1;
                // What is called decided is so for every request that comes there.
                let said = RefCell::new(Vec::new());
                for complaint in complaints.0 {
                    let what = complaint.what.strip_prefix("this is always ").expect(&complaint.what);
                    let place = complaint.path.strip_suffix(".if").expect("a condition").to_owned();
                    said.borrow_mut().push((place, what.starts_with("true")));
                }
                for request in &requests {
                    naive_leaf(&tree, request, "route[0]", &mut |place, truth| {
                        let contradicts =
                            said.borrow().iter().any(|(told, was)| told == place && *was != truth);
                        assert!(!contradicts, "{number}: {place} is {truth} for {request:?}\n{text}");
                    });
                }
            }
        }
    }
    // Else the generator has gone astray.
    assert!(compiled > 300 && refused > 30, "{compiled} compiled, {refused} refused");
}

#[test]
fn a_number_of_chance_is_a_fair_row() {
    let mut dice = Dice::new(7);
    let mut counts = [0_u32; 10];
    for _ in 0..10_000 {
        counts[usize::try_from(dice.below(10)).expect("small")] += 1;
        let fraction = dice.fraction();
        assert!(fraction > 0.0 && fraction < 1.0);
    }
    // Four standard deviations.
    assert!(counts.iter().all(|count| count.abs_diff(1_000) < 120), "{counts:?}");
}
