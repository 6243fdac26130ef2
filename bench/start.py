"""The start of the service: from exec() to READY=1, on an empty state and on one that it resumes.

python -m bench.start ROWS ROUNDS: prints it as JSON, measured in this process's network namespace.
"""

from __future__ import annotations

import json
import sys
import tempfile

from bench import apart
from bench.journal import Journal
from bench.results import Group, Result, at_most
from bench.service import Service
from bench.table import Table
from bench.timing import median
from tcpnewconn.kernel import sockdiag


def started(small: bool) -> Group:
    """CPU time until READY=1 with 200 and with 100,000 rows in the state."""
    results = []
    for rows, rounds, limit in ((20, 1, 0.25), (200, 1, 1)) if small else ((200, 7, 0.25), (100_000, 3, 1)):
        printed = apart.run("bench.start", str(rows), str(rounds))
        if printed is None:
            raise RuntimeError("the start could not be measured")
        first, again, wall = json.loads(printed)
        results += [
            at_most(f"CPU time, {rows:,} rows in the state", again, limit, " s", beside=f"elapsed {wall:.2f} s"),
            Result(f"CPU time of a first start, {rows:,} rows", f"{first:.2f} s"),
        ]
    return Group("From the start to READY=1", results)


def main(rows: int, rounds: int) -> None:
    table, journal = Table(), Journal()
    table.grow(rows)
    with tempfile.TemporaryDirectory(prefix="tcpnewconn-bench-") as place, sockdiag.open_notifications() as kept:
        with Service(summarized=True, place=place, kept=kept) as service:
            first = service.start
        again = []
        for _ in range(rounds):
            with Service(summarized=True, place=place, kept=kept) as service:
                again.append(service.start)
    table.close()
    journal.entries()
    print(json.dumps([first.cpu, median(again).cpu, median(again).wall]))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
