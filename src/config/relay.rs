//! The `[relay]` table: what becomes of an answer whose client has left, and of a client whose answer is long in coming.
//!
//! ```toml
//! [relay]
//! on_disconnect = "cancel"     # or "drain", "drain_until_usage"; a caller may have its own
//! keep_alive_secs = 15         # 0, and by default: none; a provider or a model service may have its own
//! ```

use std::time::Duration;

use super::raw::{Field, Table};
use crate::base::limits::{KEEP_ALIVE_TIME_MAX, KEEP_ALIVE_TIME_MIN};

/// How answers are relayed, where neither caller, provider nor route says otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Relay {
    pub on_disconnect: OnDisconnect,
    pub keep_alive: Option<Duration>,
}

/// What becomes of an upstream's answer whose client has left in its middle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDisconnect {
    /// It is broken off at once: nobody pays for more than was said until then, and what was used has to be estimated.
    #[default]
    Cancel,
    /// It is read to its end, within bounds: what the provider counts is known, and its connection stays.
    Drain,
    /// It is read until the provider has said what was used.
    DrainUntilUsage,
}

impl OnDisconnect {
    /// Each with the word it is configured by.
    pub const CHOICES: [(&str, Self); 3] =
        [("cancel", Self::Cancel), ("drain", Self::Drain), ("drain_until_usage", Self::DrainUntilUsage)];

    /// The one of that word.
    pub fn of(word: &str) -> Option<Self> {
        Self::CHOICES.into_iter().find(|(known, _)| *known == word).map(|(_, choice)| choice)
    }
}

impl OnDisconnect {
    /// The word it is configured by.
    pub fn word(self) -> &'static str {
        Self::CHOICES.into_iter().find(|(_, known)| *known == self).map_or("", |(word, _)| word)
    }
}

impl Relay {
    /// What holds for a caller with this choice of its own.
    pub fn on_disconnect_for(self, caller: Option<OnDisconnect>) -> OnDisconnect {
        caller.unwrap_or(self.on_disconnect)
    }

    /// How long a client is left without a byte, by whatever of a model service and its provider is nearer; `None`: for as
    /// long as it takes.
    pub fn keep_alive_for(self, service: Option<Duration>, provider: Option<Duration>) -> Option<Duration> {
        service.or(provider).or(self.keep_alive).filter(|every| !every.is_zero())
    }
}

/// Reads `[relay]`.
pub(super) fn relay(root: &mut Table<'_>) -> Relay {
    let Some(mut table) = root.table("relay") else { return Relay::default() };
    let on_disconnect = table.get("on_disconnect").and_then(Field::text);
    let on_disconnect = on_disconnect.and_then(|text| text.choose(&OnDisconnect::CHOICES));
    let keep_alive = table.get("keep_alive_secs").and_then(keep_alive);
    table.close();
    Relay { on_disconnect: on_disconnect.unwrap_or_default(), keep_alive }
}

/// How long a client of a stream is left without a byte; zero: for as long as it takes, whatever a wider setting says.
pub(super) fn keep_alive(field: Field<'_>) -> Option<Duration> {
    let span = field.clone().secs(Duration::ZERO..=KEEP_ALIVE_TIME_MAX)?;
    if span < KEEP_ALIVE_TIME_MIN && !span.is_zero() {
        field.complain(
            "this is too often",
            format!("write {} seconds or more, or 0 for none", KEEP_ALIVE_TIME_MIN.as_secs_f64()),
        );
        return None;
    }
    Some(span)
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{check, compiled},
        *,
    };

    const PROVIDER: &str = "[[provider]]\nname = \"openai\"\n";

    #[test]
    fn clients_that_leave_take_their_answer_along_and_nobody_is_kept_alive_by_default() {
        let relay = compiled(PROVIDER).snapshot.relay;
        assert_eq!(relay, Relay { on_disconnect: OnDisconnect::Cancel, keep_alive: None });
        let text = "[relay]\non_disconnect = \"drain_until_usage\"\nkeep_alive_secs = 15\n";
        let relay = compiled(&format!("{text}{PROVIDER}")).snapshot.relay;
        let keep_alive = Some(Duration::from_secs(15));
        assert_eq!(relay, Relay { on_disconnect: OnDisconnect::DrainUntilUsage, keep_alive });
    }

    #[test]
    fn what_makes_no_sense_is_complained_of() {
        check(
            &format!("[relay]\non_disconnect = \"wait\"\n{PROVIDER}"),
            &["2:17 relay.on_disconnect: `wait` is not a choice here"],
        );
        for (secs, what) in [("301", "this number is out of range"), ("0.01", "this is too often")] {
            check(
                &format!("[relay]\nkeep_alive_secs = {secs}\n{PROVIDER}"),
                &[&format!("2:19 relay.keep_alive_secs: {what}")],
            );
        }
        check(&format!("[relay]\nkeep_alive_secs = 0\n{PROVIDER}"), &[]);
    }
}
