//! What was found, as programs read it: JSON lines, or CSV as RFC 4180 has it. Nothing in it moves a terminal.
//!
//! A spreadsheet takes a cell that begins with `=`, `+`, `-` or `@` for a formula, and what a model says is anybody's to
//! choose: such a cell gets a `'` in front, which spreadsheets do not show. Who wants every byte as it was kept takes JSON.

use std::{
    fmt::Write as _,
    io::{self, Write},
};

use clap::ValueEnum;
use serde_json::Value;

use crate::control::log_store::{Found, Part, Payload};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// A JSON object a line.
    #[default]
    Jsonl,
    /// A table with a heading.
    Csv,
}

/// The columns of a table: members of a line.
const COLUMNS: &[&str] = &[
    "time",
    "request_id",
    "caller_id",
    "caller",
    "address",
    "method",
    "operation",
    "route",
    "model_asked",
    "model_used",
    "provider",
    "status",
    "outcome",
    "refusal",
    "attempts",
    "stream",
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
    "reasoning_tokens",
    "tokens_source",
    "cost_usd",
    "bytes_in",
    "bytes_out",
    "duration_ms",
    "overhead_ms",
    "upstream_ms",
    "ttft_ms",
    "unheard",
    "unheard_bytes",
    "trace_id",
    "core",
];
/// What was said, where that is asked for; the same names in a JSON line.
const PAYLOAD_COLUMNS: [&str; 6] =
    ["request_bytes", "request_whole", "request", "response_bytes", "response_whole", "response"];

/// Writes rows, one after the other.
pub(super) struct Rows<W> {
    out: W,
    format: Format,
    payload: bool,
}

impl<W: Write> Rows<W> {
    /// Begins with the heading, where there is one.
    pub(super) fn begin(mut out: W, format: Format, payload: bool) -> io::Result<Self> {
        if format == Format::Csv {
            let payloads = PAYLOAD_COLUMNS.iter().filter(|_| payload);
            let heading: Vec<_> = COLUMNS.iter().chain(payloads).copied().collect();
            write!(out, "{}\r\n", heading.join(","))?;
        }
        Ok(Self { out, format, payload })
    }

    pub(super) fn row(&mut self, found: &Found) -> io::Result<()> {
        let row = match self.format {
            Format::Jsonl if self.payload => json_line(found),
            Format::Jsonl => format!("{}\n", found.line),
            Format::Csv => csv_row(found, self.payload),
        };
        self.out.write_all(row.as_bytes())
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// The line, with what was said behind its members.
fn json_line(found: &Found) -> String {
    let mut line = found.line.strip_suffix('}').unwrap_or("{\"line\":null").to_owned();
    for (name, value) in PAYLOAD_COLUMNS.into_iter().zip(values(found.payload.as_ref())) {
        let _ = write!(line, ",\"{name}\":{value}");
    }
    line.push_str("}\n");
    line
}

/// In the order of [`PAYLOAD_COLUMNS`].
fn values(payload: Option<&Payload>) -> [Value; 6] {
    let of = |part: &Part| {
        [part.bytes.into(), part.is_whole.into(), part.text.clone().map_or(Value::Null, Value::String)]
    };
    let Some(Payload { request, response }) = payload else { return Default::default() };
    let ([a, b, c], [d, e, f]) = (of(request), of(response));
    [a, b, c, d, e, f]
}

fn csv_row(found: &Found, payload: bool) -> String {
    let line: Value = serde_json::from_str(&found.line).unwrap_or_default();
    let members = COLUMNS.iter().map(|column| cell(&line[column]));
    let payloads = values(found.payload.as_ref());
    let payloads = payloads.iter().map(cell).filter(|_| payload);
    let mut row = members.chain(payloads).collect::<Vec<_>>().join(",");
    row.push_str("\r\n");
    row
}

fn cell(value: &Value) -> String {
    let text = match value {
        Value::Null => return String::new(),
        Value::String(text) => text,
        plain => return plain.to_string(),
    };
    let is_formula = text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']);
    let guard = if is_formula { "'" } else { "" };
    if text.contains([',', '"', '\r', '\n']) {
        format!("\"{guard}{}\"", text.replace('"', "\"\""))
    } else {
        format!("{guard}{text}")
    }
}

/// A text to be found in what was said, whatever its letter case.
pub(super) struct Needle {
    plain: String,
    /// As it stands inside a JSON string.
    quoted: String,
}

impl Needle {
    pub(super) fn new(text: &str) -> Self {
        let plain = text.to_lowercase();
        let quoted = Value::from(plain.as_str()).to_string();
        let quoted = quoted.trim_matches('"').to_owned();
        Self { plain, quoted }
    }

    pub(super) fn is_in(&self, found: &Found) -> bool {
        let Some(Payload { request, response }) = &found.payload else { return false };
        [request, response].into_iter().filter_map(|part| part.text.as_deref()).any(|text| {
            let text = text.to_lowercase();
            text.contains(&self.quoted) || text.contains(&self.plain)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(request: &str) -> Found {
        let part = |text: Option<&str>| Part { text: text.map(str::to_owned), bytes: 7, is_whole: true };
        let line = r#"{"time":"2026-11-22T00:00:00.000Z","request_id":"=1","model_asked":null,"status":200,"stream":true}"#;
        let payload = Payload { request: part(Some(request)), response: part(None) };
        Found { number: 1, line: line.into(), payload: Some(payload) }
    }

    fn written(format: Format, payload: bool, request: &str) -> String {
        let mut out = Vec::new();
        let mut rows = Rows::begin(&mut out, format, payload).expect("room");
        rows.row(&found(request)).expect("room");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn a_json_line_is_the_line_and_what_was_said_behind_it() {
        let line = found("").line;
        assert_eq!(written(Format::Jsonl, false, "x"), format!("{line}\n"));
        let text = written(Format::Jsonl, true, "{\"a\":\"\\n\"}\n\"");
        let json: Value = serde_json::from_str(&text).expect(&text);
        assert_eq!((&json["request"], &json["response"]), (&"{\"a\":\"\\n\"}\n\"".into(), &Value::Null));
        assert_eq!((&json["status"], &json["request_bytes"]), (&200.into(), &7.into()));
        assert_eq!(text.matches('\n').count(), 1);
    }

    #[test]
    fn a_table_is_rfc_4180s_and_no_cell_of_it_a_formula() {
        let text = written(Format::Csv, true, "say \"hi\",\r\n=1+1");
        let (heading, row) = text.split_once("\r\n").expect("two lines");
        assert!(heading.starts_with("time,request_id,") && heading.ends_with(",response"));
        assert!(row.starts_with("2026-11-22T00:00:00.000Z,'=1,,"), "{row}");
        assert!(row.ends_with(",7,true,\"say \"\"hi\"\",\r\n=1+1\",7,true,\r\n"), "{row}");
        for formula in ["=1", "+1", "-1", "@a", "\t1"] {
            assert!(cell(&formula.into()).starts_with('\''), "{formula:?}");
        }
        assert_eq!(cell(&"\n,".into()), "\"'\n,\"");
        assert_eq!(cell(&Value::from(-5)), "-5");
        let without = written(Format::Csv, false, "x");
        assert!(!without.contains("request_bytes") && without.lines().count() == 2);
    }

    #[test]
    fn a_text_is_found_in_any_case_and_inside_a_json_string() {
        #[track_caller]
        fn check(needle: &str, expect: bool) {
            let said = found("{\"content\":\"Say \\\"Hi\\\"\\nto Ünal\"}");
            assert_eq!(Needle::new(needle).is_in(&said), expect);
        }
        check("say \"hi\"\nTO", true);
        check("ÜNAL", true);
        check("\"content\":", true);
        check("bye", false);
    }
}
