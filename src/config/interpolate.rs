//! `${…}` in string values: the environment, a file, or a systemd credential, put in after the file was parsed, so that
//! what is put in can neither change the structure of the file nor be read as another `${…}`.
//!
//! | written | becomes |
//! |---|---|
//! | `${NAME}` | the environment variable, which must be set |
//! | `${NAME:-default}` | the environment variable, or the default if it is not set or empty |
//! | `${file:/path}` | the file without its trailing newline |
//! | `${cred:name}` | the file `name` in `$CREDENTIALS_DIRECTORY` (systemd's `LoadCredential=`) |
//! | `$${` | `${` itself |
//!
//! A [`Miss`] repeats what was written and never what was found.

use std::path::Path;

use zeroize::{Zeroize, Zeroizing};

use super::surroundings::Surroundings;

/// One `${…}` that could not be replaced.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Miss {
    /// The reference as it stands in the file.
    pub(super) token: String,
    pub(super) what: String,
    pub(super) fix: String,
}

/// Whether `text` has anything to replace.
pub(super) fn refers(text: &str) -> bool {
    text.contains("${")
}

/// `text` with every reference replaced, or every reference that could not be.
pub(super) fn interpolate(text: &str, around: &dyn Surroundings) -> Result<Zeroizing<String>, Vec<Miss>> {
    let mut whole = Zeroizing::new(String::with_capacity(text.len()));
    let mut misses = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, from) = rest.split_at(at);
        if let Some(before) = before.strip_suffix('$') {
            grow(&mut whole, before, from.len());
            grow(&mut whole, "${", from.len());
            rest = &from[2..];
            continue;
        }
        grow(&mut whole, before, from.len());
        let Some(end) = from.find('}') else {
            misses.push(Miss {
                token: from.to_owned(),
                what: "`${` is never closed".to_owned(),
                fix: "end the reference with `}`, or write `$${` if the characters themselves are meant"
                    .to_owned(),
            });
            return Err(misses);
        };
        match look_up(&from[2..end], around) {
            Ok(value) => grow(&mut whole, &value, from.len()),
            Err((what, fix)) => misses.push(Miss { token: from[..=end].to_owned(), what, fix }),
        }
        rest = &from[end + 1..];
    }
    grow(&mut whole, rest, 0);
    if misses.is_empty() { Ok(whole) } else { Err(misses) }
}

/// Appends without leaving an unwiped copy behind when the string has to move.
fn grow(whole: &mut Zeroizing<String>, more: &str, room: usize) {
    if whole.capacity() - whole.len() < more.len() {
        let mut larger = String::with_capacity(whole.len() + more.len() + room);
        larger.push_str(whole);
        *whole = Zeroizing::new(larger);
    }
    whole.push_str(more);
}

fn look_up(inside: &str, around: &dyn Surroundings) -> Result<Zeroizing<String>, (String, String)> {
    if let Some((name, default)) = inside.split_once(":-") {
        is_variable(name)?;
        let value = around.env(name).filter(|value| !value.is_empty());
        return Ok(Zeroizing::new(value.unwrap_or_else(|| default.to_owned())));
    }
    if let Some(path) = inside.strip_prefix("file:") {
        if !path.starts_with('/') {
            return Err((
                "the path of a file has to be absolute".to_owned(),
                "write it from the root: `${file:/etc/ringway/key}`".to_owned(),
            ));
        }
        return read(Path::new(path), around);
    }
    if let Some(name) = inside.strip_prefix("cred:") {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if name.is_empty() || name.starts_with('.') || !name.bytes().all(plain) {
            return Err((
                "this is not the name of a credential".to_owned(),
                "use the name given to `LoadCredential=` in the unit: letters, digits, `.`, `_` and `-`"
                    .to_owned(),
            ));
        }
        let Some(directory) = around.env("CREDENTIALS_DIRECTORY") else {
            return Err((
                "there are no credentials: CREDENTIALS_DIRECTORY is not set".to_owned(),
                "start ringway from a systemd unit with `LoadCredential=`, or use `${file:/path}`".to_owned(),
            ));
        };
        return read(&Path::new(&directory).join(name), around);
    }
    is_variable(inside)?;
    around.env(inside).map(Zeroizing::new).ok_or_else(|| {
        (
            format!("the environment variable {inside} is not set"),
            format!("set {inside}, or give a default: `${{{inside}:-…}}`"),
        )
    })
}

fn is_variable(name: &str) -> Result<(), (String, String)> {
    let starts = name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
    if starts && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return Ok(());
    }
    Err((
        "this is not the name of an environment variable".to_owned(),
        "write `${NAME}`, `${NAME:-default}`, `${file:/path}` or `${cred:name}`".to_owned(),
    ))
}

fn read(path: &Path, around: &dyn Surroundings) -> Result<Zeroizing<String>, (String, String)> {
    let bytes = around.read(path).map_err(|error| {
        (
            format!("the file {} cannot be read: {error}", path.display().to_string().escape_debug()),
            "see that the file exists and that the user ringway runs as may read it".to_owned(),
        )
    })?;
    let mut text = String::from_utf8(bytes).map(Zeroizing::new).map_err(|error| {
        error.into_bytes().zeroize();
        (
            format!("the file {} is not text", path.display().to_string().escape_debug()),
            "the file has to hold the value itself, in UTF-8, and nothing else".to_owned(),
        )
    })?;
    let kept = text.trim_end_matches(['\r', '\n']).len();
    text.truncate(kept);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::{super::surroundings::Fake, *};

    fn around() -> Fake {
        Fake {
            env: vec![
                ("A", "one"),
                ("B_2", "two"),
                ("EMPTY", ""),
                ("NESTED", "${A}"),
                ("CREDENTIALS_DIRECTORY", "/run/credentials"),
            ],
            files: vec![
                ("/k", b"sk-file\n"),
                ("/crlf", b"sk-crlf\r\n\n"),
                ("/run/credentials/openai", b"sk-cred\n"),
                ("/binary", b"\xff\xfe"),
            ],
            any: None,
        }
    }

    #[track_caller]
    fn check(text: &str, expect: &str) {
        assert_eq!(interpolate(text, &around()).expect(text).as_str(), expect);
    }

    #[track_caller]
    fn check_miss(text: &str, expect: &[(&str, &str)]) {
        let misses = interpolate(text, &around()).expect_err(text);
        let found: Vec<_> = misses.iter().map(|miss| (miss.token.as_str(), miss.what.as_str())).collect();
        assert_eq!(found, expect);
    }

    #[test]
    fn references_are_replaced_once_and_the_rest_is_kept() {
        check("", "");
        check("plain $ {A} $A }", "plain $ {A} $A }");
        check("${A}", "one");
        check("-${A}-${B_2}-", "-one-two-");
        check("${MISSING:-other}", "other");
        check("${MISSING:-}", "");
        check("${EMPTY:-other}", "other");
        check("${EMPTY}", "");
        check("${A:-other}", "one");
        check("${file:-word}", "word");
        check("${NESTED}", "${A}");
        check("${file:/k}", "sk-file");
        check("${file:/crlf}|", "sk-crlf|");
        check("Bearer ${cred:openai}", "Bearer sk-cred");
        check("$${A}", "${A}");
        check("a$$${A}", "a$${A}");
    }

    #[test]
    fn every_reference_that_fails_is_named() {
        check_miss("${NO}", &[("${NO}", "the environment variable NO is not set")]);
        check_miss("${}", &[("${}", "this is not the name of an environment variable")]);
        check_miss(
            "x ${9} ${A} ${a b}",
            &[
                ("${9}", "this is not the name of an environment variable"),
                ("${a b}", "this is not the name of an environment variable"),
            ],
        );
        check_miss("${file:k}", &[("${file:k}", "the path of a file has to be absolute")]);
        check_miss("${file:/none}", &[("${file:/none}", "the file /none cannot be read: entity not found")]);
        check_miss("${file:/binary}", &[("${file:/binary}", "the file /binary is not text")]);
        check_miss("${cred:../x}", &[("${cred:../x}", "this is not the name of a credential")]);
        check_miss("a ${A", &[("${A", "`${` is never closed")]);
    }
}
