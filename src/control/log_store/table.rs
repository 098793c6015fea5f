//! The file of kept logs: a row for each exchange, found by time and by a few columns. Beside them lies the line as the access
//! log has it, masked before it came here.
//!
//! `synchronous = NORMAL` in WAL: a crash of the process loses nothing that was committed, a power cut may lose the last
//! moments, and neither the file. What is deleted is overwritten.

use std::{fs::OpenOptions, io, os::unix::fs::OpenOptionsExt, path::Path};

use rusqlite::{Connection, OpenFlags, params_from_iter, types::Value};

use crate::{base::limits::STATE_BUSY_TIME, control::state::Trouble};

const NAME: &str = "logs.db";

/// The number of the form below.
const FORM: i64 = 1;

/// `auto_vacuum` counts only before the first table is made.
const TABLES: &str = "
    PRAGMA auto_vacuum = INCREMENTAL;
    BEGIN IMMEDIATE;
    CREATE TABLE IF NOT EXISTS exchange (
        number         INTEGER PRIMARY KEY,
        ended_unix_ms  INTEGER NOT NULL CHECK (ended_unix_ms >= 0),
        request_id     TEXT NOT NULL,
        caller_id      TEXT NOT NULL,
        caller         TEXT NOT NULL,
        model          TEXT NOT NULL,
        provider       TEXT NOT NULL,
        status         INTEGER NOT NULL,
        line           TEXT NOT NULL
    ) STRICT;
    CREATE INDEX IF NOT EXISTS exchange_by_time ON exchange (ended_unix_ms);
    CREATE INDEX IF NOT EXISTS exchange_by_request ON exchange (request_id);
    PRAGMA user_version = 1;
    COMMIT;
";

/// One exchange that is kept. Empty is what is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    pub ended_unix_ms: u64,
    pub request_id: String,
    pub caller_id: String,
    pub caller: String,
    /// As the client named it.
    pub model: String,
    pub provider: String,
    pub status: u16,
    /// A JSON object.
    pub line: String,
}

/// What is looked for; empty and `None` is whatever there is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Search {
    pub from_unix_ms: Option<u64>,
    pub until_unix_ms: Option<u64>,
    /// Rows that came after this one.
    pub after_number: Option<i64>,
    pub request_id: Option<String>,
    /// A caller's name or id.
    pub caller: Option<String>,
    /// `*` stands for anything.
    pub model: Option<String>,
    pub provider: Option<String>,
    /// First and last.
    pub status: Option<(u16, u16)>,
    pub limit: usize,
}

/// The file.
pub struct Store {
    connection: Connection,
}

impl Store {
    /// Opens the file in a state directory, for its one writer; made if it is not there.
    pub fn open(directory: &Path) -> Result<Self, Trouble> {
        let path = directory.join(NAME);
        // SQLite would make it readable for everyone whom the umask lets.
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        if let Err(error) = made
            && error.kind() != io::ErrorKind::AlreadyExists
        {
            return Err(Trouble(format!("{}: {error}", path.display())));
        }
        Self::connect(&path, OpenFlags::SQLITE_OPEN_READ_WRITE, |connection| {
            connection.pragma_update(None, "secure_delete", true)?;
            connection.pragma_update(None, "journal_mode", "WAL")?;
            connection.pragma_update(None, "synchronous", "NORMAL")?;
            connection.execute_batch(TABLES)
        })
    }

    /// Opens the file for whoever only looks; `None` if nothing was ever kept.
    pub fn open_existing(directory: &Path) -> Result<Option<Self>, Trouble> {
        let path = directory.join(NAME);
        if !path.exists() {
            return Ok(None);
        }
        // Not read-only: a reader may have to finish what a writer that was killed had begun.
        Self::connect(&path, OpenFlags::SQLITE_OPEN_READ_WRITE, |_| Ok(())).map(Some)
    }

    fn connect(
        path: &Path,
        flags: OpenFlags,
        prepare: impl FnOnce(&Connection) -> rusqlite::Result<()>,
    ) -> Result<Self, Trouble> {
        let opened = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX);
        let opened = opened.and_then(|connection| {
            connection.busy_timeout(STATE_BUSY_TIME)?;
            // What is in the file is data, whoever wrote it.
            connection.pragma_update(None, "trusted_schema", false)?;
            let form: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
            if form <= FORM {
                prepare(&connection)?;
            }
            Ok((connection, form))
        });
        match opened {
            Ok((_, form)) if form > FORM => {
                Err(Trouble(format!("{} was made by a newer ringway: use that one", path.display())))
            }
            Ok((connection, _)) => Ok(Self { connection }),
            Err(error) => Err(Trouble(format!("{}: {error}", path.display()))),
        }
    }

    /// Adds rows, all or none.
    pub fn add(&mut self, rows: &[Row]) -> Result<(), Trouble> {
        let mut add = || {
            let transaction = self.connection.transaction()?;
            {
                let mut insert = transaction.prepare_cached(
                    "INSERT INTO exchange (ended_unix_ms, request_id, caller_id, caller, model, provider, status, line)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                )?;
                for row in rows {
                    insert.execute((
                        number(row.ended_unix_ms),
                        &row.request_id,
                        &row.caller_id,
                        &row.caller,
                        &row.model,
                        &row.provider,
                        row.status,
                        &row.line,
                    ))?;
                }
            }
            transaction.commit()
        };
        add().map_err(trouble)
    }

    /// Deletes what ended before `oldest_unix_ms`, and the oldest beyond `bytes_max`.
    pub fn sweep(&mut self, oldest_unix_ms: u64, bytes_max: u64) -> Result<(), Trouble> {
        let sweep = || {
            self.connection
                .execute("DELETE FROM exchange WHERE ended_unix_ms < ?1", [number(oldest_unix_ms)])?;
            // An eighth at a time, and never nothing.
            while self.bytes()? > bytes_max {
                let deleted = self.connection.execute(
                    "DELETE FROM exchange WHERE number IN (
                         SELECT number FROM exchange ORDER BY number LIMIT (SELECT count(*) / 8 + 1 FROM exchange))",
                    [],
                )?;
                if deleted == 0 {
                    break;
                }
            }
            self.connection.execute_batch("PRAGMA incremental_vacuum")
        };
        sweep().map_err(trouble)
    }

    /// Bytes of the pages in use.
    fn bytes(&self) -> rusqlite::Result<u64> {
        let pragma = |name| self.connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        let used = pragma("page_count")?.saturating_sub(pragma("freelist_count")?);
        Ok(u64::try_from(used.saturating_mul(pragma("page_size")?)).unwrap_or(0))
    }

    /// The last `limit` rows that fit, oldest first, each with its number.
    pub fn search(&self, search: &Search) -> Result<Vec<(i64, String)>, Trouble> {
        let mut terms = vec!["1"];
        let mut values: Vec<Value> = Vec::new();
        let mut term = |text, given: Vec<Value>| {
            if !given.is_empty() {
                terms.push(text);
                values.extend(given);
            }
        };
        let text = |text: &Option<String>| text.iter().cloned().map(Value::from).collect::<Vec<_>>();
        let moment = |ms: Option<u64>| ms.map(|ms| Value::from(number(ms))).into_iter().collect::<Vec<_>>();
        term("ended_unix_ms >= ?", moment(search.from_unix_ms));
        term("ended_unix_ms < ?", moment(search.until_unix_ms));
        term("number > ?", search.after_number.map(Value::from).into_iter().collect());
        term("request_id = ?", text(&search.request_id));
        term("provider = ?", text(&search.provider));
        let twice = |one: Vec<Value>| one.iter().chain(&one).cloned().collect::<Vec<_>>();
        term("(caller = ? OR caller_id = ?)", twice(text(&search.caller)));
        term("model GLOB ?", search.model.iter().map(|model| Value::from(only_stars(model))).collect());
        let status =
            search.status.map(|(first, last)| vec![Value::from(i64::from(first)), i64::from(last).into()]);
        term("status BETWEEN ? AND ?", status.unwrap_or_default());
        let limit = i64::try_from(search.limit).unwrap_or(i64::MAX);
        values.push(limit.into());
        let query = format!(
            "SELECT number, line FROM exchange WHERE {} ORDER BY number DESC LIMIT ?",
            terms.join(" AND ")
        );
        let find = || {
            let mut found = self.connection.prepare(&query)?;
            let rows = found.query_map(params_from_iter(values), |row| Ok((row.get(0)?, row.get(1)?)))?;
            let mut rows = rows.collect::<rusqlite::Result<Vec<_>>>()?;
            rows.reverse();
            Ok(rows)
        };
        find().map_err(trouble)
    }
}

/// A pattern in which nothing but `*` means anything.
fn only_stars(pattern: &str) -> String {
    pattern.replace('[', "[[]").replace('?', "[?]")
}

fn number(unsigned: u64) -> i64 {
    i64::try_from(unsigned).unwrap_or(i64::MAX)
}

fn trouble(error: rusqlite::Error) -> Trouble {
    Trouble(format!("{NAME}: {error}"))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::control::state::tests::Scratch;

    pub(in crate::control::log_store) fn row(ended_unix_ms: u64) -> Row {
        Row { ended_unix_ms, status: 200, line: format!("{{\"n\":{ended_unix_ms}}}"), ..Row::default() }
    }

    fn store() -> (Scratch, Store) {
        let scratch = Scratch::new();
        std::fs::create_dir_all(&scratch.0).expect("a directory");
        let store = Store::open(&scratch.0).expect("a store");
        (scratch, store)
    }

    #[track_caller]
    fn check(store: &Store, search: Search, expect: &[u64]) {
        let search = Search { limit: if search.limit == 0 { 100 } else { search.limit }, ..search };
        let lines: Vec<_> = store.search(&search).expect("rows").into_iter().map(|(_, line)| line).collect();
        let expect: Vec<_> = expect.iter().map(|number| row(*number).line).collect();
        assert_eq!(lines, expect, "{search:?}");
    }

    #[test]
    fn rows_are_found_by_every_column_and_all_of_them_together() {
        let (_scratch, mut store) = store();
        let named = |ended, model: &str, status| Row {
            model: model.into(),
            status,
            request_id: format!("id-{ended}"),
            caller: "Frontend".into(),
            caller_id: "abc".into(),
            provider: "openai".into(),
            ..row(ended)
        };
        store
            .add(&[named(1, "openai/gpt", 200), named(2, "openai/gpt", 429), named(3, "x/[?]", 503)])
            .expect("room");
        store.add(&[row(4)]).expect("room");
        let any = Search::default;
        let some = |text: &str| Some(text.to_owned());
        check(&store, any(), &[1, 2, 3, 4]);
        check(&store, Search { limit: 2, ..any() }, &[3, 4]);
        check(&store, Search { from_unix_ms: Some(2), until_unix_ms: Some(4), ..any() }, &[2, 3]);
        check(&store, Search { after_number: Some(3), ..any() }, &[4]);
        check(&store, Search { request_id: some("id-2"), ..any() }, &[2]);
        check(&store, Search { caller: some("Frontend"), ..any() }, &[1, 2, 3]);
        check(&store, Search { caller: some("abc"), provider: some("openai"), ..any() }, &[1, 2, 3]);
        check(&store, Search { model: some("openai/*"), ..any() }, &[1, 2]);
        check(&store, Search { model: some("x/[?]"), ..any() }, &[3]);
        check(&store, Search { model: some("' OR 1 --"), ..any() }, &[]);
        check(&store, Search { status: Some((400, 499)), ..any() }, &[2]);
        check(&store, Search { status: Some((200, 599)), model: some("openai/gpt"), ..any() }, &[1, 2]);
    }

    #[test]
    fn what_is_old_or_too_much_is_deleted_for_good() {
        let (scratch, mut store) = store();
        let long = |ended| Row { line: format!("canary-{ended} {}", "x".repeat(10_000)), ..row(ended) };
        let rows: Vec<_> = (0..200).map(long).collect();
        store.add(&rows).expect("room");
        store.sweep(100, u64::MAX).expect("swept");
        let left =
            |store: &Store| store.search(&Search { limit: 1_000, ..Search::default() }).expect("rows").len();
        assert_eq!(left(&store), 100);
        store.sweep(0, 500 << 10).expect("swept");
        assert!((20..50).contains(&left(&store)), "{}", left(&store));
        assert!(store.bytes().expect("bytes") <= 500 << 10);
        store.connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").expect("nobody reads");
        let file = std::fs::read(scratch.0.join(NAME)).expect("the file");
        assert!(!file.windows(10).any(|bytes| bytes == b"canary-50 "), "it is gone from the disk");
        assert!(file.windows(11).any(|bytes| bytes == b"canary-199 "));
    }

    #[test]
    fn a_file_of_a_later_form_is_left_alone() {
        let (scratch, store) = store();
        store.connection.pragma_update(None, "user_version", FORM + 1).expect("written");
        drop(store);
        let refused = Store::open(&scratch.0).map(drop).expect_err("it is not known");
        assert!(refused.to_string().contains("newer ringway"), "{refused}");
    }
}
