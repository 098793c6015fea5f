//! What models cost: the catalogue, and the `[[price]]` tables that stand above it, joined into each provider's list.

use std::{
    borrow::Cow,
    io,
    path::{Path, PathBuf},
};

use super::{
    price::{Catalogue, Price, Rates, Tier},
    quotas::Quotas,
    raw::{Field, Table, Text},
    snapshot::Provider,
};
use crate::base::{
    glob::Glob,
    limits::{PRICE_PATTERNS_MAX, PRICE_ROWS_MAX, PRICE_TIERS_MAX, PRICE_USD_MAX},
    money::NanoUsd,
};

/// What an imported catalogue is called in the state directory.
pub const IMPORTED: &str = "prices.csv";

/// Reads `[prices]` and every `[[price]]`, and gives each provider the list that is its own. What is returned is the
/// catalogue in force.
pub(super) fn prices(
    root: &mut Table<'_>,
    state: Option<&Path>,
    providers: &mut [Provider],
) -> Cow<'static, Catalogue> {
    let catalogue = catalogue(root, state);
    for provider in &mut *providers {
        provider.prices.catalogue = provider.profile.as_deref().and_then(|profile| catalogue.of(profile));
    }
    let tables = root.tables("price");
    if tables.len() > PRICE_ROWS_MAX {
        root.complain("there are too many prices", format!("at most {PRICE_ROWS_MAX} are possible"));
    }
    for mut table in tables.into_iter().take(PRICE_ROWS_MAX).flatten() {
        let model = table.get("model").map(Field::text);
        if model.is_none() {
            table.complain("it is not said which model costs this", "model = \"openai/gpt-4o\"");
        }
        let rates = rates(&mut table);
        let tiers = tiers(&mut table);
        if let (Some(Some(model)), Some(rates)) = (model, rates) {
            add(&model, Price { rates, batch: None, tiers: tiers.into() }, providers);
        }
        table.close();
    }
    catalogue
}

/// Warns where money is limited and a model that is configured has no price: what it costs is not counted.
pub(super) fn warn_of_unknown(root: &Table<'_>, quotas: &Quotas, providers: &[Provider]) {
    if !quotas.has_money() {
        return;
    }
    let unpriced = providers.iter().flat_map(|provider| {
        let models = provider.models.iter().filter(|model| provider.prices.of(model).is_none());
        models.map(|model| format!("{}/{model}", provider.name))
    });
    let mut names: Vec<String> = unpriced.collect();
    let empty = |provider: &&Provider| {
        provider.models.is_empty() && provider.prices.catalogue.is_none() && provider.prices.is_bare()
    };
    names.extend(providers.iter().filter(empty).map(|provider| format!("{}/*", provider.name)));
    if !names.is_empty() {
        let more = if names.len() > 3 { format!(" and {} more", names.len() - 3) } else { String::new() };
        names.truncate(3);
        root.warn(
            format!("a budget in dollars does not count what has no price: {}{more}", names.join(", ")),
            "[[price]]\n          model = \"…\"   (`ringway prices check` names them all)",
        );
    }
}

fn catalogue(root: &mut Table<'_>, state: Option<&Path>) -> Cow<'static, Catalogue> {
    let built_in = Cow::Borrowed(Catalogue::built_in());
    let around = root.around();
    let named = root.table("prices").and_then(|mut table| {
        let file = table.get("file").and_then(Field::text);
        table.close();
        file
    });
    if let Some(text) = named {
        let read = read(around.read(Path::new(text.value.as_str())));
        return read.map(Cow::Owned).unwrap_or_else(|why| {
            text.complain(format!("these prices cannot be used: {why}"), "ringway prices import");
            built_in
        });
    }
    let Some(path) = state.map(imported) else { return built_in };
    let bytes = around.read(&path);
    if bytes.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return built_in;
    }
    read(bytes).map(Cow::Owned).unwrap_or_else(|why| {
        let path = path.display();
        root.warn(
            format!("{path} is not used: {why}"),
            "ringway prices import, or remove it: the built-in prices hold",
        );
        built_in
    })
}

/// Where an imported catalogue lies.
pub fn imported(state: &Path) -> PathBuf {
    state.join(IMPORTED)
}

fn read(bytes: io::Result<Vec<u8>>) -> Result<Catalogue, String> {
    let bytes = bytes.map_err(|error| error.to_string())?;
    let text = std::str::from_utf8(&bytes).map_err(|_| "it is not UTF-8".to_owned())?;
    Catalogue::parse(text).map_err(|(line, why)| format!("line {line}: {why}"))
}

/// One table's rates; nothing if any is wrong.
fn rates(table: &mut Table<'_>) -> Option<Rates> {
    let mut is_good = true;
    let mut rate = |key| {
        let field = table.get(key)?;
        let rate = field.usd(NanoUsd(0), NanoUsd(PRICE_USD_MAX * 1_000_000_000));
        is_good &= rate.is_some();
        rate
    };
    let input = rate("input_per_million_usd");
    let rates = Rates {
        input: input.unwrap_or_default(),
        output: rate("output_per_million_usd"),
        cached: rate("cached_input_per_million_usd"),
        reasoning: rate("reasoning_per_million_usd"),
        audio_input: rate("audio_input_per_million_usd"),
        audio_output: rate("audio_output_per_million_usd"),
    };
    if input.is_none() && is_good {
        table.complain("the price of input is missing", "input_per_million_usd = 2.5");
        return None;
    }
    is_good.then_some(rates)
}

fn tiers(table: &mut Table<'_>) -> Vec<Tier> {
    let tables = table.tables("tiers");
    if tables.len() > PRICE_TIERS_MAX {
        table.complain("there are too many tiers", format!("at most {PRICE_TIERS_MAX} are possible"));
    }
    let mut tiers: Vec<Tier> = Vec::new();
    for mut tier in tables.into_iter().take(PRICE_TIERS_MAX).flatten() {
        let field = tier.get("above");
        if field.is_none() {
            tier.complain("it is not said from which length on this holds", "above = 200_000");
        }
        let above = field.and_then(|field| field.count(1..=1 << 30)).map(|above| above as u64);
        let rates = rates(&mut tier);
        if let (Some(above), Some(rates)) = (above, rates) {
            if tiers.last().is_some_and(|last| last.above >= above) {
                tier.complain(
                    "this does not hold for longer input than the tier before it",
                    "let `above` ascend",
                );
            }
            tiers.push(Tier { above, rates });
        }
        tier.close();
    }
    tiers
}

/// Gives a price to the provider that the model's name begins with.
fn add(text: &Text<'_>, price: Price, providers: &mut [Provider]) {
    let found = text.value.split_once('/').filter(|(_, model)| !model.is_empty());
    let Some((name, model)) = found else {
        text.complain(format!("{} is not a model of a provider", text.quoted()), "model = \"openai/gpt-4o\"");
        return;
    };
    let Some(provider) = providers.iter_mut().find(|provider| *provider.name == *name) else {
        text.complain(
            "no provider of that name is configured",
            "write the provider's `name` before the slash",
        );
        return;
    };
    let list = &mut provider.prices;
    if model.contains('*') {
        if list.patterns.len() == PRICE_PATTERNS_MAX {
            text.complain(
                "there are too many patterns for one provider",
                format!("at most {PRICE_PATTERNS_MAX} are possible"),
            );
            return;
        }
        list.patterns.push((Glob::new(model), price));
        return;
    }
    match list.own.binary_search_by(|(known, _)| (**known).cmp(model)) {
        Ok(_) => text.complain("this model has a price already", "write one table for each model"),
        Err(place) => list.own.insert(place, (model.into(), price)),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            Fake, compile,
            tests::{check, compiled},
        },
        *,
    };

    const OPENAI: &str = "[[provider]]\nname = \"openai\"\n";
    const LOCAL: &str = "[[provider]]\nname = \"local\"\nbase_url = \"http://127.0.0.1:1\"\n";

    #[track_caller]
    fn input(text: &str, model: &str, expect: Option<&str>) {
        let loaded = compiled(&format!("{OPENAI}{LOCAL}{text}"));
        let (name, model) = model.split_once('/').expect("a provider's");
        let (_, provider) = loaded.snapshot.provider(name).expect("there");
        let found = provider.prices.of(model).map(|price| price.rates.input.to_string());
        assert_eq!(found.as_deref(), expect);
    }

    #[test]
    fn a_price_of_ones_own_stands_above_the_catalogue() {
        let price = |model: &str, usd: &str| {
            format!("[[price]]\nmodel = \"{model}\"\ninput_per_million_usd = {usd}\n")
        };
        input("", "openai/gpt-4o", Some("2.5"));
        input("", "openai/not-there", None);
        input("", "local/gpt-4o", None);
        input(&price("openai/gpt-4o", "1"), "openai/gpt-4o", Some("1"));
        input(&price("openai/gpt-4o", "0.000000001"), "openai/gpt-4o", Some("0.000000001"));
        input(&price("local/*", "0"), "local/a/b", Some("0"));
        input(&(price("local/a*", "0.25") + &price("local/ab", "3")), "local/ab", Some("3"));
    }

    #[test]
    fn every_rate_arrives() {
        let text = format!(
            "{LOCAL}[[price]]\nmodel = \"local/m\"\ninput_per_million_usd = 1\noutput_per_million_usd = 2.5\n\
             cached_input_per_million_usd = 0.1\nreasoning_per_million_usd = 3\naudio_input_per_million_usd = 4\n\
             audio_output_per_million_usd = 5\ntiers = [{{ above = 10, input_per_million_usd = 6 }}]\n"
        );
        let loaded = compiled(&text);
        let price = loaded.snapshot.provider("local").and_then(|(_, local)| local.prices.of("m").cloned());
        let usd = |text| NanoUsd::parse(text);
        let rates = Rates {
            input: usd("1").expect("a price"),
            output: usd("2.5"),
            cached: usd("0.1"),
            reasoning: usd("3"),
            audio_input: usd("4"),
            audio_output: usd("5"),
        };
        let dearer = Rates { input: usd("6").expect("a price"), ..Rates::default() };
        let tiers = [Tier { above: 10, rates: dearer }].into();
        assert_eq!(price, Some(Price { rates, batch: None, tiers }));
    }

    #[test]
    fn what_makes_no_sense_is_complained_of() {
        let complains = |table: &str, expect: &[&str]| check(&format!("[[price]]\n{table}\n{LOCAL}"), expect);
        complains("input_per_million_usd = 1", &["1:1 price[0]: it is not said which model costs this"]);
        complains("model = \"local/a\"", &["1:1 price[0]: the price of input is missing"]);
        complains(
            "model = \"a\"\ninput_per_million_usd = 1",
            &["2:9 price[0].model: `a` is not a model of a provider"],
        );
        complains(
            "model = \"b/a\"\ninput_per_million_usd = 1",
            &["2:9 price[0].model: no provider of that name is configured"],
        );
        for wrong in ["-1", "10001", "1e3", "nan", "0.0000000001"] {
            complains(
                &format!("model = \"local/a\"\ninput_per_million_usd = {wrong}"),
                &["3:25 price[0].input_per_million_usd: this amount is out of range"],
            );
        }
        complains(
            "model = \"local/a\"\ninput_per_million_usd = \"1\"",
            &["3:25 price[0].input_per_million_usd: this is a string, not an amount of dollars"],
        );
        let good = "model = \"local/a\"\ninput_per_million_usd = 1";
        complains(
            &format!("{good}\n[[price]]\n{good}"),
            &["5:9 price[1].model: this model has a price already"],
        );
        complains(
            &format!("{good}\ntiers = [{{ input_per_million_usd = 1 }}]"),
            &["4:10 price[0].tiers[0]: it is not said from which length on this holds"],
        );
    }

    #[test]
    fn an_imported_catalogue_takes_the_place_of_the_built_in_one() {
        let file = b"model,input,output,cached,reasoning,audio_input,audio_output,batch_input,batch_output,batch_cached,tiers\nopenai/new,7\n";
        let said = |text: &str, files: Vec<(&'static str, &'static [u8])>| {
            let around = Fake { env: vec![("OPENAI_API_KEY", "k")], files, any: None };
            compile(&format!("{OPENAI}{text}"), "t.toml", &around)
        };
        let price = |text: &str, files, model: &str| {
            let loaded = said(text, files).unwrap_or_else(|all| panic!("{all}"));
            let (_, openai) = loaded.snapshot.provider("openai").expect("there");
            let price = openai.prices.of(model).map(|price| price.rates.input.to_string());
            (price, loaded.warnings.len())
        };
        let state = "[state]\ndir = \"/s\"\n";
        let named = "[prices]\nfile = \"/p.csv\"\n";
        assert_eq!(price(state, vec![], "gpt-4o"), (Some("2.5".to_owned()), 0));
        assert_eq!(price(state, vec![("/s/prices.csv", file)], "new"), (Some("7".to_owned()), 0));
        assert_eq!(price(state, vec![("/s/prices.csv", file)], "gpt-4o"), (None, 0));
        assert_eq!(price(state, vec![("/s/prices.csv", b"x")], "gpt-4o"), (Some("2.5".to_owned()), 1));
        assert_eq!(price(named, vec![("/p.csv", file)], "new"), (Some("7".to_owned()), 0));
        let complaints = said(named, vec![]).expect_err("not there");
        assert!(complaints.to_string().contains("these prices cannot be used"), "{complaints}");
    }

    #[test]
    fn a_budget_in_dollars_says_what_it_cannot_count() {
        let limit = "[[limit]]\nby = \"gateway\"\nbudget_usd_day = 1\n[state]\ndir = \"/s\"\n[auth]\nrequired = false\n";
        let said = |provider: &str| super::super::tests::said(&format!("{limit}{provider}"));
        assert_eq!(said(OPENAI), Vec::<String>::new());
        assert_eq!(
            said(&format!("{OPENAI}models = [\"gpt-4o\", \"mine\"]\n{LOCAL}")),
            ["1:1 : a budget in dollars does not count what has no price: openai/mine, local/*"]
        );
    }
}
