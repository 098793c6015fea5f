//! One comparison of a condition: a field, an operator, and what it is compared with.
//!
//! Types are never converted: the number 1 and the string "1" are unequal, and neither is less than the other. What is
//! missing is unequal to everything and nothing else.

use std::fmt;

/// A comparison that makes sense: the operator suits the types of what is compared with.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    pub subject: Subject,
    pub(super) op: Op,
    /// Several for `in`, none for `exists`, else one.
    pub(super) literals: Box<[Literal]>,
}

/// Which fact of a request is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// As the client wrote it.
    Model,
    Stream,
    /// Each tag of the caller: a comparison holds if it holds of one of them.
    Tag,
    /// The first field of that name, in lower case.
    Header(Box<str>),
    Metadata(Box<str>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Equal,
    Unequal,
    In,
    Exists,
    Contains,
    StartsWith,
    Less,
    AtMost,
    More,
    AtLeast,
}

pub(super) const OPS: [(&str, Op); 10] = [
    ("==", Op::Equal),
    ("!=", Op::Unequal),
    ("in", Op::In),
    ("exists", Op::Exists),
    ("contains", Op::Contains),
    ("starts_with", Op::StartsWith),
    ("<", Op::Less),
    ("<=", Op::AtMost),
    (">", Op::More),
    (">=", Op::AtLeast),
];

/// What the configuration compares with.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Literal {
    Text(Box<str>),
    /// Finite.
    Number(f64),
    Flag(bool),
}

/// What a request has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fact<'a> {
    Text(&'a [u8]),
    /// Finite.
    Number(f64),
    Flag(bool),
}

impl Comparison {
    /// Whether it holds of what the subject is; `None` if the request has no such thing.
    pub fn holds(&self, fact: Option<Fact<'_>>) -> bool {
        match fact {
            None => self.op == Op::Unequal,
            Some(fact) if self.op == Op::Unequal => !self.literals.iter().any(|literal| literal.is(fact)),
            Some(fact) => self.holds_positively(fact),
        }
    }

    /// The same where the subject has several values, or none.
    pub fn holds_of_one<'f>(&self, mut facts: impl Iterator<Item = Fact<'f>>) -> bool {
        match self.op {
            Op::Unequal => !facts.any(|fact| self.literals.iter().any(|literal| literal.is(fact))),
            _ => facts.any(|fact| self.holds_positively(fact)),
        }
    }

    fn holds_positively(&self, fact: Fact<'_>) -> bool {
        if self.op == Op::Exists {
            return true;
        }
        self.literals.iter().any(|literal| match (self.op, literal, fact) {
            (Op::Equal | Op::In, ..) => literal.is(fact),
            (Op::Contains, Literal::Text(part), Fact::Text(text)) => {
                memchr::memmem::find(text, part.as_bytes()).is_some()
            }
            (Op::StartsWith, Literal::Text(start), Fact::Text(text)) => text.starts_with(start.as_bytes()),
            (op, Literal::Text(text), Fact::Text(fact)) => op.orders(fact, text.as_bytes()),
            (op, Literal::Number(number), Fact::Number(fact)) => op.orders(&fact, number),
            _ => false,
        })
    }
}

impl Op {
    /// Whether it asks which of two comes first.
    pub(super) fn is_order(self) -> bool {
        matches!(self, Self::Less | Self::AtMost | Self::More | Self::AtLeast)
    }

    fn orders<T: PartialOrd + ?Sized>(self, a: &T, b: &T) -> bool {
        match self {
            Self::Less => a < b,
            Self::AtMost => a <= b,
            Self::More => a > b,
            Self::AtLeast => a >= b,
            _ => false,
        }
    }

    fn word(self) -> &'static str {
        OPS.iter().find(|(_, op)| *op == self).map_or("", |(word, _)| word)
    }
}

impl Literal {
    pub(super) fn is(&self, fact: Fact<'_>) -> bool {
        self.fact() == fact
    }

    /// As a request would have it.
    pub(super) fn fact(&self) -> Fact<'_> {
        match self {
            Self::Text(text) => Fact::Text(text.as_bytes()),
            Self::Number(number) => Fact::Number(*number),
            Self::Flag(flag) => Fact::Flag(*flag),
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Model => f.write_str("model"),
            Self::Stream => f.write_str("stream"),
            Self::Tag => f.write_str("caller.tag"),
            Self::Header(name) => write!(f, "header.{name}"),
            Self::Metadata(key) => write!(f, "metadata.{}", key.escape_debug()),
        }
    }
}

impl fmt::Display for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Flag(flag) => write!(f, "{flag}"),
        }
    }
}

/// As it reads in an explanation: `metadata.plan == "pro"`.
impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.subject, self.op.word())?;
        match (&*self.literals, self.op) {
            ([one], op) if op != Op::In => write!(f, " {one}"),
            ([], _) => Ok(()),
            (several, _) => {
                let words: Vec<_> = several.iter().map(Literal::to_string).collect();
                write!(f, " [{}]", words.join(", "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(op: &str, literals: &[Literal], fact: Option<Fact<'_>>, expect: bool) {
        let op = OPS.iter().find(|(word, _)| *word == op).expect("an operator").1;
        let comparison = Comparison { subject: Subject::Metadata("k".into()), op, literals: literals.into() };
        assert_eq!(comparison.holds(fact), expect, "{comparison} of {fact:?}");
        // One value among several is the same as one value.
        assert_eq!(comparison.holds_of_one(fact.into_iter()), expect, "{comparison} of {fact:?}");
    }

    fn text(text: &str) -> Literal {
        Literal::Text(text.into())
    }

    #[test]
    fn types_are_never_converted() {
        use Literal::{Flag, Number};
        check("==", &[text("1")], Some(Fact::Number(1.0)), false);
        check("!=", &[text("1")], Some(Fact::Number(1.0)), true);
        check("==", &[Number(1.0)], Some(Fact::Number(1.0)), true);
        check("==", &[Number(0.0)], Some(Fact::Number(-0.0)), true);
        check("==", &[Flag(true)], Some(Fact::Text(b"true")), false);
        check("in", &[text("a"), Number(2.0)], Some(Fact::Number(2.0)), true);
        check("in", &[text("a"), Number(2.0)], Some(Fact::Text(b"2")), false);
        for op in ["<", "<=", ">", ">="] {
            check(op, &[Number(5.0)], Some(Fact::Text(b"4")), false);
            check(op, &[text("5")], Some(Fact::Number(4.0)), false);
            check(op, &[Number(5.0)], Some(Fact::Flag(true)), false);
        }
        check("contains", &[text("1")], Some(Fact::Number(1.0)), false);
    }

    #[test]
    fn what_is_missing_is_only_unequal() {
        for (op, _) in OPS {
            check(op, &[text("a")], None, op == "!=");
        }
    }

    #[test]
    fn strings_and_numbers_are_compared_as_such() {
        check("contains", &[text("ro")], Some(Fact::Text(b"pro")), true);
        check("starts_with", &[text("pr")], Some(Fact::Text(b"pro")), true);
        check("starts_with", &[text("ro")], Some(Fact::Text(b"pro")), false);
        check("<", &[text("b")], Some(Fact::Text(b"abc")), true);
        check("<", &[text("10")], Some(Fact::Text(b"9")), false);
        check("<", &[Literal::Number(10.0)], Some(Fact::Number(9.0)), true);
        check(">=", &[Literal::Number(10.0)], Some(Fact::Number(10.0)), true);
        check(">", &[Literal::Number(10.0)], Some(Fact::Number(10.0)), false);
        check("exists", &[], Some(Fact::Flag(false)), true);
        check("==", &[text("a")], Some(Fact::Text(b"\xff")), false);
    }

    #[test]
    fn of_several_values_one_must_fit_and_none_may_be_the_other() {
        let comparison =
            |op| Comparison { subject: Subject::Tag, op, literals: [text("a"), text("b")].into() };
        let tags = |tags: &'static [&'static str]| tags.iter().map(|tag| Fact::Text(tag.as_bytes()));
        assert!(comparison(Op::In).holds_of_one(tags(&["x", "b"])));
        assert!(!comparison(Op::Unequal).holds_of_one(tags(&["x", "b"])));
        assert!(comparison(Op::Unequal).holds_of_one(tags(&["x"])));
        assert!(!comparison(Op::Exists).holds_of_one(tags(&[])));
    }
}
