//! What is wrong in a configuration, where, and how to put it right, shown the way compilers do.
//!
//! A complaint never holds a secret: its words quote nothing that was interpolated, and its excerpt of the file shows
//! only values that are known not to be secret (see `report.rs`).

use std::{fmt, sync::Arc};

/// One thing that is wrong, or in a list of warnings, one that is probably not meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// The file, as it was named on the command line.
    pub file: Arc<str>,
    pub severity: Severity,
    /// Counted from 1; 0 if the complaint is about the file as a whole.
    pub line: usize,
    /// In characters, counted from 1.
    pub column: usize,
    /// Where in the configuration, such as `provider[0].timeouts`; empty at its root.
    pub path: String,
    pub what: String,
    /// How to put it right.
    pub fix: String,
    /// The line of the file, secrets masked, and the part of it that is meant, in characters.
    pub(super) excerpt: String,
    pub(super) caret: std::ops::Range<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    Error,
    Warning,
}

/// Everything that is wrong with a file, in the order of its lines. Never empty.
#[derive(Debug, PartialEq, Eq)]
pub struct Complaints(pub Vec<Complaint>);

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, "{}:", self.file)?;
        if self.line > 0 {
            write!(f, "{}:{}:", self.line, self.column)?;
        }
        write!(f, " {severity}: ")?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        writeln!(f, "{}", self.what)?;
        let number = self.line.to_string();
        let gutter = " ".repeat(number.len());
        if self.line > 0 {
            let indent: String = self
                .excerpt
                .chars()
                .chain(std::iter::repeat(' '))
                .take(self.caret.start)
                .map(|c| if c == '\t' { '\t' } else { ' ' })
                .collect();
            let carets = "^".repeat(self.caret.len().max(1));
            writeln!(f, " {gutter} |")?;
            writeln!(f, " {number} | {}", self.excerpt)?;
            writeln!(f, " {gutter} | {indent}{carets}")?;
        }
        if !self.fix.is_empty() {
            writeln!(f, " {gutter} = help: {}", self.fix)?;
        }
        Ok(())
    }
}

impl fmt::Display for Complaints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for complaint in &self.0 {
            writeln!(f, "{complaint}")?;
        }
        let (count, noun) = (self.0.len(), if self.0.len() == 1 { "error" } else { "errors" });
        writeln!(f, "configuration refused: {count} {noun}")
    }
}

impl std::error::Error for Complaints {}

impl Complaint {
    /// A complaint about a file as a whole.
    pub(super) fn whole(file: &str, what: String, fix: String) -> Self {
        Self {
            file: file.into(),
            severity: Severity::Error,
            line: 0,
            column: 0,
            path: String::new(),
            what,
            fix,
            excerpt: String::new(),
            caret: 0..0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_reads_like_a_compilers() {
        let complaint = Complaint {
            file: "ringway.toml".into(),
            severity: Severity::Error,
            line: 12,
            column: 2,
            path: "server".to_owned(),
            what: "there is no `cors` here".to_owned(),
            fix: "did you mean `cores`?".to_owned(),
            excerpt: "\tcors = 3".to_owned(),
            caret: 1..5,
        };
        let expect = "\
ringway.toml:12:2: error: server: there is no `cors` here
    |
 12 | \tcors = 3
    | \t^^^^
    = help: did you mean `cores`?
";
        assert_eq!(complaint.to_string(), expect);
    }

    #[test]
    fn a_complaint_about_a_whole_file_shows_no_line() {
        let complaint = Complaint::whole("x.toml", "cannot be read".to_owned(), "look at it".to_owned());
        assert_eq!(complaint.to_string(), "x.toml: error: cannot be read\n   = help: look at it\n");
    }
}
