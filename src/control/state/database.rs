//! The database file: opened, brought to the newest form, and found to belong to the key beside it.
//!
//! What a writer was told is done survives a power cut (`synchronous = FULL`), and readers never wait for a writer (WAL).

use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rusqlite::{Connection, OpenFlags, OptionalExtension, TransactionBehavior, params};

use super::Trouble;
use crate::{
    base::limits::STATE_BUSY_TIME,
    wire::token::{Digest, DigestKey},
};

const NAME: &str = "ringway.db";

/// Each step brings a database from its number to the next. What has been released is never changed.
const MIGRATIONS: &[&str] = &["
    CREATE TABLE fact (
        name  TEXT PRIMARY KEY,
        value BLOB NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE caller (
        id                    TEXT PRIMARY KEY CHECK (length(id) = 16),
        name                  TEXT NOT NULL UNIQUE,
        digest                BLOB NOT NULL CHECK (length(digest) = 32),
        former_digest         BLOB CHECK (length(former_digest) = 32),
        former_until_unix_ms  INTEGER CHECK (former_until_unix_ms >= 0),
        created_unix_ms       INTEGER NOT NULL CHECK (created_unix_ms >= 0),
        expires_unix_ms       INTEGER CHECK (expires_unix_ms >= 0),
        enabled               INTEGER NOT NULL CHECK (enabled IN (0, 1)),
        settings              TEXT NOT NULL,
        CHECK ((former_digest IS NULL) = (former_until_unix_ms IS NULL))
    ) STRICT, WITHOUT ROWID;
"];

/// The fact that tells the key from any other.
const KEY_CHECK: &str = "digest_key_check";

pub(super) struct Database {
    pub(super) connection: Connection,
    path: PathBuf,
    /// Device and inode of the file that was opened.
    identity: (u64, u64),
}

/// Whether there is a database, in whatever state.
pub(super) fn exists(directory: &Path) -> bool {
    fs::symlink_metadata(directory.join(NAME)).is_ok()
}

impl Database {
    /// Opens the database, made if it is not there. Whoever calls has the turn in the directory.
    pub(super) fn open(directory: &Path) -> Result<Self, Trouble> {
        let path = directory.join(NAME);
        // SQLite would make it readable for everyone whom the umask lets. Closed again before SQLite opens it: closing drops
        // all locks that this process has on a file, and a command that finds none takes the log away from the gateway.
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Trouble::with(&path, &error));
            }
            made => drop(made),
        }
        let mut database = Self::open_existing(directory)?;
        database.migrate()?;
        Ok(database)
    }

    /// Opens the database that is there, in the form it is in.
    pub(super) fn open_existing(directory: &Path) -> Result<Self, Trouble> {
        let path = directory.join(NAME);
        let found = fs::symlink_metadata(&path).map_err(|error| Trouble::with(&path, &error))?;
        if !found.is_file() || found.mode() & 0o022 != 0 {
            return Err(Trouble(format!(
                "{} can be written to by others, who could let themselves in: `chmod 600` it",
                path.display()
            )));
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let opened = Connection::open_with_flags(&path, flags).and_then(|connection| {
            connection.busy_timeout(STATE_BUSY_TIME)?;
            connection.pragma_update(None, "journal_mode", "WAL")?;
            connection.pragma_update(None, "synchronous", "FULL")?;
            connection.pragma_update(None, "foreign_keys", true)?;
            // What is in the file is data, whoever wrote it.
            connection.pragma_update(None, "trusted_schema", false)?;
            Ok(connection)
        });
        match opened {
            Ok(connection) => Ok(Self { connection, path, identity: (found.dev(), found.ino()) }),
            Err(error) => Err(Trouble(format!("{}: {error}", path.display()))),
        }
    }

    fn migrate(&mut self) -> Result<(), Trouble> {
        let path = self.path.clone();
        let trouble = |error: rusqlite::Error| Trouble(format!("{}: {error}", path.display()));
        let transaction =
            self.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(trouble)?;
        let version: i64 =
            transaction.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(trouble)?;
        let known = MIGRATIONS.len();
        let Some(missing) = usize::try_from(version).ok().and_then(|version| MIGRATIONS.get(version..))
        else {
            return Err(Trouble(format!(
                "{} was made by a newer ringway (its form is {version}, and {known} is the newest known here): use that one",
                path.display()
            )));
        };
        for migration in missing {
            transaction.execute_batch(migration).map_err(trouble)?;
        }
        if !missing.is_empty() {
            transaction.pragma_update(None, "user_version", known as i64).map_err(trouble)?;
        }
        transaction.commit().map_err(trouble)
    }

    /// The check value of the key that the digests in here were made with.
    pub(super) fn key_check(&self) -> Result<Option<Digest>, Trouble> {
        let found: Option<[u8; 32]> = self.trouble(
            self.connection
                .query_row("SELECT value FROM fact WHERE name = ?", [KEY_CHECK], |row| row.get(0))
                .optional(),
        )?;
        Ok(found.map(Digest))
    }

    /// Notes the key in a database that has none yet; otherwise it must be the one that was noted.
    pub(super) fn note_key(&self, key: &DigestKey) -> Result<(), Trouble> {
        if self.key_check()?.is_none() {
            let insert = "INSERT INTO fact (name, value) VALUES (?, ?)";
            self.trouble(self.connection.execute(insert, params![KEY_CHECK, key.check_value().0]))?;
        }
        self.expect_key(key)
    }

    /// The digests in here were made with this key.
    pub(super) fn expect_key(&self, key: &DigestKey) -> Result<(), Trouble> {
        if self.key_check()?.is_some_and(|noted| noted.is(&key.check_value())) {
            return Ok(());
        }
        Err(Trouble(format!(
            "digest.key is not the one that the callers in {} were made with: restore both from one backup",
            self.path.display()
        )))
    }

    /// Reads everything, for damage.
    pub(super) fn check(&self) -> Result<(), Trouble> {
        let said: String =
            self.trouble(self.connection.pragma_query_value(None, "quick_check", |row| row.get(0)))?;
        if said == "ok" {
            return Ok(());
        }
        Err(Trouble(format!("{} is damaged: {said}; restore it from a backup", self.path.display())))
    }

    /// A number that changes when another connection has changed anything.
    pub(super) fn version(&self) -> Result<i64, Trouble> {
        let found = fs::symlink_metadata(&self.path).map_err(|error| Trouble::with(&self.path, &error))?;
        if (found.dev(), found.ino()) != self.identity {
            return Err(Trouble(format!("{} was replaced by another file", self.path.display())));
        }
        self.trouble(self.connection.pragma_query_value(None, "data_version", |row| row.get(0)))
    }

    /// What SQLite says, as a sentence that names the file.
    pub(super) fn trouble<T>(&self, result: rusqlite::Result<T>) -> Result<T, Trouble> {
        result.map_err(|error| Trouble(format!("{}: {error}", self.path.display())))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::Scratch, *};

    fn scratch() -> Scratch {
        let scratch = Scratch::new();
        fs::create_dir(&scratch.0).expect("a new directory");
        scratch
    }

    #[test]
    fn a_database_of_a_newer_form_is_left_alone() {
        let scratch = scratch();
        let database = Database::open(&scratch.0).expect("made");
        database.connection.pragma_update(None, "user_version", 99).expect("set");
        let Err(Trouble(said)) = Database::open(&scratch.0) else { panic!("it opened") };
        assert!(said.contains("a newer ringway"), "{said}");
        let version =
            database.connection.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0));
        assert_eq!(version, Ok(99));
    }

    #[test]
    fn a_migration_that_was_made_is_not_made_again() {
        let scratch = scratch();
        for _ in 0..3 {
            let database = Database::open(&scratch.0).expect("opens");
            database.check().expect("whole");
        }
    }

    #[test]
    fn the_settings_that_durability_rests_on_are_in_force() {
        let scratch = scratch();
        let database = Database::open(&scratch.0).expect("made");
        let text = |name| database.connection.pragma_query_value(None, name, |row| row.get::<_, String>(0));
        let number = |name| database.connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        assert_eq!(text("journal_mode").as_deref(), Ok("wal"));
        assert_eq!((number("synchronous"), number("foreign_keys")), (Ok(2), Ok(1)));
    }

    #[test]
    fn a_change_by_another_connection_changes_the_version() {
        let scratch = scratch();
        let (one, other) =
            (Database::open(&scratch.0).expect("made"), Database::open(&scratch.0).expect("opens"));
        let before = one.version().expect("read");
        assert_eq!(one.version(), Ok(before));
        other.note_key(&DigestKey::new(&[1; 32])).expect("noted");
        assert!(one.expect_key(&DigestKey::new(&[2; 32])).is_err());
        assert_ne!(one.version().expect("read"), before);
        fs::rename(scratch.file(NAME), scratch.file("moved")).expect("moved");
        assert!(one.version().is_err());
        fs::copy(scratch.file("moved"), scratch.file(NAME)).expect("copied");
        assert!(one.version().is_err_and(|Trouble(said)| said.contains("replaced")));
    }
}
