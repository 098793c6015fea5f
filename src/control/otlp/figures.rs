//! The families of `/metrics` as OpenTelemetry's metrics, under their own names; those of `gen_ai.*` under theirs. Counters
//! and histograms are cumulative, from the start of this process: what is lost on the way is in the next one.

use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    common::v1::KeyValue,
    metrics::v1::{
        AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint,
        ResourceMetrics, ScopeMetrics, Sum, Summary, SummaryDataPoint, metric::Data, number_data_point,
    },
    resource::v1::Resource,
};

use super::{
    page::{self, Family, Sample},
    words::{self, Attributes},
};

/// From when to when the figures are.
#[derive(Clone, Copy)]
pub(super) struct Span {
    pub(super) from_unix_ns: u64,
    pub(super) to_unix_ns: u64,
}

/// A request with everything on the page, and how many data points those are.
pub(super) fn request(resource: Resource, page: &str, span: Span) -> (ExportMetricsServiceRequest, u64) {
    let families = page::read(page);
    let metrics: Vec<Metric> = families.iter().filter_map(|family| metric(family, span)).collect();
    let points = metrics.iter().map(points).sum();
    let scope_metrics =
        vec![ScopeMetrics { scope: Some(words::scope()), metrics, ..ScopeMetrics::default() }];
    let resource_metrics =
        ResourceMetrics { resource: Some(resource), scope_metrics, ..ResourceMetrics::default() };
    (ExportMetricsServiceRequest { resource_metrics: vec![resource_metrics] }, points)
}

fn points(metric: &Metric) -> u64 {
    let count = match &metric.data {
        Some(Data::Gauge(gauge)) => gauge.data_points.len(),
        Some(Data::Sum(sum)) => sum.data_points.len(),
        Some(Data::Histogram(histogram)) => histogram.data_points.len(),
        Some(Data::Summary(summary)) => summary.data_points.len(),
        _ => 0,
    };
    count as u64
}

/// A family that has samples.
fn metric(family: &Family<'_>, span: Span) -> Option<Metric> {
    if family.samples.is_empty() {
        return None;
    }
    let temporality = AggregationTemporality::Cumulative.into();
    let data = match family.kind {
        "counter" => Data::Sum(Sum {
            data_points: numbers(family, span),
            aggregation_temporality: temporality,
            is_monotonic: true,
        }),
        "histogram" => Data::Histogram(Histogram {
            data_points: histograms(family, span),
            aggregation_temporality: temporality,
        }),
        "summary" => Data::Summary(Summary { data_points: summaries(family, span) }),
        _ => Data::Gauge(Gauge { data_points: numbers(family, Span { from_unix_ns: 0, ..span }) }),
    };
    let (name, unit) = name(family.name);
    Some(Metric { name, unit, description: family.help.clone(), data: Some(data), ..Metric::default() })
}

/// What a family is called there, and its unit (UCUM).
fn name(ours: &str) -> (String, String) {
    let base = ours.strip_suffix("_total").unwrap_or(ours);
    let unit = [("_seconds", "s"), ("_bytes", "By"), ("_usd", "{USD}"), ("_ratio", "1")];
    let unit = unit.into_iter().find(|(suffix, _)| base.ends_with(suffix));
    let conventional = [
        ("gen_ai_client_token_usage", "gen_ai.client.token.usage"),
        ("gen_ai_client_operation_duration", "gen_ai.client.operation.duration"),
        ("gen_ai_client_operation_time_to_first_chunk", "gen_ai.client.operation.time_to_first_chunk"),
        ("gen_ai_client_operation_time_per_output_chunk", "gen_ai.client.operation.time_per_output_chunk"),
        ("gen_ai_server_request_duration", "gen_ai.server.request.duration"),
        ("gen_ai_server_time_to_first_token", "gen_ai.server.time_to_first_token"),
        ("gen_ai_server_time_per_output_token", "gen_ai.server.time_per_output_token"),
    ];
    let bare = unit.map_or(base, |(suffix, _)| base.strip_suffix(suffix).unwrap_or(base));
    match conventional.into_iter().find(|(text, _)| *text == bare) {
        Some((_, name)) => (name.to_owned(), unit.map_or("{token}", |(_, unit)| unit).to_owned()),
        None => (ours.to_owned(), unit.map_or("", |(_, unit)| unit).to_owned()),
    }
}

/// What a label is called there.
fn label(ours: &str) -> &str {
    match ours {
        "gen_ai_operation_name" => "gen_ai.operation.name",
        "gen_ai_provider_name" => "gen_ai.provider.name",
        "gen_ai_token_type" => "gen_ai.token.type",
        "gen_ai_request_model" => "gen_ai.request.model",
        "gen_ai_response_model" => "gen_ai.response.model",
        "server_address" => "server.address",
        "server_port" => "server.port",
        "error_type" => "error.type",
        other => other,
    }
}

fn attributes(sample: &Sample<'_>) -> Vec<KeyValue> {
    let mut attributes = Attributes::default();
    for (name, value) in sample.labels.iter().filter(|(name, _)| *name != "le") {
        attributes.text(label(name), value);
    }
    attributes.0
}

fn numbers(family: &Family<'_>, span: Span) -> Vec<NumberDataPoint> {
    // One type for all points of a metric, and the same one each time: dollars and seconds are fractions even if whole.
    let has_fraction = ["_seconds", "_usd", "_ratio"].iter().any(|unit| family.name.contains(unit))
        || family.samples.iter().any(|sample| sample.value.parse::<i64>().is_err());
    let point = |sample: &Sample<'_>| NumberDataPoint {
        attributes: attributes(sample),
        start_time_unix_nano: span.from_unix_ns,
        time_unix_nano: span.to_unix_ns,
        value: Some(match sample.value.parse::<i64>() {
            Ok(whole) if !has_fraction => number_data_point::Value::AsInt(whole),
            _ => number_data_point::Value::AsDouble(fraction(sample.value)),
        }),
        ..NumberDataPoint::default()
    };
    family.samples.iter().map(point).collect()
}

fn fraction(value: &str) -> f64 {
    value.parse().unwrap_or_default()
}

/// Samples that differ in nothing but the bound are one histogram. They stand together, and in the order of their bounds.
fn histograms(family: &Family<'_>, span: Span) -> Vec<HistogramDataPoint> {
    let mut points: Vec<HistogramDataPoint> = Vec::new();
    let mut so_far = 0;
    let mut is_open = false;
    for sample in &family.samples {
        if !is_open {
            points.push(HistogramDataPoint {
                attributes: attributes(sample),
                start_time_unix_nano: span.from_unix_ns,
                time_unix_nano: span.to_unix_ns,
                ..HistogramDataPoint::default()
            });
            (is_open, so_far) = (true, 0);
        }
        let Some(point) = points.last_mut() else { continue };
        match sample.suffix {
            "_bucket" => {
                let bound =
                    sample.labels.iter().find(|(name, _)| *name == "le").map(|(_, bound)| bound.as_str());
                if let Some(bound) = bound.filter(|bound| *bound != "+Inf") {
                    point.explicit_bounds.push(fraction(bound));
                }
                let cumulative: u64 = sample.value.parse().unwrap_or(so_far);
                point.bucket_counts.push(cumulative.saturating_sub(so_far));
                so_far = cumulative;
            }
            "_sum" => point.sum = Some(fraction(sample.value)),
            _ => {
                point.count = sample.value.parse().unwrap_or_default();
                is_open = false;
            }
        }
    }
    points
}

/// `_sum` and then `_count` of each.
fn summaries(family: &Family<'_>, span: Span) -> Vec<SummaryDataPoint> {
    let mut points = Vec::new();
    let mut sum = 0.0;
    for sample in &family.samples {
        match sample.suffix {
            "_sum" => sum = fraction(sample.value),
            "_count" => points.push(SummaryDataPoint {
                attributes: attributes(sample),
                start_time_unix_nano: span.from_unix_ns,
                time_unix_nano: span.to_unix_ns,
                count: sample.value.parse().unwrap_or_default(),
                sum,
                ..SummaryDataPoint::default()
            }),
            _ => {}
        }
    }
    points
}
