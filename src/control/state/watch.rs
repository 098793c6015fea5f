//! Follows the state while the gateway runs: a change by any command is in force within [`STATE_POLL`].
//!
//! Nothing that goes wrong here lets anyone in or locks everyone out: the table that was read last stays in force, and the
//! trouble is told, once, until it is over or another.

use std::{
    io,
    sync::mpsc::{self, RecvTimeoutError},
    thread::{self, JoinHandle},
    time::Duration,
};

use super::{State, Trouble, database::Database};
use crate::{base::limits::STATE_POLL, config::callers::Callers, control::log::Log};

/// What is told to whoever publishes the callers, on the thread that follows them.
pub enum News {
    /// Another table is in force; whatever was wrong is over.
    Callers(Callers),
    /// The state can't be read. What was published stays.
    Trouble(Trouble),
}

/// The thread that follows. It ends when this is dropped.
pub struct Watch {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Reads the callers, and follows what becomes of them. The first table is the answer; later ones are told.
    pub fn start(
        state: State,
        told: impl FnMut(News) + Send + 'static,
        log: Log,
    ) -> Result<(Self, Callers), Trouble> {
        Self::every(STATE_POLL, state, told, log)
    }

    fn every(
        poll: Duration,
        state: State,
        told: impl FnMut(News) + Send + 'static,
        log: Log,
    ) -> Result<(Self, Callers), Trouble> {
        // Before the table is read: what is changed meanwhile is then read again.
        let version = state.database.version()?;
        let callers = state.callers()?;
        let mut desk = Desk { state, version: Some(version), trouble: None, told, log };
        let (stop, stopped) = mpsc::channel::<()>();
        let run = move || {
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(poll) {
                desk.look();
            }
        };
        let thread = thread::Builder::new().name("rw-state".to_owned()).spawn(run).map_err(no_thread)?;
        Ok((Self { stop: Some(stop), thread: Some(thread) }, callers))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn no_thread(error: io::Error) -> Trouble {
    Trouble(format!("cannot start a thread: {error}"))
}

/// The thread's own.
struct Desk<T> {
    state: State,
    /// What the newest table was read at; `None` after trouble, so that it is read again.
    version: Option<i64>,
    trouble: Option<Trouble>,
    told: T,
    log: Log,
}

impl<T: FnMut(News)> Desk<T> {
    fn look(&mut self) {
        match self.changed() {
            Ok(None) => {}
            Ok(Some(callers)) => {
                if self.trouble.take().is_some() {
                    self.log.info(format_args!("the state can be read again"));
                }
                self.log.info(format_args!("callers changed: {} now", callers.len()));
                (self.told)(News::Callers(callers));
            }
            Err(trouble) => {
                self.version = None;
                if self.trouble.as_ref() != Some(&trouble) {
                    self.log.error(format_args!("the callers read last stay in force: {trouble}"));
                    (self.told)(News::Trouble(trouble.clone()));
                    self.trouble = Some(trouble);
                }
            }
        }
    }

    /// The new table, if there may be one.
    fn changed(&mut self) -> Result<Option<Callers>, Trouble> {
        if self.version.is_none() {
            // Perhaps the file was put back, by another of its name. It must be one that belongs to our key.
            let database = Database::open_existing(self.state.directory.path())?;
            database.expect_key(&self.state.key)?;
            self.state.database = database;
        }
        let version = self.state.database.version()?;
        if self.version == Some(version) {
            return Ok(None);
        }
        let callers = self.state.callers()?;
        self.version = Some(version);
        Ok(Some(callers))
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::mpsc::Receiver};

    use super::{super::tests::Scratch, *};
    use crate::{control::state::settings::Settings, wire::token};

    const PATIENCE: Duration = Duration::from_secs(20);
    const POLL: Duration = Duration::from_millis(2);

    struct Followed {
        scratch: Scratch,
        /// A command's own view of the state.
        command: State,
        first: Callers,
        news: Receiver<News>,
        watch: Watch,
    }

    fn followed() -> Followed {
        let scratch = Scratch::new();
        let command = State::open(&scratch.0).expect("it can be made");
        let state = State::open(&scratch.0).expect("it can be opened");
        let (tell, news) = mpsc::channel();
        let told = move |new| tell.send(new).expect("the test listens");
        let (watch, first) = Watch::every(POLL, state, told, Log::to(io::sink(), false)).expect("it starts");
        Followed { scratch, command, first, news, watch }
    }

    impl Followed {
        /// Waits for a table that `fits`; each one before it is of a moment on the way.
        #[track_caller]
        fn table(&self, fits: impl Fn(&Callers) -> bool) {
            loop {
                match self.news.recv_timeout(PATIENCE).expect("news") {
                    News::Callers(callers) if fits(&callers) => return,
                    News::Callers(_) => {}
                    News::Trouble(trouble) => panic!("{trouble}"),
                }
            }
        }

        #[track_caller]
        fn trouble(&self, words: &str) {
            match self.news.recv_timeout(PATIENCE).expect("news") {
                News::Trouble(Trouble(said)) => assert!(said.contains(words), "{said}"),
                News::Callers(callers) => panic!("{} callers where {words:?}", callers.len()),
            }
        }
    }

    #[test]
    fn each_change_is_told_and_nothing_else() {
        let mut followed = followed();
        assert!(followed.first.is_empty());
        let made = followed.command.create_caller("ci", None, &Settings::default(), 1).expect("made");
        let token = token::parse(made.token.as_bytes()).expect("a token");
        followed.table(|callers| callers.authenticate(&token, 2).is_ok());
        followed.command.enable_caller(made.id, false).expect("disabled");
        followed.table(|callers| callers.authenticate(&token, 2).is_err());
        assert!(followed.news.recv_timeout(POLL * 20).is_err(), "nothing has changed");
        drop(followed.watch);
        assert!(followed.news.recv().is_err(), "the thread has ended");
    }

    #[test]
    fn a_lost_database_is_told_once_and_taken_up_again_when_it_is_back() {
        let mut followed = followed();
        followed.command.create_caller("ci", None, &Settings::default(), 1).expect("made");
        followed.table(|callers| callers.len() == 1);
        let (file, away) = (followed.scratch.file("ringway.db"), followed.scratch.file("away"));
        fs::rename(&file, &away).expect("moved");
        followed.trouble("ringway.db");
        assert!(followed.news.recv_timeout(POLL * 20).is_err(), "it is told once");
        assert!(!file.exists(), "no empty one is put in its place");
        fs::rename(&away, &file).expect("moved back");
        followed.table(|callers| callers.len() == 1);
    }

    #[test]
    fn a_caller_that_cannot_be_read_leaves_the_table_and_is_told() {
        let mut followed = followed();
        let made = followed.command.create_caller("ci", None, &Settings::default(), 1).expect("made");
        followed.table(|callers| callers.len() == 1);
        let damage = "UPDATE caller SET settings = '{}}'";
        followed.command.database.connection.execute(damage, []).expect("damaged");
        followed.trouble("`ci` can't be read");
        followed.command.delete_caller(made.id).expect("deleted");
        followed.table(Callers::is_empty);
    }

    #[test]
    fn a_database_of_another_installation_is_not_taken_up() {
        let followed = followed();
        let other = Scratch::new();
        State::open(&other.0).expect("it can be made");
        let file = followed.scratch.file("ringway.db");
        for name in ["ringway.db-wal", "ringway.db-shm", "ringway.db"] {
            fs::rename(followed.scratch.file(name), followed.scratch.file(&format!("away-{name}")))
                .expect("moved");
        }
        fs::rename(other.file("ringway.db"), &file).expect("moved");
        loop {
            match followed.news.recv_timeout(PATIENCE).expect("news") {
                News::Trouble(Trouble(said)) if said.contains("is not the one") => break,
                News::Trouble(_) => {}
                News::Callers(callers) => panic!("{} callers of another installation", callers.len()),
            }
        }
    }
}
