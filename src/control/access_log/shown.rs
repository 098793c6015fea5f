//! Names in which there was nothing to mask. Nearly all exchanges ask for the same few models, and to look through a name costs
//! more than to see that it is one of these. What is kept here is true by one set of rules, and is given up with it.

use std::{borrow::Cow, cell::RefCell};

use crate::{
    ledger::record::ModelName,
    wire::mask::{Rules, masked},
};

/// Each name has one place, and gives way to the next that has the same.
const PLACES: usize = 16;

/// Empty at first, and the empty name may be shown.
#[derive(Default)]
pub(super) struct Shown(RefCell<[ModelName; PLACES]>);

impl Shown {
    /// The name as it may be shown, in UTF-8. The `rules` are always the same.
    pub(super) fn masked<'n>(&self, rules: &Rules, name: &'n ModelName) -> Cow<'n, [u8]> {
        let bytes = name.as_bytes();
        let last = bytes.last().copied().unwrap_or_default();
        let kept = &mut self.0.borrow_mut()[(bytes.len() + usize::from(last)) % PLACES];
        if *kept == *name {
            return Cow::Borrowed(bytes);
        }
        let masked = masked(rules, name.as_str());
        if let Cow::Borrowed(_) = masked {
            kept.clone_from(name);
        }
        super::render::bytes(masked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_masked_the_same_however_often_and_beside_which_others() {
        let (shown, rules) = (Shown::default(), Rules { email: true, ..Rules::default() });
        // The second, the third and the fourth have one place; the fourth hides something.
        let names = ["", "gpt-4o", "gpt-5o", "a@b.co", "sk-proj-0123456789", "é", "gpt-4o", "a@b.co"];
        for name in names.iter().chain(&names).copied() {
            let expect = masked(&rules, name);
            assert_eq!(*shown.masked(&rules, &name.into()), *expect.as_bytes());
        }
    }
}
