//! `ringway prices`: what models cost by the catalogue, taken from a newer one, listed, and checked against a configuration.

use std::{
    fmt::Write as _,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Subcommand};
use serde_json::{Map, Value};

use crate::{
    base::money::NanoUsd,
    config::{
        self, Process, Snapshot,
        price::{Catalogue, Price, Rates, Tier, rate},
        prices::imported,
        profiles,
    },
    control::state::unix_ms,
};

use super::date;

#[derive(Args)]
pub(super) struct Prices {
    /// The configuration, for its providers and its state directory.
    #[arg(short, long, value_name = "FILE", env = "RINGWAY_CONFIG", global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Take the prices of the built-in providers out of LiteLLM's `model_prices_and_context_window.json`. They hold from the
    /// next start or reload on, in the place of the built-in ones.
    Import {
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Where to: `prices.file` of a configuration. Otherwise into its state directory.
        #[arg(short, long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// What to say of where the file came from.
        #[arg(long, value_name = "TEXT")]
        source: Option<String>,
    },
    /// What a million tokens cost in dollars, a model a line.
    List {
        /// Of this provider alone: a built-in profile's name.
        #[arg(long, value_name = "NAME")]
        provider: Option<String>,
    },
    /// Which models that a configuration names have no price: 1 if there is any.
    Check,
}

/// 0: done. 1: not, and standard error says why.
pub(super) fn prices(arguments: Prices) -> ExitCode {
    let Prices { config, action } = arguments;
    let done = match action {
        Action::Import { file, out, source } => import(&file, out, config.as_deref(), source),
        Action::List { provider } => list(config.as_deref(), provider.as_deref()).map(|text| (text, true)),
        Action::Check => load(config.as_deref()).map(|snapshot| check(&snapshot)),
    };
    let written = done.and_then(|(text, is_good)| {
        let written = io::stdout().lock().write_all(text.as_bytes());
        written.map(|()| is_good).map_err(|error| format!("the answer could not be written: {error}"))
    });
    match written {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("ringway: {why}");
            ExitCode::FAILURE
        }
    }
}

fn load(config: Option<&Path>) -> Result<Snapshot, String> {
    let config = config.ok_or("say which configuration is meant: --config ringway.toml")?;
    let loaded = config::load(config, &Process).map_err(|complaints| complaints.to_string())?;
    Ok(loaded.snapshot)
}

fn import(
    file: &Path,
    out: Option<PathBuf>,
    config: Option<&Path>,
    source: Option<String>,
) -> Result<(String, bool), String> {
    let out = match out {
        Some(out) => out,
        None => {
            let state = load(config)?.state.ok_or("there is no state directory: name a file with --out")?;
            imported(&state)
        }
    };
    let bytes = fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let day = date::render(unix_ms());
    let day = day.get(..10).unwrap_or_default();
    let source = source.unwrap_or_else(|| file.display().to_string());
    let catalogue = from_litellm(&bytes, format!("{}, taken {day}", source.escape_debug()))
        .map_err(|why| format!("{}: {why}", file.display()))?;
    let text = catalogue.write(NOTICE);
    // What is read at the next start is what was understood now.
    Catalogue::parse(&text).map_err(|(line, why)| format!("line {line} of what was made of it: {why}"))?;
    replace(&out, &text).map_err(|error| format!("{}: {error}", out.display()))?;
    let count: usize = catalogue.iter().map(|(_, rows)| rows.len()).sum();
    let providers = catalogue.iter().count();
    Ok((format!("{count} prices of {providers} providers in {}\n", out.display()), true))
}

/// Whole or not at all, whatever happens in between.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let draft = path.with_extension("new");
    let mut file = File::create(&draft)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&draft, path)
}

fn list(config: Option<&Path>, provider: Option<&str>) -> Result<String, String> {
    let loaded = config.map(|config| load(Some(config))).transpose()?;
    let catalogue: &Catalogue = match &loaded {
        Some(snapshot) => &snapshot.catalogue,
        None => Catalogue::built_in(),
    };
    let mut text =
        format!("# {}\n# model  input  output  (dollars for a million tokens)\n", catalogue.source);
    let mut is_known = false;
    for (profile, rows) in
        catalogue.iter().filter(|(profile, _)| provider.is_none_or(|only| only == *profile))
    {
        is_known = true;
        for (model, price) in rows {
            let _ = writeln!(text, "{profile}/{model}  {}", shown(price));
        }
    }
    match provider {
        Some(provider) if !is_known => {
            let known: Vec<&str> = catalogue.iter().map(|(profile, _)| profile).collect();
            Err(format!(
                "there are no prices of `{}`; there are some of {}",
                provider.escape_debug(),
                known.join(", ")
            ))
        }
        _ => Ok(text),
    }
}

fn shown(price: &Price) -> String {
    let rates = |rates: &Rates| {
        let mut text = format!("{}  {}", rates.input, rates.output.unwrap_or_default());
        let Rates { cached, reasoning, audio_input, audio_output, .. } = *rates;
        let named = [
            ("cached", cached),
            ("reasoning", reasoning),
            ("audio_input", audio_input),
            ("audio_output", audio_output),
        ];
        for (name, rate) in named {
            if let Some(rate) = rate {
                let _ = write!(text, "  {name} {rate}");
            }
        }
        text
    };
    let mut text = rates(&price.rates);
    for tier in &price.tiers {
        let _ = write!(text, "; above {}: {}", tier.above, rates(&tier.rates));
    }
    text
}

/// What is known of the models of each provider, and whether all have a price.
fn check(snapshot: &Snapshot) -> (String, bool) {
    let mut text = format!("# {}\n", snapshot.catalogue.source);
    let mut all_known = true;
    for provider in &snapshot.providers {
        let unknown: Vec<_> =
            provider.models.iter().filter(|model| provider.prices.of(model).is_none()).collect();
        let count = provider.prices.count();
        let _ = writeln!(
            text,
            "{}: {count} prices; {} of {} configured models have one",
            provider.name,
            provider.models.len() - unknown.len(),
            provider.models.len()
        );
        for model in &unknown {
            let _ = writeln!(text, "  no price: {}/{model}", provider.name);
        }
        if count == 0 && provider.models.is_empty() {
            let _ = writeln!(text, "  no price: {}/*", provider.name);
        }
        all_known &= unknown.is_empty() && (count > 0 || !provider.models.is_empty());
    }
    (text, all_known)
}

/// Where a price is found in the other's catalogue: its provider's name, and ours.
const PROVIDERS: [(&str, &str); 28] = [
    ("openai", "openai"),
    ("text-completion-openai", "openai"),
    ("dashscope", "qwen"),
    ("deepseek", "deepseek"),
    ("anthropic", "anthropic"),
    ("gemini", "gemini"),
    ("azure", "azure"),
    ("azure_text", "azure"),
    ("mistral", "mistral"),
    ("groq", "groq"),
    ("xai", "xai"),
    ("openrouter", "openrouter"),
    ("together_ai", "together"),
    ("fireworks_ai", "fireworks"),
    ("fireworks_ai-embedding-models", "fireworks"),
    ("moonshot", "moonshot"),
    ("zai", "zai"),
    ("minimax", "minimax"),
    ("volcengine", "volcengine"),
    ("cohere", "cohere"),
    ("cohere_chat", "cohere"),
    ("perplexity", "perplexity"),
    ("cerebras", "cerebras"),
    ("sambanova", "sambanova"),
    ("nebius", "nebius"),
    ("novita", "novita"),
    ("deepinfra", "deepinfra"),
    ("vercel_ai_gateway", "vercel"),
];

/// The licence under which the prices may be passed on, at the head of every file made of them.
const NOTICE: &str = "\
What a million tokens cost in US dollars. Prices are facts with errors: `[[price]]` in the configuration stands above them.
Made by `ringway prices import` out of LiteLLM's model_prices_and_context_window.json (https://github.com/BerriAI/litellm),
trimmed to the built-in providers and to what is charged by the token. Columns left out cost what their kind does: input, or
output. Tiers hold for input of more tokens than the number before them, with columns as `input` to `audio_output`.

LiteLLM is under the MIT License, Copyright (c) 2023 Berri AI:
Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated documentation
files (the \"Software\"), to deal in the Software without restriction, including without limitation the rights to use, copy,
modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit persons to whom the
Software is furnished to do so, subject to the following conditions:
The above copyright notice and this permission notice shall be included in all copies or substantial portions of the Software.
THE SOFTWARE IS PROVIDED \"AS IS\", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE,
ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
";

/// The other's catalogue as ours: known providers, what is charged by the token, and nothing that is said to cost nothing.
fn from_litellm(bytes: &[u8], source: String) -> Result<Catalogue, String> {
    let models: Map<String, Value> = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let rows = models.iter().filter_map(|(name, about)| {
        let about = about.as_object()?;
        let theirs = about.get("litellm_provider")?.as_str()?;
        let known = PROVIDERS.iter().find(|(name, _)| *name == theirs);
        let (theirs, ours) = known.filter(|(_, ours)| profiles::all().contains_key(*ours))?;
        let mode = about.get("mode")?.as_str()?;
        let puts_out = match mode {
            "chat" | "completion" | "responses" => true,
            "embedding" => false,
            _ => return None,
        };
        let prefixes = [*theirs, *ours, theirs.trim_end_matches("-embedding-models")];
        let bare = prefixes.iter().find_map(|prefix| name.strip_prefix(prefix)?.strip_prefix('/'));
        let model = bare.unwrap_or(name);
        let is_plain = |byte: u8| byte.is_ascii_graphic() && !b",\"\\".contains(&byte);
        // Classes of models by their size stand among them, and are no models.
        let is_class = name.starts_with("together-ai-") || name.starts_with("fireworks-ai-");
        let is_name = !model.is_empty() && model.bytes().all(is_plain) && !is_class;
        let price = price(about, puts_out).filter(|_| is_name)?;
        // A name with its provider before it is the surer one where both stand.
        Some((bare.is_some(), ((*ours).to_owned(), model.to_owned(), price)))
    });
    let mut rows: Vec<_> = rows.collect();
    rows.sort_by_key(|(is_bare, _)| *is_bare);
    if rows.is_empty() {
        return Err("there is no price in it that is understood".to_owned());
    }
    Ok(Catalogue::new(source, rows.into_iter().map(|(_, row)| row)))
}

fn price(about: &Map<String, Value>, puts_out: bool) -> Option<Price> {
    let rates = |suffix: &str| {
        let get = |name: &str| per_million(about.get(&format!("{name}{suffix}")));
        Some(Rates {
            input: get("input_cost_per_token")?,
            output: get("output_cost_per_token").filter(|_| puts_out),
            cached: get("cache_read_input_token_cost"),
            reasoning: get("output_cost_per_reasoning_token"),
            audio_input: get("input_cost_per_audio_token"),
            audio_output: get("output_cost_per_audio_token"),
        })
    };
    let listed = about.get("tiered_pricing").and_then(Value::as_array);
    let (rates, tiers) = match (rates(""), listed) {
        (_, Some(list)) => {
            let mut tiers = Vec::new();
            for tier in list {
                tiers.push(listed_tier(tier, puts_out)?);
            }
            tiers.sort_by_key(|tier: &Tier| tier.above);
            let first = tiers.first().filter(|first| first.above == 0)?.rates;
            tiers.remove(0);
            (first, tiers)
        }
        (Some(flat), None) => {
            let lengths = about.keys().filter_map(|key| {
                key.strip_prefix("input_cost_per_token_above_")?.strip_suffix("k_tokens")?.parse::<u64>().ok()
            });
            let mut tiers: Vec<Tier> = lengths
                .filter_map(|thousands| {
                    let above = rates(&format!("_above_{thousands}k_tokens"))?;
                    // What such a tier does not say, it leaves as it is.
                    let rates = Rates {
                        input: above.input,
                        output: above.output.or(flat.output),
                        cached: above.cached.or(flat.cached),
                        reasoning: above.reasoning.or(flat.reasoning),
                        audio_input: above.audio_input.or(flat.audio_input),
                        audio_output: above.audio_output.or(flat.audio_output),
                    };
                    Some(Tier { above: thousands.checked_mul(1_000)?, rates })
                })
                .collect();
            tiers.sort_by_key(|tier| tier.above);
            (flat, tiers)
        }
        (None, None) => return None,
    };
    // Zero stands for what is not known as often as for what is free.
    let costs = rates.input.0 > 0 && (!puts_out || rates.output.is_some_and(|output| output.0 > 0));
    let without_defaults = |rates: Rates| Rates {
        cached: rates.cached.filter(|cached| *cached != rates.input),
        reasoning: rates.reasoning.filter(|reasoning| Some(*reasoning) != rates.output),
        ..rates
    };
    let batch = batch(about, puts_out).map(without_defaults);
    let tiers = tiers.into_iter().map(|tier| Tier { rates: without_defaults(tier.rates), ..tier }).collect();
    costs.then(|| Price { rates: without_defaults(rates), batch, tiers })
}

fn batch(about: &Map<String, Value>, puts_out: bool) -> Option<Rates> {
    let get = |name: &str| per_million(about.get(&format!("{name}_batches")));
    Some(Rates {
        input: get("input_cost_per_token")?,
        output: get("output_cost_per_token").filter(|_| puts_out),
        cached: get("cache_read_input_token_cost"),
        ..Rates::default()
    })
}

/// One of the tiers that stand in a list, with the range of lengths that each is for.
fn listed_tier(tier: &Value, puts_out: bool) -> Option<Tier> {
    let get = |name: &str| per_million(tier.get(name));
    let above = tier.get("range")?.get(0)?;
    let above = above.as_u64().or_else(|| format!("{:.0}", above.as_f64()?).parse().ok())?;
    let rates = Rates {
        input: get("input_cost_per_token")?,
        output: get("output_cost_per_token").filter(|_| puts_out),
        cached: get("cache_read_input_token_cost"),
        reasoning: get("output_cost_per_reasoning_token"),
        audio_input: None,
        audio_output: None,
    };
    Some(Tier { above, rates })
}

/// Dollars a token, as a float, for what a million cost, exactly to the nano-dollar.
fn per_million(value: Option<&Value>) -> Option<NanoUsd> {
    rate(&format!("{:.9}", value?.as_f64()? * 1e6))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(json: &str) -> Vec<String> {
        let catalogue = from_litellm(json.as_bytes(), "a test".to_owned()).expect("prices");
        let text = catalogue.write("");
        text.lines().filter(|line| !line.starts_with(['#', 'm'])).map(str::to_owned).collect()
    }

    #[track_caller]
    fn check_one(about: &str, expect: &[&str]) {
        let json = format!(
            r#"{{"other":{{"litellm_provider":"openai","mode":"chat","input_cost_per_token":1e-6,"output_cost_per_token":2e-6}},
                "groq/it":{{"litellm_provider":"groq",{about}}}}}"#
        );
        let rows = made(&json);
        let rows: Vec<&str> = rows.iter().map(String::as_str).filter(|row| row.starts_with("groq")).collect();
        assert_eq!(rows, expect, "{about}");
    }

    #[test]
    fn what_is_charged_by_the_token_is_taken_and_nothing_else() {
        let both = r#""input_cost_per_token":2.5e-07,"output_cost_per_token":1e-05"#;
        check_one(&format!(r#""mode":"chat",{both}"#), &["groq/it,0.25,10"]);
        check_one(&format!(r#""mode":"embedding",{both}"#), &["groq/it,0.25"]);
        check_one(&format!(r#""mode":"image_generation",{both}"#), &[]);
        check_one(r#""mode":"chat","input_cost_per_token":1e-6"#, &[]);
        check_one(r#""mode":"chat","input_cost_per_token":0.0,"output_cost_per_token":0.0"#, &[]);
        check_one(
            &format!(
                r#""mode":"chat",{both},"cache_read_input_token_cost":1.25e-8,"output_cost_per_reasoning_token":1e-5,
                   "input_cost_per_token_batches":1.25e-7,"output_cost_per_token_batches":5e-6"#
            ),
            &["groq/it,0.25,10,0.0125,,,,0.125,5"],
        );
    }

    #[test]
    fn tiers_of_both_kinds_become_ours() {
        check_one(
            r#""mode":"chat","input_cost_per_token":1e-6,"output_cost_per_token":2e-6,"cache_read_input_token_cost":1e-7,
               "input_cost_per_token_above_200k_tokens":3e-6,"output_cost_per_token_above_200k_tokens":4e-6,
               "input_cost_per_token_above_200k_tokens_priority":9e-6"#,
            &["groq/it,1,2,0.1,,,,,,,200000:3:4:0.1"],
        );
        check_one(
            r#""mode":"chat","tiered_pricing":[
               {"range":[32000.0,128000.0],"input_cost_per_token":3e-6,"output_cost_per_token":4e-6},
               {"range":[0,32000.0],"input_cost_per_token":1e-6,"output_cost_per_token":2e-6}]"#,
            &["groq/it,1,2,,,,,,,,32000:3:4"],
        );
    }

    #[test]
    fn a_name_loses_its_providers_and_stands_once() {
        let about = |input: &str| {
            format!(
                r#"{{"litellm_provider":"vercel_ai_gateway","mode":"chat","input_cost_per_token":{input},"output_cost_per_token":1e-6}}"#
            )
        };
        let json = format!(
            r#"{{"vercel_ai_gateway/a/b":{},"a/b":{},"x,y":{}}}"#,
            about("2e-6"),
            about("3e-6"),
            about("1")
        );
        assert_eq!(made(&json), ["vercel/a/b,2,1"]);
        for wrong in ["", "[]", "{}", r#"{"a":1}"#] {
            assert!(from_litellm(wrong.as_bytes(), String::new()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_configuration_is_told_what_has_no_price() {
        let text = "[[provider]]\nname = \"openai\"\nkey = \"k\"\nmodels = [\"gpt-4o\", \"mine\"]\n";
        let loaded = config::compile(text, "t.toml", &Process).expect("good");
        let (said, is_good) = check(&loaded.snapshot);
        assert!(!is_good && said.contains("no price: openai/mine") && said.contains("1 of 2"), "{said}");
        let own = format!("{text}[[price]]\nmodel = \"openai/mine\"\ninput_per_million_usd = 1\n");
        let loaded = config::compile(&own, "t.toml", &Process).expect("good");
        assert!(check(&loaded.snapshot).1);
    }

    #[test]
    fn a_list_is_of_one_provider_or_of_all() {
        let all = list(None, None).expect("a list");
        let one = list(None, Some("groq")).expect("a list");
        assert!(all.contains("openai/gpt-4o  2.5  10  cached 1.25") && all.len() > one.len());
        assert!(one.lines().skip(2).all(|line| line.starts_with("groq/")));
        assert!(list(None, Some("nobody")).is_err_and(|why| why.contains("openai")));
    }
}
