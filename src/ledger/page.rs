//! A page of metrics in the making: every family announced once, its samples together, cumulative buckets. In either of
//! two dialects, which differ in what a counter's family is called, in units, and in the end.

use std::fmt::Write;

use crate::ledger::{
    distribution::Distribution,
    names::{Kind, Metric},
};

/// How it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus text 0.0.4.
    Prometheus,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

impl Format {
    /// The one that fits what an `Accept` field asks for.
    pub fn accepted(accept: &str) -> Self {
        let (mut open_q, mut text_q) = (0, 0);
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let media_type = parts.next().unwrap_or_default().to_ascii_lowercase();
            let (mut q, mut version) = (1_000, None);
            for parameter in parts {
                match parameter.split_once('=') {
                    Some((name, value)) if name.eq_ignore_ascii_case("q") => q = thousandths(value),
                    Some((name, value)) if name.eq_ignore_ascii_case("version") => version = Some(value),
                    _ => {}
                }
            }
            match media_type.as_str() {
                "application/openmetrics-text" if matches!(version, None | Some("1.0.0")) => open_q = q,
                "text/plain" | "text/*" | "*/*" => text_q = text_q.max(q),
                _ => {}
            }
        }
        if open_q > 0 && open_q >= text_q { Self::OpenMetrics } else { Self::Prometheus }
    }

    pub fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// A quality value of at most three digits behind the point; what is none counts as zero.
fn thousandths(text: &str) -> u32 {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = format!("{fraction:0<3}");
    match (whole, digits.parse::<u32>()) {
        ("0", Ok(q)) if digits.len() == 3 => q,
        ("1", Ok(0)) => 1_000,
        _ => 0,
    }
}

/// Text in the making. Samples belong to the family announced last.
pub(super) struct Page {
    text: String,
    name: &'static str,
    format: Format,
}

impl Page {
    pub(super) fn new(format: Format) -> Self {
        Self { text: String::with_capacity(32 << 10), name: "", format }
    }

    pub(super) fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }

    pub(super) fn family(&mut self, metric: Metric) -> &mut Self {
        let Metric { name, kind, help } = metric;
        self.name = name;
        // What OpenMetrics calls a counter's family is the sample's name without its suffix.
        let family = match self.format {
            Format::OpenMetrics if kind == Kind::Counter => name.strip_suffix("_total").unwrap_or(name),
            _ => name,
        };
        let _ = write!(self.text, "# HELP {family} ");
        escape(&mut self.text, help, self.format == Format::OpenMetrics);
        let _ = writeln!(self.text, "\n# TYPE {family} {}", kind.name());
        let unit = family.rsplit('_').next().filter(|unit| ["seconds", "bytes", "usd"].contains(unit));
        if let (Format::OpenMetrics, Some(unit)) = (self.format, unit) {
            let _ = writeln!(self.text, "# UNIT {family} {unit}");
        }
        self
    }

    pub(super) fn sample(&mut self, labels: &[(&str, &str)], value: u64) -> &mut Self {
        self.line("", labels, &value.to_string())
    }

    /// A histogram of microseconds, told in seconds.
    pub(super) fn seconds(
        &mut self,
        labels: &[(&str, &str)],
        distribution: &Distribution,
        bounds_us: &[u64],
    ) -> &mut Self {
        self.histogram(labels, distribution, bounds_us, seconds)
    }

    pub(super) fn numbers(
        &mut self,
        labels: &[(&str, &str)],
        distribution: &Distribution,
        bounds: &[u64],
    ) -> &mut Self {
        self.histogram(labels, distribution, bounds, |number| number.to_string())
    }

    fn histogram(
        &mut self,
        labels: &[(&str, &str)],
        distribution: &Distribution,
        bounds: &[u64],
        show: impl Fn(u64) -> String,
    ) -> &mut Self {
        let (below, whole) = (distribution.cumulative(bounds), (distribution.count(), distribution.sum()));
        self.buckets(labels, bounds.iter().copied().zip(below), whole, show)
    }

    /// Durations that were counted by bounds already, told in seconds: how many fell under each and not under the one before, and
    /// how many there were and how long together.
    pub(super) fn steps(
        &mut self,
        labels: &[(&str, &str)],
        steps: impl IntoIterator<Item = (u64, u64)>,
        whole: (u64, u64),
    ) -> &mut Self {
        let below = steps.into_iter().scan(0_u64, |below, (bound_us, count)| {
            *below = below.saturating_add(count);
            Some((bound_us, *below))
        });
        self.buckets(labels, below, whole, seconds)
    }

    fn buckets(
        &mut self,
        labels: &[(&str, &str)],
        below: impl Iterator<Item = (u64, u64)>,
        (all, sum): (u64, u64),
        show: impl Fn(u64) -> String,
    ) -> &mut Self {
        let with_bound = |bound: &str, page: &mut Self, count: u64| {
            let labels: Vec<(&str, &str)> = labels.iter().copied().chain([("le", bound)]).collect();
            page.line("_bucket", &labels, &count.to_string());
        };
        for (bound, count) in below {
            with_bound(&canonical(&show(bound)), self, count);
        }
        with_bound("+Inf", self, all);
        self.line("_sum", labels, &show(sum));
        self.line("_count", labels, &all.to_string())
    }

    pub(super) fn line(&mut self, suffix: &str, labels: &[(&str, &str)], value: &str) -> &mut Self {
        self.text.push_str(self.name);
        self.text.push_str(suffix);
        for (index, (label, text)) in labels.iter().enumerate() {
            self.text.push(if index == 0 { '{' } else { ',' });
            self.text.push_str(label);
            self.text.push_str("=\"");
            escape(&mut self.text, text, true);
            self.text.push('"');
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        self.text.push(' ');
        self.text.push_str(value);
        self.text.push('\n');
        self
    }
}

/// Microseconds as a decimal fraction of seconds, exactly: no float rounds a counter.
pub(super) fn seconds(us: u64) -> String {
    let (whole, fraction) = (us / 1_000_000, us % 1_000_000);
    if fraction == 0 {
        return whole.to_string();
    }
    format!("{whole}.{fraction:06}").trim_end_matches('0').to_owned()
}

/// A bound as OpenMetrics has it, so that one bound has one spelling: a float always, with an exponent where Go's `%g` has
/// one.
fn canonical(number: &str) -> String {
    let value: f64 = number.parse().unwrap_or(f64::NAN);
    if value == 0.0 || (1e-4..1e6).contains(&value) {
        return format!("{value:?}");
    }
    let scientific = format!("{value:e}");
    match scientific.split_once('e') {
        Some((digits, exponent)) => match exponent.strip_prefix('-') {
            Some(exponent) => format!("{digits}e-{exponent:0>2}"),
            None => format!("{digits}e+{exponent:0>2}"),
        },
        None => scientific,
    }
}

fn escape(page: &mut String, text: &str, quotes: bool) {
    for character in text.chars() {
        match character {
            '\\' => page.push_str("\\\\"),
            '\n' => page.push_str("\\n"),
            '"' if quotes => page.push_str("\\\""),
            other => page.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_exact() {
        for (us, expect) in
            [(0, "0"), (1, "0.000001"), (2_500, "0.0025"), (60_000_000, "60"), (1_500_000, "1.5")]
        {
            assert_eq!(seconds(us), expect);
        }
    }

    #[test]
    fn a_bound_is_spelt_as_go_does() {
        for (number, expect) in [
            ("0.00001", "1e-05"),
            ("0.000075", "7.5e-05"),
            ("0.0001", "0.0001"),
            ("0.025", "0.025"),
            ("1", "1.0"),
            ("600", "600.0"),
            ("262144", "262144.0"),
            ("1048576", "1.048576e+06"),
            ("67108864", "6.7108864e+07"),
        ] {
            assert_eq!(canonical(number), expect);
        }
    }

    #[test]
    fn openmetrics_is_for_those_who_would_rather_have_it() {
        #[track_caller]
        fn check(accept: &str, expect: Format) {
            assert_eq!(Format::accepted(accept), expect, "{accept}");
        }
        let scraper = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                       text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        check(scraper, Format::OpenMetrics);
        check("application/openmetrics-text", Format::OpenMetrics);
        check("application/openmetrics-text; version=1.0.0; charset=utf-8", Format::OpenMetrics);
        check("Application/OpenMetrics-Text;Q=0.9, text/plain;q=0.8", Format::OpenMetrics);
        for text in [
            "",
            "*/*",
            "text/plain",
            "text/html,*/*;q=0.8",
            "application/openmetrics-text;version=0.0.1",
            "application/openmetrics-text;q=0",
            "application/openmetrics-text;q=0.5,text/plain",
            "application/openmetrics-text;q=2",
            "application/openmetrics-text;q=0.1234",
        ] {
            check(text, Format::Prometheus);
        }
    }
}
