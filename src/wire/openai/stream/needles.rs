//! The cheap search that decides whether an event is worth a walk.

use std::sync::LazyLock;

use memchr::memmem::Finder;

/// The members looked for, quotes included. They can't match inside of a string, where quotes are escaped, but they may
/// match a whole string or a nested member: a hit only means that the event is worth a walk.
///
/// Constants that can't be made at compile time: preparing a search costs more than searching one event.
pub(super) static NEEDLES: LazyLock<Needles> = LazyLock::new(Needles::new);

pub(super) struct Needles {
    pub(super) usage: Needle,
    pub(super) error: Needle,
    pub(super) finish_reason: Needle,
    pub(super) index: Needle,
}

impl Needles {
    fn new() -> Self {
        let needle = |name: &'static str| Needle(Finder::new(name));
        Self {
            usage: needle("\"usage\""),
            error: needle("\"error\""),
            finish_reason: needle("\"finish_reason\""),
            index: needle("\"index\""),
        }
    }
}

pub(super) struct Needle(Finder<'static>);

impl Needle {
    /// Is there a member of this name, anywhere, whose value begins as `wanted`?
    pub(super) fn live(&self, json: &[u8], wanted: impl Fn(&[u8]) -> bool) -> bool {
        let length = self.0.needle().len();
        self.0.find_iter(json).any(|at| {
            let rest = json[at + length..].trim_ascii_start();
            rest.strip_prefix(b":").is_some_and(|value| wanted(value.trim_ascii_start()))
        })
    }
}

/// At first sight, neither null nor an empty string: some providers write `"finish_reason":""` until there is one.
pub(super) fn begins_something(value: &[u8]) -> bool {
    !value.starts_with(b"null") && !value.starts_with(b"\"\"")
}
