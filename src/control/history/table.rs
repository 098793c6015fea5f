//! The file of the book. `synchronous = NORMAL` in WAL: a crash of the process loses nothing that was committed, a power
//! cut may lose the last moments, and neither the file.

use std::{collections::HashMap, fs::OpenOptions, io, os::unix::fs::OpenOptionsExt, path::Path};

use rusqlite::{Connection, OpenFlags, OptionalExtension, Transaction, params};

use super::{Event, Kind, Labels, Page};
use crate::{
    base::limits::{
        BOOK_BYTES_MAX, BOOK_DAYS_SECS, BOOK_HOURS_SECS, BOOK_MINUTES_SECS, LABEL_SETS_MAX, STATE_BUSY_TIME,
    },
    control::state::Trouble,
    ledger::figures::Figures,
};

const NAME: &str = "book.db";

/// The number of the form below.
const FORM: i64 = 1;

/// `auto_vacuum` counts only before the first table is made. `summed` holds, for hours and days, the moment before which
/// every one has been summed.
const TABLES: &str = "
    PRAGMA auto_vacuum = INCREMENTAL;
    BEGIN IMMEDIATE;
    CREATE TABLE IF NOT EXISTS labels (
        number    INTEGER PRIMARY KEY,
        endpoint  TEXT NOT NULL,
        provider  TEXT NOT NULL,
        model     TEXT NOT NULL,
        caller    TEXT NOT NULL,
        class     TEXT NOT NULL,
        UNIQUE (endpoint, provider, model, caller, class)
    ) STRICT;
    CREATE TABLE IF NOT EXISTS figures (
        span          INTEGER NOT NULL,
        began_unix_s  INTEGER NOT NULL,
        labels        INTEGER NOT NULL,
        figures       BLOB NOT NULL,
        PRIMARY KEY (span, began_unix_s, labels)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS event (
        span          INTEGER NOT NULL,
        began_unix_s  INTEGER NOT NULL,
        kind          TEXT NOT NULL,
        provider      TEXT NOT NULL,
        name          TEXT NOT NULL,
        count         INTEGER NOT NULL,
        PRIMARY KEY (span, began_unix_s, kind, provider, name)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS summed (
        span           INTEGER PRIMARY KEY,
        before_unix_s  INTEGER NOT NULL
    ) STRICT;
    PRAGMA user_version = 1;
    COMMIT;
";

/// How long a piece of the book is. Its value is what stands in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Span {
    Minute = 0,
    Hour = 1,
    Day = 2,
}

impl Span {
    const fn secs(self) -> u64 {
        match self {
            Self::Minute => 60,
            Self::Hour => 3_600,
            Self::Day => 86_400,
        }
    }

    /// How long they are kept.
    const fn kept_secs(self) -> u64 {
        match self {
            Self::Minute => BOOK_MINUTES_SECS,
            Self::Hour => BOOK_HOURS_SECS,
            Self::Day => BOOK_DAYS_SECS,
        }
    }

    /// When the one began in which a moment lies.
    const fn began(self, unix_s: u64) -> u64 {
        unix_s - unix_s % self.secs()
    }

    fn number(self) -> i64 {
        self as i64
    }
}

/// From when to when, and how fine, an answer is: it begins at the beginning of a minute, an hour or a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moments {
    pub from_unix_s: u64,
    pub until_unix_s: u64,
    /// Of the oldest part.
    pub secs: u64,
}

/// The file.
pub struct Store {
    connection: Connection,
    /// Numbers of labels that were written lately.
    numbers: HashMap<Labels, i64>,
}

impl Store {
    /// Opens the file in a state directory, for its one writer; made if it is not there.
    pub fn open(directory: &Path) -> Result<Self, Trouble> {
        let path = directory.join(NAME);
        // SQLite would make it readable for everyone whom the umask lets. It is closed again before SQLite opens it: closing
        // drops all locks that this process has on a file, and a reader that finds none takes the log away.
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Trouble(format!("{}: {error}", path.display())));
            }
            made => drop(made),
        }
        Self::connect(&path, |connection| {
            connection.pragma_update(None, "journal_mode", "WAL")?;
            connection.pragma_update(None, "synchronous", "NORMAL")?;
            connection.execute_batch(TABLES)
        })
    }

    /// Opens the file for whoever only looks; `None` if nothing was ever counted.
    pub fn open_existing(directory: &Path) -> Result<Option<Self>, Trouble> {
        let path = directory.join(NAME);
        if !path.exists() {
            return Ok(None);
        }
        // The file itself is opened for writing: a reader may have to finish what a writer that was killed had begun.
        Self::connect(&path, |connection| connection.pragma_update(None, "query_only", true)).map(Some)
    }

    fn connect(
        path: &Path,
        prepare: impl FnOnce(&Connection) -> rusqlite::Result<()>,
    ) -> Result<Self, Trouble> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let opened = Connection::open_with_flags(path, flags).and_then(|connection| {
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
            Ok((connection, _)) => Ok(Self { connection, numbers: HashMap::new() }),
            Err(error) => Err(Trouble(format!("{}: {error}", path.display()))),
        }
    }

    /// Adds what was counted about `unix_s`, all or nothing.
    pub fn add(&mut self, unix_s: u64, page: &Page) -> Result<(), Trouble> {
        let Self { connection, numbers } = self;
        let mut add = || -> Result<(), Error> {
            let transaction = connection.transaction()?;
            let minute = Span::Minute.began(unix_s);
            let mut spans = vec![Span::Minute];
            spans.extend(
                [Span::Hour, Span::Day]
                    .into_iter()
                    .filter_map(|span| {
                        let summed = summed_before(&transaction, span);
                        summed.map(|before| (minute < before).then_some(span)).transpose()
                    })
                    .collect::<Result<Vec<_>, _>>()?,
            );
            for span in spans {
                for (labels, figures) in &page.rows {
                    let number = number_of(&transaction, numbers, labels)?;
                    merge(&transaction, numbers, span, span.began(minute), number, figures)?;
                }
                for (Event { kind, provider, name }, count) in &page.events {
                    let began = signed(span.began(minute));
                    transaction.prepare_cached(
                        "INSERT INTO event (span, began_unix_s, kind, provider, name, count)
                         VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO UPDATE SET count = count + excluded.count",
                    )?.execute(params![span.number(), began, kind.name(), provider, name, signed(*count)])?;
                }
            }
            Ok(transaction.commit()?)
        };
        let added = add();
        if added.is_err() || self.numbers.len() > 4 * LABEL_SETS_MAX {
            // Numbers that were given in a transaction that failed are nobody's.
            self.numbers.clear();
        }
        added.map_err(Error::trouble)
    }

    /// Sums hours and days that have passed, and deletes what has been kept for long enough.
    pub fn keep(&mut self, now_unix_s: u64) -> Result<(), Trouble> {
        let Self { connection, numbers } = self;
        let mut keep = || -> Result<(), Error> {
            let transaction = connection.transaction()?;
            sum(&transaction, numbers, Span::Minute, Span::Hour, now_unix_s)?;
            sum(&transaction, numbers, Span::Hour, Span::Day, now_unix_s)?;
            for span in [Span::Minute, Span::Hour, Span::Day] {
                let oldest = signed(span.began(now_unix_s.saturating_sub(span.kept_secs())));
                for table in ["figures", "event"] {
                    transaction.execute(
                        &format!("DELETE FROM {table} WHERE span = ?1 AND began_unix_s < ?2"),
                        params![span.number(), oldest],
                    )?;
                }
            }
            shrink(&transaction, BOOK_BYTES_MAX)?;
            let unused = "DELETE FROM labels WHERE number NOT IN (SELECT labels FROM figures)";
            if transaction.execute(unused, [])? > 0 {
                numbers.clear();
            }
            transaction.commit()?;
            connection.execute_batch("PRAGMA incremental_vacuum")?;
            Ok(())
        };
        let kept = keep();
        if kept.is_err() {
            self.numbers.clear();
        }
        kept.map_err(Error::trouble)
    }

    /// Shows everything from a moment up to now, each piece of time once.
    pub fn read(
        &self,
        from_unix_s: u64,
        now_unix_s: u64,
        mut row: impl FnMut(Labels, Figures),
        mut event: impl FnMut(Event, u64),
    ) -> Result<Moments, Trouble> {
        let mut read = || -> Result<Moments, Error> {
            // One state of the file throughout, whatever is summed meanwhile.
            let transaction = self.connection.unchecked_transaction()?;
            let ago = now_unix_s.saturating_sub(from_unix_s);
            let coarsest = match ago {
                _ if ago <= Span::Minute.kept_secs() => Span::Minute,
                _ if ago <= Span::Hour.kept_secs() => Span::Hour,
                _ => Span::Day,
            };
            let from = coarsest.began(from_unix_s);
            let mut begins = from;
            for span in [Span::Day, Span::Hour, Span::Minute] {
                if span as u8 > coarsest as u8 {
                    continue;
                }
                // What is not summed yet is in the finer ones.
                let ends = match span {
                    Span::Minute => u64::MAX,
                    span => summed_before(&transaction, span)?.max(begins),
                };
                let mut rows = transaction.prepare_cached(
                    "SELECT endpoint, provider, model, caller, class, figures FROM figures
                     JOIN labels ON labels.number = figures.labels
                     WHERE span = ?1 AND began_unix_s >= ?2 AND began_unix_s < ?3",
                )?;
                let range = params![span.number(), signed(begins), signed(ends)];
                let mut rows = rows.query(range)?;
                while let Some(found) = rows.next()? {
                    let labels = Labels {
                        endpoint: found.get(0)?,
                        provider: found.get(1)?,
                        model: found.get(2)?,
                        caller: found.get(3)?,
                        class: found.get(4)?,
                    };
                    row(
                        labels,
                        Figures::decode(found.get_ref(5)?.as_blob().map_err(|_| Error::Row)?)
                            .ok_or(Error::Row)?,
                    );
                }
                let mut events = transaction.prepare_cached(
                    "SELECT kind, provider, name, sum(count) FROM event
                     WHERE span = ?1 AND began_unix_s >= ?2 AND began_unix_s < ?3 GROUP BY 1, 2, 3",
                )?;
                let mut events = events.query(range)?;
                while let Some(found) = events.next()? {
                    let kind: String = found.get(0)?;
                    let kind = [Kind::Attempt, Kind::Refusal].into_iter().find(|known| known.name() == kind);
                    let kind = kind.ok_or(Error::Row)?;
                    event(
                        Event { kind, provider: found.get(1)?, name: found.get(2)? },
                        found.get::<_, i64>(3)?.unsigned_abs(),
                    );
                }
                begins = ends;
            }
            Ok(Moments { from_unix_s: from, until_unix_s: now_unix_s, secs: coarsest.secs() })
        };
        read().map_err(Error::trouble)
    }
}

/// Sums what has passed of `coarse` out of its `fine` parts, once.
fn sum(
    transaction: &Transaction<'_>,
    numbers: &mut HashMap<Labels, i64>,
    fine: Span,
    coarse: Span,
    now_unix_s: u64,
) -> Result<(), Error> {
    let before = summed_before(transaction, coarse)?;
    // A day's hours have to be there first.
    let ends = match coarse {
        Span::Day => coarse.began(summed_before(transaction, Span::Hour)?.min(now_unix_s)),
        _ => coarse.began(now_unix_s),
    };
    if ends <= before {
        return Ok(());
    }
    let range = params![fine.number(), signed(before), signed(ends)];
    let mut parts = transaction.prepare_cached(
        "SELECT began_unix_s, labels, figures FROM figures
         WHERE span = ?1 AND began_unix_s >= ?2 AND began_unix_s < ?3 ORDER BY began_unix_s",
    )?;
    let mut parts = parts.query(range)?;
    let mut open: (u64, HashMap<i64, Figures>) = (0, HashMap::new());
    let mut close = |began: u64, sums: &mut HashMap<i64, Figures>| -> Result<(), Error> {
        sums.drain()
            .try_for_each(|(labels, figures)| merge(transaction, numbers, coarse, began, labels, &figures))
    };
    while let Some(part) = parts.next()? {
        let began = coarse.began(part.get::<_, i64>(0)?.unsigned_abs());
        if began != open.0 {
            close(open.0, &mut open.1)?;
            open.0 = began;
        }
        let figures =
            Figures::decode(part.get_ref(2)?.as_blob().map_err(|_| Error::Row)?).ok_or(Error::Row)?;
        open.1.entry(part.get(1)?).or_default().merge(&figures);
    }
    close(open.0, &mut open.1)?;
    transaction.execute(
        "INSERT INTO event (span, began_unix_s, kind, provider, name, count)
         SELECT ?4, began_unix_s - began_unix_s % ?5, kind, provider, name, sum(count) FROM event
         WHERE span = ?1 AND began_unix_s >= ?2 AND began_unix_s < ?3 GROUP BY 2, 3, 4, 5
         ON CONFLICT DO UPDATE SET count = count + excluded.count",
        params![fine.number(), signed(before), signed(ends), coarse.number(), signed(coarse.secs())],
    )?;
    transaction.execute(
        "INSERT INTO summed (span, before_unix_s) VALUES (?1, ?2) ON CONFLICT DO UPDATE SET before_unix_s = ?2",
        params![coarse.number(), signed(ends)],
    )?;
    Ok(())
}

/// Adds figures to a row of the file; one too many goes into that of all others.
fn merge(
    transaction: &Transaction<'_>,
    numbers: &mut HashMap<Labels, i64>,
    span: Span,
    began_unix_s: u64,
    labels: i64,
    figures: &Figures,
) -> Result<(), Error> {
    let place = params![span.number(), signed(began_unix_s), labels];
    let mut find = transaction.prepare_cached(
        "SELECT figures FROM figures WHERE span = ?1 AND began_unix_s = ?2 AND labels = ?3",
    )?;
    let found: Option<Vec<u8>> = find.query_row(place, |row| row.get(0)).optional()?;
    let mut bytes = Vec::new();
    match found {
        Some(found) => {
            let mut sum = Figures::decode(&found).ok_or(Error::Row)?;
            sum.merge(figures);
            sum.encode(&mut bytes);
        }
        None => {
            let mut count = transaction
                .prepare_cached("SELECT count(*) FROM figures WHERE span = ?1 AND began_unix_s = ?2")?;
            let rows: i64 =
                count.query_row(params![span.number(), signed(began_unix_s)], |row| row.get(0))?;
            let other = number_of(transaction, numbers, &Labels::other())?;
            // One place is kept for all others.
            if labels != other && rows >= LABEL_SETS_MAX as i64 - 1 {
                return merge(transaction, numbers, span, began_unix_s, other, figures);
            }
            figures.encode(&mut bytes);
        }
    }
    let mut write = transaction.prepare_cached(
        "INSERT INTO figures (span, began_unix_s, labels, figures) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT DO UPDATE SET figures = excluded.figures",
    )?;
    write.execute(params![span.number(), signed(began_unix_s), labels, bytes])?;
    Ok(())
}

/// The number of a set of labels, given now if it has none.
fn number_of(
    transaction: &Transaction<'_>,
    numbers: &mut HashMap<Labels, i64>,
    labels: &Labels,
) -> Result<i64, Error> {
    if let Some(number) = numbers.get(labels) {
        return Ok(*number);
    }
    let Labels { endpoint, provider, model, caller, class } = labels;
    let names = params![endpoint, provider, model, caller, class];
    transaction
        .prepare_cached(
            "INSERT INTO labels (endpoint, provider, model, caller, class) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT DO NOTHING",
        )?
        .execute(names)?;
    let number = transaction
        .prepare_cached(
            "SELECT number FROM labels
             WHERE endpoint = ?1 AND provider = ?2 AND model = ?3 AND caller = ?4 AND class = ?5",
        )?
        .query_row(names, |row| row.get(0))?;
    numbers.insert(labels.clone(), number);
    Ok(number)
}

/// The moment before which all of a span have been summed.
fn summed_before(transaction: &Connection, span: Span) -> rusqlite::Result<u64> {
    let mut find = transaction.prepare_cached("SELECT before_unix_s FROM summed WHERE span = ?1")?;
    let found: Option<i64> = find.query_row([span.number()], |row| row.get(0)).optional()?;
    Ok(found.map_or(0, i64::unsigned_abs))
}

/// Deletes the oldest minutes that have been summed, an eighth of them at a time, until the rest fits.
fn shrink(transaction: &Transaction<'_>, bytes_max: u64) -> Result<(), Error> {
    let pragma = |name| transaction.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    loop {
        let used = pragma("page_count")?.saturating_sub(pragma("freelist_count")?);
        if u64::try_from(used.saturating_mul(pragma("page_size")?)).unwrap_or(0) <= bytes_max {
            return Ok(());
        }
        for (span, summed) in [(Span::Minute, Span::Hour), (Span::Hour, Span::Day), (Span::Day, Span::Day)] {
            let deleted = transaction.execute(
                "DELETE FROM figures WHERE span = ?1 AND began_unix_s < ?2 AND began_unix_s <= (
                     SELECT began_unix_s FROM figures WHERE span = ?1 ORDER BY began_unix_s
                     LIMIT 1 OFFSET (SELECT count(*) / 8 FROM figures WHERE span = ?1))",
                params![span.number(), signed(summed_before(transaction, summed)?)],
            )?;
            if deleted > 0 {
                break;
            }
            if span == Span::Day {
                return Ok(());
            }
        }
    }
}

/// Why it could not be done.
enum Error {
    Sqlite(rusqlite::Error),
    /// A row is not what was ever written.
    Row,
}

impl Error {
    fn trouble(self) -> Trouble {
        match self {
            Self::Sqlite(error) => Trouble(format!("{NAME}: {error}")),
            Self::Row => {
                Trouble(format!("{NAME} is damaged: restore it from a backup, or begin anew without it"))
            }
        }
    }
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

fn signed(unsigned: u64) -> i64 {
    i64::try_from(unsigned).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        base::{
            ids::{ProviderId, ProviderRoll, mix},
            now::Now,
        },
        control::state::tests::Scratch,
        ledger::{
            figures::Sum,
            record::{Outcome, Record},
            sheet::{AttemptResult, Sheet},
        },
    };

    /// A Sunday at noon.
    const NOON: u64 = 1_795_348_800;

    fn store() -> (Scratch, Store) {
        let scratch = Scratch::new();
        std::fs::create_dir_all(&scratch.0).expect("a directory");
        let store = Store::open(&scratch.0).expect("a store");
        (scratch, store)
    }

    fn roll() -> ProviderRoll {
        let mut roll = ProviderRoll::default();
        roll.enrol("openai");
        roll
    }

    /// What one exchange with a model leaves, that took so long.
    fn page(model: &str, took_us: u64) -> Page {
        let mut sheet = Sheet::default();
        let mut record = Record::new("chat/completions", Now(0));
        (record.provider, record.model_used, record.status) = (Some(ProviderId(0)), model.into(), 200);
        record.close(Now(took_us * 1_000), Outcome::Completed, &mut sheet);
        sheet.attempt(ProviderId(0), AttemptResult::Answered);
        Page::of(&sheet, &roll())
    }

    type Sums = (BTreeMap<String, Figures>, BTreeMap<String, u64>, u64);

    /// Figures by model, events by name, and how fine it was.
    fn read(store: &Store, from: u64, now: u64) -> Sums {
        let (mut figures, mut events) = (BTreeMap::<String, Figures>::new(), BTreeMap::new());
        let moments = store.read(
            from,
            now,
            |labels, row| figures.entry(labels.model).or_default().merge(&row),
            |event, count| *events.entry(event.name).or_default() += count,
        );
        (figures, events, moments.expect("it can be read").secs)
    }

    fn requests(sums: &Sums) -> u64 {
        sums.0.values().map(|figures| figures.of(Sum::Requests)).sum()
    }

    #[test]
    fn minutes_summed_into_hours_and_days_lose_nothing() {
        let (_scratch, mut store) = store();
        let mut whole: BTreeMap<String, Figures> = BTreeMap::new();
        let (mut chance, mut count) = (1_u64, 0);
        // Three days in steps of some minutes, swept in between, as the gateway does.
        let mut now = NOON;
        while now < NOON + 3 * 86_400 {
            chance = mix(chance.wrapping_add(0x9e37_79b9_7f4a_7c15));
            now += chance % 1_500;
            let page = page(["a", "b", "c"][(chance >> 32) as usize % 3], chance >> 40);
            page.rows
                .iter()
                .for_each(|(labels, row)| whole.entry(labels.model.clone()).or_default().merge(row));
            store.add(now, &page).expect("room");
            count += 1;
            if chance.is_multiple_of(4) {
                store.keep(now).expect("kept");
            }
        }
        for from in [NOON, NOON - 40 * 86_400] {
            let (figures, events, secs) = read(&store, from, now);
            assert_eq!(secs, if from == NOON { 3_600 } else { 86_400 });
            assert_eq!(figures, whole, "by {secs} s");
            assert_eq!(events, BTreeMap::from([("answered".to_owned(), count)]));
        }
        store.keep(now).expect("kept");
        assert_eq!(read(&store, NOON, now).0, whole);
        let (day, _, secs) = read(&store, now - 86_400, now);
        assert_eq!(secs, 60);
        assert!(day.values().map(|figures| figures.of(Sum::Requests)).sum::<u64>() < count);
    }

    #[test]
    fn what_comes_late_is_in_every_span_all_the_same() {
        let (_scratch, mut store) = store();
        store.add(NOON, &page("a", 5)).expect("room");
        store.keep(NOON + 2 * 86_400 - 1).expect("kept");
        // The clock is set back by a day and a half.
        store.add(NOON + 60, &page("a", 5)).expect("room");
        store.keep(NOON + 61).expect("kept");
        for from in [NOON - 3_600, NOON - 2 * 86_400, NOON - 40 * 86_400] {
            assert_eq!(requests(&read(&store, from, NOON + 61)), if from == NOON - 3_600 { 1 } else { 2 });
        }
        store.keep(NOON + 3 * 86_400).expect("kept");
        assert_eq!(requests(&read(&store, NOON - 2 * 86_400, NOON + 3 * 86_400)), 2, "summed once");
    }

    #[test]
    fn each_span_is_kept_as_long_as_it_should_be() {
        let (_scratch, mut store) = store();
        store.add(NOON, &page("a", 5)).expect("room");
        let rows = |store: &Store| -> Vec<i64> {
            let count = "SELECT span FROM figures ORDER BY span";
            let mut rows = store.connection.prepare(count).expect("a query");
            let rows = rows.query_map([], |row| row.get(0)).expect("rows");
            rows.collect::<Result<_, _>>().expect("numbers")
        };
        for (later_secs, expect) in [
            (0, vec![0]),
            (3_600, vec![0, 1]),
            (43_200, vec![0, 1, 2]),
            (86_460, vec![1, 2]),
            (31 * 86_400, vec![2]),
            (396 * 86_400, vec![2]),
            (398 * 86_400, vec![]),
        ] {
            store.keep(NOON + later_secs).expect("kept");
            assert_eq!(rows(&store), expect, "after {later_secs} s");
        }
        let left: i64 = store
            .connection
            .query_row("SELECT count(*) FROM labels", [], |row| row.get(0))
            .expect("a number");
        assert_eq!(left, 0);
    }

    #[test]
    fn a_minute_has_so_many_rows_and_loses_nothing() {
        let (_scratch, mut store) = store();
        for part in 0..3 {
            let mut whole = Page::default();
            for number in 0..LABEL_SETS_MAX / 2 {
                whole.rows.extend(page(&format!("{part}-{number}"), 5).rows);
            }
            store.add(NOON, &whole).expect("room");
        }
        let sums = read(&store, NOON, NOON);
        assert_eq!((sums.0.len(), requests(&sums)), (LABEL_SETS_MAX, 3 * LABEL_SETS_MAX as u64 / 2));
        assert_eq!(sums.0["other"].of(Sum::Requests), LABEL_SETS_MAX as u64 / 2 + 1);
    }

    #[test]
    fn what_is_too_much_makes_the_oldest_minutes_go_and_no_sum() {
        let (_scratch, mut store) = store();
        for minute in 0..300 {
            let mut whole = Page::default();
            (0..10).for_each(|number| whole.rows.extend(page(&format!("m{number}"), 50 + number).rows));
            store.add(NOON + minute * 60, &whole).expect("room");
        }
        let now = NOON + 300 * 60;
        store.keep(now).expect("kept");
        let before = requests(&read(&store, NOON - 86_400, now));
        let transaction = store.connection.transaction().expect("ours");
        assert!(shrink(&transaction, 1).is_ok());
        transaction.commit().expect("ours");
        assert_eq!(requests(&read(&store, NOON, now)), 0, "all hours are whole, so all minutes could go");
        assert_eq!(before, 3_000);
    }

    #[test]
    fn a_reader_sees_it_while_it_is_written_and_after() {
        let (scratch, mut store) = store();
        assert!(Store::open_existing(&scratch.file("nowhere")).expect("no trouble").is_none());
        store.add(NOON, &page("a", 5)).expect("room");
        let reader = Store::open_existing(&scratch.0).expect("it is there").expect("it is there");
        assert_eq!(requests(&read(&reader, NOON, NOON)), 1);
        store.add(NOON, &page("a", 5)).expect("room");
        assert_eq!(requests(&read(&reader, NOON, NOON)), 2);
        drop(store);
        assert_eq!(requests(&read(&reader, NOON, NOON)), 2);
    }

    /// Locks are a process's own, so another one asks.
    #[test]
    fn a_reader_in_another_process_leaves_the_writer_its_log() {
        let (scratch, mut store) = store();
        store.add(NOON, &page("a", 5)).expect("room");
        let locks = std::fs::read_to_string("/proc/locks").expect("Linux");
        let inode =
            std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(scratch.file(NAME)).expect("there"));
        assert!(
            locks.lines().any(|line| line.contains(&format!(":{inode} "))),
            "no lock on {inode}: {locks}"
        );
    }

    #[test]
    fn a_file_of_a_later_form_or_with_damage_is_told() {
        let (scratch, mut store) = store();
        store.add(NOON, &page("a", 5)).expect("room");
        store.connection.execute("UPDATE figures SET figures = x'ff'", []).expect("written");
        let said = store.add(NOON, &page("a", 5)).expect_err("it is damaged").to_string();
        assert!(said.contains("damaged"), "{said}");
        store.connection.pragma_update(None, "user_version", FORM + 1).expect("written");
        drop(store);
        let refused = Store::open(&scratch.0).map(drop).expect_err("it is not known");
        assert!(refused.to_string().contains("newer ringway"), "{refused}");
    }
}
