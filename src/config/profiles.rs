//! The built-in providers, as data: `profiles.toml`, embedded.

use std::{collections::BTreeMap, sync::LazyLock};

use serde::Deserialize;

/// What is known of a provider before its operator says anything. The settings are explained in `profiles.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    pub base_url: Option<String>,
    pub example: Option<String>,
    #[serde(default = "bearer")]
    pub auth: String,
    pub env: Vec<String>,
    #[serde(default)]
    pub key_optional: bool,
    pub usage: Usage,
    #[serde(default)]
    pub inject_usage: bool,
    #[serde(default)]
    pub reasoning: Reasoning,
    pub source: Source,
}

/// When a provider's streams carry token counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Usage {
    Asked,
    Always,
    Unknown,
}

/// Where a provider counts reasoning tokens: within its completion tokens or beside them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reasoning {
    #[default]
    Within,
    Beside,
}

/// How a profile was established.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    Vendor,
    Peers,
    Peer,
    Unverified,
}

/// Every built-in profile by name.
pub fn all() -> &'static BTreeMap<String, Profile> {
    static PROFILES: LazyLock<BTreeMap<String, Profile>> = LazyLock::new(|| {
        // A bug of ours if it fails, and found by any test that compiles a configuration.
        toml::from_str(include_str!("profiles.toml")).expect("the embedded profiles are valid")
    });
    &PROFILES
}

fn bearer() -> String {
    "bearer".to_owned()
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Surroundings, compile, surroundings::Fake, url::BaseUrl},
        *,
    };

    #[test]
    fn there_are_profiles_enough_and_each_is_sound() {
        assert!(all().len() >= 25, "{} profiles", all().len());
        for (name, profile) in all() {
            assert!(!profile.env.is_empty(), "{name} names the variable of its key");
            assert!(profile.base_url.is_some() || profile.example.is_some(), "{name} says where it is");
            assert!(
                !profile.inject_usage || profile.usage == Usage::Asked,
                "{name} is asked only if that does something"
            );
            if let Some(url) = &profile.base_url {
                let url = BaseUrl::parse(url).unwrap_or_else(|wrong| panic!("{name}: {wrong:?}"));
                assert!(url.tls || url.host.is_loopback(), "{name} keeps its key off the wire");
                assert!(url.tls || profile.key_optional, "{name} is local and may go without a key");
            }
        }
    }

    /// What a user writes for a profile: its name, and the base URL if the profile has none.
    fn table(name: &str, profile: &Profile) -> String {
        match &profile.base_url {
            Some(_) => format!("[[provider]]\nname = \"{name}\"\n"),
            None => format!("[[provider]]\nname = \"{name}\"\nbase_url = \"https://example.test/v1\"\n"),
        }
    }

    #[test]
    fn every_profile_needs_only_its_key() {
        for (name, profile) in all() {
            for variable in &profile.env {
                let variable: &'static str = variable;
                let around = Fake { env: vec![(variable, "sk-test")], ..Fake::default() };
                let loaded =
                    compile(&table(name, profile), "t.toml", &around).unwrap_or_else(|all| panic!("{all}"));
                assert_eq!(loaded.warnings, [], "{name}");
                let (_, provider) = loaded.snapshot.provider(name).expect("there");
                let line = String::from_utf8_lossy(provider.keys[0].line.expose()).into_owned();
                match profile.auth.as_str() {
                    "bearer" => assert_eq!(line, "authorization: Bearer sk-test\r\n"),
                    header => assert_eq!(line, format!("{header}: sk-test\r\n")),
                }
                assert_eq!(provider.inject_usage, profile.inject_usage);
                assert_eq!(provider.profile.as_deref(), Some(name.as_str()));
            }
        }
    }

    #[test]
    fn without_a_key_only_local_profiles_work_and_the_others_say_what_to_set() {
        let nothing = Fake::default();
        for (name, profile) in all() {
            let result = compile(&table(name, profile), "t.toml", &nothing as &dyn Surroundings);
            match (profile.key_optional, result) {
                (true, Ok(loaded)) => assert!(loaded.snapshot.providers[0].keys[0].line.expose().is_empty()),
                (false, Err(all)) => assert!(all.to_string().contains(&profile.env[0]), "{all}"),
                (_, result) => panic!("{name}: {result:?}"),
            }
        }
    }

    #[test]
    fn a_profile_can_be_told_from_where_it_is_known() {
        assert_eq!(all()["openai"].source, Source::Vendor);
        assert_eq!(all()["xai"].reasoning, Reasoning::Beside);
    }
}
