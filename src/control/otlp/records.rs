//! One exchange as a log record: what the access log says of it, under the same names, joined to its trace.

use opentelemetry_proto::tonic::{
    collector::logs::v1::ExportLogsServiceRequest,
    common::v1::{AnyValue, any_value},
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber},
    resource::v1::Resource,
};

use super::words::{self, Attributes};
use crate::{
    control::access_log::render::{Value, Words, members},
    ledger::{logged::Logged, record::Outcome},
};

/// A request with these records.
pub(super) fn request(resource: Resource, log_records: Vec<LogRecord>) -> ExportLogsServiceRequest {
    let scope_logs = vec![ScopeLogs { scope: Some(words::scope()), log_records, ..ScopeLogs::default() }];
    let resource_logs = ResourceLogs { resource: Some(resource), scope_logs, ..ResourceLogs::default() };
    ExportLogsServiceRequest { resource_logs: vec![resource_logs] }
}

pub(super) fn record(logged: &Logged, words: &Words<'_>) -> LogRecord {
    let mut attributes = Attributes::default();
    members(logged, words, |name, value| {
        _ = match value {
            // Said by the record itself.
            Value::Absent | Value::Time { .. } | Value::Trace(_) => &mut attributes,
            Value::Text(text) | Value::Word(text) => attributes.text(name.plain, text),
            Value::Address(address) => attributes.text(name.plain, &address.to_canonical().to_string()),
            Value::Number(number) => attributes.number(name.plain, number),
            Value::Flag(flag) => attributes.flag(name.plain, flag),
            Value::Millis { us } => attributes.fraction(name.plain, us as f64 / 1e3),
            Value::Usd(cost) => attributes.fraction(name.plain, cost.0 as f64 / 1e9),
        };
    });
    let closed = &logged.closed;
    let trail = closed.trail.as_deref();
    let severity = severity(closed.outcome(), closed.status);
    let method = logged.method.and_then(|method| method.token()).unwrap_or("-");
    let body = format!("{method} {} {} {}", closed.operation, closed.status, closed.outcome().name());
    let ended_unix_ns = logged.ended_unix_ms.saturating_mul(1_000_000);
    LogRecord {
        time_unix_nano: ended_unix_ns,
        observed_time_unix_nano: ended_unix_ns,
        severity_number: severity.into(),
        severity_text: match severity {
            SeverityNumber::Error => "ERROR".to_owned(),
            SeverityNumber::Warn => "WARN".to_owned(),
            _ => "INFO".to_owned(),
        },
        event_name: "ringway.exchange".to_owned(),
        body: Some(AnyValue { value: Some(any_value::Value::StringValue(body)) }),
        attributes: attributes.0,
        flags: trail.map_or(0, |trail| trail.flags().is_sampled().into()),
        trace_id: trail.map_or_else(Vec::new, |trail| trail.trace.bytes().to_vec()),
        span_id: trail
            .and_then(|trail| trail.span.or(trail.parent))
            .map_or_else(Vec::new, |span| span.bytes().to_vec()),
        ..LogRecord::default()
    }
}

/// What an operator should look at is an error, what a client should is a warning.
fn severity(outcome: Outcome, status: u16) -> SeverityNumber {
    match (outcome, status) {
        (Outcome::Completed | Outcome::Refused, 500..) => SeverityNumber::Error,
        (Outcome::Completed | Outcome::Refused, 400..) | (Outcome::ClientGone, _) => SeverityNumber::Warn,
        (Outcome::Completed | Outcome::Refused, _) => SeverityNumber::Info,
        _ => SeverityNumber::Error,
    }
}
