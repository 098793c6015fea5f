//! Text → tables as they were written ([`raw`]) → checked, every complaint at once ([`check`], [`provider`]) → an
//! immutable [`Snapshot`].
//!
//! A snapshot exists only if nothing at all was wrong with the text. Nothing here resolves a name, opens a socket or
//! reads a clock; what it reads of the world goes through [`Surroundings`].

mod certificate;
mod check;
mod complaint;
mod interpolate;
pub mod profiles;
mod provider;
mod raw;
mod report;
mod snapshot;
mod suggest;
mod surroundings;
mod url;

use std::path::Path;

use toml::de::DeTable;

pub use self::{
    complaint::{Complaint, Complaints, Severity},
    snapshot::{
        Admin, Backend, Cores, Dial, Key, Limits, Provider, ProviderPlace, Server, ServerTls, Snapshot, Timeouts,
    },
    surroundings::{Process, Surroundings},
};
use self::{raw::Table, report::Report};

/// A configuration that can be used, and what its operator may want to hear about it all the same.
#[derive(Debug)]
pub struct Loaded {
    pub snapshot: Snapshot,
    pub warnings: Vec<Complaint>,
}

/// Reads and compiles a file.
pub fn load(path: &Path, around: &dyn Surroundings) -> Result<Loaded, Complaints> {
    let name = path.display().to_string();
    let refuse = |what, fix: &str| Err(Complaints(vec![Complaint::whole(&name, what, fix.to_owned())]));
    let bytes = match around.read(path) {
        Ok(bytes) => bytes,
        Err(error) => return refuse(format!("this file cannot be read: {error}"), "name another with `-c`"),
    };
    match std::str::from_utf8(&bytes) {
        Ok(text) => compile(text, &name, around),
        Err(error) => {
            let good = bytes.get(..error.valid_up_to()).unwrap_or_default();
            let line = good.iter().filter(|&&byte| byte == b'\n').count() + 1;
            refuse(
                format!("this file is not UTF-8 from line {line} on"),
                "save it as UTF-8, without other encodings",
            )
        }
    }
}

/// Compiles a text. `file_name` is what complaints call it.
pub fn compile(text: &str, file_name: &str, around: &dyn Surroundings) -> Result<Loaded, Complaints> {
    let report = Report::new(text, file_name, around);
    let (tree, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        // What could be read of such a file is not judged: half of it would be wrong only because the rest is missing.
        for error in errors {
            let span = error.span().unwrap_or(0..0);
            let what = format!("this is not TOML: {}", error.message());
            report.note(Severity::Error, span, "", what, String::new());
        }
        return Err(Complaints(report.finish(None).0));
    }
    let snapshot = check::compile(Table::root(&report, tree.get_ref()));
    let (complaints, warnings) = report.finish(Some(tree.get_ref()));
    if complaints.is_empty() { Ok(Loaded { snapshot, warnings }) } else { Err(Complaints(complaints)) }
}

#[cfg(any(test, feature = "fuzzing"))]
pub use self::surroundings::Fake;

/// Any text compiles or is complained of, in places that exist and without a secret in any word of it.
#[cfg(any(test, feature = "fuzzing"))]
pub fn fuzz_compile(data: &[u8]) {
    const CANARY: &str = "canary-7f3a-0123456789";
    let Ok(text) = std::str::from_utf8(data) else { return };
    let around = Fake { any: Some(CANARY), ..Fake::default() };
    let shown = match compile(text, "fuzz.toml", &around) {
        Ok(loaded) => loaded.warnings,
        Err(complaints) => {
            assert!(!complaints.0.is_empty(), "a refusal has a reason");
            complaints.0
        }
    };
    let lines = text.split('\n').count();
    for complaint in shown {
        assert!((1..=lines).contains(&complaint.line), "line {} of {lines}", complaint.line);
        assert!(complaint.column >= 1);
        let words = complaint.to_string();
        assert!(text.contains(CANARY) || !words.contains(CANARY), "a secret is shown: {words}");
        assert!(
            !words.contains('\u{1b}') && !words.contains('\0'),
            "control characters reach the terminal: {words:?}"
        );
    }
}

#[cfg(test)]
mod tests;
