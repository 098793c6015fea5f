//! How things are said in OpenTelemetry's messages. What its conventions for generative AI call our endpoints and providers is
//! in `ledger::genai`.

use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value},
    resource::v1::Resource,
};

use crate::config::Otlp;

/// Attributes in the making: what is not known is left out.
#[derive(Default)]
pub(super) struct Attributes(pub(super) Vec<KeyValue>);

impl Attributes {
    pub(super) fn text(&mut self, key: &str, value: &str) -> &mut Self {
        if value.is_empty() { self } else { self.add(key, Value::StringValue(value.to_owned())) }
    }

    pub(super) fn number(&mut self, key: &str, value: u64) -> &mut Self {
        self.add(key, Value::IntValue(i64::try_from(value).unwrap_or(i64::MAX)))
    }

    pub(super) fn fraction(&mut self, key: &str, value: f64) -> &mut Self {
        self.add(key, Value::DoubleValue(value))
    }

    pub(super) fn flag(&mut self, key: &str, value: bool) -> &mut Self {
        self.add(key, Value::BoolValue(value))
    }

    fn add(&mut self, key: &str, value: Value) -> &mut Self {
        let value = Some(AnyValue { value: Some(value) });
        self.0.push(KeyValue { key: key.to_owned(), value, ..KeyValue::default() });
        self
    }
}

/// What is said of this process with everything that is sent.
pub(super) fn resource(settings: &Otlp) -> Resource {
    let mut attributes = Attributes::default();
    for (name, value) in &settings.resource {
        attributes.text(name, value);
    }
    let has = |name: &str| settings.resource.iter().any(|(given, _)| **given == *name);
    if !has("service.version") {
        attributes.text("service.version", env!("CARGO_PKG_VERSION"));
    }
    if !has("process.pid") {
        attributes.number("process.pid", std::process::id().into());
    }
    Resource { attributes: attributes.0, ..Resource::default() }
}

/// Who says it.
pub(super) fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: env!("CARGO_PKG_NAME").to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    }
}
