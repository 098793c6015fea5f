//! What is sent, decoded again; and what becomes of it where nobody takes it.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, TcpListener},
};

use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
        trace::v1::ExportTraceServiceRequest,
    },
    common::v1::{KeyValue, any_value::Value},
    metrics::v1::metric::Data,
    trace::v1::Span,
};

use super::*;
use crate::{
    base::{
        ids::{ProviderId, ProviderRoll},
        limits::{OTLP_BATCH_MAX, OTLP_WAITING_MAX},
    },
    bridge::logpipe::tests::numbered,
    config::{Fake, compile},
    ledger::{
        book::Book,
        exposition::{self, Facts, Format},
        logged::Logged,
        record::{Outcome, Record},
        sheet::Sheet,
        trail::Trail,
    },
    wire::{
        http1::head::Method,
        mask::Rules,
        trace_context::{Share, TraceParent},
    },
};

const CLIENT: &[u8] = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const PATIENCE: Duration = Duration::from_secs(20);

fn text(attributes: &[KeyValue], key: &str) -> String {
    let found = attributes.iter().find(|attribute| attribute.key == key);
    match found.and_then(|attribute| attribute.value.as_ref()?.value.as_ref()) {
        None => "-".to_owned(),
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::DoubleValue(number)) => number.to_string(),
        Some(Value::BoolValue(flag)) => flag.to_string(),
        Some(other) => panic!("{key} is {other:?}"),
    }
}

/// An exchange of two attempts: the first broke, the second answered.
fn exchange(client: Option<&[u8]>, share: Share) -> Logged {
    let mut chance = (1..).map(|number: u64| number);
    let mut chance = || chance.next().expect("no end");
    let mut record = Record::new("chat", Now(1_000_000));
    let mut trail = Trail::join(client.and_then(TraceParent::parse), false, share, &mut chance);
    trail.begin(ProviderId(0), &"a".into(), Now(2_000_000), &mut chance);
    if let Some(tried) = trail.last_try() {
        (tried.ended, tried.failure) = (Some(Now(3_000_000)), Some("lost"));
    }
    trail.begin(ProviderId(1), &"me@example.com".into(), Now(4_000_000), &mut chance);
    if let Some(tried) = trail.last_try() {
        (tried.status, tried.reused) = (200, true);
    }
    record.trail = Some(Box::new(trail));
    record.model_asked = "dynamic/x".into();
    (record.status, record.attempts) = (200, 2);
    (record.tokens.prompt, record.tokens.completion) = (Some(12), Some(34));
    record.phases.first_token = Some(Now(5_000_000));
    let closed = record.close(Now(9_000_000), Outcome::Completed, &mut Sheet::default());
    Logged {
        gist: closed.clone().gist(),
        whole: Some(Box::new(closed)),
        method: Some(Method::Post),
        ..numbered(1_000)
    }
}

fn spans_of(logged: &Logged) -> Vec<Span> {
    let mut roll = ProviderRoll::default();
    roll.enrol("azure");
    roll.enrol("b");
    let rules = Rules { email: true, ..Rules::default() };
    let mut spans = Vec::new();
    spans::add(logged, &Words::new(2, &roll, &rules), None, &mut spans);
    spans
}

#[test]
fn an_exchange_is_a_span_in_its_clients_trace_and_each_attempt_one_under_it() {
    let spans = spans_of(&exchange(Some(CLIENT), Share::of_million(0)));
    let [own, lost, answered] = &spans[..] else { panic!("{spans:?}") };
    assert!(spans.iter().all(|span| span.trace_id == CLIENT_TRACE));
    assert_eq!(own.parent_span_id, 0x00f0_67aa_0ba9_02b7_u64.to_be_bytes());
    assert!([lost, answered].iter().all(|span| span.parent_span_id == own.span_id));
    assert_eq!((own.kind, lost.kind, own.flags, lost.flags), (2, 3, 0x301, 0x101));
    assert_eq!(
        (&*own.name, &*lost.name, &*answered.name),
        ("POST /v1/chat/completions", "chat a", "chat [email]")
    );
    // The wall clock at the end was one second; the exchange had begun eight milliseconds before.
    assert_eq!((own.start_time_unix_nano, own.end_time_unix_nano), (992_000_000, 1_000_000_000));
    assert_eq!((lost.start_time_unix_nano, lost.end_time_unix_nano), (993_000_000, 994_000_000));
    assert_eq!((answered.start_time_unix_nano, answered.end_time_unix_nano), (995_000_000, 1_000_000_000));
    let said =
        |span: &Span, keys: &[&str]| keys.iter().map(|key| text(&span.attributes, key)).collect::<Vec<_>>();
    let keys = ["gen_ai.operation.name", "gen_ai.request.model", "gen_ai.usage.input_tokens", "error.type"];
    assert_eq!(said(own, &keys), ["chat", "dynamic/x", "12", "-"]);
    assert_eq!(said(lost, &keys), ["chat", "a", "-", "lost"]);
    assert_eq!(said(answered, &keys), ["chat", "[email]", "12", "-"]);
    let keys = ["gen_ai.provider.name", "http.response.status_code", "ringway.connection.reused"];
    assert_eq!(said(lost, &keys), ["azure.ai.openai", "-", "false"]);
    assert_eq!(said(answered, &keys), ["b", "200", "true"]);
    assert_eq!(lost.status.as_ref().map(|status| status.code), Some(2));
    assert_eq!((&own.status, &answered.status), (&None, &None));
}

const CLIENT_TRACE: [u8; 16] = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736_u128.to_be_bytes();

#[test]
fn what_is_not_sampled_has_no_spans() {
    let off = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
    assert_eq!(spans_of(&exchange(Some(off), Share::ALL)), []);
    assert_eq!(spans_of(&exchange(None, Share::of_million(0))), []);
    assert_eq!(spans_of(&exchange(None, Share::ALL)).len(), 3);
}

#[test]
fn how_it_ended_is_told_by_status_and_severity() {
    #[track_caller]
    fn check(outcome: Outcome, status: u16, expect: (&str, bool, &str)) {
        let mut record = Record::new("chat", Now(0));
        record.trail = Some(Box::new(Trail::join(None, false, Share::ALL, || 7)));
        record.status = status;
        record.refusal = (outcome == Outcome::Refused).then_some("no_such_model");
        let closed = record.close(Now(1), outcome, &mut Sheet::default());
        let (gist, whole) = (closed.clone().gist(), Some(Box::new(closed)));
        let logged = Logged { gist, whole, ..numbered(1_000) };
        let (error, is_error, severity) = expect;
        let span = &spans_of(&logged)[0];
        assert_eq!(text(&span.attributes, "error.type"), error);
        assert_eq!(span.status.is_some(), is_error);
        let (roll, rules) = (ProviderRoll::default(), Rules::default());
        let words = Words::new(0, &roll, &rules);
        let record = records::tests::decoded(&logged, &words);
        assert_eq!(record.severity_text, severity);
        assert_eq!((record.span_id, record.trace_id), (span.span_id.clone(), span.trace_id.clone()));
    }
    check(Outcome::Completed, 200, ("-", false, "INFO"));
    check(Outcome::Completed, 429, ("429", false, "WARN"));
    check(Outcome::Completed, 500, ("500", true, "ERROR"));
    check(Outcome::Refused, 404, ("no_such_model", false, "WARN"));
    check(Outcome::Refused, 503, ("no_such_model", true, "ERROR"));
    check(Outcome::ClientGone, 0, ("client_gone", false, "WARN"));
    check(Outcome::UpstreamLost, 200, ("upstream_lost", true, "ERROR"));
}

#[test]
fn every_family_of_the_page_is_a_metric() {
    let (mut book, mut sheet) = (Book::default(), Box::<Sheet>::default());
    for (index, us) in [900, 1_500, 700_000_000_000].into_iter().enumerate() {
        let mut record = Record::new("chat", Now(0));
        record.tokens.prompt = Some(10 << index);
        record.close(Now(us * 1_000), Outcome::Completed, &mut sheet);
    }
    book.merge(&sheet);
    let page = exposition::render(&book, &Facts { version: "1", ..Facts::default() }, Format::Prometheus);
    let span = figures::Span { from_unix_ns: 5, to_unix_ns: 9 };
    let (request, points) = figures::request(Default::default(), &page, span);
    let metrics = &request.resource_metrics[0].scope_metrics[0].metrics;
    let with_samples = page::read(&page).iter().filter(|family| !family.samples.is_empty()).count();
    assert!(metrics.len() == with_samples && with_samples > 20 && points >= metrics.len() as u64);
    let data =
        |name: &str| metrics.iter().find(|metric| metric.name == name).and_then(|metric| metric.data.clone());
    let Some(Data::Histogram(duration)) = data("rw_request_duration_seconds") else { panic!("no histogram") };
    let point = &duration.data_points[0];
    assert_eq!((point.count, point.bucket_counts.iter().sum::<u64>()), (3, 3));
    assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1);
    assert_eq!(
        (point.explicit_bounds[0], point.bucket_counts[0], point.bucket_counts.last()),
        (0.001, 1, Some(&1))
    );
    assert_eq!(
        (point.start_time_unix_nano, point.time_unix_nano, duration.aggregation_temporality),
        (5, 9, 2)
    );
    let Some(Data::Sum(requests)) = data("rw_requests_total") else { panic!("no sum") };
    assert!(requests.is_monotonic && requests.data_points[0].start_time_unix_nano == 5);
    assert!(matches!(data("rw_draining"), Some(Data::Gauge(_))));
}

#[test]
fn what_the_conventions_name_is_called_as_they_do() {
    let page = "# HELP gen_ai_client_token_usage Tokens.\n# TYPE gen_ai_client_token_usage histogram\n\
        gen_ai_client_token_usage_bucket{gen_ai_token_type=\"input\",le=\"1\"} 0\n\
        gen_ai_client_token_usage_bucket{gen_ai_token_type=\"input\",le=\"+Inf\"} 2\n\
        gen_ai_client_token_usage_sum{gen_ai_token_type=\"input\"} 9\n\
        gen_ai_client_token_usage_count{gen_ai_token_type=\"input\"} 2\n\
        # HELP gen_ai_client_operation_duration_seconds Time.\n# TYPE gen_ai_client_operation_duration_seconds histogram\n\
        gen_ai_client_operation_duration_seconds_count 0\n# HELP rw_p_seconds P.\n# TYPE rw_p_seconds summary\n\
        rw_p_seconds_sum{phase=\"a\"} 1.5\nrw_p_seconds_count{phase=\"a\"} 3\n";
    let span = figures::Span { from_unix_ns: 5, to_unix_ns: 9 };
    let (request, points) = figures::request(Default::default(), page, span);
    let metrics = &request.resource_metrics[0].scope_metrics[0].metrics;
    let names: Vec<_> = metrics.iter().map(|metric| (&*metric.name, &*metric.unit)).collect();
    let expect = [
        ("gen_ai.client.token.usage", "{token}"),
        ("gen_ai.client.operation.duration", "s"),
        ("rw_p_seconds", "s"),
    ];
    assert_eq!((names, points), (expect.to_vec(), 3));
    let Some(Data::Histogram(usage)) = &metrics[0].data else { panic!("no histogram") };
    assert_eq!(text(&usage.data_points[0].attributes, "gen_ai.token.type"), "input");
    assert_eq!(usage.data_points[0].bucket_counts, [0, 2]);
    let Some(Data::Summary(phase)) = &metrics[2].data else { panic!("no summary") };
    assert_eq!((phase.data_points[0].sum, phase.data_points[0].count), (1.5, 3));
}

/// A collector that answers each request as it is told, then with 200; and what it was sent.
fn collector(mut answers: Vec<&'static str>) -> (String, Receiver<(String, Vec<u8>)>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let endpoint = format!("http://{}", listener.local_addr().expect("bound"));
    let (got, gets) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut reader = BufReader::new(&stream);
            loop {
                let (mut head, mut length) = (String::new(), 0);
                let mut line = String::new();
                while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
                    if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                        length = value.trim().parse().expect("a length");
                    }
                    head.push_str(&std::mem::take(&mut line));
                }
                if head.is_empty() {
                    break;
                }
                let mut body = vec![0; length];
                reader.read_exact(&mut body).expect("a body");
                let answer = if answers.is_empty() { "200 OK" } else { answers.remove(0) };
                let _ = write!(&stream, "HTTP/1.1 {answer}\r\ncontent-length: 0\r\n\r\n");
                let _ = got.send((head, body));
            }
        }
    });
    (endpoint, gets)
}

fn settings(endpoint: &str, more: &str) -> Arc<Otlp> {
    let text = format!(
        "[[provider]]\nname = \"p\"\nauth = \"none\"\nbase_url = \"http://127.0.0.1:1\"\n\
         [otlp]\nendpoint = \"{endpoint}\"\ninterval_secs = 0.1\n{more}\n"
    );
    let compiled = compile(&text, "a test", &Fake::default()).expect("it is in order");
    compiled.snapshot.otlp.expect("a table")
}

fn start(endpoint: &str, more: &str) -> (OtlpThread, Arc<Tallies>) {
    let tallies = Arc::<Tallies>::default();
    let task = Task {
        settings: settings(endpoint, more),
        tls: None,
        page: Box::new(|| "# HELP a A.\n# TYPE a gauge\na 1\n".to_owned()),
        names: Arc::default(),
        snapshots: Arc::new(Bulletin::new(1)),
        tallies: tallies.clone(),
        clock: Arc::new(|| Now(unix_ms() * 1_000_000)),
    };
    (OtlpThread::start(task, Log::to(io::sink(), false)).expect("a thread"), tallies)
}

fn counts(tallies: &Tallies) -> [(u64, u64); 3] {
    tallies.each_ref().map(|tally| (tally.written(), tally.dropped()))
}

#[test]
fn all_three_signals_arrive_and_the_last_before_the_end() {
    let (endpoint, gets) = collector(Vec::new());
    let (thread, tallies) = start(&format!("{endpoint}/base"), "headers = { x-key = \"secret\" }");
    let feed = thread.feed().expect("spans and records are wanted");
    feed.offer(0, [exchange(Some(CLIENT), Share::ALL)].into_iter());
    feed.offer(1, [exchange(Some(CLIENT), Share::ALL)].into_iter());
    drop(feed);
    assert!(thread.stop(PATIENCE));
    let (mut spans, mut records, mut points) = (0, 0, 0);
    while spans == 0 || records == 0 || points == 0 {
        let (head, body) = gets.recv_timeout(PATIENCE).expect("a request");
        assert!(head.contains("\r\nx-key: secret\r\n"), "{head}");
        match head.split(' ').nth(1) {
            Some("/base/v1/traces") => {
                let request = ExportTraceServiceRequest::decode(&*body).expect("spans");
                let resource = request.resource_spans[0].resource.as_ref().expect("a resource");
                assert_eq!(text(&resource.attributes, "service.name"), "ringway");
                let scope = &request.resource_spans[0].scope_spans[0];
                assert_eq!(scope.scope, Some(words::scope()));
                spans += scope.spans.len();
            }
            Some("/base/v1/logs") => {
                let request = ExportLogsServiceRequest::decode(&*body).expect("records");
                records += request.resource_logs[0].scope_logs[0].log_records.len();
            }
            Some("/base/v1/metrics") => {
                let request = ExportMetricsServiceRequest::decode(&*body).expect("metrics");
                let resource = request.resource_metrics[0].resource.as_ref().expect("a resource");
                assert_eq!(text(&resource.attributes, "service.name"), "ringway");
                points += request.resource_metrics[0].scope_metrics[0].metrics.len();
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((spans, records), (6, 2));
    let [(sent, 0), (6, 0), (2, 0)] = counts(&tallies) else { panic!("{:?}", counts(&tallies)) };
    assert!(sent >= 1);
}

#[test]
fn what_may_be_taken_later_is_tried_again_and_what_never_will_is_counted() {
    let (endpoint, gets) = collector(vec!["503 Later\r\nretry-after: 0", "400 No"]);
    let (thread, tallies) = start(&endpoint, "signals = [\"traces\"]");
    let feed = thread.feed().expect("spans are wanted");
    feed.offer(0, [exchange(Some(CLIENT), Share::ALL)].into_iter());
    let first = gets.recv_timeout(PATIENCE).expect("a try").1;
    assert_eq!(gets.recv_timeout(PATIENCE).expect("another").1, first);
    feed.offer(0, [exchange(Some(CLIENT), Share::ALL)].into_iter());
    gets.recv_timeout(PATIENCE).expect("the next");
    drop(feed);
    assert!(thread.stop(PATIENCE));
    assert_eq!(counts(&tallies), [(0, 0), (3, 3), (0, 0)]);
}

#[test]
fn where_the_collector_was_found_is_remembered_until_it_is_not_there_any_more() {
    let (endpoint, _gets) = collector(Vec::new());
    let collector = Collector::new(settings(&endpoint, ""), None);
    assert_eq!(collector.post(Signal::Logs, b""), Ok(0));
    let found = collector.found().expect("it was looked up");
    assert!(endpoint.ends_with(&found.to_string()));
    drop(collector);
    // Somewhere else now, as far as is known; and nobody is there.
    let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|it| it.local_addr()).expect("a port");
    let moved = Collector::new(settings(&endpoint, ""), None);
    moved.find(nobody);
    assert!(matches!(moved.post(Signal::Logs, b""), Err(NotTaken::Later { .. })));
    assert_eq!(moved.found(), None);
    assert_eq!(moved.post(Signal::Logs, b""), Ok(0));
}

#[test]
fn a_collector_that_does_not_answer_blocks_nobody_and_everything_is_accounted_for() {
    // Connections are taken by the kernel; nobody ever reads or answers.
    let deaf = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let endpoint = format!("http://{}", deaf.local_addr().expect("bound"));
    let (thread, tallies) = start(&endpoint, "signals = [\"traces\", \"logs\"]\ntimeout_secs = 0.2");
    let feed = thread.feed().expect("both are wanted");
    let line = exchange(Some(CLIENT), Share::ALL);
    let offered = (OTLP_WAITING_MAX + 4 * OTLP_BATCH_MAX) as u64;
    (0..offered).for_each(|_| feed.offer(0, [line.clone()].into_iter()));
    let [_, (0, spans), (0, records)] = counts(&tallies) else { panic!("{:?}", counts(&tallies)) };
    assert!(records > 0 && spans == records * 3, "what found no room was counted at once");
    drop(feed);
    assert!(thread.stop(PATIENCE * 3));
    assert_eq!(counts(&tallies), [(0, 0), (0, offered * 3), (0, offered)]);
}
