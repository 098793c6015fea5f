"""What `/metrics` says, read by programs that know nothing of the gateway: both of prometheus_client's parsers, promtool, and
a Prometheus that scrapes it; and the dashboard and the alerts of `tuning/grafana`, which may name nothing else.

The families with their types and labels are a golden file, `metrics.golden`: `--write-golden` writes it anew.
"""

import argparse
import contextlib
import http.client
import json
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from urllib.parse import quote, urlsplit

from prometheus_client import openmetrics, parser
import prometheus_client.openmetrics.parser

HERE = pathlib.Path(__file__).resolve().parent
GOLDEN = HERE / "metrics.golden"
GRAFANA = HERE.parents[2] / "tuning" / "grafana"
OPENMETRICS = "application/openmetrics-text; version=1.0.0"
PATIENCE_SECONDS = 60
SUFFIXES = ("_bucket", "_sum", "_count", "_total", "_created")
# A metric in an expression of ours is followed by a selector; a label is not.
METRIC = re.compile(r"\b((?:rw|gen_ai)_[a-z0-9_]+)\{")


def get(url, path, accept="", timeout=10):
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout)
    connection.request("GET", path, headers={"Accept": accept} if accept else {})
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, answer.getheader("content-type"), body


def post(url, path, body, token):
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
    connection.request("POST", path, json.dumps(body), headers)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status


def until(what, find):
    """Asks `find` until it answers; each look is also the pause."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        if found := find():
            return found
        assert time.monotonic() < deadline, f"not within {PATIENCE_SECONDS} s: {what}"
        threading.Event().wait(0.05)


class World:
    def __init__(self, args):
        self.base_url, self.admin_url, self.token = args.base_url, args.admin_url, args.token
        self.write_golden = args.write_golden
        self.sent = 0

    def traffic(self):
        """One of each kind, so that every family has something to show."""
        chat = lambda model, **more: {"model": model, "messages": [{"role": "user", "content": "Hi."}], **more}

        def ask(body, token=self.token, path="/v1/chat/completions"):
            self.sent += 1
            return post(self.base_url, path, body, token)

        assert ask(chat("sim/sim,gap=5,size=400", stream=True)) == 200
        assert ask(chat("sim/sim,prompt=1000,completion=7")) == 200
        assert ask(chat("free/sim")) == 200
        ask(chat("sim/sim,status=400"))
        ask(chat("over"))
        ask(chat("down/sim"))
        assert ask(chat("sim/sim"), token="") == 401
        assert ask({"model": "sim/sim", "input": "Hi."}, path="/v1/embeddings") == 200

    def page(self, accept=""):
        status, content_type, page = get(self.admin_url, "/metrics", accept)
        assert status == 200, status
        return content_type, page

    def families(self):
        content_type, page = self.page(OPENMETRICS)
        assert content_type.startswith(OPENMETRICS), content_type
        return list(openmetrics.parser.text_string_to_metric_families(page))


def samples(families):
    """By name and labels."""
    found = {}
    for family in families:
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found, f"{key} stands there twice"
            found[key] = sample.value
    return found


def everything_is_counted(world):
    """Waits until all that was sent is on the page; after that nothing moves."""
    requests = lambda: sum(value for (name, _), value in samples(world.families()).items() if name == "rw_requests_total")
    until(f"{world.sent} requests are counted", lambda: requests() == world.sent)


def both_parsers_read_the_same(world):
    everything_is_counted(world)
    content_type, page = world.page()
    assert content_type == "text/plain; version=0.0.4; charset=utf-8", content_type
    plain = samples(parser.text_string_to_metric_families(page))
    open_ = samples(world.families())
    moving = {key for key in plain if "heartbeat" in key[0]}
    assert {k: v for k, v in plain.items() if k not in moving} == {k: v for k, v in open_.items() if k not in moving}
    assert len(plain) > 300, len(plain)


def openmetrics_is_for_those_who_ask(world):
    prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
    assert world.page(prometheus)[0].startswith("application/openmetrics-text")
    for accept in ["", "*/*", "text/plain", "application/openmetrics-text;q=0"]:
        assert world.page(accept)[0].startswith("text/plain"), accept


def families_are_those_of_the_golden_file(world):
    everything_is_counted(world)
    lines = []
    for family in sorted(world.families(), key=lambda family: family.name):
        labels = sorted({label for sample in family.samples for label in sample.labels})
        assert family.documentation, family.name
        lines.append(f"{family.name} {family.type} {family.unit or '-'} {','.join(labels) or '-'}")
    text = "\n".join(lines) + "\n"
    if world.write_golden:
        GOLDEN.write_text(text)
    expect = GOLDEN.read_text().splitlines()
    differences = sorted(set(lines) ^ set(expect))
    assert lines == expect, "--write-golden writes the file anew; it differs in:\n" + "\n".join(differences)


def what_was_asked_is_what_is_told(world):
    everything_is_counted(world)
    found = samples(world.families())

    def total(name, **labels):
        return sum(value for (sample, of), value in found.items() if sample == name and labels.items() <= dict(of).items())

    requests = total("rw_requests_total")
    assert requests == total("rw_model_requests_total") == total("rw_caller_requests_total") == total("rw_outcomes_total"), requests
    assert requests == total("rw_request_duration_seconds_count") == total("rw_overhead_seconds_count")
    sent = total("rw_model_requests_total") - total("rw_model_requests_total", provider="")
    assert sent == total("gen_ai_client_operation_duration_seconds_count"), sent
    tokens = total("rw_tokens_total", type="prompt", source="reported")
    assert tokens == total("gen_ai_client_token_usage_sum", gen_ai_token_type="input") == total("rw_caller_tokens_total", type="prompt", source="reported")
    assert abs(total("rw_cost_usd_total") - total("rw_caller_cost_usd_total")) < 1e-9 and total("rw_cost_usd_total") > 0
    assert total("rw_requests_without_price_total") == total("rw_model_requests_total", provider="free", **{"class": "2xx"})


def dashboard_expressions():
    dashboard = json.loads((GRAFANA / "ringway-dashboard.json").read_text())
    return [(panel["title"], target["expr"]) for panel in dashboard["panels"] for target in panel["targets"]]


def alerts():
    return (GRAFANA / "ringway-alerts.yaml").read_text()


def every_metric_that_is_named_exists(world):
    there = {name for name, _ in samples(world.families())}
    expressions = dashboard_expressions()
    named = {name for _, expression in expressions for name in METRIC.findall(expression)}
    of_alerts = set(re.findall(r"\b(?:rw|gen_ai)_[a-z0-9_]+", alerts()))
    assert len(expressions) > 25 and len(named) > 15 and len(of_alerts) > 8, (len(expressions), len(named), len(of_alerts))
    assert not (named | of_alerts) - there, sorted((named | of_alerts) - there)


def promtool_finds_nothing_wrong(world):
    rules = subprocess.run(["promtool", "check", "rules", GRAFANA / "ringway-alerts.yaml"], capture_output=True, text=True)
    assert rules.returncode == 0, rules.stdout + rules.stderr
    # Its parser's complaints have status 1; its opinions, 3.
    metrics = subprocess.run(["promtool", "check", "metrics"], input=world.page()[1], capture_output=True, text=True)
    assert metrics.returncode == 0, metrics.stdout + metrics.stderr


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def prometheus(world):
    """A Prometheus that scrapes the gateway five times a second, with the alert rules."""
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="ringway-prometheus-"))
    port = free_port()
    config = {
        "global": {"scrape_interval": "200ms", "evaluation_interval": "1s"},
        "rule_files": [str(GRAFANA / "ringway-alerts.yaml")],
        "scrape_configs": [{"job_name": "ringway", "static_configs": [{"targets": [urlsplit(world.admin_url).netloc]}]}],
    }
    # JSON is YAML.
    (scratch / "prometheus.yml").write_text(json.dumps(config))
    command = ["prometheus", f"--config.file={scratch}/prometheus.yml", f"--storage.tsdb.path={scratch}/data"]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
    log = open(scratch / "log", "w+")
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def api(path):
        if child.poll() is not None:
            raise RuntimeError(f"prometheus ended: {(scratch / 'log').read_text()[-2000:]}")
        try:
            status, _, body = get(f"http://127.0.0.1:{port}", path)
        except (OSError, http.client.HTTPException):
            return None
        return json.loads(body) if body.startswith("{") else None

    try:
        yield api
    finally:
        child.terminate()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        log.close()
        shutil.rmtree(scratch, ignore_errors=True)


def prometheus_scrapes_it_and_fills_the_dashboard(world):
    with prometheus(world) as api:
        def target():
            targets = (api("/api/v1/targets") or {}).get("data", {}).get("activeTargets", [])
            return targets and targets[0]["health"] == "up" and targets[0]
        assert until("the target is up", target)["lastError"] == ""

        def filled(expression):
            # What Grafana puts in the place of its variables.
            query = expression.replace("$__rate_interval", "30s").replace("$instance", ".*")
            answer = api(f"/api/v1/query?query={quote(query)}") or {}
            assert answer.get("status") == "success", f"{query}: {answer}"
            values = [float(series["value"][1]) for series in answer["data"]["result"]]
            return any(value == value for value in values)

        empty = dashboard_expressions()

        def all_filled():
            nonlocal empty
            world.traffic()
            empty = [(title, expression) for title, expression in empty if not filled(expression)]
            return not empty

        try:
            until("every panel shows something", all_filled)
        except AssertionError as error:
            raise AssertionError(f"{error}: {empty}") from None
        groups = api("/api/v1/rules")["data"]["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        assert len(rules) == alerts().count("- alert:"), len(rules)
        until("every rule was evaluated", lambda: all(
            rule["health"] == "ok" for group in api("/api/v1/rules")["data"]["groups"] for rule in group["rules"]))


CASES = [
    openmetrics_is_for_those_who_ask,
    both_parsers_read_the_same,
    families_are_those_of_the_golden_file,
    what_was_asked_is_what_is_told,
    every_metric_that_is_named_exists,
    promtool_finds_nothing_wrong,
    prometheus_scrapes_it_and_fills_the_dashboard,
]


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--base-url", required=True)
    arguments.add_argument("--admin-url", required=True)
    arguments.add_argument("--token", required=True)
    arguments.add_argument("--filter", default="")
    arguments.add_argument("--write-golden", action="store_true")
    args = arguments.parse_args()
    world = World(args)
    for _ in range(6):
        world.traffic()
    passed = failed = 0
    for case in CASES:
        if args.filter not in case.__name__:
            continue
        try:
            case(world)
            passed += 1
            print(f"ok   {case.__name__}", flush=True)
        except Exception:
            failed += 1
            print(f"FAIL {case.__name__}\n{traceback.format_exc()}", flush=True)
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed or not passed else 0)


if __name__ == "__main__":
    main()
