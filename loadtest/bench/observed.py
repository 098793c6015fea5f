#!/usr/bin/env python3
"""What it costs to be observed: gateways that differ only in what they keep of each request, in the same minutes.

`off` counts for /metrics and keeps nothing (that cannot be switched off); `on` has a state directory with the book, prices,
an access log of JSON lines in a file, masking, and one exchange in a hundred kept; `payload` keeps what was said in those,
too; `otlp` is `on` with metrics, a log record for each exchange and one trace in a hundred sent to a collector that takes
everything. The shard has a core; the gateway's other threads run beside it, where provider and generator do. A round measures
each once, in an order that turns; what counts is the ratio to `off` within the round. What was lost is told at the end.

All are offered the same requests a second (`--rate`), for a shard that has less to do spends more on each request: it sleeps
and is woken more often; against that, what is observed looks small. `--saturated` sends each as many as it answers instead. The core
that the gateway's other threads share with the generator is full then, and what they take is missing to the generator: the more
is observed, the fewer requests come. With `--nice 5` they give way, which a shard that has its core for itself does not feel;
lines may be lost by it, which costs nothing, and is told.

What one exchange in a hundred costs more with what was said is less than rounds differ. `--payload-all` tells it: of two
gateways that keep every exchange, one with what was said, as many come in a second as one in a hundred would be, and are
waited for until they are kept. A hundredth of the difference is told as a share of a request's CPU in `off`.

    cargo build --release --workspace
    loadtest/bench/observed.py --gateway target/release/ringway
"""
import argparse
import json
import re
import socket
import socketserver
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

from compare import HERE, SMALL, closed, fill, free_port, load, model, on_core, quartiles, ratios, rounds_of, start

OFF = """
[server]
listen = ["127.0.0.1:@PORT@"]
cores = [@CORE@]
[admin]
listen = "127.0.0.1:@ADMIN@"
[[provider]]
name = "sim"
base_url = "http://@UPSTREAM@/v1"
auth = "none"
"""
ON = OFF + """
[auth]
required = false
[state]
dir = "@DIR@/state-@NAME@"
[access_log]
format = "json"
to = "@DIR@/@NAME@.log"
[masking]
email = true
[[price]]
model = "sim/*"
input_per_million_usd = 1
output_per_million_usd = 2
[logs]
sample = @SAMPLE@
payload = "@PAYLOAD@"
"""
OTLP = ON + """
[otlp]
endpoint = "http://127.0.0.1:@COLLECTOR@"
sample = 0.01
"""
# Configuration, share of the exchanges that are kept, and whether what was said is.
VARIANTS = {"off": (OFF, 0, ""), "on": (ON, 0.01, "never"), "payload": (ON, 0.01, "always"), "otlp": (OTLP, 0.01, "never")}
PAYLOAD_ALL = {"off": (OFF, 0, ""), "kept": (ON, 1, "never"), "said": (ON, 1, "always")}
KEPT_PER_SEC = 600
LOSSES = ("rw_log_lines_dropped", "rw_log_kept_dropped", "rw_log_payloads_dropped", "rw_otlp_dropped")


class Collector(socketserver.BaseRequestHandler):
    """Takes everything and keeps nothing, over connections that stay, as collectors do. They do so elsewhere: what this one
    costs would be missing to the generator, so it does not even copy what it takes."""

    def handle(self):
        bodies, head = memoryview(bytearray(1 << 20)), b""
        while more := self.request.recv(1024):
            head += more
            while b"\r\n\r\n" in head:
                fields, head = head.split(b"\r\n\r\n", 1)
                left = int(re.search(rb"(?i)\ncontent-length: *(\d+)", fields).group(1))
                left, head = max(0, left - len(head)), head[left:]
                while left:
                    # On a TCP socket, MSG_TRUNC throws away (tcp(7)).
                    taken = self.request.recv_into(bodies, min(left, len(bodies)), socket.MSG_TRUNC | socket.MSG_WAITALL)
                    if not taken:
                        return
                    left -= taken
                self.request.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")


def cpu_by_thread(system):
    """Nanoseconds of the shards' threads, and of the whole process."""
    shards = whole = 0
    for task in Path(f"/proc/{system.process.pid}/task").iterdir():
        try:
            spent = int((task / "schedstat").read_text().split()[0])
        except (FileNotFoundError, ProcessLookupError):
            continue  # a thread that looks a name up is gone in no time
        whole += spent
        shards += spent if (task / "comm").read_text().startswith("shard-") else 0
    return shards, whole


def count(system, name):
    with urllib.request.urlopen(f"http://127.0.0.1:{system.admin}/metrics") as page:
        return sum(int(line.split()[-1]) for line in page.read().decode().splitlines() if line.startswith(name + "_total"))


def tell_lost(system):
    """What was dropped cost nothing: it is said how much that was."""
    lost = {name: count(system, name) for name in LOSSES}
    if any(lost.values()):
        print(f"{system.name}: of {count(system, 'rw_requests')} exchanges, lost {lost}")


def kept(args, system):
    """A second of exchanges, until the last is kept."""
    before = count(system, "rw_log_kept")
    report = load(args, system, "--model", model(system, SMALL), "--rate", KEPT_PER_SEC, "--warmup", "0s", "--duration", "1s")
    end = time.monotonic() + 5
    while count(system, "rw_log_kept") - before < report["all"]["requests"]:
        if time.monotonic() > end or count(system, "rw_log_kept_dropped") or count(system, "rw_log_payloads_dropped"):
            sys.exit(f"{system.name}: not all was kept")
        time.sleep(0.05)
    return report


def offered(args, system):
    if args.saturated:
        return closed(args, system, 64, args.secs)
    report = load(args, system, "--model", model(system, SMALL), "--rate", args.rate,
                  "--warmup", "300ms", "--duration", f"{args.secs}s")
    if not report["valid"]:
        print(f"  ! {system.name}: {report['flaw']}", file=sys.stderr)
    return report


def measure(args, system, table):
    before = cpu_by_thread(system)
    report = kept(args, system) if system.sample == 1 else offered(args, system)
    after = cpu_by_thread(system)
    requests = report["all"]["requests"]
    if report["requests"]["errors"] or not requests:
        sys.exit(f"{system.name}: {report['requests']['errors']} errors {report['errors']}")
    for name, low, high in zip(("shards", "process"), before, after):
        table.setdefault((name, system.name), []).append((high - low) / max(1, requests) / 1e3)


def show(table):
    result = {}
    for (what, name), values in table.items():
        low, middle, high = quartiles(values)
        line = f"{what:<8} {name:<8} {middle:7.2f} µs a request ({low:.2f}–{high:.2f})"
        entry = result.setdefault(what, {}).setdefault(name, {"us": middle, "rounds": len(values)})
        if name != "off" and len(values) > 1:
            low, middle, high = quartiles(ratios(values, table[what, "off"]))
            line += f"  ×{middle:.3f} of off ({low:.3f}–{high:.3f})"
            entry["ratio_to_off"] = {"median": middle, "q1": low, "q3": high}
        print(line)
    return result


def show_payload(table):
    result = {}
    for what in ("shards", "process"):
        off, kept, said = (table[what, name] for name in PAYLOAD_ALL)
        more = [with_it - without for with_it, without in zip(said, kept)]
        low, middle, high = quartiles(more)
        share_low, share, share_high = quartiles([us / 100 / whole for us, whole in zip(more, off)])
        print(f"{what:<8} {middle:7.2f} µs an exchange more ({low:.2f}–{high:.2f}); of one in a hundred "
              f"{share:.2%} of {quartiles(off)[1]:.2f} µs ({share_low:.2%}–{share_high:.2%})")
        result[what] = {"us_more": middle, "share_at_1_percent": {"median": share, "q1": share_low, "q3": share_high}}
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gateway", required=True)
    parser.add_argument("--load", default=str(HERE.parents[1] / "target/release/ringway-load"))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--secs", type=float, default=1.0)
    parser.add_argument("--rate", type=int, default=10_000, help="requests a second, the same for all")
    parser.add_argument("--saturated", action="store_true", help="as many requests as are answered")
    parser.add_argument("--nice", type=int, default=0, help="how far the gateways give way")
    parser.add_argument("--core", type=int, default=0, help="core of the gateways")
    parser.add_argument("--load-core", type=int, default=1, help="core of provider and generator")
    parser.add_argument("--payload-all", action="store_true", help="what it costs to keep what was said, and nothing else")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    collector = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Collector)
    collector.daemon_threads = True
    threading.Thread(target=collector.serve_forever, daemon=True).start()
    systems, table = [], {}
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        log = open(directory / "programs.log", "w")
        port = free_port()
        provider = start("provider", on_core(args.load_core, args.load, "provider", "--log", 0, "--listen", f"127.0.0.1:{port}"),
                         port, log)
        try:
            for name, (text, sample, payload) in (PAYLOAD_ALL if args.payload_all else VARIANTS).items():
                listen, admin, config = free_port(), free_port(), directory / f"{name}.toml"
                config.write_text(fill(text, PORT=listen, ADMIN=admin, UPSTREAM=f"127.0.0.1:{port}", CORE=args.core,
                                       DIR=directory, NAME=name, SAMPLE=sample, PAYLOAD=payload,
                                       COLLECTOR=collector.server_address[1]))
                nice = ["nice", "-n", str(args.nice)] if args.nice else []
                systems.append(start(name, [*nice, args.gateway, "run", "-c", config], listen, log))
                systems[-1].sample, systems[-1].admin = sample, admin
            for order in rounds_of(args, systems, "observed"):
                for system in order:
                    measure(args, system, table)
            for system in systems:
                tell_lost(system)
        finally:
            for system in [*systems, provider]:
                system.stop()
    result = show_payload(table) if args.payload_all else show(table)
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
