#!/usr/bin/env python3
"""Builds the gateway laid out for its own work: profile-guided optimisation, trained with the bundled load generator.

The compiler counts what an instrumented gateway does under small requests and streams, on io_uring and on epoll,
plain and with callers, limits, a route, an access log and TLS on both sides; then it builds again with the counts.
What the training never runs is kept out of the way of what it does. About twice the time of a release build.

    tuning/train.py            # target/trained/ringway
"""
import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "target" / "trained"
LOAD_SECS = 6

PLAIN = """
[server]
listen = ["127.0.0.1:@PORT@"]
cores = 1
[admin]
listen = "127.0.0.1:@ADMIN@"
[[provider]]
name = "sim"
base_url = "http://127.0.0.1:@UPSTREAM@/v1"
key = "sk-training"
"""

FULL = PLAIN + """
[[provider]]
name = "secure"
base_url = "https://localhost:@UPSTREAM_TLS@/v1"
ca_file = "@CERT@"
auth = "none"
[state]
dir = "@DIR@/state"
[auth]
required = true
[access_log]
to = "@DIR@/access.log"
[[limit]]
by = "gateway"
requests_per_second = 1000000
tokens_per_minute = 1000000000
[[route]]
name = "train"
if = { field = "stream", op = "==", value = true }
[route.then]
model = "sim/sim,gap=2,events=100"
fallbacks = ["secure/sim"]
[route.else]
model = "sim/sim"
fallbacks = ["secure/sim"]
"""


def run(*command, **options):
    print("+", *command, flush=True)
    return subprocess.run([str(part) for part in command], check=True, cwd=ROOT, **options)


def profdata():
    """rustc's own llvm-profdata: only one of the same LLVM reads its counts."""
    def find():
        root = Path(subprocess.check_output(["rustc", "--print", "sysroot"], text=True).strip())
        return next(root.glob("lib/rustlib/*/bin/llvm-profdata"), None)
    if not find():
        run("rustup", "component", "add", "llvm-tools")
    return find() or sys.exit("rustc's llvm-profdata is missing: rustup component add llvm-tools")


def build(host, flags):
    environment = {**os.environ, "RUSTFLAGS": flags}
    # With --target the flags do not reach build scripts and procedural macros.
    run("cargo", "build", "--locked", "--release", "-j2", "--bin", "ringway", "--target", host, "--target-dir",
        TARGET / "build", env=environment)
    return TARGET / "build" / host / "release" / "ringway"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(port, process):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        try:
            return socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.02)
    sys.exit(f"nothing listens on port {port}")


class Started:
    """A process, ended in order when the block ends: an instrumented one writes its counts only then."""

    def __init__(self, port, *command, **environment):
        self.process = subprocess.Popen([str(part) for part in command], env={**os.environ, **environment},
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(port, self.process)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)


def load(generator, port, *options):
    command = [generator, "run", "--json", "--url", f"http://127.0.0.1:{port}/v1", "--warmup", "0s", "--concurrency", 64,
               "--duration", f"{LOAD_SECS}s", *options]
    report = json.loads(subprocess.check_output([str(part) for part in command], text=True))
    done = report["requests"]["ok"]
    print(f"  {done} requests served", flush=True)
    if not done:
        sys.exit("the training load was not served")


def over_tls(port, cert, token):
    """Some hundred requests on connections that the load generator does not make."""
    trust = ssl.create_default_context(cafile=cert)
    for _ in range(40):
        connection = http.client.HTTPSConnection("localhost", port, context=trust, timeout=20)
        for model in ("secure/sim", "secure/sim,events=50", "sim/sim", "secure/sim,status=429"):
            body = {"model": model, "stream": "events" in model, "messages": [{"role": "user", "content": "hello"}]}
            connection.request("POST", "/v1/chat/completions", json.dumps(body),
                               {"authorization": f"Bearer {token}", "content-type": "application/json"})
            connection.getresponse().read()
        connection.close()


def train(gateway, generator, directory):
    cert, key = directory / "cert.pem", directory / "key.pem"
    run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj",
        "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", cert, stderr=subprocess.DEVNULL)
    upstream, upstream_tls = free_port(), free_port()
    provider = (generator, "provider", "--log", "0", "--listen")
    with Started(upstream, *provider, f"127.0.0.1:{upstream}"), \
            Started(upstream_tls, *provider, f"127.0.0.1:{upstream_tls}", "--tls-cert", cert, "--tls-key", key):
        for backend in ("io_uring", "epoll"):
            for name, text in (("plain", PLAIN), ("full", FULL)):
                port, tls_port = free_port(), free_port()
                for word, value in (("PORT", port), ("ADMIN", free_port()), ("UPSTREAM", upstream), ("CERT", cert),
                                    ("UPSTREAM_TLS", upstream_tls), ("DIR", directory)):
                    text = text.replace(f"@{word}@", str(value))
                if name == "full":
                    text = text.replace("cores = 1", f'cores = 1\ntls_listen = ["127.0.0.1:{tls_port}"]\n'
                                        f'tls = {{ cert = "{cert}", key = "{key}" }}')
                config = directory / f"{name}.toml"
                config.write_text(text)
                token, header = "", ()
                if name == "full":
                    token = subprocess.check_output([gateway, "callers", "create", "-q", "-c", config, "--name", backend],
                                                    env={**os.environ, "LLVM_PROFILE_FILE": "/dev/null"}, text=True).strip()
                    header = ("--header", f"authorization: Bearer {token}")
                counts = str(directory / f"{backend}-{name}-%p.profraw")
                with Started(port, gateway, "run", "-c", config, "--backend", backend, LLVM_PROFILE_FILE=counts):
                    load(generator, port, *header)
                    load(generator, port, *header, "--stream", "--model", "sim/sim,gap=10,events=100,size=300")
                    if name == "full":
                        load(generator, port, *header, "--model", "dynamic/train")
                        over_tls(tls_port, cert, token)


def main():
    merge = profdata()
    host = next(line.split()[1] for line in subprocess.check_output(["rustc", "-vV"], text=True).splitlines()
                if line.startswith("host:"))
    run("cargo", "build", "--locked", "--release", "-j2", "-p", "ringway-load")
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        # Where the counts go is said anew when it runs: a path that stays lets cargo keep what it has built.
        counting = build(host, f"-Cprofile-generate={TARGET / 'counts'}")
        train(counting, ROOT / "target" / "release" / "ringway-load", directory)
        run(merge, "merge", "-o", TARGET / "ringway.profdata", *directory.glob("*.profraw"))
    trained = build(host, f"-Cprofile-use={TARGET / 'ringway.profdata'}")
    shutil.copy2(trained, TARGET / "ringway")
    print(f"trained: {TARGET / 'ringway'}")


if __name__ == "__main__":
    main()
