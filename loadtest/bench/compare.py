#!/usr/bin/env python3
"""Compares the gateway with nginx and HAProxy as plain reverse proxies, on the same work, in the same minutes.

Each system runs on core 0; the simulated provider and the load generator share core 1. A round measures every
system once, in an order that turns from round to round; what counts is the ratio within a round, because
whatever else the machine does then is the same for all. Only the standard library is needed, and nginx and
haproxy on the path.

    cargo build --release --workspace
    loadtest/bench/compare.py --gateway target/release/ringway
"""
import argparse
import json
import os
import platform
import re
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
GATEWAY_CONFIG = """
[server]
listen = ["127.0.0.1:@PORT@"]
tls_listen = ["127.0.0.1:@TLS_PORT@"]
tls = { cert = "@CERT@", key = "@KEY@" }
cores = [@CORE@]
[admin]
listen = "127.0.0.1:@ADMIN@"
[[provider]]
name = "sim"
base_url = "http://@UPSTREAM@/v1"
auth = "none"
[[provider]]
name = "bulk"
base_url = "http://@BULK@/v1"
auth = "none"
"""


# ---- the systems ----------------------------------------------------------------------------------------------

def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class System:
    """A process tree under test, or the provider itself when `pid` is None (direct)."""

    def __init__(self, name, port, process=None):
        self.name, self.port, self.process = name, port, process
        self.tls_port = None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/v1"

    def pids(self):
        """The process and all its descendants."""
        found, todo = [], [self.process.pid]
        while todo:
            pid = todo.pop()
            found.append(pid)
            for task in Path(f"/proc/{pid}/task").glob("*/children"):
                todo += [int(child) for child in task.read_text().split()]
        return found

    def cpu_ns(self):
        total = 0
        for pid in self.pids():
            for stat in Path(f"/proc/{pid}/task").glob("*/schedstat"):
                total += int(stat.read_text().split()[0])
        return total

    def rss_bytes(self):
        total = 0
        for pid in self.pids():
            status = Path(f"/proc/{pid}/status").read_text()
            total += int(re.search(r"VmRSS:\s+(\d+) kB", status).group(1)) * 1024
        return total

    def stop(self):
        if self.process:
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()


def wait_for_port(name, port, process, log, seconds=10):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            sys.exit(f"{name} ended with {process.returncode}:\n{Path(log.name).read_text()}")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.02)
    sys.exit(f"{name} does not listen on port {port}")


def fill(template, **names):
    for name, value in names.items():
        template = template.replace(f"@{name}@", str(value))
    return template


NICE = 0


def on_core(core, *command):
    nice = ["nice", "-n", str(NICE)] if NICE else []
    return [*nice, "taskset", "-c", str(core), *map(str, command)]


def start(name, command, port, log):
    process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    wait_for_port(name, port, process, log)
    return System(name, port, process)


def start_all(args, directory, upstream, log):
    systems = []

    def gateway(name, backend):
        port = free_port()
        tls_port = free_port()
        text = Path(args.config).read_text() if args.config else GATEWAY_CONFIG
        config = directory / f"{name}.toml"
        config.write_text(fill(text, PORT=port, ADMIN=free_port(), UPSTREAM=upstream, BULK=args.bulk, CORE=args.core,
                               TLS_PORT=tls_port, CERT=args.cert, KEY=args.key))
        command = on_core(args.core, args.gateway, "run", "-c", config, "--backend", backend)
        systems.append(start(name, command, port, log))
        systems[-1].tls_port = tls_port

    if args.gateway:
        gateway("ringway", "auto")
        if "epoll" in args.against:
            gateway("ringway-epoll", "epoll")
    if "haproxy" in args.against:
        port = free_port()
        config = directory / "haproxy.cfg"
        config.write_text(fill((HERE / "haproxy.cfg").read_text(), PORT=port, UPSTREAM=upstream))
        systems.append(start("haproxy", on_core(args.core, tool("haproxy"), "-db", "-f", config), port, log))
    if "nginx" in args.against:
        port = free_port()
        config = directory / "nginx.conf"
        config.write_text(fill((HERE / "nginx.conf").read_text(), PORT=port, UPSTREAM=upstream, DIR=directory))
        command = on_core(args.core, tool("nginx"), "-p", directory, "-c", config)
        systems.append(start("nginx", command, port, log))
    return systems


def tool(name):
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin:/usr/local/sbin")
    return path or sys.exit(f"{name} is not installed: apt-get install -y nginx-light haproxy openssl")


# ---- one measurement ------------------------------------------------------------------------------------------

def load(args, system, *options, prefix=()):
    """One run of the generator; returns its report."""
    command = [*prefix, *on_core(args.load_core, args.load, "run", "--json", "--url", system.url,
                                 "--body-bytes", "150", *options)]
    done = subprocess.run(command, capture_output=True, text=True)
    if not done.stdout.strip():
        sys.exit(f"the generator failed against {system.name}: {done.stderr}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def model(system, words):
    # Only the gateway needs the provider's name; the provider ignores it.
    return f"sim/sim{words}"


SMALL = ""
SSE = ",gap=10,events=100000,size=300,stamp"


def closed(args, system, connections, secs):
    return load(args, system, "--model", model(system, SMALL), "--concurrency", connections,
                "--warmup", "300ms", "--duration", f"{secs}s")


def streams(args, system, count, secs):
    return load(args, system, "--model", model(system, SSE), "--stream", "--concurrency", count,
                "--ramp", "200ms", "--warmup", "500ms", "--duration", f"{secs}s")


def checked(system, report, unit):
    errors = report["requests"]["errors"]
    if errors or not report["all"][unit]:
        print(f"  ! {system.name}: {errors} errors {report['errors']}", file=sys.stderr)
    return report


def cpu_per_unit(args, system, run, unit):
    """CPU over the whole run, warm-up included, divided by all units of it."""
    before = system.cpu_ns()
    report = checked(system, run(), unit)
    spent = system.cpu_ns() - before
    return spent / max(1, report["all"][unit]) / 1e3, report


# ---- scenarios: each returns {measure: {system: [value per round]}} ---------------------------------------------

def rounds_of(args, systems, label):
    for index in range(args.rounds):
        print(f"\r  {label} round {index + 1}/{args.rounds}   ", end="", file=sys.stderr, flush=True)
        turn = index % len(systems)
        yield systems[turn:] + systems[:turn]
    print(file=sys.stderr)


def put(table, measure, system, value):
    table.setdefault(measure, {}).setdefault(system.name, []).append(value)


def small(args, systems, direct):
    table = {}
    for order in rounds_of(args, systems, "small"):
        for system in order:
            cpu, report = cpu_per_unit(args, system, lambda: closed(args, system, 64, args.secs), "requests")
            put(table, "cpu_us_per_request", system, cpu)
            put(table, "requests_per_s", system, report["requests"]["per_s"])
    return table


def sse(args, systems, direct):
    table = {}
    for order in rounds_of(args, systems, "sse"):
        base = streams(args, direct, 300, args.secs)["latency"]["delivery_us"]
        put(table, "delivery_us_p50", direct, base["p50"])
        for system in order:
            cpu, report = cpu_per_unit(args, system, lambda: streams(args, system, 300, args.secs), "events")
            delivery = report["latency"]["delivery_us"]
            put(table, "cpu_us_per_event", system, cpu)
            put(table, "delivery_us_p50", system, delivery["p50"])
            put(table, "added_us_p50", system, delivery["p50"] - base["p50"])
            put(table, "added_us_p99", system, delivery["p99"] - base["p99"])
            put(table, "events_per_s", system, report["events"]["per_s"])
    return table


def latency(args, systems, direct):
    reference = next((system for system in systems if system.name == "nginx"), systems[-1])
    peaks = [closed(args, reference, 64, 1)["requests"]["per_s"] for _ in range(5)]
    rate = 0.3 * statistics.median(peaks)
    print(f"  30 % of {reference.name}'s peak is {rate:.0f} requests/s", file=sys.stderr)
    table = {"rate_per_s": {"all": [rate]}}
    for order in rounds_of(args, [direct, *systems], "latency"):
        reports = {system: sound(args, system, rate) for system in order}
        if not all(report["valid"] for report, _ in reports.values()):
            # Nothing can be said of one of them, so the round has no pairs.
            print("  ! a round is left out: the generator itself was late", file=sys.stderr)
            continue
        for system, (report, tries) in reports.items():
            late, base = report["latency"]["e2e_us"], reports[direct][0]["latency"]["e2e_us"]
            put(table, "tries", system, tries)
            put(table, "p50_us", system, late["p50"])
            put(table, "p99_us", system, late["p99"])
            put(table, "lag_us_p99", system, report["latency"]["lag_us"]["p99"])
            if system is not direct:
                put(table, "added_us_p50", system, late["p50"] - base["p50"])
                put(table, "added_us_p99", system, late["p99"] - base["p99"])
    return table


def sound(args, system, rate):
    """A run whose generator was not late itself: on a busy machine it may take several."""
    for tries in range(1, 6):
        report = load(args, system, "--model", model(system, SMALL), "--rate", f"{rate:.0f}", "--connections", 64,
                      "--warmup", "300ms", "--duration", f"{args.secs}s")
        if report["valid"]:
            break
    return checked(system, report, "requests"), tries


def syscalls(args, systems, direct):
    table = {}
    few = argparse.Namespace(**{**vars(args), "rounds": min(args.rounds, 3)})
    for order in rounds_of(few, systems, "syscalls"):
        for system in order:
            count, report = counted(args, system, lambda prefix: load(
                args, system, "--model", model(system, SMALL), "--concurrency", 32, "--warmup", "0s",
                "--duration", "1s", prefix=prefix))
            put(table, "per_request_32", system, count / max(1, report["all"]["requests"]))
            count, report = counted(args, system, lambda prefix: load(
                args, system, "--model", model(system, SSE), "--stream", "--concurrency", 200, "--ramp", "200ms",
                "--warmup", "0s", "--duration", "2s", prefix=prefix))
            put(table, "per_event_200", system, count / max(1, report["all"]["events"]))
    return table


def counted(args, system, run):
    """System calls of all threads while the generator runs: by perf, else by strace (slower, hence batching more)."""
    pids = ",".join(map(str, system.pids()))
    with tempfile.NamedTemporaryFile("r", suffix=".stat") as out:
        if shutil.which("perf"):
            report = run(["perf", "stat", "-x,", "-e", "raw_syscalls:sys_enter", "-p", pids, "-o", out.name, "--"])
            found = [line.split(",") for line in out.read().splitlines() if "sys_enter" in line]
            if found and found[0][0].isdigit():
                return int(found[0][0]), report
        strace = subprocess.Popen([tool("strace"), "-f", "-c", "-o", out.name, "-p", pids.replace(",", " -p ")],
                                  stderr=subprocess.DEVNULL)
        time.sleep(0.3)
        report = run([])
        strace.send_signal(2)
        strace.wait()
        out.seek(0)
        rows = [line.split() for line in out.read().splitlines() if re.match(r"\s*[\d.]+\s", line)]
        return sum(int(row[3]) for row in rows if row[-1] != "total"), report


def idle(args, systems, direct):
    table = {}
    tls = ["--tls-ca", args.cert, "--tls-name", "localhost"]
    for measure, options in (("bytes_per_connection", []), ("bytes_per_connection_after_a_request", ["--request"]),
                             ("tls_bytes_per_connection", tls),
                             ("tls_bytes_per_connection_after_a_request", [*tls, "--request"])):
        # New processes: memory that an earlier wave has left behind would hide the growth.
        fresh = args.fresh()
        try:
            for system in fresh:
                if options[:1] == ["--tls-ca"] and not system.tls_port:
                    continue
                with hold(args, system, 100, options):
                    pass
                before = system.rss_bytes()
                with hold(args, system, args.connections, options) as held:
                    time.sleep(0.5)
                    put(table, measure, system, (system.rss_bytes() - before) / args.connections)
                    still = held.finish()
                if still != args.connections:
                    print(f"  ! {system.name} closed {args.connections - still} connections", file=sys.stderr)
        finally:
            for system in fresh:
                system.stop()
    return table


class hold:
    """Idle connections for as long as the block lasts."""

    def __init__(self, args, system, count, options):
        port = system.tls_port if "--tls-ca" in options else system.port
        self.process = subprocess.Popen(
            on_core(args.load_core, args.load, "idle", "--connect", f"127.0.0.1:{port}", "--connections", count,
                    *options), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline().split()
        if not line or line[0] != "holding":
            sys.exit(f"{system.name} does not accept {count} connections")

    def __enter__(self):
        return self

    def finish(self):
        out, _ = self.process.communicate()
        return int(out.split()[-1])

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.finish()


# ---- long bodies beside small requests ---------------------------------------------------------------------------

MIB = 1 << 20
TEXTS = {
    "prose": "The quick brown fox jumps over the lazy dog, and the dog does not mind. ",
    "escapes": r'{\"path\": \"C:\\\\dir\",\n\t\"caf\u00e9\": [1, 2]}\n',
}


def long_body(system, mib, text):
    """A chat request that names its model last, so that all of it has to be read first."""
    content = text * ((mib * MIB - 1024) // len(text))  # a little less: 32 MiB is the most that is taken
    body = f'{{"messages":[{{"role":"user","content":"{content}"}}],"model":"bulk/sim"}}'.encode()
    head = (f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{system.port}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n")
    return head.encode() + body


def send_long(system, request):
    with socket.create_connection(("127.0.0.1", system.port), 30) as connection:
        connection.sendall(request)
        status = connection.recv(15)
        if not status.startswith(b"HTTP/1.1 200"):
            sys.exit(f"{system.name} answers a long body with {status}")
        while connection.recv(1 << 16):
            pass


class LongBodies:
    """Sends them beside other work, so many a second, at the lowest priority: the generator is not to wait for it."""

    def __init__(self, args, system, request, per_s):
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.run, args=(args, system, request, per_s), daemon=True)

    def run(self, args, system, request, per_s):
        os.sched_setaffinity(threading.get_native_id(), {args.load_core})
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
        due = time.monotonic()
        while not self.done.wait(max(0, due - time.monotonic())):
            send_long(system, request)
            due += 1 / per_s

    def __enter__(self):
        self.thread.start()

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()


def big(args, systems, direct):
    """What 8 MiB bodies, `model` last, add to the delay of small requests on the same core, and what a body costs."""
    table = {}
    mine = [system for system in systems if system.name.startswith("ringway")]
    per_s, bodies_per_s = args.big_rate, args.bodies_rate

    def small_ones(system):
        # Long enough to hold a few hundred bodies' worth of requests in all rounds.
        return checked(system, load(args, system, "--model", model(system, SMALL), "--rate", per_s,
                                    "--connections", 64, "--warmup", "300ms", "--duration", f"{args.secs}s"), "requests")

    for order in rounds_of(args, mine, "big"):
        for system in order:
            alone = small_ones(system)["latency"]["e2e_us"]
            put(table, "alone_us_p50", system, alone["p50"])
            put(table, "alone_us_p99", system, alone["p99"])
            for name, text in TEXTS.items():
                with LongBodies(args, system, long_body(system, 8, text), bodies_per_s):
                    report = small_ones(system)
                beside = report["latency"]["e2e_us"]
                put(table, f"beside_8_mib_{name}_added_us_p50", system, beside["p50"] - alone["p50"])
                put(table, f"beside_8_mib_{name}_added_us_p99", system, beside["p99"] - alone["p99"])
                put(table, f"beside_8_mib_{name}_lag_us_p99", system, report["latency"]["lag_us"]["p99"])
                for mib in (8, 32):
                    request = long_body(system, mib, text)
                    before = system.cpu_ns()
                    send_long(system, request)
                    put(table, f"cpu_ms_{mib}_mib_{name}", system, (system.cpu_ns() - before) / 1e6)
    return table


SCENARIOS = {"small": small, "sse": sse, "latency": latency, "syscalls": syscalls, "idle": idle, "big": big}


# ---- the report -----------------------------------------------------------------------------------------------

def quartiles(values):
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def ratios(mine, theirs):
    return [a / b for a, b in zip(mine, theirs) if b]


def summary(tables):
    result = {}
    for scenario, table in tables.items():
        for measure, by_system in table.items():
            row = result.setdefault(scenario, {}).setdefault(measure, {})
            for name, values in by_system.items():
                low, middle, high = quartiles(values)
                entry = row.setdefault(name, {"median": middle, "q1": low, "q3": high, "min": min(values),
                                              "rounds": len(values)})
                for other, theirs in by_system.items():
                    if other != name and len(theirs) == len(values) > 1 and ratios(values, theirs):
                        low, middle, high = quartiles(ratios(values, theirs))
                        entry.setdefault("ratio_to", {})[other] = {"median": middle, "q1": low, "q3": high}
    return result


def show(result):
    for scenario, measures in result.items():
        print(f"\n{scenario}")
        for measure, systems in measures.items():
            print(f"  {measure}")
            for name, entry in systems.items():
                text = f"    {name:<8} {entry['median']:>11.2f}  ({entry['q1']:.2f}–{entry['q3']:.2f})"
                for other, ratio in entry.get("ratio_to", {}).items():
                    text += f"   ×{ratio['median']:.2f} of {other} ({ratio['q1']:.2f}–{ratio['q3']:.2f})"
                print(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gateway", help="path of the gateway's binary; without it only the others are measured")
    parser.add_argument("--config", help="its configuration, with @PORT@, @TLS_PORT@, @CERT@, @KEY@, @ADMIN@, @UPSTREAM@, @BULK@ and @CORE@")
    parser.add_argument("--load", default=str(HERE.parents[1] / "target/release/ringway-load"))
    parser.add_argument("--against", default="haproxy,nginx", type=lambda text: text.split(","),
                        help="haproxy, nginx, and epoll for our own other backend")
    parser.add_argument("--only", default=",".join(SCENARIOS), type=lambda text: text.split(","))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--secs", type=float, default=1.0, help="length of one measurement")
    parser.add_argument("--connections", type=int, default=10_000, help="idle connections")
    parser.add_argument("--big-rate", type=int, default=500, help="small requests a second beside long bodies")
    parser.add_argument("--bodies-rate", type=float, default=2, help="long bodies a second beside them")
    parser.add_argument("--core", type=int, default=0, help="core of the systems under test")
    parser.add_argument("--load-core", type=int, default=1, help="core of provider and generator")
    parser.add_argument("--nice", type=int, default=0, help="e.g. -15, where other work shares the machine (root)")
    parser.add_argument("--json", metavar="FILE", help="also write everything there")
    args = parser.parse_args()
    global NICE
    NICE = args.nice
    if NICE:
        # Where sessions are scheduled as groups, niceness counts only within one: raise the group of a new one.
        try:
            if os.getpid() != os.getpgrp():
                os.setsid()
            Path("/proc/self/autogroup").write_text(str(NICE))
        except OSError as error:
            print(f"  ! the scheduling group keeps its niceness: {error}", file=sys.stderr)

    # Inherited by every process started below.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    systems = []
    with tempfile.TemporaryDirectory(prefix="ringway-compare-") as name, open(Path(name) / "log", "w") as log:
        directory = Path(name)
        # nginx' worker gives up its rights and must still reach its temporary files.
        directory.chmod(0o755)
        bulk = None
        provider = subprocess.Popen(on_core(args.load_core, args.load, "provider", "--listen", "127.0.0.1:0", "--log", 0),
                                    stdout=subprocess.PIPE, text=True)
        try:
            upstream = provider.stdout.readline().split()[-1]
            args.cert, args.key = directory / "cert.pem", directory / "key.pem"
            subprocess.run([tool("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
                            "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
                            "-addext", "basicConstraints=critical,CA:FALSE", "-keyout", args.key, "-out", args.cert],
                           check=True, stderr=subprocess.DEVNULL)
            # Takes the long bodies, at the lowest priority: what it does with them is not what is measured.
            bulk = subprocess.Popen(["nice", "-n", "19", *on_core(args.load_core, args.load, "provider", "--listen",
                                                                  "127.0.0.1:0", "--log", 0)],
                                    stdout=subprocess.PIPE, text=True)
            args.bulk = bulk.stdout.readline().split()[-1]
            args.fresh = lambda: start_all(args, directory, upstream, log)
            systems = args.fresh()
            direct = System("direct", upstream.rsplit(":", 1)[1])
            # Pools are filled and pages touched before anything counts.
            for system in systems:
                closed(args, system, 64, 0.3)
            tables = {scenario: SCENARIOS[scenario](args, systems, direct) for scenario in args.only}
        finally:
            for system in systems:
                system.stop()
            provider.kill()
            if bulk:
                bulk.kill()
    result = summary(tables)
    show(result)
    if args.json:
        versions = {"kernel": platform.release(), "machine": platform.machine(), "cpus": os.cpu_count()}
        Path(args.json).write_text(json.dumps({"environment": versions, "rounds": args.rounds, "secs": args.secs,
                                               "summary": result, "values": tables}, indent=1))


if __name__ == "__main__":
    main()
