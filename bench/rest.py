"""What the service costs when nothing happens, and how much of that is the kernel's.

python -m bench.rest ROWS READS INTERVAL: prints it as JSON, measured in this process's network namespace.
"""

from __future__ import annotations

import json
import sys
import time

from bench import apart
from bench.figures import Figure, Group, at_most
from bench.reads import hash_tables
from bench.service import Service
from bench.table import Table
from bench.timing import Cost, in_turns, median, of_call

_TABLES = ("/proc/self/net/tcp", "/proc/self/net/tcp6")


def _bare() -> Cost:
    """Both tables, read and thrown away: what the kernel takes to show them, and a loop around it."""

    def read() -> None:
        for name in _TABLES:
            with open(name, "rb", buffering=0) as file:
                while file.read(65536):
                    pass

    return of_call(read)


def at_rest(small: bool) -> Group:
    """200 connections, an interval of 10 s, nothing new."""
    rows, reads, interval = (20, 1, 1) if small else (200, 6, 10)
    figures = []
    for what in hash_tables():
        printed = apart.run("bench.rest", str(rows), str(reads), str(interval))
        if printed is None:
            raise RuntimeError("the service could not be measured")
        share, bare, peak = json.loads(printed)
        figures += [
            at_most(f"share of a core, {what}", share * 100, 0.05, " %", 3),
            Figure("of that, the kernel's showing of the tables", f"{min(1.0, bare / interval / share):.0%}"),
            at_most(f"peak memory, {what}", peak, 24, " MiB", 1),
        ]
    return Group(f"At rest: {rows} connections, a read every {interval} s", figures)


def main(rows: int, reads: int, interval: int) -> None:
    table = Table()
    table.grow(2 * rows)
    bare = median(in_turns(20, _bare)[0]).cpu
    with Service("json", f"{interval}s") as service:
        # The second read is the first in which nothing is new.
        service.reads(1)
        cpu, begin = service.cpu(), time.monotonic()
        service.reads(reads)
        share = (service.cpu() - cpu) / (time.monotonic() - begin)
        peak = service.peak_memory()
    table.close()
    print(json.dumps([share, bare, peak]))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
