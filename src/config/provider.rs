//! One `[[provider]]` table: what its operator says, on top of what its profile knows, checked as a whole.

use std::{collections::HashMap, net::IpAddr};

use super::{
    certificate,
    check::timeouts,
    credential,
    first_byte::{self, HoldBack},
    health_check::health_check,
    price::PriceList,
    profiles::{self, Profile, Reasoning},
    raw::{Field, Table, Text},
    relay::keep_alive,
    snapshot::{Dial, Key, Provider, Timeouts},
    suggest::nearest,
    url::{BaseUrl, Host},
};
use crate::base::ids::{KeyStem, ProviderId};
use crate::base::limits::{
    CONFIG_TIME_MAX, MODEL_BYTES_MAX, NAME_BYTES_MAX, POOL_IDLE_MAX, POOL_IDLE_PER_TARGET_MAX,
    POOL_IDLE_TIME, TICK,
};
use crate::wire::http1::{HeaderSafe, Opening, TargetSafe};

/// Reads a provider; nothing if anything in it is wrong. `taken` says who has which name.
pub(super) fn provider(
    mut table: Table<'_>,
    defaults: Timeouts,
    taken: &mut HashMap<String, String>,
) -> Option<Provider> {
    let name = provider_name(&mut table, taken);
    let asked = profile(&mut table, name.as_deref());
    let profile = asked.flatten();
    // A misspelt profile is one mistake, not two.
    let base = base_url(&mut table, name.as_deref().filter(|_| asked.is_some()), profile);
    let auth = credential::auth(&mut table, profile);
    let keys = credential::keys(&mut table, profile, base.as_ref(), auth);

    let allow_http = table.get("allow_http").and_then(Field::flag).unwrap_or(false);
    let allow_private = table.get("allow_private").and_then(Field::flag).unwrap_or(false);
    if let Some(base) = &base {
        transport(base, allow_http, allow_private, keys.as_deref());
    }
    let inject = table.get("inject_usage").and_then(Field::flag);
    let models = models(&mut table, name.as_deref());
    let ca_file = table.get("ca_file").and_then(Field::text);
    let ca = ca_file.as_ref().map(|file| certificate::authorities(file, table.around()));
    if let (Some(file), Some(false)) = (&ca_file, base.as_ref().map(|base| base.url.tls)) {
        file.warn(
            "certificates are not used without TLS",
            "leave ca_file out, or begin base_url with https://",
        );
    }
    let timeouts = match table.table("timeouts") {
        Some(inner) => timeouts(inner, defaults),
        None => defaults,
    };
    let keep_alive = table.get("keep_alive_secs").and_then(keep_alive);
    let health_check = table.table("health_check").and_then(health_check);
    let pool_idle_max = table.get("pool_idle_max").and_then(|field| field.count(0..=POOL_IDLE_MAX));
    let pool_idle_time = table.get("pool_idle_secs").and_then(|field| field.secs(TICK..=CONFIG_TIME_MAX));
    let hold_back = table.get("hold_back").and_then(first_byte::hold_back);
    let hedge_percentile = table.get("hedge_percentile").and_then(first_byte::hedge_percentile);
    table.close();

    let (name, url, keys) = (name?, base?.url, keys?);
    let authority = url.authority();
    // Of a URL, so both are visible ASCII.
    let (base, at) = (TargetSafe::new(url.path.as_bytes())?, HeaderSafe::new(authority.as_bytes())?);
    let opening = Opening::new("POST", base, at);
    let local = matches!(url.host, Host::Address(_)) || url.host.is_loopback();
    let (host, dial) = match url.host {
        Host::Name(name) => (name.clone(), Dial::Name(name.into())),
        Host::Address(ip) => (ip.to_string(), Dial::Address(ip)),
    };
    Some(Provider {
        // Until it is enrolled.
        id: ProviderId(0),
        stems: keys.iter().map(|key| KeyStem::of(&name, &key.name)).collect(),
        name: name.into(),
        profile: profile.map(|(name, _)| name.into()),
        tls: url.tls,
        host: host.into(),
        authority: authority.into(),
        port: url.port,
        dial,
        base_path: url.path.into(),
        opening,
        keys,
        // A provider of one's own is taken for one that speaks today's API.
        inject_usage: inject.unwrap_or_else(|| profile.is_none_or(|(_, profile)| profile.inject_usage)),
        reasoning_apart: profile.is_some_and(|(_, profile)| profile.reasoning == Reasoning::Beside),
        private: allow_private || local,
        ca: match ca {
            Some(found) => Some(found?),
            None => None,
        },
        models,
        timeouts,
        keep_alive,
        health_check,
        // Given by whoever reads the limits, and the prices.
        allowance: None,
        prices: PriceList::default(),
        pool_idle_max: pool_idle_max.unwrap_or(POOL_IDLE_PER_TARGET_MAX),
        pool_idle_time: pool_idle_time.unwrap_or(POOL_IDLE_TIME),
        hold_back: hold_back.unwrap_or(HoldBack::OFF),
        hedge_percentile: hedge_percentile.unwrap_or(0),
    })
}

/// A profile and its name.
pub(super) type Known = Option<(&'static str, &'static Profile)>;

fn provider_name(table: &mut Table<'_>, taken: &mut HashMap<String, String>) -> Option<String> {
    let Some(field) = table.get("name") else {
        table.complain(
            "this provider has no name",
            "give it one: name = \"openai\", or any other with a base_url",
        );
        return None;
    };
    let text = field.text()?;
    let name = good_name(&text)?;
    if name == "dynamic" {
        text.complain("`dynamic` is reserved for routes", "choose another name");
        return None;
    }
    if let Some(before) = taken.get(&name) {
        text.complain(
            format!("{before} already has this name"),
            "give each provider a name of its own; several keys of one provider stand in its `keys`",
        );
        return None;
    }
    taken.insert(name.clone(), table.path().to_owned());
    Some(name)
}

/// A name that can stand in a path, a metric and a log line.
pub(super) fn good_name(text: &Text<'_>) -> Option<String> {
    if text.is_reference() {
        // It will be shown everywhere, which is not what the environment is for.
        text.complain("a name cannot be looked up elsewhere", "write it out");
        return None;
    }
    let inner =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'_' | b'-');
    let starts = text.value.starts_with(|first: char| first.is_ascii_lowercase() || first.is_ascii_digit());
    if starts && text.value.len() <= NAME_BYTES_MAX && text.value.bytes().all(inner) {
        return Some(text.value.to_string());
    }
    text.complain(
        format!("{} is not a name", text.quoted()),
        format!("use up to {NAME_BYTES_MAX} of a-z, 0-9, `.`, `_` and `-`, beginning with a letter or digit"),
    );
    None
}

/// The profile that is asked for, or else the one of the same name; `None` if what is asked for is wrong.
fn profile(table: &mut Table<'_>, name: Option<&str>) -> Option<Known> {
    let find =
        |name: &str| profiles::all().get_key_value(name).map(|(name, profile)| (name.as_str(), profile));
    let Some(field) = table.get("profile") else { return Some(name.and_then(find)) };
    let text = field.text()?;
    let found = find(&text.value);
    if found.is_none() {
        let fix = match nearest(text.raw, profiles::all().keys().map(String::as_str)) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => format!("choose one of: {}", profile_names()),
        };
        text.complain(format!("there is no built-in profile {}", text.quoted()), fix);
    }
    found.map(Some)
}

fn profile_names() -> String {
    profiles::all().keys().map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// A base URL and who said it.
pub(super) struct Base<'a> {
    pub(super) url: BaseUrl,
    /// The operator's own words, if it is not the profile's.
    text: Option<Text<'a>>,
}

fn base_url<'a>(table: &mut Table<'a>, name: Option<&str>, profile: Known) -> Option<Base<'a>> {
    if let Some(field) = table.get("base_url") {
        let text = field.text()?;
        match BaseUrl::parse(&text.value) {
            Ok(url) => {
                if url.path.is_empty() {
                    text.warn(
                        "a base URL that ends in a bare `/` means the root: requests go to /chat/completions",
                        "if its endpoints stand under /v1, write that, or leave the `/` out",
                    );
                }
                return Some(Base { url, text: Some(text) });
            }
            Err(wrong) => text.complain(wrong.what, wrong.fix),
        }
        return None;
    }
    match profile {
        Some((profile, Profile { base_url: None, example, .. })) => {
            let example = example.as_deref().unwrap_or("https://host/v1");
            table.complain(format!("{profile} needs a base_url"), format!("base_url = \"{example}\""));
            None
        }
        // Parsed by a test as well: a profile cannot be wrong here.
        Some((_, Profile { base_url: Some(url), .. })) => {
            BaseUrl::parse(url).ok().map(|url| Base { url, text: None })
        }
        None => {
            // Without a name there is one complaint already.
            let name = name?;
            let fix = match nearest(name, profiles::all().keys().map(String::as_str)) {
                Some(near) => format!("did you mean \"{near}\"? Any other needs base_url = \"https://…/v1\""),
                None => "say where it is: base_url = \"https://…/v1\", or name one with `profile`".to_owned(),
            };
            table.complain(format!("`{name}` is not built in and has no base_url"), fix);
            None
        }
    }
}

/// Whether the way to the provider is fit for what is sent over it.
fn transport(base: &Base<'_>, allow_http: bool, allow_private: bool, keys: Option<&[Key]>) {
    let (Some(text), url) = (&base.text, &base.url) else { return };
    if !url.tls && !url.host.is_loopback() {
        if !allow_http {
            text.complain(
                "plain http is only for this machine: keys and prompts could be read on the way",
                "begin it with https://, or say allow_http = true if the network in between is your own",
            );
        } else if keys.is_some_and(|keys| keys.iter().any(|key| !key.line.expose().is_empty())) {
            text.warn("the key is sent unencrypted", "begin it with https:// where the provider can");
        }
    }
    if let Host::Name(name) = &url.host {
        let inside = !name.contains('.')
            || [".local", ".internal", ".lan", ".home.arpa"].iter().any(|end| name.ends_with(end));
        if inside && !allow_private && !url.host.is_loopback() {
            text.warn(
                "this looks like a name inside your network, where addresses are private and refused",
                "say allow_private = true for this provider",
            );
        }
    }
    if let Host::Address(IpAddr::V4(ip)) = url.host
        && ip.is_link_local()
    {
        text.warn(
            "this is a link-local address, where clouds serve their metadata",
            "see that it is what you mean",
        );
    }
}

fn models(table: &mut Table<'_>, name: Option<&str>) -> Vec<Box<str>> {
    let Some(texts) = table.get("models").and_then(Field::texts) else { return Vec::new() };
    let room = MODEL_BYTES_MAX.saturating_sub(name.map_or(NAME_BYTES_MAX, str::len) + 1);
    let mut seen: std::collections::HashSet<String> = std::collections::HashSet::new();
    let mut models = Vec::new();
    for text in &texts {
        let model = text.value.as_str();
        let plain = model.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\'));
        if model.is_empty() || model.len() > room || !plain {
            text.complain(
                format!("{} cannot be the name of a model", text.quoted()),
                format!("use up to {room} printable ASCII characters without spaces, `\"` and `\\`"),
            );
        } else if !seen.insert(model.to_owned()) {
            text.complain("this model is already in the list", "leave it out");
        } else {
            let prefixed =
                name.and_then(|name| model.strip_prefix(name)).is_some_and(|rest| rest.starts_with('/'));
            if prefixed {
                text.warn(
                    "this model begins with the provider's own name, which callers then have to write twice",
                    "write it as the provider calls it",
                );
            }
            models.push(model.into());
        }
    }
    models
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check, check_fix, check_provider};

    #[test]
    fn provider_names_are_plain_and_unique() {
        check_provider("key = \"${OPENAI_API_KEY}\"", &["1:1 provider[0]: this provider has no name"]);
        for name in ["", "OpenAI", "a/b", "-a", "ä", "a b", &"a".repeat(65)] {
            check_provider(
                &format!("name = \"{name}\""),
                &[&format!("2:8 provider[0].name: `{name}` is not a name")],
            );
        }
        check_provider("name = \"${HOST}\"", &["2:8 provider[0].name: a name cannot be looked up elsewhere"]);
        check_provider("name = \"dynamic\"", &["2:8 provider[0].name: `dynamic` is reserved for routes"]);
        check(
            "[[provider]]\nname = \"openai\"\n[[provider]]\nname = \"deepseek\"\n[[provider]]\nname = \"openai\"",
            &["6:8 provider[2].name: provider[0] already has this name"],
        );
        check_provider("name = \"opnai\"", &["1:1 provider[0]: `opnai` is not built in and has no base_url"]);
        check_fix(
            "[[provider]]\nname = \"opnai\"",
            "did you mean \"openai\"? Any other needs base_url = \"https://…/v1\"",
        );
        check_fix(
            "[[provider]]\nname = \"a\"\nprofile = \"deepsek\"\nbase_url = \"https://x.test\"\n",
            "did you mean \"deepseek\"?",
        );
        check_provider(
            "name = \"azure\"\nkey = \"${OPENAI_API_KEY}\"",
            &["1:1 provider[0]: azure needs a base_url"],
        );
    }

    #[test]
    fn base_urls_are_strict_and_plain_http_stays_on_this_machine() {
        let url = |url: &str| format!("name = \"a\"\nauth = \"none\"\nbase_url = \"{url}\"");
        let http = "4:12 provider[0].base_url: plain http is only for this machine: keys and prompts could be read on the way";
        check_provider(&url("http://127.0.0.1:1"), &[]);
        check_provider(&url("http://[::1]:1"), &[]);
        check_provider(&url("http://localhost:1"), &[]);
        check_provider(&url("http://x.test"), &[http]);
        check_provider(&url("http://10.0.0.1"), &[http]);
        check_provider(&url("http://localhost.x.test"), &[http]);
        check_provider(&(url("http://x.test") + "\nallow_http = true"), &[]);
        check_provider(
            "name = \"openai\"\nbase_url = \"http://x.test\"\nallow_http = true\nkey = \"${file:/k}\"",
            &["3:12 provider[0].base_url: the key is sent unencrypted"],
        );
        check_provider(
            &url("https://u:sk-secret@x.test"),
            &["4:12 provider[0].base_url: a base URL has no user or password"],
        );
        check_provider(
            &url("https://x.test/?k=sk-secret"),
            &["4:12 provider[0].base_url: a base URL has no query and no fragment"],
        );
        check_provider(
            &url("https://${HOST}#.x.test"),
            &["4:12 provider[0].base_url: a base URL has no query and no fragment"],
        );
        check_provider(
            &url("https://x.test/"),
            &[
                "4:12 provider[0].base_url: a base URL that ends in a bare `/` means the root: requests go to /chat/completions",
            ],
        );
        check_provider(
            &url("https://vllm"),
            &[
                "4:12 provider[0].base_url: this looks like a name inside your network, where addresses are private and refused",
            ],
        );
        check_provider(&(url("https://vllm") + "\nallow_private = true"), &[]);
    }

    #[test]
    fn models_are_names_and_stand_once() {
        let models = |list: &str| format!("name = \"openai\"\nmodels = {list}");
        check_provider(&models("[\"gpt-4o\", \"a/b:c@d\"]"), &[]);
        check_provider(&models("[\"\"]"), &["3:11 provider[0].models[0]: `` cannot be the name of a model"]);
        check_provider(
            &models("[\"a b\"]"),
            &["3:11 provider[0].models[0]: `a b` cannot be the name of a model"],
        );
        check_provider(
            &models("[\"a\", \"a\"]"),
            &["3:16 provider[0].models[1]: this model is already in the list"],
        );
        check_provider(
            &models("[\"openai/gpt-4o\"]"),
            &[
                "3:11 provider[0].models[0]: this model begins with the provider's own name, which callers then have to write twice",
            ],
        );
    }
}
