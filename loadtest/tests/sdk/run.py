"""Starts a simulated provider and a gateway, runs the SDK cases in front of them, and sums up.

    python run.py --bin target/debug --backend io_uring [--suites python,node,python-tls,node-tls,python-cuts,node-cuts,metrics,otlp,words,litellm]

Each program is started by this script, waited for until it says that it is ready, and ended by its process id. The
last line is `N passed, N failed`; a suite that cannot run, or a shard on another backend than asked for, is a failure.
"""

import argparse
import contextlib
import http.client
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
PATIENCE_SECONDS = 60
BACKEND_METRIC = re.compile(r'^rw_shard_backend\{([^}]*)\} (\S+)$', re.M)


class Program:
    """A child process; what it says goes to a file that is shown if something fails."""

    def __init__(self, name, arguments, scratch, env=None):
        self.name = name
        self.path = scratch / f"{name}.log"
        self.file = open(self.path, "w+b")
        environment = {**os.environ, **(env or {})}
        self.child = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=self.file, stderr=self.file, env=environment)

    def said(self):
        return self.path.read_text(errors="replace")

    def until(self, what, find):
        """Asks `find` until it answers; gives up with the program or with patience."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            if found := find():
                return found
            if self.child.poll() is not None:
                raise RuntimeError(f"{self.name} ended before {what}:\n{self.said()}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name}: not within {PATIENCE_SECONDS} s: {what}\n{self.said()}")
            # Only so that a program that starts has the core to itself.
            threading.Event().wait(0.02)

    def close(self):
        if self.child.poll() is None:
            self.child.terminate()
            try:
                self.child.wait(10)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait()
        self.file.close()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def get(port, path):
    """Status and text, or (0, "") while nobody listens."""
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except (OSError, http.client.HTTPException):
        return 0, ""


def certificate(scratch):
    """A certificate authority's file, and a server's certificate and key, for `localhost`."""
    key, cert = scratch / "key.pem", scratch / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
        + ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-addext", "keyUsage=critical,digitalSignature,keyCertSign"]
        + ["-keyout", key, "-out", cert],
        check=True,
        capture_output=True,
    )
    return cert, key


def issued(scratch, name):
    """The file of a new authority, and a certificate for `localhost` and key that it has issued."""
    ca, ca_key, cert, key, request, more = [scratch / f"{name}.{part}" for part in ("ca", "cakey", "cert", "key", "csr", "ext")]
    fresh = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    more.write_text("subjectAltName=DNS:localhost\nbasicConstraints=critical,CA:FALSE\n")
    for command in [
        ["req", "-x509", *fresh, "-days", "2", "-subj", f"/CN={name} authority", "-keyout", ca_key, "-out", ca],
        ["req", *fresh, "-subj", "/CN=localhost", "-keyout", key, "-out", request],
        ["x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-days", "2", "-extfile", more, "-out", cert],
    ]:
        subprocess.run(["openssl", *command], check=True, capture_output=True)
    return ca, cert, key


class Gateway:
    def __init__(self, name, args, scratch, providers, limits="", tls=None, more=""):
        self.port, self.admin = free_port(), free_port()
        self.tls_port = free_port() if tls else None
        lines = ["[server]", f'listen = ["127.0.0.1:{self.port}"]', "cores = 1"]
        if tls:
            lines += [f'tls_listen = ["127.0.0.1:{self.tls_port}"]', f'tls = {{ cert = "{tls[0]}", key = "{tls[1]}" }}']
        lines += ["[limits]", limits, "[admin]", f'listen = "127.0.0.1:{self.admin}"']
        for provider, base_url, key in providers:
            lines += ["[[provider]]", f'name = "{provider}"', f'base_url = "{base_url}"', f'key = "{key}"', "inject_usage = true"]
        lines.append(more)
        config = scratch / f"{name}.toml"
        config.write_text("\n".join(lines) + "\n")
        command = [args.bin / "ringway", "run", "-c", config, "--backend", args.backend]
        self.program = Program(name, command, scratch)
        try:
            self.program.until("/readyz is 200", lambda: get(self.admin, "/readyz")[0] == 200)
            self.expect_backend(args.backend)
        except BaseException:
            self.program.close()
            raise

    def expect_backend(self, backend):
        shards = self.program.until("a shard reports its backend", lambda: BACKEND_METRIC.findall(get(self.admin, "/metrics")[1]))
        for labels, value in shards:
            if f'backend="{backend}"' not in labels or float(value) != 1:
                raise RuntimeError(f"a shard is not on {backend}: {labels} {value}")

    def wait_for_models(self, prefix):
        """The provider's own list is fetched in the background: cases that need it begin after it has arrived."""
        self.program.until(f"models of {prefix} are listed", lambda: f'"{prefix}' in get(self.port, "/v1/models")[1])

    def close(self):
        self.program.close()


def caller(args, state, name, *more):
    """The token of a new caller."""
    command = [args.bin / "ringway", "callers", "create", "--state", state, "--quiet", "--name", name, *more]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def run(name, command, env=None):
    """Runs one suite; its lines are shown as they come. Returns (passed, failed)."""
    started = time.monotonic()
    print(f"--- {name}", flush=True)
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **(env or {})})
    last = ""
    for line in child.stdout:
        print(line, end="", flush=True)
        last = line.strip() or last
    status = child.wait()
    print(f"--- {name}: {time.monotonic() - started:.1f} s", flush=True)
    counts = re.fullmatch(r"(\d+) passed, (\d+) failed", last)
    if not counts:
        print(f"FAIL {name}: it did not say how it ended (status {status})", flush=True)
        return 0, 1
    passed, failed = int(counts[1]), int(counts[2])
    return passed, failed if status == 0 or failed else 1


def sdk_suites(args, scratch, stack, suites):
    """The cases of both SDKs, plain and over TLS, in front of the simulated provider."""
    sim = Program("provider", [args.bin / "ringway-load", "provider", "--listen", "127.0.0.1:0"], scratch)
    stack.callback(sim.close)
    address = sim.until("it says where it listens", lambda: re.search(r"127\.0\.0\.1:\d+", sim.said()))[0]
    providers = [
        ("sim", f"http://{address}/v1", "sk-test-canary"),
        ("down", "http://127.0.0.1:1/v1", "sk-unused"),
    ]
    tls = certificate(scratch) if any("tls" in suite for suite in suites) else None
    gateway = Gateway("gateway", args, scratch, providers, tls=tls)
    stack.callback(gateway.close)
    small = Gateway("gateway-small", args, scratch, providers, limits="body_bytes = 1048576", tls=tls)
    stack.callback(small.close)
    gateway.wait_for_models("sim/")
    state = scratch / "state"
    tokens = {
        "good": caller(args, state, "good"),
        "some": caller(args, state, "some", "--model", "sim/allowed*"),
        "elsewhere": caller(args, state, "elsewhere", "--allow", "192.0.2.0/24"),
        "spent": caller(args, state, "spent", "--budget-tokens-day", "1"),
        # The second request of a burst waits for two seconds, the third for four.
        "slow": {suite: caller(args, state, f"slow-{suite}", "--requests-per-minute", "30", "--burst", "requests-per-minute=1") for suite in suites},
    }
    guarded = Gateway("gateway-guarded", args, scratch, providers, tls=tls, more=f'[state]\ndir = "{state}"\n[auth]\nrequired = true')
    stack.callback(guarded.close)

    def command(language, over_tls):
        host = "https://localhost" if over_tls else "http://127.0.0.1"
        port, small_port, guarded_port = [(g.tls_port if over_tls else g.port) for g in (gateway, small, guarded)]
        script = [sys.executable, HERE / "cases.py"] if language == "python" else [args.node, args.node_cases]
        script += ["--base-url", f"{host}:{port}/v1", "--small-url", f"{host}:{small_port}/v1"]
        script += ["--guarded-url", f"{host}:{guarded_port}/v1"]
        script += ["--provider-url", f"http://{address}", "--streams", str(args.streams), "--filter", args.filter]
        return script + (["--ca", tls[0]] if over_tls and language == "python" else [])

    for suite in suites:
        language, _, transport = suite.partition("-")
        # Tokens are secrets: in the environment, not in an argument.
        env = {"RINGWAY_TEST_TOKENS": json.dumps({**tokens, "slow": tokens["slow"][suite]})}
        if transport and language == "node":
            env["NODE_EXTRA_CA_CERTS"] = str(tls[0])
        yield run(f"{suite} on {args.backend}", command(language, transport == "tls"), env)


# What fails is asked again and again, so there is no breaker; and deadlines are short enough to wait for.
IMPATIENT = "[timeouts]\nfirst_byte_secs = 0.4\nbetween_bytes_secs = 0.4\n[breaker]\nenabled = false"


def cut_suites(args, scratch, stack, suites):
    """A streamed answer that is lost after each of its bytes, in every way, in front of both SDKs."""
    sim = Program("provider-cuts", [args.bin / "ringway-load", "provider", "--listen", "127.0.0.1:0", "--log", "0"], scratch)
    stack.callback(sim.close)
    address = sim.until("it says where it listens", lambda: re.search(r"127\.0\.0\.1:\d+", sim.said()))[0]
    gateway = Gateway("gateway-cuts", args, scratch, [("sim", f"http://{address}/v1", "sk-test-canary")], more=IMPATIENT)
    stack.callback(gateway.close)
    for suite in suites:
        script = [sys.executable, HERE / "cuts.py"] if suite == "python-cuts" else [args.node, args.node_cases.with_name("cuts.mjs")]
        script += ["--base-url", f"http://127.0.0.1:{gateway.port}/v1", "--provider", address, "--stride", str(args.cut_stride)]
        yield run(f"{suite} on {args.backend}", script)


def metrics_suite(args, scratch, stack):
    """What /metrics says, read by others."""
    sim = Program("provider-metrics", [args.bin / "ringway-load", "provider", "--listen", "127.0.0.1:0"], scratch)
    stack.callback(sim.close)
    address = sim.until("it says where it listens", lambda: re.search(r"127\.0\.0\.1:\d+", sim.said()))[0]
    url = f"http://{address}/v1"
    providers = [("sim", url, "sk-test"), ("free", url, "sk-test"), ("down", "http://127.0.0.1:1/v1", "sk-unused")]
    state = scratch / "state-metrics"
    token = caller(args, state, "frontend")
    more = f"""
[state]
dir = "{state}"
[auth]
required = true
[[price]]
model = "sim/*"
input_per_million_usd = 1000
output_per_million_usd = 2000
[[route]]
name = "over"
model = "down/sim"
fallbacks = ["sim/sim"]
"""
    gateway = Gateway("gateway-metrics", args, scratch, providers, more=more)
    stack.callback(gateway.close)
    script = [sys.executable, HERE / "cases_metrics.py", "--base-url", f"http://127.0.0.1:{gateway.port}"]
    script += ["--admin-url", f"http://127.0.0.1:{gateway.admin}", "--token", token, "--filter", args.filter]
    script += ["--write-golden"] if args.write_golden else []
    yield run(f"metrics on {args.backend}", script)


OTLP = """
[otlp]
endpoint = "{endpoint}"
headers = {{ authorization = "Bearer ${{RINGWAY_TEST_COLLECTOR_KEY}}" }}
interval_secs = 0.2
service_name = "{name}"
resource = {{ "deployment.environment.name" = "loopback" }}
[[route]]
name = "two"
model = "sim/otlp-first,status=500"
fallbacks = ["sim/otlp-second"]
"""


def otlp_suite(args, scratch, stack):
    """A collector that decodes what the gateway sends, then one over TLS. It starts after the gateway: until then nothing is lost."""
    sim = Program("provider-otlp", [args.bin / "ringway-load", "provider", "--listen", "127.0.0.1:0"], scratch)
    stack.callback(sim.close)
    address = sim.until("it says where it listens", lambda: re.search(r"127\.0\.0\.1:\d+", sim.said()))[0]
    os.environ["RINGWAY_TEST_COLLECTOR_KEY"] = "collector-key"
    providers = [("sim", f"http://{address}/v1", "sk-test-canary"), ("down", "http://127.0.0.1:1/v1", "sk-unused")]

    def gateway(name, endpoint, ca=None):
        settings = OTLP.format(endpoint=endpoint, name=name)
        settings = settings.replace("[otlp]", f'[otlp]\nca_file = "{ca}"') if ca else settings
        started = Gateway(f"gateway-otlp-{name}", args, scratch, providers, more=settings)
        stack.callback(started.close)
        return started

    def cases(name, own, env):
        script = [sys.executable, HERE / "cases_otlp.py", "--base-url", f"http://127.0.0.1:{own.port}/v1"]
        script += ["--provider-url", f"http://{address}", "--filter", args.filter]
        return run(f"{name} on {args.backend}", script, {"RINGWAY_TEST_ADMIN": f"http://127.0.0.1:{own.admin}", **env})

    port = free_port()
    plain = gateway("plain", f"http://127.0.0.1:{port}")
    yield cases("otlp", plain, {"RINGWAY_TEST_COLLECTOR_PORT": str(port)})

    port = free_port()
    (ca, cert, key), (other_ca, _, _) = issued(scratch, "collector"), issued(scratch, "other")
    secure = gateway("secure", f"https://localhost:{port}", ca)
    stranger = gateway("stranger", f"https://localhost:{port}", other_ca)
    env = {"RINGWAY_TEST_COLLECTOR_PORT": str(port), "RINGWAY_TEST_COLLECTOR_CERT": str(cert), "RINGWAY_TEST_COLLECTOR_TLS_KEY": str(key)}
    env |= {"RINGWAY_TEST_STRANGER": f"http://127.0.0.1:{stranger.port}", "RINGWAY_TEST_STRANGER_ADMIN": f"http://127.0.0.1:{stranger.admin}"}
    yield cases("otlp over tls", secure, env)


def words_suite(args, scratch, stack):
    """Tokens that nobody reports, as OpenAI's tiktoken counts them. It is LiteLLM's: its package has the vocabularies, too."""
    port, log = free_port(), scratch / "words.jsonl"
    more = f'[usage]\nestimate = "bpe"\n[access_log]\nto = "{log}"\nformat = "json"'
    gateway = Gateway("gateway-words", args, scratch, [("up", f"http://127.0.0.1:{port}/v1", "sk-test")], more=more)
    stack.callback(gateway.close)
    python = pathlib.Path(shutil.which(args.litellm) or args.litellm).with_name("python")
    where = "import pathlib, litellm; print(pathlib.Path(litellm.__file__).parent / 'litellm_core_utils' / 'tokenizers')"
    found = subprocess.run([python, "-c", where], check=True, capture_output=True, text=True, env={**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"})
    script = [python, HERE / "cases_words.py", "--base-url", f"http://127.0.0.1:{gateway.port}/v1", "--log", log]
    script += ["--admin-url", f"http://127.0.0.1:{gateway.admin}", "--upstream-port", str(port), "--filter", args.filter]
    yield run(f"words on {args.backend}", script, {"TIKTOKEN_CACHE_DIR": found.stdout.strip()})


def litellm_suite(args, scratch, stack):
    """The Python SDK through the gateway to LiteLLM's proxy."""
    port = free_port()
    command = [args.litellm, "--config", HERE / "litellm.yaml", "--host", "127.0.0.1", "--port", str(port)]
    proxy = Program("litellm", command, scratch, {"LITELLM_LOCAL_MODEL_COST_MAP": "True"})
    stack.callback(proxy.close)
    proxy.until("it is alive", lambda: get(port, "/health/liveliness")[0] == 200)
    gateway = Gateway("gateway-litellm", args, scratch, [("litellm", f"http://127.0.0.1:{port}/v1", "sk-litellm-master")])
    stack.callback(gateway.close)
    gateway.wait_for_models("litellm/")
    script = [sys.executable, HERE / "cases_litellm.py", "--base-url", f"http://127.0.0.1:{gateway.port}/v1"]
    script += ["--provider-url", f"http://127.0.0.1:{port}", "--prefix", "litellm/", "--filter", args.filter]
    yield run(f"litellm on {args.backend}", script)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", type=pathlib.Path, required=True, help="where ringway and ringway-load are")
    parser.add_argument("--backend", required=True, choices=["io_uring", "epoll"])
    parser.add_argument("--suites", default="python,node,python-tls,node-tls,python-cuts,node-cuts,metrics,otlp,words,litellm")
    parser.add_argument("--node", default="node", help="Node 22 or later")
    parser.add_argument("--node-cases", type=pathlib.Path, default=HERE / "cases.mjs", help="with node_modules beside it")
    parser.add_argument("--litellm", default="litellm", help="LiteLLM's command")
    parser.add_argument("--streams", type=int, default=50)
    parser.add_argument("--cut-stride", type=int, default=19, help="streams are cut at every so manyth byte")
    parser.add_argument("--filter", default="")
    parser.add_argument("--write-golden", action="store_true", help="write the metrics' golden file anew")
    args = parser.parse_args()
    suites = args.suites.split(",")

    passed = failed = 0
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="ringway-sdk-"))
    try:
        parts = []
        cuts = [suite for suite in suites if suite.endswith("-cuts")]
        if sdk := [suite for suite in suites if suite not in ("litellm", "metrics", "otlp", "words", *cuts)]:
            parts.append(lambda stack: sdk_suites(args, scratch, stack, sdk))
        if cuts:
            parts.append(lambda stack: cut_suites(args, scratch, stack, cuts))
        if "metrics" in suites:
            parts.append(lambda stack: metrics_suite(args, scratch, stack))
        if "otlp" in suites:
            parts.append(lambda stack: otlp_suite(args, scratch, stack))
        if "words" in suites:
            parts.append(lambda stack: words_suite(args, scratch, stack))
        if "litellm" in suites:
            parts.append(lambda stack: litellm_suite(args, scratch, stack))
        for part in parts:
            with contextlib.ExitStack() as stack:
                try:
                    for more_passed, more_failed in part(stack):
                        passed, failed = passed + more_passed, failed + more_failed
                except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
                    failed += 1
                    print(f"FAIL {error}", flush=True)
        if failed:
            for log in sorted(scratch.glob("*.log")):
                print(f"--- the end of {log.name}:\n{log.read_text(errors='replace')[-1500:]}", flush=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed or not passed else 0)


if __name__ == "__main__":
    main()
