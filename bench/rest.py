"""The cost of the service when nothing happens, and the kernel's share of it.

python -m bench.rest ROWS POLLS INTERVAL: prints it as JSON, measured in this process's network namespace.
"""

from __future__ import annotations

import json
import sys
import time

from bench import apart
from bench.polls import hash_tables, read_bare
from bench.results import Group, at_most
from bench.service import Service
from bench.table import Table
from bench.timing import in_turns, median


def at_rest(small: bool) -> Group:
    """200 connections, an interval of 10 s, nothing new."""
    rows, polls, interval = (20, 1, 1) if small else (200, 6, 10)
    results = []
    for what in hash_tables():
        printed = apart.run("bench.rest", str(rows), str(polls), str(interval))
        if printed is None:
            raise RuntimeError("the service could not be measured")
        share, bare, peak = json.loads(printed)
        own = share - bare / polls / interval
        results += [
            at_most(f"share of a core, {what}", share * 100, 0.05, " %", 3),
            at_most(
                "our own part : the kernel's walk, if each poll were one", 100 * own * interval / bare, 10, " %", 0
            ),
            at_most(f"peak memory, {what}", peak, 24, " MiB", 1),
        ]
    return Group(f"At rest: {rows} connections, a poll every {interval} s", results)


def main(rows: int, polls: int, interval: int) -> None:
    table = Table()
    table.grow(2 * rows)
    bare = median(in_turns(20, read_bare)[0]).cpu
    with Service("json", f"{interval}s") as service:
        # The second and the third poll find that nothing happens. Of the next six, one reads the tables.
        service.polls(2)
        cpu, begin = service.cpu(), time.monotonic()
        service.polls(polls)
        share = (service.cpu() - cpu) / (time.monotonic() - begin)
        peak = service.peak_memory()
    table.close()
    print(json.dumps([share, bare, peak]))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
