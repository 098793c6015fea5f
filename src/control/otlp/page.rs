//! Reads the page of `/metrics` back. What is exported is what is shown there, whatever comes to be shown: there is one
//! account of what is counted, and reading it costs a fraction of a millisecond an interval.

/// One metric with all its samples.
#[derive(Debug, PartialEq)]
pub(super) struct Family<'t> {
    pub(super) name: &'t str,
    pub(super) help: String,
    /// As `# TYPE` has it.
    pub(super) kind: &'t str,
    pub(super) samples: Vec<Sample<'t>>,
}

#[derive(Debug, PartialEq)]
pub(super) struct Sample<'t> {
    /// Behind the family's name: `_bucket`, `_sum`, `_count` or nothing.
    pub(super) suffix: &'t str,
    pub(super) labels: Vec<(&'t str, String)>,
    pub(super) value: &'t str,
}

/// The families of a page, in their order. What cannot be read is left out, with its line as the error of a debug build:
/// the page is ours.
pub(super) fn read(page: &str) -> Vec<Family<'_>> {
    let mut families: Vec<Family<'_>> = Vec::new();
    for line in page.lines() {
        let read = line_of(line, &mut families);
        debug_assert!(read.is_some(), "a line of our own page: {line}");
    }
    families
}

fn line_of<'t>(line: &'t str, families: &mut Vec<Family<'t>>) -> Option<()> {
    if let Some(rest) = line.strip_prefix("# HELP ") {
        let (name, help) = rest.split_once(' ').unwrap_or((rest, ""));
        families.push(Family { name, help: unescape(help), kind: "", samples: Vec::new() });
    } else if let Some(rest) = line.strip_prefix("# TYPE ") {
        let (name, kind) = rest.split_once(' ')?;
        match families.last_mut().filter(|family| family.name == name) {
            Some(family) => family.kind = kind,
            None => families.push(Family { name, help: String::new(), kind, samples: Vec::new() }),
        }
    } else if !line.is_empty() && !line.starts_with('#') {
        let family = families.last_mut()?;
        family.samples.push(sample(line.strip_prefix(family.name)?)?);
    }
    Some(())
}

fn sample(line: &str) -> Option<Sample<'_>> {
    let end = line.find(['{', ' '])?;
    let (suffix, rest) = line.split_at(end);
    let (labels, value) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (Vec::new(), rest),
    };
    let value = value.strip_prefix(' ')?;
    value.parse::<f64>().ok()?;
    Some(Sample { suffix, labels, value })
}

/// `name="value",…}`, and what is behind it.
fn labels(mut rest: &str) -> Option<(Vec<(&str, String)>, &str)> {
    let mut labels = Vec::new();
    loop {
        if let Some(behind) = rest.strip_prefix('}') {
            return Some((labels, behind));
        }
        let (name, quoted) = rest.strip_prefix(',').unwrap_or(rest).split_once("=\"")?;
        let mut is_escaped = false;
        let end = quoted.find(|c| {
            let ends = c == '"' && !is_escaped;
            is_escaped = c == '\\' && !is_escaped;
            ends
        })?;
        labels.push((name, unescape(&quoted[..end])));
        rest = &quoted[end + 1..];
    }
}

fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match c {
            '\\' => match characters.next() {
                Some('n') => plain.push('\n'),
                Some(other) => plain.push(other),
                None => plain.push('\\'),
            },
            c => plain.push(c),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_reads_back_as_it_was_meant() {
        let page = "# HELP a_total What \\\\ is\\ncounted.\n# TYPE a_total counter\n\
                    a_total{x=\"a\\\"b,c}\\\\\",y=\"\"} 3\na_total 1.5\n\
                    # HELP h Spread.\n# TYPE h histogram\nh_bucket{le=\"+Inf\"} 2\nh_sum 7\n# EOF\n";
        let sample = |suffix, labels: &[(&'static str, &str)], value| Sample {
            suffix,
            labels: labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect(),
            value,
        };
        let a = Family {
            name: "a_total",
            help: "What \\ is\ncounted.".to_owned(),
            kind: "counter",
            samples: vec![sample("", &[("x", "a\"b,c}\\"), ("y", "")], "3"), sample("", &[], "1.5")],
        };
        let h = Family {
            name: "h",
            help: "Spread.".to_owned(),
            kind: "histogram",
            samples: vec![sample("_bucket", &[("le", "+Inf")], "2"), sample("_sum", &[], "7")],
        };
        assert_eq!(read(page), [a, h]);
    }
}
