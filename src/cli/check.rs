//! `ringway check`: says everything that is wrong with a configuration, and starts nothing.

use std::{io::Write, path::Path, process::ExitCode};

use crate::config::{self, Loaded, Process, Snapshot};

/// Checks the file, with the environment and the files it refers to. 0: it can be used. 1: it cannot.
pub(super) fn check(path: &Path) -> ExitCode {
    let (mut out, mut err) = (std::io::stdout().lock(), std::io::stderr().lock());
    // Nobody is left to hear of it if either is closed; the exit code still tells.
    match config::load(path, &Process) {
        Ok(Loaded { snapshot, warnings }) => {
            for warning in &warnings {
                let _ = writeln!(err, "{warning}");
            }
            let _ = writeln!(out, "configuration OK: {}", summary(&snapshot));
            ExitCode::SUCCESS
        }
        Err(complaints) => {
            let _ = write!(err, "{complaints}");
            ExitCode::FAILURE
        }
    }
}

fn summary(snapshot: &Snapshot) -> String {
    let listeners = snapshot.server.listen.len() + snapshot.server.tls_listen.len();
    let keys = snapshot.providers.iter().flat_map(|provider| &provider.keys);
    let keys = keys.filter(|key| !key.line.expose().is_empty()).count();
    let models: usize = snapshot.providers.iter().map(|provider| provider.models.len()).sum();
    [
        (listeners, "listener"),
        (snapshot.providers.len(), "provider"),
        (keys, "key"),
        (models, "configured model"),
    ]
    .map(|(count, noun)| format!("{count} {noun}{}", if count == 1 { "" } else { "s" }))
    .join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_counts_what_was_configured() {
        let text = "[[provider]]\nname = \"local\"\nbase_url = \"http://127.0.0.1:9000/v1\"\nmodels = [\"a\", \"b\"]\n";
        let loaded = config::compile(text, "t.toml", &Process).expect("good");
        assert_eq!(summary(&loaded.snapshot), "1 listener, 1 provider, 0 keys, 2 configured models");
    }

    #[test]
    fn a_file_that_cannot_be_used_is_exit_code_one() {
        let code = check(Path::new("/nonexistent/ringway.toml"));
        assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::FAILURE));
    }
}
