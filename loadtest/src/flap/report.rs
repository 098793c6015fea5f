//! What a run came to: figures, those that have a bound among them.

use serde_json::{Value, json};

/// What a figure must keep to.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Bound {
    None,
    AtLeast(f64),
    AtMost(f64),
}

/// One figure.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    name: &'static str,
    value: f64,
    bound: Bound,
}

/// All figures of a run, in the order in which they came.
#[derive(Clone, Debug, Default)]
pub struct Report {
    figures: Vec<Figure>,
    /// A few of the requests that failed.
    pub failures: Vec<String>,
}

impl Figure {
    /// Whether its bound is kept.
    pub fn is_kept(&self) -> bool {
        match self.bound {
            Bound::None => true,
            Bound::AtLeast(least) => self.value >= least,
            Bound::AtMost(most) => self.value <= most,
        }
    }
}

impl Report {
    pub(super) fn note(&mut self, name: &'static str, value: f64) {
        self.figures.push(Figure { name, value, bound: Bound::None });
    }

    pub(super) fn at_least(&mut self, name: &'static str, value: f64, least: f64) {
        self.figures.push(Figure { name, value, bound: Bound::AtLeast(least) });
    }

    pub(super) fn at_most(&mut self, name: &'static str, value: f64, most: f64) {
        self.figures.push(Figure { name, value, bound: Bound::AtMost(most) });
    }

    /// Whether every bound is kept.
    pub fn is_kept(&self) -> bool {
        self.figures.iter().all(Figure::is_kept)
    }

    /// A line for each figure.
    pub fn to_text(&self) -> String {
        let line = |figure: &Figure| {
            let bound = match figure.bound {
                Bound::None => String::new(),
                Bound::AtLeast(least) => format!("at least {least}"),
                Bound::AtMost(most) => format!("at most {most}"),
            };
            let missed = if figure.is_kept() { "" } else { "  MISSED" };
            format!("{:<42} {:>10.3}  {bound}{missed}\n", figure.name, figure.value)
        };
        let failures = self.failures.iter().map(|failure| format!("failed: {failure}\n"));
        self.figures.iter().map(line).chain(failures).collect()
    }

    /// One object.
    pub fn to_json(&self) -> Value {
        let figures = self.figures.iter().map(|figure| {
            let (least, most) = match figure.bound {
                Bound::None => (None, None),
                Bound::AtLeast(least) => (Some(least), None),
                Bound::AtMost(most) => (None, Some(most)),
            };
            let kept = figure.is_kept();
            json!({"name": figure.name, "value": figure.value, "least": least, "most": most, "kept": kept})
        });
        json!({"kept": self.is_kept(), "figures": figures.collect::<Value>(), "failures": self.failures})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bound_that_is_missed_is_a_run_that_is_missed() {
        let mut report = Report::default();
        report.note("a", 1.0);
        report.at_least("b", 1.0, 1.0);
        report.at_most("c", 1.0, 1.0);
        assert!(report.is_kept() && !report.to_text().contains("MISSED"));
        report.at_most("d", f64::INFINITY, 1.0);
        assert!(!report.is_kept() && report.to_text().contains("MISSED"));
        assert_eq!(report.to_json()["figures"][3]["kept"], false);
    }
}
