//! All sheets of all cores, merged: totals since the process started.

use crate::ledger::sheet::Sheet;

/// The totals. They only grow.
#[derive(Debug, Default)]
pub struct Book {
    totals: Sheet,
    sheets: u64,
}

impl Book {
    pub fn merge(&mut self, sheet: &Sheet) {
        self.totals.merge(sheet);
        self.sheets += 1;
    }

    pub fn totals(&self) -> &Sheet {
        &self.totals
    }

    /// How many sheets are in it.
    pub fn sheets(&self) -> u64 {
        self.sheets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_only_grow() {
        let (mut book, mut sheet) = (Book::default(), Sheet::default());
        sheet.accepted = 2;
        book.merge(&sheet);
        book.merge(&Sheet::default());
        book.merge(&sheet);
        assert_eq!((book.totals().accepted, book.sheets()), (4, 3));
    }
}
