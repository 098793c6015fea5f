"""What reaches an OpenTelemetry collector: all three signals at a real HTTP endpoint, decoded by OpenTelemetry's own messages."""

import gzip
import http.client
import http.server
import json
import os
import re
import ssl
import threading
from urllib.parse import urlsplit

from harness import HELLO, World, case, main
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AGGREGATION_TEMPORALITY_CUMULATIVE
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


class Collector(http.server.BaseHTTPRequestHandler):
    """Keeps everything it is sent. What it cannot decode it refuses, and a case fails by its absence."""

    protocol_version = "HTTP/1.1"
    spans, records, metrics, resources, raw = [], [], [], [], []
    lock = threading.Lock()

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        fit = self.headers["content-type"] == "application/x-protobuf" and self.headers["authorization"] == "Bearer collector-key"
        if self.headers["content-encoding"] == "gzip":
            body = gzip.decompress(body)
        with self.lock:
            self.raw.append(body)
            if fit and self.path == "/v1/traces":
                for group in ExportTraceServiceRequest.FromString(body).resource_spans:
                    self.resources.append(group.resource)
                    self.spans.extend(span for scope in group.scope_spans for span in scope.spans)
            elif fit and self.path == "/v1/logs":
                for group in ExportLogsServiceRequest.FromString(body).resource_logs:
                    self.resources.append(group.resource)
                    self.records.extend(record for scope in group.scope_logs for record in scope.log_records)
            elif fit and self.path == "/v1/metrics":
                for group in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                    self.resources.append(group.resource)
                    self.metrics.append({metric.name: metric for scope in group.scope_metrics for metric in scope.metrics})
            else:
                fit = False
        self.send_response(200 if fit else 400)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def attributes(thing):
    """Names and values, whatever the values' types."""
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in thing.attributes}


def ask(world, model, stream=False, base_url=None, **headers):
    """One chat completion with headers of its own; returns status, answer's headers and body."""
    url = urlsplit(base_url or world.base_url)
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=30)
    body = {"model": model, "messages": HELLO, "stream": stream}
    try:
        fields = [("content-type", "application/json"), ("authorization", f"Bearer {world.key}")]
        connection.putrequest("POST", url.path + "/chat/completions")
        payload = json.dumps(body).encode()
        for name, value in fields + [(name.replace("_", "-"), value) for name, value in headers.items()]:
            for each in value if isinstance(value, list) else [value]:
                connection.putheader(name, each)
        connection.putheader("content-length", str(len(payload)))
        connection.endheaders(payload)
        answer = connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def spans_of(world, request_id, attempts):
    """The exchange's span, and those of its attempts by time."""

    def find():
        with Collector.lock:
            own = [span for span in Collector.spans if attributes(span).get("ringway.request_id") == request_id]
            under = [span for span in Collector.spans if own and span.parent_span_id == own[0].span_id]
        return (own[0], sorted(under, key=lambda span: span.start_time_unix_nano)) if len(under) >= attempts else None

    own, under = world.until(f"the spans of {request_id}", find)
    assert len(under) == attempts, under
    return own, under


def record_of(world, request_id):
    def find():
        with Collector.lock:
            return [record for record in Collector.records if attributes(record).get("request_id") == request_id]

    records = world.until(f"the record of {request_id}", find)
    assert len(records) == 1, records
    return records[0]


def header(entry, name):
    return [value for key, value in entry["headers"] if key == name]


@case
def otlp_a_clients_trace_leads_over_the_exchange_to_the_provider(world: World):
    tag = world.tag()
    model = world.model(f"{tag},prompt=17,completion=5,cached=3,reasoning=2")
    status, headers, body = ask(
        world, model, traceparent=f"00-{TRACE}-{PARENT}-01", tracestate=["a=1,b=2", "c@d=3"], x_request_id=tag
    )
    assert status == 200 and headers["x-request-id"] == tag, (status, headers)
    own, [attempt] = spans_of(world, tag, 1)
    assert own.trace_id.hex() == attempt.trace_id.hex() == TRACE, (own, attempt)
    assert own.parent_span_id.hex() == PARENT and own.kind == Span.SPAN_KIND_SERVER, own
    assert attempt.kind == Span.SPAN_KIND_CLIENT and attempt.status.code == Status.STATUS_CODE_UNSET, attempt
    assert own.start_time_unix_nano <= attempt.start_time_unix_nano < attempt.end_time_unix_nano <= own.end_time_unix_nano
    [seen] = world.seen(tag)
    assert header(seen, "traceparent") == [f"00-{TRACE}-{attempt.span_id.hex()}-01"], seen["headers"]
    assert header(seen, "tracestate") == ["a=1,b=2", "c@d=3"], seen["headers"]

    usage = json.loads(body)["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (17, 5), usage
    url = urlsplit(world.provider_url)
    for span, asked in [(own, model), (attempt, model.removeprefix("sim/"))]:
        said = attributes(span)
        expect = {
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": asked,
            "gen_ai.request.stream": False,
            "gen_ai.usage.input_tokens": usage["prompt_tokens"],
            "gen_ai.usage.output_tokens": usage["completion_tokens"],
            "gen_ai.usage.cache_read.input_tokens": 3,
            "gen_ai.usage.reasoning.output_tokens": 2,
            "http.response.status_code": 200,
        }
        assert expect.items() <= said.items() and "error.type" not in said, said
    assert own.name == "POST /v1/chat/completions" and attempt.name == "chat " + model.removeprefix("sim/"), (own, attempt)
    provider = {"gen_ai.provider.name": "sim", "server.address": url.hostname, "server.port": url.port}
    assert provider.items() <= attributes(attempt).items(), attempt


@case
def otlp_a_failover_has_two_attempts(world: World):
    tag = world.tag()
    status, headers, _ = ask(world, "dynamic/two", traceparent=f"00-{TRACE}-{PARENT}-01", x_request_id=tag)
    assert status == 200 and headers["x-ringway-attempts"] == "2", (status, headers)
    own, [first, second] = spans_of(world, tag, 2)
    assert [attributes(span)["http.response.status_code"] for span in [own, first, second]] == [200, 500, 200]
    assert attributes(first)["error.type"] == "500" and first.status.code == Status.STATUS_CODE_ERROR, first
    assert attributes(first)["gen_ai.request.model"] == "otlp-first,status=500", first
    assert attributes(second)["gen_ai.request.model"] == "otlp-second" and "error.type" not in attributes(second), second
    assert first.end_time_unix_nano <= second.start_time_unix_nano, (first, second)
    assert attributes(own)["ringway.route"] == "two" and attributes(own)["ringway.attempts"] == 2, own
    for span, model in [(first, "otlp-first"), (second, "otlp-second")]:
        parents = [header(entry, "traceparent") for entry in world.seen(model)]
        assert [f"00-{TRACE}-{span.span_id.hex()}-01"] in parents, (span, parents)


@case
def otlp_a_provider_that_cannot_be_reached_is_an_error(world: World):
    tag = world.tag()
    status, headers, _ = ask(world, "down/x", x_request_id=tag)
    own, under = spans_of(world, tag, int(headers["x-ringway-attempts"]))
    said = attributes(own)
    assert own.status.code == Status.STATUS_CODE_ERROR and said["http.response.status_code"] == status >= 500, own
    for attempt in under:
        assert attributes(attempt)["error.type"] == "unreachable" and attempt.status.code == Status.STATUS_CODE_ERROR, attempt
    record = record_of(world, tag)
    assert record.severity_text == "ERROR" and record.trace_id == own.trace_id and record.span_id == own.span_id, record


@case
def otlp_a_trace_that_is_not_sampled_is_passed_on_and_not_exported(world: World):
    tag = world.tag()
    ask(world, world.model(tag), traceparent=f"00-{TRACE}-{PARENT}-00", x_request_id=tag)
    [seen] = world.seen(tag)
    [parent] = header(seen, "traceparent")
    assert re.fullmatch(rf"00-{TRACE}-[0-9a-f]{{16}}-00", parent) and PARENT not in parent, parent
    record = record_of(world, tag)
    assert record.trace_id.hex() == TRACE, record
    # Spans of an exchange are made together with its record, and sent before it.
    assert not [span for span in Collector.spans if attributes(span).get("ringway.request_id") == tag]


@case
def otlp_what_is_no_parent_begins_a_trace(world: World):
    good = f"00-{TRACE}-{PARENT}-01"
    for parent in [[], [good.upper()], [good, good], ["00-" + "0" * 32 + f"-{PARENT}-01"], [good + "-x"]]:
        tag = world.tag()
        ask(world, world.model(tag), traceparent=parent, tracestate="a=1", x_request_id=tag)
        own, [attempt] = spans_of(world, tag, 1)
        assert own.trace_id.hex() != TRACE and not own.parent_span_id, own
        [seen] = world.seen(tag)
        assert header(seen, "traceparent") == [f"00-{own.trace_id.hex()}-{attempt.span_id.hex()}-01"], seen["headers"]
        assert header(seen, "tracestate") == [], seen["headers"]


@case
def otlp_a_stream_tells_its_first_token_and_its_usage(world: World):
    tag = world.tag()
    _, _, body = ask(world, world.model(f"{tag},prompt=21,completion=9,ttft=30,gap=5,events=6,size=400"), stream=True, x_request_id=tag)
    assert body.endswith(b"data: [DONE]\n\n"), body[-100:]
    own, [attempt] = spans_of(world, tag, 1)
    for span in [own, attempt]:
        said = attributes(span)
        usage = (said["gen_ai.usage.input_tokens"], said["gen_ai.usage.output_tokens"])
        assert usage == (21, 9) and said["gen_ai.request.stream"] is True, said
        duration = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9
        assert 0.02 < said["gen_ai.response.time_to_first_chunk"] < duration, (said, duration)


@case
def otlp_a_record_says_what_the_access_log_says(world: World):
    tag = world.tag()
    ask(world, world.model(f"{tag},prompt=7,completion=2"), traceparent=f"00-{TRACE}-{PARENT}-01", x_request_id=tag)
    record = record_of(world, tag)
    own, _ = spans_of(world, tag, 1)
    said = attributes(record)
    expect = {"method": "POST", "operation": "chat", "status": 200, "outcome": "completed", "provider": "sim", "attempts": 1}
    assert {**expect, "prompt_tokens": 7, "completion_tokens": 2, "stream": False}.items() <= said.items(), said
    assert record.severity_text == "INFO" and record.event_name == "ringway.exchange", record
    assert (record.trace_id, record.span_id) == (own.trace_id, own.span_id), (record, own)
    refused = world.tag()
    assert ask(world, "nowhere/x", x_request_id=refused)[0] == 404
    record = record_of(world, refused)
    assert record.severity_text == "WARN" and attributes(record)["refusal"] == "model_not_found", record


def points(metrics, name):
    """The values of a metric's points by their attributes."""
    metric = metrics[name]
    data = getattr(metric, metric.WhichOneof("data"))
    found = {}
    for point in data.data_points:
        value = point.as_int or point.as_double if hasattr(point, "as_int") else point.count
        found[frozenset(attributes(point).items())] = value
    return metric, data, found


def admin(url, path):
    """A page of an admin listener."""
    url = urlsplit(url)
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        text = answer.read().decode()
        assert answer.status == 200, (path, answer.status, text)
        return text
    finally:
        connection.close()


@case
def otlp_metrics_are_those_of_the_metrics_page(world: World):
    for _ in range(3):
        ask(world, world.model("otlp-metrics"))

    def page():
        with Collector.lock:
            shown = Collector.metrics[-1] if Collector.metrics else {}
        if "rw_requests_total" not in shown:
            return None
        wanted = frozenset({"endpoint": "chat", "provider": "sim", "code": "200"}.items())
        return shown if points(shown, "rw_requests_total")[2].get(wanted, 0) >= 3 else None

    shown = world.until("the requests are counted", page)
    metric, data, _ = points(shown, "rw_requests_total")
    assert data.is_monotonic and data.aggregation_temporality == AGGREGATION_TEMPORALITY_CUMULATIVE, metric
    _, duration, _ = points(shown, "rw_request_duration_seconds")
    assert duration.aggregation_temporality == AGGREGATION_TEMPORALITY_CUMULATIVE, duration
    for point in duration.data_points:
        assert sum(point.bucket_counts) == point.count and len(point.bucket_counts) == len(point.explicit_bounds) + 1, point
        assert 0 < point.start_time_unix_nano < point.time_unix_nano, point
    text = admin(os.environ["RINGWAY_TEST_ADMIN"], "/metrics")
    with_samples = {
        name
        for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M)
        if re.search(rf"^{name}(_count)?[{{ ]", text, re.M)
    }
    missing = {name for name in with_samples if name not in shown and not name.startswith("gen_ai_")}
    # What no exchange had led to yet when this page was made may be missing from it, and what conventions name is theirs.
    latest = world.until("no family is missing", lambda: not (missing - set(Collector.metrics[-1])))
    assert latest
    conventional = [name for name in with_samples if name.startswith("gen_ai_")]
    assert len([name for name in Collector.metrics[-1] if name.startswith("gen_ai.")]) == len(conventional), conventional


@case
def otlp_nothing_that_was_said_is_sent_and_all_is_signed(world: World):
    with Collector.lock:
        raw, resources = b"".join(Collector.raw), list(Collector.resources)
    assert raw and HELLO[0]["content"].encode() not in raw and world.key.encode() not in raw and b"sk-test-canary" not in raw
    for resource in resources:
        said = attributes(resource)
        assert said["service.name"] in ("plain", "secure") and said["deployment.environment.name"] == "loopback", said
        assert said["service.version"], said


if "RINGWAY_TEST_STRANGER" in os.environ:

    @case
    def otlp_a_collector_that_another_authority_vouches_for_is_sent_nothing(world: World):
        url, page = os.environ["RINGWAY_TEST_STRANGER"] + "/v1", os.environ["RINGWAY_TEST_STRANGER_ADMIN"]

        def counted(family):
            return sum(float(value) for value in re.findall(rf"^{family}(?:{{[^}}]*}})? (\S+)$", admin(page, "/metrics"), re.M))

        before = counted("rw_otlp_dropped_total")
        tag = world.tag()
        assert ask(world, world.model(tag), base_url=url, x_request_id=tag)[0] == 200
        # Metrics are given up with each try, of which there are several a second.
        world.until("what is given up is counted", lambda: counted("rw_otlp_dropped_total") > before)
        assert counted("rw_otlp_sent_total") == 0
        assert ask(world, world.model(tag), base_url=url)[0] == 200
        assert admin(page, "/readyz")
        # Who trusts it gets through at the same time.
        world.until("the other's telemetry", lambda: Collector.raw)
        with Collector.lock:
            assert not any(tag.encode() in body or b"stranger" in body for body in Collector.raw)


if __name__ == "__main__":
    server = http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["RINGWAY_TEST_COLLECTOR_PORT"])), Collector)
    if "RINGWAY_TEST_COLLECTOR_CERT" in os.environ:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(os.environ["RINGWAY_TEST_COLLECTOR_CERT"], os.environ["RINGWAY_TEST_COLLECTOR_TLS_KEY"])
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    main()
