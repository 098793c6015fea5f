//! From the model's name to the target that serves it.

use crate::{
    config::{Provider, ProviderPlace, Snapshot},
    wire::{metadata::BadMetadata, openai::refusal::Refusal},
};

/// Where an exchange goes, and what its model is called there.
#[derive(Clone, Copy, Debug)]
pub struct Target<'s, 'm> {
    pub place: ProviderPlace,
    pub provider: &'s Provider,
    /// Index into the provider's keys.
    pub key: u16,
    /// The model's name without the provider.
    pub model: &'m str,
}

/// Why a model leads nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRoute {
    /// Not `{provider}/{model}`.
    NoProvider,
    /// No provider of that name is configured.
    UnknownProvider,
    /// The provider is known but has no key to call it with.
    NoKey,
    /// `dynamic/` and no route of that name.
    UnknownRoute,
    /// The route asks for metadata, and the header cannot be read.
    BadMetadata(BadMetadata),
}

impl NoRoute {
    /// What a client is told that asked for `model`.
    pub fn refusal(self, model: &str) -> Refusal {
        match self {
            Self::NoProvider | Self::UnknownProvider | Self::UnknownRoute => {
                Refusal::UnknownModel { model: model.into() }
            }
            Self::BadMetadata(bad) => {
                Refusal::BadBody { message: bad.reason().into(), param: None, code: "invalid_metadata" }
            }
            Self::NoKey => {
                let provider = model.split('/').next().unwrap_or_default();
                Refusal::NoProviderKey { provider: provider.into() }
            }
        }
    }
}

/// Splits at the first slash: a model's own name may hold more of them.
pub fn target<'s, 'm>(snapshot: &'s Snapshot, model: &'m str) -> Result<Target<'s, 'm>, NoRoute> {
    let (name, model) = model.split_once('/').ok_or(NoRoute::NoProvider)?;
    if model.is_empty() {
        return Err(NoRoute::NoProvider);
    }
    let (place, provider) = snapshot.provider(name).ok_or(NoRoute::UnknownProvider)?;
    if provider.keys.is_empty() {
        return Err(NoRoute::NoKey);
    }
    Ok(Target { place, provider, key: 0, model })
}
