"""The ledger's cost: adding up the journal's entries, and joining the ledgers of a fleet."""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bench.results import Group, Result, at_most
from tests.support import journal_files, ledgers

_START = 1_795_600_000
_TEN_MINUTES = 600
_PORTS = {22: "ssh.service", 80: "nginx.service", 443: "nginx.service", 5432: "postgresql.service"}
# The fields that journald adds to each entry.
_TRUSTED = {
    "SYSLOG_IDENTIFIER": "tcpnewconn",
    "_PID": "123",
    "_UID": "998",
    "_GID": "998",
    "_COMM": "tcpnewconn",
    "_EXE": "/usr/bin/python3.13",
    "_CMDLINE": "/usr/bin/python3 /usr/bin/tcpnewconn",
    "_CAP_EFFECTIVE": "0",
    "_SELINUX_CONTEXT": "unconfined",
    "_SYSTEMD_CGROUP": "/system.slice/tcpnewconn.service",
    "_SYSTEMD_UNIT": "tcpnewconn.service",
    "_SYSTEMD_SLICE": "system.slice",
    "_SYSTEMD_INVOCATION_ID": "c" * 32,
    "_HOSTNAME": "web1",
    "_RUNTIME_SCOPE": "system",
}


class Measured(NamedTuple):
    """Seconds, seconds of CPU time; MiB: the peak with mapped files, and the process's own memory at its end."""

    wall: float
    cpu: float
    peak: float
    own: float


def added_up(small: bool) -> Group:
    """A backlog in one update; then a host at 5 connections per second, every ten minutes, on top of it."""
    backlog, updates = (2_000, 2) if small else (300_000, 6)
    with tempfile.TemporaryDirectory(prefix="tcpnewconn-bench-") as scratch:
        place = Path(scratch)
        chance = random.Random(1)
        entries = _entries(chance)
        _log(place, entries, backlog)
        first = _updated(place)
        per_second = backlog / first.cpu
        results = [
            Result(
                "entries added up per second and core",
                f"{per_second:,.0f} ({backlog:,} in {first.wall:.1f} s, CPU {first.cpu:.1f} s)",
                "at least 50,000",
                per_second >= 50_000,
            ),
            Result(
                "memory of that",
                f"{first.own:.0f} MiB (peak with mapped journal files: {first.peak:.0f} MiB)",
            ),
        ]
        costs = []
        for _ in range(updates):
            _log(place, entries, 5 * _TEN_MINUTES if not small else 50)
            costs.append(_updated(place).cpu)
        share = statistics.median(costs) / _TEN_MINUTES * 100
        results.append(
            at_most(
                "a host at 5 connections per second", share, 0.1, " % of a core", 3, f"{costs[0]:.2f} s per ten minutes"
            )
        )
        counted = ledgers.connections_in(place / "ledgers/web1.db")
        logged = backlog + updates * (50 if small else 5 * _TEN_MINUTES)
        results.append(Result("entries counted", f"{counted:,} of {logged:,}", "all", counted == logged))
        results.append(
            Result("size of the ledger", f"{(place / 'ledgers/web1.db').stat().st_size / (1 << 20):.1f} MiB")
        )
    return Group("The ledger: entries of the journal added up", results)


def _entries(chance: random.Random) -> Iterator[tuple[int, dict[str, str]]]:
    """Connections of 2,000 clients to four ports, five a second, without an end."""
    number = 0
    while True:
        source, source_port = f"10.0.{chance.randrange(8)}.{chance.randrange(1, 251)}", chance.randrange(32768, 61000)
        port, unit = chance.choice(list(_PORTS.items()))
        yield (
            (_START + number // 5) * 1_000_000 + number % 5,
            {
                "MESSAGE": f"New connection: {source}:{source_port} -> 10.0.0.5:{port}",
                "MESSAGE_ID": "74ba465b9f4e456585146b89bb95f0dc",
                "PRIORITY": "6",
                "EVENT_ACTION": "connection-opened",
                "EVENT_CATEGORY": "network",
                "EVENT_TYPE": "connection,start",
                "EVENT_OUTCOME": "success",
                "SOURCE_ADDRESS": source,
                "SOURCE_PORT": str(source_port),
                "DESTINATION_ADDRESS": "10.0.0.5",
                "DESTINATION_PORT": str(port),
                "NETWORK_TRANSPORT": "tcp",
                "NETWORK_TYPE": "ipv4",
                "NETWORK_DIRECTION": "ingress",
                "NETWORK_COMMUNITY_ID": f"1:{uuid.UUID(int=chance.getrandbits(128)).hex[:27]}=",
                "NETWORK_CONNECTION_STATE": "established",
                "USER_ID": "33",
                "USER_NAME": "www-data",
                "OBJECT_SYSTEMD_UNIT": unit,
                "TCPNEWCONN_DETECTED_BY": "notification",
                "TCPNEWCONN_CONNECTION_ID": f"{'d' * 32}-4026532246-{number:x}",
                **_TRUSTED,
            },
        )
        number += 1


def _log(place: Path, entries: Iterator[tuple[int, dict[str, str]]], count: int) -> None:
    found = [next(entries) for _ in range(count)]
    # Five entries a second: their number is in their time.
    first = (found[0][0] // 1_000_000 - _START) * 5
    journal_files.write(place / "journal/remote-web1.journal", found, first)


def _updated(place: Path) -> Measured:
    return measured(
        [
            "ledger",
            "update",
            "--directory",
            str(place / "journal"),
            "--ledger",
            str(place / "ledgers"),
            "--config",
            os.devnull,
        ]
    )


def joined(small: bool) -> Group:
    """The page of a fleet by the model in tests/support/ledgers.py."""
    hosts, edges = (6, 60) if small else (1_000, 5_000)
    with tempfile.TemporaryDirectory(prefix="tcpnewconn-bench-", dir="/var/tmp") as scratch:
        paths = ledgers.fleet(Path(scratch) / "fleet", hosts, edges)
        page = Path(scratch) / "page.html"
        made = measured(["report", "--output", "html", "--ledger", *map(str, paths)], output=page)
        counted = [ledgers.edges_in(path) for path in (paths[0], paths[-1])]
        size = page.stat().st_size / (1 << 20)
    return Group(
        f"The page of {hosts:,} ledgers of {min(counted):,} edges",
        [
            at_most("elapsed time", made.wall, 60, " s", 1, f"CPU {made.cpu:.1f} s"),
            at_most("peak memory", made.peak, 1024, " MiB", 0),
            Result("size of the page", f"{size:.2f} MiB"),
        ],
    )


# ru_maxrss of a child that was not forked but spawned begins with its parent's.
_WITH_PEAK = """
import re, sys
from tcpnewconn import cli
status = cli.main()
said = open("/proc/self/status").read()
print(*(re.search(name + ":\\s+(\\d+) kB", said)[1] for name in ("VmHWM", "RssAnon")), file=sys.stderr)
sys.exit(status)
"""


def measured(arguments: list[str], output: Path | None = None) -> Measured:
    """A run of the program from start to exit."""
    with open(output or os.devnull, "wb") as out, tempfile.TemporaryFile("w+") as said:
        began = time.perf_counter()
        child = subprocess.Popen([sys.executable, "-c", _WITH_PEAK, *arguments], stdout=out, stderr=said)
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - began
        said.seek(0)
        lines = said.read().splitlines()
    if status != 0:
        raise RuntimeError(f"{' '.join(arguments[:4])}: exit status {os.waitstatus_to_exitcode(status)}: {lines[:3]}")
    peak, own = (int(size) / 1024 for size in lines[-1].split())
    return Measured(wall, usage.ru_utime + usage.ru_stime, peak, own)
