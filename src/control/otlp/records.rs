//! One exchange as a log record: what the access log says of it, under the same names, joined to its trace.
//!
//! There is one for each exchange, so it is encoded as it is made: as objects, each of its thirty attributes would be two
//! strings and a place in a list. A test compares the bytes with what the messages' own crate makes of such objects.

use opentelemetry_proto::tonic::{logs::v1::SeverityNumber, resource::v1::Resource};
use prost::{
    Message,
    encoding::{encode_varint, encoded_len_varint},
};

use super::words;
use crate::{
    control::access_log::{
        digits,
        render::{Value, Words, members},
    },
    ledger::{logged::Logged, record::Outcome},
};

/// Adds a request with these records (`ExportLogsServiceRequest`) to `body`.
pub(super) fn request(resource: &Resource, records: &[u8], body: &mut Vec<u8>) {
    let (resource, scope) = (resource.encode_to_vec(), words::scope().encode_to_vec());
    let scope_logs = length(scope.len()) + records.len();
    let resource_logs = length(resource.len()) + length(scope_logs);
    body.reserve(length(resource_logs));
    field(body, 1, resource_logs);
    field(body, 1, resource.len());
    body.extend_from_slice(&resource);
    field(body, 2, scope_logs);
    field(body, 1, scope.len());
    body.extend_from_slice(&scope);
    body.extend_from_slice(records);
}

/// Adds a record, as the member of the list that it is, to `records`.
pub(super) fn add(logged: &Logged, words: &Words<'_>, records: &mut Vec<u8>) {
    records.push(key(2, LENGTH));
    let start = records.len();
    // Room for the length that nearly all have.
    records.extend_from_slice(&[0; 2]);
    record(logged, words, records);
    let bytes = records.len() - start - 2;
    let mut length = [0; 10];
    let mut rest = &mut length[..];
    encode_varint(bytes as u64, &mut rest);
    let unused = rest.len();
    let length = &length[..length.len() - unused];
    if let [one, two] = *length {
        records[start..start + 2].copy_from_slice(&[one, two]);
    } else {
        records.splice(start..start + 2, length.iter().copied());
    }
}

/// `LogRecord`.
fn record(logged: &Logged, words: &Words<'_>, to: &mut Vec<u8>) {
    let closed = &logged.closed;
    let trail = closed.trail.as_deref();
    let severity = severity(closed.outcome(), closed.status);
    let ended_unix_ns = logged.ended_unix_ms.saturating_mul(1_000_000).to_le_bytes();
    to.push(key(1, EIGHT_BYTES));
    to.extend_from_slice(&ended_unix_ns);
    to.push(key(2, VARINT));
    encode_varint(severity as u64, to);
    text(
        to,
        3,
        match severity {
            SeverityNumber::Error => "ERROR",
            SeverityNumber::Warn => "WARN",
            _ => "INFO",
        },
    );
    // In a word, for whoever reads no attributes.
    let method = logged.method.and_then(|method| method.token()).unwrap_or("-");
    let (operation, outcome) = (closed.operation, closed.outcome().name());
    let mut status = Vec::new();
    digits::number(closed.status.into(), &mut status);
    let parts = [method.as_bytes(), operation.as_bytes(), &status, outcome.as_bytes()];
    let bytes = parts.iter().map(|part| part.len() + 1).sum::<usize>() - 1;
    field(to, 5, length(bytes));
    field(to, 1, bytes);
    for (place, part) in parts.into_iter().enumerate() {
        if place > 0 {
            to.push(b' ');
        }
        to.extend_from_slice(part);
    }
    let mut shown = Vec::new();
    members(logged, words, |name, value| {
        let name = name.plain;
        match value {
            // Said by the record itself.
            Value::Absent | Value::Time { .. } | Value::Trace(_) => {}
            Value::Text(value) | Value::Word(value) => text_attribute(to, name, value.as_bytes()),
            Value::Address(address) => {
                digits::address(address, &mut shown);
                text_attribute(to, name, &shown);
            }
            Value::Number(number) => {
                let number = number.min(i64::MAX as u64);
                attribute(to, name, 1 + encoded_len_varint(number));
                to.push(key(3, VARINT));
                encode_varint(number, to);
            }
            Value::Flag(flag) => {
                attribute(to, name, 2);
                to.extend_from_slice(&[key(2, VARINT), flag.into()]);
            }
            Value::Millis { us } => fraction(to, name, us as f64 / 1e3),
            Value::Usd(cost) => fraction(to, name, cost.0 as f64 / 1e9),
        }
    });
    if trail.is_some_and(|trail| trail.flags().is_sampled()) {
        to.push(key(8, FOUR_BYTES));
        to.extend_from_slice(&1_u32.to_le_bytes());
    }
    if let Some(trail) = trail {
        field(to, 9, 16);
        to.extend_from_slice(&trail.trace.bytes());
        if let Some(span) = trail.span.or(trail.parent) {
            field(to, 10, 8);
            to.extend_from_slice(&span.bytes());
        }
    }
    to.push(key(11, EIGHT_BYTES));
    to.extend_from_slice(&ended_unix_ns);
    text(to, 12, "ringway.exchange");
}

/// How a field's value is laid out (protobuf's wire types).
const VARINT: u8 = 0;
const EIGHT_BYTES: u8 = 1;
const LENGTH: u8 = 2;
const FOUR_BYTES: u8 = 5;

/// What stands before a field's value. Numbers up to 15 take one byte, and here there are no others.
const fn key(number: u8, layout: u8) -> u8 {
    debug_assert!(number < 16);
    number << 3 | layout
}

/// What a field of so many bytes takes with what stands before it.
fn length(bytes: usize) -> usize {
    1 + encoded_len_varint(bytes as u64) + bytes
}

/// Begins a field of so many bytes.
fn field(to: &mut Vec<u8>, number: u8, bytes: usize) {
    to.push(key(number, LENGTH));
    if let (Ok(byte), true) = (u8::try_from(bytes), bytes < 0x80) {
        to.push(byte);
    } else {
        encode_varint(bytes as u64, to);
    }
}

fn text(to: &mut Vec<u8>, number: u8, value: &str) {
    field(to, number, value.len());
    to.extend_from_slice(value.as_bytes());
}

/// Begins an attribute (`KeyValue`), up to what its `AnyValue` holds, which takes so many bytes.
#[inline(always)]
fn attribute(to: &mut Vec<u8>, name: &str, value_bytes: usize) {
    field(to, 6, length(name.len()) + length(value_bytes));
    text(to, 1, name);
    field(to, 2, value_bytes);
}

/// What is empty is left out.
fn text_attribute(to: &mut Vec<u8>, name: &str, value: &[u8]) {
    if !value.is_empty() {
        attribute(to, name, length(value.len()));
        field(to, 1, value.len());
        to.extend_from_slice(value);
    }
}

fn fraction(to: &mut Vec<u8>, name: &str, value: f64) {
    attribute(to, name, 9);
    to.push(key(4, EIGHT_BYTES));
    to.extend_from_slice(&value.to_le_bytes());
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

#[cfg(test)]
pub(super) mod tests {
    use opentelemetry_proto::tonic::{
        collector::logs::v1::ExportLogsServiceRequest,
        common::v1::{AnyValue, any_value},
        logs::v1::{LogRecord, ResourceLogs, ScopeLogs},
    };

    use super::*;
    use crate::{
        base::{
            ids::{ProviderId, ProviderRoll},
            money::NanoUsd,
            now::Now,
        },
        bridge::logpipe::tests::numbered,
        ledger::{record::Record, sheet::Sheet, trail::Trail},
        wire::{
            http1::head::Method,
            mask::Rules,
            trace_context::{Share, TraceParent},
        },
    };

    /// The request with this record, decoded.
    pub(in super::super) fn decoded(logged: &Logged, words: &Words<'_>) -> LogRecord {
        let (mut records, mut body) = (Vec::new(), Vec::new());
        add(logged, words, &mut records);
        request(&Resource::default(), &records, &mut body);
        let request = ExportLogsServiceRequest::decode(&*body).expect("a request");
        request.resource_logs[0].scope_logs[0].log_records[0].clone()
    }

    /// The same by the messages' crate.
    fn twin(logged: &Logged, words: &Words<'_>) -> LogRecord {
        let mut attributes = words::Attributes::default();
        members(logged, words, |name, value| {
            let name = name.plain;
            _ = match value {
                Value::Absent | Value::Time { .. } | Value::Trace(_) => &mut attributes,
                Value::Text(text) | Value::Word(text) => attributes.text(name, text),
                Value::Address(address) => attributes.text(name, &address.to_canonical().to_string()),
                Value::Number(number) => attributes.number(name, number),
                Value::Flag(flag) => attributes.flag(name, flag),
                Value::Millis { us } => attributes.fraction(name, us as f64 / 1e3),
                Value::Usd(cost) => attributes.fraction(name, cost.0 as f64 / 1e9),
            };
        });
        let closed = &logged.closed;
        let trail = closed.trail.as_deref();
        let severity = severity(closed.outcome(), closed.status);
        let method = logged.method.and_then(|method| method.token()).unwrap_or("-");
        let body = format!("{method} {} {} {}", closed.operation, closed.status, closed.outcome().name());
        LogRecord {
            time_unix_nano: logged.ended_unix_ms * 1_000_000,
            observed_time_unix_nano: logged.ended_unix_ms * 1_000_000,
            severity_number: severity.into(),
            severity_text: severity.as_str_name().trim_start_matches("SEVERITY_NUMBER_").to_owned(),
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

    #[track_caller]
    fn check(exchanges: &[Logged], resource: &Resource) {
        let mut roll = ProviderRoll::default();
        roll.enrol("openai");
        let rules = Rules { email: true, ..Rules::default() };
        let words = Words { core: 3, roll: &roll, rules: &rules };
        let (mut records, mut body) = (Vec::new(), Vec::new());
        exchanges.iter().for_each(|logged| add(logged, &words, &mut records));
        request(resource, &records, &mut body);
        let log_records = exchanges.iter().map(|logged| twin(logged, &words)).collect();
        let scope_logs = vec![ScopeLogs { scope: Some(words::scope()), log_records, ..ScopeLogs::default() }];
        let resource = Some(resource.clone());
        let resource_logs = vec![ResourceLogs { resource, scope_logs, ..ResourceLogs::default() }];
        let twin = ExportLogsServiceRequest { resource_logs };
        assert_eq!(ExportLogsServiceRequest::decode(&*body).expect("a request"), twin);
        assert_eq!(body, twin.encode_to_vec());
    }

    /// An exchange of which everything is known.
    fn whole(model: &str, route: usize, prompt: u64) -> Logged {
        let mut record = Record::new("chat", Now(1_000_000));
        (record.status, record.stream, record.attempts) = (429, true, 2);
        record.provider = Some(ProviderId(0));
        (record.model_asked, record.model_used) = (model.into(), "me@example.com".into());
        record.cost = Some(NanoUsd(3_340_000));
        (record.tokens.prompt, record.tokens.completion) = (Some(prompt), Some(0));
        record.phases.first_token = Some(Now(420_500_000));
        let client = TraceParent::parse(b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
        record.trail = Some(Box::new(Trail::join(client, false, Share::ALL, || 7)));
        Logged {
            closed: record.close(Now(1_901_250_000), Outcome::Completed, &mut Sheet::default()),
            request_id: "0193-abc_D".into(),
            method: Some(Method::Post),
            route: Some("r".repeat(route).into()),
            ..numbered(1_795_357_672_123)
        }
    }

    #[test]
    fn the_bytes_are_those_that_the_messages_crate_makes() {
        let mut resource = words::Attributes::default();
        resource.text("service.name", "ringway").text("long", &"x".repeat(20_000));
        let resource = Resource { attributes: resource.0, ..Resource::default() };
        check(&[], &Resource::default());
        check(&[numbered(1)], &Resource::default());
        // Lengths of one, two and three bytes; numbers up to the largest, and beyond what the messages have room for.
        for route in [1, 100, 127, 128, 140, 16_383, 16_384, 70_000] {
            check(&[whole("gpt-4o", route, 127), numbered(1), whole("", 1, 128)], &resource);
        }
        check(&[whole("openai/sk-proj-0123456789", 1, u64::MAX), whole("é", 9, i64::MAX as u64)], &resource);
    }
}
