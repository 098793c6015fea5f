//! Events of the control plane on stderr: one line per event, whatever is in it.

use std::{
    fmt::{self, Write as _},
    io::Write,
    sync::{Arc, Mutex},
};

use crate::control::lock;

/// Where control says what it does. Cheap to clone. The journal and container runtimes add the time.
#[derive(Clone)]
pub struct Log {
    /// Whether lines carry the priority that systemd's journal reads, as `<6>`.
    journal: bool,
    sink: Arc<Mutex<dyn Write + Send>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Error,
    Warning,
    Info,
}

impl Log {
    /// The process's stderr.
    pub fn stderr() -> Self {
        Self::to(std::io::stderr(), std::env::var_os("JOURNAL_STREAM").is_some())
    }

    pub fn to(sink: impl Write + Send + 'static, journal: bool) -> Self {
        Self { journal, sink: Arc::new(Mutex::new(sink)) }
    }

    pub fn error(&self, event: fmt::Arguments<'_>) {
        self.write(Level::Error, event);
    }

    pub fn warning(&self, event: fmt::Arguments<'_>) {
        self.write(Level::Warning, event);
    }

    pub fn info(&self, event: fmt::Arguments<'_>) {
        self.write(Level::Info, event);
    }

    fn write(&self, level: Level, event: fmt::Arguments<'_>) {
        let line = line(self.journal, level, &event.to_string());
        // Nobody to tell if stderr is gone; one write, so that lines of several threads do not mix.
        let _ = lock(&self.sink).write_all(line.as_bytes());
    }
}

fn line(journal: bool, level: Level, event: &str) -> String {
    let mut line = String::with_capacity(event.len() + 16);
    line.push_str(match (journal, level) {
        (true, Level::Error) => "<3>",
        (true, Level::Warning) => "<4>",
        (true, Level::Info) => "<6>",
        (false, Level::Error) => "ringway: error: ",
        (false, Level::Warning) => "ringway: warning: ",
        (false, Level::Info) => "ringway: ",
    });
    for character in event.chars() {
        if changes_the_terminal(character) {
            let _ = write!(line, "{}", character.escape_default());
        } else {
            line.push(character);
        }
    }
    line.push('\n');
    line
}

/// Control characters, and the invisible ones that break lines or turn the direction of text.
fn changes_the_terminal(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(journal: bool, level: Level, event: &str, expect: &str) {
        assert_eq!(line(journal, level, event), expect);
    }

    #[test]
    fn an_event_is_one_line_whatever_is_in_it() {
        check(false, Level::Info, "listening on [::1]:80", "ringway: listening on [::1]:80\n");
        check(false, Level::Warning, "a\nb\r\u{1b}[2J", "ringway: warning: a\\nb\\r\\u{1b}[2J\n");
        check(false, Level::Error, "\u{202e}x\u{2028}\u{9b}", "ringway: error: \\u{202e}x\\u{2028}\\u{9b}\n");
        check(true, Level::Error, "größe", "<3>größe\n");
        check(true, Level::Warning, "", "<4>\n");
        check(true, Level::Info, "x", "<6>x\n");
    }

    #[test]
    fn a_clone_writes_to_the_same_place() {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let log = Log::to(writer, false);
        log.clone().info(format_args!("one"));
        log.error(format_args!("{}", "two"));
        drop(log);
        let text = std::io::read_to_string(reader).expect("both lines");
        assert_eq!(text, "ringway: one\nringway: error: two\n");
    }
}
