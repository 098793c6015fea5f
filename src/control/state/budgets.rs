//! What has been used of each budget, in a file of its own: it is written every second, and the callers beside it are not
//! to be read again each time.
//!
//! A restart loses at most what was drawn since the last write. `synchronous = NORMAL`: a power cut may lose the last
//! seconds, and never the file.

use std::{fs::OpenOptions, io, os::unix::fs::OpenOptionsExt, path::Path};

use rusqlite::{Connection, params};

use super::Trouble;
use crate::{base::limits::STATE_BUSY_TIME, config::allowance::Measure, policy::quota::Window};

const NAME: &str = "budgets.db";

/// What a budget had used when it was last written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Used {
    /// The name of the line it is counted in.
    pub line: String,
    pub measure: Measure,
    pub window: Window,
    pub amount: u64,
}

/// The file.
pub struct Budgets {
    connection: Connection,
}

/// As they stand in the file: a name means the same for ever.
const MEASURES: [(Measure, &str); 4] = [
    (Measure::BudgetTokensDay, "tokens_day"),
    (Measure::BudgetTokensMonth, "tokens_month"),
    (Measure::BudgetNanoUsdDay, "nano_usd_day"),
    (Measure::BudgetNanoUsdMonth, "nano_usd_month"),
];

impl Budgets {
    /// Opens the file in a state directory; made if it is not there.
    pub fn open(directory: &Path) -> Result<Self, Trouble> {
        let path = directory.join(NAME);
        // SQLite would make it readable for everyone whom the umask lets. Closed again before SQLite opens it: closing drops
        // all locks that this process has on a file.
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Trouble::with(&path, &error));
            }
            made => drop(made),
        }
        let opened = Connection::open(&path).and_then(|connection| {
            connection.busy_timeout(STATE_BUSY_TIME)?;
            connection.pragma_update(None, "journal_mode", "WAL")?;
            connection.pragma_update(None, "synchronous", "NORMAL")?;
            connection.pragma_update(None, "trusted_schema", false)?;
            connection.execute_batch(
                "CREATE TABLE IF NOT EXISTS budget (
                    line     TEXT NOT NULL,
                    measure  TEXT NOT NULL,
                    window   INTEGER NOT NULL,
                    amount   INTEGER NOT NULL CHECK (amount >= 0),
                    PRIMARY KEY (line, measure)
                ) STRICT, WITHOUT ROWID",
            )?;
            Ok(connection)
        });
        let connection = opened.map_err(|error| Trouble(format!("{}: {error}", path.display())))?;
        Ok(Self { connection })
    }

    /// Everything that was ever written, the newest of each budget.
    pub fn read(&self) -> Result<Vec<Used>, Trouble> {
        let read = || -> rusqlite::Result<Vec<Used>> {
            let mut statement =
                self.connection.prepare("SELECT line, measure, window, amount FROM budget")?;
            let rows = statement.query_map([], |row| {
                let measure: String = row.get(1)?;
                let measure = MEASURES.iter().find(|(_, name)| *name == measure).map(|(measure, _)| *measure);
                let (line, window, amount) = (row.get(0)?, Window(row.get(2)?), row.get::<_, i64>(3)?);
                Ok(measure.map(|measure| Used { line, measure, window, amount: amount.unsigned_abs() }))
            })?;
            rows.filter_map(Result::transpose).collect()
        };
        read().map_err(|error| Trouble(format!("{NAME}: {error}")))
    }

    /// Writes these over what was written of the same budgets before, all or none.
    pub fn write<'a>(
        &mut self,
        used: impl IntoIterator<Item = (&'a str, Measure, Window, u64)>,
    ) -> Result<(), Trouble> {
        let write = || -> rusqlite::Result<()> {
            let transaction = self.connection.transaction()?;
            {
                let mut statement = transaction.prepare_cached(
                    "INSERT INTO budget (line, measure, window, amount) VALUES (?1, ?2, ?3, ?4)
                     ON CONFLICT DO UPDATE SET window = excluded.window, amount = excluded.amount",
                )?;
                for (line, measure, window, amount) in used {
                    let Some((_, name)) = MEASURES.iter().find(|(known, _)| *known == measure) else {
                        continue;
                    };
                    let amount = i64::try_from(amount).unwrap_or(i64::MAX);
                    statement.execute(params![line, name, window.0, amount])?;
                }
            }
            transaction.commit()
        };
        write().map_err(|error| Trouble(format!("{NAME}: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::Scratch, *};

    #[test]
    fn what_was_written_last_is_read_again() {
        let scratch = Scratch::new();
        std::fs::create_dir(&scratch.0).expect("a temporary directory");
        let (day, month) = (Measure::BudgetTokensDay, Measure::BudgetTokensMonth);
        {
            let mut budgets = Budgets::open(&scratch.0).expect("a fresh file");
            assert_eq!(budgets.read(), Ok(Vec::new()));
            budgets
                .write([("gateway", day, Window(5), 10), ("caller/a", month, Window(6), 20)])
                .expect("room");
            budgets.write([("gateway", day, Window(7), 1 << 47)]).expect("room");
        }
        let budgets = Budgets::open(&scratch.0).expect("the same file");
        let used = |line: &str, measure, window, amount| Used {
            line: line.into(),
            measure,
            window: Window(window),
            amount,
        };
        assert_eq!(
            budgets.read(),
            Ok(vec![used("caller/a", month, 6, 20), used("gateway", day, 7, 1 << 47)])
        );
    }
}
