//! A state directory, and the callers in it, who are told of by the commands that operators use.

use std::{fs, path::PathBuf, process::Command};

use super::{Setup, binary, own_address};

/// A state directory that ends with its test.
pub(crate) struct State(PathBuf);

impl State {
    pub(crate) fn new() -> Self {
        let path = std::env::temp_dir().join(format!("ringway-e2e-state-{}", own_address()));
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }

    pub(crate) fn path(&self) -> &std::path::Path {
        &self.0
    }

    /// A new caller's token.
    #[track_caller]
    pub(crate) fn create(&self, name: &str, more: &[&str]) -> String {
        self.callers(&[&["create", "--quiet", "--name", name], more].concat())
    }

    /// What `ringway callers …` says.
    #[track_caller]
    pub(crate) fn callers(&self, arguments: &[&str]) -> String {
        let dir = self.0.to_str().expect("a plain path");
        let output = Command::new(binary("ringway"))
            .arg("callers")
            .arg(arguments[0])
            .args(["--state", dir])
            .args(&arguments[1..])
            .output()
            .expect("ringway runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {said}");
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    }

    /// A gateway that reads it, and serves nobody else; `more` are further tables.
    pub(crate) fn setup(&self, more: &str) -> Setup {
        let dir = self.0.to_str().expect("a plain path");
        Setup {
            provider: format!("[state]\ndir = \"{dir}\"\n[auth]\nrequired = true\n{more}"),
            ..Setup::default()
        }
    }
}

impl Drop for State {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
