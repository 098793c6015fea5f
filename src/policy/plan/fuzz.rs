//! Any text of routes compiles or is complained of; what compiles plans any request, and the plan is sound.

use super::{Facts, Health, Plan, Standing, TargetKey, plan};
use crate::{
    base::{ids::mix, now::Now},
    config::{self, Fake, Snapshot, routes::Node},
    policy::condition::Told,
    wire::model_name::is_model_name,
};

/// A health that follows from a number.
struct Odd(u64);

impl Health for Odd {
    fn verdict(&self, target: TargetKey, _: Now) -> Standing {
        match mix(target.0 ^ self.0) % 8 {
            0 => Standing::Open { retry_after_ms: mix(target.0) },
            1 => Standing::Probe,
            2 => Standing::Ramp(u8::try_from(mix(target.0) % 101).unwrap_or(0)),
            _ => Standing::Closed,
        }
    }

    fn in_flight(&self, target: TargetKey) -> u32 {
        u32::try_from(mix(target.0) % 5).unwrap_or(u32::MAX)
    }

    fn first_token_us(&self, target: TargetKey) -> Option<u64> {
        Some(mix(target.0) % 1_000).filter(|time| *time > 200)
    }
}

/// Two bytes of chance, a configuration up to a zero byte, and the metadata of a request.
pub fn fuzz_route(data: &[u8]) {
    let Some((chance, rest)) = data.split_at_checked(2) else { return };
    let chance = mix(u64::from(chance[0]) << 8 | u64::from(chance[1]));
    let (text, metadata) = match rest.iter().position(|byte| *byte == 0) {
        Some(end) => (&rest[..end], Some(&rest[end + 1..])),
        None => (rest, None),
    };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let text = format!(
        "{text}\n[[provider]]\nname = \"p\"\nbase_url = \"http://127.0.0.1:1\"\n\
         [[provider]]\nname = \"q\"\nbase_url = \"http://127.0.0.1:2\"\n"
    );
    let Ok(loaded) = config::compile(&text, "fuzz.toml", &Fake::default()) else { return };
    let snapshot = loaded.snapshot;
    let tags: [Box<str>; 2] = ["a".into(), "prod".into()];
    let own: Vec<String> = snapshot.own_models().map(|(id, _)| id).collect();
    let others = ["gpt-4o", "p/a", "q/", "x", "dynamic/", "p/gpt", ""];
    for model in own.iter().map(String::as_str).chain(others) {
        let facts = Facts {
            model,
            stream: chance & 1 == 0,
            user: Some("u"),
            caller: None,
            tags: &tags,
            header: &|name| (name.len() % 2 == 1).then_some(b"a\xff".as_slice()),
            metadata: Told::Raw(metadata),
        };
        let first = plan(&snapshot, &facts, chance, &Odd(chance), Now(0));
        let again = plan(&snapshot, &facts, chance, &Odd(chance), Now(0));
        match (first, again) {
            (Ok(first), Ok(again)) => {
                check(&snapshot, &first);
                let keys =
                    |plan: &Plan<'_>| plan.targets.iter().map(|target| target.health).collect::<Vec<_>>();
                assert_eq!((keys(&first), &first.path), (keys(&again), &again.path), "the same is planned");
            }
            (first, again) => assert_eq!(first.err(), again.err(), "the same is refused"),
        }
    }
}

fn check(snapshot: &Snapshot, plan: &Plan<'_>) {
    assert!(
        !plan.targets.is_empty() || plan.retry_after_ms.is_some(),
        "a plan leads somewhere, or says when"
    );
    assert!(plan.terms.attempts_max >= 1);
    for (number, target) in plan.targets.iter().enumerate() {
        assert!(!matches!(target.standing, Standing::Open { .. }), "what is open is left out");
        assert!(is_model_name(target.model.as_bytes()), "{}", target.model);
        assert!(usize::from(target.key) < target.provider.keys.len());
        assert!(std::ptr::eq(target.provider, &raw const snapshot.providers[usize::from(target.place.0)]));
        let earlier = &plan.targets[..number];
        assert!(earlier.iter().all(|other| other.health != target.health), "a target comes once");
    }
    assert_eq!(plan.route.is_some(), !plan.path.is_empty());
    let words = snapshot.routes.words(&plan.path).count();
    assert_eq!(words, plan.path.len(), "every node has its words");
    if let Some(last) = plan.path.last() {
        assert!(
            matches!(snapshot.routes.spots[*last as usize].node, Node::Serve(_)),
            "a path ends at a service"
        );
    }
}
