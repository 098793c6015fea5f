//! Callers as people and programs read them. No token, no secret and no digest comes this far.

use std::fmt::Write;

use serde_json::{Value, json};

use super::date;
use crate::{base::money::NanoUsd, control::state::callers::Kept};

/// One line a caller, under a heading.
pub(super) fn table(callers: &[Kept], now_unix_ms: u64) -> String {
    let mut rows = vec![["NAME", "ID", "STATE", "EXPIRES", "CREATED", "TAGS"].map(str::to_owned)];
    rows.extend(callers.iter().map(|caller| {
        [
            caller.name.clone(),
            caller.id.to_string(),
            standing(caller, now_unix_ms).to_owned(),
            caller.expires_unix_ms.map_or_else(|| "never".to_owned(), date::render),
            date::render(caller.created_unix_ms),
            if caller.settings.tags.is_empty() { "-".to_owned() } else { caller.settings.tags.join(",") },
        ]
    }));
    let widths: [usize; 6] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0));
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        let _ = writeln!(text, "{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    text
}

/// Everything that is known of one, a line each.
pub(super) fn text(caller: &Kept, now_unix_ms: u64) -> String {
    let mut lines = vec![
        ("name", caller.name.clone()),
        ("id", caller.id.to_string()),
        ("state", standing(caller, now_unix_ms).to_owned()),
        ("created", date::render(caller.created_unix_ms)),
        ("expires", caller.expires_unix_ms.map_or_else(|| "never".to_owned(), date::render)),
    ];
    if let Some(until) = caller.former_until_unix_ms.filter(|until| *until > now_unix_ms) {
        lines.push(("former token until", date::render(until)));
    }
    let settings = &caller.settings;
    let lists = [
        ("models", &settings.models),
        ("routes", &settings.routes),
        ("endpoints", &settings.endpoints),
        ("allow", &settings.allow),
        ("deny", &settings.deny),
        ("tags", &settings.tags),
    ];
    lines.extend(
        lists.into_iter().filter(|(_, list)| !list.is_empty()).map(|(name, list)| (name, list.join(", "))),
    );
    lines.extend(settings.limits.iter().map(|limit| {
        let burst = limit.burst.map_or_else(String::new, |burst| format!(", {burst} at once"));
        let most = match limit.measure.as_str() {
            "budget_nano_usd_day" => return ("budget_usd_day", NanoUsd(limit.most).to_string()),
            "budget_nano_usd_month" => return ("budget_usd_month", NanoUsd(limit.most).to_string()),
            _ => limit.most,
        };
        (&*limit.measure, format!("{most}{burst}"))
    }));
    lines.extend(settings.on_exceed.iter().map(|word| ("on_exceed", word.clone())));
    lines.extend(settings.on_disconnect.iter().map(|word| ("on_disconnect", word.clone())));
    let caps = [
        ("n_max", settings.n_max.map(u64::from)),
        ("max_tokens_max", settings.max_tokens_max),
        ("body_bytes_max", settings.body_bytes_max),
    ];
    lines.extend(caps.into_iter().filter_map(|(name, cap)| Some((name, cap?.to_string()))));
    lines.extend(settings.log_payload.map(|kept| ("log_payload", kept.to_string())));
    let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (name, value) in lines {
        let _ = writeln!(text, "{name:width$}  {value}");
    }
    text
}

pub(super) fn json_list(callers: &[Kept]) -> String {
    format!("{:#}\n", Value::Array(callers.iter().map(value).collect()))
}

pub(super) fn json(caller: &Kept) -> String {
    format!("{:#}\n", value(caller))
}

fn value(caller: &Kept) -> Value {
    json!({
        "id": caller.id.as_str(),
        "name": caller.name,
        "enabled": caller.enabled,
        "created": date::render(caller.created_unix_ms),
        "expires": caller.expires_unix_ms.map(date::render),
        "former_token_until": caller.former_until_unix_ms.map(date::render),
        "settings": caller.settings,
    })
}

fn standing(caller: &Kept, now_unix_ms: u64) -> &'static str {
    if !caller.enabled {
        "disabled"
    } else if caller.expires_unix_ms.is_some_and(|end| end <= now_unix_ms) {
        "expired"
    } else {
        "enabled"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        control::state::settings::{LimitSetting, Settings},
        wire::token::TokenId,
    };

    fn kept(name: &str, expires_unix_ms: Option<u64>, enabled: bool) -> Kept {
        Kept {
            id: TokenId::draw(&[0; 10]),
            name: name.to_owned(),
            created_unix_ms: 0,
            expires_unix_ms,
            former_until_unix_ms: None,
            enabled,
            settings: Settings {
                tags: vec!["a".to_owned(), "b".to_owned()],
                n_max: Some(3),
                limits: vec![LimitSetting {
                    measure: "budget_nano_usd_day".to_owned(),
                    most: 12_500_000_000,
                    burst: None,
                }],
                ..Settings::default()
            },
        }
    }

    #[test]
    fn a_table_has_a_line_for_each_and_its_columns_stand_below_each_other() {
        let callers = [
            kept("ci", None, true),
            kept("a-longer-name", Some(1_000), true),
            kept("off", Some(9_000), false),
        ];
        let expect = "\
NAME           ID                STATE     EXPIRES               CREATED               TAGS
ci             aaaaaaaaaaaaaaaa  enabled   never                 1970-01-01T00:00:00Z  a,b
a-longer-name  aaaaaaaaaaaaaaaa  expired   1970-01-01T00:00:01Z  1970-01-01T00:00:00Z  a,b
off            aaaaaaaaaaaaaaaa  disabled  1970-01-01T00:00:09Z  1970-01-01T00:00:00Z  a,b
";
        assert_eq!(table(&callers, 1_000), expect);
    }

    #[test]
    fn one_caller_is_shown_with_what_was_said_of_it_and_no_more() {
        let expect = "\
name            ci
id              aaaaaaaaaaaaaaaa
state           enabled
created         1970-01-01T00:00:00Z
expires         never
tags            a, b
budget_usd_day  12.5
n_max           3
";
        assert_eq!(text(&kept("ci", None, true), 0), expect);
        let value: Value = serde_json::from_str(&json(&kept("ci", None, true))).expect("JSON");
        let limit = json!({"measure": "budget_nano_usd_day", "most": 12_500_000_000_u64});
        assert_eq!(value["settings"], json!({"n_max": 3, "tags": ["a", "b"], "limits": [limit]}));
        assert_eq!(value["expires"], Value::Null);
    }
}
