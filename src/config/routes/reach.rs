//! What is known on the way down a route's tree, to find conditions that are decided before they are asked.
//!
//! Never wrong, though it does not find everything: what it calls decided is decided for every request.

use super::{
    comparison::{Comparison, Literal, Op, Subject},
    condition::When,
};

/// What the conditions above have settled.
#[derive(Default)]
pub(super) struct Settled(Vec<(When, bool)>);

impl Settled {
    /// How much is known, to [`forget`](Self::forget) what comes on top of it.
    pub(super) fn mark(&self) -> usize {
        self.0.len()
    }

    pub(super) fn forget(&mut self, mark: usize) {
        self.0.truncate(mark);
    }

    /// From here on, `when` is `truth`.
    pub(super) fn assume(&mut self, when: &When, truth: bool) {
        match (when, truth) {
            (When::Not(inner), _) => self.assume(inner, !truth),
            (When::All(parts), true) | (When::Any(parts), false) => {
                parts.iter().for_each(|part| self.assume(part, truth));
            }
            _ => self.0.push((when.clone(), truth)),
        }
    }

    /// What `when` is for every request that gets here, if that is known.
    pub(super) fn verdict(&mut self, when: &When) -> Option<bool> {
        if let Some((_, truth)) = self.0.iter().find(|(known, _)| known == when) {
            return Some(*truth);
        }
        match when {
            When::Is(comparison) => self.0.iter().find_map(|(known, truth)| match known {
                When::Is(known) => implied(known, *truth, comparison),
                _ => None,
            }),
            When::Not(inner) => self.verdict(inner).map(|truth| !truth),
            When::All(parts) => self.of_parts(parts, true),
            When::Any(parts) => self.of_parts(parts, false),
        }
    }

    /// `idle` is what each part has to be for the next one to matter.
    fn of_parts(&mut self, parts: &[When], idle: bool) -> Option<bool> {
        let mark = self.mark();
        let mut all_idle = true;
        let mut decided = None;
        for part in parts {
            match self.verdict(part) {
                Some(truth) if truth != idle => {
                    decided = Some(truth);
                    break;
                }
                verdict => all_idle &= verdict.is_some(),
            }
            self.assume(part, idle);
        }
        self.forget(mark);
        decided.or_else(|| all_idle.then_some(idle))
    }
}

/// What `asked` is wherever `known` is `truth`.
fn implied(known: &Comparison, truth: bool, asked: &Comparison) -> Option<bool> {
    if known.subject != asked.subject {
        return None;
    }
    // `!=` is the other side of `==`, for missing fields too.
    if known.op == Op::Unequal {
        return implied(&Comparison { op: Op::Equal, ..known.clone() }, !truth, asked);
    }
    if asked.op == Op::Unequal {
        return implied(known, truth, &Comparison { op: Op::Equal, ..asked.clone() }).map(|truth| !truth);
    }
    if known == asked {
        return Some(truth);
    }
    if truth && asked.op == Op::Exists {
        return Some(true);
    }
    if !truth && known.op == Op::Exists {
        return Some(asked.holds(None));
    }
    let is_list = |op| matches!(op, Op::Equal | Op::In);
    if !is_list(known.op) {
        return None;
    }
    if !truth {
        if known.subject == Subject::Stream
            && let [Literal::Flag(flag)] = *known.literals
        {
            return Some(asked.holds(Some(Literal::Flag(!flag).fact())));
        }
        let within =
            is_list(asked.op) && asked.literals.iter().all(|literal| known.literals.contains(literal));
        return within.then_some(false);
    }
    // One tag says nothing of the others, unless it is what is asked for.
    let mut answers = known.literals.iter().map(|literal| asked.holds(Some(literal.fact())));
    let first = answers.next()?;
    let agreed = answers.all(|answer| answer == first);
    (agreed && (first || known.subject != Subject::Tag)).then_some(first)
}
