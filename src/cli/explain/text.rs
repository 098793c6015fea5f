//! An account of a request, for people and for programs.
//!
//! Lines for people hold no control byte, whatever the question held.

use std::{fmt::Write, time::Duration};

use super::{
    account::{Account, HealthCheck, HoldBack, KeepAlive, Planning, TargetIs, Timeouts, Via},
    limits::Limited,
};

/// For programs: one JSON object.
pub(super) fn json(account: &Account) -> String {
    // Strings and numbers under names that are strings: nothing in it can fail.
    let value = serde_json::to_value(account).unwrap_or_default();
    format!("{value:#}\n")
}

/// For people: a label, and what is to be said of it, one a line.
pub(super) fn text(account: &Account) -> String {
    let mut page = Page::default();
    page.say("model", &account.model);
    page.say("endpoint", format!("{}{}", account.endpoint, if account.stream { ", streamed" } else { "" }));
    page.say("address", account.address.map_or_else(|| "unknown".to_owned(), |address| address.to_string()));
    page.say("caller", caller(account));
    page.say("assumed", format!("every target is well, no limit is used, chance {}", account.chance));
    page.gap();
    match &account.plan {
        Some(plan) => tell_plan(&mut page, account, plan),
        None => page.say("leads to", "nothing"),
    }
    for limit in &account.limits {
        page.say("limits", self::limit(limit));
    }
    page.say("at most", caps(account));
    if let Some(request) = &account.request {
        page.gap();
        request.head.iter().for_each(|line| page.say("sends", line));
        request.body.iter().for_each(|line| page.say("body", line));
    }
    page.gap();
    let Some(refusal) = &account.refusal else {
        page.say("verdict", "it would be sent");
        return page.text;
    };
    let word = |name: &str| refusal.error[name].as_str().unwrap_or_default();
    page.say("verdict", format!("refused: {} {}", refusal.status, word("code")));
    page.say("says", word("message"));
    if let Some(because) = &refusal.because {
        page.say("because", because);
    }
    page.text
}

fn tell_plan(page: &mut Page, account: &Account, plan: &Planning) {
    page.say("leads to", leads_to(account, plan));
    plan.path.iter().for_each(|node| page.say("passes", node));
    if !plan.branch.is_empty() {
        page.say("branch", &plan.branch);
    }
    let rows: Vec<_> = plan.targets.iter().zip(1..).map(|(target, number)| row(target, number)).collect();
    for line in aligned(&rows) {
        page.say("targets", line);
    }
    if let Some(balance) = &plan.balance {
        page.say("chosen", balance);
    }
    page.say("terms", terms(plan));
    // What has nowhere to go is neither held nor hedged.
    let onward = plan.targets.split_last().map_or(&[][..], |(_, before)| before);
    let mut early: Vec<_> = onward.iter().filter_map(early).collect();
    early.dedup();
    early.into_iter().for_each(|line| page.say("early", line));
    let mut told: Vec<(&str, &Timeouts)> = Vec::new();
    for target in &plan.targets {
        let one = (&*target.provider, &target.timeouts);
        if !told.contains(&one) {
            told.push(one);
            page.say("timeouts", format!("{}: {}", target.provider, timeouts(&target.timeouts)));
        }
    }
    for line in by_provider(plan, silent) {
        page.say("silent", line);
    }
    let by = if plan.on_disconnect_own { "the caller" } else { "the gateway" };
    page.say("if left", format!("{}, as {by} has it", plan.on_disconnect));
    for line in by_provider(plan, checked) {
        page.say("checked", line);
    }
}

fn caller(account: &Account) -> String {
    match &account.caller {
        None if account.callers_verified => "nobody is named".to_owned(),
        None => "anybody: callers are not verified".to_owned(),
        Some(caller) if caller.tags.is_empty() => format!("{} ({})", caller.name, caller.id),
        Some(caller) => format!("{} ({}), tags {}", caller.name, caller.id, caller.tags.join(", ")),
    }
}

fn leads_to(account: &Account, plan: &Planning) -> String {
    let by = match plan.via {
        Via::Model | Via::Route => "",
        Via::Alias => ", by an alias",
        Via::AliasPattern => ", by an alias with *",
    };
    match (&plan.route, plan.targets.first()) {
        (Some(route), _) => format!("the route {route}{by}"),
        (None, Some(first)) => format!("{}/{}{by}", first.provider, first.model),
        (None, None) => format!("{}{by}", account.model),
    }
}

/// A target's columns.
fn row(target: &TargetIs, number: usize) -> [String; 4] {
    let key = match &target.key {
        Some(key) => format!("key {key}{}", if target.pinned { ", no other" } else { "" }),
        None => "no key".to_owned(),
    };
    let fallback = if target.fallback { "  (fallback)" } else { "" };
    [
        format!("{number}."),
        format!("{}/{}", target.provider, target.model),
        key,
        format!("{}{fallback}", target.url),
    ]
}

/// Rows whose columns stand below each other.
fn aligned<const N: usize>(rows: &[[String; N]]) -> impl Iterator<Item = String> {
    let widths: [usize; N] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0));
    rows.iter().map(move |row| {
        let cells: Vec<_> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    })
}

fn terms(plan: &Planning) -> String {
    let mut words =
        format!("{} attempt{} at most", plan.attempts_max, if plan.attempts_max == 1 { "" } else { "s" });
    if plan.targets.len() > 1 {
        words.push_str(match plan.retry_unanswered {
            true => "; on to the next also when sent and unanswered",
            false => "; never on to the next once sent",
        });
        if plan.retry_missing_model {
            words.push_str("; on to the next when the model is unknown");
        }
    }
    words
}

/// What there is to say of each provider, once.
fn by_provider(plan: &Planning, say: impl Fn(&TargetIs) -> Option<String>) -> Vec<String> {
    let mut lines = Vec::new();
    for target in &plan.targets {
        if let Some(words) = say(target) {
            let line = format!("{}: {words}", target.provider);
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
    }
    lines
}

/// What the client of a stream is written that has nothing to read.
fn silent(target: &TargetIs) -> Option<String> {
    let KeepAlive { every_ms, commits } = target.keep_alive.as_ref()?;
    let when = match commits {
        true => "before the first event, too, which begins the stream with 200",
        false => "from the first event on",
    };
    Some(format!("a comment after each {:?}, {when}", Duration::from_millis(*every_ms)))
}

/// Who is asked how it does.
fn checked(target: &TargetIs) -> Option<String> {
    let HealthCheck { path, interval_ms } = target.health_check.as_ref()?;
    Some(format!("{path} each {:?}", Duration::from_millis(*interval_ms)))
}

/// What is done before the first byte of a stream is released.
fn early(target: &TargetIs) -> Option<String> {
    let held = target.hold_back.as_ref().map(|HoldBack { events, ms }| {
        format!("held for {events} events or {:?}", Duration::from_millis(*ms))
    });
    let hedged = target
        .hedge_percentile
        .map(|percent| format!("the next asked, too, after {percent} % of its times to first token"));
    let words: Vec<_> = held.into_iter().chain(hedged).collect();
    (!words.is_empty()).then(|| format!("{}: {}", target.provider, words.join("; ")))
}

fn timeouts(timeouts: &Timeouts) -> String {
    let named = [
        ("connect", Some(timeouts.connect_ms)),
        ("first byte", Some(timeouts.first_byte_ms)),
        ("first token", timeouts.first_token_ms),
        ("between bytes", Some(timeouts.between_bytes_ms)),
        ("total", Some(timeouts.total_ms)),
    ];
    let words =
        named.into_iter().filter_map(|(name, ms)| Some(format!("{name} {:?}", Duration::from_millis(ms?))));
    words.collect::<Vec<_>>().join(", ")
}

fn limit(limit: &Limited) -> String {
    let Limited { of, measure, most, unit, burst, cuts_streams } = limit;
    let mut words = match unit {
        Some(unit) => format!("{of}: {measure} {most} {unit}"),
        None => format!("{of}: {most} {measure}"),
    };
    if let Some(burst) = burst.filter(|burst| burst != most) {
        let _ = write!(words, ", {burst} at once");
    }
    if *cuts_streams {
        words.push_str(", and a stream is cut at it");
    }
    words
}

fn caps(account: &Account) -> String {
    let caps = &account.caps;
    let mut words = format!("a body of {} bytes", caps.body_bytes);
    if let Some(n) = caps.n {
        let _ = write!(words, ", n {n}");
    }
    if let Some(tokens) = caps.max_tokens {
        let _ = write!(words, ", max_tokens {tokens}, which must be said");
    }
    words
}

/// Labelled lines; a label stands at the first of its lines.
#[derive(Default)]
struct Page {
    text: String,
    label: &'static str,
}

impl Page {
    fn say(&mut self, label: &'static str, what: impl AsRef<str>) {
        let shown = if self.label == label { "" } else { label };
        self.label = label;
        let what = what.as_ref();
        if what.contains(char::is_control) {
            let _ = writeln!(self.text, "{shown:9} {}", what.escape_debug());
        } else {
            let _ = writeln!(self.text, "{shown:9} {what}");
        }
    }

    fn gap(&mut self) {
        self.text.push('\n');
        self.label = "";
    }
}

#[cfg(test)]
mod tests;
