//! One exchange as a log record: what the access log says of it, under the same names, joined to its trace.
//!
//! There is one for each exchange, so it is encoded as it is made: as objects, each of its thirty attributes would be two
//! strings and a place in a list. A test compares the bytes with what the messages' own crate makes of such objects.

use opentelemetry_proto::tonic::{logs::v1::SeverityNumber, resource::v1::Resource, trace::v1::Span};
use prost::{
    Message,
    encoding::{encode_varint, encoded_len_varint, message},
};

use super::words;
use crate::{
    control::access_log::{
        Told, digits,
        render::{Listener, Name, Value, members},
    },
    ledger::{gist::Traced, record::Outcome},
};

/// What stands before the records, or the spans, of every request: the messages around them have the same numbers.
pub(super) struct Preamble {
    resource: Vec<u8>,
    scope: Vec<u8>,
}

impl Preamble {
    pub(super) fn new(resource: &Resource) -> Self {
        Self { resource: resource.encode_to_vec(), scope: words::scope().encode_to_vec() }
    }

    /// So many bytes are left free before the records of a request: what comes there is known when they are all there, and
    /// they are not moved for it.
    pub(super) fn room(&self) -> usize {
        const FIELDS: usize = 4;
        self.resource.len() + self.scope.len() + FIELDS * (1 + VARINT_BYTES_MAX)
    }

    /// Makes a request (`ExportLogsServiceRequest`) of a body in which records stand behind the room. It begins where this says.
    pub(super) fn put(&self, body: &mut [u8]) -> usize {
        let Self { resource, scope } = self;
        let records = body.len().saturating_sub(self.room());
        let scope_logs = length(scope.len()) + records;
        let resource_logs = length(resource.len()) + length(scope_logs);
        let mut head = Vec::with_capacity(self.room());
        field(&mut head, 1, resource_logs);
        field(&mut head, 1, resource.len());
        head.extend_from_slice(resource);
        field(&mut head, 2, scope_logs);
        field(&mut head, 1, scope.len());
        head.extend_from_slice(scope);
        let begin = self.room() - head.len();
        body[begin..self.room()].copy_from_slice(&head);
        begin
    }
}

/// Adds a span, as the member of the list that it is.
pub(super) fn put_span(span: &Span, spans: &mut Vec<u8>) {
    message::encode(2, span, spans);
}

/// Adds a record, as the member of the list that it is, to `records`.
pub fn add(told: &Told<'_>, records: &mut Vec<u8>) {
    records.reserve(RECORD_BYTES);
    records.push(key(2, LENGTH));
    let start = records.len();
    // Room for the length that nearly all have.
    records.extend_from_slice(&[0; 2]);
    record(told, records);
    let bytes = records.len() - start - 2;
    let mut length = [0; VARINT_BYTES_MAX];
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

/// Nearly all records are shorter.
const RECORD_BYTES: usize = 1_024;
const VARINT_BYTES_MAX: usize = 10;

/// `LogRecord`.
fn record(told: &Told<'_>, to: &mut Vec<u8>) {
    let logged = told.logged;
    let gist = &logged.gist;
    let severity = severity(gist.outcome, gist.status);
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
    let (operation, outcome) = (gist.operation, gist.outcome.name());
    // The words are our own: they fit into a length of one byte.
    let start = to.len() + 4;
    to.extend_from_slice(&[key(5, LENGTH), 0, key(1, LENGTH), 0]);
    to.extend_from_slice(method.as_bytes());
    to.push(b' ');
    to.extend_from_slice(operation.as_bytes());
    to.push(b' ');
    digits::number(gist.status.into(), to);
    to.push(b' ');
    to.extend_from_slice(outcome.as_bytes());
    let bytes = to.len() - start;
    debug_assert!(bytes + 2 < 0x80, "a few short words");
    let bytes = u8::try_from(bytes).unwrap_or(0);
    (to[start - 3], to[start - 1]) = (bytes + 2, bytes);
    members(told, &mut Attributes(to));
    if let Some(Traced { trace, span, is_sampled }) = gist.trace {
        if is_sampled {
            to.push(key(8, FOUR_BYTES));
            to.extend_from_slice(&1_u32.to_le_bytes());
        }
        field(to, 9, 16);
        to.extend_from_slice(&trace.bytes());
        if let Some(span) = span {
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
#[inline]
fn length(bytes: usize) -> usize {
    1 + if bytes < 0x80 { 1 } else { encoded_len_varint(bytes as u64) } + bytes
}

/// Begins a field of so many bytes.
#[inline]
fn field(to: &mut Vec<u8>, number: u8, bytes: usize) {
    if let (Ok(byte), true) = (u8::try_from(bytes), bytes < 0x80) {
        to.extend_from_slice(&[key(number, LENGTH), byte]);
    } else {
        to.push(key(number, LENGTH));
        encode_varint(bytes as u64, to);
    }
}

fn text(to: &mut Vec<u8>, number: u8, value: &str) {
    field(to, number, value.len());
    to.extend_from_slice(value.as_bytes());
}

/// Where members become attributes.
struct Attributes<'a>(&'a mut Vec<u8>);

impl Listener for Attributes<'_> {
    // Inlined, because then the bytes of each member's name are known, and its kind of value is not looked at.
    #[inline(always)]
    fn hear(&mut self, name: Name, value: Value<'_>) {
        let to = &mut *self.0;
        match value {
            // Said by the record itself.
            Value::Absent | Value::Time { .. } | Value::Trace(_) => {}
            Value::Text(value) => text_attribute(to, name, value),
            Value::Word(value) => text_attribute(to, name, value.as_bytes()),
            Value::Address(address) => {
                // Its length is known when it is there.
                let start = to.len();
                to.extend_from_slice(name.attribute);
                let value = to.len();
                to.extend_from_slice(&[0, key(1, LENGTH), 0]);
                digits::address(address, to);
                let bytes = u8::try_from(to.len() - value - 3).unwrap_or(0);
                debug_assert!(usize::from(bytes) < ROOM, "no address is so long");
                (to[start + 1], to[value], to[value + 2]) = (to[start + 1] + 3 + bytes, bytes + 2, bytes);
            }
            Value::Number(number) => {
                let mut form = [key(3, VARINT); 2 + VARINT_BYTES_MAX];
                let bytes = varint(number.min(i64::MAX as u64), &mut form[2..]);
                form[0] = 1 + bytes;
                form_attribute(to, name, form);
            }
            Value::Flag(flag) => form_attribute(to, name, [2, key(2, VARINT), flag.into()]),
            Value::Millis { us } => fraction(to, name, us as f64 / 1e3),
            Value::Usd(cost) => fraction(to, name, cost.0 as f64 / 1e9),
        }
    }
}

/// So many bytes may an attribute's value have at least without one of its lengths taking more than a byte.
const ROOM: usize = 0x80 - 0x40 - 7;

/// An attribute (`KeyValue`) whose value (`AnyValue`) begins with its length, and may be shorter than its form.
#[inline(always)]
fn form_attribute<const FORM: usize>(to: &mut Vec<u8>, name: Name, form: [u8; FORM]) {
    const { assert!(FORM < ROOM) };
    let start = to.len();
    to.extend_from_slice(name.attribute);
    // Of a size that is known, so that nothing is called for it.
    to.extend_from_slice(&form);
    to.truncate(start + name.attribute.len() + 1 + usize::from(form[0]));
    to[start + 1] += 1 + form[0];
}

#[inline(always)]
fn fraction(to: &mut Vec<u8>, name: Name, value: f64) {
    let mut form = [9, key(4, EIGHT_BYTES), 0, 0, 0, 0, 0, 0, 0, 0];
    form[2..].copy_from_slice(&value.to_le_bytes());
    form_attribute(to, name, form);
}

/// What is empty is left out.
#[inline(always)]
fn text_attribute(to: &mut Vec<u8>, name: Name, value: &[u8]) {
    if let (1..ROOM, Ok(bytes)) = (value.len(), u8::try_from(value.len())) {
        let start = to.len();
        to.extend_from_slice(name.attribute);
        to.extend_from_slice(&[bytes + 2, key(1, LENGTH), bytes]);
        to.extend_from_slice(value);
        to[start + 1] += 3 + bytes;
    } else if !value.is_empty() {
        long_attribute(to, name, value);
    }
}

#[cold]
fn long_attribute(to: &mut Vec<u8>, name: Name, value: &[u8]) {
    let [_, _, named @ .., last] = name.attribute else { return };
    let value_bytes = length(value.len());
    field(to, 6, named.len() + length(value_bytes));
    to.extend_from_slice(named);
    to.push(*last);
    encode_varint(value_bytes as u64, to);
    field(to, 1, value.len());
    to.extend_from_slice(value);
}

/// Puts a number to the beginning of a form that has room for all of them. How many bytes it takes.
#[inline(always)]
fn varint(mut number: u64, form: &mut [u8]) -> u8 {
    let mut bytes = 0;
    for byte in form {
        bytes += 1;
        *byte = number.to_le_bytes()[0] | 0x80;
        number >>= 7;
        if number == 0 {
            *byte &= 0x7f;
            break;
        }
    }
    bytes
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
        control::access_log::Words,
        ledger::{logged::Logged, record::Record, sheet::Sheet, trail::Trail},
        wire::{
            http1::head::Method,
            mask::Rules,
            trace_context::{Share, TraceParent},
        },
    };

    /// The request with these records.
    fn body(exchanges: &[Logged], words: &Words<'_>, resource: &Resource) -> Vec<u8> {
        let preamble = Preamble::new(resource);
        let mut body = vec![0; preamble.room()];
        exchanges.iter().for_each(|logged| add(&Told::of(logged, words), &mut body));
        let begin = preamble.put(&mut body);
        body.split_off(begin)
    }

    /// The request with this record, decoded.
    pub(in super::super) fn decoded(logged: &Logged, words: &Words<'_>) -> LogRecord {
        let body = body(std::slice::from_ref(logged), words, &Resource::default());
        let request = ExportLogsServiceRequest::decode(&*body).expect("a request");
        request.resource_logs[0].scope_logs[0].log_records[0].clone()
    }

    /// The same by the messages' crate.
    fn twin(logged: &Logged, words: &Words<'_>) -> LogRecord {
        let mut attributes = words::Attributes::default();
        members(&Told::of(logged, words), &mut |name: Name, value: Value<'_>| {
            let name = name.plain;
            _ = match value {
                Value::Absent | Value::Time { .. } | Value::Trace(_) => &mut attributes,
                Value::Text(text) => attributes.text(name, std::str::from_utf8(text).expect("text")),
                Value::Word(word) => attributes.text(name, word),
                Value::Address(address) => attributes.text(name, &address.to_canonical().to_string()),
                Value::Number(number) => attributes.number(name, number),
                Value::Flag(flag) => attributes.flag(name, flag),
                Value::Millis { us } => attributes.fraction(name, us as f64 / 1e3),
                Value::Usd(cost) => attributes.fraction(name, cost.0 as f64 / 1e9),
            };
        });
        let gist = &logged.gist;
        let severity = severity(gist.outcome, gist.status);
        let method = logged.method.and_then(|method| method.token()).unwrap_or("-");
        let body = format!("{method} {} {} {}", gist.operation, gist.status, gist.outcome.name());
        LogRecord {
            time_unix_nano: logged.ended_unix_ms * 1_000_000,
            observed_time_unix_nano: logged.ended_unix_ms * 1_000_000,
            severity_number: severity.into(),
            severity_text: severity.as_str_name().trim_start_matches("SEVERITY_NUMBER_").to_owned(),
            event_name: "ringway.exchange".to_owned(),
            body: Some(AnyValue { value: Some(any_value::Value::StringValue(body)) }),
            attributes: attributes.0,
            flags: gist.trace.map_or(0, |traced| traced.is_sampled.into()),
            trace_id: gist.trace.map_or_else(Vec::new, |traced| traced.trace.bytes().to_vec()),
            span_id: gist
                .trace
                .and_then(|traced| traced.span)
                .map_or_else(Vec::new, |span| span.bytes().to_vec()),
            ..LogRecord::default()
        }
    }

    #[track_caller]
    fn check(exchanges: &[Logged], resource: &Resource) {
        let mut roll = ProviderRoll::default();
        roll.enrol("openai");
        let rules = Rules { email: true, ..Rules::default() };
        let words = Words::new(3, &roll, &rules);
        let body = body(exchanges, &words, resource);
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
            gist: record.close(Now(1_901_250_000), Outcome::Completed, &mut Sheet::default()).gist(),
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
        for route in [1, ROOM - 1, ROOM, 100, 127, 128, 140, 16_383, 16_384, 70_000] {
            check(&[whole("gpt-4o", route, 127), numbered(1), whole("", 1, 128)], &resource);
        }
        check(&[whole("openai/sk-proj-0123456789", 1, u64::MAX), whole("é", 9, i64::MAX as u64)], &resource);
    }
}
