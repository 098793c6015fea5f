#!/usr/bin/env python3
"""What a log sink that is stuck does to requests: gateways that differ only in who reads their access log.

Each writes a line for each request to its stdout, a pipe. The readers of `read` and `again` take all of it; that of `stalled`
is stopped before the first round and stays so until the last, a minute at the least: its pipe is full, and so is soon
whatever waits for it. A round measures each once, open loop and at the same rate, in an order that turns; what counts is the
ratio to `read` within the round, and how far `again`, which is no other, comes from it.

Then what must hold is looked at: no request failed; whoever was read lost no line; `stalled` has lost some and says so. Its
reader goes on, and every line has been read once or is counted as lost. Stuck once more, it still ends in time.

    cargo build --release --workspace
    loadtest/bench/stalled.py --gateway target/release/ringway
"""
import argparse
import itertools
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from compare import HERE, SMALL, System, checked, fill, free_port, load, model, on_core, quartiles, ratios, sound, start, wait_for_port

CONFIG = """
[server]
listen = ["127.0.0.1:@PORT@"]
cores = [@CORE@]
[admin]
listen = "127.0.0.1:@ADMIN@"
[[provider]]
name = "sim"
base_url = "http://@UPSTREAM@/v1"
auth = "none"
[access_log]
format = "json"
to = "stdout"
"""
NAMES = ("read", "again", "stalled")
# Far more than it should take.
END_SECS_MAX = 10
SETTLE_SECS_MAX = 10


class Logging(System):
    """A gateway, and a process of its own that reads its lines into a file."""

    def __init__(self, args, name, directory, upstream, log):
        self.lines = directory / f"{name}.log"
        self.reader = subprocess.Popen(on_core(args.load_core, "cat"), stdin=subprocess.PIPE, stdout=open(self.lines, "wb"))
        port, self.admin = free_port(), free_port()
        config = directory / f"{name}.toml"
        config.write_text(fill(CONFIG, PORT=port, ADMIN=self.admin, UPSTREAM=upstream, CORE=args.core))
        process = subprocess.Popen(on_core(args.core, args.gateway, "run", "-c", config), stdin=subprocess.DEVNULL,
                                   stdout=self.reader.stdin, stderr=log)
        super().__init__(name, port, process)
        # The gateway alone holds the pipe's end: the reader ends with it.
        self.reader.stdin.close()
        wait_for_port(name, port, process, log)

    def stop_reading(self):
        self.reader.send_signal(signal.SIGSTOP)

    def go_on_reading(self):
        self.reader.send_signal(signal.SIGCONT)

    def count(self, family):
        """What /metrics says of it now, all labels together."""
        page = urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/metrics", timeout=10).read().decode()
        return sum(int(float(value)) for value in re.findall(rf"^{family}(?:{{[^}}]*}})? (\S+)$", page, re.M))

    def counts(self):
        """Requests, and lines that were written and that were lost."""
        return tuple(map(self.count, ("rw_requests_total", "rw_log_lines_total", "rw_log_lines_dropped_total")))

    def settled(self):
        """The same once every line has come to one end or the other."""
        end = time.monotonic() + SETTLE_SECS_MAX
        while (counts := self.counts())[0] != counts[1] + counts[2]:
            if time.monotonic() > end:
                sys.exit(f"{self.name}: of {counts[0]} requests {counts[1]} lines were written and {counts[2]} lost")
            time.sleep(0.05)
        return counts

    def stop(self):
        self.go_on_reading()
        super().stop()
        self.reader.wait()


def rounds(args, systems):
    """Reports by system: so many rounds, and as many more as the stall is to last."""
    began = time.monotonic()
    for index in itertools.count():
        if index >= args.rounds and time.monotonic() - began >= args.stall_secs:
            print(file=sys.stderr)
            return
        print(f"\r  stalled round {index + 1}   ", end="", file=sys.stderr, flush=True)
        turn = index % len(systems)
        yield {system.name: sound(args, system, args.rate)[0] for system in systems[turn:] + systems[:turn]}


def measure(args, systems):
    table, failed = {}, 0
    for reports in rounds(args, systems):
        failed += sum(report["requests"]["errors"] for report in reports.values())
        if not all(report["valid"] for report in reports.values()):
            print("\n  ! a round is left out: the generator itself was late", file=sys.stderr)
            continue
        for name, report in reports.items():
            for quantile in ("p50", "p99"):
                table.setdefault(quantile, {}).setdefault(name, []).append(report["latency"]["e2e_us"][quantile])
    if failed or not table:
        sys.exit(f"{failed} requests failed" if failed else "no round can be judged: the generator was always late")
    return table


def fill_up(args, system):
    """Leaves lines until some are lost, in waves of requests that nobody measures."""
    lost = system.count("rw_log_lines_dropped_total")
    while system.count("rw_log_lines_dropped_total") == lost:
        checked(system, load(args, system, "--model", model(system, SMALL), "--concurrency", 64, "--warmup", "0s",
                             "--duration", "1s"), "requests")


def must_hold(args, systems):
    """What is not a matter of degree. Returns it for the report."""
    *read, stalled = systems
    told = {}
    for system in read:
        told[system.name] = requests, written, lost = system.settled()
        if lost:
            sys.exit(f"{system.name}: {lost} of {requests} lines are lost, and somebody read them")
    requests, written, lost = stalled.counts()
    if not lost:
        sys.exit(f"stalled: no line of {requests} is lost: it was not stuck")
    stalled.go_on_reading()
    told["stalled"] = stalled.settled()
    stalled.stop_reading()
    fill_up(args, stalled)
    began = time.monotonic()
    stalled.process.terminate()
    status = stalled.process.wait(END_SECS_MAX)
    told["end_secs"] = time.monotonic() - began
    stalled.go_on_reading()
    stalled.reader.wait()
    for system in read:
        system.stop()
        lines = system.lines.read_bytes().count(b"\n")
        if lines != told[system.name][1]:
            sys.exit(f"{system.name}: {lines} lines were read, {told[system.name][1]} are counted as written")
    told["status"] = status
    return told


def show(table, told):
    result = {}
    for quantile, by_system in table.items():
        for name, values in by_system.items():
            low, middle, high = quartiles(values)
            entry = result.setdefault(quantile, {}).setdefault(name, {"us": middle, "rounds": len(values)})
            line = f"{quantile} {name:<8} {middle:8.0f} µs ({low:.0f}–{high:.0f})"
            if name != "read":
                low, middle, high = quartiles(ratios(values, by_system["read"]))
                entry["ratio_to_read"] = {"median": middle, "q1": low, "q3": high}
                line += f"  ×{middle:.3f} of read ({low:.3f}–{high:.3f})"
            print(line)
    for name in NAMES:
        requests, written, lost = told[name]
        print(f"{name:<8} {requests} requests, {written} lines written, {lost} lost")
    print(f"stuck again, it ended in {told['end_secs']:.1f} s with status {told['status']}")
    spread, moved = result["p99"]["again"]["ratio_to_read"], result["p99"]["stalled"]["ratio_to_read"]["median"]
    within = moved <= max(1.0, spread["q3"])
    print(f"p99 moved by ×{moved:.3f}, interleaved runs of one gateway come to ×{spread['q1']:.3f}–{spread['q3']:.3f}: "
          + ("within the spread" if within else "BEYOND the spread"))
    return {**result, "counts": told, "within": within}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gateway", required=True)
    parser.add_argument("--load", default=str(HERE.parents[1] / "target/release/ringway-load"))
    parser.add_argument("--rounds", type=int, default=10, help="at the least")
    parser.add_argument("--secs", type=float, default=3.0, help="length of one measurement")
    parser.add_argument("--stall-secs", type=float, default=60, help="the sink is stuck for so long at the least")
    parser.add_argument("--rate", type=int, default=2000, help="requests a second")
    parser.add_argument("--core", type=int, default=0, help="core of the gateways")
    parser.add_argument("--load-core", type=int, default=1, help="core of provider, generator and readers")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        log = open(directory / "programs.log", "w")
        port = free_port()
        systems = []
        provider = start("provider", on_core(args.load_core, args.load, "provider", "--log", 0, "--listen", f"127.0.0.1:{port}"),
                         port, log)
        try:
            for name in NAMES:
                systems.append(Logging(args, name, directory, f"127.0.0.1:{port}", log))
            for system in systems:
                # Pools are filled and pages touched before anything counts.
                load(args, system, "--model", model(system, SMALL), "--concurrency", 64, "--warmup", "0s", "--duration", "0.3s")
            systems[-1].stop_reading()
            fill_up(args, systems[-1])
            table = measure(args, systems)
            told = must_hold(args, systems)
        finally:
            for system in [*systems, provider]:
                system.stop()
    result = show(table, told)
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=1))
    sys.exit(0 if result["within"] else 1)


if __name__ == "__main__":
    main()
