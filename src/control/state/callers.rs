//! Callers as the state keeps them: made, changed and listed by commands, read as one table by the gateway.
//!
//! Every change is one transaction; a change that was told to the operator is on the disk.

use rusqlite::{ErrorCode, OptionalExtension, Row, params};
use zeroize::Zeroizing;

use super::{State, Trouble, chance, settings::Settings};
use crate::{
    base::limits::{CALLER_SETTINGS_BYTES_MAX, CALLERS_MAX},
    config::callers::{Callers, Digests, SameId},
    wire::token::{self, Digest, ID_CHANCE_BYTES, SECRET_BYTES, TokenId},
};

/// A caller, without what is secret of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    pub id: TokenId,
    pub name: String,
    pub created_unix_ms: u64,
    pub expires_unix_ms: Option<u64>,
    /// Until when the token before the last rotation is good.
    pub former_until_unix_ms: Option<u64>,
    pub enabled: bool,
    pub settings: Settings,
}

/// A token that was just made. It can't be had again.
pub struct Fresh {
    pub id: TokenId,
    pub token: Zeroizing<String>,
}

const COLUMNS: &str = "id, name, created_unix_ms, expires_unix_ms, former_until_unix_ms, enabled, settings";

impl State {
    /// Makes a caller and its token.
    pub fn create_caller(
        &mut self,
        name: &str,
        expires_unix_ms: Option<u64>,
        settings: &Settings,
        now_unix_ms: u64,
    ) -> Result<Fresh, Trouble> {
        let mut bytes = [0; ID_CHANCE_BYTES];
        chance(&mut bytes)?;
        let id = TokenId::draw(&bytes);
        settings.caller(id, name, expires_unix_ms, true).map_err(Trouble)?;
        let (token, digest) = self.draw(id)?;
        let settings = serde_json::to_string(settings).map_err(|error| Trouble(error.to_string()))?;
        let made = self.database.connection.execute(
            "INSERT INTO caller (id, name, digest, created_unix_ms, expires_unix_ms, enabled, settings)
             SELECT ?1, ?2, ?3, ?4, ?5, 1, ?6 WHERE (SELECT count(*) FROM caller) < ?7",
            params![
                id.as_str(),
                name,
                digest.0,
                time(now_unix_ms),
                expires_unix_ms.map(time),
                settings,
                CALLERS_MAX as i64
            ],
        );
        match made {
            Err(rusqlite::Error::SqliteFailure(error, _)) if error.code == ErrorCode::ConstraintViolation => {
                Err(Trouble(format!("there is a caller `{name}` already")))
            }
            made => match self.database.trouble(made)? {
                1 => Ok(Fresh { id, token }),
                _ => Err(Trouble(format!("there are {CALLERS_MAX} callers, which is all there can be"))),
            },
        }
    }

    /// Gives a caller another token; the present one is good until `former_until_unix_ms`, the one before no longer.
    pub fn rotate_caller(&mut self, id: TokenId, former_until_unix_ms: u64) -> Result<Fresh, Trouble> {
        let (token, digest) = self.draw(id)?;
        let changed = self.database.connection.execute(
            "UPDATE caller SET former_digest = digest, former_until_unix_ms = ?2, digest = ?3 WHERE id = ?1",
            params![id.as_str(), time(former_until_unix_ms), digest.0],
        );
        self.one(changed, id)?;
        Ok(Fresh { id, token })
    }

    pub fn enable_caller(&mut self, id: TokenId, enabled: bool) -> Result<(), Trouble> {
        let changed = self
            .database
            .connection
            .execute("UPDATE caller SET enabled = ?2 WHERE id = ?1", params![id.as_str(), enabled]);
        self.one(changed, id)
    }

    pub fn delete_caller(&mut self, id: TokenId) -> Result<(), Trouble> {
        let changed = self.database.connection.execute("DELETE FROM caller WHERE id = ?", [id.as_str()]);
        self.one(changed, id)
    }

    /// The caller of that name, or else of that id.
    pub fn find_caller(&self, name_or_id: &str) -> Result<Option<Kept>, Trouble> {
        let select = format!(
            "SELECT {COLUMNS} FROM caller WHERE name = ?1 OR id = ?1 ORDER BY name = ?1 DESC LIMIT 1"
        );
        let found = self.database.connection.query_row(&select, [name_or_id], |row| Ok(kept(row)));
        self.database.trouble(found.optional())?.transpose()
    }

    /// All callers, by name.
    pub fn list_callers(&self) -> Result<Vec<Kept>, Trouble> {
        let select = format!("SELECT {COLUMNS} FROM caller ORDER BY name");
        let mut statement = self.database.trouble(self.database.connection.prepare(&select))?;
        let rows = self.database.trouble(statement.query_map([], |row| Ok(kept(row))))?;
        rows.map(|row| self.database.trouble(row)?).collect()
    }

    /// The table that the cores read. One caller that can't be read is trouble with all of them: whoever was restricted
    /// must not become free, and whoever is left out here would be refused.
    pub fn callers(&self) -> Result<Callers, Trouble> {
        let select = format!("SELECT {COLUMNS}, digest, former_digest FROM caller");
        let mut statement = self.database.trouble(self.database.connection.prepare(&select))?;
        let mut rows = self.database.trouble(statement.query([]))?;
        let mut callers = Vec::new();
        while let Some(row) = self.database.trouble(rows.next())? {
            let Kept { id, name, expires_unix_ms, former_until_unix_ms, enabled, settings, .. } = kept(row)?;
            let caller = settings.caller(id, &name, expires_unix_ms, enabled);
            let caller = caller.map_err(|why| unreadable(&name, &why))?;
            let current: [u8; 32] = self.database.trouble(row.get(7))?;
            let former: Option<[u8; 32]> = self.database.trouble(row.get(8))?;
            let former = former.map(Digest).zip(former_until_unix_ms);
            callers.push((caller, Digests { current: Digest(current), former }));
            if callers.len() > CALLERS_MAX {
                return Err(Trouble(format!("there are more than {CALLERS_MAX} callers")));
            }
        }
        Callers::new(self.key.clone(), callers)
            .map_err(|SameId(id)| unreadable(id.as_str(), "its id is not its own"))
    }

    fn draw(&self, id: TokenId) -> Result<(Zeroizing<String>, Digest), Trouble> {
        let mut secret = Zeroizing::new([0; SECRET_BYTES]);
        chance(&mut *secret)?;
        Ok((token::render(id, &secret), self.key.digest_of(id, &secret)))
    }

    /// A change of exactly one caller.
    fn one(&self, changed: rusqlite::Result<usize>, id: TokenId) -> Result<(), Trouble> {
        match self.database.trouble(changed)? {
            1 => Ok(()),
            _ => Err(Trouble(format!("there is no caller {id} any more"))),
        }
    }
}

/// Reads the columns of [`COLUMNS`].
fn kept(row: &Row<'_>) -> Result<Kept, Trouble> {
    let name: String = row.get(1).map_err(|error| unreadable("?", &error.to_string()))?;
    let unreadable = |why: &str| unreadable(&name, why);
    let read = || -> rusqlite::Result<_> {
        Ok((
            row.get::<_, String>(0)?,
            row.get::<_, u64>(2)?,
            row.get::<_, Option<u64>>(3)?,
            row.get::<_, Option<u64>>(4)?,
            row.get::<_, bool>(5)?,
            row.get::<_, String>(6)?,
        ))
    };
    let (id, created_unix_ms, expires_unix_ms, former_until_unix_ms, enabled, settings) =
        read().map_err(|error| unreadable(&error.to_string()))?;
    let id = TokenId::parse(&id).ok_or_else(|| unreadable("its id is none"))?;
    if settings.len() > CALLER_SETTINGS_BYTES_MAX {
        return Err(unreadable("its settings are too long"));
    }
    let settings = serde_json::from_str(&settings).map_err(|error| unreadable(&error.to_string()))?;
    Ok(Kept { id, name, created_unix_ms, expires_unix_ms, former_until_unix_ms, enabled, settings })
}

fn unreadable(name: &str, why: &str) -> Trouble {
    Trouble(format!("the caller `{}` can't be read: {why}", name.escape_debug()))
}

/// A time as SQLite keeps it.
fn time(unix_ms: u64) -> i64 {
    i64::try_from(unix_ms).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::{super::tests::Scratch, *};
    use crate::config::callers::NotAuthentic;

    fn state() -> (State, Scratch) {
        let scratch = Scratch::new();
        (State::open(&scratch.0).expect("it can be made"), scratch)
    }

    fn shows(state: &State, token: &str, unix_ms: u64) -> Result<String, NotAuthentic> {
        let callers = state.callers().expect("they can be read");
        let token = token::parse(token.as_bytes()).expect("a token");
        callers.authenticate(&token, unix_ms).map(|caller| caller.name.to_string())
    }

    #[test]
    fn a_caller_lives_from_creation_to_deletion() {
        let (mut state, scratch) = state();
        let first = state.create_caller("ci", Some(5_000), &Settings::default(), 1_000).expect("made");
        let other = state.create_caller("other", None, &Settings::default(), 1_000).expect("made");
        assert_eq!(shows(&state, &first.token, 0).as_deref(), Ok("ci"));
        assert_eq!(shows(&state, &first.token, 5_000), Err(NotAuthentic::Expired));

        state.enable_caller(first.id, false).expect("disabled");
        assert_eq!(shows(&state, &first.token, 0), Err(NotAuthentic::Disabled));
        state.enable_caller(first.id, true).expect("enabled");

        let second = state.rotate_caller(first.id, 3_000).expect("rotated");
        assert_eq!(second.id, first.id);
        assert_eq!(shows(&state, &first.token, 2_999).as_deref(), Ok("ci"));
        assert_eq!(shows(&state, &first.token, 3_000), Err(NotAuthentic::Unknown));
        let third = state.rotate_caller(first.id, 4_000).expect("rotated");
        assert_eq!(shows(&state, &first.token, 0), Err(NotAuthentic::Unknown), "the one before the former");
        assert_eq!(shows(&state, &second.token, 3_999).as_deref(), Ok("ci"));

        // And after a restart.
        drop(state);
        let mut state = State::open(&scratch.0).expect("it can be opened");
        assert_eq!(shows(&state, &third.token, 0).as_deref(), Ok("ci"));
        state.delete_caller(first.id).expect("deleted");
        assert_eq!(shows(&state, &third.token, 0), Err(NotAuthentic::Unknown));
        assert_eq!(shows(&state, &other.token, 0).as_deref(), Ok("other"));
        assert!(state.delete_caller(first.id).is_err_and(|Trouble(said)| said.contains("no caller")));
    }

    #[test]
    fn names_are_unique_and_callers_are_found_by_name_or_id() {
        let (mut state, _scratch) = state();
        let made = state.create_caller("ci", None, &Settings::default(), 1).expect("made");
        let again = state.create_caller("ci", None, &Settings::default(), 1);
        assert!(again.is_err_and(|Trouble(said)| said.contains("already")));
        let bad = state.create_caller("a b", None, &Settings::default(), 1);
        assert!(bad.is_err_and(|Trouble(said)| said.contains("not a name")));
        // One who is called what another's id is.
        state.create_caller(made.id.as_str(), None, &Settings::default(), 1).expect("made");
        let name = |who: &str| state.find_caller(who).expect("read").map(|kept| kept.name);
        assert_eq!(name("ci").as_deref(), Some("ci"));
        assert_eq!(name(made.id.as_str()).as_deref(), Some(made.id.as_str()), "a name comes before an id");
        assert_eq!(name("nobody"), None);
        assert_eq!(state.list_callers().expect("read").len(), 2);
    }

    #[test]
    fn neither_a_token_nor_its_secret_is_anywhere_in_the_directory() {
        let (mut state, scratch) = state();
        let made = state.create_caller("ci", None, &Settings::default(), 1).expect("made");
        let rotated = state.rotate_caller(made.id, 2).expect("rotated");
        for entry in std::fs::read_dir(&scratch.0).expect("there") {
            let path = entry.expect("an entry").path();
            let bytes = std::fs::read(&path).expect("ours");
            for fresh in [&made, &rotated] {
                let parsed = token::parse(fresh.token.as_bytes()).expect("a token");
                let secret = &fresh.token.as_bytes()[20..];
                assert!(memchr::memmem::find(&bytes, secret).is_none(), "{}", path.display());
                assert!(!format!("{parsed:?}").contains(std::str::from_utf8(secret).expect("text")));
            }
        }
    }

    #[test]
    fn one_caller_that_cannot_be_read_is_trouble_with_all() {
        for damage in [
            "UPDATE caller SET settings = '{\"limit\":1}'",
            "UPDATE caller SET settings = ''",
            "UPDATE caller SET settings = '{\"models\":[\"\"]}'",
            "UPDATE caller SET name = 'a b'",
            "UPDATE caller SET id = 'ABCDEFGHIJKLMNOP'",
        ] {
            let (mut state, _scratch) = state();
            state.create_caller("ci", None, &Settings::default(), 1).expect("made");
            state.callers().expect("whole");
            state.database.connection.execute(damage, []).expect("damaged");
            let said = state.callers().map(drop);
            assert!(said.is_err_and(|Trouble(said)| said.contains("can't be read")), "{damage}");
        }
    }

    #[test]
    fn settings_come_back_as_they_were_kept() {
        let (mut state, _scratch) = state();
        let settings = Settings {
            models: vec!["openai/*".to_owned()],
            deny: vec!["10.0.0.0/8".to_owned()],
            n_max: Some(2),
            ..Settings::default()
        };
        let made = state.create_caller("ci", Some(9), &settings, 7).expect("made");
        let expect = Kept {
            id: made.id,
            name: "ci".to_owned(),
            created_unix_ms: 7,
            expires_unix_ms: Some(9),
            former_until_unix_ms: None,
            enabled: true,
            settings,
        };
        assert_eq!(state.find_caller("ci"), Ok(Some(expect)));
        let callers = state.callers().expect("read");
        let caller = callers.get(made.id).expect("there");
        let access = caller.access.as_ref().expect("it denies");
        assert_eq!((caller.caps.n_max, access.permits([10, 1, 1, 1].into())), (Some(2), false));
        assert!(caller.models[0].matches("openai/gpt-4o"));
    }
}
