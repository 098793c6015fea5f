#!/usr/bin/env python3
"""What admission costs a request: gateways that differ only in whom they ask, in the same minutes.

`off` asks nobody who calls and limits nothing; `on` wants a token, looks into a list of 257 networks and counts three limits
that nobody reaches: requests a minute by gateway and by caller, tokens a day by caller. Both have a state directory. A round
measures each once, in an order that turns; what counts is the ratio to `off` within the round. `--parts` adds what stands
between them: `token`, and `list` (the token and the networks).

`--instructions` counts instead what they run in user space, by valgrind, on epoll (it knows no io_uring): 2 N requests less
N, so that what isn't a request's cancels. Its processor has no SHA instructions, so what hashing takes is told apart.

`--hot` asks what sharing a key costs: one gateway on two cores, 64 connections, three limits a caller; all connections show
one token, or each its own. Provider and generator run on the same two cores, so throughput pays for their CPU too.

    cargo build --release --workspace
    loadtest/bench/admission.py --gateway target/release/ringway
"""
import argparse
import collections
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from compare import HERE, fill, free_port, load, on_core, quartiles, ratios, rounds_of, start, tool, wait_for_port
from compare import System
from observed import cpu_by_thread

OFF = """
[server]
listen = ["127.0.0.1:@PORT@"]
cores = [@CORES@]
[admin]
listen = "127.0.0.1:@ADMIN@"
[state]
dir = "@DIR@/@NAME@"
[auth]
required = @REQUIRED@
[[provider]]
name = "sim"
base_url = "http://@UPSTREAM@/v1"
auth = "none"
"""
LIST = '[access]\nallow = ["127.0.0.0/8", %s]\n' % ", ".join(f'"10.{byte}.0.0/16"' for byte in range(256))
GATEWAY = '[[limit]]\nby = "gateway"\nrequests_per_minute = 1_000_000_000\n'
CALLER = ["--requests-per-minute", "1000000000", "--tokens-per-day", "100000000000"]
# What is configured, whether a token is asked for, and what its caller is limited to.
VARIANTS = {"off": (OFF, False, []), "token": (OFF, True, []), "list": (OFF + LIST, True, []),
            "on": (OFF + LIST + GATEWAY, True, CALLER)}
CONNECTIONS = 64


def write_config(args, directory, name, text, is_required, cores):
    config, port = directory / f"{name}.toml", free_port()
    config.write_text(fill(text, PORT=port, ADMIN=free_port(), UPSTREAM=args.upstream, CORES=cores, DIR=directory, NAME=name,
                           REQUIRED=str(is_required).lower()))
    return config, port


def token(args, config, name, limits):
    made = subprocess.run([args.gateway, "callers", "create", "-q", "-c", config, "--name", name, *limits],
                          capture_output=True, text=True)
    return made.stdout.strip() or sys.exit(f"no caller was made: {made.stderr}")


def variants(args, directory):
    """Each variant's name, configuration, port, and the options of the generator against it."""
    for name, (text, is_required, limits) in VARIANTS.items():
        if name not in ("off", "on") and not args.parts:
            continue
        config, port = write_config(args, directory, name, text, is_required, args.core)
        shown = ["--header", f"authorization: Bearer {token(args, config, 'one', limits)}"] if is_required else []
        yield name, config, port, shown


def checked(system, report):
    if report["requests"]["errors"] or not report["all"]["requests"]:
        sys.exit(f"{system.name}: {report['requests']['errors']} errors {report['errors']}")
    return report["all"]["requests"]


# ---- CPU --------------------------------------------------------------------------------------------------------

def cpu(args, directory, log):
    systems, options, table = [], {}, {}
    try:
        for name, config, port, shown in variants(args, directory):
            systems.append(start(name, on_core(args.core, args.gateway, "run", "-c", config), port, log))
            options[name] = shown
        for order in rounds_of(args, systems, "admission"):
            for system in order:
                before = cpu_by_thread(system)
                count = checked(system, load(args, system, "--model", "sim/sim", "--concurrency", CONNECTIONS, "--warmup",
                                             "200ms", "--duration", f"{args.secs}s", *options[system.name]))
                for what, low, high in zip(("shards, µs", "process, µs"), before, cpu_by_thread(system)):
                    table.setdefault(what, {}).setdefault(system.name, []).append((high - low) / count / 1e3)
    finally:
        for system in systems:
            system.stop()
    return table


# ---- instructions -----------------------------------------------------------------------------------------------

def by_function(file):
    """Callgrind's dump: what each function ran itself."""
    own, names, current, is_call = collections.Counter(), {}, None, False
    for line in file.read_text().splitlines():
        if found := re.match(r"fn=(\(\d+\))(?: (.*))?$", line):
            if found[2]:
                names[found[1]] = found[2]
            current = found[1]
        elif found := re.match(r"cfn=(\(\d+\)) (.*)$", line):
            names[found[1]] = found[2]
        elif line.startswith("calls="):
            is_call = True
        elif found := re.match(r"[+\-*\d]\S* (\d+)$", line):
            if not is_call:
                own[current] += int(found[1])
            is_call = False
    result = collections.Counter()
    for key, count in own.items():
        result[names[key]] += count
    return result


def instructions_of(args, directory, log, name, config, port, shown):
    out = directory / f"callgrind.{name}"
    process = subprocess.Popen([tool("valgrind"), "--tool=callgrind", f"--callgrind-out-file={out}", "--dump-line=no",
                                args.stripped, "run", "-c", config, "--backend", "epoll"], stdout=log, stderr=log)
    system = System(name, port, process)
    wait_for_port(name, port, process, log, 60)

    def control(option):
        subprocess.run([tool("callgrind_control"), option, str(process.pid)], check=True, stdout=log, stderr=log)

    def run(requests):
        checked(system, load(args, system, "--model", "sim/sim", "--concurrency", CONNECTIONS, "--warmup", "0s",
                             "--duration", "100s", "--requests", requests, *shown))

    try:
        run(500)
        control("-z")
        for requests in (args.requests, 2 * args.requests):
            run(requests)
            control("-d")
    finally:
        system.stop()
    # A dump zeroes what it has counted.
    once, twice = (by_function(Path(f"{out}.{number}")) for number in (1, 2))
    return {key: (twice[key] - once[key]) / args.requests for key in twice | once}


def instructions(args, directory, log):
    args.stripped = directory / "gateway"
    # Valgrind takes minutes over line tables.
    subprocess.run([tool("objcopy"), "--strip-debug", args.gateway, args.stripped], check=True)
    counts = {variant[0]: instructions_of(args, directory, log, *variant) for variant in variants(args, directory)}
    off, result = sum(counts["off"].values()), {}
    for name, functions in counts.items():
        whole = sum(functions.values())
        hashing = sum(count for function, count in functions.items() if "sha256_block_data_order" in function)
        result[name] = {"all": whole, "hashing": hashing}
        print(f"{name:<8} {whole:9.0f} instructions a request, {hashing:.0f} of them SHA-256 blocks;"
              f" beside them {(whole - hashing) / off - 1:+.1%} of off")
    on = counts["on"]
    print("\nof which, by function (on less off)")
    added = {function: count - counts["off"].get(function, 0) for function, count in on.items()}
    for function, count in sorted(added.items(), key=lambda pair: -abs(pair[1]))[:args.functions]:
        print(f"{count:9.0f}  {function[:110]}")
    return result


# ---- one hot key ------------------------------------------------------------------------------------------------

def hot(args, directory, log):
    config, port = write_config(args, directory, "hot", OFF, True, "0, 1")
    limits = [*CALLER, "--concurrent-requests", "100000"]
    lines = [f"authorization: Bearer {token(args, config, f'caller-{number}', limits)}\n" for number in range(CONNECTIONS)]
    files = {"each its own": directory / "each", "one for all": directory / "one"}
    files["each its own"].write_text("".join(lines))
    files["one for all"].write_text(lines[0] * CONNECTIONS)
    table = {}
    system = start("hot", [args.gateway, "run", "-c", config], port, log)
    try:
        for order in rounds_of(args, list(files), "hot"):
            for keys in order:
                before = cpu_by_thread(system)
                done = subprocess.run([args.load, "run", "--json", "--url", system.url, "--model", "sim/sim",
                                       "--concurrency", str(CONNECTIONS), "--warmup", "200ms", "--duration", f"{args.secs}s",
                                       "--header-each", files[keys]], capture_output=True, text=True)
                if not done.stdout.strip():
                    sys.exit(f"the generator failed: {done.stderr}")
                count = checked(system, json.loads(done.stdout.strip().splitlines()[-1]))
                spent = cpu_by_thread(system)[0] - before[0]
                table.setdefault("shards, µs", {}).setdefault(keys, []).append(spent / count / 1e3)
                table.setdefault("requests", {}).setdefault(keys, []).append(count)
    finally:
        system.stop()
    return table


def show(table):
    result = {}
    for what, values in table.items():
        base = next(iter(name for name in ("off", "each its own") if name in values))
        for name, own in values.items():
            low, middle, high = quartiles(own)
            line = f"{what:<12} {name:<13} {middle:9.2f} ({low:.2f}–{high:.2f})"
            entry = result.setdefault(what, {}).setdefault(name, {"median": middle, "rounds": len(own)})
            if name != base and len(own) > 1:
                low, middle, high = quartiles(ratios(own, values[base]))
                line += f"  ×{middle:.3f} of {base} ({low:.3f}–{high:.3f})"
                entry["ratio"] = {"median": middle, "q1": low, "q3": high}
            print(line)
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gateway", required=True)
    parser.add_argument("--load", default=str(HERE.parents[1] / "target/release/ringway-load"))
    parser.add_argument("--instructions", action="store_true", help="count instructions, by valgrind")
    parser.add_argument("--hot", action="store_true", help="what one key costs that two cores share")
    parser.add_argument("--parts", action="store_true", help="also what the token costs, and the list")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--secs", type=float, default=1.0)
    parser.add_argument("--requests", type=int, default=1000, help="how many instructions are counted over")
    parser.add_argument("--functions", type=int, default=25, help="how many functions are listed")
    parser.add_argument("--core", type=int, default=0, help="core of the gateways")
    parser.add_argument("--load-core", type=int, default=1, help="core of provider and generator")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ringway-admission-") as scratch:
        directory = Path(scratch)
        log, port = open(directory / "programs.log", "w"), free_port()
        args.upstream = f"127.0.0.1:{port}"
        command = [args.load, "provider", "--log", "0", "--listen", args.upstream]
        provider = start("provider", command if args.hot else on_core(args.load_core, *command), port, log)
        try:
            if args.instructions:
                result = instructions(args, directory, log)
            else:
                result = show((hot if args.hot else cpu)(args, directory, log))
        finally:
            provider.stop()
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
