//! The file of kept logs: a row for each exchange, found by time and by a few columns. Beside them lies the line as the access
//! log has it, masked before it came here; and in a table of its own what was asked and answered, sealed with its day's key.
//! No index lies over what is sealed.
//!
//! `synchronous = NORMAL` in WAL: a crash of the process loses nothing that was committed, a power cut may lose the last
//! moments, and neither the file. What is deleted is overwritten.

use std::{fmt, fs::OpenOptions, io, ops::ControlFlow, os::unix::fs::OpenOptionsExt, path::Path};

use rusqlite::{Connection, OpenFlags, params_from_iter, types::Value};

use super::keys::{Column, Keys, Place};
use crate::{
    base::{calendar::day, limits::STATE_BUSY_TIME},
    control::state::Trouble,
};

const NAME: &str = "logs.db";

/// The number of the form below.
const FORM: i64 = 2;

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
    CREATE TABLE IF NOT EXISTS payload (
        number          INTEGER PRIMARY KEY,
        day             INTEGER NOT NULL,
        request_bytes   INTEGER NOT NULL,
        request_whole   INTEGER NOT NULL,
        request         BLOB,
        response_bytes  INTEGER NOT NULL,
        response_whole  INTEGER NOT NULL,
        response        BLOB
    ) STRICT;
    CREATE INDEX IF NOT EXISTS payload_by_day ON payload (day);
    CREATE TRIGGER IF NOT EXISTS payload_goes AFTER DELETE ON exchange BEGIN
        DELETE FROM payload WHERE number = old.number;
    END;
    PRAGMA user_version = 2;
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
    pub payload: Option<Payload>,
}

impl Row {
    /// About what it takes on the disk.
    pub(super) fn bytes(&self) -> u64 {
        let text = |part: &Part| part.text.as_ref().map_or(0, String::len);
        let said = self.payload.as_ref().map_or(0, |said| text(&said.request) + text(&said.response));
        (self.line.len() + said) as u64
    }
}

/// What was asked and what was answered, masked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Payload {
    pub request: Part,
    pub response: Part,
}

/// A body, or the beginning of one.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Part {
    /// `None`: nothing of it was kept, or what was kept was destroyed.
    pub text: Option<String>,
    /// How long the body was.
    pub bytes: u64,
    /// Nothing of it is left out.
    pub is_whole: bool,
}

/// Its size and nothing else.
impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Part({} bytes)", self.bytes)
    }
}

/// One row that was found.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    pub number: i64,
    pub line: String,
    pub payload: Option<Payload>,
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
    /// At most so many, the latest of them.
    pub limit: usize,
    /// Find what was said, too. Whoever does not ask for it opens nothing.
    pub payload: bool,
}

/// The file.
pub struct Store {
    connection: Connection,
    keys: Keys,
}

impl Store {
    /// Opens the file in a state directory, for its one writer; made if it is not there.
    pub fn open(directory: &Path) -> Result<Self, Trouble> {
        let path = directory.join(NAME);
        // SQLite would make it readable for everyone whom the umask lets.
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Trouble::with(&path, &error));
            }
            // Closed before SQLite has locks on it: a close takes all of the process' locks on a file with it.
            made => drop(made),
        }
        Self::connect(directory, |connection| {
            connection.pragma_update(None, "secure_delete", true)?;
            connection.pragma_update(None, "journal_mode", "WAL")?;
            connection.pragma_update(None, "synchronous", "NORMAL")
        })
    }

    /// Opens the file for whoever only looks; `None` if nothing was ever kept.
    pub fn open_existing(directory: &Path) -> Result<Option<Self>, Trouble> {
        let path = directory.join(NAME);
        if !path.exists() {
            return Ok(None);
        }
        // Not read-only: a reader may have to finish what a writer that was killed had begun.
        Self::connect(directory, |_| Ok(())).map(Some)
    }

    fn connect(
        directory: &Path,
        prepare: impl FnOnce(&Connection) -> rusqlite::Result<()>,
    ) -> Result<Self, Trouble> {
        let path = directory.join(NAME);
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let opened = Connection::open_with_flags(&path, flags);
        let opened = opened.and_then(|connection| {
            connection.busy_timeout(STATE_BUSY_TIME)?;
            // What is in the file is data, whoever wrote it.
            connection.pragma_update(None, "trusted_schema", false)?;
            let form: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
            if form <= FORM {
                prepare(&connection)?;
            }
            if form < FORM {
                // Nothing is ever taken out of a form: whoever reads may bring the file to the newest.
                connection.execute_batch(TABLES)?;
            }
            Ok((connection, form))
        });
        match opened {
            Ok((_, form)) if form > FORM => {
                Err(Trouble(format!("{} was made by a newer ringway: use that one", path.display())))
            }
            Ok((connection, _)) => Ok(Self { connection, keys: Keys::of(directory) }),
            Err(error) => Err(Trouble(format!("{}: {error}", path.display()))),
        }
    }

    /// Adds rows, all or none.
    pub fn add(&mut self, rows: &[Row]) -> Result<(), Trouble> {
        let transaction = self.connection.transaction().map_err(trouble)?;
        for row in rows {
            let mut insert = transaction
                .prepare_cached(
                    "INSERT INTO exchange (ended_unix_ms, request_id, caller_id, caller, model, provider, status, line)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                )
                .map_err(trouble)?;
            let values = (
                number(row.ended_unix_ms),
                &row.request_id,
                &row.caller_id,
                &row.caller,
                &row.model,
                &row.provider,
                row.status,
                &row.line,
            );
            let row_number = insert.insert(values).map_err(trouble)?;
            if let Some(payload) = &row.payload {
                let day = day(row.ended_unix_ms);
                let sealed = |part: &Part, column| {
                    let place = Place { day, row: row_number, column };
                    part.text.as_ref().map(|text| self.keys.seal(place, text.as_bytes())).transpose()
                };
                let request = sealed(&payload.request, Column::Request)?;
                let response = sealed(&payload.response, Column::Response)?;
                let mut insert = transaction
                    .prepare_cached("INSERT INTO payload VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")
                    .map_err(trouble)?;
                let Payload { request: asked, response: answered } = payload;
                let values = (
                    row_number,
                    day,
                    number(asked.bytes),
                    asked.is_whole,
                    request,
                    number(answered.bytes),
                    answered.is_whole,
                    response,
                );
                insert.execute(values).map_err(trouble)?;
            }
        }
        transaction.commit().map_err(trouble)
    }

    /// Deletes what ended before `oldest_unix_ms`, and the oldest beyond `bytes_max`; then destroys the keys of days of which
    /// no payload is left. The key of `today` stays: it will be needed.
    pub fn sweep(&mut self, oldest_unix_ms: u64, bytes_max: u64, today: u32) -> Result<(), Trouble> {
        let sweep = || {
            let old = "DELETE FROM exchange WHERE ended_unix_ms < ?1";
            let mut gone = self.connection.execute(old, [number(oldest_unix_ms)])?;
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
                gone += deleted;
            }
            self.connection.execute_batch("PRAGMA incremental_vacuum")?;
            if gone > 0 {
                // What was deleted is overwritten in the file, and would lie in the log beside it a while longer. A reader may
                // keep it there until the next time.
                self.connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")?;
            }
            Ok(())
        };
        sweep().map_err(trouble)?;
        for day in self.keys.list()? {
            let used = self
                .connection
                .query_row("SELECT EXISTS (SELECT 1 FROM payload WHERE day = ?1)", [day], |row| {
                    row.get::<_, bool>(0)
                })
                .map_err(trouble)?;
            if !used && day != today {
                self.keys.destroy(day)?;
            }
        }
        Ok(())
    }

    /// Bytes of the pages in use.
    fn bytes(&self) -> rusqlite::Result<u64> {
        let pragma = |name| self.connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        let used = pragma("page_count")?.saturating_sub(pragma("freelist_count")?);
        Ok(u64::try_from(used.saturating_mul(pragma("page_size")?)).unwrap_or(0))
    }

    /// Hands out the last `limit` rows that fit, oldest first, one by one: no more than one is held. `each` may end it.
    pub fn search(
        &self,
        search: &Search,
        mut each: impl FnMut(Found) -> Result<ControlFlow<()>, Trouble>,
    ) -> Result<(), Trouble> {
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
        values.push(i64::try_from(search.limit).unwrap_or(i64::MAX).into());
        let query = format!(
            "SELECT number FROM exchange WHERE {} ORDER BY ended_unix_ms DESC, number DESC LIMIT ?",
            terms.join(" AND ")
        );
        // Numbers first, and then row by row: nothing is sorted that was said, and no reading lasts so long that it would keep
        // the log beside the database from being cut.
        let numbers = || {
            let mut found = self.connection.prepare(&query)?;
            let numbers = found.query_map(params_from_iter(values), |row| row.get(0))?;
            numbers.collect::<rusqlite::Result<Vec<i64>>>()
        };
        for number in numbers().map_err(trouble)?.into_iter().rev() {
            // It may have been deleted meanwhile.
            if let Some(found) = self.row(number, search.payload)?
                && each(found)?.is_break()
            {
                break;
            }
        }
        Ok(())
    }

    /// One row, if it is there.
    fn row(&self, number: i64, with_payload: bool) -> Result<Option<Found>, Trouble> {
        let query = if with_payload {
            "SELECT line, day, request_bytes, request_whole, request, response_bytes, response_whole, response
             FROM exchange LEFT JOIN payload USING (number) WHERE number = ?"
        } else {
            "SELECT line, NULL FROM exchange WHERE number = ?"
        };
        let mut found = self.connection.prepare_cached(query).map_err(trouble)?;
        let mut rows = found.query([number]).map_err(trouble)?;
        let Some(row) = rows.next().map_err(trouble)? else { return Ok(None) };
        let day: Option<u32> = row.get(1).map_err(trouble)?;
        let payload = day.map(|day| {
            let part = |first, column| self.part(row, first, Place { day, row: number, column });
            Ok(Payload { request: part(2, Column::Request)?, response: part(5, Column::Response)? })
        });
        Ok(Some(Found { number, line: row.get(0).map_err(trouble)?, payload: payload.transpose()? }))
    }

    /// A payload's part out of three columns of a row.
    fn part(&self, row: &rusqlite::Row<'_>, first: usize, place: Place) -> Result<Part, Trouble> {
        let bytes: i64 = row.get(first).map_err(trouble)?;
        let is_whole = row.get(first + 1).map_err(trouble)?;
        let sealed =
            row.get_ref(first + 2).and_then(|value| Ok(value.as_blob_or_null()?)).map_err(trouble)?;
        let opened = sealed.map(|sealed| self.keys.open(place, sealed)).transpose()?.flatten();
        let text = opened.map(|plain| String::from_utf8_lossy(&plain).into_owned());
        Ok(Part { text, bytes: u64::try_from(bytes).unwrap_or(0), is_whole })
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
    use crate::control::state::{State, tests::Scratch};

    pub(in crate::control::log_store) fn row(ended_unix_ms: u64) -> Row {
        Row { ended_unix_ms, status: 200, line: format!("{{\"n\":{ended_unix_ms}}}"), ..Row::default() }
    }

    fn store() -> (Scratch, Store) {
        let scratch = Scratch::new();
        std::fs::create_dir_all(&scratch.0).expect("a directory");
        let store = Store::open(&scratch.0).expect("a store");
        (scratch, store)
    }

    /// Everything that is found.
    #[track_caller]
    pub(in crate::control::log_store) fn all(store: &Store, search: &Search) -> Vec<Found> {
        let mut rows = Vec::new();
        let found = store.search(search, |row| {
            rows.push(row);
            Ok(ControlFlow::Continue(()))
        });
        found.expect("rows");
        rows
    }

    #[track_caller]
    fn check(store: &Store, search: Search, expect: &[u64]) {
        let search = Search { limit: if search.limit == 0 { 100 } else { search.limit }, ..search };
        let lines: Vec<_> = all(store, &search).into_iter().map(|found| found.line).collect();
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
        store.sweep(100, u64::MAX, 0).expect("swept");
        let left = |store: &Store| all(store, &Search { limit: 1_000, ..Search::default() }).len();
        assert_eq!(left(&store), 100);
        store.sweep(0, 500 << 10, 0).expect("swept");
        assert!((20..50).contains(&left(&store)), "{}", left(&store));
        assert!(store.bytes().expect("bytes") <= 500 << 10);
        store.connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").expect("nobody reads");
        let file = std::fs::read(scratch.0.join(NAME)).expect("the file");
        assert!(!file.windows(10).any(|bytes| bytes == b"canary-50 "), "it is gone from the disk");
        assert!(file.windows(11).any(|bytes| bytes == b"canary-199 "));
    }

    const DAY_MS: u64 = 86_400_000;
    const EVERYTHING: Search = Search {
        from_unix_ms: None,
        until_unix_ms: None,
        after_number: None,
        request_id: None,
        caller: None,
        model: None,
        provider: None,
        status: None,
        limit: usize::MAX,
        payload: true,
    };

    fn spoken(ended_unix_ms: u64, request: &str, response: &str) -> Row {
        let part = |text: &str| Part { text: Some(text.into()), bytes: text.len() as u64, is_whole: true };
        Row {
            payload: Some(Payload { request: part(request), response: part(response) }),
            ..row(ended_unix_ms)
        }
    }

    fn state_store() -> (Scratch, Store) {
        let scratch = Scratch::new();
        State::open(&scratch.0).expect("a state");
        let store = Store::open(&scratch.0).expect("a store");
        (scratch, store)
    }

    /// How many files anywhere under the directory hold these bytes, and all that the files hold.
    fn holding(directory: &Path, bytes: &[u8]) -> (usize, Vec<u8>) {
        let (mut count, mut all) = (0, Vec::new());
        let mut folders = vec![directory.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let file = std::fs::read(path).expect("a file");
                count += usize::from(file.windows(bytes.len()).any(|part| part == bytes));
                all.extend(file);
            }
        }
        (count, all)
    }

    #[test]
    fn what_was_said_comes_back_to_whoever_asks_for_it() {
        let (scratch, mut store) = state_store();
        store.add(&[spoken(1, "ask", "answer"), row(2), spoken(DAY_MS, "", "more")]).expect("room");
        let mut found = all(&store, &EVERYTHING);
        assert_eq!(
            found,
            all(&Store::open_existing(&scratch.0).expect("it is there").expect("too"), &EVERYTHING)
        );
        assert_eq!(found.remove(0).payload, spoken(1, "ask", "answer").payload);
        assert_eq!(found.remove(0).payload, None);
        assert_eq!(found.remove(0).payload, spoken(DAY_MS, "", "more").payload);
        assert!(
            all(&store, &Search { payload: false, ..EVERYTHING }).iter().all(|found| found.payload.is_none())
        );
        let sound = Payload { request: Part { bytes: 9, ..Part::default() }, ..Payload::default() };
        store.add(&[Row { payload: Some(sound.clone()), ..row(DAY_MS + 1) }]).expect("room");
        assert_eq!(all(&store, &EVERYTHING)[3].payload, Some(sound));
    }

    #[test]
    fn a_search_can_be_ended_and_goes_by_time() {
        let (_scratch, mut store) = state_store();
        store.add(&[row(3), row(1), row(2)]).expect("room");
        check(&store, Search::default(), &[1, 2, 3]);
        check(&store, Search { limit: 2, ..Search::default() }, &[2, 3]);
        let mut seen = Vec::new();
        let ended = store.search(&EVERYTHING, |found| {
            seen.push(found.number);
            Ok(if seen.len() == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        });
        assert_eq!((ended, seen), (Ok(()), vec![2, 3]));
    }

    #[test]
    fn no_payload_is_ever_read_off_the_disk_and_none_opens_when_its_day_has_gone() {
        let (scratch, mut store) = state_store();
        let canary = "the canary in the prompt";
        for day in 1..=3 {
            store.add(&[spoken(day * DAY_MS, canary, &format!("{canary} {day}"))]).expect("room");
        }
        // Files, the log beside the database and all: what was said lies nowhere as it was said.
        assert_eq!(holding(&scratch.0, canary.as_bytes()).0, 0);
        let old_copy = std::fs::read(scratch.0.join("logs.db-wal")).expect("there");
        assert!(old_copy.len() > 8_192, "all of it is still there");
        let mut copy = store.connection.prepare("SELECT request FROM payload").expect("a table");
        let sealed: Vec<Vec<u8>> =
            copy.query_map([], |row| row.get(0)).expect("rows").map(|row| row.expect("a blob")).collect();
        drop(copy);
        assert!(sealed.iter().all(|sealed| holding(&scratch.0, sealed).0 == 1));

        store.sweep(2 * DAY_MS, u64::MAX, 3).expect("swept");
        assert_eq!(store.keys.list(), Ok(vec![2, 3]));
        let (holds, _) = holding(&scratch.0, &sealed[0]);
        assert_eq!(holds, 0, "not even what was sealed is left");
        assert_eq!(all(&store, &EVERYTHING).len(), 2);
        // In a copy that was made before there is no way back either, with all that is left of the state.
        let place = |row, day| Place { day, row, column: Column::Request };
        for keys in [&store.keys, &Keys::of(&scratch.0)] {
            assert!(keys.open(place(1, 1), &sealed[0]).expect("no trouble").is_none());
            assert!(keys.open(place(2, 2), &sealed[1]).expect("no trouble").is_some());
        }

        // By bytes likewise; today's key stays.
        store.sweep(0, 0, 3).expect("swept");
        assert_eq!((all(&store, &EVERYTHING).len(), store.keys.list()), (0, Ok(vec![3])));
        assert!(sealed.iter().all(|sealed| holding(&scratch.0, sealed).0 == 0));
        store.sweep(0, 0, 4).expect("swept");
        assert_eq!(store.keys.list(), Ok(vec![]));
    }

    #[test]
    fn a_payload_whose_key_is_gone_costs_its_row_nothing() {
        let (_scratch, mut store) = state_store();
        store.add(&[spoken(1, "ask", "answer")]).expect("room");
        store.keys.destroy(0).expect("there");
        let payload = all(&store, &EVERYTHING).remove(0).payload.expect("its size is known");
        assert_eq!((payload.request.text, payload.request.bytes), (None, 3));
    }

    #[test]
    fn a_file_of_the_first_form_is_brought_to_this_one() {
        let (scratch, mut store) = state_store();
        store.add(&[row(1)]).expect("room");
        let first = "DROP TRIGGER payload_goes; DROP TABLE payload; PRAGMA user_version = 1";
        store.connection.execute_batch(first).expect("dropped");
        drop(store);
        let reader = Store::open_existing(&scratch.0).expect("it is there").expect("too");
        assert_eq!(all(&reader, &EVERYTHING).len(), 1);
        let mut store = Store::open(&scratch.0).expect("a store");
        store.add(&[spoken(2, "ask", "answer")]).expect("room");
        assert_eq!(all(&reader, &EVERYTHING)[1].payload, spoken(2, "ask", "answer").payload);
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
