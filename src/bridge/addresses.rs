//! What the resolver knows, as it is published to the cores: a core dials addresses and never asks for a name.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

/// A name's addresses in the order in which they are to be tried, or why there are none.
pub type Resolved = Result<Arc<[IpAddr]>, Arc<str>>;

/// All names of the configuration that have been looked up. Whether an address may be connected to is not decided
/// here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses(HashMap<Box<str>, Resolved>);

impl Addresses {
    /// What is known of `host`; `None` while its first lookup runs.
    pub fn of(&self, host: &str) -> Option<&Resolved> {
        self.0.get(host)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<(Box<str>, Resolved)> for Addresses {
    fn from_iter<I: IntoIterator<Item = (Box<str>, Resolved)>>(names: I) -> Self {
        Self(names.into_iter().collect())
    }
}
