//! What a model's tokens cost, and the catalogue of it: one line of text a model, sorted, embedded as `prices.csv`.
//!
//! A price that is not known is absent, never zero: every look-up says `None` for it, and so does all that is computed
//! from it.

use std::{cmp::Ordering, collections::BTreeMap, fmt::Write, sync::Arc, sync::LazyLock};

use crate::base::{
    glob::Glob,
    limits::{PRICE_ROWS_MAX, PRICE_TIERS_MAX, PRICE_USD_MAX},
    money::NanoUsd,
};

/// What tokens cost, a million of each kind. What is `None` beside `output` costs what its kind does otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    pub input: NanoUsd,
    /// `None`: nothing is put out (embeddings).
    pub output: Option<NanoUsd>,
    /// Input that the provider had in its cache.
    pub cached: Option<NanoUsd>,
    /// Output that was thought and not shown.
    pub reasoning: Option<NanoUsd>,
    pub audio_input: Option<NanoUsd>,
    pub audio_output: Option<NanoUsd>,
}

/// Rates for requests whose input is longer than `above` tokens; they hold for all of such a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tier {
    pub above: u64,
    pub rates: Rates,
}

/// What one model costs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Price {
    pub rates: Rates,
    /// For work that may wait; nothing sends such work yet.
    pub batch: Option<Rates>,
    /// Ascending.
    pub tiers: Box<[Tier]>,
}

impl Price {
    /// What holds for an input of that length.
    pub fn rates_for(&self, input_tokens: u64) -> &Rates {
        let tier = self.tiers.iter().rev().find(|tier| input_tokens > tier.above);
        tier.map_or(&self.rates, |tier| &tier.rates)
    }
}

/// A model's name at its provider, and its price; of one provider, sorted by name.
pub type Row = (Box<str>, Price);

/// What is known of one provider's prices: what its operator says, then what the catalogue does.
#[derive(Clone, Debug, Default)]
pub struct PriceList {
    /// Sorted.
    pub(super) own: Vec<Row>,
    pub(super) patterns: Vec<(Glob, Price)>,
    pub(super) catalogue: Option<Arc<[Row]>>,
}

impl PriceList {
    /// The price of a model, by its name at the provider. Nothing is allocated.
    pub fn of(&self, model: &str) -> Option<&Price> {
        let own = find(&self.own, model);
        let fits = || self.patterns.iter().find(|(glob, _)| glob.matches(model)).map(|(_, price)| price);
        own.or_else(fits).or_else(|| find(self.catalogue.as_deref()?, model))
    }

    /// How many prices there are, a pattern counted as one.
    pub fn count(&self) -> usize {
        self.own.len() + self.patterns.len() + self.catalogue.as_ref().map_or(0, |rows| rows.len())
    }

    /// Whether its operator has named no price.
    pub(super) fn is_bare(&self) -> bool {
        self.own.is_empty() && self.patterns.is_empty()
    }
}

fn find<'a>(rows: &'a [Row], model: &str) -> Option<&'a Price> {
    let at = rows.binary_search_by(|(name, _)| (**name).cmp(model)).ok()?;
    rows.get(at).map(|(_, price)| price)
}

/// Prices by profile.
#[derive(Clone, Debug, Default)]
pub struct Catalogue {
    /// Where it comes from and when it was made, for people.
    pub source: String,
    by_profile: BTreeMap<String, Arc<[Row]>>,
}

const COLUMNS: &str = "model,input,output,cached,reasoning,audio_input,audio_output,batch_input,batch_output,batch_cached,tiers";

impl Catalogue {
    /// The one that comes with the program.
    pub fn built_in() -> &'static Self {
        static BUILT_IN: LazyLock<Catalogue> = LazyLock::new(|| {
            // A bug of ours if it fails, and found by any test that compiles a configuration.
            Catalogue::parse(include_str!("prices.csv")).expect("the embedded prices are valid")
        });
        &BUILT_IN
    }

    /// A catalogue of these rows; of equal names the last counts.
    pub fn new(source: String, rows: impl IntoIterator<Item = (String, String, Price)>) -> Self {
        let mut sorted: BTreeMap<String, BTreeMap<String, Price>> = BTreeMap::new();
        for (profile, model, price) in rows {
            sorted.entry(profile).or_default().insert(model, price);
        }
        let by_profile = sorted.into_iter().map(|(profile, models)| {
            let rows: Arc<[Row]> = models.into_iter().map(|(name, price)| (name.into(), price)).collect();
            (profile, rows)
        });
        Self { source, by_profile: by_profile.collect() }
    }

    pub fn of(&self, profile: &str) -> Option<Arc<[Row]>> {
        self.by_profile.get(profile).cloned()
    }

    /// Every profile with its models.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[Row])> {
        self.by_profile.iter().map(|(profile, rows)| (profile.as_str(), &**rows))
    }

    /// Reads the text that [`Catalogue::write`] makes.
    ///
    /// # Errors
    /// The number of the line that is wrong, from 1, and what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, (usize, &'static str)> {
        let mut source = String::new();
        let mut rows: Vec<(String, String, Price)> = Vec::new();
        let mut is_titled = false;
        for (index, line) in text.lines().enumerate() {
            let wrong = |why| (index + 1, why);
            if let Some(comment) = line.strip_prefix('#') {
                if let Some(said) = comment.trim().strip_prefix("source: ") {
                    source = said.to_owned();
                }
            } else if !is_titled {
                is_titled = line == COLUMNS;
                if !is_titled {
                    return Err(wrong("this is not the line of columns"));
                }
            } else {
                if rows.len() == PRICE_ROWS_MAX {
                    return Err(wrong("there are too many prices"));
                }
                let (name, price) = row(line).map_err(wrong)?;
                let (profile, model) = name.split_once('/').ok_or_else(|| wrong("this names no provider"))?;
                let order = rows.last().map(|(p, m, _)| (p.as_str(), m.as_str()).cmp(&(profile, model)));
                if order.is_some_and(|order| order != Ordering::Less) {
                    return Err(wrong("this is out of order, or stands here twice"));
                }
                rows.push((profile.to_owned(), model.to_owned(), price));
            }
        }
        if !is_titled {
            return Err((1, "there is nothing in it"));
        }
        Ok(Self::new(source, rows))
    }

    /// The catalogue as text, `notice` at its head, line by line.
    pub fn write(&self, notice: &str) -> String {
        let mut text = String::new();
        for line in notice.lines() {
            let _ = writeln!(text, "# {line}");
        }
        let _ = writeln!(text, "# source: {}\n{COLUMNS}", self.source);
        for (profile, rows) in self.iter() {
            for (model, price) in rows {
                let _ = write!(text, "{profile}/{model}");
                write_rates(&mut text, ',', &price.rates, 6);
                match &price.batch {
                    Some(batch) => write_rates(&mut text, ',', batch, 3),
                    None => text.push_str(",,,"),
                }
                text.push(',');
                for (index, tier) in price.tiers.iter().enumerate() {
                    let _ = write!(text, "{}{}", if index > 0 { ";" } else { "" }, tier.above);
                    write_rates(&mut text, ':', &tier.rates, 6);
                    text.truncate(text.trim_end_matches(':').len());
                }
                text.truncate(text.trim_end_matches(',').len());
                text.push('\n');
            }
        }
        text
    }
}

fn write_rates(text: &mut String, mark: char, rates: &Rates, count: usize) {
    let Rates { input, output, cached, reasoning, audio_input, audio_output } = *rates;
    for rate in [Some(input), output, cached, reasoning, audio_input, audio_output].into_iter().take(count) {
        text.push(mark);
        if let Some(rate) = rate {
            let _ = write!(text, "{rate}");
        }
    }
}

fn row(line: &str) -> Result<(&str, Price), &'static str> {
    let mut cells = line.split(',');
    let name = cells.next().unwrap_or_default();
    let is_plain = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
    if name.is_empty() || !name.bytes().all(is_plain) {
        return Err("this is not a model's name");
    }
    let cells: Vec<&str> = cells.collect();
    let cell = |index: usize| cells.get(index).copied().unwrap_or_default();
    if cells.len() > 10 {
        return Err("there are too many columns");
    }
    let rates = rates_of(&[cell(0), cell(1), cell(2), cell(3), cell(4), cell(5)])?;
    let rates = rates.ok_or("the price of input is missing")?;
    let batch = rates_of(&[cell(6), cell(7), cell(8)])?;
    let mut tiers: Vec<Tier> = Vec::new();
    for text in cell(9).split(';').filter(|text| !text.is_empty()) {
        let mut parts = text.split(':');
        let above = parts.next().and_then(|above| above.parse().ok()).ok_or("this tier has no length")?;
        let parts: Vec<&str> = parts.collect();
        if parts.len() > 6 || tiers.len() == PRICE_TIERS_MAX {
            return Err("this is too much for a tier");
        }
        if tiers.last().is_some_and(|last| last.above >= above) {
            return Err("tiers ascend");
        }
        tiers.push(Tier { above, rates: rates_of(&parts)?.ok_or("this tier has no price of input")? });
    }
    Ok((name, Price { rates, batch, tiers: tiers.into() }))
}

/// Rates from their cells, in the order of the columns; `None` where none is given at all.
fn rates_of(cells: &[&str]) -> Result<Option<Rates>, &'static str> {
    let mut found = [None; 6];
    for (place, cell) in found.iter_mut().zip(cells) {
        if !cell.is_empty() {
            *place = Some(rate(cell).ok_or("this is not a price")?);
        }
    }
    let [input, output, cached, reasoning, audio_input, audio_output] = found;
    match input {
        Some(input) => Ok(Some(Rates { input, output, cached, reasoning, audio_input, audio_output })),
        None if found == [None; 6] => Ok(None),
        None => Err("the price of input is missing"),
    }
}

/// A price of a million tokens in decimal dollars, within bounds.
pub fn rate(text: &str) -> Option<NanoUsd> {
    NanoUsd::parse(text).filter(|rate| rate.0 <= PRICE_USD_MAX * 1_000_000_000)
}

/// A catalogue is read or refused with a place, and what was read is what is written.
#[cfg(any(test, feature = "fuzzing"))]
pub fn fuzz_catalogue(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Catalogue::parse(text) {
        Ok(read) => {
            let again = Catalogue::parse(&read.write("")).expect("what is written can be read");
            assert!(again.iter().eq(read.iter()), "{text}");
        }
        Err((line, _)) => assert!((1..=text.lines().count().max(1)).contains(&line)),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::profiles, *};

    const HEAD: &str = "# source: a test\n";

    fn usd(text: &str) -> NanoUsd {
        rate(text).expect("a price")
    }

    #[track_caller]
    fn check(rows: &str, expect: Result<usize, (usize, &str)>) {
        let read = Catalogue::parse(&format!("{HEAD}{COLUMNS}\n{rows}"));
        let count = read.map(|catalogue| catalogue.iter().map(|(_, rows)| rows.len()).sum());
        assert_eq!(count, expect, "{rows}");
    }

    #[test]
    fn the_embedded_catalogue_is_small_knows_profiles_only_and_says_where_it_is_from() {
        let text = include_str!("prices.csv");
        assert!(text.len() < 150_000, "{} bytes", text.len());
        assert!(text.contains("MIT") && text.contains("Copyright"), "its licence is told");
        let catalogue = Catalogue::built_in();
        assert!(!catalogue.source.is_empty());
        assert!(catalogue.iter().all(|(profile, _)| profiles::all().contains_key(profile)));
        assert!(catalogue.iter().flat_map(|(_, rows)| rows).count() > 1_000);
        for (_, rows) in catalogue.iter() {
            assert!(rows.is_sorted_by(|a, b| a.0 < b.0));
            for (name, Price { rates, .. }) in rows {
                let is_free = rates.input.0 == 0 && rates.output.is_none_or(|output| output.0 == 0);
                assert!(!is_free, "{name} is not known, not free");
            }
        }
    }

    #[test]
    fn prices_that_anyone_can_look_up_are_right() {
        let of = |profile: &str, model: &str| {
            let rows = Catalogue::built_in().of(profile).expect("a profile with prices");
            find(&rows, model).unwrap_or_else(|| panic!("{profile}/{model}")).clone()
        };
        let gpt_4o = of("openai", "gpt-4o");
        assert_eq!((gpt_4o.rates.input, gpt_4o.rates.output), (usd("2.5"), Some(usd("10"))));
        assert_eq!(gpt_4o.rates.cached, Some(usd("1.25")));
        assert_eq!(gpt_4o.batch.map(|batch| batch.input), Some(usd("1.25")));
        assert_eq!(of("openai", "text-embedding-3-small").rates.input, usd("0.02"));
        let gemini = of("gemini", "gemini-2.5-pro");
        assert_eq!(gemini.rates_for(200_000).input, usd("1.25"));
        assert_eq!(gemini.rates_for(200_001).input, usd("2.5"));
        assert_eq!(gemini.rates_for(200_001).output, Some(usd("15")));
        let qwen = of("qwen", "qwen3-max");
        assert_eq!(
            [0, 32_000, 32_001, 128_001].map(|input| qwen.rates_for(input).input),
            [usd("1.2"), usd("1.2"), usd("2.4"), usd("3")]
        );
    }

    #[test]
    fn what_is_read_is_what_is_written() {
        let text = Catalogue::built_in().write("a notice\nof two lines");
        let again = Catalogue::parse(&text).expect("good");
        assert!(again.iter().eq(Catalogue::built_in().iter()));
        assert_eq!(again.write("a notice\nof two lines"), text);
        check("a/b,1,2,3,4,5,6,7,8,9,10:1:2;20:3\na/c,1\n", Ok(2));
    }

    #[test]
    fn what_is_wrong_is_refused_with_its_line() {
        for (rows, line, why) in [
            ("a,1\n", 3, "this names no provider"),
            ("a/b\n", 3, "the price of input is missing"),
            ("a/b,,2\n", 3, "the price of input is missing"),
            ("a/b,1\na/b,1\n", 4, "this is out of order, or stands here twice"),
            ("a/b,-1\n", 3, "this is not a price"),
            ("a/b,1e3\n", 3, "this is not a price"),
            ("a/b,10001\n", 3, "this is not a price"),
            (",1\n", 3, "this is not a model's name"),
            ("a/ b,1\n", 3, "this is not a model's name"),
            ("a/b,1,,,,,,,,,,\n", 3, "there are too many columns"),
            ("a/b,1,,,,,,,2\n", 3, "the price of input is missing"),
            ("a/b,1,,,,,,,,,9:1;9:2\n", 3, "tiers ascend"),
            ("a/b,1,,,,,,,,,x:1\n", 3, "this tier has no length"),
            ("a/b,1,,,,,,,,,9\n", 3, "this tier has no price of input"),
            ("\n", 3, "this is not a model's name"),
        ] {
            check(rows, Err((line, why)));
        }
        assert_eq!(Catalogue::parse("").err(), Some((1, "there is nothing in it")));
        assert_eq!(Catalogue::parse("a/b,1\n").err(), Some((1, "this is not the line of columns")));
    }

    #[test]
    fn what_the_operator_says_stands_above_the_catalogue() {
        let price =
            |text: &str| Price { rates: Rates { input: usd(text), ..Rates::default() }, ..Price::default() };
        let rows = |rows: &[(&str, &str)]| -> Vec<Row> {
            rows.iter().map(|(name, text)| ((*name).into(), price(text))).collect()
        };
        let list = PriceList {
            own: rows(&[("b", "1")]),
            patterns: vec![(Glob::new("b*"), price("2"))],
            catalogue: Some(rows(&[("a", "3"), ("b", "4"), ("bc", "5")]).into()),
        };
        let found =
            ["a", "b", "bc", "c", ""].map(|model| list.of(model).map(|price| price.rates.input.to_string()));
        assert_eq!(found.each_ref().map(Option::as_deref), [Some("3"), Some("1"), Some("2"), None, None]);
    }

    #[test]
    fn mutated_catalogues_never_panic() {
        let seed = format!("{HEAD}{COLUMNS}\na/b,1,2,3,4,5,6,7,8,9,10:1:2;20:3\na/c,1\nz/x:1,0.5,,0.1\n");
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..4_000 {
            let mut bytes = seed.clone().into_bytes();
            for _ in 0..3 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let at = usize::try_from(state >> 33).expect("31 bits") % bytes.len();
                bytes[at] = b"0,:;/#.\nax9-"[usize::try_from(state >> 20 & 0xff).expect("8 bits") % 12];
            }
            fuzz_catalogue(&bytes);
        }
    }
}
