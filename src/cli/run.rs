//! `ringway run`: serves what a configuration says.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use super::house;
use crate::{
    config::{self, Backend, Process, Snapshot},
    shard::Choice,
};

/// Serves until a signal ends it. `forced` overrides the configuration's backend.
pub(super) fn run(path: &Path, forced: Option<Choice>) -> ExitCode {
    let Ok(snapshot) = load(path) else { return ExitCode::FAILURE };
    let choice = forced.unwrap_or(match snapshot.server.backend {
        Backend::Auto => Choice::Auto,
        Backend::IoUring => Choice::IoUring,
        Backend::Epoll => Choice::Epoll,
    });
    let path: PathBuf = path.to_owned();
    match house::open(snapshot, choice, Box::new(move || load(&path))) {
        Ok(house) => {
            house.announce();
            house.serve()
        }
        Err(why) => {
            eprintln!("ringway: {why}");
            ExitCode::FAILURE
        }
    }
}

/// The file as a snapshot; complaints and warnings go to stderr.
fn load(path: &Path) -> Result<Snapshot, ()> {
    match config::load(path, &Process) {
        Ok(loaded) => {
            loaded.warnings.iter().for_each(|warning| eprintln!("{warning}"));
            Ok(loaded.snapshot)
        }
        Err(complaints) => {
            eprint!("{complaints}");
            Err(())
        }
    }
}
