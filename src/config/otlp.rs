//! OpenTelemetry: where metrics, traces and logs are sent, and what is said of this process there. Off without the table.

use std::{collections::BTreeSet, fmt, ops::RangeInclusive, time::Duration};

use super::{
    access_log::AccessLog,
    certificate,
    logs::{KeptLogs, share},
    raw::{Field, Table, Text},
    url::{BaseUrl, Host},
};
use crate::{
    base::{
        limits::{
            NAME_BYTES_MAX, OTLP_ATTRIBUTES_MAX, OTLP_INTERVAL, OTLP_INTERVAL_FLOOR, OTLP_TIME, OTLP_TIME_MAX,
        },
        secret::Secret,
    },
    wire::trace_context::Share,
};

/// What is exported, and to whom; taken up at the start alone.
#[derive(Debug)]
pub struct Otlp {
    /// Begins with its scheme, and does not end with `/`; `/v1/traces` and the like follow it.
    pub endpoint: Box<str>,
    pub tls: bool,
    /// Certificates (PEM) trusted besides the public roots.
    pub ca: Option<Vec<u8>>,
    /// Sent with every request; collectors want keys here.
    pub headers: Vec<(Box<str>, Secret)>,
    pub signals: Signals,
    /// How often metrics are sent, and the longest that spans and logs wait for company.
    pub interval: Duration,
    /// For one request.
    pub timeout: Duration,
    /// Of the traces that begin here.
    pub share: Share,
    /// What is said of this process, `service.name` among it.
    pub resource: Vec<(Box<str>, Box<str>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signals {
    pub metrics: bool,
    pub traces: bool,
    pub logs: bool,
}

impl PartialEq for Otlp {
    fn eq(&self, other: &Self) -> bool {
        let Self { endpoint, tls, ca, headers, signals, interval, timeout, share, resource } = self;
        let same_headers = headers.len() == other.headers.len()
            && headers
                .iter()
                .zip(&other.headers)
                .all(|((name, value), (other, theirs))| name == other && value.expose() == theirs.expose());
        same_headers
            && (endpoint, tls, ca, signals) == (&other.endpoint, &other.tls, &other.ca, &other.signals)
            && (interval, timeout, share, resource)
                == (&other.interval, &other.timeout, &other.share, &other.resource)
    }
}

impl Eq for Otlp {}

/// What an exchange has to do with the trace that its client may be in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracing {
    /// Nothing: what the client says of it is passed on, and not even read.
    Off,
    /// Its number stands in a log; all else as before.
    Noted,
    /// A span for the exchange and one for each attempt; of traces that begin here, this share.
    Joined(Share),
}

impl Tracing {
    pub(super) fn of(otlp: Option<&Otlp>, access_log: &AccessLog, kept: Option<&KeptLogs>) -> Self {
        match otlp {
            Some(otlp) if otlp.signals.traces => Self::Joined(otlp.share),
            Some(Otlp { signals: Signals { logs: true, .. }, .. }) => Self::Noted,
            _ if access_log.to.is_some() || kept.is_some() => Self::Noted,
            _ => Self::Off,
        }
    }
}

const INTERVAL: RangeInclusive<Duration> = OTLP_INTERVAL_FLOOR..=Duration::from_secs(3600);
const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(100)..=OTLP_TIME_MAX;

/// Compiles the table.
pub(super) fn otlp(table: Option<Table<'_>>) -> Option<Otlp> {
    let mut table = table?;
    let given = table.get("endpoint").map(Field::text);
    if given.is_none() {
        table.complain("there is no endpoint to send to", "endpoint = \"http://127.0.0.1:4318\"");
    }
    let endpoint = given.flatten().and_then(|text| Some((endpoint(&text)?, text)));
    let headers = table.table("headers").map(headers).unwrap_or_default();
    let signals = table.get("signals").and_then(Field::texts).map(|texts| signals(&texts));
    let interval = table.get("interval_secs").and_then(|field| field.secs(INTERVAL));
    let timeout = table.get("timeout_secs").and_then(|field| field.secs(TIMEOUT));
    let sample = table.get("sample").and_then(share);
    let service = table.get("service_name").and_then(Field::text);
    let resource = resource(service, table.table("resource"));
    let ca_file = table.get("ca_file").and_then(Field::text);
    let ca = ca_file.as_ref().and_then(|file| certificate::authorities(file, table.around()));
    table.close();
    let ((endpoint, url), text) = endpoint?;
    if let (Some(file), false) = (&ca_file, url.tls) {
        file.warn(
            "certificates are not used without TLS",
            "leave ca_file out, or begin endpoint with https://",
        );
    }
    let is_near = match &url.host {
        Host::Address(ip) => ip.is_loopback(),
        Host::Name(_) => url.host.is_loopback(),
    };
    if !url.tls && !is_near {
        text.warn("what is sent there can be read on the way", "begin endpoint with https://");
    }
    Some(Otlp {
        endpoint: endpoint.into(),
        tls: url.tls,
        ca,
        headers,
        signals: signals.unwrap_or(Signals { metrics: true, traces: true, logs: true }),
        interval: interval.unwrap_or(OTLP_INTERVAL),
        timeout: timeout.unwrap_or(OTLP_TIME),
        share: sample.map_or(Share::ALL, Share::of_million),
        resource,
    })
}

/// The endpoint without its end, and its parts.
fn endpoint(text: &Text<'_>) -> Option<(String, BaseUrl)> {
    let url = match BaseUrl::parse(&text.value) {
        Ok(url) => url,
        Err(wrong) => {
            text.complain(wrong.what, wrong.fix);
            return None;
        }
    };
    let whole = text.value.trim_end_matches('/');
    if ["/v1/traces", "/v1/metrics", "/v1/logs"].iter().any(|path| whole.ends_with(path)) {
        text.complain(
            "this is the address of one signal",
            "leave out its path: /v1/traces and the like are added",
        );
        return None;
    }
    Some((whole.to_owned(), url))
}

fn headers(table: Table<'_>) -> Vec<(Box<str>, Secret)> {
    let header = |named: super::raw::Named<'_>| {
        let name = named.name.to_ascii_lowercase();
        let is_token = !name.is_empty()
            && name.len() <= NAME_BYTES_MAX
            && name
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte));
        if !is_token || OURS.contains(&&*name) {
            named.complain(
                "this header cannot be set here",
                "a collector's own, such as `authorization` or `api-key`",
            );
            return None;
        }
        let value = named.field.secret()?;
        let is_safe = !value.value.is_empty() && value.value.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        if !is_safe || value.value.trim() != value.value.as_str() {
            value.complain("this cannot stand in a header", "printable ASCII without white space around it");
            return None;
        }
        Some((name.into(), Secret::new(value.value.as_bytes().to_vec())))
    };
    table.named().into_iter().filter_map(header).collect()
}

/// What the transport says itself.
const OURS: [&str; 7] = [
    "host",
    "connection",
    "content-length",
    "content-type",
    "content-encoding",
    "transfer-encoding",
    "accept",
];

fn signals(texts: &[Text<'_>]) -> Signals {
    let choices = [("metrics", 0), ("traces", 1), ("logs", 2)];
    let chosen: BTreeSet<usize> = texts.iter().filter_map(|text| text.choose(&choices)).collect();
    Signals { metrics: chosen.contains(&0), traces: chosen.contains(&1), logs: chosen.contains(&2) }
}

fn resource(service: Option<Text<'_>>, table: Option<Table<'_>>) -> Vec<(Box<str>, Box<str>)> {
    let service = service.map_or_else(|| "ringway".to_owned(), |text| text.value.to_string());
    let mut resource: Vec<(Box<str>, Box<str>)> = vec![("service.name".into(), service.into())];
    for named in table.map(Table::named).unwrap_or_default() {
        let is_name = named.name.starts_with(|c: char| c.is_ascii_lowercase())
            && named.name.len() <= NAME_BYTES_MAX
            && named
                .name
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._".contains(&byte));
        if !is_name || named.name == "service.name" || resource.len() > OTLP_ATTRIBUTES_MAX {
            named.complain(
                "this is no name for an attribute of the resource, or one too many",
                "\"deployment.environment.name\" = \"edge\"; the service's name is `service_name`",
            );
            continue;
        }
        if let Some(text) = named.field.text() {
            resource.push((named.name.into(), text.value.as_str().into()));
        }
    }
    resource
}

impl fmt::Display for Signals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [("metrics", self.metrics), ("traces", self.traces), ("logs", self.logs)];
        let on: Vec<&str> = names.into_iter().filter_map(|(name, is_on)| is_on.then_some(name)).collect();
        f.write_str(&on.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{check as check_said, compiled},
        *,
    };

    const PROVIDER: &str = "[[provider]]\nname = \"p\"\nauth = \"none\"\nbase_url = \"http://127.0.0.1:1\"\n";

    #[track_caller]
    fn check_tracing(settings: &str, expect: Tracing) {
        assert_eq!(compiled(&format!("{PROVIDER}{settings}")).snapshot.tracing, expect);
    }

    #[test]
    fn nothing_is_exported_without_the_table_and_everything_with_it() {
        assert_eq!(compiled(PROVIDER).snapshot.otlp, None);
        let text = format!("{PROVIDER}[otlp]\nendpoint = \"http://127.0.0.1:4318/\"\n");
        let otlp = compiled(&text).snapshot.otlp.expect("a table");
        assert_eq!((&*otlp.endpoint, otlp.tls), ("http://127.0.0.1:4318", false));
        assert_eq!(otlp.signals.to_string(), "metrics, traces, logs");
        assert_eq!((otlp.interval, otlp.timeout, otlp.share), (OTLP_INTERVAL, OTLP_TIME, Share::ALL));
        assert_eq!(otlp.resource, [("service.name".into(), "ringway".into())]);
        let text = format!(
            "{PROVIDER}[otlp]\nendpoint = \"https://collector.example/base\"\nsignals = [\"traces\"]\n\
             interval_secs = 5\nsample = 0.5\nservice_name = \"edge\"\nheaders = {{ Authorization = \"Bearer x\" }}\n\
             resource = {{ \"host.name\" = \"a\" }}\n"
        );
        let other = compiled(&text).snapshot.otlp.expect("a table");
        assert_eq!((&*other.endpoint, other.tls), ("https://collector.example/base", true));
        assert_eq!(&*other.headers[0].0, "authorization");
        assert_eq!(other.resource[1], ("host.name".into(), "a".into()));
        assert!(otlp != other && other == compiled(&text).snapshot.otlp.expect("a table"));
        let changed = text.replace("Bearer x", "Bearer y");
        assert!(other != compiled(&changed).snapshot.otlp.expect("a table"));
    }

    #[test]
    fn traces_are_joined_noted_or_not_even_read() {
        let otlp = "[otlp]\nendpoint = \"http://127.0.0.1:4318\"\n";
        check_tracing("", Tracing::Off);
        check_tracing("[access_log]\nto = \"stdout\"", Tracing::Noted);
        check_tracing("[state]\ndir = \"/s\"\n[logs]", Tracing::Noted);
        check_tracing(&format!("{otlp}signals = \"metrics\""), Tracing::Off);
        check_tracing(&format!("{otlp}signals = [\"metrics\", \"logs\"]"), Tracing::Noted);
        check_tracing(otlp, Tracing::Joined(Share::ALL));
        check_tracing(&format!("{otlp}sample = 0.25"), Tracing::Joined(Share::of_million(250_000)));
    }

    #[test]
    fn what_cannot_be_sent_is_complained_of() {
        let with = |settings: &str| format!("{PROVIDER}[otlp]\n{settings}\n");
        check_said(&with("sample = 1"), &["5:1 otlp: there is no endpoint to send to"]);
        check_said(&with("endpoint = \"collector:4318\""), &["6:12 otlp.endpoint: this URL has no scheme"]);
        check_said(
            &with("endpoint = \"http://127.0.0.1:4318/v1/traces\""),
            &["6:12 otlp.endpoint: this is the address of one signal"],
        );
        let good = "endpoint = \"http://127.0.0.1:4318\"\n";
        check_said(
            &with(&format!("{good}headers = {{ host = \"a\" }}")),
            &["7:13 otlp.headers: this header cannot be set here"],
        );
        check_said(
            &with(&format!("{good}headers = {{ api-key = \" a\" }}")),
            &["7:23 otlp.headers: this cannot stand in a header"],
        );
        check_said(
            &with(&format!("{good}signals = [\"spans\"]")),
            &["7:12 otlp.signals[0]: `spans` is not a choice here"],
        );
        check_said(
            &with(&format!("{good}resource = {{ \"Host\" = \"a\" }}")),
            &["7:14 otlp.resource: this is no name for an attribute of the resource, or one too many"],
        );
    }
}
