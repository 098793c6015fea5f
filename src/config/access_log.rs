//! The access log: in which form lines are written, and where to. Nothing is logged unless it is asked for.

use std::path::{Component, Path, PathBuf};

use super::raw::{Field, Table, Text};

/// The access log as the operator wants it; taken up at the start alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessLog {
    pub format: LogFormat,
    /// `None`: there is none.
    pub to: Option<LogTarget>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// A JSON object a line.
    #[default]
    Json,
    /// `key=value` pairs.
    Logfmt,
    /// Apache's combined format, for tools that read nothing else.
    Combined,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    Stdout,
    /// Opened again on SIGUSR1.
    File(PathBuf),
}

/// Compiles the table.
pub(super) fn access_log(table: Option<Table<'_>>) -> AccessLog {
    let Some(mut table) = table else { return AccessLog::default() };
    let formats =
        [("json", LogFormat::Json), ("logfmt", LogFormat::Logfmt), ("combined", LogFormat::Combined)];
    let format = table.get("format").and_then(Field::text).and_then(|text| text.choose(&formats));
    let to = table.get("to").and_then(Field::text).and_then(|text| target(&text));
    table.close();
    AccessLog { format: format.unwrap_or_default(), to }
}

fn target(text: &Text<'_>) -> Option<LogTarget> {
    match text.value.as_str() {
        "off" => None,
        "stdout" => Some(LogTarget::Stdout),
        path if path.starts_with('/') => {
            let path = Path::new(path);
            // A file that cannot be one: a directory by its spelling, or one that depends on links.
            let is_plain = path.components().all(|part| part != Component::ParentDir);
            if !is_plain || text.value.ends_with('/') {
                text.complain(
                    format!("{} is not the path of a file", text.quoted()),
                    "to = \"/var/log/ringway/access.log\"",
                );
                return None;
            }
            Some(LogTarget::File(path.to_owned()))
        }
        _ => {
            text.complain(
                format!("{} is no place for a log", text.quoted()),
                "to = \"stdout\", \"off\", or the whole path of a file: \"/var/log/ringway/access.log\"",
            );
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{check as check_said, check_fix, compiled},
        *,
    };

    const PROVIDER: &str = "[[provider]]\nname = \"p\"\nauth = \"none\"\nbase_url = \"http://127.0.0.1:1\"\n";

    #[track_caller]
    fn check(settings: &str, format: LogFormat, to: Option<LogTarget>) {
        let snapshot = compiled(&format!("{PROVIDER}{settings}")).snapshot;
        assert_eq!(snapshot.access_log, AccessLog { format, to });
    }

    #[test]
    fn nothing_is_logged_unless_it_is_asked_for() {
        check("", LogFormat::Json, None);
        check("[access_log]\nformat = \"logfmt\"", LogFormat::Logfmt, None);
        check("[access_log]\nto = \"off\"", LogFormat::Json, None);
        check("[access_log]\nto = \"stdout\"", LogFormat::Json, Some(LogTarget::Stdout));
        let file = LogTarget::File("/var/log/a.log".into());
        check(
            "[access_log]\nto = \"/var/log/a.log\"\nformat = \"combined\"",
            LogFormat::Combined,
            Some(file),
        );
    }

    #[test]
    fn what_cannot_be_written_to_is_complained_of() {
        let with = |settings: &str| format!("{PROVIDER}[access_log]\n{settings}\n");
        check_said(&with("to = \"access.log\""), &["6:6 access_log.to: `access.log` is no place for a log"]);
        check_said(
            &with("to = \"/var/../etc/x\""),
            &["6:6 access_log.to: `/var/../etc/x` is not the path of a file"],
        );
        check_said(
            &with("to = \"/var/log/\""),
            &["6:6 access_log.to: `/var/log/` is not the path of a file"],
        );
        check_fix(&with("format = \"jsn\""), "did you mean \"json\"?");
    }
}
