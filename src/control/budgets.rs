//! Keeps budgets over restarts: restores what was used before the cores begin, and writes down what changed each second.

use std::{
    collections::HashMap,
    io,
    path::Path,
    sync::{
        Arc, Mutex,
        mpsc::{self, RecvTimeoutError},
    },
    thread::{self, JoinHandle},
};

use super::{
    lock,
    log::Log,
    state::{Trouble, budgets::Budgets},
};
use crate::{
    base::{ids::Line, limits::BUDGETS_INTERVAL},
    bridge::quota::{BudgetWatch, QuotaBoard},
    config::allowance::Measure,
    policy::quota::Window,
};

/// One budget to be kept: where it is counted, and the name it is written under.
#[derive(Clone, Debug)]
pub struct Kept {
    pub line: Line,
    pub measure: Measure,
    pub name: Box<str>,
}

/// The thread that keeps them. What was drawn to the end is written when this is dropped.
pub struct BudgetKeeper {
    desk: Arc<Mutex<Desk>>,
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct Desk {
    board: Arc<QuotaBoard>,
    file: Budgets,
    /// What the file held at the start and nobody has asked for yet.
    before: HashMap<(Box<str>, Measure), (Window, u64)>,
    watch: BudgetWatch,
    names: HashMap<Line, Box<str>>,
    trouble: Option<Trouble>,
    log: Log,
}

impl BudgetKeeper {
    /// # Errors
    /// The file in `directory` cannot be read: nobody may spend what may have been spent already.
    pub fn start(directory: &Path, board: Arc<QuotaBoard>, log: Log) -> Result<Self, Trouble> {
        let file = Budgets::open(directory)?;
        let before = file.read()?.into_iter();
        let before =
            before.map(|used| ((used.line.into(), used.measure), (used.window, used.amount))).collect();
        let desk = Desk {
            board,
            file,
            before,
            watch: BudgetWatch::default(),
            names: HashMap::new(),
            trouble: None,
            log,
        };
        let desk = Arc::new(Mutex::new(desk));
        let (stop, stopped) = mpsc::channel::<()>();
        let shared = desk.clone();
        let run = move || {
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(BUDGETS_INTERVAL) {
                lock(&shared).write();
            }
            lock(&shared).write();
        };
        let spawned = thread::Builder::new().name("rw-budgets".to_owned()).spawn(run);
        let thread =
            spawned.map_err(|error: io::Error| Trouble(format!("cannot start a thread: {error}")))?;
        Ok(Self { desk, stop: Some(stop), thread: Some(thread) })
    }

    /// Keeps exactly these from now on. Those that were used before this process began are restored, so this comes before
    /// any core can draw from them.
    pub fn keep(&self, budgets: &[Kept]) {
        let mut desk = lock(&self.desk);
        for Kept { line, measure, name } in budgets {
            if let Some((window, used)) = desk.before.remove(&(name.clone(), *measure)) {
                desk.board.restore(*line, *measure, window, used);
            }
        }
        desk.names = budgets.iter().map(|kept| (kept.line, kept.name.clone())).collect();
        desk.watch.watch(budgets.iter().map(|kept| (kept.line, kept.measure)));
    }
}

impl Desk {
    /// Writes what has changed. What could not be written is tried again with the next change of the same budget.
    fn write(&mut self) {
        let Self { board, file, watch, names, trouble, log, .. } = self;
        let changed: Vec<_> = watch
            .changed(board)
            .filter_map(|balance| {
                Some((&**names.get(&balance.line)?, balance.measure, balance.window, balance.used))
            })
            .collect();
        if changed.is_empty() {
            return;
        }
        match file.write(changed) {
            Ok(()) => *trouble = None,
            Err(said) => {
                if trouble.as_ref() != Some(&said) {
                    log.error(format_args!("budgets are not written down: {said}"));
                }
                *trouble = Some(said);
                // Everything is new again, so that nothing stays unwritten.
                let all: Vec<_> = watch.watched().collect();
                *watch = BudgetWatch::default();
                watch.watch(all);
            }
        }
    }
}

impl Drop for BudgetKeeper {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::state::tests::Scratch, *};
    use crate::{base::ids::LineRoll, policy::quota::Quota};

    #[test]
    fn what_was_drawn_is_there_after_a_restart() {
        let scratch = Scratch::new();
        std::fs::create_dir(&scratch.0).expect("a temporary directory");
        let measure = Measure::BudgetTokensDay;
        let draw = |amount| {
            let board = Arc::new(QuotaBoard::with_room(8, 1));
            let mut roll = LineRoll::default();
            // Another order: lines are this process's own, names are for ever.
            let lines = ["caller/b", "caller/a"].map(|name| roll.enrol(name).expect("room"));
            let keeper = BudgetKeeper::start(&scratch.0, board.clone(), Log::stderr()).expect("a good file");
            let kept = |line, name: &str| Kept { line, measure, name: name.into() };
            keeper.keep(&[kept(lines[0], "caller/b"), kept(lines[1], "caller/a")]);
            board.draw(lines[1], measure, Window(9), 1_000, amount)
        };
        assert_eq!(draw(400), Some(600));
        assert_eq!(draw(500), Some(100));
        assert_eq!(draw(200), None);
        assert_eq!(draw(100), Some(0));
    }
}
