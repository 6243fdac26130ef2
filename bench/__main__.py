"""python -m bench [--small] [GROUP ...]: measure, and print the results beside their goals. As root."""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import sys
from collections.abc import Callable

from bench import (
    apart,
    attribution,
    clickhouse,
    containers,
    cost,
    curves,
    journald,
    ledger,
    load,
    metrics,
    namespaces,
    owners,
    peers,
    plain,
    polls,
    rest,
    start,
)
from bench.results import Group, dumps, loads, printed

GROUPS: dict[str, Callable[[bool], Group]] = {
    "poll": polls.compared,
    "linear": polls.linear,
    "little": polls.little,
    "memory": cost.memory,
    "new": cost.new,
    "notified": cost.notified,
    "ended": cost.ended,
    "attribution": attribution.compared,
    "owners": owners.owners,
    "callers": owners.peers,
    "short": plain.shares,
    "recorded": plain.throughput,
    "rest": rest.at_rest,
    "namespaces": namespaces.at_rest,
    "ten-namespaces": containers.at_a_time,
    "containers": containers.come_and_go,
    "start": start.started,
    "metrics": metrics.written,
    "sustained": load.sustained,
    "journald": journald.logged,
    "load": load.from_another_host,
    "loopback": load.over_loopback,
    "delay": load.delay,
    "connection": peers.connection,
    "peers": peers.compared,
    "growth": curves.growth,
    "ledger": ledger.added_up,
    "fleet": ledger.joined,
    "clickhouse": clickhouse.events,
    "clickhouse-year": clickhouse.year,
}
# What the kernel records has the process ids of the host.
WITH_PIDS = {"short", "recorded"}
# A booted system has its own namespaces; the engine is reached over the loopback interface.
NOT_APART = {"journald", "owners", "callers", "clickhouse", "clickhouse-year"}


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench", description="Measures, and prints the results beside their goals.")
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"one or more of: {' '.join(GROUPS)}; default: all")
    parser.add_argument("--small", action="store_true", help="tiny sizes: shows that the bench runs, measures nothing")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        print(dumps(GROUPS[options.inside](options.small)))
        return 0
    unknown = set(options.groups) - set(GROUPS)
    if unknown:
        parser.error(f"no such group: {' '.join(sorted(unknown))}")
    if os.geteuid() != 0:
        print("bench: run as root: it creates network namespaces", file=sys.stderr)
        return 1
    print(_machine(), flush=True)
    failed = False
    for name in options.groups or GROUPS:
        small = ["--small"] if options.small else []
        group = apart.run("bench", "--inside", name, *small, apart=name not in NOT_APART, pids=name not in WITH_PIDS)
        if group is None:
            print(f"bench: {name} could not be measured; the error is above", file=sys.stderr)
            failed = True
        else:
            print("\n" + printed(loads(group)), end="", flush=True)
    return int(failed)


def _machine() -> str:
    with open("/proc/cpuinfo") as file:
        models = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    now = datetime.datetime.now(datetime.timezone.utc)
    return (
        f"{now:%Y-%m-%d %H:%M} UTC, Linux {platform.release()}, Python {platform.python_version()}, "
        f"{len(models)} x {models[0] if models else platform.machine()}, load average {os.getloadavg()[0]:.1f}, "
        f"{_sockets():,} TCP sockets elsewhere on this machine (the kernel walks over them whenever /proc/net/tcp is read)"
    )


def _sockets() -> int:
    """TCP sockets over IPv4 in all network namespaces: the kernel keeps them in one table."""
    with open("/proc/slabinfo") as file:
        return sum(int(row.split()[1]) for row in file if row.startswith("TCP "))


if __name__ == "__main__":
    sys.exit(main())
