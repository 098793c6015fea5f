//! The keys of a provider: where they come from, and the header field that each becomes.
//!
//! A key reaches a header only as one printable word, and a key that was not written in the provider's own table goes
//! to no other host than its profile's.

use super::{
    provider::{Base, Known, good_name},
    raw::{Table, Text},
    snapshot::Key,
    suggest::nearest,
    url::BaseUrl,
};
use crate::base::{
    limits::{NAME_BYTES_MAX, PROVIDER_KEY_BYTES_MAX, PROVIDER_KEYS_MAX},
    secret::Secret,
};

/// How a key is shown to the provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Auth {
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
pub(super) fn auth(table: &mut Table<'_>, profile: Known) -> Option<Option<Auth>> {
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
pub(super) fn keys(
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
    for mut inner in tables.into_iter().flatten() {
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

#[cfg(test)]
mod tests {
    use super::super::tests::{check_fix, check_provider, compiled, said};
    use crate::base::limits;

    #[test]
    fn keys_are_one_printable_word_and_never_shown() {
        let wrong = "this key has a space, a control character or a letter outside ASCII at byte";
        check_provider(
            "name = \"openai\"\nkey = \"sk a-secret\"",
            &[&format!("3:7 provider[0].key: {wrong} 3")],
        );
        check_provider(
            "name = \"openai\"\nkey = \"${SPACED}\"",
            &[&format!("3:7 provider[0].key: {wrong} 10")],
        );
        check_provider(
            "name = \"openai\"\nkey = \"sk-secret\\r\\nx: y\"",
            &[&format!("3:7 provider[0].key: {wrong} 10")],
        );
        check_provider(
            "name = \"openai\"\nkey = \"sk-secret\\n\"",
            &[&format!("3:7 provider[0].key: {wrong} 10")],
        );
        check_provider("name = \"openai\"\nkey = \"\"", &["3:7 provider[0].key: this key is empty"]);
        check_provider("name = \"openai\"\nkey = \"${EMPTY}\"", &["3:7 provider[0].key: this key is empty"]);
        check_provider(
            "name = \"openai\"\nkey = \"${cred:none}\"",
            &["3:8 provider[0].key: the file /creds/none cannot be read: entity not found"],
        );
        let long = "k".repeat(limits::PROVIDER_KEY_BYTES_MAX + 1);
        check_provider(
            &format!("name = \"openai\"\nkey = \"{long}\""),
            &["3:7 provider[0].key: this key is longer than 4096 bytes"],
        );
        check_provider(
            "name = \"openai\"\nkey = \"sk-secret\"",
            &["3:7 provider[0].key: this key stands in the file itself"],
        );
        check_provider(
            "name = \"openai\"\nkey = \"a\"\nkeys = []",
            &["3:7 provider[0].key: there is a `key` and there are `keys`"],
        );
        check_provider("name = \"openai\"\nkeys = []", &["1:1 provider[0]: `keys` has no key in it"]);
        check_provider(
            "name = \"openai\"\nkeys = [{ key = \"sk-secret\" }, { name = \"b\" }, { nam = \"sk-secret\" }]",
            &[
                "3:9 provider[0].keys[0]: this key has no name",
                "3:32 provider[0].keys[1]: there is no key here",
                "3:48 provider[0].keys[2]: this key has no name",
                "3:48 provider[0].keys[2]: there is no key here",
                "3:50 provider[0].keys[2]: there is no `nam` here",
            ],
        );
        check_provider(
            "name = \"openai\"\nkeys = [{ name = \"a\", key = \"${file:/k}\" }, { name = \"a\", key = \"${file:/k}\" }]",
            &["3:54 provider[0].keys[1].name: another key of this provider has this name"],
        );
        check_provider("name = \"mistral\"", &["1:1 provider[0]: mistral needs a key"]);
        check_fix("[[provider]]\nname = \"mistral\"", "set MISTRAL_API_KEY, or write key = \"${…}\"");
    }

    #[test]
    fn a_key_from_the_environment_goes_only_where_it_was_meant_to_go() {
        check_provider("name = \"openai\"", &[]);
        check_provider("name = \"openai\"\nbase_url = \"https://api.openai.com/v1/eu\"", &[]);
        let elsewhere = |variable, name| {
            format!(
                "1:1 provider[0]: {variable} is set, but base_url leads elsewhere than {name}'s own and nothing says it may go there"
            )
        };
        check_provider(
            "name = \"openai\"\nbase_url = \"https://evil.test/v1\"",
            &[&elsewhere("OPENAI_API_KEY", "openai")],
        );
        check_provider(
            "name = \"openai\"\nbase_url = \"https://api.openai.com:444/v1\"",
            &[&elsewhere("OPENAI_API_KEY", "openai")],
        );
        check_provider(
            "name = \"openai\"\nbase_url = \"https://evil.test/v1\"\nkey = \"${OPENAI_API_KEY}\"",
            &[],
        );
        check_provider(
            "name = \"ollama\"\nbase_url = \"http://127.0.0.1:1/v1\"",
            &[&elsewhere("OLLAMA_API_KEY", "ollama")],
        );
        check_provider("name = \"ollama\"\nbase_url = \"http://127.0.0.1:1/v1\"\nauth = \"none\"", &[]);
        let loaded = compiled("[[provider]]\nname = \"ollama\"\nbase_url = \"http://127.0.0.1:1/v1\"");
        assert!(loaded.snapshot.providers[0].keys[0].line.expose().is_empty());
    }

    #[test]
    fn auth_is_a_scheme_or_the_name_of_a_field() {
        let url = "base_url = \"https://x.test\"";
        let line = |auth: &str| {
            let text =
                format!("[[provider]]\nname = \"a\"\n{url}\nauth = \"{auth}\"\nkey = \"${{file:/k}}\"");
            String::from_utf8_lossy(compiled(&text).snapshot.providers[0].keys[0].line.expose()).into_owned()
        };
        assert_eq!(line("bearer"), "authorization: Bearer sk-file-secret\r\n");
        assert_eq!(line("api-key"), "api-key: sk-file-secret\r\n");
        assert_eq!(line("x-goog-api-key"), "x-goog-api-key: sk-file-secret\r\n");
        assert_eq!(line("authorization"), "authorization: sk-file-secret\r\n");
        for auth in [
            "Bearer",
            "baerer",
            "host",
            "content-length",
            "transfer-encoding",
            "x-a\\r\\nb",
            "-x",
            "x y-z",
            "X-Key",
            "",
        ] {
            let said = said(&format!(
                "[[provider]]\nname = \"a\"\n{url}\nauth = \"{auth}\"\nkey = \"${{file:/k}}\""
            ));
            assert!(said.len() == 1 && said[0].starts_with("4:8 provider[0].auth: "), "{auth}: {said:?}");
        }
        check_fix(
            &format!("[[provider]]\nname = \"a\"\n{url}\nauth = \"Baerer\""),
            "did you mean \"bearer\"?",
        );
        check_provider(
            &format!("name = \"a\"\n{url}\nauth = \"none\"\nkey = \"${{file:/k}}\""),
            &["5:7 provider[0].key: this key is never sent: auth is \"none\""],
        );
        check_provider(
            &format!("name = \"a\"\n{url}\nauth = \"bearer\""),
            &["1:1 provider[0]: this provider has no key"],
        );
        check_provider(
            &format!("name = \"a\"\n{url}"),
            &["1:1 provider[0]: requests are sent without a key"],
        );
        check_provider(&format!("name = \"a\"\n{url}\nauth = \"none\""), &[]);
    }
}
