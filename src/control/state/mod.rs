//! The state directory: what must outlive the process, and is not configuration.
//!
//! ```text
//! /var/lib/ringway          0700  owned by the user that the gateway runs as
//! ├── lock                  0600  held by the gateway that runs on it; commands don't need it
//! ├── digest.key            0400  32 random bytes; without them no token is anyone's
//! ├── ringway.db            0600  SQLite, with ringway.db-wal and ringway.db-shm beside it
//! ├── logs.db               0600  exchanges that are kept, likewise
//! └── log-keys/             0700  a sealed key for each day of payloads
//! ```
//!
//! Trouble at the start refuses to start; trouble later leaves what was read last in force, and is told. Never is a part
//! that can't be read taken for one that isn't there.

pub mod budgets;
pub mod callers;
mod database;
mod directory;
mod keyfile;
pub mod settings;
pub mod watch;

use std::{
    fmt, io,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::{
    aead::{CHACHA20_POLY1305, LessSafeKey, UnboundKey},
    hkdf::{HKDF_SHA256, Salt},
    rand,
};
use zeroize::Zeroizing;

pub use self::directory::Running;
use self::{database::Database, directory::Directory};
use crate::wire::token::DigestKey;

/// Why the state can't be used: a sentence for the operator, with what to do about it where that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble(pub String);

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Trouble {}

impl Trouble {
    pub(super) fn with(path: &Path, error: &io::Error) -> Self {
        Self(format!("{}: {error}", path.display()))
    }
}

/// A state directory that was opened and found whole.
pub struct State {
    directory: Directory,
    database: Database,
    key: DigestKey,
}

impl State {
    /// Opens a state directory; what is not there yet is made, also the directory itself in an existing one.
    pub fn open(path: &Path) -> Result<Self, Trouble> {
        let directory = Directory::open(path)?;
        // One at a time: two that begin at the same moment must not each make a key.
        let turn = directory.turn()?;
        let kept_key = keyfile::read(path)?;
        if kept_key.is_none() && database::exists(path) {
            let database = Database::open(path)?;
            if database.key_check()?.is_some() {
                return Err(Trouble(format!(
                    "{} is missing, and without it no caller's token can be recognised; restore it from a backup, \
                     or begin anew with an empty state directory",
                    path.join(keyfile::NAME).display()
                )));
            }
        }
        let key = match kept_key {
            Some(key) => key,
            None => {
                let mut key = Zeroizing::new([0; keyfile::BYTES]);
                chance(&mut *key)?;
                keyfile::write(path, &key, &mut |_| Ok(()))
                    .map_err(|error| Trouble::with(&path.join(keyfile::NAME), &error))?;
                key
            }
        };
        let key = DigestKey::new(&key);
        let database = Database::open(path)?;
        database.note_key(&key)?;
        drop(turn);
        Ok(Self { directory, database, key })
    }

    /// Takes the directory for the gateway that runs; it is held until the answer is dropped.
    pub fn run(&self) -> Result<Running, Trouble> {
        self.directory.run()
    }

    /// Reads the whole database for damage: for a command, which has the time.
    pub fn check(&self) -> Result<(), Trouble> {
        self.database.check()
    }
}

/// Whether a state was ever begun there. Whoever only looks must not begin one where a path was mistyped.
pub fn is_begun(path: &Path) -> bool {
    database::exists(path)
}

/// A key to seal with, drawn from the directory's own for one purpose: it says nothing of that, nor of another purpose's.
pub(super) fn sealing_key(directory: &Path, purpose: &[u8]) -> Result<LessSafeKey, Trouble> {
    let own = keyfile::read(directory)?.ok_or_else(|| {
        let path = directory.join(keyfile::NAME);
        Trouble(format!("{} is missing, and without it nothing can be sealed or opened", path.display()))
    })?;
    let mut drawn = Zeroizing::new([0; 32]);
    let extracted = Salt::new(HKDF_SHA256, b"ringway state directory 1").extract(&*own);
    let made = extracted
        .expand(&[purpose], HKDF_SHA256)
        .and_then(|expanded| expanded.fill(&mut *drawn))
        .and_then(|()| UnboundKey::new(&CHACHA20_POLY1305, &*drawn));
    made.map(LessSafeKey::new).map_err(|_| Trouble("no key can be drawn from the directory's".to_owned()))
}

/// Fills `bytes` with what nobody can guess.
pub fn chance(bytes: &mut [u8]) -> Result<(), Trouble> {
    rand::fill(bytes).map_err(|_| Trouble("the system gives no random bytes".to_owned()))
}

/// The time of day, in milliseconds since 1970.
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A new, empty directory for one test, gone when it is dropped.
#[cfg(test)]
pub(in crate::control) mod tests {
    use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, sync::Mutex};

    use super::*;

    pub(in crate::control) struct Scratch(pub(in crate::control) PathBuf);

    impl Scratch {
        pub(in crate::control) fn new() -> Self {
            static NEXT: Mutex<u32> = Mutex::new(0);
            let number = {
                let mut next = crate::control::lock(&NEXT);
                *next += 1;
                *next
            };
            let path = std::env::temp_dir().join(format!("ringway-state-{}-{number}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            Self(path)
        }

        pub(in crate::control) fn file(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("it is there").permissions().mode() & 0o777
    }

    /// What opening it says, if it can't be opened.
    #[track_caller]
    fn refused(scratch: &Scratch, words: &str) {
        let Err(Trouble(said)) = State::open(&scratch.0) else { panic!("it opened, where {words:?}") };
        assert!(said.contains(words), "{said:?} lacks {words:?}");
    }

    #[test]
    fn a_new_directory_is_its_owners_alone() {
        let scratch = Scratch::new();
        let state = State::open(&scratch.0).expect("it can be made");
        let _running = state.run().expect("nobody else is there");
        assert_eq!(mode(&scratch.0), 0o700);
        assert_eq!(mode(&scratch.file("digest.key")), 0o400);
        for name in ["ringway.db", "ringway.db-wal", "ringway.db-shm", "lock"] {
            assert_eq!(mode(&scratch.file(name)), 0o600, "{name}");
        }
        state.check().expect("it is whole");
    }

    #[test]
    fn what_was_made_once_is_kept() {
        let scratch = Scratch::new();
        State::open(&scratch.0).expect("it can be made");
        let key = fs::read(scratch.file("digest.key")).expect("there");
        State::open(&scratch.0).expect("it can be opened again");
        assert_eq!(fs::read(scratch.file("digest.key")).expect("there"), key);
        assert_ne!(key, [0; 32]);
    }

    #[test]
    fn only_one_gateway_runs_on_it() {
        let scratch = Scratch::new();
        let state = State::open(&scratch.0).expect("it can be made");
        let running = state.run().expect("nobody else is there");
        let second = State::open(&scratch.0).expect("a command may still open it");
        let Err(Trouble(said)) = second.run() else { panic!("two run on one directory") };
        assert!(said.contains("another gateway") && said.contains(&std::process::id().to_string()), "{said}");
        drop(running);
        second.run().expect("the first has ended");
    }

    #[test]
    fn a_lost_or_a_foreign_key_refuses_to_start() {
        let scratch = Scratch::new();
        State::open(&scratch.0).expect("it can be made");
        let key = scratch.file("digest.key");
        fs::remove_file(&key).expect("removed");
        refused(&scratch, "digest.key is missing");
        assert!(!key.exists(), "no other key is made in its place");
        keyfile::write(&scratch.0, &[1; 32], &mut |_| Ok(())).expect("written");
        refused(&scratch, "digest.key is not the one");
    }

    #[test]
    fn a_directory_that_others_can_write_to_is_refused() {
        let scratch = Scratch::new();
        State::open(&scratch.0).expect("it can be made");
        fs::set_permissions(&scratch.0, PermissionsExt::from_mode(0o770)).expect("ours");
        refused(&scratch, "chmod 700");
        fs::set_permissions(&scratch.0, PermissionsExt::from_mode(0o700)).expect("ours");
        fs::set_permissions(scratch.file("ringway.db"), PermissionsExt::from_mode(0o666)).expect("ours");
        refused(&scratch, "chmod 600");
    }

    #[test]
    fn what_is_no_directory_or_no_database_is_refused() {
        let scratch = Scratch::new();
        fs::write(&scratch.0, "").expect("written");
        refused(&scratch, "is not a directory");
        fs::remove_file(&scratch.0).expect("removed");
        State::open(&scratch.0).expect("it can be made");
        for name in ["ringway.db-wal", "ringway.db-shm"] {
            let _ = fs::remove_file(scratch.file(name));
        }
        fs::write(scratch.file("ringway.db"), [b'x'; 8192]).expect("written");
        refused(&scratch, "ringway.db");
        let deep = Scratch(scratch.0.join("a/b"));
        refused(&deep, "cannot be made");
    }
}
