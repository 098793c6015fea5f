//! Figures by what they are told apart by: endpoint, provider, model, caller, class of status. A table that cannot grow
//! without bound and never loses a count: what finds no row is counted in the row of all others.
//!
//! A client may name any model that a provider might have. What did not end well finds a new row only while half of them
//! are free, so that invented names cannot take the rows of true ones.

use std::hash::{BuildHasher, RandomState};

use crate::{
    base::{ids::ProviderId, limits::LABEL_SETS_MAX},
    ledger::{
        figures::{Figures, Sum},
        record::{ModelName, Outcome, Record},
    },
    wire::token::TokenId,
};

/// What a series is told apart by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labels {
    /// `chat`, or `other` in the row of all others.
    pub operation: &'static str,
    /// Whom the last attempt went to, and as which model; nobody if there was none.
    pub provider: Option<ProviderId>,
    pub model: ModelName,
    pub caller: Option<TokenId>,
    pub class: Class,
}

impl Labels {
    /// The row of all others.
    fn other() -> Self {
        Self {
            operation: "other",
            provider: None,
            model: ModelName::from("other"),
            caller: None,
            class: Class(0),
        }
    }
}

/// The class of the status that the client was sent: its first digit, or zero for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Class(u8);

impl Class {
    pub fn of(status: u16) -> Self {
        Self(u8::try_from(status / 100).ok().filter(|digit| *digit <= 5).unwrap_or(0))
    }

    pub fn name(self) -> &'static str {
        ["none", "1xx", "2xx", "3xx", "4xx", "5xx"][usize::from(self.0.min(5))]
    }

    pub fn is_error(self) -> bool {
        !matches!(self.0, 1..=3)
    }
}

/// One row.
#[derive(Clone, Debug)]
pub struct Series {
    pub labels: Labels,
    pub figures: Figures,
    hash: u64,
}

/// Rows by their labels. Invariant: no labels twice, at most [`LABEL_SETS_MAX`] rows; the first is that of all others.
#[derive(Clone, Debug)]
pub struct SeriesTable {
    #[expect(clippy::vec_box, reason = "a row has 2 KiB, and a new one makes the list move")]
    rows: Vec<Box<Series>>,
    /// Where a row lies, and one, from where its hash points to on; zero: nowhere.
    slots: Box<[u16; SLOTS]>,
    seed: Seed,
}

/// What nobody outside knows, so that nobody can find names that fall together.
type Seed = [u64; 2];

/// Twice as many as rows, so that a row is found within a few.
const SLOTS: usize = LABEL_SETS_MAX * 2;
const _: () = assert!(SLOTS.is_power_of_two() && LABEL_SETS_MAX < u16::MAX as usize);

impl SeriesTable {
    pub fn new() -> Self {
        let mut table = Self {
            rows: Vec::new(),
            slots: Box::new([0; SLOTS]),
            seed: [0, 1].map(|half| RandomState::new().hash_one(half)),
        };
        table.begin();
        table
    }

    /// Counts an exchange that has ended.
    pub(super) fn count(&mut self, record: &Record, outcome: Outcome) {
        let (operation, provider, caller) = (record.operation, record.provider, record.caller);
        // What no attempt was made for has no model: a client could name anything.
        let nobodys = ModelName::default();
        let model = if provider.is_some() { &record.model_used } else { &nobodys };
        let key = Key { operation, provider, model, caller, class: Class::of(record.status) };
        self.row(&key).count(record, outcome);
    }

    pub fn merge(&mut self, other: &Self) {
        for row in other.iter() {
            self.row(&Key::of(&row.labels)).merge(&row.figures);
        }
    }

    /// Forgets the counts. Rows stay while they are few, so that the next interval allocates none.
    pub fn clear(&mut self) {
        if self.rows.len() > LABEL_SETS_MAX / 2 {
            let rows = std::mem::take(&mut self.rows);
            self.slots.fill(0);
            self.begin();
            let used = rows.into_iter().skip(1).filter(|row| row.figures.of(Sum::Requests) > 0);
            used.take(LABEL_SETS_MAX / 2).for_each(|row| self.insert(row));
        }
        self.rows.iter_mut().for_each(|row| row.figures.clear());
    }

    /// Every row in which something was counted.
    pub fn iter(&self) -> impl Iterator<Item = &Series> {
        self.rows.iter().map(|row| &**row).filter(|row| row.figures.of(Sum::Requests) > 0)
    }

    /// Adds the row of all others to a table without rows.
    fn begin(&mut self) {
        let labels = Labels::other();
        let hash = Key::of(&labels).hash(self.seed);
        self.insert(Box::new(Series { labels, figures: Figures::default(), hash }));
    }

    /// The figures of the row with these labels, made if there is room.
    fn row(&mut self, key: &Key<'_>) -> &mut Figures {
        let hash = key.hash(self.seed);
        let mut index = 0;
        match self.find(hash, key) {
            Some(found) => index = found,
            None => {
                let room = if key.class.is_error() { LABEL_SETS_MAX / 2 } else { LABEL_SETS_MAX };
                if self.rows.len() < room {
                    index = self.rows.len();
                    self.insert(Box::new(Series { labels: key.labels(), figures: Figures::default(), hash }));
                }
            }
        }
        &mut self.rows[index].figures
    }

    fn find(&self, hash: u64, key: &Key<'_>) -> Option<usize> {
        let mut slot = place(hash);
        // Half of the slots are free, so this ends.
        while let Some(index) = usize::from(self.slots[slot]).checked_sub(1) {
            let row = &self.rows[index];
            if row.hash == hash && key.is(&row.labels) {
                return Some(index);
            }
            slot = (slot + 1) % SLOTS;
        }
        None
    }

    /// Adds a row whose labels have none.
    fn insert(&mut self, row: Box<Series>) {
        let mut slot = place(row.hash);
        while self.slots[slot] != 0 {
            slot = (slot + 1) % SLOTS;
        }
        self.rows.push(row);
        self.slots[slot] = u16::try_from(self.rows.len()).unwrap_or(0);
    }
}

impl Default for SeriesTable {
    fn default() -> Self {
        Self::new()
    }
}

/// Rows in which nothing was counted, and the order in which they came, are nobody's business.
impl PartialEq for SeriesTable {
    fn eq(&self, other: &Self) -> bool {
        let same = |row: &Series| {
            let twin = other.find(Key::of(&row.labels).hash(other.seed), &Key::of(&row.labels));
            twin.is_some_and(|twin| other.rows[twin].figures == row.figures)
        };
        self.iter().count() == other.iter().count() && self.iter().all(same)
    }
}

/// Labels by reference, so that a row is found without making any.
#[derive(Clone, Copy)]
struct Key<'a> {
    operation: &'static str,
    provider: Option<ProviderId>,
    model: &'a ModelName,
    caller: Option<TokenId>,
    class: Class,
}

impl<'a> Key<'a> {
    fn of(labels: &'a Labels) -> Self {
        let Labels { operation, provider, model, caller, class } = labels;
        Self { operation, provider: *provider, model, caller: *caller, class: *class }
    }

    fn is(&self, labels: &Labels) -> bool {
        self.provider == labels.provider
            && self.class == labels.class
            && self.caller == labels.caller
            && *self.model == labels.model
            // One of a few fixed words, which is nearly always the same one in memory, too.
            && (std::ptr::eq(self.operation, labels.operation) || self.operation == labels.operation)
    }

    fn labels(&self) -> Labels {
        let Self { operation, provider, model, caller, class } = *self;
        Labels { operation, provider, model: model.clone(), caller, class }
    }

    /// The operation takes part by its length alone: there are few, and mostly one of them for a model.
    fn hash(&self, seed: Seed) -> u64 {
        let provider = self.provider.map_or(u64::MAX, |id| u64::from(id.0));
        let rest = provider << 16 ^ (self.operation.len() as u64) << 8 ^ u64::from(self.class.0);
        // Two chains that do not wait for each other.
        let caller = match &self.caller {
            Some(caller) => pair(caller.as_bytes(), rest, seed),
            None => fold(rest ^ seed[0], seed[1]),
        };
        let model = text(self.model.as_bytes(), seed);
        fold(caller ^ seed[1], model ^ seed[0])
    }
}

/// Sixteen bytes at a time; the last sixteen may be partly those before them. The length keeps apart what is then alike.
fn text(bytes: &[u8], seed: Seed) -> u64 {
    let mut hash = bytes.len() as u64;
    let (pairs, rest) = bytes.as_chunks::<16>();
    for bytes in pairs {
        hash = pair(bytes, hash, seed);
    }
    match (rest, bytes.last_chunk::<16>()) {
        ([], _) => hash,
        (_, Some(last)) => pair(last, hash, seed),
        (short, None) => {
            let mut last = [0; 16];
            last.iter_mut().zip(short).for_each(|(last, byte)| *last = *byte);
            pair(&last, hash, seed)
        }
    }
}

fn pair(bytes: &[u8; 16], before: u64, [left, right]: Seed) -> u64 {
    let word = u128::from_le_bytes(*bytes);
    let (low, high) = halves(word);
    fold(low ^ left, high ^ right ^ before)
}

/// Spreads every bit of both upward and back.
fn fold(left: u64, right: u64) -> u64 {
    let (low, high) = halves(u128::from(left) * u128::from(right));
    low ^ high
}

fn halves(wide: u128) -> (u64, u64) {
    #[expect(clippy::cast_possible_truncation, reason = "the low half is what is wanted")]
    (wide as u64, (wide >> 64) as u64)
}

fn place(hash: u64) -> usize {
    usize::try_from(hash % SLOTS as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        base::now::Now,
        ledger::{
            figures::tests::{Event, event},
            sheet::Sheet,
        },
    };

    fn table(exchanges: &[(u16, String, Event)]) -> SeriesTable {
        let mut sheet = Sheet::default();
        for (provider, model, event) in exchanges {
            let mut record = event.record();
            record.provider = Some(ProviderId(*provider));
            record.model_used = ModelName::from(&**model);
            record.caller = (provider % 2 == 0).then(|| TokenId::draw(&[7; 10]));
            record.close(Now(u64::from(event.ran_us) * 1_000), event.outcome, &mut sheet);
        }
        sheet.series
    }

    fn exchanges() -> impl Strategy<Value = Vec<(u16, String, Event)>> {
        prop::collection::vec((0..5_u16, "[a-c]{0,2}", event()), 0..60)
    }

    fn requests(table: &SeriesTable) -> u64 {
        table.iter().map(|row| row.figures.of(Sum::Requests)).sum()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_is_merged_in_any_order_is_what_was_counted_at_once(a in exchanges(), b in exchanges(), c in exchanges()) {
            let whole = table(&[a.clone(), b.clone(), c.clone()].concat());
            let (a, b, c) = (table(&a), table(&b), table(&c));
            let merged = |parts: &[&SeriesTable]| {
                let mut sum = SeriesTable::new();
                parts.iter().for_each(|part| sum.merge(part));
                sum
            };
            prop_assert!(merged(&[&a, &b, &c]) == whole);
            prop_assert!(merged(&[&c, &a, &b]) == whole);
            prop_assert!(merged(&[&a, &merged(&[&b, &c])]) == whole);
        }
    }

    fn one(number: usize, status: u16) -> (u16, String, Event) {
        let event = Event { status, ran_us: 5, prompt: None, outcome: Outcome::Completed };
        (1, format!("model-{number}"), event)
    }

    #[test]
    fn a_full_table_counts_the_rest_as_other_and_loses_nothing() {
        let many: Vec<_> = (0..3 * LABEL_SETS_MAX).map(|number| one(number, 200)).collect();
        let full = table(&many);
        assert_eq!(full.rows.len(), LABEL_SETS_MAX);
        assert_eq!(requests(&full), many.len() as u64);
        assert_eq!(full.rows[0].figures.of(Sum::Requests), 2 * LABEL_SETS_MAX as u64 + 1);
        let mut twice = full.clone();
        twice.merge(&full);
        assert_eq!((twice.rows.len(), requests(&twice)), (LABEL_SETS_MAX, 2 * many.len() as u64));
    }

    #[test]
    fn invented_names_leave_room_for_true_ones() {
        let invented: Vec<_> = (0..3 * LABEL_SETS_MAX).map(|number| one(number, 404)).collect();
        let mut both = table(&invented);
        assert_eq!(both.rows.len(), LABEL_SETS_MAX / 2);
        let mut good = one(9_999, 200);
        good.1 = "true".to_owned();
        both.merge(&table(&[good]));
        assert!(both.iter().any(|row| row.labels.model.as_str() == "true"));
    }

    #[test]
    fn a_cleared_table_equals_a_new_one_and_rows_of_long_ago_make_room() {
        let mut sheet = table(&(0..LABEL_SETS_MAX).map(|number| one(number, 200)).collect::<Vec<_>>());
        sheet.clear();
        assert!(sheet == SeriesTable::new());
        assert_eq!(sheet.rows.len(), LABEL_SETS_MAX / 2 + 1);
        sheet.clear();
        assert_eq!(sheet.rows.len(), 1);
        let few: Vec<_> = (0..10).map(|number| one(number, 200)).collect();
        sheet.merge(&table(&few));
        assert!(sheet == table(&few));
        sheet.clear();
        assert_eq!(sheet.rows.len(), 11, "kept: the next interval needs them again");
    }

    #[test]
    fn a_class_is_a_first_digit() {
        for (status, name, is_error) in [
            (0, "none", true),
            (101, "1xx", false),
            (204, "2xx", false),
            (302, "3xx", false),
            (429, "4xx", true),
            (599, "5xx", true),
            (600, "none", true),
        ] {
            assert_eq!((Class::of(status).name(), Class::of(status).is_error()), (name, is_error));
        }
    }
}
