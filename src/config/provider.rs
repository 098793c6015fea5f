//! One `[[provider]]` table: what its operator says, on top of what its profile knows, checked as a whole.

use std::{collections::HashMap, net::IpAddr};

use super::{
    certificate,
    check::timeouts,
    profiles::{self, Profile, Reasoning},
    raw::{Field, Table, Text},
    snapshot::{Dial, Key, Provider, Timeouts},
    suggest::nearest,
    url::{BaseUrl, Host},
};
use crate::base::{
    ids::ProviderId,
    limits::{
        CONFIG_TIME_MAX, MODEL_BYTES_MAX, NAME_BYTES_MAX, POOL_IDLE_MAX, POOL_IDLE_PER_TARGET_MAX,
        POOL_IDLE_TIME, PROVIDER_KEY_BYTES_MAX, PROVIDER_KEYS_MAX, TICK,
    },
    secret::Secret,
};

/// Reads a provider; nothing if anything in it is wrong. `taken` holds the names of those before it.
pub(super) fn provider(
    mut table: Table<'_>,
    defaults: Timeouts,
    taken: &mut HashMap<String, usize>,
) -> Option<Provider> {
    let name = provider_name(&mut table, taken);
    let profile = profile(&mut table, name.as_deref());
    let base = base_url(&mut table, name.as_deref(), profile);
    let auth = auth(&mut table, profile);
    let keys = keys(&mut table, profile, base.as_ref(), auth);

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
    let pool_idle_max = table.get("pool_idle_max").and_then(|field| field.count(0..=POOL_IDLE_MAX));
    let pool_idle_time = table.get("pool_idle_secs").and_then(|field| field.secs(TICK..=CONFIG_TIME_MAX));
    table.close();

    let (name, url) = (name?, base?.url);
    let authority = url.authority();
    let local = matches!(url.host, Host::Address(_)) || url.host.is_loopback();
    let (host, dial) = match url.host {
        Host::Name(name) => (name.clone(), Dial::Name(name.into())),
        Host::Address(ip) => (ip.to_string(), Dial::Address(ip)),
    };
    Some(Provider {
        // Until it is enrolled.
        id: ProviderId(0),
        name: name.into(),
        profile: profile.map(|(name, _)| name.into()),
        tls: url.tls,
        host: host.into(),
        authority: authority.into(),
        port: url.port,
        dial,
        base_path: url.path.into(),
        keys: keys?,
        inject_usage: inject.unwrap_or_else(|| profile.is_some_and(|(_, profile)| profile.inject_usage)),
        reasoning_apart: profile.is_some_and(|(_, profile)| profile.reasoning == Reasoning::Beside),
        private: allow_private || local,
        ca: match ca {
            Some(found) => Some(found?),
            None => None,
        },
        models,
        timeouts,
        pool_idle_max: pool_idle_max.unwrap_or(POOL_IDLE_PER_TARGET_MAX),
        pool_idle_time: pool_idle_time.unwrap_or(POOL_IDLE_TIME),
    })
}

type Known = Option<(&'static str, &'static Profile)>;

fn provider_name(table: &mut Table<'_>, taken: &mut HashMap<String, usize>) -> Option<String> {
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
    let place = taken.len();
    if let Some(before) = taken.insert(name.clone(), place) {
        taken.insert(name, before);
        text.complain(
            format!("provider[{before}] already has this name"),
            "give each provider a name of its own; several keys of one provider stand in its `keys`",
        );
        return None;
    }
    Some(name)
}

/// A name that can stand in a path, a metric and a log line.
fn good_name(text: &Text<'_>) -> Option<String> {
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

/// The profile that is asked for, or else the one of the same name.
fn profile(table: &mut Table<'_>, name: Option<&str>) -> Known {
    let find =
        |name: &str| profiles::all().get_key_value(name).map(|(name, profile)| (name.as_str(), profile));
    let Some(field) = table.get("profile") else { return name.and_then(find) };
    let text = field.text()?;
    let found = find(&text.value);
    if found.is_none() {
        let fix = match nearest(text.raw, profiles::all().keys().map(String::as_str)) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => format!("choose one of: {}", profile_names()),
        };
        text.complain(format!("there is no built-in profile {}", text.quoted()), fix);
    }
    found
}

fn profile_names() -> String {
    profiles::all().keys().map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// A base URL and who said it.
struct Base<'a> {
    url: BaseUrl,
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

/// How a key is shown to the provider.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Auth {
    Bearer,
    Header(String),
    /// Said so, and not merely unsaid.
    Nothing,
}

/// Header fields that carry something else.
const NOT_FOR_KEYS: [&str; 14] = [
    "accept-encoding",
    "content-encoding",
    "content-length",
    "content-type",
    "idempotency-key",
    "keep-alive",
    "proxy-connection",
    "transfer-encoding",
    "user-agent",
    "x-forwarded-for",
    "x-request-id",
    "accept-language",
    "proxy-authenticate",
    "www-authenticate",
];

/// `None` if nothing was said; the inner one if what was said is wrong.
fn auth(table: &mut Table<'_>, profile: Known) -> Option<Option<Auth>> {
    let Some(field) = table.get("auth") else {
        let (_, profile) = profile?;
        return Some(Some(match profile.auth.as_str() {
            "bearer" => Auth::Bearer,
            header => Auth::Header(header.to_owned()),
        }));
    };
    let Some(text) = field.text() else { return Some(None) };
    Some(match text.value.as_str() {
        "bearer" => Some(Auth::Bearer),
        "none" => Some(Auth::Nothing),
        "authorization" => Some(Auth::Header("authorization".to_owned())),
        header => {
            let byte = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            // With a hyphen, so that a misspelt "bearer" is not taken for the name of a field.
            let named = header.contains('-') && !header.starts_with('-') && !header.ends_with('-');
            if named
                && header.len() <= NAME_BYTES_MAX
                && header.bytes().all(byte)
                && !NOT_FOR_KEYS.contains(&header)
            {
                Some(Auth::Header(header.to_owned()))
            } else {
                let fix = match nearest(text.raw, ["bearer", "none", "api-key", "x-api-key", "authorization"])
                {
                    Some(near) => format!("did you mean \"{near}\"?"),
                    None => "write \"bearer\", \"none\", or the header field that carries the key, such as \
                             \"api-key\", in lower case"
                        .to_owned(),
                };
                text.complain(format!("{} is no way to send a key", text.quoted()), fix);
                None
            }
        }
    })
}

/// The keys with their header lines, at least one; nothing if any is wrong.
fn keys(
    table: &mut Table<'_>,
    profile: Known,
    base: Option<&Base<'_>>,
    auth: Option<Option<Auth>>,
) -> Option<Vec<Key>> {
    let one = table.get("key");
    let many = table.get("keys");
    // What is sent is decided by `auth`; with a key but no word on it, it is a bearer token.
    let auth_wrong = matches!(auth, Some(None));
    let auth = auth.flatten();
    match (one, many) {
        (Some(field), Some(_)) => {
            field.complain("there is a `key` and there are `keys`", "keep one of the two");
            None
        }
        (Some(field), None) => {
            let text = field.secret()?;
            let line = key_line(&text, auth.as_ref().unwrap_or(&Auth::Bearer));
            (!auth_wrong).then_some(())?;
            Some(vec![Key { name: "default".into(), line: line? }])
        }
        (None, Some(_)) => named_keys(table, auth.as_ref().unwrap_or(&Auth::Bearer)).filter(|_| !auth_wrong),
        (None, None) if auth_wrong => None,
        (None, None) => no_key(table, profile, base, auth),
    }
}

fn named_keys(table: &mut Table<'_>, auth: &Auth) -> Option<Vec<Key>> {
    let tables = table.tables("keys");
    if tables.is_empty() {
        table.complain(
            "`keys` has no key in it",
            "keys = [{ name = \"a\", key = \"${…}\" }], or leave it out",
        );
        return None;
    }
    if tables.len() > PROVIDER_KEYS_MAX {
        table.complain("there are too many keys", format!("a provider has at most {PROVIDER_KEYS_MAX}"));
        return None;
    }
    let mut names: Vec<String> = Vec::new();
    let mut keys = Vec::new();
    let count = tables.len();
    for mut inner in tables {
        let name = match inner.get("name") {
            Some(field) => field.text().and_then(|text| {
                let name = good_name(&text)?;
                if names.contains(&name) {
                    text.complain(
                        "another key of this provider has this name",
                        "give each key a name of its own",
                    );
                    return None;
                }
                names.push(name.clone());
                Some(name)
            }),
            None => {
                inner.complain(
                    "this key has no name",
                    "name = \"…\": it stands in logs and metrics instead of the key",
                );
                None
            }
        };
        let line = match inner.get("key") {
            Some(field) => field.secret().and_then(|text| key_line(&text, auth)),
            None => {
                inner.complain("there is no key here", "key = \"${…}\"");
                None
            }
        };
        inner.close();
        if let (Some(name), Some(line)) = (name, line) {
            keys.push(Key { name: name.into(), line });
        }
    }
    (keys.len() == count).then_some(keys)
}

/// What happens when the table has no key: the profile's variable, or none at all where that can be meant.
fn no_key(
    table: &mut Table<'_>,
    profile: Known,
    base: Option<&Base<'_>>,
    auth: Option<Auth>,
) -> Option<Vec<Key>> {
    let nothing = || Some(vec![Key { name: "default".into(), line: Secret::new(Vec::new()) }]);
    if auth == Some(Auth::Nothing) {
        return nothing();
    }
    let Some((name, profile)) = profile else {
        if auth.is_some() {
            table.complain("this provider has no key", "key = \"${…}\", or auth = \"none\" if it needs none");
            return None;
        }
        if base.is_some_and(|base| !base.url.host.is_loopback()) {
            table.warn(
                "requests are sent without a key",
                "give it a `key`, or say auth = \"none\" if that is meant",
            );
        }
        return nothing();
    };
    let auth = auth.unwrap_or(Auth::Bearer);
    let found = profile.env.iter().find_map(|variable| {
        table
            .around()
            .env(variable)
            .filter(|value| !value.is_empty())
            .map(|value| (variable, Secret::new(value.into())))
    });
    let usual = profile.env.first().map_or("KEY", String::as_str);
    // A key that was set for the profile's own host goes to no other unless the operator says so.
    let elsewhere = match (&profile.base_url, base) {
        (Some(own), Some(base)) => !BaseUrl::parse(own).is_ok_and(|own| own.same_origin(&base.url)),
        _ => false,
    };
    match found {
        Some((variable, _)) if elsewhere => {
            let what = format!(
                "{variable} is set, but base_url leads elsewhere than {name}'s own and nothing says it may go there"
            );
            let fix = format!("key = \"${{{variable}}}\" sends it there; auth = \"none\" sends none");
            if profile.key_optional {
                table.warn(what, fix);
                return nothing();
            }
            table.complain(what, fix);
            None
        }
        Some((variable, value)) => match header_line(value.expose(), &auth) {
            Ok(line) => Some(vec![Key { name: "default".into(), line }]),
            Err(what) => {
                table.complain(
                    format!("{variable} cannot be used as a key: {what}"),
                    "set it to the key and nothing else",
                );
                None
            }
        },
        None if profile.key_optional => nothing(),
        None => {
            table.complain(format!("{name} needs a key"), format!("set {usual}, or write key = \"${{…}}\""));
            None
        }
    }
}

/// The header field for a key of the file, or a complaint that does not show it.
fn key_line(text: &Text<'_>, auth: &Auth) -> Option<Secret> {
    if *auth == Auth::Nothing {
        text.complain("this key is never sent: auth is \"none\"", "leave one of the two out");
        return None;
    }
    match header_line(text.value.as_bytes(), auth) {
        Ok(line) => {
            if !text.is_reference() {
                text.warn(
                    "this key stands in the file itself",
                    "keep it out: \"${NAME}\", \"${file:/path}\" or \"${cred:name}\"",
                );
            }
            Some(line)
        }
        Err(what) => {
            text.complain(
                what,
                "a key is one word of printable ASCII; see that nothing was added when it was copied",
            );
            None
        }
    }
}

/// The whole field, ready to be sent. What is not one printable word never gets near a header.
fn header_line(key: &[u8], auth: &Auth) -> Result<Secret, String> {
    if key.is_empty() {
        return Err("this key is empty".to_owned());
    }
    if key.len() > PROVIDER_KEY_BYTES_MAX {
        return Err(format!("this key is longer than {PROVIDER_KEY_BYTES_MAX} bytes"));
    }
    if let Some(at) = key.iter().position(|byte| !byte.is_ascii_graphic()) {
        return Err(format!(
            "this key has a space, a control character or a letter outside ASCII at byte {}",
            at + 1
        ));
    }
    let (name, scheme) = match auth {
        Auth::Bearer => ("authorization", "Bearer "),
        Auth::Header(name) => (name.as_str(), ""),
        Auth::Nothing => return Ok(Secret::new(Vec::new())),
    };
    let parts = [name.as_bytes(), b": ", scheme.as_bytes(), key, b"\r\n"];
    // All at once: a vector that grows leaves copies behind that nobody wipes.
    Ok(Secret::new(parts.concat()))
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
