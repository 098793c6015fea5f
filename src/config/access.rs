//! Who may come in, by address, and which proxies are believed about where a client is.
//!
//! Networks stand in the configuration itself or, for long lists, in files: one a line, `#` begins a comment. A line of
//! a file is told by its number and never quoted: the file may have been named by mistake.

use super::{
    certificate,
    raw::{Table, Text},
    snapshot::Access,
};
use crate::base::prefixes::{AccessList, BadPrefix, Prefix, Prefixes};

/// Compiles the table; without it everyone may come in, and nobody but the TCP peer says where it is.
pub(super) fn access(table: Option<Table<'_>>) -> Access {
    let Some(mut table) = table else { return Access::default() };
    let mut allow = networks(&mut table, "allow", |_, _| ());
    let mut deny = networks(&mut table, "deny", |_, _| ());
    let trusted = networks(&mut table, "trusted_proxies", |text, prefix| {
        if prefix.is_everyone() {
            text.warn(
                "whoever connects is believed about where it is: lists and limits by address mean nothing",
                "name the addresses of your proxies",
            );
        }
    });
    for (list, key) in [(&mut allow, "allow_file"), (&mut deny, "deny_file")] {
        if let Some(field) = table.get(key) {
            // What is there but cannot be read is a list all the same, and was complained of.
            let read = field.text().and_then(|text| of_file(&text, table.around()));
            list.get_or_insert_default().extend(read.unwrap_or_default());
        }
    }
    if allow.as_ref().is_some_and(Vec::is_empty) {
        table.warn(
            "the list of those who are allowed is empty: nobody may come in",
            "leave `allow` and `allow_file` out to let in everyone who is not denied",
        );
    }
    table.close();
    let set = |networks: Vec<Prefix>| networks.into_iter().collect::<Prefixes>();
    Access {
        list: AccessList { allow: allow.map(set), deny: deny.map(set).unwrap_or_default() },
        trusted_proxies: trusted.map(set).unwrap_or_default(),
    }
}

/// The networks of one setting; `None` if it is not there. `look` sees each of them with its place.
fn networks(
    table: &mut Table<'_>,
    key: &'static str,
    look: impl Fn(&Text<'_>, Prefix),
) -> Option<Vec<Prefix>> {
    let texts = table.get(key)?.texts().unwrap_or_default();
    let networks = texts.iter().filter_map(|text| {
        let network = network(text)?;
        look(text, network);
        Some(network)
    });
    Some(networks.collect())
}

fn network(text: &Text<'_>) -> Option<Prefix> {
    match text.value.parse::<Prefix>() {
        Ok(network) => Some(network),
        Err(wrong) => {
            let fix = match wrong {
                // Nothing that was interpolated is told.
                BadPrefix::HostBits { .. } if text.is_reference() => {
                    "clear the bits behind the length".to_owned()
                }
                BadPrefix::HostBits { network } => format!("write \"{network}\", or the address alone"),
                BadPrefix::Length { bits } => {
                    format!("write an address, a slash and a number from 0 to {bits}")
                }
                BadPrefix::NotAnAddress => FORMS.to_owned(),
            };
            text.complain(format!("{} is not a network: {}", text.quoted(), why(wrong)), fix);
            None
        }
    }
}

const FORMS: &str =
    "write \"192.0.2.0/24\", \"2001:db8::/32\", or an address alone; names are not resolved here";

fn why(wrong: BadPrefix) -> &'static str {
    match wrong {
        BadPrefix::NotAnAddress => "there is no IPv4 or IPv6 address in it",
        BadPrefix::Length { .. } => "its length is not one",
        BadPrefix::HostBits { .. } => "bits are set behind its length",
    }
}

/// Most lines of one file that are complained of.
const LINES_TOLD: usize = 8;

fn of_file(file: &Text<'_>, around: &dyn super::Surroundings) -> Option<Vec<Prefix>> {
    let bytes = certificate::read(file, around)?;
    let Ok(text) = std::str::from_utf8(&bytes) else {
        file.complain("this file is not UTF-8", "one network a line, `#` begins a comment");
        return None;
    };
    let mut networks = Vec::new();
    let mut wrong_lines = 0;
    for (index, line) in text.lines().enumerate() {
        let content = line.split('#').next().unwrap_or_default().trim();
        if content.is_empty() {
            continue;
        }
        match content.parse::<Prefix>() {
            Ok(network) => networks.push(network),
            Err(wrong) => {
                wrong_lines += 1;
                if wrong_lines <= LINES_TOLD {
                    let what = format!("line {} of this file is not a network: {}", index + 1, why(wrong));
                    let fix = match wrong {
                        BadPrefix::HostBits { network } => format!("write {network}, or the address alone"),
                        _ => "one network a line such as 192.0.2.0/24, `#` begins a comment".to_owned(),
                    };
                    file.complain(what, fix);
                }
            }
        }
    }
    if wrong_lines > LINES_TOLD {
        let more = wrong_lines - LINES_TOLD;
        file.complain(format!("{more} more lines of this file are not networks"), "see the ones before");
    }
    Some(networks)
}

#[cfg(test)]
mod tests {
    use super::super::{
        Fake, compile,
        tests::{check, check_fix, compiled},
    };
    use crate::config::Access;

    const PROVIDER: &str = "[[provider]]\nname = \"p\"\nauth = \"none\"\nbase_url = \"http://127.0.0.1:1\"\n";

    fn access(settings: &str) -> Access {
        compiled(&format!("[access]\n{settings}\n{PROVIDER}")).snapshot.access
    }

    fn with_file(settings: &str, file: &'static [u8]) -> Result<Access, Vec<String>> {
        let around = Fake { files: vec![("/list", file)], ..Fake::default() };
        match compile(&format!("[access]\n{settings}\n{PROVIDER}"), "t.toml", &around) {
            Ok(loaded) => Ok(loaded.snapshot.access),
            Err(complaints) => Err(complaints
                .0
                .into_iter()
                .map(|c| format!("{}:{} {}: {} ({})", c.line, c.column, c.path, c.what, c.fix))
                .collect()),
        }
    }

    #[track_caller]
    fn permits(access: &Access, expect: bool, ips: &[&str]) {
        for ip in ips {
            assert_eq!(access.list.permits(ip.parse().unwrap()), expect, "{ip}");
        }
    }

    #[test]
    fn without_lists_everyone_may_come_and_nobody_is_believed() {
        for access in [compiled(PROVIDER).snapshot.access, access("")] {
            permits(&access, true, &["192.0.2.1", "::1"]);
            assert!(access.trusted_proxies.is_empty() && access.list.allow.is_none());
        }
    }

    #[test]
    fn lists_hold_what_they_name() {
        let access = access(
            "allow = [\"192.0.2.0/24\", \"2001:db8::/32\"]\ndeny = \"192.0.2.7\"\ntrusted_proxies = [\"10.0.0.0/8\"]",
        );
        permits(&access, true, &["192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1"]);
        permits(&access, false, &["192.0.2.7", "::ffff:192.0.2.7", "192.0.3.1", "2001:db9::1"]);
        assert!(access.trusted_proxies.contains("10.1.2.3".parse().unwrap()));
    }

    #[test]
    fn a_file_adds_to_its_list() {
        let file = b"# office\n192.0.2.0/24   # first floor\r\n\n  2001:db8::/32\n198.51.100.7";
        let access = with_file("allow = [\"203.0.113.1\"]\nallow_file = \"/list\"", file).unwrap();
        permits(&access, true, &["203.0.113.1", "192.0.2.255", "2001:db8::1", "198.51.100.7"]);
        permits(&access, false, &["203.0.113.2", "198.51.100.8"]);
        let access = with_file("deny_file = \"/list\"", file).unwrap();
        permits(&access, false, &["192.0.2.255", "198.51.100.7"]);
        permits(&access, true, &["203.0.113.2"]);
    }

    #[test]
    fn lines_that_are_wrong_are_told_by_number_and_never_quoted() {
        assert_eq!(
            with_file("allow_file = \"/list\"", b"\n10.0.0.1/8\nsk-a-key-secret\n1.1.1.0/33\n")
                .err()
                .unwrap(),
            [
                "2:14 access.allow_file: line 2 of this file is not a network: bits are set behind its length \
                 (write 10.0.0.0/8, or the address alone)",
                "2:14 access.allow_file: line 3 of this file is not a network: there is no IPv4 or IPv6 address in it \
                 (one network a line such as 192.0.2.0/24, `#` begins a comment)",
                "2:14 access.allow_file: line 4 of this file is not a network: its length is not one \
                 (one network a line such as 192.0.2.0/24, `#` begins a comment)",
            ]
        );
        let flood = with_file("deny_file = \"/list\"", b"x\nx\nx\nx\nx\nx\nx\nx\nx\nx\nx\n").err().unwrap();
        assert_eq!(flood.len(), 9);
        assert!(flood[8].contains("3 more lines"), "{}", flood[8]);
        let binary = with_file("deny_file = \"/list\"", b"\xff").err().unwrap();
        assert!(binary[0].contains("not UTF-8"), "{binary:?}");
        let absent = with_file("deny_file = \"/other\"", b"").err().unwrap();
        assert!(absent[0].contains("cannot be read"), "{absent:?}");
    }

    #[test]
    fn an_empty_allow_list_lets_nobody_in_and_says_so() {
        let warning = "1:1 access: the list of those who are allowed is empty: nobody may come in";
        check(&format!("[access]\nallow = []\n{PROVIDER}"), &[warning]);
        permits(&access("allow = []"), false, &["192.0.2.1", "::1"]);
        let access = with_file("allow_file = \"/list\"", b"# nobody yet\n").unwrap();
        permits(&access, false, &["192.0.2.1", "::1"]);
    }

    #[test]
    fn what_is_no_network_is_complained_of_where_it_stands() {
        check(
            "[access]\nallow = [\"10.0.0.0/8\", \"10.0.0.1/8\"]\ndeny = \"lan\"\ntrusted_proxies = [\"::/129\", 1]",
            &[
                "2:24 access.allow[1]: `10.0.0.1/8` is not a network: bits are set behind its length",
                "3:8 access.deny: `lan` is not a network: there is no IPv4 or IPv6 address in it",
                "4:30 access.trusted_proxies[1]: this is a whole number, not a string",
            ],
        );
        check_fix("access.allow = \"10.0.0.1/8\"", "write \"10.0.0.0/8\", or the address alone");
        check_fix("access.deny = \"::/129\"", "write an address, a slash and a number from 0 to 128");
        check_fix("access.alow = []", "did you mean `allow`?");
        check("access = []", &["1:10 access: this is a list, not a table"]);
    }

    #[test]
    fn trusting_everyone_is_warned_of() {
        let what = "whoever connects is believed about where it is: lists and limits by address mean nothing";
        check(
            &format!("[access]\ntrusted_proxies = [\"10.0.0.0/8\", \"::/0\"]\n{PROVIDER}"),
            &[&format!("2:34 access.trusted_proxies[1]: {what}")],
        );
    }
}
