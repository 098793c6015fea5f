//! Which budgets have changed since control last wrote them down.
//!
//! Cores leave no mark when they draw: the thread that keeps budgets over restarts reads those it knows and compares.

use crate::{
    base::ids::Line,
    bridge::quota::{QuotaBoard, budget::Used},
    config::allowance::Measure,
    policy::quota::Window,
};
use std::sync::atomic::Ordering::Relaxed;

/// What one budget has used in one window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Balance {
    pub line: Line,
    pub measure: Measure,
    /// As the slot keeps it: the low 16 bits of the window it was drawn in.
    pub window: Window,
    pub used: u64,
}

/// The budgets that control keeps, and what it has seen of each.
#[derive(Debug, Default)]
pub struct BudgetWatch {
    /// In the order of lines, so that a scan reads the board forwards.
    seen: Vec<(Line, Measure, u64)>,
}

impl BudgetWatch {
    /// Watches exactly `budgets`, from what was seen of those that were watched before; the others are new, and changed
    /// as soon as they have used anything.
    pub fn watch(&mut self, budgets: impl IntoIterator<Item = (Line, Measure)>) {
        let mut next: Vec<_> = budgets.into_iter().map(|(line, measure)| (line, measure, 0)).collect();
        next.sort_unstable();
        next.dedup();
        for (line, measure, word) in &mut next {
            let known =
                self.seen.binary_search_by_key(&(*line, *measure), |(line, measure, _)| (*line, *measure));
            *word = known.ok().and_then(|at| self.seen.get(at)).map_or(0, |(_, _, word)| *word);
        }
        self.seen = next;
    }

    /// The budgets that are watched.
    pub fn watched(&self) -> impl Iterator<Item = (Line, Measure)> {
        self.seen.iter().map(|(line, measure, _)| (*line, *measure))
    }

    /// The budgets that changed since the last call, each told once.
    pub fn changed(&mut self, board: &QuotaBoard) -> impl Iterator<Item = Balance> {
        self.seen.iter_mut().filter_map(|(line, measure, seen)| {
            let word = board.slot(*line, *measure).load(Relaxed);
            let is_new = word != *seen;
            *seen = word;
            let Used { window, amount: used } = Used::of(word);
            is_new.then_some(Balance { line: *line, measure: *measure, window: Window(window.into()), used })
        })
    }
}
